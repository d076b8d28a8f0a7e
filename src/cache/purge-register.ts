// The one writer of the list of purges: two isolates that read, changed and wrote it each for itself
// would lose a purge whenever KV showed one of them an old list. A Durable Object runs it
// (objects/flight.ts): its own storage holds the list for ever, KV carries it to all isolates.
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

/** KV takes one write per key and second. */
const WRITE_GAP_MS = 1000

/** The object's own storage: one text under `PURGE_KEY`. */
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

  constructor(context: RegisterContext) {
    this.#context = context
  }

  /**
   * Writes a purge down, and the list to KV.
   *
   * @returns the list as its text
   * @throws whatever the storages throw. Once the object's own has it, it is never forgotten, and
   *   goes to KV with the next one at the latest
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

  /** What KV has counts, too: version 1 wrote the list there only. */
  async #open(): Promise<void> {
    const { storage, kv } = this.#context
    const texts = await Promise.all([storage.get(PURGE_KEY), kv.get(PURGE_KEY)])
    for (const text of texts) {
      const list = parsePurgeList(text ?? '')
      if (list !== null) this.#list = mergedLists(this.#list, list)
    }
  }

  /** One write for all that is purged until its turn comes. */
  async #write(): Promise<void> {
    const gap = this.#writtenAt + WRITE_GAP_MS - this.#context.now()
    // Also with nothing to wait for: whoever has begun this write has still to note it.
    await (gap > 0 ? new Promise((resolve) => setTimeout(resolve, gap)) : null)
    this.#nextWrite = null
    this.#writtenAt = this.#context.now()
    await this.#context.kv.put(PURGE_KEY, formatPurgeList(this.#list))
  }
}
