// The platform operations that one request costs, counted at the bindings: KV reads and writes, and
// calls of the flight, ledger and site objects.
import { beforeAll, describe, expect, test } from 'vitest'
import { completionOf } from '../support/answers.ts'
import { OPERATOR_TOKEN, ORIGIN, type Reply } from '../support/client.ts'
import { requestOf, shapes } from '../support/shapes.ts'
import { chatStream, type Lane, latch } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { JsonValue, Workers } from '../support/workerd.ts'

const suite = workerSuite()
let lane: Lane
beforeAll(() => {
  lane = suite.upstream.lane('u')
})

/**
 * The Worker with a counter around each binding. `GET /counted` returns and resets the counts;
 * `GET /ahead` puts its clock two minutes forward.
 */
const counting = `
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
  const realNow = Date.now
  Date.now = () => realNow() + (globalThis.aheadMs ?? 0)
  for (const [binding, name] of Object.entries({ FLIGHTS: 'flight', LEDGER: 'ledger', USAGE: 'usage', SITE: 'site' })) {
    const namespace = Object.getPrototypeOf(env[binding])
    if (namespace.counts === undefined) {
      namespace.counts = true
      const getByName = namespace.getByName
      namespace.getByName = function (id) {
        const stub = getByName.call(this, id)
        const name = ['usage', 'ledger', 'site'].includes(id) ? id : 'flight'
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
      const { pathname } = new URL(request.url)
      if (pathname === '/ahead') return new Response(globalThis.aheadMs = 120_000)
      if (pathname !== '/counted') return await worker.fetch(request)
      const counted = globalThis.counted
      globalThis.counted = {}
      return Response.json(counted)
    },
  }
`

interface Options {
  readonly cache?: object
  readonly isolates?: number
  readonly more?: Readonly<Record<string, JsonValue>>
}

