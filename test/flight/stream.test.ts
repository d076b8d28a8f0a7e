// Deltas in each format: JSON, events and text carry the same answer.
import fc from 'fast-check'
import { afterEach, expect, test, vi } from 'vitest'
import type { FinishReason, Logprobs } from '../../src/completion/completion.ts'
import type { Delta, FoldedAnswer } from '../../src/completion/delta.ts'
import { encodeWhole, type Reader, type Shape } from '../../src/completion/encode.ts'
import { GatewayError } from '../../src/errors.ts'
import { Flight } from '../../src/flight/flight.ts'
import { Encodings, streamAnswer, streamWhole } from '../../src/flight/stream.ts'
import { fold } from '../support/fold.ts'

const ID = `cmpl-${'a'.repeat(28)}`
const json: Reader = { shape: { as: 'json', stream: false, includeUsage: false }, resume: null }
const text: Reader = { shape: { as: 'text', stream: false, includeUsage: false }, resume: null }
const sse = (includeUsage = false): Reader => ({
  shape: { as: 'sse', stream: true, includeUsage },
  resume: null,
})

const head: Delta = { kind: 'head', head: { id: ID, created: 1, model: 'm' } }
const said = (words: string, index = 0, logprobs: Logprobs | null = null): Delta => ({
  kind: 'text',
  index,
  text: words,
  logprobs,
})
const finish = (index = 0, reason: FinishReason = 'stop'): Delta => ({
  kind: 'finish',
  index,
  reason,
})
const usage: Delta = {
  kind: 'usage',
  usage: { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 },
  estimated: false,
}

const word = fc.oneof(
  fc.string({ minLength: 1, maxLength: 8 }),
  fc.string({ unit: 'binary', minLength: 1, maxLength: 4 }),
  fc.constantFrom('\n', '\r\n', '\u2028', 'data: [DONE]\n\n', '\ufeff', ':', '\\u0000', '"'),
)
const oddsOf = (token: string): Logprobs => ({
  tokens: [token],
  token_logprobs: [-0.5],
  top_logprobs: [{ [token]: -0.5 }],
  text_offset: [0],
})

/** A complete answer's deltas in batches; choices are interleaved as if from several calls. */
const answers: fc.Arbitrary<Delta[][]> = fc
  .record({
    fingerprint: fc.option(word),
    choices: fc.integer({ min: 1, max: 3 }),
    texts: fc.array(fc.tuple(fc.nat(2), word, fc.boolean()), { maxLength: 12 }),
    reasons: fc.array(fc.constantFrom<FinishReason[]>('stop', 'length', 'content_filter'), {
      minLength: 3,
      maxLength: 3,
    }),
    estimated: fc.boolean(),
    cuts: fc.array(fc.boolean(), { minLength: 30, maxLength: 30 }),
  })
  .map(({ fingerprint, choices, texts, reasons, estimated, cuts }) => {
    const deltas: Delta[] = [
      {
        kind: 'head',
        head: {
          id: ID,
          created: 7,
          model: 'm',
          ...(fingerprint === null ? {} : { system_fingerprint: fingerprint }),
        },
      },
      ...texts.map(([index, words, odds]) =>
        said(words, index % choices, odds ? oddsOf(words) : null),
      ),
      ...Array.from({ length: choices }, (_, index) => finish(index, reasons[index] ?? 'stop')),
      { ...usage, estimated },
    ]
    const batches: Delta[][] = [[]]
    for (const [i, delta] of deltas.entries()) {
      if (cuts[i] === true) batches.push([])
      batches.at(-1)?.push(delta)
    }
    return batches.filter((batch) => batch.length > 0)
  })

interface Chunk {
  readonly id: string
  readonly object: string
  readonly created: number
  readonly model: string
  readonly system_fingerprint?: string
  readonly choices: readonly {
    readonly text: string
    readonly index: number
    readonly logprobs: Logprobs | null
    readonly finish_reason: FinishReason | null
  }[]
  readonly usage?: unknown
}

