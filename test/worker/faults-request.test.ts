// Requests that no HTTP library would send, and what the runtime does to a request before the Worker
// sees it. What is invalid in a request, its methods, paths and origins are tested in process
// (test/app.test.ts, test/http/, test/request/).
import { gzipSync } from 'node:zlib'
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { completionOf, expectPlainHeaders, expectProblem } from '../support/answers.ts'
import { CANARY } from '../support/canary.ts'
import { type Client, HOST, OPERATOR_TOKEN, ORIGIN, sendRaw } from '../support/client.ts'
import { chatStream, latch } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers } from '../support/workerd.ts'

const suite = workerSuite()
let workers: Workers
let strict: Workers
let client: Client
/** How many upstream calls the test makes. */
let calls: number

const LIMITS = { body_bytes: 32_768, body_ms: 400 }

beforeAll(async () => {
  const config = suite.config('u', { limits: LIMITS })
  suite.upstream.lane('u').answers(chatStream(['fine']))
  ;[workers, strict] = await Promise.all([
    suite.share({ config }),
    suite.share({ config: { ...config, origin_required: true } }),
  ])
  client = workers.client()
})

beforeEach(() => {
  calls = 0
  suite.upstream.lane('u').calls.length = 0
})

afterEach(() => {
  expect(suite.upstream.lane('u').calls).toHaveLength(calls)
})

describe('the size of a body', () => {
  const head = (length: string) =>
    `POST /v1/completions HTTP/1.1\r\nHost: ${HOST}\r\nOrigin: ${ORIGIN}\r\n` +
    `Content-Type: application/json\r\nConnection: close\r\n${length}\r\n\r\n`

  test('is checked against Content-Length before the body arrives', async () => {
    const text = await sendRaw(workers.url, [`${head('Content-Length: 10000000000')}{}`])
    expect(text).toMatch(/^HTTP\/1.1 413 /)
    expect(text).toContain('"code":"body_too_large"')
    expect(text.toLowerCase()).toContain(`access-control-allow-origin: ${ORIGIN}`)
  })

  test('is a bad request when it is negative, or smaller than the body', async () => {
    const sent = (length: number) =>
      sendRaw(workers.url, [`${head(`Content-Length: ${length}`)}{"prompt":"a"}`])
    expect(await sent(-1)).toMatch(/^HTTP\/1.1 400 /)
    expect(await sent(5)).toMatch(/^HTTP\/1.1 400 [\s\S]*"code":"invalid_json"/)
  })

  test('is accepted at the limit and rejected one byte above', async () => {
    const padded = (bytes: number) => `{"prompt":"size"}`.padEnd(bytes, ' ')
    calls = 1
    completionOf(await client.complete(padded(LIMITS.body_bytes)))
    const reply = await client.complete(padded(LIMITS.body_bytes + 1))
    await expectProblem(reply, 413, 'body_too_large', workers.log)
  })

  test('is checked while a chunked body arrives: the rest is not read', async () => {
    function* pieces() {
      yield head('Transfer-Encoding: chunked')
      // Far above the limit and without a last chunk: only the Worker can end this.
      for (let i = 0; i < 4; i++) yield `4000\r\n${'x'.repeat(0x4000)}\r\n`
    }
    const text = await sendRaw(workers.url, pieces())
    expect(text).toMatch(/^HTTP\/1.1 413 /)
    expect(text).toContain('"code":"body_too_large"')
  })

  test('within the limit is a 408 when the body arrives too slowly', async () => {
    const over = latch()
    async function* pieces() {
      yield head('Content-Length: 14')
      yield '{"pro'
      await over.opened
    }
    const startedAt = performance.now()
    const answered = sendRaw(workers.url, pieces())
    const event = await workers.log.find(
      (line) => line.event === 'request' && line.code === 'body_timeout',
    )
    expect(event).toMatchObject({ status: 408, upstream: null, attempts: 0 })
    expect(performance.now() - startedAt).toBeGreaterThanOrEqual(LIMITS.body_ms - 50)
    over.open()
    const text = await answered
    expect(text).toMatch(/^HTTP\/1.1 408 /)
    expect(text).toContain('"code":"body_timeout"')
  })
})

test.each<[string, string | Uint8Array]>([
  ['missing', ''],
  ['UTF-16', Buffer.from('{"prompt":"a"}', 'utf16le')],
  ['not UTF-8', Buffer.from([...Buffer.from('{"prompt":"'), 0xc3, 0x28, ...Buffer.from('"}')])],
])('a body that is %s is not JSON', async (_, body) => {
  await expectProblem(await client.complete(body), 400, 'invalid_json', workers.log)
})

test('a body without a type, or compressed, is rejected', async () => {
  const body = JSON.stringify({ prompt: 'type' })
  for (const reply of [
    await client.complete(body, { 'content-type': null }),
    await client.complete(gzipSync(body), { 'content-encoding': 'gzip' }),
  ]) {
    await expectProblem(reply, 415, 'unsupported_media_type', workers.log)
  }
})

