// Memory before KV, what KV has goes into memory, and what was purged is a miss in both.
import { expect, test, vi } from 'vitest'
import { createEntry, type Entry } from '../../src/cache/entry.ts'
import { KvTier } from '../../src/cache/kv.ts'
import { MemoryTier } from '../../src/cache/memory.ts'
import { Purges } from '../../src/cache/purge.ts'
import { PurgeRegister } from '../../src/cache/purge-register.ts'
import { TieredCache } from '../../src/cache/tiered.ts'
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

/** One isolate's tiers, over a KV that others may share. */
function isolate({ clock, kv }: ReturnType<typeof place> = place()) {
  const events: Event[] = []
  const background: Promise<unknown>[] = []
  const context = {
    now: () => clock.ms,
    report: (event: Event) => void events.push(event),
    waitUntil: (work: Promise<unknown>) => void background.push(work),
  }
  const door = new PurgeRegister({ storage: memoryStorage(), kv, now: () => clock.ms })
  const purges = new Purges(kv, { intervalMs: 60_000 }, { ...context, door })
  const cache = new TieredCache(
    new MemoryTier({ maxBytes: 1_000_000, maxAgeMs: 60_000 }, () => clock.ms),
    new KvTier(kv, { waitMs: 300, entryBytes: 100_000, restMs: 10_000 }, context),
    purges,
  )
  const settled = async () => {
    while (background.length > 0) await Promise.all(background.splice(0))
  }
  return { clock, kv, events, purges, cache, settled }
}

/** Reads of the entry; the purge list's are others. */
function readsOf(kv: MemoryKv) {
  const get = vi.spyOn(kv, 'get')
  return () => get.mock.calls.filter(([key]) => key === KEY).length
}

test('a miss in both tiers is a miss, and one read', async () => {
  const { cache, kv, settled } = isolate()
  const reads = readsOf(kv)
  expect(await cache.get(KEY)).toBeNull()
  expect(reads()).toBe(1)
  await settled()
})

test('what put() kept is in memory, and a hit there reads nothing', async () => {
  const { cache, kv, settled } = isolate()
  const reads = readsOf(kv)
  expect(cache.put(entryOf(), true)).toBe(true)
  await settled()
  const found = await cache.get(KEY)
  expect([found?.tier, found?.remembered.entry]).toEqual(['memory', entryOf()])
  expect(reads()).toBe(0)
  expect(kv.values.has(KEY)).toBe(true)
})

test('what KV has is put into memory: the next hit is there', async () => {
  const shared = place()
  const first = isolate(shared)
  first.cache.put(entryOf(), true)
  await first.settled()
  const { cache, settled } = isolate(shared)
  const reads = readsOf(shared.kv)
  const fromKv = await cache.get(KEY)
  const fromMemory = await cache.get(KEY)
  expect([fromKv?.tier, fromMemory?.tier]).toEqual(['kv', 'memory'])
  // Entries pass, with their times; the bodies made of them stay.
  expect(fromMemory?.remembered).toBe(fromKv?.remembered)
  expect(fromKv?.remembered.entry).toEqual(entryOf())
  expect(reads()).toBe(1)
  await settled()
})

test('memory forgets after its time, and KV is asked again', async () => {
  const { cache, clock, settled } = isolate()
  cache.put(entryOf(), true)
  await settled()
  clock.ms += 60_001
  expect((await cache.get(KEY))?.tier).toBe('kv')
  expect((await cache.get(KEY))?.tier).toBe('memory')
  await settled()
})

test('an entry past its freshness is handed on, for the reader to judge', async () => {
  const { cache, clock, settled } = isolate()
  cache.put(entryOf({ freshSeconds: 10 }), true)
  await settled()
  clock.ms += 30_000
  expect((await cache.get(KEY))?.remembered.entry.fresh_until).toBe(NOW_S + 10)
})

test('without a write left of the day’s an entry is kept in memory alone', async () => {
  const { cache, kv, settled } = isolate()
  expect(cache.put(entryOf(), false)).toBe(false)
  await settled()
  expect(kv.values.has(KEY)).toBe(false)
  expect((await cache.get(KEY))?.tier).toBe('memory')
})

