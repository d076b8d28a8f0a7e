// Upstream failures over real sockets: what the runtime makes of a broken connection, the status and
// code for JSON and for a stream, the connection closed, nothing stored and no upstream text passed
// on. What each status and each odd body means is tested in process, in test/upstream/.
import { createServer } from 'node:net'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Code } from '../../src/errors.ts'
import { completionOf, expectProblem, requestEvent, streamOf } from '../support/answers.ts'
import { CANARY } from '../support/canary.ts'
import type { Client, Reply } from '../support/client.ts'
import { Lanes, type OwnModel } from '../support/lanes.ts'
import { countStored } from '../support/stored.ts'
import {
  chatStream,
  event,
  refusal,
  type Script,
  type UpstreamCall,
  UpstreamServer,
} from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers } from '../support/workerd.ts'

const kinds = {
  once: { retries: 0 },
  twice: { retries: 1 },
  impatient: { retries: 0, first_byte_ms: 200, idle_ms: 200, deadline_ms: 5000 },
  small: { retries: 0, max_output_bytes: 16_384 },
}

const suite = workerSuite()
let elsewhere: UpstreamServer
let lanes: Lanes<keyof typeof kinds | 'refused' | 'tls' | 'nowhere'>
let workers: Workers
let client: Client
let closed: string

beforeAll(async () => {
  elsewhere = await UpstreamServer.start()
  closed = `http://127.0.0.1:${await closedPort()}/v1`
  const broken = {
    refused: { retries: 0, base_url: closed },
    tls: { retries: 0, base_url: suite.upstream.url('tls').replace('http:', 'https:') },
    nowhere: { retries: 0, base_url: 'http://upstream.invalid/v1' },
  }
  lanes = new Lanes(suite, { ...kinds, ...broken }, 60)
  workers = await suite.share({ config: lanes.config() })
  client = workers.client()
})

afterAll(async () => {
  for (const model of failed) expect(await countStored(workers, model), model).toBe(0)
  const hints = workers.log.all('upstream_failed').map(({ hint }) => hint)
  expect(hints.filter((hint) => !/^[A-Z].{20,}\.$/.test(hint))).toEqual([])
  await elsewhere.stop()
})

async function closedPort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  await new Promise((resolve) => server.close(resolve))
  return typeof address === 'object' && address !== null ? address.port : 1
}

/** JSON and stream: both get an error status as long as no text has been sent. */
const ways = [
  ['JSON', false],
  ['a stream', true],
] as const

/** Models whose answers must not have been stored. */
const failed = new Set<string>()

/** Sends a request and expects an error that leaves only log lines. */
async function expectFailure(
  { model, lane }: OwnModel,
  stream: boolean,
  status: number,
  code: Code,
  calls = 1,
) {
  const reply = await client.complete({ prompt: 'once upon a time', model, stream })
  const problem = await expectProblem(reply, status, code, workers.log)
  await expectLetGo({ model, lane }, calls)
  return { ...problem, reply, failures: failuresOf(reply) }
}

const failuresOf = (reply: Reply, { log } = workers) =>
  log.all('upstream_failed', reply.headers['x-request-id'])

/** Expects this many calls, all their connections closed, and nothing stored. */
async function expectLetGo({ model, lane }: OwnModel, calls: number): Promise<void> {
  expect(lane.calls).toHaveLength(calls)
  await Promise.all(lane.calls.map(({ closed }) => closed))
  failed.add(model)
}

/** The text of an answer in either shape. */
function textOf(reply: Reply, stream: boolean): string | undefined {
  if (!stream) return completionOf(reply).choices[0]?.text
  expect(streamOf(reply)).toMatchObject({ done: true, problem: null })
  return streamOf(reply).text()
}

const one = event({ choices: [{ index: 0, delta: { content: 'one' } }] })
const sse = { 'content-type': 'text/event-stream' }
const chunked = { ...sse, 'transfer-encoding': 'chunked' }
const never: Script = () => {}

/** A 200 with this body, whose connection then ends. */
const sends =
  (body: string | Uint8Array, headers: Readonly<Record<string, string>>, status = 200): Script =>
  (_, line) => {
    line.head(status, headers)
    line.write(body)
    line.end()
  }

