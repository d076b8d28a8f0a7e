// The KV tier. Key: the cache key. Value: an entry as a JSON string, put whole, never as a stream.
// TTL: until the entry is no longer even stale, at least 60 s. It cannot fail a request: slow,
// broken or full storage is a miss or an answer that is not stored, and one event. `KvValues` has
// those manners for any text.
import type { Report } from '../events.ts'
import { type Entry, parseEntry } from './entry.ts'

/** What is used of a Workers KV namespace. */
export interface KvNamespace {
  get(key: string): Promise<string | null>
  put(key: string, value: string, options?: { readonly expirationTtl: number }): Promise<void>
  delete(key: string): Promise<void>
}

export interface KvValueOptions {
  /** Longest wait for a read. */
  readonly waitMs: number
  /** After a failed put, how long no other is tried. */
  readonly restMs: number
}

export interface KvOptions extends KvValueOptions {
  /** Longest value, in UTF-8 bytes. */
  readonly entryBytes: number
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
  readonly #values: KvValues
  readonly #options: KvOptions
  readonly #now: KvContext['now']
  readonly #waitUntil: KvContext['waitUntil']

  constructor(namespace: KvNamespace, options: KvOptions, context: KvContext) {
    this.#values = new KvValues(namespace, options, context)
    this.#options = options
    this.#now = context.now
    this.#waitUntil = context.waitUntil
  }

  /** The entry under this key, whatever its freshness; null for a miss. Never throws. */
  async get(key: string): Promise<Entry | null> {
    const { entryBytes } = this.#options
    return await this.#values.get(key, (text) =>
      text.length <= entryBytes ? parseEntry(text, key) : null,
    )
  }

  /**
   * Stores an entry, in the background.
   *
   * @returns false when it is not even tried: too large, or KV is resting after a failure
   */
  put(entry: Entry): boolean {
    const value = JSON.stringify(entry)
    if (new TextEncoder().encode(value).length > this.#options.entryBytes) return false
    const ttlSeconds = entry.stale_until - Math.floor(this.#now() / 1000)
    if (this.#values.isResting) return false
    this.#waitUntil(this.#values.put(entry.key, value, ttlSeconds))
    return true
  }
}

/** Texts in KV that may be slow to come, missing or wrong, and that no request fails for. */
export class KvValues {
  readonly #namespace: KvNamespace
  readonly #options: KvValueOptions
  readonly #context: KvContext
  #restUntil = 0

  constructor(namespace: KvNamespace, options: KvValueOptions, context: KvContext) {
    this.#namespace = namespace
    this.#options = options
    this.#context = context
  }

  /**
   * What is kept under this key; null for a miss. Never throws.
   *
   * @param parse null for a text that is none of ours: it is deleted
   */
  async get<T>(key: string, parse: (text: string) => T | null): Promise<T | null> {
    const text = await this.#read(key)
    if (text === null) return null
    const value = parse(text)
    if (value === null) {
      this.#failed('get', 'bad_value')
      this.#context.waitUntil(this.#delete(key))
    }
    return value
  }

  /** Whether it is left alone, after a put that failed. */
  get isResting(): boolean {
    return this.#context.now() < this.#restUntil
  }

  /** Stores a text. Never throws. @returns whether that worked */
  async put(key: string, value: string, ttlSeconds: number): Promise<boolean> {
    if (this.isResting) return false
    const expirationTtl = Math.min(MAX_TTL_S, Math.max(MIN_TTL_S, ttlSeconds))
    try {
      await this.#namespace.put(key, value, { expirationTtl })
      return true
    } catch {
      this.#restUntil = this.#context.now() + this.#options.restMs
      this.#failed('put', 'error')
      return false
    }
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
