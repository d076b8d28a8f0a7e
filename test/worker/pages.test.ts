// Pages of the owner's site in workerd: carelessly written HTML, failing fetches over a socket, two
// isolates, and visitors who cannot cause any cost.
import { gzipSync } from 'node:zlib'
import { beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { newAddress, ORIGIN, type Reply } from '../support/client.ts'
import { OPERATOR_TOKEN } from '../support/rig.ts'
import { chatStream, type Lane, latch, type Script } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers } from '../support/workerd.ts'

const OPERATOR = { authorization: `Bearer ${OPERATOR_TOKEN}` }
/** A Worker on this machine may read pages of this machine. */
const LOCAL = { host: 'localhost' }

const suite = workerSuite()
let model: Lane
let site: Lane
let workers: Workers
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
  workers = await suite.share({
    isolates: 2,
    config: suite.config(
      'model',
      {
        origins: [ORIGIN, origin],
        free_prompts: false,
        prompts: {
          summary: { text: '{{page}}', variables: { page } },
          posts: {
            text: '{{page}}',
            variables: {
              page: { ...page, selector: '[data-x="a,b"], article.post > p', max_chars: 30 },
            },
          },
          warmed: { text: 'Summarise {{page}}', variables: { page }, spend: 'operator' },
        },
        budget: { tokens_per_day: 100_000_000, tokens_per_visitor_per_day: 100_000_000 },
      },
      { wire: 'chat', retries: 0 },
    ),
  })
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

async function readAs(script: Script, prompt = 'summary'): Promise<string | undefined> {
  const headers = { ...OPERATOR, 'cache-control': 'no-cache' }
  const reply = await ask(put(script), { prompt, headers })
  return codeOf(reply) === '200 ok' ? pageText() : codeOf(reply)
}

/** A page in UTF-8, by `Content-Type` and by its `<meta>`. */
const page = (body: string) =>
  `<!doctype html><html><head><meta charset="utf-8"><title>T</title></head><body>${body}</body></html>`

