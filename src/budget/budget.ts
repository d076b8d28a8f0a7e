// The daily budget: every upstream call reserves its worst case first, and is settled once with its
// real cost. Synchronous; stores through `BudgetRows` (objects/ledger-rows.ts).
//
// The invariant: a reservation is only granted if it fits into the day's budget together with
// everything spent and reserved before. Usage above a reservation is counted in full, up to ten
// times the reservation, so a day can exceed its budget only by what the running calls report above
// their reservations. Spending never decreases.
//
// Leases are in memory only, but the day's row includes them: a lease that is lost with the object
// stays spent, and settling it later does nothing. Its visitor is charged when the call ends.

export interface BudgetLimits {
  readonly tokensPerDay: number
  /** 0: no limit. */
  readonly usdPerDay: number
  readonly tokensPerVisitorPerDay: number
  /** Concurrent calls of one visitor. */
  readonly streamsPerVisitor: number
  /** 0: no limit. */
  readonly kvWritesPerDay: number
}

/** A running upstream call. */
interface RunningCall {
  /** The day of the reservation, which pays for the call, in days since 1970 (UTC). */
  readonly day: number
  /** Null: the operator, who has no visitor limits. */
  readonly visitor: string | null
  readonly reserved: Cost
  readonly expiresAt: number
  /** Whether it was granted one of the day's KV writes. */
  readonly mayStore: boolean
}

export interface ReserveRequest {
  readonly id: string
  readonly visitor: string | null
  readonly tokens: number
  readonly usd: number
  /** How long the call may take. After that the lease expires, and its reservation is spent. */
  readonly leaseMs: number
  /** The answer is to be stored in KV. */
  readonly stores: boolean
}

/** The error code for each limit. */
const codes = {
  paused: 'paused',
  day: 'budget_exhausted',
  usd: 'budget_exhausted',
  visitor: 'budget_exhausted',
  streams: 'too_many_streams',
} as const

/** The limit that was reached. */
export interface Refusal {
  readonly granted: false
  readonly policy: keyof typeof codes
  readonly code: (typeof codes)[keyof typeof codes]
  readonly quota: number
  readonly remaining: number
  readonly retryAfterSeconds: number
}

export type ReserveAnswer = { readonly granted: true; readonly mayStore: boolean } | Refusal

/** The cost of calls. */
export interface Cost {
  readonly tokens: number
  readonly usd: number
}

/** A call that cost more than it had reserved. */
export interface Overshoot {
  /** What its upstream reported. */
  readonly reported: Cost
  readonly reserved: Cost
  /** What was charged to the budget: the reported cost, up to ten times the reservation. */
  readonly counted: Cost
}

/** The sums of one day. */
export interface DayRow extends Cost {
  readonly day: number
  /** How many of the tokens were above the reservations of their calls. */
  readonly above: number
  readonly kvWrites: number
}

/** The storage of the sums. A method that throws has stored nothing. */
export interface BudgetRows {
  /** The latest of these days that has a row, or null. */
  latestDay(from: number, to: number): number | null
  /**
   * Prepares a day and deletes all days before the previous one.
   *
   * @returns its row, zeros if it is new
   */
  open(day: number): DayRow
  visitorTokens(day: number, visitor: string): number
  /** Stores the row, and in the same transaction adds to a visitor's tokens of that day. */
  save(row: DayRow, charge: { readonly visitor: string; readonly tokens: number } | null): void
}

/** Today's budget, as the operator sees it. */
export type BudgetFigures = ReturnType<Budget['figures']>

const DAY_MS = 86_400_000
/** `Retry-After` for a visitor with too many concurrent calls. */
const STREAMS_RETRY_MS = 5000

export function dayOf(nowMs: number): number {
  return Math.floor(nowMs / DAY_MS)
}

/** A call is charged at most this multiple of its reservation. */
const MAX_OVERSHOOT = 10

