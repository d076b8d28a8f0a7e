// The workers-ai wire and its calls of the binding. Whole responses are covered by the fixtures;
// here a stub behaves like the binding of the runtime.
import { describe, expect, test } from 'vitest'
import { compose, type Platform } from '../../src/compose.ts'
import { parseConfig } from '../../src/config/config.ts'
import { GatewayError } from '../../src/errors.ts'
import type { UpstreamCause } from '../../src/upstream/failure.ts'
import { type AiBinding, sendToBinding, workersAi } from '../../src/upstream/workers-ai.ts'
import { completionOf } from '../support/answers.ts'
import { TestApp } from '../support/app.ts'
import { work } from '../support/flights.ts'
import { sentenceOf } from '../support/hints.ts'
import { callRequest, connectionTo, startCall } from '../support/upstreams.ts'

const MODEL = '@cf/meta/llama-3.1-8b-instruct'

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

const ask = (ai: AiBinding, signal = new AbortController().signal) =>
  startCall(sendToBinding(ai), {
    wire: 'workers-ai',
    request: { model: MODEL },
    signal,
    firstByteMs: 60_000,
    deadlineMs: 60_000,
    maxOutputBytes: 4_000_000,
  }).rest()

async function textOf(ai: AiBinding): Promise<string | undefined> {
  const { deltas, texts } = await ask(ai)
  expect(deltas.at(-1)).toEqual({ kind: 'end' })
  return texts[0]
}

async function failureOf(answer: () => unknown): Promise<GatewayError> {
  const { error } = await ask(binding(answer).ai)
  if (!(error instanceof GatewayError)) throw new TypeError('no GatewayError')
  // Nothing of the upstream's words may be in the message or the log.
  expect(JSON.stringify([error.message, error.cause])).not.toContain('canary')
  return error
}

test.each<[string, object, object]>([
  ['a JSON object', { type: 'json_object' }, { type: 'json_object' }],
  [
    "a schema in OpenAI's form",
    { type: 'json_schema', json_schema: { name: 'n', schema: { type: 'object' } } },
    { type: 'json_schema', json_schema: { type: 'object' } },
  ],
  [
    'a schema in its own form',
    { type: 'json_schema', json_schema: { type: 'object' } },
    { type: 'json_schema', json_schema: { type: 'object' } },
  ],
])('%s is asked for without a stream, with the schema itself', (_, format, expected) => {
  const request = callRequest({ stream: true, response_format: { ...format } })
  const options = { maxTokensField: 'max_tokens', streamUsage: false, path: null } as const
  const { body } = workersAi.toWire(request, options)
  expect(body['response_format']).toEqual(expected)
  expect(body).not.toHaveProperty('stream')
})

const throwing = (message: string) => () => {
  throw new Error(message)
}

const sse = 'data: {"response":"Hel"}\n\ndata: {"response":"lo","p":"ab"}\n\ndata: [DONE]\n\n'
const json = { response: 'Hello', usage: {} }