/** Parses an event stream strictly and assembles its answer. */
function readEvents(body: string, includeUsage: boolean) {
  expect(body.startsWith('\ufeff')).toBe(false)
  expect(body).not.toContain('\r')
  const events = body.split('\n\n')
  expect(events.splice(-2)).toEqual(['data: [DONE]', ''])
  const chunks = events.map((event) => {
    expect(event).toMatch(/^data: \{[^\n]*\}$/)
    return JSON.parse(event.slice('data: '.length)) as Chunk
  })
  const finished = new Set<number>()
  const texts = new Map<number, string>()
  const reasons = new Map<number, string>()
  const tokens = new Map<number, string[]>()
  for (const [i, { choices, usage: counted, ...same }] of chunks.entries()) {
    expect(same).toEqual({
      id: ID,
      object: 'text_completion',
      created: same.created,
      model: 'm',
      ...(same.system_fingerprint === undefined
        ? {}
        : { system_fingerprint: same.system_fingerprint }),
    })
    expect(same).toEqual(omitted(chunks[0]))
    const last = i === chunks.length - 1
    if (includeUsage) expect(counted === null).toBe(!last)
    else expect(counted).toBeUndefined()
    expect(choices).toHaveLength(includeUsage && last ? 0 : 1)
    for (const choice of choices) {
      expect(Object.keys(choice)).toEqual(['text', 'index', 'logprobs', 'finish_reason'])
      expect(finished.has(choice.index)).toBe(false)
      texts.set(choice.index, (texts.get(choice.index) ?? '') + choice.text)
      const more = choice.logprobs?.tokens ?? []
      tokens.set(choice.index, [...(tokens.get(choice.index) ?? []), ...more])
      if (choice.finish_reason === null) continue
      finished.add(choice.index)
      reasons.set(choice.index, choice.finish_reason)
    }
  }
  return { texts, reasons, tokens, usage: chunks.at(-1)?.usage ?? null }
}

function omitted(chunk: Chunk | undefined) {
  const { choices: _, usage: __, ...same } = chunk ?? ({} as Chunk)
  return same
}

async function* load(batches: readonly (readonly Delta[])[]) {
  yield* batches
}

/** The complete body that a reader of a flight gets. */
async function liveBody(flight: Flight, reader: Reader): Promise<string> {
  const texts = new Encodings(flight).read(reader, new AbortController().signal)
  return await bodyOf(streamAnswer('', texts, reader.shape, quiet))
}

async function bodyOf(stream: ReadableStream<Uint8Array>): Promise<string> {
  // Not `text()`, which strips a byte order mark.
  const bytes = await new Response(stream).arrayBuffer()
  return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
}

const quiet = { keepAliveMs: 15_000, now: () => Date.now(), onEnd: () => {}, onError: () => {} }

function check(body: string, includeUsage: boolean, folded: FoldedAnswer): void {
  const { choices, usage: counted } = folded.completion
  const events = readEvents(body, includeUsage)
  expect([...events.texts.keys()].sort()).toEqual(choices.map(({ index }) => index))
  for (const { index, text: words, finish_reason, logprobs } of choices) {
    expect(events.texts.get(index)).toBe(words)
    expect(events.reasons.get(index)).toBe(finish_reason)
    expect(events.tokens.get(index)).toEqual(logprobs?.tokens ?? [])
  }
  if (includeUsage) expect(events.usage).toEqual(counted)
}

afterEach(() => {
  vi.useRealTimers()
})

test('JSON, events and text carry the same answer, live and cached', async () => {
  await fc.assert(
    fc.asyncProperty(answers, fc.boolean(), async (batches, includeUsage) => {
      const folded = fold(batches.flat())
      expect(JSON.parse(encodeWhole(folded, json))).toEqual(folded.completion)
      expect(encodeWhole(folded, text)).toBe(folded.completion.choices[0]?.text)
      check(encodeWhole(folded, sse(includeUsage)), includeUsage, folded)
      const flight = new Flight(() => load(batches), { keepGoing: true })
      check(await liveBody(flight, sse(includeUsage)), includeUsage, folded)
      const bare = { ...text, shape: { ...text.shape, stream: true } }
      expect(await liveBody(flight, bare)).toBe(folded.completion.choices[0]?.text)
    }),
    { numRuns: 100 },
  )
})

test('encodeWhole() returns the documented JSON object with its fields in order', () => {
  const deltas = [head, said('b', 1), said('a', 0), finish(1, 'length'), finish(0), usage]
  expect(encodeWhole(fold(deltas), json)).toBe(
    `{"id":"${ID}","object":"text_completion","created":1,"model":"m","choices":[` +
      '{"text":"a","index":0,"logprobs":null,"finish_reason":"stop"},' +
      '{"text":"b","index":1,"logprobs":null,"finish_reason":"length"}],' +
      '"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}',
  )
})

/** Texts that the test provides one by one. */
function handed() {
  const queue: PromiseWithResolvers<IteratorResult<string>>[] = []
  let asked = 0
  let given = 0
  const slot = (i: number) => (queue[i] ??= Promise.withResolvers())
  const texts: AsyncIterator<string> = { next: () => slot(asked++).promise }
  return {
    texts,
    asked: () => asked,
    give: (value: string) => slot(given++).resolve({ done: false, value }),
    end: () => slot(given++).resolve({ done: true, value: undefined }),
    fail: (error: unknown) => slot(given++).reject(error),
  }
}

