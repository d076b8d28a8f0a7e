// Reading a request's JSON: limits on size and time, strict UTF-8, content types. Sending long bodies
// in pieces.
import fc from 'fast-check'
import { afterEach, expect, test, vi } from 'vitest'
import { GatewayError } from '../../src/errors.ts'
import { inPieces, readJson } from '../../src/http/body.ts'
import { openStream } from '../support/app.ts'

const options = { maxBytes: 64, deadlineMs: 1000 }
const bytes = (text: string) => new TextEncoder().encode(text)

type Body = string | Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array> | null

function request(body: Body, headers: Record<string, string> = {}): Request {
  const init = { method: 'POST', body, headers: { 'content-type': 'application/json', ...headers } }
  return new Request('https://edge.test/v1/completions', {
    ...init,
    ...(body instanceof ReadableStream ? { duplex: 'half' } : {}),
  } as RequestInit)
}

async function refusal(reading: Promise<unknown>): Promise<GatewayError> {
  const error = await reading.then(
    (value) => expect.fail(`read ${JSON.stringify(value)}`),
    (reason: unknown) => reason,
  )
  expect(error).toBeInstanceOf(GatewayError)
  return error as GatewayError
}

function streamOf(...chunks: readonly Uint8Array[]): ReadableStream<Uint8Array> {
  const body = openStream()
  for (const chunk of chunks) body.pushBytes(chunk)
  body.end()
  return body.stream
}

afterEach(() => {
  vi.useRealTimers()
})

test.each([
  ['{"prompt":"a"}', { prompt: 'a' }],
  [' \n{"a":1}\t', { a: 1 }],
  ['null', null],
  ['[1,2]', [1, 2]],
  ['{"a":1,"a":2}', { a: 2 }],
  ['"\\u0000\\u202e\\u200d"', '\u0000\u202e\u200d'],
  ['"🎈é"', '🎈é'],
])('readJson() reads %j', async (text, value) => {
  expect(await readJson(request(text), options)).toEqual(value)
})

test('readJson() ignores a byte order mark', async () => {
  const marked = new Uint8Array([0xef, 0xbb, 0xbf, ...bytes('{"a":"é"}')])
  expect(await readJson(request(marked), options)).toEqual({ a: 'é' })
})

test.each<[string, Body]>([
  ['no body', null],
  ['nothing', ''],
  ['white space', ' \r\n\t '],
  ['a trailing letter', '{"a":1}x'],
  ['NaN', 'NaN'],
  ['single quotes', "{'a':1}"],
  ['two byte order marks', '\ufeff\ufeff{}'],
  ['an incomplete object', '{"a":'],
  ['a comment', '{}//'],
  ['UTF-16 little endian', new Uint8Array([0xff, 0xfe, 0x7b, 0x00, 0x7d, 0x00])],
  ['UTF-16 without a byte order mark', new Uint8Array([0x7b, 0x00, 0x7d, 0x00])],
  ['a lone continuation byte', new Uint8Array([0x22, 0x80, 0x22])],
  ['an overlong slash', new Uint8Array([0x22, 0xc0, 0xaf, 0x22])],
  ['an encoded surrogate', new Uint8Array([0x22, 0xed, 0xa0, 0x80, 0x22])],
  ['an incomplete character', new Uint8Array([0x22, 0xf0, 0x9f, 0x8e, 0x22])],
])('readJson() rejects %s with invalid_json', async (_, body) => {
  expect((await refusal(readJson(request(body), options))).code).toBe('invalid_json')
})

test('readJson() reads any JSON regardless of how its bytes are split', async () => {
  const body = fc.tuple(fc.jsonValue(), fc.array(fc.nat(60), { maxLength: 6 }))
  await fc.assert(
    fc.asyncProperty(body, async ([value, cuts]) => {
      const whole = bytes(JSON.stringify(value))
      const ends = [...cuts.filter((cut) => cut < whole.length), whole.length].sort((a, b) => a - b)
      const chunks = ends.map((end, i) => whole.subarray(ends[i - 1] ?? 0, end))
      const read = readJson(request(streamOf(...chunks)), { ...options, maxBytes: whole.length })
      expect(await read).toEqual(JSON.parse(JSON.stringify(value)))
    }),
    { numRuns: 60 },
  )
})

test('readJson() behaves like a strict decoder for any bytes', async () => {
  const any = fc.oneof(
    fc.uint8Array({ maxLength: 40 }),
    fc
      .tuple(fc.uint8Array({ maxLength: 8 }))
      .map(([inner]) => new Uint8Array([0x22, ...inner, 0x22])),
  )
  await fc.assert(
    fc.asyncProperty(any, async (body) => {
      let expected: unknown
      try {
        expected = JSON.parse(
          new TextDecoder('utf-8', { fatal: true, ignoreBOM: false }).decode(body),
        )
      } catch {
        expected = 'invalid_json'
      }
      const got = await readJson(request(new Uint8Array(body)), options).catch(
        (error: GatewayError) => error.code,
      )
      expect(got).toEqual(expected)
    }),
    { numRuns: 100 },
  )
})

test('readJson() rejects a declared length above the limit without reading', async () => {
  const body = openStream()
  const length = { 'content-length': '10000000000' }
  const error = await refusal(readJson(request(body.stream, length), options))
  expect(error.code).toBe('body_too_large')
  expect(error.message).toContain('64')
})

