// Generating an answer: head first, usage last, stored only when complete.
import { expect, test } from 'vitest'
import { createEntry, type Entry } from '../../src/cache/entry.ts'
import { type Delta, Fold } from '../../src/completion/delta.ts'
import { GatewayError } from '../../src/errors.ts'
import { type GenerateContext, generate, newOutcome, type Work } from '../../src/flight/generate.ts'
import type { EffectiveRequest } from '../../src/request/effective.ts'
import { chunk, DONE, jsonAnswer, START, streamAnswer, upstreamBody } from '../support/app.ts'
import { connectionTo, effectiveRequest, routeContext, workOf } from '../support/upstreams.ts'

const KEY = `c1:${'0a'.repeat(32)}`
const ID = `cmpl-${'a'.repeat(28)}`
const NOW_S = START / 1000

type Answer = () => Response | Promise<Response>

function start(
  answers: Readonly<Record<string, Answer>>,
  {
    fields = {},
    work = {},
    context = {},
  }: {
    fields?: Partial<EffectiveRequest>
    work?: Partial<Work>
    context?: Partial<GenerateContext>
  } = {},
) {
  const clock = { ms: START }
  const stored: Entry[] = []
  const copies: Entry[] = []
  const asked: string[] = []
  const outcome = newOutcome()
  const connections = Object.entries(answers).map(([name, respond]) =>
    connectionTo(name, async () => {
      asked.push(name)
      return await respond()
    }),
  )
  const request = effectiveRequest({
    prompts: ['Once upon'],
    route: Object.keys(answers).map((upstream) => ({ upstream, upstream_model: 'm' })),
    ...fields,
  })
  const lifetime = { freshSeconds: 3600, staleSeconds: 60 }
  const deltas = generate(
    workOf({ request, requestedAt: START - 123, lifetime, ...work }),
    {
      route: routeContext(connections, { now: () => clock.ms }),
      newId: () => ID,
      recheckKv: null,
      storeCopy: (entry) => copies.push(entry),
      store: (entry) => {
        stored.push(entry)
        return true
      },
      ...context,
    },
    outcome,
  )
  const run = async () => {
    const all: Delta[] = []
    let code: string | null = null
    try {
      for await (const batch of deltas) all.push(...batch)
    } catch (error) {
      code = error instanceof GatewayError ? error.code : 'unknown'
    }
    return { all, code }
  }
  return { run, deltas, stored, copies, asked, outcome, clock }
}

const kinds = (deltas: readonly Delta[]) => deltas.map(({ kind }) => kind)

test('generate() yields the head once and first, the usage once and last', async () => {
  const { run } = start({
    a: () => streamAnswer(chunk('a'), chunk('b') + chunk('c'), chunk('', 'length'), DONE),
  })
  const { all } = await run()
  expect(kinds(all)).toEqual(['head', 'text', 'text', 'text', 'finish', 'usage'])
  expect(all[0]).toEqual({ kind: 'head', head: { id: ID, created: NOW_S, model: 'model-1-0001' } })
})

test('generate() yields deltas that arrived together in one batch', async () => {
  const { deltas } = start({
    a: () => streamAnswer(chunk('a'), chunk('b') + chunk('c'), chunk('', 'stop') + DONE),
  })
  const batches: string[][] = []
  for await (const batch of deltas) batches.push(kinds(batch))
  expect(batches.slice(0, 2)).toEqual([
    ['head', 'text'],
    ['text', 'text'],
  ])
})

test('generate() creates the id and passes on the fingerprint, if there is one', async () => {
  const body = { ...upstreamBody('Hello'), system_fingerprint: 'fp_1' }
  const { all } = await start({ a: () => Response.json(body) }).run()
  expect(all[0]).toMatchObject({ head: { id: ID, system_fingerprint: 'fp_1' } })
  const without = await start({
    a: () => Response.json({ ...body, system_fingerprint: null }),
  }).run()
  expect(without.all[0]).not.toHaveProperty('head.system_fingerprint')
})

