// One upstream call: sends the request and pushes the body's raw deltas, within time and size
// limits. All traffic to upstreams goes through here. Retries are in failover.ts.
import { GatewayError } from '../errors.ts'
import type { WireCall, WireOptions } from './adapter.ts'
import { BodyReader } from './body.ts'
import { failureOfStatus, parseRetryAfter, upstreamFailure } from './failure.ts'
import type { Reason } from './hints.ts'
import { type ReadContext, readAnswer } from './read.ts'
import { Watchdog, type WatchdogOptions } from './watchdog.ts'

/** Sends a request to an upstream: over HTTP, to the demo model or to the AI binding. */
export type Send = (request: Request) => Promise<Response>

export interface CallOptions extends WireOptions {
  /** Without a trailing slash. */
  readonly baseUrl: string
  /** The authentication headers, which are sent to the upstream and never logged. */
  readonly headers: Readonly<Record<string, string>>
  readonly firstByteMs: number
  readonly idleMs: number
  /** The most bytes of one answer, after decompression. */
  readonly maxOutputBytes: number
}

export interface CallContext extends CallOptions, WatchdogOptions, Omit<ReadContext, 'watchdog'> {
  readonly send: Send
  /** Called when the call may cost money: after a 2xx, or a timeout or cancellation without an answer. */
  readonly onAccepted?: () => void
}

const ERROR_BODY_BYTES = 65_536

/**
 * Pushes the answer's raw deltas, one batch for each chunk of the body that contained any.
 *
 * @throws GatewayError with an `upstream_…` code, or the reason of the caller's signal
 */
export async function call(wire: WireCall, context: CallContext): Promise<void> {
  const { signal, maxOutputBytes } = context
  const watchdog = new Watchdog(context)
  let body: BodyReader | null = null
  try {
    const response = await respond(wire, context, watchdog)
    if (response.ok) context.onAccepted?.()
    body = new BodyReader(response.body ?? new Blob([]).stream(), watchdog, maxOutputBytes)
    if (!response.ok) throw await refusal(response, body, context)
    await readAnswer(body, { watchdog, ...context })
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
  { send, baseUrl, headers, onAccepted }: CallContext,
  watchdog: Watchdog,
): Promise<Response> {
  const outgoing = new Request(baseUrl + wire.path, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      accept: wire.body['stream'] ? 'text/event-stream, application/json' : 'application/json',
      ...headers,
      ...wire.headers,
    },
    body: JSON.stringify(wire.body),
    // Following a redirect would send some keys to another origin.
    redirect: 'manual',
    signal: watchdog.signal,
  })
  try {
    return await watchdog.race(send(outgoing))
  } catch (error) {
    // The upstream may have accepted the request before the timeout, and may bill it.
    if (watchdog.signal.aborted) onAccepted?.()
    if (error instanceof GatewayError) throw error
    // The runtime's own message may contain the upstream's address.
    throw upstreamFailure('unavailable', { code: reasonOf(error) })
  }
}

/** workerd's messages do not distinguish between DNS errors, TLS errors and refused connections. */
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
  const { headers } = response
  // LiteLLM passes on the headers of the server behind it with a prefix.
  const given = headers.get('retry-after') ?? headers.get('llm_provider-retry-after')
  const retryAfter = parseRetryAfter(given, now())
  const content = await body.jsonOrText(ERROR_BODY_BYTES).catch((error: unknown) => {
    if (error instanceof GatewayError && error.code === 'upstream_timeout') throw error
    return null
  })
  const failure = upstream.fromFailure(response.status, content)
  const cause = failure.cause as object
  if (failure.code === 'upstream_rate_limited') return failureOfStatus(429, cause, retryAfter)
  if (failure.code !== 'upstream_unavailable' || retryAfter === null) return failure
  return failureOfStatus(response.status, { ...cause, backInSeconds: retryAfter })
}
