// The hint for the owner: the event `upstream_failed` always has a hint about what to check, and it
// contains no text of the upstream.
import { expect, test } from 'vitest'
import type { Code } from '../../src/errors.ts'
import type { Event } from '../../src/events.ts'
import type { ConnectOptions } from '../../src/upstream/connection.ts'
import { answer } from '../../src/upstream/failover.ts'
import { hintOfStatus, hints } from '../../src/upstream/hints.ts'
import { chunk, openStream, streamAnswer } from '../support/app.ts'
import { recordOutput } from '../support/canary.ts'
import { connectionTo, effectiveRequest, routeContext } from '../support/upstreams.ts'

type Failed = Extract<Event, { event: 'upstream_failed' }>

type Times = Partial<Pick<ConnectOptions, 'firstByteMs' | 'idleMs' | 'deadlineMs'>>

/** Makes one attempt at an upstream that responds like this; returns the event. */
async function failureAt(
  respond: (request: Request) => Response | Promise<Response>,
  times: Times = {},
) {
  const events: Failed[] = []
  const send = async (request: Request) => await respond(request)
  const context = routeContext([connectionTo('main', send, { maxOutputBytes: 4096, ...times })], {
    stream: false,
    report: (event) => {
      recordOutput(JSON.stringify(event))
      if (event.event === 'upstream_failed') events.push(event)
    },
  })
  const deltas = answer(effectiveRequest(), context, { attempts: 0, upstream: null })
  await expect(Array.fromAsync(deltas)).rejects.toThrow()
  const [event, ...more] = events
  expect(more).toEqual([])
  if (event === undefined) throw new Error('expected an event')
  return event
}

const refusing = (message: string) => () => {
  throw Object.assign(new Error(message), { remote: true })
}
const plain =
  (body: string, status = 200) =>
  () =>
    new Response(body, { status })
const errorBody =
  (error: unknown, status = 200) =>
  () =>
    Response.json({ error }, { status })
const silent = (text: string) => () => {
  const upstream = openStream()
  if (text !== '') upstream.push(text)
  return upstream.response()
}
const dripping = () => {
  const upstream = openStream()
  const drip = setInterval(() => upstream.push(chunk('a')), 5)
  upstream.left.then(() => clearInterval(drip))
  return upstream.response()
}
const broken = (before: string) => () => {
  const upstream = openStream()
  if (before !== '') upstream.push(before)
  const response = upstream.response()
  setTimeout(() => upstream.fail(new Error('Network connection lost.')))
  return response
}

type Kind = [
  kind: string,
  respond: (request: Request) => Response | Promise<Response>,
  code: Code,
  hint: RegExp,
  times?: Times,
]

