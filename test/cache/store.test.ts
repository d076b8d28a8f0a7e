// Memory before KV, entries from KV are copied into memory, and a purged entry is a miss in both.
import { expect, test, vi } from 'vitest'
import { createEntry, type Entry } from '../../src/cache/entry.ts'
import { KvTier } from '../../src/cache/kv.ts'
import { Purges } from '../../src/cache/purge.ts'
import { PurgeRegister } from '../../src/cache/purge-register.ts'
import { MemoryTier, TieredCache } from '../../src/cache/store.ts'
import type { Event } from '../../src/events.ts'
import { MemoryKv, memoryStorage, START } from '../support/app.ts'

const KEY = `c1:${'0a'.repeat(32)}`
const NOW_S = START / 1000

function entryOf({ key = KEY, text = 'Hello', nowS = NOW_S, freshSeconds = 3600 } = {}): Entry {
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
    { key, names: ['model:default', 'prompt:haiku'], source: null },
    { requestedAt: nowS * 1000, nowS, freshSeconds, staleSeconds: 60 },
  )
}

function place() {
  const clock = { ms: START }
  return { clock, kv: new MemoryKv(clock) }
}

/** One isolate's tiers over a KV that several may share. */
function isolate({ clock, kv }: ReturnType<typeof place> = place()) {
  const events: Event[] = []
  const background: Promise<unknown>[] = []
  const context = {
    now: () => clock.ms,
    report: (event: Event) => void events.push(event),
    waitUntil: (work: Promise<unknown>) => void background.push(work),
  }
  const register = new PurgeRegister({ storage: memoryStorage(), kv, now: () => clock.ms })
  const purges = new Purges({ kv, intervalMs: 60_000, register, ...context })
  const cache = new TieredCache(
    new MemoryTier({ maxBytes: 1_000_000, maxAgeMs: 60_000 }, () => clock.ms),
    new KvTier({ kv, waitMs: 300, entryBytes: 100_000, ...context }),
    purges,
  )
  const settled = async () => {
    while (background.length > 0) await Promise.all(background.splice(0))
  }
  return { clock, kv, events, purges, cache, settled }
}

/** Reads of the entry, without those of the purge list. */
function readsOf(kv: MemoryKv) {
  const get = vi.spyOn(kv, 'get')
  return () => get.mock.calls.filter(([key]) => key === KEY).length
}

test('a miss in both tiers costs one KV read', async () => {
  const { cache, kv, settled } = isolate()
  const reads = readsOf(kv)
  expect(await cache.get(KEY)).toBeNull()
  expect(reads()).toBe(1)
  await settled()
})

test('put() stores in memory, and a hit there reads nothing from KV', async () => {
  const { cache, kv, settled } = isolate()
  const reads = readsOf(kv)
  expect(cache.put(entryOf(), true)).toBe(true)
  await settled()
  const found = await cache.get(KEY)
  expect([found?.tier, found?.cached.entry]).toEqual(['memory', entryOf()])
  expect(reads()).toBe(0)
  expect(kv.values.has(KEY)).toBe(true)
})

test('an entry found in KV is copied into memory for the next hit', async () => {
  const shared = place()
  const first = isolate(shared)
  first.cache.put(entryOf(), true)
  await first.settled()
  const { cache, settled } = isolate(shared)
  const reads = readsOf(shared.kv)
  const fromKv = await cache.get(KEY)
  const fromMemory = await cache.get(KEY)
  expect([fromKv?.tier, fromMemory?.tier]).toEqual(['kv', 'memory'])
  // Times are shared by the tiers; encoded bodies exist in memory only.
  expect(fromMemory?.cached).toBe(fromKv?.cached)
  expect(fromKv?.cached.entry).toEqual(entryOf())
  expect(reads()).toBe(1)
  await settled()
})

test('KV is read again after an entry has expired from memory', async () => {
  const { cache, clock, settled } = isolate()
  cache.put(entryOf(), true)
  await settled()
  clock.ms += 60_001
  expect((await cache.get(KEY))?.tier).toBe('kv')
  expect((await cache.get(KEY))?.tier).toBe('memory')
  await settled()
})

test('an expired entry is returned, for the caller to judge', async () => {
  const { cache, clock, settled } = isolate()
  cache.put(entryOf({ freshSeconds: 10 }), true)
  await settled()
  clock.ms += 30_000
  expect((await cache.get(KEY))?.cached.entry.fresh_until).toBe(NOW_S + 10)
})

