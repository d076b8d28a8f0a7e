// The last answer to a prompt that only the operator may spend on, in workerd: across deploys that
// change the prompt, across isolates, in every shape, at all addresses of a page, until a purge.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { completionOf, requestEvent, streamOf } from '../support/answers.ts'
import { OPERATOR_TOKEN, ORIGIN, type Reply } from '../support/client.ts'
import { chatStream, type Lane } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers } from '../support/workerd.ts'

const LOCAL = { host: 'localhost' }
const OPERATOR = { ...LOCAL, authorization: `Bearer ${OPERATOR_TOKEN}` }

const suite = workerSuite()
let model: Lane
let site: Lane
let origin: string
let folder: string
/** The site's pages by path: a text or a redirect. */
const pages = new Map<string, { readonly text: string } | { readonly location: string }>()

beforeAll(async () => {
  origin = `http://127.0.0.1:${suite.upstream.port}`
  model = suite.upstream.lane('model')
  site = suite.upstream.lane('site')
})

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'edge-last-'))
  pages.clear()
  model.calls.length = 0
  site.calls.length = 0
  model.answers(chatStream(['first']))
  site.answers(({ path }, line) => {
    const page = pages.get(path)
    if (page === undefined || 'location' in page) {
      line.head(page === undefined ? 404 : 301, page === undefined ? {} : { ...page })
      return line.end()
    }
    const body = `<main>${page.text}</main>`
    line.head(200, { 'content-type': 'text/html', 'content-length': String(body.length) })
    line.write(body)
    line.end()
  })
})

afterEach(async () => {
  await rm(folder, { recursive: true })
})

/** Starts the Worker on this test's storage, as a deploy does. */
async function deploy(prompt: object, variable: object = {}): Promise<Workers> {
  await suite.stop()
  const page = { from: 'url', paths: ['/site/*'], ...variable }
  return await suite.start({
    isolates: 2,
    persistIn: folder,
    config: suite.config(
      'model',
      {
        origins: [ORIGIN, origin],
        prompts: {
          summary: { text: '{{page}}', variables: { page }, spend: 'operator', ...prompt },
        },
        budget: { tokens_per_day: 1e8 },
      },
      { wire: 'chat', retries: 0 },
    ),
  })
}

const about = (path: string) => ({ prompt: { id: 'summary', variables: { page: origin + path } } })
const query = (path: string) =>
  `/v1/completions?prompt_id=summary&var.page=${encodeURIComponent(origin + path)}`

async function warm(workers: Workers, path: string, isolate = 0): Promise<void> {
  const reply = await workers.client(isolate).complete(about(path), OPERATOR)
  expect(String(reply.headers['cache-status'])).toMatch(/; stored$|fwd=request$/)
  const { id } = completionOf(reply)
  await expect
    .poll(async () => [...(await workers.kvEntries()).values()].some((v) => v.includes(id)))
    .toBe(true)
}

const get = async (workers: Workers, path: string, headers = {}, isolate = 1) =>
  await workers.client(isolate).send({ path: query(path), headers: { ...LOCAL, ...headers } })

const codeOf = ({ text }: Reply) => (JSON.parse(text) as { error: { code: string } }).error.code
const statusOf = (reply: Reply) => String(reply.headers['cache-status'])

