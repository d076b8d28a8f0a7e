// The list of what is void: what it covers, when it is read, and that no purge is ever taken back.
import fc from 'fast-check'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { Purges, type PurgeTarget } from '../../src/cache/purge.ts'
import type { Event } from '../../src/events.ts'
import { MemoryKv, START } from '../support/app.ts'

const NOW_S = START / 1000
const INTERVAL_MS = 60_000
const a = { key: 'key-a', model: 'model-a', promptId: 'prompt-a' }
const b = { key: 'key-b', model: 'model-b', promptId: null }

/** One place: its clock and KV, which several isolates may share. */
function place() {
  const clock = { ms: START }
  return { clock, kv: new MemoryKv(clock) }
}

function isolate({ clock, kv }: ReturnType<typeof place> = place()) {
  const events: Event[] = []
  const background: Promise<unknown>[] = []
  const purges = new Purges(
    kv,
    { intervalMs: INTERVAL_MS },
    {
      now: () => clock.ms,
      report: (event) => events.push(event),
      waitUntil: (work) => background.push(work),
    },
  )
  const settled = async () => {
    while (background.length > 0) await Promise.all(background.splice(0))
  }
  return { clock, kv, events, purges, settled, background }
}

const listIn = (kv: MemoryKv) => JSON.parse(kv.values.get('purge')?.value ?? 'null')

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
})

afterEach(() => {
  expect(vi.getTimerCount()).toBe(0)
  vi.useRealTimers()
})

const targets: readonly [string, PurgeTarget, boolean][] = [
  ['all', { kind: 'all' }, true],
  ['its key', { kind: 'key', name: 'key-a' }, false],
  ['its prompt', { kind: 'prompt', name: 'prompt-a' }, false],
  ['its model', { kind: 'model', name: 'model-a' }, false],
]

test.each(targets)('a purge of %s voids what began at or before it', async (_, target, others) => {
  const { purges, clock } = isolate()
  expect(purges.isVoid(a, NOW_S - 1000)).toBe(false)
  await purges.purge(target)
  expect(purges.isVoid(a, NOW_S - 1)).toBe(true)
  expect(purges.isVoid(a, NOW_S)).toBe(true)
  expect(purges.isVoid(a, NOW_S + 1)).toBe(false)
  expect(purges.isVoid(b, NOW_S - 1)).toBe(others)
  expect(purges.purgedAtS(a)).toBe(NOW_S)
  // For ever, not for a while.
  clock.ms += 10 * 365 * 86_400_000
  expect(purges.isVoid(a, NOW_S)).toBe(true)
})

test('a name is only a name of its kind, also one that every object has', async () => {
  const { purges, clock, kv, settled } = isolate()
  for (const name of ['key-a', 'toString', '__proto__', 'constructor']) {
    await purges.purge({ kind: 'prompt', name })
    clock.ms += 1000
  }
  expect(purges.isVoid({ ...a, promptId: 'other' }, 1)).toBe(false)
  expect(purges.isVoid({ key: 'toString', model: '__proto__', promptId: null }, 1)).toBe(false)
  for (const promptId of ['toString', '__proto__', 'constructor']) {
    expect(purges.isVoid({ ...a, promptId }, NOW_S), promptId).toBe(true)
    const other = isolate({ clock, kv })
    await other.purges.known()
    await other.settled()
    expect(other.purges.isVoid({ ...a, promptId }, NOW_S), promptId).toBe(true)
  }
  await settled()
})

test('another isolate learns of it when it next reads the list, in the background', async () => {
  const shared = place()
  const [here, there] = [isolate(shared), isolate(shared)]
  expect(there.purges.isVoid(a, NOW_S)).toBe(false)
  await there.settled()
  await here.purges.purge({ kind: 'key', name: 'key-a' })
  shared.clock.ms += INTERVAL_MS - 1
  expect(there.purges.isVoid(a, NOW_S)).toBe(false)
  expect(there.background).toHaveLength(0)
  shared.clock.ms += 1
  // This one still goes by the old list; the new one is on its way.
  expect(there.purges.isVoid(a, NOW_S)).toBe(false)
  await there.settled()
  expect(there.purges.isVoid(a, NOW_S)).toBe(true)
})

test('the list is read once an interval, however many ask', async () => {
  const { purges, kv, clock, settled } = isolate()
  const get = vi.spyOn(kv, 'get')
  for (let second = 0; second < 180; second++) {
    for (let i = 0; i < 10; i++) purges.isVoid(a, NOW_S)
    await settled()
    clock.ms += 1000
  }
  expect(get).toHaveBeenCalledTimes(3)
})

