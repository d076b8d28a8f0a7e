// Counting: what is counted as what, that sums add up in any order, and percentiles that can be
// believed; and that a flush that fails loses nothing and waits for nobody.
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Event, RequestEvent } from '../src/events.ts'
import {
  addCounts,
  type HourCounts,
  hourFigures,
  hourOf,
  latencyBoundsMs,
  noCounts,
  percentile,
  UsageCounter,
} from '../src/usage.ts'

const HOUR_MS = 3_600_000
const START = 1_779_998_400_000

function counterAt(startMs = START) {
  const clock = { ms: startMs }
  return { clock, counter: new UsageCounter({ intervalMs: 60_000 }, () => clock.ms) }
}

const noTally = { promptId: null, saved: 0 }

function request(more: Partial<RequestEvent> = {}): RequestEvent {
  return {
    event: 'request',
    request_id: 'req_1',
    route: 'completions',
    status: 200,
    code: null,
    cache: 'miss',
    model: 'default',
    upstream: null,
    attempts: 0,
    tokens_in: 0,
    tokens_out: 0,
    ms: 1,
    visitor: null,
    origin: null,
    ...more,
  }
}

function generated(first_ms: number, tokens_in = 5, tokens_out = 7): Event {
  const ids = { request_id: 'req_1', upstream: 'u', upstream_id: null }
  return { event: 'generated', ...ids, first_ms, ms: 900, tokens_in, tokens_out, stored: true }
}

async function taken(counter: UsageCounter): Promise<Map<number, HourCounts>> {
  let hours = new Map<number, HourCounts>()
  await counter.flush(async (sent) => {
    hours = new Map(sent)
  })
  return hours
}

const histogram = fc.array(fc.nat(50), {
  minLength: latencyBoundsMs.length + 1,
  maxLength: latencyBoundsMs.length + 1,
})
const names = fc.dictionary(fc.constantFrom('a', 'b', 'c'), fc.nat(100))
const counts: fc.Arbitrary<HourCounts> = fc.record({
  requests: fc.nat(100),
  hits: fc.record({ memory: fc.nat(100), kv: fc.nat(100), stale: fc.nat(100) }),
  collapsed: fc.nat(100),
  misses: fc.nat(100),
  kv_failures: fc.nat(100),
  tokens_in: fc.nat(100),
  tokens_out: fc.nat(100),
  tokens_saved: fc.nat(100),
  errors: names,
  prompts: names,
  models: names,
  upstream_ms: histogram,
})

describe('addCounts()', () => {
  test('adds up the same in any order, and nothing changes nothing', () => {
    fc.assert(
      fc.property(counts, counts, counts, (a, b, c) => {
        expect(addCounts(addCounts(a, b), c)).toEqual(addCounts(a, addCounts(b, c)))
        expect(addCounts(a, b)).toEqual(addCounts(b, a))
        expect(addCounts(a, noCounts())).toEqual(a)
        expect(addCounts(a, b).requests).toBe(a.requests + b.requests)
      }),
      { seed: 1 },
    )
  })
})

describe('percentile()', () => {
  test('is the bound of the bucket in which that share of all is reached', () => {
    const slow = fc.array(fc.nat(200_000), { minLength: 1, maxLength: 200 })
    const share = fc.constantFrom(0.5, 0.95, 1)
    fc.assert(
      fc.property(slow, share, (times, part) => {
        const buckets = latencyBoundsMs.map(() => 0).concat(0)
        for (const ms of times) {
          const found = latencyBoundsMs.findIndex((bound) => ms <= bound)
          const slot = found === -1 ? latencyBoundsMs.length : found
          buckets[slot] = (buckets[slot] ?? 0) + 1
        }
        const sorted = times.toSorted((a, b) => a - b)
        const exact = sorted[Math.ceil(sorted.length * part) - 1] ?? 0
        const last = latencyBoundsMs.at(-1) ?? 0
        const answer = percentile(buckets, part)
        if (exact > last) {
          expect(answer).toBe(last)
        } else {
          // Never too good, and at worst a quarter too bad.
          expect(answer).toBeGreaterThanOrEqual(exact)
          expect(answer).toBeLessThanOrEqual(Math.max(20, exact * 1.25 + 1))
        }
      }),
      { seed: 2 },
    )
  })

  test('grows with the share, and is 0 of nothing', () => {
    expect(percentile(noCounts().upstream_ms, 0.95)).toBe(0)
    fc.assert(
      fc.property(histogram, (all) => {
        expect(percentile(all, 0.5)).toBeLessThanOrEqual(percentile(all, 0.95))
      }),
    )
  })
})

