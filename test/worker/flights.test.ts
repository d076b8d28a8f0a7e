// Identical requests to several isolates that share objects and KV, in workerd: one upstream call,
// even if readers join, disconnect, are slow or resume; and what happens if the flight dies.
import { beforeAll, describe, expect, test } from 'vitest'
import type { Completion } from '../../src/completion/completion.ts'
import { objectOf } from '../../src/flight/transport.ts'
import { completionOf, parseStream, requestEvent, streamOf } from '../support/answers.ts'
import {
  type Client,
  type IncomingResponse,
  idleReader,
  OPERATOR_TOKEN,
  type Reply,
} from '../support/client.ts'
import { Lanes } from '../support/lanes.ts'
import { countStored } from '../support/stored.ts'
import {
  completionsStream,
  type Lane,
  latch,
  type Script,
  USAGE,
} from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers } from '../support/workerd.ts'

const ISOLATES = 3

const suite = workerSuite()

const kinds = {
  legacy: { wire: 'completions', retries: 0 },
  // A reader whose disconnect goes unnoticed must not delay a test.
  impatient: { wire: 'completions', retries: 0, deadline_ms: 4000, idle_ms: 4000 },
} as const

const lanes = new Lanes(suite, kinds, 24)

/** Starts several isolates of one Worker. `main` may break the platform. */
async function start(
  options: { cache?: object; main?: string; prompts?: object } = {},
): Promise<Workers> {
  const config = lanes.config({ cache: { ...options.cache }, prompts: { ...options.prompts } })
  const { main } = options
  return await suite.share({ config, isolates: ISOLATES, ...(main === undefined ? {} : { main }) })
}

/** A stream that sends its next word on each call of `say`. */
function paced(words: readonly string[]): { script: Script; say: () => void; all: () => void } {
  const gates = words.map(() => latch())
  let said = 0
  const say = () => gates[++said]?.open()
  return {
    script: completionsStream(words, {
      pace: async (piece) => {
        await gates[piece]?.opened
      },
    }),
    say,
    all: () => {
      for (const { open } of gates) open()
    },
  }
}

/** Keeps sending words during `work`: Miniflare reports a disconnect only on a write. */
async function whileSending<T>(say: () => void, work: Promise<T>): Promise<T> {
  const talk = setInterval(say, 10)
  try {
    return await work
  } finally {
    clearInterval(talk)
  }
}

const MANY = Array.from({ length: 1000 }, (_, i) => `${i} `)

const stream = (model: string, more = {}) => ({
  method: 'POST',
  body: { prompt: 'p', model, stream: true },
  ...more,
})

