// One load with many readers: joining, leaving, what they are told and when, and what the load does
// meanwhile.
import fc from 'fast-check'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { Flight, type FlightReader } from '../../src/flight/flight.ts'
import { finish, handed, head, said, untilIdle, usage } from '../support/flights.ts'

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] })
})

afterEach(() => {
  vi.useRealTimers()
})

/** A flight whose load the test controls. */
function start(keepGoing = true) {
  const hand = handed()
  const flight = new Flight(hand.load, { keepGoing, now: Date.now })
  return { ...hand, flight, join: () => joined(flight) }
}

/** A reader that records how much there is, and the state of the flight, whenever it is told. */
function joined(flight: Flight) {
  const told: (number | string)[] = []
  const reader: FlightReader = {
    advance() {
      told.push(flight.recording.length)
      if (flight.state !== 'running') told.push(flight.state)
    },
    keepAlive: () => told.push(':'),
  }
  flight.add(reader)
  return { told, leave: () => flight.remove(reader) }
}

test('readers are told of the first delta at once, of later ones together, and of the end at once', async () => {
  const { flight, give, end, join } = start()
  const { told } = join()
  give()
  expect(told).toEqual([])
  give(head, said('a'))
  expect(told).toEqual([2])
  for (let i = 0; i < 3; i++) {
    vi.advanceTimersByTime(5)
    give(said('b'))
  }
  expect(told).toEqual([2])
  vi.advanceTimersByTime(1)
  expect(told).toEqual([2, 5])
  // After a pause of one frame, the next one is told at once.
  vi.advanceTimersByTime(16)
  give(said('c'))
  expect(told).toEqual([2, 5, 6])
  give(finish(), usage)
  end()
  await flight.over
  expect(told).toEqual([2, 5, 6, 8, 'finished'])
  expect(vi.getTimerCount()).toBe(0)
})

test('a clock that jumps back delays nothing', () => {
  const { give, join } = start()
  const { told } = join()
  give(head)
  vi.setSystemTime(Date.now() - 3_600_000)
  give(said('a'))
  vi.advanceTimersByTime(16)
  expect(told).toEqual([1, 2])
})

test('a late reader takes the recording itself, and is told of the rest with the others', async () => {
  const { flight, give, end, join } = start()
  const first = join()
  give(head, said('a'))
  const late = join()
  expect([late.told, flight.recording.length]).toEqual([[], 2])
  vi.advanceTimersByTime(16)
  give(said('b'))
  end()
  await flight.over
  expect(first.told).toEqual([2, 3, 3, 'finished'])
  expect(late.told).toEqual([3, 3, 'finished'])
})

test.each([true, false])(
  'the others continue when the first reader leaves (keepGoing: %s)',
  async (keepGoing) => {
    const { flight, give, end, join, state } = start(keepGoing)
    const [first, second] = [join(), join()]
    give(head)
    first.leave()
    vi.advanceTimersByTime(16)
    give(said('a'))
    end()
    await flight.over
    expect(first.told).toEqual([1])
    expect(second.told).toEqual([1, 2, 2, 'finished'])
    expect([state.signal.aborted, state.begun]).toEqual([false, 1])
  },
)

test('with keepGoing a flight runs to its end without readers', async () => {
  const { flight, give, end, join, state } = start()
  const only = join()
  give(head)
  only.leave()
  give(said('a'))
  end()
  await flight.over
  expect([flight.state, flight.recording.length]).toEqual(['finished', 2])
  expect(state.signal.aborted).toBe(false)
})

test('without keepGoing a flight is aborted, synchronously, when the last reader leaves', async () => {
  const { flight, give, join, state } = start(false)
  const [first, last] = [join(), join()]
  give(head)
  first.leave()
  expect([flight.state, state.signal.aborted]).toEqual(['running', false])
  last.leave()
  // Checked in the same turn: a reader that comes now must not find a load to join.
  expect(flight.state).toBe('failed')
  expect(state.signal.reason).toMatchObject({ name: 'Abandoned' })
  await flight.over
  expect(flight.error).toBe(state.signal.reason)
})

