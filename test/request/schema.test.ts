// The validation of each request field: accepted values, and the messages for rejected ones.

import fc from 'fast-check'
import { expect, test } from 'vitest'
import { isLocked, requestParser } from '../../src/request/schema.ts'
import { refusalOf } from '../support/failure.ts'

const limits = { prompt_chars: 100, max_tokens: 512, n: 3, prompts: 4 }
const parse = requestParser(limits)

const refusal = (body: unknown) => refusalOf(() => parse(body))

const LONE = '\ud800'
const PROMPTS =
  'a string that is not empty, a list of such strings, a list of tokens or {"id": …}' as const

/** Values that are accepted unchanged. */
const good: Readonly<Record<string, readonly unknown[]>> = {
  prompt: [
    'x',
    ' ',
    'x'.repeat(100),
    ['a', 'b'],
    ['a', 'b', 'c', 'd'],
    [0],
    [1, 2, 3, 4, 5],
    [2 ** 31 - 1],
    [[1], [2, 3]],
    { id: 'haiku' },
    { id: 'haiku', variables: {} },
    { id: 'haiku', variables: { topic: 'sea' } },
    { id: 'x'.repeat(64) },
    'NUL \u0000 RTL \u202e ZWJ \u200d emoji 😀 é e\u0301',
  ],
  model: ['default', '', 'a model the owner may not have'],
  max_tokens: [1, 512],
  temperature: [0, 0.5, 1, 2, 1e-300],
  top_p: [0, 0.5, 1],
  presence_penalty: [-2, 0, 2],
  frequency_penalty: [-2, 0, 2],
  n: [1, 3],
  best_of: [1, 3],
  stop: ['x', 'x'.repeat(64), ['x'], ['a', 'b', 'c', 'd'], []],
  stream: [true, false],
  seed: [0, -5, 7, Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER],
  logprobs: [0, 5],
  echo: [true, false],
  suffix: ['', 'x', 'x'.repeat(100)],
  logit_bias: [{}, { '50256': -100 }, { '0': 100, '1234567890': 0 }],
  user: ['', 'somebody', 'x'.repeat(512)],
}

test.each(
  Object.entries(good).flatMap(([field, values]) => values.map((value) => ({ field, value }))),
)('requestParser() accepts $field = $value', ({ field, value }) => {
  const body = { prompt: 'x', [field]: value }
  expect(parse(body)).toEqual(body)
})

/** A value with the "expected" and "got" parts of its message. */
type Bad = readonly [value: unknown, expected: string, got: string, param?: string]

function numeric(expected: string, outside: readonly number[]): Bad[] {
  return [
    ...outside.map((value): Bad => [value, expected, String(value)]),
    [Number.NaN, expected, 'NaN'],
    ['1', expected, '"1"'],
    ['', expected, '""'],
    [true, expected, 'true'],
    [[0], expected, 'an array'],
    [{}, expected, 'an object'],
  ]
}

function whole(expected: string, outside: readonly number[]): Bad[] {
  return numeric(expected, [...outside, 1.5])
}

function notFlag(): Bad[] {
  return [
    ['true', 'true or false', '"true"'],
    [1, 'true or false', '1'],
    [[], 'true or false', 'an array'],
  ]
}

function notText(chars: number): Bad[] {
  return [
    [5, 'a string', '5'],
    [['a'], 'a string', 'an array'],
    ['x'.repeat(chars + 1), `at most ${chars} characters`, String(chars + 1)],
    [`a${LONE}`, 'well-formed Unicode', 'a lone surrogate'],
  ]
}

const anyStop = 'a string or up to 4 strings, each of 1 to 64 characters'
const item = 'at least one item'
const token = 'a whole number from 0 to 2147483647'

