// The output of `npm run index`: a line per page, and the summary.
import { printable } from '../operator/printable.ts'
import { hintsFor, number } from '../operator/report.ts'
import type { PageResult, Questions, RemovalResult } from './indexing.ts'

const MAX_NOT_ALLOWED = 10

export interface RunResult {
  readonly results: readonly PageResult[]
  readonly removals: readonly RemovalResult[]
  /** Whether questions were to be written. */
  readonly hasQuestions: boolean
  readonly seconds: number
}

/** The result of one page; null for one that the summary lists. */
export function line({ url, page, questions }: PageResult): string | null {
  if (page.kind !== 'indexed' && page.kind !== 'unchanged') return null
  const facts = page.kind === 'indexed' ? [count(page.passages, 'passage')] : []
  if (questions?.kind === 'written') facts.push(count(questions.questions, 'question'))
  return row(page.kind, url, facts.join(', '))
}

export function removalLine({ url, removal }: RemovalResult): string | null {
  return removal.kind === 'removed' ? row('removed', url) : null
}

/** How many pages the prompt for questions may not use. */
export function outsideLines(pages: readonly URL[], questions: Questions | null): string[] {
  const outside = questions === null ? [] : pages.filter((url) => !questions.isFor(url))
  if (outside.length === 0) return []
  const reason = `no questions: not one of the "paths" of ${questions?.prompt.id}`
  return [row('skipped', count(outside.length, 'page'), reason)]
}

/** What a dry run found: indexed pages may be unchanged. */
export function planLines(
  pages: readonly { readonly url: string; readonly isIndexed: boolean }[],
  removed: readonly string[],
): string[] {
  const again = pages.filter(({ isIndexed }) => isIndexed).length
  return [
    ...pages.map(({ url, isIndexed }) => row(isIndexed ? 'to re-read' : 'to index', url)),
    ...removed.map((url) => row('to remove', url)),
    `${pages.length - again} to index, ${again} to re-read, ${removed.length} to remove`,
  ]
}

/** Whether all pages that the settings allow are in the index, with their questions, and the others not. */
export function isComplete({ results, removals }: RunResult): boolean {
  return (
    results.some(({ page }) => page.kind === 'indexed' || page.kind === 'unchanged') &&
    results.every(
      ({ page, questions }) =>
        page.kind !== 'failed' &&
        page.kind !== 'not-started' &&
        (questions === null || questions.kind === 'written'),
    ) &&
    removals.every(({ removal }) => removal.kind === 'removed')
  )
}

/** The counts, each failure, and what to do next. */
export function summary(run: RunResult): string {
  return [
    ...failureLines(run),
    ...notAllowedLines(run.results),
    counts(run),
    ...(run.hasQuestions ? [questionCounts(run.results)] : []),
    ...nextSteps(run),
  ].join('\n')
}

function counts({ results, removals, seconds }: RunResult): string {
  const of = (kind: PageResult['page']['kind']) =>
    results.filter(({ page }) => page.kind === kind).length
  const removed = removals.filter(({ removal }) => removal.kind === 'removed').length
  const failed = of('failed') + removals.length - removed
  const passages = results.reduce(
    (sum, { page }) => sum + ('passages' in page ? page.passages : 0),
    0,
  )
  const facts = [
    `${number(of('indexed'))} indexed`,
    `${number(of('unchanged'))} unchanged`,
    `${number(removed)} removed`,
    `${number(failed)} failed`,
  ]
  if (of('not-allowed') > 0) facts.push(`${number(of('not-allowed'))} not allowed`)
  if (of('not-started') > 0) facts.push(`${number(of('not-started'))} not started`)
  return [...facts, count(passages, 'passage'), `${number(Math.round(seconds))} s`].join(', ')
}

function questionCounts(results: readonly PageResult[]): string {
  const outcomes = results.flatMap(({ questions }) => questions ?? [])
  const written = outcomes.filter((each) => each.kind === 'written')
  const questions = written.reduce((sum, each) => sum + each.questions, 0)
  const tokens = outcomes.reduce((sum, each) => sum + ('tokens' in each ? each.tokens : 0), 0)
  const facts = [`${count(questions, 'question')} for ${count(written.length, 'page')}`]
  const missing = outcomes.length - written.length
  if (missing > 0) facts.push(`${count(missing, 'page')} without`)
  return [...facts, `${number(tokens)} tokens spent`].join(', ')
}

function failureLines({ results, removals }: RunResult): string[] {
  return [
    ...results.flatMap(({ url, page, questions }) => {
      if (page.kind === 'failed') return [row('failed', url, page.reason)]
      return questions?.kind === 'failed' ? [row('no questions', url, questions.reason)] : []
    }),
    ...removals.flatMap(({ url, removal }) =>
      removal.kind === 'failed' ? [row('not removed', url, removal.reason)] : [],
    ),
  ]
}

function notAllowedLines(results: readonly PageResult[]): string[] {
  const lines = results.flatMap(({ url, page }) =>
    page.kind === 'not-allowed' ? [row('not allowed', url, page.reason)] : [],
  )
  if (lines.length === 0) return []
  const more = lines.length - MAX_NOT_ALLOWED
  return [
    ...lines.slice(0, MAX_NOT_ALLOWED),
    ...(more > 0 ? [row('not allowed', `${number(more)} more`)] : []),
    'To index pages that are not allowed, add their origin to "origins", or their paths to "paths" of [vars.CONFIG.site], in wrangler.toml, and deploy.',
  ]
}

function nextSteps({ results, removals }: RunResult): string[] {
  const all = [
    ...results.flatMap(({ page, questions }) => [page, questions ?? page]),
    ...removals.map(({ removal }) => removal),
  ]
  const codes = new Set(all.map((outcome) => ('code' in outcome ? outcome.code : null)))
  const isOpen = all.some(({ kind }) => kind === 'failed' || kind === 'not-started')
  const resume = 'To resume, run the same command again: unchanged pages are skipped.'
  return [...hintsFor(codes), ...(isOpen ? [resume] : [])]
}

const row = (name: string, url: string, facts = '') =>
  `${name.padEnd(14)} ${printable(url)}${facts === '' ? '' : `  ${facts}`}`

const count = (n: number, noun: string) => `${number(n)} ${noun}${n === 1 ? '' : 's'}`
