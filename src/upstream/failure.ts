// What an upstream's failure becomes for a visitor (contract 2.3). The upstream's own words end
// here: only its status, and codes that look like codes, go on to the owner's log.
import { type Code, GatewayError } from '../errors.ts'
import type { WireOptions } from './upstream.ts'

/** For the owner's log. Holds no text of the upstream's beyond an identifier. */
export interface UpstreamCause {
  readonly status: number | null
  /** `error.code` or `error.type`, where it reads like an identifier. */
  readonly code: string | null
  /** What the owner should change, where that is known. */
  readonly hint: string | null
  /** It refused the request for how the most tokens are named, and wants them named so. */
  readonly wantsField?: WireOptions['maxTokensField'] | undefined
  /** When a server that is down said to come back; a 429's is the error's own. */
  readonly backInSeconds?: number | undefined
}

export type UpstreamFailure = 'bad_response' | 'truncated' | 'unavailable' | 'timeout'

const wording = {
  bad_response: "Cannot use the upstream's answer: it is not a completion",
  truncated: 'Cannot finish the answer: the upstream stopped in the middle of it',
  unavailable: 'Cannot reach the upstream: try again in a moment',
  timeout: 'Cannot wait longer for the upstream: try again, or ask for less',
} as const

/** A failure that has no HTTP status of the upstream's. */
export function upstreamFailure(kind: UpstreamFailure, cause: Partial<UpstreamCause> = {}) {
  return new GatewayError(`upstream_${kind}`, wording[kind], { cause: causeOf(cause) })
}

/** A non-2xx answer, or an error event that carries a status of its own. */
export function failureOfStatus(
  status: number,
  cause: Partial<UpstreamCause> = {},
  retryAfterSeconds: number | null = null,
): GatewayError {
  const options = { cause: causeOf({ status, ...cause }) }
  if (status === 400 || status === 413 || status === 422) {
    return new GatewayError(
      'upstream_refused_request',
      'Cannot complete this request: the model behind it refused it as invalid',
      options,
    )
  }
  if (status === 429) {
    return new GatewayError(
      'upstream_rate_limited',
      'Cannot complete this request now: the upstream has too many requests',
      { ...options, retryAfterSeconds: clampRetryAfter(retryAfterSeconds) },
    )
  }
  if (status >= 500 && status <= 599) {
    return new GatewayError('upstream_unavailable', wording.unavailable, options)
  }
  return new GatewayError(
    'upstream_rejected',
    'Cannot complete this request: the upstream rejected the gateway, its owner finds the reason in the log',
    options,
  )
}

/**
 * A failure in band: an error object in a 2xx body or stream. Its own status counts if it has one.
 *
 * @param envelope the object around the error, where some servers put the status
 */
export function failureOfError(error: unknown, envelope: unknown = null): GatewayError {
  const status = statusOf(error) ?? statusOf(envelope)
  const code = identifierOf(error)
  return status === null
    ? upstreamFailure('bad_response', { code })
    : failureOfStatus(status, { code })
}

/**
 * Whether a failure says that the upstream itself is in trouble. A refusal does not, whatever its
 * status: the upstream lives, and refused this one request. Neither does an answer that was longer
 * than it may be: one visitor's requests must not close an endpoint for all the others.
 *
 * @param begun text had arrived before
 */
export function isOutage({ code, cause }: GatewayError, begun: boolean): boolean {
  const reason = (cause as UpstreamCause | undefined)?.code
  if (reason === 'too_large' || (reason === 'deadline' && begun)) return false
  return outages.has(code)
}

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
  'status',
]
/** Where gateways keep the error of the server behind them. */
const innerKeys = ['error', 'code', 'metadata', 'details', 'detail', 'innererror', 'cause']
const MAX_INNER = 3

/** An error's HTTP status: a number, digits ("429", "503 Service Unavailable"), or an inner error's. */
function statusOf(error: unknown, depth = 0): number | null {
  const record = Array.isArray(error) ? error[0] : error
  if (!isRecord(record)) return null
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
  const digits = typeof value === 'string' ? /^\s*([45]\d\d)\b/.exec(value)?.[1] : value
  const status = typeof digits === 'string' ? Number(digits) : digits
  return typeof status === 'number' && status >= 400 && status <= 599 ? status : null
}

/** `error.code`, else `error.type`, if it is a short identifier and so cannot hold a key or a text. */
export function identifierOf(error: unknown): string | null {
  if (!isRecord(error)) return null
  for (const key of ['code', 'type', 'error_type', 'status']) {
    const value = error[key]
    if (typeof value === 'string' && /^[A-Za-z][A-Za-z_]{0,47}$/.test(value)) return value
  }
  return null
}

/** The error object of a body, wherever vendors put it; the body itself where it is flat. */
export function errorIn(body: unknown): unknown {
  const whole = Array.isArray(body) ? body[0] : body
  if (!isRecord(whole)) return null
  const { error, errors, fault } = whole
  if (Array.isArray(error)) return error[0] ?? null
  if (Array.isArray(errors)) return errors[0] ?? null
  return error ?? fault ?? whole
}

/** The texts in which upstreams explain an error; read to recognise it, never repeated. */
export function explanationOf(body: unknown): string {
  const error = errorIn(body)
  if (typeof error === 'string') return error
  if (!isRecord(error)) return ''
  for (const key of ['message', 'msg', 'err', 'error_msg', 'error']) {
    const value = error[key]
    if (typeof value === 'string') return value
  }
  return ''
}

export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function causeOf(cause: Partial<UpstreamCause>): UpstreamCause {
  const { status = null, code = null, hint = null, ...steps } = cause
  return { status, code, hint, ...steps }
}
