// `npm run warm`, run as an owner would, against the Worker in workerd and a site on a real port.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { OPERATOR_TOKEN } from '../support/app.ts'
import { CANARY } from '../support/canary.ts'
import { ORIGIN } from '../support/client.ts'
import { completionsStream, latch, refusal, UpstreamServer } from '../support/upstream-server.ts'
import { startWorkers, type Workers } from '../support/workerd.ts'

let upstream: UpstreamServer
let workers: Workers
let folder: string
let site: Server
let origin: string
/** The site's pages by their paths. */
const pages = new Map<string, string>()

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'edge-warm-'))
  upstream = await UpstreamServer.start()
  site = createServer(({ url = '' }, response) => {
    const page = pages.get(url)
    response.writeHead(page === undefined ? 404 : 200, {
      'content-type': url.endsWith('.xml') ? 'application/xml' : 'text/html; charset=utf-8',
    })
    response.end(page)
  })
  await new Promise<void>((resolve) => site.listen(0, '127.0.0.1', resolve))
  origin = `http://127.0.0.1:${(site.address() as AddressInfo).port}`
  workers = await startWorkers({
    secrets: { UPSTREAM_API_KEY: CANARY, OPERATOR_TOKEN },
    config: {
      origins: [ORIGIN, origin],
      origin_required: true,
      free_prompts: true,
      models: [{ id: 'm', upstream: 'u', upstream_model: 'm' }],
      upstreams: [
        {
          name: 'u',
          base_url: upstream.url('u'),
          key: 'UPSTREAM_API_KEY',
          wire: 'completions',
          retries: 0,
        },
      ],
      prompts: {
        summary: {
          text: 'Sum up in {{language}}: {{page}}',
          variables: {
            page: { from: 'url', paths: ['/posts/*'], max_chars: 400 },
            language: { values: ['English', 'Deutsch'] },
          },
          spend: 'operator',
        },
      },
      budget: { tokens_per_day: 1e9 },
    },
  })
})

afterAll(async () => {
  await workers?.dispose()
  await upstream?.stop()
  site?.closeAllConnections()
  site?.close()
  await rm(folder, { recursive: true })
})

beforeEach(() => {
  pages.clear()
  calls().length = 0
  upstream.lane('u').answers(completionsStream(['fine']))
})

const calls = () => upstream.lane('u').calls

interface Ended {
  readonly code: number | null
  readonly out: string
  readonly err: string
}

