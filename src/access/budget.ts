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
}

/** What a call cost. */
export interface Cost {
  readonly tokens: number
  readonly usd: number
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
  #pausedUntilMs = 0

  /** @param rows of today and yesterday, as they were stored */
  constructor(limits: BudgetLimits, rows: Iterable<CallRow>, pausedUntilMs: number, nowMs: number) {
    this.#limits = limits
    this.#pausedUntilMs = pausedUntilMs
    this.#day = dayOf(nowMs)
    for (const row of rows) {
      if (!row.settled && row.expires_at > nowMs) this.#leases.set(row.id, row)
      if (row.day === this.#day) this.#add(row, row.tokens, row.usd)
    }
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
    if (known !== undefined) return { granted: true, row: known }
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
      expires_at: nowMs + request.leaseMs,
      stores: request.stores && (kvWritesPerDay === 0 || this.#kvWrites < kvWritesPerDay),
    }
    this.#leases.set(row.id, row)
    this.#add(row, row.tokens, row.usd)
    return { granted: true, row }
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

  /** How much of the day's budget is spent or reserved, 0 … 1; of tokens or USD, whichever is more. */
  share(nowMs: number): number {
    this.#advance(nowMs)
    const { tokensPerDay, usdPerDay } = this.#limits
    const tokens = tokensPerDay === 0 ? 1 : this.#total.tokens / tokensPerDay
    return usdPerDay === 0 ? tokens : Math.max(tokens, this.#total.usd / usdPerDay)
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
      return exhausted('usd', tokensPerDay, left, untilMidnight)
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
    for (const [id, { expires_at }] of this.#leases) {
      if (expires_at <= nowMs) this.#leases.delete(id)
    }
    // A clock that goes back must not bring a spent day back.
    const day = dayOf(nowMs)
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
