// Third-party clients against the bundle in workerd, for completions and for chats: each reads answers
// and streams, on a miss and on a hit, raises its own typed errors, retries as it should, and can stop.
import { createOpenAI } from '@ai-sdk/openai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { ChatOpenAI, OpenAI as LangChainOpenAI } from '@langchain/openai'
import {
  APICallError,
  generateText,
  jsonSchema,
  type LanguageModel,
  type ModelMessage,
  Output,
  RetryError,
  streamText,
} from 'ai'
import OpenAI, {
  APIError,
  BadRequestError,
  InternalServerError,
  NotFoundError,
  RateLimitError,
} from 'openai'
import { beforeAll, describe, expect, test, vi } from 'vitest'
import { type Code, messages } from '../../src/errors.ts'
import { CANARY } from '../support/canary.ts'
import { newAddress, OPERATOR_TOKEN, recordedFetch } from '../support/client.ts'
import { Lanes, type OwnModel } from '../support/lanes.ts'
import { countStored } from '../support/stored.ts'
import {
  chatStream,
  completionsStream,
  endless,
  event,
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
  legacy: { retries: 0, wire: 'completions', chat_path: '/chat/completions' },
}
/** The API that a client calls. */
type Api = 'completions' | 'chat'
/** How an upstream of this kind streams its answer. */
const streamOf = (kind: keyof typeof kinds, api: Api) =>
  kind === 'legacy' && api === 'completions' ? completionsStream : chatStream
type ResponseFormat = OpenAI.ChatCompletionCreateParams['response_format'] & object
/** An API key, which SDKs require. */
const API_KEY = 'sk-visitor'

const suite = workerSuite()
const lanes = new Lanes(suite, kinds, 220)
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
  readonly headers?: Readonly<Record<string, string>>
}

/** What came before in a conversation. */
interface Turn {
  readonly role: 'system' | 'user' | 'assistant'
  readonly content: string
}

/** A program that uses one of the clients, and its requests with the time of each. */
interface Program {
  readonly sent: readonly { readonly body: Record<string, unknown>; readonly atMs: number }[]
  /** @param history for chats only */
  whole(prompt: string, history?: readonly Turn[]): Promise<string>
  stream(prompt: string, signal?: AbortSignal): AsyncIterable<string>
}

/** The information a client's own error type gives. */
interface ClientError {
  readonly status: number | undefined
  readonly code: unknown
  readonly message: string
}

interface RealClient {
  readonly name: string
  readonly api: Api
  readonly program: (setting: Setting) => Program
  /** @throws when it is not the client's own type of error */
  readonly errorOf: (error: unknown) => ClientError
  /** Whether it obeys `x-should-retry: false`. */
  readonly obeys: boolean
  /** Whether it does not retry immediately when Retry-After is hours. */
  readonly hasPatience: boolean
}

function requests({ apiKey, headers = {} }: Setting) {
  const sent: { body: Record<string, unknown>; atMs: number }[] = []
  const address = newAddress()
  const send: typeof fetch = (input, init) => {
    sent.push({ body: JSON.parse(String(init?.body)), atMs: performance.now() })
    const all = new Headers(init?.headers)
    all.set('cf-connecting-ip', address)
    for (const [name, value] of Object.entries(headers)) all.set(name, value)
    if (apiKey === null) all.delete('authorization')
    return recordedFetch(input, { ...init, headers: all })
  }
  return { sent, send }
}

const baseUrl = ({ of = workers }: Partial<Setting>) => new URL('/v1', of.url).href

