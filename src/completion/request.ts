// What a visitor may send, as one schema (contract 2.1), and its reading from JSON or a query.
// Knows the limits it is given, not where they come from; the owner's part is effective.ts.
import * as v from 'valibot'
import { GatewayError } from '../errors.ts'
import { type Fault, faultsOf, finite, integer, preview, text } from '../faults.ts'
import { withoutForeign } from './foreign.ts'

export interface RequestLimits {
  /** Characters (UTF-16 units) of all prompts, or of all variables. Token prompts: tokens. */
  readonly prompt_chars: number
  readonly max_tokens: number
  readonly n: number
  /** Prompts in one request. */
  readonly prompts: number
}

const MAX_STOPS = 4
const MAX_STOP_CHARS = 64
const MAX_USER_CHARS = 512
const MAX_BIASES = 300

const token = integer(0, 2 ** 31 - 1)
const sentence = text(1, Number.MAX_SAFE_INTEGER)
const AT_LEAST_ONE = 'at least one item'

/** Judged by template.ts, name by name. */
const variables = v.custom<Readonly<Record<string, unknown>>>(isTable, 'an object of variables')

const biases = v.pipe(
  v.custom<object>(isTable, 'an object of token ids'),
  v.record(v.string(), integer(-100, 100)),
  v.maxEntries(MAX_BIASES, `at most ${MAX_BIASES} tokens`),
)

