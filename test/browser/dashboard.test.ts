// The dashboard in Chromium, served by workerd, with figures of real traffic. The Worker's clock starts
// a day in the past and is advanced, so that there is a day of traffic to show.
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Browser, Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { launchBrowser, WatchedPage } from '../support/browser.ts'
import { CANARY } from '../support/canary.ts'
import type { Client, Reply } from '../support/client.ts'
import { ORIGIN } from '../support/client.ts'
import { completionsStream, refusal, UpstreamServer } from '../support/upstream-server.ts'
import { startWorkers, type Workers } from '../support/workerd.ts'

const OWN = 'http://localhost:8787'
const TOKEN = 'an-operator-token-of-32-characters'
const HOUR_MS = 3_600_000

/** The Worker with a clock that can be advanced. It begins with an hour, so that none ends during the tests. */
const main = `
  import worker from './worker.js'
  export * from './worker.js'
  const { now } = Date
  let offset = -23 * ${HOUR_MS} - ${Date.now() % HOUR_MS}
  Date.now = () => now() + offset
  export default {
    ...worker,
    fetch(request, ...rest) {
      const { pathname, search } = new URL(request.url)
      if (pathname !== '/advance') return worker.fetch(request, ...rest)
      offset += Number(search.slice(1))
      return new Response()
    },
  }
`

/** The owner's site. */
const site = { origin: '', text: 'A text' }
const siteServer = createServer((_, response) => {
  response.setHeader('content-type', 'text/html').end(`<main>${site.text}</main>`)
})

let upstream: UpstreamServer
let workers: Workers
let client: Client
let browser: Browser
let watched: WatchedPage
let page: Page

beforeAll(async () => {
  await new Promise<void>((resolve) => siteServer.listen(0, '127.0.0.1', resolve))
  site.origin = `http://localhost:${(siteServer.address() as AddressInfo).port}`
  upstream = await UpstreamServer.start()
  upstream.lane('broken').answers(refusal(500))
  const own = { wire: 'completions', key: 'UPSTREAM_API_KEY', retries: 0 } as const
  const price = { input: 40, output: 160 }
  const config = {
    origins: [ORIGIN, site.origin],
    free_prompts: true,
    models: [
      { id: 'default', upstream: 'main', upstream_model: 'm', price },
      { id: 'careful', upstream: 'main', upstream_model: 'n', price },
      { id: 'broken', upstream: 'broken', upstream_model: 'm', price },
    ],
    upstreams: [
      { name: 'main', base_url: upstream.url('main'), ...own },
      { name: 'broken', base_url: upstream.url('broken'), ...own },
    ],
    prompts: {
      about: {
        text: 'Sum up {{page}}',
        variables: { page: { from: 'url', paths: ['/posts/*'], max_chars: 200 } },
        spend: 'operator',
      },
      ask: {
        text: '{{passages}} {{question}}',
        variables: { question: { max_chars: 80 }, passages: { from: 'site', about: 'question' } },
      },
      haiku: { text: 'A haiku about {{topic}}', variables: { topic: { max_chars: 40 } } },
      summary: { text: 'Sum up {{topic}}', variables: { topic: { max_chars: 40 } } },
    },
    defaults: { max_tokens: 64 },
    budget: { tokens_per_day: 5000, tokens_per_visitor_per_day: 5000, usd_per_day: 5 },
  }
  const secrets = { UPSTREAM_API_KEY: CANARY, OPERATOR_TOKEN: TOKEN }
  workers = await startWorkers({ config, secrets, main, site: true })
  client = workers.client()
  browser = await launchBrowser({ ports: { 'localhost:8787': Number(workers.url.port) } })
})

afterAll(async () => {
  await browser?.close()
  await workers?.dispose()
  await upstream?.stop()
  siteServer.close()
})

beforeEach(async () => {
  watched = await WatchedPage.open(browser)
  page = watched.page
  await page.goto(`${OWN}/admin`)
})

