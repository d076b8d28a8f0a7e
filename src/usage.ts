// The owner's usage figures: an isolate's counts per hour, failed attempts and refused origins, in
// forms that can be added. objects/usage.ts stores the sums. They contain names from CONFIG,
// origins, codes and counts, and nothing else about visitors.
import type { Usage } from './completion/completion.ts'
import type { Code } from './errors.ts'
import type { Event, RequestEvent } from './events.ts'
import { addSightings, type Frequencies, type Frequency, mostFrequent } from './frequent.ts'
import { mapped } from './json.ts'

/**
 * Upper bounds of the latency histogram in ms, each 25 percent above the previous one.
 *
 * @internal exported for its tests
 */
export const latencyBoundsMs: readonly number[] = Array.from({ length: 40 }, (_, i) =>
  Math.round(20 * 1.25 ** i),
)

const HOUR_S = 3600
const DAY_S = 86_400

type ByName = Record<string, number>

/** One hour's counts, of one isolate or of all. */
export type HourCounts = ReturnType<typeof noCounts>

export function noCounts() {
  return {
    requests: 0,
    hits: { memory: 0, kv: 0, stale: 0 },
    /** Answers shared with another visitor's flight, running or just ended. */
    collapsed: 0,
    misses: 0,
    /** Those of `misses` that ended in an error, such as a refusal. */
    failed_misses: 0,
    kv_failures: 0,
    tokens_in: 0,
    tokens_out: 0,
    tokens_saved: 0,
    /** What calls were charged to the budget, at the prices of the upstreams, like the tokens. */
    usd: 0,
    /** The cost that cached and shared answers saved. */
    usd_saved: 0,
    errors: {} as ByName,
    prompts: {} as ByName,
    models: {} as ByName,
    /** Requests by the origin of their page. The rarest are counted together as `OTHER_ORIGINS`. */
    origins: {} as ByName,
    /** `usd` by what the calls were made for. Bounded like `origins`, by cost. */
    usd_by: { prompts: {} as ByName, models: {} as ByName, origins: {} as ByName },
    /** Answers by time to first text: one count per `latencyBoundsMs`, and one beyond them. */
    upstream_ms: latencyBoundsMs.map(() => 0).concat(0),
  }
}

/** The sum of two hours' counts. Counts that an older version did not store are 0. */
export function addCounts(a: HourCounts, b: HourCounts): HourCounts {
  const sum = added(a, b) as HourCounts
  sum.origins = bounded(sum.origins)
  sum.usd_by.origins = bounded(sum.usd_by.origins)
  return sum
}

type Counts = number | { readonly [name: string]: Counts } | readonly number[]

/** Adds numbers, and those of the same name or index in two objects or lists. */
function added(a: Counts, b: Counts): Counts {
  if (typeof a === 'number') return a + Number(b)
  const sums = new Map<string, Counts>(Object.entries(a))
  for (const [name, more] of Object.entries(b)) {
    const known = sums.get(name)
    sums.set(name, known === undefined ? more : added(known, more))
  }
  return Array.isArray(a) ? ([...sums.values()] as number[]) : Object.fromEntries(sums)
}

/** With `origins = ["*"]` every website may be among them. */
const MAX_ORIGINS = 50
const OTHER_ORIGINS = 'other'

/** The names with the largest sums. The others are added up under `OTHER_ORIGINS`. */
function bounded(names: ByName): ByName {
  const { [OTHER_ORIGINS]: rest = 0, ...own } = names
  const sorted = Object.entries(own).sort(([, a], [, b]) => b - a)
  const others = sorted.slice(MAX_ORIGINS).reduce((sum, [, n]) => sum + n, rest)
  const top = Object.fromEntries(sorted.slice(0, MAX_ORIGINS))
  return others === 0 ? top : { ...top, [OTHER_ORIGINS]: others }
}

/** A sum of money without floating-point noise. */
export function roundedUsd(usd: number): number {
  return Math.round(usd * 1e9) / 1e9
}

/** The same counts. Only money has fractions. */
function rounded(counts: Counts): Counts {
  return typeof counts === 'number'
    ? roundedUsd(counts)
    : mapped(Object.entries<Counts>(counts), rounded)
}

/** One hour as `GET /admin/usage` shows it. */
export function hourFigures(hour: number, { upstream_ms, ...counts }: HourCounts) {
  const { usd_by, failed_misses, ...figures } = rounded(counts) as typeof counts
  return {
    hour,
    ...figures,
    ...(failed_misses > 0 && { failed_misses }),
    // Every cost is one of a model.
    ...(Object.keys(usd_by.models).length > 0 && { usd_by }),
    upstream_ms: { p50: percentile(upstream_ms, 0.5), p95: percentile(upstream_ms, 0.95) },
  }
}

