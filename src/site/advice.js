// What to do about an error, by its code: for the person at the playground, who is often the owner.
// Has no word for errors of a whole page; those say it themselves.

/** @type {Readonly<Record<string, string>>} */
const byCode = {
  invalid_value: 'Change the field that is named and send again.',
  missing_field: 'Fill in the field that is named and send again.',
  model_not_allowed: 'Choose a model of the list; the owner lists them in wrangler.toml.',
  prompt_not_found: 'Reload the page: the list of locked prompts has changed.',
  free_prompts_disabled: 'Choose a locked prompt, or set free_prompts = true in wrangler.toml.',
  locked_by_owner: 'Leave that field out, or list it in the prompt’s visitor_may_set.',
  unsupported_by_upstream: 'Leave that field out, or choose another model.',
  upstream_refused_request: 'Try a shorter or another prompt; the owner’s log has the cause.',
  visitor_token_required: 'Reload the page and solve the challenge.',
  visitor_token_invalid: 'Reload the page and solve the challenge again.',
  challenge_failed: 'Reload the page and try the challenge again.',
  challenge_unavailable: 'Turnstile does not answer now: try again in a minute.',
  origin_not_allowed: 'Add this page’s origin to the list "origins" in wrangler.toml.',
  not_cached: 'Only the operator may have this one made: npm run warm does it.',
  body_too_large: 'Send less, or raise limits.body_bytes.',
  rate_limited: 'Wait a little. The limit is SPEND_LIMIT in wrangler.toml.',
  too_many_streams: 'Let another answer of yours end first, or raise budget.streams_per_visitor.',
  budget_exhausted:
    'The day’s budget is spent; cached answers are still served. The dashboard shows it.',
  paused: 'The owner has paused generation; cached answers are still served.',
  upstream_rate_limited: 'The model service is busy: try again in a moment.',
  upstream_rejected:
    'The owner should check the upstream’s key and address; the log has the cause.',
  upstream_bad_response: 'Try again; if it stays so, check the upstream’s base_url and wire.',
  upstream_truncated: 'Send again: a cut answer is not kept.',
  upstream_unavailable: 'The model service is out of reach: try again in a moment.',
  upstream_timeout: 'The model service is too slow: try again, or ask for less.',
  misconfigured: 'GET /health names every fault of the settings.',
  ledger_unavailable: 'Nothing is spent while the ledger is out of reach: try again in a moment.',
  internal: 'The owner finds the request id in the log.',
  operator_token_invalid:
    'It is the secret OPERATOR_TOKEN: npx wrangler secret put OPERATOR_TOKEN sets it, .dev.vars does under npm start.',
  network: 'Check the connection, and that the Worker runs.',
  unavailable: 'Try again in a minute.',
  bad_answer: 'Check that this address is the Worker’s.',
  restarted: 'Send again.',
}

/** What the endpoint says where the owner's quota at the upstream is used up. */
const QUOTA_RETRY_S = 3600
const OUT_OF_QUOTA =
  'The owner’s account at the model service is out of credit or quota; cached answers are still served.'

/**
 * @param {string} code
 * @param {number | null} retryAfter seconds
 */
export function advice(code, retryAfter) {
  const isQuota = code === 'upstream_rate_limited' && Number(retryAfter) >= QUOTA_RETRY_S
  const what = isQuota ? OUT_OF_QUOTA : (byCode[code] ?? '')
  const when = retryAfter === null ? '' : `Possible again in ${retryAfter} s.`
  return [what, when].filter(Boolean).join(' ')
}
