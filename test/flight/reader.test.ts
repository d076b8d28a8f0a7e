// What a reader of a flight gets: the same answer in each shape, live and cached, whole or resumed;
// how its stream ends; and how little a slow reader costs.
import fc from 'fast-check'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { type Delta, type FoldedAnswer, replay } from '../../src/completion/delta.ts'
import { DONE, encodeWhole, type Reader } from '../../src/completion/encode.ts'
import { GatewayError } from '../../src/errors.ts'
import { Flight } from '../../src/flight/flight.ts'
import {
  Encodings,
  type StreamEnd,
  type StreamOptions,
  StreamReader,
  streamWhole,
  untilOver,
} from '../../src/flight/reader.ts'
import { parseStream } from '../support/answers.ts'
import { anyAnswer } from '../support/any-answer.ts'
import {
  bare,
  finish,
  handed,
  head,
  ID,
  json,
  readOut,
  said,
  sse,
  untilIdle,
  usage,
  utf8,
} from '../support/flights.ts'
import { fold } from '../support/fold.ts'
import { shapes } from '../support/shapes.ts'

const sseUsage: Reader = { ...sse, shape: { ...sse.shape, includeUsage: true } }

afterEach(() => {
  vi.useRealTimers()
})

type Options = Partial<Pick<StreamOptions, 'isRemote' | 'pipe'>>

/** A flight whose load the test controls. By default its clock makes it tell of each delta. */
function start(keepGoing = true, clock: (() => number) | null = null) {
  const hand = handed()
  let ms = 0
  const now = () => {
    ms += 16
    return ms
  }
  const flight = new Flight(hand.load, { keepGoing, now: clock ?? now })
  const encodings = new Encodings(flight)
  const errors: unknown[] = []
  const join = (reader: Reader, options: Options = {}) => {
    const stream = new StreamReader({
      flight,
      encoding: encodings.of(reader),
      shape: reader.shape,
      pipe: new TransformStream(),
      isRemote: false,
      onError: (error) => errors.push(error),
      ...options,
    })
    const ends: StreamEnd[] = []
    stream.ended.then((end) => ends.push(end))
    stream.begun.catch(() => {})
    return { stream, ends, read: () => readOut(stream.body) }
  }
  return { ...hand, flight, errors, join }
}

/** A pipe whose reader takes one write for each `take()`, and the bytes that were written. */
function slowPipe() {
  const written: Uint8Array[] = []
  let taken = () => {}
  const write = async (bytes: Uint8Array) => {
    written.push(bytes)
    await new Promise<void>((resolve) => {
      taken = resolve
    })
  }
  const pipe = { readable: new ReadableStream(), writable: new WritableStream({ write }) }
  const take = async () => {
    await untilIdle()
    taken()
    await untilIdle()
  }
  return { pipe, written, take }
}

function expectSame(body: string, includeUsage: boolean, { completion }: FoldedAnswer): void {
  const stream = parseStream(body)
  expect([stream.done, stream.problem]).toEqual([true, null])
  for (const { index, text, finish_reason, logprobs } of completion.choices) {
    expect([stream.text(index), stream.finish(index)]).toEqual([text, finish_reason])
    const own = stream.chunks.flatMap(({ choices }) => choices).filter((one) => one.index === index)
    const tokens = own.flatMap((choice) => choice.logprobs?.tokens ?? [])
    expect(tokens).toEqual(logprobs?.tokens ?? [])
  }
  expect(stream.usage).toEqual(includeUsage ? completion.usage : null)
}

const chat: Reader = { ...sse, shape: { ...sse.shape, api: 'chat' } }
/** The shapes besides completions, each with its strict reader. */
const others: readonly [name: string, Reader][] = [
  ['chat JSON', { ...json, shape: { ...json.shape, api: 'chat' } }],
  ['chat SSE', chat],
  ['chat SSE', { ...chat, shape: { ...chat.shape, includeUsage: true } }],
  ['UI messages', { ...sse, shape: { ...sse.shape, api: 'ai-sdk' } }],
]

