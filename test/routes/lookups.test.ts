// What is served from the cache if a prompt has last answers: to visitors of a prompt with
// spend = "operator", and for pages. page-variables.test.ts covers when a page is fetched.
import { describe, expect, test, vi } from 'vitest'
import {
  compatible,
  jsonAnswer,
  type Reply,
  START,
  TestApp,
  type TestAppOptions,
} from '../support/app.ts'
import { ORIGIN } from '../support/client.ts'
import { localFlights } from '../support/flights.ts'
import {
  askAbout as ask,
  chatAnswer,
  codeOf,
  html,
  OPERATOR,
  type PagesSetup,
  queryAbout as query,
  startWithPages,
  textOf,
  URL_A,
} from '../support/pages.ts'

const operators = { spend: 'operator' }

/** Another configuration over the same storage and clock, as after a deploy: memory is empty. */
function deployed({ app, site }: ReturnType<typeof startWithPages>, setup: PagesSetup) {
  return startWithPages({ kv: app.kv, clock: app.clock, site, ...setup })
}

const statusOf = (reply: Reply) => reply.headers['cache-status']?.replace('edge-completions; ', '')

/** Counts KV reads from now on, without those of the purge list. */
function readsOf({ kv }: TestApp) {
  const get = vi.spyOn(kv, 'get')
  return () => get.mock.calls.map(([key]) => key).filter((key) => key !== 'purge')
}

async function purge(app: TestApp, body: object): Promise<Reply> {
  const headers = { ...OPERATOR, 'content-type': 'application/json' }
  return await app.ask('/admin/purge', { method: 'POST', headers, body: JSON.stringify(body) })
}

const changes: readonly [string, PagesSetup][] = [
  ['the prompt’s text', { prompt: { ...operators, text: 'In one sentence: {{page}}' } }],
  ['its system message', { prompt: { ...operators, system: 'You summarise.' } }],
  ['its parameters', { prompt: { ...operators, parameters: { temperature: 0.1 } } }],
  ['its max_tokens', { prompt: { ...operators, max_tokens: 7 } }],
  ['the owner’s defaults', { prompt: operators, config: { defaults: { temperature: 0.3 } } }],
  [
    'the model behind its alias',
    {
      prompt: operators,
      config: { models: [{ id: 'default', upstream: 'main', upstream_model: 'model-2' }] },
    },
  ],
  [
    'the model’s name',
    {
      prompt: operators,
      config: { models: [{ id: 'other', upstream: 'main', upstream_model: 'model-1' }] },
    },
  ],
]

