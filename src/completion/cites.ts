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

/** Some clients read no more than 16 KB of headers: Node's fetch fails. */
const MAX_CHARS = 8000
const MAX_TITLE_CHARS = 200

/**
 * A link to each passage in the order of their numbers (RFC 8288), with titles in UTF-8 (RFC 8187),
 * for which the addresses leave room; null if the answer is made from no passages.
 */
export function linkHeader(cites: readonly Cite[] | null | undefined): string | null {
  if (!cites) return null
  const bare = bareLinks(shortened(cites.map(({ url }) => url)))
  const room = MAX_CHARS - bare.join(', ').length
  const titles = cites.map(({ title }) => encoded(title, room / cites.length))
  return bare.map((link, i) => `${link}${titles[i]}`).join(', ')
}

const bareLinks = (urls: readonly string[]) =>
  urls.map((url) => `<${url}>; rel="cite"; title*=UTF-8''`)

/**
 * The addresses, shortened until a header has room for all of them: the longest lose their
 * fragment and, if that is not enough, their path. None is left out, since they are numbered.
 */
function shortened(urls: readonly string[]): string[] {
  const short = [...urls]
  for (const rest of [/#.*/, /(?<=:\/\/[^/]*)\/.*/]) {
    const longest = [...short.entries()].sort(([, a], [, b]) => b.length - a.length)
    for (const [i, url] of longest) {
      if (bareLinks(short).join(', ').length <= MAX_CHARS) return short
      short[i] = url.replace(rest, '')
    }
  }
  return short
}

/** As much of a title as fits in `maxChars` characters. */
function encoded(title: string, maxChars: number): string {
  let text = ''
  for (const character of truncate(title, MAX_TITLE_CHARS).toWellFormed()) {
    const code = encodeURIComponent(character).replace(/['()*]/, hexOf)
    if (text.length + code.length > maxChars) break
    text += code
  }
  return text
}

const hexOf = (sign: string) => `%${sign.charCodeAt(0).toString(16)}`
