// What is to be done: the pages to index, and those that left the sitemap.
import { pageNameOf } from '../../src/page/rules.ts'
import type { Fetch } from '../operator/gateway.ts'
import { sitePages } from '../operator/pages.ts'
import { readSitemap, type Skipped } from '../operator/sitemap.ts'
import type { Arguments } from './arguments.ts'
import type { IndexedPage } from './site.ts'

export interface Plan {
  readonly pages: readonly URL[]
  readonly skipped: readonly Skipped[]
  /** Sitemaps that could not be read, so their pages are missing. */
  readonly unread: readonly Skipped[]
  /** The origin whose pages may be removed; null if nothing may be removed. */
  readonly removesFrom: string | null
  /** Why nothing may be removed although it was asked for. */
  readonly keepsBecause: string | null
}

/** @throws Error with a message for the user */
export async function planOf(args: Arguments, fetch: Fetch): Promise<Plan> {
  const given = new Map(args.pages.map((url) => [pageNameOf(url), url]))
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
    removesFrom: args.keep || keepsBecause !== null ? null : sitemap.origin,
    keepsBecause: args.keep ? null : keepsBecause,
  }
}

/** The addresses of indexed pages of the sitemap's origin that are not to stay. */
export function pagesToRemove(
  { removesFrom }: Plan,
  indexed: ReadonlyMap<string, IndexedPage>,
  stay: readonly URL[],
): string[] {
  const names = new Set(stay.map(pageNameOf))
  return [...indexed]
    .filter(([name, { url }]) => new URL(url).origin === removesFrom && !names.has(name))
    .map(([, { url }]) => url)
}
