// The KV tier. Key: the cache key. Value: an entry as a JSON string, put whole, never as a stream.
// TTL: until the entry is no longer even stale, at least 60 s. It cannot fail a request: slow,
// broken or full storage is a miss or an answer that is not stored, and one event.
import type { Report } from '../events.ts'
import { type Entry, parseEntry } from './entry.ts'

/** What is used of a Workers KV namespace. */
export interface KvNamespace {
  get(key: string): Promise<string | null>
  put(key: string, value: string, options?: { readonly expirationTtl: number }): Promise<void>
  delete(key: string): Promise<void>
}

export interface KvOptions {
  /** Longest wait for a read. */
  readonly waitMs: number
  /** Longest value, in UTF-8 bytes. */
  readonly entryBytes: number
  /** After a failed put, how long no other is tried. */
  readonly restMs: number
}

export interface KvContext {
  readonly now: () => number
  readonly report: Report
  readonly waitUntil: (work: Promise<unknown>) => void
}

/** KV's own bounds: no TTL below a minute; ten years are for ever. */
const MIN_TTL_S = 60
const MAX_TTL_S = 315_360_000

export class KvTier {
  readonly #namespace: KvNamespace
  readonly #options: KvOptions
  readonly #context: KvContext
  #restUntil = 0

  constructor(namespace: KvNamespace, options: KvOptions, context: KvContext) {
    this.#namespace = namespace
    this.#options = options
    this.#context = context
  }

  /** The entry under this key, whatever its freshness; null for a miss. Never throws. */
  async get(key: string): Promise<Entry | null> {
    const text = await this.#read(key)
    if (text === null) return null
    const entry = text.length <= this.#options.entryBytes ? parseEntry(text, key) : null
    if (entry === null) {
      this.#failed('get', 'bad_value')
      this.#context.waitUntil(this.#delete(key))
    }
    return entry
  }

  /**
   * Stores an entry, in the background.
   *
   * @returns false when it is not even tried: too large, or KV is resting after a failure
   */
  put(entry: Entry): boolean {
    const value = JSON.stringify(entry)
    if (new TextEncoder().encode(value).length > this.#options.entryBytes) return false
    if (this.#context.now() < this.#restUntil) return false
    this.#context.waitUntil(this.#write(entry, value))
    return true
  }

  async #read(key: string): Promise<string | null> {
    let timer: ReturnType<typeof setTimeout> | null = null
    const late = new Promise<'late'>((resolve) => {
      timer = setTimeout(() => resolve('late'), this.#options.waitMs)
    })
    const given = { up: false }
    try {
      const result = await Promise.race([this.#get(key, given), late])
      if (result !== 'late') return result.text
      given.up = true
      this.#failed('get', 'timeout')
      return null
    } finally {
      clearTimeout(timer)
    }
  }

  /** @param given.up the wait is over and has been reported */
  async #get(key: string, given: { up: boolean }): Promise<{ readonly text: string | null }> {
    try {
      return { text: await this.#namespace.get(key) }
    } catch {
      if (!given.up) this.#failed('get', 'error')
      return { text: null }
    }
  }

  async #write(entry: Entry, value: string): Promise<void> {
    const ttl = entry.stale_until - Math.floor(this.#context.now() / 1000)
    const expirationTtl = Math.min(MAX_TTL_S, Math.max(MIN_TTL_S, ttl))
    try {
      await this.#namespace.put(entry.key, value, { expirationTtl })
    } catch {
      this.#restUntil = this.#context.now() + this.#options.restMs
      this.#failed('put', 'error')
    }
  }

  async #delete(key: string): Promise<void> {
    try {
      await this.#namespace.delete(key)
    } catch {
      this.#failed('delete', 'error')
    }
  }

  #failed(operation: 'get' | 'put' | 'delete', reason: 'timeout' | 'error' | 'bad_value'): void {
    this.#context.report({ event: 'cache_failed', operation, reason })
  }
}
