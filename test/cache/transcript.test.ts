// Transcripts of the cache: each request is followed by everything that happened for it, in order.
// Runs the app in process with shared flights and a controlled clock.
import { expect, test } from 'vitest'
import {
  chunk,
  compatible,
  DONE,
  EDGE,
  jsonAnswer,
  openStream,
  type Script,
  TestApp,
  type TestAppOptions,
} from '../support/app.ts'
import { OPERATOR_TOKEN, ORIGIN, type Reply } from '../support/client.ts'
import { localFlights } from '../support/flights.ts'

const PROMPT = 'Once'
const operator = { authorization: `Bearer ${OPERATOR_TOKEN}` }

/** Records in one list the calls to flights, the upstream and KV. */
function play(options: TestAppOptions = {}) {
  const log: string[] = []
  let answers = 0
  /** The paths of the requests to flight objects. */
  const asked: string[] = []
  const inner: Script = options.upstream ?? (() => jsonAnswer(`answer ${++answers}`))
  const app = new TestApp({
    ...options,
    upstream: (request, call) => {
      log.push('load')
      return inner(request, call)
    },
    flights: (miss) => {
      const { fetchObject } = localFlights(miss)
      return async (name, request) => {
        const path = new URL(request.url).pathname.slice(1)
        asked.push(path)
        log.push(path)
        return await fetchObject(name, request)
      }
    },
  })
  const put = app.kv.put.bind(app.kv)
  app.kv.put = async (key, value, more) => {
    await put(key, value, more)
    log.push(key === 'purge' ? 'purge list written' : 'store')
  }
  /** What has happened since the last call. */
  const happened = () => log.splice(0)
  const said = (status: number, headers: Reply['headers'], text: string) => {
    const cache = (headers['cache-status'] ?? '').replace('edge-completions; ', '')
    const what = status === 200 ? textOf(text) : String(JSON.parse(text).error.code)
    return `${what} (${cache})`
  }
  return {
    app,
    asked,
    happened,
    /** Sends a request; returns what happened for it and how it was answered. */
    async ask(headers: Record<string, string> = {}, fields: object = {}) {
      const reply = await app.post({ prompt: PROMPT, ...fields }, headers)
      await calm(app)
      return [...happened(), said(reply.status, reply.headers, reply.text)]
    },
    async get(headers: Record<string, string> = {}) {
      const reply = await app.get(`prompt=${PROMPT}`, headers)
      await calm(app)
      const control = reply.headers['cache-control']
      return [...happened(), `${said(reply.status, reply.headers, reply.text)} ${control}`]
    },
    forward: (seconds: number) => {
      app.clock.ms += seconds * 1000
    },
    purge: async (body: object) =>
      await app.ask('/admin/purge', {
        method: 'POST',
        headers: { ...operator, 'content-type': 'application/json' },
        body: JSON.stringify(body),
      }),
  }
}

function textOf(body: string): string {
  if (!body.startsWith('data: ')) return String(JSON.parse(body).choices[0].text)
  return body
    .split('\n\n')
    .filter((event) => event.startsWith('data: {'))
    .flatMap((event) => JSON.parse(event.slice(6)).choices as { text: string }[])
    .map(({ text }) => text)
    .join('')
}

/** Lets the event loop run until the condition holds. */
async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise<void>((resolve) => setImmediate(resolve))
}

/** Lets flights without readers finish: they use no timers, only turns of the event loop. */
async function calm(app: TestApp): Promise<void> {
  for (let i = 0; i < 10; i++) {
    await new Promise<void>((resolve) => setImmediate(resolve))
    await app.settled()
  }
}

test('miss → join → load → store, then hits that touch no flight', async () => {
  const { ask, get, forward } = play()
  expect(await ask()).toEqual(['join', 'load', 'store', 'answer 1 (fwd=miss; stored)'])
  expect(await ask()).toEqual(['answer 1 (hit; ttl=2592000; detail=memory)'])
  expect(await ask({}, { stream: true })).toEqual(['answer 1 (hit; ttl=2592000; detail=memory)'])
  forward(61)
  expect(await ask()).toEqual(['answer 1 (hit; ttl=2591939; detail=kv)'])
  expect(await ask()).toEqual(['answer 1 (hit; ttl=2591939; detail=memory)'])
  expect(await get()).toEqual(['answer 1 (hit; ttl=2591939; detail=memory) public, max-age=300'])
})

