// Sums of the hourly figures of GET /admin/usage, for tiles, tables and charts.

/**
 * @typedef {object} Hour one element of `hours`
 * @property {number} hour unix seconds
 * @property {number} requests
 * @property {{ memory: number, kv: number, stale: number }} hits
 * @property {number} collapsed
 * @property {number} misses
 * @property {number} [failed_misses] misses that ended in an error, if any did
 * @property {number} tokens_in
 * @property {number} tokens_out
 * @property {number} tokens_saved
 * @property {number} usd
 * @property {number} usd_saved
 * @property {Record<string, number>} errors
 * @property {Record<string, number>} prompts
 * @property {Record<string, number>} models
 * @property {Record<string, number>} origins
 * @property {Record<string, Record<string, number>>} [usd_by] money by prompt, model and origin, if any was spent
 * @property {{ p50: number, p95: number }} upstream_ms
 */

/** The selectable ranges in hours, each with the width of its bars in seconds. */
export const ranges = /** @type {const} */ ({ 24: 3600, 168: 21_600, 720: 86_400 })

/**
 * Whether an error is one of the endpoint, its owner's account or an upstream, not of a visitor's request.
 *
 * @param {string} code
 */
export const isFailure = (code) =>
  /^(upstream_(?!refused_request)|internal|misconfigured|ledger_|challenge_un|page_un|search_un)/.test(
    code,
  )

/** @param {Hour} hour */
const hitsOf = ({ hits }) => hits.memory + hits.kv + hits.stale

/**
 * Misses count lookups, so they include those that got no answer.
 *
 * @param {Hour} hour
 */
const generatedOf = ({ misses, failed_misses = 0 }) => misses - failed_misses

/** @param {[string, number, number][]} counts */
const count = (counts) => counts.reduce((all, [, n]) => all + n, 0)

/** @param {readonly Hour[]} hours */
export function totals(hours) {
  /** @param {(hour: Hour) => number} of */
  const sum = (of) => hours.reduce((all, hour) => all + of(hour), 0)
  const hits = sum(hitsOf)
  const collapsed = sum((hour) => hour.collapsed)
  const generated = sum(generatedOf)
  const answered = hits + collapsed + generated
  const errors = byName(hours, 'errors')
  return {
    requests: sum((hour) => hour.requests),
    hits,
    collapsed,
    generated,
    /** The share of answers that needed no upstream call of their own; null without answers. */
    ratio: answered === 0 ? null : (hits + collapsed) / answered,
    tokensSaved: sum((hour) => hour.tokens_saved),
    tokensSpent: sum((hour) => hour.tokens_in + hour.tokens_out),
    /** 0 if no model that was used has a price. */
    usd: sum((hour) => hour.usd),
    usdSaved: sum((hour) => hour.usd_saved),
    /** Questions that the site has nothing about. */
    unanswered: count(errors.filter(([code]) => code === 'no_passages')),
    failed: count(errors.filter(([code]) => isFailure(code))),
    refused: count(errors.filter(([code]) => !isFailure(code))),
  }
}

/**
 * Names with their counts and USD: the most expensive first, then the most frequent.
 *
 * @param {readonly Hour[]} hours
 * @param {'errors' | 'prompts' | 'models' | 'origins'} field
 */
export function byName(hours, field) {
  /** @type {Map<string, [string, number, number]>} */
  const sums = new Map()
  /** @param {Record<string, number> | undefined} numbers @param {1 | 2} i */
  const add = (numbers = {}, i) => {
    for (const [name, n] of Object.entries(numbers)) {
      const sum = sums.get(name) ?? [name, 0, 0]
      sum[i] += n
      sums.set(name, sum)
    }
  }
  for (const hour of hours) {
    add(hour[field], 1)
    add(hour.usd_by?.[field], 2)
  }
  return [...sums.values()].sort(
    ([a, n, usd], [b, m, cost]) => cost - usd || m - n || (a < b ? -1 : 1),
  )
}

/**
 * @typedef {object} Bars each list has one value per bar
 * @property {number[]} times unix seconds at which the bar begins
 * @property {number[]} cached
 * @property {number[]} shared
 * @property {number[]} upstream
 * @property {number[]} unanswered requests that were refused or failed
 * @property {number[]} spent tokens
 * @property {number[]} saved tokens
 */

/**
 * Bars for the whole range, including hours without requests.
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
    unanswered: zeros(),
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
    const generated = generatedOf(hour)
    add(sums.upstream, generated)
    add(sums.unanswered, Math.max(0, hour.requests - hits - hour.collapsed - generated))
    add(sums.spent, hour.tokens_in + hour.tokens_out)
    add(sums.saved, hour.tokens_saved)
  }
  return sums
}

/**
 * The latency of each hour, because percentiles cannot be added up; null without an upstream call.
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
 * Adds each list to the sum of those before it, for stacked bars.
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

/** A line for each hour, for spreadsheets. @param {readonly Hour[]} hours */
export function csv(hours) {
  const heads =
    'hour,requests,cached,shared,generated,tokens_in,tokens_out,tokens_saved,usd,usd_saved,failures,refused'
  const priced = /** @type {const} */ (['prompts', 'models', 'origins']).flatMap((field) =>
    byName(hours, field)
      .filter(([, , usd]) => usd > 0)
      .map(([name]) => ({ field, name })),
  )
  const names = priced.map(({ field, name }) => `,"usd_by.${field}.${name.replaceAll('"', '""')}"`)
  const rows = hours.map((hour) => {
    const { tokens_in, tokens_out, tokens_saved, usd, usd_saved } = hour
    const { requests, hits, collapsed, generated, failed, refused } = totals([hour])
    const answers = [requests, hits, collapsed, generated]
    const costs = [tokens_in, tokens_out, tokens_saved, usd, usd_saved]
    const start = new Date(hour.hour * 1000).toISOString()
    const shares = priced.map(
      ({ field, name }) => new Map(Object.entries(hour.usd_by?.[field] ?? {})).get(name) ?? 0,
    )
    return [start, ...answers, ...costs, failed, refused, ...shares].join(',')
  })
  return [heads + names.join(''), ...rows, ''].join('\n')
}
