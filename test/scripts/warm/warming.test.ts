// warm() against the Worker in process: which requests it sends, in what order and how often.
import { expect, test } from 'vitest'
import { Gateway } from '../../../scripts/operator/gateway.ts'
import type { Task } from '../../../scripts/operator/generate.ts'
import { type Outcome, warm } from '../../../scripts/warm/warming.ts'
import { compatible, EDGE, jsonAnswer, TestApp, type TestAppOptions } from '../../support/app.ts'
import { OPERATOR_TOKEN } from '../../support/client.ts'

interface Hooks {
  readonly onOutcome?: (outcome: Outcome) => void
  readonly onWait?: () => void
}

function start(options: TestAppOptions = {}, hooks: Hooks = {}) {
  const { onOutcome = () => {}, onWait = () => {} } = hooks
  const app = new TestApp(options)
  const stop = new AbortController()
  const cacheControls: (string | null)[] = []
  const waits: number[] = []
  const concurrent = { now: 0, most: 0 }
  const run = async (
    requests: readonly Task['request'][],
    concurrency = 4,
    token = OPERATOR_TOKEN,
  ) => {
    const gateway = new Gateway({ url: EDGE, token, verb: 'warm' }, async (request) => {
      cacheControls.push(request.headers.get('cache-control'))
      concurrent.now += 1
      concurrent.most = Math.max(concurrent.most, concurrent.now)
      const response = await app.fetch(request)
      const text = await response.text()
      concurrent.now -= 1
      return new Response(text, { status: response.status, headers: response.headers })
    })
    const outcomes = await warm(
      requests.map((request, i) => ({ name: `#${i}`, request })),
      { concurrency },
      {
        gateway,
        signal: stop.signal,
        wait: async (ms) => {
          waits.push(ms)
          onWait()
        },
        onOutcome: (outcome) => onOutcome(outcome),
      },
    )
    await app.settled()
    return outcomes
  }
  return { app, cacheControls, waits, concurrent, stop, run }
}

const prompts = (n: number) => Array.from({ length: n }, (_, i) => ({ prompt: `p${i}` }))
const kinds = (outcomes: readonly Outcome[]) =>
  outcomes.map((outcome) => (outcome.kind === 'failed' ? outcome.reason : outcome.kind))

test('a conversation is generated and stored as a chat, so that visitors find it', async () => {
  const { app, run } = start({
    config: {
      upstreams: [{ ...compatible, wire: 'chat' }],
      prompts: { helper: { chat: true, spend: 'operator' } },
    },
  })
  const body = { model: 'helper', messages: [{ role: 'user', content: 'When do you open?' }] }
  expect(kinds(await run([body]))).toEqual(['stored'])
  expect(kinds(await run([body]))).toEqual(['present'])
  const init = { method: 'POST', body: JSON.stringify(body) }
  expect((await app.ask('/v1/chat/completions', init)).text).toContain('Hello')
  expect(app.calls).toHaveLength(1)
})

test('missing answers are generated and stored, so that visitors find them', async () => {
  const { app, run } = start()
  expect(kinds(await run([{ prompt: 'a' }, { prompt: 'b', stream: true }]))).toEqual([
    'stored',
    'stored',
  ])
  expect(app.calls).toHaveLength(2)
  const reply = await app.post({ prompt: 'b', stream: true })
  expect(reply.headers['cache-status']).toContain('hit')
})

test('cached answers are skipped without an upstream call, so a second run resumes', async () => {
  const { app, run } = start()
  await run(prompts(5))
  expect(kinds(await run(prompts(8)))).toEqual([
    ...Array(5).fill('present'),
    ...Array(3).fill('stored'),
  ])
  expect(app.calls).toHaveLength(8)
})

test('stale answers are refreshed', async () => {
  let answers = 0
  const { app, run } = start({
    config: { cache: { ttl_seconds: 100 } },
    upstream: () => jsonAnswer(`answer ${++answers}`),
  })
  await run([{ prompt: 'a' }])
  app.clock.ms += 200_000
  expect(kinds(await run([{ prompt: 'a' }]))).toEqual(['stored'])
  const { text } = await app.post({ prompt: 'a' })
  expect(text).toContain('answer 2')
})

test('the number of concurrent requests does not exceed the limit', async () => {
  const { concurrent, run } = start()
  await run(prompts(30), 3)
  expect(concurrent.most).toBe(3)
})

test('a failure is reported with its code and does not stop the others', async () => {
  const { run, waits } = start({
    upstream: async (request) =>
      (await request.text()).includes('bad') ? new Response('', { status: 400 }) : jsonAnswer(),
  })
  const outcomes = await run([{ prompt: 'a' }, { prompt: 'bad' }, { prompt: '' }, { prompt: 'b' }])
  expect(kinds(outcomes)).toEqual([
    'stored',
    expect.stringMatching(/^400 upstream_refused_request: /),
    expect.stringMatching(/^400 invalid_value: Cannot use "prompt"/),
    'stored',
  ])
  expect(waits).toEqual([])
})

