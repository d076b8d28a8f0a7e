// Makes one upstream call's raw deltas clean: known indices only, one finish each and nothing after
// it, usage once and plausible, and no end that was not earned.
import { GatewayError } from '../errors.ts'
import type { Doubt } from '../events.ts'
import { ChunkCounter } from './choice-index.ts'
import type { FinishReason, Logprobs, Usage } from './completion.ts'
import type { Delta, RawDelta, TokenLogprobs } from './delta.ts'

type TextDelta = Extract<Delta, { kind: 'text' }>
type FinishDelta = Extract<Delta, { kind: 'finish' }>
/** What belongs to one choice. */
type ChoiceDelta = Extract<RawDelta, { kind: 'text' | 'finish' | 'failed' }>

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
  /** Text that could not be told from another choice's before. */
  readonly texts: readonly TextDelta[]
  readonly finishes: readonly FinishDelta[]
  /** The upstream's own count, or null where it gave none worth believing. */
  readonly usage: Usage | null
  /** Null: the answer is whole. */
  readonly doubt: Doubt | null
  /** A choice that never came. */
  readonly missing: number | null
}

/**
 * How far an answer is, by its reasons. `claimed`: each choice has one, and yet more may come: text has
 * followed a reason before, or there is no text at all (some servers send a reason with each chunk, or
 * with each piece of reasoning). `finished`: each has one, and nothing speaks against it.
 */
export type Progress = 'running' | 'claimed' | 'finished'

interface ChoiceState {
  chars: number
  /** Half a character that waits for its other half. */
  half: string
  /** The last one. */
  finish: FinishReason | null
  inferred: boolean
  /** The last reason came on a chunk with content. */
  onContent: boolean
  /** It has its reason, and no text has come since. */
  isOver: boolean
  /** Text has followed a reason. */
  hasFalseEnd: boolean
  /** Text has come as pieces, and not only as whole messages. */
  inPieces: boolean
  /** What has come as whole messages. */
  message: string
  /** A log probability has come. */
  isScored: boolean
  /** Of the last token. */
  offset: number
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
  /** From the first index on that is none of ours, where one choice was asked for. */
  #counter: ChunkCounter<ChoiceDelta> | null = null
  readonly #usageOf = new Map<number, Usage>()
  #usage: Usage | null = null
  #input: number | null = null
  #output: number | null = null
  /** Choices that are not over. */
  #running: number
  #hasStrays = false
  /** Something has come under index 0. */
  #hasFirst = false
  #isCut = false
  #ended = false
  #anything = false
  #named = false

