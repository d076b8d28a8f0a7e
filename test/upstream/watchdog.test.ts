// The time limits of a call, in fake time.
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { Watchdog } from '../../src/upstream/watchdog.ts'

const START = 1_000_000
/** The grace after the last finish. */
const GRACE_MS = 2000

function start(options: { signal?: AbortSignal; deadlineMs?: number } = {}) {
  return new Watchdog({
    now: Date.now,
    signal: options.signal ?? new AbortController().signal,
    firstByteMs: 300,
    idleMs: 200,
    deadlineAt: START + (options.deadlineMs ?? 1000),
  })
}

const timeout = expect.objectContaining({ code: 'upstream_timeout' })
const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms)

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'], now: START })
})

afterEach(() => {
  // Spies first: one on a fake timer that is restored later would bring the fake timer back.
  vi.restoreAllMocks()
  vi.useRealTimers()
})

test('aborts when no first byte arrives', async () => {
  const { signal } = start()
  await pass(299)
  expect(signal.aborted).toBe(false)
  await pass(1)
  expect(signal.reason).toEqual(timeout)
})

test('alive() restarts the idle time', async () => {
  const watchdog = start()
  for (let i = 0; i < 4; i++) {
    await pass(199)
    watchdog.alive()
  }
  expect(watchdog.signal.aborted).toBe(false)
  await pass(199)
  expect(watchdog.signal.aborted).toBe(false)
  await pass(1)
  expect(watchdog.signal.reason).toEqual(timeout)
})

test('alive() immediately shortens the wait from the first-byte limit to the idle limit', async () => {
  const watchdog = start()
  watchdog.alive()
  await pass(199)
  expect(watchdog.signal.aborted).toBe(false)
  await pass(1)
  expect(watchdog.signal.aborted).toBe(true)
})

test('aborts an endless slow stream at the deadline', async () => {
  const watchdog = start()
  for (let i = 0; i < 99; i++) {
    await pass(10)
    watchdog.alive()
  }
  expect(watchdog.signal.aborted).toBe(false)
  await pass(10)
  expect(watchdog.signal.reason).toEqual(timeout)
})

test.each([0, -5])('aborts immediately when the deadline is %d ms away', (deadlineMs) => {
  expect(start({ deadlineMs }).signal.reason).toEqual(timeout)
})

test("passes on the caller's abort with its reason", () => {
  const controller = new AbortController()
  const watchdog = start({ signal: controller.signal })
  const reason = new Error('left')
  controller.abort(reason)
  expect(watchdog.signal.reason).toBe(reason)
})

test('aborts when the caller had already aborted', () => {
  const reason = new Error('left')
  const { signal } = start({ signal: AbortSignal.abort(reason) })
  expect(signal.aborted).toBe(true)
  expect(signal.reason).toBe(reason)
})

test('race() returns the result or failure of the work', async () => {
  const watchdog = start()
  expect(await watchdog.race(Promise.resolve(1))).toBe(1)
  const failure = new Error('x')
  await expect(watchdog.race(Promise.reject(failure))).rejects.toBe(failure)
})

test('race() gives up on work that hangs, and ignores a later failure of it', async () => {
  const watchdog = start()
  const work = Promise.withResolvers<never>()
  const racing = expect(watchdog.race(work.promise)).rejects.toEqual(timeout)
  await pass(300)
  await racing
  work.reject(new Error('late'))
  await pass(1)
})

test('race() rejects with the reason after an abort', async () => {
  const reason = new Error('left')
  const watchdog = start({ signal: AbortSignal.abort(reason) })
  await expect(watchdog.race(new Promise(() => {}))).rejects.toBe(reason)
})

test('stop() leaves no timer and no listener', () => {
  const controller = new AbortController()
  const remove = vi.spyOn(controller.signal, 'removeEventListener')
  const watchdog = start({ signal: controller.signal })
  watchdog.alive()
  watchdog.stop()
  expect(vi.getTimerCount()).toBe(0)
  expect(remove).toHaveBeenCalledWith('abort', expect.any(Function))
  controller.abort(new Error('left'))
  expect(watchdog.signal.aborted).toBe(false)
})

test('many calls of alive() share one timer', async () => {
  const watchdog = start()
  const set = vi.spyOn(globalThis, 'setTimeout')
  for (let i = 0; i < 100; i++) watchdog.alive()
  expect(set.mock.calls.length).toBeLessThanOrEqual(1)
  expect(vi.getTimerCount()).toBe(1)
})

test('finished() gives GRACE_MS in total, and alive() does not extend it', async () => {
  const watchdog = start({ deadlineMs: 60_000 })
  for (let at = 0; at < GRACE_MS; at += 100) {
    watchdog.alive()
    // Called again with each piece.
    watchdog.finished(true)
    await pass(99)
    expect(watchdog.signal.aborted).toBe(false)
    await pass(1)
  }
  expect(watchdog.signal.reason).toEqual(timeout)
})

test('finished(false) ends the grace, and the next finished(true) starts a new one', async () => {
  const watchdog = new Watchdog({
    now: Date.now,
    signal: new AbortController().signal,
    firstByteMs: 60_000,
    idleMs: 60_000,
    deadlineAt: START + 60_000,
  })
  const report = async (isFinished: boolean, ms: number) => {
    watchdog.alive()
    watchdog.finished(isFinished)
    await pass(ms)
  }
  await report(true, GRACE_MS - 1)
  await report(false, GRACE_MS)
  await report(true, GRACE_MS - 1)
  expect(watchdog.signal.aborted).toBe(false)
  await pass(1)
  expect(watchdog.signal.reason).toEqual(timeout)
})
