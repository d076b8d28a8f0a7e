// Who is let in: with Turnstile on by a token alone, with it off by the address. PLATFORM B5, B9.
import { expect, test } from 'vitest'
import { VisitorGate } from '../../src/access/gate.ts'
import { Visitors } from '../../src/access/visitor.ts'
import { type TokenRefusal, VisitorTokens } from '../../src/access/visitor-token.ts'
import { GatewayError } from '../../src/errors.ts'

const ORIGIN = 'https://example.com'
const NOW_MS = 1_767_225_600_999
const NOW_S = 1_767_225_600
const randomBytes = (bytes: Uint8Array) => crypto.getRandomValues(bytes)
const visitors = new Visitors(async () => 'a secret')
const noFallback = () => Promise.reject(new Error('not to be asked'))

function tokensWith(fallbackSecret: () => Promise<string>, secret: string | null = 'a secret') {
  return new VisitorTokens(
    { tokenSeconds: 60 },
    { secret, previousSecret: null, fallbackSecret, randomBytes },
  )
}

const tokens = tokensWith(noFallback)
const open = new VisitorGate({ visitors, tokens: null, now: () => NOW_MS })
const closed = new VisitorGate({ visitors, tokens, now: () => NOW_MS })

interface Given {
  readonly gate?: VisitorGate
  readonly origin?: string | null
  readonly isOperator?: boolean
  readonly maySpend?: boolean
}

/** The visitor's id, or the code of the refusal and what the log hears. */
async function arrive(headers: HeadersInit, given: Given = {}) {
  const { gate = closed, origin = ORIGIN, isOperator = false, maySpend = true } = given
  const reasons: TokenRefusal[] = []
  const refused = (reason: TokenRefusal) => reasons.push(reason)
  try {
    const arrival = { headers: new Headers(headers), origin, isOperator, maySpend, refused }
    return { id: await gate.visitorOf(arrival), reasons }
  } catch (error) {
    expect(error).toBeInstanceOf(GatewayError)
    return { code: (error as GatewayError).code, reasons }
  }
}

const minted = async (origin = ORIGIN) => await tokens.mint({ origin, nowS: NOW_S })
const address = (ip: string) => ({ 'cf-connecting-ip': ip })

test('without Turnstile a visitor is the hash of its address, whatever it sends', async () => {
  const id = await visitors.idOf('203.0.113.7', NOW_MS)
  const { token } = await minted()
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
    expect(await arrive(headers, { gate: open })).toEqual({ id, reasons: [] })
  }
})

test('without Turnstile those without an address are one visitor', async () => {
  const id = await visitors.idOf(null, NOW_MS)
  expect(await arrive({}, { gate: open })).toEqual({ id, reasons: [] })
  const spoofed = { 'x-forwarded-for': '203.0.113.7' }
  expect(await arrive(spoofed, { gate: open })).toEqual({ id, reasons: [] })
})

test('with Turnstile a visitor is its token, in the header or as the bearer', async () => {
  const { token, subject } = await minted()
  const ways = [
    { 'x-visitor-token': token },
    { authorization: `Bearer ${token}` },
    { authorization: `bearer  ${token}` },
    { 'x-visitor-token': token, authorization: 'Bearer sk-anything' },
    { 'x-visitor-token': '', authorization: `Bearer ${token}` },
  ]
  for (const way of ways) expect(await arrive(way)).toEqual({ id: subject, reasons: [] })
})

// PLATFORM B5: so that what it spends is counted as one visitor's.
test('a token is the same visitor from a hundred addresses', async () => {
  const { token, subject } = await minted()
  for (let i = 0; i < 100; i++) {
    const headers = { ...address(`203.0.113.${i}`), 'x-visitor-token': token }
    expect(await arrive(headers)).toEqual({ id: subject, reasons: [] })
  }
})