test('JSON, events and text carry the same answer, live and cached', async () => {
  await fc.assert(
    fc.asyncProperty(anyAnswer, fc.array(fc.boolean()), async ({ folded }, cuts) => {
      const { text = '', finish_reason = '' } = folded.completion.choices[0] ?? {}
      const expectOther = async (name: string, body: string) => {
        const reading = await shapes.find((shape) => shape.name === name)?.read(body)
        const { finish, ...rest } = reading ?? { finish: null }
        expect(rest).toMatchObject({ text, problem: null, done: true })
        expect(finish?.replace('-', '_')).toBe(finish_reason)
      }
      for (const [name, reader] of others) await expectOther(name, encodeWhole(folded, reader))
      const whole = JSON.stringify(JSON.parse(encodeWhole(folded, json)))
      expect(whole).toBe(JSON.stringify(folded.completion))
      expect(encodeWhole(folded, bare)).toBe(text)
      for (const reader of [sse, sseUsage]) {
        expectSame(encodeWhole(folded, reader), reader === sseUsage, folded)
      }
      const { give, end, join, flight } = start()
      const live = [sse, sseUsage, bare].map((reader) => join(reader).read())
      const liveOthers = others
        .slice(1)
        .map(([name, reader]) => [name, join(reader).read()] as const)
      for (const [i, delta] of replay(folded).entries()) {
        give(delta)
        if (cuts[i] === true) await untilIdle()
      }
      end()
      await flight.over
      const [events, withUsage, plain] = await Promise.all(live)
      expectSame(events?.text ?? '', false, folded)
      expectSame(withUsage?.text ?? '', true, folded)
      expect(plain?.text).toBe(text)
      expect((await join(sse).read()).text).toBe(events?.text)
      for (const [name, reading] of liveOthers) await expectOther(name, (await reading).text)
    }),
    { numRuns: 60 },
  )
})

test.each([
  ['one long piece', ['x'.repeat(200_000)]],
  ['many pieces', Array.from({ length: 5000 }, (_, i) => `${i} `)],
  ['short and long pieces', ['a', 'y'.repeat(100_000), 'b', 'z'.repeat(40_000), 'c']],
  ['pairs', [`.${'😀'.repeat(50_000)}`, '😀'.repeat(50_000)]],
])('%s: a reader gets writes that split no character, live and cached', async (_, texts) => {
  const deltas: Delta[] = [head, ...texts.map((text) => said(text)), finish(), usage]
  const folded = fold(deltas)
  const { give, end, join, flight } = start()
  give(...deltas)
  end()
  await flight.over
  for (const characters of [null, 0, 1, 40_001]) {
    const resume = characters === null ? null : { id: ID, characters }
    for (const { shape } of [sse, bare]) {
      const reader = { shape, resume }
      const rest = texts.join('').slice(characters ?? 0)
      // Halves of a surrogate pair that JSON escapes separately must be joined again.
      const expected = shape.as === 'text' ? Buffer.from(rest).toString('utf8') : rest
      for (const body of [join(reader).stream.body, streamWhole(folded, reader)]) {
        const { pieces, text, error } = await readOut(body)
        expect(error).toBeNull()
        for (const piece of pieces) expect(piece.length).toBeLessThan(2 * 32_768 + 500)
        expect(shape.as === 'text' ? text : parseStream(text).text()).toBe(expected)
      }
    }
  }
})

