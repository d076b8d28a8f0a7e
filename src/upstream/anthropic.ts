// The anthropic wire: POST /messages, Anthropic's own Messages API. A text prompt is sent as one
// user message; the text blocks of the answer are its text. Thinking and tools are ignored.

import type { RawDelta } from '../completion/delta.ts'
import type { GatewayError } from '../errors.ts'
import { isCount, isRecord, type Table } from '../json.ts'
import type { Upstream } from './adapter.ts'
import { diagnose } from './diagnosis.ts'
import {
  errorIn,
  failureOfError,
  failureOfResponse,
  failureOfStatus,
  identifierOf,
  statusOf,
  upstreamFailure,
} from './failure.ts'
import { ending, readReason } from './finish-reason.ts'
import { bytesOfStrings, isErrorEvent, objectsIn } from './message.ts'
import { present } from './openai-request.ts'
import { isErrorShape, isMarked, metaOf } from './openai-response.ts'
import type { SseMessage } from './sse.ts'

export const anthropic: Upstream = {
  toWire(request, options) {
    const { model, max_tokens, system, prompts, temperature, top_p, stop, stream } = request
    return {
      path: options.path ?? '/messages',
      headers: { 'anthropic-version': '2023-06-01' },
      body: {
        model,
        max_tokens,
        ...(system === null ? {} : { system }),
        messages: prompts.map((content) => ({ role: 'user', content })),
        ...present({ temperature, top_p, stop_sequences: stop }),
        ...(stream ? { stream } : {}),
        ...request.parameters,
      },
    }
  },
  fromBody: readWhole,
  fromMessage: readMessage,
  fromFailure: failureOfResponse,
}

/** The HTTP status that the documentation gives each type of error. */
const statusOfType: Readonly<Record<string, number>> = {
  invalid_request_error: 400,
  authentication_error: 401,
  billing_error: 402,
  permission_error: 403,
  not_found_error: 404,
  request_too_large: 413,
  rate_limit_error: 429,
  api_error: 500,
  timeout_error: 504,
  overloaded_error: 529,
}

function readWhole(body: unknown): readonly RawDelta[] {
  if (!isRecord(body)) throw upstreamFailure('bad_response')
  throwIfFailed(body)
  const { content } = body
  if (!Array.isArray(content)) throw upstreamFailure('bad_response', { code: identifierOf(body) })
  const ends = endOf(body)
  const hasReason = ends.some(({ kind }) => kind !== 'tokens')
  return [metaOf(body), textOf(content), ...ends, ...(hasReason ? [END] : ENDS)]
}

const END: RawDelta = { kind: 'end' }

/** Every message has a `stop_reason`. One that ends without it may have lost more than that. */
const ENDS: readonly RawDelta[] = [
  { kind: 'finish', index: 0, reason: 'stop', inferred: true },
  END,
]

/** Identifies events by the `type` in their data, since some proxies drop `event:` lines. */
function readMessage(message: SseMessage): readonly RawDelta[] {
  const objects = objectsIn(message)
  if (isErrorEvent(message)) throw failureIn(objects === 'end' ? null : objects[0])
  // Compatible services end with OpenAI's `[DONE]`, after or instead of `message_stop`.
  return objects === 'end' ? ENDS : objects.flatMap(readEvent)
}

function readEvent(event: Table): readonly RawDelta[] {
  throwIfFailed(event)
  const { type, message, delta, content_block, usage } = event
  switch (type) {
    case 'message_start':
      if (!isRecord(message)) throw upstreamFailure('bad_response')
      // Its output tokens are only those of the first event.
      return [...messageOf(message), { kind: 'tokens', ...inputOf(message['usage']) }]
    case 'content_block_start':
      return textIn(content_block)
    case 'content_block_delta':
      return [...textIn(delta), ...hiddenIn(delta)]
    case 'message_delta':
      return endOf({ ...event, ...(isRecord(delta) ? delta : {}), usage })
    case 'message':
      return [...messageOf(event), ...endOf(event)]
    case 'message_stop':
      return [...(isRecord(message) ? messageOf(message) : []), ...endOf(event), ...ENDS]
    default:
      // `ping`, `content_block_stop`, and event types added later, as the documentation announces.
      return []
  }
}

/** A message that servers send in one event, instead of the chunks or repeated beside them. */
function messageOf(message: Table): RawDelta[] {
  const whole: RawDelta = { ...textOf(message['content']), whole: true }
  const reason = readReason(message['stop_reason'])
  return [metaOf(message), whole, ...(reason === null ? [] : [ending(0, reason)])]
}

/** @throws GatewayError if a 2xx body or an event contains an error, Anthropic's or a gateway's */
function throwIfFailed(object: Table): void {
  const { type } = object
  const isError = type === undefined ? isErrorShape(object) : type === 'error'
  if (isError || isMarked(object)) throw failureIn(object)
}

function failureIn(object: unknown): GatewayError {
  const error = errorIn(object)
  const type = isRecord(error) && typeof error['type'] === 'string' ? error['type'] : ''
  const status = Object.hasOwn(statusOfType, type) ? statusOfType[type] : undefined
  return status === undefined || statusOf(error) !== null || statusOf(object) !== null
    ? failureOfError(error, object)
    : failureOfStatus(status, { code: type, ...diagnose(error) })
}

/** The finish reason, if there is one, and the tokens counted so far. */
function endOf({ stop_reason, usage }: Table): RawDelta[] {
  const reason = readReason(stop_reason)
  const tokens: RawDelta = { kind: 'tokens', ...inputOf(usage), ...outputOf(usage) }
  return reason === null ? [tokens] : [ending(0, reason), tokens]
}

type TextDelta = Extract<RawDelta, { kind: 'text' }>

/** The text of a block or a delta. Compatible services mix up their types, or omit them. */
function textIn(block: unknown): TextDelta[] {
  const { type = 'text', text } = isRecord(block) ? block : {}
  if (type !== 'text' && type !== 'text_delta') return []
  return typeof text === 'string' && text !== ''
    ? [{ kind: 'text', index: 0, text, logprobs: null }]
    : []
}

/** Thinking and tools. A signature is no text of the model's. */
function hiddenIn(delta: unknown): RawDelta[] {
  if (!isRecord(delta) || textIn(delta).length > 0) return []
  const bytes = bytesOfStrings(delta, ['type', 'signature'])
  return bytes === 0 ? [] : [{ kind: 'hidden', bytes }]
}

/** The text blocks of a whole message as one text. */
function textOf(content: unknown): TextDelta {
  const blocks = (Array.isArray(content) ? content : []).flatMap(textIn)
  const text = blocks.map(({ text }) => text).join('')
  return { kind: 'text', index: 0, text, logprobs: null }
}

/** `input_tokens` does not include tokens read from or written to the prompt cache. */
function inputOf(usage: unknown): { input?: number } {
  if (!isRecord(usage) || !isCount(usage['input_tokens'])) return {}
  const { cache_creation_input_tokens: written, cache_read_input_tokens: read } = usage
  return {
    input: usage['input_tokens'] + (isCount(written) ? written : 0) + (isCount(read) ? read : 0),
  }
}

function outputOf(usage: unknown): { output?: number } {
  return isRecord(usage) && isCount(usage['output_tokens'])
    ? { output: usage['output_tokens'] }
    : {}
}
