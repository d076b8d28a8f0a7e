// indexPages() and removePages() against a server that stands in for the Worker: which requests they
// send, in what order and how often.
import { describe, expect, test } from 'vitest'
import {
  type IndexContext,
  indexPages,
  type PageResult,
  pagesToStay,
  type Questions,
  removePages,
} from '../../../scripts/index/indexing.ts'
import { listIndexed } from '../../../scripts/index/site.ts'
import { Gateway } from '../../../scripts/operator/gateway.ts'

const SITE = 'https://a.example'

interface Sent {
  readonly method: string
  readonly path: string
  readonly body: { readonly url?: string; readonly questions?: readonly string[] }
}

type Answers = (sent: Sent, count: number) => Response | Promise<Response>

function start(answers: Answers, hooks: { onWait?: () => void } = {}) {
  const sent: Sent[] = []
  const waits: number[] = []
  const stop = new AbortController()
  const gateway = new Gateway(
    { url: 'https://edge.test', token: 't', verb: 'index' },
    async (request) => {
      const { pathname, search } = new URL(request.url)
      const text = await request.text()
      const body = text === '' ? {} : JSON.parse(text)
      sent.push({ method: request.method, path: pathname + search, body })
      return await answers(sent.at(-1)!, sent.length)
    },
  )
  const context: IndexContext = {
    gateway,
    concurrency: 1,
    signal: stop.signal,
    async wait(ms) {
      waits.push(ms)
      hooks.onWait?.()
    },
  }
  return { context, sent, waits, stop }
}

const pages = (n: number) => Array.from({ length: n }, (_, i) => new URL(`/${i}`, SITE))
const stored = (status: string, questions = 0) =>
  Response.json({ url: '', status, passages: 3, questions })
const refusal = (status: number, code: string, headers: Record<string, string> = {}) =>
  Response.json({ error: { code, message: 'Cannot' } }, { status, headers })
const silent = () => {}
const kinds = (results: readonly PageResult[]) => results.map(({ page }) => page.kind)

test('puts every page, and reports the results in their order', async () => {
  const { context, sent } = start(({ body }) =>
    body.url === `${SITE}/1` ? stored('unchanged', 2) : stored('indexed'),
  )
  const seen: string[] = []
  const results = await indexPages(pages(3), null, context, ({ url }) => seen.push(url))
  expect(kinds(results)).toEqual(['indexed', 'unchanged', 'indexed'])
  expect(seen).toEqual(pages(3).map(String))
  expect(sent[0]).toEqual({ method: 'PUT', path: '/admin/site/page', body: { url: `${SITE}/0` } })
  expect(sent).toHaveLength(3)
})

test('the number of concurrent requests does not exceed the limit', async () => {
  const concurrent = { now: 0, most: 0 }
  const { context } = start(async () => {
    concurrent.now += 1
    concurrent.most = Math.max(concurrent.most, concurrent.now)
    await new Promise(setImmediate)
    concurrent.now -= 1
    return stored('indexed')
  })
  await indexPages(pages(20), null, { ...context, concurrency: 3 }, silent)
  expect(concurrent.most).toBe(3)
})

test('temporary failures are retried four times, after Retry-After if there is one', async () => {
  const { context, sent, waits } = start((_, count) => {
    if (count === 1) throw new TypeError('fetch failed')
    if (count === 2) return refusal(429, 'rate_limited', { 'retry-after': '7' })
    return count < 5 ? refusal(502, 'page_unavailable') : stored('indexed')
  })
  const results = await indexPages(pages(2), null, context, silent)
  expect(results.map(({ page }) => page)).toEqual([
    { kind: 'failed', code: 'page_unavailable', reason: '502 page_unavailable: Cannot' },
    { kind: 'indexed', passages: 3, questions: 0 },
  ])
  expect([sent.length, waits]).toEqual([5, [1000, 7000, 1000]])
})

test('pages that are not allowed, and invalid ones, are not retried', async () => {
  const { context, waits } = start(({ body }) =>
    body.url === `${SITE}/0` ? refusal(403, 'page_not_allowed') : refusal(400, 'invalid_value'),
  )
  const results = await indexPages(pages(2), null, context, silent)
  expect(results.map(({ page }) => page)).toEqual([
    { kind: 'not-allowed', reason: '403 page_not_allowed: Cannot' },
    { kind: 'failed', code: 'invalid_value', reason: '400 invalid_value: Cannot' },
  ])
  expect(waits).toEqual([])
})

test('an answer of another server is a failure', async () => {
  const { context } = start(() => new Response('<html>'))
  const [result] = await indexPages(pages(1), null, context, silent)
  expect(result?.page).toMatchObject({ reason: '200, not from an edge-completions Worker' })
})

test('after an abort, the running page finishes, and no more are started or retried', async () => {
  const { context, stop, sent } = start(() => {
    stop.abort()
    return refusal(503, 'search_unavailable')
  })
  const results = await indexPages(pages(3), null, context, silent)
  expect(kinds(results)).toEqual(['failed', 'not-started', 'not-started'])
  expect(sent).toHaveLength(1)
})

test('a misconfigured Worker ends the run', async () => {
  const { context, waits } = start(() => refusal(503, 'misconfigured'))
  expect(kinds(await indexPages(pages(2), null, context, silent))).toEqual([
    'failed',
    'not-started',
  ])
  expect(waits).toEqual([])
})

