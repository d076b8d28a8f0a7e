// The table of presets in docs/upstreams.md, made from the presets themselves. A test compares the two.

import { type Feature, features } from '../../src/upstream/adapter.ts'
import { type Preset, presets, wireLimits } from '../../src/upstream/presets.ts'

/** Null: supported, by making several calls. */
const words: Readonly<Record<Feature, string | null>> = {
  token_prompts: 'token prompts',
  prompt_array: null,
  n: null,
  best_of: '`best_of`',
  echo: '`echo` with `logprobs`',
  logprobs: '`logprobs`',
  suffix: '`suffix`',
  native_suffix: '`suffix` with `logprobs`',
  logit_bias: '`logit_bias`',
  seed: '`seed` (has no effect)',
  stop: '`stop` with `logprobs`',
  blank_stop: 'a `stop` of white space with `logprobs`',
  temperature: '`temperature`',
  temperature_above_1: '`temperature` above 1',
  top_p: '`top_p`',
  presence_penalty: '`presence_penalty`',
  frequency_penalty: '`frequency_penalty`',
  chat: 'chats',
  json_object: 'JSON mode',
  json_schema: 'JSON schemas',
}

const places: Readonly<Record<string, string>> = {
  'workers-ai': 'the binding `AI`',
  demo: 'built in',
}

export const presetTable = (): string =>
  [
    '| preset | base URL | wire | auth | `n` in one call | cannot |',
    '|---|---|---|---|---|---|',
    ...Object.entries(presets).map(([name, preset]) => presetRow(name, preset)),
  ].join('\n')

const nativeNs = new Map<boolean | null, string>([
  [true, 'yes'],
  [false, 'no'],
  [null, 'only with `completions`'],
])

function presetRow(
  name: string,
  { baseUrl, wire, auth, path, chatPath, nativeN, unsupported }: Preset,
): string {
  const missing = new Set<Feature>([...wireLimits[wire], ...unsupported])
  // `logprobs` already covers what is refused only together with it.
  if (missing.has('logprobs'))
    for (const feature of ['echo', 'native_suffix', 'stop', 'blank_stop'] as const)
      missing.delete(feature)
  const cannot = features
    .filter((feature) => missing.has(feature))
    .map((feature) => words[feature])
    .filter((text) => text !== null)
  const chats = wire === 'completions' ? `, chats at \`${chatPath}\`` : ''
  const cells = [
    `\`${name}\``,
    places[name] ?? (baseUrl === null ? 'yours' : `\`${baseUrl}\``),
    `\`${wire}\`${path === null ? '' : ` at \`${path}\``}${chats}`,
    auth === 'none' ? 'none' : `\`${auth}\``,
    nativeNs.get(nativeN) ?? '',
    cannot.length === 0 ? '–' : cannot.join(', '),
  ]
  return `| ${cells.join(' | ')} |`
}
