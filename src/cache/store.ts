// Both tiers as one cache: memory first, then KV, whose entries are copied into memory. Entries
// keep their times and names in both, and a purged entry is a miss in both.
import type { Entry } from './entry.ts'
import type { KvTier } from './kv.ts'
import type { CachedAnswer, MemoryTier } from './memory.ts'
import type { Purges } from './purge.ts'

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
    this.#memory.set(entry)
    return mayWrite && this.#kv.put(entry)
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
