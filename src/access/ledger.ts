// The way to the ledger from where money is spent: what a call reserves at worst, what it is settled
// with, and what happens when the ledger does not answer (no upstream call, ever).
import type { Usage } from '../completion/completion.ts'
import { GatewayError } from '../errors.ts'
import type { Report } from '../events.ts'
import type { Cost, Refusal, ReserveAnswer, ReserveRequest } from './budget.ts'

/** The object's door. A fresh stub for each call: one that failed once fails for ever. */
export interface LedgerDoor {
  reserve(request: ReserveRequest): Promise<ReserveAnswer>
  settle(id: string, cost: Cost): Promise<void>
}

/** USD per million tokens. */
export interface Price {
  readonly input: number
  readonly output: number
}

/** One upstream call, as far as it costs. */
export interface Spending {
  /** The most tokens it can read. */
  readonly input: number
  /** The most tokens it can write. */
  readonly output: number
  /** Of the upstream that is called. */
  readonly price: Price | null
  /** Of every upstream that may answer: the dearest is reserved. */
  readonly routePrices: readonly (Price | null)[]
  /** Null: the operator. */
  readonly visitor: string | null
  readonly leaseMs: number
  readonly stores: boolean
}

export interface LedgerContext {
  readonly door: LedgerDoor
  readonly newId: () => string
  readonly wait: (ms: number, signal: AbortSignal) => Promise<void>
  readonly random: () => number
  readonly waitUntil: (work: Promise<unknown>) => void
  readonly report: Report
}

/** A reservation, from the grant to its settling. */
export interface Lease {
  readonly mayStore: boolean
  /** The upstream answered 2xx: from now on it costs. */
  accepted(): void
  /** @param end.chars of the answer that were seen: at four a token it cannot have cost less */
  settle(end: {
    readonly usage: Usage | null
    readonly chars: number
    /** Of the tokens reserved for output: those that a cancelled call has surely not written. */
    readonly unwritten?: number | undefined
  }): void
}

const PATIENCE_MS = 2000
const RETRY_MS = 100
/** The clocks of a call and of the ledger are not the same. */
const LEASE_MARGIN_MS = 10_000
const RETRY_AFTER_S = 10
const CHARS_PER_TOKEN = 4
const DAY_S = 86_400

/** The most a call can cost, at the price of the dearest upstream on its way. */
export function worstCase({ input, output, price, routePrices }: Spending): Cost {
  const costs = [price, ...routePrices].map((each) => usd(each, input, output))
  return { tokens: input + output, usd: Math.max(...costs) }
}

export class Ledger {
  readonly #context: LedgerContext

  constructor(context: LedgerContext) {
    this.#context = context
  }

  /** @throws GatewayError `budget_exhausted`, `paused`, `too_many_streams`, `ledger_unavailable` */
  async reserve(spending: Spending): Promise<Lease> {
    // Held from before the grant: else a visitor who leaves takes along whoever would settle it.
    const { promise, resolve: release } = Promise.withResolvers<void>()
    this.#context.waitUntil(promise)
    try {
      return await this.#lease(spending, release)
    } catch (error) {
      release()
      throw error
    }
  }

