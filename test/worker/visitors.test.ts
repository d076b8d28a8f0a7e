// Turnstile end to end in workerd, against a scripted siteverify: a challenge becomes a token, a
// token allows uncached requests, and failures of siteverify do not affect visitors with a token.
import { describe, expect, test } from 'vitest'
import { completionOf, expectProblem } from '../support/answers.ts'
import { newAddress, type Reply } from '../support/client.ts'
import { completionsStream, json } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'

const SECRET = '0x4AAAAAAADnPIDROrmt1WwjTheSecretOfTheWidget'
const good = { success: true, hostname: 'site.example', action: 'visitor', 'error-codes': [] }

const suite = workerSuite()

async function open(secrets: Readonly<Record<string, string>> = {}) {
  const { upstream } = suite
  const serial = suite.next()
  const [model, challenges] = [`m-${serial}`, `siteverify-${serial}`]
  const workers = await suite.startRigged({
    config: suite.config(
      model,
      {
        defaults: { max_tokens: 26 },
        access: { turnstile_sitekey: '0x4AAAAAAADnPIDROrmt1Wwj', token_seconds: 600 },
      },
      { wire: 'completions' },
    ),
    secrets: { TURNSTILE_SECRET: SECRET, SITEVERIFY: upstream.url(challenges), ...secrets },
  })
  const client = workers.client()
  const visit = (headers = {}) =>
    client.send({ method: 'POST', path: '/v1/visitors', body: { token: 'solved' }, headers })
  return {
    workers,
    client,
    lane: upstream.lane(model).answers(completionsStream(['fine'])),
    siteverifyLane: upstream.lane(challenges).answers(json(good)),
    visit,
    mint: async (): Promise<string> => tokenIn(await visit()),
    ask: (prompt: string, token: string | null) =>
      client.complete({ prompt }, token === null ? {} : { 'x-visitor-token': token }),
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
    const { workers, client, lane, siteverifyLane, visit, ask } = await open()
    const address = newAddress()
    const reply = await visit({ 'cf-connecting-ip': address })
    const token = tokenIn(reply)
    const seconds = JSON.parse(reply.text).expires_at - Date.now() / 1000
    expect(seconds).toBeGreaterThan(590)
    expect(seconds).toBeLessThanOrEqual(600)
    expect((await siteverifyLane.call()).body).toEqual({
      secret: SECRET,
      response: 'solved',
      remoteip: address,
      idempotency_key: expect.stringMatching(/^[0-9a-f-]{36}$/),
    })
    completionOf(await ask('prompt 1', token))
    const bearer = { authorization: `Bearer ${token}` }
    completionOf(await client.complete({ prompt: 'prompt 2' }, bearer))
    expect(lane.calls).toHaveLength(2)
    expect(workers.log.all('visitor_refused')).toEqual([])
  })

  test('without a token only cached answers are served, by GET', async () => {
    const { workers, client, lane, mint, ask } = await open()
    completionOf(await ask('prompt 1', await mint()))
    await expectProblem(await ask('prompt 2', null), 401, 'visitor_token_required', workers.log)
    const unused = { authorization: 'Bearer sk-unused' }
    const sdk = await client.complete({ prompt: 'prompt 2' }, unused)
    await expectProblem(sdk, 401, 'visitor_token_invalid', workers.log)
    completionOf(await client.send({ path: '/v1/completions?prompt=prompt%201&max_tokens=26' }))
    const miss = await client.send({ path: '/v1/completions?prompt=prompt%202' })
    await expectProblem(miss, 404, 'not_cached', workers.log)
    expect(lane.calls).toHaveLength(1)
  })

  test('a token stays valid after a rotation while TOKEN_SECRET_PREVIOUS has its secret', async () => {
    const before = await open({ TOKEN_SECRET: 'the first secret of tokens' })
    const token = await before.mint()
    const overlap = await open({
      TOKEN_SECRET: 'the second secret of tokens',
      TOKEN_SECRET_PREVIOUS: 'the first secret of tokens',
    })
    completionOf(await overlap.ask('prompt 1', token))
    const young = await overlap.mint()
    const after = await open({ TOKEN_SECRET: 'the second secret of tokens' })
    completionOf(await after.ask('prompt 1', young))
    const old = await after.ask('prompt 1', token)
    await expectProblem(old, 401, 'visitor_token_invalid', after.workers.log)
    // Nothing is signed with the previous secret.
    const back = await before.ask('prompt 2', young)
    await expectProblem(back, 401, 'visitor_token_invalid', before.workers.log)
  })

  test('a siteverify that hangs is called twice with the same idempotency key; tokens still work', async () => {
    const { workers, lane, siteverifyLane, visit, mint, ask } = await open()
    const token = await mint()
    siteverifyLane.answers(() => {})
    const startedAt = performance.now()
    const reply = await visit()
    expect(performance.now() - startedAt).toBeLessThan(10_000)
    await expectProblem(reply, 503, 'challenge_unavailable', workers.log)
    const keys = siteverifyLane.calls.map(({ body }) => body['idempotency_key'])
    expect(keys).toHaveLength(3)
    expect(keys[1]).toBe(keys[2])
    expect(keys[0]).not.toBe(keys[1])
    completionOf(await ask('prompt 1', token))
    expect(lane.calls).toHaveLength(1)
  })

  test('without TOKEN_SECRET, tokens need no ledger', async () => {
    const { workers, mint, ask } = await open()
    await workers.rig.set({ ledger: 'throws' })
    const token = await mint()
    await expectProblem(await ask('prompt 1', token), 503, 'ledger_unavailable', workers.log)
  })
})