const swr = {
  cache: {
    ttl_seconds: 100,
    stale_while_revalidate_seconds: 50,
    stale_if_error_seconds: 500,
  },
}

/** Sends twenty requests, without waiting for their background work. */
async function askMany(app: TestApp): Promise<Response[]> {
  const page = { method: 'POST', headers: { origin: ORIGIN, 'content-type': 'application/json' } }
  const body = JSON.stringify({ prompt: PROMPT })
  const asked = () => app.fetch(new Request(`${EDGE}/v1/completions`, { ...page, body }))
  return await Promise.all([...Array(20)].map(asked))
}

test('stale → serve → refresh: one refresh for many, then the new answer', async () => {
  const newer = openStream()
  const { ask, app, forward, happened } = play({
    config: swr,
    upstream: (_, call) => (call === 0 ? jsonAnswer('answer 1') : newer.response()),
  })
  await ask()
  forward(120)
  const replies = await askMany(app)
  newer.push(chunk('answer 2', 'stop') + DONE)
  newer.end()
  await calm(app)
  for (const reply of replies) {
    expect(textOf(await reply.text())).toBe('answer 1')
    expect(reply.headers.get('cache-status')).toBe('edge-completions; hit; ttl=-20; detail=stale')
    expect(reply.headers.get('cache-control')).toBe('no-store')
  }
  expect(happened()).toEqual(['refresh', 'load', 'store'])
  expect(await ask()).toEqual(['answer 2 (hit; ttl=100; detail=memory)'])
})

test('stale → serve → refresh works with flights = "none"', async () => {
  let answers = 0
  const app = new TestApp({ config: swr, upstream: () => jsonAnswer(`answer ${++answers}`) })
  await app.post({ prompt: PROMPT })
  app.clock.ms += 120_000
  for (const reply of await askMany(app)) expect(textOf(await reply.text())).toBe('answer 1')
  await calm(app)
  expect(answers).toBe(2)
  expect(textOf((await app.post({ prompt: PROMPT })).text)).toBe('answer 2')
})

test('a failed refresh keeps the old answer and is retried after a pause', async () => {
  let broken = false
  const { ask, forward } = play({
    config: { ...swr, upstreams: [noRetry] },
    upstream: () => (broken ? new Response('', { status: 400 }) : jsonAnswer('good')),
  })
  await ask()
  forward(110)
  broken = true
  const stale = 'good (hit; ttl=-10; detail=stale)'
  expect(await ask()).toEqual(['refresh', 'load', stale])
  expect(await ask()).toEqual([stale])
  forward(10)
  expect(await ask()).toEqual(['refresh', 'load', 'good (hit; ttl=-20; detail=stale)'])
  broken = false
  forward(10)
  expect(await ask()).toEqual(['refresh', 'load', 'store', 'good (hit; ttl=-30; detail=stale)'])
  expect(await ask()).toEqual(['good (hit; ttl=100; detail=memory)'])
})

const noRetry = { ...compatible, retries: 0 }

test('stale-if-error: an entry too old for stale-while-revalidate is served when the upstream fails', async () => {
  let broken = false
  const { ask, forward } = play({
    config: { ...swr, upstreams: [noRetry] },
    upstream: () => (broken ? new Response('', { status: 500 }) : jsonAnswer('good')),
  })
  await ask()
  broken = true
  forward(300)
  expect(await ask()).toEqual(['join', 'load', 'good (hit; ttl=-200; detail=stale)'])
  expect((await ask({}, { stream: true })).at(-1)).toBe('good (hit; ttl=-200; detail=stale)')
  broken = false
  expect((await ask()).at(-1)).toBe('good (fwd=miss; stored)')
  broken = true
  forward(601)
  expect((await ask()).at(-1)).toMatch(/^upstream_unavailable /)
})

test('stale-if-error does not apply to invalid requests', async () => {
  let broken = false
  const { ask, forward } = play({
    config: swr,
    upstream: () => (broken ? new Response('', { status: 400 }) : jsonAnswer('good')),
  })
  await ask()
  broken = true
  forward(300)
  expect((await ask()).at(-1)).toMatch(/^upstream_refused_request /)
})

