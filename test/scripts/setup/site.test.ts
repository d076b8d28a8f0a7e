// What setup finds out about the owner's site.
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { generatorOf } from '../../../scripts/setup/generators.ts'
import { inspectSite } from '../../../scripts/setup/site.ts'
import { cpuMs } from '../../support/cpu.ts'
import { SiteServer } from '../../support/site-server.ts'

describe('the generator of a page', () => {
  test.each([
    ['astro', '<meta name="generator" content="Astro v7.0.2">'],
    ['astro', '<meta name=generator content="Starlight v1.0">'],
    ['vitepress', '<meta content="VitePress v2.0.0" name="generator">'],
    ['eleventy', "<meta name='generator' content='Eleventy v4.0.0'>"],
    ['hugo', '<meta name=generator content="Hugo 0.160.0">'],
    ['docusaurus', '<meta name="generator" content="Docusaurus v4.0.0">'],
    ['jekyll', '<meta name="generator" content="Jekyll v5.0.0" />'],
    ['hexo', '<meta name="generator" content="Hexo 8.0.0">'],
    ['wordpress', '<meta name="Generator" content="WordPress 7.0" />'],
    ['gatsby', '<meta name="generator" content="Gatsby 6.0.0"/>'],
    ['next', '<meta name="generator" content="Next.js"/>'],
    ['astro', '<link rel="stylesheet" href="/_astro/index.Dk3.css">'],
    ['vitepress', '<script>window.__VP_HASH_MAP__=JSON.parse("{}")</script>'],
    ['docusaurus', '<div id="__docusaurus"></div>'],
    ['jekyll', '<!-- Begin Jekyll SEO tag v2.8.0 -->'],
    ['gatsby', '<div id="___gatsby"></div>'],
    ['next', '<script src="/_next/static/chunks/main.js"></script>'],
    ['wordpress', '<link href="https://example.com/wp-content/themes/x/style.css">'],
    ['html', '<meta name="generator" content="Notepad"><p>Hugo is a name.</p>'],
    ['html', ''],
  ])('is %s for %s', (id, html) => {
    expect(generatorOf(`<!doctype html><html><head>${html}</head></html>`)).toBe(id)
  })

  test('is the one that the page names, even with traces of another', () => {
    const html = '<meta name="generator" content="Astro v7"><img src="/wp-content/x.png">'
    expect(generatorOf(html)).toBe('astro')
  })

  test('is found in linear time', () => {
    const html = '<meta '.repeat(50_000)
    expect(cpuMs(() => generatorOf(html))).toBeLessThan(2500)
  })
})

const urlset = (...pages: string[]) =>
  `<?xml version="1.0"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">${pages
    .map((page) => `<url><loc>${page}</loc></url>`)
    .join('')}</urlset>`

/** A site of these files; everything else is 404. */
function serve(files: Readonly<Record<string, string>>) {
  const asked: string[] = []
  const fetch = async ({ url }: Request) => {
    asked.push(url)
    const body = files[url]
    return new Response(body ?? 'not found', { status: body === undefined ? 404 : 200 })
  }
  return { asked, fetch }
}

const home = 'https://example.com/'

describe('a site', () => {
  test.each([
    ['/sitemap.xml', {}],
    ['/sitemap-index.xml', {}],
    ['/sitemap_index.xml', {}],
    [
      '/maps/all.xml',
      { [`${home}robots.txt`]: 'User-agent: *\nSitemap: https://example.com/maps/all.xml\n' },
    ],
  ])('has its sitemap at %s', async (path, others) => {
    const url = `https://example.com${path}`
    const { fetch } = serve({ [home]: '<p>', [url]: urlset(`${home}posts/a/`), ...others })
    const site = await inspectSite(new URL(home), fetch)
    expect(site).toMatchObject({ sitemap: url, paths: ['/posts/*'], problem: null })
  })

  test('without a sitemap has summaries everywhere', async () => {
    const site = await inspectSite(new URL(home), serve({ [home]: '<p>' }).fetch)
    expect(site).toMatchObject({ sitemap: null, paths: ['/*'], origins: ['https://example.com'] })
  })

  test('whose server answers every address with its first page has no sitemap', async () => {
    const fetch = async () => new Response('<!doctype html><p>Home', { status: 200 })
    expect((await inspectSite(new URL(home), fetch)).sitemap).toBeNull()
  })

  test('in a folder has its sitemap and its posts in that folder', async () => {
    const blog = 'https://me.github.io/blog/'
    const { fetch } = serve({
      [blog]: '<meta name="generator" content="Hugo 0.160.0">',
      [`${blog}sitemap.xml`]: urlset(`${blog}posts/`, `${blog}posts/a/`, `${blog}docs/b/`),
    })
    expect(await inspectSite(new URL(blog), fetch)).toMatchObject({
      generator: 'hugo',
      sitemap: `${blog}sitemap.xml`,
      folder: '/blog/',
      paths: ['/blog/posts/*', '/blog/docs/*'],
      origins: ['https://me.github.io'],
    })
  })

  test('that redirects has both origins', async () => {
    const fetch = async ({ url }: Request) => {
      const response = new Response('<p>', { status: url === home ? 200 : 404 })
      Object.defineProperty(response, 'url', { value: url.replace('//', '//www.') })
      return response
    }
    const { origins } = await inspectSite(new URL(home), fetch)
    expect(origins).toEqual(['https://example.com', 'https://www.example.com'])
  })

  test.each([
    ['no connection', async () => Promise.reject(new TypeError('fetch failed'))],
    ['it answered 503', async () => new Response('down', { status: 503 })],
  ])('that cannot be read is no failure: %s', async (problem, fetch) => {
    const site = await inspectSite(new URL(home), fetch)
    expect(site).toMatchObject({ problem, generator: 'html', sitemap: null, paths: ['/*'] })
  })
})

