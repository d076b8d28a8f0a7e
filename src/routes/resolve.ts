// Resolves a completion request for the cache lookup: the effective request, its cache key, the
// visitor, the shape of the answer, and how long it may be stored. Reads no pages and no cache, and
// spends nothing.

import type { IsOperator } from '../access/operator.ts'
import type { Visitors } from '../access/visitors.ts'
import { FOREVER_S } from '../cache/kv.ts'
import { namesOf, requestName } from '../cache/names.ts'
import type { Reader, Shape } from '../completion/encode.ts'
import { parseResumePoint } from '../completion/resume.ts'
import type { Report } from '../events.ts'
import type { Abandon, Work } from '../flight/generate.ts'
import { parseBody } from '../http/body.ts'
import { type CacheDirectives, parseCacheControl, prefersText } from '../http/reply.ts'
import { RecentMap } from '../lru.ts'
import { cacheKey, type KeyOptions, lastAnswerKey } from '../request/cache-key.ts'
import {
  draftRequest,
  type EffectiveOptions,
  type EffectiveRequest,
  overriddenFields,
  type PageTexts,
  type RequestDraft,
} from '../request/effective.ts'
import { queryBody } from '../request/query.ts'
import { isLocked, type ParseRequest, type VisitorRequest } from '../request/schema.ts'
import type { RouteContext } from '../upstream/attempt.ts'
import { capableTargets } from '../upstream/failover.ts'
import type { AdmittedPages, NamedPages, PagesRead, PageVariables } from './page-variables.ts'
import type { Visit } from './request-log.ts'

/** A completion request, resolved for the cache lookup. */
export interface ResolvedRequest {
  /** What to generate on a miss. If the prompt has pages, their texts are added by `withPages`. */
  readonly work: Work
  /** The pages the answer is made from; null: the prompt has no pages. */
  readonly pages: AdmittedPages | null
  /** The work with the page texts filled in. */
  readonly withPages: (read: PagesRead) => Promise<Work>
  readonly reader: Reader
  /** Whether the answer is shared by all visitors. */
  readonly shared: boolean
  readonly isOperator: boolean
  /** This request cannot trigger generation, so it is served the last answer of any age. */
  readonly takesLast: boolean
  /** The request's `Cache-Control`. */
  readonly directives: CacheDirectives
}

export interface CachePolicy {
  readonly ttlSeconds: number
  readonly staleWhileRevalidateSeconds: number
  readonly staleIfErrorSeconds: number
  /** How long a stale answer is stored: the longer of the two. */
  readonly staleSeconds: number
  readonly browserSeconds: number
  readonly freePrompts: 'shared' | 'visitor' | 'off'
}

export interface ResolverDeps {
  readonly effective: EffectiveOptions
  readonly key: KeyOptions
  readonly policy: CachePolicy
  /** Settings of locked prompts that override the cache policy. */
  readonly prompts: ReadonlyMap<
    string,
    {
      readonly ttl_seconds?: number | undefined
      readonly spend: 'visitor' | 'operator'
      readonly abandon?: Abandon | undefined
    }
  >
  readonly models: ReadonlyMap<string, { readonly abandon: Abandon }>
  readonly parse: ParseRequest
  readonly visitors: Visitors
  readonly isOperator: IsOperator
  readonly connections: RouteContext['connections']
  readonly pageVariables: PageVariables
  readonly report: Report
}

/** The part of a resolved request that does not depend on the visitor. */
interface ParsedRequest {
  readonly request: VisitorRequest
  readonly draft: RequestDraft
  /** With page addresses in place of page texts. */
  readonly effective: EffectiveRequest
  /** The cache key of `effective`, shared by all visitors. */
  readonly key: string
  /** The key of the prompt's last answer; null: answers are stored under their cache keys. */
  readonly last: string | null
  readonly pages: NamedPages | null
  readonly names: readonly string[]
}

/** A parsed request that an upstream can answer. */
interface KnownRequest extends ParsedRequest {
  /** The upstreams that can. */
  readonly route: EffectiveRequest['route']
}

/** The parsers for requests in a body and in a query. */
const sources = { body: parseBody, query: queryBody }
type Source = keyof typeof sources

/** Memory for parsed requests, by their raw text: a repeated request is not parsed again. */
const PARSED_BYTES = 1_048_576
/** Estimated size of a parsed request without its prompts; most fields are absent. */
const REQUEST_BYTES = 2000

export class RequestResolver {
  readonly #parsed = { body: recentRequests(), query: recentRequests() }
  readonly #deps: ResolverDeps

  constructor(deps: ResolverDeps) {
    this.#deps = deps
  }

  /**
   * The purge names of this request's answers, for all visitors and all versions of its pages.
   *
   * @param body of a completion request, as visitors send it
   * @param own the URL of this request to the Worker
   * @throws GatewayError if the body is not a valid request, or names a page that is not allowed
   */
  async purgeNames(body: unknown, own: URL): Promise<string[]> {
    const { key, last, pages } = await this.#parseRequest(body)
    if (pages !== null) this.#deps.pageVariables.admitted(pages, own)
    // An answer stored before the prompt had last answers may still be served under its key.
    const keys = last === null ? [key] : pages === null ? [last, key] : [last]
    return keys.map(requestName)
  }

