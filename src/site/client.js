// The browser client of edge-completions. It returns plain text: show it with textContent, never as
// HTML. It stores nothing and touches the page only to show a Turnstile challenge.

/**
 * @import { Client, ClientOptions, Completion, Options, Prompt, TextStream, Turnstile } from './client.d.ts'
 * @typedef {Record<string, unknown>} Body
 * @typedef {ReturnType<typeof requestOf>} Request
 */

/** The endpoint sends a keep-alive every 15 s, so a connection that is silent for longer is dead. */
const MAX_SILENCE_MS = 45_000
/** Proxies may leave a connection open after the last event. */
const MAX_SILENCE_AFTER_DONE_MS = 1000
const MAX_RESUMES = 5
/** Exceeds the largest allowed `n`. Must be a power of two: `add` uses it as a bit mask. */
const MAX_CHOICES = 1024

export class CompletionError extends Error {
  /**
   * @param {string} message
   * @param {string} code
   * @param {{ status?: number, retryAfter?: number | null, param?: string | null, cause?: unknown }} more
   */
  constructor(message, code, { status = 0, retryAfter = null, param = null, cause } = {}) {
    super(message, { cause })
    this.name = 'CompletionError'
    this.code = code
    this.status = status
    this.retryAfter = retryAfter
    this.param = param
  }
}