async function start({ cache = {}, isolates = 2, more = {} }: Options = {}): Promise<Workers> {
  lane.calls.length = 0
  lane.answers(chatStream(['fine']))
  return await suite.start({
    isolates,
    main: counting,
    config: suite.config(
      'u',
      {
        cache: { ...cache },
        ...more,
      },
      { retries: 0 },
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
  test.each(shapes.map((shape) => [shape.name, shape] as const))(
    'a miss (%s): two reads and one write of KV, one flight call, two ledger calls; a hit: at most a read',
    async (_, shape) => {
      const workers = await start({ isolates: 3 })
      const client = workers.client(1)
      const miss = {
        'kv read': 2,
        'kv write': 1,
        'flight fetch': 1,
        'ledger reserve': 1,
        'ledger settle': 1,
      }
      // Let each isolate read the purge list and the secret for visitor ids first.
      await client.complete({ prompt: 'warm' })
      // Once per interval in both isolates: the one of the request and the flight's.
      await settled(workers, { ...miss, 'purge list read': 2 })
      const request = requestOf(shape, 'p', 'm')
      expect((await client.send(request)).status).toBe(200)
      await settled(workers, miss)
      await workers.client(2).complete({ prompt: 'warm' })
      await counted(workers)
      for (const [tier, counts] of [
        ['kv', { 'kv read': 1 }],
        ['memory', {}],
      ] as const) {
        expect(statusOf(await workers.client(2).send(request))).toContain(`detail=${tier}`)
        expect(await counted(workers)).toEqual(counts)
      }
    },
  )

  test('a miss in a flight object that has run for more than a minute: one read of KV', async () => {
    const stale = { stale_while_revalidate_seconds: 0, stale_if_error_seconds: 0 }
    const workers = await start({ cache: { ttl_seconds: 30, ...stale } })
    const client = workers.client(1)
    const ids = new Set<string>()
    for (const reads of [2, 1]) {
      ids.add(completionOf(await client.complete({ prompt: 'p' })).id)
      const own = { 'kv read': reads, 'kv write': 1, 'flight fetch': 1 }
      await settled(workers, {
        ...own,
        'ledger reserve': 1,
        'ledger settle': 1,
        'purge list read': 2,
      })
      // The answer expires meanwhile.
      for (const i of [0, 1]) {
        await workers.client(i).send({ path: '/ahead', headers: { origin: null } })
      }
    }
    expect(ids.size).toBe(2)
  })

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
    lane.answers(chatStream(['one ', 'two'], { pace: () => rest.opened }))
    const body = { prompt: 'p', stream: true }
    const leader = await workers.client(0).open({ method: 'POST', body })
    await leader.until('"text":"one "')
    expect(await counted(workers)).toEqual({ 'kv read': 2, 'flight fetch': 1, 'ledger reserve': 1 })
    const follower = await workers.client(1).open({ method: 'POST', body })
    await follower.until('"text":"one "')
    expect(await counted(workers)).toEqual({ 'kv read': 1, 'flight fetch': 1 })
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
    lane.answers(chatStream(['one ', 'two'], { pace: () => rest.opened }))
    const body = { prompt: 'p', stream: true }
    const client = workers.client(1)
    const leader = await client.open({ method: 'POST', body })
    await leader.until('"text":"one "')
    await counted(workers)
    const follower = await client.open({ method: 'POST', body })
    await follower.until('"text":"one "')
    expect(String(follower.headers['cache-status'])).toContain('collapsed')
    expect(await counted(workers)).toEqual({ 'flight fetch': 1 })
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

  test.each<[string, object, Counts]>([
    [
      'flights = "none": two reads, one write, two ledger calls',
      { flights: 'none' },
      { 'kv read': 2, 'kv write': 1, 'ledger reserve': 1, 'ledger settle': 1 },
    ],
    [
      'caching off: no KV operation',
      { ttl_seconds: 0 },
      { 'flight fetch': 1, 'ledger reserve': 1, 'ledger settle': 1 },
    ],
  ])('a miss with %s', async (_, cache, counts) => {
    const workers = await start({ cache })
    await workers.client().complete({ prompt: 'warm' })
    await settled(workers, { ...counts, 'purge list read': 1 })
    await workers.client().complete({ prompt: 'p' })
    await settled(workers, counts)
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

test('a search: one site call; a remembered one: none, and a lookup of the version and of purges once in a while', async () => {
  const workers = await start({ isolates: 1 })
  const client = workers.client()
  const find = async (question: string) => {
    const { status } = await client.send({ path: `/v1/search?q=${question}` })
    // There is no index; the answer to that is remembered, too.
    expect(status).toBe(404)
    return await counted(workers)
  }
  await client.complete({ prompt: 'warm' })
  await settled(workers, {}).catch(() => {})
  await counted(workers)
  expect(await find('boats')).toEqual({ 'site find': 1 })
  for (const spelling of ['boats', 'Boats?', '%20BOATS%20'])
    expect(await find(spelling)).toEqual({})
  expect(await find('planes')).toEqual({ 'site find': 1 })
  await client.send({ path: '/ahead', headers: { origin: null } })
  expect(await find('boats')).toEqual({ 'site version': 1, 'purge list read': 1 })
  expect(await find('planes')).toEqual({})
})

test('a prompt with passages: one site call more, for a miss and a hit from KV; none if the isolate remembers the search', async () => {
  const { port } = suite.upstream
  const site = suite.upstream.lane('site')
  site.answers((_, line) => {
    line.head(200, { 'content-type': 'text/html; charset=utf-8' })
    line.write('<title>Boats</title><main><p>A boat floats.</main>')
    line.end()
  })
  const variables = { q: { max_chars: 300 }, found: { from: 'site', about: 'q' } }
  const workers = await start({
    more: {
      origins: [ORIGIN, `http://127.0.0.1:${port}`],
      prompts: { ask: { text: '{{found}} {{q}}', variables } },
      free_prompts: true,
    },
  })
  // A Worker on this machine may read pages of this machine.
  const headers = { host: 'localhost' }
  const indexed = await workers.client().send({
    method: 'PUT',
    path: '/admin/site/page',
    headers: { ...headers, authorization: `Bearer ${OPERATOR_TOKEN}` },
    body: { url: `http://127.0.0.1:${port}/site/boats` },
  })
  expect([indexed.status, indexed.text]).toEqual([200, expect.stringContaining('"indexed"')])
  for (const i of [0, 1]) await workers.client(i).complete({ prompt: 'warm' })
  await expect.poll(async () => (await workers.kvEntries()).size).toBe(1)
  await counted(workers)
  const ask = async (isolate: number, q: string) =>
    statusOf(
      await workers.client(isolate).complete({ prompt: { id: 'ask', variables: { q } } }, headers),
    )
  const miss = { 'kv write': 1, 'flight fetch': 1, 'ledger reserve': 1, 'ledger settle': 1 }
  await ask(0, 'Do boats float?')
  await settled(workers, { ...miss, 'kv read': 2, 'site find': 1 })
  expect(await ask(0, 'do boats float')).toContain('detail=memory')
  expect(await counted(workers)).toEqual({})
  expect(await ask(1, 'Do boats float?')).toContain('detail=kv')
  expect(await counted(workers)).toEqual({ 'kv read': 1, 'site find': 1 })
  expect(await ask(1, 'Do boats float?')).toContain('detail=memory')
  expect(await counted(workers)).toEqual({})
  // The version of the index is looked up now and then.
  await workers.client(1).send({ path: '/ahead', headers: { origin: null } })
  await ask(1, 'Do boats float?')
  expect(await counted(workers)).toMatchObject({ 'site version': 1 })
  // Nothing is found: the search is all there is.
  await workers.client(1).complete({ prompt: { id: 'ask', variables: { q: 'Peru?' } } }, headers)
  expect(await counted(workers)).toEqual({ 'site find': 1 })
})
