// The pages and the elements in Firefox and WebKit, as far as they are installed: at the widths of a
// phone and a desktop, in light and dark, with the keyboard alone.
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { CANARY } from '../support/canary.ts'
import { DOWN, ENTER, type Engine, ESCAPE, RIGHT, TAB } from '../support/engine.ts'
import { Firefox, firefoxes } from '../support/firefox.ts'
import { expectQuiet } from '../support/quiet.ts'
import { chatStream, latch, UpstreamServer } from '../support/upstream-server.ts'
import { WebKit, webKits } from '../support/webkit.ts'
import { startWorkers, type Workers } from '../support/workerd.ts'
import { EndpointProxy } from './endpoint-proxy.ts'

const TOKEN = 'an-operator-token-of-32-characters'

const engines = [
  ...firefoxes.map((path) => ({ name: 'Firefox', launcher: Firefox, path })),
  ...webKits.map((path) => ({ name: 'WebKit', launcher: WebKit, path })),
]
const runs = engines.flatMap((engine) =>
  (['light', 'dark'] as const).map((scheme) => ({ ...engine, scheme })),
)
for (const [name, packages, found] of [
  ['Firefox', 'firefox-esr', firefoxes],
  ['WebKit', 'webkit2gtk-driver xvfb', webKits],
] as const) {
  if (found.length === 0) console.warn(`not tested in ${name}: apt-get install ${packages}`)
}

/** Records what goes wrong in a page from its beginning: WebKit's driver has no log. */
const WATCH = `
  globalThis.faults = []
  const { error } = console
  console.error = (...words) => { faults.push(words.join(' ')); error(...words) }
  addEventListener('error', ({ message, target }) => faults.push(message ?? 'cannot load ' + (target.src ?? target.href)), true)
  addEventListener('unhandledrejection', ({ reason }) => faults.push(String(reason)))
  addEventListener('securitypolicyviolation', ({ violatedDirective, blockedURI }) => faults.push(violatedDirective + ' ' + blockedURI))
`

let upstream: UpstreamServer
let workers: Workers
let proxy: EndpointProxy
let pages: Server
/** The site's origin, and the Worker's. */
let site: string
let endpoint: string

/** Of the files of the example's page of stories. */
const types: Readonly<Record<string, string>> = {
  html: 'text/html; charset=utf-8',
  css: 'text/css; charset=utf-8',
  js: 'text/javascript; charset=utf-8',
  svg: 'image/svg+xml',
}

const watched = (html: string, from = '') =>
  html.replace('<head>', `<head><script src="${from}/watch.js"></script>`)

beforeAll(async () => {
  upstream = await UpstreamServer.start()
  proxy = await EndpointProxy.open()
  endpoint = `http://localhost:${proxy.port}`
  pages = createServer(({ url }, response) => {
    const [, kind] = /^\/(?:story|site|face)\.(html|js|css|svg)$/.exec(url ?? '') ?? []
    if (kind === undefined) {
      response.setHeader('content-type', 'text/html; charset=utf-8')
      response.setHeader('content-security-policy', policy()).end(elements)
      return
    }
    response.setHeader('content-type', types[kind] ?? '')
    const file = readFileSync(`examples/static-site${url}`, 'utf8')
    const text = file.replaceAll('http://localhost:8787', endpoint)
    response.end(kind === 'html' ? watched(text, endpoint) : text)
  }).listen(0, '127.0.0.1')
  await once(pages, 'listening')
  site = `http://localhost:${(pages.address() as AddressInfo).port}`
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
        },
        story: {
          text: 'Once upon a time {{hero}} went for a walk, and',
          variables: { hero: { max_chars: 40 } },
        },
        helper: { chat: true, system: 'Be brief.' },
        ask: {
          text: '{{passages}} {{question}}',
          variables: { question: { max_chars: 80 }, passages: { from: 'site', about: 'question' } },
        },
      },
    },
    secrets: { UPSTREAM_API_KEY: CANARY, OPERATOR_TOKEN: TOKEN },
    site: true,
  })
  proxy.forwardTo(workers.url)
  elements = MOON
  const indexed = await fetch(new URL('/admin/site/page', workers.url), {
    method: 'PUT',
    headers: { authorization: `Bearer ${TOKEN}` },
    body: JSON.stringify({ url: `${site}/moon` }),
  })
  expect(indexed.status).toBe(200)
  const headers = new Headers({ 'content-type': 'text/javascript' })
  proxy.instead.set('/watch.js', { body: WATCH, headers })
  for (const path of ['/', '/admin']) {
    const response = await fetch(new URL(path, workers.url))
    const body = watched(await response.text())
    const headers = new Headers(response.headers)
    for (const name of ['content-encoding', 'content-length', 'transfer-encoding'])
      headers.delete(name)
    proxy.instead.set(path, { body, headers })
  }
})

afterAll(async () => {
  await Promise.all([proxy?.close(), workers?.dispose()])
  pages?.close()
  await upstream?.stop()
})

const lane = () => upstream.lane('model')

