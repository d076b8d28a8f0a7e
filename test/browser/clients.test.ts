// The recipes for React's hooks of the AI SDK and for deep-chat, bundled as a site's own build would, in
// a page on another origin than the Worker: answers, errors, stopping, and the cache.
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { build } from 'esbuild'
import type { Browser, Locator } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { messages } from '../../src/errors.ts'
import { launchBrowser, WatchedPage } from '../support/browser.ts'
import { codeBlocks } from '../support/documents.ts'
import { Lanes } from '../support/lanes.ts'
import { expectQuiet } from '../support/quiet.ts'
import {
  chatStream,
  latch,
  refusal,
  type Script,
  UpstreamServer,
} from '../support/upstream-server.ts'
import { startWorkers, type Workers } from '../support/workerd.ts'
import { EndpointProxy } from './endpoint-proxy.ts'

/** The Worker's address in the page. */
const ENDPOINT = 'http://localhost:8787'
const MAX_MESSAGES = 4
const MAX_CHARS = 400

let upstream: UpstreamServer
let workers: Workers
let proxy: EndpointProxy
let site: Server
let origin: string
let browser: Browser
let watched: WatchedPage
/** The script of the page. */
let script = ''
/** Makes the questions of a second try its own, so that no answer is in the cache. */
let again = ''

beforeAll(async () => {
  upstream = await UpstreamServer.start()
  site = createServer(({ url }, response) => {
    if (url === '/script.js') {
      response.writeHead(200, { 'content-type': 'text/javascript' }).end(script)
      return
    }
    response
      .writeHead(200, { 'content-type': 'text/html' })
      .end(
        '<!doctype html><html lang="en"><meta charset="utf-8"><link rel="icon" href="data:,"><title>Chat</title><div id="chat"></div><script type="module" src="/script.js"></script>',
      )
  }).listen(0, '127.0.0.1')
  await once(site, 'listening')
  origin = `http://localhost:${(site.address() as AddressInfo).port}`
  const lanes = new Lanes({ upstream }, { chat: { retries: 0 } }, 1)
  const limits = { messages: MAX_MESSAGES, chat_chars: MAX_CHARS, prompt_chars: MAX_CHARS }
  const models = [{ id: 'default', upstream: 'chat-0', upstream_model: 'm' }]
  const config = lanes.config({ limits, models, origins: [origin] })
  ;[workers, proxy] = await Promise.all([
    startWorkers({ config, site: true }),
    EndpointProxy.open(),
  ])
  proxy.forwardTo(workers.url)
  browser = await launchBrowser({ ports: { 'localhost:8787': proxy.port } })
})

afterAll(async () => {
  await browser?.close()
  await Promise.all([proxy?.close(), workers?.dispose()])
  site?.close()
  await upstream?.stop()
})

beforeEach(({ task }) => {
  again = ' Again.'.repeat(task.result?.retryCount ?? 0)
  proxy.forwardTo(workers.url)
  upstream.lane('chat-0').calls.length = 0
})

afterEach(async () => {
  await watched.close()
  expectQuiet(workers.log)
})

const calls = () => upstream.lane('chat-0').calls
const answers = (...scripts: readonly Script[]) => upstream.lane('chat-0').answers(...scripts)
/** The requests to the Worker that are no preflights. */
const posts = () => proxy.calls().filter((call) => call.startsWith('POST'))

const blocks = codeBlocks('docs/recipes.md')
function recipe(part: string): string {
  const block = blocks.find(({ text }) => text.includes(part))
  if (block === undefined) throw new Error(`docs/recipes.md has no code with ${part}`)
  return block.text
}

/** Opens a page with this code of the documentation. */
async function open(code: string): Promise<void> {
  const { outputFiles } = await build({
    stdin: {
      contents: code.replaceAll('https://edge-completions.YOU.workers.dev', ENDPOINT),
      resolveDir: process.cwd(),
      loader: 'jsx',
    },
    bundle: true,
    external: ['http://*'],
    format: 'esm',
    jsx: 'automatic',
    // Development builds of React warn of more.
    define: { 'process.env.NODE_ENV': '"development"' },
    write: false,
  })
  script = outputFiles[0]?.text ?? ''
  watched = await WatchedPage.open(browser)
  await watched.page.goto(origin)
}

/** One of the recipes in a page, as a visitor sees it. */
interface Client {
  readonly name: string
  readonly code: () => string
  readonly path: string
  readonly preflight: boolean
  /** Where a text is typed, and sent with Enter. */
  readonly input: () => Locator
  /** The latest answer. */
  readonly answer: () => Locator
  readonly error: () => Locator
  readonly stop: () => Locator
  /** Whether it says what an error in the middle of a stream was. */
  readonly readsLateErrors: boolean
  /** What it logs of its own accord for an error that it shows. */
  readonly logged?: RegExp
}

