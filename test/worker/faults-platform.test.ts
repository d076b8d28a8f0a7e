// A missing or broken platform under the Worker, in workerd: visitors get a clear error or notice
// nothing, the owner gets a log line, and nobody gets a stack trace or a key.
import { describe, expect, test } from 'vitest'
import { completionOf, expectProblem, requestEvent } from '../support/answers.ts'
import { CANARY } from '../support/canary.ts'
import { ORIGIN } from '../support/client.ts'
import { chatStream } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers, WorkersOptions } from '../support/workerd.ts'

const suite = workerSuite()
const configOf = (more = {}) => suite.config('u', more)
const calls = () => suite.upstream.lane('u').calls.length

/** A CONFIG that needs no upstream of its own. */
const demo = {
  origins: [ORIGIN],
  models: [{ id: 'm', upstream: 'd', upstream_model: 'm' }],
  upstreams: [{ name: 'd', preset: 'demo', retries: 0 }],
}

/** Disables the memory cache, so that requests reach KV. */
const KV_ONLY = { cache: { memory_seconds: 0, flights: 'none' } }

async function start(options: WorkersOptions = {}): Promise<Workers> {
  suite.upstream.lane('u').answers(chatStream(['fine']))
  const secrets = { UPSTREAM_API_KEY: CANARY }
  return await suite.start({ config: configOf(), secrets, ...options })
}

/** A main module that breaks something of the platform before it loads the Worker. */
function broken(code: string): string {
  return `
    import worker from './worker.js'
    export * from './worker.js'
    ${code}
  `
}

async function healthOf(workers: Workers): Promise<{ status: number; faults: { path: string }[] }> {
  const { status, text } = await workers.client().send({ path: '/health' })
  return { status, faults: JSON.parse(text).faults }
}

describe('a Worker without', () => {
  const cases: [string, WorkersOptions, string][] = [
    ['its KV namespace', { without: ['CACHE'] }, 'CACHE'],
    ['its static files', { without: ['ASSETS'] }, 'ASSETS'],
    ['its CONFIG', { without: ['CONFIG'] }, ''],
    ['a secret', { secrets: {} }, 'upstreams[0].key'],
    ['a valid secret', { secrets: { UPSTREAM_API_KEY: `${CANARY} \n x` } }, 'upstreams[0].key'],
  ]
  test.each(cases)(
    '%s reports it to the owner and answers 503 to visitors',
    async (_, options, path) => {
      const before = calls()
      const workers = await start(options)
      for (const origin of [ORIGIN, 'https://not-listed.example', null]) {
        for (const sent of [
          { method: 'POST', body: { prompt: 'p' } },
          { path: '/v1/completions?prompt=p' },
          { path: '/v1/models' },
          { method: 'PUT', path: '/v1/models' },
          { method: 'POST', path: '/v1/visitors' },
          { path: '/openapi.json' },
        ]) {
          const reply = await workers.client().send({ ...sent, headers: { origin } })
          await expectProblem(reply, 503, 'misconfigured', workers.log, '*')
          expect(reply.text).not.toContain('UPSTREAM_API_KEY')
        }
      }
      const health = await healthOf(workers)
      expect(health.status).toBe(503)
      expect(health.faults.map((fault) => fault.path)).toContain(path)
      await workers.log.find((event) => event.event === 'misconfigured')
      expect(calls()).toBe(before)
    },
  )
})

