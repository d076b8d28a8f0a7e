// Where a miss is answered: through the flight's door, or alone where that must be or cannot be
// otherwise; and a stream passed on, whatever becomes of it.
import { expect, test } from 'vitest'
import { type Reader, relay, type Shape, type StreamEnd } from '../../src/answer.ts'
import type { Problem } from '../../src/errors.ts'
import type { Work } from '../../src/generate.ts'
import type { MissAnswer, SharedWork } from '../../src/miss.ts'
import { type FlightDoor, Misses } from '../../src/routes/misses.ts'
import { answered, openStream } from '../support/app.ts'
import { calm, missWorld, work } from '../support/flights.ts'

const sse: Reader = { shape: { as: 'sse', stream: true, includeUsage: false }, resume: null }
const json: Reader = { shape: { as: 'json', stream: false, includeUsage: false }, resume: null }
const DONE = 'data: [DONE]\n\n'
const summary = { upstream: 'main', attempts: 1, usage: null }

function start(door: Partial<FlightDoor> | null) {
  const upstream = { respond: (): Response => answered('alone') }
  const world = missWorld(() => upstream.respond())
  world.state.purgedAtS = 42
  const doors = door === null ? null : { join: never, refresh: never, ...door }
  const misses = new Misses(doors, world.context)
  const ends: StreamEnd[] = []
  const boarded = { left: new AbortController(), onEnd: (end: StreamEnd) => void ends.push(end) }
  const answer = (more: Partial<Work> = {}, reader = json, alone = false) =>
    misses.answer({ ...work, ...more }, reader, boarded, alone)
  return { ...world, upstream, misses, ends, boarded, answer }
}

const never = () => new Promise<never>(() => {})
const textOf = (answer: MissAnswer) =>
  answer.kind === 'whole' ? answer.completion.choices[0]?.text : answer.kind

const found: MissAnswer = { kind: 'left', summary }

test('the door is asked with the purge this isolate knows of; its answer is the answer', async () => {
  const got: SharedWork[] = []
  const { answer, state } = start({
    join: async (given) => {
      got.push(given)
      return found
    },
  })
  expect(await answer()).toBe(found)
  expect(got).toEqual([{ ...work, purgedAtS: 42, presence: null }])
  expect(state.calls).toBe(0)
})

test.each([
  ['flights = "none"', null, false],
  ['an answer that must not be shared', {}, true],
])('%s: generated here, the door untouched', async (_, door, alone) => {
  const { answer, state, events } = start(door)
  expect(textOf(await answer({}, json, alone))).toBe('alone')
  expect(state.calls).toBe(1)
  expect(events.filter(({ event }) => event === 'flight_unreachable')).toEqual([])
})

const errors: readonly [string, object, number][] = [
  ['that is out of reach', {}, 1],
  ['that is overloaded', { retryable: true, overloaded: true }, 1],
  ['that has only just gone', { retryable: true }, 2],
  ['that was reset', { durableObjectReset: true }, 2],
]
test.each(errors)('a flight %s: generated alone, and said', async (_, flags, joins) => {
  let tries = 0
  const { answer, state, events } = start({
    join: async () => {
      tries += 1
      throw Object.assign(new Error('private'), flags)
    },
  })
  const reply = await answer()
  expect(textOf(reply)).toBe('alone')
  expect([tries, state.calls]).toEqual([joins, 1])
  expect(events.filter(({ event }) => event === 'flight_unreachable')).toEqual([
    { event: 'flight_unreachable', request_id: 'req_1' },
  ])
  expect(JSON.stringify(events)).not.toContain('private')
})

test('a flight that is back at the second try is no event', async () => {
  let tries = 0
  const { answer, state, events } = start({
    join: async () => {
      tries += 1
      if (tries === 1) throw Object.assign(new Error('x'), { retryable: true })
      return found
    },
  })
  expect(await answer()).toBe(found)
  expect([state.calls, events]).toEqual([0, []])
})

test('the flight of what is not kept knows of its reader until the end', async () => {
  const got: SharedWork[] = []
  const { answer, boarded } = start({
    join: async (given) => {
      got.push(given)
      return await never()
    },
  })
  answer({ keep: null })
  await calm()
  const presence = got[0]?.presence?.getReader()
  const over = presence?.read()
  await calm()
  boarded.left.abort()
  expect(await over).toEqual({ done: true, value: undefined })
})

