// The output of the command: the lines and the summary.
import { expect, test } from 'vitest'
import { line, summary } from '../../../scripts/warm/report.ts'
import type { Outcome } from '../../../scripts/warm/warming.ts'

const tasks = ['/a', '/b', '/c', '/d'].map((name) => ({ name, request: {} }))
const stored: Outcome = { kind: 'stored', tokens: 1234, text: 'fine', isCut: false }
const failed: Outcome = { kind: 'failed', code: 'x', reason: '502 x: Cannot', tokens: 6 }
const present: Outcome = { kind: 'present', text: 'fine', isCut: false }

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
