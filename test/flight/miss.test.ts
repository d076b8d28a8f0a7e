// The flights of one key: who joins which, the effect of purges and of the operator's no-cache, and
// results that followers do not share. generate.test.ts covers the generation itself.
import { describe, expect, test } from 'vitest'
import type { Entry } from '../../src/cache/entry.ts'
import type { Reader } from '../../src/completion/encode.ts'
import { GatewayError } from '../../src/errors.ts'
import { KeyFlights, type MissAnswer, type SharedWork } from '../../src/flight/flights.ts'
import { chunk, DONE, jsonAnswer, openStream, START, streamAnswer } from '../support/app.ts'
import { missSetup, untilIdle, work } from '../support/flights.ts'

const json: Reader = { shape: { as: 'json', stream: false, includeUsage: false }, resume: null }
const sse: Reader = { shape: { as: 'sse', stream: true, includeUsage: false }, resume: null }

const workOf = (more: Partial<SharedWork> = {}): SharedWork => ({
  ...work,
  purgedAt: 0,
  presence: null,
  ...more,
})

/** The flights of one key over a scripted upstream. */
function start(
  respond: (call: number) => Response | Promise<Response> = () => jsonAnswer('Hello'),
) {
  const world = missSetup(respond)
  const flights = new KeyFlights(world.context)
  const join = (more: Partial<SharedWork> = {}, reader = json, left = new AbortController()) =>
    flights.join(workOf(more), reader, left)
  return { ...world, flights, join }
}

function said(answer: MissAnswer | undefined): string {
  if (answer?.kind === 'whole') return `${answer.role}: ${answer.completion.choices[0]?.text}`
  return answer?.kind === 'problem' ? answer.problem.code : (answer?.kind ?? 'nothing')
}

const textIn = async (answer: MissAnswer) =>
  answer.kind === 'stream' ? await new Response(answer.body).text() : said(answer)

test('the first reader leads, later ones follow, and those after the end are late: one load', async () => {
  const upstream = openStream()
  const { join, state, stored } = start(() => upstream.response())
  const readers = [join(), join(), join({}, sse)]
  await untilIdle()
  upstream.push(chunk('Hel'))
  await untilIdle()
  readers.push(join())
  upstream.push(chunk('lo', 'stop') + DONE)
  upstream.end()
  const answers = await Promise.all(readers)
  expect(answers.map(said)).toEqual([
    'leader: Hello',
    'follower: Hello',
    'stream',
    'follower: Hello',
  ])
  expect(answers[2]).toMatchObject({ role: 'follower' })
  expect(await textIn(answers[2] as MissAnswer)).toContain('data: [DONE]')
  expect(said(await join())).toBe('late: Hello')
  expect([state.calls, state.looks, stored.length]).toEqual([1, 1, 1])
})

test('an answer is given to late readers only while it is fresh', async () => {
  const { join, clock, state } = start()
  await join()
  clock.ms += 99_000
  expect(said(await join())).toBe('late: Hello')
  clock.ms += 1000
  expect(said(await join())).toBe('leader: Hello')
  expect(state.calls).toBe(2)
})

test('a failure is not given to later readers: the next one starts a new load', async () => {
  const { join, state } = start((call) =>
    call === 0 ? new Response('', { status: 500 }) : jsonAnswer('ok'),
  )
  expect((await Promise.all([join(), join(), join()])).map(said)).toEqual(
    Array(3).fill('upstream_unavailable'),
  )
  expect(state.calls).toBe(1)
  expect(said(await join())).toBe('leader: ok')
})

test('an answer found in KV before the call is returned without calling an upstream', async () => {
  const { join, state } = start()
  await join()
  const other = start()
  other.state.kept = await entryOf(join)
  expect(said(await other.join())).toBe('found: Hello')
  expect([state.calls, other.state.calls]).toEqual([1, 0])
})

