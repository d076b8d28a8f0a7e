// The presets as data: complete, consistent with the wires, and as docs/upstreams.md lists them. What a
// preset makes of a request is checked on the body that would be sent.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { type Config, parseConfig } from '../../src/config/config.ts'
import type { EffectiveRequest } from '../../src/request/effective.ts'
import { features } from '../../src/upstream/adapter.ts'
import { missingFeature, plan } from '../../src/upstream/calls.ts'
import { connect } from '../../src/upstream/connection.ts'
import { presets, wireLimits } from '../../src/upstream/presets.ts'
import { presetTable } from '../support/preset-table.ts'
import { effectiveRequest } from '../support/upstreams.ts'

const names = Object.keys(presets)

function configured(preset: string, more: Readonly<Record<string, unknown>> = {}) {
  const { baseUrl, auth, wire } = presets[preset] ?? {}
  const upstream = {
    name: 'u',
    preset,
    ...(baseUrl === null && wire !== 'workers-ai' ? { base_url: 'https://own.test/v1' } : {}),
    ...(auth === 'none' ? {} : { key: 'UPSTREAM_API_KEY' }),
    ...more,
  }
  const { config, faults } = parseConfig({
    config: {
      models: [{ id: 'default', upstream: 'u', upstream_model: 'm' }],
      upstreams: [upstream],
    },
    prompts: {},
    secret: () => 'secret',
    bound: () => true,
  })
  expect(faults).toBeNull()
  return (config as Config).upstreams.get('u')!
}

const effective = (fields: Partial<EffectiveRequest> = {}): EffectiveRequest =>
  effectiveRequest({
    prompts: ['One'],
    route: [{ upstream: 'u', upstream_model: 'm' }],
    ...fields,
  })

const transports = { http: async () => new Response(), demo: async () => new Response() }

/** The address and body of the first call with a preset. */
function sent(preset: string, fields: Partial<EffectiveRequest> = {}) {
  const connection = connect(configured(preset), transports)
  const { upstream, unsupported, baseUrl } = connection
  const calls = plan(effective(fields), { model: 'm', stream: true, unsupported })
  const [first] = calls
  if (first === undefined) throw new TypeError('no call')
  const { path, headers, body } = upstream.toWire(first.request, connection)
  return { url: baseUrl + path, headers: { ...connection.headers, ...headers }, body, calls }
}

/** The first call of each preset: its address and headers; null: `authorization`. */
const addresses: readonly [string, string, Readonly<Record<string, string>> | null][] = [
  ['compatible', 'https://own.test/v1/chat/completions', null],
  ['openai', 'https://api.openai.com/v1/chat/completions', null],
  ['azure', 'https://own.test/v1/chat/completions', { 'api-key': 'secret' }],
  ['openrouter', 'https://openrouter.ai/api/v1/chat/completions', null],
  ['groq', 'https://api.groq.com/openai/v1/chat/completions', null],
  ['together', 'https://api.together.xyz/v1/chat/completions', null],
  ['fireworks', 'https://api.fireworks.ai/inference/v1/chat/completions', null],
  ['deepseek', 'https://api.deepseek.com/chat/completions', null],
  ['deepseek-fim', 'https://api.deepseek.com/beta/completions', null],
  ['mistral', 'https://api.mistral.ai/v1/chat/completions', null],
  ['mistral-fim', 'https://api.mistral.ai/v1/fim/completions', null],
  ['xai', 'https://api.x.ai/v1/chat/completions', null],
  ['gemini', 'https://generativelanguage.googleapis.com/v1beta/openai/chat/completions', null],
  [
    'anthropic',
    'https://api.anthropic.com/v1/messages',
    { 'x-api-key': 'secret', 'anthropic-version': '2023-06-01' },
  ],
  ['ai-gateway', 'https://own.test/v1/chat/completions', null],
  ['workers-ai', 'https://workers-ai.invalid/run', {}],
  ['ollama', 'http://localhost:11434/v1/completions', {}],
  ['llamacpp', 'http://localhost:8080/v1/completions', {}],
  ['vllm', 'http://localhost:8000/v1/completions', {}],
  ['transformers', 'http://localhost:8000/v1/completions', {}],
  ['litellm', 'http://localhost:4000/v1/chat/completions', null],
  ['one-api', 'https://own.test/v1/chat/completions', null],
  ['demo', 'https://demo.invalid/v1/completions', {}],
]

