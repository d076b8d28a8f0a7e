// What the operator has declared void, as this isolate knows it. The list is written in one place
// (purge-register.ts) and read from KV: in the background before it grows old, and waited for where
// it has, so that no isolate serves what was purged more than `intervalMs` and KV's own 60 s ago. An
// answer that was asked for at or before the time of a purge is neither served nor stored.
import type { Report } from '../events.ts'
import type { KvNamespace } from './kv.ts'
import {
  mergedLists,
  noPurges,
  type Purge,
  type PurgeList,
  parsePurgeList,
  purgedAt,
  withPurge,
} from './purge-list.ts'

/** KV: the list (purge-list.ts). No TTL, as an answer may be kept for ever. */
export const PURGE_KEY = 'purge'

/** Longest wait for the list; KV may be slow, and an answer is not. */
const WAIT_MS = 300
/** After a list that did not come, so long the one at hand is good enough. */
const REST_MS = 10_000

/** The way to the one place where purges are written down. */
export interface PurgeDoor {
  /**
   * Resolves when the purge is on its way to all isolates.
   *
   * @returns the list with it, as its text
   * @throws where it could not be written: the operator must know
   */
  add(purge: Purge): Promise<string>
}

export interface PurgeOptions {
  /** How old the list may be that answers are judged by. */
  readonly intervalMs: number
}

export interface PurgeContext {
  readonly door: PurgeDoor
  readonly now: () => number
  readonly report: Report
  readonly waitUntil: (work: Promise<unknown>) => void
}

export class Purges {
  readonly #namespace: Pick<KvNamespace, 'get'>
  readonly #options: PurgeOptions
  readonly #context: PurgeContext
  #list: PurgeList = noPurges
  /** The text that was read last, so that a list that has not changed is not parsed again. */
  #text: string | null = null
  /** When the list at hand was asked for, and when any list was. */
  #readAt = Number.NEGATIVE_INFINITY
  #triedAt = Number.NEGATIVE_INFINITY
  #restUntil = Number.NEGATIVE_INFINITY

  constructor(namespace: Pick<KvNamespace, 'get'>, options: PurgeOptions, context: PurgeContext) {
    this.#namespace = namespace
    this.#options = options
    this.#context = context
  }

  /** The time, in unix ms, up to which an answer with these names is void; by the list at hand. */
  purgedAt(names: readonly string[]): number {
    this.#refresh()
    return purgedAt(this.#list, names)
  }

  /**
   * Until the list at hand is young enough to serve by. Each caller reads for itself, since a request
   * cannot wait for another one's. Never rejects.
   */
  async known(): Promise<void> {
    const { now, waitUntil } = this.#context
    const isKnown = this.#readAt > Number.NEGATIVE_INFINITY
    const isCurrent = now() - this.#readAt < this.#options.intervalMs
    if (isKnown && (isCurrent || now() < this.#restUntil)) return
    const loading = this.#load()
    waitUntil(loading)
    let timer: ReturnType<typeof setTimeout> | null = null
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(() => {
        this.#rest()
        resolve()
      }, WAIT_MS)
    })
    await Promise.race([loading, late])
    if (timer !== null) clearTimeout(timer)
  }

  /**
   * Declares things void: at once here, elsewhere when the list is next read.
   *
   * @throws what the door throws
   */
  async purge(purge: Purge): Promise<void> {
    this.#list = withPurge(this.#list, purge)
    const list = parsePurgeList(await this.#context.door.add(purge))
    if (list !== null) this.#list = mergedLists(this.#list, list)
  }

  /** Early enough for a busy isolate never to wait. */
  #refresh(): void {
    const { now, waitUntil } = this.#context
    const { intervalMs } = this.#options
    // Of no interval at all, each look-up waits for a list of its own.
    if (intervalMs === 0 || now() - this.#triedAt < intervalMs / 2) return
    waitUntil(this.#load())
  }

  async #load(): Promise<void> {
    const askedAt = this.#context.now()
    this.#triedAt = askedAt
    try {
      this.#take(await this.#namespace.get(PURGE_KEY))
      this.#readAt = Math.max(this.#readAt, askedAt)
      this.#restUntil = Number.NEGATIVE_INFINITY
    } catch {
      this.#rest()
      this.#context.report({ event: 'cache_failed', operation: 'get', reason: 'error' })
    }
  }

  #take(text: string | null): void {
    if (text === null || text === this.#text) return
    this.#text = text
    const list = parsePurgeList(text)
    if (list === null) {
      this.#context.report({ event: 'cache_failed', operation: 'get', reason: 'bad_value' })
    } else {
      // KV may show an older list than this isolate has seen.
      this.#list = mergedLists(this.#list, list)
    }
  }

  #rest(): void {
    this.#restUntil = this.#context.now() + REST_MS
  }
}
