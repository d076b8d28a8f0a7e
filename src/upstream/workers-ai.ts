// The workers-ai wire: Cloudflare's models through the AI binding. Depending on the model, answers
// have the shape of Workers AI or of OpenAI.
import type { RawDelta } from '../completion/delta.ts'
import type { GatewayError } from '../errors.ts'
import { isRecord, type Table } from '../json.ts'
import type { CallRequest, Upstream } from './adapter.ts'
import type { Send } from './call.ts'
import { diagnose, type Subject } from './diagnosis.ts'
import {
  errorIn,
  failureIn,
  failureOfResponse,
  failureOfStatus,
  upstreamFailure,
} from './failure.ts'
import { ending, readReason } from './finish-reason.ts'
import type { Hint } from './hints.ts'
import { END, readMessage, recordOf } from './message.ts'
import { messagesOf, wireFields } from './openai-request.ts'
import { isMarked, readBody, readObject, readUsage } from './openai-response.ts'

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
    const { model, response_format: format } = request
    const fields = wireFields(format === undefined ? request : inJsonMode(request, format), options)
    return { path: '/run', body: { model, messages: messagesOf(request, options), ...fields } }
  },
  fromBody: readWhole,
  fromMessage: (message) =>
    readMessage(message, { read: readEvent, failureIn: failureOf, ends: [END] }),
  fromFailure: (status, body) => failureOfCode(body) ?? failureOfResponse(status, body),
}

/**
 * In JSON mode there are no streams, and `json_schema` is the schema itself:
 * developers.cloudflare.com/workers-ai/json-mode
 */
function inJsonMode(request: CallRequest, format: Table): CallRequest {
  const { json_schema: named } = format
  const schema = isRecord(named) ? (named['schema'] ?? named) : undefined
  const response_format = { ...format, ...(schema === undefined ? {} : { json_schema: schema }) }
  return { ...request, stream: false, response_format }
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
      // "3040: Capacity temporarily exceeded", with or without names of errors before it.
      const [, internalCode = null] = /^(?:\w+: )*(\d{4,5}): /.exec(message) ?? []
      const subject = diagnose({ message })?.subject
      if (internalCode === null && subject === undefined) {
        throw upstreamFailure('unavailable', { code: 'no_binding' })
      }
      // Models' own errors have no code. The message is only diagnosed, never logged.
      const status = subject === undefined || subject === 'busy' ? 500 : 400
      return Response.json(
        { internalCode, message },
        { status: causes[internalCode ?? '']?.[0] ?? status },
      )
    }
    if (result instanceof Response) return result
    return result instanceof ReadableStream ? new Response(result) : Response.json(result)
  }
}

type Cause = readonly [status: number, subject?: Subject, hint?: Hint]

/**
 * The failures of developers.cloudflare.com/workers-ai/platform/errors. 3039 and 5007 have 404 in
 * place of 400, since they are about the owner's settings, not about the visitor's request.
 */
const causes: Readonly<Record<string, Cause>> = {
  3003: [400],
  3006: [413, 'context'],
  3007: [408],
  3008: [408],
  3023: [403, 'access'],
  3036: [429, 'quota', 'freeAllocation'],
  3039: [404],
  3040: [429, 'busy'],
  3041: [403, 'access'],
  3042: [404, 'model'],
  4006: [429, 'quota', 'freeAllocation'],
  5004: [400],
  5005: [405, 'field'],
  5007: [404, 'model'],
  5016: [403, 'access', 'terms'],
  5018: [403, 'access'],
  5019: [405],
  5021: [413, 'context'],
  10000: [401, 'key'],
}

/** The binding's errors have `internalCode`, those of the REST API `errors: [{ code }]`. */
function failureOfCode(object: unknown): GatewayError | null {
  const error = errorIn(object)
  if (!isRecord(error)) return null
  const code = [error['internalCode'], error['code']]
    .map(String)
    .find((value) => Object.hasOwn(causes, value))
  const [status, subject, hint] = causes[code ?? ''] ?? []
  if (status === undefined) return null
  const cause = { code: String(code), subject, ...(hint === undefined ? {} : { hint }) }
  if (status !== 408) return failureOfStatus(status, cause)
  return upstreamFailure('timeout', { ...cause, status, hint: '408' satisfies Hint })
}

const failureOf = (object: unknown) => failureOfCode(object) ?? failureIn(object)

/** An object that is no error. The REST API wraps answers in `result`. */
function resultOf(object: Table): Table {
  if (isMarked(object) || object['internalCode'] !== undefined) throw failureOf(object)
  return isRecord(object['result']) ? object['result'] : object
}

function readWhole(body: unknown): readonly RawDelta[] {
  const result = resultOf(recordOf(body))
  return isOwnDialect(result) ? [...readOwn(result), END] : readBody(result, 'chat')
}

function readEvent(object: Table): readonly RawDelta[] {
  const chunk = resultOf(object)
  return isOwnDialect(chunk) ? readOwn(chunk) : readObject(chunk, 'chat', 'chunk')
}

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
