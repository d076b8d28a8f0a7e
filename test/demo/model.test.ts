// The demo model's mathematics: distributions that sum to one, and a sampler that follows them.

import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createModel, tokenize } from '../../src/demo/model.ts'
import { generate, type SamplingOptions, score, seededRandom } from '../../src/demo/sampling.ts'
import { demoText } from '../support/demo-text.ts'

const model = createModel(demoText)
const neutral = {
  max_tokens: 40,
  temperature: 1,
  top_p: 1,
  stop: [],
  presence_penalty: 0,
  frequency_penalty: 0,
}

function write(prompt: string, options: Partial<SamplingOptions> & { seed?: number } = {}) {
  const { seed = 1, ...rest } = options
  const random = seededRandom(seed, 0)
  const steps = [...generate(model, tokenize(prompt), { ...neutral, random, ...rest })]
  const pieces = steps.flatMap((step) => step.pieces)
  return {
    steps,
    pieces,
    text: pieces.map(({ token }) => token).join(''),
    sampled: steps.reduce((sum, step) => sum + step.sampled, 0),
    finish: steps.at(-1)?.finish,
  }
}

// Realistic prompts: known and unknown words, quotes, spaces and arbitrary text.
const piece = fc.oneof(
  fc.constantFrom(...new Set(tokenize(demoText.slice(0, 4000))), ' ', '\n', '"', ' "', '--', '('),
  fc.string({ unit: 'binary', maxLength: 6 }),
)
const anyPrompt = fc.array(piece, { maxLength: 12 }).map((parts) => parts.join(''))

test('tokenize() loses nothing, for any string', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      expect(tokenize(text).join('')).toBe(text)
    }),
  )
  for (const text of ['', '\ud800x\udc00', 'a\r\n\r\n b', '👩‍👩‍👧 né́e', demoText, 'x'.repeat(99)]) {
    expect(tokenize(text).join('')).toBe(text)
  }
})

test('tokenize() keeps a space with the following word', () => {
  expect(tokenize('Oh, I don\'t--"go" out-of-the-way.')).toEqual([
    'Oh',
    ',',
    ' I',
    " don't",
    '--',
    '"',
    'go',
    '"',
    ' out-of-the-way',
    '.',
  ])
})

test('tokenize() takes linear time for a long string without spaces', () => {
  const time = (text: string) => {
    const start = performance.now()
    tokenize(text)
    return performance.now() - start
  }
  time("a'".repeat(100_000))
  expect(time("a'".repeat(400_000))).toBeLessThan(1000)
})

test('distribution() sums to 1 in any context and gives every token a positive probability', () => {
  fc.assert(
    fc.property(anyPrompt, (prompt) => {
      const p = model.distribution(model.read(tokenize(prompt)))
      expect(Math.abs(p.reduce((sum, each) => sum + each, 0) - 1)).toBeLessThan(1e-9)
      expect(Math.min(...p)).toBeGreaterThan(0)
    }),
  )
})

test('distribution() predicts words that follow in the training text', () => {
  const chance = (prompt: string, token: string) => {
    const context = model.read(tokenize(prompt))
    return model.distribution(context)[model.lookUp(context, token)] ?? 0
  }
  expect(chance('said the White', ' Rabbit')).toBeGreaterThan(0.5)
  expect(chance('SAID THE WHITE', ' Rabbit')).toBe(chance('said the White', ' Rabbit'))
  expect(chance('Say this is a test', ' Rabbit')).toBeLessThan(0.01)
})

test('generate() starts with a space only if the prompt needs one', () => {
  fc.assert(
    fc.property(fc.nat(), (seed) => {
      expect(write('Say this is a test', { seed }).text).toMatch(/^(?: \S|[^\p{L}\p{N}\s])/u)
      expect(write('Once upon a time ', { seed }).text).toMatch(/^\S/)
      expect(write('A question?\n\n', { seed }).text).toMatch(/^\S/)
      expect(write('She said, "', { seed }).text).toMatch(/^\S/)
      expect(write('', { seed }).text).toMatch(/^\S/)
    }),
    { numRuns: 50 },
  )
})

test('generate() closes every quotation it opens before it stops', () => {
  const ended = Array.from({ length: 60 }, (_, seed) =>
    write('', { seed, max_tokens: 400 }),
  ).filter(({ finish }) => finish === 'stop')
  expect(ended.length).toBeGreaterThan(30)
  for (const { text } of ended) expect((text.split('"').length - 1) % 2).toBe(0)
})

