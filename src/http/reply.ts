// The headers of an answer, and the parsers of `Accept`, `Cache-Control` and `If-None-Match`.
import type { CacheWord } from '../events.ts'
import { toJson } from '../json.ts'

/** A route's response. The app converts it to a `Response` and adds the common headers. */
export interface Reply {
  readonly status: number
  /** Names are in lower case. A `vary` must include `Origin`. */
  readonly headers: Readonly<Record<string, string>>
  readonly body: BodyInit | null
}

/** A JSON reply that must not be cached. */
export function jsonReply(value: unknown, status = 200): Reply {
  const headers = { 'content-type': 'application/json', 'cache-control': 'no-store' }
  return { status, headers, body: toJson(value) }
}

export type Form = 'json' | 'sse' | 'text'

const contentTypes: Readonly<Record<Form, string>> = {
  json: 'application/json',
  sse: 'text/event-stream; charset=utf-8',
  text: 'text/plain; charset=utf-8',
}

/** The source of an answer, for `Cache-Status` (RFC 9211) and the log. */
export type CacheOutcome =
  | {
      readonly kind: 'hit'
      readonly detail: 'memory' | 'kv' | 'flight' | 'stale'
      readonly ttlSeconds: number
    }
  /** The last answer to a prompt, made before the prompt, its model or their parameters changed. */
  | { readonly kind: 'previous' }
  | { readonly kind: 'miss'; readonly stored: boolean; readonly collapsed: boolean }
  | { readonly kind: 'request' }
  | { readonly kind: 'bypass' }

export function cacheStatus(outcome: CacheOutcome): string {
  const parts = ['edge-completions']
  switch (outcome.kind) {
    case 'hit':
      parts.push('hit', `ttl=${outcome.ttlSeconds}`, `detail=${outcome.detail}`)
      break
    case 'previous':
      // No `ttl`: the answer is not fresh for the current request.
      parts.push('hit', 'detail=previous')
      break
    case 'miss':
      parts.push('fwd=miss')
      if (outcome.collapsed) parts.push('collapsed')
      if (outcome.stored) parts.push('stored')
      break
    case 'request':
    case 'bypass':
      parts.push(`fwd=${outcome.kind}`)
      break
    default:
      outcome satisfies never
  }
  return parts.join('; ')
}

/** The outcome in one word, for the log and the usage figures. */
export function cacheWord(outcome: CacheOutcome): CacheWord {
  switch (outcome.kind) {
    case 'hit':
      return outcome.detail
    case 'miss':
      return outcome.collapsed ? 'collapsed' : 'miss'
    case 'request':
      return 'miss'
    case 'previous':
    case 'bypass':
      return outcome.kind
    default:
      return outcome satisfies never
  }
}

/** The entity tag of an answer in one form, as each form has a different body. */
export function entityTag(completionId: string, form: Form, includeUsage: boolean): string {
  return `"${completionId}.${form}${form === 'sse' && includeUsage ? '.usage' : ''}"`
}

/** Evaluates `If-None-Match` (RFC 9110, 13.1.2) by weak comparison; `*` matches every tag. */
export function matchesTag(header: string | null, tag: string): boolean {
  if (header === null) return false
  return header
    .split(',')
    .map((candidate) => candidate.trim().replace(/^W\//, ''))
    .some((candidate) => candidate === '*' || candidate === tag)
}

export interface AnswerHeaders {
  readonly form: Form
  readonly cache: CacheOutcome
  readonly timing: { readonly cacheMs: number; readonly upstreamMs: number | null }
  /** The cached entry, if the answer is from the cache. */
  readonly entry?: { readonly ageSeconds: number; readonly tag: string }
  readonly estimated?: boolean
  /** The `max-age`; null for `no-store`. */
  readonly browserSeconds?: number | null
}

export function answerHeaders(options: AnswerHeaders): Record<string, string> {
  const { form, cache, timing, entry, estimated = false, browserSeconds = null } = options
  const headers: Record<string, string> = {
    'content-type': contentTypes[form],
    'cache-control': browserSeconds === null ? 'no-store' : `public, max-age=${browserSeconds}`,
    'cache-status': cacheStatus(cache),
    'server-timing': serverTiming(timing),
    vary: 'Origin, Accept',
  }
  if (entry !== undefined) {
    headers['age'] = String(entry.ageSeconds)
    headers['etag'] = entry.tag
  }
  if (estimated) headers['x-usage-estimated'] = '1'
  return headers
}

function serverTiming({ cacheMs, upstreamMs }: AnswerHeaders['timing']): string {
  const upstream = upstreamMs === null ? '' : `, upstream;dur=${Math.max(0, upstreamMs)}`
  return `cache;dur=${Math.max(0, cacheMs)}${upstream}`
}

interface Rank {
  readonly q: number
  /** The position in the header, from 0. */
  readonly order: number
}

/**
 * Whether `Accept` prefers plain text to the structured form (RFC 9110, 12.5.1), by q and then by
 * order. `application/json, text/plain, *\/*` means JSON, as does a missing header.
 */
export function prefersText(accept: string | null, stream: boolean): boolean {
  if (accept === null) return false
  const ranges = accept.split(',').map(parseRange)
  const text = rank('text/plain', ranges)
  const structured = [
    rank('application/json', ranges),
    ...(stream ? [rank('text/event-stream', ranges)] : []),
  ]
  return text.q > 0 && structured.every((other) => above(text, other))
}

function above(a: Rank, b: Rank): boolean {
  return a.q > b.q || (a.q === b.q && a.order < b.order)
}

interface Range {
  readonly type: string
  readonly q: number
}

function parseRange(text: string): Range {
  const [type = '', ...parameters] = text.split(';').map((part) => part.trim().toLowerCase())
  const weight = parameters.find((parameter) => parameter.startsWith('q='))
  const q = weight === undefined ? 1 : Number(weight.slice(2))
  return { type, q: q >= 0 && q <= 1 ? q : 0 }
}

/** The rank of a type, by the most specific range that matches. */
function rank(type: string, ranges: readonly Range[]): Rank {
  const family = `${type.split('/')[0]}/*`
  for (const candidate of [type, family, '*/*']) {
    const order = ranges.findIndex((range) => range.type === candidate)
    const range = ranges[order]
    if (range !== undefined) return { q: range.q, order }
  }
  return { q: 0, order: ranges.length }
}

/** The supported directives of a request's `Cache-Control` (RFC 9111, 5.2.1). */
export interface CacheDirectives {
  readonly noCache: boolean
  readonly noStore: boolean
  readonly onlyIfCached: boolean
}

const NO_WISHES: CacheDirectives = { noCache: false, noStore: false, onlyIfCached: false }

export function parseCacheControl(header: string | null): CacheDirectives {
  if (header === null) return NO_WISHES
  const directives = new Set(header.split(',').map((part) => part.trim().toLowerCase()))
  return {
    noCache: directives.has('no-cache'),
    noStore: directives.has('no-store'),
    onlyIfCached: directives.has('only-if-cached'),
  }
}
