// The platform operations that one request costs, counted at the bindings: KV reads and writes, and
// calls of the flight and ledger objects. KV failures and its daily quota never fail a request.
import { beforeAll, describe, expect, test } from 'vitest'
import { completionOf, requestEvent, streamOf } from '../support/answers.ts'
import { OPERATOR_TOKEN, ORIGIN, type Reply } from '../support/client.ts'
import { completionsStream, type Lane, latch } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers } from '../support/workerd.ts'

const suite = workerSuite()
let lane: Lane
/** The origin of the pages. */
let site: string

beforeAll(async () => {
  const { upstream } = suite
  lane = upstream.lane('u')
  site = `http://127.0.0.1:${upstream.port}`
  upstream.lane('site').answers((_, line) => {
    const page = '<main>A page.</main>'
    line.head(200, { 'content-type': 'text/html', 'content-length': String(page.length) })
    line.write(page)
    line.end()
  })
})

/** The Worker with a counter around each binding. `GET /counted` returns and resets the counts. */
const counting = (kv = '') => `
  import worker from './worker.js'
  export * from './worker.js'
  import { env } from 'cloudflare:workers'
  const kv = Object.getPrototypeOf(env.CACHE)
  const own = { get: kv.get, put: kv.put, delete: kv.delete }
  const names = { get: 'read', put: 'write', delete: 'delete' }
  globalThis.counted ??= {}
  const note = (what) => { globalThis.counted[what] = (globalThis.counted[what] ?? 0) + 1 }
  for (const [method, name] of Object.entries(names)) {
    kv[method] = function (key, ...more) {
      note(key === 'purge' ? 'purge list ' + name : 'kv ' + name)
      return own[method].call(this, key, ...more)
    }
  }
  ${kv}
  for (const [binding, name] of Object.entries({ FLIGHTS: 'flight', LEDGER: 'ledger', USAGE: 'usage' })) {
    const namespace = Object.getPrototypeOf(env[binding])
    if (namespace.counts === undefined) {
      namespace.counts = true
      const getByName = namespace.getByName
      namespace.getByName = function (id) {
        const stub = getByName.call(this, id)
        const name = ['usage', 'ledger'].includes(id) ? id : 'flight'
        return new Proxy({}, {
          get: (_, method) => (...given) => {
            note(name + ' ' + String(method))
            return stub[method](...given)
          },
        })
      }
    }
  }
  export default {
    async fetch(request) {
      if (new URL(request.url).pathname !== '/counted') return await worker.fetch(request)
      const counted = globalThis.counted
      globalThis.counted = {}
      return Response.json(counted)
    },
  }
`

interface Options {
  readonly prompts?: object
  readonly cache?: object
  readonly kv?: string
  readonly isolates?: number
}

async function start({
  prompts = {},
  cache = {},
  kv = '',
  isolates = 2,
}: Options = {}): Promise<Workers> {
  lane.calls.length = 0
  lane.answers(completionsStream(['fine']))
  return await suite.start({
    isolates,
    main: counting(kv),
    config: suite.config(
      'u',
      {
        origins: [ORIGIN, site],
        cache: { ...cache },
        free_prompts: true,
        prompts: { ...prompts },
      },
      { wire: 'completions', retries: 0 },
    ),
  })
}

type Counts = Record<string, number>

/** The counts of all isolates since the last call, without the purge list and usage reports. */
async function counted(workers: Workers): Promise<Counts> {
  const sum: Counts = {}
  for (const [i] of workers.urls.entries()) {
    const { text } = await workers.client(i).send({ path: '/counted', headers: { origin: null } })
    for (const [what, n] of Object.entries(JSON.parse(text) as Counts))
      sum[what] = (sum[what] ?? 0) + n
  }
  delete sum['usage add']
  return sum
}

/** Waits until the background work is done: the answer is stored and its cost settled. */
async function settled(workers: Workers, wanted: Counts): Promise<void> {
  const all: Counts = {}
  await expect
    .poll(async () => {
      for (const [what, n] of Object.entries(await counted(workers)))
        all[what] = (all[what] ?? 0) + n
      return all
    })
    .toEqual(wanted)
}

const statusOf = (reply: Reply) => String(reply.headers['cache-status']).replace(/ttl=\d+; /, '')

