// Visitor tokens: only a token created here, for this origin and this time, is accepted. All others
// fail with the same error.
import fc from 'fast-check'
import { base64url, CompactSign, jwtVerify, SignJWT } from 'jose'
import { expect, test, vi } from 'vitest'
import { type TokenRefusal, VisitorTokens } from '../../src/access/visitor-token.ts'
import { GatewayError } from '../../src/errors.ts'

const NOW_S = 1_767_225_600
const SECONDS = 1800
const ORIGIN = 'https://example.com'
const SECRET = 'a secret of the tests, long enough to be one'
const here = { origin: ORIGIN, nowS: NOW_S }
const randomBytes = (bytes: Uint8Array) => crypto.getRandomValues(bytes)

interface Given {
  readonly secret?: string | null
  readonly previousSecret?: string | null
  readonly fallbackSecret?: () => Promise<string>
  readonly tokenSeconds?: number
}

function tokensWith({ tokenSeconds = SECONDS, ...given }: Given = {}): VisitorTokens {
  const fallbackSecret = () => Promise.reject(new Error('must not be called'))
  return new VisitorTokens({
    tokenSeconds,
    secret: SECRET,
    previousSecret: null,
    fallbackSecret,
    randomBytes,
    ...given,
  })
}

/** What verify() reports to the visitor and to the log. */
async function verdict(tokens: VisitorTokens, token: string, use = here) {
  const reasons: TokenRefusal[] = []
  try {
    await tokens.verify(token, use, (reason) => reasons.push(reason))
  } catch (error) {
    expect(error).toBeInstanceOf(GatewayError)
    const { code, message, param, retryAfterSeconds, cause } = error as GatewayError
    expect(reasons).toHaveLength(1)
    return { error: { code, message, param, retryAfterSeconds, cause }, reason: reasons[0] }
  }
  expect(reasons).toEqual([])
  return { error: null, reason: 'passed' as const }
}

async function reasonOf(...args: Parameters<typeof verdict>) {
  return (await verdict(...args)).reason
}

/** The key by RFC 5869, derived without the code under test. */
async function keyOf(secret: string): Promise<Uint8Array> {
  const bytes = (text: string) => new TextEncoder().encode(text)
  const material = await crypto.subtle.importKey('raw', bytes(secret), 'HKDF', false, [
    'deriveBits',
  ])
  const info = bytes('edge-completions visitor token')
  const salt = new Uint8Array()
  const bits = { name: 'HKDF', hash: 'SHA-256', salt, info }
  return new Uint8Array(await crypto.subtle.deriveBits(bits, material, 256))
}

const goodClaims = {
  origin: ORIGIN,
  sub: 't:0123456789abcdef',
  aud: 'edge-completions visitor',
  iat: NOW_S,
  exp: NOW_S + SECONDS,
}

/** A token with any claims, signed with the right key. */
async function sign(claims: unknown, header: object = { alg: 'HS256', typ: 'JWT' }) {
  return await new CompactSign(new TextEncoder().encode(JSON.stringify(claims)))
    .setProtectedHeader(header as { alg: string })
    .sign(await keyOf(SECRET))
}

const origins = fc.oneof(fc.constant(''), fc.constant(ORIGIN), fc.webUrl().map(originOf))

function originOf(url: string): string {
  return new URL(url).origin
}

test('verify(mint(x)) is x for every origin, clock and lifetime', async () => {
  const nows = fc.integer({ min: 0, max: 8_640_000_000_000 - 86_400 })
  const lives = fc.integer({ min: 1, max: 86_400 })
  await fc.assert(
    fc.asyncProperty(origins, nows, lives, async (origin, nowS, tokenSeconds) => {
      const tokens = tokensWith({ tokenSeconds })
      const { token, expires_at, subject } = await tokens.mint({ origin, nowS })
      expect(expires_at).toBe(nowS + tokenSeconds)
      expect(subject).toMatch(/^t:[0-9a-f]{16}$/)
      expect(token).toMatch(/^[\x21-\x7e]{1,1024}$/)
      expect(await tokens.verify(token, { origin, nowS })).toEqual({ subject })
    }),
    { numRuns: 60 },
  )
})

test('mint() makes JWTs that another library accepts', async () => {
  const { token, subject } = await tokensWith().mint(here)
  const { payload, protectedHeader } = await jwtVerify(token, await keyOf(SECRET), {
    algorithms: ['HS256'],
    audience: goodClaims.aud,
    currentDate: new Date(NOW_S * 1000),
  })
  expect(payload).toEqual({ ...goodClaims, sub: subject })
  expect(protectedHeader).toEqual({ alg: 'HS256', typ: 'JWT' })
})

