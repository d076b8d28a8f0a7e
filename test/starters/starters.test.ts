// The first hour of an owner, for each generator: a real site, the snippet of setup, its settings,
// `npm run index` and `npm run warm` from the site's own sitemap, and a look at the pages in Chromium.
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Browser, Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { experimental_readRawConfig } from 'wrangler'
import { readSitemap } from '../../scripts/operator/sitemap.ts'
import { offers } from '../../scripts/setup/arguments.ts'
import { settingsOf } from '../../scripts/setup/settings.ts'
import { inspectSite, type Site } from '../../scripts/setup/site.ts'
import { withSettings } from '../../scripts/setup/wrangler-toml.ts'
import { EndpointProxy } from '../browser/endpoint-proxy.ts'
import { launchBrowser, WatchedPage, type WatchOptions } from '../support/browser.ts'
import { expectQuiet } from '../support/quiet.ts'
import { type JsonValue, startWorkers, type Workers } from '../support/workerd.ts'
import { buildSite, StaticHost } from './site.ts'
import { starters } from './starters.ts'

/** As in the snippets that setup prints. */
const ENDPOINT = 'http://localhost:8787'
const TOKEN = 'an-operator-token-of-32-characters'

let host: StaticHost
let proxy: EndpointProxy
let browser: Browser

beforeAll(async () => {
  host = await StaticHost.open()
  proxy = await EndpointProxy.open()
  browser = await launchBrowser({ ports: { 'localhost:8787': proxy.port } })
})

afterAll(async () => {
  await browser?.close()
  await proxy?.close()
  host?.close()
})

