// Unit tests of the anthropic wire's translations. Whole responses are covered by the fixtures.
import { expect, test } from 'vitest'
import type { RawDelta } from '../../src/completion/delta.ts'
import { GatewayError } from '../../src/errors.ts'
import type { CallRequest, WireOptions } from '../../src/upstream/adapter.ts'
import { anthropic } from '../../src/upstream/anthropic.ts'
import { Normaliser } from '../../src/upstream/normalise.ts'

const options: WireOptions = { maxTokensField: 'max_tokens', streamUsage: false, path: null }
const request: CallRequest = {
  model: 'claude-x',
  prompts: ['Once upon'],
  system: null,
  locked: false,
  stream: true,
  max_tokens: 16,
  n: 1,
  parameters: {},
}

const message = (event: unknown) =>
  anthropic.fromMessage({ event: null, data: JSON.stringify(event) })
const failing = (work: () => unknown): GatewayError => {
  try {
    work()
  } catch (error) {
    if (error instanceof GatewayError) return error
  }
  throw new TypeError('no GatewayError')
}

test('toWire() builds a message with the version header and only the fields that are set', () => {
  expect(anthropic.toWire(request, options)).toEqual({
    path: '/messages',
    headers: { 'anthropic-version': '2023-06-01' },
    body: {
      model: 'claude-x',
      max_tokens: 16,
      messages: [{ role: 'user', content: 'Once upon' }],
      stream: true,
    },
  })
})

test('toWire() sends the system prompt as "system" and stop as "stop_sequences"', () => {
  const full = {
    ...request,
    stream: false,
    system: 'Be brief',
    temperature: 0,
    top_p: 0.5,
    stop: ['END'],
    parameters: { thinking: { type: 'disabled' } },
  }
  expect(anthropic.toWire(full, options).body).toEqual({
    model: 'claude-x',
    max_tokens: 16,
    system: 'Be brief',
    messages: [{ role: 'user', content: 'Once upon' }],
    temperature: 0,
    top_p: 0.5,
    stop_sequences: ['END'],
    thinking: { type: 'disabled' },
  })
})

test('toWire() always uses max_tokens, even if the preset sets another field', () => {
  const { body } = anthropic.toWire(request, {
    ...options,
    maxTokensField: 'max_completion_tokens',
  })
  expect(body).toMatchObject({ max_tokens: 16 })
  expect(body).not.toHaveProperty('max_completion_tokens')
})

test('toWire() uses the path from the configuration', () => {
  expect(anthropic.toWire(request, { ...options, path: '/v2/messages' }).path).toBe('/v2/messages')
})

test.each([
  ['end_turn', 'stop'],
  ['stop_sequence', 'stop'],
  ['tool_use', 'stop'],
  ['max_tokens', 'length'],
  ['pause_turn', 'length'],
  ['model_context_window_exceeded', 'length'],
  ['refusal', 'content_filter'],
  ['a_new_reason', 'stop'],
])('fromMessage() maps stop_reason %s to %s', (stop_reason, reason) => {
  const [finish] = message({ type: 'message_delta', delta: { stop_reason }, usage: {} })
  expect(finish).toEqual({ kind: 'finish', index: 0, reason })
})

test.each([
  [{ type: 'ping' }],
  [{ type: 'content_block_stop', index: 0 }],
  [{ type: 'content_block_delta', delta: { type: 'signature_delta', signature: 'x' } }],
  [{ type: 'content_block_start', content_block: { type: 'thinking', thinking: 'Hm' } }],
  [{ type: 'content_block_start', content_block: { type: 'tool_result', text: 'no' } }],
  [{ type: 'something_new', text: 'no' }],
  [{}],
])('fromMessage() ignores %j', (event) => {
  expect(message(event)).toEqual([])
})

test.each([
  [{ type: 'thinking_delta', thinking: 'Hm' }, 2],
  [{ type: 'input_json_delta', partial_json: '{' }, 1],
  [{ type: 'citations_delta', text: 'no' }, 2],
])('fromMessage() only counts the bytes of %j', (delta, bytes) => {
  expect(message({ type: 'content_block_delta', delta })).toEqual([{ kind: 'hidden', bytes }])
})

test('fromMessage() ends on message_stop only', () => {
  expect(message({ type: 'message_stop' }).at(-1)).toEqual({ kind: 'end' })
  expect(anthropic.fromMessage({ event: 'ping', data: ' ' })).toEqual([])
})

