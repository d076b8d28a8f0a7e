// The usage object in workerd: one row per hour, kept for ninety days, and two short lists.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ORIGIN } from '../support/client.ts'
import { type RiggedWorkers, startRigged } from '../support/rig.ts'

const DAY_MS = 86_400_000

const config = {
  origins: [ORIGIN],
  models: [
    { id: 'm', upstream: 'demo', upstream_model: 'demo' },
    { id: 'gone', upstream: 'gone', upstream_model: 'gone' },
  ],
  upstreams: [
    { name: 'demo', preset: 'demo' },
    { name: 'gone', base_url: 'http://127.0.0.1:1/v1', retries: 0 },
  ],
}

let folder: string
let workers: RiggedWorkers

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'usage-'))
  workers = await startRigged({ config, persistIn: folder })
})

afterAll(async () => {
  await workers.dispose()
  await rm(folder, { recursive: true })
})

const hourAgo = (hours: number) => (Math.floor(Date.now() / 3_600_000) - hours) * 3600
const counts = (requests: number) => JSON.stringify({ requests })

async function hoursOf(query: string): Promise<number[]> {
  const reply = await workers.rig.admin(`/admin/usage${query}`)
  return JSON.parse(reply.text).hours.map(({ hour }: { hour: number }) => hour)
}

test('returns as many hours as requested, oldest first', async () => {
  expect(await hoursOf('')).toEqual([])
  for (const ago of [3, 0, 30, 2000]) {
    await workers.rig.call('usage', 'put', hourAgo(ago), counts(ago))
  }
  expect(await hoursOf('')).toEqual([hourAgo(3), hourAgo(0)])
  expect(await hoursOf('?hours=1')).toEqual([hourAgo(0)])
  expect(await hoursOf('?hours=31')).toEqual([hourAgo(30), hourAgo(3), hourAgo(0)])
  expect(await hoursOf('?hours=2160')).toHaveLength(4)
})

test('fills fields missing in hours of an older version with zeros', async () => {
  await workers.rig.call(
    'usage',
    'put',
    hourAgo(5),
    '{"requests":4,"hits":{"kv":2},"upstream_ms":[1]}',
  )
  const figures = await workers.rig.figures()
  const old = figures.hours.find(({ hour }) => hour === hourAgo(5))
  expect(old).not.toHaveProperty('usd_by')
  expect(old).toMatchObject({
    requests: 4,
    hits: { memory: 0, kv: 2, stale: 0 },
    tokens_saved: 0,
    usd: 0,
    usd_saved: 0,
    origins: {},
    errors: {},
    upstream_ms: { p50: 20, p95: 20 },
  })
})

test('shows the money of an hour by name', async () => {
  const usd_by = { prompts: {}, models: { m: 0.25 }, origins: { [ORIGIN]: 0.1 } }
  await workers.rig.call('usage', 'put', hourAgo(6), JSON.stringify({ usd: 0.25, usd_by }))
  const { hours } = await workers.rig.figures()
  expect(hours.find(({ hour }) => hour === hourAgo(6))).toMatchObject({ usd: 0.25, usd_by })
})

test('adds up hours to days, including those of older versions', async () => {
  const day = (ago: number) => (Math.floor(Date.now() / DAY_MS) - ago) * 86_400
  const put = async (hour: number, counts: object) =>
    await workers.rig.call('usage', 'put', hour, JSON.stringify(counts))
  const hits = { memory: 1, kv: 2, stale: 3 }
  await put(day(9), { requests: 4, tokens_in: 5 })
  await put(day(9) + 23 * 3600, { requests: 2, tokens_in: 1, tokens_out: 3, usd: 0.1, hits })
  await put(day(29), { requests: 1, tokens_out: 1, usd: 0.2, hits: { kv: 1 } })
  await put(day(30), { requests: 7 })
  const { days } = await workers.rig.figures()
  const nameOf = (ago: number) => new Date(day(ago) * 1000).toISOString().slice(0, 10)
  expect(days[0]).toEqual({ day: nameOf(29), tokens: 1, usd: 0.2, requests: 1, hits: 1 })
  expect(days.find(({ day }) => day === nameOf(9))).toEqual({
    day: nameOf(9),
    tokens: 9,
    usd: 0.1,
    requests: 6,
    hits: 6,
  })
  const names = days.map(({ day }) => String(day))
  expect(names).toEqual(names.toSorted())
})

test('keeps failed attempts and refused origins across a restart, refused origins for a day', async () => {
  const origin = 'https://www.site.example'
  const client = workers.client()
  expect((await client.complete({ prompt: 'p', model: 'gone' })).status).toBe(502)
  expect((await client.complete({ prompt: 'p' }, { origin })).status).toBe(403)
  const before = await workers.rig.figures()
  expect(before.failures).toMatchObject([{ upstream: 'gone', model: 'gone' }])
  expect(before.refused_origins).toMatchObject([{ origin, count: 1 }])
  await workers.dispose()
  workers = await startRigged({ config, persistIn: folder })
  const { failures, refused_origins } = await workers.rig.figures()
  expect({ failures, refused_origins }).toEqual({
    failures: before.failures,
    refused_origins: before.refused_origins,
  })
  await workers.rig.set({ clockMs: DAY_MS })
  expect((await workers.rig.figures()).refused_origins).toEqual([])
  await workers.rig.set({ clockMs: 2 * DAY_MS })
  await hoursOf('')
  expect((await workers.rig.rows()).lists.map(({ name }) => name)).toEqual(['failures'])
  await workers.rig.set({ clockMs: 0 })
})

test('adds all figures of a report or, if one cannot be stored, none of them', async () => {
  const bad = [
    [hourAgo(8), { requests: 3 }],
    [hourAgo(9), null],
  ]
  const report = { hours: bad, failures: [], refused: [] }
  await expect(workers.rig.call('usage', 'add', report)).rejects.toThrow()
  expect((await workers.rig.rows()).hours.map(({ hour }) => hour)).not.toContain(hourAgo(8))
})

test('keeps ninety days', async () => {
  await workers.rig.call('usage', 'put', hourAgo(90 * 24), counts(1))
  await workers.rig.call('usage', 'put', hourAgo(89 * 24), counts(1))
  await workers.rig.set({ clockMs: 3_600_000 })
  await hoursOf('')
  const kept = (await workers.rig.rows()).hours.map(({ hour }) => hour)
  expect(kept).toContain(hourAgo(89 * 24))
  expect(kept).not.toContain(hourAgo(90 * 24))
  await workers.rig.set({ clockMs: 91 * DAY_MS })
  await hoursOf('')
  expect((await workers.rig.rows()).hours).toEqual([])
})
