// The owner's figures in workerd: GET /admin/usage after a mixed day. Counting never delays a
// visitor.
import { expect, test } from 'vitest'
import { completionOf, streamOf } from '../support/answers.ts'
import { ORIGIN } from '../support/client.ts'
import type { RiggedWorkers } from '../support/rig.ts'
import {
  completionsStream,
  endless,
  event,
  json,
  latch,
  refusal,
} from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'

const suite = workerSuite()

async function open() {
  const { upstream } = suite
  const serial = suite.next()
  const name = `usage-${serial}`
  const workers = await suite.startRigged({
    config: suite.config(
      name,
      {
        models: [
          { id: 'm', upstream: 'u', upstream_model: 'm', price: { input: 1000, output: 2000 } },
        ],
        prompts: { haiku: { text: 'A haiku' }, helper: { chat: true, system: 'Help.' } },
        free_prompts: true,
        cache: { memory_seconds: 0, ttl_seconds: 100, stale_if_error_seconds: 1000 },
      },
      { wire: 'completions', chat_path: '/chat/completions', retries: 0 },
    ),
  })
  const lane = upstream.lane(name).answers(completionsStream(['fine']))
  return { workers, lane, client: workers.client() }
}

async function hourOf(workers: RiggedWorkers) {
  // A test may run across the end of an hour.
  const { hours } = await workers.rig.figures()
  return hours.at(-1) ?? {}
}

test('GET /admin/usage shows the budget, the days and the hours', async () => {
  const { workers, client } = await open()
  completionOf(await client.complete({ prompt: { id: 'haiku' } }))
  const figures = await workers.rig.figures()
  expect(Object.keys(figures)).toEqual([
    'now',
    'budget',
    'days',
    'hours',
    'failures',
    'refused_origins',
    'prices',
  ])
  expect([figures.failures, figures.refused_origins]).toEqual([[], []])
  expect(Math.abs(figures.now - Date.now() / 1000)).toBeLessThan(60)
  await expect
    .poll(async () => (await workers.rig.figures()).budget)
    .toEqual({
      tokens_per_day: 200_000,
      spent: 12,
      reserved: 0,
      usd_per_day: 0,
      usd_spent: 0.019,
      paused_until: null,
    })
  // Five tokens in and seven out, at the model's price.
  const counts = { requests: 1, misses: 1, tokens_in: 5, tokens_out: 7, usd: 0.019 }
  const names = {
    prompts: { haiku: 1 },
    models: { m: 1 },
    origins: { [ORIGIN]: 1 },
    usd_by: { prompts: { haiku: 0.019 }, models: { m: 0.019 }, origins: { [ORIGIN]: 0.019 } },
  }
  const hour = Math.floor(figures.now / 3600) * 3600
  expect(figures.hours).toMatchObject([{ hour, ...counts, ...names }])
  const day = new Date(figures.now * 1000).toISOString().slice(0, 10)
  expect(figures.days).toEqual([{ day, tokens: 12, usd: 0.019, requests: 1, hits: 0 }])
})

test('every request is counted by its outcome', async () => {
  const { workers, lane, client } = await open()
  completionOf(await client.complete({ prompt: 'p' }))
  completionOf(await client.complete({ prompt: 'p' }))
  completionOf(await client.complete({ prompt: 'p' }))
  await client.complete({ prompt: '' })
  await client.send({ path: '/v1/completions?prompt=unknown' })
  await client.send({ path: '/v1/models' })
  const rest = latch()
  lane.answers(completionsStream(['a', 'b'], { pace: () => rest.opened }))
  const leader = client.complete({ prompt: 'q', stream: true })
  await lane.call(2)
  const incoming = await client.open({ method: 'POST', body: { prompt: 'q', stream: true } })
  await incoming.until('"text":"a"')
  rest.open()
  await incoming.rest()
  expect(streamOf(await leader).done).toBe(true)
  const [key = ''] = [...(await workers.kvEntries()).keys()].filter((one) => one.startsWith('c1:'))
  await workers.kvPut(key, 'no entry')
  lane.answers(refusal(500))
  await client.complete({ prompt: 'r' })
  // One of them has lost its entry; its flight object still has the answer in memory.
  completionOf(await client.complete({ prompt: 'p' }))
  completionOf(await client.complete({ prompt: 'q' }))
  await expect.poll(() => workers.log.all('request').length).toBeGreaterThanOrEqual(11)
  const hour = await hourOf(workers)
  expect(hour).toMatchObject({
    requests: 10,
    hits: { memory: 0, kv: 3, stale: 0 },
    collapsed: 2,
    kv_failures: 1,
    tokens_in: 10,
    tokens_out: 14,
    errors: { invalid_value: 1, not_cached: 1, upstream_unavailable: 1 },
    models: { m: 9 },
    // A call at the model's price.
    usd: 0.038,
  })
  // At least those of the three hits; their model has a price.
  expect(hour['tokens_saved']).toBeGreaterThanOrEqual(36)
  expect(hour['usd_saved']).toBeGreaterThanOrEqual(0.057)
  // Two misses, one uncached request, one failure.
  expect([hour['misses'], hour['failed_misses']]).toEqual([4, 2])
  // The remaining entry has expired but is still served, and counted as stale.
  await workers.rig.set({ clockMs: 100_000 + 700_000 })
  await client.complete({ prompt: 'p' })
  await client.complete({ prompt: 'q' })
  const hours = (await workers.rig.figures()).hours
  const sum = hours.reduce((all, { hits }) => all + Number((hits as { stale: number }).stale), 0)
  expect(sum).toBe(1)
})

