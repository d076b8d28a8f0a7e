// The completion endpoint: POST may ask an upstream, GET answers from the cache only.
import { bodyName, encodeWhole } from '../answer.ts'
import { freshness } from '../cache/entry.ts'
import type { Found, TieredCache } from '../cache/tiered.ts'
import { type Code, GatewayError, problemOf } from '../errors.ts'
import type { Work } from '../generate.ts'
import { type BodyOptions, readText } from '../http/body.ts'
import {
  answerHeaders,
  type CacheOutcome,
  cacheStatus,
  entityTag,
  matchesTag,
  type Reply,
} from '../http/reply.ts'
import type { MissAnswer, MissSummary } from '../miss.ts'
import type { Asked, Asking, CachePolicy } from './asked.ts'
import type { Misses } from './misses.ts'
import { isWithin, rateLimited, type SpendLimit } from './spend-limit.ts'
import { CLIENT_LEFT, type Visit } from './visit.ts'

export interface CompletionsOptions {
  readonly body: BodyOptions
  readonly cache: Pick<
    CachePolicy,
    'staleWhileRevalidateSeconds' | 'staleIfErrorSeconds' | 'browserSeconds' | 'freePrompts'
  >
}

export interface CompletionsContext {
  readonly asking: Asking
  readonly cache: TieredCache
  readonly misses: Misses
  readonly spendLimit: SpendLimit
  readonly now: () => number
}

/** What a look into the cache brought. */
interface Looked {
  readonly found: Found | null
  readonly cacheMs: number
  /** KV was not asked. */
  readonly pastKv: boolean
}

export class Completions {
  readonly #options: CompletionsOptions
  readonly #context: CompletionsContext

  constructor(options: CompletionsOptions, context: CompletionsContext) {
    this.#options = options
    this.#context = context
  }

