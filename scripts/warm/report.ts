// The output of `npm run warm`: a line per request, and the summary.
import { type Task, tokensOf } from '../operator/generate.ts'
import { hintsFor, number } from '../operator/report.ts'
import type { Outcome } from './warming.ts'

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
  lines.push(...hintsFor(codes(outcomes)))
  if (notStarted > 0) {
    lines.push('To resume, run the same command again: cached answers are skipped at no cost.')
  }
  return lines.join('\n')
}

function codes(outcomes: readonly Outcome[]): ReadonlySet<string | null> {
  return new Set(outcomes.map((outcome) => ('code' in outcome ? outcome.code : null)))
}
