// The schema of a visitor's request, and its parser. The owner's settings are applied in
// effective.ts.

import * as v from 'valibot'
import { GatewayError } from '../errors.ts'
import { isRecord, type Table } from '../json.ts'
import {
  byName,
  type Fault,
  faultsOf,
  finite,
  integer,
  listOf,
  preview,
  text,
} from '../validation.ts'
import type { Conversation } from './conversation.ts'
import { withoutForeign } from './foreign.ts'

export interface RequestLimits {
  /**
   * Characters (UTF-16 units) in all prompts or all variables together; for token prompts, tokens.
   */
  readonly prompt_chars: number
  readonly max_tokens: number
  readonly n: number
  /** Prompts per request. */
  readonly prompts: number
}

const MAX_STOPS = 4
const MAX_STOP_CHARS = 64
const MAX_USER_CHARS = 512
const MAX_BIASES = 300

const token = integer(0, 2 ** 31 - 1)
const sentence = text(1, Number.MAX_SAFE_INTEGER)

/** The values are validated in template.ts. */
export const variables = v.custom<Readonly<Record<string, unknown>>>(
  isRecord,
  'an object of variables',
)

const biases = v.pipe(
  v.custom<object>(isRecord, 'an object of token ids'),
  byName(v.string(), integer(-100, 100)),
  v.maxEntries(MAX_BIASES, `at most ${MAX_BIASES} tokens`),
)

export const flag = v.boolean('true or false')
const streamOptions = v.object({
  include_usage: v.optional(flag),
  /** Has no effect: chunks are never padded. */
  include_obfuscation: v.optional(flag),
  /** Has no effect: usage is sent at the end. */
  continuous_usage_stats: v.optional(flag),
})

// These two are also used for the owner's defaults.
export const samplingFields = {
  temperature: v.optional(finite(0, 2)),
  top_p: v.optional(finite(0, 1)),
  presence_penalty: v.optional(finite(-2, 2)),
  frequency_penalty: v.optional(finite(-2, 2)),
}
export const stopSchema = v.union(
  [
    text(1, MAX_STOP_CHARS),
    v.pipe(
      v.array(text(1, MAX_STOP_CHARS)),
      v.maxLength(MAX_STOPS, `at most ${MAX_STOPS} strings`),
    ),
  ],
  `a string or up to ${MAX_STOPS} strings, each of 1 to ${MAX_STOP_CHARS} characters`,
)
const lockedPrompt = v.object({ id: text(1, 64), variables: v.optional(variables) })

/** The schema of a request body, from which /openapi.json is also generated. */
export function requestSchema(limits: RequestLimits) {
  const prompts = v.union(
    [sentence, listOf(sentence), listOf(token), listOf(listOf(token)), lockedPrompt],
    'a string that is not empty, a list of such strings, a list of tokens or {"id": …}',
  )
  return v.object({
    prompt: prompts,
    model: v.optional(v.string('a string')),
    max_tokens: v.optional(integer(1, limits.max_tokens)),
    ...samplingFields,
    n: v.optional(integer(1, limits.n)),
    best_of: v.optional(integer(1, limits.n)),
    stop: v.optional(stopSchema),
    stream: v.optional(flag),
    stream_options: v.optional(v.pipe(v.custom<object>(isRecord, 'an object'), streamOptions)),
    seed: v.optional(integer(Number.MIN_SAFE_INTEGER)),
    logprobs: v.optional(integer(0, 5)),
    echo: v.optional(flag),
    suffix: v.optional(text(0, limits.prompt_chars)),
    logit_bias: v.optional(biases),
    user: v.optional(text(0, MAX_USER_CHARS)),
  })
}

type CompletionRequest = v.InferOutput<ReturnType<typeof requestSchema>>

/** A locked prompt with its variables; for chats, with the conversation. */
export interface LockedPrompt extends v.InferOutput<typeof lockedPrompt> {
  readonly messages?: Conversation
  /** The name by which `max_tokens` was sent. */
  readonly limitName?: string
}
export type FreePrompt = Exclude<CompletionRequest['prompt'], LockedPrompt> | Conversation

/** A request for a completion or a chat, as its parser returns it. */
export interface VisitorRequest extends Omit<CompletionRequest, 'prompt'> {
  readonly prompt: FreePrompt | LockedPrompt
  /** Of chats only: `json_object` or `json_schema`. */
  readonly response_format?: Readonly<Record<string, unknown>>
}
export type RequestField = keyof VisitorRequest

/** Whether the prompt refers to a locked prompt. */
export function isLocked<Prompt extends object | string>(
  prompt: Prompt,
): prompt is Extract<Prompt, { id: string }> {
  return typeof prompt === 'object' && !Array.isArray(prompt)
}

/** The size of a visitor's prompts, to be compared with `limits.prompt_chars`. */
function promptSize(prompt: CompletionRequest['prompt']): number {
  if (isLocked(prompt)) return 0
  if (typeof prompt === 'string') return prompt.length
  let size = 0
  for (const item of prompt) size += typeof item === 'number' ? 1 : item.length
  return size
}

/** A list of tokens is one prompt. */
function promptCount(prompt: CompletionRequest['prompt']): number {
  return Array.isArray(prompt) && typeof prompt[0] !== 'number' ? prompt.length : 1
}

export type ParseRequest = (body: unknown) => VisitorRequest

/**
 * Creates the parser of bodies for these limits, so that the schema is built once. It throws a
 * GatewayError `unknown_field`, `missing_field` or `invalid_value` with the messages of all faults.
 */
