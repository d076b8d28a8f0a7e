// Rules for everything the Worker sends, checked on the raw bytes of real responses: misses, hits
// and joins, from both wires, complete and broken, from well-behaved and odd upstreams.
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Client, IncomingResponse } from '../support/client.ts'
import { Lanes } from '../support/lanes.ts'
import {
  chatStream,
  completionsStream,
  event,
  json,
  latch,
  refusal,
  type Script,
  UpstreamServer,
} from '../support/upstream-server.ts'
import { startWorkers, type Workers } from '../support/workerd.ts'

/** A raw response and its request. */
interface Emitted {
  readonly name: string
  readonly stream: boolean
  readonly includeUsage: boolean
  readonly status: number
  readonly type: string
  readonly bytes: string
}

const kinds = {
  chat: { retries: 0 },
  legacy: { retries: 0, wire: 'completions' },
}

let upstream: UpstreamServer
let lanes: Lanes<keyof typeof kinds>
let workers: Workers
let client: Client
const all: Emitted[] = []

beforeAll(async () => {
  upstream = await UpstreamServer.start()
  lanes = new Lanes({ upstream }, kinds, 80)
  workers = await startWorkers({ config: lanes.config({ limits: { n: 4 } }), main })
  client = workers.client()
  await Promise.all(scenarios.map((play) => play()))
})

afterAll(async () => {
  await workers.dispose()
  await upstream.stop()
})

/** Sends keep-alive comments after 100 ms instead of 15 s. */
const main = `
  import worker from './worker.js'
  export * from './worker.js'
  export default worker
  let ahead = 0
  const { now } = Date
  Date.now = () => now() + ahead
  const later = globalThis.setTimeout
  globalThis.setTimeout = (run, ms) =>
    ms > 10_000 && ms <= 15_000 ? later(() => { ahead += ms; run() }, 100) : later(run, ms)
`

async function record(
  name: string,
  incoming: IncomingResponse,
  asked: { readonly stream?: unknown; readonly stream_options?: unknown } = {},
): Promise<void> {
  const bytes = await incoming.rest()
  all.push({
    name,
    stream: asked.stream === true,
    includeUsage: asked.stream_options !== undefined,
    status: incoming.status,
    type: String(incoming.headers['content-type']),
    bytes,
  })
}

const USAGE = { stream: true, stream_options: { include_usage: true } }
const shapes = [{}, { stream: true }, USAGE]

/** The same script in all shapes, each on a miss of its own and again on a hit. */
function inAllShapes(name: string, kind: keyof typeof kinds, script: Script, more = {}) {
  return async () => {
    for (const shape of shapes) {
      const { model, lane } = lanes.take(kind)
      lane.answers(script)
      for (const round of ['first', 'second']) {
        const body = { prompt: 'p', model, ...shape, ...more }
        await record(`${name}, ${round}`, await client.open({ method: 'POST', body }), shape)
      }
    }
  }
}

function requesting(name: string, body: object, headers: Record<string, string> = {}) {
  return async () => {
    await record(name, await client.open({ method: 'POST', body, headers }), body)
  }
}

const raw =
  (...lines: readonly string[]): Script =>
  (_, line) => {
    line.head(200, { 'content-type': 'text/event-stream' })
    for (const text of lines) line.write(text)
    line.end()
  }

const token = (text: string) => ({ token: text, logprob: -0.5, bytes: null, top_logprobs: [] })