test('presets has every supported upstream', () => {
  expect(names).toEqual(addresses.map(([name]) => name))
})

test.each(addresses)('preset %s calls %s', (name, url, headers) => {
  expect(sent(name)).toMatchObject({ url })
  expect(sent(name).headers).toEqual(headers ?? { authorization: 'Bearer secret' })
})

// Mistral and others: 422 extra_forbidden, body.stream_options.include_usage.
const withoutUsage = ['anthropic', 'workers-ai', 'mistral', 'mistral-fim', 'transformers']
const renamingLimit = ['openai', 'azure', 'groq']
const takingN = 'openai azure together fireworks xai vllm demo'.split(' ')
const renamingSeed = ['mistral', 'mistral-fim']
const withoutSeed = ['gemini', 'deepseek', 'deepseek-fim', 'anthropic']

test.each(names)('preset %s lists known features once, and sends a request that fits', (name) => {
  const { wire, unsupported } = presets[name]!
  expect(new Set(unsupported).size).toBe(unsupported.length)
  expect(unsupported.filter((feature) => wireLimits[wire].includes(feature))).toEqual([])
  expect(features).toEqual(expect.arrayContaining([...unsupported]))
  const { body } = sent(name)
  const [limit, other] = renamingLimit.includes(name)
    ? ['max_completion_tokens', 'max_tokens']
    : ['max_tokens', 'max_completion_tokens']
  expect(body).toMatchObject({ model: 'm', stream: true, [limit]: 16 })
  expect(body).not.toHaveProperty(other)
  expect(body['stream_options']).toEqual(
    withoutUsage.includes(name) ? undefined : { include_usage: true },
  )
  const { body: seeded } = sent(name, { seed: 7 })
  const seed = renamingSeed.includes(name) ? 'random_seed' : 'seed'
  expect(Object.entries(seeded).filter(([field]) => field.includes('seed'))).toEqual(
    withoutSeed.includes(name) ? [] : [[seed, 7]],
  )
})

test.each(names)('preset %s makes as few calls as it can, and emulates the echo', (name) => {
  const several = sent(name, { n: 3 })
  const takesN = takingN.includes(name)
  expect(several.calls.map(({ choices }) => choices)).toEqual(takesN ? [3] : [1, 1, 1])
  expect(several.body['n']).toBe(takesN ? 3 : undefined)
  const echoed = sent(name, { echo: true })
  expect(echoed.calls[0]?.echoes).toEqual(['One'])
  expect(echoed.body).not.toHaveProperty('echo')
})

test.each([
  ['ollama', 4, 'One', undefined],
  ['deepseek-fim', 4, 'One', undefined],
  ['mistral-fim', 4, 'One', undefined],
  ['transformers', 4, 'One', undefined],
  ['llamacpp', 4, 'One', undefined],
  ['vllm', 1, ['One', 'Two'], 2],
] as const)('preset %s makes %i calls for two choices of two prompts', (name, count, prompt, n) => {
  const { calls, body } = sent(name, { prompts: ['One', 'Two'], n: 2 })
  expect(calls).toHaveLength(count)
  expect([body['prompt'], body['n']]).toEqual([prompt, n])
})

test('preset compatible gets several choices in one call on the completions wire', () => {
  expect(configured('compatible', { wire: 'completions' }).unsupported.has('n')).toBe(false)
  expect(configured('compatible', { wire: 'chat' }).unsupported.has('n')).toBe(true)
})

test.each([
  ['openai', { native_n: false }, false],
  ['groq', { native_n: true }, true],
  ['groq', { native_n: true, unsupported: [] }, true],
  // As it was before there was native_n.
  ['openai', { unsupported: ['n'] }, false],
  ['vllm', { unsupported: ['suffix'] }, true],
  ['openai', { wire: 'anthropic' }, false],
  ['openai', { wire: 'workers-ai' }, false],
])('preset %s with %j gets n: %j', (name, settings, takesN) => {
  expect(configured(name, settings).unsupported.has('n')).toBe(!takesN)
})

test.each(['deepseek-fim', 'mistral-fim', 'ollama'])('preset %s sends the suffix', (name) => {
  expect(sent(name, { suffix: 'after' }).body['suffix']).toBe('after')
})

