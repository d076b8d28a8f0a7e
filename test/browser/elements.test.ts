// elements.js in Chromium: in a page of another origin with a strict Content-Security-Policy, at a real
// Worker behind a proxy that can go down, with a scripted upstream.
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { gzipSync } from 'node:zlib'
import type { Browser, Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { launchBrowser, WatchedPage, type WatchOptions } from '../support/browser.ts'
import { CANARY } from '../support/canary.ts'
import { expectQuiet } from '../support/quiet.ts'
import { chatStream, UpstreamServer } from '../support/upstream-server.ts'
import { startWorkers, type Workers } from '../support/workerd.ts'
import { EndpointProxy } from './endpoint-proxy.ts'

const TOKEN = 'an-operator-token-of-32-characters'
const SUMMARY = 'Waves break when the **water** gets shallow. They fold into foam.'

let upstream: UpstreamServer
let workers: Workers
let proxy: EndpointProxy
let pages: Server
let browser: Browser
/** The site's origin, and the Worker's. */
let site: string
let endpoint: string
/** The page as it is to be served, and the headers of the next ones. */
let html = ''
let policy = ''
let watched: WatchedPage

beforeAll(async () => {
  upstream = await UpstreamServer.start()
  pages = createServer(({ url }, response) => {
    if (url === '/markdown.js') {
      const script = readFileSync('src/site/elements/markdown.js')
      response.writeHead(200, { 'content-type': 'text/javascript' }).end(script)
    } else if (url === '/favicon.ico') response.writeHead(204).end()
    else {
      const headers = {
        'content-type': 'text/html; charset=utf-8',
        'content-security-policy': policy,
      }
      response.writeHead(200, headers).end(html)
    }
  }).listen(0, '127.0.0.1')
  await once(pages, 'listening')
  site = `http://localhost:${(pages.address() as AddressInfo).port}`
  proxy = await EndpointProxy.open()
  endpoint = `http://localhost:${proxy.port}`
  workers = await startWorkers({
    config: {
      origins: [site],
      free_prompts: true,
      models: [{ id: 'default', upstream: 'model', upstream_model: 'm' }],
      upstreams: [
        { name: 'model', base_url: upstream.url('model'), key: 'UPSTREAM_API_KEY', retries: 0 },
      ],
      prompts: {
        summary: {
          text: 'Sum up: {{page}}',
          variables: { page: { from: 'url', paths: ['/posts/*'], max_chars: 8000 } },
          spend: 'operator',
        },
      },
    },
    secrets: { UPSTREAM_API_KEY: CANARY, OPERATOR_TOKEN: TOKEN },
    site: true,
  })
  browser = await launchBrowser()
  html = '<!doctype html><title>Waves</title><article>How waves break.</article>'
  lane().answers(chatStream([SUMMARY]))
  await warm('/posts/waves')
})

afterAll(async () => {
  await browser?.close()
  await Promise.all([proxy?.close(), workers?.dispose()])
  pages?.close()
  await upstream?.stop()
})

beforeEach(() => {
  lane().calls.length = 0
})

afterEach(async () => {
  await watched?.close()
  expectQuiet(workers.log)
})

const lane = () => upstream.lane('model')

/** What `npm run warm` does for a page. */
async function warm(path: string): Promise<void> {
  const prompt = { id: 'summary', variables: { page: `${site}${path}` } }
  const response = await fetch(new URL('/v1/completions', workers.url), {
    method: 'POST',
    headers: { authorization: `Bearer ${TOKEN}` },
    body: JSON.stringify({ prompt }),
  })
  expect(response.status).toBe(200)
}

interface VisitOptions extends WatchOptions {
  readonly path?: string
  readonly head?: string
  readonly down?: boolean
}

/** Opens a page with this content. Its policy allows nothing but the Worker. */
async function visit(body: string, options: VisitOptions = {}): Promise<Page> {
  const { path = '/posts/waves', head = '', down = false } = options
  proxy.forwardTo(down ? null : workers.url)
  policy = [
    "default-src 'none'",
    `script-src ${endpoint}`,
    `connect-src ${endpoint}`,
    "style-src 'none'",
    "base-uri 'none'",
    "form-action 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ].join('; ')
  html = `<!doctype html><html lang="en"><meta name="viewport" content="width=device-width">
    <meta name="color-scheme" content="light dark"><title>Waves</title>${head}
    <script type="module" src="${endpoint}/elements.js"></script>
    <main><h1>How waves break</h1>${body}<p>After it.</p></main></html>`
  watched = await WatchedPage.open(browser, options)
  await watched.page.goto(`${site}${path}`)
  return watched.page
}

const isUpgraded = (page: Page) =>
  page.evaluate<boolean>('customElements.get("edge-summary") !== undefined')

/** Waits until there has been a request, and its answer was applied. */
async function settled(page: Page): Promise<void> {
  await expect.poll(() => isUpgraded(page)).toBe(true)
  await page.waitForLoadState('networkidle')
}

/** Where the page's last paragraph begins. What takes no room leaves it in place. */
const topAfter = async (page: Page) => (await page.getByText('After it.').boundingBox())?.y

test('elements.js has at most 6,144 bytes gzipped, and imports client.js only when it is needed', () => {
  const script = readFileSync('dist/site/elements.js')
  expect(gzipSync(script, { level: 9 }).length).toBeLessThanOrEqual(6144)
  expect(`${script}`).not.toMatch(/from"\.|^import"/)
})

test('a server may import elements.js, twice as well', () => {
  const script = `await import('./dist/site/elements.js'); await import('./dist/site/elements.js?2')`
  execFileSync(process.execPath, ['--input-type=module', '--eval', script])
})

describe('<edge-summary>', () => {
  test('shows the stored summary with one GET, under a strict policy', async () => {
    const page = await visit('<edge-summary></edge-summary>')
    await page.getByText('They fold into foam.').waitFor()
    const summary = page.locator('edge-summary')
    expect(await summary.locator('[part=text]').textContent()).toBe(SUMMARY.replaceAll('*', ''))
    expect(await summary.locator('strong').textContent()).toBe('water')
    expect(await summary.getByText('Written by AI').isVisible()).toBe(true)
    const query = new URLSearchParams({
      stream: 'false',
      prompt_id: 'summary',
      'var.page': `${site}/posts/waves`,
    })
    expect(proxy.calls()).toEqual([`GET /v1/completions?${query}`])
    expect(proxy.requests.map(({ path }) => path)).not.toContain('/client.js')
    expect(lane().calls).toEqual([])
    watched.expectQuiet(site, endpoint)
  })

  test('names the page by its canonical link, else without its query and fragment', async () => {
    const canonical = `<link rel="canonical" href="${site}/posts/waves">`
    const page = await visit('<edge-summary></edge-summary>', { path: '/x?y', head: canonical })
    await page.getByText('They fold into foam.').waitFor()
    await watched.close()
    const other = await visit('<edge-summary></edge-summary>', { path: '/posts/waves?utm=1#top' })
    await other.getByText('They fold into foam.').waitFor()
    watched.expectQuiet(site, endpoint)
  })

  test('takes no room when the page has no summary', async () => {
    const without = await topAfter(await visit(''))
    await watched.close()
    const page = await visit('<edge-summary></edge-summary>', { path: '/posts/none' })
    await settled(page)
    expect(await topAfter(page)).toBe(without)
    expect(await page.locator('edge-summary').getAttribute('hidden')).toBe('')
    // Chromium logs every 404.
    expect(watched.takeConsoleErrors()).toEqual([expect.stringContaining('404')])
  })

  test('shows its content until there is a summary, or the text of `fallback`', async () => {
    const own = '<edge-summary><p>About waves.</p></edge-summary>'
    let page = await visit(own, { path: '/posts/none' })
    await settled(page)
    expect(await page.getByText('About waves.').isVisible()).toBe(true)
    expect(await page.getByText('Written by AI').isVisible()).toBe(false)
    await watched.close()
    page = await visit(own)
    await page.getByText('They fold into foam.').waitFor()
    expect(await page.getByText('About waves.').isVisible()).toBe(false)
    await watched.close()
    const fallback = '<edge-summary fallback="No summary yet."></edge-summary>'
    page = await visit(fallback, { path: '/posts/none' })
    await page.getByText('No summary yet.').waitFor()
  })

  test('leaves the page as it is when the Worker is down, and when it goes down', async () => {
    const own = '<edge-summary></edge-summary><edge-summary><p>About waves.</p></edge-summary>'
    let page = await visit(own, { down: true })
    expect(await page.getByText('About waves.').isVisible()).toBe(true)
    expect(await isUpgraded(page)).toBe(false)
    await watched.close()
    page = await visit('')
    await settled(page)
    proxy.forwardTo(null)
    await page.evaluate(`document.querySelector('h1').after(
      Object.assign(document.createElement('edge-summary'), { id: 'late' }))
      addEventListener('edge-error', () => { document.title = 'failed' })`)
    await expect.poll(() => page.title()).toBe('failed')
    expect(await page.locator('#late').isVisible()).toBe(false)
    expect(watched.takeConsoleErrors().join()).not.toMatch(/uncaught/)
  })

  test('follows its attributes: the page, its words, and the endpoint', async () => {
    const page = await visit(
      '<edge-summary page="/nowhere" endpoint="http://127.0.0.1:1"></edge-summary>',
    )
    await settled(page)
    const summary = page.locator('edge-summary')
    expect(await summary.isVisible()).toBe(false)
    expect(proxy.calls()).toEqual([])
    watched.takeConsoleErrors()
    await page.evaluate(`
      const summary = document.querySelector('edge-summary')
      summary.removeAttribute('endpoint')
      summary.setAttribute('page', '${site}/posts/waves')
      summary.setAttribute('label', 'In short')
      summary.setAttribute('note', '')`)
    await page.getByText('They fold into foam.').waitFor()
    expect(await summary.locator('[part=label]').textContent()).toBe('In short')
    expect(await summary.locator('[part=note]').isVisible()).toBe(false)
  })
})

describe('a model’s text', () => {
  /** Each text, and the HTML of the nodes that show it. `dir="auto"` is left out. */
  const texts: readonly (readonly [string, string])[] = [
    ['one\ntwo\n\nthree', '<p>one\ntwo</p><p>three</p>'],
    ['# A *b*', '<p><strong>A <em>b</em></strong></p>'],
    [
      '**a** __b__ *c* _d_ `e*f*`',
      '<p><strong>a</strong> <strong>b</strong> <em>c</em> <em>d</em> <code>e*f*</code></p>',
    ],
    ['2 * 3 * 4, a*b*c, snake_case_name, **', '<p>2 * 3 * 4, a*b*c, snake_case_name, **</p>'],
    [
      '- a\n- b\n  more\n\n3. c\n4) d',
      '<ul><li>a</li><li>b\n  more</li></ul><ol start="3"><li>c</li><li>d</li></ol>',
    ],
    [
      '```js\nif (a < b) {\n\n}\n```\nafter',
      '<pre><code>if (a &lt; b) {\n\n}</code></pre><p>after</p>',
    ],
    ['````\n```\n````', '<pre><code>```</code></pre>'],
    ['```\nnot closed', '<pre><code>not closed</code></pre>'],
    [
      '<img src=x onerror=alert(1)><script>alert(1)</script>',
      '<p>&lt;img src=x onerror=alert(1)&gt;&lt;script&gt;alert(1)&lt;/script&gt;</p>',
    ],
    [
      '[x](javascript:alert) [y](data:text/html,z)',
      '<p>x (javascript:alert) y (data:text/html,z)</p>',
    ],
    [
      '![x](https://evil.example/?q=secret)',
      '<p>x (<a href="https://evil.example/?q=secret" rel="nofollow noopener" target="_blank">https://evil.example/?q=secret</a>)</p>',
    ],
    [
      'see https://a.example/b?c=d#e.',
      '<p>see <a href="https://a.example/b?c=d#e" rel="nofollow noopener" target="_blank">https://a.example/b?c=d#e</a>.</p>',
    ],
    [
      '[bank](//evil.example)',
      '<p>bank (<a href="http://evil.example/" rel="nofollow noopener" target="_blank">http://evil.example/</a>)</p>',
    ],
    [
      '[post](/posts/waves)',
      '<p><a href="SITE/posts/waves" rel="nofollow noopener" target="_blank">post</a></p>',
    ],
    ['https://example.com@evil.example/', '<p>https://example.com@evil.example/</p>'],
    ['https://\u0430.example', '<p>https://\u0430.example</p>'],
    ['\u202eevil\u202c', '<p>\u202eevil\u202c</p>'],
    ['', ''],
  ]

  async function inPage<T>(code: string): Promise<T> {
    policy = ''
    html = '<!doctype html><title>.</title>'
    watched = await WatchedPage.open(browser)
    await watched.page.goto(site)
    return await watched.page.evaluate<T>(
      `import('/markdown.js').then(({ showText }) => { const target = document.createElement('div'); ${code} })`,
    )
  }

  test('is shown as a safe subset of Markdown', async () => {
    const shown = await inPage<
      string[]
    >(`return ${JSON.stringify(texts.map(([text]) => text))}.map((text) => {
      showText(target, text)
      return target.innerHTML.replaceAll(' dir="auto"', '')
    })`)
    const expected = texts.map(([, nodes]) => nodes.replace('SITE', site))
    expect(shown).toEqual(expected)
  })

  test('is the same in the end however it arrives, and finished blocks stay in place', async () => {
    const text = texts
      .map(([each]) => each)
      .filter((each) => !each.includes('not closed'))
      .join('\n\n')
    const [whole, pieces, kept] = await inPage<[string, string, boolean]>(`
      const text = ${JSON.stringify(text)}
      for (let end = 1; end < 40; end += 1) showText(target, text.slice(0, end), false)
      const first = target.firstChild
      for (let end = 40; end < text.length; end += 1) showText(target, text.slice(0, end), false)
      showText(target, text)
      const other = document.createElement('div')
      showText(other, text)
      return [other.innerHTML, target.innerHTML, target.firstChild === first]`)
    expect(pieces).toBe(whole)
    expect(kept).toBe(true)
  })

  test('does not flicker: a mark that is not closed yet is not shown', async () => {
    const shown = await inPage<
      string[]
    >(`return ['a **', 'a **b', 'a **b*', 'a \`c'].map((text) => {
      showText(target, text, false)
      return target.textContent
    })`)
    expect(shown).toEqual(['a ', 'a b', 'a b', 'a c'])
  })

  test('takes no time, however it is made', async () => {
    const hostile = [
      '*a ',
      '`',
      '[',
      '[a](',
      '**a',
      '_',
      'https://a',
      '- ',
      '1. ',
      '#',
      '> ',
      '\n',
      '**_',
    ]
    const slow = await inPage<unknown[]>(`return ${JSON.stringify(hostile)}.map((piece) => {
        const start = performance.now()
        showText(target, piece.repeat(10_000 / piece.length))
        return [piece, performance.now() - start]
      }).filter(([, ms]) => ms > 500)`)
    expect(slow).toEqual([])
  })
})
