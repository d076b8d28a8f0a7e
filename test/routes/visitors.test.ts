// POST /v1/visitors exchanges a solved challenge for a visitor token.
import { expect, test } from 'vitest'
import { VisitorTokens } from '../../src/access/visitor-token.ts'
import { GatewayError } from '../../src/errors.ts'
import type { Event } from '../../src/events.ts'
import { Visit } from '../../src/routes/request-log.ts'
import { newVisitor } from '../../src/routes/visitors.ts'
import { openStream } from '../support/app.ts'
import { CANARY, recordOutput } from '../support/canary.ts'

const ORIGIN = 'https://example.com'
const EDGE = 'https://edge.test'
const TEST_SECRET = '1x0000000000000000000000000000000AA'
const NOW_MS = 1_767_225_600_999
const NOW_S = 1_767_225_600

interface Given {
  readonly answer?: () => Response
  readonly secret?: string
  readonly origins?: readonly string[]
  readonly origin?: string | null
  readonly edge?: string
  readonly on?: boolean
  readonly headers?: Record<string, string>
}

const solvedOn = (hostname: string) => Response.json({ success: true, hostname })

/** Calls the route as the app does after checking the origin. */
async function ask(body: unknown, given: Given = {}) {
  const { answer = () => solvedOn('example.com'), secret = CANARY, origins = [ORIGIN] } = given
  const { origin = ORIGIN, edge = EDGE, on = true, headers = {} } = given
  const sent: unknown[] = []
  const reasons: [string | null, string][] = []
  const now = () => NOW_MS
  const turnstile = {
    secret,
    fetch: async (request: Request) => {
      sent.push(await request.json())
      return answer()
    },
    now,
    wait: () => new Promise<void>(() => {}),
    newUuid: () => 'uuid',
  }
  const tokens = new VisitorTokens({
    tokenSeconds: 1800,
    secret: CANARY,
    previousSecret: null,
    fallbackSecret: () => Promise.reject(new Error('not to be asked')),
    randomBytes: (bytes) => crypto.getRandomValues(bytes),
  })
  const report = (event: Event) => {
    if (event.event === 'visitor_refused') reasons.push([event.request_id, event.reason])
  }
  const deps = { turnstile, tokens: on ? tokens : null, bodyMs: 100, origins, now, report }
  const raw = typeof body === 'string' || body instanceof ReadableStream
  const request = new Request(`${edge}/v1/visitors`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: raw ? body : JSON.stringify(body),
    ...(body instanceof ReadableStream ? { duplex: 'half' } : {}),
  } as RequestInit)
  const visit = new Visit(request, 'req_1', { now, report() {}, waitUntil() {}, count() {} })
  visit.logFields.origin = origin
  const result = await newVisitor(visit, deps).then(
    (reply) => ({ reply, json: JSON.parse(String(reply.body)) as Record<string, unknown> }),
    (error: unknown) => error,
  )
  recordOutput(JSON.stringify(reasons), JSON.stringify(result), String(result))
  if (result instanceof GatewayError) {
    const { code, param, message, retryAfterSeconds } = result
    return { code, param, message, retryAfterSeconds, reasons, sent, visit, tokens, json: null }
  }
  if (result instanceof Error) throw result
  const { json } = result as { json: Record<string, unknown> }
  return { code: null, param: null, reasons, sent, visit, tokens, json }
}

test('a solved challenge is exchanged for a token for its origin, with its expiry', async () => {
  const { json, reasons, visit, tokens } = await ask({ token: 'a token' })
  expect(json).toEqual({ token: expect.any(String), expires_at: NOW_S + 1800 })
  expect(reasons).toEqual([])
  const token = String(json?.['token'])
  const { subject } = await tokens.verify(token, { origin: ORIGIN, nowS: NOW_S })
  expect(visit.logFields.visitor).toBe(subject)
  const elsewhere = tokens.verify(token, { origin: 'https://evil.test', nowS: NOW_S })
  await expect(elsewhere).rejects.toMatchObject({ code: 'visitor_token_invalid' })
})

test('without an Origin header the token is for callers without Origin', async () => {
  const { json, tokens } = await ask({ token: 'a token' }, { origin: null })
  const token = String(json?.['token'])
  await tokens.verify(token, { origin: '', nowS: NOW_S })
})

test('siteverify gets only the address in CF-Connecting-IP', async () => {
  const spoofed = { 'x-forwarded-for': '198.51.100.1', 'x-real-ip': '198.51.100.1' }
  const known = { 'cf-connecting-ip': '203.0.113.7', ...spoofed }
  expect((await ask({ token: 'x' }, { headers: known })).sent).toMatchObject([
    { remoteip: '203.0.113.7' },
  ])
  const [body] = (await ask({ token: 'x' }, { headers: spoofed })).sent
  expect(body).not.toHaveProperty('remoteip')
})

test('a challenge sent as text/plain, which needs no preflight, is accepted', async () => {
  const headers = { 'content-type': 'text/plain' }
  expect((await ask({ token: 'x' }, { headers })).json).not.toBeNull()
})

