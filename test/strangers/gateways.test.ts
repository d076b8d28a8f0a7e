// Gateways that others wrote, between the Worker and a model: what the model says arrives, and what
// fails is an error of ours. They are real programs; only the model is a script.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Code } from '../../src/errors.ts'
import { completionOf, expectProblem, streamOf } from '../support/answers.ts'
import { CANARY } from '../support/canary.ts'
import { type Client, ORIGIN, type Reply } from '../support/client.ts'
import { requestOf, shapes } from '../support/shapes.ts'
import { countStored } from '../support/stored.ts'
import {
  chatStream,
  event,
  json,
  refusal,
  type Script,
  type UpstreamCall,
  USAGE,
} from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers } from '../support/workerd.ts'
import { type OtherGateway, startLitellm, startOneApi } from './gateways.ts'
import { demo } from './worker.ts'

/** What the model's errors say. No visitor may read it. */
const SECRET_WORDS = 'words of the model server'

/** What the model says to a question, in pieces: white space, an emoji, and quotes are worth a look. */
const piecesFor = (question: string) => [' You', ' asked:', ` "${question}"`, '\n\n', 'Ça va 🦊']
const answerTo = (question: string) => piecesFor(question).join('')

const questionOf = ({ body }: UpstreamCall) => {
  const messages = body['messages'] as { readonly content: string }[]
  return messages.at(-1)?.content ?? ''
}

const whole: Script = (call, line) => {
  const question = questionOf(call)
  if (call.body['stream'] === true) return chatStream(piecesFor(question))(call, line)
  const message = { role: 'assistant', content: answerTo(question) }
  const choices = [{ index: 0, message, finish_reason: 'stop' }]
  const head = { id: 'id', object: 'chat.completion', created: 1, model: 'whole' }
  return json({ ...head, choices, usage: USAGE })(call, line)
}

const logprobs: Script = (_, line) => {
  const said = [
    [' red', -0.25],
    [' fox', -0.5],
  ] as const
  const chunk = { id: 'id', object: 'chat.completion.chunk', created: 1, model: 'logprobs' }
  line.head(200, { 'content-type': 'text/event-stream' })
  for (const [token, logprob] of said) {
    const bytes = [...Buffer.from(token)]
    const top_logprobs = [{ token, logprob, bytes }]
    const content = [{ token, logprob, bytes, top_logprobs }]
    const choice = { index: 0, delta: { content: token }, logprobs: { content } }
    line.write(event({ ...chunk, choices: [{ ...choice, finish_reason: null }] }))
  }
  line.write(event({ ...chunk, choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] }))
  line.write(event({ ...chunk, choices: [], usage: USAGE }))
  line.write(event('[DONE]'))
  line.end()
}

const cut: Script = async (_, line) => {
  const chunk = { id: 'id', object: 'chat.completion.chunk', created: 1, model: 'cut' }
  line.head(200, { 'content-type': 'text/event-stream', 'transfer-encoding': 'chunked' })
  for (const content of ['Once', ' upon'])
    line.chunk(
      event({ ...chunk, choices: [{ index: 0, delta: { content }, finish_reason: null }] }),
    )
  await line.flushed()
  line.reset()
}

const error = { message: SECRET_WORDS, type: 'server_error', code: null }
const models: Readonly<Record<string, Script>> = {
  whole,
  logprobs,
  cut,
  limited: refusal(429, { error }, { 'retry-after': '17' }),
  broken: refusal(500, { error }),
}

const suite = workerSuite()

interface ChunkChoice {
  readonly delta?: { readonly content?: string | null }
}

