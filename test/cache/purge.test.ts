// The purge list in an isolate: when it is read and when it is waited for. And the purge register:
// no purge is lost, regardless of who wrote it and of what KV returns.
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { Purges } from '../../src/cache/purge.ts'
import { parsePurgeList, purgedAt } from '../../src/cache/purge-list.ts'
import { PurgeRegister, type RegisterStorage } from '../../src/cache/purge-register.ts'
import type { Event } from '../../src/events.ts'
import { MemoryKv, memoryStorage, START } from '../support/app.ts'

const INTERVAL_MS = 60_000
const A = ['request:a', 'model:a', 'prompt:a']
const B = ['request:b', 'model:b']

/** One deployment that several isolates share: a clock, KV and the register. */
function place(storage: RegisterStorage = memoryStorage()) {
  const clock = { ms: START }
  const kv = new MemoryKv(clock)
  const register = new PurgeRegister({ storage, kv, now: () => clock.ms })
  return { clock, kv, register }
}

function isolate({ clock, kv, register }: ReturnType<typeof place> = place()) {
  const events: Event[] = []
  const background: Promise<unknown>[] = []
  const purges = new Purges({
    kv,
    intervalMs: INTERVAL_MS,
    register,
    now: () => clock.ms,
    report: (event) => events.push(event),
    waitUntil: (work) => background.push(work),
  })
  const settled = async () => {
    while (background.length > 0) await Promise.all(background.splice(0))
  }
  const purge = async (names: readonly string[] | null) => {
    await purges.purge({ names, at: clock.ms })
  }
  return { clock, kv, events, purges, purge, settled, background }
}

const listIn = (kv: MemoryKv) => parsePurgeList(kv.values.get('purge')?.value ?? '')

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
})

afterEach(() => {
  expect(vi.getTimerCount()).toBe(0)
  vi.useRealTimers()
})

test('a purge applies immediately in its isolate, to the millisecond, and does not expire', async () => {
  const { purges, purge, clock } = isolate()
  expect(purges.purgedAt(A)).toBe(0)
  await purge(['prompt:a'])
  expect(purges.purgedAt(A)).toBe(START)
  expect(purges.purgedAt(B)).toBe(0)
  clock.ms += 1001
  await purge(null)
  expect([purges.purgedAt(A), purges.purgedAt(B)]).toEqual([START + 1001, START + 1001])
  clock.ms += 10 * 365 * 86_400_000
  expect(purges.purgedAt(A)).toBe(START + 1001)
})

test('a busy isolate reads the list in the background before it would have to wait', async () => {
  const shared = place()
  const [here, there] = [isolate(shared), isolate(shared)]
  await there.purges.known()
  await there.settled()
  await here.purge(['request:a'])
  shared.clock.ms += INTERVAL_MS / 2
  expect(there.purges.purgedAt(A)).toBe(0)
  await there.settled()
  expect(there.purges.purgedAt(A)).toBe(START)
})

test('an isolate that was idle waits for the list, as its copy is too old', async () => {
  const shared = place()
  const [here, there] = [isolate(shared), isolate(shared)]
  await there.purges.known()
  await there.settled()
  await here.purge(['request:a'])
  const get = vi.spyOn(shared.kv, 'get')
  shared.clock.ms += INTERVAL_MS - 1
  await there.purges.known()
  expect(get).not.toHaveBeenCalled()
  shared.clock.ms += 1
  await there.purges.known()
  expect(there.purges.purgedAt(A)).toBe(START)
  await there.settled()
})

test('the list is read twice per interval for any number of requests', async () => {
  const { purges, kv, clock, settled } = isolate()
  const get = vi.spyOn(kv, 'get')
  for (let second = 0; second < 180; second++) {
    for (let i = 0; i < 10; i++) {
      await purges.known()
      purges.purgedAt(A)
    }
    await settled()
    clock.ms += 1000
  }
  expect(get).toHaveBeenCalledTimes(6)
})