test('known() waits for the first list, and never again', async () => {
  const shared = place()
  const first = isolate(shared)
  await first.purges.purge({ kind: 'all' })
  const fresh = isolate(shared)
  const get = vi.spyOn(shared.kv, 'get')
  await fresh.purges.known()
  expect(fresh.purges.isVoid(a, NOW_S)).toBe(true)
  await fresh.purges.known()
  await fresh.settled()
  expect(get).toHaveBeenCalledTimes(1)
})

test('known() waits 300 ms for a KV that hangs, and takes the list when it comes', async () => {
  const shared = place()
  await isolate(shared).purges.purge({ kind: 'all' })
  const slow = Promise.withResolvers<void>()
  shared.kv.trouble = () => slow.promise
  const { purges, settled, events } = isolate(shared)
  let waited = false
  const known = purges.known().then(() => {
    waited = true
  })
  await vi.advanceTimersByTimeAsync(299)
  expect(waited).toBe(false)
  await vi.advanceTimersByTimeAsync(1)
  expect(waited).toBe(true)
  await known
  expect(purges.isVoid(a, NOW_S)).toBe(false)
  slow.resolve()
  await settled()
  expect(purges.isVoid(a, NOW_S)).toBe(true)
  expect(events).toEqual([])
})

test('known() survives a KV that fails, says so, and asks again the next time', async () => {
  const shared = place()
  await isolate(shared).purges.purge({ kind: 'all' })
  shared.kv.trouble = () => {
    throw new Error('KV GET failed: 503')
  }
  const { purges, settled, events } = isolate(shared)
  await purges.known()
  expect(events).toEqual([{ event: 'cache_failed', operation: 'get', reason: 'error' }])
  shared.kv.trouble = () => {}
  await purges.known()
  await settled()
  expect(purges.isVoid(a, NOW_S)).toBe(true)
})

test.each([
  ['no JSON', '{'],
  ['another shape', '{"all":"now"}'],
  ['times that are none', '{"all":-1,"prompts":{},"models":{},"keys":{}}'],
])('a list that is %s takes nothing back, and the next purge mends it', async (_, value) => {
  const { purges, kv, clock, events, settled } = isolate()
  await purges.purge({ kind: 'model', name: 'model-a' })
  kv.values.set('purge', { value, expiresAt: Number.POSITIVE_INFINITY, ttl: 0 })
  clock.ms += INTERVAL_MS
  purges.isVoid(a, NOW_S)
  await settled()
  expect(events).toEqual([{ event: 'cache_failed', operation: 'get', reason: 'bad_value' }])
  expect(purges.isVoid(a, NOW_S)).toBe(true)
  clock.ms += 1000
  await purges.purge({ kind: 'key', name: 'key-b' })
  const { models, keys } = listIn(kv)
  expect([models, Object.keys(keys)]).toEqual([{ 'model-a': NOW_S }, ['key-b']])
})

test('an isolate whose KV shows an older list keeps what it knows', async () => {
  const shared = place()
  const { purges, kv, clock, settled } = isolate(shared)
  const before = '{"all":0,"prompts":{},"models":{},"keys":{"key-b":1}}'
  await purges.purge({ kind: 'key', name: 'key-a' })
  vi.spyOn(kv, 'get').mockResolvedValueOnce(before)
  clock.ms += INTERVAL_MS
  purges.isVoid(a, NOW_S)
  await settled()
  expect(purges.isVoid(a, NOW_S)).toBe(true)
  expect(purges.isVoid(b, 1)).toBe(true)
})

test('a list that is read while a purge is under way does not undo it', async () => {
  const shared = place()
  const slow = Promise.withResolvers<void>()
  const { purges, kv, clock, settled } = isolate(shared)
  // Asked before the purge, so it answers with what was there before.
  vi.spyOn(kv, 'get').mockImplementationOnce(async () => {
    await slow.promise
    return null
  })
  purges.isVoid(a, NOW_S)
  await purges.purge({ kind: 'key', name: 'key-a' })
  // The list it brings lacks the purge, which is then written again, a second after the first time.
  clock.ms += 1000
  slow.resolve()
  await settled()
  expect(purges.isVoid(a, NOW_S)).toBe(true)
})

test('two purges at once in one isolate both count, and are both written', async () => {
  const { purges, kv, clock } = isolate()
  const both = Promise.all([
    purges.purge({ kind: 'key', name: 'key-a' }),
    purges.purge({ kind: 'model', name: 'model-b' }),
  ])
  // The second waits for KV's one write a second.
  await vi.advanceTimersByTimeAsync(999)
  expect(listIn(kv).models).toEqual({})
  clock.ms += 1000
  await vi.advanceTimersByTimeAsync(1)
  await both
  expect(listIn(kv)).toMatchObject({ keys: { 'key-a': NOW_S }, models: { 'model-b': NOW_S } })
  expect([purges.isVoid(a, NOW_S), purges.isVoid(b, NOW_S)]).toEqual([true, true])
})

