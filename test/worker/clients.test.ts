// Third-party clients against the bundle in workerd: each reads answers and streams, on a miss and
// on a hit, and raises its own typed errors and retries as it should.
import { createOpenAI } from '@ai-sdk/openai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { OpenAI as LangChainOpenAI } from '@langchain/openai'
import { APICallError, generateText, type LanguageModel, RetryError, streamText } from 'ai'
import OpenAI, {
  APIError,
  BadRequestError,
  InternalServerError,
  NotFoundError,
  RateLimitError,
} from 'openai'
import { beforeAll, describe, expect, test } from 'vitest'
import type { Code } from '../../src/errors.ts'
import { CANARY } from '../support/canary.ts'
import { newAddress, OPERATOR_TOKEN, recordedFetch } from '../support/client.ts'
import { Lanes, type OwnModel } from '../support/lanes.ts'
import { countStored } from '../support/stored.ts'
import {
  chatStream,
  completionsStream,
  refusal,
  type Script,
  USAGE,
} from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers } from '../support/workerd.ts'

// They warn about options that the completions endpoint never had.
globalThis.AI_SDK_LOG_WARNINGS = false

const kinds = {
  chat: { retries: 0 },
  legacy: { retries: 0, wire: 'completions' },
}
/** An API key, which SDKs require. */
const API_KEY = 'sk-visitor'

const suite = workerSuite()
const lanes = new Lanes(suite, kinds, 110)
let workers: Workers
let guarded: Workers
let misconfigured: Workers
let paused: Workers

beforeAll(async () => {
  ;[workers, guarded, misconfigured, paused] = await Promise.all([
    suite.share({ config: lanes.config({ limits: { n: 4 } }) }),
    suite.share({
      config: lanes.config({ access: { turnstile_sitekey: '0x4AAAAAAA' } }),
      secrets: { UPSTREAM_API_KEY: CANARY, TURNSTILE_SECRET: '0x4AAAAAAA-secret' },
    }),
    suite.share({ secrets: {}, config: lanes.config() }),
    suite.share({ config: lanes.config() }),
  ])
  const pause = await paused.client().send({
    method: 'POST',
    path: '/admin/pause',
    headers: { authorization: `Bearer ${OPERATOR_TOKEN}` },
    body: { until: Math.floor(Date.now() / 1000) + 7200 },
  })
  expect(pause.status, pause.text).toBe(200)
})

/** The client's settings. */
interface Setting {
  readonly model: string
  readonly of?: Workers
  readonly maxRetries?: number
  readonly temperature?: number
  /** Null: remove the Authorization header that the client insists on. */
  readonly apiKey?: null
}

/** A program that uses one of the clients, and its requests with the time of each. */
interface Program {
  readonly sent: readonly { readonly body: Record<string, unknown>; readonly atMs: number }[]
  whole(prompt: string): Promise<string>
  stream(prompt: string): AsyncIterable<string>
}

/** The information a client's own error type gives. */
interface ClientError {
  readonly status: number | undefined
  readonly code: unknown
  readonly message: string
}

interface RealClient {
  readonly name: string
  readonly program: (setting: Setting) => Program
  /** @throws when it is not the client's own type of error */
  readonly errorOf: (error: unknown) => ClientError
  /** Whether it obeys `x-should-retry: false`. */
  readonly obeys: boolean
  /** Whether it does not retry immediately when Retry-After is hours. */
  readonly hasPatience: boolean
}

function requests({ apiKey }: Setting) {
  const sent: { body: Record<string, unknown>; atMs: number }[] = []
  const address = newAddress()
  const send: typeof fetch = (input, init) => {
    sent.push({ body: JSON.parse(String(init?.body)), atMs: performance.now() })
    const all = new Headers(init?.headers)
    all.set('cf-connecting-ip', address)
    if (apiKey === null) all.delete('authorization')
    return recordedFetch(input, { ...init, headers: all })
  }
  return { sent, send }
}

const baseUrl = ({ of = workers }: Setting) => new URL('/v1', of.url).href

function aiProgram(
  setting: Setting,
  modelOf: (send: typeof fetch, setting: Setting) => LanguageModel,
): Program {
  const { maxRetries = 0, temperature } = setting
  const { sent, send } = requests(setting)
  const model = modelOf(send, setting)
  const heat = temperature === undefined ? {} : { temperature }
  return {
    sent,
    async whole(prompt) {
      const { text } = await generateText({ model, prompt, maxRetries, ...heat })
      return text
    },
    async *stream(prompt) {
      const result = streamText({ model, prompt, maxRetries, ...heat, onError: () => {} })
      for await (const part of result.fullStream) {
        if (part.type === 'text-delta') yield part.text
        if (part.type === 'error') throw part.error
      }
    },
  }
}

