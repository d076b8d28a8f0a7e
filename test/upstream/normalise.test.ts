// Normalising the deltas of one upstream call.

import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { FinishReason } from '../../src/completion/completion.ts'
import type { RawDelta, TextDelta, TokenLogprobs } from '../../src/completion/delta.ts'
import { GatewayError } from '../../src/errors.ts'
import { Normaliser } from '../../src/upstream/normalise.ts'

const end: RawDelta = { kind: 'end' }
const cut: RawDelta = { kind: 'cut' }
const failed = (index = 0): RawDelta => ({ kind: 'failed', index })
const text = (piece: string, index = 0, logprobs: TokenLogprobs | null = null): RawDelta => ({
  kind: 'text',
  index,
  text: piece,
  logprobs,
})
const finish = (reason: FinishReason = 'stop', index = 0, onContent = false): RawDelta => ({
  kind: 'finish',
  index,
  reason,
  onContent,
})
const usage = (prompt_tokens: number, completion_tokens: number) => ({
  prompt_tokens,
  completion_tokens,
  total_tokens: prompt_tokens + completion_tokens,
})
const counted = (prompt: number, completion: number, index: number | null = null): RawDelta => ({
  kind: 'usage',
  index,
  usage: usage(prompt, completion),
})

interface Options {
  readonly choices?: number
  readonly logprobs?: boolean
  readonly echoed?: readonly string[]
  readonly usageRequested?: boolean
  readonly maxTokens?: number
}

function run(raw: readonly RawDelta[], options: Options = {}) {
  const normaliser = new Normaliser({
    choices: 1,
    perPrompt: options.choices ?? 1,
    logprobs: false,
    echoed: [],
    maxTokens: 999,
    ...options,
  })
  const texts: TextDelta[] = []
  for (const delta of raw) normaliser.add(delta, texts)
  const { meta, progress } = normaliser
  return { texts, meta, progress, end: () => normaliser.end() }
}

const failure = (code: string) => expect.objectContaining({ code }) as GatewayError

test('Normaliser.add() passes text on and holds the finish back until the end', () => {
  const { texts, end } = run([text('a'), text('b'), finish('length')])
  expect(texts.map((delta) => delta.text)).toEqual(['a', 'b'])
  expect(end().finishes).toEqual([{ kind: 'finish', index: 0, reason: 'length' }])
})

test('Normaliser.add() drops an empty text without logprobs', () => {
  expect(run([text(''), text('a'), text('')]).texts).toHaveLength(1)
})

test('Normaliser.add() drops choices that were not requested', () => {
  const others = [1, -1, 0.5].map((index) => text('no', index))
  const { texts, end } = run([...others, text('a'), finish('length', 1), finish()])
  expect(texts).toEqual([{ kind: 'text', index: 0, text: 'a', logprobs: null }])
  expect(end().finishes).toEqual([{ kind: 'finish', index: 0, reason: 'stop' }])
  expect(end().doubt).toBe('unknown_index')
})

test('Normaliser.add() assigns indices that count chunks to the one requested choice', () => {
  const textOf = (...indices: number[]) => {
    const { texts, end: ended } = run([...indices.map((index) => text(`${index}`, index)), end])
    return [...texts, ...ended().texts].map((delta) => delta.text).join('')
  }
  expect(textOf(0, 1, 2, 3)).toBe('0123')
  expect(textOf(0, 0, 1, 1, 2, 2)).toBe('001122')
  expect(textOf(1, 2, 3)).toBe('123')
  expect(textOf(0, 1)).toBe('01')
  expect(textOf(0, 2, 4, 5)).toBe('0245')
  // A second choice, not a counter.
  expect(textOf(0, 1, 0, 1)).toBe('00')
  expect(textOf(0, 2, 2, 0)).toBe('00')
})

