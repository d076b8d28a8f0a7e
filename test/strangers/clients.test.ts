// Clients of others read the endpoint as it is and must find nothing, and mutants of it, of which each
// must be found by one of them.
import type { Browser } from 'playwright-core'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { launchBrowser } from '../support/browser.ts'
import { SiteServer } from '../support/site-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import { mutations } from './mutations.ts'
import { langchain, litellm } from './packages.ts'
import { judgeWithPromptfoo, PROMPTFOO } from './promptfoo.ts'
import { JudgedProxy } from './proxy.ts'
import { installed, run } from './venv.ts'
import { demo } from './worker.ts'

/** By mutation: null, or what was found. */
type Findings = Readonly<Record<string, string | null>>

type Packages = Readonly<Parameters<typeof installed>>

const paths = [...mutations.keys()]
const clients: [
  name: string,
  read: string,
  script: string,
  packages: Packages,
  judged?: readonly string[],
][] = [
  [
    'openai 3.57.0',
    'whole answers, streams, log probabilities, errors, also async',
    'openai',
    langchain,
  ],
  [
    'langchain-openai 1.7.4',
    'both models: whole answers, streams, errors, also async',
    'langchain',
    langchain,
  ],
  ['llm 0.36', 'both kinds of models: whole answers, streams, errors', 'llm', ['llm==0.36']],
  [
    'lm-eval 0.4.13',
    'local-completions: likelihoods by echo and logprobs, texts',
    'lm_eval',
    ['lm-eval[api]==0.4.13', 'transformers==5.24.0'],
  ],
  [
    'litellm 1.110.2',
    'completions and chats: whole answers, streams, errors, also async',
    'litellm',
    litellm,
  ],
  [
    'servebench 1.1.3',
    'streams under load: tokens, times to the first token and between tokens',
    'servebench',
    ['servebench==1.1.3'],
    // Other mutants are held back, too.
    ['none', 'held-back'],
  ],
]

const suite = workerSuite()
const findings = new Map<string, Findings>()
let proxy: JudgedProxy
let site: SiteServer

beforeAll(async () => {
  site = await SiteServer.start()
  site.files.set('/', '<title>Site</title>')
  const workers = await suite.share({ config: { ...demo.config, origins: [site.origin] } })
  proxy = await JudgedProxy.start(workers.url, mutations)
})

afterAll(async () => {
  await proxy?.stop()
  await site?.stop()
})

test.each(clients)('%s: %s', async (name, _, script, packages, judged = paths) => {
  const bin = await installed(...packages)
  const args = [`test/strangers/with_${script}.py`, proxy.origin, judged.join(',')]
  const { stdout, stderr } = await run(`${bin}/python`, args, { timeout: 180_000 })
  const found: Findings = JSON.parse(stdout.trim().split('\n').at(-1) ?? '')
  findings.set(name, found)
  expect(found['none'], stderr).toBe(null)
})

test('Chromium: a page of an allowed origin can read errors', async () => {
  const browser: Browser = await launchBrowser()
  try {
    const page = await browser.newPage()
    await page.goto(site.origin)
    const found: Record<string, string | null> = {}
    for (const path of paths)
      found[path] = await page.evaluate(readError(`${proxy.origin}/${path}`))
    findings.set(`Chromium ${browser.version()}`, found)
    expect(found['none']).toBe(null)
  } finally {
    await browser.close()
  }
})

/** In the page: whether it can read the error of a request that is wrong. */
const readError = (base: string) => `(async () => {
  const body = JSON.stringify({ prompt: 'Hi', temperature: 9 })
  try {
    const response = await fetch('${base}/v1/completions', { method: 'POST', body })
    const { error } = await response.json()
    return error.code === 'invalid_value' ? null : error.code
  } catch (error) {
    return String(error)
  }
})()`

test(`promptfoo ${PROMPTFOO}: texts and usage of both kinds of models`, async () => {
  const fields = { max_tokens: 12, temperature: 0, seed: 7 }
  const prompt = 'Alice was'
  const response = await fetch(`${proxy.origin}/none/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ prompt, ...fields }),
  })
  const { choices } = (await response.json()) as { choices: [{ text: string }] }
  const expected = { prompt, fields, text: choices[0].text, tokens: fields.max_tokens }
  const urls = paths.map((path) => `${proxy.origin}/${path}/v1`)
  const found = await judgeWithPromptfoo(urls, expected)
  const byPath = Object.fromEntries(paths.map((path, i) => [path, found[i] ?? null]))
  findings.set(`promptfoo ${PROMPTFOO}`, byPath)
  expect(byPath['none']).toBe(null)
})

test('each mutant is found by at least one of them', () => {
  const rows = paths.map((path) => {
    const by = [...findings].filter(([, found]) => found[path]).map(([name]) => name)
    return [path, by] as const
  })
  for (const [path, by] of rows) console.log(`${path}: ${by.join(', ') || 'nobody'}`)
  expect(rows.filter(([, by]) => by.length === 0).map(([path]) => path)).toEqual(['none'])
})
