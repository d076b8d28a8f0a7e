// The ledger client: what a call reserves and how it is settled. Nothing is spent while the ledger
// object fails or does not answer.
import * as fc from 'fast-check'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { type Cost, countedOf, type Refusal, type ReserveRequest } from '../../src/budget/budget.ts'
import {
  type LedgerClient,
  type LedgerDeps,
  reserve,
  type Spending,
} from '../../src/budget/ledger.ts'
import type { GatewayError } from '../../src/errors.ts'
import type { Event } from '../../src/events.ts'
import { failureOf } from '../support/failure.ts'

const price = { input: 1, output: 10 }
const spending: Spending = {
  input: 100,
  output: 100,
  price,
  routePrices: [],
  visitor: 'v',
  leaseMs: 1000,
  stores: true,
}
const WORST = { tokens: 200, usd: (100 * 1 + 100 * 10) / 1e6 }
const granted = { granted: true, mayStore: true } as const

/** A ledger that answers reservations with the script, one per call; tests end its waits. */
function ledgerWith(...script: (() => ReturnType<LedgerClient['reserve']>)[]) {
  const reserved: ReserveRequest[] = []
  const settled: { id: string; cost: Cost }[] = []
  const events: Event[] = []
  const background: Promise<unknown>[] = []
  const waits: { ms: number; end: () => void }[] = []
  let settle = async () => {}
  let ids = 0
  const deps: LedgerDeps = {
    client: {
      reserve: (request) => {
        reserved.push(request)
        return (script[Math.min(reserved.length, script.length) - 1] ?? (async () => granted))()
      },
      settle: async (id, cost) => {
        settled.push({ id, cost })
        await settle()
      },
    },
    newId: () => `call-${ids++}`,
    wait: (ms) => new Promise((resolve) => void waits.push({ ms, end: resolve })),
    random: () => 0.5,
    waitUntil: (work) => void background.push(work),
    report: (event) => void events.push(event),
    settling: new Set(),
  }
  return {
    ledger: { reserve: (spending: Spending) => reserve(spending, deps) },
    reserved,
    settled,
    events,
    waits,
    background,
    /** Settlements arrive when the test ends them. */
    delaySettling: () => {
      const { promise, resolve } = Promise.withResolvers<void>()
      settle = () => promise
      return resolve
    },
    breakSettling: () => {
      settle = async () => {
        throw new Error('gone')
      }
    },
  }
}

const broken = (more: object) => async () => {
  throw Object.assign(new Error('inside words'), more)
}

const cheap = { input: 1, output: 1 }
test.each<[string, Partial<Spending>, number]>([
  ["the model's price", {}, WORST.usd],
  ['no price', { price: null }, 0],
  [
    'the highest price of the route',
    { price: cheap, routePrices: [cheap, null, price] },
    WORST.usd,
  ],
  ['its own price, if the others are lower', { routePrices: [cheap] }, WORST.usd],
])('a call reserves at %s', async (_, more, usd) => {
  const { ledger, reserved } = ledgerWith()
  await ledger.reserve({ ...spending, ...more })
  expect(reserved).toMatchObject([{ tokens: 200, usd }])
})

afterEach(() => {
  vi.useRealTimers()
})

