// Who may spend how much of the day: reservations before each upstream call, settled once with what
// it really cost. Pure and synchronous; objects/ledger.ts keeps the rows.
//
// The invariant: of one UTC day, what is spent and what is reserved never exceed the day's budget,
// and what is spent never gets less. A lease that is not settled in time has spent all it reserved.

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

/** One upstream call: a lease while `settled` is false, history after that. */
export interface CallRow {
  readonly id: string
  /** Days since 1970 (UTC), of the reservation: the day that pays. */
  readonly day: number
  /** Null: the operator, whom no visitor's limit binds. */
  readonly visitor: string | null
  /** Reserved, and once settled, spent. */
  readonly tokens: number
  readonly usd: number
  readonly settled: boolean
  readonly expires_at: number
  /** It was granted one of the day's KV writes. */
  readonly stores: boolean
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
  readonly code: 'budget_exhausted' | 'too_many_streams'
  readonly policy: 'paused' | 'day' | 'usd' | 'visitor' | 'streams'
  readonly quota: number
  readonly remaining: number
  readonly retryAfterSeconds: number
}

export interface Grant {
  readonly granted: true
  readonly row: CallRow
  /** The row is to be stored; else it was before. */
  readonly fresh: boolean
}

/** What a call cost. */
export interface Cost {
  readonly tokens: number
  readonly usd: number
}

/** The settled calls of one day, added up, so that their rows need not be read again. */
export interface DaySum extends Cost {
  readonly day: number
  readonly kvWrites: number
  /** Tokens of each visitor. */
  readonly visitors: Readonly<Record<string, number>>
}

/** What the ledger has stored. A call is in a row or in a sum, never in both. */
export interface Stored {
  readonly rows: readonly CallRow[]
  readonly sums: readonly DaySum[]
}

export interface DayFigures {
  readonly spent: number
  readonly reserved: number
  readonly usdSpent: number
}

const DAY_MS = 86_400_000
/** When a visitor's streams may be fewer again. */
const STREAMS_RETRY_S = 5

export function dayOf(nowMs: number): number {
  return Math.floor(nowMs / DAY_MS)
}

export class Budget {
  readonly #limits: BudgetLimits
  #day = -1
  /** Spent and reserved of the day, and of each visitor in it. */
  #total: Cost = { tokens: 0, usd: 0 }
  readonly #visitors = new Map<string, number>()
  #kvWrites = 0
  /** Calls under way, of yesterday's too. */
  readonly #leases = new Map<string, CallRow>()
  #expired: CallRow[] = []
  #pausedUntilMs = 0
  /** The latest time there was: a clock that goes back revives no lease and no day. */
  #nowMs = Number.NEGATIVE_INFINITY

