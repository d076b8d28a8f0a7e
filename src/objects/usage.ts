// The Durable Object that stores the owner's usage figures, one for the whole service. The logic is
// in usage.ts.
//
// It has two SQLite tables. `hours`: one row per hour with its counts as JSON, kept for 90 days.
// `lists`: one row for the latest failed attempts, and one per day for its refused origins, kept
// for two days. An isolate's flush writes one row of `hours` and at most one row of each list, so
// the number of writes does not grow with the number of made-up origins.
import { DurableObject } from 'cloudflare:workers'
import type { Frequency } from '../frequent.ts'
import type { UsageFigures } from '../routes/admin.ts'
import {
  addCounts,
  addFailures,
  addRefused,
  type DaySums,
  type Failure,
  type HourCounts,
  hourOf,
  noCounts,
  type UsageReport,
} from '../usage.ts'
import { now } from './platform.ts'

const DAY_S = 86_400
const KEPT_S = 90 * DAY_S
const DAYS_SHOWN = 30

export class UsageObject extends DurableObject {
  readonly #sql: SqlStorage = this.ctx.storage.sql
  #cleanedHour = -1

  /** Adds an isolate's figures: all of them or, if it throws, none, since they are sent again. */
  add(report: UsageReport): void {
    this.#open()
    this.ctx.storage.transactionSync(() => this.#add(report))
  }

  #add({ hours, failures, refused }: UsageReport): void {
    for (const [hour, counts] of hours) {
      const query = 'SELECT counts FROM hours WHERE hour = ?'
      const [row] = this.#sql.exec<{ counts: string }>(query, hour)
      const sum = addCounts(parse(row?.counts ?? '{}'), counts)
      this.#sql.exec('INSERT OR REPLACE INTO hours VALUES (?, ?)', hour, JSON.stringify(sum))
    }
    if (failures.length > 0) this.#set('failures', addFailures(this.#failures(), failures))
    for (const [day, origins] of refused) {
      const sum = this.#refused(day)
      addRefused(sum, origins)
      this.#set(refusedOn(day), [...sum])
    }
  }

  /** @param fromHour the first hour to return, in unix seconds */
  figures(fromHour: number): UsageFigures {
    this.#open()
    const rows = this.#sql.exec<{ hour: number; counts: string }>(
      'SELECT hour, counts FROM hours WHERE hour >= ? ORDER BY hour',
      fromHour,
    )
    const today = Math.floor(now() / 1000 / DAY_S)
    return {
      hours: new Map([...rows].map(({ hour, counts }) => [hour, parse(counts)])),
      days: this.#days(today - DAYS_SHOWN + 1),
      failures: this.#failures(),
      refused: this.#refused(today),
    }
  }

  #days(first: number): DaySums[] {
    const sum = (...names: readonly string[]) =>
      names.map((name) => `SUM(COALESCE(json_extract(counts, '$.${name}'), 0))`).join(' + ')
    return [
      ...this.#sql.exec<DaySums & Record<string, number>>(
        `SELECT hour / ${DAY_S} AS day, ${sum('tokens_in', 'tokens_out')} AS tokens,
          ${sum('usd')} AS usd, ${sum('requests')} AS requests,
          ${sum('hits.memory', 'hits.kv', 'hits.stale')} AS hits
          FROM hours WHERE hour >= ? GROUP BY day ORDER BY day`,
        first * DAY_S,
      ),
    ]
  }

  #failures(): readonly Failure[] {
    return (this.#get('failures') ?? []) as readonly Failure[]
  }

  #refused(day: number): Map<string, Frequency> {
    return new Map((this.#get(refusedOn(day)) ?? []) as readonly [string, Frequency][])
  }

  #get(name: string): unknown {
    const [row] = this.#sql.exec<{ value: string }>('SELECT value FROM lists WHERE name = ?', name)
    return row === undefined ? null : JSON.parse(row.value)
  }

  #set(name: string, value: unknown): void {
    this.#sql.exec('INSERT OR REPLACE INTO lists VALUES (?, ?)', name, JSON.stringify(value))
  }

  #open(): void {
    const hour = hourOf(now())
    if (hour === this.#cleanedHour) return
    this.#cleanedHour = hour
    this.#sql.exec('CREATE TABLE IF NOT EXISTS hours (hour INTEGER PRIMARY KEY, counts TEXT)')
    this.#sql.exec('CREATE TABLE IF NOT EXISTS lists (name TEXT PRIMARY KEY, value TEXT)')
    this.#sql.exec('DELETE FROM hours WHERE hour < ?', hour - KEPT_S)
    const yesterday = refusedOn(Math.floor(hour / DAY_S) - 1)
    this.#sql.exec("DELETE FROM lists WHERE name LIKE 'refused %' AND name < ?", yesterday)
  }
}

/** The name of a day's list. The names sort in the order of the days. */
function refusedOn(day: number): string {
  return `refused ${String(day).padStart(6, '0')}`
}

/** Counts that an older version did not store become 0. */
function parse(counts: string): HourCounts {
  return addCounts(noCounts(), JSON.parse(counts))
}
