// The log of a gateway, line by line. Everything is searched for the canary key, and tests can wait
// for an event.
import type { Event, RequestEvent } from '../../src/events.ts'
import { recordOutput } from './canary.ts'

export class WorkerLog {
  readonly events: Event[] = []
  readonly #waiting = new Set<() => void>()
  #runtimeLines: string[] = []

  add(line: string): void {
    recordOutput(line)
    const event = eventIn(line)
    if (event === null) this.#runtimeLines.push(line)
    else this.events.push(event)
    for (const check of this.#waiting) check()
  }

  /** All events of one kind so far, optionally of one request. */
  all<K extends Event['event']>(kind: K, requestId?: string): Extract<Event, { event: K }>[] {
    return this.events.filter(
      (event): event is Extract<Event, { event: K }> =>
        event.event === kind &&
        (requestId === undefined || ('request_id' in event && event.request_id === requestId)),
    )
  }

  /** The part of the cache in each completion so far. */
  caches(): RequestEvent['cache'][] {
    const completions = this.all('request').filter(({ route }) => route === 'completions')
    return completions.map(({ cache }) => cache)
  }

  /** Waits for the first event, past or future, that matches. */
  find<E extends Event>(matches: (event: Event) => event is E): Promise<E>
  find(matches: (event: Event) => boolean): Promise<Event>
  find(matches: (event: Event) => boolean): Promise<Event> {
    return new Promise((resolve) => {
      let next = 0
      const check = () => {
        for (; next < this.events.length; next++) {
          const event = this.events[next]
          if (event === undefined || !matches(event)) continue
          this.#waiting.delete(check)
          resolve(event)
          return
        }
      }
      this.#waiting.add(check)
      check()
    })
  }

  /** Waits for the event of a request. */
  request(id: string): Promise<RequestEvent> {
    return this.find(
      (event): event is RequestEvent => event.event === 'request' && event.request_id === id,
    )
  }

  /**
   * Takes the lines since the last call that are not our events: messages of the runtime, such as
   * uncaught exceptions. Tests expect none.
   */
  takeRuntimeLines(): string[] {
    return this.#runtimeLines.splice(0)
  }

  /** Ids of requests that were reported more than once. */
  reportedTwice(): string[] {
    const ids = this.all('request').map(({ request_id }) => request_id)
    return ids.filter((id, i) => ids.indexOf(id) !== i)
  }
}

function eventIn(line: string): Event | null {
  try {
    const value: unknown = JSON.parse(line)
    const isEvent = typeof value === 'object' && value !== null && 'event' in value
    return isEvent ? (value as Event) : null
  } catch {
    return null
  }
}
