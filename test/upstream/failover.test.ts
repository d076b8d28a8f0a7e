// A request's route through its upstreams: retries, fallbacks, breakers, several calls, leases.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { GatewayError } from '../../src/errors.ts'
import type { EffectiveRequest } from '../../src/request/effective.ts'
import type { TokensField, Wire } from '../../src/upstream/adapter.ts'
import {
  chunk,
  DONE,
  jsonAnswer,
  openStream,
  START,
  streamAnswer,
  upstreamBody,
} from '../support/app.ts'
import { CANARY } from '../support/canary.ts'
import { type Answering, startRoute, targetOf } from '../support/upstreams.ts'

const status =
  (code: number, headers: Record<string, string> = {}): Answering =>
  () =>
    Response.json({ error: { message: `no ${CANARY}` } }, { status: code, headers })
const body =
  (text: string): Answering =>
  () =>
    new Response(text)
const never: Answering = () => new Promise(() => {})
const ok: Answering = () => jsonAnswer('Hello')
const unreachable: Answering = () => {
  throw new TypeError('fetch failed')
}
/** An upstream that fails with an outage. */
const down = { answers: status(500), retries: 0 }

/** The n-th answer for the n-th call; the last one for all further calls. */
const inTurn =
  (...list: readonly Answering[]): Answering =>
  (call, request) =>
    (list[Math.min(call, list.length - 1)] ?? ok)(call, request)

/** A route of one upstream whose breaker has opened, and that answers like this from now on. */
async function opened(...answers: readonly Answering[]) {
  const failures = Array.from({ length: 10 }, () => status(500))
  const app = startRoute({ a: { answers: inTurn(...failures, ...answers), retries: 0 } })
  for (let i = 0; i < 10; i++) expect((await app.run()).code).toBe('upstream_unavailable')
  return app
}

/** Expects that every lease was settled exactly once. */
function expectSettled({ leases }: Pick<ReturnType<typeof startRoute>, 'leases'>): void {
  for (const { settled } of leases) expect(settled).toHaveLength(1)
}

const left = new Error('left')
const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await turn()
}

test('answer() starts with one delta about the upstream, then yields text, finish and end', async () => {
  const { run, trace } = startRoute({
    a: () => streamAnswer(chunk('He'), chunk('llo'), chunk('', 'stop'), DONE),
  })
  const { deltas } = await run()
  expect(deltas.map(({ kind }) => kind)).toEqual(['answered', 'text', 'text', 'finish', 'ended'])
  expect(deltas[0]).toEqual({
    kind: 'answered',
    model: 'model-1-0001',
    fingerprint: null,
    upstream: 'a',
    upstreamModel: 'a-1',
    upstreamId: 'cmpl-upstream',
    fallback: false,
  })
  expect(deltas.at(-1)).toMatchObject({ kind: 'ended', whole: true })
  expect(trace).toEqual({ attempts: 1, upstream: 'a' })
})

test.each<[string, object, object]>([
  ['the configured model if the upstream names none', { model: '' }, { model: 'a-1' }],
  ['an id', { id: 'cmpl-9' }, { upstreamId: 'cmpl-9' }],
  ['no id that does not look like one', { id: `sk ${'x'.repeat(9)}` }, { upstreamId: null }],
  ['no id that is too long', { id: 'x'.repeat(129) }, { upstreamId: null }],
  ['no id that is a number', { id: 5 }, { upstreamId: null }],
])('answer() reports %s', async (_, fields, answered) => {
  const { run } = startRoute({ a: () => Response.json({ ...upstreamBody('Hello'), ...fields }) })
  expect((await run()).deltas[0]).toMatchObject({ kind: 'answered', ...answered })
})

test.each([
  [0, 125],
  [0.5, 250],
  [1, 375],
])('answer() retries an outage after a pause with jitter (%d: %i ms)', async (random, ms) => {
  const app = startRoute({ a: inTurn(status(500), ok) }, { random: () => random })
  expect((await app.run()).texts).toEqual(['Hello'])
  expect([app.asked(), app.waits, app.trace.attempts]).toEqual(['a a', [ms], 2])
  expect(app.events).toMatchObject([
    { event: 'upstream_failed', code: 'upstream_unavailable', will: 'retry' },
  ])
})

