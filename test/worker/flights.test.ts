// Identical requests over several isolates that share objects and KV, in workerd: one upstream call,
// whoever comes, leaves, is slow or goes on later; and what happens when the flight itself dies.
import { connect } from 'node:net'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { Completion } from '../../src/completion/completion.ts'
import { completionOf, parseStream, requestEvent, streamOf } from '../support/answers.ts'
import { CANARY, recordOutput } from '../support/canary.ts'
import { type Client, HOST, type IncomingResponse, ORIGIN, type Reply } from '../support/client.ts'
import { Lanes } from '../support/lanes.ts'
import { countStored } from '../support/stored.ts'
import {
  completionsStream,
  type Lane,
  latch,
  type Script,
  UpstreamServer,
  USAGE,
} from '../support/upstream-server.ts'
import { startWorkers, type Workers } from '../support/workerd.ts'

const ISOLATES = 3

let upstream: UpstreamServer
const started: Workers[] = []

beforeAll(async () => {
  upstream = await UpstreamServer.start()
})

afterAll(async () => {
  await Promise.all(started.map((workers) => workers.dispose()))
  await upstream.stop()
})

const kinds = {
  legacy: { wire: 'completions', retries: 0 },
  // A reader who leaves unnoticed must not hold a test up for long.
  impatient: { wire: 'completions', retries: 0, deadline_ms: 4000, idle_ms: 4000 },
} as const

let lanes: Lanes<keyof typeof kinds>

/** Several isolates of one Worker. `main` may break the platform under it. */
async function start(
  options: { cache?: object; main?: string; prompts?: object } = {},
): Promise<Workers> {
  lanes ??= new Lanes(upstream, kinds, 24)
  const config = lanes.config({ cache: { ...options.cache }, prompts: { ...options.prompts } })
  const { main } = options
  const workers = await startWorkers({
    config,
    isolates: ISOLATES,
    secrets: { UPSTREAM_API_KEY: CANARY, OPERATOR_TOKEN },
    ...(main === undefined ? {} : { main }),
  })
  started.push(workers)
  return workers
}

const OPERATOR_TOKEN = 'the-operator-token-of-the-tests'

