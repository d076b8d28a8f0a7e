// Where a miss is answered: by the key's flight, shared by all visitors of the world, or in this
// isolate alone (`flights = "none"`, a visitor's `no-store`, or the flight out of reach).
import { type Pipe, type Reader, relay, type StreamEnd } from '../answer.ts'
import type { Problem } from '../errors.ts'
import type { Report } from '../events.ts'
import type { Work } from '../generate.ts'
import {
  KEEP_ALIVE_MS,
  type MissAnswer,
  type MissContext,
  SharedMiss,
  type SharedWork,
  stopsWithReaders,
} from '../miss.ts'

/** The way to a key's flight. */
export interface FlightDoor {
  join(work: SharedWork, reader: Reader): Promise<MissAnswer>
  refresh(work: SharedWork): Promise<void>
  /** A pipe of the platform's own. */
  pipe(): Pipe
}

/** What the caller wants to know of a reader. */
export interface Boarded {
  readonly left: AbortController
  readonly onEnd: (end: StreamEnd, answer: MissAnswer) => void
}

const broken: Problem = {
  code: 'upstream_truncated',
  message: 'Cannot finish the answer: the connection to it was lost, ask again to go on',
  param: null,
  retryAfterSeconds: null,
  rateLimit: null,
}

/** While a stale answer is served, how soon this isolate asks for a newer one again. */
const REFRESH_REST_MS = 10_000
/** An end may be missed: for so long at most a flight is believed to be under way. */
const BOARDED_MS = 60_000
const MAX_KEYS = 1000

export class Misses {
  readonly #door: FlightDoor | null
  readonly #context: MissContext
  readonly #report: Report
  /** When keys were last refreshed from here. */
  readonly #refreshedAt = new Map<string, number>()
  /** When readers from here last went aboard flights that have not ended for any of them. */
  readonly #boardedAt = new Map<string, number>()

  /** @param door null: every miss is answered here */
  constructor(door: FlightDoor | null, context: MissContext) {
    this.#door = door
    this.#context = context
    this.#report = context.report
  }

  /** @param alone the answer must not be shared */
  async answer(work: Work, reader: Reader, boarded: Boarded, alone: boolean): Promise<MissAnswer> {
    if (this.#door === null || alone) return await this.#alone(work, reader, boarded)
    this.#board(work.key)
    const presence = stopsWithReaders(work) ? presenceOf(boarded.left.signal) : null
    const answer = await this.#join(this.#door, work, reader, presence?.stream ?? null)
    if (answer?.kind !== 'stream' || answer.ending === null) {
      this.#boardedAt.delete(work.key)
      presence?.end()
      return answer ?? (await this.#alone(work, reader, boarded))
    }
    const { body, ending } = answer
    const { left } = boarded
    const passed = relay(
      { body, ending },
      this.#door.pipe(),
      reader.shape,
      broken,
      left.signal,
      (end) => {
        this.#boardedAt.delete(work.key)
        presence?.end()
        boarded.onEnd(end, answer)
      },
    )
    return { ...answer, body: passed }
  }

  /**
   * Whether another reader from here is aboard this key's flight: who goes there now gets what there
   * is, and need not look into KV before.
   */
  isUnderWay(key: string): boolean {
    const at = this.#boardedAt.get(key)
    return at !== undefined && Math.abs(this.#context.now() - at) < BOARDED_MS
  }

  #board(key: string): void {
    if (this.#boardedAt.size >= MAX_KEYS) this.#boardedAt.clear()
    this.#boardedAt.set(key, this.#context.now())
  }

  /** Null when the flight is out of reach. */
  async #join(
    door: FlightDoor,
    work: Work,
    reader: Reader,
    presence: SharedWork['presence'],
  ): Promise<MissAnswer | null> {
    const shared = { ...work, purgedAt: this.#context.purgedAt(work), presence }
    try {
      return await door.join(shared, reader)
    } catch (error) {
      // Once more where the object has only just gone: all its readers meet in the next one.
      if (presence === null && isRetryable(error)) {
        try {
          return await door.join(shared, reader)
        } catch {}
      }
      this.#report({ event: 'flight_unreachable', request_id: work.requestId })
      return null
    }
  }

  /**
   * Gets a newer answer, with nobody waiting. Never throws.
   *
   * @param allowed asked last, since asking counts against the visitor's rate
   */
  async refresh(work: Work, allowed = async () => true): Promise<void> {
    if (!this.#mayRefresh(work.key) || !(await allowed())) return
    const purgedAt = this.#context.purgedAt(work)
    try {
      if (this.#door !== null) {
        return await this.#door.refresh({ ...work, purgedAt, presence: null })
      }
    } catch {
      this.#report({ event: 'flight_unreachable', request_id: work.requestId })
    }
    const options = { ...ALONE, keepGoing: true, purgedAt }
    await new SharedMiss(work, false, options, this.#context).flight.over
  }

  /** An old answer is served often before the new one is seen here; asking once for it is enough. */
  #mayRefresh(key: string): boolean {
    const now = this.#context.now()
    const at = this.#refreshedAt.get(key)
    if (at !== undefined && now >= at && now - at < REFRESH_REST_MS) return false
    if (this.#refreshedAt.size >= MAX_KEYS) this.#refreshedAt.clear()
    this.#refreshedAt.set(key, now)
    return true
  }

  async #alone(work: Work, reader: Reader, { left, onEnd }: Boarded): Promise<MissAnswer> {
    const options = { ...ALONE, purgedAt: this.#context.purgedAt(work) }
    const miss = new SharedMiss(work, reader.shape.stream, options, this.#context)
    const answer = await miss.board(reader, {
      role: 'leader',
      left,
      onEnd: (end) => onEnd(end, { ...answer, summary: miss.summary }),
    })
    return answer
  }
}

/** Without an object nothing goes on after its visitor. */
const ALONE = { keepAliveMs: KEEP_ALIVE_MS, keepGoing: false }

/** A stream without bytes that ends with its reader (miss.ts, `SharedWork`). */
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

/** What the platform says of a failed call of an object (PLATFORM 1.6). */
function isRetryable(error: unknown): boolean {
  if (typeof error !== 'object' || error === null) return false
  const { retryable, overloaded, durableObjectReset } = error as Record<string, unknown>
  return (retryable === true || durableObjectReset === true) && overloaded !== true
}
