// One remembered answer with its times, and its reading back from a text that may hold anything.
// Stored under its key in KV as JSON; see kv.ts for key and TTL.
import * as v from 'valibot'
import { completionSchema } from '../completion/completion.ts'
import type { Folded } from '../completion/delta.ts'
import { namesOf } from './names.ts'

/** Raised when the stored shape changes; entries of another schema than these two are misses. */
const SCHEMA = 2

const unixTime = v.pipe(v.number(), v.safeInteger(), v.minValue(0))

/** What may be sent back to a site as it came. */
const validator = v.pipe(v.string(), v.regex(/^[\x20-\x7e\x80-\xff]{1,512}$/))

const shared = {
  /** The key again: a value under another key is not this answer. */
  key: v.string(),
  fresh_until: unixTime,
  stale_until: unixTime,
  estimated: v.boolean(),
  completion: completionSchema,
}

/** What a prompt's last answer was made from; an ordinary entry's key says it all. */
const sourceSchema = v.strictObject({
  /** The cache key of what the upstream was sent. */
  key: v.string(),
  /** That key with the addresses of pages in place of their texts: it changes with the prompt, its
   * model and their parameters only. */
  recipe: v.string(),
  /** The versions of the pages, in the prompt's order (page/pages.ts). */
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
  /** What a purge may name it by (names.ts). */
  names: v.array(v.string()),
  /** When it was asked for, in unix milliseconds: what is purged at that time or later is void. */
  requested_at: unixTime,
  /** When it was last seen to answer a request, in unix ms: of two under one key the later one counts. */
  confirmed_at: unixTime,
  source: v.nullable(sourceSchema),
})

/** As version 1 stored it: with a time in seconds, and named by what it says of itself. */
const version1Schema = v.strictObject({
  schema: v.literal(1),
  ...shared,
  model: v.string(),
  prompt_id: v.nullable(v.string()),
  stored_at: unixTime,
})

const storedSchema = v.variant('schema', [entrySchema, version1Schema])

export type Source = v.InferOutput<typeof sourceSchema>

/** Fresh until `fresh_until`, then stale until `stale_until`, then gone; unix seconds. */
export type Entry = v.InferOutput<typeof entrySchema>

export type Freshness = 'fresh' | 'stale' | 'expired'

export interface EntryTimes {
  /** Unix milliseconds. */
  readonly requestedAt: number
  readonly nowS: number
  readonly freshSeconds: number
  /** How long it may be served after that, at most. */
  readonly staleSeconds: number
}

export interface EntryOwner {
  readonly key: string
  readonly names: readonly string[]
  readonly source: Source | null
}

export function createEntry(
  { completion, estimated }: Folded,
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

/** An entry from a stored text; null for anything that is not one of ours, whole, under this key. */
export function parseEntry(text: string, key: string): Entry | null {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return null
  }
  const result = v.safeParse(storedSchema, value)
  if (!result.success || result.output.key !== key) return null
  const entry = result.output.schema === SCHEMA ? result.output : fromVersion1(result.output)
  return isWhole(entry.completion) ? entry : null
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

/** The cache key of what the upstream was sent. */
export function sourceKey({ key, source }: Entry): string {
  return source?.key ?? key
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
