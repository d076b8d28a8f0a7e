// Resolves a completion request for the cache lookup: the effective request, its cache key, the
// visitor, the shape of the answer, and how long it may be stored. Reads no pages and no cache, and
// spends nothing.

import type { IsOperator } from '../access/operator.ts'
import type { Visitors } from '../access/visitors.ts'
import { FOREVER_S } from '../cache/kv.ts'
import { namesOf, requestName } from '../cache/names.ts'
import type { Api, Reader, Shape } from '../completion/encode.ts'
import { parseResumePoint } from '../completion/resume.ts'
import { GatewayError } from '../errors.ts'
import type { Report } from '../events.ts'
import type { Abandon, Work } from '../flight/generate.ts'
import { parseBody } from '../http/body.ts'
import { type CacheDirectives, parseCacheControl, prefersText } from '../http/reply.ts'
import { isRecord, type Table } from '../json.ts'
import { RecentMap } from '../lru.ts'
import { bodyOfHook, isHookBody } from '../request/ai-sdk.ts'
import { cacheKey, type KeyOptions, lastAnswerKey } from '../request/cache-key.ts'
import type { ChatLimits } from '../request/chat.ts'
import { isConversation, type Prompt, textOf } from '../request/conversation.ts'
import {
  draftRequest,
  type EffectiveOptions,
  type EffectiveRequest,
  overriddenFields,
  type PageTexts,
  type RequestDraft,
  withNormalisedQuestion,
} from '../request/effective.ts'
import { queryBody } from '../request/query.ts'
import { isLocked, type ParseRequest, type VisitorRequest } from '../request/schema.ts'
import type { Variables } from '../request/template.ts'
import { normaliseQuestion } from '../search/question.ts'
import type { RouteContext } from '../upstream/attempt.ts'
import { capableTargets } from '../upstream/failover.ts'
import type { AdmittedPages, NamedPages, PagesRead, PageVariables } from './page-variables.ts'
import {
  type CitedPassages,
  findPassages,
  type PassageSearch,
  type SiteQuestion,
  siteQuestionOf,
} from './passage-variables.ts'
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
      readonly variables: Variables
      readonly ttl_seconds?: number | undefined
      readonly spend: 'visitor' | 'operator'
      readonly abandon?: Abandon | undefined
    }
  >
  readonly models: ReadonlyMap<string, { readonly abandon: Abandon }>
  /** The parsers of completions and of chats. */
  readonly parse: ParseRequest
  readonly parseChat: ParseRequest
  readonly limits: Pick<ChatLimits, 'messages' | 'chat_chars'>
  readonly visitors: Visitors
  readonly isOperator: IsOperator
  readonly connections: RouteContext['connections']
  readonly pageVariables: PageVariables
  readonly search: PassageSearch
  readonly report: Report
}

/** The part of a resolved request that does not depend on the visitor. */
interface ParsedRequest {
  readonly request: VisitorRequest
  readonly draft: RequestDraft
  /** With page addresses in place of page texts, and without passages. */
  readonly effective: EffectiveRequest
  /** The cache key of `effective`, with the question normalised, shared by all visitors. */
  readonly key: string
  /** The key of the prompt's last answer, without passages; null: answers have their cache keys. */
  readonly last: string | null
  readonly pages: NamedPages | null
  /** What its passages are to be about; null: the prompt has no passages. */
  readonly siteQuestion: SiteQuestion | null
  readonly names: readonly string[]
}

/** A parsed request that an upstream can answer, or that needs none. */
interface KnownRequest extends ParsedRequest {
  /** The upstreams that can answer it. */
  readonly route: EffectiveRequest['route']
  /** Why none can. */
  readonly refusal: GatewayError | null
}

/** Where a request stands: in a query, or in the body of one of the paths. */
export type Source = 'query' | Api

/** Memory for parsed requests, by their raw text: a repeated request is not parsed again. */
const PARSED_BYTES = 1_048_576
/** Estimated size of a parsed request without its prompts; most fields are absent. */
const REQUEST_BYTES = 2000
/** Estimated size of a message besides its text, in UTF-16 units. */
const MESSAGE_CHARS = 50

