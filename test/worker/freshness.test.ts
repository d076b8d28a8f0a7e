// A stale answer with several isolates, in workerd and on the real clock. What else happens to stale
// answers is in test/cache/transcript.test.ts.
import { expect, test } from 'vitest'
import { objectOf } from '../../src/flight/transport.ts'
import { completionOf, streamOf } from '../support/answers.ts'
import { completionsStream, latch } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'

const suite = workerSuite()

/** The Worker with `GET /forget?name=`, which evicts a flight object from memory. */
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
      try { await env.FLIGHTS.getByName(url.searchParams.get('name')).forget() } catch {}
      return new Response('forgotten')
    },
  }
`

test('a stale answer is served immediately by every isolate and refreshed once', async () => {
  const cache = { ttl_seconds: 60, stale_while_revalidate_seconds: 600 }
  const config = suite.config('stale', { cache }, { wire: 'completions', retries: 0 })
  const workers = await suite.start({ isolates: 3, main: forgetful, config })
  const lane = suite.upstream.lane('stale')
  lane.answers(completionsStream(['old']))
  await workers.client(0).complete({ prompt: 'p' })
  const find = async (text: string) =>
    [...(await workers.kvEntries())].find(([, value]) => value.includes(text))
  await expect.poll(() => find('old')).toBeDefined()
  const [key, value] = (await find('old')) ?? ['', '{}']
  // An entry that was stored 100 s ago, for isolates that have not read it.
  const entry = JSON.parse(value)
  for (const time of ['fresh_until', 'stale_until']) entry[time] -= 100
  for (const time of ['requested_at', 'confirmed_at']) entry[time] -= 100_000
  entry.completion.created -= 100
  await workers.kvPut(key, JSON.stringify(entry))
  await workers.client(0).send({ path: `/forget?name=${objectOf(key)}`, headers: { origin: null } })
  const refreshing = latch()
  lane.answers(async (call, line) => {
    await refreshing.opened
    await completionsStream(['new'])(call, line)
  })
  const replies = await Promise.all(
    Array.from({ length: 60 }, (_, i) =>
      workers.client(1 + (i % 2)).complete({ prompt: 'p', stream: i % 3 === 0 }),
    ),
  )
  for (const [i, reply] of replies.entries()) {
    const text = i % 3 === 0 ? streamOf(reply).text() : completionOf(reply).choices[0]?.text
    expect(text).toBe('old')
    expect(reply.headers['cache-status']).toMatch(/^edge-completions; hit; ttl=-4\d; detail=stale$/)
    expect(Number(reply.headers['age'])).toBeGreaterThanOrEqual(100)
  }
  await lane.call(2)
  refreshing.open()
  await expect.poll(() => find('new')).toBeDefined()
  expect(lane.calls).toHaveLength(2)
  expect(workers.log.all('flight_unreachable')).toEqual([])
})
