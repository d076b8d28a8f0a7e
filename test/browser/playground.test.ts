// The playground in Chromium, served by workerd: it sends, streams and stops prompts and conversations,
// shows where answers came from, and shows code that gets the same answer.
import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Browser, Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { launchBrowser, WatchedPage } from '../support/browser.ts'
import { CANARY } from '../support/canary.ts'
import { passingSiteverify } from '../support/siteverify.ts'
import {
  chatStream,
  completionsStream,
  latch,
  refusal,
  UpstreamServer,
} from '../support/upstream-server.ts'
import { startWorkers, type Workers } from '../support/workerd.ts'

const OWN = 'http://localhost:8787'
/** The same Worker with Turnstile enabled. */
const GUARDED = 'http://localhost:8788'
/** A page on another origin. */
const OTHER = 'http://localhost:4000'
const TOKEN = 'an-operator-token-of-32-characters'
const run = promisify(execFile)

const upstream = await UpstreamServer.start()
const demo = { upstream: 'demo', upstream_model: 'demo' }
const config = {
  origins: [],
  free_prompts: true,
  models: [
    { id: 'default', ...demo },
    { id: 'second', ...demo },
    {
      id: 'scripted',
      upstream: 'scripted',
      upstream_model: 'm',
      price: { input: 10, output: 20 },
    },
    { id: 'talker', upstream: 'talker', upstream_model: 'm', price: { input: 100, output: 200 } },
  ],
  upstreams: [
    { name: 'demo', preset: 'demo' },
    { name: 'scripted', base_url: upstream.url('scripted'), wire: 'completions', key: 'KEY' },
    { name: 'talker', base_url: upstream.url('talker'), wire: 'chat', key: 'KEY', retries: 0 },
  ],
  prompts: {
    haiku: {
      text: 'Write about {{topic}} in {{language}}.',
      variables: { topic: { max_chars: 20 }, language: { values: ['English', 'Deutsch'] } },
      max_tokens: 12,
    },
    story: { text: 'Alice', visitor_may_set: ['max_tokens'] },
    guide: {
      chat: true,
      system: 'You are a {{tone}} guide.',
      variables: { tone: { values: ['dry', 'warm'] } },
      visitor_may_set: ['temperature'],
      model: 'talker',
    },
  },
}

let workers: Workers
let guardedWorkers: Workers
let browser: Browser
let watched: WatchedPage
let page: Page

/** The script of the page on the other origin. */
let script = ''
/** The page that the tab "web page" shows. */
let pasted = ''
const other = createServer(({ url }, response) => {
  const html = '<!doctype html><title>A page</title><script type="module" src="/page.js"></script>'
  const found = {
    '/': ['text/html', html],
    '/pasted': ['text/html', pasted],
    '/page.js': ['text/javascript', script],
  }[url ?? '']
  const [type = '', body = ''] = found ?? []
  response.writeHead(found === undefined ? 204 : 200, { 'content-type': type }).end(body)
})

beforeAll(async () => {
  const secrets = { KEY: CANARY, OPERATOR_TOKEN: TOKEN }
  workers = await startWorkers({ config, secrets, site: true })
  guardedWorkers = await startWorkers({
    config: { ...config, access: { turnstile_sitekey: '0x4AAA' } },
    secrets: { KEY: CANARY, TURNSTILE_SECRET: '0x4BBB' },
    main: passingSiteverify('localhost'),
    site: true,
  })
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve))
  const ports = {
    'localhost:8787': Number(workers.url.port),
    'localhost:8788': Number(guardedWorkers.url.port),
    'localhost:4000': (other.address() as AddressInfo).port,
  }
  browser = await launchBrowser({ ports })
})

afterAll(async () => {
  other.close()
  await browser?.close()
  await workers?.dispose()
  await guardedWorkers?.dispose()
  await upstream.stop()
})

beforeEach(async () => {
  watched = await WatchedPage.open(browser, { permissions: ['clipboard-read', 'clipboard-write'] })
  page = watched.page
  await page.goto(OWN)
  await page.locator('#send:not([disabled])').waitFor()
})

afterEach(async () => {
  watched.expectQuiet(OWN)
  await watched.close()
})

let prompts = 0
/** Fills in a prompt that no other test uses. */
async function write(text = 'The Queen said'): Promise<string> {
  prompts += 1
  const prompt = `${text} ${prompts}`
  await page.getByLabel('Your prompt').fill(prompt)
  return prompt
}

async function send(): Promise<string> {
  await page.getByRole('button', { name: 'Send' }).click()
  await page.locator('#status', { hasText: 'Done' }).waitFor()
  return (await page.locator('#answer').textContent()) ?? ''
}

const fact = async (id: string) => (await page.locator(`#${id}`).textContent()) ?? ''

