import { EdgeElement } from './element.js'

/** @import { Ask } from './ask/ask.js' */

/**
 * The search box that answers questions. The rest of it is a file of its own, which is loaded with the
 * first one: pages without it need no more than this.
 */
export class EdgeAsk extends EdgeElement {
  static observedAttributes = ['endpoint', 'turnstile', 'placeholder', 'texts']

  /** @type {Ask | null} */
  #ask = null

  /** @override */
  async connectedCallback() {
    try {
      const { Ask } = await import('./edge-ask.js')
      this.#ask ??= new Ask(this)
      super.connectedCallback()
    } catch (error) {
      this.fail(error)
    }
  }

  /** @param {ShadowRoot} root @override */
  build(root) {
    this.#ask?.build(root)
  }

  /** @override */
  update() {
    this.#ask?.update()
  }

  /** @override */
  focus() {
    this.#ask?.focus()
  }
}