async function entryOf(join: () => Promise<MissAnswer>): Promise<Entry> {
  const answer = await join()
  if (answer.kind !== 'whole' || answer.entry === null) throw new TypeError('no entry')
  return answer.entry
}

test.each([
  ['known to the flight', true],
  ['known to the calling isolate only', false],
])('after a purge %s a reader gets a new load, no earlier answer', async (_, known) => {
  const { join, state, clock } = start()
  const entry = await entryOf(join)
  state.kept = entry
  clock.ms += 5000
  if (known) state.purgedAt = START + 1
  const purgedAt = known ? 0 : START + 1
  const requestedAt = START + 2
  expect(said(await join({ purgedAt, requestedAt }))).toBe('leader: Hello')
  expect(state.calls).toBe(2)
  expect(said(await join({ purgedAt, requestedAt }))).toBe('late: Hello')
})

test('a request a millisecond after a purge does not join a load from before it', async () => {
  const upstream = openStream()
  const { join, state, stored } = start((call) =>
    call === 0 ? upstream.response() : jsonAnswer('new'),
  )
  const before = join()
  await untilIdle()
  state.purgedAt = START
  const after = { requestedAt: START + 1 }
  expect(said(await join(after))).toBe('leader: new')
  upstream.push(chunk('old', 'stop') + DONE)
  upstream.end()
  expect(said(await before)).toBe('leader: old')
  // And the old answer does not come back when its load ends.
  expect(said(await join(after))).toBe('late: new')
  expect(stored.map(({ completion }) => completion.choices[0]?.text)).toEqual(['new', 'old'])
})

test('a request from before a purge that arrives after it joins a load, which is not stored', async () => {
  const upstream = openStream()
  const { join, state, stored } = start(() => upstream.response())
  state.purgedAt = START
  const readers = [join(), join({ purgedAt: START }), join()]
  await untilIdle()
  upstream.push(chunk('one', 'stop') + DONE)
  upstream.end()
  expect((await Promise.all(readers)).map(said)).toEqual([
    'leader: one',
    'follower: one',
    'follower: one',
  ])
  expect([state.calls, stored.length]).toEqual([1, 0])
})

describe('a last answer', () => {
  const source = (recipe: string) => ({ recipe, pages: [] })
  const pageA = { storedUnder: 'l1:a', source: source('c1:a'), names: ['page:a'] }
  const pageB = { storedUnder: 'l1:b', source: source('c1:b'), names: ['page:b'] }

  test('to two pages with the same text is one load, stored for both', async () => {
    const upstream = openStream()
    const { join, stored, copies, state } = start(() => upstream.response())
    const readers = [join(pageA), join(pageB), join(pageB, sse)]
    await untilIdle()
    upstream.push(chunk('Hello', 'stop') + DONE)
    upstream.end()
    const [leader, follower] = await Promise.all(readers)
    expect([said(leader), said(follower)]).toEqual(['leader: Hello', 'follower: Hello'])
    await untilIdle()
    expect(state.calls).toBe(1)
    expect(stored.map(({ key, names }) => [key, names])).toEqual([['l1:a', ['page:a']]])
    const copy = {
      ...stored[0],
      key: 'l1:b',
      names: ['page:b'],
      source: { key: work.key, ...pageB.source },
    }
    expect(copies).toEqual([copy, copy])
    expect(follower).toMatchObject({ entry: copy })
    const late = await join({ ...pageB, requestedAt: START + 5 })
    const later = { ...copy, confirmed_at: START + 5 }
    expect(late).toMatchObject({ role: 'late', entry: later })
    expect(copies.at(-1)).toEqual(later)
  })

  test('that was purged for one page is still served for the other', async () => {
    const { join, state } = start((call) => jsonAnswer(`answer ${call}`))
    await join(pageA)
    const after = { purgedAt: START, requestedAt: START + 1 }
    expect(said(await join({ ...pageB, requestedAt: START + 1 }))).toBe('late: answer 0')
    expect(said(await join({ ...pageA, ...after }))).toBe('leader: answer 1')
    expect(state.calls).toBe(2)
  })

  test('that KV has under another key is copied to the key of the request', async () => {
    const { join } = start()
    const other = start()
    other.state.kept = await entryOf(join)
    expect(said(await other.join(pageA))).toBe('found: Hello')
    expect(other.copies.map(({ key }) => key)).toEqual(['l1:a'])
    expect(other.stored).toEqual([])
  })
})

