// What the command says: each line must tell its reader which page it is, why, and what to do.
import { expect, test } from 'vitest'
import { bar, forecast, line, skippedLines, summary } from '../../../scripts/warm/report.ts'
import type { Outcome } from '../../../scripts/warm/warming.ts'

const tasks = ['/a', '/b', '/c', '/d'].map((name) => ({ name, request: {} }))
const stored: Outcome = { kind: 'stored', tokens: 1234 }
const failed: Outcome = { kind: 'failed', code: 'x', reason: '502 x: Cannot', tokens: 6 }
const present: Outcome = { kind: 'present' }

test('the bar', () => {
  const at = { done: 0, all: 4, failed: 0, tokens: 0 }
  expect(bar(at, 8)).toBe('░░░░░░░░ 0/4')
  expect(bar({ ...at, done: 2, failed: 1 }, 8)).toBe('████░░░░ 2/4, 1 failed')
  expect(bar({ ...at, done: 4, tokens: 12_345 }, 8)).toBe('████████ 4/4, 12,345 tokens spent')
  expect(bar({ ...at, all: 0 }, 8)).toBe('████████ 0/0')
})

test('the table, then each failure with its reason', () => {
  expect(summary(tasks, [stored, failed, present, stored]).split('\n')).toEqual([
    'stored               2',
    'already there        1',
    'failed               1',
    'tokens spent     2,474',
    'failed         /b  502 x: Cannot',
  ])
})

test('a run that was not ended says how to go on', () => {
  const said = summary(tasks, [stored, { kind: 'unasked' }, { kind: 'unasked' }, present])
  expect(said).toMatch(/\nnot asked {12}2\n/)
  expect(said).toMatch(/run the same command again: what is there is skipped/)
  expect(said).not.toContain('budget')
  const spent = summary(tasks, [{ ...failed, code: 'budget_exhausted' }])
  expect(spent).toContain('The budget of the day is spent: it begins anew at 00:00 UTC')
})

test('a line for each request', () => {
  expect(line(stored, { name: '/a', request: {} })).toBe('stored         /a  1,234 tokens')
  expect(line(present, { name: '/a', request: {} })).toBe('already there  /a')
  expect(line(failed, { name: '/a', request: {} })).toBe('failed         /a  502 x: Cannot')
})

test('pages that are skipped: the first ten, and how many more', () => {
  const skipped = Array.from({ length: 12 }, (_, i) => ({ url: `/${i}`, reason: 'no address' }))
  expect(skippedLines(skipped.slice(0, 1))).toEqual(['skipped        /0  no address'])
  expect(skippedLines(skipped)).toHaveLength(11)
  expect(skippedLines(skipped).at(-1)).toBe('skipped        2 more')
})

test('a forecast says that it is one', () => {
  const found = { present: 1, missing: 2, tokensRead: 1500, tokensWritten: null, failed: [] }
  expect(forecast(found).split('\n')).toEqual([
    'already there        1',
    'to be asked          2',
    'failed               0',
    'about 1,500 tokens to be read, and up to max_tokens of the prompt for each answer',
    'An estimate: four bytes of text for a token, without the words of the prompt itself.',
    'Nothing was spent.',
  ])
  expect(forecast({ ...found, tokensWritten: 80 })).toContain('and 80 to be written, as those')
  const none = forecast({ ...found, missing: 0, failed: [{ task: tasks[0]!, reason: '403 x' }] })
  expect(none).not.toContain('about')
  expect(none).toContain('failed         /a  403 x')
})
