// One load with many readers: joining, leaving, slow readers, and what the load does meanwhile.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Delta } from '../../src/completion/delta.ts'
import { Flight, type Load } from '../../src/flight/flight.ts'
import { fold } from '../support/fold.ts'

const head: Delta = {
  kind: 'head',
  head: { id: `cmpl-${'a'.repeat(28)}`, created: 1, model: 'm' },
}
const said = (text: string): Delta => ({ kind: 'text', index: 0, text, logprobs: null })
const finish: Delta = { kind: 'finish', index: 0, reason: 'stop' }
const usage: Delta = {
  kind: 'usage',
  usage: { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 },
  estimated: false,
}

/** The complete answer; null until the load has finished successfully. */
const foldedOf = ({ state, recording }: Flight) => (state === 'finished' ? fold(recording) : null)

/** Waits for everything that happens without action by the test. */
const calm = () => new Promise<void>((resolve) => setImmediate(resolve))

/** A load that the test controls; `asked` counts how often the flight requested more. */
function handed() {
  const slots: PromiseWithResolvers<readonly Delta[] | null>[] = []
  const state = { asked: 0, begun: 0, ended: 0, signal: new AbortController().signal }
  let given = 0
  const slot = (i: number) => (slots[i] ??= Promise.withResolvers())
  async function* load(signal: AbortSignal): AsyncGenerator<readonly Delta[]> {
    state.begun += 1
    const aborted = new Promise<never>((_, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason), { once: true })
    })
    aborted.catch(() => {})
    try {
      for (;;) {
        const wanted = slot(state.asked++)
        const batch = await Promise.race([wanted.promise, aborted])
        if (batch === null) return
        yield batch
      }
    } finally {
      state.ended += 1
    }
  }
  const begin: Load = (signal) => {
    state.signal = signal
    return load(signal)
  }
  return {
    load: begin,
    state,
    give: (...batch: readonly Delta[]) => slot(given++).resolve(batch),
    end: () => slot(given++).resolve(null),
    fail: (error: unknown) => {
      const failing = slot(given++)
      failing.promise.catch(() => {})
      failing.reject(error)
    },
  }
}

/** A reader that records every position and how the flight ended. */
function readerOf(flight: Flight) {
  const left = new AbortController()
  const positions: number[] = []
  let end: unknown = null
  const reading = (async () => {
    try {
      for await (const position of flight.progress(left.signal)) positions.push(position)
      end = 'end'
    } catch (error) {
      end = error
    }
  })()
  return { positions, reading, leave: () => left.abort(), end: () => end }
}

test('a late follower gets the recording immediately, then follows live', async () => {
  const { load, give, end } = handed()
  const flight = new Flight(load, { keepGoing: true })
  const first = readerOf(flight)
  give(head, said('a'))
  await calm()
  give(said('b'))
  await calm()
  const late = readerOf(flight)
  await calm()
  expect(late.positions).toEqual([3])
  give(finish, usage)
  end()
  await Promise.all([first.reading, late.reading])
  expect(first.positions).toEqual([2, 3, 5])
  expect(late.positions).toEqual([3, 5])
  const after = readerOf(flight)
  await after.reading
  expect([after.positions, after.end()]).toEqual([[5], 'end'])
  expect(foldedOf(flight)?.completion.choices[0]?.text).toBe('ab')
})

test.each([true, false])(
  'the others continue when the first reader leaves (keepGoing: %s)',
  async (lifetime) => {
    const { load, give, end, state } = handed()
    const flight = new Flight(load, { keepGoing: lifetime })
    const [first, second] = [readerOf(flight), readerOf(flight)]
    give(head)
    await calm()
    first.leave()
    await first.reading
    expect(first.end()).toBe('end')
    give(said('a'), finish, usage)
    end()
    await second.reading
    expect(second.positions.at(-1)).toBe(4)
    expect([flight.state, state.signal.aborted, state.begun]).toEqual(['finished', false, 1])
  },
)

