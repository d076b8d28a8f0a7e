// What the elements have in common: a shadow tree with its styles, attributes, calls that end with
// the element, and words.
import css from './elements.css'

/** @import { Client } from '../client.d.ts' */

/** The sheet is shared by all elements. Strict policies allow it, unlike a style element. @type {CSSStyleSheet | null} */
let sheet = null

/** Servers that render pages may import this module: they have no HTMLElement. */
const Base = /** @type {typeof HTMLElement} */ (globalThis.HTMLElement ?? Object)

export class EdgeElement extends Base {
  #call = new AbortController()

  /** Fills the shadow tree. @param {ShadowRoot} _root */
  build(_root) {}
  /** Applies the attributes. */
  update() {}

  connectedCallback() {
    if (!this.shadowRoot) {
      const root = this.attachShadow({ mode: 'open' })
      sheet ??= new CSSStyleSheet()
      sheet.replaceSync(css)
      root.adoptedStyleSheets = [sheet]
      this.build(root)
    }
    this.update()
  }

  attributeChangedCallback() {
    if (this.shadowRoot && this.isConnected) this.update()
  }

  disconnectedCallback() {
    this.stop()
  }

  /** The Worker that served this module, or another one. */
  get endpoint() {
    return this.read('endpoint', import.meta.url)
  }

  /** The value of an attribute, `otherwise` without it. @param {string} name */
  read(name, otherwise = '') {
    return this.getAttribute(name) ?? otherwise
  }

  /** The signal of a new call. Only one call runs at a time. */
  begin() {
    this.stop()
    this.#call = new AbortController()
    return this.#call.signal
  }

  stop() {
    this.#call.abort()
  }

  /** @param {'answer' | 'error'} type @param {unknown} detail */
  emit(type, detail) {
    this.dispatchEvent(new CustomEvent(`edge-${type}`, { detail, bubbles: true, composed: true }))
  }
}

/**
 * Makes an element whose part has this name.
 *
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name
 * @param {string} part
 * @param {Partial<HTMLElementTagNameMap[Name]>} [properties]
 */
export function make(name, part, properties) {
  const element = Object.assign(document.createElement(name), properties)
  element.setAttribute('part', part)
  return element
}
