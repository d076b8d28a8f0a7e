// Servers of models that others wrote, as upstreams with the presets for them: the Worker must return
// what they answer, and each preset must be right about what its server cannot do.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Completion } from '../../src/completion/completion.ts'
import { messages } from '../../src/errors.ts'
import { presets } from '../../src/upstream/presets.ts'
import { completionOf, expectProblem, parseStream, streamOf } from '../support/answers.ts'
import { ORIGIN } from '../support/client.ts'
import { shapes } from '../support/shapes.ts'
import { countStored } from '../support/stored.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers } from '../support/workerd.ts'
import { type ModelServer, startLlamaCpp, startTransformers } from './model-servers.ts'

type Table = Readonly<Record<string, unknown>>

/** A completion or a chat completion. */
interface Answer {
  readonly choices: readonly {
    readonly text?: string
    readonly message?: { readonly content: string }
    readonly finish_reason: string
    readonly logprobs?: { readonly content?: readonly { token: string; logprob: number }[] } | null
  }[]
  readonly usage: Completion['usage']
}

const servers = [
  { name: 'llama.cpp, build 10434', preset: 'llamacpp', start: startLlamaCpp },
  { name: 'transformers 5.24.0', preset: 'transformers', start: startTransformers },
] as const

const QUESTION = 'Hello there'
const COMPLETIONS = '/v1/completions'
const CHAT = '/v1/chat/completions'
const chatOf = (text: string) => ({ messages: [{ role: 'user', content: text }] })
/** The text of its first choice; undefined if it is an error. */
const textIn = ({ choices }: Partial<Answer>) =>
  choices?.[0]?.text ?? choices?.[0]?.message?.content
/** Not random. */
const sure = { max_tokens: 12, temperature: 0 }

const suite = workerSuite()

