import { make } from '../element.js'
import { showText } from '../markdown.js'

/** @import { Cite } from '../../cites.js' */

/** A question and its answer, with links to the passages that the answer was made from. */
export class Answer {
  content = ''
  box = make('div', 'turn')
  #text = make('div', 'text')
  #message = make('div', 'message assistant')

  /** @param {string} question */
  constructor(question) {
    this.question = question
    this.#message.append(this.#text)
    const user = make('div', 'message user', { textContent: question, dir: 'auto' })
    this.box.append(user, this.#message)
  }

  /** What can be read. */
  get text() {
    return this.#text.textContent
  }

  /** Shows the text of a model. @param {string} content @param {readonly Cite[]} cites @param {boolean} [isWhole] */
  show(content, cites, isWhole = true) {
    this.content = content
    showText(this.#text, content, isWhole)
    linkCitations(this.#text, cites)
  }

  /** Lists the passages that the text refers to, or all of them. @param {string} label @param {readonly Cite[]} cites */
  showSources(label, cites) {
    const links = [...this.#text.querySelectorAll('a')].map(({ textContent }) => textContent)
    this.#list(
      label,
      cites.map(({ url, title }, i) =>
        links.length && !links.includes(`[${i + 1}]`) ? { url: '', title } : { url, title },
      ),
    )
  }

  /** Says that there is no answer. @param {string} text @param {string} label @param {readonly Cite[]} nearest */
  refuse(text, label, nearest) {
    this.#text.textContent = text
    this.#list(label, nearest)
  }

  /** A list of those that have an address, each with its number. @param {string} label @param {readonly Cite[]} cites */
  #list(label, cites) {
    const list = make('ol', 'sources')
    for (const [i, { url, title }] of cites.entries()) {
      if (!url) continue
      const item = make('li', 'source', { value: i + 1 })
      item.append(make('a', 'link', { href: url, textContent: title, dir: 'auto' }))
      list.append(item)
    }
    if (list.firstChild) this.#message.append(make('p', 'label', { textContent: label }), list)
  }
}

/** One number, or several: [1], [1, 2]. */
const citation = /\[(\d{1,2}(?:\s*,\s*\d{1,2})*)\]/g

/**
 * Makes links of the numbers that there are passages of, and of nothing else: a model repeats what the
 * pages say that it has read.
 *
 * @param {HTMLElement} target
 * @param {readonly Cite[]} cites
 */
function linkCitations(target, cites) {
  for (const link of target.querySelectorAll('a:not([part])')) link.replaceWith(...link.childNodes)
  target.normalize()
  const walker = document.createTreeWalker(target, NodeFilter.SHOW_TEXT)
  /** @type {Text[]} */
  const texts = []
  while (walker.nextNode()) texts.push(/** @type {Text} */ (walker.currentNode))
  for (const text of texts) {
    if (!text.parentElement?.closest('a, code')) text.replaceWith(...nodesOf(text.data, cites))
  }
}

/** @param {string} text @param {readonly Cite[]} cites */
function nodesOf(text, cites) {
  let end = 0
  /** @type {(Node | string)[]} */
  const nodes = []
  for (const { index, 0: all, 1: numbers = '' } of text.matchAll(citation)) {
    const links = numbers.split(',').map((number) => citeLink(Number(number), cites))
    if (links.every((link) => typeof link === 'string')) continue
    nodes.push(text.slice(end, index), ...links)
    end = index + all.length
  }
  return [...nodes, text.slice(end)]
}

/** @param {number} number @param {readonly Cite[]} cites @returns {Node | string} */
function citeLink(number, cites) {
  const { url, title = '' } = cites[number - 1] ?? {}
  const textContent = `[${number}]`
  if (!url) return textContent
  return make('a', 'cite', { href: url, textContent, title, ariaLabel: `${textContent} ${title}` })
}
