// Upstream failures over real sockets: the status and code for JSON and for a stream, the number of
// calls, the connection closed, nothing stored and no upstream text passed on. The scripts repeat
// the canary key wherever an upstream could.
import { createServer } from 'node:net'
import { gzipSync } from 'node:zlib'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { modelName } from '../../src/cache/names.ts'
import type { Code } from '../../src/errors.ts'
import { completionOf, expectProblem, requestEvent, streamOf } from '../support/answers.ts'
import { CANARY } from '../support/canary.ts'
import { type Client, ORIGIN } from '../support/client.ts'
import { Lanes, type OwnModel } from '../support/lanes.ts'
import { expectQuiet } from '../support/quiet.ts'
import {
  chatStream,
  event,
  json,
  refusal,
  type Script,
  type UpstreamCall,
  UpstreamServer,
  USAGE,
} from '../support/upstream-server.ts'
import { startWorkers, type Workers } from '../support/workerd.ts'

const kinds = {
  once: { retries: 0 },
  twice: { retries: 1 },
  legacy: { retries: 0, wire: 'completions' },
  impatient: { retries: 0, first_byte_ms: 200, idle_ms: 200, deadline_ms: 5000 },
  dated: { retries: 0, first_byte_ms: 400, idle_ms: 400, deadline_ms: 600 },
  small: { retries: 0, max_output_bytes: 16_384 },
}

let upstream: UpstreamServer
let elsewhere: UpstreamServer
let lanes: Lanes<keyof typeof kinds | 'refused' | 'tls' | 'nowhere'>
let workers: Workers
let client: Client

beforeAll(async () => {
  upstream = await UpstreamServer.start()
  elsewhere = await UpstreamServer.start()
  const broken = {
    refused: { retries: 0, base_url: `http://127.0.0.1:${await closedPort()}/v1` },
    tls: { retries: 0, base_url: upstream.url('tls').replace('http:', 'https:') },
    nowhere: { retries: 0, base_url: 'http://upstream.invalid/v1' },
  }
  lanes = new Lanes({ upstream }, { ...kinds, ...broken }, 160)
  workers = await startWorkers({ config: lanes.config() })
  client = workers.client()
})

afterAll(async () => {
  const stored = [...(await workers.kvEntries()).values()]
  const unexplained = workers.log
    .all('upstream_failed')
    .filter(({ hint }) => !/^[A-Z].{20,}\.$/.test(hint))
  await workers.dispose()
  await Promise.all([upstream.stop(), elsewhere.stop()])
  const names = [...failed].map((model) => JSON.stringify(modelName(model)))
  expect(stored.filter((value) => names.some((name) => value.includes(name)))).toEqual([])
  expect(unexplained, 'every failed attempt has a hint').toEqual([])
})

afterEach(() => {
  expectQuiet(workers.log)
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

function ask(model: string, stream: boolean, more = {}) {
  return client.complete({ prompt: 'once upon a time', model, stream, ...more })
}

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
  const reply = await ask(model, stream)
  const problem = await expectProblem(reply, status, code, workers.log)
  await expectLetGo({ model, lane }, calls)
  return { ...problem, reply }
}

/** Expects this many calls, all their connections closed, and nothing stored. */
async function expectLetGo({ model, lane }: OwnModel, calls: number): Promise<void> {
  expect(lane.calls).toHaveLength(calls)
  await Promise.all(lane.calls.map(({ closed }) => closed))
  failed.add(model)
}

/** Requests a stream; expects `text`, then the error, and no `[DONE]`. */
async function expectBrokenStream(own: OwnModel, text: string, code: Code) {
  const reply = await ask(own.model, true)
  const stream = streamOf(reply)
  expect(stream.text()).toBe(text)
  expect(stream.problem?.code).toBe(code)
  expect(stream.done).toBe(false)
  expect(await requestEvent(reply, workers.log)).toMatchObject({ status: 200, code })
  await expectLetGo(own, 1)
}

const contentEvent = (content: string) => event({ choices: [{ index: 0, delta: { content } }] })
const sseHead = { 'content-type': 'text/event-stream', 'transfer-encoding': 'chunked' }
/** Sends "one" and goes silent. */
const silentAfterOne: Script = (_, line) => {
  line.head(200, sseHead)
  line.chunk(contentEvent('one'))
}
const never: Script = () => {}

describe.each(ways)('%s from an unreachable upstream', (_, stream) => {
  test.each([
    ['refused', /No server answers at base_url/],
    ['tls', /TLS handshake/],
    ['nowhere', /host of base_url cannot be found/],
  ] as const)('%s is a 502 with a hint in the log', async (kind, hint) => {
    const { model } = lanes.take(kind)
    const reply = await ask(model, stream)
    await expectProblem(reply, 502, 'upstream_unavailable', workers.log)
    const [failure] = workers.log.all('upstream_failed', String(reply.headers['x-request-id']))
    expect(failure?.hint).toMatch(hint)
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
        line.head(200, sseHead)
        await line.flushed()
        line.reset()
      },
    ],
  ])('is a 502 after one retry if the upstream %s', async (_name, script) => {
    const own = lanes.take('twice')
    own.lane.answers(script)
    await expectFailure(own, stream, 502, 'upstream_unavailable', 2)
  })
})