test('generate() passes on the upstream’s usage unchanged', async () => {
  const usage = { prompt_tokens: 3, completion_tokens: 4, total_tokens: 99 }
  const { run, outcome } = start({
    a: () => Response.json({ ...upstreamBody('Hello'), usage }),
  })
  expect((await run()).all.at(-1)).toEqual({ kind: 'usage', usage, estimated: false })
  expect(outcome.usage).toEqual(usage)
})

test.each([
  ['none', undefined],
  ['zeros', { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 }],
  ['a negative count', { prompt_tokens: -1, completion_tokens: 4, total_tokens: 3 }],
  ['only a part', { prompt_tokens: 3 }],
  ['fractions', { prompt_tokens: 1.5, completion_tokens: 1, total_tokens: 2.5 }],
  ['no tokens for a text', { prompt_tokens: 3, completion_tokens: 0, total_tokens: 3 }],
])('generate() estimates the usage if the upstream reports %s', async (_, usage) => {
  const { run } = start({ a: () => Response.json({ ...upstreamBody('Hello'), usage }) })
  // Four bytes per token: "Once upon" is 3, "Hello" is 2.
  expect((await run()).all.at(-1)).toEqual({
    kind: 'usage',
    usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 },
    estimated: true,
  })
})

test('generate() estimates system messages and token prompts, too', async () => {
  const fields = { system: 'Be brief', prompts: [[1, 2, 3], 'x'] as EffectiveRequest['prompts'] }
  const { run } = start(
    { a: () => Response.json({ ...upstreamBody('a', 'b'), usage: null }) },
    { fields },
  )
  expect((await run()).all.at(-1)).toMatchObject({ usage: { prompt_tokens: 6 } })
})

test('generate() stores a complete answer once, with its times', async () => {
  const { run, stored, outcome } = start({ a: () => jsonAnswer('Hello') })
  const { all } = await run()
  const fold = new Fold()
  for (const delta of all) fold.add(delta)
  expect(stored).toEqual([
    {
      schema: 2,
      key: KEY,
      names: ['model:default'],
      requested_at: START - 123,
      confirmed_at: START - 123,
      source: null,
      fresh_until: NOW_S + 3600,
      stale_until: NOW_S + 3660,
      estimated: false,
      completion: fold.folded()?.completion,
    },
  ])
  expect(outcome).toMatchObject({ stored: true, found: false, attempts: 1, upstream: 'a' })
})

test('generate() counts the times of an entry from the start of the call', async () => {
  const app = start({
    a: () => {
      app.clock.ms += 50_000
      return jsonAnswer('Hello')
    },
  })
  await app.run()
  expect(app.stored[0]).toMatchObject({ requested_at: START - 123, fresh_until: NOW_S + 3600 })
})

const choice = (text: string, finish_reason: unknown, index = 0) => ({ text, index, finish_reason })

test.each([
  [
    'a filtered answer',
    () => Response.json({ ...upstreamBody(), choices: [choice('a', 'content_filter')] }),
  ],
  [
    'an answer with a null finish reason',
    () => Response.json({ ...upstreamBody(), choices: [choice('a', null)] }),
  ],
  [
    'an answer without a finish reason',
    () => Response.json({ ...upstreamBody(), choices: [{ text: 'a', index: 0 }] }),
  ],
  ['an empty answer', () => Response.json({ ...upstreamBody(), choices: [choice('', 'stop')] })],
] as [string, Answer][])('generate() serves and does not store %s', async (_, respond) => {
  const { run, stored, outcome } = start({ a: respond })
  const { all, code } = await run()
  expect(code).toBeNull()
  expect(all.at(-1)?.kind).toBe('usage')
  expect(stored).toEqual([])
  expect(outcome).toMatchObject({ stored: false, entry: null })
})