test('known() waits 300 ms for a KV that hangs, and the list still applies when it arrives', async () => {
  const shared = place()
  await isolate(shared).purge(null)
  const slow = Promise.withResolvers<void>()
  shared.kv.intercept = () => slow.promise
  const { purges, settled, events } = isolate(shared)
  let waited = false
  const known = purges.known().then(() => {
    waited = true
  })
  await vi.advanceTimersByTimeAsync(299)
  expect(waited).toBe(false)
  await vi.advanceTimersByTimeAsync(1)
  expect(waited).toBe(true)
  await known
  expect(purges.purgedAt(A)).toBe(0)
  slow.resolve()
  await settled()
  expect(purges.purgedAt(A)).toBe(START)
  expect(events).toEqual([])
})

test('while KV is down the last list is used for ten seconds at a time', async () => {
  const shared = place()
  const { purges, settled, events, clock } = isolate(shared)
  await purges.known()
  await settled()
  shared.kv.intercept = () => {
    throw new Error('KV GET failed: 503')
  }
  clock.ms += INTERVAL_MS
  await purges.known()
  await purges.known()
  const failed = { event: 'cache_failed', operation: 'get', reason: 'error' }
  expect(events).toEqual([failed])
  clock.ms += 10_000
  await purges.known()
  expect(events).toEqual([failed, failed])
  await settled()
})

test('known() reports a KV failure and reads again the next time', async () => {
  const shared = place()
  await isolate(shared).purge(null)
  shared.kv.intercept = () => {
    throw new Error('KV GET failed: 503')
  }
  const { purges, settled, events } = isolate(shared)
  await purges.known()
  expect(events).toEqual([{ event: 'cache_failed', operation: 'get', reason: 'error' }])
  shared.kv.intercept = () => {}
  await purges.known()
  await settled()
  expect(purges.purgedAt(A)).toBe(START)
})

test('an invalid list reverts no purge, and the next purge writes a valid one', async () => {
  const { purges, purge, kv, clock, events, settled } = isolate()
  await purge(['model:a'])
  kv.values.set('purge', { value: '{', expiresAt: Number.POSITIVE_INFINITY, ttl: 0 })
  clock.ms += INTERVAL_MS
  await purges.known()
  await settled()
  expect(events).toEqual([{ event: 'cache_failed', operation: 'get', reason: 'bad_value' }])
  expect(purges.purgedAt(A)).toBe(START)
  await purge(['request:b'])
  expect([...(listIn(kv)?.names.keys() ?? [])]).toEqual(['model:a', 'request:b'])
})

test('an isolate keeps its purges when KV returns an older list', async () => {
  const { purges, purge, kv, clock, settled } = isolate()
  await purge(['request:a'])
  vi.spyOn(kv, 'get').mockResolvedValueOnce('{"all":0,"names":{"request:b":1}}')
  clock.ms += INTERVAL_MS
  await purges.known()
  await settled()
  expect([purges.purgedAt(A), purges.purgedAt(B)]).toEqual([START, 1])
})

test('purge() throws if the purge could not be written', async () => {
  const { purge, kv } = isolate()
  kv.intercept = (operation) => {
    if (operation === 'put') throw new Error('KV PUT failed: 500')
  }
  await expect(purge(null)).rejects.toThrow('KV PUT failed')
})