const bad: Readonly<Record<string, readonly Bad[]>> = {
  prompt: [
    ['', 'a string that is not empty', '""'],
    [5, PROMPTS, '5'],
    [true, PROMPTS, 'true'],
    [[], PROMPTS, 'an array'],
    [[1, 'a'], PROMPTS, 'an array'],
    [['a', 1], PROMPTS, 'an array'],
    [{ id: 5 }, 'a string', '5', 'prompt.id'],
    [[[]], item, 'an array', 'prompt[0]'],
    [[[1], []], item, 'an array', 'prompt[1]'],
    [['a', ''], 'a string that is not empty', '""', 'prompt[1]'],
    [[1.5], token, '1.5', 'prompt[0]'],
    [[-1], token, '-1', 'prompt[0]'],
    [[2 ** 31], token, '2147483648', 'prompt[0]'],
    [LONE, 'well-formed Unicode', 'a lone surrogate'],
    ['\udfff', 'well-formed Unicode', 'a lone surrogate'],
    ['\udc00\ud800', 'well-formed Unicode', 'a lone surrogate'],
    [['a', LONE], 'well-formed Unicode', 'a lone surrogate', 'prompt[1]'],
    [{ id: LONE }, 'well-formed Unicode', 'a lone surrogate', 'prompt.id'],
    [{ id: '' }, 'a string that is not empty', '""', 'prompt.id'],
    [{ id: 'x'.repeat(65) }, 'at most 64 characters', '65', 'prompt.id'],
    ['x'.repeat(101), 'at most 100 characters', '101'],
    [['x'.repeat(50), 'x'.repeat(51)], 'at most 100 characters', '101'],
    [Array(101).fill(1), 'at most 100 characters', '101'],
    [['a', 'b', 'c', 'd', 'e'], 'at most 4 prompts', '5'],
    [[[1], [2], [3], [4], [5]], 'at most 4 prompts', '5'],
    [{ id: 'haiku', variables: [] }, 'an object of variables', 'an array', 'prompt.variables'],
    [{ id: 'haiku', variables: 'x' }, 'an object of variables', '"x"', 'prompt.variables'],
  ],
  model: [
    [5, 'a string', '5'],
    [['default'], 'a string', 'an array'],
  ],
  max_tokens: whole('a whole number from 1 to 512', [0, -1, 513]),
  temperature: numeric('0 to 2', [3, -0.1, 2.0000001]),
  top_p: numeric('0 to 1', [-0.1, 1.1]),
  presence_penalty: numeric('-2 to 2', [-2.1, 2.1]),
  frequency_penalty: numeric('-2 to 2', [-2.1, 2.1]),
  n: whole('a whole number from 1 to 3', [0, -1, 4]),
  best_of: whole('a whole number from 1 to 3', [0, -1, 4]),
  logprobs: whole('a whole number from 0 to 5', [-1, 6]),
  seed: whole('a whole number from -9007199254740991 to 9007199254740991', [2 ** 53]),
  stop: [
    ['', 'a string that is not empty', '""'],
    ['x'.repeat(65), 'at most 64 characters', '65'],
    [5, anyStop, '5'],
    [[5], anyStop, 'an array'],
    [{}, anyStop, 'an object'],
    [['a', ''], 'a string that is not empty', '""', 'stop[1]'],
    [['x'.repeat(65)], 'at most 64 characters', '65', 'stop[0]'],
    [['a', 'b', 'c', 'd', 'e'], 'at most 4 strings', '5'],
    [LONE, 'well-formed Unicode', 'a lone surrogate'],
    [['a', LONE], 'well-formed Unicode', 'a lone surrogate', 'stop[1]'],
  ],
  stream: notFlag(),
  echo: notFlag(),
  suffix: notText(100),
  user: notText(512),
  logit_bias: [
    [5, 'an object of token ids', '5'],
    // typeof returns "object" for arrays; [5] would become a bias for token 0.
    [[5], 'an object of token ids', 'an array'],
    [{ a: 1 }, 'token ids as keys', '"a"', 'logit_bias.a'],
    [{ '-1': 1 }, 'token ids as keys', '"-1"', 'logit_bias.-1'],
    [{ '12345678901': 1 }, 'token ids as keys', '"12345678901"', 'logit_bias.12345678901'],
    [{ '1': 101 }, 'a whole number from -100 to 100', '101', 'logit_bias.1'],
    [{ '1': -101 }, 'a whole number from -100 to 100', '-101', 'logit_bias.1'],
    [{ '1': 0.5 }, 'a whole number from -100 to 100', '0.5', 'logit_bias.1'],
    [{ '1': '1' }, 'a whole number from -100 to 100', '"1"', 'logit_bias.1'],
  ],
}