describe('a stream', () => {
  test('begins with what is there, goes on with what is new, and ends with one [DONE]', async () => {
    const { give, end, join } = start()
    give(head, said('a'))
    const { read, ends } = join(sse)
    const reading = read()
    for (const delta of [said('b'), finish()]) {
      await untilIdle()
      give(delta)
    }
    await untilIdle()
    expect(ends).toEqual([])
    end()
    const { pieces, error } = await reading
    expect([error, ends]).toEqual([null, ['whole']])
    expect(pieces.slice(0, -1).map((piece) => parseStream(piece).text())).toEqual(['a', 'b', ''])
    expect(pieces.at(-1)).toBe(DONE)
  })

  test('has [DONE] in its last write if the rest was not sent before the end', async () => {
    const { give, end, join } = start()
    const { pipe, written, take } = slowPipe()
    join(sse, { pipe })
    for (const delta of [head, said('a'), said('b'), finish(), usage]) give(delta)
    end()
    for (let i = 0; i < 3; i++) await take()
    expect(written).toHaveLength(2)
    expect(parseStream(utf8(written[1] ?? new Uint8Array()))).toMatchObject({ done: true })
  })

  test('of bare text has no [DONE] and no empty writes, and begins with the head', async () => {
    const { give, end, join } = start()
    const { stream, ends, read } = join(bare)
    let isBegun = false
    stream.begun.then(() => {
      isBegun = true
    })
    const reading = read()
    await untilIdle()
    expect(isBegun).toBe(false)
    give(head)
    await untilIdle()
    expect(isBegun).toBe(true)
    for (const delta of [said('a'), said('x', 1), said('b'), finish(), usage]) give(delta)
    end()
    const { text, pieces } = await reading
    expect([text, pieces.includes(''), ends]).toEqual(['ab', false, ['whole']])
  })

  test.each([
    ['events get', sse, `:\n\n:\n\n${DONE}`],
    ['bare text gets no', bare, ''],
  ])('of %s comments in silence, after its head', async (_, reader, expected) => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] })
    const { give, end, join } = start(true, Date.now)
    const reading = join(reader).read()
    vi.advanceTimersByTime(15_000)
    give(head)
    vi.advanceTimersByTime(16)
    for (let i = 0; i < 2; i++) await vi.advanceTimersByTimeAsync(15_000)
    end()
    expect((await reading).text).toBe(expected)
  })

  test('that is not read gets no comments on top', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] })
    const { give, join } = start(true, Date.now)
    const { pipe, written, take } = slowPipe()
    join(sse, { pipe })
    give(head, said('a'))
    vi.advanceTimersByTime(60_000)
    await take()
    expect(written).toHaveLength(1)
    vi.advanceTimersByTime(15_000)
    await untilIdle()
    expect(written.slice(1).map(utf8)).toEqual([':\n\n'])
  })

  const truncated = new GatewayError('upstream_truncated', 'Cannot finish', { cause: 'private' })
  const ended = [expect.objectContaining({ code: 'upstream_truncated' })]

  test('that failed before the head has begun with that error', async () => {
    const { fail, join, errors } = start()
    const { stream, ends } = join(sse)
    fail(truncated)
    await expect(stream.begun).rejects.toBe(truncated)
    // The code that awaits it reports it.
    expect([ends, errors]).toEqual([ended, []])
  })

  test.each<[string, Reader, boolean, boolean]>([
    ['events ends after an error event', sse, false, false],
    ['events that is passed on is aborted', sse, true, true],
    ['bare text is aborted', bare, false, true],
  ])('of %s if it failed later, after all of the text', async (...row) => {
    const [, reader, isRemote, isAborted] = row
    const { give, fail, join, errors } = start()
    const { ends, read } = join(reader, { isRemote })
    const reading = read()
    for (const delta of [head, said('a'), said('b')]) give(delta)
    fail(truncated)
    const { text, error } = await reading
    if (reader === bare) expect(text).toBe('ab')
    else {
      const { problem, done, ...stream } = parseStream(text)
      const message = isRemote ? undefined : 'Cannot finish'
      expect([stream.text(), problem?.message, done]).toEqual(['ab', message, false])
    }
    expect(error instanceof Error).toBe(isAborted)
    expect(error?.message ?? '').not.toMatch(/private|finish/)
    expect([ends, errors]).toEqual([ended, [truncated]])
  })

  test('that failed unexpectedly ends as internal, without the message', async () => {
    const { give, fail, join } = start()
    const reading = join(sse).read()
    give(head, said('a'))
    fail(new TypeError('private text'))
    const { text } = await reading
    expect(parseStream(text).problem?.code).toBe('internal')
    expect(text).not.toContain('private text')
  })

  test.each(['text', 'end', 'failure'])(
    'whose reader left has ended once and without [DONE], regardless of a later %s',
    async (event) => {
      for (const how of ['cancel', 'cancel in silence', 'leave', 'leave before the head']) {
        const { give, end, fail, join, errors } = start()
        const { stream, ends, read } = join(sse)
        if (how !== 'leave before the head') give(head, said('a'))
        if (how.startsWith('cancel')) {
          const reader = stream.body.getReader()
          if (how === 'cancel in silence') await reader.read()
          await reader.cancel()
        } else stream.leave()
        await stream.begun
        await untilIdle()
        expect(ends).toEqual(['left'])
        if (event === 'text') give(said('b'))
        else if (event === 'end') end()
        else fail(truncated)
        await untilIdle()
        expect([ends, errors]).toEqual([['left'], []])
        if (how.startsWith('leave')) expect((await read()).error).not.toBeNull()
      }
    },
  )

  test('whose reader leaves instead of reading the error event has ended once', async () => {
    const { give, fail, join, errors, flight } = start()
    const { stream, ends } = join(sse)
    give(head)
    fail(truncated)
    await flight.over
    stream.leave()
    await untilIdle()
    expect([ends, errors]).toEqual([['left'], [truncated]])
  })
})

