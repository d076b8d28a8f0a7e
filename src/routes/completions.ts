// The completion endpoint: POST may ask an upstream, GET answers from the cache only.
import type { Visitors } from '../access/visitor.ts'
import { collect, encodeWhole, type Shape, streamAnswer } from '../answer.ts'
import { type Entry, freshness } from '../cache/entry.ts'
import type { KvTier } from '../cache/kv.ts'
import type { Delta } from '../completion/delta.ts'
import {
  type EffectiveOptions,
  type EffectiveRequest,
  effectiveRequest,
} from '../completion/effective.ts'
import { cacheKey, type KeyOptions } from '../completion/fingerprint.ts'
import { queryBody } from '../completion/query.ts'
import type { ParseRequest, VisitorRequest } from '../completion/request.ts'
import { GatewayError } from '../errors.ts'
import { internalEvent, type Report } from '../events.ts'
import { type GenerateContext, generate, type Outcome, type Work } from '../generate.ts'
import { type BodyOptions, readJson } from '../http/body.ts'
import {
  answerHeaders,
  type CacheOutcome,
  cacheStatus,
  cacheWishes,
  entityTag,
  matchesTag,
  prefersText,
} from '../http/reply.ts'
import { capableTargets, type RouteContext } from '../upstream/route.ts'
import type { Visit } from './visit.ts'

export interface CompletionsOptions {
  readonly body: BodyOptions
  readonly effective: EffectiveOptions
  readonly key: KeyOptions
  readonly cache: CachePolicy
  /** What differs for some locked prompts. */
  readonly prompts: ReadonlyMap<
    string,
    { readonly ttl_seconds: number | null; readonly spend: 'visitor' | 'operator' }
  >
  /** Silence in a stream after which a comment is sent. */
  readonly keepAliveMs: number
}

export interface CachePolicy {
  readonly ttlSeconds: number
  /** How long after that an entry is of any use. */
  readonly staleSeconds: number
  readonly browserSeconds: number
  readonly freePrompts: 'shared' | 'visitor' | 'off'
}

export interface CompletionsContext {
  readonly parse: ParseRequest
  readonly kv: KvTier
  readonly visitors: Visitors
  readonly connections: RouteContext['connections']
  readonly now: () => number
  readonly random: () => number
  readonly wait: RouteContext['wait']
  readonly newId: () => string
  readonly report: Report
}

/** One completion asked for, ready to be looked up. */
interface Asked {
  readonly request: EffectiveRequest
  readonly shape: Shape
  readonly key: string
  /** Seconds an answer stays fresh; 0: nothing is remembered. */
  readonly freshSeconds: number
  /** The answer is the same for everybody. */
  readonly shared: boolean
  readonly operatorOnly: boolean
}

export class Completions {
  readonly #options: CompletionsOptions
  readonly #context: CompletionsContext

  constructor(options: CompletionsOptions, context: CompletionsContext) {
    this.#options = options
    this.#context = context
  }

