// Every script of README.md and docs/, pasted into a page on another origin and run in Chromium.
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { build } from 'esbuild'
import type { Browser } from 'playwright-core'
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
/** The body of the page as it is to be served. */
let body = ''

beforeAll(async () => {
  upstream = await UpstreamServer.start()
  upstream.lane('model').answers(chatStream(['Waves fold ', 'into foam.']))
  pages = createServer((_, response) => {
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
    write: false,
  })
  return outputFiles.map(({ text }) => text).join('')
}

const scripts = [...allBlocks('html'), ...allBlocks('js')].map(
  ({ at, language, text }) => [at, language, text] as const,
)

test.each(scripts)('%s runs in a page and shows the answer', async (_, language, text) => {
  const own = text.replaceAll('https://edge-completions.YOU.workers.dev', workers.url.origin)
  // What is only computed is shown, so that there is something to see.
  const shown = `${own}\nif (typeof choices === 'object') document.querySelector('#answer').textContent ||= choices[0].text`
  body =
    language === 'html'
      ? own
      : `<p id="answer"></p><script type="module">${(await built(shown)).replaceAll('</script', '<\\/script')}</script>`
  // What `npm run warm` does.
  const warmed = await fetch(new URL('/v1/completions', workers.url), {
    method: 'POST',
    headers: { authorization: `Bearer ${TOKEN}` },
    body: JSON.stringify({ prompt: { id: 'summary', variables: { page: `${origin}${PATH}` } } }),
  })
  expect(await warmed.text()).toContain(ANSWER)
  const watched = await WatchedPage.open(browser)
  await watched.page.goto(`${origin}${PATH}`)
  await expect.poll(() => watched.text()).toContain(ANSWER)
  expect(watched.foreignRequests(origin, workers.url.origin)).toEqual([])
  // Browsers list every 404, also one that a page expects: `cached: true` begins with a GET.
  const expected = text.includes('cached: true') ? /404/ : /^$/
  expect(watched.takeConsoleErrors().filter((error) => !expected.test(error))).toEqual([])
  await watched.close()
})
