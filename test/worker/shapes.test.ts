// One question in six shapes, in workerd: readers of all shapes share one upstream call and one text,
// across isolates; and what each of them gets when the answer fails.
import { beforeAll, describe, expect, test } from 'vitest'
import { messages } from '../../src/errors.ts'
import { objectOf } from '../../src/flight/transport.ts'
import { problemOf } from '../support/answers.ts'
import { type IncomingResponse, OPERATOR_TOKEN } from '../support/client.ts'
import { Lanes, type OwnModel } from '../support/lanes.ts'
import { type AnswerShape, requestOf, shapes } from '../support/shapes.ts'
import { countStored } from '../support/stored.ts'
import { chatStream, event, latch, type Script } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers } from '../support/workerd.ts'

const ISOLATES = 3

const suite = workerSuite()
const lanes = new Lanes(
  suite,
  {
    chat: { retries: 0 },
    impatient: { retries: 0, idle_ms: 1500 },
    hasty: { retries: 0, deadline_ms: 1500 },
  },
  6,
)

const at = (i: number): AnswerShape => shapes[i % shapes.length] as AnswerShape

describe('1,000 readers of six shapes in three isolates', () => {
  const READERS = 800
  const LATE = 100
  const LEAVING = 100
  let workers: Workers

  beforeAll(async () => {
    workers = await suite.share({ config: lanes.config(), isolates: ISOLATES })
  })

  test('make one upstream call, and all read the same text; some join late, some leave early', async () => {
    const { model, lane } = lanes.take('chat')
    const words = Array.from({ length: 40 }, (_, i) => `word ${i} `)
    const half = latch()
    const HALF = 20
    lane.answers(
      chatStream(words, { pace: async (i) => await (i < HALF ? undefined : half.opened) }),
    )
    const client = (i: number) => workers.client(Math.floor(i / shapes.length) % ISOLATES)
    const read = async (i: number) => {
      const shape = at(i)
      const incoming = await client(i).open(requestOf(shape, 'p', model))
      expect(incoming.status).toBe(200)
      const reading = await shape.read(await incoming.rest())
      expect(incoming.broken, shape.name).toBe(false)
      return { ...reading, form: shape.form, status: incoming.headers['cache-status'] ?? '' }
    }
    const leave = async (i: number) => {
      const shape = at(i)
      const { response, leave } = client(i).start(requestOf(shape, 'p', model))
      if (shape.form === 'json') await lane.call()
      else await (await response).until('word 0')
      leave()
      await response.catch(() => {})
    }
    const early = Array.from({ length: READERS }, (_, i) => read(i))
    const leaving = Array.from({ length: LEAVING }, (_, i) => leave(i))
    await lane.call()
    await Promise.all(leaving)
    // The first of them reads what was said so far before the second half is said.
    const first = await client(1).open(requestOf(at(1), 'p', model))
    await first.until(`word ${HALF - 1} `)
    const late = Array.from({ length: LATE - 1 }, (_, i) => read(i))
    half.open()
    const readings = await Promise.all([...early, ...late])
    readings.push({ ...(await at(1).read(await first.rest())), form: 'events', status: '' })
    expect(lane.calls).toHaveLength(1)
    expect(new Set(readings.map(({ text }) => text))).toEqual(new Set([words.join('')]))
    expect(new Set(readings.flatMap(({ id }) => id ?? [])).size).toBe(1)
    const marked = readings.filter(({ form }) => form !== 'text')
    expect(marked.every(({ done, finish }) => done && finish === 'stop')).toBe(true)
    // Nearly all of them followed the leader; the others hit the cache.
    const collapsed = readings.filter(({ status }) => status.includes('collapsed'))
    expect(collapsed.length).toBeGreaterThan(300)
    await expect.poll(() => countStored(workers, model)).toBe(1)
    expect(workers.log.all('flight_unreachable')).toEqual([])
    const lines = () => workers.log.all('request').filter((line) => line.model === model)
    await expect.poll(() => lines().length).toBe(READERS + LATE + LEAVING)
    expect(lines().filter(({ cache }) => cache === 'miss')).toHaveLength(1)
  })
})

/**
 * The Worker with `GET /abort?name=`, which resets a flight object, and `GET /cut`, which breaks the
 * bodies that flight objects send to this isolate.
 */
const breakable = `
  import worker, { FlightObject as Flight } from './worker.js'
  export * from './worker.js'
  import { env } from 'cloudflare:workers'
  export class FlightObject extends Flight {
    die() { this.ctx.abort('reset by the test') }
  }
  const namespace = Object.getPrototypeOf(env.FLIGHTS)
  if (namespace.isBreakable === undefined) {
    namespace.isBreakable = true
    const { getByName } = namespace
    namespace.getByName = function (name) {
      const stub = getByName.call(this, name)
      if (!/^f.$/.test(name)) return stub
      return {
        die: () => stub.die(),
        fetch: async (request) => {
          const response = await stub.fetch(request)
          if (response.body === null || new URL(request.url).pathname !== '/join') return response
          const source = response.body.getReader()
          let look
          // Only its own request may break it.
          const cut = new Promise((_, reject) => {
            look = setInterval(() => globalThis.isCut && reject(new Error('cut')), 10)
          })
          const readable = new ReadableStream({
            async pull(controller) {
              const { done, value } = await Promise.race([source.read(), cut])
              if (!done) return controller.enqueue(value)
              clearInterval(look)
              controller.close()
            },
          })
          return new Response(readable, response)
        },
      }
    }
  }
  export default {
    async fetch(request) {
      const url = new URL(request.url)
      if (url.pathname === '/cut') {
        globalThis.isCut = true
        return new Response('cut')
      }
      if (url.pathname !== '/abort') return await worker.fetch(request)
      try { await env.FLIGHTS.getByName(url.searchParams.get('name')).die() } catch {}
      return new Response('dead')
    },
  }
`