describe('when the platform breaks', () => {
  test('without the demo model’s text the demo upstream is unavailable, until it can be read', async () => {
    const main = broken(`
      import { env } from 'cloudflare:workers'
      const files = Object.getPrototypeOf(env.ASSETS)
      const read = files.fetch
      globalThis.failures ??= 2
      files.fetch = async function (...given) {
        // The simulated rate limit is called in the same way.
        if (globalThis.failures === 0 || !/demo-text/.test(given[0])) return await read.apply(this, given)
        globalThis.failures -= 1
        if (globalThis.failures === 0) throw new Error('secret words')
        return new Response('secret words', { status: 404 })
      }
      export default worker
    `)
    for (const flights of ['global', 'none']) {
      const workers = await start({ main, config: { ...demo, cache: { flights } } })
      for (const _ of ['not found', 'thrown']) {
        const reply = await workers.client().complete({ prompt: 'Alice was' })
        await expectProblem(reply, 502, 'upstream_unavailable', workers.log)
        const id = String(reply.headers['x-request-id'])
        expect(
          await workers.log.find(
            (event) => event.event === 'upstream_failed' && event.request_id === id,
          ),
        ).toMatchObject({ hint: expect.stringContaining('demo-text.txt') })
        expect(reply.text).not.toContain('secret words')
      }
      expect(JSON.stringify(workers.log.events)).not.toContain('secret words')
      completionOf(await workers.client().complete({ prompt: 'Alice was' }))
    }
  })

  test('an unexpected exception is a 500 with CORS headers and an id, and no stack trace', async () => {
    const main = broken(`
      crypto.subtle.digest = () => {
        throw new Error('secret words ${CANARY}')
      }
      export default worker
    `)
    const before = calls()
    const workers = await start({ main })
    for (const stream of [false, true]) {
      const reply = await workers.client().complete({ prompt: 'p', stream })
      const { message } = await expectProblem(reply, 500, 'internal', workers.log)
      expect(message).not.toMatch(/secret words|digest|worker\.js/)
      expect(reply.text).not.toMatch(/\bat /)
      const id = String(reply.headers['x-request-id'])
      expect(workers.log.all('internal', id)).toMatchObject([{ name: 'Error' }])
    }
    expect(JSON.stringify(workers.log.events)).not.toContain('secret words')
    expect(calls()).toBe(before)
    // The suite expects no internal errors.
    workers.log.events.splice(0)
  })

  const kvs: [string, string, 'get' | 'put', 'error' | 'timeout'][] = [
    [
      'throws on read',
      "get() { throw new Error('KV GET failed: 500') }, put: async () => {}",
      'get',
      'error',
    ],
    ['hangs on read', 'get: () => new Promise(() => {}), put: async () => {}', 'get', 'timeout'],
    [
      'rejects on write',
      "get: async () => null, put: async () => { throw new Error('KV PUT failed: 429') }",
      'put',
      'error',
    ],
  ]
  test.each(kvs)('a KV that %s fails no request', async (_, methods, operation, reason) => {
    const main = broken(`
      import { env } from 'cloudflare:workers'
      Object.assign(Object.getPrototypeOf(env.CACHE), { ${methods} })
      export default worker
    `)
    const workers = await start({ main, config: configOf(KV_ONLY) })
    const startedAt = performance.now()
    const reply = await workers.client().complete({ prompt: 'p' })
    expect(completionOf(reply).choices[0]?.text).toBe('fine')
    expect(performance.now() - startedAt).toBeLessThan(10_000)
    const failed = await workers.log.find((event) => event.event === 'cache_failed')
    expect(failed).toEqual({ event: 'cache_failed', operation, reason })
    expect(workers.log.all('internal')).toEqual([])
    // The next request succeeds, too.
    completionOf(await workers.client().complete({ prompt: 'q' }))
  })

  test('an invalid stored value is a miss and is replaced', async () => {
    const workers = await start({ config: configOf(KV_ONLY) })
    const first = await workers.client().complete({ prompt: 'p' })
    const [[key] = ['']] = await workers.kvEntries()
    for (const bad of ['null', '{"v":1}', '<html>', '{"key":"other"}', 'x'.repeat(300_000)]) {
      await workers.kvPut(key, bad)
      const reply = await workers.client().complete({ prompt: 'p' })
      expect(completionOf(reply).id).not.toBe(completionOf(first).id)
      expect((await requestEvent(reply, workers.log)).cache).toBe('miss')
    }
    const reasons = workers.log.all('cache_failed').map(({ reason }) => reason)
    expect(new Set(reasons)).toEqual(new Set(['bad_value']))
    expect(reasons.length).toBeGreaterThanOrEqual(5)
  })
})
