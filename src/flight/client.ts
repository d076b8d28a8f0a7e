// Routes a miss: to the flight of its key, which readers everywhere share, or to a load in this
// isolate (with `flights = "none"`, with `no-store`, or if the flight is unreachable).

import { errorEvent, KEEP_ALIVE, type Reader, type Shape } from '../completion/encode.ts'
import { GatewayError, isRetryable, type Problem, problemOf } from '../errors.ts'
import { problemBody } from '../http/problem.ts'
import { type SharedWork, stopsWithReaders } from './flights.ts'
import type { Work } from './generate.ts'
import { Miss, type MissAnswer, type MissContext, type StreamedAnswer } from './miss.ts'
import { INCOMPLETE, type Pipe, type StreamEnd } from './reader.ts'
import {
  endRemote,
  type FetchObject,
  joinRemote,
  type RemoteAnswer,
  refreshRemote,
} from './transport.ts'

const broken = () =>
  problemOf(
    new GatewayError(
      'upstream_truncated',
      'The connection to the answer was lost. Send the request again to resume it.',
    ),
  )

/** Minimum time between two refreshes of a key from this isolate. */
const REFRESH_REST_MS = 10_000
/** How long a flight counts as running at most, in case its end is missed. */
const JOINED_MS = 60_000
const MAX_KEYS = 1000

export class Misses {
  readonly #fetchObject: FetchObject | null
  readonly #context: MissContext
  /** When this isolate last refreshed a key. */
  readonly #refreshedAt = new Map<string, number>()
  /** When a reader of this isolate last joined a flight that is still running. */
  readonly #joinedAt = new Map<string, number>()

  /** @param fetchObject null: every miss is answered in this isolate */
  constructor(fetchObject: FetchObject | null, context: MissContext) {
    this.#fetchObject = fetchObject
    this.#context = context
  }

  /**
   * Never rejects.
   *
   * @param left aborts when the reader disconnects, which a stream notices only at the next write
   * @param alone the answer must not be shared
   */
  async answer(work: Work, reader: Reader, left: AbortSignal, alone: boolean): Promise<MissAnswer> {
    if (this.#fetchObject === null || alone) return await this.#alone(work, reader, left)
    this.#rememberJoin(work.key)
    const shared = this.#shared(work)
    const watched = stopsWithReaders(work) ? left : null
    const answer = await this.#join(this.#fetchObject, shared, reader, watched)
    const over = () => void this.#joinedAt.delete(work.key)
    if (answer?.kind !== 'stream') {
      over()
      return answer ?? (await this.#alone(work, reader, left))
    }
    const streamed = this.#relay(this.#fetchObject, answer, shared, reader, left)
    streamed.ended.then(over)
    return streamed
  }

  /**
   * Whether this isolate has a reader in a running flight of this key. Joining it then needs no KV
   * read first.
   */
  isUnderWay(key: string): boolean {
    const at = this.#joinedAt.get(key)
    return at !== undefined && Math.abs(this.#context.now() - at) < JOINED_MS
  }

  #rememberJoin(key: string): void {
    if (this.#joinedAt.size >= MAX_KEYS) this.#joinedAt.clear()
    this.#joinedAt.set(key, this.#context.now())
  }

  /** The work with what this isolate knows of it. */
  #shared(work: Work): SharedWork {
    const { purgedAt, kvIsUnsure } = this.#context
    return { ...work, purgedAt: purgedAt(work), kvIsUnsure: kvIsUnsure() }
  }

  /** Null if the flight is unreachable. */
  async #join(
    fetchObject: FetchObject,
    work: SharedWork,
    reader: Reader,
    watched: AbortSignal | null,
  ): Promise<RemoteAnswer | null> {
    try {
      return await joinRemote(fetchObject, { work, reader }, watched)
    } catch (error) {
      // If the object was evicted or reset, retry once, so that its readers meet in the new one.
      if (isRetryable(error)) {
        try {
          return await joinRemote(fetchObject, { work, reader }, watched)
        } catch {}
      }
      this.#context.report({ event: 'flight_unreachable', request_id: work.requestId })
      return null
    }
  }

  /** Passes a stream on through the platform's pipe: handling its bytes here would cost more. */
  #relay(
    fetchObject: FetchObject,
    { body, role, summary }: Extract<RemoteAnswer, { kind: 'stream' }>,
    work: SharedWork,
    { shape }: Reader,
    left: AbortSignal,
  ): StreamedAnswer {
    const { readable, writable } = this.#context.pipe()
    const { promise: ended, resolve: end } = Promise.withResolvers<StreamEnd>()
    // Report the disconnect at once: a pending read may never settle.
    left.addEventListener('abort', () => end('left'), { once: true })
    if (left.aborted) end('left')
    pipe(body, writable, {
      shape,
      left,
      problem: () => endRemote(fetchObject, work),
      end,
    })
    return {
      kind: 'stream',
      role,
      summary,
      body: readable,
      ended: ended.then((end) => ({ end, summary })),
    }
  }