describe('platform operations:', () => {
  test.each([
    ['JSON', false],
    ['a stream', true],
  ])(
    'a miss (%s): two reads and one write of KV, one flight call, two ledger calls',
    async (_, asStream) => {
      const workers = await start()
      const client = workers.client(1)
      // Let each isolate read the purge list and the secret for visitor ids first.
      await client.complete({ prompt: 'warm' })
      await settled(workers, {
        'kv read': 2,
        'kv write': 1,
        'flight join': 1,
        'ledger reserve': 1,
        'ledger settle': 1,
        // Once per interval in both isolates: the one of the request and the flight's.
        'purge list read': 2,
      })
      const reply = await client.complete({ prompt: 'p', stream: asStream })
      if (asStream) streamOf(reply)
      else completionOf(reply)
      await settled(workers, {
        'kv read': 2,
        'kv write': 1,
        'flight join': 1,
        'ledger reserve': 1,
        'ledger settle': 1,
      })
    },
  )

  test('a hit: nothing from memory, one read from KV; no flight or ledger call', async () => {
    const workers = await start()
    const [here, there] = [workers.client(0), workers.client(1)]
    await here.complete({ prompt: 'p' })
    await here.complete({ prompt: 'other' })
    await there.complete({ prompt: 'warm' })
    await expect.poll(async () => (await workers.kvEntries()).size).toBe(3)
    await counted(workers)
    expect(statusOf(await here.complete({ prompt: 'p' }))).toBe(
      'edge-completions; hit; detail=memory',
    )
    expect(statusOf(await here.complete({ prompt: 'p', stream: true }))).toContain('detail=memory')
    const query = { path: '/v1/completions?prompt=p' }
    expect(statusOf(await here.send(query))).toContain('detail=memory')
    expect(await counted(workers)).toEqual({})
    expect(statusOf(await there.complete({ prompt: 'p' }))).toBe('edge-completions; hit; detail=kv')
    expect(await counted(workers)).toEqual({ 'kv read': 1 })
    expect(statusOf(await there.send({ path: '/v1/completions?prompt=other' }))).toContain(
      'detail=kv',
    )
    expect(await counted(workers)).toEqual({ 'kv read': 1 })
    expect(statusOf(await there.complete({ prompt: 'other' }))).toContain('detail=memory')
    expect(await counted(workers)).toEqual({})
  })

  test('a GET that is a miss: one read', async () => {
    const workers = await start()
    await workers.client().complete({ prompt: 'warm' })
    await counted(workers)
    await settled(workers, {}).catch(() => {})
    await counted(workers)
    const reply = await workers.client().send({ path: '/v1/completions?prompt=nothing' })
    expect(reply.status).toBe(404)
    expect(await counted(workers)).toEqual({ 'kv read': 1 })
  })

  test('a follower: one read and one flight call', async () => {
    const workers = await start()
    const rest = latch()
    await workers.client(1).complete({ prompt: 'warm' })
    await workers.client(0).complete({ prompt: 'warm' })
    await expect.poll(async () => (await workers.kvEntries()).size).toBe(1)
    await counted(workers)
    lane.answers(completionsStream(['one ', 'two'], { pace: () => rest.opened }))
    const body = { prompt: 'p', stream: true }
    const leader = await workers.client(0).open({ method: 'POST', body })
    await leader.until('"text":"one "')
    expect(await counted(workers)).toEqual({ 'kv read': 2, 'flight join': 1, 'ledger reserve': 1 })
    const follower = await workers.client(1).open({ method: 'POST', body })
    await follower.until('"text":"one "')
    expect(await counted(workers)).toEqual({ 'kv read': 1, 'flight join': 1 })
    rest.open()
    await Promise.all([leader.rest(), follower.rest()])
    await settled(workers, { 'kv write': 1, 'ledger settle': 1 })
  })

  test('a follower in the isolate of another follower: one flight call', async () => {
    const workers = await start({ cache: { memory_bytes: 0 } })
    const rest = latch()
    await workers.client(1).complete({ prompt: 'warm' })
    await expect.poll(async () => (await workers.kvEntries()).size).toBe(1)
    await counted(workers)
    lane.answers(completionsStream(['one ', 'two'], { pace: () => rest.opened }))
    const body = { prompt: 'p', stream: true }
    const client = workers.client(1)
    const leader = await client.open({ method: 'POST', body })
    await leader.until('"text":"one "')
    await counted(workers)
    const follower = await client.open({ method: 'POST', body })
    await follower.until('"text":"one "')
    expect(String(follower.headers['cache-status'])).toContain('collapsed')
    expect(await counted(workers)).toEqual({ 'flight join': 1 })
    // A request that may not join still reads KV.
    const only = { 'cache-control': 'only-if-cached' }
    expect((await client.complete({ prompt: 'p' }, only)).status).not.toBe(200)
    expect(await counted(workers)).toEqual({ 'kv read': 1 })
    rest.open()
    await Promise.all([leader.rest(), follower.rest()])
    await settled(workers, { 'kv write': 1, 'ledger settle': 1 })
    // The flight has ended, so KV is read again.
    expect(statusOf(await client.complete(body))).toContain('detail=kv')
    expect(await counted(workers)).toEqual({ 'kv read': 1 })
  })

  test('a prompt only the operator may spend on: one write per answer, one read per visitor', async () => {
    const page = { from: 'url', paths: ['/site/*'] }
    const prompts = { summary: { text: '{{page}}', variables: { page }, spend: 'operator' } }
    const workers = await start({ prompts })
    const [here, there] = [workers.client(0), workers.client(1)]
    await here.complete({ prompt: 'warm' })
    await there.complete({ prompt: 'warm' })
    await expect.poll(async () => (await workers.kvEntries()).size).toBe(1)
    await counted(workers)
    const local = { host: 'localhost' }
    const operator = { ...local, authorization: `Bearer ${OPERATOR_TOKEN}` }
    const about = (url: string) => ({ prompt: { id: 'summary', variables: { page: url } } })
    completionOf(await here.complete(about(`${site}/site/a`), operator))
    // Also for an answer stored before its prompt kept last answers: the third read.
    await settled(workers, {
      'kv read': 3,
      'kv write': 1,
      'flight join': 1,
      'ledger reserve': 1,
      'ledger settle': 1,
    })
    const found = await there.complete(about(`${site}/site/a/`), local)
    expect(statusOf(found)).toBe('edge-completions; hit; detail=kv')
    expect(await counted(workers)).toEqual({ 'kv read': 1 })
    const missed = await there.complete(about(`${site}/site/b`), local)
    expect(missed.status).toBe(404)
    expect(await counted(workers)).toEqual({ 'kv read': 1 })
    expect(statusOf(await there.complete(about(`${site}/site/a.html`), local))).toContain('memory')
    expect(await counted(workers)).toEqual({})
  })

  test('a miss with flights = "none": two reads, one write, two ledger calls', async () => {
    const workers = await start({ cache: { flights: 'none' } })
    await workers.client().complete({ prompt: 'warm' })
    await expect.poll(async () => (await workers.kvEntries()).size).toBe(1)
    await counted(workers)
    await workers.client().complete({ prompt: 'p' })
    await settled(workers, { 'kv read': 2, 'kv write': 1, 'ledger reserve': 1, 'ledger settle': 1 })
  })

  test('a miss with caching off: no KV operation', async () => {
    const workers = await start({ cache: { ttl_seconds: 0 } })
    await workers.client().complete({ prompt: 'warm' })
    await settled(workers, {
      'flight join': 1,
      'ledger reserve': 1,
      'ledger settle': 1,
      'purge list read': 1,
    })
    await workers.client().complete({ prompt: 'p' })
    await settled(workers, { 'flight join': 1, 'ledger reserve': 1, 'ledger settle': 1 })
  })

  test('the purge list: one read per interval, not per request', async () => {
    const workers = await start({ isolates: 1 })
    for (let i = 0; i < 20; i++) await workers.client().complete({ prompt: `p${i % 5}` })
    const counts = await counted(workers)
    expect(counts['purge list read']).toBe(1)
  })

  test('a purge: one object call and one write of the list, after a single read', async () => {
    const workers = await start({ isolates: 1 })
    await workers.client().complete({ prompt: 'p' })
    await expect.poll(async () => (await workers.kvEntries()).size).toBe(1)
    await counted(workers)
    const purge = async () => {
      const reply = await workers.client().send({
        method: 'POST',
        path: '/admin/purge',
        headers: { authorization: `Bearer ${OPERATOR_TOKEN}` },
        body: { all: true },
      })
      expect(reply.status).toBe(200)
    }
    await purge()
    expect(await counted(workers)).toEqual({
      'flight purge': 1,
      'purge list read': 1,
      'purge list write': 1,
    })
    await purge()
    expect(await counted(workers)).toEqual({ 'flight purge': 1, 'purge list write': 1 })
  })
})

