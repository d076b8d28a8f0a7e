// The KV tier: no storage failure fails a request.
import fc from 'fast-check'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { createEntry, type Entry } from '../../src/cache/entry.ts'
import { KvTier } from '../../src/cache/kv.ts'
import type { Event } from '../../src/events.ts'
import { MemoryKv, START } from '../support/app.ts'

const KEY = `c1:${'0a'.repeat(32)}`
const NOW_S = START / 1000

function entryOf(text = 'Hello', freshSeconds = 3600, staleSeconds = 60, key = KEY): Entry {
  return createEntry(
    {
      completion: {
        id: `cmpl-${'a'.repeat(28)}`,
        object: 'text_completion',
        created: NOW_S,
        model: 'model-1',
        choices: [{ text, index: 0, logprobs: null, finish_reason: 'stop' }],
        usage: { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 },
      },
      estimated: false,
    },
    { key, names: [], source: null },
    { requestedAt: START, nowS: NOW_S, freshSeconds, staleSeconds },
  )
}

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
  const entry = entryOf('é🎈\u2028\u0000')
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

test('get() returns fresh, stale and expired entries', async () => {
  const { tier, kv } = start()
  const entry = entryOf('x', 10, 10)
  kv.values.set(KEY, { value: JSON.stringify(entry), expiresAt: Infinity, ttl: 60 })
  expect(await tier.get(KEY)).toEqual(entry)
})

test.each(['429', '500', '503'])(
  'get() is a miss and reports one event when the storage fails with %s',
  async (status) => {
    const { tier, kv, events } = start()
    kv.intercept = () => {
      throw new Error(`KV GET failed: ${status}`)
    }
    expect(await tier.get(KEY)).toBeNull()
    expect(events).toEqual([failed('get', 'error')])
  },
)

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

test('get() ignores a value that arrives after waitMs', async () => {
  const { tier, kv, events, put } = start()
  await put(entryOf())
  const late = Promise.withResolvers<void>()
  kv.intercept = () => late.promise
  const reading = tier.get(KEY)
  await vi.advanceTimersByTimeAsync(300)
  expect(await reading).toBeNull()
  late.resolve()
  await vi.advanceTimersByTimeAsync(10_000)
  expect(events).toEqual([failed('get', 'timeout')])
})

test('get() reports once when a read times out and fails later', async () => {
  const { tier, kv, events } = start()
  const late = Promise.withResolvers<void>()
  kv.intercept = () => late.promise
  const reading = tier.get(KEY)
  await vi.advanceTimersByTimeAsync(300)
  expect(await reading).toBeNull()
  late.reject(new Error('KV GET failed: 503'))
  await vi.advanceTimersByTimeAsync(0)
  expect(events).toEqual([failed('get', 'timeout')])
})

test('get() leaves no timer running', async () => {
  const { tier, kv, put } = start()
  await put(entryOf())
  await tier.get(KEY)
  kv.intercept = () => {
    throw new Error('KV GET failed: 500')
  }
  await tier.get(KEY)
  expect(vi.getTimerCount()).toBe(0)
})

test.each([
  ['bad JSON', '{'],
  ['an empty text', ''],
  ['null', 'null'],
  ['HTML', '<html>'],
  ['another schema', JSON.stringify({ ...entryOf(), schema: 99 })],
  ['another key’s entry', JSON.stringify(entryOf('x', 1, 1, `c1:${'ff'.repeat(32)}`))],
  ['a truncated entry', JSON.stringify(entryOf()).slice(0, -10)],
  ['25 MiB', 'x'.repeat(26_214_400)],
])('get() of %s is a miss, and the value is deleted', async (_, value) => {
  const { tier, kv, events, settled } = start()
  kv.values.set(KEY, { value, expiresAt: Infinity, ttl: 60 })
  expect(await tier.get(KEY)).toBeNull()
  await settled()
  expect(kv.deleted).toEqual([KEY])
  expect(events).toEqual([failed('get', 'bad_value')])
})

