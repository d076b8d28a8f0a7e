// The gateway in process: routes, origin policy, errors, cache headers and events.
import { describe, expect, test, vi } from 'vitest'
import { type Code, codes } from '../src/errors.ts'
import { statusOf } from '../src/http/problem.ts'
import {
  completionOf,
  expectPlainHeaders,
  expectProblem,
  problemOf,
  requestEvent,
  streamOf,
} from './support/answers.ts'
import {
  chunk,
  compatible,
  DONE,
  EDGE,
  jsonAnswer,
  openStream,
  type Reply,
  type Script,
  START,
  streamAnswer,
  TestApp,
  upstreamBody,
} from './support/app.ts'
import { CANARY } from './support/canary.ts'
import { OPERATOR_TOKEN, ORIGIN } from './support/client.ts'
import { localFlights } from './support/flights.ts'

const EVIL = 'https://evil.com'
const PROMPT = 'a prompt that is nobody else’s business'
const query = `prompt=${encodeURIComponent(PROMPT)}`

const vary = ({ headers }: Reply) => (headers['vary'] ?? '').toLowerCase().split(/\s*,\s*/)

/** Expects this error, readable for the page, and the one log line. */
const refused = (app: TestApp, reply: Reply, code: Code, origin: string | null = ORIGIN) =>
  expectProblem(reply, statusOf(code), code, app.log, origin)

async function expectLine(app: TestApp, reply: Reply, fields: object): Promise<void> {
  expect(app.lines).toHaveLength(1)
  const { status } = reply
  expect(await requestEvent(reply, app.log)).toMatchObject({ status, ...fields })
}

const routes: readonly (readonly [path: string, methods: readonly string[], guarded: boolean])[] = [
  ['/v1/completions', ['GET', 'HEAD', 'POST'], true],
  ['/v1/chat/completions', ['POST'], true],
  ['/v1/ai-sdk', ['POST'], true],
  ['/v1/ai-sdk/chat-1/stream', ['GET', 'HEAD'], true],
  ['/v1/models', ['GET', 'HEAD'], true],
  ['/v1/models/default', ['GET', 'HEAD'], true],
  ['/v1/prompts', ['GET', 'HEAD'], true],
  ['/admin/purge', ['POST'], true],
  ['/health', ['GET', 'HEAD'], false],
]

const methods = [
  'GET',
  'HEAD',
  'POST',
  'PUT',
  'PATCH',
  'DELETE',
  'OPTIONS',
  'PROPFIND',
  'constructor',
]

test.each(
  routes.flatMap(([path, allowed]) =>
    methods
      .filter((method) => !allowed.includes(method))
      .map((method) => [method, path, allowed] as const),
  ),
)('%s %s returns 405 with Allow', async (method, path, allowed) => {
  const app = new TestApp()
  const reply = await app.ask(path, { method, headers: { origin: ORIGIN } })
  if (method === 'HEAD') expect([reply.status, reply.text]).toEqual([405, ''])
  else await refused(app, reply, 'method_not_allowed')
  expect(reply.headers['allow']?.split(', ').sort()).toEqual([...allowed].sort())
  await expectLine(app, reply, { code: 'method_not_allowed', status: 405 })
  expect(app.calls).toEqual([])
})

test.each([
  '/',
  '/v1',
  '/v2/completions',
  '/v1/completion',
  '/v1/completionss',
  '//v1/completions',
  '/v1//completions',
  '/v1/chat',
  '/V1/completions',
  '/v1/prompts/haiku',
  '/healthz',
  '/.env',
  '/v1%2fcompletions',
  '/v1/%2e%2e/health2',
  '/%2e%2e/etc/passwd',
  `/${'x'.repeat(16_000)}`,
])('POST and GET %.40s return 404', async (path) => {
  const app = new TestApp()
  for (const method of ['GET', 'POST']) {
    const reply = await app.ask(path, { method, headers: { origin: ORIGIN } })
    await refused(app, reply, 'not_found')
    for (const known of ['/v1/completions', '/v1/chat/completions', '/v1/ai-sdk']) {
      expect(reply.text).toContain(known)
    }
  }
  expect(app.calls).toEqual([])
})

test.each([
  '/v1/models',
  '/v1/models/default',
  '/v1/prompts',
  '/health',
  `/v1/completions?${query}`,
  '/v1/completions',
  '/nowhere',
])('HEAD %s returns the headers of GET', async (path) => {
  const app = new TestApp()
  await app.post({ prompt: PROMPT })
  const headers = { origin: ORIGIN }
  const get = await app.ask(path, { headers })
  const head = await app.ask(path, { method: 'HEAD', headers })
  expect(head.status).toBe(get.status)
  expect(head.text).toBe('')
  const stable = (reply: Reply) =>
    Object.entries(reply.headers).filter(
      ([name]) => !['x-request-id', 'server-timing'].includes(name),
    )
  expect(stable(head)).toEqual(stable(get))
})

