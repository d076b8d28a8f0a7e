// The KV tier: no storage failure fails a request.
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import type { Entry } from '../../src/cache/entry.ts'
import { KvTier } from '../../src/cache/kv.ts'
import type { Event } from '../../src/events.ts'
import { MemoryKv, START } from '../support/app.ts'
import { entryOf, KEY } from '../support/entries.ts'

function start(options: { waitMs?: number; entryBytes?: number } = {}) {
  const clock = { ms: START }
  const kv = new MemoryKv(clock)
  const events: Event[] = []
  const background: Promise<unknown>[] = []
  const tier = new KvTier({
    kv,
    waitMs: 300,
    entryBytes: 262_144,
    now: () => clock.ms,
    report: (event) => events.push(event),
    waitUntil: (work) => background.push(work),
    ...options,
  })
  /** The background work, which must never reject. */
  const settled = () => Promise.all(background.splice(0))
  const put = async (entry: Entry) => {
    const tried = tier.put(entry)
    await settled()
    return tried
  }
  return { clock, kv, events, tier, settled, put }
}

const never = () => new Promise<never>(() => {})
const failed = (operation: 'get' | 'put' | 'delete', reason: string) => ({
  event: 'cache_failed',
  operation,
  reason,
})

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
})

afterEach(() => {
  vi.useRealTimers()
})

test('get() returns the entry that put() stored', async () => {
  const { tier, put, events } = start()
  const entry = entryOf({ texts: ['é🎈\u2028\u0000'] })
  expect(await put(entry)).toBe(true)
  expect(await tier.get(KEY)).toEqual(entry)
  expect(events).toEqual([])
})

test('get() of a missing key is a miss without an event', async () => {
  const { tier, events, kv } = start()
  expect(await tier.get(KEY)).toBeNull()
  expect(events).toEqual([])
  expect(kv.deleted).toEqual([])
})

test('get() returns an expired entry, for the caller to judge', async () => {
  const { tier, kv, clock } = start()
  const entry = entryOf({ freshSeconds: 10, staleSeconds: 10 })
  kv.values.set(KEY, { value: JSON.stringify(entry), expiresAt: Infinity, ttl: 60 })
  clock.ms += 30_000
  expect(await tier.get(KEY)).toEqual(entry)
})

test('get() is a miss, one event and no timer when the storage fails', async () => {
  const { tier, kv, events } = start()
  kv.intercept = () => {
    throw new Error('KV GET failed: 503')
  }
  expect(await tier.get(KEY)).toBeNull()
  expect(events).toEqual([failed('get', 'error')])
  expect(vi.getTimerCount()).toBe(0)
})

test('get() waits at most waitMs for a storage that hangs', async () => {
  const { tier, kv, events } = start()
  kv.intercept = never
  let got: unknown = 'waiting'
  const reading = tier.get(KEY).then((entry) => {
    got = entry
  })
  await vi.advanceTimersByTimeAsync(299)
  expect(got).toBe('waiting')
  await vi.advanceTimersByTimeAsync(1)
  await reading
  expect(got).toBeNull()
  expect(events).toEqual([failed('get', 'timeout')])
})

test.each([
  ['arrives', (late: PromiseWithResolvers<void>) => late.resolve()],
  ['fails', (late: PromiseWithResolvers<void>) => late.reject(new Error('KV GET failed: 503'))],
])('get() reports once when a read times out and %s later', async (_, end) => {
  const { tier, kv, events, put } = start()
  await put(entryOf())
  const late = Promise.withResolvers<void>()
  kv.intercept = () => late.promise
  const reading = tier.get(KEY)
  await vi.advanceTimersByTimeAsync(300)
  expect(await reading).toBeNull()
  end(late)
  await vi.advanceTimersByTimeAsync(10_000)
  expect(events).toEqual([failed('get', 'timeout')])
})

