// elements.js in Chromium: in a page of another origin with a strict Content-Security-Policy, at a real
// Worker behind a proxy that can go down, with a scripted upstream.
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { gzipSync } from 'node:zlib'
import type { Browser, Locator, Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { launchBrowser, WatchedPage, type WatchOptions } from '../support/browser.ts'
import { CANARY } from '../support/canary.ts'
import { Firefox, firefoxes } from '../support/firefox.ts'
import { expectQuiet } from '../support/quiet.ts'
import { chatStream, latch, refusal, UpstreamServer } from '../support/upstream-server.ts'
import { startWorkers, type Workers } from '../support/workerd.ts'
import { EndpointProxy } from './endpoint-proxy.ts'

const TOKEN = 'an-operator-token-of-32-characters'
const SUMMARY = 'Waves break when the **water** gets shallow. They fold into foam.'

let upstream: UpstreamServer
let workers: Workers
let proxy: EndpointProxy
let pages: Server
let browser: Browser
/** The site's origin, and the Worker's. */
let site: string
let endpoint: string
/** The page as it is to be served, and the headers of the next ones. */
let html = ''
let policy = ''
let watched: WatchedPage

beforeAll(async () => {
  upstream = await UpstreamServer.start()
  pages = createServer(({ url }, response) => {
    if (url === '/markdown.js') {
      const script = readFileSync('src/site/elements/markdown.js')
      response.writeHead(200, { 'content-type': 'text/javascript' }).end(script)
    } else if (url === '/favicon.ico') response.writeHead(204).end()
    else {
      const headers = {
        'content-type': 'text/html; charset=utf-8',
        'content-security-policy': policy,
      }
      response.writeHead(200, headers).end(html)
    }
  }).listen(0, '127.0.0.1')
  await once(pages, 'listening')
  site = `http://localhost:${(pages.address() as AddressInfo).port}`
  proxy = await EndpointProxy.open()
  endpoint = `http://localhost:${proxy.port}`
  workers = await startWorkers({
    config: {
      origins: [site],
      free_prompts: true,
      limits: { messages: 5, chat_chars: 2000 },
      models: [{ id: 'default', upstream: 'model', upstream_model: 'm' }],
      upstreams: [
        { name: 'model', base_url: upstream.url('model'), key: 'UPSTREAM_API_KEY', retries: 0 },
      ],
      prompts: {
        summary: {
          text: 'Sum up: {{page}}',
          variables: { page: { from: 'url', paths: ['/posts/*'], max_chars: 8000 } },
          spend: 'operator',
        },
        helper: {
          chat: true,
          system: 'Answer in the manner of {{who}}.',
          variables: { who: { max_chars: 20 } },
        },
        fill: {
          text: '{{before}}',
          variables: { before: { max_chars: 40 } },
          visitor_may_set: ['suffix'],
        },
      },
    },
    secrets: { UPSTREAM_API_KEY: CANARY, OPERATOR_TOKEN: TOKEN },
    site: true,
  })
  browser = await launchBrowser()
  html = '<!doctype html><title>Waves</title><article>How waves break.</article>'
  lane().answers(chatStream([SUMMARY]))
  await warm('/posts/waves')
})

afterAll(async () => {
  await browser?.close()
  await Promise.all([proxy?.close(), workers?.dispose()])
  pages?.close()
  await upstream?.stop()
})

beforeEach(() => {
  lane().calls.length = 0
})

afterEach(async () => {
  await watched?.close()
  expectQuiet(workers.log)
})

const lane = () => upstream.lane('model')

/** What `npm run warm` does for a page. */
async function warm(path: string): Promise<void> {
  const prompt = { id: 'summary', variables: { page: `${site}${path}` } }
  const response = await fetch(new URL('/v1/completions', workers.url), {
    method: 'POST',
    headers: { authorization: `Bearer ${TOKEN}` },
    body: JSON.stringify({ prompt }),
  })
  expect(response.status).toBe(200)
}

interface VisitOptions extends WatchOptions {
  readonly path?: string
  readonly head?: string
  readonly down?: boolean
}

/** Serves a page with this content. Its policy allows nothing but the Worker. */
function serve(body: string, head = ''): void {
  policy = [
    "default-src 'none'",
    `script-src ${endpoint}`,
    `connect-src ${endpoint}`,
    "style-src 'none'",
    // Firefox reports the icon of the page.
    "img-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ].join('; ')
  html = `<!doctype html><html lang="en"><meta name="viewport" content="width=device-width">
    <meta name="color-scheme" content="light dark"><title>Waves</title>${head}
    <script type="module" src="${endpoint}/elements.js"></script>
    <main><h1>How waves break</h1>${body}<p>After it.</p></main></html>`
}

async function visit(body: string, options: VisitOptions = {}): Promise<Page> {
  const { path = '/posts/waves', head, down = false } = options
  proxy.forwardTo(down ? null : workers.url)
  serve(body, head)
  watched = await WatchedPage.open(browser, options)
  await watched.page.goto(`${site}${path}`)
  return watched.page
}

const isUpgraded = (page: Page) =>
  page.evaluate<boolean>('customElements.get("edge-summary") !== undefined')

/** Waits until there has been a request, and its answer was applied. */
async function settled(page: Page): Promise<void> {
  await expect.poll(() => isUpgraded(page)).toBe(true)
  await page.waitForLoadState('networkidle')
}

/** Where the page's last paragraph begins. What takes no room leaves it in place. */
const topAfter = async (page: Page) => (await page.getByText('After it.').boundingBox())?.y

test('elements.js has at most 6,144 bytes gzipped, and imports client.js only when it is needed', () => {
  const script = readFileSync('dist/site/elements.js')
  expect(gzipSync(script, { level: 9 }).length).toBeLessThanOrEqual(6144)
  expect(`${script}`).not.toMatch(/from"\.|^import"/)
})

test('a server may import elements.js, twice as well', () => {
  const script = `await import('./dist/site/elements.js'); await import('./dist/site/elements.js?2')`
  execFileSync(process.execPath, ['--input-type=module', '--eval', script])
})

describe('<edge-summary>', () => {
  test('shows the stored summary with one GET, under a strict policy', async () => {
    const page = await visit('<edge-summary></edge-summary>')
    await page.getByText('They fold into foam.').waitFor()
    const summary = page.locator('edge-summary')
    expect(await summary.locator('[part=text]').textContent()).toBe(SUMMARY.replaceAll('*', ''))
    expect(await summary.locator('strong').textContent()).toBe('water')
    expect(await summary.getByText('Written by AI').isVisible()).toBe(true)
    const query = new URLSearchParams({
      stream: 'false',
      prompt_id: 'summary',
      'var.page': `${site}/posts/waves`,
    })
    expect(proxy.calls()).toEqual([`GET /v1/completions?${query}`])
    expect(proxy.requests.map(({ path }) => path)).not.toContain('/client.js')
    expect(lane().calls).toEqual([])
    watched.expectQuiet(site, endpoint)
  })

  test('names the page by its canonical link, else without its query and fragment', async () => {
    const canonical = `<link rel="canonical" href="${site}/posts/waves">`
    const page = await visit('<edge-summary></edge-summary>', { path: '/x?y', head: canonical })
    await page.getByText('They fold into foam.').waitFor()
    await watched.close()
    const other = await visit('<edge-summary></edge-summary>', { path: '/posts/waves?utm=1#top' })
    await other.getByText('They fold into foam.').waitFor()
    watched.expectQuiet(site, endpoint)
  })

  test('takes no room when the page has no summary', async () => {
    const without = await topAfter(await visit(''))
    await watched.close()
    const page = await visit('<edge-summary></edge-summary>', { path: '/posts/none' })
    await settled(page)
    expect(await topAfter(page)).toBe(without)
    expect(await page.locator('edge-summary').getAttribute('hidden')).toBe('')
    // Chromium logs every 404.
    expect(watched.takeConsoleErrors()).toEqual([expect.stringContaining('404')])
  })

  test('shows its content until there is a summary, or the text of `fallback`', async () => {
    const own = '<edge-summary><p>About waves.</p></edge-summary>'
    let page = await visit(own, { path: '/posts/none' })
    await settled(page)
    expect(await page.getByText('About waves.').isVisible()).toBe(true)
    expect(await page.getByText('Written by AI').isVisible()).toBe(false)
    await watched.close()
    page = await visit(own)
    await page.getByText('They fold into foam.').waitFor()
    expect(await page.getByText('About waves.').isVisible()).toBe(false)
    await watched.close()
    const fallback = '<edge-summary fallback="No summary yet."></edge-summary>'
    page = await visit(fallback, { path: '/posts/none' })
    await page.getByText('No summary yet.').waitFor()
  })

  test('leaves the page as it is when the Worker is down, and when it goes down', async () => {
    const own = '<edge-summary></edge-summary><edge-summary><p>About waves.</p></edge-summary>'
    let page = await visit(own, { down: true })
    expect(await page.getByText('About waves.').isVisible()).toBe(true)
    expect(await isUpgraded(page)).toBe(false)
    await watched.close()
    page = await visit('')
    await settled(page)
    proxy.forwardTo(null)
    await page.evaluate(`document.querySelector('h1').after(
      Object.assign(document.createElement('edge-summary'), { id: 'late' }))
      addEventListener('edge-error', () => { document.title = 'failed' })`)
    await expect.poll(() => page.title()).toBe('failed')
    expect(await page.locator('#late').isVisible()).toBe(false)
    expect(watched.takeConsoleErrors().join()).not.toMatch(/uncaught/)
  })

  test('follows a site that shows its next page without loading it', async () => {
    const page = await visit('<edge-summary></edge-summary>', { path: '/posts/none' })
    await settled(page)
    await page.evaluate(`history.pushState(null, '', '/posts/waves'); document.title = 'Next'`)
    await page.getByText('They fold into foam.').waitFor()
    // A change that names no other page asks for nothing.
    await page.evaluate(`history.pushState(null, '', '#top'); document.title = 'Top'`)
    await page.evaluate(`history.pushState(null, '', '/posts/none'); document.title = 'Last'`)
    await expect.poll(() => page.locator('edge-summary').isVisible()).toBe(false)
    await settled(page)
    expect(proxy.calls()).toHaveLength(3)
  })

  test('follows its attributes: the page, its words, and the endpoint', async () => {
    const page = await visit(
      '<edge-summary page="https://" endpoint="not an address"></edge-summary>',
    )
    await settled(page)
    const summary = page.locator('edge-summary')
    expect(await summary.isVisible()).toBe(false)
    expect(proxy.calls()).toEqual([])
    watched.expectQuiet(site, endpoint)
    await page.evaluate(`
      const summary = document.querySelector('edge-summary')
      summary.removeAttribute('endpoint')
      summary.setAttribute('page', '/posts/waves')
      summary.setAttribute('label', 'In short')
      summary.setAttribute('note', '')`)
    await page.getByText('They fold into foam.').waitFor()
    expect(await summary.locator('[part=label]').textContent()).toBe('In short')
    expect(await summary.locator('[part=note]').isVisible()).toBe(false)
  })
})

describe('<edge-chat>', () => {
  const HELPER = `<edge-chat prompt="helper" variables='{"who":"a sailor"}' greeting="Ask *me*."></edge-chat>`

  interface Chat {
    readonly page: Page
    readonly input: Locator
    readonly send: Locator
    readonly stop: Locator
    readonly retry: Locator
    readonly log: Locator
    readonly status: Locator
  }

  async function chatIn(body = HELPER, options: VisitOptions = {}): Promise<Chat> {
    const page = await visit(body, options)
    const chat = {
      page,
      input: page.getByRole('textbox', { name: 'Message' }),
      send: page.getByRole('button', { name: 'Send' }),
      stop: page.getByRole('button', { name: 'Stop' }),
      retry: page.getByRole('button', { name: 'Try again' }),
      log: page.getByRole('log', { name: 'Conversation' }),
      status: page.getByRole('status'),
    }
    await chat.input.waitFor()
    return chat
  }

  /** Sends a message with the keyboard. */
  async function say({ input }: Chat, text: string): Promise<void> {
    await input.fill(text)
    await input.press('Enter')
  }

  /** What the turns show, as a screen reader reads it. */
  async function turns({ log }: Chat): Promise<string[]> {
    const texts = await log.locator('[part~=message]:not([hidden])').allTextContents()
    return texts.map((text) => text.trim())
  }

  /** Evaluates code with `log`. */
  const inLog = <T>({ page }: Chat, code: string) =>
    page.evaluate<T>(`(() => {
      const log = document.querySelector('edge-chat').shadowRoot.querySelector('[part=log]')
      return ${code}
    })()`)

  const hasFocus = ({ page }: Chat) =>
    page.evaluate<string | null>(
      'document.activeElement.shadowRoot?.activeElement?.ariaLabel ?? null',
    )

  test('the keyboard reaches the message first, and the conversation once there is one', async () => {
    lane().answers(chatStream(['Aye.']))
    const chat = await chatIn('<edge-chat></edge-chat>')
    await chat.page.keyboard.press('Tab')
    expect(await hasFocus(chat)).toBe('Message')
    await chat.page.keyboard.type('Hi')
    await chat.page.keyboard.press('Enter')
    await expect.poll(() => turns(chat)).toEqual(['You: Hi', 'Assistant: Aye.'])
    await chat.page.keyboard.press('Shift+Tab')
    expect(await hasFocus(chat)).toBe('Conversation')
  })

  test('holds a conversation that arrives in pieces, under a strict policy', async () => {
    const paused = latch()
    const answer = chatStream(['Aye, the **moon', '** pulls.'], { pace: () => paused.opened })
    lane().answers(answer, chatStream(['Twice a day.']))
    const chat = await chatIn()
    await say(chat, 'Why tides?')
    // A mark that is not closed is not shown.
    await expect
      .poll(() => turns(chat))
      .toEqual(['Ask me.', 'You: Why tides?', 'Assistant: Aye, the moon'])
    expect(await chat.log.getAttribute('aria-busy')).toBe('true')
    expect(await chat.log.getAttribute('aria-live')).toBe('polite')
    expect(await chat.stop.isVisible()).toBe(true)
    paused.open()
    await chat.send.waitFor()
    expect((await turns(chat)).at(-1)).toBe('Assistant: Aye, the moon pulls.')
    expect(await chat.log.getAttribute('aria-busy')).toBe('false')
    await say(chat, 'How often?')
    await chat.page.getByText('Twice a day.').waitFor()
    const sent = watched.requests.flatMap(({ body }) => (body === null ? [] : [JSON.parse(body)]))
    expect(sent[1]).toMatchObject({
      model: 'helper',
      variables: { who: 'a sailor' },
      stream: true,
      messages: [
        { role: 'user', content: 'Why tides?' },
        { role: 'assistant', content: 'Aye, the **moon** pulls.' },
        { role: 'user', content: 'How often?' },
      ],
    })
    expect(lane().calls[0]?.text).toContain('Answer in the manner of a sailor.')
    expect(
      await chat.page.getByText('Answers are written by AI and can be wrong.').isVisible(),
    ).toBe(true)
    watched.expectQuiet(site, endpoint)
  })

  test('is used with the keyboard alone', async () => {
    const paused = latch()
    lane().answers(chatStream(['Ebb ', 'and flow.'], { pace: () => paused.opened }))
    const chat = await chatIn()
    const { page } = chat
    await page.keyboard.press('Tab')
    expect(await hasFocus(chat)).toBe('Message')
    await page.keyboard.type('one')
    await page.keyboard.press('Shift+Enter')
    await page.keyboard.type('two')
    await page.keyboard.press('Enter')
    await expect.poll(() => turns(chat)).toEqual(['Ask me.', 'You: one\ntwo', 'Assistant: Ebb'])
    expect(await hasFocus(chat)).toBe('Message')
    await page.keyboard.press('Escape')
    await expect.poll(() => chat.status.textContent()).toBe('Stopped.')
    await expect.poll(() => proxy.requests.at(-1)?.left).toBe(true)
    // From the message back to "Try again", which joins the call that the endpoint has not given up.
    await page.keyboard.press('Shift+Tab')
    await page.keyboard.press('Enter')
    await expect.poll(() => proxy.requests.at(-1)?.left).toBe(false)
    // It has joined when it gets the text so far.
    await expect.poll(() => turns(chat)).toEqual(['Ask me.', 'You: one\ntwo', 'Assistant: Ebb'])
    paused.open()
    await expect
      .poll(() => turns(chat))
      .toEqual(['Ask me.', 'You: one\ntwo', 'Assistant: Ebb and flow.'])
    expect(await hasFocus(chat)).toBe('Message')
    expect(lane().calls).toHaveLength(1)
    watched.expectQuiet(site, endpoint)
  })

  test('keeps the focus in the message field when buttons are clicked', async () => {
    lane().answers(chatStream(['Salt.']))
    const chat = await chatIn()
    await chat.send.click()
    expect(proxy.calls()).toEqual([])
    await chat.input.fill('Why salty?')
    await chat.send.click()
    await chat.page.getByText('Salt.').waitFor()
    expect(await hasFocus(chat)).toBe('Message')
    expect(await chat.input.inputValue()).toBe('')
  })

  test('does not pass what is typed to shortcuts of the page, but Escape and Ctrl+K', async () => {
    const chat = await chatIn()
    await chat.page.evaluate(`globalThis.keys = []
      addEventListener('keydown', ({ key }) => keys.push(key))`)
    await chat.input.focus()
    for (const key of ['/', 's', 'Escape', 'Control+k', 'Tab']) await chat.page.keyboard.press(key)
    expect(await chat.page.evaluate('keys.join(" ")')).toBe('Escape Control k Tab')
  })

  test('says in plain words that the Worker is down, and tries again', async () => {
    lane().answers(chatStream(['Here.']))
    const chat = await chatIn()
    await settled(chat.page)
    proxy.forwardTo(null)
    await say(chat, 'Are you there?')
    await expect
      .poll(() => chat.status.textContent())
      .toBe('There is no connection to the assistant. Try again in a moment.')
    expect(await turns(chat)).toEqual(['Ask me.', 'You: Are you there?'])
    proxy.forwardTo(workers.url)
    await chat.retry.click()
    await chat.page.getByText('Here.').waitFor()
    expect(await chat.status.textContent()).toBe('')
    expect(await chat.retry.isVisible()).toBe(false)
    expect(watched.takeConsoleErrors().join()).not.toContain('uncaught')
  })

  test('shows its content where it cannot be loaded', async () => {
    const page = await visit('<edge-chat>Write to us.</edge-chat>', { down: true })
    expect(await page.getByText('Write to us.').isVisible()).toBe(true)
  })

  test('says when to try again after a rate limit', async () => {
    lane().answers(refusal(429, undefined, { 'retry-after': '40' }), chatStream(['Now.']))
    const chat = await chatIn()
    await say(chat, 'Too often?')
    await expect
      .poll(() => chat.status.textContent())
      .toBe('Too many requests. Try again in 40 seconds.')
    await chat.retry.click()
    await chat.page.getByText('Now.').waitFor()
  })

  test('says that generation is paused, and until when', async () => {
    const pause = async (until: number | null) => {
      const response = await fetch(new URL('/admin/pause', workers.url), {
        method: 'POST',
        headers: { authorization: `Bearer ${TOKEN}` },
        body: JSON.stringify({ until }),
      })
      expect(response.status).toBe(200)
    }
    const chat = await chatIn()
    await pause(Math.floor(Date.now() / 1000) + 7000)
    await say(chat, 'Is it paused?')
    await expect
      .poll(() => chat.status.textContent())
      .toBe('There are no more answers for now. Try again in 2 hours.')
    await pause(null)
  })

  test('says that it is not available where the owner’s settings refuse it', async () => {
    const chat = await chatIn('<edge-chat prompt="unknown"></edge-chat>')
    await chat.page.evaluate(
      `addEventListener('edge-error', ({ detail }) => { document.title = detail.code })`,
    )
    await say(chat, 'Hello?')
    await expect.poll(() => chat.status.textContent()).toBe('This is not available here.')
    expect(await chat.page.title()).toBe('model_not_allowed')
    // The owner can read why.
    expect(watched.takeConsoleErrors().join('\n')).toMatch(/<edge-chat>: .*the model/)
  })

  test('an answer that breaks off stays, and is replaced when it is asked for again', async () => {
    lane().answers(chatStream(['Half an '], { finish: null, done: false }), chatStream(['Whole.']))
    const chat = await chatIn()
    await say(chat, 'Can you finish?')
    await expect.poll(() => chat.status.textContent()).toBe('The answer broke off.')
    expect((await turns(chat)).at(-1)).toBe('Assistant: Half an')
    await chat.retry.click()
    await expect.poll(async () => (await turns(chat)).at(-1)).toBe('Assistant: Whole.')
    expect(await turns(chat)).toHaveLength(3)
  })

  test('forgets the older half of a conversation that the endpoint finds too long', async () => {
    lane().answers(
      ...['one', 'two', 'three', 'four'].map((word) => chatStream([`Answer ${word}.`])),
    )
    const chat = await chatIn()
    for (const word of ['one', 'two', 'three', 'four']) {
      await say(chat, `Question ${word}?`)
      await chat.page.getByText(`Answer ${word}.`).waitFor()
      await chat.send.waitFor()
    }
    const sent = lane().calls.map(({ body }) =>
      (body['messages'] as { content: string }[])
        .slice(1)
        .map(({ content }) => content)
        .join(' '),
    )
    expect(sent.slice(2)).toEqual([
      'Question one? Answer one. Question two? Answer two. Question three?',
      'Question three? Answer three. Question four?',
    ])
    // All of it is still shown.
    expect(await turns(chat)).toHaveLength(9)
    expect(await chat.status.textContent()).toBe('')
  })

  test('gives back a message that is too long', async () => {
    const chat = await chatIn()
    await say(chat, 'x'.repeat(2001))
    await expect
      .poll(() => chat.status.textContent())
      .toBe('This text cannot be sent. Try a shorter one.')
    expect(await chat.input.inputValue()).toHaveLength(2001)
    expect(await turns(chat)).toEqual(['Ask me.'])
    expect(await chat.retry.isVisible()).toBe(false)
  })

  test('forgets a message that is refused, also if the visitor has begun another one', async () => {
    lane().answers(chatStream(['Fine.']))
    const chat = await chatIn()
    const held = latch()
    await chat.page.route('**/v1/chat/completions', async (route) => {
      await held.opened
      await route.continue()
    })
    await say(chat, 'x'.repeat(2001))
    await chat.stop.waitFor()
    await chat.input.fill('Shorter?')
    held.open()
    await expect
      .poll(() => chat.status.textContent())
      .toBe('This text cannot be sent. Try a shorter one.')
    expect(await chat.input.inputValue()).toBe('Shorter?')
    expect(await turns(chat)).toEqual(['Ask me.'])
    await chat.input.press('Enter')
    await expect.poll(() => turns(chat)).toEqual(['Ask me.', 'You: Shorter?', 'Assistant: Fine.'])
  })

  test('keeps the conversation when a message is too long by itself', async () => {
    lane().answers(chatStream(['Answer one.']), chatStream(['Answer two.']))
    const chat = await chatIn()
    await say(chat, 'Is this kept?')
    await chat.page.getByText('Answer one.').waitFor()
    await chat.send.waitFor()
    await say(chat, 'x'.repeat(2001))
    await expect
      .poll(() => chat.status.textContent())
      .toBe('This text cannot be sent. Try a shorter one.')
    await say(chat, 'Is it?')
    await chat.page.getByText('Answer two.').waitFor()
    expect(lane().calls.at(-1)?.body['messages']).toMatchObject([
      { role: 'system' },
      { role: 'user', content: 'Is this kept?' },
      { role: 'assistant', content: 'Answer one.' },
      { role: 'user', content: 'Is it?' },
    ])
  })

  test.each(['de_DE', ''])('tells times in English if the language is %j', async (lang) => {
    lane().answers(refusal(429, undefined, { 'retry-after': '40' }))
    const chat = await chatIn(`<edge-chat texts='${JSON.stringify({ lang })}'></edge-chat>`)
    await say(chat, 'Too often?')
    await expect
      .poll(() => chat.status.textContent())
      .toBe('Too many requests. Try again in 40 seconds.')
    expect(await chat.send.isVisible()).toBe(true)
  })

  test('ends its call when it is removed, and keeps the conversation', async () => {
    const paused = latch()
    lane().answers(chatStream(['First, ', 'second.'], { pace: () => paused.opened }))
    const chat = await chatIn()
    await say(chat, 'Will you stay?')
    await chat.page.getByText('First,').waitFor()
    await chat.page.evaluate(`globalThis.chat = document.querySelector('edge-chat'); chat.remove()`)
    await expect.poll(() => proxy.requests.at(-1)?.left).toBe(true)
    await chat.page.evaluate(`document.querySelector('h1').after(chat); chat.focus()`)
    expect(await turns(chat)).toEqual(['Ask me.', 'You: Will you stay?', 'Assistant: First,'])
    expect(await hasFocus(chat)).toBe('Message')
    paused.open()
    watched.expectQuiet(site, endpoint)
  })

  test('follows its attributes, and speaks another language', async () => {
    const chat = await chatIn('<edge-chat model="default" texts="{"></edge-chat>')
    await settled(chat.page)
    expect(watched.takeConsoleErrors().join()).toContain('the attribute "texts" is not JSON')
    await chat.page.evaluate(`
      const chat = document.querySelector('edge-chat')
      chat.setAttribute('texts', JSON.stringify({ lang: 'de', send: 'Senden', message: 'Nachricht',
        busy: 'Zu viele Anfragen. Wieder {time}.' }))
      chat.setAttribute('placeholder', 'Frag mich')
      chat.setAttribute('greeting', 'Moin')`)
    lane().answers(refusal(429, undefined, { 'retry-after': '50' }))
    const german = chat.page.locator('edge-chat')
    await german.getByPlaceholder('Frag mich').fill('Wann?')
    await german.getByRole('button', { name: 'Senden' }).click()
    await german.getByText('Zu viele Anfragen. Wieder in 50 Sekunden.').waitFor()
    expect(await german.getByText('Moin').isVisible()).toBe(true)
  })

  test('works when elements.js is loaded twice', async () => {
    lane().answers(chatStream(['Twice.']))
    const again = `<script type="module" src="${endpoint}/elements.js?again"></script>`
    const chat = await chatIn(HELPER, { head: again })
    await settled(chat.page)
    await say(chat, 'Once?')
    await chat.page.getByText('Twice.').waitFor()
    watched.expectQuiet(site, endpoint)
  })

  test('shows hostile text as text, of any length', async () => {
    const hostile = [
      '<img src=x onerror="document.title=1"><script>document.title=1</script>',
      '[click](javascript:document.title=1) \u202ereversed ![i](https://evil.example/i.png)',
      `\n\n${'w'.repeat(5000)}\n\n${'**_`[x]('.repeat(600)}\n\nThe end.`,
    ]
    lane().answers(chatStream(hostile))
    const chat = await chatIn(HELPER, { width: 360 })
    await say(chat, 'Attack!')
    await chat.page.getByText('The end.').waitFor()
    await chat.send.waitFor()
    expect((await turns(chat)).at(-1)).toContain('<img src=x onerror="document.title=1"><script>')
    expect(await chat.log.locator('img, script, style').count()).toBe(0)
    expect(await inLog(chat, `[...log.querySelectorAll('a')].map(({ href }) => href)`)).toEqual([
      'https://evil.example/i.png',
    ])
    expect(await chat.page.title()).toBe('Waves')
    expect(await watched.overflow()).toBe(0)
    watched.expectQuiet(site, endpoint)
  })

  test('follows a long answer, unless the reader has scrolled back', async () => {
    const paused = latch()
    const lines = (from: number) =>
      Array.from({ length: 40 }, (_, i) => `Line ${from + i}.\n\n`).join('')
    lane().answers(
      chatStream([lines(0), lines(40), lines(80)], {
        pace: (i) => (i === 2 ? paused.opened : Promise.resolve()),
      }),
    )
    const chat = await chatIn()
    await say(chat, 'Tell me all.')
    await chat.page.getByText('Line 79.').waitFor()
    const scrolled = () =>
      inLog<number>(chat, 'log.scrollHeight - log.clientHeight - log.scrollTop')
    await expect.poll(scrolled).toBeLessThan(2)
    await inLog(chat, 'log.scrollTop = 0')
    paused.open()
    await chat.page.getByText('Line 119.').waitFor()
    await chat.send.waitFor()
    expect(await scrolled()).toBeGreaterThan(1000)
  })
})

describe('<edge-complete>', () => {
  const FIELD = '<label>Text <textarea id="text"></textarea></label>'
  const COMPLETE = `${FIELD}<edge-complete for="text"></edge-complete>`

  interface Editor {
    readonly page: Page
    readonly field: Locator
    readonly button: Locator
    readonly suggestion: Locator
    readonly status: Locator
  }

  async function editorIn(body = COMPLETE, options: VisitOptions = {}): Promise<Editor> {
    const page = await visit(body, options)
    const button = page.getByRole('button', { name: 'Continue writing' })
    await button.waitFor()
    const element = page.locator('edge-complete')
    return {
      page,
      button,
      field: page.getByLabel('Text'),
      suggestion: element.locator('[part=suggestion] [part=text]'),
      status: element.locator('[part=status]'),
    }
  }

  const focused = ({ page }: Editor) => page.evaluate('document.activeElement.id')

  test('suggests how the text goes on, and inserts it so that it can be undone', async () => {
    lane().answers(chatStream([' a ', 'sailor.']))
    const editor = await editorIn()
    const { page, field, suggestion } = editor
    await field.fill('There was')
    await editor.button.click()
    await expect.poll(() => suggestion.textContent()).toBe(' a sailor.')
    expect(await field.inputValue()).toBe('There was')
    expect(await page.getByText('Suggested by AI.').isVisible()).toBe(true)
    await page.evaluate(
      `document.addEventListener('input', ({ target }) => { document.title = target.value })`,
    )
    await page.getByRole('button', { name: 'Insert' }).click()
    expect(await field.inputValue()).toBe('There was a sailor.')
    expect(await page.title()).toBe('There was a sailor.')
    expect(await focused(editor)).toBe('text')
    expect(await suggestion.isVisible()).toBe(false)
    await page.keyboard.press('Control+z')
    expect(await field.inputValue()).toBe('There was')
    watched.expectQuiet(site, endpoint)
  })

  test('is used with the keyboard alone: Ctrl+Space, Tab, Escape', async () => {
    lane().answers(chatStream(['one']), chatStream(['two']))
    const editor = await editorIn()
    const { page, field, suggestion } = editor
    await field.focus()
    await page.keyboard.type('Count: ')
    await page.keyboard.press('Control+Space')
    await expect.poll(() => suggestion.textContent()).toBe('one')
    await page.keyboard.press('Tab')
    expect(await field.inputValue()).toBe('Count: one')
    await page.keyboard.type(', ')
    await page.keyboard.press('Control+Space')
    await expect.poll(() => suggestion.textContent()).toBe('two')
    await page.keyboard.press('Escape')
    expect(await suggestion.isVisible()).toBe(false)
    expect(await field.inputValue()).toBe('Count: one, ')
    expect(await focused(editor)).toBe('text')
    // Without a suggestion, Tab leaves the field.
    await page.keyboard.press('Tab')
    expect(await focused(editor)).toBe('')
    watched.expectQuiet(site, endpoint)
  })

  test('continues at the cursor, with a locked prompt and the text behind it', async () => {
    lane().answers(chatStream(['MIDDLE']))
    const body = `<edge-complete prompt="fill" suffix max-chars="10"><label>Text <input id="text"></label></edge-complete>`
    const editor = await editorIn(body)
    const { page, field } = editor
    await field.fill('0123456789 before 🌊after')
    await page.evaluate(`document.querySelector('input').setSelectionRange(20, 20)`)
    await editor.button.click()
    await page.getByRole('button', { name: 'Insert' }).click()
    expect(await field.inputValue()).toBe('0123456789 before 🌊MIDDLEafter')
    const sent = watched.requests.flatMap(({ body }) => (body === null ? [] : [JSON.parse(body)]))
    expect(sent).toMatchObject([
      { prompt: { id: 'fill', variables: { before: '9 before 🌊' } }, suffix: 'after' },
    ])
  })

  test('drops a suggestion, and its call, when the visitor writes on', async () => {
    const paused = latch()
    lane().answers(chatStream(['Old ', 'text.'], { pace: () => paused.opened }))
    const editor = await editorIn()
    const { page, field, suggestion } = editor
    await field.fill('Slow')
    await editor.button.click()
    await expect.poll(() => suggestion.textContent()).toBe('Old ')
    await field.press('x')
    expect(await suggestion.isVisible()).toBe(false)
    await editor.button.waitFor()
    await expect.poll(() => proxy.requests.at(-1)?.left).toBe(true)
    // Nothing is sent for a field without text.
    await field.fill(' ')
    await editor.button.click()
    expect(await focused(editor)).toBe('text')
    expect(proxy.calls()).toHaveLength(1)
    paused.open()
    // Stop keeps what has arrived.
    lane().calls.length = 0
    const second = latch()
    lane().answers(chatStream(['New ', 'text.'], { pace: () => second.opened }))
    await field.fill('Slower')
    await editor.button.click()
    await expect.poll(() => suggestion.textContent()).toBe('New ')
    await page.getByRole('button', { name: 'Stop' }).click()
    await editor.button.waitFor()
    await page.getByRole('button', { name: 'Insert' }).click()
    expect(await field.inputValue()).toBe('SlowerNew ')
    second.open()
    watched.expectQuiet(site, endpoint)
  })

  test('takes the first field for text that it contains, and no other input', async () => {
    lane().answers(chatStream([' tides']))
    const editor = await editorIn(`<edge-complete>
      <input type="hidden" value="secret"><input type="password" value="secret" aria-label="Password">
      <input type="email" value="secret" aria-label="Address"><input type="checkbox" aria-label="Box">
      <label>Text <input id="text" type="search"></label></edge-complete>`)
    const { page, field, suggestion } = editor
    await field.fill('Search for')
    await editor.button.click()
    await expect.poll(() => suggestion.textContent()).toBe(' tides')
    await page.getByRole('button', { name: 'Insert' }).click()
    expect(await field.inputValue()).toBe('Search for tides')
    const sent = watched.requests.flatMap(({ body }) => (body === null ? [] : [JSON.parse(body)]))
    expect(sent).toMatchObject([{ prompt: 'Search for' }])
    watched.expectQuiet(site, endpoint)
  })

  test.each([
    ['does not exist', 'for="typo"', 'typo'],
    ['is a password', 'for="text"', 'text'],
    ['has no id, and is not inside', '', ''],
  ])('tells its owner that the field %s, and sends nothing', async (_, attribute, id) => {
    const editor = await editorIn(
      `<label>Text <input id="text" type="password"></label><edge-complete ${attribute}></edge-complete>`,
    )
    await editor.field.fill('secret')
    await editor.button.click()
    expect(watched.takeConsoleErrors()).toEqual([
      `warning: <edge-complete>: cannot find the text field "${id}"`,
    ])
    await editor.field.press('Control+Space')
    expect(await editor.button.isVisible()).toBe(true)
    expect(proxy.calls()).toEqual([])
  })

  test('says what failed, leaves the field alone, and works again', async () => {
    lane().answers(chatStream([' again.']))
    const editor = await editorIn()
    const { field, suggestion } = editor
    await settled(editor.page)
    proxy.forwardTo(null)
    await field.fill('Down')
    await editor.button.click()
    await expect.poll(() => editor.status.textContent()).toContain('There is no connection')
    expect(await field.inputValue()).toBe('Down')
    proxy.forwardTo(workers.url)
    await editor.button.click()
    await expect.poll(() => suggestion.textContent()).toBe(' again.')
    expect(await editor.status.textContent()).toBe('')
  })

  test('ends its call when it is removed, and does not follow the field any more', async () => {
    const paused = latch()
    lane().answers(chatStream(['Gone ', 'soon.'], { pace: () => paused.opened }))
    const editor = await editorIn()
    await editor.field.fill('Remove me')
    await editor.button.click()
    await expect.poll(() => editor.suggestion.textContent()).toBe('Gone ')
    await editor.page.evaluate(`document.querySelector('edge-complete').remove()`)
    await expect.poll(() => proxy.requests.at(-1)?.left).toBe(true)
    await editor.field.press('Control+Space')
    expect(proxy.calls()).toHaveLength(1)
    paused.open()
    watched.expectQuiet(site, endpoint)
  })

  test('starts over when it is put back', async () => {
    const paused = latch()
    lane().answers(
      chatStream(['Gone ', 'soon.'], { pace: () => paused.opened }),
      chatStream(['Back.']),
    )
    const editor = await editorIn()
    await editor.field.fill('Move me')
    await editor.button.click()
    await expect.poll(() => editor.suggestion.textContent()).toBe('Gone ')
    // Another text: the same one would join the call, if the endpoint has not given it up yet.
    await editor.page.evaluate(`
      document.body.append(document.querySelector('edge-complete'))
      document.querySelector('textarea').value = 'I have moved'`)
    expect(await editor.suggestion.isVisible()).toBe(false)
    await editor.field.press('Control+Space')
    await expect.poll(() => editor.suggestion.textContent()).toBe('Back.')
    paused.open()
    watched.expectQuiet(site, endpoint)
  })
})

test('keep their client, with its visitor token, until their endpoint changes', async () => {
  const page = await visit('<edge-chat prompt="helper"></edge-chat>')
  const isKept = await page.evaluate(`(async () => {
    const chat = document.querySelector('edge-chat')
    await customElements.whenDefined('edge-chat')
    const clients = [await chat.client()]
    for (const name of ['placeholder', 'greeting', 'endpoint', 'turnstile']) {
      chat.setAttribute(name, location.origin)
      clients.push(await chat.client())
    }
    return clients.slice(1).map((client, i) => client === clients[i])
  })()`)
  expect(isKept).toEqual([true, true, false, false])
})

test('are accessible outside of the landmarks of the page, in its grey text', async () => {
  const page = await visit('<edge-summary></edge-summary><edge-chat prompt="helper"></edge-chat>')
  // As in VitePress, whose themes have places for them beside <main>.
  await page.evaluate(`
    const sheet = new CSSStyleSheet()
    sheet.replaceSync('body { color: #555 }')
    document.adoptedStyleSheets = [sheet]
    document.body.append(...document.querySelectorAll('edge-summary, edge-chat'))`)
  await page.getByRole('region', { name: 'Summary' }).getByText('They fold into foam.').waitFor()
  expect(await page.getByRole('region', { name: 'Conversation' }).count()).toBe(1)
  expect(await watched.accessibilityFaults()).toEqual([])
})

describe.each(['light', 'dark'] as const)('in %s colours', (colorScheme) => {
  test.each([1280, 360])(
    'all elements fit and are accessible at a width of %i pixels',
    async (width) => {
      const answer =
        'Tides follow the **moon**:\n\n1. It pulls the sea.\n2. The earth turns below.\n\n```\nhigh, low, high, low\n```\n\nMore at https://example.com/tides.'
      lane().answers(
        chatStream([', and the tide came in.']),
        chatStream([answer]),
        refusal(429, undefined, { 'retry-after': '40' }),
      )
      const page = await visit(
        `<edge-summary></edge-summary>
       <edge-chat prompt="helper" variables='{"who":"${colorScheme} ${width}"}' greeting="Ask me about the sea."></edge-chat>
       <label>Text <textarea id="text"></textarea></label><edge-complete for="text"></edge-complete>`,
        { colorScheme, width, height: 900 },
      )
      // The page's own styles, which no policy refuses when they are set like this.
      await page.evaluate(`
        const sheet = new CSSStyleSheet()
        sheet.replaceSync('body { max-width: 40rem; margin: auto; padding: 0 1rem 1rem; font: 1rem/1.5 system-ui, sans-serif }')
        document.adoptedStyleSheets = [sheet]`)
      await page.getByText('They fold into foam.').waitFor()
      expect(await watched.accessibilityFaults()).toEqual([])
      await page.getByLabel('Text').fill(`The ${colorScheme} moon rose over ${width} waves`)
      await page.getByRole('button', { name: 'Continue writing' }).click()
      await page.getByText(', and the tide came in.').waitFor()
      const message = page.getByRole('textbox', { name: 'Message' })
      await message.fill('Why are there tides?')
      await message.press('Enter')
      await page.getByText('More at').waitFor()
      await page.getByRole('button', { name: 'Send' }).waitFor()
      await message.fill('And why twice?')
      await message.press('Enter')
      await page.getByText('Try again in 40 seconds.').waitFor()
      expect(await watched.accessibilityFaults()).toEqual([])
      expect(await watched.overflow()).toBe(0)
      if (colorScheme === 'light' && width === 1280) {
        await watched.picture('elements', { full: true })
      }
    },
  )
})

describe('a model’s text', () => {
  /** Each text, and the HTML of the nodes that show it. `dir="auto"` is left out. */
  const texts: readonly (readonly [string, string])[] = [
    ['one\ntwo\n\nthree', '<p>one\ntwo</p><p>three</p>'],
    ['# A *b*', '<p><strong>A <em>b</em></strong></p>'],
    [
      '**a** __b__ *c* _d_ `e*f*`',
      '<p><strong>a</strong> <strong>b</strong> <em>c</em> <em>d</em> <code>e*f*</code></p>',
    ],
    ['2 * 3 * 4, a*b*c, snake_case_name, **', '<p>2 * 3 * 4, a*b*c, snake_case_name, **</p>'],
    [
      '- a\n- b\n  more\n\n3. c\n4) d',
      '<ul><li>a</li><li>b\n  more</li></ul><ol start="3"><li>c</li><li>d</li></ol>',
    ],
    [
      '```js\nif (a < b) {\n\n}\n```\nafter',
      '<pre><code>if (a &lt; b) {\n\n}</code></pre><p>after</p>',
    ],
    ['````\n```\n````', '<pre><code>```</code></pre>'],
    ['```\nnot closed', '<pre><code>not closed</code></pre>'],
    [
      '<img src=x onerror=alert(1)><script>alert(1)</script>',
      '<p>&lt;img src=x onerror=alert(1)&gt;&lt;script&gt;alert(1)&lt;/script&gt;</p>',
    ],
    [
      '[x](javascript:alert) [y](data:text/html,z)',
      '<p>x (javascript:alert) y (data:text/html,z)</p>',
    ],
    [
      '![x](https://evil.example/?q=secret)',
      '<p>x (<a href="https://evil.example/?q=secret" rel="nofollow noopener" target="_blank">https://evil.example/?q=secret</a>)</p>',
    ],
    [
      'see https://a.example/b?c=d#e.',
      '<p>see <a href="https://a.example/b?c=d#e" rel="nofollow noopener" target="_blank">https://a.example/b?c=d#e</a>.</p>',
    ],
    [
      '[bank](//evil.example)',
      '<p>bank (<a href="http://evil.example/" rel="nofollow noopener" target="_blank">http://evil.example/</a>)</p>',
    ],
    [
      '[post](/posts/waves)',
      '<p><a href="SITE/posts/waves" rel="nofollow noopener" target="_blank">post</a></p>',
    ],
    ['https://example.com@evil.example/', '<p>https://example.com@evil.example/</p>'],
    ['https://\u0430.example', '<p>https://\u0430.example</p>'],
    ['\u202eevil\u202c', '<p>\u202eevil\u202c</p>'],
    ['', ''],
  ]

  async function inPage<T>(code: string): Promise<T> {
    policy = ''
    html = '<!doctype html><title>.</title>'
    watched = await WatchedPage.open(browser)
    await watched.page.goto(site)
    return await watched.page.evaluate<T>(
      `import('/markdown.js').then(({ showText }) => { const target = document.createElement('div'); ${code} })`,
    )
  }

  test('is shown as a safe subset of Markdown', async () => {
    const shown = await inPage<
      string[]
    >(`return ${JSON.stringify(texts.map(([text]) => text))}.map((text) => {
      showText(target, text)
      return target.innerHTML.replaceAll(' dir="auto"', '')
    })`)
    const expected = texts.map(([, nodes]) => nodes.replace('SITE', site))
    expect(shown).toEqual(expected)
  })

  test('is the same in the end however it arrives, and finished blocks stay in place', async () => {
    const text = texts
      .map(([each]) => each)
      .filter((each) => !each.includes('not closed'))
      .join('\n\n')
    const [whole, pieces, kept] = await inPage<[string, string, boolean]>(`
      const text = ${JSON.stringify(text)}
      for (let end = 1; end < 40; end += 1) showText(target, text.slice(0, end), false)
      const first = target.firstChild
      for (let end = 40; end < text.length; end += 1) showText(target, text.slice(0, end), false)
      showText(target, text)
      const other = document.createElement('div')
      showText(other, text)
      return [other.innerHTML, target.innerHTML, target.firstChild === first]`)
    expect(pieces).toBe(whole)
    expect(kept).toBe(true)
  })

  test('does not flicker: a mark that is not closed yet is not shown', async () => {
    const shown = await inPage<
      string[]
    >(`return ['a **', 'a **b', 'a **b*', 'a \`c'].map((text) => {
      showText(target, text, false)
      return target.textContent
    })`)
    expect(shown).toEqual(['a ', 'a b', 'a b', 'a c'])
  })

  test('takes no time, however it is made', async () => {
    const hostile = [
      '*a ',
      '`',
      '[',
      '[a](',
      '**a',
      '_',
      'https://a',
      '- ',
      '1. ',
      '#',
      '> ',
      '\n',
      '**_',
    ]
    // The shortest of three times: any single one may include that of other processes.
    const slow = await inPage<unknown[]>(`return ${JSON.stringify(hostile)}.map((piece) => {
        const times = [1, 2, 3].map(() => {
          const start = performance.now()
          showText(target, piece.repeat(10_000 / piece.length))
          return performance.now() - start
        })
        return [piece, Math.min(...times)]
      }).filter(([, ms]) => ms > 500)`)
    expect(slow).toEqual([])
  })
})

test.each(firefoxes)('all elements work in Firefox: %s', async (path) => {
  lane().answers(chatStream(['Aye, the **moon** ', 'pulls.']), chatStream(['and foam.']))
  proxy.forwardTo(workers.url)
  serve(`<edge-summary></edge-summary><edge-chat prompt="helper" variables='{"who":"a fox"}'></edge-chat>
    <textarea id="text">Firefox: waves </textarea><edge-complete for="text"></edge-complete>`)
  const firefox = await Firefox.launch(path)
  try {
    await firefox.goto(`${site}/posts/waves`)
    const part = (name: string, part: string) =>
      firefox.text(
        `document.querySelector('${name}').shadowRoot.querySelector('${part}').textContent`,
      )
    await expect.poll(() => part('edge-summary', '[part=text]')).toContain('They fold into foam.')
    await firefox.text(`document.querySelector('edge-chat').focus()`)
    await firefox.press(...'Why tides?', '\uE006')
    await expect
      .poll(() => part('edge-chat', '[part=log]'))
      .toBe('You: Why tides?Assistant: Aye, the moon pulls.')
    await firefox.text(
      `document.querySelector('#text').focus(), document.querySelector('#text').setSelectionRange(99, 99)`,
    )
    await firefox.control(' ')
    await expect.poll(() => part('edge-complete', '[part=text]')).toBe('and foam.')
    await firefox.press('\uE004')
    const field = () => firefox.text(`document.querySelector('#text').value`)
    await expect.poll(field).toBe('Firefox: waves and foam.')
    await firefox.control('z')
    await expect.poll(field).toBe('Firefox: waves ')
    expect(firefox.errors).toEqual([])
  } finally {
    await firefox.close()
  }
})