test('GET /health, /v1/models, /v1/models/{id} and /v1/prompts return the documented objects', async () => {
  const app = new TestApp({
    config: {
      prompts: {
        haiku: {
          system: 'You are secret',
          text: 'Write about {{topic}}',
          variables: { topic: { max_chars: 80 } },
        },
      },
    },
  })
  const get = async (path: string) => {
    const reply = await app.ask(path, { headers: { origin: ORIGIN } })
    expect([reply.status, reply.headers['cache-control']]).toEqual([200, 'no-store'])
    expectPlainHeaders(reply, ORIGIN)
    return reply.json()
  }
  const model = { id: 'default', object: 'model', created: 0, owned_by: 'main' }
  expect(await get('/health')).toEqual({ status: 'ok' })
  expect(await get('/v1/models')).toEqual({ object: 'list', data: [model] })
  expect(await get('/v1/models/default')).toEqual(model)
  expect(await get('/v1/prompts')).toEqual({
    object: 'list',
    data: [
      {
        id: 'haiku',
        object: 'prompt',
        variables: { topic: { max_chars: 80 } },
        visitor_may_set: [],
      },
    ],
  })
})

test('GET /v1/models/{id} accepts ids with slashes, and names an unknown id in its error', async () => {
  const app = new TestApp({
    config: { models: [{ id: 'org/model 1', upstream: 'main', upstream_model: 'm' }] },
  })
  const headers = { origin: ORIGIN }
  for (const path of ['/v1/models/org/model%201', '/v1/models/org%2Fmodel%201']) {
    expect((await app.ask(path, { headers })).status).toBe(200)
  }
  await refused(app, await app.ask('/v1/models/org', { headers }), 'model_not_found')
  // Not valid UTF-8 once decoded.
  await refused(app, await app.ask('/v1/models/%E0%A4%A', { headers }), 'not_found')
})

const guarded = routes.flatMap(([path, allowed, isGuarded]) =>
  isGuarded ? allowed.map((method) => [method, path] as const) : [],
)

test.each(guarded)('%s %s refuses pages of other origins before any work', async (method, path) => {
  for (const origin of [EVIL, 'null', 'https://example.com.', 'http://localhost:4000', '']) {
    const app = new TestApp()
    const reply = await app.ask(path, { method, headers: { origin } })
    // The page may read the error, but nothing else.
    const reader = origin.startsWith('http') ? origin : null
    if (method === 'HEAD') expect(reply.status).toBe(403)
    else await refused(app, reply, 'origin_not_allowed', reader)
    const line = { code: 'origin_not_allowed', visitor: null, model: null }
    await expectLine(app, reply, { ...line, origin: origin === '' ? null : origin })
    expect(app.calls).toEqual([])
    expect(app.kv.puts).toEqual([])
  }
})

test('a refused page can read its origin and the setting that would allow it', async () => {
  const app = new TestApp()
  const messageFor = async (origin: string) =>
    problemOf(await app.post({ prompt: PROMPT }, { origin })).message
  expect(await messageFor(EVIL)).toBe(
    'This endpoint does not accept requests from https://evil.com. Its owner can add that origin to "origins" in wrangler.toml.',
  )
  expect(await messageFor('null')).toContain('a file or in a sandboxed frame')
  const nonsense = await messageFor('https://evil.com/<script>')
  expect(nonsense).toContain('"origins"')
  expect(nonsense).not.toContain('evil')
})

test('a refused page can read nothing but that error', async () => {
  for (const [method, path, status] of [
    ['GET', '/health', 200],
    ['GET', '/openapi.json', 200],
    ['GET', '/nowhere', 404],
    ['PUT', '/v1/models', 405],
  ] as const) {
    const reply = await new TestApp().ask(path, { method, headers: { origin: EVIL } })
    expect(reply.status, path).toBe(status)
    expectPlainHeaders(reply, null)
  }
})

test.each([
  ['the configured page', ORIGIN],
  ['the Worker’s own pages', EDGE],
  ['nobody in particular', null],
])('POST is accepted from %s', async (_, origin) => {
  const app = new TestApp()
  const reply = await app.ask('/v1/completions', {
    method: 'POST',
    headers: { 'content-type': 'text/plain', ...(origin === null ? {} : { origin }) },
    body: JSON.stringify({ prompt: PROMPT }),
  })
  expect(reply.status).toBe(200)
  expectPlainHeaders(reply, origin)
  await expectLine(app, reply, { origin })
})

test('origin_required refuses a POST without Origin, except from the operator, and no GET', async () => {
  const app = new TestApp({ config: { origin_required: true } })
  const post = (headers: Record<string, string>) =>
    app.ask('/v1/completions', {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: JSON.stringify({ prompt: PROMPT }),
    })
  await refused(app, await post({}), 'origin_not_allowed', null)
  await refused(app, await post({ authorization: 'Bearer x' }), 'origin_not_allowed', null)
  expect(app.calls).toEqual([])
  expect((await post({ origin: ORIGIN })).status).toBe(200)
  expect((await post({ authorization: `Bearer ${OPERATOR_TOKEN}` })).status).toBe(200)
  expect((await app.ask('/v1/models')).status).toBe(200)
  expect((await app.ask(`/v1/completions?${query}`)).status).toBe(200)
})

