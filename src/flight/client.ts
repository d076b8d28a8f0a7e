// Routes a miss: to the flight of its key, which readers everywhere share, or to a load in this
// isolate (with `flights = "none"`, with `no-store`, or if the flight is unreachable).

import type { Reader } from '../completion/encode.ts'
import { isRetryable, type Problem } from '../errors.ts'
import type { Report } from '../events.ts'
import {
  type MissAnswer,
  type MissContext,
  SharedMiss,
  type SharedWork,
  stopsWithReaders,
} from './flights.ts'
import type { Work } from './generate.ts'
import { type Pipe, relay, type StreamEnd } from './stream.ts'

/** The connection to a key's flight. */
export interface FlightClient {
  join(work: SharedWork, reader: Reader): Promise<MissAnswer>
  refresh(work: SharedWork): Promise<void>
  /** An identity transform of the platform. */
  pipe(): Pipe
}

/** The caller's handle on a reader. */
export interface MissReader {
  readonly left: AbortController
  readonly onEnd: (end: StreamEnd, answer: MissAnswer) => void
}

const broken: Problem = {
  code: 'upstream_truncated',
  message: 'The connection to the answer was lost. Send the request again to resume it.',
  param: null,
  retryAfterSeconds: null,
  rateLimit: null,
}

/** Minimum time between two refreshes of a key from this isolate. */
const REFRESH_REST_MS = 10_000
/** How long a flight counts as running at most, in case its end is missed. */
const JOINED_MS = 60_000
const MAX_KEYS = 1000

export class Misses {
  readonly #flights: FlightClient | null
  readonly #context: MissContext
  readonly #report: Report
  /** When this isolate last refreshed a key. */
  readonly #refreshedAt = new Map<string, number>()
  /** When a reader of this isolate last joined a flight that is still running. */
  readonly #joinedAt = new Map<string, number>()

  /** @param flights null: every miss is answered in this isolate */
  constructor(flights: FlightClient | null, context: MissContext) {
    this.#flights = flights
    this.#context = context
    this.#report = context.report
  }

  /** @param alone the answer must not be shared */
  async answer(
    work: Work,
    reader: Reader,
    handle: MissReader,
    alone: boolean,
  ): Promise<MissAnswer> {
    if (this.#flights === null || alone) return await this.#alone(work, reader, handle)
    this.#noteJoin(work.key)
    const presence = stopsWithReaders(work) ? presenceOf(handle.left.signal) : null
    const answer = await this.#join(this.#flights, work, reader, presence?.stream ?? null)
    if (answer?.kind !== 'stream' || answer.ending === null) {
      this.#joinedAt.delete(work.key)
      presence?.end()
      return answer ?? (await this.#alone(work, reader, handle))
    }
    const { body, ending } = answer
    const { left } = handle
    const relayed = relay(
      { body, ending },
      this.#flights.pipe(),
      reader.shape,
      broken,
      left.signal,
      (end) => {
        this.#joinedAt.delete(work.key)
        presence?.end()
        handle.onEnd(end, answer)
      },
    )
    return { ...answer, body: relayed }
  }

  /**
   * Whether this isolate has a reader in a running flight of this key. Joining it then needs no KV
   * read first.
   */
  isUnderWay(key: string): boolean {
    const at = this.#joinedAt.get(key)
    return at !== undefined && Math.abs(this.#context.now() - at) < JOINED_MS
  }

  #noteJoin(key: string): void {
    if (this.#joinedAt.size >= MAX_KEYS) this.#joinedAt.clear()
    this.#joinedAt.set(key, this.#context.now())
  }

  /** Null if the flight is unreachable. */
  async #join(
    flights: FlightClient,
    work: Work,
    reader: Reader,
    presence: SharedWork['presence'],
  ): Promise<MissAnswer | null> {
    const shared = { ...work, purgedAt: this.#context.purgedAt(work), presence }
    try {
      return await flights.join(shared, reader)
    } catch (error) {
      // If the object was evicted or reset, retry once, so that its readers meet in the new one.
      if (presence === null && isRetryable(error)) {
        try {
          return await flights.join(shared, reader)
        } catch {}
      }
      this.#report({ event: 'flight_unreachable', request_id: work.requestId })
      return null
    }
  }

  /**
   * Generates a newer answer in the background. Never throws.
   *
   * @param allowed called last, since the call counts against the visitor's rate limit
   */
  async refresh(work: Work, allowed = async () => true): Promise<void> {
    if (!this.#mayRefresh(work.key) || !(await allowed())) return
    const purgedAt = this.#context.purgedAt(work)
    try {
      if (this.#flights !== null) {
        return await this.#flights.refresh({ ...work, purgedAt, presence: null })
      }
    } catch {
      this.#report({ event: 'flight_unreachable', request_id: work.requestId })
    }
    await new SharedMiss(work, false, { keepGoing: true, purgedAt }, this.#context).flight.over
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

  async #alone(work: Work, reader: Reader, { left, onEnd }: MissReader): Promise<MissAnswer> {
    // Without a Durable Object, a load cannot outlive its request.
    const options = { keepGoing: false, purgedAt: this.#context.purgedAt(work) }
    const miss = new SharedMiss(work, reader.shape.stream, options, this.#context)
    const answer = await miss.join(reader, {
      role: 'leader',
      left,
      onEnd: (end) => onEnd(end, { ...answer, summary: miss.summary }),
    })
    return answer
  }
}

/** An empty stream that ends when the reader leaves (flights.ts, `SharedWork`). */
function presenceOf(left: AbortSignal) {
  let end = () => {}
  const stream = new ReadableStream<Uint8Array>({
    start(controller) {
      let open = true
      end = () => {
        if (open) controller.close()
        open = false
      }
      left.addEventListener('abort', end, { once: true })
      if (left.aborted) end()
    },
    cancel() {
      left.removeEventListener('abort', end)
      end = () => {}
    },
  })
  return { stream, end: () => end() }
}
