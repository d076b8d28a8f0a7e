// The advice that the pages show for each error code.
import { expect, test } from 'vitest'
import { codes } from '../../src/errors.ts'
import { advice } from '../../src/site/advice.js'

/** The pages never receive these: they send valid JSON to existing paths. */
const never = [
  'invalid_json',
  'unknown_field',
  'not_found',
  'model_not_found',
  'method_not_allowed',
  'body_timeout',
  'unsupported_media_type',
  'page_not_allowed',
  'page_unavailable',
]

test('advice() covers every error code that the pages can receive', () => {
  expect(codes.filter((code) => advice(code, null) === '').toSorted()).toEqual(never.toSorted())
})

test('advice() does not suggest an early retry when the quota is used up', () => {
  expect(advice('upstream_rate_limited', 30)).toMatch(/in a moment/)
  expect(advice('upstream_rate_limited', 3600)).toMatch(/out of credit or quota/)
  expect(advice('upstream_rate_limited', 3600)).not.toMatch(/moment/)
})

test('advice() includes Retry-After', () => {
  expect(advice('rate_limited', 7)).toMatch(/SPEND_LIMIT.* Retry in 7 s\.$/)
  expect(advice('of another version', 7)).toBe('Retry in 7 s.')
  expect(advice('of another version', null)).toBe('')
})
