// The cache key: golden vectors, and what must and must not change it.

import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Config, parseConfig } from '../../src/config/config.ts'
import { cacheKey, canonicalText, lastAnswerKey } from '../../src/request/cache-key.ts'
import { draftRequest, type EffectiveRequest } from '../../src/request/effective.ts'
import { requestParser } from '../../src/request/schema.ts'
import golden from '../fixtures/keys.json' with { type: 'json' }

type Body = Readonly<Record<string, unknown>>

function configOf(config: unknown): Config {
  const result = parseConfig({ config, prompts: {}, secret: () => 'set', bound: () => true })
  if (result.config === null) throw new Error(JSON.stringify(result.faults))
  return result.config
}

/** Each upstream's wire and address, as worker.ts passes them to cacheKey(). */
function addressesOf({ upstreams }: Config): Map<string, string> {
  return new Map([...upstreams].map(([name, { wire, baseUrl }]) => [name, `${wire} ${baseUrl}`]))
}

function requestOf(body: unknown, config: Config): EffectiveRequest {
  const { models, prompts, freePrompts, defaults, limits } = config
  return draftRequest(requestParser(limits)(body), {
    models,
    prompts,
    freePrompts,
    defaults,
    variableChars: limits.prompt_chars,
  }).render()
}

const textOf = (body: unknown, config: Config, scope: string | null = null) =>
  canonicalText(requestOf(body, config), scope, addressesOf(config))

const keyOf = (body: unknown, config: Config, scope: string | null = null) =>
  cacheKey(requestOf(body, config), scope, {
    version: config.cache.version,
    addresses: addressesOf(config),
  })

describe('golden vectors', () => {
  const owners: Readonly<Record<string, unknown>> = golden.owners

  test('cover every owner, with unique names and keys', () => {
    expect(golden.cases.length).toBeGreaterThanOrEqual(20)
    expect(new Set(golden.cases.map(({ name }) => name)).size).toBe(golden.cases.length)
    expect(new Set(golden.cases.map(({ key }) => key)).size).toBe(golden.cases.length)
    expect(new Set(golden.cases.map(({ owner }) => owner))).toEqual(new Set(Object.keys(owners)))
  })

  test.each(golden.cases)('cacheKey() of $name', async ({ owner, scope, body, canonical, key }) => {
    const config = configOf(owners[owner])
    expect(textOf(body, config, scope)).toBe(canonical)
    expect(await keyOf(body, config, scope)).toBe(key)
    // The key can be computed from the canonical text without this project's code.
    const digest = createHash('sha256').update(canonical, 'utf8').digest('hex')
    expect(key).toBe(`c${config.cache.version}:${digest}`)
  })

  test.each(
    golden.cases.flatMap(({ name, owner, scope, same, key }) =>
      same.map((body) => ({ name, owner, scope, body: body as Body, key })),
    ),
  )('cacheKey() of $name is the same for $body', async ({ owner, scope, body, key }) => {
    expect(await keyOf(body, configOf(owners[owner]), scope)).toBe(key)
  })
})

const model = { id: 'default', upstream: 'demo', upstream_model: 'demo' }
const haiku = {
  text: 'About {{a}} and {{b}}.',
  variables: { a: { max_chars: 9 }, b: { max_chars: 9 } },
}
const plain = {
  models: [model, { ...model, id: 'other' }, { ...model, id: 'third', upstream_model: 'big' }],
  upstreams: [{ name: 'demo', preset: 'demo' }],
  prompts: { haiku: { ...haiku, visitor_may_set: ['seed'] } },
  free_prompts: true,
  limits: { n: 4 },
}
const config = configOf(plain)

