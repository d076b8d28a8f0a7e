// One upstream call, and the many ways in which an upstream can misbehave.
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import type { RawDelta } from '../../src/completion/delta.ts'
import { GatewayError } from '../../src/errors.ts'
import type { CallRequest, Upstream } from '../../src/upstream/adapter.ts'
import { type CallOptions, call, type Send } from '../../src/upstream/call.ts'
import { completions } from '../../src/upstream/completions.ts'
import type { Progress } from '../../src/upstream/normalise.ts'
import { chunk, DONE, jsonAnswer, openStream, streamAnswer, upstreamBody } from '../support/app.ts'
import { CANARY, recordOutput } from '../support/canary.ts'

const START = 1_767_225_600_000

const request: CallRequest = {
  model: 'model-1',
  prompts: ['Once'],
  system: null,
  locked: false,
  stream: true,
  max_tokens: 16,
  n: 1,
  parameters: {},
}

const options: CallOptions = {
  baseUrl: 'https://upstream.test/v1',
  headers: { authorization: `Bearer ${CANARY}` },
  firstByteMs: 300,
  idleMs: 200,
  maxOutputBytes: 4096,
  maxTokensField: 'max_tokens',
  streamUsage: true,
  path: null,
}

interface Setting {
  readonly options?: Partial<CallOptions>
  readonly request?: Partial<CallRequest>
  readonly signal?: AbortSignal
  readonly deadlineMs?: number
  readonly upstream?: Upstream
  readonly onAccepted?: () => void
  readonly progress?: () => Progress
}

function start(send: Send, setting: Setting = {}) {
  const { upstream = completions } = setting
  const ownOptions = { ...options, ...setting.options }
  return call(upstream.toWire({ ...request, ...setting.request }, ownOptions), {
    upstream,
    send,
    ...ownOptions,
    now: Date.now,
    signal: setting.signal ?? new AbortController().signal,
    deadlineAt: Date.now() + (setting.deadlineMs ?? 1000),
    progress: setting.progress ?? (() => 'running'),
    ...(setting.onAccepted === undefined ? {} : { onAccepted: setting.onAccepted }),
  })
}

/** All deltas of a call, and the error that ended it. */
async function outcome(calling: AsyncGenerator<readonly RawDelta[]>) {
  const deltas: RawDelta[] = []
  try {
    for await (const batch of calling) deltas.push(...batch)
    return { deltas, error: null, code: null }
  } catch (error) {
    const known = error instanceof GatewayError
    if (known) recordOutput(error.message, JSON.stringify(error.cause ?? null))
    return { deltas, error, code: known ? error.code : 'unknown' }
  }
}

const textOf = (deltas: readonly RawDelta[]) =>
  deltas.map((delta) => (delta.kind === 'text' ? delta.text : '')).join('')

const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms)

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'], now: START })
})

afterEach(() => {
  expect(vi.getTimerCount(), 'a timer was left running').toBe(0)
  vi.useRealTimers()
})

test('call() sends one POST with the key to the configured address, and follows no redirect', async () => {
  const sent: Request[] = []
  await outcome(
    start(async (outgoing) => {
      sent.push(outgoing.clone())
      return jsonAnswer('Hello')
    }),
  )
  expect(sent).toHaveLength(1)
  const [outgoing] = sent
  expect(outgoing?.url).toBe('https://upstream.test/v1/completions')
  expect(outgoing?.method).toBe('POST')
  expect(outgoing?.redirect).toBe('manual')
  expect(outgoing?.headers.get('authorization')).toBe(`Bearer ${CANARY}`)
  expect(outgoing?.headers.get('content-type')).toBe('application/json')
  expect(outgoing?.headers.get('accept')).toContain('text/event-stream')
  expect(await outgoing?.json()).toMatchObject({ model: 'model-1', prompt: 'Once', stream: true })
})

test('call() accepts only JSON when not streaming', async () => {
  let accept: string | null = null
  const send: Send = async (outgoing) => {
    accept = outgoing.headers.get('accept')
    return jsonAnswer('Hello')
  }
  await outcome(start(send, { request: { stream: false } }))
  expect(accept).toBe('application/json')
})

test('call() reads an event stream and yields one batch per piece of the body', async () => {
  const batches: string[] = []
  const send: Send = async () =>
    streamAnswer(chunk('He'), chunk('llo') + chunk('!'), chunk('', 'stop') + DONE)
  for await (const batch of start(send)) batches.push(textOf(batch))
  expect(batches).toEqual(['He', 'llo!', ''])
})