test('generate() writes the same text for the same seed, and different text for another', () => {
  fc.assert(
    fc.property(anyPrompt, fc.integer(), (prompt, seed) => {
      expect(write(prompt, { seed }).text).toBe(write(prompt, { seed }).text)
    }),
    { numRuns: 40 },
  )
  const texts = Array.from({ length: 20 }, (_, seed) => write('Alice', { seed }).text)
  expect(new Set(texts).size).toBeGreaterThan(15)
})

test('seededRandom() depends on the stream and on the high bits of the seed', () => {
  const first = (seed: number, stream: number) => seededRandom(seed, stream)()
  const values = [first(1, 0), first(1, 1), first(2, 0), first(2 ** 32 + 2, 0), first(-1, 0)]
  expect(new Set(values).size).toBe(values.length)
})

test('generate() picks the most likely token at temperature 0, close to it, and at top_p 0', () => {
  const { pieces, text } = write('The Mouse', { temperature: 0, logprobs: 1 })
  for (const { logprob, top } of pieces) expect(Object.values(top)).toEqual([logprob])
  for (const greedy of [{ temperature: 0 }, { temperature: Number.MIN_VALUE }, { top_p: 0 }]) {
    expect(write('The Mouse', { ...greedy, seed: 9 }).text).toBe(text)
  }
})

test('generate() samples only within top_p', () => {
  for (let seed = 0; seed < 10; seed += 1) {
    for (const { logprob, top } of write('The', { top_p: 0.3, logprobs: 5, seed }).pieces) {
      const better = Object.values(top).filter((other) => other > logprob)
      const mass = better.reduce((sum, other) => sum + Math.exp(other), 0)
      expect(mass).toBeLessThan(0.3)
    }
  }
})

test('generate() samples tokens with the frequency of their probability', () => {
  const context = model.read(tokenize('said the'))
  const p = model.distribution(context)[model.lookUp(context, ' Mouse')] ?? 0
  const runs = 2000
  const random = seededRandom(3, 0)
  let hits = 0
  for (let run = 0; run < runs; run += 1) {
    const options = { ...neutral, max_tokens: 1, random }
    const [step] = generate(model, tokenize('said the'), options)
    if (step?.pieces[0]?.token === ' Mouse') hits += 1
  }
  expect(p).toBeGreaterThan(0.1)
  expect(Math.abs(hits / runs - p)).toBeLessThan(4 * Math.sqrt((p * (1 - p)) / runs))
})

test('generate() reports logprobs that do not depend on the temperature', () => {
  for (const temperature of [0.5, 1, 2]) {
    let context = model.read(tokenize('Alice was'))
    const { pieces } = write('Alice was', { temperature, logprobs: 3, top_p: 0.9 })
    for (const { token, logprob, top } of pieces) {
      const p = model.distribution(context)
      const best = [...p]
        .sort((a, b) => b - a)
        .slice(0, 3)
        .map(Math.log)
      expect(logprob).toBeCloseTo(Math.log(p[model.lookUp(context, token)] ?? 0), 12)
      expect(top[token]).toBe(logprob)
      expect(
        Object.values(top)
          .sort((a, b) => b - a)
          .slice(0, 3),
      ).toEqual(best)
      expect(Object.keys(top).length).toBeLessThanOrEqual(4)
      context = model.advance(context, token)
    }
  }
})

test('generate() lists alternatives only when requested', () => {
  expect(write('Alice was').pieces.every(({ top }) => Object.keys(top).length === 0)).toBe(true)
  const [first] = write('Alice was', { logprobs: 0 }).pieces
  expect(first && Object.keys(first.top)).toEqual([first?.token])
})

test('generate() stops before a stop sequence that spans tokens', () => {
  const { text } = write('Say this is a test', { seed: 4 })
  const tokens = tokenize(text)
  // From the middle of the seventh token to the middle of the ninth.
  const before = tokens.slice(0, 6).join('').length + 1
  const stop = text.slice(before, before + tokens.slice(6, 8).join('').length + 1)
  expect(tokens.some((token) => token.includes(stop))).toBe(false)
  const stopped = write('Say this is a test', { seed: 4, stop: ['never this', stop] })
  expect(stopped.text).toBe(text.slice(0, text.indexOf(stop)))
  expect(stopped.finish).toBe('stop')
  expect(stopped.sampled).toBeGreaterThan(stopped.pieces.length)
})