test('chats and hooks are counted like completions', async () => {
  const { workers, client } = await open()
  const messages = [{ role: 'user', content: 'Hi' }]
  const parts = [{ type: 'text', text: 'Hi' }]
  const bodies: [path: string, body: object][] = [
    ['/v1/chat/completions', { messages }],
    ['/v1/chat/completions', { messages, stream: true }],
    ['/v1/ai-sdk', { id: 'x', messages: [{ id: 'y', role: 'user', parts }] }],
    ['/v1/chat/completions', { messages, model: 'helper' }],
    ['/v1/chat/completions', { messages: [] }],
  ]
  for (const [path, body] of bodies) await client.send({ path, method: 'POST', body })
  expect((await client.send({ path: '/v1/ai-sdk/x/stream' })).status).toBe(204)
  await expect.poll(() => workers.log.all('request').length).toBe(bodies.length + 1)
  expect(await hourOf(workers)).toMatchObject({
    requests: 5,
    hits: { memory: 0, kv: 2, stale: 0 },
    misses: 2,
    tokens_in: 10,
    tokens_out: 14,
    tokens_saved: 24,
    errors: { invalid_value: 1 },
    usd: 0.038,
    usd_saved: 0.038,
    // The answers of a chat prompt are those of its model.
    models: { m: 4 },
    prompts: { helper: 1 },
    usd_by: { prompts: {}, models: { m: 0.038 }, origins: { [ORIGIN]: 0.038 } },
  })
})

test('tokens and USD of calls without a whole answer are counted, as the budget counts them', async () => {
  const name = `usage-${suite.next()}`
  const price = { input: 1000, output: 2000 }
  const workers = await suite.startRigged({
    config: suite.config(
      name,
      {
        models: [{ id: 'm', upstream: 'u', upstream_model: 'm', price, abandon: 'stop' }],
        prompts: { cut: { text: 'cut' }, unreported: { text: 'unreported' } },
        free_prompts: true,
        budget: { usd_per_day: 1000 },
      },
      { wire: 'completions', retries: 0 },
    ),
  })
  const client = workers.client()
  const half = event({ choices: [{ index: 0, text: 'half' }] })
  const lane = suite.upstream.lane(name).answers((_, line) => {
    line.head(200, { 'content-type': 'text/event-stream' })
    line.write(half)
    line.end()
  })
  for (const max_tokens of [20, 30]) await client.complete({ prompt: 'p', max_tokens })
  await client.complete({ prompt: { id: 'cut' } })
  lane.answers(json({ choices: [{ index: 0, text: 'fine', finish_reason: 'stop' }] }))
  completionOf(await client.complete({ prompt: { id: 'unreported' } }))
  lane.answers(completionsStream(['fine']))
  completionOf(await client.complete({ prompt: 'whole' }))
  lane.answers(endless('completions'))
  const incoming = await client.open({ method: 'POST', body: { prompt: 'left', stream: true } })
  await incoming.until('word')
  incoming.leave()
  await expect.poll(async () => (await workers.rig.figures()).budget.reserved).toBe(0)
  const { budget, days, hours } = await workers.rig.figures()
  expect(budget.spent).toBeGreaterThan(12 + 20 + 30)
  const sum = (of: (hour: (typeof hours)[number]) => unknown) =>
    hours.reduce((all, hour) => all + Number(of(hour)), 0)
  expect(days.reduce((all, { tokens }) => all + Number(tokens), 0)).toBe(budget.spent)
  expect(days.reduce((all, { usd }) => all + Number(usd), 0)).toBeCloseTo(budget.usd_spent, 6)
  expect(sum(({ tokens_in, tokens_out }) => Number(tokens_in) + Number(tokens_out))).toBe(
    budget.spent,
  )
  expect(sum(({ usd }) => usd)).toBeCloseTo(budget.usd_spent, 6)
  expect(sum(({ usd_by }) => Object(usd_by).models.m)).toBeCloseTo(budget.usd_spent, 6)
  expect(sum(({ usd_by }) => Object(usd_by).origins[ORIGIN])).toBeCloseTo(budget.usd_spent, 6)
  // Their whole reservations: the prompt's bytes and 64, and the default of max_tokens.
  const reserved = (bytes: number) => ((bytes + 64) * 1000 + 256 * 2000) / 1e6
  expect(hours.map(({ usd_by }) => Object(usd_by).prompts)).toEqual([
    { cut: reserved(3), unreported: reserved(10) },
  ])
})