describe('a shared flight', () => {
  let workers: Workers

  beforeAll(async () => {
    workers = await start()
  })

  test('goes on for its followers, and is stored, when the leader disconnects after the first chunk', async () => {
    const own = lanes.take('legacy')
    const { script, say, all } = paced(MANY)
    own.lane.answers(script)
    const leader = await workers.client(0).open(stream(own.model))
    await leader.until('"text":"0 "')
    const followers = await Promise.all(
      [1, 2].map((i) => workers.client(i).open(stream(own.model))),
    )
    const whole = workers.client(1).complete({ prompt: 'p', model: own.model })
    for (const follower of followers) await follower.until('"text":"0 "')
    leader.leave()
    await whileSending(say, workers.log.request(String(leader.headers['x-request-id'])))
    all()
    for (const follower of followers) {
      expect(follower.headers['cache-status']).toBe('edge-completions; fwd=miss; collapsed')
      const result = parseStream(await follower.rest())
      expect([result.text(), result.done]).toEqual([MANY.join(''), true])
    }
    expect(completionOf(await whole).choices[0]?.text).toBe(MANY.join(''))
    const call = await own.lane.call()
    expect([call.left, own.lane.calls.length]).toEqual([false, 1])
    await expect.poll(() => countStored(workers, own.model)).toBe(1)
    expect(workers.log.all('request', String(leader.headers['x-request-id']))).toMatchObject([
      { status: 499, code: null },
    ])
  })

  test('finishes and is stored when all readers have disconnected', async () => {
    const own = lanes.take('legacy')
    const { script, say, all } = paced(MANY)
    own.lane.answers(script)
    const readers = await Promise.all(
      [0, 1, 2].map(async (i) => {
        const reader = await workers.client(i).open(stream(own.model))
        await reader.until('"text":"0 "')
        return reader
      }),
    )
    for (const reader of readers) {
      reader.leave()
      await whileSending(say, workers.log.request(String(reader.headers['x-request-id'])))
    }
    all()
    const call = await own.lane.call()
    await call.closed
    expect(call.left).toBe(false)
    await expect.poll(() => countStored(workers, own.model)).toBe(1)
    const later = await workers.client(2).complete({ prompt: 'p', model: own.model })
    expect(completionOf(later).choices[0]?.text).toBe(MANY.join(''))
    expect(own.lane.calls).toHaveLength(1)
  })

  test('is not slowed down by a slow reader', async () => {
    const own = lanes.take('legacy')
    const word = `${'x'.repeat(2000)} `
    const words = Array.from({ length: 400 }, () => word)
    const { script, say, all } = paced(words)
    own.lane.answers(script)
    const body = { prompt: 'p', model: own.model, stream: true }
    const slow = idleReader(workers.url, body, ['Connection: close'])
    const others = await Promise.all([1, 2].map((i) => workers.client(i).open(stream(own.model))))
    for (const other of others) await other.until(word)
    say()
    const startedAt = performance.now()
    all()
    for (const other of others) {
      const result = parseStream(await other.rest())
      expect([result.text().length, result.done]).toEqual([400 * word.length, true])
    }
    expect(performance.now() - startedAt).toBeLessThan(15_000)
    // It has read almost nothing, and nothing was read on its behalf.
    expect(slow.socket.bytesRead).toBeLessThan(600_000)
    expect(parseStream(await slow.rest()).text().length).toBe(400 * word.length)
    expect(own.lane.calls).toHaveLength(1)
  })
})

describe('an answer that is not stored', () => {
  let workers: Workers

  beforeAll(async () => {
    workers = await start({ cache: { ttl_seconds: 0 } })
  })

  test('is aborted when all readers have disconnected', async () => {
    const own = lanes.take('legacy')
    const { script, say } = paced(MANY)
    own.lane.answers(script)
    const readers = await Promise.all([0, 1].map((i) => workers.client(i).open(stream(own.model))))
    for (const reader of readers) await reader.until('"text":"0 "')
    for (const reader of readers) reader.leave()
    const call = await own.lane.call()
    await whileSending(say, call.closed)
    expect(call.left).toBe(true)
    // The next request does not join the call being aborted.
    own.lane.answers(completionsStream(['new']))
    const next = completionOf(await workers.client(2).complete({ prompt: 'p', model: own.model }))
    expect(next.choices[0]?.text).toBe('new')
  })
})

describe('a call that stops without readers', () => {
  const MAX_TOKENS = 100_000
  let workers: Workers

  beforeAll(async () => {
    const stopping = { text: 'p', max_tokens: MAX_TOKENS, visitor_may_set: ['model'] }
    workers = await start({ prompts: { stopping: { ...stopping, abandon: 'stop' } } })
  })

  const body = (model: string) => ({ prompt: { id: 'stopping' }, model, stream: true })

  test('is cancelled when the last reader disconnects, and costs what was received', async () => {
    const own = lanes.take('legacy')
    const { script, say } = paced(MANY)
    own.lane.answers(script)
    const readers = await Promise.all(
      [0, 1].map((i) => workers.client(i).open({ method: 'POST', body: body(own.model) })),
    )
    for (const reader of readers) await reader.until('"text":"0 "')
    const call = await own.lane.call()
    const [first, last] = readers
    first?.leave()
    await whileSending(say, workers.log.request(String(first?.headers['x-request-id'])))
    await whileSending(say, last?.until('"text":"2 "') ?? Promise.reject(new Error('no reader')))
    expect(call.left).toBe(false)
    last?.leave()
    await whileSending(say, call.closed)
    expect([call.left, own.lane.calls.length]).toEqual([true, 1])
    await expect.poll(async () => (await figures()).reserved).toBe(0)
    const { spent } = await figures()
    // The prompt, its overhead, and at least the bytes of "0 1 2 ".
    expect(spent).toBeGreaterThanOrEqual(1 + 64 + 6)
    expect(spent).toBeLessThan(MAX_TOKENS / 2)
    expect(await countStored(workers, own.model)).toBe(0)
    own.lane.answers(completionsStream(['new']))
    const next = await workers.client(2).complete({ ...body(own.model), stream: false })
    expect(completionOf(next).choices[0]?.text).toBe('new')
  })

  async function figures(): Promise<{ spent: number; reserved: number }> {
    const { text } = await workers.client(0).send({
      path: '/admin/usage',
      headers: { authorization: `Bearer ${OPERATOR_TOKEN}` },
    })
    return JSON.parse(text).budget
  }
})

