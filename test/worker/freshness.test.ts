// Stale answers with several isolates, in workerd and on the real clock: one refresh for any number
// of visitors, the old answer when there is no better one, and what browsers may cache.
import { beforeAll, expect, test } from 'vitest'
import { completionOf, streamOf } from '../support/answers.ts'
import { ORIGIN, type Reply } from '../support/client.ts'
import { Lanes } from '../support/lanes.ts'
import { OPERATOR_TOKEN } from '../support/rig.ts'
import { completionsStream, latch, refusal } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers } from '../support/workerd.ts'

const ISOLATES = 3
const operator = { authorization: `Bearer ${OPERATOR_TOKEN}` }

const suite = workerSuite()
const lanes = new Lanes(suite, { legacy: { wire: 'completions', retries: 0 } }, 8)
let workers: Workers

beforeAll(async () => {
  workers = await suite.share({
    isolates: ISOLATES,
    main: forgetful,
    config: lanes.config({
      cache: {
        ttl_seconds: 60,
        stale_while_revalidate_seconds: 600,
        stale_if_error_seconds: 6000,
      },
    }),
  })
})

/** The Worker with `GET /forget?key=`, which evicts a flight object from memory. */
const forgetful = `
  import worker, { FlightObject as Flight } from './worker.js'
  export * from './worker.js'
  import { env } from 'cloudflare:workers'
  export class FlightObject extends Flight {
    forget() { this.ctx.abort('forgotten by the test') }
  }
  export default {
    async fetch(request) {
      const url = new URL(request.url)
      if (url.pathname !== '/forget') return await worker.fetch(request)
      try { await env.FLIGHTS.getByName(url.searchParams.get('key')).forget() } catch {}
      return new Response('forgotten')
    },
  }
`

const statusOf = (reply: Reply) => String(reply.headers['cache-status'])

/** Stores an answer and backdates it in KV, for isolates that have not read it. */
async function storeOld(model: string, ageSeconds: number): Promise<void> {
  await workers.client(0).complete({ prompt: 'p', model })
  const find = async () =>
    [...(await workers.kvEntries())].find(([, value]) => value.includes(`"model:${model}"`))
  await expect.poll(find).toBeDefined()
  const [key, value] = (await find()) ?? ['', '{}']
  const entry = JSON.parse(value)
  for (const time of ['fresh_until', 'stale_until']) entry[time] -= ageSeconds
  for (const time of ['requested_at', 'confirmed_at']) entry[time] -= ageSeconds * 1000
  entry.completion.created -= ageSeconds
  await workers.kvPut(key, JSON.stringify(entry))
  await workers.client(0).send({ path: `/forget?key=${key}`, headers: { origin: null } })
}

/** The age of the answer in KV with this text. */
const inKv = async (text: string) =>
  [...(await workers.kvEntries()).values()].some((value) => value.includes(text))

test('a stale answer is served immediately by every isolate and refreshed once', async () => {
  const { model, lane } = lanes.take('legacy')
  lane.answers(completionsStream(['old-1']))
  await storeOld(model, 100)
  const refreshing = latch()
  lane.answers(async (call, line) => {
    await refreshing.opened
    await completionsStream(['new-1'])(call, line)
  })
  // The first isolate holds the fresh answer in memory, the others read the old one from KV.
  const replies = await Promise.all(
    Array.from({ length: 60 }, (_, i) =>
      workers.client(1 + (i % 2)).complete({ prompt: 'p', model, stream: i % 3 === 0 }),
    ),
  )
  for (const [i, reply] of replies.entries()) {
    const text = i % 3 === 0 ? streamOf(reply).text() : completionOf(reply).choices[0]?.text
    expect(text).toBe('old-1')
    expect(statusOf(reply)).toMatch(/^edge-completions; hit; ttl=-4\d; detail=stale$/)
    expect(Number(reply.headers['age'])).toBeGreaterThanOrEqual(100)
  }
  await lane.call(2)
  refreshing.open()
  await expect.poll(() => inKv('new-1')).toBe(true)
  expect(lane.calls).toHaveLength(2)
  expect(workers.log.all('flight_unreachable')).toEqual([])
})

