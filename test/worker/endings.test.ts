// How upstreams end an answer, or fail to, over real sockets and in real time; and requested parts
// of an answer that are missing. Splits at every byte are covered by the fixtures.
import { beforeAll, describe, expect, test, vi } from 'vitest'
import { completionOf, streamOf } from '../support/answers.ts'
import type { Client } from '../support/client.ts'
import { Lanes, type OwnModel } from '../support/lanes.ts'
import { countStored } from '../support/stored.ts'
import { event, json, type Line, type Script } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers } from '../support/workerd.ts'

const kinds = {
  chat: { retries: 0 },
  completions: { retries: 0, wire: 'completions' },
  anthropic: { retries: 0, wire: 'anthropic' },
}
type Kind = keyof typeof kinds

const suite = workerSuite()
const lanes = new Lanes(suite, kinds, 20)
let workers: Workers
let client: Client
let elsewhere: Client

beforeAll(async () => {
  workers = await suite.share({ config: lanes.config({ limits: { n: 4 } }), isolates: 2 })
  client = workers.client()
  elsewhere = workers.client(1)
})

/** "Hi" with its finish reason and usage, without a terminator. */
const answers: Readonly<Record<Kind, string>> = {
  chat:
    event({ choices: [{ index: 0, delta: { content: 'Hi' } }] }) +
    event({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] }),
  completions:
    event({ choices: [{ index: 0, text: 'Hi' }] }) +
    event({ choices: [{ index: 0, text: '', finish_reason: 'stop' }] }),
  anthropic:
    event({ type: 'message_start', message: { usage: { input_tokens: 3 } } }) +
    event({ type: 'content_block_delta', delta: { type: 'text_delta', text: 'Hi' } }) +
    event({
      type: 'message_delta',
      delta: { stop_reason: 'end_turn' },
      usage: { output_tokens: 1 },
    }),
}

const head = { 'content-type': 'text/event-stream', 'transfer-encoding': 'chunked' }

function sends(text: string, then: (line: Line) => void | Promise<void>): Script {
  return async (_, line) => {
    line.head(200, head)
    line.chunk(text)
    await then(line)
  }
}

const silence = () => {}
const heartbeats: (line: Line) => void = (line) => {
  const beat = () => {
    line.chunk(': ping\n\n')
    if (line.isOpen()) setTimeout(beat, 200)
  }
  beat()
}

/** The grace after the last finish, plus some time for a busy machine. */
const GRACE_MS = 2000
const SLACK_MS = 8000

/** Expects complete answers, streamed and as JSON, within the time limit. */
async function expectWhole(own: OwnModel, script: Script) {
  own.lane.answers(script)
  const startedAt = Date.now()
  const [streamed, whole] = await Promise.all([
    client.complete({ prompt: 'a', model: own.model, stream: true }),
    client.complete({ prompt: 'b', model: own.model }),
  ])
  const ms = Date.now() - startedAt
  expect(streamOf(streamed)).toMatchObject({ done: true, problem: null })
  expect([streamOf(streamed).text(), streamOf(streamed).finish()]).toEqual(['Hi', 'stop'])
  expect(completionOf(whole).choices).toEqual([
    { text: 'Hi', index: 0, logprobs: null, finish_reason: 'stop' },
  ])
  // Not expect.poll(), which knows only one running test.
  await vi.waitUntil(async () => (await countStored(workers, own.model)) > 0, { timeout: 15_000 })
  // The upstream's connection is closed, even if the upstream would keep it open.
  await Promise.all(own.lane.calls.map(({ closed }) => closed))
  return ms
}

describe.concurrent.each(Object.keys(answers) as Kind[])('an upstream of the %s wire', (kind) => {
  test.each([
    ['falls silent', silence],
    ['sends heartbeats without end', heartbeats],
  ])('that has finished and %s is not awaited longer than the grace period', async (_, then) => {
    const ms = await expectWhole(lanes.take(kind), sends(answers[kind], then))
    expect(ms).toBeGreaterThanOrEqual(GRACE_MS)
    expect(ms).toBeLessThan(GRACE_MS + SLACK_MS)
  })

  test.each<[string, (line: Line) => void | Promise<void>]>([
    [
      'resets the connection',
      async (line) => {
        await line.flushed()
        line.reset()
      },
    ],
    ['hangs up', (line) => line.lastChunk()],
    [
      'sends an unknown terminator',
      (line) => {
        line.chunk('event: end\ndata: DONE\n\n')
      },
    ],
  ])('that has finished and %s has sent a complete answer', async (_, then) => {
    await expectWhole(lanes.take(kind), sends(answers[kind], then))
  })
})

