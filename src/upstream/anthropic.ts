// The anthropic wire: POST /messages, Anthropic's own Messages API. A text prompt is sent as one
// user message; the text blocks of the answer are its text. Thinking and tools are ignored.
import type { RawDelta } from '../completion/delta.ts'
import type { GatewayError } from '../errors.ts'
import { isCount, isRecord, type Table } from '../json.ts'
import { alternate } from '../request/conversation.ts'
import type { Upstream } from './adapter.ts'
import { diagnose } from './diagnosis.ts'
import {
  errorIn,
  failureIn,
  failureOfResponse,
  failureOfStatus,
  identifierOf,
  statusOf,
  upstreamFailure,
} from './failure.ts'
import { ending, readReason } from './finish-reason.ts'
import { bytesOfStrings, END, readMessage, recordOf } from './message.ts'
import { messagesOf, present } from './openai-request.ts'
import { isErrorShape, isMarked, metaOf } from './openai-response.ts'

export const versionHeader = { 'anthropic-version': '2023-06-01' }

export const anthropic: Upstream = {
  toWire(request, options) {
    const { model, max_tokens, temperature, top_p, stop, stream } = request
    const { system, turns } = alternate(messagesOf(request, options))
    return {
      path: options.path ?? '/messages',
      headers: versionHeader,
      body: {
        model,
        max_tokens,
        ...(system === null ? {} : { system }),
        messages: turns,
        ...present({ temperature, top_p, stop_sequences: stop }),
        ...(stream ? { stream } : {}),
        ...request.parameters,
      },
    }
  },
  fromBody: readWhole,
  // Compatible services end with OpenAI's `[DONE]`, after or instead of `message_stop`.
  fromMessage: (message) =>
    readMessage(message, { read: readEvent, failureIn: failureOf, ends: ENDS }),
  fromFailure: failureOfResponse,
}

/** The HTTP status that the documentation gives each type of error. */
const statusOfType: ReadonlyMap<string, number> = new Map([
  ['invalid_request_error', 400],
  ['authentication_error', 401],
  ['billing_error', 402],
  ['permission_error', 403],
  ['not_found_error', 404],
  ['request_too_large', 413],
  ['rate_limit_error', 429],
  ['api_error', 500],
  ['timeout_error', 504],
  ['overloaded_error', 529],
])

function readWhole(body: unknown): readonly RawDelta[] {
  const message = recordOf(body)
  throwIfFailed(message)
  const { content } = message
  if (!Array.isArray(content))
    throw upstreamFailure('bad_response', { code: identifierOf(message) })
  const ends = endOf(message)
  const hasReason = ends.some(({ kind }) => kind !== 'tokens')
  return [metaOf(message), ...textIn(content), ...ends, ...(hasReason ? [END] : ENDS)]
}

/** Every message has a `stop_reason`. One that ends without it may have lost more than that. */
const ENDS: readonly RawDelta[] = [
  { kind: 'finish', index: 0, reason: 'stop', inferred: true },
  END,
]

/** Identifies events by the `type` in their data, since some proxies drop `event:` lines. */
function readEvent(event: Table): readonly RawDelta[] {
  throwIfFailed(event)
  const { type, message, delta, content_block, usage } = event
  switch (type) {
    case 'message_start': {
      const started = recordOf(message)
      // Its output tokens are only those of the first event.
      const { output: _, ...tokens } = tokensOf(started['usage'])
      return [...messageOf(started), tokens]
    }
    case 'content_block_start':
      return textIn([content_block])
    case 'content_block_delta':
      return [...textIn([delta]), ...hiddenIn(delta)]
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
  const whole = textIn(message['content']).map((text) => ({ ...text, whole: true }))
  return [metaOf(message), ...whole, ...reasonIn(message)]
}

/** @throws GatewayError if a 2xx body or an event contains an error, Anthropic's or a gateway's */
function throwIfFailed(object: Table): void {
  const { type } = object
  const isError = type === undefined ? isErrorShape(object) : type === 'error'
  if (isError || isMarked(object)) throw failureOf(object)
}

function failureOf(object: unknown): GatewayError {
  const error = errorIn(object)
  const type = isRecord(error) ? error['type'] : null
  const status = statusOf(error) ?? statusOf(object)
  const known = status === null && typeof type === 'string' ? statusOfType.get(type) : undefined
  if (known === undefined) return failureIn(object)
  return failureOfStatus(known, { code: String(type), ...diagnose(error) })
}

/** The finish reason, if there is one, and the tokens counted so far. */
const endOf = (object: Table): RawDelta[] => [...reasonIn(object), tokensOf(object['usage'])]

function reasonIn({ stop_reason }: Table): RawDelta[] {
  const reason = readReason(stop_reason)
  return reason === null ? [] : [ending(0, reason)]
}

type TextDelta = Extract<RawDelta, { kind: 'text' }>

/** The text of blocks or deltas. Compatible services mix up their types, or omit them. */
function textIn(blocks: unknown): TextDelta[] {
  const texts = (Array.isArray(blocks) ? blocks : []).map((block) => {
    const { type = 'text', text } = isRecord(block) ? block : {}
    return (type === 'text' || type === 'text_delta') && typeof text === 'string' ? text : ''
  })
  const text = texts.join('')
  return text === '' ? [] : [{ kind: 'text', index: 0, text, logprobs: null }]
}

/** Thinking and tools. A signature is not the model's text. */
function hiddenIn(delta: unknown): RawDelta[] {
  if (!isRecord(delta) || textIn([delta]).length > 0) return []
  const bytes = bytesOfStrings(delta, ['type', 'signature'])
  return bytes === 0 ? [] : [{ kind: 'hidden', bytes }]
}

/** The tokens counted so far. `input_tokens` does not include those of the prompt cache. */
function tokensOf(usage: unknown): Extract<RawDelta, { kind: 'tokens' }> {
  const {
    input_tokens: input,
    output_tokens: output,
    cache_creation_input_tokens: written,
    cache_read_input_tokens: read,
  } = isRecord(usage) ? usage : {}
  const cached = [written, read].filter(isCount).reduce((sum, count) => sum + count, 0)
  return {
    kind: 'tokens',
    ...(isCount(input) ? { input: input + cached } : {}),
    ...(isCount(output) ? { output } : {}),
  }
}