test.each([
  // A refused page may read the error, unless it has no origin to name.
  ['/v1/completions', ORIGIN, ORIGIN],
  ['/v1/completions', EDGE, EDGE],
  ['/v1/completions', EVIL, EVIL],
  ['/v1/completions', 'null', null],
  ['/v1/completions', 'https://evil.com:443', null],
  ['/v1/models/default', EVIL, EVIL],
  ['/admin/purge', EVIL, EVIL],
  ['/nowhere', ORIGIN, ORIGIN],
  ['/nowhere', EVIL, null],
  ['/health', ORIGIN, ORIGIN],
  ['/health', EVIL, null],
  ['/openapi.json', EVIL, null],
])(
  'a preflight of %s from %s returns 204 before any check and allows %s',
  async (path, origin, reader) => {
    const app = new TestApp()
    const reply = await app.ask(path, {
      method: 'OPTIONS',
      headers: {
        origin,
        'access-control-request-method': 'POST',
        'access-control-request-headers': 'content-type,x-stainless-lang',
      },
    })
    expect([reply.status, reply.text]).toEqual([204, ''])
    expect(reply.headers['access-control-allow-origin'] ?? null).toBe(reader)
    expect('access-control-allow-headers' in reply.headers).toBe(reader !== null)
    expect(vary(reply)).toContain('origin')
    expect(reply.headers['x-request-id']).toMatch(/^req_/)
    await expectLine(app, reply, { route: 'preflight', code: null })
  },
)

const _textOf = (reply: Reply) =>
  (reply.json() as { choices: { text: string }[] }).choices.map(({ text }) => text).join('|')

test('POST answers from the upstream, then from the cache, with the documented object', async () => {
  const app = new TestApp({
    upstream: () => jsonAnswer('Hello'),
  })
  const miss = await app.post({ prompt: PROMPT })
  expect(miss.status).toBe(200)
  expect(miss.json()).toEqual({
    id: expect.stringMatching(/^cmpl-[A-Za-z0-9]{24,}$/),
    object: 'text_completion',
    created: START / 1000,
    model: 'model-1-0001',
    choices: [{ text: 'Hello', index: 0, logprobs: null, finish_reason: 'stop' }],
    usage: { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 },
  })
  expect(miss.headers['cache-status']).toBe('edge-completions; fwd=miss; stored')
  app.clock.ms += 7000
  const hit = await app.post({ prompt: PROMPT })
  expect(hit.text).toBe(miss.text)
  expect(hit.headers['cache-status']).toMatch(
    /^edge-completions; hit; ttl=2591993; detail=(memory|kv)$/,
  )
  expect(hit.headers['age']).toBe('7')
  expect(app.calls).toHaveLength(1)
  for (const reply of [miss, hit]) {
    expectPlainHeaders(reply, ORIGIN)
    expect(reply.headers['content-type']).toBe('application/json')
    expect(reply.headers['cache-control']).toBe('no-store')
    expect(reply.headers['server-timing']).toMatch(/^cache;dur=\d+/)
    expect(reply.headers['timing-allow-origin']).toBe(ORIGIN)
  }
})

test('GET never calls an upstream', async () => {
  const app = new TestApp()
  const miss = await app.get(query)
  await refused(app, miss, 'not_cached')
  await expectLine(app, miss, { code: 'not_cached', cache: 'miss', attempts: 0 })
  expect(app.calls).toEqual([])
  await app.post({ prompt: PROMPT })
  expect((await app.get(query)).status).toBe(200)
  expect(app.calls).toHaveLength(1)
})

test('a parsed query is not reused for a body with the same text, nor the reverse', async () => {
  const app = new TestApp()
  const asked = (method: string, words: string) =>
    app.ask(method === 'GET' ? `/v1/completions${words}` : '/v1/completions', {
      method,
      headers: { origin: ORIGIN, 'content-type': 'application/json' },
      ...(method === 'GET' ? {} : { body: words }),
    })
  const json = JSON.stringify({ prompt: PROMPT })
  expect((await asked('POST', json)).status).toBe(200)
  expect((await asked('GET', `?${query}`)).status).toBe(200)
  await refused(app, await asked('POST', `?${query}`), 'invalid_json')
  expect((await asked('GET', encodeURIComponent(json))).status).toBe(404)
  expect((await asked('GET', `?${encodeURIComponent(json)}`)).status).toBe(400)
})

test('GET of a hit can be cached by browsers while it is fresh', async () => {
  const app = new TestApp({
    config: { cache: { ttl_seconds: 400, browser_seconds: 300, memory_seconds: 0 } },
  })
  await app.post({ prompt: PROMPT })
  const maxAges: (string | undefined)[] = []
  for (const seconds of [0, 90, 20, 289, 1, 100]) {
    app.clock.ms += seconds * 1000
    maxAges.push((await app.get(query)).headers['cache-control'])
  }
  expect(maxAges).toEqual([
    'public, max-age=300',
    'public, max-age=300',
    'public, max-age=290',
    'public, max-age=1',
    'public, max-age=0',
    'public, max-age=0',
  ])
  const stale = await app.get(query)
  expect(stale.headers['cache-status']).toBe('edge-completions; hit; ttl=-100; detail=stale')
  expect(stale.headers['age']).toBe('500')
  expect(vary(stale).sort()).toEqual(['accept', 'origin'])
  expect(app.calls).toHaveLength(1)
})

