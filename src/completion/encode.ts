// Encodes normalised deltas as server-sent events in the form that all known clients accept: one
// `data:` line per event, LF only, the same shape in every chunk, `[DONE]` last.

import { toJson } from '../json.ts'
import type { Logprobs, Usage } from './completion.ts'
import type { Delta, Head } from './delta.ts'

export const DONE = 'data: [DONE]\n\n'
/** Not `: ping`: at least one client drops the rest of that packet. */
export const KEEP_ALIVE = ':\n\n'

/** Encodes one reader's stream. The head must be first; every chunk repeats it. */
export class ChunkEncoder {
  readonly #includeUsage: boolean
  #before = ''
  #after = ''
  #usageBefore = ''

  constructor(options: { readonly includeUsage: boolean }) {
    this.#includeUsage = options.includeUsage
  }

  encode(delta: Delta): string {
    switch (delta.kind) {
      case 'head':
        this.#start(delta.head)
        return ''
      case 'text':
        return this.#chunk(delta.text, delta.index, delta.logprobs, 'null')
      case 'finish':
        return this.#chunk('', delta.index, null, `"${delta.reason}"`)
      case 'usage':
        return this.#usage(delta.usage)
      default:
        return delta satisfies never
    }
  }

  /** Serialises the parts that are the same in every chunk. */
  #start(head: Head): void {
    const { id, created, model, system_fingerprint } = head
    const shared = toJson({ id, object: 'text_completion', created, model }).slice(0, -1)
    const fingerprint =
      system_fingerprint === undefined ? '' : `,"system_fingerprint":${toJson(system_fingerprint)}`
    this.#before = `data: ${shared}${fingerprint},"choices":[{"text":`
    this.#after = this.#includeUsage ? '}],"usage":null}\n\n' : '}]}\n\n'
    this.#usageBefore = `data: ${shared}${fingerprint},"choices":[],"usage":`
  }

  #chunk(text: string, index: number, logprobs: Logprobs | null, finish: string): string {
    const scores = logprobs === null ? 'null' : toJson(logprobs)
    return `${this.#before}${toJson(text)},"index":${index},"logprobs":${scores},"finish_reason":${finish}${this.#after}`
  }

  #usage(usage: Usage): string {
    return this.#includeUsage ? `${this.#usageBefore}${toJson(usage)}}\n\n` : ''
  }
}

/** An error after the status was sent. The stream ends with it, without `[DONE]`. */
export function errorEvent(body: unknown): string {
  return `data: ${toJson(body)}\n\n`
}