test('a stale answer is served when its refresh fails, and no visitor sees the error', async () => {
  const { model, lane } = lanes.take('legacy')
  lane.answers(completionsStream(['old-2']))
  await storeOld(model, 100)
  lane.answers(refusal(500))
  for (let i = 0; i < 5; i++) {
    const reply = await workers.client(1).complete({ prompt: 'p', model })
    expect(completionOf(reply).choices[0]?.text).toBe('old-2')
  }
  await lane.call(2)
  // One attempt per isolate in ten seconds, not one per visitor.
  expect(lane.calls).toHaveLength(2)
})

test('stale-if-error: a much older answer is served only when no fresh one can be made', async () => {
  const { model, lane } = lanes.take('legacy')
  lane.answers(completionsStream(['old-3']))
  await storeOld(model, 3000)
  lane.answers(refusal(500))
  const kept = await workers.client(1).complete({ prompt: 'p', model })
  expect(completionOf(kept).choices[0]?.text).toBe('old-3')
  expect(statusOf(kept)).toMatch(/hit; ttl=-29\d\d; detail=stale/)
  expect(lane.calls).toHaveLength(2)
  // A stream that fails before its first word gets the old answer, too.
  const stream = await workers.client(2).complete({ prompt: 'p', model, stream: true })
  expect(streamOf(stream).text()).toBe('old-3')
  lane.answers(completionsStream(['new-3']))
  const better = await workers.client(1).complete({ prompt: 'p', model })
  expect(completionOf(better).choices[0]?.text).toBe('new-3')
})

test('an expired answer is never served', async () => {
  const { model, lane } = lanes.take('legacy')
  lane.answers(completionsStream(['old-4']))
  await storeOld(model, 7000)
  lane.answers(refusal(401))
  const reply = await workers.client(1).complete({ prompt: 'p', model })
  expect(reply.status).toBe(502)
  expect(reply.text).not.toContain('old-4')
  const get = await workers.client(1).send({ path: `/v1/completions?prompt=p&model=${model}` })
  expect(get.status).toBe(404)
})

test('GET: browsers may cache a fresh answer for as long as it is fresh; a GET does not refresh a stale one', async () => {
  const { model, lane } = lanes.take('legacy')
  lane.answers(completionsStream(['old-5']))
  await storeOld(model, 100)
  const path = `/v1/completions?prompt=p&model=${model}`
  const fresh = await workers.client(0).send({ path })
  expect(fresh.headers['cache-control']).toMatch(/^public, max-age=(60|5\d)$/)
  expect(String(fresh.headers['vary']).split(', ').sort()).toEqual(['Accept', 'Origin'])
  const stale = await workers.client(1).send({ path })
  expect(completionOf(stale).choices[0]?.text).toBe('old-5')
  expect(stale.headers['cache-control']).toBe('public, max-age=0')
  const tag = String(stale.headers['etag'])
  const same = await workers.client(1).send({ path, headers: { 'if-none-match': tag } })
  expect([same.status, same.text, same.headers['etag']]).toEqual([304, '', tag])
  // Browsers send it without a preflight: nothing in it requires one.
  expect(stale.headers['access-control-allow-origin']).toBe(ORIGIN)
  expect(lane.calls).toHaveLength(1)
})

test('a refresh forced by the operator replaces the answer in every isolate', async () => {
  const { model, lane } = lanes.take('legacy')
  lane.answers(completionsStream(['old-6']))
  await workers.client(0).complete({ prompt: 'p', model })
  lane.answers(completionsStream(['new-6']))
  const ignored = await workers
    .client(0)
    .complete({ prompt: 'p', model }, { 'cache-control': 'no-cache' })
  expect(completionOf(ignored).choices[0]?.text).toBe('old-6')
  const forced = await workers
    .client(1)
    .complete({ prompt: 'p', model }, { ...operator, 'cache-control': 'no-cache' })
  expect(statusOf(forced)).toBe('edge-completions; fwd=request')
  expect(completionOf(forced).choices[0]?.text).toBe('new-6')
  await expect.poll(() => inKv('new-6')).toBe(true)
  const elsewhere = await workers.client(2).complete({ prompt: 'p', model })
  expect(completionOf(elsewhere).choices[0]?.text).toBe('new-6')
  expect(lane.calls).toHaveLength(2)
})
