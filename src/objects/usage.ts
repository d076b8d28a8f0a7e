// The Durable Object with the hourly figures: one for the whole service. A thin shell over usage.ts.
// Stored in SQLite: `hours`, one row an hour with its counts as JSON, kept for 90 days; one row is
// written for each flush of an isolate.
import { DurableObject } from 'cloudflare:workers'
import { addCounts, type HourCounts, hourOf, noCounts } from '../usage.ts'
import { now } from './environment.ts'

const KEPT_S = 90 * 86_400

export class UsageObject extends DurableObject {
  readonly #sql: SqlStorage = this.ctx.storage.sql
  #cleanedHour = -1

  /** Adds what an isolate has counted. */
  add(hours: ReadonlyMap<number, HourCounts>): void {
    this.#open()
    for (const [hour, counts] of hours) {
      const sum = addCounts(this.#read(hour), counts)
      this.#sql.exec('INSERT OR REPLACE INTO hours VALUES (?, ?)', hour, JSON.stringify(sum))
    }
  }

  /** The hours from `fromHour` on, oldest first; hours without requests are left out. */
  since(fromHour: number): Map<number, HourCounts> {
    this.#open()
    const rows = this.#sql.exec<{ hour: number; counts: string }>(
      'SELECT hour, counts FROM hours WHERE hour >= ? ORDER BY hour',
      fromHour,
    )
    return new Map([...rows].map(({ hour, counts }) => [hour, parse(counts)]))
  }

  #read(hour: number): HourCounts {
    const [row] = this.#sql.exec<{ counts: string }>(
      'SELECT counts FROM hours WHERE hour = ?',
      hour,
    )
    return row === undefined ? noCounts() : parse(row.counts)
  }

  #open(): void {
    const hour = hourOf(now())
    if (hour === this.#cleanedHour) return
    this.#cleanedHour = hour
    this.#sql.exec('CREATE TABLE IF NOT EXISTS hours (hour INTEGER PRIMARY KEY, counts TEXT)')
    this.#sql.exec('DELETE FROM hours WHERE hour < ?', hour - KEPT_S)
  }
}

function parse(counts: string): HourCounts {
  const known = JSON.parse(counts) as Partial<HourCounts>
  const none = noCounts()
  return addCounts(none, { ...none, ...known, hits: { ...none.hits, ...known.hits } })
}