function start(given: readonly string[], token = OPERATOR_TOKEN) {
  const child = spawn(process.execPath, ['scripts/warm.ts', ...given], {
    env: { ...process.env, OPERATOR_TOKEN: token },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  return { child, ended: endOf(child) }
}

async function endOf(child: ChildProcess): Promise<Ended> {
  let [out, err] = ['', '']
  child.stdout?.on('data', (data) => {
    out += data
  })
  child.stderr?.on('data', (data) => {
    err += data
  })
  const [code] = await once(child, 'close')
  expect(out + err).not.toContain(OPERATOR_TOKEN)
  return { code, out, err }
}

const run = (given: readonly string[], token?: string) => start(given, token).ended

const worker = () => ['--url', String(workers.url)]

describe('a list', () => {
  async function script(list: unknown, token?: string, more: string[] = []) {
    const file = join(folder, 'prompts.json')
    await writeFile(file, JSON.stringify(list))
    return await run([file, ...worker(), ...more], token)
  }

  test('warms, skips, fails and says so, by its exit code too', async () => {
    upstream.lane('u').answers(async (call, speaking) => {
      const bad = call.text.includes('bad')
      await (bad ? refusal(400) : completionsStream(['fine']))(call, speaking)
    })
    const first = await script(['one', { prompt: 'two', max_tokens: 5 }])
    expect([first.code, first.err]).toEqual([0, ''])
    expect(first.out).toMatch(/^stored {9}#[01] "(one|two)" {2}12 tokens\n/)
    expect(first.out).toMatch(/stored\s+2\nalready there\s+0\nfailed\s+0\ntokens spent\s+24\n$/)
    // Plain lines where no terminal is.
    expect(first.out).not.toMatch(/[█\r]/)
    await expect.poll(async () => (await workers.kvEntries()).size).toBe(2)
    const second = await script(['one', { prompt: 'two', max_tokens: 5 }, 'bad', 'three'])
    expect(second.code).toBe(1)
    expect(second.out).toMatch(/stored\s+1\nalready there\s+2\nfailed\s+1\ntokens spent\s+12\n/)
    expect(second.out).toMatch(
      /\nfailed {9}#2 "bad" {2}400 upstream_refused_request: The model .+\n$/,
    )
    expect(calls()).toHaveLength(4)
  })

  test('may begin with a byte order mark, as Windows writes it', async () => {
    const file = join(folder, 'prompts.json')
    await writeFile(file, '\ufeff["marked"]\r\n')
    const { code, out, err } = await run([file, ...worker()])
    expect([code, err]).toEqual([0, ''])
    expect(out).toMatch(/^stored {9}#0 "marked" /)
  })

  test('a dry run spends nothing', async () => {
    await script(['five'])
    const { code, out } = await script(['five', 'six', 'seven'], OPERATOR_TOKEN, ['--dry-run'])
    expect(code).toBe(0)
    expect(out).toMatch(
      /^already there\s+1\nto be asked\s+2\nfailed\s+0\nabout 3 tokens to be read/,
    )
    expect(out).toContain('and 14 to be written, as those that are there took')
    expect(calls()).toHaveLength(1)
  })

  test('without a token, with a wrong one, or with no list: an error and no upstream call', async () => {
    const none = await script(['x'], '')
    expect([none.code, none.err]).toEqual([2, expect.stringContaining('OPERATOR_TOKEN')])
    const wrong = await script(['x'], 'wrong')
    expect([wrong.code, wrong.out]).toEqual([2, ''])
    expect(wrong.err).toMatch(/^Cannot warm: OPERATOR_TOKEN is not the one that the Worker has/)
    const list = await script({ prompt: 'x' })
    expect([list.code, list.err]).toEqual([2, expect.stringContaining('expected a JSON array')])
    expect(calls()).toEqual([])
  })

  test('what is no Worker of ours, or not there, is told at once', async () => {
    const file = join(folder, 'prompts.json')
    await writeFile(file, '["x"]')
    const other = await run([file, '--url', origin])
    expect([other.code, other.err]).toEqual([
      2,
      `Cannot warm: ${origin}/ is 404 not an answer of this gateway\n`,
    ])
    const nobody = await run([file, '--url', 'http://127.0.0.1:1'])
    expect([nobody.code, nobody.err]).toEqual([
      2,
      'Cannot reach the Worker at http://127.0.0.1:1/: no connection\n',
    ])
  })
})

describe('a sitemap', () => {
  const given = () => [
    ...['--sitemap', `${origin}/sitemap.xml`, '--prompt', 'summary'],
    ...['--variable', 'language=English', ...worker()],
  ]

  /** Posts by their names, each with its text, in a sitemap with an index above. */
  function publish(posts: Readonly<Record<string, string>>, more: readonly string[] = []) {
    const loc = (url: string) => `<loc>${url}</loc>`
    const urls = Object.keys(posts).map((name) => `${origin}/posts/${name}`)
    pages.set(
      '/sitemap.xml',
      `<sitemapindex><sitemap>${loc(`${origin}/posts.xml`)}</sitemap></sitemapindex>`,
    )
    pages.set(
      '/posts.xml',
      `<urlset>${[...urls, ...more].map((url) => `<url>${loc(url)}</url>`).join('')}</urlset>`,
    )
    for (const [name, text] of Object.entries(posts)) {
      pages.set(`/posts/${name}`, `<nav>Home</nav><main><p>${text}</main><script>no()</script>`)
    }
  }

  /** What a visitor gets of it. */
  async function seen(name: string) {
    const query = new URLSearchParams({
      prompt_id: 'summary',
      'var.page': `${origin}/posts/${name}`,
      'var.language': 'English',
    })
    // As on the owner's machine: pages of a local site are for a local Worker.
    const headers = { host: workers.url.host, origin }
    const reply = await workers.client().send({ path: `/v1/completions?${query}`, headers })
    return [reply.status, JSON.parse(reply.text).choices?.[0]?.text]
  }

  test('every page is asked about, and visitors find the answers', async () => {
    publish({ a: 'First post', b: 'Second post' }, [`${origin}/about`, 'https://b.example/posts/a'])
    const { code, out, err } = await run(given())
    expect([code, err]).toEqual([0, ''])
    expect(out).toContain(`skipped        ${origin}/about  its path is not one of the "paths"`)
    expect(out).toContain('skipped        https://b.example/posts/a  it is of another origin')
    expect(out).toMatch(/stored\s+2\nalready there\s+0\nfailed\s+0\ntokens spent\s+24\n$/)
    const texts = calls().map(({ text }) => text)
    expect(texts.filter((text) => text.includes('First post'))).toHaveLength(1)
    expect(texts.join()).not.toMatch(/Home|no\(\)/)
    expect([await seen('a'), await seen('b')]).toEqual([
      [200, 'fine'],
      [200, 'fine'],
    ])
    expect(calls()).toHaveLength(2)
  })

  test('what is there is skipped, a page that has changed is asked about anew', async () => {
    publish({ c: 'Third post', d: 'Fourth post' })
    await run(given())
    publish({ c: 'Third post', d: 'Fourth post, mended' })
    const { out } = await run(given())
    expect(out).toMatch(/stored\s+1\nalready there\s+1\nfailed\s+0/)
    expect(calls()).toHaveLength(3)
    expect(calls()[2]?.text).toContain('Fourth post, mended')
  })

  test('a page that is listed at two of its addresses is asked about once, and found at all', async () => {
    publish({ 'n/': 'Page n', 'n.html': 'Page n', 'o.html': 'Page o' })
    const { code, out } = await run(given())
    expect([code, calls().length]).toEqual([0, 2])
    expect(out).toContain(`stored         ${origin}/posts/n/  `)
    for (const name of ['n', 'n/', 'n/index.html', 'n.html', 'o', 'o/']) {
      expect(await seen(name), name).toEqual([200, 'fine'])
    }
    expect((await run(given())).out).toMatch(/stored\s+0\nalready there\s+2\nfailed\s+0/)
  })

  test('a sitemap of an index that cannot be read is told at the end, by the exit code too', async () => {
    publish({ p: 'Page p' })
    const sitemaps = ['posts.xml', 'gone.xml'].map((name) => `<loc>${origin}/${name}</loc>`)
    pages.set(
      '/sitemap.xml',
      `<sitemapindex>${sitemaps.map((loc) => `<sitemap>${loc}</sitemap>`).join('')}</sitemapindex>`,
    )
    const told = `failed         ${origin}/gone.xml  the sitemap cannot be read: the site answers 404\n`
    const dry = await run([...given(), '--dry-run'])
    expect([dry.code, calls()]).toEqual([1, []])
    expect(dry.out).toMatch(/to be asked\s+1\n/)
    expect(dry.out.endsWith(told)).toBe(true)
    const { code, out, err } = await run(given())
    expect([code, err, calls().length]).toEqual([1, '', 1])
    expect(out).toMatch(/stored\s+1\nalready there\s+0\nfailed\s+0\ntokens spent\s+12\n/)
    expect(out.endsWith(told)).toBe(true)
    expect(await seen('p')).toEqual([200, 'fine'])
    pages.delete('/posts.xml')
    const none = await run(given())
    expect([none.code, none.err]).toEqual([2, expect.stringContaining('has no page that may be')])
    expect(none.out).toContain(told)
  })

  test('a sitemap with a line before its declaration is read, and a relative address told', async () => {
    publish({ q: 'Page q', r: 'Page r' })
    const loc = (url: string) => `<s:url><s:loc>${url}</s:loc></s:url>`
    const namespace = 'http://www.sitemaps.org/schemas/sitemap/0.9'
    pages.set(
      '/posts.xml',
      `\n<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="${namespace}" xmlns:s="${namespace}">` +
        `${loc(`${origin}/posts/q`)}${loc('/posts/r')}</urlset>`,
    )
    const { code, out } = await run(given())
    expect([code, calls().length]).toEqual([0, 1])
    expect(out).toContain(
      `skipped        /posts/r  it is relative, and a sitemap needs whole addresses; write ${origin}/posts/r\n`,
    )
    expect(await seen('q')).toEqual([200, 'fine'])
  })

  test('a dry run counts and estimates, and spends nothing', async () => {
    publish({ e: 'Fifth post', f: 'x'.repeat(9000), g: 'Seventh post' })
    const before = await run([...given(), '--dry-run'])
    expect(before.out).toMatch(/already there\s+0\nto be asked\s+3\nfailed\s+0\nabout 107 tokens/)
    expect(before.out).toContain('An estimate')
    expect([before.code, calls()]).toEqual([0, []])
    publish({ e: 'Fifth post' })
    await run(given())
    publish({ e: 'Fifth post', f: 'x'.repeat(9000) })
    const after = await run([...given(), '--dry-run'])
    expect(after.out).toMatch(/already there\s+1\nto be asked\s+1\nfailed\s+0\nabout 100 tokens/)
    publish({ e: 'Fifth post, mended' })
    const changed = await run([...given(), '--dry-run'])
    expect(changed.out).toMatch(/already there\s+0\nto be asked\s+1\n/)
    expect(calls()).toHaveLength(1)
  })

  test('a page that fails is named with its reason, the others are stored', async () => {
    publish({ h: 'Eighth post' }, [`${origin}/posts/gone`])
    upstream.lane('u').answers(completionsStream(['fine']))
    const { code, out } = await run(given())
    expect(code).toBe(1)
    expect(out).toMatch(/stored\s+1\nalready there\s+0\nfailed\s+1\n/)
    expect(out).toMatch(/\nfailed {9}http:\S+\/posts\/gone {2}502 page_unavailable: Cannot .+\n$/)
  })

  test.each([
    [
      'no such prompt',
      ['--prompt', 'nothing'],
      'Cannot find the prompt "nothing": the Worker has summary',
    ],
    ['no such sitemap', ['--sitemap', '/none.xml'], '/none.xml: the site answers 404'],
    ['no page in it', ['--sitemap', '/empty.xml'], 'has no page that may be asked about'],
    ['another variable', ['--variable', 'tone=x'], 'Cannot use --variable tone'],
  ])('%s: an error, and nothing is spent', async (_, more, said) => {
    publish({ a: 'First post' })
    pages.set('/empty.xml', `<urlset><url><loc>${origin}/about</loc></url></urlset>`)
    const [name = '', value = ''] = more
    const { code, err } = await run([
      ...given(),
      name,
      value.startsWith('/') ? `${origin}${value}` : value,
    ])
    expect([code, err]).toEqual([2, expect.stringContaining(said)])
    expect(calls()).toEqual([])
  })

  test('Ctrl-C ends with what is under way and says how to go on, which then works', async () => {
    const { open, opened } = latch()
    upstream.lane('u').answers(async (...call) => {
      await opened
      await completionsStream(['fine'])(...call)
    })
    publish({ i: 'One', j: 'Two', k: 'Three', l: 'Four' })
    const { child, ended } = start([...given(), '--concurrency', '1'])
    await upstream.lane('u').call(1)
    child.kill('SIGINT')
    await once(child.stderr!, 'data')
    // npm hands on the signal that the terminal has sent already.
    child.kill('SIGINT')
    open()
    const { code, out, err } = await ended

    expect(code).toBe(130)
    expect(err).toContain('Ending with what is under way; Ctrl-C again to end at once.')
    expect(out).toMatch(/stored\s+1\nalready there\s+0\nfailed\s+0\nnot asked\s+3\n/)
    expect(out).toContain('run the same command again')
    const again = await run(given())
    expect(again.out).toMatch(/stored\s+3\nalready there\s+1\nfailed\s+0\ntokens/)
    expect([again.code, calls()]).toEqual([0, expect.objectContaining({ length: 4 })])
  })

  test('a second Ctrl-C ends at once', async () => {
    upstream.lane('u').answers(() => {})
    publish({ m: 'Never' })
    const { child, ended } = start(given())
    await upstream.lane('u').call(1)
    child.kill('SIGINT')
    await once(child.stderr!, 'data')
    // Right after the first one it would be taken for npm's echo of it.
    const again = setInterval(() => child.kill('SIGINT'), 100)
    const { code } = await ended
    clearInterval(again)
    expect(code).toBe(130)
  })
})