test('Normaliser.add() keeps text that follows a finish reason', () => {
  const { texts, end: ended } = run([text('a'), finish(), text('b'), finish('length'), end])
  expect(texts.map((delta) => delta.text)).toEqual(['a', 'b'])
  expect(ended()).toMatchObject({ finishes: [{ reason: 'length' }], doubt: null })
})

test('Normaliser.end() returns the last reason, except that content_filter is final', () => {
  const reasonOf = (...raw: RawDelta[]) => run([text('a'), ...raw]).end().finishes[0]?.reason
  expect(reasonOf(finish('length'), finish('stop'))).toBe('stop')
  expect(reasonOf(finish('stop'), finish('content_filter'))).toBe('content_filter')
  expect(reasonOf(finish('content_filter'), finish('stop'))).toBe('content_filter')
  expect(reasonOf(finish('content_filter'), text('b'), finish('length'))).toBe('content_filter')
})

test('Normaliser.add() throws for a failed choice, even after another reason', () => {
  for (const raw of [[failed()], [text('a'), failed()], [text('a'), finish(), failed()]]) {
    expect(() => run(raw)).toThrow(failure('upstream_bad_response'))
  }
  expect(() => run([failed(1)], { choices: 2 })).toThrow(failure('upstream_bad_response'))
})

test('Normaliser.add() ignores a failure after content_filter or of an unrequested choice', () => {
  expect(run([text('a'), finish('content_filter'), failed()]).end().finishes).toHaveLength(1)
  expect(run([text('a'), finish(), failed(7)]).end().doubt).toBe('unknown_index')
})

test.each<[string, RawDelta[], string, string | null]>([
  ['text', [text('a')], 'running', null],
  ['a reason', [text('a'), finish()], 'finished', null],
  ['a reason on content', [text('a'), finish('stop', 0, true)], 'finished', 'doubtful_end'],
  ['a content filter', [finish('content_filter')], 'finished', null],
  ['text after a reason', [text('a'), finish(), text('b')], 'running', null],
  [
    'a reason, text and another reason',
    [text('a'), finish(), text('b'), finish()],
    'claimed',
    'doubtful_end',
  ],
  [
    'a reason, text and a content filter',
    [text('a'), finish(), text('b'), finish('content_filter')],
    'finished',
    null,
  ],
  ['text after a content filter', [finish('content_filter'), text('a')], 'finished', null],
  ['a stop without text', [finish()], 'claimed', 'doubtful_end'],
  ['a reason on reasoning', [finish('stop', 0, true)], 'running', null],
  ['a limit without text', [finish('length')], 'claimed', 'doubtful_end'],
])(
  'Normaliser has the right progress after %s, and doubt if cut off',
  (_, raw, progress, doubt) => {
    expect(run(raw).progress).toBe(progress)
    if (progress !== 'running') expect(run([...raw, cut]).end().doubt).toBe(doubt)
  },
)

test('Normaliser.progress is finished once all choices are', () => {
  const raw = [text('a'), finish(), text('b', 1)]
  expect(run(raw, { choices: 2 }).progress).toBe('running')
  expect(run([...raw, finish('length', 1)], { choices: 2 }).progress).toBe('finished')
})

test('Normaliser.add() extracts the new text from a whole message', () => {
  const message = (text: string): RawDelta => ({
    kind: 'text',
    index: 0,
    text,
    logprobs: null,
    whole: true,
  })
  const textsOf = (...raw: RawDelta[]) => run(raw).texts.map((delta) => delta.text)
  expect(textsOf(text('a'), text('b'), message('ab'))).toEqual(['a', 'b'])
  expect(textsOf(message('ab'))).toEqual(['ab'])
  expect(textsOf(message('ab'), message('abc'), message('abc'))).toEqual(['ab', 'c'])
  expect(textsOf(message('one'), message(' two'))).toEqual(['one', ' two'])
})

