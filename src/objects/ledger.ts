// The Durable Object that knows what the day has cost: one for the whole service. A thin shell over
// access/budget.ts; every decision and its row are made in one synchronous block.
//
// Stored in SQLite: `calls`, one row per upstream call (written by reserve, once more by settle,
// deleted two days later: 3 row writes a miss), `settings` (the pause, marks of alerts sent, the
// secret made up where the owner has none).
import { DurableObject } from 'cloudflare:workers'
import {
  Budget,
  type CallRow,
  type Cost,
  dayOf,
  type Refusal,
  type ReserveRequest,
} from '../access/budget.ts'
import { randomLetters } from '../completion/completion.ts'
import { environment, now, randomBytes, report, secret, waitUntil } from './environment.ts'

export interface LedgerFigures {
  readonly tokens_per_day: number
  readonly spent: number
  readonly reserved: number
  readonly usd_spent: number
  /** Unix seconds. */
  readonly paused_until: number | null
}

export type ReserveAnswer = { readonly granted: true; readonly mayStore: boolean } | Refusal

const MARKS = [50, 80, 100]
const DAYS_KEPT = 2

export class LedgerObject extends DurableObject {
  readonly #sql: SqlStorage = this.ctx.storage.sql
  #budget: Budget | null = null
  #cleanedDay = -1

  /** Reserves for one upstream call. No await between the check and the row. */
  reserve(request: ReserveRequest): ReserveAnswer {
    const nowMs = now()
    const budget = this.#open(nowMs)
    const answer = budget.reserve(request, nowMs)
    if (answer.granted) this.#store(answer.row)
    this.#alert(budget, nowMs)
    return answer.granted ? { granted: true, mayStore: answer.row.stores } : answer
  }

  /** Ends a lease with what it cost; a second time it does nothing. */
  settle(id: string, cost: Cost): void {
    const nowMs = now()
    const row = this.#open(nowMs).settle(id, cost, nowMs)
    if (row !== null) this.#store(row)
  }

  /** @param until unix seconds, or null: no pause */
  pause(until: number | null): void {
    const untilMs = (until ?? 0) * 1000
    this.#open(now()).pause(untilMs)
    this.#set('paused_until_ms', String(untilMs))
  }

  figures(): LedgerFigures {
    const nowMs = now()
    const budget = this.#open(nowMs)
    const { spent, reserved, usdSpent } = budget.figures(nowMs)
    const paused = budget.pausedUntilMs > nowMs
    return {
      tokens_per_day: limitsOf().tokensPerDay,
      spent,
      reserved,
      usd_spent: usdSpent,
      paused_until: paused ? Math.ceil(budget.pausedUntilMs / 1000) : null,
    }
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

  #open(nowMs: number): Budget {
    if (this.#budget === null) {
      this.#sql.exec(`CREATE TABLE IF NOT EXISTS calls (
        day INTEGER, id TEXT, visitor TEXT, tokens INTEGER, usd REAL, settled INTEGER,
        expires_at INTEGER, stores INTEGER, PRIMARY KEY (day, id)) WITHOUT ROWID`)
      this.#sql.exec(
        'CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID',
      )
      const rows = this.#sql.exec<StoredRow>('SELECT * FROM calls WHERE day >= ?', dayOf(nowMs) - 1)
      const pausedUntilMs = Number(this.#get('paused_until_ms') ?? 0)
      this.#budget = new Budget(limitsOf(), [...rows].map(fromStored), pausedUntilMs, nowMs)
    }
    this.#clean(nowMs)
    return this.#budget
  }

  /** Once a day, so that old rows cost one write each and no more. */
  #clean(nowMs: number): void {
    const day = dayOf(nowMs)
    if (day === this.#cleanedDay) return
    this.#cleanedDay = day
    this.#sql.exec('DELETE FROM calls WHERE day <= ?', day - DAYS_KEPT)
    this.#sql.exec("DELETE FROM settings WHERE name LIKE 'mark %' AND name < ?", `mark ${day}`)
  }

  #store({ day, id, visitor, tokens, usd, settled, expires_at, stores }: CallRow): void {
    this.#sql.exec(
      'INSERT OR REPLACE INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?)',
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

  /** One POST with figures when half, four fifths and all of the day's budget are spoken for. */
  #alert(budget: Budget, nowMs: number): void {
    const percent = budget.share(nowMs) * 100
    for (const mark of MARKS) {
      const name = `mark ${dayOf(nowMs)} ${mark}`
      if (percent < mark || this.#get(name) !== null) continue
      this.#set(name, String(nowMs))
      report({ event: 'budget_mark', percent: mark })
      const url = secret('ALERT_URL')
      if (url !== undefined && url !== '') waitUntil(sendAlert(url, mark, this.figures()))
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
