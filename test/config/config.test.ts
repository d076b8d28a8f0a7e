// How settings are read, and every fault by its path. Defaults are compared with docs/settings.md by
// test/docs.test.ts.
import * as v from 'valibot'
import { expect, test } from 'vitest'
import { type ConfigResult, parseConfig } from '../../src/config/config.ts'
import { configSchema } from '../../src/config/schema.ts'
import type { Fault } from '../../src/validation.ts'
import { CANARY, recordOutput } from '../support/canary.ts'

const groups = v.pick(configSchema, ['limits', 'cache', 'budget', 'access'])
const haiku = {
  system: 'You write haiku.',
  text: 'Write a haiku about {{topic}} in {{language}}.',
  variables: { topic: { max_chars: 80 }, language: { values: ['English', 'Deutsch'] } },
  model: 'default',
  max_tokens: 60,
  parameters: {},
  visitor_may_set: [],
  ttl_seconds: 2_592_000,
  spend: 'visitor',
  abandon: 'finish',
}
/** A configuration with every setting. */
const example = {
  ...v.parse(groups, {}),
  origins: ['https://example.com'],
  origin_required: false,
  free_prompts: true,
  models: [
    {
      id: 'default',
      upstream: 'openai',
      upstream_model: 'gpt-6-luna',
      parameters: { reasoning_effort: 'none' },
      fallbacks: [{ upstream: 'workers-ai', upstream_model: '@cf/meta/llama-3.1-8b-instruct' }],
      system: 'Continue the text.',
      price: { input: 0.1, output: 0.5 },
      abandon: 'finish',
    },
  ],
  upstreams: [
    {
      name: 'openai',
      preset: 'openai',
      key: 'UPSTREAM_API_KEY',
      stream: 'always',
      first_byte_ms: 30_000,
      idle_ms: 20_000,
      deadline_ms: 120_000,
      retries: 1,
      max_output_bytes: 1_048_576,
    },
    { name: 'workers-ai', wire: 'workers-ai' },
  ],
  prompts: { haiku },
  defaults: { max_tokens: 256 },
}

interface Surroundings {
  readonly prompts?: unknown
  readonly secrets?: Readonly<Record<string, string>>
  /** Missing bindings. */
  readonly unbound?: readonly string[]
}

function parse(
  config: unknown,
  { prompts = {}, secrets = {}, unbound = [] }: Surroundings = {},
): ConfigResult {
  const result = parseConfig({
    config,
    prompts,
    secret: (name) => (Object.hasOwn(secrets, name) ? secrets[name] : undefined),
    bound: (name) => !unbound.includes(name),
  })
  // Faults are public at GET /health, so a hook searches them for the canary after each test.
  if (result.faults !== null) recordOutput(JSON.stringify(result.faults))
  return result
}

function good(config: unknown, surroundings?: Surroundings) {
  const result = parse(config, surroundings)
  if (result.config === null) throw new Error(JSON.stringify(result.faults))
  return result.config
}

function faults(config: unknown, surroundings?: Surroundings): readonly Fault[] {
  return parse(config, surroundings).faults ?? []
}

const paths = (config: unknown, surroundings?: Surroundings) =>
  faults(config, surroundings).map(({ path }) => path)

const model = { id: 'default', upstream: 'demo', upstream_model: 'demo' }
const demo = { name: 'demo', preset: 'demo' }
const minimal = { models: [model], upstreams: [demo] }
const openai = { name: 'demo', preset: 'openai', key: 'UPSTREAM_API_KEY' }
const secrets = { UPSTREAM_API_KEY: 'sk-test' }

test('parseConfig() accepts the complete example', () => {
  const config = good(example, { secrets })
  expect(config).toMatchObject({
    ...v.parse(groups, {}),
    origins: ['https://example.com'],
    originRequired: false,
    freePrompts: true,
    defaults: { max_tokens: 256 },
  })
  const price = { input: 0.1, output: 0.5 }
  expect(Object.fromEntries(config.models)).toEqual({
    default: {
      id: 'default',
      system: 'Continue the text.',
      chat: { system: null, promptIsChat: 'yes', developer: true, alternating: false },
      parameters: { reasoning_effort: 'none' },
      route: [
        { upstream: 'openai', upstream_model: 'gpt-6-luna' },
        { upstream: 'workers-ai', upstream_model: '@cf/meta/llama-3.1-8b-instruct' },
      ],
      price,
      abandon: 'finish',
      prices: [price, price],
      takesChats: true,
    },
  })
  expect([...config.upstreams.keys()]).toEqual(['openai', 'workers-ai'])
  expect(config.upstreams.get('openai')).toMatchObject({
    name: 'openai',
    wire: 'chat',
    baseUrl: 'https://api.openai.com/v1',
    auth: 'bearer',
    key: 'sk-test',
    maxTokensField: 'max_completion_tokens',
    stream: 'always',
    firstByteMs: 30_000,
    idleMs: 20_000,
    deadlineMs: 120_000,
    retries: 1,
    maxOutputBytes: 1_048_576,
  })
  expect(Object.fromEntries(config.prompts)).toEqual({ haiku: { chat: false, ...haiku } })
})