test('Normaliser.end() has a doubt if requested log probabilities are missing', () => {
  const scores = (value: number | null): TokenLogprobs => ({
    tokens: ['a'],
    token_logprobs: [value],
    top_logprobs: null,
  })
  const doubtOf = (...raw: RawDelta[]) => run(raw, { logprobs: true }).end().doubt
  expect(doubtOf(text('a', 0, scores(-1)), finish())).toBeNull()
  expect(doubtOf(text('a'), finish())).toBe('no_logprobs')
  expect(doubtOf(text('a', 0, scores(null)), finish())).toBe('no_logprobs')
  // An empty text has no log probabilities.
  expect(doubtOf(finish('length'))).toBeNull()
  expect(run([text('a'), finish()]).end().doubt).toBeNull()
})

test('Normaliser.end() returns exactly one finish per choice, in order', () => {
  const raw = [text('b', 1), finish('length', 1), finish('length', 1), text('a'), finish()]
  expect(run(raw, { choices: 2 }).end().finishes).toEqual([
    { kind: 'finish', index: 0, reason: 'stop' },
    { kind: 'finish', index: 1, reason: 'length' },
  ])
})

test('Normaliser.end() doubts a terminator without a reason if the usage was requested and is missing', () => {
  const asked = { usageRequested: true }
  expect(run([text('a'), end], asked).end().doubt).toBe('no_reason')
  expect(run([text('a'), counted(5, 1), end], asked).end().doubt).toBeNull()
  expect(run([text('a'), finish('stop'), end], asked).end().doubt).toBeNull()
})

test.each([
  [15, 'stop'],
  [16, 'length'],
  // It did not end by the limit, which it ignores.
  [17, 'stop'],
])(
  'Normaliser.end() tells by %i tokens of 16 why an answer without a reason ended',
  (tokens, reason) => {
    const endOf = (...deltas: readonly RawDelta[]) =>
      run([text('a'), ...deltas, counted(5, tokens), end], { maxTokens: 16 }).end()
    const inferred: RawDelta = { kind: 'finish', index: 0, reason: 'stop', inferred: true }
    for (const ended of [endOf(), endOf(inferred)]) {
      expect(ended.finishes).toEqual([{ kind: 'finish', index: 0, reason }])
    }
    expect(endOf(finish('stop')).finishes).toMatchObject([{ reason: 'stop' }])
  },
)

test('Normaliser.end() returns "stop" if there is a terminator but no reason', () => {
  const ended = run([text('a'), end]).end()
  expect(ended.finishes).toEqual([{ kind: 'finish', index: 0, reason: 'stop' }])
  expect(ended.doubt).toBeNull()
})

test('Normaliser.end() has a doubt if the reason was inferred', () => {
  const raw: RawDelta[] = [
    text('a'),
    { kind: 'finish', index: 0, reason: 'stop', inferred: true },
    end,
  ]
  expect(run(raw).end().doubt).toBe('no_reason')
})

test('Normaliser.end() has no doubt with a finish but no terminator', () => {
  expect(run([text('a'), finish()]).end().doubt).toBeNull()
})

test('Normaliser.end() throws upstream_truncated without a finish or a terminator', () => {
  expect(run([text('a'), finish(), text('b')]).end).toThrow(failure('upstream_truncated'))
  expect(run([text('a')]).end).toThrow(failure('upstream_truncated'))
  expect(run([text('a'), finish(), text('b', 1)], { choices: 2 }).end).toThrow(
    failure('upstream_truncated'),
  )
})

test('Normaliser.end() throws upstream_bad_response for an empty answer', () => {
  for (const raw of [[], [end], [text(''), end], [counted(5, 2), end], [text('no', 4), end]]) {
    expect(run(raw).end).toThrow(failure('upstream_bad_response'))
  }
})

test('Normaliser.end() reports a missing choice', () => {
  expect(run([text('a'), finish(), end], { choices: 2 }).end().missing).toBe(1)
  expect(run([text('a'), finish(), text('b', 1), end], { choices: 2 }).end().missing).toBeNull()
  expect(run([text('a'), finish(), finish('stop', 1)], { choices: 2 }).end().missing).toBeNull()
})

