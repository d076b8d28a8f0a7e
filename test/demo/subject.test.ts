// What the demo model writes about: the page in the prompt, or the hero of a story.

import fc from 'fast-check'
import * as v from 'valibot'
import { expect, test } from 'vitest'
import { completionSchema } from '../../src/completion/completion.ts'
import { createModel, tokenize } from '../../src/demo/model.ts'
import { score } from '../../src/demo/sampling.ts'
import { createDemo } from '../../src/demo/server.ts'
import { markedText, pageText } from '../../src/request/page-text.ts'
import { demoText } from '../support/demo-text.ts'

const demo = createDemo({
  readText: async () => demoText,
  wait: async () => {},
  now: () => 0,
  random: Math.random,
})

async function ask(fields: object) {
  const body = JSON.stringify({ model: 'demo', max_tokens: 80, seed: 1, ...fields })
  const response = await demo(new Request('https://demo.invalid/', { method: 'POST', body }))
  const { choices, usage } = v.parse(completionSchema, await response.json())
  return { ...choices[0]!, usage }
}

const user = (content: string) => ({ role: 'user', content })

const first = 'Bread A loaf of bread takes flour, water, yeast and patience.'
const sentences = [
  'Knead the bread until the flour has taken all of the water.',
  'My aunt disagrees.',
  'The yeast needs patience rather than warmth.',
  'A loaf keeps for three days.',
  'Bread with little yeast and much water needs more patience, and rather more flour.',
]
const article = [first, ...sentences].join(' ')
const about = async (text: string) =>
  `Sum up this post:\n\n${markedText(await pageText(text))}\n\nSummary:`

test('a summary is the sentences with the most frequent words of the page, in their order', async () => {
  const { text, finish_reason, usage } = await ask({ messages: [user(await about(article))] })
  expect(text).toBe([sentences[0], sentences[2], sentences[4]].join(' '))
  expect(finish_reason).toBe('stop')
  expect(usage?.completion_tokens).toBe(tokenize(text).length)
  expect((await ask({ prompt: await about(article) })).text).toBe(text)
})

test('a summary has whole sentences that fit in max_tokens, or the beginning of one', async () => {
  const prompt = await about(article)
  const few = await ask({ prompt, max_tokens: 28 })
  expect([few.text, few.finish_reason]).toEqual([`${sentences[2]} ${sentences[4]}`, 'stop'])
  const cut = await ask({ prompt, max_tokens: 4 })
  expect([cut.text, cut.finish_reason]).toEqual(['Bread with little yeast', 'length'])
  const whole = await ask({ prompt: await about('Two short words.') })
  expect(whole.text).toBe('Two short words.')
})

test('a summary honours stop, n, temperature and logprobs: each of its tokens is certain', async () => {
  const prompt = await about(article)
  const sampling = { temperature: 0, top_p: 0.1, presence_penalty: 2, frequency_penalty: 2 }
  const { text } = await ask({ prompt })
  expect((await ask({ prompt, ...sampling, seed: 2 })).text).toBe(text)
  expect((await ask({ prompt, stop: ' the flour' })).text).toBe('Knead the bread until')
  const { logprobs } = await ask({ prompt, logprobs: 2 })
  expect(logprobs?.tokens.join('')).toBe(text)
  expect(new Set(logprobs?.token_logprobs)).toEqual(new Set([0]))
  expect(logprobs?.top_logprobs?.[0]).toEqual({ Knead: 0 })
})

test("the user's last message decides what a chat is about", async () => {
  const [post, other] = [await about(article), await about('Another page. It is short.')]
  const { text } = await ask({ messages: [user(post), user(other)] })
  expect(text).toBe('Another page. It is short.')
  const later = { role: 'assistant', content: post }
  expect((await ask({ messages: [user(other), later] })).text).toBe(text)
  const gone = await ask({ messages: [user(other), user('And now?')] })
  expect(gone.text).not.toContain('Another')
})

