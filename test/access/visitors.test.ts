// Identifies the visitor: by a token if Turnstile is on, otherwise by the address.
import { expect, test } from 'vitest'
import { type TokenRefusal, VisitorTokens } from '../../src/access/visitor-token.ts'
import { Visitors } from '../../src/access/visitors.ts'
import { GatewayError } from '../../src/errors.ts'

const ORIGIN = 'https://example.com'
const NOW_MS = 1_767_225_600_999
const NOW_S = 1_767_225_600
const randomBytes = (bytes: Uint8Array) => crypto.getRandomValues(bytes)
const secret = async () => 'a secret'
const noFallback = () => Promise.reject(new Error('must not be called'))

function tokensWith(
  fallbackSecret: () => Promise<string>,
  tokenSecret: string | null = 'a secret',
) {
  return new VisitorTokens({
    tokenSeconds: 60,
    secret: tokenSecret,
    previousSecret: null,
    fallbackSecret,
    randomBytes,
  })
}

const tokens = tokensWith(noFallback)
const visitors = new Visitors({ secret, tokens: null, now: () => NOW_MS })
const closed = new Visitors({ secret, tokens, now: () => NOW_MS })

interface Given {
  readonly identifier?: Visitors
  readonly origin?: string | null
  readonly isOperator?: boolean
  readonly maySpend?: boolean
}

/** The visitor's id, or the error code and the reasons that were logged. */
async function identify(headers: HeadersInit, given: Given = {}) {
  const { identifier = closed, origin = ORIGIN, isOperator = false, maySpend = true } = given
  const reasons: TokenRefusal[] = []
  const refused = (reason: TokenRefusal) => reasons.push(reason)
  try {
    const request = { headers: new Headers(headers), origin, isOperator, maySpend, refused }
    return { id: await identifier.visitorOf(request), reasons }
  } catch (error) {
    expect(error).toBeInstanceOf(GatewayError)
    return { code: (error as GatewayError).code, reasons }
  }
}

const mint = async (origin = ORIGIN) => await tokens.mint({ origin, nowS: NOW_S })
const address = (ip: string) => ({ 'cf-connecting-ip': ip })

test('without Turnstile a visitor is identified by its address only', async () => {
  const id = await visitors.idOf('203.0.113.7', NOW_MS)
  const { token } = await mint()
  const extras = [
    {},
    { 'x-visitor-token': token },
    { 'x-visitor-token': 'nonsense' },
    { authorization: `Bearer ${token}` },
    { authorization: 'Bearer sk-anything' },
    { 'x-forwarded-for': '198.51.100.1', 'x-real-ip': '198.51.100.2', 'true-client-ip': '::1' },
  ]
  for (const extra of extras) {
    const headers = { ...address('203.0.113.7'), ...extra }
    expect(await identify(headers, { identifier: visitors })).toEqual({ id, reasons: [] })
  }
})

test('without Turnstile all requests without an address are one visitor', async () => {
  const id = await visitors.idOf(null, NOW_MS)
  expect(await identify({}, { identifier: visitors })).toEqual({ id, reasons: [] })
  const spoofed = { 'x-forwarded-for': '203.0.113.7' }
  expect(await identify(spoofed, { identifier: visitors })).toEqual({ id, reasons: [] })
})

test('with Turnstile a visitor is identified by its token, in x-visitor-token or as the bearer', async () => {
  const { token, subject } = await mint()
  const ways = [
    { 'x-visitor-token': token },
    { authorization: `Bearer ${token}` },
    { authorization: `bearer  ${token}` },
    { 'x-visitor-token': token, authorization: 'Bearer sk-anything' },
    { 'x-visitor-token': '', authorization: `Bearer ${token}` },
  ]
  for (const way of ways) expect(await identify(way)).toEqual({ id: subject, reasons: [] })
})

// So that its budget is counted for one visitor.
test('a token is the same visitor from a hundred addresses', async () => {
  const { token, subject } = await mint()
  for (let i = 0; i < 100; i++) {
    const headers = { ...address(`203.0.113.${i}`), 'x-visitor-token': token }
    expect(await identify(headers)).toEqual({ id: subject, reasons: [] })
  }
})

