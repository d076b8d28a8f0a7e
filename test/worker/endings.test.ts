// Upstreams that have finished and do not hang up, over real sockets and in real time. How each wire
// ends an answer, and what is missing in one, is tested in test/upstream/fixtures.test.ts.
import { beforeAll, describe, expect, test, vi } from 'vitest'
import { completionOf, streamOf } from '../support/answers.ts'
import type { Client } from '../support/client.ts'
import { Lanes } from '../support/lanes.ts'
import { countStored } from '../support/stored.ts'
import { event, type Line, type Script } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers } from '../support/workerd.ts'

const suite = workerSuite()
const lanes = new Lanes(suite, { chat: { retries: 0 } }, 10)
let workers: Workers
let client: Client

beforeAll(async () => {
  workers = await suite.share({ config: lanes.config() })
  client = workers.client()
})

/** "Hi" with its finish reason, without a terminator. */
const answer =
  event({ choices: [{ index: 0, delta: { content: 'Hi' } }] }) +
  event({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] })
const json = JSON.stringify({
  choices: [{ index: 0, message: { content: 'Hi' }, finish_reason: 'stop' }],
})

function sends(text: string, then: (line: Line) => void | Promise<void>): Script {
  return async (_, line) => {
    line.head(200, { 'content-type': 'text/event-stream', 'transfer-encoding': 'chunked' })
    line.chunk(text)
    await then(line)
  }
}

const silence = () => {}
const heartbeats = (line: Line) => {
  const beat = () => {
    line.chunk(': ping\n\n')
    if (line.isOpen()) setTimeout(beat, 200)
  }
  beat()
}

/** The grace after the last finish, plus some time for a busy machine. */
const GRACE_MS = 2000
const SLACK_MS = 8000

describe.concurrent('an upstream that has finished', () => {
  test.each<[string, Script, number]>([
    ['and falls silent, is awaited for the grace period', sends(answer, silence), GRACE_MS],
    ['and sends heartbeats without end, is, too', sends(answer, heartbeats), GRACE_MS],
    [
      'and resets the connection, has sent a complete answer',
      sends(answer, async (line) => {
        await line.flushed()
        line.reset()
      }),
      0,
    ],
    ['with JSON, does not need to end the connection', sends(json, silence), 0],
  ])('%s', async (_, script, waitsMs) => {
    const { model, lane } = lanes.take('chat')
    lane.answers(script)
    const startedAt = Date.now()
    const [streamed, whole] = await Promise.all([
      client.complete({ prompt: 'a', model, stream: true }),
      client.complete({ prompt: 'b', model }),
    ])
    const ms = Date.now() - startedAt
    expect(ms).toBeGreaterThanOrEqual(waitsMs)
    expect(ms).toBeLessThan(waitsMs + SLACK_MS)
    expect(streamOf(streamed)).toMatchObject({ done: true, problem: null })
    expect([streamOf(streamed).text(), streamOf(streamed).finish()]).toEqual(['Hi', 'stop'])
    expect(completionOf(whole).choices).toEqual([
      { text: 'Hi', index: 0, logprobs: null, finish_reason: 'stop' },
    ])
    // Not expect.poll(), which knows only one running test.
    await vi.waitUntil(async () => (await countStored(workers, model)) > 0, { timeout: 15_000 })
    // The upstream's connection is closed, even if the upstream would keep it open.
    await Promise.all(lane.calls.map(({ closed }) => closed))
  })
})
