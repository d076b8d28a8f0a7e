// `npm run warm`, run as a command against the Worker in workerd and a site on a real port.
import { once } from 'node:events'
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { CANARY } from '../support/canary.ts'
import { OPERATOR_TOKEN, ORIGIN } from '../support/client.ts'
import { startCommand } from '../support/command.ts'
import { SiteServer } from '../support/site-server.ts'
import { completionsStream, latch, refusal, UpstreamServer } from '../support/upstream-server.ts'
import { startWorkers, type Workers } from '../support/workerd.ts'

let upstream: UpstreamServer
let workers: Workers
let folder: string
let site: SiteServer
let origin: string
/** The pages of the site by path. */
let pages: SiteServer['files']

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'edge-warm-'))
  upstream = await UpstreamServer.start()
  site = await SiteServer.start()
  ;({ origin, files: pages } = site)
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
  site?.stop()
  await rm(folder, { recursive: true })
})

beforeEach(() => {
  pages.clear()
  calls().length = 0
  upstream.lane('u').answers(completionsStream(['fine']))
})

const calls = () => upstream.lane('u').calls

const start = (args: readonly string[], token?: string) =>
  startCommand('scripts/warm.ts', args, { folder, ...(token === undefined ? {} : { token }) })

const run = (args: readonly string[], token?: string) => start(args, token).exit

const worker = () => ['--url', String(workers.url)]

