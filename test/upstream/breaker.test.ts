// The circuit breaker: opens after consecutive failures, then admits one trial at a time.
import { expect, test } from 'vitest'
import { type AdmittedCall, Breaker, Breakers } from '../../src/upstream/breaker.ts'

const options = { failures: 3, openMs: 1000 }

/** Expects the breaker to admit a call, and returns it. */
function admit(breaker: Breaker, atMs = 0): AdmittedCall {
  const call = breaker.admit(atMs)
  if (call === null) throw new Error('expected the breaker to admit this call')
  return call
}

function fail(breaker: Breaker, times: number, atMs = 0): void {
  for (let i = 0; i < times; i++) {
    const call = admit(breaker, atMs)
    call.failed(atMs)
    call.over()
  }
}

function opened(atMs = 0): Breaker {
  const breaker = new Breaker(options)
  fail(breaker, options.failures, atMs)
  return breaker
}

test('admits every call below the limit of consecutive failures', () => {
  const breaker = new Breaker(options)
  fail(breaker, 2)
  admit(breaker)
  admit(breaker)
  expect(breaker.isOpen(0)).toBe(false)
})

test('admits nothing while open, and reports the remaining time', () => {
  const breaker = opened(5000)
  expect(breaker.admit(5000)).toBeNull()
  expect(breaker.admit(5999)).toBeNull()
  expect([5000, 5001, 5999].map((at) => breaker.isOpen(at))).toEqual([true, true, true])
  expect([5000, 5500, 5999].map((at) => breaker.retryAfterSeconds(at))).toEqual([1, 1, 1])
  const longer = new Breaker({ failures: 1, openMs: 15_000 })
  fail(longer, 1)
  expect([0, 1, 7000, 14_999].map((at) => longer.retryAfterSeconds(at))).toEqual([15, 15, 8, 1])
})

test('admits a single trial after the open time', () => {
  const breaker = opened()
  admit(breaker, 1000)
  expect(breaker.admit(1000)).toBeNull()
  expect(breaker.admit(99_999)).toBeNull()
  expect(breaker.retryAfterSeconds(99_999)).toBe(1)
})

test.each(['answered', 'begun'] as const)('closes when its trial has %s', (report) => {
  const breaker = opened()
  admit(breaker, 1000)[report]()
  admit(breaker, 1000)
  fail(breaker, 2, 1000)
  admit(breaker, 1000)
})

test('opens for the same time again when the trial fails', () => {
  const breaker = opened()
  admit(breaker, 1000).failed(1200)
  expect(breaker.admit(2199)).toBeNull()
  admit(breaker, 2200)
})

test('admits another trial when one ends without a verdict', () => {
  const breaker = opened()
  admit(breaker, 1000).over()
  admit(breaker, 1000)
  expect(breaker.admit(1000)).toBeNull()
})

test('an answer resets the count', () => {
  const breaker = new Breaker(options)
  for (let i = 0; i < 10; i++) {
    fail(breaker, 2)
    admit(breaker).answered()
  }
  admit(breaker)
})

test('the begin of a text does not reset the count, because the answer may still fail', () => {
  const breaker = new Breaker(options)
  for (let i = 0; i < options.failures; i++) {
    const call = admit(breaker)
    call.begun()
    call.failed(0)
  }
  expect(breaker.isOpen(0)).toBe(true)
})

test('a call without a verdict counts neither as a failure nor as an answer', () => {
  const breaker = new Breaker(options)
  fail(breaker, 2)
  admit(breaker).over()
  admit(breaker)
  fail(breaker, 1)
  expect(breaker.isOpen(0)).toBe(true)
})

test('calls from before it opened neither close it nor keep it open longer', () => {
  const breaker = new Breaker(options)
  const [good, bad, late] = [admit(breaker), admit(breaker), admit(breaker)]
  fail(breaker, options.failures)
  good.answered()
  bad.failed(500)
  expect(breaker.admit(999)).toBeNull()
  const trial = admit(breaker, 1000)
  late.failed(1000)
  late.over()
  expect(breaker.admit(1000)).toBeNull()
  trial.answered()
  admit(breaker, 1000)
})

test('a clock set back does not keep it open', () => {
  const breaker = opened(5_000_000)
  expect(breaker.isOpen(0)).toBe(false)
  admit(breaker, 0)
})

test('each model has its own breaker, and their number is bounded', () => {
  const breakers = new Breakers(options)
  fail(breakers.of('gone'), options.failures)
  expect(breakers.of('gone').isOpen(0)).toBe(true)
  expect(breakers.of('other').isOpen(0)).toBe(false)
  for (let i = 0; i < 255; i++) breakers.of(`model-${i}`)
  expect(breakers.of('gone').isOpen(0), 'the oldest is removed').toBe(false)
  const kept = breakers.of('model-254')
  expect(breakers.of('model-254')).toBe(kept)
})
