// The flights of one key, one at a time. Decides whether a reader joins the running flight, gets
// the answer of the last one, or starts a new one. Runs in one isolate, or in a Durable Object that
// all isolates share (objects/flight.ts): the values of the types below may cross its RPC.

import { type Entry, isFresh } from '../cache/entry.ts'
import type { Completion, Usage } from '../completion/completion.ts'
import type { FoldedAnswer } from '../completion/delta.ts'
import type { Reader } from '../completion/encode.ts'
import { GatewayError, type Problem, problemOf } from '../errors.ts'
import { internalEvent, type Report } from '../events.ts'
import { Flight } from './flight.ts'
import {
  entryFor,
  type GenerateContext,
  generate,
  newOutcome,
  type Outcome,
  type Work,
} from './generate.ts'
import { Encodings, Ending, type StreamEnd, streamAnswer } from './stream.ts'

/** How a reader got its answer. */
export type Role =
  /** It started the load. */
  | 'leader'
  /** It joined a running load. */
  | 'follower'
  /** The load had finished, and its answer was still in memory. */
  | 'late'
  /** The answer was found in KV before an upstream was called. */
  | 'found'

/** The fields of an answer for the log. */
export interface MissSummary {
  readonly upstream: string | null
  readonly attempts: number
  /** Null until it is known, and at the start of a stream. */
  readonly usage: Usage | null
}

export const NOTHING_SENT: MissSummary = { upstream: null, attempts: 0, usage: null }

export type MissAnswer =
  /** The reader left before it got anything. */
  | { readonly kind: 'left'; readonly summary: MissSummary }
  | { readonly kind: 'problem'; readonly problem: Problem; readonly summary: MissSummary }
  | {
      readonly kind: 'whole'
      readonly role: Role
      readonly completion: Completion
      readonly estimated: boolean
      /** The entry to cache; null if the answer must not be stored. */
      readonly entry: Entry | null
      readonly stored: boolean
      readonly summary: MissSummary
    }
  | {
      readonly kind: 'stream'
      readonly role: Role
      readonly body: ReadableStream<Uint8Array>
      /** Reports how the body ended; null if `onEnd` reports it. */
      readonly ending: ReadableStream<Uint8Array> | null
      readonly summary: MissSummary
    }

/** A miss sent to the flight of its key. */
export interface SharedWork extends Work {
  /** The latest purge of it that the calling isolate has seen, in unix ms. */
  readonly purgedAt: number
  /**
   * An empty stream that ends when the reader leaves, even before there is a body to cancel. Null
   * if the load continues without readers.
   */
  readonly presence: ReadableStream<Uint8Array> | null
}

/** Whether a load for this work is cancelled when its last reader has left. */
export function stopsWithReaders({ lifetime, abandon }: Work): boolean {
  return lifetime === null || abandon === 'stop'
}

/** One reader of a flight. */
export interface ReaderHandle {
  readonly role: 'leader' | 'follower'
  /** Aborted when the reader's disconnect is noticed, on either side. */
  readonly left: AbortController
  /** Called when a stream ends; not for a complete answer. */
  readonly onEnd: (end: StreamEnd) => void
}

export interface MissOptions {
  /** Whether the load is finished without readers. */
  readonly keepGoing: boolean
  /** The last purge of it before the load started, in unix ms. */
  readonly purgedAt: number
}

export interface MissContext {
  /** The context to generate this work; `signal` aborts the flight. */
  readonly generate: (work: Work, stream: boolean, signal: AbortSignal) => GenerateContext
  /** Up to when, in unix ms, answers to this work are void. */
  readonly purgedAt: (work: Work) => number
  /** Stores a copy of an answer that is stored under another key. */
  readonly storeCopy: (entry: Entry) => void
  readonly now: () => number
  readonly report: Report
}

/** How many flights a reader joins at most if their results do not apply to it. */
const MAX_JOINS = 3

