// The daily budget against a model: for any sequence of operations, a call is granted only if it
// fits the day, calls that cost more than their reservation are spent in full, and the amount spent
// never decreases.
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  Budget,
  type BudgetLimits,
  type BudgetRows,
  type DayRow,
  dayOf,
  type Refusal,
  type ReserveRequest,
} from '../../src/budget/budget.ts'

const DAY_MS = 86_400_000
/** Noon. */
const NOON = 20_000 * DAY_MS + DAY_MS / 2

const limits: BudgetLimits = {
  tokensPerDay: 1000,
  usdPerDay: 0,
  tokensPerVisitorPerDay: 600,
  streamsPerVisitor: 3,
  kvWritesPerDay: 0,
}

/** In-memory rows whose storage can fail. */
class Rows implements BudgetRows {
  readonly days = new Map<number, DayRow>()
  readonly visitors = new Map<string, number>()
  broken = false
  #opened: number | null = null

  latestDay(from: number, to: number): number | null {
    const days = [...this.days.keys()].filter((day) => day >= from && day <= to)
    return days.length === 0 ? null : Math.max(...days)
  }

  open(day: number): DayRow {
    for (const old of this.days.keys()) if (old < day - 1) this.days.delete(old)
    this.#opened = day
    return this.days.get(day) ?? { day, tokens: 0, usd: 0, above: 0, kvWrites: 0 }
  }

  visitorTokens(day: number, visitor: string): number {
    return this.visitors.get(`${day} ${visitor}`) ?? 0
  }

  save(row: DayRow, charge: { visitor: string; tokens: number } | null): void {
    if (this.broken || row.day !== this.#opened) throw new Error('broken')
    this.days.set(row.day, row)
    if (charge === null) return
    const name = `${row.day} ${charge.visitor}`
    this.visitors.set(name, (this.visitors.get(name) ?? 0) + charge.tokens)
  }
}

function budgetWith(more: Partial<BudgetLimits> = {}, nowMs = NOON, rows = new Rows()): Budget {
  return new Budget({ ...limits, ...more }, rows, 0, nowMs)
}

function call(id: string, more: Partial<ReserveRequest> = {}): ReserveRequest {
  return { id, visitor: 'v', tokens: 100, usd: 0, leaseMs: 60_000, stores: true, ...more }
}

function refusalOf(budget: Budget, request: ReserveRequest, nowMs = NOON): Refusal {
  const answer = budget.reserve(request, nowMs)
  if (answer.granted) throw new Error('expected a refusal')
  return answer
}

interface ModelCall {
  readonly day: number
  readonly visitor: string | null
  readonly reserved: { tokens: number; usd: number }
  readonly expiresAt: number
  /** Null while the call is running. */
  spent: { tokens: number; usd: number } | null
  /** The lease was lost in an eviction: its visitor is not charged for it. */
  lost: boolean
}

/** The expected behaviour as a simple model: a list of calls, and the latest time observed. */
class Model {
  readonly calls = new Map<string, ModelCall>()
  readonly #limits: BudgetLimits
  day = 0
  pausedUntilMs = 0
  nowMs = 0

  constructor(given: BudgetLimits) {
    this.#limits = given
  }

  see(nowMs: number): void {
    this.nowMs = Math.max(this.nowMs, nowMs)
    this.day = Math.max(this.day, dayOf(nowMs))
    for (const one of this.calls.values()) {
      if (one.expiresAt <= this.nowMs) one.spent ??= one.reserved
    }
  }

  /** Leases are lost; the time comes from the clock, and the day from the clock and the rows. */
  forget(nowMs: number): void {
    this.nowMs = nowMs
    this.day = Math.max(dayOf(nowMs), ...[...this.calls.values()].map(({ day }) => day))
    for (const one of this.calls.values()) {
      if (one.spent !== null) continue
      one.spent = one.reserved
      one.lost = true
    }
  }

  sums(visitor?: string) {
    const sums = { spent: 0, reserved: 0, usdSpent: 0, usdReserved: 0 }
    for (const one of this.calls.values()) {
      if (one.day !== this.day) continue
      if (visitor !== undefined && (one.lost || one.visitor !== visitor)) continue
      sums.spent += one.spent?.tokens ?? 0
      sums.usdSpent += one.spent?.usd ?? 0
      sums.reserved += one.spent === null ? one.reserved.tokens : 0
      sums.usdReserved += one.spent === null ? one.reserved.usd : 0
    }
    return sums
  }

  streams(visitor: string): number {
    return [...this.calls.values()].filter((one) => one.spent === null && one.visitor === visitor)
      .length
  }