export class RequestResolver {
  readonly #parsed: Readonly<Record<Source, ReturnType<typeof recentRequests>>> = {
    query: recentRequests(),
    completion: recentRequests(),
    chat: recentRequests(),
    'ai-sdk': recentRequests(),
  }
  readonly #deps: ResolverDeps

  constructor(deps: ResolverDeps) {
    this.#deps = deps
  }

  /**
   * The purge names of this request's answers, for all visitors and all versions of its pages.
   *
   * @param body of any of the paths, as visitors send it
   * @param own the URL of this request to the Worker
   * @throws GatewayError if the body is not a valid request, or names a page that is not allowed
   */
  async purgeNames(body: unknown, own: URL): Promise<string[]> {
    const api = isRecord(body) ? apiOf(body) : 'completion'
    const { key, last, pages } = await this.#parseRequest(this.#read(api, body))
    if (pages !== null) this.#deps.pageVariables.admitted(pages, own)
    // An answer stored before the prompt had last answers may still be served under its key.
    const keys = last === null ? [key] : pages === null ? [last, key] : [last]
    return keys.map(requestName)
  }

  /**
   * @param text the raw body or query
   * @throws GatewayError if the request is not valid or the visitor may not send it, and those of
   *   `findPassages` if its prompt has passages
   */
  async resolve(from: Source, text: string, visit: Visit): Promise<ResolvedRequest> {
    const { effective: options, policy, key, prompts, models, pageVariables, search } = this.#deps
    const { headers, method } = visit.request
    const parsed = await this.#parseText(from, text)
    const { request, effective, names, last, route } = parsed
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
    const api = from === 'query' ? 'completion' : from
    const shape = shapeOf(api, request, options.defaults.stream, headers.get('accept'))
    const resumable = shape.stream && method === 'POST'
    const takesLast = operatorSpends && (!isOperator || method !== 'POST')
    // What is served as it was last answered needs neither an upstream nor passages.
    if (parsed.refusal !== null && !takesLast) throw parsed.refusal
    const siteQuestion = takesLast ? null : parsed.siteQuestion
    const cited =
      siteQuestion === null
        ? null
        : await findPassages(siteQuestion, search, isOperator ? null : visitor)
    const filled =
      cited === null
        ? { request: { ...effective, route }, key: parsed.key }
        : await this.#filled(parsed, addressesOf(parsed.pages), cited)
    const workKey = scoped ? await cacheKey(effective, visitor, key) : filled.key
    // Other passages make another answer.
    const passages = cited === null || operatorSpends ? [] : [...cited.texts.values()]
    const storedUnder =
      last === null ? workKey : [last, ...passages.map(({ mark }) => mark)].join(':')
    const work: Work = {
      ...filled,
      key: workKey,
      storedUnder,
      source: last === null ? null : { recipe: parsed.key, pages: [] },
      names: [...names, ...(cited?.names ?? [])],
      cites: cited?.cites ?? null,
      requestedAt: visit.startedAt,
      lifetime: freshSeconds === 0 ? null : { freshSeconds, staleSeconds },
      abandon: promptPolicy?.abandon ?? models.get(effective.model)?.abandon ?? 'finish',
      forced: isOperator && directives.noCache && method === 'POST',
      requestId: visit.id,
      visitor: isOperator ? null : visitor,
      origin: visit.logFields.origin,
    }
    return {
      work,
      pages,
      withPages: async ({ texts, versions }) => ({
        ...work,
        ...(await this.#filled(parsed, texts, cited)),
        source: { recipe: parsed.key, pages: versions },
      }),
      reader: { shape, resume: resumable ? parseResumePoint(headers.get('last-event-id')) : null },
      shared: !scoped,
      isOperator,
      takesLast,
      directives,
    }
  }

  /**
   * The request that is sent, with the question as the visitor wrote it, and the cache key, for which
   * the question is normalised.
   *
   * @param pages the texts of its pages, or their addresses
   */
  async #filled(
    { draft, route, siteQuestion }: KnownRequest,
    pages: PageTexts,
    cited: CitedPassages | null,
  ): Promise<Pick<Work, 'request' | 'key'>> {
    const texts = new Map([...pages, ...(cited?.texts ?? [])])
    const sent = draft.render(texts)
    const keyed = siteQuestion === null ? sent : draft.render(texts, normaliseQuestion)
    return { request: { ...sent, route }, key: await cacheKey(keyed, null, this.#deps.key) }
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
    const request =
      from === 'query' ? this.#deps.parse(queryBody(text)) : this.#read(from, parseBody(text))
    const parsed = await this.#parseRequest(request)
    const route = this.#routeOf(parsed.effective)
    const next = { ...parsed, ...route }
    this.#parsed[from].set(text, next)
    return next
  }

  /** @throws GatewayError if no upstream can answer, unless only the operator may spend on the prompt */
  #routeOf(effective: EffectiveRequest): Pick<KnownRequest, 'route' | 'refusal'> {
    const { connections, prompts } = this.#deps
    try {
      return { route: capableTargets(effective, connections), refusal: null }
    } catch (error) {
      const operatorSpends = prompts.get(effective.prompt_id ?? '')?.spend === 'operator'
      if (!operatorSpends || !(error instanceof GatewayError)) throw error
      return { route: [], refusal: error }
    }
  }

  #read(api: Api, body: unknown): VisitorRequest {
    const { parse, parseChat, limits } = this.#deps
    if (api === 'completion') return parse(body)
    if (api === 'chat') return parseChat(body)
    const given = bodyOfHook(body, limits)
    return isRecord(given) && given['messages'] !== undefined ? parseChat(given) : parse(given)
  }

  async #parseRequest(request: VisitorRequest): Promise<ParsedRequest> {
    const { effective: options, key: keyOptions } = this.#deps
    const draft = draftRequest(request, options)
    const pages = await this.#deps.pageVariables.named(request)
    const siteQuestion = siteQuestionOf(request, this.#deps.prompts)
    const addresses = addressesOf(pages)
    const effective = draft.render(addresses)
    const keyed = siteQuestion === null ? effective : draft.render(addresses, normaliseQuestion)
    const key = await cacheKey(keyed, null, keyOptions)
    const last = await this.#lastAnswerKey(request, effective, pages, siteQuestion)
    const names = namesOf({
      key: last ?? key,
      model: effective.model,
      promptId: effective.prompt_id,
      pages: [...(pages ?? [])].map(([, { name }]) => name),
    })
    return { request, draft, effective, key, last, pages, siteQuestion, names }
  }

  /**
   * The key of the last answer, for a prompt with pages or with spend = "operator". Visitors find
   * the answer under it without reading a page, even after the owner has changed the prompt.
   */
  async #lastAnswerKey(
    request: VisitorRequest,
    effective: EffectiveRequest,
    pages: NamedPages | null,
    siteQuestion: SiteQuestion | null,
  ): Promise<string | null> {
    const { prompt } = request
    if (!isLocked(prompt)) return null
    const operatorSpends = this.#deps.prompts.get(prompt.id)?.spend === 'operator'
    if (!operatorSpends && pages === null) return null
    const { effective: options, key } = this.#deps
    const addresses = [...(pages ?? [])].map(([name, { address }]) => [name, address])
    const about = siteQuestion?.variable.about
    const question =
      about === undefined ? [] : [[about, normaliseQuestion(siteQuestion?.question ?? '')]]
    const variables = { ...prompt.variables, ...Object.fromEntries([...addresses, ...question]) }
    const fields = overriddenFields(request, effective, options)
    const { id: promptId, messages } = prompt
    const turns =
      siteQuestion === null || messages === undefined
        ? messages
        : withNormalisedQuestion(messages, normaliseQuestion)
    const chat = turns === undefined ? {} : { messages: turns }
    return await lastAnswerKey({ promptId, variables, fields, ...chat }, key.version)
  }
}

