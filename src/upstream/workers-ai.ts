// The workers-ai wire: Cloudflare's models through the AI binding. Depending on the model, answers
// have the shape of Workers AI or of OpenAI.

import type { RawDelta } from '../completion/delta.ts'
import type { GatewayError } from '../errors.ts'
import { isRecord, type Table } from '../json.ts'
import type { Upstream } from './adapter.ts'
import type { Send } from './call.ts'
import { diagnose } from './diagnosis.ts'
import {
  errorIn,
  failureOfError,
  failureOfResponse,
  failureOfStatus,
  type UpstreamCause,
  upstreamFailure,
} from './failure.ts'
import { ending, readReason } from './finish-reason.ts'
import { hintOfStatus, hints } from './hints.ts'
import { isErrorEvent, objectsIn } from './message.ts'
import { messagesOf, wireFields } from './openai-request.ts'
import { isMarked, readBody, readObject, readUsage } from './openai-response.ts'
import type { SseMessage } from './sse.ts'

/** The part of the AI binding that is used here. */
export interface AiBinding {
  run(
    model: string,
    inputs: Table,
    options: { readonly returnRawResponse: true; readonly signal: AbortSignal },
  ): Promise<unknown>
}

/** The binding has no URL, but a `Request` needs one. */
export const bindingUrl = 'https://workers-ai.invalid'

export const workersAi: Upstream = {
  toWire(request, options) {
    const { model } = request
    const body = { model, messages: messagesOf(request), ...wireFields(request, options) }
    return { path: '/run', body }
  },
  fromBody: readWhole,
  fromMessage: readMessage,
  fromFailure: (status, body) => failureOfCode(codeIn(body)) ?? failureOfResponse(status, body),
}

/** Sends to the binding. Every result and error becomes a response, which call.ts reads. */
export function sendToBinding(ai: AiBinding): Send {
  return async (request) => {
    const { model, ...inputs } = (await request.json()) as { readonly model: string }
    let result: unknown
    try {
      result = await ai.run(model, inputs, { returnRawResponse: true, signal: request.signal })
    } catch (error) {
      const message = error instanceof Error ? error.message : ''
      const internalCode = codeOfMessage(message)
      const subject = diagnose({ message })?.subject
      if (internalCode === null && subject === undefined) {
        throw upstreamFailure('unavailable', { code: 'no_binding' })
      }
      // Models' own errors have no code. The message is only diagnosed, never logged.
      const status = subject === undefined || subject === 'busy' ? 500 : 400
      return Response.json(
        { internalCode, message },
        { status: causes[internalCode ?? 0]?.status ?? status },
      )
    }
    if (result instanceof Response) return result
    if (result instanceof ReadableStream) return new Response(result)
    return Response.json(result)
  }
}

/**
 * The failures of developers.cloudflare.com/workers-ai/platform/errors. 3039 and 5007 have 404 in
 * place of 400, since they are about the owner's settings, not about the visitor's request.
 */
const causes: Readonly<Record<number, Partial<UpstreamCause> & { readonly status: number }>> = {
  3003: { status: 400 },
  3006: { status: 413, subject: 'context', hint: hints.context },
  3007: { status: 408, hint: hintOfStatus(408) },
  3008: { status: 408, hint: hintOfStatus(408) },
  3023: { status: 403, subject: 'access', hint: hints.access },
  3036: { status: 429, subject: 'quota', hint: hints.freeAllocation },
  3039: { status: 404 },
  3040: { status: 429, subject: 'busy', hint: hints.busy },
  3041: { status: 403, subject: 'access', hint: hints.access },
  3042: { status: 404, subject: 'model', hint: hints.model },
  4006: { status: 429, subject: 'quota', hint: hints.freeAllocation },
  5004: { status: 400 },
  5005: { status: 405, subject: 'field', hint: hints.field },
  5007: { status: 404, subject: 'model', hint: hints.model },
  5016: { status: 403, subject: 'access', hint: hints.terms },
  5018: { status: 403, subject: 'access', hint: hints.access },
  5019: { status: 405 },
  5021: { status: 413, subject: 'context', hint: hints.context },
  10000: { status: 401, subject: 'key', hint: hints.key },
}

function failureOfCode(code: number | null): GatewayError | null {
  const known = code === null ? undefined : causes[code]
  if (known === undefined) return null
  const cause = { ...known, code: String(code) }
  return known.status === 408
    ? upstreamFailure('timeout', cause)
    : failureOfStatus(known.status, cause)
}

/** The code of "3040: Capacity temporarily exceeded", with or without names of errors before it. */
function codeOfMessage(message: string): number | null {
  const [, digits] = /^(?:\w+: )*(\d{4,5}): /.exec(message) ?? []
  return digits === undefined ? null : Number(digits)
}

/** The binding's errors have `internalCode`, those of the REST API `errors: [{ code }]`. */
function codeIn(body: unknown): number | null {
  const error = errorIn(body)
  if (!isRecord(error)) return null
  for (const value of [error['internalCode'], error['code']]) {
    if (typeof value === 'number') return value
    if (typeof value === 'string' && /^\d{4,5}$/.test(value)) return Number(value)
  }
  return null
}

function throwIfFailed(object: Table): void {
  if (isMarked(object) || object['internalCode'] !== undefined) throw failureIn(object)
}

function failureIn(object: unknown): GatewayError {
  return failureOfCode(codeIn(object)) ?? failureOfError(errorIn(object), object)
}

function readWhole(body: unknown): readonly RawDelta[] {
  if (!isRecord(body)) throw upstreamFailure('bad_response')
  throwIfFailed(body)
  const result = resultOf(body)
  if (!isOwnDialect(result)) return readBody(result, 'chat')
  return [...readOwn(result), { kind: 'end' }]
}

function readMessage(message: SseMessage): readonly RawDelta[] {
  const objects = objectsIn(message)
  if (isErrorEvent(message)) throw failureIn(objects === 'end' ? null : (objects[0] ?? null))
  if (objects === 'end') return [{ kind: 'end' }]
  return objects.flatMap((object) => {
    throwIfFailed(object)
    const chunk = resultOf(object)
    return isOwnDialect(chunk) ? readOwn(chunk) : readObject(chunk, 'chat', 'chunk')
  })
}

/** The REST API wraps answers in `result`. */
const resultOf = (object: Table) => (isRecord(object['result']) ? object['result'] : object)

/** Some answers have both shapes. OpenAI's is read then, since it contains more. */
const isOwnDialect = (object: Table) =>
  'response' in object && !(Array.isArray(object['choices']) && object['choices'].length > 0)

/** Reads the shape of Workers AI. Padding (`p`), tool calls and other fields are ignored. */
function readOwn(object: Table): RawDelta[] {
  const { response } = object
  const deltas: RawDelta[] = []
  const text = textOf(response)
  if (text !== '') deltas.push({ kind: 'text', index: 0, text, logprobs: null })
  // Most models send no finish reason, so the end of the body ends the answer.
  const reason = readReason(object['finish_reason'] ?? object['finishReason'])
  if (reason !== null) deltas.push(ending(0, reason, text !== ''))
  const usage = readUsage(object['usage'])
  if (usage !== null) deltas.push({ kind: 'usage', index: null, usage })
  return deltas
}

/** A number is sent as a number, and an answer in JSON mode as the object itself. */
function textOf(response: unknown): string {
  if (typeof response === 'string') return response
  return response === null || response === undefined ? '' : JSON.stringify(response)
}