  /**
   * @param text the raw body or query
   * @throws GatewayError if the request is not valid or the visitor may not send it
   */
  async resolve(from: Source, text: string, visit: Visit): Promise<ResolvedRequest> {
    const { effective: options, policy, key, prompts, models, pageVariables } = this.#deps
    const { headers, method } = visit.request
    const parsed = await this.#parseText(from, text)
    const { request, draft, effective, names, last, route } = parsed
    visit.logFields.model = effective.model
    visit.counts = { promptId: effective.prompt_id, saved: null }
    const pages = parsed.pages === null ? null : pageVariables.admitted(parsed.pages, visit.url)
    const { visitor, isOperator } = await this.#identify(visit)
    const directives = parseCacheControl(headers.get('cache-control'))
    const promptPolicy = prompts.get(effective.prompt_id ?? '')
    const free = effective.prompt_id === null
    const scoped = free && policy.freePrompts === 'visitor'
    const freshSeconds =
      free && policy.freePrompts === 'off' ? 0 : (promptPolicy?.ttl_seconds ?? policy.ttlSeconds)
    const operatorSpends = promptPolicy?.spend === 'operator'
    const staleSeconds = operatorSpends ? FOREVER_S : policy.staleSeconds
    const shape = shapeOf(request, options.defaults.stream, headers.get('accept'))
    const resumable = shape.stream && method === 'POST'
    const workKey = scoped ? await cacheKey(effective, visitor, key) : parsed.key
    const work: Work = {
      request: { ...effective, route },
      key: workKey,
      storedUnder: last ?? workKey,
      source: last === null ? null : { recipe: parsed.key, pages: [] },
      names,
      requestedAt: visit.startedAt,
      lifetime: freshSeconds === 0 ? null : { freshSeconds, staleSeconds },
      abandon: promptPolicy?.abandon ?? models.get(effective.model)?.abandon ?? 'finish',
      forced: isOperator && directives.noCache && method === 'POST',
      requestId: visit.id,
      visitor: isOperator ? null : visitor,
    }
    return {
      work,
      pages,
      withPages: async ({ texts, versions }) => {
        const filled = draft.render(texts)
        return {
          ...work,
          request: { ...filled, route },
          key: await cacheKey(filled, null, key),
          source: { recipe: parsed.key, pages: versions },
        }
      },
      reader: { shape, resume: resumable ? parseResumePoint(headers.get('last-event-id')) : null },
      shared: !scoped,
      isOperator,
      takesLast: operatorSpends && (!isOperator || method !== 'POST'),
      directives,
    }
  }

  async #identify(visit: Visit) {
    const { visitors, report } = this.#deps
    const { headers, method } = visit.request
    const isOperator = await this.#deps.isOperator(headers)
    const visitor = await visitors.visitorOf({
      headers,
      origin: visit.logFields.origin,
      isOperator,
      maySpend: method === 'POST',
      refused: (reason) => report({ event: 'visitor_refused', request_id: visit.id, reason }),
    })
    visit.logFields.visitor = visitor
    return { visitor, isOperator }
  }

  async #parseText(from: Source, text: string): Promise<KnownRequest> {
    const known = this.#parsed[from].get(text)
    if (known !== null) return known
    const parsed = await this.#parseRequest(sources[from](text))
    const route = capableTargets(parsed.effective, this.#deps.connections)
    this.#parsed[from].set(text, { ...parsed, route })
    return { ...parsed, route }
  }

  async #parseRequest(body: unknown): Promise<ParsedRequest> {
    const { effective: options, key: keyOptions } = this.#deps
    const request = this.#deps.parse(body)
    const draft = draftRequest(request, options)
    const pages = await this.#deps.pageVariables.named(request)
    const effective = draft.render(addressesOf(pages ?? new Map()))
    const key = await cacheKey(effective, null, keyOptions)
    const last = await this.#lastAnswerKey(request, effective, pages)
    const names = namesOf({
      key: last ?? key,
      model: effective.model,
      promptId: effective.prompt_id,
      pages: [...(pages ?? [])].map(([, { name }]) => name),
    })
    return { request, draft, effective, key, last, pages, names }
  }

  /**
   * The key of the last answer, for a prompt with pages or with spend = "operator". Visitors find
   * the answer under it without reading a page, even after the owner has changed the prompt.
   */
  async #lastAnswerKey(
    request: VisitorRequest,
    effective: EffectiveRequest,
    pages: NamedPages | null,
  ): Promise<string | null> {
    const { prompt } = request
    if (!isLocked(prompt)) return null
    const operatorSpends = this.#deps.prompts.get(prompt.id)?.spend === 'operator'
    if (!operatorSpends && pages === null) return null
    const { effective: options, key } = this.#deps
    const addresses = [...(pages ?? [])].map(([name, { address }]) => [name, address])
    const variables = { ...prompt.variables, ...Object.fromEntries(addresses) }
    const fields = overriddenFields(request, effective, options)
    return await lastAnswerKey({ promptId: prompt.id, variables, fields }, key.version)
  }
}

/** Page addresses in place of page texts, for a key that does not depend on the texts. */
function addressesOf(pages: NamedPages): PageTexts {
  return new Map([...pages].map(([name, { address }]) => [name, { text: address, mark: 'page' }]))
}

function recentRequests(): RecentMap<KnownRequest> {
  const bytesOf = ({ effective }: KnownRequest) =>
    REQUEST_BYTES + 2 * effective.prompts.reduce((size, { length }) => size + length, 0)
  return new RecentMap({ maxBytes: PARSED_BYTES, bytesOf })
}

function shapeOf(
  { stream: requested, stream_options }: VisitorRequest,
  streamByDefault: boolean | undefined,
  accept: string | null,
): Shape {
  const stream = requested ?? streamByDefault ?? false
  const as = prefersText(accept, stream) ? 'text' : stream ? 'sse' : 'json'
  return { as, stream, includeUsage: stream_options?.include_usage ?? false }
}