/** @param {ClientOptions} options @returns {Client} */
export function createClient({
  endpoint = import.meta.url,
  turnstile,
  fetch: request = (...args) => fetch(...args),
} = {}) {
  /** @type {{ token: string, renewAt: number } | null} */
  let visitor = null
  /** The renewal in progress. @type {Promise<void> | null} */
  let renewal = null

  /**
   * Sends a request. Retries once after a network failure, or after a 429 whose Retry-After is short.
   *
   * @template T
   * @param {string} path
   * @param {RequestInit} init
   * @param {(response: Response) => Promise<T>} read
   */
  async function send(path, init, read) {
    const url = new URL(path, endpoint)
    for (let last = false; ; last = true) {
      let failure
      try {
        const response = await request(url, init)
        if (response.ok) return await read(response)
        failure = await errorOf(response)
        if (failure.status !== 429 || (failure.retryAfter ?? 9) > 5) last = true
      } catch (cause) {
        init.signal?.throwIfAborted()
        if (cause instanceof CompletionError) throw cause
        // Cloudflare's own error pages have no CORS headers, so they fail like a lost connection.
        const message = 'Could not reach the endpoint. Check the connection and the address.'
        failure = new CompletionError(message, 'network', { cause })
      }
      if (last) throw failure
      await pause((failure.retryAfter ?? 0.5) * 1000, init.signal)
    }
  }

  /**
   * Without a visitor token, Last-Event-ID and Cache-Control this is a CORS simple request: no preflight.
   *
   * @template T
   * @param {Request} request
   * @param {(response: Response) => Promise<T>} read
   * @param {string} [from]
   */
  async function post({ path, body, signal, cached }, read, from) {
    for (let last = !turnstile; ; last = true) {
      // Renew in the background: the current token is valid for another minute.
      if (visitor && visitor.renewAt < Date.now()) renew().catch(() => {})
      const used = visitor
      /** @type {Record<string, string>} */
      const headers = {}
      if (used) headers['X-Visitor-Token'] = used.token
      if (from) headers['Last-Event-ID'] = from
      if (cached === 'only') headers['Cache-Control'] = 'only-if-cached'
      try {
        const init = { method: 'POST', headers, body, signal }
        return await send(path, init, read)
      } catch (error) {
        if (last || !/^visitor_token_/.test(codeOf(error))) throw error
        if (visitor === used) await orAborted(renew(), signal)
      }
    }
  }

  /** Concurrent callers share one renewal. */
  function renew() {
    renewal ??= fetchToken().finally(() => {
      renewal = null
    })
    return renewal
  }

  async function fetchToken() {
    const challenge = await solveChallenge(/** @type {Turnstile} */ (turnstile))
    const init = { method: 'POST', body: JSON.stringify({ token: challenge }) }
    const { token, expires_at } = await send('/v1/visitors', init, async (response) => {
      const answer = parsed(await response.text())
      if (typeof answer?.token !== 'string') throw badAnswer()
      return answer
    })
    const renewAt = expires_at * 1000 - 60_000
    // If the local clock is wrong, renew on a 401 instead of on every request.
    visitor = { token, renewAt: renewAt > Date.now() ? renewAt : Infinity }
  }

  /** @param {Request} request @returns {Promise<Completion | null>} */
  async function fromCache({ query, signal, cached }) {
    if (!query) return null
    try {
      return await send(`/v1/completions?${query}`, { signal }, whole)
    } catch (error) {
      if (codeOf(error) === 'not_cached' && cached !== 'only') return null
      throw error
    }
  }

  /** @param {Body} fields */
  async function textOf(fields) {
    const request = requestOf({ ...fields, stream: false })
    const { choices } = (await fromCache(request)) ?? (await post(request, whole))
    return choices[0]?.text ?? ''
  }

  /** @param {Body} fields @returns {TextStream} */
  function textStream(fields) {
    const usage = { stream_options: { include_usage: true } }
    const request = requestOf({ ...usage, ...fields, stream: true })
    const pieces = Object.assign(run(), { completion: /** @type {Completion | null} */ (null) })
    return pieces

    /** @returns {AsyncGenerator<string, void, void>} */
    async function* run() {
      pieces.completion = await fromCache(request)
      if (pieces.completion) return yield pieces.completion.choices[0]?.text ?? ''
      /** @type {Completion | undefined} */
      let received
      for (let cuts = 0; ; cuts += 1) {
        const from = received && `${received.id}:${received.choices[0]?.text.length ?? 0}`
        // Only the first choice is resumed; the endpoint sends the others again from the start.
        received?.choices.splice(1)
        const response = await post(request, eventStream, from).catch((error) => {
          if (from && codeOf(error) === 'network') return null
          throw error
        })
        for await (const data of response ? messages(response) : []) {
          if (data === '[DONE]') pieces.completion = received ?? null
          if (data === '[DONE]' || pieces.completion) continue
          const chunk = answerIn(data)
          received ??= { ...chunk, object: 'text_completion', choices: [] }
          if (received.id !== chunk.id) {
            const message = 'The rest of this answer was lost. Send the request again.'
            throw new CompletionError(message, 'restarted')
          }
          const text = add(received, chunk)
          if (text) yield text
        }
        if (pieces.completion) return
        request.signal?.throwIfAborted()
        if (cuts === MAX_RESUMES) {
          throw new CompletionError('The connection was lost. Try again.', 'network')
        }
        await pause(250 * 2 ** cuts, request.signal)
      }
    }
  }

  return {
    complete: (prompt, options) => textOf({ ...options, prompt }),
    stream: (prompt, options) => textStream({ ...options, prompt }),
    chat: /** @type {Client['chat']} */ (
      (messages, options) => (options?.stream ? textStream : textOf)({ ...options, messages })
    ),
  }
}

export const { complete, stream, chat } = createClient()

/**
 * Adds a chunk to the completion, and returns the text it adds to the first choice.
 *
 * @param {Completion} completion
 * @param {Completion} chunk
 */
function add(completion, chunk) {
  let added = ''
  if (chunk.usage) completion.usage = chunk.usage
  for (const { index, text, logprobs, finish_reason } of chunk.choices) {
    // True only for integers from 0 to 1023.
    if (index !== (index & (MAX_CHOICES - 1))) continue
    completion.choices[index] ??= { text: '', index, logprobs: null, finish_reason: null }
    const choice = completion.choices[index]
    choice.text += text
    choice.finish_reason ??= finish_reason
    for (const [name, values] of Object.entries(logprobs ?? {})) {
      choice.logprobs ??= {}
      choice.logprobs[name] = values && [...(choice.logprobs[name] ?? []), ...values]
    }
    if (index === 0) added += text
  }
  return added
}