test('shows text, source, times and tokens of an answer without streaming', async () => {
  upstream.lane('scripted').answers(completionsStream([' once', ' upon', ' a time']))
  await write()
  await page.getByLabel('Model').selectOption('scripted')
  await page.getByLabel('Max tokens').fill('9')
  await page.getByLabel('Stream').uncheck()
  expect(await send()).toBe(' once upon a time')
  expect(await page.locator('#source').getAttribute('data-kind')).toBe('miss')
  expect(await fact('source')).toContain('Miss')
  expect(await fact('first-byte')).toMatch(/^[\d.]+ m?s$/)
  expect(await fact('total-time')).toMatch(/^[\d.]+ m?s$/)
  expect([await fact('tokens-in'), await fact('tokens-out')]).toEqual(['5', '7'])
  expect([await fact('finish'), await fact('answered-by')]).toEqual(['stop', 'upstream-model-1'])
  expect(await fact('request-id')).toMatch(/^req_[0-9a-f]{32}$/)
  const bodies = watched.requests.filter(({ method }) => method === 'POST').map(({ body }) => body)
  expect(bodies.map((body) => JSON.parse(body ?? ''))).toMatchObject([
    { model: 'scripted', max_tokens: 9 },
  ])
})

test('shows the text as it arrives, and a hit when it is sent again', async () => {
  const { open, opened } = latch()
  const pieces = [' once', ' upon', ' a time']
  upstream.lane('scripted').answers(completionsStream(pieces, { pace: () => opened }))
  const prompt = await write()
  await page.getByLabel('Model').selectOption('scripted')
  await page.getByRole('button', { name: 'Send' }).click()
  const answer = page.locator('#answer')
  await expect.poll(() => answer.textContent()).toBe(' once')
  expect(await page.locator('#written').textContent()).toBe(`${prompt} once`)
  expect(await answer.getAttribute('aria-busy')).toBe('true')
  expect(await fact('total-time')).toBe('–')
  open()
  await page.locator('#status', { hasText: 'Done' }).waitFor()
  expect(await answer.textContent()).toBe(' once upon a time')
  expect(await answer.getAttribute('aria-busy')).toBe('false')
  expect(await fact('speed')).toMatch(/^[\d.]+ tokens\/s$/)
  expect(await send()).toBe(' once upon a time')
  expect(await page.locator('#source').getAttribute('data-kind')).toBe('hit')
  expect(await fact('source')).toMatch(
    /^[\d.]+ m?s → [\d.]+ m?s, 12 tokens savedHit in (memory|flight)/,
  )
  expect([await fact('speed'), await fact('sent-prompt')]).toEqual(['–', prompt])
  expect(await fact('age')).toMatch(/^\d+ s$/)
  expect(await fact('fresh')).toBe('30 d')
})

test('the Stop button stops an answer and keeps the text so far', async () => {
  const { open, opened } = latch()
  upstream.lane('scripted').answers(completionsStream([' once', ' upon'], { pace: () => opened }))
  await write()
  await page.getByLabel('Model').selectOption('scripted')
  await page.getByRole('button', { name: 'Send' }).click()
  const answer = page.locator('#answer')
  await expect.poll(() => answer.textContent()).toBe(' once')
  expect(await page.getByRole('button', { name: 'Send' }).isEnabled()).toBe(false)
  await page.getByRole('button', { name: 'Stop' }).click()
  await page.locator('#status', { hasText: 'Stopped' }).waitFor()
  expect(await answer.textContent()).toBe(' once')
  expect(await page.getByRole('button', { name: 'Send' }).isEnabled()).toBe(true)
  expect(await page.locator('#problem').isHidden()).toBe(true)
  // The upstream call continues, so the same request joins it or is a hit.
  open()
  expect(await send()).toBe(' once upon')
})

test('a locked prompt shows its variables and only the fields that visitors may set', async () => {
  await page.getByLabel('Prompt', { exact: true }).selectOption('haiku')
  expect(await page.getByLabel('Your prompt').isVisible()).toBe(false)
  expect(await page.getByLabel('Temperature').isVisible()).toBe(false)
  await page.getByLabel('topic').fill('the sea, its salt and its silence')
  expect(await page.getByLabel('topic').inputValue()).toHaveLength(20)
  await page.getByLabel('language').selectOption('Deutsch')
  await page.getByLabel('Stream').uncheck()
  expect(await send()).not.toBe('')
  const { body } = watched.requests.findLast(({ method }) => method === 'POST') ?? {}
  const variables = { topic: 'the sea, its salt an', language: 'Deutsch' }
  expect(JSON.parse(body ?? '')).toEqual({ prompt: { id: 'haiku', variables }, stream: false })
  await page.getByLabel('Prompt', { exact: true }).selectOption('story')
  expect(await page.getByLabel('Max tokens').isVisible()).toBe(true)
  expect(await page.locator('#locked').isHidden()).toBe(true)
})

