// A request's route over real sockets: which upstreams are called, in which order, how often and
// for how long, what the visitor gets, and the log line of each attempt. The Worker's clock can be
// moved forward, so that no test waits for a breaker.
import { beforeAll, describe, expect, test } from 'vitest'
import type { Code } from '../../src/errors.ts'
import { completionOf, expectProblem, requestEvent, streamOf } from '../support/answers.ts'
import type { Client, Reply } from '../support/client.ts'
import { ORIGIN } from '../support/client.ts'
import {
  chatStream,
  completionsStream,
  event,
  json,
  type Lane,
  refusal,
  type Script,
} from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { JsonValue, Workers } from '../support/workerd.ts'

type Table = Readonly<Record<string, JsonValue>>

/** Settings of a model's two upstreams; the second one is the fallback. */
const kinds: Readonly<Record<string, readonly [Table, Table]>> = {
  once: [{ retries: 0 }, { retries: 0 }],
  twice: [{ retries: 1 }, { retries: 0 }],
  legacy: [
    { retries: 0, wire: 'completions' },
    { retries: 0, wire: 'completions' },
  ],
  impatient: [{ retries: 0, first_byte_ms: 150 }, { retries: 0 }],
  dated: [
    { retries: 5, first_byte_ms: 400, deadline_ms: 700 },
    { retries: 5, first_byte_ms: 30_000, deadline_ms: 60_000 },
  ],
  modern: [{ retries: 0, max_tokens_field: 'max_completion_tokens' }, { retries: 0 }],
  refused: [{ retries: 0, base_url: 'http://127.0.0.1:1/v1' }, { retries: 0 }],
}
const EACH = 40

const suite = workerSuite()
let workers: Workers
let client: Client
const taken = new Map<string, number>()

/** The Worker with a clock that can be moved forward, and a keep-alive that looks at it often. */
const main = `
  import worker from './worker.js'
  export * from './worker.js'
  let ahead = 0
  const { now } = Date
  Date.now = () => now() + ahead
  const later = globalThis.setTimeout
  globalThis.setTimeout = (run, ms, ...rest) => later(run, ms > 10_000 && ms <= 15_000 ? 100 : ms, ...rest)
  export default {
    ...worker,
    fetch(request, ...rest) {
      const { pathname, search } = new URL(request.url)
      if (pathname !== '/put-forward') return worker.fetch(request, ...rest)
      ahead += Number(search.slice(1))
      return new Response()
    },
  }
`

beforeAll(async () => {
  const names = Object.keys(kinds).flatMap((kind) =>
    Array.from({ length: EACH }, (_, i) => [kind, `${kind}-${i}`] as const),
  )
  const config = {
    origins: [ORIGIN],
    models: names.map(([, id]) => ({
      id,
      upstream: `${id}-a`,
      upstream_model: 'm-a',
      fallbacks: [{ upstream: `${id}-b`, upstream_model: 'm-b' }],
    })),
    upstreams: names.flatMap(([kind, id]) =>
      (['a', 'b'] as const).map((which, i) => ({
        name: `${id}-${which}`,
        base_url: suite.upstream.url(`${id}-${which}`),
        key: 'UPSTREAM_API_KEY',
        ...kinds[kind]?.[i],
      })),
    ),
    budget: { tokens_per_day: 1e9, tokens_per_visitor_per_day: 1e9, streams_per_visitor: 1000 },
  }
  workers = await suite.share({ config, main })
  client = workers.client()
})

const putForward = (ms: number) => client.send({ path: `/put-forward?${ms}` })

interface OwnRoute {
  readonly model: string
  readonly a: Lane
  readonly b: Lane
}

/** A model that no other test uses, with two upstreams. */
function take(kind: keyof typeof kinds): OwnRoute {
  const i = taken.get(kind) ?? 0
  if (i >= EACH) throw new Error(`no more models of kind "${kind}": raise EACH`)
  taken.set(kind, i + 1)
  const model = `${kind}-${i}`
  return { model, a: suite.upstream.lane(`${model}-a`), b: suite.upstream.lane(`${model}-b`) }
}

let prompts = 0

/** Requests a new prompt each time, so that nothing comes from the cache. */
function ask(model: string, stream = false, more = {}): Promise<Reply> {
  prompts += 1
  return client.complete({ prompt: `tale ${prompts}`, model, stream, max_tokens: 9, ...more })
}