test.each(
  Object.entries(bad).flatMap(([field, rows]) =>
    rows.map(([value, expected, got, param = field]) => ({ field, value, expected, got, param })),
  ),
)('requestParser() rejects $field = $value', ({ field, value, expected, got, param }) => {
  expect(refusal({ prompt: 'x', [field]: value })).toEqual({
    code: 'invalid_value',
    param,
    message: `Cannot use "${param}": expected ${expected}, got ${got}`,
  })
})

// JSON.parse converts 1e400 to Infinity and 2^53 + 1 to 2^53.
test.each([
  ['max_tokens', '1e400', 'a whole number from 1 to 512, got Infinity'],
  ['max_tokens', '9007199254740993', 'a whole number from 1 to 512, got 9007199254740992'],
  ['temperature', '1e400', '0 to 2, got Infinity'],
  ['temperature', '-1e400', '0 to 2, got -Infinity'],
  ['logprobs', '1e400', 'a whole number from 0 to 5, got Infinity'],
])('requestParser() reports %s = %s once', (field, number, expected) => {
  expect(refusal(JSON.parse(`{"prompt":"x","${field}":${number}}`))).toEqual({
    code: 'invalid_value',
    param: field,
    message: `Cannot use "${field}": expected ${expected}`,
  })
})

test.each([{}, { prompt: null }, { prompt: undefined }])(
  'requestParser() reports the missing prompt in %j',
  (body) => {
    const { code, param, message } = refusal(body)
    expect({ code, param }).toEqual({ code: 'missing_field', param: 'prompt' })
    expect(message).toMatch(/^Cannot find "prompt"/)
    expect(message).not.toContain('expected "prompt"')
  },
)

test.each([
  [null, 'null'],
  [[], 'an array'],
  ['x', '"x"'],
  [3, '3'],
  [true, 'true'],
])('requestParser() rejects the body %j', (body, got) => {
  expect(refusal(body)).toEqual({
    code: 'invalid_value',
    param: null,
    message: `Cannot use the body: expected a JSON object, got ${got}`,
  })
})

test('requestParser() treats null as absent in every field', () => {
  for (const field of [...Object.keys(good), 'stream_options'].filter(
    (name) => name !== 'prompt',
  )) {
    expect(parse({ prompt: 'x', [field]: null }), field).toEqual({ prompt: 'x' })
  }
  expect(parse({ prompt: 'x', stream: true, stream_options: { include_usage: null } })).toEqual({
    prompt: 'x',
    stream: true,
    stream_options: {},
  })
})

test('requestParser() accepts stream_options only with "stream": true', () => {
  const options = {
    include_usage: true,
    include_obfuscation: false,
    continuous_usage_stats: true,
  }
  const body = { prompt: 'x', stream: true, stream_options: options }
  expect(parse(body)).toEqual(body)
  for (const stream of [false, undefined]) {
    expect(refusal({ ...body, stream })).toEqual({
      code: 'invalid_value',
      param: 'stream_options',
      message: 'Cannot use "stream_options": it requires "stream": true',
    })
  }
})

