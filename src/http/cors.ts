// Decides which origins may call and which may read a response, and makes the CORS headers. Origins
// are compared exactly (RFC 6454).
import type { Reply } from './reply.ts'

/** The result of checking a request's `Origin`. */
export type OriginVerdict =
  | { readonly kind: 'absent' }
  | { readonly kind: 'allowed'; readonly origin: string }
  | { readonly kind: 'refused'; readonly origin: string }

/**
 * Checks the `Origin` of a request against the owner's list and the Worker's own origin.
 *
 * @param own the URL of the request
 * @param origins `scheme://host[:port]` each, or "*"
 */
export function checkOrigin(
  { headers }: Request,
  own: URL,
  origins: readonly string[],
): OriginVerdict {
  const origin = headers.get('origin')
  if (origin === null) return { kind: 'absent' }
  const isLocal = () => isBrowserOrigin(origin) && isLoopback(new URL(origin).hostname)
  const allowed =
    origin !== 'null' &&
    (origin === own.origin ||
      origins.includes(origin) ||
      (origins.includes('*') && origin.length <= MAX_ORIGIN_CHARS) ||
      (isLoopback(own.hostname) && isLocal()))
  return { kind: allowed ? 'allowed' : 'refused', origin }
}

/** Longer origins are refused, and neither logged nor echoed: host names have at most 253 characters (RFC 1035). */
const MAX_ORIGIN_CHARS = 270

/** Whether browsers send this http(s) origin: no path, no default port, in lower case. */
export function isBrowserOrigin(value: string): boolean {
  if (value.length > MAX_ORIGIN_CHARS || !URL.canParse(value)) return false
  const { origin, protocol, hostname } = new URL(value)
  return origin === value && /^https?:$/.test(protocol) && !hostname.includes('*')
}

/** The origin of a request for the log; null if there is no origin that a browser would send. */
export function originForLog(verdict: OriginVerdict): string | null {
  if (verdict.kind !== 'refused') return verdict.kind === 'allowed' ? verdict.origin : null
  return verdict.origin === 'null' ? 'null' : echoedOrigin(verdict)
}

/** The refused origin if its pages may read the reason; null otherwise. */
export function echoedOrigin(verdict: OriginVerdict): string | null {
  return verdict.kind === 'refused' && isBrowserOrigin(verdict.origin) ? verdict.origin : null
}

/** Whether a host is the local machine, such as `localhost:8787` under `npm start`. */
export function isLoopback(hostname: string): boolean {
  return /^((.+\.)?localhost|\[::1\]|127(\.\d{1,3}){3})$/.test(hostname)
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

/** Whether this is a CORS preflight request (Fetch, 4.8). */
export function isPreflight(request: Request): boolean {
  return (
    request.method === 'OPTIONS' &&
    request.headers.has('origin') &&
    request.headers.has('access-control-request-method')
  )
}

/** The origin whose pages may read a response; "*": all origins, null: no other origin. */
export type ReadableOrigin = string | null

/**
 * The response to a preflight: always 204, with permission only for origins that may read the
 * actual response. Any requested header with a valid name is allowed: this endpoint ignores those
 * it does not use, and SDKs keep adding new ones.
 */
export function preflightReply(request: Request, readableOrigin: ReadableOrigin): Reply {
  const permission = {
    'access-control-allow-methods': 'GET, HEAD, POST, PUT, DELETE',
    'access-control-allow-headers': grantedHeaders(request),
    'access-control-max-age': String(MAX_AGE_S),
  }
  const vary = 'Origin, Access-Control-Request-Headers'
  const headers = { vary, ...(readableOrigin === null ? {} : permission) }
  return { status: 204, headers, body: null }
}

const MAX_REQUESTED = 64

function grantedHeaders(request: Request): string {
  const requested = (request.headers.get('access-control-request-headers') ?? '')
    .split(',')
    .map((name) => name.trim())
    .filter((name) => /^[A-Za-z0-9][\w.-]{0,63}$/.test(name))
    .slice(0, MAX_REQUESTED)
  const known = new Set(allowedHeaders.map((name) => name.toLowerCase()))
  const extra = requested.filter((name) => !known.has(name.toLowerCase()))
  return [...allowedHeaders, ...new Set(extra)].join(', ')
}

/** The CORS headers of a response; none if no other origin may read it. */
export function corsHeaders(readableOrigin: ReadableOrigin): Readonly<Record<string, string>> {
  if (readableOrigin === null) return {}
  return {
    'access-control-allow-origin': readableOrigin,
    'access-control-expose-headers': exposedHeaders,
    'timing-allow-origin': readableOrigin,
  }
}
