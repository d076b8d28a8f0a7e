// Flights in process: what objects/flight.ts does, without the platform.

import type { Entry } from '../../src/cache/entry.ts'
import type { FinishReason, Logprobs } from '../../src/completion/completion.ts'
import type { Delta } from '../../src/completion/delta.ts'
import type { Reader } from '../../src/completion/encode.ts'
import type { Event } from '../../src/events.ts'
import type { Load } from '../../src/flight/flight.ts'
import { Flights } from '../../src/flight/flights.ts'
import type { Work } from '../../src/flight/generate.ts'
import { Miss, type MissAnswer, type MissContext } from '../../src/flight/miss.ts'
import { type FetchObject, FlightServer } from '../../src/flight/transport.ts'
import { jsonAnswer, START } from './app.ts'
import { connectionTo, routeContext, workOf } from './upstreams.ts'

/** The flight objects of one context, and the paths of the requests that they got. */
export function localFlights(context: MissContext) {
  const calls: string[] = []
  const objects = new Map<string, FlightServer>()
  const fetchObject: FetchObject = async (name, request) => {
    calls.push(new URL(request.url).pathname)
    const object = objects.get(name) ?? new FlightServer(new Flights(context))
    objects.set(name, object)
    return await object.fetch(request)
  }
  return { calls, fetchObject }
}

/** A typical miss. */
export const work: Work = workOf()

/** The context of a flight with one scripted upstream. Events and stored entries are recorded. */
export function missSetup(
  respond: (call: number) => Response | Promise<Response>,
  upstream = 'main',
) {
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
    kvIsUnsure: false,
    /** Throws to refuse a reservation. */
    reserve: async (_visitor: string | null): Promise<void> => {},
  }
  const connection = connectionTo(upstream, async () => await respond(state.calls++), {
    baseUrl: 'https://main.test/v1',
  })
  let ids = 0
  const context: MissContext = {
    now: () => clock.ms,
    pipe: () => new TransformStream(),
    report: (event) => events.push(event),
    purgedAt: () => state.purgedAt,
    kvIsUnsure: () => state.kvIsUnsure,
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

export const ID = `cmpl-${'a'.repeat(28)}`
export const head: Delta = { kind: 'head', head: { id: ID, created: 1, model: 'm' } }
export const said = (text: string, index = 0, logprobs: Logprobs | null = null): Delta => ({
  kind: 'text',
  index,
  text,
  logprobs,
})
export const finish = (index = 0, reason: FinishReason = 'stop'): Delta => ({
  kind: 'finish',
  index,
  reason,
})
export const usage: Delta = {
  kind: 'usage',
  usage: { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 },
  estimated: false,
}

/** A load that the test controls. It is over when it is aborted. */
export function handed() {
  const over = Promise.withResolvers<void>()
  const state = { begun: 0, signal: new AbortController().signal }
  let push = (_: readonly Delta[]) => {}
  const load: Load = async (given, signal) => {
    state.begun += 1
    state.signal = signal
    push = given
    signal.addEventListener('abort', () => over.reject(signal.reason), { once: true })
    await over.promise
  }
  return {
    load,
    state,
    give: (...deltas: readonly Delta[]) => push(deltas),
    end: () => over.resolve(),
    fail: (error: unknown) => over.reject(error),
  }
}

export const json: Reader = {
  shape: { api: 'completion', as: 'json', stream: false, includeUsage: false },
  resume: null,
}
export const sse: Reader = {
  shape: { api: 'completion', as: 'sse', stream: true, includeUsage: false },
  resume: null,
}
export const bare: Reader = {
  shape: { api: 'completion', as: 'text', stream: true, includeUsage: false },
  resume: null,
}

/** An answer in short: its role and text, the code of its problem, or its kind. */
export function brief(answer: MissAnswer): string {
  if (answer.kind === 'whole') return `${answer.role}: ${answer.completion.choices[0]?.text}`
  return answer.kind === 'problem' ? answer.problem.code : answer.kind
}

/** The body of a stream, or another answer in short. */
export async function textIn(answer: MissAnswer): Promise<string> {
  return answer.kind === 'stream' ? await new Response(answer.body).text() : brief(answer)
}

/** An entry with this text, as a miss makes it. */
export async function entryOf(text: string): Promise<Entry> {
  const { context, stored } = missSetup(() => jsonAnswer(text))
  const options = { stream: false, keepGoing: true, purgedAt: 0, looksAgain: false }
  await new Miss(work, options, context).flight.over
  const [entry] = stored
  if (entry === undefined) throw new TypeError('no entry')
  return entry
}

/** Reads a stream until it ends or fails. Each piece must be complete UTF-8. */
export async function readOut(body: ReadableStream<Uint8Array>) {
  const pieces: string[] = []
  let error: Error | null = null
  try {
    for await (const piece of body) pieces.push(utf8(piece))
  } catch (thrown) {
    error = thrown as Error
  }
  return { pieces, text: pieces.join(''), error }
}

export const utf8 = (bytes: Uint8Array) =>
  new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