test('a forced request ignores answers in memory and in KV', async () => {
  const { join, state } = start((call) => jsonAnswer(`answer ${call}`))
  state.kept = await entryOf(join)
  expect(said(await join({ forced: true }))).toBe('leader: answer 1')
  expect(said(await join())).toBe('late: answer 1')
})

test('a forced request joins a running load, but does not accept an answer from KV', async () => {
  const { join, state } = start((call) => jsonAnswer(`answer ${call}`))
  state.kept = await entryOf(join)
  state.purgedAt = 0
  const other = start(() => jsonAnswer('new'))
  other.state.kept = state.kept
  const both = await Promise.all([other.join(), other.join({ forced: true })])
  expect(both.map(said)).toEqual(['found: answer 0', 'leader: new'])
  const upstream = openStream()
  const third = start(() => upstream.response())
  const joined = [third.join(), third.join({ forced: true })]
  await untilIdle()
  upstream.push(chunk('under way', 'stop') + DONE)
  upstream.end()
  expect((await Promise.all(joined)).map(said)).toEqual([
    'leader: under way',
    'follower: under way',
  ])
})

test('an answer that is not stored is not looked up in KV and not given to late readers', async () => {
  const { join, state, stored } = start()
  const first = await entryOf(join)
  const other = start()
  other.state.kept = first
  expect(said(await other.join({ lifetime: null }))).toBe('leader: Hello')
  expect(said(await other.join({ lifetime: null }))).toBe('leader: Hello')
  expect([other.state.looks, other.state.calls, other.stored.length]).toEqual([0, 2, 0])
  expect([state.calls, stored.length]).toEqual([1, 1])
})

const refused = (policy: string, code: 'budget_exhausted' | 'too_many_streams') =>
  new GatewayError(code, 'Cannot ask', {
    retryAfterSeconds: 10,
    rateLimit: { policy, quota: 1, remaining: 0, resetSeconds: 10, windowSeconds: null },
  })

test.each([
  ['visitor', 'budget_exhausted'],
  ['streams', 'too_many_streams'],
] as const)('a leader’s own limit (%s) is not its followers’', async (policy, code) => {
  const { join, state } = start()
  state.reserve = async (visitor) => {
    if (visitor === 'h:greedy') throw refused(policy, code)
  }
  const answers = await Promise.all([
    join({ visitor: 'h:greedy' }),
    join({ visitor: 'h:greedy' }),
    join({ visitor: 'h:bob' }),
    join({ visitor: 'h:eve' }),
    join({ visitor: null }),
  ])
  expect(answers.map(said)).toEqual([
    code,
    code,
    'leader: Hello',
    'follower: Hello',
    'follower: Hello',
  ])
  expect(state.calls).toBe(1)
})

test('an exhausted daily budget is shared by all followers: nobody retries', async () => {
  const { join, state } = start()
  let reserved = 0
  state.reserve = async () => {
    reserved += 1
    throw refused('day', 'budget_exhausted')
  }
  const answers = await Promise.all(['h:a', 'h:b', 'h:c'].map((visitor) => join({ visitor })))
  expect(answers.map(said)).toEqual(Array(3).fill('budget_exhausted'))
  expect(reserved).toBe(1)
})

