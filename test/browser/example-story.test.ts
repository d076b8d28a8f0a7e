// The stories of the unmodified example site in Chromium, on its own origin: what its README promises,
// and how client.js behaves over real connections of a browser.
import type { Browser, Locator } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { launchBrowser, WatchedPage, type WatchOptions } from '../support/browser.ts'
import { CANARY } from '../support/canary.ts'
import { type ExampleSite, startExampleSite } from '../support/example-site.ts'
import { Lanes } from '../support/lanes.ts'
import { expectQuiet } from '../support/quiet.ts'
import { passingSiteverify } from '../support/siteverify.ts'
import { chatStream, latch, refusal, UpstreamServer } from '../support/upstream-server.ts'
import { startWorkers, type Workers } from '../support/workerd.ts'
import { EndpointProxy } from './endpoint-proxy.ts'

/** The addresses of the page and its Worker in the README. */
const SITE = 'http://localhost:4000'
const ENDPOINT = 'http://localhost:8787'
/** The same page on an origin that is not allowed. */
const ELSEWHERE = 'http://elsewhere.example'
const OPENING = (hero: string) => `Once upon a time ${hero} went for a walk, and`

let upstream: UpstreamServer
/** With the shipped configuration. */
let workers: Workers
/** With a scripted upstream. */
let scripted: Workers
let guarded: Workers
let site: ExampleSite
let proxy: EndpointProxy
let browser: Browser
let watched: WatchedPage

beforeAll(async () => {
  upstream = await UpstreamServer.start()
  const lanes = new Lanes({ upstream }, { chat: { retries: 0 } }, 1)
  const story = {
    text: 'Once upon a time {{hero}} went for a walk, and',
    variables: { hero: { max_chars: 40 } },
  }
  site = await startExampleSite()
  ;[workers, scripted, guarded, proxy] = await Promise.all([
    startWorkers({ secrets: {}, site: true }),
    startWorkers({
      config: lanes.config({ free_prompts: true, prompts: { story } }),
      site: true,
    }),
    startWorkers({
      config: lanes.config({ access: { turnstile_sitekey: '0x4AAA' } }),
      secrets: { UPSTREAM_API_KEY: CANARY, TURNSTILE_SECRET: '0x4BBB' },
      main: passingSiteverify('localhost'),
      site: true,
    }),
    EndpointProxy.open(),
  ])
  browser = await launchBrowser({
    ports: {
      'localhost:4000': site.port,
      'localhost:8787': proxy.port,
      'elsewhere.example:80': site.port,
    },
  })
})

afterAll(async () => {
  await browser?.close()
  await Promise.all([proxy?.close(), workers?.dispose(), scripted?.dispose(), guarded?.dispose()])
  await upstream?.stop()
  site?.stop()
})

beforeEach(() => {
  lane().calls.length = 0
})

afterEach(async () => {
  await watched.close()
  for (const { log } of [workers, scripted, guarded]) {
    expectQuiet(log)
  }
})

function lane() {
  return upstream.lane('chat-0')
}

/** Opens the site, with this Worker as its endpoint. */
async function visit(of: Workers | null, options: WatchOptions = {}): Promise<Site> {
  proxy.forwardTo(of?.url ?? null)
  watched = await WatchedPage.open(browser, options)
  await watched.page.goto(`${SITE}/story.html`)
  const { page } = watched
  return {
    hero: page.getByLabel('Who is it about?'),
    tell: page.getByRole('button', { name: 'Tell' }),
    stop: page.getByRole('button', { name: 'Stop' }),
    story: page.locator('#story'),
    alert: page.getByRole('alert'),
  }
}

type Site = Readonly<Record<'hero' | 'tell' | 'stop' | 'story' | 'alert', Locator>>

/** Waits until the story has finished, stopped or failed. */
async function untilEnd({ story, stop }: Site): Promise<void> {
  await story.and(watched.page.locator('[aria-busy=false]')).waitFor()
  expect(await stop.isDisabled()).toBe(true)
}