test('what a load pushes after it was aborted is not recorded, and it does not finish', async () => {
  const stubborn = Promise.withResolvers<void>()
  let push = (..._: unknown[]) => {}
  const flight = new Flight(
    (given) => {
      push = () => given([said('more')])
      given([head])
      return stubborn.promise
    },
    { keepGoing: false, now: Date.now },
  )
  joined(flight).leave()
  push()
  stubborn.resolve()
  await flight.over
  expect([flight.state, flight.recording]).toEqual(['failed', [head]])
})

test('a finished flight stays finished when its last reader leaves', async () => {
  const { flight, end, join, state } = start(false)
  const only = join()
  end()
  await flight.over
  only.leave()
  expect([flight.state, state.signal.aborted]).toEqual(['finished', false])
})

test.each([true, false])(
  'every reader is told of a failure at once, and over does not reject (keepGoing: %s)',
  async (keepGoing) => {
    const { flight, give, fail, join } = start(keepGoing)
    const readers = [join(), join(), join()]
    give(head)
    give(said('a'))
    const error = new Error('broken')
    fail(error)
    await expect(flight.over).resolves.toBeUndefined()
    for (const { told } of readers) expect(told).toEqual([1, 2, 'failed'])
    expect([flight.error, vi.getTimerCount()]).toEqual([error, 0])
  },
)

test('a silence of 15 s is told, again and again, with one timer for all readers', async () => {
  const { flight, give, end, join } = start()
  const [first, second] = [join(), join()]
  expect(vi.getTimerCount()).toBe(1)
  give(head)
  vi.advanceTimersByTime(10_000)
  give(said('a'))
  vi.advanceTimersByTime(14_999)
  expect(first.told).toEqual([1, 2])
  vi.advanceTimersByTime(1)
  expect(first.told).toEqual([1, 2, ':'])
  vi.advanceTimersByTime(30_000)
  expect(first.told).toEqual([1, 2, ':', ':', ':'])
  expect(second.told).toEqual(first.told)
  expect(vi.getTimerCount()).toBe(1)
  end()
  await flight.over
  expect(vi.getTimerCount()).toBe(0)
})

test('silence is watched only while a reader wants to be told', () => {
  const { flight, give, join } = start()
  flight.add({ advance() {} })
  expect(vi.getTimerCount()).toBe(0)
  const other = start()
  other.join().leave()
  vi.advanceTimersByTime(15_000)
  expect(vi.getTimerCount()).toBe(0)
  give(head)
  const late = join()
  vi.advanceTimersByTime(15_000)
  expect(late.told).toEqual([':'])
})

test('there is one load, and every reader sees the whole recording, in any order of joins and leaves', async () => {
  const step = fc.record({
    act: fc.constantFrom('give', 'join', 'leave', 'wait'),
    which: fc.nat(9),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const { flight, give, end, join, state } = start()
      const readers = [join()]
      const gone = new Set<number>()
      give(head)
      let length = 1
      for (const { act, which } of steps) {
        if (act === 'give') {
          give(said('a'))
          length += 1
        } else if (act === 'join') readers.push(join())
        else if (act === 'leave') {
          gone.add(which % readers.length)
          readers[which % readers.length]?.leave()
        } else vi.advanceTimersByTime(which)
      }
      end()
      await flight.over
      await untilIdle()
      expect(state.begun).toBe(1)
      for (const [i, { told }] of readers.entries()) {
        const lengths = told.filter((told) => typeof told === 'number')
        expect(lengths).toEqual(lengths.toSorted((a, b) => a - b))
        if (gone.has(i)) expect(told).not.toContain('finished')
        else expect(told.slice(-2)).toEqual([length, 'finished'])
      }
    }),
    { numRuns: 60 },
  )
})
