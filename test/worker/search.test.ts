// The search of the owner's site in workerd: pages are fetched over a socket, indexed in the object,
// and found, also while they are replaced and while the object fails.
import { beforeAll, beforeEach, describe, expect, test } from 'vitest'
import {
  type ClientRequest,
  newAddress,
  OPERATOR_TOKEN,
  ORIGIN,
  type Reply,
} from '../support/client.ts'
import { chatStream, type Lane, type Script } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers, WorkersOptions } from '../support/workerd.ts'

const OPERATOR = { authorization: `Bearer ${OPERATOR_TOKEN}` }
/** A Worker on this machine may read pages of this machine. */
const LOCAL = { host: 'localhost' }

const suite = workerSuite()
let site: Lane
let origin: string
/** The site's pages by path. */
const pages = new Map<string, string>()

beforeAll(() => {
  const { upstream } = suite
  origin = `http://127.0.0.1:${upstream.port}`
  site = upstream.lane('site')
})

beforeEach(() => {
  site.calls.length = 0
  pages.clear()
  site.answers(serve)
  suite.upstream.lane('model').answers(chatStream(['fine']))
})

const serve: Script = ({ path }, line) => {
  const body = pages.get(path)
  line.head(body === undefined ? 404 : 200, {
    'content-type': 'text/html; charset=utf-8',
    'content-length': String(Buffer.byteLength(body ?? '')),
  })
  line.write(body ?? '')
  line.end()
}

/** Without a memory of searches, unless said otherwise. */
const start = (memorySeconds = 0, options: WorkersOptions = {}) =>
  suite.start({
    isolates: 2,
    config: suite.config(
      'model',
      {
        origins: [ORIGIN, origin],
        site: { paths: ['/site/*'] },
        cache: { memory_seconds: memorySeconds },
      },
      { wire: 'chat', retries: 0 },
    ),
    ...options,
  })

interface From {
  readonly isolate?: number
  readonly headers?: ClientRequest['headers']
}

const index = (
  workers: Workers,
  path: string,
  { isolate = 0, headers = OPERATOR }: From = {},
): Promise<Reply> =>
  workers.client(isolate).send({
    method: 'PUT',
    path: '/admin/site/page',
    headers: { ...LOCAL, ...headers },
    body: { url: origin + path },
  })

const search = (
  workers: Workers,
  question: string,
  { isolate = 0, headers = {} }: From = {},
): Promise<Reply> =>
  workers.client(isolate).send({
    path: `/v1/search?q=${encodeURIComponent(question)}`,
    headers: { ...LOCAL, ...headers },
  })

const codeOf = ({ status, text }: Reply) =>
  `${status} ${status === 200 ? 'ok' : (JSON.parse(text) as { error: { code: string } }).error.code}`

const textsOf = ({ status, text }: Reply): string[] => {
  if (status !== 200) throw new Error(text)
  return (JSON.parse(text) as { data: { text: string }[] }).data.map((passage) => passage.text)
}

test('a page that is put is found in every isolate, until it is removed', async () => {
  const workers = await start()
  pages.set(
    '/site/boats',
    '<title>Boats</title><main><h1>Boats</h1><h2 id="set">Settings</h2><p>How to configure a boat.</main>',
  )
  expect(codeOf(await search(workers, 'boat'))).toBe('404 site_not_indexed')
  expect(JSON.parse((await index(workers, '/site/boats')).text)).toEqual({
    url: `${origin}/site/boats`,
    status: 'indexed',
    passages: 1,
    questions: 0,
  })
  for (const isolate of [0, 1]) {
    expect(JSON.parse((await search(workers, 'configuring boats?', { isolate })).text)).toEqual({
      object: 'list',
      data: [
        {
          object: 'passage',
          url: `${origin}/site/boats#set`,
          title: 'Boats',
          heading: 'Settings',
          text: 'How to configure a boat.',
          score: expect.any(Number),
        },
      ],
    })
  }
  const head = { method: 'HEAD', path: '/v1/search?q=boat', headers: LOCAL }
  expect(await workers.client().send(head)).toMatchObject({ status: 200, text: '' })
  const path = `/admin/site/page?url=${origin}/site/boats`
  const headers = { ...LOCAL, ...OPERATOR }
  expect(
    JSON.parse((await workers.client(1).send({ method: 'DELETE', path, headers })).text),
  ).toMatchObject({ removed: true })
  expect(codeOf(await search(workers, 'boat'))).toBe('404 site_not_indexed')
  const listed = await workers.client().send({ path: '/admin/site', headers })
  expect(JSON.parse(listed.text)).toMatchObject({ object: 'list', passages: 0, data: [] })
})

