// Reads the answers of OpenAI-compatible servers as raw deltas: chat or legacy, whole or in chunks.
// Tolerant on purpose, since servers differ: it reads the fields it needs and ignores the rest.

import type { Usage } from '../completion/completion.ts'
import type { RawDelta, TokenLogprobs } from '../completion/delta.ts'
import type { GatewayError } from '../errors.ts'
import { isCount, isRecord } from '../json.ts'
import { errorIn, failureOfError, identifierOf, statusOf, upstreamFailure } from './failure.ts'
import { readReason } from './finish-reason.ts'
import { bytesOfStrings, isKeepAlive, objectsIn } from './message.ts'
import type { SseMessage } from './sse.ts'

/** Which of the two is the text if an answer has both a legacy `text` and a chat message. */
export type Preference = 'text' | 'chat'

/** Reads one server-sent event of a chunked answer. */
export function readChunk(message: SseMessage, prefer: Preference): readonly RawDelta[] {
  if (message.event === 'error') throw failureOfEvent(message)
  const objects = objectsIn(message)
  if (objects === 'end') return [{ kind: 'end' }]
  const [only] = objects
  if (only !== undefined && objects.length === 1) return readChunkObject(only, prefer)
  return objects.flatMap((object) => readChunkObject(object, prefer))
}

/** Reads one object of a chunked answer. */
export function readChunkObject(
  object: Readonly<Record<string, unknown>>,
  prefer: Preference,
): readonly RawDelta[] {
  return readObject(object, prefer, 'chunk')
}

/** The failure in an event of type "error", with or without JSON in its data. */
function failureOfEvent(message: SseMessage): GatewayError {
  const objects = objectsIn(message)
  const object = objects === 'end' ? null : (objects[0] ?? null)
  return failureOfError(errorIn(object), object)
}

/** Reads a whole JSON body. llama.cpp answers several prompts with a list of objects. */
export function readBody(body: unknown, prefer: Preference): readonly RawDelta[] {
  const objects = Array.isArray(body) ? body : [body]
  const deltas = objects.flatMap((object) => readObject(object, prefer, 'body'))
  return [...deltas, { kind: 'end' }]
}

