// What the chat and the legacy wire of OpenAI-compatible servers share: the sampling fields of a
// request, and the reading of a refused one.
import type { GatewayError } from '../errors.ts'
import { errorIn, explanationOf, failureOfStatus, identifierOf } from './failure.ts'
import type { CallRequest, WireOptions } from './upstream.ts'

const passed = [
  'temperature',
  'top_p',
  'presence_penalty',
  'frequency_penalty',
  'stop',
  'seed',
  'logit_bias',
] as const

/** Fields of the same name and meaning on both wires; only what is set, then the owner's own. */
export function wireFields(request: CallRequest, options: WireOptions): Record<string, unknown> {
  const fields: Record<string, unknown> = { [options.maxTokensField]: request.max_tokens }
  for (const name of passed) {
    if (request[name] !== undefined) fields[options.rename?.[name] ?? name] = request[name]
  }
  if (request.n > 1) fields['n'] = request.n
  if (request.stream) {
    fields['stream'] = true
    if (options.streamUsage) fields['stream_options'] = { include_usage: true }
  }
  return Object.assign(fields, request.parameters)
}

/** A non-2xx answer. The hint is for the owner's log: which setting to change. */
export function failureOfResponse(status: number, body: unknown): GatewayError {
  return failureOfStatus(status, { code: identifierOf(errorIn(body)), hint: hintOf(status, body) })
}

function hintOf(status: number, body: unknown): string | null {
  const explanation = explanationOf(body)
  if (status === 401 || status === 403) {
    return "Check the upstream's key: the upstream does not accept it"
  }
  if (/not a chat model/i.test(explanation)) {
    return 'Set wire = "completions" for this upstream: the model is not a chat model'
  }
  if (/is a chat model|v1\/chat\/completions/i.test(explanation)) {
    return 'Set wire = "chat" for this upstream: the model is a chat model'
  }
  if (/max_completion_tokens/.test(explanation)) {
    return 'Set max_tokens_field = "max_completion_tokens" for this upstream'
  }
  return status === 404
    ? 'Check base_url and upstream_model: the upstream does not know them'
    : null
}
