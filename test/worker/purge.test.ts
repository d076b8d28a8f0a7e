// Purged over several isolates that share KV and objects, in workerd: at once where it was done,
// everywhere soon, and nothing begun before it comes back.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { completionOf, parseStream } from '../support/answers.ts'
import { CANARY } from '../support/canary.ts'
import { Lanes } from '../support/lanes.ts'
import { completionsStream, gate, UpstreamServer } from '../support/upstream-server.ts'
import { startWorkers, type Workers } from '../support/workerd.ts'

const OPERATOR_TOKEN = 'the-operator-token-of-the-tests'
const operator = { authorization: `Bearer ${OPERATOR_TOKEN}` }

let upstream: UpstreamServer
let lanes: Lanes<'legacy'>
const started: Workers[] = []

beforeAll(async () => {
  upstream = await UpstreamServer.start()
  lanes = new Lanes(upstream, { legacy: { wire: 'completions', retries: 0 } }, 12)
})

afterEach(async () => {
  for (const { log } of started) expect(log.takeStrays()).toEqual([])
  await Promise.all(started.splice(0).map((workers) => workers.dispose()))
})

afterAll(() => upstream.stop())

async function start(cache: object = {}, persistIn?: string): Promise<Workers> {
  const workers = await startWorkers({
    isolates: 3,
    secrets: { UPSTREAM_API_KEY: CANARY, OPERATOR_TOKEN },
    config: lanes.config({
      cache: { ...cache },
      free_prompts: true,
      prompts: { haiku: { text: 'A haiku', model: 'legacy-0' } },
    }),
    ...(persistIn === undefined ? {} : { persistIn }),
  })
  started.push(workers)
  return workers
}

async function purge(workers: Workers, isolate: number, body: unknown): Promise<void> {
  const sent = { method: 'POST', path: '/admin/purge', headers: operator, body }
  const reply = await workers.client(isolate).send(sent)
  expect([reply.status, reply.text]).toEqual([200, expect.stringContaining('purged')])
  expect(reply.headers['cache-control']).toBe('no-store')
}

/** Purges count whole seconds, and what began in the same one is void. */
async function nextSecond(): Promise<void> {
  const now = Math.floor(Date.now() / 1000)
  await expect
    .poll(() => Math.floor(Date.now() / 1000), { interval: 20, timeout: 3000 })
    .toBeGreaterThan(now)
}

async function ask(workers: Workers, isolate: number, body: object): Promise<string> {
  return completionOf(await workers.client(isolate).complete(body)).choices[0]?.text ?? ''
}

const stored = (workers: Workers, text: string) =>
  expect
    .poll(async () => [...(await workers.kvEntries()).values()].some((v) => v.includes(text)))
    .toBe(true)

/** The objects live in the first one; the others only ask. */
test.each([0, 2])('a purge counts at once in isolate %i, which does it', async (isolate) => {
  const workers = await start()
  const { model, lane } = lanes.take('legacy')
  const targets = [
    { all: true },
    { request: { prompt: 'p', model, stream: true, user: 'somebody' } },
    { model },
  ]
  for (const [i, target] of targets.entries()) {
    lane.answers(completionsStream([`answer ${i}`]))
    expect(await ask(workers, isolate, { prompt: 'p', model })).toBe(`answer ${i}`)
    await stored(workers, `answer ${i}`)
    await nextSecond()
    await purge(workers, isolate, target)
    const get = { path: `/v1/completions?prompt=p&model=${model}` }
    expect((await workers.client(isolate).send(get)).status).toBe(404)
    // The flight's isolate has not read the list again; it must be told, or it would serve its own.
    lane.answers(completionsStream([`after ${i}`]))
    expect(await ask(workers, isolate, { prompt: 'p', model })).toBe(`after ${i}`)
    await nextSecond()
  }
})

test('a locked prompt’s id; what is of no concern stays', async () => {
  const workers = await start()
  const haiku = { prompt: { id: 'haiku' } }
  upstream.lane('legacy-0').answers(completionsStream(['first']))
  const free = { prompt: 'A haiku', model: 'legacy-0', max_tokens: 7 }
  expect(await ask(workers, 1, haiku)).toBe('first')
  expect(await ask(workers, 1, free)).toBe('first')
  await nextSecond()
  await purge(workers, 1, { prompt_id: 'haiku' })
  await nextSecond()
  upstream.lane('legacy-0').answers(completionsStream(['second']))
  expect(await ask(workers, 1, haiku)).toBe('second')
  expect(await ask(workers, 1, free)).toBe('first')
})

test('everywhere within the interval: no isolate’s memory and no tier brings it back', async () => {
  const workers = await start({ memory_seconds: 1 })
  const { model, lane } = lanes.take('legacy')
  lane.answers(completionsStream(['old']))
  for (const isolate of [0, 1, 2])
    expect(await ask(workers, isolate, { prompt: 'p', model })).toBe('old')
  await stored(workers, '"old"')
  await nextSecond()
  await purge(workers, 2, { model })
  await nextSecond()
  lane.answers(completionsStream(['new']))
  const texts = async () =>
    await Promise.all([0, 1, 2].map((isolate) => ask(workers, isolate, { prompt: 'p', model })))
  await expect.poll(texts, { timeout: 8000 }).toEqual(['new', 'new', 'new'])
  expect(lane.calls).toHaveLength(2)
})

test('an isolate that begins later serves nothing that was purged before it', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'edge-purge-'))
  try {
    const before = await start({}, folder)
    const { model, lane } = lanes.take('legacy')
    lane.answers(completionsStream(['old']))
    await ask(before, 0, { prompt: 'p', model })
    await stored(before, '"old"')
    await nextSecond()
    await purge(before, 0, { model })
    await started.pop()?.dispose()
    const after = await start({}, folder)
    lane.answers(completionsStream(['new']))
    const get = { path: `/v1/completions?prompt=p&model=${model}` }
    expect((await after.client(1).send(get)).status).toBe(404)
    await nextSecond()
    expect(await ask(after, 2, { prompt: 'p', model })).toBe('new')
  } finally {
    await Promise.all(started.splice(0).map((workers) => workers.dispose()))
    await rm(folder, { recursive: true })
  }
})

test('during a flight: those aboard get it, nobody after them, and it is not served later', async () => {
  const workers = await start()
  const { model, lane } = lanes.take('legacy')
  const rest = gate()
  lane.answers(completionsStream(['old ', 'words'], { pace: () => rest.opened }))
  const body = { prompt: 'p', model }
  const aboard = await workers.client(1).open({ method: 'POST', body: { ...body, stream: true } })
  await aboard.until('"text":"old "')
  await nextSecond()
  await purge(workers, 1, { request: body })
  await nextSecond()
  lane.answers(completionsStream(['new']))
  expect(await ask(workers, 1, body)).toBe('new')
  rest.open()
  expect(parseStream(await aboard.rest()).text()).toBe('old words')
  expect(await ask(workers, 1, body)).toBe('new')
  expect(lane.calls).toHaveLength(2)
})

test('in the very second of a purge many visitors are still one upstream call', async () => {
  const workers = await start()
  const { model, lane } = lanes.take('legacy')
  const said = gate()
  lane.answers(async (call, line) => {
    await said.opened
    await completionsStream(['one'])(call, line)
  })
  await nextSecond()
  await purge(workers, 1, { all: true })
  const asked = Array.from({ length: 30 }, () => ask(workers, 1, { prompt: 'p', model }))
  await lane.call()
  said.open()
  expect(new Set(await Promise.all(asked))).toEqual(new Set(['one']))
  expect(lane.calls.length).toBeLessThanOrEqual(2)
})
