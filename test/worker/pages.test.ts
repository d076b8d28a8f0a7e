// Pages of the owner's site in workerd: one rich page, failing fetches over a socket, two isolates,
// and visitors who cannot cause any cost.
import { gzipSync } from 'node:zlib'
import { beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { newAddress, OPERATOR_TOKEN, ORIGIN, type Reply } from '../support/client.ts'
import { chatStream, type Lane, type Script } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers } from '../support/workerd.ts'

const OPERATOR = { authorization: `Bearer ${OPERATOR_TOKEN}` }
/** A Worker on this machine may read pages of this machine. */
const LOCAL = { host: 'localhost' }

const suite = workerSuite()
let model: Lane
let site: Lane
let workers: Workers
let config: ReturnType<typeof suite.config>
let origin: string
/** The site's pages by path. */
const pages = new Map<string, Script>()
let made = 0

beforeAll(async () => {
  const { upstream } = suite
  origin = `http://127.0.0.1:${upstream.port}`
  model = upstream.lane('model')
  site = upstream.lane('site')
  const page = { from: 'url', paths: ['/site/*'] }
  config = suite.config(
    'model',
    {
      origins: [ORIGIN, origin],
      free_prompts: false,
      prompts: {
        summary: { text: '{{page}}', variables: { page } },
        warmed: { text: 'Summarise {{page}}', variables: { page }, spend: 'operator' },
      },
      budget: { tokens_per_day: 100_000_000, tokens_per_visitor_per_day: 100_000_000 },
    },
    { wire: 'chat', retries: 0 },
  )
  workers = await suite.share({ isolates: 2, config })
})

beforeEach(() => {
  model.calls.length = 0
  site.calls.length = 0
  model.answers(chatStream(['fine']))
  site.answers(async (call, line) => {
    const serve = pages.get(call.path)
    if (serve !== undefined) return await serve(call, line)
    line.head(404)
    line.end()
  })
})

/** Serves a page at a new path; returns its URL. */
function put(script: Script): string {
  made += 1
  const path = `/site/${made}`
  pages.set(path, script)
  return origin + path
}

