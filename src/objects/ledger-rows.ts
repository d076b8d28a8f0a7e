// The ledger's SQLite tables, and the migration from those of earlier versions.
//
// `days`: one row for each day with its sums. `visitors_<day>`: one row for each visitor who spent
// something that day; dropping a table of 300,000 rows takes a few milliseconds and counts as no row
// written. `settings`: the pause, which alerts were sent, what is known about the end of models, and
// the secret if the owner has set none.
//
// A miss writes one row when it reserves (the day's) and two when it is settled (the day's and the
// visitor's), so the free plan's 100,000 rows per day allow 33,000 misses. No query reads more rows
// than there are days and settings, so waking up takes the same time for any number of visitors.
import type { BudgetRows, Cost, DayRow } from '../budget/budget.ts'

export class LedgerRows implements BudgetRows {
  readonly #storage: DurableObjectStorage
  readonly #sql: SqlStorage

  /** @param limit the day's budget, which counts as spent if an old day's sum cannot be read */
  constructor(storage: DurableObjectStorage, limit: Cost, today: number) {
    this.#storage = storage
    this.#sql = storage.sql
    storage.transactionSync(() => {
      this.#sql.exec(`CREATE TABLE IF NOT EXISTS days
        (day INTEGER PRIMARY KEY, tokens REAL, usd REAL, above REAL, kv_writes INTEGER)`)
      this.#sql.exec(`CREATE TABLE IF NOT EXISTS settings
        (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID`)
      this.#migrate(limit, today)
    })
  }

  latestDay(from: number, to: number): number | null {
    const query = 'SELECT MAX(day) AS day FROM days WHERE day BETWEEN ? AND ?'
    return this.#first<{ day: number | null }>(query, from, to)?.day ?? null
  }

  open(day: number): DayRow {
    this.#createVisitors(day)
    // Keep the previous day: the object may move to a machine whose clock is still on it.
    this.#sql.exec('DELETE FROM days WHERE day < ?', day - 1)
    for (const old of this.#days()) {
      if (old < day - 1) this.#sql.exec(`DROP TABLE ${visitorsOf(old)}`)
    }
    this.#sql.exec("DELETE FROM settings WHERE name LIKE 'mark %' AND name < ?", `mark ${day}`)
    const query = 'SELECT day, tokens, usd, above, kv_writes AS kvWrites FROM days WHERE day = ?'
    const none = { day, tokens: 0, usd: 0, above: 0, kvWrites: 0 }
    return this.#first<typeof none>(query, day) ?? none
  }

  visitorTokens(day: number, visitor: string): number {
    const query = `SELECT tokens FROM ${visitorsOf(day)} WHERE visitor = ?`
    return this.#first<{ tokens: number }>(query, visitor)?.tokens ?? 0
  }

  save(
    { day, tokens, usd, above, kvWrites }: DayRow,
    charge: { readonly visitor: string; readonly tokens: number } | null,
  ): void {
    this.#storage.transactionSync(() => {
      const values = [day, tokens, usd, above, kvWrites]
      this.#sql.exec('INSERT OR REPLACE INTO days VALUES (?, ?, ?, ?, ?)', ...values)
      if (charge === null) return
      const insert = `INSERT INTO ${visitorsOf(day)} VALUES (?, ?) ${ADDED}`
      this.#sql.exec(insert, charge.visitor, charge.tokens)
    })
  }

  setting(name: string): string | null {
    const query = 'SELECT value FROM settings WHERE name = ?'
    return this.#first<{ value: string }>(query, name)?.value ?? null
  }

  set(name: string, value: string): void {
    this.#sql.exec('INSERT OR REPLACE INTO settings VALUES (?, ?)', name, value)
  }

  #first<Row extends Record<string, SqlStorageValue>>(query: string, ...values: SqlStorageValue[]) {
    const [row] = this.#sql.exec<Row>(query, ...values)
    return row
  }

  #createVisitors(day: number): void {
    this.#sql.exec(`CREATE TABLE IF NOT EXISTS ${visitorsOf(day)}
      (visitor TEXT PRIMARY KEY, tokens REAL) WITHOUT ROWID`)
  }

  /** The days that have a table of visitors. */
  #days(): number[] {
    const tables = this.#sql.exec<{ name: string }>(
      `SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB '${visitorsOf('*')}'`,
    )
    return [...tables].map(({ name }) => Number(name.slice(visitorsOf('').length)))
  }

  /**
   * Migrates the rows of earlier versions, once. `calls` had one row for each call; `sum <day>` in
   * `settings` had the sums of older calls, with all visitors in one JSON value. Running calls
   * count as spent, and so does the whole day if its sum cannot be read.
   */
  #migrate(limit: Cost, today: number): void {
    if (!this.#first("SELECT 1 FROM sqlite_master WHERE name = 'calls'")) return
    for (const day of [today - 1, today, today + 1]) {
      const own = this.#first<Record<'calls' | 'tokens' | 'usd' | 'kvWrites', number>>(
        `SELECT COUNT(*) AS calls, TOTAL(tokens) AS tokens, TOTAL(usd) AS usd,
          COALESCE(SUM(stores), 0) AS kvWrites FROM calls WHERE day = ?`,
        day,
      )
      const stored = this.setting(`sum ${day}`)
      if (own === undefined || (own.calls === 0 && stored === null)) continue
      const sum = stored === null ? noSum : (parseSum(stored) ?? { ...noSum, ...limit })
      this.#createVisitors(day)
      const into = `INSERT INTO ${visitorsOf(day)}`
      this.#sql.exec(
        `${into} SELECT key, value FROM json_each(?) WHERE true ${ADDED}`,
        JSON.stringify(sum.visitors),
      )
      this.#sql.exec(
        `${into} SELECT visitor, SUM(tokens) FROM calls WHERE day = ? AND visitor IS NOT NULL
          GROUP BY visitor ${ADDED}`,
        day,
      )
      const [tokens, usd] = [own.tokens + sum.tokens, own.usd + sum.usd]
      this.save({ day, tokens, usd, above: 0, kvWrites: own.kvWrites + sum.kvWrites }, null)
    }
    this.#sql.exec('DROP TABLE calls')
    this.#sql.exec("DELETE FROM settings WHERE name LIKE 'sum %'")
  }
}

const ADDED = 'ON CONFLICT (visitor) DO UPDATE SET tokens = tokens + excluded.tokens'

function visitorsOf(day: number | string): string {
  return `visitors_${day}`
}

interface OldSum extends Cost {
  readonly kvWrites: number
  readonly visitors: Readonly<Record<string, number>>
}

const noSum: OldSum = { tokens: 0, usd: 0, kvWrites: 0, visitors: {} }

function parseSum(text: string): OldSum | null {
  try {
    const { tokens, usd, kvWrites, visitors } = JSON.parse(text)
    const numbers = [tokens, usd, kvWrites, ...Object.values(visitors)]
    return numbers.every((n) => Number.isFinite(n) && n >= 0)
      ? { tokens, usd, kvWrites, visitors }
      : null
  } catch {
    return null
  }
}
