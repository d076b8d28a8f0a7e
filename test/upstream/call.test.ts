// One upstream call: what it sends, its limits, and the reason of each failure. What upstreams
// answer, well or badly, is in the fixtures; what errors mean is in failure.test.ts.
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import type { Send } from '../../src/upstream/call.ts'
import type { UpstreamCause } from '../../src/upstream/failure.ts'
import type { Progress } from '../../src/upstream/normalise.ts'
import { chunk, DONE, jsonAnswer, openStream, START, streamAnswer } from '../support/app.ts'
import { CANARY } from '../support/canary.ts'
import { type CallSetting, startCall } from '../support/upstreams.ts'

const outcome = (send: Send, setting: CallSetting = {}) => startCall(send, setting).rest()
const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms)
const never: Send = () => new Promise(() => {})
const reason = new Error('the visitor left')

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'], now: START })
})

afterEach(() => {
  expect(vi.getTimerCount(), 'a timer was left running').toBe(0)
  vi.useRealTimers()
})

test('call() sends one POST with the key to the configured address, and follows no redirect', async () => {
  const sent: Request[] = []
  const send: Send = async (outgoing) => {
    sent.push(outgoing.clone())
    return jsonAnswer('Hello')
  }
  await outcome(send)
  await outcome(send, { request: { stream: false } })
  const [streamed, whole] = sent
  expect(sent).toHaveLength(2)
  expect(streamed).toMatchObject({
    url: 'https://upstream.test/v1/completions',
    method: 'POST',
    redirect: 'manual',
  })
  expect(Object.fromEntries(streamed?.headers ?? [])).toEqual({
    authorization: `Bearer ${CANARY}`,
    'content-type': 'application/json',
    accept: 'text/event-stream, application/json',
  })
  expect(await streamed?.json()).toMatchObject({ model: 'model-1', prompt: 'Once', stream: true })
  expect(whole?.headers.get('accept')).toBe('application/json')
})

test('call() reads an event stream and yields one batch per piece of the body', async () => {
  const { batches } = await outcome(async () =>
    streamAnswer(chunk('He'), chunk('llo') + chunk('!'), chunk('', 'stop') + DONE),
  )
  const texts = batches.map((batch) => batch.map((delta) => ('text' in delta ? delta.text : '')))
  expect(texts.map((batch) => batch.join(''))).toEqual(['He', 'llo!', ''])
})

test('call() stops reading after [DONE] and cancels the body', async () => {
  const body = openStream()
  body.push(chunk('a', 'stop') + DONE + chunk('EXTRA'))
  const { deltas, texts, code } = await outcome(async () => body.response())
  expect([texts, deltas.at(-1)?.kind, code]).toEqual([['a'], 'end', null])
  await body.left
})

test.each([301, 307, 401, 500])(
  'call() of a %i sends nothing more, costs nothing, and keeps no text of the upstream',
  async (status) => {
    const send = vi.fn<Send>(async () => {
      const headers = { location: `https://evil.test/?${CANARY}`, 'set-cookie': `k=${CANARY}` }
      const error = { message: `Bad key ${CANARY}`, code: CANARY }
      return Response.json({ error }, { status, headers })
    })
    const onAccepted = vi.fn()
    const { error, deltas } = await outcome(send, { onAccepted })
    expect(error).toMatchObject({ cause: { status, code: null } })
    expect(deltas).toEqual([])
    expect(send).toHaveBeenCalledTimes(1)
    expect(onAccepted).not.toHaveBeenCalled()
  },
)

test.each([
  [429, 'Retry-After', 'upstream_rate_limited', { retryAfterSeconds: 7 }],
  [429, 'llm_provider-retry-after', 'upstream_rate_limited', { retryAfterSeconds: 7 }],
  [503, 'Retry-After', 'upstream_unavailable', { cause: { backInSeconds: 7 } }],
  [401, 'Retry-After', 'upstream_rejected', { retryAfterSeconds: null }],
])('call() of a %i reads its %s', async (status, name, code, failure) => {
  const headers = { [name]: new Date(START + 7000).toUTCString() }
  const { error } = await outcome(async () => new Response('{}', { status, headers }))
  expect(error).toMatchObject({ code, ...failure })
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
  expect((await outcome(send, { maxOutputBytes: 1_048_576 })).code).toBe('upstream_unavailable')
  expect(pulled).toBeLessThanOrEqual(8)
})

