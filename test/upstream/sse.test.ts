// The framing of event streams, regardless of how their bytes are split.

import { createParser, type EventSourceMessage } from 'eventsource-parser'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { type SseMessage, SseOverflow, SseReader } from '../../src/upstream/sse.ts'

const LIMIT = 10_000

/** All messages of a body that is received in these pieces. */
function read(pieces: readonly string[], options = LIMIT): SseMessage[] {
  const reader = new SseReader(options)
  const messages = pieces.flatMap((piece) => [...reader.feed(piece)])
  return [...messages, ...reader.end()]
}

/** The same for bytes, decoded by one streaming decoder as a body is. */
function readBytes(pieces: readonly Uint8Array[]): SseMessage[] {
  const decoder = new TextDecoder()
  return read([...pieces.map((piece) => decoder.decode(piece, { stream: true })), decoder.decode()])
}

const message = (data: string, event: string | null = null): SseMessage => ({ event, data })
const encode = (text: string) => new TextEncoder().encode(text)
const single = (bytes: Uint8Array) => Array.from(bytes, (_, i) => bytes.subarray(i, i + 1))

const framings: readonly (readonly [string, string, readonly SseMessage[]])[] = [
  ['one line feed per line', 'data: a\n\ndata: b\n\n', [message('a'), message('b')]],
  ['CRLF', 'data: a\r\n\r\ndata: b\r\n\r\n', [message('a'), message('b')]],
  ['carriage returns alone', 'data: a\r\rdata: b\r\r', [message('a'), message('b')]],
  [
    'mixed line ends',
    'data: a\r\n\ndata: b\n\rdata: c\r\r\n',
    ['a', 'b', 'c'].map((d) => message(d)),
  ],
  ['a byte order mark first', '\ufeffdata: a\n\n', [message('a')]],
  ['a byte order mark later', 'data: a\n\n\ufeffdata: b\n\n', [message('a')]],
  ['comments', ': hi\n\n:\n:ho\ndata: a\n: in between\n\n', [message('a')]],
  ['a comment that looks like data', ':data: x\ndata: a\n\n', [message('a')]],
  ['no space after the colon', 'data:a\n\n', [message('a')]],
  ['exactly one space stripped', 'data:  a \n\n', [message(' a ')]],
  ['a tab after the colon', 'data:\ta\n\n', [message('\ta')]],
  ['several data lines', 'data: a\ndata:\ndata: b\n\n', [message('a\n\nb')]],
  ['data without a colon', 'data\n\ndata\ndata\n\n', [message(''), message('\n')]],
  ['a colon inside data', 'data: a:b: c\n\n', [message('a:b: c')]],
  ['an event name', 'event: error\ndata: a\n\ndata: b\n\n', [message('a', 'error'), message('b')]],
  ['an event name after the data', 'data: a\nevent: x\n\n', [message('a', 'x')]],
  ['an event name that is reset', 'event: x\nevent\ndata: a\n\n', [message('a')]],
  ['an event name without data', 'event: ping\n\ndata: a\n\n', [message('a')]],
  [
    'ids, including one with a NUL',
    'id: 1\ndata: a\n\nid: a\0b\ndata: b\n\nid\n\n',
    [message('a'), message('b')],
  ],
  [
    'retry fields, including an invalid one',
    'retry: 10\nretry: abc\nretry\ndata: a\n\n',
    [message('a')],
  ],
  ['unknown fields', 'foo: x\nbaz\ndatas: y\n data: z\ndata: a\n\n', [message('a')]],
  ['field names in capitals', 'Data: x\nDATA: y\n\ndata: a\n\n', [message('a')]],
  [
    'other line separators',
    'data: a\u2028b\u2029c\u0085d\0e\vf\fg\n\n',
    [message('a\u2028b\u2029c\u0085d\0e\vf\fg')],
  ],
  ['blank lines around', '\n\r\n\ndata: a\n\n\n\r\n', [message('a')]],
  ['characters of all lengths', 'data: é水🌊👩‍🚀\n\n', [message('é水🌊👩‍🚀')]],
  ['a last event without its blank line', 'data: a\n\ndata: b\n', [message('a'), message('b')]],
  ['a last line without a line end', 'data: a\n\ndata: [DONE]', [message('a'), message('[DONE]')]],
  ['a final carriage return', 'data: a\r\rdata: b\r', [message('a'), message('b')]],
  ['an empty body', '', []],
  [
    'an error field (llama.cpp)',
    'data: a\n\nerror: {"code":400}\r\n\r\ndata: b\n\n',
    [message('a'), message('{"code":400}', 'error'), message('b')],
  ],
]

test.each(framings)('SseReader reads %s, split at any byte', (_, text, messages) => {
  const bytes = encode(text)
  for (let at = 0; at <= bytes.length; at++) {
    expect(readBytes([bytes.subarray(0, at), bytes.subarray(at)]), `at ${at}`).toEqual(messages)
  }
  expect(readBytes(single(bytes)), 'byte by byte').toEqual(messages)
})

test('SseReader.feed() returns a message as soon as its blank line is received', () => {
  const reader = new SseReader(LIMIT)
  expect(reader.feed('data: a\n')).toEqual([])
  expect(reader.feed('\ndata: b')).toEqual([message('a')])
  expect(reader.feed('\n\ndata: c\n\n')).toEqual([message('b'), message('c')])
  expect(reader.end()).toEqual([])
})