const textOf = async ({ story }: Site) => (await story.textContent()) ?? ''

/** Runs code in the page with client.js as `client`. */
async function inPage<T>(code: string): Promise<T> {
  return await watched.page.evaluate<T>(
    `import('${ENDPOINT}/client.js').then(async (client) => { ${code} })`,
  )
}

test('a story streams without a preflight, and comes from the cache the second time', async () => {
  const page = await visit(workers)
  // Record every text that the page shows.
  await watched.page.evaluate(`
    const story = document.querySelector('#story')
    globalThis.shown = []
    new MutationObserver(() => shown.push(story.textContent)).observe(story, { childList: true })`)
  await page.tell.click()
  await untilEnd(page)
  const text = await textOf(page)
  const shown = (await watched.page.evaluate<string[]>('shown')).filter((each) => each !== '')
  expect(shown[0]).toBe(OPENING('Alice'))
  expect(shown.length).toBeGreaterThan(10)
  for (const [i, each] of shown.entries()) expect(each.startsWith(shown[i - 1] ?? '')).toBe(true)
  expect(shown.at(-1)).toBe(text)
  expect(proxy.calls()).toEqual(['POST /v1/completions'])
  expect(proxy.requests.at(-1)?.headers).toMatchObject({ origin: SITE, host: 'localhost:8787' })

  await page.tell.click()
  await untilEnd(page)
  expect(await textOf(page)).toBe(text)
  expect(proxy.calls()).toEqual(['POST /v1/completions', 'POST /v1/completions'])
  await expect
    .poll(() => workers.log.caches())
    .toEqual(['miss', expect.stringMatching(/memory|kv/)])
  watched.expectQuiet(SITE, ENDPOINT)
})

test('a page on an origin that is not allowed can read that error and nothing else', async () => {
  await visit(workers)
  await watched.page.goto(`${ELSEWHERE}/story.html`)
  const refusal = {
    code: 'origin_not_allowed',
    message: expect.stringContaining(`${ELSEWHERE}. Its owner can add that origin to "origins"`),
  }
  const { code, message } = await inPage<{ code: string; message: string }>(
    `return client.complete('a').catch(({ code, message }) => ({ code, message }))`,
  )
  expect({ code, message }).toEqual(refusal)
  const { error } = await watched.page.evaluate<{ error: object }>(
    `fetch('${ENDPOINT}/v1/models', { headers: { 'x-visitor-token': 't' } }).then((r) => r.json())`,
  )
  expect(error).toMatchObject(refusal)
  const unreadable = await watched.page.evaluate<string>(
    `fetch('${ENDPOINT}/health').then(() => 'read', (error) => error.name)`,
  )
  expect(unreadable).toBe('TypeError')
  expect(lane().calls).toEqual([])
})

test('the Stop button stops the story and moves the focus to the other button', async () => {
  const rest = latch()
  lane().answers(chatStream([' met', ' a'], { pace: () => rest.opened }))
  const page = await visit(scripted)
  await page.hero.fill('Bob')
  await page.hero.press('Enter')
  await expect.poll(() => textOf(page)).toBe(`${OPENING('Bob')} met`)
  expect(await page.story.getAttribute('aria-busy')).toBe('true')
  await page.tell.focus()
  await watched.page.keyboard.press('Tab')
  await watched.page.keyboard.press('Space')
  await untilEnd(page)
  expect(await page.tell.and(watched.page.locator(':focus')).count()).toBe(1)
  await expect.poll(() => proxy.requests.at(-1)?.left).toBe(true)
  expect(await textOf(page)).toBe(`${OPENING('Bob')} met`)
  expect(await page.alert.textContent()).toBe('')
  rest.open()
  watched.expectQuiet(SITE, ENDPOINT)
})

