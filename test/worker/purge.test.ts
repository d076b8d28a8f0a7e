// Purges with several isolates that share KV and objects, in workerd: immediate in the isolate of
// the purge, soon in all others, and no earlier answer comes back. What a purge covers is in
// test/cache/transcript.test.ts.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { completionOf, parseStream } from '../support/answers.ts'
import { OPERATOR_TOKEN } from '../support/client.ts'
import { Lanes } from '../support/lanes.ts'
import { completionsStream, latch } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { Workers } from '../support/workerd.ts'

const operator = { authorization: `Bearer ${OPERATOR_TOKEN}` }

const suite = workerSuite()
const lanes = new Lanes(suite, { legacy: { wire: 'completions', retries: 0 } }, 12)

async function start(cache: object = {}, persistIn?: string): Promise<Workers> {
  return await suite.start({
    isolates: 3,
    config: lanes.config({
      cache: { ...cache },
    }),
    ...(persistIn === undefined ? {} : { persistIn }),
  })
}

async function purge(workers: Workers, isolate: number, body: unknown): Promise<void> {
  const sent = { method: 'POST', path: '/admin/purge', headers: operator, body }
  const reply = await workers.client(isolate).send(sent)
  expect([reply.status, reply.text]).toEqual([200, expect.stringContaining('purged')])
  expect(reply.headers['cache-control']).toBe('no-store')
}

async function ask(workers: Workers, isolate: number, body: object): Promise<string> {
  return completionOf(await workers.client(isolate).complete(body)).choices[0]?.text ?? ''
}

const untilStored = (workers: Workers, text: string) =>
  expect
    .poll(async () => [...(await workers.kvEntries()).values()].some((v) => v.includes(text)))
    .toBe(true)

/** The objects run in the first isolate. */
test.each([0, 2])(
  'a purge takes effect immediately in isolate %i, which runs it',
  async (isolate) => {
    const workers = await start()
    const { model, lane } = lanes.take('legacy')
    const targets = [
      { all: true },
      { request: { prompt: 'p', model, stream: true, user: 'somebody' } },
      { model },
    ]
    lane.answers(completionsStream(['before']))
    expect(await ask(workers, isolate, { prompt: 'p', model })).toBe('before')
    await untilStored(workers, 'before')
    for (const [i, target] of targets.entries()) {
      await purge(workers, isolate, target)
      const get = { path: `/v1/completions?prompt=p&model=${model}` }
      expect((await workers.client(isolate).send(get)).status).toBe(404)
      // The flight's isolate has not read the list again, and would serve its own copy unless told.
      lane.answers(completionsStream([`after ${i}`]))
      expect(await ask(workers, isolate, { prompt: 'p', model })).toBe(`after ${i}`)
      // To the millisecond: a request after the purge is stored, even in the same second.
      await untilStored(workers, `after ${i}`)
      expect((await workers.client(isolate).send(get)).status).toBe(200)
    }
    expect(lane.calls).toHaveLength(1 + targets.length)
  },
)

test('with requests in flight, answers requested before a purge are dropped and later ones are stored', async () => {
  const workers = await start()
  const { model, lane } = lanes.take('legacy')
  const body = { prompt: 'p', model }
  for (let round = 0; round < 5; round++) {
    const released = latch()
    lane.answers(completionsStream([`old ${round} `, 'words'], { pace: () => released.opened }))
    const reader = await workers.client().open({ method: 'POST', body: { ...body, stream: true } })
    await reader.until(`"text":"old ${round} "`)
    await purge(workers, 0, { model })
    lane.answers(completionsStream([`new ${round}`]))
    const after = ask(workers, 0, body)
    expect(await after).toBe(`new ${round}`)
    released.open()
    expect(parseStream(await reader.rest()).text()).toBe(`old ${round} words`)
    await untilStored(workers, `"new ${round}"`)
    expect(await ask(workers, 0, body)).toBe(`new ${round}`)
    const values = [...(await workers.kvEntries()).values()]
    expect(values.filter((value) => value.includes(`old ${round}`))).toEqual([])
    await purge(workers, 0, { request: body })
  }
  expect(lane.calls).toHaveLength(10)
})

test('twenty purges at once from three isolates all take effect, also in an isolate that starts later', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'edge-purge-'))
  try {
    const before = await start({}, folder)
    const { model, lane } = lanes.take('legacy')
    lane.answers(completionsStream(['old']))
    const prompts = Array.from({ length: 20 }, (_, i) => `p${i}`)
    await Promise.all(prompts.map((prompt, i) => ask(before, i % 3, { prompt, model })))
    await expect.poll(async () => (await before.kvEntries()).size).toBe(20)
    await Promise.all(
      prompts.map((prompt, i) => purge(before, i % 3, { request: { prompt, model } })),
    )
    await suite.stop()
    const later = await start({}, folder)
    for (const [i, prompt] of prompts.entries()) {
      const get = { path: `/v1/completions?prompt=${prompt}&model=${model}` }
      expect((await later.client(i % 3).send(get)).status).toBe(404)
    }
  } finally {
    await suite.stop()
    await rm(folder, { recursive: true })
  }
})

test('a purge reaches every isolate within the interval, in memory and in every cache tier', async () => {
  const workers = await start({ memory_seconds: 1 })
  const { model, lane } = lanes.take('legacy')
  lane.answers(completionsStream(['old']))
  for (const isolate of [0, 1, 2])
    expect(await ask(workers, isolate, { prompt: 'p', model })).toBe('old')
  await untilStored(workers, '"old"')
  await purge(workers, 2, { model })
  lane.answers(completionsStream(['new']))
  const texts = async () =>
    await Promise.all([0, 1, 2].map((isolate) => ask(workers, isolate, { prompt: 'p', model })))
  await expect.poll(texts).toEqual(['new', 'new', 'new'])
  expect(lane.calls).toHaveLength(2)
})
