// Generating an answer: head first, usage last, stored only when complete.
import { expect, test } from 'vitest'
import type { Entry } from '../../src/cache/entry.ts'
import { type Delta, Fold } from '../../src/completion/delta.ts'
import { GatewayError } from '../../src/errors.ts'
import { type GenerateContext, generate, newOutcome, type Work } from '../../src/flight/generate.ts'
import type { EffectiveRequest } from '../../src/request/effective.ts'
import { chunk, DONE, jsonAnswer, START, streamAnswer, upstreamBody } from '../support/app.ts'
import { entryOf } from '../support/flights.ts'
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
  const run = async () => {
    const batches: (readonly Delta[])[] = []
    /** How many answers had been stored when a batch came. */
    const storedBefore: number[] = []
    const code = await generate(
      workOf({ request, requestedAt: START - 123, lifetime, ...work }),
      {
        route: routeContext(connections, { now: () => clock.ms }),
        newId: () => ID,
        recheckKv: null,
        storeCopy: () => {},
        store: (entry) => {
          stored.push(entry)
          return true
        },
        ...context,
      },
      outcome,
      (batch) => {
        batches.push(batch)
        storedBefore.push(stored.length)
      },
    ).then(
      () => null,
      (error: unknown) => (error instanceof GatewayError ? error.code : 'unknown'),
    )
    return { all: batches.flat(), batches, storedBefore, code }
  }
  return { run, stored, asked, outcome, clock }
}

const kinds = (deltas: readonly Delta[]) => deltas.map(({ kind }) => kind)

test('generate() pushes the head first, texts that arrived together at once, and the usage last', async () => {
  const { run } = start({
    a: () => streamAnswer(chunk('a'), chunk('b') + chunk('c'), chunk('', 'length'), DONE),
  })
  const { all, batches, storedBefore } = await run()
  expect(kinds(all)).toEqual(['head', 'text', 'text', 'text', 'finish', 'usage'])
  expect(all[0]).toEqual({ kind: 'head', head: { id: ID, created: NOW_S, model: 'model-1-0001' } })
  // Readers are told of the first batch at once, so it has the first text.
  expect(batches.map(kinds).slice(0, 2)).toEqual([
    ['head', 'text'],
    ['text', 'text'],
  ])
  // Who has the usage, and with it the end, can rely on the answer being stored.
  expect(storedBefore.at(-2)).toBe(0)
  expect(storedBefore.at(-1)).toBe(1)
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

test('generate() estimates a usage that the upstream does not report: four bytes are a token', async () => {
  const fields = { system: 'Be brief', prompts: [[1, 2, 3], 'x'] as EffectiveRequest['prompts'] }
  const respond = () => Response.json({ ...upstreamBody('Hello', 'b'), usage: null })
  const { run } = start({ a: respond }, { fields })
  expect((await run()).all.at(-1)).toEqual({
    kind: 'usage',
    usage: { prompt_tokens: 2 + 3 + 1, completion_tokens: 2, total_tokens: 8 },
    estimated: true,
  })
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
  ['a filtered answer', [choice('a', 'content_filter')]],
  ['an answer with an inferred finish reason', [choice('a', null)]],
  ['an answer with an unrequested choice', [choice('a', 'stop'), choice('b', 'stop', 1)]],
  ['an empty answer', [choice('', 'stop')]],
])('generate() serves and does not store %s', async (_, choices) => {
  const { run, stored, outcome } = start({
    a: () => Response.json({ ...upstreamBody(), choices }),
  })
  const { all, code } = await run()
  expect(code).toBeNull()
  expect(all.at(-1)?.kind).toBe('usage')
  expect(stored).toEqual([])
  expect(outcome).toMatchObject({ stored: false, entry: null })
})

test.each<[string, Answer]>([
  ['cut short in its second choice', () => new Response(chunk('a', 'stop') + chunk('b', null, 1))],
  ['with fewer choices than asked for', () => jsonAnswer('a')],
  ['that failed midway', () => new Response(`${chunk('a')}data: {"error":{"message":"x"}}\n\n`)],
  ['refused', () => new Response('', { status: 400 })],
])('generate() stores nothing of an answer %s', async (_, respond) => {
  const { run, stored, outcome } = start({ a: respond }, { fields: { n: 2 } })
  const { all, code } = await run()
  expect(code).toMatch(/^upstream_/)
  expect(kinds(all)).not.toContain('usage')
  expect(stored).toEqual([])
  expect(outcome).toMatchObject({ stored: false, entry: null, usage: null })
})

test.each([
  ['must not be stored', { work: { lifetime: null } }],
  ['is refused by the store', { context: { store: () => false } }],
])('generate() reports an answer as not stored if it %s', async (_, more) => {
  const { run, outcome, stored } = start({ a: () => jsonAnswer('a') }, more)
  expect((await run()).code).toBeNull()
  expect([outcome.stored, stored]).toEqual([false, []])
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

test.each([
  ['a fresh one is used', 1, false, []],
  ['a stale one is not', 100, false, ['a']],
  ['nor is any if a new answer is forced', 1, true, ['a']],
])('generate() looks in KV before it spends: %s', async (_, afterS, forced, calls) => {
  const kept = await entryOf('kept')
  const { run, asked, outcome, stored, clock } = start(
    { a: () => jsonAnswer('new') },
    { work: { forced }, context: { recheckKv: async () => kept } },
  )
  clock.ms += afterS * 1000
  const { all } = await run()
  expect(kinds(all)).toEqual(['head', 'text', 'finish', 'usage'])
  expect(asked).toEqual(calls)
  expect(outcome).toMatchObject({ found: calls.length === 0, attempts: calls.length })
  expect(stored).toHaveLength(calls.length)
})
