// What an upstream's lists of models are taken to mean: the shapes of many providers, and answers that
// mean nothing.
import { describe, expect, test, vi } from 'vitest'
import { hasList, lookFor, type ModelList } from '../../src/upstream/model-list.ts'
import { CANARY } from '../support/canary.ts'

const unsure = { found: 'unsure', endsAt: null }
const listed = { found: 'listed', endsAt: null }
const missing = { found: 'missing', endsAt: null }
const refused = { found: 'refused', endsAt: null }
const until = (date: string) => ({ found: 'listed', endsAt: Date.parse(date) })

type Answer = Response | (() => Response | Promise<Response>)
/** By path; any other path is 404 without an explanation. */
type Answers = Readonly<Record<string, Answer>>

function upstream(answers: Answers, more: Partial<ModelList> = {}) {
  const requests: Request[] = []
  const list: ModelList = {
    wire: 'chat',
    baseUrl: 'https://upstream.test/v1',
    headers: { authorization: `Bearer ${CANARY}` },
    send: async (request) => {
      requests.push(request)
      const answer = answers[request.url.slice('https://upstream.test/v1'.length)]
      if (answer === undefined) return Response.json({ detail: 'Not Found' }, { status: 404 })
      return answer instanceof Response ? answer.clone() : await answer()
    },
    ...more,
  }
  return { list, requests }
}

async function look(model: string, answers: Answers, more: Partial<ModelList> = {}) {
  return await sightingIn(model, upstream(answers, more).list)
}

async function sightingIn(model: string, list: ModelList) {
  const [{ upstream_model, ...sighting } = { upstream_model: '' }, ...others] = await lookFor(
    [{ upstream_model: model }],
    list,
  )
  expect([upstream_model, others]).toEqual([model, []])
  return sighting
}

const models = (...entries: unknown[]) => Response.json({ object: 'list', data: entries })
const ids = (...names: string[]) => models(...names.map((id) => ({ id, object: 'model' })))
const noSuchModel = Response.json(
  { error: { message: "The model 'm' does not exist", code: 'model_not_found' } },
  { status: 404 },
)

test('sends the key as calls do, and follows no redirect', async () => {
  const { list, requests } = upstream({ '/models': ids('m') })
  await sightingIn('m', list)
  expect(requests).toHaveLength(1)
  expect(requests[0]?.method).toBe('GET')
  expect(requests[0]?.redirect).toBe('manual')
  expect(requests[0]?.headers.get('authorization')).toBe(`Bearer ${CANARY}`)
})

test('asks Anthropic for its whole list, in the version of the API that calls use', async () => {
  const { list, requests } = upstream({ '/models?limit=1000': ids('m') }, { wire: 'anthropic' })
  expect(await sightingIn('m', list)).toEqual(listed)
  expect(requests[0]?.headers.get('anthropic-version')).toBe('2023-06-01')
})

test.each([
  ['the same name', 'm', ids('other', 'm')],
  ["Together's array", 'm', Response.json([{ id: 'm' }])],
  ['a list named "models"', 'm', Response.json({ models: [{ name: 'm' }] })],
  ['names without objects', 'm', models('other', 'm')],
  ["Gemini's prefix", 'gemini-9', ids('models/gemini-9')],
  ["Gemini's prefix in the request", 'models/gemini-9', ids('gemini-9')],
  ["Ollama's default tag", 'llama3', ids('llama3:latest')],
  ["Ollama's default tag in the request", 'llama3:latest', ids('llama3')],
  ['a routing suffix of OpenRouter', 'openai/gpt:nitro', ids('openai/gpt')],
  ["Mistral's aliases", 'small-latest', models({ id: 'small-1', aliases: ['small-latest'] })],
  ["LiteLLM's wildcards", 'openai/gpt', ids('openai/*')],
  ['another case', 'Meta/Llama', ids('meta/llama')],
])('finds a model in %s', async (_, model, list) => {
  expect(await look(model, { '/models': list })).toEqual(listed)
})

test.each([
  ["OpenAI's date", { shutdown_date: '2026-03-01' }, '2026-03-01T00:00:00Z'],
  ["OpenRouter's date", { expiration_date: '2026-03-01' }, '2026-03-01T00:00:00Z'],
  ["Mistral's time", { deprecation: '2026-03-01T12:00:00Z' }, '2026-03-01T12:00:00Z'],
  ["Azure's seconds", { deprecation: { inference: 1_772_323_200 } }, '2026-03-01T00:00:00Z'],
  ['milliseconds', { shutdown_date: 1_772_323_200_000 }, '2026-03-01T00:00:00Z'],
  ['seconds as text', { shutdown_date: '1772323200' }, '2026-03-01T00:00:00Z'],
])('reads %s', async (_, fields, date) => {
  expect(await look('m', { '/models': models({ id: 'm', ...fields }) })).toEqual(until(date))
})

test.each([
  [null],
  [''],
  ['soon'],
  [0],
  [-1],
  [true],
  [{}],
  [['2026-03-01']],
  ['2026-99-99'],
  ['0001-01-01'],
  [1e300],
])('reads no date in %j', async (date) => {
  expect(await look('m', { '/models': models({ id: 'm', shutdown_date: date }) })).toEqual(listed)
})

