// The day's money, against a model: whatever happens in whatever order, what is spent and reserved
// fits the day, and what is spent is never less than it was.
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  addUp,
  Budget,
  type BudgetLimits,
  type CallRow,
  type DaySum,
  dayOf,
  noSum,
  type Refusal,
  type ReserveRequest,
} from '../../src/access/budget.ts'

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

const nothing = { rows: [], sums: [] }

function budgetWith(more: Partial<BudgetLimits> = {}, nowMs = NOON): Budget {
  return new Budget({ ...limits, ...more }, nothing, 0, nowMs)
}

function call(id: string, more: Partial<ReserveRequest> = {}): ReserveRequest {
  return { id, visitor: 'v', tokens: 100, usd: 0, leaseMs: 60_000, stores: true, ...more }
}

function refusalOf(budget: Budget, request: ReserveRequest, nowMs = NOON): Refusal {
  const answer = budget.reserve(request, nowMs)
  if (answer.granted) throw new Error('it was granted')
  return answer
}

/** The ledger's own way with rows, and the ways it can be interrupted. */
class Stored {
  readonly rows = new Map<string, CallRow>()
  readonly sums = new Map<number, DaySum>()
  readonly #limits: BudgetLimits
  #pausedUntilMs = 0
  #budget: Budget | null = null

  constructor(given: BudgetLimits) {
    this.#limits = given
  }

