// A query is equivalent to a JSON body of scalars.

import fc from 'fast-check'
import { expect, test } from 'vitest'
import { queryBody } from '../../src/request/query.ts'
import { requestParser, type VisitorRequest } from '../../src/request/schema.ts'
import { refusalOf } from '../support/failure.ts'

const parse = requestParser({ prompt_chars: 4000, max_tokens: 512, n: 3, prompts: 4 })

const refusal = (query: string) => refusalOf(() => queryBody(query))

test('queryBody() reads every scalar field', () => {
  const query =
    'prompt=a+b%26c&model=default&max_tokens=16&temperature=0.5&top_p=1&presence_penalty=-1.5' +
    '&frequency_penalty=2e0&n=2&best_of=3&stop=x&seed=-7&logprobs=0&echo=true&stream=false' +
    '&suffix=&user=me'
  expect(queryBody(query)).toEqual({
    prompt: 'a b&c',
    model: 'default',
    max_tokens: 16,
    temperature: 0.5,
    top_p: 1,
    presence_penalty: -1.5,
    frequency_penalty: 2,
    n: 2,
    best_of: 3,
    stop: ['x'],
    seed: -7,
    logprobs: 0,
    echo: true,
    stream: false,
    suffix: '',
    user: 'me',
  })
})

test('queryBody() collects repeated stop parameters', () => {
  expect(queryBody('prompt=x&stop=a&stop=b&stop=')).toEqual({ prompt: 'x', stop: ['a', 'b', ''] })
})

test('queryBody() reads a locked prompt and its variables', () => {
  expect(queryBody('prompt_id=haiku&var.topic=sea&var.language=Deutsch')).toEqual({
    prompt: { id: 'haiku', variables: { topic: 'sea', language: 'Deutsch' } },
  })
  expect(queryBody('prompt_id=haiku')).toEqual({ prompt: { id: 'haiku', variables: {} } })
  expect(queryBody('prompt_id=haiku&var.a.b=1&var.=2')).toEqual({
    prompt: { id: 'haiku', variables: { 'a.b': '1', '': '2' } },
  })
})

test('queryBody() treats a variable called __proto__ as data', () => {
  const { prompt } = queryBody('prompt_id=haiku&var.__proto__=x') as {
    prompt: { variables: object }
  }
  expect(Object.keys(prompt.variables)).toEqual(['__proto__'])
  expect(Object.getPrototypeOf(prompt.variables)).toBe(Object.prototype)
})

test.each([
  ['temperature=', 'temperature', 'expected a number, got ""'],
  ['temperature=warm', 'temperature', 'expected a number, got "warm"'],
  ['temperature=0x1', 'temperature', 'expected a number, got "0x1"'],
  ['temperature=1e4000', 'temperature', 'expected a number, got "1e4000"'],
  ['temperature=+1', 'temperature', 'expected a number, got " 1"'],
  ['max_tokens=NaN', 'max_tokens', 'expected a number, got "NaN"'],
  ['seed=Infinity', 'seed', 'expected a number, got "Infinity"'],
  ['n=null', 'n', 'expected a number, got "null"'],
  ['stream=1', 'stream', 'expected true or false, got "1"'],
  ['echo=', 'echo', 'expected true or false, got ""'],
  ['echo=TRUE', 'echo', 'expected true or false, got "TRUE"'],
  ['prompt=a&prompt=b', 'prompt', 'expected once'],
  ['temperature=0&temperature=1', 'temperature', 'expected once'],
  ['prompt_id=a&prompt_id=b', 'prompt_id', 'expected once'],
  ['prompt_id=a&var.x=1&var.x=2', 'var.x', 'expected once'],
  ['prompt=a&prompt_id=b', 'prompt_id', 'it cannot be combined with "prompt"'],
  ['var.topic=sea', 'prompt_id', 'expected a prompt id with the variables, got nothing'],
  ['prompt=a&var.topic=sea', 'prompt_id', 'expected a prompt id with the variables, got nothing'],
])('queryBody() rejects ?%s', (query, param, state) => {
  expect(refusal(query)).toEqual({
    code: 'invalid_value',
    param,
    message: `Cannot use "${param}": ${state}`,
  })
})

test.each([
  'foo',
  'nocache',
  'logit_bias',
  'stream_options',
  '__proto__',
  'constructor',
  'toString',
])('queryBody() rejects the unknown field in ?%s=1', (name) => {
  expect(refusal(`prompt=x&${name}=1`)).toEqual({
    code: 'unknown_field',
    param: name,
    message: `Cannot use "${name}": it is not a field of this endpoint's query`,
  })
})

test('queryBody() shortens a long unknown name in its message', () => {
  const { param, message } = refusal(`${'k'.repeat(10_000)}=1`)
  expect(param).toBe('k'.repeat(64))
  expect(message.length).toBeLessThan(150)
})

test('queryBody() leaves the validation of values to requestParser()', () => {
  const codeOf = (query: string) => refusalOf(() => parse(queryBody(query))).code
  expect(codeOf('')).toBe('missing_field')
  for (const query of ['prompt=', 'prompt=x&temperature=3', 'prompt=x&stop=', 'prompt_id=']) {
    expect(codeOf(query), query).toBe('invalid_value')
  }
})

const number = (min: number, max: number) => fc.double({ min, max, noNaN: true })
const text = (minLength: number, maxLength: number) =>
  fc.string({ unit: 'binary', minLength, maxLength })
const scalars = {
  model: text(0, 10),
  max_tokens: fc.integer({ min: 1, max: 512 }),
  temperature: number(0, 2),
  top_p: number(0, 1),
  presence_penalty: number(-2, 2),
  frequency_penalty: number(-2, 2),
  n: fc.constant(1),
  best_of: fc.integer({ min: 1, max: 3 }),
  stop: fc.oneof(text(1, 8), fc.array(text(1, 8), { minLength: 1, maxLength: 4 })),
  seed: fc.maxSafeInteger(),
  logprobs: fc.integer({ min: 0, max: 5 }),
  echo: fc.boolean(),
  suffix: text(0, 10),
  user: text(0, 10),
}
const prompt = fc.oneof(
  text(1, 20),
  fc.record({
    id: text(1, 20),
    variables: fc.dictionary(fc.stringMatching(/^[A-Za-z][A-Za-z0-9_]{0,9}$/), text(0, 10), {
      noNullPrototype: true,
    }),
  }),
)

function queryOf(body: Readonly<Record<string, unknown>>): URLSearchParams {
  const query = new URLSearchParams()
  for (const [name, value] of Object.entries(body)) {
    if (name === 'prompt' && typeof value === 'object' && value !== null) {
      const { id, variables } = value as { id: string; variables: Record<string, string> }
      query.set('prompt_id', id)
      for (const [variable, inner] of Object.entries(variables)) {
        query.set(`var.${variable}`, inner)
      }
    } else {
      for (const item of [value].flat()) query.append(name, String(item))
    }
  }
  return query
}

/** The request after JSON, with a single stop as a list. */
function plain(request: VisitorRequest): unknown {
  const { stop } = request
  return JSON.parse(
    JSON.stringify(typeof stop === 'string' ? { ...request, stop: [stop] } : request),
  )
}

test('queryBody() yields the same request as a JSON body of the same scalars', () => {
  fc.assert(
    fc.property(prompt, fc.record(scalars, { requiredKeys: [] }), (prompt, fields) => {
      const body = { ...fields, prompt }
      const query = queryOf(body).toString()
      expect(plain(parse(queryBody(query)))).toEqual(plain(parse(body)))
    }),
    { numRuns: 300 },
  )
})
