// The web components of edge-completions. They work in any page, and change nothing outside themselves.
import { EdgeAsk } from './ask.js'
import { EdgeChat } from './chat.js'
import { EdgeComplete } from './complete.js'
import { EdgeSummary } from './summary.js'

/** @type {Readonly<Record<string, CustomElementConstructor>>} */
const elements = {
  'edge-summary': EdgeSummary,
  'edge-chat': EdgeChat,
  'edge-complete': EdgeComplete,
  'edge-ask': EdgeAsk,
}

const registry = globalThis.customElements
for (const [name, element] of Object.entries(elements)) {
  // Not on a server, and not twice.
  if (!registry?.get(name)) registry?.define(name, element)
}
