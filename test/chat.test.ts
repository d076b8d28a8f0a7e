// Chats and the AI SDK's hooks, in process: the same engine as completions, in other shapes.
import { describe, expect, test } from 'vitest'
import { expectProblem } from './support/answers.ts'
import { chunk, compatible, DONE, type Reply, streamAnswer, TestApp } from './support/app.ts'
import { OPERATOR_TOKEN, ORIGIN } from './support/client.ts'

type Table = Readonly<Record<string, unknown>>

const CHAT = '/v1/chat/completions'
const HOOK = '/v1/ai-sdk'

const post = (app: TestApp, path: string, body: Table, headers: Table = {}): Promise<Reply> =>
  app.ask(path, {
    method: 'POST',
    headers: { 'content-type': 'application/json', origin: ORIGIN, ...headers } as HeadersInit,
    body: JSON.stringify(body),
  })
const user = (content: string) => ({ role: 'user', content })
const chatOf = (...contents: string[]) => ({
  messages: contents.map((content, i) => ({ role: i % 2 === 0 ? 'user' : 'assistant', content })),
})
const hi = chatOf('Hi')

/** An app whose upstream answers every call with "Hello" and a space and "there". */
function chatApp(config: Table = {}, upstream: Table = { wire: 'chat' }): TestApp {
  return new TestApp({
    config: { upstreams: [{ ...compatible, ...upstream }], ...config },
    upstream: () => streamAnswer(chunk('Hello'), chunk(' there', 'stop'), DONE),
  })
}

const sent = (app: TestApp, call = 0): Promise<Table> =>
  app.calls[call]?.json() as unknown as Promise<Table>

interface ChatObject {
  readonly id: string
  readonly choices: readonly { readonly message: { readonly content: string } }[]
}
const objectOf = (reply: Reply) => reply.json() as ChatObject

function eventsOf(reply: Reply): unknown[] {
  expect(reply.headers['content-type']).toBe('text/event-stream; charset=utf-8')
  const events = reply.text.split('\n\n')
  expect(events.slice(-2)).toEqual(['data: [DONE]', ''])
  return events.slice(0, -2).map((event) => JSON.parse(event.slice('data: '.length)))
}

test('a chat is answered as a chat completion', async () => {
  const app = chatApp()
  const reply = await post(app, CHAT, hi)
  expect(reply.json()).toEqual({
    id: expect.stringMatching(/^chatcmpl-[A-Za-z0-9]{24,}$/),
    object: 'chat.completion',
    created: expect.any(Number),
    model: 'model-1-0001',
    choices: [
      {
        index: 0,
        message: { role: 'assistant', content: 'Hello there', refusal: null },
        logprobs: null,
        finish_reason: 'stop',
      },
    ],
    usage: { prompt_tokens: 1, completion_tokens: 3, total_tokens: 4 },
  })
  expect(await sent(app)).toMatchObject({ messages: hi.messages, stream: true })
  expect(app.lines).toMatchObject([{ route: 'chat', status: 200, cache: 'miss', model: 'default' }])
})

test('a chat of one message, a prompt and a hook share one answer in all shapes', async () => {
  const app = chatApp()
  const prompt = { prompt: 'Hi' }
  const parts = { messages: [{ id: '1', role: 'user', parts: [{ type: 'text', text: 'Hi' }] }] }
  const replies = [
    await post(app, CHAT, hi),
    await post(app, CHAT, { ...hi, stream: true }),
    await post(app, CHAT, hi, { accept: 'text/plain' }),
    await post(app, '/v1/completions', prompt),
    await post(app, '/v1/completions', { ...prompt, stream: true }),
    await post(app, HOOK, { ...prompt, id: 'a' }),
    await post(app, HOOK, { ...parts, id: 'b', trigger: 'submit-message', messageId: 'c' }),
    await app.get('prompt=Hi'),
  ]
  expect(app.calls).toHaveLength(1)
  expect(replies.map(({ status }) => status)).toEqual(replies.map(() => 200))
  const ids = [0, 3, 7].map((i) => objectOf(replies[i] as Reply).id.replace(/^chat/, ''))
  expect(new Set(ids).size).toBe(1)
  expect(replies[2]?.text).toBe('Hello there')
  for (const reply of replies) expect(reply.text).toContain('Hello there')
  const tags = replies.slice(1).map(({ headers }) => headers['etag'])
  expect(new Set(tags).size).toBe(5)
  for (const { headers } of replies.slice(1)) {
    expect(headers['cache-status']).toMatch(/^edge-completions; hit; ttl=\d+; detail=memory$/)
  }
})

