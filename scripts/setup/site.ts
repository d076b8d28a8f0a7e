// Looks at the owner's site: its generator, its sitemap and its origins. A site that cannot be reached
// is no failure: setup then uses what fits any site.
import type { Fetch } from '../operator/gateway.ts'
import { readSitemap } from '../operator/sitemap.ts'
import { type GeneratorId, generatorOf } from './generators.ts'

export interface Site {
  /** As the owner wrote it. */
  readonly url: URL
  /** The origins that browsers may send: as written, and after redirects. */
  readonly origins: readonly string[]
  readonly generator: GeneratorId
  readonly sitemap: string | null
  /** The folder of its first page, such as "/" or "/blog/". */
  readonly folder: string
  /** The paths of the pages that are worth a summary. */
  readonly paths: readonly string[]
  /** Why the page could not be read; null: it could. */
  readonly problem: string | null
}

const PAGE_MS = 10_000
const PAGE_CHARS = 2_000_000

export async function inspectSite(url: URL, fetch: Fetch): Promise<Site> {
  const page = await readPage(url, fetch)
  const home = page.ok ? new URL(page.url) : url
  const origins = [...new Set([url.origin, home.origin])]
  // Where there is no page, there is no sitemap either.
  const found = page.ok ? await findSitemap(home, fetch) : null
  const folder = folderOf(home)
  return {
    url,
    origins,
    generator: page.ok ? generatorOf(page.text) : 'html',
    sitemap: found?.sitemap ?? null,
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
    const response = await fetch(new Request(url, { signal: AbortSignal.timeout(PAGE_MS) }))
    const text = (await response.text()).slice(0, PAGE_CHARS)
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

async function findSitemap(home: URL, fetch: Fetch) {
  const robots = await readPage(new URL('/robots.txt', home), fetch)
  const named = robots.ok
    ? [...robots.text.matchAll(/^\s*sitemap\s*:\s*(\S+)/gim)].map(([, url = '']) => url)
    : []
  const folders = [...new Set([folderOf(home), '/'])]
  const usual = folders.flatMap((folder) => SITEMAPS.map((name) => folder + name))
  for (const candidate of [...named, ...usual]) {
    const url = URL.canParse(candidate, home.href) ? new URL(candidate, home) : null
    if (url === null || !/^https?:$/.test(url.protocol)) continue
    const limits = { ms: PAGE_MS, sitemaps: 50 }
    const sitemap = await readSitemap(url.href, fetch, limits).catch(() => null)
    if (sitemap !== null) return { sitemap: url.href, pages: sitemap.pages }
  }
  return null
}

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
