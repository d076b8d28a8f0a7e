// The same request, in any spelling and any shape, makes one upstream call and one stored entry,
// across isolates and restarts; requests that differ in anything relevant never share one.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Completion } from '../../src/completion/completion.ts'
import { completionOf, streamOf } from '../support/answers.ts'
import type { Client, Reply } from '../support/client.ts'
import { pick, type Random, seeded, shuffled } from '../support/random.ts'
import { completionsStream, type Lane, USAGE } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers } from '../support/workerd.ts'

const suite = workerSuite()
let workers: Workers
let client: Client
let lane: Lane
let folder: string

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'edge-kv-'))
  lane = suite.upstream.lane('u')
  lane.calls.length = 0
  lane.answers(completionsStream(['To be', ', or not'], { finish: 'length' }))
  await start()
})

afterEach(async () => {
  await suite.stop()
  await rm(folder, { recursive: true })
})

async function start(): Promise<void> {
  const config = {
    origins: ['https://site.example'],
    models: [
      { id: 'm', upstream: 'u', upstream_model: 'm' },
      { id: 'other', upstream: 'u', upstream_model: 'm2' },
    ],
    upstreams: [
      {
        name: 'u',
        base_url: suite.upstream.url('u'),
        key: 'UPSTREAM_API_KEY',
        wire: 'completions',
      },
    ],
    defaults: { max_tokens: 64 },
    limits: { n: 2 },
  }
  workers = await suite.start({ config, persistIn: folder, isolates: 2 })
  client = workers.client()
}

const PROMPT = 'To be, or not to be: "that" is the\n question \u{1f480}'

/** Equivalent JSON texts of a field's value; undefined: the field is left out. */
const sayings: Record<string, readonly [string | undefined, ...(string | undefined)[]]> = {
  model: [undefined, 'null', '"m"'],
  max_tokens: [undefined, 'null', '64', '64.0', '6.4e1'],
  temperature: [undefined, 'null', '1', '1.0', '10e-1'],
  top_p: [undefined, 'null', '1', '1.00'],
  n: [undefined, 'null', '1', '1e0'],
  best_of: [undefined, 'null', '1'],
  presence_penalty: [undefined, 'null', '0', '-0', '0.0'],
  frequency_penalty: [undefined, 'null', '0', '-0.0'],
  stop: [undefined, 'null', '[]'],
  seed: [undefined, 'null'],
  logprobs: [undefined, 'null'],
  logit_bias: [undefined, 'null', '{}'],
  echo: [undefined, 'null', 'false'],
  suffix: [undefined, 'null', '""'],
  user: [undefined, 'null', '"ada"', '"bob"', '""'],
}

/** A random spelling of the same request. */
function spelling(random: Random): { text: string; stream: boolean } {
  const stream = random() < 0.4
  const prompts = [JSON.stringify(PROMPT), escaped(PROMPT), `[${JSON.stringify(PROMPT)}]`] as const
  const fields: [string, string][] = [['prompt', pick(prompts, random)]]
  if (stream) {
    fields.push(['stream', 'true'])
    if (random() < 0.5) fields.push(['stream_options', '{"include_usage":true}'])
  } else if (random() < 0.5) fields.push(['stream', pick(['false', 'null'], random)])
  for (const [name, texts] of Object.entries(sayings)) {
    const said = pick(texts, random)
    if (said !== undefined) fields.push([name, said])
  }
  const space = () => pick(['', ' ', '\n', '\t \r\n'], random)
  const pairs = shuffled(fields, random).map(
    ([name, value]) => `${space()}"${name}"${space()}:${space()}${value}${space()}`,
  )
  return { text: `${space()}{${pairs.join(',')}}${space()}`, stream }
}

/** Every character as an escape sequence. */
function escaped(text: string): string {
  const units = [...Array(text.length).keys()].map((i) =>
    text.charCodeAt(i).toString(16).padStart(4, '0'),
  )
  return `"\\u${units.join('\\u')}"`
}

