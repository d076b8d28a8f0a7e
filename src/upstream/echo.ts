// `echo`: puts the prompt before its completion. Many servers ignore it, so the prompt is added
// here. Only with log probabilities or a token prompt must the upstream echo, and then normalise.ts
// checks its echo.
import type { TextDelta } from '../completion/delta.ts'

/** Adds the prompt to each choice's first text. */
export class Echo {
  /** The prompts that have not been added yet, by choice. */
  readonly #pending: Map<number, string>

  /** @param prompts one for each choice, in order; an empty list adds nothing */
  constructor(prompts: readonly string[]) {
    this.#pending = new Map(prompts.entries())
  }

  add(delta: TextDelta): TextDelta {
    const prompt = this.#pending.get(delta.index)
    if (prompt === undefined) return delta
    this.#pending.delete(delta.index)
    return { ...delta, text: prompt + delta.text }
  }

  /** The prompts of choices that ended without text. */
  rest(): TextDelta[] {
    const deltas = [...this.#pending].map(
      ([index, text]) => ({ kind: 'text', index, text, logprobs: null }) as const,
    )
    this.#pending.clear()
    return deltas
  }
}
