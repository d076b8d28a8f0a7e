// Turnstile end to end in workerd, against a scripted siteverify: a challenge becomes a token, a
// token allows uncached requests, and failures of siteverify do not affect visitors with a token.
import { describe, expect, test } from 'vitest'
import { completionOf, expectProblem } from '../support/answers.ts'
import { HOST, newAddress, ORIGIN, type Reply } from '../support/client.ts'
import { OPERATOR_TOKEN } from '../support/rig.ts'
import {
  completionsStream,
  json,
  refusal,
  type Script,
  type UpstreamCall,
} from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'

const OTHER = 'https://other.example'
const SECRET = '0x4AAAAAAADnPIDROrmt1WwjTheSecretOfTheWidget'
const good = { success: true, hostname: 'site.example', action: 'visitor', 'error-codes': [] }

const suite = workerSuite()

async function open({
  siteverify = json(good) as Script,
  secrets = {} as Record<string, string>,
  tokensPerVisitor = 1e9,
  persistIn = null as string | null,
} = {}) {
  const { upstream } = suite
  const serial = suite.next()
  const [model, challenges] = [`m-${serial}`, `siteverify-${serial}`]
  const workers = await suite.startRigged({
    config: suite.config(
      model,
      {
        origins: [ORIGIN, OTHER],
        defaults: { max_tokens: 26 },
        budget: { tokens_per_day: 1e9, tokens_per_visitor_per_day: tokensPerVisitor },
        access: { turnstile_sitekey: '0x4AAAAAAADnPIDROrmt1Wwj', token_seconds: 600 },
      },
      { wire: 'completions' },
    ),
    secrets: { TURNSTILE_SECRET: SECRET, SITEVERIFY: upstream.url(challenges), ...secrets },
    ...(persistIn === null ? {} : { persistIn }),
  })
  const lane = upstream.lane(model).answers(completionsStream(['fine']))
  const siteverifyLane = upstream.lane(challenges).answers(siteverify)
  const visit = (token: unknown = 'a solved challenge', headers = {}) =>
    workers.client().send({ method: 'POST', path: '/v1/visitors', body: { token }, headers })
  return {
    workers,
    lane,
    siteverifyLane,
    visit,
    mint: async (headers = {}): Promise<string> => tokenIn(await visit('solved', headers)),
    ask: (prompt: string, token: string | null, headers = {}) =>
      workers
        .client()
        .complete(
          { prompt },
          { ...(token === null ? {} : { 'x-visitor-token': token }), ...headers },
        ),
  }
}

function tokenIn(reply: Reply): string {
  expect(reply.status, reply.text).toBe(200)
  expect(reply.headers['cache-control']).toBe('no-store')
  const body = JSON.parse(reply.text)
  expect(Object.keys(body).sort()).toEqual(['expires_at', 'token'])
  return body.token
}

