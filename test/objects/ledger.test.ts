// The ledger object in workerd: what it writes, and that no eviction, restart or storage failure
// loses what was spent.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { ORIGIN } from '../support/client.ts'
import { type RiggedWorkers, startRigged } from '../support/rig.ts'
import type { JsonValue } from '../support/workerd.ts'

const DAY_MS = 86_400_000

const config = {
  origins: [ORIGIN],
  models: [{ id: 'm', upstream: 'demo', upstream_model: 'demo', price: { input: 1, output: 1 } }],
  upstreams: [{ name: 'demo', preset: 'demo' }],
  budget: {
    tokens_per_day: 100_000,
    usd_per_day: 10,
    tokens_per_visitor_per_day: 90_000,
    streams_per_visitor: 1000,
  },
}

let workers: RiggedWorkers
let folder: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ledger-'))
  workers = await startRigged({ config, persistIn: folder })
})

afterEach(() => {
  expect(workers.log.takeRuntimeLines().filter((line) => !line.includes('evicted'))).toEqual([])
})

afterAll(async () => {
  await workers.dispose()
  await rm(folder, { recursive: true })
})

let ids = 0
function call(tokens: number, more: Readonly<Record<string, JsonValue>> = {}) {
  ids += 1
  const id = `call-${ids}`
  return { id, visitor: 'h:0', tokens, usd: 0, leaseMs: 600_000, stores: true, ...more }
}

const reserve = (request: JsonValue) => workers.rig.call('ledger', 'reserve', request)
const settle = (id: string, tokens: number, usd = 0) =>
  workers.rig.call('ledger', 'settle', id, { tokens, usd })
const figures = async () => (await workers.rig.figures()).budget

/** Each test runs on its own day. */
let days = 0
async function newDay(): Promise<void> {
  days += 1
  await workers.rig.set({ clockMs: days * DAY_MS })
}

const DAYS_BETWEEN = 3
const sql = (query: string, ...values: JsonValue[]) =>
  workers.rig.call('ledger', 'sql', query, ...values) as Promise<Record<string, number>[]>
const dayNow = () => Math.floor(Date.now() / DAY_MS) + days
const counts = async () => await workers.rig.counts()