  /** @param stored of yesterday, today and, should the clock have gone back, tomorrow */
  constructor(limits: BudgetLimits, { rows, sums }: Stored, pausedUntilMs: number, nowMs: number) {
    this.#limits = limits
    this.#pausedUntilMs = pausedUntilMs
    this.#day = [...rows, ...sums].reduce((last, { day }) => Math.max(last, day), dayOf(nowMs))
    for (const { day, tokens, usd, kvWrites, visitors } of sums) {
      if (day !== this.#day) continue
      this.#total = { tokens, usd }
      this.#kvWrites = kvWrites
      for (const [visitor, own] of Object.entries(visitors)) this.#visitors.set(visitor, own)
    }
    for (const row of rows) {
      if (!row.settled) this.#leases.set(row.id, row)
      if (row.day === this.#day) this.#add(row, row.tokens, row.usd)
    }
    this.#advance(nowMs)
  }

  get pausedUntilMs(): number {
    return this.#pausedUntilMs
  }

  pause(untilMs: number): void {
    this.#pausedUntilMs = untilMs
  }

  /** Grants a lease, or says which limit is in the way. The row must be stored before it counts. */
  reserve(request: ReserveRequest, nowMs: number): Grant | Refusal {
    this.#advance(nowMs)
    // Asked again under the same id: the first answer was lost on its way.
    const known = this.#leases.get(request.id)
    if (known !== undefined) return { granted: true, row: known, fresh: false }
    const refusal = this.#refusalOf(request, nowMs)
    if (refusal !== null) return refusal
    const { kvWritesPerDay } = this.#limits
    const row: CallRow = {
      id: request.id,
      day: this.#day,
      visitor: request.visitor,
      tokens: request.tokens,
      usd: request.usd,
      settled: false,
      expires_at: this.#nowMs + request.leaseMs,
      stores: request.stores && (kvWritesPerDay === 0 || this.#kvWrites < kvWritesPerDay),
    }
    this.#leases.set(row.id, row)
    this.#add(row, row.tokens, row.usd)
    return { granted: true, row, fresh: true }
  }

  /**
   * Ends a lease with what it cost, never more than it reserved.
   *
   * @returns the row as it now is, or null: settled before, expired, or never granted
   */
  settle(id: string, cost: Cost, nowMs: number): CallRow | null {
    this.#advance(nowMs)
    const lease = this.#leases.get(id)
    if (lease === undefined) return null
    this.#leases.delete(id)
    const tokens = clamp(cost.tokens, lease.tokens)
    const usd = clamp(cost.usd, lease.usd)
    const row = { ...lease, tokens, usd, settled: true, stores: lease.stores }
    if (lease.day === this.#day)
      this.#add(null, tokens - lease.tokens, usd - lease.usd, lease.visitor)
    return row
  }

  /** Leases that ran out since the last time, as they are to be stored: spent. */
  takeExpired(): CallRow[] {
    return this.#expired.splice(0)
  }

  figures(nowMs: number): DayFigures {
    this.#advance(nowMs)
    let reserved = 0
    let usdReserved = 0
    for (const lease of this.#leases.values()) {
      if (lease.day !== this.#day) continue
      reserved += lease.tokens
      usdReserved += lease.usd
    }
    return {
      spent: this.#total.tokens - reserved,
      reserved,
      usdSpent: Math.max(0, this.#total.usd - usdReserved),
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
    const untilMidnight = Math.ceil(((this.#day + 1) * DAY_MS - nowMs) / 1000)
    if (this.#pausedUntilMs > nowMs) {
      const retryAfterSeconds = Math.ceil((this.#pausedUntilMs - nowMs) / 1000)
      return exhausted('paused', 0, 0, retryAfterSeconds)
    }
    const left = tokensPerDay - this.#total.tokens
    if (request.tokens > left) return exhausted('day', tokensPerDay, left, untilMidnight)
    const usdLeft = usdPerDay - this.#total.usd
    if (usdPerDay > 0 && request.usd > usdLeft) {
      // The header's fields are whole numbers: millionths of a dollar.
      const [quota, micros] = [usdPerDay, usdLeft].map((value) => Math.floor(value * 1_000_000))
      return exhausted('usd', quota ?? 0, micros ?? 0, untilMidnight)
    }
    if (request.visitor === null) return null
    const own = tokensPerVisitorPerDay - (this.#visitors.get(request.visitor) ?? 0)
    if (request.tokens > own) {
      return exhausted('visitor', tokensPerVisitorPerDay, own, untilMidnight)
    }
    const streams = [...this.#leases.values()].filter(({ visitor }) => visitor === request.visitor)
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

  /** Lets time pass: leases run out (their tokens stay spent), and a new day starts with nothing. */
  #advance(nowMs: number): void {
    this.#nowMs = Math.max(this.#nowMs, nowMs)
    for (const [id, lease] of this.#leases) {
      if (lease.expires_at > this.#nowMs) continue
      this.#leases.delete(id)
      this.#expired.push({ ...lease, settled: true })
    }
    const day = dayOf(this.#nowMs)
    if (day <= this.#day) return
    this.#day = day
    this.#total = { tokens: 0, usd: 0 }
    this.#visitors.clear()
    this.#kvWrites = 0
  }

  #add(row: CallRow | null, tokens: number, usd: number, visitor = row?.visitor ?? null): void {
    this.#total = { tokens: this.#total.tokens + tokens, usd: Math.max(0, this.#total.usd + usd) }
    if (row?.stores === true) this.#kvWrites += 1
    if (visitor === null) return
    this.#visitors.set(visitor, (this.#visitors.get(visitor) ?? 0) + tokens)
  }
}

/** Settled calls of the sum's day added to it. */
export function addUp(sum: DaySum, rows: Iterable<CallRow>): DaySum {
  let { tokens, usd, kvWrites } = sum
  const visitors = { ...sum.visitors }
  for (const row of rows) {
    tokens += row.tokens
    usd += row.usd
    if (row.stores) kvWrites += 1
    if (row.visitor !== null) visitors[row.visitor] = (visitors[row.visitor] ?? 0) + row.tokens
  }
  return { day: sum.day, tokens, usd, kvWrites, visitors }
}

export function noSum(day: number): DaySum {
  return { day, tokens: 0, usd: 0, kvWrites: 0, visitors: {} }
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

/** Not a number, negative or too much: at most what was reserved, at least nothing. */
function clamp(value: number, reserved: number): number {
  return Number.isFinite(value) ? Math.min(reserved, Math.max(0, value)) : reserved
}