test('call() reads the same deltas regardless of how the bytes are split', async () => {
  const whole = new TextEncoder().encode(chunk('é🎈') + chunk('', 'stop') + DONE)
  for (let at = 1; at < whole.length; at += 7) {
    const body = openStream()
    body.pushBytes(whole.subarray(0, at))
    body.pushBytes(whole.subarray(at))
    body.end()
    const { deltas, code } = await outcome(start(async () => body.response()))
    expect([textOf(deltas), deltas.at(-1)?.kind, code]).toEqual(['é🎈', 'end', null])
  }
})

test.each([
  ['JSON although a stream was requested', () => jsonAnswer('Hello')],
  [
    'JSON labelled as a stream',
    () =>
      new Response(JSON.stringify(upstreamBody('Hello')), {
        headers: { 'content-type': 'text/event-stream' },
      }),
  ],
  [
    'JSON after blank lines and a byte order mark',
    () => new Response(`\ufeff\n\n${JSON.stringify(upstreamBody('Hello'))}\n`),
  ],
  [
    'a stream labelled as text',
    () =>
      new Response(chunk('Hello') + chunk('', 'stop') + DONE, {
        headers: { 'content-type': 'text/plain' },
      }),
  ],
  [
    'a stream without the final newline',
    () => new Response(`${chunk('Hello', 'stop')}data: [DONE]`),
  ],
  [
    'a stream after comments',
    () => new Response(`: hello\n\n:\n\n${chunk('Hello', 'stop')}${DONE}`),
  ],
  [
    'JSON lines',
    () => new Response(`${chunk('Hel').slice(6).trim()}\n${chunk('lo', 'stop').slice(6).trim()}\n`),
  ],
] as [string, () => Response][])('call() reads %s', async (_, respond) => {
  const { deltas, code } = await outcome(start(async () => respond()))
  expect([textOf(deltas), code]).toEqual(['Hello', null])
})

test('call() stops reading after [DONE] and cancels the body', async () => {
  const body = openStream()
  body.push(chunk('a', 'stop') + DONE + chunk('EXTRA'))
  const { deltas, code } = await outcome(start(async () => body.response()))
  expect([textOf(deltas), deltas.at(-1)?.kind, code]).toEqual(['a', 'end', null])
  await body.left
})

test.each([
  ['an empty body', () => new Response('')],
  ['white space', () => new Response(' \n\t\n')],
  ['204', () => new Response(null, { status: 204 })],
  [
    'HTML',
    () =>
      new Response(`<!doctype html><h1>${CANARY}</h1>`, {
        headers: { 'content-type': 'text/html' },
      }),
  ],
  ['an error object', () => Response.json({ error: { message: `Key ${CANARY}`, type: CANARY } })],
  ['an error text', () => Response.json({ error: CANARY })],
  ['another object', () => Response.json({ hello: CANARY })],
  ['an empty list', () => Response.json([])],
  ['a list of numbers', () => Response.json([1, 2])],
  ['no choices', () => Response.json({ choices: [] })],
  ['a choice of null', () => Response.json({ choices: [null] })],
  ['an event that is not JSON', () => new Response(`data: ${CANARY}\n\ndata: x\n\n`)],
  [
    'an error event first',
    () => new Response(`event: error\ndata: {"error":{"message":"${CANARY}"}}\n\n`),
  ],
] as [string, () => Response][])(
  'call() rejects %s as upstream_bad_response',
  async (name, respond) => {
    const { code, deltas } = await outcome(start(async () => respond()))
    // Whether an empty list is an answer is decided later, by the normaliser.
    if (name === 'an empty list') expect(deltas.filter(({ kind }) => kind === 'text')).toEqual([])
    else expect(code).toBe('upstream_bad_response')
  },
)