test('mint() never gives two visitors the same subject', async () => {
  const tokens = tokensWith()
  const minted = await Promise.all(Array.from({ length: 50 }, () => tokens.mint(here)))
  expect(new Set(minted.map(({ subject }) => subject)).size).toBe(50)
})

test('mint() supports the longest possible origin, and makes only tokens that verify() accepts', async () => {
  const tokens = tokensWith()
  const host = `${'a'.repeat(63)}.${'b'.repeat(63)}.${'c'.repeat(63)}.${'d'.repeat(61)}`
  const longest = { ...here, origin: `https://${host}:65535` }
  const { token, subject } = await tokens.mint(longest)
  expect(await tokens.verify(token, longest)).toEqual({ subject })
  const absurd = tokens.mint({ ...here, origin: 'x'.repeat(1000) })
  await expect(absurd).rejects.toMatchObject({ code: 'origin_not_allowed' })
})

test('verify() rejects a token with one bit changed, even in canonical base64url', async () => {
  const tokens = tokensWith()
  const { token } = await tokens.mint(here)
  const parts = token.split('.')
  for (const [i, part] of parts.entries()) {
    const bytes = base64url.decode(part)
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const flipped = Uint8Array.from(bytes)
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      const forged = parts.with(i, base64url.encode(flipped)).join('.')
      expect(await reasonOf(tokens, forged)).toBe(i === 0 ? 'malformed' : 'bad_signature')
    }
  }
})

// The last character of 32 bytes has two bits that are not decoded.
test('verify() rejects other spellings of the same bytes', async () => {
  const tokens = tokensWith()
  const { token } = await tokens.mint(here)
  const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
  const last = letters.indexOf(token.slice(-1))
  expect(last % 4).toBe(0)
  const spellings = [1, 2, 3].map((bits) => token.slice(0, -1) + letters.charAt(last + bits))
  const spelled = Buffer.from(token.split('.')[2] ?? '', 'base64url')
  for (const spelling of spellings) {
    expect(Buffer.from(spelling.split('.')[2] ?? '', 'base64url')).toEqual(spelled)
  }
  spellings.push(`${token}=`, `${token}==`, `${token} `, ` ${token}`, `${token}\n`)
  for (const spelling of spellings) expect(await reasonOf(tokens, spelling)).toBe('malformed')
})

test('verify() rejects copies, pieces and lists of a good token', async () => {
  const tokens = tokensWith()
  const { token } = await tokens.mint(here)
  const [head, payload, signature] = token.split('.')
  const wrong = [
    `${token}${token}${token}`,
    `${token}.${token}.${token}`,
    `${token}, ${token}, ${token}`,
    `${token},${token}`,
    `Bearer ${token}`,
    `${head}.${payload}`,
    `${head}.${payload}.`,
    `${head}..${signature}`,
    `.${payload}.${signature}`,
    `${payload}.${head}.${signature}`,
    '..',
    '',
  ]
  for (const text of wrong) expect(await reasonOf(tokens, text)).toMatch(/malformed|too_long/)
  for (let length = 0; length < token.length; length++) {
    expect(await reasonOf(tokens, token.slice(0, length))).toMatch(/malformed|bad_signature/)
  }
})

test('verify() rejects a token that is too long before decoding it', async () => {
  const verify = vi.spyOn(crypto.subtle, 'verify')
  const encode = vi.spyOn(globalThis, 'btoa')
  const decode = vi.spyOn(globalThis, 'atob')
  const { token } = await tokensWith().mint(here)
  // A good token calls all of them; otherwise the counts below would prove nothing.
  await tokensWith().verify(token, here)
  for (const spy of [verify, encode, decode]) {
    expect(spy).toHaveBeenCalled()
    spy.mockClear()
  }
  const texts = ['x'.repeat(1025), 'A'.repeat(1_048_576), token + '.'.repeat(1_048_576)]
  for (const text of texts) expect(await reasonOf(tokensWith(), text)).toBe('too_long')
  for (const spy of [verify, encode, decode]) expect(spy).not.toHaveBeenCalled()
  vi.restoreAllMocks()
})

test('verify() rejects every header but its own, including alg: none', async () => {
  const tokens = tokensWith()
  const { token } = await tokens.mint(here)
  const [, payload = '', signature = ''] = token.split('.')
  const headers = [
    { alg: 'none' },
    { alg: 'none', typ: 'JWT' },
    { alg: 'NONE', typ: 'JWT' },
    { alg: 'hs256', typ: 'JWT' },
    { alg: 'HS512', typ: 'JWT' },
    { alg: 'RS256', typ: 'JWT' },
    { typ: 'JWT', alg: 'HS256' },
    { alg: 'HS256', typ: 'JWT', kid: '../../dev/null' },
    { alg: 'HS256', typ: 'JWT', jwk: { kty: 'oct', k: 'AAAA' } },
  ].map((header) => base64url.encode(JSON.stringify(header)))
  for (const header of headers) {
    for (const end of [signature, '', 'AAAA']) {
      expect(await reasonOf(tokens, `${header}.${payload}.${end}`)).toBe('malformed')
    }
  }
  expect(await reasonOf(tokens, JSON.stringify({ alg: 'none', sub: 't:1' }))).toBe('malformed')
  // A valid signature over another header is rejected, too.
  const other = await sign(goodClaims, { alg: 'HS256' })
  expect(await reasonOf(tokens, other)).toBe('malformed')
})

