// Several calls with limited concurrency and a common end.
import { expect, test } from 'vitest'
import { runAll } from '../../src/upstream/run-all.ts'

/** Works that end when the test says so, and what happens to them. */
function worksFor(count: number) {
  const log: string[] = []
  const ends = Array.from({ length: count }, () => Promise.withResolvers<string>())
  const works = ends.map((end, i) => async () => {
    log.push(`begin ${i}`)
    try {
      return await end.promise
    } finally {
      log.push(`end ${i}`)
    }
  })
  return { log, ends, works }
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

test('runAll() of nothing returns nothing', async () => {
  expect(await runAll([], 6, () => {})).toEqual([])
})

test('runAll() runs a limited number at once, in order, and returns their results in order', async () => {
  const { log, ends, works } = worksFor(4)
  const running = runAll(works, 2, () => log.push('stop'))
  expect(log).toEqual(['begin 0', 'begin 1'])
  ends[1]?.resolve('b')
  await turn()
  expect(log).toEqual(['begin 0', 'begin 1', 'end 1', 'begin 2'])
  for (const [i, letter] of ['a', 'b', 'c', 'd'].entries()) ends[i]?.resolve(letter)
  expect(await running).toEqual(['a', 'b', 'c', 'd'])
  expect(log).not.toContain('stop')
})

test('runAll() stops the others after a failure, waits for them, and throws it', async () => {
  const { log, ends, works } = worksFor(4)
  const failure = new Error('first')
  const running = runAll(works, 3, () => ends[0]?.reject(new Error('stopped')))
  const result = expect(running).rejects.toBe(failure)
  ends[1]?.reject(failure)
  await turn()
  expect(log).toEqual(['begin 0', 'begin 1', 'begin 2', 'end 1', 'end 0'])
  // The third does not know that it should stop.
  ends[2]?.resolve('c')
  await result
  expect(log).toEqual(['begin 0', 'begin 1', 'begin 2', 'end 1', 'end 0', 'end 2'])
})
