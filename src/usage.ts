// Counting: what an isolate saw in each hour, as numbers that add up. Pure; objects/usage.ts keeps
// the sums. Holds names from CONFIG, codes and counts, never anything of a visitor's.
import type { Code } from './errors.ts'
import type { Event, RequestEvent } from './events.ts'

/** One hour's counts, of one isolate or of all. */
export interface HourCounts {
  requests: number
  hits: { memory: number; kv: number; stale: number }
  /** Answers that were another visitor's flight, under way or just over. */
  collapsed: number
  misses: number
  kv_failures: number
  tokens_in: number
  tokens_out: number
  tokens_saved: number
  errors: Record<string, number>
  prompts: Record<string, number>
  models: Record<string, number>
  /** How many upstream answers began within each bound of `latencyBoundsMs`; the last is beyond. */
  upstream_ms: number[]
}

/** Upper bounds of the latency histogram, in ms: each a quarter above the one before. */
export const latencyBoundsMs: readonly number[] = Array.from({ length: 40 }, (_, i) =>
  Math.round(20 * 1.25 ** i),
)

const HOUR_S = 3600

export function noCounts(): HourCounts {
  return {
    requests: 0,
    hits: { memory: 0, kv: 0, stale: 0 },
    collapsed: 0,
    misses: 0,
    kv_failures: 0,
    tokens_in: 0,
    tokens_out: 0,
    tokens_saved: 0,
    errors: {},
    prompts: {},
    models: {},
    upstream_ms: latencyBoundsMs.map(() => 0).concat(0),
  }
}

/** `b` added to `a`; shapes of older versions count as zeros. */
export function addCounts(a: HourCounts, b: HourCounts): HourCounts {
  return {
    requests: a.requests + b.requests,
    hits: {
      memory: a.hits.memory + b.hits.memory,
      kv: a.hits.kv + b.hits.kv,
      stale: a.hits.stale + b.hits.stale,
    },
    collapsed: a.collapsed + b.collapsed,
    misses: a.misses + b.misses,
    kv_failures: a.kv_failures + b.kv_failures,
    tokens_in: a.tokens_in + b.tokens_in,
    tokens_out: a.tokens_out + b.tokens_out,
    tokens_saved: a.tokens_saved + b.tokens_saved,
    errors: addNames(a.errors, b.errors),
    prompts: addNames(a.prompts, b.prompts),
    models: addNames(a.models, b.models),
    upstream_ms: a.upstream_ms.map((n, i) => n + (b.upstream_ms[i] ?? 0)),
  }
}

function addNames(a: Record<string, number>, b: Record<string, number>): Record<string, number> {
  const sum = { ...a }
  for (const [name, n] of Object.entries(b)) sum[name] = (sum[name] ?? 0) + n
  return sum
}

/** One hour as `GET /admin/usage` shows it (contract section 6). */
export function hourFigures(hour: number, { upstream_ms, ...counts }: HourCounts) {
  return {
    hour,
    ...counts,
    upstream_ms: { p50: percentile(upstream_ms, 0.5), p95: percentile(upstream_ms, 0.95) },
  }
}

/** The bound under which this share of all lies; 0 where there is nothing. */
export function percentile(histogram: readonly number[], share: number): number {
  const all = histogram.reduce((sum, n) => sum + n, 0)
  if (all === 0) return 0
  let below = 0
  for (const [i, n] of histogram.entries()) {
    below += n
    if (below >= all * share) return latencyBoundsMs[i] ?? latencyBoundsMs.at(-1) ?? 0
  }
  return latencyBoundsMs.at(-1) ?? 0
}

export function hourOf(nowMs: number): number {
  return Math.floor(nowMs / 1000 / HOUR_S) * HOUR_S
}

/** What a request adds besides its log line. */
export interface Tally {
  readonly promptId: string | null
  /** Tokens that a remembered or shared answer did not cost. */
  readonly saved: number
}

export interface CounterOptions {
  /** Between two flushes. */
  readonly intervalMs: number
}

/** Sends an hour's counts on. */
export type Flush = (hours: ReadonlyMap<number, HourCounts>) => Promise<void>

/** Collects counts in the isolate; what is not flushed when it is evicted is lost. */
export class UsageCounter {
  readonly #options: CounterOptions
  readonly #now: () => number
  #hours = new Map<number, HourCounts>()
  #flushedAt = Number.NEGATIVE_INFINITY

  constructor(options: CounterOptions, now: () => number) {
    this.#options = options
    this.#now = now
  }

  /** Until the next flush may be; null: there is nothing to send. */
  get dueInMs(): number | null {
    if (this.#hours.size === 0) return null
    return Math.max(0, this.#flushedAt + this.#options.intervalMs - this.#now())
  }

  /** Counts what an event says; a request is counted by `request`. */
  observe(event: Event): void {
    if (event.event === 'cache_failed') this.#hour().kv_failures += 1
    if (event.event !== 'generated') return
    const hour = this.#hour()
    hour.tokens_in += event.tokens_in
    hour.tokens_out += event.tokens_out
    const bound = latencyBoundsMs.findIndex((ms) => event.first_ms <= ms)
    const slot = bound === -1 ? latencyBoundsMs.length : bound
    hour.upstream_ms[slot] = (hour.upstream_ms[slot] ?? 0) + 1
  }

  request({ cache, code, model }: RequestEvent, { promptId, saved }: Tally): void {
    const hour = this.#hour()
    hour.requests += 1
    hour.tokens_saved += saved
    if (cache === 'miss' || cache === 'bypass') hour.misses += 1
    else if (cache === 'collapsed' || cache === 'flight') hour.collapsed += 1
    else if (cache === 'previous') hour.hits.stale += 1
    else if (cache !== null) hour.hits[cache] += 1
    if (code !== null) count(hour.errors, code)
    if (promptId !== null) count(hour.prompts, promptId)
    if (model !== null) count(hour.models, model)
  }

  /** Sends what there is. What cannot be sent is kept. Never throws. */
  async flush(send: Flush): Promise<void> {
    if (this.#hours.size === 0) return
    const hours = this.#hours
    this.#hours = new Map()
    this.#flushedAt = this.#now()
    try {
      await send(hours)
    } catch {
      this.#takeBack(hours)
    }
  }

  #takeBack(hours: ReadonlyMap<number, HourCounts>): void {
    for (const [hour, counts] of hours) {
      this.#hours.set(hour, addCounts(counts, this.#hours.get(hour) ?? noCounts()))
    }
    // A store that is down for long must not be paid for in memory.
    for (const hour of [...this.#hours.keys()].sort((a, b) => a - b).slice(0, -MAX_HOURS)) {
      this.#hours.delete(hour)
    }
  }

  #hour(): HourCounts {
    const hour = hourOf(this.#now())
    let counts = this.#hours.get(hour)
    if (counts === undefined) {
      counts = noCounts()
      this.#hours.set(hour, counts)
    }
    return counts
  }
}

const MAX_HOURS = 24

function count(names: Record<string, number>, name: Code | string): void {
  names[name] = (names[name] ?? 0) + 1
}
