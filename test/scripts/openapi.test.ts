// GET /openapi.json: every route is in it, it is valid OpenAPI 3.1, and real responses match it.
// A small validator checks the schema keywords that are used, and fails on unknown ones.
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { beforeAll, describe, expect, test, vi } from 'vitest'
import { openApiDocument } from '../../scripts/openapi/document.ts'
import { type Api, errorEvent } from '../../src/completion/encode.ts'
import { codes } from '../../src/errors.ts'
import { statusOf } from '../../src/http/problem.ts'
import { type OpenApiOptions, openApiRoute, placeholders } from '../../src/routes/openapi.ts'
import { dayFigures, hourFigures, noCounts } from '../../src/usage.ts'
import { compatible, jsonAnswer, type Reply, TestApp, upstreamBody } from '../support/app.ts'
import { OPERATOR_TOKEN, ORIGIN } from '../support/client.ts'

type Schema = { readonly [key: string]: unknown }
interface Operation {
  readonly operationId: string
  readonly summary: string
  readonly parameters?: readonly Schema[]
  readonly requestBody?: { readonly content: Record<string, { readonly schema: Schema }> }
  readonly responses: Record<
    string,
    {
      readonly description: string
      readonly headers: Record<string, Schema>
      readonly content?: Record<string, { readonly schema: Schema }>
    }
  >
}
interface Document {
  readonly openapi: string
  readonly info: Schema
  readonly paths: Record<string, Record<string, Operation>>
  readonly components: Record<string, Record<string, Schema>>
}

const anyLimits = { prompt_chars: 10, max_tokens: 10, n: 1, prompts: 1, messages: 1, chat_chars: 1 }

const optionsOf = (given: Partial<OpenApiOptions>): OpenApiOptions => ({
  limits: anyLimits,
  freePrompts: false,
  turnstileSitekey: '',
  ...given,
})

/** The document of an endpoint with these settings. */
async function served(given: Partial<OpenApiOptions>): Promise<Document> {
  const readFile = async (name: string) => readFileSync(`dist/site/${name}`, 'utf8')
  const { body } = await openApiRoute(optionsOf(given), readFile)()
  return JSON.parse(String(body)) as Document
}

let app: TestApp
let api: Document

const config = {
  upstreams: [{ ...compatible, chat_path: '/chat/completions' }],
  limits: { messages: 4, chat_chars: 40 },
  prompts: {
    helper: { chat: true, system: 'About {{topic}}.', variables: { topic: { max_chars: 9 } } },
    haiku: {
      text: 'Write a haiku about {{topic}} in {{language}}.',
      variables: { topic: { max_chars: 80 }, language: { values: ['English', 'Deutsch'] } },
    },
  },
  free_prompts: true,
}

beforeAll(async () => {
  app = new TestApp({
    config,
    upstream: async (request) => {
      const { prompt = '', logprobs } = (await request.json()) as Schema
      if (logprobs === true) return Response.json(withLogprobs)
      return jsonAnswer(...[prompt].flat().map(() => ' of the sea'))
    },
  })
  api = (await app.ask('/openapi.json')).json() as Document
})

const token = { token: ' of', logprob: -0.5, bytes: [32, 111, 102] }
const withLogprobs = {
  ...upstreamBody(),
  choices: [
    {
      index: 0,
      message: { role: 'assistant', content: ' of' },
      logprobs: { content: [{ ...token, top_logprobs: [token] }] },
      finish_reason: 'stop',
    },
  ],
}

/** Resolves a `$ref`. */
function resolved(schema: Schema): Schema {
  const { $ref } = schema
  if (typeof $ref !== 'string') return schema
  const found = $ref
    .slice(2)
    .split('/')
    .reduce<unknown>((at, key) => (at as Schema)[key], api)
  if (found === undefined) throw new Error(`${$ref} points nowhere`)
  return found as Schema
}

const typeOf = (value: unknown) => {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'array'
  return Number.isInteger(value) ? 'integer' : typeof value
}

