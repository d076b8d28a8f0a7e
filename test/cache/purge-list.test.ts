// The purge list as a value: what it covers, its text format, version 1, and its bound.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  formatPurgeList,
  mergedLists,
  noPurges,
  parsePurgeList,
  purgedAt,
  withPurge,
} from '../../src/cache/purge-list.ts'

const AT = 1_767_225_600_123

test('a purge covers answers with its name, and a purge of everything covers all', () => {
  const list = withPurge(noPurges, { names: ['prompt:haiku', 'page:1'], at: AT })
  expect(purgedAt(list, ['request:a', 'prompt:haiku'])).toBe(AT)
  expect(purgedAt(list, ['page:1'])).toBe(AT)
  expect(purgedAt(list, ['prompt:other', 'model:haiku'])).toBe(0)
  const all = withPurge(list, { names: null, at: AT + 5 })
  expect(purgedAt(all, ['prompt:other'])).toBe(AT + 5)
  expect(purgedAt(all, [])).toBe(AT + 5)
})

test('an older purge never replaces a later one, by name or of everything', () => {
  const list = withPurge(noPurges, { names: ['model:m'], at: AT })
  expect(purgedAt(withPurge(list, { names: ['model:m'], at: AT - 1 }), ['model:m'])).toBe(AT)
  expect(purgedAt(withPurge(list, { names: null, at: AT - 1 }), ['model:m'])).toBe(AT)
})

test.each([
  'no JSON',
  'null',
  '[]',
  '{"all":1}',
  '{"all":"now","names":{}}',
  '{"all":0,"names":{"model:m":-1}}',
  '{"all":0,"names":{"model:m":1.5}}',
  '{"all":0,"names":null}',
  '{"all":0,"prompts":{},"models":{"m":-1},"keys":{}}',
])('%s is no list', (text) => {
  expect(parsePurgeList(text)).toBeNull()
})

test('a version 1 list in whole seconds is rounded up to the end of each second', () => {
  const key = `c1:${'0a'.repeat(32)}`
  const text = JSON.stringify({
    all: 5,
    prompts: { haiku: 10 },
    models: { m: 20 },
    keys: { [key]: 30 },
  })
  const list = parsePurgeList(text)
  if (list === null) throw new TypeError('no list')
  expect(purgedAt(list, ['other'])).toBe(5999)
  expect(purgedAt(list, ['prompt:haiku'])).toBe(10_999)
  expect(purgedAt(list, ['model:m'])).toBe(20_999)
  expect(purgedAt(list, [`request:${key.slice(0, 35)}`])).toBe(30_999)
  const none = parsePurgeList('{"all":0,"prompts":{},"models":{},"keys":{}}')
  expect(none).toEqual(noPurges)
})

test('beyond 4000 names the oldest name is dropped and everything before it is void', () => {
  const most = 4000
  const names = new Map(Array.from({ length: most }, (_, i) => [`page:${i}`, AT + i]))
  let list = mergedLists(noPurges, { all: 0, names })
  expect([list.names.size, list.all]).toEqual([most, 0])
  // Purging the same name again adds no entry.
  list = withPurge(list, { names: ['page:1'], at: AT + most })
  expect([list.names.size, list.all]).toEqual([most, 0])
  list = withPurge(list, { names: ['page:new'], at: AT + most + 1 })
  expect(list.names.size).toBe(most)
  expect(list.all).toBe(AT)
  expect(list.names.has('page:0')).toBe(false)
  expect(purgedAt(list, ['page:0'])).toBe(AT)
  expect(purgedAt(list, ['page:2'])).toBe(AT + 2)
  expect(formatPurgeList(list).length).toBeLessThan(400_000)
})

const purge = fc.record({
  names: fc.option(
    fc.array(fc.constantFrom('model:a', 'prompt:b', 'page:c', 'request:d', 'model:__proto__'), {
      minLength: 1,
    }),
  ),
  at: fc.integer({ min: 1, max: 100 }),
})

test('in any order of purges, merges and writes the latest time of each name counts', () => {
  fc.assert(
    fc.property(fc.array(purge), fc.array(purge), (here, there) => {
      const listOf = (purges: typeof here) => purges.reduce(withPurge, noPurges)
      const merged = mergedLists(listOf(here), listOf(there))
      const read = parsePurgeList(formatPurgeList(merged))
      expect(read).toEqual(merged)
      for (const name of ['model:a', 'prompt:b', 'page:c', 'request:d', 'model:__proto__']) {
        const times = [...here, ...there]
          .filter(({ names }) => names === null || (names as string[]).includes(name))
          .map(({ at }) => at)
        expect(purgedAt(merged, [name])).toBe(Math.max(0, ...times))
      }
    }),
  )
})
