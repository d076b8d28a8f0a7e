// The settings that setup writes are valid for every provider, and say what the answers say.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { checkConfig } from '../../../scripts/config/check.ts'
import { type Offer, offers } from '../../../scripts/setup/arguments.ts'
import { needsBaseUrl, needsModel, providers } from '../../../scripts/setup/providers.ts'
import { type Answers, budgetOf, settingsOf, toml } from '../../../scripts/setup/settings.ts'
import { withSettings } from '../../../scripts/setup/wrangler-toml.ts'
import { presets } from '../../../src/upstream/presets.ts'
import { configIn, textOf } from '../../support/documents.ts'

const answersWith = (given: Partial<Answers> = {}): Answers => ({
  site: {
    url: new URL('https://example.com/'),
    origins: ['https://example.com'],
    generator: 'hugo',
    sitemap: null,
    otherSitemap: null,
    folder: '/',
    paths: ['/posts/*'],
    problem: null,
  },
  preset: 'openai',
  model: null,
  baseUrl: null,
  offer: offers,
  ...given,
})

// biome-ignore lint/suspicious/noExplicitAny: a test names the settings it looks at
const written = (answers: Answers): any =>
  configIn(withSettings(textOf('wrangler.toml'), settingsOf(answers)))

test.each(Object.keys(providers))('the settings for %s are valid and fit', (preset) => {
  // What setup asks for if the provider has no default.
  const model = needsModel(preset) ? 'm' : null
  const baseUrl = needsBaseUrl(preset) ? 'https://llm.example.com/v1' : null
  const config = written(answersWith({ preset, model, baseUrl }))
  expect(checkConfig(config).faults).toEqual([])
  expect(config.models[0].upstream_model).toBe(model ?? providers[preset]?.model)
  expect(config.budget.tokens_per_day).toBe(200_000)
})

test.each<[Offer[], string[], boolean]>([
  [['summaries'], ['summary'], false],
  [['ask'], ['ask'], false],
  [['free'], [], true],
  [['summaries', 'ask', 'free'], ['summary', 'ask'], true],
])('%j is offered with the prompts %j, and free prompts: %s', (offer, prompts, free) => {
  const config = written(answersWith({ offer }))
  expect(Object.keys(config.prompts ?? {})).toEqual(prompts)
  expect(config.free_prompts).toBe(free)
  expect(checkConfig(config).warnings).toEqual(
    free ? ['Turnstile is off: anyone can spend up to the budget'] : [],
  )
})

test.each(Object.keys(presets))(
  'with %s, chats have a system message if free text is offered',
  (preset) => {
    const answers = { preset, model: 'm', baseUrl: 'https://llm.example.com/v1' }
    const [free] = written(answersWith({ ...answers, offer: ['free'] })).models
    expect(free.chat_system).toMatch(/visitors of the website example\.com/)
    const [locked] = written(answersWith({ ...answers, offer: ['summaries', 'ask'] })).models
    expect(locked.chat_system).toBeUndefined()
  },
)

test('visitors cannot trigger the generation of a summary, and the pages are those of the site', () => {
  expect(written(answersWith()).prompts.summary).toMatchObject({
    spend: 'operator',
    variables: { page: { from: 'url', paths: ['/posts/*'], selector: 'article, main, body' } },
  })
})

test('questions are answered from the whole site, not only from its posts', () => {
  const { site } = answersWith()
  const config = written(answersWith({ site: { ...site, folder: '/blog/', generator: 'jekyll' } }))
  expect(config.site).toEqual({
    paths: ['/blog/*'],
    selector: '.post-content, .page-content, article, main, body',
  })
  expect(config.prompts.ask).toEqual({
    system: expect.stringMatching(/example\.com.*numbered passages only.*\[1\]/),
    text: '{{passages}}\n\nQuestion: {{question}}',
    variables: {
      question: { max_chars: 300 },
      passages: { from: 'site', about: 'question', count: 6, max_chars: 6000 },
    },
    max_tokens: 300,
  })
})

test('there is nothing to index if no questions are answered', () => {
  expect(written(answersWith({ offer: ['summaries', 'free'] })).site).toBeUndefined()
})

test('another model has no parameters and no price of the default one', () => {
  const [model] = written(answersWith({ model: 'gpt-x' })).models
  expect(model).toMatchObject({ upstream_model: 'gpt-x' })
  expect(model.parameters ?? model.price).toBeUndefined()
})

test('Workers AI gets its binding, and no key', () => {
  const settings = settingsOf(answersWith({ preset: 'workers-ai' }))
  expect(settings).toMatch(/^\[ai\]\nbinding = "AI"\n/)
  expect(settings).not.toContain('key =')
})

describe('the budget in words', () => {
  test.each([
    [{}, 'at most 200,000 tokens a day, which is at most $0.10 with gpt-6-luna'],
    [
      { model: 'gpt-x' },
      'at most 200,000 tokens a day; in dollars once its price is set in wrangler.toml',
    ],
    [{ preset: 'ollama' }, 'at most 200,000 tokens a day'],
    [{ preset: 'demo' }, 'at most 200,000 tokens a day; the demo model costs nothing'],
  ])('%j', (given, words) => {
    expect(budgetOf(answersWith(given))).toBe(words)
  })
})

describe('a value as TOML', () => {
  const read = (value: unknown) =>
    (configIn(`[vars.CONFIG]\nvalue = ${toml(value)}\n`) as { value: unknown }).value

  test('is read as it was, with quotes, controls, DEL and any other character', () => {
    const all = Array.from({ length: 0x250 }, (_, code) => String.fromCharCode(code)).join('')
    expect(read(all)).toBe(all)
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), (text) => {
        expect(read(text)).toBe(text)
      }),
      { numRuns: 30 },
    )
  })

  test('may be a table in a table, with any names', () => {
    const value = { 'a b"': { list: ['x', 1, true], none: {} }, plain: 0.5 }
    expect(read(value)).toEqual(value)
  })
})