const readable: [string, string, string | RegExp][] = [
  ['main before anything else', '<body>Menu<main>Text</main>Foot</body>', 'Text'],
  ['article without main', '<body>Menu<article>Text</article></body>', 'Text'],
  ['article if main is empty', '<main> </main><article>Text</article>', 'Text'],
  ['all articles', '<article>One</article>x<article>Two</article>', 'One Two'],
  [
    'body if there is neither',
    '<html><head><title>T</title></head><body>Text</body></html>',
    'Text',
  ],
  ['a page without a body', '<!doctype html><title>T</title><p>Te<b>x</b>t<p>more', 'Text more'],
  ['nested articles once', '<article>a<article>b</article>c</article>', 'a b c'],
  ['capitals', '<MAIN>Te<SCRIPT>no</SCRIPT>xt</MAIN>', 'Text'],
  [
    'blocks apart and words whole',
    '<main><h1>A</h1><p>b<i>c</i>d</p>e<ul><li>f<li>g</ul>h<br>i<table><tr><td>j<td>k</table>',
    'A bcd e f g h i j k',
  ],
  ['white space collapsed', '<main>\n a\t\tb\r\n\u00a0&nbsp;c\u2003d \u0000</main>', 'a b c d'],
  [
    'what is no text left out',
    '<main>a<script>if (a < b) "</main>"</script><style>x{}</style><noscript>n</noscript>' +
      '<template>t</template><nav>n<p>av</nav><svg><text>s</text></svg><svg/><button>b</button>' +
      '<select><option>o</select><textarea>x</textarea><iframe>i</iframe><div hidden>h<p>h</div>' +
      '<span aria-hidden="true">#</span><input hidden value="v"><!-- c -->z</main>',
    'a z',
  ],
  ['an end tag that is missing', '<body><div><nav>n<p>av</div>text<nav>more', 'text'],
  [
    'entities',
    '<main>a &amp; b &lt;c&gt; &quot;&#39;&rsquo;&#x1F388;&eacute;&amp;lt;',
    'a & b <c> "\'’🎈é&lt;',
  ],
  [
    'text that looks like markup',
    '<main>&lt;script&gt;x&lt;/script&gt; 1 < 2 & 3',
    '<script>x</script> 1 < 2 & 3',
  ],
  [
    'comments and declarations',
    '<!doctype html><?xml x?><main>a<!-- <b>no</b> -->b<![CDATA[c]]>',
    'ab',
  ],
  [
    'XHTML, and what stands before a doctype',
    '<?xml version="1.0"?><!-- x --><!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "x"><p>Text<br/>more',
    'Text more',
  ],
  [
    'elements within removed ones',
    '<nav><main>no</main></nav><main hidden>no</main><article>Text',
    'Text',
  ],
  ['broken markup', '<main><p class="a" <b>x</p></i></main></main><p', 'x'],
  [
    'a hidden item without its end tag',
    page('<ul><li>one<li hidden>two<li>three</ul><p>after</p>'),
    'one three after',
  ],
  [
    'a hidden paragraph without its end tag',
    page('<article><p hidden>draft<p>Visible one.<p>Visible two.</article>'),
    'Visible one. Visible two.',
  ],
  [
    'a hidden item with its end tag',
    page('<ul><li>one</li><li hidden>two</li><li>three</li></ul><p>after</p>'),
    'one three after',
  ],
  [
    'hidden elements without content',
    page('<p>a<img hidden src="x">b<br hidden>c<input hidden>d</p><p>e</p>'),
    'a b cd e',
  ],
  [
    'noscript in a select',
    page('<select><option>a<noscript>x</noscript></select><p>after</p>'),
    'after',
  ],
  [
    'a picture with a title in a select',
    page('<select><option><svg><title>t</title></svg>a</option></select><p>after</p>'),
    'after',
  ],
  [
    'a script in a select',
    page('<select><option>a</option><script>1</script></select><p>after</p>'),
    'after',
  ],
  ['references without a semicolon', page('<p>&copy 2026 A &amp B</p>'), '© 2026 A & B'],
  ['references decoded once', page('<p>AT&amp;amp;T &#x26;lt; &#8217;</p>'), 'AT&amp;T &lt; ’'],
  [
    'KaTeX',
    page(
      '<article><p>Let <span class="katex"><span class="katex-mathml"><math xmlns="http://www.w3.org/1998/Math/MathML"><semantics><mrow><msup><mi>x</mi><mn>2</mn></msup></mrow><annotation encoding="application/x-tex">x^2</annotation></semantics></math></span><span class="katex-html" aria-hidden="true"><span class="base"><span class="mord"><span class="mord mathnormal">x</span><span class="msupsub">2</span></span></span></span></span> be even.</p></article>',
    ),
    /^Let .*x.*2.* be even\.$/,
  ],
  [
    'MathML',
    page('<article><p>Let <math><mi>x</mi><mo>=</mo><mn>2</mn></math> hold.</p></article>'),
    /^Let x ?= ?2 hold\.$/,
  ],
  ['centred blocks', page('<center>Title</center><center>by me</center>'), 'Title by me'],
  ['words around navigation', page('one<nav>x</nav>two'), 'one two'],
  [
    'list items and table cells',
    page(
      '<h1>Report</h1><p>Up.</p><ul><li>one</li><li>two</li></ul><table><tr><td>a</td><td>b</td></tr></table>',
    ),
    'Report Up. one two a b',
  ],
  ['formatted words', page('<p>auto<b>matic</b> wo<wbr>rd</p>'), 'automatic word'],
  [
    'a declarative shadow tree',
    page(
      '<article><h1>Title</h1><my-post><template shadowrootmode="open"><p>Shadow text</p></template></my-post></article>',
    ),
    'Title Shadow text',
  ],
  ['no other template', page('<main><p>a</p><template><p>no</p></template><p>c</p></main>'), 'a c'],
  [
    'articles within each other',
    page('<article>one<article>two</article>three</article><article>four</article>'),
    'one two three four',
  ],
]