/** The Worker with request signals that `GET /leave` aborts. */
const leaving = `
  import worker from './worker.js'
  export * from './worker.js'
  export default {
    async fetch(request) {
      if (new URL(request.url).pathname === '/leave') {
        globalThis.left = true
        return new Response()
      }
      const gone = new AbortController()
      const look = setInterval(() => {
        if (!globalThis.left) return
        clearInterval(look)
        gone.abort()
      }, 20)
      return await worker.fetch(new Request(request, { signal: gone.signal }))
    },
  }
`

const notStored = { cache: { ttl_seconds: 0 } }
const stopping = { prompts: { p: { text: 'p', visitor_may_set: ['model'], abandon: 'stop' } } }

// Miniflare reports a disconnect only on a write, so the test aborts the request's signal.
test.each<[string, string, boolean, object, unknown]>([
  ['that is not stored', 'a stream', true, notStored, 'p'],
  ['that is not stored', 'a whole answer', false, notStored, 'p'],
  ['with abandon = "stop"', 'a stream', true, stopping, { id: 'p' }],
  ['with abandon = "stop"', 'a whole answer', false, stopping, { id: 'p' }],
])('a call %s is aborted when the only reader of %s leaves before text', async (...given) => {
  const [, , asStream, options, prompt] = given
  const workers = await start({ ...options, main: leaving })
  const own = lanes.take('legacy')
  own.lane.answers(() => {})
  const body = { prompt, model: own.model, stream: asStream }
  const { response, leave } = workers.client(1).start({ method: 'POST', body })
  const call = await own.lane.call()
  await workers.client(1).send({ path: '/leave' })
  await call.closed
  expect(call.left).toBe(true)
  leave()
  await response.catch(() => {})
  expect(own.lane.calls).toHaveLength(1)
  const line = await workers.log.find((event) => event.event === 'request')
  expect(line).toMatchObject({ status: 499, code: null })
  expect(workers.log.all('internal')).toEqual([])
})

