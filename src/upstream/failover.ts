// Routes a request through the upstreams of its model: retries an upstream before the first byte,
// and falls back to the next one if that fails, too. Pushes the answer's deltas, or throws the last
// failure.
import { type Code, GatewayError, messages } from '../errors.ts'
import type { EffectiveRequest, Target } from '../request/effective.ts'
import { type AnswerSink, type Attempt, attempt, type Ended, type RouteContext } from './attempt.ts'
import type { AdmittedCall } from './breaker.ts'
import { missingFeature } from './calls.ts'
import { causeOf, isOutage, type UpstreamCause } from './failure.ts'

/** Counts every attempt, for the log. */
export interface Trace {
  attempts: number
  upstream: string | null
}

/** A longer `Retry-After` is not waited for. */
const MAX_PAUSE_MS = 2000
const BACKOFF_MS = 250

/**
 * The targets that support the request, in order.
 *
 * @throws GatewayError `unsupported_by_upstream`, naming the field, if none does
 */
export function capableTargets(
  request: EffectiveRequest,
  connections: RouteContext['connections'],
): Target[] {
  const missing = request.route.map(({ upstream }) =>
    missingFeature(request, connections.get(upstream)?.unsupported ?? new Set()),
  )
  const able = request.route.filter((_, i) => missing[i] === null)
  const [first] = missing
  if (able.length > 0 || !first) return able
  throw new GatewayError(
    'unsupported_by_upstream',
    `Cannot use "${first.param}": the model behind "${request.model}" does not support ${first.name}`,
    { param: first.param },
  )
}

/**
 * Asks the upstreams of a request in order, until one answers.
 *
 * @param request its route has capable targets only
 * @throws GatewayError the failure of the last attempt
 */
export async function answer(
  request: EffectiveRequest,
  context: RouteContext,
  trace: Trace,
  sink: AnswerSink,
): Promise<Ended> {
  const { now, connections } = context
  const targets = request.route.flatMap((target) => {
    const connection = connections.get(target.upstream)
    return connection === undefined ? [] : [{ target, connection }]
  })
  const deadlineAt = now() + (targets[0]?.connection.deadlineMs ?? 0)
  let failure: GatewayError | null = null
  let suspendedSeconds: number | null = null
  for (const [position, place] of targets.entries()) {
    const isLast = position + 1 === targets.length
    const order = { ...place, request, deadlineAt, fallback: position > 0, isLast }
    const result = await ask(order, context, trace, sink)
    if (result.ended !== null) return result.ended
    failure = result.failure ?? failure
    if (result.suspendedSeconds !== null) {
      suspendedSeconds = Math.min(
        result.suspendedSeconds,
        suspendedSeconds ?? Number.POSITIVE_INFINITY,
      )
    }
  }
  const options = { retryAfterSeconds: suspendedSeconds }
  throw failure ?? new GatewayError('upstream_unavailable', messages.upstream_suspended, options)
}

/** One upstream to ask. */
interface Order extends Attempt {
  /** No other upstream follows. */
  readonly isLast: boolean
}

/** What came of asking one upstream, perhaps several times. */
interface Result {
  readonly ended: Ended | null
  readonly failure: GatewayError | null
  /** For how long its breaker allows no call; null: it does. */
  readonly suspendedSeconds: number | null
}