/** Yields the data of each event until the stream ends or breaks. @param {Response} response */
async function* messages({ body }) {
  if (!body) return
  const reader = body.getReader()
  const decoder = new TextDecoder()
  let rest = ''
  let silenceMs = MAX_SILENCE_MS
  try {
    for (;;) {
      const timer = setTimeout(() => reader.cancel(), silenceMs)
      const { value } = await reader.read().catch(() => ({ value: undefined }))
      clearTimeout(timer)
      if (!value) return
      const lines = (rest + decoder.decode(value, { stream: true })).split(/[\r\n]+/)
      rest = lines.pop() ?? ''
      for (const line of lines) {
        if (!line.startsWith('data:')) continue
        const data = line.slice(5).trim()
        if (data === '[DONE]') silenceMs = MAX_SILENCE_AFTER_DONE_MS
        yield data
      }
    }
  } finally {
    reader.cancel().catch(() => {})
  }
}

/** @param {Response} response */
async function eventStream(response) {
  if (response.headers.get('content-type')?.startsWith('text/event-stream')) return response
  response.body?.cancel()
  throw badAnswer()
}

/** @param {Response} response */
async function whole(response) {
  return answerIn(await response.text())
}

/** @param {string} text @returns {Completion} */
function answerIn(text) {
  const answer = parsed(text)
  // An error event in the middle of a stream, whose HTTP status was 200.
  const error = errorIn(answer, { status: 200 })
  if (error) throw error
  if (!areChoices(answer?.choices)) throw badAnswer()
  return answer
}

/**
 * Whether these are choices. Gives those of a conversation the text that the others have.
 *
 * @param {unknown} choices
 */
const areChoices = (choices) =>
  Array.isArray(choices) &&
  choices.every((choice) => {
    const turn = choice?.message ?? choice?.delta
    if (turn) choice.text = turn.content ?? ''
    return typeof choice?.text === 'string'
  })

/**
 * The error in this endpoint's error object; null for anything else, such as another server's.
 *
 * @param {any} answer
 * @param {object} more
 */
function errorIn(answer, more) {
  const { message, code, param } = answer?.error ?? {}
  const isOurs = typeof message === 'string' && typeof code === 'string'
  return isOurs ? new CompletionError(message, code, { ...more, param }) : null
}

const badAnswer = () =>
  new CompletionError('This is not a completion endpoint. Check the address.', 'bad_answer')

/** The error in a response. Cloudflare's own errors are HTML pages. @param {Response} response */
async function errorOf(response) {
  const { status, headers } = response
  const text = await response.text()
  const more = { status, retryAfter: Number(headers.get('retry-after')) || null }
  const error = errorIn(parsed(text), more)
  if (error) return error
  if (status === 429) {
    const when = text.includes('1027') ? 'tomorrow' : 'in a moment'
    return new CompletionError(`Too many requests. Try again ${when}.`, 'rate_limited', more)
  }
  if (status < 500) return badAnswer()
  return new CompletionError('The endpoint is unavailable. Try again later.', 'unavailable', more)
}

/** The value of a JSON text; undefined for another text. @param {string} text */
function parsed(text) {
  try {
    return JSON.parse(text)
  } catch {}
}

/**
 * Options and input as they are to be sent. They are read before the call returns, because a page may
 * add to its messages while an answer arrives.
 *
 * @param {Body & Pick<Options, 'cached'> & { signal?: AbortSignal | null }} fields
 */
function requestOf({ signal = null, cached, ...body }) {
  return {
    path: 'messages' in body ? '/v1/chat/completions' : '/v1/completions',
    body: JSON.stringify(body),
    query: cached && queryOf(body),
    signal,
    cached,
  }
}