  constructor(options: NormalOptions) {
    this.#options = options
    this.#running = options.choices
    this.#choices = Array.from({ length: options.choices }, () => ({
      chars: 0,
      half: '',
      finish: null,
      inferred: false,
      onContent: false,
      isOver: false,
      hasFalseEnd: false,
      inPieces: false,
      message: '',
      isScored: false,
      offset: 0,
    }))
  }

  get progress(): Progress {
    if (this.#running > 0 || this.#choices.some(isReasoning)) return 'running'
    return this.#choices.some(mayGoOn) ? 'claimed' : 'finished'
  }

  /**
   * Adds the text a reader may see now to `texts`. Finishes are held back until `end()`: what comes
   * after a finish (more text, a filter's verdict, another reason) may still change it.
   *
   * @throws GatewayError `upstream_bad_response`: the upstream gave an error as its reason.
   */
  add(delta: RawDelta, texts: TextDelta[]): void {
    switch (delta.kind) {
      case 'meta':
        if (this.#named) return
        if (delta.id) this.meta.id ??= delta.id
        if (delta.model) this.meta.model ??= delta.model
        if (delta.fingerprint) this.meta.fingerprint ??= delta.fingerprint
        return
      case 'text':
      case 'finish':
      case 'failed':
        this.#place(delta, texts)
        return
      case 'usage':
        if (delta.index === null) this.#usage = delta.usage
        // With one choice every count is of that choice, even if the index counts chunks.
        else this.#usageOf.set(this.#choices.length === 1 ? 0 : delta.index, delta.usage)
        return
      case 'tokens':
        this.#input = larger(this.#input, delta.input)
        this.#output = larger(this.#output, delta.output)
        return
      case 'end':
        this.#ended = true
        return
      case 'cut':
        this.#isCut = true
        return
      default:
        delta satisfies never
    }
  }

  /**
   * Called when the body is over.
   * @throws GatewayError `upstream_truncated`: the body stopped before the answer did.
   * @throws GatewayError `upstream_bad_response`: it ended and held no answer.
   */
  end(): CallEnd {
    const texts: TextDelta[] = []
    const [first] = this.#choices
    for (const held of this.#counter?.rest(first?.isOver ?? false) ?? []) {
      this.#toChoice(held, 0, texts)
    }
    if (!this.#anything) {
      throw new GatewayError(
        'upstream_bad_response',
        "The upstream's answer was empty. Try again shortly.",
        { cause: { code: 'no_text' } },
      )
    }
    if (!this.#ended && this.#running > 0) {
      throw new GatewayError(
        'upstream_truncated',
        'Cannot finish the answer: the upstream stopped in the middle of it',
      )
    }
    const missing = this.#choices.findIndex(({ finish, chars }) => finish === null && chars === 0)
    return {
      texts,
      finishes: this.#choices.map(({ finish }, index) => ({
        kind: 'finish',
        index,
        reason: finish ?? 'stop',
      })),
      usage: this.#plausible(
        this.#usage ??
          sum(this.#usageOf, this.#options.perPrompt) ??
          joined(this.#input, this.#output),
      ),
      doubt: this.#doubt(),
      missing: missing === -1 || this.#choices.length === 1 ? null : missing,
    }
  }

  #doubt(): Doubt | null {
    const choices = this.#choices
    if (this.#hasStrays || (this.#counter?.dropped ?? 0) > 0) return 'unknown_index'
    const isDoubtful = this.progress !== 'finished' || choices.some((choice) => choice.onContent)
    if (this.#isCut && isDoubtful) return 'doubtful_end'
    // A server that never gives reasons ends with the terminator; one that gives some forgot one.
    const someSaid = choices.some(({ finish }) => finish !== null)
    if (choices.some(({ finish, inferred }) => inferred || (finish === null && someSaid))) {
      return 'no_reason'
    }
    const lacksLogprobs = choices.some(({ chars, isScored }) => chars > 0 && !isScored)
    return this.#options.logprobs && lacksLogprobs ? 'no_logprobs' : null
  }

  #place(delta: ChoiceDelta, texts: TextDelta[]): void {
    if (this.#choices.length > 1 || (this.#counter === null && delta.index === 0)) {
      this.#hasFirst ||= delta.index === 0
      this.#toChoice(delta, delta.index, texts)
      return
    }
    this.#counter ??= new ChunkCounter(this.#hasFirst)
    const isOver = this.#choices[0]?.isOver ?? false
    for (const own of this.#counter.take(delta.index, delta, isOver)) this.#toChoice(own, 0, texts)
  }

  #toChoice(delta: ChoiceDelta, index: number, texts: TextDelta[]): void {
    const choice = this.#choices[index]
    if (choice === undefined) this.#hasStrays = true
    else if (delta.kind === 'text') this.#text(choice, index, delta, texts)
    else this.#finish(choice, delta)
  }

  #finish(choice: ChoiceState, delta: Exclude<ChoiceDelta, { kind: 'text' }>): void {
    // A filter has taken the answer back: nothing said later makes it good.
    if (choice.finish === 'content_filter') return
    if (delta.kind === 'failed') {
      throw new GatewayError(
        'upstream_bad_response',
        'The upstream reported an error as the end of its answer. Try again in a moment.',
        { cause: { code: 'gave_up' } },
      )
    }
    this.#anything = true
    const { reason, inferred = false, onContent = false } = delta
    choice.finish = inferred ? (choice.finish ?? reason) : reason
    choice.inferred = inferred
    choice.onContent = onContent
    if (choice.isOver) return
    choice.isOver = true
    this.#running -= 1
  }

  #text(
    choice: ChoiceState,
    index: number,
    { text: said, logprobs, whole = false }: Extract<RawDelta, { kind: 'text' }>,
    texts: TextDelta[],
  ): void {
    const text = whole ? unsaid(choice, said) : said
    if (text === null) return
    const kept =
      logprobs !== null && this.#options.logprobs ? located(logprobs, choice, text) : null
    if (text === '' && kept === null) return
    this.#anything = true
    this.#named = true
    if (text !== '') {
      choice.inPieces ||= !whole
      if (choice.isOver && choice.finish !== 'content_filter') this.#reopen(choice)
    }
    choice.chars += text.length
    const complete = wholeCharacters(choice, text)
    if (complete !== '' || kept !== null) {
      texts.push({ kind: 'text', index, text: complete, logprobs: kept })
    }
  }

  /** More text: the reason was no end. The last one counts again only when the terminator comes. */
  #reopen(choice: ChoiceState): void {
    choice.isOver = false
    choice.hasFalseEnd = true
    this.#running += 1
  }

  /** Zero tokens for a text that is there is no count. */
  #plausible(usage: Usage | null): Usage | null {
    if (usage === null || usage.prompt_tokens === 0) return null
    const said = this.#choices.some((choice) => choice.chars > 0)
    return said && usage.completion_tokens === 0 ? null : usage
  }
}

