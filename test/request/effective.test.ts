// The request to an upstream: the visitor's fields and the owner's settings, without standard
// defaults.

import { describe, expect, test } from 'vitest'
import type { EffectiveOptions, ModelOptions } from '../../src/request/effective.ts'
import { draftRequest, overriddenFields } from '../../src/request/effective.ts'
import { requestParser } from '../../src/request/schema.ts'
import { refusalOf } from '../support/failure.ts'

/** Without page texts. */
const effectiveRequest = (...args: Parameters<typeof draftRequest>) =>
  draftRequest(...args).render()

const parse = requestParser({ prompt_chars: 100_000, max_tokens: 512, n: 4, prompts: 4 })

type PromptOptions = NonNullable<ReturnType<EffectiveOptions['prompts']['get']>>

const haiku: PromptOptions = {
  chat: false,
  system: 'You write about {{topic}}.',
  text: 'A haiku about {{topic}} in {{language}}.',
  variables: { topic: { max_chars: 20 }, language: { values: ['English', 'Deutsch'] } },
  parameters: {},
  visitor_may_set: [],
}
const sea = { id: 'haiku', variables: { topic: 'sea', language: 'English' } }

const small: ModelOptions = {
  id: 'small',
  system: null,
  chat: { system: null, promptIsChat: 'yes', developer: false, alternating: false },
  parameters: {},
  route: [{ upstream: 'openai', upstream_model: 'gpt-6-luna' }],
}
const big: ModelOptions = {
  id: 'big',
  system: 'Be brief.',
  chat: small.chat,
  parameters: { reasoning_effort: 'none', temperature: 0.3 },
  route: [
    { upstream: 'openai', upstream_model: 'gpt-6-sol' },
    { upstream: 'other', upstream_model: 'llama' },
  ],
}

type Changes = Partial<Omit<EffectiveOptions, 'prompts' | 'defaults'>> & {
  readonly haiku?: Partial<PromptOptions>
  readonly defaults?: Partial<EffectiveOptions['defaults']>
}

function options({
  haiku: prompt = {},
  defaults = {},
  ...changes
}: Changes = {}): EffectiveOptions {
  return {
    models: new Map([
      ['small', small],
      ['big', big],
    ]),
    prompts: new Map([['haiku', { ...haiku, ...prompt }]]),
    freePrompts: true,
    variableChars: 100,
    defaults: { max_tokens: 256, ...defaults },
    ...changes,
  }
}

const effective = (body: unknown, changes: Changes = {}) =>
  effectiveRequest(parse(body), options(changes))

const refusal = (body: unknown, changes: Changes = {}) => refusalOf(() => effective(body, changes))

const bare = {
  model: 'small',
  prompt_id: null,
  route: small.route,
  parameters: {},
  max_tokens: 256,
  n: 1,
  prompts: ['x'],
  system: null,
}
const defaults = {
  max_tokens: 100,
  n: 2,
  best_of: 3,
  temperature: 0.2,
  top_p: 0.9,
  presence_penalty: 0.1,
  frequency_penalty: 0.2,
  seed: 7,
  logprobs: 2,
  echo: true,
  suffix: 'end',
}
const standard = {
  temperature: 1,
  top_p: 1,
  presence_penalty: 0,
  frequency_penalty: 0,
  n: 1,
  best_of: 1,
  echo: false,
  suffix: '',
}
const { id: model, chat: _chat, ...bigFields } = big
const stop = '\n\n'

test.each<[what: string, fields: object, changes: Changes, expected: object]>([
  ['the first model and the defaults', {}, {}, {}],
  ['another model', { model }, {}, { model, ...bigFields }],
  ['a list of prompts', { prompt: ['a', 'b'] }, {}, { prompts: ['a', 'b'] }],
  ['a list of tokens as one prompt', { prompt: [1, 2] }, {}, { prompts: [[1, 2]] }],
  ['several lists of tokens', { prompt: [[1], [2, 3]] }, {}, { prompts: [[1], [2, 3]] }],
  ['every field that has an effect', defaults, {}, defaults],
  [
    'stops and biases',
    { stop: ['a', 'b'], logit_bias: { '5': 1 } },
    {},
    {
      stop: ['a', 'b'],
      logit_bias: { '5': 1 },
    },
  ],
  ['0 that has an effect', { seed: 0, logprobs: 0 }, {}, { seed: 0, logprobs: 0 }],
  ['-0 as 0', { temperature: -0, top_p: -0 }, {}, { temperature: 0, top_p: 0 }],
  ['a single stop as a list', { stop: 'end' }, {}, { stop: ['end'] }],
  ["the owner's defaults", {}, { defaults }, defaults],
  ['null as absent', { temperature: null, seed: 8 }, { defaults }, { ...defaults, seed: 8 }],
  [
    'standard values over defaults',
    standard,
    { defaults: { ...defaults, max_tokens: 256 } },
    {
      seed: 7,
      logprobs: 2,
    },
  ],
  ['no default that is the standard one', {}, { defaults: standard }, {}],
  ["the owner's stop", {}, { defaults: { stop } }, { stop: [stop] }],
  ["the visitor's stops", { stop: ['a', 'b'] }, { defaults: { stop } }, { stop: ['a', 'b'] }],
  ["the visitor's lack of stops", { stop: [] }, { defaults: { stop } }, {}],
  ['no empty default of stop', {}, { defaults: { stop: [] } }, {}],
  ['no default of stream', {}, { defaults: { stream: true } }, {}],
  [
    "the visitor's n as the least best_of",
    { n: 3 },
    { defaults: { best_of: 2 } },
    {
      n: 3,
      best_of: 3,
    },
  ],
])('effectiveRequest() has %s', (_, fields, changes, expected) => {
  expect(effective({ prompt: 'x', ...fields }, changes)).toEqual({ ...bare, ...expected })
})

