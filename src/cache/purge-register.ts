// The single writer of the purge list. If every isolate read, changed and wrote it, a purge would
// be lost whenever KV returned an outdated list. A Durable Object runs this (objects/flight.ts):
// its storage holds the list, and KV distributes it to all isolates.
import { inTime } from '../deadline.ts'
import type { KvNamespace } from './kv.ts'
import { PURGE_KEY } from './purge.ts'
import {
  formatPurgeList,
  mergedLists,
  noPurges,
  type Purge,
  type PurgeList,
  parsePurgeList,
  withPurge,
} from './purge-list.ts'

/** KV allows one write per second to the same key. */
const WRITE_GAP_MS = 1000
/** The longest wait for a write: one that hangs must not hold up all later purges. */
const WRITE_MS = 10_000

/**
 * The Durable Object's storage: one text under `PURGE_KEY`.
 *
 * @internal exported for its tests
 */
export interface RegisterStorage {
  get(key: string): Promise<string | undefined>
  put(key: string, value: string): Promise<void>
}

export interface RegisterContext {
  readonly storage: RegisterStorage
  readonly kv: Pick<KvNamespace, 'get' | 'put'>
  readonly now: () => number
}

export class PurgeRegister {
  readonly #context: RegisterContext
  #opened: Promise<void> | null = null
  #list: PurgeList = noPurges
  #writtenAt = Number.NEGATIVE_INFINITY
  #nextWrite: Promise<void> | null = null
  /** The latest write. Settled when it is over. */
  #lastWrite: Promise<unknown> = Promise.resolve()

  constructor(context: RegisterContext) {
    this.#context = context
  }

  /**
   * Stores a purge and writes the list to KV.
   *
   * @returns the formatted list
   * @throws errors of the object's storage and of KV. If only KV fails, the purge is stored and
   *   reaches KV with the next one at the latest.
   */
  async add(purge: Purge): Promise<string> {
    this.#opened ??= this.#open()
    await this.#opened.catch((error) => {
      this.#opened = null
      throw error
    })
    this.#list = withPurge(this.#list, purge)
    await this.#context.storage.put(PURGE_KEY, formatPurgeList(this.#list))
    this.#nextWrite ??= this.#write()
    await this.#nextWrite
    return formatPurgeList(this.#list)
  }

  /** Also merges the list in KV, because version 1 stored it only there. */
  async #open(): Promise<void> {
    const { storage, kv } = this.#context
    const texts = await Promise.all([storage.get(PURGE_KEY), kv.get(PURGE_KEY)])
    for (const text of texts) {
      const list = parsePurgeList(text ?? '')
      if (list !== null) this.#list = mergedLists(this.#list, list)
    }
  }

  /** Collects all purges until the next write is allowed, and writes them together. */
  async #write(): Promise<void> {
    // An older list must not arrive after a newer one.
    await this.#lastWrite
    const { kv, now } = this.#context
    const gap = this.#writtenAt + WRITE_GAP_MS - now()
    if (gap > 0) await new Promise((resolve) => setTimeout(resolve, gap))
    this.#nextWrite = null
    const put = kv.put(PURGE_KEY, formatPurgeList(this.#list))
    const writing = inTime(WRITE_MS, put, () => {
      throw new Error('KV did not answer in time')
    }).finally(() => {
      this.#writtenAt = now()
    })
    this.#lastWrite = writing.catch(() => {})
    await writing
  }
}