describe('a deeply nested body', () => {
  let wide: Workers

  beforeAll(async () => {
    wide = await suite.share({
      config: suite.config('u', {
        free_prompts: true,
        prompts: { haiku: { text: '{{topic}}', variables: { topic: { max_chars: 80 } } } },
        limits: { body_bytes: 4_000_000, prompt_chars: 4_000_000 },
        access: { turnstile_sitekey: 'key' },
      }),
      secrets: { UPSTREAM_API_KEY: CANARY, TURNSTILE_SECRET: 'secret', OPERATOR_TOKEN },
    })
  })

  const nested: Readonly<Record<string, (depth: number) => string>> = {
    arrays: (depth) => '['.repeat(depth) + ']'.repeat(depth),
    requests: (depth) => `${'{"request":'.repeat(depth)}1${'}'.repeat(depth)}`,
    'arrays of objects': (depth) => `${'[{"a":'.repeat(depth)}1${'}]'.repeat(depth)}`,
  }
  const completions: readonly ((deep: string) => string)[] = [
    (deep) => deep,
    (deep) => `{"prompt":${deep}}`,
    (deep) => `{"prompt":{"id":${deep}}}`,
    (deep) => `{"prompt":{"id":"haiku","variables":{"topic":${deep}}}}`,
    ...['logit_bias', 'stop', 'stream_options', 'messages', 'unknown'].map(
      (field) => (deep: string) => `{"prompt":"a","stream":true,"${field}":${deep}}`,
    ),
  ]

  test.each(Object.keys(nested).flatMap((kind) => [3000, 100_000].map((depth) => [kind, depth])))(
    'is a 400 that states what was expected: %s, %i deep',
    async (kind, depth) => {
      const deep = nested[kind]?.(Number(depth)) ?? ''
      const sent: (readonly [path: string, body: string])[] = [
        ...completions.map((body) => ['/v1/completions', body(deep)] as const),
        ['/admin/pause', `{"until":${deep}}`],
        ['/admin/purge', deep],
        ['/admin/purge', `{"prompt_id":${deep}}`],
        ...completions.map((body) => ['/admin/purge', `{"request":${body(deep)}}`] as const),
        // This endpoint accepts a token and nothing else.
        ...(depth === 3000 && kind === 'arrays'
          ? [deep, `{"token":${deep}}`].map((body) => ['/v1/visitors', body] as const)
          : []),
      ]
      const headers = { authorization: `Bearer ${OPERATOR_TOKEN}` }
      for (const [path, body] of sent) {
        const reply = await wide.client().send({ method: 'POST', path, body, headers })
        const at = `${path} ${body.slice(0, 60)}`
        expect(reply.status, `${at} ${reply.text}`).toBe(400)
        expect(JSON.parse(reply.text).error.message, at).toMatch(
          /expected|not a field|required|no such variable|here: \w+ go to/,
        )
      }
    },
  )
})

test('a method that fetch() cannot send is a 405', async () => {
  const reply = await client.send({ method: 'TRACE' })
  await expectProblem(reply, 405, 'method_not_allowed', workers.log)
  expect(reply.headers['allow']).toBe('GET, HEAD, POST')
})

test.each(['//', '//v1/completions', '/v1/%2e%2e/%2e%2e/etc/passwd', `/${'x'.repeat(16_384)}`])(
  'the path %.30s is a 404',
  async (path) => {
    await expectProblem(await client.send({ path }), 404, 'not_found', workers.log)
  },
)

test('HEAD has no body', async () => {
  const head = await client.send({ method: 'HEAD', path: '/v1/models' })
  expect([head.status, head.text]).toEqual([200, ''])
})

describe('an origin', () => {
  const body = { prompt: 'origin' }

  test('is rejected when sent twice', async () => {
    const reply = await client.complete(body, { origin: [ORIGIN, ORIGIN] })
    await expectProblem(reply, 403, 'origin_not_allowed', workers.log, null)
  })

  test('of another page is rejected, and one of the Worker itself is allowed', async () => {
    const evil = 'https://evil.example'
    const reply = await client.complete(body, { origin: evil })
    await expectProblem(reply, 403, 'origin_not_allowed', workers.log, evil)
    calls = 1
    const own = await client.complete(body, { origin: `http://${HOST}` })
    completionOf(own)
    expectPlainHeaders(own, `http://${HOST}`)
  })

  test('counts as missing when it is empty', async () => {
    const empty = { origin: '' }
    const reply = await client.complete(body, empty)
    completionOf(reply)
    expectPlainHeaders(reply, null)
    const refused = await strict.client().complete(body, empty)
    await expectProblem(refused, 403, 'origin_not_allowed', strict.log, null)
  })

  test('gets a preflight response before anything is checked', async () => {
    const reply = await client.send({
      method: 'OPTIONS',
      headers: {
        'access-control-request-method': 'POST',
        'access-control-request-headers': 'content-type,x-stainless-os,openai-beta',
      },
    })
    expect(reply.status).toBe(204)
    expect(reply.headers).toMatchObject({
      'access-control-allow-origin': ORIGIN,
      'access-control-max-age': '86400',
      'access-control-allow-methods': expect.stringContaining('POST'),
      'access-control-allow-headers': expect.stringMatching(/content-type.*x-stainless-os/i),
    })
  })
})
