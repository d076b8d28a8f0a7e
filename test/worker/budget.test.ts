// The daily budget in workerd: in every case, no more is requested from upstreams than the budget
// allows, and hits are still served.
import { describe, expect, test } from 'vitest'
import { completionOf, expectProblem, requestEvent, streamOf } from '../support/answers.ts'
import { newAddress, type Reply } from '../support/client.ts'
import type { Figures, RiggedWorkers } from '../support/rig.ts'
import { requestOf, shapes } from '../support/shapes.ts'
import {
  chatStream,
  completionsStream,
  event,
  json,
  type Lane,
  latch,
  refusal,
  type Script,
  USAGE,
} from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { JsonValue } from '../support/workerd.ts'

const DAY_MS = 86_400_000
/** What a prompt of ten bytes reserves: 10 + 64 + 26. */
const RESERVED = 100
const MAX_TOKENS = 26
const CHAT = '/v1/chat/completions'

const suite = workerSuite()

type Table = Readonly<Record<string, JsonValue>>

interface Shop {
  readonly workers: RiggedWorkers
  readonly lane: Lane
  ask(prompt: string, more?: Table, headers?: Readonly<Record<string, string>>): Promise<Reply>
  budget(): Promise<Figures['budget']>
  /** The budget once no call is running. */
  settled(): Promise<Figures['budget']>
}

/** A Worker with an upstream of its own. */
async function open(
  budget: Table,
  {
    wire = 'completions',
    script = completionsStream(['fine']),
    secrets = {} as Record<string, string>,
  } = {},
): Promise<Shop> {
  const name = `budget-${suite.next()}`
  const config = suite.config(
    name,
    {
      models: [
        { id: 'm', upstream: 'u', upstream_model: 'm', price: { input: 1000, output: 1000 } },
      ],
      defaults: { max_tokens: MAX_TOKENS },
      limits: { max_tokens: 100_000 },
      budget: { tokens_per_visitor_per_day: 1e9, streams_per_visitor: 1000, ...budget },
    },
    { wire },
  )
  const workers = await suite.startRigged({ config, secrets })
  const lane = suite.upstream.lane(name).answers(script)
  const budgetNow = async () => (await workers.rig.figures()).budget
  return {
    workers,
    lane,
    ask: (prompt, body = {}, headers = {}) =>
      workers.client().complete({ prompt, ...body }, headers),
    budget: budgetNow,
    settled: async () => {
      await expect.poll(async () => (await budgetNow()).reserved).toBe(0)
      return await budgetNow()
    },
  }
}

const prompts = (n: number) => Array.from({ length: n }, (_, i) => `prompt ${100 + i}`)

async function expectExhausted(
  { workers }: Shop,
  reply: Reply,
  policy: string,
  quota: number,
): Promise<void> {
  const code = policy === 'paused' ? 'paused' : 'budget_exhausted'
  await expectProblem(reply, 429, code, workers.log)
  expect(reply.headers['ratelimit-policy']).toBe(`"${policy}";q=${quota};w=86400`)
  expect(reply.headers['ratelimit']).toMatch(new RegExp(`^"${policy}";r=\\d+;t=\\d+$`))
  const seconds = Number(reply.headers['retry-after'])
  expect(seconds).toBeGreaterThanOrEqual(1)
  expect(seconds).toBeLessThanOrEqual(86_400)
  const exposed = String(reply.headers['access-control-expose-headers'])
  for (const name of ['Retry-After', 'RateLimit', 'RateLimit-Policy']) {
    expect(exposed.split(', ')).toContain(name)
  }
}

describe('the daily budget', () => {
  test('of ten calls allows ten calls when 500 distinct misses arrive at once', async () => {
    const all = latch()
    const shop = await open(
      { tokens_per_day: 10 * RESERVED },
      { script: completionsStream(['a', 'b'], { pace: () => all.opened }) },
    )
    let refused = 0
    const replies = await Promise.all(
      prompts(500).map(async (prompt) => {
        const reply = await shop.ask(prompt)
        if (reply.status === 429) refused += 1
        if (refused === 490) all.open()
        return { prompt, reply }
      }),
    )
    expect(shop.lane.calls).toHaveLength(10)
    const served = replies.filter(({ reply }) => reply.status === 200)
    expect(served).toHaveLength(10)
    for (const { reply } of replies) {
      if (reply.status !== 200) await expectExhausted(shop, reply, 'day', 1000)
    }
    expect((await shop.settled()).spent).toBe(10 * USAGE.total_tokens)
    // The unused part of the reservations is available again; then only cached answers are left.
    await shop.ask('a long one', { max_tokens: 1000 - 120 - 74 })
    await shop.workers.rig.admin('/admin/pause', { until: Math.floor(Date.now() / 1000) + 600 })
    const hit = await shop.ask(served[0]?.prompt ?? '')
    expect(completionOf(hit).choices[0]?.text).toBe('ab')
    expect((await requestEvent(hit, shop.workers.log)).cache).toBe('memory')
  }, 60_000)
})