test('with Turnstile a request without a token is rejected', async () => {
  const without = [{}, address('203.0.113.7'), { 'x-visitor-token': '' }]
  for (const headers of [
    ...without,
    { authorization: 'Basic dTpw' },
    { authorization: 'Bearer' },
  ]) {
    expect(await identify(headers)).toEqual({ code: 'visitor_token_required', reasons: [] })
  }
})

test('with Turnstile any other bearer or token is rejected, and the reason is logged', async () => {
  const { token } = await mint()
  const elsewhere = (await mint('https://evil.test')).token
  const cases: readonly (readonly [Record<string, string>, TokenRefusal])[] = [
    [{ authorization: 'Bearer sk-anything' }, 'malformed'],
    [{ 'x-visitor-token': 'nonsense', authorization: `Bearer ${token}` }, 'malformed'],
    [{ 'x-visitor-token': `${token}, ${token}` }, 'malformed'],
    [{ 'x-visitor-token': elsewhere }, 'other_origin'],
    [{ 'x-visitor-token': 'x'.repeat(1_048_576) }, 'too_long'],
  ]
  for (const [headers, reason] of cases) {
    expect(await identify(headers)).toEqual({ code: 'visitor_token_invalid', reasons: [reason] })
  }
})

test('a token created without an Origin is valid for requests without one', async () => {
  const { token, subject } = await mint('')
  const headers = { 'x-visitor-token': token }
  expect(await identify(headers, { origin: null })).toEqual({ id: subject, reasons: [] })
  expect(await identify(headers)).toMatchObject({ code: 'visitor_token_invalid' })
  const page = { 'x-visitor-token': (await mint()).token }
  expect(await identify(page, { origin: null })).toMatchObject({ code: 'visitor_token_invalid' })
})

test('the operator needs no token, and an invalid one is ignored', async () => {
  const id = await visitors.idOf('203.0.113.7', NOW_MS)
  for (const extra of [{}, { 'x-visitor-token': 'nonsense' }, { authorization: 'Bearer op' }]) {
    const headers = { ...address('203.0.113.7'), ...extra }
    expect(await identify(headers, { isOperator: true })).toEqual({ id, reasons: [] })
  }
})

test('a request that may not spend needs no token, and an invalid one is ignored', async () => {
  const id = await visitors.idOf('203.0.113.7', NOW_MS)
  const { token, subject } = await mint()
  for (const extra of [{}, { 'x-visitor-token': 'nonsense' }, { authorization: 'Bearer sk-x' }]) {
    const headers = { ...address('203.0.113.7'), ...extra }
    expect(await identify(headers, { maySpend: false })).toEqual({ id, reasons: [] })
  }
  const headers = { ...address('203.0.113.7'), 'x-visitor-token': token }
  expect(await identify(headers, { maySpend: false })).toEqual({ id: subject, reasons: [] })
})

test('if tokens cannot be checked, requests that may spend fail and others are served', async () => {
  const keyless = tokensWith(noFallback, null)
  const identifier = new Visitors({ secret, tokens: keyless, now: () => NOW_MS })
  const headers = { ...address('203.0.113.7'), 'x-visitor-token': (await mint()).token }
  expect(await identify(headers, { identifier })).toEqual({
    code: 'ledger_unavailable',
    reasons: [],
  })
  const id = await visitors.idOf('203.0.113.7', NOW_MS)
  expect(await identify(headers, { identifier, maySpend: false })).toEqual({ id, reasons: [] })
})

test('a token expires at its second', async () => {
  let ms = NOW_MS
  const identifier = new Visitors({ secret, tokens, now: () => ms })
  const { token, subject, expires_at } = await mint()
  const headers = { 'x-visitor-token': token }
  ms = expires_at * 1000 - 1
  expect(await identify(headers, { identifier })).toEqual({ id: subject, reasons: [] })
  ms = expires_at * 1000
  const late = { code: 'visitor_token_invalid', reasons: ['expired'] }
  expect(await identify(headers, { identifier })).toEqual(late)
})