/** Reads the last error of an AI SDK call, which may have been retried. */
function aiError(thrown: unknown): ClientError {
  const error = RetryError.isInstance(thrown) ? thrown.lastError : thrown
  if (APICallError.isInstance(error)) {
    const body: unknown = JSON.parse(error.responseBody ?? '{}')
    const code = (body as { error?: { code?: unknown } }).error?.code
    return { status: error.statusCode, code, message: error.message }
  }
  // An error in a stream is passed on as a plain object.
  if (isRecord(error) && typeof error['message'] === 'string') {
    return { status: undefined, code: error['code'], message: error['message'] }
  }
  throw new Error(`expected an error of the AI SDK, got ${thrown}`)
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null

function openaiError(error: unknown): ClientError {
  if (!(error instanceof APIError)) throw new Error(`expected an APIError, got ${error}`)
  return { status: error.status, code: error.code, message: error.message }
}

const clients: readonly RealClient[] = [
  {
    name: 'openai',
    obeys: true,
    hasPatience: true,
    errorOf: openaiError,
    program(setting) {
      const { model, maxRetries = 0, temperature } = setting
      const { sent, send } = requests(setting)
      const baseURL = baseUrl(setting)
      const client = new OpenAI({ baseURL, apiKey: API_KEY, maxRetries, fetch: send })
      const heat = temperature === undefined ? {} : { temperature }
      return {
        sent,
        async whole(prompt) {
          const { choices } = await client.completions.create({ model, prompt, ...heat })
          return choices[0]?.text ?? 'none'
        },
        async *stream(prompt) {
          const body = { model, prompt, stream: true, ...heat } as const
          for await (const chunk of await client.completions.create(body)) {
            yield chunk.choices[0]?.text ?? 'none'
          }
        },
      }
    },
  },
  {
    name: '@ai-sdk/openai-compatible',
    obeys: false,
    hasPatience: false,
    errorOf: aiError,
    program: (setting) =>
      aiProgram(setting, (send, { model }) =>
        createOpenAICompatible({
          name: 'edge',
          baseURL: baseUrl(setting),
          apiKey: API_KEY,
          fetch: send,
          includeUsage: true,
        }).completionModel(model),
      ),
  },
  {
    name: '@ai-sdk/openai',
    obeys: false,
    hasPatience: false,
    errorOf: aiError,
    program: (setting) =>
      aiProgram(setting, (send, { model }) => {
        const provider = createOpenAI({ baseURL: baseUrl(setting), apiKey: API_KEY, fetch: send })
        return provider.completion(model)
      }),
  },
  {
    name: '@langchain/openai',
    obeys: false,
    hasPatience: true,
    errorOf: openaiError,
    program(setting) {
      const { model, maxRetries = 0, temperature } = setting
      const { sent, send } = requests(setting)
      const client = new LangChainOpenAI({
        model,
        apiKey: API_KEY,
        maxRetries,
        ...(temperature === undefined ? {} : { temperature }),
        configuration: { baseURL: baseUrl(setting), fetch: send },
      })
      return {
        sent,
        whole: (prompt) => client.invoke(prompt),
        async *stream(prompt) {
          yield* await client.stream(prompt)
        },
      }
    },
  },
]

const shapes = [
  ['whole', false],
  ['streamed', true],
] as const

async function read(program: Program, stream: boolean, prompt = 'Say hello'): Promise<string> {
  if (!stream) return await program.whole(prompt)
  const texts: string[] = []
  for await (const text of program.stream(prompt)) texts.push(text)
  return texts.join('')
}

async function thrownBy(work: Promise<unknown>): Promise<unknown> {
  const none = Symbol('none')
  const thrown = await work.then(
    () => none,
    (error: unknown) => error,
  )
  if (thrown === none) throw new Error('expected an error')
  return thrown
}

/** Waits until an answer is stored. */
async function untilStored({ model }: OwnModel): Promise<void> {
  await expect.poll(() => countStored(workers, model)).toBeGreaterThan(0)
}

/** Errors, the client's setting that causes each, and which clients take it as final. */
const problems: [
  name: string,
  status: number,
  code: Code,
  setting: () => Partial<Setting>,
  isFinal: (client: Pick<RealClient, 'obeys' | 'hasPatience'>) => boolean,
  script?: Script,
][] = [
  ['an invalid request', 400, 'invalid_value', () => ({ temperature: 3 }), () => true],
  [
    'no visitor token',
    401,
    'visitor_token_required',
    () => ({ of: guarded, apiKey: null }),
    () => true,
  ],
  ['a wrong visitor token', 401, 'visitor_token_invalid', () => ({ of: guarded }), () => true],
  ['a paused endpoint', 429, 'paused', () => ({ of: paused }), ({ hasPatience }) => hasPatience],
  [
    'a broken configuration',
    503,
    'misconfigured',
    () => ({ of: misconfigured }),
    ({ obeys }) => obeys,
  ],
  [
    'a problem that only the owner can fix',
    502,
    'upstream_rejected',
    () => ({}),
    ({ obeys }) => obeys,
    refusal(401, { error: { message: CANARY } }),
  ],
]

describe.each(clients)('$name', ({ program, errorOf, obeys, hasPatience }) => {
  const text = 'Grüße, 🌍!\n\ndata: [DONE]\n\n"Ende"'
  const pieces = [text.slice(0, 5), text.slice(5, 12), text.slice(12)]

  test.each(shapes)('reads a %s answer, on a miss and on hits in both shapes', async (_, first) => {
    for (const kind of ['chat', 'legacy'] as const) {
      const own = lanes.take(kind)
      own.lane.answers(kind === 'chat' ? chatStream(pieces) : completionsStream(pieces))
      const { whole, stream, sent } = program({ model: own.model })
      expect(await read({ whole, stream, sent }, first)).toBe(text)
      await untilStored(own)
      expect(await read({ whole, stream, sent }, true)).toBe(text)
      expect(await read({ whole, stream, sent }, false)).toBe(text)
      expect(own.lane.calls).toHaveLength(1)
      const streams = sent.map(({ body }) => body['stream'] ?? false)
      expect(streams).toEqual([first, true, false])
    }
  })

  test.each(shapes)('reads an empty %s answer', async (_, stream) => {
    const { model, lane } = lanes.take('chat')
    lane.answers(chatStream([]))
    expect(await read(program({ model }), stream)).toBe('')
    expect(lane.calls).toHaveLength(1)
  })

  test.each(problems)(
    'gets the error for %s, without a retry',
    async (_, status, code, setting, isFinal, script) => {
      for (const [, stream] of shapes) {
        const { model, lane } = lanes.take('chat')
        if (script !== undefined) lane.answers(script)
        const maxRetries = isFinal({ obeys, hasPatience }) ? 2 : 0
        const instance = program({ model, maxRetries, ...setting() })
        const error = errorOf(await thrownBy(read(instance, stream)))
        expect(error).toMatchObject({ status, code })
        if (code === 'invalid_value') expect(error.message).toContain('Cannot use "temperature"')
        expect(instance.sent).toHaveLength(1)
        expect(lane.calls).toHaveLength(script === undefined ? 0 : 1)
      }
    },
  )

  /** Runs both shapes at once, because the clients wait between retries. */
  const inBothShapes = (ask: (stream: boolean) => Promise<void>) =>
    Promise.all([ask(false), ask(true)])

  test('retries after Retry-After and gets the answer', async () => {
    await inBothShapes(async (stream) => {
      const { model, lane } = lanes.take('chat')
      lane.answers(refusal(429, {}, { 'retry-after': '3' }), chatStream(['fine']))
      const instance = program({ model, maxRetries: 1 })
      expect(await read(instance, stream)).toBe('fine')
      expect(instance.sent).toHaveLength(2)
      expect(lane.calls).toHaveLength(2)
      const [first, second] = instance.sent
      // Longer than the default delay of each client.
      expect((second?.atMs ?? 0) - (first?.atMs ?? 0)).toBeGreaterThanOrEqual(2950)
    })
  })

  test('retries after the upstream was down', async () => {
    await inBothShapes(async (stream) => {
      const { model, lane } = lanes.take('chat')
      lane.answers(refusal(503), chatStream(['fine']))
      const instance = program({ model, maxRetries: 1 })
      expect(await read(instance, stream)).toBe('fine')
      expect(instance.sent).toHaveLength(2)
    })
  })

  /** Sends two words, then closes the connection. */
  const broken: Script = completionsStream(['one ', 'two'], {
    finish: null,
    done: false,
    usage: null,
  })

  test('throws in the middle of a stream after the words received, and does not retry', async () => {
    const { model, lane } = lanes.take('legacy')
    lane.answers(broken)
    const instance = program({ model, maxRetries: 2 })
    const texts: string[] = []
    const reading = (async () => {
      for await (const piece of instance.stream('p')) texts.push(piece)
    })()
    const error = errorOf(await thrownBy(reading))
    expect(texts.join('')).toBe('one two')
    expect(error.code).toBe('upstream_truncated')
    expect(instance.sent).toHaveLength(1)
    expect(lane.calls).toHaveLength(1)
  })

  test('gets an error status for an interrupted answer when not streaming', async () => {
    const { model, lane } = lanes.take('legacy')
    lane.answers(broken)
    const error = errorOf(await thrownBy(program({ model }).whole('p')))
    expect(error).toMatchObject({ status: 502, code: 'upstream_truncated' })
    expect(lane.calls).toHaveLength(1)
  })
})

describe('the openai package', () => {
  const openai = () =>
    new OpenAI({
      baseURL: baseUrl({ model: '' }),
      apiKey: API_KEY,
      maxRetries: 0,
      fetch: recordedFetch,
    })

  test('reads every field of a completion, and the same ones from the cache', async () => {
    const own = lanes.take('chat')
    const { model } = own
    own.lane.answers(chatStream(['Hello', ' there'], { finish: 'length' }))
    const { data: miss, response } = await openai()
      .completions.create({ model, prompt: 'p', max_tokens: 9 })
      .withResponse()
    expect(miss).toMatchObject({
      object: 'text_completion',
      model: 'upstream-model-1',
      choices: [{ text: 'Hello there', index: 0, finish_reason: 'length', logprobs: null }],
      usage: USAGE,
    })
    expect(miss).toHaveProperty('_request_id', response.headers.get('x-request-id'))
    await untilStored(own)
    const body = { model, prompt: 'p', max_tokens: 9, user: 'ada' }
    expect(await openai().completions.create(body)).toEqual(miss)
    expect(own.lane.calls).toHaveLength(1)
  })

  test('reads the usage of a stream, on a miss and on a hit', async () => {
    const own = lanes.take('legacy')
    own.lane.answers(completionsStream(['Hello', ' there']))
    for (const _ of ['miss', 'hit']) {
      const stream = await openai().completions.create({
        model: own.model,
        prompt: 'p',
        stream: true,
        stream_options: { include_usage: true },
      })
      const chunks = await Array.fromAsync(stream)
      expect(chunks.map(({ choices }) => choices[0]?.text ?? '').join('')).toBe('Hello there')
      expect(chunks.at(-1)).toMatchObject({ choices: [], usage: USAGE })
      await untilStored(own)
    }
    expect(own.lane.calls).toHaveLength(1)
  })

  test('lists the models and retrieves one', async () => {
    const models = await Array.fromAsync(openai().models.list())
    expect(models.map(({ id }) => id)).toContain('chat-0')
    expect(await openai().models.retrieve('chat-0')).toMatchObject({ object: 'model' })
  })

  test.each<
    [
      string,
      abstract new (...given: never) => APIError,
      object,
      Script | null,
      Record<string, string>?,
    ]
  >([
    [
      'an invalid field',
      BadRequestError,
      { status: 400, code: 'invalid_value', param: 'temperature', type: 'invalid_request_error' },
      null,
    ],
    [
      'a miss with only-if-cached',
      NotFoundError,
      { status: 404, code: 'not_cached' },
      null,
      { 'cache-control': 'only-if-cached' },
    ],
    [
      'a 429',
      RateLimitError,
      { status: 429, code: 'upstream_rate_limited', type: 'rate_limit_error' },
      refusal(429, {}, { 'retry-after': '7' }),
    ],
    [
      'a 500',
      InternalServerError,
      { status: 502, code: 'upstream_unavailable', type: 'api_error' },
      refusal(500),
    ],
  ])('throws its own error for %s', async (name, type, fields, script, headers = {}) => {
    const { model, lane } = lanes.take('chat')
    if (script !== null) lane.answers(script)
    const body = { model, prompt: 'p', ...(name === 'an invalid field' ? { temperature: 3 } : {}) }
    const error = await thrownBy(openai().completions.create(body, { headers }))
    expect(error).toBeInstanceOf(type)
    expect(error).toMatchObject({ ...fields, requestID: expect.stringMatching(/^req_/) })
  })
})

describe('the AI SDK', () => {
  const models = [
    [
      '@ai-sdk/openai-compatible',
      (baseURL: string, model: string): LanguageModel =>
        createOpenAICompatible({
          name: 'edge',
          baseURL,
          fetch: recordedFetch,
          includeUsage: true,
        }).completionModel(model),
    ],
    [
      '@ai-sdk/openai',
      (baseURL: string, model: string): LanguageModel =>
        createOpenAI({ baseURL, apiKey: API_KEY, fetch: recordedFetch }).completion(model),
    ],
  ] as const

  test.each(models)(
    '%s reads the finish reason, usage and ids in both shapes',
    async (_, modelOf) => {
      const own = lanes.take('chat')
      own.lane.answers(chatStream(['Hel', 'lo'], { finish: 'length' }))
      const model = modelOf(new URL('/v1', workers.url).href, own.model)
      const whole = await generateText({ model, prompt: 'p', maxRetries: 0 })
      await untilStored(own)
      const streamed = streamText({ model, prompt: 'p', maxRetries: 0 })
      expect(await streamed.text).toBe('Hello')
      for (const got of [whole, streamed]) {
        expect(await got.finishReason).toBe('length')
        expect(await got.usage).toMatchObject({
          inputTokens: USAGE.prompt_tokens,
          outputTokens: USAGE.completion_tokens,
          totalTokens: USAGE.total_tokens,
        })
        const { id, modelId } = await got.response
        expect([id, modelId]).toEqual([whole.response.id, 'upstream-model-1'])
      }
      expect(own.lane.calls).toHaveLength(1)
    },
  )

  test.each(models)('%s ends the upstream call when it is aborted', async (_, modelOf) => {
    const own = lanes.take('legacy')
    own.lane.answers(async (call, line) => {
      line.head(200, { 'content-type': 'text/event-stream' })
      // Keep sending: workerd notices that a reader has gone only when it writes.
      while (!call.left) {
        line.write('data: {"choices":[{"index":0,"text":"word"}]}\n\n')
        await Promise.race([new Promise((resolve) => setTimeout(resolve, 20)), call.closed])
      }
    })
    const controller = new AbortController()
    const { fullStream } = streamText({
      model: modelOf(new URL('/v1', workers.url).href, own.model),
      prompt: 'p',
      maxRetries: 0,
      headers: { 'cache-control': 'no-store' },
      abortSignal: controller.signal,
    })
    const kindsOfParts: string[] = []
    for await (const { type } of fullStream) {
      kindsOfParts.push(type)
      if (type === 'text-delta') controller.abort()
    }
    expect(kindsOfParts).toContain('abort')
    const call = await own.lane.call()
    await call.closed
    expect(call.left).toBe(true)
  })
})

describe('LangChain', () => {
  const langchain = ({ model }: OwnModel, more = {}) =>
    new LangChainOpenAI({
      model,
      apiKey: API_KEY,
      maxRetries: 0,
      configuration: { baseURL: new URL('/v1', workers.url).href, fetch: recordedFetch },
      ...more,
    })

  /** Echoes the prompt. */
  const echo: Script = async (call, line) => {
    const [message] = call.body['messages'] as { content: string }[]
    await chatStream([`${message?.content}`, '!'])(call, line)
  }

  test('batch() gets the answer to each prompt, on misses and hits', async () => {
    const own = lanes.take('chat')
    own.lane.answers(echo)
    const client = langchain(own)
    expect(await client.batch(['a', 'b', 'c'])).toEqual(['a!', 'b!', 'c!'])
    await expect
      .poll(async () => (await workers.kvEntries()).size)
      .toBeGreaterThanOrEqual(own.lane.calls.length)
    expect(await client.batch(['c', 'a'])).toEqual(['c!', 'a!'])
    expect(own.lane.calls).toHaveLength(3)
  })

  test.each([false, true])('generate() with n, streaming %j', async (streaming) => {
    const own = lanes.take('chat')
    own.lane.answers(echo)
    const client = langchain(own, { n: 2, streaming })
    const { generations, llmOutput } = await client.generate(['a', 'b'])
    expect(generations.map((each) => each.map(({ text }) => text))).toEqual([
      ['a!', 'a!'],
      ['b!', 'b!'],
    ])
    const finishes = generations.flat().map(({ generationInfo }) => generationInfo)
    expect(finishes.map((info) => info?.['finishReason'])).toEqual(Array(4).fill('stop'))
    if (!streaming) expect(llmOutput).toBeDefined()
  })
})
