// What an isolate remembers of searches, and when it asks the index.
import { afterEach, expect, test, vi } from 'vitest'
import { pageName } from '../../src/cache/names.ts'
import { problemOf } from '../../src/errors.ts'
import { queryOf } from '../../src/search/query.ts'
import { Search } from '../../src/search/search.ts'
import type { Matches } from '../../src/search/site-index.ts'
import { failureOf } from '../support/failure.ts'

const MEMORY_MS = 60_000
const STALE_MS = 3_600_000
/** When the tests begin. */
const START = 1_800_000_000_000

afterEach(() => void vi.useRealTimers())

function started() {
  const state = {
    now: 0,
    version: 1,
    indexed: true,
    behaviour: 'ok' as 'ok' | 'throws' | 'hangs',
    /** Calls of the object. */
    calls: [] as unknown[],
    /** Requests that were counted by the rate limit. */
    limited: [] as string[],
    allow: true,
    /** The object answers after this. */
    until: Promise.resolve(),
    /** Unix ms; null: nothing was purged. */
    purgedAt: null as number | null,
    /** The page that was purged; null: everything. */
    purged: null as string | null,
  }
  const answer = async <T>(call: unknown, value: T): Promise<T> => {
    state.calls.push(call)
    if (state.behaviour === 'throws') throw new Error('words from inside')
    if (state.behaviour === 'hangs') return await new Promise(() => {})
    await state.until
    return value
  }
  const passage = () => ({
    url: 'https://example.com/',
    title: '',
    heading: '',
    text: `version ${state.version}`,
    score: 1,
  })
  const search = new Search({
    origins: ['https://example.com'],
    site: {
      find: async (query, limit) => {
        const { version } = state
        const found = state.indexed ? { passages: [passage()], coverage: 1 } : null
        return await answer<Matches>([query.terms, limit], { version, found })
      },
      version: async () => await answer('version', state.version),
    },
    limit: async (visitor) => {
      state.limited.push(visitor)
      return state.allow
    },
    memoryMs: MEMORY_MS,
    staleMs: STALE_MS,
    purges: {
      known: async () => {},
      purgedAt: (names) => {
        const isMeant = state.purged === null || names.includes(state.purged)
        return isMeant ? (state.purgedAt ?? 0) : 0
      },
    },
    now: () => START + state.now,
  })
  const find = async (question: string, limit = 6, visitor: string | null = 'v') => {
    const { passages } = await search.find(question, limit, visitor)
    return passages[0]?.text
  }
  const codeOf = async (question: string) => problemOf(await failureOf(find(question))).code
  return { state, search, find, codeOf }
}

test('a question that is remembered in any spelling asks nothing and is not counted', async () => {
  const { state, find } = started()
  await find('Which boats?')
  expect(state.calls).toEqual([[queryOf('boats').terms, 6]])
  for (const spelling of ['which boats', ' WHICH  boats!', 'ｗhich boats…']) {
    expect(await find(spelling)).toBe('version 1')
  }
  expect([state.calls.length, state.limited]).toEqual([1, ['v']])
  await find('Which boats?', 7)
  await find('Which planes?')
  expect([state.calls.length, state.limited.length]).toEqual([3, 3])
})

test('the version is looked up at most once in the time that answers are remembered', async () => {
  const { state, find } = started()
  await find('boats')
  state.now = MEMORY_MS - 1
  await find('boats')
  expect(state.calls).toHaveLength(1)
  state.now = MEMORY_MS
  await Promise.all([find('boats'), find('boats'), find('boats')])
  expect(state.calls.slice(1)).toEqual(['version'])
  // What is remembered for the same version stays.
  state.now = 2 * MEMORY_MS
  state.version = 2
  expect(await find('boats')).toBe('version 2')
  expect(state.calls.slice(2)).toEqual(['version', [['"boats"'], 6]])
})

test('each answer and each change by this isolate brings the version', async () => {
  const { state, search, find } = started()
  await find('boats')
  state.version = 2
  await find('planes')
  expect(await find('boats')).toBe('version 2')
  state.version = 3
  search.pageChanged(3)
  expect(await find('boats')).toBe('version 3')
  expect(state.calls).not.toContain('version')
})

test('a site without an index is an error that is remembered, too', async () => {
  const { state, codeOf, find } = started()
  state.indexed = false
  expect(await codeOf('boats')).toBe('site_not_indexed')
  expect(await codeOf('boats')).toBe('site_not_indexed')
  expect(state.calls).toHaveLength(1)
  Object.assign(state, { indexed: true, version: 2, now: MEMORY_MS })
  expect(await find('boats')).toBe('version 2')
})

test('a visitor above the limit gets 429, the operator and remembered answers do not', async () => {
  const { state, codeOf, find } = started()
  await find('boats')
  state.allow = false
  const error = await failureOf(find('planes'))
  expect(problemOf(error)).toMatchObject({
    code: 'rate_limited',
    message: expect.stringContaining('120 new searches per minute'),
    retryAfterSeconds: 60,
    rateLimit: { policy: 'search', quota: 120, remaining: 0, windowSeconds: 60 },
  })
  expect(state.calls).toHaveLength(1)
  expect(await find('boats')).toBe('version 1')
  expect(await find('planes', 6, null)).toBe('version 1')
  expect(await codeOf('ships')).toBe('rate_limited')
})