describe.each(ways)('%s from an upstream that hangs', (_, stream) => {
  test.each<[string, Script]>([
    ['before headers', never],
    ['within headers', (_call, line) => line.write('HTTP/1.1 200 OK\r\nContent-Type: text')],
    ['after headers', (_call, line) => line.head(200, sseHead)],
    [
      'after the role, before any text',
      (_call, line) => {
        line.head(200, sseHead)
        line.chunk(event({ choices: [{ index: 0, delta: { role: 'assistant', content: '' } }] }))
      },
    ],
    [
      'within an error response',
      (_call, line) => {
        line.head(500, { 'content-length': '1000' })
        line.write('{')
      },
    ],
  ])('%s is a 504, and the connection is closed', async (_name, script) => {
    const own = lanes.take('impatient')
    own.lane.answers(script)
    await expectFailure(own, stream, 504, 'upstream_timeout')
    expect((await own.lane.call()).left).toBe(true)
  })

  test('and sends an endless slow stream ends at its deadline', async () => {
    const own = lanes.take('dated')
    own.lane.answers((call, line) => {
      line.head(200, sseHead)
      const drip = setInterval(() => line.chunk(':'), 50)
      call.closed.then(() => clearInterval(drip))
    })
    await expectFailure(own, stream, 504, 'upstream_timeout')
    expect((await own.lane.call()).left).toBe(true)
  })
})