test('GET of an expired entry returns not_cached', async () => {
  const app = new TestApp({
    config: {
      cache: { ttl_seconds: 100, stale_if_error_seconds: 50, stale_while_revalidate_seconds: 50 },
    },
  })
  await app.post({ prompt: PROMPT })
  app.clock.ms += 150_000
  await refused(app, await app.get(query), 'not_cached')
})

test('GET and HEAD return 304 for the ETag of the same format', async () => {
  const app = new TestApp()
  await app.post({ prompt: PROMPT })
  const forms = [
    [query, {}],
    [`${query}&stream=true`, {}],
    [query, { accept: 'text/plain' }],
  ] as const
  const tags: string[] = []
  for (const [asked, headers] of forms) {
    const tag = (await app.get(asked, headers)).headers['etag'] ?? ''
    tags.push(tag)
    const same = await app.get(asked, { ...headers, 'if-none-match': `"x", W/${tag}` })
    expect([same.status, same.text]).toEqual([304, ''])
    expect(same.headers['etag']).toBe(tag)
    expect(same.headers['cache-control']).toContain('max-age=300')
    expectPlainHeaders(same, ORIGIN)
  }
  expect(new Set(tags).size).toBe(3)
  const other = await app.get(query, { 'if-none-match': tags[1] ?? '' })
  expect(other.status).toBe(200)
  const head = await app.ask(`/v1/completions?${query}`, {
    method: 'HEAD',
    headers: { origin: ORIGIN, 'if-none-match': tags[0] ?? '' },
  })
  expect(head.status).toBe(304)
  expect((await app.post({ prompt: PROMPT }, { 'if-none-match': '*' })).status).toBe(200)
})

test('Last-Event-ID resumes a POST of a stream; a malformed one, and one on a GET, is ignored', async () => {
  const app = new TestApp()
  const { id } = completionOf(await app.post({ prompt: PROMPT }))
  const stream = async (header: string) => {
    const body = { prompt: PROMPT, stream: true }
    return streamOf(await app.post(body, { 'last-event-id': header })).text()
  }
  expect(await stream(`${id}:3`)).toBe('lo')
  for (const header of [`${id}:-1`, `${id}:x`, id, '5', `${id}:1.5`]) {
    expect(await stream(header), header).toBe('Hello')
  }
  const got = await app.get(`${query}&stream=true`, { 'last-event-id': `${id}:3` })
  expect(streamOf(got).text()).toBe('Hello')
})

test('a visitor’s no-cache, Pragma and similar headers refresh nothing', async () => {
  const app = new TestApp()
  const first = await app.post({ prompt: PROMPT })
  for (const headers of [
    { 'cache-control': 'no-cache' },
    { 'cache-control': 'max-age=0' },
    { pragma: 'no-cache' },
    { 'cf-aig-skip-cache': 'true' },
  ]) {
    expect((await app.post({ prompt: PROMPT }, headers as Record<string, string>)).text).toBe(
      first.text,
    )
  }
  expect(app.calls).toHaveLength(1)
})

test('no-store and only-if-cached are obeyed for every visitor', async () => {
  const app = new TestApp()
  const unstored = await app.post({ prompt: PROMPT }, { 'cache-control': 'no-store' })
  expect(unstored.status).toBe(200)
  expect(unstored.headers['cache-status']).not.toContain('stored')
  expect(app.kv.values.size).toBe(0)
  const only = await app.post({ prompt: PROMPT }, { 'cache-control': 'only-if-cached' })
  await refused(app, only, 'not_cached')
  expect(app.calls).toHaveLength(1)
})

test('without caching the status is bypass and nothing is stored', async () => {
  const app = new TestApp({ config: { cache: { ttl_seconds: 0 } } })
  for (let i = 0; i < 2; i++) {
    const reply = await app.post({ prompt: PROMPT })
    expect(reply.headers['cache-status']).toBe('edge-completions; fwd=bypass')
  }
  const get = await app.get(query)
  await refused(app, get, 'not_cached')
  expect(get.headers['cache-status']).toBe('edge-completions; fwd=bypass')
  expect([app.kv.values.size, app.calls.length]).toEqual([0, 2])
})

test('an answer without the requested log probabilities is served and logged, but not stored', async () => {
  const app = new TestApp()
  for (let i = 0; i < 2; i++) {
    const reply = await app.post({ prompt: PROMPT, logprobs: 2 })
    expect([reply.status, reply.headers['cache-status']]).toEqual([
      200,
      'edge-completions; fwd=miss',
    ])
  }
  expect([app.calls.length, app.kv.values.size]).toEqual([2, 0])
  const hint = expect.stringContaining('unsupported = ["logprobs"]')
  expect(app.log.all('answer_not_stored')).toMatchObject(
    Array(2).fill({ upstream: 'main', reason: 'no_logprobs', hint }),
  )
})

test.each([true, false])(
  'an answer that another isolate stored a moment before is a hit from KV (stream: %s)',
  async (stream) => {
    const before = new TestApp()
    await before.post({ prompt: PROMPT })
    const { kv, clock } = before
    const app = new TestApp({ kv, clock, flights: (miss) => localFlights(miss).fetchObject })
    const get = kv.get.bind(kv)
    const reads: string[] = []
    vi.spyOn(kv, 'get').mockImplementation(async (key) => {
      if (key === 'purge') return await get(key)
      reads.push(key)
      // The first read still sees what was there before.
      return reads.length === 1 ? null : await get(key)
    })
    const reply = await app.post({ prompt: PROMPT, stream })
    expect([reads.length, app.calls.length]).toEqual([2, 0])
    expect(reply.headers['cache-status']).toMatch(/^edge-completions; hit; (ttl=\d+; )?detail=kv$/)
    await expectLine(app, reply, { cache: 'kv' })
  },
)

