// The code that the playground shows: correctly quoted for every prompt. That the code runs and prints
// the same answer as the page is tested in test/browser/playground.test.ts.
import { execFileSync } from 'node:child_process'
import { transform } from 'esbuild'
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
  const { client, fetch, curl, openai, python, useChat } = snippets(call)
  expect(client).toBe(
    `import { complete } from 'https://edge.example/client.js'\n\nconsole.log(await complete('Once upon a time'))`,
  )
  expect(fetch.split('\n')).toHaveLength(7)
  expect(curl).toBe(
    `curl https://edge.example/v1/completions --json '{"prompt":"Once upon a time"}'`,
  )
  expect(openai).toContain("baseURL: 'https://edge.example/v1'")
  expect(openai).toContain("create({ model: 'default', prompt: 'Once upon a time' })")
  expect(python).toBe(
    [
      'from openai import OpenAI',
      '',
      'client = OpenAI(base_url="https://edge.example/v1", api_key="none")',
      'answer = client.completions.create(',
      '    model="default",',
      '    prompt="Once upon a time",',
      ')',
      'print(answer.choices[0].text)',
    ].join('\n'),
  )
  expect(useChat).toBe('')
})

describe('a conversation', () => {
  const messages = [
    { role: 'system', content: 'Be brief.' },
    { role: 'user', content: 'Who are you?' },
    { role: 'assistant', content: 'A model.' },
    { role: 'user', content: 'Which\none?' },
  ]
  const chat = { ...call, body: { messages, stream: true } }

  test('goes to the chat path, and is streamed', () => {
    const { client, fetch, curl, openai, python } = snippets(chat)
    expect(client).toContain("import { chat } from 'https://edge.example/client.js'")
    expect(client).toContain('for await (const text of chat(messages, { stream: true }))')
    expect(fetch).toContain("fetch('https://edge.example/v1/chat/completions', {")
    expect(curl).toContain('https://edge.example/v1/chat/completions')
    expect(openai).toContain('client.chat.completions.create({')
    expect(openai).toContain('choices[0]?.delta.content')
    expect(python).toContain(
      'client.chat.completions.create(\n    model="default",\n    messages=[\n',
    )
    expect(python).toContain('    stream=True,\n)\nfor chunk in answer:')
    expect(python).toContain('choice.delta.content')
  })

  test('begins with its earlier turns in useChat, and the button sends the last message', async () => {
    const { useChat } = snippets(chat)
    expect(useChat).toContain("new DefaultChatTransport({ api: 'https://edge.example/v1/ai-sdk' })")
    expect(useChat).toContain("parts: [{ type: 'text', text: 'A model.' }]")
    expect(useChat).toContain("sendMessage({ text: 'Which\\none?' })")
    expect(useChat.split('Which')).toHaveLength(2)
    await expect(transform(useChat, { loader: 'jsx' })).resolves.toMatchObject({ warnings: [] })
    const first = { ...chat, body: { messages: messages.slice(1, 2), stream: true } }
    expect(snippets(first).useChat).toContain('useChat({ transport })')
  })

  test('takes the variables of a locked prompt as a field', () => {
    const fields = { model: 'helper', variables: { tone: 'dry' }, temperature: 0 }
    const { client, openai, python, useChat } = snippets({
      ...chat,
      body: { ...fields, ...chat.body },
      sitekey: '0x4AAA',
    })
    expect(client).toContain("chat(messages, {\n  model: 'helper',\n  variables: { tone: 'dry' },")
    expect(openai).toContain("variables: { tone: 'dry' }")
    expect(python).toContain('    extra_body={"variables": {"tone": "dry"}},\n')
    expect(python).not.toContain('default')
    expect(useChat).toContain(
      "body: { model: 'helper', variables: { tone: 'dry' }, temperature: 0 }",
    )
    expect(useChat).toContain("headers: { 'X-Visitor-Token': token }")
  })
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
  const { client, openai, python } = snippets({ ...call, body: { prompt }, mayNameModel: false })
  expect(client).toContain("complete({ id: 'haiku', variables: { topic: 'sea' } })")
  expect(openai).not.toContain('model')
  expect(python).toContain('    model=None,\n')
})

test('with Turnstile, all snippets send a visitor token', () => {
  const { client, fetch, curl, openai, python } = snippets({ ...call, sitekey: '0x4AAA' })
  expect(client).toContain("createClient({ turnstile: { sitekey: '0x4AAA' } })")
  expect(fetch).toContain("'X-Visitor-Token': token")
  expect(curl).toContain('-H "X-Visitor-Token: $TOKEN"')
  expect(openai).toContain('apiKey: token')
  expect(python).toContain('api_key=token')
})

test('a selected model appears once in each snippet', () => {
  const { useChat: _, ...given } = snippets({ ...call, body: { ...call.body, model: 'second' } })
  const all = Object.values(given)
  for (const code of all) expect(code.split('second')).toHaveLength(2)
  expect(all.join('')).not.toMatch(/['"]default['"]/)
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

  test('the Python literal is JSON', () => {
    // Every JSON string is a string of Python, and nothing else is nested in a prompt.
    fc.assert(
      fc.property(bodies, ({ prompt }) => {
        const { python } = snippets({ ...call, body: { prompt } })
        const value = python.slice(python.indexOf('prompt=') + 7, python.lastIndexOf(',\n)'))
        expect(JSON.parse(value.replaceAll(/,(?=\n *[}\]])/g, ''))).toEqual(
          JSON.parse(JSON.stringify(prompt)),
        )
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