export class Budget {
  readonly #limits: BudgetLimits
  readonly #rows: BudgetRows
  /** Spent plus reserved. */
  #today: DayRow
  /** Running calls, including those that began yesterday. */
  readonly #running = new Map<string, RunningCall>()
  /** Unix ms. No call is granted before. */
  pausedUntilMs: number
  /** The latest time so far: setting the clock back must not revive a lease or a day. */
  #nowMs: number

  constructor(limits: BudgetLimits, rows: BudgetRows, pausedUntilMs: number, nowMs: number) {
    this.#limits = limits
    this.#rows = rows
    this.pausedUntilMs = pausedUntilMs
    this.#nowMs = nowMs
    const day = dayOf(nowMs)
    // Also look for tomorrow: the object may have run before on a machine whose clock was ahead.
    this.#today = rows.open(Math.max(day, rows.latestDay(day - 1, day + 1) ?? day))
  }

  /**
   * Stores a reservation and grants a lease, or returns the limit that was reached. The id of a
   * running lease is granted again without a second reservation: the caller did not receive the
   * first answer. Once the lease has ended or is lost with the object's memory, its id reserves
   * again, which counts the call twice.
   */
  reserve(request: ReserveRequest, nowMs: number): ReserveAnswer {
    this.#advance(nowMs)
    const known = this.#running.get(request.id)
    if (known !== undefined) return { granted: true, mayStore: known.mayStore }
    const refusal = this.#refusalOf(request, nowMs)
    if (refusal !== null) return refusal
    const { kvWritesPerDay } = this.#limits
    const { visitor, tokens, usd, leaseMs } = request
    const today = this.#today
    const hasWrites = kvWritesPerDay === 0 || today.kvWrites < kvWritesPerDay
    const mayStore = request.stores && hasWrites
    const kvWrites = today.kvWrites + (mayStore ? 1 : 0)
    this.#save({ ...today, kvWrites, tokens: today.tokens + tokens, usd: today.usd + usd }, null)
    const expiresAt = this.#nowMs + leaseMs
    const reserved = { tokens, usd }
    this.#running.set(request.id, { day: today.day, visitor, reserved, expiresAt, mayStore })
    return { granted: true, mayStore }
  }

  /**
   * Ends a lease with the cost of its call. Does nothing for an unknown id: its reservation stays
   * spent.
   *
   * @returns null, unless the call cost more than it had reserved
   */
  settle(id: string, reported: Cost, nowMs: number): Overshoot | null {
    this.#advance(nowMs)
    const lease = this.#running.get(id)
    if (lease === undefined) return null
    const { reserved } = lease
    const counted = {
      tokens: countedOf(reported.tokens, reserved.tokens),
      usd: countedOf(reported.usd, reserved.usd),
    }
    this.#end(id, lease, counted)
    const isAbove = counted.tokens > reserved.tokens || counted.usd > reserved.usd
    return isAbove ? { reported, reserved, counted } : null
  }