test.each([
  [400, 'upstream_refused_request'],
  [413, 'upstream_refused_request'],
  [422, 'upstream_refused_request'],
  [401, 'upstream_rejected'],
  [402, 'upstream_rate_limited'],
  [403, 'upstream_rejected'],
  [404, 'upstream_rejected'],
  [409, 'upstream_rejected'],
  [418, 'upstream_rejected'],
  [429, 'upstream_rate_limited'],
  [500, 'upstream_unavailable'],
  [502, 'upstream_unavailable'],
  [503, 'upstream_unavailable'],
  [529, 'upstream_unavailable'],
  [301, 'upstream_rejected'],
  [302, 'upstream_rejected'],
  [303, 'upstream_rejected'],
  [304, 'upstream_rejected'],
  [307, 'upstream_rejected'],
  [308, 'upstream_rejected'],
])('call() maps status %i to %s and keeps no text of the upstream', async (status, expected) => {
  let sends = 0
  let accepted = 0
  const body = status === 304 ? null : JSON.stringify({ error: { message: `Bad key ${CANARY}` } })
  const send: Send = async () => {
    sends += 1
    const headers = { location: `https://evil.test/?${CANARY}`, 'set-cookie': `k=${CANARY}` }
    return new Response(body, { status, headers })
  }
  const { code, error, deltas } = await outcome(
    start(send, {
      onAccepted: () => {
        accepted += 1
      },
    }),
  )
  expect(code).toBe(expected)
  expect((error as GatewayError).cause).toMatchObject({ status })
  expect({ sends, accepted, deltas }).toEqual({ sends: 1, accepted: 0, deltas: [] })
})

test.each([0, 101, 199, 600, 999])(
  'call() maps the impossible status %i to upstream_rejected instead of throwing a RangeError',
  async (status) => {
    const response = Response.json({})
    Object.defineProperties(response, { status: { value: status }, ok: { value: false } })
    expect((await outcome(start(async () => response))).code).toBe('upstream_rejected')
  },
)

test.each([
  ['5', 5],
  ['0', 1],
  ['300', 300],
  ['301', 300],
  ['1000000000', 300],
  ['999999999999999999999', null],
  ['-1', null],
  ['1.5', null],
  ['garbage', null],
  ['', null],
  [null, null],
  ['Thu, 01 Jan 2026 00:00:07 GMT', 7],
  ['Thu, 01 Jan 2026 01:00:00 GMT', 300],
  ['Wed, 31 Dec 2025 23:59:00 GMT', 1],
  ['Someday', null],
])('call() of 429 with Retry-After %j', async (header, seconds) => {
  const headers: Record<string, string> = header === null ? {} : { 'retry-after': header }
  const { error } = await outcome(start(async () => new Response('{}', { status: 429, headers })))
  const retryAfter = (error as GatewayError).retryAfterSeconds
  if (seconds === null) {
    // No usable value: the default is within the documented bounds.
    expect(retryAfter).toBeGreaterThanOrEqual(1)
    expect(retryAfter).toBeLessThanOrEqual(300)
  } else expect(retryAfter).toBe(seconds)
})

test.each([
  ['no JSON', 'Service Unavailable'],
  ['HTML', '<html>502</html>'],
  ['nothing', ''],
  ['a text', '"no"'],
  ['a list', '[{"error":{"message":"no"}}]'],
  ['a megabyte', `{"error":"${'x'.repeat(1_000_000)}"}`],
  ['deep nesting', '['.repeat(50_000)],
])('call() maps 503 to upstream_unavailable even if its body is %s', async (_, body) => {
  const { code } = await outcome(start(async () => new Response(body, { status: 503 })))
  expect(code).toBe('upstream_unavailable')
})

test('call() stops reading an endless error body', async () => {
  let pulled = 0
  const endless = new ReadableStream<Uint8Array>({
    pull(controller) {
      pulled += 1
      controller.enqueue(new Uint8Array(16_384).fill(0x20))
    },
  })
  const send: Send = async () => new Response(endless, { status: 500 })
  const { code } = await outcome(start(send, { options: { maxOutputBytes: 1_048_576 } }))
  expect(code).toBe('upstream_unavailable')
  expect(pulled).toBeLessThanOrEqual(8)
})

test('call() keeps an upstream error code only if it looks like one', async () => {
  const failure = async (code: string) => {
    const { error } = await outcome(
      start(async () => Response.json({ error: { code, message: CANARY } }, { status: 401 })),
    )
    return (error as GatewayError).cause
  }
  expect(await failure('invalid_api_key')).toMatchObject({ code: 'invalid_api_key' })
  expect(await failure(CANARY)).toMatchObject({ code: null })
})

test.each([
  ['a refused connection', new TypeError(`fetch failed: ${CANARY}@upstream.test ECONNREFUSED`)],
  ['a broken connection', new Error(`Network connection lost to ${CANARY}`)],
  ['something thrown', CANARY],
])('call() maps %s to upstream_unavailable without its text', async (_, thrown) => {
  const { code, error } = await outcome(
    start(async () => {
      throw thrown
    }),
  )
  expect(code).toBe('upstream_unavailable')
  expect((error as GatewayError).message).not.toMatch(/ECONN|upstream\.test|Network/)
})