describe('KV limits and failures', () => {
  test('kv_writes_per_day holds across isolates; beyond it answers are served but not stored', async () => {
    const workers = await start({ cache: { kv_writes_per_day: 3, memory_seconds: 0 } })
    const statuses: string[] = []
    for (let i = 0; i < 8; i++) {
      const reply = await workers.client(i % 2).complete({ prompt: `p${i}` })
      completionOf(reply)
      statuses.push(statusOf(reply))
    }
    const stored = (status: string) => status.endsWith('; stored')
    expect(statuses.map(stored)).toEqual([true, true, true, false, false, false, false, false])
    await expect.poll(async () => (await workers.kvEntries()).size).toBe(3)
    expect((await counted(workers))['kv write']).toBe(3)
    // Stored answers are still served.
    expect(statusOf(await workers.client(1).complete({ prompt: 'p0' }))).toContain('detail=kv')
  })

  test('a hanging get: an answer within the time limit, and one event', async () => {
    const workers = await start({
      cache: { kv_wait_ms: 100 },
      kv: 'kv.get = () => new Promise(() => {})',
    })
    const startedAt = performance.now()
    const reply = await workers.client(1).complete({ prompt: 'p', stream: true })
    expect(streamOf(reply).text()).toBe('fine')
    expect(performance.now() - startedAt).toBeLessThan(3000)
    const failed = await workers.log.find((event) => event.event === 'cache_failed')
    expect(failed).toEqual({ event: 'cache_failed', operation: 'get', reason: 'timeout' })
    expect(workers.log.all('internal')).toEqual([])
  })

  test('failing puts: answers are unaffected, one event, and KV is not written for a while', async () => {
    const workers = await start({
      isolates: 1,
      cache: { memory_seconds: 0 },
      kv: `kv.put = async () => { note('kv write'); throw new Error('KV PUT failed: 429') }`,
    })
    for (let i = 0; i < 10; i++) {
      const reply = await workers.client().complete({ prompt: `p${i}` })
      expect(completionOf(reply).choices[0]?.text).toBe('fine')
    }
    const failed = workers.log.all('cache_failed')
    expect(failed).toEqual([{ event: 'cache_failed', operation: 'put', reason: 'error' }])
    expect((await counted(workers))['kv write']).toBe(1)
    expect(await workers.kvEntries()).toHaveLength(0)
  })

  test('a value of another version is a miss and is replaced', async () => {
    const workers = await start({ cache: { memory_seconds: 0 } })
    const first = completionOf(await workers.client().complete({ prompt: 'p' }))
    await expect.poll(async () => (await workers.kvEntries()).size).toBe(1)
    const [[key, value] = ['', '']] = await workers.kvEntries()
    await workers.kvPut(key, JSON.stringify({ ...JSON.parse(value), schema: 3 }))
    const reply = await workers.client(1).complete({ prompt: 'other key, same object gone' })
    completionOf(reply)
    const get = await workers.client(1).send({ path: '/v1/completions?prompt=p' })
    expect(get.status).toBe(404)
    const failed = await workers.log.find((event) => event.event === 'cache_failed')
    expect(failed).toEqual({ event: 'cache_failed', operation: 'get', reason: 'bad_value' })
    await expect.poll(async () => (await workers.kvEntries()).has(key)).toBe(false)
    expect(first.choices[0]?.text).toBe('fine')
  })

  test('only complete strings are written, with a TTL of at least a minute', async () => {
    const workers = await start({
      isolates: 1,
      cache: {
        ttl_seconds: 5,
        stale_while_revalidate_seconds: 0,
        stale_if_error_seconds: 0,
        memory_seconds: 0,
      },
      kv: `
        const put = kv.put
        kv.put = function (key, value, options) {
          note('put ' + typeof value + ' ' + JSON.stringify(options))
          return put.call(this, key, value, options)
        }
      `,
    })
    const reply = await workers.client().complete({ prompt: 'p', stream: true })
    streamOf(reply)
    await expect.poll(async () => (await workers.kvEntries()).size).toBe(1)
    expect(await counted(workers)).toMatchObject({ 'put string {"expirationTtl":60}': 1 })
    expect((await requestEvent(reply, workers.log)).cache).toBe('miss')
  })
})