test('pagesToStay() leaves out pages that are not allowed, and needs a whole run', () => {
  const of = (...results: readonly PageResult['page'][]) =>
    pagesToStay(results.map((page, i) => ({ url: `${SITE}/${i}`, page, questions: null })))
  const indexed = { kind: 'indexed', passages: 1, questions: 0 } as const
  const refused = { kind: 'not-allowed', reason: '' } as const
  const failed = { kind: 'failed', code: null, reason: '' } as const
  expect(of(indexed, refused, failed)?.map(String)).toEqual([`${SITE}/0`, `${SITE}/2`])
  expect(of(refused, failed)).toBeNull()
  expect(of(indexed, { kind: 'not-started' })).toBeNull()
})

test('listIndexed() has the pages by name, and reports a Worker without an index', async () => {
  const data = [{ object: 'page', url: `${SITE}/a.html`, title: 'A', passages: 2, questions: 1 }]
  const { context, sent } = start(() => Response.json({ object: 'list', version: 1, data }))
  const found = await listIndexed(context.gateway)
  expect([...found]).toEqual([[`${SITE}/a`, { url: `${SITE}/a.html`, questions: 1 }]])
  expect(sent).toEqual([{ method: 'GET', path: '/admin/site', body: {} }])
  const old = start(() => refusal(404, 'not_found'))
  await expect(listIndexed(old.context.gateway)).rejects.toThrow(
    'Cannot list the index of the Worker: 404 not_found: Cannot',
  )
})

test('removePages() removes each page, and reports failures', async () => {
  const { context, sent } = start(({ path }) =>
    path.includes('gone') ? Response.json({ url: '', removed: false }) : refusal(400, 'x'),
  )
  const seen: string[] = []
  const urls = [`${SITE}/gone?&`, `${SITE}/b`]
  const results = await removePages(urls, context, ({ url }) => seen.push(url))
  expect(results.map(({ removal }) => removal)).toEqual([
    { kind: 'removed' },
    { kind: 'failed', code: 'x', reason: '400 x: Cannot' },
  ])
  expect(seen).toEqual(urls)
  const url = encodeURIComponent(`${SITE}/gone?&`)
  expect(sent[0]).toEqual({ method: 'DELETE', path: `/admin/site/page?url=${url}`, body: {} })
})

describe('questions', () => {
  const questions: Questions = {
    prompt: { id: 'q', variable: 'page', paths: ['/*'], maxChars: 9, others: [] },
    isFor: ({ pathname }) => pathname !== '/1',
  }
  const answer = (text: string, finish = 'stop') =>
    Response.json(
      {
        choices: [{ text, finish_reason: finish }],
        usage: { total_tokens: 9, completion_tokens: 4 },
      },
      { headers: { 'cache-status': 'edge-completions; fwd=miss; stored' } },
    )
  const isLookup = (count: number) => count % 2 === 1

  /** Completions are missing, and then have this text. Pages are stored with what they are sent. */
  function startWith(complete: () => Response, page: (sent: Sent) => Response) {
    let completions = 0
    return start((sent) => {
      if (sent.path !== '/v1/completions') return page(sent)
      completions += 1
      return isLookup(completions) ? refusal(404, 'not_cached') : complete()
    })
  }

  test('are written for pages that have none, and indexed with the page', async () => {
    const { context, sent } = startWith(
      () => answer('1. One?\n2. Two?\n3. Thr', 'length'),
      ({ body }) =>
        body.url === `${SITE}/2`
          ? stored('unchanged', 5)
          : stored('indexed', body.questions?.length ?? 0),
    )
    const results = await indexPages(pages(3), questions, context, silent)
    expect(results.map(({ questions }) => questions)).toEqual([
      { kind: 'written', questions: 2, tokens: 9 },
      null,
      null,
    ])
    const prompt = { id: 'q', variables: { page: `${SITE}/0` } }
    expect(sent.slice(0, 4)).toEqual([
      { method: 'PUT', path: '/admin/site/page', body: { url: `${SITE}/0` } },
      { method: 'POST', path: '/v1/completions', body: { prompt } },
      { method: 'POST', path: '/v1/completions', body: { prompt } },
      {
        method: 'PUT',
        path: '/admin/site/page',
        body: { url: `${SITE}/0`, questions: ['One?', 'Two?'] },
      },
    ])
    expect(sent).toHaveLength(6)
  })

  test('stop when the budget is exhausted, and pages are still indexed', async () => {
    const { context, sent, waits } = startWith(
      () => refusal(429, 'budget_exhausted', { 'retry-after': '60' }),
      () => stored('indexed'),
    )
    const results = await indexPages(pages(4), { ...questions, isFor: () => true }, context, silent)
    expect(kinds(results)).toEqual(Array(4).fill('indexed'))
    expect(results.map(({ questions }) => questions?.kind)).toEqual([
      'failed',
      ...Array(3).fill('not-started'),
    ])
    expect(sent.filter(({ path }) => path === '/v1/completions')).toHaveLength(2)
    expect(waits).toEqual([])
  })

  test('fail for a page whose answer has none, or that cannot be indexed with them', async () => {
    const none = startWith(
      () => answer('# Questions\n'),
      () => stored('indexed'),
    )
    const [result] = await indexPages(pages(1), questions, none.context, silent)
    expect(result?.questions).toMatchObject({ reason: 'the answer has no questions', tokens: 9 })
    const refused = startWith(
      () => answer('One?'),
      ({ body }) => (body.questions ? refusal(400, 'invalid_value') : stored('indexed')),
    )
    const [other] = await indexPages(pages(1), questions, refused.context, silent)
    expect(other?.questions).toMatchObject({ code: 'invalid_value', tokens: 9 })
  })
})