test('generate() never writes a stop sequence, and otherwise writes the same text as without', () => {
  const pick = fc.tuple(fc.nat({ max: 150 }), fc.integer({ min: 1, max: 12 }))
  fc.assert(
    fc.property(fc.nat(), fc.array(pick, { minLength: 1, maxLength: 4 }), (seed, picks) => {
      const { text } = write('Alice', { seed })
      const stop = picks.map(([at, length]) =>
        text.slice(at % text.length, (at % text.length) + length),
      )
      const stopped = write('Alice', { seed, stop })
      for (const each of stop) expect(stopped.text).not.toContain(each)
      expect(text.startsWith(stopped.text)).toBe(true)
      expect(stopped.finish).toBe('stop')
    }),
    { numRuns: 60 },
  )
})

test('generate() holds back text that may start a stop sequence, at most until its end', () => {
  const { text, steps } = write('Alice', { seed: 2 })
  const [first = '', second = ''] = tokenize(text)
  const held = write('Alice', { seed: 2, stop: [`${first}${second}#`] })
  expect(steps[0]?.pieces).toHaveLength(1)
  expect(held.steps.slice(0, 2).map(({ pieces }) => pieces)).toEqual([[], []])
  expect(held.text).toBe(text)
  const all = write('Alice', { seed: 2, stop: [`${text}#`] })
  expect([all.text, all.finish, all.steps.length]).toEqual([text, 'length', steps.length])
})

test('generate() samples at most max_tokens tokens and finishes with "length"', () => {
  fc.assert(
    fc.property(fc.nat(), fc.nat({ max: 30 }), (seed, max_tokens) => {
      const { sampled, finish, pieces, steps } = write('Alice', { seed, max_tokens })
      expect(sampled).toBe(pieces.length)
      if (finish === 'length') expect(sampled).toBe(max_tokens)
      else expect(sampled).toBeLessThan(Math.max(1, max_tokens))
      expect(steps.slice(0, -1).every((step) => step.finish === null)).toBe(true)
    }),
    { numRuns: 60 },
  )
})

test.each(['Oh.', 'Say this is a test'])(
  'generate() usually stops by itself after %j, but never before a few words',
  (prompt) => {
    const answers = Array.from({ length: 200 }, (_, seed) =>
      write(prompt, { seed, max_tokens: 300 }),
    )
    expect(answers.filter(({ finish }) => finish === 'stop').length).toBeGreaterThan(130)
    expect(Math.min(...answers.map(({ sampled }) => sampled))).toBeGreaterThanOrEqual(8)
  },
)

test('generate() stays valid with an extreme penalty', () => {
  const again = write('Alice', { frequency_penalty: -2, max_tokens: 1500, seed: 3 })
  expect(again.pieces.every(({ logprob }) => Number.isFinite(logprob))).toBe(true)
  expect(again.text).not.toBe('')
})

test('generate() repeats itself less with penalties', () => {
  const distinct = (options: Partial<SamplingOptions>) =>
    new Set(tokenize(write('Alice', { temperature: 0, ...options }).text)).size
  expect(distinct({ presence_penalty: 2 })).toBeGreaterThan(distinct({}))
  expect(distinct({ frequency_penalty: 2 })).toBeGreaterThan(distinct({}))
})

test('score() gives null for the first token and a logprob for all others, known or not', () => {
  const tokens = tokenize('said the Mouse, zebra')
  const scored = score(model, tokens, 2)
  expect(scored[0]).toBeNull()
  expect(scored.map((each) => each?.token)).toEqual([undefined, ...tokens.slice(1)])
  const context = model.read(tokens.slice(0, 2))
  const p = model.distribution(context)[model.lookUp(context, ' Mouse')] ?? 0
  expect(scored[2]?.logprob).toBe(Math.log(p))
  expect(scored[4]?.logprob).toBeLessThan(-15)
  expect(scored[4]?.top[' zebra']).toBe(scored[4]?.logprob)
  expect(Object.keys(scored[4]?.top ?? {})).toHaveLength(3)
})

test('score() lists the probability of every token, such as "constructor"', () => {
  const own = createModel('(constructor) (valueOf) (toString) (sea) '.repeat(5))
  const top = score(own, ['(', 'sea'], 5)[1]?.top ?? {}
  expect(Object.keys(top)).toEqual(expect.arrayContaining(['constructor', 'valueOf', 'toString']))
  for (const logprob of Object.values(top)) expect(logprob).toBeLessThan(0)
})
