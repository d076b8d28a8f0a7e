// Maps an upstream's failure to the error for the visitor. The upstream's messages are not passed
// on: only its status, codes that look like identifiers, and a hint of ours reach the owner's log.

import { type Code, GatewayError, messages } from '../errors.ts'
import { isRecord } from '../json.ts'
import type { WireOptions } from './adapter.ts'
import { diagnose, ownersSubjects, requestSubjects, type Subject } from './diagnosis.ts'
import { hintOfReason, hintOfStatus, type Reason } from './hints.ts'

/** For the owner's log. It contains no text of the upstream, apart from an identifier. */
export interface UpstreamCause {
  readonly status: number | null
  /** A `Reason`, or the upstream's `error.code` or `error.type`. */
  readonly code: string | null
  /** What the owner should check or change. */
  readonly hint: string
  /** What the upstream's error is about, if its wording is known. */
  readonly subject?: Subject | undefined
  /**
   * The name that the upstream requires for `max_tokens`, if it refused the request because of it.
   */
  readonly wantsField?: WireOptions['maxTokensField'] | undefined
  /** `Retry-After` of an upstream that is down. That of a 429 is in the error itself. */
  readonly backInSeconds?: number | undefined
}

export type UpstreamFailure = 'bad_response' | 'truncated' | 'unavailable' | 'timeout'

/** The reason if nothing more specific is known. */
const reasonOf: Readonly<Record<UpstreamFailure, Reason>> = {
  bad_response: 'not_a_completion',
  truncated: 'cut_off',
  unavailable: 'not_sent',
  timeout: 'first_byte',
}

/** A failure without an HTTP status. */
export function upstreamFailure(
  kind: UpstreamFailure,
  cause: Partial<UpstreamCause> = {},
): GatewayError {
  if (cause.subject === 'quota') return quotaFailure(cause)
  const hint = cause.hint ?? hintOfReason(cause.code ?? null, reasonOf[kind])
  const code = `upstream_${kind}` as const
  return failure(code, messages[code], { ...cause, hint })
}

/** The failure for a non-2xx response, or for an error event with a status of its own. */
export function failureOfStatus(
  status: number,
  given: Partial<UpstreamCause> = {},
  retryAfterSeconds: number | null = null,
): GatewayError {
  const cause = { status, ...given, hint: given.hint ?? hintOfStatus(status) }
  const { subject } = cause
  const isUnpaid = status === 402 && subject === undefined
  if (subject === 'quota' || isUnpaid) return quotaFailure(cause)
  if (status === 429) {
    const delay = clampRetryAfter(retryAfterSeconds)
    return failure('upstream_rate_limited', messages.upstream_rate_limited, cause, delay)
  }
  if (status >= 500 && status <= 599) {
    return failure('upstream_unavailable', messages.upstream_unavailable, cause)
  }
  const isOwners = subject !== undefined && ownersSubjects.has(subject)
  const isRefusal = status === 413 || ((status === 400 || status === 422) && !isOwners)
  if (!isRefusal) return failure('upstream_rejected', messages.upstream_rejected, cause)
  return failure('upstream_refused_request', refusalOf(subject), cause)
}

function refusalOf(subject: Subject | undefined): string {
  switch (subject) {
    case 'context':
      return messages.upstream_refused_length
    case 'policy':
      return messages.upstream_refused_content
    default:
      return messages.upstream_refused_request
  }
}

/** Retrying earlier would not help. */
const QUOTA_RETRY_S = 3600

function quotaFailure(cause: Partial<UpstreamCause>): GatewayError {
  return failure(
    'upstream_rate_limited',
    messages.upstream_quota_exhausted,
    { hint: hintOfStatus(402), ...cause, subject: 'quota' },
    QUOTA_RETRY_S,
  )
}

function failure(
  code: Code,
  message: string,
  { status = null, code: reason = null, ...cause }: Partial<UpstreamCause> & { hint: string },
  retryAfterSeconds: number | null = null,
): GatewayError {
  const full: UpstreamCause = { status, code: reason, ...cause }
  return new GatewayError(code, message, { cause: full, retryAfterSeconds })
}

