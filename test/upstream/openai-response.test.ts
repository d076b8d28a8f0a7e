// Reads the answers of OpenAI-shaped servers as raw deltas: lenient on shapes, strict on errors.

import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Delta, RawDelta } from '../../src/completion/delta.ts'
import { GatewayError } from '../../src/errors.ts'
import { Normaliser } from '../../src/upstream/normalise.ts'
import {
  type Preference,
  readBody,
  readChunk,
  readUsage,
} from '../../src/upstream/openai-response.ts'

const chunk = (value: unknown, prefer: Preference = 'text', event: string | null = null) =>
  readChunk({ event, data: typeof value === 'string' ? value : JSON.stringify(value) }, prefer)
const only = <K extends RawDelta['kind']>(deltas: readonly RawDelta[], kind: K) =>
  deltas.filter((delta): delta is Extract<RawDelta, { kind: K }> => delta.kind === kind)
const textOf = (deltas: readonly RawDelta[]) =>
  only(deltas, 'text')
    .map(({ text }) => text)
    .join('')
const failure = (code: string) => expect.objectContaining({ code }) as GatewayError
const choices = (...list: unknown[]) => ({ id: 'x', model: 'm', choices: list })

test('readChunk() reads the terminator, keep-alives and every chunk of a list', () => {
  expect(chunk(' [DONE]')).toEqual([{ kind: 'end' }])
  expect(chunk(': keepalive')).toEqual([])
  const list = [choices({ index: 0, text: 'a' }), choices({ index: 0, text: 'b' })]
  expect(textOf(chunk(JSON.stringify(list)))).toBe('ab')
})

test('readChunk() prefers the text field of its own wire and never takes both', () => {
  const both = choices({
    index: 0,
    text: 'legacy',
    delta: { content: 'chat' },
    finish_reason: null,
  })
  expect(textOf(chunk(both, 'text'))).toBe('legacy')
  expect(textOf(chunk(both, 'chat'))).toBe('chat')
})

test('readChunk() takes the other text field when its own is missing', () => {
  expect(textOf(chunk(choices({ index: 0, delta: { content: 'chat' } }), 'text'))).toBe('chat')
  expect(textOf(chunk(choices({ index: 0, text: 'legacy' }), 'chat'))).toBe('legacy')
  expect(textOf(chunk(choices({ index: 0, message: { content: 'm' } }), 'chat'))).toBe('m')
})

test('readChunk() reads numbers and text parts of lists as text, and nothing else', () => {
  const textIn = (content: unknown) =>
    textOf(chunk(choices({ index: 0, delta: { content } }), 'chat'))
  expect(textIn(42)).toBe('42')
  expect(
    textIn([
      { type: 'thinking', thinking: 'no' },
      { type: 'text', text: 'a' },
      { type: 'text', text: 'b' },
    ]),
  ).toBe('ab')
  expect(textIn(['a', 'b'])).toBe('ab')
  expect(textIn({ type: 'output_text', text: 'a' })).toBe('a')
  for (const odd of [null, true, {}, [], [{}, null], { type: 'image', text: 'x' }])
    expect(textIn(odd)).toBe('')
})

test('readChunk() only counts the bytes of reasoning and tool calls, and ignores roles', () => {
  const delta = { role: 'assistant', reasoning: 'a', reasoning_content: 'b', tool_calls: [{}] }
  expect(chunk(choices({ index: 0, delta, finish_reason: null }), 'chat')).toEqual([
    { kind: 'meta', id: 'x', model: 'm' },
    { kind: 'text', index: 0, text: '', logprobs: null },
    { kind: 'hidden', bytes: 2 },
  ])
})

test.each<[string, object, number]>([
  ['reasoning_content', { delta: { reasoning_content: 'Zoë' } }, 4],
  ['reasoning beside a text', { delta: { content: 'a', reasoning: 'Zoë' } }, 4],
  ['reasoning of the choice', { text: '', reasoning: 'Zoë' }, 4],
  ['parts of thinking', { delta: { content: [{ thinking: [{ text: 'Zoë' }] }] } }, 4],
  ['the arguments of a tool', { delta: { tool_calls: [{ function: { arguments: '{}' } }] } }, 2],
])('readChunk() counts the bytes of %s', (_, choice, bytes) => {
  expect(only(chunk(choices(choice), 'chat'), 'hidden')).toEqual([{ kind: 'hidden', bytes }])
})

