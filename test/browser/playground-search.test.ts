// The playground's search of the owner's site, and the sources of its answers, in Chromium.
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Browser, Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { launchBrowser, WatchedPage, type WatchOptions } from '../support/browser.ts'
import { CANARY } from '../support/canary.ts'
import { expectQuiet } from '../support/quiet.ts'
import { chatStream, UpstreamServer } from '../support/upstream-server.ts'
import { startWorkers, type Workers } from '../support/workerd.ts'

const TOKEN = 'an-operator-token-of-32-characters'
const OWN = 'http://localhost:8787'
/** The same without an index. */
const EMPTY = 'http://localhost:8788'

let upstream: UpstreamServer
let workers: Workers
let empty: Workers
let pages: Server
let browser: Browser
let watched: WatchedPage
let page: Page
/** The owner's site. */
let site: string

beforeAll(async () => {
  upstream = await UpstreamServer.start()
  pages = createServer((_, response) => {
    response.setHeader('content-type', 'text/html; charset=utf-8')
    response.end(`<title>Tides</title><main><h1>Tides</h1><h2 id="moon">The moon</h2>
      <p>The moon pulls the sea. &lt;img src=x onerror=alert(1)></p></main>`)
  }).listen(0, '127.0.0.1')
  await once(pages, 'listening')
  site = `http://localhost:${(pages.address() as AddressInfo).port}`
  const passages = { from: 'site' }
  const start = () =>
    startWorkers({
      config: {
        origins: [site],
        models: [{ id: 'default', upstream: 'model', upstream_model: 'm' }],
        upstreams: [{ name: 'model', base_url: upstream.url('model'), key: 'KEY', retries: 0 }],
        prompts: {
          ask: {
            text: '{{passages}} {{question}}',
            variables: {
              question: { max_chars: 300 },
              passages: { ...passages, about: 'question' },
            },
          },
          guide: { chat: true, system: '{{passages}}', variables: { passages } },
        },
      },
      secrets: { KEY: CANARY, OPERATOR_TOKEN: TOKEN },
      site: true,
    })
  ;[workers, empty] = await Promise.all([start(), start()])
  const indexed = await fetch(new URL('/admin/site/page', workers.url), {
    method: 'PUT',
    headers: { authorization: `Bearer ${TOKEN}` },
    body: JSON.stringify({ url: `${site}/tides` }),
  })
  expect(indexed.status).toBe(200)
  browser = await launchBrowser({
    ports: { 'localhost:8787': Number(workers.url.port), 'localhost:8788': Number(empty.url.port) },
  })
})

afterAll(async () => {
  await browser?.close()
  await Promise.all([workers?.dispose(), empty?.dispose()])
  pages?.close()
  await upstream?.stop()
})

afterEach(async () => {
  await watched.close()
  for (const { log } of [workers, empty]) expectQuiet(log)
})

async function visit(address: string, options: WatchOptions = {}): Promise<void> {
  watched = await WatchedPage.open(browser, options)
  page = watched.page
  await page.goto(address)
  await page.locator('#send:not([disabled])').waitFor({ state: 'attached' })
}

const found = () => page.locator('#found').textContent()

test('shows the passages that match, with their pages and scores, as text', async () => {
  await visit(OWN)
  await page.getByRole('tab', { name: 'Search' }).click()
  expect(await page.locator('#request').isVisible()).toBe(false)
  const query = page.getByLabel('Search your site')
  await query.press('Enter')
  expect(await page.evaluate('document.activeElement.id')).toBe('query')
  await query.fill('moon')
  await query.press('Enter')
  await expect.poll(found).toMatch(/^1 passage in \d+ ms$/)
  const passage = page.locator('#passages li')
  expect(await passage.textContent()).toMatch(
    /^Tides The moon · score -?\d+\.\d\dThe moon pulls the sea\. <img src=x onerror=alert\(1\)>$/,
  )
  expect(await passage.getByRole('link').getAttribute('href')).toBe(`${site}/tides#moon`)
  expect(await page.locator('#search-address').textContent()).toBe('/v1/search?q=moon&limit=10')
  await query.fill('zebra')
  await page.getByRole('button', { name: 'Search' }).click()
  await expect.poll(found).toMatch(/^0 passages/)
  // The address leads to the same search.
  await page.reload()
  await expect.poll(found).toMatch(/^0 passages/)
  expect(await query.inputValue()).toBe('zebra')
  await page.getByRole('tab', { name: 'Chat', exact: true }).click()
  expect(page.url()).toBe(`${OWN}/#chat`)
  expect(await query.isVisible()).toBe(false)
  expect(await page.locator('#composer').isVisible()).toBe(true)
  await page.getByRole('tab', { name: 'Completion' }).click()
  expect(page.url()).toBe(`${OWN}/`)
  watched.expectQuiet(OWN)
})