describe('a list', () => {
  async function script(list: unknown, token?: string, more: string[] = []) {
    const file = join(folder, 'prompts.json')
    await writeFile(file, JSON.stringify(list))
    return await run([file, ...worker(), ...more], token)
  }

  test('reports stored, cached and failed requests, and exits with 1 after a failure', async () => {
    upstream.lane('u').answers(async (call, speaking) => {
      const bad = call.text.includes('bad')
      await (bad ? refusal(400) : completionsStream(['fine']))(call, speaking)
    })
    const first = await script(['one', { prompt: 'two', max_tokens: 5 }])
    expect([first.code, first.err]).toEqual([0, ''])
    expect(first.out).toMatch(/^stored {9}#[12] "(one|two)" {2}12 tokens\n/)
    expect(first.out).toMatch(/stored\s+2\ncached\s+0\nfailed\s+0\ntokens spent\s+24\n$/)
    // Without a terminal, it prints plain lines.
    expect(first.out).not.toMatch(/[█\r]/)
    await expect.poll(async () => (await workers.kvEntries()).size).toBe(2)
    const second = await script(['one', { prompt: 'two', max_tokens: 5 }, 'bad', 'three'])
    expect(second.code).toBe(1)
    expect(second.out).toMatch(/stored\s+1\ncached\s+2\nfailed\s+1\ntokens spent\s+12\n/)
    expect(second.out).toMatch(
      /\nfailed {9}#3 "bad" {2}400 upstream_refused_request: The model .+\n$/,
    )
    expect(second.out.split('#3 "bad"')).toHaveLength(2)
    expect(calls()).toHaveLength(4)
  })

  test('fails without an upstream call if the token or the list is missing or wrong', async () => {
    const none = await script(['x'], '')
    expect([none.code, none.err]).toEqual([2, expect.stringContaining('OPERATOR_TOKEN')])
    const wrong = await script(['x'], 'wrong')
    expect([wrong.code, wrong.out]).toEqual([2, ''])
    expect(wrong.err).toMatch(/^Cannot warm: OPERATOR_TOKEN does not match the secret.*restart/)
    const list = await script({ prompt: 'x' })
    expect([list.code, list.err]).toEqual([2, expect.stringContaining('expected a JSON array')])
    expect(calls()).toEqual([])
  })

  test('reads the token of .dev.vars unless the variable is set', async () => {
    const file = join(folder, '.dev.vars')
    await writeFile(file, `UPSTREAM_API_KEY=x\nOPERATOR_TOKEN="${OPERATOR_TOKEN}"\n`)
    const found = await script(['from .dev.vars'], '')
    const wrong = await script(['from .dev.vars'], 'wrong')
    await rm(file)
    expect([found.code, found.err]).toEqual([0, ''])
    expect(found.out).toMatch(/stored\s+1\n/)
    expect(wrong.code).toBe(2)
  })

  test('does not take a .dev.vars that cannot be read for a missing one', async () => {
    const file = join(folder, '.dev.vars')
    await mkdir(file)
    const { code, err } = await script(['x'], '')
    await rm(file, { recursive: true })
    expect([code, err]).toEqual([2, 'Cannot read .dev.vars: EISDIR\n'])
  })

  test('--help prints the usage without a token', async () => {
    const { code, out, err } = await run(['--help'], '')
    expect([code, err]).toEqual([0, ''])
    expect(out).toMatch(/^Usage[\s\S]*--out /)
  })

  test('fails before the first request if the address is not that of a Worker', async () => {
    const file = join(folder, 'prompts.json')
    await writeFile(file, '["x"]')
    const other = await run([file, '--url', origin])
    expect([other.code, other.err]).toEqual([
      2,
      `Cannot warm: ${origin}/ answered 404, not from an edge-completions Worker\n`,
    ])
    const unreachable = await run([file, '--url', 'http://127.0.0.1:1'])
    expect([unreachable.code, unreachable.err]).toEqual([
      2,
      'Cannot reach the Worker at http://127.0.0.1:1/: no connection\n',
    ])
  })
})

describe('a sitemap', () => {
  const sitemapArgs = () => [
    ...['--sitemap', `${origin}/sitemap.xml`, '--prompt', 'summary'],
    ...['--variable', 'language=English', ...worker()],
  ]

  /** Publishes posts by name and text, and lists them in a sitemap below an index. */
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

  /** The status and text that a visitor gets for a post. */
  async function visit(name: string) {
    const query = new URLSearchParams({
      prompt_id: 'summary',
      'var.page': `${origin}/posts/${name}`,
      'var.language': 'English',
    })
    // Only a local Worker may read pages of a local site.
    const headers = { host: workers.url.host, origin }
    const reply = await workers.client().send({ path: `/v1/completions?${query}`, headers })
    return [reply.status, JSON.parse(reply.text).choices?.[0]?.text]
  }

  test('every page is warmed, and visitors find the answers', async () => {
    publish({ a: 'First post', b: 'Second post' }, [`${origin}/about`, 'https://b.example/posts/a'])
    const { code, out, err } = await run(sitemapArgs())
    expect([code, err]).toEqual([0, ''])
    expect(out).toContain(`skipped        ${origin}/about  its path is not one of the "paths"`)
    expect(out).toContain('skipped        https://b.example/posts/a  its origin is not')
    expect(out).toMatch(/stored\s+2\ncached\s+0\nfailed\s+0\ntokens spent\s+24\n$/)
    const texts = calls().map(({ text }) => text)
    expect(texts.filter((text) => text.includes('First post'))).toHaveLength(1)
    expect(texts.join()).not.toMatch(/Home|no\(\)/)
    expect([await visit('a'), await visit('b')]).toEqual([
      [200, 'fine'],
      [200, 'fine'],
    ])
    expect(calls()).toHaveLength(2)
  })

  test('an unreadable sitemap of an index is reported last, and the exit code is 1', async () => {
    publish({ p: 'Page p' })
    const sitemaps = ['posts.xml', 'gone.xml'].map((name) => `<loc>${origin}/${name}</loc>`)
    pages.set(
      '/sitemap.xml',
      `<sitemapindex>${sitemaps.map((loc) => `<sitemap>${loc}</sitemap>`).join('')}</sitemapindex>`,
    )
    const report = `failed         ${origin}/gone.xml  cannot read the sitemap: the site returned 404\n`
    const dry = await run([...sitemapArgs(), '--dry-run'])
    expect([dry.code, calls()]).toEqual([1, []])
    expect(dry.out).toMatch(/missing\s+1\n/)
    expect(dry.out.endsWith(report)).toBe(true)
    const { code, out, err } = await run(sitemapArgs())
    expect([code, err, calls().length]).toEqual([1, '', 1])
    expect(out).toMatch(/stored\s+1\ncached\s+0\nfailed\s+0\ntokens spent\s+12\n/)
    expect(out.endsWith(report)).toBe(true)
    expect(await visit('p')).toEqual([200, 'fine'])
    pages.delete('/posts.xml')
    const none = await run(sitemapArgs())
    expect([none.code, none.err]).toEqual([2, expect.stringContaining('has no page that this')])
    expect(none.out).toContain(report)
  })

  test('a dry run counts and estimates, and spends nothing', async () => {
    publish({ e: 'Fifth post', f: 'x'.repeat(9000), g: 'Seventh post' })
    const before = await run([...sitemapArgs(), '--dry-run'])
    expect(before.out).toMatch(/cached\s+0\nmissing\s+3\nfailed\s+0\nabout 106 input tokens/)
    expect(before.out).toContain('Input is estimated')
    expect([before.code, calls()]).toEqual([0, []])
    publish({ e: 'Fifth post' })
    await run(sitemapArgs())
    publish({ e: 'Fifth post', f: 'x'.repeat(9000) })
    const after = await run([...sitemapArgs(), '--dry-run'])
    expect(after.out).toMatch(/cached\s+1\nmissing\s+1\nfailed\s+0\nabout 100 input tokens/)
    expect(calls()).toHaveLength(1)
  })

  test('an unknown prompt is an error, and nothing is spent', async () => {
    publish({ a: 'First post' })
    const { code, err } = await run([...sitemapArgs(), '--prompt', 'nothing'])
    const message = 'Cannot find the prompt "nothing": the Worker has summary'
    expect([code, err]).toEqual([2, expect.stringContaining(message)])
    expect(calls()).toEqual([])
  })

  describe('--out', () => {
    const outFile = () => join(folder, 'summaries.json')
    const runOut = () => run([...sitemapArgs(), '--out', 'summaries.json'])
    const written = () => readFile(outFile(), 'utf8')

    afterEach(() => rm(outFile(), { force: true }))

    test('writes the summaries by path, sorted, and changes the lines of changed pages only', async () => {
      publish({ v: 'Page v', t: 'Page t', u: 'Page u' })
      const { code, out } = await runOut()
      expect([code, out]).toEqual([0, expect.stringMatching(/summaries.json has .* of 3 pages\n$/)])
      const first = '{\n  "/posts/t": "fine",\n  "/posts/u": "fine",\n  "/posts/v": "fine"\n}\n'
      expect(await written()).toBe(first)
      const { mtimeMs } = await stat(outFile())
      upstream.lane('u').answers(completionsStream([' new “text”\n']))
      await runOut()
      expect((await stat(outFile())).mtimeMs).toBe(mtimeMs)
      publish({ t: 'Page t', u: 'Page u has changed', w: 'Page w' })
      await runOut()
      expect(await written()).toBe(
        '{\n  "/posts/t": "fine",\n  "/posts/u": "new “text”",\n  "/posts/w": "new “text”"\n}\n',
      )
    })

    test('creates the folder of the file', async () => {
      publish({ x: 'Page x' })
      const { code, err } = await run([...sitemapArgs(), '--out', 'data/new/summaries.json'])
      expect([code, err]).toEqual([0, ''])
      const text = await readFile(join(folder, 'data/new/summaries.json'), 'utf8')
      expect(JSON.parse(text)).toEqual({ '/posts/x': 'fine' })
    })

    test('spends nothing if its folder cannot be created', async () => {
      publish({ y: 'Page y' })
      await writeFile(outFile(), '{}')
      const { code, err } = await run([...sitemapArgs(), '--out', 'summaries.json/new.json'])
      expect([code, err, calls()]).toEqual([
        2,
        'Cannot read summaries.json/new.json: ENOTDIR\n',
        [],
      ])
    })

    test('leaves out and lists a page without a summary, and keeps the previous one of a page that fails', async () => {
      publish({ q: 'Page q' })
      await runOut()
      upstream.lane('u').answers(refusal(400))
      publish({ q: 'Page q has changed', r: 'Page r' })
      const { code, out } = await runOut()
      expect(code).toBe(1)
      expect(out).toContain(`missing        ${origin}/posts/r  has no summary\n`)
      expect(out).toMatch(/summaries.json has .* of 1 pages\n$/)
      expect(JSON.parse(await written())).toEqual({ '/posts/q': 'fine' })
    })

    test('keeps the entries of a sitemap that cannot be read', async () => {
      publish({ s: 'Page s' })
      await writeFile(outFile(), '{"/news/1": "old", "/posts/s": "old"}')
      const sitemaps = ['posts.xml', 'news.xml'].map((name) => `<loc>${origin}/${name}</loc>`)
      pages.set(
        '/sitemap.xml',
        `<sitemapindex>${sitemaps.map((loc) => `<sitemap>${loc}</sitemap>`).join('')}</sitemapindex>`,
      )
      expect((await runOut()).code).toBe(1)
      expect(JSON.parse(await written())).toEqual({ '/news/1': 'old', '/posts/s': 'fine' })
    })

    test.each(['[]', '{"name": "site"}', 'text'])(
      'does not overwrite a file that holds %s, and spends nothing',
      async (other) => {
        publish({ a: 'Page never warmed' })
        await writeFile(outFile(), other)
        const { code, err } = await runOut()
        expect([code, err]).toEqual([2, expect.stringMatching(/^Cannot use --out summaries.json/)])
        expect([await written(), calls()]).toEqual([other, []])
      },
    )
  })

  test('after Ctrl-C, running requests finish and a second run completes the rest', async () => {
    const { open, opened } = latch()
    upstream.lane('u').answers(async (...call) => {
      await opened
      await completionsStream(['fine'])(...call)
    })
    publish({ i: 'One', j: 'Two', k: 'Three', l: 'Four' })
    const { child, exit } = start([...sitemapArgs(), '--concurrency', '1'])
    await upstream.lane('u').call(1)
    child.kill('SIGINT')
    await once(child.stderr!, 'data')
    // npm repeats the signal that the terminal has already sent.
    child.kill('SIGINT')
    open()
    const { code, out, err } = await exit

    expect(code).toBe(130)
    expect(err).toContain('Waiting for running requests to finish. Press Ctrl-C again to quit now.')
    expect(out).toMatch(/stored\s+1\ncached\s+0\nfailed\s+0\nnot started\s+3\n/)
    expect(out).toContain('run the same command again')
    const again = await run(sitemapArgs())
    expect(again.out).toMatch(/stored\s+3\ncached\s+1\nfailed\s+0\ntokens/)
    expect([again.code, calls()]).toEqual([0, expect.objectContaining({ length: 4 })])
  })

  test('a second Ctrl-C exits immediately', async () => {
    upstream.lane('u').answers(() => {})
    publish({ m: 'Never' })
    const { child, exit } = start(sitemapArgs())
    await upstream.lane('u').call(1)
    child.kill('SIGINT')
    await once(child.stderr!, 'data')
    // Shortly after the first signal, another one is ignored as npm's repetition.
    const again = setInterval(() => child.kill('SIGINT'), 100)
    const { code } = await exit
    clearInterval(again)
    expect(code).toBe(130)
  })
})