test.each([0, 1, 5])('answer() makes at most %i retries', async (retries) => {
  const app = startRoute({ a: { answers: status(500), retries } })
  expect((await app.run()).code).toBe('upstream_unavailable')
  expect([app.calls.length, app.trace.attempts, app.leases.length]).toEqual(
    Array.from({ length: 3 }, () => retries + 1),
  )
  expectSettled(app)
})

test.each([
  [429, '1', 1125],
  [429, '2', 2125],
  [503, '1', 1125],
  [503, '2', 2125],
])('answer() retries a %i after its Retry-After: %s', async (code, header, waited) => {
  const { run, waits } = startRoute({ a: inTurn(status(code, { 'retry-after': header }), ok) })
  expect((await run()).texts).toEqual(['Hello'])
  expect(waits).toEqual([waited])
})

test.each<[string, Answering, string, number | null]>([
  ['a bad response', body('<html>'), 'upstream_bad_response', null],
  ['a bad key', status(401), 'upstream_rejected', null],
  ['a redirect', status(307, { location: 'https://evil.test' }), 'upstream_rejected', null],
  ['a cut-off answer', body('{"choices":[{"te'), 'upstream_truncated', null],
  ['a 429 without Retry-After', status(429), 'upstream_rate_limited', 10],
  ['a 429 with 3', status(429, { 'retry-after': '3' }), 'upstream_rate_limited', 3],
  ['a 429 with a day', status(429, { 'retry-after': '86400' }), 'upstream_rate_limited', 300],
  ['a 503 with 3', status(503, { 'retry-after': '3' }), 'upstream_unavailable', null],
  [
    'a 503 with a date',
    status(503, { 'retry-after': new Date(START + 60_000).toUTCString() }),
    'upstream_unavailable',
    null,
  ],
])('answer() falls back after %s without a retry', async (_, answers, code, seconds) => {
  const alone = startRoute({ a: { answers, retries: 5 } })
  expect((await alone.run()).error).toMatchObject({ code, retryAfterSeconds: seconds })
  expect([alone.asked(), alone.waits]).toEqual(['a', []])
  const { run, asked, events, trace } = startRoute({ a: { answers, retries: 5 }, b: ok })
  const { deltas, texts } = await run()
  expect(texts).toEqual(['Hello'])
  expect(deltas[0]).toMatchObject({ kind: 'answered', upstream: 'b', fallback: true })
  expect([asked(), trace]).toEqual(['a b', { attempts: 2, upstream: 'b' }])
  expect(events).toMatchObject([{ upstream: 'a', code, will: 'fall_back' }])
})

test.each([
  ['a refused request', status(400), [], 'upstream_refused_request'],
  [
    'a failure after the first text',
    body(`${chunk('Hel')}data: {"error":{"message":"x","code":503}}\n\n`),
    ['Hel'],
    'upstream_unavailable',
  ],
])('answer() neither retries nor falls back after %s', async (_, answers, texts, code) => {
  const { run, asked, events } = startRoute({ a: { answers, retries: 5 }, b: ok })
  expect(await run()).toMatchObject({ texts, code })
  expect(asked()).toBe('a')
  expect(events).toMatchObject([{ event: 'upstream_failed', will: 'give_up' }])
})

test('answer() retries if only events without content preceded the failure', async () => {
  const empty = body('data: {"id":"x","choices":[]}\n\ndata: {"error":{"code":503}}\n\n')
  const { run, asked } = startRoute({ a: inTurn(empty, ok) })
  expect((await run()).texts).toEqual(['Hello'])
  expect(asked()).toBe('a a')
})

test('answer() fails with the error of its last upstream', async () => {
  const { run, asked } = startRoute({
    a: { answers: unreachable, retries: 0 },
    b: status(401),
    c: status(429, { 'retry-after': '77' }),
  })
  expect((await run()).error).toMatchObject({
    code: 'upstream_rate_limited',
    retryAfterSeconds: 77,
  })
  expect(asked()).toBe('a b c')
})

test("answer() applies the first upstream's deadline to all attempts", async () => {
  const slow: Answering = () => {
    app.clock.ms += 5000
    return new Response('', { status: 500 })
  }
  const app = startRoute({
    a: { answers: slow, retries: 5, deadlineMs: 12_000 },
    b: { answers: ok, deadlineMs: 600_000 },
  })
  expect((await app.run()).code).toBe('upstream_unavailable')
  // 5 s, a pause, 10.25 s, a pause, 15.5 s: no further retry, and no fallback after the deadline.
  expect(app.asked()).toBe('a a a')
})