describe('resuming a stream', () => {
  let workers: Workers
  const words = ['Zo\u00eb ', '\u{1f469}\u200d\u{1f467}', ' said:\n\n', '"\u65e5\u672c"', ' end']
  const text = words.join('')

  beforeAll(async () => {
    workers = await start({ cache: { memory_seconds: 60 } })
  })

  const ask = (model: string, more = {}) => ({
    method: 'POST',
    body: { prompt: 'p', model, stream: true, stream_options: { include_usage: true } },
    ...more,
  })
  const at = (id: string, characters: number) => ({ 'last-event-id': `${id}:${characters}` })

  /** Resumes in every shape, at every character, and expects the rest of the same answer. */
  async function expectSame(client: Client, model: string, { id, choices, usage }: Completion) {
    const plain = { accept: 'text/plain' }
    const json = completionOf(await client.complete({ prompt: 'p', model }))
    expect(json).toMatchObject({ id, choices, usage })
    expect((await client.complete({ prompt: 'p', model }, plain)).text).toBe(text)
    expect((await client.send(ask(model, { headers: plain }))).text).toBe(text)
    for (let n = 0; n <= text.length + 1; n++) {
      const result = streamOf(await client.send(ask(model, { headers: at(id, n) })))
      expect(result.text(), `at ${n}`).toBe(text.slice(n))
      expect([result.chunks[0]?.id, result.finish(), result.usage, result.done]).toEqual([
        id,
        choices[0]?.finish_reason,
        usage,
        true,
      ])
      // Plain text cannot be resumed in the middle of a character.
      if (!isHalf(text, n)) {
        const rest = await client.send(ask(model, { headers: { ...plain, ...at(id, n) } }))
        expect(rest.text, `text at ${n}`).toBe(text.slice(n))
      }
    }
  }

  test('continues a running flight, at every character and in every shape', async () => {
    const own = lanes.take('legacy')
    const { script, say, all } = paced(words)
    own.lane.answers(script)
    const leader = await workers.client(0).open(ask(own.model))
    await leader.until('"text":"Zo')
    const id = /cmpl-\w+/.exec((await firstOf(leader)) ?? '')?.[0] ?? ''
    say()
    say()
    await leader.until('said')
    const readers: [number, IncomingResponse, boolean][] = []
    for (let n = 0; n <= text.length + 1; n++) {
      const client = workers.client(n % ISOLATES)
      readers.push([n, await client.open(ask(own.model, { headers: at(id, n) })), false])
      if (isHalf(text, n)) continue
      const plain = { accept: 'text/plain', ...at(id, n) }
      // There is no byte yet beyond the text sent so far, but there is a head.
      readers.push([n, await client.open(ask(own.model, { headers: plain })), true])
    }
    const unknownId = await workers
      .client(1)
      .open(ask(own.model, { headers: at(`cmpl-${'z'.repeat(28)}`, 3) }))
    all()
    const whole = parseStream(await leader.rest())
    expect(whole.text()).toBe(text)
    for (const [n, reader, plain] of readers) {
      const body = await reader.rest()
      if (plain) {
        expect(body, `text at ${n}`).toBe(text.slice(n))
        continue
      }
      const result = parseStream(body)
      expect([result.text(), result.done], `at ${n}`).toEqual([text.slice(n), true])
      expect([result.chunks[0]?.id, result.finish(), result.usage]).toEqual([id, 'stop', USAGE])
    }
    expect(parseStream(await unknownId.rest()).text()).toBe(text)
    expect(own.lane.calls).toHaveLength(1)
  })

  test('continues from memory and from KV with the same text, id, finish reason and usage', async () => {
    const own = lanes.take('legacy')
    own.lane.answers(completionsStream(words, { finish: 'length' }))
    const first = completionOf(await workers.client(0).complete({ prompt: 'p', model: own.model }))
    expect(first.choices[0]).toMatchObject({ text, finish_reason: 'length' })
    await expect.poll(() => countStored(workers, own.model)).toBe(1)
    await expectSame(workers.client(0), own.model, first)
    await expectSame(workers.client(2), own.model, first)
    const tiers = workers.log
      .all('request')
      .filter(({ model }) => model === own.model)
      .map(({ cache }) => cache)
    expect(new Set(tiers)).toEqual(new Set(['miss', 'memory', 'kv']))
    expect(own.lane.calls).toHaveLength(1)
  })
})

/** The first event of a stream. */
async function firstOf(incoming: IncomingResponse): Promise<string | null> {
  await incoming.until('"id":"cmpl-')
  return incoming.soFar
}

function isHalf(text: string, at: number): boolean {
  return (
    at > 0 &&
    /^[\ud800-\udbff]$/.test(text.charAt(at - 1)) &&
    /^[\udc00-\udfff]$/.test(text.charAt(at))
  )
}

/** The Worker with `POST /abort?name=`, which kills a flight object. */
const killable = `
  import worker, { FlightObject as Flight } from './worker.js'
  export * from './worker.js'
  import { env } from 'cloudflare:workers'
  export class FlightObject extends Flight {
    die() { this.ctx.abort('evicted by the test') }
  }
  export default {
    async fetch(request) {
      const url = new URL(request.url)
      if (url.pathname !== '/abort') return await worker.fetch(request)
      try { await env.FLIGHTS.getByName(url.searchParams.get('name')).die() } catch {}
      return new Response('dead')
    },
  }
`