describe.each(servers)('$name', ({ preset, start }) => {
  const unsupported: readonly string[] = presets[preset]?.unsupported ?? []
  const isSupported = (feature: string) => !unsupported.includes(feature)
  let server: ModelServer
  let workers: Workers

  beforeAll(async () => {
    server = await start()
    workers = await suite.share({
      config: {
        origins: [ORIGIN],
        free_prompts: true,
        models: [
          { id: 'm', upstream: 'u', upstream_model: server.model },
          { id: 'absent', upstream: 'u', upstream_model: 'absent' },
        ],
        upstreams: [{ name: 'u', preset, base_url: `${server.origin}/v1`, retries: 0 }],
        limits: { prompt_chars: 20_000, max_tokens: 3000, n: 8 },
        budget: { tokens_per_day: 1e9, tokens_per_visitor_per_day: 1e9 },
      },
    })
  })

  afterAll(() => server?.kill())

  /** The server's own answer. */
  async function direct(path: string, body: Table): Promise<{ status: number; answer: Answer }> {
    const response = await fetch(server.origin + path, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model: server.model, ...body }),
    })
    return { status: response.status, answer: (await response.json()) as Answer }
  }

  const worker = (path: string, body: Table, headers = {}) =>
    workers.client().send({ method: 'POST', path, headers, body: { model: 'm', ...body } })

  describe.each([
    [COMPLETIONS, { prompt: QUESTION }],
    [CHAT, chatOf(QUESTION)],
  ])('%s', (path, question) => {
    const inPath = shapes.filter((shape) => shape.path === path && shape.form !== 'text')

    test('the first answer has the text, the usage and the reason of the server', async () => {
      const { answer } = await direct(path, { ...question, ...sure })
      const reply = await worker(path, { ...question, ...sure })
      expect(reply.status, reply.text).toBe(200)
      const body = JSON.parse(reply.text)
      const { prompt_tokens, completion_tokens, total_tokens } = answer.usage
      expect(body).toMatchObject({
        model: server.model,
        choices: [{ finish_reason: 'length' }],
        usage: { prompt_tokens, completion_tokens, total_tokens },
      })
      expect(completion_tokens).toBe(sure.max_tokens)
      expect(textIn(body)).toBe(textIn(answer))
    })

    test.each(inPath)('the same request is a hit: $name', async ({ form, read }) => {
      const first = await worker(path, { ...question, ...sure })
      const stream = form === 'events' ? { stream: true } : {}
      const reply = await worker(path, { ...question, ...sure, ...stream })
      expect(reply.headers['cache-status']).toContain('hit')
      const { text, finish, done } = await read(reply.text)
      expect({ text, finish, done }).toEqual({
        text: textIn(JSON.parse(first.text)),
        finish: 'length',
        done: true,
      })
    })

    test.each(inPath)('a miss has the text of the server: $name', async ({ form, read, name }) => {
      const other = path === CHAT ? chatOf(name) : { prompt: name }
      const stream = form === 'events' ? { stream: true } : {}
      const reply = await worker(path, { ...other, ...sure, ...stream })
      expect(reply.headers['cache-status']).toContain('fwd=miss')
      const { answer } = await direct(path, { ...other, ...sure })
      const { text } = await read(reply.text)
      expect(text).toBe(textIn(answer))
    })

    test('a text ends before a stop sequence', async () => {
      const { answer } = await direct(path, { ...question, ...sure })
      const whole = textIn(answer) ?? ''
      const stop = whole.slice(7, 9)
      const ended = { text: whole.slice(0, whole.indexOf(stop)), finish: 'stop', done: true }
      for (const { form, read } of inPath) {
        const stream = form === 'events' ? { stream: true } : {}
        const reply = await worker(path, { ...question, ...sure, stop, ...stream })
        const { text, finish, done } = await read(reply.text)
        expect({ text, finish, done }).toEqual(ended)
      }
    })
  })

  test('usage in a stream is that of the answer', async () => {
    const body = { prompt: 'A stream', ...sure, stream: true }
    const reply = await worker(COMPLETIONS, { ...body, stream_options: { include_usage: true } })
    const { answer } = await direct(COMPLETIONS, { prompt: 'A stream', ...sure })
    const { prompt_tokens, completion_tokens, total_tokens } = answer.usage
    expect(streamOf(reply).usage).toEqual({ prompt_tokens, completion_tokens, total_tokens })
  })

  test.each([2, 5])('%i choices differ, and each is counted', async (n) => {
    const body = { prompt: QUESTION, max_tokens: 12, temperature: 1, n }
    const { choices, usage } = completionOf(await worker(COMPLETIONS, body))
    expect(choices.map(({ index }) => index)).toEqual(choices.map((_, i) => i))
    expect(new Set(choices.map(({ text }) => text)).size).toBe(n)
    expect(usage.completion_tokens).toBe(n * 12)
  })

  /** Asks the server or the Worker. */
  type Ask = (body: Table, path?: string) => Promise<{ status: number; answer: Answer }>
  const textOf = async (ask: Ask, fields: Table) =>
    textIn((await ask({ prompt: QUESTION, ...sure, ...fields })).answer)
  const isChanged = (fields: Table) => async (ask: Ask) =>
    (await textOf(ask, fields)) !== (await textOf(ask, {}))
  const schema = { type: 'object', properties: { a: { type: 'boolean' } }, required: ['a'] }
  const isJson = (response_format: Table) => async (ask: Ask) => {
    const body = { ...chatOf('JSON'), max_tokens: 60, temperature: 0, response_format }
    const { answer } = await ask(body, CHAT)
    return /^\s*\{/.test(textIn(answer) ?? '')
  }
  /** Whether a field has its effect. */
  const effects: [string, (ask: Ask) => Promise<boolean>][] = [
    ['presence_penalty', isChanged({ presence_penalty: 2 })],
    ['frequency_penalty', isChanged({ frequency_penalty: 2 })],
    ['logit_bias', isChanged({ logit_bias: { 77: 100 } })],
    ['top_p', isChanged({ temperature: 2, top_p: 0.9 })],
    [
      'seed',
      async (ask) => {
        const random = { temperature: 1 }
        const first = await textOf(ask, { ...random, seed: 1 })
        const again = await textOf(ask, { ...random, seed: 1 })
        const other = await textOf(ask, { ...random, seed: 2 })
        return first !== undefined && first === again && first !== other
      },
    ],
    [
      'logprobs',
      async (ask) => {
        const { answer } = await ask({ prompt: QUESTION, ...sure, logprobs: 2 })
        return Boolean(answer.choices?.[0]?.logprobs)
      },
    ],
    [
      'token_prompts',
      async (ask) => {
        const { status } = await ask({ prompt: [70, 71, 72], ...sure })
        return status === 200
      },
    ],
    ['json_object', isJson({ type: 'json_object' })],
    ['json_schema', isJson({ type: 'json_schema', json_schema: { name: 'a', schema } })],
  ]

  const throughWorker: Ask = async (body, path = COMPLETIONS) => {
    const { status, text } = await worker(path, body, { 'cache-control': 'no-store' })
    return { status, answer: JSON.parse(text) }
  }

  test.each(effects)('%s: the preset is right about the server', async (feature, hasEffect) => {
    const expected = isSupported(feature)
    const straight: Ask = (body, path = COMPLETIONS) => direct(path, body)
    expect(await hasEffect(straight)).toBe(expected)
    if (expected) expect(await hasEffect(throughWorker)).toBe(true)
  })

  test('log probabilities are those of the server, and an echo is the prompt', async () => {
    const asked = { prompt: QUESTION, ...sure, ...(isSupported('logprobs') ? { logprobs: 2 } : {}) }
    const { answer } = await direct(COMPLETIONS, asked)
    const [choice] = completionOf(await worker(COMPLETIONS, asked)).choices
    const scored = (answer.choices[0]?.logprobs?.content ?? []).map(({ token, logprob }) => {
      return [token, logprob]
    })
    const { tokens = [], token_logprobs = [] } = choice?.logprobs ?? {}
    expect(tokens.map((token, i) => [token, token_logprobs[i]])).toEqual(scored)
    expect(scored).toHaveLength(isSupported('logprobs') ? sure.max_tokens : 0)
    const echoed = await worker(COMPLETIONS, { prompt: QUESTION, ...sure, echo: true })
    expect(completionOf(echoed).choices[0]?.text).toBe(QUESTION + textIn(answer))
  })

  test('a prompt that exceeds the context', async () => {
    const body = { prompt: 'long '.repeat(1000), ...sure }
    const { status } = await direct(COMPLETIONS, body)
    const reply = await worker(COMPLETIONS, body)
    // transformers warns in its log only.
    if (status === 200) return expect(reply.status).toBe(200)
    const { message } = await expectProblem(reply, 400, 'upstream_refused_request', workers.log)
    expect(message).toBe(messages.upstream_refused_length)
    expect(workers.log.all('upstream_failed').at(-1)?.hint).toContain('limits.prompt_chars')
  })

  test('a model that the server does not have', async () => {
    const reply = await worker(COMPLETIONS, { prompt: QUESTION, ...sure, model: 'absent' })
    const { status } = await direct(COMPLETIONS, { prompt: QUESTION, ...sure, model: 'absent' })
    // llama.cpp has one model, under every name.
    if (status === 200) return expect(reply.status).toBe(200)
    await expectProblem(reply, 502, 'upstream_rejected', workers.log)
    expect(workers.log.all('upstream_failed').at(-1)?.hint).toContain('Check upstream_model')
  })

  // The last one: the server is gone.
  test('a server that dies in the middle of a stream', async () => {
    const body = { prompt: 'Go on', max_tokens: 3000, temperature: 1, stream: true }
    const stored = await countStored(workers, 'm')
    const incoming = await workers.client().open({ method: 'POST', body: { model: 'm', ...body } })
    await incoming.until('"text":"')
    await server.kill()
    const { problem, done } = parseStream(await incoming.rest())
    expect({ code: problem?.code, done }).toEqual({ code: 'upstream_truncated', done: false })
    expect(await countStored(workers, 'm')).toBe(stored)
    const failed = await worker(COMPLETIONS, { prompt: 'Go on', ...sure })
    await expectProblem(failed, 502, 'upstream_unavailable', workers.log)
    expect(workers.log.all('upstream_failed').map(({ hint }) => hint)).toEqual(
      expect.arrayContaining([
        expect.stringContaining('stopped before the end'),
        expect.stringContaining('No server answers'),
      ]),
    )
  })
})
