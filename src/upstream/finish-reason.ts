// Maps the finish reasons of upstreams to the three of the OpenAI API. Sources: Google's
// Candidate.FinishReason, Amazon Bedrock's stopReason, Cohere's FinishReason, Anthropic's
// stop_reason, IBM watsonx, Zhipu, Mistral, text-generation-inference. Patterns also match reasons
// added later.
import type { FinishReason } from '../completion/completion.ts'
import type { RawDelta } from '../completion/delta.ts'
import { isRecord } from '../json.ts'

/**
 * `failed`: the choice was not completed because of an error. `unknown`: the upstream does not say
 * why it ended, so the answer may be incomplete.
 */
export type ReadReason = FinishReason | 'failed' | 'unknown'

/** Words that mean null: the choice continues. */
const NO_REASON =
  /^(?:null|none|nil|undefined|unspecified|(?:not_|un)finished|in_progress|running|generating|processing|streaming|pending|continue|ongoing|started|queued|partial|intermediate|not_set|unset|nan|false|0|n\/a|[_.]+|)$/
const FILTERED =
  /filter|safety|unsafe|guardrail|block(?:ed|list)|prohibit|recitation|copyright|pii|toxic|sensitive|moderat|refus|censor|flagged|violat|policy|inspection|armor|jailbreak|nsfw|language|harm|hate|violen|sexual|terroris|offensive|abus|profan|spam|dlp|restrict|denied|reject|forbidden|inappropriate|declin/
const FAILED =
  /error|abort|fail|cancel|exception|time_?out|timed_out|interrupt|disconnect|unavailable|overload|insufficient|malformed|rate_limit|killed|preempt|evict|shutdown|shutting_down|deadline|out_of_memory|\boom\b/
/** Gemini's OTHER is often a block or a crash; the others are faults of the model. */
const UNKNOWN =
  /^(?:(?:image_)?other|unknown|no_image|unexpected_tool_call|too_many_tool_calls|missing_thought_signature)$/
/** A turn that Anthropic has paused is an unfinished answer, and is not resumed. */
const LENGTH = /length|pause|limit|max_.*tok|max_len|max_output|context|truncat|exceed|incomplete/

/**
 * Reads a `finish_reason` or `stop_reason`; null if the choice continues. An unknown reason is a
 * `stop`, since something ended the choice.
 */
export function readReason(value: unknown): ReadReason | null {
  // SGLang's native shape is {"type": "stop", "matched": …}.
  const reason = isRecord(value) ? value['type'] : value
  if (typeof reason !== 'string') return null
  const word = reason
    .trim()
    .replaceAll(/([a-z])([A-Z])/g, '$1_$2')
    .replaceAll(/[\s-]+/g, '_')
    .toLowerCase()
    .replace(/^finish_reason_/, '')
  if (word === 'stop') return 'stop'
  if (NO_REASON.test(word)) return null
  // Cohere: the context is full, not a failure.
  if (word === 'error_limit') return 'length'
  if (UNKNOWN.test(word)) return 'unknown'
  // watsonx and Cohere: a time limit cuts the answer anywhere, so it must not be stored.
  if (word === 'time_limit') return 'failed'
  if (FILTERED.test(word)) return 'content_filter'
  if (FAILED.test(word)) return 'failed'
  return LENGTH.test(word) ? 'length' : 'stop'
}

/** The end of a choice. @param onContent the reason was on a chunk with text or reasoning */
export function ending(index: number, reason: ReadReason, onContent = false): RawDelta {
  if (reason === 'failed') return { kind: 'failed', index }
  if (reason === 'unknown') return { kind: 'finish', index, reason: 'stop', inferred: true }
  return { kind: 'finish', index, reason, ...(onContent ? { onContent } : {}) }
}
