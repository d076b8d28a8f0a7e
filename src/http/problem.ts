// Converts an error to an HTTP reply. Holds the table of statuses and types.
import type { Code, Problem, RateLimit } from '../errors.ts'
import { jsonReply, type Reply } from './reply.ts'

export const problemTypes = [
  'invalid_request_error',
  'authentication_error',
  'permission_error',
  'rate_limit_error',
  'api_error',
] as const

type Type = (typeof problemTypes)[number]

const table: Readonly<Record<Code, readonly [status: number, type: Type]>> = {
  invalid_json: [400, 'invalid_request_error'],
  invalid_value: [400, 'invalid_request_error'],
  unknown_field: [400, 'invalid_request_error'],
  missing_field: [400, 'invalid_request_error'],
  model_not_allowed: [400, 'invalid_request_error'],
  prompt_not_found: [400, 'invalid_request_error'],
  free_prompts_disabled: [400, 'invalid_request_error'],
  locked_by_owner: [400, 'invalid_request_error'],
  unsupported_by_upstream: [400, 'invalid_request_error'],
  upstream_refused_request: [400, 'invalid_request_error'],
  visitor_token_required: [401, 'authentication_error'],
  visitor_token_invalid: [401, 'authentication_error'],
  operator_token_invalid: [401, 'authentication_error'],
  origin_not_allowed: [403, 'permission_error'],
  challenge_failed: [403, 'permission_error'],
  page_not_allowed: [403, 'permission_error'],
  not_found: [404, 'invalid_request_error'],
  not_cached: [404, 'invalid_request_error'],
  model_not_found: [404, 'invalid_request_error'],
  site_not_indexed: [404, 'invalid_request_error'],
  no_passages: [404, 'invalid_request_error'],
  method_not_allowed: [405, 'invalid_request_error'],
  body_timeout: [408, 'invalid_request_error'],
  body_too_large: [413, 'invalid_request_error'],
  unsupported_media_type: [415, 'invalid_request_error'],
  rate_limited: [429, 'rate_limit_error'],
  too_many_streams: [429, 'rate_limit_error'],
  budget_exhausted: [429, 'rate_limit_error'],
  paused: [429, 'rate_limit_error'],
  upstream_rate_limited: [429, 'rate_limit_error'],
  internal: [500, 'api_error'],
  upstream_rejected: [502, 'api_error'],
  upstream_bad_response: [502, 'api_error'],
  upstream_truncated: [502, 'api_error'],
  upstream_unavailable: [502, 'api_error'],
  page_unavailable: [502, 'api_error'],
  misconfigured: [503, 'api_error'],
  ledger_unavailable: [503, 'api_error'],
  challenge_unavailable: [503, 'api_error'],
  search_unavailable: [503, 'api_error'],
  upstream_timeout: [504, 'api_error'],
}

/** The error object, as a response body or as an event in a stream. */
export function problemBody({ code, message, param }: Problem) {
  return { error: { message, type: table[code][1], param, code } }
}

const MAX_RETRY_AFTER_S = 86_400
const DEFAULT_RETRY_AFTER_S = 10

/** The reply for a problem, with additional headers such as `allow` for a 405. */
export function problemReply(
  problem: Problem,
  headers: Readonly<Record<string, string>> = {},
): Reply {
  const { code, retryAfterSeconds, rateLimit } = problem
  const status = statusOf(code)
  const reply = jsonReply(problemBody(problem), status)
  return {
    ...reply,
    headers: {
      ...reply.headers,
      ...retryAfter(status, retryAfterSeconds),
      ...(isRetryUseless(problem) ? { 'x-should-retry': 'false' } : {}),
      ...(rateLimit === null ? {} : rateLimitHeaders(rateLimit)),
      ...headers,
    },
  }
}

/** Structured fields (RFC 9651), such as `"day";q=200000;w=86400` and `"day";r=0;t=3600`. */
function rateLimitHeaders(limit: RateLimit): Record<string, string> {
  const { policy, quota, remaining, resetSeconds, windowSeconds } = limit
  const window = windowSeconds === null ? '' : `;w=${windowSeconds}`
  return {
    'ratelimit-policy': `"${policy}";q=${quota}${window}`,
    ratelimit: `"${policy}";r=${remaining};t=${resetSeconds}`,
  }
}

export function statusOf(code: Code): number {
  return table[code][0]
}

/** Errors that only the owner can fix. */
const ownerErrors: ReadonlySet<Code> = new Set(['misconfigured', 'upstream_rejected'])
/** OpenAI's SDKs ignore a longer `Retry-After` and retry within a second instead. */
const MAX_SDK_WAIT_S = 60

/** Whether an immediate retry would fail, too. SDKs retry every 429 and 5xx unless told not to. */
function isRetryUseless({ code, retryAfterSeconds }: Problem): boolean {
  return ownerErrors.has(code) || (retryAfterSeconds ?? 0) > MAX_SDK_WAIT_S
}

/** Every 429 has a `Retry-After`. */
function retryAfter(status: number, seconds: number | null): Record<string, string> {
  const delay = seconds === null || Number.isNaN(seconds) ? null : seconds
  if (delay === null && status !== 429) return {}
  const whole = Math.ceil(delay ?? DEFAULT_RETRY_AFTER_S)
  return { 'retry-after': String(Math.min(MAX_RETRY_AFTER_S, Math.max(1, whole))) }
}