const rules: Readonly<Record<string, (value: unknown, rule: never, whole: Schema) => boolean>> = {
  type: (value, type: string | readonly string[]) =>
    [type]
      .flat()
      .some((t) => t === typeOf(value) || (t === 'number' && typeOf(value) === 'integer')),
  const: (value, only) => value === only,
  enum: (value, all: readonly unknown[]) =>
    all.some((each) => JSON.stringify(each) === JSON.stringify(value)),
  anyOf: (value, some: readonly Schema[]) => some.some((schema) => fits(value, schema)),
  minimum: (value, n: number) => typeof value !== 'number' || value >= n,
  maximum: (value, n: number) => typeof value !== 'number' || value <= n,
  minLength: (value, n: number) => typeof value !== 'string' || value.length >= n,
  maxLength: (value, n: number) => typeof value !== 'string' || value.length <= n,
  pattern: (value, p: string) => typeof value !== 'string' || new RegExp(p, 'u').test(value),
  minItems: (value, n: number) => !Array.isArray(value) || value.length >= n,
  maxItems: (value, n: number) => !Array.isArray(value) || value.length <= n,
  maxProperties: (value, n: number) => !isTable(value) || Object.keys(value).length <= n,
  items: (value, schema: Schema) =>
    !Array.isArray(value) || value.every((item) => fits(item, schema)),
  contains: (value, schema: Schema) =>
    !Array.isArray(value) || value.some((item) => fits(item, schema)),
  required: (value, names: readonly string[]) =>
    !isTable(value) || names.every((name) => Object.hasOwn(value, name)),
  properties: (value, some: Record<string, Schema>) =>
    !isTable(value) ||
    Object.entries(some).every(([name, s]) => !Object.hasOwn(value, name) || fits(value[name], s)),
  propertyNames: (value, schema: Schema) =>
    !isTable(value) || Object.keys(value).every((name) => fits(name, schema)),
  additionalProperties: (value, rest: Schema | false, { properties = {} }) =>
    !isTable(value) ||
    Object.entries(value)
      .filter(([name]) => !Object.hasOwn(properties as object, name))
      .every(([, item]) => rest !== false && fits(item, rest)),
  contentMediaType: (_, type: string) => type === 'application/json',
  contentSchema: (value, schema: Schema) =>
    typeof value !== 'string' || fits(JSON.parse(value), schema),
  default: () => true,
  description: () => true,
}

function isTable(value: unknown): value is Schema {
  return typeOf(value) === 'object'
}

function fits(value: unknown, given: Schema): boolean {
  const schema = resolved(given)
  return Object.entries(schema).every(([keyword, rule]) => {
    const judge = rules[keyword]
    if (judge === undefined) throw new Error(`the keyword "${keyword}" is not judged here`)
    return judge(value, rule as never, schema)
  })
}

const schema = (name: string): Schema => ({ $ref: `#/components/schemas/${name}` })
const operations = () =>
  Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
  )

test('fits() rejects values that do not match', () => {
  const strict = { type: 'object', properties: { a: { const: 1 } }, additionalProperties: false }
  expect(fits({ a: 1 }, strict)).toBe(true)
  expect(fits({ a: 2 }, strict)).toBe(false)
  expect(fits({ a: 1, b: 1 }, strict)).toBe(false)
  expect(fits(1.5, { type: 'integer' })).toBe(false)
  expect(() => fits(1, { multipleOf: 2 })).toThrow('multipleOf')
})