const policy = () =>
  `default-src 'none'; script-src ${endpoint}; connect-src ${endpoint}; img-src data:; require-trusted-types-for 'script'; trusted-types 'none'`

/** What `npm run warm` does for a page. */
async function warm(page: string): Promise<void> {
  const response = await fetch(new URL('/v1/completions', workers.url), {
    method: 'POST',
    headers: { authorization: `Bearer ${TOKEN}` },
    body: JSON.stringify({ prompt: { id: 'summary', variables: { page } } }),
  })
  expect(response.status).toBe(200)
}

let elements = ''
/** A page that can be found. */
const MOON = '<title>Moon</title><main><h1 id="moon">Moon</h1><p>The moon pulls the sea.</p></main>'
const pageWith = (content: string) =>
  watched(
    `<!doctype html><html lang="en"><head><meta name="viewport" content="width=device-width">
    <meta name="color-scheme" content="light dark"><title>Waves</title>
    <link rel="icon" href="data:,">
    <script type="module" src="${endpoint}/elements.js"></script></head>
    <main><h1>How waves break</h1>${content}</main></html>`,
    endpoint,
  )
const elementsPage = (text: string) =>
  pageWith(`<article>${text} break when the water gets shallow.</article>
    <edge-summary></edge-summary><edge-chat prompt="helper"></edge-chat>
    <label>Text <textarea id="text">${text}</textarea></label>
    <edge-complete for="text"></edge-complete>`)
/** axe takes a page without a background for a white one. No policy refuses a style set like this. */
const BACKGROUND = `
  const sheet = new CSSStyleSheet()
  sheet.replaceSync(':root { background: Canvas; color: CanvasText }')
  document.adoptedStyleSheets = [sheet]`

