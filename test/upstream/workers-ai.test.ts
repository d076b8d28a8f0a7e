// The workers-ai wire and its calls of the binding. Whole responses are covered by the fixtures;
// here a stub behaves like the binding of the runtime.
import { expect, test } from 'vitest'
import { compose, type Platform } from '../../src/compose.ts'
import { parseConfig } from '../../src/config/config.ts'
import { GatewayError } from '../../src/errors.ts'
import type { CallRequest, WireOptions } from '../../src/upstream/adapter.ts'
import { type CallContext, call } from '../../src/upstream/call.ts'
import { connect } from '../../src/upstream/connection.ts'
import type { UpstreamCause } from '../../src/upstream/failure.ts'
import { type AiBinding, sendToBinding, workersAi } from '../../src/upstream/workers-ai.ts'
import { work } from '../support/flights.ts'

const options: WireOptions = { maxTokensField: 'max_tokens', streamUsage: false, path: null }
const request: CallRequest = {
  model: '@cf/meta/llama-3.1-8b-instruct',
  prompts: ['Once upon'],
  system: null,
  locked: false,
  stream: true,
  max_tokens: 16,
  n: 1,
  parameters: {},
}

interface Run {
  readonly model: string
  readonly inputs: unknown
  readonly options: { readonly returnRawResponse: true; readonly signal: AbortSignal }
}

/** A stub binding that answers with `answer` and records its calls. */
function binding(answer: (signal: AbortSignal) => unknown) {
  const runs: Run[] = []
  const ai: AiBinding = {
    run: async (model, inputs, runOptions) => {
      runs.push({ model, inputs, options: runOptions })
      return await answer(runOptions.signal)
    },
  }
  return { ai, runs }
}

function ask(ai: AiBinding, signal = new AbortController().signal) {
  const connection = connect(
    {
      ...options,
      name: 'ai',
      wire: 'workers-ai',
      baseUrl: '',
      auth: 'none',
      key: null,
      unsupported: new Set(),
      stream: 'always',
      firstByteMs: 60_000,
      idleMs: 60_000,
      deadlineMs: 60_000,
      retries: 0,
      maxOutputBytes: 4_000_000,
    },
    { http: neither, demo: neither, ai: sendToBinding(ai) },
  )
  const context: CallContext = {
    ...connection,
    now: () => 0,
    signal,
    deadlineAt: 60_000,
    progress: () => 'running',
  }
  return Array.fromAsync(call(workersAi.toWire(request, options), context))
}

const neither = async () => {
  throw new TypeError('this goes to the binding')
}

async function textOf(ai: AiBinding): Promise<string> {
  const deltas = (await ask(ai)).flat()
  expect(deltas.at(-1)).toEqual({ kind: 'end' })
  return deltas.map((delta) => (delta.kind === 'text' ? delta.text : '')).join('')
}

async function failureOf(ai: AiBinding): Promise<GatewayError> {
  const error: unknown = await ask(ai).catch((thrown: unknown) => thrown)
  if (error instanceof GatewayError) return error
  throw new TypeError('no GatewayError')
}

const sse = 'data: {"response":"Hel"}\n\ndata: {"response":"lo","p":"ab"}\n\ndata: [DONE]\n\n'
const json = { response: 'Hello', usage: {} }

test('toWire() builds messages and the sampling fields', () => {
  const full = {
    ...request,
    system: 'Be brief',
    temperature: 0.5,
    top_p: 0.9,
    seed: 7,
    presence_penalty: 1,
    frequency_penalty: -1,
    parameters: { top_k: 4 },
  }
  expect(workersAi.toWire(full, options)).toEqual({
    path: '/run',
    body: {
      model: '@cf/meta/llama-3.1-8b-instruct',
      messages: [
        { role: 'system', content: 'Be brief' },
        { role: 'user', content: 'Once upon' },
      ],
      max_tokens: 16,
      temperature: 0.5,
      top_p: 0.9,
      seed: 7,
      presence_penalty: 1,
      frequency_penalty: -1,
      stream: true,
      top_k: 4,
    },
  })
})

