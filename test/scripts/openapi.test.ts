// GET /openapi.json: every route is in it, it is valid OpenAPI 3.1, and real responses match it.
// A small validator checks the schema keywords that are used, and fails on unknown ones.
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { beforeAll, describe, expect, test, vi } from 'vitest'
import { openApiDocument } from '../../scripts/openapi/document.ts'
import { codes } from '../../src/errors.ts'
import { statusOf } from '../../src/http/problem.ts'
import { type OpenApiOptions, openApiRoute, placeholders } from '../../src/routes/openapi.ts'
import { dayFigures, hourFigures, noCounts } from '../../src/usage.ts'
import { jsonAnswer, TestApp } from '../support/app.ts'
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
      readonly content: Record<string, { readonly schema: Schema }>
    }
  >
}
interface Document {
  readonly openapi: string
  readonly info: Schema
  readonly paths: Record<string, Record<string, Operation>>
  readonly components: Record<string, Record<string, Schema>>
}

const optionsOf = (given: Partial<OpenApiOptions>): OpenApiOptions => ({
  limits: { prompt_chars: 10, max_tokens: 10, n: 1, prompts: 1 },
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
  prompts: {
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
      const { prompt } = (await request.json()) as { prompt: unknown }
      return jsonAnswer(...[prompt].flat().map(() => ' of the sea'))
    },
  })
  api = (await app.ask('/openapi.json')).json() as Document
})

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
  enum: (value, all: readonly unknown[]) => all.includes(value),
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
      const path = route.replace(':id+', 'default')
      const { status, headers } = await app.ask(path, { method: 'DELETE' })
      expect(status, path).toBe(405)
      const methods = (headers['allow'] ?? '').toLowerCase().split(', ')
      served[route.replace(':id+', '{id}')] = methods.filter((method) => method !== 'head').sort()
    }
    const pages = {
      '/': ['get'],
      '/admin': ['get'],
      '/client.js': ['get'],
      '/client.d.ts': ['get'],
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
      expect(['get', 'post'], at).toContain(method)
      expect(operation.summary, at).not.toBe('')
      expect(Object.keys(operation.responses), at).toContain('200')
      for (const [status, response] of Object.entries(operation.responses)) {
        expect(status, at).toMatch(/^[2-5]\d\d$/)
        expect(response.description, at).not.toBe('')
        for (const type of Object.keys(response.content)) expect(type, at).toMatch(/^\w+\/[\w-]+$/)
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
    // The description of a stream mentions it.
    const said = text.includes('data: <Chunk>') ? ['schemas/Chunk'] : []
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

  test('exposes only the settings that the pages need', async () => {
    expect(api.info).toMatchObject({ 'x-free-prompts': true })
    expect(api.info).not.toHaveProperty('x-turnstile-sitekey')
    expect(JSON.stringify(api)).not.toContain('Write a haiku about')
    expect(JSON.stringify(api)).not.toContain('upstream.test')
    const limits = { prompt_chars: 10, max_tokens: 77, n: 1, prompts: 1 }
    const { info, components } = await served({ limits, turnstileSitekey: '0x4AAA' })
    expect(info).toMatchObject({ 'x-free-prompts': false, 'x-turnstile-sitekey': '0x4AAA' })
    expect(components['schemas']).toMatchObject({
      CompletionRequest: { properties: { max_tokens: { maximum: 77 } } },
    })
  })

  test('is the built document with the limits of this endpoint in it', async () => {
    const limit = fc.integer({ min: 1, max: 1_000_000 })
    const anyLimits = fc.record({
      prompt_chars: limit,
      max_tokens: limit,
      n: limit,
      prompts: limit,
    })
    await fc.assert(
      fc.asyncProperty(anyLimits, async (limits) => {
        const { info, ...rest } = await served({ limits })
        const { info: built, ...whole } = openApiDocument(limits)
        expect(rest).toEqual(whole)
        expect(info).toEqual({ ...(built as object), 'x-free-prompts': false })
      }),
      { numRuns: 20 },
    )
    const limits = { prompt_chars: 1, max_tokens: 1, n: 1, prompts: 1 }
    for (const number of Object.values(placeholders)) {
      expect(JSON.stringify(openApiDocument(limits))).not.toContain(String(number))
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
    const type = said?.content['application/json']
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
    const known = new Set(
      Object.keys(api.components['headers'] ?? {}).map((name) => name.toLowerCase()),
    )
    for (const [method, reply] of replies) {
      expectSaid('/v1/completions', method, 200, reply.json())
      const ours = Object.keys(reply.headers).filter(
        (name) =>
          !/^(access-control-.*|content-type|timing-allow-origin|x-content-type-options)$/.test(
            name,
          ),
      )
      expect(ours.filter((name) => !known.has(name))).toEqual([])
    }
  })

  test('each chunk of a stream', async () => {
    const options = { stream: true, stream_options: { include_usage: true } }
    const { text } = await app.post({ prompt: 'stream it', ...options })
    const events = text.split('\n\n').filter((event) => event.startsWith('data: {'))
    expect(events.length).toBeGreaterThan(1)
    for (const event of events) {
      expect(fits(JSON.parse(event.slice('data: '.length)), schema('Chunk')), event).toBe(true)
    }
  })

  const asked: [path: string, init: RequestInit, status: number, of?: string][] = [
    ['/v1/models', {}, 200],
    ['/v1/models/default', {}, 200, '/v1/models/{id}'],
    ['/v1/models/other', {}, 404, '/v1/models/{id}'],
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
