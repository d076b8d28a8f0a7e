// The request of a chat, and what is wrong with one.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { chatParser } from '../../src/request/chat.ts'
import { refusalOf } from '../support/failure.ts'

const limits = {
  prompt_chars: 10,
  max_tokens: 100,
  n: 2,
  prompts: 1,
  messages: 4,
  chat_chars: 40,
}
const parse = chatParser(limits, (id) => id === 'helper')
const user = (content: unknown) => ({ role: 'user', content })
const chat = (...messages: unknown[]) => ({ messages })

test('a chat becomes a request whose prompt is the conversation', () => {
  expect(
    parse({
      messages: [
        {
          role: 'system',
          content: [
            { type: 'text', text: 'Be ' },
            { type: 'text', text: 'brief', cache_control: null },
          ],
        },
        { role: 'user', content: 'Hi', name: 'Ann' },
        {
          role: 'assistant',
          content: null,
          refusal: null,
          tool_calls: [],
          annotations: [],
          parsed: { a: 1 },
        },
        user('A text longer than prompt_chars'.slice(0, 20)),
      ],
      model: 'default',
      max_completion_tokens: 7,
      logprobs: true,
      top_logprobs: 3,
      response_format: { type: 'json_object' },
      temperature: 0.5,
      stream: true,
      stream_options: { include_usage: true },
      tools: [],
      store: false,
      parallel_tool_calls: true,
    }),
  ).toEqual({
    prompt: [
      { role: 'system', content: 'Be brief' },
      { role: 'user', content: 'Hi', name: 'Ann' },
      { role: 'assistant', content: '' },
      { role: 'user', content: 'A text longer than p' },
    ],
    model: 'default',
    max_tokens: 7,
    logprobs: 3,
    response_format: { type: 'json_object' },
    temperature: 0.5,
    stream: true,
    stream_options: { include_usage: true },
  })
})

test('what has no effect is absent', () => {
  expect(
    parse({ ...chat(user('Hi')), logprobs: false, response_format: { type: 'text' } }),
  ).toEqual({
    prompt: [{ role: 'user', content: 'Hi' }],
  })
  expect(parse({ ...chat(user('Hi')), logprobs: true })).toMatchObject({ logprobs: 0 })
  // The owner's default may be another value.
  expect(parse({ ...chat(user('Hi')), logprobs: false })).toHaveProperty('logprobs', undefined)
  expect(parse({ ...chat(user('Hi')), logprobs: false, model: 'helper' })).not.toHaveProperty(
    'logprobs',
  )
  expect(parse({ ...chat(user('Hi')), max_tokens: 9, max_completion_tokens: 9 })).toMatchObject({
    max_tokens: 9,
  })
})

test('the id of a prompt for chats as model makes it a locked prompt', () => {
  expect(parse({ ...chat(user('Hi')), model: 'helper', variables: { topic: 'sea' } })).toEqual({
    prompt: {
      id: 'helper',
      variables: { topic: 'sea' },
      messages: [{ role: 'user', content: 'Hi' }],
      limitName: 'max_completion_tokens',
    },
  })
})

function deep(levels: number): object {
  let value = {}
  for (let i = 0; i < levels; i++) value = { a: value }
  return value
}

