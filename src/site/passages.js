// Passages of the owner's site in the playground: what a search finds, and what an answer was made from.
// Inserts texts as text only.
import { advice, sentence } from './advice.js'
import { citesIn } from './cites.js'
import { at, setText } from './dom.js'

/** @typedef {{ url: string, title: string, heading: string, text: string, score: number }} Passage */

/** The search that runs. A new one ends it. */
let running = new AbortController()

/** Lists the passages that match, as the model would be sent them. @param {string} query */
export async function search(query) {
  running.abort()
  running = new AbortController()
  const { signal } = running
  const path = `/v1/search?${new URLSearchParams({ q: query, limit: '10' })}`
  const startedAt = performance.now()
  setText('found', 'Searching…')
  try {
    const response = await fetch(path, { signal })
    const { data, error } = await response.json()
    if (!data) throw error
    const ms = Math.round(performance.now() - startedAt)
    setText('found', `${data.length} ${data.length === 1 ? 'passage' : 'passages'} in ${ms} ms`)
    at('passages').replaceChildren(...data.map(passageItem))
    at('search-address').textContent = path
  } catch (cause) {
    if (signal.aborted) return
    const { message, code = 'network' } = /** @type {{ message: string, code?: string }} */ (cause)
    at('passages').replaceChildren()
    setText('search-address', '')
    setText('found', `${sentence(message)} ${advice(code, null)}`)
  }
}

/** @param {Passage} passage */
function passageItem({ url, title, heading, text, score }) {
  const item = document.createElement('li')
  const note = document.createElement('span')
  const body = document.createElement('p')
  note.className = 'quiet'
  note.textContent = ` ${heading} · score ${score.toFixed(2)}`
  body.textContent = text
  item.append(link(url, title), note, body)
  return item
}

/** Lists what an answer was made from. @param {string | null} header `Link` of the answer */
export function showCites(header) {
  const cites = citesIn(header)
  at('sources').hidden = cites.length === 0
  at('cites').replaceChildren(
    ...cites.map(({ url, title }) => {
      const item = document.createElement('li')
      item.append(link(url, title))
      return item
    }),
  )
}

/** @param {string} url @param {string} title */
function link(url, title) {
  const element = document.createElement('a')
  if (/^https?:/.test(url)) element.href = url
  element.textContent = title || url
  return element
}
