// The ledger object in workerd: what it writes, and that no eviction, restart or failing storage makes
// it forget what was spent.
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

/** Each test has a day of its own. */
let days = 0
async function newDay(): Promise<void> {
  days += 1
  await workers.rig.set({ clockMs: days * DAY_MS })
}

describe('the ledger object', () => {
  test('writes one row to reserve and one to settle; the third is its deletion', async () => {
    await newDay()
    await figures()
    const before = await workers.rig.counts()
    const calls = Array.from({ length: 20 }, () => call(100))
    for (const one of calls) expect(await reserve(one)).toMatchObject({ granted: true })
    const reserved = await workers.rig.counts()
    expect(reserved.written - before.written).toBe(20)
    for (const { id } of calls) await settle(id, 10)
    const settled = await workers.rig.counts()
    expect(settled.written - reserved.written).toBe(20)
    for (const { id } of calls) await settle(id, 90)
    expect((await workers.rig.counts()).written).toBe(settled.written)
    expect(await figures()).toMatchObject({ spent: 200, reserved: 0 })
    // Two days later they are gone, for one row each.
    days += 2
    await workers.rig.set({ clockMs: days * DAY_MS })
    await figures()
    const cleaned = await workers.rig.counts()
    expect(cleaned.written - settled.written).toBeLessThanOrEqual(21)
    expect((await workers.rig.rows()).calls).toEqual([])
  })

  test('keeps everything when it is evicted, and when the machine is', async () => {
    await newDay()
    const [open, done, running] = [call(1000), call(1000, { usd: 2 }), call(1000, { leaseMs: 1 })]
    for (const one of [open, done, running]) await reserve(one)
    await settle(done.id, 400, 1.5)
    const until = Math.floor(Date.now() / 1000) + days * 86_400 + 3600
    await workers.rig.admin('/admin/pause', { until })
    const before = await figures()
    expect(before).toEqual({
      tokens_per_day: 100_000,
      spent: 1400,
      reserved: 1000,
      usd_per_day: 10,
      usd_spent: 1.5,
      paused_until: until,
    })
    await workers.rig.evict()
    expect(await figures()).toEqual(before)
    await workers.dispose()
    workers = await startRigged({ config, persistIn: folder })
    await workers.rig.set({ clockMs: days * DAY_MS })
    expect(await figures()).toEqual(before)
    await settle(open.id, 300)
    expect(await figures()).toMatchObject({ spent: 1700, reserved: 0 })
    await workers.rig.admin('/admin/pause', { until: null })
    expect(await figures()).toMatchObject({ paused_until: null })
  })

  test('finds a lease that ran out while it was away: it is spent, and blocks nobody (C3)', async () => {
    await newDay()
    await reserve(call(60_000, { leaseMs: 60_000 }))
    await workers.rig.evict()
    expect(await reserve(call(60_000))).toMatchObject({ granted: false, policy: 'day' })
    await workers.rig.set({ clockMs: days * DAY_MS + 61_000 })
    expect(await figures()).toMatchObject({ spent: 60_000, reserved: 0 })
    // Not even a clock that goes back brings the lease to life again.
    await workers.rig.set({ clockMs: days * DAY_MS })
    await workers.rig.evict()
    expect(await figures()).toMatchObject({ spent: 60_000, reserved: 0 })
  })

  test('reads few rows however many calls there were, and still knows them all', async () => {
    await newDay()
    for (let i = 0; i < 250; i++) {
      const one = call(100, { visitor: `h:${i % 5}` })
      await reserve(one)
      await settle(one.id, 10)
    }
    const open = call(500)
    await reserve(open)
    const before = await workers.rig.counts()
    await workers.rig.evict()
    expect(await figures()).toMatchObject({ spent: 2500, reserved: 500 })
    const addedUp = await workers.rig.counts()
    // As many rows as two days later, and the day's sum.
    expect(addedUp.written - before.written).toBeLessThan(260)
    expect((await workers.rig.rows()).calls).toHaveLength(1)
    await workers.rig.evict()
    expect(await figures()).toMatchObject({ spent: 2500, reserved: 500 })
    expect((await workers.rig.counts()).read - addedUp.read).toBeLessThan(20)
    // A visitor's own share is in the sum, too.
    await settle(open.id, 500)
    expect(await reserve(call(89_501, { visitor: 'h:1' }))).toMatchObject({ policy: 'visitor' })
    expect(await reserve(call(89_500, { visitor: 'h:1' }))).toMatchObject({ granted: true })
  })

  test('grants nothing that it cannot store, and remembers no such grant (C11)', async () => {
    await newDay()
    const before = await figures()
    await workers.rig.call('ledger', 'breakTable', 'calls')
    await expect(reserve(call(1000))).rejects.toThrow()
    await workers.rig.call('ledger', 'repairTable', 'calls')
    expect(await figures()).toEqual(before)
    expect(await reserve(call(1000))).toMatchObject({ granted: true })
  })

  test('keeps a lease whose settling it could not store: it runs out as spent', async () => {
    await newDay()
    const one = call(1000, { leaseMs: 60_000 })
    await reserve(one)
    await workers.rig.call('ledger', 'breakTable', 'calls')
    await expect(settle(one.id, 10)).rejects.toThrow()
    await workers.rig.call('ledger', 'repairTable', 'calls')
    expect(await figures()).toMatchObject({ spent: 0, reserved: 1000 })
    await workers.rig.set({ clockMs: days * DAY_MS + 61_000 })
    expect(await figures()).toMatchObject({ spent: 1000, reserved: 0 })
  })

  test('refuses an id that has spent already, and forgets nothing of it', async () => {
    await newDay()
    const one = call(1000)
    await reserve(one)
    await settle(one.id, 1000)
    await expect(reserve(one)).rejects.toThrow()
    expect(await figures()).toMatchObject({ spent: 1000, reserved: 0 })
    await workers.rig.evict()
    expect(await figures()).toMatchObject({ spent: 1000, reserved: 0 })
  })
})
