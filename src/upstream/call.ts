// One upstream call: sends it, reads the body within its bounds, hands back raw deltas.
// The only place that talks to an upstream. It never retries; route.ts does.
import type { RawDelta } from '../completion/delta.ts'
import { GatewayError } from '../errors.ts'
import { type SseMessage, SseOverflow, SseReader } from '../sse/parse.ts'
import { failureOfStatus, parseRetryAfter, upstreamFailure } from './failure.ts'
import type { CallRequest, Upstream, WireOptions } from './upstream.ts'
import { Watchdog } from './watchdog.ts'

/** Sends a request to an upstream. HTTP's `fetch`, the demo model and the AI binding are such. */
export type Send = (request: Request) => Promise<Response>

export interface CallOptions extends WireOptions {
  /** Without a slash at the end. */
  readonly baseUrl: string
  /** The authentication headers; they never leave this module but for the upstream. */
  readonly headers: Readonly<Record<string, string>>
  readonly firstByteMs: number
  readonly idleMs: number
  /** Decoded bytes of one answer. */
  readonly maxOutputBytes: number
}

export interface CallContext {
  readonly upstream: Upstream
  readonly send: Send
  readonly options: CallOptions
  readonly now: () => number
  /** Aborts the call, when nobody wants its answer any more. */
  readonly signal: AbortSignal
  /** When the visitor has waited long enough, in ms since the epoch. */
  readonly deadlineAt: number
  /** Called once it may cost money: the upstream answered 2xx, or was given up on without a word. */
  readonly onAccepted?: () => void
}

const ERROR_BODY_BYTES = 65_536

/**
 * The answer as batches of raw deltas, one batch for each piece of body that held any.
 *
 * @throws GatewayError with an `upstream_…` code.
 */
export async function* call(
  request: CallRequest,
  context: CallContext,
): AsyncGenerator<readonly RawDelta[]> {
  const { upstream, options, signal } = context
  const watchdog = new Watchdog({
    now: context.now,
    signal,
    firstByteMs: options.firstByteMs,
    idleMs: options.idleMs,
    deadlineAt: context.deadlineAt,
  })
  let body: BodyReader | null = null
  try {
    const response = await respond(request, context, watchdog)
    if (response.ok) context.onAccepted?.()
    body = new BodyReader(response.body ?? new Blob([]).stream(), watchdog, options.maxOutputBytes)
    if (!response.ok) throw await refusal(response, body, context)
    yield* readAnswer(upstream, body)
  } catch (error) {
    throw watchdog.signal.aborted ? watchdog.signal.reason : knownFailure(error)
  } finally {
    body?.cancel()
    watchdog.stop()
  }
}

async function respond(
  request: CallRequest,
  { upstream, send, options, onAccepted }: CallContext,
  watchdog: Watchdog,
): Promise<Response> {
  const wire = upstream.toWire(request, options)
  const outgoing = new Request(options.baseUrl + wire.path, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      accept: request.stream ? 'text/event-stream, application/json' : 'application/json',
      ...options.headers,
      ...wire.headers,
    },
    body: JSON.stringify(wire.body),
    // A followed redirect would carry some keys along to another origin.
    redirect: 'manual',
    signal: watchdog.signal,
  })
  try {
    return await watchdog.race(send(outgoing))
  } catch (error) {
    // Given up on in silence: it may have been taken, and may be billed.
    if (watchdog.signal.aborted) onAccepted?.()
    if (error instanceof GatewayError) throw error
    // The runtime's own text may name the upstream's address.
    throw upstreamFailure('unavailable')
  }
}

async function refusal(
  response: Response,
  body: BodyReader,
  { upstream, now }: CallContext,
): Promise<GatewayError> {
  const retryAfter = parseRetryAfter(response.headers.get('retry-after'), now())
  const json = await body.json(ERROR_BODY_BYTES).catch((error: unknown) => {
    if (error instanceof GatewayError && error.code === 'upstream_timeout') throw error
    return null
  })
  const failure = upstream.fromFailure(response.status, json)
  const cause = failure.cause as object
  if (failure.code === 'upstream_rate_limited') return failureOfStatus(429, cause, retryAfter)
  if (failure.code !== 'upstream_unavailable' || retryAfter === null) return failure
  return failureOfStatus(response.status, { ...cause, backInSeconds: retryAfter })
}

/** Sniffs what the body is, since servers' declared types are not to be trusted (PROTOCOL 0.3). */
async function* readAnswer(
  upstream: Upstream,
  body: BodyReader,
): AsyncGenerator<readonly RawDelta[]> {
  const start = await body.start()
  if (start === '') throw upstreamFailure('bad_response')
  if (start === '<') throw upstreamFailure('bad_response', { code: 'html' })
  if (start === '{' || start === '[') yield readJson(upstream, await body.text())
  else yield* readStream(upstream, body)
}

function readJson(upstream: Upstream, text: string): readonly RawDelta[] {
  let whole: unknown
  try {
    whole = JSON.parse(text)
  } catch {
    return readLines(upstream, text)
  }
  return upstream.fromBody(whole)
}