describe.each(ways)('%s from an unreachable upstream', (_, stream) => {
  test.each([
    ['refused', /No server answers at base_url/],
    ['tls', /TLS handshake/],
    ['nowhere', /host of base_url cannot be found/],
  ] as const)('%s is a 502 with a hint in the log', async (kind, hint) => {
    const { failures } = await expectFailure(
      lanes.take(kind),
      stream,
      502,
      'upstream_unavailable',
      0,
    )
    expect(failures[0]?.hint).toMatch(hint)
    // The runtime logs why it cannot connect, and nothing else.
    const lines = workers.log.takeRuntimeLines()
    expect(lines.every((line) => /lookup address|TLS handshake/.test(line))).toBe(true)
  })

  test.each<[string, Script]>([
    ['closes before its first byte', (_call, line) => line.end()],
    ['resets before its first byte', (_call, line) => line.reset()],
    [
      'sends something that is not HTTP',
      (call, line) => {
        line.write(`SSH-2.0-${call.headers['authorization']}\r\n`)
        line.end()
      },
    ],
    [
      'closes within its headers',
      (_call, line) => {
        line.write('HTTP/1.1 200 OK\r\nContent-Ty')
        line.end()
      },
    ],
    [
      'resets between headers and body',
      async (_call, line) => {
        line.head(200, chunked)
        await line.flushed()
        line.reset()
      },
    ],
  ])('is a 502 after one retry if the upstream %s', async (_name, script) => {
    const own = lanes.take('twice')
    own.lane.answers(script)
    await expectFailure(own, stream, 502, 'upstream_unavailable', 2)
  })

  test.each<[string, Script]>([
    ['before headers', never],
    ['within headers', (_call, line) => line.write('HTTP/1.1 200 OK\r\nContent-Type: text')],
    ['after headers', (_call, line) => line.head(200, chunked)],
    [
      'within an error response',
      (_call, line) => {
        line.head(500, { 'content-length': '1000' })
        line.write('{')
      },
    ],
  ])('that hangs %s is a 504, and the connection is closed', async (_name, script) => {
    const own = lanes.take('impatient')
    own.lane.answers(script)
    await expectFailure(own, stream, 504, 'upstream_timeout')
    expect((await own.lane.call()).left).toBe(true)
  })

  test('that answers the second time is an answer', async () => {
    const { model, lane } = lanes.take('twice')
    lane.answers(refusal(503), chatStream(['fine']))
    const reply = await client.complete({ prompt: 'p', model, stream })
    expect(textOf(reply, stream)).toBe('fine')
    expect(await requestEvent(reply, workers.log)).toMatchObject({ status: 200, attempts: 2 })
  })
})

