// The sunset watch over many days, with a clock that the tests move: warnings, alerts, and what
// visitors get when a model ends.
import { describe, expect, test } from 'vitest'
import { compatible, DONE, jsonAnswer, START, TestApp } from '../support/app.ts'
import { CANARY } from '../support/canary.ts'
import { OPERATOR_TOKEN } from '../support/client.ts'

const DAY_MS = 86_400_000
const dateAfter = (days: number) => new Date(START + days * DAY_MS).toISOString()

/** A model server of which tests say what it has. */
function modelServer(names: readonly string[] = ['model-1', 'other']) {
  const models = new Map<string, object>(names.map((id) => [id, {}]))
  const server = {
    models,
    /** What answers `GET /models`, if it is not the list. */
    list: null as (() => Response) | null,
    /** It has a path for each model. */
    hasModelPath: true,
    calls: [] as string[],
    answer: async (request: Request): Promise<Response> => {
      const { pathname } = new URL(request.url)
      if (request.method === 'POST') {
        const { model } = (await request.json()) as { model: string }
        server.calls.push(model)
        return models.has(model) ? jsonAnswer(`from ${model}`) : noSuchModel(model)
      }
      if (pathname === '/v1/models' && server.list !== null) return server.list()
      if (pathname === '/v1/models') {
        return Response.json({ data: [...models].map(([id, more]) => ({ id, ...more })) })
      }
      const id = pathname.slice('/v1/models/'.length)
      if (!server.hasModelPath) return Response.json({ detail: 'Not Found' }, { status: 404 })
      return models.has(id) ? Response.json({ id, ...models.get(id) }) : noSuchModel(id)
    },
  }
  return server
}

const noSuchModel = (id: string) =>
  Response.json(
    { error: { message: `The model '${id}' does not exist ${CANARY}`, code: 'model_not_found' } },
    { status: 404 },
  )

function start(config: Readonly<Record<string, unknown>> = {}, names?: readonly string[]) {
  const server = modelServer(names)
  const app = new TestApp({ config, upstream: (request) => server.answer(request) })
  const health = async (headers: Record<string, string> = {}) =>
    (await app.ask('/health', { headers })).json() as { warnings?: string[] }
  return {
    app,
    server,
    health,
    warnings: async () =>
      (await health({ authorization: `Bearer ${OPERATOR_TOKEN}` })).warnings?.filter((warning) =>
        warning.includes('of upstream'),
      ),
    /** Moves the clock to a day, counted from the start, and runs the cron. */
    day: async (day: number) => {
      app.clock.ms = START + day * DAY_MS
      await app.checkModels()
    },
    steps: () => app.endings.map(({ step }) => step),
  }
}

const two = {
  models: [
    { id: 'a', upstream: 'main', upstream_model: 'model-1' },
    { id: 'b', upstream: 'main', upstream_model: 'model-2' },
  ],
}

describe('a date', () => {
  test('is a warning and an alert 60, 30 and 7 days before, once each in 100 days', async () => {
    const { server, day, steps, warnings, app } = start()
    server.models.set('model-1', { shutdown_date: dateAfter(80) })
    const seen: Record<number, unknown[]> = {}
    for (let now = 0; now < 100; now++) {
      if (now === 81) server.models.delete('model-1')
      await day(now)
      if (app.endings.length > 0) seen[now] = app.endings.splice(0).map(({ step }) => step)
      const words =
        now < 20
          ? []
          : [expect.stringContaining(now < 81 ? `on ${dateAfter(80).slice(0, 10)}` : 'is gone')]
      expect(await warnings()).toEqual(words)
    }
    expect(seen).toEqual({ 20: [60], 50: [30], 73: [7], 81: ['gone'] })
    expect(steps()).toEqual([])
  })

  test('names the model, the upstream, the date and the ids', async () => {
    const { server, day, app, warnings } = start({
      models: [
        { id: 'a', upstream: 'main', upstream_model: 'model-1' },
        {
          id: 'b',
          upstream: 'main',
          upstream_model: 'other',
          fallbacks: [{ upstream: 'main', upstream_model: 'model-1' }],
        },
      ],
    })
    server.models.set('model-1', { shutdown_date: '2026-01-31' })
    await day(0)
    expect(app.endings).toEqual([
      {
        event: 'model_ending',
        models: ['a', 'b'],
        upstream: 'main',
        upstream_model: 'model-1',
        step: 30,
        ends_on: '2026-01-31',
      },
    ])
    expect(await warnings()).toEqual([
      '"model-1" of upstream "main" ends on 2026-01-31: choose another model for "a", "b"',
    ])
    app.clock.ms = Date.parse('2026-02-01')
    expect(await warnings()).toEqual([
      '"model-1" of upstream "main" was to end on 2026-01-31: choose another model for "a", "b"',
    ])
  })

  test('that is near when it is first seen is one alert', async () => {
    const { server, day, steps } = start()
    server.models.set('model-1', { shutdown_date: dateAfter(5) })
    for (const now of [0, 1, 2]) await day(now)
    expect(steps()).toEqual([7])
  })

  test('that is postponed ends the warning, and sends no alert twice', async () => {
    const { server, day, steps, warnings } = start()
    server.models.set('model-1', { shutdown_date: dateAfter(20) })
    await day(0)
    server.models.set('model-1', { shutdown_date: dateAfter(200) })
    await day(1)
    expect(await warnings()).toEqual([])
    for (const now of [150, 175, 195]) await day(now)
    expect(steps()).toEqual([30, 7])
  })

  test('is a warning on the day it comes near, without another check', async () => {
    const { server, day, app, warnings } = start()
    server.models.set('model-1', { shutdown_date: dateAfter(100) })
    await day(0)
    expect(await warnings()).toEqual([])
    app.clock.ms = START + 41 * DAY_MS
    expect(await warnings()).toHaveLength(1)
  })
})

