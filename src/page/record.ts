// One page's text as it is kept, and its reading back from a text that may hold anything.
//
// KV: key `p1:` and the SHA-256 of prompt, address, selector and `max_chars`: what is asked with one
// prompt takes no answer of another one away. Value a record as JSON; TTL as long as an answer made
// of it may be served, counted from the last time the record was written, which is at most a day
// before the page was last seen.
import * as v from 'valibot'
import { sha256 } from '../completion/fingerprint.ts'
import type { Validators } from './fetch.ts'

/** Raised when the stored shape or the way a text is read changes: the `1` in `p1:`. */
const SCHEMA = 1

const validator = v.nullable(v.pipe(v.string(), v.regex(/^[\x20-\x7e\x80-\xff]{1,512}$/)))

const recordSchema = v.strictObject({
  schema: v.literal(SCHEMA),
  /** Origin and path: a value under another key is not this page. */
  url: v.string(),
  text: v.pipe(
    v.string(),
    v.minLength(1),
    v.check((text) => text.isWellFormed()),
  ),
  etag: validator,
  last_modified: validator,
  /** When the page was last seen to be so, and when this was written; unix seconds. */
  read_at: v.pipe(v.number(), v.safeInteger(), v.minValue(0)),
  written_at: v.pipe(v.number(), v.safeInteger(), v.minValue(0)),
})

export type PageRecord = v.InferOutput<typeof recordSchema>

/** What a record is of. */
export interface RecordOwner {
  /** Id of the prompt that it is for. */
  readonly promptId: string
  /** Without query and fragment. */
  readonly url: URL
  readonly selector: string
  readonly maxChars: number
}

export async function recordKey({
  promptId,
  url,
  selector,
  maxChars,
}: RecordOwner): Promise<string> {
  return `p${SCHEMA}:${await sha256(JSON.stringify([promptId, url.href, selector, maxChars]))}`
}

/** The record of a page that has just been read. */
export function createRecord(
  { url }: RecordOwner,
  { text, validators }: { readonly text: string; readonly validators: Validators },
  nowS: number,
): PageRecord {
  const { etag, last_modified } = validators
  return {
    schema: SCHEMA,
    url: url.href,
    text,
    etag,
    last_modified,
    read_at: nowS,
    written_at: nowS,
  }
}

/** A record from a stored text that may hold anything; null for what is not of this page. */
export function parseRecord(text: string, { url, maxChars }: RecordOwner): PageRecord | null {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return null
  }
  const result = v.safeParse(recordSchema, value)
  if (!result.success) return null
  const record = result.output
  return record.url === url.href && record.text.length <= maxChars ? record : null
}