/** The request as a query string, or null if a URL cannot hold it. @param {Body} body */
function queryOf(body) {
  const query = new URLSearchParams('stream=false')
  /** @type {Body} */
  const all = { ...body, stream: null, stream_options: null }
  const prompt = /** @type {Prompt} */ (body['prompt'])
  if (typeof prompt === 'object' && 'id' in prompt) {
    all['prompt'] = null
    all['prompt_id'] = prompt.id
    for (const [name, value] of Object.entries(prompt.variables ?? {})) all[`var.${name}`] = value
  }
  for (const [name, value] of Object.entries(all)) {
    for (const item of name === 'stop' ? [value].flat() : [value]) {
      if (item == null) continue
      if (typeof item === 'object') return null
      query.append(name, String(item))
    }
  }
  return `${query}`.length < 8000 ? query : null
}

/** @param {unknown} error */
const codeOf = (error) => (error instanceof CompletionError ? error.code : '')

/** @param {number} ms @param {AbortSignal | null | undefined} signal */
const pause = (ms, signal) => orAborted(new Promise((resolve) => setTimeout(resolve, ms)), signal)

/**
 * @template T
 * @param {Promise<T>} promise
 * @param {AbortSignal | null | undefined} signal
 * @returns {Promise<T>}
 */
function orAborted(promise, signal) {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal?.reason)
    if (signal?.aborted) abort()
    signal?.addEventListener('abort', abort, { once: true })
    // A page's signal may live for long.
    promise.then(resolve, reject).finally(() => signal?.removeEventListener('abort', abort))
  })
}

/**
 * @typedef {{ render(box: HTMLElement, options: object): string | undefined, remove(id: string): void }} Widgets
 * Turnstile's API. Its script is loaded when the first challenge is needed.
 */

const page = /** @type {{ turnstile?: Widgets }} */ (globalThis)
/** The script being loaded, shared by all clients. @type {Promise<void> | null} */
let loading = null

/** @param {string} code */
const botCheckError = (code) =>
  new CompletionError('The bot check could not be completed. Try again.', code)

function ready() {
  if (page.turnstile) return
  loading ??= load().finally(() => {
    loading = null
  })
  return loading
}

async function load() {
  const script = document.createElement('script')
  script.src = 'https://challenges.cloudflare.com/turnstile/v0/api.js?render=explicit'
  await new Promise((resolve) => {
    script.onload = resolve
    script.onerror = resolve
    document.head.append(script)
  })
  if (page.turnstile) return
  script.remove()
  throw botCheckError('challenge_unavailable')
}

/**
 * Shows a challenge and resolves with its token. Handles each callback that can end a challenge.
 * https://developers.cloudflare.com/turnstile/get-started/client-side-rendering/widget-configurations/
 *
 * @param {Turnstile} options
 * @returns {Promise<string>}
 */
async function solveChallenge({ sitekey, container = document.body }) {
  await ready()
  const widgets = /** @type {Widgets} */ (page.turnstile)
  const box = container.appendChild(document.createElement('div'))
  if (container === document.body) box.style.cssText = 'position:fixed;right:1em;bottom:1em'
  /** @type {string | undefined} */
  let id
  try {
    return await new Promise((resolve, reject) => {
      const fail = () => {
        reject(botCheckError('challenge_failed'))
        return true
      }
      try {
        id = widgets.render(box, {
          sitekey,
          action: 'visitor',
          appearance: 'interaction-only',
          callback: resolve,
          'error-callback': fail,
          'expired-callback': fail,
          'timeout-callback': fail,
          'unsupported-callback': fail,
        })
      } catch {}
      // For a malformed sitekey, render() throws or returns undefined.
      if (!id) fail()
    })
  } finally {
    if (id) widgets.remove(id)
    box.remove()
  }
}