describe('an answer that breaks off', () => {
  test.each<[string, number, Code, keyof typeof kinds, Script]>([
    [
      'silent between chunks',
      504,
      'upstream_timeout',
      'impatient',
      (_call, line) => {
        line.head(200, chunked)
        line.chunk(one)
      },
    ],
    [
      'reset between chunks',
      502,
      'upstream_truncated',
      'once',
      async (_call, line) => {
        line.head(200, chunked)
        line.chunk(one)
        await line.flushed()
        line.reset()
      },
    ],
    [
      'closed within a chunk',
      502,
      'upstream_truncated',
      'once',
      (_call, line) => {
        line.head(200, chunked)
        line.chunk(one)
        line.write('ff\r\ndata: {"choices":[{"ind')
        line.end()
      },
    ],
    [
      'shorter than its Content-Length',
      502,
      'upstream_truncated',
      'once',
      sends(one, { ...sse, 'content-length': '5000' }),
    ],
    ['cut where it looks like a clean end', 502, 'upstream_truncated', 'once', sends(one, sse)],
    [
      'longer than max_output_bytes',
      502,
      'upstream_bad_response',
      'small',
      async (call, line) => {
        line.head(200, chunked)
        line.chunk(one)
        while (!call.left) {
          line.chunk(`: ${'x'.repeat(1000)}\n`)
          await new Promise((resolve) => setImmediate(resolve))
        }
      },
    ],
  ])(
    '%s: a stream ends with an error event, JSON is a %i',
    async (_name, status, code, kind, script) => {
      const own = lanes.take(kind)
      own.lane.answers(script)
      const reply = await client.complete({ prompt: 'p', model: own.model, stream: true })
      const stream = streamOf(reply)
      expect([stream.text(), stream.problem?.code, stream.done]).toEqual(['one', code, false])
      expect(await requestEvent(reply, workers.log)).toMatchObject({ status: 200, code })
      await expectLetGo(own, 1)
      const whole = lanes.take(kind)
      whole.lane.answers(script)
      await expectFailure(whole, false, status, code)
    },
  )

  test('breaks off a text/plain stream, which has no other way to report an error', async () => {
    const own = lanes.take('once')
    own.lane.answers(sends(one, sse))
    const incoming = await client.open({
      method: 'POST',
      body: { prompt: 'p', model: own.model, stream: true },
      headers: { accept: 'text/plain' },
    })
    expect(incoming.headers['content-type']).toBe('text/plain; charset=utf-8')
    expect(['', 'one']).toContain(await incoming.rest())
    expect(incoming.broken).toBe(true)
    await expectLetGo(own, 1)
    // The runtime logs the aborted response, with our reason.
    await expect.poll(() => workers.log.takeRuntimeLines().join()).toContain('the answer broke off')
  })
})

const zipped = (bytes: Uint8Array) =>
  sends(bytes, { 'content-type': 'application/json', 'content-encoding': 'gzip' })
const whole = JSON.stringify({
  choices: [{ index: 0, message: { content: 'fine' }, finish_reason: 'stop' }],
})
const open = JSON.stringify({ choices: [{ index: 0, message: { content: 'fine' } }] })
const measured = (by: number) => sends(open, { 'content-length': String(open.length + by) })

test.each<[string, Code, Script]>([
  [
    'HTML',
    'upstream_bad_response',
    sends(`<html><h1>Welcome ${CANARY}</h1></html>`, { 'content-type': 'text/html' }),
  ],
  ['204', 'upstream_bad_response', sends('', {}, 204)],
  ['something that is not gzip', 'upstream_bad_response', zipped(Buffer.from(`not ${CANARY}`))],
  [
    'a decompression bomb',
    'upstream_bad_response',
    zipped(gzipSync(Buffer.alloc(50_000_000, ' '))),
  ],
  ['less than its Content-Length', 'upstream_truncated', measured(10)],
  ['more than its Content-Length', 'upstream_truncated', measured(-10)],
  ['the status 101', 'upstream_rejected', refusal(101, { error: CANARY })],
  ['the status 199', 'upstream_unavailable', refusal(199, { error: CANARY })],
  ['the status 999', 'upstream_rejected', refusal(999, { error: CANARY })],
])('%s instead of an answer is a 502 %s', async (_, code, script) => {
  for (const [, stream] of ways) {
    const own = lanes.take('once')
    own.lane.answers(script)
    await expectFailure(own, stream, 502, code)
  }
})

test('a compressed answer is read', async () => {
  const { model, lane } = lanes.take('once')
  lane.answers(zipped(gzipSync(whole)))
  expect(textOf(await client.complete({ prompt: 'p', model }), false)).toBe('fine')
})

