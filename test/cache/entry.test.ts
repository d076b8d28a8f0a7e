// Cache entries and the parser of their stored form.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { ageOf, createEntry, isWorthStoring, parseEntry } from '../../src/cache/entry.ts'
import type { FinishReason } from '../../src/completion/completion.ts'
import { anyAnswer } from '../support/any-answer.ts'
import { completionOf, entryOf, KEY, NOW_S } from '../support/entries.ts'

const names = [`request:${KEY.slice(0, 35)}`, 'model:default']
const good = entryOf({ names, freshSeconds: 100, staleSeconds: 50 })

const text = fc.string({ unit: 'binary', maxLength: 20 })
const validator = fc.option(fc.stringMatching(/^[\x20-\x7e]{1,9}$/))
const page = fc.record({ read_as: text, etag: validator, last_modified: validator })
const pages = fc.array(page, { maxLength: 2 })
const owner = fc.record({
  key: fc.constant(KEY),
  names: fc.array(text, { maxLength: 3 }),
  source: fc.option(fc.record({ key: text, recipe: text, pages })),
})
const times = fc.record({
  requestedAt: fc.nat(),
  nowS: fc.nat(),
  freshSeconds: fc.nat(),
  staleSeconds: fc.nat(),
})
const anyEntry = fc
  .tuple(anyAnswer, owner, times)
  .filter(([{ folded }]) => isWorthStoring(folded.completion))
  .map(([{ folded }, ...rest]) => createEntry(folded, ...rest))

test('parseEntry() reads back every entry that was stored', () => {
  fc.assert(
    fc.property(anyEntry, (entry) => {
      expect(parseEntry(JSON.stringify(entry), KEY)).toEqual(entry)
    }),
    { numRuns: 200 },
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

const inner = (value: unknown, key: string) => (value as Record<string, unknown>)[key]

test('parseEntry() returns null if any field is missing, unknown or of another type', () => {
  const others = [0.5, -1, 'xxx', true, [], [1], {}, { a: 1 }, null]
  const refuse = (path: readonly string[], to: unknown) => {
    const stored = JSON.stringify(changed(good, path, to))
    expect(parseEntry(stored, KEY), `${path.join('.')} = ${JSON.stringify(to)}`).toBeNull()
  }
  for (const path of pathsOf(good)) {
    const was = path.reduce<unknown>(inner, good)
    const isInList = Array.isArray(path.slice(0, -1).reduce<unknown>(inner, good))
    if (path.length > 0 && !isInList) refuse(path, undefined)
    if (typeof was === 'object' && was !== null && !Array.isArray(was)) {
      refuse([...path, 'extra'], 1)
    }
    // The schema accepts an object or null here.
    if (path.at(-1) === 'logprobs') continue
    for (const to of others) {
      if (typeof to !== typeof was && (to !== null || was !== null)) refuse(path, to)
    }
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

test.each<[string, unknown]>([
  ['a list', []],
  ['a text', 'Hello'],
  ['a completion without its entry', good.completion],
  ['an entry in a list', [good]],
  ['another schema', { ...good, schema: 3 }],
  ['another key', { ...good, key: `${KEY}0` }],
  ['a key in capitals', { ...good, key: KEY.toUpperCase() }],
  ['times that are not whole seconds', { ...good, fresh_until: 1.5 }],
  ['times too large to count', { ...good, stale_until: 2 ** 60 }],
  ['no choices', { ...good, completion: completionOf([]) }],
  ['a filtered answer', { ...good, completion: completionOf(['x'], 'content_filter') }],
  ['an empty answer', { ...good, completion: completionOf(['']) }],
])('parseEntry() reads nothing from %s', (_, value) => {
  expect(parseEntry(JSON.stringify(value), KEY)).toBeNull()
})

test('parseEntry() never throws', () => {
  fc.assert(
    fc.property(fc.oneof(fc.string({ unit: 'binary' }), fc.json()), (value) => {
      expect(parseEntry(value, KEY)).toBeNull()
    }),
  )
})

test.each<[boolean, readonly string[], FinishReason]>([
  [true, ['a'], 'stop'],
  [true, ['a'], 'length'],
  [true, ['a', ''], 'length'],
  [false, [''], 'stop'],
  [false, ['', ''], 'length'],
  [false, ['a'], 'content_filter'],
])('isWorthStoring() is %j of the texts %j that ended by %s', (expected, texts, reason) => {
  expect(isWorthStoring(completionOf(texts, reason))).toBe(expected)
})

test('isWorthStoring() is false if one of several choices was filtered', () => {
  const { choices, ...rest } = completionOf(['a', 'b'])
  const filtered = completionOf(['a', 'b'], 'content_filter').choices.slice(1)
  expect(isWorthStoring({ ...rest, choices: [...choices.slice(0, 1), ...filtered] })).toBe(false)
})

test('parseEntry() reads a version 1 entry as requested at the start of its second', () => {
  const { schema, names, requested_at, confirmed_at, source, ...rest } = good
  const old = { ...rest, schema: 1, model: 'default', prompt_id: 'haiku', stored_at: NOW_S }
  expect(parseEntry(JSON.stringify(old), KEY)).toEqual({
    ...good,
    names: [...names, 'prompt:haiku'],
    requested_at: NOW_S * 1000,
    confirmed_at: NOW_S * 1000,
  })
  for (const change of [{ stored_at: 0.5 }, { prompt_id: 7 }, { model: null }, { names: [] }]) {
    expect(parseEntry(JSON.stringify({ ...old, ...change }), KEY)).toBeNull()
  }
})

test('createEntry() counts its times from the start of the flight', () => {
  const source = { key: 'c1:0', recipe: 'c1:1', pages: [] }
  const started = { requestedAt: 5_123, nowS: 7, freshSeconds: 100, staleSeconds: 50 }
  expect(createEntry(good, { key: KEY, names, source }, started)).toEqual({
    ...good,
    source,
    requested_at: 5_123,
    confirmed_at: 5_123,
    fresh_until: 107,
    stale_until: 157,
  })
})

test.each([
  [1000, 300],
  [100, 100],
])('createEntry() of a fallback’s answer with a TTL of %d s is fresh for %d s', (ttl, fresh) => {
  const started = { requestedAt: 0, nowS: 0, freshSeconds: ttl, staleSeconds: 50, isFallback: true }
  const { fresh_until, stale_until } = createEntry(good, good, started)
  expect([fresh_until, stale_until]).toEqual([fresh, fresh + 50])
})

test.each([
  [50, 0, 'fresh'],
  [50, 99, 'fresh'],
  [50, 100, 'stale'],
  [50, 149, 'stale'],
  [50, 150, 'expired'],
  [50, 1e9, 'expired'],
  [0, 99, 'fresh'],
  [0, 100, 'expired'],
  // A clock that jumped back.
  [50, -1e6, 'fresh'],
])('ageOf().freshness with %d stale seconds after %d s is %s', (stale, seconds, expected) => {
  const entry = entryOf({ freshSeconds: 100, staleSeconds: stale })
  expect(ageOf(entry, (NOW_S + seconds) * 1000).freshness).toBe(expected)
})
