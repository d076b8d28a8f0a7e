// The browser client: against the built Worker in workerd, over a scripted network for failures that
// a real one rarely produces, and type-checked as a page would use it.
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import manifest from '../../package.json' with { type: 'json' }
import * as client from '../../src/site/client.js'
import { CANARY } from '../support/canary.ts'
import { newAddress, ORIGIN, recordedFetch } from '../support/client.ts'
import { allBlocks } from '../support/documents.ts'
import { Lanes } from '../support/lanes.ts'
import { passingSiteverify } from '../support/siteverify.ts'
import {
  chatStream,
  completionsStream,
  event,
  latch,
  UpstreamServer,
  USAGE,
} from '../support/upstream-server.ts'
import { startWorkers, type Workers } from '../support/workerd.ts'

const { CompletionError, createClient } = client

/** A request as sent: method, query or body, and the headers that the client set. */
interface SentRequest {
  readonly method: string
  readonly url: URL
  readonly body: Readonly<Record<string, unknown>> | null
  readonly headers: Readonly<Record<string, string>>
}

function sentRequest(input: Parameters<typeof fetch>[0], init: RequestInit = {}): SentRequest {
  const { method = 'GET', body } = init
  return {
    method,
    url: new URL(String(input)),
    body: typeof body === 'string' ? JSON.parse(body) : null,
    headers: Object.fromEntries(new Headers(init.headers)),
  }
}

async function textOf(pieces: AsyncIterable<string>): Promise<string> {
  let text = ''
  for await (const piece of pieces) text += piece
  return text
}

/** The error that the promise rejects with, without its cause and stack. */
async function failureOf(work: Promise<unknown>): Promise<Readonly<Record<string, unknown>>> {
  const error = await work.then(
    () => expect.fail('it did not fail'),
    (reason: unknown) => reason,
  )
  if (!(error instanceof CompletionError)) throw error
  const { name, message, code, status, retryAfter, param } = error
  return { name, message, code, status, retryAfter, param }
}

