// The flights of an object: who joins which, purges and the operator's no-cache, results that
// followers do not share, when KV is looked at again, and the memory for answers.
import { describe, expect, test } from 'vitest'
import { entryBytes } from '../../src/cache/entry.ts'
import { GatewayError } from '../../src/errors.ts'
import { Flights, type SharedWork } from '../../src/flight/flights.ts'
import type { MissAnswer } from '../../src/flight/miss.ts'
import { chunk, DONE, jsonAnswer, openStream, START } from '../support/app.ts'
import {
  brief,
  entryOf,
  json,
  missSetup,
  sse,
  textIn,
  untilIdle,
  work,
} from '../support/flights.ts'

/** The flights over a scripted upstream. */
function start(
  respond: (call: number) => Response | Promise<Response> = () => jsonAnswer('Hello'),
  finishedBytes?: number,
) {
  const world = missSetup(respond)
  const flights = new Flights(world.context, finishedBytes)
  const shared = (more: Partial<SharedWork>): SharedWork => ({
    ...work,
    purgedAt: 0,
    kvIsUnsure: false,
    ...more,
  })
  const join = (more: Partial<SharedWork> = {}, reader = json, left = new AbortController()) =>
    flights.join(shared(more), reader, left.signal)
  const refresh = (more: Partial<SharedWork> = {}) => flights.refresh(shared(more))
  return { ...world, join, refresh }
}

/** The flights over an upstream that the test ends; its later answers are "new". */
function held() {
  const upstream = openStream()
  const world = start((call) => (call === 0 ? upstream.response() : jsonAnswer('new')))
  /** Joins, and reads the first bytes of the stream. */
  const stream = async (more: Partial<SharedWork> = {}, left = new AbortController()) => {
    const joining = world.join(more, sse, left)
    await untilIdle()
    upstream.push(chunk('Hel'))
    const answer = await joining
    if (answer.kind !== 'stream') throw new TypeError('no stream')
    const reader = answer.body.getReader()
    await reader.read()
    return reader
  }
  const end = async (text: string) => {
    await untilIdle()
    upstream.push(chunk(text, 'stop') + DONE)
    upstream.end()
    await untilIdle()
  }
  const storedTexts = () => world.stored.map(({ completion }) => completion.choices[0]?.text)
  return { ...world, upstream, stream, end, storedTexts }
}

test('the first reader leads, later ones follow, and those after the end are late: one load', async () => {
  const { join, upstream, end, state, stored } = held()
  const readers = [join(), join(), join({}, sse)]
  await untilIdle()
  upstream.push(chunk('Hel'))
  await untilIdle()
  readers.push(join())
  await end('lo')
  const answers = await Promise.all(readers)
  expect(answers.map(brief)).toEqual([
    'leader: Hello',
    'follower: Hello',
    'stream',
    'follower: Hello',
  ])
  expect(answers[2]).toMatchObject({ role: 'follower' })
  expect(await textIn(answers[2] as MissAnswer)).toContain('data: [DONE]')
  expect(brief(await join())).toBe('late: Hello')
  expect([state.calls, state.looks, stored.length]).toEqual([1, 1, 1])
})

test('many keys are answered at once, each by its own load', async () => {
  const { join, state } = start((call) => jsonAnswer(`answer ${call}`))
  const keys = Array.from({ length: 50 }, (_, i) => `c1:${i}`)
  const answers = await Promise.all(keys.map((key) => join({ key, storedUnder: key })))
  expect(new Set(answers.map(brief)).size).toBe(50)
  const late = await Promise.all(keys.map((key) => join({ key, storedUnder: key })))
  expect(late.map(brief)).toEqual(answers.map((a) => brief(a).replace('leader', 'late')))
  expect(state.calls).toBe(50)
})

test('an answer is given to late readers only while it is fresh', async () => {
  const { join, clock, state } = start()
  await join()
  clock.ms += 99_000
  expect(brief(await join())).toBe('late: Hello')
  clock.ms += 1000
  expect(brief(await join())).toBe('leader: Hello')
  expect(state.calls).toBe(2)
})

test('a failure is not given to later readers: the next one starts a new load', async () => {
  const { join, state } = start((call) =>
    call === 0 ? new Response('', { status: 500 }) : jsonAnswer('ok'),
  )
  const answers = await Promise.all([join(), join(), join()])
  expect(answers.map(brief)).toEqual(Array(3).fill('upstream_unavailable'))
  expect(state.calls).toBe(1)
  expect(brief(await join())).toBe('leader: ok')
})

