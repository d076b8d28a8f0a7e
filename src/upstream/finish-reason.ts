// The words upstreams give for how a choice ended, as the three of the OpenAI API. Sources: Google's
// Candidate.FinishReason, Amazon Bedrock's stopReason, Cohere's FinishReason, Anthropic's stop_reason,
// IBM watsonx, Zhipu, Mistral, text-generation-inference. New words appear all the time, so they are
// recognised by what they speak of.
import type { FinishReason } from '../completion/completion.ts'
import { isRecord } from './failure.ts'

/** `failed`: the choice did not end, it broke. */
export type ReadReason = FinishReason | 'failed'

/** Words of servers that mean null: the choice goes on. */
const noReason: ReadonlySet<string> = new Set([
  '',
  'null',
  'none',
  'nil',
  'undefined',
  'unspecified',
  'not_finished',
  'in_progress',
  'continue',
])

/** Words that one of the patterns would take for something else. */
const exact: Readonly<Record<string, ReadReason>> = {
  // Cohere: the context is full, not a failure.
  error_limit: 'length',
  // watsonx and Cohere: a time limit cuts an answer anywhere, so it must not be stored as whole.
  time_limit: 'failed',
}

const FILTERED =
  /filter|safety|unsafe|guardrail|block(?:ed|list)|prohibit|recitation|copyright|pii|toxic|sensitive|moderat|refus|censor|flagged|violat|policy|inspection|armor|jailbreak|nsfw|harmful|language/
const FAILED =
  /error|abort|fail|cancel|exception|time_?out|timed_out|interrupt|disconnect|unavailable|overload|insufficient|malformed|rate_limit/
const LENGTH = /length|limit|max_.*tok|max_len|max_output|context|truncat|exceed|incomplete/

/**
 * A `finish_reason` or `stop_reason` as it was sent; null where it says that there is none yet. A word
 * nobody knows is a `stop`: something ended the choice.
 */
export function readReason(value: unknown): ReadReason | null {
  // SGLang's native shape is {"type": "stop", "matched": …}.
  const said = isRecord(value) ? value['type'] : value
  if (typeof said !== 'string') return null
  const word = said
    .trim()
    .replaceAll(/([a-z])([A-Z])/g, '$1_$2')
    .replaceAll(/[\s-]+/g, '_')
    .toLowerCase()
    .replace(/^finish_reason_/, '')
  if (word === 'stop') return 'stop'
  if (noReason.has(word)) return null
  if (Object.hasOwn(exact, word)) return exact[word] ?? null
  if (FILTERED.test(word)) return 'content_filter'
  if (FAILED.test(word)) return 'failed'
  return LENGTH.test(word) ? 'length' : 'stop'
}