  /** `POST /v1/completions`. @throws GatewayError */
  async post(visit: Visit): Promise<Reply> {
    const body = await readText(visit.request, this.#options.body)
    const asked = await this.#context.asking.ask('body', body, visit)
    const { wishes } = asked
    const mayJoin = !wishes.onlyIfCached && !wishes.noStore && !asked.refused
    const looked = await this.#lookUp(asked, mayJoin)
    const stale = this.#ageOf(looked.found)
    if (looked.found !== null && stale <= this.#options.cache.staleWhileRevalidateSeconds) {
      if (stale > 0 && !wishes.onlyIfCached) visit.waitUntil(this.#refresh(asked))
      return this.#hit(looked.found, asked, visit, looked.cacheMs)
    }
    note(visit, outcomeOf(asked.work, false, false))
    if (wishes.onlyIfCached || asked.refused) {
      // Nothing newer may be had for this visitor, so an old answer is better than none.
      if (looked.found !== null && this.#isStaleIfError(looked.found)) {
        return this.#hit(looked.found, asked, visit, looked.cacheMs)
      }
      throw notCached()
    }
    return await this.#miss(asked, visit, looked, wishes.noStore)
  }

  /** `GET /v1/completions`: never spends, and needs no preflight. @throws GatewayError */
  async get(visit: Visit): Promise<Reply> {
    const asked = await this.#context.asking.ask('query', visit.url.search, visit)
    const { found, cacheMs } = await this.#lookUp(asked)
    if (found === null) {
      note(visit, outcomeOf(asked.work, false, false))
      throw notCached()
    }
    const leftSeconds = Math.max(0, found.remembered.entry.fresh_until - this.#nowS())
    const browserSeconds = Math.min(this.#options.cache.browserSeconds, leftSeconds)
    return this.#hit(found, asked, visit, cacheMs, asked.shared ? browserSeconds : null)
  }

  /** @param mayJoin a flight that is under way will do instead of KV */
  async #lookUp({ work }: Asked, mayJoin = false): Promise<Looked> {
    const { cache, misses, now } = this.#context
    const startedAt = now()
    const passes = work.keep === null || work.forced
    const pastKv = mayJoin && misses.isUnderWay(work.key) && cache.fromMemory(work.key) === null
    const found = passes || pastKv ? null : await cache.get(work.key)
    const useful = found === null || freshness(found.remembered.entry, this.#nowS()) !== 'expired'
    return { found: useful ? found : null, cacheMs: now() - startedAt, pastKv }
  }

  /** Seconds since an entry was last fresh; 0 or less: it is. */
  #ageOf(found: Found | null): number {
    return found === null ? 0 : this.#nowS() - found.remembered.entry.fresh_until + 1
  }

  /** @param browserSeconds of a GET; null for a POST */
  #hit(
    { remembered, tier }: Pick<Found, 'remembered'> & { readonly tier: Found['tier'] | 'flight' },
    { reader }: Asked,
    visit: Visit,
    cacheMs: number,
    browserSeconds: number | null = null,
  ): Reply {
    const { entry } = remembered
    const { shape } = reader
    const nowS = this.#nowS()
    const ttlSeconds = entry.fresh_until - nowS
    const detail = ttlSeconds > 0 ? tier : 'stale'
    const tag = entityTag(entry.completion.id, shape.as, shape.includeUsage)
    visit.noted.cache = detail
    visit.isFound = true
    visit.tally = { ...visit.tally, saved: entry.completion.usage.total_tokens }
    const headers = answerHeaders({
      form: shape.as,
      cache: { kind: 'hit', detail, ttlSeconds },
      timing: { cacheMs, upstreamMs: null },
      entry: { ageSeconds: Math.max(0, nowS - entry.stored_at), tag },
      estimated: entry.estimated,
      browserSeconds,
    })
    const { method, headers: asked } = visit.request
    if (method !== 'POST' && matchesTag(asked.get('if-none-match'), tag)) {
      return { status: 304, headers, body: null }
    }
    const body =
      reader.resume === null
        ? remembered.body(bodyName(shape), () => encodeWhole(entry, reader))
        : encodeWhole(entry, reader)
    return { status: 200, headers, body }
  }

  async #miss(asked: Asked, visit: Visit, looked: Looked, noStore: boolean): Promise<Reply> {
    const { now } = this.#context
    const work = noStore ? { ...asked.work, keep: null } : asked.work
    const left = new AbortController()
    const { signal } = visit.request
    signal.addEventListener('abort', () => left.abort(), { once: true })
    if (signal.aborted) left.abort()
    const askedAt = now()
    visit.streaming = asked.reader.shape.stream
    const free = work.request.prompt_id === null
    const alone = noStore || (free && this.#options.cache.freePrompts === 'off')
    const answer = await this.#answer(
      work,
      asked.reader,
      {
        left,
        onEnd: (end, { summary }) => {
          noteSummary(visit, summary)
          const code = typeof end === 'string' ? null : end.code
          visit.close(end === 'left' ? CLIENT_LEFT : 200, code)
        },
      },
      alone,
    )
    const timing = { cacheMs: looked.cacheMs, upstreamMs: now() - askedAt }
    noteSummary(visit, answer.summary)
    if (answer.kind !== 'stream') visit.streaming = false
    // What failed may still have an old answer in KV.
    const known = answer.kind === 'problem' && looked.pastKv ? await this.#lookUp(asked) : looked
    return this.#reply(answer, asked, visit, known, timing)
  }

  /** The rate limit stands before everything that may spend; a limit that is broken is none. */
  async #answer(...asked: Parameters<Misses['answer']>): Promise<MissAnswer> {
    const [{ visitor }] = asked
    if (visitor === null || (await isWithin(this.#context.spendLimit, visitor))) {
      return await this.#context.misses.answer(...asked)
    }
    return { kind: 'problem', problem: problemOf(rateLimited()), summary: NOTHING_ASKED }
  }

  #reply(
    answer: MissAnswer,
    { work, reader, ...asked }: Asked,
    visit: Visit,
    { found, cacheMs }: Looked,
    timing: { readonly cacheMs: number; readonly upstreamMs: number },
  ): Reply {
    if (answer.kind === 'left') {
      visit.close(CLIENT_LEFT, null)
      return { status: CLIENT_LEFT, headers: {}, body: null }
    }
    if (answer.kind === 'problem') {
      const { code, message, ...options } = answer.problem
      if (found !== null && staleHelps.has(code) && this.#isStaleIfError(found)) {
        return this.#hit(found, { work, reader, ...asked }, visit, cacheMs)
      }
      throw new GatewayError(code, message, options)
    }
    const { role } = answer
    const form = reader.shape.as
    if (answer.kind === 'stream') {
      const cache = outcomeOf(work, role === 'follower', false)
      visit.noted.cache = role === 'follower' ? 'collapsed' : cacheWord(cache)
      const headers = answerHeaders({ form, cache, timing })
      return { status: 200, headers, body: answer.body }
    }
    const remembered = answer.entry === null ? null : this.#context.cache.remember(answer.entry)
    if (remembered !== null && (role === 'late' || role === 'found')) {
      const tier = role === 'late' ? 'flight' : 'kv'
      return this.#hit({ remembered, tier }, { work, reader, ...asked }, visit, cacheMs)
    }
    if (role === 'follower') {
      visit.tally = { ...visit.tally, saved: answer.completion.usage.total_tokens }
    }
    visit.isFound ||= answer.stored
    const cache = outcomeOf(work, role === 'follower', answer.stored)
    visit.noted.cache = role === 'follower' ? 'collapsed' : cacheWord(cache)
    const body = remembered?.body(bodyName(reader.shape), () => encodeWhole(answer, reader))
    return {
      status: 200,
      headers: answerHeaders({ form, cache, timing, estimated: answer.estimated }),
      body: body ?? encodeWhole(answer, reader),
    }
  }

  /** One refresh for any number of visitors: the flight, and the rest between two, see to that. */
  async #refresh({ work, refused }: Asked): Promise<void> {
    if (refused) return
    await this.#context.misses.refresh(work, async () => {
      return work.visitor === null || (await isWithin(this.#context.spendLimit, work.visitor))
    })
  }

  #isStaleIfError(found: Found): boolean {
    return this.#ageOf(found) <= this.#options.cache.staleIfErrorSeconds
  }

  #nowS(): number {
    return Math.floor(this.#context.now() / 1000)
  }
}

const NOTHING_ASKED: MissSummary = { upstream: null, attempts: 0, usage: null }

/** Failures that are not the visitor's own: an older answer is better than those. */
const staleHelps: ReadonlySet<Code> = new Set([
  'rate_limited',
  'too_many_streams',
  'budget_exhausted',
  'upstream_rate_limited',
  'internal',
  'upstream_rejected',
  'upstream_bad_response',
  'upstream_truncated',
  'upstream_unavailable',
  'ledger_unavailable',
  'upstream_timeout',
])

function outcomeOf({ keep, forced }: Work, collapsed: boolean, stored: boolean): CacheOutcome {
  if (forced) return { kind: 'request' }
  return keep === null && !collapsed ? { kind: 'bypass' } : { kind: 'miss', stored, collapsed }
}

function cacheWord({ kind }: CacheOutcome): 'bypass' | 'miss' {
  return kind === 'bypass' ? 'bypass' : 'miss'
}

function note(visit: Visit, cache: CacheOutcome): void {
  visit.noted.cache = cacheWord(cache)
  visit.headers['cache-status'] = cacheStatus(cache)
}

function noteSummary(visit: Visit, { attempts, upstream, usage }: MissSummary): void {
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