/** One UTC day's sums. */
export interface DaySums {
  /** Days since 1970. */
  readonly day: number
  readonly tokens: number
  readonly usd: number
  readonly requests: number
  /** Cached answers. */
  readonly hits: number
}

/** One day as `GET /admin/usage` shows it. */
export function dayFigures({ day, usd, ...sums }: DaySums) {
  const date = new Date(day * DAY_S * 1000).toISOString().slice(0, 10)
  return { ...sums, day: date, usd: roundedUsd(usd) }
}

/**
 * The upper bound of the bucket with this percentile; 0 for an empty histogram.
 *
 * @internal exported for its tests
 */
export function percentile(histogram: readonly number[], share: number): number {
  const all = histogram.reduce((sum, n) => sum + n, 0)
  let below = 0
  for (const [i, n] of histogram.entries()) {
    below += n
    if (n > 0 && below >= all * share) return latencyBoundsMs[i] ?? latencyBoundsMs.at(-1) ?? 0
  }
  return 0
}

export function hourOf(nowMs: number): number {
  return Math.floor(nowMs / 1000 / HOUR_S) * HOUR_S
}

/** What is counted of a request besides its log line. */
export interface RequestCounts {
  readonly promptId: string | null
  /** The tokens that a cached or shared answer saved. */
  readonly saved: Usage | null
}

/** One failed attempt at an upstream, as `GET /admin/usage` shows it. */
export interface Failure {
  /** Unix seconds. */
  readonly at: number
  readonly request_id: string
  readonly upstream: string
  /** The model's alias. */
  readonly model: string
  readonly code: Code
  readonly hint: string | null
}

const MAX_FAILURES = 50

/** The newest failures of two lists, in order of time. */
export function addFailures(a: readonly Failure[], b: readonly Failure[]): Failure[] {
  return [...a, ...b].sort((one, other) => one.at - other.at).slice(-MAX_FAILURES)
}

/** Anyone can send made-up origins, so at most this many are kept for a day. */
const MAX_REFUSED = 200
const SHOWN_REFUSED = 20

/** Adds `b` to `a` in place. */
export function addRefused(a: Map<string, Frequency>, b: Frequencies): void {
  for (const [origin, frequency] of b) addSightings(a, origin, frequency, MAX_REFUSED)
}

/** The origins that were refused most often, as `GET /admin/usage` shows them. */
export function refusedFigures(refused: Frequencies) {
  return mostFrequent(refused, SHOWN_REFUSED).map(([origin, seen]) => ({ origin, ...seen }))
}

/** An isolate's figures since its last flush. */
export interface UsageReport {
  readonly hours: ReadonlyMap<number, HourCounts>
  readonly failures: readonly Failure[]
  /** By UTC day, counted in days since 1970. */
  readonly refused: ReadonlyMap<number, Frequencies>
}

/** What a call was charged to the budget, whether or not it was answered, and for what it was made. */
export interface CallCharge {
  /** The model's alias. */
  readonly model: string
  readonly prompt_id: string | null
  /** The page of the request that caused it. */
  readonly origin: string | null
  readonly tokens_in: number
  readonly tokens_out: number
  readonly usd: number
}

export interface CounterDeps {
  readonly now: () => number
  /** The least time between two flushes. */
  readonly intervalMs: number
  /** The cost of an answer by the first upstream of a model. */
  readonly usdOf: (model: string, usage: Usage) => number
}

function nothingCounted() {
  return {
    hours: new Map<number, HourCounts>(),
    failures: [] as readonly Failure[],
    refused: new Map<number, Map<string, Frequency>>(),
  } satisfies UsageReport
}

/** Collects an isolate's figures. Those not yet flushed are lost when the isolate is evicted. */
export class UsageCounter {
  readonly #deps: CounterDeps
  #unsent = nothingCounted()
  #flushedAt = Number.NEGATIVE_INFINITY

  constructor(deps: CounterDeps) {
    this.#deps = deps
  }