// Small pools, so that two bodies are often equal in some or all fields, with texts that would
// cause collisions in a key made by concatenation.
const words = fc.constantFrom(
  ...[
    'x',
    'y',
    'X',
    ' x',
    '1',
    'é',
    'e\u0301',
    'x\u0000y',
    '\\u0078',
    '["x"]',
    'x","seed":1,"a":"',
  ],
)
const numbers = (...values: number[]) => fc.constantFrom(...values)
const prompt = fc.oneof(
  words,
  fc.array(words, { minLength: 1, maxLength: 3 }),
  fc.array(numbers(1, 2, 12), { minLength: 1, maxLength: 3 }),
  fc.array(fc.array(numbers(1, 2, 12), { minLength: 1, maxLength: 2 }), {
    minLength: 1,
    maxLength: 2,
  }),
)
const fields = {
  model: fc.constantFrom('default', 'other', 'third'),
  max_tokens: numbers(1, 16, 256),
  temperature: numbers(0, -0, 0.5, 0.1 + 0.2, 0.3, 1, 2),
  top_p: numbers(0, 0.5, 1),
  presence_penalty: numbers(-1, -0, 0, 0.5),
  frequency_penalty: numbers(-1, 0, -0, 0.5),
  stop: fc.oneof(words, fc.array(words, { maxLength: 3 })),
  seed: numbers(0, 1, -1, 2 ** 53 - 1),
  logprobs: numbers(0, 1, 5),
  echo: fc.boolean(),
  suffix: fc.oneof(fc.constant(''), words),
  logit_bias: fc.dictionary(fc.constantFrom('1', '9', '10', '00'), numbers(-1, 0, 1), {
    noNullPrototype: true,
  }),
}
const counts = fc.constantFrom<Body>(
  {},
  { n: 1 },
  { n: 2 },
  { n: 2, best_of: 2 },
  { best_of: 1 },
  { best_of: 3 },
)
const bodies = fc
  .tuple(prompt, fc.record(fields, { requiredKeys: [] }), counts)
  .map(([prompt, fields, counts]): Body => ({ ...fields, ...counts, prompt }))

const standard: Body = {
  model: 'default',
  max_tokens: 256,
  temperature: 1,
  top_p: 1,
  presence_penalty: 0,
  frequency_penalty: 0,
  n: 1,
  best_of: 1,
  echo: false,
  suffix: '',
  stop: [],
  logit_bias: {},
}

/** The meaning of a body, computed independently of the code under test. */
function meaning(body: Body): string {
  const fields = new Map<string, unknown>(
    Object.entries({ ...standard, seed: null, logprobs: null }),
  )
  for (const [name, value] of Object.entries(body)) {
    if (value === null || ['stream', 'stream_options', 'user'].includes(name)) continue
    const list = (name === 'stop' && typeof value === 'string') || isOnePrompt(name, value)
    fields.set(name, list ? [value] : value)
  }
  const pairs = (value: unknown): unknown =>
    typeof value === 'object' && value !== null && !Array.isArray(value)
      ? Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))
      : value
  return JSON.stringify(
    [...fields].sort(([a], [b]) => (a < b ? -1 : 1)).map(([k, v]) => [k, pairs(v)]),
  )
}

const isOnePrompt = (name: string, value: unknown) =>
  name === 'prompt' &&
  (typeof value === 'string' || (Array.isArray(value) && typeof value[0] === 'number'))

test('canonicalText() of two bodies is equal if and only if they mean the same', () => {
  fc.assert(
    fc.property(
      bodies,
      bodies,
      fc.constantFrom(...Object.keys(fields), 'prompt'),
      (a, other, name) => {
        // A body that differs from the first in one field.
        const b: Body = { ...a, [name]: other[name] ?? null }
        fc.pre(name !== 'prompt' || b['prompt'] !== null)
        for (const [left, right] of [
          [a, b],
          [a, other],
        ] as const) {
          expect(textOf(left, config) === textOf(right, config)).toBe(
            meaning(left) === meaning(right),
          )
        }
      },
    ),
    { numRuns: 500 },
  )
})

function shuffled(body: Body, order: readonly number[]): Body {
  return Object.fromEntries(
    Object.entries(body)
      .map((entry, i) => ({ entry, at: order[i] ?? 0 }))
      .sort((a, b) => a.at - b.at)
      .map(({ entry }) => entry),
  )
}

test('cacheKey() ignores key order and white space', async () => {
  await fc.assert(
    fc.asyncProperty(
      bodies,
      fc.array(fc.nat()),
      fc.nat({ max: 4 }),
      async (body, order, indent) => {
        const json = JSON.stringify(shuffled(body, order), null, indent)
        expect(await keyOf(JSON.parse(json), config)).toBe(await keyOf(body, config))
      },
    ),
  )
})

// Other spellings of one request are in the golden vectors.
test.each([
  [{ temperature: -0 }, { temperature: 0 }],
  [{ logit_bias: { '9': 1, '10': 2 } }, { logit_bias: { '10': 2, '9': 1 } }],
  [{ logit_bias: { '1': -0 } }, { logit_bias: { '1': 0 } }],
  [{ seed: -0 }, { seed: 0 }],
])('cacheKey() is the same for %j and %j', async (a, b) => {
  expect(await keyOf({ prompt: 'p', ...a }, config)).toBe(
    await keyOf({ prompt: 'p', ...b }, config),
  )
})

