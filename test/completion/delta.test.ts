// Folding deltas into a completion and replaying a completion as deltas are inverse to each other.

import fc from 'fast-check'
import { expect, test } from 'vitest'
import { type Delta, Fold, type FoldedAnswer, replay } from '../../src/completion/delta.ts'
import { anyAnswer, logprobsOf, textOf } from '../support/any-answer.ts'

function fold(deltas: readonly Delta[]): FoldedAnswer | null {
  const fold = new Fold()
  for (const delta of deltas) fold.add(delta)
  return fold.folded()
}

// Byte for byte, since both the JSON answer and the stored entry are serialised from it.
test('Fold restores the completion from replay()', () => {
  fc.assert(
    fc.property(anyAnswer, ({ folded }) => {
      expect(JSON.stringify(fold(replay(folded)))).toBe(
        JSON.stringify({ completion: folded.completion, estimated: folded.estimated }),
      )
    }),
    { numRuns: 300 },
  )
})

test('Fold joins text and log probabilities for any pieces in any order of choices', () => {
  fc.assert(
    fc.property(
      anyAnswer,
      fc.array(fc.tuple(fc.nat({ max: 3 }), fc.integer({ min: 1, max: 3 }))),
      ({ folded, choices }, cuts) => {
        const { completion, estimated } = folded
        const [head, ...rest] = replay(folded)
        if (head === undefined) throw new Error('no head')
        const deltas: Delta[] = [head]
        const sent = choices.map(() => 0)
        const send = (index: number, size: number) => {
          const { tokens, scores } = choices[index] ?? { tokens: [], scores: 'none' }
          const from = sent[index] ?? 0
          const part = tokens.slice(from, from + size)
          if (part.length === 0) return
          sent[index] = from + part.length
          const offset = textOf(tokens.slice(0, from)).length
          const logprobs = scores === 'none' ? null : logprobsOf(part, offset, scores === 'top')
          deltas.push({ kind: 'text', index, text: textOf(part), logprobs })
        }
        for (const [at, size] of cuts) send(at % choices.length, size)
        for (const index of choices.keys()) send(index, Number.POSITIVE_INFINITY)
        // The finishes come in another order than the choices.
        deltas.push(...rest.filter(({ kind }) => kind === 'finish').reverse())
        deltas.push({ kind: 'usage', usage: completion.usage, estimated })
        const again = fold(deltas)
        expect(again?.completion.choices.map(({ text }) => text)).toEqual(
          completion.choices.map(({ text }) => text),
        )
        for (const [index, { tokens }] of choices.entries()) {
          const expected = completion.choices[index]?.logprobs ?? null
          // A choice without tokens has no delta with log probabilities.
          expect(again?.completion.choices[index]?.logprobs).toEqual(
            tokens.length === 0 ? null : expected,
          )
        }
        expect(again?.completion.usage).toEqual(completion.usage)
      },
    ),
  )
})

const head: Delta = { kind: 'head', head: { id: 'cmpl-x', created: 1, model: 'm' } }
const usage: Delta = {
  kind: 'usage',
  usage: { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 },
  estimated: true,
}
const piece = (index: number, text: string): Delta => ({
  kind: 'text',
  index,
  text,
  logprobs: null,
})
const finish = (index: number): Delta => ({ kind: 'finish', index, reason: 'stop' })

test('Fold.folded() is null while any part is missing', () => {
  const all = [head, piece(0, 'a'), finish(0), usage]
  expect(fold(all)?.completion.choices[0]?.text).toBe('a')
  expect(fold([])).toBeNull()
  expect(fold([piece(0, 'a'), finish(0), usage])).toBeNull()
  expect(fold([head, piece(0, 'a'), usage])).toBeNull()
  expect(fold([head, piece(0, 'a'), finish(0)])).toBeNull()
  expect(fold([head, usage])).toBeNull()
  expect(fold([head, piece(0, 'a'), piece(1, 'b'), finish(0), usage])).toBeNull()
})

test('Fold sorts the choices and writes the keys in the documented order', () => {
  const folded = fold([head, piece(2, 'c'), piece(0, 'a'), finish(2), finish(1), finish(0), usage])
  expect(folded?.estimated).toBe(true)
  expect(JSON.stringify(folded?.completion)).toBe(
    '{"id":"cmpl-x","object":"text_completion","created":1,"model":"m","choices":[' +
      '{"text":"a","index":0,"logprobs":null,"finish_reason":"stop"},' +
      '{"text":"","index":1,"logprobs":null,"finish_reason":"stop"},' +
      '{"text":"c","index":2,"logprobs":null,"finish_reason":"stop"}],' +
      '"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}',
  )
})

test('Fold does not modify the deltas', () => {
  const logprobs = logprobsOf([{ text: 'a', logprob: -1, top: { a: -1 } }], 0, true)
  const deltas: Delta[] = [
    head,
    { kind: 'text', index: 0, text: 'a', logprobs },
    { kind: 'text', index: 0, text: 'a', logprobs },
    finish(0),
    usage,
  ]
  const before = structuredClone(deltas)
  expect(fold(deltas)?.completion.choices[0]?.logprobs?.tokens).toEqual(['a', 'a'])
  expect(deltas).toEqual(before)
})

test('replay() returns the head, each choice with its finish, and the usage', () => {
  const folded = fold([head, piece(0, 'a'), finish(0), finish(1), usage])
  if (folded === null) throw new Error('not folded')
  expect(replay(folded)).toEqual([head, piece(0, 'a'), finish(0), finish(1), usage])
})

// Spreading a long list into a call would exceed the argument limit.
test('Fold accepts the log probabilities of a very long answer in one delta', () => {
  const tokens = Array<string>(300_000).fill('a')
  const numbers = tokens.map(() => -1)
  const logprobs = { tokens, token_logprobs: numbers, top_logprobs: null, text_offset: numbers }
  const text: Delta = { kind: 'text', index: 0, text: tokens.join(''), logprobs }
  const folded = fold([head, text, finish(0), usage])
  expect(folded?.completion.choices[0]?.logprobs?.tokens).toHaveLength(300_000)
})