test('models and prompts called like members of Object.prototype are counted by name', async () => {
  const names = ['__proto__', 'constructor', 'toString', 'hasOwnProperty', 'valueOf']
  const name = `usage-${suite.next()}`
  suite.upstream.lane(name).answers(completionsStream(['fine']))
  const price = { input: 1000, output: 2000 }
  const prompts = names.slice(1).map((id) => [id, { text: id, model: id }] as const)
  const workers = await suite.startRigged({
    config: suite.config(
      name,
      {
        models: names.map((id) => ({ id, upstream: 'u', upstream_model: 'm', price })),
        prompts: Object.fromEntries(prompts),
        free_prompts: true,
        cache: { ttl_seconds: 0 },
      },
      { wire: 'completions', retries: 0 },
    ),
  })
  const client = workers.client()
  const askAll = async () => {
    completionOf(await client.complete({ prompt: 'p', model: '__proto__' }))
    for (const [id] of prompts) completionOf(await client.complete({ prompt: { id } }))
  }
  const each = (some: readonly string[], n: number) => some.map((id) => [id, n] as const)
  const sorted = (numbers: unknown) => Object.entries(Object(numbers)).toSorted()
  for (const round of [1, 2]) {
    await askAll()
    const hour = await hourOf(workers)
    const { models, prompts: usd } = Object(hour['usd_by'])
    expect(sorted(hour['models'])).toEqual(each(names, round).toSorted())
    expect(sorted(hour['prompts'])).toEqual(each(names.slice(1), round).toSorted())
    expect(sorted(models)).toEqual(each(names, 0.019 * round).toSorted())
    expect(sorted(usd)).toEqual(each(names.slice(1), 0.019 * round).toSorted())
  }
})

test('an isolate sends its figures at most once in 25 s', async () => {
  const { workers, client } = await open()
  const ask = (n: number) =>
    Promise.all(Array.from({ length: n }, (_, i) => client.complete({ prompt: `p${i % 3}` })))
  const flushes = async () => (await workers.rig.counts()).flushes
  const stored = async () =>
    (await workers.rig.rows()).hours.reduce(
      (all, { counts }) => all + JSON.parse(counts).requests,
      0,
    )
  await ask(20)
  await expect.poll(flushes).toBe(1)
  await expect.poll(stored).toBe(20)
  await ask(20)
  expect(await stored()).toBe(20)
  expect(await flushes()).toBe(1)
  await workers.rig.set({ clockMs: 31_000 })
  await ask(1)
  await expect.poll(flushes).toBe(2)
  await expect.poll(stored).toBe(41)
}, 20_000)

test.each(['throws', 'hangs'] as const)(
  'figures that cannot be sent (%s) delay nobody and are not lost',
  async (usage) => {
    const { workers, client } = await open()
    await workers.rig.set({ usage })
    const startedAt = performance.now()
    completionOf(await client.complete({ prompt: 'p' }))
    completionOf(await client.complete({ prompt: 'p' }))
    expect(performance.now() - startedAt).toBeLessThan(10_000)
    await expect.poll(async () => (await workers.rig.counts()).flushes).toBe(1)
    completionOf(await client.complete({ prompt: 'p' }))
    await workers.rig.set({ usage: 'ok' })
    const figures = await workers.rig.figures()
    // A report that hangs may have arrived: sending it again might count it twice.
    expect(figures.hours.at(-1)?.['requests']).toBe(usage === 'hangs' ? 1 : 3)
  },
)
