// The Durable Object that knows what the day has cost: one for the whole service. A thin shell over
// access/budget.ts; every decision and its row are made in one synchronous block.
//
// Stored in SQLite: `calls`, one row per upstream call, written by reserve, once more by settle or
// when it runs out, and deleted once it is added up: 3 row writes a miss, as measured by
// test/objects/ledger.test.ts, so that the free plan's 100,000 a day are 33,000 misses. `settings`:
// the pause, the sums of settled calls, marks of alerts sent, the secret made up where the owner has
// none. The platform forgets an idle object after some seconds, and it then reads its rows again:
// that is what the sums are for.
import { DurableObject } from 'cloudflare:workers'
import {
  addUp,
  Budget,
  type CallRow,
  type Cost,
  type DaySum,
  dayOf,
  noSum,
  type Refusal,
  type ReserveRequest,
} from '../access/budget.ts'
import { randomLetters } from '../completion/completion.ts'
import { environment, now, randomBytes, report, secret, waitUntil } from './environment.ts'

export interface LedgerFigures {
  readonly tokens_per_day: number
  readonly spent: number
  readonly reserved: number
  readonly usd_per_day: number
  readonly usd_spent: number
  /** Unix seconds. */
  readonly paused_until: number | null
}

export type ReserveAnswer = { readonly granted: true; readonly mayStore: boolean } | Refusal

const MARKS = [50, 80, 100]
/** A day that is this far spent and has no room for a call is, to its owner, all spent. */
const GONE_PERCENT = 80
const DAYS_KEPT = 2
/** Settled rows that are read again rather than added up. */
const ROWS_KEPT = 200

export class LedgerObject extends DurableObject {
  readonly #sql: SqlStorage = this.ctx.storage.sql
  #budget: Budget | null = null
  #cleanedDay = -1