test('runs the binding with the model as its own argument, and requests the raw response', async () => {
  const { ai, runs } = binding(() => new Response(sse))
  expect(await textOf(ai)).toBe('Hello')
  expect(runs).toHaveLength(1)
  expect(runs[0]).toMatchObject({
    model: '@cf/meta/llama-3.1-8b-instruct',
    inputs: { messages: [{ role: 'user', content: 'Once upon' }], max_tokens: 16, stream: true },
    options: { returnRawResponse: true },
  })
  expect(runs[0]?.inputs).not.toHaveProperty('model')
})

test.each([
  ['a response that streams', () => new Response(sse)],
  ['a response of JSON', () => Response.json(json)],
  ['a stream', () => new Response(sse).body],
  ['an object', () => json],
  ['an object in OpenAI’s shape', () => ({ choices: [{ message: { content: 'Hello' } }] })],
])('reads %s from the binding', async (_, answer) => {
  expect(await textOf(binding(answer).ai)).toBe('Hello')
})

test.each([
  ['null', () => null],
  ['a number', () => 3],
  ['a text', () => 'Hello'],
])('reads no text from %s', async (_, answer) => {
  expect(await ask(binding(answer).ai)).toEqual([])
})

test.each([
  ['an empty response', () => new Response(null)],
  ['a list', () => []],
  ['a number in a list', () => [3]],
])('rejects %s as upstream_bad_response', async (_, answer) => {
  expect((await failureOf(binding(answer).ai)).code).toBe('upstream_bad_response')
})

const errors = [
  [3003, 'upstream_refused_request'],
  [5004, 'upstream_refused_request'],
  [3006, 'upstream_refused_request'],
  [3039, 'upstream_rejected'],
  [5007, 'upstream_rejected'],
  [3042, 'upstream_rejected'],
  [5016, 'upstream_rejected'],
  [5018, 'upstream_rejected'],
  [3023, 'upstream_rejected'],
  [3041, 'upstream_rejected'],
  [5005, 'upstream_rejected'],
  [5019, 'upstream_rejected'],
  [3007, 'upstream_timeout'],
  [3008, 'upstream_timeout'],
  [3036, 'upstream_rate_limited'],
  [3040, 'upstream_rate_limited'],
  [4006, 'upstream_rate_limited'],
  [5021, 'upstream_refused_request'],
  [10000, 'upstream_rejected'],
  [3099, 'upstream_unavailable'],
] as const

test.each(errors)('maps a thrown %i to %s and keeps no text', async (number, code) => {
  for (const prefix of ['', 'InferenceUpstreamError: ', 'AiError: AiError: ']) {
    const failure = await failureOf(
      binding(() => {
        throw new Error(`${prefix}${number}: canary of account 0123`)
      }).ai,
    )
    expect(failure.code).toBe(code)
    expect(JSON.stringify([failure.message, failure.cause])).not.toContain('canary')
  }
})

test('gives the owner the code and a hint', async () => {
  const failure = await failureOf(
    binding(() => {
      throw new Error('3036: You have used up your daily free allocation')
    }).ai,
  )
  expect(failure).toMatchObject({ code: 'upstream_rate_limited', retryAfterSeconds: 3600 })
  expect(failure.cause).toEqual({
    status: 429,
    code: '3036',
    subject: 'quota',
    hint: "Upgrade the Cloudflare account's plan: today's free allocation of Workers AI is used up.",
  })
})

test.each([
  ["AiError: This model's maximum context length is 131072 tokens.", 'upstream_refused_request'],
  ['AiError: Model canary not found', 'upstream_rejected'],
  ['AiError: The model is overloaded', 'upstream_unavailable'],
])('diagnoses a thrown %j, which has no code', async (text, code) => {
  const failure = await failureOf(
    binding(() => {
      throw new Error(text)
    }).ai,
  )
  expect(failure.code).toBe(code)
  expect(failure.cause).toHaveProperty('subject')
  expect(JSON.stringify([failure.message, failure.cause])).not.toContain('canary')
})

