// The normalised completion: the schema of what visitors get and what the cache stores.
import * as v from 'valibot'
import { byName } from '../validation.ts'

const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0))

const logprobsSchema = v.strictObject({
  tokens: v.array(v.string()),
  token_logprobs: v.array(v.nullable(v.number())),
  top_logprobs: v.nullable(v.array(v.nullable(byName(v.string(), v.number())))),
  text_offset: v.array(v.number()),
})

export const finishReasons = ['stop', 'length', 'content_filter'] as const

const choiceSchema = v.strictObject({
  text: v.string(),
  index: count,
  logprobs: v.nullable(logprobsSchema),
  finish_reason: v.picklist(finishReasons),
})

const usageSchema = v.strictObject({
  prompt_tokens: count,
  completion_tokens: count,
  total_tokens: count,
})

/** The response body of POST /v1/completions. Strict, since stored entries are parsed with it. */
export const completionSchema = v.strictObject({
  id: v.pipe(v.string(), v.regex(/^cmpl-[A-Za-z0-9]{24,}$/)),
  object: v.literal('text_completion'),
  created: count,
  model: v.string(),
  system_fingerprint: v.optional(v.string()),
  choices: v.pipe(v.array(choiceSchema), v.minLength(1)),
  usage: usageSchema,
})

export type Completion = v.InferOutput<typeof completionSchema>
export type Choice = v.InferOutput<typeof choiceSchema>
export type Usage = v.InferOutput<typeof usageSchema>
export type Logprobs = v.InferOutput<typeof logprobsSchema>
export type FinishReason = (typeof finishReasons)[number]

const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789'

/** `length` random letters and digits, uniformly distributed. */
export function randomLetters(length: number, randomBytes: (bytes: Uint8Array) => void): string {
  const bytes = new Uint8Array(length * 2)
  let letters = ''
  while (letters.length < length) {
    randomBytes(bytes)
    for (const byte of bytes) {
      const letter = ALPHABET[byte & 63]
      if (letter !== undefined && letters.length < length) letters += letter
    }
  }
  return letters
}

/** The usual estimate of a text's tokens: four UTF-8 bytes each, rounded up. */
export function estimateTokens(text: string): number {
  return Math.ceil(new TextEncoder().encode(text).length / 4)
}