  allows({ visitor, tokens, usd }: ReserveRequest, nowMs: number): boolean {
    const all = this.sums()
    const { tokensPerDay, usdPerDay, tokensPerVisitorPerDay, streamsPerVisitor } = this.#limits
    if (this.pausedUntilMs > nowMs) return false
    if (all.spent + all.reserved + tokens > tokensPerDay) return false
    if (usdPerDay > 0 && all.usdSpent + all.usdReserved + usd > usdPerDay) return false
    if (visitor === null) return true
    const own = this.sums(visitor)
    const fits = own.spent + own.reserved + tokens <= tokensPerVisitorPerDay
    return fits && this.streams(visitor) < streamsPerVisitor
  }
}

const cost = fc.oneof(
  fc.nat(700),
  fc.constantFrom(0, 100, 200),
  fc.constantFrom(0, -1, -1e12, Number.NaN, Number.POSITIVE_INFINITY, 1e12),
)
/** Selects one of the calls so far; usually an existing one. */
const which = fc.nat(30)
const op = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('reserve' as const),
      visitor: fc.constantFrom('a', 'b', null),
      // Round numbers hit the limits exactly; one more just exceeds them.
      tokens: fc.oneof(fc.integer({ min: 1, max: 400 }), fc.constantFrom(1, 100, 200, 201)),
      usd: fc.nat(40),
      leaseMs: fc.integer({ min: 1, max: 3_600_000 }),
      fault: fc.constantFrom('none', 'none', 'none', 'not stored', 'memory lost'),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant('settle' as const),
      which,
      tokens: cost,
      usd: cost,
      stored: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('again' as const), which }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('evict' as const) }) },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('wait' as const),
      ms: fc.oneof(
        fc.integer({ min: 0, max: 1_800_000 }),
        // Sixty of these steps are less than a day.
        fc.integer({ min: -1_200_000, max: 0 }),
        fc.constantFrom(DAY_MS / 2, DAY_MS),
      ),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('pause' as const),
      ms: fc.constantFrom(0, 600_000),
    }),
  },
)
type Op = typeof op extends fc.Arbitrary<infer T> ? T : never

/** The amount spent for a call with this reported usage. */
function countedOf(reported: number, reserved: number): number {
  return Number.isNaN(reported) ? reserved : Math.min(10 * reserved, Math.max(0, reported))
}

function play(ops: readonly Op[], given: BudgetLimits): void {
  const rows = new Rows()
  const model = new Model(given)
  const spentOf = new Map<number, number>()
  /** For each day, what its calls cost above their reservations. */
  const aboveOf = new Map<number, number>()
  let nowMs = NOON
  let pausedUntilMs = 0
  let made = 0
  let budget = new Budget(given, rows, 0, nowMs)
  const evict = () => {
    budget = new Budget(given, rows, pausedUntilMs, nowMs)
    model.forget(nowMs)
  }
  const broken = (work: () => unknown) => {
    rows.broken = true
    expect(work).toThrow('broken')
    rows.broken = false
  }
  for (const step of ops) {
    const id = 'which' in step ? `c${step.which % Math.max(1, made)}` : `c${made}`
    // Expired leases are stored now, rather than in a step that fails.
    model.see(nowMs)
    budget.figures(nowMs)
    switch (step.kind) {
      case 'reserve': {
        const { visitor, tokens, usd, leaseMs, fault } = step
        const request = { id, visitor, tokens, usd, leaseMs, stores: true }
        made += 1
        const allowed = model.allows(request, nowMs)
        if (allowed && fault === 'not stored') {
          broken(() => budget.reserve(request, nowMs))
          break
        }
        expect(budget.reserve(request, nowMs).granted).toBe(allowed)
        if (allowed) {
          const reserved = { tokens, usd }
          const expiresAt = model.nowMs + leaseMs
          model.calls.set(id, {
            day: model.day,
            visitor,
            reserved,
            expiresAt,
            spent: null,
            lost: false,
          })
        }
        if (fault === 'memory lost') evict()
        break
      }
      case 'settle': {
        const { tokens, usd, stored } = step
        const one = model.calls.get(id)
        const reported = { tokens, usd }
        if (one === undefined || one.spent !== null || one.day !== model.day) {
          const overshoot = budget.settle(id, reported, nowMs)
          if (one?.spent !== null) expect(overshoot).toBeNull()
          // A past day does not change.
          if (one !== undefined) one.spent ??= one.reserved
          break
        }
        if (!stored) {
          broken(() => budget.settle(id, reported, nowMs))
          break
        }
        const { reserved } = one
        const counted = {
          tokens: countedOf(tokens, reserved.tokens),
          usd: countedOf(usd, reserved.usd),
        }
        const isAbove = counted.tokens > reserved.tokens || counted.usd > reserved.usd
        const overshoot = isAbove ? { reported, reserved, counted } : null
        expect(budget.settle(id, reported, nowMs)).toEqual(overshoot)
        one.spent = counted
        const above = Math.max(0, counted.tokens - reserved.tokens)
        aboveOf.set(one.day, (aboveOf.get(one.day) ?? 0) + above)
        break
      }
      case 'again': {
        // A repeated reservation, as if its answer had been lost.
        const one = model.calls.get(id)
        if (one === undefined || one.spent !== null) break
        const { visitor, reserved } = one
        const request = { id, visitor, ...reserved, leaseMs: 1000, stores: true }
        expect(budget.reserve(request, nowMs)).toEqual({ granted: true, mayStore: true })
        break
      }
      case 'evict':
        evict()
        break
      case 'wait':
        nowMs += step.ms
        break
      case 'pause':
        pausedUntilMs = nowMs + step.ms
        model.pausedUntilMs = pausedUntilMs
        budget.pausedUntilMs = pausedUntilMs
        break
      default:
        step satisfies never
    }
    model.see(nowMs)
    const { spent, reserved, usdSpent } = model.sums()
    const above = aboveOf.get(model.day) ?? 0
    expect(budget.figures(nowMs)).toEqual({
      tokens_per_day: given.tokensPerDay,
      spent,
      reserved,
      ...(above > 0 ? { above_reservations: above } : {}),
      usd_per_day: given.usdPerDay,
      usd_spent: usdSpent,
      paused_until: pausedUntilMs > nowMs ? Math.ceil(pausedUntilMs / 1000) : null,
    })
    expect(spent + reserved).toBeLessThanOrEqual(given.tokensPerDay + above)
    expect(spent).toBeGreaterThanOrEqual(spentOf.get(model.day) ?? 0)
    spentOf.set(model.day, spent)
    for (const visitor of ['a', 'b']) {
      expect(rows.visitorTokens(model.day, visitor)).toBe(model.sums(visitor).spent)
    }
  }
}

