// The UI message stream, read by the schema of the real `ai` package.
import { readUIMessageStream, type UIMessageChunk, uiMessageChunkSchema } from 'ai'
import { expect, test } from 'vitest'
import { encodeWhole, errorEvent } from '../../src/completion/encode.ts'

const shape = { api: 'ai-sdk', as: 'sse', stream: true, includeUsage: false } as const

function partsOf(text: string, finish_reason: 'stop' | 'length' | 'content_filter' = 'stop') {
  const folded = {
    completion: {
      id: 'cmpl-abcdefghijklmnopqrstuvwx',
      object: 'text_completion' as const,
      created: 1_700_000_000,
      model: 'm-1',
      choices: [{ text, index: 0, logprobs: null, finish_reason }],
      usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 },
    },
    estimated: false,
  }
  const events = encodeWhole(folded, { shape, resume: null }).split('\n\n')
  expect(events.slice(-2)).toEqual(['data: [DONE]', ''])
  return events.slice(0, -2).map((event) => JSON.parse(event.slice('data: '.length)))
}

async function messageOf(parts: readonly UIMessageChunk[]) {
  const stream = new ReadableStream<UIMessageChunk>({
    start(controller) {
      for (const part of parts) controller.enqueue(part)
      controller.close()
    },
  })
  let last = null
  for await (const message of readUIMessageStream({ stream, terminateOnError: true })) {
    last = message
  }
  return last
}

test.each([
  ['Hello\u2028there', 'stop', 'stop'],
  ['', 'content_filter', 'content-filter'],
  ['cut', 'length', 'length'],
] as const)('%j becomes a message of one text part', async (text, reason, expected) => {
  const parts = partsOf(text, reason)
  const { validate } = uiMessageChunkSchema()
  for (const part of parts) expect(await validate?.(part)).toMatchObject({ success: true })
  expect(parts.at(-1)).toEqual({ type: 'finish', finishReason: expected })
  expect(await messageOf(parts)).toMatchObject({
    role: 'assistant',
    parts: [{ type: 'step-start' }, { type: 'text', text, state: 'done' }],
  })
})

test('an error after the start is an error part with the message for people', () => {
  const event = errorEvent('ai-sdk', { error: { message: 'The upstream is gone.' } })
  expect(event).toBe('data: {"type":"error","errorText":"The upstream is gone."}\n\n')
})
