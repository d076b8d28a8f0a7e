// The KV tier. Key: the cache key, or for a prompt's last answer the key of prompt and variables
// (request/cache-key.ts). Value: an entry as a JSON string, written in one piece. TTL: until
// the entry is no longer usable even as stale, at least 60 s. KV cannot fail a request: if it is
// slow, broken or full, the result is a miss or an answer that is not stored, and one event in the
// log.
import { inTime } from '../deadline.ts'
import type { Report } from '../events.ts'
import { ageOf, type Entry, entryBytes, entryJson, parseEntry } from './entry.ts'

/** The methods of a Workers KV namespace that are used. */
export interface KvNamespace {
  get(key: string): Promise<string | null>
  put(key: string, value: string, options?: { readonly expirationTtl: number }): Promise<void>
  delete(key: string): Promise<void>
}

export interface KvDeps {
  readonly kv: KvNamespace
  /** Longest wait for a read. */
  readonly waitMs: number
  /** Longest value, in UTF-8 bytes. */
  readonly entryBytes: number
  readonly now: () => number
  readonly report: Report
  readonly waitUntil: (work: Promise<unknown>) => void
}

/** How long writes are skipped after a failed one. */
const REST_MS = 10_000
/** How long after a failed read the misses of an isolate are unsure. */
const UNSURE_MS = 10_000
/** KV's minimum TTL. */
const MIN_TTL_S = 60
/** Ten years. */
export const FOREVER_S = 315_360_000

export class KvTier {
  readonly #deps: KvDeps
  #restUntil = 0
  #readFailedAt = Number.NEGATIVE_INFINITY

  constructor(deps: KvDeps) {
    this.#deps = deps
  }

  /** Whether a read has failed lately: an entry that seemed to be missing may be there. */
  get isUnsure(): boolean {
    return this.#deps.now() - this.#readFailedAt < UNSURE_MS
  }

  /** The entry under this key, fresh or not; null for a miss. Never throws. */
  async get(key: string): Promise<Entry | null> {
    const text = await this.#read(key)
    if (text === null) return null
    const entry = parseEntry(text, key)
    if (entry === null) {
      this.#failed('get', 'bad_value')
      const { kv, waitUntil } = this.#deps
      waitUntil(kv.delete(key).catch(() => this.#failed('delete', 'error')))
    }
    return entry
  }

  /**
   * Stores an entry in the background.
   *
   * @returns false if no write is attempted: the entry is too large, or a write failed recently
   */
  put(entry: Entry): boolean {
    const { now, waitUntil } = this.#deps
    const value = entryJson(entry)
    if (entryBytes(entry, value) > this.#deps.entryBytes) return false
    if (now() < this.#restUntil) return false
    waitUntil(this.#write(entry.key, value, ageOf(entry, now()).leftSeconds))
    return true
  }

  async #write(key: string, value: string, ttlSeconds: number): Promise<void> {
    const expirationTtl = Math.min(FOREVER_S, Math.max(MIN_TTL_S, ttlSeconds))
    try {
      await this.#deps.kv.put(key, value, { expirationTtl })
    } catch {
      this.#restUntil = this.#deps.now() + REST_MS
      this.#failed('put', 'error')
    }
  }

  async #read(key: string): Promise<string | null> {
    const { kv, waitMs } = this.#deps
    let isReported = false
    const fail = (reason: 'timeout' | 'error') => {
      this.#readFailedAt = this.#deps.now()
      if (!isReported) this.#failed('get', reason)
      isReported = true
      return null
    }
    const reading = (async () => {
      try {
        return await kv.get(key)
      } catch {
        return fail('error')
      }
    })()
    return await inTime(waitMs, reading, () => fail('timeout'))
  }

  #failed(operation: 'get' | 'put' | 'delete', reason: 'timeout' | 'error' | 'bad_value'): void {
    this.#deps.report({ event: 'cache_failed', operation, reason })
  }
}
