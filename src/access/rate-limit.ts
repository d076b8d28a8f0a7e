// The per-visitor rate limits: on requests that the cache cannot answer, and on searches that an
// isolate does not remember. They are approximate and fail open: the daily budget is the hard limit.
import { GatewayError, messages } from '../errors.ts'

/** Counts one more request of a visitor; false if it is above the limit. May throw. */
export type VisitorLimit = (visitor: string) => Promise<boolean>

/**
 * Whether the visitor is within the limit, counting this request. Never rejects.
 *
 * @param visitor null: the operator, who has no limit
 */
export async function isWithin(limit: VisitorLimit, visitor: string | null): Promise<boolean> {
  try {
    return visitor === null || (await limit(visitor)) !== false
  } catch {
    return true
  }
}

/** The values in wrangler.toml, since the rate limit binding does not expose them. */
const quotas = { spend: 60, search: 120 } as const
const WINDOW_S = 60
const wordings = { spend: messages.rate_limited, search: messages.search_rate_limited } as const

/** @param policy `spend` for SPEND_LIMIT, `search` for SEARCH_LIMIT */
export function rateLimited(policy: keyof typeof quotas): GatewayError {
  const quota = quotas[policy]
  return new GatewayError('rate_limited', wordings[policy](quota), {
    retryAfterSeconds: WINDOW_S,
    rateLimit: { policy, quota, windowSeconds: WINDOW_S, remaining: 0, resetSeconds: WINDOW_S },
  })
}
