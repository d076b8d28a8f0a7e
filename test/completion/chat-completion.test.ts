// The same answer as OpenAI's chat objects and chunks.
import { expect, test } from 'vitest'
import { chatCompletion } from '../../src/completion/chat-completion.ts'
import type { Completion } from '../../src/completion/completion.ts'
import { type Delta, replay } from '../../src/completion/delta.ts'
import { encoder, textsOf } from '../../src/completion/encode.ts'

const usage = { prompt_tokens: 5, completion_tokens: 2, total_tokens: 7 }
const completion: Completion = {
  id: 'cmpl-abcdefghijklmnopqrstuvwx',
  object: 'text_completion',
  created: 1_700_000_000,
  model: 'm-1',
  system_fingerprint: 'fp_1',
  choices: [
    { text: 'Hi', index: 0, logprobs: null, finish_reason: 'stop' },
    { text: '', index: 1, logprobs: null, finish_reason: 'content_filter' },
  ],
  usage,
}

const chat = { api: 'chat', as: 'sse', stream: true, includeUsage: false } as const

test('a completion as a chat completion has the same id, texts, reasons and usage', () => {
  expect(chatCompletion(completion)).toEqual({
    id: 'chatcmpl-abcdefghijklmnopqrstuvwx',
    object: 'chat.completion',
    created: 1_700_000_000,
    model: 'm-1',
    system_fingerprint: 'fp_1',
    choices: [
      {
        index: 0,
        message: { role: 'assistant', content: 'Hi', refusal: null },
        logprobs: null,
        finish_reason: 'stop',
      },
      {
        index: 1,
        message: { role: 'assistant', content: '', refusal: null },
        logprobs: null,
        finish_reason: 'content_filter',
      },
    ],
    usage,
  })
})

test('log probabilities become one object for each token, with its bytes and the likeliest first', () => {
  const logprobs = {
    tokens: ['é', 'bytes:\\xe2\\x80', ' \\xF0\\x9f', 'bytes:\\x41'],
    token_logprobs: [-0.5, null, -1, -1],
    top_logprobs: [{ a: -2, é: -0.5 }, null, {}, {}],
    text_offset: [0, 1, 1, 2],
  }
  const [choice] = chatCompletion({
    ...completion,
    choices: [{ text: 'é', index: 0, logprobs, finish_reason: 'length' }],
  }).choices
  expect(choice?.logprobs).toEqual({
    content: [
      {
        token: 'é',
        logprob: -0.5,
        bytes: [195, 169],
        top_logprobs: [
          { token: 'é', logprob: -0.5, bytes: [195, 169] },
          { token: 'a', logprob: -2, bytes: [97] },
        ],
      },
      { token: '\\xe2\\x80', logprob: -9999, bytes: [226, 128], top_logprobs: [] },
      { token: ' \\xF0\\x9f', logprob: -1, bytes: [32, 240, 159], top_logprobs: [] },
      {
        token: 'bytes:\\x41',
        logprob: -1,
        bytes: [...Buffer.from('bytes:\\x41')],
        top_logprobs: [],
      },
    ],
    refusal: null,
  })
})

function eventsOf(includeUsage: boolean): unknown[] {
  const shape = { ...chat, includeUsage }
  const text = [...textsOf({ completion, estimated: false }, { shape, resume: null })].join('')
  const events = text.split('\n\n')
  expect(events.slice(-2)).toEqual(['data: [DONE]', ''])
  return events.slice(0, -2).map((event) => JSON.parse(event.slice('data: '.length)))
}

const head = {
  id: 'chatcmpl-abcdefghijklmnopqrstuvwx',
  object: 'chat.completion.chunk',
  created: 1_700_000_000,
  model: 'm-1',
  system_fingerprint: 'fp_1',
}
const chunk = (index: number, delta: object, finish_reason: string | null = null) => ({
  ...head,
  choices: [{ index, delta, logprobs: null, finish_reason }],
})
const role = { role: 'assistant', content: '' }

test('each choice of a stream begins with its role and ends with an empty delta', () => {
  expect(eventsOf(false)).toEqual([
    chunk(0, role),
    chunk(0, { content: 'Hi' }),
    chunk(0, {}, 'stop'),
    chunk(1, role),
    chunk(1, {}, 'content_filter'),
  ])
})

test('the usage has a chunk of its own, and is null in all others', () => {
  const events = eventsOf(true)
  expect(events.at(-1)).toEqual({ ...head, choices: [], usage })
  expect(events.slice(0, -1)).toEqual(
    eventsOf(false).map((event) => ({ ...(event as object), usage: null })),
  )
})

test('a resumed stream has the rest of the text only', () => {
  const encode = encoder(chat, { id: completion.id, characters: 1 })
  const texts = replay({ completion, estimated: false }).map((delta: Delta) => encode(delta))
  expect(texts.join('')).toContain('"delta":{"content":"i"}')
})
