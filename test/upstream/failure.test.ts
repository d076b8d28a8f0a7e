// How upstream failures map to error codes, and that no upstream text leaks through them.

import fc from 'fast-check'
import { expect, test } from 'vitest'
import { type Code, GatewayError } from '../../src/errors.ts'
import {
  causeOf,
  errorIn,
  failureOfError,
  failureOfResponse,
  failureOfStatus,
  identifierOf,
  isOutage,
  parseRetryAfter,
  type UpstreamCause,
  upstreamFailure,
} from '../../src/upstream/failure.ts'
import samples from '../fixtures/upstream-errors.json' with { type: 'json' }
import { sentenceOf } from '../support/hints.ts'

const hintIn = ({ cause }: GatewayError) => sentenceOf((cause as UpstreamCause).hint)

/** 14 November 2023, 22:13:20 GMT. */
const NOW_MS = 1_700_000_000_000

const statuses = {
  upstream_refused_request: [400, 413, 422],
  upstream_rate_limited: [402, 429],
  upstream_rejected: [
    ...[0, 100, 101, 199, 300, 301, 302, 303, 304, 307, 308, 600, 999],
    ...[401, 403, 404, 405, 408, 409, 410, 418, 424, 425, 451, 498, 499],
  ],
  upstream_unavailable: [500, 501, 502, 503, 504, 520, 522, 524, 529, 599],
}

test.each(Object.entries(statuses))('failureOfStatus() returns %s', (code, list) => {
  for (const status of list) {
    const cause = { status, code: null, hint: expect.any(String) }
    expect(failureOfStatus(status), String(status)).toMatchObject({ code, cause })
  }
})

