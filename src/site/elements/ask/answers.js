import { make } from '../element.js'

/** @import { Answer } from './answer.js' */

/** So many questions with their answers are sent with the next one. */
const MAX_TURNS = 3

/** The answers of a conversation; otherwise only the last one. */
export class Answers {
  // What it says is announced as a whole, by the box.
  log = make('div', 'log', { role: 'log', ariaLive: 'off', hidden: true })
  /** @type {Answer[]} */
  #turns = []

  get isEmpty() {
    return !this.log.firstChild
  }

  /** Shows an answer that begins. Those before it stay if they belong to it. @param {Answer} answer @param {boolean} isChat */
  begin(answer, isChat) {
    if (!isChat) this.#turns = []
    this.log.replaceChildren(...this.#turns.map(({ box }) => box), answer.box)
    this.log.hidden = false
    // Not every browser lets the keyboard scroll what cannot be focused.
    this.log.tabIndex = 0
    this.log.scrollTop = this.log.scrollHeight
  }

  /** Keeps an answer that is whole. @param {Answer} answer */
  add(answer) {
    this.#turns.push(answer)
  }

  /** Removes an answer without text. @param {Answer} answer */
  drop(answer) {
    answer.box.remove()
    this.log.hidden = this.isEmpty
  }

  /** The messages that end with this question, without the oldest of them. @param {string} question @param {number} forgotten */
  messages(question, forgotten) {
    const earlier = this.#turns
      .slice(-MAX_TURNS)
      .slice(forgotten)
      .flatMap(({ question, content }) => [
        { role: /** @type {const} */ ('user'), content: question },
        { role: /** @type {const} */ ('assistant'), content },
      ])
    return [...earlier, { role: /** @type {const} */ ('user'), content: question }]
  }
}