describe('with Turnstile', () => {
  test('a solved challenge becomes a token that allows uncached requests', async () => {
    const { workers, lane, siteverifyLane, visit, ask } = await open()
    const address = newAddress()
    const reply = await visit('a solved challenge', { 'cf-connecting-ip': address })
    const token = tokenIn(reply)
    const seconds = JSON.parse(reply.text).expires_at - Date.now() / 1000
    expect(seconds).toBeGreaterThan(590)
    expect(seconds).toBeLessThanOrEqual(600)
    expect((await siteverifyLane.call()).body).toEqual({
      secret: SECRET,
      response: 'a solved challenge',
      remoteip: address,
      idempotency_key: expect.stringMatching(/^[0-9a-f-]{36}$/),
    })
    completionOf(await ask('prompt 1', token))
    const bearer = { authorization: `Bearer ${token}` }
    completionOf(await ask('prompt 2', null, bearer))
    expect(lane.calls).toHaveLength(2)
    expect(workers.log.all('visitor_refused')).toEqual([])
  })

  test('without a token only cached answers are served, by GET', async () => {
    const { workers, lane, mint, ask } = await open()
    const token = await mint()
    completionOf(await ask('prompt 1', token))
    await expectProblem(await ask('prompt 2', null), 401, 'visitor_token_required', workers.log)
    const sdk = await ask('prompt 2', null, { authorization: 'Bearer sk-unused' })
    await expectProblem(sdk, 401, 'visitor_token_invalid', workers.log)
    const got = await workers
      .client()
      .send({ path: '/v1/completions?prompt=prompt%201&max_tokens=26' })
    completionOf(got)
    const miss = await workers.client().send({ path: '/v1/completions?prompt=prompt%202' })
    await expectProblem(miss, 404, 'not_cached', workers.log)
    expect(lane.calls).toHaveLength(1)
  })

  test('the operator needs no token', async () => {
    const { lane, ask } = await open()
    completionOf(await ask('prompt 1', null, { authorization: `Bearer ${OPERATOR_TOKEN}` }))
    expect(lane.calls).toHaveLength(1)
  })

  test("foreign, damaged and other origins' tokens get the same error", async () => {
    const { workers, lane, mint, ask } = await open()
    const elsewhere = await open()
    const token = await mint()
    const [head = '', claims = '', mark = ''] = token.split('.')
    const none = Buffer.from('{"alg":"none","typ":"JWT"}').toString('base64url')
    const words = new Set<string>()
    const bad: [string, string, object][] = [
      ['cut', token.slice(0, -1), {}],
      ['longer', `${token}A`, {}],
      ['flipped', `${head}.${claims}.${mark.startsWith('A') ? 'B' : 'A'}${mark.slice(1)}`, {}],
      ['three of them', `${token},${token},${token}`, {}],
      ['unsigned', `${none}.${claims}.`, {}],
      ['a megabyte, nearly', 'A'.repeat(15_000), {}],
      ['of another page', token, { origin: OTHER }],
      ['of no page', token, { origin: null }],
      ['the challenge itself', 'solved', {}],
    ]
    for (const [what, one, headers] of bad) {
      const reply = await ask('prompt 1', one, headers)
      const origin = 'origin' in headers ? (headers.origin as string | null) : ORIGIN
      const { message } = await expectProblem(
        reply,
        401,
        'visitor_token_invalid',
        workers.log,
        origin,
      )
      words.add(message)
      expect(reply.text, what).not.toContain(one)
    }
    expect(words.size).toBe(1)
    // Both Workers have the same secret, so their tokens have the same key.
    completionOf(await elsewhere.ask('prompt 1', token))
    expect(lane.calls).toEqual([])
  })

  test('a token expires at its exp', async () => {
    const { workers, mint, ask } = await open()
    const token = await mint()
    await workers.rig.set({ clockMs: 590_000 })
    completionOf(await ask('prompt 1', token))
    await workers.rig.set({ clockMs: 600_000 })
    await expectProblem(await ask('prompt 2', token), 401, 'visitor_token_invalid', workers.log)
    const refused = workers.log.all('visitor_refused')
    expect(refused).toMatchObject([{ reason: 'expired' }])
  })

  test("a token used from a hundred addresses has one visitor's share of the budget", async () => {
    const { lane, mint, ask } = await open({ tokensPerVisitor: 200 })
    const token = await mint()
    const replies = await Promise.all(
      Array.from({ length: 100 }, (_, i) => ask(`prompt ${100 + i}`, token)),
    )
    const served = replies.filter(({ status }) => status === 200).length
    expect(served).toBeGreaterThanOrEqual(1)
    // Each call reserves 100 and costs 12, so at most nine fit into 200.
    expect(served).toBeLessThanOrEqual(9)
    expect(lane.calls).toHaveLength(served)
    expect(replies.filter(({ status }) => status === 429)).toHaveLength(100 - served)
  })

  test('a token stays valid after a rotation while TOKEN_SECRET_PREVIOUS has its secret', async () => {
    const before = await open({ secrets: { TOKEN_SECRET: 'the first secret of tokens' } })
    const token = await before.mint()
    const overlap = await open({
      secrets: {
        TOKEN_SECRET: 'the second secret of tokens',
        TOKEN_SECRET_PREVIOUS: 'the first secret of tokens',
      },
    })
    completionOf(await overlap.ask('prompt 1', token))
    const young = await overlap.mint()
    const after = await open({ secrets: { TOKEN_SECRET: 'the second secret of tokens' } })
    completionOf(await after.ask('prompt 1', young))
    const old = await after.ask('prompt 1', token)
    await expectProblem(old, 401, 'visitor_token_invalid', after.workers.log)
    // Nothing is signed with the previous secret.
    const back = await before.ask('prompt 2', young)
    await expectProblem(back, 401, 'visitor_token_invalid', before.workers.log)
  })

  test.each<[string, object, string]>([
    [
      'was used before',
      { success: false, 'error-codes': ['timeout-or-duplicate'] },
      'spent_or_expired',
    ],
    ['was not solved', { success: false, 'error-codes': ['invalid-input-response'] }, 'not_solved'],
    ['was solved elsewhere', { ...good, hostname: 'evil.example' }, 'other_host'],
    [
      'was solved on a host with our name as a suffix',
      { ...good, hostname: 'evil-site.example' },
      'other_host',
    ],
    ['was solved for another action', { ...good, action: 'login' }, 'other_action'],
    ['is a dummy', { ...good, metadata: { result_with_testing_key: true } }, 'dummy_token'],
  ])('rejects a challenge that %s', async (_, answer, reason) => {
    const { workers, siteverifyLane, visit } = await open({ siteverify: json(answer) })
    const problem = await expectProblem(await visit(), 403, 'challenge_failed', workers.log)
    expect(problem.message).toBe(
      'The bot check failed. Solve a new challenge and send its token right away.',
    )
    expect(workers.log.all('visitor_refused')).toMatchObject([{ reason }])
    expect(siteverifyLane.calls).toHaveLength(1)
  })

  test('a challenge of 2049 characters is rejected without a call of siteverify', async () => {
    const { workers, siteverifyLane, visit } = await open()
    for (const token of ['x'.repeat(2049), '']) {
      await expectProblem(await visit(token), 403, 'challenge_failed', workers.log)
    }
    expect(siteverifyLane.calls).toEqual([])
    tokenIn(await visit('x'.repeat(2048)))
  })

  test("a challenge solved on the Worker's own page is accepted", async () => {
    const { visit } = await open({ siteverify: json({ ...good, hostname: HOST }) })
    tokenIn(await visit('solved', { origin: `http://${HOST}` }))
  })

  const outages: [string, Script][] = [
    ['fails', refusal(500)],
    ['returns internal-error', json({ success: false, 'error-codes': ['internal-error'] })],
    [
      'returns HTML',
      (_, line) => {
        line.head(200, { 'content-type': 'text/html' })
        line.write('<h1>no</h1>')
        line.end()
      },
    ],
    ['hangs up', (_, line) => line.reset()],
    ['hangs', () => {}],
  ]
  test.each(outages)(
    'a siteverify that %s is called twice with the same idempotency key; tokens still work',
    async (_, script) => {
      const { workers, lane, siteverifyLane, visit, mint, ask } = await open()
      const token = await mint()
      siteverifyLane.answers(script)
      const startedAt = performance.now()
      const reply = await visit()
      expect(performance.now() - startedAt).toBeLessThan(4000)
      await expectProblem(reply, 503, 'challenge_unavailable', workers.log)
      expect(reply.headers['retry-after']).toMatch(/^\d+$/)
      const keys = siteverifyLane.calls.map((call: UpstreamCall) => call.body['idempotency_key'])
      expect(keys).toHaveLength(3)
      expect(keys[1]).toBe(keys[2])
      expect(keys[0]).not.toBe(keys[1])
      completionOf(await ask('prompt 1', token))
      expect(lane.calls).toHaveLength(1)
      siteverifyLane.answers(json(good))
      tokenIn(await visit())
    },
  )

  test('tokens signed with TOKEN_SECRET work while the ledger is down', async () => {
    const { workers, mint, ask } = await open()
    await workers.rig.set({ ledger: 'throws' })
    const token = await mint()
    await expectProblem(await ask('prompt 1', token), 503, 'ledger_unavailable', workers.log)
  })

  test.each(['1x0000000000000000000000000000000AA', '2x0000000000000000000000000000000AA'])(
    'the test secret %s is a configuration error',
    async (secret) => {
      const { workers, lane, visit, ask } = await open({ secrets: { TURNSTILE_SECRET: secret } })
      await expectProblem(await ask('prompt 1', null), 503, 'misconfigured', workers.log, '*')
      await expectProblem(await visit(), 503, 'misconfigured', workers.log, '*')
      const health = await workers.client().send({ path: '/health' })
      expect(health.status).toBe(503)
      expect(JSON.parse(health.text).faults).toMatchObject([{ path: 'TURNSTILE_SECRET' }])
      expect(health.text).not.toContain(secret)
      expect(lane.calls).toEqual([])
    },
  )
})