test.each([
  ['invalid_request_error', 'upstream_refused_request'],
  ['request_too_large', 'upstream_refused_request'],
  ['authentication_error', 'upstream_rejected'],
  ['billing_error', 'upstream_rate_limited'],
  ['permission_error', 'upstream_rejected'],
  ['not_found_error', 'upstream_rejected'],
  ['rate_limit_error', 'upstream_rate_limited'],
  ['api_error', 'upstream_unavailable'],
  ['timeout_error', 'upstream_unavailable'],
  ['overloaded_error', 'upstream_unavailable'],
  ['toString', 'upstream_bad_response'],
])('maps an error event of type %s to %s', (type, code) => {
  const event = { type: 'error', error: { type, message: 'canary' } }
  const failure = failing(() => message(event))
  expect(failure.code).toBe(code)
  expect(failure.cause).toMatchObject({ code: type })
  expect(JSON.stringify([failure.message, failure.cause])).not.toContain('canary')
  expect(failing(() => anthropic.fromBody(event)).code).toBe(code)
})

test.each([['42'], ['[1]'], ['"x"'], ['{"type":'], ['{"type":"message_start"}']])(
  'fromMessage() refuses %s',
  (data) => {
    expect(failing(() => anthropic.fromMessage({ event: null, data })).code).toBe(
      'upstream_bad_response',
    )
  },
)

test('fromFailure() gives the owner a hint about the key and about the credit balance', () => {
  const body = (message: string) => ({ type: 'error', error: { type: 'x_error', message } })
  const key = anthropic.fromFailure(401, body('invalid x-api-key'))
  expect(key).toMatchObject({ code: 'upstream_rejected', cause: { code: 'x_error' } })
  expect((key.cause as { hint: string }).hint).toContain('key')
  const credit = anthropic.fromFailure(400, body('Your credit balance is too low to access'))
  expect(credit).toMatchObject({ code: 'upstream_rate_limited', retryAfterSeconds: 3600 })
  expect((credit.cause as { hint: string }).hint).toContain('credit')
  expect(anthropic.fromFailure(400, body('max_tokens is too low')).code).toBe(
    'upstream_refused_request',
  )
})

const start = (usage: unknown) => ({
  type: 'message_start',
  message: { id: 'm', model: 'c', usage },
})
const delta = (usage: unknown) => ({
  type: 'message_delta',
  delta: { stop_reason: 'end_turn' },
  usage,
})
const text = { type: 'content_block_delta', delta: { type: 'text_delta', text: 'Hi' } }

/** The usage that a sequence of events adds up to. */
function usageOf(...events: readonly unknown[]) {
  const normaliser = new Normaliser({ choices: 1, perPrompt: 1, logprobs: false, echoed: [] })
  const deltas: RawDelta[] = events.flatMap((event) => [...message(event)])
  for (const raw of deltas) normaliser.add(raw, [])
  return normaliser.end().usage
}

test('usage sent in two parts is added up', () => {
  expect(
    usageOf(start({ input_tokens: 25, output_tokens: 1 }), text, delta({ output_tokens: 15 })),
  ).toEqual({ prompt_tokens: 25, completion_tokens: 15, total_tokens: 40 })
})

test('repeated usage counts once, and a larger later input count wins', () => {
  const again = delta({ input_tokens: 30, output_tokens: 15 })
  expect(usageOf(start({ input_tokens: 25 }), text, again)).toMatchObject({ prompt_tokens: 30 })
  const zero = delta({ input_tokens: 0, output_tokens: 15 })
  expect(usageOf(start({ input_tokens: 25 }), text, zero)).toMatchObject({ prompt_tokens: 25 })
})

test('counts cached input as input', () => {
  const cached = {
    input_tokens: 5,
    cache_creation_input_tokens: 10,
    cache_read_input_tokens: null,
  }
  expect(usageOf(start(cached), text, delta({ output_tokens: 1 }))).toMatchObject({
    prompt_tokens: 15,
  })
})

test('incomplete usage is ignored', () => {
  expect(usageOf(start({ input_tokens: 25, output_tokens: 1 }), text, delta({}))).toBeNull()
  expect(usageOf(start({}), text, delta({ output_tokens: 15 }))).toBeNull()
  expect(usageOf(start({ input_tokens: -1 }), text, delta({ output_tokens: 1.5 }))).toBeNull()
  expect(usageOf(start(null), text, delta(null))).toBeNull()
})
