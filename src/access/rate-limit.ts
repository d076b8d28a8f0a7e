// The per-visitor rate limit on requests that the cache cannot answer. It is approximate and fails
// open: the daily budget is the hard limit.
import { GatewayError, messages } from '../errors.ts'

/** Counts one more miss of a visitor; false if it is above the limit. May throw. */
export type SpendLimit = (visitor: string) => Promise<boolean>

/** Whether the visitor is within the limit, counting this miss. Never rejects. */
export async function isWithin(limit: SpendLimit, visitor: string): Promise<boolean> {
  try {
    return (await limit(visitor)) !== false
  } catch {
    return true
  }
}

/** The values in wrangler.toml, since the rate limit binding does not expose them. */
const SPEND_LIMIT = { quota: 60, windowSeconds: 60 }

export function rateLimited(): GatewayError {
  const { quota, windowSeconds } = SPEND_LIMIT
  return new GatewayError('rate_limited', messages.rate_limited(quota), {
    retryAfterSeconds: windowSeconds,
    rateLimit: {
      policy: 'spend',
      quota,
      remaining: 0,
      resetSeconds: windowSeconds,
      windowSeconds,
    },
  })
}
