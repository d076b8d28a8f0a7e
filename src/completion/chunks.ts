// What the chunks of completions and of chats have in common: an event with a head, then one choice or,
// at the end, the usage.
import { toJson } from '../json.ts'
import type { Usage } from './completion.ts'
import type { Head } from './delta.ts'

/** Writes the events of one stream. The parts that are the same in each are made once. */
export class ChunkWriter {
  readonly #object: string
  readonly #includeUsage: boolean
  readonly #end: string
  #start = ''

  constructor(object: string, includeUsage: boolean) {
    this.#object = object
    this.#includeUsage = includeUsage
    this.#end = includeUsage ? '],"usage":null}\n\n' : ']}\n\n'
  }

  /** Must be called first. Writes nothing by itself. */
  head({ id, created, model, system_fingerprint }: Head): string {
    const head = { id, object: this.#object, created, model, system_fingerprint }
    this.#start = `data: ${toJson(head).slice(0, -1)},"choices":[`
    return ''
  }

  /** @param choice as JSON */
  choice(choice: string): string {
    return this.#start + choice + this.#end
  }

  usage(usage: Usage): string {
    return this.#includeUsage ? `${this.#start}],"usage":${toJson(usage)}}\n\n` : ''
  }
}
