// How a miss is answered: through the flight of its key, or in this isolate if there are no flights,
// the answer must not be shared or the flight is unreachable. And how a stream is passed on.
import { describe, expect, test } from 'vitest'
import type { Reader } from '../../src/completion/encode.ts'
import type { Problem } from '../../src/errors.ts'
import { Misses } from '../../src/flight/client.ts'
import type { Work } from '../../src/flight/generate.ts'
import type { StreamEnd } from '../../src/flight/reader.ts'
import type { FetchObject } from '../../src/flight/transport.ts'
import { chunk, DONE, jsonAnswer, openStream, TestApp } from '../support/app.ts'
import { ORIGIN } from '../support/client.ts'
import {
  bare,
  brief,
  json,
  localFlights,
  missSetup,
  readOut,
  sse,
  untilIdle,
  work,
} from '../support/flights.ts'

function start(fetchObject: FetchObject | null) {
  const upstream = { respond: (): Response => jsonAnswer('alone') }
  const world = missSetup(() => upstream.respond())
  Object.assign(world.state, { purgedAt: 42, kvIsUnsure: true })
  const misses = new Misses(fetchObject, world.context)
  const left = new AbortController()
  const answer = (more: Partial<Work> = {}, reader = json, alone = false) =>
    misses.answer({ ...work, ...more }, reader, left.signal, alone)
  const unreachable = () => world.events.filter(({ event }) => event === 'flight_unreachable')
  return { ...world, upstream, misses, left, answer, unreachable }
}

const never = () => new Promise<never>(() => {})
const summary = { upstream: 'main', attempts: 1, usage: null }
/** What an object answers if the reader has left, as an example. */
const found = { kind: 'left', summary }

/** Answers like an object: a body, and the problem that it ended with. */
function streaming(body: ReadableStream<Uint8Array>, problem: Problem | null = null): FetchObject {
  const headers = { 'flight-head': JSON.stringify({ role: 'follower', summary }) }
  return async (_, { url }) =>
    url.includes('/end') ? Response.json(problem) : new Response(body, { headers })
}

test('a miss joins the flight with what this isolate knows, and its answer is returned', async () => {
  const got: unknown[] = []
  const { answer, state } = start(async (name, request) => {
    got.push(name, new URL(request.url).pathname, await request.json())
    return Response.json(found)
  })
  expect(await answer()).toEqual(found)
  expect(got).toEqual([
    'f0',
    '/join',
    {
      work: { ...work, purgedAt: 42, kvIsUnsure: true },
      reader: json,
    },
  ])
  expect(state.calls).toBe(0)
})

test.each([
  ['flights = "none"', null, false],
  ['an answer that must not be shared', never, true],
])('%s: the answer is generated without a flight', async (_, fetchObject, alone) => {
  const { answer, state, unreachable } = start(fetchObject)
  expect(brief(await answer({}, json, alone))).toBe('leader: alone')
  expect([state.calls, unreachable()]).toEqual([1, []])
})

test.each([
  ['that is unreachable', {}, 1],
  ['that is overloaded', { retryable: true, overloaded: true }, 1],
  ['that was just evicted', { retryable: true }, 2],
  ['that was reset', { durableObjectReset: true }, 2],
])('a flight %s: the answer is generated here, and the failure is reported', async (...given) => {
  const [, flags, joins] = given
  let tries = 0
  const { answer, state, events, unreachable } = start(async () => {
    tries += 1
    throw Object.assign(new Error('private'), flags)
  })
  expect(brief(await answer())).toBe('leader: alone')
  expect([tries, state.calls]).toEqual([joins, 1])
  expect(unreachable()).toEqual([{ event: 'flight_unreachable', request_id: 'req_1' }])
  expect(JSON.stringify(events)).not.toContain('private')
})

