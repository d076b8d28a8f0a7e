// The same request, in any shape, makes one upstream call and one stored entry, across isolates and
// restarts. Which requests are the same is tested in test/request/cache-key.test.ts.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { completionOf, streamOf } from '../support/answers.ts'
import type { Client, ClientRequest } from '../support/client.ts'
import { completionsStream, USAGE } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'

const suite = workerSuite()

/** CONFIG with a lane of its own. */
function own() {
  const name = `u${suite.next()}`
  const lane = suite.upstream.lane(name)
  lane.answers(completionsStream(['To be', ', or not'], { finish: 'length' }))
  const config = suite.config(name, { defaults: { max_tokens: 64 } }, { wire: 'completions' })
  return { lane, config }
}

const PROMPT = 'To be, or not to be: "that" is the\n question \u{1f480}'
const text = { accept: 'text/plain' }
const path = `/v1/completions?${new URLSearchParams({ prompt: PROMPT })}`
const post = (more: object, headers = {}): ClientRequest => ({
  method: 'POST',
  body: { prompt: PROMPT, ...more },
  headers,
})

/** Every way to request the same answer, and the form it comes in. */
const shapes: readonly (readonly [name: string, ClientRequest, 'json' | 'sse' | 'text'])[] = [
  ['JSON', post({}), 'json'],
  ['JSON that states the defaults', post({ max_tokens: 64, temperature: 1.0, user: 'a' }), 'json'],
  ['SSE', post({ stream: true }), 'sse'],
  ['SSE with usage', post({ stream: true, stream_options: { include_usage: true } }), 'sse'],
  ['text', post({}, text), 'text'],
  ['streamed text', post({ stream: true }, text), 'text'],
  // These never make the first call.
  ['GET', { path }, 'json'],
  ['GET of a stream', { path: `${path}&stream=true` }, 'sse'],
  ['GET of text', { path, headers: text }, 'text'],
]

/** Expects the answer of a stored completion, in every shape. */
async function expectSame(client: Client, id: string): Promise<void> {
  for (const [name, sent, form] of shapes) {
    const reply = await client.send(sent)
    expect(reply.headers['cache-status'], name).toContain('hit')
    if (form === 'text') expect(reply.text).toBe('To be, or not')
    else if (form === 'json') {
      const choices = [{ text: 'To be, or not', index: 0, logprobs: null, finish_reason: 'length' }]
      expect(completionOf(reply)).toMatchObject({ id, choices, usage: USAGE })
    } else {
      const stream = streamOf(reply)
      expect(stream).toMatchObject({ done: true, usage: stream.usage && USAGE })
      expect([stream.chunks[0]?.id, stream.text(), stream.finish()]).toEqual([
        id,
        'To be, or not',
        'length',
      ])
    }
  }
}

describe.each(suite.gateways)('%s', (_, start) => {
  test.each(shapes.filter(([, { method }]) => method === 'POST'))(
    'an answer first requested as %s is the same in every shape',
    async (_name, sent) => {
      const { lane, config } = own()
      const gateway = await start(config)
      await gateway.client().send(sent)
      await expect.poll(async () => (await gateway.kvEntries()).size).toBe(1)
      const { id } = completionOf(await gateway.client().complete({ prompt: PROMPT }))
      await expectSame(gateway.client(), id)
      expect(lane.calls).toHaveLength(1)
      expect(await gateway.kvEntries()).toHaveLength(1)
    },
  )

  test('requests that differ do not share an answer', async () => {
    const { lane, config } = own()
    const gateway = await start(config)
    const bodies = [
      { prompt: 'a' },
      { prompt: 'a ' },
      { prompt: 'a', max_tokens: 63 },
      { prompt: 'a', seed: 0 },
      { prompt: 'a', stop: 'x' },
    ]
    const ids = new Set<string>()
    for (const _round of ['miss', 'hit']) {
      for (const body of bodies) ids.add(completionOf(await gateway.client().complete(body)).id)
    }
    expect([ids.size, lane.calls.length]).toEqual([bodies.length, bodies.length])
  })
})

test('another isolate and a restarted Worker find the entry', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'edge-kv-'))
  const { lane, config } = own()
  const start = () => suite.start({ config, persistIn: folder, isolates: 2 })
  const workers = await start()
  const { id } = completionOf(await workers.client().complete({ prompt: PROMPT }))
  await expect.poll(async () => (await workers.kvEntries()).size).toBe(1)
  await expectSame(workers.client(1), id)
  await suite.stop()
  const restarted = await start()
  for (const isolate of [0, 1]) {
    const reply = await restarted.client(isolate).complete({ prompt: PROMPT, stream: true })
    expect(reply.headers['cache-status']).toMatch(/hit; ttl=\d+; detail=kv/)
    expect(streamOf(reply).chunks[0]?.id).toBe(id)
  }
  expect(lane.calls).toHaveLength(1)
  await suite.stop()
  await rm(folder, { recursive: true })
})
