// The six shapes in which one question is asked and its answer read, each with a strict reader: a
// field or an event too many fails as much as a missing one.
import { parseJsonEventStream, type UIMessageChunk, uiMessageChunkSchema } from 'ai'
import * as v from 'valibot'
import { expect } from 'vitest'
import { completionSchema, finishReasons } from '../../src/completion/completion.ts'
import { completionOf, objectsOf, parseStream } from './answers.ts'
import type { ClientRequest } from './client.ts'

/** An answer, or the part of it that arrived. */
interface Reading {
  /** Of the completion. Bare text and UI messages have none. */
  readonly id: string | null
  readonly text: string
  readonly finish: string | null
  /** The message of the error event, if the stream ended with one. */
  readonly problem: string | null
  /** Whether its end says that it is whole. Bare text does not tell: its connection does. */
  readonly done: boolean
}

export interface AnswerShape {
  readonly name: string
  readonly form: 'json' | 'events' | 'text'
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  /** The body that asks one question of a model. */
  readonly body: (question: string, model: string) => Readonly<Record<string, unknown>>
  /** Reads a body with status 200. */
  readonly read: (text: string) => Reading | Promise<Reading>
}

const COMPLETIONS = '/v1/completions'
const CHAT = '/v1/chat/completions'

const prompt = (question: string, model: string) => ({ prompt: question, model })
const chat = (question: string, model: string) => ({
  messages: [{ role: 'user', content: question }],
  model,
})
const history = (question: string, model: string) => ({
  id: 'chat-1',
  trigger: 'submit-message',
  messages: [{ id: 'message-1', role: 'user', parts: [{ type: 'text', text: question }] }],
  model,
})
const streamed = (body: AnswerShape['body']): AnswerShape['body'] => {
  return (...asked) => ({ ...body(...asked), stream: true })
}

export const shapes: readonly AnswerShape[] = [
  {
    name: 'completion JSON',
    form: 'json',
    path: COMPLETIONS,
    headers: {},
    body: prompt,
    read: (text) => {
      const headers = { 'content-type': 'application/json' }
      const { id, choices } = completionOf({ status: 200, headers, text })
      return whole(id, choices[0]?.text ?? '', choices[0]?.finish_reason ?? null)
    },
  },
  {
    name: 'completion SSE',
    form: 'events',
    path: COMPLETIONS,
    headers: {},
    body: streamed(prompt),
    read: (body) => {
      const { chunks, problem, done, text, finish } = parseStream(body)
      const id = chunks[0]?.id ?? null
      return { id, text: text(), finish: finish(), problem: problem?.message ?? null, done }
    },
  },
  { name: 'chat JSON', form: 'json', path: CHAT, headers: {}, body: chat, read: readChat },
  {
    name: 'chat SSE',
    form: 'events',
    path: CHAT,
    headers: {},
    body: streamed(chat),
    read: readChatStream,
  },
  {
    name: 'bare text',
    form: 'text',
    path: COMPLETIONS,
    headers: { accept: 'text/plain' },
    body: streamed(prompt),
    read: (text) => ({ id: null, text, finish: null, problem: null, done: false }),
  },
  {
    name: 'UI messages',
    form: 'events',
    path: '/v1/ai-sdk',
    headers: {},
    body: history,
    read: readUiMessage,
  },
]

/** The request for the answer in a shape. */
export function requestOf(
  { path, headers, body }: AnswerShape,
  question: string,
  model: string,
  more: Readonly<Record<string, string>> = {},
): ClientRequest {
  return { method: 'POST', path, headers: { ...headers, ...more }, body: body(question, model) }
}

const whole = (id: string, text: string, finish: string | null): Reading => ({
  id,
  text,
  finish,
  problem: null,
  done: true,
})

const logprobSchema = v.strictObject({
  token: v.string(),
  logprob: v.number(),
  bytes: v.array(v.number()),
})
const chatLogprobs = v.nullable(
  v.strictObject({
    content: v.array(
      v.strictObject({ ...logprobSchema.entries, top_logprobs: v.array(logprobSchema) }),
    ),
    refusal: v.null(),
  }),
)
const { created, model, system_fingerprint, usage } = completionSchema.entries
const head = {
  id: v.pipe(v.string(), v.regex(/^chatcmpl-[A-Za-z0-9]{24,}$/)),
  created,
  model,
  system_fingerprint,
}
const index = v.pipe(v.number(), v.integer())

