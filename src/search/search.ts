// Searches the owner's site: what this isolate remembers, and else the index. A question that is
// remembered needs no call of the object and no rate limit.
import { isWithin, rateLimited, type VisitorLimit } from '../access/rate-limit.ts'
import { pageName } from '../cache/names.ts'
import type { Purges } from '../cache/purge.ts'
import { inTime } from '../deadline.ts'
import { GatewayError, messages } from '../errors.ts'
import { RecentMap } from '../lru.ts'
import { canonicalAddressOf } from '../page/rules.ts'
import type { Passage } from './passage.ts'
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
  /**
   * How long results are served while the index fails: from when their version was last confirmed; for an
   * earlier version, from when they were requested.
   */
  readonly staleMs: number
  readonly purges: Pick<Purges, 'known' | 'purgedAt'>
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
/** How long the object is not called again after it has failed. */
const REST_MS = 5000

/** Matches of an earlier search. */
interface Remembered extends Matches {
  /** The names that they can be purged by: one for each page. */
  readonly names: readonly string[]
  /** Unix ms. */
  readonly requestedAt: number
}

export class Search {
  readonly #deps: SearchDeps
  #remembered = newMemory()
  #version: number | null = null
  /** When that was last known to be the version. */
  #confirmedAt = Number.NEGATIVE_INFINITY
  /** When the object was last called, successfully or not. */
  #calledAt = Number.NEGATIVE_INFINITY
  /** Whether it has failed since it last answered. */
  #isFailing = false

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
    const { found } = await this.#matches(question, limit, visitor)
    if (found === null) throw new GatewayError('site_not_indexed', messages.site_not_indexed)
    return found
  }

  /** A page has been put or removed here: what was found before is not served any more. */
  pageChanged(version: number): void {
    this.#remembered = newMemory()
    this.#noteVersion(version)
  }

  async #matches(question: string, limit: number, visitor: string | null): Promise<Matches> {
    const { memoryMs, limit: visitorLimit } = this.#deps
    const key = `${limit} ${normaliseQuestion(question)}`
    const known = await this.#recall(key)
    if (known !== null && !this.#isFailing && this.#isDue(memoryMs)) await this.#lookUpVersion()
    if (this.#isFailing) {
      // One request at a time tries it again. It is not counted, as the others are not.
      if (this.#isDue(REST_MS)) return await this.#ask(key, question, limit, known)
      return this.#withoutIndex(known)
    }
    if (known !== null && known.version === this.#version) return known
    if (!(await isWithin(visitorLimit, visitor))) throw rateLimited('search')
    return await this.#ask(key, question, limit, known)
  }

  /** What is remembered and has not been purged. */
  async #recall(key: string): Promise<Remembered | null> {
    const { purges } = this.#deps
    const known = this.#remembered.get(key)
    if (known === null) return null
    await purges.known()
    return purges.purgedAt(known.names) < known.requestedAt ? known : null
  }

  #isDue(ms: number): boolean {
    return this.#deps.now() - this.#calledAt >= ms
  }

  async #lookUpVersion(): Promise<void> {
    const version = await this.#call(this.#deps.site.version())
    if (version !== null) this.#noteVersion(version)
  }

  /** Null: the object fails. Meanwhile, others are served by the version as it is known. */
  async #call<T>(answer: Promise<T>): Promise<T | null> {
    const { now } = this.#deps
    this.#calledAt = now()
    const failed = () => {
      this.#isFailing = true
      this.#calledAt = now()
      return null
    }
    // A call that fails after that time has been counted as failed: the object may answer again.
    return await inTime(OBJECT_MS, answer, failed).catch(failed)
  }

  #noteVersion(version: number): void {
    this.#version = version
    this.#calledAt = this.#deps.now()
    this.#confirmedAt = this.#calledAt
    this.#isFailing = false
  }

  /** @param known served if the index fails */
  async #ask(
    key: string,
    question: string,
    limit: number,
    known: Remembered | null,
  ): Promise<Matches> {
    const { site, origins, now } = this.#deps
    const requestedAt = now()
    const remembered = this.#remembered
    const matches = await this.#call(site.find(queryOf(question), limit, origins))
    if (matches === null) return this.#withoutIndex(known)
    const names = await pageNamesOf(matches.found?.passages ?? [])
    // Otherwise a page has changed meanwhile, perhaps one of these.
    if (remembered === this.#remembered) {
      this.#noteVersion(matches.version)
      remembered.set(key, { ...matches, names, requestedAt })
    }
    return matches
  }

  /** @throws GatewayError `search_unavailable` */
  #withoutIndex(known: Remembered | null): Matches {
    const { staleMs, now } = this.#deps
    if (known !== null) {
      const since = known.version === this.#version ? this.#confirmedAt : known.requestedAt
      if (now() - since < staleMs) return known
    }
    const options = { retryAfterSeconds: RETRY_AFTER_S }
    throw new GatewayError('search_unavailable', messages.search_unavailable, options)
  }
}

/** The names of the passages' pages (cache/names.ts). */
export async function pageNamesOf(passages: readonly Pick<Passage, 'url'>[]): Promise<string[]> {
  const pages = new Set(passages.map(({ url }) => canonicalAddressOf(new URL(url))))
  return await Promise.all([...pages].map(pageName))
}

const newMemory = () => new RecentMap<Remembered>({ maxBytes: MEMORY_BYTES, bytesOf })

function bytesOf({ found }: Matches): number {
  const passages = found?.passages ?? []
  return passages.reduce(
    (sum, { url, title, heading, text }) =>
      sum + PASSAGE_BYTES + 2 * (url.length + title.length + heading.length + text.length),
    PASSAGE_BYTES,
  )
}