test('fewer choices than requested are an error with a hint in the log', async () => {
  const app = new TestApp({ config: { limits: { n: 2 } } })
  await refused(app, await app.post({ prompt: PROMPT, n: 2 }), 'upstream_bad_response')
  expect(app.log.all('upstream_failed')).toMatchObject([
    { reason: 'missing_choice', hint: expect.stringContaining('native_n = false') },
  ])
})

test('an estimated usage is marked, on a miss and on a hit', async () => {
  const { usage: _, ...body } = upstreamBody('Hello')
  const app = new TestApp({ upstream: () => Response.json(body) })
  for (let i = 0; i < 2; i++) {
    const reply = await app.post({ prompt: PROMPT })
    expect(reply.headers['x-usage-estimated']).toBe('1')
  }
  expect((await app.get(query)).headers['x-usage-estimated']).toBe('1')
})

const locked = {
  free_prompts: false,
  prompts: {
    haiku: {
      text: 'Write about {{topic}}',
      variables: { topic: { max_chars: 8 } },
      spend: 'operator',
    },
  },
}
const chatOnly = { upstreams: [{ ...compatible, wire: 'chat' }] }
const status =
  (code: number, headers: Record<string, string> = {}): Script =>
  () =>
    Response.json({ error: { message: `no ${CANARY}` } }, { status: code, headers })

interface Case {
  readonly body?: unknown
  readonly headers?: Record<string, string>
  readonly config?: Record<string, unknown>
  readonly upstream?: Script
  readonly param?: string | null
}

const failing: readonly [Code, string, Case][] = [
  ['invalid_json', 'no JSON', { body: '{' }],
  ['invalid_json', 'nothing', { body: '' }],
  ['invalid_value', 'a list', { body: [] }],
  [
    'invalid_value',
    'a wrong type',
    { body: { prompt: 'a', temperature: 'hot' }, param: 'temperature' },
  ],
  ['unknown_field', 'a field nobody knows', { body: { prompt: 'a', evil: 1 }, param: 'evil' }],
  ['missing_field', 'no prompt', { body: {}, param: 'prompt' }],
  ['model_not_allowed', 'another model', { body: { prompt: 'a', model: 'gpt' }, param: 'model' }],
  [
    'prompt_not_found',
    'a prompt that is not',
    { body: { prompt: { id: 'x' } }, param: 'prompt.id' },
  ],
  ['free_prompts_disabled', 'a free prompt', { config: locked, param: 'prompt' }],
  [
    'locked_by_owner',
    'a locked field',
    {
      config: locked,
      body: { prompt: { id: 'haiku', variables: { topic: 'sea' } }, seed: 1 },
      param: 'seed',
    },
  ],
  [
    'invalid_value',
    'a variable too long',
    {
      config: locked,
      body: { prompt: { id: 'haiku', variables: { topic: 'x'.repeat(9) } } },
      param: 'prompt.variables.topic',
    },
  ],
  [
    'not_cached',
    'a prompt only the operator may spend on',
    { config: locked, body: { prompt: { id: 'haiku', variables: { topic: 'sea' } } } },
  ],
  [
    'unsupported_by_upstream',
    'log probabilities of a text in a gap for a chat model',
    {
      config: chatOnly,
      body: { prompt: 'a', suffix: 'b', logprobs: 1 },
      param: 'logprobs',
    },
  ],
  ['upstream_refused_request', 'an upstream’s 400', { upstream: status(400) }],
  [
    'upstream_refused_request',
    'an upstream’s 422, to be streamed',
    { upstream: status(422), body: { prompt: 'a', stream: true } },
  ],
  ['body_too_large', 'a long body', { body: { prompt: 'x'.repeat(140_000) } }],
  [
    'unsupported_media_type',
    'a form',
    { headers: { 'content-type': 'multipart/form-data; boundary=x' } },
  ],
  ['unsupported_media_type', 'a compressed body', { headers: { 'content-encoding': 'gzip' } }],
  [
    'upstream_rate_limited',
    'an upstream’s 429',
    { upstream: status(429, { 'retry-after': '1000' }) },
  ],
  ['upstream_rejected', 'an upstream’s 401', { upstream: status(401, { 'set-cookie': CANARY }) }],
  [
    'upstream_rejected',
    'a model that needs another wire',
    {
      upstream: () => {
        const message = 'This is a chat model, use v1/chat/completions'
        return Response.json({ error: { message } }, { status: 400 })
      },
    },
  ],
  ['upstream_rejected', 'an upstream’s redirect', { upstream: status(302, { location: EVIL }) }],
  ['upstream_bad_response', 'an upstream’s HTML', { upstream: () => new Response(`<p>${CANARY}`) }],
  [
    'upstream_bad_response',
    'an upstream’s HTML, to be streamed',
    { upstream: () => new Response('<p>'), body: { prompt: 'a', stream: true } },
  ],
  ['upstream_truncated', 'an answer cut short', { upstream: () => new Response(chunk('a')) }],
  ['upstream_unavailable', 'an upstream’s 500', { upstream: status(500) }],
  [
    'upstream_unavailable',
    'no connection',
    {
      upstream: () => {
        throw new TypeError(`fetch failed ${CANARY}`)
      },
    },
  ],
  [
    'internal',
    'an unexpected error',
    // An upstream cannot cause fetch to return nothing.
    { upstream: () => null as unknown as Response },
  ],
]