test.each([
  [{ include_usage: 1 }, 'stream_options.include_usage', 'true or false, got 1'],
  [{ continuous_usage_stats: 1 }, 'stream_options.continuous_usage_stats', 'true or false, got 1'],
  [{ include_obfuscation: 'x' }, 'stream_options.include_obfuscation', 'true or false, got "x"'],
  ['x', 'stream_options', 'an object, got "x"'],
  [[], 'stream_options', 'an object, got an array'],
  [true, 'stream_options', 'an object, got true'],
])('requestParser() rejects stream_options = %j', (stream_options, param, expected) => {
  expect(refusal({ prompt: 'x', stream: true, stream_options })).toEqual({
    code: 'invalid_value',
    param,
    message: `Cannot use "${param}": expected ${expected}`,
  })
})

test('requestParser() expects one number if a limit leaves no other', () => {
  const single = requestParser({ prompt_chars: 100, max_tokens: 512, n: 1, prompts: 4 })
  const { message } = refusalOf(() => single({ prompt: 'x', n: 2 }))
  expect(message).toBe('Cannot use "n": expected 1, got 2')
})

test('requestParser() accepts best_of of at least n, and above n only without a stream', () => {
  expect(parse({ prompt: 'x', n: 2, best_of: 2 })).toEqual({ prompt: 'x', n: 2, best_of: 2 })
  expect(parse({ prompt: 'x', best_of: 1, stream: true }).best_of).toBe(1)
  expect(parse({ prompt: 'x', n: 2, best_of: 2, stream: true }).best_of).toBe(2)
  expect(refusal({ prompt: 'x', n: 3, best_of: 2 })).toEqual({
    code: 'invalid_value',
    param: 'best_of',
    message: 'Cannot use "best_of": expected at least n, which is 3, got 2',
  })
  expect(refusal({ prompt: 'x', best_of: 2, stream: true })).toEqual({
    code: 'invalid_value',
    param: 'best_of',
    message: 'Cannot use "best_of": it cannot be combined with "stream": true',
  })
})

test.each(['foo', 'Prompt', 'prompt ', 'max_completion_tokens'])(
  'requestParser() rejects the unknown field %j',
  (field) => {
    expect(refusal({ prompt: 'x', [field]: 1 })).toEqual({
      code: 'unknown_field',
      param: field,
      message: `Cannot use "${field}": it is not a field of this endpoint`,
    })
  },
)

// These must be reported rather than silently dropped.
test.each([
  ['{"prompt":"x","__proto__":{"admin":true}}', 'unknown_field', '__proto__'],
  ['{"prompt":"x","constructor":{"prototype":{"admin":true}}}', 'unknown_field', 'constructor'],
  ['{"prompt":"x","toString":"x"}', 'unknown_field', 'toString'],
  ['{"prompt":{"id":"x","__proto__":{"admin":true}}}', 'unknown_field', 'prompt.__proto__'],
  ['{"prompt":{"id":"x","text":"mine"}}', 'unknown_field', 'prompt.text'],
  ['{"prompt":"x","stream_options":{"__proto__":1}}', 'unknown_field', 'stream_options.__proto__'],
  ['{"prompt":"x","stream_options":{"foo":1}}', 'unknown_field', 'stream_options.foo'],
  ['{"prompt":"x","logit_bias":{"__proto__":1}}', 'invalid_value', 'logit_bias.__proto__'],
  ['{"prompt":"x","logit_bias":{"constructor":1}}', 'invalid_value', 'logit_bias.constructor'],
])('requestParser() rejects the keys of %s', (json, code, param) => {
  expect(refusal(JSON.parse(json))).toMatchObject({ code, param })
  expect(Object.hasOwn(Object.prototype, 'admin')).toBe(false)
})

test.each(['__proto__', 'constructor', 'prototype'])(
  'requestParser() does not drop a variable called %j',
  (key) => {
    const { prompt } = parse(JSON.parse(`{"prompt":{"id":"haiku","variables":{"${key}":"x"}}}`))
    expect(isLocked(prompt) && Object.keys(prompt.variables ?? {})).toEqual([key])
  },
)