test('an answer that is not stored is not given to late readers', async () => {
  const { join, state, stored } = start()
  for (let i = 0; i < 2; i++) expect(brief(await join({ lifetime: null }))).toBe('leader: Hello')
  expect([state.calls, stored.length]).toEqual([2, 0])
})

test('refresh() starts a load without readers; concurrent refreshes are one load', async () => {
  const { refresh, state, stored } = start()
  for (let i = 0; i < 10; i++) refresh()
  await untilIdle()
  refresh()
  await untilIdle()
  expect([state.calls, stored.length]).toEqual([1, 1])
})

describe('after a purge', () => {
  test.each([
    ['known to the flight', true],
    ['known to the calling isolate only', false],
  ])('%s a reader gets a new load, no earlier answer', async (_, known) => {
    const { join, state } = start()
    await join()
    state.kept = await entryOf('kept')
    if (known) state.purgedAt = START + 1
    const after = { purgedAt: known ? 0 : START + 1, requestedAt: START + 2 }
    expect(brief(await join(after))).toBe('leader: Hello')
    expect(state.calls).toBe(2)
    expect(brief(await join(after))).toBe('late: Hello')
  })

  test('a request a millisecond later does not join a load from before it', async () => {
    const { join, end, state, storedTexts } = held()
    const before = join()
    await untilIdle()
    state.purgedAt = START
    const after = { requestedAt: START + 1 }
    expect(brief(await join(after))).toBe('leader: new')
    await end('old')
    expect(brief(await before)).toBe('leader: old')
    // And the old answer does not come back when its load ends.
    expect(brief(await join(after))).toBe('late: new')
    expect(storedTexts()).toEqual(['new', 'old'])
  })

  test('a request from before it joins a load, which is not stored', async () => {
    const { join, end, state, stored } = held()
    state.purgedAt = START
    const readers = [join(), join({ purgedAt: START }), join()]
    await end('one')
    const answers = await Promise.all(readers)
    expect(answers.map(brief)).toEqual(['leader: one', 'follower: one', 'follower: one'])
    expect([state.calls, stored.length]).toEqual([1, 0])
  })
})

describe('a last answer', () => {
  const source = (recipe: string) => ({ recipe, pages: [] })
  const pageA = { storedUnder: 'l1:a', source: source('c1:a'), names: ['page:a'] }
  const pageB = { storedUnder: 'l1:b', source: source('c1:b'), names: ['page:b'] }

  test('to two pages with the same text is one load, stored for both', async () => {
    const { join, end, stored, copies, state } = held()
    const readers = [join(pageA), join(pageB), join(pageB, sse)]
    await end('Hello')
    const [leader, follower] = (await Promise.all(readers)) as [MissAnswer, MissAnswer]
    expect([brief(leader), brief(follower)]).toEqual(['leader: Hello', 'follower: Hello'])
    expect(state.calls).toBe(1)
    expect(stored.map(({ key, names }) => [key, names])).toEqual([['l1:a', ['page:a']]])
    const own = { key: 'l1:b', names: ['page:b'], source: { key: work.key, ...pageB.source } }
    const copy = { ...stored[0], ...own }
    expect(copies).toEqual([copy, copy])
    expect(follower).toMatchObject({ entry: copy })
    const late = await join({ ...pageB, requestedAt: START + 5 })
    const later = { ...copy, confirmed_at: START + 5 }
    expect(late).toMatchObject({ role: 'late', entry: later })
    expect(copies.at(-1)).toEqual(later)
  })

  test('that could not be generated is copied nowhere', async () => {
    const { join, copies } = start(() => new Response('', { status: 401 }))
    const answers = await Promise.all([join(pageA), join(pageB)])
    await untilIdle()
    expect([answers.map(brief), copies]).toEqual([Array(2).fill('upstream_rejected'), []])
  })

  test('that was purged for one page is still served for the other', async () => {
    const { join, state } = start((call) => jsonAnswer(`answer ${call}`))
    await join(pageA)
    const after = { purgedAt: START, requestedAt: START + 1 }
    expect(brief(await join({ ...pageB, requestedAt: START + 1 }))).toBe('late: answer 0')
    expect(brief(await join({ ...pageA, ...after }))).toBe('leader: answer 1')
    expect(state.calls).toBe(2)
  })

  test('that KV has under another key is copied to the key of the request', async () => {
    const { join, state, copies, stored } = start()
    state.kept = await entryOf('kept')
    expect(brief(await join(pageA))).toBe('found: kept')
    expect(copies.map(({ key }) => key)).toEqual(['l1:a'])
    expect(stored).toEqual([])
  })
})