test('answer() does not start a pause that would pass the deadline', async () => {
  const answers = status(429, { 'retry-after': '2' })
  const { run, waits, asked } = startRoute({ a: { answers, deadlineMs: 2000, retries: 5 }, b: ok })
  expect((await run()).texts).toEqual(['Hello'])
  expect([asked(), waits]).toEqual(['a b', []])
})

test('answer() gives a fallback its own deadline, within the deadline of the request', async () => {
  const app = startRoute({
    a: { ...down, deadlineMs: 60_000 },
    b: { answers: never, retries: 0, deadlineMs: 10 },
    c: ok,
  })
  // The watchdog's timer is real, but the clock stands still.
  const running = app.run()
  await until(() => app.asked() === 'a b')
  app.clock.ms += 20
  expect((await running).texts).toEqual(['Hello'])
  expect(app.events).toMatchObject([{ code: 'upstream_unavailable' }, { code: 'upstream_timeout' }])
})

test('answer() skips an upstream whose breaker is open, reports the time, and tries it again later', async () => {
  const app = await opened(ok)
  for (const [ms, seconds] of [
    [0, 15],
    [100, 15],
    [6900, 8],
    [7999, 1],
  ] as const) {
    app.clock.ms += ms
    const { error } = await app.run()
    expect(error).toMatchObject({ code: 'upstream_unavailable', retryAfterSeconds: seconds })
  }
  expect([app.calls.length, app.trace.attempts]).toEqual([10, 10])
  app.clock.ms += 1
  expect((await app.run()).texts).toEqual(['Hello'])
  expect((await app.run()).texts).toEqual(['Hello'])
  expect(app.calls).toHaveLength(12)
})

test('answer() falls back when the breaker is open', async () => {
  const app = startRoute({ a: down, b: ok })
  for (let i = 0; i < 10; i++) await app.run()
  app.calls.splice(0)
  expect((await app.run()).texts).toEqual(['Hello'])
  expect(app.asked()).toBe('b')
})

test('answer() reports the earliest time when all breakers of a route are open', async () => {
  const app = startRoute({ a: down, b: down })
  for (let i = 0; i < 10; i++) await app.run({ route: [targetOf('a')] })
  app.clock.ms += 5000
  for (let i = 0; i < 10; i++) await app.run({ route: [targetOf('b')] })
  const { error } = await app.run()
  expect(error).toMatchObject({ code: 'upstream_unavailable', retryAfterSeconds: 10 })
  expect(app.calls).toHaveLength(20)
})

test.each<[string, Answering, Partial<EffectiveRequest>]>([
  ['refusals', status(400), {}],
  ['answers that are too long', () => streamAnswer(chunk('a'), chunk('b'.repeat(5000))), {}],
  ['choices that did not come', ok, { n: 2 }],
])('answer() does not open the breaker for %s', async (_, answers, fields) => {
  const app = startRoute({ a: { answers, retries: 0, maxOutputBytes: 4096 } })
  for (let i = 0; i < 12; i++) expect((await app.run(fields)).code).toMatch(/^upstream_/)
  expect(app.calls).toHaveLength(12)
})

test("answer() does not count one model's failures against other models of the same upstream", async () => {
  const app = startRoute({
    a: {
      answers: (call, request) =>
        app.calls[call]?.body['model'] === 'gone' ? status(500)(call, request) : ok(call, request),
      retries: 0,
    },
  })
  const ask = (upstream_model: string) => app.run({ route: [{ upstream: 'a', upstream_model }] })
  for (let i = 0; i < 12; i++) await ask('gone')
  expect(app.calls).toHaveLength(10)
  expect((await ask('good')).texts).toEqual(['Hello'])
})

test('answer() resets the failure count on a refusal, because it shows that the upstream works', async () => {
  const answers: Answering = (call) => new Response('', { status: call % 10 === 9 ? 400 : 500 })
  const app = startRoute({ a: { answers, retries: 0 } })
  for (let i = 0; i < 40; i++) await app.run()
  expect(app.calls).toHaveLength(40)
})