test.each([
  ...Object.entries(standard).map((entry) => Object.fromEntries([entry])),
  { presence_penalty: -0 },
  { stop: [] },
  { logit_bias: {} },
  { stream: true },
  { stream: true, stream_options: { include_usage: true } },
  { user: 'somebody' },
  { max_tokens: 256 },
  { model: 'small' },
  { temperature: null },
])('effectiveRequest() ignores %j, which has no effect', (fields) => {
  expect(JSON.stringify(effective({ prompt: 'x', ...fields }))).toBe(JSON.stringify(bare))
})

test.each([
  'nope',
  'SMALL',
  'HAIKU',
  'small ',
  ' small',
  'small\u0000',
  '',
  '__proto__',
  'toString',
])('effectiveRequest() refuses the model and the locked prompt %j, which do not exist', (id) => {
  expect(refusal({ prompt: 'x', model: id })).toEqual({
    code: 'model_not_allowed',
    param: 'model',
    message: `Cannot use the model ${JSON.stringify(id)}: GET /v1/models lists the allowed models`,
  })
  if (id === '') return
  expect(refusal({ prompt: { id } })).toEqual({
    code: 'prompt_not_found',
    param: 'prompt.id',
    message: `Cannot find the prompt ${JSON.stringify(id)}: GET /v1/prompts lists the available prompts`,
  })
})

test('effectiveRequest() quotes at most 64 characters of a model or prompt id in errors', () => {
  const long = Array.from({ length: 64 }, (_, i) => String.fromCharCode(0x61 + (i % 26))).join('')
  for (const body of [{ prompt: 'x', model: long.repeat(100) }, { prompt: { id: long } }]) {
    const { message } = refusal(body)
    expect(message).not.toContain(`${long}a`)
    expect(message.length).toBeLessThan(150)
  }
  expect(refusal({ prompt: 'x', model: 'a\ud800' }).message.isWellFormed()).toBe(true)
})

test.each<[body: object, changes: Changes, code: string, param: string]>([
  [{ prompt: 'x' }, { freePrompts: false }, 'free_prompts_disabled', 'prompt'],
  [{ prompt: ['x'] }, { freePrompts: false }, 'free_prompts_disabled', 'prompt'],
  [{ prompt: [1] }, { freePrompts: false }, 'free_prompts_disabled', 'prompt'],
  // best_of must be at least n and cannot be combined with streaming, including the defaults.
  [{ prompt: 'x', best_of: 2 }, { defaults: { n: 3 } }, 'invalid_value', 'best_of'],
  [{ prompt: 'x', best_of: 2 }, { defaults: { stream: true } }, 'invalid_value', 'best_of'],
  // The rules of variables are those of template.test.ts.
  [{ prompt: { id: 'haiku' } }, {}, 'missing_field', 'prompt.variables.topic'],
  [{ prompt: sea }, { variableChars: 9 }, 'invalid_value', 'prompt.variables'],
  // Even at its standard default.
  [{ prompt: sea, temperature: 1 }, {}, 'locked_by_owner', 'temperature'],
])('effectiveRequest() refuses %j with %j', (body, changes, code, param) => {
  expect(refusal(body, changes)).toMatchObject({ code, param })
})

const rendered = {
  ...bare,
  prompt_id: 'haiku',
  prompts: ['A haiku about sea in English.'],
  system: 'You write about sea.',
}
const ownParameters = { temperature: 0.9, verbosity: 'low' }
const mayWarm = { parameters: { temperature: 0.9, seed: 1 }, visitor_may_set: ['temperature'] }

