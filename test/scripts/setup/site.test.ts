// What setup finds out about the owner's site.
import { describe, expect, test } from 'vitest'
import { generatorOf } from '../../../scripts/setup/generators.ts'
import { inspectSite } from '../../../scripts/setup/site.ts'

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