describe('an answer that breaks off', () => {
  const breaks: [string, Code, OwnModelKind, Script][] = [
    ['silent between chunks', 'upstream_timeout', 'impatient', silentAfterOne],
    [
      'slower than the deadline',
      'upstream_timeout',
      'dated',
      (call, line) => {
        line.head(200, sseHead)
        line.chunk(contentEvent('one'))
        const drip = setInterval(() => line.chunk(':'), 50)
        call.closed.then(() => clearInterval(drip))
      },
    ],
    [
      'reset between chunks',
      'upstream_truncated',
      'once',
      async (_call, line) => {
        line.head(200, sseHead)
        line.chunk(contentEvent('one'))
        await line.flushed()
        line.reset()
      },
    ],
    [
      'closed within a chunk',
      'upstream_truncated',
      'once',
      (_call, line) => {
        line.head(200, sseHead)
        line.chunk(contentEvent('one'))
        line.write('ff\r\ndata: {"choices":[{"ind')
        line.end()
      },
    ],
    [
      'shorter than its Content-Length',
      'upstream_truncated',
      'once',
      (_call, line) => {
        line.head(200, { 'content-type': 'text/event-stream', 'content-length': '5000' })
        line.write(contentEvent('one'))
        line.end()
      },
    ],
    [
      'cut where it looks like a clean end',
      'upstream_truncated',
      'once',
      (_call, line) => {
        line.head(200, { 'content-type': 'text/event-stream' })
        line.write(contentEvent('one'))
        line.end()
      },
    ],
    [
      'cut within an event',
      'upstream_truncated',
      'once',
      (_call, line) => {
        line.head(200, { 'content-type': 'text/event-stream' })
        line.write(`${contentEvent('one')}data: {"choices":[{"index":0,"del`)
        line.end()
      },
    ],
    [
      'turning into an error',
      'upstream_bad_response',
      'once',
      (call, line) => {
        line.head(200, sseHead)
        line.chunk(contentEvent('one'))
        line.chunk(event({ error: { message: `bad key ${call.headers['authorization']}` } }))
        line.lastChunk()
      },
    ],
    [
      'turning into nonsense',
      'upstream_bad_response',
      'once',
      (call, line) => {
        line.head(200, sseHead)
        line.chunk(contentEvent('one'))
        line.chunk(`data: {nonsense ${call.headers['authorization']}\n\n`)
        line.lastChunk()
      },
    ],
    [
      'longer than max_output_bytes',
      'upstream_bad_response',
      'small',
      async (call, line) => {
        line.head(200, sseHead)
        line.chunk(contentEvent('one'))
        while (!call.left) {
          line.chunk(`: ${'x'.repeat(1000)}\n`)
          await new Promise((resolve) => setImmediate(resolve))
        }
      },
    ],
  ]

  type OwnModelKind = keyof typeof kinds
  const statuses: Partial<Record<Code, number>> = { upstream_timeout: 504 }

  test.each(breaks)('%s: a stream ends with an error event', async (_name, code, kind, script) => {
    const own = lanes.take(kind)
    own.lane.answers(script)
    await expectBrokenStream(own, 'one', code)
  })

  test.each(breaks)(
    '%s: a JSON request gets an error status',
    async (_name, code, kind, script) => {
      const own = lanes.take(kind)
      own.lane.answers(script)
      await expectFailure(own, false, statuses[code] ?? 502, code)
    },
  )

  test('breaks off a text/plain stream, which has no other way to report an error', async () => {
    const own = lanes.take('once')
    own.lane.answers((_call, line) => {
      line.head(200, sseHead)
      line.chunk(contentEvent('one'))
      line.end()
    })
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
    expect(workers.log.takeRuntimeLines().join()).toContain('the answer broke off')
  })
})

describe.each(ways)('%s from an upstream whose 200 is not a completion', (_, stream) => {
  const html = `<html><h1>Welcome ${CANARY}</h1></html>`
  test.each<[string, Script]>([
    [
      'HTML',
      (_call, line) => {
        line.head(200, { 'content-type': 'text/html' })
        line.write(html)
        line.end()
      },
    ],
    [
      'nothing',
      (_call, line) => {
        line.head(200, { 'content-type': 'application/json', 'content-length': '0' })
        line.end()
      },
    ],
    [
      '204',
      (_call, line) => {
        line.head(204)
        line.end()
      },
    ],
    ['an error object', json({ error: { message: `bad ${CANARY}`, type: 'x' } })],
    ['another object', json({ object: 'list', data: [{ id: CANARY }] })],
    ['no choices', json({ object: 'chat.completion', choices: [] })],
    ['an empty list', json([])],
    ['a list of nonsense', json([CANARY])],
    ['a number', json(7)],
    ['a string', json(CANARY)],
    ['null', json(null)],
    ['a choice without text', json({ choices: [{ index: 0 }] })],
    [
      'a finish of "error"',
      json({ choices: [{ index: 0, message: { content: 'x' }, finish_reason: 'error' }] }),
    ],
    [
      'a stream of comments only',
      (_call, line) => {
        line.head(200, sseHead)
        line.chunk(': nothing\n\n')
        line.lastChunk()
      },
    ],
    [
      'only [DONE]',
      (_call, line) => {
        line.head(200, sseHead)
        line.chunk(event('[DONE]'))
        line.lastChunk()
      },
    ],
  ])('%s is a 502', async (_name, script) => {
    const own = lanes.take('once')
    own.lane.answers(script)
    await expectFailure(own, stream, 502, 'upstream_bad_response')
  })
})

