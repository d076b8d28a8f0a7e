// One upstream call: sends it, reads the body within its bounds, hands back raw deltas.
// The only place that talks to an upstream. It never retries; route.ts does.
import type { RawDelta } from '../completion/delta.ts'
import { GatewayError } from '../errors.ts'
import type { Upstream, WireCall, WireOptions } from './adapter.ts'
import { BodyReader } from './body.ts'
import { failureOfStatus, parseRetryAfter, upstreamFailure } from './failure.ts'
import type { Reason } from './hints.ts'
import type { Progress } from './normalise.ts'
import { readAnswer } from './read.ts'
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
  /** How far the answer is, asked each time the deltas so far have been taken. */
  readonly progress: () => Progress
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
  wire: WireCall,
  context: CallContext,
): AsyncGenerator<readonly RawDelta[]> {
  const { options, signal } = context
  const watchdog = new Watchdog({
    now: context.now,
    signal,
    firstByteMs: options.firstByteMs,
    idleMs: options.idleMs,
    deadlineAt: context.deadlineAt,
  })
  let body: BodyReader | null = null
  try {
    const response = await respond(wire, context, watchdog)
    if (response.ok) context.onAccepted?.()
    body = new BodyReader(response.body ?? new Blob([]).stream(), watchdog, {
      maxBytes: options.maxOutputBytes,
      gatherMs: options.gatherMs ?? 0,
      now: context.now,
    })
    if (!response.ok) throw await refusal(response, body, context)
    yield* readAnswer(body, { watchdog, ...context })
  } catch (error) {
    if (signal.aborted) throw signal.reason
    if (error instanceof GatewayError || !watchdog.signal.aborted) throw error
    throw watchdog.signal.reason
  } finally {
    body?.cancel()
    watchdog.stop()
  }
}

async function respond(
  wire: WireCall,
  { send, options, onAccepted }: CallContext,
  watchdog: Watchdog,
): Promise<Response> {
  const outgoing = new Request(options.baseUrl + wire.path, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      accept: wire.body['stream'] ? 'text/event-stream, application/json' : 'application/json',
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
    throw upstreamFailure('unavailable', { code: reasonOf(error) })
  }
}

/** As far as the runtime tells: not whether it was the name, TLS or a port where nobody listens. */
function reasonOf(error: unknown): Reason {
  const message = error instanceof Error ? error.message : ''
  if (/connection lost/i.test(message)) return 'connection_lost'
  return /^internal error/i.test(message) ? 'no_connection' : 'not_sent'
}

async function refusal(
  response: Response,
  body: BodyReader,
  { upstream, now }: CallContext,
): Promise<GatewayError> {
  const retryAfter = parseRetryAfter(response.headers.get('retry-after'), now())
  const said = await body.jsonOrText(ERROR_BODY_BYTES).catch((error: unknown) => {
    if (error instanceof GatewayError && error.code === 'upstream_timeout') throw error
    return null
  })
  const failure = upstream.fromFailure(response.status, said)
  const cause = failure.cause as object
  if (failure.code === 'upstream_rate_limited') return failureOfStatus(429, cause, retryAfter)
  if (failure.code !== 'upstream_unavailable' || retryAfter === null) return failure
  return failureOfStatus(response.status, { ...cause, backInSeconds: retryAfter })
}