test('a changed prompt gets its last answer, in every shape and isolate, until the new one is warmed', async () => {
  pages.set('/site/a', { text: 'The page.' })
  await warm(await deploy({}), '/site/a')
  const workers = await deploy({ text: 'In one sentence: {{page}}', max_tokens: 9 })
  const previous = 'edge-completions; hit; detail=previous'
  for (const isolate of [0, 1]) {
    const reply = await get(workers, '/site/a', {}, isolate)
    expect([completionOf(reply).choices[0]?.text, statusOf(reply)]).toEqual(['first', previous])
    expect(reply.headers['cache-control']).toBe('public, max-age=0')
    expect(reply.headers['vary']).toBe('Origin, Accept')
    expect((await requestEvent(reply, workers.log)).cache).toBe('previous')
    const tag = String(reply.headers['etag'])
    const again = await get(workers, '/site/a', { 'if-none-match': tag }, isolate)
    expect([again.status, statusOf(again)]).toEqual([304, previous])
    const client = workers.client(isolate)
    const stream = await client.complete({ ...about('/site/a'), stream: true }, LOCAL)
    expect([streamOf(stream).text(), statusOf(stream)]).toEqual(['first', previous])
    const only = { ...LOCAL, 'cache-control': 'only-if-cached' }
    expect(statusOf(await client.complete(about('/site/a'), only))).toBe(previous)
    const bare = await get(workers, '/site/a', { accept: 'text/plain' }, isolate)
    expect([bare.text, statusOf(bare)]).toEqual(['first', previous])
  }
  expect([model.calls.length, site.calls.length]).toEqual([1, 1])
  model.answers(chatStream(['second']))
  await warm(workers, '/site/a')
  const renewed = await get(workers, '/site/a', {}, 0)
  expect(completionOf(renewed).choices[0]?.text).toBe('second')
  expect(statusOf(renewed)).toMatch(/; hit; ttl=\d+; detail=(memory|kv)$/)
})

test('a purge persists across deploys, also for answers that never expire', async () => {
  pages.set('/site/a', { text: 'The page.' })
  pages.set('/site/b', { text: 'Another page.' })
  const workers = await deploy({})
  await warm(workers, '/site/a')
  await warm(workers, '/site/b')
  const sent = { method: 'POST', path: '/admin/purge', headers: OPERATOR }
  await workers.client(1).send({ ...sent, body: { request: about('/site/a/') } })
  const later = await deploy({ text: 'New: {{page}}' })
  expect(codeOf(await get(later, '/site/a'))).toBe('not_cached')
  expect(statusOf(await get(later, '/site/b'))).toContain('detail=previous')
})

test('no spelling of a path and no redirect escapes the listed paths', async () => {
  const workers = await deploy({ spend: 'visitor' })
  for (const path of pages.keys()) pages.delete(path)
  const spellings = [
    ...['/site/..;/secret', '/site/%2e%2e%3b/secret', '/site/..%3B/secret', '/site/.%2e;/secret'],
    ...['/site/a/..;a=b/..;/secret', '/site/a;x=1/secret', '/site;/secret', '/site/..%2fsecret'],
    ...['/site/..%5csecret', '/site/%252e%252e/secret', '/site/%25252e%25252e%25252fsecret'],
    ...['/site/%c0%ae%c0%ae/secret', '/site/..%c0%afsecret', '/site/%u002e%u002e/secret'],
    ...['/site/.../secret', '/site/..%20/secret', '/site/..%00/secret', '/site/%ef%bc%8e./secret'],
    ...['/site/\uff0e\uff0e/secret', '/site/\u2025/secret', '/site/a\uff0f..\uff0fsecret'],
    ...['/site/..%cd%be/secret', '/site/..%ef%bc%9b/secret', '/site/.%e2%80%8b./secret'],
    ...['/site/../secret', '/site/%2e%2e/secret', '/site//secret'],
  ]
  for (const path of spellings) {
    for (const headers of [LOCAL, OPERATOR]) {
      const reply = await workers.client().complete(about(path), headers)
      expect([path, reply.status, codeOf(reply)]).toEqual([path, 403, 'page_not_allowed'])
    }
    expect(codeOf(await get(workers, path))).toBe('page_not_allowed')
  }
  expect(site.calls).toEqual([])
  for (const [i, location] of [...spellings, '/secret', '/site/x;/../..;/secret'].entries()) {
    pages.set(`/site/${i}`, { location })
    const reply = await workers.client().complete(about(`/site/${i}`), LOCAL)
    expect([location, reply.status, codeOf(reply)]).toEqual([location, 403, 'page_not_allowed'])
  }
  expect(site.calls.filter(({ path }) => path.includes('secret'))).toEqual([])
  expect(model.calls).toEqual([])
})
