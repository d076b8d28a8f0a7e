// The endpoints that answer: completions, chats and the AI SDK's hooks. POST may call an upstream, GET
// answers from the cache only.

import { isWithin, rateLimited, type VisitorLimit } from '../access/rate-limit.ts'
import { ageOf, type Entry } from '../cache/entry.ts'
import type { Found, TieredCache } from '../cache/store.ts'
import { linkHeader } from '../completion/cites.ts'
import { type Api, bodyName, encodeWhole } from '../completion/encode.ts'
import { type Code, GatewayError, messages, problemOf } from '../errors.ts'
import type { Misses } from '../flight/client.ts'
import type { Work } from '../flight/generate.ts'
import { type MissAnswer, type MissSummary, NOTHING_SENT } from '../flight/miss.ts'
import { streamWhole } from '../flight/reader.ts'
import { type BodyOptions, readText } from '../http/body.ts'
import {
  answerHeaders,
  type CacheOutcome,
  entityTag,
  matchesTag,
  type Reply,
} from '../http/reply.ts'
import type { FoundAnswer, Lookups } from './lookups.ts'
import { CLIENT_LEFT, type Visit } from './request-log.ts'
import type { CachePolicy, RequestResolver, ResolvedRequest } from './resolve.ts'

export interface CompletionsDeps {
  readonly body: BodyOptions
  readonly policy: Pick<
    CachePolicy,
    'staleWhileRevalidateSeconds' | 'staleIfErrorSeconds' | 'browserSeconds' | 'freePrompts'
  >
  readonly resolver: RequestResolver
  readonly cache: TieredCache
  readonly lookups: Lookups
  readonly misses: Misses
  /** Lets an answer be served for longer, if half of its time as a stale one is over. */
  readonly prolong: (entry: Entry) => void
  readonly spendLimit: VisitorLimit
  readonly now: () => number
}

/** The result of a cache lookup. */
interface Lookup {
  readonly found: FoundAnswer | null
  readonly cacheMs: number
  /** KV was not read. */
  readonly skippedKv: boolean
}

/** A stored answer to serve. */
type Hit = Pick<FoundAnswer, 'cached' | 'isPrevious'> & {
  readonly tier: Found['tier'] | 'flight'
}

export class Completions {
  readonly #deps: CompletionsDeps

  constructor(deps: CompletionsDeps) {
    this.#deps = deps
  }

  /**
   * `POST /v1/completions`, `/v1/chat/completions` and `/v1/ai-sdk`: the same in other shapes.
   *
   * @throws GatewayError
   */
  async post(visit: Visit, api: Api): Promise<Reply> {
    const body = await readText(visit.request, this.#deps.body)
    const resolved = await this.#deps.resolver.resolve(api, body, visit)
    const { directives, takesLast } = resolved
    const mayJoin = !directives.onlyIfCached && !directives.noStore && !takesLast
    const lookup = await this.#lookUp(resolved, mayJoin)
    visit.cache = outcomeOf(resolved.work, false, false)
    if (takesLast) return this.#foundOnly(lookup.found, resolved, visit, lookup.cacheMs)
    const { work, found, older } = await this.#deps.lookups.prepare(resolved, lookup.found)
    if (work === null) return this.#foundOnly(found, resolved, visit, lookup.cacheMs)
    const stale = this.#staleSeconds(found)
    if (found !== null && stale <= this.#deps.policy.staleWhileRevalidateSeconds) {
      if (stale > 0 && !directives.onlyIfCached) visit.waitUntil(this.#refresh(work))
      return this.#hit(found, resolved, visit, lookup.cacheMs)
    }
    if (directives.onlyIfCached) {
      // No newer answer may be generated, so an entry within stale_if_error is served.
      const isUsable = found !== null && this.#isStaleIfError(found)
      return this.#foundOnly(isUsable ? found : null, resolved, visit, lookup.cacheMs)
    }
    return await this.#miss({ ...resolved, work }, visit, { ...lookup, found: found ?? older })
  }

  /** `GET /v1/completions`: never spends, and needs no preflight. @throws GatewayError */
  async get(visit: Visit): Promise<Reply> {
    const resolved = await this.#deps.resolver.resolve('query', visit.url.search, visit)
    const { found, cacheMs } = await this.#lookUp(resolved)
    visit.cache = outcomeOf(resolved.work, false, false)
    return this.#foundOnly(found, resolved, visit, cacheMs)
  }

  /** @param mayJoin skip KV if this isolate has a reader in a running flight with this key */
  async #lookUp(resolved: ResolvedRequest, mayJoin = false): Promise<Lookup> {
    const { cache, lookups, misses, now } = this.#deps
    const { work } = resolved
    const startedAt = now()
    const bypasses = work.lifetime === null || work.forced
    const skippedKv =
      mayJoin &&
      work.source === null &&
      misses.isUnderWay(work.key) &&
      cache.fromMemory(work.key) === null
    if (skippedKv) await cache.ready()
    const found = bypasses || skippedKv ? null : await lookups.find(resolved)
    return { found, cacheMs: now() - startedAt, skippedKv }
  }

  #staleSeconds(found: Found | null): number {
    return found === null ? 0 : ageOf(found.cached.entry, this.#deps.now()).staleSeconds
  }

  /** @throws GatewayError `not_cached` if nothing was found */
  #foundOnly(
    found: FoundAnswer | null,
    resolved: ResolvedRequest,
    visit: Visit,
    cacheMs: number,
  ): Reply {
    if (found !== null) return this.#hit(found, resolved, visit, cacheMs)
    throw new GatewayError('not_cached', messages.not_cached)
  }