describe('Budget, in any sequence of operations,', () => {
  test.each<[string, Partial<BudgetLimits>]>([
    ['tokens', {}],
    ['USD', { usdPerDay: 100 }],
    ['hardly anything', { tokensPerDay: 5, tokensPerVisitorPerDay: 5, usdPerDay: 1 }],
  ])('exceeds the day only by usage above reservations, and never lowers spent: %s', (_, more) => {
    const given = { ...limits, ...more }
    fc.assert(
      fc.property(fc.array(op, { maxLength: 60 }), (ops) => play(ops, given)),
      { numRuns: 400, seed: 5 },
    )
  })
})

describe('Budget.settle()', () => {
  test('counts at most ten times the reservation, in tokens and in USD', () => {
    const rows = new Rows()
    const budget = budgetWith({ usdPerDay: 100 }, NOON, rows)
    budget.reserve(call('a', { usd: 0.5 }), NOON)
    expect(budget.settle('a', { tokens: 1e12, usd: 1e9 }, NOON)).toEqual({
      reported: { tokens: 1e12, usd: 1e9 },
      reserved: { tokens: 100, usd: 0.5 },
      counted: { tokens: 1000, usd: 5 },
    })
    const figures = { spent: 1000, reserved: 0, above_reservations: 900, usd_spent: 5 }
    expect(budget.figures(NOON)).toMatchObject(figures)
    expect(rows.visitorTokens(dayOf(NOON), 'v')).toBe(1000)
  })

  test('keeps no row for a visitor whose calls cost nothing', () => {
    const rows = new Rows()
    const budget = budgetWith({}, NOON, rows)
    budget.reserve(call('refused'), NOON)
    budget.settle('refused', { tokens: 0, usd: 0 }, NOON)
    expect(rows.visitors.size).toBe(0)
  })
})

