// Counting: what is counted as what, that sums add up in any order, and percentiles that can be
// believed; and that a flush that fails loses nothing and waits for nobody.
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Event, RequestEvent } from '../src/events.ts'
import {
  addCounts,
  addFailures,
  type CallCharge,
  type CounterDeps,
  dayFigures,
  type Failure,
  type HourCounts,
  hourFigures,
  hourOf,
  latencyBoundsMs,
  noCounts,
  percentile,
  refusedFigures,
  UsageCounter,
  type UsageReport,
} from '../src/usage.ts'

const HOUR_MS = 3_600_000
const START = 1_779_998_400_000

function counterAt(startMs = START) {
  const clock = { ms: startMs }
  const usdOf: CounterDeps['usdOf'] = (model, { total_tokens }) =>
    model === 'default' ? total_tokens * 0.25 : 0
  return { clock, counter: new UsageCounter({ intervalMs: 60_000, usdOf, now: () => clock.ms }) }
}

const noTally = { promptId: null, saved: null }
const usage = { prompt_tokens: 4, completion_tokens: 6, total_tokens: 10 }

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

function generated(more: Partial<Extract<Event, { event: 'generated' }>> = {}): Event {
  return {
    event: 'generated',
    request_id: 'req_1',
    upstream: 'u',
    model: 'default',
    upstream_model: 'm',
    upstream_id: null,
    prompt_id: null,
    origin: null,
    first_ms: 0,
    ms: 900,
    tokens_in: 5,
    tokens_out: 7,
    stored: true,
    ...more,
  }
}

function charge(more: Partial<CallCharge> = {}): CallCharge {
  const names = { model: 'default', prompt_id: null, origin: null }
  return { ...names, tokens_in: 5, tokens_out: 7, usd: 6, ...more }
}

function failed(more: Partial<Extract<Event, { event: 'upstream_failed' }>> = {}): Event {
  return {
    event: 'upstream_failed',
    request_id: 'req_1',
    upstream: 'u',
    model: 'default',
    code: 'upstream_unavailable',
    status: 500,
    reason: null,
    hint: 'a hint',
    will: 'retry',
    ...more,
  }
}

async function sent(counter: UsageCounter): Promise<UsageReport> {
  let sent: UsageReport = { hours: new Map(), failures: [], refused: new Map() }
  await counter.flush(async (report) => {
    sent = report
  })
  return sent
}

const taken = async (counter: UsageCounter) => (await sent(counter)).hours