test.each([
  ['fails', () => Promise.reject(new Error('KV GET failed: 503'))],
  ['hangs', never],
])('misses are unsure for ten seconds after a read that %s', async (_, intercept) => {
  const { tier, kv, clock } = start()
  await tier.get(KEY)
  expect(tier.isUnsure).toBe(false)
  kv.intercept = intercept
  const reading = tier.get(KEY)
  await vi.advanceTimersByTimeAsync(300)
  expect([await reading, tier.isUnsure]).toEqual([null, true])
  clock.ms += 10_000
  expect(tier.isUnsure).toBe(false)
})

// What counts as a bad value: entry.test.ts.
test('get() of a bad value is a miss, and the value is deleted', async () => {
  const { tier, kv, events, settled } = start()
  for (const value of ['{', 'x'.repeat(26_214_400)]) {
    kv.values.set(KEY, { value, expiresAt: Infinity, ttl: 60 })
    expect(await tier.get(KEY)).toBeNull()
    await settled()
    expect(kv.values.has(KEY)).toBe(false)
    expect(events.splice(0)).toEqual([failed('get', 'bad_value')])
  }
  kv.values.set(KEY, { value: '{', expiresAt: Infinity, ttl: 60 })
  kv.intercept = (operation) => {
    if (operation === 'delete') throw new Error('KV DELETE failed: 500')
  }
  expect(await tier.get(KEY)).toBeNull()
  await settled()
  expect(events).toEqual([failed('get', 'bad_value'), failed('delete', 'error')])
})

test('put() does not wait for the storage', () => {
  const { tier, kv } = start()
  kv.intercept = never
  expect(tier.put(entryOf())).toBe(true)
})

test.each([
  [3600, 60, 3660],
  [0, 0, 60],
  [1, 0, 60],
  [59, 0, 60],
  [60, 0, 60],
  [61, 0, 61],
  [1e12, 0, 315_360_000],
  [2_592_000, 2_592_000, 5_184_000],
])('put() of %d s fresh and %d s stale asks for %d s', async (fresh, stale, ttl) => {
  const { kv, put, events } = start()
  expect(await put(entryOf({ freshSeconds: fresh, staleSeconds: stale }))).toBe(true)
  expect(kv.values.get(KEY)?.ttl).toBe(ttl)
  expect(events).toEqual([])
})

test('put() counts the TTL from now, not from the start of the flight', async () => {
  const { kv, put, clock } = start()
  clock.ms += 100_500
  await put(entryOf({ freshSeconds: 1000, staleSeconds: 0 }))
  expect(kv.values.get(KEY)?.ttl).toBe(900)
})

test('put() stores at most entryBytes, counted as UTF-8', async () => {
  const entry = entryOf({ texts: ['é'.repeat(1000)] })
  const size = new TextEncoder().encode(JSON.stringify(entry)).length
  const fits = start({ entryBytes: size })
  expect(await fits.put(entry)).toBe(true)
  expect(await fits.tier.get(KEY)).toEqual(entry)
  const tooSmall = start({ entryBytes: size - 1 })
  expect(await tooSmall.put(entry)).toBe(false)
  expect(tooSmall.kv.values.size).toBe(0)
  expect(tooSmall.events).toEqual([])
})

test('put() rests for ten seconds after a failed write, while get() still reads', async () => {
  const { kv, tier, put, clock, events } = start()
  const entry = entryOf()
  await put(entry)
  // KV refuses a second write of a key within a second.
  clock.ms += 500
  const other = entryOf({ texts: ['other'] })
  expect(await put(other)).toBe(true)
  expect(events).toEqual([failed('put', 'error')])
  clock.ms += 9999
  expect(await put(other)).toBe(false)
  expect(await tier.get(KEY)).toEqual(entry)
  clock.ms += 1
  expect(await put(other)).toBe(true)
  expect(JSON.parse(kv.values.get(KEY)?.value ?? '')).toEqual(other)
  expect(events).toHaveLength(1)
})