test('call() times out and aborts the request when the upstream never answers', async () => {
  let signal: AbortSignal | null = null
  const send: Send = (outgoing) => {
    signal = outgoing.signal
    return new Promise(() => {})
  }
  const calling = outcome(start(send))
  await pass(299)
  expect(signal).toMatchObject({ aborted: false })
  await pass(1)
  expect((await calling).code).toBe('upstream_timeout')
  expect(signal).toMatchObject({ aborted: true })
})

test('call() times out when headers arrive but no body', async () => {
  const body = openStream()
  const calling = outcome(start(async () => body.response()))
  await pass(300)
  expect((await calling).code).toBe('upstream_timeout')
  expect(body.state.cancelled).toBe(1)
})

test('call() yields the text so far, then times out, when the body goes silent', async () => {
  const body = openStream()
  body.push(chunk('Hel'))
  const calling = outcome(start(async () => body.response()))
  await pass(150)
  body.push(chunk('lo'))
  await pass(199)
  expect(body.state.cancelled).toBe(0)
  await pass(1)
  const { deltas, code } = await calling
  expect([textOf(deltas), code]).toEqual(['Hello', 'upstream_timeout'])
  expect(body.state.cancelled).toBe(1)
})

test('call() ends an endless slow stream at the deadline', async () => {
  const body = openStream()
  const calling = outcome(start(async () => body.response(), { deadlineMs: 1000 }))
  for (let i = 0; i < 10; i++) {
    body.push(i % 2 === 0 ? ':\n\n' : chunk('x'))
    await pass(100)
  }
  const { deltas, code } = await calling
  expect([textOf(deltas), code]).toEqual(['xxxxx', 'upstream_timeout'])
  expect(body.state.cancelled).toBe(1)
})

test('call() times out when an error body hangs', async () => {
  const body = openStream()
  body.push('{"error":')
  const calling = outcome(start(async () => body.response({ status: 500 })))
  await pass(500)
  expect(['upstream_timeout', 'upstream_unavailable']).toContain((await calling).code)
  expect(body.state.cancelled).toBe(1)
})

test('call() fails immediately when its deadline has passed', async () => {
  const calling = outcome(start(() => new Promise(() => {}), { deadlineMs: 0 }))
  expect((await calling).code).toBe('upstream_timeout')
})

test('call() maps a reset before the first byte to upstream_unavailable', async () => {
  const body = openStream()
  body.fail(new Error(`ECONNRESET ${CANARY}`))
  expect((await outcome(start(async () => body.response()))).code).toBe('upstream_unavailable')
})

test('call() maps a reset in the middle to upstream_truncated', async () => {
  const body = openStream()
  const calling = start(async () => body.response())
  body.push(chunk('Hel'))
  expect(textOf((await calling.next()).value ?? [])).toBe('Hel')
  body.fail(new Error(`ECONNRESET ${CANARY}`))
  expect((await outcome(calling)).code).toBe('upstream_truncated')
})

test.each([
  ['in the middle of JSON', '{"choices":[{"text":"Hel'],
  ['in the middle of an event', `${chunk('Hello')}data: {"choices":[{"te`],
])('call() maps a body cut %s to upstream_truncated', async (_, body) => {
  expect((await outcome(start(async () => new Response(body)))).code).toBe('upstream_truncated')
})

test('call() maps a body that cannot be decompressed to upstream_bad_response', async () => {
  const body = openStream()
  body.fail(new TypeError(`invalid gzip ${CANARY}`))
  expect((await outcome(start(async () => body.response()))).code).toBe('upstream_bad_response')
})

test.each([
  ['JSON', `{"choices":[{"text":"${'x'.repeat(5000)}"}]}`],
  ['one event', `data: {"choices":[{"text":"${'x'.repeat(5000)}"}]}\n\n`],
  ['many events', chunk('x').repeat(100)],
  ['an unterminated event', `data: ${'x'.repeat(5000)}`],
  ['comments', ':\n\n'.repeat(2000)],
])('call() stops reading %s above maxOutputBytes', async (_, body) => {
  const upstream = openStream()
  const whole = new TextEncoder().encode(body)
  for (let at = 0; at < whole.length; at += 1000) upstream.pushBytes(whole.subarray(at, at + 1000))
  const { code } = await outcome(start(async () => upstream.response()))
  expect(code).toBe('upstream_bad_response')
  await upstream.left
})

