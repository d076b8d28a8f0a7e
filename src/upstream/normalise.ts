// Normalises the raw deltas of one upstream call: only known choices, one finish each with nothing
// after it, at most one plausible usage, and an error if the answer is incomplete.
import type { FinishReason, Logprobs, Usage } from '../completion/completion.ts'
import type { Delta, RawDelta, TextDelta, TokenLogprobs } from '../completion/delta.ts'
import { GatewayError, messages } from '../errors.ts'
import type { NotStoredReason } from '../events.ts'
import { type ChoiceDelta, ChunkCounter } from './choice-index.ts'
import { upstreamFailure } from './failure.ts'
import { bytesOfStrings } from './message.ts'

type FinishDelta = Extract<Delta, { kind: 'finish' }>

export interface NormalOptions {
  /** The number of choices requested in this call: indices 0 … choices − 1 are valid. */
  readonly choices: number
  /** The number of choices per prompt. */
  readonly perPrompt: number
  /** Whether log probabilities were requested; otherwise the upstream's are dropped. */
  readonly logprobs: boolean
  /** `echo`: the texts that the upstream must put before the text of each choice. */
  readonly echoed: readonly string[]
  /** Whether the usage was requested of a stream. */
  readonly usageRequested?: boolean
  /** The `max_tokens` of the call. */
  readonly maxTokens: number
}

/** How a call ended. */
export interface CallEnd {
  /** Text that was held back until its choice was certain. */
  readonly texts: readonly TextDelta[]
  readonly finishes: readonly FinishDelta[]
  /** The upstream's own count; null if it is missing or implausible. */
  readonly usage: Usage | null
  /** Why the answer may be incomplete; null if it is complete. */
  readonly doubt: NotStoredReason | null
  /** The index of a choice that was not received. */
  readonly missing: number | null
}

/**
 * The state of an answer according to its finish reasons. `finished`: each choice has one.
 * `claimed`: each has one, but text may follow, as it has followed a reason before, or none has come
 * (some servers send a reason with each chunk, or with each piece of reasoning).
 */
export type Progress = 'running' | 'claimed' | 'finished'

class ChoiceState {
  /** The text received. */
  said = ''
  /** The first half of a surrogate pair whose second half has not been received yet. */
  half = ''
  /** The last finish reason. */
  finish: FinishReason | null = null
  inferred = false
  /** The last reason was on a chunk with content. */
  onContent = false
  /** It has a reason, which no text has followed. */
  isOver = false
  /** Text has followed a reason. */
  hasFalseEnd = false
  /** It has ended at a stop sequence. */
  isStopped = false
  /** Text was received in pieces, not only as whole messages. */
  inPieces = false
  /** The beginning of a first message that pieces have repeated, held back until they differ. */
  repeated = ''
  /** A log probability was received. */
  isScored = false
  /** Text was received without log probabilities. */
  hasUnscored = false
  /** The length of all tokens that were received with log probabilities. */
  tokenChars = 0
  /** The offset of the last token. */
  offset = 0
  /** How far the tokens reach into the text. They may come before or after their text. */
  tokensEnd = 0
}

/** Takes the raw deltas of one call in order, followed by `end()`. */
export class Normaliser {
  /** The first non-empty values before the first text: a head that was sent cannot change. */
  readonly meta: { id?: string; model?: string; fingerprint?: string } = {}
  readonly #options: NormalOptions
  readonly #choices: ChoiceState[]
  /** Set at the first unexpected index of a call for one choice. */
  #counter: ChunkCounter | null = null
  /** The largest count of each choice; under null, that of the whole call. */
  readonly #usageOf = new Map<number | null, Usage>()
  /** Partial counts; -1 before the first. */
  #input = -1
  #output = -1
  /** A delta of a choice that was not requested was received. */
  #hasStrays = false
  /** A delta with index 0 was received. */
  #hasFirst = false
  #isCut = false
  #ended = false
  #hasText = false
  #hiddenBytes = 0

  constructor(options: NormalOptions) {
    this.#options = options
    this.#choices = Array.from({ length: options.choices }, () => new ChoiceState())
  }

  /** The text of all choices so far. */
  get text(): string {
    return this.#choices.map(({ said }) => said).join('')
  }

  /** The bytes of all that the upstream has written so far, the text included. */
  get bytes(): number {
    return this.#hiddenBytes + bytesOfStrings(this.text)
  }

