// Reads the answers of OpenAI-compatible servers as raw deltas: chat or legacy, whole or in chunks.
// Tolerant on purpose, since servers differ: it reads the fields it needs and ignores the rest.
import type { Usage } from '../completion/completion.ts'
import type { RawDelta, TokenLogprobs } from '../completion/delta.ts'
import { isCount, isRecord, type Table } from '../json.ts'
import { failureIn, failureOfError, identifierOf, statusOf, upstreamFailure } from './failure.ts'
import { ending, readReason } from './finish-reason.ts'
import { bytesOfStrings, END, isKeepAlive, readMessage, recordOf } from './message.ts'
import type { SseMessage } from './sse.ts'

/** Which of the two is the text if an answer has both a legacy `text` and a chat message. */
export type Preference = 'text' | 'chat'

/** Reads one server-sent event of a chunked answer. */
export function readChunk(message: SseMessage, prefer: Preference): readonly RawDelta[] {
  return readMessage(message, {
    read: (object) => readObject(object, prefer, 'chunk'),
    failureIn,
    ends: [END],
  })
}

/** Reads a whole JSON body. llama.cpp answers several prompts with a list of objects. */
export function readBody(body: unknown, prefer: Preference): readonly RawDelta[] {
  const objects = Array.isArray(body) ? body : [body]
  return [...objects.flatMap((object) => readObject(recordOf(object), prefer, 'body')), END]
}

/** Reads an object: one of a chunked answer, or a whole body. */
export function readObject(
  object: Table,
  prefer: Preference,
  form: 'chunk' | 'body',
): readonly RawDelta[] {
  throwIfFailed(object)
  const choices = listOf(object['choices'])
  if (choices.length === 0 && form === 'body') {
    throw upstreamFailure('bad_response', { code: identifierOf(object) })
  }
  const deltas: RawDelta[] = [metaOf(object, choices.length)]
  const indices = indicesOf(choices)
  for (const [position, choice] of choices.entries()) {
    deltas.push(...readChoice(recordOf(choice), indices[position] ?? position, prefer, form))
  }
  const { x_groq: extras } = object
  const usage = readUsage(object['usage'] ?? (isRecord(extras) ? extras['usage'] : null))
  const [only = null] = indices.length === 1 ? indices : []
  if (usage !== null) deltas.push({ kind: 'usage', index: only, usage })
  return deltas
}

/** A list without the null that some servers put where nothing is. */
const listOf = (value: unknown): readonly unknown[] =>
  Array.isArray(value) ? value.filter((item) => item !== null) : []

/** The choices' indices, or their positions if an index is missing or repeated (LiteLLM). */
function indicesOf(choices: readonly unknown[]): number[] {
  const indices = choices.map((choice, position) => {
    const index = isRecord(choice) ? choice['index'] : null
    if (typeof index === 'number') return index
    return typeof index === 'string' && /^\d{1,9}$/.test(index) ? Number(index) : position
  })
  return new Set(indices).size === indices.length ? indices : [...choices.keys()]
}

/** Detects errors in a 2xx body: marked as such, or in the shape of one and without an answer. */
function throwIfFailed(object: Table): void {
  const { error_code: code } = object
  const isFlat = object['object'] === 'error' || (typeof code === 'number' && code !== 0)
  const isAnswer = listOf(object['choices']).length > 0 || isRecord(object['usage'])
  const isOther = !isAnswer && isErrorShape(object)
  if (isMarked(object) || isFlat || isOther) throw failureIn(object)
}

/** Whether an object is marked as an error, also beside an answer. */
export function isMarked({ error, errors, success }: Table): boolean {
  // Some servers put an empty error beside each part of an answer.
  const isError = typeof error === 'object' ? Object.values(error ?? {}).some(Boolean) : error
  const isListed = errors && Object.keys(errors).length > 0
  return Boolean(isError || isListed) || success === false
}

