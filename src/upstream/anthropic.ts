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
  failureOfStatus,
  identifierOf,
  upstreamFailure,
} from './failure.ts'
import { ending, readReason } from './finish-reason.ts'
import { bytesOfStrings, objectsIn } from './message.ts'
import { failureOfResponse, present } from './openai-request.ts'
import { isErrorShape, metaOf } from './openai-response.ts'
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
  const inferred: RawDelta = { kind: 'finish', index: 0, reason: 'stop', inferred: true }
  return [
    metaOf(body),
    textOf(content),
    ...(ends.some(({ kind }) => kind !== 'tokens') ? [] : [inferred]),
    ...ends,
    { kind: 'end' },
  ]
}

/** Identifies events by the `type` in their data, since some proxies drop `event:` lines. */
function readMessage(message: SseMessage): readonly RawDelta[] {
  const objects = objectsIn(message)
  if (message.event === 'error') throw failureIn(objects === 'end' ? null : objects[0])
  // Compatible services end with OpenAI's `[DONE]`, after or instead of `message_stop`.
  return objects === 'end' ? [{ kind: 'end' }] : objects.flatMap(readEvent)
}

function readEvent(event: Table): readonly RawDelta[] {
  throwIfFailed(event)
  const { type, message, delta, content_block, usage } = event
  switch (type) {
    case 'message_start':
      if (!isRecord(message)) throw upstreamFailure('bad_response')
      // Its output tokens are only those of the first event.
      return [metaOf(message), { kind: 'tokens', ...inputOf(message['usage']) }]
    case 'content_block_start':
      return textIn(content_block, 'text')
    case 'content_block_delta':
      return [...textIn(delta, 'text_delta'), ...hiddenIn(delta)]
    case 'message_delta':
      return endOf({ stop_reason: isRecord(delta) ? delta['stop_reason'] : null, usage })
    case 'message':
      // The whole message in one event, instead of the chunks or repeated after them.
      return [metaOf(event), { ...textOf(event['content']), whole: true }, ...endOf(event)]
    case 'message_stop':
      return [{ kind: 'end' }]
    default:
      // `ping`, `content_block_stop`, and event types added later, as the documentation announces.
      return []
  }
}

/** @throws GatewayError if a 2xx body or an event contains an error, Anthropic's or a gateway's */
function throwIfFailed(object: Table): void {
  const { type, error, success } = object
  const isError = type === undefined ? isErrorShape(object) : type === 'error'
  if (isError || error || success === false) throw failureIn(object)
}

function failureIn(object: unknown): GatewayError {
  const error = errorIn(object)
  const type = isRecord(error) && typeof error['type'] === 'string' ? error['type'] : ''
  const status = Object.hasOwn(statusOfType, type) ? statusOfType[type] : undefined
  return status === undefined
    ? failureOfError(error, object)
    : failureOfStatus(status, { code: type, ...diagnose(error) })
}

/** The finish reason, if there is one, and the tokens counted so far. */
function endOf({ stop_reason, usage }: Table): RawDelta[] {
  // A turn that the server has paused is an unfinished answer, and is not resumed.
  const reason = stop_reason === 'pause_turn' ? 'length' : readReason(stop_reason)
  const tokens: RawDelta = { kind: 'tokens', ...inputOf(usage), ...outputOf(usage) }
  return reason === null ? [tokens] : [ending(0, reason), tokens]
}

type TextDelta = Extract<RawDelta, { kind: 'text' }>

function textIn(block: unknown, type: 'text' | 'text_delta'): TextDelta[] {
  const text = isRecord(block) && block['type'] === type ? block['text'] : null
  return typeof text === 'string' && text !== ''
    ? [{ kind: 'text', index: 0, text, logprobs: null }]
    : []
}

/** Thinking and tools. A signature is no text of the model's. */
function hiddenIn(delta: unknown): RawDelta[] {
  if (!isRecord(delta) || delta['type'] === 'text_delta') return []
  const bytes = bytesOfStrings(delta, ['type', 'signature'])
  return bytes === 0 ? [] : [{ kind: 'hidden', bytes }]
}

/** The text blocks of a whole message as one text. */
function textOf(content: unknown): TextDelta {
  const blocks = (Array.isArray(content) ? content : []).flatMap((block) => textIn(block, 'text'))
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
