// The questions of <edge-ask>: which links belong to an answer whose connection was lost.
import { afterEach, expect, test, vi } from 'vitest'
import { type ClientOptions, createClient } from '../../src/site/client.js'
import { Questions } from '../../src/site/elements/ask/questions.js'
import type { EdgeElement } from '../../src/site/elements/element.js'

afterEach(() => vi.unstubAllGlobals())

const host = {
  endpoint: 'https://edge.test',
  read: (_: string, otherwise = '') => otherwise,
  json: () => null,
  client: async (own: ClientOptions) => createClient({ endpoint: 'https://edge.test', ...own }),
} as unknown as EdgeElement

/** A stream that is lost, or that ends. */
function answer(id: string, text: string, link: string | null, isWhole = false): Response {
  const choices = [{ text, index: 0, logprobs: null, finish_reason: isWhole ? 'stop' : null }]
  const chunk = { id, object: 'text_completion', created: 1, model: 'm', choices }
  const body = `data: ${JSON.stringify(chunk)}\n\n${isWhole ? 'data: [DONE]\n\n' : ''}`
  const headers = { 'content-type': 'text/event-stream', ...(link === null ? {} : { link }) }
  return new Response(body, { headers })
}

test('the links of an answer are those of its first response, also if it is made again meanwhile', async () => {
  const posts = [
    answer('cmpl-1', 'Twice a day [1].', '<https://a.example/tides>; rel="cite"'),
    answer('cmpl-2', 'Daily [1].', '<https://a.example/moon>; rel="cite"'),
    answer('cmpl-3', 'No page.', null, true),
  ]
  vi.stubGlobal('fetch', async (input: Request | URL | string, init?: RequestInit) => {
    if (new Request(input, init).method === 'POST') return posts.shift()
    const isList = String(input instanceof Request ? input.url : input).endsWith('/v1/models')
    if (isList) return Response.json({ object: 'list', data: [] })
    return Response.json({ error: { code: 'not_cached', message: 'No' } }, { status: 404 })
  })
  const questions = new Questions(host)
  const ask = async (content: string) => {
    const messages = [{ role: 'user' as const, content }]
    for await (const _ of await questions.answer(messages, new AbortController().signal));
  }
  await expect(ask('How often?')).rejects.toMatchObject({ code: 'restarted' })
  expect(questions.cites.map(({ url }) => url)).toEqual(['https://a.example/tides'])
  await ask('And why?')
  expect(questions.cites).toEqual([])
})
