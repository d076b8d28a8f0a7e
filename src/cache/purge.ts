// What the operator has declared void, as one list in KV. Key `purge`, value JSON of unix seconds,
// no TTL: an entry may live for years. Isolates read it in the background, at most so often; an
// entry or flight that began at or before the time given is not served and not stored.
import * as v from 'valibot'
import type { Report } from '../events.ts'
import type { KvNamespace } from './kv.ts'

const PURGE_KEY = 'purge'
/** Of one kind; the oldest give way to one time for all. */
const MAX_NAMES = 1000

const time = v.pipe(v.number(), v.safeInteger(), v.minValue(0))
const times = v.record(v.string(), time)
const listSchema = v.object({ all: time, prompts: times, models: times, keys: times })
type PurgeList = v.InferOutput<typeof listSchema>

/** What to declare void. */
export type PurgeTarget =
  | { readonly kind: 'all' }
  | { readonly kind: 'prompt' | 'model' | 'key'; readonly name: string }

/** What the list is asked about; `begunAtS` in unix seconds. */
export interface Purgeable {
  readonly key: string
  readonly model: string
  readonly promptId: string | null
  readonly begunAtS: number
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

  constructor(namespace: KvNamespace, options: PurgeOptions, context: PurgeContext) {
    this.#namespace = namespace
    this.#options = options
    this.#context = context
  }

  /** Whether something begun then is void. Looks at the list it has; a newer one is on its way. */
  isVoid({ key, model, promptId, begunAtS }: Purgeable): boolean {
    this.#refresh()
    const { all, prompts, models, keys } = this.#list
    const purgedAt = Math.max(
      all,
      timeOf(models, model),
      timeOf(keys, key),
      promptId === null ? 0 : timeOf(prompts, promptId),
    )
    return begunAtS <= purgedAt
  }

  /**
   * Declares things void from now on: at once here, elsewhere when the list is next read.
   *
   * @throws whatever KV throws: an operator must know that it did not work
   */
  async purge(target: PurgeTarget): Promise<void> {
    const list = newest(this.#list, await this.#read())
    const nowS = Math.floor(this.#context.now() / 1000)
    this.#list = target.kind === 'all' ? { ...nothing, all: nowS } : added(list, target, nowS)
    this.#readAt = this.#context.now()
    await this.#namespace.put(PURGE_KEY, JSON.stringify(this.#list))
  }

  #refresh(): void {
    const { now, waitUntil } = this.#context
    if (now() - this.#readAt < this.#options.intervalMs) return
    this.#readAt = now()
    waitUntil(this.#load())
  }

  async #load(): Promise<void> {
    try {
      this.#list = newest(this.#list, await this.#read())
    } catch {
      this.#context.report({ event: 'cache_failed', operation: 'get', reason: 'error' })
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
  const merged = (x: Record<string, number>, y: Record<string, number>) =>
    Object.fromEntries(
      [...new Set([...Object.keys(x), ...Object.keys(y)])].map((name) => [
        name,
        Math.max(timeOf(x, name), timeOf(y, name)),
      ]),
    )
  return {
    all: Math.max(a.all, b.all),
    prompts: merged(a.prompts, b.prompts),
    models: merged(a.models, b.models),
    keys: merged(a.keys, b.keys),
  }
}
