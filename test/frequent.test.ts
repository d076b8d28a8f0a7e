// The most frequent names in bounded space: exact while there is room, and never too high.
import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { addSightings, type Frequency, mostFrequent } from '../src/frequent.ts'

const MAX = 20

function seen(names: Iterable<string>): Map<string, Frequency> {
  const frequencies = new Map<string, Frequency>()
  let last = 0
  for (const name of names) addSightings(frequencies, name, { count: 1, last: ++last }, MAX)
  return frequencies
}

const counts = (frequencies: Map<string, Frequency>, n = MAX) =>
  mostFrequent(frequencies, n).map(([name, { count }]) => [name, count])

test('counts exactly while there is room, the most frequent first, then the last seen', () => {
  const frequencies = seen(['a', 'b', 'a', 'c', 'b', 'a', 'd'])
  expect(counts(frequencies)).toEqual([
    ['a', 3],
    ['b', 2],
    ['d', 1],
    ['c', 1],
  ])
  expect(counts(frequencies, 2)).toEqual([
    ['a', 3],
    ['b', 2],
  ])
  expect(frequencies.get('a')).toEqual({ count: 3, last: 6 })
})

function* madeUp(n: number, often: string, each: number): Generator<string> {
  for (let i = 0; i < n; i++) {
    yield `made-up-${i}`
    if (i % each === 0) yield often
  }
}

test('keeps a recurring name through a flood of names that occur once', () => {
  for (const names of [
    [...Array(30).fill('real'), ...madeUp(10_000, 'x', 1e9)],
    [...madeUp(10_000, 'x', 1e9), ...Array(30).fill('real')],
    [...madeUp(10_000, 'real', 10)],
  ]) {
    const frequencies = seen(names)
    expect(frequencies.size).toBe(MAX)
    const [[name, { count }] = ['', { count: 0 }]] = mostFrequent(frequencies, 1)
    expect(name).toBe('real')
    expect(count).toBe(names.filter((one) => one === 'real').length)
  }
})

test('never counts too many sightings, and counts all while there is room', () => {
  const names = fc.array(fc.nat(60).map(String), { maxLength: 400 })
  fc.assert(
    fc.property(names, (all) => {
      const frequencies = seen(all)
      expect(frequencies.size).toBeLessThanOrEqual(MAX)
      const room = new Set(all).size <= MAX
      for (const [name, { count }] of frequencies) {
        const real = all.filter((one) => one === name).length
        if (room) expect(count).toBe(real)
        else expect(count).toBeLessThanOrEqual(real)
      }
      if (room) expect(frequencies.size).toBe(new Set(all).size)
    }),
    { seed: 1 },
  )
})