describe('with the Worker', () => {
  const kinds = { chat: { retries: 0 }, legacy: { retries: 0, wire: 'completions' } }
  let upstream: UpstreamServer
  let lanes: Lanes<keyof typeof kinds>
  let workers: Workers
  let guarded: Workers

  beforeAll(async () => {
    upstream = await UpstreamServer.start()
    lanes = new Lanes({ upstream }, kinds, 20)
    const haiku = {
      text: 'Write a haiku about {{topic}}.',
      variables: { topic: { max_chars: 20 } },
      model: 'chat-19',
      max_tokens: 50,
    }
    ;[workers, guarded] = await Promise.all([
      startWorkers({
        config: lanes.config({
          limits: { n: 2 },
          free_prompts: true,
          prompts: { haiku },
        }),
        secrets: { UPSTREAM_API_KEY: CANARY },
      }),
      startWorkers({
        config: lanes.config({ access: { turnstile_sitekey: '0x4AAA', token_seconds: 600 } }),
        secrets: { UPSTREAM_API_KEY: CANARY, TURNSTILE_SECRET: '0x4BBB' },
        main: passingSiteverify('site.example'),
      }),
    ])
  })

  afterAll(async () => {
    await Promise.all([workers.dispose(), guarded.dispose()])
    await upstream.stop()
  })

  afterEach(() => {
    vi.unstubAllGlobals()
    for (const { log } of [workers, guarded]) {
      expect(log.takeRuntimeLines()).toEqual([])
      expect(log.all('internal')).toEqual([])
    }
  })

  interface Visit {
    readonly of?: Workers
    readonly turnstile?: boolean
    /** What the network makes of a response. */
    readonly received?: (response: Response) => Response
  }

  /** A page of the owner's site, and every request it sends. */
  function page({
    of = workers,
    turnstile = false,
    received = (response) => response,
  }: Visit = {}) {
    const requests: SentRequest[] = []
    const address = newAddress()
    const client = createClient({
      endpoint: of.url,
      ...(turnstile ? { turnstile: { sitekey: '0x4AAA' } } : {}),
      fetch: async (input, init) => {
        requests.push(sentRequest(input, init))
        const headers = new Headers(init?.headers)
        headers.set('origin', ORIGIN)
        headers.set('cf-connecting-ip', address)
        return received(await recordedFetch(input, { ...init, headers }))
      },
    })
    return { ...client, requests }
  }

  test('complete() returns the text and sends a CORS simple request', async () => {
    const { model, lane } = lanes.take('chat')
    lane.answers(chatStream(['Hello', ' there'], { finish: 'length' }))
    const { complete, requests } = page()
    expect(await complete('Say hello', { model, max_tokens: 9 })).toBe('Hello there')
    expect(requests).toEqual([
      {
        method: 'POST',
        url: new URL('/v1/completions', workers.url),
        body: { model, max_tokens: 9, prompt: 'Say hello', stream: false },
        // No Content-Type: a string body is text/plain by default, which needs no preflight.
        headers: {},
      },
    ])
  })

  test('stream() yields each piece as it arrives and has the completion at the end', async () => {
    const { model, lane } = lanes.take('legacy')
    const gates = [latch(), latch(), latch()]
    const pace = async (piece: number) => await gates[piece - 1]?.opened
    lane.answers(completionsStream(['One', ' two', ' thrée 🎈'], { pace }))
    const { stream, complete } = page()
    const pieces = stream('Count', { model })
    const texts: string[] = []
    for await (const piece of pieces) {
      expect(pieces.completion).toBeNull()
      texts.push(piece)
      // The upstream sends the next piece only after this one has been received.
      gates[texts.length - 1]?.open()
    }
    expect(texts).toEqual(['One', ' two', ' thrée 🎈'])
    expect(pieces.completion).toEqual({
      id: expect.stringMatching(/^cmpl-\w{24,}$/),
      object: 'text_completion',
      created: expect.any(Number),
      model: 'upstream-model-1',
      choices: [{ text: 'One two thrée 🎈', index: 0, logprobs: null, finish_reason: 'stop' }],
      usage: USAGE,
    })
    expect(await complete('Count', { model })).toBe('One two thrée 🎈')
    expect(lane.calls).toHaveLength(1)
  })

  test('a locked prompt is sent with its variables, in the body or in the query', async () => {
    upstream.lane('chat-19').answers(chatStream(['Waves.']))
    const { stream, complete, requests } = page()
    const haiku = { id: 'haiku', variables: { topic: 'the sea' } }
    expect(await textOf(stream(haiku))).toBe('Waves.')
    expect(await complete(haiku, { cached: true })).toBe('Waves.')
    expect(requests[0]?.body?.['prompt']).toEqual(haiku)
    expect(requests[1]?.url.search).toBe('?stream=false&prompt_id=haiku&var.topic=the+sea')
    expect(await failureOf(complete({ id: 'haiku', variables: { tpic: 'a' } }))).toMatchObject({
      code: 'invalid_value',
      param: 'prompt.variables.tpic',
    })
  })

  test('cached: true sends a GET first and a POST only on a miss', async () => {
    const { model, lane } = lanes.take('chat')
    lane.answers(chatStream(['Yes']))
    const { complete, stream, requests } = page()
    const options = { model, stop: ['a', 'b'], temperature: 0.5, cached: true }
    expect(await complete('Is it & so?', options)).toBe('Yes')
    expect(requests.map(({ method }) => method)).toEqual(['GET', 'POST'])
    expect(await complete('Is it & so?', options)).toBe('Yes')
    const pieces = stream('Is it & so?', options)
    expect(await textOf(pieces)).toBe('Yes')
    expect(pieces.completion?.usage).toEqual(USAGE)
    expect(requests.map(({ method }) => method)).toEqual(['GET', 'POST', 'GET', 'GET'])
    expect(requests.every(({ headers }) => Object.keys(headers).length === 0)).toBe(true)
    expect([...(requests[0]?.url.searchParams ?? [])]).toEqual([
      ['stream', 'false'],
      ['model', model],
      ['stop', 'a'],
      ['stop', 'b'],
      ['temperature', '0.5'],
      ['prompt', 'Is it & so?'],
    ])
    expect(lane.calls).toHaveLength(1)
  })

  test("cached: 'only' never generates and fails with not_cached on a miss", async () => {
    upstream.lane('chat-19').answers(chatStream(['Snow.']))
    const { complete, stream, requests } = page()
    const haiku = { id: 'haiku', variables: { topic: 'winter' } }
    const absent = { code: 'not_cached', status: 404, message: expect.stringMatching(/[Cc]ache/) }
    expect(await failureOf(complete(haiku, { cached: 'only' }))).toMatchObject(absent)
    // Several prompts do not fit in a URL.
    const several = complete(['a', 'b'], { cached: 'only' })
    expect(await failureOf(several)).toMatchObject(absent)
    expect(requests.map(({ method }) => method)).toEqual(['GET', 'POST'])
    expect(requests[1]?.headers).toEqual({ 'cache-control': 'only-if-cached' })
    await complete(haiku)
    expect(await textOf(stream(haiku, { cached: 'only' }))).toBe('Snow.')
    expect(requests.map(({ method }) => method)).toEqual(['GET', 'POST', 'POST', 'GET'])
  })

  const messages = [
    { role: 'user', content: 'Count' },
    { role: 'assistant', content: 'To what?' },
    { role: 'user', content: 'Two' },
  ] as const

  test('chat() returns the text, or with stream: true yields it as it arrives', async () => {
    const { model, lane } = lanes.take('chat')
    lane.answers(chatStream(['One', ' two']))
    const { chat, requests } = page()
    const pieces = chat(messages, { model, stream: true })
    expect(await textOf(pieces)).toBe('One two')
    expect(pieces.completion).toEqual({
      id: expect.stringMatching(/^chatcmpl-\w{24,}$/),
      object: 'text_completion',
      created: expect.any(Number),
      model: 'upstream-model-1',
      choices: [{ text: 'One two', index: 0, logprobs: null, finish_reason: 'stop' }],
      usage: USAGE,
    })
    expect(await chat(messages, { model })).toBe('One two')
    expect(await chat(messages, { model, cached: 'only' })).toBe('One two')
    expect(lane.calls.map(({ body }) => body)).toMatchObject([{ messages }])
    expect(requests.map(({ url }) => url.pathname)).toEqual(Array(3).fill('/v1/chat/completions'))
    const image = [{ type: 'image_url', image_url: { url: 'x' } }]
    const wrong = chat([{ role: 'user', content: image as never }], { model })
    expect(await failureOf(wrong)).toMatchObject({
      code: 'invalid_value',
      param: 'messages[0].content[0]',
    })
  })

  test('chat() goes on where a connection broke, with one call to the model', async () => {
    const { model, lane } = lanes.take('chat')
    const rest = latch()
    lane.answers(chatStream(['One', ' two'], { pace: () => rest.opened }))
    const { chat, requests } = page({
      received: (response) => (requests.length > 1 ? response : cutAfter(response, '"One"')),
    })
    const pieces = chat(messages, { model, stream: true })
    expect((await pieces.next()).value).toBe('One')
    rest.open()
    expect(await textOf(pieces)).toBe(' two')
    const from = `${pieces.completion?.id}:3`
    expect(requests.map(({ headers }) => headers['last-event-id'])).toEqual([undefined, from])
    expect(lane.calls).toHaveLength(1)
  })

  /** A response whose body ends after this text. */
  function cutAfter(response: Response, text: string): Response {
    let seen = ''
    const body = response.body?.pipeThrough(new TextDecoderStream()).pipeThrough(
      new TransformStream<string, string>({
        transform(piece, controller) {
          seen += piece
          controller.enqueue(piece)
          if (seen.includes(text)) controller.terminate()
        },
      }),
    )
    return new Response(body?.pipeThrough(new TextEncoderStream()) ?? null, response)
  }

  test('aborting the signal stops the request and throws the reason of the signal', async () => {
    const { model, lane } = lanes.take('chat')
    const rest = latch()
    lane.answers(chatStream(['One', ' two'], { pace: () => rest.opened }))
    const { stream, complete, requests } = page()
    const stop = new AbortController()
    const texts: string[] = []
    const reading = (async () => {
      for await (const piece of stream('Count', { model, signal: stop.signal })) {
        texts.push(piece)
        stop.abort()
      }
    })()
    await expect(reading).rejects.toMatchObject({ name: 'AbortError' })
    expect(texts).toEqual(['One'])
    await expect(complete('x', { signal: stop.signal })).rejects.toMatchObject({
      name: 'AbortError',
    })
    expect(requests.map(({ body }) => body?.['prompt'])).toEqual(['Count', 'x'])
    rest.open()
  })

  describe('with Turnstile enabled', () => {
    test('fetches one visitor token, reuses it, and sends it as a header', async () => {
      const { model, lane } = lanes.take('chat')
      lane.answers(chatStream(['Hi']))
      const widgets = stubTurnstile()
      const { complete, stream, chat, requests } = page({ of: guarded, turnstile: true })
      const all = [
        complete('a', { model }),
        textOf(stream('b', { model })),
        chat(messages, { model }),
      ]
      expect(await Promise.all(all)).toEqual(['Hi', 'Hi', 'Hi'])
      expect(await complete('c', { model })).toBe('Hi')
      const paths = requests.map(({ url }) => url.pathname.slice(4))
      expect(paths.filter((path) => path === 'visitors')).toHaveLength(1)
      expect(paths.slice(-1)).toEqual(['completions'])
      expect(widgets.rendered).toEqual([
        expect.objectContaining({ sitekey: '0x4AAA', action: 'visitor' }),
      ])
      expect([widgets.removed, widgets.left()]).toEqual([['widget-1'], 0])
      const tokens = requests.map(({ headers }) => headers['x-visitor-token'])
      expect(tokens.slice(0, 3)).toEqual([undefined, undefined, undefined])
      expect(new Set(tokens.slice(-4)).size).toBe(1)
      expect(tokens.at(-1)).toMatch(/\S{40}/)
    })

    test.each([
      'error-callback',
      'expired-callback',
      'timeout-callback',
      'unsupported-callback',
      'render: throws',
      'render: nothing',
    ] as const)('a challenge that ends with %s fails with challenge_failed', async (end) => {
      const widgets = stubTurnstile({ end })
      const { complete, stream, requests } = page({ of: guarded, turnstile: true })
      const failed = {
        code: 'challenge_failed',
        message: 'The bot check could not be completed. Try again.',
      }
      expect(await failureOf(complete('a'))).toMatchObject(failed)
      expect(await failureOf(textOf(stream('a')))).toMatchObject(failed)
      expect(requests).toHaveLength(2)
      expect(widgets.left()).toBe(0)
    })
  })
})

