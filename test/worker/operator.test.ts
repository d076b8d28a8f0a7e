// The operator, authenticated by OPERATOR_TOKEN, in workerd: what only they may do, which limits
// apply to them, and the warning of /health when anyone can spend.
import { describe, expect, test } from 'vitest'
import { completionOf, expectProblem } from '../support/answers.ts'
import { CANARY } from '../support/canary.ts'
import { newAddress } from '../support/client.ts'
import { OPERATOR_TOKEN } from '../support/rig.ts'
import { completionsStream } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { JsonValue } from '../support/workerd.ts'

const suite = workerSuite()

const operator = { authorization: `Bearer ${OPERATOR_TOKEN}` }

async function open(more: Readonly<Record<string, JsonValue>> = {}, secrets = {}) {
  const { upstream } = suite
  const serial = suite.next()
  const name = `operator-${serial}`
  const workers = await suite.startRigged({
    config: suite.config(name, { defaults: { max_tokens: 26 }, ...more }, { wire: 'completions' }),
    secrets,
  })
  const lane = upstream.lane(name).answers(completionsStream(['first']))
  return { workers, lane, client: workers.client() }
}

const endpoints: [string, string, unknown][] = [
  ['GET', '/admin/usage', undefined],
  ['POST', '/admin/pause', { until: null }],
  ['POST', '/admin/purge', { all: true }],
]

describe('operator endpoints', () => {
  test.each(endpoints)('%s %s is open to the operator only', async (method, path, body) => {
    const { workers, client } = await open()
    for (const authorization of [
      null,
      'Bearer',
      `Bearer ${OPERATOR_TOKEN.slice(0, -1)}`,
      `Bearer ${OPERATOR_TOKEN}x`,
      `Basic ${OPERATOR_TOKEN}`,
    ]) {
      const reply = await client.send({ method, path, body, headers: { authorization } })
      await expectProblem(reply, 401, 'operator_token_invalid', workers.log)
    }
    const reply = await client.send({ method, path, body, headers: operator })
    expect(reply.status).toBe(200)
    expect(reply.headers['cache-control']).toBe('no-store')
    // Not even the operator may call it from another website.
    const origin = 'https://evil.example'
    const foreign = await client.send({ method, path, body, headers: { ...operator, origin } })
    await expectProblem(foreign, 403, 'origin_not_allowed', workers.log, origin)
  })

  test.each(endpoints)(
    '%s %s is closed if no OPERATOR_TOKEN is set',
    async (method, path, body) => {
      const { workers, client } = await open({}, { OPERATOR_TOKEN: '' })
      for (const authorization of [null, 'Bearer', 'Bearer ', 'Bearer null', 'Bearer undefined']) {
        const reply = await client.send({ method, path, body, headers: { authorization } })
        await expectProblem(reply, 401, 'operator_token_invalid', workers.log)
      }
    },
  )
})

describe('the operator', () => {
  const budget = { tokens_per_day: 300, tokens_per_visitor_per_day: 0, streams_per_visitor: 1 }

  test("is exempt from the rate limit and the visitor's budget, but not from the daily budget", async () => {
    const { workers, lane, client } = await open({ budget })
    await workers.rig.set({ limit: 'refuses' })
    const visitor = await client.complete({ prompt: 'prompt 100' })
    await expectProblem(visitor, 429, 'rate_limited', workers.log)
    completionOf(await client.complete({ prompt: 'prompt 100' }, operator))
    await workers.rig.set({ limit: 'ok' })
    const other = await client.complete({ prompt: 'prompt 101' })
    await expectProblem(other, 429, 'budget_exhausted', workers.log)
    expect(other.headers['ratelimit']).toMatch(/^"visitor";/)
    const beyond = await client.complete({ prompt: 'prompt 102', max_tokens: 300 }, operator)
    await expectProblem(beyond, 429, 'budget_exhausted', workers.log)
    expect(beyond.headers['ratelimit']).toMatch(/^"day";/)
    expect(lane.calls).toHaveLength(1)
  })

  test('alone may force a refresh, and everybody gets the new answer', async () => {
    const { lane, client } = await open()
    const first = completionOf(await client.complete({ prompt: 'p' }))
    lane.answers(completionsStream(['second']))
    for (const headers of [
      { 'cache-control': 'no-cache' },
      { pragma: 'no-cache' },
      { 'cf-aig-skip-cache': 'true' },
      { 'cache-control': 'no-cache', authorization: 'Bearer somebody-elses-token-012345' },
    ]) {
      const kept = await client.complete({ prompt: 'p' }, headers)
      expect(completionOf(kept).id).toBe(first.id)
    }
    expect(lane.calls).toHaveLength(1)
    const forced = await client.complete(
      { prompt: 'p' },
      { ...operator, 'cache-control': 'no-cache' },
    )
    expect(forced.headers['cache-status']).toBe('edge-completions; fwd=request')
    expect(completionOf(forced).choices[0]?.text).toBe('second')
    const after = await client.complete({ prompt: 'p' })
    expect(completionOf(after).id).toBe(completionOf(forced).id)
    expect(lane.calls).toHaveLength(2)
  })

  test('pays for a locked prompt with spend = "operator", which visitors can read', async () => {
    const prompts = { daily: { text: 'News of today', spend: 'operator' } }
    const { workers, lane, client } = await open({ prompts })
    const body = { prompt: { id: 'daily' } }
    const miss = await client.complete(body)
    await expectProblem(miss, 404, 'not_cached', workers.log)
    expect(lane.calls).toEqual([])
    const warmed = completionOf(await client.complete(body, operator))
    expect(completionOf(await client.complete(body)).id).toBe(warmed.id)
  })

  test("cannot be guessed: a wrong token counts as a visitor, with a visitor's limits", async () => {
    const { workers, lane, client } = await open({ budget })
    const own = { 'cf-connecting-ip': newAddress() }
    for (let i = 0; i < 20; i++) {
      const guess = { ...own, authorization: `Bearer ${OPERATOR_TOKEN.slice(0, i)}` }
      const reply = await client.complete({ prompt: `prompt 1${i}` }, guess)
      await expectProblem(reply, 429, 'budget_exhausted', workers.log)
    }
    expect(lane.calls).toEqual([])
  })
})

