// SECURITY.md's table is correct: each row names an existing test. Tests of threats that fit
// nowhere else are here.
import { existsSync, readFileSync } from 'node:fs'
import { describe, expect, inject, test } from 'vitest'
import { compatible, TestApp } from './support/app.ts'
import { CANARY } from './support/canary.ts'

const page = readFileSync('SECURITY.md', 'utf8')

describe('SECURITY.md', () => {
  const rows = [...page.matchAll(/^\| (T\d+) \|.*\|$/gm)].map(([row, id = '']) => ({ id, row }))

  test('has a row for each threat, T1 to T39', () => {
    expect(rows.map(({ id }) => id)).toEqual(Array.from({ length: 39 }, (_, i) => `T${i + 1}`))
  })

  test.each(rows)('$id names a test that exists', ({ row }) => {
    const tests = [...row.matchAll(/`(test\/[^`]+\.ts)`: “([^|]+?)”(?=; `test\/| \|$)/g)]
    expect(tests.length, row).toBeGreaterThan(0)
    for (const [, file = '', title = ''] of tests) {
      expect(existsSync(file), `${file} exists`).toBe(true)
      // The title must be the test's own.
      expect(readFileSync(file, 'utf8'), `"${title}" in ${file}`).toContain(title)
    }
  })

  test('says the worst case in one sentence, and how to report', () => {
    const [, worst = ''] = page.match(/\*\*The worst case:\*\*([\s\S]*?)\n\n/) ?? []
    expect(worst.split(/\.\s/)).toHaveLength(1)
    expect(worst).toContain('budget.tokens_per_day')
    expect(page).toContain('Report a\nvulnerability')
    expect(page).not.toMatch(/[\w.]+@[\w.]+\.\w+/)
  })
})

test('only documented fields reach an upstream (T6)', async () => {
  const app = new TestApp()
  const fields = {
    messages: [{ role: 'user', content: 'hi' }],
    tools: [{ type: 'function' }],
    store: true,
    metadata: { a: 'b' },
    reasoning_effort: 'high',
    service_tier: 'priority',
    max_completion_tokens: 1e6,
    base_url: 'https://evil.example',
    key: CANARY.slice(0, 5),
  }
  for (const [param, value] of Object.entries(fields)) {
    const reply = await app.post({ prompt: 'p', [param]: value })
    expect(reply.status).toBe(400)
    expect(reply.json()).toMatchObject({ error: { param } })
  }
  for (const limited of [{ n: 2 }, { best_of: 2 }, { max_tokens: 513 }, { model: 'gpt-dear' }]) {
    expect((await app.post({ prompt: 'p', ...limited })).status).toBe(400)
  }
  expect(app.calls).toEqual([])
  await app.post({ prompt: 'p', user: 'someone', stream_options: null, tools: [], store: false })
  const sent = (await app.calls[0]?.json()) as object
  expect(Object.keys(sent).sort()).toEqual([
    'max_tokens',
    'model',
    'prompt',
    'stream',
    'stream_options',
  ])
})

const strange: Readonly<Record<string, string>> = {
  'x-base-url': 'https://evil.example',
  'x-upstream-host': 'evil.example',
  'x-portkey-custom-host': 'https://evil.example',
  'x-forwarded-host': 'evil.example',
  'x-original-url': 'https://evil.example',
  'cf-aig-cache-key': 'poison',
  'openai-organization': 'org-other',
  'openai-project': 'proj-other',
  'x-api-key': 'sk-visitor',
  authorization: 'Bearer sk-visitor',
  cookie: 'session=1',
  'accept-language': 'tlh',
  'user-agent': 'evil',
}

test('nothing in a request chooses where the key is sent (T10)', async () => {
  const app = new TestApp()
  for (const model of ['https://evil.example', '../../evil', '//evil.example', 'default@evil']) {
    expect((await app.post({ prompt: 'p', model })).status).toBe(400)
  }
  let n = 0
  for (const [name, value] of Object.entries(strange)) {
    await app.post({ prompt: `p${n++}` }, { [name]: value })
    await app.post({ prompt: `https://evil.example/${n++}`, user: 'https://evil.example' })
  }
  expect(app.calls).toHaveLength(n)
  for (const { url, redirect } of app.calls) {
    expect(url).toBe(`${compatible.base_url}/completions`)
    expect(redirect).toBe('manual')
  }
})

