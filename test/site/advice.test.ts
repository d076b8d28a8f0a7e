// What to do about an error: there is a word for each one that the pages can meet.
import { expect, test } from 'vitest'
import { codes } from '../../src/errors.ts'
import { advice } from '../../src/site/advice.js'

/** The pages' own requests do not get these: they send whole JSON, to paths that are there. */
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

test('every code that the pages can meet has its advice', () => {
  expect(codes.filter((code) => advice(code, null) === '').toSorted()).toEqual(never.toSorted())
})

test('a used-up quota is not "try again in a moment"', () => {
  expect(advice('upstream_rate_limited', 30)).toMatch(/in a moment/)
  expect(advice('upstream_rate_limited', 3600)).toMatch(/out of credit or quota/)
  expect(advice('upstream_rate_limited', 3600)).not.toMatch(/moment/)
})

test('says when to come back', () => {
  expect(advice('rate_limited', 7)).toMatch(/SPEND_LIMIT.* Possible again in 7 s\.$/)
  expect(advice('of another version', 7)).toBe('Possible again in 7 s.')
  expect(advice('of another version', null)).toBe('')
})
