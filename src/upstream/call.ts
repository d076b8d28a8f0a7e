// One upstream call: sends it, reads the body within its bounds, hands back raw deltas.
// The only place that talks to an upstream. It never retries; route.ts does.
import type { RawDelta } from '../completion/delta.ts'
import { GatewayError } from '../errors.ts'
import { type SseMessage, SseOverflow, SseReader } from '../sse/parse.ts'
import { BodyReader } from './body.ts'
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
  /** Pieces of body that come closer to one another than this come as one. */
  readonly gatherMs?: number
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
 * The answer as batches of raw deltas, one batch for what came of the body at once, if it held any.
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
    body = new BodyReader(response.body ?? new Blob([]).stream(), watchdog, {
      maxBytes: options.maxOutputBytes,
      gatherMs: options.gatherMs ?? 0,
      now: context.now,
    })
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
