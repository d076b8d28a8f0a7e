// The cache: memory first, then KV (kv.ts), whose entries are copied into memory. Entries keep their
// times and names in both, and a purged entry is a miss in both.
import { RecentMap } from '../lru.ts'
import { type Entry, entryBytes } from './entry.ts'
import type { KvTier } from './kv.ts'
import type { Purges } from './purge.ts'

export interface CacheOptions {
  readonly kv: KvTier
  readonly purges: Purges
  /** The bounds of this isolate's memory. If one is 0, nothing is kept there. */
  readonly memoryBytes: number
  readonly memoryMs: number
  readonly now: () => number
}

/** A site rarely asks for more shapes of one answer. */
const MAX_BODIES = 4

/** An entry with the bodies that have been encoded from it so far, so that a hit encodes nothing. */
export class CachedAnswer {
  readonly entry: Entry
  readonly #bodies: Map<string, Uint8Array>

  /** @param same an entry that may have the same answer, to share its encoded bodies */
  constructor(entry: Entry, same: CachedAnswer | null) {
    this.entry = entry
    this.#bodies = same?.entry.completion.id === entry.completion.id ? same.#bodies : new Map()
  }

  /** The body with this name, encoded on first use. The oldest one makes room for a fifth. */
  body(name: string, make: () => string): Uint8Array {
    let body = this.#bodies.get(name)
    if (body === undefined) {
      body = new TextEncoder().encode(make())
      const [oldest] = this.#bodies.keys()
      if (this.#bodies.size >= MAX_BODIES && oldest !== undefined) this.#bodies.delete(oldest)
      this.#bodies.set(name, body)
    }
    return body
  }
}

/** The copies of one answer: its entry and its bodies. */
const COPIES = 1 + MAX_BODIES
/** Overhead of an event stream per choice: the fields around the text of two chunks. */
const CHUNK_BYTES = 800

export interface Found {
  readonly cached: CachedAnswer
  readonly tier: 'memory' | 'kv'
}

export class TieredCache {
  readonly #memory: RecentMap<CachedAnswer>
  readonly #kv: KvTier
  readonly #purges: Purges

  constructor({ kv, purges, memoryBytes, memoryMs, now }: CacheOptions) {
    this.#kv = kv
    this.#purges = purges
    this.#memory = new RecentMap({
      maxBytes: memoryMs === 0 ? 0 : memoryBytes,
      // Bodies are encoded later, so their size is counted in advance.
      bytesOf: ({ entry }) =>
        COPIES * (entryBytes(entry) + CHUNK_BYTES * entry.completion.choices.length),
      age: { maxMs: memoryMs, now },
    })
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
    return { cached: this.#remember(entry), tier: 'kv' }
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
    this.#remember(entry)
    return isWritten
  }

  /** Stores in memory an entry that another isolate or object has written to KV. */
  storeInMemory(entry: Entry): CachedAnswer {
    const known = this.fromMemory(entry.key)
    // The readers of a flight get the same entry each: it is measured and encoded for the first only.
    if (known !== null && entry.source === null && isSame(known.entry, entry)) return known
    return this.#isOutdated(entry) ? this.#wrapped(entry) : this.#remember(entry)
  }

  #remember(entry: Entry): CachedAnswer {
    const cached = this.#wrapped(entry)
    this.#memory.set(entry.key, cached)
    return cached
  }

  #wrapped(entry: Entry): CachedAnswer {
    return new CachedAnswer(entry, this.#memory.get(entry.key))
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

/** For ordinary entries of one key; last answers of a prompt may differ in their source, too. */
const isSame = (a: Entry, b: Entry) =>
  a.completion.id === b.completion.id && a.confirmed_at === b.confirmed_at
