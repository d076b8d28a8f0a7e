// The browser client of edge-completions. It asks for text and returns text: show it with textContent,
// never as HTML. It keeps nothing, and touches the page only to show a Turnstile challenge.

/**
 * @typedef {string | string[] | number[] | number[][] | LockedPrompt} Prompt
 * @typedef {{ id: string, variables?: Record<string, string> }} LockedPrompt
 * @typedef {{ model?: string, max_tokens?: number, temperature?: number, top_p?: number, n?: number,
 *   best_of?: number, stop?: string | string[], seed?: number, presence_penalty?: number,
 *   frequency_penalty?: number, logprobs?: number, echo?: boolean, suffix?: string, user?: string,
 *   logit_bias?: Record<string, number>, stream_options?: { include_usage?: boolean } }} Fields
 * @typedef {Fields & { signal?: AbortSignal, cached?: boolean | 'only' }} Options
 *   `cached`: look into the cache first, with a GET that browsers may cache, too. `'only'`: and nowhere
 *   else; what is not there is an error with the code `not_cached`.
 * @typedef {{ text: string, index: number, finish_reason: string | null,
 *   logprobs: Record<string, unknown[] | null> | null }} Choice
 * @typedef {{ id: string, object: string, created: number, model: string, choices: Choice[],
 *   usage: Record<string, number>, system_fingerprint?: string }} Completion
 * @typedef {AsyncGenerator<string, void, void> & { completion: Completion | null }} TextStream
 *   The text of the first choice, piece by piece; `completion` is null until its end.
 * @typedef {{ sitekey: string, container?: HTMLElement }} Turnstile
 */

/** The endpoint breaks every silence of 15 s; after a longer one the connection is dead. */
const PATIENCE_MS = 45_000
const RESUMES = 5
/** More choices than any request can ask for, and a power of two. */
const CHOICES = 1024