test('a purge that another isolate wrote over, unseen, is written again', async () => {
  const shared = place()
  const { clock, kv } = shared
  const [here, there] = [isolate(shared), isolate(shared)]
  await here.purges.purge({ kind: 'key', name: 'key-a' })
  clock.ms += 2000
  // KV still shows the other place what was there before.
  vi.spyOn(kv, 'get').mockResolvedValueOnce(null)
  await there.purges.purge({ kind: 'model', name: 'model-b' })
  expect(listIn(kv).keys).toEqual({})
  clock.ms += INTERVAL_MS
  here.purges.isVoid(a, NOW_S)
  await here.settled()
  expect(listIn(kv)).toMatchObject({ keys: { 'key-a': NOW_S }, models: { 'model-b': NOW_S + 2 } })
  // Once; what is as it should be is left alone.
  const put = vi.spyOn(kv, 'put')
  clock.ms += INTERVAL_MS
  here.purges.isVoid(a, NOW_S)
  there.purges.isVoid(a, NOW_S)
  await Promise.all([here.settled(), there.settled()])
  expect(put).not.toHaveBeenCalled()
  expect(there.purges.isVoid(a, NOW_S)).toBe(true)
})

test('purge() throws what KV throws: the operator must know', async () => {
  const { purges, kv } = isolate()
  kv.trouble = (operation) => {
    if (operation === 'put') throw new Error('KV PUT failed: 500')
  }
  await expect(purges.purge({ kind: 'all' })).rejects.toThrow('KV PUT failed')
})

test('a list of a thousand names becomes one time for all', async () => {
  const { purges, kv, clock } = isolate()
  const keys = Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [`k${i}`, NOW_S - 5]))
  const value = JSON.stringify({ all: 0, prompts: {}, models: {}, keys })
  kv.values.set('purge', { value, expiresAt: Number.POSITIVE_INFINITY, ttl: 0 })
  await purges.purge({ kind: 'key', name: 'k7' })
  expect(Object.keys(listIn(kv).keys)).toHaveLength(1000)
  clock.ms += 1000
  await purges.purge({ kind: 'key', name: 'one more' })
  expect(listIn(kv)).toEqual({ all: NOW_S + 1, prompts: {}, models: {}, keys: {} })
})

test('the list has no time to live, and is small after a purge of all', async () => {
  const { purges, kv, clock } = isolate()
  await purges.purge({ kind: 'key', name: 'key-a' })
  clock.ms += 1000
  await purges.purge({ kind: 'all' })
  expect(kv.values.get('purge')?.ttl).toBe(Number.POSITIVE_INFINITY)
  expect(listIn(kv)).toEqual({ all: NOW_S + 1, prompts: {}, models: {}, keys: {} })
})

test('whatever is purged, wherever, and whenever it is read: nothing becomes valid again', async () => {
  const target: fc.Arbitrary<PurgeTarget> = fc.oneof(
    fc.constant({ kind: 'all' } as const),
    fc.record({
      kind: fc.constantFrom('key', 'model', 'prompt'),
      name: fc.constantFrom('key-a', 'model-a', 'prompt-a', 'key-b'),
    }),
  )
  const step = fc.record({ isolate: fc.nat(1), target: fc.option(target), forwardS: fc.nat(90) })
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 20 }), async (steps) => {
      const shared = place()
      const isolates = [isolate(shared), isolate(shared)]
      const last = [0, 0]
      for (const { isolate: which, target: purged, forwardS } of steps) {
        const one = isolates[which]
        if (one === undefined) continue
        shared.clock.ms += 1000 + forwardS * 1000
        if (purged !== null) await one.purges.purge(purged)
        for (const [i, { purges, settled }] of isolates.entries()) {
          const at = purges.purgedAtS(a)
          await settled()
          expect(at).toBeGreaterThanOrEqual(last[i] ?? 0)
          last[i] = at
        }
      }
      // Both know everything within an interval.
      shared.clock.ms += INTERVAL_MS
      for (const { purges, settled } of isolates) {
        purges.purgedAtS(a)
        await settled()
      }
      const [first, second] = isolates.map(({ purges }) => purges.purgedAtS(a))
      expect(first).toBe(second)
      expect(first).toBeGreaterThanOrEqual(Math.max(...last))
    }),
    { numRuns: 60 },
  )
})
