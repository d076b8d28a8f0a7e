import { follow } from '../follow.js'
import { consume, EdgeElement, make } from './element.js'
import { showText } from './markdown.js'
import { isTooLong } from './words.js'

/** @import { CompletionError } from '../client.d.ts' */

/** @typedef {{ role: 'user' | 'assistant', content: string, box: HTMLElement, text: HTMLElement }} Turn */

/** A conversation. It is kept as long as the element is, and sent whole with each message. */
export class EdgeChat extends EdgeElement {
  static observedAttributes = ['endpoint', 'turnstile', 'placeholder', 'greeting', 'texts']

  /** @type {Turn[]} */
  #turns = []
  /** The turns before this one are not sent any more. */
  #first = 0
  #isRunning = false
  #greeting = make('div', 'message assistant greeting')
  // A landmark, for pages that have the element outside of theirs.
  #box = make('section', 'box', { className: 'chat' })
  #log = make('div', 'log', { role: 'log', ariaLive: 'polite' })
  #status = make('span', 'status', { role: 'status' })
  #retry = make('button', 'button retry', { hidden: true })
  #input = make('textarea', 'input', { rows: 1, enterKeyHint: 'send' })
  #send = make('button', 'button send')
  #note = make('p', 'note')

  /** @param {ShadowRoot} root @override */
  build(root) {
    const box = this.#box
    const state = make('div', 'state')
    const form = make('div', 'form')
    state.append(this.#status, this.#retry)
    form.append(this.#input, this.#send)
    this.#log.append(this.#greeting)
    box.append(this.#log, state, form, this.#note)
    root.append(box)
    this.#retry.onclick = () => this.#ask()
    this.#send.onclick = () => (this.#isRunning ? this.stop() : this.#submit())
    box.onkeydown = (event) => {
      const { key, ctrlKey, metaKey, shiftKey, isComposing, keyCode } = event
      if (key === 'Escape' && this.#isRunning) {
        consume(event)
        this.stop()
      }
      if (event.target !== this.#input || ctrlKey || metaKey) return
      // Typing here must not trigger the page's shortcuts.
      if (key.length === 1) event.stopPropagation()
      // In Safari, the Enter that ends a composition has this key code only.
      if (key !== 'Enter' || shiftKey || isComposing || keyCode === 229) return
      consume(event)
      this.#submit()
    }
  }

  /** @override */
  update() {
    const { texts } = this
    this.#box.ariaLabel = this.#log.ariaLabel = texts.label
    this.#input.ariaLabel = texts.message
    this.#input.placeholder = this.read('placeholder', texts.message)
    this.#retry.textContent = texts.retry
    this.#note.textContent = texts.note
    showText(this.#greeting, this.read('greeting'))
    this.#greeting.hidden = !this.read('greeting')
    this.#setRunning(this.#isRunning)
  }

  /** @override */
  focus() {
    this.#input.focus()
  }

  #submit() {
    const content = this.#input.value.trim()
    this.focus()
    if (!content || this.#isRunning) return
    this.#input.value = ''
    this.#add('user', content)
    this.#ask()
  }

  /** Asks for an answer to the last message of the visitor; an earlier one is replaced. */
  async #ask() {
    if (this.#turns.at(-1)?.role === 'assistant') this.#drop()
    const signal = this.begin()
    this.#say('')
    this.#setRunning(true)
    this.focus()
    const turn = this.#add('assistant', '')
    try {
      await this.#receive(turn, signal)
      if (!turn.content) throw { code: 'empty' }
      this.emit('answer', { text: turn.content })
    } catch (error) {
      const { stopped, long } = this.texts
      const reason = signal.aborted ? stopped : this.fail(error)
      this.#say(reason)
      if (!turn.content) this.#drop()
      // What cannot be sent can be corrected.
      if (reason === long) {
        this.#retry.hidden = true
        const text = this.#drop()
        // What has been typed meanwhile stays.
        this.#input.value ||= text
      }
    }
    follow(this.#log, () => {
      showText(turn.text, turn.content)
      this.#setRunning(false)
    })
  }

  /** Removes the last turn, and returns its text. */
  #drop() {
    const turn = this.#turns.pop()
    turn?.box.remove()
    return turn?.content ?? ''
  }

  /** @param {Turn} turn @param {AbortSignal} signal */
  async #receive(turn, signal) {
    const { chat } = await this.client()
    const model = this.read('prompt') || this.read('model')
    const variables = this.json('variables')
    const options = { ...(model && { model }), ...(variables && { variables }), signal }
    for (let first = this.#first; ; ) {
      const messages = this.#turns.slice(first, -1).map(({ role, content }) => ({ role, content }))
      try {
        for await (const text of chat(messages, { ...options, stream: true })) {
          signal.throwIfAborted()
          turn.content += text
          follow(this.#log, () => showText(turn.text, turn.content, false))
        }
        this.#first = first
        return
      } catch (error) {
        if (!isTooLong(/** @type {CompletionError} */ (error)) || messages.length < 3) throw error
        // The endpoint has limits. The older half is forgotten, up to a message of the visitor, once an
        // answer shows that the last message alone is not too long.
        first += messages.findIndex(({ role }, i) => role === 'user' && i >= messages.length / 2)
      }
    }
  }

  /** @param {Turn['role']} role @param {string} content */
  #add(role, content) {
    const box = make('div', `message ${role}`)
    const speaker = `${role === 'user' ? this.texts.you : this.texts.assistant}: `
    const text = make('div', 'text', { textContent: content })
    box.append(make('span', 'speaker', { className: 'unseen', textContent: speaker }), text)
    this.#log.append(box)
    // Not every browser lets the keyboard scroll what cannot be focused.
    this.#log.tabIndex = 0
    this.#log.scrollTop = this.#log.scrollHeight
    const turn = { role, content, box, text }
    this.#turns.push(turn)
    return turn
  }

  /** @param {string} text */
  #say(text) {
    this.#status.textContent = text
    this.#retry.hidden = !text
  }

  /** @param {boolean} isRunning */
  #setRunning(isRunning) {
    this.#isRunning = isRunning
    // Screen readers read an answer when it is whole.
    this.#log.ariaBusy = String(isRunning)
    this.#send.textContent = isRunning ? this.texts.stop : this.texts.send
  }
}
