// `npm run index`, run as a command against the Worker in workerd, its demo model, and a site on a real
// port.
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { OPERATOR_TOKEN, ORIGIN } from '../support/client.ts'
import { startCommand } from '../support/command.ts'
import { SiteServer } from '../support/site-server.ts'
import { latch } from '../support/upstream-server.ts'
import { startWorkers, type Workers } from '../support/workerd.ts'

let workers: Workers
let folder: string
let site: SiteServer

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'edge-index-'))
  site = await SiteServer.start()
  workers = await startWorkers({
    secrets: { OPERATOR_TOKEN },
    config: {
      origins: [ORIGIN, site.origin],
      models: [{ id: 'm', upstream: 'demo', upstream_model: 'demo' }],
      upstreams: [{ name: 'demo', preset: 'demo' }],
      site: { paths: ['/docs/*', '/llms-full.txt'] },
      prompts: {
        questions: {
          text: 'Which questions does this page answer?\n\n{{page}}',
          variables: { page: { from: 'url', paths: ['/docs/*'], max_chars: 2000 } },
          max_tokens: 100,
          spend: 'operator',
        },
        haiku: { text: 'About {{topic}}', variables: { topic: { max_chars: 40 } } },
      },
      budget: { tokens_per_day: 1e9 },
    },
  })
})

afterAll(async () => {
  await workers?.dispose()
  site?.stop()
  await rm(folder, { recursive: true })
})

beforeEach(() => {
  site.files.clear()
  site.requests.length = 0
})

/** Leaves an empty index to the next test. */
afterEach(async () => {
  for (const { url } of await indexed()) {
    const query = new URLSearchParams({ url: String(url) })
    await admin('DELETE', `/admin/site/page?${query}`)
  }
})

/** Publishes pages below /docs by name and text, with a sitemap of them. */
function publish(texts: Readonly<Record<string, string>>, more: readonly string[] = []): void {
  for (const [name, text] of Object.entries(texts)) {
    site.files.set(
      `/docs/${name}`,
      `<title>${name}</title><nav>Home</nav><main><h1>${name}</h1><p>${text}</main>`,
    )
  }
  const urls = Object.keys(texts).map((name) => site.url(`/docs/${name}`))
  site.files.set('/sitemap.xml', urlset([...urls, ...more]))
}

const urlset = (urls: readonly string[]) =>
  `<urlset>${urls.map((url) => `<url><loc>${url}</loc></url>`).join('')}</urlset>`

const start = (args: readonly string[], token?: string) =>
  startCommand('scripts/index.ts', args, { folder, ...(token === undefined ? {} : { token }) })

const sitemapArgs = () => ['--sitemap', site.url('/sitemap.xml'), '--url', String(workers.url)]
const run = (...more: readonly string[]) => start([...sitemapArgs(), ...more]).exit

async function admin(method: string, path: string, body?: object) {
  const { text } = await workers.client().send({
    method,
    path,
    headers: { host: workers.url.host, authorization: `Bearer ${OPERATOR_TOKEN}` },
    ...(body === undefined ? {} : { body }),
  })
  return JSON.parse(text)
}

async function indexed(): Promise<readonly Record<string, unknown>[]> {
  return (await admin('GET', '/admin/site')).data
}

/** The paths of the indexed pages. */
async function paths(): Promise<string[]> {
  return (await indexed()).map(({ url }) => new URL(String(url)).pathname).toSorted()
}

/** The paths of the pages that a visitor finds. */
async function find(question: string): Promise<string[]> {
  const path = `/v1/search?${new URLSearchParams({ q: question })}`
  const { text } = await workers.client().send({ path, headers: { host: workers.url.host } })
  return JSON.parse(text).data.map(({ url }: { url: string }) => new URL(url).pathname)
}

test('indexes the pages of a sitemap and those given beside it, so that visitors find them', async () => {
  publish({ boats: 'Rowing on the lake.', hills: 'Climbing all day.' })
  site.files.set('/posts.xml.gz', gzipSync(String(site.files.get('/sitemap.xml'))))
  const other = urlset([site.url('/about')])
  site.files.set('/other.xml', other)
  const sitemaps = ['/posts.xml.gz', '/other.xml'].map(
    (path) => `<sitemap><loc>${site.url(path)}</loc></sitemap>`,
  )
  site.files.set('/sitemap.xml', `<sitemapindex>${sitemaps.join('')}</sitemapindex>`)
  site.files.set('/llms-full.txt', '# Ferries\n\nTimetables of ferries.')

  const { code, out, err } = await run(site.url('/llms-full.txt'))
  expect([code, err]).toEqual([0, ''])
  expect(out).toMatch(/^indexed {8}\S+\/docs\/boats {2}1 passage$/m)
  expect(out).toMatch(/^not allowed {4}\S+\/about {2}403 page_not_allowed: .+$/m)
  expect(out).toMatch(
    /^3 indexed, 0 unchanged, 0 removed, 0 failed, 1 not allowed, 3 passages, \d+ s$/m,
  )
  expect(out).not.toMatch(/[█\r]/)
  expect(await paths()).toEqual(['/docs/boats', '/docs/hills', '/llms-full.txt'])
  expect(await find('rowing')).toEqual(['/docs/boats'])
  expect(await find('timetable of the ferry')).toEqual(['/llms-full.txt'])
})