test('answer() counts a success at the end, even if its reader does not read on', async () => {
  const alternating = Array.from({ length: 20 }, (_, i) => (i % 2 === 0 ? status(500) : ok))
  const app = startRoute({ a: { answers: inTurn(...alternating), retries: 0 } })
  for (let i = 0; i < 20; i++)
    await app
      .ask()
      .until('ended')
      .catch(() => {})
  expect(app.calls).toHaveLength(20)
  const trial = await opened(ok)
  trial.clock.ms += 15_000
  await trial.ask().until('ended')
  await Promise.all([trial.ask().until('ended'), trial.ask().until('ended')])
  expect(trial.calls).toHaveLength(13)
})

test("answer() closes the breaker when the trial's text begins", async () => {
  const upstream = openStream()
  const app = await opened(() => upstream.response(), ok)
  app.clock.ms += 15_000
  const trial = app.ask()
  upstream.push(chunk('slow'))
  await trial.next()
  expect((await app.run()).texts).toEqual(['Hello'])
  await trial.leave()
})

test("answer() does not count a visitor's disconnect as a failure", async () => {
  const answers: Answering = (call, request) => (call < 30 ? never : ok)(call, request)
  const app = startRoute({ a: { answers, retries: 0 } })
  for (let i = 0; i < 30; i++) {
    const visitor = new AbortController()
    const running = app.run({}, visitor.signal)
    await until(() => app.calls.length > i)
    visitor.abort(left)
    await running
  }
  expect((await app.run()).texts).toEqual(['Hello'])
})

test('answer() leaves a half-open breaker to the next visitor after a disconnect', async () => {
  const app = await opened(() => streamAnswer(chunk('a'), chunk('b'), chunk('c', 'stop'), DONE))
  app.clock.ms += 15_000
  const trial = app.ask()
  expect(await trial.next()).not.toBeNull()
  // A reader that is not reading: nothing is pending when its visitor disconnects.
  app.controller.abort(left)
  await trial.leave()
  expect((await app.run({}, new AbortController().signal)).texts).toEqual(['abc'])
})

test('answer() leaves a half-open breaker to the next visitor if the first left before any text', async () => {
  const app = await opened(never, ok)
  app.clock.ms += 15_000
  const visitor = new AbortController()
  const trial = app.run({}, visitor.signal)
  await until(() => app.calls.length === 11)
  visitor.abort(left)
  expect((await trial).error).toBe(left)
  expect((await app.run()).texts).toEqual(['Hello'])
})

test('answer() keeps the breaker closed to others while a trial runs, even when an older call ends', async () => {
  const hung = Promise.withResolvers<Response>()
  const trial = Promise.withResolvers<Response>()
  const failures = Array.from({ length: 10 }, () => status(500))
  const answers = inTurn(
    () => hung.promise,
    ...failures,
    () => trial.promise,
  )
  const app = startRoute({ a: { answers, retries: 0 } })
  const older = app.run()
  await until(() => app.calls.length === 1)
  for (let i = 0; i < 10; i++) await app.run()
  app.clock.ms += 15_000
  const trying = app.run()
  await until(() => app.calls.length === 12)
  // A refused request gives no verdict on the upstream.
  hung.resolve(new Response('', { status: 400 }))
  await older
  expect((await app.run()).code).toBe('upstream_unavailable')
  expect(app.calls).toHaveLength(12)
  trial.resolve(jsonAnswer('Hello'))
  expect((await trying).texts).toEqual(['Hello'])
})

test('answer() does not report "retry" when its own failure has opened the breaker', async () => {
  const { run, calls, waits, events } = startRoute({ a: { answers: status(500), retries: 20 } })
  expect((await run()).code).toBe('upstream_unavailable')
  expect([calls.length, waits.length]).toEqual([10, 9])
  expect(events.at(-1)).toMatchObject({ will: 'give_up' })
})

const chatOf = (content: string) =>
  Response.json({
    ...upstreamBody(),
    choices: [{ index: 0, message: { content }, finish_reason: 'stop' }],
  })

/** Answers on the chat wire with the prompt and the seed. */
const echoing: Answering = async (_, request) => {
  const { messages, seed = '' } = (await request.json()) as {
    messages: { content: string }[]
    seed?: number
  }
  return chatOf(`${messages.at(-1)?.content}${seed}`)
}
const chat = (answers: Answering) => ({ wire: 'chat', retries: 0, answers }) as const