describe('visitors of a prompt that only the operator may spend on', () => {
  test('are served the last answer if no upstream can do any more what the owner sets', async () => {
    const before = startWithPages({ prompt: operators })
    await before.app.post(ask(URL_A), OPERATOR)
    const upstreams = [{ ...compatible, unsupported: ['logprobs'] }]
    const config = { defaults: { logprobs: 1 }, upstreams }
    const { app } = deployed(before, { prompt: operators, config })
    for (const got of [await app.get(query(URL_A)), await app.post(ask(URL_A))]) {
      expect([textOf(got), statusOf(got)]).toEqual(['answer 1', 'hit; detail=previous'])
    }
    expect(codeOf(await app.post(ask(URL_A), OPERATOR))[1]).toBe('unsupported_by_upstream')
  })

  test.each(changes)('are served the last answer after a change of %s', async (_, change) => {
    const before = startWithPages({ prompt: operators })
    expect(statusOf(await before.app.post(ask(URL_A), OPERATOR))).toBe('fwd=miss; stored')
    const { app, site } = deployed(before, change)
    app.clock.ms += 5000
    const reads = readsOf(app)
    const got = await app.get(query(URL_A))
    expect([textOf(got), statusOf(got)]).toEqual(['answer 1', 'hit; detail=previous'])
    expect(got.headers['cache-control']).toBe('public, max-age=0')
    expect(got.headers['age']).toBe('5')
    expect(reads()).toHaveLength(1)
    const posted = await app.post(ask(URL_A))
    expect([textOf(posted), statusOf(posted)]).toEqual(['answer 1', 'hit; detail=previous'])
    expect(posted.headers['cache-control']).toBe('no-store')
    expect(app.lines.map(({ cache }) => cache)).toEqual(['previous', 'previous'])
    expect(site.fetches).toHaveLength(1)
    // Until a new one is stored. The operator's POST ignores the old one.
    const only = { ...OPERATOR, 'cache-control': 'only-if-cached' }
    expect(codeOf(await app.post(ask(URL_A), only))[1]).toBe('not_cached')
    expect(statusOf(await app.get(query(URL_A)))).toBe('hit; detail=previous')
    expect(statusOf(await app.post(ask(URL_A), OPERATOR))).toBe('fwd=miss; stored')
    const renewed = await app.get(query(URL_A))
    expect([textOf(renewed), statusOf(renewed)]).toEqual([
      'answer 2',
      'hit; ttl=2592000; detail=memory',
    ])
  })

  test('are served it in every shape, with its own ETag, and can resume a stream', async () => {
    const before = startWithPages({ prompt: operators })
    const whole = await before.app.post(ask(URL_A), OPERATOR)
    const { id } = whole.json() as { id: string }
    const { app } = deployed(before, { prompt: { ...operators, text: 'New: {{page}}' } })
    const stream = await app.post({ ...ask(URL_A), stream: true })
    expect(statusOf(stream)).toBe('hit; detail=previous')
    expect(stream.text).toMatch(/"text":"answer 1".*\[DONE\]\n\n$/s)
    const text = await app.get(query(URL_A), { accept: 'text/plain' })
    expect([text.text, text.headers['etag']]).toEqual(['answer 1', `"${id}.text"`])
    const same = await app.get(query(URL_A), { 'if-none-match': `"${id}.json"` })
    expect([same.status, statusOf(same)]).toEqual([304, 'hit; detail=previous'])
    const resumed = await app.post({ ...ask(URL_A), stream: true }, { 'last-event-id': `${id}:7` })
    expect(resumed.text).toContain('"text":"1"')
    const only = await app.post(ask(URL_A), { 'cache-control': 'only-if-cached' })
    expect(textOf(only)).toBe('answer 1')
    const head = await app.ask(`/v1/completions?${query(URL_A)}`, { method: 'HEAD' })
    expect([head.status, head.text, statusOf(head)]).toEqual([200, '', 'hit; detail=previous'])
  })

  test('are served it after every TTL as stale, also if the page has changed, but not as previous', async () => {
    const { app, site } = startWithPages({
      prompt: { ...operators, ttl_seconds: 60 },
      config: { cache: { stale_while_revalidate_seconds: 0, stale_if_error_seconds: 0 } },
    })
    await app.post(ask(URL_A), OPERATOR)
    site.put('/posts/a', 'A second text.', 'v2')
    app.clock.ms += 3 * 365 * 86_400_000
    const reply = await app.post(ask(URL_A))
    expect([textOf(reply), statusOf(reply)]).toEqual([
      'answer 1',
      `hit; ttl=${60 - 3 * 365 * 86_400}; detail=stale`,
    ])
    expect(app.lines.at(-1)?.cache).toBe('stale')
    expect((await app.get(query(URL_A))).headers['cache-control']).toBe('public, max-age=0')
    expect(site.fetches).toHaveLength(1)
  })

  test('are served it after entry_bytes was lowered below its size', async () => {
    const before = startWithPages({ prompt: operators })
    await before.app.post(ask(URL_A), OPERATOR)
    const { app } = deployed(before, {
      prompt: operators,
      config: { cache: { entry_bytes: 100 } },
    })
    expect(textOf(await app.get(query(URL_A)))).toBe('answer 1')
    expect(app.kv.deleted).toEqual([])
  })

  test('are served it at the cost of one KV write and one KV read', async () => {
    const before = startWithPages({ prompt: operators })
    await before.app.post(ask(URL_A), OPERATOR)
    expect(before.app.kv.puts).toEqual([expect.stringMatching(/^l1:[0-9a-f]{64}$/)])
    const [[key, stored] = []] = before.app.kv.values
    expect(stored?.ttl).toBe(315_360_000)
    expect(stored?.value).not.toContain('The first text')
    const { app } = deployed(before, { prompt: operators })
    const reads = readsOf(app)
    expect(statusOf(await app.post(ask(URL_A)))).toBe('hit; ttl=2592000; detail=kv')
    expect(reads()).toEqual([key])
    expect(statusOf(await app.post(ask(URL_A)))).toBe('hit; ttl=2592000; detail=memory')
    expect(reads()).toHaveLength(1)
  })

  test.each([
    ['the page', { page: URL_A }],
    ['the page by another of its addresses', { page: `${ORIGIN}/posts/a/index.html?x=1` }],
    ['the prompt', { prompt_id: 'summary' }],
    ['the model', { model: 'default' }],
    ['the request', { request: { ...ask(`${URL_A}/`), stream: true } }],
    ['everything', { all: true }],
  ])('are not served it after a purge of %s, but a new one immediately', async (_, target) => {
    const before = startWithPages({ prompt: operators })
    await before.app.post(ask(URL_A), OPERATOR)
    for (const prompt of [operators, { ...operators, text: 'New: {{page}}' }]) {
      const { app } = deployed(before, { prompt })
      expect((await app.get(query(URL_A))).status).toBe(200)
      app.clock.ms += 1
      expect((await purge(app, target)).status).toBe(200)
      expect(codeOf(await app.get(query(URL_A)))[1]).toBe('not_cached')
      expect(codeOf(await app.post(ask(URL_A)))[1]).toBe('not_cached')
      const later = deployed(before, { prompt })
      expect(codeOf(await later.app.get(query(URL_A)))[1]).toBe('not_cached')
      app.clock.ms += 1000
      expect(statusOf(await app.post(ask(URL_A), OPERATOR))).toBe('fwd=miss; stored')
      expect((await app.get(query(URL_A))).status).toBe(200)
    }
  })

  test('are served it after a purge of something else, but not under a new cache.version', async () => {
    const models = [
      { id: 'default', upstream: 'main', upstream_model: 'model-1' },
      { id: 'other', upstream: 'main', upstream_model: 'model-2' },
    ]
    const before = startWithPages({ prompt: operators, config: { models } })
    await before.app.post(ask(URL_A), OPERATOR)
    before.app.clock.ms += 1
    for (const target of [
      { page: `${ORIGIN}/posts/b` },
      { model: 'other' },
      { request: ask(`${ORIGIN}/posts/b`) },
    ]) {
      await purge(before.app, target)
      before.app.clock.ms += 1000
    }
    expect(textOf(await before.app.get(query(URL_A)))).toBe('answer 1')
    const { app } = deployed(before, { prompt: operators, config: { cache: { version: 2 } } })
    expect(codeOf(await app.get(query(URL_A)))[1]).toBe('not_cached')
  })

  test('keep it if the operator’s new answer is incomplete or must not be stored', async () => {
    const { app, site } = startWithPages({ prompt: operators })
    await app.post(ask(URL_A), OPERATOR)
    site.put('/posts/a', 'A second text.', 'v2')
    app.clock.ms += 2000
    // The first step of warming finds no answer to this page.
    const looked = await app.post(ask(URL_A), { ...OPERATOR, 'cache-control': 'only-if-cached' })
    expect(codeOf(looked)[1]).toBe('not_cached')
    const failing: [() => Response, object, Record<string, string>][] = [
      [() => chatAnswer('half', 'content_filter'), {}, {}],
      [() => chatAnswer('half', 'content_filter'), { stream: true }, {}],
      [() => chatAnswer(''), {}, {}],
      [() => new Response('no', { status: 500 }), {}, {}],
      [() => chatAnswer('not to be stored'), {}, { 'cache-control': 'no-store' }],
    ]
    for (const [upstream, fields, headers] of failing) {
      site.upstream = upstream
      await app.post({ ...ask(URL_A), ...fields }, { ...OPERATOR, ...headers })
      expect(textOf(await app.get(query(URL_A)))).toBe('answer 1')
    }
    site.upstream = () => chatAnswer('new')
    await app.post({ ...ask(URL_A), stream: true }, OPERATOR)
    // A stream cannot tell whether its answer was stored; a later request can.
    await app.post(ask(URL_A), OPERATOR)
    expect(textOf(await app.get(query(URL_A)))).toBe('new')
    expect(site.prompts).toHaveLength(failing.length + 2)
  })

  test('are served the answer that the operator forced, even if the page has not changed', async () => {
    const { app, site } = startWithPages({ prompt: operators })
    await app.post(ask(URL_A), OPERATOR)
    app.clock.ms += 2000
    const forced = await app.post(ask(URL_A), { ...OPERATOR, 'cache-control': 'no-cache' })
    expect([textOf(forced), statusOf(forced)]).toEqual(['answer 2', 'fwd=request'])
    expect(textOf(await app.get(query(URL_A)))).toBe('answer 2')
    expect(site.prompts[1]?.prompt).toContain('The first text.')
  })

  test('are served the answer to the current page, also if the page returns to an earlier version', async () => {
    const { app, site } = startWithPages({
      prompt: operators,
      flights: (miss) => localFlights(miss).fetchObject,
    })
    for (const [text, expected] of [
      ['One.', 'answer 1'],
      ['Two.', 'answer 2'],
      ['One.', 'answer 1'],
      ['Two.', 'answer 2'],
    ] as const) {
      site.put('/posts/a', text)
      app.clock.ms += 2000
      const reply = await app.post(ask(URL_A), OPERATOR)
      // A flight that still has the answer returns it without a new call.
      expect(textOf(reply)).toBe(expected)
      expect(textOf(await app.get(query(URL_A)))).toBe(expected)
    }
    const later = deployed({ app, site }, { prompt: operators })
    expect(textOf(await later.app.get(query(URL_A)))).toBe('answer 2')
  })

  test('are served a fallback’s answer, which is fresh for 300 s and then replaced by warming', async () => {
    const models = [
      {
        id: 'default',
        upstream: 'main',
        upstream_model: 'model-1',
        fallbacks: [{ upstream: 'spare', upstream_model: 'model-9' }],
      },
    ]
    const upstream = { ...compatible, wire: 'chat', stream: 'visitor', retries: 0 }
    const config = { models, upstreams: [upstream, { ...upstream, name: 'spare' }] }
    const { app, site } = startWithPages({ prompt: operators, config })
    let calls = 0
    site.upstream = () =>
      calls++ === 0 ? new Response('no', { status: 500 }) : chatAnswer(`call ${calls}`)
    await app.post(ask(URL_A), OPERATOR)
    app.clock.ms += 301_000
    expect(statusOf(await app.get(query(URL_A)))).toBe('hit; ttl=-1; detail=stale')
    const looked = await app.post(ask(URL_A), { ...OPERATOR, 'cache-control': 'only-if-cached' })
    expect(statusOf(looked)).toBe('hit; ttl=-1; detail=stale')
    await app.post(ask(URL_A), { ...OPERATOR, 'cache-control': 'no-cache' })
    expect(textOf(await app.get(query(URL_A)))).toBe('call 3')
  })

  test('find one page by all of its addresses, for each value of the fields they may set', async () => {
    const before = startWithPages({ prompt: { ...operators, visitor_may_set: ['seed', 'stop'] } })
    before.site.put('/posts/a/', 'The first text.')
    await before.app.post({ ...ask(`${URL_A}/`), seed: 1, stop: 'x' }, OPERATOR)
    expect(before.site.fetches.map(({ url }) => url)).toEqual([`${URL_A}/`])
    const { app } = deployed(before, {
      prompt: { ...operators, visitor_may_set: ['seed', 'stop'], text: 'New: {{page}}' },
    })
    for (const url of ['', '/', '.html', '/index.html', '/index.htm', '/index', '?a=b#c']) {
      const same = { ...ask(URL_A + url), seed: 1, stop: ['x'], user: 'ada', temperature: null }
      expect(textOf(await app.post(same)), url).toBe('answer 1')
      expect(codeOf(await app.post({ ...same, seed: 2 }))[1]).toBe('not_cached')
      expect(codeOf(await app.post(ask(URL_A + url)))[1]).toBe('not_cached')
    }
  })

  test('share the answer if they set a field to the owner’s value', async () => {
    const prompt = { ...operators, visitor_may_set: ['max_tokens', 'temperature'], max_tokens: 50 }
    const { app } = startWithPages({ prompt })
    await app.post(ask(URL_A), OPERATOR)
    expect(textOf(await app.post({ ...ask(URL_A), max_tokens: 50, temperature: 1 }))).toBe(
      'answer 1',
    )
    expect(codeOf(await app.post({ ...ask(URL_A), max_tokens: 49 }))[1]).toBe('not_cached')
    const warm = startWithPages({ prompt, config: { defaults: { temperature: 0.5 } } })
    await warm.app.post(ask(URL_A), OPERATOR)
    expect(codeOf(await warm.app.post({ ...ask(URL_A), temperature: 1 }))[1]).toBe('not_cached')
  })

  test('get not_cached if nothing is stored, after one KV read and without a fetch', async () => {
    const { app, site } = startWithPages({ prompt: operators })
    const reads = readsOf(app)
    for (const reply of [await app.get(query(URL_A)), await app.post(ask(URL_A))]) {
      expect(codeOf(reply)).toEqual([404, 'not_cached', null])
      expect(statusOf(reply)).toBe('fwd=miss')
    }
    expect(reads()).toHaveLength(2)
    expect(site.fetches).toEqual([])
    expect(app.lines.map(({ cache }) => cache)).toEqual(['miss', 'miss'])
  })

  test('are served nothing if ttl_seconds = 0', async () => {
    const before = startWithPages({ prompt: operators })
    await before.app.post(ask(URL_A), OPERATOR)
    const { app } = deployed(before, { prompt: { ...operators, ttl_seconds: 0 } })
    expect(codeOf(await app.get(query(URL_A)))[1]).toBe('not_cached')
  })

  test.each([
    ['not JSON', '{'],
    ['another request’s', { key: `l1:${'0'.repeat(64)}` }],
    ['without its source', { source: undefined }],
    ['with an injected header', { source: { pages: [{ etag: '"a"\r\nx: y' }] } }],
    ['of another schema', { schema: 3 }],
    ['with an extra field', { more: 1 }],
  ])(
    'are not served a stored value that is %s; the operator’s POST replaces it',
    async (_, change) => {
      const before = startWithPages({ prompt: operators })
      await before.app.post(ask(URL_A), OPERATOR)
      const [[key = '', stored] = []] = before.app.kv.values
      const value =
        typeof change === 'string'
          ? change
          : JSON.stringify({ ...JSON.parse(stored?.value ?? ''), ...change })
      before.app.kv.values.set(key, { value, expiresAt: Infinity, ttl: 60 })
      const { app } = deployed(before, { prompt: operators })
      expect(codeOf(await app.get(query(URL_A)))[1]).toBe('not_cached')
      expect(app.kv.deleted).toEqual([key])
      app.clock.ms += 2000
      expect(statusOf(await app.post(ask(URL_A), OPERATOR))).toBe('fwd=miss; stored')
    },
  )
})