test('no header of a visitor changes what an upstream is sent (T12)', async () => {
  const sent = async (headers: Record<string, string>) => {
    const app = new TestApp()
    await app.post({ prompt: 'p' }, headers)
    const [call] = app.calls
    if (call === undefined) throw new Error('no call was made')
    return {
      headers: [...call.headers].sort(),
      body: await call.text(),
      keys: [...app.kv.values.keys()],
    }
  }
  const plain = await sent({})
  for (const [name, value] of Object.entries(strange)) {
    expect(await sent({ [name]: value }), name).toEqual(plain)
  }
})

test('long malformed input is rejected quickly (T19)', async () => {
  const app = new TestApp({ config: { limits: { body_bytes: 2_000_000 } } })
  const long = 500_000
  const bodies = [
    JSON.stringify({ prompt: 'a'.repeat(long) }),
    JSON.stringify({ prompt: 'p', stop: ' '.repeat(long) }),
    JSON.stringify({ prompt: 'p', model: 'a-'.repeat(long / 2) }),
    JSON.stringify({ prompt: { id: 'x', variables: { a: '{{'.repeat(long / 2) } } }),
    '['.repeat(long),
    `{"prompt":${'['.repeat(long / 2)}${']'.repeat(long / 2)}}`,
  ]
  for (const body of bodies) {
    const startedAt = performance.now()
    const reply = await app.post(body)
    expect(reply.status).toBe(400)
    expect(reply.text.length).toBeLessThan(1000)
    // With quadratic time this would take minutes.
    expect(performance.now() - startedAt).toBeLessThan(10_000)
  }
  for (const name of [
    'accept',
    'if-none-match',
    'cache-control',
    'last-event-id',
    'authorization',
  ]) {
    for (const value of [
      'a,'.repeat(50_000),
      ' '.repeat(100_000),
      `Bearer${' '.repeat(100_000)}x y`,
    ]) {
      const startedAt = performance.now()
      await app.post({ prompt: 'p' }, { [name]: value })
      expect(performance.now() - startedAt, name).toBeLessThan(10_000)
    }
  }
})

test('names from the prototype are names like any other (T20)', async () => {
  const app = new TestApp({ config: { prompts: { a: { text: 'A' } }, free_prompts: true } })
  for (const name of ['__proto__', 'constructor', 'toString', 'hasOwnProperty', 'valueOf']) {
    const bodies = [
      `{"prompt":"p","${name}":{"model":"x"}}`,
      `{"prompt":"p","model":"${name}"}`,
      `{"prompt":{"id":"${name}"}}`,
      `{"prompt":{"id":"a","variables":{"${name}":"x"}}}`,
    ]
    for (const body of bodies) expect((await app.post(body)).status, body).toBe(400)
    expect((await app.get(`prompt=p&${name}=x`)).status).toBe(400)
    expect((await app.ask(`/v1/models/${name}`)).status).toBe(404)
    expect((await app.ask('/v1/models', { method: name.toUpperCase() })).status).toBe(405)
  }
  expect(Object.keys({})).toEqual([])
  expect(({} as Record<string, unknown>)['model']).toBeUndefined()
  expect(app.calls).toEqual([])
  expect(app.events.filter(({ event }) => event === 'internal')).toEqual([])
})

test('wrangler.toml disables preview URLs (T23)', () => {
  const rawConfig = inject('wranglerConfig')
  expect(rawConfig.preview_urls).toBe(false)
  expect(rawConfig.observability?.logs?.invocation_logs).toBe(false)
  expect(rawConfig.compatibility_flags).toContain('global_fetch_strictly_public')
  expect(readFileSync('src/worker.ts', 'utf8')).not.toContain('passThroughOnException')
})

test('no response can run as a page (T24)', async () => {
  const app = new TestApp()
  const html = '<script>alert(1)</script>'
  const replies = [
    await app.post({ prompt: html }),
    await app.post({ prompt: html, stream: true }),
    await app.post({ prompt: html }, { accept: 'text/plain' }),
    await app.post({ prompt: 'p', [html]: 1 }),
    await app.post(html),
    await app.get(`prompt=${encodeURIComponent(html)}`),
    await app.ask(`/${encodeURIComponent(html)}`),
    await app.ask('/v1/models'),
    await app.ask('/health'),
  ]
  for (const { headers } of replies) {
    expect(headers['content-type']).toMatch(/^(application\/json|text\/(event-stream|plain))/)
    expect(headers['x-content-type-options']).toBe('nosniff')
    expect(headers['set-cookie']).toBeUndefined()
  }
})
