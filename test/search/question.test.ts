// Which spellings of a question are one.
import { describe, expect, test } from 'vitest'
import { normaliseQuestion } from '../../src/search/question.ts'
import { cpuMs } from '../support/cpu.ts'

describe('normaliseQuestion()', () => {
  test.each([
    ['How long?', '  HOW   long ??? '],
    ['Cafe\u0301', 'CAFÉ'],
    // Capital letters that have no composed form.
    ['\u03b0', '\u03ab\u0301'],
    ['\u01f0', 'J\u030c'],
    ['यह क्या है', 'यह क्या है।'],
    ['یہ کیا ہے', 'یہ کیا ہے۔'],
  ])('%j is %j', (one, other) => {
    expect(normaliseQuestion(one)).toBe(normaliseQuestion(other))
  })

  test.each([
    ['C', 'C#'],
    ['a b', 'ab'],
    ['a?b', 'a b'],
    ['.net', 'net'],
  ])('%j is not %j', (one, other) => {
    expect(normaliseQuestion(one)).not.toBe(normaliseQuestion(other))
  })

  test.each(['.', ' ', ' .', '¿ ', '\u0316\u0334', '\uff9e\u0334'])(
    'takes linear time for many %j',
    (signs) => {
      const long = `x${signs.repeat(100_000)}x`
      expect(cpuMs(() => normaliseQuestion(long))).toBeLessThan(200)
    },
  )
})