export class CompletionError extends Error {
  /**
   * @param {string} message
   * @param {string} code the endpoint's, or `network`, `restarted` (a cut answer is lost, the next
   *   one would be another), `unavailable`, `bad_answer`
   * @param {{ status?: number, retryAfter?: number | null, param?: string | null, cause?: unknown }} more
   *   `retryAfter` in seconds
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

/**
 * @param {{ endpoint?: string | URL, turnstile?: Turnstile, fetch?: typeof fetch }} options
 *   `endpoint`: where the Worker is; default: where this module is from
 */
export function createClient({
  endpoint = import.meta.url,
  turnstile,
  fetch: ask = (...request) => fetch(...request),
} = {}) {
  /** The visitor token in use. @type {{ token: string, renewAt: number } | null} */
  let pass = null
  /** The one being fetched. @type {Promise<void> | null} */
  let admission = null

  /**
   * Asks, and once more where that may help: nothing came back, or it is a matter of seconds.
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
        const response = await ask(url, init)
        if (response.ok) return await read(response)
        failure = await problemIn(response)
        if (failure.status !== 429 || (failure.retryAfter ?? 9) > 5) last = true
      } catch (cause) {
        init.signal?.throwIfAborted()
        if (cause instanceof CompletionError) throw cause
        // Refusals of the endpoint are readable; Cloudflare's own look like this, too.
        const message = 'Cannot reach the endpoint: check the connection and its address'
        failure = new CompletionError(message, 'network', { cause })
      }
      if (last) throw failure
      await pause((failure.retryAfter ?? 0.5) * 1000, init.signal)
    }
  }

  /**
   * Without a token and a point to resume from this is a simple request: no preflight.
   *
   * @template T
   * @param {string} body
   * @param {AbortSignal | undefined} signal
   * @param {(response: Response) => Promise<T>} read
   * @param {string} [from]
   */
  async function post(body, signal, read, from) {
    for (let last = !turnstile; ; last = true) {
      // It is good for a minute yet.
      if (pass && pass.renewAt < Date.now()) renew().catch(() => {})
      const used = pass
      /** @type {Record<string, string>} */
      const headers = {}
      if (used) headers['X-Visitor-Token'] = used.token
      if (from) headers['Last-Event-ID'] = from
      try {
        const init = { method: 'POST', headers, body, signal: signal ?? null }
        return await send('/v1/completions', init, read)
      } catch (error) {
        if (last || !/^visitor_token_/.test(codeOf(error))) throw error
        if (pass === used) await orAborted(renew(), signal)
      }
    }
  }

  /** One at a time. */
  function renew() {
    admission ??= admit().finally(() => {
      admission = null
    })
    return admission
  }

  async function admit() {
    const token = await solveChallenge(/** @type {Turnstile} */ (turnstile))
    const init = { method: 'POST', body: JSON.stringify({ token }) }
    const visitor = await send('/v1/visitors', init, (response) => response.json())
    const renewAt = visitor.expires_at * 1000 - 60_000
    // A clock that is wrong must not renew at each request; then a 401 tells.
    pass = { token: visitor.token, renewAt: renewAt > Date.now() ? renewAt : Infinity }
  }

  /**
   * @param {Prompt} prompt
   * @param {Fields} fields
   * @param {AbortSignal | undefined} signal
   * @param {Options['cached']} cached
   * @returns {Promise<Completion | null>}
   */
  async function look(prompt, fields, signal, cached) {
    if (!cached) return null
    const query = queryOf(prompt, fields)
    try {
      if (query) return await send(`/v1/completions?${query}`, { signal: signal ?? null }, whole)
      throw new CompletionError(
        'Cannot look for this in the cache: no URL can say it',
        'not_cached',
      )
    } catch (error) {
      if (codeOf(error) === 'not_cached' && cached !== 'only') return null
      throw error
    }
  }

  /**
   * The text of the first choice.
   *
   * @param {Prompt} prompt
   * @param {Options} options
   */
  async function complete(prompt, { signal, cached, ...fields } = {}) {
    const body = JSON.stringify({ ...fields, prompt, stream: false })
    /** @type {Completion} */
    const { choices } =
      (await look(prompt, fields, signal, cached)) ?? (await post(body, signal, whole))
    return choices[0]?.text ?? ''
  }

  /**
   * A stream that is cut is resumed where it stopped, at no second charge. To stop it leave the loop or
   * abort the signal; that throws the signal's reason, everything else a CompletionError.
   *
   * @param {Prompt} prompt
   * @param {Options} options
   * @returns {TextStream}
   */
  function stream(prompt, options = {}) {
    const pieces = Object.assign(run(), { completion: /** @type {Completion | null} */ (null) })
    return pieces

    /** @returns {AsyncGenerator<string, void, void>} */
    async function* run() {
      const { signal, cached, ...fields } = options
      pieces.completion = await look(prompt, fields, signal, cached)
      if (pieces.completion) return yield pieces.completion.choices[0]?.text ?? ''
      const usage = { stream_options: { include_usage: true } }
      const body = JSON.stringify({ ...usage, ...fields, prompt, stream: true })
      /** @type {Completion | undefined} */
      let said
      for (let cuts = 0; ; cuts += 1) {
        const from = said && `${said.id}:${said.choices[0]?.text.length ?? 0}`
        // Only the first choice goes on; others are sent again.
        said?.choices.splice(1)
        const response = await post(body, signal, eventStream, from).catch((error) => {
          if (from && codeOf(error) === 'network') return null
          throw error
        })
        for await (const data of response ? messages(response) : []) {
          if (data === '[DONE]') {
            pieces.completion = said ?? null
            continue
          }
          const chunk = answerIn(data)
          said ??= { ...chunk, choices: [] }
          if (said.id !== chunk.id) {
            throw new CompletionError('Cannot go on where it stopped: ask again', 'restarted')
          }
          const text = add(said, chunk)
          if (text) yield text
        }
        if (pieces.completion) return
        signal?.throwIfAborted()
        if (cuts === RESUMES) {
          throw new CompletionError('Cannot go on: the connection is lost', 'network')
        }
        await pause(250 * 2 ** cuts, signal)
      }
    }
  }

  return { complete, stream }
}

export const { complete, stream } = createClient()

/**
 * Adds a chunk, and returns what it has of the first choice.
 *
 * @param {Completion} said
 * @param {Completion} chunk
 */
function add(said, chunk) {
  let news = ''
  if (chunk.usage) said.usage = chunk.usage
  for (const { index, text, logprobs, finish_reason } of chunk.choices) {
    // Equal only for whole numbers from 0 to 1023.
    if (index !== (index & (CHOICES - 1))) continue
    said.choices[index] ??= { text: '', index, logprobs: null, finish_reason: null }
    const choice = said.choices[index]
    choice.text += text
    choice.finish_reason ??= finish_reason
    for (const [name, values] of Object.entries(logprobs ?? {})) {
      choice.logprobs ??= {}
      choice.logprobs[name] = values && [...(choice.logprobs[name] ?? []), ...values]
    }
    if (index === 0) news += text
  }
  return news
}

/** The data of each event, until the end or a broken connection. @param {Response} response */
async function* messages({ body }) {
  if (!body) return
  const reader = body.getReader()
  const decoder = new TextDecoder()
  let rest = ''
  try {
    for (;;) {
      const timer = setTimeout(() => reader.cancel(), PATIENCE_MS)
      const { value } = await reader.read().catch(() => ({ value: undefined }))
      clearTimeout(timer)
      if (!value) return
      const lines = (rest + decoder.decode(value, { stream: true })).split(/[\r\n]+/)
      rest = lines.pop() ?? ''
      for (const line of lines) if (line.startsWith('data:')) yield line.slice(5).trim()
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
  let answer
  try {
    answer = JSON.parse(text)
  } catch {}
  const { error, choices } = answer ?? {}
  // In a stream, after its beginning.
  if (error) throw new CompletionError(error.message, error.code, { ...error, status: 200 })
  if (!Array.isArray(choices)) throw badAnswer()
  return answer
}

const badAnswer = () =>
  new CompletionError('Cannot read the answer: it is not from the endpoint', 'bad_answer')

/** What a refusal says; Cloudflare's own are pages. @param {Response} response */
async function problemIn(response) {
  const { status, headers } = response
  const text = await response.text()
  const more = { status, retryAfter: Number(headers.get('retry-after')) || null }
  try {
    const { message, code, param } = JSON.parse(text).error
    return new CompletionError(message, code, { ...more, param })
  } catch {
    if (status === 429) {
      const when = text.includes('1027') ? 'tomorrow' : 'in a moment'
      return new CompletionError(`Too many requests: try again ${when}`, 'rate_limited', more)
    }
    if (status < 500) return badAnswer()
    return new CompletionError('Cannot answer now: try again later', 'unavailable', more)
  }
}

/** A request as a query, or null if it has none. @param {Prompt} prompt @param {Fields} fields */
function queryOf(prompt, fields) {
  const query = new URLSearchParams('stream=false')
  /** @type {Record<string, unknown>} */
  const all = { ...fields, prompt, stream_options: null }
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
    promise.then(resolve, reject)
    const leave = () => reject(signal?.reason)
    if (signal?.aborted) leave()
    signal?.addEventListener('abort', leave, { once: true })
  })
}

/**
 * @typedef {{ render(box: HTMLElement, options: object): string | undefined, remove(id: string): void }} Widgets
 * Cloudflare's script, loaded when the first challenge is needed.
 */

const page = /** @type {{ turnstile?: Widgets }} */ (globalThis)
/** While it is loading, all clients wait for the same. @type {Promise<void> | null} */
let loading = null

/** @param {string} code */
const unchecked = (code) =>
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
  throw unchecked('challenge_unavailable')
}

/**
 * Settles on every way a challenge can end.
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
        reject(unchecked('challenge_failed'))
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
      // It returns nothing, or throws, for a sitekey that it cannot read.
      if (!id) fail()
    })
  } finally {
    if (id) widgets.remove(id)
    box.remove()
  }
}
