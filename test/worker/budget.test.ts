// The daily budget in workerd: in every case, no more is requested from upstreams than the budget
// allows, and hits are still served.
import { describe, expect, test } from 'vitest'
import { completionOf, expectProblem, requestEvent, streamOf } from '../support/answers.ts'
import { newAddress, ORIGIN, type Reply } from '../support/client.ts'
import { type Figures, OPERATOR_TOKEN, type RiggedWorkers } from '../support/rig.ts'
import {
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

const suite = workerSuite()

type Table = Readonly<Record<string, JsonValue>>

interface Shop {
  readonly workers: RiggedWorkers
  readonly lane: Lane
  readonly second: Lane
  ask(prompt: string, more?: Table, headers?: Readonly<Record<string, string>>): Promise<Reply>
  budget(): Promise<Figures['budget']>
  /** The budget once no call is running. */
  settled(): Promise<Figures['budget']>
}

/** A Worker with an upstream of its own, and a second one as a fallback if requested. */
async function open(
  budget: Table,
  {
    script = completionsStream(['fine']),
    fallback = false,
    more = {},
    secrets = {} as Record<string, string>,
  } = {},
): Promise<Shop> {
  const { upstream } = suite
  const serial = suite.next()
  const [one, two] = [`one-${serial}`, `two-${serial}`]
  const own = { key: 'UPSTREAM_API_KEY', wire: 'completions', retries: 1 }
  const route = { upstream: 'one', upstream_model: 'm' }
  const config = {
    origins: [ORIGIN],
    models: [
      {
        id: 'm',
        ...route,
        price: { input: 1000, output: 1000 },
        ...(fallback ? { fallbacks: [{ upstream: 'two', upstream_model: 'm' }] } : {}),
      },
    ],
    upstreams: [
      { name: 'one', base_url: upstream.url(one), ...own },
      { name: 'two', base_url: upstream.url(two), ...own },
    ],
    defaults: { max_tokens: MAX_TOKENS },
    limits: { n: 4, max_tokens: 100_000 },
    budget: { tokens_per_visitor_per_day: 1e9, streams_per_visitor: 1000, ...budget },
    ...more,
  }
  const workers = await suite.startRigged({ config, secrets })
  const lane = upstream.lane(one).answers(script)
  const budgetNow = async () => (await workers.rig.figures()).budget
  return {
    workers,
    lane,
    second: upstream.lane(two).answers(completionsStream(['from the second'])),
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

  test('of zero allows no calls; cached answers are still served', async () => {
    const shop = await open({ tokens_per_day: 0 })
    const operator = { authorization: `Bearer ${OPERATOR_TOKEN}` }
    await expectExhausted(shop, await shop.ask('prompt 100'), 'day', 0)
    await expectExhausted(shop, await shop.ask('prompt 100', {}, operator), 'day', 0)
    const streamed = await shop.ask('prompt 101', { stream: true })
    await expectExhausted(shop, streamed, 'day', 0)
    expect(shop.lane.calls).toEqual([])
    expect(await shop.budget()).toMatchObject({ spent: 0, reserved: 0 })
    expect(shop.workers.log.all('budget_mark')).toEqual([])
  })

  test('when exhausted, does not affect hits, stale entries and GETs', async () => {
    const shop = await open(
      { tokens_per_day: 150 },
      { more: { cache: { ttl_seconds: 60, stale_while_revalidate_seconds: 0 } } },
    )
    const first = completionOf(await shop.ask('prompt 100'))
    await shop.settled()
    await shop.ask('prompt 101', { max_tokens: 60 })
    await shop.workers.rig.admin('/admin/pause', { until: Math.floor(Date.now() / 1000) + 600 })
    await expectExhausted(shop, await shop.ask('prompt 102'), 'paused', 0)
    await shop.workers.rig.set({ clockMs: 61_000 })
    const stale = await shop.ask('prompt 100')
    expect(completionOf(stale).id).toBe(first.id)
    expect(stale.headers['cache-status']).toMatch(/hit; ttl=-\d+; detail=stale/)
    const got = await shop.workers
      .client()
      .send({ path: `/v1/completions?prompt=prompt%20100&max_tokens=${MAX_TOKENS}` })
    expect(completionOf(got).id).toBe(first.id)
  })

  test('is passed by one overshoot at most when an upstream reports more than was reserved', async () => {
    const usage = { prompt_tokens: 100, completion_tokens: 400, total_tokens: 500 }
    const shop = await open(
      { tokens_per_day: 2000 },
      { script: completionsStream(['fine'], { usage }) },
    )
    let served = 0
    for (const prompt of prompts(10)) {
      const reply = await shop.ask(prompt)
      if (reply.status === 200) served += 1
      else await expectExhausted(shop, reply, 'day', 2000)
      expect((await shop.settled()).spent).toBe(500 * served)
    }
    expect(served).toBe(4)
    await shop.workers.rig.evict()
    await expectExhausted(shop, await shop.ask('after a restart'), 'day', 2000)
    expect(await shop.budget()).toMatchObject({ spent: 2000, above_reservations: 4 * 400 })
    expect(shop.lane.calls).toHaveLength(4)
    shop.workers.log.takeRuntimeLines()
  })

  test('is passed by what each call under way reports above its reservation, and no more', async () => {
    const held = latch()
    const usage = { prompt_tokens: 100, completion_tokens: 400, total_tokens: 500 }
    const script = completionsStream(['a', 'b'], { usage, pace: () => held.opened })
    const shop = await open({ tokens_per_day: 5 * RESERVED }, { script })
    const asking = prompts(5).map((prompt) => shop.ask(prompt))
    await shop.lane.call(5)
    held.open()
    for (const reply of await Promise.all(asking)) completionOf(reply)
    expect((await shop.settled()).spent).toBe(2500)
    await expectExhausted(shop, await shop.ask('prompt 200'), 'day', 5 * RESERVED)
  })

  test('in USD is as strict as one in tokens', async () => {
    // 1000 USD per million tokens: a call reserves 0.1 USD.
    const shop = await open({ tokens_per_day: 1e9, usd_per_day: 0.25 })
    const held = latch()
    shop.lane.answers(completionsStream(['a', 'b'], { pace: () => held.opened }))
    const asking = prompts(20).map((prompt) => shop.ask(prompt))
    await shop.lane.call(2)
    await expect.poll(() => shop.workers.log.all('request').length).toBeGreaterThanOrEqual(18)
    held.open()
    const replies = await Promise.all(asking)
    expect(shop.lane.calls).toHaveLength(2)
    for (const reply of replies) {
      if (reply.status !== 200) await expectExhausted(shop, reply, 'usd', 250_000)
    }
    const { spent, usd_spent } = await shop.settled()
    expect(spent).toBe(24)
    expect(usd_spent).toBeCloseTo(0.024, 9)
  })

  test('resets at 00:00 UTC; a call across midnight counts for the old day', async () => {
    const shop = await open({ tokens_per_day: 150 })
    const held = latch()
    shop.lane.answers(completionsStream(['a', 'b'], { pace: () => held.opened }))
    const old = shop.ask('prompt 100')
    await shop.lane.call()
    await expectExhausted(shop, await shop.ask('prompt 101'), 'day', 150)
    const midnight = DAY_MS - (Date.now() % DAY_MS)
    await shop.workers.rig.set({ clockMs: midnight + 5000 })
    expect(await shop.budget()).toMatchObject({ spent: 0, reserved: 0 })
    held.open()
    completionOf(await old)
    completionOf(await shop.ask('prompt 102'))
    expect((await shop.settled()).spent).toBe(12)
  })

  test('counts n and best_of, each prompt, and bytes rather than characters', async () => {
    const held = latch()
    const shop = await open({ tokens_per_day: 1e6 }, { script: () => held.opened })
    const cases: [unknown, Table, number][] = [
      ['ééééé', {}, 10 + 64 + 26],
      ['prompt 100', { n: 2, max_tokens: 10 }, 74 + 20],
      ['prompt 100', { best_of: 3, max_tokens: 10 }, 74 + 30],
      [['one', 'three'], { max_tokens: 10 }, 3 + 5 + 128 + 20],
      [[1, 2, 3], { max_tokens: 10 }, 3 + 64 + 10],
    ]
    let reserved = 0
    for (const [prompt, more, worst] of cases) {
      shop.workers.client().start({ method: 'POST', body: { prompt, ...more } })
      reserved += worst
      await expect.poll(async () => (await shop.budget()).reserved).toBe(reserved)
    }
    held.open()
  })
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

  test('without an address shares the budget of all visitors without one', async () => {
    const shop = await open({ tokens_per_day: 1e6, tokens_per_visitor_per_day: 150 })
    const ask = (prompt: string, address: string | null) =>
      shop.workers.client().complete({ prompt, max_tokens: 70 }, { 'cf-connecting-ip': address })
    completionOf(await ask('prompt 100', null))
    await shop.settled()
    await expectExhausted(shop, await ask('prompt 101', 'no address'), 'visitor', 150)
    completionOf(await ask('prompt 102', '2001:db8:5::1'))
    await shop.settled()
    await expectExhausted(shop, await ask('prompt 103', '2001:db8:5::ffff'), 'visitor', 150)
    completionOf(await ask('prompt 104', '2001:db8:5:1::1'))
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

describe('a call is settled once,', () => {
  const sse = { 'content-type': 'text/event-stream', 'transfer-encoding': 'chunked' }
  const words = ['one ', 'two ', 'three']
  const textEvent = (text: string, reason: string | null = null) =>
    event({ choices: [{ index: 0, text, finish_reason: reason }] })

  /** Resets the connection after this many pieces; the last piece is the finish. */
  const torn = (pieces: number): Script => {
    return async (_, line) => {
      line.head(200, sse)
      for (const word of words.slice(0, pieces)) line.chunk(textEvent(word))
      if (pieces > words.length) line.chunk(textEvent('', 'stop'))
      await line.flushed()
      line.reset()
    }
  }

  test.each<[string, Script, number]>([
    ['with its usage', completionsStream(words), 12],
    ['with the usage of a JSON answer', jsonAnswer(USAGE), 12],
    ['in full, when the upstream breaks off before the first chunk', torn(0), 2 * RESERVED],
    ['in full, when the upstream breaks off at the first chunk', torn(1), RESERVED],
    ['in full, when the upstream breaks off in the middle', torn(2), RESERVED],
    ["in full, when the upstream's answer is not a completion", json({ hello: 1 }), RESERVED],
    ['at no cost, when the upstream refuses', refusal(400), 0],
    ['at no cost, when the upstream is down and is called twice', refusal(503), 0],
    ['at no cost, when the upstream resets before the first byte', (_, line) => line.reset(), 0],
  ])('%s', async (_, script, spent) => {
    for (const stream of [false, true]) {
      const shop = await open({ tokens_per_day: 1e6 }, { script })
      await shop.ask('prompt 100', { stream })
      expect((await shop.settled()).spent).toBe(spent)
      expect(shop.workers.log.all('settle_failed')).toEqual([])
    }
  })

  test('when the upstream breaks off after the finish', async () => {
    const shop = await open({ tokens_per_day: 1e6 }, { script: torn(4) })
    await shop.ask('prompt 100', { stream: true })
    expect((await shop.settled()).spent).toBe(RESERVED)
  })

  test.each([
    ['first', 0],
    ['second', 1],
    ['last', 2],
  ])('when its visitor disconnects at the %s chunk: it goes on for the cache', async (_, at) => {
    const steps = words.map(() => latch())
    const script = completionsStream(words, { pace: async (i) => await steps[i]?.opened })
    const shop = await open({ tokens_per_day: 1e6 }, { script })
    for (let i = 0; i <= at; i++) steps[i]?.open()
    const incoming = await shop.workers
      .client()
      .open({ method: 'POST', body: { prompt: 'prompt 100', stream: true } })
    await incoming.until(`"text":"${words[at]}"`)
    incoming.leave()
    for (const step of steps) step.open()
    expect((await shop.settled()).spent).toBe(12)
    expect((await shop.lane.call()).left).toBe(false)
    completionOf(await shop.ask('prompt 100'))
    expect(shop.lane.calls).toHaveLength(1)
  })

  test.each([
    ['first', 1],
    ['third', 3],
  ])(
    'when its visitor disconnects at the %s chunk of an answer that is not stored',
    async (_, at) => {
      const script: Script = async (call, line) => {
        line.head(200, sse)
        while (!call.left) {
          line.chunk(textEvent('word '))
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

  test('when its visitor disconnects from an upstream that keeps sending', async () => {
    const script: Script = async (_, line) => {
      line.head(200, sse)
      for (let i = 0; i < 25; i++) {
        line.chunk(textEvent('word '))
        await new Promise((resolve) => setTimeout(resolve, 20))
      }
      line.end()
    }
    const shop = await open({ tokens_per_day: 1e6 }, { script })
    for (const [i, words] of [1, 4, 9].entries()) {
      const incoming = await shop.workers.client().open({
        method: 'POST',
        body: { prompt: `prompt ${100 + i}`, stream: true },
        headers: { 'cache-control': 'no-store' },
      })
      for (let word = 0; word < words; word++) await incoming.more()
      incoming.leave()
      expect((await shop.settled()).spent).toBe(RESERVED * (i + 1))
    }
  })

  test.each<[string, unknown, number]>([
    ['nothing', null, RESERVED],
    ['zeros', { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 }, RESERVED],
    ['no output tokens', { prompt_tokens: 5, completion_tokens: 0, total_tokens: 5 }, RESERVED],
    ['negative counts', { prompt_tokens: -5, completion_tokens: -7, total_tokens: -12 }, RESERVED],
    ['null', { prompt_tokens: null, completion_tokens: null, total_tokens: null }, RESERVED],
    [
      'text instead of numbers',
      { prompt_tokens: 'NaN', completion_tokens: 'x', total_tokens: '' },
      RESERVED,
    ],
    ['half a token', { prompt_tokens: 5.5, completion_tokens: 1.5, total_tokens: 7 }, RESERVED],
    ['a list', [5, 7], RESERVED],
    ['too much', { prompt_tokens: 5, completion_tokens: 495, total_tokens: 500 }, 500],
    [
      'far too much',
      { prompt_tokens: 5, completion_tokens: 1e12, total_tokens: 1e12 },
      10 * RESERVED,
    ],
    ['less than received', { prompt_tokens: 5, completion_tokens: 1, total_tokens: 6 }, 5 + 10],
    ['more in total', { prompt_tokens: 5, completion_tokens: 7, total_tokens: 40 }, 40],
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

  test('for each retry and each fallback separately', async () => {
    const shop = await open({ tokens_per_day: 1e6 }, { fallback: true, script: refusal(503) })
    completionOf(await shop.ask('prompt 100'))
    expect(shop.lane.calls).toHaveLength(2)
    expect(shop.second.calls).toHaveLength(1)
    expect((await shop.workers.rig.counts()).reserves).toBe(3)
    expect((await shop.settled()).spent).toBe(12)
    // An accepted call that broke is paid for, and so is its replacement.
    shop.lane.answers(json({ hello: 1 }))
    await shop.workers.rig.set({ clockMs: 3_600_000 })
    // In the last hour of a day, another day may begin, with nothing spent.
    const { spent } = await shop.budget()
    completionOf(await shop.ask('prompt 101'))
    expect((await shop.settled()).spent - spent).toBe(RESERVED + 12)
  })

  test('and a fallback that does not fit is refused', async () => {
    const shop = await open({ tokens_per_day: 150 }, { fallback: true, script: json({ hello: 1 }) })
    await expectExhausted(shop, await shop.ask('prompt 100'), 'day', 150)
    expect(shop.second.calls).toEqual([])
    expect((await shop.settled()).spent).toBe(RESERVED)
  })
})

describe('a call whose visitor has gone', () => {
  test('costs its whole reservation when it hangs until the deadline, because the upstream may be working', async () => {
    const { upstream } = suite
    const serial = suite.next()
    const shop = await open(
      { tokens_per_day: 1e6 },
      {
        script: () => {},
        more: {
          upstreams: [
            {
              name: 'one',
              base_url: upstream.url(`one-${serial + 1}`),
              key: 'UPSTREAM_API_KEY',
              wire: 'completions',
              first_byte_ms: 200,
              retries: 0,
            },
          ],
        },
      },
    )
    const reply = await shop.ask('prompt 100')
    expect(reply.status).toBe(504)
    expect(shop.lane.calls).toHaveLength(1)
    expect((await shop.settled()).spent).toBe(RESERVED)
  })
})

describe('a ledger that fails', () => {
  async function expectNothingSpent(shop: Shop): Promise<void> {
    for (const stream of [false, true]) {
      const reply = await shop.ask('prompt 100', { stream })
      await expectProblem(reply, 503, 'ledger_unavailable', shop.workers.log)
      expect(reply.headers['retry-after']).toMatch(/^\d+$/)
      expect(reply.text).not.toContain('words from inside')
    }
    completionOf(await shop.ask('cached'))
    expect(shop.lane.calls).toHaveLength(1)
  }

  test.each([
    ['throws', 2],
    ['overloaded', 2],
    ['retryable', 4],
    ['hangs', 2],
  ] as const)('(it %s) allows no upstream call; hits are still served', async (way, asked) => {
    const shop = await open({ tokens_per_day: 1e6 })
    completionOf(await shop.ask('cached'))
    await shop.settled()
    const before = (await shop.workers.rig.counts()).reserves
    await shop.workers.rig.set({ ledger: way })
    await expectNothingSpent(shop)
    expect((await shop.workers.rig.counts()).reserves - before).toBe(asked)
    if (way !== 'hangs') {
      const usage = await shop.workers.rig.admin('/admin/usage')
      await expectProblem(usage, 503, 'ledger_unavailable', shop.workers.log)
      const pause = await shop.workers.rig.admin('/admin/pause', { until: null })
      await expectProblem(pause, 503, 'ledger_unavailable', shop.workers.log)
    }
    await shop.workers.rig.set({ ledger: 'ok' })
    completionOf(await shop.ask('prompt 100'))
    expect((await shop.settled()).spent).toBe(24)
  })

  test('once with a retryable error is called again', async () => {
    const shop = await open({ tokens_per_day: 1e6 })
    await shop.workers.rig.set({ ledger: 'retryable once' })
    completionOf(await shop.ask('prompt 100'))
    expect((await shop.workers.rig.counts()).reserves).toBe(2)
    expect((await shop.settled()).spent).toBe(12)
  })

  test('by answering late gets its grant back', async () => {
    const shop = await open({ tokens_per_day: 1e6 })
    await shop.workers.rig.set({ ledger: 'answers late' })
    const reply = await shop.ask('prompt 100')
    await expectProblem(reply, 503, 'ledger_unavailable', shop.workers.log)
    await shop.workers.rig.set({ ledger: 'ok' })
    expect(await shop.budget()).toMatchObject({ spent: 0, reserved: RESERVED })
    await expect.poll(shop.budget, { timeout: 5000 }).toMatchObject({ spent: 0, reserved: 0 })
    expect(shop.lane.calls).toEqual([])
  })

  test('by restarting during a call: the reservation of the call stays spent', async () => {
    const held = latch()
    const shop = await open(
      { tokens_per_day: 150 },
      { script: completionsStream(['a', 'b'], { pace: () => held.opened }) },
    )
    const asking = shop.ask('prompt 100')
    await shop.lane.call()
    await shop.workers.rig.evict()
    expect(await shop.budget()).toMatchObject({ spent: RESERVED, reserved: 0 })
    await expectExhausted(shop, await shop.ask('prompt 101'), 'day', 150)
    held.open()
    completionOf(await asking)
    expect((await shop.settled()).spent).toBe(RESERVED)
    // The runtime reports that the object was reset, which is expected.
    shop.workers.log.takeRuntimeLines()
  })
})

describe('a pause', () => {
  test('allows only cached answers until its end', async () => {
    const shop = await open({ tokens_per_day: 1e6 })
    completionOf(await shop.ask('cached'))
    const until = Math.floor(Date.now() / 1000) + 600
    const reply = await shop.workers.rig.admin('/admin/pause', { until })
    expect(JSON.parse(reply.text)).toEqual({ paused_until: until })
    expect(await shop.budget()).toMatchObject({ paused_until: until })
    const refused = await shop.ask('prompt 100')
    await expectExhausted(shop, refused, 'paused', 0)
    expect(Number(refused.headers['retry-after'])).toBeGreaterThan(590)
    expect(Number(refused.headers['retry-after'])).toBeLessThanOrEqual(600)
    completionOf(await shop.ask('cached'))
    await shop.workers.rig.set({ clockMs: 601_000 })
    completionOf(await shop.ask('prompt 100'))
    expect(await shop.budget()).toMatchObject({ paused_until: null })
  })

  test('ends when the operator ends it', async () => {
    const shop = await open({ tokens_per_day: 1e6 })
    await shop.workers.rig.admin('/admin/pause', { until: 4_000_000_000 })
    const refused = await shop.ask('prompt 100')
    await expectExhausted(shop, refused, 'paused', 0)
    const reply = await shop.workers.rig.admin('/admin/pause', { until: null })
    expect(JSON.parse(reply.text)).toEqual({ paused_until: null })
    completionOf(await shop.ask('prompt 100'))
  })
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

  test('count what is spent: a reservation alone sends no alert', async () => {
    const { shop, marks } = await alerted(json({}))
    shop.lane.answers(completionsStream(['fine']))
    completionOf(await shop.ask('prompt 100', { max_tokens: 900 }))
    expect((await shop.settled()).spent).toBe(12)
    expect(marks()).toEqual([])
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
  test('returns 429 with headers, for misses only and not for the operator', async () => {
    const shop = await open({ tokens_per_day: 1e6 })
    completionOf(await shop.ask('cached'))
    await shop.workers.rig.set({ limit: 'refuses' })
    const refused = await shop.ask('prompt 100')
    await expectProblem(refused, 429, 'rate_limited', shop.workers.log)
    expect(refused.headers['retry-after']).toBe('60')
    expect(refused.headers['ratelimit-policy']).toBe('"spend";q=60;w=60')
    expect(refused.headers['ratelimit']).toBe('"spend";r=0;t=60')
    completionOf(await shop.ask('cached'))
    const operator = { authorization: `Bearer ${OPERATOR_TOKEN}` }
    completionOf(await shop.ask('prompt 101', {}, operator))
    expect(shop.lane.calls).toHaveLength(2)
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

  test.each(['throws', 'undefined'] as const)(
    'that is broken (%s) does not limit; the budget still does',
    async (limit) => {
      const shop = await open({ tokens_per_day: 150 })
      await shop.workers.rig.set({ limit })
      completionOf(await shop.ask('prompt 100'))
      await shop.settled()
      await expectExhausted(shop, await shop.ask('prompt 101', { max_tokens: 80 }), 'day', 150)
    },
  )
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
