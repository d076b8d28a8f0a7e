// The in-memory tier of one isolate: entries with already encoded bodies, bounded by bytes and age.
// A hit here parses and serialises nothing. Bodies are stored by name, independent of their format.
import { RecentMap } from '../lru.ts'
import type { Entry } from './entry.ts'

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

export class MemoryTier {
  readonly #cache: RecentMap<CachedAnswer> | null

  constructor({ maxBytes, maxAgeMs }: MemoryOptions, now: () => number) {
    this.#cache =
      maxBytes === 0 || maxAgeMs === 0
        ? null
        : new RecentMap({
            maxBytes,
            // Bodies are encoded later, so their size is counted in advance.
            bytesOf: ({ entry }) => sizeOf(entry) * COPIES,
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

/** Overhead of an event stream per choice: the fields around the text of two chunks. */
const CHUNK_BYTES = 800

/** Upper bound of an answer's bytes in its longest encoding, which is JSON with its escapes. */
function sizeOf({ completion }: Entry): number {
  const json = new TextEncoder().encode(JSON.stringify(completion)).length
  return json + CHUNK_BYTES * completion.choices.length
}
