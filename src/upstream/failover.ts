// Routes a request through the upstreams of its model: retries an upstream before the first byte,
// and falls back to the next one if that fails, too. Yields the answer's deltas, or throws the last
// failure.
import { type Code, GatewayError, messages } from '../errors.ts'
import type { EffectiveRequest, Target } from '../request/effective.ts'
import { attempt, type RouteContext, type RouteDelta } from './attempt.ts'
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
 * @param request its route has capable targets only
 * @throws GatewayError the failure of the last attempt
 */
export async function* answer(
  request: EffectiveRequest,
  context: RouteContext,
  trace: Trace,
): AsyncGenerator<readonly RouteDelta[]> {
  const { now } = context
  const targets = request.route
  let last: unknown = null
  let openSeconds = Number.POSITIVE_INFINITY
  const first = context.connections.get(targets[0]?.upstream ?? '')
  const deadlineAt = now() + (first?.deadlineMs ?? 0)
  for (const [position, target] of targets.entries()) {
    const connection = context.connections.get(target.upstream)
    if (connection === undefined) continue
    const breaker = connection.breakers.of(target.upstream_model)
    const isLast = position + 1 === targets.length
    let retriesLeft = connection.retries
    let tokensField =
      connection.tokensFields.get(target.upstream_model) ?? connection.maxTokensField
    let renamed = false
    for (;;) {
      const admitted = breaker.admit(now())
      if (admitted === null) {
        openSeconds = Math.min(openSeconds, breaker.retryAfterSeconds(now()))
        break
      }
      const before = trace.upstream
      trace.attempts += 1
      trace.upstream = connection.name
      let begun = false
      try {
        const params = {
          request,
          target,
          connection: { ...connection, maxTokensField: tokensField },
          // The upstream's own deadline, but not later than the request's.
          deadlineAt: Math.min(deadlineAt, now() + connection.deadlineMs),
          fallback: position > 0,
        }
        for await (const batch of attempt(params, context)) {
          for (const { kind } of batch) {
            if (kind === 'answered') {
              begun = true
              admitted.begun()
            }
            if (kind !== 'ended') continue
            // Before the yield, since a reader that has the end may not continue this generator.
            admitted.answered()
            if (renamed) connection.tokensFields.set(target.upstream_model, tokensField)
          }
          yield batch
        }
        return
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
        last = error
        if (isOutage(error, begun)) admitted.failed(now())
        else admitted.answered()
        const wanted =
          begun || renamed || cause.wantsField === tokensField ? undefined : cause.wantsField
        const mayRetry = !begun && retriesLeft > 0 && !breaker.isOpen(now())
        const pauseMs =
          wanted !== undefined ? 0 : mayRetry ? pauseBefore(error, cause, context.random) : null
        const leftMs = deadlineAt - now()
        const mayFallBack = !begun && !isLast && leftMs > 0 && anotherMayHelp.has(error.code)
        const mayRepeat = pauseMs !== null && pauseMs < leftMs
        const will = mayRepeat ? 'retry' : mayFallBack ? 'fall_back' : 'give_up'
        context.report({
          event: 'upstream_failed',
          request_id: context.requestId,
          upstream: connection.name,
          model: request.model,
          code: error.code,
          status: cause.status,
          reason: cause.code,
          hint: cause.hint,
          will,
        })
        if (will === 'give_up') throw error
        if (!mayRepeat) break
        if (wanted === undefined) {
          retriesLeft -= 1
          await context.wait(pauseMs, context.signal)
        } else {
          tokensField = wanted
          renamed = true
        }
      } finally {
        // If the reader returns early, only this runs.
        admitted.over()
      }
    }
  }
  if (last !== null) throw last
  throw new GatewayError('upstream_unavailable', messages.upstream_suspended, {
    retryAfterSeconds: Number.isFinite(openSeconds) ? openSeconds : null,
  })
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
