// siteverify: which answers count as solved, which failures are retried, and that the visitor's
// error gives no details.
import { readFileSync } from 'node:fs'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import {
  type Challenge,
  type ChallengeRefusal,
  isTestSecret,
  type TurnstileDeps,
  verifyChallenge,
} from '../../src/access/turnstile.ts'
import { GatewayError, messages } from '../../src/errors.ts'
import { openStream } from '../support/app.ts'
import { CANARY, recordOutput } from '../support/canary.ts'

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] })
})

afterEach(() => {
  vi.useRealTimers()
})

const TEST_SECRETS = [1, 2, 3].map((n) => `${n}x0000000000000000000000000000000AA`)
const solved = { success: true, hostname: 'example.com', action: 'visitor', 'error-codes': [] }

type Script = (request: Request, call: number) => Response | Promise<Response>

const wait = (ms: number, signal: AbortSignal) =>
  new Promise<void>((resolve, reject) => {
    const timer = setTimeout(resolve, ms)
    signal.addEventListener('abort', () => {
      clearTimeout(timer)
      reject(signal.reason)
    })
  })

/** The client with the canary as its secret, and the requests it has sent. */
function turnstileWith(script: Script, secret = CANARY) {
  const sent: Record<string, unknown>[] = []
  const requests: Request[] = []
  let uuids = 0
  const turnstile: TurnstileDeps = {
    secret,
    fetch: async (request) => {
      requests.push(request)
      sent.push((await request.clone().json()) as Record<string, unknown>)
      return await script(request, sent.length - 1)
    },
    now: () => Date.now(),
    wait,
    newUuid: () => `uuid-${uuids++}`,
  }
  return { turnstile, sent, requests }
}

const challenge: Challenge = {
  token: 'a token',
  address: null,
  hostnames: new Set(['example.com', 'edge.test']),
  testSecretAllowed: false,
}

/** The outcome and its duration. The clock advances as far as needed. */
async function outcome(turnstile: TurnstileDeps, given: Partial<Challenge> = {}) {
  const startedAt = Date.now()
  const reasons: ChallengeRefusal[] = []
  const refused = (reason: ChallengeRefusal) => reasons.push(reason)
  const verifying = verifyChallenge({ ...challenge, ...given }, turnstile, refused)
    .then(
      () => null,
      (error: unknown) => error,
    )
    .then((error) => ({ error, ms: Date.now() - startedAt }))
  await vi.advanceTimersByTimeAsync(10_000)
  const { error, ms } = await verifying
  expect(vi.getTimerCount()).toBe(0)
  recordOutput(JSON.stringify(reasons), String(error))
  if (error === null) {
    expect(reasons).toEqual([])
    return { code: 'solved' as const, reason: null, error: null, ms }
  }
  expect(error).toBeInstanceOf(GatewayError)
  expect(reasons).toHaveLength(1)
  const { code, message, param, retryAfterSeconds, cause } = error as GatewayError
  return { code, reason: reasons[0], error: { code, message, param, retryAfterSeconds, cause }, ms }
}

test('verify() sends only the fields that siteverify requires', async () => {
  const { turnstile, sent, requests } = turnstileWith(() => Response.json(solved), ` ${CANARY}\n`)
  expect((await outcome(turnstile, { address: '203.0.113.7' })).code).toBe('solved')
  const body = { secret: CANARY, response: 'a token', idempotency_key: 'uuid-0' }
  expect(sent).toEqual([{ ...body, remoteip: '203.0.113.7' }])
  const [request] = requests
  expect(request?.method).toBe('POST')
  expect(request?.url).toBe('https://challenges.cloudflare.com/turnstile/v0/siteverify')
  expect(request?.redirect).toBe('manual')
  for (const address of [null, '']) await outcome(turnstile, { address })
  expect(sent.slice(1)).toEqual([
    { ...body, idempotency_key: 'uuid-1' },
    { ...body, idempotency_key: 'uuid-2' },
  ])
})

test.each<[string, object]>([
  ['our action', solved],
  ['no action', { ...solved, action: undefined }],
  ['an empty action', { ...solved, action: '' }],
  ['no list of errors', { ...solved, 'error-codes': undefined }],
  ["the Worker's own host", { ...solved, hostname: 'edge.test' }],
  ['a host in capitals', { ...solved, hostname: 'Example.COM' }],
  ['more fields', { ...solved, cdata: 'x', metadata: { interactive: true }, challenge_ts: 'x' }],
])('verify() accepts an answer with %s', async (_, answer) => {
  const { turnstile, sent } = turnstileWith(() => Response.json(answer))
  expect((await outcome(turnstile)).code).toBe('solved')
  expect(sent).toHaveLength(1)
})

