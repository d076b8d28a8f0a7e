// The description of where an answer came from, read from the headers that http/reply.ts writes.
import { expect, test } from 'vitest'
import { type CacheOutcome, cacheStatus } from '../../src/http/reply.ts'
import { duration, sourceOf } from '../../src/site/source.js'

function read(outcome: CacheOutcome, age?: number) {
  return sourceOf(
    new Headers({
      'cache-status': cacheStatus(outcome),
      ...(age === undefined ? {} : { age: String(age) }),
    }),
  )
}

test.each([
  ['memory', 'memory'],
  ['kv', 'KV'],
  ['flight', 'another visitor'],
] as const)('sourceOf() describes a hit in %s', (detail, word) => {
  const source = read({ kind: 'hit', detail, ttlSeconds: 90 }, 12)
  expect(source).toMatchObject({ kind: 'hit', ageSeconds: 12, ttlSeconds: 90 })
  expect(source.detail).toContain(word)
})

test('sourceOf() describes a stale hit', () => {
  const source = read({ kind: 'hit', detail: 'stale', ttlSeconds: -5 }, 100)
  expect(source).toMatchObject({ kind: 'stale', ageSeconds: 100, ttlSeconds: -5 })
})

test('sourceOf() describes a hit of a previous answer', () => {
  const source = read({ kind: 'previous' }, 100)
  expect(source).toMatchObject({ kind: 'stale', title: 'Hit, previous', ageSeconds: 100 })
  expect(source.ttlSeconds).toBeNull()
})

test('sourceOf() describes every kind of miss', () => {
  const miss = { kind: 'miss', stored: false, collapsed: false } as const
  expect(read(miss)).toMatchObject({ kind: 'miss', title: 'Miss', ageSeconds: null })
  expect(read({ ...miss, stored: true }).detail).toContain('stored in the cache')
  expect(read({ ...miss, collapsed: true })).toMatchObject({ kind: 'shared', title: 'Shared' })
  expect(read({ kind: 'request' })).toMatchObject({ kind: 'miss', title: 'Refreshed' })
  expect(read({ kind: 'bypass' })).toMatchObject({ kind: 'bypass' })
})

test('sourceOf() returns unknown without a Cache-Status of the endpoint', () => {
  expect(sourceOf(new Headers())).toMatchObject({ kind: 'unknown', ageSeconds: null })
  expect(sourceOf(new Headers({ 'cache-status': 'x; y' }))).toMatchObject({ kind: 'unknown' })
})

test('duration() rounds to the largest unit', () => {
  expect([0, 59, 60, 3599, 7200, 2_592_000].map(duration)).toEqual([
    '0 s',
    '59 s',
    '1 min',
    '60 min',
    '2 h',
    '30 d',
  ])
})
