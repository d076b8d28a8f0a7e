// The operator, authenticated by OPERATOR_TOKEN, in workerd: what only they may do, and which limits
// apply to them.
import { describe, expect, test } from 'vitest'
import { completionOf, expectProblem } from '../support/answers.ts'
import { OPERATOR_TOKEN } from '../support/client.ts'
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

test('the operator endpoints are open to the operator only, and closed without an OPERATOR_TOKEN', async () => {
  const { workers, client } = await open()
  const closed = await open({}, { OPERATOR_TOKEN: '' })
  for (const [path, body] of [
    ['/admin/usage', undefined],
    ['/admin/pause', { until: null }],
    ['/admin/purge', { all: true }],
  ] as const) {
    const request = { path, body, method: body === undefined ? 'GET' : 'POST' }
    const refused = await client.send(request)
    await expectProblem(refused, 401, 'operator_token_invalid', workers.log)
    const reply = await client.send({ ...request, headers: operator })
    expect(reply.status).toBe(200)
    expect(reply.headers['cache-control']).toBe('no-store')
    for (const authorization of ['Bearer', 'Bearer undefined', operator.authorization]) {
      const nobody = await closed.client.send({ ...request, headers: { authorization } })
      await expectProblem(nobody, 401, 'operator_token_invalid', closed.workers.log)
    }
  }
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
})

test('the operator is recognised if the stored token ends in a line break', async () => {
  const { client } = await open({}, { OPERATOR_TOKEN: `${OPERATOR_TOKEN}\r\n` })
  const reply = await client.send({ path: '/health', headers: operator })
  expect(JSON.parse(reply.text)).toHaveProperty('warnings')
})