test('with Turnstile a request without any token needs one', async () => {
  const without = [{}, address('203.0.113.7'), { 'x-visitor-token': '' }]
  for (const headers of [
    ...without,
    { authorization: 'Basic dTpw' },
    { authorization: 'Bearer' },
  ]) {
    expect(await arrive(headers)).toEqual({ code: 'visitor_token_required', reasons: [] })
  }
})

test('with Turnstile any other bearer or token is refused, and the log hears why', async () => {
  const { token } = await minted()
  const elsewhere = (await minted('https://evil.test')).token
  const cases: readonly (readonly [Record<string, string>, TokenRefusal])[] = [
    [{ authorization: 'Bearer sk-anything' }, 'malformed'],
    [{ 'x-visitor-token': 'nonsense', authorization: `Bearer ${token}` }, 'malformed'],
    [{ 'x-visitor-token': `${token}, ${token}` }, 'malformed'],
    [{ 'x-visitor-token': elsewhere }, 'other_origin'],
    [{ 'x-visitor-token': 'x'.repeat(1_048_576) }, 'too_long'],
  ]
  for (const [headers, reason] of cases) {
    expect(await arrive(headers)).toEqual({ code: 'visitor_token_invalid', reasons: [reason] })
  }
})

test('a token minted without an Origin is for requests without one', async () => {
  const { token, subject } = await minted('')
  const headers = { 'x-visitor-token': token }
  expect(await arrive(headers, { origin: null })).toEqual({ id: subject, reasons: [] })
  expect(await arrive(headers)).toMatchObject({ code: 'visitor_token_invalid' })
  const page = { 'x-visitor-token': (await minted()).token }
  expect(await arrive(page, { origin: null })).toMatchObject({ code: 'visitor_token_invalid' })
})

test('the operator needs no token, and no good one', async () => {
  const id = await visitors.idOf('203.0.113.7', NOW_MS)
  for (const extra of [{}, { 'x-visitor-token': 'nonsense' }, { authorization: 'Bearer op' }]) {
    const headers = { ...address('203.0.113.7'), ...extra }
    expect(await arrive(headers, { isOperator: true })).toEqual({ id, reasons: [] })
  }
})

test('what cannot spend needs no token, and is not refused for a bad one', async () => {
  const id = await visitors.idOf('203.0.113.7', NOW_MS)
  const { token, subject } = await minted()
  for (const extra of [{}, { 'x-visitor-token': 'nonsense' }, { authorization: 'Bearer sk-x' }]) {
    const headers = { ...address('203.0.113.7'), ...extra }
    expect(await arrive(headers, { maySpend: false })).toEqual({ id, reasons: [] })
  }
  const headers = { ...address('203.0.113.7'), 'x-visitor-token': token }
  expect(await arrive(headers, { maySpend: false })).toEqual({ id: subject, reasons: [] })
})

test('where tokens cannot be checked what spends has to wait, the cache goes on', async () => {
  const keyless = tokensWith(noFallback, null)
  const gate = new VisitorGate({ visitors, tokens: keyless, now: () => NOW_MS })
  const headers = { ...address('203.0.113.7'), 'x-visitor-token': (await minted()).token }
  expect(await arrive(headers, { gate })).toEqual({ code: 'ledger_unavailable', reasons: [] })
  const id = await visitors.idOf('203.0.113.7', NOW_MS)
  expect(await arrive(headers, { gate, maySpend: false })).toEqual({ id, reasons: [] })
})

test('the gate counts whole seconds: a token ends at its second', async () => {
  let ms = NOW_MS
  const gate = new VisitorGate({ visitors, tokens, now: () => ms })
  const { token, subject, expires_at } = await minted()
  const headers = { 'x-visitor-token': token }
  ms = expires_at * 1000 - 1
  expect(await arrive(headers, { gate })).toEqual({ id: subject, reasons: [] })
  ms = expires_at * 1000
  const late = { code: 'visitor_token_invalid', reasons: ['expired'] }
  expect(await arrive(headers, { gate })).toEqual(late)
})
