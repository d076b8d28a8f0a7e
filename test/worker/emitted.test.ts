// Everything the gateway sends keeps the rules of support/answers.ts: misses and hits, from both
// wires, complete and broken, from well-behaved and odd upstreams, in process and in workerd.
import { beforeAll, describe, expect, test } from 'vitest'
import { completionOf, problemOf, streamOf } from '../support/answers.ts'
import type { Client, Reply } from '../support/client.ts'
import { Lanes } from '../support/lanes.ts'
import {
  chatStream,
  completionsStream,
  event,
  json,
  refusal,
  type Script,
} from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'

const kinds = {
  chat: { retries: 0 },
  legacy: { retries: 0, wire: 'completions' },
}

const suite = workerSuite()
const lanes = new Lanes(suite, kinds, 150)

const shapes = [{}, { stream: true }, { stream: true, stream_options: { include_usage: true } }]

const raw =
  (...lines: readonly string[]): Script =>
  (_, line) => {
    line.head(200, { 'content-type': 'text/event-stream' })
    for (const text of lines) line.write(text)
    line.end()
  }

const token = (text: string) => ({ token: text, logprob: -0.5, bytes: null, top_logprobs: [] })

/** Expects a response that keeps the rules, in the shape that was requested. */
function expectRules(
  reply: Reply,
  { stream = false, stream_options: usage }: { stream?: boolean; stream_options?: object },
): void {
  if (reply.status !== 200) {
    expect(reply.status).toBeGreaterThanOrEqual(400)
    problemOf(reply)
  } else if (stream) {
    const { chunks, done, problem } = streamOf(reply)
    expect(done).toBe(problem === null)
    expect('usage' in (chunks[0] ?? {})).toBe(usage !== undefined)
  } else completionOf(reply)
}

type Scenario = [
  name: string,
  kind: keyof typeof kinds,
  script: Script,
  /** The status of JSON and of a stream. A stream that breaks off has begun with 200. */
  statuses: readonly [number, number],
  more?: object,
]

const whole = [200, 200] as const
const scenarios: readonly Scenario[] = [
  ['an answer', 'chat', chatStream(['Hello', ' there']), whole],
  ['an answer of the legacy wire', 'legacy', completionsStream(['Hello', ' there']), whole],
  ['an answer without usage', 'chat', chatStream(['Hello'], { usage: null }), whole],
  ['an empty answer', 'chat', chatStream([]), whole],
  ['a filtered answer', 'chat', chatStream(['x'], { finish: 'content_filter' }), whole],
  ['an odd finish', 'legacy', completionsStream(['x'], { finish: 'eos_token' }), whole],
  ['several choices', 'chat', chatStream(['Hello', ' there']), whole, { n: 2 }],
  [
    'text that looks like an event stream',
    'chat',
    chatStream([
      'a\n\ndata: [DONE]\n\n',
      '\r\n: ping\r\n\r\n',
      '\u2028\u2029\u0085\ufeff\u0000event: x\n',
    ]),
    whole,
  ],
  [
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
    whole,
  ],
  [
    'a chat with log probabilities',
    'chat',
    raw(
      event({
        choices: [{ delta: { content: 'Hi' }, index: 0, logprobs: { content: [token('Hi')] } }],
      }),
      event({ choices: [{ delta: {}, index: 0, finish_reason: 'stop' }] }),
      event('[DONE]'),
    ),
    whole,
    { logprobs: 1 },
  ],
  [
    'a JSON answer of odd fields',
    'chat',
    json({
      id: 7,
      created: -1.5,
      model: '',
      choices: [{ message: { content: 'fine', extra: 1 }, finish_reason: 'eos' }],
      usage: { prompt_tokens: -5, completion_tokens: 'x', total_tokens: null },
      x_vendor: 1,
    }),
    whole,
  ],
  [
    'a refusal of the model',
    'chat',
    json({ choices: [{ message: { content: null, refusal: 'No' }, finish_reason: 'stop' }] }),
    whole,
  ],
  [
    'an answer that breaks off',
    'legacy',
    completionsStream(['one', 'two'], { finish: null, done: false, usage: null }),
    [502, 200],
  ],
  [
    'an answer that turns into an error',
    'legacy',
    raw(
      event({ choices: [{ text: 'one', index: 0 }] }),
      'event: error\ndata: {"message":"no","type":"server_error"}\n\n',
      event({ error: { message: 'no' } }),
    ),
    [502, 200],
  ],
  ...(
    [
      [400, 400],
      [401, 502],
      [429, 429],
      [500, 502],
    ] as const
  ).map(
    ([from, to]): Scenario => [`a ${from}`, 'chat', refusal(from, [{ error: 'no' }]), [to, to]],
  ),
  ['a 200 with an error', 'chat', json({ error: { message: 'no' } }), [502, 502]],
]

describe.each(suite.gateways)('%s', (_, start) => {
  let client: Client

  beforeAll(async () => {
    client = (await start(lanes.config({ limits: { n: 4 } }))).client()
  })

  test.each(scenarios)('%s keeps the rules in all shapes, twice', async (...scenario) => {
    const [, kind, script, [json, stream], more] = scenario
    for (const shape of shapes) {
      const { model, lane } = lanes.take(kind)
      lane.answers(script)
      for (const _round of ['miss', 'hit']) {
        const reply = await client.complete({ prompt: 'p', model, ...shape, ...more })
        expect(reply.status).toBe(shape.stream === true ? stream : json)
        expectRules(reply, shape)
      }
    }
  })

  test.each<[string, number, object, Record<string, string>?]>([
    ['an unknown field', 400, { prompt: 'p', nonsense: 1, stream: true }],
    ['an unknown model', 400, { prompt: 'p', model: 'x\u2028\u2029\u0085' }],
    ['no prompt', 400, {}],
    ['a miss with only-if-cached', 404, { prompt: 'never' }, { 'cache-control': 'only-if-cached' }],
    ['another origin', 403, { prompt: 'p', stream: true }, { origin: 'https://evil.example' }],
  ])('an error about %s keeps the rules', async (_name, status, body, headers) => {
    const reply = await client.complete(body, headers)
    expect(reply.status).toBe(status)
    expectRules(reply, body)
  })
})
