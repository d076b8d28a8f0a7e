// Hints for the owner's log: what to check or change when an upstream fails. They never contain
// text of the upstream. The build writes them to hints.json, which explain.ts reads when a call fails.
import type { NotStoredReason } from '../events.ts'

/** Failures that no HTTP status describes, by reason. */
const byReason = {
  connection_lost:
    'No server answers at base_url, or the connection was lost before the first byte. Check the host, the port, and http or https in base_url, and that the server is running and can be reached from where the Worker runs.',
  no_connection:
    'The host of base_url cannot be found, or its TLS handshake fails. Check its spelling, its DNS entry and its certificate.',
  not_sent:
    'The request could not be sent. Check base_url: the host, the port, http or https, the DNS entry and the certificate.',
  no_binding:
    'Workers AI did not answer. Check that wrangler.toml has [ai] with binding = "AI", and that the account can use Workers AI.',
  no_demo_text:
    'The text of the demo model could not be read from the static files. Check that [assets] in wrangler.toml has binding = "ASSETS", and deploy again: that uploads demo-text.txt.',
  first_byte:
    'The upstream sent nothing within first_byte_ms. Raise it if the model starts slowly (a cold start, a long prompt). Otherwise check whether the server is overloaded.',
  idle: 'The upstream sent nothing for idle_ms in the middle of an answer. Raise it if the model makes such pauses. Otherwise check whether the server is overloaded.',
  deadline:
    'The answer took longer than deadline_ms. Raise it, or lower max_tokens. Reasoning models take long before the first word.',
  html: 'The upstream answered with an HTML page. Check base_url (often "/v1" is missing), and whether a proxy, a login page or bot protection is in front of the server.',
  empty:
    'The upstream answered 2xx with an empty body. Check base_url, path and wire: they may lead to another API.',
  no_text:
    "The upstream's answer ended without text and without a finish_reason. Check wire and upstream_model; its log may have the reason.",
  no_answer:
    'The upstream closed the connection without text and without a finish_reason. Check base_url, path and wire; its log may have the reason.',
  too_large:
    'The answer was longer than max_output_bytes. Raise it to allow such answers, or lower max_tokens.',
  undecodable:
    'The body could not be decompressed. A proxy in front of the upstream may set a wrong Content-Encoding.',
  gave_up:
    'The upstream gave up in the middle of the answer. Its log or status page may have the reason.',
  reported:
    'The upstream answered 2xx with an error. Its log or status page may have the reason. If it never answers otherwise, check base_url, path and wire.',
  not_a_completion:
    'The answer is not a completion. Check base_url, path and wire: they may lead to another API.',
  cut_off:
    'The upstream stopped before the end of the answer. It may have crashed, or a proxy in front of it closed the connection. Its log may have the reason.',
} as const

export type Reason = keyof typeof byReason

const unsupported = (feature: string) =>
  `Set unsupported = ["${feature}"] for it. This replaces its preset's list, so add the fields of that list, too.`

/** Why an answer that was served is not stored. */
const byDoubt: Readonly<Record<NotStoredReason, string>> = {
  no_logprobs: `The upstream ignores logprobs. ${unsupported('logprobs')}`,
  no_echo: `The upstream ignores echo. ${unsupported('echo')}`,
  unknown_index:
    'The upstream sent more choices than requested, or with wrong indices. No setting fixes that. Check its log, or use another upstream.',
  doubtful_end:
    'After a finish_reason that may not have been the last, the upstream sent no more data or lost the connection, without a terminator. It, or a proxy in front of it, does not end its streams. Check the proxy, update the server, or use another upstream.',
  no_reason:
    'The upstream sent no finish_reason, so a complete answer looks the same as an incomplete one. Check wire.',
}

