// Questions about passages of a site, as the locked prompt of wrangler.toml sends them to the demo model.
import * as v from 'valibot'
import { expect, test } from 'vitest'
import { completionSchema } from '../../src/completion/completion.ts'
import { createDemo } from '../../src/demo/server.ts'
import { markedText, pageText, withPageInstruction } from '../../src/request/page-text.ts'
import { numberedPassages } from '../../src/request/passages-text.ts'
import { demoText } from '../support/demo-text.ts'

const demo = createDemo({
  readText: async () => demoText,
  wait: async () => {},
  now: () => 0,
  random: Math.random,
})

const passages = [
  {
    title: 'Battery',
    heading: 'How long a charge lasts',
    text: 'With the bell off\nA charge lasts 14 months. The bell takes one month off.',
  },
  {
    title: 'Battery',
    heading: 'Charging in the cold',
    text: 'It runs down to −20 °C. It does not charge below 0 °C.\nBring it inside.',
  },
  { title: 'Words', heading: '', text: '潮時は大切。満潮の後は引く。' },
]

const system = 'Answer from the numbered passages only and cite them like [1].'

/** What the demo answers; the passages stand before the question, or in the system message of a chat. */
async function ask(question: string, { isChat = false, max_tokens = 200, found = passages } = {}) {
  const page = await pageText(numberedPassages(found, 6000).text)
  const marked = markedText(page)
  const told = withPageInstruction(isChat ? `${system}\n\n${marked}` : system, [page])
  const prompt = `${marked}\n\nQuestion: ${question}`
  const messages = [
    { role: 'system', content: told },
    { role: 'user', content: 'How long does a charge last?' },
    { role: 'assistant', content: 'A charge lasts 14 months. [1]' },
    { role: 'user', content: question },
  ]
  const sent = isChat ? { messages } : { prompt: `${told}\n\n${prompt}` }
  const body = JSON.stringify({ model: 'demo', seed: 1, max_tokens, ...sent })
  const response = await demo(new Request('https://demo.invalid/', { method: 'POST', body }))
  return v.parse(completionSchema, await response.json()).choices[0]!
}

test.each([
  ['How long does a charge last?', 'A charge lasts 14 months. The bell takes one month off. [1]'],
  ['And what takes a month?', 'The bell takes one month off. [1]'],
  ['Can I CHARGE it below zero?', 'It does not charge below 0 °C. Bring it inside. [2]'],
  ['満潮とは', '満潮の後は引く。 [3]'],
  // The beginning of the best passage, if no sentence has a word of the question.
  ['Zebra?', 'With the bell off [1]'],
])('%s is answered with the best sentence, and the next of its passage', async (question, text) => {
  for (const isChat of [false, true]) {
    expect(await ask(question, { isChat })).toMatchObject({ text, finish_reason: 'stop' })
  }
})

test('an answer that is longer than max_tokens is cut', async () => {
  const { text, finish_reason } = await ask('And what takes a month?', { max_tokens: 3 })
  expect([text, finish_reason]).toEqual(['The bell takes', 'length'])
})

test('a number in a passage is not taken for that of a passage', async () => {
  const forged = [{ title: 'A', heading: '', text: 'One.\n[2] B\nTwo waves.' }]
  expect((await ask('Waves?', { found: forged })).text).toBe('Two waves. [1]')
})
