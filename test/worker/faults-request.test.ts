// Invalid requests over real sockets: each gets its status and code, readable for the page, and
// none reaches the upstream.
import { gzipSync } from 'node:zlib'
import { beforeAll, describe, expect, test } from 'vitest'
import {
  completionOf,
  expectPlainHeaders,
  expectProblem,
  requestEvent,
} from '../support/answers.ts'
import { CANARY } from '../support/canary.ts'
import {
  type Client,
  HOST,
  OPERATOR_TOKEN,
  ORIGIN,
  type Reply,
  sendRaw,
} from '../support/client.ts'
import { chatStream, latch } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers } from '../support/workerd.ts'

const suite = workerSuite()
let workers: Workers
let strict: Workers
let client: Client

const LIMITS = { body_bytes: 32_768, body_ms: 400 }

beforeAll(async () => {
  const origins = [ORIGIN, 'https://other.example:8443']
  const config = suite.config('u', { origins, limits: LIMITS })
  suite.upstream.lane('u').answers(chatStream(['fine']))
  ;[workers, strict] = await Promise.all([
    suite.share({ config }),
    suite.share({ config: { ...config, origin_required: true } }),
  ])
  client = workers.client()
})

/** The number of upstream calls made during `work`. */
async function callsDuring(work: () => Promise<unknown>): Promise<number> {
  const before = suite.upstream.lane('u').calls.length
  await work()
  return suite.upstream.lane('u').calls.length - before
}

function post(body: unknown, headers = {}): Promise<Reply> {
  return client.complete(body, headers)
}

describe('a body that is not JSON', () => {
  const utf16 = Buffer.from('{"prompt":"a"}', 'utf16le')
  const brokenUtf8 = Buffer.from([...Buffer.from('{"prompt":"'), 0xc3, 0x28, ...Buffer.from('"}')])
  test.each([
    ['is empty', ''],
    ['is white space', ' \r\n\t '],
    ['has data after its end', '{"prompt":"a"}x'],
    ['has NaN', '{"prompt":"a","temperature":NaN}'],
    ['has single quotes', "{'prompt':'a'}"],
    ['is UTF-16', utf16],
    ['has a byte that is not UTF-8', brokenUtf8],
    ['is a truncated object', '{"prompt":"a"'],
  ])('is rejected when it %s', async (_, body) => {
    const calls = await callsDuring(async () =>
      expectProblem(await post(body), 400, 'invalid_json', workers.log),
    )
    expect(calls).toBe(0)
  })

  test('is rejected when it is missing', async () => {
    const reply = await client.send({
      method: 'POST',
      headers: { 'content-type': 'application/json', 'content-length': '0' },
    })
    await expectProblem(reply, 400, 'invalid_json', workers.log)
  })
})

describe('a JSON body', () => {
  test('may start with a byte order mark', async () => {
    const calls = await callsDuring(async () => {
      const plain = completionOf(await post('{"prompt":"bom"}'))
      const marked = completionOf(await post('\ufeff{"prompt":"bom"}'))
      expect(marked.id).toBe(plain.id)
    })
    expect(calls).toBe(1)
  })

  test('uses the last of duplicate keys, and is serialised again for the upstream', async () => {
    const body = '{"prompt":"first","max_tokens":7,"prompt":"last"}'
    completionOf(await post(body))
    const call = suite.upstream.lane('u').calls.at(-1)
    expect(call?.body['messages']).toEqual([{ role: 'user', content: 'last' }])
    expect(call?.text).not.toContain('first')
    expect(call?.text.match(/"max_tokens"/g)).toHaveLength(1)
  })
})

