// The in-memory tier: bounded by bytes and age, and a hit encodes nothing again.
import { expect, test, vi } from 'vitest'
import { createEntry, type Entry } from '../../src/cache/entry.ts'
import { MemoryTier } from '../../src/cache/store.ts'
import { bodyName, encodeWhole, type Reader, type Shape } from '../../src/completion/encode.ts'

const NOW_S = 1_767_225_600

function entryOf(key: string, text = 'Hello', choices = 1): Entry {
  return createEntry(
    {
      completion: {
        id: `cmpl-${'a'.repeat(28)}`,
        object: 'text_completion',
        created: NOW_S,
        model: 'model-1',
        choices: Array.from({ length: choices }, (_, index) => ({
          text,
          index,
          logprobs: null,
          finish_reason: 'stop' as const,
        })),
        usage: { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 },
      },
      estimated: false,
    },
    { key, names: [], source: null },
    { requestedAt: 1000 * NOW_S, nowS: NOW_S, freshSeconds: 3600, staleSeconds: 0 },
  )
}

function start({ maxBytes = 1_000_000, maxAgeMs = 60_000 } = {}) {
  const clock = { ms: 5000 }
  return { clock, tier: new MemoryTier({ maxBytes, maxAgeMs }, () => clock.ms) }
}

const shapes: readonly Shape[] = [
  { as: 'json', stream: false, includeUsage: false },
  { as: 'sse', stream: true, includeUsage: false },
  { as: 'sse', stream: true, includeUsage: true },
  { as: 'text', stream: false, includeUsage: false },
]

test('get() returns what set() stored, and null for another key', () => {
  const { tier } = start()
  const set = tier.set(entryOf('a'))
  expect(tier.get('a')).toBe(set)
  expect(tier.get('b')).toBeNull()
  tier.delete('a')
  expect(tier.get('a')).toBeNull()
})

test('a second hit in the same format encodes nothing', () => {
  const { tier } = start()
  tier.set(entryOf('a'))
  const make = vi.fn(() => 'body')
  const first = tier.get('a')?.body('json', make)
  expect(new TextDecoder().decode(first)).toBe('body')
  expect(tier.get('a')?.body('json', make)).toBe(first)
  expect(make).toHaveBeenCalledTimes(1)
  tier.get('a')?.body('sse', make)
  expect(make).toHaveBeenCalledTimes(2)
})

test('an entry expires after exactly maxAgeMs, however often it is read', () => {
  const { tier, clock } = start({ maxAgeMs: 60_000 })
  tier.set(entryOf('a'))
  for (let i = 0; i < 60; i++) {
    expect(tier.get('a')).not.toBeNull()
    clock.ms += 1000
  }
  expect(clock.ms).toBe(65_000)
  clock.ms += 1
  expect(tier.get('a')).toBeNull()
})

test('the least recently used entries are evicted when maxBytes is reached', () => {
  const { tier } = start({ maxBytes: 50_000 })
  const keys = Array.from({ length: 100 }, (_, i) => `key-${i}`)
  for (const key of keys) {
    tier.set(entryOf(key))
    tier.get('key-0')
  }
  const kept = keys.filter((key) => tier.get(key) !== null)
  expect(kept.length).toBeGreaterThan(2)
  expect(kept.length).toBeLessThan(20)
  expect(kept[0]).toBe('key-0')
  expect(kept.slice(1)).toEqual(keys.slice(-kept.length + 1))
})

test('an entry larger than maxBytes is served but not stored', () => {
  const { tier } = start({ maxBytes: 10_000 })
  tier.set(entryOf('small'))
  const cached = tier.set(entryOf('large', 'x'.repeat(20_000)))
  expect(new TextDecoder().decode(cached.body('json', () => 'made'))).toBe('made')
  expect(tier.get('large')).toBeNull()
  expect(tier.get('small')).not.toBeNull()
})

test.each([
  ['no bytes', { maxBytes: 0 }],
  ['no time', { maxAgeMs: 0 }],
])('a tier with %s keeps nothing and still makes bodies', (_, options) => {
  const { tier } = start(options)
  const cached = tier.set(entryOf('a'))
  expect(new TextDecoder().decode(cached.body('json', () => 'made'))).toBe('made')
  expect(tier.get('a')).toBeNull()
  tier.delete('a')
})

test.each([
  ['letters', 'a'],
  ['two bytes each', 'é'],
  ['three bytes each', '漢'],
  ['surrogate pairs', '😀'],
  ['escapes', '"'],
  ['control characters, six bytes as JSON', '\u0001'],
])('all bodies of an entry fit into the size counted for it: %s', (_, character) => {
  for (const choices of [1, 4]) {
    const entry = entryOf('k', character.repeat(3000), choices)
    const cached = start().tier.set(entry)
    let real = JSON.stringify(entry).length
    for (const shape of shapes) {
      const reader: Reader = { shape, resume: null }
      real += cached.body(bodyName(shape), () => encodeWhole(entry, reader)).length
    }
    // The size counted is at least the size in memory.
    let fits = 0
    for (let maxBytes = 1000; fits === 0; maxBytes = Math.ceil(maxBytes * 1.02)) {
      const { tier } = start({ maxBytes })
      tier.set(entry)
      if (tier.get('k') !== null) fits = maxBytes
    }
    expect(fits).toBeGreaterThanOrEqual(real)
  }
})