describe('a prompt without pages that only the operator may spend on', () => {
  const haiku = { text: 'About {{topic}}', variables: { topic: { max_chars: 9 } }, ...operators }
  const sea = { prompt: { id: 'haiku', variables: { topic: 'sea' } } }
  const start = (prompt: object = {}, more: TestAppOptions = {}) => {
    let answers = 0
    const upstream = () => jsonAnswer(`answer ${++answers}`)
    return new TestApp({
      upstream,
      ...more,
      config: { prompts: { haiku: { ...haiku, ...prompt } } },
    })
  }
  const redeployed = ({ kv, clock }: TestApp, prompt: object) =>
    start(prompt, { kv, clock, upstream: () => jsonAnswer('new') })

  test('serves its last answer after a change, with one KV read', async () => {
    const before = start()
    await before.post(sea, OPERATOR)
    const app = redeployed(before, { text: 'A haiku about {{topic}}' })
    const reads = readsOf(app)
    const got = await app.get('prompt_id=haiku&var.topic=sea')
    expect([textOf(got), statusOf(got)]).toEqual(['answer 1', 'hit; detail=previous'])
    expect(reads()).toHaveLength(1)
    expect(codeOf(await app.get('prompt_id=haiku&var.topic=moon'))[1]).toBe('not_cached')
  })

  test('serves the answer that was stored before spend = "operator" was set', async () => {
    const before = start({ spend: 'visitor' })
    await before.post(sea)
    const app = redeployed(before, {})
    expect(statusOf(await app.post(sea))).toBe('hit; ttl=2592000; detail=kv')
    expect(statusOf(await app.post(sea, OPERATOR))).toMatch(/^hit; /)
    app.clock.ms += 1
    await purge(app, { request: sea })
    expect(codeOf(await app.post(sea))[1]).toBe('not_cached')
  })

  test('serves the answer that version 1 stored, until a purge in the same second or later', async () => {
    const before = start({ spend: 'visitor' })
    await before.post(sea)
    const [[key = '', stored] = []] = before.kv.values
    const { names, requested_at, confirmed_at, source, ...rest } = JSON.parse(stored?.value ?? '')
    const old = {
      ...rest,
      schema: 1,
      model: 'default',
      prompt_id: 'haiku',
      stored_at: START / 1000,
    }
    before.kv.values.set(key, { value: JSON.stringify(old), expiresAt: Infinity, ttl: 60 })
    const app = redeployed(before, {})
    expect(textOf(await app.post(sea))).toBe('answer 1')
    await purge(app, { prompt_id: 'haiku' })
    expect(codeOf(await app.post(sea))[1]).toBe('not_cached')
  })
})

