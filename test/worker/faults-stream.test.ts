// Streams and readers that disconnect, over real sockets. What upstreams send in a stream, split at
// every byte, is tested in process, in test/upstream/fixtures.test.ts.
import { beforeAll, describe, expect, test } from 'vitest'
import { completionOf, parseStream, streamOf } from '../support/answers.ts'
import type { Client } from '../support/client.ts'
import { Lanes } from '../support/lanes.ts'
import { countStored } from '../support/stored.ts'
import { chatStream, event, latch, type Script } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers } from '../support/workerd.ts'

const kinds = {
  chat: { retries: 0 },
  legacy: { retries: 0, wire: 'completions' },
  impatient: { retries: 0, first_byte_ms: 500, idle_ms: 500 },
}

const suite = workerSuite()
const lanes = new Lanes(suite, kinds, 60)
let workers: Workers
let client: Client

/** The Worker with a clock that can be moved forward, and a keep-alive that looks at it often. */
const main = `
  import worker from './worker.js'
  export * from './worker.js'
  let ahead = 0
  const { now } = Date
  Date.now = () => now() + ahead
  const later = globalThis.setTimeout
  globalThis.setTimeout = (run, ms, ...rest) => later(run, ms > 10_000 && ms <= 15_000 ? 100 : ms, ...rest)
  export default {
    ...worker,
    fetch(request, ...rest) {
      const { pathname, search } = new URL(request.url)
      if (pathname !== '/put-forward') return worker.fetch(request, ...rest)
      ahead += Number(search.slice(1))
      return new Response()
    },
  }
`

const putForward = (ms: number) => client.send({ path: `/put-forward?${ms}` })

beforeAll(async () => {
  workers = await suite.share({ config: lanes.config(), main })
  client = workers.client()
})

const sse = { 'content-type': 'text/event-stream' }
const usage = { stream_options: { include_usage: true } }

/** The visitor's response to this script as a stream, and as JSON from another model. */
async function both(kind: keyof typeof kinds, script: Script) {
  const streamed = lanes.take(kind)
  streamed.lane.answers(script)
  const body = { prompt: 'p', model: streamed.model, stream: true, ...usage }
  const stream = streamOf(await client.complete(body))
  const whole = lanes.take(kind)
  whole.lane.answers(script)
  const reply = await client.complete({ prompt: 'p', model: whole.model })
  expect(stream).toMatchObject({ done: true, problem: null })
  const completion = completionOf(reply)
  expect(stream.text()).toBe(completion.choices[0]?.text)
  expect(stream.finish()).toBe(completion.choices[0]?.finish_reason)
  expect(stream.usage).toEqual(completion.usage)
  return { stream, completion, reply }
}

describe('an event stream from an upstream', () => {
  const texts = ['Zwölf ', 'Boxkämpfer ', '🧑‍🚀 ', '日本語']

  test('may be split anywhere, even within a character or CRLF', async () => {
    const bytes = Buffer.from(
      texts
        .map((content) => event({ choices: [{ index: 0, delta: { content } }] }))
        .join('')
        .concat(event({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] }))
        .concat(event('[DONE]'))
        .replaceAll('\n', '\r\n'),
    )
    const { completion } = await both('chat', async (_, line) => {
      line.head(200, sse)
      for (const byte of bytes) {
        line.write(Uint8Array.of(byte))
        await new Promise((resolve) => setImmediate(resolve))
      }
      line.end()
    })
    expect(completion.choices[0]?.text).toBe(texts.join(''))
  })

  // workerd's TextDecoder drops the first byte order mark at the start of any piece.
  test.each([
    ['', 'a body without one'],
    ['\ufeff', 'a body that begins with one'],
  ])(
    'keeps a byte order mark at the start of a packet in the middle of a text: %j, %s',
    async (before) => {
      const { model, lane } = lanes.take('chat')
      const rest = latch()
      const chunk = (content: string) =>
        JSON.stringify({ choices: [{ index: 0, delta: { content } }] })
      lane.answers(async (_, line) => {
        line.head(200, sse)
        line.write(`${before}data: ${chunk('a')}\n\ndata: ${chunk('\ufeffb').split('\ufeff')[0]}`)
        await rest.opened
        line.write(`\ufeff${chunk('\ufeffb').split('\ufeff')[1]}\n\n`)
        line.write(event({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] }))
        line.write(event('[DONE]'))
        line.end()
      })
      const reading = await client.open({
        method: 'POST',
        body: { prompt: 'p', model, stream: true },
      })
      await reading.until('"text":"a"')
      rest.open()
      expect(parseStream(await reading.rest()).text()).toBe('a\ufeffb')
    },
  )

  test.each<[string, string]>([
    ['a terminator in it', 'a\n\ndata: [DONE]\n\nb'],
    ['an error event in it', '\n\ndata: {"error":{"message":"no"}}\n\n'],
    ['carriage returns', 'a\rb\r\nc\r\r'],
    ['line separators', 'a\u2028b\u2029c\u0085d'],
    ['a closing script tag', '</script><!--'],
    ['NUL and other controls', '\u0000\u0007\u001b[31m'],
  ])('may contain text with %s, which stays text', async (_, text) => {
    const { completion, stream } = await both('chat', chatStream([text, '!']))
    expect(completion.choices[0]?.text).toBe(`${text}!`)
    expect(stream.text()).toBe(`${text}!`)
  })

  test('ends at [DONE]; anything after it is ignored', async () => {
    const own = lanes.take('chat')
    own.lane.answers(async (call, line) => {
      line.head(200, sse)
      line.write(event({ choices: [{ index: 0, delta: { content: 'a' }, finish_reason: 'stop' }] }))
      line.write(event('[DONE]'))
      line.write(event({ choices: [{ index: 0, delta: { content: 'b' } }] }))
      line.write(event('[DONE]'))
      await call.closed
    })
    const reply = await client.complete({ prompt: 'p', model: own.model, stream: true })
    expect(streamOf(reply)).toMatchObject({ done: true, problem: null })
    expect(streamOf(reply).text()).toBe('a')
    // The upstream keeps the connection open; the gateway does not wait for it.
    await (await own.lane.call()).closed
    expect((await own.lane.call()).left).toBe(true)
  })

  test('is passed on as it arrives', async () => {
    const own = lanes.take('chat')
    const second = latch()
    own.lane.answers(chatStream(['one', 'two'], { pace: () => second.opened }))
    const incoming = await client.open({
      method: 'POST',
      body: { prompt: 'p', model: own.model, stream: true },
    })
    await incoming.until('"text":"one"')
    // Silence is filled with bare comments.
    await putForward(15_000)
    await incoming.until('\n\n:\n\n')
    second.open()
    const stream = parseStream(await incoming.rest())
    expect([stream.text(), stream.done]).toEqual(['onetwo', true])
  })
})