test('submitting another hero during a story starts a new one', async () => {
  const rest = latch()
  lane().answers(chatStream([' met', ' a'], { pace: () => rest.opened }), chatStream([' slept']))
  const page = await visit(scripted)
  await page.hero.fill('Carol')
  await page.tell.click()
  await expect.poll(() => textOf(page)).toBe(`${OPENING('Carol')} met`)
  await page.hero.fill('Dave')
  await page.tell.click()
  await untilEnd(page)
  rest.open()
  expect(await textOf(page)).toBe(`${OPENING('Dave')} slept`)
  watched.expectQuiet(SITE, ENDPOINT)
})

test('a broken connection is resumed without a second upstream call', async () => {
  const [shown, resumed] = [latch(), latch()]
  const pace = (piece: number) => (piece === 1 ? shown.opened : resumed.opened)
  lane().answers(chatStream([' mét', ' a', ' cat'], { pace }))
  const page = await visit(scripted)
  proxy.cutAfter(' a"')
  await page.hero.fill('Erin')
  await page.tell.click()
  await expect.poll(() => textOf(page)).toBe(`${OPENING('Erin')} mét`)
  shown.open()
  // Only the Last-Event-ID header needs a preflight.
  const calls = ['POST /v1/completions', 'OPTIONS /v1/completions', 'POST /v1/completions']
  await expect.poll(() => proxy.calls()).toEqual(calls)
  resumed.open()
  await untilEnd(page)
  expect(await textOf(page)).toBe(`${OPENING('Erin')} mét a cat`)
  expect(proxy.calls()).toEqual(calls)
  const points = proxy.requests.map(({ headers }) => headers['last-event-id'])
  // A browser may discard data that arrived right before the break.
  expect(points.pop()).toMatch(/^cmpl-\w{24,}:[46]$/)
  expect(points.every((point) => point === undefined)).toBe(true)
  expect(lane().calls).toHaveLength(1)
  expect(await page.alert.textContent()).toBe('')
  // Chromium logs the broken connection.
  for (const complaint of watched.takeConsoleErrors()) expect(complaint).toMatch(/net::ERR_/)
  watched.expectQuiet(SITE, ENDPOINT)
})

test('an error response is shown as a message', async () => {
  lane().answers(refusal(429, {}, { 'retry-after': '30' }))
  const page = await visit(scripted)
  await page.hero.fill('Frank')
  await page.tell.click()
  await untilEnd(page)
  expect(await page.alert.textContent()).toMatch(/^The upstream is receiving too many requests/)
  expect(watched.takeConsoleErrors()).toEqual([expect.stringContaining('429')])
  expect(proxy.calls()).toEqual(['POST /v1/completions'])
})

test('if the upstream breaks off, the page keeps the text and shows an error', async () => {
  lane().answers(async (call, line) => {
    const unended = { ...line, lastChunk: () => {} }
    await chatStream([' met'], { finish: null, usage: null, done: false })(call, unended)
    await line.flushed()
    line.reset()
  })
  const page = await visit(scripted)
  await page.hero.fill('Grace')
  await page.tell.click()
  await untilEnd(page)
  expect(await textOf(page)).toBe(`${OPENING('Grace')} met`)
  expect(await page.alert.textContent()).toMatch(/upstream stopped in the middle/)
  expect(proxy.calls()).toEqual(['POST /v1/completions'])
  watched.expectQuiet(SITE, ENDPOINT)
})

test('if the Worker is unreachable, the page shows its address', async () => {
  const page = await visit(null)
  await page.tell.click()
  await untilEnd(page)
  expect(await page.alert.textContent()).toBe(`Could not reach ${ENDPOINT}. Is the Worker running?`)
  expect(watched.takeConsoleErrors()).toEqual([expect.stringContaining('net::ERR_')])
})