  use<T>(nowMs: number, work: (budget: Budget) => T): T {
    const stored = { rows: [...this.rows.values()], sums: [...this.sums.values()] }
    this.#budget ??= new Budget(this.#limits, stored, this.#pausedUntilMs, nowMs)
    const result = work(this.#budget)
    for (const row of this.#budget.takeExpired()) this.rows.set(row.id, row)
    return result
  }

  /** Memory is lost, rows are not. */
  evict(): void {
    this.#budget = null
  }

  pause(untilMs: number, nowMs: number): void {
    this.#pausedUntilMs = untilMs
    this.use(nowMs, (budget) => budget.pause(untilMs))
  }

  /** Settled rows become sums. */
  addUp(): void {
    for (const row of this.rows.values()) {
      if (!row.settled) continue
      this.sums.set(row.day, addUp(this.sums.get(row.day) ?? noSum(row.day), [row]))
      this.rows.delete(row.id)
    }
    this.evict()
  }
}

interface ModelCall {
  readonly day: number
  readonly visitor: string | null
  readonly reserved: { tokens: number; usd: number }
  readonly expiresAt: number
  /** Null: under way. */
  spent: { tokens: number; usd: number } | null
}

/** What should be, in few words: a list of calls, and the latest time anybody has seen. */
class Model {
  readonly calls = new Map<string, ModelCall>()
  readonly #limits: BudgetLimits
  day = 0
  pausedUntilMs = 0
  #nowMs = 0

  constructor(given: BudgetLimits) {
    this.#limits = given
  }

  see(nowMs: number): void {
    this.#nowMs = Math.max(this.#nowMs, nowMs)
    this.day = Math.max(this.day, dayOf(nowMs))
    for (const one of this.calls.values()) {
      if (one.expiresAt <= this.#nowMs) one.spent ??= one.reserved
    }
  }

  /** Without its memory it knows the time from the clock, and the day from that and the rows. */
  forget(nowMs: number): void {
    this.#nowMs = nowMs
    this.day = Math.max(dayOf(nowMs), ...[...this.calls.values()].map(({ day }) => day))
  }

  sums(visitor?: string) {
    const sums = { spent: 0, reserved: 0, usdSpent: 0, usdReserved: 0 }
    for (const one of this.calls.values()) {
      if (one.day !== this.day || (visitor !== undefined && one.visitor !== visitor)) continue
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
/** Which of the calls so far: most often one that there is. */
const which = fc.nat(30)
const op = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('reserve' as const),
      visitor: fc.constantFrom('a', 'b', null),
      // Round numbers meet the limits exactly, and one more just misses them.
      tokens: fc.oneof(fc.integer({ min: 1, max: 400 }), fc.constantFrom(1, 100, 200, 201)),
      usd: fc.nat(40),
      leaseMs: fc.integer({ min: 1, max: 3_600_000 }),
      crash: fc.constantFrom('no', 'no', 'no', 'before storing', 'after storing'),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant('settle' as const),
      which,
      tokens: cost,
      usd: cost,
      crash: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('again' as const), which }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('evict' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('add up' as const) }) },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('wait' as const),
      ms: fc.oneof(
        fc.integer({ min: 0, max: 1_800_000 }),
        fc.integer({ min: -1_800_000, max: 0 }),
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

function play(ops: readonly Op[], given: BudgetLimits): void {
  const stored = new Stored(given)
  const model = new Model(given)
  const spentOf = new Map<number, number>()
  let nowMs = NOON
  let made = 0
  for (const step of ops) {
    const id = 'which' in step ? `c${step.which % Math.max(1, made)}` : `c${made}`
    switch (step.kind) {
      case 'reserve': {
        const { visitor, tokens, usd, leaseMs, crash } = step
        const request = { id, visitor, tokens, usd, leaseMs, stores: true }
        model.see(nowMs)
        made += 1
        const answer = stored.use(nowMs, (budget) => budget.reserve(request, nowMs))
        expect(answer.granted).toBe(model.allows(request, nowMs))
        if (answer.granted && crash !== 'before storing') {
          stored.rows.set(id, answer.row)
          const { day, expires_at: expiresAt } = answer.row
          expect(day).toBe(model.day)
          model.calls.set(id, { day, visitor, reserved: { tokens, usd }, expiresAt, spent: null })
        }
        if (crash === 'no') break
        stored.evict()
        model.forget(nowMs)
        break
      }
      case 'settle': {
        const { tokens, usd, crash } = step
        model.see(nowMs)
        const one = model.calls.get(id)
        const row = stored.use(nowMs, (budget) => budget.settle(id, { tokens, usd }, nowMs))
        expect(row !== null).toBe(one !== undefined && one.spent === null)
        if (row === null || one === undefined) break
        if (crash) {
          stored.evict()
          model.forget(nowMs)
          break
        }
        stored.rows.set(id, row)
        one.spent = { tokens: row.tokens, usd: row.usd }
        expect(row.tokens).toBeGreaterThanOrEqual(0)
        expect(row.tokens).toBeLessThanOrEqual(one.reserved.tokens)
        const exact = Number.isFinite(tokens) && tokens >= 0 && tokens <= one.reserved.tokens
        if (exact) expect(row.tokens).toBe(tokens)
        break
      }
      case 'again': {
        // The same reservation once more, since its answer was lost.
        model.see(nowMs)
        const one = model.calls.get(id)
        if (one === undefined || one.spent !== null) break
        const { visitor, reserved } = one
        const request = { id, visitor, ...reserved, leaseMs: 1000, stores: true }
        const answer = stored.use(nowMs, (budget) => budget.reserve(request, nowMs))
        expect(answer).toMatchObject({ granted: true, fresh: false })
        break
      }
      case 'evict':
        stored.evict()
        model.forget(nowMs)
        break
      case 'add up':
        stored.addUp()
        model.forget(nowMs)
        break
      case 'wait':
        nowMs += step.ms
        break
      case 'pause':
        model.pausedUntilMs = nowMs + step.ms
        stored.pause(nowMs + step.ms, nowMs)
        model.see(nowMs)
        break
      default:
        step satisfies never
    }
    model.see(nowMs)
    const figures = stored.use(nowMs, (budget) => budget.figures(nowMs))
    const { spent, reserved, usdSpent, usdReserved } = model.sums()
    expect(figures).toEqual({ spent, reserved, usdSpent })
    expect(spent + reserved).toBeLessThanOrEqual(given.tokensPerDay)
    if (given.usdPerDay > 0) expect(usdSpent + usdReserved).toBeLessThanOrEqual(given.usdPerDay)
    expect(spent).toBeGreaterThanOrEqual(spentOf.get(model.day) ?? 0)
    spentOf.set(model.day, spent)
    for (const visitor of ['a', 'b']) {
      const own = model.sums(visitor)
      expect(own.spent + own.reserved).toBeLessThanOrEqual(given.tokensPerVisitorPerDay)
    }
  }
}

describe('Budget, whatever happens to it,', () => {
  test.each<[string, Partial<BudgetLimits>]>([
    ['tokens', {}],
    ['USD', { usdPerDay: 100 }],
    ['next to nothing', { tokensPerDay: 5, tokensPerVisitorPerDay: 5, usdPerDay: 1 }],
  ])('keeps spent + reserved within the day and never lowers spent: %s (P5, T2, T3)', (_, more) => {
    const given = { ...limits, ...more }
    fc.assert(
      fc.property(fc.array(op, { maxLength: 60 }), (ops) => play(ops, given)),
      { numRuns: 400, seed: 5 },
    )
  })

  test('adds up settled calls to the same as their rows', () => {
    const row = fc.record({
      id: fc.uuid(),
      visitor: fc.constantFrom('a', 'b', null),
      tokens: fc.nat(1000),
      usd: fc.nat(10),
      stores: fc.boolean(),
    })
    fc.assert(
      fc.property(fc.array(row), fc.nat(20), (given, split) => {
        const day = dayOf(NOON)
        const rows = given.map((one) => ({ ...one, day, settled: true, expires_at: NOON }))
        const big = { ...limits, tokensPerDay: 1e9, tokensPerVisitorPerDay: 1e9 }
        const sum = addUp(noSum(day), rows.slice(0, split))
        const a = new Budget(big, { rows, sums: [] }, 0, NOON)
        const b = new Budget(big, { rows: rows.slice(split), sums: [sum] }, 0, NOON)
        expect(b.figures(NOON)).toEqual(a.figures(NOON))
        for (const visitor of ['a', 'b']) {
          const most = call('x', { visitor, tokens: 1e9 + 1 })
          expect(refusalOf(b, most)).toEqual(refusalOf(a, most))
        }
      }),
      { seed: 5 },
    )
  })
})

describe('Budget.settle()', () => {
  test('counts once, whatever comes twice, late or from nowhere (C4)', () => {
    const budget = budgetWith()
    budget.reserve(call('a'), NOON)
    expect(budget.settle('a', { tokens: 30, usd: 0 }, NOON)).toMatchObject({ tokens: 30 })
    expect(budget.settle('a', { tokens: 90, usd: 0 }, NOON)).toBeNull()
    expect(budget.settle('nobody', { tokens: 90, usd: 0 }, NOON)).toBeNull()
    budget.reserve(call('late'), NOON)
    expect(budget.settle('late', { tokens: 0, usd: 0 }, NOON + 60_000)).toBeNull()
    expect(budget.figures(NOON + 60_000)).toEqual({ spent: 130, reserved: 0, usdSpent: 0 })
  })

  test('charges the day that reserved; the new day starts clean (C5)', () => {
    const midnight = (dayOf(NOON) + 1) * DAY_MS
    const budget = budgetWith({}, midnight - 1000)
    budget.reserve(call('a', { tokens: 600 }), midnight - 1000)
    expect(budget.figures(midnight)).toEqual({ spent: 0, reserved: 0, usdSpent: 0 })
    const row = budget.settle('a', { tokens: 500, usd: 0 }, midnight)
    expect(row).toMatchObject({ day: dayOf(NOON), tokens: 500, settled: true })
    expect(budget.figures(midnight)).toEqual({ spent: 0, reserved: 0, usdSpent: 0 })
    expect(budget.reserve(call('b', { tokens: 600 }), midnight).granted).toBe(true)
  })
})

describe('Budget.reserve()', () => {
  test('holds a lease that runs out as spent, and blocks nobody for ever (C3)', () => {
    const budget = budgetWith({ streamsPerVisitor: 1 })
    budget.reserve(call('a'), NOON)
    expect(refusalOf(budget, call('b')).code).toBe('too_many_streams')
    expect(budget.reserve(call('b'), NOON + 60_000).granted).toBe(true)
    expect(budget.figures(NOON + 60_000)).toEqual({ spent: 100, reserved: 100, usdSpent: 0 })
    expect(budget.takeExpired()).toMatchObject([{ id: 'a', tokens: 100, settled: true }])
  })

  test('says which limit is in the way, how much is left, and until when', () => {
    const untilMidnight = DAY_MS / 2000
    const day = budgetWith({ tokensPerVisitorPerDay: 1e9 })
    day.reserve(call('a', { tokens: 990 }), NOON)
    const refused = { granted: false, code: 'budget_exhausted', retryAfterSeconds: untilMidnight }
    expect(refusalOf(day, call('b'))).toEqual({
      ...refused,
      policy: 'day',
      quota: 1000,
      remaining: 10,
    })
    const visitor = budgetWith()
    visitor.reserve(call('a', { tokens: 590 }), NOON)
    expect(refusalOf(visitor, call('b'))).toEqual({
      ...refused,
      policy: 'visitor',
      quota: 600,
      remaining: 10,
    })
    const usd = budgetWith({ usdPerDay: 0.5 })
    usd.reserve(call('a', { usd: 0.25 }), NOON)
    expect(refusalOf(usd, call('b', { usd: 0.3 }))).toEqual({
      ...refused,
      policy: 'usd',
      quota: 500_000,
      remaining: 250_000,
    })
    const paused = budgetWith()
    paused.pause(NOON + 90_500)
    expect(refusalOf(paused, call('a'))).toEqual({
      ...refused,
      policy: 'paused',
      quota: 0,
      remaining: 0,
      retryAfterSeconds: 91,
    })
    expect(paused.reserve(call('a'), NOON + 90_500).granted).toBe(true)
  })

  test('grants what just fits, and nothing that is one more', () => {
    const day = budgetWith({ tokensPerVisitorPerDay: 1e9 })
    expect(refusalOf(day, call('a', { tokens: 1001 })).policy).toBe('day')
    expect(day.reserve(call('a', { tokens: 1000 }), NOON).granted).toBe(true)
    const visitor = budgetWith()
    expect(refusalOf(visitor, call('a', { tokens: 601 })).policy).toBe('visitor')
    expect(visitor.reserve(call('a', { tokens: 600 }), NOON).granted).toBe(true)
    const usd = budgetWith({ usdPerDay: 2 })
    expect(refusalOf(usd, call('a', { usd: 2.000001 })).policy).toBe('usd')
    expect(usd.reserve(call('a', { usd: 2 }), NOON).granted).toBe(true)
    const streams = budgetWith()
    for (const id of ['a', 'b', 'c']) expect(streams.reserve(call(id), NOON).granted).toBe(true)
    expect(refusalOf(streams, call('d'))).toMatchObject({ policy: 'streams', quota: 3 })
  })

  test('binds the operator by the day, not by what binds a visitor', () => {
    const budget = budgetWith({ tokensPerVisitorPerDay: 0, streamsPerVisitor: 1 })
    expect(refusalOf(budget, call('a')).policy).toBe('visitor')
    for (let i = 0; i < 10; i++) {
      expect(budget.reserve(call(`o${i}`, { visitor: null }), NOON).granted).toBe(true)
    }
    expect(refusalOf(budget, call('o', { visitor: null })).policy).toBe('day')
  })

  test('grants as many KV writes as the day has, and not one more after a restart', () => {
    const rows: CallRow[] = []
    let budget = budgetWith({ kvWritesPerDay: 2 })
    const granted = (id: string, stores = true) => {
      const answer = budget.reserve(call(id, { visitor: null, tokens: 1, stores }), NOON)
      if (answer.granted) rows.push(answer.row)
      return answer.granted && answer.row.stores
    }
    expect([granted('a'), granted('b', false), granted('c'), granted('d')]).toEqual([
      true,
      false,
      true,
      false,
    ])
    budget.settle('a', { tokens: 1, usd: 0 }, NOON)
    expect(granted('e')).toBe(false)
    budget = new Budget({ ...limits, kvWritesPerDay: 2 }, { rows, sums: [] }, 0, NOON)
    expect(granted('f')).toBe(false)
    const tomorrow = budget.reserve(call('g'), NOON + DAY_MS)
    expect(tomorrow.granted && tomorrow.row.stores).toBe(true)
  })
})

describe('Budget.share()', () => {
  test('is what is spent, not what is reserved, of tokens or USD', () => {
    const budget = budgetWith({ usdPerDay: 1 })
    budget.reserve(call('a', { tokens: 600, usd: 0.9 }), NOON)
    expect(budget.share(NOON)).toBe(0)
    budget.settle('a', { tokens: 300, usd: 0.5 }, NOON)
    expect(budget.share(NOON)).toBe(0.5)
  })

  test('of a budget of nothing is nothing', () => {
    expect(budgetWith({ tokensPerDay: 0 }).share(NOON)).toBe(0)
  })
})