describe.each(ways)('%s from an upstream that refuses', (_, stream) => {
  test.each<[number, number, Code]>([
    [400, 400, 'upstream_refused_request'],
    [413, 400, 'upstream_refused_request'],
    [422, 400, 'upstream_refused_request'],
    [401, 502, 'upstream_rejected'],
    [402, 429, 'upstream_rate_limited'],
    [403, 502, 'upstream_rejected'],
    [404, 502, 'upstream_rejected'],
    [418, 502, 'upstream_rejected'],
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
    const { message, reply } = await expectFailure(own, stream, status, code)
    expect(message).not.toMatch(/Nothing here|127\.0\.0\.1/)
    expect(reply.headers['www-authenticate']).toBeUndefined()
    const failed = workers.log.all('upstream_failed', String(reply.headers['x-request-id']))
    expect(failed).toMatchObject([{ status: from, upstream: own.model, will: 'give_up' }])
    if (from === 401) expect(failed[0]?.hint).toContain('key')
  })

  test.each<[string, Record<string, string>, number, number]>([
    ['5', { 'retry-after': '5' }, 5, 5],
    ['a date', { 'retry-after': 'in 60 s' }, 55, 60],
    ['-1', { 'retry-after': '-1' }, 10, 10],
    ['an excessive value', { 'retry-after': '1000000000' }, 300, 300],
    ['garbage', { 'retry-after': `soon ${CANARY}` }, 10, 10],
    ['nothing', {}, 10, 10],
  ])('with 429 and Retry-After %s is a 429 without a retry', async (_n, headers, min, max) => {
    const own = lanes.take('twice')
    const inAMinute = new Date(Date.now() + 60_000).toUTCString()
    const sent = headers['retry-after'] === 'in 60 s' ? { 'retry-after': inAMinute } : headers
    own.lane.answers(refusal(429, undefined, sent))
    const { reply } = await expectFailure(own, stream, 429, 'upstream_rate_limited')
    expect(Number(reply.headers['retry-after'])).toBeGreaterThanOrEqual(min)
    expect(Number(reply.headers['retry-after'])).toBeLessThanOrEqual(max)
  })

  test.each<[string, Script]>([
    ['429', refusal(429, { error: { message: 'no', code: 'insufficient_quota' } })],
    ['402', refusal(402)],
    ['403', refusal(403, { error: { message: '用户额度不足', type: 'one_api_error' } })],
    ['400', refusal(400, { error: { message: 'Your credit balance is too low', type: 'x' } })],
    ['429 and Retry-After', refusal(429, { error: 'Quota exceeded' }, { 'retry-after': '1' })],
    ['a 200', json({ error: { message: 'Insufficient Balance', code: 'invalid_request_error' } })],
    [
      'an event',
      (_call, line) => {
        line.head(200, sseHead)
        line.chunk(event({ error: { type: 'insufficient_quota' } }))
        line.lastChunk()
      },
    ],
  ])(
    'because its quota is exhausted (%s) says so, with a Retry-After of an hour',
    async (_n, script) => {
      const own = lanes.take('twice')
      own.lane.answers(script)
      const { message, reply } = await expectFailure(own, stream, 429, 'upstream_rate_limited')
      expect(message).toMatch(/quota .* is used up/)
      expect(reply.headers).toMatchObject({ 'retry-after': '3600', 'x-should-retry': 'false' })
      const [failure] = workers.log.all('upstream_failed', String(reply.headers['x-request-id']))
      expect(failure?.hint).toMatch(/account at the upstream/)
    },
  )

  test.each<[string, number, unknown, number, Code, RegExp]>([
    [
      'a wrong key for a LiteLLM without a database',
      400,
      { error: { message: 'No connected db.', type: 'no_db_connection', code: '400' } },
      502,
      'upstream_rejected',
      /upstream's key/,
    ],
    [
      'a model that LiteLLM does not have',
      400,
      {
        error: { message: 'Invalid model name passed in model=m. Call `/v1/models`', code: '400' },
      },
      502,
      'upstream_rejected',
      /upstream_model/,
    ],
    [
      'a model without a channel in one-api',
      503,
      { error: { message: '当前分组 default 下对于模型 m 无可用渠道', type: 'one_api_error' } },
      502,
      'upstream_unavailable',
      /upstream_model/,
    ],
    [
      'a key that Gemini rejects',
      400,
      [{ error: { code: 400, message: 'API key not valid. Please pass a valid API key.' } }],
      502,
      'upstream_rejected',
      /upstream's key/,
    ],
    [
      'a text that is too long for llama.cpp',
      400,
      { error: { code: 400, message: 'too long', type: 'exceed_context_size_error' } },
      400,
      'upstream_refused_request',
      /limits\.prompt_chars/,
    ],
    [
      'a content filter',
      400,
      { error: { message: 'filtered', code: 'content_filter' } },
      400,
      'upstream_refused_request',
      /content filter/,
    ],
    [
      'an HTML page',
      403,
      '<!doctype html><title>Just a moment…</title>',
      502,
      'upstream_rejected',
      /HTML/,
    ],
  ])('with %s gives the owner a hint', async (_n, from, error, status, code, hint) => {
    const own = lanes.take('once')
    const text = typeof error === 'string' ? error : JSON.stringify(error)
    own.lane.answers((_call, line) => {
      line.head(from, { 'content-type': 'application/json' })
      line.write(text)
      line.end()
    })
    const { message, reply } = await expectFailure(own, stream, status, code)
    const [failure] = workers.log.all('upstream_failed', String(reply.headers['x-request-id']))
    expect(failure).toMatchObject({
      status: from,
      model: own.model,
      hint: expect.stringMatching(hint),
    })
    if (status !== 400) expect(message).not.toMatch(/this request/i)
  })

  test.each([[500], [502], [503], [529]])('with %i is retried once', async (status) => {
    const own = lanes.take('twice')
    own.lane.answers(refusal(status))
    await expectFailure(own, stream, 502, 'upstream_unavailable', 2)
  })

  test('once and then answers is an answer', async () => {
    const own = lanes.take('twice')
    own.lane.answers(refusal(503), chatStream(['fine']))
    const reply = await ask(own.model, stream)
    if (stream) expect(streamOf(reply)).toMatchObject({ done: true, problem: null })
    else expect(completionOf(reply).choices[0]?.text).toBe('fine')
    expect(await requestEvent(reply, workers.log)).toMatchObject({ status: 200, attempts: 2 })
    expect(own.lane.calls).toHaveLength(2)
  })

  test('ten times is not called for 15 s, and the error has a Retry-After', async () => {
    const own = lanes.take('once')
    own.lane.answers(refusal(500))
    for (let i = 1; i <= 10; i++) {
      const { reply } = await expectFailure(own, stream, 502, 'upstream_unavailable', i)
      expect(reply.headers['retry-after']).toBeUndefined()
    }
    const { reply, message } = await expectFailure(own, stream, 502, 'upstream_unavailable', 10)
    expect(Number(reply.headers['retry-after'])).toBeGreaterThan(5)
    expect(Number(reply.headers['retry-after'])).toBeLessThanOrEqual(15)
    expect(message).toContain('suspended for a few seconds')
  })

  test.each<[string, Script, number, Code]>([
    ['a moderated prompt', refusal(400), 400, 'upstream_refused_request'],
    ['a rate limit', refusal(429, undefined, { 'retry-after': '7' }), 429, 'upstream_rate_limited'],
    ['a missing model', refusal(404), 502, 'upstream_rejected'],
    ['a rejected key', refusal(401), 502, 'upstream_rejected'],
  ])('with %s is still called the eleventh time', async (_n, script, status, code) => {
    const own = lanes.take('once')
    own.lane.answers(script)
    for (let i = 1; i <= 11; i++) {
      const { reply } = await expectFailure(own, stream, status, code, i)
      expect(reply.headers['retry-after']).toBe(status === 429 ? '7' : undefined)
    }
  })

  test.each([[301], [302], [303], [307], [308]])(
    'with %i is not followed, to the same or another host',
    async (status) => {
      for (const target of [upstream.url('trap'), elsewhere.url('trap'), '/once-0']) {
        const own = lanes.take('once')
        const location = target === '/once-0' ? upstream.url(own.model) : target
        own.lane.answers(refusal(status, {}, { location }))
        await expectFailure(own, stream, 502, 'upstream_rejected')
      }
      expect(upstream.lane('trap').calls).toEqual([])
      expect(elsewhere.lane('trap').calls).toEqual([])
    },
  )

  test.each<[number, Code]>([
    [101, 'upstream_rejected'],
    [199, 'upstream_unavailable'],
    [999, 'upstream_rejected'],
  ])('with the unusual status %i is a 502', async (status, code) => {
    const own = lanes.take('once')
    own.lane.answers(refusal(status, { error: CANARY }))
    await expectFailure(own, stream, 502, code)
  })
})

