// Limits on what a misbehaving upstream or reader can use, and the cost of each kind of failure,
// over real sockets against the bundle in workerd.
import type { Socket } from 'node:net'
import { afterEach, beforeAll, describe, expect, test } from 'vitest'
import { expectProblem, parseStream, requestEvent, streamOf } from '../support/answers.ts'
import { type Client, idleReader, OPERATOR_TOKEN } from '../support/client.ts'
import { Lanes } from '../support/lanes.ts'
import {
  completionsStream,
  event,
  latch,
  refusal,
  type Script,
  USAGE,
} from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers } from '../support/workerd.ts'

const kinds = {
  legacy: { retries: 0, wire: 'completions' },
  impatient: { retries: 0, wire: 'completions', first_byte_ms: 200, idle_ms: 200 },
  refused: { retries: 0, wire: 'completions', base_url: 'http://127.0.0.1:1/v1' },
}

const suite = workerSuite()
const lanes = new Lanes(suite, kinds, 20)
let workers: Workers
let client: Client

beforeAll(async () => {
  workers = await suite.share({ config: lanes.config() })
  client = workers.client()
})

const sse = { 'content-type': 'text/event-stream' }
const textEvent = (text: string) => event({ choices: [{ index: 0, text }] })

describe('an endless line', () => {
  /** Writes as long as the connection is open. */
  const endless =
    (before: string): Script =>
    async (call, line) => {
      line.head(200, sse)
      line.write(`${before}data: {"choices":[{"index":0,"text":"`)
      for (let i = 0; i < 5000 && !call.left; i++) {
        line.write('x'.repeat(1000))
        await new Promise((resolve) => setImmediate(resolve))
      }
      await call.closed
    }

  test.each([false, true])('is not read to its end, stream %j', async (stream) => {
    const { model, lane } = lanes.take('legacy')
    lane.answers(endless(''))
    const reply = await client.complete({ prompt: 'p', model, stream })
    await expectProblem(reply, 502, 'upstream_bad_response', workers.log)
    const call = await lane.call()
    await call.closed
    expect(call.left).toBe(true)
  })

  test('ends a stream with an error after the text received so far', async () => {
    const { model, lane } = lanes.take('legacy')
    lane.answers(endless(textEvent('one')))
    const stream = streamOf(await client.complete({ prompt: 'p', model, stream: true }))
    expect([stream.text(), stream.problem?.code]).toEqual(['one', 'upstream_bad_response'])
    const call = await lane.call()
    await call.closed
    expect(call.left).toBe(true)
  })
})

describe('a reader that does not read', () => {
  const PIECES = 600
  const piece = (i: number) => `${String(i).padStart(4, '0')}${'y'.repeat(1000)}`

  const idle = (model: string) =>
    idleReader(workers.url, { prompt: 'p', model, stream: true }, ['Connection: close'])

  test('does not block the upstream, and gets the whole answer in the end', async () => {
    const { model, lane } = lanes.take('legacy')
    const pieces = Array.from({ length: PIECES }, (_, i) => piece(i))
    lane.answers(completionsStream(pieces))
    const { rest } = idle(model)
    const call = await lane.call()
    // The upstream finishes although nobody reads.
    await call.closed
    expect(call.left).toBe(false)
    const stream = parseStream(await rest())
    expect(stream).toMatchObject({ done: true, problem: null })
    expect(stream.text()).toBe(pieces.join(''))
  })

  test('is buffered up to max_output_bytes only', async () => {
    const { model, lane } = lanes.take('legacy')
    lane.answers(async (call, line) => {
      line.head(200, sse)
      for (let i = 0; !call.left; i++) {
        line.write(textEvent(piece(i)))
        await new Promise((resolve) => setImmediate(resolve))
      }
    })
    const { rest } = idle(model)
    const call = await lane.call()
    await call.closed
    expect(call.left).toBe(true)
    const stream = parseStream(await rest())
    expect(stream.problem?.code).toBe('upstream_bad_response')
    expect(stream.text().length).toBeLessThan(1_048_576)
    expect(stream.text().length).toBeGreaterThan(500_000)
  })
})