test('Normaliser.end() accepts a finish without text as an answer', () => {
  expect(run([finish('content_filter'), end]).end().finishes).toHaveLength(1)
})

test('Normaliser.meta has the first non-empty value of each field', () => {
  const { meta } = run([
    { kind: 'meta', id: '', model: '' },
    { kind: 'meta', id: 'a', fingerprint: 'fp' },
    { kind: 'meta', id: 'b', model: 'm', fingerprint: 'fq' },
  ])
  expect(meta).toEqual({ id: 'a', model: 'm', fingerprint: 'fp' })
})

test.each<[string, RawDelta[], ReturnType<typeof usage> | null]>([
  ['the last', [text('a'), counted(5, 1), counted(5, 2)], usage(5, 2)],
  ['the last of a choice', [text('a'), counted(5, 1, 0), counted(5, 2, 0)], usage(5, 2)],
  ['the total, not that of a choice', [text('a'), counted(5, 9), counted(5, 1, 0)], usage(5, 9)],
  ['none without a prompt', [text('a'), counted(0, 2)], null],
  ['none without an answer', [text('a'), counted(5, 0)], null],
  ['none', [text('a')], null],
  ['an empty answer', [finish('content_filter'), counted(5, 0)], usage(5, 0)],
])('Normaliser.end() returns a plausible usage: %s', (_, raw, expected) => {
  expect(run([...raw, finish()]).end().usage).toEqual(expected)
})

test('Normaliser.end() adds up the usage of each choice, counting the prompt once', () => {
  const choice = (index: number) => [text('a', index), finish('stop', index)]
  const raw = [...choice(0), counted(5, 1, 0), ...choice(1), counted(5, 2, 1)]
  expect(run(raw, { choices: 2 }).end().usage).toEqual(usage(5, 3))
})

const scores = (tokens: string[], more: Partial<TokenLogprobs> = {}): TokenLogprobs => ({
  tokens,
  token_logprobs: tokens.map(() => -1),
  top_logprobs: null,
  ...more,
})

test('Normaliser.add() drops logprobs that were not requested', () => {
  expect(run([text('a', 0, scores(['a']))]).texts[0]?.logprobs).toBeNull()
})

test('Normaliser.add() computes missing offsets from the start of the choice', () => {
  const raw = [
    text('水🌊', 0, scores(['水', '🌊'])),
    text('c', 1, scores(['c'])),
    text('b', 0, scores(['b'])),
  ]
  const { texts } = run(raw, { choices: 2, logprobs: true })
  expect(texts.map(({ logprobs }) => logprobs?.text_offset)).toEqual([[0, 1], [0], [3]])
})

test('Normaliser.add() computes offsets of tokens that are spelled differently', () => {
  const offsets = (...raw: RawDelta[]) =>
    run(raw, { logprobs: true }).texts.flatMap(({ logprobs }) => logprobs?.text_offset ?? [])
  // The escaped bytes of one character, in one or several deltas.
  expect(offsets(text('é!', 0, scores(['\\xc3', '\\xa9', '!'])))).toEqual([0, 0, 1])
  expect(offsets(text('', 0, scores(['\\xc3'])), text('é', 0, scores(['\\xa9'])))).toEqual([0, 0])
  // A special sign for a space.
  expect(offsets(text('a b', 0, scores(['a', '▁b'])))).toEqual([0, 1])
})