test.each<[string, string, Given]>([
  ['the host of an origin', 'example.com', {}],
  ["the Worker's own", 'edge.test', {}],
  ['a host with a port in its origin', 'localhost', { origins: ['http://localhost:4000'] }],
  ['any host where any page may spend', 'any.test', { origins: ['*'], origin: 'https://any.test' }],
  ['a local page', 'localhost', { edge: 'http://127.0.0.1:8787', origin: 'http://localhost:4000' }],
])('a challenge solved on %s is accepted', async (_, host, given) => {
  expect((await ask({ token: 'x' }, { ...given, answer: () => solvedOn(host) })).code).toBeNull()
})

test.each<[string, string, Given]>([
  ['a foreign host', 'evil.test', {}],
  ['a foreign host, with no origins configured', 'example.com', { origins: [] }],
  ['localhost, when the Worker is on a public host', 'localhost', {}],
  [
    'localhost, from its own page, when the Worker is on a public host',
    'localhost',
    { origin: 'http://localhost:1' },
  ],
  [
    'a foreign host, from its own page',
    'evil.test',
    { edge: 'http://localhost:8787', origin: 'https://evil.test' },
  ],
  [
    'a foreign host, when the Worker is local',
    'evil.test',
    { edge: 'http://localhost:8787', origin: 'http://localhost:1' },
  ],
])('a challenge solved on %s is refused', async (_, host, given) => {
  const { code, reasons, visit } = await ask(
    { token: 'x' },
    { ...given, answer: () => solvedOn(host) },
  )
  expect(code).toBe('challenge_failed')
  expect(reasons).toEqual([['req_1', 'other_host']])
  expect(visit.logFields.visitor).toBeNull()
})

test('no token is issued for a challenge that is too long, empty or refused', async () => {
  const refusal = () => Response.json({ success: false, 'error-codes': ['timeout-or-duplicate'] })
  const heard = new Set<string>()
  for (const [token, answer, reason] of [
    ['x'.repeat(2049), undefined, 'bad_length'],
    ['', undefined, 'bad_length'],
    ['x', refusal, 'spent_or_expired'],
  ] as const) {
    const result = await ask({ token }, answer === undefined ? {} : { answer })
    expect(result.code).toBe('challenge_failed')
    expect(result.reasons).toEqual([['req_1', reason]])
    heard.add(String(result.message))
  }
  expect(heard.size).toBe(1)
})

test('the longest challenge token is accepted in the longest JSON encoding', async () => {
  const body = `{"token":"${'\\u0041'.repeat(2048)}"}`
  const { json, sent } = await ask(body)
  expect(json).not.toBeNull()
  expect(sent).toMatchObject([{ response: 'A'.repeat(2048) }])
})

test.each<[unknown, string, string | null]>([
  [{}, 'missing_field', 'token'],
  [{ token: null }, 'missing_field', 'token'],
  [{ token: 1 }, 'invalid_value', 'token'],
  [{ token: ['x'] }, 'invalid_value', 'token'],
  [{ token: 'x', origin: 'https://evil.test' }, 'unknown_field', 'origin'],
  ['{"token":"x","__proto__":{}}', 'unknown_field', '__proto__'],
  [{ token: 'x', ['y'.repeat(5000)]: 1 }, 'unknown_field', 'y'.repeat(128)],
  [[], 'invalid_value', null],
  ['null', 'invalid_value', null],
  ['"x"', 'invalid_value', null],
  ['{', 'invalid_json', null],
  [`{"token":"${'x'.repeat(20_000)}"}`, 'body_too_large', null],
])('the body %j is rejected before Turnstile is called', async (body, code, param) => {
  const result = await ask(body)
  expect([result.code, result.param]).toEqual([code, param])
  expect(result.sent).toEqual([])
})

test('a body of another type, or one that never ends, is rejected', async () => {
  const headers = { 'content-type': 'application/x-www-form-urlencoded' }
  expect((await ask('token=x', { headers })).code).toBe('unsupported_media_type')
  const stalled = openStream()
  stalled.push('{"token":')
  expect((await ask(stalled.stream)).code).toBe('body_timeout')
})

test('returns 404 without reading the body if Turnstile is off', async () => {
  const body = openStream()
  const { code, sent } = await ask(body.stream, { on: false })
  expect(code).toBe('not_found')
  expect(sent).toEqual([])
  expect(body.state.cancelled).toBe(0)
})

test('a test secret works on loopback hosts only', async () => {
  const answer = () =>
    Response.json({
      success: true,
      hostname: 'example.com',
      metadata: { result_with_testing_key: true },
    })
  const refused = await ask({ token: 'x' }, { secret: TEST_SECRET, answer })
  expect(refused.code).toBe('misconfigured')
  expect(refused.sent).toEqual([])
  for (const edge of ['http://localhost:8787', 'http://127.0.0.1:8787', 'http://[::1]:8787']) {
    expect((await ask({ token: 'x' }, { secret: TEST_SECRET, answer, edge })).code).toBeNull()
  }
  const near = { secret: TEST_SECRET, answer, edge: 'https://localhost.evil.test' }
  expect((await ask({ token: 'x' }, near)).code).toBe('misconfigured')
})
