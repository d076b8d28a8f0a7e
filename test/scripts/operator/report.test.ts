// The output that the operator's commands have in common: the bar, skipped pages and the forecast.
import { expect, test } from 'vitest'
import { bar, forecast, skippedLines } from '../../../scripts/operator/report.ts'

test('bar() shows progress, failures and tokens spent', () => {
  const at = { done: 0, all: 4, failed: 0, tokens: 0 }
  expect(bar(at, 8)).toBe('░░░░░░░░ 0/4')
  expect(bar({ ...at, done: 2, failed: 1 }, 8)).toBe('████░░░░ 2/4, 1 failed')
  expect(bar({ ...at, done: 4, tokens: 12_345 }, 8)).toBe('████████ 4/4, 12,345 tokens spent')
  expect(bar({ ...at, all: 0 }, 8)).toBe('████████ 0/0')
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
  const none = forecast({
    ...found,
    missing: 0,
    failed: [{ task: { name: '/a', request: {} }, reason: '403 x' }],
  })
  expect(none).not.toContain('about')
  expect(none).toContain('failed         /a  403 x')
})