const chatSchema = v.strictObject({
  ...head,
  object: v.literal('chat.completion'),
  choices: v.pipe(
    v.array(
      v.strictObject({
        index,
        message: v.strictObject({
          role: v.literal('assistant'),
          content: v.string(),
          refusal: v.null(),
        }),
        logprobs: chatLogprobs,
        finish_reason: v.picklist(finishReasons),
      }),
    ),
    v.minLength(1),
  ),
  usage,
})

const chatChunkSchema = v.strictObject({
  ...head,
  object: v.literal('chat.completion.chunk'),
  choices: v.array(
    v.strictObject({
      index,
      delta: v.strictObject({
        role: v.optional(v.literal('assistant')),
        content: v.optional(v.string()),
      }),
      logprobs: chatLogprobs,
      finish_reason: v.nullable(v.picklist(finishReasons)),
    }),
  ),
  usage: v.optional(v.nullable(usage)),
})

const completionId = (id: string) => id.replace(/^chat/, '')

function readChat(text: string): Reading {
  const { id, choices } = v.parse(chatSchema, JSON.parse(text))
  const [first] = choices
  return whole(completionId(id), first?.message.content ?? '', first?.finish_reason ?? null)
}

/** Reads choice 0 of a stream of chat chunks, and checks the order of the chunks of each choice. */
function readChatStream(body: string): Reading {
  const { objects, problem, done } = eventsOf(body)
  const chunks = objects.map((object) => v.parse(chatChunkSchema, object))
  expect(new Set(chunks.map((chunk) => `${chunk.id} ${chunk.created} ${chunk.model}`)).size).toBe(1)
  const choices = chunks.flatMap((chunk) => chunk.choices)
  for (const index of new Set(choices.map((choice) => choice.index))) {
    const [first, ...more] = choices.filter((choice) => choice.index === index)
    expect(first).toMatchObject({
      delta: { role: 'assistant', content: '' },
      finish_reason: null,
    })
    const last = done ? more.pop() : undefined
    if (done) expect([last?.delta, typeof last?.finish_reason]).toEqual([{}, 'string'])
    for (const { delta, finish_reason } of more) {
      expect([Object.keys(delta), finish_reason]).toEqual([['content'], null])
    }
  }
  const own = choices.filter((choice) => choice.index === 0)
  return {
    id: chunks[0] === undefined ? null : completionId(chunks[0].id),
    text: own.map(({ delta }) => delta.content ?? '').join(''),
    finish: own.at(-1)?.finish_reason ?? null,
    problem,
    done,
  }
}

/** Reads a UI message stream as the hooks do: with the parser and the schema of the `ai` package. */
async function readUiMessage(body: string): Promise<Reading> {
  const { done } = eventsOf(body)
  const stream = new Blob([body]).stream()
  const parts: UIMessageChunk[] = []
  for await (const event of parseJsonEventStream({ stream, schema: uiMessageChunkSchema })) {
    expect(event).toMatchObject({ success: true })
    if (event.success) parts.push(event.value)
  }
  const texts = parts.flatMap((part) => (part.type === 'text-delta' ? [part.delta] : []))
  const last = parts.at(-1)
  const error = last?.type === 'error' ? last.errorText : null
  const types = parts.map(({ type }) => type)
  expect(types).toEqual([
    'start',
    'start-step',
    'text-start',
    ...texts.map(() => 'text-delta'),
    ...(error === null ? ['text-end', 'finish-step', 'finish'] : ['error']),
  ])
  const finish = last?.type === 'finish' ? (last.finishReason ?? null) : null
  return { id: null, text: texts.join(''), finish, problem: error, done }
}

/** The JSON of an event stream, without its comments. */
function eventsOf(body: string) {
  const { objects, done } = objectsOf(body)
  const last = objects.at(-1) as { readonly error?: { readonly message: string } } | undefined
  const problem = last?.error?.message ?? null
  if (problem !== null) objects.pop()
  expect(done && problem !== null, 'an error is not followed by [DONE]').toBe(false)
  return { objects, problem, done }
}