test('verify() rejects a token from its exp on, without leeway', async () => {
  const tokens = tokensWith()
  const { token, expires_at } = await tokens.mint(here)
  expect(expires_at).toBe(NOW_S + SECONDS)
  const at = (nowS: number) => reasonOf(tokens, token, { ...here, nowS })
  expect(await at(NOW_S)).toBe('passed')
  expect(await at(expires_at - 1)).toBe('passed')
  expect(await at(expires_at)).toBe('expired')
  expect(await at(expires_at + 1)).toBe('expired')
  expect(await at(NOW_S - 1)).toBe('from_the_future')
})

test('verify() rejects a token at any other origin', async () => {
  const tokens = tokensWith()
  await fc.assert(
    fc.asyncProperty(origins, origins, async (mintedAt, shownAt) => {
      const { token } = await tokens.mint({ ...here, origin: mintedAt })
      const reason = await reasonOf(tokens, token, { ...here, origin: shownAt })
      expect(reason).toBe(mintedAt === shownAt ? 'passed' : 'other_origin')
    }),
    { numRuns: 60 },
  )
  const { token } = await tokens.mint(here)
  for (const origin of ['', 'null', 'http://example.com', 'https://EXAMPLE.com', `${ORIGIN}/`]) {
    expect(await reasonOf(tokens, token, { ...here, origin })).toBe('other_origin')
  }
})

test.each<[string, object, TokenRefusal | 'passed']>([
  ['nothing that is wrong', {}, 'passed'],
  ['exp ten years ahead', { exp: NOW_S + 315_576_000 }, 'too_far_ahead'],
  ['exp a second too far ahead', { exp: NOW_S + SECONDS + 1 }, 'too_far_ahead'],
  ['iat a second ahead', { iat: NOW_S + 1 }, 'from_the_future'],
  ['iat ten years ahead', { iat: NOW_S + 315_576_000 }, 'from_the_future'],
  ['exp now', { exp: NOW_S }, 'expired'],
  ['a fractional exp', { exp: NOW_S + 0.5 }, 'bad_claims'],
  ['exp as a string', { exp: String(NOW_S + 1) }, 'bad_claims'],
  ['no exp', { exp: undefined }, 'bad_claims'],
  ['no iat', { iat: undefined }, 'bad_claims'],
  ['no origin', { origin: undefined }, 'bad_claims'],
  ['a list of origins', { origin: [ORIGIN] }, 'bad_claims'],
  ['no subject', { sub: undefined }, 'bad_claims'],
  ['a subject of a visitor without a token', { sub: 'h:0123456789abcdef' }, 'bad_claims'],
  ['a long subject', { sub: `t:${'0'.repeat(17)}` }, 'bad_claims'],
  ['no audience', { aud: undefined }, 'bad_claims'],
  ['another audience', { aud: 'edge-completions' }, 'bad_claims'],
  ['a list of audiences', { aud: ['edge-completions visitor', 'x'] }, 'bad_claims'],
  ['an extra claim', { admin: true }, 'bad_claims'],
  ['nbf ahead', { nbf: NOW_S + 1 }, 'bad_claims'],
])('verify() of a valid signature over %s', async (_, claims, reason) => {
  const token = await sign({ ...goodClaims, ...claims })
  expect(await reasonOf(tokensWith(), token)).toBe(reason)
})

test('verify() rejects a signed payload that is no object', async () => {
  for (const payload of [null, [], 't:0123456789abcdef', 1]) {
    expect(await reasonOf(tokensWith(), await sign(payload))).toBe('bad_claims')
  }
})

test('verify() rejects tokens signed with other keys, or with the secret itself as the key', async () => {
  const tokens = tokensWith()
  const { token } = await tokensWith({ secret: `${SECRET}.` }).mint(here)
  expect(await reasonOf(tokens, token)).toBe('bad_signature')
  const keys = [SECRET, '', 'edge-completions visitor token'].map((text) =>
    new TextEncoder().encode(text.padEnd(32, '\0')),
  )
  for (const key of keys) {
    const forged = await new SignJWT(goodClaims)
      .setProtectedHeader({ alg: 'HS256', typ: 'JWT' })
      .sign(key)
    expect(await reasonOf(tokens, forged)).toBe('bad_signature')
  }
})

