// The fields of requests that the wires of OpenAI's shape share.
import type { Table } from '../json.ts'
import { type Conversation, isConversation, withoutDeveloper } from '../request/conversation.ts'
import type { CallRequest, WireOptions } from './adapter.ts'

const sharedFields = [
  'temperature',
  'top_p',
  'presence_penalty',
  'frequency_penalty',
  'stop',
  'seed',
  'logit_bias',
  'response_format',
] as const

/** The system message, if there is one, and the conversation; a prompt is a user's message. */
export function messagesOf(
  { system, prompts }: CallRequest,
  { developer = false }: Pick<WireOptions, 'developer'>,
): Conversation {
  const messages = prompts.flatMap((prompt): Conversation => {
    if (isConversation(prompt)) return developer ? prompt : prompt.map(withoutDeveloper)
    // No wire with messages takes tokens.
    return [{ role: 'user', content: typeof prompt === 'string' ? prompt : '' }]
  })
  return system === null ? messages : [{ role: 'system', content: system }, ...messages]
}

/** The fields that are not undefined. */
export function present(fields: Table): Table {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined))
}

/** The fields that both wires have, if they are set, and the owner's `parameters`. */
export function wireFields(request: CallRequest, options: WireOptions): Table {
  const { max_tokens, n, stream, parameters } = request
  const { maxTokensField, rename = {}, streamUsage } = options
  const sampling = sharedFields.map((name) => [rename[name] ?? name, request[name]])
  return {
    [maxTokensField]: max_tokens,
    ...present(Object.fromEntries(sampling)),
    ...(n > 1 ? { n } : {}),
    ...(stream ? { stream } : {}),
    ...(stream && streamUsage ? { stream_options: { include_usage: true } } : {}),
    ...parameters,
  }
}
