// A miss, answered: one reader aboard a flight, whether the flight is this isolate's own or is
// shared by all of them in a Durable Object. The values here may cross the object's door.
import { Encodings, type Reader, type StreamEnd, streamAnswer } from './answer.ts'
import type { Entry } from './cache/entry.ts'
import { Flight } from './cache/flight.ts'
import type { Completion, Usage } from './completion/completion.ts'
import { GatewayError, type Problem, problemOf } from './errors.ts'
import { internalEvent, type Report } from './events.ts'
import { type GenerateContext, generate, newOutcome, type Outcome, type Work } from './generate.ts'

/** How a reader came to its answer. */
export type Role =
  /** It was the first, the upstream was asked for it. */
  | 'leader'
  /** It joined a load under way. */
  | 'follower'
  /** The load was over, its answer still at hand. */
  | 'late'
  /** KV had the answer after all. */
  | 'found'

/** The log's part of an answer. */
export interface MissSummary {
  readonly upstream: string | null
  readonly attempts: number
  /** Null until it is known, and for a stream. */
  readonly usage: Usage | null
}

export type MissAnswer =
  /** The reader went before it had anything. */
  | { readonly kind: 'left'; readonly summary: MissSummary }
  | { readonly kind: 'problem'; readonly problem: Problem; readonly summary: MissSummary }
  | {
      readonly kind: 'whole'
      readonly role: Role
      readonly completion: Completion
      readonly estimated: boolean
      /** What may be remembered of it. */
      readonly entry: Entry | null
      readonly stored: boolean
      readonly summary: MissSummary
    }
  | {
      readonly kind: 'stream'
      readonly role: Role
      readonly body: ReadableStream<Uint8Array>
      /** Tells how the body ended; null where its reader is told otherwise. */
      readonly ending: ReadableStream<Uint8Array> | null
      readonly summary: MissSummary
    }

/** A miss on its way to its key's flight. */
export interface SharedWork extends Work {
  /** Up to when, in unix ms, it is void as far as the asking isolate knows. */
  readonly purgedAt: number
  /**
   * Says nothing and ends with the reader, also one who goes before there is a body to cancel. Null
   * where nobody has to know, as the load goes on without readers.
   */
  readonly presence: ReadableStream<Uint8Array> | null
}

/** Whether a load for this work is cancelled when its last reader has left. */
export function stopsWithReaders({ keep, abandon }: Work): boolean {
  return keep === null || abandon === 'stop'
}

/** A reader's seat. */
export interface Passenger {
  readonly role: 'leader' | 'follower'
  /** Aborted by whoever notices that the reader has gone. */
  readonly left: AbortController
  /** Of a stream; a whole answer ends when it is returned. */
  readonly onEnd: (end: StreamEnd) => void
}

export interface MissOptions {
  /** Whether the load is finished with nobody waiting for it. */
  readonly keepGoing: boolean
  /** Silence in a stream after which a comment is sent. */
  readonly keepAliveMs: number
  /** The last purge of it before it began, in unix ms. */
  readonly purgedAt: number
}

export interface MissContext {
  /** For this work; `signal` is the flight's. */
  readonly generate: (work: Work, stream: boolean, signal: AbortSignal) => GenerateContext
  /** Up to when, in unix ms, answers to this work are void. */
  readonly purgedAt: (work: Work) => number
  /** Takes an answer that is stored elsewhere, to be found under its own key, too. */
  readonly storeCopy: (entry: Entry) => void
  readonly now: () => number
  readonly report: Report
}

/** Silence in a stream after which a comment is sent (contract 2.2). */
export const KEEP_ALIVE_MS = 15_000

/** A load for one key, and everything its readers share. */
export class SharedMiss {
  readonly flight: Flight
  readonly work: Work
  readonly #outcome: Outcome = newOutcome()
  readonly #encodings: Encodings
  readonly #options: MissOptions
  readonly #now: () => number
  readonly #report: Report

  /** @param stream whether the first reader asked for a stream */
  constructor(work: Work, stream: boolean, options: MissOptions, context: MissContext) {
    this.work = work
    this.#options = options
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
   * Whether its answer is one for this work: what was asked before a purge (unix ms) is void for
   * whoever asks after it.
   */
  serves({ requestedAt }: Work, purgedAt: number): boolean {
    return this.work.requestedAt > purgedAt || requestedAt <= purgedAt
  }

  /** The whole answer's entry, once there is one. */
  get entry(): Entry | null {
    return this.#outcome.entry
  }

  get summary(): MissSummary {
    const { upstream, attempts, usage } = this.#outcome
    return { upstream, attempts, usage }
  }

  /** Takes one reader along. Never throws: a failure before the first text is a problem. */
  async board(reader: Reader, passenger: Passenger): Promise<MissAnswer> {
    try {
      return reader.shape.stream
        ? await this.#stream(reader, passenger)
        : await this.#whole(passenger)
    } catch (error) {
      // Nobody is there to read a problem, and it is none of ours.
      if (passenger.left.signal.aborted) return { kind: 'left', summary: this.summary }
      return this.#problem(error)
    }
  }

  async #stream(reader: Reader, { role, left, onEnd }: Passenger): Promise<MissAnswer> {
    const texts = this.#encodings.read(reader, left.signal)
    const first = await texts.next()
    left.signal.throwIfAborted()
    const body = streamAnswer(first.done === true ? '' : first.value, texts, reader.shape, {
      keepAliveMs: this.#options.keepAliveMs,
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

  async #whole({ role, left }: Passenger): Promise<MissAnswer> {
    for await (const _ of this.flight.progress(left.signal));
    left.signal.throwIfAborted()
    const { folded } = this.flight
    if (folded === null) throw new TypeError('an answer ended without its end')
    const { entry, stored } = this.#outcome
    return {
      kind: 'whole',
      role: this.#roleOf(role),
      completion: folded.completion,
      estimated: folded.estimated,
      entry,
      stored,
      summary: this.summary,
    }
  }

  #problem(error: unknown): MissAnswer {
    this.#reportInternal(error)
    return { kind: 'problem', problem: problemOf(error), summary: this.summary }
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
 * Nothing purged is found or stored: the asking isolate may know of a purge that the flight's does
 * not. What is not kept is not looked for either.
 */
function bounded(given: GenerateContext, { keep }: Work, purgedAt: number): GenerateContext {
  const { lookAgain, store } = given
  return {
    ...given,
    lookAgain:
      keep === null || lookAgain === null
        ? null
        : async (work) => {
            const entry = await lookAgain(work)
            return entry !== null && entry.requested_at > purgedAt ? entry : null
          },
    store: (entry) => entry.requested_at > purgedAt && store(entry),
  }
}