test('readChunk() puts the text of a chunk before its finish', () => {
  const kinds = chunk(choices({ index: 0, text: 'a', finish_reason: 'stop' })).map(
    ({ kind }) => kind,
  )
  expect(kinds).toEqual(['meta', 'text', 'finish'])
})

test('readChunk() marks a finish reason that arrives with text or reasoning', () => {
  const isOnContent = (choice: object) =>
    only(chunk(choices({ index: 0, finish_reason: 'stop', ...choice }), 'chat'), 'finish').map(
      ({ onContent = false }) => onContent,
    )
  expect(isOnContent({ delta: { content: 'a' } })).toEqual([true])
  expect(isOnContent({ delta: { reasoning_content: 'hm' } })).toEqual([true])
  expect(isOnContent({ delta: { reasoning: 'hm' } })).toEqual([true])
  expect(isOnContent({ delta: { content: '' } })).toEqual([false])
  expect(isOnContent({})).toEqual([false])
  // A whole message is not a piece: it arrives at the end.
  expect(isOnContent({ message: { content: 'a' } })).toEqual([false])
})

test('readChunk() reads an error finish reason as a failure', () => {
  const broken = choices({ index: 3, text: 'a', finish_reason: 'ERROR' })
  expect(only(chunk(broken), 'failed')).toEqual([{ kind: 'failed', index: 3 }])
  expect(only(chunk(broken), 'finish')).toEqual([])
})

test('readChunk() marks a message as the whole text so far, unless a delta has text', () => {
  const whole = (choice: object) =>
    only(chunk(choices({ index: 0, ...choice }), 'chat'), 'text').map((delta) => [
      delta.text,
      delta.whole ?? false,
    ])
  expect(whole({ message: { content: 'ab' } })).toEqual([['ab', true]])
  expect(whole({ delta: {}, message: { content: 'ab' } })).toEqual([['ab', true]])
  expect(whole({ text: '', message: { content: 'ab' } })).toEqual([['ab', true]])
  expect(whole({ delta: { content: 'b' }, message: { content: 'ab' } })).toEqual([['b', false]])
})

test('readChunk() reads a refusal as a content_filter finish without text', () => {
  const deltas = chunk(choices({ index: 0, delta: { refusal: 'no' }, finish_reason: null }), 'chat')
  expect(textOf(deltas)).toBe('')
  expect(only(deltas, 'finish')).toEqual([{ kind: 'finish', index: 0, reason: 'content_filter' }])
})

test('readChunk() takes no id or model from a chunk without choices', () => {
  expect(chunk({ id: 'azure', model: 'azure', choices: [] })).toEqual([{ kind: 'meta' }])
  expect(chunk({ id: 'x', model: 'm' })).toEqual([{ kind: 'meta' }])
})

test.each<[string, unknown[], number[]]>([
  ['is missing or no number', [undefined, 'x', 7], [0, 1, 7]],
  ['is text', ['1', '0'], [1, 0]],
  ['is that of another choice', [0, 0], [0, 1]],
])('readChunk() uses the position only where needed if an index %s', (_, given, indices) => {
  const deltas = chunk(choices(...given.map((index) => ({ text: 'a', index }))))
  expect(only(deltas, 'text').map(({ index }) => index)).toEqual(indices)
})

test('readChunk() assigns usage to a choice when the chunk is about one choice', () => {
  const usage = { prompt_tokens: 5, completion_tokens: 2, total_tokens: 7 }
  const of = (...list: unknown[]) => only(chunk({ ...choices(...list), usage }), 'usage')
  expect(of({ index: 1, text: '' })).toEqual([{ kind: 'usage', index: 1, usage }])
  expect(of()).toEqual([{ kind: 'usage', index: null, usage }])
  expect(of({ index: 0, text: '' }, { index: 1, text: '' })).toEqual([
    { kind: 'usage', index: null, usage },
  ])
})