test.each(failing)(
  '%s: POST with %s',
  async (code, _, {
    body = { prompt: PROMPT },
    headers = {},
    config = {},
    upstream,
    param = null,
  }) => {
    const app = new TestApp({ config, ...(upstream === undefined ? {} : { upstream }) })
    const reply = await app.post(body, headers)
    const error = await refused(app, reply, code)
    expect(error.param).toBe(param)
    await expectLine(app, reply, { code, route: 'completions' })
    if (code === 'upstream_rate_limited') expect(reply.headers['retry-after']).toBe('300')
    expect(reply.headers['set-cookie']).toBeUndefined()
    expect(reply.headers['location']).toBeUndefined()
    expect(app.kv.values.size).toBe(0)
  },
)

test('body_timeout: POST with a body that never ends', async () => {
  const app = new TestApp({ config: { limits: { body_ms: 1 } } })
  const body = openStream()
  body.push('{')
  const init = { method: 'POST', body: body.stream, duplex: 'half' }
  const headers = { origin: ORIGIN, 'content-type': 'application/json' }
  const reply = await app.ask('/v1/completions', { ...init, headers } as RequestInit)
  await refused(app, reply, 'body_timeout')
  expect(body.state.cancelled).toBe(1)
})

test('upstream_timeout: an upstream that never responds', async () => {
  const upstream = { ...compatible, first_byte_ms: 1, retries: 0 }
  const app = new TestApp({
    config: { upstreams: [upstream] },
    upstream: () => {
      app.clock.ms += 1000
      return new Promise<Response>(() => {})
    },
  })
  await refused(app, await app.post({ prompt: PROMPT }), 'upstream_timeout')
})

test('every error code of these routes is covered above', () => {
  const elsewhere: readonly Code[] = [
    // Turnstile, budget, ledger, pages and search have their own tests.
    'visitor_token_required',
    'visitor_token_invalid',
    'challenge_failed',
    'challenge_unavailable',
    'page_not_allowed',
    'page_unavailable',
    'rate_limited',
    'too_many_streams',
    'budget_exhausted',
    'paused',
    'ledger_unavailable',
    'site_not_indexed',
    'no_passages',
    'search_unavailable',
  ]
  const here: readonly Code[] = [
    'origin_not_allowed',
    'not_found',
    'model_not_found',
    'method_not_allowed',
    'body_timeout',
    'upstream_timeout',
    'operator_token_invalid',
    'misconfigured',
  ]
  const provoked = new Set([...failing.map(([code]) => code), ...here, ...elsewhere])
  expect([...provoked].sort()).toEqual([...codes].sort())
})

test('operator_token_invalid: POST /admin/purge without the operator’s token', async () => {
  const app = new TestApp()
  await app.post({ prompt: PROMPT })
  app.events.splice(0)
  const purge = (headers: Record<string, string>) =>
    app.ask('/admin/purge', {
      method: 'POST',
      headers: { origin: ORIGIN, 'content-type': 'application/json', ...headers },
      body: '{"all":true}',
    })
  await refused(app, await purge({}), 'operator_token_invalid')
  await refused(app, await purge({ authorization: 'Bearer x' }), 'operator_token_invalid')
  expect((await app.get(query)).status).toBe(200)
  const purged = await purge({ authorization: `Bearer ${OPERATOR_TOKEN}` })
  expect([purged.status, purged.json()]).toEqual([200, { purged: 'all' }])
  expect(purged.headers['cache-control']).toBe('no-store')
  await refused(app, await app.get(query), 'not_cached')
})

test('an unexpected error is logged with its name and stack, without its message', async () => {
  const app = new TestApp({ upstream: () => null as unknown as Response })
  const reply = await app.post({ prompt: PROMPT })
  expect(problemOf(reply).message).not.toMatch(/null|reading|TypeError/)
  const [event, ...others] = app.events.filter((one) => one.event === 'internal')
  expect(others).toEqual([])
  expect(event).toMatchObject({
    name: 'TypeError',
    request_id: reply.headers['x-request-id'],
  })
  expect(JSON.stringify(event)).not.toContain('Cannot read')
})

/** A POST whose visitor can disconnect before reading the answer. */
const leaving = (app: TestApp, more: object) =>
  app.client().start({ method: 'POST', body: { prompt: PROMPT, ...more } })

/** Expects the one log line of a visitor who left, and no error. */
function expectLeft(app: TestApp): void {
  expect(app.lines).toMatchObject([{ code: null, status: 499 }])
  expect(app.log.all('internal')).toEqual([])
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise<void>((resolve) => setImmediate(resolve))
}