test.each<[string, Answer]>([
  ['is empty', models()],
  ['has no names', models({ object: 'model' }, 1, null)],
  ['is no list', Response.json({ data: { m: {} } })],
  ['is null', Response.json(null)],
  ['is a page', new Response('<!doctype html><title>New API</title>')],
  ['is cut', new Response('{"data":[{"id":"other"}')],
  ['is an error', Response.json({ error: { message: 'no' } })],
  ['is refused', new Response(null, { status: 401 })],
  ['is not there', new Response(null, { status: 404 })],
  ['is broken', new Response(null, { status: 500 })],
  ['has moved', new Response(null, { status: 302, headers: { location: 'https://x.test' } })],
  ['is too long', new Response(`{"data":[{"id":"${'x'.repeat(4_200_000)}"}]}`)],
  ['has a next page', Response.json({ data: [{ id: 'other' }], has_more: true })],
  ['has a link to more', Response.json({ data: [{ id: 'other' }], links: { next: '/2' } })],
  ['has a token for more', Response.json({ models: [{ name: 'a' }], nextPageToken: 't' })],
  ['has fewer than its total', Response.json({ data: [{ id: 'other' }], total_count: 500 })],
  [
    'cannot be reached',
    () => {
      throw new TypeError('fetch failed')
    },
  ],
])('knows nothing about a model if the list %s', async (_, answer) => {
  expect(await look('m', { '/models': answer, '/models/m': noSuchModel })).toEqual(unsure)
})

test.each<[string, () => Response | Promise<Response>]>([
  ['does not begin', () => new Promise<Response>(() => {})],
  ['does not end', () => new Response(new ReadableStream())],
])('waits 10 s for a list that %s, and closes the connection', async (_, answer) => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
  try {
    const { list, requests } = upstream({ '/models': answer })
    const looking = sightingIn('m', list)
    await vi.advanceTimersByTimeAsync(9999)
    expect(requests[0]?.signal.aborted).toBe(false)
    await vi.advanceTimersByTimeAsync(1)
    expect(await looking).toEqual(unsure)
    expect(requests[0]?.signal.aborted).toBe(true)
  } finally {
    vi.useRealTimers()
  }
})

test('reads dates on one page of several', async () => {
  const page = { data: [{ id: 'm', shutdown_date: '2026-03-01' }], has_more: true }
  expect(await look('m', { '/models': Response.json(page) })).toEqual(until('2026-03-01'))
})

describe('a model that a whole list does not name', () => {
  const others = ids('other')

  test.each<[string, Answer, object]>([
    ['exists: it is an alias', Response.json({ id: 'm-2026', object: 'model' }), listed],
    [
      'exists until a date',
      Response.json({ id: 'm', shutdown_date: '2026-03-01' }),
      until('2026-03-01'),
    ],
    ['exists, in an envelope', Response.json({ data: { id: 'm' } }), listed],
    ['does not exist', noSuchModel, refused],
    ['is gone', new Response(null, { status: 410 }), refused],
    ['is not active', Response.json({ id: 'm', active: false }), missing],
    ['has no path: 404', Response.json({ detail: 'Not Found' }, { status: 404 }), missing],
    ['has no path: 405', new Response(null, { status: 405 }), missing],
    ['has no path: the list', ids('other'), missing],
    ['has no path: a page', new Response('<html>'), missing],
    ['is refused', new Response(null, { status: 403 }), unsure],
    ['is rate limited', new Response(null, { status: 429 }), unsure],
    ['has moved', new Response(null, { status: 301, headers: { location: '/' } }), unsure],
    ['is broken', new Response(null, { status: 503 }), unsure],
    [
      'cannot be reached',
      () => {
        throw new TypeError('fetch failed')
      },
      unsure,
    ],
  ])('%s', async (_, answer, sighting) => {
    expect(await look('m', { '/models': others, '/models/m': answer })).toEqual(sighting)
  })

  test('is asked for by the segments of its name', async () => {
    const answers = { '/models': others, '/models/a/b%3Ac%3Fd': Response.json({ id: 'a/b' }) }
    expect(await look('a/b:c?d', answers)).toEqual(listed)
  })

  test('is listed, but Groq says that it is not active', async () => {
    const list = models({ id: 'other', active: true }, { id: 'm', active: false })
    expect(await look('m', { '/models': list })).toEqual(missing)
  })
})

test.each([
  ['workers-ai', 'https://binding.invalid', false],
  ['demo', 'https://demo.invalid/v1', false],
  ['chat', 'https://mine.openai.azure.com/openai/v1', false],
  ['chat', 'https://api.openai.com/v1', true],
  ['anthropic', 'https://api.anthropic.com/v1', true],
  ['completions', 'http://localhost:11434/v1', true],
] as const)('the wire %s at %s has a list: %s', (wire, baseUrl, expected) => {
  expect(hasList(wire, baseUrl)).toBe(expected)
})