test('parseConfig() accepts CONFIG as a JSON string', () => {
  expect(good(JSON.stringify(minimal))).toEqual(good(minimal))
  expect(paths(JSON.stringify({ ...minimal, cache: { ttl_seconds: -1 } }))).toEqual([
    'cache.ttl_seconds',
  ])
})

test.each([undefined, null, [], 'not JSON', '', '[]', 'null', 5, {}])(
  'parseConfig() finds no configuration in %j',
  (config) => {
    const result = parse(config)
    expect(result.config).toBeNull()
    expect(result.faults?.length).toBeGreaterThan(0)
    for (const { message } of result.faults ?? []) {
      expect(message).toMatch(/^Cannot (find|use|read) /)
    }
  },
)

test('parseConfig() names the tables that are missing', () => {
  expect(faults({})).toEqual([
    { path: 'models', message: expect.stringMatching(/^Cannot find "models"[^[]*$/) },
    { path: 'upstreams', message: expect.stringMatching(/^Cannot find "upstreams"[^[]*$/) },
  ])
})

const withModel = (change: object) => ({ models: [{ ...model, ...change }] })
const withUpstream = (change: object) => ({ upstreams: [{ ...demo, ...change }] })
const withPrompt = (prompt: object) => ({ prompts: { h: { text: 'x', ...prompt } } })
const withChat = (prompt: object) => ({ prompts: { h: { chat: true, ...prompt } } })

const withPage = (page: object) =>
  withPrompt({ text: '{{page}}', variables: { page: { from: 'url', ...page } } })
const fallback = (upstream: string) => ({ upstream, upstream_model: 'x' })
const needsOrigin =
  'Cannot read pages for "page": add the origin of your site to "origins", such as "https://example.com" ("*" is not enough)'

/** An invalid setting, its path and its message. */
const wrong: readonly (readonly [change: object, path: string, message: string])[] = [
  [{ foo: 1 }, 'foo', 'it is not a known setting'],
  [{ cache: { ttl: 1 } }, 'cache.ttl', 'it is not a known setting'],
  [{ limits: { foo: 1 } }, 'limits.foo', 'it is not a known setting'],
  [{ budget: { foo: 1 } }, 'budget.foo', 'it is not a known setting'],
  [{ access: { foo: 1 } }, 'access.foo', 'it is not a known setting'],
  [{ defaults: { user: 'x' } }, 'defaults.user', 'it is not a known setting'],
  [{ defaults: { stop: 5 } }, 'defaults.stop', 'a string or up to 4 strings'],
  [{ defaults: { stop: [''] } }, 'defaults.stop[0]', 'expected a string that is not empty'],
  [withModel({ foo: 1 }), 'models[0].foo', 'it is not a known setting'],
  [withUpstream({ api_key: 'x' }), 'upstreams[0].api_key', 'it is not a known setting'],
  [withPrompt({ foo: 1 }), 'prompts.h.foo', 'it is not a known setting'],
  [{ origins: 'https://example.com' }, 'origins', 'expected a list of origins, got "https'],
  [{ origin_required: 'yes' }, 'origin_required', 'expected true or false, got "yes"'],
  [{ free_prompts: 1 }, 'free_prompts', 'expected true or false, got 1'],
  [withModel({ id: '' }), 'models[0].id', 'expected a string that is not empty'],
  [withModel({ price: { input: -1, output: 0 } }), 'models[0].price.input', 'at least 0, got -1'],
  [withModel({ abandon: 'wait' }), 'models[0].abandon', 'expected one of finish, stop'],
  [
    withUpstream({ preset: 'anthropic', auth: 'none', native_n: true }),
    'upstreams[0].native_n',
    'the wire "anthropic" returns one choice per call',
  ],
  [
    withModel({ fallbacks: [{ upstream: 'demo', upstream_model: 'm', price: { input: 1 } }] }),
    'models[0].fallbacks[0].price.output',
    '',
  ],
  [withModel({ parameters: 5 }), 'models[0].parameters', 'a table of upstream parameters, got 5'],
  [withUpstream({ name: 'a b' }), 'upstreams[0].name', 'up to 64 letters, digits'],
  [withUpstream({ preset: 'x' }), 'upstreams[0].preset', 'expected one of '],
  [withUpstream({ wire: 'x' }), 'upstreams[0].wire', 'expected one of chat, completions'],
  [withUpstream({ stream: true }), 'upstreams[0].stream', 'one of always, visitor, got true'],
  [withUpstream({ retries: 6 }), 'upstreams[0].retries', 'from 0 to 5, got 6'],
  [withUpstream({ idle_ms: 0 }), 'upstreams[0].idle_ms', 'from 1 to 600000, got 0'],
  [withUpstream({ path: 'x' }), 'upstreams[0].path', 'a path that starts with "/"'],
  [withUpstream({ unsupported: ['x'] }), 'upstreams[0].unsupported[0]', 'one of token_prompts'],
  [withPrompt({ text: '' }), 'prompts.h.text', 'expected a string that is not empty'],
  [withPrompt({ spend: 'x' }), 'prompts.h.spend', 'one of visitor, operator'],
  [withPrompt({ abandon: true }), 'prompts.h.abandon', 'one of finish, stop, got true'],
  [withPrompt({ visitor_may_set: ['echo'] }), 'prompts.h.visitor_may_set[0]', 'one of model, '],
  [{ limits: { n: 0 } }, 'limits.n', 'a whole number from 1 to 16, got 0'],
  [{ limits: { max_tokens: 1.5 } }, 'limits.max_tokens', 'a whole number of at least 1, got 1.5'],
  [{ cache: { free_prompts: 'none' } }, 'cache.free_prompts', 'one of shared, visitor, off'],
  [{ cache: { flights: 'x' } }, 'cache.flights', 'expected one of global, none'],
  [{ cache: { version: 0 } }, 'cache.version', 'a whole number from 1 to 999999, got 0'],
  [{ budget: { usd_per_day: -1 } }, 'budget.usd_per_day', 'a number of at least 0, got -1'],
  [{ budget: { tokens_per_day: '1' } }, 'budget.tokens_per_day', 'at least 0, got "1"'],
  [{ access: { token_seconds: 0 } }, 'access.token_seconds', 'from 1 to 86400, got 0'],
  [{ defaults: { temperature: 3 } }, 'defaults.temperature', 'expected 0 to 2, got 3'],
  // Checks between settings.
  [{ models: [model, model] }, 'models[1].id', 'another model has this id'],
  [{ upstreams: [demo, demo] }, 'upstreams[1].name', 'another upstream has this name'],
  [{ upstreams: [{ name: 'demo', auth: 'none' }] }, 'upstreams[0].base_url', 'set the URL'],
  [withUpstream({ base_url: 'nope' }), 'upstreams[0].base_url', 'an http(s) URL'],
  [withUpstream({ base_url: '127.0.0.1:1/v1' }), 'upstreams[0].base_url', 'such as "https://'],
  [
    withUpstream({ base_url: 'https://x.y/v1/chat/completions/', wire: 'chat' }),
    'upstreams[0].base_url',
    'Cannot use "base_url": leave out "/chat/completions", which is added to it',
  ],
  [withUpstream({ base_url: 'ftp://x.y' }), 'upstreams[0].base_url', 'an http(s) URL'],
  [withUpstream({ base_url: 'https://x.y/?a' }), 'upstreams[0].base_url', 'without "?" and "#"'],
  [withUpstream({ base_url: 'https://a:b@x.y' }), 'upstreams[0].base_url', 'belongs in a secret'],
  [{ upstreams: [{ name: 'demo', preset: 'openai' }] }, 'upstreams[0].key', 'name the secret'],
  [{ upstreams: [openai] }, 'upstreams[0].key', 'Cannot find the secret that "key" names'],
  [withPrompt({ text: '{{a}}' }), 'prompts.h.text', 'Cannot fill "{{a}}"'],
  [withPrompt({ system: '{{a}}' }), 'prompts.h.system', 'Cannot fill "{{a}}"'],
  [withPrompt({ variables: { a: { max_chars: 1 } } }), 'prompts.h.variables.a', 'contains {{a}}'],
  [withPrompt({ text: undefined }), 'prompts.h.text', 'only a chat can do without it'],
  [withPrompt({ chat: true }), 'prompts.h.text', 'message would be lost'],
  [withChat({ system: '{{message}}' }), 'prompts.h.system', 'only "text" can contain it'],
  [withChat({ variables: { a: { max_chars: 1 } } }), 'prompts.h.variables.a', 'contains {{a}}'],
  [
    withChat({ text: '{{message}}', variables: { message: { max_chars: 1 } } }),
    'prompts.h.variables.message',
    "remove it, {{message}} is always the visitor's last message",
  ],
  [{ prompts: { default: { chat: true } } }, 'prompts.default', 'a model has this id'],
  [
    { ...withUpstream({ wire: 'completions', chat_path: '' }), ...withChat({}) },
    'prompts.h.chat',
    'the model "default" takes no chats',
  ],
  [withPrompt({ model: 'nope' }), 'prompts.h.model', 'Cannot find model "nope": known are default'],
  [{ defaults: { max_tokens: 513 } }, 'defaults.max_tokens', 'limits.max_tokens, which is 512'],
  [{ defaults: { n: 2 } }, 'defaults.n', 'it is above limits.n'],
  [{ defaults: { best_of: 2 } }, 'defaults.best_of', 'it is above limits.n'],
  [
    { defaults: { best_of: 2, stream: true }, limits: { n: 2 } },
    'defaults.best_of',
    'expected 1 with defaults.stream = true',
  ],
  [{ budget: { usd_per_day: 1 } }, 'models[0].price', 'budget.usd_per_day requires it'],
  [{ access: { turnstile_sitekey: 'x' } }, 'access.turnstile_sitekey', 'TURNSTILE_SECRET'],
  [
    withModel({ upstream: 'dmo' }),
    'models[0].upstream',
    'Cannot find upstream "dmo": known are demo',
  ],
  [
    withModel({ fallbacks: [fallback('demo'), fallback('nope')] }),
    'models[0].fallbacks[1].upstream',
    'Cannot find upstream "nope": known are demo',
  ],
  [withPage({}), 'prompts.h.variables.page', needsOrigin],
  [
    { ...withPage({}), origins: ['*'], anyone_may_spend: true },
    'prompts.h.variables.page',
    needsOrigin,
  ],
  [
    { ...withPage({ selector: 'a:hover' }), origins: ['https://example.com'] },
    'prompts.h.variables.page.selector',
    'Cannot use "a:hover": expected CSS selectors of tags, classes, ids and attributes, such as "main, article"',
  ],
]

test.each(wrong)('parseConfig() finds the fault in %j', (change, path, message) => {
  const found = faults({ ...minimal, ...change })
  expect(found.map((fault) => fault.path)).toEqual([path])
  expect(found[0]?.message).toMatch(/^Cannot (use|find|fill|set|read) /)
  expect(found[0]?.message).toContain(message)
})

// Messages must not show valibot's notation, such as ">=1".
test.each([
  { models: [] },
  { upstreams: [] },
  withPrompt({ text: '{{a}}', variables: { a: { values: [] } } }),
  withPrompt({ text: '{{a}}', variables: { a: { from: 'url', paths: [] } } }),
  withPrompt({ text: '{{a}}', variables: { a: { max_chars: 0 } } }),
  withPrompt({ text: '{{a}}', variables: { a: {} } }),
  withPrompt({ text: '{{a}}', variables: { a: 5 } }),
  withPrompt({ variables: { '1a': { max_chars: 1 } } }),
  { prompts: { 'a b': { text: 'x' } } },
  { prompts: { h: 5 } },
  { cache: 5 },
])('parseConfig() describes in words what is wrong with %j', (change) => {
  const found = faults({ ...minimal, ...change })
  expect(found.length).toBeGreaterThan(0)
  for (const { message } of found) expect(message).not.toMatch(/[<>]=|Invalid|undefined/)
})

// An invalid setting must neither hide faults of other settings nor cause additional ones.
test('parseConfig() lists every fault at once, also of settings that depend on each other', () => {
  const config = {
    foo: 1,
    origins: ['nope', 5],
    models: [
      { id: 'a', upstream: 'opnai', upstream_model: '', price: { input: 'x', output: 1 } },
      { id: 'b', upstream: 'main', upstream_model: 'm', fallbacks: [{ upstream: 'gone' }] },
      'c',
    ],
    upstreams: [
      { name: 'main', preset: 'openai', key: 'MISSING_KEY', retries: 9, idle_ms: 'x' },
      { name: 'other', base_url: 'ftp://x', auth: 'none' },
      { name: 'other', preset: 'opnai', typo: 1 },
    ],
    prompts: {
      h: { text: '{{a}} {{b}}', model: 'a', variables: { a: { max_chars: 0 } } },
      g: { text: 'x', variables: { c: { max_chars: 1 } }, spend: 'x' },
      f: { system: '{{d}}' },
      'bad id': { text: '{{e}}' },
    },
    defaults: { max_tokens: 600, n: 9 },
    limits: { n: 0, body_bytes: 0 },
    budget: { usd_per_day: 1, tokens_per_day: -1 },
    access: { turnstile_sitekey: '0x4A', token_seconds: 0 },
  }
  const found = paths(config, { unbound: ['CACHE'], prompts: { i: { text: '{{x}}', foo: 1 } } })
  expect(found.toSorted()).toEqual([
    'CACHE',
    'access.token_seconds',
    'access.turnstile_sitekey',
    'budget.tokens_per_day',
    'defaults.max_tokens',
    'foo',
    'limits.body_bytes',
    'limits.n',
    'models[0].price.input',
    'models[0].upstream',
    'models[0].upstream_model',
    'models[1].fallbacks[0].upstream',
    'models[1].fallbacks[0].upstream_model',
    'models[1].price',
    'models[2]',
    'origins[0]',
    'origins[1]',
    'prompts.bad id',
    'prompts.f.text',
    'prompts.g.spend',
    'prompts.g.variables.c',
    'prompts.h.text',
    'prompts.h.variables.a.max_chars',
    'src/config/prompts.ts:i.foo',
    'src/config/prompts.ts:i.text',
    'upstreams[0].idle_ms',
    'upstreams[0].key',
    'upstreams[0].retries',
    'upstreams[1].base_url',
    'upstreams[2].name',
    'upstreams[2].preset',
    'upstreams[2].typo',
  ])
})

test('parseConfig() lists a name that does not exist, also if another name is invalid', () => {
  const found = faults({
    models: [model, { ...model, id: '' }, { ...model, id: 'b', upstream: 'typo' }],
    upstreams: [demo, { ...demo, name: 'not a name' }],
    prompts: { h: { text: 'x', model: 'gone' } },
  })
  expect(found.map(({ path }) => path)).toEqual([
    'models[1].id',
    'upstreams[1].name',
    'models[2].upstream',
    'prompts.h.model',
  ])
  expect(found[3]?.message).toBe('Cannot find model "gone": known are default, b')
})

// Each of these has one fault, and must not cause a second one in a setting that depends on it.
test.each<[object, string]>([
  [{ upstreams: [{ name: 'de mo', preset: 'demo' }] }, 'upstreams[0].name'],
  [{ upstreams: ['demo'] }, 'upstreams[0]'],
  [{ upstreams: 'demo' }, 'upstreams'],
  [{ upstreams: [{ name: 'demo', base_url: 5 }] }, 'upstreams[0].base_url'],
  [{ upstreams: [{ name: 'demo', wire: 'x' }] }, 'upstreams[0].wire'],
  [{ upstreams: [{ name: 'demo', preset: 'openai', auth: 'x' }] }, 'upstreams[0].auth'],
  [{ models: 5, prompts: { h: { text: 'x', model: 'default' } } }, 'models'],
  [{ models: [{ ...model, id: 5 }], prompts: { h: { text: 'x', model: 'a' } } }, 'models[0].id'],
  [{ origins: ['*'], anyone_may_spend: 'yes' }, 'anyone_may_spend'],
  [
    {
      origins: 'https://example.com',
      prompts: { h: { text: '{{a}}', variables: { a: { from: 'url' } } } },
    },
    'origins',
  ],
  [{ limits: { max_tokens: 0 }, defaults: { max_tokens: 600 } }, 'limits.max_tokens'],
  [{ limits: { n: 'x' }, defaults: { n: 2 } }, 'limits.n'],
  [{ budget: { usd_per_day: 1 }, models: [{ ...model, price: 5 }] }, 'models[0].price'],
  [{ prompts: { h: 5 } }, 'prompts.h'],
  [{ prompts: { h: { chat: 'yes' } } }, 'prompts.h.chat'],
  [{ prompts: { h: { chat: 1, text: '{{message}}' } } }, 'prompts.h.chat'],
  [{ prompts: { h: { text: 5, variables: { a: { max_chars: 1 } } } } }, 'prompts.h.text'],
  // No path begins like this, so that no page would be allowed.
  [{ site: { paths: ['docs/*'] } }, 'site.paths[0]'],
  [withPage({ paths: ['/*', 'docs/*'] }), 'prompts.h.variables.page.paths[1]'],
])('parseConfig() reports only the invalid setting in %j', (change, path) => {
  expect(paths({ ...minimal, ...change })).toEqual([path])
})

test('parseConfig() accepts only origins as browsers send them', () => {
  const origins = ['https://example.com', 'http://localhost:4000', 'https://xn--bcher-kva.example']
  expect(good({ ...minimal, origins }).origins).toEqual(origins)
  for (const origin of [
    'https://example.com/',
    'https://Example.com',
    'https://example.com:443',
    'https://bücher.example',
    'https://example.com/page',
    'https://user@example.com',
    'example.com',
    'null',
    '',
    'file://',
    'javascript:alert(1)',
    ' https://example.com',
    // A URL parser accepts it as a host, but no browser ever sends it, so it would match nothing.
    'https://*.example.com',
  ]) {
    const [fault] = faults({ ...minimal, origins: [origin] })
    expect(fault?.path, origin).toBe('origins[0]')
    expect(fault?.message).toContain('expected scheme://host[:port] exactly as browsers send it')
  }
})

test('parseConfig() accepts the origin "*" only with anyone_may_spend', () => {
  const origins = ['https://example.com', '*']
  expect(faults({ ...minimal, origins })).toEqual([
    { path: 'origins[1]', message: 'Cannot use "*": it requires anyone_may_spend = true' },
  ])
  expect(faults({ ...minimal, origins, anyone_may_spend: false })).toHaveLength(1)
  expect(good({ ...minimal, origins, anyone_may_spend: true }).origins).toEqual(origins)
})

test('parseConfig() returns the valid origins, so that their pages can read the error', () => {
  const saved = ['https://a.example', 'https://b.example']
  const config = { ...minimal, foo: 1, origins: [saved[0], 5, 'nope', '*', saved[1]] }
  expect(parse(config)).toMatchObject({ config: null, origins: saved })
  expect(parse(JSON.stringify(config))).toMatchObject({ config: null, origins: saved })
  expect(parse({ ...minimal, models: [], origins: saved })).toMatchObject({ origins: saved })
  expect(parse({ ...minimal, origins: saved }, { unbound: ['CACHE'] })).toMatchObject({
    origins: saved,
  })
  expect(parse({ ...config, origins: saved[0] })).toMatchObject({ origins: [] })
})

test('parseConfig() allows free prompts if there are no locked ones, unless free_prompts is set', () => {
  const prompts = { h: { text: 'x' } }
  expect(good(minimal).freePrompts).toBe(true)
  expect(good({ ...minimal, prompts }).freePrompts).toBe(false)
  expect(good(minimal, { prompts }).freePrompts).toBe(false)
  expect(good({ ...minimal, prompts, free_prompts: true }).freePrompts).toBe(true)
  expect(good({ ...minimal, free_prompts: false }).freePrompts).toBe(false)
})

test('parseConfig() lowers the built-in default of max_tokens to the limit', () => {
  expect(good({ ...minimal, limits: { max_tokens: 100 } }).defaults.max_tokens).toBe(100)
  expect(good({ ...minimal, limits: { max_tokens: 4000 } }).defaults.max_tokens).toBe(256)
  const defaults = { max_tokens: 300, temperature: 0.2, stream: true }
  expect(good({ ...minimal, defaults }).defaults).toEqual(defaults)
})

const unlimited = (name: string) =>
  `Cannot set "${name}" below 0 here: the budget cannot hold for a call without a limit`
const reserved = [
  'model',
  'messages',
  'prompt',
  'system',
  'stream',
  'stream_options',
  'n',
  'best_of',
  'max_tokens',
  'max_completion_tokens',
  'echo',
]

test.each<[parameters: object, path: string, message: string]>([
  [{ n_predict: -1 }, 'parameters', unlimited('n_predict')],
  [{ options: { num_predict: -2 } }, 'parameters', unlimited('num_predict')],
  [{ extra: [{ max_new_tokens: '-1' }] }, 'parameters', unlimited('max_new_tokens')],
  ...reserved.map((name): [object, string, string] => [
    { [name]: 1, reasoning_effort: 'none' },
    `parameters.${name}`,
    `Cannot set "${name}" here: the gateway sets it, and the budget relies on it`,
  ]),
])(
  'parseConfig() refuses the parameters %j of a model or a prompt',
  (parameters, path, message) => {
    expect(faults({ ...minimal, ...withModel({ parameters }) })).toEqual([
      { path: `models[0].${path}`, message },
    ])
    expect(faults({ ...minimal, ...withPrompt({ parameters }) })).toEqual([
      { path: `prompts.h.${path}`, message },
    ])
  },
)

test('parseConfig() takes a thinking budget of -1, which max_tokens bounds', () => {
  const parameters = { thinking_budget: -1, n_predict: 100 }
  expect(faults({ ...minimal, ...withModel({ parameters }) })).toEqual([])
})

test('parseConfig() accepts every kind of variable, with its defaults', () => {
  const variables = {
    a: { max_chars: 5 },
    b: { values: ['x', ''] },
    c: { from: 'url', paths: ['/posts/*'] },
  }
  const prompt = withPrompt({ text: '{{a}} {{b}} {{c}}', variables })
  const config = good({ ...minimal, ...prompt, origins: ['https://example.com'] })
  expect(config.prompts.get('h')?.variables).toEqual({
    ...variables,
    c: { ...variables.c, selector: expect.any(String), max_chars: 20_000, page_seconds: 3600 },
  })
})

test('parseConfig() merges src/config/prompts.ts with CONFIG, and rejects duplicate ids', () => {
  const prompts = { h: { text: 'x' } }
  const both = good({ ...minimal, prompts }, { prompts: { g: { text: 'y' } } })
  expect([...both.prompts.keys()]).toEqual(['h', 'g'])
  expect(faults({ ...minimal, prompts }, { prompts })).toEqual([
    {
      path: 'src/config/prompts.ts:h',
      message: 'Cannot use "h": CONFIG also has a prompt with this id',
    },
  ])
  const file = { g: { text: '{{a}}' }, f: { text: 'x', model: 'no' } }
  expect(paths(minimal, { prompts: file })).toEqual([
    'src/config/prompts.ts:g.text',
    'src/config/prompts.ts:f.model',
  ])
  expect(paths({ ...minimal, foo: 1 }, { prompts: { g: { text: 5 } } })).toEqual([
    'foo',
    'src/config/prompts.ts:g.text',
  ])
})

// 0 disables caching. KV's minimum of 60 s and its maximum are applied by the KV tier.
test.each([0, 1, 59, 60, 1e12])('parseConfig() accepts the TTL %d', (seconds) => {
  const cache = { ttl_seconds: seconds, stale_if_error_seconds: seconds, browser_seconds: seconds }
  expect(good({ ...minimal, cache }).cache).toMatchObject(cache)
  const config = good({ ...minimal, ...withPrompt({ ttl_seconds: seconds }) })
  expect(config.prompts.get('h')?.ttl_seconds).toBe(seconds)
})

test.each([Number.NaN, Number.POSITIVE_INFINITY, -1, -1.5, 1e16, '60', null, true])(
  'parseConfig() rejects the TTL %s',
  (seconds) => {
    const cache = { ttl_seconds: seconds }
    const found = paths({ ...minimal, cache, ...withPrompt({ ttl_seconds: seconds }) })
    expect(found.toSorted()).toEqual(['cache.ttl_seconds', 'prompts.h.ttl_seconds'])
  },
)

test('parseConfig() trims a secret', () => {
  const config = { ...minimal, upstreams: [openai] }
  const padded = good(config, { secrets: { UPSTREAM_API_KEY: ' sk\n' } })
  expect(padded.upstreams.get('demo')?.key).toBe('sk')
})

test('parseConfig() rejects an unusable secret without showing it', () => {
  const config = { ...minimal, upstreams: [openai] }
  for (const secret of ['', '  ', 'a b', 'ключ', 'a\u0000b', `${CANARY} ${CANARY}`]) {
    const found = faults(config, { secrets: { UPSTREAM_API_KEY: secret } })
    expect(found.map(({ path }) => path)).toEqual(['upstreams[0].key'])
    expect(JSON.stringify(found)).not.toContain(CANARY.slice(0, 12))
  }
})

/** Invented keys in the formats of real ones. */
const pasted = [
  CANARY,
  'sk-proj-abcdefghijklmnop',
  'AKIAIOSFODNN7EXAMPLE',
  'AKIA1',
  'gsk_a8Kd93jsLq0Zx7Yb2Wm4',
  'AIzaSyD9tSrke72PouQMnMXa7eZSW0jkFMBWY',
  'A1B2C3D4E5F6A7B8C9D0E1F2',
  '0123456789abcdef0123456789abcdef',
  'hf_aBcDeFgHiJkLmNoPqRsTuVwXyZabcdefgh',
]
test.each(pasted)('parseConfig() never shows %s in place of the name of a secret', (secret) => {
  for (const key of [secret, [secret], { value: secret }, `Bearer ${secret}`]) {
    const found = faults({ ...minimal, upstreams: [{ ...openai, key }] })
    expect(found.map(({ path }) => path)).toEqual(['upstreams[0].key'])
    expect(JSON.stringify(found)).not.toContain(secret.slice(0, 4))
  }
  const [fault] = faults({ ...minimal, upstreams: [{ ...openai, key: secret }] })
  expect(fault?.message).toContain('the NAME of a secret, not the key itself')
  expect(fault?.message).toContain('npx wrangler secret put UPSTREAM_API_KEY')
})

test('parseConfig() shows no value of "key", not even a valid name', () => {
  const found = faults({ ...minimal, upstreams: [{ ...openai, key: 'HUNTER' }] })
  expect(found.map(({ path }) => path)).toEqual(['upstreams[0].key'])
  expect(JSON.stringify(found)).not.toContain('HUNTER')
})

test.each(pasted)('parseConfig() shows only three characters and the length of %s', (secret) => {
  const places = [
    { origins: [secret] },
    { budget: { tokens_per_day: `Bearer ${secret}` } },
    withUpstream({ name: `${secret} ` }),
    withUpstream({ base_url: `https://${secret}@example.com/v1` }),
    { prompts: { [secret]: { text: '{{a}}' } } },
    { models: [model, { ...model, id: secret }, { ...model, id: secret }] },
  ]
  const texts = [secret, `{"key": "${secret}"`]
  for (const config of [...places.map((place) => ({ ...minimal, ...place })), ...texts]) {
    const found = faults(config)
    expect(found.length, JSON.stringify(config)).toBeGreaterThan(0)
    expect(JSON.stringify(found)).not.toContain(secret.slice(0, 4))
  }
  const [fault] = faults({ ...minimal, origins: [secret] })
  expect(fault?.message).toContain(`"${secret.slice(0, 3)}… (${secret.length} characters)"`)
})

type Table = Record<string, unknown>

/** Every way to put something else at one place of a value: at each key, at any depth. */
function* replaced(value: unknown, other: string): Generator<unknown> {
  if (typeof value !== 'object' || value === null) return
  const isList = Array.isArray(value)
  const table = value as Table
  const put = (more: Table, left: Table = table) =>
    isList ? Object.values({ ...left, ...more }) : { ...left, ...more }
  yield put({ [other]: other })
  for (const [key, inner] of Object.entries(table)) {
    for (const item of [other, [other], { [other]: other }, `{{${other}}}`])
      yield put({ [key]: item })
    const { [key]: _, ...left } = table
    yield put({ [other]: inner }, left)
    for (const changed of replaced(inner, other)) yield put({ [key]: changed })
  }
}

test.each(pasted)(
  'parseConfig() neither throws nor shows %s at any place of a setting',
  (secret) => {
    let count = 0
    for (const changed of replaced(example, secret)) {
      count += 1
      const found = JSON.stringify(faults(changed, { secrets }))
      expect(found, JSON.stringify(changed)).not.toContain(secret.slice(0, 8))
    }
    expect(count).toBeGreaterThan(400)
  },
)

test('parseConfig() accepts a sitekey with its secret', () => {
  const config = { ...minimal, access: { turnstile_sitekey: '0x4A' } }
  const { access } = good(config, { secrets: { TURNSTILE_SECRET: 's' } })
  expect(access.turnstile_sitekey).toBe('0x4A')
})

test('parseConfig() reports missing bindings', () => {
  expect(faults(minimal, { unbound: ['CACHE', 'AI'] })).toEqual([
    { path: 'CACHE', message: 'Cannot find the binding "CACHE": add it to wrangler.toml' },
  ])
  const ai = { ...minimal, upstreams: [{ name: 'demo', wire: 'workers-ai' }] }
  expect(paths(ai, { unbound: ['AI'] })).toEqual(['AI'])
  expect(good(ai).upstreams.get('demo')?.baseUrl).toBe('')
})

test('parseConfig() lets every setting of a preset be overridden', () => {
  const upstream = {
    ...openai,
    base_url: 'https://proxy.example/v1/',
    wire: 'completions',
    auth: 'api-key',
    path: '/complete',
    chat_path: '/chat',
    max_tokens_field: 'max_tokens',
    stream_usage: false,
    unsupported: ['seed'],
    stream: 'visitor',
    retries: 0,
  }
  const { upstreams } = good({ ...minimal, upstreams: [upstream] }, { secrets })
  expect(upstreams.get('demo')).toMatchObject({
    baseUrl: 'https://proxy.example/v1',
    wire: 'completions',
    auth: 'api-key',
    path: '/complete',
    chatPath: '/chat',
    maxTokensField: 'max_tokens',
    streamUsage: false,
    unsupported: new Set(['seed']),
    stream: 'visitor',
    retries: 0,
  })
})

test('parseConfig() requires no key for an upstream without a preset', () => {
  const local = { name: 'demo', base_url: 'http://localhost:8080/v1' }
  const open = good({ ...minimal, upstreams: [local] })
  expect(open.upstreams.get('demo')).toMatchObject({ auth: 'none', key: null, wire: 'chat' })
  const keyed = { ...local, key: 'UPSTREAM_API_KEY' }
  const closed = good({ ...minimal, upstreams: [keyed] }, { secrets })
  expect(closed.upstreams.get('demo')).toMatchObject({ auth: 'bearer', key: 'sk-test' })
})

test('parseConfig() requires neither URL nor key for the built-in demo model', () => {
  const { upstreams } = good({ ...minimal, upstreams: [{ name: 'demo', wire: 'demo' }] })
  expect(upstreams.get('demo')).toEqual(good(minimal).upstreams.get('demo'))
  good({ ...minimal, upstreams: [{ name: 'demo', preset: 'openai', wire: 'demo' }] })
})

test('parseConfig() takes prompts, variables and parameters by any name, such as "constructor"', () => {
  const named = (name: string, item: unknown) => JSON.parse(`{"${name}":${JSON.stringify(item)}}`)
  const table = { text: '{{constructor}}', variables: { constructor: { max_chars: 5 } } }
  const prompts = { ...named('constructor', table), ...named('prototype', { text: 'x' }) }
  const parameters = named('__proto__', 1)
  const { models, prompts: parsed } = good({ ...minimal, ...withModel({ parameters }), prompts })
  expect([...parsed.keys()]).toEqual(['constructor', 'prototype'])
  expect(Object.keys(parsed.get('constructor')?.variables ?? {})).toEqual(['constructor'])
  expect(Object.entries(models.get('default')?.parameters ?? {})).toEqual([['__proto__', 1]])
  const file = good(minimal, { prompts: named('constructor', { text: 'x' }) }).prompts
  expect([...file.keys()]).toEqual(['constructor'])
})

test('parseConfig() finds faults of names such as "constructor" like those of any others', () => {
  const of = (prompts: string) =>
    paths(JSON.parse(`${JSON.stringify(minimal).slice(0, -1)},"prompts":${prompts}}`))
  expect(of('{"constructor":{"text":"x","nonsense":true}}')).toEqual([
    'prompts.constructor.nonsense',
  ])
  expect(of('{"__proto__":{"text":"x"}}')).toEqual(['prompts.__proto__'])
  expect(of('{"h":{"text":"x","variables":{"constructor":{"max_chars":1}}}}')).toEqual([
    'prompts.h.variables.constructor',
  ])
  expect(of('{"h":{"text":"x","variables":{"__proto__":{"max_chars":1}}}}')).toEqual([
    'prompts.h.variables.__proto__',
  ])
})

test('parseConfig() does not read names from Object.prototype', () => {
  const config: unknown = JSON.parse(
    `{"__proto__":{"origins":["*"]},${JSON.stringify(minimal).slice(1)}`,
  )
  expect(paths(config)).toEqual(['__proto__'])
  expect(paths({ ...minimal, ...withUpstream({ name: 'constructor' }) })).toEqual([
    'models[0].upstream',
  ])
  expect(paths({ ...minimal, ...withUpstream({ preset: 'constructor' }) })).toEqual([
    'upstreams[0].preset',
  ])
})
