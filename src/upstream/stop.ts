// `stop`: some servers, such as `transformers serve`, end an answer with the stop sequence, or with the
// token that completes it; others do not have the field. In OpenAI's API a text ends before it.
import type { Stage } from './trimmer.ts'

/** Cuts off the stop sequence that is complete first, and all that follows. */
export class StopCut implements Stage {
  readonly #stops: readonly string[]
  /** What may be the beginning of a stop sequence. */
  #held = ''
  isOver = false

  constructor(stops: readonly string[]) {
    this.#stops = stops
  }

  add(text: string): string {
    if (this.isOver) return ''
    const all = this.#held + text
    let [cut, end] = [all.length, Infinity]
    for (const stop of this.#stops) {
      const at = all.indexOf(stop)
      const isFirst = at + stop.length < end || (at + stop.length === end && at < cut)
      if (at !== -1 && isFirst) [cut, end] = [at, at + stop.length]
    }
    this.isOver = end !== Infinity
    if (!this.isOver) cut -= this.#begun(all)
    this.#held = this.isOver ? '' : all.slice(cut)
    return all.slice(0, cut)
  }

  end(): string {
    const held = this.#held
    this.#held = ''
    return held
  }

  /** The length of the longest beginning of a stop sequence that the text ends with. */
  #begun(text: string): number {
    let begun = 0
    for (const stop of this.#stops) {
      for (let length = Math.min(stop.length - 1, text.length); length > begun; length -= 1) {
        if (text.endsWith(stop.slice(0, length))) begun = length
      }
    }
    return begun
  }
}
