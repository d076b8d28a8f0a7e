// GET /v1/search and the operator's paths for the index, in process: input, responses, and who may
// make the Worker fetch a page. The index is the Worker's own, on the SQLite of Node.
import { beforeEach, describe, expect, test } from 'vitest'
import { type Reply, TestApp, type TestAppOptions } from '../support/app.ts'
import { OPERATOR_TOKEN, ORIGIN } from '../support/client.ts'
import { html } from '../support/pages.ts'
import { memorySite } from '../support/site.ts'

const OPERATOR = { authorization: `Bearer ${OPERATOR_TOKEN}` }
const URL_A = `${ORIGIN}/a`

let pages: Map<string, () => Response>
let app: TestApp

function start(options: TestAppOptions = {}): TestApp {
  return new TestApp({
    ...options,
    upstream: (request) => {
      const etag = request.headers.get('if-none-match')
      const page = pages.get(request.url)?.() ?? new Response('no', { status: 404 })
      const isSame = etag !== null && page.headers.get('etag') === etag
      return isSame ? new Response(null, { status: 304 }) : page
    },
  })
}

beforeEach(() => {
  pages = new Map([[URL_A, () => html('<title>Boats</title><main><p>A boat floats.</main>')]])
  app = start()
})

const search = (query: string, headers: Record<string, string> = {}) =>
  app.ask(`/v1/search${query}`, { headers: { origin: ORIGIN, ...headers } })

const put = (body: unknown, headers: Record<string, string> = OPERATOR) =>
  app.ask('/admin/site/page', {
    method: 'PUT',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  })

const remove = (query: string, headers: Record<string, string> = OPERATOR) =>
  app.ask(`/admin/site/page${query}`, { method: 'DELETE', headers })

const list = (headers: Record<string, string> = OPERATOR) => app.ask('/admin/site', { headers })

function errorOf(reply: Reply) {
  const { error } = reply.json() as { error: { code: string; param: string; message: string } }
  return [reply.status, error.code, error.param]
}

const messageOf = (reply: Reply) => (reply.json() as { error: { message: string } }).error.message

