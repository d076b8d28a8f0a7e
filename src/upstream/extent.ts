// The most tokens that one upstream call can read and write, measured on the body that is sent: a
// field that is added to a wire later is counted without anybody thinking of it.
import type { CallRequest, WireCall } from './adapter.ts'

export interface Extent {
  readonly input: number
  readonly output: number
}

/** Around each prompt: what a chat's roles and separators may take. */
const OVERHEAD_TOKENS = 64

/** Fields that no model reads. Every other one counts, also those that are not invented yet. */
const unread: ReadonlySet<string> = new Set(['model', 'stream_options', 'logit_bias'])

/** Under which names servers are told how many tokens to write, at any depth of the body. */
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

/** Under which names servers are told how many answers to write for a prompt. */
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

/** A token is never less than a byte. What stands beside several prompts is read with each. */
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

/** Of texts their bytes, of token prompts their tokens. */
function promptTokens(prompt: unknown): number {
  if (typeof prompt === 'string') return utf8Length(prompt)
  if (!Array.isArray(prompt)) return 1
  return prompt.reduce<number>((sum, item: unknown) => sum + promptTokens(item), 0)
}

/** Roles are part of the overhead. */
function messagesBytes(messages: unknown): number {
  if (!Array.isArray(messages)) return bytesOf(messages)
  let bytes = 0
  for (const { role: _role, ...fields } of messages as Record<string, unknown>[]) {
    for (const value of Object.values(fields)) bytes += bytesOf(value)
  }
  return bytes
}

/** Of a structure, such as a schema, the model may read names and numbers, too: all of its JSON. */
function bytesOf(value: unknown): number {
  if (typeof value === 'string') return utf8Length(value)
  if (Array.isArray(value)) return value.reduce<number>((sum, item) => sum + bytesOf(item), 0)
  return typeof value === 'object' && value !== null ? utf8Length(JSON.stringify(value)) : 0
}

/** The largest number under one of the names, and at least `least`. */
function largestOf(table: object, names: ReadonlySet<string>, least: number): number {
  let largest = least
  for (const [name, value] of Object.entries(table)) {
    if (names.has(name) && typeof value === 'number') largest = Math.max(largest, value)
    else if (isTable(value)) largest = largestOf(value, names, largest)
  }
  return largest
}

const isTable = (value: unknown): value is object =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const utf8Length = (text: string) => new TextEncoder().encode(text).length