test.each([
  ['cut short', () => new Response(chunk('a'))],
  [
    'cut short in its second choice',
    () => new Response(chunk('a', 'stop', 0) + chunk('b', null, 1)),
  ],
  ['that failed midway', () => new Response(`${chunk('a')}data: {"error":{"message":"x"}}\n\n`)],
  [
    'ended by an error',
    () => Response.json({ ...upstreamBody(), choices: [choice('a', 'error')] }),
  ],
  ['aborted upstream', () => Response.json({ ...upstreamBody(), choices: [choice('a', 'abort')] })],
  ['with fewer choices than asked for', () => jsonAnswer('a')],
  ['refused', () => new Response('', { status: 400 })],
] as [string, Answer][])('generate() stores nothing of an answer %s', async (name, respond) => {
  const n = name.includes('choice') ? 2 : 1
  const { run, stored, outcome } = start({ a: respond }, { fields: { n } })
  const { all, code } = await run()
  expect(code).not.toBeNull()
  expect(kinds(all)).not.toContain('usage')
  expect(stored).toEqual([])
  expect(outcome).toMatchObject({ stored: false, entry: null, usage: null })
})

test('generate() stores a stream that ended with [DONE] but without a finish reason', async () => {
  const { run, stored } = start({ a: () => streamAnswer(chunk('a'), DONE) })
  expect((await run()).all.at(-2)).toEqual({ kind: 'finish', index: 0, reason: 'stop' })
  expect(stored).toHaveLength(1)
})

test('generate() drops an unrequested choice and does not store the answer', async () => {
  const { run, stored } = start({ a: () => jsonAnswer('a', 'b', 'c') }, { fields: { n: 2 } })
  const { all } = await run()
  const texts = all.flatMap((delta) => (delta.kind === 'text' ? [[delta.index, delta.text]] : []))
  expect(texts).toEqual([
    [0, 'a'],
    [1, 'b'],
  ])
  expect(stored).toEqual([])
})

test('generate() stores nothing if the answer must not be stored', async () => {
  const { run, stored, outcome } = start({ a: () => jsonAnswer('a') }, { work: { lifetime: null } })
  expect((await run()).code).toBeNull()
  expect(stored).toEqual([])
  expect(outcome.stored).toBe(false)
})

test('generate() reports an answer as not stored if the store refuses it', async () => {
  const { run, outcome } = start({ a: () => jsonAnswer('a') }, { context: { store: () => false } })
  await run()
  expect(outcome.stored).toBe(false)
})

test.each([
  [3600, 300],
  [100, 100],
])(
  'generate() with a TTL of %i s keeps a fallback’s answer fresh for %i s',
  async (freshSeconds, fresh) => {
    const { run, stored } = start(
      { a: () => new Response('', { status: 500 }), b: () => jsonAnswer('a') },
      { work: { lifetime: { freshSeconds, staleSeconds: 60 } } },
    )
    await run()
    expect(stored[0]?.fresh_until).toBe(NOW_S + fresh)
  },
)

test('generate() reads KV once more before it spends, and uses a fresh entry', async () => {
  const folded = new Fold()
  for (const delta of (await start({ a: () => jsonAnswer('Hello') }).run()).all) folded.add(delta)
  const found = folded.folded()
  if (found === null) throw new TypeError('no answer')
  const entryFor = (freshSeconds: number) =>
    createEntry(
      found,
      { key: KEY, names: [], source: null },
      { requestedAt: START, nowS: NOW_S, freshSeconds, staleSeconds: 99 },
    )
  const again = start(
    { a: () => jsonAnswer('new') },
    { context: { recheckKv: async () => entryFor(10) } },
  )
  expect(kinds((await again.run()).all)).toEqual(['head', 'text', 'finish', 'usage'])
  expect(again.asked).toEqual([])
  expect(again.outcome).toMatchObject({ found: true, attempts: 0 })
  const stale = start(
    { a: () => jsonAnswer('new') },
    { context: { recheckKv: async () => entryFor(0) } },
  )
  await stale.run()
  expect(stale.asked).toEqual(['a'])
  const forced = start(
    { a: () => jsonAnswer('new') },
    { work: { forced: true }, context: { recheckKv: async () => entryFor(10) } },
  )
  await forced.run()
  expect(forced.asked).toEqual(['a'])
  expect(forced.stored).toHaveLength(1)
})