const histogram = fc.array(fc.nat(50), {
  minLength: latencyBoundsMs.length + 1,
  maxLength: latencyBoundsMs.length + 1,
})
const names = fc.dictionary(fc.constantFrom('a', 'b', '__proto__', 'constructor'), fc.nat(100))
const counts: fc.Arbitrary<HourCounts> = fc.record({
  requests: fc.nat(100),
  hits: fc.record({ memory: fc.nat(100), kv: fc.nat(100), stale: fc.nat(100) }),
  collapsed: fc.nat(100),
  misses: fc.nat(100),
  failed_misses: fc.nat(100),
  kv_failures: fc.nat(100),
  tokens_in: fc.nat(100),
  tokens_out: fc.nat(100),
  tokens_saved: fc.nat(100),
  usd: fc.nat(100),
  usd_saved: fc.nat(100),
  errors: names,
  prompts: names,
  models: names,
  origins: names,
  usd_by: fc.record({ prompts: names, models: names, origins: names }),
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

test('addCounts() adds money by name to counts of an older version, which have none', () => {
  const old: Partial<HourCounts> = { requests: 4, usd: 0.5, models: { m: 4 } }
  const usd_by = { prompts: { haiku: 1 }, models: { m: 1 }, origins: { 'https://a.example': 1 } }
  const stored = addCounts(noCounts(), old as HourCounts)
  expect(addCounts(stored, { ...noCounts(), usd: 1, usd_by })).toMatchObject({
    requests: 4,
    usd: 1.5,
    models: { m: 4 },
    usd_by,
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

  test('is 0 of nothing', () => {
    expect(percentile(noCounts().upstream_ms, 0.95)).toBe(0)
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
    usd: 0,
    usd_saved: 0,
    upstream_ms: { p50: 0, p95: 0 },
    prompts: {},
    models: {},
    origins: {},
  })
  expect(hour % 3600).toBe(0)
})

test('hourFigures() and dayFigures() show money without the noise of binary fractions', () => {
  const usd = 0.1 + 0.2
  const usd_by = { prompts: { haiku: usd }, models: { default: usd }, origins: {} }
  expect(hourFigures(0, { ...noCounts(), usd, usd_saved: usd, usd_by })).toMatchObject({
    usd: 0.3,
    usd_saved: 0.3,
    usd_by: { prompts: { haiku: 0.3 }, models: { default: 0.3 }, origins: {} },
  })
  const sums = { tokens: 1200, requests: 10, hits: 6 }
  expect(dayFigures({ day: 20_785, usd, ...sums })).toEqual({
    day: '2026-11-28',
    usd: 0.3,
    ...sums,
  })
})

test('addCounts() keeps the origins with the most requests, and the rest as one', () => {
  const many = Object.fromEntries(Array.from({ length: 80 }, (_, i) => [`https://${i}.example`, 1]))
  const busy = { 'https://busy.example': 3 }
  const sum = addCounts(
    addCounts({ ...noCounts(), origins: many }, { ...noCounts(), origins: busy }),
    { ...noCounts(), origins: { ...busy, 'https://late.example': 2 } },
  )
  expect(Object.keys(sum.origins)).toHaveLength(51)
  expect(sum.origins).toMatchObject({ 'https://busy.example': 6, other: 32 })
  const all = Object.values(sum.origins).reduce((a, b) => a + b)
  expect(all).toBe(80 + 3 + 3 + 2)
})

test('addCounts() keeps the origins that cost most, and the rest as one', () => {
  const cost = (origins: Record<string, number>): HourCounts => ({
    ...noCounts(),
    usd_by: { prompts: {}, models: {}, origins },
  })
  const many = Object.fromEntries(Array.from({ length: 80 }, (_, i) => [`https://${i}.example`, 1]))
  const { origins } = addCounts(cost(many), cost({ 'https://dear.example': 3 })).usd_by
  expect(Object.keys(origins)).toHaveLength(51)
  expect(origins).toMatchObject({ 'https://dear.example': 3, other: 31 })
})

describe('UsageCounter', () => {
  test('counts each request as one thing, and what it brought', async () => {
    const { counter } = counterAt()
    for (const cache of ['memory', 'kv', 'stale', 'collapsed', 'flight', 'miss', 'bypass'] as const)
      counter.request(request({ cache }), { promptId: 'haiku', saved: usage })
    // A prompt's last answer, from before it was changed, is a stale hit.
    counter.request(request({ cache: 'previous' }), { promptId: 'haiku', saved: usage })
    counter.request(request({ cache: null, code: 'invalid_json', model: null }), noTally)
    counter.request(request({ code: 'rate_limited' }), noTally)
    // The owner's pause is no error.
    counter.request(request({ cache: null, code: 'paused', model: null }), noTally)
    counter.observe(generated())
    counter.charge(charge({ tokens_in: 3, tokens_out: 9 }))
    counter.observe({ event: 'cache_failed', operation: 'get', reason: 'timeout' })
    counter.observe({ event: 'budget_mark', percent: 50 })
    const [[hour, figures] = []] = await taken(counter)
    expect(hour).toBe(START / 1000)
    expect(figures).toMatchObject({
      requests: 11,
      hits: { memory: 1, kv: 1, stale: 2 },
      collapsed: 2,
      misses: 3,
      kv_failures: 1,
      tokens_in: 3,
      tokens_out: 9,
      tokens_saved: 80,
      usd: 6,
      usd_saved: 20,
      errors: { invalid_json: 1, rate_limited: 1 },
      prompts: { haiku: 8 },
      models: { default: 9 },
    })
    expect(figures?.upstream_ms[0]).toBe(1)
  })

  test('counts misses that ended in an error, also those of a pause', async () => {
    const { counter } = counterAt()
    const codes = ['paused', 'budget_exhausted', 'upstream_timeout', 'not_cached'] as const
    for (const code of codes) counter.request(request({ code }), noTally)
    counter.request(request({ cache: 'bypass', code: 'rate_limited' }), noTally)
    for (const cache of ['miss', 'bypass'] as const) counter.request(request({ cache }), noTally)
    counter.request(request({ cache: null, code: 'invalid_json' }), noTally)
    const [[hour = 0, figures = noCounts()] = []] = await taken(counter)
    expect(hourFigures(hour, figures)).toMatchObject({ misses: 7, failed_misses: 5 })
  })

  test('counts an answer in the first bucket whose bound its time does not exceed', async () => {
    const { counter } = counterAt()
    const [first = 0, last = 0] = [latencyBoundsMs[0], latencyBoundsMs.at(-1)]
    for (const first_ms of [0, first, first + 1, last, last + 1]) {
      counter.observe(generated({ first_ms }))
    }
    const [[, figures] = []] = await taken(counter)
    const { length } = latencyBoundsMs
    const counted = { 0: 2, 1: 1, [length - 1]: 1, [length]: 1 }
    expect(Object.entries(figures?.upstream_ms ?? []).filter(([, n]) => n > 0)).toEqual(
      Object.entries(counted),
    )
  })

  test('counts the pages of requests that were not refused', async () => {
    const { counter } = counterAt()
    const [a, b] = ['https://a.example', 'https://b.example']
    for (const origin of [a, a, b, null]) counter.request(request({ origin }), noTally)
    counter.request(request({ origin: a, code: 'origin_not_allowed' }), noTally)
    const [[, figures] = []] = await taken(counter)
    expect(figures?.origins).toEqual({ [a]: 2, [b]: 1 })
  })

  test('counts any number of pages in bounded space', async () => {
    const { counter } = counterAt()
    for (let i = 0; i < 1000; i++) {
      const origin = `https://${i}.example`
      counter.request(request({ origin }), noTally)
      counter.charge(charge({ origin, usd: 1 }))
    }
    const [[, figures] = []] = await taken(counter)
    for (const names of [figures?.origins, figures?.usd_by.origins]) {
      const origins = Object.values(names ?? {})
      expect(origins.length).toBeLessThanOrEqual(101)
      expect(origins.reduce((a, b) => a + b)).toBe(1000)
    }
  })

  test('adds up what calls were charged by prompt, model and page', async () => {
    const { counter } = counterAt()
    const [a, b] = ['https://a.example', 'https://b.example']
    counter.charge(charge({ prompt_id: 'haiku', origin: a }))
    counter.charge(charge({ prompt_id: 'haiku', origin: b }))
    counter.charge(charge({ origin: b, usd: 5 }))
    counter.charge(charge({ prompt_id: 'haiku', origin: a, model: 'without a price', usd: 0 }))
    counter.charge(charge({ prompt_id: 'note', model: 'without a price', usd: 0 }))
    const [[, figures] = []] = await taken(counter)
    expect(figures).toMatchObject({ tokens_in: 25, tokens_out: 35 })
    expect(figures?.usd).toBe(17)
    expect(figures?.usd_by).toEqual({
      prompts: { haiku: 12 },
      models: { default: 17 },
      origins: { [a]: 6, [b]: 11 },
    })
  })

  test('counts names of Object.prototype like any others, also after a flush that failed', async () => {
    const { counter } = counterAt()
    const names = ['__proto__', 'constructor', 'toString', 'hasOwnProperty', 'valueOf', 'normal']
    const countAll = () => {
      for (const name of names) {
        const promptId = name
        counter.request(request({ model: name, origin: name }), { promptId, saved: null })
        counter.charge(charge({ model: name, prompt_id: name, origin: name, usd: 0.5 }))
      }
    }
    countAll()
    countAll()
    await counter.flush(async () => {
      throw new Error('down')
    })
    countAll()
    const [[hour = 0, counts = noCounts()] = []] = await taken(counter)
    // As it is stored and read.
    const stored = addCounts(noCounts(), JSON.parse(JSON.stringify(structuredClone(counts))))
    const figures = hourFigures(hour, addCounts(stored, counts))
    const each = (n: number) => names.map((name) => [name, n] as const).toSorted()
    const entries = (numbers: object | undefined) => Object.entries(numbers ?? {}).toSorted()
    for (const field of ['prompts', 'models', 'origins'] as const) {
      expect(entries(figures[field])).toEqual(each(6))
      expect(entries(figures.usd_by?.[field])).toEqual(each(3))
    }
    expect(figures.usd).toBe(18)
  })

  test('remembers the last failed attempts, those about one request apart', async () => {
    const { clock, counter } = counterAt()
    counter.observe(failed({ code: 'upstream_refused_request', status: 400 }))
    expect(counter.dueInMs).toBeNull()
    for (let i = 0; i < 60; i++) {
      counter.observe(failed({ request_id: `req_${i}` }))
      clock.ms += 1000
    }
    const { failures } = await sent(counter)
    expect(failures).toHaveLength(50)
    expect(failures[0]).toEqual({
      at: START / 1000 + 10,
      request_id: 'req_10',
      upstream: 'u',
      model: 'default',
      code: 'upstream_unavailable',
      hint: 'a hint',
    })
    expect(failures.at(-1)?.request_id).toBe('req_59')
    expect((await sent(counter)).failures).toEqual([])
  })

  test('remembers refused origins by the day, however many are made up', async () => {
    const { clock, counter } = counterAt()
    const refuse = (origin: string | null) =>
      counter.observe(request({ origin, code: 'origin_not_allowed', route: 'models' }))
    for (let i = 0; i < 7; i++) refuse('https://real.example')
    for (let i = 0; i < 5000; i++) refuse(`https://made-up-${i}.example`)
    refuse(null)
    counter.observe(request({ origin: 'https://fine.example' }))
    clock.ms += 24 * HOUR_MS
    refuse('https://tomorrow.example')
    const { refused } = await sent(counter)
    const [today, tomorrow] = [...refused.values()]
    expect(today?.size).toBe(200)
    expect(refusedFigures(today ?? new Map())).toHaveLength(20)
    expect(refusedFigures(today ?? new Map())[0]).toEqual({
      origin: 'https://real.example',
      count: 7,
      last: START / 1000,
    })
    expect([...(tomorrow?.keys() ?? [])]).toEqual(['https://tomorrow.example'])
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
    const observe = (request_id: string, code: RequestEvent['code']) => {
      counter.request(request({ code }), noTally)
      counter.observe(failed({ request_id }))
      counter.observe(request({ origin: 'https://a.example', code: 'origin_not_allowed' }))
    }
    observe('req_1', null)
    await counter.flush(async () => {
      observe('req_2', 'internal')
      throw new Error('over quota')
    })
    expect(counter.dueInMs).toBe(60_000)
    const { hours, failures, refused } = await sent(counter)
    expect([...hours.values()]).toMatchObject([{ requests: 2, errors: { internal: 1 } }])
    expect(failures.map(({ request_id }) => request_id)).toEqual(['req_1', 'req_2'])
    expect([...refused.values()].map((origins) => [...origins])).toEqual([
      [['https://a.example', { count: 2, last: START / 1000 }]],
    ])
    expect(counter.dueInMs).toBeNull()
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

test('addFailures() keeps the newest of both, in order', () => {
  const at = (seconds: number): Failure => ({
    at: seconds,
    request_id: `req_${seconds}`,
    upstream: 'u',
    model: 'm',
    code: 'upstream_timeout',
    hint: null,
  })
  const times = (failures: readonly Failure[]) => failures.map(({ at }) => at)
  expect(times(addFailures([at(1), at(5)], [at(3)]))).toEqual([1, 3, 5])
  const many = Array.from({ length: 50 }, (_, i) => at(100 + i))
  expect(times(addFailures([at(1), at(500)], many))).toEqual([...times(many).slice(1), 500])
})
