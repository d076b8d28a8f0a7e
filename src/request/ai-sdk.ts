// The requests of the AI SDK's hooks (ai-sdk.dev/docs/ai-sdk-ui): `useCompletion` sends a prompt, and
// `useChat` its whole history of UI messages. Both become the body of a completion or a chat.
import { GatewayError, invalidValue } from '../errors.ts'
import { isRecord, type Table } from '../json.ts'
import { TEXT_ONLY } from '../validation.ts'
import type { ChatLimits } from './chat.ts'

/** Fields that only the hooks send. They mean nothing here. */
const hookFields = ['id', 'trigger', 'messageId'] as const
const ignored: ReadonlySet<string> = new Set([...hookFields, 'stream'])

/** Whether a body is a hook's, by its fields or because its messages have parts. */
export function isHookBody(body: Table): boolean {
  const { messages } = body
  const hasParts = (message: unknown) => isRecord(message) && message['parts'] !== undefined
  return (
    hookFields.some((field) => Object.hasOwn(body, field)) ||
    (Array.isArray(messages) && messages.some(hasParts))
  )
}

/**
 * The same request as a body of the other paths. Of a long history, the oldest messages are left out
 * until the rest is within the limits.
 *
 * @throws GatewayError `invalid_value` for `n`, or for a user's message that is not only text;
 *   `missing_field` without messages and prompt
 */
export function bodyOfHook(
  body: unknown,
  limits: Pick<ChatLimits, 'messages' | 'chat_chars'>,
): unknown {
  if (!isRecord(body)) return body
  const { n = null, messages = null, ...fields } = body
  if (n !== null) {
    throw invalidValue('n', "leave it out: the AI SDK's hooks show one answer")
  }
  if (messages === null && (fields['prompt'] ?? null) === null) {
    const message = 'Cannot find "messages" or "prompt": one of them is required'
    throw new GatewayError('missing_field', message, { param: 'messages' })
  }
  const kept = Object.fromEntries(Object.entries(fields).filter(([field]) => !ignored.has(field)))
  const streamed = { ...kept, stream: true }
  if (!Array.isArray(messages)) return messages === null ? streamed : { ...streamed, messages }
  return { ...streamed, messages: recent(messages.map(messageOfHook), limits) }
}

function messageOfHook(message: unknown, i: number): unknown {
  if (!isRecord(message) || !Array.isArray(message['parts'])) return message
  const { role, parts } = message
  const texts = parts.map((part: unknown, j) => {
    const { type, text } = isRecord(part) ? part : {}
    if (type === 'text' && typeof text === 'string') return text
    // An answer of another endpoint may have parts such as its reasoning.
    if (role === 'assistant') return ''
    throw invalidValue(`messages[${i}].parts[${j}]`, TEXT_ONLY)
  })
  const content = texts.join('')
  if (content === '' && role === 'user') {
    throw invalidValue(`messages[${i}].parts`, 'expected text that is not empty')
  }
  return { role, content }
}

function recent(messages: readonly unknown[], limits: Pick<ChatLimits, 'messages' | 'chat_chars'>) {
  let chars = 0
  let first = messages.length
  while (first > 0 && messages.length - first < limits.messages) {
    chars += charsIn(messages[first - 1])
    // The last message is never left out: the chat's parser tells that it is too long.
    if (chars > limits.chat_chars && first < messages.length) break
    first -= 1
  }
  return messages.slice(first)
}

function charsIn(message: unknown): number {
  const { content } = isRecord(message) ? (message as Table) : {}
  return typeof content === 'string' ? content.length : 0
}
