// The warning that anyone can spend, and operator tokens that cannot be used.
import { expect, test } from 'vitest'
import { parseConfig } from '../../src/config/config.ts'
import { publicFaultsOf, warningsOf } from '../../src/config/warnings.ts'

const paid = { upstreams: [{ name: 'u', base_url: 'https://u.example/v1', key: 'KEY' }] }
const haiku = { prompts: { haiku: { text: 'A haiku' } } }

test.each<[string, object, boolean]>([
  ['free prompts on a paid upstream', paid, true],
  ['both kinds of prompts', { ...paid, ...haiku, free_prompts: true }, true],
  ['locked prompts alone', { ...paid, ...haiku }, false],
  ['free prompts refused', { ...paid, ...haiku, free_prompts: false }, false],
  ['Turnstile', { ...paid, access: { turnstile_sitekey: '0x4AAAAAAADnPIDROrmt1Wwj' } }, false],
  ['the demo', { upstreams: [{ name: 'u', preset: 'demo' }] }, false],
])('with %s: whether it warns that anyone can spend', (_, more, warned) => {
  const { config } = parseConfig({
    config: { models: [{ id: 'm', upstream: 'u', upstream_model: 'm' }], ...more },
    prompts: {},
    secret: () => '0x4AAAAAAAsecret',
    bound: () => true,
  })
  const warnings = config === null ? null : warningsOf(config)
  const text = 'Turnstile is off: anyone can spend up to the budget'
  expect(warnings?.includes(text)).toBe(warned)
})

test.each([
  ['four words and some spaces', 'printable ASCII without spaces'],
  ['schlüssel-schlüssel-schlüssel', 'printable ASCII without spaces'],
  ['guessme', 'at least 24 characters'],
])('publicFaultsOf() reports the operator token "%s" without showing it', (operatorToken, text) => {
  const faults = publicFaultsOf({ turnstileSecret: '', operatorToken })
  expect(faults).toEqual([
    { path: 'OPERATOR_TOKEN', message: expect.stringContaining(`expected ${text}`) },
  ])
  expect(JSON.stringify(faults)).not.toContain(operatorToken)
})