/** By the subject of the upstream's error (diagnosis.ts), and by more specific cases of some. */
const bySubject = {
  quota:
    'Check the account at the upstream: its credit, quota or spending limit is used up. Raise it there, or add a fallback.',
  freeAllocation:
    "Upgrade the Cloudflare account's plan: today's free allocation of Workers AI is used up.",
  key: "Check the upstream's key: it is not accepted. Set the secret named by `key` again.",
  access:
    'Check the permissions of the account at the upstream: its key has no access to this model or service.',
  terms: "Accept the model's terms at the upstream: until then this account has no access to it.",
  region:
    'The upstream does not serve the region it was called from. Set [placement] in wrangler.toml, or use another upstream.',
  model:
    "Check upstream_model: the upstream does not have this model (any more). The upstream's list of models has the exact names.",
  responsesOnly:
    'Choose another upstream_model: this one is only available at /v1/responses, which no wire supports.',
  notChat: 'Set wire = "completions" for this upstream: the model is not a chat model.',
  chatOnly: 'Set wire = "chat" for this upstream: the model is a chat model.',
  path: 'Check base_url and path: the server has no such path. Often "/v1" is missing, or repeated.',
  context:
    "Lower limits.prompt_chars (for a page or a variable, its max_chars): the prompt and max_tokens exceed the model's context.",
  answer_length:
    'Lower limits.max_tokens, and max_tokens of locked prompts: they exceed what the model allows.',
  policy:
    "The upstream's content filter refused the text. It can only be adjusted at the upstream, by no setting here.",
  field:
    'The upstream does not accept a field, or its value. Remove it from "parameters" and "defaults", or list it in "unsupported": requests that use it then get a clear error, but "stop" is applied by the Worker.',
  busy: 'The upstream is overloaded. This usually passes; with a fallback, requests are answered meanwhile.',
} as const

const DOWN = 'Check its status page or log. With a fallback, requests are answered meanwhile.'
const INVALID =
  'The upstream refused the request as invalid. Check that the model accepts "parameters", "defaults" and the settings of this upstream.'
const UNEXPECTED =
  'The upstream answered with an unexpected status. Check that base_url leads to the API.'

/** By status, or by its first digit. */
const byStatus = {
  0: UNEXPECTED,
  1: UNEXPECTED,
  2: UNEXPECTED,
  3: 'The upstream redirects, and redirects are not followed. Set base_url to the final address: https instead of http, or another host or path.',
  4: 'The upstream refused the call. Check base_url, wire and key, and the meaning of this status in its documentation.',
  5: `The upstream failed. ${DOWN}`,
  400: INVALID,
  401: bySubject.key,
  402: bySubject.quota,
  403: "Check the upstream's key and the permissions of its account: the upstream denies access.",
  404: 'Check base_url and upstream_model: the upstream does not have them.',
  405: 'Check base_url, path and wire: this URL does not accept POST.',
  407: 'A proxy in front of the upstream requires credentials of its own. Check base_url.',
  408: 'The upstream timed out. Lower limits.prompt_chars or max_tokens, or check whether the server is overloaded.',
  410: bySubject.model,
  413: 'The request is larger than the upstream accepts. Lower limits.prompt_chars, or max_chars of a page or a variable.',
  422: INVALID,
  426: 'The upstream requires another protocol. Use https in base_url.',
  429: 'The upstream limits the rate of this key. Raise the limit there, or add a fallback.',
  451: bySubject.region,
  500: `The upstream had an internal error. ${DOWN}`,
  501: 'Check base_url, path and wire: the upstream does not support this call.',
  502: `A gateway in front of the upstream cannot reach it. ${DOWN}`,
  503: `The upstream is overloaded or down. ${DOWN}`,
  504: `A gateway in front of the upstream waited too long for it. ${DOWN}`,
  521: 'The upstream refuses the connection. Check the host and port of base_url, and that the server is running.',
  522: 'The connection to the upstream timed out. Check the host and port of base_url, and its firewall.',
  523: 'The upstream cannot be reached. Check the host of base_url and its DNS entry.',
  525: 'The TLS handshake with the upstream failed. Check the host of base_url and its certificate.',
  526: "The upstream's certificate is not valid. Check the host of base_url and its certificate.",
  529: bySubject.busy,
  530: 'The host of base_url cannot be found. Check its spelling and its DNS entry.',
  6: UNEXPECTED,
  7: UNEXPECTED,
  8: UNEXPECTED,
  9: UNEXPECTED,
} as const

const renamed = (field: string) =>
  `Set max_tokens_field = "${field}" for this upstream: the model accepts no other name.`

export const hints = {
  ...byReason,
  ...byDoubt,
  ...bySubject,
  ...byStatus,
  /** The name that the upstream requires for `max_tokens`. */
  max_tokens: renamed('max_tokens'),
  max_completion_tokens: renamed('max_completion_tokens'),
  // Fewer choices than requested.
  native_n:
    'The upstream does not return several choices in one call. Set native_n = false for it.',
  prompt_array: `The upstream does not answer several prompts in one call. ${unsupported('prompt_array')}`,
}

export type Hint = keyof typeof hints
