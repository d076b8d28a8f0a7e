// One upstream call's deltas made clean: what is kept, what is dropped, and which ends are earned.

import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { FinishReason } from '../../src/completion/completion.ts'
import type { RawDelta, TokenLogprobs } from '../../src/completion/delta.ts'
import { Normaliser } from '../../src/completion/normal.ts'
import { GatewayError } from '../../src/errors.ts'

const end: RawDelta = { kind: 'end' }
const text = (said: string, index = 0, logprobs: TokenLogprobs | null = null): RawDelta => ({
  kind: 'text',
  index,
  text: said,
  logprobs,
})
const finish = (reason: FinishReason = 'stop', index = 0): RawDelta => ({
  kind: 'finish',
  index,
  reason,
})
const counted = (prompt: number, completion: number, index: number | null = null): RawDelta => ({
  kind: 'usage',
  index,
  usage: usage(prompt, completion),
})
const usage = (prompt_tokens: number, completion_tokens: number) => ({
  prompt_tokens,
  completion_tokens,
  total_tokens: prompt_tokens + completion_tokens,
})

function run(raw: readonly RawDelta[], options: { choices?: number; logprobs?: boolean } = {}) {
  const normaliser = new Normaliser({
    choices: 1,
    perPrompt: options.choices ?? 1,
    logprobs: false,
    ...options,
  })
  const texts = raw.map((delta) => normaliser.add(delta)).filter((delta) => delta !== null)
  return { texts, meta: normaliser.meta, end: () => normaliser.end() }
}

const failure = (code: string) => expect.objectContaining({ code }) as GatewayError

test('Normaliser.add() hands text on and holds the finish back until the end', () => {
  const { texts, end } = run([text('a'), text('b'), finish('length')])
  expect(texts.map((delta) => delta.text)).toEqual(['a', 'b'])
  expect(end().finishes).toEqual([{ kind: 'finish', index: 0, reason: 'length' }])
})

test('Normaliser.add() drops an empty text without logprobs', () => {
  expect(run([text(''), text('a'), text('')]).texts).toHaveLength(1)
})

test('Normaliser.add() drops indices nobody asked for', () => {
  const raw = [
    text('no', 1),
    text('no', -1),
    text('no', 0.5),
    text('a'),
    finish('length', 1),
    finish(),
  ]
  const { texts, end } = run(raw)
  expect(texts).toEqual([{ kind: 'text', index: 0, text: 'a', logprobs: null }])
  expect(end().finishes).toEqual([{ kind: 'finish', index: 0, reason: 'stop' }])
})

test('Normaliser.add() drops text after its choice finished, not that of another', () => {
  const raw = [text('a'), finish(), text('late'), text('b', 1), finish('stop', 1)]
  const { texts } = run(raw, { choices: 2 })
  expect(texts.map((delta) => delta.text)).toEqual(['a', 'b'])
})

test('Normaliser.end() has the first reason, unless a filter took the answer back later', () => {
  expect(run([text('a'), finish('length'), finish('stop')]).end().finishes[0]?.reason).toBe(
    'length',
  )
  expect(run([text('a'), finish('stop'), finish('content_filter')]).end().finishes[0]?.reason).toBe(
    'content_filter',
  )
})

test('Normaliser.end() has exactly one finish for each choice, in order', () => {
  const raw = [text('b', 1), finish('length', 1), finish('length', 1), text('a'), finish()]
  expect(run(raw, { choices: 2 }).end().finishes).toEqual([
    { kind: 'finish', index: 0, reason: 'stop' },
    { kind: 'finish', index: 1, reason: 'length' },
  ])
})

test('Normaliser.end() makes a stop where a terminator came and no reason', () => {
  const ended = run([text('a'), end]).end()
  expect(ended.finishes).toEqual([{ kind: 'finish', index: 0, reason: 'stop' }])
  expect(ended.whole).toBe(true)
})

test('Normaliser.end() is not whole where the reason was inferred', () => {
  const raw: RawDelta[] = [
    text('a'),
    { kind: 'finish', index: 0, reason: 'stop', inferred: true },
    end,
  ]
  expect(run(raw).end().whole).toBe(false)
})

test('Normaliser.end() is whole with a finish and no terminator', () => {
  expect(run([text('a'), finish()]).end().whole).toBe(true)
})

test('Normaliser.end() throws upstream_truncated without a finish and a terminator', () => {
  expect(run([text('a')]).end).toThrow(failure('upstream_truncated'))
  expect(run([text('a'), finish(), text('b', 1)], { choices: 2 }).end).toThrow(
    failure('upstream_truncated'),
  )
})

test('Normaliser.end() throws upstream_bad_response where nothing was said', () => {
  for (const raw of [[], [end], [text(''), end], [counted(5, 2), end], [text('no', 4), end]]) {
    expect(run(raw).end).toThrow(failure('upstream_bad_response'))
  }
})

test('Normaliser.end() throws upstream_bad_response where a choice never came', () => {
  expect(run([text('a'), finish(), end], { choices: 2 }).end).toThrow(
    failure('upstream_bad_response'),
  )
})

test('Normaliser.end() takes a finish without a text for an answer', () => {
  expect(run([finish('content_filter'), end]).end().finishes).toHaveLength(1)
})

