// <edge-ask> in Chromium: in a page of another origin with a strict Content-Security-Policy, at a real
// Worker behind a proxy that can go down, with a scripted upstream.
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { gzipSync } from 'node:zlib'
import type { Browser, Locator, Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { launchBrowser, WatchedPage, type WatchOptions } from '../support/browser.ts'
import { CANARY } from '../support/canary.ts'
import { expectQuiet } from '../support/quiet.ts'
import { chatStream, latch, UpstreamServer } from '../support/upstream-server.ts'
import { startWorkers, type Workers } from '../support/workerd.ts'
import { EndpointProxy } from './endpoint-proxy.ts'

const TOKEN = 'an-operator-token-of-32-characters'

const page = (title: string, id: string, heading: string, text: string) =>
  `<!doctype html><html lang="en"><title>${title}</title>
  <main><h1>${title}</h1><h2 id="${id}">${heading}</h2><p>${text}</p></main></html>`

/** The pages of the site that can be found. */
const indexed: Readonly<Record<string, string>> = {
  '/tides': page(
    'Tides',
    'moon',
    'The moon',
    'The moon pulls the sea, and its water rises twice a day. This is a tide.',
  ),
  '/waves': page(
    'Waves',
    'foam',
    'Foam',
    'Waves are made by the wind. They break where the sea gets shallow, with the tide.',
  ),
  '/storms': page(
    '&lt;img src=x onerror="alert(1)"> storms',
    'x',
    '&lt;/span>&lt;script>alert(1)&lt;/script>',
    '&lt;img src=x onerror=alert(1)> storms \u202ereversed',
  ),
}

let upstream: UpstreamServer
let workers: Workers
let proxy: EndpointProxy
let pages: Server
let browser: Browser
/** The site's origin, and the Worker's. */
let site: string
let endpoint: string
/** The page with the element, as it is to be served. */
let html = ''
let watched: WatchedPage

beforeAll(async () => {
  upstream = await UpstreamServer.start()
  proxy = await EndpointProxy.open()
  endpoint = `http://localhost:${proxy.port}`
  pages = createServer(({ url = '' }, response) => {
    if (url === '/favicon.ico') return response.writeHead(204).end()
    const headers = {
      'content-type': 'text/html; charset=utf-8',
      'content-security-policy': policy(),
    }
    return response.writeHead(200, headers).end(indexed[url] ?? html)
  }).listen(0, '127.0.0.1')
  await once(pages, 'listening')
  site = `http://localhost:${(pages.address() as AddressInfo).port}`
  workers = await start()
  for (const path of Object.keys(indexed)) await index(path)
  browser = await launchBrowser()
})

/** A Worker whose index is empty. */
const start = () =>
  startWorkers({
    config: {
      origins: [site],
      limits: { messages: 3, chat_chars: 2000 },
      models: [{ id: 'default', upstream: 'model', upstream_model: 'm' }],
      upstreams: [
        { name: 'model', base_url: upstream.url('model'), key: 'UPSTREAM_API_KEY', retries: 0 },
      ],
      prompts: {
        ask: {
          text: '{{passages}}\n\nQuestion: {{question}}',
          variables: {
            question: { max_chars: 300 },
            passages: { from: 'site', about: 'question' },
          },
        },
        guide: { chat: true, system: '{{passages}}', variables: { passages: { from: 'site' } } },
      },
    },
    secrets: { UPSTREAM_API_KEY: CANARY, OPERATOR_TOKEN: TOKEN },
    site: true,
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

/** What `npm run index` does for a page. */
async function index(path: string): Promise<void> {
  const response = await fetch(new URL('/admin/site/page', workers.url), {
    method: 'PUT',
    headers: { authorization: `Bearer ${TOKEN}` },
    body: JSON.stringify({ url: `${site}${path}` }),
  })
  expect(await response.json()).toMatchObject({ status: 'indexed', passages: 1 })
}

/** Nothing but the Worker. */
const policy = () =>
  [
    "default-src 'none'",
    `script-src ${endpoint}`,
    `connect-src ${endpoint}`,
    "style-src 'none'",
    "base-uri 'none'",
    "form-action 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ].join('; ')

interface Box {
  readonly page: Page
  readonly input: Locator
  readonly ask: Locator
  readonly stop: Locator
  readonly list: Locator
  readonly options: Locator
  readonly status: Locator
  readonly log: Locator
  readonly answer: Locator
  readonly sources: Locator
}

interface VisitOptions extends WatchOptions {
  readonly down?: boolean
  readonly attributes?: string
  /** The page is written from right to left. */
  readonly rtl?: boolean
}

async function visit(body: string, options: VisitOptions = {}): Promise<Page> {
  const { down = false, rtl = false } = options
  proxy.forwardTo(down ? null : workers.url)
  html = `<!doctype html><html ${rtl ? 'lang="ar" dir="rtl"' : 'lang="en"'}>
    <meta name="viewport" content="width=device-width">
    <meta name="color-scheme" content="light dark"><title>Waves</title>
    <script type="module" src="${endpoint}/elements.js"></script>
    <main><h1>The sea</h1>${body}<p>After it.</p></main></html>`
  watched = await WatchedPage.open(browser, options)
  await watched.page.goto(site)
  return watched.page
}

/** The only element of a page, once it is there. */
async function askIn(element = '<edge-ask></edge-ask>', options: VisitOptions = {}): Promise<Box> {
  const page = await visit(element, options)
  const part = (name: string) => page.locator(`[part~=${name}]`)
  const box = {
    page,
    input: part('input'),
    ask: page.getByRole('button', { name: 'Ask' }),
    stop: page.getByRole('button', { name: 'Stop' }),
    list: page.getByRole('listbox'),
    options: page.getByRole('option'),
    status: part('status'),
    log: part('log'),
    answer: page.locator('[part~=assistant] [part=text]').last(),
    sources: page.locator('[part=sources]').last().locator('a'),
  }
  await box.input.waitFor()
  return box
}

test('edge-ask.js has at most 6,144 bytes gzipped, and is loaded only for its tag', async () => {
  const script = readFileSync('dist/site/edge-ask.js')
  expect(gzipSync(script, { level: 9 }).length).toBeLessThanOrEqual(6144)
  const page = await visit('<edge-summary></edge-summary>')
  await page.waitForLoadState('networkidle')
  const loaded = () => proxy.requests.map(({ path }) => path).filter((path) => /\.js$/.test(path))
  expect(loaded()).toEqual(['/elements.js'])
  await page.evaluate(`document.querySelector('main').append(document.createElement('edge-ask'))`)
  await page.getByRole('combobox').waitFor()
  expect(loaded()).toEqual(['/elements.js', '/edge-ask.js'])
})

/** What a screen reader is told from now on. */
async function recorded(page: Page): Promise<() => Promise<string[]>> {
  await page.evaluate(`
    globalThis.spoken = []
    for (const region of document.querySelector('edge-ask').shadowRoot.querySelectorAll('[role=status]'))
      new MutationObserver(() => region.textContent && spoken.push(region.textContent))
        .observe(region, { childList: true, characterData: true, subtree: true })`)
  return () => page.evaluate<string[]>('spoken')
}

describe('the hits', () => {
  test('are shown while typing, with one request for a pause', async () => {
    const { page, input, options, list } = await askIn()
    await input.pressSequentially('tides', { delay: 5 })
    await expect.poll(() => options.count()).toBe(2)
    expect(await options.first().locator('[part=title]').textContent()).toBe('Tides')
    expect(await options.first().locator('[part=heading]').textContent()).toBe('The moon')
    expect(await options.first().getAttribute('href')).toContain('/tides#moon')
    expect(await list.isVisible()).toBe(true)
    const searches = watched.requests.filter(({ url }) => url.includes('/v1/search'))
    expect(searches.map(({ url }) => url.slice(endpoint.length))).toEqual([
      '/v1/search?q=tides&limit=6',
    ])
    await input.fill('')
    await expect.poll(() => list.isVisible()).toBe(false)
    expect(lane().calls).toEqual([])
    watched.expectQuiet(site, endpoint)
    await page.close()
  })

  test('mark the words that match', async () => {
    const { input, options } = await askIn()
    await input.fill('MOON tide')
    await options.first().waitFor()
    const marks = await options.first().locator('mark').allTextContents()
    expect(marks).toEqual(['Tides', 'moon', 'moon', 'tide'])
  })

  test('are chosen with the arrow keys, followed with Enter, and dismissed with Escape', async () => {
    const { page, input, options, list } = await askIn()
    await page.keyboard.press('Tab')
    await page.keyboard.type('tides')
    await options.first().waitFor()
    expect(await input.getAttribute('aria-expanded')).toBe('true')
    const chosen = async () => [
      await input.getAttribute('aria-activedescendant'),
      await page.locator('[aria-selected=true]').getAttribute('id'),
    ]
    for (const [key, id] of [
      ['ArrowDown', 'hit-0'],
      ['ArrowDown', 'hit-1'],
      ['ArrowUp', 'hit-0'],
      ['ArrowUp', null],
      ['ArrowUp', 'hit-1'],
    ] as const) {
      await page.keyboard.press(key)
      if (id === null) expect(await input.getAttribute('aria-activedescendant')).toBe(null)
      else expect(await chosen()).toEqual([id, id])
    }
    await page.keyboard.press('Escape')
    expect(await list.isVisible()).toBe(false)
    expect(await input.getAttribute('aria-expanded')).toBe('false')
    expect(await input.inputValue()).toBe('tides')
    await page.keyboard.press('ArrowDown')
    await page.keyboard.press('ArrowDown')
    expect(await chosen()).toEqual(['hit-0', 'hit-0'])
    const followed = page.waitForRequest((request) => request.isNavigationRequest())
    await page.keyboard.press('Enter')
    expect((await followed).url()).toMatch(/\/tides$/)
    expect(lane().calls).toEqual([])
  })

  test('are those of what was typed last, also if an earlier search ends later', async () => {
    const { page, input, options } = await askIn()
    const held = latch()
    const ended: string[] = []
    page.on('requestfailed', (request) => ended.push(request.url()))
    let isHeld = false
    await page.route('**/v1/search?q=tide&*', async (route) => {
      isHeld = true
      await held.opened
      // It has been cancelled.
      await route.continue().catch(() => {})
    })
    await input.fill('tide')
    await expect.poll(() => isHeld).toBe(true)
    await input.fill('waves')
    const title = () => options.first().locator('[part=title]').textContent()
    await expect.poll(title).toBe('Waves')
    await expect.poll(() => ended).toEqual([`${endpoint}/v1/search?q=tide&limit=6`])
    held.open()
    await page.waitForLoadState('networkidle')
    expect(await title()).toBe('Waves')
  })

  test.each(['Tab', 'Escape'])('do not open after %s, also if they are on the way', async (key) => {
    const { page, input, list } = await askIn()
    const held = latch()
    const ended: string[] = []
    page.on('requestfailed', (request) => ended.push(request.url()))
    let isHeld = false
    await page.route('**/v1/search*', async (route) => {
      isHeld = true
      await held.opened
      // It has been cancelled.
      await route.continue().catch(() => {})
    })
    await input.fill('tide')
    await expect.poll(() => isHeld).toBe(true)
    await page.keyboard.press(key)
    await expect.poll(() => ended).toEqual([`${endpoint}/v1/search?q=tide&limit=6`])
    held.open()
    await page.waitForLoadState('networkidle')
    expect(await list.isVisible()).toBe(false)
  })

  test('are not looked for when the visitor has left the box', async () => {
    const page = await visit('<edge-ask></edge-ask><edge-ask></edge-ask>')
    const [first, second] = [page.getByRole('combobox').first(), page.getByRole('combobox').last()]
    await first.focus()
    // In one task, as the search would begin soon.
    await page.evaluate(`
      const input = document.querySelector('edge-ask').shadowRoot.querySelector('input')
      input.value = 'tides'
      input.dispatchEvent(new Event('input'))
      input.blur()`)
    await second.fill('waves')
    await page.getByRole('option').first().waitFor()
    const searches = watched.requests.filter(({ url }) => url.includes('/v1/search'))
    expect(searches.map(({ url }) => url.slice(endpoint.length))).toEqual([
      '/v1/search?q=waves&limit=6',
    ])
    expect(await page.getByRole('listbox').count()).toBe(1)
  })

  test('show hostile text as it is', async () => {
    const { page, input, options } = await askIn()
    await input.fill('storms')
    await options.first().waitFor()
    const text = await options.first().textContent()
    expect(text).toContain('<img src=x onerror="alert(1)"> storms')
    expect(text).toContain('</span><script>alert(1)</script>')
    expect(text).toContain('<img src=x onerror=alert(1)> storms \u202ereversed')
    expect(await page.locator('edge-ask :is(img, script)').count()).toBe(0)
    watched.expectQuiet(site, endpoint)
  })

  test('say that nothing was found', async () => {
    const box = await askIn()
    const spoken = await recorded(box.page)
    await box.input.fill('zebra')
    await expect.poll(() => spoken()).toEqual(['No results. Press Enter to ask.'])
    expect(await box.list.isVisible()).toBe(false)
    await box.page.keyboard.press('ArrowDown')
    expect(await box.list.isVisible()).toBe(false)
  })

  test('keep what is typed from shortcuts of the page, but not Escape and Ctrl+K', async () => {
    const { page, input } = await askIn()
    await page.evaluate(`globalThis.keys = []
      addEventListener('keydown', ({ key }) => keys.push(key))`)
    await input.focus()
    for (const key of ['/', 's', 'Escape', 'Control+k', 'Tab']) await page.keyboard.press(key)
    expect(await page.evaluate('keys.join(" ")')).toBe('Escape Control k Tab')
  })
})

/** Asks with the keyboard. */
async function ask({ input }: Box, question: string): Promise<void> {
  await input.fill(question)
  await input.press('Enter')
}

describe('an answer', () => {
  test('arrives in pieces, with links to the passages it cites', async () => {
    lane().answers(chatStream(['The **moon** pulls [', '1]. It is ', 'no wave [3].']))
    const box = await askIn()
    const { page, answer, sources, log } = box
    const spoken = await recorded(page)
    await ask(box, 'Why does the moon pull the sea?')
    await expect.poll(() => sources.count()).toBe(1)
    expect(await answer.textContent()).toBe('The moon pulls [1]. It is no wave [3].')
    const cites = answer.locator('a')
    expect(await cites.count()).toBe(1)
    expect(await cites.textContent()).toBe('[1]')
    expect(await cites.getAttribute('href')).toMatch(/\/tides#moon$/)
    expect(await cites.getAttribute('target')).toBe(null)
    expect(await page.getByRole('link', { name: '[1] Tides' }).count()).toBe(1)
    expect(await sources.first().textContent()).toBe('Tides › The moon')
    expect(await sources.first().getAttribute('href')).toMatch(/\/tides#moon$/)
    expect(await page.getByText('Sources').isVisible()).toBe(true)
    expect(await log.getAttribute('aria-live')).toBe('off')
    // Told once, when it is whole.
    expect(await spoken()).toEqual(['The moon pulls [1]. It is no wave [3].'])
    expect(await page.getByText('Answers are written by AI').isVisible()).toBe(true)
    expect(await box.input.inputValue()).toBe('Why does the moon pull the sea?')
    // The next answer takes its place.
    lane().answers(chatStream(['Twice.']))
    await ask(box, 'Twice a day, the water?')
    await expect.poll(() => answer.textContent()).toBe('Twice.')
    expect(await page.getByText('The moon pulls').count()).toBe(0)
    watched.expectQuiet(site, endpoint)
  })

  test('is asked for with the button, which stops it, too', async () => {
    const paused = latch()
    lane().answers(chatStream(['Slow ', 'tides.'], { pace: () => paused.opened }))
    const box = await askIn()
    const spoken = await recorded(box.page)
    await box.ask.click()
    expect(proxy.calls()).toEqual([])
    await box.input.fill('Wind and waves?')
    await box.ask.click()
    await expect.poll(() => box.answer.textContent()).toBe('Slow ')
    await box.stop.click()
    await expect.poll(() => box.status.textContent()).toBe('Stopped.')
    await box.ask.waitFor()
    expect(await box.answer.textContent()).toBe('Slow ')
    await expect.poll(() => proxy.requests.at(-1)?.left).toBe(true)
    expect(await spoken()).toEqual(['Stopped.'])
    paused.open()
    watched.expectQuiet(site, endpoint)
  })

  test('is text, and no link but those to passages, also if the model writes others', async () => {
    const hostile = [
      '<img src=x onerror="alert(1)"> [x](https://evil.example/) https://evil.example/?q=1',
      '[1](javascript:alert(1)) [2](https://evil.example) `[1]` [1, 2] [1,7] [0] [99]',
      `<a href="https://evil.example">[2]</a> [own](${site}/logout) ![i](https://evil.example/i.png)`,
    ]
    lane().answers(chatStream([hostile.join('\n\n')]))
    const box = await askIn()
    await ask(box, 'Moon, foam?')
    await expect.poll(() => box.sources.count()).toBe(2)
    const links = await box.page.evaluate<[string, string][]>(`
      [...document.querySelector('edge-ask').shadowRoot.querySelectorAll('[part=text] a')]
        .map(({ textContent, href }) => [textContent, href])`)
    expect(links.map(([text]) => text)).toEqual(['[1]', '[1]', '[2]', '[1]', '[2]'])
    expect(new Set(links.map(([, href]) => new URL(href).pathname))).toEqual(
      new Set(['/tides', '/waves']),
    )
    expect(await box.page.locator('edge-ask img').count()).toBe(0)
    expect(await box.answer.textContent()).toContain('<img src=x onerror="alert(1)">')
    watched.expectQuiet(site, endpoint)
  })

  test('is followed up, if the prompt takes a conversation', async () => {
    lane().answers(chatStream(['The moon [1].']), chatStream(['Twice a day [2].']))
    const box = await askIn('<edge-ask prompt="guide"></edge-ask>')
    await ask(box, 'What does the moon pull?')
    await expect.poll(() => box.sources.count()).toBe(1)
    expect(await box.input.inputValue()).toBe('')
    await ask(box, 'And the foam?')
    await expect.poll(() => box.answer.textContent()).toBe('Twice a day [2].')
    await box.ask.waitFor()
    const turns = await box.log.locator('[part~=message]').allTextContents()
    expect(turns).toEqual([
      'What does the moon pull?',
      'The moon [1].SourcesTides › The moon',
      'And the foam?',
      'Twice a day [2].SourcesWaves › Foam',
    ])
    const sent = watched.requests.flatMap(({ body }) => (body === null ? [] : [JSON.parse(body)]))
    expect(sent[1]).toMatchObject({
      model: 'guide',
      messages: [
        { role: 'user', content: 'What does the moon pull?' },
        { role: 'assistant', content: 'The moon [1].' },
        { role: 'user', content: 'And the foam?' },
      ],
    })
    watched.expectQuiet(site, endpoint)
  })

  test('is asked for without the oldest questions, if the endpoint finds the conversation too long', async () => {
    lane().answers(...['one', 'two', 'three', 'four'].map((word) => chatStream([`${word}.`])))
    const box = await askIn('<edge-ask prompt="guide"></edge-ask>')
    const asked = async (question: string, answer: string) => {
      await ask(box, question)
      await expect.poll(() => box.answer.textContent()).toBe(answer)
      await box.ask.waitFor()
    }
    await asked('What is a tide?', 'one.')
    await asked('What is the moon?', 'two.')
    await asked('And a wave?', 'three.')
    // One that is too long by itself costs no other its place.
    await ask(box, 'tide '.repeat(500))
    await expect
      .poll(() => box.status.textContent())
      .toBe('This text cannot be sent. Try a shorter one.')
    await asked('And the foam?', 'four.')
    const sent = lane().calls.map(({ body }) =>
      (body['messages'] as { role: string; content: string }[])
        .filter(({ role }) => role !== 'system')
        .map(({ content }) => content)
        .join(' '),
    )
    expect(sent).toEqual([
      'What is a tide?',
      'What is a tide? one. What is the moon?',
      'What is the moon? two. And a wave?',
      'And a wave? three. And the foam?',
    ])
    // All of it is still shown.
    expect(await box.log.locator('[part=turn]').count()).toBe(4)
  })

  test('that the site has none of is no failure: the nearest pages are shown', async () => {
    const box = await askIn()
    await ask(box, 'How do rockets follow the tide?')
    await expect.poll(() => box.answer.textContent()).toBe('No answer was found on this site.')
    await expect
      .poll(() => box.sources.allTextContents())
      .toEqual(['Tides › The moon', 'Waves › Foam'])
    expect(await box.page.getByText('Nearest pages').isVisible()).toBe(true)
    expect(await box.status.textContent()).toBe('')
    expect(lane().calls).toEqual([])
    // Chromium logs every 404.
    expect(watched.takeConsoleErrors()).toEqual([expect.stringContaining('404')])
  })

  test('has the events of the other elements', async () => {
    lane().answers(chatStream(['Here [2].']))
    const box = await askIn()
    await box.page.evaluate(`
      globalThis.events = []
      for (const type of ['edge-answer', 'edge-error'])
        document.addEventListener(type, ({ detail: { text, cites, code } }) => events.push({ type, text, cites, code }))`)
    await ask(box, 'Waves of the sea?')
    await expect.poll(() => box.sources.count()).toBe(1)
    await ask(box, 'rockets')
    await expect
      .poll(() => box.page.evaluate('events'))
      .toMatchObject([
        {
          type: 'edge-answer',
          text: 'Here [2].',
          cites: [{ title: 'Waves › Foam' }, { title: 'Tides › The moon' }],
        },
        { type: 'edge-error', code: 'no_passages' },
      ])
  })
})

describe('a failure', () => {
  test('of a site without an index is told once, and its owner in the console', async () => {
    const empty = await start()
    const box = await askIn()
    await box.page.waitForLoadState('networkidle')
    proxy.forwardTo(empty.url)
    await box.input.fill('tides')
    await expect.poll(() => box.status.textContent()).toBe('Search is not available here yet.')
    await box.input.fill('waves')
    await expect.poll(() => box.status.textContent()).toBe('')
    await box.page.waitForLoadState('networkidle')
    expect(proxy.calls()).toHaveLength(1)
    expect(watched.takeConsoleErrors()).toEqual([
      expect.stringContaining('404'),
      expect.stringContaining('npm run index'),
    ])
    await empty.dispose()
  })

  test.each([
    ['503', 503, 'There is no connection to the assistant. Try again in a moment.'],
    ['429', 429, 'Too many requests. Try again in 40 seconds.'],
    ['offline', 0, 'There is no connection to the assistant. Try again in a moment.'],
  ])('of the search is told in plain words, and it works again: %s', async (_, status, words) => {
    const box = await askIn()
    const fail = (route: import('playwright-core').Route) =>
      status === 0
        ? route.abort()
        : route.fulfill({
            status,
            json: { error: { code: 'some_code', message: 'No' } },
            headers: {
              'access-control-allow-origin': site,
              'retry-after': '40',
              'access-control-expose-headers': 'retry-after',
            },
          })
    await box.page.route('**/v1/search*', fail)
    await box.input.fill('tides')
    await expect.poll(() => box.status.textContent()).toBe(words)
    await box.page.unroute('**/v1/search*', fail)
    await box.input.fill('tides!')
    await box.options.first().waitFor()
    expect(await box.status.textContent()).toBe('')
    expect(watched.takeConsoleErrors().join()).not.toContain('uncaught')
  })

  test('of an answer keeps the question, and what has arrived', async () => {
    lane().answers(chatStream(['Again.']))
    const box = await askIn()
    await box.page.waitForLoadState('networkidle')
    proxy.forwardTo(null)
    await ask(box, 'Does the sea break?')
    await expect
      .poll(() => box.status.textContent())
      .toBe('There is no connection to the assistant. Try again in a moment.')
    expect(await box.input.inputValue()).toBe('Does the sea break?')
    expect(await box.log.isVisible()).toBe(false)
    proxy.forwardTo(workers.url)
    await box.input.press('Enter')
    await expect.poll(() => box.answer.textContent()).toBe('Again.')
    expect(await box.status.textContent()).toBe('')
    expect(watched.takeConsoleErrors().join()).not.toContain('uncaught')
  })

  test('to load leaves the content in place', async () => {
    const page = await visit('<edge-ask><a href="/search">Search</a></edge-ask>', { down: true })
    expect(await page.getByRole('link', { name: 'Search' }).isVisible()).toBe(true)
    await watched.close()
    const other = await visit('<p></p>')
    await other.waitForLoadState('networkidle')
    proxy.forwardTo(null)
    await other.evaluate(`document.querySelector('p').innerText = ''
      const late = document.createElement('edge-ask')
      late.append('Not now.')
      document.querySelector('main').append(late)`)
    await expect.poll(() => other.getByText('Not now.').isVisible()).toBe(true)
    expect(watched.takeConsoleErrors().join()).not.toContain('uncaught')
  })
})

test('an element that is removed ends its call, and works where it is put again', async () => {
  const paused = latch()
  lane().answers(
    chatStream(['Gone ', 'soon.'], { pace: () => paused.opened }),
    chatStream(['Back.']),
  )
  const box = await askIn()
  await ask(box, 'The tide of the day')
  await expect.poll(() => box.answer.textContent()).toBe('Gone ')
  await box.page.evaluate(
    `globalThis.removed = document.querySelector('edge-ask'); removed.remove()`,
  )
  await expect.poll(() => proxy.requests.at(-1)?.left).toBe(true)
  paused.open()
  await box.page.evaluate(`document.querySelector('main').append(removed)`)
  await box.ask.waitFor()
  await ask(box, 'Twice a day?')
  await expect.poll(() => box.answer.textContent()).toBe('Back.')
  watched.expectQuiet(site, endpoint)
})

test('keeps its client and the list of prompts until its endpoint changes', async () => {
  lane().answers(...['One.', 'Two.', 'Three.'].map((text) => chatStream([text])))
  const box = await askIn()
  await box.page.evaluate(`
    globalThis.element = document.querySelector('edge-ask')
    globalThis.clients = new Set()
    const client = element.client
    element.client = async (own) => {
      const made = await client.call(element, own)
      clients.add(made)
      return made
    }`)
  const made = async () => [
    await box.page.evaluate('clients.size'),
    watched.requests.filter(({ url }) => url.endsWith('/v1/models')).length,
  ]
  await ask(box, 'The moon?')
  await expect.poll(() => box.answer.textContent()).toBe('One.')
  await box.page.evaluate(`
    element.setAttribute('placeholder', 'What?')
    document.querySelector('main').append(element)`)
  await ask(box, 'The moon and the sea?')
  await expect.poll(() => box.answer.textContent()).toBe('Two.')
  expect(await made()).toEqual([1, 1])
  await box.page.evaluate(`element.setAttribute('endpoint', '${endpoint}')`)
  await ask(box, 'The foam?')
  await expect.poll(() => box.answer.textContent()).toBe('Three.')
  expect(await made()).toEqual([2, 2])
})

test('its words are those of the page', async () => {
  const texts = { label: 'Suche', ask: 'Fragen', hits: '{count} Treffer', sources: 'Quellen' }
  const box = await askIn(
    `<edge-ask limit="1" placeholder="Wonach?" texts='${JSON.stringify(texts)}'></edge-ask>`,
  )
  expect(await box.input.getAttribute('placeholder')).toBe('Wonach?')
  await box.page
    .getByRole('search', { name: 'Suche' })
    .getByRole('button', { name: 'Fragen' })
    .waitFor()
  const spoken = await recorded(box.page)
  await box.input.fill('tides')
  await expect.poll(() => spoken()).toEqual(['1 Treffer'])
  expect(watched.requests.at(-1)?.url).toContain('limit=1')
})

/** The page's own styles, which no policy refuses when they are set like this. */
const STYLES = `
  const sheet = new CSSStyleSheet()
  sheet.replaceSync(':root { background: Canvas; color: CanvasText } body { max-width: 40rem; margin: auto; padding: 0 1rem 1rem; font: 1rem/1.5 system-ui, sans-serif } edge-ask:has(+ edge-ask) { margin-bottom: 12rem }')
  document.adoptedStyleSheets = [sheet]`

const WRITTEN =
  'Waves are made by the wind [1].\n\nTides follow the **moon** [2]: it pulls the sea, and the water rises twice a day.'

describe.each(['light', 'dark'] as const)('in %s colours', (colorScheme) => {
  test.each([1280, 360])('fits and is accessible at a width of %i pixels', async (width) => {
    lane().answers(chatStream([WRITTEN]))
    const box = await askIn('<edge-ask></edge-ask>', { colorScheme, width, height: 760 })
    await box.page.evaluate(STYLES)
    expect(await watched.accessibilityFaults()).toEqual([])
    await box.input.fill('Why are there waves and tides?')
    await box.options.first().waitFor()
    await box.input.press('ArrowDown')
    expect(await watched.accessibilityFaults()).toEqual([])
    expect(await watched.overflow()).toBe(0)
    await box.input.press('Escape')
    await box.input.press('Enter')
    await expect.poll(() => box.sources.count()).toBe(2)
    expect(await watched.accessibilityFaults()).toEqual([])
    expect(await watched.overflow()).toBe(0)
  })
})

test('two of them in a page do not mix', async () => {
  lane().answers(chatStream([WRITTEN]))
  const page = await visit(
    `<edge-ask></edge-ask><edge-ask texts='{"label":"Another"}'></edge-ask>`,
    { height: 640 },
  )
  await page.evaluate(STYLES)
  const [first, second] = [page.getByRole('combobox').first(), page.getByRole('combobox').last()]
  await second.fill('Why are there waves and tides?')
  await second.press('Enter')
  await page.getByText('Sources').waitFor()
  await first.fill('tides')
  await page.getByRole('option').first().waitFor()
  await first.press('ArrowDown')
  expect(await page.getByRole('option').count()).toBe(2)
  expect(await second.inputValue()).toBe('Why are there waves and tides?')
  expect(await watched.accessibilityFaults()).toEqual([])
  await watched.picture('ask')
})

test('follows the direction of the page', async () => {
  lane().answers(chatStream(['القمر يجذب البحر [1].']))
  const box = await askIn('<edge-ask></edge-ask>', { rtl: true, width: 600 })
  await box.input.fill('tides')
  await box.options.first().waitFor()
  const x = async (locator: Locator) => (await locator.boundingBox())?.x ?? 0
  expect(await x(box.ask)).toBeLessThan(await x(box.input))
  await box.input.press('Enter')
  await expect.poll(() => box.sources.count()).toBe(1)
  expect(await watched.overflow()).toBe(0)
  expect(await watched.accessibilityFaults()).toEqual([])
})