describe('Ledger.reserve()', () => {
  test('reserves the worst case, for longer than the call may take', async () => {
    const { ledger, reserved } = ledgerWith()
    expect((await ledger.reserve(spending)).mayStore).toBe(true)
    expect(reserved).toEqual([
      { id: 'call-0', visitor: 'v', ...WORST, leaseMs: 11_000, stores: true },
    ])
  })

  test.each<[Refusal['policy'], Refusal['code'], number | null]>([
    ['day', 'budget_exhausted', 86_400],
    ['usd', 'budget_exhausted', 86_400],
    ['visitor', 'budget_exhausted', 86_400],
    ['paused', 'paused', 86_400],
    ['streams', 'too_many_streams', null],
  ])('is refused by "%s" as %s, with the limit for the headers', async (policy, code, window) => {
    const refusal = { granted: false, code, policy, quota: 9, remaining: 1 } as const
    const { ledger } = ledgerWith(async () => ({ ...refusal, retryAfterSeconds: 1e6 }))
    expect(await failureOf(ledger.reserve(spending))).toMatchObject({
      code,
      retryAfterSeconds: 86_400,
      rateLimit: { policy, quota: 9, remaining: 1, resetSeconds: 86_400, windowSeconds: window },
    })
  })

  test.each<[string, object]>([
    ['overloaded', { overloaded: true, retryable: true }],
    ['over quota', {}],
    ['failing with a non-retryable error', { retryable: false, remote: true }],
  ])('calls a ledger that is %s once, and spends nothing', async (_, more) => {
    vi.useFakeTimers()
    const { ledger, reserved, waits } = ledgerWith(broken(more))
    const error = await failureOf(ledger.reserve(spending))
    expect(error).toMatchObject({ code: 'ledger_unavailable', retryAfterSeconds: 10 })
    expect(error.message).not.toContain('inside words')
    expect(reserved).toHaveLength(1)
    expect([waits.length, vi.getTimerCount()]).toEqual([0, 0])
  })

  test.each([
    ['a grant', async () => granted],
    ['an error', broken({ retryable: true })],
  ])(
    'retries a retryable error once, after a pause and with the same id: %s',
    async (answer, second) => {
      const { ledger, reserved, waits } = ledgerWith(broken({ retryable: true }), second)
      const leasing = ledger.reserve(spending).catch((error: GatewayError) => error.code)
      await expect.poll(() => waits.length).toBe(1)
      expect(waits[0]?.ms).toBe(100)
      waits[0]?.end()
      if (answer === 'an error') expect(await leasing).toBe('ledger_unavailable')
      else expect(await leasing).toMatchObject({ mayStore: true })
      expect(reserved.map(({ id }) => id)).toEqual(['call-0', 'call-0'])
    },
  )

  test('waits two seconds for a ledger that hangs; a late grant is given back', async () => {
    vi.useFakeTimers()
    const late = Promise.withResolvers<typeof granted>()
    const { ledger, settled, background } = ledgerWith(() => late.promise)
    let code = ''
    const leasing = failureOf(ledger.reserve(spending)).then((error) => {
      code = error.code
    })
    await vi.advanceTimersByTimeAsync(1999)
    expect(code).toBe('')
    await vi.advanceTimersByTimeAsync(1)
    await leasing
    expect([code, settled]).toEqual(['ledger_unavailable', []])
    late.resolve(granted)
    await vi.advanceTimersByTimeAsync(0)
    expect(settled).toEqual([{ id: 'call-0', cost: { tokens: 0, usd: 0 } }])
    await Promise.all(background)
  })

  test.each(['refusal', 'error'])('gives nothing back after a late %s', async (end) => {
    vi.useFakeTimers()
    const late = Promise.withResolvers<Refusal>()
    const { ledger, settled } = ledgerWith(() => late.promise)
    const leasing = failureOf(ledger.reserve(spending))
    await vi.advanceTimersByTimeAsync(2000)
    await leasing
    if (end === 'error') late.reject(new Error('gone'))
    else late.resolve({ granted: false } as Refusal)
    await late.promise.catch(() => {})
    expect(settled).toEqual([])
  })
})

describe('reservations of one request', () => {
  test('are sent when its earlier settlements have arrived', async () => {
    const { ledger, reserved, delaySettling } = ledgerWith()
    const [first, other] = [await ledger.reserve(spending), await ledger.reserve(spending)]
    const arrive = delaySettling()
    first.settle({ usage: null, chars: 0 })
    const next = ledger.reserve(spending)
    await Promise.resolve()
    expect(reserved).toHaveLength(2)
    arrive()
    await next
    expect(reserved).toHaveLength(3)
    other.settle({ usage: null, chars: 0 })
  })

  test('wait two seconds for them', async () => {
    vi.useFakeTimers()
    const { ledger, reserved, delaySettling } = ledgerWith()
    const lease = await ledger.reserve(spending)
    delaySettling()
    lease.settle({ usage: null, chars: 0 })
    const next = ledger.reserve(spending)
    await vi.advanceTimersByTimeAsync(1999)
    expect(reserved).toHaveLength(1)
    await vi.advanceTimersByTimeAsync(1)
    await next
    expect(reserved).toHaveLength(2)
    // Only once for one that hangs.
    await ledger.reserve(spending)
    expect(reserved).toHaveLength(3)
  })
})