test('two pages with the same text cost one upstream call, and both are stored', async () => {
  const { app, site } = startWithPages({
    prompt: operators,
    flights: (miss) => localFlights(miss).fetchObject,
  })
  const others = ['b', 'c', 'd'].map((name) => `${ORIGIN}/posts/${name}`)
  for (const url of others) site.put(new URL(url).pathname, 'The first text.')
  const [first = '', ...more] = [URL_A, ...others]
  await Promise.all([first, ...more].map((url) => app.post(ask(url), OPERATOR)))
  expect(site.prompts).toHaveLength(1)
  const later = deployed({ app, site }, { prompt: operators })
  for (const url of [first, ...more]) {
    expect(textOf(await later.app.get(query(url)))).toBe('answer 1')
  }
  // The flight still has the answer, so it is not paid for again.
  const late = `${ORIGIN}/posts/e`
  site.put('/posts/e', 'The first text.')
  app.clock.ms += 5000
  expect(statusOf(await app.post(ask(late), OPERATOR))).toBe('hit; ttl=2591995; detail=flight')
  app.clock.ms += 1
  await purge(app, { page: first })
  app.clock.ms += 60_000
  const purged = deployed({ app, site }, { prompt: operators })
  expect(codeOf(await purged.app.get(query(first)))[1]).toBe('not_cached')
  expect(textOf(await purged.app.get(query(others[2] ?? '')))).toBe('answer 1')
  // Purging an answer also purges its copies, including later ones.
  await purged.app.settled()
  const copies = [...app.kv.values.entries()].filter(([key]) => key !== 'purge')
  expect(copies.map(([, { value }]) => JSON.parse(value).requested_at)).toEqual(
    Array(5).fill(START),
  )
})