describe('the document', () => {
  test('is served to anybody, and generated once', async () => {
    const reply = await app.ask('/openapi.json', { headers: { origin: 'https://evil.com' } })
    expect(reply.status).toBe(200)
    expect(reply.headers['content-type']).toBe('application/json')
    expect(reply.headers['cache-control']).toBe('no-cache')
    expect(reply.headers['access-control-allow-origin']).toBeUndefined()
    expect(reply.text).toBe((await app.ask('/openapi.json')).text)
    const head = await app.ask('/openapi.json', { method: 'HEAD' })
    expect([head.status, head.text]).toEqual([200, ''])
  })

  test('lists every route of the app with its methods, and the pages', async () => {
    const source = readFileSync('src/app.ts', 'utf8')
    const routes = [...source.matchAll(/^ {2}\['[A-Z]+', '(\/[^']*)'/gm)].map(
      ([, path = '']) => path,
    )
    expect(routes.length).toBeGreaterThan(8)
    const served: Record<string, string[]> = {}
    for (const route of routes) {
      const path = route.replace(/:id\+?/, 'default')
      const { status, headers } = await app.ask(path, { method: 'PATCH' })
      expect(status, path).toBe(405)
      const methods = (headers['allow'] ?? '').toLowerCase().split(', ')
      served[route.replace(/:id\+?/, '{id}')] = methods.filter((method) => method !== 'head').sort()
    }
    const pages = {
      '/': ['get'],
      '/admin': ['get'],
      '/client.js': ['get'],
      '/client.d.ts': ['get'],
      '/elements.js': ['get'],
      '/edge-ask.js': ['get'],
    }
    expect(
      Object.fromEntries(
        Object.entries(api.paths).map(([path, methods]) => [path, Object.keys(methods).sort()]),
      ),
    ).toEqual({ ...served, ...pages })
  })

  test('is valid OpenAPI 3.1', () => {
    expect(api.openapi).toMatch(/^3\.1\.\d$/)
    expect(api.info).toMatchObject({ title: 'edge-completions', version: expect.any(String) })
    const ids = operations().map(({ operation }) => operation.operationId)
    expect(new Set(ids).size).toBe(ids.length)
    for (const { path, method, operation } of operations()) {
      const at = `${method} ${path}`
      expect(['get', 'post', 'put', 'delete'], at).toContain(method)
      expect(operation.summary, at).not.toBe('')
      expect(Object.keys(operation.responses).join(), at).toMatch(/\b20[04]\b/)
      for (const [status, response] of Object.entries(operation.responses)) {
        expect(status, at).toMatch(/^[2-5]\d\d$/)
        expect(response.description, at).not.toBe('')
        for (const type of Object.keys(response.content ?? {}))
          expect(type, at).toMatch(/^\w+\/[\w-]+$/)
      }
      for (const parameter of (operation.parameters ?? []).map(resolved)) {
        expect(parameter, at).toMatchObject({ name: expect.any(String), schema: {} })
        expect(['query', 'header', 'path'], at).toContain(parameter['in'])
      }
      const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name)
      const declared = (operation.parameters ?? []).filter(({ in: place }) => place === 'path')
      expect(declared.map(({ name, required }) => (required === true ? name : null))).toEqual(
        inPath,
      )
    }
  })

  test('has no dangling reference and no unused component', () => {
    const text = JSON.stringify(api)
    const pointed = new Set([...text.matchAll(/"#\/components\/([^"]+)"/g)].map(([, to]) => to))
    for (const to of pointed) expect(resolved({ $ref: `#/components/${to}` })).toBeTypeOf('object')
    const parts = ['schemas', 'headers', 'parameters'].flatMap((part) =>
      Object.keys(api.components[part] ?? {}).map((name) => `${part}/${name}`),
    )
    // The descriptions of streams mention their events.
    const said = [...text.matchAll(/`data: <(\w+)>`/g)].map(([, name]) => `schemas/${name}`)
    expect(parts.filter((part) => !pointed.has(part) && !said.includes(part))).toEqual([])
  })

  test('lists every error code under its status', () => {
    const named = new Set<string>()
    for (const { operation } of operations()) {
      for (const [status, { description }] of Object.entries(operation.responses)) {
        for (const code of codes) {
          if (!description.includes(`\`${code}\``)) continue
          named.add(code)
          expect(String(statusOf(code)), code).toBe(status)
        }
      }
    }
    // These are returned for methods and paths that are not in the document.
    const missing = codes.filter((code) => !named.has(code))
    expect(missing).toEqual(['method_not_allowed'])
  })

  test('lists what the search for passages may answer at every path of a completion', () => {
    for (const { path, method, operation } of operations()) {
      if (!('Link' in (operation.responses['200']?.headers ?? {}))) continue
      const at = `${method} ${path}`
      const said = Object.values(operation.responses).map(({ description }) => description)
      for (const code of [
        'no_passages',
        'site_not_indexed',
        'rate_limited',
        'search_unavailable',
      ]) {
        expect(said.join(), at).toContain(`\`${code}\``)
      }
    }
  })

  test('exposes only the settings that the pages need', async () => {
    expect(api.info).toMatchObject({ 'x-free-prompts': true })
    expect(api.info).not.toHaveProperty('x-turnstile-sitekey')
    expect(JSON.stringify(api)).not.toContain('Write a haiku about')
    expect(JSON.stringify(api)).not.toContain('upstream.test')
    const limits = { ...anyLimits, max_tokens: 77, messages: 78, chat_chars: 79 }
    const { info, components } = await served({ limits, turnstileSitekey: '0x4AAA' })
    expect(info).toMatchObject({ 'x-free-prompts': false, 'x-turnstile-sitekey': '0x4AAA' })
    expect(components['schemas']).toMatchObject({
      CompletionRequest: { properties: { max_tokens: { maximum: 77 } } },
      ChatRequest: {
        properties: { max_completion_tokens: { maximum: 77 }, messages: { maxItems: 78 } },
      },
      AiSdkChatRequest: { properties: { max_tokens: { maximum: 77 } } },
    })
    expect(JSON.stringify(components['schemas']?.['Message'])).toContain('"maxLength":79')
  })

  test('is the built document with the limits of this endpoint in it', async () => {
    const limit = fc.integer({ min: 1, max: 1_000_000 })
    const someLimits = fc.record({
      prompt_chars: limit,
      max_tokens: limit,
      n: limit,
      prompts: limit,
      messages: limit,
      chat_chars: limit,
    })
    await fc.assert(
      fc.asyncProperty(someLimits, async (limits) => {
        const { info, ...rest } = await served({ limits })
        const { info: built, ...whole } = openApiDocument(limits)
        expect(rest).toEqual(whole)
        expect(info).toEqual({ ...(built as object), 'x-free-prompts': false })
      }),
      { numRuns: 20 },
    )
    for (const number of Object.values(placeholders)) {
      expect(JSON.stringify(openApiDocument(anyLimits))).not.toContain(String(number))
    }
  })

  test('is read again after it could not be read', async () => {
    const readFile = vi
      .fn(async () => '{"info":{}}')
      .mockRejectedValueOnce(new Error('the files are away'))
    const get = openApiRoute(optionsOf({}), readFile)
    await expect(get()).rejects.toThrow()
    await get()
    expect((await get()).body).toBe('{"info":{"x-free-prompts":false}}')
    expect(readFile).toHaveBeenCalledTimes(2)
  })

  test('is not served while the configuration has errors', async () => {
    const broken = new TestApp({ config: { models: [] } })
    const reply = await broken.ask('/openapi.json')
    expect(reply.status).toBe(503)
    expect(fits(reply.json(), schema('Error'))).toBe(true)
    expect(fits((await broken.ask('/health')).json(), schema('Health'))).toBe(true)
  })
})