test.each<[string, unknown, string | null, string]>([
  ['an error object', { error: { message: 'm' } }, null, 'upstream_bad_response'],
  ['an error with a status', { error: { code: 429 } }, null, 'upstream_rate_limited'],
  ['an error with a status next to it', { error: 'x', code: '429' }, null, 'upstream_rate_limited'],
  [
    'an error next to choices',
    { ...choices({ index: 0, text: 'a' }), error: { code: 500 } },
    null,
    'upstream_unavailable',
  ],
  ['an error string', { error: 'gone' }, null, 'upstream_bad_response'],
  ['an error list', { error: [{ code: 500 }] }, null, 'upstream_unavailable'],
  ['several errors', { success: false, errors: [{ code: 7000 }] }, null, 'upstream_bad_response'],
  ['success false', { success: false }, null, 'upstream_bad_response'],
  ['a flat error', { object: 'error', code: 404 }, null, 'upstream_rejected'],
  ['an error number', { text: 't', error_code: 50_002 }, null, 'upstream_bad_response'],
  ['an error event', { message: 'm' }, 'error', 'upstream_bad_response'],
  ['an error event that is not JSON', 'gone', 'error', 'upstream_bad_response'],
  ['text that is not JSON', 'oops', null, 'upstream_bad_response'],
  ['a JSON scalar', '42', null, 'upstream_bad_response'],
  ['a choice that is a number', choices(7), null, 'upstream_bad_response'],
  ['a fault (Fireworks)', { fault: { faultstring: 'm' } }, null, 'upstream_bad_response'],
  ['a bare message (one-api)', { message: 'm', code: 'x' }, null, 'upstream_bad_response'],
  [
    'an error inside a response (one-api)',
    { response: { error: { message: 'm' } } },
    null,
    'upstream_bad_response',
  ],
])('readChunk() throws for %s', (_, value, event, code) => {
  expect(() => chunk(value, 'text', event)).toThrow(failure(code))
})

test('readChunk() ignores an empty error field', () => {
  for (const error of [null, '', false, undefined]) {
    expect(textOf(chunk({ ...choices({ index: 0, text: 'a' }), error, errors: [] }))).toBe('a')
  }
})

test.each([
  ['stop', {}],
  ['', {}],
  [null, { inferred: true }],
  [undefined, { inferred: true }],
  [7, { inferred: true }],
])('readBody() reads the finish reason %j as "stop", and ends', (finish_reason, more) => {
  const deltas = readBody(choices({ index: 0, text: 'a', finish_reason }), 'text')
  expect(deltas.map(({ kind }) => kind)).toEqual(['meta', 'text', 'finish', 'end'])
  expect(deltas[2]).toEqual({ kind: 'finish', index: 0, reason: 'stop', ...more })
})

test('readBody() throws if the body is not a completion', () => {
  const odd = [null, 'x', 1, true, {}, [[]], [1], { choices: [] }, { choices: {} }]
  for (const body of [...odd, choices(1), choices({})]) {
    const reading = () => readBody(body, 'text')
    expect(reading, JSON.stringify(body)).toThrow(failure('upstream_bad_response'))
  }
})

test.each<[string, unknown]>([
  ['null', null],
  ['an empty object', {}],
  ['a part', { prompt_tokens: 1, total_tokens: 2 }],
  ['two parts', { prompt_tokens: 1, completion_tokens: 1 }],
  ['zeros', { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 }],
  ['a negative count', { prompt_tokens: 5, completion_tokens: -1, total_tokens: 4 }],
  ['a fraction', { prompt_tokens: 5.5, completion_tokens: 1, total_tokens: 6.5 }],
  ['strings', { prompt_tokens: '5', completion_tokens: '1', total_tokens: '6' }],
  ['too much', { prompt_tokens: 5, completion_tokens: 1, total_tokens: 2 ** 60 }],
  ['a list', [5, 1, 6]],
])('readUsage() returns null for %s', (_, value) => {
  expect(readUsage(value)).toBeNull()
})

test('readUsage() keeps only the three integers', () => {
  const usage = { prompt_tokens: 35, completion_tokens: 12, total_tokens: 109 }
  expect(readUsage({ ...usage, cost: 0.1, prompt_tokens_details: {} })).toEqual(usage)
})

const logprobsOf = (logprobs: unknown) =>
  only(chunk(choices({ index: 0, text: 'a', logprobs })), 'text').map((delta) => delta.logprobs)[0]

