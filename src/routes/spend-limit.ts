// The limit on what a visitor may make the Worker do in a minute, beyond answering from the cache.
// Roughly right, and never in the way where it is broken: the budget stands behind it.
import { GatewayError } from '../errors.ts'

/** Whether a visitor may have one more miss now. May throw; then the budget alone decides. */
export type SpendLimit = (visitor: string) => Promise<boolean>

/** Counts one more of a visitor's. Never rejects. */
export async function isWithin(limit: SpendLimit, visitor: string): Promise<boolean> {
  try {
    return (await limit(visitor)) !== false
  } catch {
    return true
  }
}

/** As wrangler.toml ships it; the binding itself tells no numbers. */
const SPEND_LIMIT = { quota: 60, windowSeconds: 60 }

export function rateLimited(): GatewayError {
  const { quota, windowSeconds } = SPEND_LIMIT
  return new GatewayError(
    'rate_limited',
    'Cannot ask the model so often: wait a minute, answers that are remembered go on',
    {
      retryAfterSeconds: windowSeconds,
      rateLimit: {
        policy: 'spend',
        quota,
        remaining: 0,
        resetSeconds: windowSeconds,
        windowSeconds,
      },
    },
  )
}