  get progress(): Progress {
    if (this.#choices.some(isRunning)) return 'running'
    return this.#choices.some(mayGoOn) ? 'claimed' : 'finished'
  }

  /**
   * Appends the text that may be sent now to `texts`. Finishes wait for `end()`: later deltas may
   * change them.
   *
   * @throws GatewayError `upstream_bad_response` if the finish reason is an error
   */
  add(delta: RawDelta, texts: TextDelta[]): void {
    switch (delta.kind) {
      case 'meta':
        // A chunk of several choices numbers them, so indices do not count chunks.
        if (delta.choices !== undefined && this.#choices.length === 1) this.#chunkCounter.stop()
        if (this.#hasText) return
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
        this.#count(delta.index, delta.usage)
        return
      case 'tokens':
        this.#input = Math.max(this.#input, delta.input ?? -1)
        this.#output = Math.max(this.#output, delta.output ?? -1)
        return
      case 'hidden':
        this.#hiddenBytes += delta.bytes
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
   * The text of a choice has ended at a stop sequence: no text, reason or failure that follows is part
   * of the answer, except that a content filter is final.
   */
  stopped(index: number): void {
    const choice = this.#choices[index]
    if (choice === undefined || choice.isStopped) return
    this.#finish(choice, { kind: 'finish', index, reason: 'stop' })
    choice.isStopped = true
  }

  /**
   * Called at the end of the body.
   *
   * @throws GatewayError `upstream_truncated` if the answer is incomplete, `upstream_bad_response`
   *   if there is no answer
   */
  end(): CallEnd {
    const texts: TextDelta[] = []
    const choices = this.#choices
    const held = this.#counter?.rest(this.#isFirstOver) ?? []
    for (const piece of held) this.#toChoice(piece, 0, texts)
    for (const [index, choice] of choices.entries()) {
      // A repetition would have been complete.
      if (choice.repeated === '') continue
      choice.said += choice.repeated
      texts.push({ kind: 'text', index, text: choice.repeated, logprobs: null })
    }
    if (!this.#hasText && choices.every(({ finish }) => finish === null)) {
      throw new GatewayError('upstream_bad_response', messages.upstream_empty, {
        cause: { code: this.#ended ? 'no_text' : 'no_answer' },
      })
    }
    if (!this.#ended && choices.some(({ isOver }) => !isOver)) throw upstreamFailure('truncated')
    const missing = choices.findIndex(({ finish, said }) => finish === null && said === '')
    const usage = this.#usage()
    // Workers AI gives no reason, but its usage does.
    const isAtLimit = choices.length === 1 && usage?.completion_tokens === this.#options.maxTokens
    return {
      texts,
      finishes: choices.map(({ finish, inferred }, index) => {
        const isUnsaid = finish === null || inferred
        return {
          kind: 'finish',
          index,
          reason: isUnsaid && isAtLimit ? 'length' : (finish ?? 'stop'),
        }
      }),
      usage,
      doubt: this.#doubt(),
      missing: missing === -1 || choices.length === 1 ? null : missing,
    }
  }

  #doubt(): NotStoredReason | null {
    const choices = this.#choices
    if (this.#hasStrays || this.#counter?.hasDropped) return 'unknown_index'
    const isDoubtful = this.progress !== 'finished' || choices.some((choice) => choice.onContent)
    if (this.#isCut && isDoubtful) return 'doubtful_end'
    // A server without finish reasons ends with the terminator, and with the usage if that was requested:
    // one-api sends a terminator alone if the stream of the server behind it was cut off. If only some
    // choices have a reason, the others are incomplete.
    const lacksUsage = this.#options.usageRequested === true && this.#usageOf.size === 0
    const isNeeded = lacksUsage || choices.some(({ finish }) => finish !== null)
    if (choices.some(({ finish, inferred }) => inferred || (finish === null && isNeeded))) {
      return 'no_reason'
    }
    if (this.#options.logprobs && choices.some(lacksLogprobs)) return 'no_logprobs'
    const hasEcho = this.#options.echoed.every((text, i) => choices[i]?.said.startsWith(text))
    return hasEcho ? null : 'no_echo'
  }

  #place(delta: ChoiceDelta, texts: TextDelta[]): void {
    if (this.#choices.length > 1 || (this.#counter === null && delta.index === 0)) {
      this.#hasFirst ||= delta.index === 0
      this.#toChoice(delta, delta.index, texts)
    } else {
      const pieces = this.#chunkCounter.take(delta, this.#isFirstOver)
      for (const piece of pieces) this.#toChoice(piece, 0, texts)
    }
  }

  get #chunkCounter(): ChunkCounter {
    this.#counter ??= new ChunkCounter(this.#hasFirst)
    return this.#counter
  }

  get #isFirstOver(): boolean {
    return this.#choices[0]?.isOver ?? false
  }

  #toChoice(delta: ChoiceDelta, index: number, texts: TextDelta[]): void {
    const choice = this.#choices[index]
    if (choice === undefined) this.#hasStrays = true
    else if (delta.kind === 'text') this.#text(choice, index, delta, texts)
    else this.#finish(choice, delta)
  }

  #finish(choice: ChoiceState, delta: Exclude<ChoiceDelta, { kind: 'text' }>): void {
    // No later reason overrides a content filter.
    if (choice.finish === 'content_filter') return
    const isFiltered = delta.kind === 'finish' && delta.reason === 'content_filter'
    if (choice.isStopped && !isFiltered) return
    if (delta.kind === 'failed') {
      throw new GatewayError('upstream_bad_response', messages.upstream_failed, {
        cause: { code: 'gave_up' },
      })
    }
    const { reason, inferred = false, onContent = false } = delta
    choice.isOver = true
    if (inferred && choice.finish !== null && !choice.inferred) return
    choice.finish = reason
    choice.inferred = inferred
    choice.onContent = onContent
  }

  #text(
    choice: ChoiceState,
    index: number,
    { text: received, logprobs, whole = false }: Extract<RawDelta, { kind: 'text' }>,
    texts: TextDelta[],
  ): void {
    const text = whole ? newTextOf(choice, received) : pieceOf(choice, received)
    if (text === null) return
    const scores =
      logprobs !== null && this.#options.logprobs ? withOffsets(logprobs, choice, text) : null
    if (text === '' && scores === null) return
    this.#hasText = true
    if (text !== '') {
      choice.inPieces ||= !whole
      choice.hasUnscored ||= scores === null
      // More text follows the reason, so it was not the end. Only the terminator confirms the last.
      if (choice.isOver && !isFinal(choice)) {
        choice.isOver = false
        choice.hasFalseEnd = true
      }
    }
    choice.said += text
    const complete = wholeCharacters(choice, text)
    if (complete !== '' || scores !== null) {
      texts.push({ kind: 'text', index, text: complete, logprobs: scores })
    }
  }

  /** Keeps the larger count: some upstreams end with an empty or partial one. */
  #count(index: number | null, usage: Usage): void {
    // With one choice, every count belongs to it, even if the index counts chunks.
    const choice = index !== null && this.#choices.length === 1 ? 0 : index
    const known = this.#usageOf.get(choice)
    if (known && known.total_tokens > usage.total_tokens) return
    this.#usageOf.set(choice, usage)
  }

  /** The count of the whole call, that of its choices, or the parts; a plausible one. */
  #usage(): Usage | null {
    const [input, output] = [this.#input, this.#output]
    const parts = { prompt_tokens: input, completion_tokens: output, total_tokens: input + output }
    const counts = [
      this.#usageOf.get(null),
      usageOfChoices(this.#usageOf, this.#options.perPrompt),
      ...(input < 0 || output < 0 ? [] : [parts]),
    ]
    // A text has tokens.
    const least = this.#choices.some(({ said }) => said !== '') ? 1 : 0
    const isPlausible = (usage?: Usage) =>
      usage !== undefined && usage.prompt_tokens > 0 && usage.completion_tokens >= least
    return counts.find(isPlausible) ?? null
  }
}

/** Whether more must follow: a reason on a chunk with reasoning is not the last one. */
function isRunning({ isOver, finish, said, onContent }: ChoiceState): boolean {
  return !isOver || (finish !== 'content_filter' && said === '' && onContent)
}

/** Whether a choice has ended for good: at a stop sequence, or by a content filter. */
function isFinal({ finish, isStopped }: ChoiceState): boolean {
  return isStopped || finish === 'content_filter'
}

/** Whether text may follow a choice's reason. */
function mayGoOn(choice: ChoiceState): boolean {
  return !isFinal(choice) && (choice.hasFalseEnd || choice.said === '')
}

/** Some servers send the log probabilities of several chunks in one of them, or all in the last. */
function lacksLogprobs({ said, isScored, hasUnscored, tokenChars }: ChoiceState): boolean {
  return said !== '' && (!isScored || (hasUnscored && tokenChars < said.length))
}

/** Holds back half a surrogate pair (RFC 3629), and replaces one whose other half never comes. */
function wholeCharacters(choice: ChoiceState, text: string): string {
  const all = choice.half + text
  choice.half = /[\ud800-\udbff]$/.exec(all)?.[0] ?? ''
  return all.slice(0, all.length - choice.half.length).toWellFormed()
}

/**
 * The new text in a whole message, which repeats the pieces received; null if it differs from them.
 * An upstream that sends only messages puts the text so far, or the next piece, into each.
 */
function newTextOf({ said, inPieces }: ChoiceState, message: string): string | null {
  if (message.startsWith(said)) return message.slice(said.length)
  return inPieces ? null : message
}

/**
 * The new text in a piece; null while it may repeat a message that was received first, and once it
 * has repeated all of it.
 */
function pieceOf(choice: ChoiceState, piece: string): string | null {
  if (choice.inPieces || choice.said === '' || piece === '') return piece
  const text = choice.repeated + piece
  const isRepetition = choice.said.startsWith(text)
  choice.inPieces = !isRepetition || text === choice.said
  choice.repeated = choice.inPieces ? '' : text
  return isRepetition ? null : text
}

/** Adds offsets in UTF-16 units from the start of the choice's text, as in OpenAI's legacy API. */
function withOffsets(logprobs: TokenLogprobs, choice: ChoiceState, text: string): Logprobs {
  const { tokens, token_logprobs, top_logprobs } = logprobs
  const given = logprobs.text_offset
  const found = offsetsIn(choice, text, tokens)
  // Some servers count from 0 in each chunk.
  const isTrusted =
    given !== undefined &&
    (given[0] ?? 0) >= (found[0] ?? 0) &&
    given.every((at, i) => at >= (given[i - 1] ?? choice.offset))
  const text_offset = isTrusted ? given : found.map((at) => Math.max(choice.offset, at))
  choice.offset = text_offset.at(-1) ?? choice.offset
  choice.tokenChars += tokens.join('').length
  choice.isScored ||= token_logprobs.some((value) => value !== null)
  return { tokens, token_logprobs, top_logprobs, text_offset }
}

/**
 * The offsets of tokens, which usually belong to the text beside them, but may belong to text before
 * or after it. One that is spelled differently (a byte of a character as "\\xc3", a space as a
 * special sign) gets the offset at which the previous one ended.
 */
function offsetsIn(choice: ChoiceState, text: string, tokens: readonly string[]): number[] {
  const spelled = tokens.join('')
  const isBeside = spelled.length === text.length
  const start = isBeside ? choice.said.length : choice.tokensEnd
  const all = isBeside ? text : (choice.said + text).slice(start)
  const isInOrder = spelled.length === all.length
  let at = 0
  let isFound = false
  const offsets = tokens.map((token) => {
    const index = isInOrder ? at : all.indexOf(token, at)
    if (index === -1) return start + at
    isFound = true
    at = index + token.length
    return start + index
  })
  choice.tokensEnd = isFound ? start + at : choice.said.length + text.length
  return offsets
}

/** The sum of the choices' usage, counting each prompt once. */
function usageOfChoices(usageOf: ReadonlyMap<number | null, Usage>, perPrompt: number): Usage {
  const counted = new Set<number>()
  const usages: Usage[] = []
  for (const [index, usage] of usageOf) {
    if (index === null) continue
    const { completion_tokens } = usage
    const prompt = Math.floor(index / perPrompt)
    const alone = { prompt_tokens: 0, completion_tokens, total_tokens: completion_tokens }
    usages.push(counted.has(prompt) ? alone : usage)
    counted.add(prompt)
  }
  return sumOf(usages)
}

export function sumOf(usages: readonly Usage[]): Usage {
  const sum = (count: keyof Usage) => usages.reduce((total, usage) => total + usage[count], 0)
  return {
    prompt_tokens: sum('prompt_tokens'),
    completion_tokens: sum('completion_tokens'),
    total_tokens: sum('total_tokens'),
  }
}
