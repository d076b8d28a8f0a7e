// The finish reasons of all known providers, and unknown ones.
import { expect, test } from 'vitest'
import { type ReadReason, readReason } from '../../src/upstream/finish-reason.ts'

const words: readonly (readonly [ReadReason | 'null', readonly unknown[]])[] = [
  [
    'stop',
    [
      ...['stop', 'STOP', 'FINISH_REASON_STOP', 'eos', 'eos_token', 'stop_sequence', 'end_turn'],
      ...['STOP_SEQUENCE', 'COMPLETE', 'completed', 'normal', 'tool_calls', 'tool_use'],
      'TOOL_CALL',
      ...['function_call', 'load', 'unload', 'eot_id_reached', 'constructor', '__proto__'],
      { type: 'stop', matched: 2 },
    ],
  ],
  [
    'length',
    [
      ...['length', 'max_tokens', 'MAX_TOKENS', 'maxTokens', 'model_length', 'limit', 'max-tokens'],
      ...['model_context_window_exceeded', 'token_limit', 'ERROR_LIMIT', 'max_output_tokens'],
      ...['incomplete', 'FINISH_REASON_MAX_TOKENS', 'pause_turn'],
      { type: 'length', length: 16 },
    ],
  ],
  [
    'content_filter',
    [
      ...['content_filter', 'content_filtered', 'content-filter', 'contentFilter'],
      'content filter',
      ...['SAFETY', 'RECITATION', 'LANGUAGE', 'BLOCKLIST', 'PROHIBITED_CONTENT', 'SPII'],
      ...['IMAGE_SAFETY', 'IMAGE_PROHIBITED_CONTENT', 'IMAGE_RECITATION', 'MODEL_ARMOR'],
      ...['guardrail_intervened', 'refusal', 'ERROR_TOXIC', 'sensitive', 'blocked', 'moderation'],
      ...['DataInspectionFailed', 'data_inspection_failed', 'policy_violation', 'JAILBREAK'],
      ...['hate', 'violence', 'self_harm', 'sexual', 'terrorism', 'offensive', 'inappropriate'],
      ...['dlp', 'restricted_content', 'access_denied', 'rejected', 'forbidden', 'declined'],
    ],
  ],
  [
    'failed',
    [
      ...['error', 'ERROR', 'abort', 'ABORT', 'aborted', 'insufficient_system_resource'],
      ...['network_error', 'cancelled', 'USER_CANCEL', 'TIMEOUT', 'time_limit', 'rate_limit'],
      ...['MALFORMED_FUNCTION_CALL', 'malformed_model_output', 'failed', 'interrupted'],
      ...['killed', 'preempted', 'evicted', 'server_shutdown', 'DEADLINE_EXCEEDED', 'oom'],
    ],
  ],
  [
    'unknown',
    [
      ...['OTHER', 'unknown', 'FINISH_REASON_OTHER', 'IMAGE_OTHER', 'NO_IMAGE'],
      ...['UNEXPECTED_TOOL_CALL', 'TOO_MANY_TOOL_CALLS', 'MISSING_THOUGHT_SIGNATURE'],
    ],
  ],
  [
    'null',
    [
      ...[null, undefined, '', ' ', 'null', 'None', 'NULL', 'nil', 'undefined', 'not_finished'],
      ...['ongoing', 'queued', 'partial', 'not_set', '0', '-'],
      ...['FINISH_REASON_UNSPECIFIED', 'running', 'generating', 'unfinished', 'N/A', 'false'],
      ...[7, true, [], {}, { type: null }],
    ],
  ],
]

test.each(words)('readReason() maps its known spellings to %s', (reason, list) => {
  const wrong = list.filter((word) => readReason(word) !== (reason === 'null' ? null : reason))
  expect(wrong).toEqual([])
})