test('verify() gives the visitor the same error for every reason, and logs the reason', async () => {
  const tokens = tokensWith()
  const { token } = await tokens.mint(here)
  const cases: readonly (readonly [string, typeof here])[] = [
    ['x'.repeat(2000), here],
    ['x', here],
    [token.replace(/\.[^.]*$/, `.${'A'.repeat(43)}`), here],
    [await sign({ ...goodClaims, sub: 'x' }), here],
    [token, { ...here, nowS: NOW_S + SECONDS }],
    [token, { ...here, nowS: NOW_S - 1 }],
    [await sign({ ...goodClaims, exp: NOW_S + SECONDS + 1 }), here],
    [token, { ...here, origin: 'https://evil.test' }],
  ]
  const verdicts = await Promise.all(cases.map(([text, use]) => verdict(tokens, text, use)))
  const reasons = verdicts.map(({ reason }) => reason)
  expect(new Set(reasons).size).toBe(cases.length)
  expect(new Set(verdicts.map(({ error }) => JSON.stringify(error))).size).toBe(1)
  expect(verdicts[0]?.error).toMatchObject({ code: 'visitor_token_invalid', cause: undefined })
  // Only fixed codes: no part of a token reaches the log or the visitor.
  for (const reason of reasons) expect(reason).toMatch(/^[a-z_]+$/)
})

test('verify() throws only its own error for any input', async () => {
  const tokens = tokensWith()
  const texts = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 60 }),
    fc
      .tuple(fc.base64String(), fc.base64String(), fc.base64String())
      .map((parts) => parts.join('.')),
    fc.uint8Array({ maxLength: 40 }).map((bytes) => {
      return `${base64url.encode('{"alg":"HS256","typ":"JWT"}')}.${base64url.encode(bytes)}.AAAA`
    }),
  )
  await fc.assert(
    fc.asyncProperty(texts, async (text) => {
      expect(await reasonOf(tokens, text)).toMatch(/malformed|bad_signature/)
    }),
    { numRuns: 200 },
  )
})

test('a token of the previous secret stays valid while that is configured; new tokens use the new one', async () => {
  const old = await tokensWith({ secret: 'old' }).mint(here)
  const rotated = tokensWith({ secret: 'new', previousSecret: 'old' })
  expect(await rotated.verify(old.token, here)).toEqual({ subject: old.subject })
  expect(await reasonOf(rotated, old.token, { ...here, nowS: NOW_S + SECONDS })).toBe('expired')
  expect(await reasonOf(rotated, old.token, { ...here, origin: '' })).toBe('other_origin')
  const fresh = await rotated.mint(here)
  expect(await reasonOf(tokensWith({ secret: 'old' }), fresh.token)).toBe('bad_signature')
  expect(await reasonOf(tokensWith({ secret: 'new' }), fresh.token)).toBe('passed')
  for (const previousSecret of [null, '', ' ', 'older']) {
    const after = tokensWith({ secret: 'new', previousSecret })
    expect(await reasonOf(after, old.token)).toBe('bad_signature')
  }
})

test('without TOKEN_SECRET the fallback is read until it succeeds once', async () => {
  const fallbackSecret = vi
    .fn<() => Promise<string>>()
    .mockRejectedValueOnce(new Error('the object is away, and its words stay here'))
    .mockResolvedValueOnce('')
    .mockResolvedValue(SECRET)
  const tokens = tokensWith({ secret: '', fallbackSecret })
  for (const _ of ['rejected', 'empty']) {
    const error = await tokens.mint(here).catch((reason: unknown) => reason)
    expect(error).toMatchObject({ code: 'ledger_unavailable', retryAfterSeconds: 10 })
    expect(String(error)).not.toContain('away')
  }
  const { token } = await tokens.mint(here)
  await tokens.verify(token, here)
  await tokens.mint(here)
  expect(fallbackSecret).toHaveBeenCalledTimes(3)
  expect(await reasonOf(tokensWith(), token)).toBe('passed')
})

// An isolate must not wait for I/O of another request, so each reads the secret itself.
test('requests before the key is available do not wait for each other', async () => {
  const first = Promise.withResolvers<string>()
  const fallbackSecret = vi.fn(() => Promise.resolve(SECRET)).mockReturnValueOnce(first.promise)
  const tokens = tokensWith({ secret: null, fallbackSecret })
  const stuck = tokens.mint(here)
  const { token } = await tokens.mint(here)
  first.resolve(SECRET)
  expect(await reasonOf(tokens, (await stuck).token)).toBe('passed')
  expect(await reasonOf(tokens, token)).toBe('passed')
})
