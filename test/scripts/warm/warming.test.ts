// What is asked, in what order and how often, against the Worker in process.
import { expect, test } from 'vitest'
import { Gateway } from '../../../scripts/warm/gateway.ts'
import { type Outcome, type Task, warm } from '../../../scripts/warm/warming.ts'
import {
  EDGE,
  jsonAnswer,
  OPERATOR_TOKEN,
  TestApp,
  type TestAppOptions,
} from '../../support/app.ts'

interface Hooks {
  readonly onOutcome?: (outcome: Outcome) => void
  readonly onWait?: () => void
}

function start(options: TestAppOptions = {}, hooks: Hooks = {}) {
  const { onOutcome = () => {}, onWait = () => {} } = hooks
  const app = new TestApp(options)
  const stop = new AbortController()
  const asked: (string | null)[] = []
  const waits: number[] = []
  const state = { now: 0, most: 0 }
  const run = async (
    requests: readonly Task['request'][],
    concurrency = 4,
    token = OPERATOR_TOKEN,
  ) => {
    const gateway = new Gateway({ url: EDGE, token }, async (request) => {
      asked.push(request.headers.get('cache-control'))
      state.now += 1
      state.most = Math.max(state.most, state.now)
      const response = await app.fetch(request)
      const text = await response.text()
      state.now -= 1
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
  return { app, asked, waits, state, stop, run }
}

const prompts = (n: number) => Array.from({ length: n }, (_, i) => ({ prompt: `p${i}` }))
const kinds = (outcomes: readonly Outcome[]) =>
  outcomes.map((outcome) => (outcome.kind === 'failed' ? outcome.reason : outcome.kind))

test('what is not there is asked for and stored; visitors then find it', async () => {
  const { app, run } = start()
  expect(kinds(await run([{ prompt: 'a' }, { prompt: 'b', stream: true }]))).toEqual([
    'stored',
    'stored',
  ])
  expect(app.calls).toHaveLength(2)
  const reply = await app.post({ prompt: 'b', stream: true })
  expect(reply.headers.get('cache-status')).toContain('hit')
})

test('what is there is skipped, without an upstream call: so a run is taken up again', async () => {
  const { app, run } = start()
  await run(prompts(5))
  expect(kinds(await run(prompts(8)))).toEqual([
    ...Array(5).fill('present'),
    ...Array(3).fill('stored'),
  ])
  expect(app.calls).toHaveLength(8)
})

test('what is stale is replaced', async () => {
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

test('never more at once than it is told', async () => {
  const { state, run } = start()
  await run(prompts(30), 3)
  expect(state.most).toBe(3)
})

test('a failure is said with its code, and the others go on', async () => {
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

test('what may mend is tried again, after as long as the gateway says, within bounds', async () => {
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

test('it is not tried for ever, and not at all when the day’s budget is gone', async () => {
  const { run, waits, app } = start({ upstream: () => new Response('', { status: 500 }) })
  expect(kinds(await run([{ prompt: 'a' }]))).toEqual([
    expect.stringMatching(/^502 upstream_unavailable: /),
  ])
  expect(waits).toHaveLength(3)
  waits.length = 0
  app.ledger.refusal = {
    granted: false,
    code: 'budget_exhausted',
    policy: 'day',
    retryAfterSeconds: 60,
    quota: 1,
    remaining: 0,
  }
  expect(kinds(await run([{ prompt: 'b' }]))).toEqual([
    expect.stringMatching(/^429 budget_exhausted: /),
  ])
  expect(waits).toEqual([])
})

test('an answer that is not kept is a failure: visitors will not find it', async () => {
  const { run } = start({ config: { cache: { ttl_seconds: 0 } } })
  expect(kinds(await run([{ prompt: 'a' }]))[0]).toMatch(/^answered, but not stored/)
})

test('another server’s answers are no success', async () => {
  const gateway = new Gateway({ url: EDGE, token: 't' }, async (request) => {
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
    '404 not an answer of this gateway',
    '302 not an answer of this gateway',
    '500 not an answer of this gateway',
    'no connection',
  ])
})

test('says what each answer took, also of one that was not kept', async () => {
  const tokens: Outcome[] = []
  const { run } = start({}, { onOutcome: (outcome) => void tokens.push(outcome) })
  await run([{ prompt: 'a' }, { prompt: 'a' }], 1)
  expect(tokens).toEqual([{ kind: 'stored', tokens: 7 }, { kind: 'present' }])
  const unkept = start({ config: { cache: { ttl_seconds: 0 } } })
  expect(await unkept.run([{ prompt: 'a' }])).toMatchObject([{ kind: 'failed', tokens: 7 }])
})

test('one that joined another’s call has paid nothing, and looks again', async () => {
  const answers = [
    new Response('{"error":{"code":"not_cached"}}', { status: 404 }),
    Response.json(
      { usage: { total_tokens: 9, completion_tokens: 4 } },
      { headers: { 'cache-status': 'edge-completions; fwd=miss; collapsed' } },
    ),
    Response.json({}, { headers: { 'cache-status': 'edge-completions; hit; ttl=9; detail=kv' } }),
  ]
  const gateway = new Gateway({ url: EDGE, token: 't' }, async () => answers.shift()!)
  const waits: number[] = []
  const outcomes = await warm(
    [{ name: 'a', request: { prompt: 'a' } }],
    { concurrency: 1 },
    { gateway, wait: async (ms) => void waits.push(ms), signal: new AbortController().signal },
  )
  expect([outcomes, waits, answers]).toEqual([[{ kind: 'present' }], [1000], []])
})

test('told to stop it ends what is under way, begins nothing more, and can go on later', async () => {
  const { run, stop, app } = start({}, { onOutcome: () => stop.abort() })
  expect(kinds(await run(prompts(6), 2))).toEqual(['stored', 'stored', ...Array(4).fill('unasked')])
  expect(app.calls).toHaveLength(2)
})

test('told to stop it does not try again', async () => {
  const { run, stop, waits, asked } = start(
    { upstream: () => new Response('', { status: 500 }) },
    { onWait: () => stop.abort() },
  )
  expect(kinds(await run([{ prompt: 'a' }]))).toEqual([expect.stringMatching(/^502/)])
  expect(waits).toEqual([1000])
  expect(asked).toEqual(['only-if-cached', null])
})

test('nothing more is asked once the day’s budget is gone', async () => {
  const { run, app } = start()
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
    ...Array(8).fill('unasked'),
  ])
})