type WidgetEnd =
  | 'callback'
  | `${'error' | 'expired' | 'timeout' | 'unsupported'}-callback`
  | `render: ${'throws' | 'nothing'}`

/** Stubs Cloudflare's script and the parts of a document that showing a challenge needs. */
function stubTurnstile({ end = 'callback' as WidgetEnd } = {}) {
  const rendered: object[] = []
  const removed: string[] = []
  const boxes = new Set<object>()
  const body = {
    appendChild(box: object) {
      boxes.add(box)
      return box
    },
  }
  vi.stubGlobal('document', {
    body,
    createElement: () => {
      const box = { style: {}, remove: () => boxes.delete(box) }
      return box
    },
  })
  vi.stubGlobal('turnstile', {
    render(_: object, options: Readonly<Record<string, (token: string) => unknown>>) {
      if (end === 'render: throws') throw new Error('Invalid input for parameter "sitekey"')
      if (end === 'render: nothing') return undefined
      rendered.push(options)
      queueMicrotask(() => options[end]?.('solved'))
      return `widget-${rendered.length}`
    },
    remove: (id: string) => removed.push(id),
  })
  return { rendered, removed, left: () => boxes.size }
}

describe('with a failing network', () => {
  type Step = Error | Response | ((init: RequestInit) => Response | Promise<Response>)

  /** A client whose network gives one of these answers to each call. */
  function page(...steps: readonly Step[]) {
    const requests: SentRequest[] = []
    const client = createClient({
      endpoint: 'https://edge.test/client.js',
      fetch: async (input, init = {}) => {
        requests.push(sentRequest(input, init))
        const step = steps[requests.length - 1] ?? expect.fail('one call too many')
        if (step instanceof Error) throw step
        return typeof step === 'function' ? await step(init) : step
      },
    })
    return { ...client, requests }
  }

  beforeAll(() => {
    vi.useFakeTimers()
  })
  afterAll(() => {
    vi.useRealTimers()
  })

  /** Awaits the promise while running all fake timers. `ms` is the fake time that passed. */
  async function quickly<T>(work: Promise<T>): Promise<{ readonly value: T; readonly ms: number }> {
    const startedAt = Date.now()
    let ms = 0
    const timed = work.finally(() => {
      ms = Date.now() - startedAt
    })
    timed.catch(() => {})
    await vi.runAllTimersAsync()
    const value = await timed
    return { value, ms }
  }

  const offline = new TypeError('Failed to fetch')
  const whole = (text: string) =>
    Response.json({ id: 'cmpl-1', choices: [{ text, index: 0, finish_reason: 'stop' }] })
  const busy = (seconds: string | null) =>
    Response.json(
      { error: { message: 'Cannot', code: 'too_many_streams', param: null } },
      { status: 429, headers: seconds === null ? {} : { 'retry-after': seconds } },
    )
  const chunk = (text: string, more: object = {}) => ({
    id: 'cmpl-1',
    object: 'text_completion',
    created: 1,
    model: 'm',
    choices: [{ text, index: 0, logprobs: null, finish_reason: null, ...more }],
  })
  /** An event stream that delivers these pieces. */
  const eventStream = (
    pieces: Iterable<string | Uint8Array<ArrayBuffer>>,
    { open = false, canceled = () => {} } = {},
  ) => {
    const body = new ReadableStream({
      cancel: canceled,
      start(controller) {
        for (const piece of pieces) {
          controller.enqueue(typeof piece === 'string' ? new TextEncoder().encode(piece) : piece)
        }
        if (!open) controller.close()
      },
    })
    return new Response(body, { headers: { 'content-type': 'text/event-stream; charset=utf-8' } })
  }

  const torn = () =>
    new Response(new ReadableStream({ pull: (controller) => controller.error(offline) }))

  test.each([
    ['a failed connection', () => offline, 500, { code: 'network', status: 0 }],
    ['a JSON answer that breaks off', torn, 500, { code: 'network', status: 0 }],
    ['a 429 whose Retry-After is at most 5 s', () => busy('5'), 5000, { retryAfter: 5 }],
  ])('%s is retried once', async (_, failing, pauseMs, error) => {
    const one = page(failing(), whole('Yes'))
    expect(await quickly(one.complete('a'))).toEqual({ value: 'Yes', ms: pauseMs })
    const two = page(failing(), failing())
    expect(await failureOf(quickly(two.complete('a')))).toMatchObject(error)
    expect([one.requests.length, two.requests.length]).toEqual([2, 2])
  })

  test.each(['6', null, 'Wed, 21 Oct 2026 07:28:00 GMT'])(
    'a 429 with Retry-After %s is not retried',
    async (seconds) => {
      const { complete, requests } = page(busy(seconds))
      expect(await failureOf(quickly(complete('a')))).toMatchObject({
        code: 'too_many_streams',
        retryAfter: Number(seconds) || null,
      })
      expect(requests).toHaveLength(1)
    },
  )

  test.each([400, 401, 403, 404, 500, 502, 503, 504])(
    'a %i is not retried, and no POST follows a GET',
    async (status) => {
      const error = { message: 'Cannot', code: 'some_code', param: 'x' }
      for (const cached of [false, true]) {
        const { complete, requests } = page(
          Response.json({ error }, { status, headers: { 'retry-after': '1' } }),
        )
        const failure = await failureOf(quickly(complete('a', { cached })))
        expect(failure).toMatchObject({ ...error, status, retryAfter: 1 })
        expect(requests).toHaveLength(1)
      }
    },
  )

  test.each([
    ['several prompts', ['a', 'b'], {}],
    ['a field that a query cannot hold', 'a', { logit_bias: { 1: 1 } }],
    ['a prompt too long for a URL', 'é'.repeat(1400), {}],
  ])('cached: true sends only a POST if no URL can hold it: %s', async (_, prompt, fields) => {
    const { complete, requests } = page(whole('Yes'))
    expect(await complete(prompt, { cached: true, ...fields })).toBe('Yes')
    expect(requests.map(({ method }) => method)).toEqual(['POST'])
  })

  test.each([
    ['1015 (rate limited)', 429, 'error code: 1015', 'rate_limited', /in a moment/],
    ['1027 (the plan’s day)', 429, 'error code: 1027', 'rate_limited', /tomorrow/],
    ['1102 (the Worker’s limits)', 503, '<h1>Error 1102</h1>', 'unavailable', /later/],
    ['a 502 of a gateway', 502, '', 'unavailable', /later/],
    ['a 404 of another server', 404, '<h1>Not found</h1>', 'bad_answer', /Check the address/],
    ['JSON of another server', 500, '{"detail":"no"}', 'unavailable', /later/],
    ['an error that is a text', 404, '{"error":"Not found"}', 'bad_answer', /Check the address/],
    ['an error without a code', 502, '{"error":{"message":"no"}}', 'unavailable', /later/],
    ['an error that is a number', 500, '{"error":500}', 'unavailable', /later/],
  ])('a foreign error gets a readable message: %s', async (_, status, body, code, words) => {
    const { complete } = page(new Response(body, { status, headers: { 'retry-after': '30' } }))
    const failure = await failureOf(quickly(complete('a')))
    expect(failure).toMatchObject({ code, message: expect.stringMatching(words) })
    expect(failure['message']).not.toContain('<')
  })

  test('a foreign 200 fails with bad_answer and is not retried', async () => {
    const html = () => new Response('<p>Log in</p>', { headers: { 'content-type': 'text/html' } })
    const { complete, stream } = page(html(), html(), Response.json({ ok: true }))
    const bad = { code: 'bad_answer' }
    expect(await failureOf(quickly(complete('a')))).toMatchObject(bad)
    expect(await failureOf(quickly(textOf(stream('a'))))).toMatchObject(bad)
    expect(await failureOf(quickly(complete('a')))).toMatchObject(bad)
    const parts = { index: 0, message: { content: [] } }
    for (const choice of [parts, null, { index: 0, text: null }]) {
      const other = page(Response.json({ choices: [choice] }))
      expect(await failureOf(quickly(other.complete('a')))).toMatchObject(bad)
    }
  })

  test('nothing after [DONE] counts, and an answer is whole with it', async () => {
    const after = [event('[DONE]'), event({ ...chunk('x'), id: 'cmpl-2' }), event('{"error":1}')]
    const { stream, requests } = page(eventStream([event(chunk('Hi')), event('[DONE]'), ...after]))
    expect((await quickly(textOf(stream('a')))).value).toBe('Hi')
    expect(requests).toHaveLength(1)
  })

  test('an unreadable event fails with bad_answer and is not retried', async () => {
    for (const data of [
      '{"id"',
      '[]',
      '{"id":"cmpl-1"}',
      '{"choices":[null]}',
      '{"choices":[{"index":0}]}',
      '{"choices":[{"index":0,"text":null}]}',
      '{"error":"no"}',
    ]) {
      const { stream } = page(eventStream([event(chunk('Hi')), event(data)]))
      expect(await failureOf(quickly(textOf(stream('a'))))).toMatchObject({ code: 'bad_answer' })
    }
  })

  test('a stream yields the same text for every split of its bytes', async () => {
    const text = `:\n\n${event(chunk('Zwölf 🎈'))}:\r\n\r\n${event(chunk(' Boxkämpfer'))}data:[DONE]\r\n\r\n`
    const bytes = new TextEncoder().encode(text)
    for (let at = 0; at <= bytes.length; at++) {
      const { stream } = page(eventStream([bytes.slice(0, at), bytes.slice(at)]))
      expect((await quickly(textOf(stream('a')))).value).toBe('Zwölf 🎈 Boxkämpfer')
    }
  })

  describe('chat()', () => {
    const messages = [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'Count' },
    ] as const
    /** What the endpoint sends of a conversation. */
    const turn = (delta: object, finish_reason: string | null = null) =>
      event({
        id: 'chatcmpl-1',
        object: 'chat.completion.chunk',
        created: 1,
        model: 'm',
        choices: [{ index: 0, delta, logprobs: null, finish_reason }],
      })
    const begun = turn({ role: 'assistant', content: '' })

    test('resolves with the text of the turn', async () => {
      const message = { role: 'assistant', content: 'One, two', refusal: null }
      const answer = { id: 'chatcmpl-1', choices: [{ index: 0, message, finish_reason: 'stop' }] }
      const { chat, requests } = page(Response.json(answer))
      const options = { model: 'm', temperature: 0, variables: { tone: 'dry' } }
      expect((await quickly(chat(messages, options))).value).toBe('One, two')
      expect(requests).toEqual([
        {
          method: 'POST',
          url: new URL('https://edge.test/v1/chat/completions'),
          body: { ...options, messages, stream: false },
          // Still a CORS simple request.
          headers: {},
        },
      ])
    })

    test('with stream: true, yields the text as it arrives and has the completion at the end', async () => {
      const { chat, requests } = page(
        eventStream([
          begun,
          turn({ content: 'One,' }),
          turn({ content: ' two' }),
          turn({}, 'stop'),
          event({ id: 'chatcmpl-1', choices: [], usage: USAGE }),
          event('[DONE]'),
        ]),
      )
      const pieces = chat(messages, { stream: true })
      const texts: string[] = []
      await quickly(
        (async () => {
          for await (const piece of pieces) texts.push(piece)
        })(),
      )
      expect(texts).toEqual(['One,', ' two'])
      expect(pieces.completion).toEqual({
        id: 'chatcmpl-1',
        object: 'text_completion',
        created: 1,
        model: 'm',
        choices: [{ text: 'One, two', index: 0, logprobs: null, finish_reason: 'stop' }],
        usage: USAGE,
      })
      expect(requests[0]?.body).toEqual({
        messages,
        stream: true,
        stream_options: { include_usage: true },
      })
    })

    test('resumes a stream that breaks off, with the messages as they were at the call', async () => {
      const { chat, requests } = page(
        eventStream([begun, turn({ content: 'Öne' })]),
        eventStream([begun, turn({ content: ', two' }), turn({}, 'stop'), event('[DONE]')]),
      )
      const conversation: { role: 'user' | 'assistant'; content: string }[] = [
        { role: 'user', content: 'Count' },
      ]
      const pieces = chat(conversation, { stream: true })
      const reply = { role: 'assistant' as const, content: '' }
      conversation.push(reply)
      const reading = (async () => {
        for await (const piece of pieces) reply.content += piece
      })()
      await quickly(reading)
      expect(reply.content).toBe('Öne, two')
      const sent = requests.map(({ body }) => body?.['messages'])
      expect(sent).toEqual([conversation.slice(0, 1), conversation.slice(0, 1)])
      expect(requests[1]?.headers).toEqual({ 'last-event-id': 'chatcmpl-1:3' })
    })

    test("finds cached answers with its POST, and with cached: 'only' nothing else", async () => {
      const error = { message: 'Not in the cache.', code: 'not_cached', param: null }
      const miss = Response.json({ error }, { status: 404 })
      const answer = { id: 'chatcmpl-1', choices: [{ index: 0, message: { content: 'Hi' } }] }
      const { chat, requests } = page(Response.json(answer), miss)
      expect((await quickly(chat(messages, { cached: true }))).value).toBe('Hi')
      const only = chat(messages, { cached: 'only' })
      expect(await failureOf(quickly(only))).toMatchObject({ code: 'not_cached', status: 404 })
      expect(requests.map(({ method, headers }) => [method, headers])).toEqual([
        ['POST', {}],
        ['POST', { 'cache-control': 'only-if-cached' }],
      ])
    })

    test('fails as complete() and stream() do', async () => {
      const error = { message: 'Cannot', code: 'invalid_value', param: 'messages[1].content[0]' }
      const refused = () => Response.json({ error }, { status: 400 })
      const { chat } = page(refused(), refused(), eventStream([begun, event({ error })]))
      const failed = { ...error, status: 400 }
      expect(await failureOf(quickly(chat(messages)))).toMatchObject(failed)
      expect(await failureOf(quickly(textOf(chat(messages, { stream: true }))))).toMatchObject(
        failed,
      )
      expect(await failureOf(quickly(textOf(chat(messages, { stream: true }))))).toMatchObject({
        ...error,
        status: 200,
      })
      await expect(chat(messages, { signal: AbortSignal.abort() })).rejects.toMatchObject({
        name: 'AbortError',
      })
    })
  })

  test('choices and logprobs are assembled, and only the first choice is yielded', async () => {
    const logprobs = (token: string) => ({
      tokens: [token],
      token_logprobs: [-1],
      top_logprobs: null,
      text_offset: [0],
    })
    const pieces = page(
      eventStream([
        event(chunk('b', { index: 1 })),
        event(chunk('a', { logprobs: logprobs('a') })),
        event(chunk('A', { logprobs: logprobs('A'), finish_reason: 'length' })),
        event(chunk('B', { index: 1, finish_reason: 'stop' })),
        event({ ...chunk(''), choices: [], usage: USAGE }),
        event('[DONE]'),
      ]),
    ).stream('x', { n: 2 })
    expect((await quickly(textOf(pieces))).value).toBe('aA')
    expect(pieces.completion?.usage).toEqual(USAGE)
    expect(pieces.completion?.choices).toEqual([
      {
        text: 'aA',
        index: 0,
        finish_reason: 'length',
        logprobs: {
          tokens: ['a', 'A'],
          token_logprobs: [-1, -1],
          top_logprobs: null,
          text_offset: [0, 0],
        },
      },
      { text: 'bB', index: 1, finish_reason: 'stop', logprobs: null },
    ])
  })

  test('a choice is skipped if its index is not an integer from 0 to 1023', async () => {
    const odd = [-1, 0.5, 1024, 1e9, Number.NaN, '0', '__proto__', 'length', null, undefined, [0]]
    const pieces = page(
      eventStream([
        ...odd.map((index) => event(chunk('x', { index: index as number }))),
        event(chunk('a', { index: 1023 })),
        event(chunk('b')),
        event('[DONE]'),
      ]),
    ).stream('x')
    expect((await quickly(textOf(pieces))).value).toBe('b')
    const choices = pieces.completion?.choices ?? []
    expect(choices.flat().map(({ text, index }) => [index, text])).toEqual([
      [0, 'b'],
      [1023, 'a'],
    ])
    expect(choices).toHaveLength(1024)
    expect(Object.keys(choices)).toEqual(['0', '1023'])
  })

  test('a resumed stream continues the first choice and receives the others again', async () => {
    const { stream, requests } = page(
      eventStream([event(chunk('Öa')), event(chunk('b', { index: 1 })), 'data: {"id":"cm']),
      eventStream([event(chunk('A')), event(chunk('bB', { index: 1 })), event('[DONE]')]),
    )
    const pieces = stream('x', { n: 2 })
    expect((await quickly(textOf(pieces))).value).toBe('ÖaA')
    expect(pieces.completion?.choices.map(({ text }) => text)).toEqual(['ÖaA', 'bB'])
    expect(requests[1]).toEqual({ ...requests[0], headers: { 'last-event-id': 'cmpl-1:2' } })
  })

  test.each([
    ['restarted', 'another answer begins', [{ ...chunk('Uno'), id: 'cmpl-2' }], 2],
    ['too_many_streams', 'it is refused', busy('60'), 2],
  ])('resuming fails with %s if %s', async (code, _, second, calls) => {
    const next = second instanceof Response ? second : eventStream(second.map(event))
    const { stream, requests } = page(eventStream([event(chunk('One'))]), next)
    expect(await failureOf(quickly(textOf(stream('a'))))).toMatchObject({ code })
    expect(requests).toHaveLength(calls)
  })

  test('an error in the stream is thrown after the text, and the request is not repeated', async () => {
    const error = { message: 'Cannot', code: 'upstream_truncated', param: null }
    const { stream, requests } = page(eventStream([event(chunk('Half')), event({ error })]))
    const pieces = stream('a')
    expect((await pieces.next()).value).toBe('Half')
    expect(await failureOf(pieces.next())).toMatchObject({ code: error.code, status: 200 })
    expect([pieces.completion, requests.length]).toEqual([null, 1])
  })

  test('resuming stops after five attempts with growing pauses', async () => {
    const cut = () => eventStream([event(chunk('x'))])
    const { stream, requests } = page(cut(), cut(), cut(), cut(), cut(), cut())
    const startedAt = Date.now()
    const failure = await failureOf(quickly(textOf(stream('a'))))
    expect(failure).toMatchObject({ code: 'network' })
    expect(requests.map(({ headers }) => headers['last-event-id'])).toEqual([
      undefined,
      ...[1, 2, 3, 4, 5].map((n) => `cmpl-1:${n}`),
    ])
    expect(Date.now() - startedAt).toBe(250 + 500 + 1000 + 2000 + 4000)
  })

  test('resuming survives a network that is down for several attempts', async () => {
    const rest = eventStream([event(chunk(' two')), event('[DONE]')])
    const { stream, requests } = page(
      eventStream([event(chunk('One'))]),
      ...[offline, offline, offline, offline],
      rest,
    )
    expect((await quickly(textOf(stream('a')))).value).toBe('One two')
    expect(requests).toHaveLength(6)
  })

  test('a stream that is silent for 45 s is resumed', async () => {
    const canceled = vi.fn()
    const pieces = page(
      eventStream([event(chunk('One'))], { open: true, canceled }),
      eventStream([event(chunk(' two')), event('[DONE]')]),
    ).stream('a')
    const { value, ms } = await quickly(textOf(pieces))
    expect([value, ms]).toEqual(['One two', 45_000 + 250])
    expect(canceled).toHaveBeenCalledOnce()
  })

  test('a connection left open after [DONE] ends the stream after 1 s', async () => {
    const canceled = vi.fn()
    const body = [event(chunk('One')), event('[DONE]')]
    const { stream, requests } = page(eventStream(body, { open: true, canceled }))
    expect(await quickly(textOf(stream('a')))).toEqual({ value: 'One', ms: 1000 })
    expect([requests.length, canceled.mock.calls.length]).toEqual([1, 1])
  })

  test('breaking out of the loop closes the connection', async () => {
    const canceled = vi.fn()
    const { stream } = page(
      eventStream([event(chunk('One')), event(chunk(' two'))], { open: true, canceled }),
    )
    for await (const piece of stream('a')) {
      expect(piece).toBe('One')
      break
    }
    expect(canceled).toHaveBeenCalledOnce()
    expect(vi.getTimerCount()).toBe(0)
  })

  test('aborting the signal ends a pause before a retry', async () => {
    const { complete, requests } = page(busy('5'))
    const stop = new AbortController()
    const asking = complete('a', { signal: stop.signal })
    const ended = expect(asking).rejects.toMatchObject({ name: 'AbortError' })
    await vi.advanceTimersByTimeAsync(1000)
    stop.abort()
    await ended
    expect(requests).toHaveLength(1)
  })

  test('a signal that lives for long keeps nothing of the pauses before retries', async () => {
    const { signal } = new AbortController()
    const listeners = new Set<unknown>()
    vi.spyOn(signal, 'addEventListener').mockImplementation((_, listener) => {
      listeners.add(listener)
    })
    vi.spyOn(signal, 'removeEventListener').mockImplementation((_, listener) => {
      listeners.delete(listener)
    })
    const { complete } = page(busy('1'), busy('1'))
    const ended = expect(complete('a', { signal })).rejects.toBeInstanceOf(CompletionError)
    await vi.advanceTimersByTimeAsync(0)
    expect(listeners.size).toBe(1)
    await vi.advanceTimersByTimeAsync(60_000)
    await ended
    expect(listeners.size).toBe(0)
  })

  describe('a visitor token', () => {
    const refused = () =>
      Response.json({ error: { message: '', code: 'visitor_token_invalid' } }, { status: 401 })

    /** An endpoint that issues and requires tokens which are valid for `lastsS` seconds. */
    function guardedPage({ lastsS = 1800, skewS = 0 } = {}) {
      const tokens: (string | undefined)[] = []
      let minted = 0
      let validUntil = 0
      const widgets = stubTurnstile()
      const client = createClient({
        endpoint: 'https://edge.test',
        turnstile: { sitekey: '0x4AAA' },
        fetch: async (input, init) => {
          const { url, headers } = sentRequest(input, init)
          const nowS = Date.now() / 1000 + skewS
          if (url.pathname === '/v1/visitors') {
            minted += 1
            validUntil = nowS + lastsS
            return Response.json({ token: `t${minted}`, expires_at: Math.floor(validUntil) })
          }
          const token = headers['x-visitor-token']
          tokens.push(token)
          return token === `t${minted}` && nowS < validUntil ? whole('Yes') : refused()
        },
      })
      return { ...client, tokens, widgets, revoke: () => (minted += 1) }
    }

    afterEach(() => {
      vi.unstubAllGlobals()
    })

    test('is renewed in the background before it expires', async () => {
      const { complete, tokens } = guardedPage({ lastsS: 1800 })
      await complete('a')
      await vi.advanceTimersByTimeAsync(1_700_000)
      await complete('b')
      await vi.advanceTimersByTimeAsync(50_000)
      await complete('c')
      await vi.advanceTimersByTimeAsync(1)
      await complete('d')
      expect(tokens).toEqual([undefined, 't1', 't1', 't1', 't2'])
    })

    test('is renewed after a 401 if it has expired or is revoked', async () => {
      const { complete, tokens, revoke } = guardedPage({ lastsS: 100 })
      await complete('a')
      await vi.advanceTimersByTimeAsync(200_000)
      await complete('b')
      revoke()
      await complete('c')
      expect(tokens).toEqual([undefined, 't1', 't1', 't2', 't2', 't4'])
    })

    test('is not fetched on every request if the local clock is wrong', async () => {
      const { complete, tokens, widgets } = guardedPage({ skewS: -7200 })
      for (const prompt of ['a', 'b', 'c']) await complete(prompt)
      expect([tokens, widgets.rendered.length]).toEqual([[undefined, 't1', 't1', 't1'], 1])
    })

    test.each(['<p>Log in</p>', 'null', '{"token":null}'])(
      'fails with bad_answer if another server answers %s, and spends one challenge',
      async (answer) => {
        const { rendered } = stubTurnstile()
        const { complete } = createClient({
          endpoint: 'https://edge.test',
          turnstile: { sitekey: '0x4AAA' },
          fetch: async (input) =>
            String(input).endsWith('/v1/visitors') ? new Response(answer) : refused(),
        })
        expect(await failureOf(quickly(complete('a')))).toMatchObject({ code: 'bad_answer' })
        expect(rendered).toHaveLength(1)
      },
    )

    test('is fetched only once if the endpoint never accepts it', async () => {
      stubTurnstile()
      const paths: string[] = []
      const { complete } = createClient({
        endpoint: 'https://edge.test',
        turnstile: { sitekey: '0x4AAA' },
        fetch: async (input) => {
          const { pathname } = new URL(String(input))
          paths.push(pathname.slice(4))
          if (pathname !== '/v1/visitors') return refused()
          return Response.json({ token: 't', expires_at: Date.now() / 1000 + 1800 })
        },
      })
      expect(await failureOf(complete('a'))).toMatchObject({ code: 'visitor_token_invalid' })
      expect(paths).toEqual(['completions', 'visitors', 'completions'])
    })

    /** A page without Cloudflare's script. The test completes each loading attempt itself. */
    function withoutScript() {
      const { turnstile, document } = globalThis as unknown as {
        turnstile: object
        document: object
      }
      interface Script {
        src: string
        onload(): void
        onerror(): void
        remove(): void
      }
      const scripts: Script[] = []
      vi.stubGlobal('turnstile', undefined)
      const head = { append: (script: Script) => scripts.push(script) }
      vi.stubGlobal('document', { ...document, head })
      return { scripts, define: () => vi.stubGlobal('turnstile', turnstile) }
    }

    test('loads Cloudflare’s script once for two clients, and again if it failed or was blocked', async () => {
      const [one, two] = [guardedPage(), guardedPage()]
      const { scripts, define } = withoutScript()
      // A content blocker may replace the script with an empty one, which loads.
      for (const [i, end] of (['onerror', 'onload'] as const).entries()) {
        const failures = [failureOf(one.complete('a')), failureOf(two.complete('b'))]
        await vi.waitFor(() => expect(scripts).toHaveLength(i + 1))
        expect(scripts[i]?.src).toBe(
          'https://challenges.cloudflare.com/turnstile/v0/api.js?render=explicit',
        )
        scripts[i]?.[end]()
        for (const failure of await Promise.all(failures)) {
          expect(failure).toMatchObject({ code: 'challenge_unavailable' })
        }
      }
      const both = [one.complete('a'), two.complete('b')]
      await vi.waitFor(() => expect(scripts).toHaveLength(3))
      define()
      scripts[2]?.onload()
      expect(await Promise.all(both)).toEqual(['Yes', 'Yes'])
      await one.complete('c')
      expect(scripts).toHaveLength(3)
    })
  })
})

