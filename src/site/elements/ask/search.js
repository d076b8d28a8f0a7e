// The site's search: the passages that match what is typed, and the words in them that do.

/** @typedef {{ url: string, title: string, heading: string, text: string }} Hit */

/**
 * @param {string} endpoint
 * @param {string} query
 * @param {string} limit
 * @param {AbortSignal} signal
 * @returns {Promise<Hit[]>} best first
 * @throws the endpoint's error, with its status
 */
export async function search(endpoint, query, limit, signal) {
  return await list(endpoint, `/v1/search?${new URLSearchParams({ q: query, limit })}`, signal)
}

/** A list of the endpoint. @param {string} endpoint @param {string} path @param {AbortSignal | null} [signal] */
export async function list(endpoint, path, signal = null) {
  const response = await fetch(new URL(path, endpoint), { signal })
  const { data, error } = await response.json()
  if (data) return data
  const retryAfter = Number(response.headers.get('retry-after'))
  throw { ...error, status: response.status, retryAfter }
}

const latin = 'a-z\u00df-\u024f'

/**
 * The words of a query, wherever another text has them, in the singular or plural, too. Only the longer
 * words of Latin letters count, as the short ones are everywhere.
 *
 * @param {string} query
 */
export function matchesOf(query) {
  const words = query.match(/[\p{L}\p{N}\p{M}]+/gu) ?? []
  const long = words.filter((word) => word.length > 3 || !isLatin(word))
  const forms = (long.length > 0 ? long : words).map((word) =>
    isLatin(word) ? `(?<![\\d${latin}])${word.replace(/(?<=.{3})s$/i, '')}[${latin}]*` : word,
  )
  // What no text has, for a query without words.
  return new RegExp(forms.join('|') || '$^', 'giu')
}

/** @param {string} word */
const isLatin = (word) => new RegExp(`^[\\d${latin}]+$`, 'i').test(word)

/**
 * The part of a text around the first match.
 *
 * @param {string} text
 * @param {RegExp} matches
 */
export function excerpt(text, matches) {
  const at = text.search(matches)
  if (at < 80) return text
  const start = text.indexOf(' ', at - 60)
  return `… ${text.slice(start === -1 || start > at ? at : start + 1)}`
}