const failing =
  (thrown: unknown): Send =>
  async () => {
    throw thrown
  }
const plain =
  (body: string | null, status = 200): Send =>
  async () =>
    new Response(body, { status })
/** Sends this, then fails. */
const broken =
  (error: Error, text = ''): Send =>
  async () => {
    const body = openStream()
    if (text !== '') body.push(text)
    setTimeout(() => body.fail(error))
    return body.response()
  }

test.each<[string, Send, string, string | null]>([
  // What workerd throws. It does not distinguish a closed port from a broken connection.
  [
    'a refused connection',
    failing(new Error(`Network connection lost to ${CANARY}`)),
    'unavailable',
    'connection_lost',
  ],
  [
    'no such host, or TLS',
    failing(new Error(`internal error; reference = ${CANARY}`)),
    'unavailable',
    'no_connection',
  ],
  ['any other exception', failing(new TypeError(`fetch ${CANARY}`)), 'unavailable', 'not_sent'],
  ['something thrown', failing(CANARY), 'unavailable', 'not_sent'],
  ['a reset before the first byte', broken(new Error(CANARY)), 'unavailable', null],
  ['a reset in the middle', broken(new Error(CANARY), chunk('Hel')), 'truncated', null],
  ['a bad encoding', broken(new TypeError(`gzip ${CANARY}`)), 'bad_response', 'undecodable'],
  ['a torn body', plain('{"choices":[{"te'), 'truncated', null],
  ['a torn event', plain(`${chunk('Hello')}data: {"choices":[{"te`), 'truncated', null],
  ['HTML', plain(`<!doctype html><h1>${CANARY}</h1>`), 'bad_response', 'html'],
  ['an empty body', plain(' \n\t\n'), 'bad_response', 'empty'],
  ['a 204', plain(null, 204), 'bad_response', 'empty'],
  ['a stream of something else', plain(`data: ${CANARY}\n\n`), 'bad_response', null],
  [
    'deep nesting',
    plain(`{"choices":${'['.repeat(1900)}${']'.repeat(1900)}}`),
    'bad_response',
    null,
  ],
  [
    'JSON that gave up',
    plain('{"choices":[{"finish_reason":"error"}]}'),
    'bad_response',
    'gave_up',
  ],
])('call() reports %s', async (_, send, kind, why) => {
  const calling = outcome(send)
  await pass(1)
  const { code, error } = await calling
  expect([code, (error as { cause: UpstreamCause }).cause.code]).toEqual([`upstream_${kind}`, why])
})

test('call() times out and aborts the request when the upstream never answers', async () => {
  const late = Promise.withResolvers<Response>()
  const send = vi.fn<Send>(() => late.promise)
  const onAccepted = vi.fn()
  const calling = outcome(send, { onAccepted })
  await pass(299)
  const signal = send.mock.calls[0]?.[0].signal
  expect(signal?.aborted).toBe(false)
  await pass(1)
  expect(await calling).toMatchObject({
    code: 'upstream_timeout',
    error: { cause: { code: 'first_byte' } },
  })
  expect(signal?.aborted).toBe(true)
  expect(onAccepted, 'the upstream may bill it').toHaveBeenCalledTimes(1)
  late.reject(new Error('late'))
  await pass(1)
})

test.each<[string, string, number, string]>([
  ['headers', '', 200, 'first_byte'],
  ['the beginning of an error', '{"error":', 500, 'idle'],
])('call() times out when only %s arrive', async (_, text, status, why) => {
  const body = openStream()
  if (text !== '') body.push(text)
  const calling = outcome(async () => body.response({ status }))
  await pass(300)
  expect((await calling).error).toMatchObject({ code: 'upstream_timeout', cause: { code: why } })
  expect(body.state.cancelled).toBe(1)
})