test.each<[what: string, fields: object, changes: Changes, expected: object]>([
  ['its rendered text and system message', {}, { freePrompts: false, variableChars: 10 }, {}],
  [
    "the model's system message if it has none",
    {},
    { haiku: { system: undefined, model } },
    {
      model,
      ...bigFields,
    },
  ],
  [
    'its own model and system message',
    {},
    { haiku: { model } },
    {
      ...bigFields,
      model,
      system: rendered.system,
    },
  ],
  ['its own max_tokens', {}, { haiku: { max_tokens: 60 } }, { max_tokens: 60 }],
  [
    "the visitor's max_tokens",
    { max_tokens: 20 },
    {
      haiku: { max_tokens: 60, visitor_may_set: ['max_tokens'] },
    },
    { max_tokens: 20 },
  ],
  ["the visitor's model", { model: 'small' }, { haiku: { model, visitor_may_set: ['model'] } }, {}],
  [
    "its parameters over the model's",
    {},
    { haiku: { model, parameters: ownParameters } },
    {
      ...bigFields,
      model,
      system: rendered.system,
      parameters: { reasoning_effort: 'none', ...ownParameters },
    },
  ],
  [
    "a visitor's field over its parameters",
    { temperature: 0.5 },
    { haiku: mayWarm },
    {
      temperature: 0.5,
      parameters: { seed: 1 },
    },
  ],
  [
    "a visitor's standard value over its parameters",
    { temperature: 1 },
    { haiku: mayWarm },
    {
      parameters: { seed: 1 },
    },
  ],
  [
    'its parameters if the visitor sends null',
    { temperature: null },
    { haiku: mayWarm },
    {
      parameters: mayWarm.parameters,
    },
  ],
  [
    'the defaults except echo',
    {},
    { defaults: { temperature: 0.2, echo: true, seed: 3, stop } },
    {
      temperature: 0.2,
      seed: 3,
      stop: [stop],
    },
  ],
  [
    'no stream, stream_options and user',
    {
      stream: true,
      stream_options: { include_usage: true },
      user: 'me',
    },
    {},
    {},
  ],
])('effectiveRequest() of a locked prompt has %s', (_, fields, changes, expected) => {
  expect(effective({ prompt: sea, ...fields }, changes)).toEqual({ ...rendered, ...expected })
})

const settings = {
  model: 'big',
  max_tokens: 5,
  temperature: 0.5,
  top_p: 0.5,
  presence_penalty: 1,
  frequency_penalty: 1,
  n: 2,
  best_of: 2,
  stop: 'x',
  seed: 1,
  logprobs: 1,
  logit_bias: { '1': 1 },
}

test.each(Object.entries({ ...settings, echo: true, suffix: 'x' }))(
  'effectiveRequest() accepts %s for a locked prompt only if it is in visitor_may_set',
  (field, value) => {
    const body = { prompt: sea, [field]: value }
    const others = Object.keys(settings).filter((name) => name !== field)
    for (const visitor_may_set of [[], others]) {
      expect(refusal(body, { haiku: { visitor_may_set } })).toEqual({
        code: 'locked_by_owner',
        param: field,
        message: `Cannot set "${field}": the owner has locked it for this prompt`,
      })
    }
    const request = effective(body, { haiku: { visitor_may_set: [field] } })
    expect(request).toMatchObject({ [field]: field === 'stop' ? ['x'] : value })
  },
)

test('effectiveRequest() modifies neither the request nor the options', () => {
  const owners = options({ haiku: { parameters: { seed: 1 } }, defaults: { temperature: 0.5 } })
  const request = parse({ prompt: sea, stream: true })
  const before = structuredClone([owners, request])
  effectiveRequest(request, owners)
  expect([owners, request]).toEqual(before)
})

describe('overriddenFields()', () => {
  const visitor_may_set = ['model', 'max_tokens', 'temperature', 'seed', 'stop', 'n', 'logit_bias']
  const chosen = (fields: object, changes: Changes = {}) => {
    const set = { ...changes, haiku: { visitor_may_set, ...changes.haiku } }
    const request = parse({ prompt: sea, ...fields })
    return overriddenFields(request, effectiveRequest(request, options(set)), options(set))
  }

  test.each<[object, object]>([
    [{}, {}],
    [{ stream: true, user: 'ada', stream_options: { include_usage: true } }, {}],
    [{ seed: 7 }, { seed: 7 }],
    [{ seed: null, temperature: 1, n: 1, max_tokens: 256, model: 'small' }, {}],
    [{ model: 'big' }, { model: 'big' }],
    [{ stop: 'x' }, { stop: ['x'] }],
    [{ stop: [], logit_bias: {} }, {}],
    [{ logit_bias: { 1: 2 } }, { logit_bias: { 1: 2 } }],
  ])('of %j returns %j', (fields, expected) => {
    expect(chosen(fields)).toEqual(expected)
  })

  test('returns what differs from the owner’s settings, not from the standard defaults', () => {
    const defaults = { temperature: 0.5 }
    expect(chosen({ temperature: 1 }, { defaults })).toEqual({ temperature: null })
    expect(chosen({ temperature: 0.5 }, { defaults })).toEqual({})
    const parameters = { temperature: 0.2 }
    expect(chosen({ temperature: 1 }, { haiku: { parameters } })).toEqual({ temperature: null })
    expect(chosen({ max_tokens: 9 }, { haiku: { max_tokens: 9 } })).toEqual({})
  })

  test('accepts an owner’s default best_of that cannot be combined with a default stream', () => {
    const defaults = { best_of: 2, stream: true }
    expect(chosen({ stream: false, seed: 1 }, { defaults })).toEqual({ seed: 1 })
  })
})
