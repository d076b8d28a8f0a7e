// The tiers as one: memory, then KV; what KV has is put into memory. Entries pass, not values, so
// times and purges count everywhere. What was purged is a miss in all of them.
import type { Entry } from './entry.ts'
import type { KvTier } from './kv.ts'
import type { MemoryTier, Remembered } from './memory.ts'
import type { Purges } from './purge.ts'

export interface Found {
  readonly remembered: Remembered
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

  /** Whatever is remembered under this key, fresh or not; null for a miss. Never throws. */
  async get(key: string): Promise<Found | null> {
    // At the same time: most often there is an entry, and it has to wait for the list.
    const known = this.#purges.known()
    if (this.#memory.get(key) !== null) await known
    const remembered = this.fromMemory(key)
    if (remembered !== null) return { remembered, tier: 'memory' }
    const entry = await this.fromKv(key, known)
    if (entry === null) return null
    const newer = this.fromMemory(key)
    // Stored here while KV answered.
    if (newer !== null && newer.entry.confirmed_at > entry.confirmed_at) {
      return { remembered: newer, tier: 'memory' }
    }
    return { remembered: this.#memory.set(entry), tier: 'kv' }
  }

  /** Until the list of purges is young enough to serve by. Never rejects. */
  async ready(): Promise<void> {
    await this.#purges.known()
  }

  fromMemory(key: string): Remembered | null {
    const remembered = this.#memory.get(key)
    if (remembered === null || !this.#isVoid(remembered.entry)) return remembered
    this.#memory.delete(key)
    return null
  }

  /** Past memory: what a flight asks before it calls an upstream. */
  async fromKv(key: string, known?: Promise<void>): Promise<Entry | null> {
    const entry = await this.#kv.get(key)
    if (entry === null) return null
    await (known ?? this.#purges.known())
    return this.#isVoid(entry) ? null : entry
  }

  /**
   * Keeps an entry here, and in KV if a write is left of the day's.
   *
   * @returns false where it is not stored in KV
   */
  put(entry: Entry, mayWrite: boolean): boolean {
    if (this.#isOutdated(entry)) return false
    this.#memory.set(entry)
    return mayWrite && this.#kv.put(entry)
  }

  /** Keeps an entry that was stored elsewhere. */
  remember(entry: Entry): Remembered {
    return this.#isOutdated(entry) ? this.#memory.apart(entry) : this.#memory.set(entry)
  }

  /** It was purged, or another one under its key was asked for later and came sooner. */
  #isOutdated(entry: Entry): boolean {
    const kept = this.#memory.get(entry.key)?.entry
    return this.#isVoid(entry) || (kept !== undefined && kept.confirmed_at > entry.confirmed_at)
  }

  #isVoid({ names, requested_at }: Entry): boolean {
    return requested_at <= this.#purges.purgedAt(names)
  }
}
