// Reading an upstream's body piece by piece, in fake time: pieces that arrive together are
// delivered together, and the first text is not delayed.
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { BodyReader } from '../../src/upstream/body.ts'
import { Watchdog } from '../../src/upstream/watchdog.ts'
import { openStream } from '../support/app.ts'

const GATHER_MS = 5

function start({ gatherMs = GATHER_MS, maxBytes = 1000, idleMs = 200, isAborted = false } = {}) {
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
  const body = new BodyReader(source.stream, watchdog, { maxBytes, gatherMs, now: Date.now })
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

test('delivers the first piece immediately, and any piece after a pause', async () => {
  const { source, body, stop } = start()
  for (const piece of ['a', 'b', 'c']) {
    const next = body.next()
    source.push(piece)
    expect(await now(next)).toBe(piece)
    await pass(GATHER_MS)
  }
  stop()
})

test('rejects if the signal was aborted before the body was read', async () => {
  const { body, stop } = start({ isAborted: true })
  await expect(body.next()).rejects.toThrow('left')
  stop()
})

test('delivers pieces that arrive in quick succession together, within the time limit', async () => {
  const { source, body, stop } = start()
  source.push('a')
  expect(await body.next()).toBe('a')
  const next = body.next()
  for (const piece of ['b', 'c', 'd']) {
    source.push(piece)
    await pass(1)
  }
  expect(await now(next)).toBe('nothing yet')
  await pass(GATHER_MS - 3)
  expect(await next).toBe('bcd')
  stop()
})

test('delivers what start() looked at without delay', async () => {
  const { source, body, stop } = start()
  source.push(' \n')
  const starting = body.start()
  await pass(0)
  source.push('data: a')
  await pass(GATHER_MS)
  expect(await starting).toBe('d')
  expect(await now(body.next())).toBe(' \ndata: a')
  stop()
})

test('does not delay the end', async () => {
  const { source, body, stop } = start()
  source.push('a')
  await body.next()
  const next = body.next()
  source.push('b')
  source.end()
  expect(await now(next)).toBe('b')
  expect(await now(body.next())).toBeNull()
  expect(await now(body.next())).toBeNull()
  stop()
})

test('reports a failure after all pieces that arrived before it', async () => {
  const { source, body, stop } = start()
  source.push('a')
  await body.next()
  const next = body.next()
  source.push('b')
  await pass(1)
  source.fail(new Error('cut'))
  expect(await now(next)).toBe('b')
  await expect(body.next()).rejects.toMatchObject({ code: 'upstream_truncated' })
  stop()
})

test('delivers each piece separately when gathering is off', async () => {
  const { source, body, stop } = start({ gatherMs: 0 })
  for (const piece of ['a', 'b', 'c']) source.push(piece)
  expect([await body.next(), await body.next(), await body.next()]).toEqual(['a', 'b', 'c'])
  stop()
})

test('keeps what was read ahead for the next call', async () => {
  const { source, body, stop } = start()
  source.push('a')
  await body.next()
  const next = body.next()
  source.push('b')
  await pass(GATHER_MS)
  expect(await next).toBe('b')
  // The read that was pending when the gathering time was up.
  source.push('c')
  await pass(GATHER_MS)
  expect(await now(body.next())).toBe('c')
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
  stop()
})

test('counts gathered bytes towards the size limit', async () => {
  const { source, body, stop } = start({ maxBytes: 3 })
  source.push('a')
  await body.next()
  const next = body.next()
  source.push('bc')
  await pass(1)
  source.push('d')
  expect(await now(next)).toBe('bc')
  await expect(body.next()).rejects.toMatchObject({ code: 'upstream_bad_response' })
  stop()
})

test('does not count gathering, or time without a reader, as idle', async () => {
  const { source, body, stop } = start({ idleMs: 20 })
  source.push('a')
  await body.next()
  await pass(100)
  source.push('b')
  expect(await now(body.next())).toBe('b')
  const next = body.next()
  next.catch(() => {})
  await pass(20)
  await expect(next).rejects.toMatchObject({ code: 'upstream_timeout' })
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