describe('a request', () => {
  const bodies: readonly (readonly [unknown, boolean])[] = [
    [{ prompt: 'a' }, true],
    [{ prompt: ['a', 'b'], stop: ['x'], temperature: null }, true],
    [{ prompt: { id: 'haiku', variables: { topic: 'sea', language: 'English' } } }, true],
    [{ prompt: 'a', stream: true, stream_options: { include_usage: true } }, true],
    [{ prompt: '' }, false],
    [{}, false],
    [{ prompt: 'a', max_tokens: 513 }, false],
    [{ prompt: 'a', max_tokens: 1.5 }, false],
    [{ prompt: 'a', temperature: 3 }, false],
    [{ prompt: 'a', stop: ['1', '2', '3', '4', '5'] }, false],
    [{ prompt: 'a', messages: [] }, false],
    [{ prompt: 'a', stream_options: { other: 1 }, stream: true }, false],
    [{ prompt: 'a', logit_bias: { 1: 101 } }, false],
  ]
  test.each(bodies)(
    '%j is accepted by the schema if and only if the service accepts it',
    async (body, good) => {
      expect(fits(body, schema('CompletionRequest'))).toBe(good)
      expect((await app.post(body)).status).toBe(good ? 200 : 400)
    },
  )

  const user = { role: 'user', content: 'a' }
  const chats: readonly (readonly [Schema, boolean])[] = [
    [{ messages: [user] }, true],
    [{ messages: [{ role: 'system', content: 'b' }, user, { role: 'assistant' }, user] }, true],
    [{ messages: [{ role: 'developer', content: 'b', name: 'c' }, user] }, true],
    [{ messages: [{ ...user, content: [{ type: 'text', text: 'a' }], name: null }] }, true],
    [{ messages: [user, { role: 'assistant', content: null, refusal: null }, user] }, true],
    [{ messages: [{ role: 'assistant', content: '', tool_calls: [] }, user] }, true],
    [{ messages: [user], model: 'helper', variables: { topic: 'sea' } }, true],
    [{ messages: [user], max_completion_tokens: 9, temperature: 0, stop: null }, true],
    [{ messages: [user], logprobs: true, top_logprobs: 1 }, true],
    [{ messages: [user], response_format: { type: 'text' }, tools: [], store: false }, true],
    [{ messages: [user], response_format: { type: 'json_object' } }, true],
    [{ messages: [user], response_format: { type: 'json_schema', json_schema: {} } }, true],
    [{ messages: [] }, false],
    [{ messages: 'a' }, false],
    [{}, false],
    [{ messages: [user, user, user, user, user] }, false],
    [{ messages: [{ ...user, content: 'x'.repeat(41) }] }, false],
    [{ messages: [{ ...user, content: '' }] }, false],
    [{ messages: [{ ...user, content: [{ type: 'text', text: '' }] }] }, false],
    [{ messages: [{ ...user, content: null }] }, false],
    [{ messages: [{ ...user, content: [{ type: 'image_url', image_url: {} }] }] }, false],
    [{ messages: [{ ...user, content: [{ type: 'text', text: 'a', other: 1 }] }] }, false],
    [{ messages: [{ ...user, name: '' }] }, false],
    [{ messages: [{ ...user, other: 1 }] }, false],
    [{ messages: [user, { role: 'assistant', tool_calls: [{}] }, user] }, false],
    [{ messages: [{ role: 'tool', content: 'a' }, user] }, false],
    [{ messages: [user], prompt: 'a' }, false],
    [{ messages: [user], echo: true }, false],
    [{ messages: [user], logprobs: 1 }, false],
    [{ messages: [user], logprobs: true, top_logprobs: 6 }, false],
    [{ messages: [user], response_format: { type: 'xml' } }, false],
    [{ messages: [user], response_format: { type: 'json_schema' } }, false],
    [{ messages: [user], tools: [{}] }, false],
  ]
  test.each(chats)(
    '%j is accepted as a chat by the schema if and only if the service accepts it',
    async (body, good) => {
      expect(fits(body, schema('ChatRequest'))).toBe(good)
      const reply = await app.ask('/v1/chat/completions', post(body))
      expect(reply.status, reply.text).toBe(good ? 200 : 400)
    },
  )

  const part = { type: 'text', text: 'a' }
  const said = { id: '1', role: 'user', parts: [part], metadata: { any: 1 } }
  const hooks: readonly (readonly [Schema, boolean])[] = [
    [{ prompt: 'a' }, true],
    [{ prompt: 'a', id: 'x', max_tokens: 5, stream: 1 }, true],
    [{ prompt: { id: 'haiku', variables: { topic: 'sea', language: 'English' } } }, true],
    [{ id: 'x', messages: [said], trigger: 'submit-message', messageId: 'y' }, true],
    [
      { messages: [said, { role: 'assistant', parts: [{ type: 'file' }] }, said, said, said] },
      true,
    ],
    [{ messages: [user], temperature: 0.5, n: null }, true],
    [{ messages: [said], model: 'helper', variables: { topic: 'sea' } }, true],
    [{ prompt: 'a', n: 1 }, false],
    [{ messages: [said], n: 1 }, false],
    [{ prompt: '' }, false],
    [{ messages: [] }, false],
    [{ messages: [{ ...said, parts: [part, { type: 'file' }] }] }, false],
    [{ messages: [{ ...said, parts: [] }] }, false],
    [{ messages: [{ ...said, role: 'tool' }] }, false],
    [{ prompt: 'a', messages: [said] }, false],
    [{ messages: [said], tools: [{}] }, false],
  ]
  test.each(hooks)(
    "%j is accepted as a hook's body by the schema if and only if the service accepts it",
    async (body, good) => {
      const { requestBody } = api.paths['/v1/ai-sdk']?.['post'] ?? {}
      const described = requestBody?.content['application/json']?.schema ?? {}
      expect(fits(body, described)).toBe(good)
      const reply = await app.ask('/v1/ai-sdk', post(body))
      expect(reply.status, reply.text).toBe(good ? 200 : 400)
    },
  )

  test('has only query parameters that the service reads', async () => {
    const { parameters = [] } = api.paths['/v1/completions']?.['get'] ?? {}
    const names = parameters.filter(({ in: place }) => place === 'query').map(({ name }) => name)
    expect(names).toContain('temperature')
    expect(names).not.toContain('logit_bias')
    for (const name of names) {
      if (name === 'variables') continue
      const reply = await app.get(`${name}=1`)
      expect(reply.text, String(name)).not.toContain('unknown_field')
    }
  })
})

