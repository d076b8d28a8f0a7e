// Reading an upstream's body piece by piece, in fake time.
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { BodyReader } from '../../src/upstream/body.ts'
import { Watchdog } from '../../src/upstream/watchdog.ts'
import { openStream } from '../support/app.ts'

function start({ maxBytes = 1000, idleMs = 200, isAborted = false } = {}) {
  const source = openStream()
  const leaving = new AbortController()
  if (isAborted) leaving.abort(new Error('left'))
  const watchdog = new Watchdog({
    now: Date.now,
    signal: leaving.signal,
    firstByteMs: 300,
    idleMs,
    deadlineAt: Date.now() + 10_000,
  })
  const body = new BodyReader(source.stream, watchdog, maxBytes)
  const next = async () => {
    const { text, broken } = await body.next()
    if (broken !== null) throw broken
    return text
  }
  const stop = () => {
    body.cancel()
    watchdog.stop()
  }
  return { source, body, next, leaving, stop }
}

const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms)

/** The result of a promise, if it has already resolved. */
async function now<T>(promise: Promise<T>): Promise<T | 'nothing yet'> {
  await pass(0)
  return await Promise.race([promise, Promise.resolve('nothing yet' as const)])
}

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] })
})

afterEach(() => {
  expect(vi.getTimerCount(), 'a timer was left running').toBe(0)
  vi.useRealTimers()
})

test('delivers each piece when it arrives, and null at the end', async () => {
  const { source, next, stop } = start()
  for (const piece of ['a', 'b', 'c']) {
    const pending = next()
    source.push(piece)
    expect(await now(pending)).toBe(piece)
  }
  source.end()
  expect([await next(), await next()]).toEqual([null, null])
  stop()
})

test('delivers what start() looked at once more', async () => {
  const { source, body, next, stop } = start()
  for (const piece of ['\ufeff', ' \n', ' {"a"']) source.push(piece)
  expect(await body.start()).toBe('{')
  expect(await now(next())).toBe(' \n {"a"')
  source.push(':1}')
  expect(await now(next())).toBe(':1}')
  stop()
})

test('rejects if the signal was aborted before the body was read', async () => {
  const { next, stop } = start({ isAborted: true })
  await expect(next()).rejects.toThrow('left')
  stop()
})

test('reports a failure after all pieces that arrived before it', async () => {
  const { source, next, stop } = start()
  source.push('a')
  expect(await next()).toBe('a')
  source.fail(new Error('cut'))
  await expect(next()).rejects.toMatchObject({ code: 'upstream_truncated' })
  stop()
})

test('a connection that is lost before the first byte is an outage', async () => {
  const { source, next, stop } = start()
  source.fail(new Error('cut'))
  await expect(next()).rejects.toMatchObject({ code: 'upstream_unavailable' })
  stop()
})

test("reads the stack of a lost connection's error, which otherwise keeps the body in memory", async () => {
  const { source, next, stop } = start()
  const error = new Error('Network connection lost.')
  const stack = vi.fn(() => '')
  Object.defineProperty(error, 'stack', { get: stack })
  source.fail(error)
  await expect(next()).rejects.toMatchObject({ code: 'upstream_unavailable' })
  expect(stack).toHaveBeenCalled()
  stop()
})

test('decodes a character that is split across pieces', async () => {
  const { source, next, stop } = start()
  const bytes = new TextEncoder().encode('é')
  const pending = next()
  source.pushBytes(bytes.slice(0, 1))
  expect(await now(pending)).toBe('nothing yet')
  source.pushBytes(bytes.slice(1))
  expect(await now(pending)).toBe('é')
  source.pushBytes(bytes.slice(0, 1))
  source.end()
  expect(await next()).toBe('\ufffd')
  expect(await next()).toBeNull()
  stop()
})

test('stops at the size limit', async () => {
  const { source, next, stop } = start({ maxBytes: 3 })
  for (const piece of ['a', 'bc', 'd']) source.push(piece)
  expect([await next(), await next()]).toEqual(['a', 'bc'])
  await expect(next()).rejects.toMatchObject({ code: 'upstream_bad_response' })
  stop()
})

test('each piece restarts the idle time', async () => {
  const { source, next, stop } = start({ idleMs: 20 })
  for (const piece of ['a', 'b']) {
    const pending = next()
    await pass(19)
    source.push(piece)
    expect(await now(pending)).toBe(piece)
  }
  const timeout = expect(next()).rejects.toMatchObject({ code: 'upstream_timeout' })
  await pass(20)
  await timeout
  stop()
})

test("an abort ends the wait with the caller's reason", async () => {
  const { source, next, leaving, stop } = start()
  source.push('a')
  await next()
  const pending = next()
  const reason = new Error('left')
  leaving.abort(reason)
  await expect(pending).rejects.toBe(reason)
  expect(source.state.cancelled).toBe(1)
  stop()
})