test('requestParser() reports every fault, unknown fields first', () => {
  expect(refusal({ temperature: 3, foo: 1, top_p: '1', stop: '', prompt: 'x' })).toEqual({
    code: 'unknown_field',
    param: 'foo',
    message: [
      'Cannot use "foo": it is not a field of this endpoint',
      'Cannot use "temperature": expected 0 to 2, got 3',
      'Cannot use "top_p": expected 0 to 1, got "1"',
      'Cannot use "stop": expected a string that is not empty, got ""',
    ].join('; '),
  })
  expect(refusal({ prompt: 'x'.repeat(101), n: 2, best_of: 1 }).message).toBe(
    'Cannot use "prompt": expected at most 100 characters, got 101; ' +
      'Cannot use "best_of": expected at least n, which is 2, got 1',
  )
  const missing = refusal({ temperature: 3 })
  expect(missing).toMatchObject({ code: 'missing_field', param: 'prompt' })
  expect(missing.message).toContain('Cannot use "temperature": expected 0 to 2, got 3')
})

test('requestParser() limits the length of its message', () => {
  const fields = Object.fromEntries(Array.from({ length: 2000 }, (_, i) => [`field${i}`, 1]))
  const { param, message } = refusal({ ...fields, prompt: Array(2000).fill('') })
  expect(param).toBe('field0')
  expect(message.length).toBeLessThan(1000)
  const long = refusal({ prompt: 'x', ['k'.repeat(1e5)]: 'v'.repeat(1e5) })
  expect(long.param).toBe('k'.repeat(64))
  expect(long.message.length).toBeLessThan(200)
  expect(refusal({ prompt: 'x', temperature: 'v'.repeat(1e5) }).message.length).toBeLessThan(200)
})

test('requestParser() writes messages in well-formed Unicode', () => {
  for (const key of [LONE, `${'x'.repeat(63)}😀`]) {
    const { code, param, message } = refusal({ prompt: 'x', [key]: 1 })
    expect(code).toBe('unknown_field')
    expect(message.isWellFormed()).toBe(true)
    expect(param?.isWellFormed(), JSON.stringify(param)).toBe(true)
  }
})

test('requestParser() rejects lone surrogates in every text', () => {
  const surrogate = fc.integer({ min: 0xd800, max: 0xdfff }).map((n) => String.fromCharCode(n))
  const broken = fc
    .tuple(fc.string({ unit: 'binary', maxLength: 8 }), surrogate, fc.constantFrom('', 'x'))
    .map((parts) => parts.join(''))
    .filter((text) => !text.isWellFormed())
  const place = fc.constantFrom<(text: string) => object>(
    (prompt) => ({ prompt }),
    (text) => ({ prompt: ['a', text] }),
    (id) => ({ prompt: { id } }),
    (stop) => ({ prompt: 'x', stop }),
    (text) => ({ prompt: 'x', stop: ['a', text] }),
    (suffix) => ({ prompt: 'x', suffix }),
    (user) => ({ prompt: 'x', user }),
    (text) => ({ prompt: 'x', logit_bias: { [text]: 1 } }),
    (text) => ({ prompt: 'x', [text]: 1 }),
  )
  fc.assert(
    fc.property(place, broken, (bodyOf, text) => {
      expect(['invalid_value', 'unknown_field']).toContain(refusal(bodyOf(text)).code)
    }),
  )
})

test('requestParser() accepts any well-formed text unchanged', () => {
  const text = fc.string({ unit: 'binary', minLength: 1, maxLength: 50 })
  fc.assert(
    fc.property(text, (prompt) => {
      expect(parse({ prompt, suffix: prompt })).toEqual({ prompt, suffix: prompt })
    }),
  )
  expect(parse({ prompt: 'é' })).not.toEqual(parse({ prompt: 'e\u0301' }))
})

