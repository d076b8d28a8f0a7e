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
import { type ConnectOptions, connect } from '../../src/upstream/connection.ts'
import { START } from './app.ts'

/** An ordinary upstream of the `completions` wire. */
export function connectionTo(name: string): ConnectOptions {
  return {
    name,
    wire: 'completions',
    baseUrl: `https://${name}.test`,
    auth: 'none',
    key: null,
    unsupported: new Set(),
    stream: 'always',
    firstByteMs: 30_000,
    idleMs: 30_000,
    deadlineMs: 60_000,
    retries: 0,
    maxOutputBytes: 1_048_576,
    maxTokensField: 'max_tokens',
    streamUsage: true,
    path: null,
  }
}

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
export const work: Work = {
  request: {
    model: 'default',
    prompt_id: null,
    prompts: ['Once'],
    system: null,
    route: [{ upstream: 'main', upstream_model: 'model-1' }],
    parameters: {},
    max_tokens: 16,
    n: 1,
  },
  key: `c1:${'0a'.repeat(32)}`,
  storedUnder: `c1:${'0a'.repeat(32)}`,
  source: null,
  names: ['model:default'],
  requestedAt: START,
  lifetime: { freshSeconds: 100, staleSeconds: 0 },
  abandon: 'finish',
  forced: false,
  requestId: 'req_1',
  visitor: 'h:ada',
}

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
  const send = async () => await respond(state.calls++)
  const connection = connect(connectionTo('main'), { http: send, demo: send })
  let ids = 0
  const context: MissContext = {
    now: () => clock.ms,
    report: (event) => events.push(event),
    purgedAt: () => state.purgedAt,
    storeCopy: (entry) => copies.push(entry),
    generate: ({ requestId, visitor }, stream, signal) => ({
      route: {
        requestId,
        connections: new Map([['main', connection]]),
        stream,
        signal,
        now: () => clock.ms,
        random: () => 0.5,
        wait: async () => {},
        report: (event) => events.push(event),
        callsAtOnce: 1,
        reserve: async () => {
          await state.reserve(visitor)
          return { accepted() {}, settle() {} }
        },
      },
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