test('says what to do for a site without an index, or without a connection', async () => {
  await visit(`${EMPTY}/#search&query=moon`)
  await expect.poll(found).toContain('npm run index')
  expect(watched.takeConsoleErrors()).toEqual([expect.stringContaining('404')])
  await page.route('**/v1/search*', (route) => route.abort())
  await page.getByRole('button', { name: 'Search' }).click()
  await expect.poll(found).not.toContain('npm run index')
  expect(watched.takeConsoleErrors().join()).not.toContain('uncaught')
})

test('lists the sources of an answer, of a prompt and of a chat', async () => {
  upstream
    .lane('model')
    .answers(chatStream(['The moon [1].']), chatStream(['It pulls.']), chatStream(['No.']))
  await visit(OWN)
  expect(await page.getByLabel('passages').count()).toBe(0)
  await page.getByLabel('question').fill('What does the moon pull?')
  await page.getByRole('button', { name: 'Send' }).click()
  await page.locator('#status', { hasText: 'Done' }).waitFor()
  expect(await page.locator('#answer').textContent()).toBe('The moon [1].')
  expect(await page.locator('#cites').textContent()).toBe('Tides › The moon')
  const source = page.locator('#cites a')
  expect(await source.getAttribute('href')).toBe(`${site}/tides#moon`)
  // A hit has them, too.
  await page.getByRole('button', { name: 'Send' }).click()
  await expect.poll(() => page.locator('#source').textContent()).toContain('Hit in')
  expect(await source.count()).toBe(1)
  await page.getByLabel('question').fill('zebra')
  await page.getByRole('button', { name: 'Send' }).click()
  await page.getByRole('alert').getByText('no_passages').waitFor()
  expect(await page.locator('#sources').isVisible()).toBe(false)
  expect(watched.takeConsoleErrors()).toEqual([expect.stringContaining('404')])
  await page.getByRole('tab', { name: 'Chat', exact: true }).click()
  await page.getByLabel('Your message').fill('And the sea?')
  await page.getByRole('button', { name: 'Send' }).click()
  await page.locator('#status', { hasText: 'Done' }).waitFor()
  expect(await source.textContent()).toBe('Tides › The moon')
  watched.expectQuiet(OWN)
})

describe.each(['light', 'dark'] as const)('in %s colours', (colorScheme) => {
  test.each([1200, 360])('fits and is accessible at a width of %i pixels', async (width) => {
    upstream.lane('model').answers(chatStream(['The moon [1].']))
    await visit(`${OWN}/#search&query=moon+sea`, { colorScheme, width })
    await expect.poll(found).toMatch(/^1 passage/)
    expect(await watched.accessibilityFaults()).toEqual([])
    expect(await watched.overflow()).toBe(0)
    await page.screenshot({ path: `/tmp/shots/pg-search-${colorScheme}-${width}.png` })
    await page.getByRole('tab', { name: 'Completion' }).click()
    await page.getByLabel('question').fill('Why does the moon pull the sea?')
    await page.getByRole('button', { name: 'Send' }).click()
    await page.locator('#cites a').waitFor()
    await page.locator('#status', { hasText: 'Done' }).waitFor()
    expect(await watched.accessibilityFaults()).toEqual([])
    expect(await watched.overflow()).toBe(0)
    await page.screenshot({
      path: `/tmp/shots/pg-answer-${colorScheme}-${width}.png`,
      fullPage: true,
    })
  })
})