test('an error shows its message, its code and what to do', async () => {
  await page.getByLabel('Your prompt').fill('')
  await page.getByRole('button', { name: 'Send' }).click()
  const problem = page.getByRole('alert')
  await problem.waitFor()
  expect(await problem.textContent()).toContain('Cannot use "prompt"')
  expect(await problem.locator('code').textContent()).toBe('invalid_value')
  expect(await problem.locator('p').nth(1).textContent()).toBe('Correct this field and send again.')
  expect(await fact('source')).toBe('FailedThe status was 400.')
  expect(await fact('age')).toBe('–')
  const hint = page
    .locator('#answer')
    .evaluate((box) => box.ownerDocument.defaultView?.getComputedStyle(box, '::before').content)
  expect(await hint).toBe('none')
  // Chromium logs each failed request.
  expect(watched.takeConsoleErrors()).toEqual([expect.stringContaining('400 (Bad Request)')])
  await write()
  await page.getByLabel('Max tokens').fill('3')
  await send()
  expect(await problem.isHidden()).toBe(true)
})

test('on a misconfigured Worker, lists the faults of GET /health and disables Send', async () => {
  const error = { message: 'Cannot serve', code: 'misconfigured' }
  await page.route('**/v1/models', (route) => route.fulfill({ status: 503, json: { error } }))
  const faults = [{ path: 'models[0].upstream', message: 'Cannot find upstream "opnai"' }]
  await page.route('**/health', (route) => route.fulfill({ json: { status: '', faults } }))
  await page.reload()
  await page.getByRole('alert').waitFor()
  const words = await page.locator('#problem').textContent()
  expect(words).toContain('GET /health lists every')
  expect(words).toContain('models[0].upstream: Cannot find upstream "opnai".')
  expect(await page.getByRole('button', { name: 'Send' }).isEnabled()).toBe(false)
  expect(watched.takeConsoleErrors()).toEqual([expect.stringContaining('503')])
})

test('a call that its upstream refuses is shown as failed, not as a miss', async () => {
  upstream.lane('talker').answers(refusal(401, 'no'))
  await write()
  await page.getByLabel('Model').selectOption('talker')
  for (const streamed of [true, false]) {
    await page.getByLabel('Stream').setChecked(streamed)
    await page.getByRole('button', { name: 'Send' }).click()
    await page.locator('#status', { hasText: 'Failed' }).waitFor()
    expect(await fact('source')).toMatch(/^Failed(?!.*(Miss|model))/)
    expect(await page.locator('#source').getAttribute('data-kind')).toBe('bad')
    expect(await page.locator('#problem code').textContent()).toBe('upstream_rejected')
    expect(await page.locator('#written').textContent()).toBe('')
  }
  expect(watched.takeConsoleErrors()).not.toEqual([])
})

test('the fields under Options are sent', async () => {
  await write()
  await page.getByText('Options').click()
  await page.getByLabel('Top p').fill('0.5')
  await page.getByLabel('Stop before').fill('.')
  await page.getByLabel('Seed').fill('7')
  await page.getByLabel('Max tokens').fill('8')
  await send()
  const { body } = watched.requests.findLast(({ method }) => method === 'POST') ?? {}
  expect(JSON.parse(body ?? '')).toMatchObject({ top_p: 0.5, stop: '.', seed: 7, max_tokens: 8 })
  await page.getByRole('tab', { name: 'Chat', exact: true }).click()
  expect(await page.getByLabel('Suffix').isVisible()).toBe(false)
  expect(await page.getByLabel('Seed').isVisible()).toBe(true)
  await page.getByRole('tab', { name: 'Completion' }).click()
  await page.getByLabel('Prompt', { exact: true }).selectOption('story')
  expect(await page.getByText('Options').isVisible()).toBe(false)
})