test('a second run reads changed pages only, adds new ones, and removes those that left', async () => {
  publish({ boats: 'Rowing.', hills: 'Climbing.', gone: 'Flying.' })
  await run()
  publish({ boats: 'Sailing.', hills: 'Climbing.', caves: 'Caving.' })
  site.requests.length = 0

  const dry = await run('--dry-run')
  expect([dry.code, dry.err]).toEqual([0, ''])
  expect(dry.out).toMatch(/^to index {7}\S+\/caves$/m)
  expect(dry.out).toMatch(/^to remove {6}\S+\/gone$/m)
  expect(dry.out).toMatch(/^1 to index, 2 to re-read, 1 to remove\nNothing was changed.$/m)
  expect(site.requests.map(({ path }) => path)).toEqual(['/sitemap.xml'])
  expect(await find('flying')).toEqual(['/docs/gone'])

  const kept = await run('--keep')
  expect(kept.out).toMatch(/^2 indexed, 1 unchanged, 0 removed, 0 failed, 3 passages/m)
  expect(site.requests).toContainEqual({ path: '/docs/hills', status: 304 })
  expect(await find('flying')).toEqual(['/docs/gone'])

  const { code, out } = await run()
  expect(code).toBe(0)
  expect(out).toMatch(/^removed {8}\S+\/gone$/m)
  expect(out).toMatch(/^0 indexed, 3 unchanged, 1 removed, 0 failed, 3 passages/m)
  expect([await find('sailing'), await find('caving')]).toEqual([['/docs/boats'], ['/docs/caves']])
  expect([await find('rowing'), await find('flying')]).toEqual([[], []])
})

test('two runs at the same time leave the same index as one', async () => {
  const texts = Object.fromEntries(Array.from({ length: 12 }, (_, i) => [`p${i}`, `Word${i}.`]))
  publish({ ...texts, gone: 'Flying.' })
  await run()
  publish({ ...texts, p3: 'Changed.', p12: 'Word12.' })
  const exits = await Promise.all([run(), run()])
  expect(exits.map(({ code }) => code)).toEqual([0, 0])
  expect(await paths()).toEqual(Array.from({ length: 13 }, (_, i) => `/docs/p${i}`).toSorted())
  expect([await find('changed'), await find('word3')]).toEqual([['/docs/p3'], []])
})

test('after Ctrl-C the running page finishes, nothing is removed, and a second run does the rest', async () => {
  publish({ gone: 'Flying.' })
  await run()
  publish({ a: 'One.', b: 'Two.', c: 'Three.' })
  const { open, opened } = latch()
  const asked = latch()
  site.before = async (path) => {
    if (path !== '/docs/b') return
    asked.open()
    await opened
  }
  const { child, exit } = start([...sitemapArgs(), '--concurrency', '1'])
  await asked.opened
  child.kill('SIGINT')
  await once(child.stderr, 'data')
  open()
  const { code, out, err } = await exit
  site.before = () => {}
  expect([code, err]).toEqual([130, expect.stringContaining('Waiting for running requests')])
  expect(out).toMatch(/^2 indexed, 0 unchanged, 0 removed, 0 failed, 1 not started, 2 passages/m)
  expect(out).toContain('To resume, run the same command again')
  expect(await paths()).toEqual(['/docs/a', '/docs/b', '/docs/gone'])

  const again = await run()
  expect(again.out).toMatch(/^1 indexed, 2 unchanged, 1 removed, 0 failed/m)
  expect([again.code, await paths()]).toEqual([0, ['/docs/a', '/docs/b', '/docs/c']])
})

test('a sitemap that is not read completely removes nothing, and failed pages are listed', async () => {
  publish({ a: 'One.', gone: 'Flying.' })
  await run()
  site.files.set('/posts.xml', urlset([site.url('/docs/a'), site.url('/docs/missing')]))
  const sitemaps = ['/posts.xml', '/news.xml'].map(
    (path) => `<sitemap><loc>${site.url(path)}</loc></sitemap>`,
  )
  site.files.set('/sitemap.xml', `<sitemapindex>${sitemaps.join('')}</sitemapindex>`)
  const { code, out } = await run()
  expect(code).toBe(1)
  expect(out).toContain(
    'Pages that left the sitemap are not removed: the sitemap could not be read completely\n',
  )
  expect(out).toMatch(
    /^failed {9}\S+\/news.xml {2}cannot read the sitemap: the site returned 404$/m,
  )
  expect(out).toMatch(
    /^failed {9}\S+\/docs\/missing {2}502 page_unavailable: .*expected status 200$/m,
  )
  expect(out).toMatch(/^0 indexed, 1 unchanged, 0 removed, 1 failed/m)
  expect(await paths()).toEqual(['/docs/a', '/docs/gone'])
  // Four attempts.
  expect(site.requests.filter(({ path }) => path === '/docs/missing')).toHaveLength(4)
})