test('with keepGoing a flight runs to its end after the last reader has left', async () => {
  const { load, give, end, state } = handed()
  const flight = new Flight(load, { keepGoing: true })
  const only = readerOf(flight)
  give(head)
  await calm()
  only.leave()
  await only.reading
  give(said('a'), finish, usage)
  end()
  await flight.over
  expect([flight.state, state.signal.aborted]).toEqual(['finished', false])
  expect(foldedOf(flight)?.completion.choices[0]?.text).toBe('a')
})

test('with keepGoing a flight runs without any reader', async () => {
  const { load, give, end } = handed()
  const flight = new Flight(load, { keepGoing: true })
  give(head, said('a'), finish, usage)
  end()
  await flight.over
  expect(flight.state).toBe('finished')
})

test('without keepGoing a flight is aborted once, synchronously, when the last reader leaves', async () => {
  const { load, give, state } = handed()
  const flight = new Flight(load, { keepGoing: false })
  const readers = [readerOf(flight), readerOf(flight)]
  give(head)
  await calm()
  readers[0]?.leave()
  await calm()
  expect(state.signal.aborted).toBe(false)
  readers[1]?.leave()
  // Checked in the same turn: a reader that comes now must not find a load to join.
  expect(flight.state).toBe('failed')
  expect(state.signal.reason).toMatchObject({ name: 'Abandoned' })
  await flight.over
  expect(state.ended).toBe(1)
  expect(foldedOf(flight)).toBeNull()
})

test('a load that ignores its signal is ended, and what it yields is not recorded', async () => {
  const waiting = Promise.withResolvers<void>()
  let ended = false
  async function* stubborn(): AsyncGenerator<readonly Delta[]> {
    try {
      yield [head]
      await waiting.promise
      for (;;) yield [said('more')]
    } finally {
      ended = true
    }
  }
  const flight = new Flight(stubborn, { keepGoing: false })
  const only = readerOf(flight)
  await calm()
  only.leave()
  waiting.resolve()
  await flight.over
  expect([ended, flight.state, flight.recording.length]).toEqual([true, 'failed', 1])
})

test.each([true, false])(
  'every reader gets the error, after what was recorded before it (keepGoing: %s)',
  async (lifetime) => {
    const { load, give, fail } = handed()
    const flight = new Flight(load, { keepGoing: lifetime })
    const readers = [readerOf(flight), readerOf(flight), readerOf(flight)]
    give(head, said('a'))
    await calm()
    const error = new Error('broken')
    fail(error)
    const late = readerOf(flight)
    await Promise.all([...readers, late].map(({ reading }) => reading))
    for (const { positions, end } of [...readers, late]) {
      expect(positions).toEqual([2])
      expect(end()).toBe(error)
    }
    expect([flight.state, foldedOf(flight)]).toEqual(['failed', null])
    const after = readerOf(flight)
    await after.reading
    expect([after.positions, after.end()]).toEqual([[2], error])
  },
)

test('over never rejects', async () => {
  const { load, fail } = handed()
  const flight = new Flight(load, { keepGoing: true })
  fail(new Error('broken'))
  await expect(flight.over).resolves.toBeUndefined()
})

test('without keepGoing nothing is loaded before a reader has caught up', async () => {
  const { load, give, state } = handed()
  const flight = new Flight(load, { keepGoing: false })
  await calm()
  expect(state.asked).toBe(0)
  const way = flight.progress(new AbortController().signal)
  const first = way.next()
  await calm()
  expect(state.asked).toBe(1)
  give(head)
  expect(await first).toEqual({ done: false, value: 1 })
  // The reader has not asked for more, so the load pauses.
  await calm()
  expect(state.asked).toBe(1)
  const second = way.next()
  await calm()
  expect(state.asked).toBe(2)
  give(said('a'))
  expect(await second).toEqual({ done: false, value: 2 })
})