/** The log events of one request's attempts, in order. */
async function attemptsOf(reply: Reply) {
  const { attempts, upstream: last } = await requestEvent(reply, workers.log)
  const failed = workers.log.all('upstream_failed', String(reply.headers['x-request-id']))
  return { attempts, last, failed: failed.map(({ upstream: name, will }) => `${name} ${will}`) }
}

const good = (model: string) => chatStream(['fi', 'ne'], { model })
const ways = [
  ['JSON', false],
  ['a stream', true],
] as const

/** The answer's text and model, in either shape. */
function answerOf(reply: Reply, stream: boolean): [string, string | undefined] {
  if (!stream) {
    const { choices, model } = completionOf(reply)
    return [choices[0]?.text ?? '', model]
  }
  const read = streamOf(reply)
  expect(read).toMatchObject({ done: true, problem: null })
  return [read.text(), read.chunks[0]?.model]
}

const never: Script = () => {}

describe.each(ways)('%s from the second upstream', (_, stream) => {
  test.each<[string, keyof typeof kinds, Code, Script]>([
    ['is refused a connection', 'refused', 'upstream_unavailable', never],
    ['resets', 'once', 'upstream_unavailable', (_call, line) => line.reset()],
    ['hangs', 'impatient', 'upstream_timeout', never],
    ['says 401', 'once', 'upstream_rejected', refusal(401)],
    ['says 403', 'once', 'upstream_rejected', refusal(403)],
    ['says 404', 'once', 'upstream_rejected', refusal(404)],
    ['returns 307', 'once', 'upstream_rejected', refusal(307, {}, { location: '/x' })],
    ['returns 429', 'once', 'upstream_rate_limited', refusal(429, {}, { 'retry-after': '60' })],
    ['says 500', 'once', 'upstream_unavailable', refusal(500)],
    ['says 503', 'once', 'upstream_unavailable', refusal(503)],
    ['says nothing', 'once', 'upstream_bad_response', json('')],
    [
      'returns 200 with an error',
      'once',
      'upstream_bad_response',
      json({ error: { message: 'no' } }),
    ],
    [
      'is cut off before any text',
      'once',
      'upstream_truncated',
      (_call, line) => {
        line.head(200, { 'content-type': 'application/json' })
        line.write('{"choices":[{"index":0,"mess')
        line.end()
      },
    ],
  ])('is used when the first %s', async (_name, kind, code, script) => {
    const { model, a, b } = take(kind)
    a.answers(script)
    b.answers(good('m-b-0001'))
    const reply = await ask(model, stream)
    expect(answerOf(reply, stream)).toEqual(['fine', 'm-b-0001'])
    expect([a.calls.length, b.calls.length]).toEqual([kind === 'refused' ? 0 : 1, 1])
    expect(b.calls[0]?.body['model']).toBe('m-b')
    expect(await attemptsOf(reply)).toEqual({
      attempts: 2,
      last: `${model}-b`,
      failed: [`${model}-a fall_back`],
    })
    const id = String(reply.headers['x-request-id'])
    expect(workers.log.all('upstream_failed', id)[0]).toMatchObject({ code })
    const generated = await workers.log.find((e) => e.event === 'generated' && e.request_id === id)
    expect(generated).toMatchObject({ upstream: `${model}-b`, upstream_id: 'upstream-id-1' })
    await Promise.all(a.calls.map(({ closed }) => closed))
  })

  test.each([[400], [413], [422]])(
    'is not used when the first refused the request with %i',
    async (status) => {
      const { model, a, b } = take('twice')
      a.answers(refusal(status))
      b.answers(good('m-b'))
      const reply = await ask(model, stream)
      await expectProblem(reply, 400, 'upstream_refused_request', workers.log)
      expect([a.calls.length, b.calls.length]).toEqual([1, 0])
      expect((await attemptsOf(reply)).failed).toEqual([`${model}-a give_up`])
    },
  )

  test('fails with the error of the second when both fail', async () => {
    const { model, a, b } = take('twice')
    a.answers(refusal(500))
    b.answers(refusal(429, {}, { 'retry-after': '33' }))
    const reply = await ask(model, stream)
    await expectProblem(reply, 429, 'upstream_rate_limited', workers.log)
    expect(reply.headers['retry-after']).toBe('33')
    expect(await attemptsOf(reply)).toEqual({
      attempts: 3,
      last: `${model}-b`,
      failed: [`${model}-a retry`, `${model}-a fall_back`, `${model}-b give_up`],
    })
  })
})

