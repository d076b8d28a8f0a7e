// Stale answers with several isolates, in workerd and on the real clock. What else happens to a stale
// answer is in test/cache/transcript.test.ts.
import { beforeAll, expect, test } from 'vitest'
import { completionOf, streamOf } from '../support/answers.ts'
import { Lanes } from '../support/lanes.ts'
import { completionsStream, latch } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers } from '../support/workerd.ts'

const ISOLATES = 3

const suite = workerSuite()
const lanes = new Lanes(suite, { legacy: { wire: 'completions', retries: 0 } }, 1)
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
    expect(reply.headers['cache-status']).toMatch(/^edge-completions; hit; ttl=-4\d; detail=stale$/)
    expect(Number(reply.headers['age'])).toBeGreaterThanOrEqual(100)
  }
  await lane.call(2)
  refreshing.open()
  await expect.poll(() => inKv('new-1')).toBe(true)
  expect(lane.calls).toHaveLength(2)
  expect(workers.log.all('flight_unreachable')).toEqual([])
})