test.each([['Network connection lost.'], ['canary 3040: in the middle'], ['404: Not Found'], ['']])(
  'maps a thrown %j, which has no code, to upstream_unavailable',
  async (text) => {
    const failure = await failureOf(
      binding(() => {
        throw new Error(text)
      }).ai,
    )
    expect(failure).toMatchObject({ code: 'upstream_unavailable', cause: { status: null } })
    expect(JSON.stringify([failure.message, failure.cause])).not.toContain('canary')
  },
)

test('rejects an object that is nested too deeply to serialise', async () => {
  const depth = 200_000
  const body = `{"response":${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}}`
  const failure = await failureOf(binding(() => new Response(body)).ai)
  expect(failure).toMatchObject({ code: 'upstream_bad_response', cause: { code: null } })
})

test.each([
  3003, 3006, 3007, 3008, 3023, 3036, 3039, 3040, 3041, 3042, 4006, 5004, 5005, 5007, 5016, 5018,
  5019, 5021, 10000,
])('gives the owner a specific hint for code %i', async (code) => {
  const thrown = binding(() => {
    throw new Error(`${code}: canary`)
  })
  const { hint } = (await failureOf(thrown.ai)).cause as UpstreamCause
  expect(hint).toMatch(/^[A-Z].{20,}\.$/)
  // None of our own timers fired.
  expect(hint).not.toMatch(/_ms/)
})

test('reads the code from the raw response of a failure', async () => {
  const body = { internalCode: 3040, description: 'canary', name: 'AiError', message: 'canary' }
  const failure = await failureOf(binding(() => Response.json(body, { status: 500 })).ai)
  expect(failure).toMatchObject({ code: 'upstream_rate_limited', retryAfterSeconds: 10 })
  expect(JSON.stringify(failure.cause)).not.toContain('canary')
})

test('aborts the binding call when the reader has gone', async () => {
  const controller = new AbortController()
  const { ai, runs } = binding((signal) => {
    const waiting = new Promise((_, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason))
    })
    controller.abort(new Error('left'))
    return waiting
  })
  await expect(ask(ai, controller.signal)).rejects.toThrow('left')
  expect(runs[0]?.options.signal.aborted).toBe(true)
})

test('is unavailable without a binding', async () => {
  const { send } = connect(
    {
      ...options,
      name: 'ai',
      wire: 'workers-ai',
      baseUrl: '',
      auth: 'none',
      key: null,
      unsupported: new Set(),
      stream: 'always',
      firstByteMs: 1,
      idleMs: 1,
      deadlineMs: 1,
      retries: 0,
      maxOutputBytes: 1,
    },
    { http: neither, demo: neither },
  )
  await expect(send(new Request('https://x.test'))).rejects.toMatchObject({
    cause: { code: 'no_binding' },
  })
})

test("compose() uses the platform's binding", async () => {
  const result = parseConfig({
    config: {
      models: [{ id: 'default', upstream: 'ai', upstream_model: '@cf/x' }],
      upstreams: [{ name: 'ai', preset: 'workers-ai' }],
    },
    prompts: {},
    secret: () => undefined,
    bound: () => true,
  })
  const { ai, runs } = binding(() => json)
  const lent = { ai, fetch: neither, now: () => 0, operatorToken: '', turnstileSecret: '' }
  const { miss } = compose(result, lent as Partial<Platform> as Platform)
  const context = miss?.generate(work, false, AbortSignal.timeout(1000))
  const connection = context?.route.connections.get('ai')
  const body = JSON.stringify({ model: '@cf/x' })
  await connection?.send(new Request(`${connection.baseUrl}/run`, { method: 'POST', body }))
  expect(runs).toMatchObject([{ model: '@cf/x' }])
})