describe('a visitor', () => {
  test('has a share of the day that forged headers cannot raise; others have their own', async () => {
    const shop = await open({ tokens_per_day: 1e6, tokens_per_visitor_per_day: 2 * RESERVED })
    const own = { 'cf-connecting-ip': newAddress() }
    let served = 0
    for (const prompt of prompts(30)) {
      const forged = { 'x-forwarded-for': prompt, 'x-real-ip': prompt, 'true-client-ip': prompt }
      const reply = await shop.ask(prompt, {}, { ...own, ...forged })
      await shop.settled()
      if (reply.status === 200) served += 1
      else await expectExhausted(shop, reply, 'visitor', 200)
    }
    // 12 tokens a call, the last one reserved what was left of 200.
    expect(served).toBe(9)
    expect(shop.lane.calls).toHaveLength(9)
    completionOf(await shop.ask('prompt 100', {}, own))
    completionOf(await shop.ask('prompt 200', {}, { 'cf-connecting-ip': newAddress() }))
  })

  test('has a limit of concurrent calls; followers and hits do not count', async () => {
    const shop = await open({ tokens_per_day: 1e6, streams_per_visitor: 2 })
    completionOf(await shop.ask('cached'))
    await shop.settled()
    const held = latch()
    shop.lane.answers(completionsStream(['a', 'b'], { pace: () => held.opened }))
    const own = { 'cf-connecting-ip': newAddress() }
    const streams = ['prompt 100', 'prompt 101'].map((prompt) =>
      shop.ask(prompt, { stream: true }, own),
    )
    await shop.lane.call(3)
    const third = await shop.ask('prompt 102', {}, own)
    await expectProblem(third, 429, 'too_many_streams', shop.workers.log)
    expect(third.headers['ratelimit-policy']).toBe('"streams";q=2')
    expect(third.headers['ratelimit']).toBe('"streams";r=0;t=5')
    expect(third.headers['retry-after']).toBe('5')
    completionOf(await shop.ask('cached', {}, own))
    const follower = shop.ask('prompt 100', { stream: true }, own)
    const another = shop.ask('prompt 103')
    await shop.lane.call(4)
    held.open()
    for (const reply of await Promise.all([...streams, follower])) {
      expect(streamOf(reply)).toMatchObject({ done: true })
    }
    completionOf(await another)
    await shop.settled()
    completionOf(await shop.ask('prompt 102', {}, own))
    expect(shop.lane.calls).toHaveLength(5)
  })
})

