// Searches the owner's site: what this isolate remembers, and else the index. A question that is
// remembered needs no call of the object and no rate limit.
import { isWithin, rateLimited, type VisitorLimit } from '../access/rate-limit.ts'
import { inTime } from '../deadline.ts'
import { GatewayError, messages } from '../errors.ts'
import { RecentMap } from '../lru.ts'
import { type Query, queryOf } from './query.ts'
import { normaliseQuestion } from './question.ts'
import type { Found, Matches } from './site-index.ts'

export interface SearchDeps {
  readonly site: SearchClient
  /** The origins whose pages are found. */
  readonly origins: readonly string[]
  readonly limit: VisitorLimit
  /** How long the version of the index is not looked up again. */
  readonly memoryMs: number
  /** Unix ms. */
  readonly now: () => number
}

/** The way to the index. */
export interface SearchClient {
  find(query: Query, limit: number, origins: readonly string[]): Promise<Matches>
  version(): Promise<number>
}

const MEMORY_BYTES = 2_097_152
/** The estimated size of a passage without its texts. */
const PASSAGE_BYTES = 100
/** Longest wait for the object. */
const OBJECT_MS = 5000
const RETRY_AFTER_S = 10

export class Search {
  readonly #deps: SearchDeps
  readonly #remembered = new RecentMap<Matches>({ maxBytes: MEMORY_BYTES, bytesOf })
  #version: number | null = null
  /** When the version was last looked up, successfully or not. */
  #checkedAt = Number.NEGATIVE_INFINITY

  constructor(deps: SearchDeps) {
    this.#deps = deps
  }

  /**
   * The passages that match any word of the question, best first.
   *
   * @param visitor whose rate limit applies; null: the operator, who has none
   * @throws GatewayError `site_not_indexed`, `rate_limited`, `search_unavailable`
   */
  async find(question: string, limit: number, visitor: string | null): Promise<Found> {
    const key = `${limit} ${normaliseQuestion(question)}`
    const known = this.#remembered.get(key)
    const isCurrent = known !== null && (await this.#isCurrent(known))
    const { found } = isCurrent ? known : await this.#ask(key, question, limit, visitor, known)
    if (found === null) throw new GatewayError('site_not_indexed', messages.site_not_indexed)
    return found
  }

  /** Results for earlier versions are not served any more. */
  noteVersion(version: number): void {
    this.#version = version
    this.#checkedAt = this.#deps.now()
  }

  /** Whether what is remembered is for the current version of the index, as far as is known. */
  async #isCurrent(known: Matches): Promise<boolean> {
    const { site, memoryMs, now } = this.#deps
    if (now() - this.#checkedAt >= memoryMs) {
      // Meanwhile, others are served by the version as it is known.
      this.#checkedAt = now()
      const unchanged = () => this.#version
      const version = await inTime(OBJECT_MS, site.version().catch(unchanged), unchanged)
      if (version !== null) this.#version = version
    }
    return known.version === this.#version
  }

  /** @param stale what is remembered for an earlier version: served if the index fails */
  async #ask(
    key: string,
    question: string,
    limit: number,
    visitor: string | null,
    stale: Matches | null,
  ): Promise<Matches> {
    const { site, origins, limit: visitorLimit } = this.#deps
    if (!(await isWithin(visitorLimit, visitor))) throw rateLimited('search')
    const unavailable = (cause?: unknown): Matches => {
      if (stale !== null) return stale
      const options = { retryAfterSeconds: RETRY_AFTER_S, cause }
      throw new GatewayError('search_unavailable', messages.search_unavailable, options)
    }
    const asking = site.find(queryOf(question), limit, origins).catch(unavailable)
    const matches = await inTime(OBJECT_MS, asking, unavailable)
    if (matches === stale) return stale
    this.noteVersion(matches.version)
    this.#remembered.set(key, matches)
    return matches
  }
}

function bytesOf({ found }: Matches): number {
  const passages = found?.passages ?? []
  return passages.reduce(
    (sum, { url, title, heading, text }) =>
      sum + PASSAGE_BYTES + 2 * (url.length + title.length + heading.length + text.length),
    PASSAGE_BYTES,
  )
}
