// An answer on its way out: its headers (contract 2.4), and what a reader's `Accept` and
// `Cache-Control` ask for. Pure: it is told times and sizes, and knows no cache.
import type { CacheWord } from '../events.ts'
import { toJson } from '../json.ts'

/** What becomes a response: the app makes the one `Response` of it, with the headers all have. */
export interface Reply {
  readonly status: number
  /** By lower-case name; a `vary` of its own names `Origin`, too. */
  readonly headers: Readonly<Record<string, string>>
  readonly body: BodyInit | null
}

/** Something that is never kept anywhere, as JSON. */
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

/** Where an answer came from: `Cache-Status` (RFC 9211) and the log's word are made of it. */
export type CacheOutcome =
  | {
      readonly kind: 'hit'
      readonly detail: 'memory' | 'kv' | 'flight' | 'stale'
      readonly ttlSeconds: number
    }
  /** A prompt's last answer, from before the prompt, its model or their parameters changed. */
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
      // It is fresh for nothing that is asked now.
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

/** The outcome in one word, for the log and the figures. */
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

/** The tag of one representation: an answer looks different in each form. */
export function entityTag(completionId: string, form: Form, includeUsage: boolean): string {
  return `"${completionId}.${form}${form === 'sse' && includeUsage ? '.usage' : ''}"`
}

/** `If-None-Match` (RFC 9110, 13.1.2): weak comparison, `*` matches anything there is. */
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
  /** Of the remembered answer. */
  readonly entry?: { readonly ageSeconds: number; readonly tag: string }
  readonly estimated?: boolean
  /** Null: `no-store`. */
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

export function serverTiming({ cacheMs, upstreamMs }: AnswerHeaders['timing']): string {
  const upstream = upstreamMs === null ? '' : `, upstream;dur=${Math.max(0, upstreamMs)}`
  return `cache;dur=${Math.max(0, cacheMs)}${upstream}`
}

interface Rank {
  readonly q: number
  /** Where in the header, first is 0. */
  readonly order: number
}

/**
 * Whether `Accept` ranks bare text above the structured form (RFC 9110, 12.5.1): by q, then by
 * order. `application/json, text/plain, *\/*` means JSON, and so does no header at all.
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

/** By the most specific range that matches. */
function rank(type: string, ranges: readonly Range[]): Rank {
  const family = `${type.split('/')[0]}/*`
  for (const wanted of [type, family, '*/*']) {
    const order = ranges.findIndex((range) => range.type === wanted)
    const range = ranges[order]
    if (range !== undefined) return { q: range.q, order }
  }
  return { q: 0, order: ranges.length }
}

/** What a request's `Cache-Control` asks for; everything else in it is ignored (RFC 9111, 5.2.1). */
export interface CacheWishes {
  readonly noCache: boolean
  readonly noStore: boolean
  readonly onlyIfCached: boolean
}

const NO_WISHES: CacheWishes = { noCache: false, noStore: false, onlyIfCached: false }

export function cacheWishes(header: string | null): CacheWishes {
  if (header === null) return NO_WISHES
  const directives = new Set(header.split(',').map((part) => part.trim().toLowerCase()))
  return {
    noCache: directives.has('no-cache'),
    noStore: directives.has('no-store'),
    onlyIfCached: directives.has('only-if-cached'),
  }
}
