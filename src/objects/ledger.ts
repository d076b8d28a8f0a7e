// The Durable Object that holds the daily budget, one for the whole service. The logic is in
// budget/budget.ts; a decision and its writes (ledger-rows.ts) happen in one synchronous block.
import { DurableObject } from 'cloudflare:workers'
import {
  Budget,
  type BudgetFigures,
  type Cost,
  dayOf,
  type Overshoot,
  type ReserveAnswer,
  type ReserveRequest,
} from '../budget/budget.ts'
import { randomLetters } from '../completion/completion.ts'
import { parseWatch, type Sighted, update, type Watch } from '../upstream/sunset.ts'
import { LedgerRows } from './ledger-rows.ts'
import { gateway, now, randomBytes, report, secret, waitUntil } from './platform.ts'

const MARKS = [50, 80, 100]
/** If this much is spent and a call no longer fits, the alert reports the budget as used up. */
const EXHAUSTED_PERCENT = 80

export class LedgerObject extends DurableObject {
  #rows: LedgerRows | null = null
  #budget: Budget | null = null
  #timer: ReturnType<typeof setTimeout> | null = null

  /** Reserves for one upstream call. There is no await between the check and the write. */
  reserve(request: ReserveRequest): ReserveAnswer {
    return this.#use((budget, nowMs) => {
      const answer = budget.reserve(request, nowMs)
      if (!answer.granted) {
        this.#alert(budget, nowMs, answer.policy === 'day' || answer.policy === 'usd')
      }
      return answer
    })
  }

  /** Ends a lease with the cost of its call. Does nothing if it has ended before. */
  settle(id: string, cost: Cost): void {
    this.#use((budget, nowMs) => {
      const overshoot = budget.settle(id, cost, nowMs)
      if (overshoot !== null) this.#reportOvershoot(overshoot, budget, nowMs)
    })
  }

  /** @param until unix seconds; null ends the pause */
  pause(until: number | null): void {
    const untilMs = (until ?? 0) * 1000
    this.#use((budget) => {
      this.#open().set('paused_until_ms', String(untilMs))
      budget.pausedUntilMs = untilMs
    })
  }

  figures(): BudgetFigures {
    return this.#use((budget, nowMs) => budget.figures(nowMs))
  }

  /** The service's generated secret. It is generated once and stored. */
  ownSecret(): string {
    const rows = this.#open()
    const stored = rows.setting('own_secret')
    if (stored !== null) return stored
    const generated = randomLetters(43, randomBytes)
    rows.set('own_secret', generated)
    return generated
  }

  /** Stores what the upstreams' lists of models say, and sends an alert for each new step. */
  watch(sighted: readonly Sighted[]): void {
    this.#use((budget, nowMs) => {
      const { watch, endings } = update(this.watched(), sighted, nowMs)
      this.#open().set('watch', JSON.stringify(watch))
      for (const ending of endings) {
        report(ending)
        this.#send(ending, budget, nowMs)
      }
    })
  }

  /** What is known about the end of models. */
  watched(): Watch {
    return parseWatch(this.#open().setting('watch'))
  }

  #open(): LedgerRows {
    const { tokensPerDay, usdPerDay } = limitsOf()
    const limit = { tokens: tokensPerDay, usd: usdPerDay }
    this.#rows ??= new LedgerRows(this.ctx.storage, limit, dayOf(now()))
    return this.#rows
  }

  #use<T>(decide: (budget: Budget, nowMs: number) => T): T {
    const nowMs = now()
    const rows = this.#open()
    const pausedUntilMs = () => Number(rows.setting('paused_until_ms') ?? 0)
    this.#budget ??= new Budget(limitsOf(), rows, pausedUntilMs(), nowMs)
    const decision = decide(this.#budget, nowMs)
    this.#alert(this.#budget, nowMs, false)
    this.#stayAwake(this.#budget, nowMs)
    return decision
  }

  /**
   * Ends leases when they expire. The timer also keeps the object from being evicted as idle while
   * calls are running: their leases would be lost, and their whole reservations would be spent.
   */
  #stayAwake(budget: Budget, nowMs: number): void {
    const { nextExpiryMs } = budget
    if (nextExpiryMs === null) {
      if (this.#timer !== null) clearTimeout(this.#timer)
      this.#timer = null
      return
    }
    this.#timer ??= setTimeout(() => {
      this.#timer = null
      try {
        this.#use(() => {})
      } catch {
        // The next call will end the leases.
      }
    }, nextExpiryMs - nowMs)
  }

  /** Logs each overshoot, and sends one alert a day if the reported cost was not fully counted. */
  #reportOvershoot(overshoot: Overshoot, budget: Budget, nowMs: number): void {
    const { reported, reserved, counted } = overshoot
    const call = {
      reported: reported.tokens,
      reserved: reserved.tokens,
      counted: counted.tokens,
      usd_reported: reported.usd,
      usd_reserved: reserved.usd,
      usd_counted: counted.usd,
    }
    const event = 'usage_above_reservation'
    report({ event, ...call })
    if (reported.tokens <= counted.tokens && reported.usd <= counted.usd) return
    this.#alertOnce('overshoot', { event, call }, budget, nowMs)
  }

  /** Sends an alert when 50, 80 and 100 percent of the day's budget are spent. */
  #alert(budget: Budget, nowMs: number, refused: boolean): void {
    // Rounding errors of many small sums must not delay an alert.
    const spent = budget.share(nowMs) * 100 + 1e-6
    const percent = refused && spent >= EXHAUSTED_PERCENT ? 100 : spent
    for (const mark of MARKS) {
      if (percent < mark) continue
      const alert = { event: 'budget_mark', percent: mark } as const
      if (this.#alertOnce(String(mark), alert, budget, nowMs)) report(alert)
    }
  }

  /** Sends an alert with the day's figures, once a day. @returns false if it was sent before */
  #alertOnce(mark: string, alert: object, budget: Budget, nowMs: number): boolean {
    const rows = this.#open()
    const name = `mark ${dayOf(nowMs)} ${mark}`
    if (rows.setting(name) !== null) return false
    rows.set(name, String(nowMs))
    this.#send(alert, budget, nowMs)
    return true
  }

  #send(alert: object, budget: Budget, nowMs: number): void {
    const url = secret('ALERT_URL')
    if (url) waitUntil(sendAlert(url, { ...alert, ...budget.figures(nowMs) }))
  }
}

function limitsOf() {
  const { config } = gateway()
  if (config === null) throw new TypeError('misconfigured')
  const { budget, cache } = config
  return {
    tokensPerDay: budget.tokens_per_day,
    usdPerDay: budget.usd_per_day,
    tokensPerVisitorPerDay: budget.tokens_per_visitor_per_day,
    streamsPerVisitor: budget.streams_per_visitor,
    kvWritesPerDay: cache.kv_writes_per_day,
  }
}

async function sendAlert(url: string, alert: object): Promise<void> {
  try {
    const response = await fetch(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(alert),
      redirect: 'manual',
      signal: AbortSignal.timeout(10_000),
    })
    await response.body?.cancel()
    if (!response.ok) report({ event: 'alert_failed', status: response.status })
  } catch {
    report({ event: 'alert_failed', status: null })
  }
}