describe('an upstream with two models', () => {
  let shared: Workers

  beforeAll(async () => {
    const models = ['down', 'up'].map((id) => ({ id, upstream: 'u', upstream_model: id }))
    const other = { name: 'v', base_url: upstream.url('v'), key: 'UPSTREAM_API_KEY', retries: 0 }
    shared = await startWorkers({
      config: {
        origins: [ORIGIN],
        models: [
          ...models,
          {
            id: 'covered',
            upstream: 'u',
            upstream_model: 'down',
            fallbacks: [{ upstream: 'v', upstream_model: 'w' }],
          },
        ],
        upstreams: [
          { name: 'u', base_url: upstream.url('u'), key: 'UPSTREAM_API_KEY', retries: 0 },
          other,
        ],
      },
    })
  })

  afterAll(() => shared.dispose())

  test('keeps serving one model while the fallback answers for the failing one', async () => {
    const lane = upstream.lane('u')
    lane.answers((call, line) =>
      (call.body['model'] === 'down' ? refusal(503) : chatStream(['fine']))(call, line),
    )
    upstream.lane('v').answers(chatStream(['instead']))
    const ask = (model: string, i: number) =>
      shared.client().complete({ model, prompt: `prompt ${i}` })
    for (let i = 0; i < 12; i++) {
      await expectProblem(await ask('down', i), 502, 'upstream_unavailable', shared.log)
    }
    expect(lane.calls).toHaveLength(10)
    expect(completionOf(await ask('up', 0)).choices[0]?.text).toBe('fine')
    expect(completionOf(await ask('covered', 0)).choices[0]?.text).toBe('instead')
    expect(lane.calls).toHaveLength(11)
    const [failure] = shared.log.all('upstream_failed')
    expect(failure).toMatchObject({ upstream: 'u', model: 'down', status: 503 })
  })
})