/** Makes a miss and waits until its answer is stored. */
async function firstAnswer(body: unknown = { prompt: PROMPT }): Promise<Completion> {
  const reply = await client.complete(body)
  expect(reply.headers['cache-status']).toContain('fwd=miss')
  const completion = completionOf(reply)
  await storedOnce(completion.id)
  return completion
}

/** Waits for the write to KV, which happens after the answer is sent. */
async function storedOnce(id: string): Promise<void> {
  const count = async () =>
    [...(await workers.kvEntries()).values()].filter((value) => value.includes(id)).length
  await expect.poll(count).toBe(1)
}

function expectSame(reply: Reply, stream: boolean, { id, choices, usage }: Completion): void {
  if (!stream) {
    expect(completionOf(reply)).toMatchObject({ id, choices, usage })
    return
  }
  const told = streamOf(reply)
  expect(told.done).toBe(true)
  expect(told.chunks[0]?.id).toBe(id)
  expect([told.text(), told.finish()]).toEqual([choices[0]?.text, choices[0]?.finish_reason])
  if (told.usage !== null) expect(told.usage).toEqual(usage)
}

test('200 spellings of one request make one upstream call and one entry', async () => {
  const random = seeded(20_261_023)
  const first = await firstAnswer()
  const texts = new Set<string>()
  for (let round = 0; round < 10; round++) {
    await Promise.all(
      Array.from({ length: 20 }, async () => {
        const { text, stream } = spelling(random)
        texts.add(text)
        const headers = {
          'content-type': pick(['application/json', 'text/plain;charset=UTF-8'], random),
          authorization: pick([null, 'Bearer sk-other'], random),
          'user-agent': pick(['a', 'b'], random),
        }
        const reply = await client.complete(text, headers)
        expect(reply.headers['cache-status']).toContain('hit')
        expectSame(reply, stream, first)
      }),
    )
  }
  expect(texts.size).toBe(200)
  expect(lane.calls).toHaveLength(1)
  expect(await workers.kvEntries()).toHaveLength(1)
})

test('requests that differ in anything relevant never share an answer', async () => {
  const bodies: Record<string, unknown>[] = [
    { prompt: 'a' },
    { prompt: 'A' },
    { prompt: 'a ' },
    { prompt: ' a' },
    { prompt: 'a\n' },
    { prompt: 'a\u0000' },
    { prompt: '\u00e9' },
    { prompt: 'e\u0301' },
    { prompt: [97] },
    { prompt: ['a', 'b'] },
    { prompt: ['b', 'a'] },
    { prompt: ['ab'] },
    { prompt: ['a,b'] },
    { prompt: '["a","b"]' },
    { prompt: [[1, 2]] },
    { prompt: [[1], [2]] },
    { prompt: 'a', model: 'other' },
    { prompt: 'a', max_tokens: 63 },
    { prompt: 'a', max_tokens: 65 },
    { prompt: 'a', temperature: 0 },
    { prompt: 'a', temperature: 0.999999 },
    { prompt: 'a', top_p: 0 },
    { prompt: 'a', top_p: 0.5 },
    { prompt: 'a', temperature: 0.5 },
    { prompt: 'a', n: 2 },
    { prompt: 'a', best_of: 2 },
    { prompt: 'a', stop: 'x' },
    { prompt: 'a', stop: ['x', 'y'] },
    { prompt: 'a', stop: ['y', 'x'] },
    { prompt: 'a', seed: 0 },
    { prompt: 'a', seed: 1 },
    { prompt: 'a', logprobs: 0 },
    { prompt: 'a', logprobs: 1 },
    { prompt: 'a', echo: true },
    { prompt: 'a', suffix: 'x' },
    { prompt: 'a', presence_penalty: 0.1 },
    { prompt: 'a', frequency_penalty: 0.1 },
    { prompt: 'a', logit_bias: { 1: 1 } },
    { prompt: 'a', logit_bias: { 1: -1 } },
    { prompt: 'a', logit_bias: { 1: 1, 2: 1 } },
  ]
  // Everything that was requested, because an answer with too few choices is an error, and one
  // without log probabilities is not stored.
  lane.answers((call, line) => {
    const { prompt, n, logprobs } = call.body
    const many = Array.isArray(prompt) && typeof prompt[0] !== 'number' ? prompt.length : 1
    const count = many * (typeof n === 'number' ? n : 1)
    const choices = Array.from({ length: count }, (_, index) => ({
      index,
      text: 'x',
      logprobs: logprobs === undefined ? null : { tokens: ['x'], token_logprobs: [-1] },
      finish_reason: 'stop',
    }))
    line.head(200, { 'content-type': 'application/json' })
    line.write(JSON.stringify({ choices, usage: USAGE }))
    line.end()
  })
  const ids = new Set<string>()
  for (const body of bodies) ids.add((await firstAnswer(body)).id)
  expect(ids.size).toBe(bodies.length)
  expect(lane.calls).toHaveLength(bodies.length)
  expect(await workers.kvEntries()).toHaveLength(bodies.length)
  // Each gets its own answer again.
  for (const body of bodies) ids.delete(completionOf(await client.complete(body)).id)
  expect(ids.size).toBe(0)
  expect(lane.calls).toHaveLength(bodies.length)
})

