// The dry run: counts cached and missing answers, and estimates tokens.
import { expect, test } from 'vitest'
import { estimate, pageBytes } from '../../../scripts/operator/estimate.ts'
import { Gateway } from '../../../scripts/operator/gateway.ts'
import { cpuMsUntil } from '../../support/cpu.ts'

const tasks = (...names: string[]) => names.map((name) => ({ name, request: { prompt: name } }))

async function estimateOf(...names: string[]) {
  const cacheControls: (string | null)[] = []
  const gateway = new Gateway(
    { url: 'https://edge.test', token: 't', verb: 'warm' },
    async (request) => {
      cacheControls.push(request.headers.get('cache-control'))
      const { prompt } = (await request.json()) as { prompt: string }
      const [kind, tokens] = prompt.split(' ')
      if (kind === 'cached' || kind === 'stale') {
        const detail = kind === 'cached' ? 'kv' : 'stale'
        return Response.json(
          { usage: { total_tokens: 99, completion_tokens: Number(tokens) } },
          { headers: { 'cache-status': `edge-completions; hit; ttl=1; detail=${detail}` } },
        )
      }
      if (kind === 'broken') throw new TypeError('fetch failed')
      const code = kind === 'missing' ? 'not_cached' : 'page_not_allowed'
      return Response.json({ error: { code, message: 'Cannot' } }, { status: 404 })
    },
  )
  const result = await estimate(
    tasks(...names),
    { concurrency: 2 },
    { gateway, signal: new AbortController().signal, bytesOf: async () => 402 },
  )
  return { result, cacheControls }
}

test('estimate() counts cached and missing answers without generating any', async () => {
  const names = ['missing', 'cached 10', 'missing', 'cached 21', 'missing']
  const { result, cacheControls } = await estimateOf(...names)
  expect(result).toEqual({
    present: 2,
    missing: 3,
    // 3 × 402 bytes, at four bytes per token.
    tokensRead: 302,
    // 3 × 15.5 on average.
    tokensWritten: 47,
    failed: [],
  })
  expect(cacheControls).toEqual(Array(5).fill('only-if-cached'))
})

test('estimate() counts a stale answer as missing, and needs a cached one to estimate output', async () => {
  const { result } = await estimateOf('stale 10', 'cached 20')
  expect(result).toMatchObject({ present: 1, missing: 1, tokensRead: 101, tokensWritten: 20 })
  expect((await estimateOf('missing')).result.tokensWritten).toBe(null)
})

test('estimate() lists the tasks that failed with their reasons', async () => {
  const { result } = await estimateOf('refused', 'broken')
  expect(result.failed).toEqual([
    { task: tasks('refused')[0], reason: '404 page_not_allowed: Cannot' },
    { task: tasks('broken')[0], reason: 'no connection' },
  ])
})

test('pageBytes() counts text up to max_chars, and returns max_chars for an unreadable page', async () => {
  const html =
    '<title>T</title><nav>Home</nav><script>let a</script ><article>Grüße  <b>you</b></article>'
  const of = (response: Response | Error, maxChars = 99) =>
    pageBytes('https://a.example/', maxChars, async () => {
      if (response instanceof Error) throw response
      return response
    })
  // ü and ß have two bytes each.
  expect(await of(new Response(html))).toBe('Grüße you'.length + 2)
  expect(await of(new Response(html), 4)).toBe('Grüß'.length + 2)
  expect(await of(new Response('no', { status: 404 }))).toBe(99)
  expect(await of(new TypeError('fetch failed'))).toBe(99)
})

test.each(['<', '<p ', '<script ', '<svg>', '</nav '])(
  'pageBytes() takes linear time for repeated %j',
  async (piece) => {
    const html = piece.repeat(300_000 / piece.length)
    const read = () => pageBytes('https://a.example/', 99, async () => new Response(html))
    expect(await cpuMsUntil(read)).toBeLessThan(2500)
  },
)