describe('headers of an upstream', () => {
  test('are not passed on', async () => {
    const own = lanes.take('once')
    const headers = {
      'set-cookie': `session=${CANARY}`,
      'openai-organization': CANARY,
      'x-request-id': CANARY,
      'cache-control': 'public, max-age=31536000',
      'access-control-allow-origin': '*',
      'access-control-allow-credentials': 'true',
      'x-long': 'x'.repeat(60_000),
    }
    own.lane.answers(chatStream(['fine'], { headers }))
    const reply = await ask(own.model, true)
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
    const own = lanes.take('once')
    own.lane.answers(chatStream(['fine'], { headers: { 'x-long': 'x'.repeat(300_000) } }))
    const reply = await ask(own.model, false)
    if (reply.status === 200) expect(completionOf(reply).choices[0]?.text).toBe('fine')
    else await expectProblem(reply, 502, 'upstream_unavailable', workers.log)
  })

  test.each<[string, number, Code]>([
    ['too long', 10, 'upstream_truncated'],
    ['too short', -10, 'upstream_truncated'],
  ])('with a Content-Length that is %s are a 502', async (_name, off, code) => {
    const own = lanes.take('once')
    const text = JSON.stringify({ choices: [{ index: 0, message: { content: 'fine' } }] })
    own.lane.answers((_call, line) => {
      line.head(200, { 'content-length': String(text.length + off) })
      line.write(text)
      line.end()
    })
    await expectFailure(own, false, 502, code)
  })
})