const failures: readonly [string, ChallengeRefusal, object][] = [
  ['another host', 'other_host', { ...solved, hostname: 'evil.test' }],
  ['a host with our host as a suffix', 'other_host', { ...solved, hostname: 'evilexample.com' }],
  ['a subdomain of our host', 'other_host', { ...solved, hostname: 'www.example.com' }],
  ['a parent of our host', 'other_host', { ...solved, hostname: 'com' }],
  ['a trailing dot', 'other_host', { ...solved, hostname: 'example.com.' }],
  ['an empty host', 'other_host', { ...solved, hostname: '' }],
  ['no host', 'other_host', { ...solved, hostname: undefined }],
  ['another action', 'other_action', { ...solved, action: 'login' }],
  ['our action in capitals', 'other_action', { ...solved, action: 'Visitor' }],
  [
    'the metadata of a dummy token',
    'dummy_token',
    { ...solved, metadata: { result_with_testing_key: true } },
  ],
  [
    'a token that was used',
    'spent_or_expired',
    { success: false, 'error-codes': ['timeout-or-duplicate'] },
  ],
  [
    'a forged token',
    'not_solved',
    { success: false, hostname: null, 'error-codes': ['invalid-input-response'] },
  ],
  ['no reason', 'not_solved', { success: false }],
]

// siteverify enforces single use; each verify() has its own idempotency key.
test.each(failures)(
  'verify() rejects an answer with %s as %s, without a retry',
  async (_, reason, answer) => {
    const { turnstile, sent } = turnstileWith(() => Response.json(answer))
    const code = 'challenge_failed'
    const message = messages.challenge_failed
    const error = { code, message, param: null, retryAfterSeconds: null, cause: undefined }
    expect(await outcome(turnstile)).toEqual({ code, reason, ms: 0, error })
    expect(sent).toHaveLength(1)
  },
)

test('verify() reads a rejection with any status below 500', async () => {
  const answer = { success: false, 'error-codes': ['invalid-input-response'] }
  const { turnstile } = turnstileWith(() => Response.json(answer, { status: 400 }))
  expect(await outcome(turnstile)).toMatchObject({ code: 'challenge_failed', reason: 'not_solved' })
})

test('verify() does not send values that cannot be tokens', async () => {
  const { turnstile, sent } = turnstileWith(() => Response.json(solved))
  for (const token of ['', 'x'.repeat(2049), 'x'.repeat(1_048_576)]) {
    const { code, reason } = await outcome(turnstile, { token })
    expect([code, reason]).toEqual(['challenge_failed', 'bad_length'])
  }
  expect(sent).toHaveLength(0)
  for (const token of ['x', 'x'.repeat(2048)]) {
    expect((await outcome(turnstile, { token })).code).toBe('solved')
  }
})

const hang = () => new Promise<never>(() => {})
const internalError = { success: false, 'error-codes': ['internal-error'] }

function halfABody(): Response {
  const body = openStream()
  body.push('{"success":')
  return body.response()
}

const endless = () =>
  new Response(
    new ReadableStream({
      pull: (controller) => controller.enqueue(new Uint8Array(4096).fill(0x20)),
    }),
  )

const outages: readonly [string, ChallengeRefusal, Script][] = [
  ['500', 'server_error', () => new Response('oops', { status: 500 })],
  ['503 with a verdict', 'server_error', () => Response.json(solved, { status: 503 })],
  ['HTML', 'bad_answer', () => new Response('<!doctype html><h1>Just a moment…</h1>')],
  ['429 with HTML', 'bad_answer', () => new Response('<h1>slow down</h1>', { status: 429 })],
  [
    'a redirect',
    'bad_answer',
    () => new Response(null, { status: 302, headers: { location: '/' } }),
  ],
  ['nothing', 'bad_answer', () => new Response(null)],
  ['other JSON', 'bad_answer', () => Response.json({ ok: true })],
  ['success as text', 'bad_answer', () => Response.json({ ...solved, success: 'true' })],
  ['null', 'bad_answer', () => Response.json(null)],
  ['an endless body', 'bad_answer', endless],
  ['internal-error', 'internal_error', () => Response.json(internalError)],
  ['a broken connection', 'unreachable', () => Promise.reject(new Error('ECONNRESET 192.0.2.1'))],
  ['silence', 'timeout', hang],
  ['half a body', 'timeout', halfABody],
]