test('Normaliser.add() returns ascending offsets for any offsets and tokens', () => {
  const scored = fc.record({
    piece: fc.string({ maxLength: 4 }),
    tokens: fc.array(fc.string({ maxLength: 3 }), { minLength: 1, maxLength: 4 }),
    text_offset: fc.option(fc.array(fc.integer({ min: -5, max: 20 }), { maxLength: 4 })),
  })
  fc.assert(
    fc.property(fc.array(scored), (deltas) => {
      const raw = deltas.map(({ piece, tokens, text_offset }) =>
        text(
          piece,
          0,
          scores(tokens, text_offset?.length === tokens.length ? { text_offset } : {}),
        ),
      )
      const all = run(raw, { logprobs: true }).texts.flatMap(
        ({ logprobs }) => logprobs?.text_offset ?? [],
      )
      expect(all.every((offset, i) => i === 0 || offset >= (all[i - 1] ?? 0))).toBe(true)
    }),
  )
})

test('Normaliser.add() keeps the offsets of an upstream', () => {
  const { texts } = run([text('a', 0, scores(['a'], { text_offset: [18] }))], { logprobs: true })
  expect(texts[0]?.logprobs?.text_offset).toEqual([18])
})

test('Normaliser.add() keeps logprobs with an empty text', () => {
  expect(run([text('', 0, scores(['']))], { logprobs: true }).texts).toHaveLength(1)
})

const rawArbitrary: fc.Arbitrary<RawDelta> = fc.oneof(
  fc.record({ kind: fc.constant('meta' as const), id: fc.string(), model: fc.string() }),
  fc
    .tuple(fc.string({ maxLength: 3 }), fc.integer({ min: -1, max: 3 }))
    .map(([piece, index]) => text(piece, index)),
  fc
    .tuple(
      fc.constantFrom('stop' as const, 'length' as const, 'content_filter' as const),
      fc.integer({ min: -1, max: 3 }),
    )
    .map(([reason, index]) => finish(reason, index)),
  fc.tuple(fc.nat(9), fc.nat(9), fc.option(fc.nat(3))).map(([p, c, index]) => counted(p, c, index)),
  fc.constant(end),
  fc.constant(cut),
  fc.record({ kind: fc.constant('failed' as const), index: fc.nat(3) }),
)

test('Normaliser normalises any deltas or throws one of its own errors', () => {
  fc.assert(
    fc.property(
      fc.array(rawArbitrary, { maxLength: 20 }),
      fc.integer({ min: 1, max: 3 }),
      (raw, choices) => {
        try {
          const { texts, end } = run(raw, { choices })
          const { texts: late, finishes } = end()
          for (const delta of [...texts, ...late]) {
            expect(delta.text).not.toBe('')
            expect(delta.index).toBeGreaterThanOrEqual(0)
            expect(delta.index).toBeLessThan(choices)
          }
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

test('Normaliser.add() joins surrogate pairs that an upstream splits', () => {
  const whole = 'a🎈b🦆'
  for (let at = 1; at < whole.length; at++) {
    const raw = [text(whole.slice(0, at)), text(whole.slice(at))]
    const received = run(raw).texts.map((delta) => delta.text)
    expect(received.every((piece) => piece.isWellFormed())).toBe(true)
    expect(received.join('')).toBe(whole)
  }
})

test.each<[string, string[], RawDelta[], boolean]>([
  ['at once', ['One'], [text('One more')], true],
  ['in pieces', ['One'], [text('O'), text('ne'), text('!')], true],
  ['for each choice', ['One', 'Two'], [text('Two!', 1), text('One')], true],
  ['for only one of the choices', ['One', 'Two'], [text('One')], false],
  ['not at all', ['One'], [text('Two'), text('One')], false],
  ['only half', ['One'], [text('On')], false],
  ['of a prompt that is not known as text', [''], [text('a')], true],
  ['that was not requested', [], [text('a')], true],
])('Normaliser.end() recognises an echo that comes %s', (_, echoed, raw, hasCome) => {
  const choices = Math.max(1, echoed.length)
  const finishes = Array.from({ length: choices }, (_, index) => finish('stop', index))
  const { doubt } = run([...raw, ...finishes, end], { choices, echoed }).end()
  expect(doubt).toBe(hasCome ? null : 'no_echo')
})