describe('the ledger object', () => {
  test('writes one row to reserve and two to settle; removing them writes none', async () => {
    await newDay()
    await figures()
    const before = await counts()
    const calls = Array.from({ length: 20 }, (_, i) => call(100, { visitor: `h:${i}` }))
    for (const one of calls) expect(await reserve(one)).toMatchObject({ granted: true })
    const reserved = await counts()
    expect(reserved.written - before.written).toBe(20)
    for (const { id } of calls) await settle(id, 10)
    const settled = await counts()
    expect(settled.written - reserved.written).toBe(40)
    for (const { id } of calls) await settle(id, 90)
    expect((await counts()).written).toBe(settled.written)
    expect(await figures()).toMatchObject({ spent: 200, reserved: 0 })
    expect((await workers.rig.rows()).visitors).toHaveLength(20)
    // Two days later they are gone: the day's row is deleted and a table created for new visitors.
    days += 2
    await workers.rig.set({ clockMs: days * DAY_MS })
    await figures()
    expect((await counts()).written - settled.written).toBeLessThanOrEqual(3)
    const { visitors, days: kept } = await workers.rig.rows()
    expect([visitors, kept]).toEqual([[], []])
  })

  test('keeps what is spent and reserved across an eviction and a restart', async () => {
    await newDay()
    const [open, done] = [call(1000), call(1000, { usd: 2 })]
    for (const one of [open, done]) await reserve(one)
    await settle(done.id, 400, 1.5)
    const until = Math.floor(Date.now() / 1000) + days * 86_400 + 3600
    await workers.rig.admin('/admin/pause', { until })
    const before = await figures()
    expect(before).toEqual({
      tokens_per_day: 100_000,
      spent: 400,
      reserved: 1000,
      usd_per_day: 10,
      usd_spent: 1.5,
      paused_until: until,
    })
    // The lease is lost, so its whole reservation is spent.
    const after = { ...before, spent: 1400, reserved: 0 }
    await workers.rig.evict()
    expect(await figures()).toEqual(after)
    await workers.dispose()
    workers = await startRigged({ config, persistIn: folder })
    await workers.rig.set({ clockMs: days * DAY_MS })
    expect(await figures()).toEqual(after)
    await settle(open.id, 300)
    expect(await figures()).toEqual(after)
    await workers.rig.admin('/admin/pause', { until: null })
    expect(await figures()).toMatchObject({ paused_until: null })
  })

  test('expires a lease without a call', async () => {
    await newDay()
    await reserve(call(1000, { leaseMs: 1 }))
    await expect
      .poll(async () => (await workers.rig.rows()).visitors)
      .toContainEqual({ visitor: 'h:0', tokens: 1000 })
  })

  test('keeps the day when the clock goes back across midnight and it is evicted', async () => {
    await newDay()
    const one = call(1000)
    await reserve(one)
    await settle(one.id, 700)
    await workers.rig.set({ clockMs: (days + 1) * DAY_MS })
    expect(await figures()).toMatchObject({ spent: 0 })
    await workers.rig.evict()
    await workers.rig.set({ clockMs: days * DAY_MS })
    expect(await figures()).toMatchObject({ spent: 700 })
    // Once the next day has spending, it stays the current day.
    await workers.rig.set({ clockMs: (days + 1) * DAY_MS })
    await reserve(call(50))
    await workers.rig.evict()
    await workers.rig.set({ clockMs: days * DAY_MS })
    expect(await figures()).toMatchObject({ spent: 50 })
    days += 1
  })

  test('reads and writes as few rows with 300,000 visitors as without any', async () => {
    /** The rows for a start after an eviction, one call and the figures. */
    const wake = async () => {
      await workers.rig.evict()
      const before = await counts()
      const one = call(100, { visitor: 'h:new' })
      expect(await reserve(one)).toMatchObject({ granted: true })
      await settle(one.id, 10)
      await figures()
      const after = await counts()
      return { read: after.read - before.read, written: after.written - before.written }
    }
    await newDay()
    await wake()
    const alone = await wake()
    expect(alone.written).toBe(3)
    const size = async () => Number(await workers.rig.call('ledger', 'size'))
    const empty = await size()
    await sql(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000)
      INSERT INTO visitors_${dayNow()} SELECT 'h:' || lower(hex(randomblob(8))), 100 FROM n`)
    expect(await wake()).toEqual(alone)
    expect(await sql(`SELECT COUNT(*) AS n FROM visitors_${dayNow()}`)).toEqual([{ n: 300_001 }])
    // A visitor takes less than 64 bytes per day, and further calls take none.
    const full = await size()
    expect(full - empty).toBeLessThan(300_000 * 64)
    expect(await wake()).toEqual(alone)
    expect(await size()).toBe(full)
    // Two days later all of them are removed, without a write per row.
    days += DAYS_BETWEEN
    await workers.rig.set({ clockMs: days * DAY_MS })
    const before = await counts()
    await figures()
    const cleaned = await counts()
    expect(cleaned.read - before.read).toBeLessThan(30)
    expect(cleaned.written - before.written).toBeLessThanOrEqual(4)
    expect(await size()).toBeLessThanOrEqual(empty + 4096 * 2)
  })

  test('grants nothing that it cannot store, and keeps no such grant in memory', async () => {
    await newDay()
    const before = await figures()
    await workers.rig.call('ledger', 'breakTable', 'days')
    await expect(reserve(call(1000))).rejects.toThrow()
    await workers.rig.call('ledger', 'repairTable', 'days')
    expect(await figures()).toEqual(before)
    expect(await reserve(call(1000))).toMatchObject({ granted: true })
  })

  test('keeps a lease if storing its settlement fails: it expires as spent', async () => {
    await newDay()
    const one = call(1000, { leaseMs: 60_000 })
    await reserve(one)
    // Neither write is stored when one of them fails.
    const visitors = `visitors_${dayNow()}`
    await workers.rig.call('ledger', 'breakTable', visitors)
    await expect(settle(one.id, 10)).rejects.toThrow()
    await workers.rig.call('ledger', 'repairTable', visitors)
    expect(await figures()).toMatchObject({ spent: 0, reserved: 1000 })
    await workers.rig.set({ clockMs: days * DAY_MS + 61_000 })
    expect(await figures()).toMatchObject({ spent: 1000, reserved: 0 })
  })
})

describe('the rows of an earlier version', () => {
  /** The old tables, with a sum of 1,000 tokens and two calls, one of them running. */
  async function old(sum: string): Promise<void> {
    await newDay()
    await sql('DROP TABLE days')
    await sql(`CREATE TABLE calls (day INTEGER, id TEXT, visitor TEXT, tokens INTEGER, usd REAL,
      settled INTEGER, expires_at INTEGER, stores INTEGER, PRIMARY KEY (day, id)) WITHOUT ROWID`)
    const insert = 'INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?)'
    await sql(insert, dayNow(), 'a', 'h:1', 300, 0.5, 1, 0, 1)
    await sql(insert, dayNow(), 'b', 'h:2', 200, 0.25, 0, 0, 0)
    await sql(insert, dayNow() - 1, 'c', 'h:2', 5000, 1, 1, 0, 0)
    await sql('INSERT INTO settings VALUES (?, ?)', `sum ${dayNow()}`, sum)
    await workers.rig.evict()
  }

  test('are migrated once: what was spent or reserved is spent', async () => {
    const visitors = { 'h:0': 900, 'h:1': 100 }
    await old(JSON.stringify({ day: dayNow() + 1, tokens: 1000, usd: 1, kvWrites: 4, visitors }))
    expect(await figures()).toMatchObject({ spent: 1500, reserved: 0, usd_spent: 1.75 })
    expect(await sql(`SELECT * FROM visitors_${dayNow()}`)).toEqual([
      { visitor: 'h:0', tokens: 900 },
      { visitor: 'h:1', tokens: 400 },
      { visitor: 'h:2', tokens: 200 },
    ])
    const { days: rows, settings } = await workers.rig.rows()
    expect(rows.map(({ day, kv_writes }) => [day, kv_writes])).toContainEqual([dayNow(), 5])
    expect(settings.filter(({ name }) => name.startsWith('sum '))).toEqual([])
    expect(await workers.rig.call('ledger', 'tables')).not.toContain('calls')
    await workers.rig.evict()
    expect(await figures()).toMatchObject({ spent: 1500 })
  })

  test.each([
    '{"tokens":1',
    'null',
    '{"tokens":"many","visitors":{}}',
    '{"tokens":-900000,"usd":0,"kvWrites":0,"visitors":{}}',
    '{"tokens":0,"usd":0,"kvWrites":0,"visitors":{"h:0":-900000}}',
  ])('count as the whole budget if the sum cannot be read: %s', async (sum) => {
    await old(sum)
    expect(await figures()).toMatchObject({ spent: 100_500 })
    expect(await reserve(call(1))).toMatchObject({ policy: 'day' })
  })
})