describe.each(ways)('%s from an upstream that compresses', (_, stream) => {
  const whole = { choices: [{ index: 0, message: { content: 'fine' }, finish_reason: 'stop' }] }
  const zipped = (bytes: Uint8Array): Script => {
    return (_call, line) => {
      line.head(200, { 'content-type': 'application/json', 'content-encoding': 'gzip' })
      line.write(bytes)
      line.end()
    }
  }

  test('correctly is an answer', async () => {
    const own = lanes.take('once')
    own.lane.answers(zipped(gzipSync(JSON.stringify(whole))))
    const reply = await ask(own.model, stream)
    if (stream) expect(streamOf(reply).text()).toBe('fine')
    else expect(completionOf(reply).choices[0]?.text).toBe('fine')
  })

  test('incorrectly is a 502', async () => {
    const own = lanes.take('once')
    own.lane.answers(zipped(Buffer.from(`not gzip ${CANARY}`)))
    await expectFailure(own, stream, 502, 'upstream_bad_response')
  })

  test('a decompression bomb is a 502 and is not read to its end', async () => {
    const own = lanes.take('once')
    own.lane.answers(zipped(gzipSync(Buffer.alloc(50_000_000, ' '))))
    await expectFailure(own, stream, 502, 'upstream_bad_response')
  })
})

describe('an answer in another shape', () => {
  const text = 'fine'
  const shapes: [string, keyof typeof kinds, unknown][] = [
    [
      'chat',
      'once',
      { choices: [{ index: 0, message: { content: text }, finish_reason: 'stop' }] },
    ],
    ['chat from the completions wire', 'legacy', { choices: [{ message: { content: text } }] }],
    ['legacy from the chat wire', 'once', { choices: [{ text, finish_reason: 'stop' }] }],
    [
      'with content in parts',
      'once',
      { choices: [{ message: { content: [{ type: 'text', text }] }, finish_reason: 'end_turn' }] },
    ],
    [
      'with a wrong id, time and model',
      'once',
      {
        id: 7,
        created: -1.5,
        model: '',
        object: 'something',
        system_fingerprint: null,
        choices: [{ index: 0, message: { content: text, extra: CANARY }, finish_reason: 'eos' }],
        usage: { prompt_tokens: -5, completion_tokens: 'x', total_tokens: null },
        x_vendor: CANARY,
      },
    ],
    [
      'with an index as a string and vendor fields',
      'legacy',
      {
        id: 'cmpl-7',
        created: null,
        choices: [
          { index: '0', text, finish_reason: 'EOS', content_filter_results: { a: CANARY } },
        ],
        usage: { ...USAGE, cost: 1 },
      },
    ],
  ]

  test.each(shapes)('%s becomes a valid completion', async (_name, kind, body) => {
    const own = lanes.take(kind)
    own.lane.answers(json(body))
    const completion = completionOf(await ask(own.model, false))
    expect(completion.choices).toEqual([{ text, index: 0, logprobs: null, finish_reason: 'stop' }])
    expect(completion.created).toBeGreaterThan(1_700_000_000)
    expect(completion.model).toBe('m')
  })

  test.each(shapes)('%s becomes a valid stream', async (_name, kind, body) => {
    const own = lanes.take(kind)
    own.lane.answers(json(body))
    const stream = streamOf(await ask(own.model, true, { stream_options: { include_usage: true } }))
    expect(stream).toMatchObject({ done: true, problem: null })
    expect([stream.text(), stream.finish()]).toEqual([text, 'stop'])
    expect(stream.usage?.total_tokens).toBeGreaterThan(0)
  })
})
