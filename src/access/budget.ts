// Who may spend how much of the day: reservations before each upstream call, settled once with what
// it really cost. Synchronous, and stores through `BudgetRows` (objects/ledger-rows.ts).
//
// The invariant: a call is only granted if its reservation fits into the day's budget together with
// everything spent and reserved before. Usage above a reservation is spent in full, up to ten times the
// reservation, so the day's spending may pass the budget by what the calls under way report above
// their reservations; after that nothing is granted until the next day. What is spent never gets less.
//
// Leases are in memory only. The day's row holds their reservations from before the grant, so a lease that
// is lost with the object's memory stays spent, and settling it later does nothing. Its visitor's row
// is not charged for it: that row is written once for each call, when it ends.

export interface BudgetLimits {
  readonly tokensPerDay: number
  /** 0: not limited in USD. */
  readonly usdPerDay: number
  readonly tokensPerVisitorPerDay: number
  /** Calls under way for one visitor. */
  readonly streamsPerVisitor: number
  /** 0: no limit. */
  readonly kvWritesPerDay: number
}

/** One upstream call that is under way. */
interface Lease {
  /** Days since 1970 (UTC), of the reservation: the day that pays. */
  readonly day: number
  /** Null: the operator, whom no visitor's limit binds. */
  readonly visitor: string | null
  readonly reserved: Cost
  readonly expiresAt: number
  /** It was granted one of the day's KV writes. */
  readonly mayStore: boolean
}

export interface ReserveRequest {
  readonly id: string
  readonly visitor: string | null
  readonly tokens: number
  readonly usd: number
  /** How long the call may take; after that the lease is spent. */
  readonly leaseMs: number
  /** It would like to store its answer in KV. */
  readonly stores: boolean
}

/** Which of the limits was reached. */
export interface Refusal {
  readonly granted: false
  readonly code: 'budget_exhausted' | 'paused' | 'too_many_streams'
  readonly policy: 'paused' | 'day' | 'usd' | 'visitor' | 'streams'
  readonly quota: number
  readonly remaining: number
  readonly retryAfterSeconds: number
}

export type ReserveAnswer = { readonly granted: true; readonly mayStore: boolean } | Refusal

/** What a call cost. */
export interface Cost {
  readonly tokens: number
  readonly usd: number
}

/** A call that cost more than it had reserved. */
export interface Overshoot {
  readonly said: Cost
  readonly reserved: Cost
  /** What was spent of the budget: what was said, up to ten times the reservation. */
  readonly counted: Cost
}

/** The sums of one day. */
export interface DayRow extends Cost {
  readonly day: number
  /** Of the tokens, those that calls cost above their reservations. */
  readonly above: number
  readonly kvWrites: number
}

/** Where the sums are stored. A method that throws has stored nothing. */
export interface BudgetRows {
  /** The latest of these days that has a row, or null. */
  latestDay(from: number, to: number): number | null
  /** Makes room for a day and removes those before its eve. @returns its row, zeros if it is new */
  open(day: number): DayRow
  visitorTokens(day: number, visitor: string): number
  /** Stores the row, and in the same transaction adds to a visitor's tokens of that day. */
  save(row: DayRow, charge: { readonly visitor: string; readonly tokens: number } | null): void
}

export interface DayFigures {
  readonly spent: number
  readonly reserved: number
  readonly above: number
  readonly usdSpent: number
}

const DAY_MS = 86_400_000
/** When a visitor's streams may be fewer again. */
const STREAMS_RETRY_S = 5

export function dayOf(nowMs: number): number {
  return Math.floor(nowMs / DAY_MS)
}

/** What a call may cost of what it reserved, however much its upstream reports. */
const MAX_OVERSHOOT = 10

export class Budget {
  readonly #limits: BudgetLimits
  readonly #rows: BudgetRows
  /** Spent and reserved. */
  #today: DayRow
  /** Calls under way, of yesterday's too. */
  readonly #leases = new Map<string, Lease>()
  #pausedUntilMs: number
  /** The latest time so far: a clock that goes back revives no lease and no day. */
  #nowMs: number

  constructor(limits: BudgetLimits, rows: BudgetRows, pausedUntilMs: number, nowMs: number) {
    this.#limits = limits
    this.#rows = rows
    this.#pausedUntilMs = pausedUntilMs
    this.#nowMs = nowMs
    const day = dayOf(nowMs)
    // Tomorrow's too: another machine's clock may have been ahead of this one's.
    this.#today = rows.open(Math.max(day, rows.latestDay(day - 1, day + 1) ?? day))
  }

  get pausedUntilMs(): number {
    return this.#pausedUntilMs
  }

  pause(untilMs: number): void {
    this.#pausedUntilMs = untilMs
  }

  /**
   * Stores a reservation and grants a lease, or says which limit is in the way. The id of a lease is
   * granted again without a second reservation: the first answer was lost on its way. Once the lease
   * has ended or is lost with the object's memory, its id reserves again, which counts too much.
   */
  reserve(request: ReserveRequest, nowMs: number): ReserveAnswer {
    this.#advance(nowMs)
    const known = this.#leases.get(request.id)
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
    this.#leases.set(request.id, { day: today.day, visitor, reserved, expiresAt, mayStore })
    return { granted: true, mayStore }
  }

  /**
   * Ends a lease with what it cost. Does nothing for an id that is not under way: what that had
   * reserved stays spent.
   *
   * @returns null, unless the call cost more than it had reserved
   */
  settle(id: string, said: Cost, nowMs: number): Overshoot | null {
    this.#advance(nowMs)
    const lease = this.#leases.get(id)
    if (lease === undefined) return null
    const { reserved } = lease
    const counted = {
      tokens: countedOf(said.tokens, reserved.tokens),
      usd: countedOf(said.usd, reserved.usd),
    }
    this.#end(id, lease, counted)
    const isAbove = counted.tokens > reserved.tokens || counted.usd > reserved.usd
    return isAbove ? { said, reserved, counted } : null
  }