describe('readers that never read', () => {
  const READERS = 100
  const words = Array.from(
    { length: 2000 },
    (_, i) => `${String(i).padStart(4, '0')}${'y'.repeat(1996)}`,
  )
  const ANSWER_BYTES = 4_000_000
  let roomy: Workers
  const sockets: Socket[] = []

  beforeAll(async () => {
    roomy = await suite.share({
      config: suite.config(
        'roomy',
        { cache: { entry_bytes: 8_388_608, memory_bytes: 67_108_864 } },
        { wire: 'completions', max_output_bytes: 16_777_216 },
      ),
    })
  })

  afterEach(() => {
    for (const socket of sockets.splice(0)) socket.destroy()
  })

  /** Sends a request and leaves the response in the socket. */
  function neverReading(body: object, headers: readonly string[]): void {
    sockets.push(idleReader(roomy.url, body, headers).socket)
  }

  async function readAll(prompt: string): Promise<void> {
    const reply = await roomy.client().complete({ prompt, stream: true })
    expect(streamOf(reply).text().length).toBe(ANSWER_BYTES)
    await requestEvent(reply, roomy.log)
  }

  /** Resident bytes per reader of this kind. */
  async function costOfEach(ask: () => void, allAnswered: () => Promise<void>): Promise<number> {
    const before = roomy.residentBytes()
    for (let i = 0; i < READERS; i++) ask()
    await allAnswered()
    return (roomy.residentBytes() - before) / READERS
  }

  const resume = [`Last-Event-ID: cmpl-${'z'.repeat(28)}:1`]

  test.each<[string, readonly string[]]>([
    ['a stream', []],
    ['bare text', ['Accept: text/plain']],
    ['the rest of a stream', resume],
  ])('cost their queues, not another copy of the answer: %s', async (prompt, headers) => {
    const opening = latch()
    suite.upstream.lane('roomy').answers(async (call, line) => {
      if (call.body['prompt'] === prompt) await opening.opened
      await completionsStream(words)(call, line)
    })
    // Exclude what a single answer takes.
    await readAll(`before ${prompt}`)
    const cost = await costOfEach(
      () => neverReading({ prompt, stream: true }, headers),
      async () => {
        opening.open()
        // One reader that reads shows that the whole answer has arrived.
        await readAll(prompt)
      },
    )
    expect(cost).toBeLessThan(ANSWER_BYTES / 2)
  })

  test.each<[string, object, readonly string[]]>([
    ['as JSON', {}, []],
    ['as a stream', { stream: true }, []],
    ['the rest of a stream', { stream: true }, resume],
  ])(
    'cost their queues, not another copy of the stored answer: %s',
    async (prompt, more, headers) => {
      suite.upstream.lane('roomy').answers(completionsStream(words))
      await readAll(prompt)
      const told = new Set(roomy.log.all('request'))
      const cost = await costOfEach(
        () => neverReading({ prompt, ...more }, headers),
        async () => {
          await expect
            .poll(() => roomy.log.all('request').filter((line) => !told.has(line)).length)
            .toBe(READERS)
        },
      )
      expect(cost).toBeLessThan(ANSWER_BYTES / 2)
    },
  )
})

interface Spent {
  readonly spent: number
  readonly reserved: number
}

async function budget(): Promise<Spent> {
  const { text } = await client.send({
    path: '/admin/usage?hours=1',
    headers: { authorization: `Bearer ${OPERATOR_TOKEN}` },
  })
  return (JSON.parse(text) as { budget: Spent }).budget
}

/** The amount spent, once every call has settled. */
async function settled(): Promise<number> {
  await expect.poll(async () => (await budget()).reserved).toBe(0)
  return (await budget()).spent
}

describe('the cost of a failure', () => {
  const PROMPT = 'once'
  const MAX_TOKENS = 20
  /** The reservation: bytes of the prompt + 64 + max_tokens. */
  const WORST = PROMPT.length + 64 + MAX_TOKENS
  const cut: Script = (_, line) => {
    line.head(200, sse)
    line.write(textEvent('one'))
    line.end()
  }
  const silent: Script = (_, line) => {
    line.head(200, sse)
    line.write(textEvent('one'))
  }

  test.each<[string, keyof typeof kinds, Script, number]>([
    ['a refused connection costs nothing', 'refused', () => {}, 0],
    [
      'a call without response headers costs the whole reservation, because it may be billed',
      'impatient',
      () => {},
      WORST,
    ],
    ['a refusal costs nothing', 'legacy', refusal(401), 0],
    ['a server error costs nothing', 'legacy', refusal(500), 0],
    ['a redirect costs nothing', 'legacy', refusal(307, {}, { location: '/x' }), 0],
    ['silence after some text costs the whole reservation', 'impatient', silent, WORST],
    ['an answer cut short costs the whole reservation', 'legacy', cut, WORST],
    [
      'a 200 that is not a completion costs the whole reservation',
      'legacy',
      refusal(200, 7),
      WORST,
    ],
    ['a complete answer costs its usage', 'legacy', completionsStream(['one']), USAGE.total_tokens],
  ])('%s', async (_, kind, script, cost) => {
    const { model, lane } = lanes.take(kind)
    lane.answers(script)
    const before = await settled()
    await client.complete({ prompt: PROMPT, model, max_tokens: MAX_TOKENS, stream: true })
    expect((await settled()) - before).toBe(cost)
  })
})