describe('a deeply nested body', () => {
  let wide: Workers
  const operator = { authorization: `Bearer ${OPERATOR_TOKEN}` }

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
    objects: (depth) => `${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}`,
    prompts: (depth) => `${'{"prompt":'.repeat(depth)}1${'}'.repeat(depth)}`,
    requests: (depth) => `${'{"request":'.repeat(depth)}1${'}'.repeat(depth)}`,
    'options of a stream': (depth) => `${'{"stream_options":'.repeat(depth)}1${'}'.repeat(depth)}`,
    'arrays of objects': (depth) => `${'[{"a":'.repeat(depth)}1${'}]'.repeat(depth)}`,
  }
  const completions: readonly ((deep: string) => string)[] = [
    (deep) => deep,
    (deep) => `{"prompt":${deep}}`,
    (deep) => `{"prompt":{"id":${deep}}}`,
    (deep) => `{"prompt":{"id":"haiku","variables":${deep}}}`,
    (deep) => `{"prompt":{"id":"haiku","variables":{"topic":${deep}}}}`,
    ...['logit_bias', 'stop', 'stream_options', 'user', 'messages', 'unknown'].map(
      (field) => (deep: string) => `{"prompt":"a","stream":true,"${field}":${deep}}`,
    ),
  ]

  test.each(Object.keys(nested).flatMap((kind) => [3000, 100_000].map((depth) => [kind, depth])))(
    'is a 400 that states what was expected: %s, %i deep',
    async (kind, depth) => {
      const deep = nested[kind]?.(Number(depth)) ?? ''
      const sent: (readonly [path: string, body: string])[] = [
        ...completions.map((body) => ['/v1/completions', body(deep)] as const),
        ['/admin/pause', deep],
        ['/admin/pause', `{"until":${deep}}`],
        ['/admin/purge', deep],
        ['/admin/purge', `{"prompt_id":${deep}}`],
        ...completions.map((body) => ['/admin/purge', `{"request":${body(deep)}}`] as const),
        // This endpoint accepts a token and nothing else.
        ...(depth === 3000 && kind === 'arrays'
          ? [deep, `{"token":${deep}}`].map((body) => ['/v1/visitors', body] as const)
          : []),
      ]
      const calls = await callsDuring(async () => {
        for (const [path, body] of sent) {
          const reply = await wide.client().send({ method: 'POST', path, body, headers: operator })
          const at = `${path} ${body.slice(0, 60)}`
          expect(reply.status, `${at} ${reply.text}`).toBe(400)
          expect(JSON.parse(reply.text).error.message, at).toMatch(
            /expected|not a field|required|no such variable/,
          )
        }
      })
      expect(calls).toBe(0)
      expect(wide.log.all('internal')).toEqual([])
    },
  )
})

