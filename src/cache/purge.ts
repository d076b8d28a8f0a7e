// What the operator has declared void, as one list in KV. Key `purge`, value JSON of unix seconds,
// no TTL: an entry may live for years. Isolates read it in the background, at most so often, and
// wait for it only once, before the first entry they would serve. An entry or flight that began at
// or before the time given is not served and not stored.
import * as v from 'valibot'
import type { Report } from '../events.ts'
import type { KvNamespace } from './kv.ts'

const PURGE_KEY = 'purge'
/** Longest wait for the first list; KV may be slow, and an answer is not. */
const FIRST_WAIT_MS = 300
/** KV takes one write per key and second. */
const WRITE_GAP_MS = 1000
/** Of one kind; the oldest give way to one time for all. */
const MAX_NAMES = 1000

const time = v.pipe(v.number(), v.safeInteger(), v.minValue(0))
/** Not a `record`, which drops names that objects have by birth, such as "constructor". */
const times = v.custom<Readonly<Record<string, number>>>(
  (value) =>
    typeof value === 'object' &&
    value !== null &&
    Object.values(value).every((at) => v.is(time, at)),
)
const listSchema = v.object({ all: time, prompts: times, models: times, keys: times })
type PurgeList = v.InferOutput<typeof listSchema>

/** What to declare void. */
export type PurgeTarget =
  | { readonly kind: 'all' }
  | { readonly kind: 'prompt' | 'model' | 'key'; readonly name: string }

/** What the list is asked about. */
export interface Purgeable {
  readonly key: string
  readonly model: string
  readonly promptId: string | null
}

export interface PurgeOptions {
  /** Between two looks at the list. */
  readonly intervalMs: number
}

export interface PurgeContext {
  readonly now: () => number
  readonly report: Report
  readonly waitUntil: (work: Promise<unknown>) => void
}

const nothing: PurgeList = { all: 0, prompts: {}, models: {}, keys: {} }
const kinds = { prompt: 'prompts', model: 'models', key: 'keys' } as const

export class Purges {
  readonly #namespace: KvNamespace
  readonly #options: PurgeOptions
  readonly #context: PurgeContext
  #list: PurgeList = nothing
  #readAt = Number.NEGATIVE_INFINITY
  #writtenAt = Number.NEGATIVE_INFINITY
  #known = false

  constructor(namespace: KvNamespace, options: PurgeOptions, context: PurgeContext) {
    this.#namespace = namespace
    this.#options = options
    this.#context = context
  }

  /** Whether something begun then (unix seconds) is void. */
  isVoid(what: Purgeable, begunAtS: number): boolean {
    return begunAtS <= this.purgedAtS(what)
  }

  /**
   * The time, in unix seconds, up to which it is void; 0: it never was purged. Looks at the list it
   * has; a newer one is on its way.
   */
  purgedAtS({ key, model, promptId }: Purgeable): number {
    this.#refresh()
    const { all, prompts, models, keys } = this.#list
    return Math.max(
      all,
      timeOf(models, model),
      timeOf(keys, key),
      promptId === null ? 0 : timeOf(prompts, promptId),
    )
  }

  /**
   * Until this isolate has seen the list: a new one would serve whatever was purged before it began.
   * Each caller reads for itself, since a request cannot wait for another one's. Never rejects.
   */
  async known(): Promise<void> {
    if (this.#known) return
    this.#readAt = this.#context.now()
    const loading = this.#load()
    this.#context.waitUntil(loading)
    let timer: ReturnType<typeof setTimeout> | null = null
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, FIRST_WAIT_MS)
    })
    await Promise.race([loading, late])
    if (timer !== null) clearTimeout(timer)
  }

  /**
   * Declares things void from now on: at once here, elsewhere when the list is next read.
   *
   * @throws whatever KV throws: an operator must know that it did not work
   */
  async purge(target: PurgeTarget): Promise<void> {
    const { now } = this.#context
    const stored = await this.#read()
    // After the wait: what this isolate has purged or read meanwhile stays.
    const list = newest(this.#list, stored)
    const nowS = Math.floor(now() / 1000)
    this.#list = target.kind === 'all' ? { ...nothing, all: nowS } : added(list, target, nowS)
    this.#readAt = now()
    this.#known = true
    await this.#write()
  }

  async #write(): Promise<void> {
    const { now } = this.#context
    const gap = this.#writtenAt + WRITE_GAP_MS - now()
    this.#writtenAt = now() + Math.max(0, gap)
    if (gap > 0) await new Promise((resolve) => setTimeout(resolve, gap))
    await this.#namespace.put(PURGE_KEY, JSON.stringify(this.#list))
  }

  #refresh(): void {
    const { now, waitUntil } = this.#context
    if (now() - this.#readAt < this.#options.intervalMs) return
    this.#readAt = now()
    waitUntil(this.#load())
  }

  async #load(): Promise<void> {
    let operation: 'get' | 'put' = 'get'
    try {
      const stored = await this.#read()
      this.#list = newest(this.#list, stored)
      this.#known = true
      if (this.#writtenAt < 0 || !lacks(stored, this.#list)) return
      // Somebody who had not seen this isolate's purge wrote after it: it must not be lost.
      operation = 'put'
      await this.#write()
    } catch {
      this.#context.report({ event: 'cache_failed', operation, reason: 'error' })
    }
  }

  async #read(): Promise<PurgeList> {
    const text = await this.#namespace.get(PURGE_KEY)
    if (text === null) return nothing
    try {
      return v.parse(listSchema, JSON.parse(text))
    } catch {
      this.#context.report({ event: 'cache_failed', operation: 'get', reason: 'bad_value' })
      return nothing
    }
  }
}

function timeOf(record: Readonly<Record<string, number>>, name: string): number {
  return Object.hasOwn(record, name) ? (record[name] ?? 0) : 0
}

function added(
  list: PurgeList,
  { kind, name }: Extract<PurgeTarget, { name: string }>,
  nowS: number,
): PurgeList {
  const field = kinds[kind]
  const entries = [...Object.entries(list[field]).filter(([other]) => other !== name), [name, nowS]]
  if (entries.length > MAX_NAMES) return { ...nothing, all: nowS }
  return { ...list, [field]: Object.fromEntries(entries) }
}

/** KV may show an older list than this isolate has written: no purge is ever taken back. */
function newest(a: PurgeList, b: PurgeList): PurgeList {
  const all = Math.max(a.all, b.all)
  const merged = (x: Record<string, number>, y: Record<string, number>) =>
    Object.fromEntries(
      [...new Set([...Object.keys(x), ...Object.keys(y)])]
        .map((name) => [name, Math.max(timeOf(x, name), timeOf(y, name))] as const)
        // The rest went with all.
        .filter(([, time]) => time > all),
    )
  return {
    all,
    prompts: merged(a.prompts, b.prompts),
    models: merged(a.models, b.models),
    keys: merged(a.keys, b.keys),
  }
}

/** Whether a list misses something that another one, which is no older, has. */
function lacks(list: PurgeList, other: PurgeList): boolean {
  const more = (field: 'prompts' | 'models' | 'keys') =>
    Object.entries(other[field]).some(([name, time]) => time > timeOf(list[field], name))
  return other.all > list.all || more('prompts') || more('models') || more('keys')
}
