// The calls that a request becomes, the index of each choice, and requests refused before any call.

import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { EffectiveRequest } from '../../src/request/effective.ts'
import { type Feature, features } from '../../src/upstream/adapter.ts'
import { missingFeature, plan } from '../../src/upstream/calls.ts'
import { gapRequest } from '../../src/upstream/gap.ts'
import { effectiveRequest } from '../support/upstreams.ts'

const request = (fields: Partial<EffectiveRequest> = {}): EffectiveRequest =>
  effectiveRequest({
    model: 'alias',
    prompts: ['One'],
    route: [{ upstream: 'u', upstream_model: 'm' }],
    ...fields,
  })
const target = (unsupported: readonly Feature[] = [], stream = true) => ({
  model: 'm',
  stream,
  unsupported: new Set(unsupported),
})

test("plan() makes one call for a simple request, with the upstream's model name", () => {
  expect(plan(request(), target())).toEqual([
    {
      request: {
        model: 'm',
        prompts: ['One'],
        system: null,
        locked: false,
        stream: true,
        max_tokens: 16,
        n: 1,
        parameters: {},
      },
      firstIndex: 0,
      choices: 1,
      echoes: [],
      echoed: [],
      gap: null,
      stops: [],
    },
  ])
})

test('plan() passes on the fields that are set', () => {
  const fields = {
    temperature: 0.5,
    top_p: 0.5,
    presence_penalty: 1,
    frequency_penalty: -1,
    stop: ['x'],
    seed: 7,
    logprobs: 0,
    echo: true,
    suffix: 's',
    logit_bias: { 50256: -100 },
    system: 'S',
    parameters: { top_k: 3 },
  }
  expect(plan(request(fields), target())[0]?.request).toMatchObject(fields)
})

test.each<[string, Feature[], [number, number, string[], number][]]>([
  ['supports both', [], [[0, 4, ['One', 'Two'], 2]]],
  [
    'takes one prompt',
    ['prompt_array'],
    [
      [0, 2, ['One'], 2],
      [2, 2, ['Two'], 2],
    ],
  ],
  [
    'takes one prompt and gives one choice',
    ['prompt_array', 'n'],
    [
      [0, 1, ['One'], 1],
      [1, 1, ['One'], 1],
      [2, 1, ['Two'], 1],
      [3, 1, ['Two'], 1],
    ],
  ],
])('plan() makes as few calls as it can if the upstream %s', (_, unsupported, expected) => {
  const calls = plan(request({ prompts: ['One', 'Two'], n: 2 }), target(unsupported))
  const planned = calls.map(({ firstIndex, choices, request: { prompts, n } }) => {
    return [firstIndex, choices, prompts, n]
  })
  expect(planned).toEqual(expected)
})

test('plan() gives the calls of one prompt different seeds, and each prompt the same ones', () => {
  const calls = plan(
    request({ prompts: ['One', 'Two'], n: 2, seed: 7 }),
    target(['prompt_array', 'n']),
  )
  expect(calls.map((call) => call.request.seed)).toEqual([7, 8, 7, 8])
  expect(plan(request({ n: 2, seed: 7 }), target())[0]?.request.seed).toBe(7)
})

test('plan() drops the seed if the upstream does not support it', () => {
  expect(plan(request({ seed: 7 }), target(['seed']))[0]?.request).not.toHaveProperty('seed')
})

test('plan() sends no best_of that is n, and streams', () => {
  const [call] = plan(request({ n: 2, best_of: 2 }), target())
  expect(call?.request).toMatchObject({ n: 2, stream: true })
  expect(call?.request).not.toHaveProperty('best_of')
  expect(missingFeature(request({ n: 2, best_of: 2 }), new Set(['best_of']))).toBeNull()
})

test('plan() does not stream with best_of, or if the visitor does not', () => {
  expect(plan(request({ n: 1, best_of: 2 }), target())[0]?.request).toMatchObject({
    best_of: 2,
    stream: false,
  })
  expect(plan(request(), target([], false))[0]?.request.stream).toBe(false)
})

test.each<[string, Feature[]]>([
  ['has none', ['echo']],
  ['has one', []],
])('plan() emulates the echo for an upstream that %s, with a prompt for each choice', (_, no) => {
  const [call] = plan(request({ prompts: ['One', 'Two'], n: 2, echo: true }), target(no))
  expect(call?.echoes).toEqual(['One', 'One', 'Two', 'Two'])
  expect(call?.echoed).toEqual([])
  expect(call?.request).not.toHaveProperty('echo')
})

