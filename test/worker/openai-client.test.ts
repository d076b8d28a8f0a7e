// The `openai` package against the Worker in workerd: its requests are accepted, it can read the
// answers on a miss and on a hit, and its typed errors carry our code, type and param.
import OpenAI, {
  APIError,
  APIUserAbortError,
  BadRequestError,
  InternalServerError,
  NotFoundError,
  RateLimitError,
} from 'openai'
import { beforeAll, describe, expect, test } from 'vitest'
import { CANARY } from '../support/canary.ts'
import { newAddress, ORIGIN, recordedFetch } from '../support/client.ts'
import { Lanes } from '../support/lanes.ts'
import { chatStream, completionsStream, event, refusal, USAGE } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers } from '../support/workerd.ts'

const kinds = {
  chat: { retries: 0 },
  legacy: { retries: 0, wire: 'completions' },
  impatient: { retries: 0, first_byte_ms: 150, idle_ms: 150 },
}

const suite = workerSuite()
const lanes = new Lanes(suite, kinds, 30)
let workers: Workers
let misconfigured: Workers

beforeAll(async () => {
  ;[workers, misconfigured] = await Promise.all([
    suite.share({ config: lanes.config({ limits: { n: 4 } }) }),
    suite.share({ secrets: {}, config: lanes.config() }),
  ])
})

/** Creates the client as a program would. The SDK requires an API key. */
function openai({ maxRetries = 0, of = workers } = {}): OpenAI {
  const baseURL = new URL('/v1', of.url).href
  const defaultHeaders = { 'cf-connecting-ip': newAddress() }
  return new OpenAI({
    baseURL,
    apiKey: 'sk-visitor',
    maxRetries,
    defaultHeaders,
    fetch: recordedFetch,
  })
}

async function untilStored(id: string): Promise<void> {
  const values = async () => [...(await workers.kvEntries()).values()].join()
  await expect.poll(values).toContain(id)
}