describe('the register', () => {
  test('loses no purge when another isolate’s KV returns an old list', async () => {
    const shared = place()
    const [here, there] = [isolate(shared), isolate(shared)]
    await here.purge(['request:a'])
    shared.clock.ms += 2000
    vi.spyOn(shared.kv, 'get').mockResolvedValue(null)
    await there.purge(['model:b'])
    const list = listIn(shared.kv)
    expect(list?.names).toEqual(
      new Map([
        ['request:a', START],
        ['model:b', START + 2000],
      ]),
    )
    expect(shared.kv.values.get('purge')?.ttl).toBe(Number.POSITIVE_INFINITY)
  })

  test('batches concurrent purges into one write a second, and resolves when they are written', async () => {
    const shared = place()
    const { kv, clock } = shared
    const one = isolate(shared)
    const all = Promise.all([
      one.purge(['request:a']),
      one.purge(['request:b']),
      isolate(shared).purge(['model:c']),
    ])
    await vi.advanceTimersByTimeAsync(999)
    const before = listIn(kv)?.names.size ?? 0
    clock.ms += 1000
    await vi.advanceTimersByTimeAsync(1)
    await all
    expect(before).toBeGreaterThan(0)
    expect([...(listIn(kv)?.names.keys() ?? [])].sort()).toEqual([
      'model:c',
      'request:a',
      'request:b',
    ])
    expect(kv.puts.filter((key) => key === 'purge').length).toBeLessThanOrEqual(2)
  })

  test('writes one list after the other, however long KV takes, so that the newest one stays', async () => {
    const shared = place()
    const { kv, clock } = shared
    const slow = Promise.withResolvers<void>()
    const put = kv.put.bind(kv)
    vi.spyOn(kv, 'put').mockImplementationOnce(async (...args) => {
      await slow.promise
      await put(...args)
    })
    const first = isolate(shared).purge(['request:a'])
    await vi.advanceTimersByTimeAsync(0)
    const second = isolate(shared).purge(['request:b'])
    clock.ms += 5000
    await vi.advanceTimersByTimeAsync(5000)
    slow.resolve()
    await first
    clock.ms += 1000
    await vi.advanceTimersByTimeAsync(1000)
    await second
    expect([...(listIn(kv)?.names.keys() ?? [])]).toEqual(['request:a', 'request:b'])
  })

  test('does not wait for a write that never ends: it has failed after 10 s', async () => {
    const shared = place()
    const { kv, clock } = shared
    vi.spyOn(kv, 'put').mockImplementationOnce(() => new Promise(() => {}))
    const first = expect(isolate(shared).purge(['request:a'])).rejects.toThrow('in time')
    await vi.advanceTimersByTimeAsync(0)
    const second = isolate(shared).purge(['request:b'])
    for (const ms of [10_000, 1000]) {
      clock.ms += ms
      await vi.advanceTimersByTimeAsync(ms)
    }
    await Promise.all([first, second])
    expect([...(listIn(kv)?.names.keys() ?? [])]).toEqual(['request:a', 'request:b'])
  })

  test('restores its list after an eviction even if KV has lost it', async () => {
    const storage = memoryStorage()
    await place(storage).register.add({ names: ['request:a'], at: START })
    const later = place(storage)
    await later.register.add({ names: ['request:b'], at: START + 1 })
    expect([...(listIn(later.kv)?.names.keys() ?? [])]).toEqual(['request:a', 'request:b'])
  })

  test('merges the list that version 1 stored in KV', async () => {
    const shared = place()
    const value = '{"all":7,"prompts":{"haiku":9},"models":{},"keys":{}}'
    shared.kv.values.set('purge', { value, expiresAt: Number.POSITIVE_INFINITY, ttl: 0 })
    await shared.register.add({ names: ['model:m'], at: START })
    const list = listIn(shared.kv)
    if (list === null) throw new TypeError('no list')
    expect(purgedAt(list, ['prompt:haiku'])).toBe(9999)
    expect(purgedAt(list, ['other'])).toBe(7999)
  })

  test('retries after a storage failure, and a purge refused by KV is written with the next one', async () => {
    const storage = memoryStorage()
    const get = vi.spyOn(storage, 'get').mockRejectedValueOnce(new Error('storage failed'))
    const { register, kv, clock } = place(storage)
    await expect(register.add({ names: ['request:a'], at: START })).rejects.toThrow(
      'storage failed',
    )
    kv.intercept = (operation) => {
      if (operation === 'put') throw new Error('KV PUT failed: 429')
    }
    await expect(register.add({ names: ['request:a'], at: START })).rejects.toThrow('429')
    expect(get).toHaveBeenCalledTimes(2)
    kv.intercept = () => {}
    clock.ms += 1000
    await register.add({ names: ['request:b'], at: START + 1000 })
    expect([...(listIn(kv)?.names.keys() ?? [])]).toEqual(['request:a', 'request:b'])
  })
})
