// What an upstream's failure becomes, and what of it never gets out.

import fc from 'fast-check'
import { expect, test } from 'vitest'
import { GatewayError } from '../../src/errors.ts'
import {
  errorIn,
  explanationOf,
  failureOfError,
  failureOfStatus,
  identifierOf,
  parseRetryAfter,
  upstreamFailure,
} from '../../src/upstream/failure.ts'
import { failureOfResponse } from '../../src/upstream/openai.ts'

/** 14 November 2023, 22:13:20 GMT. */
const NOW_MS = 1_700_000_000_000

const statuses: readonly (readonly [number, string])[] = [
  [100, 'upstream_rejected'],
  [199, 'upstream_rejected'],
  ...[300, 301, 302, 303, 304, 307, 308].map((status) => [status, 'upstream_rejected'] as const),
  [400, 'upstream_refused_request'],
  [413, 'upstream_refused_request'],
  [422, 'upstream_refused_request'],
  ...[401, 402, 403, 404, 405, 408, 409, 418, 424, 425, 451, 498, 499].map(
    (status) => [status, 'upstream_rejected'] as const,
  ),
  [429, 'upstream_rate_limited'],
  ...[500, 501, 502, 503, 504, 520, 522, 524, 529, 599].map(
    (status) => [status, 'upstream_unavailable'] as const,
  ),
  [600, 'upstream_rejected'],
  [999, 'upstream_rejected'],
]

test.each(statuses)('failureOfStatus(%i) is %s', (status, code) => {
  expect(failureOfStatus(status).code).toBe(code)
  expect(failureOfStatus(status).cause).toEqual({ status, code: null, hint: null })
})

test('failureOfStatus() has a time to come back only for 429, 1 to 300 seconds', () => {
  for (const [status] of statuses) {
    const { retryAfterSeconds } = failureOfStatus(status, {}, 42)
    expect(retryAfterSeconds).toBe(status === 429 ? 42 : null)
  }
  expect(failureOfStatus(429, {}, 0).retryAfterSeconds).toBe(1)
  expect(failureOfStatus(429, {}, -5).retryAfterSeconds).toBe(1)
  expect(failureOfStatus(429, {}, 301).retryAfterSeconds).toBe(300)
  const unsaid = failureOfStatus(429).retryAfterSeconds ?? 0
  expect(unsaid).toBeGreaterThanOrEqual(1)
  expect(unsaid).toBeLessThanOrEqual(300)
})

test.each([
  ['5', 5],
  [' 5 ', 5],
  ['0', 0],
  ['1000000000', 1_000_000_000],
  ['Tue, 14 Nov 2023 22:13:50 GMT', 30],
  ['Tue, 14 Nov 2023 22:13:00 GMT', -20],
  ['Tuesday, 14-Nov-23 22:13:50 GMT', 30],
  ['', null],
  ['-1', null],
  ['1.5', null],
  ['5s', null],
  ['1e3', null],
  ['0x10', null],
  ['soon', null],
  ['2023-11-14T22:13:50Z', null],
  ['9'.repeat(400), null],
  [null, null],
] as const)('parseRetryAfter(%j) is %j', (header, seconds) => {
  expect(parseRetryAfter(header, NOW_MS)).toBe(seconds)
})

test('a 429 says 1 to 300 whole seconds, whatever its header holds', () => {
  fc.assert(
    fc.property(
      fc.oneof(fc.string(), fc.integer().map(String), fc.date().map(String)),
      (header) => {
        const failure = failureOfStatus(429, {}, parseRetryAfter(header, NOW_MS))
        const seconds = failure.retryAfterSeconds ?? Number.NaN
        expect(Number.isInteger(seconds)).toBe(true)
        expect(seconds).toBeGreaterThanOrEqual(1)
        expect(seconds).toBeLessThanOrEqual(300)
      },
    ),
  )
})

test.each([
  ['code', { code: 503 }, 'upstream_unavailable'],
  ['status_code (Groq)', { code: 'x', status_code: 400 }, 'upstream_refused_request'],
  ['http_status_code (TGI)', { http_status_code: 422 }, 'upstream_refused_request'],
  ['status', { status: 429 }, 'upstream_rate_limited'],
  ['a key of its own that is refused', { code: 401 }, 'upstream_rejected'],
  ['digits (LiteLLM)', { code: '429' }, 'upstream_rate_limited'],
  ['digits and words', { status: '503 Service Unavailable' }, 'upstream_unavailable'],
  ['a status under another name', { statusCode: '400' }, 'upstream_refused_request'],
  [
    'a word, and the status of an inner error',
    { code: 'x', error: { code: 429 } },
    'upstream_rate_limited',
  ],
  ['metadata with a status', { metadata: { details: [{ code: '503' }] } }, 'upstream_unavailable'],
  ['digits that are no status', { code: '4290' }, 'upstream_bad_response'],
  ['digits within a word', { code: 'E429' }, 'upstream_bad_response'],
  ['no status', { type: 'server_error' }, 'upstream_bad_response'],
  ['a status that is none', { code: 200 }, 'upstream_bad_response'],
  ['a vendor number', { code: 50_002 }, 'upstream_bad_response'],
  ['a negative number', { code: -1 }, 'upstream_bad_response'],
  ['a string', 'gone', 'upstream_bad_response'],
  ['nothing', null, 'upstream_bad_response'],
  ['a list', [], 'upstream_bad_response'],
] as const)('failureOfError() of an error with %s', (_, error, code) => {
  expect(failureOfError(error).code).toBe(code)
})