describe('completions.create', () => {
  test('returns a completion, and the same one from the cache', async () => {
    const { model, lane } = lanes.take('chat')
    lane.answers(chatStream(['Hello', ' there'], { finish: 'length' }))
    const ask = () =>
      openai().completions.create({ model, prompt: 'Say hello', max_tokens: 9, user: 'ada' })
    const { data: miss, response } = await openai()
      .completions.create({ model, prompt: 'Say hello', max_tokens: 9 })
      .withResponse()
    expect(response.headers.get('cache-status')).toContain('fwd=miss')
    expect(miss).toMatchObject({
      object: 'text_completion',
      model: 'upstream-model-1',
      choices: [{ text: 'Hello there', index: 0, finish_reason: 'length', logprobs: null }],
      usage: USAGE,
    })
    expect(miss).toHaveProperty('_request_id', response.headers.get('x-request-id'))
    await untilStored(miss.id)
    expect(await ask()).toEqual(miss)
    expect(lane.calls).toHaveLength(1)
  })

  test("never passes on the program's key, only the owner's", async () => {
    const { model, lane } = lanes.take('chat')
    lane.answers(chatStream(['x']))
    await openai().completions.create({ model, prompt: 'p' })
    const { headers, text } = await lane.call()
    expect(headers['authorization']).toBe(`Bearer ${CANARY}`)
    expect(JSON.stringify(headers) + text).not.toContain('sk-visitor')
    expect(Object.keys(headers).filter((name) => name.startsWith('x-stainless'))).toEqual([])
  })

  test('streams on a miss and on a hit, with usage if requested', async () => {
    const { model, lane } = lanes.take('legacy')
    lane.answers(completionsStream(['Hello', ' there']))
    const read = async (stream_options: { include_usage: boolean } | null) => {
      const stream = await openai().completions.create({
        model,
        prompt: 'p',
        stream: true,
        stream_options,
      })
      const chunks: OpenAI.Completion[] = []
      for await (const chunk of stream) chunks.push(chunk)
      return chunks
    }
    const miss = await read({ include_usage: true })
    const [{ id } = { id: '' }] = miss
    expect(new Set(miss.map((chunk) => chunk.id))).toEqual(new Set([id]))
    await untilStored(id)
    const hit = await read({ include_usage: true })
    for (const chunks of [miss, hit]) {
      expect(chunks.map(({ choices }) => choices[0]?.text ?? '').join('')).toBe('Hello there')
      expect(chunks.filter(({ choices }) => choices[0]?.finish_reason)).toHaveLength(1)
      expect(chunks.at(-1)).toMatchObject({ id, choices: [], usage: USAGE })
      expect(chunks.slice(0, -1).every(({ usage }) => usage === null)).toBe(true)
    }
    const bare = await read(null)
    expect(bare.every((chunk) => !('usage' in chunk) && chunk.choices.length === 1)).toBe(true)
    expect(lane.calls).toHaveLength(1)
  })

  test('returns n choices for each of several prompts from a chat upstream, in order', async () => {
    const { model, lane } = lanes.take('chat')
    lane.answers(async (call, line) => {
      const [message] = call.body['messages'] as { content: string }[]
      await chatStream([`${message?.content}`, '!'])(call, line)
    })
    const create = () => openai().completions.create({ model, prompt: ['a', 'b'], n: 2 })
    const miss = await create()
    expect(miss.choices.map(({ index, text }) => [index, text])).toEqual([
      [0, 'a!'],
      [1, 'a!'],
      [2, 'b!'],
      [3, 'b!'],
    ])
    expect(miss.usage).toEqual({ prompt_tokens: 20, completion_tokens: 28, total_tokens: 48 })
    expect(lane.calls).toHaveLength(4)
    await untilStored(miss.id)
    expect((await create()).id).toBe(miss.id)
    expect(lane.calls).toHaveLength(4)
  })

  test('returns n choices from one call if the upstream supports n', async () => {
    const { model, lane } = lanes.take('legacy')
    lane.answers((_, line) => {
      line.head(200, { 'content-type': 'text/event-stream' })
      for (const index of [1, 0, 1, 0]) {
        line.write(event({ choices: [{ index, text: `${index}` }] }))
      }
      for (const index of [1, 0]) {
        line.write(event({ choices: [{ index, text: '', finish_reason: 'stop' }] }))
      }
      line.write(event('[DONE]'))
      line.end()
    })
    const { choices } = await openai().completions.create({ model, prompt: 'p', n: 2 })
    expect(choices.map(({ text }) => text)).toEqual(['00', '11'])
    expect((await lane.call()).body['n']).toBe(2)
    expect(lane.calls).toHaveLength(1)
  })

  test("returns a chat upstream's logprobs in the legacy shape", async () => {
    const { model, lane } = lanes.take('chat')
    const token = (text: string, logprob: number) => ({
      token: text,
      logprob,
      bytes: null,
      top_logprobs: [
        { token: text, logprob, bytes: null },
        { token: 'other', logprob: -3, bytes: null },
      ],
    })
    lane.answers((_, line) => {
      line.head(200, { 'content-type': 'text/event-stream' })
      for (const [text, logprob] of [
        ['Hel', -0.25],
        ['lo', -0.5],
      ] as const) {
        const logprobs = { content: [token(text, logprob)] }
        line.write(event({ choices: [{ index: 0, delta: { content: text }, logprobs }] }))
      }
      line.write(event({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] }))
      line.write(event('[DONE]'))
      line.end()
    })
    const create = () => openai().completions.create({ model, prompt: 'p', logprobs: 2 })
    const miss = await create()
    expect(miss.choices[0]?.logprobs).toEqual({
      tokens: ['Hel', 'lo'],
      token_logprobs: [-0.25, -0.5],
      top_logprobs: [
        { Hel: -0.25, other: -3 },
        { lo: -0.5, other: -3 },
      ],
      text_offset: [0, 3],
    })
    expect((await lane.call()).body).toMatchObject({ logprobs: true, top_logprobs: 2 })
    await untilStored(miss.id)
    expect((await create()).choices).toEqual(miss.choices)
  })

  test('lists the models and retrieves one', async () => {
    const ids: string[] = []
    for await (const { id } of openai().models.list()) ids.push(id)
    expect(ids).toContain('chat-0')
    expect(await openai().models.retrieve('chat-0')).toMatchObject({ object: 'model' })
  })
})

/** The error that a call throws, which must be an APIError of the SDK. */
async function thrownBy(call: Promise<unknown>): Promise<APIError> {
  const error = await call.then(
    () => null,
    (reason: unknown) => reason,
  )
  if (error instanceof APIError) return error
  throw new Error(`expected an APIError, got ${error}`)
}

