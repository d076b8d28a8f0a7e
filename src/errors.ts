// Every error code and the messages of operational errors, independent of HTTP: http/problem.ts
// maps codes to statuses and bodies.

export const codes = [
  'invalid_json',
  'invalid_value',
  'unknown_field',
  'missing_field',
  'model_not_allowed',
  'prompt_not_found',
  'free_prompts_disabled',
  'locked_by_owner',
  'unsupported_by_upstream',
  'upstream_refused_request',
  'visitor_token_required',
  'visitor_token_invalid',
  'operator_token_invalid',
  'origin_not_allowed',
  'challenge_failed',
  'page_not_allowed',
  'not_found',
  'not_cached',
  'model_not_found',
  'site_not_indexed',
  'no_passages',
  'method_not_allowed',
  'body_timeout',
  'body_too_large',
  'unsupported_media_type',
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
  'page_unavailable',
  'misconfigured',
  'ledger_unavailable',
  'challenge_unavailable',
  'search_unavailable',
  'upstream_timeout',
] as const

export type Code = (typeof codes)[number]

/**
 * What visitors read when an error is not about their input: what happened, and what helps.
 * Messages about the input (`Cannot use "x": expected …, got …`) are written where it is validated.
 */
export const messages = {
  internal: 'Internal error. The owner can find it in the log by the request id.',
  misconfigured: 'This endpoint is misconfigured. The owner can see what to fix at GET /health.',
  not_found: 'Not found. The endpoints are /v1/completions, /v1/chat/completions and /v1/ai-sdk.',
  not_cached: 'Not in the cache.',
  site_not_indexed: 'This site has no search yet. Its owner can index it with "npm run index".',
  search_unavailable: 'The search is unavailable. Try again shortly.',
  no_passages: 'No answer was found on this site. Ask in other words, or about something else.',

  visitor_token_required:
    'A visitor token is required. Get one from POST /v1/visitors and send it as X-Visitor-Token.',
  visitor_token_invalid:
    'The visitor token is invalid or has expired. Get a new one from POST /v1/visitors.',
  visitor_tokens_unused: 'This endpoint uses no visitor tokens: call it without one.',
  visitor_tokens_unavailable: 'Visitor tokens cannot be checked right now. Try again shortly.',
  operator_token_invalid:
    'The operator token is missing or wrong. Send it as "Authorization: Bearer …".',
  challenge_failed: 'The bot check failed. Solve a new challenge and send its token right away.',
  challenge_unavailable:
    'The bot check could not be completed. Try again shortly with a new challenge.',

  rate_limited: (perMinute: number) =>
    `Rate limit reached (${perMinute} uncached requests per minute). Cached answers are still served.`,
  search_rate_limited: (perMinute: number) =>
    `Rate limit reached (${perMinute} new searches per minute). Repeated ones are still answered.`,
  too_many_streams: 'Too many of your requests are in progress. Wait for one of them to finish.',
  budget_exhausted:
    'Daily budget exhausted. Cached answers are still served; it resets at 00:00 UTC.',
  visitor_budget_exhausted:
    'Your share of the daily budget is used up. Cached answers are still served; it resets at 00:00 UTC.',
  paused: 'Generation is paused by the owner. Cached answers are still served.',
  ledger_unavailable:
    'The budget service is unavailable, so nothing was sent upstream. Try again shortly.',
  admin_ledger_unavailable: 'The budget service is unavailable. Try again shortly.',

  upstream_rate_limited: 'The upstream is receiving too many requests. Try again shortly.',
  upstream_quota_exhausted:
    "The quota of this endpoint's account at the upstream is used up. Cached answers are still served.",
  upstream_rejected:
    'The upstream rejected the call, and only the owner of this endpoint can fix that. The log has the reason.',
  upstream_refused_request: 'The model refused this request as invalid.',
  upstream_refused_length:
    'This request is too long for the model. Send less text, or ask for fewer tokens.',
  upstream_refused_content: "The model's content filter refused this request.",
  upstream_bad_response: "The upstream's answer cannot be used. Try again shortly.",
  upstream_empty: "The upstream's answer was empty. Try again shortly.",
  upstream_failed: 'The upstream ended its answer with an error. Try again shortly.',
  upstream_truncated: 'The upstream stopped in the middle of the answer. Try again shortly.',
  upstream_unavailable: 'The upstream cannot be reached. Try again shortly.',
  upstream_suspended:
    'The model keeps failing, so calls to it are suspended for a few seconds. Cached answers are still served.',
  upstream_timeout: 'The upstream took too long. Try again, or ask for less.',
} as const

/** An error as plain data. It may be sent to a visitor and through Durable Object RPC. */
export interface Problem {
  readonly code: Code
  readonly message: string
  /** The path of the invalid request field, as the visitor spelled it. */
  readonly param: string | null
  readonly retryAfterSeconds: number | null
  /** The limit that was reached, for the `RateLimit` headers. */
  readonly rateLimit: RateLimit | null
}

/** One limit, as in draft-ietf-httpapi-ratelimit-headers-11. */
export interface RateLimit {
  readonly policy: string
  readonly quota: number
  readonly remaining: number
  /** Until the full quota is available again. */
  readonly resetSeconds: number
  /** The period of the quota; null if it limits concurrent calls instead of a rate. */
  readonly windowSeconds: number | null
}

interface GatewayErrorOptions extends Partial<Omit<Problem, 'code' | 'message'>> {
  /** For the owner's log only. Must not contain prompts, completions, keys or upstream texts. */
  readonly cause?: unknown
}

/** The only error thrown on purpose. Visitors can read `message`; `cause` is for the log. */
export class GatewayError extends Error implements Problem {
  override readonly name = 'GatewayError'
  readonly code: Code
  readonly param: string | null
  readonly retryAfterSeconds: number | null
  readonly rateLimit: RateLimit | null

  constructor(code: Code, message: string, options: GatewayErrorOptions = {}) {
    const { param = null, retryAfterSeconds = null, rateLimit = null, cause } = options
    super(message, cause === undefined ? {} : { cause })
    this.code = code
    this.param = param
    this.retryAfterSeconds = retryAfterSeconds
    this.rateLimit = rateLimit
  }
}

/** @param state what is wrong with the value, such as "expected 0 to 2, got 3" */
export function invalidValue(param: string, state: string): GatewayError {
  return new GatewayError('invalid_value', `Cannot use "${param}": ${state}`, { param })
}

/** The plain data of an error. Any other error becomes `internal`, without its message. */
export function problemOf(error: unknown): Problem {
  const known =
    error instanceof GatewayError ? error : new GatewayError('internal', messages.internal)
  const { code, message, param, retryAfterSeconds, rateLimit } = known
  return { code, message, param, retryAfterSeconds, rateLimit }
}

/**
 * Whether a failed call to a Durable Object may succeed when it is repeated: not if the object is
 * overloaded. https://developers.cloudflare.com/durable-objects/best-practices/error-handling/
 */
export function isRetryable(error: unknown): boolean {
  if (typeof error !== 'object' || error === null) return false
  const { retryable, overloaded, durableObjectReset } = error as Record<string, unknown>
  return (retryable === true || durableObjectReset === true) && overloaded !== true
}
