// The unmodified example site in Chromium, with the shipped configuration and the demo model, after the
// commands of its README: every page has its summary, and visitors cannot cause any cost.
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import type { Browser, Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { experimental_readRawConfig } from 'wrangler'
import { launchBrowser, WatchedPage, type WatchOptions } from '../support/browser.ts'
import { documentation, type ExampleSite, startExampleSite } from '../support/example-site.ts'
import { expectQuiet } from '../support/quiet.ts'
import { type JsonValue, startWorkers, type Workers } from '../support/workerd.ts'
import { EndpointProxy } from './endpoint-proxy.ts'

/** The Worker's address in the site's source. */
const ENDPOINT = 'http://localhost:8787'
/** A page with a picture, one with tables and code, one with other scripts. */
const different = ['/', '/docs/settings.html', '/docs/glossary.html']
/** The pictures for docs/, by view. */
const pictures: Readonly<Record<string, string>> = {
  'light 1000 /': 'example',
  'light 1000 /docs/settings.html': 'example-summary',
  'dark 360 /docs/settings.html': 'example-phone',
}
const TOKEN = 'an-operator-token-of-32-characters'

let workers: Workers
let site: ExampleSite
let proxy: EndpointProxy
let browser: Browser
let watched: WatchedPage | null = null
let warmed: string

beforeAll(async () => {
  site = await startExampleSite()
  ;[workers, proxy] = await Promise.all([
    startWorkers({
      config: configOf(site.origin),
      secrets: { OPERATOR_TOKEN: TOKEN },
      site: true,
    }),
    EndpointProxy.open(),
  ])
  browser = await launchBrowser({ ports: { 'localhost:8787': proxy.port } })
  warmed = await warm()
})

afterAll(async () => {
  await browser?.close()
  await Promise.all([proxy?.close(), workers?.dispose()])
  site?.stop()
})

afterEach(async () => {
  await watched?.close()
  watched = null
  expectQuiet(workers.log)
  // Those of the command; visitors have not caused any.
  expect(calls()).toHaveLength(documentation.length)
})

const calls = () => workers.log.all('request').filter(({ attempts }) => attempts > 0)

/** The shipped configuration with the origin of this site. */
function configOf(siteOrigin: string): JsonValue {
  const { rawConfig } = experimental_readRawConfig({ config: 'wrangler.toml' })
  const shipped = rawConfig.vars?.['CONFIG'] as Record<string, JsonValue>
  expect(shipped['origins']).toEqual(['http://localhost:4000'])
  return { ...shipped, origins: [siteOrigin] }
}

/** Runs a command of the README with the ports of this test. */
async function run(script: string, ...args: readonly string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(
    process.execPath,
    [script, '--sitemap', `${site.origin}/sitemap.xml`, '--url', workers.url.origin, ...args],
    { env: { ...process.env, OPERATOR_TOKEN: TOKEN } },
  )
  return stdout
}

const warm = () => run('scripts/warm.ts', '--prompt', 'summary')

async function visit(
  path: string,
  options: WatchOptions = {},
  worker: URL | null = workers.url,
): Promise<Page> {
  await watched?.close()
  proxy.forwardTo(worker)
  watched = await WatchedPage.open(browser, options)
  await watched.page.goto(`${site.origin}${path}`)
  return watched.page
}

/** Waits for the summary of the page. */
async function summaryOf(page: Page): Promise<string> {
  const text = page.locator('edge-summary [part~=text]')
  await text.filter({ visible: true }).waitFor()
  return (await text.textContent()) ?? ''
}

const folded = (text: string | null) => (text ?? '').replaceAll(/\s+/g, ' ')

test('the command summarises each page of the documentation once', async () => {
  for (const path of documentation)
    expect(warmed).toContain(`stored         ${site.origin}${path} `)
  expect(warmed).toMatch(/stored\s+10\ncached\s+0\nfailed\s+0\n/)
  expect(await warm()).toMatch(/stored\s+0\ncached\s+10\nfailed\s+0\ntokens spent\s+0\n$/)
})

test.each(documentation)('%s shows its summary, from the cache with one GET', async (path) => {
  const page = await visit(path)
  const summary = await summaryOf(page)
  const article = folded(await page.locator('article').textContent())
  for (const sentence of summary.split(/(?<=\.) /)) expect(article).toContain(sentence)
  const variables = { stream: 'false', prompt_id: 'summary', 'var.page': `${site.origin}${path}` }
  expect(proxy.calls()).toEqual([`GET /v1/completions?${new URLSearchParams(variables)}`])
  await expect.poll(() => workers.log.caches().at(-1)).toMatch(/^(memory|kv)$/)
  expect(await page.locator('nav [aria-current=page]').getAttribute('href')).toBe(path)
  watched?.expectQuiet(site.origin, ENDPOINT)
})

test('if the Worker is unreachable, the page shows everything but the summary', async () => {
  const page = await visit('/docs/power.html', {}, null)
  expect(await page.locator('article').innerText()).toContain('Inside the clock is one')
  expect(await page.locator('edge-summary').isVisible()).toBe(false)
  expect(watched?.takeConsoleErrors()).toEqual([expect.stringContaining('net::ERR_')])
})

// The pages are alike: each of them is checked in one view, and some in every view.
describe.each([
  { colorScheme: 'light', width: 360, paths: documentation },
  { colorScheme: 'light', width: 1000, paths: different },
  { colorScheme: 'dark', width: 360, paths: different },
  { colorScheme: 'dark', width: 1000, paths: different },
] as const)('in $colorScheme colours, at a width of $width pixels', ({ paths, ...view }) => {
  test.each(paths)('%s fits and is accessible', async (path) => {
    const page = await visit(path, { ...view, height: 640 })
    await summaryOf(page)
    expect(await watched?.accessibilityFaults()).toEqual([])
    expect(await watched?.overflow()).toBe(0)
    watched?.expectQuiet(site.origin, ENDPOINT)
    const name = pictures[`${view.colorScheme} ${view.width} ${path}`]
    if (name !== undefined) await watched?.picture(name)
  })
})