/** The shapes in which aggregators pass on an upstream's error, without an answer beside it. */
export function isErrorShape(object: Table): boolean {
  const { type, event, status, code, base_resp: minimax } = object
  // Gateways report a success in the same shape.
  if (isKeepAlive(object) || [0, 200, '0', '200'].some((success) => code === success)) return false
  return (
    hasErrorKey(object) ||
    [type, event, status].includes('error') ||
    statusOf(object) !== null ||
    envelopes.some((key) => hasErrorKey(object[key])) ||
    // MiniMax sends its own codes, and 0 with an answer.
    (isRecord(minimax) && Boolean(minimax['status_code']))
  )
}

const envelopes = ['header', 'response', 'Response', 'ResponseMetadata']
const ERROR_KEY = /^(?:fault|exception|detail|message|msg|err(?:or)?(?:_?(?:msg|message))?)$/i

function hasErrorKey(value: unknown): boolean {
  return isRecord(value) && Object.keys(value).some((key) => ERROR_KEY.test(key) && value[key])
}

/** The names in an answer, of which the normaliser ignores empty ones. */
export function metaOf(
  { id, model, system_fingerprint: fingerprint }: Table,
  choices = 1,
): RawDelta {
  // Azure's first chunk has an id and a model that are not the answer's.
  if (choices === 0) return { kind: 'meta' }
  return {
    kind: 'meta',
    ...(choices > 1 ? { choices } : {}),
    ...(isString(id) ? { id } : {}),
    ...(isString(model) ? { model } : {}),
    ...(isString(fingerprint) ? { fingerprint } : {}),
  }
}

function readChoice(
  choice: Table,
  index: number,
  prefer: Preference,
  form: 'chunk' | 'body',
): RawDelta[] {
  const delta = isRecord(choice['delta']) ? choice['delta'] : null
  const content = delta ?? (isRecord(choice['message']) ? choice['message'] : null)
  const legacy = textOf(choice['text'])
  const chat = contentOf(choice['delta'] ?? choice['message'])
  const preferred = prefer === 'chat' ? chat : legacy
  const other = prefer === 'chat' ? legacy : chat
  // Beside reasoning, a legacy text may be the reasoning once more.
  const text = preferred || (preferred === null || !hasReasoning(content) ? other : null) || ''
  const logprobs = readLogprobs(choice['logprobs'])
  const deltas: RawDelta[] = []
  // A `message` in a chunk is the whole text so far, most of which came in earlier chunks.
  const whole =
    form === 'chunk' && (delta === null || text === '') ? contentOf(choice['message']) : null
  if (whole !== null && whole !== '') {
    deltas.push({ kind: 'text', index, text: whole, logprobs, whole: true })
  } else if (text !== '' || logprobs !== null || form === 'chunk') {
    // Also without text: an index that counts chunks counts these, too.
    deltas.push({ kind: 'text', index, text, logprobs })
  }
  const bytes = hiddenBytes(choice, content)
  if (bytes > 0) deltas.push({ kind: 'hidden', bytes })
  // Moonshot counts in the choice.
  const usage = readUsage(choice['usage'])
  if (usage !== null) deltas.push({ kind: 'usage', index, usage })
  if (isFilled(content?.['refusal'])) return [...deltas, ending(index, 'content_filter')]
  const word = choice['finish_reason'] ?? choice['finishReason'] ?? content?.['finish_reason']
  // text-generation-inference sends "" for a whole answer that ended by itself.
  const reason = form === 'body' && word === '' ? 'stop' : readReason(word)
  // OpenRouter puts the error of a failed choice in the choice itself.
  const { error } = choice
  if (isRecord(error) && (reason === null || reason === 'failed')) throw failureOfError(error)
  if (reason !== null) {
    const onContent = form === 'chunk' && whole === null && (text !== '' || hasReasoning(content))
    deltas.push(ending(index, reason, onContent))
  } else if (form === 'body') {
    if (content === null && legacy === null) throw upstreamFailure('bad_response')
    deltas.push({ kind: 'finish', index, reason: 'stop', inferred: true })
  }
  return deltas
}