test('a streamed chat has chunks, and the usage if it is asked for', async () => {
  const app = chatApp()
  const body = { ...hi, stream: true, stream_options: { include_usage: true } }
  const events = eventsOf(await post(app, CHAT, body))
  expect(events).toMatchObject([
    { object: 'chat.completion.chunk', choices: [{ delta: { role: 'assistant', content: '' } }] },
    { choices: [{ delta: { content: 'Hello' }, finish_reason: null }], usage: null },
    { choices: [{ delta: { content: ' there' } }] },
    { choices: [{ delta: {}, finish_reason: 'stop' }] },
    { choices: [], usage: { total_tokens: 4 } },
  ])
})

test('a resumed chat goes on after the characters that were received', async () => {
  const app = chatApp()
  const { id } = objectOf(await post(app, CHAT, hi))
  for (const spelling of [id, id.replace(/^chat/, '')]) {
    const reply = await post(
      app,
      CHAT,
      { ...hi, stream: true },
      { 'last-event-id': `${spelling}:6` },
    )
    expect(reply.text).toContain('"delta":{"content":"there"}')
    expect(reply.text).not.toContain('Hello')
  }
  expect(app.calls).toHaveLength(1)
})

describe('what is sent', () => {
  const system = { role: 'system', content: 'Be brief.' }
  const developer = { role: 'developer', content: 'Be brief.' }
  const named = { role: 'user', content: 'Hi', name: 'Ann' }
  const talk = [user('a'), { role: 'assistant', content: 'b' }, user('c')]

  test.each<[string, Table, readonly Table[], Table]>([
    ['chat', { wire: 'chat' }, [system, ...talk], { messages: [system, ...talk] }],
    ['chat, a developer', { wire: 'chat' }, [developer, ...talk], { messages: [system, ...talk] }],
    [
      'OpenAI, a developer',
      { preset: 'openai', wire: 'chat' },
      [developer, ...talk],
      { messages: [developer, ...talk] },
    ],
    ['chat, a name', { wire: 'chat' }, [named], { messages: [named] }],
    [
      'Anthropic',
      { wire: 'anthropic' },
      [system, developer, ...talk],
      { system: 'Be brief.\n\nBe brief.', messages: talk },
    ],
    [
      'Anthropic, turns that do not alternate',
      { wire: 'anthropic' },
      [{ role: 'assistant', content: 'a' }, named, { role: 'assistant', content: '' }, user('b')],
      { messages: [user('…'), { role: 'assistant', content: 'a' }, user('Ann: Hi\n\nb')] },
    ],
    [
      'Anthropic, blank texts, which it refuses',
      { wire: 'anthropic' },
      [
        { role: 'system', content: ' ' },
        user('a'),
        { role: 'assistant', content: '\n' },
        user(' '),
      ],
      { messages: [user('a\n\n ')] },
    ],
    ['a completions wire', { wire: 'completions', chat_path: '/chat' }, talk, { messages: talk }],
  ])('to %s', async (_, upstream, messages, expected) => {
    const app = chatApp({}, upstream)
    await post(app, CHAT, { messages })
    const { messages: given, system } = await sent(app)
    expect({ messages: given, ...(system === undefined ? {} : { system }) }).toEqual(expected)
  })

  test('a completions wire has its own path for chats, and another entry for a prompt', async () => {
    const app = chatApp({}, { wire: 'completions', chat_path: '/chat/completions' })
    await post(app, CHAT, hi)
    await post(app, '/v1/completions', { prompt: 'Hi' })
    expect(app.calls.map(({ url }) => url)).toEqual([
      'https://upstream.test/v1/chat/completions',
      'https://upstream.test/v1/completions',
    ])
  })

  test('a completions wire without a path for chats refuses them before anything is spent', async () => {
    const app = chatApp({}, { wire: 'completions' })
    const reply = await post(app, CHAT, hi)
    const problem = await expectProblem(reply, 400, 'unsupported_by_upstream', app.log)
    expect(problem).toMatchObject({ param: 'messages' })
    expect(app.calls).toEqual([])
  })

  test('the fields of chats have the names of the wire', async () => {
    const app = chatApp()
    const response_format = { type: 'json_schema', json_schema: { name: 'x', schema: {} } }
    const fields = { max_completion_tokens: 9, logprobs: true, top_logprobs: 2, response_format }
    await post(app, CHAT, { ...hi, ...fields })
    expect(await sent(app)).toMatchObject({
      max_tokens: 9,
      logprobs: true,
      top_logprobs: 2,
      response_format,
    })
  })

  test("log probabilities of the owner's default can be switched off", async () => {
    const app = chatApp({ defaults: { logprobs: 2 } })
    await post(app, CHAT, hi)
    expect(await sent(app)).toMatchObject({ logprobs: true, top_logprobs: 2 })
    await post(app, CHAT, { ...hi, logprobs: false })
    expect(await sent(app, 1)).not.toHaveProperty('logprobs')
  })

  test.each(['json_object', 'json_schema'])('%s needs an upstream that has it', async (type) => {
    const app = chatApp({}, { wire: 'anthropic' })
    const reply = await post(app, CHAT, { ...hi, response_format: { type, json_schema: {} } })
    const problem = await expectProblem(reply, 400, 'unsupported_by_upstream', app.log)
    expect(problem).toMatchObject({ param: 'response_format' })
  })

  test('every message and the schema are reserved', async () => {
    const app = chatApp({ limits: { max_tokens: 10 }, defaults: { max_tokens: 10 } })
    const inputOf = async (body: Table) => {
      await post(app, CHAT, body)
      return app.ledger.reserved.at(-1)?.tokens ?? 0
    }
    const short = await inputOf(chatOf('a', 'b', 'c'))
    expect(await inputOf(chatOf('aé', 'bb', 'cc'))).toBe(short + 4)
    const schema = { type: 'json_schema', json_schema: { name: 'x'.repeat(100), schema: {} } }
    expect(await inputOf({ ...chatOf('a', 'b', 'c'), response_format: schema })).toBeGreaterThan(
      short + 100,
    )
  })
})

