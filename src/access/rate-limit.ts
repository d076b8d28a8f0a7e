// The per-visitor rate limit on requests that the cache cannot answer. It is approximate and fails
// open: the daily budget is the hard limit.
import { GatewayError, messages } from '../errors.ts'

/** Counts one more miss of a visitor; false if it is above the limit. May throw. */
export type SpendLimit = (visitor: string) => Promise<boolean>

/**
 * Whether the visitor is within the limit, counting this miss. Never rejects.
 *
 * @param visitor null: the operator, who has no limit
 */
export async function isWithin(limit: SpendLimit, visitor: string | null): Promise<boolean> {
  try {
    return visitor === null || (await limit(visitor)) !== false
  } catch {
    return true
  }
}

/** The values in wrangler.toml, since the rate limit binding does not expose them. */
const [QUOTA, WINDOW_S] = [60, 60]

export function rateLimited(): GatewayError {
  const limit = { policy: 'spend', quota: QUOTA, windowSeconds: WINDOW_S }
  return new GatewayError('rate_limited', messages.rate_limited(QUOTA), {
    retryAfterSeconds: WINDOW_S,
    rateLimit: { ...limit, remaining: 0, resetSeconds: WINDOW_S },
  })
}