const latin1 = (text: string) => Buffer.from(text, 'latin1')
const hello = page('<p>héllo</p>')

/** Bytes, `Content-Type`, and the expected text. */
const encoded: [string, string | Uint8Array, string | string[], string][] = [
  ['an unknown label', hello, 'text/html; charset=utf8mb4', 'héllo'],
  ['a label in single quotes', hello, "text/html; charset='utf-8'", 'héllo'],
  ['a label in double quotes', hello, 'text/html; charset="utf-8"', 'héllo'],
  [
    'a label that stands for another encoding',
    latin1('<!doctype html><p>café'),
    'text/html; charset=ISO-8859-1',
    'café',
  ],
  ['Content-Type sent twice', hello, Array(2).fill('text/html; charset=utf-8'), 'héllo'],
  ['a label given twice', hello, 'text/html; charset=utf-8; charset=utf-8', 'héllo'],
  [
    'data-charset',
    page('<p>héllo')
      .replace('<title>', '<meta name="x" data-charset="gbk"><title>')
      .replace('<meta charset="utf-8">', ''),
    'text/html',
    'héllo',
  ],
  [
    'a property that mentions charset',
    '<meta property="og:x" value="charset=gbk"><p>héllo',
    'text/html',
    'héllo',
  ],
  [
    'a description that mentions charset',
    '<meta name="description" content="charset=gbk"><p>héllo',
    'text/html',
    'héllo',
  ],
  [
    'an XML declaration',
    latin1('<?xml version="1.0" encoding="ISO-8859-1"?><html><body><p>café</p></body></html>'),
    'text/html',
    'café',
  ],
  [
    '<meta> beyond 1,024 bytes',
    latin1(
      `<!doctype html><html><head><style>/*${'a'.repeat(1100)}*/</style><meta charset="windows-1252"><p>café`,
    ),
    'text/html',
    'café',
  ],
  [
    '<meta http-equiv>',
    Buffer.concat([
      latin1(
        '<!doctype html><html><head><meta http-equiv="Content-Type" content="text/html; charset=Shift_JIS"></head><body><p>',
      ),
      Buffer.of(0x93, 0xfa, 0x96, 0x7b),
    ]),
    'text/html',
    '日本',
  ],
]

