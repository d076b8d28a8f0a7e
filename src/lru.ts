// An LRU map, bounded by bytes and optionally by age.

export interface RecentOptions<Value> {
  readonly maxBytes: number
  /** The size of a value without its key. Called once, when it is set. */
  readonly bytesOf: (value: Value) => number
  /** Called with a value that no longer fits, but not with one that is deleted or replaced. */
  readonly onEvict?: (value: Value) => void
  /** The greatest age since a value was set, regardless of reads; absent: no limit. */
  readonly age?: { readonly maxMs: number; readonly now: () => number }
}

interface Item<Value> {
  readonly value: Value
  readonly bytes: number
  readonly setAt: number
}

const BYTES_PER_CHAR = 2

export class RecentMap<Value> {
  readonly #options: RecentOptions<Value>
  /** A `Map` iterates in insertion order, so the first item is the least recently used. */
  readonly #items = new Map<string, Item<Value>>()
  #bytes = 0

  constructor(options: RecentOptions<Value>) {
    this.#options = options
  }

  get(key: string): Value | null {
    const item = this.#items.get(key)
    if (item === undefined) return null
    const { age } = this.#options
    if (age !== undefined && age.now() - item.setAt > age.maxMs) {
      this.delete(key)
      return null
    }
    this.#items.delete(key)
    this.#items.set(key, item)
    return item.value
  }

  /** Evicts the least recently used values. A value larger than `maxBytes` is not stored. */
  set(key: string, value: Value): void {
    this.delete(key)
    const { maxBytes, bytesOf, onEvict, age } = this.#options
    const bytes = key.length * BYTES_PER_CHAR + bytesOf(value)
    if (bytes > maxBytes) {
      onEvict?.(value)
      return
    }
    this.#items.set(key, { value, bytes, setAt: age?.now() ?? 0 })
    this.#bytes += bytes
    for (const [oldest, { value }] of this.#items) {
      if (this.#bytes <= maxBytes) return
      this.delete(oldest)
      onEvict?.(value)
    }
  }

  delete(key: string): void {
    const item = this.#items.get(key)
    if (item === undefined) return
    this.#items.delete(key)
    this.#bytes -= item.bytes
  }
}