test('several pages have a mark each, and if one has changed, the texts of all are read', async () => {
  const variables = { a: { from: 'url' }, b: { from: 'url' } }
  const setup = { config: { prompts: { summary: { text: '{{a}} {{b}}', variables } } } }
  const first = startWithPages(setup)
  first.site.put('/posts/b', 'The other text.', 'v1')
  const both = { prompt: { id: 'summary', variables: { a: URL_A, b: `${ORIGIN}/posts/b` } } }
  await first.app.post(both, OPERATOR)
  const { prompt = '', system } = first.site.prompts[0] ?? {}
  const [a, b] = [...prompt.matchAll(/<(page-[0-9a-f]+)>/g)].map(([, mark]) => mark)
  expect(a).not.toBe(b)
  expect(system).toContain(`between <${a}> and </${a}>, and between <${b}> and </${b}> is the text`)
  const { app, site } = deployed(first, setup)
  app.clock.ms += 2000
  expect(textOf(await app.post(both, OPERATOR))).toBe('answer 1')
  expect(site.fetches).toHaveLength(4)
  site.put('/posts/b', 'A second text.', 'v2')
  app.clock.ms += 2000
  expect(textOf(await app.post(both, OPERATOR))).toBe('answer 2')
  expect(site.prompts[1]?.prompt).toMatch(/The first text\..*A second text\./s)
})