test('budget exhausted: hits and stale answers are served, misses are not', async () => {
  const { ask, app, forward } = play({ config: swr })
  await ask()
  app.ledger.refusal = {
    granted: false,
    code: 'budget_exhausted',
    policy: 'day',
    retryAfterSeconds: 60,
    quota: 1,
    remaining: 0,
  }
  expect(await ask()).toEqual(['answer 1 (hit; ttl=100; detail=memory)'])
  forward(300)
  expect(await ask()).toEqual(['join', 'answer 1 (hit; ttl=-200; detail=stale)'])
  expect((await ask({}, { prompt: 'new' })).at(-1)).toMatch(/^budget_exhausted /)
})

const haiku = { haiku: { text: 'Write about {{topic}}.', variables: { topic: { max_chars: 9 } } } }
const purges: readonly [string, object, boolean][] = [
  ['all', { all: true }, true],
  ['this request', { request: { prompt: PROMPT, user: 'x' } }, true],
  ['its model', { model: 'default' }, true],
  ['another request', { request: { prompt: 'Twice' } }, false],
  ['a prompt', { prompt_id: 'haiku' }, false],
  ['another model', { model: 'other' }, false],
]
test.each(purges)('purge of %s → miss or still a hit', async (_, body, gone) => {
  const other = { id: 'other', upstream: 'main', upstream_model: 'model-2' }
  const { ask, get, forward, happened, purge } = play({
    config: {
      free_prompts: true,
      models: [{ id: 'default', upstream: 'main', upstream_model: 'model-1' }, other],
      prompts: haiku,
    },
  })
  await ask()
  forward(5)
  expect([(await purge(body)).status, happened()]).toEqual([200, ['purge list written']])
  if (!gone) {
    expect(await ask()).toEqual(['answer 1 (hit; ttl=2591995; detail=memory)'])
    return
  }
  expect(await get()).toEqual(['not_cached (fwd=miss) no-store'])
  // Exact to the millisecond: an answer requested just after a purge is stored.
  forward(0.001)
  expect(await ask()).toEqual(['join', 'load', 'store', 'answer 2 (fwd=miss; stored)'])
  expect(await ask()).toEqual(['answer 2 (hit; ttl=2592000; detail=memory)'])
})

const other = 'https://elsewhere.example/'
test.each<[object, number, string, string]>([
  [{}, 400, 'missing_field', 'prompt'],
  [{ prompt: { id: 'hiaku' } }, 400, 'prompt_not_found', 'prompt.id'],
  [about(other), 403, 'page_not_allowed', 'prompt.variables.page'],
  [about(`${ORIGIN}/admin`), 403, 'page_not_allowed', 'prompt.variables.page'],
])('purge of the invalid request %j → %i %s', async (request, status, code, param) => {
  const variables = { page: { from: 'url', paths: ['/posts/*'] } }
  const { purge, happened } = play({
    config: { prompts: { summary: { text: '{{page}}', variables } } },
  })
  const reply = await purge({ request })
  expect([reply.status, reply.json()]).toMatchObject([status, { error: { code, param } }])
  expect(happened()).toEqual([])
})

function about(page: string) {
  return { prompt: { id: 'summary', variables: { page } } }
}