type Failure = 'upstream_truncated' | 'upstream_unavailable' | 'upstream_timeout'

describe('after the first word of an answer', () => {
  const forced = { authorization: `Bearer ${OPERATOR_TOKEN}`, 'cache-control': 'no-cache' }
  let workers: Workers

  beforeAll(async () => {
    workers = await suite.share({ config: lanes.config(), isolates: ISOLATES, main: breakable })
  })

  /** Readers of all shapes in several isolates. Those of streams have received the first word. */
  async function join({ model, lane }: OwnModel) {
    lane.calls.length = 0
    const pending = shapes.map((shape, i) => ({
      shape,
      response: workers.client(i % ISOLATES).open(requestOf(shape, 'p', model, forced)),
    }))
    for (const { shape, response } of pending) {
      if (shape.form !== 'json') await (await response).until('one ')
    }
    return pending
  }

  const wordThen = (then: Script): Script => {
    return async (call, line) => {
      line.head(200, { 'content-type': 'text/event-stream', 'transfer-encoding': 'chunked' })
      line.chunk(event({ choices: [{ index: 0, delta: { content: 'one ' } }] }))
      await then(call, line)
    }
  }

  /** Expects that a stream has the first word and then ends in the error of its own shape. */
  async function expectBroken(shape: AnswerShape, incoming: IncomingResponse, message: string) {
    const body = await incoming.rest()
    const { text, problem, done, finish } = await shape.read(body)
    const isText = shape.form === 'text'
    expect({ text, problem, done, finish, broken: incoming.broken }, shape.name).toEqual({
      text: 'one ',
      problem: isText ? null : message,
      done: false,
      finish: null,
      broken: isText,
    })
    const id = String(incoming.headers['x-request-id'])
    return await workers.log.request(id)
  }

  test.each<
    [string, 'chat' | 'impatient' | 'hasty', number, Failure, (end: Promise<void>) => Script]
  >([
    [
      'an upstream that dies',
      'chat',
      502,
      'upstream_truncated',
      (end) => async (_, line) => {
        await end
        await line.flushed()
        line.reset()
      },
    ],
    [
      'an upstream that sends an error',
      'chat',
      502,
      'upstream_unavailable',
      (end) => async (_, line) => {
        await end
        line.chunk(event({ error: { message: 'no', type: 'server_error', code: 500 } }))
        line.lastChunk()
      },
    ],
    ['an upstream that falls silent', 'impatient', 504, 'upstream_timeout', () => () => {}],
    ['the deadline', 'hasty', 504, 'upstream_timeout', () => () => {}],
  ])('%s', async (_, kind, status, code, script) => {
    const own = lanes.take(kind)
    const end = latch()
    own.lane.answers(wordThen(script(end.opened)))
    const readers = await join(own)
    end.open()
    const message = messages[code]
    for (const { shape, response } of readers) {
      const incoming = await response
      if (shape.form === 'json') {
        const { headers } = incoming
        const reply = { status: incoming.status, headers, text: await incoming.rest() }
        expect([reply.status, problemOf(reply)]).toMatchObject([status, { code, message }])
        continue
      }
      expect(await expectBroken(shape, incoming, message)).toMatchObject({ status: 200, code })
    }
    expect(own.lane.calls).toHaveLength(1)
    expect(await countStored(workers, own.model)).toBe(0)
    await takeBrokenText()
  })

  const LOST = 'The connection to the answer was lost. Send the request again to resume it.'

  test.each<[string, string, number, (model: string) => Promise<void>]>([
    [
      'a flight object that is reset; answers that have not begun come from the next one',
      'again',
      2,
      async (model) => {
        const entries = [...(await workers.kvEntries())]
        const key = entries.find(([, value]) => value.includes(`"model:${model}"`))?.[0] ?? ''
        await workers.client(1).send({ path: `/abort?name=${objectOf(key)}` })
      },
    ],
    [
      'a lost connection to the flight object; answers that have not begun are not lost',
      'one two',
      1,
      async () => {
        for (let i = 0; i < ISOLATES; i++) await workers.client(i).send({ path: '/cut' })
      },
    ],
  ])('%s', async (_, text, calls, breakOff) => {
    const own = lanes.take('chat')
    own.lane.answers(chatStream(['learnt']))
    await workers.client(0).complete({ prompt: 'p', model: own.model })
    await expect.poll(() => countStored(workers, own.model)).toBe(1)
    const rest = latch()
    own.lane.answers(
      chatStream(['one ', 'two'], { pace: () => rest.opened }),
      chatStream(['again']),
    )
    const readers = await join(own)
    await breakOff(own.model)
    for (const { shape, response } of readers) {
      if (shape.form === 'json') continue
      expect(await expectBroken(shape, await response, LOST)).toMatchObject({
        status: 200,
        code: 'upstream_truncated',
      })
    }
    rest.open()
    for (const { shape, response } of readers) {
      if (shape.form !== 'json') continue
      const reading = await shape.read(await (await response).rest())
      expect(reading, shape.name).toMatchObject({ text, done: true })
    }
    expect(own.lane.calls).toHaveLength(calls)
    await takeBrokenText()
  })

  /** The runtime reports the broken connection of the bare text. */
  async function takeBrokenText() {
    await expect.poll(() => workers.log.takeRuntimeLines()).toHaveLength(1)
  }
})
