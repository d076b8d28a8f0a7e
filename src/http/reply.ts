// The headers of an answer, and the parsers of `Accept`, `Cache-Control` and `If-None-Match`.
import type { Shape } from '../completion/encode.ts'
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

const contentTypes: Readonly<Record<Shape['as'], string>> = {
  json: 'application/json',
  sse: 'text/event-stream; charset=utf-8',
  text: 'text/plain; charset=utf-8',
}

/** The source of an answer, for `Cache-Status` (RFC 9211) and the log. */
export type CacheOutcome =
  | {
      readonly kind: 'hit'
      readonly detail: 'memory' | 'kv' | 'flight' | 'stale'
      /** Null: a stream's, whose entry is in its flight. */
      readonly ttlSeconds: number | null
    }
  /** The last answer to a prompt, made before the prompt, its model or their parameters changed. */
  | { readonly kind: 'previous' }
  | { readonly kind: 'miss'; readonly stored: boolean; readonly collapsed: boolean }
  | { readonly kind: 'request' }
  | { readonly kind: 'bypass' }

export function cacheStatus(outcome: CacheOutcome): string {
  return `edge-completions; ${parametersOf(outcome)}`
}

function parametersOf(outcome: CacheOutcome): string {
  switch (outcome.kind) {
    case 'hit':
      return `hit${outcome.ttlSeconds === null ? '' : `; ttl=${outcome.ttlSeconds}`}; detail=${outcome.detail}`
    case 'previous':
      // No `ttl`: the answer is not fresh for the current request.
      return 'hit; detail=previous'
    case 'miss':
      return `fwd=miss${outcome.collapsed ? '; collapsed' : ''}${outcome.stored ? '; stored' : ''}`
    default:
      return `fwd=${outcome.kind}`
  }
}

/** The outcome in one word, for the log and the usage figures. */
export function cacheWord(outcome: CacheOutcome): CacheWord {
  if (outcome.kind === 'hit') return outcome.detail
  if (outcome.kind === 'miss') return outcome.collapsed ? 'collapsed' : 'miss'
  return outcome.kind === 'request' ? 'miss' : outcome.kind
}

/** The entity tag of an answer in one shape, as each shape has a different body. */
export function entityTag(completionId: string, bodyName: string): string {
  return `"${completionId}.${bodyName}"`
}

/** Evaluates `If-None-Match` (RFC 9110, 13.1.2) by weak comparison; `*` matches every tag. */
export function matchesTag(header: string | null, tag: string): boolean {
  return (header ?? '')
    .split(',')
    .map((candidate) => candidate.trim().replace(/^W\//, ''))
    .some((candidate) => candidate === '*' || candidate === tag)
}

export interface AnswerHeaders {
  readonly shape: Shape
  readonly cache: CacheOutcome
  readonly timing: { readonly cacheMs: number; readonly upstreamMs: number | null }
  /** The cached entry, if the answer is from the cache. */
  readonly entry?: { readonly ageSeconds: number; readonly tag: string }
  readonly estimated?: boolean
  /** The `Link` header for the passages that the answer is made from (completion/cites.ts); null: not sent. */
  readonly link?: string | null
  /** The `max-age`; null for `no-store`. */
  readonly browserSeconds?: number | null
}

export function answerHeaders(options: AnswerHeaders): Record<string, string> {
  const { shape, cache, timing, entry, estimated = false, browserSeconds = null } = options
  const { link = null } = options
  return {
    'content-type': contentTypes[shape.as],
    'cache-control': browserSeconds === null ? 'no-store' : `public, max-age=${browserSeconds}`,
    'cache-status': cacheStatus(cache),
    'server-timing': serverTiming(timing),
    vary: 'Origin, Accept',
    ...(entry === undefined ? {} : { age: String(entry.ageSeconds), etag: entry.tag }),
    ...(estimated ? { 'x-usage-estimated': '1' } : {}),
    ...(link === null ? {} : { link }),
    ...(shape.api === 'ai-sdk' ? { 'x-vercel-ai-ui-message-stream': 'v1' } : {}),
  }
}

function serverTiming({ cacheMs, upstreamMs }: AnswerHeaders['timing']): string {
  const upstream = upstreamMs === null ? '' : `, upstream;dur=${Math.max(0, upstreamMs)}`
  return `cache;dur=${Math.max(0, cacheMs)}${upstream}`
}

/**
 * Whether `Accept` prefers plain text to the structured form (RFC 9110, 12.5.1), by q and then by
 * order. `application/json, text/plain, *\/*` means JSON, as does a missing header.
 */
export function prefersText(accept: string | null, stream: boolean): boolean {
  if (accept === null) return false
  const ranges = accept.split(',').map(parseRange)
  const text = rank('text/plain', ranges)
  const structured = ['application/json', ...(stream ? ['text/event-stream'] : [])]
  return (
    text.q > 0 &&
    structured
      .map((type) => rank(type, ranges))
      .every(({ q, order }) => text.q > q || (text.q === q && text.order < order))
  )
}

type Range = ReturnType<typeof parseRange>

function parseRange(text: string) {
  const [type = '', ...parameters] = text.split(';').map((part) => part.trim().toLowerCase())
  const weight = parameters.find((parameter) => parameter.startsWith('q='))
  const q = weight === undefined ? 1 : Number(weight.slice(2))
  return { type, q: q >= 0 && q <= 1 ? q : 0 }
}

/** The weight of a type and its place in the header, by the most specific range that matches. */
function rank(type: string, ranges: readonly Range[]) {
  for (const candidate of [type, `${type.split('/')[0]}/*`, '*/*']) {
    const order = ranges.findIndex((range) => range.type === candidate)
    const range = ranges[order]
    if (range !== undefined) return { q: range.q, order }
  }
  return { q: 0, order: ranges.length }
}

export type CacheDirectives = ReturnType<typeof parseCacheControl>

/** The supported directives of a request's `Cache-Control` (RFC 9111, 5.2.1). */
export function parseCacheControl(header: string | null) {
  const directives = (header ?? '').split(',').map((part) => part.trim().toLowerCase())
  return {
    noCache: directives.includes('no-cache'),
    noStore: directives.includes('no-store'),
    onlyIfCached: directives.includes('only-if-cached'),
  }
}