test.each(names)('preset %s sends stop as a list', (name) => {
  const { body } = sent(name, { stop: ['x'] })
  const expected = name === 'workers-ai' ? undefined : ['x']
  expect(body['stop'] ?? body['stop_sequences']).toEqual(expected)
})

test.each([
  ['groq', { logprobs: 1 }, 'logprobs'],
  ['groq', { logit_bias: { 1: 1 } }, 'logit_bias'],
  ['together', { logprobs: 1 }, 'logprobs'],
  ['gemini', { frequency_penalty: 1 }, 'frequency_penalty'],
  ['gemini', { presence_penalty: 1 }, 'presence_penalty'],
  ['mistral', { logit_bias: { 1: 1 } }, 'logit_bias'],
  ['mistral-fim', { presence_penalty: 1 }, 'presence_penalty'],
  ['deepseek', { suffix: 'x', logprobs: 0 }, 'logprobs'],
  ['xai', { logit_bias: { 1: 1 } }, 'logit_bias'],
  ['llamacpp', { suffix: 'x' }, 'suffix'],
  ['llamacpp', { response_format: { type: 'json_object' } }, 'response_format'],
  ['vllm', { best_of: 2 }, 'best_of'],
  ['ollama', { logprobs: 0 }, 'logprobs'],
  ['ollama', { prompts: [[1, 2]] }, 'prompt'],
  ['transformers', { prompts: [[1, 2]] }, 'prompt'],
  ['transformers', { logprobs: 1 }, 'logprobs'],
  ['transformers', { best_of: 2 }, 'best_of'],
  ['transformers', { suffix: 'x' }, 'suffix'],
  ['transformers', { presence_penalty: 1 }, 'presence_penalty'],
  ['litellm', { prompts: [[1, 2]] }, 'prompt'],
  ['litellm', { echo: true, logprobs: 1 }, 'echo'],
  ['workers-ai', { suffix: 'x', logprobs: 0 }, 'logprobs'],
  ['anthropic', { temperature: 1.5 }, 'temperature'],
  ['anthropic', { presence_penalty: 1 }, 'presence_penalty'],
  ['demo', { suffix: 'x' }, 'suffix'],
] as const)('preset %s does not support %j', (name, fields, param) => {
  expect(missingFeature(effective(fields), configured(name).unsupported)?.param).toBe(param)
})

test.each([
  ['openai', { temperature: 2, logprobs: 5, logit_bias: { 1: 1 }, stop: ['\n'] }],
  ['anthropic', { temperature: 0.9, stop: ['\nEND'], top_p: 0.5 }],
  ['mistral', { seed: 1, presence_penalty: 1 }],
  ['deepseek-fim', { suffix: 'x', logprobs: 5, echo: true }],
  ['vllm', { prompts: [[1, 2]], echo: true, logprobs: 5 }],
  ['transformers', { echo: true, temperature: 2, stop: ['\n'], frequency_penalty: 1, seed: 1 }],
  ['litellm', { logprobs: 5, seed: 1 }],
  ['litellm', { echo: true }],
  ['llamacpp', { prompts: [[1, 2]], logprobs: 5 }],
  ['workers-ai', { seed: 1, presence_penalty: 1, temperature: 2 }],
] as const)('preset %s supports %j', (name, fields) => {
  expect(missingFeature(effective(fields), configured(name).unsupported)).toBeNull()
})

test('an AI Gateway with stored keys is sent its own token', () => {
  const own = configured('ai-gateway', { auth: 'cf-aig-authorization' })
  expect(connect(own, transports).headers).toEqual({
    'cf-aig-authorization': 'Bearer secret',
  })
})

test('presetTable() has a row for each preset, in order', () => {
  const rows = presetTable().split('\n').slice(2)
  expect(rows.map((row) => /^\| `([\w-]+)` \|/.exec(row)?.[1])).toEqual(names)
  for (const row of rows) expect(row.split(' | ')).toHaveLength(6)
})

test('docs/upstreams.md has the table of presets', () => {
  const page = readFileSync(join(import.meta.dirname, '..', '..', 'docs', 'upstreams.md'), 'utf8')
  const [, table] = /<!-- presets -->\n([\s\S]*?)\n<!-- \/presets -->/.exec(page) ?? []
  expect(table?.trim()).toBe(presetTable())
})
