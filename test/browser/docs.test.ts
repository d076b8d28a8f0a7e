// Every script of README.md and docs/, pasted into a page on another origin and run in Chromium.
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { build } from 'esbuild'
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { launchBrowser, WatchedPage } from '../support/browser.ts'
import { CANARY } from '../support/canary.ts'
import { allBlocks, configIn, isPrompt, pasted, textOf } from '../support/documents.ts'
import { chatStream, UpstreamServer } from '../support/upstream-server.ts'
import { type JsonValue, startWorkers, type Workers } from '../support/workerd.ts'

const TOKEN = 'an-operator-token-of-32-characters'
const ANSWER = 'Waves fold into foam.'
/** What a visitor's page is at: one of those that may be summed up. */
const PATH = '/posts/waves'

let upstream: UpstreamServer
let workers: Workers
let pages: Server
let origin: string
let browser: Browser
/** The body of the page as it is to be served, and its scripts. */
let body = ''
const files = new Map<string, string>()

beforeAll(async () => {
  upstream = await UpstreamServer.start()
  upstream.lane('model').answers(chatStream(['Waves fold ', 'into foam.']))
  files.set('/worker.js', await built("import 'monaco-editor/editor/editor.worker.js'"))
  pages = createServer(({ url }, response) => {
    const script = files.get(url ?? '')
    if (script !== undefined) {
      response.writeHead(200, { 'content-type': 'text/javascript' }).end(script)
      return
    }
    const head =
      '<!doctype html><html lang="en"><meta charset="utf-8"><link rel="icon" href="data:,">'
    const article = '<title>Waves</title><article>How waves break.</article><p id="summary"></p>'
    response.writeHead(200, { 'content-type': 'text/html' }).end(`${head}${article}${body}`)
  }).listen(0, '127.0.0.1')
  await once(pages, 'listening')
  origin = `http://localhost:${(pages.address() as AddressInfo).port}`
  workers = await startWorkers({
    config: configOf(),
    secrets: { UPSTREAM_API_KEY: CANARY, OPERATOR_TOKEN: TOKEN },
    site: true,
  })
  browser = await launchBrowser()
})

afterAll(async () => {
  await browser?.close()
  await workers?.dispose()
  pages?.close()
  await upstream?.stop()
})

/** The prompts that the pages define, an upstream that answers, and the origin of this test. */
function configOf(): JsonValue {
  const toml = pasted(textOf('wrangler.toml'), allBlocks('toml').filter(isPrompt))
  return {
    ...(configIn(toml) as Record<string, JsonValue>),
    origins: [origin],
    models: [{ id: 'default', upstream: 'model', upstream_model: 'm' }],
    upstreams: [{ name: 'model', base_url: upstream.url('model'), key: 'UPSTREAM_API_KEY' }],
  }
}

/** A script as a site's own build would make it: packages bundled, our module fetched from the Worker. */
async function built(script: string): Promise<string> {
  const { outputFiles } = await build({
    stdin: { contents: script, resolveDir: process.cwd() },
    bundle: true,
    format: 'esm',
    external: ['http://*'],
    // Styles of packages go into a file of their own.
    outdir: '.',
    loader: { '.ttf': 'dataurl' },
    write: false,
  })
  return outputFiles.find(({ path }) => path.endsWith('.js'))?.text ?? ''
}

const isEditor = (text: string) => text.includes("'#editor'")
/** Has a test in clients.test.ts. */
const isChat = (text: string) => text.includes("'#chat'")
const blocks = [...allBlocks('html'), ...allBlocks('js')]
const scripts = blocks
  .filter(({ text }) => !isEditor(text) && !isChat(text))
  .map(({ at, language, text }) => [at, language, text] as const)
const editors = blocks
  .filter(({ text }) => isEditor(text))
  .map(({ at, text }) => [at, text] as const)

