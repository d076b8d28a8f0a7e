// Fields of other servers: ignored at a neutral value, rejected at any other.
import { describe, expect, test } from 'vitest'
import { neutralValues } from '../../src/request/foreign.ts'
import { queryBody } from '../../src/request/query.ts'
import { requestParser, requestSchema } from '../../src/request/schema.ts'
import { refusalOf } from '../support/failure.ts'

const parse = requestParser({ prompt_chars: 100, max_tokens: 1024, n: 3, prompts: 4 })
const refusal = (body: unknown) => refusalOf(() => parse(body))

const neutral = [...neutralValues].flatMap(([field, values]) =>
  [...values, null].map((value) => ({ field, value })),
)

test.each(neutral)('requestParser() ignores $field = $value', ({ field, value }) => {
  const given = JSON.parse(JSON.stringify({ prompt: 'x', [field]: value }))
  expect(parse(given)).toEqual({ prompt: 'x' })
})

test.each([...neutralValues.keys()])('requestParser() rejects other values of %s', (field) => {
  for (const value of [7, 'other', { other: 1 }, [{ other: 1 }]]) {
    const { code, param, message } = refusal({ prompt: 'x', [field]: value })
    expect([code, param]).toEqual(['invalid_value', field])
    expect(message).toMatch(new RegExp(`^Cannot use "${field}": expected .+, got `))
  }
})

test.each([
  ['ignore_eos', true, 'expected false, got true'],
  ['repetition_penalty', 1.1, 'expected 1, got 1.1'],
  ['top_k', 40, 'expected -1 or 0, got 40'],
  ['min_p', '0', 'expected 0, got "0"'],
  [
    'tools',
    [{ type: 'function' }],
    'expected [] or {} (this endpoint takes text only), got an array',
  ],
  ['stop_sequences', ['x'], 'expected [], got an array'],
  ['tool_choice', 'required', 'expected "none" or "auto", got "required"'],
  ['response_format', { type: 'json_object' }, 'expected {"type":"text"}, got an object'],
  ['response_format', { type: 'text', more: 1 }, 'expected {"type":"text"}, got an object'],
  ['metadata', [], 'expected {}, got an array'],
  ['stop_token_ids', {}, 'expected [], got an object'],
  ['skip_special_tokens', false, 'expected true, got false'],
  ['guided_json', {}, 'expected null, got an object'],
])('requestParser() states the expected value of %s instead of %j', (field, value, expected) => {
  const { message } = refusal({ prompt: 'x', [field]: value })
  expect(message).toBe(`Cannot use "${field}": ${expected}`)
})

test('requestParser() does not recurse into nested values of such a field', () => {
  const deep: unknown = JSON.parse('['.repeat(1e5) + ']'.repeat(1e5))
  expect(refusal({ prompt: 'x', tools: deep, metadata: deep })).toMatchObject({
    code: 'invalid_value',
    param: 'tools',
  })
})

test('the table contains no field of this endpoint', () => {
  const { entries } = requestSchema({ prompt_chars: 1, max_tokens: 1, n: 1, prompts: 1 })
  expect(Object.keys(entries).filter((field) => neutralValues.has(field))).toEqual([])
})

test('requestParser() ignores neutral values with a locked prompt, too', () => {
  const prompt = { id: 'haiku' }
  expect(parse({ prompt, top_k: -1, ignore_eos: false, tools: [] })).toEqual({ prompt })
  expect(refusal({ prompt, top_k: 40 })).toMatchObject({ param: 'top_k' })
})

test('queryBody() parses such fields as JSON if possible, else as text', () => {
  const query = 'prompt=x&ignore_eos=false&top_k=-1&tools=%5B%5D&tool_choice=auto&min_p=null&seed=3'
  expect(parse(queryBody(query))).toEqual({ prompt: 'x', seed: 3 })
  expect(queryBody('prompt=x&ignore_eos=perhaps')).toEqual({ prompt: 'x', ignore_eos: 'perhaps' })
})

// What these programs send to /v1/completions by default.
describe('payloads of other programs', () => {
  test.each<[program: string, payload: Record<string, unknown>, withoutEffect: string[]]>([
    [
      'guidellm, for data without output lengths',
      {
        model: 'default',
        stream: true,
        stream_options: { include_usage: true, continuous_usage_stats: true },
        prompt: 'Say this is a test',
      },
      [],
    ],
    [
      'vllm bench serve',
      {
        model: 'default',
        prompt: 'Say this is a test',
        repetition_penalty: 1.0,
        max_tokens: 128,
        logprobs: null,
        stream: true,
        stream_options: { include_usage: true },
      },
      ['repetition_penalty', 'logprobs'],
    ],
    [
      'sglang.bench_serving --disable-ignore-eos',
      {
        model: 'default',
        prompt: 'Say this is a test',
        best_of: 1,
        max_tokens: 128,
        stream: true,
        temperature: 0.0,
        ignore_eos: false,
      },
      ['ignore_eos'],
    ],
    [
      'promptfoo (openai:completion)',
      {
        model: 'default',
        prompt: 'Say this is a test',
        max_tokens: 1024,
        temperature: 0,
        top_p: 1,
        presence_penalty: 0,
        frequency_penalty: 0,
        best_of: 1,
        stop: ['<|im_end|>', '<|endoftext|>'],
      },
      [],
    ],
  ])('requestParser() accepts what %s sends', (_, payload, withoutEffect) => {
    const request = Object.entries(payload).filter(([field]) => !withoutEffect.includes(field))
    expect(parse(payload)).toEqual(Object.fromEntries(request))
  })
})
