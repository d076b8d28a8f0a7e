// What the elements have in common: a shadow tree with its styles, attributes, calls that end with
// the element, and words.
import css from './elements.css'
import { explain, wordsWith } from './words.js'

/** @import { Client, ClientOptions, CompletionError } from '../client.d.ts' */

/** The sheet is shared by all elements. Strict policies allow it, unlike a style element. @type {CSSStyleSheet | null} */
let sheet = null

/** Servers that render pages may import this module: they have no HTMLElement. */
const Base = /** @type {typeof HTMLElement} */ (globalThis.HTMLElement ?? Object)

export class EdgeElement extends Base {
  #call = new AbortController()
  #connection = new AbortController()
  /** @type {Client | null} */
  #client = null

  /** Fills the shadow tree. @param {ShadowRoot} _root */
  build(_root) {}
  /** Applies the attributes. */
  update() {}
  /** Listens while the element is in the page. @param {AbortSignal} _signal */
  listen(_signal) {}

  connectedCallback() {
    if (!this.shadowRoot) {
      const root = this.attachShadow({ mode: 'open' })
      sheet ??= new CSSStyleSheet()
      sheet.replaceSync(css)
      root.adoptedStyleSheets = [sheet]
      this.build(root)
    }
    this.#connection = new AbortController()
    this.listen(this.#connection.signal)
    this.update()
  }

  /** @param {string} name */
  attributeChangedCallback(name) {
    // Another endpoint needs another client. Otherwise it is kept, with its visitor token.
    if (name === 'endpoint' || name === 'turnstile') this.#client = null
    if (this.shadowRoot && this.isConnected) this.update()
  }

  disconnectedCallback() {
    this.stop()
    this.#connection.abort()
  }

  /** The Worker that served this module, or another one. */
  get endpoint() {
    return this.read('endpoint', import.meta.url)
  }

  /** The value of an attribute, `otherwise` without it. @param {string} name */
  read(name, otherwise = '') {
    return this.getAttribute(name) ?? otherwise
  }

  /** An attribute that holds an object as JSON. @param {string} name @returns {Record<string, string> | null} */
  json(name) {
    try {
      return JSON.parse(this.read(name, 'null'))
    } catch {
      this.warn(`the attribute "${name}" is not JSON`)
      return null
    }
  }

  get texts() {
    return wordsWith(this.json('texts'))
  }

  /** The client of the endpoint, which is loaded with the first element that generates. @param {ClientOptions} [own] options of its own, once for all calls */
  async client(own) {
    const { createClient } = await import('../client.js')
    const sitekey = this.read('turnstile')
    const options = { endpoint: this.endpoint, ...(sitekey && { turnstile: { sitekey } }), ...own }
    this.#client ??= createClient(options)
    return this.#client
  }

  /** Tells the owner. @param {string} message */
  warn(message) {
    console.warn(`<${this.localName}>: ${message}`)
  }

  /** Reports a failure to the page and its owner, and returns it in the visitor's words. @param {unknown} cause */
  fail(cause) {
    const error = /** @type {CompletionError} */ (cause)
    if (error.message) this.warn(error.message)
    this.emit('error', error)
    return explain(error, this.texts)
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
 * @returns {HTMLElementTagNameMap[Name]}
 */
export function make(name, part, properties) {
  const element = document.createElement(name)
  element.setAttribute('part', part)
  return Object.assign(element, properties)
}

/** Keeps a key from having another effect. @param {Event} event */
export function consume(event) {
  event.preventDefault()
  event.stopPropagation()
}
