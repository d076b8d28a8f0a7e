// Flights in process: what objects/flight.ts does, without the platform. Arguments and results
// are cloned as an RPC call would clone them, except streams.

import type { Entry } from '../../src/cache/entry.ts'
import type { Reader } from '../../src/completion/encode.ts'
import type { Event } from '../../src/events.ts'
import type { FlightClient } from '../../src/flight/client.ts'
import {
  KeyFlights,
  type MissAnswer,
  type MissContext,
  type SharedWork,
} from '../../src/flight/flights.ts'
import type { Work } from '../../src/flight/generate.ts'
import { START } from './app.ts'
import { connectionTo, routeContext, workOf } from './upstreams.ts'

export class LocalFlights implements FlightClient {
  /** The calls made so far. */
  readonly calls: ('join' | 'refresh')[] = []
  readonly #context: MissContext
  readonly #flights = new Map<string, KeyFlights>()

  constructor(context: MissContext) {
    this.#context = context
  }

  async join(work: SharedWork, reader: Reader): Promise<MissAnswer> {
    this.calls.push('join')
    const left = new AbortController()
    work.presence
      ?.getReader()
      .read()
      .then(() => left.abort())
    const answer = await this.#of(work).join(copied(work), structuredClone(reader), left)
    return answer.kind === 'stream' ? answer : structuredClone(answer)
  }

  async refresh(work: SharedWork): Promise<void> {
    this.calls.push('refresh')
    this.#of(work).refresh(copied(work))
  }

  pipe() {
    return new TransformStream<Uint8Array, Uint8Array>()
  }

  #of({ key }: SharedWork): KeyFlights {
    const flights = this.#flights.get(key) ?? new KeyFlights(this.#context)
    this.#flights.set(key, flights)
    return flights
  }
}

function copied({ presence, ...work }: SharedWork): SharedWork {
  return { ...structuredClone(work), presence }
}

/** A typical miss. */
export const work: Work = workOf()

/** The context of a flight with one scripted upstream. Events and stored entries are recorded. */
export function missSetup(respond: (call: number) => Response | Promise<Response>) {
  const clock = { ms: START }
  const events: Event[] = []
  const stored: Entry[] = []
  /** Copies of existing entries stored again. */
  const copies: Entry[] = []
  const state = {
    calls: 0,
    looks: 0,
    /** The entry that KV holds. */
    kept: null as Entry | null,
    /** The time of the last purge that this isolate has read. */
    purgedAt: 0,
    /** Throws to refuse a reservation. */
    reserve: async (_visitor: string | null): Promise<void> => {},
  }
  const connection = connectionTo('main', async () => await respond(state.calls++))
  let ids = 0
  const context: MissContext = {
    now: () => clock.ms,
    report: (event) => events.push(event),
    purgedAt: () => state.purgedAt,
    storeCopy: (entry) => copies.push(entry),
    generate: ({ requestId, visitor }, stream, signal) => ({
      route: routeContext([connection], {
        requestId,
        stream,
        signal,
        now: () => clock.ms,
        report: (event) => events.push(event),
        callsAtOnce: 1,
        reserve: async () => {
          await state.reserve(visitor)
          return { accepted() {}, settle() {} }
        },
      }),
      newId: () => `cmpl-${'a'.repeat(24)}${String(++ids).padStart(4, '0')}`,
      recheckKv: async () => {
        state.looks += 1
        return state.kept
      },
      store: (entry) => {
        stored.push(entry)
        return true
      },
      storeCopy: (entry) => copies.push(entry),
    }),
  }
  return { clock, events, stored, copies, state, context }
}

/** Waits until all promises that do not depend on the test have settled. */
export async function untilIdle(): Promise<void> {
  for (let i = 0; i < 10; i++) await new Promise<void>((resolve) => setImmediate(resolve))
}
