import { consume, EdgeElement, make } from './element.js'

/** @import { Options, Prompt } from '../client.d.ts' */
/** @typedef {HTMLTextAreaElement | HTMLInputElement} Field */

/**
 * Suggests how the text of a field goes on, from where the cursor is. The field is changed only when
 * the visitor inserts the suggestion.
 */
export class EdgeComplete extends EdgeElement {
  static observedAttributes = ['endpoint', 'turnstile', 'texts']

  #isRunning = false
  /** What is suggested, and where it belongs. */
  #text = ''
  #at = 0
  #button = make('button', 'button complete', { ariaKeyShortcuts: 'Control+Space' })
  #status = make('span', 'status', { role: 'status' })
  #box = make('div', 'suggestion', { hidden: true })
  #shown = make('div', 'text', { role: 'status', dir: 'auto' })
  #label = make('p', 'note')
  #insert = make('button', 'button insert')
  #dismiss = make('button', 'button dismiss')

  /** @param {ShadowRoot} root @override */
  build(root) {
    const bar = make('div', 'state')
    const actions = make('div', 'state')
    bar.append(this.#button, this.#status)
    actions.append(this.#insert, this.#dismiss)
    this.#box.append(this.#shown, this.#label, actions)
    root.append(document.createElement('slot'), this.#box, bar)
    this.#button.onclick = () => (this.#isRunning ? this.#halt() : this.#ask())
    this.#insert.onclick = () => this.#accept()
    this.#dismiss.onclick = () => this.#clear(true)
  }

  /** @param {AbortSignal} signal @override */
  listen(signal) {
    const root = this.getRootNode()
    // The field may be replaced at any time, so its events are received above it.
    const options = { signal, capture: true }
    root.addEventListener(
      'keydown',
      (event) => this.#press(/** @type {KeyboardEvent} */ (event)),
      options,
    )
    root.addEventListener('input', ({ target }) => target === this.#field && this.#clear(), options)
    signal.addEventListener('abort', () => this.#clear())
  }

  /** @override */
  update() {
    const { texts } = this
    this.#insert.textContent = texts.insert
    this.#dismiss.textContent = texts.dismiss
    this.#label.textContent = texts.suggestion
    this.#setRunning(this.#isRunning)
  }

  /** Not any input: the others may hold a secret, or cannot tell where the cursor is. @returns {Field | null | undefined} */
  get #field() {
    const id = this.read('for')
    const root = /** @type {Document} */ (this.getRootNode())
    const found = id ? [root.getElementById(id)] : this.querySelectorAll('textarea, input')
    return /** @type {(Field | null)[]} */ ([...found]).find((each) =>
      /^(text(area)?|search)$/.test(`${each?.type}`),
    )
  }

  /** @param {KeyboardEvent} event */
  #press(event) {
    const { key, ctrlKey, shiftKey, altKey, metaKey } = event
    const isInField = event.target === this.#field
    const hasModifier = ctrlKey || shiftKey || altKey || metaKey
    if (isInField && ctrlKey && key === ' ') this.#ask()
    else if (isInField && key === 'Tab' && this.#text && !hasModifier) this.#accept()
    else if (
      key === 'Escape' &&
      (this.#isRunning || this.#text) &&
      (isInField || event.target === this)
    ) {
      this.#clear(true)
    } else return
    consume(event)
  }

  async #ask() {
    const field = this.#field
    if (!field) return this.warn(`cannot find the text field "${this.read('for')}"`)
    if (this.#isRunning) return
    this.#clear()
    this.#at = field.selectionEnd ?? field.value.length
    const before = field.value.slice(0, this.#at)
    if (!before.trim()) return field.focus()
    const signal = this.begin()
    this.#setRunning(true)
    try {
      const { stream } = await this.client()
      const [prompt, options] = this.#request(before, field.value.slice(this.#at))
      for await (const text of stream(prompt, { ...options, signal })) {
        signal.throwIfAborted()
        this.#text += text
        if (/\s$/.test(before)) this.#text = this.#text.trimStart()
        this.#shown.textContent = this.#text
        this.#box.hidden = !this.#text
      }
      if (!this.#text) throw { code: 'empty' }
      this.emit('answer', { text: this.#text })
    } catch (error) {
      if (signal.aborted) return
      this.#status.textContent = this.fail(error)
    }
    this.#setRunning(false)
  }

  /** @param {string} before @param {string} after @returns {[Prompt, Options]} */
  #request(before, after) {
    const [id, model] = [this.read('prompt'), this.read('model')]
    // Whole characters: half of one is no text.
    const text = [...before].slice(-Number(this.read('max-chars', '3000'))).join('')
    const suffix = this.hasAttribute('suffix') && [...after].slice(0, 1000).join('')
    const variables = { ...this.json('variables'), [this.read('variable', 'before')]: text }
    return [id ? { id, variables } : text, { ...(model && { model }), ...(suffix && { suffix }) }]
  }

  #accept() {
    const [field, text] = [this.#field, this.#text]
    this.#clear()
    if (!field) return
    field.focus()
    field.setSelectionRange(this.#at, this.#at)
    // Unlike a change of `value`, this can be undone, and the page hears of it.
    document.execCommand('insertText', false, text)
  }

  /** @param {boolean} [isDone] whether the visitor goes back to the field */
  #clear(isDone) {
    this.#halt()
    this.#text = this.#shown.textContent = this.#status.textContent = ''
    this.#box.hidden = true
    if (isDone) this.#field?.focus()
  }

  /** Ends the call. What has arrived stays. */
  #halt() {
    this.stop()
    this.#setRunning(false)
  }

  /** @param {boolean} isRunning */
  #setRunning(isRunning) {
    const { texts } = this
    this.#isRunning = isRunning
    // Screen readers read a suggestion when it is whole.
    this.#shown.ariaBusy = String(isRunning)
    this.#button.textContent = isRunning ? texts.stop : texts.complete
  }
}