const scenarios: readonly (() => Promise<void>)[] = [
  inAllShapes('an answer', 'chat', chatStream(['Hello', ' there'])),
  inAllShapes('an answer of the legacy wire', 'legacy', completionsStream(['Hello', ' there'])),
  inAllShapes('an answer without usage', 'chat', chatStream(['Hello'], { usage: null })),
  inAllShapes('an empty answer', 'chat', chatStream([])),
  inAllShapes('a filtered answer', 'chat', chatStream(['x'], { finish: 'content_filter' })),
  inAllShapes('an odd finish', 'legacy', completionsStream(['x'], { finish: 'eos_token' })),
  inAllShapes('several choices', 'chat', chatStream(['Hello', ' there']), { n: 2 }),
  inAllShapes(
    'text that looks like an event stream',
    'chat',
    chatStream([
      'a\n\ndata: [DONE]\n\n',
      '\r\n: ping\r\n\r\n',
      '\u2028\u2029\u0085\ufeff\u0000event: x\n',
    ]),
  ),
  inAllShapes(
    'an upstream of many odds',
    'legacy',
    raw(
      '\ufeff: ping\r\n\r\nretry: 1\r\nid: 7\r\n\r\n',
      'event: completion\r\ndata: {"id":"","object":"x","choices":[],"prompt_filter_results":[]}\r\n\r\n',
      event({
        id: 'a',
        created: 1.5,
        error: null,
        obfuscation: 'x',
        choices: [{ text: 'He', index: 0, logprobs: null, finish_reason: '' }],
        usage: {},
      }),
      event({
        id: 'b',
        model: 'other',
        choices: [
          { text: 'llo', index: 0 },
          { text: 'X', index: 5 },
        ],
        usage: { prompt_tokens: 1 },
      }),
      event({ choices: [{ text: null, index: 0, finish_reason: 'stop' }] }),
      event({ choices: [{ text: '', index: 0, finish_reason: null }] }),
      'data: [DONE]\n\ndata: {"choices":[{"text":"EXTRA","index":0}]}\n\ndata: [DONE]\n\n',
    ),
  ),
  inAllShapes(
    'a chat with log probabilities',
    'chat',
    raw(
      event({
        choices: [{ delta: { content: 'Hi' }, index: 0, logprobs: { content: [token('Hi')] } }],
      }),
      event({ choices: [{ delta: {}, index: 0, finish_reason: 'stop' }] }),
      event('[DONE]'),
    ),
    { logprobs: 1 },
  ),
  inAllShapes(
    'a JSON answer',
    'chat',
    json({ choices: [{ message: { content: 'fine' }, finish_reason: 'stop' }] }),
  ),
  inAllShapes(
    'a refusal of the model',
    'chat',
    json({ choices: [{ message: { content: null, refusal: 'No' }, finish_reason: 'stop' }] }),
  ),
  inAllShapes(
    'an answer that breaks off',
    'legacy',
    completionsStream(['one', 'two'], { finish: null, done: false, usage: null }),
  ),
  inAllShapes(
    'an answer that turns into an error',
    'legacy',
    raw(
      event({ choices: [{ text: 'one', index: 0 }] }),
      'event: error\ndata: {"message":"no","type":"server_error"}\n\n',
      event({ error: { message: 'no' } }),
    ),
  ),
  ...[400, 401, 404, 429, 500].map((status) =>
    inAllShapes(`an upstream’s ${status}`, 'chat', refusal(status, [{ error: 'no' }])),
  ),
  inAllShapes('an upstream’s 200 with an error', 'chat', json({ error: { message: 'no' } })),
  inAllShapes('an upstream’s HTML', 'chat', (_, line) => {
    line.head(200, { 'content-type': 'text/html' })
    line.write('<html>')
    line.end()
  }),
  requesting('an unknown field', { prompt: 'p', nonsense: 1, stream: true }),
  requesting('an unknown model', { prompt: 'p', model: 'x\u2028\u2029\u0085' }),
  requesting('no prompt', {}),
  requesting('a miss with only-if-cached', { prompt: 'p' }, { 'cache-control': 'only-if-cached' }),
  requesting(
    'a page of another origin',
    { prompt: 'p', stream: true },
    { origin: 'https://evil.example' },
  ),
  async () => record('an unknown path', await client.open({ path: '/v1/chat/completions' })),
  async () => record('an unsupported method', await client.open({ method: 'DELETE' })),
  async () => record('a miss by GET', await client.open({ path: '/v1/completions?prompt=never' })),
  async () => {
    const { model, lane } = lanes.take('chat')
    const rest = latch()
    lane.answers(chatStream(['one', 'two'], { pace: () => rest.opened }))
    const body = { prompt: 'p', model, stream: true }
    const leader = await client.open({ method: 'POST', body })
    await leader.until('"text":"one"')
    const follower = await client.open({ method: 'POST', body })
    await Promise.all([leader.until('\n:'), follower.until('"text":"one"')])
    rest.open()
    await record('a stream with a pause', leader, body)
    await record('a joined stream', follower, body)
  },
]

const streams = () => all.filter(({ type }) => type.startsWith('text/event-stream'))
const wholes = () => all.filter(({ stream, status }) => !stream && status === 200)
const problems = () => all.filter(({ status }) => status !== 200)

type Json = Readonly<Record<string, unknown>>
interface Chunk extends Json {
  readonly choices: readonly Json[]
}

/** The data of each event. Comments are not events. */
const dataOf = ({ bytes }: Emitted): string[] =>
  bytes
    .split('\n')
    .filter((line) => line.startsWith('data: '))
    .map((line) => line.slice(6))
const objectsOf = (one: Emitted): Json[] =>
  dataOf(one)
    .filter((data) => data !== '[DONE]')
    .map((data): Json => JSON.parse(data))
const chunksOf = (one: Emitted): Chunk[] =>
  objectsOf(one).filter((object): object is Chunk => !('error' in object))