/** The bytes of reasoning, refusals, tool calls, and the parts of a list that are not text. */
function hiddenBytes({ reasoning, reasoning_content }: Table, message: Table | null): number {
  const content = Array.isArray(message?.['content']) ? message['content'] : []
  const parts = content.filter((part) => !isRecord(part) || part['type'] !== 'text')
  const others = [reasoning, reasoning_content, parts]
  return bytesOfStrings(others) + bytesOfStrings(message, ['role', 'content'])
}

function hasReasoning(content: Table | null): boolean {
  return isFilled(content?.['reasoning_content'] ?? content?.['reasoning'])
}

/** The content of a message or a delta, which may be the text itself. */
function contentOf(message: unknown): string | null {
  return (isRecord(message) ? textOf(message['content']) : null) ?? textOf(message)
}

/** A string, a number (Workers AI), a text part, or the texts in a list (Mistral); else null. */
function textOf(value: unknown): string | null {
  if (typeof value === 'string') return value
  if (typeof value === 'number') return String(value)
  if (Array.isArray(value)) return value.map((part) => textOf(part) ?? '').join('')
  if (!isRecord(value)) return null
  const { type = 'text', text } = value
  return (type === 'text' || type === 'output_text') && typeof text === 'string' ? text : null
}

/** The usage, or null if a count is missing or invalid, or all of them are 0. */
export function readUsage(value: unknown): Usage | null {
  if (!isRecord(value)) return null
  const { prompt_tokens, completion_tokens, total_tokens } = value
  if (!isCount(prompt_tokens) || !isCount(completion_tokens) || !isCount(total_tokens)) return null
  return total_tokens === 0 ? null : { prompt_tokens, completion_tokens, total_tokens }
}

/** Log probabilities in the legacy shape; the chat shape (also of llama.cpp) is converted to it. */
function readLogprobs(value: unknown): TokenLogprobs | null {
  if (!isRecord(value)) return null
  const { tokens, token_logprobs, top_logprobs, text_offset, content } = value
  if (!Array.isArray(tokens)) return readChatLogprobs(content)
  const count = tokens.length
  if (count === 0 || !isList(tokens, count, isString)) return null
  if (!isList(token_logprobs, count, isNullableNumber)) return null
  return {
    tokens,
    token_logprobs,
    top_logprobs: isList(top_logprobs, count, isNullableOdds) ? top_logprobs : null,
    ...(isList(text_offset, count, isNumber) ? { text_offset } : {}),
  }
}

function readChatLogprobs(content: unknown): TokenLogprobs | null {
  if (!Array.isArray(content) || content.length === 0 || !content.every(isToken)) return null
  return {
    tokens: content.map(({ token }) => token),
    token_logprobs: content.map(({ logprob }) => logprob),
    top_logprobs: content.map(({ top_logprobs: top }) => {
      const others = Array.isArray(top) ? top.filter(isToken) : []
      return Object.fromEntries(others.map(({ token, logprob }) => [token, logprob]))
    }),
  }
}

interface Token {
  readonly token: string
  readonly logprob: number
  readonly top_logprobs?: unknown
}

const isToken = (item: unknown): item is Token =>
  isRecord(item) && isString(item['token']) && isNumber(item['logprob'])
const isFilled = (value: unknown) => isString(value) && value !== ''
const isString = (value: unknown): value is string => typeof value === 'string'
const isNumber = (value: unknown): value is number => Number.isFinite(value)
const isNullableNumber = (value: unknown): value is number | null =>
  value === null || isNumber(value)
const isNullableOdds = (value: unknown): value is Record<string, number> | null =>
  value === null || (isRecord(value) && Object.values(value).every(isNumber))

function isList<T>(
  value: unknown,
  length: number,
  isItem: (item: unknown) => item is T,
): value is T[] {
  return Array.isArray(value) && value.length === length && value.every(isItem)
}