  /**
   * Generates a newer answer in the background. Never throws.
   *
   * @param allowed called last, since the call counts against the visitor's rate limit
   */
  async refresh(work: Work, allowed = async () => true): Promise<void> {
    if (!this.#mayRefresh(work.key)) return
    if (!(await allowed())) {
      // Another visitor may refresh it.
      this.#refreshedAt.delete(work.key)
      return
    }
    try {
      if (this.#fetchObject !== null) {
        return await refreshRemote(this.#fetchObject, this.#shared(work))
      }
    } catch {
      this.#context.report({ event: 'flight_unreachable', request_id: work.requestId })
    }
    await this.#missOf(work, { stream: false, keepGoing: true }).flight.over
  }

  /** A stale answer may be served many times before the new one arrives: one refresh is enough. */
  #mayRefresh(key: string): boolean {
    const now = this.#context.now()
    const at = this.#refreshedAt.get(key)
    if (at !== undefined && now >= at && now - at < REFRESH_REST_MS) return false
    if (this.#refreshedAt.size >= MAX_KEYS) this.#refreshedAt.clear()
    this.#refreshedAt.set(key, now)
    return true
  }

  async #alone(work: Work, reader: Reader, left: AbortSignal): Promise<MissAnswer> {
    // Without a Durable Object, a load cannot outlive its request.
    const miss = this.#missOf(work, { stream: reader.shape.stream, keepGoing: false })
    return await miss.join({ role: 'leader', reader, left, isRemote: false })
  }

  #missOf(work: Work, options: { readonly stream: boolean; readonly keepGoing: boolean }): Miss {
    const purgedAt = this.#context.purgedAt(work)
    return new Miss(work, { ...options, purgedAt, looksAgain: true }, this.#context)
  }
}

interface PipeOptions {
  readonly shape: Shape
  readonly left: AbortSignal
  /** Asks which problem the stream ended with; null: the connection was lost. */
  readonly problem: () => Promise<Problem | null>
  readonly end: (how: StreamEnd) => void
}

/**
 * Pipes a stream, and appends an error event if it breaks off. Never rejects. Reports the end before
 * it closes the stream, after which this may be cancelled.
 */
async function pipe(
  body: ReadableStream<Uint8Array>,
  writable: Pipe['writable'],
  { shape, left, problem, end }: PipeOptions,
): Promise<void> {
  const isWhole = await body
    .pipeTo(writable, { preventClose: true, preventAbort: true, signal: left })
    .then(() => true)
    .catch(() => false)
  const writer = writable.getWriter()
  try {
    if (isWhole) {
      end('whole')
      return await writer.close()
    }
    const isLeft = left.aborted || writer.desiredSize === null
    const how = isLeft ? 'left' : ((await problem()) ?? broken())
    const isEventStream = shape.as === 'sse'
    if (how !== 'left' && isEventStream) {
      // The comment terminates an event that may have been cut in half.
      const text = KEEP_ALIVE + errorEvent(shape.api, problemBody(how))
      await writer.write(new TextEncoder().encode(text))
    }
    end(how)
    if (isLeft || !isEventStream) await writer.abort(new Error(INCOMPLETE))
    else await writer.close()
  } catch {
    end('left')
  }
}