test('a reader joins at most three flights whose leaders are out of budget', async () => {
  const { join, state } = start()
  let reserved = 0
  state.reserve = async () => {
    reserved += 1
    throw refused('visitor', 'budget_exhausted')
  }
  const visitors = Array.from({ length: 30 }, (_, i) => `h:${i}`)
  const answers = await Promise.all(visitors.map((visitor) => join({ visitor })))
  expect(new Set(answers.map(said))).toEqual(new Set(['budget_exhausted']))
  expect(reserved).toBe(3)
})

test('a load whose answer is stored is finished after all readers have left', async () => {
  const upstream = openStream()
  const { join, stored } = start(() => upstream.response())
  const answer = await streaming(join, upstream)
  await answer.cancel()
  upstream.push(chunk('lo', 'stop') + DONE)
  upstream.end()
  await untilIdle()
  expect(stored.map(({ completion }) => completion.choices[0]?.text)).toEqual(['Hello'])
  expect(upstream.state.cancelled).toBe(0)
})

test('a load whose answer is not stored is aborted after all readers have left', async () => {
  const upstream = openStream()
  const { join, stored, events } = start((call) =>
    call === 0 ? upstream.response() : jsonAnswer('new'),
  )
  const answer = await streaming(() => join({ lifetime: null }, sse), upstream)
  await answer.cancel()
  // Joining a flight that is being aborted would be a failure.
  expect(said(await join({ lifetime: null }))).toBe('leader: new')
  await upstream.left
  expect([stored, events.filter(({ event }) => event === 'internal')]).toEqual([[], []])
})

test('abandon = "stop": a load is cancelled when its last reader leaves, even if its answer is stored', async () => {
  const upstream = openStream()
  const { join, stored, state, events } = start((call) =>
    call === 0 ? upstream.response() : jsonAnswer('new'),
  )
  const leader = await streaming(() => join({ abandon: 'stop' }, sse), upstream)
  const follower = await streaming(() => join({ abandon: 'stop' }, sse), upstream)
  await leader.cancel()
  await untilIdle()
  expect([upstream.state.cancelled, state.calls]).toEqual([0, 1])
  await follower.cancel()
  await upstream.left
  expect([stored, events.filter(({ event }) => event === 'internal')]).toEqual([[], []])
  expect(said(await join({ abandon: 'stop' }))).toBe('leader: new')
  expect(said(await join({ abandon: 'stop' }))).toBe('late: new')
})

test('abandon = "stop": an answer whose readers stay is stored, however slowly they read', async () => {
  const upstream = openStream()
  const { join, stored } = start(() => upstream.response())
  const reader = await streaming(() => join({ abandon: 'stop' }, sse), upstream)
  for (let i = 0; i < 100; i++) upstream.push(chunk('lo'))
  upstream.push(chunk('', 'stop') + DONE)
  upstream.end()
  await untilIdle()
  expect(stored.map(({ completion }) => completion.choices[0]?.text)).toEqual([
    `Hel${'lo'.repeat(100)}`,
  ])
  await reader.cancel()
})

test('abandon = "stop": a refresh is finished, also when a reader has joined it and left', async () => {
  const upstream = openStream()
  const { flights, join, stored } = start(() => upstream.response())
  flights.refresh(workOf({ abandon: 'stop' }))
  const reader = await streaming(() => join({ abandon: 'stop' }, sse), upstream)
  await reader.cancel()
  await untilIdle()
  upstream.push(chunk('lo', 'stop') + DONE)
  upstream.end()
  await untilIdle()
  expect(stored.map(({ completion }) => completion.choices[0]?.text)).toEqual(['Hello'])
})