test('a flight that is reachable at the second attempt is not reported', async () => {
  const bodies: string[] = []
  const { answer, state, events } = start(async (_, request) => {
    bodies.push((await request.body?.getReader().read())?.value?.toString() ?? '')
    if (bodies.length === 1) throw Object.assign(new Error('x'), { retryable: true })
    return Response.json(found)
  })
  expect(await answer({ lifetime: null })).toEqual(found)
  expect([state.calls, events]).toEqual([0, []])
  expect(bodies).toEqual([bodies[1], expect.stringMatching(/./)])
})

describe('presence', () => {
  test.each<[string, Partial<Work>]>([
    ['is not stored', { lifetime: null }],
    ['is cancelled without readers', { abandon: 'stop' }],
  ])('is sent for an answer that %s, until the reader leaves', async (_, more) => {
    const texts: string[] = []
    const { answer, left } = start(async (_, request) => {
      const text = await request.text()
      texts.push(new URL(request.url).search, text)
      return await never()
    })
    answer(more)
    await untilIdle()
    expect(texts).toEqual([])
    left.abort()
    await untilIdle()
    expect(texts).toEqual(['?watch', expect.stringMatching(/^\{"work":.*\}\n$/)])
  })
})

describe('isUnderWay()', () => {
  test('is true from the first reader of this isolate to the end of any of them', async () => {
    const source = openStream()
    const { misses, answer, clock } = start(streaming(source.stream))
    expect(misses.isUnderWay(work.key)).toBe(false)
    const joining = answer({}, sse)
    expect(misses.isUnderWay(work.key)).toBe(true)
    const reply = await joining
    expect([misses.isUnderWay(work.key), misses.isUnderWay('other')]).toEqual([true, false])
    // If an end was missed, this limits how long the flight counts as running.
    clock.ms += 60_000
    expect(misses.isUnderWay(work.key)).toBe(false)
    clock.ms -= 1
    expect(misses.isUnderWay(work.key)).toBe(true)
    source.end()
    if (reply.kind === 'stream') await new Response(reply.body).text()
    expect(misses.isUnderWay(work.key)).toBe(false)
  })

  test.each([
    ['complete, or a problem', async () => Response.json(found)],
    ['unreachable', async () => Promise.reject(new Error('gone'))],
  ])('is false after an answer that is %s', async (_, fetchObject) => {
    const { misses, answer } = start(fetchObject)
    await answer()
    expect(misses.isUnderWay(work.key)).toBe(false)
  })

  test('is known of at most 1,000 keys', async () => {
    const { misses, answer } = start(never)
    for (let i = 0; i <= 1000; i++) answer({ key: `c1:${i}` })
    expect([misses.isUnderWay('c1:0'), misses.isUnderWay('c1:1000')]).toEqual([false, true])
  })

  test('a reader that joined without reading KV is served the stale answer on failure', async () => {
    const source = openStream()
    const answers = [jsonAnswer('old'), source.response()]
    const ages = {
      ttl_seconds: 100,
      stale_while_revalidate_seconds: 0,
      stale_if_error_seconds: 1000,
    }
    const app = new TestApp({
      config: { cache: { memory_bytes: 0, ...ages } },
      upstream: () => answers.shift() ?? new Response('', { status: 401 }),
      flights: (miss) => localFlights(miss).fetchObject,
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
})

describe('a refresh', () => {
  test('goes to the flight, once in ten seconds per key', async () => {
    const got: unknown[] = []
    const { misses, clock } = start(async (name, request) => {
      const { work } = await request.json<{ work: { purgedAt: number } }>()
      got.push([name, new URL(request.url).pathname, work.purgedAt])
      return new Response()
    })
    for (let i = 0; i < 5; i++) await misses.refresh(work)
    await misses.refresh({ ...work, key: 'c1:f1' })
    expect(got).toEqual([
      ['f0', '/refresh', 42],
      ['ff', '/refresh', 42],
    ])
    clock.ms += 9999
    await misses.refresh(work)
    expect(got).toHaveLength(2)
    clock.ms += 1
    await misses.refresh(work)
    expect(got).toHaveLength(3)
    // A clock that jumps back must not stop refreshes.
    clock.ms -= 1_000_000
    await misses.refresh(work)
    expect(got).toHaveLength(4)
  })

  test('is asked for last whether it is allowed, since that counts', async () => {
    let asked = 0
    const { misses, state } = start(null)
    const refuse = async () => {
      asked += 1
      return false
    }
    await misses.refresh(work, refuse)
    expect([asked, state.calls]).toEqual([1, 0])
    await misses.refresh(work)
    await misses.refresh(work, refuse)
    expect([asked, state.calls]).toEqual([1, 1])
  })

  test('that one visitor is not allowed is left to the next one', async () => {
    const { misses, state } = start(null)
    await misses.refresh(work, async () => false)
    await misses.refresh(work, async () => true)
    expect(state.calls).toBe(1)
  })

  test('is remembered in bounded memory', async () => {
    let refreshes = 0
    const { misses } = start(async () => {
      refreshes += 1
      return new Response()
    })
    for (let i = 0; i < 1001; i++) await misses.refresh({ ...work, key: `c1:${i}` })
    await misses.refresh({ ...work, key: 'c1:0' })
    expect(refreshes).toBe(1002)
  })

  test.each([
    ['without flights', null],
    ['with the flight unreachable', async () => Promise.reject(new Error('gone'))],
  ])('%s runs here to its end, and is stored', async (_, fetchObject) => {
    const { misses, stored } = start(fetchObject)
    await misses.refresh(work)
    expect(stored.map(({ completion }) => completion.choices[0]?.text)).toEqual(['alone'])
  })

  test('never throws', async () => {
    const { misses, upstream } = start(null)
    upstream.respond = () => new Response('', { status: 500 })
    await expect(misses.refresh(work)).resolves.toBeUndefined()
  })
})

test('a call of this isolate is aborted when its reader leaves', async () => {
  const source = openStream()
  const { answer, upstream, left } = start(null)
  upstream.respond = () => source.response()
  const answering = answer()
  await untilIdle()
  left.abort()
  expect((await answering).kind).toBe('left')
  await source.left
})

test.each([
  ['the model', {}, 'stop', 1],
  ['the model', {}, 'finish', 0],
  ['the prompt', { abandon: 'stop' }, 'finish', 1],
  ['the prompt', { abandon: 'finish' }, 'stop', 0],
] as const)('%s decides: %j over %s', async (_, prompt, model, cancelled) => {
  const source = openStream()
  source.push(chunk('Hel'))
  const app = new TestApp({
    config: {
      models: [{ id: 'default', upstream: 'main', upstream_model: 'model-1', abandon: model }],
      prompts: { hello: { text: 'Hello', ...prompt } },
    },
    upstream: () => source.response(),
    flights: (miss) => localFlights(miss).fetchObject,
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
  expect(source.state.cancelled).toBe(cancelled)
})

function _streamOf(text: string): ReadableStream<Uint8Array> {
  const source = openStream()
  source.push(text)
  source.end()
  return source.stream
}

describe('a stream of a flight', () => {
  /** A stream that is passed on, and the ends that were reported. */
  async function relaying(reader: Reader, problem: Problem | null = null) {
    const source = openStream()
    const { answer, left } = start(streaming(source.stream, problem))
    const reply = await answer({}, reader)
    if (reply.kind !== 'stream') throw new TypeError('no stream')
    expect(reply).toMatchObject({ role: 'follower', summary })
    const ends: StreamEnd[] = []
    reply.ended.then(({ end }) => ends.push(end))
    return { source, left, body: reply.body, ends }
  }

  const hello = 'data: {"choices":[{"text":"Hello"}]}\n\n'
  const timeout: Problem = {
    code: 'upstream_timeout',
    message: 'Too slow',
    param: null,
    retryAfterSeconds: null,
    rateLimit: null,
  }

  const cut = expect.objectContaining({ code: 'upstream_truncated' })

  test.each<[string, Reader, Problem | null | 'whole', boolean, unknown]>([
    ['events is whole if it ends', sse, 'whole', false, 'whole'],
    ['bare text is whole if it ends', bare, 'whole', false, 'whole'],
    ['bare text that failed breaks off', bare, timeout, true, timeout],
    ['bare text breaks off if the connection is lost', bare, null, true, cut],
  ])('of %s', async (_, reader, how, isBroken, end) => {
    const { source, body, ends } = await relaying(reader, how === 'whole' ? null : how)
    const reading = readOut(body)
    source.push(hello)
    await untilIdle()
    expect(ends).toEqual([])
    source.push(`:\n\n${DONE}`)
    await untilIdle()
    if (how === 'whole') source.end()
    else source.fail(new Error('aborted'))
    const { text, error } = await reading
    expect([text, error !== null]).toEqual([`${hello}:\n\n${DONE}`, isBroken])
    expect(ends).toEqual([end])
  })

  test.each<[string, Problem | null, unknown]>([
    ['the problem that the object names', timeout, timeout],
    ['a problem of its own if the connection is lost', null, cut],
  ])('of events that breaks off, wherever, ends with %s', async (_, problem, end) => {
    for (const half of ['', 'data: {"choi', 'data: {"choices":[]}', 'data: {}\n', 'da', DONE]) {
      const { source, body, ends } = await relaying(sse, problem)
      const reading = readOut(body)
      source.push(hello + half)
      await untilIdle()
      source.fail(new Error('disconnected prematurely'))
      const { text, error } = await reading
      expect(text.startsWith(hello + half)).toBe(true)
      const code = problem?.code ?? 'upstream_truncated'
      expect(text.split('\n\n').at(-2)).toMatch(new RegExp(`^data: \\{"error":\\{.*"${code}"`))
      expect([error, ends]).toEqual([null, [end]])
    }
  })

  test.each([
    ['events', sse],
    ['bare text', bare],
  ])('of %s is cancelled once when its reader cancels', async (_, reader) => {
    const { source, body, ends } = await relaying(reader)
    const reading = body.getReader()
    source.push(hello)
    await reading.read()
    await reading.cancel()
    await source.left
    await untilIdle()
    expect([ends, source.state.cancelled]).toEqual([['left'], 1])
  })

  test('is cancelled when its reader disconnects while no data arrives', async () => {
    const { source, body, ends, left } = await relaying(sse)
    const reading = readOut(body)
    left.abort()
    await source.left
    expect((await reading).error).not.toBeNull()
    expect([ends, source.state.cancelled]).toEqual([['left'], 1])
  })

  test('has ended when its reader disconnects without having read what was sent', async () => {
    const { source, ends, left } = await relaying(sse)
    for (let i = 0; i < 3; i++) source.push(hello)
    await untilIdle()
    left.abort()
    await untilIdle()
    expect(ends).toEqual(['left'])
  })

  test('has ended once, also if its reader disconnects after that', async () => {
    const { source, body, ends, left } = await relaying(sse)
    source.push(hello)
    source.end()
    expect((await readOut(body)).text).toBe(hello)
    left.abort()
    await untilIdle()
    expect(ends).toEqual(['whole'])
  })

  test('is read no faster than its reader reads', async () => {
    let pulled = 0
    const pull = (controller: ReadableStreamDefaultController<Uint8Array>) => {
      pulled += 1
      controller.enqueue(new Uint8Array(1000))
    }
    const { answer } = start(streaming(new ReadableStream({ pull }, { highWaterMark: 0 })))
    const reply = await answer({}, bare)
    const reading = reply.kind === 'stream' ? reply.body.getReader() : null
    await reading?.read()
    await untilIdle()
    expect(pulled).toBeLessThanOrEqual(4)
    await reading?.cancel()
  })
})