describe('Budget.reserve()', () => {
  test('releases the stream of an expired lease', () => {
    const budget = budgetWith({ streamsPerVisitor: 1 })
    budget.reserve(call('a'), NOON)
    expect(budget.nextExpiryMs).toBe(NOON + 60_000)
    expect(refusalOf(budget, call('b')).code).toBe('too_many_streams')
    expect(budget.reserve(call('b'), NOON + 60_000).granted).toBe(true)
  })

  test('counts a call again if its lease was lost in an eviction; the lost one is no stream', () => {
    const rows = new Rows()
    budgetWith({}, NOON, rows).reserve(call('a'), NOON)
    const budget = budgetWith({ streamsPerVisitor: 1 }, NOON, rows)
    expect(budget.reserve(call('a'), NOON).granted).toBe(true)
    expect(budget.figures(NOON)).toMatchObject({ spent: 100, reserved: 100 })
  })

  const all = { tokensPerVisitorPerDay: 1e9 }
  const cents = { policy: 'usd', quota: 500_000, remaining: 500_000 } as const
  test.each<[string, Partial<BudgetLimits>, Partial<ReserveRequest>, object, Partial<Refusal>]>([
    ['day', all, { tokens: 1000 }, { tokens: 1001 }, { quota: 1000, remaining: 1000 }],
    ['day', { tokensPerDay: 0 }, { tokens: 0 }, { tokens: 1 }, { quota: 0, remaining: 0 }],
    [
      'visitor',
      { tokensPerDay: 1e6 },
      { tokens: 600 },
      { tokens: 601 },
      { quota: 600, remaining: 600 },
    ],
    ['usd', { usdPerDay: 0.5 }, { usd: 0.5 }, { usd: 0.500001 }, cents],
  ])('grants what exactly fits the limit "%s" (%j), and refuses one more', (policy, ...row) => {
    const [more, fitting, beyond, refusal] = row
    const budget = budgetWith(more)
    expect(refusalOf(budget, call('a', beyond))).toEqual({
      granted: false,
      code: 'budget_exhausted',
      policy,
      retryAfterSeconds: DAY_MS / 2000,
      ...refusal,
    })
    expect(budget.reserve(call('a', fitting), NOON).granted).toBe(true)
    expect(refusalOf(budget, call('b', beyond))).toMatchObject({ policy, remaining: 0 })
  })

  test('limits concurrent calls of one visitor', () => {
    const streams = budgetWith()
    for (const id of ['a', 'b', 'c']) expect(streams.reserve(call(id), NOON).granted).toBe(true)
    expect(refusalOf(streams, call('d'))).toMatchObject({ policy: 'streams', quota: 3 })
  })

  test('grants nothing during a pause', () => {
    const paused = budgetWith()
    paused.pausedUntilMs = NOON + 90_500
    expect(refusalOf(paused, call('a'))).toEqual({
      granted: false,
      code: 'paused',
      policy: 'paused',
      quota: 0,
      remaining: 0,
      retryAfterSeconds: 91,
    })
    expect(paused.reserve(call('a'), NOON + 90_500).granted).toBe(true)
  })

  test('applies the daily limits to the operator, but not the limits per visitor', () => {
    const budget = budgetWith({ tokensPerVisitorPerDay: 0, streamsPerVisitor: 1 })
    expect(refusalOf(budget, call('a')).policy).toBe('visitor')
    for (let i = 0; i < 10; i++) {
      expect(budget.reserve(call(`o${i}`, { visitor: null }), NOON).granted).toBe(true)
    }
    expect(refusalOf(budget, call('o', { visitor: null })).policy).toBe('day')
  })

  test('grants as many KV writes as the day has, even across a restart', () => {
    const rows = new Rows()
    let budget = budgetWith({ kvWritesPerDay: 2 }, NOON, rows)
    const granted = (id: string, stores = true, nowMs = NOON) => {
      const answer = budget.reserve(call(id, { visitor: null, tokens: 1, stores }), nowMs)
      return answer.granted && answer.mayStore
    }
    expect([granted('a'), granted('b', false), granted('c'), granted('d')]).toEqual([
      true,
      false,
      true,
      false,
    ])
    budget.settle('a', { tokens: 1, usd: 0 }, NOON)
    expect(granted('e')).toBe(false)
    budget = budgetWith({ kvWritesPerDay: 2 }, NOON, rows)
    expect(granted('f')).toBe(false)
    expect(granted('g', true, NOON + DAY_MS)).toBe(true)
  })
})

test('a KV write without a call is granted while paused and after the budget, but counts', () => {
  const budget = budgetWith({ kvWritesPerDay: 2, tokensPerDay: 10 })
  budget.reserve(call('a', { visitor: null, tokens: 10, stores: true }), NOON)
  budget.settle('a', { tokens: 50, usd: 0 }, NOON)
  budget.pausedUntilMs = NOON + DAY_MS
  const write = { visitor: null, tokens: 0, usd: 0, stores: true }
  expect(budget.reserve(call('b', write), NOON)).toEqual({ granted: true, mayStore: true })
  expect(budget.reserve(call('c', write), NOON)).toEqual({ granted: true, mayStore: false })
})

describe('Budget.share()', () => {
  test('is the share spent, without reservations, in tokens or USD', () => {
    const budget = budgetWith({ usdPerDay: 1 })
    budget.reserve(call('a', { tokens: 600, usd: 0.9 }), NOON)
    expect(budget.share(NOON)).toBe(0)
    budget.settle('a', { tokens: 300, usd: 0.5 }, NOON)
    expect(budget.share(NOON)).toBe(0.5)
  })

  test('is 0 for a budget of 0', () => {
    expect(budgetWith({ tokensPerDay: 0 }).share(NOON)).toBe(0)
  })
})