test('temporary failures are retried after Retry-After, within bounds', async () => {
  const { run, waits } = start({
    config: {
      upstreams: [
        {
          name: 'main',
          preset: 'compatible',
          wire: 'completions',
          base_url: 'https://upstream.test/v1',
          key: 'UPSTREAM_API_KEY',
          retries: 0,
        },
      ],
    },
    upstream: (_, call) =>
      call < 3
        ? new Response('', {
            status: 429,
            headers: { 'retry-after': ['7', '100', 'x'][call] ?? '' },
          })
        : jsonAnswer(),
  })
  expect(kinds(await run([{ prompt: 'a' }]))).toEqual(['stored'])
  expect(waits).toHaveLength(3)
  expect(waits.slice(0, 2)).toEqual([7000, 60_000])
})

test('a request is tried four times', async () => {
  const { run, waits } = start({ upstream: () => new Response('', { status: 500 }) })
  expect(kinds(await run([{ prompt: 'a' }]))).toEqual([
    expect.stringMatching(/^502 upstream_unavailable: /),
  ])
  expect(waits).toHaveLength(3)
})

test('responses of another server count as failures', async () => {
  const gateway = new Gateway({ url: EDGE, token: 't', verb: 'warm' }, async (request) => {
    const { prompt } = (await request.json()) as { prompt: string }
    if (prompt === 'a') return new Response('<html>', { status: 404 })
    if (prompt === 'b') return new Response(null, { status: 302 })
    if (prompt === 'c') return new Response('null', { status: 500 })
    throw new TypeError('fetch failed')
  })
  const outcomes = await warm(
    ['a', 'b', 'c', 'd'].map((prompt) => ({ name: prompt, request: { prompt } })),
    { concurrency: 1 },
    { gateway, wait: async () => {}, signal: new AbortController().signal },
  )
  expect(kinds(outcomes)).toEqual([
    '404, not from an edge-completions Worker',
    '302, not from an edge-completions Worker',
    '500, not from an edge-completions Worker',
    'no connection',
  ])
})

test('the tokens of each answer are reported, also if it was not stored, which is a failure', async () => {
  const tokens: Outcome[] = []
  const { run } = start({}, { onOutcome: (outcome) => void tokens.push(outcome) })
  await run([{ prompt: 'a' }, { prompt: 'a' }], 1)
  const text = expect.stringMatching(/./)
  expect(tokens).toEqual([
    { kind: 'stored', tokens: 7, text, isCut: false },
    { kind: 'present', text, isCut: false },
  ])
  const uncached = start({ config: { cache: { ttl_seconds: 0 } } })
  expect(await uncached.run([{ prompt: 'a' }])).toMatchObject([
    { kind: 'failed', tokens: 7, reason: expect.stringMatching(/^answered, but not stored/) },
  ])
})

test('a request that joined another call costs nothing and checks the cache again', async () => {
  const answers = [
    new Response('{"error":{"code":"not_cached"}}', { status: 404 }),
    Response.json(
      { usage: { total_tokens: 9, completion_tokens: 4 } },
      { headers: { 'cache-status': 'edge-completions; fwd=miss; collapsed' } },
    ),
    Response.json(
      { choices: [{ text: 'fine', finish_reason: 'length' }] },
      { headers: { 'cache-status': 'edge-completions; hit; ttl=9; detail=kv' } },
    ),
  ]
  const gateway = new Gateway({ url: EDGE, token: 't', verb: 'warm' }, async () => answers.shift()!)
  const waits: number[] = []
  const outcomes = await warm(
    [{ name: 'a', request: { prompt: 'a' } }],
    { concurrency: 1 },
    { gateway, wait: async (ms) => void waits.push(ms), signal: new AbortController().signal },
  )
  expect([outcomes, waits, answers]).toEqual([
    [{ kind: 'present', text: 'fine', isCut: true }],
    [1000],
    [],
  ])
})

test('after an abort, running requests finish and no more are started', async () => {
  const { run, stop, app } = start({}, { onOutcome: () => stop.abort() })
  expect(kinds(await run(prompts(6), 2))).toEqual([
    'stored',
    'stored',
    ...Array(4).fill('not-started'),
  ])
  expect(app.calls).toHaveLength(2)
})

test('after an abort, failed requests are not retried', async () => {
  const { run, stop, waits, cacheControls } = start(
    { upstream: () => new Response('', { status: 500 }) },
    { onWait: () => stop.abort() },
  )
  expect(kinds(await run([{ prompt: 'a' }]))).toEqual([expect.stringMatching(/^502/)])
  expect(waits).toEqual([1000])
  expect(cacheControls).toEqual(['only-if-cached', null])
})

test('once the daily budget is exhausted, nothing is retried and no more requests are started', async () => {
  const { run, app, waits } = start()
  app.ledger.refusal = {
    granted: false,
    code: 'budget_exhausted',
    policy: 'day',
    retryAfterSeconds: 60,
    quota: 1,
    remaining: 0,
  }
  expect(kinds(await run(prompts(9), 1))).toEqual([
    expect.stringMatching(/^429 budget_exhausted/),
    ...Array(8).fill('not-started'),
  ])
  expect(waits).toEqual([])
})