  /** Reserves for one upstream call. No await between the check and the row. */
  reserve(request: ReserveRequest): ReserveAnswer {
    return this.#use((budget, nowMs) => {
      const answer = budget.reserve(request, nowMs)
      if (!answer.granted) {
        this.#alert(budget, nowMs, answer.policy === 'day' || answer.policy === 'usd')
        return answer
      }
      if (answer.fresh) this.#insert(answer.row)
      return { granted: true, mayStore: answer.row.stores }
    })
  }

  /** Ends a lease with what it cost; a second time it does nothing. */
  settle(id: string, cost: Cost): void {
    this.#use((budget, nowMs) => {
      const row = budget.settle(id, cost, nowMs)
      if (row !== null) this.#update(row)
    })
  }

  /** @param until unix seconds, or null: no pause */
  pause(until: number | null): void {
    const untilMs = (until ?? 0) * 1000
    this.#use((budget) => {
      budget.pause(untilMs)
      this.#set('paused_until_ms', String(untilMs))
    })
  }

  figures(): LedgerFigures {
    return this.#use(figuresOf)
  }

  /** A secret of the service's own, made once and kept here. */
  ownSecret(): string {
    this.#open(now())
    const known = this.#get('own_secret')
    if (known !== null) return known
    const made = randomLetters(43, randomBytes)
    this.#set('own_secret', made)
    return made
  }

  /**
   * One decision and its rows. What cannot be stored must not be remembered either: after any
   * failure everything is read again.
   */
  #use<T>(decide: (budget: Budget, nowMs: number) => T): T {
    const nowMs = now()
    try {
      const budget = this.#open(nowMs)
      const decision = decide(budget, nowMs)
      for (const row of budget.takeExpired()) this.#update(row)
      this.#alert(budget, nowMs, false)
      return decision
    } catch (error) {
      this.#budget = null
      throw error
    }
  }

  #open(nowMs: number): Budget {
    this.#budget ??= this.#read(nowMs)
    this.#clean(nowMs)
    return this.#budget
  }

  #read(nowMs: number): Budget {
    this.#sql.exec(`CREATE TABLE IF NOT EXISTS calls (
      day INTEGER, id TEXT, visitor TEXT, tokens INTEGER, usd REAL, settled INTEGER,
      expires_at INTEGER, stores INTEGER, PRIMARY KEY (day, id)) WITHOUT ROWID`)
    this.#sql.exec(
      'CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID',
    )
    // Tomorrow's, since clocks differ and the one of this machine may be behind the last one's.
    const days = [-1, 0, 1].map((days) => dayOf(nowMs) + days)
    const stored = this.#sql.exec<StoredRow>(
      'SELECT * FROM calls WHERE day BETWEEN ? AND ?',
      days[0],
      days[2],
    )
    const rows = this.#addUp([...stored].map(fromStored))
    const sums = days.map((day) => this.#sum(day)).filter((sum) => sum !== null)
    const pausedUntilMs = Number(this.#get('paused_until_ms') ?? 0)
    return new Budget(limitsOf(), { rows, sums }, pausedUntilMs, nowMs)
  }

  /** Adds settled rows to their days' sums, if they are many. @returns those that are still rows */
  #addUp(rows: readonly CallRow[]): readonly CallRow[] {
    const settled = rows.filter((row) => row.settled)
    if (settled.length < ROWS_KEPT) return rows
    this.ctx.storage.transactionSync(() => {
      for (const day of new Set(settled.map((row) => row.day))) {
        const own = settled.filter((row) => row.day === day)
        this.#set(`sum ${day}`, JSON.stringify(addUp(this.#sum(day) ?? noSum(day), own)))
        this.#sql.exec('DELETE FROM calls WHERE day = ? AND settled = 1', day)
      }
    })
    return rows.filter((row) => !row.settled)
  }

  #sum(day: number): DaySum | null {
    const sum = this.#get(`sum ${day}`)
    return sum === null ? null : (JSON.parse(sum) as DaySum)
  }

  /** Once a day, so that old rows cost one write each and no more. */
  #clean(nowMs: number): void {
    const day = dayOf(nowMs)
    if (day === this.#cleanedDay) return
    this.#cleanedDay = day
    this.#sql.exec('DELETE FROM calls WHERE day <= ?', day - DAYS_KEPT)
    this.#sql.exec("DELETE FROM settings WHERE name LIKE 'mark %' AND name < ?", `mark ${day}`)
    const oldest = `sum ${day - DAYS_KEPT + 1}`
    this.#sql.exec("DELETE FROM settings WHERE name LIKE 'sum %' AND name < ?", oldest)
  }

  /** Throws when the id was there before: what that has spent must not be written over. */
  #insert({ day, id, visitor, tokens, usd, settled, expires_at, stores }: CallRow): void {
    this.#sql.exec(
      'INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?)',
      day,
      id,
      visitor,
      tokens,
      usd,
      settled ? 1 : 0,
      expires_at,
      stores ? 1 : 0,
    )
  }

  #update({ day, id, tokens, usd }: CallRow): void {
    this.#sql.exec(
      'UPDATE calls SET tokens = ?, usd = ?, settled = 1 WHERE day = ? AND id = ?',
      tokens,
      usd,
      day,
      id,
    )
  }

  /** One POST with figures when half, four fifths and all of the day's budget are spent. */
  #alert(budget: Budget, nowMs: number, refused: boolean): void {
    // The rounding of many small sums of money is no reason to be late.
    const spent = budget.share(nowMs) * 100 + 1e-6
    const percent = refused && spent >= GONE_PERCENT ? 100 : spent
    for (const mark of MARKS) {
      const name = `mark ${dayOf(nowMs)} ${mark}`
      if (percent < mark || this.#get(name) !== null) continue
      this.#set(name, String(nowMs))
      report({ event: 'budget_mark', percent: mark })
      const url = secret('ALERT_URL')
      if (url !== undefined && url !== '') {
        waitUntil(sendAlert(url, mark, figuresOf(budget, nowMs)))
      }
    }
  }

  #get(name: string): string | null {
    const [row] = this.#sql.exec<{ value: string }>(
      'SELECT value FROM settings WHERE name = ?',
      name,
    )
    return row?.value ?? null
  }

  #set(name: string, value: string): void {
    this.#sql.exec('INSERT OR REPLACE INTO settings VALUES (?, ?)', name, value)
  }
}

function figuresOf(budget: Budget, nowMs: number): LedgerFigures {
  const { spent, reserved, usdSpent } = budget.figures(nowMs)
  const paused = budget.pausedUntilMs > nowMs
  const { tokensPerDay, usdPerDay } = limitsOf()
  return {
    tokens_per_day: tokensPerDay,
    spent,
    reserved,
    usd_per_day: usdPerDay,
    usd_spent: usdSpent,
    paused_until: paused ? Math.ceil(budget.pausedUntilMs / 1000) : null,
  }
}

type StoredRow = Record<keyof CallRow, SqlStorageValue>

function fromStored(row: StoredRow): CallRow {
  return {
    id: String(row.id),
    day: Number(row.day),
    visitor: row.visitor === null ? null : String(row.visitor),
    tokens: Number(row.tokens),
    usd: Number(row.usd),
    settled: row.settled === 1,
    expires_at: Number(row.expires_at),
    stores: row.stores === 1,
  }
}

function limitsOf() {
  const { config } = environment()
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

async function sendAlert(url: string, percent: number, figures: LedgerFigures): Promise<void> {
  try {
    const response = await fetch(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ event: 'budget_mark', percent, ...figures }),
      redirect: 'manual',
      signal: AbortSignal.timeout(10_000),
    })
    await response.body?.cancel()
    if (!response.ok) report({ event: 'alert_failed', status: response.status })
  } catch {
    report({ event: 'alert_failed', status: null })
  }
}