  /** When the next lease runs out; null: no call is under way. */
  get nextExpiryMs(): number | null {
    if (this.#leases.size === 0) return null
    return Math.min(...[...this.#leases.values()].map(({ expiresAt }) => expiresAt))
  }

  figures(nowMs: number): DayFigures {
    this.#advance(nowMs)
    const reserved = this.#reservedBy(() => true)
    return {
      spent: this.#today.tokens - reserved.tokens,
      reserved: reserved.tokens,
      above: this.#today.above,
      usdSpent: Math.max(0, this.#today.usd - reserved.usd),
    }
  }

  /** How much of the day's budget is spent, 0 … 1; of tokens or USD, whichever is more. */
  share(nowMs: number): number {
    const { spent, usdSpent } = this.figures(nowMs)
    const { tokensPerDay, usdPerDay } = this.#limits
    // Of a budget of nothing, nothing can be spent.
    return Math.max(
      tokensPerDay === 0 ? 0 : spent / tokensPerDay,
      usdPerDay === 0 ? 0 : usdSpent / usdPerDay,
    )
  }

  #refusalOf(request: ReserveRequest, nowMs: number): Refusal | null {
    const { tokensPerDay, usdPerDay, tokensPerVisitorPerDay, streamsPerVisitor } = this.#limits
    const untilMidnight = Math.ceil(((this.#today.day + 1) * DAY_MS - nowMs) / 1000)
    if (this.#pausedUntilMs > nowMs) {
      const retryAfterSeconds = Math.ceil((this.#pausedUntilMs - nowMs) / 1000)
      return { ...exhausted('paused', 0, 0, retryAfterSeconds), code: 'paused' }
    }
    const left = tokensPerDay - this.#today.tokens
    if (request.tokens > left) return exhausted('day', tokensPerDay, left, untilMidnight)
    const usdLeft = usdPerDay - this.#today.usd
    if (usdPerDay > 0 && request.usd > usdLeft) {
      // The header's fields are whole numbers: millionths of a dollar.
      const [quota, micros] = [usdPerDay, usdLeft].map((value) => Math.floor(value * 1_000_000))
      return exhausted('usd', quota ?? 0, micros ?? 0, untilMidnight)
    }
    const { visitor } = request
    if (visitor === null) return null
    const reserved = this.#reservedBy((lease) => lease.visitor === visitor).tokens
    const spent = this.#rows.visitorTokens(this.#today.day, visitor)
    const own = tokensPerVisitorPerDay - spent - reserved
    if (request.tokens > own) {
      return exhausted('visitor', tokensPerVisitorPerDay, own, untilMidnight)
    }
    const streams = [...this.#leases.values()].filter((lease) => lease.visitor === visitor)
    if (streams.length < streamsPerVisitor) return null
    return {
      granted: false,
      code: 'too_many_streams',
      policy: 'streams',
      quota: streamsPerVisitor,
      remaining: 0,
      retryAfterSeconds: STREAMS_RETRY_S,
    }
  }

  /** What today's calls under way have reserved. */
  #reservedBy(isCounted: (lease: Lease) => boolean): Cost {
    let [tokens, usd] = [0, 0]
    for (const lease of this.#leases.values()) {
      if (lease.day !== this.#today.day || !isCounted(lease)) continue
      tokens += lease.reserved.tokens
      usd += lease.reserved.usd
    }
    return { tokens, usd }
  }

  /** Lets time pass: leases run out (their tokens stay spent), and a new day starts with nothing. */
  #advance(nowMs: number): void {
    this.#nowMs = Math.max(this.#nowMs, nowMs)
    const day = dayOf(this.#nowMs)
    if (day > this.#today.day) this.#today = this.#rows.open(day)
    for (const [id, lease] of this.#leases) {
      if (lease.expiresAt <= this.#nowMs) this.#end(id, lease, lease.reserved)
    }
  }

  /** Nobody needs the rows of a day that is over: there, what was reserved stays spent. */
  #end(id: string, { day, visitor, reserved }: Lease, counted: Cost): void {
    const today = this.#today
    if (day === today.day) {
      const tokens = counted.tokens - reserved.tokens
      const usd = Math.max(0, today.usd + (counted.usd - reserved.usd))
      const above = today.above + Math.max(0, tokens)
      const charge =
        visitor === null || counted.tokens === 0 ? null : { visitor, tokens: counted.tokens }
      this.#save({ ...today, above, usd, tokens: today.tokens + tokens }, charge)
    }
    this.#leases.delete(id)
  }

  #save(row: DayRow, charge: Parameters<BudgetRows['save']>[1]): void {
    this.#rows.save(row, charge)
    this.#today = row
  }
}

function exhausted(
  policy: Refusal['policy'],
  quota: number,
  remaining: number,
  retryAfterSeconds: number,
): Refusal {
  return {
    granted: false,
    code: 'budget_exhausted',
    policy,
    quota,
    remaining: Math.max(0, remaining),
    retryAfterSeconds: Math.max(1, retryAfterSeconds),
  }
}

/** At least nothing, at most ten times the reservation; the reservation if it is not a number. */
function countedOf(said: number, reserved: number): number {
  if (Number.isNaN(said)) return reserved
  return Math.min(reserved * MAX_OVERSHOOT, Math.max(0, said))
}