const errorsOf = (one: Emitted): Json[] => objectsOf(one).filter((object) => 'error' in object)
const broken = (one: Emitted) => errorsOf(one).length > 0

const isText = (value: unknown) => typeof value === 'string'
const isOdds = (value: unknown) =>
  value === null ||
  (typeof value === 'object' &&
    Object.keys(value).sort().join() === 'text_offset,token_logprobs,tokens,top_logprobs')

function expectUsage(value: unknown): void {
  expect(Object.keys(value ?? {}).sort()).toEqual([
    'completion_tokens',
    'prompt_tokens',
    'total_tokens',
  ])
  for (const count of Object.values(value ?? {})) expect(Number.isInteger(count)).toBe(true)
}

function expectError(error: unknown): void {
  const { message, type, param, code, ...others } = error as Json
  expect(others).toEqual({})
  expect([isText(message) && message !== '', isText(type)]).toEqual([true, true])
  expect([param === null || isText(param), code === null || isText(code)]).toEqual([true, true])
}

/** A rule: its title, the responses it applies to, and the check. */
const rules: readonly [string, () => Emitted[], (one: Emitted) => void][] = [
  [
    'an event is one line "data: <JSON>" and a blank line, LF only, nothing else',
    streams,
    ({ bytes }) => {
      expect(bytes).toMatch(/^(?:data: (?:\{[^\r\n]*\}|\[DONE\])\n\n|:\n\n)+$/)
      expect(bytes.charCodeAt(0)).not.toBe(0xfeff)
    },
  ],
  [
    'a comment is a bare colon, never ": ping"',
    () => streams().filter(({ bytes }) => /^:/m.test(bytes)),
    ({ bytes }) => {
      for (const line of bytes.split('\n')) if (line.startsWith(':')) expect(line).toBe(':')
    },
  ],
  [
    'a stream ends with a single "data: [DONE]" and nothing after it',
    () => streams().filter((one) => !broken(one)),
    ({ bytes }) => {
      expect(bytes.endsWith('\n\ndata: [DONE]\n\n')).toBe(true)
      expect(bytes.match(/^data: \[DONE\]/gm)).toHaveLength(1)
    },
  ],
  [
    'every chunk and every choice has all its fields',
    streams,
    (one) => {
      expect(chunksOf(one).length).toBeGreaterThan(0)
      for (const { id, object, created, model, choices } of chunksOf(one)) {
        expect(id).toMatch(/^cmpl-[A-Za-z0-9]{24,}$/)
        expect([object, Number.isInteger(created), isText(model)]).toEqual([
          'text_completion',
          true,
          true,
        ])
        for (const { text, index, logprobs, finish_reason, ...others } of choices) {
          expect(others).toEqual({})
          expect([isText(text), Number.isInteger(index), isOdds(logprobs)]).toEqual([
            true,
            true,
            true,
          ])
          expect([null, 'stop', 'length', 'content_filter']).toContain(finish_reason)
        }
      }
    },
  ],
  [
    'id, created and model are the same in all chunks',
    streams,
    (one) => {
      const heads = chunksOf(one).map(({ id, created, model }) => `${id} ${created} ${model}`)
      expect(new Set(heads).size).toBe(1)
    },
  ],
  [
    'each choice has one finish reason, on its last chunk',
    () => streams().filter((one) => !broken(one)),
    (one) => {
      const reasons = new Map<unknown, unknown[]>()
      for (const { index, finish_reason } of chunksOf(one).flatMap(({ choices }) => choices)) {
        reasons.set(index, [...(reasons.get(index) ?? []), finish_reason])
      }
      expect(reasons.size).toBeGreaterThan(0)
      for (const list of reasons.values()) {
        expect(list.at(-1)).not.toBeNull()
        expect(list.slice(0, -1).every((reason) => reason === null)).toBe(true)
      }
    },
  ],
  [
    'a chunk without choices is sent only when usage was requested, and as the last one',
    streams,
    (one) => {
      const bare = chunksOf(one).map(({ choices }) => choices.length === 0)
      expect(bare.slice(0, -1)).not.toContain(true)
      expect(bare.at(-1)).toBe(one.includeUsage && !broken(one))
    },
  ],
  [
    'usage is null on the other chunks, and absent when it was not requested',
    streams,
    (one) => {
      const chunks = chunksOf(one)
      for (const chunk of chunks) {
        if (!one.includeUsage) expect(chunk).not.toHaveProperty('usage')
        else if (chunk.choices.length > 0) expect(chunk['usage']).toBeNull()
      }
    },
  ],
  [
    'usage is three integers',
    () => [...wholes(), ...streams().filter((one) => one.includeUsage && !broken(one))],
    (one) => {
      const whole = one.stream ? chunksOf(one).at(-1) : (JSON.parse(one.bytes) as Json)
      expectUsage(whole?.['usage'])
    },
  ],
  [
    'a failure in a stream is a single last event without [DONE]',
    () => streams().filter(broken),
    (one) => {
      expect(errorsOf(one)).toHaveLength(1)
      const last = objectsOf(one).at(-1) ?? {}
      expect(Object.keys(last)).toEqual(['error'])
      expectError(last['error'])
      expect(one.bytes).not.toContain('[DONE]\n')
      expect(chunksOf(one).length).toBeGreaterThan(0)
    },
  ],
  [
    'a successful chunk has no field "error" and no field of the upstream',
    streams,
    (one) => {
      const known = ['id', 'object', 'created', 'model', 'system_fingerprint', 'choices', 'usage']
      for (const chunk of chunksOf(one)) {
        expect(Object.keys(chunk).filter((key) => !known.includes(key))).toEqual([])
      }
    },
  ],
  [
    'a complete answer has choices with text and a finish reason',
    wholes,
    ({ type, bytes }) => {
      expect(type).toBe('application/json')
      const { object, choices } = JSON.parse(bytes) as Chunk
      expect(object).toBe('text_completion')
      expect(choices.length).toBeGreaterThan(0)
      for (const { text, finish_reason, index, logprobs } of choices) {
        expect([isText(text), Number.isInteger(index), isOdds(logprobs)]).toEqual([
          true,
          true,
          true,
        ])
        expect(['stop', 'length', 'content_filter']).toContain(finish_reason)
      }
    },
  ],
  [
    'a 200 is never an error, and a streamed 200 always has text or a finish reason',
    () => all.filter(({ status }) => status < 300),
    (one) => {
      expect(one.status).toBe(200)
      expect(one.type).toBe(one.stream ? 'text/event-stream; charset=utf-8' : 'application/json')
      if (one.stream) expect(chunksOf(one).length).toBeGreaterThan(0)
      else expect(JSON.parse(one.bytes)).not.toHaveProperty('error')
    },
  ],
  [
    'an error is a JSON object with message, type, param and code',
    problems,
    ({ status, type, bytes }) => {
      expect(status).toBeGreaterThanOrEqual(400)
      expect(type).toBe('application/json')
      const body = JSON.parse(bytes) as Json
      expect(Object.keys(body)).toEqual(['error'])
      expectError(body['error'])
    },
  ],
  [
    'U+0085, U+2028 and U+2029 are escaped, because some readers split lines there',
    () => all.filter(({ bytes }) => /\\u0085|\\u2028|\\u2029/.test(bytes)),
    ({ bytes }) => expect(bytes).not.toMatch(/[\u0085\u2028\u2029]/),
  ],
  [
    'log probabilities have the legacy shape',
    () => all.filter(({ name, status }) => status === 200 && name.includes('log probabilities')),
    (one) => {
      const objects = one.stream ? chunksOf(one) : [JSON.parse(one.bytes) as Chunk]
      const odds = objects.flatMap(({ choices }) => choices.map(({ logprobs }) => logprobs))
      expect(odds.filter((value) => value !== null).length).toBeGreaterThan(0)
      for (const value of odds) expect(isOdds(value)).toBe(true)
    },
  ],
]

