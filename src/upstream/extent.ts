// The most tokens that one upstream call can read and write. It is measured on the body that is
// sent, so that a field added to a wire later is counted without further code.
import type { CallRequest, WireCall } from './adapter.ts'
import { bytesOfStrings } from './message.ts'

export interface Extent {
  readonly input: number
  readonly output: number
}

/** For the roles and separators of a chat template, per prompt. */
const OVERHEAD_TOKENS = 64

/** Fields that are not part of a model's input. All others count, including future ones. */
const unread: ReadonlySet<string> = new Set(['model', 'stream_options', 'logit_bias'])

/** Names of limits on output tokens, at any depth of the body. */
const LIMIT =
  /^(?:max_(?:(?:completion|output|new)_)?tokens|max_tokens_to_sample|maxOutputTokens|max_length|n_predict|num_predict|budget_tokens|thinking_budget)$/
/** Names of the number of answers per prompt. */
const COUNT =
  /^(?:n|n_cmpl|best_of|candidate(?:_c|C)ount|num_return_sequences|num_generations|num_beams|beam_width)$/

/** Counts a byte as a token, which is an upper bound. Other fields are read with each prompt. */
export function extentOf({ body }: WireCall, { prompts, max_tokens }: CallRequest): Extent {
  const count = prompts.length
  // A visitor's JSON schema may have any names.
  const { response_format: _, ...settings } = body
  let input = count * OVERHEAD_TOKENS
  for (const [field, value] of Object.entries(body)) {
    if (unread.has(field)) continue
    if (field === 'prompt') input += promptTokens(value)
    else input += count * (field === 'messages' ? messagesBytes(value) : bytesOf(value))
  }
  const largest = (names: RegExp, least: number) =>
    Math.max(least, ...numbersIn(settings, names).map(([, number]) => number))
  return { input, output: count * largest(LIMIT, max_tokens) * largest(COUNT, 1) }
}

/** The bytes of text prompts, the tokens of token prompts. */
function promptTokens(prompt: unknown): number {
  if (typeof prompt === 'string') return bytesOfStrings(prompt)
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
  if (typeof value === 'string') return bytesOfStrings(value)
  if (Array.isArray(value)) return value.reduce<number>((sum, item) => sum + bytesOf(item), 0)
  return typeof value === 'object' && value !== null ? bytesOfStrings(JSON.stringify(value)) : 0
}

/** The numbers under any of the names, at any depth, also as digits. */
function numbersIn(table: object, names: RegExp): [name: string, number: number][] {
  return Object.entries(table).flatMap(([name, value]) => {
    if (typeof value === 'object' && value !== null) return numbersIn(value, names)
    const number = names.test(name) ? Number(value) : Number.NaN
    return Number.isNaN(number) ? [] : [[name, number] as [string, number]]
  })
}

/** The name of a limit that is set to no limit (-1 in llama.cpp and Ollama), or null. */
export function unlimitedIn(table: object): string | null {
  // Thoughts are part of the answer's own limit.
  const isUnlimited = ([name, n]: [string, number]) => n < 0 && name !== 'thinking_budget'
  return numbersIn(table, LIMIT).find(isUnlimited)?.[0] ?? null
}