describe('a conversation', () => {
  const turn = (content: string) => ({ role: 'user', content })
  const chat = (
    shop: Shop,
    messages: readonly Table[],
    headers: Readonly<Record<string, string>>,
  ) => shop.workers.client().send({ method: 'POST', path: CHAT, body: { messages }, headers })

  test('that grows costs more with each message, until the share of its visitor is spent', async () => {
    const share = 1000
    const shop = await open(
      { tokens_per_day: 1e6, tokens_per_visitor_per_day: share },
      { wire: 'chat', script: chatStream(['a'.repeat(10)], { usage: null }) },
    )
    const own = { 'cf-connecting-ip': newAddress() }
    const messages: Table[] = []
    const costs: number[] = []
    let spent = 0
    for (;;) {
      messages.push(turn('0123456789'))
      const reply = await chat(shop, messages, own)
      if (reply.status !== 200) {
        await expectExhausted(shop, reply, 'visitor', share)
        break
      }
      messages.push({ role: 'assistant', content: 'a'.repeat(10) })
      const before = spent
      ;({ spent } = await shop.settled())
      costs.push(spent - before)
    }
    // Without reported usage a call costs all that it reserved: each turn adds a question and an answer.
    expect(costs).toEqual(costs.map((_, i) => RESERVED + 20 * i))
    expect([costs.length, spent <= share]).toEqual([6, true])
    expect(shop.lane.calls).toHaveLength(6)
    // What was answered before is still served, and other visitors have a share of their own.
    expect((await chat(shop, messages.slice(0, 1), own)).status).toBe(200)
    expect((await chat(shop, messages, { 'cf-connecting-ip': newAddress() })).status).toBe(200)
  })

  test.each(shapes.map((shape) => [shape.name, shape] as const))(
    'asked for in the shape %s gets each 429 as JSON, and what is cached',
    async (_, shape) => {
      const shop = await open(
        { tokens_per_day: 1000, streams_per_visitor: 1 },
        { wire: 'chat', script: chatStream(['fine']) },
      )
      const { workers, lane } = shop
      const ask = (question: string, headers = {}) =>
        workers.client().send(requestOf(shape, question, 'm', headers))
      expect((await ask('cached')).status).toBe(200)
      await shop.settled()
      const held = latch()
      lane.answers(chatStream(['a', 'b'], { pace: () => held.opened }))
      const own = { 'cf-connecting-ip': newAddress() }
      const running = ask('prompt 100', own)
      await lane.call(2)
      const second = await ask('prompt 101', own)
      await expectProblem(second, 429, 'too_many_streams', workers.log)
      held.open()
      expect((await running).status).toBe(200)
      await shop.settled()
      await workers.rig.set({ limit: 'refuses' })
      await expectProblem(await ask('prompt 102'), 429, 'rate_limited', workers.log)
      await workers.rig.set({ limit: 'ok' })
      await expectExhausted(shop, await ask('x'.repeat(1000)), 'day', 1000)
      await workers.rig.admin('/admin/pause', { until: Math.floor(Date.now() / 1000) + 600 })
      await expectExhausted(shop, await ask('prompt 103'), 'paused', 0)
      expect((await ask('cached')).status).toBe(200)
      expect(lane.calls).toHaveLength(2)
    },
  )
})

describe('a call is settled once,', () => {
  test.each([
    ['first', 1],
    ['third', 3],
  ])(
    'when its visitor disconnects at the %s chunk of an answer that is not stored',
    async (_, at) => {
      const script: Script = async (call, line) => {
        line.head(200, { 'content-type': 'text/event-stream', 'transfer-encoding': 'chunked' })
        while (!call.left) {
          line.chunk(event({ choices: [{ index: 0, text: 'word ', finish_reason: null }] }))
          await Promise.race([call.closed, new Promise((resolve) => setTimeout(resolve, 20))])
        }
      }
      const shop = await open({ tokens_per_day: 1e6 }, { script })
      const incoming = await shop.workers.client().open({
        method: 'POST',
        body: { prompt: 'prompt 100', stream: true },
        headers: { 'cache-control': 'no-store' },
      })
      for (let i = 0; i < at; i++) await incoming.more()
      incoming.leave()
      await (await shop.lane.call()).closed
      expect((await shop.settled()).spent).toBe(RESERVED)
      expect(shop.lane.calls).toHaveLength(1)
    },
  )

  test.each<[string, unknown, number]>([
    ['nothing', null, RESERVED],
    [
      'far too much',
      { prompt_tokens: 5, completion_tokens: 1e12, total_tokens: 1e12 },
      10 * RESERVED,
    ],
    ['less than received', { prompt_tokens: 5, completion_tokens: 1, total_tokens: 6 }, 5 + 10],
  ])(
    'at no less than was received and at most ten times its reservation, when %s is reported',
    async (name, usage, spent) => {
      const text = name === 'less than received' ? 'x'.repeat(40) : 'fine'
      const shop = await open({ tokens_per_day: 1e6 })
      for (const [i, script] of [
        completionsStream([text], { usage: usage as typeof USAGE | null }),
        jsonAnswer(usage, text),
      ].entries()) {
        const before = (await shop.budget()).spent
        shop.lane.answers(script)
        const reply = await shop.ask(`prompt 10${i}`)
        completionOf(reply)
        const id = String(reply.headers['x-request-id'])
        await shop.workers.log.request(id)
        expect((await shop.settled()).spent - before).toBe(spent)
      }
      const above = shop.workers.log.all('usage_above_reservation')
      expect(above).toHaveLength(spent > RESERVED ? 2 : 0)
      for (const { reserved, counted } of above) {
        expect([reserved, counted]).toEqual([RESERVED, spent])
      }
      const shown = (await shop.budget()).above_reservations
      expect(shown).toBe(spent > RESERVED ? 2 * (spent - RESERVED) : undefined)
    },
  )
})