describe("the owner's words", () => {
  const models = [{ id: 'default', upstream: 'main', upstream_model: 'm', chat_system: 'Be kind.' }]

  test("a model's chat_system comes first, and visitors cannot send their own", async () => {
    const app = chatApp({ models })
    await post(app, CHAT, hi)
    expect(await sent(app)).toMatchObject({
      messages: [{ role: 'system', content: 'Be kind.' }, user('Hi')],
    })
    for (const role of ['system', 'developer']) {
      const reply = await post(app, CHAT, {
        messages: [user('a'), { role, content: 'x' }, user('b')],
      })
      expect(reply.json()).toMatchObject({
        error: { code: 'locked_by_owner', param: 'messages[1].role' },
      })
    }
    await post(app, '/v1/completions', { prompt: 'Hi' })
    expect(await sent(app, 1)).toMatchObject({ messages: [user('Hi')] })
  })

  const prompts = {
    helper: {
      chat: true,
      system: 'You help with {{topic}}.',
      text: 'Question: {{message}}',
      variables: { topic: { max_chars: 9 } },
      visitor_may_set: ['max_tokens'],
    },
    plain: { chat: true },
    haiku: { text: 'A haiku.' },
  }
  const helper = { model: 'helper', variables: { topic: 'sea' } }

  test('a locked chat has its system message first and its text around the last message', async () => {
    const app = chatApp({ prompts })
    const talk = chatOf('a', 'b', 'c {{topic}}')
    const reply = await post(app, CHAT, { ...talk, ...helper, max_completion_tokens: 5 })
    expect(reply.status).toBe(200)
    expect(await sent(app)).toMatchObject({
      messages: [
        { role: 'system', content: 'You help with sea.' },
        ...talk.messages.slice(0, -1),
        user('Question: c {{topic}}'),
      ],
      max_tokens: 5,
    })
    expect(app.lines).toMatchObject([{ model: 'default' }])
  })

  test.each<[string, string, Table, object]>([
    ['a free chat', CHAT, hi, { code: 'free_prompts_disabled', param: 'messages' }],
    [
      'a prompt that is no chat',
      CHAT,
      { ...hi, model: 'haiku' },
      { code: 'free_prompts_disabled' },
    ],
    [
      'a chat as a prompt',
      '/v1/completions',
      { prompt: { id: 'plain' } },
      { param: 'prompt.id', message: expect.stringContaining('POST /v1/chat/completions') },
    ],
    [
      'a system message',
      CHAT,
      { messages: [{ role: 'system', content: 'x' }, user('a')], model: 'plain' },
      { code: 'locked_by_owner', param: 'messages[0].role' },
    ],
    [
      'a locked field',
      CHAT,
      { ...hi, model: 'plain', temperature: 0 },
      { code: 'locked_by_owner', param: 'temperature' },
    ],
    [
      'a locked limit',
      CHAT,
      { ...hi, model: 'plain', max_tokens: 5 },
      { code: 'locked_by_owner', param: 'max_tokens' },
    ],
    [
      'a locked limit, under the name that was sent,',
      CHAT,
      { ...hi, model: 'plain', max_completion_tokens: 5 },
      {
        code: 'locked_by_owner',
        param: 'max_completion_tokens',
        message: expect.stringContaining('"max_completion_tokens"'),
      },
    ],
    [
      'a missing variable',
      CHAT,
      { ...hi, model: 'helper' },
      { code: 'missing_field', param: 'variables.topic' },
    ],
    [
      'a long variable',
      CHAT,
      { ...hi, model: 'helper', variables: { topic: '0123456789' } },
      {
        code: 'invalid_value',
        param: 'variables.topic',
        message: expect.stringContaining('"variables.topic"'),
      },
    ],
    ['a hook without both', HOOK, { model: 'plain' }, { code: 'missing_field', param: 'messages' }],
    ['a hook with n', HOOK, { ...hi, model: 'plain', n: 1 }, { code: 'invalid_value', param: 'n' }],
  ])('%s is refused', async (_, path, body, error) => {
    const app = chatApp({ prompts })
    const reply = await post(app, path, body)
    expect([reply.status, reply.json()]).toMatchObject([400, { error }])
    expect(app.calls).toEqual([])
  })

  test('the id of a prompt as a model is refused at the other path, naming the right one', async () => {
    const app = chatApp({ prompts, free_prompts: true })
    for (const [path, body, right] of [
      ['/v1/completions', { prompt: 'a', model: 'plain' }, CHAT],
      [CHAT, { ...hi, model: 'haiku' }, '/v1/completions'],
    ] as const) {
      const message = `Cannot use the model "${body.model}": it is a prompt for POST ${right}`
      const reply = await post(app, path, body)
      expect(reply.json()).toMatchObject({
        error: { code: 'model_not_allowed', param: 'model', message },
      })
    }
  })

  test('a locked chat asked for as a prompt is refused at every path, saying that its id is the model', async () => {
    const app = chatApp({ prompts })
    const prompt = { id: 'plain' }
    for (const [path, body] of [
      ['/v1/completions', { prompt }],
      [HOOK, { prompt }],
      [CHAT, { ...hi, prompt }],
    ] as const) {
      const reply = await post(app, path, body)
      expect([reply.status, reply.text]).toEqual([400, expect.stringContaining('as \\"model\\"')])
    }
  })

  test('a locked chat may let visitors set the format of the answer', async () => {
    const app = chatApp({
      prompts: { plain: { chat: true, visitor_may_set: ['response_format'] } },
    })
    const response_format = { type: 'json_object' }
    expect((await post(app, CHAT, { ...hi, model: 'plain', response_format })).status).toBe(200)
    expect(await sent(app)).toMatchObject({ response_format })
  })

  test('chat prompts are models of the owner', async () => {
    const app = chatApp({ prompts })
    const owners = { id: 'helper', object: 'model', created: 0, owned_by: 'owner' }
    expect((await app.ask('/v1/models')).json()).toMatchObject({
      data: [{ id: 'default', owned_by: 'main' }, owners, { id: 'plain', owned_by: 'owner' }],
    })
    expect((await app.ask('/v1/models/helper')).json()).toEqual(owners)
    expect((await app.ask('/v1/models/haiku')).status).toBe(404)
  })
})

