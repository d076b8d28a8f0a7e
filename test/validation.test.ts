// Messages about invalid values.

import fc from 'fast-check'
import * as v from 'valibot'
import { expect, test } from 'vitest'
import { byName, faultsOf, finite, integer, oneOf, preview, text } from '../src/validation.ts'

function faults(schema: v.GenericSchema, value: unknown) {
  const result = v.safeParse(schema, value)
  return result.success ? [] : faultsOf(result.issues)
}

const message = (schema: v.GenericSchema, value: unknown) =>
  faults(v.object({ x: schema }), { x: value }).map((fault) => fault.message)

test.each([
  [undefined, 'nothing'],
  [null, 'null'],
  [3, '3'],
  [Number.NaN, 'NaN'],
  [true, 'true'],
  ['', '""'],
  ['a "b"\n', '"a \\"b\\"\\n"'],
  [['secret'], 'an array'],
  [{ secret: 1 }, 'an object'],
  ['x'.repeat(41), `"${'x'.repeat(40)}…"`],
  ['x'.repeat(40), `"${'x'.repeat(40)}"`],
  ['a\ud800', '"a\ufffd"'],
])('preview(%j) is %s', (value, shown) => {
  expect(preview(value)).toBe(shown)
})

// Unusual names are shown; texts that look like keys are masked.
test.each([
  'gpt-4o-mini-2024-07-18',
  'claude-3-5-sonnet-20241022',
  '@cf/meta/llama-3.1-8b-instruct',
  'meta-llama/Llama-3.3-70B-Instruct-Turbo',
  'text-embedding-3-large',
  'https://my-site-1a2b3c4d.pages.dev/',
  'a-task-force-of-disk_cache',
  'internationalisation_and_localisation',
  '12345678901234567890123',
  'UPSTREAM_API_KEY_OF_THE_FIRST_ONE',
  'summarisePageForBeginners',
  'ASummaryOfThePageInOneSentence',
  'accounts/fireworks/models/llama-v3p1-8b',
  'nvidia/Llama-3.1-Nemotron-70B-Instruct',
  'https://example.com/posts/2026/a-haiku',
  'NousResearch/Hermes-3-Llama-3.1-405B',
])('preview(%j) shows it unmasked', (name) => {
  expect(preview(name)).toBe(JSON.stringify(name))
})

test.each([
  ['sk-abc', '"sk-… (6 characters)"'],
  ['sk_live_x', '"sk_… (9 characters)"'],
  ['AKIAIOSFODNN7EXAMPLE', '"AKI… (20 characters)"'],
  ['Bearer sk-proj-1', '"Bea… (16 characters)"'],
  ['abcdefghij1234567890', '"abc… (20 characters)"'],
  ['ghp_16C7e42F292c6912E7710c838347Ae178B4a', '"ghp… (40 characters)"'],
  ['550e8400-e29b-41d4-a716-446655440000', '"550… (36 characters)"'],
  // Base64 with "/", as AWS's secret keys.
  ['wJalr3UtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY', '"wJa… (40 characters)"'],
  ['kT9x/Wq2mZ7b+Lp4vR8s/Yd1nC6h+Jf3gB5a0eUi', '"kT9… (40 characters)"'],
  // Letters only, as Hugging Face's tokens.
  ['hf_aBcDeFgHiJkLmNoPqRsTuVwXyZabcdefgh', '"hf_… (37 characters)"'],
  ['eyJhbGciOiJIUzI1NiJ9.e30.x', '"eyJ… (26 characters)"'],
  [`😀${'a1'.repeat(20)}`, '"😀a… (42 characters)"'],
])('preview(%j) is %s', (secret, shown) => {
  expect(preview(secret)).toBe(shown)
})

test('preview() is short and well-formed for any value', () => {
  fc.assert(
    fc.property(fc.anything(), (value) => {
      const shown = preview(value)
      expect(shown.isWellFormed()).toBe(true)
      expect(shown.length).toBeLessThan(300)
    }),
  )
  // The cut falls within a surrogate pair.
  expect(preview(`${'x'.repeat(39)}😀y`).isWellFormed()).toBe(true)
  expect(preview(`${'x'.repeat(39)}😀y`)).not.toContain('\\ud83d')
})