test('failureOfError() takes the status beside an error that has none', () => {
  expect(failureOfError('busy', { error: 'busy', code: '429' }).code).toBe('upstream_rate_limited')
  expect(failureOfError({ code: 400 }, { status: 503 }).code).toBe('upstream_refused_request')
})

test('failureOfError() looks no deeper than it must', () => {
  let error: object = { code: 429 }
  for (let depth = 0; depth < 10_000; depth++) error = { error }
  expect(failureOfError(error).code).toBe('upstream_bad_response')
})

test.each([
  ['the usual envelope', { error: { message: 'm' } }, { message: 'm' }],
  ['a string', { error: 'm' }, 'm'],
  ['a list with one (Gemini)', [{ error: { message: 'm' } }], { message: 'm' }],
  ['a list inside (AI Gateway)', { error: [{ message: 'm' }] }, { message: 'm' }],
  ['several errors (Cloudflare)', { errors: [{ message: 'm' }] }, { message: 'm' }],
  ['a fault (Fireworks)', { fault: { faultstring: 'm' } }, { faultstring: 'm' }],
  ['a flat body', { object: 'error', message: 'm' }, { object: 'error', message: 'm' }],
  ['an empty list', [], null],
  ['no object', 'm', null],
] as const)('errorIn() finds the error in %s', (_, body, error) => {
  expect(errorIn(body)).toEqual(error)
})

test('explanationOf() reads the texts that servers explain with', () => {
  expect(explanationOf({ error: { message: 'm' } })).toBe('m')
  expect(explanationOf({ error: 'm' })).toBe('m')
  expect(explanationOf({ msg: 'm' })).toBe('m')
  expect(explanationOf({ error_msg: 'm' })).toBe('m')
  expect(explanationOf({ message: { detail: [] } })).toBe('')
  expect(explanationOf(null)).toBe('')
})

test('identifierOf() takes a short identifier and nothing else', () => {
  expect(identifierOf({ code: 'context_length', type: 'x' })).toBe('context_length')
  expect(identifierOf({ code: 7, type: 'server_error' })).toBe('server_error')
  expect(identifierOf({ code: null, type: 'ServerError' })).toBe('ServerError')
  for (const text of [
    'sk-live-123',
    'two words',
    'https://x',
    '',
    'a'.repeat(49),
    'key1',
    'é',
    'a\n',
  ]) {
    expect(identifierOf({ code: text }), text).toBeNull()
  }
})

test.each([
  [401, {}, /key/],
  [403, {}, /key/],
  [404, {}, /base_url/],
  [404, { error: { message: 'This is a chat model, use v1/chat/completions' } }, /wire = "chat"/],
  [
    404,
    { error: { message: 'This is not a chat model, use v1/completions' } },
    /wire = "completions"/,
  ],
  [400, { error: { message: "Use 'max_completion_tokens' instead." } }, /max_tokens_field/],
] as const)('failureOfResponse() of a %i tells the owner what to change', (status, body, hint) => {
  expect(failureOfResponse(status, body).cause).toMatchObject({
    status,
    hint: expect.stringMatching(hint),
  })
})

const kinds = ['bad_response', 'truncated', 'unavailable', 'timeout'] as const

test('upstreamFailure() has a code and a message of its own for each kind', () => {
  const failures = kinds.map((kind) => upstreamFailure(kind))
  expect(failures.map(({ code }) => code)).toEqual(kinds.map((kind) => `upstream_${kind}`))
  expect(new Set(failures.map(({ message }) => message)).size).toBe(kinds.length)
})

const secret = fc.string({ minLength: 8, maxLength: 30 }).map((text) => `sk-${text}!`)
const bodies = secret.chain((text) =>
  fc.tuple(
    fc.constant(text),
    fc.oneof(
      fc.constantFrom<unknown>(
        text,
        [text],
        { error: text },
        { error: { message: text, type: text, code: text, param: text } },
        { errors: [{ message: text, code: text }] },
        { fault: { faultstring: text, detail: { errorcode: text } } },
        { object: 'error', message: text, type: text },
        { detail: [{ msg: text }], msg: text, err: text, error_msg: text },
        [{ error: { status: text, message: text } }],
        { [text]: text },
      ),
      fc.jsonValue(),
    ),
  ),
)

test('a failure repeats nothing that the upstream said', () => {
  const messages = new Map<string, string>()
  fc.assert(
    fc.property(bodies, fc.integer({ min: 100, max: 999 }), ([text, body], status) => {
      for (const failure of [failureOfResponse(status, body), failureOfError(errorIn(body))]) {
        expect(failure).toBeInstanceOf(GatewayError)
        expect(failure.code).toMatch(/^upstream_/)
        expect(failure.param).toBeNull()
        const known = messages.get(failure.code) ?? failure.message
        messages.set(failure.code, known)
        expect(failure.message, 'one message for each code').toBe(known)
        expect(JSON.stringify(failure.cause)).not.toContain(JSON.stringify(text).slice(1, -1))
      }
    }),
    { numRuns: 500 },
  )
})
