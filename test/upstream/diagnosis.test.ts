// The error messages of upstreams, each as its service phrases it, and what they are recognised as.
import { expect, test } from 'vitest'
import { diagnose } from '../../src/upstream/diagnosis.ts'
import type { Hint } from '../../src/upstream/hints.ts'
import samples from '../fixtures/upstream-errors.json' with { type: 'json' }
import { cpuMs } from '../support/cpu.ts'

type Row = [subject: string, hint: Hint, service: string, error: unknown]

test.each(samples.diagnosed as Row[])(
  'diagnose() recognises %s, with the hint %s, in the message of %s',
  (subject, hint, _, error) => {
    const diagnosis = { subject, hint }
    expect(diagnose(error)).toEqual(diagnosis)
    if (typeof error !== 'object') return
    const usual = { type: 'invalid_request_error', param: null, code: null }
    expect(diagnose({ ...usual, ...error })).toEqual(diagnosis)
  },
)

test.each(samples['limits of the rate'] as [string, unknown][])(
  'diagnose() does not take the rate limit of %s for a quota',
  (_, error) => {
    expect(diagnose(error)?.subject).not.toBe('quota')
  },
)

test.each<[string, unknown]>([
  ['nothing', null],
  ['no words', { error: {} }],
  ['an unknown message', { message: 'something happened', type: 'invalid_request_error' }],
  ['a page', '<html><title>API key invalid</title></html>'],
  [
    'an echo of the request',
    { message: 'value is not valid', input: 'insufficient_quota', ctx: { x: 'invalid_api_key' } },
  ],
  ['a number', 5],
])('diagnose() of %s is null', (_, what) => {
  expect(diagnose(what)).toBeNull()
})

test('diagnose() limits depth and length for hostile input', () => {
  let deep: unknown = 'insufficient_quota'
  for (let i = 0; i < 100_000; i++) deep = { error: deep }
  expect(diagnose(deep)).toBeNull()
  const words = ['model ', 'exceeded your ', 'api key ', 'max_tokens ', '额度', 'no ', 'tokens ']
  for (const word of [...words, 'location ']) {
    const ms = cpuMs(() => diagnose({ message: word.repeat(200_000) }))
    expect(ms, word).toBeLessThan(200)
  }
})
