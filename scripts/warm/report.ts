// What `npm run warm` says: a bar or a line for each request, and the table at the end.
import type { Estimate } from './estimate.ts'
import type { Skipped } from './sitemap.ts'
import type { Outcome, Task } from './warming.ts'

/** How far a run has come. */
export interface Progress {
  readonly done: number
  readonly all: number
  readonly failed: number
  /** What has been spent. */
  readonly tokens: number
}

const number = new Intl.NumberFormat('en').format

/** A bar for a terminal's one line. */
export function bar({ done, all, failed, tokens }: Progress, width = 30): string {
  const filled = all === 0 ? width : Math.round((done / all) * width)
  const drawn = '█'.repeat(filled) + '░'.repeat(width - filled)
  const facts = [`${done}/${all}`]
  if (failed > 0) facts.push(`${failed} failed`)
  if (tokens > 0) facts.push(`${number(tokens)} tokens spent`)
  return `${drawn} ${facts.join(', ')}`
}

/** One request in a few words: what became of it, which one it is, and why or for how much. */
export function line(outcome: Outcome, { name }: Task): string {
  switch (outcome.kind) {
    case 'stored':
      return `stored         ${name}  ${number(outcome.tokens)} tokens`
    case 'present':
      return `already there  ${name}`
    case 'failed':
      return `failed         ${name}  ${outcome.reason}`
    case 'unasked':
      return `not asked      ${name}`
    default:
      return outcome satisfies never
  }
}

/** What was spent on a request, for an answer that could not be kept, too. */
export const tokensOf = (outcome: Outcome): number => ('tokens' in outcome ? outcome.tokens : 0)

/** The table at the end, then each failure again, and what to do next. */
export function summary(tasks: readonly Task[], outcomes: readonly Outcome[]): string {
  const of = (kind: Outcome['kind']) => outcomes.filter((outcome) => outcome.kind === kind)
  const rows: [string, number][] = [
    ['stored', of('stored').length],
    ['already there', of('present').length],
    ['failed', of('failed').length],
  ]
  const unasked = of('unasked').length
  if (unasked > 0) rows.push(['not asked', unasked])
  rows.push(['tokens spent', outcomes.reduce((sum, outcome) => sum + tokensOf(outcome), 0)])
  const lines = rows.map(([name, n]) => `${name.padEnd(14)}${number(n).padStart(8)}`)
  for (const [i, task] of tasks.entries()) {
    const outcome = outcomes[i]
    if (outcome?.kind === 'failed') lines.push(line(outcome, task))
  }
  if (codes(outcomes).has('budget_exhausted')) {
    lines.push(
      'The budget of the day is spent: it begins anew at 00:00 UTC, or raise it in CONFIG.',
    )
  }
  if (codes(outcomes).has('paused')) {
    lines.push('Generation is paused: resume it on the dashboard (/admin).')
  }
  if (unasked > 0) {
    lines.push('To go on, run the same command again: what is there is skipped, and costs nothing.')
  }
  return lines.join('\n')
}

function codes(outcomes: readonly Outcome[]): ReadonlySet<string | null> {
  return new Set(outcomes.map((outcome) => ('code' in outcome ? outcome.code : null)))
}

const MAX_SKIPPED = 10

/** Pages that are left out: the first of them, and why. */
export function skippedLines(skipped: readonly Skipped[]): string[] {
  const lines = skipped
    .slice(0, MAX_SKIPPED)
    .map(({ url, reason }) => `skipped        ${url}  ${reason}`)
  const more = skipped.length - lines.length
  return more === 0 ? lines : [...lines, `skipped        ${number(more)} more`]
}

/** Sitemaps of an index that could not be read, each of them. */
export function unreadLines(unread: readonly Skipped[]): string[] {
  return unread.map(
    ({ url, reason }) => `failed         ${url}  the sitemap cannot be read: ${reason}`,
  )
}

/** What a dry run has found. */
export function forecast({ present, missing, ...estimate }: Estimate): string {
  const { tokensRead, tokensWritten, failed } = estimate
  const lines = [
    `already there ${number(present).padStart(8)}`,
    `to be asked   ${number(missing).padStart(8)}`,
    `failed        ${number(failed.length).padStart(8)}`,
    ...failed.map(({ task, reason }) => `failed         ${task.name}  ${reason}`),
  ]
  if (missing > 0) {
    const written =
      tokensWritten === null
        ? 'and up to max_tokens of the prompt for each answer'
        : `and ${number(tokensWritten)} to be written, as those that are there took`
    lines.push(
      `about ${number(tokensRead)} tokens to be read, ${written}`,
      'An estimate: four bytes of text for a token, without the words of the prompt itself.',
    )
  }
  lines.push('Nothing was spent.')
  return lines.join('\n')
}
