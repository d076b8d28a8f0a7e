// wrangler.toml as shipped, in workerd: the demo model supports everything the endpoint offers,
// without an account, a key or a network.
import { beforeAll, describe, expect, test } from 'vitest'
import {
  completionOf,
  expectPlainHeaders,
  expectProblem,
  requestEvent,
  streamOf,
} from '../support/answers.ts'
import { type Client, HOST } from '../support/client.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers } from '../support/workerd.ts'

const suite = workerSuite()
let workers: Workers
let client: Client

const OWN = `http://${HOST}`
const own = { origin: OWN }
beforeAll(async () => {
  // No secrets at all.
  workers = await suite.share({ secrets: {} })
  client = workers.client()
})

describe('POST /v1/completions', () => {
  test('needs only a prompt', async () => {
    const reply = await client.complete({ prompt: 'Alice was' }, own)
    const { choices, usage, model } = completionOf(reply)
    expect(choices).toHaveLength(1)
    expect(choices[0]?.text.trim()).not.toBe('')
    expect(usage.total_tokens).toBe(usage.prompt_tokens + usage.completion_tokens)
    expect(model).toBe('demo')
    expect(reply.headers['x-usage-estimated']).toBeUndefined()
    expect(await requestEvent(reply, workers.log)).toMatchObject({
      event: 'request',
      route: 'completions',
      status: 200,
      code: null,
      cache: 'miss',
      model: 'default',
      upstream: 'demo',
      attempts: 1,
      tokens_in: usage.prompt_tokens,
      tokens_out: usage.completion_tokens,
      origin: OWN,
    })
  })

  test('caches its answer, also for a GET', async () => {
    const body = { prompt: 'The White Rabbit', max_tokens: 12 }
    const first = completionOf(await client.complete(body, own))
    const path = '/v1/completions?prompt=The+White+Rabbit&max_tokens=12'
    const got = await client.send({ path, headers: own })
    expect(completionOf(got)).toEqual(first)
    expect(got.headers['cache-control']).toMatch(/^public, max-age=\d+$/)
    const etag = String(got.headers['etag'])
    const unchanged = await client.send({ path, headers: { ...own, 'if-none-match': etag } })
    expect([unchanged.status, unchanged.text]).toEqual([304, ''])
  })

  test('streams words one by one, up to max_tokens, with usage if requested', async () => {
    const body = {
      prompt: 'Alice',
      max_tokens: 3,
      temperature: 0,
      stream: true,
      stream_options: { include_usage: true },
    }
    const stream = streamOf(await client.complete(body, own))
    expect(stream).toMatchObject({ done: true, problem: null })
    expect(stream.chunks.length).toBeGreaterThan(3)
    expect([stream.usage?.completion_tokens, stream.finish()]).toEqual([3, 'length'])
  })

  test('echoes the prompt and gives logprobs in the legacy shape', async () => {
    const prompt = 'Alice'
    const body = { prompt, max_tokens: 5, echo: true, logprobs: 2 }
    const [choice] = completionOf(await client.complete(body, own)).choices
    expect(choice?.text.startsWith(prompt)).toBe(true)
    expect(choice?.logprobs?.tokens.join('')).toBe(choice?.text)
    expect(choice?.logprobs?.text_offset[0]).toBe(0)
    expect(choice?.logprobs?.token_logprobs).toHaveLength(choice?.logprobs?.tokens.length ?? -1)
    expect(choice?.logprobs?.top_logprobs).toHaveLength(choice?.logprobs?.tokens.length ?? -1)
  })

  test("answers several prompts in order, and n up to the owner's limit", async () => {
    const prompt = ['Alice', 'The Rabbit']
    const body = { prompt, max_tokens: 4, echo: true }
    const { choices } = completionOf(await client.complete(body, own))
    expect(choices.map(({ index }) => index)).toEqual([0, 1])
    expect(choices.map(({ text }, i) => text.startsWith(String(prompt[i])))).toEqual([true, true])
    completionOf(await client.complete({ prompt: 'a', n: 1, max_tokens: 1 }, own))
    const many = await client.complete({ prompt: 'a', n: 2 }, own)
    expect((await expectProblem(many, 400, 'invalid_value', workers.log, OWN)).param).toBe('n')
  })

  test('rejects a field that the demo model does not support', async () => {
    const reply = await client.complete({ prompt: 'a', suffix: 'end' }, own)
    const problem = await expectProblem(reply, 400, 'unsupported_by_upstream', workers.log, OWN)
    expect(problem.param).toBe('suffix')
  })
})

