// The passages of the owner's site that an answer is made from, as its header `Link`.
import * as v from 'valibot'
import { truncate } from '../truncate.ts'

export const citeSchema = v.strictObject({
  /** With the anchor of the passage. */
  url: v.string(),
  title: v.string(),
})

/** A passage that the model was given. */
export type Cite = Readonly<v.InferOutput<typeof citeSchema>>

/** Some clients read no more than 16 KB of headers. */
const MAX_TITLE_CHARS = 200

/**
 * A link to each passage in the order of their numbers (RFC 8288), with titles in UTF-8 (RFC 8187);
 * null if the answer is made from no passages.
 */
export function linkHeader(cites: readonly Cite[] | null | undefined): string | null {
  return cites ? cites.map(linkOf).join(', ') : null
}

function linkOf({ url, title }: Cite): string {
  const encoded = encodeURIComponent(truncate(title, MAX_TITLE_CHARS).toWellFormed())
  const safe = encoded.replaceAll(/['()*]/g, (sign) => `%${sign.charCodeAt(0).toString(16)}`)
  return `<${url}>; rel="cite"; title*=UTF-8''${safe}`
}
