// JSON Schemas of chats and of the AI SDK's hooks. Messages are described by hand, since the Worker
// validates them without a schema (src/request/chat.ts, src/request/ai-sdk.ts).
import * as v from 'valibot'
import { completionSchema, finishReasons } from '../../src/completion/completion.ts'
import { type ChatLimits, chatSchema, nameSchema } from '../../src/request/chat.ts'
import { bodySchema, type Json, jsonSchema, type Table } from './json-schema.ts'

const ref = (name: string): Table => ({ $ref: `#/components/schemas/${name}` })
const strings = (...values: readonly string[]): Table => ({ type: 'string', enum: values })
const table = (properties: Table, more: Table = {}): Table => ({
  type: 'object',
  properties,
  ...more,
})

/** A field that has no other value. */
const UNUSED: Table = { type: 'null' }

const tokenEntries = {
  token: v.string(),
  logprob: v.number(),
  bytes: v.array(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(255))),
}
const logprobs = v.nullable(
  v.strictObject({
    content: v.array(
      v.strictObject({ ...tokenEntries, top_logprobs: v.array(v.strictObject(tokenEntries)) }),
    ),
    refusal: v.null(),
  }),
)
const finishReason = v.picklist(finishReasons)
const { choices, ...shared } = completionSchema.entries
const { index } = choices.pipe[0].item.entries
const head = { ...shared, id: v.pipe(v.string(), v.regex(/^chatcmpl-[A-Za-z0-9]{24,}$/)) }

const chatCompletionSchema = v.strictObject({
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
        logprobs,
        finish_reason: finishReason,
      }),
    ),
    v.minLength(1),
  ),
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
      logprobs,
      finish_reason: v.nullable(finishReason),
    }),
  ),
  usage: v.optional(v.nullable(shared.usage)),
})

const textId = { id: v.literal('0') }
const uiMessageChunkSchema = v.union([
  v.strictObject({ type: v.picklist(['start', 'start-step', 'finish-step']) }),
  v.strictObject({ type: v.picklist(['text-start', 'text-end']), ...textId }),
  v.strictObject({ type: v.literal('text-delta'), ...textId, delta: v.string() }),
  v.strictObject({
    type: v.literal('finish'),
    finishReason: v.picklist(['stop', 'length', 'content-filter']),
  }),
  v.strictObject({ type: v.literal('error'), errorText: v.string() }),
])

/** Text that is not empty, as a string or in parts. */
function contentSchema(limits: ChatLimits): Table {
  const text = { type: 'string', maxLength: limits.chat_chars }
  const part = table(
    { type: { const: 'text' }, text },
    { required: ['type', 'text'], additionalProperties: UNUSED },
  )
  const filled = { contains: { properties: { text: { minLength: 1 } } } }
  return {
    anyOf: [
      { ...text, minLength: 1 },
      { type: 'array', items: part, ...filled },
    ],
  }
}

/** Every other field of a message or a part must be null. */
function messageSchema(limits: ChatLimits): Table {
  const content = contentSchema(limits)
  const [string, parts] = content['anyOf'] as readonly [Table, Table]
  const { minLength: _, ...anyString } = string
  const { contains: _contains, ...anyParts } = parts
  const none = { type: ['array', 'null'], maxItems: 0 }
  const fields = {
    name: { anyOf: [jsonSchema(nameSchema), { type: 'null' }] },
    tool_calls: none,
    annotations: none,
  }
  const message = (role: Table, content: Table, required: readonly string[], own: Table = {}) =>
    table({ role, content, ...fields, ...own }, { required, additionalProperties: UNUSED })
  return {
    description: `All texts and names of a conversation together have at most as many characters (UTF-16 units) as one text may have. The last message has the role \`user\`. Messages with the role \`system\` or \`developer\` are refused if the owner has set the model’s own, and for a locked prompt.`,
    anyOf: [
      message(strings('system', 'developer', 'user'), content, ['role', 'content']),
      message(
        { const: 'assistant' },
        { anyOf: [anyString, anyParts, { type: 'null' }] },
        ['role'],
        { parsed: {} },
      ),
    ],
  }
}

const responseFormat: Table = {
  description: '`text` has no effect; the others need an upstream that has them.',
  anyOf: [
    table({ type: strings('text', 'json_object') }, { required: ['type'] }),
    table(
      { type: { const: 'json_schema' }, json_schema: { type: 'object' } },
      { required: ['type', 'json_schema'] },
    ),
    { type: 'null' },
  ],
}

function chatRequest(limits: ChatLimits): Table {
  const { properties, ...rest } = bodySchema(chatSchema(limits))
  return {
    ...rest,
    properties: {
      ...(properties as Table),
      messages: { type: 'array', items: ref('Message'), minItems: 1, maxItems: limits.messages },
      model: {
        type: ['string', 'null'],
        description: 'A model, or the id of a locked prompt that takes chats.',
      },
      response_format: responseFormat,
    },
  }
}

const uiText = { type: { const: 'text' }, text: { type: 'string' } }
const uiFilled = table(
  { ...uiText, text: { type: 'string', minLength: 1 } },
  { required: ['type', 'text'] },
)
const uiMessage: Table = {
  description:
    'A message of `useChat`. Parts of the assistant’s messages that are not text are ignored.',
  anyOf: [
    table(
      {
        role: strings('system', 'developer', 'user'),
        parts: {
          type: 'array',
          items: table(uiText, { required: ['type', 'text'] }),
          contains: uiFilled,
        },
      },
      { required: ['role', 'parts'] },
    ),
    table(
      { role: { const: 'assistant' }, parts: { type: 'array' } },
      { required: ['role', 'parts'] },
    ),
  ],
}

/** A body of the other paths as the hooks send it. */
function hookRequest(description: string, { properties, ...rest }: Table, own: Table = {}): Table {
  const ignored = { description: 'Ignored.' }
  const hooks = { id: ignored, trigger: ignored, messageId: ignored, stream: ignored, n: UNUSED }
  return { description, ...rest, properties: { ...(properties as Table), ...hooks, ...own } }
}

export function chatSchemas(limits: ChatLimits, completionRequest: Table): Table {
  const ChatRequest = chatRequest(limits)
  const messages: Json = {
    type: 'array',
    description: 'The oldest are left out until the rest is within the limits of a chat.',
    items: { anyOf: [ref('UiMessage'), ref('Message')] },
    minItems: 1,
  }
  return {
    Message: messageSchema(limits),
    ChatRequest,
    ChatCompletion: jsonSchema(chatCompletionSchema),
    ChatChunk: jsonSchema(chatChunkSchema),
    UiMessage: uiMessage,
    AiSdkCompletionRequest: hookRequest('What `useCompletion` sends.', completionRequest),
    AiSdkChatRequest: hookRequest('What `useChat` sends.', ChatRequest, { messages }),
    UiMessageChunk: jsonSchema(uiMessageChunkSchema),
  }
}