describe('responses match the document', () => {
  /** The schema of a response, by where it came from. */
  function expectSaid(
    path: string,
    method: string,
    status: number,
    body: unknown,
    of = path,
  ): void {
    const said = api.paths[of]?.[method]?.responses[status]
    const type = said?.content?.['application/json']
    expect(type, `${method} ${path} ${status} is in it`).toBeDefined()
    expect(fits(body, type?.schema ?? { const: 'nothing' }), JSON.stringify(body)).toBe(true)
  }

  test('completions: a miss, a hit, a GET, with their headers', async () => {
    const body = { prompt: 'once upon a time' }
    const replies = [
      ['post', await app.post(body)],
      ['post', await app.post(body)],
      ['get', await app.get('prompt=once+upon+a+time')],
    ] as const
    for (const [method, reply] of replies) {
      expectSaid('/v1/completions', method, 200, reply.json())
      expectKnownHeaders('/v1/completions', method, reply)
    }
  })

  /** Headers that are described nowhere, as they are the same everywhere. */
  const common = /^(access-control-.*|content-type|timing-allow-origin|x-content-type-options)$/

  function expectKnownHeaders(path: string, method: string, { headers, status }: Reply): void {
    const described = api.paths[path]?.[method]?.responses[status]?.headers ?? {}
    const known = new Set(Object.keys(described).map((name) => name.toLowerCase()))
    const ours = Object.keys(headers).filter((name) => !common.test(name))
    expect(ours.filter((name) => !known.has(name))).toEqual([])
  }

  const chat = { messages: [{ role: 'user', content: 'a chat' }] }

  test('chats: a miss, a hit and log probabilities, with their headers', async () => {
    const path = '/v1/chat/completions'
    for (const body of [chat, chat, { ...chat, logprobs: true, top_logprobs: 1 }]) {
      const reply = await app.ask(path, post(body))
      expectSaid(path, 'post', 200, reply.json())
      expectKnownHeaders(path, 'post', reply)
    }
  })

  test("a hook's answer has the headers that are described", async () => {
    const path = '/v1/ai-sdk'
    const reply = await app.ask(path, post({ prompt: 'a hook' }))
    expect(reply.headers).toHaveProperty('x-vercel-ai-ui-message-stream', 'v1')
    expectKnownHeaders(path, 'post', reply)
  })

  const options = { stream: true, stream_options: { include_usage: true } }
  const streams: [path: string, body: Schema, event: string][] = [
    ['/v1/completions', { prompt: 'stream it', ...options }, 'Chunk'],
    ['/v1/chat/completions', { ...chat, ...options }, 'ChatChunk'],
    ['/v1/chat/completions', { ...chat, ...options, logprobs: true }, 'ChatChunk'],
    ['/v1/ai-sdk', { prompt: 'stream it' }, 'UiMessageChunk'],
  ]
  test.each(streams)('each event of a stream of %s %j', async (path, body, event) => {
    const { text } = await app.ask(path, post(body))
    const events = text.split('\n\n').filter((each) => each.startsWith('data: {'))
    expect(events.length).toBeGreaterThan(1)
    for (const each of events) {
      expect(fits(JSON.parse(each.slice('data: '.length)), schema(event)), each).toBe(true)
    }
    const described = api.paths[path]?.['post']?.responses[200]?.content?.['text/event-stream']
    expect(described?.schema['description']).toContain(`data: <${event}>`)
    // Programs read the schema as that of the text, or as that of one event.
    const datas = text.split('\n\n').flatMap((each) => each.split('data: ')[1] ?? [])
    for (const value of [text, ...datas.map((data) => ({ data }))]) {
      expect(fits(value, described?.schema ?? { const: 'nothing' })).toBe(true)
    }
    expect(fits({ data: '{}' }, described?.schema ?? {})).toBe(false)
  })

  test('a failure in the middle of a stream', () => {
    const problem = { error: { message: 'x', type: 'api_error', param: null, code: 'internal' } }
    const sent = (api: Api) => JSON.parse(errorEvent(api, problem).slice('data: '.length))
    expect(fits(sent('ai-sdk'), schema('UiMessageChunk'))).toBe(true)
    for (const api of ['completion', 'chat'] as const) {
      expect(fits(sent(api), schema('Error'))).toBe(true)
    }
  })

  test('a stream of a hook that cannot be resumed', async () => {
    const { status, text } = await app.ask('/v1/ai-sdk/x/stream')
    expect([status, text]).toEqual([204, ''])
    const { responses } = api.paths['/v1/ai-sdk/{id}/stream']?.['get'] ?? {}
    expect(responses?.[204]).toBeDefined()
    expect(responses?.[204]).not.toHaveProperty('content')
  })

  test('a purge of a request takes the bodies of all three paths', async () => {
    const hook = { id: 'x', messages: [{ role: 'user', parts: [{ type: 'text', text: 'a' }] }] }
    for (const request of [{ prompt: 'a' }, { prompt: 'a', id: 'x' }, chat, hook]) {
      expect(fits({ request }, schema('Purge'))).toBe(true)
      app.clock.ms += 2000
      const reply = await app.ask('/admin/purge', post({ request }, OPERATOR_TOKEN))
      expectSaid('/admin/purge', 'post', 200, reply.json())
    }
    expect(fits({ request: { messages: [] } }, schema('Purge'))).toBe(false)
  })

  const asked: [path: string, init: RequestInit, status: number, of?: string][] = [
    ['/v1/models', {}, 200],
    ['/v1/models/default', {}, 200, '/v1/models/{id}'],
    ['/v1/models/other', {}, 404, '/v1/models/{id}'],
    ['/v1/models/helper', {}, 200, '/v1/models/{id}'],
    ['/v1/chat/completions', post({ prompt: 'a' }), 400],
    ['/v1/ai-sdk', post({}), 400],
    ['/v1/prompts', {}, 200],
    ['/health', {}, 200],
    ['/v1/visitors', post({ token: 'x' }), 404],
    ['/v1/completions', post('{'), 400],
    ['/v1/completions', { ...post({}), headers: { 'content-type': 'image/png' } }, 415],
    ['/v1/completions', post('x'.repeat(140_000)), 413],
    ['/admin/usage', {}, 401],
    ['/admin/purge', post({ all: true }, OPERATOR_TOKEN), 200],
    ['/admin/purge', post({ prompt_id: 'haiku' }, OPERATOR_TOKEN), 200],
    ['/admin/purge', post({ page: `${ORIGIN}/x` }, OPERATOR_TOKEN), 200],
    ['/admin/purge', post({ prompt_id: 'other' }, OPERATOR_TOKEN), 404],
    ['/admin/purge', post({ all: false }, OPERATOR_TOKEN), 400],
    ['/admin/pause', post({ until: -1 }, OPERATOR_TOKEN), 400],
  ]
  test.each(asked)('%s %j %i', async (...[path, init, status, of = path]) => {
    // KV allows one write per second.
    app.clock.ms += 2000
    const reply = await app.ask(path, init)
    expect(reply.status, reply.text).toBe(status)
    expectSaid(path, (init.method ?? 'GET').toLowerCase(), status, reply.json(), of)
  })

  test('an origin that is not allowed', async () => {
    const reply = await app.ask('/v1/prompts', { headers: { origin: 'https://evil.com' } })
    expectSaid('/v1/prompts', 'get', 403, reply.json())
  })

  test('the usage figures', () => {
    const counts = {
      ...noCounts(),
      requests: 3,
      errors: { rate_limited: 1 },
      models: { default: 3 },
      usd_by: { prompts: {}, models: { default: 0.5 }, origins: { 'https://a.example': 0.25 } },
    }
    const budget = {
      tokens_per_day: 10,
      spent: 1,
      reserved: 2,
      usd_per_day: 1,
      usd_spent: 0.5,
      paused_until: null,
    }
    const failure = {
      at: 7000,
      request_id: 'req_1',
      upstream: 'main',
      model: 'default',
      code: 'upstream_rejected',
      hint: null,
    }
    const usage = {
      now: 7200,
      budget,
      days: [dayFigures({ day: 0, tokens: 10, usd: 0.5, requests: 3, hits: 1 })],
      hours: [hourFigures(3600, counts)],
      failures: [failure, { ...failure, hint: 'check the key' }],
      refused_origins: [{ origin: 'https://x.example', count: 1, last: 7100 }],
      prices: { models: { default: { input: 1, output: 4 }, free: null }, prompts: {} },
    }
    expectSaid('/admin/usage', 'get', 200, usage)
    expect(fits({ ...usage, hours: [{}] }, schema('Usage'))).toBe(false)
  })
})

function post(body: unknown, token?: string): RequestInit {
  return {
    method: 'POST',
    headers: {
      origin: ORIGIN,
      'content-type': 'application/json',
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
    },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  }
}