test('with readAhead a load runs at its own pace until its last reader leaves', async () => {
  const { load, give, state } = handed()
  const flight = new Flight(load, { keepGoing: false, readAhead: true })
  const left = new AbortController()
  const asleep = flight.progress(left.signal)
  give(head)
  await asleep.next()
  for (let i = 0; i < 100; i++) give(said('a'))
  await calm()
  expect(flight.recording).toHaveLength(101)
  expect(flight.state).toBe('running')
  left.abort()
  expect([flight.state, state.signal.aborted]).toEqual(['failed', true])
  await flight.over
  expect(state.ended).toBe(1)
})

test('without keepGoing the fastest reader sets the pace, and a slow one takes many deltas at a time', async () => {
  const { load, give, end } = handed()
  const flight = new Flight(load, { keepGoing: false })
  const slow = flight.progress(new AbortController().signal)
  const fast = readerOf(flight)
  give(head)
  expect(await slow.next()).toEqual({ done: false, value: 1 })
  for (let i = 0; i < 100; i++) give(said('a'))
  give(finish, usage)
  end()
  await fast.reading
  expect(fast.positions).toHaveLength(102)
  expect(await slow.next()).toEqual({ done: false, value: 103 })
  expect(await slow.next()).toEqual({ done: true, value: undefined })
})

test('a reader that never reads slows nobody and needs no buffer', async () => {
  const { load, give, end } = handed()
  const flight = new Flight(load, { keepGoing: true })
  const asleep = flight.progress(new AbortController().signal)
  give(head)
  await asleep.next()
  const others = Array.from({ length: 20 }, () => readerOf(flight))
  for (let i = 0; i < 1000; i++) give(said('a'))
  give(finish, usage)
  end()
  await Promise.all(others.map(({ reading }) => reading))
  // Its only state is a position in the shared recording.
  expect(flight.recording).toHaveLength(1003)
  expect(await asleep.next()).toEqual({ done: false, value: 1003 })
})

test('a reader that leaves while waiting is noticed immediately', async () => {
  const { load, give } = handed()
  const flight = new Flight(load, { keepGoing: true })
  const reader = readerOf(flight)
  give(head)
  await calm()
  reader.leave()
  await reader.reading
  expect([reader.positions, reader.end()]).toEqual([[1], 'end'])
})

test('a reader that had left before joining gets nothing, and its own flight is aborted', async () => {
  const { load, state } = handed()
  const flight = new Flight(load, { keepGoing: false })
  const progress = flight.progress(AbortSignal.abort())
  expect((await progress.next()).done).toBe(true)
  expect([flight.state, state.signal.aborted]).toEqual(['failed', true])
  await flight.over
})

test('a finished flight stays finished when its last reader leaves', async () => {
  const { load, give, end } = handed()
  const flight = new Flight(load, { keepGoing: false })
  const left = new AbortController()
  const way = flight.progress(left.signal)
  const first = way.next()
  give(head, said('a'), finish, usage)
  end()
  await first
  const rest = way.next()
  await flight.over
  left.abort()
  await rest
  expect(flight.state).toBe('finished')
})

test('there is one load, and every reader sees the whole recording, in any order of joins and leaves', async () => {
  const step = fc.record({
    act: fc.constantFrom('give', 'join', 'leave', 'wait'),
    which: fc.nat(9),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const { load, give, end, state } = handed()
      const flight = new Flight(load, { keepGoing: true })
      const readers = [readerOf(flight)]
      const gone = new Set<number>()
      give(head)
      let length = 1
      for (const { act, which } of steps) {
        if (act === 'give') {
          give(said('a'))
          length += 1
        } else if (act === 'join') readers.push(readerOf(flight))
        else if (act === 'leave') {
          gone.add(which % readers.length)
          readers[which % readers.length]?.leave()
        } else await calm()
      }
      give(finish, usage)
      end()
      await Promise.all(readers.map(({ reading }) => reading))
      await flight.over
      expect(state.begun).toBe(1)
      for (const [i, { positions, end: how }] of readers.entries()) {
        expect(positions).toEqual([...new Set(positions)].toSorted((a, b) => a - b))
        if (gone.has(i)) continue
        expect(positions.at(-1)).toBe(length + 2)
        expect(how()).toBe('end')
      }
    }),
    { numRuns: 60 },
  )
})
