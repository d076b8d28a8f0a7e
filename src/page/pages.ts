// Pages of the owner's site as this isolate reads them. A text is remembered for as long as another
// request may use it (`page_seconds` of the variable), in memory only: what visitors find without a
// page being read is the last answer made from it, not its text.
import { type PageText, pageText } from '../completion/page-text.ts'
import { RecentMap } from '../recent.ts'
import { type FetchContext, type FetchOptions, fetchPage } from './fetch.ts'

/** Raise it when the same page would be read as another text, so that no version is taken for one. */
const READING = 2
/** For the texts in an isolate. */
const MEMORY_BYTES = 4_194_304
/** Of a page besides its text. */
const PAGE_BYTES = 1000

/** A page to be read. */
export interface Page extends FetchOptions {
  readonly url: URL
  /** What a purge names it by. */
  readonly name: string
  /** How long a text that was read is used without another look at the page. */
  readonly freshSeconds: number
}

/** Which version of a page was read, and how: the page is asked whether it still is that one. */
export interface PageVersion {
  readonly read_as: string
  readonly etag: string | null
  readonly last_modified: string | null
}

export interface PageRead {
  readonly text: PageText
  readonly version: PageVersion
}

export interface PagesContext extends FetchContext {
  /** Up to when, in unix ms, what was made from the page of this name is void. */
  readonly purgedAt: (names: readonly string[]) => number
  /** Unix ms. */
  readonly now: () => number
}

interface RememberedPage extends PageRead {
  /** Unix ms, from before it was asked for. */
  readonly readAt: number
}

export class Pages {
  readonly #context: PagesContext
  readonly #memory = new RecentMap<RememberedPage>({
    maxBytes: MEMORY_BYTES,
    bytesOf: ({ text }) => 2 * text.text.length + PAGE_BYTES,
  })

  constructor(context: PagesContext) {
    this.#context = context
  }

  /**
   * What this isolate has read within the page's `freshSeconds`; null: nothing.
   *
   * @param since unix ms: what was read before is too old, as is what was read before a purge
   */
  remembered(page: Page, since: number): PageRead | null {
    const { now, purgedAt } = this.#context
    const known = this.#memory.get(readAs(page))
    if (known === null || now() - known.readAt >= page.freshSeconds * 1000) return null
    return known.readAt > purgedAt([page.name]) && known.readAt >= since ? known : null
  }

  /**
   * Fetches a page. It may answer that it is still the version that was read here before.
   *
   * @param known another version that will do: it may as well be that one
   * @returns null where it is the known version, whose text is not at hand
   * @throws PageError
   */
  async read(page: Page, known: PageVersion | null): Promise<PageRead | null> {
    const { now, purgedAt } = this.#context
    const key = readAs(page)
    const readAt = now()
    const last = this.#memory.get(key)
    const own = last !== null && last.readAt > purgedAt([page.name]) ? last : null
    const version = own?.version ?? known
    const isSame = version?.read_as === key && (version.etag ?? version.last_modified) !== null
    const fetched = await fetchPage(page.url, isSame ? version : null, page, this.#context)
    if (fetched.kind === 'unchanged' && own === null) return null
    const read =
      fetched.kind === 'read'
        ? {
            text: await pageText(fetched.text),
            version: { read_as: key, ...fetched.validators },
            readAt,
          }
        : { ...(own as RememberedPage), readAt }
    this.#memory.set(key, read)
    return read
  }
}

/** What a text depends on besides the page. */
function readAs({ url, selector, maxChars }: Page): string {
  return JSON.stringify([READING, url.href, selector, maxChars])
}
