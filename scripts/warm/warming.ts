// Requests a list of completions concurrently, so that visitors find them in the cache. Cached ones are
// skipped, so running it again resumes an interrupted run. It keeps no state of its own.
import { type Answer, codeIn, type Gateway, refusalIn } from './gateway.ts'

/** A completion to request. */
export interface Task {
  /** A name to display. */
  readonly name: string
  /** The request body. */
  readonly request: Readonly<Record<string, unknown>>
}

export type Outcome =
  | { readonly kind: 'stored'; readonly tokens: number; readonly text: string }
  | { readonly kind: 'present'; readonly text: string }
  | {
      readonly kind: 'failed'
      readonly code: string | null
      readonly reason: string
      readonly tokens: number
    }
  /** The run ended before this task began. */
  | { readonly kind: 'not-started' }

export interface WarmOptions {
  /** The number of concurrent requests. */
  readonly concurrency: number
}

export interface WarmContext {
  readonly gateway: Gateway
  /** Resolves early if the signal is aborted. */
  readonly wait: (ms: number, signal: AbortSignal) => Promise<void>
  /** When aborted, running requests finish and no more are started. */
  readonly signal: AbortSignal
  /** Called after each request, in the order in which they finish. */
  readonly onOutcome?: (outcome: Outcome, task: Task, done: number) => void
}

/** Attempts per request. Between them it waits for Retry-After, within these bounds. */
const MAX_TRIES = 4
const MIN_WAIT_MS = 1000
const MAX_WAIT_MS = 60_000
const RETRYABLE: ReadonlySet<number> = new Set([429, 502, 503, 504])
/** Every other request would fail as well, so the run ends. */
const FATAL: ReadonlySet<string | null> = new Set(['budget_exhausted', 'paused', 'misconfigured'])

/** Requests all tasks. A failure is the outcome of its task and does not stop the others. */
export async function warm(
  tasks: readonly Task[],
  { concurrency }: WarmOptions,
  { gateway, wait, signal, onOutcome }: WarmContext,
): Promise<Outcome[]> {
  const fatal = new AbortController()
  const stop = AbortSignal.any([signal, fatal.signal])
  let done = 0
  const outcomes = await someAtOnce(tasks, concurrency, stop, async (task) => {
    const outcome = await warmOne(task, gateway, (ms) => wait(ms, stop), stop)
    if (outcome.kind === 'failed' && FATAL.has(outcome.code)) fatal.abort()
    done += 1
    onOutcome?.(outcome, task, done)
    return outcome
  })
  return outcomes.map((outcome) => outcome ?? { kind: 'not-started' })
}

/** The results in the order of the items; null for items not started before the signal aborted. */
export async function someAtOnce<Item, Result>(
  items: readonly Item[],
  concurrency: number,
  stop: AbortSignal,
  work: (item: Item) => Promise<Result>,
): Promise<(Result | null)[]> {
  const results: (Result | null)[] = items.map(() => null)
  const rest = items.entries()
  const worker = async () => {
    for (const [i, item] of rest) {
      if (stop.aborted) return
      results[i] = await work(item)
    }
  }
  await Promise.all(Array.from({ length: concurrency }, worker))
  return results
}

async function warmOne(
  { request }: Task,
  gateway: Gateway,
  wait: (ms: number) => Promise<void>,
  stop: AbortSignal,
): Promise<Outcome> {
  // All shapes share one cache entry, and only a JSON response reports whether it was stored.
  const { stream: _, stream_options: __, ...body } = request
  for (let tries = 1; ; tries++) {
    const { outcome, waitMs } = await tryOnce(body, gateway, MIN_WAIT_MS * tries)
    if (waitMs === null || tries === MAX_TRIES || stop.aborted) return outcome
    await wait(waitMs)
    if (stop.aborted) return outcome
  }
}

interface Attempt {
  readonly outcome: Outcome
  /** The time to wait before the next attempt; null if a retry would not help. */
  readonly waitMs: number | null
}

async function tryOnce(body: object, gateway: Gateway, pauseMs: number): Promise<Attempt> {
  try {
    const lookup = await gateway.complete(body, 'only-if-cached')
    if (lookup.status === 200 && !isStale(lookup)) {
      return { outcome: { kind: 'present', text: textIn(lookup.text) }, waitMs: null }
    }
    if (lookup.status !== 200 && codeIn(lookup.text) !== 'not_cached') return failureOf(lookup)
    // A plain request would return the stale answer, so force a refresh.
    const answer = await gateway.complete(body, lookup.status === 200 ? 'no-cache' : null)
    return answer.status === 200 ? outcomeOf(answer) : failureOf(answer)
  } catch {
    const reason = 'no connection'
    return { outcome: { kind: 'failed', code: null, reason, tokens: 0 }, waitMs: pauseMs }
  }
}

/** An answer that was not stored counts as a failure: visitors will not find it. */
function outcomeOf({ headers, text }: Answer): Attempt {
  const status = headers.get('cache-status') ?? ''
  if (/; hit\b/.test(status)) {
    return { outcome: { kind: 'present', text: textIn(text) }, waitMs: null }
  }
  const tokens = tokensIn(text)
  // For a refresh, Cache-Status has fwd=request and no "stored", but the entry is replaced.
  if (/; stored\b/.test(status) || /fwd=request/.test(status)) {
    return { outcome: { kind: 'stored', tokens, text: textIn(text) }, waitMs: null }
  }
  // Two pages with the same text share one call. Its leader pays and learns whether it was stored.
  const joined = /; collapsed\b/.test(status)
  const reason = `answered, but not stored (${status || 'no Cache-Status'})`
  return {
    outcome: { kind: 'failed', code: null, reason, tokens: joined ? 0 : tokens },
    waitMs: joined ? MIN_WAIT_MS : null,
  }
}

/** Whether the answer is a stale cache entry. */
export function isStale({ headers }: Answer): boolean {
  return /detail=stale/.test(headers.get('cache-status') ?? '')
}

function failureOf({ status, headers, text }: Answer): Attempt {
  const code = codeIn(text)
  const isRetryable = RETRYABLE.has(status) && !FATAL.has(code)
  return {
    outcome: { kind: 'failed', code, reason: refusalIn(status, text), tokens: 0 },
    waitMs: isRetryable ? waitOf(headers.get('retry-after')) : null,
  }
}

function waitOf(retryAfter: string | null): number {
  const seconds = /^\d{1,9}$/.test(retryAfter ?? '') ? Number(retryAfter) : 0
  return Math.min(MAX_WAIT_MS, Math.max(MIN_WAIT_MS, seconds * 1000))
}

function tokensIn(text: string): number {
  return usageIn(text)?.total ?? 0
}

/** The first text of an answer, "" if it has no text. */
export function textIn(answer: string): string {
  try {
    const { choices } = JSON.parse(answer) as { choices?: { text?: unknown }[] }
    const text = choices?.[0]?.text
    return typeof text === 'string' ? text : ''
  } catch {
    return ''
  }
}

/** The usage that an answer reports. */
export function usageIn(text: string): { readonly total: number; readonly written: number } | null {
  try {
    const { usage } = JSON.parse(text) as { usage?: Record<string, unknown> }
    const [total, written] = [usage?.['total_tokens'], usage?.['completion_tokens']]
    return typeof total === 'number' && typeof written === 'number' ? { total, written } : null
  } catch {
    return null
  }
}