test.each([
  [{ prompt: 'é' }, { prompt: 'e\u0301' }],
  [{ prompt: 'x' }, { prompt: 'x ' }],
  [{ prompt: 'x' }, { prompt: 'X' }],
  [{ prompt: 'x' }, { prompt: 'x\u200d' }],
  [{ prompt: '1' }, { prompt: [1] }],
  [{ prompt: ['a', 'b'] }, { prompt: ['ab'] }],
  [{ prompt: ['a', 'b'] }, { prompt: ['b', 'a'] }],
  [{ prompt: [1, 2] }, { prompt: [[1], [2]] }],
  [{ prompt: [1, 2] }, { prompt: [12] }],
  [{ stop: ['a', 'b'] }, { stop: ['b', 'a'] }],
  [{ stop: ['a', 'b'] }, { stop: ['a,b'] }],
  [{ seed: 0 }, {}],
  [{ logprobs: 0 }, {}],
  [{ temperature: 0 }, {}],
  [{ temperature: 0.1 + 0.2 }, { temperature: 0.3 }],
  [{ max_tokens: 255 }, {}],
  [{ model: 'other' }, {}],
  [{ logit_bias: { '1': 1 } }, { logit_bias: { '01': 1 } }],
  [{ echo: true }, {}],
  [{ suffix: ' ' }, {}],
  [{ n: 2 }, { n: 2, best_of: 2 }],
  [{ prompt: { id: 'haiku', variables: { a: 'x', b: 'y' } } }, { prompt: 'About x and y.' }],
  [
    { prompt: { id: 'haiku', variables: { a: 'x', b: 'y' } } },
    { prompt: { id: 'haiku', variables: { a: 'y', b: 'x' } } },
  ],
])('cacheKey() differs for %j and %j', async (a, b) => {
  expect(await keyOf({ prompt: 'p', ...a }, config)).not.toBe(
    await keyOf({ prompt: 'p', ...b }, config),
  )
})

const demo = plain.upstreams[0]
const changes: Readonly<Record<string, object>> = {
  'cache.version': { cache: { version: 2 } },
  'the prompt': { prompts: { haiku: { ...haiku, text: 'On {{a}} and {{b}}.' } } },
  'its system message': { prompts: { haiku: { ...haiku, system: 'Be brief.' } } },
  'its parameters': { prompts: { haiku: { ...haiku, parameters: { top_k: 1 } } } },
  'its model': { prompts: { haiku: { ...haiku, model: 'third' } } },
  'its max_tokens': { prompts: { haiku: { ...haiku, max_tokens: 5 } } },
  'the upstream model': { models: [{ ...model, upstream_model: 'bigger' }] },
  "the model's alias": { models: [{ ...model, id: 'renamed' }] },
  "the model's system message": { models: [{ ...model, system: 'Be brief.' }] },
  "the model's parameters": { models: [{ ...model, parameters: { reasoning_effort: 'none' } }] },
  "the model's fallbacks": {
    models: [{ ...model, fallbacks: [{ upstream: 'demo', upstream_model: 'big' }] }],
  },
  "the upstream's address": { upstreams: [{ ...demo, base_url: 'https://demo.invalid/v2' }] },
  "the upstream's wire": { upstreams: [{ ...demo, wire: 'completions' }] },
  "the upstream's name": {
    models: [{ ...model, upstream: 'renamed' }],
    upstreams: [{ ...demo, name: 'renamed' }],
  },
  'the default of max_tokens': { defaults: { max_tokens: 5 } },
  'a default': { defaults: { temperature: 0.5 } },
}

test.each(Object.keys(changes))('cacheKey() differs after %s changes', async (name) => {
  const locked = { prompt: { id: 'haiku', variables: { a: 'x', b: 'y' } } }
  const before = configOf({ ...plain, prompts: { haiku } })
  const after = configOf({ ...plain, prompts: { haiku }, ...changes[name] })
  expect(await keyOf(locked, after)).not.toBe(await keyOf(locked, before))
})

