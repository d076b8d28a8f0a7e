import { make } from '../element.js'
import { excerpt, matchesOf } from './search.js'

/** @import { Hit } from './search.js' */

/**
 * The list under the search box. The focus stays in the box: the chosen hit is its active descendant.
 * https://www.w3.org/WAI/ARIA/apg/patterns/combobox/
 */
export class Hits {
  list = make('div', 'hits', { id: 'hits', role: 'listbox', hidden: true })
  #input

  /** @param {HTMLInputElement} input */
  constructor(input) {
    this.#input = input
    input.setAttribute('aria-controls', this.list.id)
    // A click would take the focus from the box, and close the list before it arrives.
    this.list.onmousedown = (event) => event.preventDefault()
    this.list.onclick = () => this.close()
    this.close()
  }

  get isOpen() {
    return !this.list.hidden
  }

  /** The hit that Enter follows. @returns {HTMLAnchorElement | null} */
  get chosen() {
    return this.isOpen ? this.list.querySelector('[aria-selected=true]') : null
  }

  /** @param {readonly Hit[]} hits @param {string} query */
  show(hits, query) {
    const matches = matchesOf(query)
    this.list.replaceChildren(...hits.map((hit, i) => option(hit, i, matches)))
    this.list.scrollTop = 0
    this.open()
  }

  open() {
    this.#set(this.list.childElementCount > 0)
  }

  close() {
    this.#set(false)
  }

  /** Chooses the next hit, or the one before; beyond the ends, none. @param {1 | -1} step */
  move(step) {
    if (!this.isOpen) return this.open()
    const options = [...this.list.children]
    const count = options.length + 1
    const at = this.chosen ? options.indexOf(this.chosen) : -1
    this.#choose(options[((at + 1 + step + count) % count) - 1])
  }

  /** @param {boolean} isOpen */
  #set(isOpen) {
    this.list.hidden = !isOpen
    this.#input.ariaExpanded = String(isOpen)
    this.#choose()
  }

  /** @param {Element} [hit] */
  #choose(hit) {
    for (const each of this.list.children) each.ariaSelected = String(each === hit)
    hit?.scrollIntoView({ block: 'nearest' })
    if (hit) this.#input.setAttribute('aria-activedescendant', hit.id)
    else this.#input.removeAttribute('aria-activedescendant')
  }
}

/** @param {Hit} hit @param {number} index @param {RegExp} matches */
function option({ url, title, heading, text }, index, matches) {
  const link = make('a', 'hit', { id: `hit-${index}`, role: 'option', tabIndex: -1 })
  if (/^https?:/.test(url)) link.href = url
  link.append(
    marked(make('span', 'title', { dir: 'auto' }), title, matches),
    marked(make('span', 'heading', { dir: 'auto' }), heading, matches),
    marked(make('span', 'passage', { dir: 'auto' }), excerpt(text, matches), matches),
  )
  return link
}

/** Adds a text whose matches are marked. @param {HTMLElement} target @param {string} text @param {RegExp} matches */
function marked(target, text, matches) {
  let end = 0
  for (const { index, 0: match } of text.matchAll(matches)) {
    target.append(text.slice(end, index), make('mark', 'match', { textContent: match }))
    end = index + match.length
  }
  target.append(text.slice(end))
  return target
}
