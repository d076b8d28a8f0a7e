// Parses server-sent messages before a wire reads them, and separates one message from the next.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { isComplete, JsonEnd, JsonLines, objectsIn, separated } from '../../src/upstream/message.ts'
import { cpuMs } from '../support/cpu.ts'

const message = (data: string, event: string | null = null) => ({ event, data })
const badResponse = expect.objectContaining({ code: 'upstream_bad_response' })

test('objectsIn() reads a single object and the objects of a list', () => {
  expect(objectsIn(message(' {"a":1} '))).toEqual([{ a: 1 }])
  expect(objectsIn(message('[{"a":1},null,{"b":2}]'))).toEqual([{ a: 1 }, { b: 2 }])
})

test.each(['[DONE]', ' [DONE] ', 'DONE', '"[DONE]"', '[done]', 'Done'])(
  'objectsIn() reads %j as the terminator',
  (data) => {
    expect(objectsIn(message(data))).toBeNull()
  },
)

test.each([
  ...['', ' ', 'null', '[]', '[null]', '""', 'None', 'undefined', ': keepalive', ':'],
  ...['ping', 'PONG', '[heartbeat]', '"keep-alive"', 'keepalive', '2024-04-07 20:20:50.554328'],
])('objectsIn() finds nothing in %j', (data) => {
  expect(objectsIn(message(data))).toEqual([])
})

test.each(['ping', 'heartbeat', 'keepalive', 'keep-alive'])(
  'objectsIn() ignores an event named %s, even if its data is unknown',
  (event) => {
    expect(objectsIn(message('17', event))).toEqual([])
  },
)

test.each(['42', 'true', '"text"', 'oops', '{"a":', '[1]', '[DONE', 'pinged', 'nullify'])(
  'objectsIn() throws for %j',
  (data) => {
    expect(() => objectsIn(message(data))).toThrow(badResponse)
  },
)

test('isComplete() is false only for data that may be cut off', () => {
  for (const data of ['', '{}', '[DONE]', ': ping', 'null', '42']) {
    expect(isComplete(message(data)), data).toBe(true)
  }
  for (const data of ['{"a":', '[DON', 'oops']) expect(isComplete(message(data)), data).toBe(false)
})

test('separated() makes a message of each complete line and gives the event name to the last', () => {
  expect(separated([message('{"a":1}\n{"b":2}\n[DONE]', 'end'), message('{"c":3}')])).toEqual([
    message('{"a":1}'),
    message('{"b":2}'),
    message('[DONE]', 'end'),
    message('{"c":3}'),
  ])
  expect(separated([message('{"a":1}\n\n{"b":')])).toEqual([message('{"a":1}'), message('{"b":')])
})

test('separated() keeps an object that spans several lines', () => {
  const spread = [message('{"a":\n1}'), message('{\n"a":{}\n}'), message('oops\n{}')]
  expect(separated(spread)).toEqual(spread)
})

test('JsonLines reads a long line in small pieces in linear time', () => {
  const lines = new JsonLines()
  const ms = cpuMs(() => {
    for (let i = 0; i < 200_000; i++) lines.feed('abcde')
  })
  expect(lines.end()).toEqual([{ event: null, data: 'abcde'.repeat(200_000) }])
  expect(ms).toBeLessThan(1000)
})

test('JsonLines reads the same lines regardless of how they are split', () => {
  const body = '{"a":1}\r\n\n data: {"b":2}\ndata:[DONE]\n{"c":'
  const expected = ['{"a":1}', ' {"b":2}', '[DONE]', '{"c":']
  for (let at = 0; at <= body.length; at++) {
    const lines = new JsonLines()
    const messages = [
      ...lines.feed(body.slice(0, at)),
      ...lines.feed(body.slice(at)),
      ...lines.end(),
    ]
    expect(messages.map(({ data }) => data)).toEqual(expected)
  }
})

test('JsonEnd finds the end of the first value in any split', () => {
  const value = fc.oneof(fc.dictionary(fc.string(), fc.jsonValue()), fc.array(fc.jsonValue()))
  const behind = fc.constantFrom('', '\n', ' [DONE]', '\n{"a":1}', '}')
  const lead = fc.constantFrom('', '\n ')
  fc.assert(
    fc.property(value, behind, lead, fc.array(fc.nat(200)), (whole, rest, before, cuts) => {
      const json = before + JSON.stringify(whole)
      const end = new JsonEnd()
      const text = json + rest
      const stops = [...cuts.filter((cut) => cut < text.length).sort((a, b) => a - b), text.length]
      const found = stops
        .map((stop, i) => end.find(text.slice(stops[i - 1] ?? 0, stop)))
        .find((at) => at !== null)
      expect(found).toBe(json.length)
    }),
  )
})

test('JsonEnd finds no end of an incomplete value', () => {
  for (const text of ['{', '{"a":"}', '[{"a":[1]}', '{"a\\\\\\":{}']) {
    expect(new JsonEnd().find(text), text).toBeNull()
  }
})