test('an answer that has begun is not continued by a fallback', async () => {
  const { model, a, b } = take('twice')
  a.answers((_, line) => {
    line.head(200, { 'content-type': 'text/event-stream' })
    line.write(event({ choices: [{ index: 0, delta: { content: 'one' } }] }))
    line.end()
  })
  b.answers(good('m-b'))
  const reply = await ask(model, true)
  const stream = streamOf(reply)
  expect([stream.text(), stream.problem?.code]).toEqual(['one', 'upstream_truncated'])
  expect([a.calls.length, b.calls.length]).toEqual([1, 0])
  expect((await attemptsOf(reply)).failed).toEqual([`${model}-a give_up`])
})

test("a fallback's answer is cached for five minutes only", async () => {
  const { model, a, b } = take('once')
  a.answers(refusal(500))
  b.answers(good('m-b'))
  const body = { prompt: 'kept', model }
  completionOf(await client.complete(body))
  const hit = await client.complete(body)
  const [, ttl] = /hit; ttl=(\d+)/.exec(String(hit.headers['cache-status'])) ?? []
  expect(Number(ttl)).toBeGreaterThan(200)
  expect(Number(ttl)).toBeLessThanOrEqual(300)
  expect(b.calls).toHaveLength(1)
})

/** Scripts that measure the time between the first two calls. */
function measured(...scripts: readonly Script[]): [readonly Script[], () => number] {
  const at: number[] = []
  const noted = scripts.map<Script>((script) => (call, line) => {
    at.push(performance.now())
    return script(call, line)
  })
  return [noted, () => (at[1] ?? Number.NaN) - (at[0] ?? Number.NaN)]
}

describe('the same upstream is called again', () => {
  test.each<[string, Script, number, number]>([
    ['after a short pause when it failed', refusal(500), 120, 1500],
    ['after a reset', (_call, line) => line.reset(), 120, 1500],
    ['after Retry-After', refusal(429, {}, { 'retry-after': '1' }), 990, 3000],
    ['after Retry-After of a 503', refusal(503, {}, { 'retry-after': '1' }), 990, 3000],
    ['after a second when Retry-After is 0', refusal(429, {}, { 'retry-after': '0' }), 990, 3000],
  ])('%s', async (_, script, atLeastMs, atMostMs) => {
    const { model, a, b } = take('twice')
    const [scripts, betweenMs] = measured(script, good('m-a'))
    a.answers(...scripts)
    const reply = await ask(model)
    expect(answerOf(reply, false)).toEqual(['fine', 'm-a'])
    expect(betweenMs()).toBeGreaterThanOrEqual(atLeastMs)
    expect(betweenMs()).toBeLessThanOrEqual(atMostMs)
    expect(b.calls).toEqual([])
    expect(await attemptsOf(reply)).toEqual({
      attempts: 2,
      last: `${model}-a`,
      failed: [`${model}-a retry`],
    })
  })

  test.each([
    [429, '3'],
    [429, '3600'],
    [503, '3'],
    [503, '86400'],
  ])('not when a %i has Retry-After: %s; the fallback is called', async (status, after) => {
    const { model, a, b } = take('twice')
    a.answers(refusal(status, {}, { 'retry-after': after }))
    b.answers(good('m-b'))
    const reply = await ask(model)
    expect(answerOf(reply, false)).toEqual(['fine', 'm-b'])
    expect([a.calls.length, b.calls.length]).toEqual([1, 1])
  })
})

test('one deadline covers all attempts', async () => {
  const { model, a, b } = take('dated')
  a.answers(never)
  b.answers(never)
  const startedAt = performance.now()
  const reply = await ask(model)
  const tookMs = performance.now() - startedAt
  await expectProblem(reply, 504, 'upstream_timeout', workers.log)
  expect([a.calls.length, b.calls.length]).toEqual([1, 1])
  // 400 ms for the first byte of the first upstream, the rest of 700 ms for the second.
  expect(tookMs).toBeGreaterThanOrEqual(690)
  expect(tookMs).toBeLessThan(3000)
  for (const { closed } of [...a.calls, ...b.calls]) await closed
  expect([a.calls[0]?.left, b.calls[0]?.left]).toEqual([true, true])
  expect((await attemptsOf(reply)).failed).toEqual([`${model}-a fall_back`, `${model}-b give_up`])
})