test('words of many languages are found, and no syntax of the engine is an error', async () => {
  const workers = await start()
  const texts = [
    'How to configure it',
    'Straße für alle, naïve Résumés',
    '今天的东京很好',
    'スマホの使い方について',
    'สอนภาษาไทยฟรี',
    'यह हिन्दी है',
  ]
  for (const [i, text] of texts.entries()) {
    pages.set(`/site/${i}`, `<main>${text}</main>`)
    expect(codeOf(await index(workers, `/site/${i}`))).toBe('200 ok')
  }
  const questions: [string, number | null][] = [
    ['configuring', 0],
    ['strasse fur', 1],
    ['RESUME naive', 1],
    ['东京天气', 2],
    ['スマホの設定', 3],
    ['ภาษาไทย', 4],
    ['हिन्दी', 5],
    ['"', null],
    ['* NEAR( title: AND -', null],
    ['configure" OR "', 0],
    ['title:configure', 0],
    ['\u0000', null],
    ["'; DROP TABLE words; --", null],
    ['🚀', null],
    ['\u202Econfigure', 0],
    ['x'.repeat(300), null],
    ['of the and', null],
  ]
  for (const [question, page] of questions) {
    const found = textsOf(await search(workers, question))
    expect(found, question).toEqual(page === null ? [] : [texts[page]])
  }
})

test('two runs at the same time index each page once', async () => {
  const workers = await start()
  const paths = Array.from({ length: 12 }, (_, i) => `/site/page-${i}`)
  for (const path of paths) pages.set(path, `<main><p>common ${path}</main>`)
  const runs = [0, 1].map((isolate) =>
    Promise.all(paths.map((path) => index(workers, path, { isolate }))),
  )
  const replies = (await Promise.all(runs)).flat()
  expect(new Set(replies.map(codeOf))).toEqual(new Set(['200 ok']))
  const headers = { ...LOCAL, ...OPERATOR }
  const listed = JSON.parse((await workers.client().send({ path: '/admin/site', headers })).text)
  expect([listed.data.length, listed.passages]).toEqual([12, 12])
  const found = await workers
    .client()
    .send({ path: '/v1/search?q=common&limit=20', headers: LOCAL })
  expect(new Set(textsOf(found)).size).toBe(12)
})

test('a search while pages are replaced finds all of a page or nothing of it', async () => {
  const workers = await start()
  const paragraphs = (colour: string) =>
    [1, 2].map((i) => `<h2 id="${colour}-${i}">${colour} ${i}</h2><p>common words</p>`).join('')
  const write = async (colour: string) => {
    pages.set('/site/a', `<main>${paragraphs(colour)}</main>`)
    expect(codeOf(await index(workers, '/site/a'))).toBe('200 ok')
  }
  await write('red')
  let done = false
  const replacing = (async () => {
    for (let i = 0; i < 20; i++) await write(i % 2 === 0 ? 'blue' : 'red')
    done = true
  })()
  const colours = new Set<string>()
  while (!done) {
    const reply = await search(workers, 'common words', { isolate: 1, headers: OPERATOR })
    const found = (JSON.parse(reply.text) as { data: { heading: string }[] }).data
    expect(found.map(({ heading }) => heading.replace(/ .*/, ''))).toHaveLength(2)
    expect(new Set(found.map(({ heading }) => heading.replace(/ .*/, ''))).size).toBe(1)
    colours.add(found[0]?.heading ?? '')
  }
  await replacing
  expect(colours.size).toBeGreaterThan(1)
})

test('visitors and refused origins cause no fetch and no change', async () => {
  const workers = await start()
  pages.set('/site/a', '<main>secret plans</main>')
  const refused = [
    [{}, '401 operator_token_invalid'],
    [{ authorization: 'Bearer wrong' }, '401 operator_token_invalid'],
    [{ ...OPERATOR, origin: 'https://x.example' }, '403 origin_not_allowed'],
  ] as const
  for (const [headers, code] of refused) {
    expect(codeOf(await index(workers, '/site/a', { headers }))).toBe(code)
  }
  expect(site.calls).toEqual([])
  expect(codeOf(await search(workers, 'plans'))).toBe('404 site_not_indexed')
})

test('a visitor may ask the index 120 times a minute; what is remembered is not counted', async () => {
  const workers = await start(600, { isolates: 1 })
  pages.set('/site/a', '<main>a boat</main>')
  await index(workers, '/site/a')
  const headers = { 'cf-connecting-ip': newAddress() }
  const codes = await Promise.all(
    Array.from({ length: 130 }, (_, i) => search(workers, `boat ${i}`, { headers })),
  )
  expect(codes.filter(({ status }) => status === 200)).toHaveLength(120)
  const limited = codes.find(({ status }) => status === 429)
  expect(limited?.headers).toMatchObject({
    'retry-after': '60',
    'ratelimit-policy': '"search";q=120;w=60',
  })
  const known = codes.findIndex(({ status }) => status === 200)
  for (const headers_ of [headers, {}, OPERATOR]) {
    const reply = await search(workers, `BOAT ${known}?`, { headers: headers_ })
    expect(codeOf(reply)).toBe('200 ok')
  }
  // The limit on what may spend is another one.
  expect((await workers.client().complete({ prompt: 'p' }, { ...LOCAL, ...headers })).status).toBe(
    200,
  )
  const operators = { ...headers, ...OPERATOR }
  expect(codeOf(await search(workers, 'boat of the operator', { headers: operators }))).toBe(
    '200 ok',
  )
})