describe('GET /health', () => {
  const ANYONE = 'Turnstile is off: anyone can spend up to the budget'
  const paid = {
    name: 'u',
    base_url: 'https://upstream.example/v1',
    key: 'UPSTREAM_API_KEY',
  }
  const demo = { name: 'u', preset: 'demo' }
  const haiku = { haiku: { text: 'A haiku' } }
  const turnstile = { access: { turnstile_sitekey: '0x4AAAAAAADnPIDROrmt1Wwj' } }

  test.each<[string, Readonly<Record<string, JsonValue>>, boolean]>([
    ['free prompts on a paid upstream', { upstreams: [paid] }, true],
    ['both kinds of prompts', { upstreams: [paid], prompts: haiku, free_prompts: true }, true],
    ['locked prompts alone', { upstreams: [paid], prompts: haiku }, false],
    ['free prompts refused', { upstreams: [paid], prompts: haiku, free_prompts: false }, false],
    ['Turnstile', { upstreams: [paid], ...turnstile }, false],
    ['the demo', { upstreams: [demo] }, false],
  ])('with %s: whether it warns that anyone may spend', async (_, more, warned) => {
    const { client } = await open(more, { TURNSTILE_SECRET: '0x4AAAAAAAsecret' })
    const visitor = await client.send({ path: '/health' })
    expect(JSON.parse(visitor.text)).toEqual({ status: 'ok' })
    const headers = { origin: null, authorization: `Bearer ${OPERATOR_TOKEN}` }
    const reply = await client.send({ path: '/health', headers })
    expect(reply.status).toBe(200)
    const { status, warnings } = JSON.parse(reply.text)
    expect(status).toBe('ok')
    expect(warnings.includes(ANYONE)).toBe(warned)
    expect(reply.text).not.toContain(CANARY)
  })

  test('recognises the operator if the stored token ends in a line break', async () => {
    const { client } = await open({}, { OPERATOR_TOKEN: `${OPERATOR_TOKEN}\r\n` })
    const reply = await client.send({ path: '/health', headers: operator })
    expect(JSON.parse(reply.text)).toHaveProperty('warnings')
  })

  test.each(['four words and some spaces', 'schlüssel-schlüssel-schlüssel'])(
    'is a fault with an operator token that no header can hold: %s',
    async (token) => {
      const { client } = await open({}, { OPERATOR_TOKEN: token })
      const reply = await client.send({ path: '/health' })
      expect([reply.status, JSON.parse(reply.text).faults]).toEqual([
        503,
        [
          {
            path: 'OPERATOR_TOKEN',
            message: expect.stringContaining('expected printable ASCII without spaces'),
          },
        ],
      ])
      expect(reply.text).not.toContain(token)
    },
  )

  test('is a fault with a short operator token, but a warning on a loopback host', async () => {
    const { client } = await open({}, { OPERATOR_TOKEN: 'guessme' })
    const headers = { authorization: 'Bearer guessme' }
    for (const path of ['/health', '/v1/models', '/admin/usage']) {
      const reply = await client.send({ path, headers })
      expect(reply.status).toBe(503)
      expect(reply.text).not.toContain('guessme')
    }
    const local = { ...headers, host: 'localhost:8787', origin: null }
    const reply = await client.send({ path: '/health', headers: local })
    expect(reply.status).toBe(200)
    expect(reply.text).toContain('OPERATOR_TOKEN: Cannot use')
    expect(reply.text).not.toContain('guessme')
  })
})