describe('a forced request', () => {
  test('ignores answers in memory and in KV', async () => {
    const { join, state } = start((call) => jsonAnswer(`answer ${call}`))
    await join()
    state.kept = await entryOf('kept')
    expect(brief(await join({ forced: true }))).toBe('leader: answer 1')
    expect(brief(await join())).toBe('late: answer 1')
  })

  test('that fails leaves the earlier answer in memory', async () => {
    const { join, state } = start((call) =>
      call === 0 ? jsonAnswer('Hello') : new Response('', { status: 500 }),
    )
    await join()
    expect(brief(await join({ forced: true }))).toBe('upstream_unavailable')
    expect(brief(await join())).toBe('late: Hello')
    expect(state.calls).toBe(2)
  })

  test('joins a running load, but does not accept an answer from KV', async () => {
    const { join, end } = held()
    const joined = [join(), join({ forced: true })]
    await end('under way')
    const answers = await Promise.all(joined)
    expect(answers.map(brief)).toEqual(['leader: under way', 'follower: under way'])
    const other = start(() => jsonAnswer('new'))
    other.state.kept = await entryOf('kept')
    const both = await Promise.all([other.join(), other.join({ forced: true })])
    expect(both.map(brief)).toEqual(['found: kept', 'leader: new'])
  })
})

describe('a limit', () => {
  const refused = (policy: string, code: 'budget_exhausted' | 'too_many_streams') =>
    new GatewayError(code, 'Cannot ask', {
      retryAfterSeconds: 10,
      rateLimit: { policy, quota: 1, remaining: 0, resetSeconds: 10, windowSeconds: null },
    })

  /** Flights of visitors that are all refused, and how often one was. */
  function refusing(policy: string, only: string | null = null) {
    const code = policy === 'streams' ? 'too_many_streams' : 'budget_exhausted'
    const world = start()
    const refusals = { count: 0, code }
    world.state.reserve = async (visitor) => {
      if (only !== null && visitor !== only) return
      refusals.count += 1
      throw refused(policy, code)
    }
    const joinAs = async (...visitors: (string | null)[]) =>
      (await Promise.all(visitors.map((visitor) => world.join({ visitor })))).map(brief)
    return { ...world, refusals, joinAs }
  }

  test.each(['visitor', 'streams'])('of a leader (%s) is not its followers’', async (policy) => {
    const { joinAs, refusals, state } = refusing(policy, 'h:greedy')
    const { code } = refusals
    expect(await joinAs('h:greedy', 'h:greedy', 'h:bob', 'h:eve', null)).toEqual([
      code,
      code,
      'leader: Hello',
      'follower: Hello',
      'follower: Hello',
    ])
    // The visitor whose limit it is does not try again.
    expect([state.calls, refusals.count]).toEqual([1, 1])
  })

  test('of the day is shared by all followers: nobody retries', async () => {
    const { joinAs, refusals } = refusing('day')
    expect(await joinAs('h:a', 'h:b', 'h:c')).toEqual(Array(3).fill('budget_exhausted'))
    expect(refusals.count).toBe(1)
  })

  test('of visitors makes a reader join at most three flights', async () => {
    const { joinAs, refusals } = refusing('visitor')
    const answers = await joinAs(...Array.from({ length: 30 }, (_, i) => `h:${i}`))
    expect(new Set(answers)).toEqual(new Set(['budget_exhausted']))
    expect(refusals.count).toBe(3)
  })
})

