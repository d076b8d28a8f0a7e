// The origins that may call, and the CORS headers for their browsers.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  checkOrigin,
  corsHeaders,
  echoedOrigin,
  isBrowserOrigin,
  isPreflight,
  originForLog,
  preflightReply,
} from '../../src/http/cors.ts'

const origins = [
  'https://example.com',
  'http://blog.example.org:8080',
  'https://xn--bcher-kva.example',
  'https://a.b.c.example.net',
]

function requestFrom(
  origin: string | null,
  url = 'https://edge.test/v1/completions',
  headers = {},
) {
  return new Request(url, { headers: { ...(origin === null ? {} : { origin }), ...headers } })
}

const judge = (request: Request, list: readonly string[] = origins) =>
  checkOrigin(request, new URL(request.url), list)

const kindOf = (origin: string | null, url?: string, list?: readonly string[]) =>
  judge(requestFrom(origin, url), list).kind

test.each(origins)('checkOrigin() allows the configured %s', (origin) => {
  expect(judge(requestFrom(origin))).toEqual({ kind: 'allowed', origin })
})

// Variations of the configured ones are below.
test.each([
  'https://evil.com',
  'https://user@example.com',
  'https://example.com#',
  'https://example.com/path',
  '//example.com',
  'example.com',
  '*',
  'null',
  'NULL',
  'undefined',
  '',
  'file://',
  'data:text/html,x',
  'http://localhost:4000',
])('checkOrigin() rejects %j', (origin) => {
  expect(kindOf(origin)).toBe('refused')
})

type Variant = (origin: string) => string
const variants: readonly Variant[] = [
  (origin) => origin,
  (origin) => origin.toUpperCase(),
  (origin) => origin.replace(/[a-z]/, (letter) => letter.toUpperCase()),
  (origin) => origin.replace(/^http:/, 'https:'),
  (origin) => origin.replace(/^https:/, 'http:'),
  (origin) => `${origin}:443`,
  (origin) => `${origin}:80`,
  (origin) => origin.replace(/:\d+$/, ''),
  (origin) => `${origin}.`,
  (origin) => `${origin}/`,
  (origin) => `${origin}.evil.com`,
  (origin) => `${origin}@evil.com`,
  (origin) => origin.replace('//', '//evil.'),
  (origin) => origin.replace('//', '//evil'),
  (origin) => `${origin}, ${origin}`,
  (origin) => `${origin}, https://evil.com`,
  (origin) => `https://evil.com, ${origin}`,
  (origin) => origin.replace('xn--bcher-kva', 'bücher'),
  (origin) => origin.replaceAll('.', '\u3002'),
  (origin) => origin.replace('e', '%65'),
  (origin) => origin.slice(0, -1),
  (origin) => `${origin}\t`,
  (origin) => `x${origin}`,
]

test('checkOrigin() allows only the exact configured origins, not variations of them', () => {
  const variant = fc.constantFrom(...variants)
  const candidate = fc
    .tuple(fc.constantFrom(...origins), fc.array(variant, { maxLength: 3 }))
    .map(([origin, steps]) => steps.reduce((text, step) => step(text), origin))
    // Header values are bytes.
    .filter((text) => /^[\t\x20-\xff]*$/.test(text))
  fc.assert(
    fc.property(fc.oneof(candidate, fc.webUrl(), fc.domain()), (text) => {
      // White space around a header's value is not part of it (RFC 9110, 5.5).
      const value = text.trim()
      expect(kindOf(text)).toBe(origins.includes(value) ? 'allowed' : 'refused')
    }),
    { numRuns: 500 },
  )
})

test('checkOrigin() returns "absent" without an Origin header', () => {
  expect(judge(requestFrom(null))).toEqual({ kind: 'absent' })
})

test('checkOrigin() allows exactly the origin of the Worker itself', () => {
  expect(kindOf('https://edge.test', 'https://edge.test/', [])).toBe('allowed')
  expect(kindOf('http://edge.test', 'https://edge.test/', [])).toBe('refused')
  expect(kindOf('https://edge.test:8443', 'https://edge.test/', [])).toBe('refused')
  expect(kindOf('https://edge.test:8443', 'https://edge.test:8443/', [])).toBe('allowed')
  expect(kindOf('https://x.edge.test', 'https://edge.test/', [])).toBe('refused')
})

test('checkOrigin() never allows null, even if it is configured', () => {
  expect(kindOf('null', undefined, ['*', 'null'])).toBe('refused')
  expect(kindOf('null', 'http://localhost:8787/', ['*'])).toBe('refused')
})