test('a page given alone is indexed, and nothing is removed', async () => {
  publish({ a: 'One.', b: 'Two.' })
  await run()
  publish({ a: 'Changed.' })
  const { code, out } = await start([site.url('/docs/a'), '--url', String(workers.url)]).exit
  expect([code, out]).toEqual([0, expect.stringMatching(/^1 indexed, 0 unchanged, 0 removed/m)])
  expect(await paths()).toEqual(['/docs/a', '/docs/b'])
})

test('fails before the first change without a token, a Worker, a page or a suitable prompt', async () => {
  publish({ a: 'One.' })
  const none = await start(sitemapArgs(), '').exit
  expect([none.code, none.err]).toEqual([
    2,
    expect.stringContaining('Cannot index without OPERATOR_TOKEN'),
  ])
  const wrong = await start(sitemapArgs(), 'wrong').exit
  expect([wrong.code, wrong.err]).toEqual([
    2,
    expect.stringMatching(/^Cannot index: OPERATOR_TOKEN does not match/),
  ])
  const other = await start(['--sitemap', site.url('/sitemap.xml'), '--url', site.origin]).exit
  const notOurs = `Cannot index: ${site.origin}/ answered 404, not from an edge-completions Worker\n`
  expect([other.code, other.err]).toEqual([2, notOurs])
  const prompt = await run('--questions', 'haiku')
  expect([prompt.code, prompt.err]).toEqual([
    2,
    expect.stringContaining('no variable { from = "url" }'),
  ])
  publish({})
  const empty = await run('--keep')
  expect([empty.code, empty.err]).toEqual([
    2,
    expect.stringMatching(/^Cannot index: \S+ has no page of its own origin\n$/),
  ])
  expect(await paths()).toEqual([])
})

describe('--questions', () => {
  const pause = (until: number | null) => admin('POST', '/admin/pause', { until })

  test('indexes what the model writes about a page, once for each version of it', async () => {
    publish({ boats: 'May boats be hired?', hills: 'May hills be climbed?' })
    const dry = await run('--questions', 'questions', '--dry-run')
    expect(dry.out).toMatch(/^cached +0\nmissing +2\nfailed +0\nabout \d+ input tokens/m)
    expect([dry.code, await paths()]).toEqual([0, []])

    const first = await run('--questions', 'questions')
    expect([first.code, first.err]).toEqual([0, ''])
    expect(first.out).toMatch(/^indexed {8}\S+\/boats {2}1 passage, 1 question$/m)
    expect(first.out).toMatch(/^2 questions for 2 pages, [1-9]\d* tokens spent$/m)
    expect((await indexed()).map(({ questions }) => questions)).toEqual([1, 1])

    publish({ boats: 'May boats be hired?', hills: 'May hills be sold?' })
    const second = await run('--questions', 'questions')
    expect(second.out).toMatch(/^1 indexed, 1 unchanged/m)
    expect(second.out).toMatch(/^1 question for 1 page, [1-9]\d* tokens spent$/m)

    // The answer is cached, so what an interrupted run has paid for is free.
    await admin('PUT', '/admin/site/page', { url: site.url('/docs/hills'), questions: [] })
    const third = await run('--questions', 'questions')
    expect(third.out).toMatch(/^unchanged {6}\S+\/hills {2}1 question$/m)
    expect(third.out).toMatch(/^1 question for 1 page, 0 tokens spent$/m)
  })

  test('stop while generation is paused, and the pages are indexed', async () => {
    publish({ tents: 'May tents be pitched?', lakes: 'May lakes be crossed?' })
    await pause(Math.floor(Date.now() / 1000) + 3600)
    const paused = await run('--questions', 'questions', '--concurrency', '1')
    await pause(null)
    expect(paused.code).toBe(1)
    expect(paused.out).toMatch(/^2 indexed, 0 unchanged, 0 removed, 0 failed/m)
    expect(paused.out).toMatch(/^0 questions for 0 pages, 2 pages without, 0 tokens spent$/m)
    expect(paused.out).toContain('Generation is paused.')
    expect(await find('pitched tents')).toEqual(['/docs/tents'])
    const { code, out } = await run('--questions', 'questions')
    expect([code, out]).toEqual([0, expect.stringMatching(/^2 questions for 2 pages/m)])
  })
})
