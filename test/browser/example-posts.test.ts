// The posts of the example site in Chromium, after running `npm run warm` as described in its README:
// warmed summaries are read from the cache, and visitors cannot cause any cost.
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'
import type { Browser, Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { experimental_readRawConfig } from 'wrangler'
import { launchBrowser, WatchedPage, type WatchOptions } from '../support/browser.ts'
import { CANARY } from '../support/canary.ts'
import { chatStream, UpstreamServer } from '../support/upstream-server.ts'
import { type JsonValue, startWorkers, type Workers } from '../support/workerd.ts'
import { EndpointProxy } from './endpoint-proxy.ts'

/** The Worker's address in the site's source. */
const ENDPOINT = 'http://localhost:8787'
const TOKEN = 'an-operator-token-of-32-characters'
const NOT_YET = 'This page has no summary yet.'

/** The summary that the upstream generates for a post, by a word in the post. */
const summaries: Readonly<Record<string, string>> = {
  Hooper:
    'The kinds of tree and shrub in thirty paces of a hedge tell its age: about one for each century. The rule is rough, since gardeners and poor soil can mislead it.',
  kettle:
    'High up, water boils at a lower temperature, so tea is thin and potatoes take longer. A pressure cooker helps, and so does green tea.',
  Naismith:
    'Naismith’s rule gives an hour for five kilometres and another for six hundred metres of climbing. A steep way down takes time, too.',
}

const names = { Hooper: 'hedge', kettle: 'kettle', Naismith: 'walk' } as const

let upstream: UpstreamServer
let workers: Workers
let site: ChildProcess
/** The site's origin. */
let origin: string
let proxy: EndpointProxy
let browser: Browser
let watched: WatchedPage | null = null
let warmed: string

beforeAll(async () => {
  upstream = await UpstreamServer.start()
  upstream.lane('model').answers(async (call, line) => {
    const word = Object.keys(summaries).find((each) => call.text.includes(each)) ?? ''
    await chatStream([summaries[word] ?? 'What is that?'])(call, line)
  })
  site = spawn(process.execPath, ['examples/static-site/serve.mjs', '0'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const [line] = await once(createInterface({ input: site.stdout! }), 'line')
  origin = line
  ;[workers, proxy] = await Promise.all([
    startWorkers({
      config: configOf(origin),
      secrets: { UPSTREAM_API_KEY: CANARY, OPERATOR_TOKEN: TOKEN },
      site: true,
    }),
    EndpointProxy.open(),
  ])
  proxy.forwardTo(workers.url)
  browser = await launchBrowser({ ports: { 'localhost:8787': proxy.port } })
  warmed = await warm()
})

afterAll(async () => {
  await browser?.close()
  await Promise.all([proxy?.close(), workers?.dispose()])
  await upstream?.stop()
  site?.kill()
})

afterEach(async () => {
  await watched?.close()
  watched = null
  // Visitors have not caused any further calls.
  expect(calls()).toHaveLength(3)
  expect(workers.log.takeRuntimeLines()).toEqual([])
  expect(workers.log.all('internal')).toEqual([])
})

const calls = () => upstream.lane('model').calls

/** The shipped configuration with the origin of this site and a scripted upstream. */
function configOf(siteOrigin: string): JsonValue {
  const { rawConfig } = experimental_readRawConfig({ config: 'wrangler.toml' })
  const shipped = rawConfig.vars?.['CONFIG'] as Record<string, JsonValue>
  expect(shipped['origins']).toEqual(['http://localhost:4000'])
  return {
    ...shipped,
    origins: [siteOrigin],
    models: [{ id: 'default', upstream: 'model', upstream_model: 'm' }],
    upstreams: [{ name: 'model', base_url: upstream.url('model'), key: 'UPSTREAM_API_KEY' }],
  }
}

/** Runs the command of the README with the ports of this test. */
async function warm(): Promise<string> {
  const args = ['--sitemap', `${origin}/sitemap.xml`, '--prompt', 'summary']
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['scripts/warm.ts', ...args, '--url', workers.url.origin],
    { env: { ...process.env, OPERATOR_TOKEN: TOKEN } },
  )
  return stdout
}

async function visit(path: string, options: WatchOptions = {}): Promise<Page> {
  proxy.forwardTo(workers.url)
  watched = await WatchedPage.open(browser, options)
  await watched.page.goto(`${origin}${path}`)
  return watched.page
}

/** Clicks the button of a post and returns the text it shows. */
async function summaryOf(page: Page, name: string): Promise<string> {
  const box = page.locator(`.summary[data-page="${name}.html"]`)
  await box.getByRole('button', { name: /^Summary/ }).click()
  const shown = box.locator('p[aria-busy=false]:not(:empty)')
  await shown.waitFor()
  return (await shown.textContent()) ?? ''
}

test('the command generates three summaries and reports the skipped pages', async () => {
  expect(warmed).toContain(`skipped        ${origin}/  its path is not one of the "paths"`)
  expect(warmed).toContain(`skipped        ${origin}/posts/  its path is not`)
  expect(warmed).toMatch(/stored\s+3\ncached\s+0\nfailed\s+0\ntokens spent\s+36\n$/)
  const texts = calls().map(({ text }) => text)
  for (const word of Object.keys(summaries)) {
    expect(texts.filter((text) => text.includes(word))).toHaveLength(1)
  }
  // Only the article is sent to the model.
  expect(texts.join()).not.toMatch(/All posts|Summary"/)
  expect(await warm()).toMatch(/stored\s+0\ncached\s+3\nfailed\s+0\ntokens spent\s+0\n$/)
})

test('each button of the list shows its summary from the cache with one GET and no preflight', async () => {
  const page = await visit('/posts/')
  expect(proxy.calls()).toEqual([])
  for (const [word, name] of Object.entries(names)) {
    expect(await summaryOf(page, name)).toBe(summaries[word])
  }
  const queries = Object.values(names).map((name) =>
    String(
      new URLSearchParams({
        stream: 'false',
        prompt_id: 'summary',
        'var.page': `${origin}/posts/${name}.html`,
      }),
    ),
  )
  expect(proxy.calls()).toEqual(queries.map((query) => `GET /v1/completions?${query}`))
  // The second time, the browser's cache answers.
  expect(await summaryOf(page, 'walk')).toBe(summaries['Naismith'])
  expect(proxy.calls()).toHaveLength(3)
  await expect
    .poll(() => workers.log.caches().slice(-3))
    .toEqual(Array(3).fill(expect.stringMatching(/^(memory|kv)$/)))
  watched?.expectQuiet(origin, ENDPOINT)
})

test('a post without a summary says so, and the model is not called', async () => {
  for (const path of ['/posts/', '/posts/moss.html']) {
    const page = await visit(path)
    expect(await summaryOf(page, 'moss')).toBe(NOT_YET)
    expect(proxy.calls()).toEqual([expect.stringMatching(/^GET .*moss\.html$/)])
    // Chromium logs every 404.
    expect(watched?.takeConsoleErrors()).toEqual([expect.stringContaining('404')])
    watched?.expectQuiet(origin, ENDPOINT)
    await watched?.close()
  }
})

test('if the Worker is unreachable, the page shows its address, and works after a reload', async () => {
  const page = await visit('/posts/')
  proxy.forwardTo(null)
  expect(await summaryOf(page, 'walk')).toBe(`Could not reach ${ENDPOINT}. Is the Worker running?`)
  expect(watched?.takeConsoleErrors()).toEqual([expect.stringContaining('net::ERR_')])
  await page.reload()
  proxy.forwardTo(workers.url)
  expect(await summaryOf(page, 'walk')).toBe(summaries['Naismith'])
})

test('the button of a post works with the keyboard alone', async () => {
  const page = await visit('/posts/hedge.html')
  await page.keyboard.press('Tab')
  await page.keyboard.press('Tab')
  expect(await page.evaluate('document.activeElement.textContent')).toBe('Summary')
  await page.keyboard.press('Enter')
  await page.getByRole('status').filter({ hasText: 'thirty paces' }).waitFor()
  expect(proxy.calls()).toHaveLength(1)
  expect(await page.evaluate('document.activeElement.textContent')).toBe('Summary')
})

describe.each(['light', 'dark'] as const)('in %s colours', (colorScheme) => {
  test.each([1000, 360])('it fits and is accessible at a width of %i pixels', async (width) => {
    for (const path of ['/posts/hedge.html', '/posts/']) {
      await watched?.close()
      const page = await visit(path, { colorScheme, width, height: 640 })
      expect(await watched?.accessibilityFaults()).toEqual([])
      const shown = path === '/posts/' ? ['walk', 'kettle', 'hedge', 'moss'] : ['hedge']
      for (const name of shown) await summaryOf(page, name)
      watched?.takeConsoleErrors()
      expect(await watched?.accessibilityFaults()).toEqual([])
      expect(await watched?.overflow()).toBe(0)
      expect(watched?.foreignRequests(origin, ENDPOINT)).toEqual([])
    }
    const view = `${colorScheme} ${width}`
    if (view === 'light 1000') await watched?.picture('example-posts', { full: true })
    if (view === 'dark 360') await watched?.picture('example-posts-phone', { full: true })
  })
})