test('an entry is stored in memory only when the day’s write budget is used up', async () => {
  const { cache, kv, settled } = isolate()
  expect(cache.put(entryOf(), false)).toBe(false)
  await settled()
  expect(kv.values.has(KEY)).toBe(false)
  expect((await cache.get(KEY))?.tier).toBe('memory')
})

test('a purged entry is a miss in both tiers, immediately in this isolate', async () => {
  const { cache, purges, settled, clock } = isolate()
  cache.put(entryOf(), true)
  await settled()
  clock.ms += 1000
  await purges.purge({ names: ['prompt:haiku'], at: clock.ms })
  expect(cache.fromMemory(KEY)).toBeNull()
  expect(await cache.fromKv(KEY)).toBeNull()
  expect(await cache.get(KEY)).toBeNull()
  // An answer requested later is served again.
  clock.ms += 1000
  const newer = entryOf({ nowS: NOW_S + 2, text: 'newer' })
  expect(cache.put(newer, true)).toBe(true)
  expect((await cache.get(KEY))?.cached.entry).toEqual(newer)
  await settled()
})

test('an answer requested before a purge is not stored in any tier', async () => {
  const { cache, kv, purges, settled, clock } = isolate()
  const begunBefore = entryOf()
  clock.ms += 5000
  await purges.purge({ names: null, at: clock.ms })
  expect(cache.put(begunBefore, true)).toBe(false)
  const cached = cache.storeInMemory(begunBefore)
  // Only the visitor who waited for it gets it.
  expect(cached.entry).toBe(begunBefore)
  await settled()
  expect(kv.values.has(KEY)).toBe(false)
  expect(await cache.get(KEY)).toBeNull()
})

test('a new isolate serves nothing that was purged before it started', async () => {
  const shared = place()
  const old = isolate(shared)
  old.cache.put(entryOf(), true)
  await old.settled()
  shared.clock.ms += 3_000_000
  await old.purges.purge({ names: ['model:default'], at: shared.clock.ms })
  shared.clock.ms += 120_000
  const fresh = isolate(shared)
  expect(await fresh.cache.get(KEY)).toBeNull()
  await fresh.settled()
})

test('an answer requested earlier replaces no later one, in any tier', async () => {
  const { cache, kv, settled, clock } = isolate()
  const [older, newer] = [entryOf({ text: 'older' }), entryOf({ text: 'newer', nowS: NOW_S + 1 })]
  clock.ms += 2000
  expect(cache.put(newer, true)).toBe(true)
  expect(cache.put(older, true)).toBe(false)
  cache.storeInMemory(older)
  await settled()
  expect((await cache.get(KEY))?.cached.entry).toEqual(newer)
  expect(JSON.parse(kv.values.get(KEY)?.value ?? '')).toEqual(newer)
})

test('an entry stored during the KV read wins over an older one from KV', async () => {
  const shared = place()
  const first = isolate(shared)
  first.cache.put(entryOf({ text: 'older' }), true)
  await first.settled()
  const { cache, settled } = isolate(shared)
  const slow = Promise.withResolvers<void>()
  shared.kv.intercept = (operation) => (operation === 'get' ? slow.promise : undefined)
  const reading = cache.get(KEY)
  const newer = entryOf({ text: 'newer', nowS: NOW_S + 1 })
  cache.storeInMemory(newer)
  slow.resolve()
  expect((await reading)?.cached.entry).toEqual(newer)
  expect((await cache.get(KEY))?.cached.entry).toEqual(newer)
  await settled()
})

test('remember() shares the encoded bodies of an answer that is already in memory', () => {
  const { cache } = isolate()
  const entries = [2, 1, 3, 3].map((after) => entryOf({ nowS: NOW_S + after }))
  const cached = entries.map((entry) => cache.storeInMemory(entry))
  expect(cached.map(({ entry }) => entry)).toEqual(entries)
  expect(new Set(cached.map((one) => one.body('json', () => 'made once'))).size).toBe(1)
  const other = entryOf({ nowS: NOW_S + 4 })
  const answer = { ...other.completion, id: `cmpl-${'b'.repeat(28)}` }
  const [body] = cached.map((one) => one.body('json', () => ''))
  expect(cache.storeInMemory({ ...other, completion: answer }).body('json', () => '')).not.toBe(
    body,
  )
})

test('remember() stores another isolate’s entry in memory without a KV write', async () => {
  const { cache, kv, settled } = isolate()
  const put = vi.spyOn(kv, 'put')
  const cached = cache.storeInMemory(entryOf())
  expect((await cache.get(KEY))?.cached).toBe(cached)
  await settled()
  expect(put).not.toHaveBeenCalled()
})
