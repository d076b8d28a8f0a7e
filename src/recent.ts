// A map of bounded size: what was not asked for the longest goes first. Nothing is older than it may
// be. Knows no meaning of what it holds, and counts what it is told to.

export interface RecentOptions<Value> {
  readonly maxBytes: number
  /** What a value takes of them, its key apart; asked once, when it is set. */
  readonly bytesOf: (value: Value) => number
  /** Since it was set, however often it is read; absent: it does not grow old. */
  readonly age?: { readonly maxMs: number; readonly now: () => number }
}

interface Held<Value> {
  readonly value: Value
  readonly bytes: number
  readonly setAt: number
}

/** Bytes of a character of a key. */
const CHARACTER = 2

export class RecentMap<Value> {
  readonly #options: RecentOptions<Value>
  /** A `Map` keeps the order of insertion, so the first one is the one to go. */
  readonly #held = new Map<string, Held<Value>>()
  #bytes = 0

  constructor(options: RecentOptions<Value>) {
    this.#options = options
  }

  get(key: string): Value | null {
    const held = this.#held.get(key)
    if (held === undefined) return null
    const { age } = this.#options
    if (age !== undefined && age.now() - held.setAt > age.maxMs) {
      this.delete(key)
      return null
    }
    this.#held.delete(key)
    this.#held.set(key, held)
    return held.value
  }

  /** What is larger than everything together is not kept. */
  set(key: string, value: Value): void {
    this.delete(key)
    const { maxBytes, bytesOf, age } = this.#options
    const bytes = key.length * CHARACTER + bytesOf(value)
    if (bytes > maxBytes) return
    this.#held.set(key, { value, bytes, setAt: age?.now() ?? 0 })
    this.#bytes += bytes
    for (const oldest of this.#held.keys()) {
      if (this.#bytes <= maxBytes) return
      this.delete(oldest)
    }
  }

  delete(key: string): void {
    const held = this.#held.get(key)
    if (held === undefined) return
    this.#held.delete(key)
    this.#bytes -= held.bytes
  }
}
