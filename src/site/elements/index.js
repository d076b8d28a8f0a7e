// The web components of edge-completions. They work in any page, and change nothing outside themselves.
import { EdgeSummary } from './summary.js'

/** @type {Readonly<Record<string, CustomElementConstructor>>} */
const elements = { 'edge-summary': EdgeSummary }

for (const [name, element] of Object.entries(elements)) {
  // Not on a server, and not twice.
  if (globalThis.customElements?.get(name) === undefined)
    globalThis.customElements?.define(name, element)
}