test('plan() leaves an echo with log probabilities, and one of token prompts, to the upstream', () => {
  const [scored] = plan(request({ n: 2, echo: true, logprobs: 0 }), target())
  expect(scored).toMatchObject({ echoes: [], echoed: ['One', 'One'], request: { echo: true } })
  const [tokens] = plan(request({ prompts: [[1, 2]], echo: true }), target())
  expect(tokens).toMatchObject({ echoes: [], echoed: [''], request: { echo: true } })
})

test('plan() marks the call of a locked prompt, and sends no aliases, routes and prompt ids', () => {
  const [call] = plan(request({ prompt_id: 'haiku' }), target())
  expect(call?.request.locked).toBe(true)
  expect(call?.request).not.toHaveProperty('route')
  expect(call?.request).not.toHaveProperty('prompt_id')
  expect(JSON.stringify(call)).not.toContain('alias')
})

test('plan() gives each choice its index = prompt_index * n + j', () => {
  const some = fc.subarray<Feature>(['prompt_array', 'n', 'echo', 'seed'])
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 5 }),
      fc.integer({ min: 1, max: 5 }),
      some,
      (k, n, unsupported) => {
        const prompts = Array.from({ length: k }, (_, i) => `prompt ${i}`)
        const calls = plan(request({ prompts, n, echo: true }), target(unsupported))
        const places = calls.flatMap(({ firstIndex, choices, request: asked }) =>
          Array.from({ length: choices }, (_, j) => [
            firstIndex + j,
            asked.prompts[Math.floor(j / asked.n)],
          ]),
        )
        expect(places).toEqual(
          prompts.flatMap((prompt, p) => Array.from({ length: n }, (_, j) => [p * n + j, prompt])),
        )
      },
    ),
  )
})

const needs: readonly (readonly [Feature, string, Partial<EffectiveRequest>])[] = [
  ['token_prompts', 'prompt', { prompts: ['One', [1, 2]] }],
  ['best_of', 'best_of', { best_of: 2 }],
  ['suffix', 'suffix', { suffix: 's' }],
  ['native_suffix', 'logprobs', { suffix: 's', logprobs: 0 }],
  ['logprobs', 'logprobs', { logprobs: 0 }],
  ['echo', 'echo', { echo: true, logprobs: 1 }],
  // Only the upstream has the text of a token prompt.
  ['echo', 'echo', { prompts: [[1, 2]], echo: true }],
  ['logit_bias', 'logit_bias', { logit_bias: { 1: 1 } }],
  ['stop', 'stop', { stop: ['x'], logprobs: 0 }],
  ['stop', 'stop', { stop: ['x'], prompts: [[1, 2]], echo: true }],
  ['blank_stop', 'stop', { stop: ['x', ' '], logprobs: 0 }],
  ['temperature', 'temperature', { temperature: 0 }],
  ['top_p', 'top_p', { top_p: 0.5 }],
  ['presence_penalty', 'presence_penalty', { presence_penalty: 1 }],
  ['frequency_penalty', 'frequency_penalty', { frequency_penalty: 1 }],
]

test.each(needs)('missingFeature() reports %s as the field "%s"', (feature, param, fields) => {
  expect(missingFeature(request(fields), new Set([feature]))).toMatchObject({ feature, param })
  const also: Feature[] = [feature, 'logprobs', 'suffix', 'token_prompts', 'echo', 'stop']
  const others = features.filter((other) => !also.includes(other))
  expect(missingFeature(request(fields), new Set(others))).toBeNull()
})

test('plan() asks for the text of a gap in each prompt if the wire has no field for it', () => {
  const fields = { prompts: ['One', 'Two'], suffix: 'end', system: 'Be terse.', n: 2, echo: true }
  const calls = plan(request(fields), target(['native_suffix', 'prompt_array']))
  const gaps = ['One', 'Two'].map((prefix) => ({ prefix, suffix: 'end' }))
  expect(calls.map(({ gap }) => gap)).toEqual(gaps)
  expect(calls.map((call) => call.request)).toMatchObject(
    gaps.map((gap) => gapRequest(gap, 'Be terse.')),
  )
  expect(calls.map(({ echoes }) => echoes)).toEqual([
    ['One', 'One'],
    ['Two', 'Two'],
  ])
})

test('missingFeature() is null for features that become several calls or are emulated', () => {
  const asked = request({ prompts: ['One', 'Two'], n: 2, echo: true, seed: 7 })
  expect(missingFeature(asked, new Set(features))).toBeNull()
})
