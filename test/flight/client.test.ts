// How a miss is answered: through the flight of its key, or locally if there are no flights, the
// answer must not be shared or the flight is unreachable. And relay(), which passes a stream on.
import { expect, test } from 'vitest'
import type { Reader, Shape } from '../../src/completion/encode.ts'
import type { Problem } from '../../src/errors.ts'
import { type FlightClient, Misses } from '../../src/flight/client.ts'
import type { MissAnswer, SharedWork } from '../../src/flight/flights.ts'
import type { Work } from '../../src/flight/generate.ts'
import { Ending, relay, type StreamEnd } from '../../src/flight/stream.ts'
import { chunk, jsonAnswer, openStream, TestApp } from '../support/app.ts'
import { ORIGIN } from '../support/client.ts'
import { LocalFlights, missSetup, untilIdle, work } from '../support/flights.ts'

const sse: Reader = { shape: { as: 'sse', stream: true, includeUsage: false }, resume: null }
const json: Reader = { shape: { as: 'json', stream: false, includeUsage: false }, resume: null }
const DONE = 'data: [DONE]\n\n'
const summary = { upstream: 'main', attempts: 1, usage: null }

function start(flights: Partial<FlightClient> | null) {
  const upstream = { respond: (): Response => jsonAnswer('alone') }
  const world = missSetup(() => upstream.respond())
  world.state.purgedAt = 42
  const connection = flights === null ? null : { join: never, refresh: never, pipe, ...flights }
  const misses = new Misses(connection, world.context)
  const ends: StreamEnd[] = []
  const handle = { left: new AbortController(), onEnd: (end: StreamEnd) => void ends.push(end) }
  const answer = (more: Partial<Work> = {}, reader = json, alone = false) =>
    misses.answer({ ...work, ...more }, reader, handle, alone)
  return { ...world, upstream, misses, ends, handle, answer }
}

const pipe = () => new TransformStream<Uint8Array, Uint8Array>()
const never = () => new Promise<never>(() => {})
const textOf = (answer: MissAnswer) =>
  answer.kind === 'whole' ? answer.completion.choices[0]?.text : answer.kind

const found: MissAnswer = { kind: 'left', summary }

test('a miss joins the flight with this isolate’s purge time, and its answer is returned', async () => {
  const got: SharedWork[] = []
  const { answer, state } = start({
    join: async (given) => {
      got.push(given)
      return found
    },
  })
  expect(await answer()).toBe(found)
  expect(got).toEqual([{ ...work, purgedAt: 42, presence: null }])
  expect(state.calls).toBe(0)
})

test.each([
  ['flights = "none"', null, false],
  ['an answer that must not be shared', {}, true],
])('%s: the answer is generated locally without a flight', async (_, flights, alone) => {
  const { answer, state, events } = start(flights)
  expect(textOf(await answer({}, json, alone))).toBe('alone')
  expect(state.calls).toBe(1)
  expect(events.filter(({ event }) => event === 'flight_unreachable')).toEqual([])
})

const errors: readonly [string, object, number][] = [
  ['that is unreachable', {}, 1],
  ['that is overloaded', { retryable: true, overloaded: true }, 1],
  ['that was just evicted', { retryable: true }, 2],
  ['that was reset', { durableObjectReset: true }, 2],
]
test.each(errors)(
  'a flight %s: the answer is generated locally, and the failure is reported',
  async (_, flags, joins) => {
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
  },
)

