// The output of `npm run index`: the lines and the summary.
import { expect, test } from 'vitest'
import type { PageResult } from '../../../scripts/index/indexing.ts'
import {
  isComplete,
  line,
  outsideLines,
  planLines,
  type RunResult,
  removalLine,
  summary,
} from '../../../scripts/index/report.ts'

const indexed: PageResult['page'] = { kind: 'indexed', passages: 1200, questions: 0 }
const unchanged: PageResult['page'] = { kind: 'unchanged', passages: 1, questions: 2 }
const failed: PageResult['page'] = { kind: 'failed', code: 'x', reason: '502 x: Cannot' }
const written: PageResult['questions'] = { kind: 'written', questions: 3, tokens: 1500 }

const result = (page: PageResult['page'], questions: PageResult['questions'] = null) => ({
  url: '/a',
  page,
  questions,
})

function run(results: readonly PageResult[], more: Partial<RunResult> = {}): RunResult {
  return { results, removals: [], hasQuestions: false, seconds: 1.6, ...more }
}

const lines = (...args: Parameters<typeof run>) => summary(run(...args)).split('\n')

test('line() shows a page with its passages and new questions, and leaves failures to the summary', () => {
  expect(line(result(indexed))).toBe('indexed        /a  1,200 passages')
  expect(line(result(indexed, written))).toBe('indexed        /a  1,200 passages, 3 questions')
  expect(line(result(unchanged))).toBe('unchanged      /a')
  expect(line(result(unchanged, written))).toBe('unchanged      /a  3 questions')
  expect(line(result(failed))).toBeNull()
  expect(removalLine({ url: '/a', removal: { kind: 'removed' } })).toBe('removed        /a')
})

test('summary() shows the counts in one line', () => {
  const removals = [{ url: '/b', removal: { kind: 'removed' } as const }]
  expect(lines([result(indexed), result(unchanged)], { removals })).toEqual([
    '1 indexed, 1 unchanged, 1 removed, 0 failed, 1,201 passages, 2 s',
  ])
  expect(lines([result(unchanged, written)], { hasQuestions: true })).toEqual([
    '0 indexed, 1 unchanged, 0 removed, 0 failed, 1 passage, 2 s',
    '3 questions for 1 page, 1,500 tokens spent',
  ])
})

test('summary() lists what failed, and how to go on', () => {
  const questions = { kind: 'failed', code: 'paused', reason: '429 paused', tokens: 0 } as const
  const removals = [
    { url: '/b', removal: { kind: 'failed', code: null, reason: 'no connection' } as const },
  ]
  const results = [
    result(failed),
    result(indexed, questions),
    result(indexed, { kind: 'not-started' }),
  ]
  expect(lines(results, { removals, hasQuestions: true })).toEqual([
    'failed         /a  502 x: Cannot',
    'no questions   /a  429 paused',
    'not removed    /b  no connection',
    '2 indexed, 0 unchanged, 0 removed, 2 failed, 2,400 passages, 2 s',
    '0 questions for 0 pages, 2 pages without, 0 tokens spent',
    'Generation is paused. Resume it on the dashboard (/admin).',
    'To resume, run the same command again: unchanged pages are skipped.',
  ])
  expect(lines([result({ kind: 'not-started' })])[0]).toContain('0 failed, 1 not started')
})

test('summary() lists ten pages that are not allowed, and names the settings', () => {
  const refused = result({ kind: 'not-allowed', reason: '403 page_not_allowed: Cannot' })
  const found = lines([result(indexed), ...Array(12).fill(refused)])
  expect(found[0]).toBe('not allowed    /a  403 page_not_allowed: Cannot')
  expect(found.slice(10, 12)).toEqual([
    'not allowed    2 more',
    expect.stringMatching(/"origins".*"paths" of \[vars\.CONFIG\.site\]/),
  ])
  expect(found[12]).toContain('0 failed, 12 not allowed')
})

test('isComplete() is false if anything that the settings allow is missing', () => {
  const of = (...args: Parameters<typeof run>) => isComplete(run(...args))
  const refused = result({ kind: 'not-allowed', reason: '' })
  expect(of([result(indexed), result(unchanged, written), refused])).toBe(true)
  expect(of([refused])).toBe(false)
  expect(of([result(indexed), result(failed)])).toBe(false)
  expect(of([result(indexed), result({ kind: 'not-started' })])).toBe(false)
  expect(of([result(indexed, { kind: 'not-started' })])).toBe(false)
  const removal = { kind: 'failed', code: null, reason: '' } as const
  expect(of([result(indexed)], { removals: [{ url: '/b', removal }] })).toBe(false)
})

test('outsideLines() counts the pages that get no questions', () => {
  const prompt = { id: 'q', variable: 'page', paths: ['/docs/*'], maxChars: 9, others: [] }
  const isFor = ({ pathname }: URL) => pathname.startsWith('/docs/')
  const pages = ['/docs/a', '/b', '/c'].map((path) => new URL(path, 'https://a.example'))
  expect(outsideLines(pages, { prompt, isFor })).toEqual([
    'skipped        2 pages  no questions: not one of the "paths" of q',
  ])
  expect(outsideLines(pages.slice(0, 1), { prompt, isFor })).toEqual([])
  expect(outsideLines(pages, null)).toEqual([])
})

test('planLines() tells new pages from those to read again', () => {
  const pages = [
    { url: '/a', isIndexed: false },
    { url: '/b', isIndexed: true },
  ]
  expect(planLines(pages, ['/c'])).toEqual([
    'to index       /a',
    'to re-read     /b',
    'to remove      /c',
    '1 to index, 1 to re-read, 1 to remove',
  ])
})