/**
 * The failure for an error object in a 2xx body or stream. If the error has a status, that counts.
 *
 * @param envelope the object around the error, in which some servers put the status
 */
export function failureOfError(error: unknown, envelope: unknown = null): GatewayError {
  const status = statusOf(error) ?? statusOf(envelope)
  const cause = { code: identifierOf(error), ...diagnose(error) }
  return status === null ? upstreamFailure('bad_response', cause) : failureOfStatus(status, cause)
}

/** The cause of an upstream's failure, always with a hint; null for other errors. */
export function causeOf(error: unknown): UpstreamCause | null {
  if (!(error instanceof GatewayError)) return null
  const [, kind] = /^upstream_(.+)$/.exec(error.code) ?? []
  if (kind === undefined) return null
  const {
    status = null,
    code = null,
    hint,
    ...more
  } = (error.cause ?? {}) as Partial<UpstreamCause>
  const otherwise = Object.hasOwn(reasonOf, kind) ? reasonOf[kind as UpstreamFailure] : 'not_sent'
  return { status, code, hint: hint ?? hintOfReason(code, otherwise), ...more }
}

/**
 * Whether a failure counts as an outage of the upstream. A refusal of one request does not,
 * regardless of its status. Neither does an answer that is too long, has fewer choices than
 * requested, or ends without text: a single visitor could cause these repeatedly, which must not
 * suspend the upstream for all others.
 *
 * @param begun some text had arrived
 */
export function isOutage(error: GatewayError, begun: boolean): boolean {
  const { status = null, code: reason = null, subject } = causeOf(error) ?? {}
  if (reason !== null && aboutOneRequest.has(reason)) return false
  if (reason === 'deadline' && begun) return false
  if (subject !== undefined && requestSubjects.has(subject)) return false
  // An error in a 2xx body is a bad response, unless its subject is known.
  if (status === null && subject !== undefined && ownersSubjects.has(subject)) return false
  return outages.has(error.code)
}

const aboutOneRequest: ReadonlySet<string> = new Set(['too_large', 'missing_choice', 'no_text'])

const outages: ReadonlySet<Code> = new Set([
  'upstream_unavailable',
  'upstream_bad_response',
  'upstream_truncated',
  'upstream_timeout',
])

/** Seconds from a `Retry-After` header: a number or an HTTP date (RFC 9110, 10.2.3), else null. */
export function parseRetryAfter(header: string | null, nowMs: number): number | null {
  if (header === null) return null
  const value = header.trim()
  if (/^\d{1,12}$/.test(value)) return Number(value)
  if (!/^[A-Z][a-z]{2}/.test(value)) return null
  const at = Date.parse(value)
  return Number.isNaN(at) ? null : Math.ceil((at - nowMs) / 1000)
}

const MIN_RETRY_S = 1
const MAX_RETRY_S = 300
const DEFAULT_RETRY_S = 10

function clampRetryAfter(seconds: number | null): number {
  return Math.min(MAX_RETRY_S, Math.max(MIN_RETRY_S, seconds ?? DEFAULT_RETRY_S))
}

const statusKeys = [
  'code',
  'status_code',
  'statusCode',
  'http_status_code',
  'http_status',
  'http_code',
  'httpStatus',
  'httpStatusCode',
  'errorCode',
  'error_code',
  'status',
]
/** Keys in which gateways put the error of the server behind them. */
const innerKeys = [
  'error',
  'code',
  'metadata',
  'details',
  'detail',
  'innererror',
  'cause',
  'response',
]
const MAX_INNER = 3

/**
 * An error's HTTP status, as a number or a string ("503 Service Unavailable"), or an inner error's.
 */
export function statusOf(error: unknown, depth = 0): number | null {
  const record: unknown = Array.isArray(error) ? error[0] : error
  if (!isRecord(record)) return depth === 0 ? statusIn(record) : null
  for (const key of statusKeys) {
    const status = statusIn(record[key])
    if (status !== null) return status
  }
  if (depth === MAX_INNER) return null
  for (const key of innerKeys) {
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

/**
 * `error.code` or `error.type`, if it is a short identifier, which cannot contain a key or a text.
 */
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
  if (Array.isArray(errors)) return errors[0] ?? null
  return error ?? fault ?? whole
}