describe('a lease', () => {
  async function settledWith(
    usage: Parameters<Awaited<ReturnType<typeof reserve>>['settle']>[0]['usage'],
    { chars = 0, accepted = true, unwritten = 0 } = {},
  ) {
    const { ledger, settled, events } = ledgerWith()
    const charges: Parameters<NonNullable<Spending['charge']>>[0][] = []
    const lease = await ledger.reserve({ ...spending, charge: (one) => void charges.push(one) })
    if (accepted) lease.accepted()
    lease.settle({ usage, chars, unwritten })
    expect(settled).toHaveLength(1)
    expect(charges).toHaveLength(accepted ? 1 : 0)
    return { cost: settled[0]?.cost, charge: charges[0], events }
  }
  const usageOf = (prompt_tokens: number, completion_tokens: number, total_tokens: number) => ({
    prompt_tokens,
    completion_tokens,
    total_tokens,
  })

  const cancelled = { chars: 28, unwritten: 90 }
  test.each<[string, Parameters<typeof settledWith>, Cost]>([
    ['nothing if the call was not accepted', [null, { accepted: false }], { tokens: 0, usd: 0 }],
    ['the same, cancelled', [null, { ...cancelled, accepted: false }], { tokens: 0, usd: 0 }],
    ['all it reserved if no usage is reported', [null, { chars: 3 }], WORST],
    // The input, and ten tokens that the upstream may have written.
    ['less of that if it was cancelled', [null, cancelled], { tokens: 110, usd: 200 / 1e6 }],
    ['what is reported', [usageOf(5, 7, 12), { chars: 28 }], { tokens: 12, usd: 75 / 1e6 }],
    ['the same, cancelled', [usageOf(5, 7, 12), cancelled], { tokens: 12, usd: 75 / 1e6 }],
    ['at least what arrived', [usageOf(5, 1, 6), { chars: 40 }], { tokens: 15, usd: 105 / 1e6 }],
    ['the total, which includes reasoning', [usageOf(5, 7, 50)], { tokens: 50, usd: 455 / 1e6 }],
    ['more than it reserved', [usageOf(50, 450, 500)], { tokens: 500, usd: 4550 / 1e6 }],
    ['what arrived, if that is more', [null, { chars: 4000 }], { tokens: 1000, usd: 0.01 }],
  ])('costs %s', async (_, end, cost) => {
    const settled = await settledWith(...end)
    expect(settled.events).toEqual([])
    expect(settled.cost?.tokens).toBe(cost.tokens)
    expect(settled.cost?.usd).toBeCloseTo(cost.usd, 12)
  })

  test.each<[string, Parameters<typeof settledWith>, number, number]>([
    ['what is reported', [usageOf(5, 7, 12)], 5, 7],
    ['the total, which includes reasoning', [usageOf(5, 7, 50)], 5, 45],
    ['all it reserved if no usage is reported', [null], 100, 100],
    ['less of that if it was cancelled', [null, cancelled], 100, 10],
    ['what arrived, if that is more', [null, { chars: 4000 }], 100, 900],
    ['ten times what it reserved at most', [usageOf(50, 1e6, 1e6 + 50)], 50, 1950],
  ])('is charged %s, in tokens in and out', async (_, end, tokens_in, tokens_out) => {
    const { charge } = await settledWith(...end)
    expect(charge).toMatchObject({ tokens_in, tokens_out })
  })

  test('costs at least what was received, for any reported usage', () => {
    const number = fc.oneof(
      fc.integer(),
      fc.double(),
      fc.constantFrom(0, -1, Number.NaN, Number.POSITIVE_INFINITY, 1e12),
    )
    return fc.assert(
      fc.asyncProperty(number, number, number, fc.nat(1000), async (a, b, c, chars) => {
        const { cost, charge } = await settledWith(usageOf(a, b, c), { chars })
        expect(cost?.tokens).toBeGreaterThanOrEqual(Math.ceil(chars / 4))
        expect(cost?.usd).toBeGreaterThanOrEqual((Math.ceil(chars / 4) * 10) / 1e6)
        // The figures add up what the budget counts.
        const { tokens_in = -1, tokens_out = -1, usd } = charge ?? {}
        expect(Math.min(tokens_in, tokens_out)).toBeGreaterThanOrEqual(0)
        const counted = countedOf(cost?.tokens ?? -1, WORST.tokens)
        expect(tokens_in + tokens_out).toBeCloseTo(counted, 6)
        expect(usd).toBe(countedOf(cost?.usd ?? -1, WORST.usd))
      }),
      { seed: 6 },
    )
  })

  test('that cannot be settled logs an event and does not fail: it expires as spent', async () => {
    const { ledger, events, background, breakSettling } = ledgerWith()
    const lease = await ledger.reserve(spending)
    breakSettling()
    lease.settle({ usage: null, chars: 0 })
    await Promise.all(background)
    expect(events).toEqual([{ event: 'settle_failed' }])
  })
})
