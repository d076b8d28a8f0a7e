// What the owner should look at when an upstream fails: one sentence or two for each kind of failure,
// all of them our own. An upstream's words never stand here.
import type { NotStoredReason } from '../events.ts'

/** By what the upstream's error is about (diagnosis.ts). */
export const hints = {
  quota:
    'Check the account at the upstream: its credit, quota or spending limit is used up. Raise it there, or add a fallback.',
  freeAllocation:
    "Upgrade the Cloudflare account's plan: today's free allocation of Workers AI is used up.",
  key: "Check the upstream's key: the upstream does not accept it. Set the secret that `key` names again.",
  access:
    'Check what the account at the upstream may use: the key is known, but this model or service is not open to it.',
  terms:
    "Accept the model's terms at the upstream: before that the model is not open to this account.",
  region:
    'The upstream does not serve the region it was called from. Set a placement in wrangler.toml, or use another upstream.',
  model:
    'Check upstream_model: the upstream does not have this model, or no longer has it. Its list of models has the exact names.',
  responsesOnly:
    'Choose another upstream_model: this one answers on /v1/responses only, which no wire here speaks.',
  notChat: 'Set wire = "completions" for this upstream: the model is not a chat model.',
  chatOnly: 'Set wire = "chat" for this upstream: the model is a chat model.',
  path: 'Check base_url and path: the server has no such address. Often "/v1" is missing, or is there twice.',
  context:
    "Lower limits.prompt_chars (for a page or a variable, its max_chars): the prompt and max_tokens together are longer than the model's context.",
  answerLength:
    'Lower limits.max_tokens, and max_tokens of locked prompts: the model may not write that much.',
  policy:
    "The upstream's content filter refused the text. No setting is at fault; the filter can only be adjusted at the upstream.",
  field:
    'The upstream does not take one of the fields it was sent, or its value. Remove it from "parameters" and "defaults", or list it in "unsupported" so that visitors are told.',
  busy: 'The upstream is overloaded. This usually passes; a fallback keeps the endpoint answering meanwhile.',
} as const

/** By our own word for what happened, where no status tells it. */
const hintsByReason = {
  connection_lost:
    'Nothing answers at base_url, or the connection broke before the first byte. Check host, port and http or https, and that the server runs and can be reached from the internet.',
  no_connection:
    'The host of base_url cannot be found, or its TLS handshake fails. Check the spelling of the host, its DNS entry and its certificate.',
  not_sent:
    'The request could not be sent. Check base_url: its host, its port, http or https, its DNS entry and its certificate.',
  no_binding:
    'Workers AI did not answer. Check the binding in wrangler.toml, and that the account may use Workers AI.',
  no_demo_text:
    'The text of the demo model could not be read from the static files. Check [assets] in wrangler.toml (its binding is ASSETS), and deploy again: that puts demo-text.txt among the files.',
  first_byte:
    'The upstream sent nothing within first_byte_ms. Raise it if the model starts slowly (a cold start, a long prompt); else see whether the server is overloaded.',
  idle: 'The upstream fell silent for idle_ms in the middle of an answer. Raise it if the model pauses that long; else see whether the server is overloaded.',
  deadline:
    'The answer took longer than deadline_ms. Raise it, or lower max_tokens; reasoning models take long before their first word.',
  html: 'The upstream answered with an HTML page where an API response was expected. Check base_url (often "/v1" is missing), and what stands before the server: a proxy, a login, a protection against bots.',
  empty:
    'The upstream answered 2xx with an empty body. Check base_url, path and wire: they may lead to something that is not the API.',
  no_text:
    'The upstream ended its answer without a text and without a reason. Check wire and upstream_model; its own log may say more.',
  no_answer:
    'The upstream closed the connection without a text and without the end of an answer. Check base_url, path and wire; its own log may say more.',
  too_large:
    'The answer was longer than max_output_bytes. Raise it if such answers are wanted; else lower max_tokens.',
  undecodable:
    'The body could not be decompressed. A proxy before the upstream may declare a wrong Content-Encoding.',
  gave_up:
    'The model server gave up in the middle of the answer. Its own log or status page has the reason.',
  not_a_completion:
    'The answer is not a completion. Check base_url, path and wire: they may lead to something that is not the API, or to another one.',
  cut_off:
    'The upstream stopped before the end of the answer. It crashed, or a proxy before it cut the connection; its own log has the reason.',
} as const

