// Requests a list of completions concurrently, so that visitors find them in the cache. Cached ones are
// skipped, so running it again resumes an interrupted run. It keeps no state of its own.
import { FATAL, type RetryContext, someAtOnce } from '../operator/concurrent.ts'
import type { Gateway } from '../operator/gateway.ts'
import { type Outcome as Generated, generate, type Task } from '../operator/generate.ts'

/** `not-started`: the run ended before this task began. */
export type Outcome = Generated | { readonly kind: 'not-started' }

export interface WarmOptions {
  /** The number of concurrent requests. */
  readonly concurrency: number
}

export interface WarmContext {
  readonly gateway: Gateway
  readonly wait: RetryContext['wait']
  /** When aborted, running requests finish and no more are started. */
  readonly signal: AbortSignal
  /** Called after each request, in the order in which they finish. */
  readonly onOutcome?: (outcome: Generated, task: Task, done: number) => void
}

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
    const outcome = await generate(task, gateway, { wait, stop })
    if (outcome.kind === 'failed' && FATAL.has(outcome.code)) fatal.abort()
    done += 1
    onOutcome?.(outcome, task, done)
    return outcome
  })
  return outcomes.map((outcome) => outcome ?? { kind: 'not-started' })
}
