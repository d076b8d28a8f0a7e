// The client of the ledger object: reserves the most that an upstream call can cost, and settles
// what it did cost. If the ledger does not answer, the upstream is not called.
import type { Usage } from '../completion/completion.ts'
import { inTime, type Wait } from '../deadline.ts'
import { GatewayError, isRetryable, messages } from '../errors.ts'
import type { Report } from '../events.ts'
import {
  type Cost,
  countedOf,
  type Refusal,
  type ReserveAnswer,
  type ReserveRequest,
} from './budget.ts'

/** The ledger object. Each call needs a fresh stub: one that failed once stays broken. */
export interface LedgerClient {
  reserve(request: ReserveRequest): Promise<ReserveAnswer>
  settle(id: string, cost: Cost): Promise<void>
}

/** USD per million tokens. */
export interface Price {
  readonly input: number
  readonly output: number
}

/** What an upstream call can cost. */
export interface Spending {
  /** The most tokens it can read. */
  readonly input: number
  /** The most tokens it can write. */
  readonly output: number
  /** The price of the upstream that is called. */
  readonly price: Price | null
  /** The prices of all upstreams that may answer. The highest is reserved. */
  readonly routePrices: readonly (Price | null)[]
  /** Null: the operator. */
  readonly visitor: string | null
  readonly leaseMs: number
  readonly stores: boolean
  /** Takes what is charged for the call when it is settled. A call that costs nothing has no charge. */
  readonly charge?: (charge: Charge) => void
}

/** What a call is charged to the day's budget. */
interface Charge {
  readonly tokens_in: number
  readonly tokens_out: number
  readonly usd: number
}

export interface LedgerDeps {
  readonly client: LedgerClient
  readonly newId: () => string
  readonly wait: Wait
  readonly random: () => number
  readonly waitUntil: (work: Promise<unknown>) => void
  readonly report: Report
  /**
   * Settlements of one request that are under way. Its next reservation waits for them: calls to an
   * object by different stubs may arrive in another order than they were sent.
   * https://developers.cloudflare.com/durable-objects/api/stub/
   */
  readonly settling: Set<Promise<void>>
}

/** A granted reservation, until it is settled. */
export interface Lease {
  readonly mayStore: boolean
  /** From now on the call may cost money: the upstream answered 2xx, or a timeout or cancellation ended the wait. */
  accepted(): void
  /** Called exactly once, even if the call fails. */
  settle(end: End): void
}

/** How a call ended. */
interface End {
  /** Null: the upstream reported none. */
  readonly usage: Usage | null
  /** The length of the text that arrived. */
  readonly chars: number
  /** Reserved output tokens that a cancelled call cannot have written; absent: unknown. */
  readonly unwritten?: number | undefined
}

const TIMEOUT_MS = 2000
const RETRY_MS = 100
/** The clocks of the caller and of the ledger may differ. */
const LEASE_MARGIN_MS = 10_000
const RETRY_AFTER_S = 10
const CHARS_PER_TOKEN = 4
const DAY_S = 86_400

/** @throws GatewayError `budget_exhausted`, `paused`, `too_many_streams`, `ledger_unavailable` */
export async function reserve(spending: Spending, deps: LedgerDeps): Promise<Lease> {
  const { input, output, price, routePrices, visitor, leaseMs, stores, charge } = spending
  const worst: Cost = {
    tokens: input + output,
    usd: Math.max(...[price, ...routePrices].map((each) => usd(each, input, output))),
  }
  const id = deps.newId()
  const { settling } = deps
  if (settling.size > 0) {
    await inTime(TIMEOUT_MS, Promise.all(settling), () => settling.clear())
  }
  // Register with waitUntil before reserving: on a disconnect the runtime would cancel this
  // request before the lease is settled.
  const { promise, resolve: release } = Promise.withResolvers<void>()
  deps.waitUntil(promise)
  let answer: ReserveAnswer
  try {
    const request = { id, visitor, ...worst, leaseMs: leaseMs + LEASE_MARGIN_MS, stores }
    answer = await reserveOrRetry(request, deps)
    if (!answer.granted) throw refused(answer)
  } catch (error) {
    release()
    throw error
  }
  let accepted = false
  return {
    mayStore: answer.mayStore,
    accepted: () => {
      accepted = true
    },
    settle: (end) => {
      const cost = accepted ? costOf(end, worst, price) : { tokens: 0, usd: 0 }
      if (accepted) charge?.(chargeOf(cost, worst, end.usage?.prompt_tokens ?? Number.NaN, input))
      const settled = settle(id, cost, deps).then(() => {
        settling.delete(settled)
        release()
      })
      settling.add(settled)
    },
  }
}