describe('the readable text of', () => {
  test.each(readable)('%s', async (_, html, text) => {
    const seen = await readAs(bytes(html))
    if (typeof text === 'string') expect(seen).toBe(text)
    else expect(seen).toMatch(text)
  })

  test.each(encoded)('%s', async (_, body, type, text) => {
    expect(await readAs(bytes(body, { 'content-type': type }))).toBe(text)
  })

  test.each([
    '<a',
    '</a',
    '<b>',
    '<main>',
    '</main>',
    '<main x="',
    '<!--',
    '&',
    '<p hidden>',
    '<![CDATA[',
    '<div>',
    '<p><span class=katex>',
    '<x-y><template shadowrootmode=open><div><slot></slot>',
  ])('nonsense, repeating %s, in little time', async (piece) => {
    const startedAt = performance.now()
    const html = `<main>text</main>${piece.repeat(1_000_000 / piece.length)}`
    expect(await readAs(bytes(html))).toMatch(/^text/)
    expect(performance.now() - startedAt).toBeLessThan(5000)
  })

  test('HTML that is split anywhere', async () => {
    const html = '<body>no<main>a &amp; b é <b>c</b><script>no</script>🎈 d</main>'
    const pieces = Buffer.from(html)
    const script: Script = async (_, line) => {
      line.head(200, { 'content-type': 'text/html', 'transfer-encoding': 'chunked' })
      for (const byte of pieces) {
        line.write(Buffer.concat([Buffer.from('1\r\n'), Buffer.of(byte), Buffer.from('\r\n')]))
        await line.flushed()
      }
      line.lastChunk()
    }
    expect(await readAs(script)).toBe('a & b é c🎈 d')
  })

  test("the owner's selector, cut at max_chars", async () => {
    const html =
      '<main>no<article class="post"><p>first &amp; foremost</p><div>no</div><p>secondly, this</p>'
    expect(await readAs(bytes(html), 'posts')).toBe('first & foremost secondly, thi')
    expect(await readAs(bytes(`${html}<p data-x="a,b">mine`), 'posts')).toBe('mine')
    const two = '<b data-x="a,b">one</b><b data-x="a,b">two</b>'
    expect(await readAs(bytes(two), 'posts')).toBe('one two')
    expect(await readAs(bytes('<main>no'), 'posts')).toBe('502 page_unavailable')
  })

  test('Markdown and plain text, unchanged', async () => {
    const markdown = '# Title\n\n<b>x</b> &amp; *y*\n'
    for (const type of ['text/markdown; charset=utf-8', 'text/x-markdown', 'Text/Plain']) {
      const url = put(bytes(markdown, { 'content-type': type }))
      await ask(url, { headers: { ...OPERATOR, 'cache-control': 'no-cache' } })
      expect(pageText(), type).toBe('# Title <b>x</b> &amp; *y*')
    }
  })

  test('XHTML, in which any element may be self-closing', async () => {
    const xhtml =
      '<html><body><p>Text</p><div hidden="hidden"/><script src="x"/><p>more</p></body></html>'
    const type = { 'content-type': 'application/xhtml+xml; charset=utf-8' }
    expect(await readAs(bytes(xhtml, type))).toBe('Text more')
  })

  test('a page that is compressed, or in another charset', async () => {
    const gzipped = gzipSync('<main>Packed</main>')
    expect(await readAs(bytes(gzipped, { 'content-encoding': 'gzip' }))).toBe('Packed')
    const japanese = Buffer.concat([
      Buffer.from('<meta charset=shift_jis><main>'),
      Buffer.of(0x93, 0xfa, 0x96, 0x7b),
    ])
    expect(await readAs(bytes(japanese, { 'content-type': 'text/html' }))).toBe('日本')
  })
})

const chunked = { 'content-type': 'text/html', 'transfer-encoding': 'chunked' }

