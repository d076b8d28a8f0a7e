// Maps an upstream's failure to the error for the visitor. The upstream's messages are not passed
// on: only its status, codes that look like identifiers, and the key of a hint reach the owner's log.

import { type Code, GatewayError, messages } from '../errors.ts'
import { isRecord } from '../json.ts'
import type { TokensField } from './adapter.ts'
import {
  diagnose,
  isPage,
  ownersSubjects,
  requestSubjects,
  type Subject,
  wordsOf,
} from './diagnosis.ts'
import type { Hint, Reason } from './hints.ts'

/** For the owner's log. It contains no text of the upstream, apart from an identifier. */
export interface UpstreamCause {
  readonly status: number | null
  /** A `Reason`, or the upstream's `error.code` or `error.type`. */
  readonly code: string | null
  /** Keys of hints.ts, the most specific one first. Those after it count if it is not known. */
  readonly hint: string
  readonly subject?: Subject | undefined
  /** The name that the upstream requires for `max_tokens`, if it refused the request for that. */
  readonly wantsField?: TokensField | undefined
  /** `Retry-After` of an upstream that is down. That of a 429 is in the error itself. */
  readonly backInSeconds?: number | undefined
}

export type UpstreamFailure = 'bad_response' | 'truncated' | 'unavailable' | 'timeout'

/** Codes that may mean an outage, each with its reason if nothing more specific is known. */
const outages: Readonly<Partial<Record<Code, Reason>>> = {
  upstream_bad_response: 'not_a_completion',
  upstream_truncated: 'cut_off',
  upstream_unavailable: 'not_sent',
  upstream_timeout: 'first_byte',
}

/** A failure without an HTTP status. */
export function upstreamFailure(
  kind: UpstreamFailure,
  cause: Partial<UpstreamCause> = {},
): GatewayError {
  return cause.subject === 'quota' ? quotaFailure(cause) : failure(`upstream_${kind}`, cause)
}

/** The failure for a non-2xx response, or for an error event with a status of its own. */
export function failureOfStatus(
  status: number,
  given: Partial<UpstreamCause> = {},
  retryAfterSeconds: number | null = null,
): GatewayError {
  const { subject } = given
  const cause = { status, hint: hintsOf(subject, status, Math.floor(status / 100)), ...given }
  if (subject === 'quota' || (status === 402 && subject === undefined)) return quotaFailure(cause)
  if (status === 429) {
    // 1 to 300 seconds, and 10 if the upstream does not say.
    const seconds = Math.min(300, Math.max(1, retryAfterSeconds ?? 10))
    return failure('upstream_rate_limited', cause, seconds)
  }
  if (status >= 500 && status <= 599) return failure('upstream_unavailable', cause)
  const isOwners = subject !== undefined && ownersSubjects.has(subject)
  const isRefusal = status === 413 || ((status === 400 || status === 422) && !isOwners)
  if (!isRefusal) return failure('upstream_rejected', cause)
  return failure('upstream_refused_request', cause, null, subject && refusals[subject])
}

const refusals: Readonly<Partial<Record<Subject, string>>> = {
  context: messages.upstream_refused_length,
  policy: messages.upstream_refused_content,
}

/** The failure for an exhausted quota, with an hour: retrying earlier would not help. */
function quotaFailure(cause: Partial<UpstreamCause>): GatewayError {
  const full = { hint: 'quota' satisfies Hint, ...cause, subject: 'quota' } as const
  return failure('upstream_rate_limited', full, 3600, messages.upstream_quota_exhausted)
}

function failure(
  code: Extract<Code, `upstream_${string}`>,
  cause: Partial<UpstreamCause>,
  retryAfterSeconds: number | null = null,
  message: string = messages[code],
): GatewayError {
  return new GatewayError(code, message, { cause: fullCause(code, cause), retryAfterSeconds })
}

/** Absent keys are left out. */
const hintsOf = (...keys: unknown[]) => keys.join(' ').trim()

/** A cause with a hint. */
function fullCause(code: Code, cause: Partial<UpstreamCause>): UpstreamCause {
  const hint = hintsOf(cause.code, outages[code] ?? 'not_sent')
  return { status: null, code: null, hint, ...cause }
}

/** The cause of an upstream's failure, always with a hint; null for other errors. */
export function causeOf(error: unknown): UpstreamCause | null {
  if (!(error instanceof GatewayError) || !error.code.startsWith('upstream_')) return null
  return fullCause(error.code, (error.cause ?? {}) as Partial<UpstreamCause>)
}

/** @param body the JSON of a non-2xx response, or its text if it is not JSON */
export function failureOfResponse(status: number, body: unknown): GatewayError {
  const error = errorIn(body)
  const code = identifierOf(error)
  const wantsField = status === 400 || status === 422 ? wantedField(error) : undefined
  if (wantsField !== undefined) {
    return failureOfStatus(status, { code, hint: wantsField satisfies Hint, wantsField })
  }
  const diagnosis = diagnose(error)
  // A 429 stays a rate limit even if its message mentions keys, models or contexts.
  const isAbout = status !== 429 || diagnosis?.subject === 'quota'
  const page = isPage(body) && status < 500 && status !== 401 && status !== 429
  const hint = page ? { hint: 'html' satisfies Hint } : null
  return failureOfStatus(status, { code, ...hint, ...(isAbout ? diagnosis : null) })
}