function isTable(value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

const flag = v.boolean('true or false')
const streamOptions = v.object({
  include_usage: v.optional(flag),
  /** Without effect: no chunk is padded. */
  include_obfuscation: v.optional(flag),
  /** Without effect: usage comes at the end. */
  continuous_usage_stats: v.optional(flag),
})
/** The texts that end an answer; also as an owner's default. */
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

/** The schema of a request body; also what /openapi.json is made of. */
export function requestSchema(limits: RequestLimits) {
  const prompts = v.union(
    [
      sentence,
      v.pipe(v.array(sentence), v.minLength(1, AT_LEAST_ONE)),
      v.pipe(v.array(token), v.minLength(1, AT_LEAST_ONE)),
      v.pipe(
        v.array(v.pipe(v.array(token), v.minLength(1, AT_LEAST_ONE))),
        v.minLength(1, AT_LEAST_ONE),
      ),
      lockedPrompt,
    ],
    'a string that is not empty, a list of such strings, a list of tokens or {"id": …}',
  )
  return v.object({
    prompt: prompts,
    model: v.optional(v.string('a string')),
    max_tokens: v.optional(integer(1, limits.max_tokens)),
    temperature: v.optional(finite(0, 2)),
    top_p: v.optional(finite(0, 1)),
    presence_penalty: v.optional(finite(-2, 2)),
    frequency_penalty: v.optional(finite(-2, 2)),
    n: v.optional(integer(1, limits.n)),
    best_of: v.optional(integer(1, limits.n)),
    stop: v.optional(stopSchema),
    stream: v.optional(flag),
    stream_options: v.optional(v.pipe(v.custom<object>(isTable, 'an object'), streamOptions)),
    seed: v.optional(integer(Number.MIN_SAFE_INTEGER)),
    logprobs: v.optional(integer(0, 5)),
    echo: v.optional(flag),
    suffix: v.optional(text(0, limits.prompt_chars)),
    logit_bias: v.optional(biases),
    user: v.optional(text(0, MAX_USER_CHARS)),
  })
}

export type VisitorRequest = v.InferOutput<ReturnType<typeof requestSchema>>
export type RequestField = keyof VisitorRequest
export type LockedPrompt = Extract<VisitorRequest['prompt'], { id: string }>

/** Whether the prompt names one of the owner's. */
export function isLocked(prompt: VisitorRequest['prompt']): prompt is LockedPrompt {
  return typeof prompt === 'object' && !Array.isArray(prompt)
}

/** How much of `limits.prompt_chars` a visitor's prompts take. */
export function promptSize(prompt: Exclude<VisitorRequest['prompt'], LockedPrompt>): number {
  if (typeof prompt === 'string') return prompt.length
  let size = 0
  for (const item of prompt) size += typeof item === 'number' ? 1 : item.length
  return size
}

/** How many completions are asked for, before `n`. A list of tokens is one prompt. */
export function promptCount(prompt: VisitorRequest['prompt']): number {
  return Array.isArray(prompt) && typeof prompt[0] !== 'number' ? prompt.length : 1
}

/** A parsed body as a request. Throws what `requestParser` says. */
export type ParseRequest = (body: unknown) => VisitorRequest

/**
 * Makes the parser for these limits; the schema is built once, not for each request.
 *
 * @throws GatewayError `unknown_field`, `missing_field` or `invalid_value`: every issue is named in
 *   the message, `param` is the first.
 */
export function requestParser(limits: RequestLimits): ParseRequest {
  const { entries } = requestSchema(limits)
  const schema = v.object(entries)
  // A union tells of a fault inside one of its members only that none fits.
  const lockedSchema = v.object({ ...entries, prompt: lockedPrompt })
  return (body) => {
    if (typeof body !== 'object' || body === null || Array.isArray(body)) {
      throw new GatewayError(
        'invalid_value',
        `Cannot use the body: expected a JSON object, got ${preview(body)}`,
      )
    }
    const { fields: given, faults: foreign } = withoutForeign(withoutNulls(body), entries)
    const unknown = [
      ...unknownKeys(given, entries, ''),
      ...unknownKeys(given['stream_options'], streamOptions.entries, 'stream_options.'),
      ...unknownKeys(given['prompt'], lockedPrompt.entries, 'prompt.'),
    ]
    const fitting = isTable(given['prompt']) ? lockedSchema : schema
    const result = v.safeParse(fitting, given)
    const faults = [
      ...foreign,
      ...keyFaults(given['logit_bias']),
      ...(result.success ? rulesOf(result.output, limits) : faultsOf(result.issues)),
    ]
    if (unknown.length === 0 && faults.length === 0 && result.success) return result.output
    throw refusal(unknown, faults)
  }
}

/** `null` is the same as absent, at the top and one level down; deeper, nothing is looked at. */
function withoutNulls(body: object): Readonly<Record<string, unknown>> {
  const given = presentIn(body)
  for (const field of ['stream_options', 'prompt']) {
    const value = given[field]
    if (isTable(value)) given[field] = presentIn(value as object)
  }
  return given
}

function presentIn(table: object): Record<string, unknown> {
  return Object.fromEntries(Object.entries(table).filter(([, value]) => value !== null))
}

/** Own keys only: `constructor` and `__proto__` are as unknown as any other. */
function unknownKeys(value: unknown, known: object, prefix: string): Fault[] {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return []
  return Object.keys(value)
    .filter((key) => !Object.hasOwn(known, key))
    .map((key) => {
      const path = `${prefix}${key}`
      return { path, message: `Cannot use ${preview(path)}: it is not a field of this endpoint` }
    })
}

/** Keys of `logit_bias` that are no tokens; own keys, since a record forgets `__proto__`. */
function keyFaults(biases: unknown): Fault[] {
  if (!isTable(biases)) return []
  return Object.keys(biases as object)
    .filter((key) => !/^\d{1,10}$/.test(key))
    .map((key) => {
      const path = `logit_bias.${key}`
      const message = `Cannot use ${preview(path)}: expected token ids as keys, got ${preview(key)}`
      return { path, message }
    })
}

/** What holds between fields. */
function rulesOf(request: VisitorRequest, limits: RequestLimits): Fault[] {
  const faults: Fault[] = []
  const fault = (path: string, state: string) =>
    faults.push({ path, message: `Cannot use "${path}": ${state}` })
  const { prompt, n = 1, best_of, stream = false, stream_options } = request
  if (!isLocked(prompt)) {
    const size = promptSize(prompt)
    if (size > limits.prompt_chars) {
      fault('prompt', `expected at most ${limits.prompt_chars} characters, got ${size}`)
    }
  }
  const count = promptCount(prompt)
  if (count > limits.prompts) {
    fault('prompt', `expected at most ${limits.prompts} prompts, got ${count}`)
  }
  if (best_of !== undefined && best_of < n) {
    fault('best_of', `expected at least n, which is ${n}, got ${best_of}`)
  }
  if (best_of !== undefined && best_of > 1 && stream) {
    fault('best_of', 'it does not go with "stream": true')
  }
  if (stream_options !== undefined && !stream) {
    fault('stream_options', 'it goes with "stream": true only')
  }
  return faults
}

const SHOWN_FAULTS = 8
const PARAM_CHARS = 64

function refusal(unknown: readonly Fault[], faults: readonly Fault[]): GatewayError {
  const all = [...unknown, ...faults]
  const code =
    unknown.length > 0
      ? 'unknown_field'
      : faults[0]?.message.startsWith('Cannot find ')
        ? 'missing_field'
        : 'invalid_value'
  const message = all
    .slice(0, SHOWN_FAULTS)
    .map((fault) => fault.message)
    .join('; ')
  return new GatewayError(code, message, {
    param: all[0]?.path.slice(0, PARAM_CHARS).toWellFormed() ?? null,
  })
}