/** A word whenever the test says so. */
function spoken(words: readonly string[]): { script: Script; say: () => void; all: () => void } {
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

/** Goes on speaking meanwhile: in Miniflare a Worker hears of a leaver only when it writes. */
async function speaking<T>(say: () => void, work: Promise<T>): Promise<T> {
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

describe('one flight for all', () => {
  let workers: Workers

  beforeAll(async () => {
    workers = await start()
  })

  afterEach(() => {
    expect(workers.log.takeRuntimeLines()).toEqual([])
    expect(workers.log.reportedTwice()).toEqual([])
  })

  test('1,000 identical requests at once, half streaming: one upstream call', async () => {
    const own = lanes.take('legacy')
    const words = Array.from({ length: 40 }, (_, i) => `word ${i} `)
    // Nothing is said before a good part of them waits.
    const first = latch()
    own.lane.answers(async (call, line) => {
      await first.opened
      await completionsStream(words)(call, line)
    })
    const ask = async (i: number): Promise<[string, string]> => {
      const client = workers.client(i % ISOLATES)
      const body = { prompt: 'p', model: own.model, stream: i % 2 === 0 }
      const reply = await client.complete(body)
      if (i % 2 === 0) {
        const told = streamOf(reply)
        expect(told.done).toBe(true)
        return [told.chunks[0]?.id ?? '', told.text()]
      }
      const { id, choices } = completionOf(reply)
      return [id, choices[0]?.text ?? '']
    }
    const asked = Array.from({ length: 1000 }, (_, i) => ask(i))
    await own.lane.call()
    first.open()
    const answers = await Promise.all(asked)
    expect(own.lane.calls).toHaveLength(1)
    expect(new Set(answers.map(([, text]) => text))).toEqual(new Set([words.join('')]))
    expect(new Set(answers.map(([id]) => id)).size).toBe(1)
    expect(workers.log.all('flight_unreachable')).toEqual([])
    const lines = () => workers.log.all('request').filter(({ model }) => model === own.model)
    await expect.poll(() => lines().length, { timeout: 5000 }).toBe(1000)
    const events = lines()
    // Nearly all of them waited for the one that led; the rest found the answer.
    expect(events.filter(({ cache }) => cache === 'miss')).toHaveLength(1)
    expect(events.filter(({ cache }) => cache === 'collapsed').length).toBeGreaterThan(300)
  })

  test('the leader leaves after the first chunk: the followers finish, it is stored', async () => {
    const own = lanes.take('legacy')
    const { script, say, all } = spoken(MANY)
    own.lane.answers(script)
    const leader = await workers.client(0).open(stream(own.model))
    await leader.until('"text":"0 "')
    const followers = await Promise.all(
      [1, 2].map((i) => workers.client(i).open(stream(own.model))),
    )
    const whole = workers.client(1).complete({ prompt: 'p', model: own.model })
    for (const follower of followers) await follower.until('"text":"0 "')
    leader.leave()
    await speaking(say, workers.log.request(String(leader.headers['x-request-id'])))
    all()
    for (const follower of followers) {
      expect(follower.headers['cache-status']).toBe('edge-completions; fwd=miss; collapsed')
      const told = parseStream(await follower.rest())
      expect([told.text(), told.done]).toEqual([MANY.join(''), true])
    }
    expect(completionOf(await whole).choices[0]?.text).toBe(MANY.join(''))
    const call = await own.lane.call()
    expect([call.left, own.lane.calls.length]).toEqual([false, 1])
    await expect.poll(() => countStored(workers, own.model)).toBe(1)
    expect(workers.log.all('request', String(leader.headers['x-request-id']))).toMatchObject([
      { status: 499, code: null },
    ])
  })

  test('all leave: the answer is finished and stored all the same', async () => {
    const own = lanes.take('legacy')
    const { script, say, all } = spoken(MANY)
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
      await speaking(say, workers.log.request(String(reader.headers['x-request-id'])))
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

  test('a failure is everybody’s, and nobody asks again for it (D6)', async () => {
    const own = lanes.take('legacy')
    const failing = latch()
    own.lane.answers(async (_, line) => {
      await failing.opened
      line.head(401)
      line.end()
    })
    const asked = Array.from({ length: 12 }, (_, i) =>
      workers.client(i % ISOLATES).complete({ prompt: 'p', model: own.model, stream: i % 2 === 0 }),
    )
    await own.lane.call()
    // A reader who is surely aboard shows that the others had time to be, too.
    failing.open()
    const codes = (await Promise.all(asked)).map(({ text }) => JSON.parse(text).error.code)
    expect(new Set(codes)).toEqual(new Set(['upstream_rejected']))
    expect(own.lane.calls.length).toBeLessThan(4)
  })

  test('a reader of one byte now and then slows nobody (F10)', async () => {
    const own = lanes.take('legacy')
    const word = `${'x'.repeat(2000)} `
    const words = Array.from({ length: 400 }, () => word)
    const { script, say, all } = spoken(words)
    own.lane.answers(script)
    const slow = await slowReader(workers.urls[0], own.model)
    const others = await Promise.all([1, 2].map((i) => workers.client(i).open(stream(own.model))))
    for (const other of others) await other.until(word)
    say()
    const startedAt = performance.now()
    all()
    for (const other of others) {
      const told = parseStream(await other.rest())
      expect([told.text().length, told.done]).toEqual([400 * word.length, true])
    }
    expect(performance.now() - startedAt).toBeLessThan(5000)
    // Meanwhile it has read next to nothing, and nobody has read it for it.
    expect(slow.bytesRead()).toBeLessThan(600_000)
    slow.goOn()
    const text = await slow.rest()
    expect(parseStream(text).text().length).toBe(400 * word.length)
    expect(own.lane.calls).toHaveLength(1)
  })
})

/** A reader over a bare socket that takes nothing more until it is told to go on. */
async function slowReader(url: URL, model: string) {
  const body = JSON.stringify({ prompt: 'p', model, stream: true })
  const socket = connect({ host: url.hostname, port: Number(url.port) })
  const head = [
    'POST /v1/completions HTTP/1.1',
    `Host: ${HOST}`,
    `Origin: ${ORIGIN}`,
    'Connection: close',
    'Content-Type: application/json',
    `Content-Length: ${Buffer.byteLength(body)}`,
  ]
  socket.write(`${head.join('\r\n')}\r\n\r\n${body}`)
  await new Promise<void>((resolve) => socket.once('readable', () => resolve()))
  socket.read(1)
  let text = ''
  const over = new Promise<void>((resolve) => socket.once('close', () => resolve()))
  return {
    bytesRead: () => socket.bytesRead,
    goOn: () => {
      socket.setEncoding('utf8')
      socket.on('data', (data) => {
        text += String(data)
      })
    },
    rest: async () => {
      await over
      recordOutput(text)
      return unchunked(text.slice(text.indexOf('\r\n\r\n') + 4))
    },
  }
}

/** A chunked body's content; the test's text is ASCII. */
function unchunked(body: string): string {
  let text = ''
  let at = 0
  for (;;) {
    const end = body.indexOf('\r\n', at)
    const length = Number.parseInt(body.slice(at, end), 16)
    if (!(length > 0)) return text
    text += body.slice(end + 2, end + 2 + length)
    at = end + 2 + length + 2
  }
}

describe('what is not kept', () => {
  let workers: Workers

  beforeAll(async () => {
    workers = await start({ cache: { ttl_seconds: 0 } })
  })

  afterEach(() => {
    expect(workers.log.takeRuntimeLines()).toEqual([])
    expect(workers.log.reportedTwice()).toEqual([])
  })

  test('is shared while it is under way, and goes on without its leader', async () => {
    const own = lanes.take('legacy')
    const { script, say, all } = spoken(MANY)
    own.lane.answers(script)
    const leader = await workers.client(0).open(stream(own.model))
    await leader.until('"text":"0 "')
    const follower = await workers.client(1).open(stream(own.model))
    await follower.until('"text":"0 "')
    leader.leave()
    await speaking(say, workers.log.request(String(leader.headers['x-request-id'])))
    all()
    const told = parseStream(await follower.rest())
    expect([told.text(), told.done]).toEqual([MANY.join(''), true])
    expect(own.lane.calls).toHaveLength(1)
    expect(await workers.kvEntries()).toHaveLength(0)
  })

  test('is aborted when all have left in the middle', async () => {
    const own = lanes.take('legacy')
    const { script, say } = spoken(MANY)
    own.lane.answers(script)
    const readers = await Promise.all([0, 1].map((i) => workers.client(i).open(stream(own.model))))
    for (const reader of readers) await reader.until('"text":"0 "')
    for (const reader of readers) reader.leave()
    const call = await own.lane.call()
    await speaking(say, call.closed)
    expect(call.left).toBe(true)
    // The next one does not join what is being ended.
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

  afterEach(() => {
    expect(workers.log.takeRuntimeLines()).toEqual([])
    expect(workers.log.reportedTwice()).toEqual([])
  })

  const body = (model: string) => ({ prompt: { id: 'stopping' }, model, stream: true })

  test('is cancelled when the last reader leaves, and costs what was seen', async () => {
    const own = lanes.take('legacy')
    const { script, say } = spoken(MANY)
    own.lane.answers(script)
    const readers = await Promise.all(
      [0, 1].map((i) => workers.client(i).open({ method: 'POST', body: body(own.model) })),
    )
    for (const reader of readers) await reader.until('"text":"0 "')
    const call = await own.lane.call()
    const [first, last] = readers
    first?.leave()
    await speaking(say, workers.log.request(String(first?.headers['x-request-id'])))
    await speaking(say, last?.until('"text":"2 "') ?? Promise.reject(new Error('no reader')))
    expect(call.left).toBe(false)
    last?.leave()
    await speaking(say, call.closed)
    expect([call.left, own.lane.calls.length]).toEqual([true, 1])
    await expect.poll(async () => (await figures()).reserved).toBe(0)
    const { spent } = await figures()
    // The prompt, what surrounds it, and at least the bytes of "0 1 2 ".
    expect(spent).toBeGreaterThanOrEqual(1 + 64 + 6)
    expect(spent).toBeLessThan(MAX_TOKENS / 2)
    expect(await countStored(workers, own.model)).toBe(0)
    own.lane.answers(completionsStream(['new']))
    const next = await workers.client(2).complete({ ...body(own.model), stream: false })
    expect(completionOf(next).choices[0]?.text).toBe('new')
  })

  test('is finished and stored while one of its readers stays', async () => {
    const own = lanes.take('legacy')
    const { script, say, all } = spoken(MANY)
    own.lane.answers(script)
    const leaving = await workers.client(0).open({ method: 'POST', body: body(own.model) })
    await leaving.until('"text":"0 "')
    const staying = workers.client(1).complete({ ...body(own.model), stream: false })
    leaving.leave()
    await speaking(say, workers.log.request(String(leaving.headers['x-request-id'])))
    all()
    const { text } = completionOf(await staying).choices[0] ?? {}
    expect(text).toBe(MANY.join(''))
    await expect.poll(() => countStored(workers, own.model)).toBe(1)
  })

  async function figures(): Promise<{ spent: number; reserved: number }> {
    const { text } = await workers.client(0).send({
      path: '/admin/usage',
      headers: { authorization: `Bearer ${OPERATOR_TOKEN}` },
    })
    return JSON.parse(text).budget
  }
})

/** The Worker, told that the visitor has gone once the upstream has been asked for a while. */
const leaving = `
  import worker from './worker.js'
  export * from './worker.js'
  export default {
    async fetch(request) {
      const gone = new AbortController()
      setTimeout(() => gone.abort(), 300)
      return await worker.fetch(new Request(request, { signal: gone.signal }))
    },
  }
`

const notStored = { cache: { ttl_seconds: 0 } }
const stopping = { prompts: { p: { text: 'p', visitor_may_set: ['model'], abandon: 'stop' } } }

// Miniflare reports a disconnect only when the Worker writes; the platform may do better.
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
  await call.closed
  expect(call.left).toBe(true)
  leave()
  await response.catch(() => {})
  expect(own.lane.calls).toHaveLength(1)
  const line = await workers.log.find((event) => event.event === 'request')
  expect(line).toMatchObject({ status: 499, code: null })
  expect(workers.log.all('internal')).toEqual([])
})

describe('going on where one stopped', () => {
  let workers: Workers
  const words = ['Zo\u00eb ', '\u{1f469}\u200d\u{1f467}', ' said:\n\n', '"\u65e5\u672c"', ' end']
  const text = words.join('')

  beforeAll(async () => {
    workers = await start({ cache: { memory_seconds: 60 } })
  })

  afterEach(() => {
    expect(workers.log.takeRuntimeLines()).toEqual([])
  })

  const ask = (model: string, more = {}) => ({
    method: 'POST',
    body: { prompt: 'p', model, stream: true, stream_options: { include_usage: true } },
    ...more,
  })
  const at = (id: string, characters: number) => ({ 'last-event-id': `${id}:${characters}` })

  /** In every shape, from the n-th isolate, at every character. */
  async function expectSame(client: Client, model: string, { id, choices, usage }: Completion) {
    const plain = { accept: 'text/plain' }
    const json = completionOf(await client.complete({ prompt: 'p', model }))
    expect(json).toMatchObject({ id, choices, usage })
    expect((await client.complete({ prompt: 'p', model }, plain)).text).toBe(text)
    expect((await client.send(ask(model, { headers: plain }))).text).toBe(text)
    for (let n = 0; n <= text.length + 1; n++) {
      const told = streamOf(await client.send(ask(model, { headers: at(id, n) })))
      expect(told.text(), `at ${n}`).toBe(text.slice(n))
      expect([told.chunks[0]?.id, told.finish(), told.usage, told.done]).toEqual([
        id,
        choices[0]?.finish_reason,
        usage,
        true,
      ])
      // Bare bytes have no halves of characters.
      if (!isHalf(text, n)) {
        const rest = await client.send(ask(model, { headers: { ...plain, ...at(id, n) } }))
        expect(rest.text, `text at ${n}`).toBe(text.slice(n))
      }
    }
  }

  test('from a flight in progress, at every character and in every shape', async () => {
    const own = lanes.take('legacy')
    const { script, say, all } = spoken(words)
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
      // Past what has been said there is no byte yet, but there is a head.
      readers.push([n, await client.open(ask(own.model, { headers: plain })), true])
    }
    const stranger = await workers
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
      const told = parseStream(body)
      expect([told.text(), told.done], `at ${n}`).toEqual([text.slice(n), true])
      expect([told.chunks[0]?.id, told.finish(), told.usage]).toEqual([id, 'stop', USAGE])
    }
    expect(parseStream(await stranger.rest()).text()).toBe(text)
    expect(own.lane.calls).toHaveLength(1)
  })

  test('from memory and from KV: the same text, id, finish and usage', async () => {
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

  test('from KV alone, where nothing is kept in memory', async () => {
    const bare = await start({ cache: { memory_seconds: 0 } })
    const own = lanes.take('legacy')
    own.lane.answers(completionsStream(words))
    const first = completionOf(await bare.client(0).complete({ prompt: 'p', model: own.model }))
    await expect.poll(() => countStored(bare, own.model)).toBe(1)
    await expectSame(bare.client(1), own.model, first)
    const tiers = bare.log
      .all('request')
      .filter(({ model }) => model === own.model)
      .map(({ cache }) => cache)
    expect(new Set(tiers)).toEqual(new Set(['miss', 'kv']))
    expect(bare.log.takeRuntimeLines()).toEqual([])
  })

  test('a malformed place is none, and so is one on a GET', async () => {
    const own = lanes.take('legacy')
    own.lane.answers(completionsStream(words))
    const { id } = completionOf(await workers.client(0).complete({ prompt: 'p', model: own.model }))
    for (const header of [`${id}:-1`, `${id}:x`, id, '5', `${id}:1.5`]) {
      const told = streamOf(
        await workers.client(0).send(ask(own.model, { headers: { 'last-event-id': header } })),
      )
      expect(told.text()).toBe(text)
    }
    const got = await workers.client(0).send({
      path: `/v1/completions?prompt=p&model=${own.model}&stream=true`,
      headers: at(id, 3),
    })
    expect(streamOf(got).text()).toBe(text)
  })
})

/** The first event of a stream, once it is there. */
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

/** The Worker, its flight object in the test's hands: `POST /abort?key=` kills one. */
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
      try { await env.FLIGHTS.getByName(url.searchParams.get('key')).die() } catch {}
      return new Response('dead')
    },
  }
`

describe('a flight object that dies', () => {
  let workers: Workers

  beforeAll(async () => {
    workers = await start({ main: killable })
  })

  /** The cache key of a model's request, learnt from an answer that was stored. */
  async function keyOf(lane: Lane, model: string): Promise<string> {
    lane.answers(completionsStream(['learnt']))
    await workers.client(0).complete({ prompt: 'p', model })
    await expect.poll(() => countStored(workers, model)).toBe(1)
    const entries = [...(await workers.kvEntries())]
    return entries.find(([, value]) => value.includes(`"model:${model}"`))?.[0] ?? ''
  }

  const kill = (key: string) =>
    workers.client(1).send({ path: `/abort?key=${key}`, headers: { origin: null } })
  const forced = { authorization: `Bearer ${OPERATOR_TOKEN}`, 'cache-control': 'no-cache' }

  test('in the middle of a stream: an error in band, at once, and the next one works', async () => {
    const own = lanes.take('legacy')
    const key = await keyOf(own.lane, own.model)
    const { script } = spoken(['one ', 'two'])
    own.lane.answers(script)
    const readers = await Promise.all(
      [0, 1, 2].map((i) => workers.client(i).open(stream(own.model, { headers: forced }))),
    )
    for (const reader of readers) await reader.until('"text":"one "')
    await kill(key)
    for (const reader of readers) {
      const told = parseStream(await reader.rest())
      expect([told.text(), told.done, told.problem?.code]).toEqual([
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

  test('as bare text: broken off, never a clean end', async () => {
    const own = lanes.take('legacy')
    const key = await keyOf(own.lane, own.model)
    const { script } = spoken(['one ', 'two'])
    own.lane.answers(script)
    const reader = await workers
      .client(2)
      .open(stream(own.model, { headers: { ...forced, accept: 'text/plain' } }))
    await reader.until('one ')
    await kill(key)
    expect(await reader.rest()).toBe('one ')
    expect(reader.broken).toBe(true)
  })

  test('before the first word: all its readers meet again in the next one', async () => {
    const own = lanes.take('legacy')
    const key = await keyOf(own.lane, own.model)
    own.lane.calls.length = 0
    own.lane.answers(() => {}, completionsStream(['again']))
    const asked = Array.from({ length: 6 }, (_, i) =>
      workers
        .client(i % ISOLATES)
        .complete({ prompt: 'p', model: own.model, stream: i % 2 === 0 }, forced),
    )
    await own.lane.call()
    await kill(key)
    const texts = (await Promise.all(asked)).map((reply) =>
      reply.text.startsWith('data:')
        ? streamOf(reply).text()
        : completionOf(reply).choices[0]?.text,
    )
    expect(new Set(texts)).toEqual(new Set(['again']))
    expect(own.lane.calls.length).toBeLessThanOrEqual(3)
  })

  test('costs what it had reserved: the budget stays conservative', async () => {
    const own = lanes.take('legacy')
    const key = await keyOf(own.lane, own.model)
    const before = await spent()
    const { script } = spoken(['one ', 'two'])
    own.lane.answers(script)
    const reader = await workers.client(0).open(stream(own.model, { headers: forced }))
    await reader.until('"text":"one "')
    await kill(key)
    await reader.rest()
    // Neither given back nor forgotten: it expires as spent.
    const after = await spent()
    expect(after.spent + after.reserved).toBeGreaterThanOrEqual(
      before.spent + before.reserved + 256,
    )
  })

  async function spent(): Promise<{ spent: number; reserved: number }> {
    const { text } = await workers.client(0).send({
      path: '/admin/usage',
      headers: { authorization: `Bearer ${OPERATOR_TOKEN}` },
    })
    return JSON.parse(text).budget
  }
})

describe('a flight out of reach', () => {
  test('generates alone, and says so', async () => {
    const workers = await start({
      main: `
        import worker, { FlightObject as Flight } from './worker.js'
        export * from './worker.js'
        export class FlightObject extends Flight {
          join() { throw new Error('private words') }
          refresh() { throw new Error('private words') }
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

  test('flights = "none": each miss calls alone, and its answer is stored', async () => {
    const workers = await start({ cache: { flights: 'none' } })
    const own = lanes.take('legacy')
    const both = latch()
    own.lane.answers(async (call, line) => {
      if (own.lane.calls.length === 2) both.open()
      await both.opened
      await completionsStream(['own'])(call, line)
    })
    const replies = await Promise.all(
      [0, 1].map((i) => workers.client(i).complete({ prompt: 'p', model: own.model })),
    )
    const ids = replies.map((reply) => completionOf(reply).id)
    expect(new Set(ids).size).toBe(2)
    expect(own.lane.calls).toHaveLength(2)
    await expect.poll(() => countStored(workers, own.model)).toBe(1)
    expect(
      completionOf(await workers.client(2).complete({ prompt: 'p', model: own.model })).choices[0]
        ?.text,
    ).toBe('own')
    expect(own.lane.calls).toHaveLength(2)
  })
})