  /** When the next lease expires; null: no call is running. */
  get nextExpiryMs(): number | null {
    if (this.#running.size === 0) return null
    return Math.min(...[...this.#running.values()].map(({ expiresAt }) => expiresAt))
  }

  figures(nowMs: number) {
    this.#advance(nowMs)
    const { tokens, usd, above } = this.#today
    const reserved = this.#reservedBy(() => true)
    return {
      tokens_per_day: this.#limits.tokensPerDay,
      spent: tokens - reserved.tokens,
      reserved: reserved.tokens,
      /** The part of `spent` that calls cost above their reservations. */
      ...(above > 0 ? { above_reservations: above } : {}),
      /** 0: no limit in USD. */
      usd_per_day: this.#limits.usdPerDay,
      usd_spent: Math.max(0, usd - reserved.usd),
      /** Unix seconds. */
      paused_until: this.pausedUntilMs > nowMs ? Math.ceil(this.pausedUntilMs / 1000) : null,
    }
  }

  /** The spent share of the day's budget, 0 … 1; the larger one of tokens and USD. */
  share(nowMs: number): number {
    const { spent, tokens_per_day, usd_spent, usd_per_day } = this.figures(nowMs)
    // Nothing can be spent of a budget of 0.
    const share = (part: number, whole: number) => (whole === 0 ? 0 : part / whole)
    return Math.max(share(spent, tokens_per_day), share(usd_spent, usd_per_day))
  }

  #refusalOf({ visitor, tokens, usd }: ReserveRequest, nowMs: number): Refusal | null {
    // A reservation of nothing only takes a KV write, for an answer that exists already.
    if (tokens === 0 && usd === 0) return null
    const { tokensPerDay, usdPerDay, tokensPerVisitorPerDay, streamsPerVisitor } = this.#limits
    const { day, ...today } = this.#today
    const untilMidnightMs = (day + 1) * DAY_MS - nowMs
    if (this.pausedUntilMs > nowMs) return refusal('paused', 0, 0, this.pausedUntilMs - nowMs)
    const left = tokensPerDay - today.tokens
    if (tokens > left) return refusal('day', tokensPerDay, left, untilMidnightMs)
    const usdLeft = usdPerDay - today.usd
    if (usdPerDay > 0 && usd > usdLeft) {
      // The `RateLimit` fields are integers, so the unit is a millionth of a dollar.
      const micros = (value: number) => Math.floor(value * 1_000_000)
      return refusal('usd', micros(usdPerDay), micros(usdLeft), untilMidnightMs)
    }
    if (visitor === null) return null
    const reserved = this.#reservedBy((lease) => lease.visitor === visitor).tokens
    const own = tokensPerVisitorPerDay - this.#rows.visitorTokens(day, visitor) - reserved
    if (tokens > own) return refusal('visitor', tokensPerVisitorPerDay, own, untilMidnightMs)
    const streams = [...this.#running.values()].filter((lease) => lease.visitor === visitor)
    if (streams.length < streamsPerVisitor) return null
    return refusal('streams', streamsPerVisitor, 0, STREAMS_RETRY_MS)
  }

  /** The sum of today's reservations. */
  #reservedBy(isCounted: (lease: RunningCall) => boolean): Cost {
    let [tokens, usd] = [0, 0]
    for (const lease of this.#running.values()) {
      if (lease.day !== this.#today.day || !isCounted(lease)) continue
      tokens += lease.reserved.tokens
      usd += lease.reserved.usd
    }
    return { tokens, usd }
  }

  /** Ends expired leases (their tokens stay spent), and begins a new day after midnight. */
  #advance(nowMs: number): void {
    this.#nowMs = Math.max(this.#nowMs, nowMs)
    const day = dayOf(this.#nowMs)
    if (day > this.#today.day) this.#today = this.#rows.open(day)
    for (const [id, lease] of this.#running) {
      if (lease.expiresAt <= this.#nowMs) this.#end(id, lease, lease.reserved)
    }
  }

  /** The row of a day that is over is not updated: its reservations stay spent. */
  #end(id: string, { day, visitor, reserved }: RunningCall, counted: Cost): void {
    const today = this.#today
    if (day === today.day) {
      const tokens = counted.tokens - reserved.tokens
      const usd = Math.max(0, today.usd + (counted.usd - reserved.usd))
      const above = today.above + Math.max(0, tokens)
      const charge =
        visitor === null || counted.tokens === 0 ? null : { visitor, tokens: counted.tokens }
      this.#save({ ...today, above, usd, tokens: today.tokens + tokens }, charge)
    }
    this.#running.delete(id)
  }

  #save(row: DayRow, charge: Parameters<BudgetRows['save']>[1]): void {
    this.#rows.save(row, charge)
    this.#today = row
  }
}

function refusal(
  policy: Refusal['policy'],
  quota: number,
  remaining: number,
  waitMs: number,
): Refusal {
  return {
    granted: false,
    code: codes[policy],
    policy,
    quota,
    remaining: Math.max(0, remaining),
    retryAfterSeconds: Math.max(1, Math.ceil(waitMs / 1000)),
  }
}

/** What is charged: the reported cost, clamped to 0 … ten times the reservation; the reservation if it is NaN. */
export function countedOf(reported: number, reserved: number): number {
  if (Number.isNaN(reported)) return reserved
  return Math.min(reserved * MAX_OVERSHOOT, Math.max(0, reported))
}