export class KeyFlights {
  readonly #context: MissContext
  #miss: SharedMiss | null = null
  /** The answer of the last flight; the rest of the flight is released. */
  #last: Entry | null = null

  constructor(context: MissContext) {
    this.#context = context
  }

  /**
   * Answers one reader from the running flight, the last one or a new one. Never throws.
   *
   * @param left aborted when the reader disconnects
   */
  async join(work: SharedWork, reader: Reader, left: AbortController): Promise<MissAnswer> {
    for (let joins = 1; ; joins++) {
      const place = this.#place(work, reader.shape.stream, !stopsWithReaders(work))
      if (place.role === 'late') return this.#late(work, place.entry)
      const { miss, role } = place
      if (miss.work.storedUnder !== work.storedUnder) this.#copyWhenOver(work, miss)
      const ending = reader.shape.stream ? new Ending() : null
      const answer = await miss.join(reader, { role, left, onEnd: (end) => ending?.tell(end) })
      const isLast = role === 'leader' || joins === MAX_JOINS
      if (!isLast && isForLeaderOnly(answer, miss.work, work)) continue
      if (answer.kind === 'stream') return { ...answer, ending: ending?.stream ?? null }
      if (answer.kind !== 'whole' || answer.entry === null) return answer
      return { ...answer, entry: entryFor(work, answer.entry) }
    }
  }

  /** Starts a flight without readers, unless there is one or its answer. It is always finished. */
  refresh(work: SharedWork): void {
    this.#place(work, false, true)
  }

  #place(work: SharedWork, stream: boolean, keepGoing: boolean): Place {
    const purgedAt = Math.max(work.purgedAt, this.#context.purgedAt(work))
    const current = this.#miss
    if (current?.flight.state === 'running' && current.serves(work, purgedAt)) {
      return { role: 'follower', miss: current }
    }
    const entry = current?.entry ?? this.#last
    const isUsable =
      entry !== null && isFresh(entry, this.#context.now()) && entry.requested_at > purgedAt
    if (isUsable && !work.forced) return { role: 'late', entry }
    const miss = new SharedMiss(work, stream, { keepGoing, purgedAt }, this.#context)
    this.#miss = miss
    this.#last = null
    miss.flight.over.then(() => this.#release(miss))
    return { role: 'leader', miss }
  }

  /** The entry may be another page's with the same text, or an earlier version of this page. */
  #late(work: SharedWork, entry: Entry): MissAnswer {
    const own = entryFor(work, entry)
    if (work.source !== null) this.#context.storeCopy(own)
    return wholeAnswer('late', own, own, true, NOTHING_SENT)
  }

  async #copyWhenOver(work: SharedWork, miss: SharedMiss): Promise<void> {
    await miss.flight.over
    if (miss.entry !== null) this.#context.storeCopy(entryFor(work, miss.entry))
  }

  #release(miss: SharedMiss): void {
    if (miss !== this.#miss) return
    this.#miss = null
    this.#last = miss.entry
  }
}

/** Where a reader gets its answer: from a flight, or from the entry of the last one. */
type Place =
  | { readonly role: 'leader' | 'follower'; readonly miss: SharedMiss }
  | { readonly role: 'late'; readonly entry: Entry }

/** Whether a follower must not share this result: its leader's own limit, or an answer from KV. */
function isForLeaderOnly(answer: MissAnswer, leader: Work, own: Work): boolean {
  if (answer.kind === 'problem') {
    const { rateLimit } = answer.problem
    return leader.visitor !== own.visitor && rateLimit !== null && PERSONAL.has(rateLimit.policy)
  }
  return own.forced && answer.kind !== 'left' && answer.role === 'found'
}

/** Limits that apply to a single visitor (budget/budget.ts). */
const PERSONAL: ReadonlySet<string> = new Set(['visitor', 'streams'])

/** One load of a key, with the state its readers share. */
export class SharedMiss {
  readonly flight: Flight
  readonly work: Work
  readonly #outcome: Outcome = newOutcome()
  readonly #encodings: Encodings
  readonly #now: () => number
  readonly #report: Report