const named = (name: string) => watched.page.getByRole('button', { name })
const reactInput = (name: string) => () => watched.page.getByRole('textbox', { name })
const react = {
  preflight: true,
  error: () => watched.page.getByRole('alert'),
  stop: () => named('Stop'),
}
const completionCode = () => recipe('function Completion')

const useChat: Client = {
  ...react,
  name: 'useChat',
  code: () => recipe('function Chat'),
  path: '/v1/ai-sdk',
  input: reactInput('Message'),
  answer: () => watched.page.locator('.assistant').last(),
  readsLateErrors: true,
}
const useCompletion: Client = {
  ...react,
  name: 'useCompletion',
  code: completionCode,
  path: '/v1/ai-sdk',
  input: reactInput('Prompt'),
  answer: () => watched.page.locator('output'),
  readsLateErrors: true,
}
const deepChat: Client = {
  name: 'deep-chat',
  code: () => recipe('async handler'),
  path: '/v1/chat/completions',
  // client.js needs none.
  preflight: false,
  input: () => watched.page.locator('#text-input'),
  answer: () => watched.page.locator('.ai-message-text:not(.error-message-text)').last(),
  error: () => watched.page.locator('.error-message-text'),
  stop: () => watched.page.locator('.stop-icon, #stop-icon, .loading-button').first(),
  readsLateErrors: true,
  logged: /upstream|Cannot use/,
}
const clients: readonly Client[] = [
  useChat,
  useCompletion,
  {
    ...useCompletion,
    name: "useCompletion with streamProtocol: 'text'",
    code: () => completionCode().replace(/^const options = .*\n/m, recipe('streamProtocol')),
    path: '/v1/completions',
    readsLateErrors: false,
  },
  deepChat,
  {
    ...deepChat,
    name: 'deep-chat with directConnection',
    code: () => recipe('directConnection'),
    preflight: true,
  },
]

const ask = async ({ input, stop }: Client, text: string) => {
  // An answer may be shown whole before its stream has ended.
  await expect.poll(() => stop().count()).toBe(0)
  await input().fill(text)
  await input().press('Enter')
}

describe.each(clients)('$name', (client) => {
  const { name, code, path, preflight, answer, error, stop, readsLateErrors, logged } = client
  // deep-chat's Markdown ends with a line break.
  const shown = async (place: Locator) => (await place.innerText()).trim()
  /** Errors in the console but those that the client logs, and Chromium for an error status. */
  const unexpected = () =>
    watched
      .takeConsoleErrors()
      .filter((line) => !/status of [45]\d\d/.test(line) && logged?.test(line) !== true)

  test('streams an answer across origins, and has it from the cache the second time', async () => {
    const rest = latch()
    answers(chatStream(['Waves ', 'fold.'], { pace: () => rest.opened }))
    await open(code())
    const question = `Why is the sea blue, ${name}?${again}`
    await ask(client, question)
    await expect.poll(() => shown(answer())).toBe('Waves')
    proxy.gather()
    rest.open()
    await expect.poll(() => shown(answer())).toBe('Waves fold.')
    expect(proxy.calls()).toEqual([...(preflight ? [`OPTIONS ${path}`] : []), `POST ${path}`])
    expect(proxy.requests.at(-1)?.headers['origin']).toBe(origin)
    watched.expectQuiet(origin, ENDPOINT)
    await watched.close()

    await open(code())
    await ask(client, question)
    await expect.poll(() => shown(answer())).toBe('Waves fold.')
    expect(posts()).toHaveLength(2)
    expect(calls()).toHaveLength(1)
    expect(unexpected()).toEqual([])
    expect(watched.foreignRequests(origin, ENDPOINT)).toEqual([])
    expect(await error().count()).toBe(0)
  })

  test('shows why a request was refused', async () => {
    await open(code())
    await ask(client, 'x'.repeat(MAX_CHARS + 1))
    const expected = new RegExp(`^Cannot use "(messages|prompt)": expected .*${MAX_CHARS}`)
    await expect.poll(() => shown(error())).toMatch(expected)
    expect(calls()).toEqual([])
    expect(unexpected()).toEqual([])
  })

  test('shows what went wrong at the upstream', async () => {
    answers(refusal(500))
    await open(code())
    await ask(client, `Is it down, ${name}?${again}`)
    await expect.poll(() => shown(error())).toBe(messages.upstream_unavailable)
    expect(posts()).toHaveLength(1)
    expect(unexpected()).toEqual([])
  })

  test('keeps the text before an error in the middle of a stream', async () => {
    const rest = latch()
    const pieces = readsLateErrors ? ['Waves'] : ['Waves', ' fold.']
    const broken = { finish: null, usage: null, done: false, pace: () => rest.opened }
    answers(chatStream(pieces, broken))
    await open(code())
    // An error may arrive in one piece with the text. Text in one piece with the break of a connection is lost.
    if (readsLateErrors) proxy.gather()
    await ask(client, `What breaks, ${name}?${again}`)
    if (!readsLateErrors) await expect.poll(() => shown(answer())).toBe('Waves')
    rest.open()
    await expect.poll(() => error().count()).toBe(1)
    if (readsLateErrors) expect(await shown(error())).toBe(messages.upstream_truncated)
    expect(await shown(answer())).toMatch(/^Waves( fold\.)?$/)
    expect(posts()).toHaveLength(1)
    // It is a broken connection, which the runtime and Chromium log.
    if (readsLateErrors) expect(unexpected()).toEqual([])
    else await expect.poll(() => workers.log.takeRuntimeLines().join()).toContain('broke off')
  })

  test('stops without an error, and keeps the text', async () => {
    const rest = latch()
    answers(chatStream(['Waves', ' fold.'], { pace: () => rest.opened }))
    await open(code())
    await ask(client, `How long, ${name}?${again}`)
    await expect.poll(() => shown(answer())).toBe('Waves')
    await stop().click()
    await expect.poll(() => proxy.requests.at(-1)?.left).toBe(true)
    rest.open()
    await expect.poll(() => stop().count()).toBe(0)
    expect(await shown(answer())).toBe('Waves')
    expect(await error().count()).toBe(0)
    watched.expectQuiet(origin, ENDPOINT)
  })
})