test('readChunk() keeps legacy logprobs, including nulls and missing parts', () => {
  const legacy = {
    tokens: ['a', 'b'],
    token_logprobs: [null, -1],
    top_logprobs: [null, { b: -1 }],
    text_offset: [3, 4],
  }
  expect(logprobsOf(legacy)).toEqual(legacy)
  const { text_offset: _, ...unplaced } = legacy
  expect(logprobsOf({ ...unplaced, top_logprobs: null })).toEqual({
    ...unplaced,
    top_logprobs: null,
  })
})

test('readChunk() converts logprobs of the chat shape', () => {
  const content = [
    {
      token: 'a',
      logprob: -1,
      bytes: [97],
      top_logprobs: [
        { token: 'a', logprob: -1 },
        { token: 'b', logprob: -9999 },
      ],
    },
  ]
  expect(logprobsOf({ content, refusal: null })).toEqual({
    tokens: ['a'],
    token_logprobs: [-1],
    top_logprobs: [{ a: -1, b: -9999 }],
  })
})

test('readChunk() drops logprobs of any other shape', () => {
  const odd = [
    null,
    [],
    'x',
    {},
    { content: null },
    { content: [] },
    { content: [{ token: 'a' }] },
    { tokens: [] },
    { tokens: ['a'] },
    { tokens: ['a'], token_logprobs: [] },
    { tokens: [1], token_logprobs: [-1] },
    { tokens: ['a'], token_logprobs: ['x'] },
  ]
  for (const logprobs of odd) expect(logprobsOf(logprobs), JSON.stringify(logprobs)).toBeNull()
})

const odd = fc.oneof(
  { weight: 2, arbitrary: fc.jsonValue({ maxDepth: 2 }) },
  fc.constantFrom<unknown>(null, '', 'a', 0, -1, 1.5, 'stop', 'error', [], {}),
  fc.constantFrom('constructor', '__proto__'),
)
const likely = (value: fc.Arbitrary<unknown>) => fc.oneof({ weight: 3, arbitrary: value }, odd)
const message = fc.record({ content: likely(fc.string()), refusal: odd }, { requiredKeys: [] })
const choice = fc.record(
  {
    index: likely(fc.integer({ min: -1, max: 3 })),
    text: likely(fc.string()),
    delta: likely(message),
    message: likely(message),
    logprobs: odd,
    finish_reason: likely(fc.constantFrom('stop', 'length', null)),
  },
  { requiredKeys: [] },
)
const answer = fc.record(
  {
    id: odd,
    object: odd,
    created: odd,
    model: odd,
    system_fingerprint: odd,
    choices: likely(fc.array(likely(choice), { maxLength: 3 })),
    usage: likely(fc.record({ prompt_tokens: odd, completion_tokens: odd, total_tokens: odd })),
    error: fc.oneof({ weight: 9, arbitrary: fc.constant(null) }, odd),
  },
  { requiredKeys: ['choices'] },
)

test('readChunk() and readBody() return valid deltas for any input, or throw an error with a code', () => {
  let clean = 0
  fc.assert(
    fc.property(
      likely(answer),
      fc.constantFrom<Preference>('text', 'chat'),
      fc.boolean(),
      (value, prefer, whole) => {
        const normaliser = new Normaliser({
          choices: 2,
          maxTokens: 9,
          perPrompt: 2,
          logprobs: true,
          echoed: [],
        })
        const texts: Extract<Delta, { kind: 'text' }>[] = []
        try {
          for (const raw of whole
            ? readBody(value, prefer)
            : chunk(JSON.stringify(value), prefer)) {
            normaliser.add(raw, texts)
          }
          for (const delta of texts) expect(delta.text).toBeTypeOf('string')
          const { finishes, usage } = normaliser.end()
          expect(finishes).toHaveLength(2)
          for (const count of Object.values(usage ?? {}))
            expect(Number.isSafeInteger(count)).toBe(true)
          clean += 1
        } catch (error) {
          expect(error).toBeInstanceOf(GatewayError)
          expect((error as GatewayError).code).toMatch(/^upstream_/)
        }
      },
    ),
    { numRuns: 2000 },
  )
  expect(clean, 'some inputs were answers').toBeGreaterThan(0)
})
