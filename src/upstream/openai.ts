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
  const wantsField = isRefusal(status) ? wantedField(body) : undefined
  return failureOfStatus(status, {
    code: identifierOf(errorIn(body)),
    hint:
      wantsField === undefined
        ? hintOf(status, explanationOf(body))
        : `Set max_tokens_field = "${wantsField}" for this upstream: the model takes no other name`,
    ...(wantsField === undefined ? {} : { wantsField }),
  })
}

const isRefusal = (status: number) => status === 400 || status === 422

/** How servers say that they do not know a field, as against not liking its value. */
const UNKNOWN_FIELD =
  /unsupported|not supported|unrecognized|unrecognised|unknown|unexpected|extra[ _](inputs?|fields?|forbidden)|not permitted|cannot find field|deprecated/i

/**
 * The name that the server wants the most tokens to have; undefined: that is not its complaint. It
 * may repeat the visitor's own words, so this can be wrong: at worst one call is made in vain.
 */
function wantedField(body: unknown): WireOptions['maxTokensField'] | undefined {
  const text = JSON.stringify(errorIn(body) ?? '')
  const advised = /\b[Uu]se\W+(max_tokens|max_completion_tokens)\W+instead\b/.exec(text)?.[1]
  if (advised === 'max_tokens' || advised === 'max_completion_tokens') return advised
  const named = /\b(max_tokens|max_completion_tokens)\b/.exec(text)?.[1]
  if (named === undefined || !UNKNOWN_FIELD.test(text)) return undefined
  return named === 'max_tokens' ? 'max_completion_tokens' : 'max_tokens'
}

/** By the words of OpenAI, Azure, vLLM and Ollama; the first that fits is the most particular. */
const hints: readonly (readonly [RegExp, string])[] = [
  [
    /v1\/responses/i,
    'Choose another upstream_model: this one answers on /v1/responses only, which is no wire here',
  ],
  [
    /not a chat model|chatcompletion operation does not work|does not support chat|chat template/i,
    'Set wire = "completions" for this upstream: the model is not a chat model',
  ],
  [
    /is a chat model|v1\/chat\/completions|completion operation does not work|does not support completion/i,
    'Set wire = "chat" for this upstream: the model is a chat model',
  ],
]

function hintOf(status: number, explanation: string): string | null {
  if (status === 401 || status === 403) {
    return "Check the upstream's key: the upstream does not accept it"
  }
  const known = hints.find(([words]) => words.test(explanation))
  if (known !== undefined) return known[1]
  return status === 404
    ? 'Check base_url and upstream_model: the upstream does not know them'
    : null
}
