// The settings that setup writes: the answers as TOML, with a comment where an owner will want to
// change something.
import { presets } from '../../src/upstream/presets.ts'
import { unicodeEscape } from '../operator/printable.ts'
import type { Offer } from './arguments.ts'
import { selectorOf } from './generators.ts'
import { needsKey, providers } from './providers.ts'
import type { Site } from './site.ts'

/** The answers to the four questions, except for the key. */
export interface Answers {
  readonly site: Site
  readonly preset: string
  /** Null: the provider's default. */
  readonly model: string | null
  readonly baseUrl: string | null
  readonly offer: readonly Offer[]
}

/** The name under which the key is stored. */
export const KEY_NAME = 'UPSTREAM_API_KEY'
const TOKENS_PER_DAY = 200_000

/** A value as TOML: strings, numbers, booleans, lists, and tables on one line. @internal exported for its tests */
export function toml(value: unknown): string {
  if (typeof value === 'string') {
    // JSON's escapes are also TOML's, but TOML refuses a bare DEL and lone surrogates, and a terminal
    // must be able to show the file.
    return JSON.stringify(value.toWellFormed()).replaceAll(
      /[\x7f-\x9f\p{Bidi_Control}]/gu,
      unicodeEscape,
    )
  }
  if (Array.isArray(value)) return `[${value.map(toml).join(', ')}]`
  if (typeof value !== 'object' || value === null) return String(value)
  const entries = Object.entries(value).map(([name, each]) => {
    return `${/^[\w-]+$/.test(name) ? name : toml(name)} = ${toml(each)}`
  })
  return entries.length === 0 ? '{}' : `{ ${entries.join(', ')} }`
}

/** The lines between the two markers of wrangler.toml. */
export function settingsOf(answers: Answers): string {
  const { site, preset, offer, baseUrl } = answers
  const { parameters, price } = chosen(answers)
  const wire = presets[preset]?.wire
  const free = offer.includes('free')
  const lines = [
    ...(wire === 'workers-ai' ? ['[ai]', 'binding = "AI"', ''] : []),
    '[vars.CONFIG]',
    '# Pages of these origins may call. Each is exactly as browsers send it: no path, no trailing slash.',
    `origins = ${toml(site.origins)}`,
    '# Whether visitors may send prompts of their own, besides those defined below.',
    `free_prompts = ${free}`,
    '',
    '[[vars.CONFIG.models]]',
    'id = "default"',
    `upstream = ${toml(preset)}`,
    `upstream_model = ${toml(modelOf(answers))}`,
    ...(parameters === null ? [] : [`parameters = ${toml(parameters)}`]),
    ...(free && wire !== 'demo' && wire !== 'completions'
      ? ['system = "Continue the text. Answer with the continuation only."']
      : []),
    ...(free
      ? [
          '# For chats. Visitors cannot replace it.',
          `chat_system = ${toml(`You answer questions of visitors of the website ${site.url.host} in a few plain sentences, in the language of the question.`)}`,
        ]
      : []),
    ...(price === null
      ? isFree(preset)
        ? []
        : [
            '# USD per million tokens: for the dashboard, and for usd_per_day.',
            '# price = { input = …, output = … }',
          ]
      : [
          '# USD per million tokens, in November 2026: for the dashboard, and for usd_per_day.',
          `price = ${toml(price)}`,
        ]),
    '',
    '[[vars.CONFIG.upstreams]]',
    `name = ${toml(preset)}`,
    `preset = ${toml(preset)}`,
    ...(baseUrl === null ? [] : [`base_url = ${toml(baseUrl)}`]),
    ...(needsKey(preset)
      ? ['# The NAME of the secret, never the key itself.', `key = "${KEY_NAME}"`]
      : []),
    '',
    '[vars.CONFIG.budget]',
    '# Then only answers from the cache are served, until 00:00 UTC.',
    `tokens_per_day = ${TOKENS_PER_DAY}`,
    ...(offer.includes('summaries') ? summary(site) : []),
    ...(offer.includes('ask') ? ask(site) : []),
  ]
  return `${lines.join('\n')}\n`
}

export const modelOf = ({ preset, model }: Answers) => model ?? providers[preset]?.model ?? ''

/** A model on the owner's machine. */
const isFree = (preset: string) =>
  presets[preset]?.auth === 'none' && presets[preset].wire !== 'workers-ai'

/** What is known about the chosen model. */
function chosen({ preset, model }: Answers) {
  const provider = providers[preset]
  const isKnown = model === null || model === provider?.model
  return {
    parameters: (isKnown ? provider?.parameters : undefined) ?? null,
    price: (isKnown ? provider?.price : undefined) ?? null,
  }
}

function summary({ generator, paths }: Site): string[] {
  const page = { from: 'url', paths, selector: selectorOf(generator), max_chars: 8000 }
  return [
    '',
    '# Only you can generate summaries ("npm run warm"); visitors get those that are stored.',
    '[vars.CONFIG.prompts.summary]',
    'system = "You sum up pages of a website for its readers, in two or three plain sentences, in the language of the page."',
    `text = ${toml('Sum up this page:\n\n{{page}}\n\nSummary:')}`,
    `variables = ${toml({ page })}`,
    'max_tokens = 160',
    'spend = "operator"',
  ]
}

function ask({ url, generator, folder }: Site): string[] {
  const variables = {
    question: { max_chars: 300 },
    passages: { from: 'site', about: 'question', count: 6, max_chars: 6000 },
  }
  return [
    '',
    '# The pages that "npm run index" may have read, for search and answers.',
    '[vars.CONFIG.site]',
    `paths = ${toml([`${folder}*`])}`,
    `selector = ${toml(selectorOf(generator))}`,
    '',
    '# Questions of visitors, answered from those pages.',
    '[vars.CONFIG.prompts.ask]',
    `system = ${toml(`You answer questions of visitors of the website ${url.host}. Answer from the numbered passages only and cite them like [1]. If they do not answer the question, say so. Write a few plain sentences, in the language of the question.`)}`,
    `text = ${toml('{{passages}}\n\nQuestion: {{question}}')}`,
    `variables = ${toml(variables)}`,
    'max_tokens = 300',
  ]
}

/** What a day may cost at most, in words. */
export function budgetOf(answers: Answers): string {
  const { price } = chosen(answers)
  const tokens = `at most ${TOKENS_PER_DAY.toLocaleString('en-US')} tokens a day`
  if (answers.preset === 'demo') return `${tokens}; the demo model costs nothing`
  if (isFree(answers.preset)) return tokens
  if (price === null) return `${tokens}; in dollars once its price is set in wrangler.toml`
  const usd = (TOKENS_PER_DAY * Math.max(price.input, price.output)) / 1_000_000
  return `${tokens}, which is at most $${usd.toFixed(2)} with ${modelOf(answers)}`
}