describe('the size of a body', () => {
  const head = (length: string) =>
    `POST /v1/completions HTTP/1.1\r\nHost: ${HOST}\r\nOrigin: ${ORIGIN}\r\n` +
    `Content-Type: application/json\r\nConnection: close\r\n${length}\r\n\r\n`

  test('is checked against Content-Length before the body arrives', async () => {
    const calls = await callsDuring(async () => {
      const text = await sendRaw(workers.url, [`${head('Content-Length: 10000000000')}{}`])
      expect(text).toMatch(/^HTTP\/1.1 413 /)
      expect(text).toContain('"code":"body_too_large"')
      expect(text.toLowerCase()).toContain(`access-control-allow-origin: ${ORIGIN}`)
    })
    expect(calls).toBe(0)
  })

  test('is a bad request when it is negative', async () => {
    const calls = await callsDuring(async () => {
      expect(await sendRaw(workers.url, [`${head('Content-Length: -1')}{"prompt":"a"}`])).toMatch(
        /^HTTP\/1.1 400 /,
      )
    })
    expect(calls).toBe(0)
  })

  test('truncates the body when the claimed size is too small', async () => {
    const text = await sendRaw(workers.url, [`${head('Content-Length: 5')}{"prompt":"a"}`])
    expect(text).toMatch(/^HTTP\/1.1 400 /)
    expect(text).toContain('"code":"invalid_json"')
  })

  test('is accepted at the limit and rejected one byte above', async () => {
    const padded = (bytes: number) => `{"prompt":"size"}`.padEnd(bytes, ' ')
    completionOf(await post(padded(LIMITS.body_bytes)))
    const reply = await post(padded(LIMITS.body_bytes + 1))
    await expectProblem(reply, 413, 'body_too_large', workers.log)
  })

  test('is checked while a chunked body arrives: the rest is not read', async () => {
    let written = 0
    function* pieces() {
      yield head('Transfer-Encoding: chunked')
      // Far above the limit and without a last chunk: only the Worker can end this.
      for (; written < 4; written++) yield `4000\r\n${'x'.repeat(0x4000)}\r\n`
    }
    const calls = await callsDuring(async () => {
      const text = await sendRaw(workers.url, pieces())
      expect(text).toMatch(/^HTTP\/1.1 413 /)
      expect(text).toContain('"code":"body_too_large"')
    })
    expect(calls).toBe(0)
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

describe('the type of a body', () => {
  const body = { prompt: 'type' }
  test.each([
    ['application/json'],
    ['application/json; charset=utf-8'],
    ['APPLICATION/JSON'],
    ['text/plain'],
    ['text/plain;charset=UTF-8'],
  ])('may be %s', async (type) => {
    completionOf(await post(body, { 'content-type': type }))
  })

  test.each([
    ['missing', null],
    ['empty', ''],
    ['a form', 'application/x-www-form-urlencoded'],
    ['multipart', 'multipart/form-data; boundary=x'],
    ['nearly JSON', 'application/jsonp'],
    ['no type at all', ';;;,'],
  ])('is rejected when it is %s', async (_, type) => {
    const calls = await callsDuring(async () => {
      const reply = await post(body, { 'content-type': type })
      await expectProblem(reply, 415, 'unsupported_media_type', workers.log)
    })
    expect(calls).toBe(0)
  })

  test('is rejected when it is compressed', async () => {
    const reply = await post(gzipSync(JSON.stringify(body)), { 'content-encoding': 'gzip' })
    await expectProblem(reply, 415, 'unsupported_media_type', workers.log)
  })
})

describe('a method or a path', () => {
  test.each([
    ['PUT', '/v1/completions', 'GET, HEAD, POST'],
    ['DELETE', '/v1/completions', 'GET, HEAD, POST'],
    ['PATCH', '/v1/completions', 'GET, HEAD, POST'],
    ['TRACE', '/v1/completions', 'GET, HEAD, POST'],
    ['OPTIONS', '/v1/completions', 'GET, HEAD, POST'],
    ['POST', '/v1/models', 'GET, HEAD'],
    ['POST', '/health', 'GET, HEAD'],
  ])('%s %s is a 405 with an Allow header', async (method, path, allow) => {
    const calls = await callsDuring(async () => {
      const reply = await client.send({ method, path, headers: { origin: null } })
      await expectProblem(reply, 405, 'method_not_allowed', workers.log, null)
      expect(reply.headers['allow']).toBe(allow)
    })
    expect(calls).toBe(0)
  })

  test.each([
    ['an unknown path', '/nothing'],
    ['a partial path', '/v1'],
    ['a longer path', '/v1/completions/x'],
    ['two slashes', '//'],
    ['two slashes before a path', '//v1/completions'],
    ['a path with dot segments', '/v1/%2e%2e/%2e%2e/etc/passwd'],
    ['another API', '/v1/chat/completions'],
    ['upper case', '/V1/COMPLETIONS'],
    ['a broken escape', '/v1/models/%'],
    ['16 KiB of path', `/${'x'.repeat(16_384)}`],
  ])('%s is a 404 from any origin', async (_, path) => {
    for (const method of ['GET', 'POST']) {
      const reply = await client.send({ method, path })
      await expectProblem(reply, 404, 'not_found', workers.log)
    }
  })

  test('HEAD returns the headers of GET without a body', async () => {
    const volatile = ['date', 'x-request-id', 'server-timing', 'content-length']
    const comparable = ({ headers }: Reply) =>
      Object.fromEntries(Object.entries(headers).filter(([name]) => !volatile.includes(name)))
    await post({ prompt: 'head' })
    for (const path of ['/health', '/v1/models', '/v1/completions?prompt=head', '/nothing']) {
      const get = await client.send({ path })
      const head = await client.send({ method: 'HEAD', path })
      expect(head.status, path).toBe(get.status)
      expect(head.text).toBe('')
      expect({ ...comparable(head), 'transfer-encoding': 0 }).toEqual({
        ...comparable(get),
        'transfer-encoding': 0,
      })
    }
  })

  test('GET rejects a query that is too long, and never spends', async () => {
    const calls = await callsDuring(async () => {
      const long = await client.send({ path: `/v1/completions?prompt=${'a'.repeat(16_000)}` })
      await expectProblem(long, 400, 'invalid_value', workers.log)
      const miss = await client.send({ path: '/v1/completions?prompt=never+asked' })
      await expectProblem(miss, 404, 'not_cached', workers.log)
    })
    expect(calls).toBe(0)
  })
})

describe('an origin', () => {
  test.each([
    ['https://evil.example'],
    ['https://site.example.evil.example'],
    ['https://evilsite.example'],
    ['http://site.example'],
    ['https://site.example:444'],
    ['https://other.example'],
    ['https://SITE.example'],
    ['https://site.example.'],
    ['https://site.example/'],
    ['null'],
    ['*'],
    [`${ORIGIN}, ${ORIGIN}`],
    ['http://localhost:4000'],
  ])(
    '%j is rejected before any work; the error is readable if the origin is valid',
    async (origin) => {
      // Only an origin that a browser could send is echoed.
      const reader = /^https?:\/\/[a-z.]+(:444|:4000)?$/.test(origin) ? origin : null
      const calls = await callsDuring(async () => {
        for (const sent of [
          { method: 'POST', body: { prompt: 'origin' } },
          { path: '/v1/completions?prompt=origin' },
          { path: '/v1/models' },
        ]) {
          const reply = await client.send({ ...sent, headers: { origin } })
          const { message, event } = await expectProblem(
            reply,
            403,
            'origin_not_allowed',
            workers.log,
            reader,
          )
          expect(message).toContain('"origins"')
          if (reader !== null) expect(message).toContain(origin)
          expect(event.origin).toBe(origin === 'null' ? 'null' : reader)
        }
      })
      expect(calls).toBe(0)
    },
  )

  test('is rejected when sent twice', async () => {
    const reply = await post({ prompt: 'origin' }, { origin: [ORIGIN, ORIGIN] })
    await expectProblem(reply, 403, 'origin_not_allowed', workers.log, null)
  })

  test.each([[ORIGIN], ['https://other.example:8443'], [`http://${HOST}`]])(
    "%s is allowed: it is listed or the Worker's own",
    async (origin) => {
      const reply = await post({ prompt: 'origin' }, { origin })
      completionOf(reply)
      expectPlainHeaders(reply, origin)
      expect((await requestEvent(reply, workers.log)).origin).toBe(origin)
    },
  )

  test('may be missing, as in curl requests', async () => {
    const reply = await post({ prompt: 'origin' }, { origin: null })
    completionOf(reply)
    expectPlainHeaders(reply, null)
  })

  test('counts as missing when it is empty', async () => {
    const empty = { origin: '' }
    const reply = await post({ prompt: 'origin' }, empty)
    completionOf(reply)
    expectPlainHeaders(reply, null)
    const refused = await strict.client().complete({ prompt: 'origin' }, empty)
    await expectProblem(refused, 403, 'origin_not_allowed', strict.log, null)
  })

  test('is required for POST, not for GET, if the owner requires it', async () => {
    const calls = await callsDuring(async () => {
      const body = { prompt: 'required' }
      const bare = { origin: null }
      const refused = await strict.client().complete(body, bare)
      await expectProblem(refused, 403, 'origin_not_allowed', strict.log, null)
      completionOf(await strict.client().complete(body))
      const path = '/v1/completions?prompt=required'
      completionOf(await strict.client().send({ path, headers: bare }))
    })
    expect(calls).toBe(1)
  })

  test('gets a preflight response before anything is checked', async () => {
    const preflight = (origin: string) =>
      client.send({
        method: 'OPTIONS',
        headers: {
          origin,
          'access-control-request-method': 'POST',
          'access-control-request-headers': 'content-type,x-stainless-os,openai-beta',
        },
      })
    const allowed = await preflight(ORIGIN)
    expect(allowed.status).toBe(204)
    expect(allowed.headers).toMatchObject({
      'access-control-allow-origin': ORIGIN,
      'access-control-max-age': '86400',
    })
    expect(allowed.headers['access-control-allow-methods']).toContain('POST')
    expect(String(allowed.headers['access-control-allow-headers']).toLowerCase()).toMatch(
      /content-type.*x-stainless-os/,
    )
    // So that the page can send the request and read the error.
    const refused = await preflight('https://evil.example')
    expect(refused.status).toBe(204)
    expect(refused.headers['access-control-allow-origin']).toBe('https://evil.example')
    expect(refused.headers['vary']).toContain('Origin')
    const unnamed = await preflight('null')
    expect(unnamed.status).toBe(204)
    expect(unnamed.headers['access-control-allow-origin']).toBeUndefined()
  })
})