test('a complete JSON answer does not need the connection to end', async () => {
  const body = { choices: [{ index: 0, message: { content: 'Hi' }, finish_reason: 'stop' }] }
  await expectWhole(lanes.take('chat'), sends(JSON.stringify(body), silence))
})

test('an answer without the requested log probabilities is served and logged, but not stored', async () => {
  const { model, lane } = lanes.take('completions')
  lane.answers(json({ choices: [{ index: 0, text: 'Hi', finish_reason: 'stop' }] }))
  const ask = () => client.complete({ prompt: 'a', model, logprobs: 2 })
  const replies = [await ask(), await ask()]
  expect(replies.map((reply) => completionOf(reply).choices[0])).toEqual(
    Array(2).fill({ text: 'Hi', index: 0, logprobs: null, finish_reason: 'stop' }),
  )
  expect(replies.map((reply) => reply.headers['cache-status'])).toEqual(
    Array(2).fill('edge-completions; fwd=miss'),
  )
  expect(lane.calls).toHaveLength(2)
  for (const reply of replies) {
    const id = String(reply.headers['x-request-id'])
    await expect
      .poll(() => workers.log.all('answer_not_stored', id))
      .toMatchObject([
        {
          upstream: model,
          reason: 'no_logprobs',
          hint: expect.stringContaining('unsupported = ["logprobs"]'),
        },
      ])
  }
})

test('fewer choices than requested are a 502 with a hint in the log', async () => {
  const { model, lane } = lanes.take('completions')
  lane.answers(json({ choices: [{ index: 0, text: 'Hi', finish_reason: 'stop' }] }))
  const reply = await client.complete({ prompt: 'a', model, n: 2 })
  expect([reply.status, JSON.parse(reply.text).error.code]).toEqual([502, 'upstream_bad_response'])
  const id = String(reply.headers['x-request-id'])
  await expect
    .poll(() => workers.log.all('upstream_failed', id))
    .toMatchObject([
      { reason: 'missing_choice', hint: expect.stringContaining('native_n = false') },
    ])
})

test('the echo is added here on the completions wire, too, and not requested from the upstream', async () => {
  const { model, lane } = lanes.take('completions')
  lane.answers((call, line) => {
    const prompts = [call.body['prompt']].flat()
    line.head(200, head)
    for (const index of prompts.keys()) {
      line.chunk(event({ choices: [{ index, text: ' there', finish_reason: 'stop' }] }))
    }
    line.chunk(event('[DONE]'))
    line.lastChunk()
  })
  const one = { prompt: 'Hello', model, echo: true }
  const two = { prompt: ['One', 'Two'], model, echo: true }
  expect(completionOf(await client.complete(one)).choices[0]?.text).toBe('Hello there')
  const stream = streamOf(await client.complete({ ...two, stream: true }))
  expect([stream.text(0), stream.text(1)]).toEqual(['One there', 'Two there'])
  for (const { body } of lane.calls) expect(body).not.toHaveProperty('echo')
})

test('line separators are escaped in answers that another isolate reads from KV', async () => {
  const { model, lane } = lanes.take('chat')
  const text = 'a\u2028b\u2029c\u0085d'
  lane.answers(json({ choices: [{ index: 0, message: { content: text }, finish_reason: 'stop' }] }))
  await client.complete({ prompt: 'a', model })
  await expect.poll(() => countStored(workers, model)).toBeGreaterThan(0)
  for (const stream of [false, true]) {
    const reply = await elsewhere.complete({ prompt: 'a', model, stream })
    expect(reply.headers['cache-status']).toContain('hit')
    expect(reply.text).not.toMatch(/[\u0085\u2028\u2029]/)
    const got = stream ? streamOf(reply).text() : completionOf(reply).choices[0]?.text
    expect(got).toBe(text)
  }
  expect(lane.calls).toHaveLength(1)
})