describe.each(ways)('%s from an upstream that refuses', (_, stream) => {
  test.each<[number, number, Code]>([
    [400, 400, 'upstream_refused_request'],
    [401, 502, 'upstream_rejected'],
  ])('with %i is a %i %s without upstream text', async (from, status, code) => {
    const own = lanes.take('twice')
    own.lane.answers(
      refusal(
        from,
        ({ headers, path }: UpstreamCall) => ({
          error: {
            message: `Nothing here for ${headers['authorization']} at ${path}`,
            type: `t-${headers['authorization']}`,
            param: headers['authorization'],
            code: CANARY,
          },
        }),
        { 'www-authenticate': `Bearer realm="${CANARY}"`, 'openai-organization': CANARY },
      ),
    )
    const { message, reply, failures } = await expectFailure(own, stream, status, code)
    expect(message).not.toMatch(/Nothing here|127\.0\.0\.1/)
    expect(reply.headers['www-authenticate']).toBeUndefined()
    expect(failures).toMatchObject([{ status: from, upstream: own.model, will: 'give_up' }])
  })

  test('because its quota is exhausted says so, with a Retry-After of an hour', async () => {
    const own = lanes.take('twice')
    own.lane.answers(refusal(402))
    const { message, reply } = await expectFailure(own, stream, 429, 'upstream_rate_limited')
    expect(message).toMatch(/quota .* is used up/)
    expect(reply.headers).toMatchObject({ 'retry-after': '3600', 'x-should-retry': 'false' })
  })

  test.each([[301], [302], [303], [307], [308]])(
    'with %i is not followed, to the same or another host',
    async (status) => {
      for (const target of [suite.upstream.url('trap'), elsewhere.url('trap'), null]) {
        const own = lanes.take('once')
        const location = target ?? suite.upstream.url(own.model)
        own.lane.answers(refusal(status, {}, { location }))
        await expectFailure(own, stream, 502, 'upstream_rejected')
      }
      expect(suite.upstream.lane('trap').calls).toEqual([])
      expect(elsewhere.lane('trap').calls).toEqual([])
    },
  )
})

test('a retry waits as long as Retry-After says', async () => {
  const { model, lane } = lanes.take('twice')
  const at: number[] = []
  lane.answers(
    (call, line) => {
      at.push(performance.now())
      return refusal(429, {}, { 'retry-after': '1' })(call, line)
    },
    (call, line) => {
      at.push(performance.now())
      return chatStream(['fine'])(call, line)
    },
  )
  expect(textOf(await client.complete({ prompt: 'p', model }), false)).toBe('fine')
  const [first = 0, second = 0] = at
  expect(second - first).toBeGreaterThanOrEqual(990)
  expect(second - first).toBeLessThanOrEqual(3000)
})