test('SseReader.feed() does not wait for the line feed of a split CRLF', () => {
  const reader = new SseReader(LIMIT)
  expect(reader.feed('data: a\r\n\r')).toEqual([message('a')])
  expect(reader.feed('\ndata: b\r\n\r\n')).toEqual([message('b')])
})

test('SseReader.feed() returns each message once', () => {
  const reader = new SseReader(LIMIT)
  expect(reader.feed('data: a\n\n')).toHaveLength(1)
  expect(reader.feed('')).toEqual([])
  expect(reader.end()).toEqual([])
})

test.each([
  ['a line without an end', 'data: ', 'x'.repeat(1000)],
  ['an event with too many short lines', '', 'data: 0123456789\n'],
])('SseReader.feed() throws SseOverflow for %s', (_, start, piece) => {
  const reader = new SseReader(5000)
  reader.feed(start)
  let fed = 0
  const feed = () => {
    for (; fed < 5_000_000; fed += piece.length) reader.feed(piece)
  }
  expect(feed).toThrow(SseOverflow)
  // The names of fields and the line ends are not counted.
  expect(fed).toBeLessThanOrEqual(2 * 5000)
})

test('SseReader.feed() does not count comments and returned messages towards the limit', () => {
  const reader = new SseReader(100)
  for (let i = 0; i < 1000; i++) {
    expect(reader.feed(': a comment\ndata: 0123456789\n\n')).toHaveLength(1)
  }
  reader.feed(': ')
  for (let i = 0; i < 1000; i++) reader.feed('one comment without an end ')
  expect(reader.feed('\ndata: a\n\n')).toEqual([message('a')])
})

test('SseReader.feed() reads a long line in small pieces in linear time', () => {
  const reader = new SseReader(2_000_000)
  reader.feed('data: ')
  for (let i = 0; i < 200_000; i++) reader.feed('01234')
  expect(reader.feed('\n\n')).toEqual([message('01234'.repeat(200_000))])
})

const fragments = [
  ...['data', 'data:', 'data: ', 'data: {"a":1}', 'data: [DONE]', 'event', 'event: x', 'id: 1'],
  ...['retry: 5', 'foo: bar', ':', ': ', ' ', '\n', '\n\n', '\r', '\r\n', '\r\n\r\n', '\ufeff'],
  ...['\0', 'é', '水', '🌊', '\u2028'],
]
const textArbitrary = fc
  .array(
    fc.oneof({ weight: 6, arbitrary: fc.constantFrom(...fragments) }, fc.string({ maxLength: 3 })),
    {
      maxLength: 40,
    },
  )
  .map((parts) => parts.join(''))
const bytesArbitrary = fc.oneof(
  { weight: 3, arbitrary: textArbitrary.map(encode) },
  fc
    .tuple(textArbitrary, fc.uint8Array({ maxLength: 20 }), textArbitrary)
    .map(([a, junk, b]) => Uint8Array.from([...encode(a), ...junk, ...encode(b)])),
)

test('SseReader reads any bytes regardless of how they are split', () => {
  fc.assert(
    fc.property(bytesArbitrary, fc.array(fc.nat({ max: 300 }), { maxLength: 8 }), (bytes, cuts) => {
      const at = [0, ...cuts.map((cut) => Math.min(cut, bytes.length)), bytes.length]
      at.sort((a, b) => a - b)
      const pieces = at.slice(1).map((end, i) => bytes.subarray(at[i], end))
      const whole = readBytes([bytes])
      expect(readBytes(pieces)).toEqual(whole)
      expect(readBytes(single(bytes))).toEqual(whole)
    }),
    { numRuns: 500 },
  )
})

test('SseReader throws only SseOverflow and does not exceed its limit', () => {
  const CHUNK = 8
  fc.assert(
    fc.property(
      fc.oneof(textArbitrary, fc.string({ unit: 'binary' })),
      fc.integer({ min: 1, max: 40 }),
      (text, max) => {
        const reader = new SseReader(max)
        const messages: SseMessage[] = []
        try {
          for (let at = 0; at < text.length; at += CHUNK) {
            messages.push(...reader.feed(text.slice(at, at + CHUNK)))
          }
          messages.push(...reader.end())
        } catch (error) {
          expect(error).toBeInstanceOf(SseOverflow)
        }
        // One piece may exceed the limit, as its messages are returned immediately.
        for (const { data } of messages) expect(data.length).toBeLessThanOrEqual(max + CHUNK)
      },
    ),
    { numRuns: 500 },
  )
})

/** The messages that a parser of the standard finds. */
function readByStandard(text: string): SseMessage[] {
  const messages: SseMessage[] = []
  const onEvent = (found: EventSourceMessage) =>
    messages.push({ event: found.event ?? null, data: found.data })
  createParser({ onEvent }).feed(`${text}\n\n`)
  return messages
}

test('SseReader reads what a parser of the standard reads', () => {
  const parts = [
    ...['data: a\n\n', 'data: {"b":1}\n\n', 'data: c\n', '\n', 'data: ', 'd', 'data:e\n\n', '\r'],
    ...[
      ': x\n',
      'event: f\n',
      'event\r\n',
      'data\n',
      'id: 1\n',
      'retry: 2\r',
      'data:  g\r\n',
      ':',
      'h:',
    ],
  ]
  const text = fc.array(fc.constantFrom(...parts), { maxLength: 12 }).map((some) => some.join(''))
  fc.assert(
    fc.property(text, (body) => {
      expect(read([body])).toEqual(readByStandard(body))
    }),
    { numRuns: 2000 },
  )
})
