// The unmodified example site in Chromium, with the shipped configuration and the demo model, after the two
// commands of its README: every page has its summary, and visitors search the pages and ask about them.
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import type { Browser, Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { experimental_readRawConfig } from 'wrangler'
import { launchBrowser, WatchedPage, type WatchOptions } from '../support/browser.ts'
import { answered, unanswered } from '../support/example-questions.ts'
import { documentation, type ExampleSite, startExampleSite } from '../support/example-site.ts'
import { expectQuiet } from '../support/quiet.ts'
import { type JsonValue, startWorkers, type Workers } from '../support/workerd.ts'
import { EndpointProxy } from './endpoint-proxy.ts'

/** The Worker's address in the site's source. */
const ENDPOINT = 'http://localhost:8787'
/** A page with a picture, two with tables and code, one with other scripts. */
const different = ['/', '/docs/settings.html', '/docs/power.html', '/docs/glossary.html']
/** The pictures for docs/, by view. */
const pictures: Readonly<Record<string, string>> = {
  'light 1000 /': 'example',
  'light 1000 /docs/power.html': 'example-summary',
  'dark 360 /': 'example-phone',
}
const TOKEN = 'an-operator-token-of-32-characters'

let workers: Workers
let site: ExampleSite
let proxy: EndpointProxy
let browser: Browser
let watched: WatchedPage | null = null
let warmed: string
let indexed: string
/** What visitors have been answered by the model. */
const asked = new Set<string>()

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
  indexed = await index()
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
  // One for each summary and each question that the site answers, regardless of how often they are read.
  expect(calls()).toHaveLength(documentation.length + asked.size)
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

const index = () => run('scripts/index.ts')
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

/** Types a question and waits for its answer, which is returned with the addresses that it cites. */
async function ask(page: Page, question: string): Promise<{ text: string; cites: string[] }> {
  await page.getByRole('combobox').fill(question)
  await page.getByRole('combobox').press('Enter')
  await page.getByText(/^(Sources|Nearest pages)$/).waitFor()
  const answer = page.locator('edge-ask [part~=assistant] [part=text]')
  const links = await answer.getByRole('link').all()
  const cites = await Promise.all(links.map((link) => link.getAttribute('href')))
  return { text: (await answer.textContent()) ?? '', cites: cites.map((url) => pathOf(url ?? '')) }
}

const pathOf = (url: string) => url.replace(site.origin, '')

/** Asks without a page: the answer's status, its text or code, and the paths of its passages. */
async function answerTo(question: string) {
  const response = await fetch(new URL('/v1/completions', workers.url), {
    method: 'POST',
    headers: { origin: site.origin },
    body: JSON.stringify({ prompt: { id: 'ask', variables: { question } } }),
  })
  const { choices, error } = (await response.json()) as {
    choices?: { text: string }[]
    error?: { code: string }
  }
  const links = [...(response.headers.get('link') ?? '').matchAll(/<(.*?)>/g)]
  const paths = links.map(([, url = '']) => new URL(url).pathname)
  return { status: response.status, text: choices?.[0]?.text ?? error?.code ?? '', paths }
}

const folded = (text: string | null) => (text ?? '').replaceAll(/\s+/g, ' ')

test('the command summarises each page of the documentation once', async () => {
  for (const path of documentation)
    expect(warmed).toContain(`stored         ${site.origin}${path} `)
  expect(warmed).toMatch(/stored\s+10\ncached\s+0\nfailed\s+0\n/)
  expect(await warm()).toMatch(/stored\s+0\ncached\s+10\nfailed\s+0\ntokens spent\s+0\n$/)
})

test('the command indexes each page of the documentation, and only changed ones again', async () => {
  for (const path of documentation)
    expect(indexed).toContain(`indexed        ${site.origin}${path} `)
  expect(indexed).toMatch(/\n10 indexed, 0 unchanged, 0 removed, 0 failed, \d+ passages/)
  expect(await index()).toMatch(/\n0 indexed, 10 unchanged, 0 removed, 0 failed/)
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

test('typing shows pages, which Enter opens, and the model is not called', async () => {
  const page = await visit('/docs/glossary.html')
  await page.getByRole('combobox').pressSequentially('spare parts')
  await page.getByRole('option', { name: 'Repairs and warranty' }).waitFor()
  await page.keyboard.press('ArrowDown')
  await page.keyboard.press('Enter')
  await page.waitForURL('**/docs/trouble.html#warranty')
  watched?.expectQuiet(site.origin, ENDPOINT)
})

test('a question is answered with a citation, which leads to its passage, and once for all spellings', async () => {
  asked.add('How long does the battery last?')
  const page = await visit('/')
  const { text, cites } = await ask(page, 'How long does the battery last?')
  expect(text).toBe(
    'The battery lasts 14 months if the clock checks its time once a night, and 20 months with the Wi-Fi off. [1]',
  )
  expect(cites).toEqual(['/docs/power.html#life'])
  await page.reload()
  expect((await ask(page, '  how long does the BATTERY last')).text).toBe(text)
  await page.getByRole('link', { name: /^\[1\]/ }).click()
  await page.waitForURL('**/docs/power.html#life')
  watched?.expectQuiet(site.origin, ENDPOINT)
})

test('a question that the site has nothing about shows the nearest pages', async () => {
  const page = await visit('/')
  const { text, cites } = await ask(page, 'Who won the world cup in 1998?')
  expect([text, cites]).toEqual(['No answer was found on this site.', []])
  // Chromium logs every 404.
  expect(watched?.takeConsoleErrors()).toEqual([expect.stringContaining('404')])
  watched?.expectQuiet(site.origin, ENDPOINT)
})

test('questions are answered from their page, and others are refused', async () => {
  for (const [question, path] of Object.entries(answered)) {
    asked.add(question)
    const { status, text, paths } = await answerTo(question)
    expect([question, status, paths.slice(0, 3)]).toEqual([
      question,
      200,
      expect.arrayContaining([path]),
    ])
    expect(text).toMatch(/ \[\d\]$/)
  }
  for (const question of unanswered) {
    const { status, text } = await answerTo(question)
    expect([question, status, text]).toEqual([question, 404, 'no_passages'])
  }
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
    if (path === '/') {
      asked.add('How long does the battery last?')
      await ask(page, 'How long does the battery last?')
      expect(await watched?.accessibilityFaults()).toEqual([])
    }
    expect(await watched?.overflow()).toBe(0)
    watched?.expectQuiet(site.origin, ENDPOINT)
    const name = pictures[`${view.colorScheme} ${view.width} ${path}`]
    if (name !== undefined) await watched?.picture(name)
  })
})
