// Cuts text off the choices of one call while they arrive.
import type { TextDelta } from '../completion/delta.ts'

/** Takes a text in pieces. What it returns does not depend on how the text is split. */
export interface Stage {
  add(text: string): string
  end(): string
  /** Whether the text has ended, and all that follows is cut off. */
  readonly isOver?: boolean
}

export class Trimmer {
  /** The stages of each choice. */
  readonly #choices: readonly (readonly Stage[])[]

  /** @param stages makes those of one choice, in order; without any, every text passes unchanged */
  constructor(stages: () => readonly Stage[], choices: number) {
    this.#choices = Array.from({ length: choices }, stages).filter(({ length }) => length > 0)
  }

  /** The deltas without what is cut off, or held back because it may have to be. */
  add(deltas: readonly TextDelta[]): readonly TextDelta[] {
    if (this.#choices.length === 0) return deltas
    return deltas.flatMap(({ index, text }) => {
      const stages = this.#choices[index] ?? []
      return textOf(
        index,
        stages.reduce((piece, stage) => stage.add(piece), text),
      )
    })
  }

  /** Whether the text of a choice ended before its upstream did. */
  isOver(index: number): boolean {
    return this.#choices[index]?.some(({ isOver }) => isOver) ?? false
  }

  /** What was held back and belongs to the answers. */
  rest(): readonly TextDelta[] {
    return this.#choices.flatMap((stages, index) =>
      textOf(
        index,
        stages.reduce((piece, stage) => stage.add(piece) + stage.end(), ''),
      ),
    )
  }
}

const textOf = (index: number, text: string): TextDelta[] =>
  text === '' ? [] : [{ kind: 'text', index, text, logprobs: null }]
