// The isolate's own tier: entries with their answers already encoded, bounded by bytes and by age.
// A hit here parses and serialises nothing. Knows no forms: it keeps what it is given under a name.
import { RecentMap } from '../recent.ts'
import type { Entry } from './entry.ts'

export interface MemoryOptions {
  readonly maxBytes: number
  readonly maxAgeMs: number
}

/** An entry with the bodies made of it so far. */
export class Remembered {
  readonly entry: Entry
  readonly #bodies: Map<string, Uint8Array>

  /** @param same another entry with the same answer, whose bodies are these, too */
  constructor(entry: Entry, same: Remembered | null = null) {
    this.entry = entry
    this.#bodies = same === null ? new Map() : same.#bodies
  }

  /** The body of this name, made on the first use. */
  body(name: string, make: () => string): Uint8Array {
    let body = this.#bodies.get(name)
    if (body === undefined) {
      body = new TextEncoder().encode(make())
      this.#bodies.set(name, body)
    }
    return body
  }
}

/** Bodies of one entry at most: JSON, text, event stream with and without usage, and the entry. */
const COPIES = 5

export class MemoryTier {
  readonly #cache: RecentMap<Remembered> | null

  constructor({ maxBytes, maxAgeMs }: MemoryOptions, now: () => number) {
    this.#cache =
      maxBytes === 0 || maxAgeMs === 0
        ? null
        : new RecentMap({
            maxBytes,
            // Reckoned before the bodies are made, as if all of them were.
            bytesOf: ({ entry }) => sizeOf(entry) * COPIES,
            age: { maxMs: maxAgeMs, now },
          })
  }

  get(key: string): Remembered | null {
    return this.#cache?.get(key) ?? null
  }

  /** Not kept; but where its answer is kept, all its readers share the bodies of that. */
  apart(entry: Entry): Remembered {
    const kept = this.get(entry.key)
    const isSame = kept?.entry.completion.id === entry.completion.id
    return new Remembered(entry, isSame ? kept : null)
  }

  /** @returns what is remembered, even where nothing can be */
  set(entry: Entry): Remembered {
    const remembered = this.apart(entry)
    this.#cache?.set(entry.key, remembered)
    return remembered
  }

  delete(key: string): void {
    this.#cache?.delete(key)
  }
}

/** What an event stream repeats for each choice: twice the head of a chunk. */
const CHUNK_BYTES = 800

/** Bytes of an answer in its longest form, from above: a character may take six as JSON. */
function sizeOf({ completion }: Entry): number {
  const json = new TextEncoder().encode(JSON.stringify(completion)).length
  return json + CHUNK_BYTES * completion.choices.length
}
