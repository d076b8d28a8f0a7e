// What a visitor asks for, made ready to be looked up: the effective request, its key, who asks, in
// what form, and how long the answer may be kept. Reads the pages that a prompt is made of; looks no
// answer up and spends nothing.

import type { VisitorGate } from '../access/gate.ts'
import type { Operator } from '../access/operator.ts'
import type { Reader, Shape } from '../answer.ts'
import {
  type EffectiveOptions,
  type EffectiveRequest,
  effectiveRequest,
  type PageTexts,
} from '../completion/effective.ts'
import { cacheKey, type KeyOptions } from '../completion/fingerprint.ts'
import { queryBody } from '../completion/query.ts'
import type { ParseRequest, VisitorRequest } from '../completion/request.ts'
import { parseResumePoint } from '../completion/resume.ts'
import type { Report } from '../events.ts'
import type { Work } from '../generate.ts'
import { parseJson } from '../http/body.ts'
import { type CacheWishes, cacheStatus, cacheWishes, prefersText } from '../http/reply.ts'
import { RecentMap } from '../recent.ts'
import type { RouteContext } from '../upstream/attempt.ts'
import { capableTargets } from '../upstream/route.ts'
import type { NamedPages, PageAsker, PagesRead, PageVariables } from './page-variables.ts'
import type { Visit } from './visit.ts'

/** One completion asked for, ready to be looked up. */
export interface Asked {
  readonly work: Work
  readonly reader: Reader
  /** The answer is the same for everybody. */
  readonly shared: boolean
  /** Only the operator may spend on this. */
  readonly refused: boolean
  /** What the request's `Cache-Control` asks for. */
  readonly wishes: CacheWishes
}

export interface CachePolicy {
  readonly ttlSeconds: number
  readonly staleWhileRevalidateSeconds: number
  readonly staleIfErrorSeconds: number
  /** The longer of the two: how long an old answer is kept. */
  readonly staleSeconds: number
  readonly browserSeconds: number
  readonly freePrompts: 'shared' | 'visitor' | 'off'
}

export interface AskingOptions {
  readonly effective: EffectiveOptions
  readonly key: KeyOptions
  readonly cache: CachePolicy
  /** What differs for some locked prompts. */
  readonly prompts: ReadonlyMap<
    string,
    { readonly ttl_seconds: number | null; readonly spend: 'visitor' | 'operator' }
  >
}

export interface AskingContext {
  readonly parse: ParseRequest
  readonly gate: VisitorGate
  readonly operator: Operator
  readonly connections: RouteContext['connections']
  readonly pageVariables: PageVariables
  readonly report: Report
}

/** What a request comes to, whoever asks. */
interface Understood {
  readonly request: VisitorRequest
  readonly effective: EffectiveRequest
  /** Of the answer that is the same for everybody. */
  readonly key: string
}

/** Where a request stands, and how it is read there. */
const sources = { body: parseJson, query: queryBody }
type Source = keyof typeof sources

/** For the words of recent requests; what is asked again is often asked in the same ones. */
const KNOWN_BYTES = 1_048_576
/** Besides its prompts: the fields of a request, most of them absent. */
const UNDERSTOOD_BYTES = 2000

export class Asking {
  readonly #known = { body: recent(), query: recent() }
  readonly #options: AskingOptions
  readonly #context: AskingContext

  constructor(options: AskingOptions, context: AskingContext) {
    this.#options = options
    this.#context = context
  }