test('a text without both marks of a page is continued as any other', async () => {
  const marked = await about(article)
  const halves = [marked.replace('</page-', '<'), marked.replace('<page-', '<'), '</undefined>']
  // An empty page has no sentences.
  for (const prompt of [...halves, 'A sentence.\n</undefined>', await about('')]) {
    const other = await ask({ prompt: prompt.replace(/page-|undefined/g, 'other-'), seed: 5 })
    expect((await ask({ prompt, seed: 5 })).text).toBe(other.text)
  }
})

test.each([
  ['Once upon a time Ada Lovelace went for a walk, and', 'Ada Lovelace'],
  ['Tell me: once upon a time, there was a small $& who', 'the small $&'],
  ['Once upon a time there lived an Owl.', 'the Owl'],
  ['Once upon a time  a fox went out, and', 'the fox'],
])('a story that begins with %j is about %j', async (prompt, hero) => {
  const seeds = Array.from({ length: 20 }, (_, seed) => seed)
  const stories = await Promise.all(seeds.map((seed) => ask({ prompt, seed })))
  const texts = stories.map(({ text }) => text)
  const told = (text: string) => text.toLowerCase().includes(hero.toLowerCase())
  expect(texts.filter(told).length).toBeGreaterThan(10)
  expect(texts.join()).not.toMatch(/\b(Alice|[Ss]he)\b(?!['-])/)
  // A sentence begins with a capital.
  expect(texts.join()).not.toMatch(/[.!?] the (small|Owl)/)
  expect((await ask({ prompt, seed: 3 })).text).toBe(texts[3])
  expect((await ask({ messages: [user(prompt)], seed: 3 })).text).toBe(texts[3])
  expect((await ask({ prompt, seed: 3, echo: true })).text).toBe(prompt + texts[3])
})

test('any prompt gets an answer', async () => {
  const beginnings = ['Once upon a time', 'once upon a time,', ' there was ', ' went', 'a ', 'an ']
  const signs = [' ', '  ', '\n', '\u00a0', ',', '.', "'", '"', '(', '--', '__proto__']
  const marks = ['[1] a\n', '\n\n[2] ', 'Question:', '<page-', '</page-']
  const piece = fc.oneof(
    fc.constantFrom(...beginnings, ...signs, ...marks),
    fc.string({ unit: 'binary', maxLength: 8 }),
  )
  const odd = fc.array(piece, { maxLength: 12 }).map((pieces) => pieces.join(''))
  await fc.assert(
    fc.asyncProperty(odd, fc.constantFrom(0, 0.7, 2), async (prompt, temperature) => {
      const page = await about(prompt)
      for (const fields of [{ prompt }, { messages: [user(prompt)] }, { prompt: page }]) {
        const { finish_reason } = await ask({ ...fields, temperature, max_tokens: 12, logprobs: 2 })
        expect(finish_reason).toMatch(/^(?:stop|length)$/)
      }
    }),
    { seed: 1, examples: [['Once upon a time  .', 1]] },
  )
})

test('the same seed tells the same story of each hero', async () => {
  const story = async (hero: string) =>
    (await ask({ prompt: `Once upon a time ${hero} went for a walk, and`, seed: 5 })).text
  const text = await story('Ada')
  expect(text).toContain('Ada')
  expect((await story('Bob')).replaceAll('Bob', 'Ada')).toBe(text)
})

test('a story lists the likely tokens with the hero among them, each with its own probability', async () => {
  const prompt = 'Once upon a time Ada went for a walk, and'
  const { logprobs, text } = await ask({ prompt, seed: 5, logprobs: 5 })
  expect(logprobs?.tokens.join('')).toBe(text)
  logprobs?.tokens.forEach((token, i) => {
    expect(logprobs.top_logprobs?.[i]?.[token]).toBe(logprobs.token_logprobs[i])
  })
})

test('with echo and logprobs, all probabilities are those of the model itself', async () => {
  const model = createModel(demoText)
  for (const prompt of [await about(article), 'Once upon a time Ada went for a walk, and']) {
    const { text, logprobs } = await ask({ prompt, echo: true, logprobs: 0, max_tokens: 20 })
    const scored = score(model, tokenize(text), 0).map((piece) => piece?.logprob ?? null)
    expect(logprobs?.token_logprobs).toEqual(scored)
  }
})