describe('the built client.js', () => {
  test('is one module, under 3 KB gzipped', async () => {
    const shipped = await readFile('dist/site/client.js', 'utf8')
    expect(gzipSync(shipped, { level: 9 }).length).toBeLessThan(3 * 1024)
    expect(shipped).not.toMatch(/\bimport\s*[({'"*]|\bfrom\s*['"]/)
    const exported = Object.keys(client).toSorted()
    const url = `data:text/javascript,${encodeURIComponent(shipped)}`
    expect(Object.keys(await import(url)).toSorted()).toEqual(exported)
    expect(exported).toEqual(['CompletionError', 'chat', 'complete', 'createClient', 'stream'])
  })

  test('has types that accept correct calls, reject wrong ones and name every export', async () => {
    const folder = 'dist/client-types'
    // As docs/recipes.md has it.
    const mapping = allBlocks('json').find(({ text }) => text.includes('"paths"'))
    const { paths } = JSON.parse(mapping?.text ?? '').compilerOptions
    expect(Object.keys(paths)).toEqual([MODULE])
    await mkdir(folder, { recursive: true })
    const options = { target: 'esnext', module: 'esnext', lib: ['esnext', 'dom', 'dom.iterable'] }
    const compilerOptions = {
      ...options,
      moduleResolution: 'bundler',
      types: [],
      strict: true,
      noEmit: true,
      paths,
    }
    const names = Object.keys(client).map((name) => `${name}: true`)
    const checked = `;({ ${names} }) satisfies Record<keyof typeof import('${MODULE}'), true>`
    await Promise.all([
      writeFile(
        join(folder, 'tsconfig.json'),
        JSON.stringify({ compilerOptions, files: ['page.ts'] }),
      ),
      writeFile(join(folder, 'page.ts'), `${typedPage}\n${checked}\n`),
      copyFile('dist/site/client.d.ts', join(folder, 'client.d.ts')),
    ])
    const tsc = promisify(execFile)('node_modules/.bin/tsc', ['-p', folder])
    const errors = await tsc.then(
      () => '',
      (error: { stdout: string }) => error.stdout,
    )
    expect(errors).toBe('')
  })

  test('has its types in package.json', () => {
    const exported = manifest.exports['./client']
    for (const path of [exported.types, exported.default]) expect(existsSync(path)).toBe(true)
  })
})

const MODULE = 'https://edge-completions.YOU.workers.dev/client.js'

/** A page in TypeScript. The calls that must not compile are marked with @ts-expect-error. */
const typedPage = `
import {
  chat, type ChatOptions, CompletionError, complete, createClient, type Message, stream,
} from '${MODULE}'

const text: string = await complete('Once', { max_tokens: 9, cached: true, stop: ['.'] })
const pieces = stream({ id: 'haiku', variables: { topic: text } }, { signal: AbortSignal.timeout(9) })
for await (const piece of pieces) document.body.append(piece satisfies string)
const tokens: number | undefined = pieces.completion?.usage.total_tokens
const client = createClient({ endpoint: 'https://edge.test', turnstile: { sitekey: 'x' }, fetch })
client.complete(['a', 'b']).catch((error: unknown) => {
  if (!(error instanceof CompletionError)) throw error
  const { code, status, retryAfter, param }: { code: string; status: number } & CompletionError = error
  return [code, status, retryAfter satisfies number | null, param satisfies string | null, tokens]
})
const { complete: loaded } = await import('${MODULE}')
loaded satisfies typeof complete
const messages: Message[] = [{ role: 'user', content: text }]
const options: ChatOptions = { max_completion_tokens: 9, response_format: { type: 'json_object' } }
messages.push({ role: 'assistant', content: (await client.chat(messages)) satisfies string })
for await (const piece of chat(messages, { ...options, stream: true })) piece satisfies string
const turn: Promise<string> = chat([{ role: 'user', content: [{ type: 'text', text }] }], { stream: false })
await turn

// @ts-expect-error: completion may be null
pieces.completion.id
// @ts-expect-error: no such field
complete('a', { max_token: 9 })
// @ts-expect-error: a locked prompt has an id
complete({ variables: {} })
// @ts-expect-error: the stream is the text, not a promise of it
const wrong: string = stream('a')
// @ts-expect-error: an endpoint is an address
createClient({ endpoint: 1 })
// @ts-expect-error: no such role
chat([{ role: 'tool', content: '' }])
// @ts-expect-error: no images
chat([{ role: 'user', content: [{ type: 'image_url', image_url: { url: '' } }] }])
// @ts-expect-error: a prompt's field
chat(messages, { echo: true })
// @ts-expect-error: a conversation's field
complete('a', { response_format: { type: 'text' } })
// @ts-expect-error: a promise of the text, not a stream
for await (const piece of chat(messages)) piece
`