/** Servers' wording for an unknown field, as opposed to an invalid value. */
const UNKNOWN_FIELD =
  /unsupported|not supported|unrecogni[sz]ed|unknown|unexpected|extra[ _](inputs?|fields?|forbidden)|not permitted|cannot find field|deprecated/i

/**
 * The name that the server requires for `max_tokens`, if the error is about that. If the error quotes
 * the visitor's text, this can be wrong, which costs one more failed call.
 */
function wantedField(error: unknown): TokensField | undefined {
  const text = wordsOf(error)
  const advised = /\b[Uu]se\W+(max_tokens|max_completion_tokens)\W+instead\b/.exec(text)?.[1]
  if (advised !== undefined) return advised as TokensField
  const named = /\b(max_tokens|max_completion_tokens)\b/.exec(text)?.[1]
  if (named === undefined || !UNKNOWN_FIELD.test(text)) return undefined
  return named === 'max_tokens' ? 'max_completion_tokens' : 'max_tokens'
}

/** @param envelope the object around an error in a 2xx body, in which some servers put the status */
export function failureOfError(error: unknown, envelope: unknown = null): GatewayError {
  const status = statusOf(error) ?? statusOf(envelope)
  const cause = { code: identifierOf(error), ...diagnose(error) }
  if (status !== null) return failureOfStatus(status, cause)
  return upstreamFailure('bad_response', { hint: 'reported' satisfies Hint, ...cause })
}

/** The failure for a 2xx body or an event that contains an error. */
export const failureIn = (object: unknown): GatewayError => failureOfError(errorIn(object), object)

/**
 * Whether a failure counts as an outage of the upstream. What is about one request does not: a
 * single visitor could cause it repeatedly, which must not suspend the upstream for all others.
 *
 * @param begun some text had arrived
 */
export function isOutage(error: GatewayError, begun: boolean): boolean {
  const { status = null, code: reason = '', subject } = causeOf(error) ?? {}
  if (aboutOneRequest.has(reason ?? '') || (reason === 'deadline' && begun)) return false
  if (subject !== undefined && requestSubjects.has(subject)) return false
  // An error in a 2xx body is a bad response, unless its subject is known.
  if (status === null && subject !== undefined && ownersSubjects.has(subject)) return false
  return Object.hasOwn(outages, error.code)
}

const aboutOneRequest: ReadonlySet<string> = new Set(['too_large', 'missing_choice', 'no_text'])

/** Seconds from a `Retry-After` header: a number or an HTTP date (RFC 9110, 10.2.3), else null. */
export function parseRetryAfter(header: string | null, nowMs: number): number | null {
  if (header === null) return null
  const value = header.trim()
  if (/^\d{1,12}$/.test(value)) return Number(value)
  if (!/^[A-Z][a-z]{2}/.test(value)) return null
  const at = Date.parse(value)
  return Number.isNaN(at) ? null : Math.ceil((at - nowMs) / 1000)
}

/** Keys of a status besides `code`, which is read first. */
const STATUS_KEY =
  /^(?:(?:http_)?status(?:_code)?|http_code|(?:status|httpStatus)(?:Code)?|error(?:_c|C)ode)$/
/** Keys in which gateways put the error of the server behind them. */
const INNER_KEY = /^(?:error|code|metadata|details?|innererror|cause|response)$/
const MAX_INNER = 3

/** The HTTP status of an error or an inner one, a number or a string ("503 Unavailable"). */
export function statusOf(error: unknown, depth = 0): number | null {
  const record: unknown = Array.isArray(error) ? error[0] : error
  if (!isRecord(record)) return depth === 0 ? statusIn(record) : null
  const keys = Object.keys(record)
  for (const key of ['code', ...keys.filter((key) => STATUS_KEY.test(key))]) {
    const status = statusIn(record[key])
    if (status !== null) return status
  }
  if (depth === MAX_INNER) return null
  for (const key of keys.filter((key) => INNER_KEY.test(key))) {
    const status = statusOf(record[key], depth + 1)
    if (status !== null) return status
  }
  return null
}

function statusIn(value: unknown): number | null {
  const digits =
    typeof value === 'string'
      ? /^\s*(?:(?:http|error|status|code)[\s_:/-]*)*([45]\d\d)\b/i.exec(value)?.[1]
      : value
  const status = typeof digits === 'string' ? Number(digits) : digits
  return typeof status === 'number' && status >= 400 && status <= 599 ? status : null
}

/** `error.code` or `error.type`, if it is a short identifier, which contains no key or text. */
export function identifierOf(error: unknown): string | null {
  if (!isRecord(error)) return null
  for (const key of ['code', 'type', 'error_type', 'status']) {
    const value = error[key]
    if (typeof value === 'string' && /^[A-Za-z][A-Za-z_]{0,47}$/.test(value)) return value
  }
  return null
}

/** The error object of a body, in any of the shapes that vendors use; a flat body is the error. */
export function errorIn(body: unknown): unknown {
  if (typeof body === 'string') return body
  const whole = Array.isArray(body) ? body[0] : body
  if (!isRecord(whole)) return null
  const { error, errors, fault } = whole
  if (Array.isArray(error)) return error[0] ?? null
  if (Array.isArray(errors) && errors.length > 0) return errors[0]
  return error ?? fault ?? whole
}
