// `echo`: the prompt before its completion. Few servers do it and many ignore it, so it is added here;
// only together with log probabilities must the upstream do it, and then it is checked.
import type { Delta } from '../completion/delta.ts'

type TextDelta = Extract<Delta, { kind: 'text' }>

/** Adds the prompt to each choice's first text. */
export class Echo {
  /** By choice; what has been said is gone. */
  readonly #unsaid: Map<number, string>

  /** @param prompts one for each choice, in their order; none: nothing is added */
  constructor(prompts: readonly string[]) {
    this.#unsaid = new Map(prompts.entries())
  }

  add(delta: TextDelta): TextDelta {
    const prompt = this.#unsaid.get(delta.index)
    if (prompt === undefined) return delta
    this.#unsaid.delete(delta.index)
    return { ...delta, text: prompt + delta.text }
  }

  /** Of the choices that ended without a text. */
  rest(): TextDelta[] {
    const deltas = [...this.#unsaid].map(
      ([index, text]) => ({ kind: 'text', index, text, logprobs: null }) as const,
    )
    this.#unsaid.clear()
    return deltas
  }
}

/** Whether each choice begins with its prompt, as the upstream was asked to make it. */
export class EchoCheck {
  /** What has not come yet, by choice. */
  readonly #missing: Map<number, string>
  #isOther = false

  /** @param prompts one for each choice; "" where it is not known as text */
  constructor(prompts: readonly string[]) {
    this.#missing = new Map([...prompts.entries()].filter(([, prompt]) => prompt !== ''))
  }

  see({ index, text }: TextDelta): void {
    const missing = this.#missing.get(index)
    if (missing === undefined) return
    if (text.startsWith(missing)) this.#missing.delete(index)
    else if (missing.startsWith(text)) this.#missing.set(index, missing.slice(text.length))
    else this.#isOther = true
  }

  get hasCome(): boolean {
    return !this.#isOther && this.#missing.size === 0
  }
}