describe('readers that leave', () => {
  const ways: readonly [string, Partial<SharedWork>][] = [
    ['whose answer is not stored', { lifetime: null }],
    ['with abandon = "stop"', { abandon: 'stop' }],
  ]

  test.each(ways)('end a load %s when the last of them has left', async (_, more) => {
    const { join, stream, upstream, stored, state, events } = held()
    const [leader, follower] = [await stream(more), await stream(more)]
    await leader.cancel()
    await untilIdle()
    expect([upstream.state.cancelled, state.calls]).toEqual([0, 1])
    await follower.cancel()
    await upstream.left
    expect(brief(await join(more))).toBe('leader: new')
    expect(stored).toHaveLength(more.abandon === 'stop' ? 1 : 0)
    expect(events.filter(({ event }) => event === 'internal')).toEqual([])
  })

  test('do not end a load whose answer is stored', async () => {
    const { stream, end, upstream, storedTexts } = held()
    await (await stream()).cancel()
    await end('lo')
    expect([storedTexts(), upstream.state.cancelled]).toEqual([['Hello'], 0])
  })

  test('do not end a refresh, which they had joined', async () => {
    const { refresh, stream, end, storedTexts } = held()
    refresh({ abandon: 'stop' })
    await (await stream({ abandon: 'stop' })).cancel()
    await end('lo')
    expect(storedTexts()).toEqual(['Hello'])
  })

  /** Every moment around the leaving: before it, in the same turn, and some microtasks after it. */
  test.each([
    ['a stream', sse],
    ['a whole answer', json],
  ])('and one that joins then: it gets the running answer or a new one (%s)', async (_, reader) => {
    for (const how of ['cancel', 'signal'] as const) {
      for (let moment = -1; moment < 30; moment++) {
        const { join, stream, end, upstream, events, state } = held()
        const left = new AbortController()
        const leaving = await stream({ abandon: 'stop' }, left)
        let joining: Promise<MissAnswer> | null = null
        if (moment < 0) joining = join({ abandon: 'stop' }, reader)
        const gone = how === 'cancel' ? leaving.cancel() : left.abort()
        for (let i = 0; i < moment; i++) await null
        joining ??= join({ abandon: 'stop' }, reader)
        await gone
        if (upstream.state.cancelled === 0) await end('lo')
        const text = await textIn(await joining)
        const at = `${how} ${moment}`
        if (reader === json) expect(text, at).toMatch(/^(leader: new|follower: Hello)$/)
        else expect(text, at).toMatch(/^(?!.*error).*\[DONE\]\n\n$/s)
        if (moment < 0) expect(state.calls, at).toBe(1)
        expect(events.filter(({ event }) => event === 'internal')).toEqual([])
      }
    }
  })
})

describe('KV is looked at again before a load', () => {
  /** Whether the flights look before the next load of another key. */
  async function looks({ join, state }: ReturnType<typeof start>, more: Partial<SharedWork> = {}) {
    const before = state.looks
    const key = `c1:look ${before} ${state.calls}`
    await join({ key, storedUnder: key, ...more })
    return state.looks > before
  }

  test('for a minute from the start: until then, answers may be spreading', async () => {
    const world = start()
    world.clock.ms += 59_999
    expect(await looks(world)).toBe(true)
    world.clock.ms += 1
    expect(await looks(world)).toBe(false)
  })

  test('if it failed lately where the reader comes from', async () => {
    const world = start()
    world.clock.ms += 60_000
    expect(await looks(world, { kvIsUnsure: true })).toBe(true)
  })

  test('always for a last answer', async () => {
    const world = start()
    world.clock.ms += 60_000
    expect(await looks(world, { source: { recipe: 'c1:a', pages: [] } })).toBe(true)
  })

  test('for a minute after an answer was stored that is no longer in memory', async () => {
    const bytes = entryBytes(await entryOf('x'.repeat(1000)))
    const texts = () => jsonAnswer('x'.repeat(1000))
    const world = start(texts, 1.5 * bytes)
    world.clock.ms += 60_000
    await world.join({ key: 'c1:1', storedUnder: 'c1:1' })
    world.clock.ms += 10_000
    expect(await looks(world)).toBe(false)
    // The second answer has put the first one out, which was stored 10 s ago.
    expect(await looks(world)).toBe(true)
    world.clock.ms += 60_000
    expect(await looks(world)).toBe(false)
  })

  test('for a minute after an answer that is too large for memory', async () => {
    const world = start(() => jsonAnswer('x'.repeat(1000)), 1000)
    world.clock.ms += 60_000
    expect([await looks(world), await looks(world)]).toEqual([false, true])
  })
})

test('the memory for answers is bounded: the oldest is loaded again', async () => {
  const bytes = entryBytes(await entryOf('Hello'))
  const { join, state } = start(undefined, 10 * bytes)
  const ask = async (i: number) => brief(await join({ key: `c1:${i}`, storedUnder: `c1:${i}` }))
  for (let i = 0; i < 100; i++) await ask(i)
  expect(await ask(99)).toBe('late: Hello')
  expect(await ask(0)).toBe('leader: Hello')
  expect(state.calls).toBe(101)
})