test('call() ends without an error when comments exceed maxOutputBytes after all choices have finished', async () => {
  const progress = () => 'finished' as const
  const { deltas, code } = await outcome(
    start(async () => streamAnswer(chunk('Hello', 'stop'), ':\n\n'.repeat(2000)), { progress }),
  )
  expect([textOf(deltas), deltas.at(-1)?.kind, code]).toEqual(['Hello', 'cut', null])
})

test.each<[Progress, number, string | null]>([
  ['running', 200, 'upstream_timeout'],
  ['claimed', 200, null],
  ['finished', 2000, null],
])('call() ends a silent body whose answer is %s after %i ms', async (state, ms, code) => {
  const body = openStream()
  body.push(chunk('Hello'))
  const setting = {
    progress: () => state,
    options: { idleMs: state === 'finished' ? 9000 : 200 },
  }
  const calling = outcome(start(async () => body.response(), { ...setting, deadlineMs: 9000 }))
  await pass(ms - 1)
  expect(body.state.cancelled).toBe(0)
  await pass(1)
  const got = await calling
  expect(got.code).toBe(code)
  expect(got.deltas.at(-1)?.kind).toBe(code === null ? 'cut' : 'text')
  expect(body.state.cancelled).toBe(1)
})

test('call() accepts an answer of exactly maxOutputBytes', async () => {
  const body = chunk('Hello', 'stop') + DONE
  const { deltas, code } = await outcome(
    start(async () => new Response(body), { options: { maxOutputBytes: body.length } }),
  )
  expect([textOf(deltas), code]).toEqual(['Hello', null])
})

test("call() stops reading when its caller aborts, and rejects with the caller's reason", async () => {
  const body = openStream()
  const controller = new AbortController()
  const calling = start(async () => body.response(), { signal: controller.signal })
  body.push(chunk('Hel'))
  await calling.next()
  const rest = calling.next()
  const reason = new Error('the visitor left')
  controller.abort(reason)
  await expect(rest).rejects.toBe(reason)
  expect(body.state.cancelled).toBe(1)
})

test('call() does not wait for an answer after an abort', async () => {
  const controller = new AbortController()
  let signal: AbortSignal | null = null
  const send: Send = (outgoing) => {
    signal = outgoing.signal
    return new Promise(() => {})
  }
  const first = start(send, { signal: controller.signal }).next()
  const reason = new Error('the visitor left')
  controller.abort(reason)
  await expect(first).rejects.toBe(reason)
  expect(signal).toMatchObject({ aborted: true })
})

test("call() rejects with the caller's reason when aborted while reading an error", async () => {
  const body = openStream()
  const controller = new AbortController()
  const first = start(async () => body.response({ status: 500 }), { signal: controller.signal })
  const rest = first.next()
  await pass(0)
  const reason = new Error('the visitor left')
  controller.abort(reason)
  await expect(rest).rejects.toBe(reason)
})

test('call() cancels the body when its reader returns early', async () => {
  const body = openStream()
  body.push(chunk('Hel'))
  const calling = start(async () => body.response())
  await calling.next()
  await calling.return(undefined)
  expect(body.state.cancelled).toBe(1)
})

test('call() ignores an answer that arrives after it gave up', async () => {
  const late = Promise.withResolvers<Response>()
  const calling = outcome(start(() => late.promise))
  await pass(300)
  expect((await calling).code).toBe('upstream_timeout')
  late.reject(new Error('late'))
  await pass(1)
})

test('call() reports acceptance once, before the first delta', async () => {
  const order: string[] = []
  const send: Send = async () => streamAnswer(chunk('a'), chunk('b', 'stop'), DONE)
  for await (const _ of start(send, { onAccepted: () => order.push('accepted') }))
    order.push('batch')
  expect(order[0]).toBe('accepted')
  expect(order.filter((what) => what === 'accepted')).toHaveLength(1)
})

test('call() reports acceptance even if the answer is unusable', async () => {
  let accepted = 0
  const onAccepted = () => {
    accepted += 1
  }
  await outcome(start(async () => new Response('<html>'), { onAccepted }))
  expect(accepted).toBe(1)
})

test('call() yields the text before an error in the same piece of body', async () => {
  const body = `${chunk('Hello')}data: {"error":{"message":"${CANARY}","code":500}}\n\n`
  const { deltas, code } = await outcome(start(async () => new Response(body)))
  expect([textOf(deltas), code]).toEqual(['Hello', 'upstream_unavailable'])
})