test.each(outages)('verify() retries once after %s, then gives up', async (_, reason, script) => {
  const { turnstile, sent, requests } = turnstileWith(script)
  const { ms, ...result } = await outcome(turnstile)
  expect(result).toMatchObject({ code: 'challenge_unavailable', reason })
  expect(result.error?.retryAfterSeconds).toBeGreaterThan(0)
  expect(result.error?.message).not.toMatch(/ECONN|html|oops/)
  expect(sent).toHaveLength(2)
  expect(sent[0]).toEqual(sent[1])
  expect(sent[0]?.['idempotency_key']).toBe('uuid-0')
  expect(requests.map(({ signal }) => signal.aborted)).toEqual([true, true])
  expect(ms).toBeLessThanOrEqual(3000)
})

test.each(outages)('verify() accepts a good second answer after %s', async (_, __, script) => {
  const { turnstile, sent } = turnstileWith((request, call) =>
    call === 0 ? script(request, call) : Response.json(solved),
  )
  const { code, ms } = await outcome(turnstile)
  expect(code).toBe('solved')
  expect(sent).toHaveLength(2)
  expect(ms).toBeLessThanOrEqual(3000)
})

test('verify() takes at most 3 s, however slowly both attempts fail', async () => {
  for (const [first, second] of [
    [1399, 2900],
    [1300, 5000],
    [0, 5000],
    [5000, 1599],
  ]) {
    const { turnstile, sent } = turnstileWith(async (_, call) => {
      await wait((call === 0 ? first : second) ?? 0, new AbortController().signal)
      return new Response('oops', { status: 500 })
    })
    const startedAt = Date.now()
    const verifying = verifyChallenge(challenge, turnstile).catch((error: unknown) => error)
    await vi.advanceTimersByTimeAsync(3000)
    expect(await verifying).toMatchObject({ code: 'challenge_unavailable' })
    expect(Date.now() - startedAt).toBe(3000)
    expect(sent).toHaveLength(2)
    await vi.runAllTimersAsync()
  }
})

test('verify() leaves no timer running after an answer', async () => {
  const { turnstile } = turnstileWith(() => Response.json(solved))
  await verifyChallenge(challenge, turnstile)
  expect(vi.getTimerCount()).toBe(0)
})

test('verify() treats a rejected secret as an outage, because no visitor can fix it', async () => {
  for (const said of ['missing-input-secret', 'invalid-input-secret']) {
    const answer = { success: false, 'error-codes': [said] }
    const { turnstile, sent } = turnstileWith(() => Response.json(answer))
    const { code, reason } = await outcome(turnstile)
    expect([code, reason]).toEqual(['challenge_unavailable', 'secret_refused'])
    expect(sent).toHaveLength(1)
  }
})

test('isTestSecret() recognises the secrets for tests', () => {
  const real = ['', '0x4AAAAAAADnPIDROrmt1Wwj', '0x4AAAAAAAB_0000000000000000000000AA', CANARY]
  const dummy = [...TEST_SECRETS, ` ${TEST_SECRETS[0]}\n`, '1x00000000000000000000AA']
  expect([...real, ...dummy].filter(isTestSecret)).toEqual(dummy)
})

test('verify() makes no call with a test secret outside local development', async () => {
  for (const secret of TEST_SECRETS) {
    const { turnstile, sent } = turnstileWith(() => Response.json(solved), secret)
    const { code, reason } = await outcome(turnstile)
    expect([code, reason]).toEqual(['misconfigured', 'test_secret'])
    expect(sent).toHaveLength(0)
  }
})

test('verify() accepts the dummy answer to a test secret in local development', async () => {
  const metadata = { result_with_testing_key: true }
  const answer = { success: true, 'error-codes': [], hostname: 'example.com', metadata }
  const { turnstile } = turnstileWith(() => Response.json(answer), TEST_SECRETS[0])
  const local = { hostnames: new Set(['localhost']), testSecretAllowed: true }
  expect((await outcome(turnstile, local)).code).toBe('solved')
  const failing = { success: false, 'error-codes': ['invalid-input-response'] }
  const never = turnstileWith(() => Response.json(failing), TEST_SECRETS[1])
  expect((await outcome(never.turnstile, local)).code).toBe('challenge_failed')
})

test('the client renders the widget with the action that is expected here', () => {
  expect(readFileSync('src/site/client.js', 'utf8')).toContain(`action: '${solved.action}'`)
})
