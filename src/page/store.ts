// Reads pages of the owner's site and caches their texts in this isolate's memory for the
// variable's `page_seconds`. Page texts are never stored elsewhere: requests that may not fetch a
// page are served from the last answer instead.

import type { Element } from '../html/node.ts'
import { parseSelectors } from '../html/selector.ts'
import { RecentMap } from '../lru.ts'
import { type PageText, pageText } from '../request/page-text.ts'
import { truncate } from '../truncate.ts'
import { type FetchDeps, fetchPage, PageError, type PageSource, type Validators } from './fetch.ts'

/**
 * Increase this when the same page would yield a different text, so that old versions do not match.
 */
const READER_VERSION = 3
/** The limit for all texts in an isolate. */
const MEMORY_BYTES = 4_194_304
/** The estimated size of a page's entry without its text. */
const PAGE_BYTES = 1000

/** A page to be read. */
export interface Page extends PageSource {
  /** The name by which a purge refers to it. */
  readonly name: string
  readonly selector: string
  readonly maxChars: number
  /** How long a text may be used before the page is fetched again. */
  readonly freshSeconds: number
}

/** The version of a page and how it was read, for a conditional request. */
export interface PageVersion extends Validators {
  readonly read_as: string
}

export interface PageRead {
  readonly text: PageText
  readonly version: PageVersion
}

export interface PagesContext extends FetchDeps {
  /** When these pages were last purged, in unix ms: anything read up to then is invalid. */
  readonly purgedAt: (names: readonly string[]) => number
  /** Unix ms. */
  readonly now: () => number
}

interface CachedPage extends PageRead {
  /** Unix ms, taken before the request was sent. */
  readonly readAt: number
}

export class Pages {
  readonly #context: PagesContext
  readonly #memory = new RecentMap<CachedPage>({
    maxBytes: MEMORY_BYTES,
    bytesOf: ({ text }) => 2 * text.text.length + PAGE_BYTES,
  })

  constructor(context: PagesContext) {
    this.#context = context
  }

  /**
   * The text that this isolate has read within the page's `freshSeconds`; null if there is no such
   * text.
   *
   * @param since unix ms: texts read before this, or before a purge, are not returned
   */
  cached(page: Page, since: number): PageRead | null {
    const { now, purgedAt } = this.#context
    const known = this.#memory.get(memoryKey(page))
    if (known === null || now() - known.readAt >= page.freshSeconds * 1000) return null
    return known.readAt > purgedAt([page.name]) && known.readAt >= since ? known : null
  }

  /**
   * Fetches a page, conditionally if this isolate has read it before.
   *
   * @param known a version that the caller has an answer for; used if this isolate has no text
   * @returns null if the page still is the known version, whose text this isolate does not have
   * @throws PageError
   */
  async read(page: Page, known: PageVersion | null): Promise<PageRead | null> {
    const { now, purgedAt } = this.#context
    const key = memoryKey(page)
    const readAt = now()
    const last = this.#memory.get(key)
    const own = last !== null && last.readAt > purgedAt([page.name]) ? last : null
    const version = own?.version ?? known
    const isSame = version?.read_as === key && (version.etag ?? version.last_modified) !== null
    const fetched = await fetchPage(page, isSame ? version : null, this.#context)
    if (fetched === null && own === null) return null
    const read =
      fetched === null
        ? { ...(own as CachedPage), readAt }
        : {
            text: await pageText(await textOf(fetched.document, page)),
            version: { read_as: key, ...fetched.validators },
            readAt,
          }
    this.#memory.set(key, read)
    return read
  }
}

/** @throws PageError `empty` */
async function textOf(document: Element | string, { selector, maxChars }: Page): Promise<string> {
  // As in fetch.ts, when it is needed.
  const { collapseSpace, readableText } = await import('./text.ts')
  const text =
    typeof document === 'string'
      ? collapseSpace(document)
      : readableText(document, parseSelectors(selector) ?? [])
  if (text === '') throw new PageError('empty')
  return truncate(text, maxChars)
}

/** The memory key: everything that the text depends on besides the page's content. */
function memoryKey({ url, selector, maxChars }: Page): string {
  return JSON.stringify([READER_VERSION, url.href, selector, maxChars])
}