/** Whether a choice's reason came with its reasoning, and no text yet: it has not even begun. */
function isReasoning({ finish, chars, onContent }: ChoiceState): boolean {
  return finish !== 'content_filter' && chars === 0 && onContent
}

/** Whether text may follow a choice's reason. A filter's is final. */
function mayGoOn({ finish, chars, hasFalseEnd }: ChoiceState): boolean {
  return finish !== 'content_filter' && (hasFalseEnd || chars === 0)
}

/** A character may come in two halves; bytes can only be made of both (bare text, RFC 3629). */
function wholeCharacters(choice: ChoiceState, text: string): string {
  const all = choice.half + text
  const last = all.charCodeAt(all.length - 1)
  const torn = last >= 0xd800 && last <= 0xdbff
  choice.half = torn ? all.slice(-1) : ''
  return torn ? all.slice(0, -1) : all
}

/**
 * What of a whole message has not been said; null where it repeats pieces that were. Where messages
 * are all that comes they hold either the text so far or the next piece.
 */
function unsaid(choice: ChoiceState, message: string): string | null {
  if (choice.inPieces) return null
  const text = message.startsWith(choice.message) ? message.slice(choice.message.length) : message
  choice.message += text
  return text
}

/** Offsets count UTF-16 units from the start of the choice's text, as the legacy wire does. */
function located(logprobs: TokenLogprobs, choice: ChoiceState, text: string): Logprobs {
  const { tokens, token_logprobs, top_logprobs } = logprobs
  const given = logprobs.text_offset
  const text_offset =
    given !== undefined && isAscending(given, choice.offset)
      ? given
      : offsetsIn(text, tokens).map((at) => Math.max(choice.offset, choice.chars + at))
  choice.offset = text_offset.at(-1) ?? choice.offset
  choice.isScored ||= token_logprobs.some((value) => value !== null)
  return { tokens, token_logprobs, top_logprobs, text_offset }
}

function isAscending(offsets: readonly number[], from: number): boolean {
  let last = from
  for (const offset of offsets) {
    if (offset < last) return false
    last = offset
  }
  return true
}

/**
 * Where tokens stand in a text. Their spelling may not be the text's: a byte of a character is written
 * "\\xc3", a space as a sign of its own. Such a token stands where the one before it ended.
 */
function offsetsIn(text: string, tokens: readonly string[]): number[] {
  const isSameLength = tokens.reduce((sum, { length }) => sum + length, 0) === text.length
  let at = 0
  return tokens.map((token) => {
    const found = isSameLength ? at : text.indexOf(token, at)
    if (found === -1) return at
    at = found + token.length
    return found
  })
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
