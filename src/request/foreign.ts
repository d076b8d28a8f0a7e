// Fields of other completion servers. Many clients send them with a value that has no effect; with
// that value they are ignored. Any other value would change the answer, so it is refused: ignoring
// it would return a wrong answer.
import { type Fault, preview, TEXT_ONLY } from '../validation.ts'

/**
 * Names, and the values that have no effect. `null` is the same as absent. Sources: OpenAI
 * (chat), vLLM and SGLang (`SamplingParams`, `CompletionRequest`), TGI, llama.cpp, Transformers
 * (`GenerationConfig`), OpenRouter, Fireworks, Mistral.
 */
const table: readonly (readonly [names: string, ...values: unknown[]])[] = [
  [
    'repetition_penalty repeat_penalty length_penalty typical_p tfs_z num_beams beam_width ' +
      'num_return_sequences encoder_repetition_penalty guidance_scale',
    1,
  ],
  ['top_k', -1, 0],
  ['top_n_sigma id_slot', -1],
  [
    'min_p top_a min_tokens min_length min_new_tokens no_repeat_ngram_size diversity_penalty ' +
      'penalty_alpha epsilon_cutoff eta_cutoff mirostat mirostat_mode dynatemp_range ' +
      'xtc_probability dry_multiplier n_probs n_keep min_keep smoothing_factor priority',
    0,
  ],
  [
    'return_logprob raw ignore_eos use_beam_search include_stop_str_in_output early_stopping ' +
      'ban_eos_token no_stop_trim continue_final_message return_tokens_as_token_ids return_token_ids ' +
      'return_hidden_states return_full_text decoder_input_details details watermark ' +
      'return_tokens timings_per_token post_sampling_probs safe_prompt raw_output ' +
      'perf_metrics_in_response stream_include_usage stream_continuous_usage_stats ' +
      'include_reasoning store',
    false,
  ],
  [
    'do_sample separate_reasoning skip_special_tokens spaces_between_special_tokens ' +
      'add_special_tokens add_bos_token detokenize cache_prompt',
    true,
  ],
  // Without tools, both values mean the same.
  ['parallel_tool_calls', true, false],
  ['tool_choice function_call', 'none', 'auto'],
  ['repeat_last_n', 64],
  ['dry_base', 1.75],
  ['dry_allowed_length', 2],
  ['xtc_threshold', 0.1],
  ['n_predict', -1],
  ['service_tier', 'auto', 'default'],
  ['verbosity', 'medium'],
  ['response_format', { type: 'text' }],
  ['grammar', ''],
  ['modalities', ['text']],
  // assistant-ui sends the set of its tools as an object.
  ['tools functions', [], {}],
  ['stop_token_ids bad_words stop_sequences logits_processors plugins transforms', []],
  ['options metadata vllm_xargs kv_transfer_params provider extra_body chat_template_kwargs', {}],
  [
    'guided_json guided_regex guided_choice guided_grammar guided_decoding_backend ' +
      'guided_whitespace_pattern json_schema regex ebnf structured_outputs structural_tag ' +
      'truncate_prompt_tokens allowed_token_ids prompt_logprobs prompt_embeds lora_path ' +
      'lora_request custom_logit_processor disaggregated_params prediction audio ' +
      'web_search_options',
  ],
]

/** The values without effect by field name; an empty list allows only `null`. */
export const neutralValues: ReadonlyMap<string, readonly unknown[]> = new Map(
  table.flatMap(([names, ...values]) => names.split(' ').map((name) => [name, values] as const)),
)

/**
 * Removes fields of other servers from a request, except those that this endpoint has itself.
 *
 * @returns the remaining fields, and a fault for each removed one whose value has an effect
 */
export function withoutForeign(
  given: Readonly<Record<string, unknown>>,
  own: object,
): { readonly fields: Readonly<Record<string, unknown>>; readonly faults: readonly Fault[] } {
  const fields: [string, unknown][] = []
  const faults: Fault[] = []
  for (const [name, value] of Object.entries(given)) {
    const neutral = Object.hasOwn(own, name) ? undefined : neutralValues.get(name)
    if (neutral === undefined) {
      fields.push([name, value])
      continue
    }
    if (neutral.some((each) => isSame(each, value))) continue
    const expected = neutral.map((each) => JSON.stringify(each)).join(' or ') || 'null'
    const why = /^(tools|functions|modalities|audio)$/.test(name) ? ` (${TEXT_ONLY})` : ''
    const message = `Cannot use "${name}": expected ${expected}${why}, got ${preview(value)}`
    faults.push({ path: name, message })
  }
  return { fields: Object.fromEntries(fields), faults }
}

/** Compares one level deep: no value in the table is nested deeper. */
function isSame(a: unknown, b: unknown): boolean {
  if (typeof a !== 'object' || a === null) return a === b
  if (typeof b !== 'object' || b === null || Array.isArray(a) !== Array.isArray(b)) return false
  const expected = Object.entries(a)
  const entries = Object.entries(b)
  return (
    entries.length === expected.length &&
    expected.every(([key, value]) => entries.some(([k, v]) => k === key && v === value))
  )
}