test('what is purged is a miss in every tier, at once in this isolate', async () => {
  const { cache, purges, settled, clock } = isolate()
  cache.put(entryOf(), true)
  await settled()
  clock.ms += 1000
  await purges.purge({ names: ['prompt:haiku'], at: clock.ms })
  expect(cache.fromMemory(KEY)).toBeNull()
  expect(await cache.fromKv(KEY)).toBeNull()
  expect(await cache.get(KEY)).toBeNull()
  // What is begun later is served again.
  clock.ms += 1000
  const newer = entryOf({ nowS: NOW_S + 2, text: 'newer' })
  expect(cache.put(newer, true)).toBe(true)
  expect((await cache.get(KEY))?.remembered.entry).toEqual(newer)
  await settled()
})

test('what began before a purge is not kept after it, in no tier', async () => {
  const { cache, kv, purges, settled, clock } = isolate()
  const begunBefore = entryOf()
  clock.ms += 5000
  await purges.purge({ names: null, at: clock.ms })
  expect(cache.put(begunBefore, true)).toBe(false)
  const remembered = cache.remember(begunBefore)
  // The one who waited for it gets it; nobody else does.
  expect(remembered.entry).toBe(begunBefore)
  await settled()
  expect(kv.values.has(KEY)).toBe(false)
  expect(await cache.get(KEY)).toBeNull()
})

test('an isolate that has only just begun serves nothing that was purged before', async () => {
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

test('an answer asked for earlier takes no later one’s place, in no tier', async () => {
  const { cache, kv, settled, clock } = isolate()
  const [older, newer] = [entryOf({ text: 'older' }), entryOf({ text: 'newer', nowS: NOW_S + 1 })]
  clock.ms += 2000
  expect(cache.put(newer, true)).toBe(true)
  expect(cache.put(older, true)).toBe(false)
  cache.remember(older)
  await settled()
  expect((await cache.get(KEY))?.remembered.entry).toEqual(newer)
  expect(JSON.parse(kv.values.get(KEY)?.value ?? '')).toEqual(newer)
})

test('what is stored while KV answers with an older entry is the newer one', async () => {
  const shared = place()
  const first = isolate(shared)
  first.cache.put(entryOf({ text: 'older' }), true)
  await first.settled()
  const { cache, settled } = isolate(shared)
  const slow = Promise.withResolvers<void>()
  shared.kv.intercept = (operation) => (operation === 'get' ? slow.promise : undefined)
  const reading = cache.get(KEY)
  const newer = entryOf({ text: 'newer', nowS: NOW_S + 1 })
  cache.remember(newer)
  slow.resolve()
  expect((await reading)?.remembered.entry).toEqual(newer)
  expect((await cache.get(KEY))?.remembered.entry).toEqual(newer)
  await settled()
})

test('remember() of an answer that is here already keeps its bodies, for all its readers', () => {
  const { cache } = isolate()
  const entries = [2, 1, 3, 3].map((after) => entryOf({ nowS: NOW_S + after }))
  const remembered = entries.map((entry) => cache.remember(entry))
  expect(remembered.map(({ entry }) => entry)).toEqual(entries)
  expect(new Set(remembered.map((one) => one.body('json', () => 'made once'))).size).toBe(1)
  const other = entryOf({ nowS: NOW_S + 4 })
  const answer = { ...other.completion, id: `cmpl-${'b'.repeat(28)}` }
  const [body] = remembered.map((one) => one.body('json', () => ''))
  expect(cache.remember({ ...other, completion: answer }).body('json', () => '')).not.toBe(body)
})

test('remember() keeps what another isolate stored, without a write', async () => {
  const { cache, kv, settled } = isolate()
  const put = vi.spyOn(kv, 'put')
  const remembered = cache.remember(entryOf())
  expect((await cache.get(KEY))?.remembered).toBe(remembered)
  await settled()
  expect(put).not.toHaveBeenCalled()
})