  /** @param onSettled called when the lease has ended */
  async #lease(spending: Spending, onSettled: () => void): Promise<Lease> {
    const { newId } = this.#context
    const worst = worstCase(spending)
    const { visitor, leaseMs, stores, price } = spending
    const id = newId()
    const request = { id, visitor, ...worst, leaseMs: leaseMs + LEASE_MARGIN_MS, stores }
    const answer = await this.#ask(request)
    if (!answer.granted) throw refused(answer)
    let accepted = false
    return {
      mayStore: answer.mayStore,
      accepted: () => {
        accepted = true
      },
      settle: ({ usage, chars, unwritten = 0 }) => {
        const { tokens, usd: money } = worst
        const most =
          usage === null
            ? { tokens: tokens - unwritten, usd: money - usd(price, 0, unwritten) }
            : worst
        const cost = accepted ? costOf(usage, chars, most, price) : { tokens: 0, usd: 0 }
        this.#settle(id, cost).then(onSettled)
      },
    }
  }

  /** One more try where the platform says it may help; never when the object is overloaded. */
  async #ask(request: ReserveRequest) {
    const { wait, random } = this.#context
    try {
      return await this.#reserve(request)
    } catch (error) {
      if (!isRetryable(error)) throw unavailable()
    }
    await wait(RETRY_MS * (0.5 + random()), new AbortController().signal)
    try {
      // Under the same id: the first try may have been granted, and its answer lost.
      return await this.#reserve(request)
    } catch {
      throw unavailable()
    }
  }

  async #reserve(request: ReserveRequest) {
    const { door, wait } = this.#context
    const answered = new AbortController()
    const reserving = door.reserve(request)
    const late = wait(PATIENCE_MS, answered.signal).then(() => 'late' as const)
    late.catch(() => {})
    try {
      const answer = await Promise.race([reserving, late])
      if (answer !== 'late') return answer
    } finally {
      answered.abort()
    }
    // A grant that comes too late is given back; if that fails, too, it expires as spent.
    const givingBack = reserving.then(async ({ granted }) => {
      if (granted) await this.#settle(request.id, { tokens: 0, usd: 0 })
    })
    this.#context.waitUntil(givingBack.catch(() => {}))
    throw unavailable()
  }

  /** Never rejects. */
  async #settle(id: string, cost: Cost): Promise<void> {
    const { door, report } = this.#context
    await door.settle(id, cost).catch(() => report({ event: 'settle_failed' }))
  }
}

/**
 * What a call cost: what its upstream reported, at least what was seen of the answer. Without a
 * report, all that was reserved.
 */
function costOf(usage: Usage | null, chars: number, worst: Cost, price: Price | null): Cost {
  const seen = Math.ceil(chars / CHARS_PER_TOKEN)
  // A report of less than nothing is none.
  if (usage === null || !Object.values(usage).every((n) => n >= 0)) {
    return { tokens: Math.max(worst.tokens, seen), usd: Math.max(worst.usd, usd(price, 0, seen)) }
  }
  const { prompt_tokens: input, completion_tokens, total_tokens } = usage
  const output = Math.max(completion_tokens, total_tokens - input, seen)
  return { tokens: input + output, usd: usd(price, input, output) }
}

/** What tokens cost at a price. */
export function usd(price: Price | null, input: number, output: number): number {
  return price === null ? 0 : (input * price.input + output * price.output) / 1_000_000
}

function isRetryable(error: unknown): boolean {
  if (typeof error !== 'object' || error === null || error instanceof GatewayError) return false
  const { retryable, overloaded } = error as { retryable?: unknown; overloaded?: unknown }
  return retryable === true && overloaded !== true
}

function unavailable(): GatewayError {
  return new GatewayError(
    'ledger_unavailable',
    'The budget service is unavailable, so nothing was sent upstream. Try again shortly.',
    { retryAfterSeconds: RETRY_AFTER_S },
  )
}

const DAY_EXHAUSTED =
  'Daily budget exhausted. Cached answers are still served; it resets at 00:00 UTC.'
const reasons: Readonly<Record<Refusal['policy'], string>> = {
  paused: 'Generation is paused by the owner. Cached answers are still served.',
  day: DAY_EXHAUSTED,
  usd: DAY_EXHAUSTED,
  visitor: 'Your share of the daily budget is used up. Cached answers are still served.',
  streams: 'Too many of your requests are under way. Wait until one of them has ended.',
}

function refused({ code, policy, quota, remaining, ...refusal }: Refusal): GatewayError {
  const retryAfterSeconds = Math.min(DAY_S, refusal.retryAfterSeconds)
  return new GatewayError(code, reasons[policy], {
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