describe('a reader that joins while the last one leaves', () => {
  /** Every moment around the leaving: before it, in the same turn, and some microtasks after it. */
  test.each([
    ['a stream', sse],
    ['a whole answer', json],
  ])('gets the running answer or a new one, never an error (%s)', async (_, shape) => {
    for (const lifetime of [null, work.lifetime]) {
      for (const how of ['cancel', 'signal'] as const) {
        for (let moment = -1; moment < 30; moment++) {
          const first = openStream()
          const { join, events, state } = start((call) => {
            if (call > 0) return streamAnswer(chunk('Hello', 'stop') + DONE)
            return first.response()
          })
          const more = { lifetime, abandon: 'stop' } as const
          const left = new AbortController()
          const leaving = await streaming(() => join(more, sse, left), first)
          let joining: Promise<MissAnswer> | null = null
          if (moment < 0) joining = join(more, shape)
          const gone = how === 'cancel' ? leaving.cancel() : left.abort()
          for (let i = 0; i < moment; i++) await null
          joining ??= join(more, shape)
          await gone
          if (first.state.cancelled === 0) {
            first.push(chunk('lo', 'stop') + DONE)
            first.end()
          }
          const text = await textIn(await joining)
          const at = `${how} ${moment}`
          if (shape === json) expect(text, at).toMatch(/^(leader|follower): Hello$/)
          else {
            expect(text, at).toContain('[DONE]')
            expect(text, at).not.toContain('error')
          }
          if (moment < 0) expect(state.calls, at).toBe(1)
          expect(events.filter(({ event }) => event === 'internal')).toEqual([])
        }
      }
    }
  })
})

async function streaming(
  join: (work?: object, reader?: Reader) => Promise<MissAnswer>,
  upstream: ReturnType<typeof openStream>,
) {
  const joining = join({}, sse)
  await untilIdle()
  upstream.push(chunk('Hel'))
  const answer = await joining
  if (answer.kind !== 'stream') throw new TypeError('no stream')
  const reader = answer.body.getReader()
  await reader.read()
  return reader
}

test.each([
  ['a whole answer', json],
  ['a stream', sse],
])(
  'a reader that leaves before the first text (%s) gets "left", and the load is aborted',
  async (_, reader) => {
    const upstream = openStream()
    const { join } = start(() => upstream.response())
    const left = new AbortController()
    const answer = join({ lifetime: null }, reader, left)
    await untilIdle()
    left.abort()
    expect((await answer).kind).toBe('left')
    await upstream.left
  },
)

test('the stream of a reader that leaves during silence does not look complete', async () => {
  const upstream = openStream()
  const { join, events } = start(() => upstream.response())
  const left = new AbortController()
  const joining = join({ lifetime: null }, sse, left)
  await untilIdle()
  upstream.push(chunk('Hel'))
  const answer = await joining
  const text = textIn(answer).catch(() => 'broken')
  await untilIdle()
  left.abort()
  await upstream.left
  expect(await text).not.toContain('[DONE]')
  expect(events.filter(({ event }) => event === 'internal')).toEqual([])
})

test('a failure before the first text is a problem, after it an error event', async () => {
  const torn = openStream()
  const { join } = start((call) =>
    call === 0 ? new Response('', { status: 401 }) : torn.response(),
  )
  expect(said(await join({}, sse))).toBe('upstream_rejected')
  const joining = join({}, sse)
  await untilIdle()
  torn.push(chunk('Hel'))
  const answer = await joining
  torn.end()
  const text = await textIn(answer)
  expect(text).toMatch(/"code":"upstream_truncated"\}\}\n\n$/)
  expect(text).not.toContain('[DONE]')
})

test('an unexpected error is logged once, and its message is not sent to the reader', async () => {
  const { join, events, state } = start()
  state.reserve = async () => {
    throw new TypeError('private')
  }
  const answer = await join()
  expect(said(answer)).toBe('internal')
  expect(JSON.stringify(answer)).not.toContain('private')
  expect(events.map(({ event }) => event)).toContain('internal')
})

test('refresh() starts a load without readers; concurrent refreshes are one load', async () => {
  const { flights, state, stored } = start()
  for (let i = 0; i < 10; i++) flights.refresh(workOf())
  await untilIdle()
  flights.refresh(workOf())
  await untilIdle()
  expect([state.calls, stored.length]).toEqual([1, 1])
})
