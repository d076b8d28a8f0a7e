// Shared by the chat and the completions wire of OpenAI-compatible servers: the sampling fields of
// requests, and the reading of error responses.
import type { GatewayError } from '../errors.ts'
import type { Table } from '../json.ts'
import type { CallRequest, WireOptions } from './adapter.ts'
import { type Diagnosis, diagnose, isPage, wordsOf } from './diagnosis.ts'
import { errorIn, failureOfStatus, identifierOf } from './failure.ts'
import { hintOfStatus } from './hints.ts'

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

/** @param body the JSON of a non-2xx response, or its text if it is not JSON */
export function failureOfResponse(status: number, body: unknown): GatewayError {
  const error = errorIn(body)
  const code = identifierOf(error)
  const wantsField = status === 400 || status === 422 ? wantedField(error) : undefined
  if (wantsField !== undefined) {
    const hint = `Set max_tokens_field = "${wantsField}" for this upstream: the model accepts no other name.`
    return failureOfStatus(status, { code, hint, wantsField })
  }
  const hint = hintOfStatus(status, isPage(body))
  return failureOfStatus(status, { code, hint, ...diagnosisOf(status, error) })
}

/** A 429 stays a rate limit even if its message mentions keys, models or contexts. */
function diagnosisOf(status: number, error: unknown): Diagnosis | null {
  const diagnosis = diagnose(error)
  return status !== 429 || diagnosis?.subject === 'quota' ? diagnosis : null
}

/** Servers' wording for an unknown field, as opposed to an invalid value. */
const UNKNOWN_FIELD =
  /unsupported|not supported|unrecognized|unrecognised|unknown|unexpected|extra[ _](inputs?|fields?|forbidden)|not permitted|cannot find field|deprecated/i

/**
 * The name that the server requires for `max_tokens`, if the error is about that. It may quote the
 * visitor's text, so this can be wrong, which costs one more failed call.
 */
function wantedField(error: unknown): WireOptions['maxTokensField'] | undefined {
  const text = wordsOf(error)
  const advised = /\b[Uu]se\W+(max_tokens|max_completion_tokens)\W+instead\b/.exec(text)?.[1]
  if (advised === 'max_tokens' || advised === 'max_completion_tokens') return advised
  const named = /\b(max_tokens|max_completion_tokens)\b/.exec(text)?.[1]
  if (named === undefined || !UNKNOWN_FIELD.test(text)) return undefined
  return named === 'max_tokens' ? 'max_completion_tokens' : 'max_tokens'
}
