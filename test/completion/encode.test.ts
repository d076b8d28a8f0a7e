// The event stream that visitors get, in the form that all known clients accept.

import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Delta, Head } from '../../src/completion/delta.ts'
import {
  bodyName,
  DONE,
  encoder,
  encodeWhole,
  errorEvent,
  KEEP_ALIVE,
  type Shape,
} from '../../src/completion/encode.ts'
import { SseReader } from '../../src/upstream/sse.ts'

const head: Head = { id: 'cmpl-1', created: 1_700_000_000, model: 'm-1' }
const text = (piece: string, index = 0): Delta => ({
  kind: 'text',
  index,
  text: piece,
  logprobs: null,
})
const usage = { prompt_tokens: 5, completion_tokens: 2, total_tokens: 7 }

function start(includeUsage: boolean, first = head) {
  const encode = encoder({ api: 'completion', as: 'sse', stream: true, includeUsage }, null)
  expect(encode({ kind: 'head', head: first })).toBe('')
  return encode
}

const shared =
  'data: {"id":"cmpl-1","object":"text_completion","created":1700000000,"model":"m-1","choices":['
const plain = (index: number, text: string, reason: string) =>
  `{"text":"${text}","index":${index},"logprobs":null,"finish_reason":${reason}}]`
const finish: Delta = { kind: 'finish', index: 3, reason: 'length' }
const end: Delta = { kind: 'usage', usage, estimated: true }

test.each<[what: string, delta: Delta, choices: string]>([
  ['a text as one event', text('Hi'), plain(0, 'Hi', 'null')],
  ['a finish as an empty text', finish, plain(3, '', '"length"')],
])('encoder() writes %s, with a null usage if usage is requested', (_, delta, choices) => {
  expect(start(false)(delta)).toBe(`${shared}${choices}}\n\n`)
  expect(start(true)(delta)).toBe(`${shared}${choices},"usage":null}\n\n`)
})

test('encoder() writes the usage in an event without choices, if it is requested', () => {
  const counts = '"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}'
  expect(start(true)(end)).toBe(`${shared}],${counts}}\n\n`)
  expect(start(false)(end)).toBe('')
})

test('encoder() repeats the fingerprint, if any, in every chunk', () => {
  const chunk = start(false, { ...head, system_fingerprint: 'fp_"1"' })(text('Hi'))
  expect(JSON.parse(chunk.slice(6))).toMatchObject({ system_fingerprint: 'fp_"1"' })
  expect(start(false)(text('Hi'))).not.toContain('fingerprint')
})

test('encoder() writes logprobs in the legacy shape, including nulls', () => {
  const logprobs = {
    tokens: ['Say', ' it'],
    token_logprobs: [null, -0.5],
    top_logprobs: [null, { ' it': -0.5 }],
    text_offset: [0, 3],
  }
  const chunk = start(false)({ kind: 'text', index: 0, text: 'Say it', logprobs })
  expect(JSON.parse(chunk.slice(6))).toMatchObject({ choices: [{ logprobs }] })
})

test('the terminator, the keep-alive and an error have the form that clients accept', () => {
  expect(DONE).toBe('data: [DONE]\n\n')
  expect(KEEP_ALIVE).toBe(':\n\n')
  expect(errorEvent('completion', { error: { message: 'a\nb' } })).toBe(
    'data: {"error":{"message":"a\\nb"}}\n\n',
  )
})

const hostile = [
  '\n\ndata: [DONE]\n\n',
  '\r',
  '\r\n',
  '\u2028',
  '\u2029',
  '\u0085',
  '\0',
  '</script>',
  '\ufeff',
  '"',
  '\\',
  '\ud800',
  '\udc00',
  ':',
]
const anyText = fc
  .array(
    fc.oneof(
      fc.constantFrom(...hostile),
      fc.string({ unit: 'binary', maxLength: 10 }),
      fc.integer({ min: 0, max: 0xffff }).map((unit) => String.fromCharCode(unit)),
    ),
    { maxLength: 12 },
  )
  .map((parts) => parts.join(''))

/** What a client reads from the encoder's bytes. */
function received(encoded: string): unknown[] {
  const reader = new SseReader(1_000_000)
  const decoded = new TextDecoder().decode(new TextEncoder().encode(encoded))
  return reader.feed(decoded).map(({ event, data }) => {
    expect(event).toBeNull()
    return JSON.parse(data) as unknown
  })
}

test('encoder() keeps any text inside one JSON string', () => {
  fc.assert(
    fc.property(anyText, anyText, fc.boolean(), (piece, model, includeUsage) => {
      const encoded = start(includeUsage, { ...head, model })(text(piece))
      expect(encoded).toMatch(/^data: [^\r\n]+\n\n$/)
      expect(received(encoded)).toEqual([
        expect.objectContaining({
          model,
          choices: [{ text: piece, index: 0, logprobs: null, finish_reason: null }],
        }),
      ])
    }),
    { numRuns: 500 },
  )
})

test('errorEvent() keeps any message inside one line', () => {
  fc.assert(
    fc.property(anyText, (message) => {
      const event = errorEvent('completion', { error: { message } })
      expect(event).toMatch(/^data: [^\r\n]+\n\n$/)
      expect(received(event)).toEqual([{ error: { message } }])
    }),
  )
})

const allShapes = (['completion', 'chat', 'ai-sdk'] as const).flatMap((api) =>
  (['json', 'sse', 'text'] as const).flatMap((as) =>
    [false, true].map((includeUsage): Shape => ({ api, as, stream: true, includeUsage })),
  ),
)

test('bodyName() differs exactly where the bytes of the body differ', () => {
  const folded = {
    completion: {
      ...head,
      object: 'text_completion' as const,
      choices: [{ text: 'a', index: 0, logprobs: null, finish_reason: 'stop' as const }],
      usage,
    },
    estimated: false,
  }
  const names = new Map<string, string>()
  // UI messages are always an event stream.
  for (const shape of allShapes.filter(({ api, as }) => api !== 'ai-sdk' || as === 'sse')) {
    const body = encodeWhole(folded, { shape, resume: null })
    expect(names.get(bodyName(shape)) ?? body).toBe(body)
    names.set(bodyName(shape), body)
  }
  // The AI SDK's stream never has the usage.
  expect(new Set(names.values()).size).toBe(names.size - 1)
})
