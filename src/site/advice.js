// What to do about an error, by its code. Written for users of the playground and the dashboard, who
// are often the owner.

/** @type {Readonly<Record<string, string>>} */
const byCode = {
  invalid_value: 'Correct this field and send again.',
  missing_field: 'Fill in this field and send again.',
  model_not_allowed: 'Choose a model from the list. The owner defines it in wrangler.toml.',
  prompt_not_found: 'Reload the page: the list of locked prompts has changed.',
  free_prompts_disabled: 'Choose a locked prompt, or set free_prompts = true in wrangler.toml.',
  locked_by_owner: 'Leave this field out, or add it to visitor_may_set of the prompt.',
  unsupported_by_upstream: 'Leave this field out, or choose another model.',
  upstream_refused_request: 'Try a shorter or different prompt. The cause is in the owner’s log.',
  visitor_token_required: 'Reload the page and complete the bot check.',
  visitor_token_invalid: 'Reload the page and complete the bot check again.',
  challenge_failed: 'Reload the page and try the bot check again.',
  challenge_unavailable: 'Turnstile is not responding. Try again in a minute.',
  origin_not_allowed: 'Add the origin of this page to "origins" in wrangler.toml.',
  no_passages: 'Ask in other words: the tab Search shows what is nearest.',
  not_cached: 'Only the operator can generate this answer, with npm run warm.',
  body_too_large: 'Send a shorter prompt, or raise limits.body_bytes.',
  rate_limited:
    'Wait a moment. The limit is SPEND_LIMIT, for searches SEARCH_LIMIT, in wrangler.toml.',
  too_many_streams: 'Wait until another request finishes, or raise budget.streams_per_visitor.',
  budget_exhausted:
    'The dashboard shows what was spent today. The limits are in [vars.CONFIG.budget] of wrangler.toml.',
  paused: 'The owner can resume generation on the dashboard.',
  upstream_rate_limited: 'The model provider is busy. Try again in a moment.',
  upstream_rejected:
    'The owner should check the key and base_url of the upstream. The cause is in the log.',
  upstream_bad_response:
    'Try again. If it keeps happening, check base_url and wire of the upstream.',
  upstream_truncated: 'Send again. Incomplete answers are not cached.',
  upstream_unavailable: 'Check that the upstream is running. The log has a hint.',
  upstream_timeout:
    'Lower max_tokens, or raise first_byte_ms, idle_ms or deadline_ms of the upstream.',
  misconfigured: 'GET /health lists every configuration error.',
  ledger_unavailable: 'Nothing can be spent until the budget service is back. Try again shortly.',
  search_unavailable: 'Try again in a moment. Completions and chats work without the search.',
  site_not_indexed: 'Index the pages of the site with npm run index.',
  internal: 'The owner can find the cause in the log by the request ID.',
  operator_token_invalid:
    'It is the secret OPERATOR_TOKEN. Set it with npx wrangler secret put OPERATOR_TOKEN, or for npm start in .dev.vars: it restarts by itself.',
  network: 'Check the connection, and that the Worker is running.',
  unavailable: 'Try again in a minute.',
  bad_answer: 'Check that this is the address of the Worker.',
  restarted: 'Send the request again.',
}

/** The Retry-After that the endpoint sends when the owner's quota at the upstream is used up. */
const QUOTA_RETRY_S = 3600
const OUT_OF_QUOTA =
  'The owner’s account at the model provider is out of credit or quota. Cached answers are still served.'

/**
 * @param {string} code
 * @param {number | null} retryAfter seconds
 */
export function advice(code, retryAfter) {
  const isQuota = code === 'upstream_rate_limited' && Number(retryAfter) >= QUOTA_RETRY_S
  const what = isQuota ? OUT_OF_QUOTA : (byCode[code] ?? '')
  const when = retryAfter === null ? '' : `Retry in ${retryAfter} s.`
  return [what, when].filter(Boolean).join(' ')
}

/** A message with a period at its end. @param {string} message */
export const sentence = (message) => (/[.!?]$/.test(message) ? message : `${message}.`)
