// The conversation of the playground: its turns, as data and in the page. Inserts text as text only.
import { at } from './dom.js'
import { follow } from './follow.js'

/** @typedef {{ role: 'user' | 'assistant', content: string }} Turn */

/** @type {Readonly<Record<Turn['role'], string>>} */
const speakers = { user: 'You', assistant: 'Assistant' }

export class Conversation {
  /** @type {Turn[]} */
  #turns = []
  /** The answer that is arriving. @type {HTMLElement | null} */
  #answer = null

  get isEmpty() {
    return this.#turns.length === 0
  }

  /**
   * The turns up to the last message of the user, and this one, if any.
   *
   * @param {string} message
   * @returns {Turn[]}
   */
  asked(message) {
    const last = this.#turns.findLastIndex(({ role }) => role === 'user')
    if (message === '' && last !== -1) return this.#turns.slice(0, last + 1)
    return [...this.#turns, { role: 'user', content: message }]
  }

  /** Begins an answer to these turns. @param {Turn[]} turns */
  begin(turns) {
    for (const { role, content } of turns.slice(this.#turns.length)) show(role, content)
    // An answer that is asked for again leaves the page.
    for (const _ of this.#turns.slice(turns.length)) at('log').lastElementChild?.remove()
    this.#turns = turns
    this.#answer = show('assistant', '')
  }

  /** Adds text to the answer. @param {string} text */
  append(text) {
    follow(at('log'), () => this.#answer?.append(text))
  }

  /** Ends the answer: what has arrived is a turn, unless it is nothing. */
  end() {
    const content = this.#answer?.textContent ?? ''
    if (content === '') at('log').lastElementChild?.remove()
    else this.#turns = [...this.#turns, { role: 'assistant', content }]
    this.#answer = null
  }

  /** Removes the last message, which the endpoint has refused, and returns it. */
  withdraw() {
    at('log').lastElementChild?.remove()
    return this.#turns.pop()?.content ?? ''
  }

  clear() {
    this.#turns = []
    at('log').replaceChildren()
  }
}

/** Shows a turn, and returns the element of its text. @param {Turn['role']} role @param {string} content */
function show(role, content) {
  const turn = document.createElement('div')
  const speaker = document.createElement('span')
  const text = document.createElement('p')
  turn.className = `turn ${role}`
  speaker.className = 'quiet'
  speaker.textContent = speakers[role]
  text.textContent = content
  turn.append(speaker, text)
  const log = at('log')
  log.append(turn)
  log.scrollTop = log.scrollHeight
  return text
}
