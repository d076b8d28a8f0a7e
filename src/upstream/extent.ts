// The most tokens that one upstream call can read and write. It is measured on the body that is
// sent, so that a field added to a wire later is counted without further code.
import type { CallRequest, WireCall } from './adapter.ts'

export interface Extent {
  readonly input: number
  readonly output: number
}

/** For the roles and separators of a chat template, per prompt. */
const OVERHEAD_TOKENS = 64

/** Fields that are not part of a model's input. All others count, including future ones. */
const unread: ReadonlySet<string> = new Set(['model', 'stream_options', 'logit_bias'])

/** Names of limits on output tokens, at any depth of the body. */
const limitNames: ReadonlySet<string> = new Set([
  'max_tokens',
  'max_completion_tokens',
  'max_output_tokens',
  'maxOutputTokens',
  'max_new_tokens',
  'max_tokens_to_sample',
  'max_length',
  'n_predict',
  'num_predict',
  'budget_tokens',
  'thinking_budget',
])

/** Names of the number of answers per prompt. */
const countNames: ReadonlySet<string> = new Set([
  'n',
  'n_cmpl',
  'best_of',
  'candidate_count',
  'candidateCount',
  'num_return_sequences',
  'num_generations',
  'num_beams',
  'beam_width',
])

/** Counts a byte as a token, which is an upper bound. Other fields are read with each prompt. */
export function extentOf({ body }: WireCall, { prompts, max_tokens }: CallRequest): Extent {
  const count = prompts.length
  let input = count * OVERHEAD_TOKENS
  for (const [field, value] of Object.entries(body)) {
    if (unread.has(field)) continue
    if (field === 'prompt') input += promptTokens(value)
    else input += count * (field === 'messages' ? messagesBytes(value) : bytesOf(value))
  }
  const each = largestOf(body, limitNames, max_tokens)
  return { input, output: count * each * largestOf(body, countNames, 1) }
}

/** The bytes of text prompts, the tokens of token prompts. */
function promptTokens(prompt: unknown): number {
  if (typeof prompt === 'string') return utf8Length(prompt)
  if (!Array.isArray(prompt)) return 1
  return prompt.reduce<number>((sum, item: unknown) => sum + promptTokens(item), 0)
}

/** The bytes of all fields but the roles, which are part of the overhead. */
function messagesBytes(messages: unknown): number {
  if (!Array.isArray(messages)) return bytesOf(messages)
  return bytesOf(messages.flatMap(({ role: _role, ...fields }) => Object.values(fields)))
}

/** All of an object's JSON: the model may also read its names and numbers, as of a schema. */
function bytesOf(value: unknown): number {
  if (typeof value === 'string') return utf8Length(value)
  if (Array.isArray(value)) return value.reduce<number>((sum, item) => sum + bytesOf(item), 0)
  return typeof value === 'object' && value !== null ? utf8Length(JSON.stringify(value)) : 0
}

/** The largest number under any of the names, also as digits, but at least `least`. */
function largestOf(table: object, names: ReadonlySet<string>, least: number): number {
  let largest = least
  for (const [name, value] of Object.entries(table)) {
    if (typeof value === 'object' && value !== null) largest = largestOf(value, names, largest)
    // NaN is never larger.
    else if (names.has(name) && Number(value) > largest) largest = Number(value)
  }
  return largest
}

/** The name of a limit that is set to no limit (-1 in llama.cpp and Ollama), or null. */
export function unlimitedIn(table: object): string | null {
  for (const [name, value] of Object.entries(table)) {
    if (typeof value === 'object' && value !== null) {
      const inner = unlimitedIn(value)
      if (inner !== null) return inner
    }
    // Thoughts are part of the answer's own limit.
    if (name !== 'thinking_budget' && limitNames.has(name) && Number(value) < 0) return name
  }
  return null
}

const utf8Length = (text: string) => new TextEncoder().encode(text).length
