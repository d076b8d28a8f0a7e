// Makes one upstream call's raw deltas clean: known indices only, one finish each and nothing after
// it, usage once and plausible, and no end that was not earned. PROTOCOL 0.3 is its specification.
import { GatewayError } from '../errors.ts'
import type { FinishReason, Logprobs, Usage } from './completion.ts'
import type { Delta, RawDelta, TokenLogprobs } from './delta.ts'

type TextDelta = Extract<Delta, { kind: 'text' }>
type FinishDelta = Extract<Delta, { kind: 'finish' }>

export interface NormalOptions {
  /** How many choices this call asked for: indices 0 … choices − 1 are known. */
  readonly choices: number
  /** How many of them belong to one prompt. */
  readonly perPrompt: number
  /** False: the upstream's log probabilities are dropped. */
  readonly logprobs: boolean
}

/** How a call ended. */
export interface CallEnd {
  readonly finishes: readonly FinishDelta[]
  /** The upstream's own count, or null where it gave none worth believing. */
  readonly usage: Usage | null
  /** The upstream said of every choice how it ended, or said that all is said. */
  readonly whole: boolean
}

interface ChoiceState {
  chars: number
  /** Half a character that waits for its other half. */
  half: string
  finish: FinishReason | null
  inferred: boolean
}

/** Feed it every raw delta of one call in order, then ask for `end()`. */
export class Normaliser {
  /**
   * What the upstream calls itself and this answer: the first non-empty values before the first text,
   * since the head a reader has seen cannot change.
   */
  readonly meta: { id?: string; model?: string; fingerprint?: string } = {}
  readonly #options: NormalOptions
  readonly #choices: ChoiceState[]
  readonly #usageOf = new Map<number, Usage>()
  #usage: Usage | null = null
  #input: number | null = null
  #output: number | null = null
  #ended = false
  #anything = false
  #named = false

  constructor(options: NormalOptions) {
    this.#options = options
    this.#choices = Array.from({ length: options.choices }, () => ({
      chars: 0,
      half: '',
      finish: null,
      inferred: false,
    }))
  }

  /** The text a reader may see now, or null. Finishes are held back until `end()`: what comes
   * after a finish (a filter's verdict, a repeated reason, an error) may still change it. */
  add(delta: RawDelta): TextDelta | null {
    switch (delta.kind) {
      case 'meta':
        if (this.#named) return null
        if (delta.id) this.meta.id ??= delta.id
        if (delta.model) this.meta.model ??= delta.model
        if (delta.fingerprint) this.meta.fingerprint ??= delta.fingerprint
        return null
      case 'text':
        return this.#text(delta.index, delta.text, delta.logprobs)
      case 'finish': {
        const choice = this.#choices[delta.index]
        if (choice === undefined) return null
        this.#anything = true
        if (choice.finish === null || delta.reason === 'content_filter') {
          choice.finish = delta.reason
          choice.inferred = delta.inferred ?? false
        }
        return null
      }
      case 'usage':
        if (delta.index === null) this.#usage = delta.usage
        else this.#usageOf.set(delta.index, delta.usage)
        return null
      case 'tokens':
        this.#input = larger(this.#input, delta.input)
        this.#output = larger(this.#output, delta.output)
        return null
      case 'end':
        this.#ended = true
        return null
      default:
        return delta satisfies never
    }
  }

  /**
   * Called when the body is over.
   * @throws GatewayError `upstream_truncated`: the body stopped before the answer did.
   * @throws GatewayError `upstream_bad_response`: it ended and held no answer.
   */
  end(): CallEnd {
    if (!this.#anything) {
      throw new GatewayError(
        'upstream_bad_response',
        "Cannot use the upstream's answer: it was empty",
      )
    }
    // A server that never gives reasons ends with the terminator; one that gives some forgot one.
    const someSaid = this.#choices.some(({ finish }) => finish !== null)
    let whole = true
    const finishes: FinishDelta[] = []
    for (const [index, choice] of this.#choices.entries()) {
      if (choice.finish === null && !this.#ended) {
        throw new GatewayError(
          'upstream_truncated',
          'Cannot finish the answer: the upstream stopped in the middle of it',
        )
      }
      if (choice.finish === null && choice.chars === 0 && this.#choices.length > 1) {
        throw new GatewayError(
          'upstream_bad_response',
          "Cannot use the upstream's answer: it has fewer choices than were asked for",
        )
      }
      if (choice.inferred || (choice.finish === null && someSaid)) whole = false
      finishes.push({ kind: 'finish', index, reason: choice.finish ?? 'stop' })
    }
    return {
      finishes,
      usage: this.#plausible(
        this.#usage ??
          sum(this.#usageOf, this.#options.perPrompt) ??
          joined(this.#input, this.#output),
      ),
      whole,
    }
  }

  #text(index: number, text: string, logprobs: TokenLogprobs | null): TextDelta | null {
    const choice = this.#choices[index]
    if (choice === undefined || choice.finish !== null) return null
    const kept =
      logprobs !== null && this.#options.logprobs ? located(logprobs, choice.chars) : null
    if (text === '' && kept === null) return null
    this.#anything = true
    this.#named = true
    choice.chars += text.length
    const whole = wholeCharacters(choice, text)
    return whole === '' && kept === null
      ? null
      : { kind: 'text', index, text: whole, logprobs: kept }
  }

  /** Zero tokens for a text that is there is no count. */
  #plausible(usage: Usage | null): Usage | null {
    if (usage === null || usage.prompt_tokens === 0) return null
    const said = this.#choices.some((choice) => choice.chars > 0)
    return said && usage.completion_tokens === 0 ? null : usage
  }
}

/** A character may come in two halves; bytes can only be made of both (bare text, RFC 3629). */
function wholeCharacters(choice: ChoiceState, text: string): string {
  const all = choice.half + text
  const last = all.charCodeAt(all.length - 1)
  const torn = last >= 0xd800 && last <= 0xdbff
  choice.half = torn ? all.slice(-1) : ''
  return torn ? all.slice(0, -1) : all
}

/** Offsets count UTF-16 units from the start of the choice's text, as the legacy wire does. */
function located(logprobs: TokenLogprobs, start: number): Logprobs {
  const { tokens, token_logprobs, top_logprobs } = logprobs
  let offset = start
  const text_offset =
    logprobs.text_offset ??
    tokens.map((token) => {
      const at = offset
      offset += token.length
      return at
    })
  return { tokens, token_logprobs, top_logprobs, text_offset }
}

/** Each choice's own usage added up: a prompt was read once, the answers were written each. */
function sum(usageOf: ReadonlyMap<number, Usage>, perPrompt: number): Usage | null {
  if (usageOf.size === 0) return null
  const total = { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 }
  const read = new Set<number>()
  for (const [index, usage] of usageOf) {
    const prompt = Math.floor(index / perPrompt)
    total.completion_tokens += usage.completion_tokens
    total.total_tokens += read.has(prompt) ? usage.completion_tokens : usage.total_tokens
    if (!read.has(prompt)) total.prompt_tokens += usage.prompt_tokens
    read.add(prompt)
  }
  return total
}

function larger(known: number | null, more: number | undefined): number | null {
  return more === undefined ? known : Math.max(known ?? 0, more)
}

/** Counted in parts; the prompt alone, or the answer alone, is no count. */
function joined(input: number | null, output: number | null): Usage | null {
  if (input === null || output === null) return null
  return { prompt_tokens: input, completion_tokens: output, total_tokens: input + output }
}