test('get() is a miss when a bad value cannot be deleted', async () => {
  const { tier, kv, events, settled } = start()
  kv.values.set(KEY, { value: '{', expiresAt: Infinity, ttl: 60 })
  kv.intercept = (operation) => {
    if (operation === 'delete') throw new Error('KV DELETE failed: 500')
  }
  expect(await tier.get(KEY)).toBeNull()
  await settled()
  expect(events).toEqual([failed('get', 'bad_value'), failed('delete', 'error')])
})

test('get() never throws, for any stored text', async () => {
  await fc.assert(
    fc.asyncProperty(fc.string({ unit: 'binary' }), async (value) => {
      const { tier, kv, settled } = start()
      kv.values.set(KEY, { value, expiresAt: Infinity, ttl: 60 })
      expect(await tier.get(KEY)).toBeNull()
      await settled()
    }),
    { numRuns: 50 },
  )
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
  expect(await put(entryOf('x', fresh, stale))).toBe(true)
  expect(kv.values.get(KEY)?.ttl).toBe(ttl)
  expect(events).toEqual([])
})

test('put() counts the TTL from now, not from the start of the flight', async () => {
  const { kv, put, clock } = start()
  clock.ms += 100_500
  await put(entryOf('x', 1000, 0))
  expect(kv.values.get(KEY)?.ttl).toBe(900)
})

test('put() does not throw when the times are not numbers', async () => {
  const { put, kv } = start()
  for (const wrong of [Number.NaN, Number.POSITIVE_INFINITY, -1e9, 0.5]) {
    await put(entryOf('x', wrong, wrong))
  }
  // If something was stored, then with a TTL that KV accepts.
  for (const { ttl } of kv.values.values()) expect(ttl).toBeGreaterThanOrEqual(60)
})

test('put() stores at most entryBytes, counted as UTF-8', async () => {
  const entry = entryOf('é'.repeat(1000))
  const size = new TextEncoder().encode(JSON.stringify(entry)).length
  const fits = start({ entryBytes: size })
  expect(await fits.put(entry)).toBe(true)
  expect(await fits.tier.get(KEY)).toEqual(entry)
  const tooSmall = start({ entryBytes: size - 1 })
  expect(await tooSmall.put(entry)).toBe(false)
  expect(tooSmall.kv.values.size).toBe(0)
  expect(tooSmall.events).toEqual([])
})

test.each([
  'KV PUT failed: 429 Too Many Requests',
  'KV PUT failed: 10048 daily limit exceeded',
  'KV PUT failed: 413 Value length exceeds limit',
  'Network connection lost',
])('put() rests after "%s", then tries again', async (message) => {
  const { kv, put, clock, events } = start()
  kv.intercept = () => {
    throw new Error(message)
  }
  expect(await put(entryOf())).toBe(true)
  expect(events).toEqual([failed('put', 'error')])
  kv.intercept = () => {}
  clock.ms += 9999
  expect(await put(entryOf())).toBe(false)
  expect(kv.values.size).toBe(0)
  clock.ms += 1
  expect(await put(entryOf())).toBe(true)
  expect(kv.values.size).toBe(1)
  expect(events).toHaveLength(1)
})

test('put() survives that KV refuses a second write of a key within a second', async () => {
  const { tier, put, events, clock } = start()
  await put(entryOf('one'))
  clock.ms += 500
  expect(await put(entryOf('two'))).toBe(true)
  expect(events).toEqual([failed('put', 'error')])
  expect((await tier.get(KEY))?.completion.choices[0]?.text).toBe('one')
})

test('get() still reads while writes are paused', async () => {
  const { kv, put, tier, clock } = start()
  const entry = entryOf()
  await put(entry)
  clock.ms += 5000
  kv.intercept = (operation) => {
    if (operation === 'put') throw new Error('KV PUT failed: 500')
  }
  await put(entryOf('two'))
  expect(await tier.get(KEY)).toEqual(entry)
})
