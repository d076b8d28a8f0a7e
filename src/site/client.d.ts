// The types of client.js, the browser client of edge-completions. client.js is checked against them.
// Model output is plain text: show it with textContent, never as HTML.

/** The text of the first choice. If the connection drops, streams resume without paying twice. */
export interface Client {
  /** Resolves with the text of the answer to a prompt. */
  complete(prompt: Prompt, options?: Options): Promise<string>
  /** Yields the text of the answer to a prompt as it arrives. */
  stream(prompt: Prompt, options?: Options): TextStream
  /** Yields the text of the next turn of a conversation as it arrives. */
  chat(messages: readonly Message[], options: ChatOptions & { stream: true }): TextStream
  /** Resolves with the text of the next turn of a conversation. */
  chat(messages: readonly Message[], options?: ChatOptions & { stream?: false }): Promise<string>
}

/** `complete()` at the endpoint that served this module. */
export const complete: Client['complete']
/** `stream()` at the endpoint that served this module. */
export const stream: Client['stream']
/** `chat()` at the endpoint that served this module. */
export const chat: Client['chat']

/** A client for another endpoint, or for one with Turnstile. */
export function createClient(options?: ClientOptions): Client

export interface ClientOptions {
  /** The Worker's address; defaults to the origin that served this module. */
  endpoint?: string | URL
  /** Required where the endpoint asks for visitor tokens. */
  turnstile?: Turnstile
  /** Called instead of the global `fetch`. */
  fetch?: typeof fetch
}

export interface Turnstile {
  sitekey: string
  /** Where a challenge is shown, if one is needed; by default the lower right corner of the page. */
  container?: HTMLElement
}

/** Text, several texts, tokens, or a locked prompt. */
export type Prompt =
  | string
  | readonly string[]
  | readonly number[]
  | readonly (readonly number[])[]
  | LockedPrompt

/** A prompt of the endpoint's owner. */
export interface LockedPrompt {
  id: string
  variables?: Record<string, string>
}

/** A turn of a conversation. The last one is the user's. */
export interface Message {
  role: 'system' | 'developer' | 'user' | 'assistant'
  content: string | readonly { type: 'text'; text: string }[]
  name?: string
}

/** The options of `complete()` and `stream()`: fields of the request, and how to send it. */
export interface Options extends SharedOptions {
  best_of?: number
  echo?: boolean
  /** How many of the likeliest tokens are reported for each token. */
  logprobs?: number
  suffix?: string
}

/** The options of `chat()`: fields of the request, and how to send it. */
export interface ChatOptions extends SharedOptions {
  /** A model, or the id of a locked prompt that takes a conversation. */
  model?: string
  /** The variables of that locked prompt. */
  variables?: Record<string, string>
  /** The same as `max_tokens`. */
  max_completion_tokens?: number
  logprobs?: boolean
  /** How many of the likeliest tokens are reported for each token. */
  top_logprobs?: number
  response_format?:
    | { type: 'text' }
    | { type: 'json_object' }
    | { type: 'json_schema'; json_schema: object }
  /** Whether `chat()` returns a stream of text, instead of a promise of all of it. */
  stream?: boolean
}

/** The options that `complete()`, `stream()` and `chat()` have in common. */
export interface SharedOptions {
  /** Stops the request. Promises and streams then fail with the signal's reason. */
  signal?: AbortSignal
  /**
   * `true` tries the cache first, with a GET that the browser may cache as well. Conversations need
   * no GET: their POST finds cached answers, too. `'only'` never generates: an uncached request fails
   * with the code `not_cached`.
   */
  cached?: boolean | 'only'
  model?: string
  max_tokens?: number
  temperature?: number
  top_p?: number
  /** How many answers are generated. Streams and promises have the text of the first. */
  n?: number
  stop?: string | readonly string[]
  seed?: number
  presence_penalty?: number
  frequency_penalty?: number
  logit_bias?: Record<string, number>
  user?: string
  stream_options?: { include_usage?: boolean }
}

/** Yields the text of the first choice. To stop, break out of the loop or abort the signal. */
export interface TextStream extends AsyncGenerator<string, void, void> {
  /** The whole answer; null until the stream has ended. */
  completion: Completion | null
}

/** An answer, in the same shape for prompts and conversations. */
export interface Completion {
  id: string
  object: 'text_completion'
  /** Unix time in seconds. */
  created: number
  model: string
  choices: Choice[]
  usage: { prompt_tokens: number; completion_tokens: number; total_tokens: number }
  system_fingerprint?: string
}

export interface Choice {
  text: string
  index: number
  finish_reason: 'stop' | 'length' | 'content_filter' | null
  logprobs: Record<string, unknown[] | null> | null
}

/** Every failure but an aborted signal. */
export class CompletionError extends Error {
  constructor(
    message: string,
    code: string,
    more?: {
      status?: number
      retryAfter?: number | null
      param?: string | null
      cause?: unknown
    },
  )
  /**
   * One of the endpoint's codes, or `network`, `restarted` (the rest of an interrupted answer is lost;
   * a retry generates a different one), `unavailable`, `bad_answer`.
   */
  code: string
  /** The HTTP status; 0 without a response. */
  status: number
  /** Seconds. */
  retryAfter: number | null
  /** The field of the request that has to change. */
  param: string | null
}