afterEach(async () => {
  watched.expectQuiet(OWN)
  await watched.close()
})

async function signIn(on: Page = page, token = TOKEN): Promise<void> {
  await on.getByLabel('Value of the secret OPERATOR_TOKEN').fill(token)
  await on.getByRole('button', { name: 'Sign in' }).click()
  if (token === TOKEN) await on.locator('#dashboard').waitFor()
}

const text = async (id: string) => (await page.locator(`#${id}`).textContent()) ?? ''
const numberIn = (words: string) => Number(words.replaceAll(/[^\d.]/g, ''))

/** The figures that the page should show. */
async function usage(hours = 24) {
  const { text: body } = await client.send({
    path: `/admin/usage?hours=${hours}`,
    headers: { authorization: `Bearer ${TOKEN}` },
  })
  return JSON.parse(body) as {
    budget: { spent: number; reserved: number; paused_until: number | null }
    hours: {
      requests: number
      tokens_saved: number
      errors: Record<string, number>
      usd_by?: Record<'prompts' | 'models' | 'origins', Record<string, number>>
    }[]
    failures: Record<'upstream' | 'model' | 'code' | 'hint' | 'request_id', string>[]
  }
}

/** Takes longer than what the page does with a response that has arrived. */
const ROUND_TRIP = 'fetch("/health").then((response) => response.text())'

describe('signing in', () => {
  test('a wrong token shows an error, and the right one is stored in this tab only', async () => {
    expect(await page.evaluate('document.activeElement.id')).toBe('token')
    await signIn(page, 'wrong')
    const problem = page.getByRole('alert')
    await problem.waitFor()
    expect(await problem.textContent()).toContain('wrangler secret put OPERATOR_TOKEN')
    expect(watched.takeConsoleErrors()).toEqual([expect.stringContaining('401')])
    expect(await page.locator('#dashboard').isVisible()).toBe(false)
    await signIn(page, 'not a token ✗')
    expect(await problem.textContent()).toContain('ASCII')
    await signIn()
    expect(await page.evaluate('[...Object.values(sessionStorage)]')).toEqual([TOKEN])
    expect(await page.evaluate('localStorage.length + document.cookie.length')).toBe(0)
    await page.reload()
    await page.locator('#dashboard').waitFor()
    await page.getByRole('button', { name: 'Sign out' }).click()
    expect(await page.evaluate('sessionStorage.length')).toBe(0)
    expect(await page.locator('#dashboard').isVisible()).toBe(false)
    const urls = watched.requests.map(({ url }) => url)
    expect(urls.filter((url) => url.includes(TOKEN))).toEqual([])
  })

  /** Holds the next request to this path. @param json its response; otherwise the Worker's own */
  async function holdOne(path: string, json?: object) {
    const [arrived, released] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
    await page.route(
      path,
      async (route) => {
        arrived.resolve()
        await released.promise
        await (json === undefined ? route.continue() : route.fulfill({ json }))
      },
      { times: 1 },
    )
    return { arrived: arrived.promise, release: released.resolve }
  }

  test('signing out discards figures that are still being loaded', async () => {
    await signIn()
    const held = await holdOne('**/admin/usage*')
    await page.getByRole('button', { name: 'Refresh' }).click()
    await held.arrived
    await page.getByRole('button', { name: 'Sign out' }).click()
    held.release()
    await page.locator('#dashboard[aria-busy="false"]').waitFor({ state: 'attached' })
    expect(await page.locator('#sign-in').isVisible()).toBe(true)
    expect(await page.locator('#dashboard').isVisible()).toBe(false)
    expect(await page.evaluate('sessionStorage.length')).toBe(0)
  })

  test('signing out discards the result of a pause', async () => {
    await signIn()
    const held = await holdOne('**/admin/pause', { paused_until: null })
    await page.getByRole('button', { name: 'Pause spending' }).click()
    await held.arrived
    await page.getByRole('button', { name: 'Sign out' }).click()
    const paused = page.waitForResponse('**/admin/pause')
    const loads = () => watched.requests.filter(({ url }) => url.includes('/admin/usage')).length
    const before = loads()
    held.release()
    await (await paused).finished()
    await page.evaluate(ROUND_TRIP)
    expect(loads()).toBe(before)
    expect(await page.locator('#sign-in-problem').isVisible()).toBe(false)
  })
})

