// Clean deltas → the bytes of an event stream, by rules E1–E11 of the protocol notes: one `data:`
// line an event, LF only, the same shape in every chunk, `[DONE]` last. Decides nothing about time.
import type { Logprobs, Usage } from '../completion/completion.ts'
import type { Delta, Head } from '../completion/delta.ts'
import { toJson } from '../json.ts'

export const DONE = 'data: [DONE]\n\n'
/** Never `: ping`: one client drops the rest of that packet. */
export const KEEP_ALIVE = ':\n\n'

/** Encodes one reader's stream. `head` must come first; it is repeated in every chunk. */
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

  /** What never changes within one stream is turned to JSON once. */
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
    const odds = logprobs === null ? 'null' : toJson(logprobs)
    return `${this.#before}${toJson(text)},"index":${index},"logprobs":${odds},"finish_reason":${finish}${this.#after}`
  }

  #usage(usage: Usage): string {
    return this.#includeUsage ? `${this.#usageBefore}${toJson(usage)}}\n\n` : ''
  }
}

/** A failure after the status was sent. The stream ends after it, without `[DONE]`. */
export function errorEvent(body: unknown): string {
  return `data: ${toJson(body)}\n\n`
}
