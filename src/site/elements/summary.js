import { EdgeElement, make } from './element.js'
import { showText } from './markdown.js'

/** The stored summary of the page. It takes no room without one, and never causes a call of the model. */
export class EdgeSummary extends EdgeElement {
  static observedAttributes = [
    'prompt',
    'page',
    'variable',
    'endpoint',
    'fallback',
    'label',
    'note',
  ]

  // A landmark, for pages that have the element outside of theirs.
  #box = make('section', 'box', { className: 'summary' })
  #label = make('p', 'label')
  #text = make('div', 'text')
  #note = make('p', 'note')
  #slot = document.createElement('slot')
  #page = ''

  /** @param {ShadowRoot} root @override */
  build(root) {
    this.#box.append(this.#label, this.#text, this.#note)
    root.append(this.#box, this.#slot)
    this.#show('', '')
  }

  /** @param {AbortSignal} signal @override */
  listen(signal) {
    // A site that shows its next page without loading it changes the title, or the canonical link.
    const observer = new MutationObserver(() => {
      if (this.#page === this.#current) return
      this.#show('', '')
      this.update()
    })
    observer.observe(document.head, { subtree: true, childList: true, attributes: true })
    signal.onabort = () => observer.disconnect()
  }

  /** The address that names the page. */
  get #current() {
    const canonical = document.querySelector('link[rel~=canonical]')?.getAttribute('href')
    const href = this.read('page') || canonical || location.origin + location.pathname
    // A link completes an address, and never throws.
    return make('a', '', { href }).href
  }

  /** @override */
  async update() {
    const signal = this.begin()
    this.#page = this.#current
    let text = ''
    try {
      const url = new URL('/v1/completions', this.endpoint)
      // The same address as that of `complete()` with `cached`, for the browser's cache.
      url.search = `${new URLSearchParams({
        stream: 'false',
        prompt_id: this.read('prompt', 'summary'),
        [`var.${this.read('variable', 'page')}`]: this.#page,
      })}`
      const response = await fetch(url, { signal })
      const { choices, error } = await response.json()
      text = choices?.[0].text.trim()
      if (!text) throw error
    } catch (error) {
      if (signal.aborted) return
      this.#show('', this.read('fallback'))
      return this.emit('error', error)
    }
    if (signal.aborted) return
    this.#show(text, '')
    this.emit('answer', { text })
  }

  /** @param {string} text @param {string} fallback shown if there is no text, and no content */
  #show(text, fallback) {
    this.#box.ariaLabel = this.#label.textContent = this.read('label', 'Summary')
    this.#note.textContent = this.read('note', 'Written by AI')
    showText(this.#text, text)
    this.#box.hidden = text === ''
    this.#slot.hidden = text !== ''
    this.#slot.textContent = fallback
    this.hidden = !text && !fallback && !this.childElementCount && !this.textContent?.trim()
  }
}