  /** @param stream whether the first reader requested a stream */
  constructor(work: Work, stream: boolean, options: MissOptions, context: MissContext) {
    this.work = work
    this.#now = context.now
    this.#report = context.report
    this.flight = new Flight(
      (signal) => {
        const given = context.generate(work, stream, signal)
        return generate(work, bounded(given, work, options.purgedAt), this.#outcome)
      },
      { keepGoing: options.keepGoing, readAhead: work.abandon === 'stop' },
    )
    this.#encodings = new Encodings(this.flight)
  }

  /**
   * Whether this load may answer `work`: a load requested before a purge (unix ms) must not serve a
   * request made after it.
   */
  serves({ requestedAt }: Work, purgedAt: number): boolean {
    return this.work.requestedAt > purgedAt || requestedAt <= purgedAt
  }

  /** The entry of the complete answer; null before that, or if it must not be stored. */
  get entry(): Entry | null {
    return this.#outcome.entry
  }

  get summary(): MissSummary {
    const { upstream, attempts, usage } = this.#outcome
    return { upstream, attempts, usage }
  }

  /** Adds a reader. Never throws: a failure before the first text becomes a problem. */
  async join(reader: Reader, handle: ReaderHandle): Promise<MissAnswer> {
    try {
      return reader.shape.stream ? await this.#stream(reader, handle) : await this.#whole(handle)
    } catch (error) {
      // The reader has left, so this is not an error to report.
      if (handle.left.signal.aborted) return { kind: 'left', summary: this.summary }
      this.#reportInternal(error)
      return { kind: 'problem', problem: problemOf(error), summary: this.summary }
    }
  }

  async #stream(reader: Reader, { role, left, onEnd }: ReaderHandle): Promise<MissAnswer> {
    const texts = this.#encodings.read(reader, left.signal)
    const first = await texts.next()
    left.signal.throwIfAborted()
    const body = streamAnswer(first.done === true ? '' : first.value, texts, reader.shape, {
      now: this.#now,
      onError: (error) => {
        if (!left.signal.aborted) this.#reportInternal(error)
      },
      onEnd: (end) => {
        const how = left.signal.aborted ? 'left' : end
        if (how === 'left') left.abort()
        onEnd(how)
      },
    })
    return { kind: 'stream', role: this.#roleOf(role), body, ending: null, summary: this.summary }
  }

  async #whole({ role, left }: ReaderHandle): Promise<MissAnswer> {
    for await (const _ of this.flight.progress(left.signal));
    left.signal.throwIfAborted()
    const { folded, entry, stored } = this.#outcome
    if (folded === null) throw new TypeError('the flight ended without a complete answer')
    return wholeAnswer(this.#roleOf(role), folded, entry, stored, this.summary)
  }

  #reportInternal(error: unknown): void {
    if (error instanceof GatewayError) return
    this.#report(internalEvent(error, this.work.requestId))
  }

  #roleOf(role: 'leader' | 'follower'): Role {
    return this.#outcome.found ? 'found' : role
  }
}

/**
 * Ignores purged entries in KV and stores no purged answer, since the calling isolate may have seen
 * a purge before the flight. An answer that is not stored is not looked up either.
 */
function bounded(given: GenerateContext, { lifetime }: Work, purgedAt: number): GenerateContext {
  const { recheckKv, store } = given
  return {
    ...given,
    recheckKv:
      lifetime === null || recheckKv === null
        ? null
        : async (work) => {
            const entry = await recheckKv(work)
            return entry !== null && entry.requested_at > purgedAt ? entry : null
          },
    store: (entry) => entry.requested_at > purgedAt && store(entry),
  }
}

function wholeAnswer(
  role: Role,
  { completion, estimated }: FoldedAnswer,
  entry: Entry | null,
  stored: boolean,
  summary: MissSummary,
): MissAnswer {
  return { kind: 'whole', role, completion, estimated, entry, stored, summary }
}