test.each(['throws', 'hangs'] as const)(
  'if the object %s, what is remembered is served, and anything else is 503',
  async (behaviour) => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const { state, codeOf, find } = started()
    await find('boats')
    Object.assign(state, { behaviour, now: MEMORY_MS })
    const both = Promise.all([find('boats'), codeOf('planes')])
    await vi.advanceTimersByTimeAsync(5000)
    expect(await both).toEqual(['version 1', 'search_unavailable'])
    // The lookup is not repeated by the next request.
    const { length } = state.calls
    expect(await find('boats')).toBe('version 1')
    expect(state.calls).toHaveLength(length)
    Object.assign(state, { behaviour: 'ok', now: MEMORY_MS + 5000 })
    expect(await find('planes')).toBe('version 1')
  },
)

test.each(['throws', 'hangs'] as const)(
  'if the object %s, what is remembered for an earlier version is served until it answers again',
  async (behaviour) => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const { state, codeOf, find } = started()
    await find('boats')
    state.version = 2
    await find('cars')
    state.behaviour = behaviour
    const both = Promise.all([find('boats'), codeOf('planes')])
    await vi.advanceTimersByTimeAsync(5000)
    expect(await both).toEqual(['version 1', 'search_unavailable'])
    Object.assign(state, { behaviour: 'ok', now: 5000 })
    expect(await find('boats')).toBe('version 2')
    // A rate limit is no failure: a visitor cannot keep the results of an earlier version.
    Object.assign(state, { version: 3, allow: false })
    expect(await find('ships', 6, null)).toBe('version 3')
    expect(await codeOf('boats')).toBe('rate_limited')
  },
)

test.each(['throws', 'hangs'] as const)(
  'while the object %s, one request in five seconds tries it again; others are answered at once and not counted',
  async (behaviour) => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const { state, codeOf, find } = started()
    await find('boats')
    state.version = 2
    await find('cars')
    Object.assign(state, { behaviour, now: MEMORY_MS, allow: false, calls: [], limited: [] })
    // The version cannot be looked up: the search is not tried after it.
    const first = find('boats')
    await vi.advanceTimersByTimeAsync(5000)
    expect(await first).toBe('version 1')
    for (let seconds = 0; seconds < 20; seconds++) {
      state.now = MEMORY_MS + 1000 * seconds
      const replies = Promise.all([find('boats'), find('cars'), find('boats'), codeOf('ships')])
      if (seconds > 0 && seconds % 5 === 0) await vi.advanceTimersByTimeAsync(5000)
      expect(await replies).toEqual(['version 1', 'version 2', 'version 1', 'search_unavailable'])
    }
    expect(state.calls).toHaveLength(4)
    expect(state.limited).toEqual([])
  },
)

test('a call that fails after it has timed out is not another failure of the object', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
  const { state, codeOf, find } = started()
  const { promise, reject } = Promise.withResolvers<void>()
  state.until = promise
  const first = codeOf('boats')
  await vi.advanceTimersByTimeAsync(5000)
  expect(await first).toBe('search_unavailable')
  Object.assign(state, { until: Promise.resolve(), now: 5000 })
  expect(await find('boats')).toBe('version 1')
  reject(new Error('words from inside'))
  await vi.advanceTimersByTimeAsync(0)
  expect(await find('planes')).toBe('version 1')
})

test('results that cite a purged page are not served any more, also while the object fails', async () => {
  const { state, codeOf, find } = started()
  await find('boats')
  Object.assign(state, {
    now: 10,
    purgedAt: START + 5,
    purged: await pageName('https://x.example'),
  })
  expect([await find('boats'), state.calls.length]).toEqual(['version 1', 1])
  state.purged = await pageName('https://example.com/')
  expect([await find('boats'), state.calls.length]).toEqual(['version 1', 2])
  // What was asked before the purge is void, what is asked after it is not.
  expect([await find('boats'), state.calls.length]).toEqual(['version 1', 2])
  Object.assign(state, { behaviour: 'throws', now: 20, purgedAt: START + 15, purged: null })
  expect(await codeOf('boats')).toBe('search_unavailable')
})

test('nothing that was found before a page was put or removed here is served while the object fails', async () => {
  const { state, search, codeOf, find } = started()
  await find('boats')
  search.pageChanged(2)
  state.behaviour = 'throws'
  expect(await codeOf('boats')).toBe('search_unavailable')
})

test('what is found while a page is removed is not remembered', async () => {
  const { state, search, find } = started()
  const { promise, resolve } = Promise.withResolvers<void>()
  state.until = promise
  const finding = find('boats')
  await vi.waitUntil(() => state.calls.length === 1)
  search.pageChanged(2)
  resolve()
  expect(await finding).toBe('version 1')
  state.version = 2
  expect(await find('boats')).toBe('version 2')
})

test('while the object fails, results are served for a limited time', async () => {
  const { state, codeOf, find } = started()
  await find('boats')
  Object.assign(state, { version: 2, now: 1000 })
  await find('cars')
  Object.assign(state, { behaviour: 'throws', now: STALE_MS - 1 })
  expect([await find('boats'), await find('cars')]).toEqual(['version 1', 'version 2'])
  state.now = STALE_MS
  expect([await codeOf('boats'), await find('cars')]).toEqual(['search_unavailable', 'version 2'])
  state.now = STALE_MS + 1000
  expect(await codeOf('cars')).toBe('search_unavailable')
})
