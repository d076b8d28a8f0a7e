// Errors as HTTP: the documented status and type of each code, independent of the table in the
// source.
import { expect, test } from 'vitest'
import { type Code, codes, GatewayError, type Problem, problemOf } from '../../src/errors.ts'
import { problemReply as replyOf, statusOf } from '../../src/http/problem.ts'

const documented: readonly (readonly [status: number, type: string, codes: string])[] = [
  [
    400,
    'invalid_request_error',
    'invalid_json invalid_value unknown_field missing_field model_not_allowed prompt_not_found ' +
      'free_prompts_disabled locked_by_owner unsupported_by_upstream upstream_refused_request',
  ],
  [
    401,
    'authentication_error',
    'visitor_token_required visitor_token_invalid operator_token_invalid',
  ],
  [403, 'permission_error', 'origin_not_allowed challenge_failed page_not_allowed'],
  [
    404,
    'invalid_request_error',
    'not_found not_cached model_not_found site_not_indexed no_passages',
  ],
  [405, 'invalid_request_error', 'method_not_allowed'],
  [408, 'invalid_request_error', 'body_timeout'],
  [413, 'invalid_request_error', 'body_too_large'],
  [415, 'invalid_request_error', 'unsupported_media_type'],
  [
    429,
    'rate_limit_error',
    'rate_limited too_many_streams budget_exhausted paused upstream_rate_limited',
  ],
  [500, 'api_error', 'internal'],
  [
    502,
    'api_error',
    'upstream_rejected upstream_bad_response upstream_truncated upstream_unavailable ' +
      'page_unavailable',
  ],
  [503, 'api_error', 'misconfigured ledger_unavailable challenge_unavailable search_unavailable'],
  [504, 'api_error', 'upstream_timeout'],
]

const rows = documented.flatMap(([status, type, names]) =>
  names.split(' ').map((code) => [code as Code, status, type] as const),
)

/** The reply as a Response. */
function problemReply(...args: Parameters<typeof replyOf>): Response {
  const reply = replyOf(...args)
  return new Response(reply.body, reply)
}

function problem(code: Code, fields: Partial<Problem> = {}): Problem {
  return {
    code,
    message: 'Cannot',
    param: null,
    retryAfterSeconds: null,
    rateLimit: null,
    ...fields,
  }
}

test('every code is documented', () => {
  expect(rows.map(([code]) => code).sort()).toEqual([...codes].sort())
})

test.each(rows)('problemReply() of %s has status %i and type %s', async (code, status, type) => {
  const response = problemReply(problem(code, { message: 'Cannot do it', param: 'prompt' }))
  expect(response.status).toBe(status)
  expect(statusOf(code)).toBe(status)
  expect(response.headers.get('content-type')).toBe('application/json')
  expect(response.headers.get('cache-control')).toBe('no-store')
  const body = { message: 'Cannot do it', type, param: 'prompt', code }
  expect(await response.json()).toEqual({ error: body })
  // Every 429 has it, even without a known delay.
  expect(response.headers.get('retry-after')).toBe(status === 429 ? '10' : null)
})

test.each([
  [1, '1'],
  [2.1, '3'],
  [0, '1'],
  [-5, '1'],
  [0.001, '1'],
  [86_400, '86400'],
  [86_401, '86400'],
  [1e9, '86400'],
  [Number.POSITIVE_INFINITY, '86400'],
  [Number.NEGATIVE_INFINITY, '1'],
  [Number.NaN, '10'],
])('problemReply() converts a delay of %d seconds to Retry-After: %s', (seconds, header) => {
  const response = problemReply(problem('rate_limited', { retryAfterSeconds: seconds }))
  expect(response.headers.get('retry-after')).toBe(header)
})

test('problemOf() converts any other error to "internal" without its details', () => {
  const thrown = [
    new TypeError('fetch failed https://upstream.test'),
    'text',
    null,
    undefined,
    { code: 'not_found', message: 'x' },
  ]
  for (const error of thrown) {
    const { code, message } = problemOf(error)
    expect(code).toBe('internal')
    expect(message).not.toContain('upstream.test')
  }
})

test('problemOf() omits the cause of a GatewayError', () => {
  const error = new GatewayError('not_found', 'Cannot find', {
    param: 'model',
    retryAfterSeconds: 3,
    cause: 'private',
  })
  expect(problemOf(error)).toEqual({
    code: 'not_found',
    message: 'Cannot find',
    param: 'model',
    retryAfterSeconds: 3,
    rateLimit: null,
  })
})

test('problemReply() has RateLimit headers only if a limit was reached', () => {
  const rateLimit = {
    policy: 'day',
    quota: 200_000,
    remaining: 0,
    resetSeconds: 3600,
    windowSeconds: 86_400,
  }
  const { headers } = problemReply(problem('budget_exhausted', { rateLimit }))
  expect(headers.get('ratelimit-policy')).toBe('"day";q=200000;w=86400')
  expect(headers.get('ratelimit')).toBe('"day";r=0;t=3600')
  const concurrency = { ...rateLimit, policy: 'streams', windowSeconds: null }
  const streams = problemReply(problem('too_many_streams', { rateLimit: concurrency }))
  expect(streams.headers.get('ratelimit-policy')).toBe('"streams";q=200000')
  const none = problemReply(problem('upstream_rate_limited'))
  expect([...none.headers.keys()].filter((name) => name.startsWith('ratelimit'))).toEqual([])
})

test('problemReply() stops SDKs from retrying errors that an immediate retry cannot fix', () => {
  const shouldRetry = (code: Code, retryAfterSeconds: number | null = null) =>
    problemReply(problem(code, { retryAfterSeconds })).headers.get('x-should-retry')
  for (const [code] of rows) {
    const isOwnerError = code === 'misconfigured' || code === 'upstream_rejected'
    expect([code, shouldRetry(code)]).toEqual([code, isOwnerError ? 'false' : null])
  }
  // SDKs wait for up to a minute; for a longer delay they retry immediately.
  expect(shouldRetry('budget_exhausted', 3600)).toBe('false')
  expect(shouldRetry('upstream_rate_limited', 61)).toBe('false')
  expect(shouldRetry('budget_exhausted', 60)).toBeNull()
  expect(shouldRetry('rate_limited', 60)).toBeNull()
  expect(shouldRetry('too_many_streams', 1)).toBeNull()
})