test('a slow reader gets one write of about 32 Ki characters at a time, and slows nobody', async () => {
  const { give, end, join, flight } = start()
  const { pipe, written, take } = slowPipe()
  join(bare, { pipe })
  const fast = join(bare).read()
  give(head)
  for (let i = 0; i < 2000; i++) give(said('x'.repeat(100)))
  end()
  await flight.over
  expect((await fast).text).toHaveLength(200_000)
  // A reader that reads nothing costs only this.
  expect(written.map(({ length }) => length)).toEqual([100])
  for (let count = 2; count <= 8; count++) {
    await take()
    expect(written).toHaveLength(count)
  }
  await take()
  expect(written.map(({ length }) => length)).toEqual([100, ...Array(6).fill(32_800), 3100])
})

test('readers of one shape at the same place share the bytes', async () => {
  const { give, end, join } = start()
  const open = (reader: Reader) => {
    const pipe = slowPipe()
    join(reader, pipe)
    return pipe
  }
  give(head, said('a'))
  const [first, second] = [open(sse), open(sse)]
  const others = [open(sseUsage), open({ ...sse, resume: { id: ID, characters: 0 } })]
  const takeAll = () => Promise.all([first, second, ...others].map(({ take }) => take()))
  await takeAll()
  give(said('b'))
  const late = open(sse)
  await takeAll()
  await late.take()
  give(said('c'))
  await takeAll()
  await late.take()
  end()
  await takeAll()
  const texts = first.written.map((bytes) => /"text":"(.)"/.exec(utf8(bytes))?.[1] ?? utf8(bytes))
  expect(texts).toEqual(['a', 'b', 'c', DONE])
  for (const [i, bytes] of first.written.entries()) {
    expect(second.written[i]).toBe(bytes)
    for (const { written } of others) expect(written[i]).not.toBe(bytes)
  }
  // The late reader got "a" and "b" at once; then it was at the same place.
  expect(late.written).toHaveLength(3)
  for (const i of [1, 2]) expect(late.written[i]).toBe(first.written[i + 1])
})

test.each(['completion', 'chat', 'ai-sdk'] as const)(
  'a reader in the shape "%s" who joins late gets the same bytes as the first one',
  async (api) => {
    const { give, end, join } = start()
    const reader: Reader = { ...sse, shape: { ...sse.shape, api } }
    const read = [join(reader).read()]
    for (const delta of [head, said('a'), said('b', 1), said('c'), finish(1), finish(0), usage]) {
      give(delta)
      await untilIdle()
      read.push(join(reader).read())
    }
    end()
    const texts = (await Promise.all(read)).map(({ text }) => text)
    expect(new Set(texts).size).toBe(1)
    expect(texts[0]?.split('"role":"assistant"')).toHaveLength(api === 'chat' ? 3 : 1)
  },
)

test.each(['end', 'failure', 'leaving', 'leaving before'] as const)(
  'untilOver() counts as a reader, and resolves at the %s',
  async (how) => {
    const { give, end, fail, flight, state } = start(false)
    const left = new AbortController()
    if (how === 'leaving before') left.abort()
    let isOver = false
    const waiting = untilOver(flight, left.signal).then(() => {
      isOver = true
    })
    give(head, said('a'))
    await untilIdle()
    expect([isOver, state.signal.aborted]).toEqual(Array(2).fill(how === 'leaving before'))
    if (how === 'end') end()
    else if (how === 'failure') fail(new Error('broken'))
    else left.abort()
    await waiting
    expect(state.signal.aborted).toBe(how.startsWith('leaving'))
    // A later one is not kept waiting.
    await untilOver(flight, new AbortController().signal)
  },
)
