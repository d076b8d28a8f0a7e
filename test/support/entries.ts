// Completions and cache entries, as the gateway makes them.
import { createEntry, type Entry } from '../../src/cache/entry.ts'
import type { Completion, FinishReason } from '../../src/completion/completion.ts'
import { START } from './app.ts'

/** A cache key. */
export const KEY = `c1:${'0a'.repeat(32)}`
/** The start of the fake clock, in unix seconds. */
export const NOW_S = START / 1000

/** A completion with one choice for each text. */
export function completionOf(
  texts: readonly string[],
  finish_reason: FinishReason = 'stop',
): Completion {
  return {
    id: `cmpl-${'a'.repeat(28)}`,
    object: 'text_completion',
    created: NOW_S,
    model: 'model-1',
    choices: texts.map((text, index) => ({ text, index, logprobs: null, finish_reason })),
    usage: { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 },
  }
}

export function entryOf({
  key = KEY,
  texts = ['Hello'] as readonly string[],
  names = ['model:default', 'prompt:haiku'] as readonly string[],
  /** When it was requested, in unix seconds. */
  nowS = NOW_S,
  freshSeconds = 3600,
  staleSeconds = 60,
} = {}): Entry {
  return createEntry(
    { completion: completionOf(texts), estimated: false },
    { key, names, source: null },
    { requestedAt: nowS * 1000, nowS, freshSeconds, staleSeconds },
  )
}