test('a visitor who leaves a stream aborts the upstream call once, without an error', async () => {
  const upstream = openStream()
  const app = new TestApp({ upstream: () => upstream.response() })
  upstream.push(chunk('Hel'))
  const reader = await leaving(app, { stream: true }).response
  await reader.until('Hel')
  reader.leave()
  await upstream.left
  await reader.rest()
  expect(upstream.state.cancelled).toBe(1)
  expectLeft(app)
  expect(app.lines[0]).toMatchObject({ attempts: 1, upstream: 'main' })
})

test.each([false, true])(
  'a visitor who leaves before the first text aborts the upstream call, stream: %j',
  async (stream) => {
    const upstream = openStream()
    const app = new TestApp({ upstream: () => upstream.response() })
    const { response, leave } = leaving(app, { stream })
    await until(() => app.calls.length === 1)
    leave()
    await (await response).rest()
    await upstream.left
    expectLeft(app)
  },
)

test('a visitor who left during the cache lookup causes no upstream call', async () => {
  const app = new TestApp()
  const reading = Promise.withResolvers<void>()
  let reads = 0
  app.kv.intercept = async () => {
    reads += 1
    await reading.promise
  }
  const { response, leave } = leaving(app, {})
  await until(() => reads > 0)
  leave()
  reading.resolve()
  await (await response).rest()
  expect(app.calls).toEqual([])
})

test('each request logs one line with the documented fields', async () => {
  const app = new TestApp()
  const reply = await app.post({ prompt: PROMPT })
  expect(app.lines).toEqual([
    {
      event: 'request',
      request_id: reply.headers['x-request-id'],
      route: 'completions',
      status: 200,
      code: null,
      cache: 'miss',
      model: 'default',
      upstream: 'main',
      attempts: 1,
      tokens_in: 3,
      tokens_out: 4,
      ms: 0,
      visitor: expect.stringMatching(/^h:[0-9a-f]{16}$/),
      origin: ORIGIN,
    },
  ])
})

test('a stream logs its line when it ends, with its usage', async () => {
  const usage =
    'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}\n\n'
  const app = new TestApp({
    upstream: () => streamAnswer(chunk('Hello'), chunk('', 'stop'), usage, DONE),
  })
  const reply = await app.post({ prompt: PROMPT, stream: true })
  await expectLine(app, reply, { cache: 'miss', tokens_in: 3, tokens_out: 4, attempts: 1 })
})

test('a clock that jumps back causes no negative durations', async () => {
  const app = new TestApp({
    upstream: () => {
      app.clock.ms -= 60_000
      return jsonAnswer()
    },
  })
  const reply = await app.post({ prompt: PROMPT })
  await expectLine(app, reply, { ms: 0 })
  expect(reply.headers['server-timing']).toBe('cache;dur=0, upstream;dur=0')
})

const broken = { models: [{ id: 'default', upstream: 'nowhere', upstream_model: 'm' }] }

/** Requests that a valid configuration would answer with 403, 404 or 405. */
const elsewhere: readonly (readonly [method: string, path: string])[] = [
  ['PUT', '/v1/models'],
  ['OPTIONS', '/v1/completions'],
  ['GET', '/admin/purge'],
  ['GET', '/v1/models/unknown'],
  ['GET', '/v1/models/%E0%A4%A'],
  ['POST', '/v1/visitors'],
  ['GET', '/openapi.json'],
  ['GET', '/admin/usage'],
  ['POST', '/admin/pause'],
]

describe('misconfigured', () => {
  test.each([...guarded, ...elsewhere])('%s %s can be read by every page', async (method, path) => {
    for (const origin of [ORIGIN, EVIL, 'null', null]) {
      const app = new TestApp({ config: broken })
      const headers = origin === null ? {} : { origin }
      const reply = await app.ask(path, { method, headers })
      if (method === 'HEAD') expect(reply.status).toBe(503)
      else await refused(app, reply, 'misconfigured', '*')
      expect(reply.headers['access-control-allow-origin']).toBe('*')
      await expectLine(app, reply, { code: 'misconfigured' })
    }
  })

  test('a preflight allows every page to read it', async () => {
    for (const path of ['/v1/completions', '/v1/models/x', '/admin/usage']) {
      const reply = await new TestApp({ config: broken }).ask(path, {
        method: 'OPTIONS',
        headers: { origin: EVIL, 'access-control-request-method': 'POST' },
      })
      expect(reply.status).toBe(204)
      expect(reply.headers['access-control-allow-origin']).toBe('*')
      expect(reply.headers['access-control-allow-headers']).toContain('Authorization')
    }
  })

  test('other paths are unaffected', async () => {
    const app = new TestApp({ config: broken })
    const headers = { origin: ORIGIN, 'access-control-request-method': 'POST' }
    expect((await app.ask('/nowhere', { method: 'OPTIONS', headers })).status).toBe(204)
    await refused(app, await app.ask('/nowhere', { headers }), 'not_found')
    expectPlainHeaders(await app.ask('/health', { headers: { origin: EVIL } }), null)
  })
})