const kinds: Kind[] = [
  // What workerd throws. It does not distinguish a closed port from a broken connection.
  [
    'a refused connection',
    refusing('Network connection lost.'),
    'upstream_unavailable',
    /base_url/,
  ],
  [
    'no such host, or TLS',
    refusing('internal error; reference = x'),
    'upstream_unavailable',
    /DNS.*certificate/,
  ],
  ['an unknown exception', refusing('fetch failed'), 'upstream_unavailable', /base_url/],
  ['a reset before the first byte', broken(''), 'upstream_unavailable', /base_url/],
  ['a reset in the middle', broken(chunk('a')), 'upstream_truncated', /stopped before the end/],
  [
    'a clean end that is too early',
    () => streamAnswer(chunk('a')),
    'upstream_truncated',
    /stopped before the end/,
  ],
  ['a torn body', plain('{"choices":[{"te'), 'upstream_truncated', /stopped before the end/],
  [
    'no first byte',
    () => new Promise<Response>(() => {}),
    'upstream_timeout',
    /first_byte_ms/,
    { firstByteMs: 20 },
  ],
  ['headers but no body', silent(''), 'upstream_timeout', /first_byte_ms/, { firstByteMs: 20 }],
  ['silence in the middle', silent(chunk('a')), 'upstream_timeout', /idle_ms/, { idleMs: 20 }],
  ['a deadline', dripping, 'upstream_timeout', /deadline_ms/, { deadlineMs: 20 }],
  [
    'a size limit',
    () => streamAnswer(chunk('a'), chunk('b'.repeat(5000))),
    'upstream_bad_response',
    /max_output_bytes/,
  ],
  [
    'one long line',
    plain(`data: ${'b'.repeat(5000)}`),
    'upstream_bad_response',
    /max_output_bytes/,
  ],
  [
    'HTML',
    plain('<!doctype html><title>New API</title>'),
    'upstream_bad_response',
    /HTML page.*base_url/,
  ],
  ['an empty body', plain(''), 'upstream_bad_response', /empty body/],
  ['a 204', () => new Response(null, { status: 204 }), 'upstream_bad_response', /empty body/],
  ['another kind of JSON', plain('{"hello":1}'), 'upstream_bad_response', /not a completion/],
  ['words', plain('pong'), 'upstream_bad_response', /without text/],
  [
    'a stream of something else',
    plain('data: {]\n\n'),
    'upstream_bad_response',
    /not a completion/,
  ],
  [
    'deep nesting',
    plain(`{"choices":${'['.repeat(1900)}${']'.repeat(1900)}}`),
    'upstream_bad_response',
    /not a completion/,
  ],
  [
    'a finish reason that means failure',
    () => streamAnswer(chunk('a'), chunk('', 'error')),
    'upstream_bad_response',
    /gave up/,
  ],
  [
    'an unknown error in a 200',
    errorBody('an error of the runner'),
    'upstream_bad_response',
    /answered 2xx with an error/,
  ],
  [
    'an unknown path, in a 200',
    errorBody('Unexpected endpoint or method. (POST /x)'),
    'upstream_bad_response',
    /base_url and path/,
  ],
  [
    'a busy server, in a 200',
    errorBody({ code: 503, message: 'The model is overloaded' }),
    'upstream_unavailable',
    /overloaded/,
  ],
  [
    'a quota, in a 200',
    errorBody({ code: 'insufficient_quota' }),
    'upstream_rate_limited',
    /credit, quota/,
  ],
  [
    'a quota, in a stream',
    () => streamAnswer('data: {"error":{"type":"insufficient_quota"}}\n\n'),
    'upstream_rate_limited',
    /credit, quota/,
  ],
  [
    'a long text, in a stream',
    () => streamAnswer('data: {"error":{"type":"exceed_context_size_error"}}\n\n'),
    'upstream_bad_response',
    /limits\.prompt_chars/,
  ],
  ...Array.from({ length: 400 }, (_, i) => i + 200)
    .filter((status) => status >= 300)
    .map(
      (status): Kind => [
        `status ${status}`,
        () => new Response(null, { status }),
        status === 402 || status === 429
          ? 'upstream_rate_limited'
          : status >= 500
            ? 'upstream_unavailable'
            : [400, 413, 422].includes(status)
              ? 'upstream_refused_request'
              : 'upstream_rejected',
        /\w/,
      ],
    ),
]

test.each<Kind>(kinds)('the log hint for %s', async (_, respond, code, hint, times) => {
  const event = await failureAt(respond, times)
  expect(event).toMatchObject({ code, model: 'default', upstream: 'main' })
  expect(event.hint).toMatch(hint)
  expect(event.hint).toMatch(/^[A-Z].{20,}\.$/)
})

test('hintOfStatus() has a sentence for every possible status', () => {
  for (let status = 0; status < 1200; status++) {
    for (const isPage of [false, true]) {
      expect(hintOfStatus(status, isPage), String(status)).toMatch(/^[A-Z].{20,}\.$/)
    }
  }
})

test.each([
  [401, /key/],
  [402, /credit, quota/],
  [403, /key/],
  [404, /base_url and upstream_model/],
  [405, /base_url, path and wire/],
  [410, /upstream_model/],
  [413, /limits\.prompt_chars/],
  [429, /limits the rate/],
  [302, /redirects.*base_url/],
  [500, /internal error/],
  [503, /overloaded or down/],
  [504, /waited too long/],
  [521, /refuses the connection/],
  [522, /timed out/],
  [525, /TLS/],
  [526, /certificate/],
  [529, /overloaded/],
  [530, /host of base_url cannot be found/],
] as const)('hintOfStatus(%i) is specific', (status, hint) => {
  expect(hintOfStatus(status)).toMatch(hint)
})

test('every hint is a sentence that names a setting, a place or the account', () => {
  for (const [name, hint] of Object.entries(hints)) {
    expect(hint, name).toMatch(/^[A-Z].{20,}\.$/)
    expect(hint, name).toMatch(
      /upstream|limits\.|base_url|account|upstream_model|wire|unsupported|fallback/,
    )
  }
})
