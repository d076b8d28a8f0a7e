// Deltas: the neutral format between an upstream's wire and a visitor's answer. Folds deltas into a
// completion, and replays a completion as deltas.
import type { Choice, Completion, FinishReason, Logprobs, Usage } from './completion.ts'

/** Log probabilities from an upstream; upstream/normalise.ts computes missing offsets. */
export type TokenLogprobs = Omit<Logprobs, 'text_offset'> & { readonly text_offset?: number[] }

/**
 * A delta as an adapter reads it from a wire: with the upstream's own indices, and possibly
 * repeated, missing or late. upstream/normalise.ts normalises it.
 */
export type RawDelta =
  | {
      readonly kind: 'meta'
      readonly id?: string
      readonly model?: string
      readonly fingerprint?: string
      /** The number of choices in the chunk that follows, if there are several. */
      readonly choices?: number
    }
  /** `whole`: the text is all of the choice's text so far (a `message` in a chunk), not a piece. */
  | {
      readonly kind: 'text'
      readonly index: number
      readonly text: string
      readonly logprobs: TokenLogprobs | null
      readonly whole?: boolean
    }
  /**
   * `inferred`: the upstream did not send the reason, so the answer is served but not stored.
   * `onContent`: the reason was on a chunk with text or reasoning; some servers put one on every
   * chunk.
   */
  | {
      readonly kind: 'finish'
      readonly index: number
      readonly reason: FinishReason
      readonly inferred?: boolean
      readonly onContent?: boolean
    }
  /** A finish reason that means that the choice failed. */
  | { readonly kind: 'failed'; readonly index: number }
  /** `index`: the choice that is counted, as some upstreams count each choice, or null. */
  | { readonly kind: 'usage'; readonly index: number | null; readonly usage: Usage }
  /** Partial usage of the call so far: both numbers only grow, and each may be missing. */
  | { readonly kind: 'tokens'; readonly input?: number; readonly output?: number }
  /** What the upstream has written besides the text, such as reasoning, in bytes: it costs, too. */
  | { readonly kind: 'hidden'; readonly bytes: number }
  /** The terminator: `[DONE]`, `message_stop`, the end of a JSON body. */
  | { readonly kind: 'end' }
  /** The body was cut off or aborted after each choice had its reason. Not sent by adapters. */
  | { readonly kind: 'cut' }

/** The fields that are the same in every chunk of an answer. */
export type Head = Readonly<Omit<Completion, 'object' | 'choices' | 'usage'>>

/** A normalised delta: the head first, then texts, finishes and the usage. */
export type Delta =
  | { readonly kind: 'head'; readonly head: Head }
  | {
      readonly kind: 'text'
      readonly index: number
      readonly text: string
      readonly logprobs: Logprobs | null
    }
  | { readonly kind: 'finish'; readonly index: number; readonly reason: FinishReason }
  | { readonly kind: 'usage'; readonly usage: Usage; readonly estimated: boolean }

export type TextDelta = Extract<Delta, { kind: 'text' }>

/** A complete answer. */
export interface FoldedAnswer {
  readonly completion: Completion
  /** Whether the usage is estimated, as the upstream sent none that is usable. */
  readonly estimated: boolean
}

interface Parts {
  text: string
  logprobs: Logprobs | null
  reason: FinishReason | null
}

/**
 * Collects normalised deltas. `folded()` returns the complete answer, or null if parts are missing.
 */
export class Fold {
  #head: Head | null = null
  readonly #choices = new Map<number, Parts>()
  #usage: Usage | null = null
  #estimated = false

  add(delta: Delta): void {
    switch (delta.kind) {
      case 'head':
        this.#head = delta.head
        return
      case 'text': {
        const parts = this.#parts(delta.index)
        parts.text += delta.text
        if (delta.logprobs !== null) appendLogprobs(parts, delta.logprobs)
        return
      }
      case 'finish':
        this.#parts(delta.index).reason = delta.reason
        return
      case 'usage':
        this.#usage = delta.usage
        this.#estimated = delta.estimated
        return
      default:
        delta satisfies never
    }
  }

  /** The texts of all choices so far. */
  get text(): string {
    return [...this.#choices.values()].map(({ text }) => text).join('')
  }

  folded(): FoldedAnswer | null {
    if (this.#head === null || this.#usage === null || this.#choices.size === 0) return null
    const choices: Choice[] = []
    for (const [index, { text, logprobs, reason }] of this.#choices) {
      if (reason === null) return null
      choices.push({ text, index, logprobs, finish_reason: reason })
    }
    choices.sort((a, b) => a.index - b.index)
    // In the documented order.
    const { id, created, model, ...fingerprint } = this.#head
    const head = { id, object: 'text_completion', created, model, ...fingerprint } as const
    return { completion: { ...head, choices, usage: this.#usage }, estimated: this.#estimated }
  }

  #parts(index: number): Parts {
    let parts = this.#choices.get(index)
    if (parts === undefined) {
      parts = { text: '', logprobs: null, reason: null }
      this.#choices.set(index, parts)
    }
    return parts
  }
}

/** Replays a completion as deltas: the head, each choice's text and finish, the usage. */
export function replay({ completion, estimated }: FoldedAnswer): Delta[] {
  const { object: _object, choices, usage, ...head } = completion
  const deltas: Delta[] = [{ kind: 'head', head }]
  for (const { index, text, logprobs, finish_reason } of choices) {
    if (text !== '' || logprobs !== null) deltas.push({ kind: 'text', index, text, logprobs })
    deltas.push({ kind: 'finish', index, reason: finish_reason })
  }
  deltas.push({ kind: 'usage', usage, estimated })
  return deltas
}

function appendLogprobs(parts: Parts, more: Logprobs): void {
  parts.logprobs ??= { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] }
  const { tokens, token_logprobs, top_logprobs, text_offset } = parts.logprobs
  append(tokens, more.tokens)
  append(token_logprobs, more.token_logprobs)
  append(text_offset, more.text_offset)
  if (more.top_logprobs === null) parts.logprobs.top_logprobs = null
  else if (top_logprobs !== null) append(top_logprobs, more.top_logprobs)
}

/** Not `push(...items)`: a long list exceeds the argument limit. */
function append<T>(list: T[], items: readonly T[]): void {
  for (const item of items) list.push(item)
}