test('call() yields the text so far, then times out, when the body goes silent', async () => {
  const body = openStream()
  body.push(chunk('Hel'))
  const calling = outcome(async () => body.response())
  await pass(150)
  body.push(chunk('lo'))
  await pass(199)
  expect(body.state.cancelled).toBe(0)
  await pass(1)
  const { texts, error } = await calling
  expect(texts).toEqual(['Hello'])
  expect(error).toMatchObject({ code: 'upstream_timeout', cause: { code: 'idle' } })
  expect(body.state.cancelled).toBe(1)
})

test('call() ends an endless slow stream at the deadline', async () => {
  const body = openStream()
  const calling = outcome(async () => body.response())
  for (let i = 0; i < 10; i++) {
    body.push(i % 2 === 0 ? ':\n\n' : chunk('x'))
    await pass(100)
  }
  const { texts, error } = await calling
  expect(texts).toEqual(['xxxxx'])
  expect(error).toMatchObject({ code: 'upstream_timeout', cause: { code: 'deadline' } })
  expect(body.state.cancelled).toBe(1)
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
  const { error } = await outcome(async () => upstream.response())
  expect(error).toMatchObject({ code: 'upstream_bad_response', cause: { code: 'too_large' } })
  await upstream.left
})

test('call() ends without an error when comments exceed maxOutputBytes after all choices have finished', async () => {
  const { texts, deltas, code } = await outcome(
    async () => streamAnswer(chunk('Hello', 'stop'), ':\n\n'.repeat(2000)),
    { progress: () => 'finished' },
  )
  expect([texts, deltas.at(-1)?.kind, code]).toEqual([['Hello'], 'cut', null])
})

test.each<[Progress, number, string | null]>([
  ['running', 200, 'upstream_timeout'],
  ['claimed', 200, null],
  ['finished', 2000, null],
])('call() ends a silent body whose answer is %s after %i ms', async (state, ms, code) => {
  const body = openStream()
  body.push(chunk('Hello'))
  const calling = outcome(async () => body.response(), {
    progress: () => state,
    idleMs: state === 'finished' ? 9000 : 200,
    deadlineMs: 9000,
  })
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
  const { texts, code } = await outcome(plain(body), { maxOutputBytes: body.length })
  expect([texts, code]).toEqual([['Hello'], null])
})

test.each<[string, string, number]>([
  ['text', chunk('Hel'), 200],
  ['an error', '{"error":', 500],
])(
  "call() stops reading %s when its caller aborts, and rejects with the caller's reason",
  async (_, text, status) => {
    const body = openStream()
    const controller = new AbortController()
    body.push(text)
    const calling = outcome(async () => body.response({ status }), { signal: controller.signal })
    await pass(0)
    controller.abort(reason)
    expect((await calling).error).toBe(reason)
    expect(body.state.cancelled).toBe(1)
  },
)

test('call() does not wait for an answer after an abort', async () => {
  const controller = new AbortController()
  const send = vi.fn(never)
  const calling = outcome(send, { signal: controller.signal })
  controller.abort(reason)
  expect((await calling).error).toBe(reason)
  expect(send.mock.calls[0]?.[0].signal.aborted).toBe(true)
})

test('call() cancels the body when its reader returns early', async () => {
  const body = openStream()
  body.push(chunk('Hel'))
  const calling = startCall(async () => body.response())
  await calling.next()
  await calling.leave()
  expect(body.state.cancelled).toBe(1)
})

test.each([
  ['a stream', () => streamAnswer(chunk('a'), chunk('b', 'stop'), DONE)],
  ['an unusable answer', () => new Response('<html>')],
])('call() reports acceptance of %s once, before the first delta', async (_, respond) => {
  const onAccepted = vi.fn()
  const calling = startCall(async () => respond(), { onAccepted })
  await calling.next().catch(() => {})
  expect(onAccepted).toHaveBeenCalledTimes(1)
  await calling.rest()
  expect(onAccepted).toHaveBeenCalledTimes(1)
})

test('call() yields the text before an error in the same piece of body', async () => {
  const error = `data: {"error":{"message":"${CANARY}","code":500}}\n\n`
  const { texts, code } = await outcome(plain(chunk('Hello') + error))
  expect([texts, code]).toEqual([['Hello'], 'upstream_unavailable'])
})