test.each([
  [
    integer(1, 5),
    [1, 5],
    [0, 6, 1.5, NaN, Infinity, '1', true, null, [1], {}],
    'a whole number from 1 to 5',
  ],
  [integer(0), [0, 2 ** 53 - 1], [-1, -0.5, 0.5, 2 ** 53, '0'], 'a whole number of at least 0'],
  [finite(0, 2), [0, 0.5, 2], [-1, 3, Infinity, '1', null], '0 to 2'],
  [finite(0, Number.POSITIVE_INFINITY), [0, 1e300], [-1, Infinity, '1'], 'a number of at least 0'],
  [oneOf(['a', 'b']), ['a', 'b'], ['c', 5, null, 'A'], 'one of a, b'],
])('a value has one message, with the expectation, example %#', (schema, good, bad, expected) => {
  for (const value of good) expect(message(schema, value)).toEqual([])
  for (const value of bad) {
    expect(message(schema, value)).toEqual([
      `Cannot use "x": expected ${expected}, got ${preview(value)}`,
    ])
  }
})

test('text() counts UTF-16 units and rejects lone surrogates', () => {
  const schema = text(1, 3)
  for (const good of ['a', 'abc', '😀a', '\u0000']) expect(message(schema, good)).toEqual([])
  expect(message(schema, '')).toEqual([
    'Cannot use "x": expected a string that is not empty, got ""',
  ])
  expect(message(schema, 'abcd')).toEqual(['Cannot use "x": expected at most 3 characters, got 4'])
  expect(message(schema, '\udc00')).toEqual([
    'Cannot use "x": expected well-formed Unicode, got a lone surrogate',
  ])
  expect(message(schema, 5)).toEqual(['Cannot use "x": expected a string, got 5'])
})

test('faultsOf() returns every fault with its path', () => {
  const schema = v.strictObject({
    list: v.array(v.strictObject({ n: integer(1, 2) })),
    flag: v.boolean('true or false'),
  })
  expect(faults(schema, { list: [{ n: 1 }, { n: 3 }, { n: 'x', y: 1 }], flag: 0, z: 1 })).toEqual([
    {
      path: 'list[1].n',
      message: 'Cannot use "list[1].n": expected a whole number from 1 to 2, got 3',
    },
    {
      path: 'list[2].n',
      message: 'Cannot use "list[2].n": expected a whole number from 1 to 2, got "x"',
    },
    { path: 'list[2].y', message: 'Cannot use "list[2].y": it is not a known setting' },
    { path: 'flag', message: 'Cannot use "flag": expected true or false, got 0' },
    { path: 'z', message: 'Cannot use "z": it is not a known setting' },
  ])
})

test('faultsOf() reports a missing value as required', () => {
  const [fault] = faults(v.strictObject({ name: text(1, 3) }), {})
  expect(fault?.path).toBe('name')
  expect(fault?.message).toMatch(/^Cannot find "name"/)
  expect(fault?.message).not.toContain('expected "name"')
  const [titled] = faults(v.strictObject({ name: text(1, 3) }, 'a table'), {})
  expect(titled?.message).not.toContain('expected a table')
})

test('faultsOf() never shows the value of "key"', () => {
  const secret = 'sk-canary-Zk3vQ9mXwT7rLbN2hYc8'
  const schema = v.object({ key: v.pipe(v.string(), v.regex(/^[A-Z]+$/, 'a name')) })
  const [top] = faults(schema, { key: secret })
  const [nested] = faults(v.object({ upstreams: v.array(schema) }), {
    upstreams: [{ key: secret }],
  })
  expect(top).toEqual({ path: 'key', message: 'Cannot use "key": expected a name' })
  expect(nested).toEqual({
    path: 'upstreams[0].key',
    message: 'Cannot use "upstreams[0].key": expected a name',
  })
})

test('byName() takes every name, and finds the faults of each', () => {
  const schema = byName(v.pipe(v.string(), v.regex(/^\w+$/, 'a word')), v.number('a number'))
  const good = JSON.parse('{"__proto__":1,"constructor":2,"prototype":3,"toString":4}')
  const { output } = v.safeParse(schema, good)
  expect(Object.entries(Object(output))).toEqual(Object.entries(good))
  expect(Object.getPrototypeOf(output)).toBe(Object.prototype)
  const bad = JSON.parse('{"__proto__":"x","constructor":null,"two words":"x"}')
  expect(faultsOf(v.safeParse(schema, bad).issues ?? [])).toEqual([
    { path: '__proto__', message: 'Cannot use "__proto__": expected a number, got "x"' },
    { path: 'constructor', message: 'Cannot use "constructor": expected a number, got null' },
    {
      path: 'two words',
      message: 'Cannot use "two words": expected a word, got "two words"',
    },
  ])
  for (const none of [undefined, null, 5, 'x']) expect(v.is(schema, none)).toBe(false)
})
