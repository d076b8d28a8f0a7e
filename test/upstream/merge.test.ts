// Merges several sequences into one, with limited concurrency and a common end.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { merge as mergeWith } from '../../src/upstream/merge.ts'

/** merge() for sequences that need no stopping. */
const merge = <T>(
  starts: readonly (() => AsyncGenerator<T>)[],
  atOnce: number,
  stop: () => void = () => {},
) => mergeWith(starts, atOnce, stop)

async function all<T>(merged: AsyncGenerator<T>): Promise<T[]> {
  const items: T[] = []
  for await (const item of merged) items.push(item)
  return items
}

async function* of<T>(...items: readonly T[]): AsyncGenerator<T> {
  yield* items
}

test('merge() of nothing is empty', async () => {
  expect(await all(merge([], 6))).toEqual([])
})

test('merge() yields every item of every sequence once, in the order of its sequence', async () => {
  const lists = fc.array(fc.array(fc.nat(), { maxLength: 5 }), { maxLength: 10 })
  await fc.assert(
    fc.asyncProperty(lists, fc.integer({ min: 1, max: 4 }), async (sequences, atOnce) => {
      const items = await all(
        merge(
          sequences.map((list) => () => of(...list)),
          atOnce,
        ),
      )
      const regrouped = sequences.map((_, i) =>
        items.filter(([sequence]) => sequence === i).map(([, item]) => item),
      )
      expect(regrouped).toEqual(sequences)
    }),
    { numRuns: 60 },
  )
})

test('merge() yields items in the order in which they arrive', async () => {
  const slow = Promise.withResolvers<string>()
  const merged = merge<string>(
    [
      async function* () {
        yield await slow.promise
      },
      () => of('a', 'b'),
    ],
    2,
  )
  expect((await merged.next()).value).toEqual([1, 'a'])
  expect((await merged.next()).value).toEqual([1, 'b'])
  slow.resolve('c')
  expect((await merged.next()).value).toEqual([0, 'c'])
  expect((await merged.next()).done).toBe(true)
})

test('merge() runs a limited number of sequences at once and starts the next when one ends', async () => {
  let atWork = 0
  let most = 0
  const gates = Array.from({ length: 9 }, () => Promise.withResolvers<void>())
  const starts = gates.map(
    (gate, i) =>
      async function* () {
        atWork += 1
        most = Math.max(most, atWork)
        await gate.promise
        yield i
        atWork -= 1
      },
  )
  const merged = merge(starts, 3)
  const items: number[] = []
  const reading = (async () => {
    for await (const [, item] of merged) items.push(item)
  })()
  for (const [i, gate] of gates.entries()) {
    expect(atWork).toBeLessThanOrEqual(3)
    gate.resolve()
    while (!items.includes(i)) await Promise.resolve()
  }
  await reading
  expect(items).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8])
  expect(most).toBe(3)
})

test('merge() does not start a sequence before its turn', async () => {
  const begun: number[] = []
  const starts = [0, 1, 2].map((i) => () => {
    begun.push(i)
    return of(i)
  })
  const merged = merge(starts, 1)
  await merged.next()
  expect(begun).toEqual([0])
  await all(merged)
  expect(begun).toEqual([0, 1, 2])
})

test('merge() throws the first failure and lets the other sequences clean up', async () => {
  let cleaned = 0
  const failure = new Error('one')
  const merged = merge<string>(
    [
      async function* () {
        try {
          yield 'a'
          yield 'b'
          yield 'c'
        } finally {
          cleaned += 1
        }
      },
      async function* () {
        yield 'x'
        throw failure
      },
    ],
    2,
  )
  await expect(all(merged)).rejects.toBe(failure)
  expect(cleaned).toBe(1)
})

test('merge() lets all sequences clean up when its reader returns early', async () => {
  let cleaned = 0
  const starts = [1, 2, 3].map(
    (i) =>
      async function* () {
        try {
          yield i
          yield i
        } finally {
          cleaned += 1
        }
      },
  )
  const merged = merge(starts, 3)
  await merged.next()
  await merged.return(undefined)
  expect(cleaned).toBe(3)
})

test('merge() leaves no unhandled rejection for a failure that nobody was waiting for', async () => {
  const merged = merge<string>(
    [
      () => of('a'),
      async function* () {
        yield 'b'
        throw new Error('late')
      },
    ],
    2,
  )
  await merged.next()
  // Vitest fails the run on an unhandled rejection.
  await merged.return(undefined)
})

test.each(['a failure', 'an early return'])(
  'merge() stops hanging sequences before it waits for them, after %s',
  async (why) => {
    const hanging = Promise.withResolvers<never>()
    const failure = new Error('one')
    const merged = merge<string>(
      [
        async function* () {
          yield await hanging.promise
        },
        async function* () {
          yield 'a'
          if (why === 'a failure') throw failure
          yield 'b'
        },
      ],
      2,
      () => hanging.reject(new Error('stopped')),
    )
    expect((await merged.next()).value).toEqual([1, 'a'])
    if (why === 'a failure') await expect(merged.next()).rejects.toBe(failure)
    else expect(await merged.return(undefined)).toEqual({ done: true, value: undefined })
  },
)

test('merge() stops nothing when it ends normally', async () => {
  let stopped = 0
  const merged = mergeWith([async function* () {}], 1, () => {
    stopped += 1
  })
  expect((await merged.next()).done).toBe(true)
  expect(stopped).toBe(0)
})
