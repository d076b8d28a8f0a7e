// The output of the command: the bar, the lines, the summary and the forecast.
import { expect, test } from 'vitest'
import { bar, forecast, line, skippedLines, summary } from '../../../scripts/warm/report.ts'
import type { Outcome } from '../../../scripts/warm/warming.ts'

const tasks = ['/a', '/b', '/c', '/d'].map((name) => ({ name, request: {} }))
const stored: Outcome = { kind: 'stored', tokens: 1234, text: 'fine' }
const failed: Outcome = { kind: 'failed', code: 'x', reason: '502 x: Cannot', tokens: 6 }
const present: Outcome = { kind: 'present', text: 'fine' }

test('bar() shows progress, failures and tokens spent', () => {
  const at = { done: 0, all: 4, failed: 0, tokens: 0 }
  expect(bar(at, 8)).toBe('░░░░░░░░ 0/4')
  expect(bar({ ...at, done: 2, failed: 1 }, 8)).toBe('████░░░░ 2/4, 1 failed')
  expect(bar({ ...at, done: 4, tokens: 12_345 }, 8)).toBe('████████ 4/4, 12,345 tokens spent')
  expect(bar({ ...at, all: 0 }, 8)).toBe('████████ 0/0')
})

test('summary() shows the counts, then each failure with its reason', () => {
  expect(summary(tasks, [stored, failed, present, stored]).split('\n')).toEqual([
    'stored               2',
    'cached               1',
    'failed               1',
    'tokens spent     2,474',
    'failed         /b  502 x: Cannot',
  ])
})

test('summary() explains how to resume, and when the budget resets', () => {
  const text = summary(tasks, [stored, { kind: 'not-started' }, { kind: 'not-started' }, present])
  expect(text).toMatch(/\nnot started {10}2\n/)
  expect(text).toMatch(/run the same command again: cached answers are skipped/)
  expect(text).not.toContain('budget')
  const spent = summary(tasks, [{ ...failed, code: 'budget_exhausted' }])
  expect(spent).toContain('Daily budget exhausted. It resets at 00:00 UTC')
})

test('line() shows the outcome of one request', () => {
  expect(line(stored, { name: '/a', request: {} })).toBe('stored         /a  1,234 tokens')
  expect(line(present, { name: '/a', request: {} })).toBe('cached         /a')
  expect(line(failed, { name: '/a', request: {} })).toBe('failed         /a  502 x: Cannot')
})

test('skippedLines() shows ten pages and how many more there are', () => {
  const skipped = Array.from({ length: 12 }, (_, i) => ({ url: `/${i}`, reason: 'no address' }))
  expect(skippedLines(skipped.slice(0, 1))).toEqual(['skipped        /0  no address'])
  expect(skippedLines(skipped)).toHaveLength(11)
  expect(skippedLines(skipped).at(-1)).toBe('skipped        2 more')
})

test('forecast() shows the counts and an estimate of tokens', () => {
  const found = { present: 1, missing: 2, tokensRead: 1500, tokensWritten: null, failed: [] }
  expect(forecast(found).split('\n')).toEqual([
    'cached               1',
    'missing              2',
    'failed               0',
    'about 1,500 input tokens, and at most max_tokens output tokens for each answer',
    'Input is estimated from the pages or variables alone, at four bytes per token.',
    'Nothing was spent.',
  ])
  expect(forecast({ ...found, tokensWritten: 80 })).toContain(
    ', and 80 output tokens, by the average',
  )
  const none = forecast({ ...found, missing: 0, failed: [{ task: tasks[0]!, reason: '403 x' }] })
  expect(none).not.toContain('about')
  expect(none).toContain('failed         /a  403 x')
})
