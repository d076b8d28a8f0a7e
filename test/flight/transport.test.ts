// What crosses between a Worker and a flight's object, and how each learns of the other's end.
import { expect, test } from 'vitest'
import type { Reader } from '../../src/completion/encode.ts'
import type { SharedWork } from '../../src/flight/flights.ts'
import {
  endRemote,
  type FetchObject,
  joinRemote,
  objectOf,
  refreshRemote,
} from '../../src/flight/transport.ts'
import { chunk, DONE, jsonAnswer, openStream } from '../support/app.ts'
import { bare, json, localFlights, missSetup, sse, untilIdle, work } from '../support/flights.ts'

function start(respond: () => Response = () => jsonAnswer('Hello'), upstream = 'main') {
  const world = missSetup(respond, upstream)
  const { calls, fetchObject } = localFlights(world.context)
  const route = [{ upstream, upstream_model: 'model-1' }]
  const request = { ...work.request, route }
  const shared = (more: Partial<SharedWork>) => ({
    ...work,
    request,
    purgedAt: 0,
    kvIsUnsure: false,
    ...more,
  })
  const join = (
    more: Partial<SharedWork> = {},
    reader: Reader = json,
    left: AbortSignal | null = null,
    fetch: FetchObject = fetchObject,
  ) => joinRemote(fetch, { work: shared(more), reader }, left)
  const endOf = (requestId: string, fetch = fetchObject) => endRemote(fetch, shared({ requestId }))
  return { ...world, calls, fetchObject, shared, join, endOf }
}

test('the keys have 16 objects, by their first digit', () => {
  expect(objectOf(`c1:0a${'ff'.repeat(31)}`)).toBe('f0')
  expect(objectOf('l1:ff00')).toBe('ff')
})

test.each([
  ['with its entry', {}],
  ['that is not stored', { lifetime: null }],
])('a whole answer %s crosses unchanged', async (_, more) => {
  const { join, stored } = start()
  const answer = await join(more)
  const [entry = null] = stored
  const usage = { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 }
  expect(answer).toEqual({
    kind: 'whole',
    role: 'leader',
    completion: entry?.completion ?? expect.objectContaining({ usage }),
    estimated: false,
    entry,
    stored: entry !== null,
    summary: { upstream: 'main', attempts: 1, usage },
  })
})

test('a problem crosses unchanged', async () => {
  const { join } = start(() => new Response('', { status: 401 }))
  for (const reader of [json, sse]) {
    expect(await join({}, reader)).toMatchObject({
      kind: 'problem',
      problem: { code: 'upstream_rejected' },
      summary: { upstream: 'main', attempts: 1, usage: null },
    })
  }
})

test('a stream is the bytes of the answer, with any text in its head', async () => {
  const name = 'größe 日本 "😀" \u007f\n'
  const { join, endOf } = start(() => new Response(chunk('Hé', 'stop') + DONE), name)
  const answer = await join({}, sse)
  const summary = { upstream: name, attempts: 1, usage: null }
  expect(answer).toMatchObject({ kind: 'stream', role: 'leader', summary })
  if (answer.kind !== 'stream') throw new TypeError('no stream')
  expect(await new Response(answer.body).text()).toMatch(/"Hé".*\[DONE\]\n\n$/s)
  expect(await endOf('req_1')).toBeNull()
})

test('a stream that ends with a problem is aborted, and each of its readers can ask for it', async () => {
  const upstream = openStream()
  const { join, endOf } = start(() => upstream.response())
  const joining = [
    join({ requestId: 'req_1' }, sse),
    join({ requestId: 'req_2' }, bare),
    join({ requestId: 'req_3' }, sse),
  ]
  await untilIdle()
  upstream.push(chunk('Hel'))
  const bodies = (await Promise.all(joining)).map((answer) =>
    answer.kind === 'stream' ? new Response(answer.body) : Response.error(),
  )
  await bodies[2]?.body?.cancel()
  const ends = bodies.slice(0, 2).map((body) => body.text().catch(() => 'broken'))
  upstream.end()
  expect(await Promise.all(ends)).toEqual(['broken', 'broken'])
  for (const id of ['req_1', 'req_2']) {
    expect(await endOf(id)).toMatchObject({ code: 'upstream_truncated' })
  }
  // This one has left, nobody knows that one, and these have been told, which is done once.
  for (const id of ['req_3', 'req_4', 'req_1', 'req_2']) expect(await endOf(id)).toBeNull()
})

test('the end of a stream is unknown if its object cannot be reached', async () => {
  const gone = () => Promise.reject(new Error('gone'))
  expect(await start().endOf('req_1', gone)).toBeNull()
  expect(await start().endOf('req_1', async () => new Response('not JSON'))).toBeNull()
})

test('a refresh returns at once, and its load is finished', async () => {
  const upstream = openStream()
  const { fetchObject, shared, stored, calls } = start(() => upstream.response())
  await refreshRemote(fetchObject, shared({}))
  expect([calls, stored]).toEqual([['/refresh'], []])
  upstream.push(chunk('Hello', 'stop') + DONE)
  upstream.end()
  await untilIdle()
  expect(stored).toHaveLength(1)
})

test.each([
  ['a stream', sse],
  ['a whole answer', json],
])('an object learns that the reader of %s has left before the first text', async (_, reader) => {
  for (const how of ['leaves', 'has left', 'loses the connection'] as const) {
    const upstream = openStream()
    const { join, fetchObject } = start(() => upstream.response())
    const left = new AbortController()
    if (how === 'has left') left.abort()
    const lossy: FetchObject = async (name, request) => {
      const body = request.body?.pipeThrough(new TransformStream(), { signal: left.signal })
      const init = { method: 'POST', body: body ?? null, duplex: 'half' }
      return await fetchObject(name, new Request(request.url, init))
    }
    const lost = how === 'loses the connection'
    const signal = lost ? new AbortController().signal : left.signal
    const answer = join({ lifetime: null }, reader, signal, lost ? lossy : fetchObject)
    await untilIdle()
    left.abort()
    expect(await answer, how).toMatchObject({ kind: 'left' })
    if (how !== 'has left') await upstream.left
  }
})

test('an object is not told of a reader whose answer is finished anyway', async () => {
  const { fetchObject, join } = start()
  const texts: string[] = []
  const heard: FetchObject = async (name, request) => {
    texts.push(await request.clone().text())
    return await fetchObject(name, request)
  }
  expect((await join({}, json, null, heard)).kind).toBe('whole')
  expect(JSON.parse(texts[0] ?? '')).toMatchObject({ work: { key: work.key }, reader: json })
})

test('a request that ends in its middle is refused', async () => {
  const { fetchObject } = start()
  const init = { method: 'POST', body: '{"work":' }
  const joining = fetchObject('f0', new Request('https://flights.invalid/join?watch', init))
  await expect(joining).rejects.toThrow('ended in its middle')
})