const query = new URLSearchParams({ prompt: PROMPT })

/** Every way to request the same answer. */
const shapes: Record<string, (client: Client) => Promise<[Reply, 'json' | 'sse' | 'text']>> = {
  JSON: async (c) => [await c.complete({ prompt: PROMPT }), 'json'],
  SSE: async (c) => [await c.complete({ prompt: PROMPT, stream: true }), 'sse'],
  'SSE with usage': async (c) => [
    await c.complete({
      prompt: PROMPT,
      stream: true,
      stream_options: { include_usage: true },
    }),
    'sse',
  ],
  text: async (c) => [await c.complete({ prompt: PROMPT }, { accept: 'text/plain' }), 'text'],
  'streamed text': async (c) => [
    await c.complete({ prompt: PROMPT, stream: true }, { accept: 'text/plain' }),
    'text',
  ],
}
const gets: typeof shapes = {
  GET: async (c) => [await c.send({ path: `/v1/completions?${query}` }), 'json'],
  'GET of a stream': async (c) => [
    await c.send({ path: `/v1/completions?${query}&stream=true` }),
    'sse',
  ],
  'GET of text': async (c) => [
    await c.send({ path: `/v1/completions?${query}`, headers: { accept: 'text/plain' } }),
    'text',
  ],
}

test.each(Object.keys(shapes))(
  'an answer first requested as %s is the same in every shape',
  async (name) => {
    await shapes[name]?.(client)
    expect(lane.calls).toHaveLength(1)
    await expect.poll(async () => (await workers.kvEntries()).size).toBe(1)
    const completion = completionOf(await client.complete({ prompt: PROMPT }))
    expect(completion.choices).toEqual([
      { text: 'To be, or not', index: 0, logprobs: null, finish_reason: 'length' },
    ])
    expect(completion.usage).toEqual(USAGE)
    for (const ask of Object.values({ ...shapes, ...gets })) {
      const [reply, form] = await ask(client)
      expect(reply.headers['cache-status']).toContain('hit')
      if (form === 'text') expect(reply.text).toBe(completion.choices[0]?.text)
      else expectSame(reply, form === 'sse', completion)
    }
    expect(lane.calls).toHaveLength(1)
    expect(await workers.kvEntries()).toHaveLength(1)
  },
)

test('another isolate finds the entry', async () => {
  const first = await firstAnswer()
  const reply = await workers.client(1).complete({ prompt: PROMPT })
  expectSame(reply, false, first)
  expect(lane.calls).toHaveLength(1)
})

test('a restarted Worker finds the entry', async () => {
  const first = await firstAnswer()
  await suite.stop()
  await start()
  for (const isolate of [0, 1]) {
    const reply = await workers.client(isolate).complete({ prompt: PROMPT, stream: true })
    expect(reply.headers['cache-status']).toMatch(/hit; ttl=\d+; detail=kv/)
    expectSame(reply, true, first)
  }
  expect(lane.calls).toHaveLength(1)
})