test('a flight that is reachable at the second attempt is not reported', async () => {
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

test.each<[string, Partial<Work>]>([
  ['is not stored', { lifetime: null }],
  ['is cancelled without readers', { abandon: 'stop' }],
])('a flight whose answer %s gets its reader’s presence until the end', async (_, more) => {
  const got: SharedWork[] = []
  const { answer, handle } = start({
    join: async (given) => {
      got.push(given)
      return await never()
    },
  })
  answer(more)
  await untilIdle()
  const presence = got[0]?.presence?.getReader()
  const over = presence?.read()
  await untilIdle()
  handle.left.abort()
  expect(await over).toEqual({ done: true, value: undefined })
})

test.each([
  ['a whole answer', false],
  ['a stream', true],
])('the presence of a reader ends with %s', async (_, stream) => {
  const got: SharedWork[] = []
  const body = streamOf(DONE)
  const { answer, handle } = start({
    join: async (given) => {
      got.push(given)
      const ending = ended('whole')
      return stream ? { kind: 'stream', role: 'leader', body, ending, summary } : found
    },
  })
  const reply = await answer({ lifetime: null }, sse)
  if (reply.kind === 'stream') await new Response(reply.body).text()
  expect(await got[0]?.presence?.getReader().read()).toEqual({ done: true, value: undefined })
  // Cancelling twice is harmless.
  handle.left.abort()
})

test('isUnderWay() is true from the first local reader to the end of any of them', async () => {
  const source = openStream()
  const ending = openStream()
  const given = { body: source.stream, ending: ending.stream }
  const { misses, answer, clock } = start({
    join: async () => ({ kind: 'stream', role: 'leader', ...given, summary }),
  })
  expect(misses.isUnderWay(work.key)).toBe(false)
  const joining = answer({}, sse)
  expect(misses.isUnderWay(work.key)).toBe(true)
  const reply = await joining
  if (reply.kind !== 'stream') throw new TypeError('no stream')
  const reading = new Response(reply.body).text()
  expect([misses.isUnderWay(work.key), misses.isUnderWay('other')]).toEqual([true, false])
  // If an end was missed, this limits how long the flight counts as running.
  clock.ms += 60_000
  expect(misses.isUnderWay(work.key)).toBe(false)
  clock.ms -= 1
  expect(misses.isUnderWay(work.key)).toBe(true)
  source.end()
  ending.push('"whole"')
  ending.end()
  await reading
  expect(misses.isUnderWay(work.key)).toBe(false)
})

test.each([
  ['complete, or a problem', async () => found],
  ['unreachable', async () => Promise.reject(new Error('gone'))],
])('isUnderWay() is false after an answer that is %s', async (_, join) => {
  const { misses, answer } = start({ join })
  await answer()
  expect(misses.isUnderWay(work.key)).toBe(false)
})

test('a reader that joined without reading KV is served the stale answer when the flight fails', async () => {
  const source = openStream()
  const answers = [jsonAnswer('old'), source.response()]
  const app = new TestApp({
    config: {
      cache: {
        memory_bytes: 0,
        ttl_seconds: 100,
        stale_while_revalidate_seconds: 0,
        stale_if_error_seconds: 1000,
      },
    },
    upstream: () => answers.shift() ?? new Response('', { status: 401 }),
    flights: (miss) => new LocalFlights(miss),
  })
  const body = { prompt: 'p' }
  expect((await app.post(body)).status).toBe(200)
  app.clock.ms += 200_000
  const first = app.post(body)
  await untilIdle()
  let reads = 0
  app.kv.intercept = () => {
    reads += 1
  }
  const second = app.post(body)
  await untilIdle()
  expect(reads).toBe(0)
  source.fail(new Error('cut'))
  for (const reply of [await first, await second]) {
    expect(reply.headers['cache-status']).toContain('detail=stale')
  }
  expect(reads).toBe(1)
})

test('a refresh goes to the flight, once in ten seconds per key', async () => {
  const keys: string[] = []
  const { misses, clock } = start({
    refresh: async ({ key, purgedAt }) => void keys.push(`${key} ${purgedAt}`),
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

test('the memory of recent refreshes is bounded', async () => {
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
  ['with the flight unreachable', { refresh: () => Promise.reject(new Error('gone')) }],
])('a refresh %s runs locally to its end, and is stored', async (_, flights) => {
  const { misses, stored } = start(flights)
  await misses.refresh(work)
  expect(stored.map(({ completion }) => completion.choices[0]?.text)).toEqual(['alone'])
})

test('a refresh never throws', async () => {
  const { misses, upstream } = start(null)
  upstream.respond = () => new Response('', { status: 500 })
  await expect(misses.refresh(work)).resolves.toBeUndefined()
})

test('a local call is aborted when its reader leaves', async () => {
  const said = openStream()
  const { answer, upstream, handle } = start(null)
  upstream.respond = () => said.response()
  const answering = answer()
  await untilIdle()
  handle.left.abort()
  expect((await answering).kind).toBe('left')
  await said.left
})

test.each([
  ['the model', {}, 'stop', 1],
  ['the model', {}, 'finish', 0],
  ['the prompt', { abandon: 'stop' }, 'finish', 1],
  ['the prompt', { abandon: 'finish' }, 'stop', 0],
] as const)('%s decides: %j over %s', async (_, prompt, model, cancelled) => {
  const said = openStream()
  said.push(chunk('Hel'))
  const app = new TestApp({
    config: {
      models: [{ id: 'default', upstream: 'main', upstream_model: 'model-1', abandon: model }],
      prompts: { hello: { text: 'Hello', ...prompt } },
    },
    upstream: () => said.response(),
    flights: (miss) => new LocalFlights(miss),
  })
  const response = await app.fetch(
    new Request('https://edge.test/v1/completions', {
      method: 'POST',
      headers: { origin: ORIGIN, 'content-type': 'application/json' },
      body: JSON.stringify({ prompt: { id: 'hello' }, stream: true }),
    }),
  )
  const reader = response.body?.getReader()
  await reader?.read()
  await reader?.cancel()
  await untilIdle()
  expect(said.state.cancelled).toBe(cancelled)
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

function ended(how: StreamEnd): ReadableStream<Uint8Array> {
  const ending = new Ending()
  ending.tell(how)
  return ending.stream
}

/** A relayed stream: its source, its ending, and the ends that were reported. */
function relaying(shape: Shape, left: AbortSignal = stays) {
  const source = openStream()
  const ending = openStream()
  const ends: StreamEnd[] = []
  const relayed = { body: source.stream, ending: ending.stream }
  const body = relay(relayed, pipe(), shape, broken, left, (how) => ends.push(how))
  return {
    source,
    ends,
    body,
    tell: (how: StreamEnd) => {
      ending.push(JSON.stringify(how))
      ending.end()
    },
    cut: () => {
      source.fail(new Error('disconnected prematurely'))
      ending.fail(new Error('disconnected prematurely'))
    },
    cutClean: () => {
      source.end()
      ending.end()
    },
  }
}

/** Reads a stream until it ends or fails. */
async function readOut(body: ReadableStream<Uint8Array>) {
  const reader = body.getReader()
  let text = ''
  for (;;) {
    const step = await reader.read().catch(() => null)
    if (step === null || step.done) return { text, failed: step === null }
    text += new TextDecoder().decode(step.value)
  }
}

/** Relays what a test provides, and reads all of it. */
async function relayed(
  pieces: readonly string[],
  end: StreamEnd | 'cut' | 'cutClean',
  shape: Shape,
) {
  const given = relaying(shape)
  const reading = readOut(given.body)
  for (const piece of pieces) given.source.push(piece)
  await untilIdle()
  if (end === 'cut' || end === 'cutClean') given[end]()
  else {
    given.source.end()
    given.tell(end)
  }
  const read = await reading
  await untilIdle()
  return { ...read, ends: given.ends }
}

const hello = 'data: {"choices":[{"text":"Hello"}]}\n\n'
const told = /data: \{"error":\{.*"code":"upstream_truncated"\}\}\n\n$/

test('relay() passes everything on and reports the given end', async () => {
  const timeout: Problem = { ...broken, code: 'upstream_timeout' }
  for (const end of ['whole', 'left', timeout] as const) {
    for (const shape of [sse.shape, bare]) {
      expect(await relayed([hello, ':\n\n', DONE], end, shape)).toEqual({
        text: `${hello}:\n\n${DONE}`,
        failed: false,
        ends: [end],
      })
    }
  }
})

test('relay() waits for the ending, regardless of the bytes', async () => {
  const { source, body, ends, tell } = relaying(sse.shape)
  const reading = readOut(body)
  source.push(hello + DONE)
  source.end()
  await untilIdle()
  expect(ends).toEqual([])
  tell('whole')
  expect((await reading).failed).toBe(false)
  await untilIdle()
  expect(ends).toEqual(['whole'])
})

test.each(['cut', 'cutClean'] as const)(
  'relay() of a stream that is %s ends with an error event',
  async (how) => {
    for (const pieces of [[], [hello], [hello, ':\n\n'], [hello + DONE]]) {
      const { text, failed, ends } = await relayed(pieces, how, sse.shape)
      expect(text).toMatch(told)
      expect(text.startsWith(pieces.join(''))).toBe(true)
      expect([failed, ends]).toEqual([false, [broken]])
    }
  },
)

test('relay() of a stream that is cut within an event still ends with a separate error event', async () => {
  for (const half of ['data: {"choi', 'data: {"choices":[]}', 'data: {"choices":[]}\n', 'da']) {
    const { text, ends } = await relayed([hello, half], 'cut', sse.shape)
    const last = text.split('\n\n').at(-2)
    expect(`${last}\n\n`).toMatch(told)
    expect(last).toMatch(/^data: /)
    expect(ends).toEqual([broken])
  }
})

test.each(['cut', 'cutClean'] as const)(
  'relay() of bare text that is %s ends with a stream error',
  async (how) => {
    const { failed, ends } = await relayed(['a', 'b'], how, bare)
    expect([failed, ends]).toEqual([true, [broken]])
  },
)

test('relay() of a broken stream does not wait for the ending', async () => {
  const { source, body, ends } = relaying(sse.shape)
  source.fail(new Error('disconnected prematurely'))
  expect((await readOut(body)).text).toMatch(told)
  await untilIdle()
  expect(ends).toEqual([broken])
})

test('relay() cancels its source once when its reader leaves', async () => {
  for (const shape of [sse.shape, bare]) {
    const { source, body, ends } = relaying(shape)
    const reader = body.getReader()
    source.push(hello)
    await reader.read()
    await reader.cancel()
    source.push(hello)
    await source.left
    await untilIdle()
    expect([ends, source.state.cancelled]).toEqual([['left'], 1])
  }
})

test('relay() notices that its reader has left while no data arrives', async () => {
  for (const before of [true, false]) {
    const left = new AbortController()
    if (before) left.abort()
    const { source, body, ends } = relaying(sse.shape, left.signal)
    const reading = body.getReader().read()
    reading.catch(() => {})
    left.abort()
    await source.left
    await expect(reading).rejects.toThrow()
    expect([ends, source.state.cancelled]).toEqual([['left'], 1])
  }
})

test('relay() ignores a reader that leaves after the end', async () => {
  const left = new AbortController()
  const { source, body, ends, tell } = relaying(sse.shape, left.signal)
  source.push(hello)
  source.end()
  tell('whole')
  expect((await readOut(body)).text).toBe(hello)
  await untilIdle()
  left.abort()
  await untilIdle()
  expect(ends).toEqual(['whole'])
})

test('relay() reads its source no faster than its reader', async () => {
  let pulled = 0
  const body = new ReadableStream<Uint8Array>(
    {
      pull(controller) {
        pulled += 1
        controller.enqueue(new Uint8Array(1000))
      },
    },
    { highWaterMark: 0 },
  )
  const relayed = { body, ending: openStream().stream }
  const reader = relay(relayed, pipe(), bare, broken, stays, () => {}).getReader()
  await reader.read()
  await untilIdle()
  expect(pulled).toBeLessThanOrEqual(4)
  await reader.cancel()
})
