// The LRU map: eviction by bytes and by age.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { RecentMap } from '../src/lru.ts'

const sized = (maxBytes: number) =>
  new RecentMap<{ readonly bytes: number }>({ maxBytes, bytesOf: ({ bytes }) => bytes })

test('the least recently used value is evicted first', () => {
  const map = sized(36)
  for (const key of ['a', 'b', 'c']) map.set(key, { bytes: 10 })
  expect(map.get('a')).not.toBeNull()
  map.set('d', { bytes: 10 })
  expect(['a', 'b', 'c', 'd'].filter((key) => map.get(key) !== null)).toEqual(['a', 'c', 'd'])
})

test('a value that is set again is counted once', () => {
  const map = sized(36)
  for (let i = 0; i < 100; i++) map.set('a', { bytes: 10 + (i % 2) })
  map.set('b', { bytes: 10 })
  map.delete('b')
  map.delete('b')
  map.set('c', { bytes: 11 })
  expect(map.get('a')).toEqual({ bytes: 11 })
  expect(map.get('c')).not.toBeNull()
})

test('a value larger than maxBytes evicts only the earlier value of its key', () => {
  const map = sized(30)
  map.set('a', { bytes: 10 })
  map.set('b', { bytes: 10 })
  map.set('b', { bytes: 29 })
  expect([map.get('a'), map.get('b')]).toEqual([{ bytes: 10 }, null])
})

test('a value expires after maxMs regardless of reads', () => {
  const clock = { ms: 1000 }
  const age = { maxMs: 100, now: () => clock.ms }
  const map = new RecentMap<number>({ maxBytes: 100, bytesOf: () => 1, age })
  map.set('a', 1)
  clock.ms += 60
  expect(map.get('a')).toBe(1)
  clock.ms += 40
  expect(map.get('a')).toBe(1)
  clock.ms += 1
  expect(map.get('a')).toBeNull()
  map.set('a', 2)
  clock.ms -= 500
  expect(map.get('a')).toBe(2)
})

test('in any order of calls it holds the last used values, within maxBytes', () => {
  const call = fc.record({
    name: fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f'),
    bytes: fc.nat(20),
    what: fc.constantFrom('get', 'set', 'delete'),
  })
  fc.assert(
    fc.property(fc.array(call, { maxLength: 60 }), (calls) => {
      const map = sized(40)
      /** A simple model: least recently used first. */
      let model: { name: string; bytes: number }[] = []
      for (const { name, bytes, what } of calls) {
        const held = model.find((other) => other.name === name)
        if (what === 'get') {
          expect(map.get(name)).toEqual(held === undefined ? null : { bytes: held.bytes })
          if (held !== undefined) model = [...model.filter((other) => other !== held), held]
          continue
        }
        model = model.filter((other) => other !== held)
        if (what === 'delete') map.delete(name)
        else {
          map.set(name, { bytes })
          if (bytes + 2 <= 40) model.push({ name, bytes })
        }
        while (model.reduce((sum, other) => sum + other.bytes + 2, 0) > 40) model.shift()
      }
      for (const { name, bytes } of model) expect(map.get(name)).toEqual({ bytes })
    }),
  )
})
