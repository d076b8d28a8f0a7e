// Finds the stored answer to a request, and decides when the pages behind it are read.
//
// A page is fetched only for a request that may also generate. A GET, a visitor's `only-if-cached`
// and visitors of a prompt with spend = "operator" are served the last answer to the prompt and
// these variables. The operator's POST always checks the page. A visitor's POST checks it if the
// last answer is not fresh or older than `page_seconds`, and gets the last answer if no newer one
// can be made.
import { isWithin, rateLimited, type VisitorLimit } from '../access/rate-limit.ts'
import { ageOf, isFresh } from '../cache/entry.ts'
import type { Found, TieredCache } from '../cache/store.ts'
import { GatewayError } from '../errors.ts'
import type { PageFault, Report } from '../events.ts'
import type { Work } from '../flight/generate.ts'
import { RecentMap } from '../lru.ts'
import type { AdmittedPages, PagesRead, PageVariables } from './page-variables.ts'
import type { ResolvedRequest } from './resolve.ts'

export interface LookupsDeps {
  readonly cache: TieredCache
  readonly pageVariables: PageVariables
  readonly spendLimit: VisitorLimit
  readonly report: Report
  /** Unix ms. */
  readonly now: () => number
}

export interface FoundAnswer extends Found {
  /** The prompt, its model or their parameters have changed since it was generated. */
  readonly isPrevious: boolean
}

/** A POST that may spend, with its pages read. */
export interface Prepared {
  /** Null: no new answer may be generated, `found` is the response. */
  readonly work: Work | null
  /** The answer to exactly this work; the last answer if there is no work. */
  readonly found: FoundAnswer | null
  /** The answer to an earlier version of the pages, in case a new one cannot be generated. */
  readonly older: FoundAnswer | null
}

/** While one request checks a page, others are served the last answer, for this time at most. */
const CHECKING_MS = 10_000
/** How long a page is not checked again after it could not be read. */
const REST_MS = 60_000
const MEMORY_BYTES = 262_144
const CHECK_BYTES = 100

/** This isolate's last check of the pages behind a last answer; unix ms. */
interface PageCheck {
  /** When they were last found unchanged. */
  readonly unchangedAt: number
  /** They are not checked before this time. */
  readonly restUntil: number
}

export class Lookups {
  readonly #deps: LookupsDeps
  readonly #checks = new RecentMap<PageCheck>({
    maxBytes: MEMORY_BYTES,
    bytesOf: () => CHECK_BYTES,
  })

  constructor(deps: LookupsDeps) {
    this.#deps = deps
  }

  /** The stored answer that can be served to this request without reading a page. */
  async find({ work, pages, takesLast }: ResolvedRequest): Promise<FoundAnswer | null> {
    const { cache, now } = this.#deps
    const { storedUnder, source, key } = work
    let found = await cache.get(storedUnder)
    // It may have been stored before the prompt had last answers.
    if (found === null && source !== null && pages === null) found = await cache.get(key)
    if (found === null) return null
    const { entry } = found.cached
    const isPrevious = source !== null && (entry.source?.recipe ?? entry.key) !== source.recipe
    const isOld = isPrevious || ageOf(entry, now()).freshness === 'expired'
    return isOld && !takesLast ? null : { ...found, isPrevious }
  }

  /**
   * Reads the pages of a POST that may spend, if they are due.
   *
   * @param found the result of `find`
   * @throws GatewayError `page_unavailable`, `page_not_allowed`, `rate_limited`
   */
  async prepare(resolved: ResolvedRequest, found: FoundAnswer | null): Promise<Prepared> {
    const { work, pages, isOperator, directives } = resolved
    if (pages === null) {
      // Only the operator gets here with a prompt without pages, and does not get an older version's answer.
      const isSame = found !== null && sentKey(found) === work.key
      return isSame ? { work, found, older: null } : { work, found: null, older: null }
    }
    if (isOperator) {
      return await this.#compared(resolved, found, await this.#fetch(resolved, pages, found))
    }
    const last: Prepared = { work: null, found, older: null }
    if (directives.onlyIfCached || (found !== null && !this.#isDue(resolved, pages, found)))
      return last
    const { pageVariables } = this.#deps
    const since = found?.cached.entry.confirmed_at ?? 0
    try {
      const cached = pageVariables.cached(pages, since)
      const read = cached ?? (await this.#check(resolved, pages, found))
      return await this.#compared(resolved, found, read)
    } catch (error) {
      if (found === null || !(error instanceof GatewayError)) throw error
      return last
    }
  }

  #isDue({ work }: ResolvedRequest, pages: AdmittedPages, { cached }: FoundAnswer): boolean {
    const { now } = this.#deps
    const { entry } = cached
    const { unchangedAt, restUntil } = this.#checkOf(work)
    if (now() < restUntil) return false
    if (!isFresh(entry, now())) return true
    const freshMs = Math.min(...[...pages.values()].map(({ page }) => page.freshSeconds * 1000))
    return now() >= Math.max(entry.confirmed_at, unchangedAt) + freshMs
  }

  /** Fetches pages for a visitor: rate limited; if there is an answer, one request at a time. */
  async #check(resolved: ResolvedRequest, pages: AdmittedPages, found: FoundAnswer | null) {
    const { pageVariables, spendLimit, now } = this.#deps
    const { work } = resolved
    // These two refuse this visitor only, so they come before the check is recorded.
    pageVariables.refuseUnlisted(pages)
    if (!(await isWithin(spendLimit, work.visitor))) throw rateLimited('spend')
    if (found !== null) this.#note(work, { restUntil: now() + CHECKING_MS })
    try {
      return await this.#fetch(resolved, pages, found)
    } catch (error) {
      if (found !== null) this.#note(work, { restUntil: now() + REST_MS })
      throw error
    }
  }

  async #fetch({ work }: ResolvedRequest, pages: AdmittedPages, found: FoundAnswer | null) {
    const { pageVariables, report, now } = this.#deps
    const entry = found?.cached.entry
    // A new answer is generated if this one is not fresh, which needs even unchanged texts.
    const known = entry !== undefined && isFresh(entry, now()) ? entry.source?.pages : undefined
    const failed = (reason: PageFault) =>
      report({ event: 'page_failed', request_id: work.requestId, reason })
    return await pageVariables.read(pages, known ?? null, failed)
  }

  /** @param read null: the found answer was generated from the current versions of the pages */
  async #compared(
    { work, withPages, isOperator }: ResolvedRequest,
    found: FoundAnswer | null,
    read: PagesRead | null,
  ): Promise<Prepared> {
    const full = read === null ? null : await withPages(read)
    const isSame = full === null || found?.cached.entry.source?.key === full.key
    if (isSame) {
      this.#note(work, { unchangedAt: this.#deps.now(), restUntil: 0 })
      return { work: full, found, older: null }
    }
    return { work: full, found: null, older: isOperator ? null : found }
  }

  #checkOf({ storedUnder }: Work): PageCheck {
    return this.#checks.get(storedUnder) ?? { unchangedAt: 0, restUntil: 0 }
  }

  #note(work: Work, change: Partial<PageCheck>): void {
    this.#checks.set(work.storedUnder, { ...this.#checkOf(work), ...change })
  }
}

/** The key of the request that was sent upstream. */
function sentKey({ cached: { entry } }: Found): string {
  return entry.source?.key ?? entry.key
}
