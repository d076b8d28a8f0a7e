// What <edge-ask> does. It is a file of its own, which pages without the element do not load.
import { follow } from '../../follow.js'
import { consume, make } from '../element.js'
import { isTooLong } from '../words.js'
import { Answer } from './answer.js'
import { Answers } from './answers.js'
import css from './ask.css'
import { Hits } from './hits.js'
import { Questions } from './questions.js'
import { search } from './search.js'
import { words } from './words.js'

/** @import { CompletionError, Message } from '../../client.d.ts' */
/** @import { EdgeElement } from '../element.js' */
/** @import { Words } from './words.js' */

/** A pause in typing that is worth a search. */
const PAUSE_MS = 150

const sheet = new CSSStyleSheet()
sheet.replaceSync(css)

export class Ask {
  #host
  #isRunning = false
  #search = new AbortController()
  #timer = 0
  /** Whether there is nothing to be searched. */
  #isOff = false
  #questions
  #answers = new Answers()
  #box = make('section', 'box', { className: 'ask', role: 'search' })
  #input = make('input', 'input', {
    role: 'combobox',
    autocomplete: 'off',
    ariaAutoComplete: 'list',
    enterKeyHint: 'send',
    dir: 'auto',
  })
  #hits = new Hits(this.#input)
  #button = make('button', 'button send')
  #status = make('p', 'status', { role: 'status' })
  #spoken = make('p', 'spoken', { className: 'unseen', role: 'status' })
  #note = make('p', 'note', { hidden: true })

  /** @param {EdgeElement} host */
  constructor(host) {
    this.#host = host
    this.#questions = new Questions(host)
  }

  /** @param {ShadowRoot} root */
  build(root) {
    const form = make('div', 'form')
    root.adoptedStyleSheets = [...root.adoptedStyleSheets, sheet]
    form.append(this.#input, this.#button, this.#hits.list)
    this.#box.append(form, this.#status, this.#answers.log, this.#note, this.#spoken)
    root.append(this.#box)
    this.#input.oninput = () => this.#type()
    this.#button.onclick = () => (this.#isRunning ? this.#host.stop() : this.#submit())
    this.#box.onkeydown = (event) => this.#press(event)
    this.#box.addEventListener('focusout', ({ relatedTarget }) => {
      if (!this.#box.contains(/** @type {Node | null} */ (relatedTarget))) this.#close()
    })
  }

  /** Applies the attributes. */
  update() {
    const texts = this.#texts
    this.#isOff = false
    this.#box.ariaLabel = this.#input.ariaLabel = this.#hits.list.ariaLabel = texts.label
    this.#answers.log.ariaLabel = texts.answers
    this.#input.placeholder = this.#host.read('placeholder', texts.placeholder)
    this.#note.textContent = texts.note
    this.#setRunning(this.#isRunning)
  }

  /** Ends the search, also one that would come. */
  #leave() {
    clearTimeout(this.#timer)
    this.#search.abort()
  }

  /** Closes the hits, and keeps those of a search that has not ended from opening. */
  #close() {
    this.#leave()
    this.#hits.close()
  }

  focus() {
    this.#input.focus()
  }

  /** @returns {Words} */
  get #texts() {
    return { ...this.#host.texts, ...words, ...this.#host.json('texts') }
  }

  /** @param {KeyboardEvent} event */
  #press(event) {
    const { key, ctrlKey, metaKey, isComposing, keyCode } = event
    if (key === 'Escape') {
      const { isOpen } = this.#hits
      if (isOpen || this.#isRunning) consume(event)
      if (!isOpen) this.#host.stop()
      this.#close()
    }
    if (event.target !== this.#input || ctrlKey || metaKey) return
    // Typing here must not trigger the page's shortcuts.
    if (key.length === 1) event.stopPropagation()
    if (key === 'Tab') this.#close()
    // In Safari, the Enter that ends a composition has this key code only.
    if (isComposing || keyCode === 229) return
    if (key === 'ArrowDown' || key === 'ArrowUp') {
      consume(event)
      this.#hits.move(key === 'ArrowDown' ? 1 : -1)
    } else if (key === 'Enter') {
      consume(event)
      const { chosen } = this.#hits
      if (chosen) chosen.click()
      else this.#submit()
    }
  }

  #type() {
    this.#leave()
    this.#say('')
    const query = this.#input.value.trim()
    if (!query || this.#isOff) this.#hits.close()
    else this.#timer = setTimeout(() => this.#find(query), PAUSE_MS)
  }

  /** Shows what matches, unless the visitor has typed on. @param {string} query */
  async #find(query) {
    this.#search = new AbortController()
    const { signal } = this.#search
    try {
      const hits = await this.#hitsOf(query, signal)
      if (signal.aborted) return
      this.#hits.show(hits, query)
      const { hits: some, none } = this.#texts
      this.#spoken.textContent = hits.length ? some.replace('{count}', `${hits.length}`) : none
    } catch (error) {
      if (signal.aborted) return
      this.#hits.close()
      this.#say(this.#explain(error))
    }
  }

  /** @param {string} query @param {AbortSignal} signal */
  #hitsOf(query, signal) {
    const { endpoint } = this.#host
    return search(endpoint, query, this.#host.read('limit', '6'), signal)
  }

  /** A failure in the visitor's words. @param {unknown} error */
  #explain(error) {
    const { code } = /** @type {Partial<CompletionError>} */ (error)
    const reason = this.#host.fail(error)
    this.#isOff = code === 'site_not_indexed'
    return this.#isOff ? this.#texts.off : reason
  }

  async #submit() {
    const question = this.#input.value.trim()
    if (!question || this.#isRunning) return
    this.#close()
    const signal = this.#host.begin()
    this.#say('')
    this.#setRunning(true)
    const answer = new Answer(question)
    try {
      await this.#receive(answer, signal)
    } catch (error) {
      await this.#fail(error, answer, signal)
    }
    this.#note.hidden = this.#answers.isEmpty
    this.#setRunning(false)
  }

  /** @param {Answer} answer @param {AbortSignal} signal */
  async #receive(answer, signal) {
    const isChat = await this.#questions.isChat()
    signal.throwIfAborted()
    this.#answers.begin(answer, isChat)
    for (let forgotten = 0; ; forgotten += 1) {
      const messages = this.#answers.messages(answer.question, forgotten)
      try {
        await this.#show(answer, messages, signal)
        break
      } catch (error) {
        // The endpoint has limits: without the oldest question and its answer, the rest may fit.
        if (!isTooLong(/** @type {CompletionError} */ (error)) || messages.length === 1) throw error
      }
    }
    if (!answer.content) throw { code: 'empty' }
    const { cites } = this.#questions
    this.#finish(answer)
    this.#answers.add(answer)
    if (isChat) this.#input.value = ''
    this.#spoken.textContent = answer.text
    this.#host.emit('answer', { text: answer.content, cites })
  }

  /** Shows an answer as it arrives. @param {Answer} answer @param {readonly Message[]} messages @param {AbortSignal} signal */
  async #show(answer, messages, signal) {
    for await (const text of await this.#questions.answer(messages, signal)) {
      signal.throwIfAborted()
      const { cites } = this.#questions
      follow(this.#answers.log, () => answer.show(answer.content + text, cites, false))
    }
  }

  /** Shows an answer to which nothing will be added. @param {Answer} answer */
  #finish(answer) {
    const { cites } = this.#questions
    follow(this.#answers.log, () => {
      answer.show(answer.content, cites)
      answer.showSources(this.#texts.sources, cites)
    })
  }

  /** @param {unknown} error @param {Answer} answer @param {AbortSignal} signal */
  async #fail(error, answer, signal) {
    const { code } = /** @type {Partial<CompletionError>} */ (error)
    if (answer.content) this.#finish(answer)
    else if (code === 'no_passages') return await this.#refuse(error, answer, signal)
    else this.#answers.drop(answer)
    this.#say(signal.aborted ? this.#texts.stopped : this.#explain(error))
  }

  /** Shows the nearest pages: no answer is no failure. @param {unknown} error @param {Answer} answer @param {AbortSignal} signal */
  async #refuse(error, answer, signal) {
    const { nothing, nearest } = this.#texts
    const hits = await this.#hitsOf(answer.question, signal).catch(() => [])
    const links = hits.map(({ url, title, heading }) => ({
      url,
      title: [title, heading].filter(Boolean).join(' › '),
    }))
    follow(this.#answers.log, () => answer.refuse(nothing, nearest, links))
    this.#spoken.textContent = answer.text
    this.#host.emit('error', error)
  }

  /** @param {string} text */
  #say(text) {
    this.#status.textContent = text
    this.#spoken.textContent = ''
  }

  /** @param {boolean} isRunning */
  #setRunning(isRunning) {
    const { ask, stop } = this.#texts
    this.#isRunning = isRunning
    this.#answers.log.ariaBusy = String(isRunning)
    this.#button.textContent = isRunning ? stop : ask
  }
}
