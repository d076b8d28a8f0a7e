// What a running Worker logs, line by line: everything is searched for the canary key, and tests
// wait for an event instead of sleeping.
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
    for (const look of this.#waiting) look()
  }

  /** All events of one kind so far, of one request if its id is given. */
  all<K extends Event['event']>(kind: K, requestId?: string): Extract<Event, { event: K }>[] {
    return this.events.filter(
      (event): event is Extract<Event, { event: K }> =>
        event.event === kind &&
        (requestId === undefined || ('request_id' in event && event.request_id === requestId)),
    )
  }

  /** The first event, past or to come, that fits. */
  find<E extends Event>(fits: (event: Event) => event is E): Promise<E>
  find(fits: (event: Event) => boolean): Promise<Event>
  find(fits: (event: Event) => boolean): Promise<Event> {
    return new Promise((resolve) => {
      let next = 0
      const look = () => {
        for (; next < this.events.length; next++) {
          const event = this.events[next]
          if (event === undefined || !fits(event)) continue
          this.#waiting.delete(look)
          resolve(event)
          return
        }
      }
      this.#waiting.add(look)
      look()
    })
  }

  /** The line that a request leaves. */
  request(id: string): Promise<RequestEvent> {
    return this.find(
      (event): event is RequestEvent => event.event === 'request' && event.request_id === id,
    )
  }

  /**
   * Lines since the last time that are no event of ours: the runtime's own complaints, such as an
   * uncaught rejection. There must be none that a test does not expect.
   */
  takeRuntimeLines(): string[] {
    return this.#runtimeLines.splice(0)
  }

  /** Ids of requests that were reported more than once; there must be none. */
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