test('failureOfStatus() has a retry time only for 429, of 1 to 300 seconds, and for an exhausted quota', () => {
  for (const status of Object.values(statuses).flat()) {
    const { retryAfterSeconds } = failureOfStatus(status, {}, 42)
    expect(retryAfterSeconds).toBe(status === 429 ? 42 : status === 402 ? 3600 : null)
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

test('a 429 has a Retry-After of 1 to 300 whole seconds for any header value', () => {
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
  ['a rejected key', { code: 401 }, 'upstream_rejected'],
  ['digits (LiteLLM)', { code: '429' }, 'upstream_rate_limited'],
  ['digits and words', { status: '503 Service Unavailable' }, 'upstream_unavailable'],
  ['a status under another name', { statusCode: '400' }, 'upstream_refused_request'],
  [
    'a word, and the status of an inner error',
    { code: 'x', error: { code: 429 } },
    'upstream_rate_limited',
  ],
  ['metadata with a status', { metadata: { details: [{ code: '503' }] } }, 'upstream_unavailable'],
  ['http_code (MiniMax)', { http_code: '429' }, 'upstream_rate_limited'],
  ['digits at the start of a text', '503 Service Unavailable', 'upstream_unavailable'],
  ['digits in an inner text', { detail: '404 of 500 tokens' }, 'upstream_bad_response'],
  ['digits that are not a status', { code: '4290' }, 'upstream_bad_response'],
  ['digits within a word', { code: 'E429' }, 'upstream_bad_response'],
  ['no status', { type: 'server_error' }, 'upstream_bad_response'],
  ['a status that is not an error', { code: 200 }, 'upstream_bad_response'],
  ['a vendor number', { code: 50_002 }, 'upstream_bad_response'],
  ['a negative number', { code: -1 }, 'upstream_bad_response'],
  ['a string', 'gone', 'upstream_bad_response'],
  ['nothing', null, 'upstream_bad_response'],
  ['a list', [], 'upstream_bad_response'],
] as const)('failureOfError() of an error with %s', (_, error, code) => {
  expect(failureOfError(error).code).toBe(code)
})

test('failureOfError() takes the status next to an error that has none', () => {
  expect(failureOfError('busy', { error: 'busy', code: '429' }).code).toBe('upstream_rate_limited')
  expect(failureOfError({ code: 400 }, { status: 503 }).code).toBe('upstream_refused_request')
})

test('failureOfError() limits how deep it looks', () => {
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
  ['a text', 'm', 'm'],
  ['no object', 5, null],
  ['a body with an empty list of errors', { errors: [], msg: 'x' }, { errors: [], msg: 'x' }],
] as const)('errorIn() finds the error in %s', (_, body, error) => {
  expect(errorIn(body)).toEqual(error)
})

test('identifierOf() accepts only a short identifier', () => {
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

test.each(samples['token limit'] as [string | null, string, number, unknown][])(
  'failureOfResponse() recognises the name "%s" for max_tokens in the error of %s',
  (wantsField, _, status, body) => {
    const failure = failureOfResponse(status, body)
    if (wantsField === null) expect(failure.cause).not.toHaveProperty('wantsField')
    else {
      expect(failure).toMatchObject({
        code: 'upstream_refused_request',
        cause: { wantsField },
      })
      expect(hintIn(failure)).toContain(`max_tokens_field = "${wantsField}"`)
    }
  },
)

const kinds = ['bad_response', 'truncated', 'unavailable', 'timeout'] as const

test('upstreamFailure() has a code and a message for each kind', () => {
  const failures = kinds.map((kind) => upstreamFailure(kind))
  expect(failures.map(({ code }) => code)).toEqual(kinds.map((kind) => `upstream_${kind}`))
  expect(new Set(failures.map(({ message }) => message)).size).toBe(kinds.length)
})

test.each([
  ['upstream_bad_response', 'no_text', /without text/],
  ['upstream_bad_response', null, /not a completion/],
  ['upstream_truncated', null, /stopped before the end/],
  ['upstream_unavailable', null, /could not be sent/],
  ['upstream_timeout', null, /first_byte_ms/],
] as const)('causeOf() adds a hint to a %s of reason %s', (code, reason, hint) => {
  const failure = new GatewayError(code, 'm', reason === null ? {} : { cause: { code: reason } })
  const cause = { status: null, code: reason, hint: expect.any(String) }
  expect(causeOf(failure)).toEqual(cause)
  expect(sentenceOf(causeOf(failure)?.hint ?? '')).toMatch(hint)
  expect(causeOf(new GatewayError('budget_exhausted', 'm'))).toBeNull()
})

test.each<[boolean, string, GatewayError]>([
  ...statuses.upstream_unavailable.map((status): [boolean, string, GatewayError] => [
    true,
    `a ${status}`,
    failureOfStatus(status),
  ]),
  ...kinds.map((kind): [boolean, string, GatewayError] => [true, kind, upstreamFailure(kind)]),
  [true, 'silence in the middle', upstreamFailure('timeout', { code: 'idle' })],
  [true, 'a 200 that names a 5xx', failureOfError({ code: 503 })],
  [true, 'an error without a status', failureOfError('gone')],
  [true, 'a busy model in a 200', failureOfError({ message: 'Overloaded' })],
  ...[...statuses.upstream_rejected, 402, 429, ...statuses.upstream_refused_request].map(
    (status): [boolean, string, GatewayError] => [false, `a ${status}`, failureOfStatus(status)],
  ),
  [false, 'a 200 that names a 400', failureOfError({ code: 400 })],
  [false, 'a key in a 200', failureOfError({ message: 'Invalid API key' })],
  [false, 'a long text with a 500', failureOfResponse(500, { message: 'prompt is too long' })],
  [false, 'a size limit', upstreamFailure('bad_response', { code: 'too_large' })],
  [false, 'a missing choice', upstreamFailure('bad_response', { code: 'missing_choice' })],
  [false, 'no text', upstreamFailure('bad_response', { code: 'no_text' })],
  [false, 'an exhausted budget', new GatewayError('budget_exhausted', 'm')],
])('isOutage() is %s for %s', (expected, _, failure) => {
  expect(isOutage(failure, false)).toBe(expected)
  expect(isOutage(failure, true)).toBe(expected)
})

test('isOutage() counts a deadline only before any text', () => {
  const failure = upstreamFailure('timeout', { code: 'deadline' })
  expect([isOutage(failure, false), isOutage(failure, true)]).toEqual([true, false])
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

test('a failure repeats no upstream text', () => {
  const messages = new Set<string>()
  fc.assert(
    fc.property(bodies, fc.integer({ min: 100, max: 999 }), ([text, body], status) => {
      for (const failure of [failureOfResponse(status, body), failureOfError(errorIn(body))]) {
        expect(failure).toBeInstanceOf(GatewayError)
        expect(failure.code).toMatch(/^upstream_/)
        expect(failure.param).toBeNull()
        messages.add(failure.message)
        expect(JSON.stringify(failure.cause)).not.toContain(JSON.stringify(text).slice(1, -1))
        expect(hintIn(failure)).toMatch(/^[A-Z].{20,}\.$/)
      }
    }),
    { numRuns: 500 },
  )
  // As many as the code has, for any input.
  expect(messages.size).toBeLessThanOrEqual(9)
})

const saying = (message: string, more = {}) => ({ error: { message, code: null, ...more } })
const NO_QUOTA = saying('You exceeded your current quota', { code: 'insufficient_quota' })
const NO_KEY = saying('No connected db.', { type: 'no_db_connection', code: '400' })
const NO_MODEL = saying('Invalid model name passed in model=foo')
const NO_CHANNEL = saying('当前分组 default 下对于模型 gpt-9 无可用渠道', { type: 'one_api_error' })
const NO_REGION = saying('User location is not supported for the API use.')
const TOO_LONG = saying('the request exceeds the context size', {
  type: 'exceed_context_size_error',
})
const FLAGGED = saying('The response was filtered', { code: 'content_filter' })

test.each<[string, unknown, readonly number[], Code, RegExp]>([
  [
    'an exhausted quota',
    NO_QUOTA,
    [400, 401, 402, 403, 404, 412, 422, 429, 500, 503],
    'upstream_rate_limited',
    /account at the upstream/,
  ],
  ['a wrong key', NO_KEY, [400, 401, 402, 403, 404, 422], 'upstream_rejected', /key/],
  ['a wrong model', NO_MODEL, [400, 403, 404, 422], 'upstream_rejected', /upstream_model/],
  ['no channel', NO_CHANNEL, [400, 404], 'upstream_rejected', /upstream_model/],
  ['no channel', NO_CHANNEL, [500, 503], 'upstream_unavailable', /upstream_model/],
  ['a region', NO_REGION, [400, 403], 'upstream_rejected', /region/],
  ['a text too long', TOO_LONG, [400, 413, 422], 'upstream_refused_request', /limits.prompt_chars/],
  ['a text too long', TOO_LONG, [500], 'upstream_unavailable', /limits.prompt_chars/],
  ['a filter', FLAGGED, [400, 422], 'upstream_refused_request', /filter/],
  ['a filter', FLAGGED, [403], 'upstream_rejected', /filter/],
  ['its own rate limit', NO_KEY, [429], 'upstream_rate_limited', /rate of this key/],
  ['unknown words', saying('m'), [400, 422], 'upstream_refused_request', /parameters/],
  ['a page', '<html>', [404], 'upstream_rejected', /HTML page/],
])(
  'failureOfResponse() considers the text about %s as well as the status (%#)',
  (_, body, statuses, code, hint) => {
    for (const status of statuses) {
      const failure = failureOfResponse(status, body)
      expect(failure.code, String(status)).toBe(code)
      expect(hintIn(failure), String(status)).toMatch(hint)
    }
  },
)

test('an exhausted quota is reported as such, with a Retry-After of an hour', () => {
  for (const failure of [
    failureOfResponse(402, null),
    failureOfResponse(403, NO_QUOTA),
    failureOfError(NO_QUOTA.error),
    failureOfError({ ...NO_QUOTA.error, status: 429 }),
    upstreamFailure('bad_response', { subject: 'quota' }),
  ]) {
    expect(failure).toMatchObject({ code: 'upstream_rate_limited', retryAfterSeconds: 3600 })
    expect(failure.message).toContain('is used up')
  }
})

test.each<[string, unknown, Code, RegExp]>([
  ['a key', { ...NO_KEY.error, code: 400 }, 'upstream_rejected', /key/],
  ['a key, without a status', { message: 'Invalid API key' }, 'upstream_bad_response', /key/],
  ['a model', { message: 'model "x" not found' }, 'upstream_bad_response', /upstream_model/],
  ['an address', 'Unexpected endpoint or method. (POST /x)', 'upstream_bad_response', /base_url/],
  ['nothing', null, 'upstream_bad_response', /answered 2xx with an error/],
])('failureOfError() of an error in a 200 about %s has a hint', (_, error, code, hint) => {
  const failure = failureOfError(error)
  expect(failure.code).toBe(code)
  expect(hintIn(failure)).toMatch(hint)
})

test('deeply nested errors are mapped without a stack overflow', () => {
  for (const [open, close] of [
    ['[', ']'],
    ['{"error":', '}'],
    ['{"details":[', ']}'],
  ] as const) {
    const deep: unknown = JSON.parse(`${open.repeat(100_000)}1${close.repeat(100_000)}`)
    for (const body of [deep, { error: deep }, { error: { message: deep } }]) {
      expect(failureOfResponse(400, body).code).toBe('upstream_refused_request')
      expect(failureOfError(errorIn(body), body).code).toBe('upstream_bad_response')
    }
  }
})