  /** The time until the next flush; null if there is nothing to send. */
  get dueInMs(): number | null {
    if (this.#isEmpty) return null
    return Math.max(0, this.#flushedAt + this.#deps.intervalMs - this.#deps.now())
  }

  /** Counts an event. The figures of a request itself are counted by `request`. */
  observe(event: Event): void {
    switch (event.event) {
      case 'cache_failed':
        this.#hour().kv_failures += 1
        break
      case 'generated':
        this.#generated(event)
        break
      case 'upstream_failed':
        this.#failed(event)
        break
      case 'request':
        if (event.code === 'origin_not_allowed' && event.origin !== null) this.#refuse(event.origin)
    }
  }

  charge({ model, prompt_id, origin, tokens_in, tokens_out, usd }: CallCharge): void {
    const hour = this.#hour()
    hour.tokens_in += tokens_in
    hour.tokens_out += tokens_out
    if (usd === 0) return
    hour.usd += usd
    count(hour.usd_by.models, model, usd)
    if (prompt_id) count(hour.usd_by.prompts, prompt_id, usd)
    if (origin) countOrigin(hour.usd_by.origins, origin, usd)
  }

  #generated({ first_ms }: EventOf<'generated'>): void {
    const hour = this.#hour()
    const slot = latencyBoundsMs.filter((ms) => ms < first_ms).length
    hour.upstream_ms[slot] = (hour.upstream_ms[slot] ?? 0) + 1
  }

  /** Leaves out requests that an upstream refused as invalid: the owner has nothing to fix. */
  #failed({ request_id, upstream, model, code, hint }: EventOf<'upstream_failed'>): void {
    if (code === 'upstream_refused_request') return
    const at = Math.floor(this.#deps.now() / 1000)
    const failure = { at, request_id, upstream, model, code, hint }
    this.#unsent.failures = addFailures(this.#unsent.failures, [failure])
  }

  #refuse(origin: string): void {
    const last = Math.floor(this.#deps.now() / 1000)
    const day = Math.floor(last / DAY_S)
    const refused = this.#unsent.refused.get(day) ?? new Map<string, Frequency>()
    addSightings(refused, origin, { count: 1, last }, MAX_REFUSED)
    this.#unsent.refused.set(day, refused)
  }

  request({ cache, code, model, origin }: RequestEvent, { promptId, saved }: RequestCounts): void {
    const hour = this.#hour()
    hour.requests += 1
    if (saved !== null) {
      hour.tokens_saved += saved.total_tokens
      if (model !== null) hour.usd_saved += this.#deps.usdOf(model, saved)
    }
    if (cache === 'miss' || cache === 'bypass') {
      hour.misses += 1
      if (code !== null) hour.failed_misses += 1
    } else if (cache === 'collapsed' || cache === 'flight') hour.collapsed += 1
    else if (cache === 'previous') hour.hits.stale += 1
    else if (cache !== null) hour.hits[cache] += 1
    // Refusals while the owner has paused generation are not errors.
    if (code !== null && code !== 'paused') count(hour.errors, code)
    if (promptId !== null) count(hour.prompts, promptId)
    if (model !== null) count(hour.models, model)
    if (origin !== null && code !== 'origin_not_allowed') countOrigin(hour.origins, origin)
  }

  /** Sends all figures, and takes them back if that fails. Never throws. */
  async flush(send: (report: UsageReport) => Promise<void>): Promise<void> {
    if (this.#isEmpty) return
    const report = this.#unsent
    this.#unsent = nothingCounted()
    this.#flushedAt = this.#deps.now()
    try {
      await send(report)
    } catch {
      this.#takeBack(report)
    }
  }

  get #isEmpty(): boolean {
    const { hours, failures, refused } = this.#unsent
    return hours.size + failures.length + refused.size === 0
  }

  #takeBack({ hours, failures, refused }: UsageReport): void {
    const unsent = this.#unsent
    for (const [hour, counts] of hours) {
      unsent.hours.set(hour, addCounts(counts, unsent.hours.get(hour) ?? noCounts()))
    }
    unsent.failures = addFailures(failures, unsent.failures)
    for (const [day, origins] of refused) {
      const sum = new Map(origins)
      addRefused(sum, unsent.refused.get(day) ?? new Map())
      unsent.refused.set(day, sum)
    }
    // Bounds the memory if the usage object is down for long.
    dropOldest(unsent.hours, MAX_HOURS)
    dropOldest(unsent.refused, MAX_DAYS)
  }

  #hour(): HourCounts {
    const hour = hourOf(this.#deps.now())
    const counts = this.#unsent.hours.get(hour) ?? noCounts()
    this.#unsent.hours.set(hour, counts)
    return counts
  }
}

type EventOf<Kind extends Event['event']> = Extract<Event, { event: Kind }>

const MAX_HOURS = 24
const MAX_DAYS = 2

/** Deletes all but the newest `n` entries. */
function dropOldest(byTime: Map<number, unknown>, n: number): void {
  for (const time of [...byTime.keys()].sort((a, b) => a - b).slice(0, -n)) byTime.delete(time)
}

/** Counts a request of this origin, or its cost. Above the limit, new origins are counted as `OTHER_ORIGINS`. */
function countOrigin(origins: ByName, origin: string, n?: number): void {
  const isFull = Object.keys(origins).length >= MAX_ORIGINS * 2
  count(origins, isFull && !Object.hasOwn(origins, origin) ? OTHER_ORIGINS : origin, n)
}

/** By own keys only, and as one: a model may be called "constructor" or "__proto__". */
function count(names: ByName, name: string, n = 1): void {
  const value = (Object.hasOwn(names, name) ? (names[name] ?? 0) : 0) + n
  const isOrdinary = { enumerable: true, configurable: true, writable: true }
  Object.defineProperty(names, name, { value, ...isOrdinary })
}
