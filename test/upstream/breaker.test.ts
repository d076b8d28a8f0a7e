// The breaker: opens after failures in a row, lets one through after a while.
import { expect, test } from 'vitest'
import { Breaker } from '../../src/upstream/breaker.ts'

const options = { failures: 3, openMs: 1000 }

function opened(atMs = 0): Breaker {
  const breaker = new Breaker(options)
  for (let i = 0; i < options.failures; i++) {
    expect(breaker.allows(atMs)).toBe(true)
    breaker.failed(atMs)
  }
  return breaker
}

test('allows() every call while failures are fewer than it takes', () => {
  const breaker = new Breaker(options)
  breaker.failed(0)
  breaker.failed(0)
  expect(breaker.allows(0)).toBe(true)
  expect(breaker.allows(0)).toBe(true)
})

test('allows() nothing while open', () => {
  const breaker = opened(5000)
  expect(breaker.allows(5000)).toBe(false)
  expect(breaker.allows(5999)).toBe(false)
})

test('allows() one call when it has been open long enough, and no second one', () => {
  const breaker = opened()
  expect(breaker.allows(1000)).toBe(true)
  expect(breaker.allows(1000)).toBe(false)
  expect(breaker.allows(99_999)).toBe(false)
})

test('succeeded() closes it again', () => {
  const breaker = opened()
  expect(breaker.allows(1000)).toBe(true)
  breaker.succeeded()
  expect(breaker.allows(1000)).toBe(true)
  expect(breaker.allows(1000)).toBe(true)
  breaker.failed(1000)
  expect(breaker.allows(1000)).toBe(true)
})

test('failed() of the trial opens it for as long again', () => {
  const breaker = opened()
  expect(breaker.allows(1000)).toBe(true)
  breaker.failed(1200)
  expect(breaker.allows(2199)).toBe(false)
  expect(breaker.allows(2200)).toBe(true)
})

test('undecided() leaves the trial to the next call', () => {
  const breaker = opened()
  expect(breaker.allows(1000)).toBe(true)
  breaker.undecided()
  expect(breaker.allows(1000)).toBe(true)
})

test('succeeded() in between starts the count anew', () => {
  const breaker = new Breaker(options)
  for (let i = 0; i < 10; i++) {
    breaker.failed(0)
    breaker.failed(0)
    breaker.succeeded()
  }
  expect(breaker.allows(0)).toBe(true)
})

test('undecided() is no failure and heals nothing', () => {
  const breaker = new Breaker(options)
  breaker.failed(0)
  breaker.failed(0)
  breaker.undecided()
  expect(breaker.allows(0)).toBe(true)
  breaker.failed(0)
  expect(breaker.allows(0)).toBe(false)
})

test('isOpen() asks without taking the one call', () => {
  const breaker = opened(5000)
  expect([breaker.isOpen(5000), breaker.isOpen(5999), breaker.isOpen(6000)]).toEqual([
    true,
    true,
    false,
  ])
  expect(breaker.allows(6000)).toBe(true)
})

test('onTrial says whether the one call is under way', () => {
  const breaker = opened()
  expect(breaker.onTrial).toBe(false)
  breaker.allows(1000)
  expect(breaker.onTrial).toBe(true)
  breaker.undecided()
  expect(breaker.onTrial).toBe(false)
  breaker.allows(1000)
  breaker.succeeded()
  expect(breaker.onTrial).toBe(false)
})