test('Normaliser.meta has the first value of each that is not empty', () => {
  const { meta } = run([
    { kind: 'meta', id: '', model: '' },
    { kind: 'meta', id: 'a', fingerprint: 'fp' },
    { kind: 'meta', id: 'b', model: 'm', fingerprint: 'fq' },
  ])
  expect(meta).toEqual({ id: 'a', model: 'm', fingerprint: 'fp' })
})

test('Normaliser.end() takes the last usage of all', () => {
  expect(run([text('a'), counted(5, 1), counted(5, 2), finish()]).end().usage).toEqual(usage(5, 2))
  expect(run([text('a'), counted(5, 1, 0), counted(5, 2, 0), finish()]).end().usage).toEqual(
    usage(5, 2),
  )
})

test('Normaliser.end() prefers the total to what was counted for each choice', () => {
  const raw = [text('a'), counted(5, 9), counted(5, 1, 0), finish()]
  expect(run(raw).end().usage).toEqual(usage(5, 9))
})

test('Normaliser.end() adds up what was counted for each choice, the prompt once', () => {
  const raw = [
    text('a'),
    counted(5, 1, 0),
    finish(),
    text('b', 1),
    counted(5, 2, 1),
    finish('stop', 1),
  ]
  expect(run(raw, { choices: 2 }).end().usage).toEqual(usage(5, 3))
})

test('Normaliser.end() has no usage where the count cannot be true', () => {
  expect(run([text('a'), counted(0, 2), finish()]).end().usage).toBeNull()
  expect(run([text('a'), counted(5, 0), finish()]).end().usage).toBeNull()
  expect(run([text('a'), finish()]).end().usage).toBeNull()
  expect(run([finish('content_filter'), counted(5, 0)]).end().usage).toEqual(usage(5, 0))
})

const odds = (tokens: string[], more: Partial<TokenLogprobs> = {}): TokenLogprobs => ({
  tokens,
  token_logprobs: tokens.map(() => -1),
  top_logprobs: null,
  ...more,
})

test('Normaliser.add() drops logprobs that nobody asked for', () => {
  expect(run([text('a', 0, odds(['a']))]).texts[0]?.logprobs).toBeNull()
})

test('Normaliser.add() counts offsets over all texts of a choice, where there are none', () => {
  const raw = [
    text('水🌊', 0, odds(['水', '🌊'])),
    text('c', 1, odds(['c'])),
    text('b', 0, odds(['b'])),
  ]
  const { texts } = run(raw, { choices: 2, logprobs: true })
  expect(texts.map(({ logprobs }) => logprobs?.text_offset)).toEqual([[0, 1], [0], [3]])
})

test('Normaliser.add() keeps the offsets of an upstream that has them', () => {
  const { texts } = run([text('a', 0, odds(['a'], { text_offset: [18] }))], { logprobs: true })
  expect(texts[0]?.logprobs?.text_offset).toEqual([18])
})

test('Normaliser.add() keeps logprobs that come with an empty text', () => {
  expect(run([text('', 0, odds(['']))], { logprobs: true }).texts).toHaveLength(1)
})

const rawArbitrary: fc.Arbitrary<RawDelta> = fc.oneof(
  fc.record({ kind: fc.constant('meta' as const), id: fc.string(), model: fc.string() }),
  fc
    .tuple(fc.string({ maxLength: 3 }), fc.integer({ min: -1, max: 3 }))
    .map(([said, index]) => text(said, index)),
  fc
    .tuple(
      fc.constantFrom('stop' as const, 'length' as const, 'content_filter' as const),
      fc.integer({ min: -1, max: 3 }),
    )
    .map(([reason, index]) => finish(reason, index)),
  fc.tuple(fc.nat(9), fc.nat(9), fc.option(fc.nat(3))).map(([p, c, index]) => counted(p, c, index)),
  fc.constant(end),
)

test('Normaliser makes any deltas clean, or fails with a code of its own', () => {
  fc.assert(
    fc.property(
      fc.array(rawArbitrary, { maxLength: 20 }),
      fc.integer({ min: 1, max: 3 }),
      (raw, choices) => {
        const { texts, end } = run(raw, { choices })
        for (const delta of texts) {
          expect(delta.text).not.toBe('')
          expect(delta.index).toBeGreaterThanOrEqual(0)
          expect(delta.index).toBeLessThan(choices)
        }
        try {
          const { finishes } = end()
          expect(finishes.map(({ index }) => index)).toEqual(
            Array.from({ length: choices }, (_, i) => i),
          )
        } catch (error) {
          expect(error).toBeInstanceOf(GatewayError)
          expect(['upstream_truncated', 'upstream_bad_response']).toContain(
            (error as GatewayError).code,
          )
        }
      },
    ),
    { numRuns: 500 },
  )
})

test('Normaliser.add() keeps the halves of a character together, wherever an upstream splits them', () => {
  const whole = 'a🎈b🦆'
  for (let at = 1; at < whole.length; at++) {
    const texts = [whole.slice(0, at), whole.slice(at)]
    const raw = texts.map((text): RawDelta => ({ kind: 'text', index: 0, text, logprobs: null }))
    const said = run(raw).texts.map(({ text }) => text)
    expect(said.every((text) => text.isWellFormed())).toBe(true)
    expect(said.join('')).toBe(whole)
  }
})
