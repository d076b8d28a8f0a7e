// Identifies the visitor: by a token if Turnstile is on, otherwise by the address's network and the
// day.
import { isIPv4, isIPv6 } from 'node:net'
import fc from 'fast-check'
import { afterEach, expect, test, vi } from 'vitest'
import { type TokenRefusal, VisitorTokens } from '../../src/access/visitor-token.ts'
import { networkOf, Visitors } from '../../src/access/visitors.ts'
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
  const nobody = { id: await visitors.idOf(null, NOW_MS), reasons: [] }
  for (const headers of [{}, { 'x-forwarded-for': '203.0.113.7' }]) {
    expect(await identify(headers, { identifier: visitors })).toEqual(nobody)
  }
})

test('with Turnstile a visitor is identified by its token, in x-visitor-token or as the bearer', async () => {
  const { token, subject } = await mint()
  const ways = [
    { 'x-visitor-token': token },
    { authorization: `Bearer ${token}` },
    { authorization: `bearer  ${token}` },
    { 'x-visitor-token': token, authorization: 'Bearer sk-anything' },
    { 'x-visitor-token': '', authorization: `Bearer ${token}` },
    // From any address, so that its budget is that of one visitor.
    { 'x-visitor-token': token, ...address('203.0.113.7') },
    { 'x-visitor-token': token, ...address('2001:db8::1') },
  ]
  for (const way of ways) expect(await identify(way)).toEqual({ id: subject, reasons: [] })
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

test('the operator, and a request that may not spend, need no token: an invalid one is ignored', async () => {
  const id = await visitors.idOf('203.0.113.7', NOW_MS)
  const { token, subject } = await mint()
  for (const extra of [{}, { 'x-visitor-token': 'nonsense' }, { authorization: 'Bearer sk-x' }]) {
    const headers = { ...address('203.0.113.7'), ...extra }
    expect(await identify(headers, { maySpend: false })).toEqual({ id, reasons: [] })
    expect(await identify(headers, { isOperator: true })).toEqual({ id, reasons: [] })
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

afterEach(() => {
  vi.restoreAllMocks()
})

const visitorsWith = (secret: () => Promise<string>) =>
  new Visitors({ secret, tokens: null, now: () => 0 })
const visitorsOf = (secret: string) => visitorsWith(async () => secret)

const DAY_MS = 86_400_000
const NOON_MS = 20_000 * DAY_MS + DAY_MS / 2

test.each([
  ['203.0.113.7', '203.0.113.7'],
  ['0.0.0.0', '0.0.0.0'],
  ['255.255.255.255', '255.255.255.255'],
  ['::ffff:203.0.113.7', '203.0.113.7'],
  ['::FFFF:203.0.113.7', '203.0.113.7'],
  ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
  ['2001:0DB8:0001:0002:ffff:ffff:ffff:ffff', '2001:db8:1:2::/64'],
  ['2001:db8:1:2::', '2001:db8:1:2::/64'],
  ['2001:db8:1:2::9', '2001:db8:1:2::/64'],
  ['2001:db8::1', '2001:db8:0:0::/64'],
  ['2001:db8:0:0:1::', '2001:db8:0:0::/64'],
  ['1::', '1:0:0:0::/64'],
  ['::ffff:cb00:7107', '203.0.113.7'],
  ['0:0:0:0:0:ffff:203.0.113.7', '203.0.113.7'],
  ['0::ffff:cb00:7107', '203.0.113.7'],
  ...[null, '', '256.1.1.1', '1.2.3.4:80', ' 1.2.3.4', '1.2.3.4, 5.6.7.8', 'fe80::1%eth0', '[::1]']
    .concat(`${'1:'.repeat(10_000)}:`)
    .map((address) => [address, 'shared'] as const),
] as const)('networkOf() maps %s to %s', (address, network) => {
  expect(networkOf(address)).toBe(network)
})

test('networkOf() maps a whole /64 to one network and its neighbour to another', () => {
  const group = fc.integer({ min: 0, max: 0xffff }).map((n) => n.toString(16))
  const groups = (length: number) => fc.array(group, { minLength: length, maxLength: length })
  fc.assert(
    fc.property(groups(4), groups(4), groups(4), groups(4), (net, other, a, b) => {
      fc.pre(net.some((part) => part !== '0') && other.some((part) => part !== '0'))
      const network = networkOf([...net, ...a].join(':'))
      expect(network).toBe(networkOf([...net, ...b].join(':')))
      expect(network === networkOf([...other, ...a].join(':'))).toBe(
        net.join(':') === other.join(':'),
      )
    }),
  )
})

// node:net decides what an address is. A zone id has no meaning outside its host.
test('networkOf() maps anything that is not an address to the shared network', () => {
  const piece = fc.constantFrom(':', '::', '1', 'ff', '.', '0', ']', '[', '/', '@', '%', '?', '\n')
  const text = fc.oneof(
    fc.array(piece, { maxLength: 10 }).map((pieces) => pieces.join('')),
    fc.string(),
    fc.ipV4(),
    fc.ipV6(),
  )
  fc.assert(
    fc.property(text, (address) => {
      const known = (isIPv4(address) || isIPv6(address)) && !address.includes('%')
      expect(networkOf(address) !== 'shared').toBe(known)
    }),
    { numRuns: 2000, examples: [['::1]:80/'], ['::1]/?['], ['::\n1'], ['01.2.3.4']] },
  )
})

test('Visitors.idOf() is 16 hex digits, the same all day', async () => {
  const visitors = visitorsOf('secret')
  const id = await visitors.idOf('203.0.113.7', NOON_MS)
  expect(id).toMatch(/^h:[0-9a-f]{16}$/)
  const day = Math.floor(NOON_MS / DAY_MS) * DAY_MS
  for (const nowMs of [day, NOON_MS, day + DAY_MS - 1]) {
    expect(await visitors.idOf('203.0.113.7', nowMs)).toBe(id)
    expect(await visitorsOf('secret').idOf('203.0.113.7', nowMs)).toBe(id)
  }
})

test('Visitors.idOf() changes each UTC day and with each secret', async () => {
  const visitors = visitorsOf('secret')
  const day = Math.floor(NOON_MS / DAY_MS) * DAY_MS
  const ids = [
    await visitors.idOf('203.0.113.7', day + DAY_MS - 1),
    await visitors.idOf('203.0.113.7', day + DAY_MS),
    await visitors.idOf('203.0.113.7', day + 2 * DAY_MS),
    await visitorsOf('other').idOf('203.0.113.7', day),
  ]
  expect(new Set(ids).size).toBe(4)
})

test('Visitors.idOf() gives one id per network, and one for all requests without an address', async () => {
  const visitors = visitorsOf('secret')
  const id = (address: string | null) => visitors.idOf(address, NOON_MS)
  expect(await id('2001:db8:1:2::1')).toBe(await id('2001:db8:1:2:ffff::9'))
  expect(await id('::ffff:203.0.113.7')).toBe(await id('203.0.113.7'))
  expect(await id(null)).toBe(await id('garbage'))
  const others = ['2001:db8:1:2::1', '2001:db8:1:3::1', '203.0.113.7', '203.0.113.8', null]
  expect(new Set(await Promise.all(others.map(id))).size).toBe(5)
})

// A request may run across midnight; its id must not be kept.
test("Visitors.idOf() does not keep yesterday's id after midnight", async () => {
  const visitors = visitorsOf('secret')
  const late = visitors.idOf('203.0.113.7', DAY_MS - 1)
  const early = visitors.idOf('203.0.113.8', DAY_MS)
  await Promise.all([late, early])
  expect(await visitors.idOf('203.0.113.7', DAY_MS)).toBe(
    await visitorsOf('secret').idOf('203.0.113.7', DAY_MS),
  )
})

test('Visitors.idOf() gives the right ids to concurrent requests', async () => {
  const visitors = visitorsOf('secret')
  const addresses = Array.from({ length: 50 }, (_, i) => `203.0.113.${i % 10}`)
  const ids = await Promise.all(addresses.map((address) => visitors.idOf(address, NOON_MS)))
  expect(new Set(ids).size).toBe(10)
  for (const [i, id] of ids.entries()) expect(id).toBe(ids[i % 10])
})

test('Visitors.idOf() caches up to a thousand networks', async () => {
  const sign = vi.spyOn(crypto.subtle, 'sign')
  const visitors = visitorsOf('secret')
  const address = (i: number) => `10.0.${i >> 8}.${i & 255}`
  await visitors.idOf(address(0), NOON_MS)
  await visitors.idOf(address(0), NOON_MS)
  expect(sign).toHaveBeenCalledTimes(1)
  for (let i = 1; i <= 1000; i++) await visitors.idOf(address(i), NOON_MS)
  expect(sign).toHaveBeenCalledTimes(1001)
  // If it had kept the first network next to 1,000 others, the cache would be unbounded.
  await visitors.idOf(address(0), NOON_MS)
  expect(sign).toHaveBeenCalledTimes(1002)
})

test('Visitors.idOf() reads the secret once a day, and again after a failure', async () => {
  const secret = vi
    .fn<() => Promise<string>>()
    .mockRejectedValueOnce(new Error('out of reach'))
    .mockResolvedValue('secret')
  const visitors = visitorsWith(secret)
  await expect(visitors.idOf('203.0.113.7', NOON_MS)).rejects.toThrow('out of reach')
  const id = await visitors.idOf('203.0.113.7', NOON_MS)
  await visitors.idOf('203.0.113.8', NOON_MS)
  expect(secret).toHaveBeenCalledTimes(2)
  expect(id).toBe(await visitorsOf('secret').idOf('203.0.113.7', NOON_MS))
  await visitors.idOf('203.0.113.7', NOON_MS + DAY_MS)
  expect(secret).toHaveBeenCalledTimes(3)
})
