// A request's route through its upstreams: retries, fallbacks, breakers, several calls, leases.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { type Code, GatewayError } from '../../src/errors.ts'
import type { Event } from '../../src/events.ts'
import type { EffectiveRequest, Target } from '../../src/request/effective.ts'
import type { Feature, Wire } from '../../src/upstream/adapter.ts'
import type { RouteContext, RouteDelta } from '../../src/upstream/attempt.ts'
import type { Extent } from '../../src/upstream/extent.ts'
import { answer, capableTargets } from '../../src/upstream/failover.ts'
import { wireLimits } from '../../src/upstream/presets.ts'
import { chunk, DONE, jsonAnswer, openStream, streamAnswer, upstreamBody } from '../support/app.ts'
import { CANARY, recordOutput } from '../support/canary.ts'
import { connectionTo, effectiveRequest, routeContext } from '../support/upstreams.ts'

const START = 1_767_225_600_000

type Answering = (call: number, request: Request) => Response | Promise<Response>

interface UpstreamSetting {
  readonly answers: Answering
  readonly wire?: Wire
  readonly retries?: number
  readonly firstByteMs?: number
  readonly idleMs?: number
  readonly deadlineMs?: number
  readonly unsupported?: readonly Feature[]
  readonly stream?: 'always' | 'visitor'
}

interface LeaseLog {
  readonly extent: Extent
  readonly target: Target
  accepted: number
  settled: { usage: unknown; chars: number }[]
}

function start(
  settings: Readonly<Record<string, UpstreamSetting>>,
  overrides: Partial<RouteContext> = {},
) {
  const clock = { ms: START }
  const events: Event[] = []
  const leases: LeaseLog[] = []
  const waits: number[] = []
  const calls: { upstream: string; body: Record<string, unknown> }[] = []
  const signals: AbortSignal[] = []
  const controller = new AbortController()
  const connections = Object.entries(settings).map(([name, setting]) => {
    const { answers, wire = 'completions', ...options } = setting
    const { unsupported = wire === 'chat' ? ['n'] : [] } = setting
    const send = async (request: Request) => {
      signals.push(request.signal)
      const body = (await request.clone().json()) as Record<string, unknown>
      calls.push({ upstream: name, body })
      return await answers(calls.length - 1, request)
    }
    return connectionTo(name, send, {
      auth: 'bearer',
      key: CANARY,
      deadlineMs: 120_000,
      retries: 1,
      ...options,
      wire,
      unsupported: new Set([...wireLimits[wire], ...unsupported]),
    })
  })
  const context = routeContext(connections, {
    stream: false,
    signal: controller.signal,
    now: () => clock.ms,
    wait: async (ms, signal) => {
      signal.throwIfAborted()
      waits.push(ms)
      clock.ms += ms
    },
    report: (event) => {
      recordOutput(JSON.stringify(event))
      events.push(event)
    },
    reserve: async (extent, target) => {
      const log: LeaseLog = { extent, target, accepted: 0, settled: [] }
      leases.push(log)
      return {
        accepted: () => {
          log.accepted += 1
        },
        settle: (end) => {
          log.settled.push({ ...end })
        },
      }
    },
    ...overrides,
  })
  const trace = { attempts: 0, upstream: null as string | null }
  const route = Object.keys(settings).map((upstream) => ({
    upstream,
    upstream_model: `${upstream}-1`,
  }))
  const request = (fields: Partial<EffectiveRequest> = {}) => effectiveRequest({ route, ...fields })
  const ask = (fields: Partial<EffectiveRequest> = {}) => {
    const full = request(fields)
    const route = capableTargets(full, context.connections)
    return answer({ ...full, route }, context, trace)
  }
  const run = async (fields: Partial<EffectiveRequest> = {}) => {
    const deltas: RouteDelta[] = []
    let error: unknown = null
    try {
      for await (const batch of ask(fields)) deltas.push(...batch)
    } catch (thrown) {
      error = thrown
      if (thrown instanceof GatewayError) recordOutput(thrown.message)
    }
    const texts: string[] = []
    for (const delta of deltas) {
      if (delta.kind === 'text') texts[delta.index] = (texts[delta.index] ?? '') + delta.text
    }
    const code = error === null ? null : error instanceof GatewayError ? error.code : 'unknown'
    return { deltas, error, code, texts }
  }
  return {
    ask,
    run,
    request,
    context,
    controller,
    clock,
    events,
    leases,
    waits,
    calls,
    signals,
    trace,
    asked: () => calls.map(({ upstream }) => upstream).join(' '),
  }
}

const status =
  (code: number, headers: Record<string, string> = {}): Answering =>
  () =>
    new Response(JSON.stringify({ error: { message: `no ${CANARY}` } }), { status: code, headers })

const never: Answering = () => new Promise(() => {})
const ok: Answering = () => jsonAnswer('Hello')
/** The n-th answer for the n-th call; the last one for all further calls. */
const inTurn =
  (...list: readonly Answering[]): Answering =>
  (call, request) =>
    (list[Math.min(call, list.length - 1)] ?? ok)(call, request)

/** Expects that every lease was settled exactly once. */
function expectSettled(leases: readonly LeaseLog[]): void {
  for (const { settled } of leases) expect(settled).toHaveLength(1)
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await turn()
}

/** The result of a promise within a few turns of the event loop, or 'pending'. */
async function soon<T>(work: Promise<T>): Promise<T | 'pending'> {
  const late = (async () => {
    for (let i = 0; i < 50; i++) await turn()
    return 'pending' as const
  })()
  return await Promise.race([work, late])
}

