// Has the Worker generate one completion, unless it is cached, and reports whether visitors find it in
// the cache.
import {
  type Attempt,
  MIN_WAIT_MS,
  type RetryContext,
  retryWaitOf,
  withRetries,
} from './concurrent.ts'
import { type Answer, codeIn, type Gateway, refusalIn } from './gateway.ts'

/** A completion to request. */
export interface Task {
  /** A name to display. */
  readonly name: string
  /** The request body. */
  readonly request: Readonly<Record<string, unknown>>
}

/** The first choice of an answer. */
interface Choice {
  /** "" if it has no text. */
  readonly text: string
  /** Whether the text ends at `max_tokens`. */
  readonly isCut: boolean
}

export type Outcome =
  | ({ readonly kind: 'stored'; readonly tokens: number } & Choice)
  | ({ readonly kind: 'present' } & Choice)
  | {
      readonly kind: 'failed'
      readonly code: string | null
      readonly reason: string
      readonly tokens: number
    }

/** The outcome after retries. A failure is an outcome, too. */
export async function generate(
  { request }: Task,
  gateway: Gateway,
  retries: RetryContext,
): Promise<Outcome> {
  // All shapes share one cache entry, and only a JSON response reports whether it was stored.
  const { stream: _, stream_options: __, ...body } = request
  return await withRetries((pauseMs) => tryOnce(body, gateway, pauseMs), retries)
}

/** The tokens spent on a request, including answers that could not be stored. */
export const tokensOf = (outcome: Outcome | { readonly kind: 'not-started' }): number =>
  'tokens' in outcome ? outcome.tokens : 0

async function tryOnce(body: object, gateway: Gateway, pauseMs: number): Promise<Attempt<Outcome>> {
  try {
    const lookup = await gateway.complete(body, 'only-if-cached')
    if (lookup.status === 200 && !isStale(lookup)) return present(lookup)
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
function outcomeOf(answer: Answer): Attempt<Outcome> {
  const { headers, text } = answer
  const status = headers.get('cache-status') ?? ''
  if (/; hit\b/.test(status)) return present(answer)
  const tokens = usageIn(text)?.total ?? 0
  // For a refresh, Cache-Status has fwd=request and no "stored", but the entry is replaced.
  if (/; stored\b/.test(status) || /fwd=request/.test(status)) {
    return { outcome: { kind: 'stored', tokens, ...choiceIn(text) }, waitMs: null }
  }
  // Two pages with the same text share one call. Its leader pays and learns whether it was stored.
  const joined = /; collapsed\b/.test(status)
  const reason = `answered, but not stored (${status || 'no Cache-Status'})`
  return {
    outcome: { kind: 'failed', code: null, reason, tokens: joined ? 0 : tokens },
    waitMs: joined ? MIN_WAIT_MS : null,
  }
}

function present({ text }: Answer): Attempt<Outcome> {
  return { outcome: { kind: 'present', ...choiceIn(text) }, waitMs: null }
}

function failureOf(answer: Answer): Attempt<Outcome> {
  const { status, text } = answer
  const reason = refusalIn(status, text)
  return {
    outcome: { kind: 'failed', code: codeIn(text), reason, tokens: 0 },
    waitMs: retryWaitOf(answer),
  }
}

/** Whether the answer is a stale cache entry. */
export function isStale({ headers }: Answer): boolean {
  return /detail=stale/.test(headers.get('cache-status') ?? '')
}

/** The first choice of an answer. */
export function choiceIn(answer: string): Choice {
  try {
    const { choices } = JSON.parse(answer) as { choices?: Record<string, unknown>[] }
    const { text, finish_reason: reason } = choices?.[0] ?? {}
    return { text: typeof text === 'string' ? text : '', isCut: reason === 'length' }
  } catch {
    return { text: '', isCut: false }
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
