// The hints for the owner: each is a sentence about what to check or change.
import { expect, test } from 'vitest'
import { failureOfResponse, failureOfStatus, upstreamFailure } from '../../src/upstream/failure.ts'
import { hints } from '../../src/upstream/hints.ts'
import { sentenceOf } from '../support/hints.ts'

const SENTENCE = /^[A-Z].{20,}\.$/

const hintIn = ({ cause }: { cause?: unknown }) => sentenceOf((cause as { hint: string }).hint)

test('every possible status has a hint', () => {
  for (let status = 0; status < 1000; status++) {
    for (const body of [null, '<html>']) {
      expect(hintIn(failureOfResponse(status, body)), String(status)).toMatch(SENTENCE)
    }
  }
})

test.each([
  [302, /redirects.*base_url/],
  [401, /key/],
  [402, /credit, quota/],
  [403, /key/],
  [404, /base_url and upstream_model/],
  [405, /base_url, path and wire/],
  [410, /upstream_model/],
  [413, /limits\.prompt_chars/],
  [429, /limits the rate/],
  [500, /internal error/],
  [503, /overloaded or down/],
  [504, /waited too long/],
  [521, /refuses the connection/],
  [522, /timed out/],
  [525, /TLS/],
  [526, /certificate/],
  [529, /overloaded/],
  [530, /host of base_url cannot be found/],
])('the hint of a %i is specific', (status, hint) => {
  expect(hintIn(failureOfStatus(status))).toMatch(hint)
})

test('the hint of an HTML page in place of an API response is about the address', () => {
  for (const status of [302, 400, 403, 404, 405]) {
    expect(hintIn(failureOfResponse(status, '<html>'))).toMatch(/HTML page.*base_url/)
  }
  expect(hintIn(failureOfResponse(502, '<html>'))).toMatch(/gateway/)
})

test.each([
  ['connection_lost', /base_url/],
  ['no_connection', /DNS.*certificate/],
  ['not_sent', /base_url/],
  ['no_binding', /\[ai\]/],
  ['no_demo_text', /\[assets\]/],
  ['first_byte', /first_byte_ms/],
  ['idle', /idle_ms/],
  ['deadline', /deadline_ms/],
  ['html', /HTML page.*base_url/],
  ['empty', /empty body/],
  ['no_text', /without text/],
  ['no_answer', /without text/],
  ['too_large', /max_output_bytes/],
  ['undecodable', /Content-Encoding/],
  ['gave_up', /gave up/],
  ['reported', /answered 2xx with an error/],
  ['not_a_completion', /not a completion/],
  ['cut_off', /stopped before the end/],
])('the hint of a failure with the reason %s is specific', (code, hint) => {
  expect(hintIn(upstreamFailure('truncated', { code }))).toMatch(hint)
})

test('a failure with an unknown reason has the hint of its kind', () => {
  for (const code of [null, 'toString', 'some_error']) {
    expect(hintIn(upstreamFailure('timeout', { code }))).toMatch(/first_byte_ms/)
  }
})

test('every hint is a sentence that names a setting, a place or the account', () => {
  const named =
    /upstream|limits\.|base_url|account|upstream_model|wire|unsupported|fallback|max_|_ms|_url|\[ai\]|\[assets\]|proxy/
  for (const [name, hint] of Object.entries(hints)) {
    expect(hint, name).toMatch(SENTENCE)
    expect(hint, name).toMatch(named)
  }
})