test('answer() calls a chat upstream once per choice: index = prompt_index * n + j, seed + j', async () => {
  const app = startRoute({ a: chat(echoing) })
  const { texts } = await app.run({ prompts: ['p', 'q'], n: 3, seed: 7 })
  expect(app.calls).toHaveLength(6)
  expect(texts).toEqual(['p7', 'p8', 'p9', 'q7', 'q8', 'q9'])
  expectSettled(app)
})

test('answer() adds the echo for an upstream without it, even to an empty text', async () => {
  const { run } = startRoute({ a: chat((call) => chatOf(call === 0 ? '!' : '')) })
  expect((await run({ prompts: ['p', 'q'], echo: true })).texts).toEqual(['p!', 'q'])
})

test('answer() adds up the usage of several calls, and reports none if one is missing', async () => {
  const { run } = startRoute({ a: chat(echoing) })
  expect((await run({ n: 3 })).deltas.at(-1)).toMatchObject({
    usage: { prompt_tokens: 9, completion_tokens: 12, total_tokens: 21 },
  })
  const uncounted: Answering = () =>
    Response.json({ choices: [{ message: { content: 'x' }, finish_reason: 'stop' }] })
  const partly = startRoute({ a: chat(inTurn(echoing, uncounted, echoing)) })
  expect((await partly.run({ n: 3 })).deltas.at(-1)).toMatchObject({ usage: null, whole: true })
})

test('answer() makes at most six calls at once', async () => {
  let atOnce = 0
  const waiting: (() => void)[] = []
  const { run, calls } = startRoute({
    a: chat(async (call, request) => {
      atOnce += 1
      await new Promise<void>((resolve) => waiting.push(resolve))
      atOnce -= 1
      return await echoing(call, request)
    }),
  })
  const running = run({ prompts: ['a', 'b', 'c', 'd'], n: 4 })
  for (let answeredCalls = 0; answeredCalls < 16; answeredCalls++) {
    await until(() => waiting.length > 0)
    for (let i = 0; i < 5; i++) await turn()
    expect(atOnce).toBe(Math.min(6, 16 - answeredCalls))
    waiting.shift()?.()
  }
  expect((await running).texts).toHaveLength(16)
  expect(calls).toHaveLength(16)
})

test('answer() aborts the other calls as soon as one fails, and starts no further ones', async () => {
  const app = startRoute({
    a: chat(async (call, request) => {
      if (call !== 1) return await never(call, request)
      await until(() => app.calls.length === 6)
      return new Response('', { status: 400 })
    }),
  })
  expect((await app.run({ n: 8 })).code).toBe('upstream_refused_request')
  // The second call has ended, so there is nothing to abort.
  const aborted = app.calls.filter((_, i) => i !== 1).map(({ signal }) => signal.aborted)
  expect(aborted).toEqual([true, true, true, true, true])
  expectSettled(app)
})