test('a ledger that fails allows no upstream call; hits are still served', async () => {
  const shop = await open({ tokens_per_day: 1e6 })
  completionOf(await shop.ask('cached'))
  await shop.settled()
  await shop.workers.rig.set({ ledger: 'throws' })
  for (const stream of [false, true]) {
    const reply = await shop.ask('prompt 100', { stream })
    await expectProblem(reply, 503, 'ledger_unavailable', shop.workers.log)
    expect(reply.headers['retry-after']).toBe('10')
    expect(reply.text).not.toContain('words from inside')
  }
  completionOf(await shop.ask('cached'))
  expect(shop.lane.calls).toHaveLength(1)
  await shop.workers.rig.set({ ledger: 'ok' })
  completionOf(await shop.ask('prompt 100'))
  expect((await shop.settled()).spent).toBe(24)
})

test('a pause allows only cached answers until its end', async () => {
  const shop = await open({ tokens_per_day: 1e6 })
  completionOf(await shop.ask('cached'))
  const pause = async (until: number | null) =>
    JSON.parse((await shop.workers.rig.admin('/admin/pause', { until })).text)
  const until = Math.floor(Date.now() / 1000) + 600
  expect(await pause(until)).toEqual({ paused_until: until })
  expect(await shop.budget()).toMatchObject({ paused_until: until })
  const refused = await shop.ask('prompt 100')
  await expectExhausted(shop, refused, 'paused', 0)
  expect(Number(refused.headers['retry-after'])).toBeGreaterThan(590)
  expect(Number(refused.headers['retry-after'])).toBeLessThanOrEqual(600)
  completionOf(await shop.ask('cached'))
  await shop.workers.rig.set({ clockMs: 601_000 })
  completionOf(await shop.ask('prompt 100'))
  expect(await shop.budget()).toMatchObject({ paused_until: null })
  await pause(4_000_000_000)
  await expectExhausted(shop, await shop.ask('prompt 101'), 'paused', 0)
  expect(await pause(null)).toEqual({ paused_until: null })
  completionOf(await shop.ask('prompt 101'))
})