describe('states', () => {
  test('shows that it is loading, then that there are no requests', async () => {
    const held = Promise.withResolvers<void>()
    await page.route('**/admin/usage*', async (route) => {
      await held.promise
      await route.continue()
    })
    await page.getByLabel('Value of the secret OPERATOR_TOKEN').fill(TOKEN)
    await page.getByRole('button', { name: 'Sign in' }).click()
    await page.getByText('Loading…').waitFor()
    expect(await watched.accessibilityFaults()).toEqual([])
    held.resolve()
    await page.getByText('No requests in this range yet.').waitFor()
    expect(await page.locator('#figures').isVisible()).toBe(false)
    expect(await text('ratio')).toBe('–')
    expect(await text('token-caption')).toBe('0 of 5,000 tokens')
    expect(await text('resets')).toMatch(/^resets in \d/)
    expect(await watched.accessibilityFaults()).toEqual([])
  })

  test('shows an error if the Worker is unreachable, and recovers', async () => {
    await page.route('**/admin/usage*', (route) => route.abort())
    await page.getByLabel('Value of the secret OPERATOR_TOKEN').fill(TOKEN)
    await page.getByRole('button', { name: 'Sign in' }).click()
    await page.getByRole('alert').waitFor()
    expect(await text('problem-text')).toBe('Could not reach the Worker.')
    expect(await watched.accessibilityFaults()).toEqual([])
    expect(watched.takeConsoleErrors()).toEqual([expect.stringContaining('net::ERR_FAILED')])
    await page.unroute('**/admin/usage*')
    await page.getByRole('button', { name: 'Try again' }).click()
    await page.locator('#dashboard').waitFor()
    expect(await page.locator('#problem').isHidden()).toBe(true)
  })
})