describe('an error response', () => {
  test('for an invalid request is a BadRequestError that names the field', async () => {
    const { model } = lanes.take('chat')
    const error = await thrownBy(
      openai({ maxRetries: 2 }).completions.create({ model, prompt: 'p', temperature: 3 }),
    )
    expect(error).toBeInstanceOf(BadRequestError)
    expect(error).toMatchObject({
      status: 400,
      code: 'invalid_value',
      param: 'temperature',
      type: 'invalid_request_error',
    })
    expect(error.requestID).toMatch(/^req_/)
    expect(error.message).toContain('temperature')
  })

  test('for a miss with only-if-cached is a NotFoundError', async () => {
    const { model, lane } = lanes.take('chat')
    const error = await thrownBy(
      openai().completions.create(
        { model, prompt: 'p' },
        { headers: { 'cache-control': 'only-if-cached' } },
      ),
    )
    expect(error).toBeInstanceOf(NotFoundError)
    expect(error.code).toBe('not_cached')
    expect(lane.calls).toEqual([])
  })

  test.each([
    [400, BadRequestError, 400, 'upstream_refused_request', 'invalid_request_error'],
    [401, InternalServerError, 502, 'upstream_rejected', 'api_error'],
    [429, RateLimitError, 429, 'upstream_rate_limited', 'rate_limit_error'],
    [500, InternalServerError, 502, 'upstream_unavailable', 'api_error'],
  ])(
    'for upstream status %i has a type, streaming or not',
    async (from, kind, status, code, type) => {
      for (const stream of [false, true]) {
        const { model, lane } = lanes.take('chat')
        lane.answers(refusal(from, { error: { message: CANARY } }, { 'retry-after': '7' }))
        const error = await thrownBy(openai().completions.create({ model, prompt: 'p', stream }))
        expect(error).toBeInstanceOf(kind)
        expect(error).toMatchObject({ status, code, type, param: null })
        if (status === 429) expect(error.headers?.get('retry-after')).toBe('7')
        expect(lane.calls).toHaveLength(1)
      }
    },
  )

  test('for a broken configuration is a 503', async () => {
    const client = openai({ of: misconfigured })
    const error = await thrownBy(client.completions.create({ model: 'chat-0', prompt: 'p' }))
    expect(error).toBeInstanceOf(InternalServerError)
    expect(error).toMatchObject({ status: 503, code: 'misconfigured' })
    // Only the owner can fix it, so the SDK should not retry.
    expect(error.headers?.get('x-should-retry')).toBe('false')
  })

  test('has an x-should-retry header that pages can read', async () => {
    const { model, lane } = lanes.take('chat')
    lane.answers(refusal(403), refusal(500))
    const ask = () =>
      openai().completions.create({ model, prompt: 'p' }, { headers: { origin: ORIGIN } })
    const rejected = await thrownBy(ask())
    expect(rejected.headers?.get('x-should-retry')).toBe('false')
    expect(rejected.headers?.get('access-control-expose-headers')).toContain('X-Should-Retry')
    const down = await thrownBy(ask())
    expect(down.headers?.get('x-should-retry')).toBeNull()
  })

  test('for a timeout is a 504', async () => {
    const { model, lane } = lanes.take('impatient')
    lane.answers(() => {})
    const error = await thrownBy(openai().completions.create({ model, prompt: 'p', stream: true }))
    expect(error).toBeInstanceOf(InternalServerError)
    expect(error).toMatchObject({ status: 504, code: 'upstream_timeout' })
  })

  test('in the middle of a stream throws after the words received', async () => {
    const { model, lane } = lanes.take('legacy')
    lane.answers(completionsStream(['one', 'two'], { finish: null, done: false, usage: null }))
    const stream = await openai().completions.create({ model, prompt: 'p', stream: true })
    let text = ''
    const error = await thrownBy(
      (async () => {
        for await (const { choices } of stream) text += choices[0]?.text ?? ''
      })(),
    )
    expect(text).toBe('onetwo')
    expect(error).toMatchObject({ code: 'upstream_truncated', type: 'api_error' })
  })

  test('is retried by the SDK where useful: a 429 after Retry-After, a 400 never', async () => {
    const limited = lanes.take('chat')
    limited.lane.answers(refusal(429, {}, { 'retry-after': '1' }), chatStream(['fine']))
    const startedAt = performance.now()
    const { choices } = await openai({ maxRetries: 1 }).completions.create({
      model: limited.model,
      prompt: 'p',
    })
    expect(choices[0]?.text).toBe('fine')
    expect(performance.now() - startedAt).toBeGreaterThan(900)
    expect(limited.lane.calls).toHaveLength(2)

    const refused = lanes.take('chat')
    refused.lane.answers(refusal(400))
    const client = openai({ maxRetries: 2 })
    await thrownBy(client.completions.create({ model: refused.model, prompt: 'p' }))
    expect(refused.lane.calls).toHaveLength(1)
  })
})

describe('an aborted request', () => {
  test('for a stream ends the upstream call if nobody else uses it', async () => {
    const { model, lane } = lanes.take('legacy')
    lane.answers(async (call, line) => {
      line.head(200, { 'content-type': 'text/event-stream' })
      while (!call.left) {
        line.write(event({ choices: [{ index: 0, text: 'word ' }] }))
        await Promise.race([new Promise((resolve) => setTimeout(resolve, 20)), call.closed])
      }
    })
    const stream = await openai().completions.create(
      { model, prompt: 'p', stream: true },
      { headers: { 'cache-control': 'no-store' } },
    )
    for await (const { choices } of stream) {
      expect(choices[0]?.text).toBe('word ')
      break
    }
    const call = await lane.call()
    await call.closed
    expect(call.left).toBe(true)
  })

  test('before an answer throws an APIUserAbortError', async () => {
    const { model, lane } = lanes.take('impatient')
    lane.answers(() => {})
    const controller = new AbortController()
    const answer = openai().completions.create(
      { model, prompt: 'p' },
      { signal: controller.signal, headers: { 'cache-control': 'no-store' } },
    )
    const call = await lane.call()
    controller.abort()
    expect(await thrownBy(answer)).toBeInstanceOf(APIUserAbortError)
    await call.closed
  })
})