test('a link leads to the same request, and Back to the one before', async () => {
  const prompt = await write('Linked & “quoted” #')
  await page.getByLabel('Max tokens').fill('8')
  await page.getByLabel('Model').selectOption('second')
  await send()
  await page.getByLabel('Prompt', { exact: true }).selectOption('haiku')
  await page.getByLabel('topic').fill('the sea')
  await page.getByLabel('language').selectOption('Deutsch')
  await send()
  await page.getByRole('button', { name: 'Copy link' }).click()
  await page.locator('#shared', { hasText: 'Copied' }).waitFor()
  const link = await page.evaluate<string>('navigator.clipboard.readText()')
  expect(link).toMatch(/^http:\/\/localhost:8787\/#prompt-id=haiku&/)
  await page.goBack()
  await expect.poll(() => page.getByLabel('Your prompt').inputValue()).toBe(prompt)
  expect(await page.getByLabel('Model').inputValue()).toBe('second')
  expect(await page.getByLabel('Max tokens').inputValue()).toBe('8')
  const opened = await WatchedPage.open(browser)
  await opened.page.goto(link)
  await opened.page.locator('#send:not([disabled])').waitFor()
  await expect.poll(() => opened.page.locator('#variable-topic').inputValue()).toBe('the sea')
  expect(await opened.page.getByLabel('language').inputValue()).toBe('Deutsch')
  expect(opened.requests.filter(({ url }) => url.includes('sea'))).toEqual([])
  await opened.page.goto(`${OWN}/#chat&system=Be+brief&message=Hello&model=no-such-model`)
  await opened.page.reload()
  await expect.poll(() => opened.page.getByLabel('Your message').inputValue()).toBe('Hello')
  expect(await opened.page.getByLabel('System prompt').inputValue()).toBe('Be brief')
  expect(await opened.page.getByLabel('Model').inputValue()).toBe('default')
  opened.expectQuiet(OWN)
  await opened.close()
})

test('without a clipboard, as over plain HTTP, the link to copy is in the address bar', async () => {
  await page.evaluate('Object.defineProperty(navigator, "clipboard", { value: undefined })')
  await write()
  await page.getByRole('button', { name: 'Copy link' }).click()
  await page.locator('#shared', { hasText: 'The link is in the address bar.' }).waitFor()
  expect(page.url()).toContain('#prompt=')
})

test('choices of one are not shown', async () => {
  const json = { data: [{ id: 'default', owned_by: 'demo' }] }
  await page.route('**/v1/models', (route) => route.fulfill({ json }))
  await page.route('**/v1/prompts', (route) => route.fulfill({ json: { data: [] } }))
  await page.reload()
  await page.locator('#send:not([disabled])').waitFor()
  expect(await page.getByLabel('Model').isVisible()).toBe(false)
  expect(await page.getByLabel('Prompt', { exact: true }).isVisible()).toBe(false)
  await page.getByRole('tab', { name: 'Chat', exact: true }).click()
  expect(await page.getByLabel('Model').isVisible()).toBe(false)
})

test('inserts model output as text, not as HTML', async () => {
  const nasty = '<img src=x onerror=alert(1)><b>bold</b>'
  upstream.lane('scripted').answers(completionsStream([nasty]))
  const prompt = await write(nasty)
  await page.getByLabel('Model').selectOption('scripted')
  expect(await send()).toBe(nasty)
  expect(await page.locator('#code').textContent()).toContain(prompt)
  expect(await page.locator('main img, main b').count()).toBe(0)
})

describe('a conversation', () => {
  const message = () => page.getByLabel('Your message')
  const turns = () => page.locator('.turn p').allTextContents()
  const pressed = (name: string) => page.getByRole('button', { name }).click()
  const ended = (status: string) => page.locator('#status', { hasText: status }).waitFor()
  /** The bodies that were sent. */
  const bodies = () =>
    watched.requests
      .filter(({ url }) => url.endsWith('/v1/chat/completions'))
      .map(({ body }) => JSON.parse(body ?? ''))

  beforeEach(async () => {
    await page.getByRole('tab', { name: 'Chat', exact: true }).click()
  })

  async function say(text: string, status = 'Done'): Promise<void> {
    await message().fill(text)
    await pressed('Send')
    await ended(status)
  }

  test('streams each answer, and sends all turns with the system prompt', async () => {
    const { open, opened } = latch()
    const lane = upstream.lane('talker')
    lane.answers(chatStream(['Good', ' morning.'], { pace: () => opened }))
    await page.getByLabel('Model').selectOption('talker')
    await page.getByLabel('System prompt').fill('Be polite.')
    await message().fill('Hello!')
    await pressed('Send')
    await expect.poll(turns).toEqual(['Hello!', 'Good'])
    const log = page.getByRole('log')
    expect(await log.getAttribute('aria-busy')).toBe('true')
    expect(await message().inputValue()).toBe('')
    expect(await page.getByRole('tab', { name: 'Completion' }).isEnabled()).toBe(false)
    open()
    await ended('Done')
    expect(await log.getAttribute('aria-busy')).toBe('false')
    expect(await turns()).toEqual(['Hello!', 'Good morning.'])
    expect([await fact('tokens-in'), await fact('tokens-out')]).toEqual(['5', '7'])
    expect(await fact('source')).toContain('Miss')
    lane.answers(chatStream(['<b>Well</b>.']))
    await say('How are\nyou?')
    expect(await turns()).toEqual(['Hello!', 'Good morning.', 'How are\nyou?', '<b>Well</b>.'])
    expect(await page.locator('main b').count()).toBe(0)
    expect(bodies()).toEqual([
      expect.objectContaining({ messages: expect.any(Array) }),
      {
        model: 'talker',
        messages: [
          { role: 'system', content: 'Be polite.' },
          { role: 'user', content: 'Hello!' },
          { role: 'assistant', content: 'Good morning.' },
          { role: 'user', content: 'How are\nyou?' },
        ],
        stream: true,
        stream_options: { include_usage: true },
      },
    ])
  })

  test('Stop keeps the text so far, and Retry asks again', async () => {
    const { open, opened } = latch()
    upstream.lane('talker').answers(chatStream(['One', ' two'], { pace: () => opened }))
    await page.getByLabel('Model').selectOption('talker')
    await message().fill('Count to two')
    await pressed('Send')
    await expect.poll(turns).toEqual(['Count to two', 'One'])
    const focused = () => page.evaluate('document.activeElement.id')
    expect(await focused()).toBe('stop')
    await pressed('Stop')
    await ended('Stopped')
    await expect.poll(focused).toBe('send')
    expect(await turns()).toEqual(['Count to two', 'One'])
    await message().fill('A draft')
    open()
    await pressed('Retry')
    await ended('Done')
    expect(await turns()).toEqual(['Count to two', 'One two'])
    expect(await message().inputValue()).toBe('A draft')
    expect(bodies()[1]).toEqual(bodies()[0])
  })

  test('a failed answer can be tried again; a message that was refused can be corrected', async () => {
    const lane = upstream.lane('talker')
    lane.answers(refusal(500, 'down'))
    await page.getByLabel('Model').selectOption('talker')
    await say('Are you there?', 'Failed')
    expect(await page.locator('#problem').textContent()).toContain('upstream_unavailable')
    expect(await turns()).toEqual(['Are you there?'])
    lane.answers(chatStream(['Yes.']))
    await pressed('Retry')
    await ended('Done')
    expect(await turns()).toEqual(['Are you there?', 'Yes.'])
    await page.getByLabel('Temperature').fill('9')
    await say('Still?', 'Failed')
    expect(await page.locator('#problem').textContent()).toContain('temperature')
    expect(await turns()).toEqual(['Are you there?', 'Yes.'])
    expect(await message().inputValue()).toBe('Still?')
    expect(watched.takeConsoleErrors()).toEqual([
      expect.stringContaining('502'),
      expect.stringContaining('400'),
    ])
  })

  test('New conversation begins again; an empty message is not sent', async () => {
    upstream.lane('talker').answers(chatStream(['Hello.']))
    const again = page.getByRole('button', { name: 'New conversation' })
    expect(await again.isEnabled()).toBe(false)
    await page.getByLabel('Model').selectOption('talker')
    await say('First')
    await pressed('Send')
    await again.click()
    expect(await turns()).toEqual([])
    expect(await page.evaluate('document.activeElement.id')).toBe('message')
    expect(await fact('source')).toContain('Nothing sent yet')
    await say('Second')
    expect(bodies().map(({ messages }) => messages)).toEqual([
      [{ role: 'user', content: 'First' }],
      [{ role: 'user', content: 'Second' }],
    ])
  })

  test('follows a long answer, unless the reader has scrolled back', async () => {
    const gates = [latch(), latch()]
    const lines = 'A line.\n'.repeat(40)
    const pace = async (piece: number) => await gates[piece - 1]?.opened
    upstream.lane('talker').answers(chatStream([lines, lines, 'End.'], { pace }))
    await page.getByLabel('Model').selectOption('talker')
    await message().fill('Go on')
    await pressed('Send')
    const log = page.getByRole('log')
    const left = () =>
      log.evaluate((box) => Math.round(box.scrollHeight - box.scrollTop - box.clientHeight))
    await expect.poll(async () => (await turns())[1]).toBe(lines)
    expect(await left()).toBe(0)
    await log.evaluate((box) => box.scrollTo(0, 0))
    gates[0]?.open()
    await expect.poll(async () => (await turns())[1]).toBe(lines + lines)
    expect(await left()).toBeGreaterThan(1000)
    gates[1]?.open()
    await ended('Done')
  })

  test('a locked prompt that takes a conversation is listed as a model, with its variables', async () => {
    upstream.lane('talker').answers(chatStream(['This way.']))
    expect(await page.getByLabel('System prompt').isVisible()).toBe(true)
    await page.getByLabel('Model').selectOption('guide')
    expect(await page.getByLabel('System prompt').isVisible()).toBe(false)
    expect(await page.getByLabel('Max tokens').isVisible()).toBe(false)
    expect(await page.getByLabel('Temperature').isVisible()).toBe(true)
    await page.getByLabel('tone').selectOption('warm')
    await say('Where to?')
    expect(await turns()).toEqual(['Where to?', 'This way.'])
    expect(bodies()).toMatchObject([{ model: 'guide', variables: { tone: 'warm' } }])
    const [sent] = upstream.lane('talker').calls.slice(-1)
    expect(JSON.stringify(sent?.body)).toContain('You are a warm guide.')
    await page.getByRole('tab', { name: 'Completion' }).click()
    const offered = page.getByLabel('Prompt', { exact: true }).locator('option')
    expect(await offered.allTextContents()).toEqual([
      'Your own text',
      'haiku (locked)',
      'story (locked)',
    ])
    expect(await page.getByLabel('Model').locator('option').allTextContents()).not.toContain(
      'guide (locked)',
    )
  })

  test('stays when the other tab is opened, and the address leads to it', async () => {
    upstream.lane('talker').answers(chatStream(['Hello.']))
    await page.getByLabel('Model').selectOption('talker')
    await say('Stay')
    await page.getByRole('tab', { name: 'useChat' }).click()
    await page.getByRole('tab', { name: 'Completion' }).click()
    expect(await page.getByRole('tab', { name: 'useChat' }).isVisible()).toBe(false)
    expect(await page.locator('#code').textContent()).toContain('import { stream }')
    expect(page.url()).toBe(`${OWN}/`)
    await page.getByRole('tab', { name: 'Chat', exact: true }).click()
    expect(await turns()).toEqual(['Stay', 'Hello.'])
    expect(page.url()).toBe(`${OWN}/#chat`)
    await page.reload()
    await message().waitFor()
    expect(await page.getByRole('tab', { name: 'Chat', exact: true, selected: true }).count()).toBe(
      1,
    )
  })
})

describe('what an answer costs', () => {
  test.each([1280, 360])('is shown to an operator who is signed in, at %i px', async (width) => {
    await page.setViewportSize({ width, height: 740 })
    await page.goto(`${OWN}/admin`)
    await page.getByLabel('Value of the secret OPERATOR_TOKEN').fill(TOKEN)
    await page.getByRole('button', { name: 'Sign in' }).click()
    await page.locator('#dashboard').waitFor()
    const asked = page.waitForResponse('**/admin/usage?hours=1')
    await page.goto(OWN)
    await (await asked).finished()
    await page.locator('#send:not([disabled])').waitFor()
    const cost = page.locator('#cost-fact')
    upstream.lane('scripted').answers(completionsStream([' once']))
    await write()
    await page.getByLabel('Model').selectOption('scripted')
    await send()
    expect(await cost.innerText()).toMatch(/^Cost\s+\$0\.00019$/)
    await send()
    expect(await fact('source')).toContain(', 12 tokens and $0.00019 savedHit in ')
    expect(await cost.innerText()).toMatch(/^Cost\s+\$0$/)
    expect(await watched.overflow()).toBe(0)
    expect(await watched.accessibilityFaults()).toEqual([])
    // A model without a price.
    await page.getByLabel('Model').selectOption('default')
    for (const _ of ['a miss', 'a hit']) {
      await send()
      expect(await cost.isVisible()).toBe(false)
    }
    expect(await fact('source')).toMatch(/, \d+ tokens savedHit in /)
    // A locked prompt is answered by its own model.
    upstream.lane('talker').answers(chatStream(['This way.']))
    await page.getByRole('tab', { name: 'Chat', exact: true }).click()
    await page.getByLabel('Model').selectOption('guide')
    await page.getByLabel('Your message').fill(`Where to at ${width} px?`)
    await send()
    expect(await cost.innerText()).toMatch(/^Cost\s+\$0\.0019$/)
  })

  test('is not shown to anybody else, and not asked for', async () => {
    upstream.lane('scripted').answers(completionsStream([' once']))
    await write()
    await page.getByLabel('Model').selectOption('scripted')
    for (const _ of ['a miss', 'a hit']) {
      await send()
      expect(await page.locator('#cost-fact').isVisible()).toBe(false)
    }
    expect(await fact('source')).toContain(', 12 tokens savedHit in ')
    expect(watched.requests.filter(({ url }) => url.includes('/admin'))).toEqual([])
  })
})

describe('the code', () => {
  type Case = readonly [string, () => Promise<unknown>]
  const calls: readonly Case[] = [
    ['a plain prompt', () => write('Alice’s "sister" </script> said \'no\' \\ twice <!--')],
    [
      'fields that are set, on two lines',
      async () => {
        await write('First line\nand second')
        await page.getByLabel('Model').selectOption('second')
        await page.getByLabel('Temperature').fill('0.5')
        await page.getByLabel('Max tokens').fill('8')
      },
    ],
    [
      'a locked prompt',
      async () => {
        await page.getByLabel('Prompt', { exact: true }).selectOption('haiku')
        await page.getByLabel('topic').fill(`it's $HOME ${prompts}`)
      },
    ],
  ]
  const cases = calls.flatMap(([name, fill]) =>
    [true, false].map((stream) => [name, stream, fill] as const),
  )

  test.each(cases)(
    '%s, stream %s: the snippets get the same answer as the page',
    async (_, stream, fill) => {
      if (await page.getByLabel('Max tokens').isVisible()) {
        await page.getByLabel('Max tokens').fill('16')
      }
      await fill()
      await page.getByLabel('Stream').setChecked(stream)
      const text = (await send()).trim()
      expect(text).not.toBe('')
      await expectSnippetsToGet(text, stream)
    },
  )

  const chats: readonly Case[] = [
    ['a message', () => page.getByLabel('Your message').fill(`It's "you" \\ ${++prompts}`)],
    [
      'a conversation with a system prompt',
      async () => {
        await page.getByLabel('System prompt').fill('Answer\nbriefly, ‘please’.')
        await page.getByLabel('Model').selectOption('second')
        await page.getByLabel('Temperature').fill('0.5')
        await page.getByLabel('Max tokens').fill('16')
        await page.getByLabel('Your message').fill(`Hello ${++prompts}`)
        await send()
        await page.getByLabel('Your message').fill('And\nthen?')
      },
    ],
  ]
  test.each(chats)('%s: the snippets get the same answer as the page', async (_, fill) => {
    await page.getByRole('tab', { name: 'Chat', exact: true }).click()
    await page.getByLabel('Max tokens').fill('16')
    await fill()
    await send()
    const text = (await page.locator('.turn p').last().textContent()) ?? ''
    expect(text.trim()).not.toBe('')
    await expectSnippetsToGet(text, true)
    const code = await codeOf('useChat')
    expect(code).toContain(`api: '${OWN}/v1/ai-sdk'`)
  })

  async function expectSnippetsToGet(text: string, stream: boolean): Promise<void> {
    expect(joined(await inPage(await codeOf('client.js')))).toBe(bare(text))
    expect(joined(await inPage(await codeOf('fetch')))).toBe(bare(text))
    expect(joined([await inNode(await codeOf('openai JS'))])).toBe(bare(text))
    pasted = await codeOf('web page')
    const visited = await WatchedPage.open(browser)
    await visited.page.goto(`${OTHER}/pasted`)
    const shown = async () => bare((await visited.page.locator('p').textContent()) ?? '')
    await expect.poll(shown, { timeout: 20_000 }).toBe(bare(text))
    visited.expectQuiet(OWN, OTHER)
    await visited.close()
    const printed = await inShell(await codeOf('curl'))
    const objects = stream
      ? printed
          .split('\n\n')
          .filter((event) => event.startsWith('data: {'))
          .map((event) => event.slice(6))
      : [printed]
    const texts = objects.map((object) => {
      const [choice] = JSON.parse(object).choices
      return choice?.text ?? choice?.delta?.content ?? ''
    })
    expect(joined(texts)).toBe(bare(text))
  }

  /** Ignores white space, which is lost when each piece is printed on its own line. */
  const bare = (text: string) => text.replaceAll(/\s/g, '')
  const joined = (texts: readonly string[]) => bare(texts.join(''))

  async function codeOf(tab: string): Promise<string> {
    await page.getByRole('tab', { name: tab }).click()
    await page.getByRole('button', { name: 'Copy', exact: true }).click()
    await page.locator('#copied', { hasText: 'Copied' }).waitFor()
    const code = (await page.locator('#code').textContent()) ?? ''
    expect(await page.evaluate('navigator.clipboard.readText()')).toBe(code)
    expect(code).toContain(OWN)
    return code
  }

  /** Runs the code as the module of a page on another origin, and returns what it logs. */
  async function inPage(code: string): Promise<string[]> {
    const visited = await WatchedPage.open(browser)
    const logged: string[] = []
    visited.page.on('console', (message) => void logged.push(message.text()))
    script = `${code}\nconsole.log('the end')`
    await visited.page.goto(`${OTHER}/`)
    await expect.poll(() => logged.at(-1), { timeout: 20_000 }).toBe('the end')
    visited.expectQuiet(OWN, OTHER)
    await visited.close()
    return logged.slice(0, -1)
  }

  async function inNode(code: string): Promise<string> {
    // Inside node_modules, so that `openai` is resolved.
    const folder = await mkdtemp(join('node_modules', '.snippet-'))
    const file = join(folder, 'snippet.mjs')
    await writeFile(file, code.replaceAll(OWN, workers.url.origin))
    try {
      return (await run(process.execPath, [file])).stdout.replaceAll('undefined', '')
    } finally {
      await rm(folder, { recursive: true })
    }
  }

  async function inShell(code: string): Promise<string> {
    return (await run('sh', ['-c', code.replaceAll(OWN, workers.url.origin)])).stdout
  }
})

test('with Turnstile, the page solves the challenge and the code includes the sitekey', async () => {
  const guarded = await WatchedPage.open(browser)
  await guarded.page.route('https://challenges.cloudflare.com/**', (route) =>
    route.fulfill({ contentType: 'text/javascript', body: widgetStub }),
  )
  await guarded.page.goto(GUARDED)
  await guarded.page.locator('#send:not([disabled])').waitFor()
  expect(guarded.foreignRequests(GUARDED)).toEqual([])
  expect(await guarded.page.locator('#code').textContent()).toContain(
    "createClient({ turnstile: { sitekey: '0x4AAA' } })",
  )
  await guarded.page.getByRole('button', { name: 'Send' }).click()
  await guarded.page.locator('#status', { hasText: 'Done' }).waitFor()
  // The first attempt has no token.
  expect(guarded.takeConsoleErrors()).toEqual([expect.stringContaining('401')])
  expect(guarded.foreignRequests(GUARDED)).toEqual([
    'https://challenges.cloudflare.com/turnstile/v0/api.js?render=explicit',
  ])
  await guarded.close()
})

/** The parts of Cloudflare's script that client.js uses. */
const widgetStub = `
  globalThis.turnstile = {
    render(box, { callback }) {
      setTimeout(callback, 10, 'solved')
      return 'widget'
    },
    remove() {},
  }
`

test('can be used with the keyboard alone', async () => {
  await page.getByLabel('Your prompt').focus()
  await page.keyboard.press('Control+A')
  await page.keyboard.type('By keyboard')
  await page.keyboard.press('Control+Enter')
  await page.locator('#status', { hasText: 'Done' }).waitFor()
  const first = page.getByRole('tab', { name: 'client.js' })
  await first.focus()
  await page.keyboard.press('ArrowRight')
  expect(await page.evaluate('document.activeElement.textContent')).toBe('fetch')
  expect(await page.locator('#code').textContent()).toContain('await fetch(')
  await page.keyboard.press('End')
  expect(await page.locator('#code').textContent()).toContain('<!doctype html>')
  await page.keyboard.press('ArrowRight')
  expect(await first.getAttribute('aria-selected')).toBe('true')
  await page.getByRole('tab', { name: 'Completion' }).focus()
  await page.keyboard.press('ArrowRight')
  await page.getByLabel('Your message').focus()
  await page.keyboard.type('By keyboard')
  await page.keyboard.press('Control+Enter')
  await page.locator('#status', { hasText: 'Done' }).waitFor()
  expect(await page.locator('.turn').count()).toBe(2)
  // The conversation can be scrolled.
  await page.getByRole('log').focus()
  expect(await page.evaluate('document.activeElement.id')).toBe('log')
})

test.each(['light', 'dark'] as const)(
  'is accessible and fits every width, %s',
  async (colorScheme) => {
    const view = await WatchedPage.open(browser, { colorScheme, height: 1000 })
    await view.page.goto(OWN)
    await view.page.locator('#send:not([disabled])').waitFor()
    await view.page.getByLabel('Your prompt').fill('Alice was beginning to get very tired of')
    await view.page.getByLabel('Max tokens').fill('70')
    await view.page.setViewportSize({ width: 360, height: 640 })
    await view.page.getByRole('button', { name: 'Send' }).click()
    await view.page.locator('#status', { hasText: 'Done' }).waitFor()
    const { y = 0 } = (await view.page.locator('#answer').boundingBox()) ?? {}
    expect(y).toBeGreaterThan(0)
    expect(y).toBeLessThan(640)
    await view.page.setViewportSize({ width: 1280, height: 1000 })
    for (const _ of ['a hit', 'another']) {
      await view.page.getByRole('button', { name: 'Send' }).click()
      await view.page.locator('#status', { hasText: 'Done' }).waitFor()
    }
    expect(await view.accessibilityFaults()).toEqual([])
    if (colorScheme === 'light') await view.picture('playground', { full: true })
    for (const width of [360, 768]) {
      await view.page.setViewportSize({ width, height: 740 })
      await expect.poll(() => view.overflow(), { message: `at ${width} px` }).toBe(0)
    }
    await view.page.getByLabel('Your prompt').fill('')
    await view.page.getByRole('button', { name: 'Send' }).click()
    await view.page.getByRole('alert').waitFor()
    expect(await view.accessibilityFaults()).toEqual([])
    await view.page.getByRole('tab', { name: 'Chat', exact: true }).click()
    await view.page.getByLabel('System prompt').fill('Be brief.')
    for (const text of ['Who are you?', `A${'a'.repeat(200)}`]) {
      await view.page.getByLabel('Your message').fill(text)
      await view.page.getByRole('button', { name: 'Send' }).click()
      await view.page.locator('#status', { hasText: 'Done' }).waitFor()
      await view.page.locator('#send:not([disabled])').waitFor()
    }
    for (const width of [1280, 360]) {
      await view.page.setViewportSize({ width, height: 740 })
      await expect.poll(() => view.overflow(), { message: `chat at ${width} px` }).toBe(0)
      expect(await view.accessibilityFaults()).toEqual([])
    }
    view.takeConsoleErrors()
    expect(view.foreignRequests(OWN)).toEqual([])
    await view.close()
  },
)