test.each([
  ['a whole answer', false],
  ['a stream', true],
])('the presence of a reader ends with %s', async (_, stream) => {
  const got: SharedWork[] = []
  const body = streamOf(DONE)
  const { answer, boarded } = start({
    join: async (given) => {
      got.push(given)
      return stream ? { kind: 'stream', role: 'leader', body, summary } : found
    },
  })
  const reply = await answer({ keep: null }, sse)
  if (reply.kind === 'stream') await new Response(reply.body).text()
  expect(await got[0]?.presence?.getReader().read()).toEqual({ done: true, value: undefined })
  // Once more does no harm.
  boarded.left.abort()
})

test('a refresh goes through the door, once in ten seconds for a key', async () => {
  const keys: string[] = []
  const { misses, clock } = start({
    refresh: async ({ key, purgedAtS }) => void keys.push(`${key} ${purgedAtS}`),
  })
  for (let i = 0; i < 5; i++) await misses.refresh(work)
  await misses.refresh({ ...work, key: 'c1:01' })
  expect(keys).toEqual([`${work.key} 42`, 'c1:01 42'])
  clock.ms += 9999
  await misses.refresh(work)
  expect(keys).toHaveLength(2)
  clock.ms += 1
  await misses.refresh(work)
  expect(keys).toHaveLength(3)
  // A clock that jumps back must not stop refreshes.
  clock.ms -= 1_000_000
  await misses.refresh(work)
  expect(keys).toHaveLength(4)
})

test('what is remembered of refreshes is bounded', async () => {
  let refreshes = 0
  const { misses } = start({
    refresh: async () => {
      refreshes += 1
    },
  })
  for (let i = 0; i < 1001; i++) await misses.refresh({ ...work, key: `c1:${i}` })
  await misses.refresh({ ...work, key: 'c1:0' })
  expect(refreshes).toBe(1002)
})

test.each([
  ['without flights', null],
  ['with the flight out of reach', { refresh: () => Promise.reject(new Error('gone')) }],
])('a refresh %s runs here to its end, and is stored', async (_, door) => {
  const { misses, stored } = start(door)
  await misses.refresh(work)
  expect(stored.map(({ completion }) => completion.choices[0]?.text)).toEqual(['alone'])
})

test('a refresh never throws', async () => {
  const { misses, upstream } = start(null)
  upstream.respond = () => new Response('', { status: 500 })
  await expect(misses.refresh(work)).resolves.toBeUndefined()
})

test('alone, the reader who leaves ends the call', async () => {
  const said = openStream()
  const { answer, upstream, boarded } = start(null)
  upstream.respond = () => said.response()
  const answering = answer()
  await calm()
  boarded.left.abort()
  expect((await answering).kind).toBe('left')
  await said.left
})

// relay()

const broken: Problem = {
  code: 'upstream_truncated',
  message: 'Cannot finish the answer',
  param: null,
  retryAfterSeconds: null,
  rateLimit: null,
}
const stays = new AbortController().signal
const bare: Shape = { as: 'text', stream: true, includeUsage: false }

function streamOf(...pieces: readonly string[]): ReadableStream<Uint8Array> {
  const source = openStream()
  for (const piece of pieces) source.push(piece)
  source.end()
  return source.stream
}

/** Relays what a test gives, and reads all of it. */
async function relayed(pieces: readonly string[], end: 'ends' | 'breaks', shape: Shape) {
  const source = openStream()
  const ends: StreamEnd[] = []
  const body = relay(source.stream, shape, broken, stays, (how) => ends.push(how)).getReader()
  let text = ''
  let failed = false
  for (const piece of pieces) {
    source.push(piece)
    text += new TextDecoder().decode((await body.read()).value)
  }
  if (end === 'ends') source.end()
  else source.fail(new Error('disconnected prematurely'))
  for (;;) {
    const step = await body.read().catch(() => null)
    failed = step === null
    if (step === null || step.done) break
    text += new TextDecoder().decode(step.value)
  }
  return { text, failed, ends }
}

const hello = 'data: {"choices":[{"text":"Hello"}]}\n\n'
const told = /data: \{"error":\{.*"code":"upstream_truncated"\}\}\n\n$/

test('relay() passes everything on, and [DONE] is a good end however it is cut', async () => {
  const whole = hello + DONE
  for (let cut = 1; cut < whole.length; cut++) {
    const { text, failed, ends } = await relayed(
      [whole.slice(0, cut), whole.slice(cut)],
      'ends',
      sse.shape,
    )
    expect([text, failed, ends]).toEqual([whole, false, ['whole']])
  }
  const { text, ends } = await relayed([...whole], 'ends', sse.shape)
  expect([text, ends]).toEqual([whole, ['whole']])
})