function aiClient(
  name: string,
  api: Api,
  modelOf: (send: typeof fetch, setting: Setting) => LanguageModel,
): RealClient {
  return {
    name,
    api,
    obeys: false,
    hasPatience: false,
    errorOf: aiError,
    program(setting) {
      const { maxRetries = 0, temperature } = setting
      const { sent, send } = requests(setting)
      const model = modelOf(send, setting)
      const heat = temperature === undefined ? {} : { temperature }
      return {
        sent,
        async whole(prompt, history = []) {
          const instructions = history.filter(({ role }) => role === 'system')
          const turns = history.filter(({ role }) => role !== 'system')
          const { text } = await generateText({
            model,
            messages: [...turns, { role: 'user', content: prompt }] as ModelMessage[],
            ...(instructions[0] === undefined ? {} : { instructions: instructions[0].content }),
            maxRetries,
            ...heat,
          })
          return text
        },
        async *stream(prompt, signal) {
          const abort = signal === undefined ? {} : { abortSignal: signal }
          const result = streamText({
            model,
            prompt,
            maxRetries,
            ...heat,
            ...abort,
            onError: () => {},
          })
          for await (const part of result.fullStream) {
            if (part.type === 'text-delta') yield part.text
            if (part.type === 'error') throw part.error
          }
        },
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

/** LangChain's two classes, which differ in what they return. */
function langchainClient(
  name: string,
  api: Api,
  modelOf: (fields: BaseFields) => {
    invoke(messages: [role: Turn['role'], content: string][] | string): Promise<unknown>
    stream(prompt: string, options: object): Promise<AsyncIterable<unknown>>
  },
): RealClient {
  const textOf = (got: unknown) => (isRecord(got) ? String(got['content']) : String(got))
  return {
    name,
    api,
    obeys: false,
    hasPatience: true,
    errorOf: openaiError,
    program(setting) {
      const { model, maxRetries = 0, temperature } = setting
      const { sent, send } = requests(setting)
      const client = modelOf({
        model,
        apiKey: API_KEY,
        maxRetries,
        ...(temperature === undefined ? {} : { temperature }),
        configuration: { baseURL: baseUrl(setting), fetch: send },
      })
      return {
        sent,
        async whole(prompt, history) {
          const before = history?.map(
            ({ role, content }) => [role, content] as [Turn['role'], string],
          )
          return textOf(await client.invoke(before ? [...before, ['user', prompt]] : prompt))
        },
        async *stream(prompt, signal) {
          const chunks = await client.stream(prompt, signal === undefined ? {} : { signal })
          for await (const chunk of chunks) yield textOf(chunk)
        },
      }
    },
  }
}

function openaiClient(
  name: string,
  api: Api,
  ask: (client: OpenAI, body: AskedOfOpenAI) => Pick<Program, 'whole' | 'stream'>,
): RealClient {
  return {
    name,
    api,
    obeys: true,
    hasPatience: true,
    errorOf: openaiError,
    program(setting) {
      const { model, maxRetries = 0, temperature } = setting
      const { sent, send } = requests(setting)
      const baseURL = baseUrl(setting)
      const client = new OpenAI({ baseURL, apiKey: API_KEY, maxRetries, fetch: send })
      return {
        sent,
        ...ask(client, { model, ...(temperature === undefined ? {} : { temperature }) }),
      }
    },
  }
}

interface AskedOfOpenAI {
  readonly model: string
  readonly temperature?: number
}

interface BaseFields {
  readonly model: string
  readonly apiKey: string
  readonly maxRetries: number
  readonly temperature?: number
  readonly configuration: { readonly baseURL: string; readonly fetch: typeof fetch }
}

const compatibleProvider = (send: typeof fetch, of: Partial<Setting>) =>
  createOpenAICompatible({
    name: 'edge',
    baseURL: baseUrl(of),
    apiKey: API_KEY,
    fetch: send,
    includeUsage: true,
    supportsStructuredOutputs: true,
  })
const openaiProvider = (send: typeof fetch, of: Partial<Setting>) =>
  createOpenAI({ baseURL: baseUrl(of), apiKey: API_KEY, fetch: send })

const clients: readonly RealClient[] = [
  openaiClient('openai', 'completions', (client, body) => ({
    async whole(prompt) {
      const { choices } = await client.completions.create({ ...body, prompt })
      return choices[0]?.text ?? 'none'
    },
    async *stream(prompt, signal) {
      const given = { ...body, prompt, stream: true } as const
      for await (const chunk of await client.completions.create(given, { signal })) {
        yield chunk.choices[0]?.text ?? 'none'
      }
    },
  })),
  openaiClient('openai, chat', 'chat', (client, body) => ({
    async whole(prompt, history = []) {
      const messages = [...history, { role: 'user' as const, content: prompt }]
      const { choices } = await client.chat.completions.create({ ...body, messages })
      return choices[0]?.message.content ?? 'none'
    },
    async *stream(prompt, signal) {
      const messages = [{ role: 'user', content: prompt } as const]
      const given = { ...body, messages, stream: true } as const
      for await (const chunk of await client.chat.completions.create(given, { signal })) {
        yield chunk.choices[0]?.delta.content ?? ''
      }
    },
  })),
  aiClient('@ai-sdk/openai-compatible', 'completions', (send, setting) =>
    compatibleProvider(send, setting).completionModel(setting.model),
  ),
  aiClient('@ai-sdk/openai-compatible, chat', 'chat', (send, setting) =>
    compatibleProvider(send, setting).chatModel(setting.model),
  ),
  aiClient('@ai-sdk/openai', 'completions', (send, setting) =>
    openaiProvider(send, setting).completion(setting.model),
  ),
  aiClient('@ai-sdk/openai, chat', 'chat', (send, setting) =>
    openaiProvider(send, setting).chat(setting.model),
  ),
  langchainClient('@langchain/openai', 'completions', (fields) => new LangChainOpenAI(fields)),
  langchainClient('@langchain/openai, chat', 'chat', (fields) => new ChatOpenAI(fields)),
]
const chatClients = clients.filter(({ api }) => api === 'chat')

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
  await vi.waitUntil(async () => (await countStored(workers, model)) > 0, { timeout: 15_000 })
}

interface Failure {
  readonly name: string
  readonly status: number
  readonly code: Code
  /** A part of the message. */
  readonly message: string
  /** The client's setting that causes it. */
  readonly setting?: () => Partial<Setting>
  readonly isFinal: (client: Pick<RealClient, 'obeys' | 'hasPatience'>) => boolean
  readonly script?: Script
}

/** Errors, and which clients take each as final. */
const failures: readonly Failure[] = [
  {
    name: 'an invalid request',
    status: 400,
    code: 'invalid_value',
    message: 'Cannot use "temperature": expected',
    setting: () => ({ temperature: 3 }),
    isFinal: () => true,
  },
  {
    name: 'no visitor token',
    status: 401,
    code: 'visitor_token_required',
    message: messages.visitor_token_required,
    setting: () => ({ of: guarded, apiKey: null }),
    isFinal: () => true,
  },
  {
    name: 'a wrong visitor token',
    status: 401,
    code: 'visitor_token_invalid',
    message: messages.visitor_token_invalid,
    setting: () => ({ of: guarded }),
    isFinal: () => true,
  },
  {
    name: 'a paused endpoint',
    status: 429,
    code: 'paused',
    message: messages.paused,
    setting: () => ({ of: paused }),
    isFinal: ({ hasPatience }) => hasPatience,
  },
  {
    name: 'a broken configuration',
    status: 503,
    code: 'misconfigured',
    message: messages.misconfigured,
    setting: () => ({ of: misconfigured }),
    isFinal: ({ obeys }) => obeys,
  },
  {
    name: 'a problem that only the owner can fix',
    status: 502,
    code: 'upstream_rejected',
    message: messages.upstream_rejected,
    isFinal: ({ obeys }) => obeys,
    script: refusal(401, { error: { message: CANARY } }),
  },
]

// They wait most of the time, so that several can at once.
describe.concurrent.each(clients)('$name', ({ api, program, errorOf, obeys, hasPatience }) => {
  const text = 'Grüße, 🌍!\n\ndata: [DONE]\n\n"Ende"'
  const pieces = [text.slice(0, 5), text.slice(5, 12), text.slice(12)]

  test.each(shapes)('reads a %s answer, on a miss and on hits in both shapes', async (_, first) => {
    for (const kind of ['chat', 'legacy'] as const) {
      const own = lanes.take(kind)
      own.lane.answers(streamOf(kind, api)(pieces))
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

  test.each(failures)(
    'gets the error for $name with its message, without a retry',
    async ({ status, code, message, setting, isFinal, script }) => {
      for (const [, stream] of shapes) {
        const { model, lane } = lanes.take('chat')
        if (script !== undefined) lane.answers(script)
        const maxRetries = isFinal({ obeys, hasPatience }) ? 2 : 0
        const instance = program({ model, maxRetries, ...setting?.() })
        const error = errorOf(await thrownBy(read(instance, stream)))
        expect(error).toMatchObject({ status, code, message: expect.stringContaining(message) })
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
  const broken: Script = streamOf('legacy', api)(['one ', 'two'], {
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
    expect(error.message).toContain(messages.upstream_truncated)
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

  test('ends the upstream call when it is aborted', async () => {
    const { model, lane } = lanes.take('legacy')
    lane.answers(endless(api))
    const controller = new AbortController()
    // What is not stored has no reason to go on.
    const { stream } = program({ model, headers: { 'cache-control': 'no-store' } })
    const reading = (async () => {
      for await (const text of stream('p', controller.signal)) if (text !== '') controller.abort()
    })()
    // Some end the stream, others throw.
    await reading.catch(() => {})
    expect(controller.signal.aborted).toBe(true)
    const call = await lane.call()
    await call.closed
    expect(call.left).toBe(true)
  })
})

test('all clients share one answer, streamed or not', async () => {
  const own = lanes.take('chat')
  own.lane.answers(chatStream(['Hel', 'lo']))
  for (const { name, api, program } of clients) {
    // The AI SDK's completion models write a transcript of their own for a prompt.
    if (api === 'completions' && name.startsWith('@ai-sdk')) continue
    for (const [, stream] of shapes) {
      expect(await read(program({ model: own.model }), stream)).toBe('Hello')
      await untilStored(own)
    }
  }
  expect(own.lane.calls).toHaveLength(1)
})

test('all clients of chats send the same conversation', async () => {
  const own = lanes.take('chat')
  own.lane.answers(chatStream(['Blue']))
  const history: Turn[] = [
    { role: 'system', content: 'One word only.' },
    { role: 'user', content: 'Hi' },
    { role: 'assistant', content: 'Hello' },
  ]
  for (const { program } of chatClients) {
    expect(await program({ model: own.model }).whole('A colour?', history)).toBe('Blue')
    await untilStored(own)
  }
  expect(own.lane.calls).toHaveLength(1)
  const sent = own.lane.calls[0]?.body['messages']
  expect(sent).toEqual([...history, { role: 'user', content: 'A colour?' }])
})

describe('the openai package', () => {
  const openai = () =>
    new OpenAI({
      baseURL: baseUrl({ model: '' }),
      apiKey: API_KEY,
      maxRetries: 0,
      fetch: recordedFetch,
    })

  const prompt = 'p'
  const conversation = [{ role: 'user' as const, content: 'p' }]

  test('reads every field of a completion and a chat, and the same ones from the cache', async () => {
    const own = lanes.take('chat')
    const { model } = own
    own.lane.answers(chatStream(['Hello', ' there'], { finish: 'length' }))
    const choice = { index: 0, finish_reason: 'length', logprobs: null }
    const message = { role: 'assistant', content: 'Hello there', refusal: null }
    const calls = [
      [
        () => openai().completions.create({ model, prompt, max_tokens: 9 }),
        { object: 'text_completion', choices: [{ ...choice, text: 'Hello there' }] },
      ],
      [
        () =>
          openai().chat.completions.create({
            model,
            messages: conversation,
            max_completion_tokens: 9,
            user: 'ada',
          }),
        { object: 'chat.completion', choices: [{ ...choice, message }] },
      ],
    ] as const
    for (const [call, fields] of calls) {
      const first = call()
      const { response } = await first.withResponse()
      const answer = await first
      expect(answer).toMatchObject({ model: 'upstream-model-1', usage: USAGE, ...fields })
      expect(answer).toHaveProperty('_request_id', response.headers.get('x-request-id'))
      await untilStored(own)
      expect(await call()).toEqual(answer)
    }
    expect(own.lane.calls).toHaveLength(1)
  })

  test.each(['legacy', 'chat'] as const)('reads the usage of a stream, %s', async (kind) => {
    const own = lanes.take(kind)
    const asked = {
      model: own.model,
      stream: true,
      stream_options: { include_usage: true },
    } as const
    own.lane.answers(streamOf(kind, 'completions')(['Hello', ' there']))
    for (const _ of ['miss', 'hit']) {
      const stream = await openai().completions.create({ ...asked, prompt })
      const chunks = await Array.fromAsync(stream)
      expect(chunks.map(({ choices }) => choices[0]?.text ?? '').join('')).toBe('Hello there')
      expect(chunks.at(-1)).toMatchObject({ choices: [], usage: USAGE })
      await untilStored(own)
    }
    if (kind === 'legacy') own.lane.answers(chatStream(['Hello', ' there']))
    const stream = openai().chat.completions.stream({ ...asked, messages: conversation })
    const chat = await stream.finalChatCompletion()
    expect(chat).toMatchObject({
      choices: [{ message: { role: 'assistant', content: 'Hello there' }, finish_reason: 'stop' }],
      usage: USAGE,
    })
    expect(own.lane.calls).toHaveLength(kind === 'legacy' ? 2 : 1)
  })

  test('reads log probabilities of completions and chats, whole and streamed', async () => {
    const own = lanes.take('chat')
    const { model } = own
    const content = ['Hel', 'lo'].map((token) => ({
      token,
      logprob: -0.5,
      bytes: [...Buffer.from(token)],
      top_logprobs: [{ token, logprob: -0.5, bytes: [...Buffer.from(token)] }],
    }))
    own.lane.answers((_, line) => {
      line.head(200, { 'content-type': 'text/event-stream' })
      for (const each of content) {
        const choice = { index: 0, delta: { content: each.token }, logprobs: { content: [each] } }
        line.write(event({ choices: [choice] }))
      }
      line.write(event({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] }))
      line.write(event('[DONE]'))
      line.end()
    })
    const asked = { model, messages: conversation, logprobs: true, top_logprobs: 1 }
    const { choices } = await openai().chat.completions.create(asked)
    expect(choices[0]?.logprobs).toMatchObject({ content })
    await untilStored(own)
    const stream = await openai().chat.completions.create({ ...asked, stream: true })
    const chunks = await Array.fromAsync(stream)
    const streamed = chunks.flatMap(({ choices }) => choices[0]?.logprobs?.content ?? [])
    expect(streamed).toEqual(content)
    const completion = await openai().completions.create({ model, prompt, logprobs: 1 })
    expect(completion.choices[0]?.logprobs).toEqual({
      tokens: ['Hel', 'lo'],
      token_logprobs: [-0.5, -0.5],
      top_logprobs: [{ Hel: -0.5 }, { lo: -0.5 }],
      text_offset: [0, 3],
    })
    expect(own.lane.calls).toHaveLength(1)
    expect(own.lane.calls[0]?.body).toMatchObject({ logprobs: true, top_logprobs: 1 })
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
})

describe('JSON mode', () => {
  const schema = {
    type: 'object',
    properties: { colour: { type: 'string' } },
    required: ['colour'],
    additionalProperties: false,
  } as const
  const named = { name: 'answer', schema, strict: true }
  const json = '{"colour":"blue"}'
  const messages = [{ role: 'user' as const, content: 'A colour?' }]

  async function withOpenAI(model: string, format: ResponseFormat): Promise<unknown> {
    const client = new OpenAI({ baseURL: baseUrl({}), apiKey: API_KEY, fetch: recordedFetch })
    const asked = { model, messages, response_format: format }
    const { choices } = await client.chat.completions.create(asked)
    return JSON.parse(choices[0]?.message.content ?? '')
  }
  async function withAi(model: LanguageModel): Promise<unknown> {
    const output = Output.object({ schema: jsonSchema(schema), name: 'answer' })
    return (await generateText({ model, messages, output })).output
  }

  test.each<[name: string, ask: (model: string) => Promise<unknown>, type: string]>([
    ['openai', (model) => withOpenAI(model, { type: 'json_object' }), 'json_object'],
    [
      'openai with a schema',
      (model) => withOpenAI(model, { type: 'json_schema', json_schema: named }),
      'json_schema',
    ],
    [
      '@ai-sdk/openai-compatible',
      (model) => withAi(compatibleProvider(recordedFetch, {}).chatModel(model)),
      'json_schema',
    ],
    [
      '@ai-sdk/openai',
      (model) => withAi(openaiProvider(recordedFetch, {}).chat(model)),
      'json_schema',
    ],
    [
      '@langchain/openai',
      async (model) => {
        const configuration = { baseURL: baseUrl({}), fetch: recordedFetch }
        const client = new ChatOpenAI({ model, apiKey: API_KEY, configuration })
        const structured = client.withStructuredOutput(schema, { method: 'jsonSchema' })
        return await structured.invoke('A colour?')
      },
      'json_schema',
    ],
  ])('%s gets an object, on a miss and on a hit', async (_, ask, type) => {
    const own = lanes.take('chat')
    own.lane.answers(chatStream([json.slice(0, 5), json.slice(5)]))
    expect(await ask(own.model)).toEqual({ colour: 'blue' })
    await untilStored(own)
    expect(await ask(own.model)).toEqual({ colour: 'blue' })
    expect(own.lane.calls).toHaveLength(1)
    const format = own.lane.calls[0]?.body['response_format']
    expect(format).toMatchObject({
      type,
      ...(type === 'json_schema' ? { json_schema: { schema } } : {}),
    })
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
