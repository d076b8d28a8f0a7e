// The request to an upstream: the visitor's fields and the owner's settings, without standard
// defaults.

import { describe, expect, test } from 'vitest'
import { GatewayError } from '../../src/errors.ts'
import type { EffectiveOptions, ModelOptions } from '../../src/request/effective.ts'
import { draftRequest, overriddenFields } from '../../src/request/effective.ts'
import { requestParser } from '../../src/request/schema.ts'

/** Without page texts. */
const effectiveRequest = (...args: Parameters<typeof draftRequest>) =>
  draftRequest(...args).render()

const parse = requestParser({ prompt_chars: 100_000, max_tokens: 512, n: 4, prompts: 4 })

type PromptOptions = NonNullable<ReturnType<EffectiveOptions['prompts']['get']>>

const haiku: PromptOptions = {
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
  parameters: {},
  route: [{ upstream: 'openai', upstream_model: 'gpt-6-luna' }],
}
const big: ModelOptions = {
  id: 'big',
  system: 'Be brief.',
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

function refusal(body: unknown, changes: Changes = {}) {
  try {
    effective(body, changes)
  } catch (error) {
    if (!(error instanceof GatewayError)) throw error
    const { code, param, message } = error
    return { code, param, message }
  }
  throw new Error('not refused')
}

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

test('effectiveRequest() of only a prompt uses the first model and the defaults', () => {
  expect(effective({ prompt: 'x' })).toEqual(bare)
  expect(effective({ prompt: 'x', model: 'big' })).toEqual({
    ...bare,
    model: 'big',
    system: 'Be brief.',
    route: big.route,
    parameters: big.parameters,
  })
})

test.each([
  ['x', ['x']],
  [
    ['a', 'b'],
    ['a', 'b'],
  ],
  [[1, 2], [[1, 2]]],
  [
    [[1], [2, 3]],
    [[1], [2, 3]],
  ],
])('effectiveRequest() converts the prompt %j to a list', (prompt, prompts) => {
  expect(effective({ prompt }).prompts).toEqual(prompts)
})

test('effectiveRequest() keeps every field that has an effect', () => {
  const fields = {
    max_tokens: 5,
    n: 2,
    best_of: 3,
    temperature: 0.5,
    top_p: 0.5,
    presence_penalty: -1,
    frequency_penalty: 1,
    stop: ['a', 'b'],
    seed: 0,
    logprobs: 0,
    echo: true,
    suffix: 'end',
    logit_bias: { '5': 1 },
  }
  expect(effective({ prompt: 'x', ...fields })).toEqual({ ...bare, ...fields })
})

test.each([
  { temperature: 1 },
  { top_p: 1 },
  { presence_penalty: 0 },
  { presence_penalty: -0 },
  { frequency_penalty: 0 },
  { n: 1 },
  { best_of: 1 },
  { echo: false },
  { suffix: '' },
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

test('effectiveRequest() converts -0 to 0', () => {
  const { temperature, top_p } = effective({ prompt: 'x', temperature: -0, top_p: -0 })
  expect(Object.is(temperature, 0) && Object.is(top_p, 0)).toBe(true)
})

test('effectiveRequest() converts a single stop to a list', () => {
  expect(effective({ prompt: 'x', stop: 'end' })).toEqual({ ...bare, stop: ['end'] })
})

test("effectiveRequest() uses the owner's defaults for fields the visitor omits", () => {
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
  expect(effective({ prompt: 'x' }, { defaults })).toEqual({ ...bare, ...defaults })
  expect(effective({ prompt: 'x', temperature: null, seed: 8 }, { defaults })).toEqual({
    ...bare,
    ...defaults,
    seed: 8,
  })
})

test("effectiveRequest() lets a visitor override the owner's default with the standard one", () => {
  const defaults = {
    temperature: 0.2,
    top_p: 0.9,
    presence_penalty: 1,
    frequency_penalty: 1,
    n: 2,
    best_of: 2,
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
  expect(effective({ prompt: 'x', ...standard }, { defaults })).toEqual(bare)
})

test("effectiveRequest() omits an owner's default that equals the standard one", () => {
  const defaults = { temperature: 1, top_p: 1, presence_penalty: 0, echo: false, best_of: 1 }
  expect(effective({ prompt: 'x' }, { defaults })).toEqual(bare)
})

test("effectiveRequest() uses the owner's stop sequences unless the visitor sets some", () => {
  const defaults = { stop: '\n\n' }
  expect(effective({ prompt: 'x' }, { defaults })).toEqual({ ...bare, stop: ['\n\n'] })
  expect(effective({ prompt: 'x', stop: ['a', 'b'] }, { defaults }).stop).toEqual(['a', 'b'])
  expect(effective({ prompt: 'x', stop: [] }, { defaults })).toEqual(bare)
  expect(effective({ prompt: sea }, { defaults }).stop).toEqual(['\n\n'])
  expect(effective({ prompt: 'x' }, { defaults: { stop: [] } })).toEqual(bare)
})

test('effectiveRequest() ignores stream in the defaults', () => {
  expect(effective({ prompt: 'x' }, { defaults: { stream: true } })).toEqual(bare)
})

// best_of must be at least n and cannot be combined with streaming, including the owner's defaults.
test("effectiveRequest() checks best_of against the owner's default n", () => {
  expect(refusal({ prompt: 'x', best_of: 2 }, { defaults: { n: 3 } })).toMatchObject({
    code: 'invalid_value',
    param: 'best_of',
  })
})

test("effectiveRequest() raises the owner's default best_of to the visitor's n", () => {
  const { n, best_of } = effective({ prompt: 'x', n: 3 }, { defaults: { best_of: 2 } })
  expect(best_of ?? n).toBeGreaterThanOrEqual(n)
})

test.each([
  'nope',
  'SMALL',
  'Small',
  'small ',
  ' small',
  'small\u0000',
  '',
  '__proto__',
  'constructor',
])('effectiveRequest() rejects the model %j with model_not_allowed', (model) => {
  expect(refusal({ prompt: 'x', model })).toEqual({
    code: 'model_not_allowed',
    param: 'model',
    message: `Cannot use the model ${JSON.stringify(model)}: GET /v1/models lists the allowed models`,
  })
})

test('effectiveRequest() quotes at most 64 characters of a model or prompt id in errors', () => {
  const long = Array.from({ length: 64 }, (_, i) => String.fromCharCode(0x61 + (i % 26))).join('')
  const model = refusal({ prompt: 'x', model: long.repeat(100) })
  expect(model.code).toBe('model_not_allowed')
  expect(model.message).not.toContain(`${long}a`)
  expect(model.message.length).toBeLessThan(150)
  const lone = refusal({ prompt: 'x', model: 'a\ud800' })
  expect(lone.code).toBe('model_not_allowed')
  expect(lone.message.isWellFormed()).toBe(true)
  const id = refusal({ prompt: { id: long } })
  expect(id).toMatchObject({ code: 'prompt_not_found', param: 'prompt.id' })
  expect(id.message.length).toBeLessThan(150)
})

test('effectiveRequest() rejects free prompts if the owner has disabled them', () => {
  for (const prompt of ['x', ['x'], [1]]) {
    expect(refusal({ prompt }, { freePrompts: false })).toMatchObject({
      code: 'free_prompts_disabled',
      param: 'prompt',
    })
  }
  expect(effective({ prompt: sea }, { freePrompts: false }).prompt_id).toBe('haiku')
})

test.each(['nope', 'HAIKU', '__proto__', 'constructor', 'toString'])(
  'effectiveRequest() rejects the prompt id %j with prompt_not_found',
  (id) => {
    expect(refusal({ prompt: { id } })).toEqual({
      code: 'prompt_not_found',
      param: 'prompt.id',
      message: `Cannot find the prompt ${JSON.stringify(id)}: GET /v1/prompts lists the available prompts`,
    })
  },
)

test('effectiveRequest() renders the text and system message of a locked prompt', () => {
  expect(effective({ prompt: sea })).toEqual({
    ...bare,
    prompt_id: 'haiku',
    prompts: ['A haiku about sea in English.'],
    system: 'You write about sea.',
  })
})

test('effectiveRequest() does not fill placeholders inside a variable', () => {
  const variables = { topic: '{{language}}', language: 'Deutsch' }
  const request = effective({ prompt: { id: 'haiku', variables } })
  expect(request.prompts).toEqual(['A haiku about {{language}} in Deutsch.'])
  expect(request.system).toBe('You write about {{language}}.')
})

test("effectiveRequest() uses the model's system message for a prompt without one", () => {
  expect(effective({ prompt: sea }, { haiku: { system: undefined, model: 'big' } }).system).toBe(
    'Be brief.',
  )
  expect(effective({ prompt: sea }, { haiku: { model: 'big' } }).system).toBe(
    'You write about sea.',
  )
})

test.each([
  [{ id: 'haiku' }, 'missing_field', 'prompt.variables.topic'],
  [{ id: 'haiku', variables: { topic: 'sea' } }, 'missing_field', 'prompt.variables.language'],
  [
    { id: 'haiku', variables: { ...sea.variables, mood: 'x' } },
    'invalid_value',
    'prompt.variables.mood',
  ],
  [
    { id: 'haiku', variables: { ...sea.variables, topic: 'x'.repeat(21) } },
    'invalid_value',
    'prompt.variables.topic',
  ],
])('effectiveRequest() rejects the variables of %j', (prompt, code, param) => {
  expect(refusal({ prompt })).toMatchObject({ code, param })
})

test('effectiveRequest() limits the total length of the variables', () => {
  expect(refusal({ prompt: sea }, { variableChars: 9 })).toMatchObject({
    code: 'invalid_value',
    param: 'prompt.variables',
  })
  expect(effective({ prompt: sea }, { variableChars: 10 }).prompt_id).toBe('haiku')
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
  'effectiveRequest() rejects %s for a locked prompt by default',
  (field, value) => {
    expect(refusal({ prompt: sea, [field]: value })).toEqual({
      code: 'locked_by_owner',
      param: field,
      message: `Cannot set "${field}": the owner has locked it for this prompt`,
    })
    const others = Object.keys(settings).filter((name) => name !== field)
    expect(
      refusal({ prompt: sea, [field]: value }, { haiku: { visitor_may_set: others } }),
    ).toEqual(expect.objectContaining({ code: 'locked_by_owner', param: field }))
  },
)

test('effectiveRequest() rejects a locked field even at its standard default', () => {
  expect(refusal({ prompt: sea, temperature: 1 })).toMatchObject({ code: 'locked_by_owner' })
  expect(effective({ prompt: sea, temperature: null }).prompt_id).toBe('haiku')
})

test.each(Object.entries(settings))(
  'effectiveRequest() accepts %s if it is in visitor_may_set',
  (field, value) => {
    const request = effective(
      { prompt: sea, [field]: value },
      { haiku: { visitor_may_set: [field] } },
    )
    expect(request).toMatchObject({ [field]: field === 'stop' ? ['x'] : value })
  },
)

test('effectiveRequest() accepts stream, stream_options and user for any locked prompt', () => {
  const body = { prompt: sea, stream: true, stream_options: { include_usage: true }, user: 'me' }
  expect(effective(body)).toEqual(effective({ prompt: sea }))
})

test('effectiveRequest() takes max_tokens from the visitor, else the prompt, else the defaults', () => {
  const may = { visitor_may_set: ['max_tokens'] }
  expect(effective({ prompt: sea }).max_tokens).toBe(256)
  expect(effective({ prompt: sea }, { haiku: { max_tokens: 60 } }).max_tokens).toBe(60)
  const visitor = { prompt: sea, max_tokens: 20 }
  expect(effective(visitor, { haiku: { ...may, max_tokens: 60 } }).max_tokens).toBe(20)
})

test('effectiveRequest() takes the model from the visitor, else the prompt, else the list', () => {
  expect(effective({ prompt: sea }).model).toBe('small')
  expect(effective({ prompt: sea }, { haiku: { model: 'big' } }).route).toEqual(big.route)
  const may = { visitor_may_set: ['model'], model: 'big' }
  expect(effective({ prompt: sea, model: 'small' }, { haiku: may }).model).toBe('small')
})

test("effectiveRequest() lets the prompt's parameters override the model's", () => {
  const parameters = { temperature: 0.9, verbosity: 'low' }
  expect(effective({ prompt: sea }, { haiku: { model: 'big', parameters } }).parameters).toEqual({
    reasoning_effort: 'none',
    temperature: 0.9,
    verbosity: 'low',
  })
})

test("effectiveRequest() lets allowed fields of a visitor override the prompt's parameters", () => {
  const prompt = { parameters: { temperature: 0.9, seed: 1 }, visitor_may_set: ['temperature'] }
  const warm = effective({ prompt: sea, temperature: 0.5 }, { haiku: prompt })
  expect(warm.temperature).toBe(0.5)
  expect(warm.parameters).toEqual({ seed: 1 })
  const standard = effective({ prompt: sea, temperature: 1 }, { haiku: prompt })
  expect(standard.temperature).toBeUndefined()
  expect(standard.parameters).toEqual({ seed: 1 })
  const unset = effective({ prompt: sea, temperature: null }, { haiku: prompt })
  expect(unset.parameters).toEqual({ temperature: 0.9, seed: 1 })
})

test('effectiveRequest() applies the defaults except echo to a locked prompt', () => {
  const defaults = { temperature: 0.2, echo: true, seed: 3 }
  const request = effective({ prompt: sea }, { defaults })
  expect(request).toMatchObject({ temperature: 0.2, seed: 3 })
  expect(request.echo).toBeUndefined()
  expect(effective({ prompt: 'x' }, { defaults }).echo).toBe(true)
})

test('effectiveRequest() modifies neither the request nor the options', () => {
  const owners = options({ haiku: { parameters: { seed: 1 } }, defaults: { temperature: 0.5 } })
  const ownersBefore = structuredClone(owners)
  const request = parse({ prompt: sea, stream: true })
  const requestBefore = structuredClone(request)
  effectiveRequest(request, owners)
  expect(owners).toEqual(ownersBefore)
  expect(request).toEqual(requestBefore)
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