function readObject(object: unknown, prefer: Preference, form: 'chunk' | 'body'): RawDelta[] {
  if (!isRecord(object)) throw upstreamFailure('bad_response')
  throwIfFailed(object)
  const choices = listOf(object['choices'])
  if (choices.length === 0 && form === 'body') {
    throw upstreamFailure('bad_response', { code: identifierOf(object) })
  }
  const deltas: RawDelta[] = [metaOf(object, choices.length)]
  const indices = indicesOf(choices)
  for (const [position, choice] of choices.entries()) {
    if (!isRecord(choice)) throw upstreamFailure('bad_response')
    deltas.push(...readChoice(choice, indices[position] ?? position, prefer, form))
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
  const indices = choices.map(indexOf)
  if (indices.length < 2 || new Set(indices).size === indices.length) return indices
  return choices.map((_, position) => position)
}

function indexOf(choice: unknown, position: number): number {
  const index = isRecord(choice) ? choice['index'] : null
  if (typeof index === 'number') return index
  return typeof index === 'string' && /^\d{1,9}$/.test(index) ? Number(index) : position
}

/**
 * Detects errors in a 2xx body: an `error` that is not empty, or the flat shapes of some servers.
 */
function throwIfFailed(object: Readonly<Record<string, unknown>>): void {
  const { error, errors } = object
  if (error || (Array.isArray(errors) && errors.length > 0)) {
    throw failureOfError(errorIn(object), object)
  }
  const flat = object['object'] === 'error' || typeof object['error_code'] === 'number'
  if (flat || object['success'] === false) throw failureOfError(object)
  const isAnswer = listOf(object['choices']).length > 0 || isRecord(object['usage'])
  if (!isAnswer && isErrorShape(object) && !isKeepAlive(object)) {
    throw failureOfError(errorIn(object), object)
  }
}

/** The shapes in which aggregators pass on an upstream's error, without an answer beside it. */
export function isErrorShape(object: Readonly<Record<string, unknown>>): boolean {
  const { type, event, status, base_resp: minimax } = object
  return (
    hasErrorKey(object) ||
    [type, event, status].includes('error') ||
    statusOf(object) !== null ||
    ['header', 'response', 'Response', 'ResponseMetadata'].some((key) =>
      hasErrorKey(object[key]),
    ) ||
    // MiniMax sends its own codes, and 0 with an answer.
    (isRecord(minimax) && Boolean(minimax['status_code']))
  )
}

const ERROR_KEY = /^(?:fault|exception|detail|message|msg|err(?:or)?(?:_?(?:msg|message))?)$/i

function hasErrorKey(value: unknown): boolean {
  return isRecord(value) && Object.keys(value).some((key) => ERROR_KEY.test(key) && value[key])
}

/** Azure's first chunk has no choices and an empty id and model, which are not the answer's. */
function metaOf(object: Readonly<Record<string, unknown>>, choices: number): RawDelta {
  const { id, model, system_fingerprint: fingerprint } = object
  if (choices === 0) return { kind: 'meta' }
  return {
    kind: 'meta',
    ...(choices > 1 ? { choices } : {}),
    ...(typeof id === 'string' && id !== '' ? { id } : {}),
    ...(typeof model === 'string' && model !== '' ? { model } : {}),
    ...(typeof fingerprint === 'string' && fingerprint !== '' ? { fingerprint } : {}),
  }
}

function readChoice(
  choice: Readonly<Record<string, unknown>>,
  index: number,
  prefer: Preference,
  form: 'chunk' | 'body',
): RawDelta[] {
  const delta = isRecord(choice['delta']) ? choice['delta'] : null
  const message = isRecord(choice['message']) ? choice['message'] : null
  const content = delta ?? message
  const legacy = textOf(choice['text'])
  const chat = textOf(content?.['content'])
  const preferred = prefer === 'chat' ? chat : legacy
  const other = prefer === 'chat' ? legacy : chat
  // Beside reasoning, a legacy text may be the reasoning once more.
  const text = preferred || (preferred === null || !hasReasoning(content) ? other : null) || ''
  const logprobs = readLogprobs(choice['logprobs'])
  const deltas: RawDelta[] = []
  // A `message` in a chunk is the whole text so far, most of which came in earlier chunks.
  const whole =
    form === 'chunk' && (delta === null || text === '') ? textOf(message?.['content']) : null
  if (whole !== null && whole !== '') {
    deltas.push({ kind: 'text', index, text: whole, logprobs, whole: true })
  } else if (text !== '' || logprobs !== null || form === 'chunk') {
    // Also without text: an index that counts chunks counts these, too.
    deltas.push({ kind: 'text', index, text, logprobs })
  }
  const hidden = hiddenBytes(choice, content)
  if (hidden > 0) deltas.push({ kind: 'hidden', bytes: hidden })
  // Moonshot counts in the choice.
  const usage = readUsage(choice['usage'])
  if (usage !== null) deltas.push({ kind: 'usage', index, usage })
  const refusal = content?.['refusal']
  const word = choice['finish_reason'] ?? choice['finishReason']
  if (typeof refusal === 'string' && refusal !== '') {
    deltas.push({ kind: 'finish', index, reason: 'content_filter' })
    return deltas
  }
  // text-generation-inference sends "" for a whole answer that ended by itself.
  const reason = form === 'body' && word === '' ? 'stop' : readReason(word)
  // OpenRouter puts the error of a failed choice in the choice itself.
  const { error } = choice
  if (isRecord(error) && (reason === null || reason === 'failed')) throw failureOfError(error)
  if (reason === 'failed') {
    deltas.push({ kind: 'failed', index })
  } else if (reason !== null) {
    const onContent = form === 'chunk' && whole === null && (text !== '' || hasReasoning(content))
    deltas.push({ kind: 'finish', index, reason, ...(onContent ? { onContent } : {}) })
  } else if (form === 'body') {
    if (content === null && legacy === null) throw upstreamFailure('bad_response')
    deltas.push({ kind: 'finish', index, reason: 'stop', inferred: true })
  }
  return deltas
}

type Table = Readonly<Record<string, unknown>>

/** The bytes of reasoning, refusals, tool calls, and the parts of a list that are not text. */
function hiddenBytes({ reasoning, reasoning_content }: Table, message: Table | null): number {
  const content = Array.isArray(message?.['content']) ? message['content'] : []
  const parts = content.filter((part) => !isRecord(part) || part['type'] !== 'text')
  const others = [reasoning, reasoning_content, parts]
  return bytesOfStrings(others) + bytesOfStrings(message, ['role', 'content'])
}

function hasReasoning(content: Table | null): boolean {
  const reasoning = content?.['reasoning_content'] ?? content?.['reasoning']
  return typeof reasoning === 'string' && reasoning !== ''
}

/**
 * A string, a number (Workers AI), a text part, or the texts in a list (Mistral); null for anything
 * else.
 */
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
  return Array.isArray(value['tokens'])
    ? readLegacyLogprobs(value)
    : readChatLogprobs(value['content'])
}

function readLegacyLogprobs(value: Readonly<Record<string, unknown>>): TokenLogprobs | null {
  const { tokens, token_logprobs, top_logprobs, text_offset } = value
  const count = Array.isArray(tokens) ? tokens.length : 0
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
  if (!Array.isArray(content) || content.length === 0) return null
  const tokens: string[] = []
  const token_logprobs: number[] = []
  const top_logprobs: Record<string, number>[] = []
  for (const item of content as unknown[]) {
    if (!isRecord(item) || !isString(item['token']) || !isNumber(item['logprob'])) return null
    tokens.push(item['token'])
    token_logprobs.push(item['logprob'])
    const top: Record<string, number> = {}
    const others: unknown[] = Array.isArray(item['top_logprobs']) ? item['top_logprobs'] : []
    for (const other of others) {
      if (isRecord(other) && isString(other['token']) && isNumber(other['logprob'])) {
        top[other['token']] = other['logprob']
      }
    }
    top_logprobs.push(top)
  }
  return { tokens, token_logprobs, top_logprobs }
}

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