describe('an upstream that keeps failing', () => {
  test('is skipped for a while, then tried with one request', async () => {
    const { model, a, b } = take('once')
    a.answers(refusal(500))
    b.answers(good('m-b'))
    for (let i = 0; i < 10; i++) await ask(model)
    expect(a.calls).toHaveLength(10)
    const passed = await ask(model)
    expect(answerOf(passed, false)).toEqual(['fine', 'm-b'])
    expect(await attemptsOf(passed)).toEqual({ attempts: 1, last: `${model}-b`, failed: [] })
    expect(a.calls).toHaveLength(10)

    // Half open and still failing: one try, then open again.
    await putForward(15_001)
    await ask(model)
    await ask(model)
    expect(a.calls).toHaveLength(11)

    // Half open, with many requests: one of them is the trial.
    await putForward(15_001)
    let answerTrial = () => {}
    const trialAnswered = new Promise<void>((resolve) => {
      answerTrial = resolve
    })
    a.answers(async (call, line) => {
      await trialAnswered
      await good('m-a')(call, line)
    })
    const trial = ask(model)
    await a.call(12)
    const others = await Promise.all([ask(model), ask(model), ask(model)])
    expect(others.map((reply) => answerOf(reply, false)[1])).toEqual(['m-b', 'm-b', 'm-b'])
    expect(a.calls).toHaveLength(12)
    answerTrial()
    expect(answerOf(await trial, false)).toEqual(['fine', 'm-a'])

    // The trial succeeded: it is called for all requests again.
    const again = await Promise.all([ask(model), ask(model)])
    expect(again.map((reply) => answerOf(reply, false)[1])).toEqual(['m-a', 'm-a'])
    expect(a.calls).toHaveLength(14)
  })

  test('is not skipped because of requests that were invalid themselves', async () => {
    const { model, a } = take('once')
    a.answers(refusal(400))
    for (let i = 0; i < 12; i++) await ask(model)
    expect(a.calls).toHaveLength(12)
  })

  test('is not retried when its last failure opened the breaker, and the log does not announce a retry', async () => {
    const { model, a, b } = take('twice')
    a.answers(refusal(500))
    b.answers(good('m-b'))
    let last = await ask(model)
    for (let i = 0; i < 4; i++) last = await ask(model)
    expect(a.calls).toHaveLength(10)
    expect((await attemptsOf(last)).failed).toEqual([`${model}-a retry`, `${model}-a fall_back`])
  })
})

/** A server that accepts the token limit under one name only. */
function accepting(field: string, words: (refused: string) => object): Script {
  return (call, line) => {
    const refused = field === 'max_tokens' ? 'max_completion_tokens' : 'max_tokens'
    const script = refused in call.body ? refusal(400, words(refused)) : good('m-a')
    return script(call, line)
  }
}

describe('the name of the token limit', () => {
  const openai = (refused: string) => ({
    error: {
      message: `Unsupported parameter: '${refused}' is not supported with this model. Use 'max_completion_tokens' instead.`,
      type: 'invalid_request_error',
      param: refused,
      code: 'unsupported_parameter',
    },
  })
  const older = (refused: string) => ({
    error: {
      message: `Unrecognized request argument supplied: ${refused}`,
      type: 'invalid_request_error',
      param: null,
      code: null,
    },
  })

  test.each<
    [
      string,
      keyof typeof kinds,
      'max_tokens' | 'max_completion_tokens',
      (refused: string) => object,
    ]
  >([
    ['a reasoning model', 'once', 'max_completion_tokens', openai],
    ['an older server', 'modern', 'max_tokens', older],
  ])('is learned from the refusal of %s, once', async (_, kind, field, words) => {
    const { model, a, b } = take(kind)
    a.answers(accepting(field, words))
    const first = await ask(model, true)
    expect(answerOf(first, true)).toEqual(['fine', 'm-a'])
    expect(a.calls).toHaveLength(2)
    expect(a.calls[1]?.body[field]).toBe(9)
    expect(await attemptsOf(first)).toEqual({
      attempts: 2,
      last: `${model}-a`,
      failed: [`${model}-a retry`],
    })
    const [told] = workers.log.all('upstream_failed', String(first.headers['x-request-id']))
    expect(told?.hint).toContain(`max_tokens_field = "${field}"`)

    const second = await ask(model)
    expect(answerOf(second, false)).toEqual(['fine', 'm-a'])
    expect(a.calls).toHaveLength(3)
    expect(a.calls[2]?.body).not.toHaveProperty(
      field === 'max_tokens' ? 'max_completion_tokens' : 'max_tokens',
    )
    expect(await attemptsOf(second)).toMatchObject({ attempts: 1, failed: [] })
    expect(b.calls).toEqual([])
  })

  test('is tried both ways, and no more, if a server accepts neither', async () => {
    const { model, a, b } = take('twice')
    a.answers((call, line) => {
      const refused = 'max_tokens' in call.body ? 'max_tokens' : 'max_completion_tokens'
      return refusal(400, older(refused))(call, line)
    })
    const reply = await ask(model)
    await expectProblem(reply, 400, 'upstream_refused_request', workers.log)
    expect([a.calls.length, b.calls.length]).toEqual([2, 0])
    expect((await attemptsOf(reply)).failed).toEqual([`${model}-a retry`, `${model}-a give_up`])
  })

  test('is not changed when the value was too large', async () => {
    const { model, a } = take('once')
    const message = 'max_tokens is too large: 9. This model supports at most 8 completion tokens.'
    a.answers(refusal(400, { error: { message, param: 'max_tokens', code: null } }))
    await expectProblem(await ask(model), 400, 'upstream_refused_request', workers.log)
    expect(a.calls).toHaveLength(1)
  })
})