/** one-api does not pass on Retry-After, so that it is ours, and calls an unknown model unavailable. */
describe.each([
  ['litellm', startLitellm, '17', 'upstream_rejected'],
  ['one-api', startOneApi, '10', 'upstream_unavailable'],
] as const)('%s', (preset, start, retryAfter, missing) => {
  let gateway: OtherGateway
  let workers: Workers
  let client: Client
  let demoClient: Client
  const lane = () => suite.upstream.lane(preset)

  beforeAll(async () => {
    lane().answers((call, line) => models[String(call.body['model'])]?.(call, line))
    const baseUrl = `${suite.upstream.url(preset)}/v1`
    const ours = await suite.share(demo)
    demoClient = ours.client()
    gateway = await start([
      { baseUrl, key: CANARY, models: Object.keys(models) },
      { baseUrl: `${ours.url.origin}/v1`, key: 'none', models: ['default'] },
    ])
    const ids = [...Object.keys(models), 'missing', 'wrong-key']
    workers = await suite.share({
      config: {
        origins: [ORIGIN],
        free_prompts: true,
        limits: { n: 2 },
        models: ids.map((id) => ({ id, upstream: id, upstream_model: id })),
        upstreams: ids.map((name) => ({
          name,
          preset,
          base_url: gateway.baseUrl,
          key: name === 'wrong-key' ? 'WRONG_KEY' : 'GATEWAY_KEY',
          retries: 0,
        })),
        budget: { tokens_per_day: 1e9, tokens_per_visitor_per_day: 1e9 },
      },
      secrets: { GATEWAY_KEY: gateway.key, WRONG_KEY: `${gateway.key.slice(0, -4)}0000` },
    })
    client = workers.client()
    // Building one-api takes some minutes, most of them for its dependencies.
  }, 900_000)

  afterAll(() => gateway?.stop())

  const callsOf = (model: string) => lane().calls.filter(({ body }) => body['model'] === model)

  test.each(shapes)('$name: the text is what the model said, and then a hit', async (shape) => {
    const question = `Who asks for ${shape.name}?`
    const before = callsOf('whole').length
    for (const from of ['fwd=', 'hit']) {
      const reply = await client.send(requestOf(shape, question, 'whole'))
      expect(reply.status, reply.text).toBe(200)
      expect(reply.headers['cache-status']).toContain(from)
      expect((await shape.read(reply.text)).text).toBe(answerTo(question))
      expect(callsOf('whole')).toHaveLength(before + 1)
    }
  })

  test('a stream arrives in the pieces of the model', async () => {
    const reply = await client.complete({ prompt: 'Pieces?', model: 'whole', stream: true })
    const texts = streamOf(reply).chunks.map(({ choices }) => choices[0]?.text)
    expect(texts.filter((text) => text !== '')).toEqual(piecesFor('Pieces?'))
  })

  test('fields reach the model, and each of several choices is counted', async () => {
    const before = callsOf('whole').length
    const body = {
      prompt: 'Fields?',
      model: 'whole',
      n: 2,
      stop: ['END'],
      temperature: 0.5,
      seed: 7,
    }
    const { choices, usage } = completionOf(await client.complete(body))
    expect(choices.map(({ text }) => text)).toEqual([answerTo('Fields?'), answerTo('Fields?')])
    expect(usage).toEqual({ prompt_tokens: 10, completion_tokens: 14, total_tokens: 24 })
    const calls = callsOf('whole').slice(before)
    expect(calls).toHaveLength(2)
    for (const call of calls) expect(call.body).toMatchObject({ stop: ['END'], temperature: 0.5 })
    expect(calls.map((call) => call.body['seed']).toSorted()).toEqual([7, 8])
  })

  test('log probabilities and echo', async () => {
    const said = await client.complete({ prompt: 'Animal?', model: 'logprobs', logprobs: 1 })
    expect(completionOf(said).choices[0]?.logprobs).toEqual({
      tokens: [' red', ' fox'],
      token_logprobs: [-0.25, -0.5],
      top_logprobs: [{ ' red': -0.25 }, { ' fox': -0.5 }],
      text_offset: [0, 4],
    })
    const echo = await client.complete({ prompt: 'Echo?', model: 'whole', echo: true })
    expect(completionOf(echo).choices[0]?.text).toBe(`Echo?${answerTo('Echo?')}`)
  })

  test.each<[string, string, Code, number, RegExp]>([
    ['a wrong key', 'wrong-key', 'upstream_rejected', 502, /^Check the upstream's key/],
    ['a model it does not have', 'missing', missing, 502, /^Check upstream_model/],
    ['a limit of the model server', 'limited', 'upstream_rate_limited', 429, /./],
    ['a failure of the model server', 'broken', 'upstream_unavailable', 502, /./],
  ])('%s is an error of ours, with a hint', async (_, model, code, status, hint) => {
    for (const stream of [false, true]) {
      const reply = await client.complete({ prompt: 'Hi', model, stream })
      await expectProblem(reply, status, code, workers.log)
      expectNothingLeaked(reply)
      const [failure] = workers.log.all('upstream_failed', reply.headers['x-request-id'])
      expect(failure?.hint).toMatch(hint)
      if (model === 'limited') expect(reply.headers['retry-after']).toBe(retryAfter)
    }
    expect(await countStored(workers, model)).toBe(0)
  })

  test('a stream that the model cuts off is not stored', async () => {
    const reply = await client.complete({ prompt: 'Hi', model: 'cut', stream: true })
    const id = reply.headers['x-request-id']
    expectNothingLeaked(reply)
    const { text, problem } = streamOf(reply)
    expect(text()).toBe('Once upon')
    // one-api ends it like a whole one, but without a finish reason and the usage.
    const doubts = workers.log.all('answer_not_stored', id).map(({ reason }) => reason)
    const found = preset === 'litellm' ? 'upstream_unavailable' : 'no_reason'
    expect([problem?.code, ...doubts]).toContain(found)
    expect(await countStored(workers, 'cut')).toBe(0)
  })

  function expectNothingLeaked({ text, headers }: Reply): void {
    const all = text + JSON.stringify(headers)
    for (const secret of [SECRET_WORDS, gateway.key, CANARY]) expect(all).not.toContain(secret)
  }

  test('it serves the Worker, too, whole and streamed', async () => {
    const body = { model: 'default', max_tokens: 24, temperature: 0, seed: 3 }
    const messages = [{ role: 'user', content: 'Alice was' }]
    const ask = async (stream: boolean) => {
      const response = await fetch(`${gateway.baseUrl}/chat/completions`, {
        method: 'POST',
        headers: { authorization: `Bearer ${gateway.key}`, 'content-type': 'application/json' },
        body: JSON.stringify({ ...body, messages, stream }),
      })
      expect(response.status).toBe(200)
      return response.text()
    }
    const sent = { method: 'POST', path: '/v1/chat/completions', body: { ...body, messages } }
    const { choices } = JSON.parse((await demoClient.send(sent)).text)
    const { content } = choices[0].message
    expect(content.length).toBeGreaterThan(20)
    expect(JSON.parse(await ask(false)).choices[0].message.content).toBe(content)
    const deltas = [...(await ask(true)).matchAll(/^data: (\{.*)$/gm)].flatMap(([, data = '']) =>
      JSON.parse(data).choices.map((choice: ChunkChoice) => choice.delta?.content ?? ''),
    )
    expect(deltas.join('')).toBe(content)
  })
})