test('an answer that version 1 stored for a page becomes its last answer without a new call', async () => {
  const before = startWithPages({ prompt: { spend: 'visitor' } })
  await before.app.post(ask(URL_A))
  const [[, stored] = []] = before.app.kv.values
  const { names, requested_at, confirmed_at, source, ...rest } = JSON.parse(stored?.value ?? '')
  const version1 = {
    ...{ ...rest, key: source.key, schema: 1, model: 'default', prompt_id: 'summary' },
    stored_at: START / 1000,
  }
  before.app.kv.values.clear()
  const value = JSON.stringify(version1)
  before.app.kv.values.set(source.key, { value, expiresAt: Infinity, ttl: 60 })
  const { app, site } = deployed(before, { prompt: operators })
  app.clock.ms += 2000
  expect(codeOf(await app.get(query(URL_A)))[1]).toBe('not_cached')
  expect(textOf(await app.post(ask(URL_A), OPERATOR))).toBe('answer 1')
  expect(site.prompts).toHaveLength(1)
  const later = deployed({ app, site }, { prompt: operators })
  expect(textOf(await later.app.get(query(URL_A)))).toBe('answer 1')
})

describe('a page that visitors may spend on', () => {
  const variables = { page: { from: 'url', page_seconds: 3600 }, question: { max_chars: 20 } }
  const withQuestion = { summary: { text: '{{question}} {{page}}', variables } }
  const about = (question: string) => ({
    prompt: { id: 'summary', variables: { page: URL_A, question } },
  })

  test('serves its last answer to GET until it expires, but no previous one', async () => {
    const config = { cache: { stale_while_revalidate_seconds: 50, stale_if_error_seconds: 100 } }
    const before = startWithPages({ prompt: { ttl_seconds: 60 }, config })
    await before.app.post(ask(URL_A))
    before.site.put('/posts/a', 'A second text.', 'v2')
    before.app.clock.ms += 159_000
    const got = await before.app.get(query(URL_A))
    expect([textOf(got), statusOf(got)]).toEqual(['answer 1', 'hit; ttl=-99; detail=stale'])
    const only = await before.app.post(ask(URL_A), { 'cache-control': 'only-if-cached' })
    expect(textOf(only)).toBe('answer 1')
    const changed = deployed(before, { prompt: { ttl_seconds: 60, text: 'New: {{page}}' }, config })
    expect(codeOf(await changed.app.get(query(URL_A)))[1]).toBe('not_cached')
    before.app.clock.ms += 1000
    expect(codeOf(await before.app.get(query(URL_A)))[1]).toBe('not_cached')
    expect(before.site.fetches).toHaveLength(1)
  })

  test('that is unchanged is not checked again for page_seconds, in any isolate', async () => {
    const first = startWithPages()
    await first.app.post(ask(URL_A))
    const second = deployed(first, {})
    first.app.clock.ms += 3_599_000
    await first.app.post(ask(URL_A))
    expect(first.site.fetches).toHaveLength(1)
    first.app.clock.ms += 1000
    for (const { app } of [first, second]) {
      for (let i = 0; i < 3; i++) expect(textOf(await app.post(ask(URL_A)))).toBe('answer 1')
    }
    // The second isolate has the page's version from the stored answer.
    const sent = first.site.fetches.map(({ headers }) => headers.get('if-none-match'))
    expect(sent).toEqual([null, '"v1"', '"v1"'])
    expect(first.site.prompts).toHaveLength(1)
    expect(first.app.kv.puts).toHaveLength(1)
  })

  test('that has changed is answered with the old answer if no new one can be generated', async () => {
    const { app, site } = startWithPages()
    await app.post(ask(URL_A))
    site.put('/posts/a', 'A second text.', 'v2')
    site.upstream = () => new Response('no', { status: 500 })
    app.clock.ms += 3_600_000
    const reply = await app.post(ask(URL_A))
    expect([reply.status, textOf(reply)]).toEqual([200, 'answer 1'])
    expect(site.prompts).toHaveLength(2)
    // The operator gets the error.
    expect(codeOf(await app.post(ask(URL_A), OPERATOR))[1]).toBe('upstream_unavailable')
  })

  test('is read once in page_seconds for all requests about it', async () => {
    const { app, site } = startWithPages({ config: { prompts: withQuestion } })
    for (const [i, question] of ['Who?', 'What?', 'When?'].entries()) {
      expect(textOf(await app.post(about(question)))).toBe(`answer ${i + 1}`)
    }
    expect(site.fetches).toHaveLength(1)
    app.clock.ms += 3_600_000
    site.put('/posts/a', 'A second text.', 'v2')
    expect(textOf(await app.post(about('Why?')))).toBe('answer 4')
    expect(site.fetches).toHaveLength(2)
    expect(site.prompts[3]?.prompt).toContain('A second text.')
  })

  test('is read again after its purge, for every request', async () => {
    const { app, site } = startWithPages({ config: { prompts: withQuestion } })
    await app.post(about('Who?'))
    site.put('/posts/a', 'A second text.', 'v2')
    app.clock.ms += 1
    await purge(app, { page: `${URL_A}.html` })
    app.clock.ms += 1000
    for (const question of ['Who?', 'What?']) await app.post(about(question))
    expect(site.prompts.slice(1).map(({ prompt }) => prompt.includes('A second text.'))).toEqual([
      true,
      true,
    ])
    expect(site.fetches).toHaveLength(2)
    expect(site.fetches[1]?.headers.has('if-none-match')).toBe(false)
  })

  test('that is purged while it is being read produces no stored answer', async () => {
    const { app, site } = startWithPages()
    const served = Promise.withResolvers<void>()
    const fetched = Promise.withResolvers<void>()
    site.pages.set('/posts/a', async () => {
      fetched.resolve()
      await served.promise
      return html('<main>Of before the purge.</main>')
    })
    const asked = app.post(ask(URL_A))
    await fetched.promise
    app.clock.ms += 1
    await purge(app, { page: URL_A })
    app.clock.ms += 1
    served.resolve()
    expect((await asked).status).toBe(200)
    expect(codeOf(await app.get(query(URL_A)))[1]).toBe('not_cached')
    site.put('/posts/a', 'Of after the purge.')
    await app.post(ask(URL_A))
    expect(site.prompts[1]?.prompt).toContain('Of after the purge.')
    expect(textOf(await app.get(query(URL_A)))).toBe('answer 2')
  })

  test('serves a stale answer, and refreshes it with the current page', async () => {
    const { app, site } = startWithPages({ prompt: { ttl_seconds: 60 } })
    await app.post(ask(URL_A))
    app.clock.ms += 61_000
    expect(statusOf(await app.post(ask(URL_A)))).toBe('hit; ttl=-1; detail=stale')
    expect(textOf(await app.post(ask(URL_A)))).toBe('answer 2')
    expect(site.prompts).toHaveLength(2)
    site.put('/posts/a', 'A second text.', 'v2')
    app.clock.ms += 3_600_000
    expect(textOf(await app.post(ask(URL_A)))).toBe('answer 3')
  })

  test('that is unchanged has its stale answer refreshed by an isolate that has not read it', async () => {
    const before = startWithPages({ prompt: { ttl_seconds: 60 } })
    await before.app.post(ask(URL_A))
    const { app, site } = deployed(before, { prompt: { ttl_seconds: 60 } })
    app.clock.ms += 61_000
    expect(statusOf(await app.post(ask(URL_A)))).toBe('hit; ttl=-1; detail=stale')
    expect(textOf(await app.get(query(URL_A)))).toBe('answer 2')
    expect(site.fetches[1]?.headers.has('if-none-match')).toBe(false)
  })

  test('with page_seconds = 0 is checked for every visitor who may spend', async () => {
    const { app, site } = startWithPages({ variable: { page_seconds: 0 } })
    for (let i = 0; i < 3; i++) expect(textOf(await app.post(ask(URL_A)))).toBe('answer 1')
    expect(site.fetches).toHaveLength(3)
    site.put('/posts/a', 'A second text.', 'v2')
    expect(textOf(await app.post(ask(URL_A)))).toBe('answer 2')
  })

  test('is fetched only at an allowed address, and its answer found at all of its addresses', async () => {
    const { app, site } = startWithPages({ variable: { paths: ['/posts/*.html'] } })
    site.put('/posts/a.html', 'The first text.')
    expect(codeOf(await app.post(ask(URL_A)))[1]).toBe('page_not_allowed')
    expect(codeOf(await app.post(ask(URL_A), OPERATOR))[1]).toBe('page_not_allowed')
    expect(site.fetches).toEqual([])
    expect(codeOf(await app.get(query(URL_A)))[1]).toBe('not_cached')
    await app.post(ask(`${URL_A}.html`))
    expect(textOf(await app.get(query(URL_A)))).toBe('answer 1')
    app.clock.ms += 3_600_000
    // Its request cannot check the page, and does not keep others from it.
    expect(textOf(await app.post(ask(URL_A)))).toBe('answer 1')
    site.put('/posts/a.html', 'A second text.')
    expect(textOf(await app.post(ask(`${URL_A}.html`)))).toBe('answer 2')
    expect(textOf(await app.post(ask(URL_A)))).toBe('answer 2')
  })

  test('uses one write of the day’s budget for each answer, and one for a copy', async () => {
    const { app, site } = startWithPages({
      prompt: operators,
      config: { cache: { kv_writes_per_day: 10 } },
      flights: (miss) => localFlights(miss).fetchObject,
    })
    site.put('/posts/b', 'The first text.')
    await app.post(ask(URL_A), OPERATOR)
    expect(app.ledger.reserved.map(({ stores }) => stores)).toEqual([true])
    await app.post(ask(`${ORIGIN}/posts/b`), OPERATOR)
    expect(app.ledger.reserved.map(({ tokens, stores }) => [tokens > 0, stores])).toEqual([
      [true, true],
      [false, true],
    ])
    expect(app.kv.puts).toHaveLength(2)
  })
})
