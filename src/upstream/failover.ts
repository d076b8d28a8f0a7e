// A request's way through its model's upstreams: attempts in order, a retry before the first byte,
// the next upstream when one fails. Ends with an answer's deltas or with the last failure.

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

/** A `Retry-After` that a visitor can be made to wait for. */
const PATIENCE_MS = 2000
const BACKOFF_MS = 250

/**
 * The targets that can do what the request needs, in order.
 *
 * @throws GatewayError `unsupported_by_upstream`, naming the field, when none can.
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

/** For visitors, who do not know our names of them. */
const featureNames: Readonly<Record<Feature, string>> = {
  token_prompts: 'prompts of tokens',
  prompt_array: 'several prompts',
  n: 'several choices',
  best_of: 'choosing the best of several answers',
  echo: 'log probabilities of an echoed prompt, or the echo of a prompt of tokens',
  logprobs: 'log probabilities',
  suffix: 'a text that follows the answer',
  logit_bias: 'a bias for tokens',
  seed: 'a seed',
  stop: 'stop sequences',
  blank_stop: 'stop sequences of white space alone',
  temperature: 'a temperature',
  temperature_above_1: 'a temperature above 1',
  top_p: 'nucleus sampling',
  presence_penalty: 'a presence penalty',
  frequency_penalty: 'a frequency penalty',
}

/** @throws GatewayError the last attempt's failure. */
export async function* answer(
  request: EffectiveRequest,
  context: RouteContext,
  trace: Trace,
): AsyncGenerator<readonly RouteDelta[]> {
  const targets = capableTargets(request, context.connections)
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
        const asked = {
          request,
          target,
          connection: withField(connection, tokensField),
          // Its own time, within the visitor's.
          deadlineAt: Math.min(deadlineAt, context.now() + deadlineMs),
          fallback,
        }
        for await (const batch of attempt(asked, context, progress)) {
          for (const { kind } of batch) {
            if (kind === 'answered') admitted.begun()
            if (kind !== 'ended') continue
            // Now, since a reader that has the end does not come back for more.
            admitted.answered()
            if (renamed) storeInMemory(connection, target, tokensField)
          }
          yield batch
        }
        return
      } catch (error) {
        if (isOurs(error)) {
          // It was never made: the budget refused it.
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
        // A reader that leaves in the middle ends up here alone.
        admitted.over()
      }
    }
  }
  throw last ?? notCalled(openSeconds)
}

/** Every breaker on the way is open. */
function notCalled(retryAfterSeconds: number): GatewayError {
  return new GatewayError('upstream_unavailable', messages.upstream_suspended, {
    retryAfterSeconds: Number.isFinite(retryAfterSeconds) ? retryAfterSeconds : null,
  })
}

type TokensField = WireOptions['maxTokensField']

/**
 * Under which name a model takes the most tokens, where that is not what its upstream is set to:
 * learned from a refusal, and kept in this isolate once the other name has worked.
 */
const learned = new WeakMap<WireOptions, Map<string, TokensField>>()

function fieldFor({ options }: Connection, { upstream_model }: Target): TokensField {
  return learned.get(options)?.get(upstream_model) ?? options.maxTokensField
}

function storeInMemory(
  { options }: Connection,
  { upstream_model }: Target,
  field: TokensField,
): void {
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

/** A failure of this house's, which no other upstream would mend. */
function isOurs(error: unknown): boolean {
  return error instanceof GatewayError && !error.code.startsWith('upstream_')
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

/** Not the visitor's own 400: every upstream would refuse it, and each would cost. */
const anotherMayHelp: ReadonlySet<Code> = new Set([
  'upstream_rate_limited',
  'upstream_rejected',
  'upstream_bad_response',
  'upstream_truncated',
  'upstream_unavailable',
  'upstream_timeout',
])

/** How long to wait before asking the same upstream again; null: do not. Jittered. */
function pauseBefore(error: unknown, random: () => number): number | null {
  if (!(error instanceof GatewayError)) return null
  const backInSeconds = causeOf(error)?.backInSeconds
  if (error.code === 'upstream_unavailable' && backInSeconds === undefined) {
    return BACKOFF_MS * (0.5 + random())
  }
  const askedS = backInSeconds ?? error.retryAfterSeconds
  if (askedS === null) return null
  const askedMs = Math.max(0, askedS) * 1000
  return askedMs <= PATIENCE_MS ? askedMs + BACKOFF_MS * random() : null
}

/** What a failed attempt says about the upstream; nothing if its visitor has left. */
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