  /** `POST /v1/completions`. @throws GatewayError */
  async post(visit: Visit): Promise<Response> {
    const body = await readJson(visit.request, this.#options.body)
    const asked = await this.#ask(this.#context.parse(body), visit)
    const { now } = this.#context
    const wishes = cacheWishes(visit.request.headers.get('cache-control'))
    const lookedUpAt = now()
    const entry = await this.#lookUp(asked)
    const cacheMs = now() - lookedUpAt
    if (entry !== null && freshness(entry, this.#nowS()) === 'fresh') {
      return this.#hit(entry, asked, visit, cacheMs, null)
    }
    note(visit, asked.freshSeconds === 0 ? { kind: 'bypass' } : MISS)
    if (wishes.onlyIfCached || asked.operatorOnly) throw notCached()
    return await this.#miss(asked, visit, cacheMs, wishes.noStore)
  }

  /** `GET /v1/completions`: never spends, and needs no preflight. @throws GatewayError */
  async get(visit: Visit): Promise<Response> {
    const { now } = this.#context
    const request = this.#context.parse(queryBody(visit.url.searchParams))
    const asked = await this.#ask(request, visit)
    const lookedUpAt = now()
    const entry = await this.#lookUp(asked)
    const cacheMs = now() - lookedUpAt
    if (entry === null || freshness(entry, this.#nowS()) === 'expired') {
      note(visit, MISS)
      throw notCached()
    }
    const leftSeconds = Math.max(0, entry.fresh_until - this.#nowS())
    const browserSeconds = Math.min(this.#options.cache.browserSeconds, leftSeconds)
    return this.#hit(entry, asked, visit, cacheMs, asked.shared ? browserSeconds : null)
  }

  async #ask(request: VisitorRequest, visit: Visit): Promise<Asked> {
    const { effective: options, cache, key, prompts } = this.#options
    const { visitors, connections, now } = this.#context
    const effective = effectiveRequest(request, options)
    visit.noted.model = effective.model
    capableTargets(effective, connections)
    const visitor = await visitors.idOf(visit.request.headers.get('cf-connecting-ip'), now())
    visit.noted.visitor = visitor
    const free = effective.prompt_id === null
    const own = prompts.get(effective.prompt_id ?? '')
    const scoped = free && cache.freePrompts === 'visitor'
    return {
      request: effective,
      shape: shapeOf(request, options.defaults.stream, visit.request.headers.get('accept')),
      key: await cacheKey(effective, scoped ? visitor : null, key),
      freshSeconds:
        free && cache.freePrompts === 'off' ? 0 : (own?.ttl_seconds ?? cache.ttlSeconds),
      shared: !scoped,
      operatorOnly: own?.spend === 'operator',
    }
  }

  async #lookUp({ key, freshSeconds }: Asked): Promise<Entry | null> {
    return freshSeconds === 0 ? null : await this.#context.kv.get(key)
  }

  /** @param browserSeconds of a GET; null for a POST */
  #hit(
    entry: Entry,
    { shape }: Asked,
    visit: Visit,
    cacheMs: number,
    browserSeconds: number | null,
  ): Response {
    const nowS = this.#nowS()
    const tag = entityTag(entry.completion.id, shape.as, shape.includeUsage)
    const ttlSeconds = entry.fresh_until - nowS
    const detail = ttlSeconds > 0 ? 'kv' : 'stale'
    visit.noted.cache = detail
    const headers = answerHeaders({
      form: shape.as,
      cache: { kind: 'hit', detail, ttlSeconds },
      timing: { cacheMs, upstreamMs: null },
      entry: { ageSeconds: Math.max(0, nowS - entry.stored_at), tag },
      estimated: entry.estimated,
      browserSeconds,
    })
    const isGet = visit.request.method !== 'POST'
    if (isGet && matchesTag(visit.request.headers.get('if-none-match'), tag)) {
      return new Response(null, { status: 304, headers })
    }
    return new Response(encodeWhole(entry, shape), { headers })
  }

  async #miss(asked: Asked, visit: Visit, cacheMs: number, noStore: boolean): Promise<Response> {
    const { shape } = asked
    const controller = new AbortController()
    const leave = () => controller.abort(new Error('the visitor left'))
    visit.request.signal.addEventListener('abort', leave, { once: true })
    const outcome: Outcome = { attempts: 0, upstream: null, stored: false, usage: null }
    const work: Work = {
      request: asked.request,
      key: asked.key,
      keep:
        asked.freshSeconds === 0 || noStore
          ? null
          : { freshSeconds: asked.freshSeconds, staleSeconds: this.#options.cache.staleSeconds },
    }
    const askedAt = this.#context.now()
    const deltas = generate(work, this.#generateContext(asked, visit, controller.signal), outcome)
    const cache: CacheOutcome = asked.freshSeconds === 0 ? { kind: 'bypass' } : MISS
    const headers = (upstreamMs: number, estimated: boolean) =>
      answerHeaders({
        form: shape.as,
        cache: cache.kind === 'miss' ? { ...cache, stored: outcome.stored } : cache,
        timing: { cacheMs, upstreamMs },
        estimated,
      })
    try {
      if (!shape.stream) {
        const folded = await collect(deltas)
        const upstreamMs = this.#context.now() - askedAt
        return new Response(encodeWhole(folded, shape), {
          headers: headers(upstreamMs, folded.estimated),
        })
      }
      const first = await deltas.next()
      const batch: readonly Delta[] = first.done === true ? [] : first.value
      visit.streaming = true
      const body = streamAnswer(batch, deltas, shape, {
        keepAliveMs: this.#options.keepAliveMs,
        onError: (error) => this.#reportInternal(error, visit),
        onEnd: (problem, left) => {
          if (left) {
            leave()
            visit.waitUntil(deltas.return(undefined).catch(() => {}))
          }
          noteOutcome(visit, outcome)
          visit.close(left ? CLIENT_LEFT : 200, problem?.code ?? null)
        },
      })
      return new Response(body, { headers: headers(this.#context.now() - askedAt, false) })
    } finally {
      noteOutcome(visit, outcome)
    }
  }

  #generateContext(asked: Asked, visit: Visit, signal: AbortSignal): GenerateContext {
    const { connections, now, random, wait, report, newId, kv } = this.#context
    return {
      route: {
        requestId: visit.id,
        connections,
        stream: asked.shape.stream,
        signal,
        now,
        random,
        wait,
        report,
        reserve: async () => FREE,
      },
      newId,
      store: (entry) => kv.put(entry),
    }
  }

  #reportInternal(error: unknown, visit: Visit): void {
    if (!(error instanceof GatewayError)) this.#context.report(internalEvent(error, visit.id))
  }

  #nowS(): number {
    return Math.floor(this.#context.now() / 1000)
  }
}

const MISS: CacheOutcome = { kind: 'miss', stored: false, collapsed: false }
const FREE = { accepted() {}, settle() {} }
/** In the log only: nobody is left to read a status. */
const CLIENT_LEFT = 499

function shapeOf(
  { stream: asked, stream_options }: VisitorRequest,
  preset: boolean | undefined,
  accept: string | null,
): Shape {
  const stream = asked ?? preset ?? false
  const as = prefersText(accept, stream) ? 'text' : stream ? 'sse' : 'json'
  return { as, stream, includeUsage: stream_options?.include_usage ?? false }
}

function note(visit: Visit, cache: CacheOutcome): void {
  visit.noted.cache = cache.kind === 'bypass' ? 'bypass' : 'miss'
  visit.headers.set('cache-status', cacheStatus(cache))
}

function noteOutcome(visit: Visit, { attempts, upstream, usage }: Outcome): void {
  Object.assign(visit.noted, {
    attempts,
    upstream,
    tokens_in: usage?.prompt_tokens ?? 0,
    tokens_out: usage?.completion_tokens ?? 0,
  })
}

function notCached(): GatewayError {
  return new GatewayError('not_cached', 'Cannot answer from the cache: this has no answer there')
}
