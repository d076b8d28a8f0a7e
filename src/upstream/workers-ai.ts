// The workers-ai wire: Cloudflare's models through the AI binding. Depending on the model, answers
// have the shape of Workers AI or of OpenAI.

import type { RawDelta } from '../completion/delta.ts'
import type { GatewayError } from '../errors.ts'
import { isRecord } from '../json.ts'
import type { Upstream } from './adapter.ts'
import type { Send } from './call.ts'
import type { Diagnosis } from './diagnosis.ts'
import { errorIn, failureOfError, failureOfStatus, upstreamFailure } from './failure.ts'
import { readReason } from './finish-reason.ts'
import { hintOfStatus, hints } from './hints.ts'
import { objectsIn } from './message.ts'
import { failureOfResponse, wireFields } from './openai-request.ts'
import { readBody, readChunkObject, readUsage } from './openai-response.ts'
import type { SseMessage } from './sse.ts'

/** The part of the AI binding that is used here. */
export interface AiBinding {
  run(
    model: string,
    inputs: Readonly<Record<string, unknown>>,
    options: { readonly returnRawResponse: true; readonly signal: AbortSignal },
  ): Promise<unknown>
}

/** The binding has no URL, but a `Request` needs one. */
export const bindingUrl = 'https://workers-ai.invalid'

export const workersAi: Upstream = {
  toWire(request, options) {
    const { model, system, prompts } = request
    return {
      path: '/run',
      body: {
        model,
        messages: [
          ...(system === null ? [] : [{ role: 'system', content: system }]),
          ...prompts.map((content) => ({ role: 'user', content })),
        ],
        ...wireFields(request, options),
      },
    }
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
      const internalCode = codeOfMessage(error instanceof Error ? error.message : '')
      // The message must not be logged, and without a code nothing else is known.
      if (internalCode === null) throw upstreamFailure('unavailable', { code: 'no_binding' })
      return Response.json({ internalCode }, { status: statusOfCode[internalCode] ?? 500 })
    }
    if (result instanceof Response) return result
    if (result instanceof ReadableStream) return new Response(result)
    return Response.json(result)
  }
}

/** developers.cloudflare.com/workers-ai/platform/errors */
const statusOfCode: Readonly<Record<number, number>> = {
  3003: 400,
  3006: 413,
  3007: 408,
  3008: 408,
  3023: 403,
  3036: 429,
  3039: 400,
  3040: 429,
  3041: 403,
  3042: 404,
  5004: 400,
  5005: 405,
  5007: 400,
  5016: 403,
  5018: 403,
  5019: 405,
}

/** What a code is about. Other codes have the hint of their status. */
const meaningOfCode: Readonly<Record<number, Diagnosis>> = {
  3006: { subject: 'context', hint: hints.context },
  3023: { subject: 'access', hint: hints.access },
  3036: { subject: 'quota', hint: hints.freeAllocation },
  3040: { subject: 'busy', hint: hints.busy },
  3041: { subject: 'access', hint: hints.access },
  3042: { subject: 'model', hint: hints.model },
  5005: { subject: 'field', hint: hints.field },
  5007: { subject: 'model', hint: hints.model },
  5016: { subject: 'access', hint: hints.terms },
  5018: { subject: 'access', hint: hints.access },
}

/** Codes with status 400 that are about the owner's settings, not about the visitor's request. */
const settingsFault: ReadonlySet<number> = new Set([3039, 5007])

function failureOfCode(code: number | null): GatewayError | null {
  const status = code === null ? undefined : statusOfCode[code]
  if (code === null || status === undefined) return null
  const cause = { code: String(code), ...meaningOfCode[code] }
  if (status === 408)
    return upstreamFailure('timeout', { status, hint: hintOfStatus(408), ...cause })
  return failureOfStatus(settingsFault.has(code) ? 404 : status, cause)
}

/** The code of "3040: Capacity temporarily exceeded", with or without an error name before it. */
function codeOfMessage(message: string): number | null {
  const [, digits] = /^(?:\w+: )?(\d{4,5}): /.exec(message) ?? []
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

function throwIfFailed(object: Readonly<Record<string, unknown>>): void {
  const { error, errors, internalCode, success } = object
  const listed = Array.isArray(errors) && errors.length > 0
  if (!error && !listed && internalCode === undefined && success !== false) return
  throw failureIn(object)
}

function failureIn(object: unknown): GatewayError {
  return failureOfCode(codeIn(object)) ?? failureOfError(errorIn(object), object)
}

function readWhole(body: unknown): readonly RawDelta[] {
  if (!isRecord(body)) throw upstreamFailure('bad_response')
  throwIfFailed(body)
  // The REST API wraps answers in `result`.
  const result = isRecord(body['result']) ? body['result'] : body
  if (!isOwnDialect(result)) return readBody(result, 'chat')
  return [...readOwn(result), { kind: 'end' }]
}

function readMessage(message: SseMessage): readonly RawDelta[] {
  const objects = objectsIn(message)
  if (objects === 'end') return [{ kind: 'end' }]
  if (message.event === 'error') throw failureIn(objects[0] ?? null)
  return objects.flatMap((chunk) => {
    throwIfFailed(chunk)
    return isOwnDialect(chunk) ? readOwn(chunk) : readChunkObject(chunk, 'chat')
  })
}

/** Some answers have both shapes. OpenAI's is read then, since it contains more. */
const isOwnDialect = (object: Readonly<Record<string, unknown>>) =>
  'response' in object && !(Array.isArray(object['choices']) && object['choices'].length > 0)

/** Reads the shape of Workers AI. Padding (`p`), tool calls and other fields are ignored. */
function readOwn(object: Readonly<Record<string, unknown>>): RawDelta[] {
  const { response, finish_reason: word } = object
  const deltas: RawDelta[] = []
  const text = textOf(response)
  if (text !== '') deltas.push({ kind: 'text', index: 0, text, logprobs: null })
  // Most models send no finish reason, so the end of the body ends the answer.
  const reason = readReason(word)
  if (reason === 'failed') deltas.push({ kind: 'failed', index: 0 })
  else if (reason !== null) {
    const onContent = text !== ''
    deltas.push({ kind: 'finish', index: 0, reason, ...(onContent ? { onContent } : {}) })
  }
  const usage = readUsage(object['usage'])
  if (usage !== null) deltas.push({ kind: 'usage', index: null, usage })
  return deltas
}

/** A number is sent as a number, and an answer in JSON mode as the object itself. */
function textOf(response: unknown): string {
  if (typeof response === 'string') return response
  return response === null || response === undefined ? '' : JSON.stringify(response)
}