test('markup in an answer is shown as text', async () => {
  const markup = ' <img src="x" onerror="document.title = \'owned\'"><b>bold</b>'
  lane().answers(chatStream([markup.slice(0, 9), markup.slice(9)]))
  const page = await visit(scripted)
  await page.hero.fill('Heidi')
  await page.tell.click()
  await untilEnd(page)
  expect(await textOf(page)).toBe(OPENING('Heidi') + markup)
  expect(await page.story.locator('*').count()).toBe(0)
  expect(await watched.page.title()).toBe('A story while the tide turns · Strandline')
  watched.expectQuiet(SITE, ENDPOINT)
})

test('cached: true needs no preflight, and the browser caches the answer', async () => {
  lane().answers(chatStream([' yes']))
  await visit(scripted)
  const ask = `return await client.complete('Is it?', { cached: true })`
  expect(await inPage(ask)).toBe(' yes')
  expect(proxy.calls()).toEqual([
    'GET /v1/completions?stream=false&prompt=Is+it%3F',
    'POST /v1/completions',
  ])
  expect(await inPage(ask)).toBe(' yes')
  expect(await inPage(ask)).toBe(' yes')
  // The third request is answered by the browser's cache.
  expect(proxy.calls().slice(2)).toEqual(['GET /v1/completions?stream=false&prompt=Is+it%3F'])
  // Chromium logs every 404.
  expect(watched.takeConsoleErrors()).toEqual([expect.stringContaining('404')])
  watched.expectQuiet(SITE, ENDPOINT)
})

test('with Turnstile, one challenge is enough for all requests, and only the token header needs a preflight', async () => {
  lane().answers(chatStream([' yes']))
  await visit(guarded)
  // Not by a route, as in playground.test.ts: with one, Chromium sends no preflight.
  await watched.page.evaluate(widgetStub)
  const answers = inPage<string[]>(`
      const turnstile = { sitekey: '0x4AAA' }
      const { complete } = client.createClient({ endpoint: '${ENDPOINT}', turnstile })
      return [await complete('one'), await complete('two')]`)
  expect(await answers).toEqual([' yes', ' yes'])
  expect(proxy.calls()).toEqual([
    'POST /v1/completions',
    'POST /v1/visitors',
    'OPTIONS /v1/completions',
    'POST /v1/completions',
    'POST /v1/completions',
  ])
  expect(await watched.page.evaluate('challenges')).toEqual([
    { sitekey: '0x4AAA', action: 'visitor', visible: true },
  ])
  // The box of the challenge has been removed.
  expect(await watched.page.locator('body > div').count()).toBe(0)
  expect(watched.takeConsoleErrors()).toEqual([expect.stringContaining('401')])
  watched.expectQuiet(SITE, ENDPOINT)
})

describe.each(['light', 'dark'] as const)('in %s colours', (colorScheme) => {
  test.each([1000, 360])('it fits and is accessible at a width of %i pixels', async (width) => {
    const page = await visit(workers, { colorScheme, width, height: 640 })
    expect(await watched.accessibilityFaults()).toEqual([])
    await page.tell.click()
    await untilEnd(page)
    expect(await watched.accessibilityFaults()).toEqual([])
    expect(await watched.overflow()).toBe(0)
    // And with an error.
    proxy.forwardTo(null)
    await page.tell.click()
    await expect.poll(() => page.alert.textContent()).not.toBe('')
    await untilEnd(page)
    expect(await watched.accessibilityFaults()).toEqual([])
    expect(await watched.overflow()).toBe(0)
    expect(watched.foreignRequests(SITE, ENDPOINT)).toEqual([])
  })
})

/** The parts of Cloudflare's script that client.js uses. */
const widgetStub = `
  globalThis.challenges = []
  globalThis.turnstile = {
    render(box, { sitekey, action, callback }) {
      box.textContent = 'Checking'
      challenges.push({ sitekey, action, visible: box.checkVisibility() })
      setTimeout(callback, 10, 'solved')
      return 'widget'
    },
    remove() {},
  }
`
