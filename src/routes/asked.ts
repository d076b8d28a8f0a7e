// What a visitor asks for, made ready to be looked up: the effective request, its key, who asks, in
// what form, and how long the answer may be kept. Reads no page, looks no answer up and spends nothing.

import type { VisitorGate } from '../access/gate.ts'
import type { Operator } from '../access/operator.ts'
import type { Reader, Shape } from '../answer.ts'
import { FOREVER_S } from '../cache/kv.ts'
import { namesOf, requestName } from '../cache/names.ts'
import {
  chosenFields,
  type EffectiveOptions,
  type EffectiveRequest,
  effectiveRequest,
  type PageTexts,
} from '../completion/effective.ts'
import { cacheKey, type KeyOptions, lastKey } from '../completion/fingerprint.ts'
import { queryBody } from '../completion/query.ts'
import { isLocked, type ParseRequest, type VisitorRequest } from '../completion/request.ts'
import { parseResumePoint } from '../completion/resume.ts'
import type { Report } from '../events.ts'
import type { Work } from '../generate.ts'
import { parseJson } from '../http/body.ts'
import { type CacheWishes, cacheWishes, prefersText } from '../http/reply.ts'
import { RecentMap } from '../recent.ts'
import type { RouteContext } from '../upstream/attempt.ts'
import { capableTargets } from '../upstream/route.ts'
import type { AdmittedPages, NamedPages, PagesRead, PageVariables } from './page-variables.ts'
import type { Visit } from './visit.ts'

/** One completion asked for, ready to be looked up. */
export interface Asked {
  /** What to do on a miss. Of a prompt with pages it lacks their texts: see `withPages`. */
  readonly work: Work
  /** The pages the answer is made from; null: none. */
  readonly pages: AdmittedPages | null
  /** The work with the pages' texts in it. */
  readonly withPages: (read: PagesRead) => Promise<Work>
  readonly reader: Reader
  /** The answer is the same for everybody. */
  readonly shared: boolean
  readonly isOperator: boolean
  /** This request can have no new answer made, so it is served the last one, however old. */
  readonly takesLast: boolean
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
  /** With the addresses of pages in place of their texts. */
  readonly effective: EffectiveRequest
  /** The cache key of `effective`, shared by all visitors. */
  readonly key: string
  /** The key of the last answer; null: answers are stored under their cache keys. */
  readonly last: string | null
  readonly pages: NamedPages | null
  readonly names: readonly string[]
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
   * What a purge of this request names: its answers, whoever they are kept for and whatever was in
   * the pages that they were made from.
   *
   * @param body of a completion request, as visitors send it
   * @throws GatewayError whatever is wrong with it
   */
  async purgeNames(body: unknown): Promise<string[]> {
    const { key, last, pages } = await this.#understand(body)
    // An answer from before its prompt had last answers may still be served under its key.
    const keys = last === null ? [key] : pages === null ? [last, key] : [last]
    return keys.map(requestName)
  }

  /**
   * @param words the body or the query as it came: asked again in the same words it is known
   * @throws GatewayError whatever is wrong with the request or with who asks
   */
  async ask(from: Source, words: string, visit: Visit): Promise<Asked> {
    const { effective: options, cache, key, prompts } = this.#options
    const { connections, pageVariables } = this.#context
    const { headers, method } = visit.request
    const understood = await this.#understandWords(from, words)
    const { request, effective, names, last } = understood
    visit.noted.model = effective.model
    visit.tally = { promptId: effective.prompt_id, saved: null }
    const pages =
      understood.pages === null ? null : pageVariables.admitted(understood.pages, visit.url)
    capableTargets(effective, connections)
    const { visitor, isOperator } = await this.#whoAsks(visit)
    const wishes = cacheWishes(headers.get('cache-control'))
    const own = prompts.get(effective.prompt_id ?? '')
    const free = effective.prompt_id === null
    const scoped = free && cache.freePrompts === 'visitor'
    const freshSeconds =
      free && cache.freePrompts === 'off' ? 0 : (own?.ttl_seconds ?? cache.ttlSeconds)
    const isOperators = own?.spend === 'operator'
    const staleSeconds = isOperators ? FOREVER_S : cache.staleSeconds
    const shape = shapeOf(request, options.defaults.stream, headers.get('accept'))
    const resumable = shape.stream && method === 'POST'
    const workKey = scoped ? await cacheKey(effective, visitor, key) : understood.key
    const work: Work = {
      request: effective,
      key: workKey,
      storedUnder: last ?? workKey,
      source: last === null ? null : { recipe: understood.key, pages: [] },
      names,
      requestedAt: visit.startedAt,
      keep: freshSeconds === 0 ? null : { freshSeconds, staleSeconds },
      forced: isOperator && wishes.noCache && method === 'POST',
      requestId: visit.id,
      visitor: isOperator ? null : visitor,
    }
    return {
      work,
      pages,
      withPages: async ({ texts, versions }) => {
        const filled = effectiveRequest(request, options, texts)
        return {
          ...work,
          request: filled,
          key: await cacheKey(filled, null, key),
          source: { recipe: understood.key, pages: versions },
        }
      },
      reader: { shape, resume: resumable ? parseResumePoint(headers.get('last-event-id')) : null },
      shared: !scoped,
      isOperator,
      takesLast: isOperators && (!isOperator || method !== 'POST'),
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
    const { effective: options, key: keyOptions } = this.#options
    const request = this.#context.parse(body)
    const draft = effectiveRequest(request, options)
    const pages = await this.#context.pageVariables.named(request)
    const effective =
      pages === null ? draft : effectiveRequest(request, options, addressesOf(pages))
    const key = await cacheKey(effective, null, keyOptions)
    const last = await this.#lastKey(request, effective, pages)
    const names = namesOf({
      key: last ?? key,
      model: effective.model,
      promptId: effective.prompt_id,
      pages: [...(pages ?? [])].map(([, { name }]) => name),
    })
    return { request, effective, key, last, pages, names }
  }

  /**
   * Of a prompt that only the operator may spend on, or that has pages: visitors must find its answer
   * without reading a page, and whatever the owner has changed since.
   */
  async #lastKey(
    request: VisitorRequest,
    effective: EffectiveRequest,
    pages: NamedPages | null,
  ): Promise<string | null> {
    const { prompt } = request
    if (!isLocked(prompt)) return null
    const isOperators = this.#options.prompts.get(prompt.id)?.spend === 'operator'
    if (!isOperators && pages === null) return null
    const { effective: options, key } = this.#options
    const addresses = [...(pages ?? [])].map(([name, { address }]) => [name, address])
    const variables = { ...prompt.variables, ...Object.fromEntries(addresses) }
    const fields = chosenFields(request, effective, options)
    return await lastKey({ promptId: prompt.id, variables, fields }, key.version)
  }
}

/** Addresses in place of texts, for a key that changes with everything but the texts. */
function addressesOf(pages: NamedPages): PageTexts {
  return new Map([...pages].map(([name, { address }]) => [name, { text: address, mark: 'page' }]))
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
