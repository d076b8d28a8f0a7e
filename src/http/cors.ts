// Which pages may call, and whose pages may read a response. Origins are compared whole and exactly
// (RFC 6454). Makes headers, of nothing but the verdict.
import type { Reply } from './reply.ts'

export interface OriginOptions {
  /** `scheme://host[:port]` each, or "*". */
  readonly origins: readonly string[]
}

/** What the policy says of one request. */
export type OriginVerdict =
  | { readonly kind: 'absent' }
  | { readonly kind: 'allowed'; readonly origin: string }
  | { readonly kind: 'refused'; readonly origin: string }

/**
 * Judges the `Origin` of a request against the owner's list and the Worker's own address.
 *
 * @param own the request's URL
 */
export function judgeOrigin(
  { headers }: Request,
  own: URL,
  { origins }: OriginOptions,
): OriginVerdict {
  const origin = headers.get('origin')
  if (origin === null) return { kind: 'absent' }
  const allowed =
    origin !== 'null' &&
    (origin === own.origin ||
      origins.includes(origin) ||
      origins.includes('*') ||
      (isLoopback(own.hostname) && isLoopbackOrigin(origin)))
  return { kind: allowed ? 'allowed' : 'refused', origin }
}

/** Longer ones are neither logged nor echoed; a host name has at most 253 characters (RFC 1035). */
const MAX_ORIGIN_CHARS = 270

/** Whether this is an http(s) origin as browsers spell it: no path, no default port, in lower case. */
export function isBrowserOrigin(value: string): boolean {
  if (value.length > MAX_ORIGIN_CHARS || !URL.canParse(value)) return false
  const { origin, protocol, hostname } = new URL(value)
  return origin === value && /^https?:$/.test(protocol) && !hostname.includes('*')
}

/** The origin of a request as the log may name it; null: there is none that a browser would send. */
export function namedOrigin(verdict: OriginVerdict): string | null {
  if (verdict.kind !== 'refused') return verdict.kind === 'allowed' ? verdict.origin : null
  return verdict.origin === 'null' ? 'null' : echoedOrigin(verdict)
}

/** The refused origin that may read why it was refused; null: there is none. */
export function echoedOrigin(verdict: OriginVerdict): string | null {
  return verdict.kind === 'refused' && isBrowserOrigin(verdict.origin) ? verdict.origin : null
}

/** Whether a host is this machine, as `localhost:8787` under `npm start` is. */
export function isLoopback(hostname: string): boolean {
  return (
    hostname === 'localhost' ||
    hostname.endsWith('.localhost') ||
    hostname === '[::1]' ||
    /^127(\.\d{1,3}){3}$/.test(hostname)
  )
}

function isLoopbackOrigin(origin: string): boolean {
  return isBrowserOrigin(origin) && isLoopback(new URL(origin).hostname)
}

const MAX_AGE_S = 86_400

const allowedHeaders = [
  'Authorization',
  'Content-Type',
  'X-Visitor-Token',
  'Last-Event-ID',
  'Cache-Control',
  'OpenAI-Organization',
  'OpenAI-Project',
  'OpenAI-Beta',
]

const exposedHeaders = [
  'X-Request-Id',
  'Cache-Status',
  'Age',
  'ETag',
  'Server-Timing',
  'Retry-After',
  'X-Should-Retry',
  'RateLimit-Policy',
  'RateLimit',
  'X-Usage-Estimated',
  'Link',
].join(', ')

/** A preflight: `OPTIONS` that asks for a method on behalf of a page (Fetch, 4.8). */
export function isPreflight(request: Request): boolean {
  return (
    request.method === 'OPTIONS' &&
    request.headers.has('origin') &&
    request.headers.has('access-control-request-method')
  )
}

/**
 * The origin whose pages may read a response; "*": pages of every origin, null: of no other origin.
 */
export type ReadableBy = string | null

/**
 * The answer to a preflight: 204 for everybody, with permission only for pages that may read the
 * response to come. The headers asked for are granted as they are spelled if they look like headers:
 * this service reads a known few and ignores the rest, and SDKs invent new ones.
 */
export function preflightReply(request: Request, readableBy: ReadableBy): Reply {
  const permission =
    readableBy === null
      ? {}
      : {
          'access-control-allow-methods': 'GET, HEAD, POST',
          'access-control-allow-headers': grantedHeaders(request),
          'access-control-max-age': String(MAX_AGE_S),
        }
  const headers = { vary: 'Origin, Access-Control-Request-Headers', ...permission }
  return { status: 204, headers, body: null }
}

const MAX_ASKED = 64

function grantedHeaders(request: Request): string {
  const asked = (request.headers.get('access-control-request-headers') ?? '')
    .split(',')
    .map((name) => name.trim())
    .filter((name) => /^[A-Za-z0-9][\w.-]{0,63}$/.test(name))
    .slice(0, MAX_ASKED)
  const known = new Set(allowedHeaders.map((name) => name.toLowerCase()))
  const extra = asked.filter((name) => !known.has(name.toLowerCase()))
  return [...allowedHeaders, ...new Set(extra)].join(', ')
}

/** What a browser is told with every reply: nothing to pages that may not read it. */
export function corsHeaders(readableBy: ReadableBy): Readonly<Record<string, string>> {
  if (readableBy === null) return {}
  return {
    'access-control-allow-origin': readableBy,
    'access-control-expose-headers': exposedHeaders,
    'timing-allow-origin': readableBy,
  }
}