const faulty: [string, string, Script][] = [
  [
    'too_large',
    'a gzip bomb',
    bytes(gzipSync(Buffer.alloc(100_000_000, 65)), { 'content-encoding': 'gzip' }),
  ],
  [
    'too_large',
    'an endless page',
    async (call, line) => {
      line.head(200, chunked)
      let over = false
      call.closed.then(() => {
        over = true
      })
      while (!over) {
        line.chunk('A'.repeat(65_536))
        await Promise.race([line.flushed(), call.closed])
      }
    },
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
      line.head(200, chunked)
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
  ['type', 'a picture', bytes('GIF89a', { 'content-type': 'image/gif' })],
  [
    'charset',
    'a charset that browsers refuse to decode',
    bytes('<main>x', { 'content-type': 'text/html; charset=iso-2022-kr' }),
  ],
  [
    'redirects',
    'a redirect loop',
    (call, line) => {
      line.head(302, { location: call.path })
      line.end()
    },
  ],
  [
    'empty',
    'a page with scripts only',
    bytes('<body><script>document.write("x")</script><noscript>Please enable</noscript>'),
  ],
]

describe('a fault of the page is reported, and nothing is spent:', () => {
  test.each(faulty)('%s, %s', async (reason, _, script) => {
    const url = put(script)
    const reply = await ask(url)
    expect(codeOf(reply)).toBe('502 page_unavailable')
    expect(reply.text).not.toContain(url)
    const { headers } = reply
    const id = String(headers['x-request-id'])
    await workers.log.request(id)
    expect(workers.log.all('page_failed', id)).toEqual([
      { event: 'page_failed', request_id: id, reason },
    ])
    expect(model.calls).toEqual([])
    expect(site.calls.length).toBeLessThanOrEqual(4)
  })

  test('timeout, for a page that arrives too slowly', async () => {
    const over = latch()
    const url = put(async (call, line) => {
      line.head(200, chunked)
      line.chunk('<main>slow')
      await call.closed
      over.open()
    })
    const startedAt = performance.now()
    expect(codeOf(await ask(url))).toBe('502 page_unavailable')
    expect(performance.now() - startedAt).toBeLessThan(7000)
    expect(model.calls).toEqual([])
    // And the fetch is aborted.
    await over.opened
  })

  test('redirects to the Worker itself, another port or another host are not followed', async () => {
    const own = workers.urls[1]
    for (const location of [
      `${own}v1/completions`,
      'http://127.0.0.1:1/site/x',
      'https://site.example/site/x',
      '//127.0.0.2/site/1',
    ]) {
      const url = put((_, line) => {
        line.head(302, { location })
        line.end()
      })
      expect(codeOf(await ask(url)), location).toBe('403 page_not_allowed')
    }
    expect(site.calls).toHaveLength(4)
  })

  test('a Worker elsewhere may not read pages of this machine, even if they are listed', async () => {
    const url = put(bytes('<main>internal</main>'))
    expect(codeOf(await ask(url, { headers: { host: 'edge.example' } }))).toBe(
      '403 page_not_allowed',
    )
    expect(codeOf(await ask(url, { headers: { host: 'edge.example', ...OPERATOR } }))).toBe(
      '403 page_not_allowed',
    )
    expect(site.calls).toEqual([])
  })

  test("the Worker's own URL is not accepted as a page", async () => {
    const { host } = new URL(origin)
    const url = put(bytes('<main>me</main>'))
    expect(codeOf(await ask(url, { headers: { host } }))).toBe('403 page_not_allowed')
    expect(site.calls).toEqual([])
  })
})

test('a page is fetched without anything of the visitor, and revalidated by its ETag in every isolate', async () => {
  let version = 'v1'
  const url = put((call, line) => {
    const tag = `"${version}"`
    if (call.headers['if-none-match'] === tag) {
      line.head(304, { etag: tag })
      return line.end()
    }
    const body = `<main>Version ${version}</main>`
    line.head(200, {
      'content-type': 'text/html',
      'content-length': String(body.length),
      etag: tag,
    })
    line.write(body)
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
  version = 'v2'
  expect(codeOf(await ask(url, { ...warmed, isolate: 1 }))).toBe('200 ok')
  expect(model.calls).toHaveLength(2)
  expect(pageText()).toBeDefined()
  expect(model.calls[1]?.text).toContain('Version v2')
})

test('a selector that needs a browser is a configuration error', async () => {
  const variables = { page: { from: 'url', selector: 'main, a:hover' } }
  const broken = await suite.start({
    config: {
      origins: [ORIGIN],
      models: [{ id: 'm', upstream: 'd', upstream_model: 'm' }],
      upstreams: [{ name: 'd', preset: 'demo' }],
      prompts: { summary: { text: '{{page}}', variables } },
    },
  })
  const { status, text } = await broken.client().send({ path: '/health' })
  expect(status).toBe(503)
  expect(JSON.parse(text).faults).toEqual([
    {
      path: 'prompts.summary.variables.page.selector',
      message: expect.stringContaining('Cannot use "main, a:hover"'),
    },
  ])
})

test('500 visitors with arbitrary URLs and texts cause no upstream call and no fetch', async () => {
  const warm = Array.from({ length: 100 }, (_, i) => put(bytes(`<main>Post number ${i}</main>`)))
  await atOnce(warm, 8, async (url) => {
    expect(codeOf(await ask(url, { prompt: 'warmed', headers: OPERATOR }))).toBe('200 ok')
  })
  expect(model.calls).toHaveLength(100)
  expect(site.calls).toHaveLength(100)
  const cold = put(bytes('<main>Nobody warmed this</main>'))
  const strange = [
    ...[
      cold,
      `${origin}/site/nowhere`,
      `${origin}/model`,
      'https://evil.example/',
      'http://169.254.169.254/',
    ],
    ...[
      `${warm[0]}/../../model`,
      `${warm[0]}%2f..%2f..%2fmodel`,
      'x',
      '',
      origin,
      `${origin}@evil.example/`,
    ],
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
