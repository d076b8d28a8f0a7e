// The output that the operator's commands have in common: a progress bar, skipped pages, and the forecast.
import type { Estimate } from './estimate.ts'
import type { Skipped } from './sitemap.ts'

export interface Progress {
  readonly done: number
  readonly all: number
  readonly failed: number
  /** Tokens spent so far. */
  readonly tokens: number
}

export const number = new Intl.NumberFormat('en').format

/** A progress bar that fits in one line. */
export function bar({ done, all, failed, tokens }: Progress, width = 30): string {
  const filled = all === 0 ? width : Math.round((done / all) * width)
  const blocks = '█'.repeat(filled) + '░'.repeat(width - filled)
  const facts = [`${done}/${all}`]
  if (failed > 0) facts.push(`${failed} failed`)
  if (tokens > 0) facts.push(`${number(tokens)} tokens spent`)
  return `${blocks} ${facts.join(', ')}`
}

/** What to do about an error that ends generation. */
export function hintsFor(codes: ReadonlySet<string | null>): string[] {
  const hints: [string, string][] = [
    ['budget_exhausted', 'Daily budget exhausted. It resets at 00:00 UTC, or raise it in CONFIG.'],
    ['paused', 'Generation is paused. Resume it on the dashboard (/admin).'],
  ]
  return hints.filter(([code]) => codes.has(code)).map(([, hint]) => hint)
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
