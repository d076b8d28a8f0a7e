// Hourly figures of GET /admin/usage, added up for tiles, tables and charts. Pure: no page, no clock.

/**
 * @typedef {object} Hour one of `hours` (contract section 6)
 * @property {number} hour unix seconds
 * @property {number} requests
 * @property {{ memory: number, kv: number, stale: number }} hits
 * @property {number} collapsed
 * @property {number} misses
 * @property {number} tokens_in
 * @property {number} tokens_out
 * @property {number} tokens_saved
 * @property {number} usd
 * @property {number} usd_saved
 * @property {Record<string, number>} errors
 * @property {Record<string, number>} prompts
 * @property {Record<string, number>} models
 * @property {{ p50: number, p95: number }} upstream_ms
 */

/** The ranges on offer, in hours, and the width of a bar in each, in seconds. */
export const ranges = /** @type {const} */ ({ 24: 3600, 168: 21_600, 720: 86_400 })

/** @param {Hour} hour answers that came from memory, KV or were stale */
const hitsOf = ({ hits }) => hits.memory + hits.kv + hits.stale

/** @param {readonly Hour[]} hours */
export function totals(hours) {
  /** @param {(hour: Hour) => number} of */
  const sum = (of) => hours.reduce((all, hour) => all + of(hour), 0)
  const hits = sum(hitsOf)
  const collapsed = sum((hour) => hour.collapsed)
  const misses = sum((hour) => hour.misses)
  const answered = hits + collapsed + misses
  const errors = byName(hours, 'errors')
  return {
    requests: sum((hour) => hour.requests),
    hits,
    collapsed,
    misses,
    /** Of what was looked up: without a call of its own. Null: nothing was. */
    ratio: answered === 0 ? null : (hits + collapsed) / answered,
    tokensSaved: sum((hour) => hour.tokens_saved),
    tokensSpent: sum((hour) => hour.tokens_in + hour.tokens_out),
    /** 0: no model that was asked has a price. */
    usd: sum((hour) => hour.usd),
    usdSaved: sum((hour) => hour.usd_saved),
    failed: errors.reduce((all, [, n]) => all + n, 0),
  }
}

/**
 * Names with their counts, the largest first.
 *
 * @param {readonly Hour[]} hours
 * @param {'errors' | 'prompts' | 'models'} field
 * @returns {[string, number][]}
 */
export function byName(hours, field) {
  /** @type {Map<string, number>} */
  const sums = new Map()
  for (const hour of hours) {
    for (const [name, n] of Object.entries(hour[field])) sums.set(name, (sums.get(name) ?? 0) + n)
  }
  return [...sums].sort(([a, n], [b, m]) => m - n || (a < b ? -1 : 1))
}

/**
 * @typedef {object} Bars one value of each list for each bar
 * @property {number[]} times unix seconds at which a bar begins
 * @property {number[]} cached
 * @property {number[]} shared
 * @property {number[]} upstream
 * @property {number[]} refused
 * @property {number[]} spent tokens
 * @property {number[]} saved tokens
 */

/**
 * Bars for the whole range, also where there was nothing.
 *
 * @param {readonly Hour[]} hours
 * @param {number} rangeHours
 * @param {number} step seconds
 * @param {number} now unix seconds
 * @returns {Bars}
 */
export function bars(hours, rangeHours, step, now) {
  const first = Math.floor((Math.floor(now / 3600) * 3600 - (rangeHours - 1) * 3600) / step)
  const count = Math.floor(now / step) - first + 1
  const zeros = () => Array.from({ length: count }, () => 0)
  const sums = {
    times: zeros().map((_, i) => (first + i) * step),
    cached: zeros(),
    shared: zeros(),
    upstream: zeros(),
    refused: zeros(),
    spent: zeros(),
    saved: zeros(),
  }
  for (const hour of hours) {
    const i = Math.floor(hour.hour / step) - first
    if (i < 0 || i >= count) continue
    /** @param {number[]} list @param {number} n */
    const add = (list, n) => {
      list[i] = (list[i] ?? 0) + n
    }
    const hits = hitsOf(hour)
    add(sums.cached, hits)
    add(sums.shared, hour.collapsed)
    add(sums.upstream, hour.misses)
    add(sums.refused, Math.max(0, hour.requests - hits - hour.collapsed - hour.misses))
    add(sums.spent, hour.tokens_in + hour.tokens_out)
    add(sums.saved, hour.tokens_saved)
  }
  return sums
}

/**
 * Percentiles do not add up, so latency is shown hour by hour; null where no upstream was asked.
 *
 * @param {readonly Hour[]} hours
 * @param {number} rangeHours
 * @param {number} now unix seconds
 */
export function latency(hours, rangeHours, now) {
  const known = new Map(hours.map(({ hour, upstream_ms }) => [hour, upstream_ms]))
  const last = Math.floor(now / 3600) * 3600
  const times = Array.from({ length: rangeHours }, (_, i) => last - (rangeHours - 1 - i) * 3600)
  /** @param {'p50' | 'p95'} which */
  const of = (which) => times.map((hour) => known.get(hour)?.[which] || null)
  return { times, p50: of('p50'), p95: of('p95') }
}

/**
 * Each list on top of those before it: what stacked bars are drawn from.
 *
 * @param {readonly (readonly number[])[]} lists
 * @returns {number[][]}
 */
export function stacked(lists) {
  /** @type {number[][]} */
  const sums = []
  for (const list of lists) {
    const below = sums.at(-1)
    sums.push(list.map((n, i) => n + (below?.[i] ?? 0)))
  }
  return sums
}