test('toWire() builds messages and the sampling fields', () => {
  const sampling = { temperature: 0.5, top_p: 0.9, seed: 7, presence_penalty: 1 }
  const request = callRequest({ model: MODEL, system: 'Be brief', ...sampling })
  const options = { maxTokensField: 'max_tokens', streamUsage: false, path: null } as const
  expect(workersAi.toWire({ ...request, parameters: { top_k: 4 } }, options)).toEqual({
    path: '/run',
    body: {
      model: MODEL,
      messages: [
        { role: 'system', content: 'Be brief' },
        { role: 'user', content: 'Once' },
      ],
      max_tokens: 16,
      ...sampling,
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
    model: MODEL,
    inputs: { messages: [{ role: 'user', content: 'Once' }], max_tokens: 16, stream: true },
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
  expect(await ask(binding(answer).ai)).toMatchObject({ deltas: [], error: null })
})

test.each([
  ['an empty response', () => new Response(null)],
  ['a list', () => []],
  ['a number in a list', () => [3]],
])('rejects %s as upstream_bad_response', async (_, answer) => {
  expect((await failureOf(answer)).code).toBe('upstream_bad_response')
})

test.each([
  ['upstream_refused_request', [3003, 3006, 5004, 5021]],
  ['upstream_rejected', [3023, 3039, 3041, 3042, 5005, 5007, 5016, 5018, 5019, 10000]],
  ['upstream_timeout', [3007, 3008]],
  ['upstream_rate_limited', [3036, 3040, 4006]],
  ['upstream_unavailable', [3099]],
] as const)(
  'maps thrown codes to %s, with a hint and without their text',
  async (code, numbers) => {
    for (const number of numbers) {
      for (const prefix of ['', 'InferenceUpstreamError: ', 'AiError: AiError: ']) {
        const failure = await failureOf(throwing(`${prefix}${number}: canary of account 0123`))
        expect(failure.code, String(number)).toBe(code)
        const hint = sentenceOf((failure.cause as UpstreamCause).hint)
        expect(hint).toMatch(/^[A-Z].{20,}\.$/)
        // None of our own timers fired.
        expect(hint).not.toMatch(/_ms/)
      }
    }
  },
)

test('gives the owner the code and a hint', async () => {
  const failure = await failureOf(throwing('3036: You have used up your daily free allocation'))
  expect(failure).toMatchObject({ code: 'upstream_rate_limited', retryAfterSeconds: 3600 })
  const hint = 'freeAllocation'
  expect(failure.cause).toEqual({ status: 429, code: '3036', subject: 'quota', hint })
  expect(sentenceOf(hint)).toMatch(/plan.*free allocation/)
})

test.each([
  ["AiError: This model's maximum context length is 9.", 'upstream_refused_request', 'context'],
  ['AiError: Model canary not found', 'upstream_rejected', 'model'],
  ['AiError: The model is overloaded', 'upstream_unavailable', 'busy'],
  ['Network connection lost.', 'upstream_unavailable', undefined],
  ['canary 3040: in the middle', 'upstream_unavailable', undefined],
  ['404: Not Found', 'upstream_unavailable', undefined],
  ['', 'upstream_unavailable', undefined],
])('diagnoses a thrown %j, which has no code', async (message, code, subject) => {
  const { code: found, cause } = await failureOf(throwing(message))
  expect(found).toBe(code)
  expect((cause as UpstreamCause).subject).toBe(subject)
  if (subject === undefined) expect(cause).toMatchObject({ status: null, code: 'no_binding' })
})

test('rejects an object that is nested too deeply to serialise', async () => {
  const depth = 200_000
  const body = `{"response":${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}}`
  const failure = await failureOf(() => new Response(body))
  expect(failure).toMatchObject({ code: 'upstream_bad_response', cause: { code: null } })
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
  expect((await ask(ai, controller.signal)).error).toEqual(new Error('left'))
  expect(runs[0]?.options.signal.aborted).toBe(true)
})

test('is unavailable without a binding', async () => {
  const { send } = connectionTo('ai', null, { wire: 'workers-ai' })
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
  const lent = { ai, fetch, now: () => 0, operatorToken: '', turnstileSecret: '' }
  const { miss } = compose(result, lent as Partial<Platform> as Platform)
  const context = miss?.generate(work, false, AbortSignal.timeout(1000))
  const connection = context?.route.connections.get('ai')
  const body = JSON.stringify({ model: '@cf/x' })
  await connection?.send(new Request(`${connection.baseUrl}/run`, { method: 'POST', body }))
  expect(runs).toMatchObject([{ model: '@cf/x' }])
})

describe('a request to Workers AI', () => {
  const config = {
    upstreams: [{ name: 'ai', preset: 'workers-ai' }],
    models: [{ id: 'default', upstream: 'ai', upstream_model: '@cf/x' }],
  }
  const usage = { prompt_tokens: 9, completion_tokens: 16, total_tokens: 25 }

  test.each([
    [{ max_tokens: 16 }, 'One\nuser: Two', 'length'],
    [{ max_tokens: 17 }, 'One\nuser: Two', 'stop'],
    // The AI SDK's completion models always send a stop sequence.
    [{ max_tokens: 16, stop: ['\nuser:'] }, 'One', 'stop'],
  ])('with %j is answered with %j, "%s"', async (fields, text, finish_reason) => {
    const app = new TestApp({
      config,
      upstream: () => Response.json({ response: 'One\nuser: Two', usage }),
    })
    const reply = await app.post({ prompt: 'p', ...fields })
    expect(completionOf(reply).choices).toMatchObject([{ text, finish_reason }])
    expect(await app.calls[0]?.json()).not.toHaveProperty('stop')
  })
})