describe('GET /v1/search', () => {
  test('returns passages that browsers and CDNs may keep', async () => {
    app = start({ config: { cache: { browser_seconds: 77 } } })
    await put({ url: URL_A })
    const reply = await search('?q=floating%20boat')
    expect(reply.status).toBe(200)
    expect(reply.json()).toEqual({
      object: 'list',
      data: [
        {
          object: 'passage',
          url: URL_A,
          title: 'Boats',
          heading: '',
          text: 'A boat floats.',
          score: expect.any(Number),
        },
      ],
    })
    expect(reply.headers).toMatchObject({
      'cache-control': 'public, max-age=77',
      vary: 'Origin',
      'access-control-allow-origin': ORIGIN,
    })
    const head = await app.ask('/v1/search?q=boat', { method: 'HEAD' })
    expect([head.status, head.text]).toEqual([200, ''])
    expect(app.lines.at(-1)).toMatchObject({ route: 'search', visitor: expect.any(String) })
  })

  test('returns an empty list if nothing matches, and 404 without an index', async () => {
    const before = await search('?q=boat')
    expect(errorOf(before)).toEqual([404, 'site_not_indexed', null])
    expect(before.headers['cache-control']).toBe('no-store')
    await put({ url: URL_A })
    expect((await search('?q=plane')).json()).toEqual({ object: 'list', data: [] })
    expect((await search('?q=%F0%9F%9A%80')).json()).toEqual({ object: 'list', data: [] })
  })

  test.each([
    ['', 'missing_field', 'q'],
    ['?limit=3', 'missing_field', 'q'],
    ['?q=', 'invalid_value', 'q'],
    ['?q=%20%09%E3%80%80', 'invalid_value', 'q'],
    [`?q=${'x'.repeat(1001)}`, 'invalid_value', 'q'],
    ['?q=a&q=b', 'invalid_value', 'q'],
    ['?q=%ff', 'invalid_value', null],
    ['?q=a&limit=0', 'invalid_value', 'limit'],
    ['?q=a&limit=21', 'invalid_value', 'limit'],
    ['?q=a&limit=2.5', 'invalid_value', 'limit'],
    ['?q=a&limit=', 'invalid_value', 'limit'],
    ['?q=a&limit=%2B2', 'invalid_value', 'limit'],
    ['?q=a&page=2', 'unknown_field', 'page'],
    ['?q=a&__proto__=2', 'unknown_field', '__proto__'],
  ])('of %j is 400 %s', async (query, code, param) => {
    await put({ url: URL_A })
    expect(errorOf(await search(query))).toEqual([400, code, param])
  })

  test('takes 1,000 characters and 20 results', async () => {
    await put({ url: URL_A })
    expect((await search(`?q=${'boat '.repeat(200).trim()}&limit=20`)).status).toBe(200)
    expect((await search('?q=boat&limit=1')).status).toBe(200)
  })

  test('asks the index within the rate limit of the visitor; the operator has none', async () => {
    const counted: string[] = []
    const searchLimit = async (visitor: string) => counted.push(visitor) <= 2
    app = start({ searchLimit, spendLimit: async () => false })
    await put({ url: URL_A })
    for (const q of ['boat', 'plane', 'Boat?']) expect((await search(`?q=${q}`)).status).toBe(200)
    const limited = await search('?q=ship')
    expect(errorOf(limited)).toEqual([429, 'rate_limited', null])
    expect(limited.headers).toMatchObject({
      'retry-after': '60',
      'ratelimit-policy': '"search";q=120;w=60',
      ratelimit: '"search";r=0;t=60',
      'cache-control': 'no-store',
    })
    expect((await search('?q=boat')).status).toBe(200)
    expect((await search('?q=ship', OPERATOR)).status).toBe(200)
    expect(counted).toHaveLength(3)
    expect(new Set(counted).size).toBe(1)
  })

  test('is refused for pages of other origins before any work', async () => {
    const site = memorySite()
    const find = () => Promise.reject(new Error('not called'))
    app = start({ index: { ...site, find } })
    expect(errorOf(await search('?q=a', { origin: 'https://x.example' }))[1]).toBe(
      'origin_not_allowed',
    )
  })
})

