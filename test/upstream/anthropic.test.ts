// Unit tests of the anthropic wire's translations. Whole responses are covered by the fixtures.
import { expect, test } from 'vitest'
import { GatewayError } from '../../src/errors.ts'
import type { WireOptions } from '../../src/upstream/adapter.ts'
import { anthropic } from '../../src/upstream/anthropic.ts'
import { Normaliser } from '../../src/upstream/normalise.ts'
import { callRequest } from '../support/upstreams.ts'

const options: WireOptions = { maxTokensField: 'max_tokens', streamUsage: false, path: null }
const request = callRequest({ model: 'claude-x', prompts: ['Once upon'] })

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

test('toWire() always uses max_tokens, even if the preset sets another field, and its own path', () => {
  const other = { maxTokensField: 'max_completion_tokens', path: '/v2/messages' } as const
  const { body, path } = anthropic.toWire(request, { ...options, ...other })
  expect(path).toBe('/v2/messages')
  expect(body).toMatchObject({ max_tokens: 16 })
  expect(body).not.toHaveProperty('max_completion_tokens')
})

test('fromMessage() reads the stop_reason', () => {
  const delta = { stop_reason: 'max_tokens' }
  const [finish] = message({ type: 'message_delta', delta, usage: {} })
  expect(finish).toEqual({ kind: 'finish', index: 0, reason: 'length' })
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

const text = { type: 'content_block_delta', delta: { type: 'text_delta', text: 'Hi' } }

test.each<[string, unknown, unknown, unknown]>([
  ['in two parts', { input_tokens: 25, output_tokens: 1 }, { output_tokens: 15 }, [25, 15]],
  ['with a larger input', { input_tokens: 25 }, { input_tokens: 30, output_tokens: 15 }, [30, 15]],
  ['with no input', { input_tokens: 25 }, { input_tokens: 0, output_tokens: 15 }, [25, 15]],
  [
    'of cached input',
    { input_tokens: 5, cache_creation_input_tokens: 10, cache_read_input_tokens: null },
    { output_tokens: 1 },
    [15, 1],
  ],
  ['without an output', { input_tokens: 25, output_tokens: 1 }, {}, null],
  ['without an input', {}, { output_tokens: 15 }, null],
  ['of odd numbers', { input_tokens: -1 }, { output_tokens: 1.5 }, null],
  ['of null', null, null, null],
])('fromMessage() reads usage %s', (_, first, last, sum) => {
  const normaliser = new Normaliser({
    choices: 1,
    maxTokens: 9,
    perPrompt: 1,
    logprobs: false,
    echoed: [],
  })
  const start = { type: 'message_start', message: { id: 'm', model: 'c', usage: first } }
  const delta = { type: 'message_delta', delta: { stop_reason: 'end_turn' }, usage: last }
  for (const raw of [start, text, delta].flatMap((event) => [...message(event)])) {
    normaliser.add(raw, [])
  }
  const { usage } = normaliser.end()
  expect(usage && [usage.prompt_tokens, usage.completion_tokens]).toEqual(sum)
})