function stream(first: string, shape: Shape, keepAliveMs = 15_000) {
  const hand = handed()
  const ends: unknown[] = []
  const errors: unknown[] = []
  const body = streamAnswer(first, hand.texts, shape, {
    keepAliveMs,
    now: () => Date.now(),
    onEnd: (end) => ends.push(end),
    onError: (error) => errors.push(error),
  })
  const reader = body.getReader()
  const read = async () => {
    const { done, value } = await reader.read()
    return done ? null : new TextDecoder('utf-8', { fatal: false, ignoreBOM: true }).decode(value)
  }
  return { ...hand, reader, read, ends, errors }
}

const events = sse().shape
const bare: Shape = { as: 'text', stream: true, includeUsage: false }

test('streamAnswer() sends the first text immediately, and [DONE] last', async () => {
  const { read, give, end, ends } = stream('first', events)
  expect(await read()).toBe('first')
  give('second')
  expect(await read()).toBe('second')
  end()
  expect(await read()).toBe('data: [DONE]\n\n')
  expect(await read()).toBeNull()
  expect(ends).toEqual(['whole'])
})

test('streamAnswer() of bare text ends without [DONE]', async () => {
  const { read, give, end, ends } = stream('a', bare)
  expect(await read()).toBe('a')
  give('b')
  end()
  expect(await read()).toBe('b')
  expect(await read()).toBeNull()
  expect(ends).toEqual(['whole'])
})

test('streamAnswer() sends no empty chunks', async () => {
  const { read, give, end } = stream('', events)
  give('')
  give('')
  give('a')
  end()
  expect(await read()).toBe('a')
  expect(await read()).toBe('data: [DONE]\n\n')
})

test('streamAnswer() sends ":" after each silence and continues', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] })
  const { read, give, end } = stream('', events)
  const first = read()
  await vi.advanceTimersByTimeAsync(14_999)
  expect(await Promise.race([first, Promise.resolve('nothing yet')])).toBe('nothing yet')
  await vi.advanceTimersByTimeAsync(1)
  expect(await first).toBe(':\n\n')
  const second = read()
  await vi.advanceTimersByTimeAsync(15_000)
  expect(await second).toBe(':\n\n')
  give('a')
  expect(await read()).toBe('a')
  end()
  expect(await read()).toBe('data: [DONE]\n\n')
  expect(await read()).toBeNull()
  expect(vi.getTimerCount()).toBe(0)
})

test('streamAnswer() requests the next text once, however many keep-alives it sends', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] })
  const { read, asked } = stream('', events)
  for (let i = 0; i < 3; i++) {
    const silence = read()
    await vi.advanceTimersByTimeAsync(15_000)
    await silence
  }
  expect(asked()).toBe(1)
})

test('streamAnswer() sends no keep-alive comments in bare text', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] })
  const { read, give } = stream('', bare)
  const first = read()
  await vi.advanceTimersByTimeAsync(60_000)
  give('a')
  expect(await first).toBe('a')
})

test('streamAnswer() sends a failure as an error event, without [DONE]', async () => {
  const { read, fail, ends, errors } = stream('data: {}\n\n', events)
  expect(await read()).toBe('data: {}\n\n')
  const error = new GatewayError('upstream_truncated', 'Cannot finish', { cause: 'private' })
  fail(error)
  expect(await read()).toBe(
    'data: {"error":{"message":"Cannot finish","type":"api_error","param":null,"code":"upstream_truncated"}}\n\n',
  )
  expect(await read()).toBeNull()
  expect(ends).toEqual([expect.objectContaining({ code: 'upstream_truncated' })])
  expect(errors).toEqual([error])
})

test('streamAnswer() sends an unexpected error as internal, without its message', async () => {
  const { read, fail } = stream('a', events)
  await read()
  fail(new TypeError('private text'))
  const event = (await read()) ?? ''
  expect(event).toContain('"code":"internal"')
  expect(event).not.toContain('private text')
})

test('streamAnswer() aborts bare text on a failure, never ends it cleanly', async () => {
  const { reader, fail, ends } = stream('a', bare)
  await reader.read()
  fail(new GatewayError('upstream_timeout', 'private text'))
  const broken = await reader.read().catch((error: Error) => error)
  expect(broken).toBeInstanceOf(Error)
  expect((broken as Error).message).not.toContain('private')
  expect(ends).toEqual([expect.objectContaining({ code: 'upstream_timeout' })])
})