describe('a wrong wire', () => {
  const chatModel =
    'This is a chat model and not supported in the v1/completions endpoint. Did you mean to use v1/chat/completions?'
  const legacyModel =
    'This is not a chat model and thus not supported in the v1/chat/completions endpoint. Did you mean to use v1/completions?'

  test.each<[number, string, keyof typeof kinds, string, number, Code]>([
    [404, chatModel, 'legacy', 'wire = "chat"', 502, 'upstream_rejected'],
    [404, legacyModel, 'once', 'wire = "completions"', 502, 'upstream_rejected'],
    // The status does not matter: the visitor's request was valid.
    [400, chatModel, 'legacy', 'wire = "chat"', 502, 'upstream_rejected'],
    [400, legacyModel, 'once', 'wire = "completions"', 502, 'upstream_rejected'],
  ])(
    '%i "%s" gives the owner the setting to change',
    async (from, message, kind, hint, status, code) => {
      const { model, a, b } = take(kind)
      const body = { error: { message, type: 'invalid_request_error', param: 'model', code: null } }
      for (const lane of [a, b]) lane.answers(refusal(from, body))
      const reply = await ask(model)
      const problem = await expectProblem(reply, status, code, workers.log)
      expect(problem.message).not.toContain('chat model')
      const failed = workers.log.all('upstream_failed', String(reply.headers['x-request-id']))
      expect(failed.length).toBeGreaterThan(0)
      for (const one of failed) expect(one.hint).toContain(hint)
    },
  )
})

test('a silent stream is filled with bare comments', async () => {
  const { model, a } = take('legacy')
  let goOn = () => {}
  const silent = new Promise<void>((resolve) => {
    goOn = resolve
  })
  a.answers(completionsStream(['one', 'two'], { pace: () => silent }))
  const incoming = await client.open({
    method: 'POST',
    body: { prompt: 'quiet', model, stream: true },
  })
  await incoming.until('"text":"one"')
  await putForward(15_000)
  await incoming.until('\n\n:\n\n')
  goOn()
  const text = await incoming.rest()
  const reply = { status: incoming.status, headers: incoming.headers, text }
  expect(streamOf(reply)).toMatchObject({ done: true, problem: null })
  expect(streamOf(reply).text()).toBe('onetwo')
  expect(text.split('\n').filter((line) => line.startsWith(':'))).not.toContain(': ping')
  expect(text).toContain('\n\n:\n\n')
})

test('a disconnect during silence is noticed at the next comment', async () => {
  // workerd reports it only when something is written: neither cancel() nor the request's signal
  // comes earlier. In production the upstream is held for up to 15 s more, or its idle_ms.
  const { model, a } = take('legacy')
  a.answers(async (call, line) => {
    line.head(200, { 'content-type': 'text/event-stream' })
    line.write(event({ choices: [{ index: 0, text: 'one' }] }))
    await call.closed
  })
  const incoming = await client.open({
    method: 'POST',
    body: { prompt: 'left', model, stream: true },
    headers: { 'cache-control': 'no-store' },
  })
  await incoming.until('"text":"one"')
  incoming.leave()
  const call = await a.call()
  await putForward(15_000)
  await call.closed
  expect(call.left).toBe(true)
  const id = String(incoming.headers['x-request-id'])
  expect(await workers.log.request(id)).toMatchObject({ status: 499, code: null, attempts: 1 })
  expect(workers.log.all('upstream_failed', id)).toEqual([])
})