describe('a model is gone', () => {
  test('when the upstream says so, and the other model of its upstream is not', async () => {
    const { server, day, app, warnings } = start(two, ['model-1', 'model-2'])
    await day(0)
    server.models.delete('model-2')
    await day(1)
    await day(2)
    expect(app.endings).toEqual([
      expect.objectContaining({ upstream_model: 'model-2', step: 'gone', models: ['b'] }),
    ])
    expect(await warnings()).toEqual([
      '"model-2" of upstream "main" is gone: choose another model for "b"',
    ])
  })

  test('even if it was never listed, as after a wrong name in the settings', async () => {
    const { day, steps } = start(two, ['model-1'])
    await day(0)
    expect(steps()).toEqual(['gone'])
  })

  test('on the second day, if the upstream has only a list', async () => {
    const { server, day, steps } = start()
    server.hasModelPath = false
    await day(0)
    server.models.delete('model-1')
    await day(1)
    await day(1.2)
    expect(steps()).toEqual([])
    await day(2)
    expect(steps()).toEqual(['gone'])
  })

  test('and back: the warning ends, and the alert is not repeated', async () => {
    const { server, day, steps, warnings } = start()
    for (const now of [0, 1, 2, 3]) {
      if (now % 2 === 0) server.models.delete('model-1')
      else server.models.set('model-1', {})
      await day(now)
      expect(await warnings()).toHaveLength(now % 2 === 0 ? 1 : 0)
    }
    expect(steps()).toEqual(['gone'])
  })
})

describe('a model is not gone', () => {
  test('after one day without it', async () => {
    const { server, day, steps } = start()
    server.hasModelPath = false
    for (let now = 0; now < 20; now++) {
      if (now % 2 === 0) server.models.set('model-1', {})
      else server.models.delete('model-1')
      await day(now)
    }
    expect(steps()).toEqual([])
  })

  test('if its upstream has a list that never had it', async () => {
    const { server, day, steps, warnings } = start({}, ['other', 'another'])
    server.hasModelPath = false
    for (const now of [0, 1, 2, 3]) await day(now)
    expect(steps()).toEqual([])
    expect(await warnings()).toEqual([])
  })

  test('if the list of a server with another address does not have it', async () => {
    const before = start()
    await before.day(0)
    const moved = { upstreams: [{ ...compatible, base_url: 'https://moved.test/v1' }] }
    const after = start(moved, ['other'])
    after.server.hasModelPath = false
    after.app.watch = before.app.watch
    for (const now of [1, 2, 3]) await after.day(now)
    expect(after.steps()).toEqual([])
  })

  test.each<[string, () => Response]>([
    ['fails', () => new Response('no', { status: 500 })],
    ['is empty', () => Response.json({ data: [] })],
    ['is one page of several', () => Response.json({ data: [{ id: 'other' }], has_more: true })],
    ['is of another shape', () => Response.json({ result: [{ id: 'other' }] })],
    ['is refused', () => new Response(null, { status: 401 })],
  ])('while its list %s for days, and a date stays known', async (_, list) => {
    const { server, day, steps, warnings } = start()
    server.models.set('model-1', { shutdown_date: dateAfter(40) })
    await day(0)
    server.list = list
    server.models.delete('model-1')
    for (const now of [1, 2, 3, 4, 5]) await day(now)
    expect(steps()).toEqual([60])
    expect(await warnings()).toEqual([expect.stringContaining('ends on 2026-02-10')])
    await day(11)
    expect(steps()).toEqual([60, 30])
  })
})

