// The sunset watch in workerd: the cron, `GET /health`, alerts, and what is stored. Its rules are in
// test/upstream/sunset.test.ts.
import { beforeAll, expect, inject, test } from 'vitest'
import { completionOf } from '../support/answers.ts'
import { CANARY } from '../support/canary.ts'
import { OPERATOR_TOKEN } from '../support/client.ts'
import type { RiggedWorkers } from '../support/rig.ts'
import {
  completionsStream,
  json,
  type Lane,
  refusal,
  type Script,
} from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'

const suite = workerSuite()

const DAY_MS = 86_400_000
let lane: Lane
let alerts: Lane
beforeAll(() => {
  lane = suite.upstream.lane('models')
  alerts = suite.upstream.lane('sunset-alerts').answers(json({}))
})

/** Answers calls, and has these models. */
const serving =
  (models: Readonly<Record<string, object>>): Script =>
  (call, line) => {
    const name = call.path.slice('/models/models/'.length)
    const list = Object.entries(models).map(([id, more]) => ({ id, ...more }))
    if (call.path === '/models/models') return json({ object: 'list', data: list })(call, line)
    const model = call.method === 'GET' ? name : String(call.body['model'])
    if (!Object.hasOwn(models, model)) {
      const error = { message: `The model ${model} does not exist ${CANARY}` }
      return refusal(404, { error: { ...error, code: 'model_not_found' } })(call, line)
    }
    if (call.method === 'POST') return completionsStream([`from ${model}`])(call, line)
    return json({ id: model, ...models[model] })(call, line)
  }

const config = () =>
  suite.config(
    'models',
    {
      models: [
        {
          id: 'm',
          upstream: 'u',
          upstream_model: 'first',
          fallbacks: [{ upstream: 'u', upstream_model: 'second' }],
        },
        { id: 'alone', upstream: 'u', upstream_model: 'third' },
      ],
      cache: { ttl_seconds: 3600, stale_while_revalidate_seconds: 60 },
    },
    { wire: 'completions' },
  )

async function start(persistIn?: string): Promise<RiggedWorkers> {
  lane.calls.length = 0
  alerts.calls.length = 0
  return await suite.startRigged({
    config: config(),
    secrets: {
      UPSTREAM_API_KEY: CANARY,
      OPERATOR_TOKEN,
      ALERT_URL: suite.upstream.url('sunset-alerts'),
    },
    ...(persistIn === undefined ? {} : { persistIn }),
  })
}

const health = async ({ rig }: RiggedWorkers) => {
  const { warnings } = JSON.parse((await rig.admin('/health')).text) as { warnings: string[] }
  return warnings.filter((warning) => warning.includes('of upstream'))
}

test('the cron finds what ends, warns the operator, and sends each alert once', async () => {
  const workers = await start()
  const end = new Date(Date.now() + 65 * DAY_MS).toISOString().slice(0, 10)
  const models = { first: { shutdown_date: end }, second: {}, third: {} }
  lane.answers(serving(models))
  const stepsSent = () => alerts.calls.map(({ body }) => body['step'])
  const expected: unknown[] = []
  for (const [day, step] of [[0], [3], [6, 60], [20], [36, 30], [50], [59, 7], [64]]) {
    await workers.rig.set({ clockMs: (day ?? 0) * DAY_MS })
    if (day === 20 || day === 59) await workers.rig.evict()
    await workers.cron()
    if (step !== undefined) expected.push(step)
    await expect.poll(stepsSent).toEqual(expected)
    const words = `"first" of upstream "u" ends on ${end}: choose another model for "m"`
    expect(await health(workers)).toEqual(expected.length === 0 ? [] : [words])
  }
  await workers.rig.set({ clockMs: 66 * DAY_MS })
  lane.answers(serving({ second: {}, third: {} }))
  await Promise.all([workers.cron(), workers.cron()])
  await workers.cron()
  await expect.poll(stepsSent).toEqual([60, 30, 7, 'gone'])
  expect(alerts.calls[3]?.body).toEqual({
    event: 'model_ending',
    models: ['m'],
    upstream: 'u',
    upstream_model: 'first',
    step: 'gone',
    ends_on: end,
    tokens_per_day: 200_000,
    spent: 0,
    reserved: 0,
    usd_per_day: 0,
    usd_spent: 0,
    paused_until: null,
  })
  expect(await health(workers)).toEqual([
    '"first" of upstream "u" is gone: choose another model for "m"',
  ])
  expect(workers.log.all('model_ending').map(({ step }) => step)).toEqual([60, 30, 7, 'gone'])
  expect((await workers.client().send({ path: '/health' })).text).toBe('{"status":"ok"}')
  const { settings } = await workers.rig.rows()
  expect(settings.filter(({ name }) => name === 'watch')).toHaveLength(1)
  expect(JSON.stringify(settings)).not.toContain(CANARY)
  const reads = lane.calls.filter(({ path }) => path === '/models/models')
  expect(reads).toHaveLength(11)
  for (const { headers } of reads) expect(headers['authorization']).toBe(`Bearer ${CANARY}`)
})

test('visitors see no error when a model ends: a fallback or the stored answer', async () => {
  const workers = await start()
  lane.answers(serving({ first: {}, second: {}, third: {} }))
  const ask = async (model: string, prompt: string) =>
    completionOf(await workers.client().complete({ model, prompt })).choices[0]?.text
  expect(await ask('m', 'p')).toBe('from first')
  expect(await ask('alone', 'p')).toBe('from third')
  lane.answers(serving({ second: {} }))
  expect(await ask('m', 'another')).toBe('from second')
  // Long after the time for which answers are fresh.
  for (const days of [1, 10, 29, 50, 70, 90]) {
    await workers.rig.set({ clockMs: days * DAY_MS })
    expect(await ask('m', `new ${days}`)).toBe('from second')
    expect(await ask('alone', 'p')).toBe('from third')
  }
  const failed = await workers.client().complete({ model: 'alone', prompt: 'never asked' })
  expect(failed.status).toBe(502)
  expect(failed.text).not.toMatch(/third|exist|127\.0\.0\.1/)
})

test('wrangler.toml has a cron, once a day', () => {
  expect(inject('wranglerConfig').triggers?.crons).toEqual([
    expect.stringMatching(/^\d+ \d+ \* \* \*$/),
  ])
})

test('without the ledger there is no warning, GET /health answers, and the cron ends', async () => {
  const workers = await start()
  lane.answers(serving({}))
  await workers.rig.set({ ledger: 'hangs' })
  expect(await health(workers)).toEqual([])
  await workers.rig.set({ ledger: 'throws' })
  expect(await health(workers)).toEqual([])
  await workers.cron()
  await expect.poll(() => workers.log.all('internal')).toHaveLength(1)
  workers.log.events.splice(0)
})