test('answer() starts with one delta about the upstream, then yields text, finish and end', async () => {
  const { run, trace } = start({
    a: { answers: () => streamAnswer(chunk('He'), chunk('llo'), chunk('', 'stop'), DONE) },
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

test('answer() reports the configured model name if the upstream sends none', async () => {
  const { model: _, ...body } = upstreamBody('Hello')
  const { run } = start({ a: { answers: () => Response.json(body) } })
  expect((await run()).deltas[0]).toMatchObject({ kind: 'answered', model: 'a-1' })
})

test.each([
  [500, 'upstream_unavailable'],
  [503, 'upstream_unavailable'],
  [529, 'upstream_unavailable'],
])('answer() retries a %i before the first byte, after a jittered pause', async (code, failure) => {
  const { run, waits, calls, events, trace } = start({ a: { answers: inTurn(status(code), ok) } })
  expect((await run()).texts).toEqual(['Hello'])
  expect(calls).toHaveLength(2)
  expect(waits).toEqual([250])
  expect(trace.attempts).toBe(2)
  expect(events[0]).toMatchObject({ event: 'upstream_failed', code: failure, will: 'retry' })
})

test('answer() jitters its pause by a factor of 0.5 to 1.5', async () => {
  await fc.assert(
    fc.asyncProperty(fc.double({ min: 0, max: 1, noNaN: true }), async (random) => {
      const { run, waits } = start(
        { a: { answers: inTurn(status(500), ok) } },
        { random: () => random },
      )
      await run()
      expect(waits[0]).toBeGreaterThanOrEqual(125)
      expect(waits[0]).toBeLessThanOrEqual(375)
    }),
    { numRuns: 10 },
  )
})

test.each([0, 1, 2, 5])('answer() makes at most %i retries', async (retries) => {
  const { run, calls, trace, leases } = start({ a: { answers: status(500), retries } })
  expect((await run()).code).toBe('upstream_unavailable')
  expect(calls).toHaveLength(retries + 1)
  expect(trace.attempts).toBe(retries + 1)
  expect(leases).toHaveLength(retries + 1)
  expectSettled(leases)
})

test.each([
  ['a bad response', () => new Response('<html>'), 'upstream_bad_response'],
  ['a refusal', status(400), 'upstream_refused_request'],
  ['a bad key', status(401), 'upstream_rejected'],
  ['a redirect', status(307, { location: 'https://evil.test' }), 'upstream_rejected'],
  ['a cut-off answer', () => new Response('{"choices":[{"te'), 'upstream_truncated'],
] as [string, Answering, Code][])('answer() does not retry %s', async (_, answers, code) => {
  const { run, calls, waits } = start({ a: { answers, retries: 5 } })
  expect((await run()).code).toBe(code)
  expect(calls).toHaveLength(1)
  expect(waits).toEqual([])
})

test.each([
  ['1', 1125],
  ['2', 2125],
])('answer() waits for Retry-After: %s and retries once', async (header, waited) => {
  const { run, waits } = start({
    a: { answers: inTurn(status(429, { 'retry-after': header }), ok) },
  })
  expect((await run()).texts).toEqual(['Hello'])
  expect(waits).toEqual([waited])
})

test.each([
  ['3', 3],
  ['300', 300],
  ['1000000', 300],
])('answer() does not wait for Retry-After: %s and passes it on', async (header, said) => {
  const { run, waits, calls } = start({
    a: { answers: status(429, { 'retry-after': header }), retries: 5 },
  })
  const { error, code } = await run()
  expect(code).toBe('upstream_rate_limited')
  expect((error as GatewayError).retryAfterSeconds).toBe(said)
  expect(waits).toEqual([])
  expect(calls).toHaveLength(1)
})

test('answer() does not retry a 429 without Retry-After', async () => {
  const { run, calls } = start({ a: { answers: status(429), retries: 5 } })
  expect((await run()).code).toBe('upstream_rate_limited')
  expect(calls).toHaveLength(1)
})

test('answer() neither retries nor falls back after the first text', async () => {
  const body = `${chunk('Hel')}data: {"error":{"message":"x","code":503}}\n\n`
  const { run, asked, events } = start({
    a: { answers: () => new Response(body), retries: 5 },
    b: { answers: ok },
  })
  const { texts, code } = await run()
  expect([texts, code]).toEqual([['Hel'], 'upstream_unavailable'])
  expect(asked()).toBe('a')
  expect(events.at(-1)).toMatchObject({ event: 'upstream_failed', will: 'give_up' })
})

test.each([
  ['a stream cut after text', `${chunk('Hel')}${chunk('lo')}`, 'upstream_truncated'],
  [
    'a stream that broke into nonsense',
    `${chunk('Hel')}data: {]\n\n${chunk('x')}`,
    'upstream_bad_response',
  ],
])('answer() fails for %s', async (_, body, code) => {
  const got = await start({ a: { answers: () => new Response(body) } }).run()
  expect(got.code).toBe(code)
  expect(got.deltas.map(({ kind }) => kind)).not.toContain('ended')
  expect(got.deltas.map(({ kind }) => kind)).not.toContain('finish')
})

test('answer() retries if only events without content preceded the failure', async () => {
  const empty = `data: ${JSON.stringify({ id: 'x', choices: [] })}\n\ndata: {"error":{"code":503}}\n\n`
  const { run, calls } = start({ a: { answers: inTurn(() => new Response(empty), ok) } })
  expect((await run()).texts).toEqual(['Hello'])
  expect(calls).toHaveLength(2)
})

test.each([
  ['429', status(429)],
  ['500', status(500)],
  ['401', status(401)],
  ['404', status(404)],
  ['302', status(302)],
  ['HTML', () => new Response('<html>')],
  ['an empty body', () => new Response('')],
  ['a cut-off body', () => new Response('{"ch')],
  [
    'no connection',
    () => {
      throw new TypeError('fetch failed')
    },
  ],
] as [string, Answering][])('answer() falls back after %s', async (_, answers) => {
  const { run, asked, events, trace } = start({ a: { answers, retries: 0 }, b: { answers: ok } })
  const { deltas, texts } = await run()
  expect(texts).toEqual(['Hello'])
  expect(deltas[0]).toMatchObject({ kind: 'answered', upstream: 'b', fallback: true })
  expect(asked()).toBe('a b')
  expect(trace).toEqual({ attempts: 2, upstream: 'b' })
  expect(events[0]).toMatchObject({ upstream: 'a', will: 'fall_back' })
})

test.each([400, 413, 422])(
  'answer() does not fall back after a request refused with %i',
  async (code) => {
    const { run, asked } = start({ a: { answers: status(code) }, b: { answers: ok } })
    expect((await run()).code).toBe('upstream_refused_request')
    expect(asked()).toBe('a')
  },
)

test('answer() fails with the error of its last upstream', async () => {
  const { run, asked } = start({
    a: { answers: status(500), retries: 0 },
    b: { answers: status(401) },
    c: { answers: status(429, { 'retry-after': '77' }) },
  })
  const { error, code } = await run()
  expect(asked()).toBe('a b c')
  expect(code).toBe('upstream_rate_limited')
  expect((error as GatewayError).retryAfterSeconds).toBe(77)
})

test("answer() applies the first upstream's deadline to all attempts", async () => {
  const app = start({
    a: {
      answers: () => {
        app.clock.ms += 5000
        return new Response('', { status: 500 })
      },
      retries: 5,
      deadlineMs: 12_000,
    },
    b: { answers: ok, deadlineMs: 600_000 },
  })
  expect((await app.run()).code).toBe('upstream_unavailable')
  // 5 s, a pause, 10.25 s, a pause, 15.5 s: no further retry, and no fallback after the deadline.
  expect(app.asked()).toBe('a a a')
})

test('answer() does not start a pause that would pass the deadline', async () => {
  const { run, waits, asked } = start({
    a: { answers: status(429, { 'retry-after': '2' }), deadlineMs: 2000, retries: 5 },
    b: { answers: ok },
  })
  expect((await run()).texts).toEqual(['Hello'])
  expect(waits).toEqual([])
  expect(asked()).toBe('a b')
})

test('answer() skips an upstream whose breaker is open, and tries it again later', async () => {
  const app = start({
    a: {
      answers: (call) =>
        call < 10 ? new Response('', { status: 500 }) : ok(0, new Request('https://x.test')),
      retries: 0,
    },
  })
  for (let i = 0; i < 10; i++) expect((await app.run()).code).toBe('upstream_unavailable')
  expect(app.calls).toHaveLength(10)
  expect((await app.run()).code).toBe('upstream_unavailable')
  expect(app.calls).toHaveLength(10)
  app.clock.ms += 15_000
  expect((await app.run()).texts).toEqual(['Hello'])
  expect((await app.run()).texts).toEqual(['Hello'])
  expect(app.calls).toHaveLength(12)
})

test('answer() falls back when the breaker is open', async () => {
  const app = start({ a: { answers: status(500), retries: 0 }, b: { answers: ok } })
  for (let i = 0; i < 10; i++) await app.run()
  app.calls.splice(0)
  expect((await app.run()).texts).toEqual(['Hello'])
  expect(app.asked()).toBe('b')
})

/** Sends this, then comments until cancelled. Uses the watchdog's real timer. */
const dripping =
  (text: string): Answering =>
  () => {
    const upstream = openStream()
    upstream.push(text)
    const drip = setInterval(() => upstream.push(':\n\n'), 5)
    upstream.left.then(() => clearInterval(drip))
    return upstream.response()
  }
const tooLong: Answering = () => streamAnswer(chunk('a'), chunk('b'.repeat(1_100_000)))

test.each<[string, Answering, Partial<UpstreamSetting>?, Partial<EffectiveRequest>?]>([
  ...[400, 401, 402, 403, 404, 408, 409, 410, 413, 418, 422, 425, 429, 451, 499].map(
    (code): [string, Answering] => [`a ${code}`, status(code)],
  ),
  ['a 429 with Retry-After', status(429, { 'retry-after': '60' })],
  ['a redirect', status(302)],
  ['an error in a 200 that has its own status', () => Response.json({ error: { code: 400 } })],
  ['a deadline after text has begun', dripping(chunk('a')), { deadlineMs: 150 }],
  ['a size limit after text has begun', tooLong],
  ['a size limit before text has begun', () => new Response(' '.repeat(1_100_000))],
  ['a choice that did not come', ok, {}, { n: 2 }],
  ['a choice that did not come in a stream', () => streamAnswer(chunk('a'), DONE), {}, { n: 2 }],
  ['an answer without text', () => streamAnswer('data: {"choices":[]}\n\n', DONE)],
])('answer() does not open the breaker for %s', async (_, answers, setting, fields) => {
  const app = start({ a: { answers, retries: 0, ...setting } }, { now: Date.now })
  const codes = new Set<string | null>()
  for (let i = 0; i < 12; i++) codes.add((await app.run(fields)).code)
  expect(app.calls).toHaveLength(12)
  expect(codes.size).toBe(1)
  expect(codes).not.toContain(null)
})

test.each<[string, Answering, Partial<UpstreamSetting>?]>([
  ...[500, 502, 503, 504, 529].map((code): [string, Answering] => [`a ${code}`, status(code)]),
  [
    'a broken connection',
    () => {
      throw new Error('Network connection lost.')
    },
  ],
  ['HTML', () => new Response('<html>')],
  ['an empty body', () => new Response('')],
  ['a cut-off answer', () => new Response('{"ch')],
  ['a stream that ends before any text', () => streamAnswer('data: {"choices":[]}\n\n')],
  ['a stream cut after text', () => streamAnswer(chunk('a'))],
  ['an error event without a status', () => streamAnswer(chunk('a'), 'data: {"error":"gone"}\n\n')],
  ['a 200 that names a 5xx', () => Response.json({ error: { code: 503 } })],
  ['silence before the first byte', never, { firstByteMs: 5 }],
  ['silence after text', () => openedWith(chunk('a')), { idleMs: 5 }],
  ['a deadline before any text', dripping(':\n\n'), { deadlineMs: 20 }],
])('answer() opens the breaker after ten times %s', async (_, answers, setting) => {
  const app = start({ a: { answers, retries: 0, ...setting } }, { now: Date.now })
  for (let i = 0; i < 10; i++) expect((await app.run()).code).not.toBeNull()
  expect(app.calls).toHaveLength(10)
  expect((await app.run()).code).toBe('upstream_unavailable')
  expect(app.calls).toHaveLength(10)
})

const openedWith = (text: string): Response => {
  const upstream = openStream()
  upstream.push(text)
  return upstream.response()
}

test('answer() reports when to retry while the breaker is open', async () => {
  const app = start({ a: { answers: status(500), retries: 0 } })
  for (let i = 0; i < 10; i++) await app.run()
  const seconds: (number | null)[] = []
  for (const ms of [0, 100, 6900, 7999]) {
    app.clock.ms += ms
    const { error } = await app.run()
    seconds.push(error instanceof GatewayError ? error.retryAfterSeconds : null)
  }
  expect(seconds).toEqual([15, 15, 8, 1])
  expect(app.trace.attempts).toBe(10)
})

test('answer() reports the earliest time when all breakers of a route are open', async () => {
  const app = start({
    a: { answers: status(500), retries: 0 },
    b: { answers: status(500), retries: 0 },
  })
  const only = (upstream: string) => ({ route: [{ upstream, upstream_model: `${upstream}-1` }] })
  for (let i = 0; i < 10; i++) await app.run(only('a'))
  app.clock.ms += 5000
  for (let i = 0; i < 10; i++) await app.run(only('b'))
  const { error } = await app.run()
  expect(error).toMatchObject({ code: 'upstream_unavailable', retryAfterSeconds: 10 })
  expect(app.calls).toHaveLength(20)
})

test("answer() does not count one model's failures against other models of the same upstream", async () => {
  const app = start({
    a: {
      answers: async (_, request) => {
        const { model } = (await request.json()) as { model: string }
        return model === 'gone' ? new Response('', { status: 500 }) : jsonAnswer('Hello')
      },
      retries: 0,
    },
  })
  const ask = (upstream_model: string) => app.run({ route: [{ upstream: 'a', upstream_model }] })
  for (let i = 0; i < 12; i++) await ask('gone')
  expect(app.calls).toHaveLength(10)
  expect((await ask('good')).texts).toEqual(['Hello'])
})

test('answer() resets the failure count on a refusal, because it shows that the upstream works', async () => {
  const app = start({
    a: { answers: (call) => new Response('', { status: call % 10 === 9 ? 400 : 500 }), retries: 0 },
  })
  for (let i = 0; i < 40; i++) await app.run()
  expect(app.calls).toHaveLength(40)
})

test("answer() closes the breaker when the trial's text begins", async () => {
  let broken = true
  const upstream = openStream()
  const app = start({
    a: {
      answers: (call) => {
        if (broken) return new Response('', { status: 500 })
        return call === 10 ? upstream.response() : jsonAnswer('Hello')
      },
      retries: 0,
    },
  })
  for (let i = 0; i < 10; i++) await app.run()
  broken = false
  app.clock.ms += 15_000
  const trial = app.ask()
  upstream.push(chunk('slow'))
  await trial.next()
  expect((await app.run()).texts).toEqual(['Hello'])
  await trial.return(undefined)
})

test("answer() does not count a visitor's disconnect as a failure", async () => {
  const app = start({
    a: { answers: (call) => (call < 30 ? new Promise(() => {}) : jsonAnswer('Hello')), retries: 0 },
  })
  for (let i = 0; i < 30; i++) {
    const visitor = new AbortController()
    const { run } = start({}, { ...app.context, signal: visitor.signal })
    const running = run({ route: [{ upstream: 'a', upstream_model: 'a-1' }] })
    await until(() => app.calls.length > i)
    visitor.abort(new Error('left'))
    await running
  }
  expect((await app.run()).texts).toEqual(['Hello'])
})

test('answer() leaves a half-open breaker to the next visitor after a disconnect', async () => {
  let broken = true
  const app = start({
    a: {
      answers: () => {
        if (broken) return new Response('', { status: 500 })
        return streamAnswer(chunk('a'), chunk('b'), chunk('c', 'stop'), DONE)
      },
      retries: 0,
    },
  })
  for (let i = 0; i < 10; i++) await app.run()
  broken = false
  app.clock.ms += 15_000
  const trial = app.ask()
  expect((await trial.next()).done).toBe(false)
  // A reader that is not reading: nothing is pending when its visitor disconnects.
  app.controller.abort(new Error('left'))
  await trial.return(undefined)
  const next = start({}, { ...app.context, signal: new AbortController().signal })
  const got = next.run({ route: [{ upstream: 'a', upstream_model: 'a-1' }] })
  expect((await got).texts).toEqual(['abc'])
})

test('answer() calls a chat upstream once per choice: index = prompt_index * n + j, seed + j', async () => {
  const { run, calls, leases } = start({
    a: {
      wire: 'chat',
      answers: (_, request) => echoOf(request),
    },
  })
  const { texts } = await run({ prompts: ['p', 'q'], n: 3, seed: 7 })
  expect(calls).toHaveLength(6)
  expect(texts).toEqual(['p7', 'p8', 'p9', 'q7', 'q8', 'q9'])
  expectSettled(leases)
})

/** Answers each prompt with its own text and the seed, in the wire's shape. */
async function echoOf(request: Request): Promise<Response> {
  const body = (await request.json()) as {
    prompt?: string | string[]
    messages?: { content: string }[]
    seed?: number
    n?: number
  }
  const prompts = [body.prompt ?? body.messages?.at(-1)?.content ?? ''].flat()
  const texts = prompts.flatMap((prompt) =>
    Array.from({ length: body.n ?? 1 }, () => `${prompt}${body.seed ?? ''}`),
  )
  if (body.messages === undefined) return Response.json(upstreamBody(...texts))
  const choices = texts.map((content, index) => ({
    index,
    message: { role: 'assistant', content },
    finish_reason: 'stop',
  }))
  return Response.json({ ...upstreamBody(), choices })
}

test('answer() gives every choice its index, with or without n and prompt arrays upstream', async () => {
  const abilities = fc.subarray<Feature>(['n', 'prompt_array'])
  const prompts = fc.uniqueArray(fc.stringMatching(/^[a-z]{1,4}$/), { minLength: 1, maxLength: 4 })
  await fc.assert(
    fc.asyncProperty(abilities, prompts, fc.integer({ min: 1, max: 4 }), async (no, list, n) => {
      const { run } = start({ a: { unsupported: no, answers: (_, request) => echoOf(request) } })
      const { texts, code } = await run({ prompts: list, n })
      expect(code).toBeNull()
      expect(texts).toEqual(list.flatMap((prompt) => Array.from({ length: n }, () => prompt)))
    }),
    { numRuns: 60 },
  )
})

test('answer() asks a chat upstream that takes n once for all choices of a prompt', async () => {
  const { run, calls, leases } = start({
    a: { wire: 'chat', unsupported: [], answers: (_, request) => echoOf(request) },
  })
  const { texts } = await run({ prompts: ['p', 'q'], n: 3, seed: 7 })
  expect(texts).toEqual(['p7', 'p7', 'p7', 'q7', 'q7', 'q7'])
  expect(calls.map(({ body }) => [body['n'], body['seed']])).toEqual([
    [3, 7],
    [3, 7],
  ])
  // The prompt is paid once for each call, and every choice may be as long as allowed.
  expect(leases.map(({ extent }) => extent)).toEqual([
    { input: 1 + 64, output: 3 * 16 },
    { input: 1 + 64, output: 3 * 16 },
  ])
})

test('answer() adds the echo for an upstream without it, even to an empty text', async () => {
  const silent = emptyChat
  const { run } = start({
    a: { wire: 'chat', answers: (call) => (call === 0 ? chatOf('!') : silent()) },
  })
  const { texts } = await run({ prompts: ['p', 'q'], echo: true })
  expect(texts).toEqual(['p!', 'q'])
})

const chatOf = (content: string) =>
  Response.json({ choices: [{ index: 0, message: { content }, finish_reason: 'stop' }] })
const emptyChat = () => chatOf('')

test('answer() adds up the usage of several calls, and reports none if one is missing', async () => {
  const { run } = start({ a: { wire: 'chat', answers: (_, request) => echoOf(request) } })
  expect((await run({ n: 3 })).deltas.at(-1)).toMatchObject({
    usage: { prompt_tokens: 9, completion_tokens: 12, total_tokens: 21 },
  })
  const partly = start({
    a: { wire: 'chat', answers: (call, request) => (call === 1 ? chatOf('x') : echoOf(request)) },
  })
  expect((await partly.run({ n: 3 })).deltas.at(-1)).toMatchObject({ usage: null, whole: true })
})

test('answer() makes at most six calls at once', async () => {
  let atOnce = 0
  let most = 0
  const waiting: (() => void)[] = []
  const { run, calls } = start({
    a: {
      wire: 'chat',
      answers: async (_, request) => {
        atOnce += 1
        most = Math.max(most, atOnce)
        await new Promise<void>((resolve) => waiting.push(resolve))
        atOnce -= 1
        return await echoOf(request)
      },
    },
  })
  const running = run({ prompts: ['a', 'b', 'c', 'd'], n: 4 })
  for (let answeredCalls = 0; answeredCalls < 16; answeredCalls++) {
    await until(() => waiting.length > 0)
    for (let i = 0; i < 5; i++) await turn()
    expect(atOnce).toBe(Math.min(6, 16 - answeredCalls))
    waiting.shift()?.()
  }
  expect((await running).texts).toHaveLength(16)
  expect([calls.length, most]).toEqual([16, 6])
})

test('answer() aborts the other calls as soon as one fails', async () => {
  const { run, signals, leases, calls } = start({
    a: {
      wire: 'chat',
      retries: 0,
      answers: async (call, request) => {
        if (call === 1) {
          await until(() => signals.length === 3)
          return new Response('', { status: 400 })
        }
        return await never(call, request)
      },
    },
  })
  const got = await soon(run({ n: 3 }))
  expect(got).toMatchObject({ code: 'upstream_refused_request' })
  // The second call has ended, so there is nothing to abort.
  expect([signals[0]?.aborted, signals[2]?.aborted]).toEqual([true, true])
  expect(calls).toHaveLength(3)
  expectSettled(leases)
})

test('answer() cancels hanging bodies when another call fails', async () => {
  const bodies = [openStream(), openStream()]
  const app = start({
    a: {
      wire: 'chat',
      retries: 0,
      answers: (call) => bodies[call]?.response() ?? new Response(''),
    },
  })
  const asking = app.ask({ n: 2 })
  bodies[0]?.push('data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
  expect((await asking.next()).value).toMatchObject([{ kind: 'answered' }, { text: 'a' }])
  bodies[1]?.fail(new Error('reset'))
  const failing = asking.next().catch((error: unknown) => error)
  expect(await soon(failing)).toMatchObject({ code: 'upstream_unavailable' })
  expect(bodies[0]?.state.cancelled).toBe(1)
  expectSettled(app.leases)
})

test('answer() starts no further calls after a failure', async () => {
  const { run, calls } = start({ a: { wire: 'chat', retries: 0, answers: status(400) } })
  expect((await run({ prompts: ['a', 'b', 'c', 'd'], n: 4 })).code).toBe('upstream_refused_request')
  expect(calls.length).toBeLessThanOrEqual(7)
})

test('answer() reserves before each call and settles with its usage', async () => {
  const { run, leases } = start({ a: { answers: inTurn(status(500), ok) } })
  await run()
  expect(leases.map(({ accepted, settled }) => ({ accepted, settled }))).toEqual([
    { accepted: 0, settled: [{ usage: null, chars: 0 }] },
    {
      accepted: 1,
      settled: [{ usage: { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 }, chars: 5 }],
    },
  ])
  expect(leases[0]?.target).toEqual({ upstream: 'a', upstream_model: 'a-1' })
})

test('answer() settles an interrupted call with the text received so far and no usage', async () => {
  const { run, leases } = start({ a: { answers: () => new Response(chunk('Hel') + chunk('lo')) } })
  expect((await run()).code).toBe('upstream_truncated')
  expect(leases[0]?.settled).toEqual([{ usage: null, chars: 5 }])
})

test.each<[string, Partial<EffectiveRequest>, number, number]>([
  ['a byte a token of what was seen', {}, 0, 1000 - 6],
  ['the tokens of the time it took, if that is more', {}, 400, 1000 - 100],
  ['no less than nothing is left', {}, 1e6, 0],
  ['each choice in that time', { n: 2 }, 400, 2000 - 200],
])('answer() settles a stopped call with %s', async (_, fields, ms, unwritten) => {
  for (const abandon of ['stop', 'finish'] as const) {
    const body = openStream()
    body.push(chunk('Zoë') + chunk('a') + chunk('a'))
    const app = start({ a: { answers: () => body.response() } }, { abandon })
    const asking = app.ask({ max_tokens: 1000, ...fields })
    await asking.next()
    app.clock.ms += ms
    app.controller.abort(new Error('left'))
    await asking.return(undefined)
    expect(app.leases[0]?.settled).toEqual([
      { usage: null, chars: 5, unwritten: abandon === 'stop' ? unwritten : undefined },
    ])
  }
})

const seenTexts: [string, Wire, string, string][] = [
  [
    'reasoning_content',
    'chat',
    '{"delta":{"reasoning_content":"Zoë is a"}}',
    '{"delta":{"content":"a"}}',
  ],
  [
    'reasoning',
    'chat',
    '{"delta":{"content":"","reasoning":"Zoë is a"}}',
    '{"delta":{"content":"a"}}',
  ],
  [
    'parts of thinking',
    'chat',
    '{"delta":{"content":[{"thinking":[{"text":"Zoë is a"}]}]}}',
    '{"delta":{"content":"a"}}',
  ],
  [
    'the arguments of a tool',
    'chat',
    '{"delta":{"tool_calls":[{"function":{"arguments":"Zoë is a"}}]}}',
    '{"delta":{"content":"a"}}',
  ],
  ['reasoning of a choice', 'completions', '{"text":"","reasoning":"Zoë is a"}', '{"text":"a"}'],
]

const thinking = {
  type: 'content_block_delta',
  delta: { type: 'thinking_delta', thinking: 'Zoë is a' },
}
const written = { type: 'content_block_delta', delta: { type: 'text_delta', text: 'a' } }

test.each<[string, Wire, string, string]>([
  ...seenTexts.map(([name, wire, hidden, text]): [string, Wire, string, string] => [
    name,
    wire,
    `{"choices":[${hidden}]}`,
    `{"choices":[${text}]}`,
  ]),
  ['thinking', 'anthropic', JSON.stringify(thinking), JSON.stringify(written)],
])('answer() counts %s that a stopped call has sent (%s)', async (_, wire, hidden, text) => {
  const body = openStream()
  body.push(`data: ${hidden}\n\n`.repeat(10))
  body.push(`data: ${text}\n\n`)
  const app = start({ a: { answers: () => body.response(), wire } }, { abandon: 'stop' })
  const asking = app.ask({ max_tokens: 1000 })
  await asking.next()
  app.controller.abort(new Error('left'))
  await asking.return(undefined)
  expect(app.leases[0]?.settled).toEqual([{ usage: null, chars: 1, unwritten: 1000 - 91 }])
})

test('answer() that ends before its readers leave is not settled as a stopped call', async () => {
  const { run, leases } = start({ a: { answers: inTurn(ok) } }, { abandon: 'stop' })
  await run()
  expect(leases[0]?.settled[0]).toMatchObject({ usage: { total_tokens: 7 } })
  const torn = start({ a: { answers: () => new Response(chunk('Hel')) } }, { abandon: 'stop' })
  expect((await torn.run()).code).toBe('upstream_truncated')
  expect(torn.leases[0]?.settled).toEqual([{ usage: null, chars: 3 }])
})

test('answer() makes no call without a reservation, and does not fall back instead', async () => {
  const refused = new GatewayError('budget_exhausted', 'Cannot', { retryAfterSeconds: 60 })
  const { run, calls } = start(
    { a: { answers: ok, retries: 5 }, b: { answers: ok } },
    {
      reserve: async () => {
        throw refused
      },
    },
  )
  expect((await run()).error).toBe(refused)
  expect(calls).toEqual([])
})

test('answer() settles once, at any time of a disconnect', async () => {
  const leaving = new Error('left')
  for (const steps of [0, 1, 2, 3, 4]) {
    for (const pending of [false, true]) {
      const body = openStream()
      for (const text of ['a', 'b', 'c']) body.push(chunk(text))
      const app = start({ a: { answers: () => body.response(), retries: 5 }, b: { answers: ok } })
      const asking = app.ask()
      // Read piece by piece. A fourth read would never resolve.
      for (let i = 0; i < Math.min(steps, 3); i++) await asking.next()
      if (pending || steps === 4) {
        const next = asking.next()
        await turn()
        app.controller.abort(leaving)
        await next.catch(() => {})
      } else app.controller.abort(leaving)
      await asking.return(undefined)
      expectSettled(app.leases)
      expect(app.leases.length, `${steps} ${pending}`).toBeLessThanOrEqual(1)
      expect(app.asked()).toBe(app.calls.length === 0 ? '' : 'a')
      if (app.calls.length > 0) expect(body.state.cancelled).toBe(1)
      expect(app.events.filter(({ event }) => event === 'upstream_failed')).toEqual([])
    }
  }
})

test('answer() settles once when the visitor disconnects during the reservation', async () => {
  const reserving = Promise.withResolvers<void>()
  const settled: unknown[] = []
  const app = start(
    { a: { answers: ok } },
    {
      reserve: async () => {
        await reserving.promise
        return { accepted() {}, settle: (end) => void settled.push(end) }
      },
    },
  )
  const running = app.run()
  await turn()
  app.controller.abort(new Error('left'))
  reserving.resolve()
  await running
  expect(settled).toHaveLength(1)
  expect(app.calls).toEqual([])
})

test('answer() makes no call if the visitor has already disconnected', async () => {
  const app = start({ a: { answers: ok }, b: { answers: ok } })
  const reason = new Error('left')
  app.controller.abort(reason)
  expect((await app.run()).error).toBe(reason)
  expect(app.calls).toEqual([])
  expectSettled(app.leases)
})

test('answer() makes no further call when aborted during a pause', async () => {
  const app = start(
    { a: { answers: status(500) } },
    {
      wait: (_, signal) =>
        new Promise((_, reject) => {
          signal.addEventListener('abort', () => reject(signal.reason))
        }),
    },
  )
  const running = app.run()
  await until(() => app.events.length === 1)
  const reason = new Error('left')
  app.controller.abort(reason)
  expect((await running).error).toBe(reason)
  expect(app.calls).toHaveLength(1)
  expectSettled(app.leases)
})

test('answer() settles every lease exactly once for any sequence of answers', async () => {
  const answers: readonly Answering[] = [
    ok,
    status(500),
    status(429, { 'retry-after': '1' }),
    status(400),
    () => new Response('<html>'),
    () => new Response(chunk('x')),
    () => {
      throw new TypeError('fetch failed')
    },
    () => {
      const body = openStream()
      body.push('data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
      body.fail(new Error('reset'))
      return body.response()
    },
  ]
  const script = fc.array(fc.constantFrom(...answers), { minLength: 1, maxLength: 8 })
  await fc.assert(
    fc.asyncProperty(
      script,
      fc.integer({ min: 1, max: 3 }),
      fc.constantFrom<Wire>('chat', 'completions'),
      fc.option(fc.nat(3)),
      async (list, n, wire, leaveAfter) => {
        const app = start({
          a: { wire, answers: inTurn(...list) },
          b: { wire, answers: inTurn(...list) },
        })
        const asking = app.ask({ n })
        let error: unknown = null
        try {
          let count = 0
          for await (const _ of asking) {
            if (leaveAfter !== null && count++ >= leaveAfter) break
          }
        } catch (thrown) {
          error = thrown
        }
        await until(() => app.leases.every(({ settled }) => settled.length > 0))
        expectSettled(app.leases)
        expect(app.leases.length).toBe(app.calls.length)
        expect(error === null || error instanceof GatewayError).toBe(true)
        for (const { accepted } of app.leases) expect(accepted).toBeLessThanOrEqual(1)
      },
    ),
    { numRuns: 80 },
  )
})

test('answer() reports the reason to the owner as codes, without upstream text', async () => {
  const { run, events } = start({
    a: {
      answers: () =>
        Response.json(
          { error: { message: `Incorrect API key: ${CANARY}`, code: 'invalid_api_key' } },
          { status: 401, headers: { 'openai-organization': 'org-1' } },
        ),
    },
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
      hint: expect.stringContaining('key'),
      will: 'give_up',
    },
  ])
})

test("answer() passes on the upstream's id only if it looks like one", async () => {
  const ids: unknown[] = []
  for (const id of ['cmpl-9', `sk ${'x'.repeat(9)}`, 'x'.repeat(129), 5]) {
    const answers: Answering = () => Response.json({ ...upstreamBody('a'), id })
    const [answered] = (await start({ a: { answers } }).run()).deltas
    ids.push(answered?.kind === 'answered' ? answered.upstreamId : 'none')
  }
  expect(ids).toEqual(['cmpl-9', null, null, null])
})

test.each([
  ['always', false, true],
  ['always', true, true],
  ['visitor', false, undefined],
  ['visitor', true, true],
] as const)(
  'answer() with stream = "%s" and stream: %j requested sends stream: %j',
  async (stream, asked, sent) => {
    const { run, calls } = start({ a: { answers: ok, stream } }, { stream: asked })
    await run()
    expect(calls[0]?.body['stream']).toBe(sent)
  },
)

test('answer() does not stream with best_of', async () => {
  const { run, calls } = start({ a: { answers: ok } })
  await run({ best_of: 2 })
  expect(calls[0]?.body).toMatchObject({ best_of: 2 })
  expect(calls[0]?.body).not.toHaveProperty('stream')
})

test('capableTargets() drops targets without a feature, keeps the order, and names the field if none is left', () => {
  const app = start({
    a: { wire: 'chat', answers: ok },
    b: { answers: ok },
    c: { wire: 'chat', answers: ok },
  })
  const { connections } = app.context
  const names = (fields: Partial<EffectiveRequest>) =>
    capableTargets(app.request(fields), connections).map(({ upstream }) => upstream)
  expect(names({})).toEqual(['a', 'b', 'c'])
  expect(names({ suffix: 'x' })).toEqual(['b'])
  expect(names({ prompts: [[1, 2]] })).toEqual(['b'])
  const chat = start({ a: { wire: 'chat', answers: ok } })
  for (const [fields, param] of [
    [{ suffix: 'x' }, 'suffix'],
    [{ best_of: 2 }, 'best_of'],
    [{ prompts: [[1]] }, 'prompt'],
    [{ echo: true, logprobs: 1 }, 'echo'],
  ] as const) {
    expect(() => capableTargets(chat.request(fields), chat.context.connections)).toThrow(
      expect.objectContaining({ code: 'unsupported_by_upstream', param }),
    )
  }
})

/** Reads as generate.ts does: it does not read on after the end. */
async function readToTheEnd(app: ReturnType<typeof start>): Promise<void> {
  for await (const batch of app.ask()) {
    if (batch.some(({ kind }) => kind === 'ended')) return
  }
}

test('answer() counts a success at the end, even if its reader does not read on', async () => {
  const app = start({ a: { answers: inTurn(...alternating(20)), retries: 0 } })
  for (let i = 0; i < 20; i++) await readToTheEnd(app).catch(() => {})
  expect(app.calls).toHaveLength(20)
})

/** Alternates failures and answers, so that there are never ten failures in a row. */
const alternating = (n: number): Answering[] =>
  Array.from({ length: n }, (_, i) => (i % 2 === 0 ? status(500) : ok))

test('answer() closes the breaker after a successful trial, even if its reader does not read on', async () => {
  let broken = true
  const app = start({
    a: { answers: () => (broken ? status(500) : ok)(0, anyRequest), retries: 0 },
  })
  for (let i = 0; i < 10; i++) await app.run()
  broken = false
  app.clock.ms += 15_000
  await readToTheEnd(app)
  await Promise.all([readToTheEnd(app), readToTheEnd(app)])
  expect(app.calls).toHaveLength(13)
})

const anyRequest = new Request('https://x.test')

test('answer() keeps the breaker closed to others while a trial runs, even when an older call ends', async () => {
  const hung = Promise.withResolvers<Response>()
  const trial = Promise.withResolvers<Response>()
  const app = start({
    a: {
      answers: (call) => {
        if (call === 0) return hung.promise
        return call <= 10 ? new Response('', { status: 500 }) : trial.promise
      },
      retries: 0,
    },
  })
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
  const { run, calls, waits, events } = start({ a: { answers: status(500), retries: 20 } })
  expect((await run()).code).toBe('upstream_unavailable')
  expect([calls.length, waits.length]).toEqual([10, 9])
  expect(events.at(-1)).toMatchObject({ will: 'give_up' })
})

test.each([
  ['1', 1125],
  ['2', 2125],
])('answer() waits for the Retry-After: %s of a 503', async (header, waited) => {
  const { run, waits } = start({
    a: { answers: inTurn(status(503, { 'retry-after': header }), ok) },
  })
  expect((await run()).texts).toEqual(['Hello'])
  expect(waits).toEqual([waited])
})

test.each(['3', '86400', new Date(START + 60_000).toUTCString()])(
  'answer() does not retry a 503 with Retry-After: %s',
  async (header) => {
    const answers = status(503, { 'retry-after': header })
    const { run, asked, waits, events } = start({ a: { answers, retries: 5 }, b: { answers: ok } })
    expect((await run()).texts).toEqual(['Hello'])
    expect([asked(), waits]).toEqual(['a b', []])
    expect(events[0]).toMatchObject({ code: 'upstream_unavailable', will: 'fall_back' })
  },
)

test('answer() gives a fallback its own deadline, within the deadline of the request', async () => {
  const app = start({
    a: { answers: status(500), retries: 0, deadlineMs: 60_000 },
    b: { answers: never, retries: 0, deadlineMs: 10 },
    c: { answers: ok },
  })
  // The watchdog's timer is real, but the clock stands still.
  const running = app.run()
  await until(() => app.asked() === 'a b')
  app.clock.ms += 20
  expect((await running).texts).toEqual(['Hello'])
  expect(app.events.map((event) => 'code' in event && event.code)).toEqual([
    'upstream_unavailable',
    'upstream_timeout',
  ])
})

test('answer() reports the last upstream called, not the one refused by the budget', async () => {
  let granted = 0
  const app = start(
    { a: { answers: status(500), retries: 0 }, b: { answers: ok } },
    {
      reserve: async () => {
        granted += 1
        if (granted > 1) throw new GatewayError('budget_exhausted', 'Cannot')
        return { accepted() {}, settle() {} }
      },
    },
  )
  expect((await app.run()).code).toBe('budget_exhausted')
  expect(app.trace).toEqual({ attempts: 1, upstream: 'a' })
})

const unsupported = (field: string, instead: string) => ({
  error: {
    message: `Unsupported parameter: '${field}' is not supported with this model. Use '${instead}' instead.`,
    type: 'invalid_request_error',
    param: field,
    code: 'unsupported_parameter',
  },
})

/** Accepts the token limit only as `field`. */
const accepting =
  (field: 'max_tokens' | 'max_completion_tokens'): Answering =>
  async (_, request) => {
    const body = (await request.json()) as object
    const other = field === 'max_tokens' ? 'max_completion_tokens' : 'max_tokens'
    if (field in body) return jsonAnswer('Hello')
    return Response.json(unsupported(other, field), { status: 400 })
  }

test('answer() learns the name of the token limit from a refusal, per upstream and model', async () => {
  const app = start({ a: { answers: accepting('max_completion_tokens'), retries: 0 } })
  expect((await app.run()).texts).toEqual(['Hello'])
  expect(app.calls.map(({ body }) => Object.keys(body).filter((key) => /^max_/.test(key)))).toEqual(
    [['max_tokens'], ['max_completion_tokens']],
  )
  expect(app.trace.attempts).toBe(2)
  expect(app.waits).toEqual([])
  expect(app.events).toMatchObject([
    { code: 'upstream_refused_request', reason: 'unsupported_parameter', will: 'retry' },
  ])
  // The refused call is settled with no cost.
  expect(app.leases.map(({ accepted, settled }) => [accepted, settled[0]?.chars])).toEqual([
    [0, 0],
    [1, 5],
  ])
  expect(app.leases[0]?.settled).toEqual([{ usage: null, chars: 0 }])
  expect((await app.run()).texts).toEqual(['Hello'])
  expect(app.calls).toHaveLength(3)
  await app.run({ route: [{ upstream: 'a', upstream_model: 'another' }] })
  expect(app.calls).toHaveLength(5)
})

test('answer() also learns it for a reader that does not read on after the end', async () => {
  const app = start({ a: { answers: accepting('max_completion_tokens'), retries: 0 } })
  await readToTheEnd(app)
  await readToTheEnd(app)
  expect(app.calls).toHaveLength(3)
})

test('answer() renames the token limit in all calls of a request', async () => {
  const app = start({
    a: {
      wire: 'chat',
      retries: 0,
      answers: async (_, request) => {
        const body = (await request.clone().json()) as object
        if ('max_completion_tokens' in body) return await echoOf(request)
        return Response.json(unsupported('max_tokens', 'max_completion_tokens'), { status: 400 })
      },
    },
  })
  expect((await app.run({ prompts: ['p', 'q'], n: 2 })).texts).toEqual(['p', 'p', 'q', 'q'])
  expect(app.trace.attempts).toBe(2)
  expectSettled(app.leases)
})

test('answer() does not loop when both names are refused, and learns nothing', async () => {
  let open = false
  const app = start({
    a: {
      retries: 5,
      answers: async (call, request) => {
        if (open) return await accepting('max_tokens')(call, request)
        const body = (await request.json()) as object
        const [used, other] =
          'max_tokens' in body
            ? ['max_tokens', 'max_completion_tokens']
            : ['max_completion_tokens', 'max_tokens']
        return Response.json(unsupported(used, other), { status: 400 })
      },
    },
    b: { answers: ok },
  })
  expect((await app.run()).code).toBe('upstream_refused_request')
  expect(app.asked()).toBe('a a')
  expect(app.events.map((event) => 'will' in event && event.will)).toEqual(['retry', 'give_up'])
  expectSettled(app.leases)
  open = true
  await app.run()
  expect(app.calls).toHaveLength(3)
})

test('answer() does not retry a refusal that asks for the name already sent', async () => {
  const refused = () =>
    Response.json(unsupported('max_completion_tokens', 'max_tokens'), { status: 400 })
  const { run, calls } = start({ a: { answers: refused } })
  expect((await run()).code).toBe('upstream_refused_request')
  expect(calls).toHaveLength(1)
})