test.each<[string, object, string, string, RegExp]>([
  ['a prompt', { prompt: 'Hi' }, 'unknown_field', 'prompt', /POST \/v1\/completions/],
  ['echo', { ...chat(user('a')), echo: true }, 'unknown_field', 'echo', /not a field/],
  ['suffix', { ...chat(user('a')), suffix: 'x' }, 'unknown_field', 'suffix', /not a field/],
  ['best_of', { ...chat(user('a')), best_of: 1 }, 'unknown_field', 'best_of', /not a field/],
  ['no messages', {}, 'missing_field', 'messages', /required/],
  ['messages as text', { messages: 'Hi' }, 'invalid_value', 'messages', /list/],
  ['an empty list', chat(), 'invalid_value', 'messages', /1 to 4 messages, got 0/],
  ['five messages', chat(...Array(5).fill(user('a'))), 'invalid_value', 'messages', /1 to 4/],
  [
    '41 characters',
    chat(user('a'.repeat(20)), user('b'.repeat(21))),
    'invalid_value',
    'messages',
    /40/,
  ],
  [
    'a name beyond the limit',
    chat({ ...user('a'.repeat(20)), name: 'b'.repeat(21) }),
    'invalid_value',
    'messages',
    /40/,
  ],
  ['a text as message', chat('Hi'), 'invalid_value', 'messages[0]', /"role" and "content"/],
  [
    'an unknown role',
    chat({ role: 'bot', content: 'a' }),
    'invalid_value',
    'messages[0].role',
    /got "bot"/,
  ],
  ['no role', chat({ content: 'a' }), 'invalid_value', 'messages[0].role', /got nothing/],
  [
    'the role tool',
    chat({ role: 'tool', content: 'a' }),
    'invalid_value',
    'messages[0].role',
    /text only/,
  ],
  [
    'the role function',
    chat({ role: 'function', content: 'a' }),
    'invalid_value',
    'messages[0].role',
    /text only/,
  ],
  [
    'tool calls',
    chat(user('a'), { role: 'assistant', tool_calls: [{}] }, user('b')),
    'invalid_value',
    'messages[1].tool_calls',
    /text only/,
  ],
  [
    'a function call',
    chat({ role: 'assistant', function_call: {} }, user('b')),
    'invalid_value',
    'messages[0].function_call',
    /text only/,
  ],
  [
    'an image',
    chat(
      user('a'),
      user([
        { type: 'text', text: 'b' },
        { type: 'image_url', image_url: {} },
      ]),
    ),
    'invalid_value',
    'messages[1].content[1]',
    /text only/,
  ],
  [
    'a part that is a text',
    chat(user(['b'])),
    'invalid_value',
    'messages[0].content[0]',
    /text only/,
  ],
  [
    'a text that is a number',
    chat(user([{ type: 'text', text: 1 }])),
    'invalid_value',
    'messages[0].content[0].text',
    /got 1/,
  ],
  [
    'a field of a part',
    chat(user([{ type: 'text', text: 'a', x: 1 }])),
    'invalid_value',
    'messages[0].content[0].x',
    /not a field/,
  ],
  [
    'content as number',
    chat(user(1)),
    'invalid_value',
    'messages[0].content',
    /expected text, got 1/,
  ],
  ['no content', chat({ role: 'user' }), 'missing_field', 'messages[0].content', /required/],
  ['an empty text', chat(user('')), 'invalid_value', 'messages[0].content', /not empty/],
  ['an empty list of parts', chat(user([])), 'invalid_value', 'messages[0].content', /not empty/],
  [
    'an empty system message',
    chat({ role: 'system', content: '' }, user('a')),
    'invalid_value',
    'messages[0].content',
    /not empty/,
  ],
  ['a lone surrogate', chat(user('\ud800')), 'invalid_value', 'messages[0].content', /Unicode/],
  [
    'an empty name',
    chat({ ...user('a'), name: '' }),
    'invalid_value',
    'messages[0].name',
    /1 to 64/,
  ],
  [
    'the object of an answer, in another message',
    chat({ ...user('a'), parsed: {} }),
    'invalid_value',
    'messages[0].parsed',
    /not a field/,
  ],
  [
    'a field of a message',
    chat({ ...user('a'), weight: 1 }),
    'invalid_value',
    'messages[0].weight',
    /not a field/,
  ],
  [
    'a field with a long name and a line break',
    chat({ ...user('a'), [`x\n${'y'.repeat(99)}`]: 1 }),
    'invalid_value',
    `messages[0].x\n${'y'.repeat(50)}`,
    /"messages\[0\]\.x\\ny+…": it is not a field/,
  ],
  [
    'a schema with half a surrogate pair',
    { ...chat(user('a')), response_format: { type: 'json_object', title: '\ud800' } },
    'invalid_value',
    'response_format',
    /well-formed Unicode/,
  ],
  [
    'a schema whose name is half a surrogate pair',
    { ...chat(user('a')), response_format: { type: 'json_object', '\ud800': 1 } },
    'invalid_value',
    'response_format',
    /well-formed Unicode/,
  ],
  [
    'a schema with a number beyond all',
    {
      ...chat(user('a')),
      response_format: { type: 'json_object', maximum: Number.POSITIVE_INFINITY },
    },
    'invalid_value',
    'response_format',
    /finite numbers/,
  ],
  [
    'an answer last',
    chat(user('a'), { role: 'assistant', content: 'b' }),
    'invalid_value',
    'messages[1].role',
    /"user" in the last/,
  ],
  [
    'a system message last',
    chat({ role: 'system', content: 'b' }),
    'invalid_value',
    'messages[0].role',
    /"user" in the last/,
  ],
  [
    'two limits',
    { ...chat(user('a')), max_tokens: 1, max_completion_tokens: 2 },
    'invalid_value',
    'max_completion_tokens',
    /the same as "max_tokens"/,
  ],
  [
    'top_logprobs alone',
    { ...chat(user('a')), top_logprobs: 1 },
    'invalid_value',
    'top_logprobs',
    /requires "logprobs"/,
  ],
  [
    'logprobs as number',
    { ...chat(user('a')), logprobs: 1 },
    'invalid_value',
    'logprobs',
    /true or false/,
  ],
  [
    'a format without schema',
    { ...chat(user('a')), response_format: { type: 'json_schema' } },
    'invalid_value',
    'response_format',
    /json_object/,
  ],
  [
    'variables without a prompt',
    { ...chat(user('a')), variables: {} },
    'invalid_value',
    'variables',
    /"model"/,
  ],
  [
    'tools',
    { ...chat(user('a')), tools: [{ type: 'function' }] },
    'invalid_value',
    'tools',
    /\[\]/,
  ],
  [
    'stream options without a stream',
    { ...chat(user('a')), stream_options: {} },
    'invalid_value',
    'stream_options',
    /"stream": true/,
  ],
])('%s is refused', async (_, body, code, param, message) => {
  const refusal = await refusalOf(() => parse(body))
  expect(refusal).toMatchObject({ code, param })
  expect(refusal.message).toMatch(message)
})