function bytes(body: string | Uint8Array, headers: Record<string, string | string[]> = {}): Script {
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

interface AskOptions {
  readonly prompt?: string
  readonly isolate?: number
  readonly headers?: Record<string, string | null>
}

async function ask(
  url: string,
  { prompt = 'summary', isolate = 0, headers = {} }: AskOptions = {},
) {
  const body = { prompt: { id: prompt, variables: { page: url } } }
  return await workers.client(isolate).complete(body, { ...LOCAL, ...headers })
}

async function get(
  url: string,
  { prompt = 'summary', isolate = 0, headers = {} }: AskOptions = {},
) {
  const path = `/v1/completions?prompt_id=${prompt}&var.page=${encodeURIComponent(url)}`
  return await workers.client(isolate).send({ path, headers: { ...LOCAL, ...headers } })
}

const codeOf = ({ status, text }: Reply) =>
  `${status} ${status === 200 ? 'ok' : (JSON.parse(text) as { error: { code: string } }).error.code}`

/** The page text that the model was given. */
function pageText(): string | undefined {
  const messages = model.calls.at(-1)?.body['messages'] as { content: string }[] | undefined
  return messages?.at(-1)?.content.split('\n').slice(1, -1).join('\n')
}

async function readAs(script: Script): Promise<string | undefined> {
  const reply = await ask(put(script), { headers: { ...OPERATOR, 'cache-control': 'no-cache' } })
  return codeOf(reply) === '200 ok' ? pageText() : codeOf(reply)
}

/** What a page may hold, each read or left out as test/page and test/html say. */
const rich = `<?xml version="1.0"?><!DOCTYPE html><title>no</title>no<MAIN><h1>Caf&eacute;</h1>
  <ul><li>one<li hidden>no<li>two &NotEqual; three</ul><nav>no</nav><script>"</main>"</script>
  <table><tr>moved<td>a<td>b</table><p>Let <math><msup><mi>x</mi><mn>2</mn></msup></math> be.
  <my-post><template shadowrootmode=open><p>Shadow</template>no</my-post> 🎈 end`
const richText = 'Café one two ≠ three moved a b Let x^2 be. Shadow 🎈 end'

describe('the readable text of', () => {
  test('HTML that arrives byte by byte', async () => {
    const script: Script = async (_, line) => {
      line.head(200, { 'content-type': 'text/html', 'transfer-encoding': 'chunked' })
      for (const byte of Buffer.from(rich)) {
        line.write(Buffer.concat([Buffer.from('1\r\n'), Buffer.of(byte), Buffer.from('\r\n')]))
        await line.flushed()
      }
      line.lastChunk()
    }
    expect(await readAs(script)).toBe(richText)
  })

  test('nonsense of 1 MB, in little time', async () => {
    const startedAt = performance.now()
    const html = `<main>text</main>${'<div>'.repeat(200_000)}`
    expect(await readAs(bytes(html))).toBe('text')
    expect(performance.now() - startedAt).toBeLessThan(5000)
  })

  test('a page that is compressed, or in another charset', async () => {
    const gzipped = gzipSync(rich)
    expect(await readAs(bytes(gzipped, { 'content-encoding': 'gzip' }))).toBe(richText)
    const japanese = Buffer.concat([
      Buffer.from('<meta charset=shift_jis><main>'),
      Buffer.of(0x93, 0xfa, 0x96, 0x7b),
    ])
    expect(await readAs(bytes(japanese, { 'content-type': 'text/html' }))).toBe('日本')
    const twice = Array(2).fill('text/html; charset=utf-8')
    expect(await readAs(bytes('<p>é', { 'content-type': twice }))).toBe('é')
  })
})

/** What the runtime has to notice. test/routes/page-variables.test.ts has the other faults. */
const faulty: [string, string, Script][] = [
  [
    'too_large',
    'a gzip bomb',
    bytes(gzipSync(Buffer.alloc(100_000_000, 65)), { 'content-encoding': 'gzip' }),
  ],
  [
    'broken',
    'a page shorter than its Content-Length',
    (_, line) => {
      line.head(200, { 'content-type': 'text/html', 'content-length': '1000' })
      line.write('<main>half')
      line.end()
    },
  ],
  [
    'broken',
    'a page without its last chunk',
    (_, line) => {
      line.head(200, { 'content-type': 'text/html', 'transfer-encoding': 'chunked' })
      line.chunk('<main>half')
      line.end()
    },
  ],
  [
    'broken',
    'a page that is not gzip',
    bytes('<main>not packed</main>', { 'content-encoding': 'gzip' }),
  ],
  ['unreachable', 'a connection that is reset', (_, line) => line.reset()],
]

test.each(faulty)(
  'a fault of the page is reported, and nothing is spent: %s, %s',
  async (reason, _, script) => {
    const url = put(script)
    const reply = await ask(url)
    expect(codeOf(reply)).toBe('502 page_unavailable')
    expect(reply.text).not.toContain(url)
    const id = String(reply.headers['x-request-id'])
    await workers.log.request(id)
    expect(workers.log.all('page_failed', id)).toEqual([
      { event: 'page_failed', request_id: id, reason },
    ])
    expect(model.calls).toEqual([])
    expect(site.calls).toHaveLength(1)
  },
)

test('a page is fetched without anything of the visitor, and revalidated by its ETag in every isolate', async () => {
  const url = put((call, line) => {
    const etag = '"v1"'
    if (call.headers['if-none-match'] !== etag)
      return bytes('<main>Text</main>', { etag })(call, line)
    line.head(304, { etag })
    line.end()
  })
  const warmed = {
    prompt: 'warmed',
    headers: { ...OPERATOR, cookie: 'a=1', referer: 'https://x.example/' },
  }
  expect(codeOf(await ask(url, warmed))).toBe('200 ok')
  const { headers = {} } = site.calls[0] ?? {}
  // Headers that the runtime adds are not the visitor's.
  expect(
    Object.keys(headers)
      .filter((name) => name !== 'cf-worker')
      .sort(),
  ).toEqual(['accept', 'cache-control', 'host', 'pragma', 'user-agent'])
  expect(JSON.stringify(headers)).not.toContain(OPERATOR_TOKEN)
  // Another isolate gets the answer from KV, and the page's version with it.
  expect(codeOf(await get(url, { prompt: 'warmed', isolate: 1 }))).toBe('200 ok')
  expect(site.calls).toHaveLength(1)
  expect(codeOf(await ask(url, { ...warmed, isolate: 1 }))).toBe('200 ok')
  expect(site.calls[1]?.headers['if-none-match']).toBe('"v1"')
  expect(model.calls).toHaveLength(1)
})

test('the first pages of an isolate may be read at the same time', async () => {
  const urls = Array.from({ length: 8 }, (_, i) => put(bytes(`<main>First page ${i}</main>`)))
  const client = (await suite.start({ config })).client()
  const headers = { ...LOCAL, ...OPERATOR }
  const path = '/admin/site/page'
  const replies = await Promise.all(
    urls.flatMap((url) => [
      client.complete({ prompt: { id: 'warmed', variables: { page: url } } }, headers),
      client.send({ method: 'PUT', path, body: { url }, headers }),
    ]),
  )
  expect(replies.map(codeOf)).toEqual(replies.map(() => '200 ok'))
  expect(model.calls).toHaveLength(8)
})

test('500 visitors with arbitrary URLs and texts cause no upstream call and no fetch', async () => {
  const warm = Array.from({ length: 100 }, (_, i) => put(bytes(`<main>Post number ${i}</main>`)))
  await atOnce(warm, 8, async (url) => {
    expect(codeOf(await ask(url, { prompt: 'warmed', headers: OPERATOR }))).toBe('200 ok')
  })
  expect(model.calls).toHaveLength(100)
  expect(site.calls).toHaveLength(100)
  const [first = ''] = warm
  const strange = [
    put(bytes('<main>Nobody warmed this</main>')),
    ...[`${origin}/site/nowhere`, `${origin}/model`, `${first}/../../model`],
    ...['https://evil.example/', 'http://169.254.169.254/', `${origin}@evil.example/`],
    ...[`${first}%2f..%2f..%2fmodel`, 'x', '', origin],
  ]
  const headers = [
    {},
    { 'cache-control': 'no-cache' },
    { authorization: 'Bearer guess' },
    { 'cache-control': 'no-store' },
  ]
  const counts: Record<string, number> = {}
  const visitors = Array.from({ length: 500 }, (_, i) => i)
  await atOnce(visitors, 16, async (i) => {
    const client = workers.client(i % 2)
    const own = { ...LOCAL, 'cf-connecting-ip': newAddress(), ...headers[i % headers.length] }
    const url = i % 5 === 0 ? (warm[i / 5] ?? '') : (strange[i % strange.length] ?? '')
    const variables = { page: url }
    const prompt =
      i % 5 === 4
        ? [
            `text ${i}`,
            { id: 'warmed', variables: { page: url, more: 'x' } },
            { id: 'other', variables },
          ][i % 3]
        : { id: 'warmed', variables }
    const reply =
      i % 2 === 0 || i % 5 === 4
        ? await client.complete(
            { prompt, ...(i % 7 === 0 && i % 5 !== 0 ? { stream: true } : {}) },
            own,
          )
        : await get(url, { prompt: 'warmed', isolate: i % 2, headers: own })
    if (i % 5 === 0) {
      expect(codeOf(reply)).toBe('200 ok')
      expect(reply.headers['cache-status']).toMatch(/; hit;/)
    } else expect(reply.status).toBeGreaterThanOrEqual(400)
    const code = codeOf(reply)
    counts[code] = (counts[code] ?? 0) + 1
  })
  expect(counts['200 ok']).toBe(100)
  expect(Object.keys(counts).sort()).toEqual([
    '200 ok',
    '400 free_prompts_disabled',
    '400 invalid_value',
    '400 prompt_not_found',
    '403 page_not_allowed',
    '404 not_cached',
  ])
  expect(model.calls).toHaveLength(100)
  expect(site.calls).toHaveLength(100)
})

async function atOnce<T>(items: readonly T[], n: number, work: (item: T) => Promise<void>) {
  const left = items.values()
  const worker = async () => {
    for (const item of left) await work(item)
  }
  await Promise.all(Array.from({ length: n }, worker))
}