describe('alerts', () => {
  /** A day of 1000 tokens; each call costs 100. */
  async function alerted(script: Script) {
    const { upstream } = suite
    const serial = suite.next()
    const alerts = upstream.lane(`alerts-${serial}`).answers(script)
    const secrets = { ALERT_URL: upstream.url(`alerts-${serial}`) }
    const shop = await open(
      { tokens_per_day: 1000 },
      { secrets, script: completionsStream(['fine'], { usage: null }) },
    )
    const spend = async (calls: number, from: number) => {
      for (let i = 0; i < calls; i++) {
        completionOf(await shop.ask(`prompt ${from + i}`))
        await shop.settled()
      }
    }
    const marks = () => shop.workers.log.all('budget_mark').map(({ percent }) => percent)
    return { shop, alerts, spend, marks }
  }

  test('are sent at 50, 80 and 100 % of the day, once each, with figures', async () => {
    const { shop, alerts, spend, marks } = await alerted(json({}))
    await spend(4, 100)
    expect(marks()).toEqual([])
    await spend(1, 104)
    const half = await alerts.call(1)
    expect(half).toMatchObject({ method: 'POST' })
    expect(half.body).toEqual({
      event: 'budget_mark',
      percent: 50,
      tokens_per_day: 1000,
      spent: 500,
      reserved: 0,
      usd_per_day: 0,
      usd_spent: 0.5,
      paused_until: null,
    })
    await spend(3, 105)
    expect((await alerts.call(2)).body).toMatchObject({ percent: 80, spent: 800 })
    await shop.workers.rig.evict()
    await spend(2, 108)
    expect((await alerts.call(3)).body).toMatchObject({ percent: 100, spent: 1000 })
    await expectExhausted(shop, await shop.ask('prompt 110'), 'day', 1000)
    expect(marks()).toEqual([50, 80, 100])
    // The next day has its own marks.
    await shop.workers.rig.set({ clockMs: DAY_MS })
    await spend(5, 111)
    expect((await alerts.call(4)).body).toMatchObject({ percent: 50, spent: 500 })
    expect(alerts.calls).toHaveLength(4)
    shop.workers.log.takeRuntimeLines()
  })

  test('include 100 % when the rest is too small for a call', async () => {
    const { shop, alerts, spend } = await alerted(json({}))
    await spend(8, 100)
    await alerts.call(2)
    await expectExhausted(shop, await shop.ask('prompt 108', { max_tokens: 200 }), 'day', 1000)
    expect((await alerts.call(3)).body).toMatchObject({ percent: 100, spent: 800 })
  })

  test('are sent once a day of a report beyond ten times its reservation', async () => {
    const { shop, alerts, spend } = await alerted(json({}))
    const usage = { prompt_tokens: 5, completion_tokens: 1e6, total_tokens: 1e6 + 5 }
    shop.lane.answers(completionsStream(['fine'], { usage }))
    const max_tokens = 1
    // Each reserves 75 and is counted as 750.
    completionOf(await shop.ask('prompt 100', { max_tokens }))
    await shop.settled()
    completionOf(await shop.ask('prompt 101', { max_tokens }))
    expect((await shop.settled()).spent).toBe(1500)
    await expect.poll(() => alerts.calls.length).toBe(4)
    const overshoots = alerts.calls
      .map(({ body }) => body as Table)
      .filter((body) => body['event'] === 'usage_above_reservation')
    expect(overshoots).toEqual([
      {
        event: 'usage_above_reservation',
        call: {
          reported: 1e6 + 5,
          reserved: 75,
          counted: 750,
          usd_reported: 1000.005,
          usd_reserved: 0.075,
          usd_counted: 0.75,
        },
        tokens_per_day: 1000,
        spent: 750,
        reserved: 0,
        above_reservations: 675,
        usd_per_day: 0,
        usd_spent: 0.75,
        paused_until: null,
      },
    ])
    await expect(spend(1, 102)).rejects.toThrow()
  })

  test.each<[string, Script, number | null]>([
    ['is refused', refusal(500), 500],
    ['is redirected', refusal(302, {}, { location: '/elsewhere' }), 302],
    ['finds nobody', (_, line) => line.reset(), null],
  ])('that %s are logged, with no other effect', async (_, script, status) => {
    const { shop, alerts, spend } = await alerted(script)
    await spend(6, 100)
    const failed = await shop.workers.log.find((one) => one.event === 'alert_failed')
    expect(failed).toEqual({ event: 'alert_failed', status })
    expect(alerts.calls).toHaveLength(1)
  })
})

describe('the rate limit', () => {
  test('returns 429 with headers, for misses only', async () => {
    const shop = await open({ tokens_per_day: 1e6 })
    completionOf(await shop.ask('cached'))
    await shop.workers.rig.set({ limit: 'refuses' })
    const refused = await shop.ask('prompt 100')
    await expectProblem(refused, 429, 'rate_limited', shop.workers.log)
    expect(refused.headers['retry-after']).toBe('60')
    expect(refused.headers['ratelimit-policy']).toBe('"spend";q=60;w=60')
    expect(refused.headers['ratelimit']).toBe('"spend";r=0;t=60')
    completionOf(await shop.ask('cached'))
    expect(shop.lane.calls).toHaveLength(1)
  })

  test('as shipped is sixty misses per minute and visitor', async () => {
    const shop = await open({ tokens_per_day: 1e6 })
    const own = { 'cf-connecting-ip': newAddress() }
    const replies = await Promise.all(prompts(70).map((prompt) => shop.ask(prompt, {}, own)))
    const served = replies.filter(({ status }) => status === 200)
    // A new minute may begin meanwhile.
    expect(served.length).toBeGreaterThanOrEqual(60)
    expect(shop.lane.calls).toHaveLength(served.length)
    completionOf(await shop.ask('prompt 900'))
  })
})

/** A JSON answer with this usage. */
function jsonAnswer(usage: unknown, text = 'fine'): Script {
  return json({
    id: 'u',
    model: 'm',
    choices: [{ index: 0, text, finish_reason: 'stop' }],
    ...(usage === null ? {} : { usage }),
  })
}
