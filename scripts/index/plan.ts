// What is to be done: the pages to index, and those that left the sitemap.
import { canonicalAddressOf } from '../../src/page/rules.ts'
import type { Fetch } from '../operator/gateway.ts'
import { type SitePages, sitePages } from '../operator/pages.ts'
import { readSitemap, type Skipped } from '../operator/sitemap.ts'
import type { Arguments } from './arguments.ts'
import type { IndexedPage } from './site.ts'

export interface Plan {
  readonly pages: readonly URL[]
  readonly skipped: readonly Skipped[]
  /** Sitemaps that could not be read, so their pages are missing. */
  readonly unread: readonly Skipped[]
  /** What the addresses of pages that may be removed begin with; null if nothing may be removed. */
  readonly removesFrom: string | null
  /** Why nothing may be removed although it was asked for. */
  readonly keepsBecause: string | null
}

/** @throws Error with a message for the user */
export async function planOf(args: Arguments, fetch: Fetch): Promise<Plan> {
  const given = new Map(args.pages.map((url) => [canonicalAddressOf(url), url]))
  if (args.sitemap === null) {
    const none = { skipped: [], unread: [], removesFrom: null, keepsBecause: null }
    return { pages: [...given.values()], ...none }
  }
  const sitemap = await readSitemap(args.sitemap, fetch)
  const { pages, skipped } = sitePages(sitemap)
  const all = new Map([...pages, ...given])
  const keepsBecause =
    pages.size === 0
      ? `${args.sitemap} has no page of ${sitemap.origin}`
      : sitemap.unread.length + sitemap.skipped.length > 0
        ? 'the sitemap could not be read completely'
        : null
  return {
    pages: [...all.values()],
    skipped: [...sitemap.skipped, ...skipped],
    unread: sitemap.unread,
    removesFrom:
      args.keep || keepsBecause !== null ? null : scopeOf(args.sitemap, sitemap.origin, pages),
    keepsBecause: args.keep ? null : keepsBecause,
  }
}

/**
 * What the addresses of a sitemap's pages begin with: its folder if it lists no others, as sites of one
 * origin may have a sitemap each (https://www.sitemaps.org/protocol.html#location), else the origin.
 */
function scopeOf(sitemap: string, origin: string, pages: SitePages['pages']): string {
  const folder = origin + new URL('.', sitemap).pathname
  const isInside = [...pages.values()].every(({ href }) => href.startsWith(folder))
  return isInside ? folder : `${origin}/`
}

/** The addresses of indexed pages of the sitemap that are not to stay. */
export function pagesToRemove(
  { removesFrom }: Plan,
  indexed: ReadonlyMap<string, IndexedPage>,
  stay: readonly URL[],
): string[] {
  const names = new Set(stay.map(canonicalAddressOf))
  return [...indexed]
    .filter(
      ([name, { url }]) => removesFrom !== null && url.startsWith(removesFrom) && !names.has(name),
    )
    .map(([, { url }]) => url)
}