test.each(scripts)('%s runs in a page and shows the answer', async (_, language, text) => {
  const own = text.replaceAll('https://edge-completions.YOU.workers.dev', workers.url.origin)
  // What is only computed is shown, so that there is something to see.
  const shown = `${own}\nif (typeof choices === 'object') document.querySelector('#answer').textContent ||= choices[0].text`
  const script = '<script type="module" src="/script.js"></script>'
  body = language === 'html' ? own : `<p id="answer"></p>${script}`
  files.set('/script.js', language === 'html' ? '' : await built(shown))
  // What `npm run warm` does.
  const warmed = await fetch(new URL('/v1/completions', workers.url), {
    method: 'POST',
    headers: { authorization: `Bearer ${TOKEN}` },
    body: JSON.stringify({ prompt: { id: 'summary', variables: { page: `${origin}${PATH}` } } }),
  })
  expect(await warmed.text()).toContain(ANSWER)
  // What `npm run index` does.
  const indexed = await fetch(new URL('/admin/site/page', workers.url), {
    method: 'PUT',
    headers: { authorization: `Bearer ${TOKEN}` },
    body: JSON.stringify({ url: `${origin}${PATH}` }),
  })
  expect(indexed.status).toBe(200)
  const watched = await WatchedPage.open(browser)
  await watched.page.goto(`${origin}${PATH}`)
  await visitorActs(watched.page, text)
  // Also in the shadow trees of elements.
  await watched.page.getByText(ANSWER).first().waitFor()
  await watched.text()
  expect(watched.foreignRequests(origin, workers.url.origin)).toEqual([])
  // Browsers list every 404, also one that a page expects: `cached: true` begins with a GET.
  const expected = text.includes('cached: true') ? /404/ : /^$/
  expect(watched.takeConsoleErrors().filter((error) => !expected.test(error))).toEqual([])
  await watched.close()
})

/** What our elements wait for. */
async function visitorActs(page: Page, text: string): Promise<void> {
  if (text.includes('<edge-chat')) {
    await page.getByLabel('Message').fill('How do waves break?')
    await page.getByRole('button', { name: 'Send' }).click()
  }
  if (text.includes('<edge-ask')) {
    await page.getByRole('combobox').fill('How do waves break?')
    await page.getByRole('button', { name: 'Ask' }).click()
  }
  if (text.includes('<edge-complete')) {
    await page.locator('textarea').fill('A wave')
    await page.getByRole('button', { name: 'Continue writing' }).click()
  }
}

const typed = 'The tide comes in. '

test.each(editors)(
  '%s shows the text of the gap as ghost text, and Tab accepts it',
  async (_, text) => {
    const script = await built(
      text.replaceAll('https://edge-completions.YOU.workers.dev', workers.url.origin),
    )
    // Monaco's documentation has a way to find its worker for each bundler.
    const setup = `<script>MonacoEnvironment = { getWorkerUrl: () => '/worker.js' }</script>`
    body = `<div id="editor" style="height: 9em"></div>${setup}<script type="module">${script.replaceAll('</script', '<\\/script')}</script>`
    const watched = await WatchedPage.open(browser)
    const { page } = watched
    await page.goto(`${origin}${PATH}`)
    /** The lines of the editor. Monaco shows spaces as no-break spaces. */
    const lines = page.locator('.cm-line, .view-line')
    const shown = async () => (await lines.allInnerTexts()).join('\n').replaceAll('\u00a0', ' ')
    await lines.first().click()
    await page.keyboard.type(`${typed}\nThe moon.`)
    await page.keyboard.press('ArrowUp')
    await page.keyboard.press('End')
    await page.keyboard.type('x')
    await expect.poll(shown).toContain(`x${ANSWER}`)
    await page.keyboard.press('Tab')
    await page.keyboard.type('y')
    await expect.poll(shown).toContain(`${ANSWER}y`)
    const sent = watched.requests.map(({ body }) => body ?? '')
    expect(sent).toContainEqual(
      JSON.stringify({
        prompt: { id: 'fill', variables: { before: `${typed}x` } },
        suffix: '\nThe moon.',
      }),
    )
    expect(watched.foreignRequests(origin, workers.url.origin)).toEqual([])
    // Monaco throws this where it gives work up, such as colouring a line that is typed on.
    const errors = watched.takeConsoleErrors().filter((error) => error !== 'uncaught: Canceled')
    expect(errors).toEqual([])
    await watched.close()
  },
)