describe.each(runs)('$name in $scheme colours', ({ launcher, path, scheme }) => {
  let engine: Engine

  beforeAll(async () => {
    engine = await launcher.launch(path, scheme)
  })

  afterAll(async () => {
    await engine?.close()
  })

  afterEach(() => {
    expectQuiet(workers.log)
  })

  const textOf = (selector: string) =>
    engine.text(`document.querySelector('${selector}').textContent`)
  const focused = () => engine.text('document.activeElement.id')

  describe.each([1280, 360])('%i pixels wide', (width) => {
    /** Makes prompts of this run its own, so that no answer is in the cache; of a second try, too. */
    let own = ''

    beforeEach(async ({ task }) => {
      own = `${launcher.name} ${scheme} ${width}${' again'.repeat(task.result?.retryCount ?? 0)}`
      lane().calls.length = 0
      await engine.resize(width, 900)
      await expect.poll(() => engine.text('innerWidth')).toBe(`${width}`)
      const isDark = await engine.text('matchMedia("(prefers-color-scheme: dark)").matches')
      expect(isDark).toBe(`${scheme === 'dark'}`)
    })

    afterEach(async () => {
      expect(JSON.parse(await engine.text('JSON.stringify(faults)'))).toEqual([])
      expect(engine.errors.splice(0)).toEqual([])
    })

    test('the playground sends a prompt, shows a hit and stops', async () => {
      const rest = latch()
      lane().answers(
        chatStream([' there', ' was'], { pace: () => Promise.resolve() }),
        chatStream([' one', ' more'], { pace: () => rest.opened }),
      )
      await engine.goto(`${endpoint}/`)
      await expect.poll(() => engine.text('document.querySelector("#send").disabled')).toBe('false')
      await engine.expectFit()
      await engine.tabTo('#prompt')
      await engine.control('a')
      await engine.press(...`Once ${own}`)
      await engine.pressButton('#send')
      await expect.poll(() => textOf('#status')).toContain('Done')
      expect(await textOf('#written')).toBe(`Once ${own} there was`)
      expect(await textOf('#source')).toContain('Miss')
      await engine.tabTo('#prompt', { back: true })
      await engine.control(ENTER)
      await expect.poll(() => textOf('#source')).toContain('Hit in')
      // The source is shown with the first text. Until the answer is complete, nothing else is sent.
      await expect.poll(() => textOf('#status')).toContain('Done')
      await engine.expectFit()
      await engine.press(...', and')
      await engine.control(ENTER)
      await expect.poll(() => textOf('#answer')).toBe(' one')
      await engine.press(ESCAPE)
      await expect.poll(() => textOf('#status')).toContain('Stopped')
      rest.open()
      expect(await textOf('#answer')).toBe(' one')
    })

    test('the playground has a conversation', async () => {
      lane().answers(chatStream(['Good ', 'morning.']), chatStream(['Very well.']))
      await engine.goto(`${endpoint}/`)
      await expect.poll(() => engine.text('document.querySelector("#send").disabled')).toBe('false')
      await engine.tabTo('#tab-completion')
      await engine.press(RIGHT)
      await expect.poll(focused).toBe('tab-chat')
      for (const [text, answer] of [
        ['Hello', 'Good morning.'],
        ['How are you?', 'Very well.'],
      ] as const) {
        await engine.tabTo('#message')
        await engine.control('a')
        await engine.press(...`${text} ${own}`)
        await engine.control(ENTER)
        // First the answer: "Done" may still be that of the message before.
        await expect.poll(() => textOf('#log')).toContain(answer)
        await expect.poll(() => textOf('#status')).toContain('Done')
      }
      expect(await engine.text('document.querySelectorAll(".turn").length')).toBe('4')
      await engine.expectFit()
    })

    test('the dashboard signs in and shows its figures', async () => {
      await engine.goto(`${endpoint}/admin`)
      await expect.poll(focused).toBe('token')
      await engine.expectFit()
      await engine.press(...TOKEN, ENTER)
      await expect.poll(() => textOf('#requests')).toMatch(/\d/)
      await engine.expectFit()
      await engine.pressButton('#sign-out')
      await expect.poll(focused).toBe('token')
    })

    test('the example tells a story', async () => {
      const rest = latch()
      lane().answers(
        chatStream([' met', ' a cat']),
        chatStream([' met', ' a'], { pace: () => rest.opened }),
      )
      await engine.goto(`${site}/story.html`)
      await engine.tabTo('#hero')
      await engine.control('a')
      await engine.press(...own, ENTER)
      await expect
        .poll(() => textOf('#story'))
        .toBe(`Once upon a time ${own} went for a walk, and met a cat`)
      await expect.poll(() => engine.text('document.querySelector("#stop").disabled')).toBe('true')
      await engine.expectFit()
      await engine.press('!', ENTER)
      await expect.poll(() => textOf('#story')).toMatch(/! went for a walk, and met$/)
      await engine.pressButton('#stop')
      await expect.poll(() => engine.text('document.querySelector("#stop").disabled')).toBe('true')
      rest.open()
      expect(await textOf('#error')).toBe('')
    })

    test('the elements sum up, chat and complete', async () => {
      const rest = latch()
      lane().answers(
        chatStream(['Shallow **water**.']),
        chatStream(['Aye, the **moon** ', 'pulls.']),
        chatStream(['Well', ', no'], { pace: () => rest.opened }),
        chatStream(['and foam.']),
      )
      elements = elementsPage(`${own}: waves `)
      const address = `${site}/posts/${own.replaceAll(' ', '-')}`
      await warm(address)
      await engine.goto(address)
      await engine.run(BACKGROUND)
      const part = (element: string, name: string) =>
        engine.text(
          `document.querySelector('${element}').shadowRoot.querySelector('[part~=${name}]').textContent`,
        )
      await expect.poll(() => part('edge-summary', 'text')).toBe('Shallow water.')
      await engine.expectFit()
      await engine.tabTo('[part~=input]')
      await engine.press(...`Why ${own}?`, ENTER)
      await expect.poll(() => part('edge-chat', 'log')).toContain('Aye, the moon pulls.')
      await expect.poll(() => part('edge-chat', 'send')).toBe('Send')
      await engine.press(...'Really?', ENTER)
      await expect.poll(() => part('edge-chat', 'log')).toMatch(/Well$/)
      await engine.press(ESCAPE)
      await expect.poll(() => part('edge-chat', 'status')).toContain('Stopped')
      rest.open()
      await engine.expectFit()
      await engine.tabTo('#text')
      await engine.text('document.activeElement.setSelectionRange(99, 99)')
      await engine.control(' ')
      await expect.poll(() => part('edge-complete', 'text')).toBe('and foam.')
      await engine.expectFit()
      await engine.press(TAB)
      const field = () => engine.text('document.querySelector("#text").value')
      await expect.poll(field).toBe(`${own}: waves and foam.`)
      // MiniBrowser has no key for it.
      await engine.text('document.execCommand("undo")')
      expect(await field()).toBe(`${own}: waves `)
    })

    test('the search box finds pages, and answers with links to them', async () => {
      lane().answers(chatStream(['The **moon** [1].']))
      elements = pageWith('<edge-ask></edge-ask>')
      await engine.goto(`${site}/`)
      await engine.run(BACKGROUND)
      const inBox = (code: string) =>
        engine.text(`document.querySelector('edge-ask').shadowRoot?.${code}`)
      await expect.poll(() => inBox('querySelector("input").placeholder')).toContain('Search')
      await engine.tabTo('[part~=input]')
      await engine.press(...'Why does the moon pull the sea?')
      await expect
        .poll(() => inBox('querySelector("[role=option]")?.textContent'))
        .toContain('Moon')
      await engine.press(DOWN)
      expect(await inBox('querySelector("[aria-selected=true]").id')).toBe('hit-0')
      await engine.expectFit()
      await engine.press(ESCAPE)
      expect(await inBox('querySelector("[role=listbox]").hidden')).toBe('true')
      await engine.press(ENTER)
      await expect.poll(() => inBox('querySelector("[part=cite]")?.href')).toBe(`${site}/moon#moon`)
      await expect
        .poll(() => inBox('querySelector("[part=sources]")?.textContent'))
        .toContain('Moon')
      await engine.expectFit()
    })
  })
})
