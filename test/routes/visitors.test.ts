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

const local = { edge: 'http://localhost:8787', origin: 'http://localhost:1' }
test.each<[string, string, Given, 'accepted' | 'refused']>([
  ['the host of an origin', 'example.com', {}, 'accepted'],
  ["the Worker's own", 'edge.test', {}, 'accepted'],
  ['a host whose origin has a port', 'localhost', { origins: ['http://localhost:4'] }, 'accepted'],
  ['any host with origins = ["*"]', 'any.test', { origins: ['*'] }, 'accepted'],
  ['a local page', 'localhost', { ...local, edge: 'http://127.0.0.1:8787' }, 'accepted'],
  ['a foreign host', 'evil.test', {}, 'refused'],
  ['a host without configured origins', 'example.com', { origins: [] }, 'refused'],
  ['localhost, for a public Worker', 'localhost', {}, 'refused'],
  [
    'localhost, from its page, for a public Worker',
    'localhost',
    { ...local, edge: EDGE },
    'refused',
  ],
  [
    'a foreign host, from its page',
    'evil.test',
    { ...local, origin: 'https://evil.test' },
    'refused',
  ],
  ['a foreign host, for a local Worker', 'evil.test', local, 'refused'],
])('a challenge solved on %s (%s) with %j is %s', async (_, host, given, end) => {
  const answer = () => solvedOn(host)
  const { code, reasons, visit } = await ask({ token: 'x' }, { ...given, answer })
  const refused = end === 'refused'
  expect(code).toBe(refused ? 'challenge_failed' : null)
  expect(reasons).toEqual(refused ? [['req_1', 'other_host']] : [])
  expect(visit.logFields.visitor === null).toBe(refused)
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

test('a body that never ends is rejected', async () => {
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
  const secret = '1x0000000000000000000000000000000AA'
  const answer = () => solvedOn('example.com')
  const codeAt = async (edge: string) => (await ask({ token: 'x' }, { secret, answer, edge })).code
  expect(await codeAt('http://localhost:8787')).toBeNull()
  expect(await codeAt(EDGE)).toBe('misconfigured')
})
