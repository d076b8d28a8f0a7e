// The look before: what is there, what is missing, and about how much it would take.
import { expect, test } from 'vitest'
import { estimate, pageBytes } from '../../../scripts/warm/estimate.ts'
import { Gateway } from '../../../scripts/warm/gateway.ts'

const tasks = (...names: string[]) => names.map((name) => ({ name, request: { prompt: name } }))

async function look(...names: string[]) {
  const asked: (string | null)[] = []
  const gateway = new Gateway({ url: 'https://edge.test', token: 't' }, async (request) => {
    asked.push(request.headers.get('cache-control'))
    const { prompt } = (await request.json()) as { prompt: string }
    const [kind, tokens] = prompt.split(' ')
    if (kind === 'there' || kind === 'stale') {
      const detail = kind === 'there' ? 'kv' : 'stale'
      return Response.json(
        { usage: { total_tokens: 99, completion_tokens: Number(tokens) } },
        { headers: { 'cache-status': `edge-completions; hit; ttl=1; detail=${detail}` } },
      )
    }
    if (kind === 'torn') throw new TypeError('fetch failed')
    const code = kind === 'missing' ? 'not_cached' : 'page_not_allowed'
    return Response.json({ error: { code, message: 'Cannot' } }, { status: 404 })
  })
  const found = await estimate(
    tasks(...names),
    { concurrency: 2 },
    { gateway, signal: new AbortController().signal, bytesOf: async () => 402 },
  )
  return { found, asked }
}

test('counts, and asks for nothing that is not there', async () => {
  const { found, asked } = await look('missing', 'there 10', 'missing', 'there 21', 'missing')
  expect(found).toEqual({
    present: 2,
    missing: 3,
    // 3 × 402 bytes, four of them a token.
    tokensRead: 302,
    // 15.5 on average.
    tokensWritten: 47,
    failed: [],
  })
  expect(asked).toEqual(Array(5).fill('only-if-cached'))
})

test('what is stale is asked for anew, so it is missing', async () => {
  const { found } = await look('stale 10', 'there 20')
  expect(found).toMatchObject({ present: 1, missing: 1, tokensRead: 101, tokensWritten: 20 })
})

test('where none is there it knows of no answer’s length', async () => {
  expect((await look('missing')).found.tokensWritten).toBe(null)
})

test('what cannot be asked for is named', async () => {
  const { found } = await look('refused', 'torn')
  expect(found.failed).toEqual([
    { task: tasks('refused')[0], reason: '404 page_not_allowed: Cannot' },
    { task: tasks('torn')[0], reason: 'no connection' },
  ])
})

test('pageBytes() counts text, up to max_chars; a page that cannot be read is as long as allowed', async () => {
  const html =
    '<title>T</title><nav>Home</nav><script>let a</script ><article>Grüße  <b>you</b></article>'
  const of = (response: Response | Error, maxChars = 99) =>
    pageBytes('https://a.example/', maxChars, async () => {
      if (response instanceof Error) throw response
      return response
    })
  // " T Grüße you " has two letters of two bytes.
  expect(await of(new Response(html))).toBe(' T Grüße you '.length + 2)
  expect(await of(new Response(html), 4)).toBe(4)
  expect(await of(new Response('no', { status: 404 }))).toBe(99)
  expect(await of(new TypeError('fetch failed'))).toBe(99)
})