describe('a reader that disconnects', () => {
  /** Sends a word every 20 ms until the connection is closed. */
  function talker() {
    let next = latch()
    const script: Script = async (call, line) => {
      line.head(200, { ...sse, 'transfer-encoding': 'chunked' })
      while (!call.left) {
        line.chunk(event({ choices: [{ index: 0, delta: { content: 'word ' } }] }))
        await Promise.race([next.opened, call.closed])
        next = latch()
      }
    }
    const talk = setInterval(() => next.open(), 20)
    return { script, stop: () => clearInterval(talk) }
  }

  /** With no-store, nobody joins and nothing is stored: the upstream call ends with its reader. */
  const alone = { 'cache-control': 'no-store' }

  test.each([
    ['at the first chunk', 0],
    ['in the middle', 5],
  ])('%s ends the upstream call if nobody else uses it', async (_, more) => {
    const own = lanes.take('chat')
    const { script, stop } = talker()
    own.lane.answers(script)
    const incoming = await client.open({
      method: 'POST',
      body: { prompt: 'p', model: own.model, stream: true },
      headers: alone,
    })
    await incoming.until('"text":"word "')
    for (let i = 0; i < more; i++) await incoming.more()
    incoming.leave()
    const call = await own.lane.call()
    await call.closed
    stop()
    expect(call.left).toBe(true)
    expect(own.lane.calls).toHaveLength(1)
    const id = String(incoming.headers['x-request-id'])
    expect(await workers.log.request(id)).toMatchObject({ status: 499, code: null, attempts: 1 })
    expect(workers.log.all('upstream_failed', id)).toEqual([])
    expect(await countStored(workers, own.model)).toBe(0)
  })

  test('during silence is noticed at the next comment', async () => {
    // workerd reports it only when something is written: neither cancel() nor the request's signal
    // comes earlier. In production the upstream is held for up to 15 s more, or its idle_ms.
    const { model, lane } = lanes.take('legacy')
    lane.answers(async (call, line) => {
      line.head(200, sse)
      line.write(event({ choices: [{ index: 0, text: 'one' }] }))
      await call.closed
    })
    const incoming = await client.open({
      method: 'POST',
      body: { prompt: 'left', model, stream: true },
      headers: alone,
    })
    await incoming.until('"text":"one"')
    incoming.leave()
    const call = await lane.call()
    await putForward(15_000)
    await call.closed
    expect(call.left).toBe(true)
    const id = incoming.headers['x-request-id']
    expect(await workers.log.request(String(id))).toMatchObject({ status: 499, attempts: 1 })
    expect(workers.log.all('upstream_failed', id)).toEqual([])
  })

  test('before the response headers leaves nothing running', async () => {
    const own = lanes.take('impatient')
    own.lane.answers(() => {})
    const { response, leave } = client.start({
      method: 'POST',
      body: { prompt: 'p', model: own.model, stream: true },
      headers: alone,
    })
    const call = await own.lane.call()
    leave()
    await expect(response).rejects.toThrow()
    // The runtime may not report the disconnect. Then a time limit ends the call.
    await call.closed
    expect(call.left).toBe(true)
    const isOurs = await workers.log.find(
      (line) => line.event === 'request' && line.model === own.model,
    )
    expect(isOurs).toMatchObject({ attempts: 1, cache: expect.stringMatching(/miss|bypass/) })
    expect(own.lane.calls).toHaveLength(1)
  })
})