test('relay() of a stream that breaks says so in band', async () => {
  for (const pieces of [[], [hello], [hello, ':\n\n']]) {
    const { text, failed, ends } = await relayed(pieces, 'breaks', sse.shape)
    expect(text).toMatch(told)
    expect(text.startsWith(pieces.join(''))).toBe(true)
    expect([failed, ends]).toEqual([false, [broken]])
  }
})

test('relay() of a stream that is torn within an event breaks off', async () => {
  // After half an event another one would not be read as one; one LF does not end an event.
  for (const half of ['data: {"choi', 'data: {"choices":[]}', 'data: {"choices":[]}\n']) {
    for (const end of ['breaks', 'ends'] as const) {
      const { text, failed, ends } = await relayed([hello, half], end, sse.shape)
      expect([text, failed, ends]).toEqual([hello + half, true, [broken]])
    }
  }
})

test('relay() of a stream that ends without a word says that it is not whole', async () => {
  const { text, failed, ends } = await relayed([hello], 'ends', sse.shape)
  expect(text).toMatch(told)
  expect([failed, ends]).toEqual([false, [broken]])
})

test('relay() reads the code of a failure told in band, however it is cut', async () => {
  const error = `data: ${JSON.stringify({
    error: { message: 'Cannot "}}', type: 'api_error', param: null, code: 'upstream_timeout' },
  })}\n\n`
  for (let cut = 1; cut < error.length; cut++) {
    const pieces = [hello + error.slice(0, cut), error.slice(cut)]
    const { text, ends } = await relayed(pieces, 'ends', sse.shape)
    expect(text).toBe(hello + error)
    expect(ends).toEqual([{ ...broken, code: 'upstream_timeout' }])
  }
})

test('relay() is not told a code by a text that looks like one', async () => {
  const text = JSON.stringify({ choices: [{ text: '"code":"internal"}}\n\n' }] })
  const { ends } = await relayed([`data: ${text}\n\n`, DONE], 'ends', sse.shape)
  expect(ends).toEqual(['whole'])
})

test('relay() of bare text ends as its source does: well, or broken off', async () => {
  expect(await relayed(['a', 'b'], 'ends', bare)).toEqual({
    text: 'ab',
    failed: false,
    ends: ['whole'],
  })
  expect(await relayed(['a', 'b'], 'breaks', bare)).toEqual({
    text: 'ab',
    failed: true,
    ends: [broken],
  })
})

test('relay() that is left lets go of its source, once', async () => {
  const source = openStream()
  const ends: StreamEnd[] = []
  const body = relay(source.stream, sse.shape, broken, stays, (how) => ends.push(how)).getReader()
  source.push(hello)
  await body.read()
  await body.cancel()
  await source.left
  expect([ends, source.state.cancelled]).toEqual([['left'], 1])
})

test('relay() hears that its reader has gone while nothing is said', async () => {
  for (const before of [true, false]) {
    const source = openStream()
    const ends: StreamEnd[] = []
    const left = new AbortController()
    if (before) left.abort()
    const body = relay(source.stream, sse.shape, broken, left.signal, (how) => ends.push(how))
    const reading = body.getReader().read()
    reading.catch(() => {})
    left.abort()
    await source.left
    await expect(reading).rejects.toThrow()
    expect([ends, source.state.cancelled]).toEqual([['left'], 1])
  }
})

test('relay() does not mind a reader who goes after the end', async () => {
  const left = new AbortController()
  const ends: StreamEnd[] = []
  const body = relay(streamOf(hello, DONE), sse.shape, broken, left.signal, (how) => ends.push(how))
  expect(await new Response(body).text()).toBe(hello + DONE)
  left.abort()
  expect(ends).toEqual(['whole'])
})

test('relay() reads no further than its reader', async () => {
  let pulled = 0
  const source = new ReadableStream<Uint8Array>(
    {
      pull(controller) {
        pulled += 1
        controller.enqueue(new Uint8Array(1000))
      },
    },
    { highWaterMark: 0 },
  )
  const body = relay(source, bare, broken, stays, () => {}).getReader()
  await body.read()
  await calm()
  expect(pulled).toBeLessThanOrEqual(3)
  await body.cancel()
})
