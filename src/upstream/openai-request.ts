// What the chat and the legacy wire of OpenAI-compatible servers share: the sampling fields of a
// request, and the reading of a refused one.
import type { GatewayError } from '../errors.ts'
import type { CallRequest, WireOptions } from './adapter.ts'
import { type Diagnosis, diagnose, isPage, wordsOf } from './diagnosis.ts'
import { errorIn, failureOfStatus, identifierOf } from './failure.ts'
import { hintOfStatus } from './hints.ts'

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

/** A non-2xx answer: its JSON, or its text where it is none. */
export function failureOfResponse(status: number, body: unknown): GatewayError {
  const error = errorIn(body)
  const code = identifierOf(error)
  const wantsField = isRefusal(status) ? wantedField(error) : undefined
  if (wantsField !== undefined) {
    const hint = `Set max_tokens_field = "${wantsField}" for this upstream: the model takes no other name.`
    return failureOfStatus(status, { code, hint, wantsField })
  }
  const hint = hintOfStatus(status, isPage(body))
  return failureOfStatus(status, { code, hint, ...diagnosisOf(status, error) })
}

/** A rate limit is one whatever else its words mention: keys, models, contexts. */
function diagnosisOf(status: number, error: unknown): Diagnosis | null {
  const diagnosis = diagnose(error)
  return status !== 429 || diagnosis?.subject === 'quota' ? diagnosis : null
}

const isRefusal = (status: number) => status === 400 || status === 422

/** How servers say that they do not know a field, as against not liking its value. */
const UNKNOWN_FIELD =
  /unsupported|not supported|unrecognized|unrecognised|unknown|unexpected|extra[ _](inputs?|fields?|forbidden)|not permitted|cannot find field|deprecated/i

/**
 * The name that the server wants the most tokens to have; undefined: that is not its complaint. It
 * may repeat the visitor's own words, so this can be wrong: at worst one call is made in vain.
 */
function wantedField(error: unknown): WireOptions['maxTokensField'] | undefined {
  const text = wordsOf(error)
  const advised = /\b[Uu]se\W+(max_tokens|max_completion_tokens)\W+instead\b/.exec(text)?.[1]
  if (advised === 'max_tokens' || advised === 'max_completion_tokens') return advised
  const named = /\b(max_tokens|max_completion_tokens)\b/.exec(text)?.[1]
  if (named === undefined || !UNKNOWN_FIELD.test(text)) return undefined
  return named === 'max_tokens' ? 'max_completion_tokens' : 'max_tokens'
}