describe('the hooks', () => {
  const part = (text: string) => ({ type: 'text', text })
  const message = (role: string, ...texts: string[]) => ({ id: 'x', role, parts: texts.map(part) })

  test('a history of UI messages is sent as a conversation', async () => {
    const app = chatApp()
    const reply = await post(app, HOOK, {
      id: 'chat-1',
      trigger: 'submit-message',
      messages: [
        message('user', 'a', 'b'),
        { id: 'y', role: 'assistant', parts: [{ type: 'step-start' }, part('c')] },
        message('user', 'd'),
      ],
    })
    expect(reply.headers['x-vercel-ai-ui-message-stream']).toBe('v1')
    expect(eventsOf(reply).map((event) => (event as { type: string }).type)).toEqual([
      'start',
      'start-step',
      'text-start',
      'text-delta',
      'text-delta',
      'text-end',
      'finish-step',
      'finish',
    ])
    expect(await sent(app)).toMatchObject(chatOf('ab', 'c', 'd'))
  })

  test('the oldest messages of a long history are left out', async () => {
    const app = chatApp({ limits: { messages: 3, chat_chars: 8 } })
    const histories: [string[], string[]][] = [
      [
        ['1', '2', '3', '4', '5'],
        ['3', '4', '5'],
      ],
      [
        ['1234', '5678', '9'],
        ['5678', '9'],
      ],
    ]
    for (const [i, [texts, kept]] of histories.entries()) {
      const messages = texts.map((text, j) => message(j % 2 === 0 ? 'user' : 'assistant', text))
      expect((await post(app, HOOK, { messages })).status).toBe(200)
      const { messages: given } = (await sent(app, i)) as { messages: { content: string }[] }
      expect(given.map(({ content }) => content)).toEqual(kept)
    }
    const long = await post(app, HOOK, { messages: [message('user', '123456789')] })
    expect(long.json()).toMatchObject({ error: { code: 'invalid_value', param: 'messages' } })
  })

  test('a file in a user message is refused, and one in an answer is ignored', async () => {
    const app = chatApp()
    const file = { type: 'file', mediaType: 'image/png', url: 'data:,' }
    const refused = await post(app, HOOK, {
      messages: [{ role: 'user', parts: [part('a'), file] }],
    })
    expect(refused.json()).toMatchObject({
      error: { code: 'invalid_value', param: 'messages[0].parts[1]' },
    })
    const messages = [message('user', 'a'), { role: 'assistant', parts: [file, part('b')] }]
    await post(app, HOOK, { messages: [...messages, message('user', 'c')] })
    expect(await sent(app)).toMatchObject(chatOf('a', 'b', 'c'))
  })

  test.each([
    ['no parts', []],
    ['an empty part', [part('')]],
  ])('a user message with %s is refused by its place in the whole history', async (_, parts) => {
    const app = chatApp({ limits: { messages: 2 } })
    const messages = [message('user', 'a'), message('assistant', 'b'), { role: 'user', parts }]
    expect((await post(app, HOOK, { messages })).json()).toMatchObject({
      error: { code: 'invalid_value', param: 'messages[2].parts' },
    })
  })

  test('null is the same as absent', async () => {
    const app = chatApp()
    const absent = { n: null, id: null, trigger: null, messageId: null, model: null }
    expect((await post(app, HOOK, { prompt: 'a', messages: null, ...absent })).status).toBe(200)
    const messages = [message('user', 'a')]
    expect((await post(app, HOOK, { messages, prompt: null, ...absent })).status).toBe(200)
    expect(app.calls).toHaveLength(1)
  })

  test('there is no stream to resume', async () => {
    const reply = await chatApp().ask(`${HOOK}/chat-1/stream`, { headers: { origin: ORIGIN } })
    expect([reply.status, reply.text]).toEqual([204, ''])
  })

  test('a failure before the first text is an HTTP error, and one after it an error part', async () => {
    const app = new TestApp({
      config: { upstreams: [{ ...compatible, wire: 'chat', retries: 0 }] },
      upstream: (_, call) =>
        call === 0 ? new Response('', { status: 500 }) : streamAnswer(chunk('Hel')),
    })
    const failed = await post(app, HOOK, { prompt: 'a' })
    await expectProblem(failed, 502, 'upstream_unavailable', app.log)
    const broken = await post(app, HOOK, { prompt: 'a' })
    expect(broken.text).toContain('"type":"text-delta","id":"0","delta":"Hel"')
    expect(broken.text).toMatch(/data: \{"type":"error","errorText":"[^"]+"\}\n\n$/)
  })
})

test('a purge takes the bodies of all three paths', async () => {
  const app = chatApp()
  const bodies = [
    { prompt: 'Hi' },
    { prompt: 'Hi', messages: null },
    { prompt: 'Hi', id: 'x' },
    { messages: hi.messages, id: 'x', trigger: 'submit-message' },
    hi,
    { id: 'x', messages: [{ role: 'user', parts: [{ type: 'text', text: 'Hi' }] }] },
  ]
  for (const [i, request] of bodies.entries()) {
    app.clock.ms += 2000
    await post(app, CHAT, hi)
    expect(app.calls).toHaveLength(i + 1)
    const headers = { authorization: `Bearer ${OPERATOR_TOKEN}` }
    const purged = await post(app, '/admin/purge', { request }, headers)
    expect(purged.json()).toEqual({ purged: 'request' })
    app.clock.ms += 2000
  }
  await post(app, CHAT, hi)
  expect(app.calls).toHaveLength(bodies.length + 1)
})