export function requestParser(limits: RequestLimits): ParseRequest {
  const schema = requestSchema(limits)
  return fieldParser(schema, {
    misplaced: ['messages', 'chats go to POST /v1/chat/completions'],
    // For a fault inside a union's member, a union reports only that no member fits.
    lockedSchema: v.object({ ...schema.entries, prompt: lockedPrompt }),
    faultsOf: (request) => crossFieldFaults(request, limits),
  })
}

type FieldSchema = v.ObjectSchema<v.ObjectEntries, undefined>

interface FieldOptions<Schema extends FieldSchema> {
  /** A field of the other path, and where it belongs. */
  readonly misplaced: readonly [field: string, place: string]
  /** For a body whose `prompt` is a table. */
  readonly lockedSchema?: v.GenericSchema<unknown, v.InferOutput<Schema>>
  /** The faults of a request whose fields are valid by themselves. */
  readonly faultsOf: (request: v.InferOutput<Schema>) => readonly Fault[]
}

/** Creates a parser of the fields of one path. It throws as `requestParser` does. */
export function fieldParser<Schema extends FieldSchema>(
  schema: Schema,
  {
    misplaced: [misplaced, place],
    lockedSchema = schema,
    faultsOf: furtherFaults,
  }: FieldOptions<Schema>,
): (body: unknown) => v.InferOutput<Schema> {
  const { entries } = schema
  return (body) => {
    if (!isRecord(body)) {
      throw new GatewayError(
        'invalid_value',
        `Cannot use the body: expected a JSON object, got ${preview(body)}`,
      )
    }
    const { fields: given, faults: foreign } = withoutForeign(withoutNulls(body), entries)
    if (Object.hasOwn(given, misplaced)) {
      const message = `Cannot use "${misplaced}" here: ${place}`
      throw new GatewayError('unknown_field', message, { param: misplaced })
    }
    const unknown = [
      ...unknownKeys(given, entries, ''),
      ...unknownKeys(given['stream_options'], streamOptions.entries, 'stream_options.'),
      ...unknownKeys(given['prompt'], lockedPrompt.entries, 'prompt.'),
    ]
    const result = v.safeParse(isRecord(given['prompt']) ? lockedSchema : schema, given)
    const faults = [
      ...foreign,
      ...keyFaults(given['logit_bias']),
      ...streamFaults(given),
      ...(result.success ? furtherFaults(result.output) : faultsOf(result.issues)),
    ]
    if (unknown.length === 0 && faults.length === 0 && result.success) return result.output
    throw refusal(unknown, faults)
  }
}

/** Treats `null` as absent, at the top level and in `stream_options` and `prompt`. */
function withoutNulls(body: object): Readonly<Record<string, unknown>> {
  const given = presentIn(body)
  for (const field of ['stream_options', 'prompt']) {
    const value = given[field]
    if (isRecord(value)) given[field] = presentIn(value)
  }
  return given
}

function presentIn(table: object): Record<string, unknown> {
  return Object.fromEntries(Object.entries(table).filter(([, value]) => value !== null))
}

/** Checks own keys only, so that `constructor` and `__proto__` are unknown, too. */
function unknownKeys(value: unknown, known: object, prefix: string): Fault[] {
  if (!isRecord(value)) return []
  const unknown = Object.keys(value).filter((key) => !Object.hasOwn(known, key))
  return unknown.map((key) => {
    const path = `${prefix}${key}`
    return { path, message: `Cannot use ${preview(path)}: it is not a field of this endpoint` }
  })
}

function streamFaults({ stream, stream_options }: Table): Fault[] {
  if (stream_options === undefined || stream === true) return []
  const message = 'Cannot use "stream_options": it requires "stream": true'
  return [{ path: 'stream_options', message }]
}

/** Finds keys of `logit_bias` that are not token ids. */
function keyFaults(biases: unknown): Fault[] {
  if (!isRecord(biases)) return []
  return Object.keys(biases)
    .filter((key) => !/^\d{1,10}$/.test(key))
    .map((key) => {
      const path = `logit_bias.${key}`
      const message = `Cannot use ${preview(path)}: expected token ids as keys, got ${preview(key)}`
      return { path, message }
    })
}

/** Faults that concern several fields or the request as a whole. */
function crossFieldFaults(request: CompletionRequest, limits: RequestLimits): Fault[] {
  const faults: Fault[] = []
  const fault = (path: string, state: string) =>
    faults.push({ path, message: `Cannot use "${path}": ${state}` })
  const { prompt, n = 1, best_of } = request
  const size = promptSize(prompt)
  if (size > limits.prompt_chars) {
    fault('prompt', `expected at most ${limits.prompt_chars} characters, got ${size}`)
  }
  const count = promptCount(prompt)
  if (count > limits.prompts) {
    fault('prompt', `expected at most ${limits.prompts} prompts, got ${count}`)
  }
  if (best_of !== undefined && best_of < n) {
    fault('best_of', `expected at least n, which is ${n}, got ${best_of}`)
  }
  if (best_of !== undefined && best_of > n && request.stream === true) {
    fault('best_of', 'it cannot be combined with "stream": true')
  }
  return faults
}

const SHOWN_FAULTS = 8
const PARAM_CHARS = 64

function refusal(unknown: readonly Fault[], faults: readonly Fault[]): GatewayError {
  const all = [...unknown, ...faults]
  const isMissing = faults[0]?.message.startsWith('Cannot find ')
  const code = unknown.length > 0 ? 'unknown_field' : isMissing ? 'missing_field' : 'invalid_value'
  const messages = all.slice(0, SHOWN_FAULTS).map(({ message }) => message)
  const param = all[0]?.path.slice(0, PARAM_CHARS).toWellFormed() ?? null
  return new GatewayError(code, messages.join('; '), { param })
}