test('the demo sums up a marked page, and tells a story of its hero', async () => {
  const mark = `page-${'0'.repeat(24)}`
  const prompt = `Sum up:\n\n<${mark}>\nA kettle boils. It is warm.\n</${mark}>\n\nSummary:`
  const summary = completionOf(await client.complete({ prompt, max_tokens: 20 }, own))
  expect(summary.choices[0]).toMatchObject({
    text: 'A kettle boils. It is warm.',
    finish_reason: 'stop',
  })
  const story = { id: 'story', variables: { hero: 'Ada' } }
  const told = completionOf(await client.complete({ prompt: story }, own))
  expect(told.choices[0]?.text).toContain('Ada')
})

test('GET /v1/models lists the only model and retrieves it', async () => {
  const list = await client.send({ path: '/v1/models', headers: own })
  const model = { id: 'default', object: 'model', created: 0, owned_by: 'demo' }
  expect(JSON.parse(list.text)).toEqual({ object: 'list', data: [model] })
  const one = await client.send({ path: '/v1/models/default', headers: own })
  expect(JSON.parse(one.text)).toEqual(model)
  const none = await client.send({ path: '/v1/models/gpt-x', headers: own })
  await expectProblem(none, 404, 'model_not_found', workers.log, OWN)
  for (const reply of [list, one]) {
    expect(reply.headers['cache-control']).toBe('no-store')
    expectPlainHeaders(reply, OWN)
  }
})

test('GET /v1/prompts lists the example prompts without their texts', async () => {
  const reply = await client.send({ path: '/v1/prompts', headers: own })
  const page = { from: 'url', paths: ['/', '/docs/*'], max_chars: 8000 }
  const passages = { from: 'site', about: 'question', count: 6, max_chars: 6000 }
  const prompt = { object: 'prompt', visitor_may_set: [] }
  expect(JSON.parse(reply.text)).toEqual({
    object: 'list',
    data: [
      { ...prompt, id: 'story', variables: { hero: { max_chars: 40 } } },
      { ...prompt, id: 'summary', variables: { page } },
      { ...prompt, id: 'ask', variables: { question: { max_chars: 300 }, passages } },
    ],
  })
  expect(reply.headers['cache-control']).toBe('no-store')
})

test('GET /health is ok for everybody', async () => {
  for (const origin of [OWN, 'https://monitor.example', null]) {
    const reply = await client.send({ path: '/health', headers: { origin } })
    expect([reply.status, JSON.parse(reply.text).status]).toEqual([200, 'ok'])
    expect(reply.headers['cache-control']).toBe('no-store')
  }
})

test('pages on this machine, and no others, may call it on this machine', async () => {
  const host = `localhost:${workers.url.port}`
  for (const origin of ['http://localhost:4000', 'http://127.0.0.1:4000', `http://${host}`]) {
    const reply = await client.complete({ prompt: 'a', max_tokens: 1 }, { host, origin })
    completionOf(reply)
    expectPlainHeaders(reply, origin)
  }
  const origin = 'https://evil.example'
  const foreign = await client.complete({ prompt: 'a' }, { host, origin })
  await expectProblem(foreign, 403, 'origin_not_allowed', workers.log, origin)
})