test('streamAnswer() reports once that its reader left, regardless of later events', async () => {
  for (const later of ['text', 'end', 'failure'] as const) {
    const { reader, read, give, end, fail, ends, errors } = stream('a', events)
    await read()
    await reader.cancel()
    expect(ends).toEqual(['left'])
    if (later === 'text') give('b')
    else if (later === 'end') end()
    else fail(new Error('late'))
    await new Promise<void>((resolve) => setImmediate(resolve))
    expect(ends).toEqual(['left'])
    expect(errors).toEqual([])
  }
})

test('streamAnswer() does not read ahead of its reader', async () => {
  const { asked, give } = stream('a', events)
  for (let i = 0; i < 10; i++) give('b')
  await new Promise<void>((resolve) => setImmediate(resolve))
  expect(asked()).toBeLessThanOrEqual(1)
})

test('Encodings encodes a flight once for all readers of a format', async () => {
  const batches = [[head, said('a')], [said('b')], [finish(), usage]]
  const flight = new Flight(() => load(batches), { keepGoing: true })
  await flight.over
  const encodings = new Encodings(flight)
  const read = async (reader: Reader) => {
    let body = ''
    for await (const piece of encodings.read(reader, new AbortController().signal)) body += piece
    return body
  }
  const bodies = await Promise.all([sse(), sse(), sse(true), text, sse()].map(read))
  const [first, second, withUsage, plain, late] = bodies
  check(`${first}data: [DONE]\n\n`, false, fold(batches.flat()))
  expect([second, late]).toEqual([first, first])
  expect(withUsage).toContain('"usage":{')
  expect(plain).toBe('ab')
})

/** Texts that are long in one delta, in many, and full of surrogate pairs. */
const longTexts: readonly [string, readonly string[]][] = [
  ['one long piece', ['x'.repeat(200_000)]],
  ['many pieces', Array.from({ length: 5000 }, (_, i) => `${i} `)],
  ['short and long pieces', ['a', 'y'.repeat(100_000), 'b', 'z'.repeat(40_000), 'c']],
  ['pairs', [`.${'😀'.repeat(50_000)}`, '😀'.repeat(50_000)]],
]

test.each(longTexts)('a reader gets %s in pieces that split no character', async (_, pieces) => {
  const batches = [[head, ...pieces.map((piece) => said(piece)), finish(), usage]]
  const flight = new Flight(() => load(batches), { keepGoing: true })
  await flight.over
  const encodings = new Encodings(flight)
  for (const resume of [null, { id: ID, characters: 0 }]) {
    for (const { shape } of [sse(), text]) {
      const reader = { shape: { ...shape, stream: true }, resume }
      let whole = ''
      for await (const piece of encodings.read(reader, new AbortController().signal)) {
        expect(piece.length).toBeLessThanOrEqual(32_768)
        expect(piece.isWellFormed()).toBe(true)
        whole += piece
      }
      const told =
        shape.as === 'text' ? whole : readEvents(`${whole}data: [DONE]\n\n`, false).texts.get(0)
      expect(told).toBe(pieces.join(''))
    }
  }
})

test.each(longTexts)('a cached answer of %s is the same in pieces', async (_, pieces) => {
  const folded = fold([head, ...pieces.map((piece) => said(piece)), finish(), usage])
  for (const { shape } of [sse(), text]) {
    for (const characters of [0, 1, 40_001]) {
      const reader = { shape: { ...shape, stream: true }, resume: { id: ID, characters } }
      const stream = streamWhole(folded, reader)
      const parts = await Array.fromAsync(stream)
      for (const part of parts) expect(part.byteLength).toBeLessThan(200_000)
      const whole = Buffer.concat(parts).toString('utf8')
      const told = shape.as === 'text' ? whole : readEvents(whole, false).texts.get(0)
      const rest = pieces.join('').slice(characters)
      // Halves of a surrogate pair that JSON escapes separately must be joined again.
      expect(told).toBe(shape.as === 'text' ? Buffer.from(rest).toString('utf8') : rest)
      expect(encodeWhole(folded, reader)).toBe(shape.as === 'text' ? rest : whole)
    }
  }
})

test('a reader that resumes gets the rest of the same answer, and all of another one', async () => {
  const deltas = [head, said('Hel'), said('lo'), said('x', 1), finish(), finish(1), usage]
  const folded = fold(deltas)
  const resumed = (id: string, characters: number) =>
    readEvents(encodeWhole(folded, { ...sse(), resume: { id, characters } }), false).texts
  for (let at = 0; at <= 7; at++) {
    expect(resumed(ID, at).get(0)).toBe('Hello'.slice(at))
    expect(resumed(ID, at).get(1)).toBe('x')
  }
  expect(resumed(`cmpl-${'b'.repeat(28)}`, 3).get(0)).toBe('Hello')
})