/** What the n-th call sent, as "role: content". */
function sent(n: number): string[] {
  const turns = calls()[n]?.body['messages'] as { role: string; content: string }[] | undefined
  return (turns ?? []).map(({ role, content }) => `${role}: ${content}`)
}

test.each([useChat, deepChat])('$name sends the conversation so far', async (client) => {
  answers(chatStream(['Blue.']))
  await open(client.code())
  await ask(client, `A colour, ${client.name}?`)
  await expect.poll(() => client.answer().innerText()).toContain('Blue.')
  answers(chatStream(['Red.']))
  await ask(client, 'Another?')
  await expect.poll(() => client.answer().innerText()).toContain('Red.')
  expect(sent(1)).toEqual([`user: A colour, ${client.name}?`, 'assistant: Blue.', 'user: Another?'])
  watched.expectQuiet(origin, ENDPOINT)
})

test('useChat may have more messages than the limit: the newest are sent', async () => {
  await open(useChat.code())
  for (const n of [1, 2, 3, 4]) {
    answers(chatStream([`Answer ${n}.`]))
    await ask(useChat, `Question ${n}`)
    await expect.poll(() => useChat.answer().innerText()).toBe(`Answer ${n}.`)
  }
  expect(sent(3)).toEqual([
    'assistant: Answer 2.',
    'user: Question 3',
    'assistant: Answer 3.',
    'user: Question 4',
  ])
  expect(await watched.page.locator('p').count()).toBe(8)
  watched.expectQuiet(origin, ENDPOINT)
})

test('regenerate() of useChat gets the stored answer', async () => {
  answers(chatStream(['Once.']), chatStream(['Twice.']))
  await open(useChat.code())
  await ask(useChat, 'How often?')
  await expect.poll(() => useChat.answer().innerText()).toBe('Once.')
  await named('Again').click()
  await expect.poll(() => posts().length).toBe(2)
  await named('Send').waitFor()
  expect(JSON.parse(watched.requests.at(-1)?.body ?? '')).toMatchObject({
    trigger: 'regenerate-message',
  })
  expect(await useChat.answer().innerText()).toBe('Once.')
  expect(calls()).toHaveLength(1)
  watched.expectQuiet(origin, ENDPOINT)
})

test('useChat finds no stream to resume, which is no error', async () => {
  await open(useChat.code().replace('{ transport }', '{ transport, resume: true }'))
  await expect.poll(() => proxy.calls().length).toBeGreaterThan(0)
  expect(proxy.calls().at(-1)).toMatch(/^GET \/v1\/ai-sdk\/\w+\/stream$/)
  await named('Send').waitFor()
  expect(await useChat.error().count()).toBe(0)
  watched.expectQuiet(origin, ENDPOINT)
})