test('checkOrigin() allows every other origin if "*" is configured, such as an app\'s', () => {
  for (const origin of ['https://evil.com', 'capacitor://localhost']) {
    expect(judge(requestFrom(origin), ['*'])).toEqual({ kind: 'allowed', origin })
  }
})

test('checkOrigin() allows no origin that is too long to be one, and it is not logged', () => {
  const verdict = judge(requestFrom(`https://${'a'.repeat(300)}.com`), ['*'])
  expect([verdict.kind, originForLog(verdict)]).toEqual(['refused', null])
})

test.each([
  ['http://localhost:4000', 'http://localhost:8787/', 'allowed'],
  ['http://127.0.0.1:4000', 'http://localhost:8787/', 'allowed'],
  ['http://[::1]:4000', 'http://127.0.0.1:8787/', 'allowed'],
  ['https://site.localhost', 'http://127.1.2.3/', 'allowed'],
  ['http://localhost:4000', 'http://[::1]:8787/', 'allowed'],
  ['http://localhost', 'https://edge.test/', 'refused'],
  ['http://evil.com', 'http://localhost:8787/', 'refused'],
  ['http://localhost.evil.com', 'http://localhost:8787/', 'refused'],
  ['http://127.0.0.1.evil.com', 'http://localhost:8787/', 'refused'],
  ['http://evillocalhost', 'http://localhost:8787/', 'refused'],
  ['http://LOCALHOST:4000', 'http://localhost:8787/', 'refused'],
  ['http://localhost:4000/', 'http://localhost:8787/', 'refused'],
  ['http://0.0.0.0:4000', 'http://localhost:8787/', 'refused'],
  ['http://192.168.0.1', 'http://localhost:8787/', 'refused'],
  ['http://localhost:4000', 'http://localhost.evil.com/', 'refused'],
  ['http://localhost:4000', 'http://127.0.0.1.evil.com/', 'refused'],
  ['http://localhost:4000', 'http://[::2]:8787/', 'refused'],
  ['http://localhost:4000', 'http://10.0.0.1/', 'refused'],
])('checkOrigin() of %s at %s returns "%s"', (origin, url, kind) => {
  expect(kindOf(origin, url, [])).toBe(kind)
})

function preflight(origin: string, requestHeaders: string | null, method = 'POST'): Response {
  const request = new Request('https://edge.test/v1/completions', {
    method: 'OPTIONS',
    headers: {
      origin,
      'access-control-request-method': method,
      ...(requestHeaders === null ? {} : { 'access-control-request-headers': requestHeaders }),
    },
  })
  expect(isPreflight(request)).toBe(true)
  const verdict = judge(request)
  const { status, headers } = preflightReply(request, allowedBy(verdict))
  return new Response(null, { status, headers: { ...headers, ...corsHeaders(allowedBy(verdict)) } })
}

const allowedBy = (verdict: ReturnType<typeof judge>) =>
  verdict.kind === 'allowed' ? verdict.origin : null

const namesIn = (response: Response, header: string) =>
  (response.headers.get(header) ?? '')
    .split(',')
    .map((name) => name.trim().toLowerCase())
    .filter((name) => name !== '')

test.each([
  ['GET', { origin: 'https://example.com', 'access-control-request-method': 'POST' }],
  ['OPTIONS', { origin: 'https://example.com' }],
  ['OPTIONS', { 'access-control-request-method': 'POST' }],
  ['OPTIONS', {}],
])('isPreflight() returns false for %s with %j', (method, headers: Record<string, string>) => {
  expect(isPreflight(new Request('https://edge.test/', { method, headers }))).toBe(false)
})

test('preflightReply() permits an allowed origin', () => {
  const response = preflight('https://example.com', 'content-type')
  expect(response.status).toBe(204)
  expect(response.body).toBeNull()
  expect(response.headers.get('access-control-allow-origin')).toBe('https://example.com')
  expect(namesIn(response, 'access-control-allow-methods').sort()).toEqual([
    'delete',
    'get',
    'head',
    'post',
    'put',
  ])
  expect(Number(response.headers.get('access-control-max-age'))).toBeGreaterThan(0)
  expect(response.headers.has('access-control-allow-credentials')).toBe(false)
  expect(namesIn(response, 'vary')).toContain('origin')
})