test('hourFigures() has the contract’s names, and no histogram', () => {
  const hour = hourOf(START)
  expect(hourFigures(hour, { ...noCounts(), requests: 10 })).toEqual({
    hour,
    requests: 10,
    hits: { memory: 0, kv: 0, stale: 0 },
    collapsed: 0,
    misses: 0,
    kv_failures: 0,
    errors: {},
    tokens_in: 0,
    tokens_out: 0,
    tokens_saved: 0,
    upstream_ms: { p50: 0, p95: 0 },
    prompts: {},
    models: {},
  })
  expect(hour % 3600).toBe(0)
})

describe('UsageCounter', () => {
  test('counts each request as one thing, and what it brought', async () => {
    const { counter } = counterAt()
    for (const cache of ['memory', 'kv', 'stale', 'collapsed', 'flight', 'miss', 'bypass'] as const)
      counter.request(request({ cache }), { promptId: 'haiku', saved: 10 })
    // A prompt's last answer, from before it was changed, is a stale hit.
    counter.request(request({ cache: 'previous' }), { promptId: 'haiku', saved: 10 })
    counter.request(request({ cache: null, code: 'invalid_json', model: null }), noTally)
    counter.request(request({ code: 'rate_limited' }), noTally)
    counter.observe(generated(0, 3, 9))
    counter.observe({ event: 'cache_failed', operation: 'get', reason: 'timeout' })
    counter.observe({ event: 'budget_mark', percent: 50 })
    const [[hour, figures] = []] = await taken(counter)
    expect(hour).toBe(START / 1000)
    expect(figures).toMatchObject({
      requests: 10,
      hits: { memory: 1, kv: 1, stale: 2 },
      collapsed: 2,
      misses: 3,
      kv_failures: 1,
      tokens_in: 3,
      tokens_out: 9,
      tokens_saved: 80,
      errors: { invalid_json: 1, rate_limited: 1 },
      prompts: { haiku: 8 },
      models: { default: 9 },
    })
    expect(figures?.upstream_ms[0]).toBe(1)
  })

  test('keeps hours apart', async () => {
    const { clock, counter } = counterAt()
    counter.request(request(), noTally)
    clock.ms += HOUR_MS
    counter.request(request(), noTally)
    counter.request(request(), noTally)
    const hours = await taken(counter)
    expect([...hours].map(([hour, { requests }]) => [hour, requests])).toEqual([
      [START / 1000, 1],
      [START / 1000 + 3600, 2],
    ])
  })

  test('is due a minute after the last flush, and never with nothing to send', async () => {
    const { clock, counter } = counterAt()
    expect(counter.dueInMs).toBeNull()
    counter.request(request(), noTally)
    expect(counter.dueInMs).toBe(0)
    await taken(counter)
    expect(counter.dueInMs).toBeNull()
    clock.ms += 10_000
    counter.request(request(), noTally)
    expect(counter.dueInMs).toBe(50_000)
    clock.ms += 60_000
    expect(counter.dueInMs).toBe(0)
  })

  test('keeps what could not be sent, adds to it, and tries a minute later', async () => {
    const { counter } = counterAt()
    counter.request(request(), noTally)
    await counter.flush(async () => {
      counter.request(request({ code: 'internal' }), noTally)
      throw new Error('over quota')
    })
    expect(counter.dueInMs).toBe(60_000)
    const [[, figures] = []] = await taken(counter)
    expect(figures).toMatchObject({ requests: 2, errors: { internal: 1 } })
    expect((await taken(counter)).size).toBe(0)
  })

  test('keeps no more than a day for a store that is down for long', async () => {
    const { clock, counter } = counterAt()
    for (let i = 0; i < 100; i++) {
      counter.request(request(), noTally)
      clock.ms += HOUR_MS
      await counter.flush(async () => {
        throw new Error('down')
      })
    }
    const hours = await taken(counter)
    expect(hours.size).toBe(24)
    expect(Math.max(...hours.keys())).toBe(START / 1000 + 99 * 3600)
  })
})
