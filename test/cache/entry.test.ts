// Cache entries and the parser of their stored form.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  ageOf,
  createEntry,
  type Entry,
  isWorthStoring,
  parseEntry,
} from '../../src/cache/entry.ts'
import type { Choice, Completion, FinishReason } from '../../src/completion/completion.ts'

const KEY = `c1:${'0a'.repeat(32)}`
const owner = { key: KEY, names: [`request:${KEY.slice(0, 35)}`, 'model:default'], source: null }
const times = {
  requestedAt: 1_767_225_600_123,
  nowS: 1_767_225_600,
  freshSeconds: 100,
  staleSeconds: 50,
}

function completionOf(...choices: readonly [text: string, reason: FinishReason][]): Completion {
  return {
    id: `cmpl-${'a'.repeat(28)}`,
    object: 'text_completion',
    created: 1_767_225_600,
    model: 'model-1',
    choices: choices.map(([text, finish_reason], index) => ({
      text,
      index,
      logprobs: null,
      finish_reason,
    })),
    usage: { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 },
  }
}

const good = createEntry(
  { completion: completionOf(['Hello', 'stop']), estimated: false },
  owner,
  times,
)

const count = fc.nat(1_000_000)
const text = fc.string({ unit: 'binary', maxLength: 20 })
const odds = fc.double({ noNaN: true, noDefaultInfinity: true })
const logprobs = fc.record({
  tokens: fc.array(text, { maxLength: 3 }),
  token_logprobs: fc.array(fc.option(odds), { maxLength: 3 }),
  top_logprobs: fc.option(
    fc.array(fc.option(fc.dictionary(fc.string(), odds, { maxKeys: 2 })), { maxLength: 3 }),
  ),
  text_offset: fc.array(count, { maxLength: 3 }),
})
const choices = fc
  .array(
    fc.tuple(
      text,
      fc.constantFrom<FinishReason[]>('stop', 'length'),
      fc.option(logprobs, { freq: 4 }),
    ),
    { minLength: 1, maxLength: 3 },
  )
  .map((list): Choice[] =>
    list.map(([said, finish_reason, odds], index) => ({
      text: said,
      index,
      logprobs: odds as Choice['logprobs'],
      finish_reason,
    })),
  )
  .filter((list) => list.some((choice) => choice.text !== ''))
const validator = fc.stringMatching(/^[\x20-\x7e]{1,9}$/)
const anyEntry: fc.Arbitrary<Entry> = fc
  .record({
    choices,
    fingerprint: fc.option(text, { nil: undefined }),
    names: fc.array(text, { maxLength: 3 }),
    source: fc.option(
      fc.record({
        key: text,
        recipe: text,
        pages: fc.array(
          fc.record({
            read_as: text,
            etag: fc.option(validator),
            last_modified: fc.option(validator),
          }),
          { maxLength: 2 },
        ),
      }),
    ),
    estimated: fc.boolean(),
    freshSeconds: count,
    staleSeconds: count,
  })
  .map(({ choices: list, fingerprint, names, source, estimated, ...seconds }) =>
    createEntry(
      {
        completion: {
          ...completionOf(),
          ...(fingerprint === undefined ? {} : { system_fingerprint: fingerprint }),
          choices: list,
        },
        estimated,
      },
      { key: KEY, names, source },
      { ...times, ...seconds },
    ),
  )

test('parseEntry() reads back every entry that was stored', () => {
  fc.assert(
    fc.property(anyEntry, (entry) => {
      // Through JSON first: it cannot represent -0.
      const written = JSON.stringify(entry)
      expect(parseEntry(written, KEY)).toEqual(JSON.parse(written))
    }),
    { numRuns: 200 },
  )
})

test('parseEntry() returns null for a truncated entry', () => {
  fc.assert(
    fc.property(anyEntry, fc.double({ min: 0, max: 1, noNaN: true }), (entry, part) => {
      const written = JSON.stringify(entry)
      const cut = Math.min(written.length - 1, Math.floor(written.length * part))
      expect(parseEntry(written.slice(0, cut), KEY)).toBeNull()
    }),
  )
})

/** The path of keys to every value in a value. */
function pathsOf(value: unknown, path: readonly string[] = []): (readonly string[])[] {
  if (typeof value !== 'object' || value === null) return [path]
  return [path, ...Object.entries(value).flatMap(([key, inner]) => pathsOf(inner, [...path, key]))]
}

/** A copy with one value replaced; undefined removes it. */
function changed(value: unknown, [key, ...rest]: readonly string[], to: unknown): unknown {
  if (key === undefined) return to
  const copy = structuredClone(value) as Record<string, unknown>
  if (rest.length === 0 && to === undefined) delete copy[key]
  else copy[key] = changed(copy[key], rest, to)
  return copy
}

test('parseEntry() returns null if any field is missing or has another type', () => {
  const entry = JSON.parse(JSON.stringify(good)) as unknown
  for (const path of pathsOf(entry).slice(1)) {
    if (Array.isArray(path.slice(0, -1).reduce<unknown>(inner, entry))) continue
    expect(parseEntry(JSON.stringify(changed(entry, path, undefined)), KEY), path.join('.')).toBe(
      null,
    )
  }
  for (const path of pathsOf(entry)) {
    const was = path.reduce<unknown>(inner, entry)
    for (const to of [0.5, -1, 'x'.repeat(3), true, [], [1], {}, { a: 1 }, null]) {
      if (typeof to === typeof was || (to === null && was === null)) continue
      const at = path.join('.')
      // The schema accepts an object or null here.
      if (at.endsWith('logprobs')) continue
      expect(parseEntry(JSON.stringify(changed(entry, path, to)), KEY), `${at} = ${to}`).toBe(null)
    }
  }
})

