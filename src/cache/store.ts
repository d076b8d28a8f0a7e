// The two tiers of the cache, and both as one: memory first, then KV (kv.ts), whose entries are copied
// into memory. Entries keep their times and names in both, and a purged entry is a miss in both.
import { RecentMap } from '../lru.ts'
import { type Entry, entryBytes } from './entry.ts'
import type { KvTier } from './kv.ts'
import type { Purges } from './purge.ts'

export interface MemoryOptions {
  readonly maxBytes: number
  readonly maxAgeMs: number
}

/** An entry with the bodies that have been encoded from it so far. */
export class CachedAnswer {
  readonly entry: Entry
  readonly #bodies: Map<string, Uint8Array>

  /** @param same another entry with the same answer, to share its encoded bodies */
  constructor(entry: Entry, same: CachedAnswer | null = null) {
    this.entry = entry
    this.#bodies = same === null ? new Map() : same.#bodies
  }

  /** The body with this name, encoded on first use. */
  body(name: string, make: () => string): Uint8Array {
    let body = this.#bodies.get(name)
    if (body === undefined) {
      body = new TextEncoder().encode(make())
      this.#bodies.set(name, body)
    }
    return body
  }
}

/** Most copies of one answer: JSON, text, event stream with and without usage, and the entry. */
const COPIES = 5
/** Overhead of an event stream per choice: the fields around the text of two chunks. */
const CHUNK_BYTES = 800

/** The memory of one isolate, bounded by bytes and age. A hit here parses and serialises nothing. */
export class MemoryTier {
  readonly #cache: RecentMap<CachedAnswer> | null

  constructor({ maxBytes, maxAgeMs }: MemoryOptions, now: () => number) {
    this.#cache =
      maxBytes === 0 || maxAgeMs === 0
        ? null
        : new RecentMap({
            maxBytes,
            // Bodies are encoded later, so their size is counted in advance.
            bytesOf: ({ entry }) =>
              COPIES * (entryBytes(entry) + CHUNK_BYTES * entry.completion.choices.length),
            age: { maxMs: maxAgeMs, now },
          })
  }

  get(key: string): CachedAnswer | null {
    return this.#cache?.get(key) ?? null
  }

  /**
   * Wraps an entry without storing it. Shares the bodies of a stored entry with the same answer.
   */
  apart(entry: Entry): CachedAnswer {
    const stored = this.get(entry.key)
    const isSame = stored?.entry.completion.id === entry.completion.id
    return new CachedAnswer(entry, isSame ? stored : null)
  }

  /** Stores an entry. Returns it wrapped even if the memory tier is disabled. */
  set(entry: Entry): CachedAnswer {
    const cached = this.apart(entry)
    this.#cache?.set(entry.key, cached)
    return cached
  }

  delete(key: string): void {
    this.#cache?.delete(key)
  }
}

export interface Found {
  readonly cached: CachedAnswer
  readonly tier: 'memory' | 'kv'
}

export class TieredCache {
  readonly #memory: MemoryTier
  readonly #kv: KvTier
  readonly #purges: Purges

  constructor(memory: MemoryTier, kv: KvTier, purges: Purges) {
    this.#memory = memory
    this.#kv = kv
    this.#purges = purges
  }

  /** The entry stored under this key, fresh or not; null for a miss. Never throws. */
  async get(key: string): Promise<Found | null> {
    // Started early: the purge list and KV are read concurrently.
    const known = this.#purges.known()
    if (this.#memory.get(key) !== null) await known
    const cached = this.fromMemory(key)
    if (cached !== null) return { cached, tier: 'memory' }
    const entry = await this.fromKv(key, known)
    if (entry === null) return null
    const newer = this.fromMemory(key)
    // A newer entry may have been stored here while KV was being read.
    if (newer !== null && newer.entry.confirmed_at > entry.confirmed_at) {
      return { cached: newer, tier: 'memory' }
    }
    return { cached: this.#memory.set(entry), tier: 'kv' }
  }

  /** Waits until the purge list is recent enough to serve answers by. Never rejects. */
  async ready(): Promise<void> {
    await this.#purges.known()
  }

  fromMemory(key: string): CachedAnswer | null {
    const cached = this.#memory.get(key)
    if (cached === null || !this.#isVoid(cached.entry)) return cached
    this.#memory.delete(key)
    return null
  }

  /** Skips memory. A flight checks KV this way before it calls an upstream. */
  async fromKv(key: string, known?: Promise<void>): Promise<Entry | null> {
    const entry = await this.#kv.get(key)
    if (entry === null) return null
    await (known ?? this.#purges.known())
    return this.#isVoid(entry) ? null : entry
  }

  /**
   * Stores an entry in memory, and in KV if the day's write budget permits.
   *
   * @returns whether a write to KV was started
   */
  put(entry: Entry, mayWrite: boolean): boolean {
    if (this.#isOutdated(entry)) return false
    const isWritten = mayWrite && this.#kv.put(entry)
    this.#memory.set(entry)
    return isWritten
  }

  /** Stores in memory an entry that another isolate or object has written to KV. */
  storeInMemory(entry: Entry): CachedAnswer {
    return this.#isOutdated(entry) ? this.#memory.apart(entry) : this.#memory.set(entry)
  }

  /** Purged, or memory has an entry with the same key that was confirmed later. */
  #isOutdated(entry: Entry): boolean {
    const stored = this.#memory.get(entry.key)?.entry
    return this.#isVoid(entry) || (stored !== undefined && stored.confirmed_at > entry.confirmed_at)
  }

  #isVoid({ names, requested_at }: Entry): boolean {
    return requested_at <= this.#purges.purgedAt(names)
  }
}
