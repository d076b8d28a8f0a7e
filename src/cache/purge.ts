// This isolate's copy of the purge list. The list is written in one place (purge-register.ts) and
// read from KV: in the background before it is outdated, and awaited once it is. So no isolate
// serves an answer purged longer ago than `intervalMs` plus KV's own delay of 60 s. An answer
// requested at or before the time of a purge is neither served nor stored.
import { inTime } from '../deadline.ts'
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

/** The KV key of the list (purge-list.ts). Written without TTL: answers may be stored for years. */
export const PURGE_KEY = 'purge'

/** Longest wait for the list, so that a slow KV does not delay a cached answer further. */
const WAIT_MS = 300
/** How long the current list is used without waiting again after a read has failed or timed out. */
const REST_MS = 10_000

/** The connection to the purge register. */
export interface PurgeClient {
  /**
   * Resolves when the purge has been written to KV.
   *
   * @returns the formatted list, including the purge
   * @throws if it could not be written: the operator must learn about it
   */
  add(purge: Purge): Promise<string>
}

export interface PurgeDeps {
  readonly kv: Pick<KvNamespace, 'get'>
  /** The greatest age of the list at which it is used without waiting for a newer one. */
  readonly intervalMs: number
  readonly register: PurgeClient
  readonly now: () => number
  readonly report: Report
  readonly waitUntil: (work: Promise<unknown>) => void
}

export class Purges {
  readonly #deps: PurgeDeps
  #list: PurgeList = noPurges
  /** The text that was read last, so that an unchanged list is not parsed again. */
  #text: string | null = null
  /** When the read that returned the current list began. */
  #readAt = Number.NEGATIVE_INFINITY
  /** When the latest read began, successful or not. */
  #triedAt = Number.NEGATIVE_INFINITY
  #restUntil = Number.NEGATIVE_INFINITY

  constructor(deps: PurgeDeps) {
    this.#deps = deps
  }

  /** The time in unix ms up to which an answer with these names is void, by the current list. */
  purgedAt(names: readonly string[]): number {
    const { intervalMs, now, waitUntil } = this.#deps
    // In the background at half the interval, so that a busy isolate never waits. With an interval of
    // 0, each lookup waits for a read of its own (`known`).
    if (intervalMs > 0 && now() - this.#triedAt >= intervalMs / 2) waitUntil(this.#load())
    return purgedAt(this.#list, names)
  }

  /**
   * Waits until the list is recent enough to serve answers by. Each caller reads KV itself: in
   * Workers a request cannot await I/O that another request started. Never rejects.
   */
  async known(): Promise<void> {
    const { intervalMs, now, waitUntil } = this.#deps
    const isKnown = this.#readAt > Number.NEGATIVE_INFINITY
    const isCurrent = now() - this.#readAt < intervalMs
    if (isKnown && (isCurrent || now() < this.#restUntil)) return
    const loading = this.#load()
    waitUntil(loading)
    await inTime(WAIT_MS, loading, () => this.#rest())
  }

  /**
   * Purges: immediately in this isolate, in others when they next read the list.
   *
   * @throws if the purge could not be written
   */
  async purge(purge: Purge): Promise<void> {
    this.#list = withPurge(this.#list, purge)
    const list = parsePurgeList(await this.#deps.register.add(purge))
    if (list !== null) this.#list = mergedLists(this.#list, list)
  }

  async #load(): Promise<void> {
    const startedAt = this.#deps.now()
    this.#triedAt = startedAt
    try {
      this.#merge(await this.#deps.kv.get(PURGE_KEY))
      this.#readAt = Math.max(this.#readAt, startedAt)
      this.#restUntil = Number.NEGATIVE_INFINITY
    } catch {
      this.#rest()
      this.#failed('error')
    }
  }

  /** Merges the list from KV, which may be older than this isolate's. */
  #merge(text: string | null): void {
    if (text === null || text === this.#text) return
    this.#text = text
    const list = parsePurgeList(text)
    if (list === null) this.#failed('bad_value')
    else this.#list = mergedLists(this.#list, list)
  }

  #failed(reason: 'error' | 'bad_value'): void {
    this.#deps.report({ event: 'cache_failed', operation: 'get', reason })
  }

  #rest(): void {
    this.#restUntil = this.#deps.now() + REST_MS
  }
}
