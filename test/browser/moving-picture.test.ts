// The moving picture of the README: a story of the example site, a miss and a hit, with the shipped
// configuration in workerd.
import type { Browser } from 'playwright-core'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { launchBrowser, WatchedPage } from '../support/browser.ts'
import { type ExampleSite, startExampleSite } from '../support/example-site.ts'
import { MovingPicture } from '../support/moving-picture.ts'
import { startWorkers, type Workers } from '../support/workerd.ts'
import { EndpointProxy } from './endpoint-proxy.ts'

const SITE = 'http://localhost:4000'
const MAX_BYTES = 300_000
/** Of the story while it is written: each frame adds to the size. */
const MAX_FRAMES = 8

let workers: Workers
let site: ExampleSite
let proxy: EndpointProxy
let browser: Browser

beforeAll(async () => {
  site = await startExampleSite()
  workers = await startWorkers({ secrets: {}, site: true })
  proxy = await EndpointProxy.open()
  proxy.forwardTo(workers.url)
  browser = await launchBrowser({
    ports: {
      'localhost:4000': site.port,
      'localhost:8787': proxy.port,
    },
  })
})

afterAll(async () => {
  await browser?.close()
  await Promise.all([proxy?.close(), workers?.dispose()])
  site?.stop()
})

test('a story about Ada is a miss, and a hit the second time, in a picture of at most 300 kB', async () => {
  const { page } = await WatchedPage.open(browser, { width: 640, height: 520 })
  await page.goto(`${SITE}/story.html`)
  await page.getByLabel('Who is it about?').fill('Ada')
  const picture = new MovingPicture(page, 500)
  const story = page.locator('#story')
  const button = page.getByRole('button', { name: 'Tell' })

  /** Presses the button and returns how many milliseconds the request took. */
  const tell = async (meanwhile: () => Promise<void>) => {
    await button.click()
    while ((await story.getAttribute('aria-busy')) === 'true') await meanwhile()
    const times = `performance.getEntriesByType('resource')
      .filter(({ name }) => name.endsWith('/v1/completions')).map(({ duration }) => duration)`
    told += 1
    await expect.poll(async () => (await page.evaluate<number[]>(times)).length).toBe(told)
    return (await page.evaluate<number[]>(times)).at(-1) ?? Number.NaN
  }
  let told = 0

  await picture.frame('', 1500)
  let frames = 0
  const missMs = await tell(async () => {
    if (frames++ < MAX_FRAMES) await picture.frame('Miss: the model is writing it …')
  })
  expect(await story.textContent()).toMatch(/^Once upon a time Ada went for a walk, and.* Ada /)
  await picture.frame(`Miss: the model wrote it in ${(missMs / 1000).toFixed(1)} s`, 3000)
  const hitMs = await tell(async () => {})
  await picture.frame(`Hit: the same story from the cache in ${Math.round(hitMs)} ms`, 3000)
  await expect
    .poll(() => workers.log.caches())
    .toEqual(['miss', expect.stringMatching(/memory|kv/)])

  const svg = await picture.svg('The button of the example site: a miss, then a hit')
  expect(Buffer.byteLength(svg)).toBeLessThan(MAX_BYTES)
  await picture.save('moving', svg)
})