test.each(rules)('%s', (_, which, holds) => {
  const ones = which()
  expect(ones.length).toBeGreaterThan(0)
  const wrong = ones.flatMap((one) => {
    try {
      holds(one)
      return []
    } catch (error) {
      return [`${one.name} (${one.stream ? 'stream' : 'JSON'}): ${error}\n${one.bytes}`]
    }
  })
  expect(wrong).toEqual([])
})

test('the responses are the expected ones', () => {
  const of = (name: string, stream: boolean) =>
    all.filter((one) => one.stream === stream && one.name.startsWith(name)).map((one) => one.status)
  expect(of('an answer,', false)).toEqual([200, 200])
  expect(of('an answer,', true)).toEqual([200, 200, 200, 200])
  expect(of('an answer that breaks off', false)).toEqual([502, 502])
  expect(of('an answer that breaks off', true)).toEqual([200, 200, 200, 200])
  expect(of('an upstream’s 401', true)).toEqual([502, 502, 502, 502])
  expect(of('a page of another origin', true)).toEqual([403])
  // In a stream, in JSON, from the cache, and in the message of an error.
  expect(all.filter(({ bytes }) => bytes.includes('\\u2028')).length).toBe(7)
  expect(all.length).toBeGreaterThan(100)
  expect(workers.log.takeRuntimeLines()).toEqual([])
  expect(workers.log.all('internal')).toEqual([])
})
