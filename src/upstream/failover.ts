// Routes a request through the upstreams of its model: retries an upstream before the first byte,
// and falls back to the next one if that fails, too. Yields the answer's deltas, or throws the last
// failure.
import { type Code, GatewayError, messages } from '../errors.ts'
import type { EffectiveRequest, Target } from '../request/effective.ts'
import type { Feature, WireOptions } from './adapter.ts'
import { attempt, type Connection, type RouteContext, type RouteDelta } from './attempt.ts'
import type { AdmittedCall } from './breaker.ts'
import { missingFeature } from './calls.ts'
import { causeOf, isOutage } from './failure.ts'

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
    `Cannot use "${first.param}": the model behind "${request.model}" does not support ${featureNames[first.feature]}`,
    { param: first.param },
  )
}

/** The features as described to visitors. */
const featureNames: Readonly<Record<Feature, string>> = {
  token_prompts: 'token prompts',
  prompt_array: 'several prompts',
  n: 'several choices',
  best_of: 'choosing the best of several answers',
  echo: 'log probabilities of an echoed prompt, or the echo of a token prompt',
  logprobs: 'log probabilities',
  suffix: 'a text that follows the answer',
  logit_bias: 'a bias for tokens',
  seed: 'a seed',
  stop: 'stop sequences',
  blank_stop: 'stop sequences that are only white space',
  temperature: 'a temperature',
  temperature_above_1: 'a temperature above 1',
  top_p: 'nucleus sampling',
  presence_penalty: 'a presence penalty',
  frequency_penalty: 'a frequency penalty',
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
  const targets = request.route
  let last: unknown = null
  let openSeconds = Number.POSITIVE_INFINITY
  const first = context.connections.get(targets[0]?.upstream ?? '')
  const deadlineAt = context.now() + (first?.deadlineMs ?? 0)
  for (const [position, target] of targets.entries()) {
    const connection = context.connections.get(target.upstream)
    if (connection === undefined) continue
    const { breakers, deadlineMs } = connection
    const breaker = breakers.of(target.upstream_model)
    const more = position + 1 < targets.length
    const fallback = target !== targets[0]
    let retriesLeft = connection.retries
    let tokensField = fieldFor(connection, target)
    let renamed = false
    for (;;) {
      const admitted = breaker.admit(context.now())
      if (admitted === null) {
        openSeconds = Math.min(openSeconds, breaker.retryAfterSeconds(context.now()))
        break
      }
      const before = trace.upstream
      trace.attempts += 1
      trace.upstream = connection.name
      const progress = { begun: false }
      try {
        const params = {
          request,
          target,
          connection: withField(connection, tokensField),
          // The upstream's own deadline, but not later than the request's.
          deadlineAt: Math.min(deadlineAt, context.now() + deadlineMs),
          fallback,
        }
        for await (const batch of attempt(params, context, progress)) {
          for (const { kind } of batch) {
            if (kind === 'answered') admitted.begun()
            if (kind !== 'ended') continue
            // Before the yield, since a reader that has the end may not continue this generator.
            admitted.answered()
            if (renamed) learnField(connection, target, tokensField)
          }
          yield batch
        }
        return
      } catch (error) {
        if (!isUpstreamFailure(error)) {
          // The call was never made, for example because the budget is exhausted.
          trace.attempts -= 1
          trace.upstream = before
          throw error
        }
        last = error
        judge(admitted, error, progress.begun, context)
        const wanted = progress.begun || renamed ? undefined : wantedField(error, tokensField)
        const pauseMs =
          wanted !== undefined
            ? 0
            : progress.begun || retriesLeft === 0 || breaker.isOpen(context.now())
              ? null
              : pauseBefore(error, context.random)
        const next = nextStep(error, progress.begun, pauseMs, more, context, deadlineAt)
        reportFailure(error, request.model, connection.name, next, context)
        if (next === 'give_up') throw error
        if (next === 'fall_back' || pauseMs === null) break
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
  throw last ?? notCalled(openSeconds)
}

/** The failure if the breakers of all targets are open. */
function notCalled(retryAfterSeconds: number): GatewayError {
  return new GatewayError('upstream_unavailable', messages.upstream_suspended, {
    retryAfterSeconds: Number.isFinite(retryAfterSeconds) ? retryAfterSeconds : null,
  })
}

type TokensField = WireOptions['maxTokensField']

/**
 * Each model's name for `max_tokens`, if it differs from its upstream's setting. It is learned from
 * a refusal and stored in this isolate once the other name has worked.
 */
const learned = new WeakMap<WireOptions, Map<string, TokensField>>()

function fieldFor({ options }: Connection, { upstream_model }: Target): TokensField {
  return learned.get(options)?.get(upstream_model) ?? options.maxTokensField
}

function learnField({ options }: Connection, { upstream_model }: Target, field: TokensField): void {
  const fields = learned.get(options) ?? new Map<string, TokensField>()
  learned.set(options, fields.set(upstream_model, field))
}

function withField(connection: Connection, maxTokensField: TokensField): Connection {
  const { options } = connection
  if (maxTokensField === options.maxTokensField) return connection
  return { ...connection, options: { ...options, maxTokensField } }
}

/** The name to try instead of the one just refused. */
function wantedField(error: unknown, used: TokensField): TokensField | undefined {
  const wantsField = causeOf(error)?.wantsField
  return wantsField === used ? undefined : wantsField
}

/**
 * False for the gateway's own errors, such as an exhausted budget: another upstream cannot help.
 */
function isUpstreamFailure(error: unknown): boolean {
  return !(error instanceof GatewayError) || error.code.startsWith('upstream_')
}

type Next = 'retry' | 'fall_back' | 'give_up'

function nextStep(
  error: unknown,
  begun: boolean,
  pauseMs: number | null,
  more: boolean,
  context: RouteContext,
  deadlineAt: number,
): Next {
  if (begun || context.signal.aborted || !(error instanceof GatewayError)) return 'give_up'
  const leftMs = deadlineAt - context.now()
  if (pauseMs !== null && pauseMs < leftMs) return 'retry'
  return more && leftMs > 0 && anotherMayHelp.has(error.code) ? 'fall_back' : 'give_up'
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
function pauseBefore(error: unknown, random: () => number): number | null {
  if (!(error instanceof GatewayError)) return null
  const backInSeconds = causeOf(error)?.backInSeconds
  if (error.code === 'upstream_unavailable' && backInSeconds === undefined) {
    return BACKOFF_MS * (0.5 + random())
  }
  const retryAfterS = backInSeconds ?? error.retryAfterSeconds
  if (retryAfterS === null) return null
  const pauseMs = Math.max(0, retryAfterS) * 1000
  return pauseMs <= MAX_PAUSE_MS ? pauseMs + BACKOFF_MS * random() : null
}

/** Reports a failed attempt to the breaker, unless the visitor has disconnected. */
function judge(
  admitted: AdmittedCall,
  error: unknown,
  begun: boolean,
  { signal, now }: RouteContext,
): void {
  if (signal.aborted || !(error instanceof GatewayError)) return
  if (isOutage(error, begun)) admitted.failed(now())
  else admitted.answered()
}

function reportFailure(
  error: unknown,
  model: string,
  upstream: string,
  will: Next,
  context: RouteContext,
): void {
  const cause = causeOf(error)
  if (!(error instanceof GatewayError) || cause === null || context.signal.aborted) return
  context.report({
    event: 'upstream_failed',
    request_id: context.requestId,
    upstream,
    model,
    code: error.code,
    status: cause.status,
    reason: cause.code,
    hint: cause.hint,
    will,
  })
}
