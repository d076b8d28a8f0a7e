// A cached answer with its times, and the parser for stored values, which may hold anything. Stored
// in KV as JSON under its key; see kv.ts for the key and the TTL.

import * as v from 'valibot'
import { completionSchema } from '../completion/completion.ts'
import type { FoldedAnswer } from '../completion/delta.ts'
import { parseJson } from '../json.ts'
import { namesOf } from './names.ts'

/** Raised when the stored shape changes; entries with any other schema number are misses. */
const SCHEMA = 2

const unixTime = v.pipe(v.number(), v.safeInteger(), v.minValue(0))

/** A validator that can be sent back to the site unchanged. */
const validator = v.pipe(v.string(), v.regex(/^[\x20-\x7e\x80-\xff]{1,512}$/))

const shared = {
  /** The key it is stored under, repeated so that a value copied to another key is rejected. */
  key: v.string(),
  fresh_until: unixTime,
  stale_until: unixTime,
  estimated: v.boolean(),
  completion: completionSchema,
}

/** What a prompt's last answer was made from. For an ordinary entry the key is enough. */
const sourceSchema = v.strictObject({
  /** The cache key of the request that was sent upstream. */
  key: v.string(),
  /**
   * That key with page addresses in place of page texts: it changes only with the prompt, its model
   * and their parameters.
   */
  recipe: v.string(),
  /** The page versions, in the order of the prompt's variables (page/pages.ts). */
  pages: v.array(
    v.strictObject({
      read_as: v.string(),
      etag: v.nullable(validator),
      last_modified: v.nullable(validator),
    }),
  ),
})

const entrySchema = v.strictObject({
  schema: v.literal(SCHEMA),
  ...shared,
  /** The names it can be purged by (names.ts). */
  names: v.array(v.string()),
  /** When it was requested, in unix milliseconds. A purge at or after this time removes it. */
  requested_at: unixTime,
  /** When it was last confirmed current, in unix ms. For the same key, the later entry wins. */
  confirmed_at: unixTime,
  source: v.nullable(sourceSchema),
})

/** Schema 1: time in seconds, and names derived from the model and the prompt. */
const version1Schema = v.strictObject({
  schema: v.literal(1),
  ...shared,
  model: v.string(),
  prompt_id: v.nullable(v.string()),
  stored_at: unixTime,
})

const storedSchema = v.variant('schema', [entrySchema, version1Schema])

export type Source = v.InferOutput<typeof sourceSchema>

/** Fresh until `fresh_until`, then stale until `stale_until`, then expired; unix seconds. */
export type Entry = v.InferOutput<typeof entrySchema>

type Freshness = 'fresh' | 'stale' | 'expired'

export interface EntryTimes {
  /** Unix milliseconds. */
  readonly requestedAt: number
  readonly nowS: number
  readonly freshSeconds: number
  /** The longest it may be served stale, after `freshSeconds`. */
  readonly staleSeconds: number
}

export interface EntryOwner {
  readonly key: string
  readonly names: readonly string[]
  readonly source: Source | null
}

export function createEntry(
  { completion, estimated }: FoldedAnswer,
  { key, names, source }: EntryOwner,
  { requestedAt, nowS, freshSeconds, staleSeconds }: EntryTimes,
): Entry {
  const fresh_until = nowS + freshSeconds
  return {
    schema: SCHEMA,
    key,
    names: [...names],
    requested_at: requestedAt,
    confirmed_at: requestedAt,
    source,
    fresh_until,
    stale_until: fresh_until + staleSeconds,
    estimated,
    completion,
  }
}

/** Parses a stored value; null if it is not a valid, complete entry for this key. */
export function parseEntry(text: string, key: string): Entry | null {
  const value = parseJson(text)
  const result = v.safeParse(storedSchema, value)
  if (!result.success || result.output.key !== key) return null
  const entry = result.output.schema === SCHEMA ? result.output : fromVersion1(result.output)
  if (!isWorthStoring(entry.completion)) return null
  entryBytes(entry, text)
  return entry
}

const sizes = new WeakMap<Entry, number>()

/** The size of an entry as JSON in UTF-8, counted once. @param text its JSON, if it is at hand */
export function entryBytes(entry: Entry, text?: string): number {
  const known = sizes.get(entry)
  if (known !== undefined) return known
  const bytes = new TextEncoder().encode(text ?? JSON.stringify(entry)).length
  sizes.set(entry, bytes)
  return bytes
}

function fromVersion1({
  model,
  prompt_id: promptId,
  stored_at,
  ...rest
}: v.InferOutput<typeof version1Schema>): Entry {
  return {
    ...rest,
    schema: SCHEMA,
    names: namesOf({ key: rest.key, model, promptId }),
    requested_at: stored_at * 1000,
    confirmed_at: stored_at * 1000,
    source: null,
  }
}

/** The cache key of the request that was sent upstream. */
export function sourceKey({ key, source }: Entry): string {
  return source?.key ?? key
}

/** The age of an entry at one moment, in seconds. */
export interface Age {
  readonly freshness: Freshness
  /** Until it is stale: the `ttl` of `Cache-Status`, which is 0 or less once it is. */
  readonly ttlSeconds: number
  /** Since it became stale, with the second that has begun; 0 while it is fresh. */
  readonly staleSeconds: number
  /** Since the answer was created: the header `Age`. */
  readonly ageSeconds: number
}

export function ageOf({ fresh_until, stale_until, completion }: Entry, nowMs: number): Age {
  const nowS = Math.floor(nowMs / 1000)
  const ttlSeconds = fresh_until - nowS
  return {
    freshness: ttlSeconds > 0 ? 'fresh' : nowS < stale_until ? 'stale' : 'expired',
    ttlSeconds,
    staleSeconds: Math.max(0, 1 - ttlSeconds),
    ageSeconds: Math.max(0, nowS - completion.created),
  }
}

export function isFresh(entry: Entry, nowMs: number): boolean {
  return ageOf(entry, nowMs).freshness === 'fresh'
}

/** No choice was cut by a content filter, and at least one has text. */
export function isWorthStoring({ choices }: Entry['completion']): boolean {
  return (
    choices.every(({ finish_reason }) => finish_reason !== 'content_filter') &&
    choices.some(({ text }) => text !== '')
  )
}
