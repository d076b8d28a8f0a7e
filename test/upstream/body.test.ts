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
  const stop = () => {
    body.cancel()
    watchdog.stop()
  }
  return { source, body, leaving, stop }
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
  const { source, body, stop } = start()
  for (const piece of ['a', 'b', 'c']) {
    const next = body.next()
    source.push(piece)
    expect(await now(next)).toBe(piece)
  }
  source.end()
  expect([await body.next(), await body.next()]).toEqual([null, null])
  stop()
})

test('delivers what start() looked at once more', async () => {
  const { source, body, stop } = start()
  for (const piece of ['\ufeff', ' \n', ' {"a"']) source.push(piece)
  expect(await body.start()).toBe('{')
  expect(await now(body.next())).toBe(' \n {"a"')
  source.push(':1}')
  expect(await now(body.next())).toBe(':1}')
  stop()
})

test('rejects if the signal was aborted before the body was read', async () => {
  const { body, stop } = start({ isAborted: true })
  await expect(body.next()).rejects.toThrow('left')
  stop()
})

test('reports a failure after all pieces that arrived before it', async () => {
  const { source, body, stop } = start()
  source.push('a')
  expect(await body.next()).toBe('a')
  source.fail(new Error('cut'))
  await expect(body.next()).rejects.toMatchObject({ code: 'upstream_truncated' })
  stop()
})

test('a connection that is lost before the first byte is an outage', async () => {
  const { source, body, stop } = start()
  source.fail(new Error('cut'))
  await expect(body.next()).rejects.toMatchObject({ code: 'upstream_unavailable' })
  stop()
})

test('decodes a character that is split across pieces', async () => {
  const { source, body, stop } = start()
  const bytes = new TextEncoder().encode('é')
  const next = body.next()
  source.pushBytes(bytes.slice(0, 1))
  expect(await now(next)).toBe('nothing yet')
  source.pushBytes(bytes.slice(1))
  expect(await now(next)).toBe('é')
  source.pushBytes(bytes.slice(0, 1))
  source.end()
  expect(await body.next()).toBe('\ufffd')
  expect(await body.next()).toBeNull()
  stop()
})

test('stops at the size limit', async () => {
  const { source, body, stop } = start({ maxBytes: 3 })
  for (const piece of ['a', 'bc', 'd']) source.push(piece)
  expect([await body.next(), await body.next()]).toEqual(['a', 'bc'])
  await expect(body.next()).rejects.toMatchObject({ code: 'upstream_bad_response' })
  stop()
})

test('each piece restarts the idle time', async () => {
  const { source, body, stop } = start({ idleMs: 20 })
  for (const piece of ['a', 'b']) {
    const next = body.next()
    await pass(19)
    source.push(piece)
    expect(await now(next)).toBe(piece)
  }
  const timeout = expect(body.next()).rejects.toMatchObject({ code: 'upstream_timeout' })
  await pass(20)
  await timeout
  stop()
})

test("an abort ends the wait with the caller's reason", async () => {
  const { source, body, leaving, stop } = start()
  source.push('a')
  await body.next()
  const next = body.next()
  const reason = new Error('left')
  leaving.abort(reason)
  await expect(next).rejects.toBe(reason)
  expect(source.state.cancelled).toBe(1)
  stop()
})
