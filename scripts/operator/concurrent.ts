// Runs work on many items at once, and tries what fails temporarily again.
import { codeIn } from './gateway.ts'

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

export interface Attempt<Outcome> {
  readonly outcome: Outcome
  /** The time to wait before the next attempt; null if a retry would not help. */
  readonly waitMs: number | null
}

export interface RetryContext {
  /** Resolves early if the signal is aborted. */
  readonly wait: (ms: number, signal: AbortSignal) => Promise<void>
  /** When aborted, the running attempt is the last one. */
  readonly stop: AbortSignal
}

/** Attempts per request. Between them it waits for Retry-After, within these bounds. */
const MAX_TRIES = 4
export const MIN_WAIT_MS = 1000
const MAX_WAIT_MS = 60_000
const RETRYABLE: ReadonlySet<number> = new Set([429, 502, 503, 504])
/** Every other request would fail as well, so the run ends. */
export const FATAL: ReadonlySet<string | null> = new Set([
  'budget_exhausted',
  'paused',
  'misconfigured',
])

/**
 * The outcome of the first attempt that a retry would not improve, or of the last one.
 *
 * @param attempt called with the wait after a failed connection
 */
export async function withRetries<Outcome>(
  attempt: (pauseMs: number) => Promise<Attempt<Outcome>>,
  { wait, stop }: RetryContext,
): Promise<Outcome> {
  for (let tries = 1; ; tries++) {
    const { outcome, waitMs } = await attempt(MIN_WAIT_MS * tries)
    if (waitMs === null || tries === MAX_TRIES || stop.aborted) return outcome
    await wait(waitMs, stop)
    if (stop.aborted) return outcome
  }
}

/** The time to wait before a refused request is sent again; null if that would not help. */
export function retryWaitOf(refusal: {
  readonly status: number
  readonly headers: Headers
  readonly text: string
}): number | null {
  if (!RETRYABLE.has(refusal.status) || FATAL.has(codeIn(refusal.text))) return null
  const retryAfter = refusal.headers.get('retry-after') ?? ''
  const seconds = /^\d{1,9}$/.test(retryAfter) ? Number(retryAfter) : 0
  return Math.min(MAX_WAIT_MS, Math.max(MIN_WAIT_MS, seconds * 1000))
}
