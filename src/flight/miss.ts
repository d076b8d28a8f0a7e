// One miss: a flight and what its readers share, and the answer that each of them gets.
import type { Entry } from '../cache/entry.ts'
import type { Completion, Usage } from '../completion/completion.ts'
import type { FoldedAnswer } from '../completion/delta.ts'
import type { Reader } from '../completion/encode.ts'
import { GatewayError, type Problem, problemOf } from '../errors.ts'
import { internalEvent, type Report } from '../events.ts'
import { Flight } from './flight.ts'
import { type GenerateContext, generate, newOutcome, type Outcome, type Work } from './generate.ts'
import { Encodings, type Pipe, type StreamEnd, StreamReader, untilOver } from './reader.ts'

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

export interface WholeAnswer {
  readonly kind: 'whole'
  readonly role: Role
  readonly completion: Completion
  readonly estimated: boolean
  /** The entry to cache; null if the answer must not be stored. */
  readonly entry: Entry | null
  readonly stored: boolean
  readonly summary: MissSummary
}

export interface StreamedAnswer {
  readonly kind: 'stream'
  readonly role: Role
  readonly body: ReadableStream<Uint8Array>
  /** Never rejects. */
  readonly ended: Promise<{ readonly end: StreamEnd; readonly summary: MissSummary }>
  readonly summary: MissSummary
}

export type MissAnswer =
  /** The reader left before it got anything. */
  | { readonly kind: 'left'; readonly summary: MissSummary }
  | { readonly kind: 'problem'; readonly problem: Problem; readonly summary: MissSummary }
  | WholeAnswer
  | StreamedAnswer

export interface MissOptions {
  /** Whether the first reader requested a stream. */
  readonly stream: boolean
  /** Whether the load is finished without readers. */
  readonly keepGoing: boolean
  /** The last purge of it before the load started, in unix ms. */
  readonly purgedAt: number
  /** Whether KV may have an answer that was not there when the reader looked. */
  readonly looksAgain: boolean
}

export interface MissContext {
  /** The context to generate this work; `signal` aborts the flight. */
  readonly generate: (work: Work, stream: boolean, signal: AbortSignal) => GenerateContext
  /** Up to when, in unix ms, answers to this work are void. */
  readonly purgedAt: (work: Work) => number
  /** Whether a read of KV has failed lately in this isolate. */
  readonly kvIsUnsure: () => boolean
  /** Stores a copy of an answer that is stored under another key. */
  readonly storeCopy: (entry: Entry) => void
  readonly pipe: () => Pipe
  readonly now: () => number
  readonly report: Report
}

/** A reader that joins. */
export interface Joining {
  readonly role: 'leader' | 'follower'
  readonly reader: Reader
  /** Aborted when the reader disconnects. */
  readonly left: AbortSignal
  /** Whether its stream is passed on by another isolate (reader.ts). */
  readonly isRemote: boolean
}

export class Miss {
  readonly flight: Flight
  readonly work: Work
  readonly #outcome: Outcome = newOutcome()
  readonly #encodings: Encodings
  readonly #pipe: () => Pipe
  readonly #report: Report

  constructor(work: Work, options: MissOptions, { generate: contextOf, ...context }: MissContext) {
    this.work = work
    this.#pipe = context.pipe
    this.#report = context.report
    this.flight = new Flight(
      (push, signal) => {
        const given = contextOf(work, options.stream, signal)
        return generate(work, bounded(given, work, options), this.#outcome, push)
      },
      { keepGoing: options.keepGoing, now: context.now },
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

  /** Adds a reader. Never rejects: a failure before the first text becomes a problem. */
  async join(joining: Joining): Promise<MissAnswer> {
    try {
      const answer = await (joining.reader.shape.stream
        ? this.#stream(joining)
        : this.#whole(joining))
      if (!joining.left.aborted) return answer
    } catch (error) {
      if (!joining.left.aborted) {
        this.#reportInternal(error)
        return { kind: 'problem', problem: problemOf(error), summary: this.summary }
      }
    }
    return { kind: 'left', summary: this.summary }
  }

  async #stream({ role, reader, left, isRemote }: Joining): Promise<MissAnswer> {
    const stream = new StreamReader({
      flight: this.flight,
      encoding: this.#encodings.of(reader),
      shape: reader.shape,
      pipe: this.#pipe(),
      isRemote,
      onError: (error) => this.#reportInternal(error),
    })
    const leave = () => stream.leave()
    left.addEventListener('abort', leave, { once: true })
    if (left.aborted) leave()
    const ended = stream.ended.then((end) => {
      left.removeEventListener('abort', leave)
      return { end, summary: this.summary }
    })
    await stream.begun
    return {
      kind: 'stream',
      role: this.#roleOf(role),
      body: stream.body,
      ended,
      summary: this.summary,
    }
  }

  async #whole({ role, left }: Joining): Promise<MissAnswer> {
    await untilOver(this.flight, left)
    if (this.flight.state === 'failed') throw this.flight.error
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
function bounded(
  given: GenerateContext,
  { lifetime }: Work,
  { purgedAt, looksAgain }: MissOptions,
): GenerateContext {
  const { recheckKv, store } = given
  return {
    ...given,
    recheckKv:
      lifetime === null || recheckKv === null || !looksAgain
        ? null
        : async (work) => {
            const entry = await recheckKv(work)
            return entry !== null && entry.requested_at > purgedAt ? entry : null
          },
    store: (entry) => entry.requested_at > purgedAt && store(entry),
  }
}

export function wholeAnswer(
  role: Role,
  { completion, estimated }: FoldedAnswer,
  entry: Entry | null,
  stored: boolean,
  summary: MissSummary,
): WholeAnswer {
  return { kind: 'whole', role, completion, estimated, entry, stored, summary }
}