export type Reason = keyof typeof hintsByReason

/** @param reason our own word for what happened; another one is unknown */
export function hintOfReason(reason: string | null, otherwise: Reason): string {
  const known = reason !== null && Object.hasOwn(hintsByReason, reason)
  return hintsByReason[known ? (reason as Reason) : otherwise]
}

const WITH_PRESET = '(and what its preset lists in "cannot")'

/** Why an answer that was served is not stored. */
export const hintsByDoubt: Readonly<Record<NotStoredReason, string>> = {
  no_logprobs: `The upstream ignores logprobs. Set unsupported = ["logprobs"] ${WITH_PRESET} for it.`,
  no_echo: `The upstream ignores echo. Set unsupported = ["echo"] ${WITH_PRESET} for it.`,
  unknown_index:
    'The upstream sent more choices than were asked for, or numbers them in a way of its own. No setting helps; its own log or another upstream may.',
  doubtful_end:
    'The upstream fell silent or broke off without a terminator, after a finish_reason that may have been no end. Its server, or a proxy before it, does not end its streams.',
  no_reason:
    'The upstream gave no finish_reason, so nothing tells a whole answer from a cut one. Check wire.',
}

/** Fewer choices than one call asked for. @param field what the upstream takes one at a time */
export const hintOfMissingChoice = (field: 'n' | 'prompt_array'): string =>
  field === 'n'
    ? 'The upstream does not answer several choices in one call. Set native_n = false for it.'
    : `The upstream does not answer several prompts in one call. Set unsupported = ["prompt_array"] ${WITH_PRESET} for it.`

const DOWN =
  'See the status page or the log of the upstream; a fallback keeps the endpoint answering.'

const hintsByStatus: Readonly<Record<number, string>> = {
  401: hints.key,
  402: hints.quota,
  403: "Check the upstream's key and what its account may use: the upstream refuses access.",
  404: 'Check base_url and upstream_model: the upstream does not know them.',
  405: 'Check base_url, path and wire: the address takes no POST.',
  407: 'A proxy before the upstream wants a key of its own. Check base_url.',
  408: 'The upstream gave up waiting for something behind it. Ask for less, or see whether it is overloaded.',
  410: hints.model,
  413: 'The request is larger than the upstream takes. Lower limits.prompt_chars, or max_chars of a page or a variable.',
  426: 'The upstream wants another protocol. Write base_url with https.',
  429: 'The upstream limits the rate of this key. Raise the limit there, or add a fallback.',
  451: hints.region,
  500: `The upstream failed by itself. ${DOWN}`,
  501: 'Check base_url, path and wire: the upstream does not offer this.',
  502: `A gateway before the upstream does not reach it. ${DOWN}`,
  503: `The upstream is overloaded or down. ${DOWN}`,
  504: `A gateway before the upstream waited too long for it. ${DOWN}`,
  521: 'The upstream refuses the connection. Check host and port of base_url, and that the server runs.',
  522: 'The connection to the upstream timed out. Check host and port of base_url, and its firewall.',
  523: 'The upstream cannot be reached. Check the host of base_url and its DNS entry.',
  525: 'The TLS handshake with the upstream failed. Check https in base_url and the certificate of its host.',
  526: 'The certificate of the upstream is not valid. Check the host of base_url and its certificate.',
  529: hints.busy,
  530: 'The host of base_url cannot be found. Check its spelling and its DNS entry.',
}

/** @param isPage the body was HTML */
export function hintOfStatus(status: number, isPage = false): string {
  if (isPage && status < 500 && status !== 401 && status !== 429) return hintsByReason.html
  const known = hintsByStatus[status]
  if (known !== undefined) return known
  if (status >= 300 && status <= 399) {
    return 'The upstream redirects, which is not followed. Set base_url to the final address: https in place of http, or another host or path.'
  }
  if (status === 400 || status === 422) {
    return 'The upstream refused the request as invalid. Compare "parameters", "defaults" and the settings of this upstream with what the model takes.'
  }
  if (status >= 400 && status <= 499) {
    return 'The upstream refused the call. Its documentation tells what this status means; check base_url, wire and key.'
  }
  if (status >= 500 && status <= 599) return `The upstream failed. ${DOWN}`
  return 'The status is none that an API answers with. Check that base_url leads to the API.'
}
