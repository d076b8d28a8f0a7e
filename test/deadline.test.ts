import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { deadline, inTime, wait } from '../src/deadline.ts'

const never = new Promise<never>(() => {})

test('deadline() returns the result of work that is in time, and stops the timer', async () => {
  const signals: AbortSignal[] = []
  const sleep = async (ms: number, signal: AbortSignal) => {
    expect(ms).toBe(50)
    signals.push(signal)
    await never
  }
  const work = async (over: AbortSignal) => {
    signals.push(over)
    return 'done'
  }
  expect(await deadline(50, work, () => 'late', sleep)).toBe('done')
  expect(signals.map(({ aborted }) => aborted)).toEqual([true, true])
})

test('deadline() returns what late() returns when work takes longer, and aborts the work', async () => {
  let over: AbortSignal | null = null
  const work = (signal: AbortSignal) => {
    over = signal
    return never
  }
  expect(await deadline(1, work, () => 'late')).toBe('late')
  expect(over).toMatchObject({ aborted: true })
})

test('deadline() throws what late() throws, and ignores a later failure of the work', async () => {
  const { promise, reject } = Promise.withResolvers<never>()
  const late = () => {
    throw new RangeError('too late')
  }
  await expect(deadline(1, () => promise, late)).rejects.toThrow(RangeError)
  reject(new Error('nobody waits for this'))
})

test('deadline() throws the error of work that fails in time', async () => {
  const failing = async () => {
    throw new TypeError('broken')
  }
  await expect(deadline(1000, failing, () => null)).rejects.toThrow(TypeError)
})

test('wait() rejects with the reason of a signal that is aborted before or meanwhile', async () => {
  const controller = new AbortController()
  const waiting = wait(60_000, controller.signal)
  controller.abort(new RangeError('enough'))
  await expect(waiting).rejects.toThrow(RangeError)
  await expect(wait(1, controller.signal)).rejects.toThrow(RangeError)
})

describe('inTime()', () => {
  beforeEach(() => void vi.useFakeTimers())
  afterEach(() => void vi.useRealTimers())

  test('returns the result of work that is in time, and leaves no timer', async () => {
    expect(await inTime(50, Promise.resolve('done'), () => 'late')).toBe('done')
    await expect(inTime(50, Promise.reject(new TypeError('broken')), () => 'late')).rejects.toThrow(
      TypeError,
    )
    expect(vi.getTimerCount()).toBe(0)
  })

  test('returns what late() returns, or throws what it throws, when work takes longer', async () => {
    const late = inTime(50, never, () => 'late')
    const failed = inTime(50, never, () => {
      throw new RangeError('too late')
    })
    const thrown = expect(failed).rejects.toThrow(RangeError)
    await vi.advanceTimersByTimeAsync(50)
    expect(await late).toBe('late')
    await thrown
  })
})
