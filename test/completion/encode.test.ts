// The event stream that visitors get, in the form that all known clients accept.

import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Delta, Head } from '../../src/completion/delta.ts'
import { ChunkEncoder, DONE, errorEvent, KEEP_ALIVE } from '../../src/completion/encode.ts'
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
  const encoder = new ChunkEncoder({ includeUsage })
  expect(encoder.encode({ kind: 'head', head: first })).toBe('')
  return encoder
}

test('ChunkEncoder.encode() writes a text as one line of data and a blank line', () => {
  expect(start(false).encode(text('Hi'))).toBe(
    'data: {"id":"cmpl-1","object":"text_completion","created":1700000000,"model":"m-1",' +
      '"choices":[{"text":"Hi","index":0,"logprobs":null,"finish_reason":null}]}\n\n',
  )
})

test('ChunkEncoder.encode() writes a finish as an empty text with its reason', () => {
  expect(start(false).encode({ kind: 'finish', index: 3, reason: 'length' })).toBe(
    'data: {"id":"cmpl-1","object":"text_completion","created":1700000000,"model":"m-1",' +
      '"choices":[{"text":"","index":3,"logprobs":null,"finish_reason":"length"}]}\n\n',
  )
})

test('ChunkEncoder.encode() repeats the fingerprint, if any, in every chunk', () => {
  const chunk = start(false, { ...head, system_fingerprint: 'fp_"1"' }).encode(text('Hi'))
  expect(JSON.parse(chunk.slice(6))).toMatchObject({ system_fingerprint: 'fp_"1"' })
  expect(start(false).encode(text('Hi'))).not.toContain('fingerprint')
})

test('ChunkEncoder.encode() adds a null usage to every chunk if usage is requested', () => {
  const encoder = start(true)
  for (const delta of [text('Hi'), { kind: 'finish', index: 0, reason: 'stop' } as const]) {
    expect(JSON.parse(encoder.encode(delta).slice(6))).toHaveProperty('usage', null)
  }
})

test('ChunkEncoder.encode() writes the usage in a chunk without choices', () => {
  expect(start(true).encode({ kind: 'usage', usage, estimated: true })).toBe(
    'data: {"id":"cmpl-1","object":"text_completion","created":1700000000,"model":"m-1",' +
      '"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}\n\n',
  )
})

test('ChunkEncoder.encode() omits usage unless it is requested', () => {
  const encoder = start(false)
  expect(encoder.encode({ kind: 'usage', usage, estimated: false })).toBe('')
  expect(encoder.encode(text('Hi'))).not.toContain('usage')
})

test('ChunkEncoder.encode() writes logprobs in the legacy shape, including nulls', () => {
  const logprobs = {
    tokens: ['Say', ' it'],
    token_logprobs: [null, -0.5],
    top_logprobs: [null, { ' it': -0.5 }],
    text_offset: [0, 3],
  }
  const chunk = start(false).encode({ kind: 'text', index: 0, text: 'Say it', logprobs })
  expect(JSON.parse(chunk.slice(6))).toMatchObject({ choices: [{ logprobs }] })
})

test('the terminator, the keep-alive and an error have the form that clients accept', () => {
  expect(DONE).toBe('data: [DONE]\n\n')
  expect(KEEP_ALIVE).toBe(':\n\n')
  expect(errorEvent({ error: { message: 'a\nb' } })).toBe('data: {"error":{"message":"a\\nb"}}\n\n')
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

test('ChunkEncoder.encode() keeps any text inside one JSON string', () => {
  fc.assert(
    fc.property(anyText, anyText, fc.boolean(), (piece, model, includeUsage) => {
      const encoded = start(includeUsage, { ...head, model }).encode(text(piece))
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
    fc.property(anyText, (error) => {
      expect(errorEvent({ error })).toMatch(/^data: [^\r\n]+\n\n$/)
      expect(received(errorEvent({ error }))).toEqual([{ error }])
    }),
  )
})