describe.each(starters)('$generator', (starter) => {
  let site: Site
  let workers: Workers
  let watched: WatchedPage | null = null
  /** The addresses of the two posts, by name. */
  let posts: Readonly<Record<'hedge' | 'walk', string>>

  beforeAll(async () => {
    host.root = await buildSite(starter, host.origin, ENDPOINT)
    site = await inspectSite(new URL(host.origin), fetch)
    const { pages } = await readSitemap(site.sitemap ?? '', fetch)
    const pageOf = (name: string) => pages.find((page) => page.includes(name)) ?? ''
    posts = { hedge: pageOf('hedge'), walk: pageOf('walk') }
    workers = await startWorkers({
      config: await configOf(site),
      secrets: { OPERATOR_TOKEN: TOKEN },
      site: true,
    })
    proxy.forwardTo(workers.url)
  })

  afterEach(async () => {
    await watched?.close()
    watched = null
    expectQuiet(workers.log)
  })

  afterAll(async () => {
    await workers?.dispose()
  })

  async function visit(url: string, options: WatchOptions): Promise<Page> {
    watched = await WatchedPage.open(browser, options)
    await watched.page.goto(url)
    return watched.page
  }

  /** No errors, and no faults of accessibility that are gone without our elements. */
  async function expectSound(page: Page): Promise<void> {
    watched?.expectQuiet(host.origin, ENDPOINT)
    expect(await watched?.overflow()).toBe(0)
    const faults = (await watched?.accessibilityFaults()) ?? []
    await page.evaluate(
      `document.querySelectorAll('edge-summary, edge-ask, edge-chat').forEach((element) => element.remove())`,
    )
    const theirs = (await watched?.accessibilityFaults()) ?? []
    expect(rulesOf(faults), faults.join('\n')).toEqual(rulesOf(theirs))
  }

  test('setup recognises it and finds its sitemap', () => {
    expect(site).toMatchObject({ generator: starter.generator, problem: null })
    expect(site.sitemap).not.toBeNull()
    expect(posts).toEqual({
      hedge: expect.stringMatching(/^http/),
      walk: expect.stringMatching(/^http/),
    })
  })

  test('index has the Worker read each page of its sitemap', async () => {
    const output = await command('index', workers, '--sitemap', site.sitemap ?? '')
    expect(output).toMatch(/^[1-9]\d* indexed, 0 unchanged, 0 removed, 0 failed, /m)
    for (const post of Object.values(posts)) {
      expect(output).toMatch(new RegExp(`^indexed +${post} +[1-9]\\d* passages?$`, 'm'))
    }
    // Words of the themes, around the text.
    const found = await fetch(new URL('/v1/search?q=appearance+menu+sidebar', workers.url))
    expect(await found.json()).toEqual({ object: 'list', data: [] })
  })

  test('warm stores a summary of each page of its sitemap', async () => {
    const args = ['--sitemap', site.sitemap ?? '', '--prompt', 'summary']
    const output = await command('warm', workers, ...args)
    expect(output).toMatch(/stored\s+[1-9]\d*\ncached\s+0\nfailed\s+0\n/)
    for (const post of Object.values(posts)) expect(output).toContain(post)
  })

  test.each([360, 1280])(
    'shows the summary of each post at a width of %i pixels',
    async (width) => {
      const words = { hedge: /hedge|Hooper|kinds/, walk: /hour|Naismith|hill/ }
      for (const name of ['hedge', 'walk'] as const) {
        const page = await visit(posts[name], { width })
        const shown = page.locator('edge-summary [part=text]')
        await shown.filter({ hasText: words[name] }).waitFor()
        const text = await readFile(`test/fixtures/starters/posts/${name}.md`, 'utf8')
        for (const sentence of (await shown.innerText()).split(/(?<=[.:?]) /)) {
          expect(text).toContain(sentence)
        }
        await expectSound(page)
        await watched?.close()
      }
    },
  )

  test.each([360, 1280])(
    'finds a post and answers with a link to it at a width of %i pixels',
    async (width) => {
      const page = await visit(host.origin + starter.ask, { width })
      const ask = page.locator('edge-ask')
      await ask.getByRole('combobox').fill('How old is a hedge?')
      await ask.getByRole('option').first().waitFor()
      expect(await ask.getByRole('option').first().getAttribute('href')).toContain(posts.hedge)
      await ask.getByRole('combobox').press('Enter')
      const source = ask.locator('[part=sources]').getByRole('link').first()
      await source.waitFor()
      expect(await ask.locator('[part~=assistant] [part=text]').textContent()).toMatch(
        /(hedge|Hooper|kinds).*\[1\]/s,
      )
      const cited = await ask.getByRole('link', { name: '[1]' }).first().getAttribute('href')
      expect(cited).toContain(posts.hedge)
      await expectSound(page)
      await page.goto(cited ?? '')
      expect(await page.locator('h1').allTextContents()).toContainEqual(
        expect.stringContaining('A hedge is a slow clock'),
      )
      const anchored = `location.hash === '' || document.querySelector(location.hash) !== null`
      expect(await page.evaluate(anchored)).toBe(true)
    },
  )

  test('answers a message that a visitor writes in the chat', async () => {
    const page = await visit(host.origin + starter.ask, { width: 1280 })
    const chat = page.locator('edge-chat')
    await chat.getByRole('textbox').fill('Tell me about the sea.')
    await chat.getByRole('textbox').press('Enter')
    await chat.locator('[part~=assistant] [part=text]').filter({ hasText: /\w{3}/ }).waitFor()
    await chat.getByRole('button', { name: 'Send' }).waitFor()
    await expectSound(page)
  })
})

/**
 * The rules that are broken, once for each place. Not the places: axe finds another selector for the
 * same element when the page has others of its kind.
 */
const rulesOf = (faults: readonly string[]) => faults.map((fault) => fault.split(' at ')[0]).sort()

/** The CONFIG that setup writes for the site. */
async function configOf(site: Site): Promise<JsonValue> {
  const answers = { site, preset: 'demo', model: null, baseUrl: null }
  const settings = settingsOf({ ...answers, offer: offers })
  const folder = await mkdtemp(join(tmpdir(), 'starter-'))
  const file = join(folder, 'wrangler.toml')
  await writeFile(file, withSettings(await readFile('wrangler.toml', 'utf8'), settings))
  const { rawConfig } = experimental_readRawConfig({ config: file })
  await rm(folder, { recursive: true })
  return rawConfig.vars?.['CONFIG'] as JsonValue
}

/** Runs a command that setup prints. */
async function command(name: string, { url }: Workers, ...args: string[]): Promise<string> {
  const all = ['run', '--silent', name, '--', ...args, '--url', url.origin]
  const { stdout } = await promisify(execFile)('npm', all, {
    env: { ...process.env, OPERATOR_TOKEN: TOKEN },
  })
  return stdout
}