describe('the operator’s paths', () => {
  test('index a page, list it and remove it', async () => {
    const stored = { url: URL_A, status: 'indexed', passages: 1, questions: 0 }
    expect((await list()).json()).toMatchObject({ passages: 0, indexed_at: null, data: [] })
    expect((await put({ url: URL_A })).json()).toEqual(stored)
    const indexedAt = Math.floor(app.clock.ms / 1000)
    const listed = (await list()).json() as { version: number }
    expect(listed).toEqual({
      object: 'list',
      version: expect.any(Number),
      passages: 1,
      indexed_at: indexedAt,
      data: [
        {
          object: 'page',
          url: URL_A,
          title: 'Boats',
          passages: 1,
          questions: 0,
          indexed_at: indexedAt,
        },
      ],
    })
    expect((await put({ url: URL_A })).json()).toEqual({ ...stored, status: 'unchanged' })
    expect((await list()).json()).toEqual(listed)
    // Another address of the same page.
    const query = `?url=${encodeURIComponent(`${URL_A}/index.html`)}`
    expect((await remove(query)).json()).toEqual({ url: `${URL_A}/index.html`, removed: true })
    expect((await remove(query)).json()).toMatchObject({ removed: false })
    const { version } = (await list()).json() as { version: number }
    expect(version).toBeGreaterThan(listed.version)
  })

  test('fetch a page with its validators, and again with another selector', async () => {
    const site = memorySite()
    app = start({ index: site })
    pages.set(URL_A, () => html('<main>A boat.<p class=b>More</main>', { etag: '"1"' }))
    await put({ url: URL_A })
    expect((await put({ url: URL_A })).json()).toMatchObject({ status: 'unchanged' })
    expect(app.calls.map(({ headers }) => headers.get('if-none-match'))).toEqual([null, '"1"'])
    app = start({ index: site, config: { site: { selector: '.b' } } })
    expect((await put({ url: URL_A })).json()).toMatchObject({ status: 'indexed' })
    expect(app.calls[0]?.headers.get('if-none-match')).toBeNull()
    expect((await search('?q=boat')).json()).toMatchObject({ data: [] })
  })

  test('fetch a page once more if it is removed while it is found to be unchanged', async () => {
    const site = memorySite()
    app = start({
      index: {
        ...site,
        page: async (name) => {
          const known = await site.page(name)
          if (known !== null) await site.remove(name)
          return known
        },
      },
    })
    pages.set(URL_A, () => html('<main>A boat.</main>', { etag: '"1"' }))
    await put({ url: URL_A })
    expect((await put({ url: URL_A })).json()).toMatchObject({ status: 'indexed', passages: 1 })
  })

  test('make what the same isolate remembers of searches void', async () => {
    const titles = async () =>
      ((await search('?q=boat')).json() as { data?: { title: string }[] }).data?.map(
        ({ title }) => title,
      )
    await put({ url: URL_A })
    expect(await titles()).toEqual(['Boats'])
    pages.set(URL_A, () => html('<title>Yachts</title><main>A boat.</main>'))
    await put({ url: URL_A })
    expect(await titles()).toEqual(['Yachts'])
    await remove(`?url=${URL_A}`)
    expect(await titles()).toBeUndefined()
  })

  test('store questions with a page', async () => {
    const questions = ['Which vehicles swim?']
    expect((await put({ url: URL_A, questions })).json()).toMatchObject({ questions: 1 })
    expect((await search('?q=vehicle')).json()).toMatchObject({ data: [{ url: URL_A }] })
  })

  test('leave a page as it was if it cannot be read, and say why', async () => {
    await put({ url: URL_A })
    const faults: [() => Response, string][] = [
      [() => new Response('gone', { status: 404 }), 'expected status 200'],
      [() => new Response(null, { status: 302, headers: { location: '/b' } }), 'redirects'],
      [() => html('<main></main>'), 'selector'],
      [() => html(`<main>${'<h2>a</h2>b'.repeat(20_001)}</main>`), 'more than 20,000 passages'],
    ]
    pages.set(`${ORIGIN}/b`, () => html('<main>another page</main>'))
    for (const [response, reason] of faults) {
      pages.set(URL_A, response)
      const reply = await put({ url: URL_A })
      expect(errorOf(reply)).toEqual([502, 'page_unavailable', 'url'])
      expect(messageOf(reply)).toContain(reason)
    }
    expect(app.log.all('page_failed').map(({ reason }) => reason)).toEqual([
      'status',
      'elsewhere',
      'empty',
      'too_large',
    ])
    expect((await search('?q=boat')).json()).toMatchObject({ data: [{ url: URL_A }] })
  })

  test('index no page of llms-full.txt that the settings leave out, also once they have changed', async () => {
    const { host } = new URL(ORIGIN)
    const text = [
      `# Boats\nSource: ${ORIGIN}/docs/boats\n\nA boat.`,
      `# Plans\nSource: ${ORIGIN}/private/plans\n\nA boat that is not built yet.`,
      `# Names\nSource: https://user:word@${host}/docs/names\n\nThe names of a boat.`,
    ].join('\n\n')
    const url = `${ORIGIN}/llms-full.txt`
    const headers = { 'content-type': 'text/plain', etag: '"1"' }
    pages.set(url, () => new Response(text, { headers }))
    const index = memorySite()
    const found = async () => {
      const { data } = (await search('?q=boat')).json() as { data: { title: string }[] }
      return data.map(({ title }) => title).sort()
    }
    app = start({ index })
    await put({ url })
    expect(await found()).toEqual(['Boats', 'Plans'])
    app = start({ index, config: { site: { paths: ['/llms-full.txt', '/docs/*'] } } })
    expect((await put({ url })).json()).toMatchObject({ status: 'indexed', passages: 1 })
    expect(await found()).toEqual(['Boats'])
  })

  test('follow a redirect to another address of the page', async () => {
    pages.set(`${URL_A}/`, pages.get(URL_A)!)
    pages.set(URL_A, () => new Response(null, { status: 301, headers: { location: '/a/' } }))
    expect((await put({ url: URL_A })).json()).toMatchObject({ status: 'indexed' })
  })

  test.each([
    [{ url: 'https://x.example/' }, 403, 'page_not_allowed', 'url'],
    [{ url: `${ORIGIN}/private/x` }, 403, 'page_not_allowed', 'url'],
    [{ url: 'https://user@site.example/a' }, 403, 'page_not_allowed', 'url'],
    [{ url: '/a' }, 400, 'invalid_value', 'url'],
    [{ url: 'ftp://site.example/a' }, 400, 'invalid_value', 'url'],
    [{ url: '' }, 400, 'invalid_value', null],
    [{ url: 1 }, 400, 'invalid_value', null],
    [{}, 400, 'invalid_value', null],
    [[], 400, 'invalid_value', null],
    [{ url: URL_A, other: 1 }, 400, 'invalid_value', null],
    [{ url: URL_A, questions: 'Which?' }, 400, 'invalid_value', null],
    [{ url: URL_A, questions: [''] }, 400, 'invalid_value', null],
    [{ url: URL_A, questions: ['x'.repeat(301)] }, 400, 'invalid_value', null],
    [{ url: URL_A, questions: Array(51).fill('x') }, 400, 'invalid_value', null],
    ['{', 400, 'invalid_json', null],
  ])('PUT of %j is %i %s, without a fetch', async (body, status, code, param) => {
    app = start({ config: { site: { paths: ['/a', '/b/*'] } } })
    expect(errorOf(await put(body))).toEqual([status, code, param])
    expect(app.calls).toEqual([])
  })

  test.each([
    ['', 'missing_field', 'url'],
    ['?url=', 'invalid_value', 'url'],
    ['?url=/a', 'invalid_value', 'url'],
    [`?url=${URL_A}&x=1`, 'unknown_field', 'x'],
  ])('DELETE %j is 400 %s', async (query, code, param) => {
    expect(errorOf(await remove(query))).toEqual([400, code, param])
  })

  test('are the operator’s only: no one else makes the Worker fetch a page', async () => {
    const never = () => Promise.reject(new Error('not called'))
    app = start({
      index: { find: never, version: never, page: never, put: never, remove: never, list: never },
    })
    for (const headers of [{}, { authorization: 'Bearer wrong' }]) {
      const replies = [
        await put({ url: URL_A }, headers),
        await put('{', headers),
        await put({ url: 'https://x.example/' }, headers),
        await remove(`?url=${URL_A}`, headers),
        await remove('', headers),
        await list(headers),
      ]
      for (const reply of replies) {
        expect(errorOf(reply).slice(0, 2)).toEqual([401, 'operator_token_invalid'])
      }
    }
    const origin = 'https://x.example'
    for (const reply of [
      await put({ url: URL_A }, { ...OPERATOR, origin }),
      await list({ ...OPERATOR, origin }),
    ]) {
      expect(errorOf(reply)[1]).toBe('origin_not_allowed')
    }
    expect(app.calls).toEqual([])
  })

  test('are 503 if the object fails', async () => {
    const fails = () => Promise.reject(new Error('words from inside'))
    app = start({
      index: { find: fails, version: fails, page: fails, put: fails, remove: fails, list: fails },
    })
    const replies = [
      await put({ url: URL_A }),
      await remove(`?url=${URL_A}`),
      await list(),
      await search('?q=a'),
    ]
    for (const reply of replies) {
      expect(errorOf(reply)).toEqual([503, 'search_unavailable', null])
      expect(reply.headers['retry-after']).toBe('10')
      expect(reply.text).not.toContain('inside')
    }
  })
})