/** Page addresses in place of page texts, for a key that does not depend on the texts. */
function addressesOf(pages: NamedPages | null): PageTexts {
  return new Map(
    [...(pages ?? [])].map(([name, { address }]) => [name, { text: address, mark: 'page' }]),
  )
}

function recentRequests(): RecentMap<KnownRequest> {
  const bytesOf = ({ effective }: KnownRequest) =>
    REQUEST_BYTES + 2 * effective.prompts.reduce((size, prompt) => size + sizeOf(prompt), 0)
  return new RecentMap({ maxBytes: PARSED_BYTES, bytesOf })
}

/** About how many UTF-16 units a prompt takes. */
const sizeOf = (prompt: Prompt) =>
  isConversation(prompt) ? textOf(prompt).length + MESSAGE_CHARS * prompt.length : prompt.length

/** The path that a body belongs to. */
function apiOf(body: Table): Api {
  if (isHookBody(body)) return 'ai-sdk'
  const { messages = null } = body
  return messages === null ? 'completion' : 'chat'
}

function shapeOf(
  api: Api,
  { stream: requested, stream_options }: VisitorRequest,
  streamByDefault: boolean | undefined,
  accept: string | null,
): Shape {
  const stream = requested ?? streamByDefault ?? false
  const includeUsage = stream_options?.include_usage ?? false
  if (api === 'ai-sdk') return { api, as: 'sse', stream: true, includeUsage: false }
  const as = prefersText(accept, stream) ? 'text' : stream ? 'sse' : 'json'
  return { api, as, stream, includeUsage }
}
