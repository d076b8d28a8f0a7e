// The code that the playground shows: correctly quoted for every prompt. That the code runs and prints
// the same answer as the page is tested in test/browser/playground.test.ts.
import { execFileSync } from 'node:child_process'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { snippets } from '../../src/site/snippets.js'

const call = {
  endpoint: 'https://edge.example',
  body: { prompt: 'Once upon a time' } as Record<string, unknown>,
  defaultModel: 'default',
  mayNameModel: true,
  sitekey: '',
}

test('a call with only a prompt takes a few lines', () => {
  const { client, fetch, curl, openai } = snippets(call)
  expect(client).toBe(
    `import { complete } from 'https://edge.example/client.js'\n\nconsole.log(await complete('Once upon a time'))`,
  )
  expect(fetch.split('\n')).toHaveLength(7)
  expect(curl).toBe(
    `curl https://edge.example/v1/completions --json '{"prompt":"Once upon a time"}'`,
  )
  expect(openai).toContain("baseURL: 'https://edge.example/v1'")
  expect(openai).toContain("create({ model: 'default', prompt: 'Once upon a time' })")
})

test('a streaming call reads the answer as a stream', () => {
  const { client, fetch, curl, openai } = snippets({
    ...call,
    body: { ...call.body, stream: true },
  })
  expect(client).toContain("for await (const text of stream('Once upon a time'))")
  expect(fetch).toContain("Accept: 'text/plain'")
  expect(fetch).toContain('getReader()')
  expect(curl).toMatch(/^curl -N /)
  expect(openai).toContain('for await (const { choices } of stream)')
})

test('the code leaves out the model if the locked prompt does not accept one', () => {
  const prompt = { id: 'haiku', variables: { topic: 'sea' } }
  const { client, openai } = snippets({ ...call, body: { prompt }, mayNameModel: false })
  expect(client).toContain("complete({ id: 'haiku', variables: { topic: 'sea' } })")
  expect(openai).not.toContain('model')
})

test('with Turnstile, all four snippets send a visitor token', () => {
  const { client, fetch, curl, openai } = snippets({ ...call, sitekey: '0x4AAA' })
  expect(client).toContain("createClient({ turnstile: { sitekey: '0x4AAA' } })")
  expect(fetch).toContain("'X-Visitor-Token': token")
  expect(curl).toContain('-H "X-Visitor-Token: $TOKEN"')
  expect(openai).toContain('apiKey: token')
})

test('a selected model appears once in each snippet', () => {
  const all = Object.values(snippets({ ...call, body: { ...call.body, model: 'second' } }))
  for (const code of all) expect(code.split('second')).toHaveLength(2)
  expect(all.join('')).not.toContain("'default'")
})

describe('for any prompt', () => {
  const texts = fc.string({ unit: 'grapheme', maxLength: 60 })
  const nasty = ["it's", '"', '\\', "\\'", '\\"', '$', '`', '\n', '$HOME', '</script>', '\u2028']
  const prompts = fc.oneof(
    texts,
    fc.constantFrom(...nasty),
    fc.array(fc.constantFrom(...nasty)).map((parts) => parts.join('')),
  )
  const bodies = fc.record({
    prompt: fc.oneof(
      prompts,
      fc.record({ id: fc.constant('haiku'), variables: fc.dictionary(texts, prompts) }),
    ),
    temperature: fc.double({ min: 0, max: 2, noNaN: true }),
  })

  test('the JavaScript literal evaluates to the request body', () => {
    fc.assert(
      fc.property(bodies, (body) => {
        const { fetch } = snippets({ ...call, body })
        const start = fetch.indexOf('JSON.stringify(') + 'JSON.stringify('.length
        const end = fetch.lastIndexOf('),\n})')
        const value: unknown = new Function(`return ${fetch.slice(start, end)}`)()
        expect(JSON.parse(JSON.stringify(value))).toEqual(JSON.parse(JSON.stringify(body)))
      }),
      { numRuns: 300 },
    )
  })

  test('the shell passes the same bytes to curl', () => {
    for (const prompt of [...nasty, nasty.join(' ')]) {
      const { curl } = snippets({ ...call, body: { prompt } })
      const printed = execFileSync('sh', ['-c', curl.replace(/^curl/, "printf '%s\\n'")], {
        encoding: 'utf8',
      })
      expect(JSON.parse(printed.slice(printed.indexOf('{')))).toEqual({ prompt })
    }
  })
})
