// The fields of requests that the wires of OpenAI's shape share.
import type { Table } from '../json.ts'
import type { CallRequest, WireOptions } from './adapter.ts'

const sharedFields = [
  'temperature',
  'top_p',
  'presence_penalty',
  'frequency_penalty',
  'stop',
  'seed',
  'logit_bias',
] as const

/** The system prompt, if there is one, and a user message for each prompt. */
export function messagesOf({ system, prompts }: CallRequest): readonly object[] {
  const messages = prompts.map((content) => ({ role: 'user', content }))
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
