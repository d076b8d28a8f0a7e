// Looks at the owner's site: its generator, its sitemap and its origins. A site that cannot be reached
// is no failure: setup then uses what fits any site.
import { readAtMost } from '../operator/body.ts'
import type { Fetch } from '../operator/gateway.ts'
import { LimitError, readSitemap } from '../operator/sitemap.ts'
import { type GeneratorId, generatorOf } from './generators.ts'
import { isPrivateHost } from './hosts.ts'

export interface Site {
  /** As the owner wrote it. */
  readonly url: URL
  /** The origins that browsers may send: as written, and after redirects. */
  readonly origins: readonly string[]
  readonly generator: GeneratorId
  readonly sitemap: string | null
  /** A sitemap that robots.txt names on another host, which is not read. */
  readonly otherSitemap: string | null
  /** The folder of its first page, such as "/" or "/blog/". */
  readonly folder: string
  /** The paths of the pages that are worth a summary. */
  readonly paths: readonly string[]
  /** Why the page could not be read; null: it could. */
  readonly problem: string | null
}

const PAGE_MS = 10_000
const PAGE_BYTES = 2_097_152
/** Of robots.txt, which may name thousands. */
const MAX_NAMED = 10
const MAX_REDIRECTS = 5
/** Enough for some ten thousand pages. */
const SITEMAP_LIMITS = { sitemaps: 50, bytes: 20_971_520, marks: 250_000 }

export interface SiteLimits {
  /** The time for everything that is read of the site. */
  readonly ms: number
}

export async function inspectSite(
  url: URL,
  fetch: Fetch,
  { ms }: SiteLimits = { ms: 30_000 },
): Promise<Site> {
  const endsAt = performance.now() + ms
  const visit = (mayVisit: (to: URL) => boolean) => visiting(fetch, endsAt, mayVisit)
  // A site on the internet must not have this machine call another one of its network.
  const mayRedirect = (to: URL) => isPrivateHost(url) || !isPrivateHost(to)
  const page = await readPage(url, visit(mayRedirect))
  const home = page.ok ? new URL(page.url) : url
  const origins = [...new Set([url.origin, home.origin])]
  // Where there is no page, there is no sitemap either.
  const isOwn = (to: URL) => [url, home].some(({ host }) => siteOf(host) === siteOf(to.host))
  const found = page.ok ? await findSitemap(home, isOwn, visit(isOwn)) : null
  const folder = folderOf(home)
  return {
    url,
    origins,
    generator: page.ok ? generatorOf(page.text) : 'html',
    sitemap: found?.sitemap ?? null,
    otherSitemap: found?.other ?? null,
    folder,
    paths: pathsOf(folder, found?.pages ?? []),
    problem: page.ok ? null : page.problem,
  }
}

type Page =
  | { readonly ok: true; readonly url: string; readonly text: string }
  | { readonly ok: false; readonly problem: string }

async function readPage(url: URL, fetch: Fetch): Promise<Page> {
  try {
    const response = await fetch(new Request(url))
    const text = (await readAtMost(response, PAGE_BYTES)).bytes.toString('utf8')
    // A page of errors may also have a generator, but nothing else that would be right.
    if (response.ok) return { ok: true, url: response.url || url.href, text }
    return { ok: false, problem: `it answered ${response.status}` }
  } catch (error) {
    const isLate = error instanceof Error && error.name === 'TimeoutError'
    return { ok: false, problem: isLate ? 'it did not answer in time' : 'no connection' }
  }
}

const folderOf = ({ pathname }: URL) => pathname.slice(0, pathname.lastIndexOf('/') + 1)

const SITEMAPS = ['sitemap.xml', 'sitemap-index.xml', 'sitemap_index.xml']

async function findSitemap(home: URL, isOwn: (url: URL) => boolean, fetch: Fetch) {
  const robots = await readPage(new URL('/robots.txt', home), fetch)
  const named = robots.ok ? sitemapsIn(robots.text, home) : []
  const folders = [...new Set([folderOf(home), '/'])]
  const usual = folders.flatMap((folder) => SITEMAPS.map((name) => new URL(folder + name, home)))
  const other = named.find((url) => !isOwn(url))?.href ?? null
  for (const { href } of [...named.filter(isOwn), ...usual]) {
    const pages = await pagesOf(href, fetch)
    if (pages !== null) return { sitemap: href, pages, other: null }
  }
  return { sitemap: null, pages: [], other }
}

function sitemapsIn(robots: string, home: URL): URL[] {
  return [...robots.matchAll(/^[ \t]*sitemap[ \t]*:[ \t]*(\S+)/gim)]
    .slice(0, MAX_NAMED)
    .flatMap(([, url = '']) => (URL.canParse(url, home.href) ? [new URL(url, home)] : []))
    .filter(({ protocol }) => /^https?:$/.test(protocol))
}

/** @returns null: there is no sitemap */
async function pagesOf(sitemap: string, fetch: Fetch): Promise<readonly string[] | null> {
  try {
    return (await readSitemap(sitemap, fetch, SITEMAP_LIMITS)).pages
  } catch (error) {
    // It is there, and too large to be looked through for this.
    return error instanceof LimitError ? [] : null
  }
}

/** The same for a site with and without "www". */
const siteOf = (host: string) => host.replace(/^www\./, '')

/** Requests until a point in time. Their redirects are followed to addresses that may be visited only. */
function visiting(fetch: Fetch, endsAt: number, mayVisit: (to: URL) => boolean): Fetch {
  return async ({ url: first }) => {
    let url = first
    for (let redirects = 0; redirects <= MAX_REDIRECTS; redirects += 1) {
      const ms = Math.min(PAGE_MS, Math.ceil(endsAt - performance.now()))
      if (ms <= 0) throw new DOMException('', 'TimeoutError')
      const signal = AbortSignal.timeout(ms)
      const response = await fetch(new Request(url, { signal, redirect: 'manual' }))
      const location = response.headers.get('location')
      if (location === null || !REDIRECTS.has(response.status)) return response
      await response.body?.cancel()
      const to = new URL(location, url)
      if (!/^https?:$/.test(to.protocol) || !mayVisit(to))
        return new Response(null, { status: 403 })
      url = to.href
    }
    throw new TypeError('too many redirects')
  }
}

const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308])

/** Folders of what people read, in the themes of all generators. */
const sections = [
  ...['posts', 'post', 'blog', 'articles', 'article', 'notes', 'writing', 'essays', 'news'],
  ...['docs', 'guide', 'guides', 'tutorials', 'learn'],
]

/** The sections of a site that its sitemap has pages of, as patterns; all of it without a known one. */
function pathsOf(folder: string, pages: readonly string[]): string[] {
  const paths = pages.flatMap((page) => (URL.canParse(page) ? [new URL(page).pathname] : []))
  const used = sections
    .map((section) => `${folder}${section}/`)
    .filter((start) => paths.some((path) => path.startsWith(start) && path !== start))
  return used.length > 0 ? used.map((start) => `${start}*`) : [`${folder}*`]
}
