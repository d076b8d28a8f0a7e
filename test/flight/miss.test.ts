// One miss: the answer that each of its readers gets, and which answers in KV it may use and store.
import { expect, test } from 'vitest'
import type { Reader } from '../../src/completion/encode.ts'
import type { Work } from '../../src/flight/generate.ts'
import { Miss, type MissOptions } from '../../src/flight/miss.ts'
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

function start(
  respond: () => Response = () => jsonAnswer('Hello'),
  more: Partial<Work> = {},
  options: Partial<MissOptions> = {},
) {
  const world = missSetup(respond)
  const given = { stream: false, keepGoing: true, purgedAt: 0, looksAgain: true, ...options }
  const miss = () => new Miss({ ...work, ...more }, given, world.context)
  const join = (to: Miss, reader: Reader = json, left = new AbortController().signal) =>
    to.join({ role: 'leader', reader, left, isRemote: false })
  return { ...world, miss, join }
}

test('a reader gets the whole answer with its entry, or a stream that ends with the usage', async () => {
  const upstream = openStream()
  const { miss: begin, join, stored } = start(() => upstream.response())
  const miss = begin()
  const [whole, streamed] = [join(miss), join(miss, sse)]
  await untilIdle()
  upstream.push(chunk('Hel'))
  const answer = await streamed
  const summary = { upstream: 'main', attempts: 1, usage: null }
  expect(answer).toMatchObject({ kind: 'stream', role: 'leader', summary })
  expect(miss.entry).toBeNull()
  upstream.push(chunk('lo', 'stop') + DONE)
  upstream.end()
  const usage = { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 }
  expect(await whole).toMatchObject({
    kind: 'whole',
    estimated: true,
    entry: stored[0],
    stored: true,
    summary: { upstream: 'main', attempts: 1, usage },
  })
  expect(miss.entry).toBe(stored[0])
  expect(await textIn(answer)).toContain('data: [DONE]')
  if (answer.kind !== 'stream') throw new TypeError('no stream')
  expect(await answer.ended).toEqual({ end: 'whole', summary: { ...summary, usage } })
})

test('a failure before the first text is a problem for every reader', async () => {
  const { miss: begin, join, events } = start(() => new Response('', { status: 401 }))
  const miss = begin()
  const answers = await Promise.all([join(miss), join(miss, sse)])
  expect(answers.map(brief)).toEqual(['upstream_rejected', 'upstream_rejected'])
  expect(events.filter(({ event }) => event === 'internal')).toEqual([])
})

test('a failure after it is an error event, which ends the stream of a reader of this isolate', async () => {
  const upstream = openStream()
  const { miss, join } = start(() => upstream.response())
  const joining = join(miss(), sse)
  await untilIdle()
  upstream.push(chunk('Hel'))
  const answer = await joining
  upstream.end()
  expect(await textIn(answer)).toMatch(/"text":"Hel".*"code":"upstream_truncated"\}\}\n\n$/s)
})

test('an unexpected error is logged, and its message is not sent', async () => {
  const { miss, join, events, state } = start()
  state.reserve = async () => {
    throw new TypeError('private')
  }
  const answer = await join(miss())
  expect(brief(answer)).toBe('internal')
  expect(JSON.stringify(answer)).not.toContain('private')
  expect(events.filter(({ event }) => event === 'internal')).toHaveLength(1)
})

test.each([
  ['a whole answer', json],
  ['a stream', sse],
])('a reader of %s that leaves before the first text gets "left"', async (_, reader) => {
  for (const isLate of [true, false]) {
    const upstream = openStream()
    const { miss, join, events } = start(() => upstream.response(), {}, { keepGoing: false })
    const left = new AbortController()
    if (!isLate) left.abort()
    const answer = join(miss(), reader, left.signal)
    await untilIdle()
    left.abort()
    expect((await answer).kind).toBe('left')
    if (isLate) await upstream.left
    expect(events.filter(({ event }) => event === 'internal')).toEqual([])
  }
})

test.each<[string, Partial<Work>, Partial<MissOptions>, string, number]>([
  ['is used', {}, {}, 'found: kept', 1],
  ['of before a purge is not used', {}, { purgedAt: START }, 'leader: Hello', 1],
  ['is not looked for if there can be none', {}, { looksAgain: false }, 'leader: Hello', 0],
  ['is not looked for if the answer is not stored', { lifetime: null }, {}, 'leader: Hello', 0],
  ['is not looked for if a new answer is forced', { forced: true }, {}, 'leader: Hello', 0],
])('an answer in KV %s', async (_, more, options, expected, looks) => {
  const { miss, join, state, copies } = start(undefined, more, options)
  state.kept = await entryOf('kept')
  expect(brief(await join(miss()))).toBe(expected)
  expect([state.looks, state.calls]).toEqual([looks, expected === 'found: kept' ? 0 : 1])
  expect(copies).toEqual([])
})

test('a purged answer is served and not stored', async () => {
  const { miss, join, stored } = start(undefined, {}, { purgedAt: START })
  expect(await join(miss())).toMatchObject({ kind: 'whole', stored: false })
  expect(stored).toEqual([])
})

test.each([
  ['no purge', START, 0, true],
  ['a purge before both', START, START - 1, true],
  ['a purge between the two', START + 2, START + 1, false],
  ['a purge at the time of the load', START + 1, START, false],
  ['a purge after both', START, START, true],
])('after %s, a load serves a later request or not', (_, requestedAt, purgedAt, serves) => {
  const miss = start().miss()
  expect(miss.serves({ ...work, requestedAt }, purgedAt)).toBe(serves)
})