  #hit(
    { cached, tier, isPrevious }: Hit,
    { reader, shared }: ResolvedRequest,
    visit: Visit,
    cacheMs: number,
  ): Reply {
    const { entry } = cached
    const { shape } = reader
    const { method, headers: requestHeaders } = visit.request
    const { freshness, ttlSeconds, ageSeconds } = ageOf(entry, this.#deps.now())
    const cache: CacheOutcome = isPrevious
      ? { kind: 'previous' }
      : { kind: 'hit', detail: freshness === 'fresh' ? tier : 'stale', ttlSeconds }
    visit.cache = cache
    const browserSeconds = isPrevious
      ? 0
      : Math.max(0, Math.min(this.#deps.policy.browserSeconds, ttlSeconds))
    const tag = entityTag(entry.completion.id, bodyName(shape))
    visit.counts = { ...visit.counts, saved: entry.completion.usage }
    const headers = answerHeaders({
      shape,
      cache,
      timing: { cacheMs, upstreamMs: null },
      entry: { ageSeconds, tag },
      estimated: entry.estimated,
      link: linkHeader(entry.cites),
      browserSeconds: method !== 'POST' && shared ? browserSeconds : null,
    })
    if (method !== 'POST' && matchesTag(requestHeaders.get('if-none-match'), tag)) {
      return { status: 304, headers, body: null }
    }
    const body =
      reader.resume === null
        ? cached.body(bodyName(shape), () => encodeWhole(entry, reader))
        : streamWhole(entry, reader)
    return { status: 200, headers, body }
  }

  async #miss(resolved: ResolvedRequest, visit: Visit, lookup: Lookup): Promise<Reply> {
    const { now } = this.#deps
    const { noStore } = resolved.directives
    const work = noStore ? { ...resolved.work, lifetime: null } : resolved.work
    const startedAt = now()
    visit.streaming = resolved.reader.shape.stream
    const free = work.request.prompt_id === null
    const alone = noStore || (free && this.#deps.policy.freePrompts === 'off')
    const answer = await this.#answer(work, resolved.reader, visit.request.signal, alone)
    if (answer.kind === 'stream') {
      answer.ended.then(({ end, summary }) => {
        noteSummary(visit, summary)
        const code = typeof end === 'string' ? null : end.code
        visit.close(end === 'left' ? CLIENT_LEFT : 200, code)
      })
    }
    const timing = { cacheMs: lookup.cacheMs, upstreamMs: now() - startedAt }
    noteSummary(visit, answer.summary)
    if (answer.kind !== 'stream') visit.streaming = false
    // On a failure KV may still have a stale answer, which the first lookup skipped.
    const retried = answer.kind === 'problem' && lookup.skippedKv
    return this.#reply(
      answer,
      resolved,
      visit,
      retried ? await this.#lookUp(resolved) : lookup,
      timing,
    )
  }

  /** Applies the rate limit before anything is spent. */
  async #answer(...args: Parameters<Misses['answer']>): Promise<MissAnswer> {
    const [{ visitor }] = args
    const { misses, spendLimit } = this.#deps
    if (await isWithin(spendLimit, visitor)) return await misses.answer(...args)
    return { kind: 'problem', problem: problemOf(rateLimited('spend')), summary: NOTHING_SENT }
  }

  #reply(
    answer: MissAnswer,
    resolved: ResolvedRequest,
    visit: Visit,
    { found, cacheMs }: Lookup,
    timing: { readonly cacheMs: number; readonly upstreamMs: number },
  ): Reply {
    const { work, reader } = resolved
    if (answer.kind === 'left') {
      visit.close(CLIENT_LEFT, null)
      return { status: CLIENT_LEFT, headers: {}, body: null }
    }
    if (answer.kind === 'problem') {
      const { code, message, ...options } = answer.problem
      if (found !== null && staleIfErrorCodes.has(code) && this.#isStaleIfError(found)) {
        // The owner has to act, as after the end of a model. Until then there is no other answer.
        if (code === 'upstream_rejected') this.#deps.prolong(found.cached.entry)
        return this.#hit(found, resolved, visit, cacheMs)
      }
      throw new GatewayError(code, message, options)
    }
    const { role } = answer
    const { shape } = reader
    const link = linkHeader(work.cites)
    const isStream = answer.kind === 'stream'
    const cache: CacheOutcome =
      isStream && role === 'found'
        ? { kind: 'hit', detail: 'kv', ttlSeconds: null }
        : outcomeOf(work, role === 'follower', !isStream && answer.stored)
    visit.cache = cache
    if (isStream) {
      const headers = answerHeaders({ shape, cache, timing, link })
      return { status: 200, headers, body: answer.body }
    }
    // This isolate's own copy; the flight has stored the answer for everybody.
    const cached = answer.entry === null ? null : this.#deps.cache.storeInMemory(answer.entry)
    if (cached !== null && (role === 'late' || role === 'found')) {
      const tier = role === 'late' ? 'flight' : 'kv'
      return this.#hit({ cached, tier, isPrevious: false }, resolved, visit, cacheMs)
    }
    if (role === 'follower') {
      visit.counts = { ...visit.counts, saved: answer.completion.usage }
    }
    const body = cached?.body(bodyName(shape), () => encodeWhole(answer, reader))
    return {
      status: 200,
      headers: answerHeaders({ shape, cache, timing, estimated: answer.estimated, link }),
      body: body ?? encodeWhole(answer, reader),
    }
  }

  /** Many visitors cause one refresh: it runs in a flight, and those of a key are spaced out. */
  async #refresh(work: Work): Promise<void> {
    const { misses, spendLimit } = this.#deps
    await misses.refresh(work, () => isWithin(spendLimit, work.visitor))
  }

  #isStaleIfError(found: Found): boolean {
    return this.#staleSeconds(found) <= this.#deps.policy.staleIfErrorSeconds
  }
}

/** Errors that are not caused by the request: a stale answer is served instead. */
const staleIfErrorCodes: ReadonlySet<Code> = new Set([
  'rate_limited',
  'too_many_streams',
  'budget_exhausted',
  'paused',
  'upstream_rate_limited',
  'internal',
  'upstream_rejected',
  'upstream_bad_response',
  'upstream_truncated',
  'upstream_unavailable',
  'ledger_unavailable',
  'upstream_timeout',
])

function outcomeOf({ lifetime, forced }: Work, collapsed: boolean, stored: boolean): CacheOutcome {
  if (forced) return { kind: 'request' }
  return lifetime === null && !collapsed ? { kind: 'bypass' } : { kind: 'miss', stored, collapsed }
}

function noteSummary(visit: Visit, { attempts, upstream, usage }: MissSummary): void {
  Object.assign(visit.logFields, {
    attempts,
    upstream,
    tokens_in: usage?.prompt_tokens ?? 0,
    tokens_out: usage?.completion_tokens ?? 0,
  })
}
