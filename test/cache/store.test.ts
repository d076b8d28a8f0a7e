// Memory before KV, entries from KV are copied into memory, and a purged entry is a miss in both. A
// hit in memory encodes nothing again.
import { expect, test, vi } from 'vitest'
import { KvTier } from '../../src/cache/kv.ts'
import { Purges } from '../../src/cache/purge.ts'
import { PurgeRegister } from '../../src/cache/purge-register.ts'
import { TieredCache } from '../../src/cache/store.ts'
import { bodyName, encodeWhole, type Shape } from '../../src/completion/encode.ts'
import { MemoryKv, memoryStorage, START } from '../support/app.ts'
import { entryOf, KEY, NOW_S } from '../support/entries.ts'

function place() {
  const clock = { ms: START }
  return { clock, kv: new MemoryKv(clock) }
}

/** One isolate's tiers over a KV that several may share. */
function isolate({ clock, kv }: ReturnType<typeof place> = place(), memory: object = {}) {
  const background: Promise<unknown>[] = []
  const context = {
    now: () => clock.ms,
    report: () => {},
    waitUntil: (work: Promise<unknown>) => void background.push(work),
  }
  const register = new PurgeRegister({ storage: memoryStorage(), kv, now: () => clock.ms })
  const purges = new Purges({ kv, intervalMs: 60_000, register, ...context })
  const cache = new TieredCache({
    kv: new KvTier({ kv, waitMs: 300, entryBytes: 100_000, ...context }),
    purges,
    memoryBytes: 1_000_000,
    memoryMs: 60_000,
    now: context.now,
    ...memory,
  })
  const settled = async () => {
    while (background.length > 0) await Promise.all(background.splice(0))
  }
  return { clock, kv, purges, cache, settled }
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
  const newer = entryOf({ nowS: NOW_S + 2, texts: ['newer'] })
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
  const [older, newer] = [
    entryOf({ texts: ['older'] }),
    entryOf({ texts: ['newer'], nowS: NOW_S + 1 }),
  ]
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
  first.cache.put(entryOf({ texts: ['older'] }), true)
  await first.settled()
  const { cache, settled } = isolate(shared)
  const slow = Promise.withResolvers<void>()
  shared.kv.intercept = (operation) => (operation === 'get' ? slow.promise : undefined)
  const reading = cache.get(KEY)
  const newer = entryOf({ texts: ['newer'], nowS: NOW_S + 1 })
  cache.storeInMemory(newer)
  slow.resolve()
  expect((await reading)?.cached.entry).toEqual(newer)
  expect((await cache.get(KEY))?.cached.entry).toEqual(newer)
  await settled()
})

test('storeInMemory() stores another isolate’s entry without a KV write', async () => {
  const { cache, kv } = isolate()
  const cached = cache.storeInMemory(entryOf())
  expect(cache.fromMemory(KEY)).toBe(cached)
  expect(cache.fromMemory('other')).toBeNull()
  expect(kv.puts).toEqual([])
})

test('storeInMemory() returns what is in memory to each further reader of the same answer', () => {
  const { cache } = isolate()
  const first = cache.storeInMemory(entryOf())
  expect(cache.storeInMemory(entryOf())).toBe(first)
  const confirmed = { ...entryOf(), confirmed_at: START + 1 }
  expect(cache.storeInMemory(confirmed).entry).toBe(confirmed)
  // The last answer of a prompt may be confirmed for two pages within a millisecond.
  const source = { key: 'k', recipe: 'r', pages: [] }
  const last = { ...confirmed, confirmed_at: START + 2, source }
  cache.storeInMemory(last)
  const other = { ...last, source: { ...source, recipe: 's' } }
  expect(cache.storeInMemory(other).entry).toBe(other)
})

test('a body is encoded once for each format, and shared by entries with the same answer', () => {
  const { cache } = isolate()
  const make = vi.fn(() => 'made')
  const entries = [2, 1, 3, 3].map((after) => entryOf({ nowS: NOW_S + after }))
  const cached = entries.map((entry) => cache.storeInMemory(entry))
  expect(cached.map(({ entry }) => entry)).toEqual(entries)
  expect(new Set(cached.map((one) => one.body('json', make))).size).toBe(1)
  expect(make).toHaveBeenCalledTimes(1)
  cached[0]?.body('sse', make)
  expect(make).toHaveBeenCalledTimes(2)
  const { completion, ...other } = entryOf({ nowS: NOW_S + 4 })
  const answer = { ...completion, id: `cmpl-${'b'.repeat(28)}` }
  cache.storeInMemory({ ...other, completion: answer }).body('json', make)
  expect(make).toHaveBeenCalledTimes(3)
})

test('an answer has at most four bodies in memory: the oldest is encoded again', () => {
  const cached = isolate().cache.storeInMemory(entryOf())
  const make = vi.fn(() => 'made')
  for (const name of ['a', 'b', 'c', 'd', 'e']) cached.body(name, make)
  for (const name of ['b', 'c', 'd', 'e']) cached.body(name, make)
  expect(make).toHaveBeenCalledTimes(5)
  cached.body('a', make)
  expect(make).toHaveBeenCalledTimes(6)
})

test.each([
  ['no memory', { memoryBytes: 0 }],
  ['no time in memory', { memoryMs: 0 }],
  ['less memory than an entry needs', { memoryBytes: 1000 }],
])('with %s an entry is served but not kept', (_, memory) => {
  const { cache } = isolate(place(), memory)
  const cached = cache.storeInMemory(entryOf())
  expect(new TextDecoder().decode(cached.body('json', () => 'made'))).toBe('made')
  expect(cache.fromMemory(KEY)).toBeNull()
})

const shapes: readonly Shape[] = [
  { api: 'completion', as: 'json', stream: false, includeUsage: false },
  { api: 'completion', as: 'sse', stream: true, includeUsage: false },
  { api: 'completion', as: 'sse', stream: true, includeUsage: true },
  { api: 'completion', as: 'text', stream: false, includeUsage: false },
]

test.each([
  ['letters', 'a'],
  ['two bytes each', 'é'],
  ['three bytes each', '漢'],
  ['surrogate pairs', '😀'],
  ['escapes', '"'],
  ['control characters, six bytes as JSON', '\u0001'],
])('all bodies of an entry fit into the size counted for it: %s', (_, character) => {
  for (const choices of [1, 4]) {
    const entry = entryOf({ texts: Array(choices).fill(character.repeat(3000)) })
    const cached = isolate().cache.storeInMemory(entry)
    let real = JSON.stringify(entry).length
    for (const shape of shapes) {
      const encode = () => encodeWhole(entry, { shape, resume: null })
      real += cached.body(bodyName(shape), encode).length
    }
    // It is kept only in a memory of at least that size.
    const { cache } = isolate(place(), { memoryBytes: real })
    cache.storeInMemory(entry)
    expect(cache.fromMemory(KEY)).toBeNull()
  }
})