  /**
   * The key under which a request's shared answer is kept; of pages, as they were last read.
   *
   * @param own where the Worker was called
   * @throws GatewayError
   */
  async keyOf(body: unknown, own: URL): Promise<string> {
    const { pageVariables } = this.#context
    const understood = await this.#understand(body)
    const named = pageVariables.named(understood.request, own)
    if (named === null) return understood.key
    const asker = { requestId: '', visitor: null, mayFetch: false }
    const { texts } = await pageVariables.read(named, asker)
    return (await this.#filled(understood.request, texts)).key
  }

  /**
   * @param words the body or the query as it came: asked again in the same words it is known
   * @throws GatewayError whatever is wrong with the request or with who asks
   */
  async ask(from: Source, words: string, visit: Visit): Promise<Asked> {
    const { effective: options, cache, key, prompts } = this.#options
    const { connections, pageVariables } = this.#context
    const { headers, method } = visit.request
    const known = await this.#understandWords(from, words)
    const { request } = known
    const named = pageVariables.named(request, visit.url)
    visit.noted.model = known.effective.model
    visit.tally = { promptId: known.effective.prompt_id, saved: 0 }
    capableTargets(known.effective, connections)
    const { visitor, isOperator } = await this.#whoAsks(visit)
    const wishes = cacheWishes(headers.get('cache-control'))
    const own = prompts.get(known.effective.prompt_id ?? '')
    const refused = own?.spend === 'operator' && !isOperator
    let understood = known
    if (named !== null) {
      // The operator looks even with only-if-cached, to see whether the answer to this page is there.
      const mayFetch = method === 'POST' && (isOperator || !(refused || wishes.onlyIfCached))
      const asker = { requestId: visit.id, visitor: isOperator ? null : visitor, mayFetch }
      const { texts, keep } = await this.#readPages(named, asker, visit)
      understood = await this.#filled(request, texts)
      // An answer that nobody keeps takes no older one's place.
      visit.isFound = (own?.ttl_seconds ?? cache.ttlSeconds) === 0
      if (!wishes.noStore) visit.answered = keep
    }
    const { effective } = understood
    const free = effective.prompt_id === null
    const scoped = free && cache.freePrompts === 'visitor'
    const freshSeconds =
      free && cache.freePrompts === 'off' ? 0 : (own?.ttl_seconds ?? cache.ttlSeconds)
    const shape = shapeOf(request, options.defaults.stream, headers.get('accept'))
    const resumable = shape.stream && method === 'POST'
    return {
      work: {
        request: effective,
        key: scoped ? await cacheKey(effective, visitor, key) : understood.key,
        keep: freshSeconds === 0 ? null : { freshSeconds, staleSeconds: cache.staleSeconds },
        forced: isOperator && wishes.noCache && method === 'POST',
        requestId: visit.id,
        visitor: isOperator ? null : visitor,
      },
      reader: { shape, resume: resumable ? parseResumePoint(headers.get('last-event-id')) : null },
      shared: !scoped,
      refused,
      wishes,
    }
  }

  async #whoAsks(
    visit: Visit,
  ): Promise<{ readonly visitor: string; readonly isOperator: boolean }> {
    const { gate, operator, report } = this.#context
    const { headers, method } = visit.request
    const isOperator = await operator.isOperator(headers)
    const visitor = await gate.visitorOf({
      headers,
      origin: visit.noted.origin,
      isOperator,
      maySpend: method === 'POST',
      refused: (reason) => report({ event: 'visitor_refused', request_id: visit.id, reason }),
    })
    visit.noted.visitor = visitor
    return { visitor, isOperator }
  }

  async #understandWords(from: Source, words: string): Promise<Understood> {
    const known = this.#known[from].get(words)
    if (known !== null) return known
    const understood = await this.#understand(sources[from](words))
    this.#known[from].set(words, understood)
    return understood
  }

  async #understand(body: unknown): Promise<Understood> {
    const request = this.#context.parse(body)
    return await this.#filled(request)
  }

  async #filled(request: VisitorRequest, pages?: PageTexts): Promise<Understood> {
    const effective = effectiveRequest(request, this.#options.effective, pages)
    return { request, effective, key: await cacheKey(effective, null, this.#options.key) }
  }

  async #readPages(named: NamedPages, asker: PageAsker, visit: Visit): Promise<PagesRead> {
    try {
      return await this.#context.pageVariables.read(named, asker)
    } catch (error) {
      const cache = { kind: 'miss', stored: false, collapsed: false } as const
      visit.noted.cache = 'miss'
      visit.headers['cache-status'] = cacheStatus(cache)
      throw error
    }
  }
}

function recent(): RecentMap<Understood> {
  const bytesOf = ({ effective }: Understood) =>
    UNDERSTOOD_BYTES + 2 * effective.prompts.reduce((size, { length }) => size + length, 0)
  return new RecentMap({ maxBytes: KNOWN_BYTES, bytesOf })
}

function shapeOf(
  { stream: asked, stream_options }: VisitorRequest,
  preset: boolean | undefined,
  accept: string | null,
): Shape {
  const stream = asked ?? preset ?? false
  const as = prefersText(accept, stream) ? 'text' : stream ? 'sse' : 'json'
  return { as, stream, includeUsage: stream_options?.include_usage ?? false }
}