/** The object fails while \`GET /broken\` has been asked for more often than \`GET /repaired\`. */
const breakable = `
  import worker from './worker.js'
  import { env } from 'cloudflare:workers'
  export * from './worker.js'
  const namespace = Object.getPrototypeOf(env.SITE)
  const { getByName } = namespace
  namespace.getByName = function (name) {
    if (name === 'site' && globalThis.broken) throw new Error('words from inside')
    return getByName.call(this, name)
  }
  export default {
    async fetch(request) {
      const { pathname } = new URL(request.url)
      if (!['/broken', '/repaired'].includes(pathname)) return await worker.fetch(request)
      globalThis.broken = pathname === '/broken'
      return new Response('')
    },
  }
`

test('while the object fails, remembered searches and all else are served', async () => {
  const workers = await start(600, { main: breakable, isolates: 1 })
  pages.set('/site/a', '<main>a boat</main>')
  await index(workers, '/site/a')
  expect(codeOf(await search(workers, 'boat'))).toBe('200 ok')
  const turn = (to: string) => workers.client().send({ path: to, headers: { origin: null } })
  await turn('/broken')
  expect(textsOf(await search(workers, 'Boat?'))).toEqual(['a boat'])
  const failed = await search(workers, 'another boat')
  expect(codeOf(failed)).toBe('503 search_unavailable')
  expect(failed.headers).toMatchObject({ 'retry-after': '10', 'cache-control': 'no-store' })
  expect(failed.text).not.toContain('inside')
  expect(codeOf(await index(workers, '/site/a'))).toBe('503 search_unavailable')
  expect((await workers.client().complete({ prompt: 'p' }, LOCAL)).status).toBe(200)
  await turn('/repaired')
  // The operator's success shows that it works again.
  expect(codeOf(await index(workers, '/site/a'))).toBe('200 ok')
  expect(textsOf(await search(workers, 'another boat'))).toEqual(['a boat'])
})

test('while the object fails, a visitor may repeat a remembered search without end', async () => {
  const workers = await start(0, { main: breakable, isolates: 1 })
  pages.set('/site/a', '<main>a boat</main>')
  await index(workers, '/site/a')
  expect(codeOf(await search(workers, 'boat'))).toBe('200 ok')
  await workers.client().send({ path: '/broken', headers: { origin: null } })
  const headers = { 'cf-connecting-ip': newAddress() }
  const codes = new Set<string>()
  for (let i = 0; i < 140; i++) codes.add(codeOf(await search(workers, 'boat', { headers })))
  expect(codes).toEqual(new Set(['200 ok']))
})

test('a page that was removed, or purged, is not served while the object fails', async () => {
  const workers = await start(600, { main: breakable, isolates: 2 })
  for (const path of ['/site/a', '/site/b']) {
    pages.set(path, `<main>a boat of ${path}</main>`)
    await index(workers, path)
  }
  const words = ['boat site', 'site b']
  const found = async (isolate: number) =>
    await Promise.all(words.map((question) => search(workers, question, { isolate })))
  for (const isolate of [0, 1]) {
    for (const reply of await found(isolate)) expect(textsOf(reply)).toContain('a boat of /site/a')
  }
  const headers = { ...LOCAL, ...OPERATOR }
  const path = `/admin/site/page?url=${origin}/site/a`
  const removed = await workers.client(0).send({ method: 'DELETE', path, headers })
  expect(JSON.parse(removed.text)).toMatchObject({ removed: true })
  const body = { page: `${origin}/site/a` }
  const purge = { method: 'POST', path: '/admin/purge', headers, body }
  expect(codeOf(await workers.client(1).send(purge))).toBe('200 ok')
  for (const isolate of [0, 1]) {
    await workers.client(isolate).send({ path: '/broken', headers: { origin: null } })
    expect((await found(isolate)).map(codeOf)).toEqual(words.map(() => '503 search_unavailable'))
  }
})

describe('a Worker without', () => {
  test.each(['SITE', 'SEARCH_LIMIT'])('the binding %s reports it to the owner', async (binding) => {
    const workers = await start(0, { without: [binding], isolates: 1 })
    const health = JSON.parse((await workers.client().send({ path: '/health' })).text)
    expect(health).toEqual({
      status: 'misconfigured',
      faults: [
        { path: binding, message: `Cannot find the binding "${binding}": add it to wrangler.toml` },
      ],
    })
  })
})