describe('after a day of traffic', () => {
  /** The number of requests in each hour; the last one is the current hour. */
  const day = [3, 2, 2, 3, 3, 4, 5, 7, 9, 12, 14, 13, 15, 17, 16, 14, 12, 13, 11, 9, 8, 7, 5, 6]

  beforeAll(async () => {
    for (const [hour, requests] of day.entries()) {
      if (hour > 0) await client.send({ path: `/advance?${HOUR_MS}` })
      // The model is slower under load.
      const ms = 15 + requests * 8
      upstream.lane('main').answers(async (...call) => {
        await new Promise((resolve) => setTimeout(resolve, ms))
        await completionsStream([' once', ' upon', ' a time'])(...call)
      })
      const all: Promise<Reply>[] = []
      for (let i = 0; i < requests; i += 1) all.push(ask(hour, i))
      await Promise.all(all)
    }
  })

  /** The i-th request of an hour; most repeat earlier ones. */
  function ask(hour: number, i: number): Promise<Reply> {
    if (hour % 5 === 3 && i === 0) return client.complete({ prompt: 'x', model: 'broken' })
    if (hour % 4 === 1 && i === 1) return client.complete({ prompt: 'x', max_tokens: 100_000 })
    if (i % 5 === 0) return client.complete({ prompt: `new at ${hour}: ${i}` })
    // Two identical concurrent requests share one call.
    if (i % 5 === 1 || i % 5 === 2) {
      const topic = `hour ${hour}`
      return client.complete({ prompt: { id: 'haiku', variables: { topic } } })
    }
    if (i % 5 === 3) return client.complete({ prompt: 'the front page', model: 'careful' })
    const topic = ['the sea', 'the news'][hour % 2] ?? ''
    return client.complete({ prompt: { id: 'summary', variables: { topic } } })
  }

  test('tiles, bar and tables show the figures of the Worker', async () => {
    await signIn()
    const { budget, hours } = await usage()
    expect(hours).toHaveLength(day.length)
    const sum = (of: (hour: (typeof hours)[number]) => number) =>
      hours.reduce((all, hour) => all + of(hour), 0)
    expect(numberIn(await text('requests'))).toBe(sum((hour) => hour.requests))
    expect(sum((hour) => hour.requests)).toBe(day.reduce((a, b) => a + b))
    expect(numberIn(await text('failed')) + numberIn(await text('failed-note'))).toBe(
      sum((hour) => Object.values(hour.errors).reduce((a, b) => a + b, 0)),
    )
    expect(await text('ratio')).toMatch(/^[1-9][\d.]*%$/)
    expect(await text('saved')).not.toBe('0')
    expect(numberIn((await text('token-caption')).split(' of ')[0] ?? '')).toBe(budget.spent)
    expect(budget.spent).toBeGreaterThan(0)
    const width = await page.evaluate('document.getElementById("meter-spent").style.width')
    expect(width).toBe(`${Number((budget.spent / 50).toFixed(2))}%`)
    expect(await page.locator('#meter').getAttribute('aria-label')).toMatch(/spent.*reserved.*left/)
    expect(await page.locator('#codes').innerText()).toMatch(/upstream_unavailable\s+\d/)
    expect(await page.locator('#codes').innerText()).not.toContain('invalid_value')
    expect(await page.locator('#visitor-codes').innerText()).toMatch(/invalid_value\s+\d/)
    expect(await page.locator('#origins tbody th').allInnerTexts()).toEqual([ORIGIN])
    expect(await page.locator('#prompts tbody th').allInnerTexts()).toEqual(['haiku', 'summary'])
    expect(await page.locator('#models tbody th').first().innerText()).toBe('default')
    for (const [field, head, free] of [
      ['prompts', 'Prompt', []],
      ['models', 'Model', ['broken']],
      ['origins', 'Origin', []],
    ] as const) {
      const cost = (name: string) => sum(({ usd_by }) => usd_by?.[field][name] ?? 0)
      expect(await page.locator(`#${field} thead th`).allInnerTexts()).toEqual([
        head,
        'Requests',
        'USD',
      ])
      const rows = await page.locator(`#${field} tbody tr`).all()
      const shown = await Promise.all(
        rows.map(async (row) => [
          await row.locator('th').innerText(),
          await row.locator('td').last().innerText(),
        ]),
      )
      const costs = shown.map(([name = '']) => cost(name))
      expect(costs).toEqual(costs.toSorted((a, b) => b - a))
      expect(shown.filter(([, usd]) => usd === '–').map(([name]) => name)).toEqual(free)
      for (const [name = '', usd = ''] of shown) {
        if (usd !== '–') expect(numberIn(usd)).toBeCloseTo(cost(name), 4)
      }
    }
    for (const id of ['today', 'yesterday', 'thirty-days', 'saved-cost']) {
      expect(await text(id)).toMatch(/^\$\d[\d.]*$/)
      expect(await text(`${id}-note`)).toMatch(/^[\d.]+[kKM]? tokens$/)
    }
    expect(await text('usd-caption')).toBe(`${await text('today')} of $5.00`)
    const top = async (id: string) => (await page.locator(`#${id}`).boundingBox())?.y
    expect(await top('today')).toBeLessThan((await top('usd-caption')) ?? 0)
    expect(await top('usd-caption')).toBeLessThan((await top('token-caption')) ?? 0)
    expect(await page.locator('#no-prices').isVisible()).toBe(false)
    expect(await page.locator('#usd-meter').getAttribute('aria-label')).toMatch(
      /^\$[\d.]+ of \$5.00 spent$/,
    )
    expect(await text('health-badge')).toBe('Warnings')
    expect(await text('health')).toContain('Turnstile is off')
  })

  test('the hours that are shown can be downloaded as CSV', async () => {
    await signIn()
    const arriving = page.waitForEvent('download')
    await page.getByRole('button', { name: 'Download CSV' }).click()
    const [head, ...rows] = (await readFile(await (await arriving).path(), 'utf8'))
      .trim()
      .split('\n')
    expect(head).toMatch(/^hour,requests,cached,/)
    const { hours } = await usage()
    expect(rows.map((row) => Number(row.split(',')[1]))).toEqual(
      hours.map(({ requests }) => requests),
    )
    const model = head?.split(',').indexOf('"usd_by.models.default"') ?? -1
    expect(rows.map((row) => Number(row.split(',')[model]))).toEqual(
      hours.map(({ usd_by }) => usd_by?.models['default'] ?? 0),
    )
  })

  test('pages of the site are listed as summarised, changed or missing, warmed and purged', async () => {
    await signIn()
    const [first, second] = ['/posts/1', '/posts/2'].map((path) => `${site.origin}${path}`)
    const list = `<urlset><url><loc>${first}</loc></url><url><loc> ${second} </loc></url></urlset>`
    await page.getByLabel('Your sitemap’s text').fill(list)
    const check = async () => {
      await page.getByRole('button', { name: 'Check' }).click()
      await page.locator('#checked', { hasText: '2 checked' }).waitFor()
      return await states()
    }
    const states = async () =>
      await page.locator('#page-list tbody td:nth-child(2)').allInnerTexts()
    expect(await check()).toEqual(['Missing', 'Missing'])
    const before = (await usage()).budget.spent
    await page.getByRole('button', { name: `Warm ${first}` }).click()
    await expect.poll(states).toEqual(['Summarised', 'Missing'])
    expect((await usage()).budget.spent).toBeGreaterThan(before)
    expect(await watched.accessibilityFaults()).toEqual([])
    site.text = 'Another text'
    expect(await check()).toEqual(['Changed', 'Missing'])
    await page.getByRole('button', { name: `Purge ${first}` }).click()
    await expect.poll(states).toEqual(['Missing', 'Missing'])
    await page.setViewportSize({ width: 360, height: 740 })
    await expect.poll(() => watched.overflow()).toBe(0)
    watched.takeConsoleErrors()
  })

  describe('a check of pages', () => {
    const pages = [1, 2, 3].map((n) => `https://site.example/posts/${n}`)
    /** The prompts of the requests so far. */
    let asked: string[] = []
    let first = Promise.withResolvers<void>()
    let released = Promise.withResolvers<void>()

    /** Starts a check whose first request is held. */
    beforeEach(async () => {
      asked = []
      first = Promise.withResolvers()
      released = Promise.withResolvers()
      const variables = { page: { from: 'url' } }
      const data = ['about', 'other'].map((id) => ({ id, variables, visitor_may_set: [] }))
      await page.route('**/v1/prompts', (route) => route.fulfill({ json: { data } }))
      await page.route('**/v1/completions', async (route) => {
        const isFirst = asked.push(route.request().postDataJSON().prompt.id) === 1
        first.resolve()
        if (isFirst) await released.promise
        await route.fulfill({ json: { choices: [] } })
      })
      await signIn()
      await page.getByLabel('Your sitemap’s text').fill(pages.join('\n'))
      await page.getByRole('button', { name: 'Check' }).click()
      await first.promise
    })

    test('is about the prompt that was selected at its start', async () => {
      await page.getByLabel('Prompt about a page').selectOption('other')
      released.resolve()
      await page.locator('#checked', { hasText: '3 checked' }).waitFor()
      expect(asked).toEqual(['about', 'about', 'about'])
    })

    test('ends when another one starts', async () => {
      await page.getByLabel('Prompt about a page').selectOption('other')
      await page.getByRole('button', { name: 'Check' }).click()
      await expect.poll(() => asked.length).toBeGreaterThan(1)
      released.resolve()
      await page.locator('#checked', { hasText: '3 checked' }).waitFor()
      await page.evaluate(ROUND_TRIP)
      expect(asked).toEqual(['about', 'other', 'other', 'other'])
    })

    test('ends on signing out', async () => {
      await page.getByRole('button', { name: 'Sign out' }).click()
      const response = page.waitForResponse('**/v1/completions')
      released.resolve()
      await (await response).finished()
      await page.evaluate(ROUND_TRIP)
      expect(asked).toEqual(['about'])
      await signIn()
      expect(await text('checked')).toBe('')
      expect(await page.locator('#page-list table').count()).toBe(0)
    })
  })

  test('the index of the site is shown, and how many questions it has nothing about', async () => {
    await signIn()
    expect(await text('site-pages')).toBe('0')
    expect(await text('site-indexed')).toBe('–')
    expect(await page.getByText('npm run index').isVisible()).toBe(true)
    site.text = '<h1>Moon</h1><p>It pulls the sea.</p>'
    // A Worker on a public host reads no page of this machine.
    const indexed = await fetch(new URL('/admin/site/page', workers.url), {
      method: 'PUT',
      headers: { authorization: `Bearer ${TOKEN}` },
      body: JSON.stringify({ url: `${site.origin}/moon` }),
    })
    expect(indexed.status).toBe(200)
    const question = 'a secret zebra'
    const asked = await client.complete({ prompt: { id: 'ask', variables: { question } } })
    expect(asked.text).toContain('no_passages')
    await expect
      .poll(async () =>
        (await usage()).hours.reduce((n, { errors }) => n + (errors['no_passages'] ?? 0), 0),
      )
      .toBe(1)
    await page.getByRole('button', { name: 'Refresh' }).click()
    await expect.poll(() => text('site-pages')).toBe('1')
    expect(await text('site-passages')).toBe('1')
    expect(await text('site-indexed')).toMatch(/\d{4}/)
    await expect.poll(() => text('site-unanswered')).toBe('1')
    expect(await page.getByText('npm run index').isVisible()).toBe(false)
    expect(await watched.text()).not.toContain('zebra')
  })

  test('a search that is unavailable leaves the other figures in place', async () => {
    const error = { code: 'search_unavailable', message: 'The search is unavailable.' }
    await page.route('**/admin/site', (route) => route.fulfill({ status: 503, json: { error } }))
    await signIn()
    await page.getByText('The search is unavailable.').waitFor()
    expect(await text('site-pages')).toBe('–')
    expect(numberIn(await text('requests'))).toBeGreaterThan(0)
    expect(watched.takeConsoleErrors()).toEqual([expect.stringContaining('503')])
  })

  test('failed upstream calls are listed with hints, and refused origins with the setting', async () => {
    const origin = 'https://www.site.example'
    for (let i = 0; i < 3; i++) await client.complete({ prompt: 'p' }, { origin })
    await client.complete({ prompt: 'p' }, { origin: 'null' })
    await client.complete({ prompt: 'fails', model: 'broken' })
    await signIn()
    const { failures } = await usage()
    const { code, hint, request_id } = failures[0] ?? {}
    const first = page.locator('#failures li').first()
    expect(await first.locator('code').innerText()).toBe(code)
    const words = await first.innerText()
    expect(words).toContain(`upstream broken · model broken · ${request_id}`)
    if (hint) expect(words).toContain(hint)
    expect(await page.locator('#failures li').count()).toBe(failures.length)
    expect(await page.locator('#refused tbody tr').first().innerText()).toMatch(
      /^https:\/\/www\.site\.example\s+3\s/,
    )
    expect(await text('refused-setting')).toBe('"https://www.site.example"')
    expect(await page.locator('#refused-advice').innerText()).toContain(
      'add it to your list origins',
    )
    expect(await watched.accessibilityFaults()).toEqual([])
  })

  test('charts are drawn in every range, with labels and tables', async () => {
    await signIn()
    for (const [label, bars] of [
      ['24 h', 24],
      ['7 d', 2],
      ['30 d', 1],
    ] as const) {
      await page.getByLabel(label).check()
      await page
        .locator('#requests-note', { hasText: label === '24 h' ? 'hours' : 'days' })
        .waitFor()
      await page.locator('#dashboard[aria-busy="false"]').waitFor()
      for (const id of ['traffic-chart', 'latency-chart', 'tokens-chart']) {
        await expect
          .poll(() => colours(id), { message: `${id} of ${label}` })
          // The lines of p50 and p95 may coincide.
          .toBeGreaterThanOrEqual(id === 'latency-chart' ? 1 : 2)
        expect(await page.locator(`#${id}`).getAttribute('aria-label')).toMatch(/: [1-9]\d* bars/)
      }
      const rows = page.locator('#traffic-table tbody tr')
      expect(await rows.count()).toBeGreaterThanOrEqual(bars)
      const cells = await rows.locator('td').allTextContents()
      const total = cells.reduce((all, cell) => all + numberIn(cell), 0)
      expect(total, label).toBe(numberIn(await text('requests')))
    }
  })

  /** The number of series colours found in the canvas of a chart. */
  async function colours(id: string): Promise<number> {
    return await page.evaluate<number>(`(() => {
      const canvas = document.querySelector('#${id} canvas')
      // Reading the chart's own canvas more than once makes Chromium warn, so a copy is read.
      const copy = new OffscreenCanvas(canvas.width, canvas.height)
      const pixels = copy.getContext('2d', { willReadFrequently: true })
      pixels.drawImage(canvas, 0, 0)
      const { data } = pixels.getImageData(0, 0, canvas.width, canvas.height)
      const counts = new Map()
      for (let i = 0; i < data.length; i += 4) {
        const colour = [...data.slice(i, i + 3)].map((n) => n.toString(16).padStart(2, '0')).join('')
        counts.set('#' + colour, (counts.get('#' + colour) ?? 0) + 1)
      }
      const style = getComputedStyle(document.documentElement)
      return [1, 2, 3, 4].filter((n) => (counts.get(style.getPropertyValue('--series-' + n)) ?? 0) > 4)
        .length
    })()`)
  }

  test.each(['light', 'dark'] as const)(
    'is accessible and fits every width, %s',
    async (colorScheme) => {
      // For the picture: down to the charts, so that it stays small.
      const view = await WatchedPage.open(browser, { colorScheme, height: 1370 })
      await view.page.goto(`${OWN}/admin`)
      expect(await view.accessibilityFaults()).toEqual([])
      await signIn(view.page)
      expect(await view.accessibilityFaults()).toEqual([])
      if (colorScheme === 'light') await view.picture('dashboard')
      for (const width of [360, 768]) {
        await view.page.setViewportSize({ width, height: 740 })
        await expect.poll(() => view.overflow(), { message: `at ${width} px` }).toBe(0)
      }
      await view.page.getByRole('button', { name: 'Purge…' }).click()
      await view.page.getByRole('dialog').waitFor()
      expect(await view.accessibilityFaults()).toEqual([])
      view.expectQuiet(OWN)
      await view.close()
    },
  )

  test('charts adapt to the theme and the width of the window', async () => {
    await signIn()
    await expect.poll(() => colours('traffic-chart')).toBeGreaterThanOrEqual(2)
    const before = await colours('traffic-chart')
    await page.emulateMedia({ colorScheme: 'dark' })
    await expect.poll(() => colours('traffic-chart')).toBe(before)
    const { width } = (await page.locator('#traffic-chart canvas').boundingBox()) ?? { width: 0 }
    await page.setViewportSize({ width: 500, height: 800 })
    await expect
      .poll(async () => (await page.locator('#traffic-chart canvas').boundingBox())?.width)
      .toBeLessThan(width)
  })

  test('spending can be paused and resumed', async () => {
    await signIn()
    await page.getByLabel('Pause for').selectOption('ever')
    await page.getByRole('button', { name: 'Pause spending' }).click()
    await page.getByText('Paused until you resume').waitFor()
    expect((await usage()).budget.paused_until).toBe(4_102_444_800)
    const refused = await client.complete({ prompt: 'never asked before' })
    expect([refused.status, JSON.parse(refused.text).error.code]).toEqual([429, 'paused'])
    expect(await page.evaluate('document.activeElement.id')).toBe('resume')
    await page.getByRole('button', { name: 'Resume' }).click()
    await page.getByRole('button', { name: 'Pause spending' }).waitFor()
    expect((await usage()).budget.paused_until).toBeNull()
    expect((await client.complete({ prompt: 'never asked before' })).status).toBe(200)
    await page.getByLabel('Pause for').selectOption('hour')
    await page.getByRole('button', { name: 'Pause spending' }).click()
    await page.getByText(/^Paused until .*\d\d:\d\d/).waitFor()
    await page.getByRole('button', { name: 'Resume' }).click()
    await page.getByRole('button', { name: 'Pause spending' }).waitFor()
  })

  test('the cache is purged only after a confirmation', async () => {
    const topic = 'a topic to purge'
    await client.complete({ prompt: { id: 'haiku', variables: { topic } } })
    await client.complete({ prompt: topic })
    const words = topic.replaceAll(' ', '+')
    const statuses = async () => {
      const queries = [`prompt_id=haiku&var.topic=${words}`, `prompt=${words}`]
      const paths = queries.map((query) => `/v1/completions?${query}`)
      return await Promise.all(paths.map(async (path) => (await client.send({ path })).status))
    }
    await signIn()
    const ask = page.getByRole('button', { name: 'Purge…' })
    const dialog = page.getByRole('dialog')

    await ask.click()
    expect(await dialog.getByRole('heading').textContent()).toBe('Purge all cached answers?')
    expect(await page.evaluate('document.activeElement.id')).toBe('cancel')
    await page.keyboard.press('Escape')
    await dialog.waitFor({ state: 'hidden' })
    await ask.click()
    await page.getByRole('button', { name: 'Cancel' }).click()
    expect(watched.requests.filter(({ url }) => url.endsWith('/admin/purge'))).toEqual([])
    expect(await statuses()).toEqual([200, 200])

    await page.getByLabel('Which model').selectOption('careful')
    await ask.click()
    expect(await dialog.getByRole('heading').textContent()).toBe(
      'Purge all answers of the model “careful”?',
    )
    await page.getByRole('button', { name: 'Cancel' }).click()
    await page.getByLabel('Which locked prompt').selectOption('haiku')
    expect(await page.getByLabel('Locked prompt', { exact: true }).isChecked()).toBe(true)
    await ask.click()
    await dialog.getByRole('button', { name: 'Purge' }).click()
    await page.locator('#purged', { hasText: 'Purged' }).waitFor()
    expect(await statuses()).toEqual([404, 200])
  })

  test('the share of spending above the reservations is shown if there is any', async () => {
    await client.send({ path: `/advance?${24 * HOUR_MS}` })
    await signIn()
    expect(await page.locator('#above').isHidden()).toBe(true)
    // The call reserves 3 bytes, 64 and 64 tokens.
    const above = { prompt_tokens: 31, completion_tokens: 231, total_tokens: 262 }
    upstream.lane('main').answers(completionsStream(['x'], { usage: above }))
    expect((await client.complete({ prompt: 'new' })).status).toBe(200)
    await expect.poll(async () => (await usage()).budget.spent).toBe(262)
    await page.getByRole('button', { name: 'Refresh' }).click()
    await page.getByText(/^50% of the tokens exceed the reservations of their calls/).waitFor()
  })
})
