// The sums of hourly figures: in every range, each hour is counted exactly once.
import { expect, test } from 'vitest'
import { codes } from '../../src/errors.ts'
import { statusOf } from '../../src/http/problem.ts'
import {
  bars,
  byName,
  csv,
  isFailure,
  latency,
  ranges,
  stacked,
  totals,
} from '../../src/site/figures.js'
import { hourFigures, noCounts } from '../../src/usage.ts'

/** 2026-01-02T10:20:00Z, in s. */
const NOW = 1_767_349_200
const HOUR = NOW - (NOW % 3600)

function hour(ago: number, counts: Partial<ReturnType<typeof noCounts>> = {}) {
  return hourFigures(HOUR - ago * 3600, { ...noCounts(), ...counts })
}

const busy = {
  requests: 12,
  hits: { memory: 3, kv: 2, stale: 1 },
  collapsed: 1,
  misses: 3,
  tokens_in: 10,
  tokens_out: 20,
  tokens_saved: 70,
  usd: 0.25,
  usd_saved: 1.5,
  errors: { invalid_value: 2, rate_limited: 1, no_passages: 3 },
}

test('totals() adds up all hours', () => {
  expect(totals([hour(1, busy), hour(0, busy)])).toEqual({
    requests: 24,
    hits: 12,
    collapsed: 2,
    generated: 6,
    ratio: 0.7,
    tokensSaved: 140,
    tokensSpent: 60,
    usd: 0.5,
    usdSaved: 3,
    unanswered: 6,
    failed: 0,
    refused: 12,
  })
  expect(totals([]).ratio).toBeNull()
  const errors = { not_cached: 2 }
  const notCached = hour(0, { requests: 4, misses: 3, failed_misses: 2, errors })
  expect(totals([notCached])).toMatchObject({ ratio: 0, generated: 1 })
  // One of two answers: what was refused is no answer.
  const half = hour(0, {
    hits: { memory: 1, kv: 0, stale: 0 },
    misses: 3,
    failed_misses: 2,
    errors,
  })
  expect(totals([half]).ratio).toBe(0.5)
  expect(bars([notCached], 1, 3600, HOUR)).toMatchObject({ upstream: [1], unanswered: [3] })
  expect(totals([hour(0, { requests: 1 })]).ratio).toBeNull()
})

test('requests during a pause are refused, not generated', () => {
  const hits = { memory: 1, kv: 0, stale: 0 }
  const paused = hour(0, { requests: 1002, hits, misses: 1001, failed_misses: 1000 })
  expect(totals([paused])).toMatchObject({ ratio: 0.5, generated: 1 })
  expect(bars([paused], 1, 3600, HOUR)).toMatchObject({ upstream: [1], unanswered: [1000] })
  expect(csv([paused]).split('\n')[1]).toContain('Z,1002,1,0,1,')
})

test('byName() sorts by count without money, and handles names such as __proto__', () => {
  const names = JSON.parse('{"b":2,"__proto__":9,"constructor":1,"a":2}') as Record<string, number>
  expect(byName([hour(1, { prompts: names }), hour(0, { prompts: { a: 1 } })], 'prompts')).toEqual([
    ['__proto__', 9, 0],
    ['a', 3, 0],
    ['b', 2, 0],
    ['constructor', 1, 0],
  ])
})

/** Money of the model "dear", which one prompt and two pages have used. */
const usd_by = {
  prompts: { haiku: 0.5 },
  models: { dear: 0.75 },
  origins: { 'https://a.example': 0.5, 'https://b.example': 0.25 },
}

test('byName() sorts by money first, then by count', () => {
  const models = { free: 9, cheap: 7, dear: 1 }
  const hours = [hour(2, { models }), hour(1, { models, usd_by }), hour(0, { usd_by })]
  expect(byName(hours, 'models')).toEqual([
    ['dear', 2, 1.5],
    ['free', 18, 0],
    ['cheap', 14, 0],
  ])
  expect(byName(hours, 'origins').map(([name, , usd]) => [name, usd])).toEqual([
    ['https://a.example', 1],
    ['https://b.example', 0.5],
  ])
})

test.each(Object.entries(ranges))('bars() of %s hours include every hour', (range, step) => {
  const count = Number(range)
  const hours = Array.from({ length: count }, (_, i) => hour(i, busy))
  const all = bars(hours, count, step, NOW)
  const sum = (list: number[]) => list.reduce((a, b) => a + b, 0)
  expect(sum(all.cached)).toBe(6 * count)
  expect(sum(all.shared)).toBe(count)
  expect(sum(all.upstream)).toBe(3 * count)
  expect(sum(all.unanswered)).toBe(2 * count)
  expect(sum(all.spent)).toBe(30 * count)
  expect(sum(all.saved)).toBe(70 * count)
  expect(all.times.every((time) => time % step === 0)).toBe(true)
  expect(all.times.at(-1)).toBeLessThanOrEqual(NOW)
  expect((all.times.at(-1) ?? 0) + step).toBeGreaterThan(NOW)
  expect(all.times[0]).toBeLessThanOrEqual(HOUR - (count - 1) * 3600)
})

test('bars() include hours without requests and leave out hours outside the range', () => {
  const all = bars([hour(500, busy), hour(-30, busy)], 24, 3600, NOW)
  expect(all.times).toHaveLength(24)
  expect(all.cached.every((n) => n === 0)).toBe(true)
})

test('latency() is null for hours without an upstream call', () => {
  const upstream_ms = noCounts().upstream_ms.map((_, i) => (i === 0 ? 1 : 0))
  const { times, p50, p95 } = latency([hour(1, { upstream_ms }), hour(0)], 3, NOW)
  expect(times).toEqual([HOUR - 7200, HOUR - 3600, HOUR])
  expect(p50).toEqual([null, 20, null])
  expect(p95).toEqual([null, 20, null])
})

test('stacked() adds each list to those before it', () => {
  expect(
    stacked([
      [1, 2],
      [3, 0],
      [1, 1],
    ]),
  ).toEqual([
    [1, 2],
    [4, 2],
    [5, 3],
  ])
  expect(stacked([])).toEqual([])
})

test('isFailure() is true of server errors and of an upstream that limits the owner', () => {
  const failures = codes.filter((code) => statusOf(code) >= 500 || code === 'upstream_rate_limited')
  expect(codes.filter(isFailure)).toEqual(failures)
})

test('csv() has a line for each hour, with failures apart from refused requests', () => {
  const errors = { invalid_value: 2, upstream_timeout: 1 }
  expect(csv([hour(0, { ...busy, errors })]).split('\n')).toEqual([
    expect.stringMatching(/^hour,requests,cached,shared,generated,/),
    '2026-01-02T10:00:00.000Z,12,6,1,3,10,20,70,0.25,1.5,1,2',
    '',
  ])
})

test('csv() has the money of each prompt, model and origin that cost any', () => {
  const models = { 'a "dear", model': 0.25, constructor: 0.5, free: 0 }
  const hours = [hour(1), hour(0, { usd_by: { ...usd_by, models } })]
  const [head = '', ...rows] = csv(hours).trim().split('\n')
  const names = [
    '"usd_by.prompts.haiku"',
    '"usd_by.models.constructor"',
    '"usd_by.models.a ""dear"", model"',
    '"usd_by.origins.https://a.example"',
    '"usd_by.origins.https://b.example"',
  ]
  expect(head.endsWith(`,failures,refused,${names.join(',')}`)).toBe(true)
  expect(rows.map((row) => row.split(',').slice(-5).join())).toEqual([
    '0,0,0,0,0',
    '0.5,0.5,0.25,0.5,0.25',
  ])
})