test('a model that is no longer configured is forgotten', async () => {
  const { server, day, app } = start(two, ['model-1', 'model-2'])
  server.models.set('model-2', { shutdown_date: dateAfter(5) })
  await day(0)
  const changed = start()
  changed.app.watch = app.watch
  expect(await changed.warnings()).toEqual([])
  await changed.day(1)
  expect(Object.keys(changed.app.watch)).toEqual(['main https://upstream.test/v1 model-1'])
})

test('Workers AI and the demo model are not asked', async () => {
  const { app, day } = start({
    models: [
      { id: 'w', upstream: 'ai', upstream_model: '@cf/m' },
      { id: 'd', upstream: 'demo', upstream_model: 'demo' },
    ],
    upstreams: [
      { name: 'ai', preset: 'workers-ai' },
      { name: 'demo', preset: 'demo' },
    ],
  })
  await day(0)
  expect(app.calls).toEqual([])
})

test('only the operator sees warnings, and nothing shows a key or an address', async () => {
  const { server, day, health, app } = start()
  server.models.delete('model-1')
  await day(0)
  expect(await health()).toEqual({ status: 'ok' })
  const texts = JSON.stringify([app.endings, app.watch])
  expect(texts).not.toContain(CANARY)
  expect(JSON.stringify(app.endings)).not.toContain('https')
})

test('GET /health works without the ledger, after a second', async () => {
  const { app, warnings } = start()
  Object.defineProperty(app, 'watch', {
    get: () => {
      throw new Error('words from inside')
    },
  })
  expect(await warnings()).toEqual([])
})

describe('visitors', () => {
  const fallback = {
    models: [
      {
        id: 'default',
        upstream: 'main',
        upstream_model: 'model-1',
        fallbacks: [{ upstream: 'main', upstream_model: 'other' }],
      },
    ],
  }

  test.each([404, 410])('get the fallback after one %i of the model', async (status) => {
    const models: string[] = []
    const app = new TestApp({
      config: { ...fallback, upstreams: [{ ...compatible, retries: 5 }] },
      upstream: async (request) => {
        const { model } = (await request.json()) as { model: string }
        models.push(model)
        return model === 'other' ? jsonAnswer('fine') : new Response('gone', { status })
      },
    })
    const reply = await app.post({ prompt: 'p' })
    expect(reply.status).toBe(200)
    expect(models).toEqual(['model-1', 'other'])
    expect(app.waits).toEqual([])
  })

  test('see no error in the seconds around the shutdown, streamed or not', async () => {
    const { app, server } = start(fallback)
    for (let ms = -5000; ms <= 5000; ms += 100) {
      app.clock.ms = START + ms
      if (ms === 0) server.models.delete('model-1')
      const replies = await Promise.all([
        app.post({ prompt: `prompt ${ms}` }),
        app.post({ prompt: `stream ${ms}`, stream: true }),
        app.post({ prompt: 'the same' }),
      ])
      expect(replies.map(({ status }) => status)).toEqual([200, 200, 200])
      expect(replies[1]?.text).toContain(DONE)
    }
    // Each new prompt asks the ended model once, and then the fallback.
    expect(server.calls.filter((model) => model === 'other').length).toBe(102)
  })

  test('go on being served what was answered, for years after its model has ended', async () => {
    const { app, server } = start()
    expect((await app.post({ prompt: 'p' })).status).toBe(200)
    server.models.delete('model-1')
    app.kv.puts.splice(0)
    for (let day = 1; day < 1000; day += 9) {
      app.clock.ms = START + day * DAY_MS
      const reply = await app.post({ prompt: 'p' })
      expect([day, reply.status, reply.json()]).toMatchObject([
        day,
        200,
        { choices: [{ text: 'from model-1' }] },
      ])
      expect(reply.headers['age']).toBe(String(day * 86_400))
    }
    // About twice a month, not with each request.
    expect(app.kv.puts.length).toBeLessThan(60)
    expect((await app.post({ prompt: 'never answered' })).status).toBe(502)
  })

  test('are served a purged answer no longer, also after its model has ended', async () => {
    const { app, server } = start()
    await app.post({ prompt: 'p' })
    server.models.delete('model-1')
    app.clock.ms = START + 59 * DAY_MS
    expect((await app.post({ prompt: 'p' })).status).toBe(200)
    app.clock.ms += 1000
    const purged = await app.ask('/admin/purge', {
      method: 'POST',
      headers: { authorization: `Bearer ${OPERATOR_TOKEN}` },
      body: JSON.stringify({ all: true }),
    })
    expect(purged.status).toBe(200)
    expect((await app.post({ prompt: 'p' })).status).toBe(502)
  })

  test('are not served an answer that nobody asked for within stale_if_error_seconds', async () => {
    const { app, server } = start()
    await app.post({ prompt: 'p' })
    server.models.delete('model-1')
    app.clock.ms = START + 61 * DAY_MS
    expect((await app.post({ prompt: 'p' })).status).toBe(502)
  })
})
