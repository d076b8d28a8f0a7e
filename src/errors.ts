// The closed list of what can go wrong, as values without HTTP in them.
// Knows no status codes and no wording of the wire: http/problem.ts does.

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
  'upstream_timeout',
] as const

export type Code = (typeof codes)[number]

/** An error as plain data: what may cross a Durable Object's door, and what a stranger may read. */
export interface Problem {
  readonly code: Code
  readonly message: string
  /** The request field at fault, as the visitor spelled its path. */
  readonly param: string | null
  /** When to come back. */
  readonly retryAfterSeconds: number | null
  /** The limit that was reached, for the `RateLimit` headers. */
  readonly rateLimit: RateLimit | null
}

/** One limit, as draft-ietf-httpapi-ratelimit-headers-11 describes it. */
export interface RateLimit {
  readonly policy: string
  readonly quota: number
  readonly remaining: number
  /** Until it is whole again. */
  readonly resetSeconds: number
  /** Of the quota; null: it is no rate but a number at once. */
  readonly windowSeconds: number | null
}

export interface GatewayErrorOptions {
  readonly param?: string | null
  readonly retryAfterSeconds?: number | null
  readonly rateLimit?: RateLimit | null
  /** For the owner's log only. Must hold no prompt, completion, key or upstream text. */
  readonly cause?: unknown
}

/**
 * The only error this project throws on purpose. `message` may be read by a stranger; `cause` goes
 * to the owner's log.
 */
export class GatewayError extends Error {
  override readonly name = 'GatewayError'
  readonly code: Code
  readonly param: string | null
  readonly retryAfterSeconds: number | null
  readonly rateLimit: RateLimit | null

  constructor(code: Code, message: string, options: GatewayErrorOptions = {}) {
    super(message, options.cause === undefined ? {} : { cause: options.cause })
    this.code = code
    this.param = options.param ?? null
    this.retryAfterSeconds = options.retryAfterSeconds ?? null
    this.rateLimit = options.rateLimit ?? null
  }
}

/** The plain data of an error; whatever is not ours becomes `internal`, its own text unsaid. */
export function problemOf(error: unknown): Problem {
  if (!(error instanceof GatewayError)) {
    return {
      code: 'internal',
      message: 'Cannot answer: the gateway failed, the owner finds the request id in the log',
      param: null,
      retryAfterSeconds: null,
      rateLimit: null,
    }
  }
  const { code, message, param, retryAfterSeconds, rateLimit } = error
  return { code, message, param, retryAfterSeconds, rateLimit }
}