/** JSON lines instead of events, as some native endpoints stream. */
function readLines(upstream: Upstream, text: string): readonly RawDelta[] {
  const lines = text.split('\n').filter((line) => line.trim() !== '')
  if (!isWhole(lines.at(-1) ?? '')) throw upstreamFailure('truncated')
  return lines.flatMap((data) => upstream.fromMessage({ event: null, data }))
}

async function* readStream(
  upstream: Upstream,
  body: BodyReader,
): AsyncGenerator<readonly RawDelta[]> {
  let finished = false
  const reader = new SseReader({ maxMessageChars: body.maxBytes })
  for (;;) {
    const piece = await body.next()
    const messages = piece === null ? reader.end() : reader.feed(piece)
    // A torn last line is the mark of a body cut short, not of a server that talks nonsense.
    const whole = piece === null ? messages.filter(({ data }) => isWhole(data)) : messages
    const { deltas, failure, ended } = translate(upstream, whole)
    finished ||= deltas.some(({ kind }) => kind === 'finish')
    if (deltas.length > 0) yield deltas
    if (failure !== null) throw failure
    if (whole.length < messages.length && !finished) throw upstreamFailure('truncated')
    if (ended || piece === null) return
  }
}

/** Whether a line is all there: JSON, the terminator, or nothing. */
function isWhole(data: string): boolean {
  if (['[DONE]', ''].includes(data.trim())) return true
  try {
    JSON.parse(data)
    return true
  } catch {
    return false
  }
}

interface Translated {
  readonly deltas: readonly RawDelta[]
  /** What went wrong after those deltas. */
  readonly failure: unknown
  readonly ended: boolean
}

function translate(upstream: Upstream, messages: readonly SseMessage[]): Translated {
  const deltas: RawDelta[] = []
  for (const message of messages) {
    try {
      deltas.push(...upstream.fromMessage(message))
    } catch (failure) {
      return { deltas, failure, ended: true }
    }
    // Whatever follows the terminator is no part of the answer.
    if (deltas.at(-1)?.kind === 'end') return { deltas, failure: null, ended: true }
  }
  return { deltas, failure: null, ended: false }
}

function knownFailure(error: unknown): unknown {
  if (error instanceof GatewayError) return error
  if (error instanceof SseOverflow) return upstreamFailure('bad_response', { code: 'too_large' })
  return error
}

/** The body as text, counted and watched. One streaming decoder: characters may be split anywhere. */
class BodyReader {
  readonly maxBytes: number
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>
  readonly #watchdog: Watchdog
  readonly #decoder = new TextDecoder()
  #bytes = 0
  #kept = ''
  #done = false

  constructor(stream: ReadableStream<Uint8Array>, watchdog: Watchdog, maxBytes: number) {
    this.#reader = stream.getReader()
    this.#watchdog = watchdog
    this.maxBytes = maxBytes
    // Not every body knows the request's signal; a cancelled reader ends its pending read.
    watchdog.signal.addEventListener('abort', () => this.cancel(), { once: true })
  }

  /** The first character that is neither white space nor a byte order mark; "" if there is none. */
  async start(): Promise<string> {
    for (;;) {
      const start = this.#kept.trimStart()
      if (start !== '') return start.charAt(0)
      const piece = await this.#read()
      if (piece === null) return ''
      this.#kept += piece
    }
  }

  /** The next piece of text, or null when the body is over. */
  async next(): Promise<string | null> {
    if (this.#kept === '') return await this.#read()
    const kept = this.#kept
    this.#kept = ''
    return kept
  }

  async text(): Promise<string> {
    let text = ''
    for (let piece = await this.next(); piece !== null; piece = await this.next()) text += piece
    return text.trim()
  }

  /** The body as JSON, if it is that and no longer than `maxBytes`. */
  async json(maxBytes: number): Promise<unknown> {
    let text = ''
    for (let piece = await this.next(); piece !== null; piece = await this.next()) {
      text += piece
      if (this.#bytes > maxBytes) return null
    }
    return JSON.parse(text)
  }

  /** Lets go of the connection. Safe to call at any time, and twice. */
  cancel(): void {
    this.#reader.cancel().catch(() => {})
  }

  async #read(): Promise<string | null> {
    if (this.#done) return null
    if (this.#bytes > 0) this.#watchdog.alive()
    const { done, value } = await this.#pull()
    this.#watchdog.rest()
    if (done) {
      this.#done = true
      return this.#decoder.decode()
    }
    this.#bytes += value.byteLength
    if (this.#bytes > this.maxBytes) throw upstreamFailure('bad_response', { code: 'too_large' })
    return this.#decoder.decode(value, { stream: true })
  }

  /** A connection that breaks, or a body that cannot be decompressed. */
  async #pull(): Promise<ReadableStreamReadResult<Uint8Array>> {
    let result: ReadableStreamReadResult<Uint8Array>
    try {
      result = await this.#reader.read()
    } catch (error) {
      if (error instanceof TypeError) throw upstreamFailure('bad_response', { code: 'undecodable' })
      throw upstreamFailure(this.#bytes === 0 ? 'unavailable' : 'truncated')
    }
    if (this.#watchdog.signal.aborted) throw this.#watchdog.signal.reason
    return result
  }
}