describe('secrets that are accepted on loopback hosts only', () => {
  const LOCAL = 'http://localhost:8787'
  const short = { operatorToken: 'guessme-guessme-guessme' }
  const forTests = { turnstileSecret: `1x${'0'.repeat(31)}AA` }
  const health = async (app: TestApp, url: string, token: string) => {
    const headers = { authorization: `Bearer ${token}` }
    const response = await app.fetch(new Request(`${url}/health`, { headers }))
    return [response.status, await response.json()]
  }

  test.each([
    ['OPERATOR_TOKEN', short],
    ['TURNSTILE_SECRET', forTests],
  ])('%s is a fault on a public host, and a warning on a loopback host', async (path, secrets) => {
    const app = new TestApp(secrets)
    const token = secrets === short ? short.operatorToken : OPERATOR_TOKEN
    const message = expect.stringMatching(/^Cannot use /)
    expect(await health(app, EDGE, token)).toEqual([
      503,
      { status: 'misconfigured', faults: [{ path, message }] },
    ])
    await refused(app, await app.post({ prompt: PROMPT }), 'misconfigured', '*')
    await refused(app, await app.ask('/admin/usage'), 'misconfigured', '*')
    expect(app.calls).toEqual([])
    const told = app.events.filter(({ event }) => event === 'misconfigured')
    expect(told).toEqual([{ event: 'misconfigured', faults: [{ path, message }] }])
    expect(JSON.stringify(told)).not.toContain('guessme')

    expect(await health(app, LOCAL, token)).toEqual([
      200,
      {
        status: 'ok',
        warnings: expect.arrayContaining([
          expect.stringMatching(new RegExp(`^${path}: Cannot use `)),
        ]),
      },
    ])
    const body = JSON.stringify({ prompt: PROMPT })
    const init = { method: 'POST', headers: { 'content-type': 'text/plain' }, body }
    const local = await app.fetch(new Request(`${LOCAL}/v1/completions`, init))
    expect(local.status).toBe(200)
  })

  test('they are listed together with the faults of CONFIG', async () => {
    const app = new TestApp({ config: broken, ...short })
    const [, body] = await health(app, EDGE, '')
    const paths = (body as { faults: { path: string }[] }).faults.map(({ path }) => path)
    expect(paths).toEqual(['models[0].upstream', 'OPERATOR_TOKEN'])
  })

  test('a token of 24 characters and an unset token are no faults', async () => {
    for (const operatorToken of ['x'.repeat(24), '']) {
      const app = new TestApp({ operatorToken })
      expect((await health(app, EDGE, ''))[0]).toBe(200)
    }
  })
})

test('GET /health shows warnings to the operator only', async () => {
  const locked = { h: { text: 'x' } }
  const warnings = async (config: Record<string, unknown>) => {
    const app = new TestApp({ config: { access: { turnstile_sitekey: '' }, ...config } })
    const visitor = await app.ask('/health')
    expect(visitor.json()).toEqual({ status: 'ok' })
    const headers = { authorization: `Bearer ${OPERATOR_TOKEN}` }
    const { warnings } = (await app.ask('/health', { headers })).json() as { warnings: string[] }
    return warnings
  }
  expect(await warnings({})).toEqual(['Turnstile is off: anyone can spend up to the budget'])
  expect(await warnings({ prompts: locked })).toEqual([
    expect.stringContaining('locked prompts disable free prompts'),
  ])
  expect(await warnings({ prompts: locked, free_prompts: false })).toEqual([])
  expect((await warnings({ origins: [] })).join()).toContain('origins is empty')
  const summary = { text: 'x', spend: 'operator' }
  for (const [more, cache] of [
    [{ ttl_seconds: 0 }, {}],
    [{}, { ttl_seconds: 0 }],
  ]) {
    const prompts = { h: { ...summary, ...more } }
    expect(await warnings({ prompts, free_prompts: false, cache })).toEqual([
      expect.stringContaining('prompt "h" is never stored'),
    ])
  }
  const stored = { h: { ...summary, ttl_seconds: 1 } }
  const rest = { free_prompts: false, cache: { ttl_seconds: 0 } }
  expect(await warnings({ prompts: stored, ...rest })).toEqual([])
})

test('GET /health lists every fault by its path, without secrets', async () => {
  const config = {
    ...broken,
    origins: [ORIGIN, 'https://example.com/'],
    upstreams: [{ ...compatible, base_url: `https://${CANARY}:x@upstream.test` }],
  }
  const app = new TestApp({ config })
  const reply = await app.ask('/health', { headers: { origin: ORIGIN } })
  expect(reply.status).toBe(503)
  expect(reply.headers['cache-control']).toBe('no-store')
  expectPlainHeaders(reply, ORIGIN)
  const body = reply.json() as { status: string; faults: { path: string; message: string }[] }
  expect(body.status).toBe('misconfigured')
  expect(body.faults.map(({ path }) => path).sort()).toEqual([
    'models[0].upstream',
    'origins[1]',
    'upstreams[0].base_url',
  ])
  expect(body.faults.find(({ path }) => path === 'models[0].upstream')?.message).toBe(
    'Cannot find upstream "nowhere": known are main',
  )
})

test('two requests never have the same id', async () => {
  const app = new TestApp()
  const ids = new Set<string | undefined>()
  for (let i = 0; i < 50; i++) ids.add((await app.ask('/health')).headers['x-request-id'])
  expect(ids.size).toBe(50)
})
