// One remembered answer with its times, and its reading back from a text that may hold anything.
// Stored under the cache key in KV as JSON; see kv.ts for key and TTL.
import * as v from 'valibot'
import { completionSchema } from '../completion/completion.ts'
import type { Folded } from '../completion/delta.ts'

/** Raised when the stored shape changes; entries of another schema are misses. */
const SCHEMA = 1

const unixSeconds = v.pipe(v.number(), v.safeInteger(), v.minValue(0))

const entrySchema = v.strictObject({
  schema: v.literal(SCHEMA),
  /** The cache key again: a value under another key is not this answer. */
  key: v.string(),
  /** The model's alias and the locked prompt's id: what a purge may name. */
  model: v.string(),
  prompt_id: v.nullable(v.string()),
  /** When the flight that brought it began. */
  stored_at: unixSeconds,
  fresh_until: unixSeconds,
  stale_until: unixSeconds,
  estimated: v.boolean(),
  completion: completionSchema,
})

/** Times are unix seconds. Fresh until `fresh_until`, then stale until `stale_until`, then gone. */
export type Entry = v.InferOutput<typeof entrySchema>

export type Freshness = 'fresh' | 'stale' | 'expired'

export interface EntryTimes {
  readonly nowS: number
  readonly freshSeconds: number
  /** How long it may be served after that, at most. */
  readonly staleSeconds: number
}

export interface EntryOwner {
  readonly key: string
  readonly model: string
  readonly promptId: string | null
}

export function createEntry(
  { completion, estimated }: Folded,
  { key, model, promptId }: EntryOwner,
  { nowS, freshSeconds, staleSeconds }: EntryTimes,
): Entry {
  const fresh_until = nowS + freshSeconds
  return {
    schema: SCHEMA,
    key,
    model,
    prompt_id: promptId,
    stored_at: nowS,
    fresh_until,
    stale_until: fresh_until + staleSeconds,
    estimated,
    completion,
  }
}

/** An entry from a stored text; null for anything that is not one of ours, whole, under this key. */
export function parseEntry(text: string, key: string): Entry | null {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return null
  }
  const result = v.safeParse(entrySchema, value)
  if (!result.success || result.output.key !== key) return null
  return isWhole(result.output.completion) ? result.output : null
}

export function freshness(entry: Entry, nowS: number): Freshness {
  if (nowS < entry.fresh_until) return 'fresh'
  return nowS < entry.stale_until ? 'stale' : 'expired'
}

/** Worth remembering: every choice came to its end by itself or by the limit, and says something. */
export function isWhole({ choices }: Entry['completion']): boolean {
  return (
    choices.every(({ finish_reason }) => finish_reason !== 'content_filter') &&
    choices.some(({ text }) => text !== '')
  )
}