function inner(value: unknown, key: string): unknown {
  return (value as Record<string, unknown>)[key]
}

test('parseEntry() returns null if there is an unknown field at any depth', () => {
  const entry = JSON.parse(JSON.stringify(good)) as unknown
  for (const path of pathsOf(entry)) {
    const at = path.reduce<unknown>(inner, entry)
    if (typeof at !== 'object' || at === null || Array.isArray(at)) continue
    const more = changed(entry, [...path, 'extra'], 1)
    expect(parseEntry(JSON.stringify(more), KEY), path.join('.')).toBeNull()
  }
})

test('parseEntry() returns null or a complete entry of this key when any byte is changed', () => {
  const written = JSON.stringify(good)
  fc.assert(
    fc.property(fc.nat(written.length - 1), fc.string({ minLength: 1 }), (at, by) => {
      const text = written.slice(0, at) + by + written.slice(at + 1)
      const entry = parseEntry(text, KEY)
      if (entry === null) return
      expect(entry.key).toBe(KEY)
      expect(Object.keys(entry).sort()).toEqual(Object.keys(good).sort())
      expect(isWorthStoring(entry.completion)).toBe(true)
      expect(typeof entry.completion.choices[0]?.text).toBe('string')
      // What is accepted can be written again unchanged, so nothing was misread.
      expect(parseEntry(JSON.stringify(entry), KEY)).toEqual(entry)
    }),
    { numRuns: 500 },
  )
})

test.each([
  ['nothing', ''],
  ['null', 'null'],
  ['a list', '[]'],
  ['an empty object', '{}'],
  ['HTML', '<!doctype html><title>502</title>'],
  ['a text', '"Hello"'],
  ['a completion without its entry', JSON.stringify(good.completion)],
  ['an entry in a list', JSON.stringify([good])],
  ['two entries', JSON.stringify(good).repeat(2)],
  ['another schema', JSON.stringify({ ...good, schema: 3 })],
  ['another key', JSON.stringify({ ...good, key: `${KEY}0` })],
  ['a key in capitals', JSON.stringify({ ...good, key: KEY.toUpperCase() })],
  ['times that are not whole seconds', JSON.stringify({ ...good, fresh_until: 1.5 })],
  ['times too large to count', JSON.stringify({ ...good, stale_until: 2 ** 60 })],
  [
    'a foreign id',
    JSON.stringify({ ...good, completion: { ...good.completion, id: 'chatcmpl-1' } }),
  ],
  ['no choices', JSON.stringify({ ...good, completion: completionOf() })],
  [
    'a filtered answer',
    JSON.stringify({ ...good, completion: completionOf(['x', 'content_filter']) }),
  ],
  ['an empty answer', JSON.stringify({ ...good, completion: completionOf(['', 'stop']) })],
])('parseEntry() reads nothing from %s', (_, value) => {
  expect(parseEntry(value, KEY)).toBeNull()
})

test('parseEntry() never throws', () => {
  fc.assert(
    fc.property(fc.oneof(fc.string({ unit: 'binary' }), fc.json()), (value) => {
      expect(parseEntry(value, KEY)).toBeNull()
    }),
  )
})

test.each([
  [[['a', 'stop']], true],
  [[['a', 'length']], true],
  [
    [
      ['a', 'stop'],
      ['', 'length'],
    ],
    true,
  ],
  [[['', 'stop']], false],
  [
    [
      ['', 'stop'],
      ['', 'length'],
    ],
    false,
  ],
  [[['a', 'content_filter']], false],
  [
    [
      ['a', 'stop'],
      ['b', 'content_filter'],
    ],
    false,
  ],
] as [[string, FinishReason][], boolean][])('isWorthStoring() of %j is %j', (said, whole) => {
  expect(isWorthStoring(completionOf(...said))).toBe(whole)
})

test('parseEntry() reads a version 1 entry as requested at the start of its second', () => {
  const { schema, names, requested_at, confirmed_at, source, ...rest } = good
  const old = { ...rest, schema: 1, model: 'default', prompt_id: 'haiku', stored_at: times.nowS }
  expect(parseEntry(JSON.stringify(old), KEY)).toEqual({
    ...good,
    names: [`request:${KEY.slice(0, 35)}`, 'model:default', 'prompt:haiku'],
    requested_at: times.nowS * 1000,
    confirmed_at: times.nowS * 1000,
  })
  for (const change of [{ stored_at: 0.5 }, { prompt_id: 7 }, { model: null }, { names: [] }]) {
    expect(parseEntry(JSON.stringify({ ...old, ...change }), KEY)).toBeNull()
  }
})

test('createEntry() counts its times from the start of the flight', () => {
  expect(good).toMatchObject({
    key: KEY,
    names: owner.names,
    requested_at: times.requestedAt,
    confirmed_at: times.requestedAt,
    source: null,
    fresh_until: times.nowS + 100,
    stale_until: times.nowS + 150,
    estimated: false,
  })
})

test.each([
  [0, 'fresh'],
  [99, 'fresh'],
  [100, 'stale'],
  [149, 'stale'],
  [150, 'expired'],
  [1e9, 'expired'],
  // A clock that jumped back.
  [-1e6, 'fresh'],
])('ageOf().freshness after %d s is %s', (seconds, expected) => {
  expect(ageOf(good, (times.nowS + seconds) * 1000).freshness).toBe(expected)
})

test('ageOf().freshness never returns stale if staleSeconds is 0', () => {
  const entry = createEntry(good, owner, { ...times, staleSeconds: 0 })
  expect(ageOf(entry, (times.nowS + 99) * 1000).freshness).toBe('fresh')
  expect(ageOf(entry, (times.nowS + 100) * 1000).freshness).toBe('expired')
})