test('preflightReply() returns 204 without permission for any other origin', () => {
  for (const origin of ['https://evil.com', 'null', 'https://example.com.']) {
    const response = preflight(origin, 'content-type')
    expect(response.status).toBe(204)
    const permissions = [...response.headers.keys()].filter((name) =>
      name.startsWith('access-control-'),
    )
    expect(permissions).toEqual([])
    expect(namesIn(response, 'vary')).toContain('origin')
  }
})

test('preflightReply() grants the documented headers, and every other one that is requested', () => {
  const fixed = [
    'authorization',
    'content-type',
    'x-visitor-token',
    'last-event-id',
    'cache-control',
  ]
  const grantedFor = (requested: string | null) =>
    namesIn(preflight('https://example.com', requested), 'access-control-allow-headers')
  expect(grantedFor(null)).toEqual(expect.arrayContaining(fixed))
  fc.assert(
    fc.property(fc.stringMatching(/^[a-z][a-z0-9-]{0,30}$/), (name) => {
      const requested = ['openai-beta', 'content-type', `x-stainless-${name}`, name]
      const granted = grantedFor(requested.join(','))
      expect(granted).toEqual(expect.arrayContaining([...fixed, ...requested]))
      expect(new Set(granted).size).toBe(granted.length)
    }),
    { numRuns: 50 },
  )
})

test('preflightReply() does not echo invalid header names', () => {
  const hostile = [
    'x<script>alert(1)</script>',
    'x y',
    '"quoted"',
    'a:b',
    '*',
    'x;y',
    'x\\y',
    'ä',
    'x'.repeat(65),
  ]
  const granted = preflight('https://example.com', hostile.join(','))
  const text = granted.headers.get('access-control-allow-headers') ?? ''
  for (const name of hostile) expect(text).not.toContain(name)
  expect(text).toMatch(/^[A-Za-z0-9-]+(, [A-Za-z0-9-]+)*$/)
})

test('preflightReply() limits the number of granted headers', () => {
  const many = Array.from({ length: 5000 }, (_, i) => `x-${i}`).join(',')
  const granted = namesIn(preflight('https://example.com', many), 'access-control-allow-headers')
  expect(granted.length).toBeLessThan(100)
})

test('corsHeaders() allows the origin and exposes the headers of completions', () => {
  const headers = new Headers(corsHeaders('https://example.com'))
  const response = new Response(null, { headers })
  expect(headers.get('access-control-allow-origin')).toBe('https://example.com')
  expect(headers.get('timing-allow-origin')).toBe('https://example.com')
  expect(namesIn(response, 'access-control-expose-headers')).toEqual(
    expect.arrayContaining([
      'x-request-id',
      'cache-status',
      'age',
      'etag',
      'server-timing',
      'retry-after',
      'x-should-retry',
      'ratelimit-policy',
      'ratelimit',
      'x-usage-estimated',
      'link',
    ]),
  )
  expect(headers.has('access-control-allow-credentials')).toBe(false)
})

test('corsHeaders() returns no headers if no other origin may read the response', () => {
  expect(corsHeaders(null)).toEqual({})
})

// Only origins as browsers send them are echoed; other clients can send anything.
test.each([
  ['https://evil.com', true],
  ['http://evil.com:8080', true],
  ['https://xn--bcher-kva.example', true],
  ['http://[::1]:3000', true],
  ['https://evil.com:443', false],
  ['http://evil.com:80', false],
  ['https://EVIL.com', false],
  ['https://evil.com/', false],
  ['https://a:b@evil.com', false],
  ['https://bücher.example', false],
  ['https://*.evil.com', false],
  ['https://evil.com, https://evil.org', false],
  ['chrome-extension://abcdefghijklmnop', false],
  ['file://', false],
  ['blob:https://evil.com/1', false],
  ['null', false],
  ['', false],
  [`https://${'a'.repeat(300)}.com`, false],
])('isBrowserOrigin(%j) returns %j, and only such origins are echoed', (origin, isValid) => {
  expect(isBrowserOrigin(origin)).toBe(isValid)
  const refused = { kind: 'refused', origin } as const
  expect(echoedOrigin(refused)).toBe(isValid ? origin : null)
  expect(originForLog(refused)).toBe(isValid || origin === 'null' ? origin : null)
})

test('echoedOrigin() returns null unless the origin is refused', () => {
  expect(echoedOrigin({ kind: 'allowed', origin: 'https://example.com' })).toBeNull()
  expect(echoedOrigin({ kind: 'absent' })).toBeNull()
})