async function reserveOrRetry(request: ReserveRequest, deps: LedgerDeps): Promise<ReserveAnswer> {
  const { wait, random } = deps
  try {
    return await reserveOnce(request, deps)
  } catch (error) {
    if (!isRetryable(error)) throw unavailable()
  }
  await wait(RETRY_MS * (0.5 + random()), new AbortController().signal)
  try {
    // With the same id: the first try may have been granted although its answer was lost.
    return await reserveOnce(request, deps)
  } catch {
    throw unavailable()
  }
}

async function reserveOnce(request: ReserveRequest, deps: LedgerDeps): Promise<ReserveAnswer> {
  const { client, waitUntil } = deps
  const reserving = client.reserve(request)
  const answer = await inTime(TIMEOUT_MS, reserving, () => null)
  if (answer !== null) return answer
  // Settle a late grant with nothing. If that fails, too, it expires and counts as spent.
  const release = reserving.then(async ({ granted }) => {
    if (granted) await settle(request.id, { tokens: 0, usd: 0 }, deps)
  })
  waitUntil(release.catch(() => {}))
  throw unavailable()
}

/** Never rejects. */
async function settle(id: string, cost: Cost, { client, report }: LedgerDeps): Promise<void> {
  await client.settle(id, cost).catch(() => report({ event: 'settle_failed' }))
}

/**
 * What a call cost: what its upstream reported, but at least the text that arrived. Without a
 * report, the whole reservation, less what a cancelled call cannot have written.
 */
function costOf({ usage, chars, unwritten = 0 }: End, worst: Cost, price: Price | null): Cost {
  const seen = Math.ceil(chars / CHARS_PER_TOKEN)
  if (usage === null) {
    return {
      tokens: Math.max(worst.tokens - unwritten, seen),
      usd: Math.max(worst.usd - usd(price, 0, unwritten), usd(price, 0, seen)),
    }
  }
  // Negative counts are ignored like a missing report.
  if (!Object.values(usage).every((n) => n >= 0))
    return costOf({ usage: null, chars }, worst, price)
  const { prompt_tokens: input, completion_tokens, total_tokens } = usage
  const output = Math.max(completion_tokens, total_tokens - input, seen)
  return { tokens: input + output, usd: usd(price, input, output) }
}

/** The tokens beyond those of the prompt are counted as written. */
function chargeOf(cost: Cost, worst: Cost, reported: number, input: number): Charge {
  const tokens = countedOf(cost.tokens, worst.tokens)
  const tokens_in = Math.min(tokens, reported >= 0 ? reported : input)
  return { tokens_in, tokens_out: tokens - tokens_in, usd: countedOf(cost.usd, worst.usd) }
}

/** The cost of tokens at a price. */
export function usd(price: Price | null, input: number, output: number): number {
  return price === null ? 0 : (input * price.input + output * price.output) / 1_000_000
}

function unavailable(): GatewayError {
  return new GatewayError('ledger_unavailable', messages.ledger_unavailable, {
    retryAfterSeconds: RETRY_AFTER_S,
  })
}

function refused({ code, policy, quota, remaining, ...refusal }: Refusal): GatewayError {
  const retryAfterSeconds = Math.min(DAY_S, refusal.retryAfterSeconds)
  const message = policy === 'visitor' ? messages.visitor_budget_exhausted : messages[code]
  return new GatewayError(code, message, {
    retryAfterSeconds,
    rateLimit: {
      policy,
      quota,
      remaining,
      resetSeconds: retryAfterSeconds,
      windowSeconds: policy === 'streams' ? null : DAY_S,
    },
  })
}
