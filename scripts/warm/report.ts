// The output of `npm run warm`: a progress bar or a line per request, and the summary.
import type { Estimate } from './estimate.ts'
import type { Skipped } from './sitemap.ts'
import type { Outcome, Task } from './warming.ts'

export interface Progress {
  readonly done: number
  readonly all: number
  readonly failed: number
  /** Tokens spent so far. */
  readonly tokens: number
}

const number = new Intl.NumberFormat('en').format

/** A progress bar that fits in one line. */
export function bar({ done, all, failed, tokens }: Progress, width = 30): string {
  const filled = all === 0 ? width : Math.round((done / all) * width)
  const blocks = '█'.repeat(filled) + '░'.repeat(width - filled)
  const facts = [`${done}/${all}`]
  if (failed > 0) facts.push(`${failed} failed`)
  if (tokens > 0) facts.push(`${number(tokens)} tokens spent`)
  return `${blocks} ${facts.join(', ')}`
}

/** The outcome of one request, with its cost or the reason for its failure. */
export function line(outcome: Outcome, { name }: Task): string {
  switch (outcome.kind) {
    case 'stored':
      return `stored         ${name}  ${number(outcome.tokens)} tokens`
    case 'present':
      return `cached         ${name}`
    case 'failed':
      return `failed         ${name}  ${outcome.reason}`
    case 'not-started':
      return `not started    ${name}`
    default:
      return outcome satisfies never
  }
}

/** The tokens spent on a request, including answers that could not be stored. */
export const tokensOf = (outcome: Outcome): number => ('tokens' in outcome ? outcome.tokens : 0)

/** The counts, each failure, and what to do next. */
export function summary(tasks: readonly Task[], outcomes: readonly Outcome[]): string {
  const of = (kind: Outcome['kind']) => outcomes.filter((outcome) => outcome.kind === kind)
  const rows: [string, number][] = [
    ['stored', of('stored').length],
    ['cached', of('present').length],
    ['failed', of('failed').length],
  ]
  const notStarted = of('not-started').length
  if (notStarted > 0) rows.push(['not started', notStarted])
  rows.push(['tokens spent', outcomes.reduce((sum, outcome) => sum + tokensOf(outcome), 0)])
  const lines = rows.map(([name, n]) => `${name.padEnd(14)}${number(n).padStart(8)}`)
  for (const [i, task] of tasks.entries()) {
    const outcome = outcomes[i]
    if (outcome?.kind === 'failed') lines.push(line(outcome, task))
  }
  if (codes(outcomes).has('budget_exhausted')) {
    lines.push('Daily budget exhausted. It resets at 00:00 UTC, or raise it in CONFIG.')
  }
  if (codes(outcomes).has('paused')) {
    lines.push('Generation is paused. Resume it on the dashboard (/admin).')
  }
  if (notStarted > 0) {
    lines.push('To resume, run the same command again: cached answers are skipped at no cost.')
  }
  return lines.join('\n')
}

function codes(outcomes: readonly Outcome[]): ReadonlySet<string | null> {
  return new Set(outcomes.map((outcome) => ('code' in outcome ? outcome.code : null)))
}

const MAX_SKIPPED = 10

/** The first skipped pages with the reasons, and how many more there are. */
export function skippedLines(skipped: readonly Skipped[]): string[] {
  const lines = skipped
    .slice(0, MAX_SKIPPED)
    .map(({ url, reason }) => `skipped        ${url}  ${reason}`)
  const more = skipped.length - lines.length
  return more === 0 ? lines : [...lines, `skipped        ${number(more)} more`]
}

/** A line for each sitemap of an index that could not be read. */
export function unreadLines(unread: readonly Skipped[]): string[] {
  return unread.map(
    ({ url, reason }) => `failed         ${url}  cannot read the sitemap: ${reason}`,
  )
}

/** The result of a dry run. */
export function forecast({ present, missing, ...estimate }: Estimate): string {
  const { tokensRead, tokensWritten, failed } = estimate
  const lines = [
    `cached        ${number(present).padStart(8)}`,
    `missing       ${number(missing).padStart(8)}`,
    `failed        ${number(failed.length).padStart(8)}`,
    ...failed.map(({ task, reason }) => `failed         ${task.name}  ${reason}`),
  ]
  if (missing > 0) {
    const written =
      tokensWritten === null
        ? 'at most max_tokens output tokens for each answer'
        : `${number(tokensWritten)} output tokens, by the average of the cached answers`
    lines.push(
      `about ${number(tokensRead)} input tokens, and ${written}`,
      'Input is estimated from the pages or variables alone, at four bytes per token.',
    )
  }
  lines.push('Nothing was spent.')
  return lines.join('\n')
}
