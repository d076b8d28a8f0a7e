// The normalised object everybody gets: what it is made of, and how to read one back.
// Knows no upstream and no HTTP.
import * as v from 'valibot'

const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0))

const logprobsSchema = v.strictObject({
  tokens: v.array(v.string()),
  token_logprobs: v.array(v.nullable(v.number())),
  top_logprobs: v.nullable(v.array(v.nullable(v.record(v.string(), v.number())))),
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

/** The shape of contract 2.2; strict, since a stored value is read back through it. */
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

/** `length` random letters and digits, at most 6 bits of each byte used, none favoured. */
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

/**
 * Tokens where the upstream counted none: four UTF-8 bytes each, the field's rule of thumb. Never 0
 * for a text that is not empty.
 */
export function estimateTokens(text: string): number {
  return Math.ceil(new TextEncoder().encode(text).length / 4)
}
