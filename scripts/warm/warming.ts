// Asks for a list of completions, some at once, so that visitors find them in the cache. What is there
// already is skipped, which is also how a run that broke off is taken up again: it has no state.
import { type Answer, codeIn, type Gateway, refusalIn } from './gateway.ts'

/** One completion to be asked for. */
export interface Task {
  /** For people: which one it is. */
  readonly name: string
  /** A request body. */
  readonly request: Readonly<Record<string, unknown>>
}

export type Outcome =
  | { readonly kind: 'stored'; readonly tokens: number }
  | { readonly kind: 'present' }
  | {
      readonly kind: 'failed'
      readonly code: string | null
      readonly reason: string
      readonly tokens: number
    }
  /** The run was over before its turn came. */
  | { readonly kind: 'unasked' }

export interface WarmOptions {
  /** Requests at once. */
  readonly concurrency: number
}

export interface WarmContext {
  readonly gateway: Gateway
  /** Resolves at once when the signal has been given. */
  readonly wait: (ms: number, signal: AbortSignal) => Promise<void>
  /** Given: what is under way is ended, nothing more is begun. */
  readonly signal: AbortSignal
  /** Called after each request, in the order in which they end. */
  readonly onOutcome?: (outcome: Outcome, task: Task, done: number) => void
}

/** Tries of one request; between them as long as the gateway says, within bounds. */
const MAX_TRIES = 4
const MIN_WAIT_MS = 1000
const MAX_WAIT_MS = 60_000
/** Failures that another moment may mend. */
const MENDING: ReadonlySet<number> = new Set([429, 502, 503, 504])
/** Not within a minute, and not for the next request either. */
const HOPELESS: ReadonlySet<string | null> = new Set([
  'budget_exhausted',
  'paused',
  'misconfigured',
])

/** Asks for all of them; what one fails with is its outcome, and the others go on. */
export async function warm(
  tasks: readonly Task[],
  { concurrency }: WarmOptions,
  { gateway, wait, signal, onOutcome }: WarmContext,
): Promise<Outcome[]> {
  const hopeless = new AbortController()
  const over = AbortSignal.any([signal, hopeless.signal])
  let done = 0
  const outcomes = await someAtOnce(tasks, concurrency, over, async (task) => {
    const outcome = await warmOne(task, gateway, (ms) => wait(ms, over), over)
    if (outcome.kind === 'failed' && HOPELESS.has(outcome.code)) hopeless.abort()
    done += 1
    onOutcome?.(outcome, task, done)
    return outcome
  })
  return outcomes.map((outcome) => outcome ?? { kind: 'unasked' })
}

/** The results in the order of the items; null of those not begun when the signal came. */
export async function someAtOnce<Item, Result>(
  items: readonly Item[],
  concurrency: number,
  over: AbortSignal,
  work: (item: Item) => Promise<Result>,
): Promise<(Result | null)[]> {
  const results: (Result | null)[] = items.map(() => null)
  const rest = items.entries()
  const worker = async () => {
    for (const [i, item] of rest) {
      if (over.aborted) return
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
  over: AbortSignal,
): Promise<Outcome> {
  // The answer is the same in every shape, and JSON says whether it was stored.
  const { stream: _, stream_options: __, ...body } = request
  for (let tries = 1; ; tries++) {
    const { outcome, waitMs } = await tryOnce(body, gateway, MIN_WAIT_MS * tries)
    if (waitMs === null || tries === MAX_TRIES || over.aborted) return outcome
    await wait(waitMs)
    if (over.aborted) return outcome
  }
}

interface Try {
  readonly outcome: Outcome
  /** Null: another try would not help. */
  readonly waitMs: number | null
}

async function tryOnce(body: unknown, gateway: Gateway, restMs: number): Promise<Try> {
  try {
    const looked = await gateway.complete(body, 'only-if-cached')
    if (looked.status === 200 && !isStale(looked)) {
      return { outcome: { kind: 'present' }, waitMs: null }
    }
    if (looked.status !== 200 && codeIn(looked.text) !== 'not_cached') return failureOf(looked)
    // What is stale would be served as it is; the operator wants the new one.
    const answer = await gateway.complete(body, looked.status === 200 ? 'no-cache' : null)
    return answer.status === 200 ? outcomeOf(answer) : failureOf(answer)
  } catch {
    const reason = 'no connection'
    return { outcome: { kind: 'failed', code: null, reason, tokens: 0 }, waitMs: restMs }
  }
}

/** An answer that is served and not kept is none for visitors. */
function outcomeOf({ headers, text }: Answer): Try {
  const status = headers.get('cache-status') ?? ''
  if (/; hit\b/.test(status)) return { outcome: { kind: 'present' }, waitMs: null }
  const tokens = tokensIn(text)
  // A refresh by the operator says only that it was forwarded; it replaces what was there.
  if (/; stored\b/.test(status) || /fwd=request/.test(status)) {
    return { outcome: { kind: 'stored', tokens }, waitMs: null }
  }
  // Two pages of the same words are one request. Who asked first pays and hears what became of it.
  const joined = /; collapsed\b/.test(status)
  const reason = `answered, but not stored (${status || 'no Cache-Status'})`
  return {
    outcome: { kind: 'failed', code: null, reason, tokens: joined ? 0 : tokens },
    waitMs: joined ? MIN_WAIT_MS : null,
  }
}

/** Whether an answer is served though it is to be asked for anew. */
export function isStale({ headers }: Answer): boolean {
  return /detail=stale/.test(headers.get('cache-status') ?? '')
}

function failureOf({ status, headers, text }: Answer): Try {
  const code = codeIn(text)
  const mends = MENDING.has(status) && !HOPELESS.has(code)
  return {
    outcome: { kind: 'failed', code, reason: refusalIn(status, text), tokens: 0 },
    waitMs: mends ? waitOf(headers.get('retry-after')) : null,
  }
}

function waitOf(retryAfter: string | null): number {
  const seconds = /^\d{1,9}$/.test(retryAfter ?? '') ? Number(retryAfter) : 0
  return Math.min(MAX_WAIT_MS, Math.max(MIN_WAIT_MS, seconds * 1000))
}

function tokensIn(text: string): number {
  return usageIn(text)?.total ?? 0
}

/** What an answer says that it took. */
export function usageIn(text: string): { readonly total: number; readonly written: number } | null {
  try {
    const { usage } = JSON.parse(text) as { usage?: Record<string, unknown> }
    const [total, written] = [usage?.['total_tokens'], usage?.['completion_tokens']]
    return typeof total === 'number' && typeof written === 'number' ? { total, written } : null
  } catch {
    return null
  }
}