test.each(['-1', '3', 'many', '1e3', ''])(
  'readJson() counts the bytes itself when Content-Length is %j',
  async (length) => {
    const declared = { 'content-length': length }
    const fits = request(streamOf(bytes(`"${'a'.repeat(62)}"`)), declared)
    // "1e3" reads as a thousand: it may be rejected immediately, but must not raise the limit.
    const got = await readJson(fits, options).catch((error: GatewayError) => error.code)
    expect(['a'.repeat(62), 'body_too_large']).toContain(got)
    const tooLong = request(streamOf(bytes(`"${'a'.repeat(63)}"`)), declared)
    expect((await refusal(readJson(tooLong, options))).code).toBe('body_too_large')
  },
)

test('readJson() accepts a body of exactly the limit and rejects one more byte', async () => {
  const fits = `"${'é'.repeat(31)}"`
  expect(bytes(fits)).toHaveLength(64)
  expect(await readJson(request(fits), options)).toBe('é'.repeat(31))
  expect((await refusal(readJson(request(`${fits} `), options))).code).toBe('body_too_large')
})

test('readJson() cancels an endless body at the limit', async () => {
  let pulled = 0
  let cancelled = 0
  const endless = new ReadableStream<Uint8Array>({
    pull(controller) {
      pulled += 1
      controller.enqueue(new Uint8Array(16).fill(0x20))
    },
    cancel() {
      cancelled += 1
    },
  })
  expect((await refusal(readJson(request(endless), options))).code).toBe('body_too_large')
  expect(cancelled).toBe(1)
  expect(pulled).toBeLessThanOrEqual(8)
})

test('readJson() cancels a body that stalls', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] })
  const body = openStream()
  body.push('{"prompt":')
  const reading = refusal(readJson(request(body.stream), options))
  await vi.advanceTimersByTimeAsync(999)
  expect(body.state.cancelled).toBe(0)
  await vi.advanceTimersByTimeAsync(1)
  expect((await reading).code).toBe('body_timeout')
  expect(body.state.cancelled).toBe(1)
})

test('readJson() rejects a body that is sent too slowly, even if it never stalls', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] })
  const body = openStream()
  const reading = refusal(readJson(request(body.stream), options))
  for (let i = 0; i < 10; i++) {
    body.push(' ')
    await vi.advanceTimersByTimeAsync(100)
  }
  expect((await reading).code).toBe('body_timeout')
})

test('readJson() leaves no timer behind', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] })
  await readJson(request('{}'), options)
  await refusal(readJson(request('{'), options))
  await refusal(readJson(request(' '.repeat(65)), options))
  expect(vi.getTimerCount()).toBe(0)
})

test('readJson() does not quote the runtime’s error for a lost connection', async () => {
  const body = openStream()
  body.push('{')
  body.fail(new Error('ECONNRESET 192.0.2.1'))
  const error = await refusal(readJson(request(body.stream), options))
  expect(error.code).toBe('invalid_json')
  expect(error.message).not.toContain('ECONNRESET')
})

test('readJson() does not quote the body in its errors', async () => {
  await fc.assert(
    fc.asyncProperty(fc.string({ minLength: 8, maxLength: 30 }), async (text) => {
      const error = await refusal(readJson(request(`{"${text}`), options))
      expect(error.message).not.toContain(text)
    }),
    { numRuns: 30 },
  )
})

test.each<[accepted: boolean, header: 'content-type' | 'content-encoding', values: string[]]>([
  [true, 'content-type', ['application/json', 'APPLICATION/JSON', ' text/plain ']],
  [true, 'content-type', ['application/json;charset="utf-8"; x=y', 'text/plain;charset=UTF-8']],
  [false, 'content-type', ['', 'json', 'text/html', 'application/jsonp']],
  [false, 'content-type', ['application/json, text/html', 'multipart/form-data; boundary=x']],
  [false, 'content-type', ['application/octet-stream; application/json']],
  [true, 'content-encoding', ['identity', 'Identity']],
  [false, 'content-encoding', ['gzip', 'br', 'GZIP', 'identity, gzip', 'x']],
])('readJson() accepts (%j) a body with %s: %j', async (accepted, header, values) => {
  for (const value of values) {
    const reading = readJson(request('{}', { [header]: value }), options)
    if (accepted) expect(await reading, value).toEqual({})
    else expect((await refusal(reading)).code, value).toBe('unsupported_media_type')
  }
})

test('readJson() rejects a body without Content-Type', async () => {
  const untyped = new Request('https://edge.test/', { method: 'POST', body: bytes('{}') })
  expect(untyped.headers.get('content-type')).toBeNull()
  expect((await refusal(readJson(untyped, options))).code).toBe('unsupported_media_type')
})

const bytesOf = (length: number) => Uint8Array.from({ length }, (_, i) => i % 251)

test('inPieces() returns a short body unchanged', () => {
  const bytes = bytesOf(65_536)
  expect(inPieces(bytes)).toBe(bytes)
})

test.each([65_537, 98_304, 98_305, 1_000_000])(
  'inPieces() streams %i bytes on demand without copying them',
  async (length) => {
    const bytes = bytesOf(length)
    const stream = inPieces(bytes)
    if (stream instanceof Uint8Array) throw new TypeError('expected a stream')
    const pieces = await Array.fromAsync(stream)
    expect(Buffer.concat(pieces).equals(bytes)).toBe(true)
    for (const piece of pieces) {
      expect(piece.byteLength).toBeLessThanOrEqual(32_768)
      expect(piece.byteLength).toBeGreaterThan(0)
      expect(piece.buffer).toBe(bytes.buffer)
    }
  },
)
