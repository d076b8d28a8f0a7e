// The search of the owner's site in workerd: pages are fetched over a socket, indexed in the object,
// and found.
import { beforeAll, beforeEach, expect, test } from 'vitest'
import { type ClientRequest, OPERATOR_TOKEN, ORIGIN, type Reply } from '../support/client.ts'
import type { Lane, Script } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers } from '../support/workerd.ts'

const OPERATOR = { authorization: `Bearer ${OPERATOR_TOKEN}` }
/** A Worker on this machine may read pages of this machine. */
const LOCAL = { host: 'localhost' }

const suite = workerSuite()
let site: Lane
let workers: Workers
let origin: string
/** The site's pages by path. */
const pages = new Map<string, Script>()

beforeAll(async () => {
  const { upstream } = suite
  origin = `http://127.0.0.1:${upstream.port}`
  site = upstream.lane('site')
  workers = await suite.share({
    isolates: 2,
    config: suite.config('model', { origins: [ORIGIN, origin], site: { paths: ['/site/*'] } }),
  })
})

beforeEach(() => {
  site.calls.length = 0
  site.answers(async (call, line) => {
    const serve = pages.get(call.path)
    if (serve !== undefined) return await serve(call, line)
    line.head(404)
    line.end()
  })
})

function html(body: string, headers: Record<string, string> = {}): Script {
  return (_, line) => {
    line.head(200, {
      'content-type': 'text/html; charset=utf-8',
      'content-length': String(Buffer.byteLength(body)),
      ...headers,
    })
    line.write(body)
    line.end()
  }
}

async function put(path: string, body: string): Promise<Reply> {
  pages.set(path, html(body))
  return await index({ url: origin + path })
}

const index = (body: unknown, headers: ClientRequest['headers'] = OPERATOR, isolate = 0) =>
  workers.client(isolate).send({
    method: 'PUT',
    path: '/admin/site/page',
    headers: { ...LOCAL, ...headers },
    body,
  })

const search = (query: string, headers: ClientRequest['headers'] = {}, isolate = 0) =>
  workers.client(isolate).send({ path: `/v1/search?${query}`, headers: { ...LOCAL, ...headers } })

const ask = async (question: string) => await search(`q=${encodeURIComponent(question)}`)

const codeOf = ({ status, text }: Reply) =>
  `${status} ${status === 200 ? 'ok' : (JSON.parse(text) as { error: { code: string } }).error.code}`

test('a page that is put is found', async () => {
  const reply = await put(
    '/site/boats',
    '<title>Boats</title><main><h1>Boats</h1><p>How to configure a boat.</main>',
  )
  expect(JSON.parse(reply.text)).toEqual({
    url: `${origin}/site/boats`,
    status: 'indexed',
    passages: 1,
    questions: 0,
  })
  const found = await ask('configuring boats?')
  expect(codeOf(found)).toBe('200 ok')
  expect(JSON.parse(found.text)).toMatchObject({
    object: 'list',
    data: [{ object: 'passage', text: expect.stringContaining('How to configure a boat.') }],
  })
})