const nested: Readonly<Record<string, (depth: number) => string>> = {
  arrays: (depth) => '['.repeat(depth) + ']'.repeat(depth),
  objects: (depth) => `${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}`,
  locked: (depth) => `{"id":${'{"id":'.repeat(depth)}1${'}'.repeat(depth)}}`,
  // In these two, the parser looks for `null` one level down.
  prompts: (depth) => `${'{"prompt":'.repeat(depth)}1${'}'.repeat(depth)}`,
  options: (depth) => `${'{"stream_options":'.repeat(depth)}1${'}'.repeat(depth)}`,
}
const fields = [...Object.keys(good), 'stream_options', 'foo']

test.each(Object.keys(nested).flatMap((kind) => [1e4, 1e6].map((depth) => ({ kind, depth }))))(
  'requestParser() rejects $kind nested $depth levels deep',
  ({ kind, depth }) => {
    const deep: unknown = JSON.parse(nested[kind]?.(depth) ?? '')
    for (const field of fields) {
      const { code } = refusal({ prompt: 'x', stream: true, [field]: deep })
      expect(['unknown_field', 'invalid_value'], field).toContain(code)
    }
    expect(['unknown_field', 'invalid_value']).toContain(refusal(deep).code)
  },
)

test('requestParser() does not recurse into the values of variables', () => {
  const deep: unknown = JSON.parse('['.repeat(1e6) + ']'.repeat(1e6))
  const { prompt } = parse({ prompt: { id: 'haiku', variables: { topic: deep } } })
  expect(isLocked(prompt) && Object.keys(prompt.variables ?? {})).toEqual(['topic'])
})

/** The shortest of several runs, which is the least disturbed by other processes. */
function cost(work: () => void): number {
  let best = Number.POSITIVE_INFINITY
  for (let run = 0; run < 7; run++) {
    const start = performance.now()
    work()
    best = Math.min(best, performance.now() - start)
  }
  return Math.max(best, 0.5)
}

// One long text may take as long as 16 that are a sixteenth of it, but not 16 times as long.
const hostile: Readonly<Record<string, (length: number) => object>> = {
  'one letter': (length) => ({ prompt: 'a'.repeat(length) }),
  'spaces and a surrogate': (length) => ({ prompt: `${' '.repeat(length)}${LONE}` }),
  'open placeholders': (length) => ({
    prompt: '{{ '.repeat(length / 3),
    suffix: '{{'.repeat(length / 2),
  }),
  'a stop': (length) => ({ prompt: 'x', stop: 'ab'.repeat(length / 2) }),
  'a token id': (length) => ({ prompt: 'x', logit_bias: { [`${'1'.repeat(length)}a`]: 1 } }),
  'a model': (length) => ({ prompt: 'x', temperature: `${'1'.repeat(length)}x`, model: 5 }),
  'a field': (length) => ({ prompt: 'x', ['__proto__'.repeat(length / 9)]: 1 }),
  'a prompt id': (length) => ({ prompt: { id: '-'.repeat(length) } }),
  'many prompts': (length) => ({ prompt: Array(Math.ceil(length / 16)).fill('ab') }),
  'many tokens': (length) => ({ prompt: Array(Math.ceil(length / 16)).fill(7) }),
}

test.each(Object.keys(hostile))('requestParser() validates %s in linear time', (name) => {
  const bodyOf = hostile[name]
  if (bodyOf === undefined) throw new Error('no such body')
  const [small, large] = [bodyOf(62_500), bodyOf(1_000_000)]
  const refuseSmall = () => {
    for (let i = 0; i < 16; i++) refusal(small)
  }
  expect(cost(() => refusal(large)) / cost(refuseSmall)).toBeLessThan(6)
})

test('requestParser() reports a locked prompt without an id', () => {
  expect(refusal({ prompt: {} })).toMatchObject({ code: 'missing_field', param: 'prompt.id' })
})

test('requestParser() names the path of chats', () => {
  expect(refusalOf(() => parse({ messages: [{ role: 'user', content: 'Hi' }] }))).toEqual({
    code: 'unknown_field',
    param: 'messages',
    message: 'Cannot use "messages" here: chats go to POST /v1/chat/completions',
  })
})