describe('a hostile site', () => {
  let server: SiteServer
  let files: SiteServer['files']
  let site: string

  beforeAll(async () => {
    server = await SiteServer.start()
    files = server.files
    site = server.url('/')
  })
  beforeEach(() => {
    files.clear()
    files.set('/', '<p>')
    server.requests.length = 0
  })
  afterAll(() => server.stop())

  const paths = () => server.requests.map(({ path }) => path)
  const inspect = (ms = 30_000) => inspectSite(new URL(site), fetch, { ms })

  test('cannot have more than a part of its page read, compressed or not', async () => {
    const page = gzipSync(`<meta name="generator" content="Hugo">${'a'.repeat(16_000_000)}`)
    let sent = 0
    let isClosed = false
    files.set('/', (response) => {
      response.setHeader('content-encoding', 'gzip')
      response.on('close', () => {
        isClosed = true
      })
      const more = () => {
        while (!isClosed && response.write(page)) sent += 1
      }
      response.on('drain', more)
      more()
    })
    expect(await inspect()).toMatchObject({ generator: 'hugo', problem: null })
    await expect.poll(() => isClosed).toBe(true)
    // Else the server would go on for ever.
    expect(sent).toBeLessThan(1000)
  })

  test('has one deadline for everything that is read of it', async () => {
    const never = Array.from({ length: 9 }, (_, i) => `/${i}.xml`)
    for (const path of never) files.set(path, () => {})
    files.set('/robots.txt', never.map((path) => `Sitemap: ${path}\n`).join(''))
    const startedAt = performance.now()
    expect(await inspect(1000)).toMatchObject({ problem: null, sitemap: null })
    expect(performance.now() - startedAt).toBeLessThan(5000)
    expect(paths()).toEqual(['/', '/robots.txt', '/0.xml'])
  })

  test('has ten lines of its robots.txt followed', async () => {
    const lines = Array.from({ length: 30 }, (_, i) => `Sitemap: /${i}.xml\n`)
    files.set('/robots.txt', lines.join(''))
    await inspect()
    expect(paths().filter((path) => /\d/.test(path))).toHaveLength(10)
  })

  test('has a sitemap of many tags that is not parsed', async () => {
    const pages = (tags: number) =>
      `<urlset>${'<a/>'.repeat(tags)}<url><loc>${site}posts/a</loc></url></urlset>`
    const sitemap = `${site}sitemap.xml`
    files.set('/sitemap.xml', pages(200_000))
    expect(await inspect()).toMatchObject({ sitemap, paths: ['/posts/*'] })
    files.set('/sitemap.xml', pages(300_000))
    expect(await inspect()).toMatchObject({ sitemap, paths: ['/*'] })
  })

  test('cannot name or redirect to addresses of others', async () => {
    const victim = 'http://10.0.0.1/'
    const public_ = 'https://example.com/'
    const hops: Record<string, string> = { [`${public_}sitemap.xml`]: `${victim}b` }
    const asked: string[] = []
    const visit = async ({ url }: Request) => {
      asked.push(url)
      if (url === public_) return new Response('<p>')
      if (url === `${public_}robots.txt`) {
        return new Response(`Sitemap: ${victim}a\nSitemap: file:///etc/passwd\n`)
      }
      const location = hops[url]
      return location === undefined
        ? new Response(null, { status: 404 })
        : new Response(null, { status: 302, headers: { location } })
    }
    const found = await inspectSite(new URL(public_), visit)
    expect(found).toMatchObject({ sitemap: null, otherSitemap: `${victim}a` })
    hops[`${public_}moved`] = victim
    const moved = await inspectSite(new URL(`${public_}moved`), visit)
    expect(moved.problem).toBe('it answered 403')
    expect(asked.filter((url) => url.startsWith(victim))).toEqual([])
  })

  test('may redirect, and have its sitemap with or without www and https', async () => {
    const hops: Record<string, string> = {
      'http://example.com/': 'https://www.example.com/',
      'http://example.com/map.xml': 'https://www.example.com/map.xml',
    }
    const bodies: Record<string, string> = {
      'https://www.example.com/': '<p>',
      'https://www.example.com/robots.txt': 'Sitemap: http://example.com/map.xml',
      'https://www.example.com/map.xml': urlset('https://www.example.com/posts/a'),
    }
    const found = await inspectSite(new URL('http://example.com/'), async ({ url }) => {
      const location = hops[url]
      const body = bodies[url]
      const response =
        location === undefined
          ? new Response(body ?? null, { status: body === undefined ? 404 : 200 })
          : new Response(null, { status: 301, headers: { location } })
      return Object.defineProperty(response, 'url', { value: url })
    })
    expect(found).toMatchObject({
      origins: ['http://example.com', 'https://www.example.com'],
      sitemap: 'http://example.com/map.xml',
      paths: ['/posts/*'],
    })
  })
})
