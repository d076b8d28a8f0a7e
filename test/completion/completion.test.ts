// The schema of a completion, and its helpers.

import fc from 'fast-check'
import * as v from 'valibot'
import { expect, test } from 'vitest'
import {
  type Completion,
  completionSchema,
  estimateTokens,
  randomLetters,
} from '../../src/completion/completion.ts'

const whole: Completion = {
  id: 'cmpl-ABCDEFGHIJKLMNOPQRSTUVWX',
  object: 'text_completion',
  created: 1589478378,
  model: 'gpt-6-luna',
  system_fingerprint: 'fp_1',
  choices: [{ text: 'sea', index: 0, logprobs: null, finish_reason: 'stop' }],
  usage: { prompt_tokens: 5, completion_tokens: 7, total_tokens: 12 },
}
const [choice] = whole.choices
const logprobs = {
  tokens: ['sea'],
  token_logprobs: [-0.5],
  top_logprobs: [{ sea: -0.5, sky: -1 }],
  text_offset: [0],
}
const withChoice = (change: object) => ({ ...whole, choices: [{ ...choice, ...change }] })
const withUsage = (change: object) => ({ ...whole, usage: { ...whole.usage, ...change } })

test('completionSchema accepts an answer that a content filter has cut', () => {
  const value = withChoice({ finish_reason: 'content_filter' })
  expect(v.parse(completionSchema, value)).toEqual(value)
})

// Other answers, and fields that are missing, unknown or of another type: test/cache/entry.test.ts.
test.each([
  { ...whole, id: 'cmpl-short' },
  { ...whole, id: 'chatcmpl-ABCDEFGHIJKLMNOPQRSTUVWX' },
  { ...whole, id: 'cmpl-ABCDEFGHIJKLMNOPQRSTUVWX\n' },
  { ...whole, object: 'chat.completion' },
  { ...whole, created: 1.5 },
  { ...whole, system_fingerprint: null },
  withChoice({ finish_reason: null }),
  withChoice({ finish_reason: 'tool_calls' }),
  withChoice({ index: -1 }),
  withChoice({ index: 0.5 }),
  withChoice({ logprobs: { ...logprobs, text_offset: undefined } }),
  withUsage({ completion_tokens: -1 }),
])('completionSchema refuses %j', (value) => {
  expect(v.safeParse(completionSchema, value).success).toBe(false)
})

test('randomLetters() returns the requested number of letters and digits', () => {
  fc.assert(
    fc.property(fc.nat({ max: 60 }), fc.integer({ min: 1 }), (length, seed) => {
      let state = seed
      const text = randomLetters(length, (bytes) => {
        for (const i of bytes.keys()) {
          state = (Math.imul(state, 1103515245) + 12345) >>> 0
          bytes[i] = state >>> 16
        }
      })
      expect(text).toMatch(/^[A-Za-z0-9]*$/)
      expect(text).toHaveLength(length)
    }),
  )
})

test('randomLetters() is uniformly distributed', () => {
  // All byte values in turn: 62 of 64 remainders are letters, each 4 times in 256.
  let next = 0
  const text = randomLetters(62 * 4 * 10, (bytes) => {
    for (const i of bytes.keys()) bytes[i] = next++ & 255
  })
  const counts = new Map<string, number>()
  for (const letter of text) counts.set(letter, (counts.get(letter) ?? 0) + 1)
  expect(counts.size).toBe(62)
  expect(new Set(counts.values())).toEqual(new Set([40]))
})

test('estimateTokens() counts four UTF-8 bytes as one token, and at least one for any text', () => {
  expect(['', 'a', 'abcd', 'abcde', '😀', 'é'.repeat(4)].map(estimateTokens)).toEqual([
    0, 1, 1, 2, 1, 2,
  ])
})

test('completionSchema keeps log probabilities of every token, such as "constructor"', () => {
  const top_logprobs = [JSON.parse('{"constructor":-0.5,"__proto__":-1,"prototype":-2}')]
  const value = withChoice({ logprobs: { ...logprobs, top_logprobs } })
  expect(JSON.stringify(v.parse(completionSchema, value))).toBe(JSON.stringify(value))
})