/** @throws GatewayError a failure after which no other upstream is asked */
async function ask(
  order: Order,
  context: RouteContext,
  trace: Trace,
  sink: AnswerSink,
): Promise<Result> {
  const { request, target, connection, deadlineAt, isLast } = order
  const { now, random, signal } = context
  const breaker = connection.breakers.of(target.upstream_model)
  let tokensField = connection.tokensFields.get(target.upstream_model) ?? connection.maxTokensField
  let renamed = false
  let retriesLeft = connection.retries
  let failure: GatewayError | null = null
  for (;;) {
    const call = breaker.admit(now())
    if (call === null) {
      return { ended: null, failure, suspendedSeconds: breaker.retryAfterSeconds(now()) }
    }
    const named = { ...connection, maxTokensField: tokensField }
    const tried = await attemptOnce({ ...order, connection: named }, call, context, trace, sink)
    if ('ended' in tried) {
      if (renamed) connection.tokensFields.set(target.upstream_model, tokensField)
      return { ended: tried.ended, failure: null, suspendedSeconds: null }
    }
    const { cause, begun } = tried
    failure = tried.failure
    const wanted =
      begun || renamed || cause.wantsField === tokensField ? undefined : cause.wantsField
    const mayRetry = !begun && retriesLeft > 0 && !breaker.isOpen(now())
    const retryMs = mayRetry ? pauseBefore(failure, cause, random) : null
    const pauseMs = wanted === undefined ? retryMs : 0
    const leftMs = deadlineAt - now()
    const mayFallBack = !begun && !isLast && leftMs > 0 && anotherMayHelp.has(failure.code)
    const mayRepeat = pauseMs !== null && pauseMs < leftMs
    const will = mayRepeat ? 'retry' : mayFallBack ? 'fall_back' : 'give_up'
    context.report({
      event: 'upstream_failed',
      request_id: context.requestId,
      upstream: connection.name,
      model: request.model,
      code: failure.code,
      status: cause.status,
      reason: cause.code,
      hint: cause.hint,
      will,
    })
    if (will === 'give_up') throw failure
    if (!mayRepeat) return { ended: null, failure, suspendedSeconds: null }
    if (wanted === undefined) {
      retriesLeft -= 1
      await context.wait(pauseMs, signal)
    } else {
      tokensField = wanted
      renamed = true
    }
  }
}

type Tried =
  | { readonly ended: Ended }
  /** `begun`: some of the answer had been sent. */
  | { readonly failure: GatewayError; readonly cause: UpstreamCause; readonly begun: boolean }

/**
 * One attempt. Tells the breaker how it went.
 *
 * @throws what did not come from the upstream: a refused reservation, or the reason of the signal
 */
async function attemptOnce(
  order: Order,
  admitted: AdmittedCall,
  context: RouteContext,
  trace: Trace,
  sink: AnswerSink,
): Promise<Tried> {
  const { now } = context
  const before = trace.upstream
  trace.attempts += 1
  trace.upstream = order.connection.name
  let begun = false
  try {
    // The upstream's own deadline, but not later than the request's.
    const deadlineAt = Math.min(order.deadlineAt, now() + order.connection.deadlineMs)
    const ended = await attempt({ ...order, deadlineAt }, context, {
      begin: (by) => {
        begun = true
        admitted.begun()
        sink.begin(by)
      },
      push: sink.push,
    })
    admitted.answered()
    return { ended }
  } catch (error) {
    if (!(error instanceof GatewayError)) throw error
    const cause = causeOf(error)
    if (cause === null) {
      // The call was never made, for example because the budget is exhausted. Another upstream
      // cannot help.
      trace.attempts -= 1
      trace.upstream = before
      throw error
    }
    if (context.signal.aborted) throw error
    if (isOutage(error, begun)) admitted.failed(now())
    else admitted.answered()
    return { failure: error, cause, begun }
  } finally {
    admitted.over()
  }
}

/** Does not include `upstream_refused_request`: other upstreams would refuse the request, too. */
const anotherMayHelp: ReadonlySet<Code> = new Set([
  'upstream_rate_limited',
  'upstream_rejected',
  'upstream_bad_response',
  'upstream_truncated',
  'upstream_unavailable',
  'upstream_timeout',
])

/** How long to wait before a retry, with jitter; null: no retry. */
function pauseBefore(
  error: GatewayError,
  cause: UpstreamCause,
  random: () => number,
): number | null {
  const backInSeconds = cause.backInSeconds ?? error.retryAfterSeconds
  if (backInSeconds === null) {
    return error.code === 'upstream_unavailable' ? BACKOFF_MS * (0.5 + random()) : null
  }
  const pauseMs = Math.max(0, backInSeconds) * 1000
  return pauseMs <= MAX_PAUSE_MS ? pauseMs + BACKOFF_MS * random() : null
}