describe('a flight object that dies', () => {
  let workers: Workers

  beforeAll(async () => {
    workers = await start({ main: killable })
  })

  /** The cache key of a model's request, read from a stored answer. */
  async function keyOf(lane: Lane, model: string): Promise<string> {
    lane.answers(completionsStream(['learnt']))
    await workers.client(0).complete({ prompt: 'p', model })
    await expect.poll(() => countStored(workers, model)).toBe(1)
    const entries = [...(await workers.kvEntries())]
    return entries.find(([, value]) => value.includes(`"model:${model}"`))?.[0] ?? ''
  }

  const kill = (key: string) =>
    workers.client(1).send({ path: `/abort?name=${objectOf(key)}`, headers: { origin: null } })
  const forced = { authorization: `Bearer ${OPERATOR_TOKEN}`, 'cache-control': 'no-cache' }

  test('in the middle of a stream sends an error event at once, and the next request works', async () => {
    const own = lanes.take('legacy')
    const key = await keyOf(own.lane, own.model)
    const { script } = paced(['one ', 'two'])
    own.lane.answers(script)
    const readers = await Promise.all(
      [0, 1, 2].map((i) => workers.client(i).open(stream(own.model, { headers: forced }))),
    )
    for (const reader of readers) await reader.until('"text":"one "')
    await kill(key)
    for (const reader of readers) {
      const result = parseStream(await reader.rest())
      expect([result.text(), result.done, result.problem?.code]).toEqual([
        'one ',
        false,
        'upstream_truncated',
      ])
      const id = String(reader.headers['x-request-id'])
      expect(await workers.log.request(id)).toMatchObject({ code: 'upstream_truncated' })
    }
    own.lane.answers(completionsStream(['again']))
    const next = await workers.client(0).complete({ prompt: 'p', model: own.model }, forced)
    expect(completionOf(next).choices[0]?.text).toBe('again')
  })

  test('in the middle of a text/plain answer breaks it off', async () => {
    const own = lanes.take('legacy')
    const key = await keyOf(own.lane, own.model)
    const { script } = paced(['one ', 'two'])
    own.lane.answers(script)
    const reader = await workers
      .client(2)
      .open(stream(own.model, { headers: { ...forced, accept: 'text/plain' } }))
    await reader.until('one ')
    await kill(key)
    expect(await reader.rest()).toBe('one ')
    expect(reader.broken).toBe(true)
    // The runtime reports the broken connection.
    await expect.poll(() => workers.log.takeRuntimeLines()).toHaveLength(1)
  })

  test('before the first word lets all its readers meet again in the next flight', async () => {
    const own = lanes.take('legacy')
    const key = await keyOf(own.lane, own.model)
    own.lane.calls.length = 0
    own.lane.answers(() => {}, completionsStream(['again']))
    const pending = Array.from({ length: 6 }, (_, i) =>
      workers
        .client(i % ISOLATES)
        .complete({ prompt: 'p', model: own.model, stream: i % 2 === 0 }, forced),
    )
    await own.lane.call()
    await kill(key)
    const texts = (await Promise.all(pending)).map((reply) =>
      reply.text.startsWith('data:')
        ? streamOf(reply).text()
        : completionOf(reply).choices[0]?.text,
    )
    expect(new Set(texts)).toEqual(new Set(['again']))
    expect(own.lane.calls.length).toBeLessThanOrEqual(3)
  })
})

test('an unreachable flight object is replaced by a call without sharing, with a log line', async () => {
  const workers = await start({
    main: `
      import worker, { FlightObject as Flight } from './worker.js'
      export * from './worker.js'
      export class FlightObject extends Flight {
        fetch() { throw new Error('private words') }
      }
      export default worker
    `,
  })
  const own = lanes.take('legacy')
  own.lane.answers(completionsStream(['alone']))
  const replies: Reply[] = []
  for (const asStream of [false, true]) {
    replies.push(
      await workers
        .client(1)
        .complete({ prompt: String(asStream), model: own.model, stream: asStream }),
    )
  }
  const [whole, streamed] = replies as [Reply, Reply]
  expect(completionOf(whole).choices[0]?.text).toBe('alone')
  expect(streamOf(streamed).text()).toBe('alone')
  const ids = replies.map(({ headers }) => headers['x-request-id'])
  expect(workers.log.all('flight_unreachable').map(({ request_id }) => request_id)).toEqual(ids)
  expect(JSON.stringify(workers.log.events)).not.toContain('private words')
  expect(JSON.stringify(replies)).not.toContain('private words')
  await expect.poll(() => countStored(workers, own.model)).toBe(2)
  expect((await requestEvent(whole, workers.log)).cache).toBe('miss')
})