test('answer() cancels hanging bodies when another call fails', async () => {
  const bodies = [openStream(), openStream()]
  const app = startRoute({ a: chat((call) => bodies[call]?.response() ?? new Response('')) })
  const asking = app.ask({ n: 2 })
  bodies[0]?.push('data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
  expect(await asking.next()).toMatchObject([{ kind: 'answered' }, { text: 'a' }])
  bodies[1]?.fail(new Error('reset'))
  expect((await asking.rest()).code).toBe('upstream_unavailable')
  expect(bodies[0]?.state.cancelled).toBe(1)
  expectSettled(app)
})

test('answer() reserves before each call and settles with its usage', async () => {
  const { run, leases } = startRoute({ a: inTurn(status(500), ok) })
  await run()
  const usage = { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 }
  const lease = { target: targetOf('a'), extent: { input: 4 + 64, output: 16 } }
  expect(leases).toEqual([
    { ...lease, accepted: 0, settled: [{ usage: null, chars: 0 }] },
    { ...lease, accepted: 1, settled: [{ usage, chars: 5 }] },
  ])
})

test.each<[string, Partial<EffectiveRequest>, number, number]>([
  ['a byte a token of what was seen, reasoning included', {}, 0, 1000 - 15],
  ['the tokens of the time it took, if that is more', {}, 400, 1000 - 100],
  ['no less than nothing is left', {}, 1e6, 0],
  ['each choice in that time', { n: 2 }, 400, 2000 - 200],
])('answer() settles a stopped call with %s', async (_, fields, ms, unwritten) => {
  for (const abandon of ['stop', 'finish'] as const) {
    const upstream = openStream()
    const reasoning = 'data: {"choices":[{"text":"","reasoning":"Zoë is a b"}]}\n\n'
    upstream.push(reasoning + chunk('Zo') + chunk('ë'))
    const app = startRoute({ a: () => upstream.response() }, { abandon })
    const asking = app.ask({ max_tokens: 1000, ...fields })
    await asking.next()
    app.clock.ms += ms
    app.controller.abort(left)
    await asking.leave()
    expect(app.leases[0]?.settled).toEqual([
      { usage: null, chars: 3, unwritten: abandon === 'stop' ? unwritten : undefined },
    ])
  }
})

test.each<[string, Answering, string | null, object]>([
  ['ends', ok, null, { usage: { total_tokens: 7 }, chars: 5 }],
  ['is cut', body(chunk('Hel') + chunk('lo')), 'upstream_truncated', { usage: null, chars: 5 }],
])(
  'answer() that %s before its readers leave is settled with what it has sent',
  async (_, answers, code, settled) => {
    const { run, leases } = startRoute({ a: answers }, { abandon: 'stop' })
    expect((await run()).code).toBe(code)
    expect(leases[0]?.settled).toMatchObject([{ ...settled, unwritten: undefined }])
  },
)

test.each([
  ['the first call', 0, { attempts: 0, upstream: null }],
  ['a fallback', 1, { attempts: 1, upstream: 'a' }],
])('answer() makes no call without a reservation, when %s is refused', async (_, grants, trace) => {
  const refused = new GatewayError('budget_exhausted', 'Cannot', { retryAfterSeconds: 60 })
  let granted = 0
  const app = startRoute(
    { a: down, b: ok, c: ok },
    {
      reserve: async () => {
        granted += 1
        if (granted > grants) throw refused
        return { accepted() {}, settle() {} }
      },
    },
  )
  expect((await app.run()).error).toBe(refused)
  expect(app.calls).toHaveLength(grants)
  expect(app.trace).toEqual(trace)
})

test('answer() sends none of the calls that begin together if one of them gets no budget', async () => {
  const refused = new GatewayError('too_many_streams', 'Cannot', { retryAfterSeconds: 5 })
  const leases: { accepted: boolean; settled: unknown[] }[] = []
  const app = startRoute(
    { a: chat(ok) },
    {
      reserve: async () => {
        if (leases.length === 3) throw refused
        const lease = { accepted: false, settled: [] as unknown[] }
        leases.push(lease)
        return {
          accepted: () => {
            lease.accepted = true
          },
          settle: (end) => void lease.settled.push(end),
        }
      },
    },
  )
  expect((await app.run({ prompts: ['a', 'b', 'c', 'd'] })).error).toBe(refused)
  expect(app.calls).toEqual([])
  expect(leases.map(({ accepted, settled }) => [accepted, settled.length])).toEqual(
    Array(3).fill([false, 1]),
  )
})

test('answer() settles a call that it cancels for another one with what it has written', async () => {
  const running = openStream()
  running.push(chunk('Zoë'))
  const failing = openStream()
  const app = startRoute({
    a: chat((call) => (call === 0 ? running : failing).response()),
  })
  const asking = app.ask({ prompts: ['a', 'b'], max_tokens: 1000 })
  await asking.next()
  failing.fail(new Error('reset'))
  expect((await asking.rest()).code).toBe('upstream_unavailable')
  expect(app.leases.map(({ settled }) => settled)).toMatchObject([
    [{ usage: null, unwritten: 1000 - 4 }],
    [{ usage: null, unwritten: undefined }],
  ])
})

test('answer() does not settle the echo of a prompt as written', async () => {
  const app = startRoute({ a: () => jsonAnswer('Once upon a time') })
  await app.run({ prompts: ['Once upon'], echo: true, logprobs: 0 })
  expect(app.leases[0]?.settled).toMatchObject([{ chars: ' a time'.length }])
})

test('answer() settles once, at any time of a disconnect', async () => {
  for (const steps of [0, 1, 2, 3, 4]) {
    for (const pending of [false, true]) {
      const upstream = openStream()
      for (const text of ['a', 'b', 'c']) upstream.push(chunk(text))
      const app = startRoute({ a: { answers: () => upstream.response(), retries: 5 }, b: ok })
      const asking = app.ask()
      // Read piece by piece. A fourth read would never resolve.
      for (let i = 0; i < Math.min(steps, 3); i++) await asking.next()
      const next = pending || steps === 4 ? asking.next().catch(() => {}) : null
      if (next !== null) await turn()
      app.controller.abort(left)
      await next
      await asking.leave()
      expectSettled(app)
      expect(app.leases.length, `${steps} ${pending}`).toBeLessThanOrEqual(1)
      expect(app.asked()).toBe(app.calls.length === 0 ? '' : 'a')
      if (app.calls.length > 0) expect(upstream.state.cancelled).toBe(1)
      expect(app.events.filter(({ event }) => event === 'upstream_failed')).toEqual([])
    }
  }
})

test('answer() settles once when the visitor disconnects during the reservation', async () => {
  const reserving = Promise.withResolvers<void>()
  const settled: unknown[] = []
  const app = startRoute(
    { a: ok },
    {
      reserve: async () => {
        await reserving.promise
        return { accepted() {}, settle: (end) => void settled.push(end) }
      },
    },
  )
  const running = app.run()
  await turn()
  app.controller.abort(left)
  reserving.resolve()
  await running
  expect(settled).toHaveLength(1)
  expect(app.calls).toEqual([])
})

test('answer() makes no call if the visitor has already disconnected', async () => {
  const app = startRoute({ a: ok, b: ok })
  app.controller.abort(left)
  expect((await app.run()).error).toBe(left)
  expect(app.calls).toEqual([])
  expectSettled(app)
})

test('answer() makes no further call when aborted during a pause', async () => {
  const app = startRoute(
    { a: status(500) },
    {
      wait: (_, signal) =>
        new Promise((_, reject) => {
          signal.addEventListener('abort', () => reject(signal.reason))
        }),
    },
  )
  const running = app.run()
  await until(() => app.events.length === 1)
  app.controller.abort(left)
  expect((await running).error).toBe(left)
  expect(app.calls).toHaveLength(1)
  expectSettled(app)
})

test('answer() settles every lease exactly once for any sequence of answers', async () => {
  const reset: Answering = () => {
    const upstream = openStream()
    upstream.push('data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
    upstream.fail(new Error('reset'))
    return upstream.response()
  }
  const refusals = [status(500), status(429, { 'retry-after': '1' }), status(400)]
  const failures = [body('<html>'), body(chunk('x')), unreachable, reset]
  const answers = fc.constantFrom(ok, ...refusals, ...failures)
  await fc.assert(
    fc.asyncProperty(
      fc.array(answers, { minLength: 1, maxLength: 8 }),
      fc.integer({ min: 1, max: 3 }),
      fc.constantFrom<Wire>('chat', 'completions'),
      fc.option(fc.nat(3)),
      async (list, n, wire, leaveAfter) => {
        const upstream = { wire, answers: inTurn(...list) }
        const app = startRoute({ a: upstream, b: upstream })
        const asking = app.ask({ n })
        if (leaveAfter === null) {
          const { error } = await asking.rest()
          expect(error === null || error instanceof GatewayError).toBe(true)
        } else {
          for (let i = 0; i <= leaveAfter; i++) await asking.next().catch(() => {})
          await asking.leave()
        }
        await until(() => app.leases.every(({ settled }) => settled.length > 0))
        expectSettled(app)
        expect(app.leases.length).toBe(app.calls.length)
        for (const { accepted } of app.leases) expect(accepted).toBeLessThanOrEqual(1)
      },
    ),
    { numRuns: 80 },
  )
})

test('answer() reports the reason to the owner as codes, without upstream text', async () => {
  const { run, events } = startRoute({
    a: () =>
      Response.json(
        { error: { message: `Incorrect API key: ${CANARY}`, code: 'invalid_api_key' } },
        { status: 401, headers: { 'openai-organization': 'org-1' } },
      ),
  })
  await run()
  expect(events).toEqual([
    {
      event: 'upstream_failed',
      request_id: 'req_1',
      upstream: 'a',
      model: 'default',
      code: 'upstream_rejected',
      status: 401,
      reason: 'invalid_api_key',
      hint: 'key',
      will: 'give_up',
    },
  ])
})

test.each([
  ['always', false, true],
  ['always', true, true],
  ['visitor', false, undefined],
  ['visitor', true, true],
] as const)(
  'answer() with stream = "%s" and stream: %j requested sends stream: %j',
  async (stream, asked, sent) => {
    const { run, calls } = startRoute({ a: { answers: ok, stream } }, { stream: asked })
    await run()
    expect(calls[0]?.body['stream']).toBe(sent)
  },
)

test.each([
  [{}, 'a b c', null],
  [{ suffix: 'x' }, 'a b c', null],
  [{ suffix: 'x', logprobs: 1 }, 'b', 'logprobs'],
  [{ best_of: 2 }, 'b', 'best_of'],
  [{ prompts: [[1, 2]] }, 'b', 'prompt'],
  [{ echo: true, logprobs: 1 }, 'b', 'echo'],
] as const)(
  'capableTargets() of %j are %s, and the field is named if none is left',
  (fields, able, param) => {
    const { targets } = startRoute({ a: chat(ok), b: ok, c: chat(ok) })
    expect(
      targets(fields)
        .map(({ upstream }) => upstream)
        .join(' '),
    ).toBe(able)
    const { targets: onlyChat } = startRoute({ a: chat(ok) })
    if (param === null) expect(onlyChat(fields)).toHaveLength(1)
    else {
      const refusal = expect.objectContaining({ code: 'unsupported_by_upstream', param })
      expect(() => onlyChat(fields)).toThrow(refusal)
    }
  },
)

const otherField = (field: TokensField): TokensField =>
  field === 'max_tokens' ? 'max_completion_tokens' : 'max_tokens'

/** Refuses the token limit under any name but `field`; under every name if `field` is null. */
const accepting =
  (field: TokensField | null, then: Answering = ok): Answering =>
  async (call, request) => {
    const sent = 'max_tokens' in ((await request.clone().json()) as object)
    const used = sent ? 'max_tokens' : 'max_completion_tokens'
    if (used === field) return await then(call, request)
    const message = `Unsupported parameter: '${used}' is not supported with this model. Use '${otherField(used)}' instead.`
    const error = { message, param: used, code: 'unsupported_parameter' }
    return Response.json({ error }, { status: 400 })
  }

test('answer() learns the name of the token limit from a refusal, per upstream and model', async () => {
  const app = startRoute({ a: { answers: accepting('max_completion_tokens'), retries: 0 } })
  // It learns even if its reader does not read on after the end.
  await app.ask().until('ended')
  const names = app.calls.map(({ body }) => Object.keys(body).filter((key) => /^max_/.test(key)))
  expect(names).toEqual([['max_tokens'], ['max_completion_tokens']])
  expect([app.trace.attempts, app.waits]).toEqual([2, []])
  expect(app.events).toMatchObject([
    { code: 'upstream_refused_request', reason: 'unsupported_parameter', will: 'retry' },
  ])
  expect(app.leases).toMatchObject([
    { accepted: 0, settled: [{ usage: null, chars: 0 }] },
    { accepted: 1, settled: [{ chars: 5 }] },
  ])
  expect((await app.run()).texts).toEqual(['Hello'])
  expect(app.calls).toHaveLength(3)
  await app.run({ route: [{ upstream: 'a', upstream_model: 'another' }] })
  expect(app.calls).toHaveLength(5)
})

test('answer() renames the token limit in all calls of a request', async () => {
  const app = startRoute({ a: chat(accepting('max_completion_tokens', echoing)) })
  expect((await app.run({ prompts: ['p', 'q'], n: 2 })).texts).toEqual(['p', 'p', 'q', 'q'])
  expect(app.trace.attempts).toBe(2)
  expectSettled(app)
})

test('answer() does not loop when both names are refused, and learns nothing', async () => {
  const both = accepting(null)
  const answers = inTurn(both, both, accepting('max_tokens'))
  const app = startRoute({ a: { answers, retries: 5 }, b: ok })
  expect((await app.run()).code).toBe('upstream_refused_request')
  expect(app.asked()).toBe('a a')
  expect(app.events).toMatchObject([{ will: 'retry' }, { will: 'give_up' }])
  expectSettled(app)
  await app.run()
  expect(app.calls).toHaveLength(3)
})

test('answer() does not retry a refusal that asks for the name already sent', async () => {
  const error = { message: "Unsupported 'max_completion_tokens'. Use 'max_tokens' instead." }
  const { run, calls } = startRoute({ a: () => Response.json({ error }, { status: 400 }) })
  expect((await run()).code).toBe('upstream_refused_request')
  expect(calls).toHaveLength(1)
})