test('purge during a load → its readers get the answer, nobody later does, and it is not stored', async () => {
  const first = openStream()
  const { app, forward, happened, ask, purge } = play({
    upstream: (_, call) => (call === 0 ? first.response() : jsonAnswer('new')),
  })
  const earlier = app.post({ prompt: PROMPT })
  await until(() => app.calls.length === 1)
  forward(2)
  await purge({ all: true })
  forward(2)
  expect(await ask()).toEqual([
    'join',
    'load',
    'purge list written',
    'join',
    'load',
    'store',
    'new (fwd=miss; stored)',
  ])
  first.push(chunk('old', 'stop') + DONE)
  first.end()
  const reply = await earlier
  await calm(app)
  expect([textOf(reply.text), reply.headers['cache-status']]).toEqual([
    'old',
    'edge-completions; fwd=miss',
  ])
  expect(happened()).toEqual([])
  expect((await ask()).at(-1)).toMatch(/^new \(hit/)
})

test('the operator’s no-cache → load → replaces the entry; a visitor’s no-cache is ignored', async () => {
  const { ask, forward } = play()
  await ask()
  forward(10)
  expect(await ask({ 'cache-control': 'no-cache' })).toEqual([
    'answer 1 (hit; ttl=2591990; detail=memory)',
  ])
  expect(await ask({ ...operator, 'cache-control': 'no-cache' })).toEqual([
    'join',
    'load',
    'store',
    'answer 2 (fwd=request)',
  ])
  expect(await ask()).toEqual(['answer 2 (hit; ttl=2592000; detail=memory)'])
  forward(61)
  expect(await ask()).toEqual(['answer 2 (hit; ttl=2591939; detail=kv)'])
})

test('no-store → neither joins nor is joined, nor stored; an existing entry is served', async () => {
  const noStore = { 'cache-control': 'no-store' }
  const said = [openStream(), openStream()] as const
  const { app, happened, ask, asked } = play({
    upstream: (_, call) => said[call]?.response() ?? jsonAnswer('alone'),
  })
  const own = app.post({ prompt: PROMPT }, noStore)
  await until(() => app.calls.length === 1)
  const shared = app.post({ prompt: PROMPT })
  await until(() => app.calls.length === 2 && asked.length === 1)
  happened()
  expect(await ask(noStore)).toEqual(['load', 'alone (fwd=miss)'])
  for (const [i, text] of ['own', 'shared'].entries()) {
    said[i]?.push(chunk(text, 'stop') + DONE)
    said[i]?.end()
  }
  expect([textOf((await own).text), textOf((await shared).text)]).toEqual(['own', 'shared'])
  await calm(app)
  expect(happened()).toEqual(['store'])
  expect(await ask(noStore)).toEqual(['shared (hit; ttl=2592000; detail=memory)'])
})

test('ttl_seconds = 0 → joined while running, never stored', async () => {
  const said = openStream()
  const { app, happened, ask, asked } = play({
    config: { cache: { ttl_seconds: 0 } },
    upstream: (_, call) => (call === 0 ? said.response() : jsonAnswer('second')),
  })
  const both = [app.post({ prompt: PROMPT }), app.post({ prompt: PROMPT })]
  await until(() => app.calls.length === 1 && asked.length === 2)
  said.push(chunk('first', 'stop') + DONE)
  said.end()
  const replies = await Promise.all(both)
  expect(replies.map(({ text }) => textOf(text))).toEqual(['first', 'first'])
  expect(replies.map(({ headers }) => headers['cache-status']).toSorted()).toEqual([
    'edge-completions; fwd=bypass',
    'edge-completions; fwd=miss; collapsed',
  ])
  await calm(app)
  expect(happened().toSorted()).toEqual(['join', 'join', 'load'])
  expect(await ask()).toEqual(['join', 'load', 'second (fwd=bypass)'])
  expect(app.kv.values.size).toBe(0)
})

test('ttl_seconds = 0 → an entry from before the setting is not served', async () => {
  const before = play()
  await before.ask()
  const { clock, kv } = before.app
  const { ask } = play({
    config: { cache: { ttl_seconds: 0 } },
    clock,
    kv,
    upstream: () => jsonAnswer('new'),
  })
  expect(await ask()).toEqual(['join', 'load', 'new (fwd=bypass)'])
})

const ada = { 'cf-connecting-ip': '192.0.2.1' }
const bob = { 'cf-connecting-ip': '192.0.2.2' }

test('free_prompts = "visitor" → own answers, of which a purge of the request removes all', async () => {
  const { ask, get, forward, purge } = play({ config: { cache: { free_prompts: 'visitor' } } })
  expect((await ask(ada)).at(-1)).toBe('answer 1 (fwd=miss; stored)')
  expect((await ask(bob)).at(-1)).toBe('answer 2 (fwd=miss; stored)')
  expect(await ask(ada)).toEqual(['answer 1 (hit; ttl=2592000; detail=memory)'])
  expect(await ask(bob)).toEqual(['answer 2 (hit; ttl=2592000; detail=memory)'])
  // HTTP caches in between must not store it for others either.
  expect(await get(bob)).toEqual(['answer 2 (hit; ttl=2592000; detail=memory) no-store'])
  await ask(bob, { prompt: 'Twice' })
  forward(0.001)
  await purge({ request: { prompt: PROMPT, stream: true } })
  forward(1)
  expect((await ask(ada)).at(-1)).toBe('answer 4 (fwd=miss; stored)')
  expect((await ask(bob)).at(-1)).toBe('answer 5 (fwd=miss; stored)')
  expect((await ask(bob, { prompt: 'Twice' })).at(-1)).toMatch(/^answer 3 \(hit/)
})

const locked = { prompt: { id: 'haiku', variables: { topic: 'sea' } } }

test('free_prompts = "off" → free prompts are never stored or joined, locked ones are', async () => {
  const { ask } = play({
    config: { free_prompts: true, cache: { free_prompts: 'off' }, prompts: haiku },
  })
  expect(await ask()).toEqual(['load', 'answer 1 (fwd=bypass)'])
  expect(await ask()).toEqual(['load', 'answer 2 (fwd=bypass)'])
  // `alone` in src/routes/completions.ts depends on the prompt, not only on the setting.
  expect(await ask({}, locked)).toEqual(['join', 'load', 'store', 'answer 3 (fwd=miss; stored)'])
  expect(await ask({}, locked)).toEqual(['answer 3 (hit; ttl=2592000; detail=memory)'])
})

test('a locked prompt’s own ttl_seconds applies; a purge by its id makes it a miss', async () => {
  const prompts = { haiku: { ...haiku.haiku, ttl_seconds: 40 } }
  const { ask, forward, purge } = play({ config: { prompts } })
  expect((await ask({}, locked)).at(-1)).toBe('answer 1 (fwd=miss; stored)')
  expect(await ask({}, locked)).toEqual(['answer 1 (hit; ttl=40; detail=memory)'])
  forward(2)
  await purge({ prompt_id: 'haiku' })
  forward(2)
  expect((await ask({}, locked)).at(-1)).toBe('answer 2 (fwd=miss; stored)')
})

const withFallback = {
  models: [
    {
      id: 'default',
      upstream: 'main',
      upstream_model: 'model-1',
      fallbacks: [{ upstream: 'spare', upstream_model: 'model-2' }],
    },
  ],
  upstreams: [noRetry, { ...noRetry, name: 'spare', base_url: 'https://spare.test/v1' }],
}

test('a fallback’s answer is fresh for 300 s, then the first upstream is tried again', async () => {
  let broken = true
  const { ask, forward } = play({
    config: withFallback,
    upstream: ({ url }) =>
      url.startsWith('https://spare.test')
        ? jsonAnswer('spare')
        : broken
          ? new Response('', { status: 500 })
          : jsonAnswer('main'),
  })
  expect((await ask()).at(-1)).toBe('spare (fwd=miss; stored)')
  expect(await ask()).toEqual(['spare (hit; ttl=300; detail=memory)'])
  broken = false
  forward(301)
  expect(await ask()).toEqual(['refresh', 'load', 'store', 'spare (hit; ttl=-1; detail=stale)'])
  expect(await ask()).toEqual(['main (hit; ttl=2592000; detail=memory)'])
})

test('GET of a stale entry is served with max-age=0 and refreshes nothing', async () => {
  const { ask, get, forward } = play({ config: swr })
  await ask()
  forward(60)
  expect(await get()).toEqual(['answer 1 (hit; ttl=40; detail=memory) public, max-age=40'])
  forward(60)
  expect(await get()).toEqual(['answer 1 (hit; ttl=-20; detail=stale) public, max-age=0'])
  expect(await get({ 'cache-control': 'no-cache' })).toHaveLength(1)
  forward(1000)
  expect(await get()).toEqual(['not_cached (fwd=miss) no-store'])
})

test('only-if-cached → a hit or 404; a stale entry is served and not refreshed', async () => {
  const { ask, forward } = play({ config: swr })
  const only = { 'cache-control': 'only-if-cached' }
  expect(await ask(only)).toEqual(['not_cached (fwd=miss)'])
  expect(await ask({ ...operator, ...only })).toEqual(['not_cached (fwd=miss)'])
  await ask()
  expect(await ask(only)).toEqual(['answer 1 (hit; ttl=100; detail=memory)'])
  forward(110)
  expect(await ask(only)).toEqual(['answer 1 (hit; ttl=-10; detail=stale)'])
})

test('an entry that another isolate has just stored in KV is found before money is spent', async () => {
  const elsewhere = play()
  const { clock, kv } = elsewhere.app
  const { ask, happened } = play({ clock, kv })
  // The first lookup here came too early.
  let looks = 0
  const get = kv.get.bind(kv)
  await elsewhere.ask()
  kv.get = async (key) => (key !== 'purge' && looks++ === 0 ? null : await get(key))
  happened()
  expect(await ask()).toEqual(['join', 'answer 1 (hit; ttl=2592000; detail=kv)'])
  expect(looks).toBe(2)
})