describe('a route', () => {
  let routed: Workers

  beforeAll(async () => {
    const { upstream } = suite
    const key = { key: 'UPSTREAM_API_KEY', retries: 0 }
    const fallbacks = [{ upstream: 'v', upstream_model: 'w' }]
    routed = await suite.share({
      config: suite.config('u', {
        models: [
          { id: 'down', upstream: 'u', upstream_model: 'down' },
          { id: 'up', upstream: 'u', upstream_model: 'up' },
          { id: 'covered', upstream: 'u', upstream_model: 'down', fallbacks },
          { id: 'refused', upstream: 'refused', upstream_model: 'm', fallbacks },
          { id: 'hanging', upstream: 'hanging', upstream_model: 'm', fallbacks },
          { id: 'renamed', upstream: 'renamed', upstream_model: 'm' },
        ],
        upstreams: [
          { name: 'u', base_url: upstream.url('u'), ...key },
          { name: 'v', base_url: upstream.url('v'), ...key },
          { name: 'refused', base_url: closed, ...key },
          { name: 'hanging', base_url: upstream.url('hanging'), ...key, first_byte_ms: 150 },
          { name: 'renamed', base_url: upstream.url('renamed'), ...key },
        ],
      }),
    })
    upstream.lane('v').answers(chatStream(['instead'], { model: 'w-1' }))
    upstream.lane('hanging').answers(never)
    upstream
      .lane('u')
      .answers((call, line) =>
        (call.body['model'] === 'down' ? refusal(503) : chatStream(['fine']))(call, line),
      )
  })

  let prompts = 0
  const ask = (model: string, stream = false) => {
    prompts += 1
    return routed.client().complete({ model, stream, prompt: `prompt ${prompts}`, max_tokens: 9 })
  }

  test.each<[string, string, Code]>([
    ['refuses connections', 'refused', 'upstream_unavailable'],
    ['hangs', 'hanging', 'upstream_timeout'],
    ['says 503', 'covered', 'upstream_unavailable'],
  ])('goes on to the fallback when the first upstream %s', async (_, model, code) => {
    for (const [, stream] of ways) {
      const reply = await ask(model, stream)
      expect(textOf(reply, stream)).toBe('instead')
      expect(await requestEvent(reply, routed.log)).toMatchObject({ attempts: 2, upstream: 'v' })
      expect(failuresOf(reply, routed)).toMatchObject([{ code, will: 'fall_back' }])
      const id = reply.headers['x-request-id']
      const generated = await routed.log.find(
        (one) => one.event === 'generated' && one.request_id === id,
      )
      expect(generated).toMatchObject({ upstream: 'v', upstream_id: 'upstream-id-1' })
    }
  })

  test('skips a model that keeps failing, while its upstream serves another one', async () => {
    const { calls } = suite.upstream.lane('u')
    for (let i = 0; calls.length < 10; i++) {
      expect(i).toBeLessThan(10)
      await expectProblem(await ask('down'), 502, 'upstream_unavailable', routed.log)
    }
    const suspended = await ask('down')
    const { message } = await expectProblem(suspended, 502, 'upstream_unavailable', routed.log)
    expect(message).toContain('suspended for a few seconds')
    expect(Number(suspended.headers['retry-after'])).toBeGreaterThan(5)
    expect(Number(suspended.headers['retry-after'])).toBeLessThanOrEqual(15)
    expect(calls).toHaveLength(10)
    expect(textOf(await ask('up'), false)).toBe('fine')
    const covered = await ask('covered')
    expect(textOf(covered, false)).toBe('instead')
    expect(await requestEvent(covered, routed.log)).toMatchObject({ attempts: 1, upstream: 'v' })
    expect(calls).toHaveLength(11)
  })

  test('learns the name of the token limit from a refusal, once', async () => {
    const lane = suite.upstream.lane('renamed')
    const message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    const error = { message, param: 'max_tokens', code: 'unsupported_parameter' }
    lane.answers((call, line) =>
      ('max_tokens' in call.body ? refusal(400, { error }) : chatStream(['fine']))(call, line),
    )
    const first = await ask('renamed', true)
    expect(textOf(first, true)).toBe('fine')
    expect(failuresOf(first, routed)).toMatchObject([
      {
        will: 'retry',
        hint: expect.stringContaining('max_tokens_field = "max_completion_tokens"'),
      },
    ])
    expect(textOf(await ask('renamed'), false)).toBe('fine')
    expect(lane.calls).toHaveLength(3)
    expect(lane.calls[2]?.body).toMatchObject({ max_completion_tokens: 9 })
  })
})

describe('headers of an upstream', () => {
  test('are not passed on', async () => {
    const { model, lane } = lanes.take('once')
    const headers = {
      'set-cookie': `session=${CANARY}`,
      'openai-organization': CANARY,
      'x-request-id': CANARY,
      'cache-control': 'public, max-age=31536000',
      'access-control-allow-origin': '*',
      'access-control-allow-credentials': 'true',
      'x-long': 'x'.repeat(60_000),
    }
    lane.answers(chatStream(['fine'], { headers }))
    const reply = await client.complete({ prompt: 'p', model, stream: true })
    expect(streamOf(reply).text()).toBe('fine')
    expect(Object.keys(reply.headers).sort()).toEqual(
      [
        'access-control-allow-origin',
        'access-control-expose-headers',
        'cache-control',
        'cache-status',
        'connection',
        'content-type',
        'server-timing',
        'timing-allow-origin',
        'transfer-encoding',
        'vary',
        'x-content-type-options',
        'x-request-id',
      ].sort(),
    )
    expect(reply.headers['cache-control']).toBe('no-store')
  })

  test('of 300 KB are accepted or rejected, without a crash', async () => {
    const { model, lane } = lanes.take('once')
    lane.answers(chatStream(['fine'], { headers: { 'x-long': 'x'.repeat(300_000) } }))
    const reply = await client.complete({ prompt: 'p', model })
    if (reply.status === 200) expect(textOf(reply, false)).toBe('fine')
    else await expectProblem(reply, 502, 'upstream_unavailable', workers.log)
  })
})