test('a JSON schema may be 64 levels deep', async () => {
  const formatOf = (levels: number) => ({
    ...chat(user('a')),
    response_format: { type: 'json_schema', json_schema: deep(levels) },
  })
  expect(parse(formatOf(61))).toMatchObject({ response_format: { type: 'json_schema' } })
  for (const levels of [70, 100_000]) {
    expect(refusalOf(() => parse(formatOf(levels)))).toMatchObject({
      code: 'invalid_value',
      param: 'response_format',
      message: expect.stringContaining('64 levels'),
    })
  }
})

test('any place may be nested too deeply', async () => {
  const value = deep(100_000)
  const fields = ['model', 'name', 'logprobs', 'tools', 'variables', 'stop', 'logit_bias']
  for (const body of [
    value,
    { messages: value },
    chat(value),
    ...['role', 'content', 'name', 'tool_calls', 'other'].map((field) =>
      chat({ ...user('a'), [field]: value }),
    ),
    chat(user([value])),
    chat(user([{ type: 'text', text: value }])),
    ...fields.map((field) => ({ ...chat(user('a')), [field]: value })),
  ]) {
    expect(await refusalOf(() => parse(body))).toMatchObject({ code: expect.any(String) })
  }
})

test('any body is a request or a refusal', () => {
  fc.assert(
    fc.property(fc.array(fc.anything(), { maxLength: 4 }), fc.anything(), (messages, extra) => {
      for (const body of [{ messages }, { messages: [user('a')], model: extra }, extra]) {
        try {
          parse(body)
        } catch (error) {
          expect(error).toMatchObject({ name: 'GatewayError' })
        }
      }
    }),
  )
})