test.each<[string, object]>([
  ['price', { models: [{ ...model, price: { input: 1, output: 2 } }] }],
  ['deadlines and retries', { upstreams: [{ ...demo, retries: 5, idle_ms: 5 }] }],
  ['the TTL', { cache: { ttl_seconds: 60 } }],
  ['the limits', { limits: { max_tokens: 300, n: 2 } }],
  ['a trailing slash', { upstreams: [{ ...demo, base_url: 'https://demo.invalid/v1/' }] }],
])('cacheKey() is the same after %s changes', async (_, change) => {
  const body = { prompt: 'x' }
  expect(await keyOf(body, configOf({ ...plain, ...change }))).toBe(await keyOf(body, config))
})

test('cacheKey() ignores the order of the parameters, at any depth', async () => {
  const withParameters = (parameters: object) =>
    configOf({ ...plain, models: [{ ...model, parameters }] })
  const key = (parameters: object) => keyOf({ prompt: 'x' }, withParameters(parameters))
  expect(await key({ a: 1, b: { c: [1, { d: 2, e: 3 }], f: null } })).toBe(
    await key({ b: { f: null, c: [1, { e: 3, d: 2 }] }, a: 1 }),
  )
  expect(await key({ a: [1, 2] })).not.toBe(await key({ a: [2, 1] }))
  expect(await key({ a: { b: 1 } })).not.toBe(await key({ a: [['b', 1]] }))
  expect(await key({ a: '1' })).not.toBe(await key({ a: 1 }))
})

test('cacheKey() differs for each visitor if answers are cached per visitor', async () => {
  const scopes = [null, '', 'h:0000000000000000', 'h:0000000000000001', '"', 'null']
  const keys = await Promise.all(scopes.map((scope) => keyOf({ prompt: 'x' }, config, scope)))
  expect(new Set(keys).size).toBe(scopes.length)
  expect(await keyOf({ prompt: 'x' }, config, 'h:0000000000000000')).toBe(keys[2])
})

// KV keys have at most 512 bytes.
test('cacheKey() has the same length for any request', async () => {
  const long = configOf({ ...plain, limits: { prompt_chars: 200_000 } })
  for (const prompt of ['x', '😀'.repeat(100_000), 'é'.repeat(1000)]) {
    expect(await keyOf({ prompt }, long, '名'.repeat(1000))).toMatch(/^c1:[0-9a-f]{64}$/)
  }
  const odd = configOf({ ...plain, models: [{ ...model, id: '名'.repeat(128) }] })
  expect(await keyOf({ prompt: 'x' }, odd)).toMatch(/^c1:[0-9a-f]{64}$/)
  const last = configOf({ ...plain, cache: { version: 999_999 } })
  expect(await keyOf({ prompt: 'x' }, last)).toMatch(/^c999999:[0-9a-f]{64}$/)
})

test('canonicalText() is JSON in one line with sorted keys', () => {
  fc.assert(
    fc.property(bodies, (body) => {
      const text = textOf(body, config)
      const parsed: Record<string, unknown> = JSON.parse(text)
      expect(JSON.stringify(parsed)).toBe(text)
      expect(Object.keys(parsed)).toEqual(Object.keys(parsed).toSorted())
      expect(parsed['prompts']).toEqual(requestOf(body, config).prompts)
    }),
  )
})

describe('lastAnswerKey()', () => {
  const request = {
    promptId: 'haiku',
    variables: { topic: 'sea', language: 'English' },
    fields: {},
  }

  test('ignores the order of variables and differs for any other change', async () => {
    const { language, topic } = request.variables
    const key = await lastAnswerKey(request, 1)
    expect(key).toMatch(/^l1:[0-9a-f]{64}$/)
    expect(await lastAnswerKey({ ...request, variables: { language, topic } }, 1)).toBe(key)
    const others = [
      lastAnswerKey(request, 2),
      ...[
        { promptId: 'haiku2' },
        { variables: { topic } },
        { variables: { topic: language, language: topic } },
        { variables: {}, fields: request.variables },
        { fields: { seed: 1 } },
        { fields: { seed: '1' } },
        { fields: { temperature: null } },
      ].map((change) => lastAnswerKey({ ...request, ...change }, 1)),
    ]
    expect(new Set([key, ...(await Promise.all(others))]).size).toBe(others.length + 1)
  })

  // Stored answers are only found after an upgrade if the key stays the same.
  test('does not change between versions', async () => {
    expect(await lastAnswerKey(request, 1)).toBe(
      'l1:75566663e86cb855e5a9798dc68cc904272873e4929bfc0ce5e0ae5daabe3408',
    )
  })
})
