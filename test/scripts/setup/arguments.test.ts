// The command line of `npm run setup`.
import { describe, expect, test } from 'vitest'
import {
  parseArguments,
  parseOffers,
  parseProvider,
  parseSite,
} from '../../../scripts/setup/arguments.ts'

describe('flags', () => {
  test('answer every question', () => {
    const args = parseArguments([
      ...['--site', 'https://example.com/blog/', '--preset=openai', '--key-stdin'],
      ...['--offer', 'ask,summaries', '--yes', '--no-check', '--model', 'gpt-x'],
    ])
    expect(args).toEqual({
      help: false,
      site: new URL('https://example.com/blog/'),
      preset: 'openai',
      model: 'gpt-x',
      baseUrl: null,
      offer: ['summaries', 'ask'],
      keyStdin: true,
      yes: true,
      check: false,
      deploy: false,
    })
  })

  test('are all optional', () => {
    const args = parseArguments([])
    expect(args).toMatchObject({ site: null, preset: null, offer: null, check: true, yes: false })
  })

  test.each([
    [['--stie', 'x'], 'Cannot use --stie: it is not a flag of setup. Did you mean "--site"?'],
    [['--key', 'x'], 'Did you mean "--key-stdin"?'],
    [['--zzzzzzz'], /^Cannot use --zzzzzzz: it is not a flag of setup\. --help lists/],
    [['--site'], 'Cannot use --site: its value is missing'],
    [['--site', '--yes'], 'Cannot use --site: its value is missing'],
    [['--yes=no'], 'Cannot use --yes=…: it takes no value'],
    [['https://example.com'], 'write flags after "--"'],
    [['--preset', 'opena'], 'Did you mean "openai"?'],
    [['--preset', 'nothing-like-it'], /^Cannot use the provider "nothing-like-it"\. Known: demo, /],
    [['--base-url', 'llm.example.com'], 'expected an address such as https://llm.example.com/v1'],
    [['--offer', 'summary'], 'Did you mean "summaries"?'],
    [['--offer', ','], 'Cannot offer nothing'],
    [['--site', 'ftp://example.com'], 'expected an address such as https://example.com'],
  ])('%j is refused with what to change', (args, message) => {
    expect(() => parseArguments(args)).toThrow(message)
  })
})

test.each([
  ['example.com', 'https://example.com/'],
  [' https://example.com/blog ', 'https://example.com/blog'],
  ['localhost:4000', 'http://localhost:4000/'],
  ['http://localhost:4000', 'http://localhost:4000/'],
  ['me.github.io/blog/', 'https://me.github.io/blog/'],
  ['localhost.example.com', 'https://localhost.example.com/'],
])('the site %j is %s', (text, href) => {
  expect(parseSite(text).href).toBe(href)
})

test.each(['', 'example', 'https://', 'https://user:pw@example.com', 'javascript:alert(1)'])(
  '%j is not the address of a site, and the message does not repeat it',
  (text) => {
    expect(() => parseSite(text)).toThrow(/^Cannot use this as the address of a site/)
  },
)

test.each([
  ['vllm', 'vllm', null],
  [
    ' azure  https://me.openai.azure.com/openai/v1',
    'azure',
    'https://me.openai.azure.com/openai/v1',
  ],
  ['http://localhost:1234/v1 ', 'compatible', 'http://localhost:1234/v1'],
])('%j is the provider %s with the address %s', (text, preset, baseUrl) => {
  expect(parseProvider(text)).toEqual({ preset, baseUrl })
})

test('what is neither a name nor an address is no provider', () => {
  expect(() => parseProvider('localhost:1234')).toThrow('expected an address such as')
  expect(() => parseProvider('openai gpt-x')).toThrow('expected an address such as')
})

test('offers may be separated by spaces, and come in one order', () => {
  expect(parseOffers('free  summaries')).toEqual(['summaries', 'free'])
})
