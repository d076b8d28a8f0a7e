// A request's way through its model's upstreams: attempts in order, a retry before the first byte,
// the next upstream when one fails. Ends with an answer's deltas or with the last failure.
import type { Usage } from '../completion/completion.ts'
import type { Delta } from '../completion/delta.ts'
import type { EffectiveRequest, Target } from '../completion/effective.ts'
import { type CallEnd, Normaliser } from '../completion/normal.ts'
import { type Code, GatewayError } from '../errors.ts'
import type { Report } from '../events.ts'
import type { Breaker } from './breaker.ts'
import { type CallOptions, call, type Send } from './call.ts'
import { type UpstreamCause, upstreamFailure } from './failure.ts'
import { merge } from './merge.ts'
import { missingFeature, type PlannedCall, plan } from './plan.ts'
import type { Feature, Upstream } from './upstream.ts'

/** An upstream ready to be asked. */
export interface Connection {
  readonly name: string
  readonly upstream: Upstream
  readonly send: Send
  readonly options: CallOptions
  readonly unsupported: ReadonlySet<Feature>
  /** False: it is asked to stream only when the visitor asked. */
  readonly alwaysStream: boolean
  readonly deadlineMs: number
  readonly retries: number
  readonly breaker: Breaker
}

/** A call that may cost money, from before it is made to its settling. */
export interface Lease {
  /** The upstream answered 2xx. */
  accepted(): void
  /** Called once, whatever happened. `seen` is text's lower bound; usage null where none arrived. */
  settle(end: { readonly usage: Usage | null; readonly chars: number }): void
}

export interface RouteContext {
  readonly requestId: string
  readonly connections: ReadonlyMap<string, Connection>
  /** The visitor asked for a stream. */
  readonly stream: boolean
  readonly signal: AbortSignal
  readonly now: () => number
  /** 0 … 1, for jitter. */
  readonly random: () => number
  readonly wait: (ms: number, signal: AbortSignal) => Promise<void>
  readonly report: Report
  /** Called for every upstream call before it is made; throws when it may not be. */
  readonly reserve: (call: PlannedCall, target: Target) => Promise<Lease>
}

/** Who answers; said once, before the first text. */
export interface Answered {
  readonly kind: 'answered'
  readonly model: string
  readonly fingerprint: string | null
  readonly upstream: string
  /** The upstream's own id of the answer, if it looks like one. */
  readonly upstreamId: string | null
  /** An upstream that is not the model's first. */
  readonly fallback: boolean
}

/** How an answer ended. */
export interface Ended {
  readonly kind: 'ended'
  readonly usage: Usage | null
  readonly whole: boolean
}

export type RouteDelta = Answered | Ended | Extract<Delta, { kind: 'text' | 'finish' }>

/** Counts every attempt, for the log. */
export interface Trace {
  attempts: number
  upstream: string | null
}

/** Calls at once for one request. */
const CALLS_AT_ONCE = 6
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
    `Cannot use "${first.param}": the model behind "${request.model}" does not support ${first.feature}`,
    { param: first.param },
  )
}

/** @throws GatewayError the last attempt's failure. */
export async function* answer(
  request: EffectiveRequest,
  context: RouteContext,
  trace: Trace,
): AsyncGenerator<readonly RouteDelta[]> {
  const targets = capableTargets(request, context.connections)
  let last: unknown = upstreamFailure('unavailable')
  const first = context.connections.get(targets[0]?.upstream ?? '')
  const deadlineAt = context.now() + (first?.deadlineMs ?? 0)
  for (const [position, target] of targets.entries()) {
    const connection = context.connections.get(target.upstream)
    if (connection === undefined) continue
    const more = position + 1 < targets.length
    for (let retriesLeft = connection.retries; ; retriesLeft--) {
      if (!connection.breaker.allows(context.now())) break
      trace.attempts += 1
      trace.upstream = connection.name
      const progress = { begun: false }
      try {
        yield* attempt(request, target, connection, context, deadlineAt, progress)
        connection.breaker.succeeded()
        return
      } catch (error) {
        last = error
        judge(connection.breaker, error, context)
        const pauseMs =
          progress.begun || retriesLeft === 0 ? null : pauseBefore(error, context.random)
        const next = nextStep(error, progress.begun, pauseMs, more, context, deadlineAt)
        reportFailure(error, connection.name, next, context)
        if (next === 'give_up') throw error
        if (next === 'fall_back' || pauseMs === null) break
        await context.wait(pauseMs, context.signal)
      } finally {
        // A reader that leaves in the middle ends up here alone.
        connection.breaker.undecided()
      }
    }
  }
  throw last
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
  if (error.code === 'upstream_unavailable') return BACKOFF_MS * (0.5 + random())
  if (error.code !== 'upstream_rate_limited') return null
  const askedMs = (error.retryAfterSeconds ?? Number.POSITIVE_INFINITY) * 1000
  return askedMs <= PATIENCE_MS ? askedMs + BACKOFF_MS * random() : null
}

function judge(breaker: Breaker, error: unknown, { signal, now }: RouteContext): void {
  const code = error instanceof GatewayError ? error.code : null
  if (!signal.aborted && code !== null && anotherMayHelp.has(code)) breaker.failed(now())
}

function reportFailure(error: unknown, upstream: string, will: Next, context: RouteContext): void {
  if (!(error instanceof GatewayError) || context.signal.aborted) return
  const { status = null, code = null, hint = null } = (error.cause ?? {}) as Partial<UpstreamCause>
  context.report({
    event: 'upstream_failed',
    request_id: context.requestId,
    upstream,
    code: error.code,
    status,
    reason: code,
    hint,
    will,
  })
}

/** All calls of one attempt as one sequence. Ends the others when one fails. */
async function* attempt(
  request: EffectiveRequest,
  target: Target,
  connection: Connection,
  context: RouteContext,
  deadlineAt: number,
  progress: { begun: boolean },
): AsyncGenerator<readonly RouteDelta[]> {
  const calls = plan(request, {
    model: target.upstream_model,
    stream: connection.alwaysStream || context.stream,
    unsupported: connection.unsupported,
  })
  const controller = new AbortController()
  const leave = () => controller.abort(context.signal.reason)
  context.signal.addEventListener('abort', leave, { once: true })
  if (context.signal.aborted) leave()
  const ends: CallEnd[] = []
  const begin = (meta: Normaliser['meta']): Answered => {
    progress.begun = true
    return {
      kind: 'answered',
      model: meta.model ?? target.upstream_model,
      fingerprint: meta.fingerprint ?? null,
      upstream: connection.name,
      upstreamId: meta.id !== undefined && /^[\w-]{1,128}$/.test(meta.id) ? meta.id : null,
      fallback: target !== request.route[0],
    }
  }
  try {
    const starts = calls.map(
      (planned) => () =>
        callDeltas(planned, request, target, connection, context, deadlineAt, controller.signal),
    )
    for await (const [sequence, item] of merge(starts, CALLS_AT_ONCE, () => controller.abort())) {
      const answered = progress.begun ? [] : [begin(item.meta)]
      if (item.end !== null) ends.push(item.end)
      yield [...answered, ...placed(item.deltas, calls[sequence]?.firstIndex ?? 0)]
    }
    yield [endOf(ends)]
  } finally {
    controller.abort()
    context.signal.removeEventListener('abort', leave)
  }
}

interface CallItem {
  readonly meta: Normaliser['meta']
  readonly deltas: readonly Extract<Delta, { kind: 'text' | 'finish' }>[]
  readonly end: CallEnd | null
}

/** One call's clean deltas, its money reserved before and settled after. */
async function* callDeltas(
  planned: PlannedCall,
  request: EffectiveRequest,
  target: Target,
  { upstream, send, options }: Connection,
  { now, reserve }: RouteContext,
  deadlineAt: number,
  signal: AbortSignal,
): AsyncGenerator<CallItem> {
  const lease = await reserve(planned, target)
  const normaliser = new Normaliser({
    choices: planned.choices,
    perPrompt: planned.request.n,
    logprobs: request.logprobs !== undefined,
  })
  const echoes = new Map(planned.echoes.entries())
  let usage: Usage | null = null
  let chars = 0
  try {
    signal.throwIfAborted()
    const context = {
      upstream,
      send,
      options,
      now,
      signal,
      deadlineAt,
      onAccepted: () => lease.accepted(),
    }
    for await (const batch of call(planned.request, context)) {
      const deltas: Extract<Delta, { kind: 'text' }>[] = []
      for (const raw of batch) {
        const delta = normaliser.add(raw)
        if (delta === null) continue
        chars += delta.text.length
        deltas.push(withEcho(delta, echoes))
      }
      if (deltas.length > 0) yield { meta: normaliser.meta, deltas, end: null }
    }
    const end = normaliser.end()
    usage = end.usage
    const unsaid = [...echoes].map(
      ([index, text]) => ({ kind: 'text', index, text, logprobs: null }) as const,
    )
    yield { meta: normaliser.meta, deltas: [...unsaid, ...end.finishes], end }
  } finally {
    lease.settle({ usage, chars })
  }
}

/** The prompt before a choice's first text, where the upstream cannot echo it. */
function withEcho(
  delta: Extract<Delta, { kind: 'text' }>,
  echoes: Map<number, string>,
): Extract<Delta, { kind: 'text' }> {
  const echo = echoes.get(delta.index)
  if (echo === undefined) return delta
  echoes.delete(delta.index)
  return { ...delta, text: echo + delta.text }
}

function placed(deltas: CallItem['deltas'], firstIndex: number): CallItem['deltas'] {
  if (firstIndex === 0) return deltas
  return deltas.map((delta) => ({ ...delta, index: delta.index + firstIndex }))
}

/** The calls' usage added up; null as soon as one of them gave none. */
function endOf(ends: readonly CallEnd[]): Ended {
  const total = { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 }
  let complete = true
  for (const { usage } of ends) {
    if (usage === null) complete = false
    total.prompt_tokens += usage?.prompt_tokens ?? 0
    total.completion_tokens += usage?.completion_tokens ?? 0
    total.total_tokens += usage?.total_tokens ?? 0
  }
  const usage = ends.length === 1 ? (ends[0]?.usage ?? null) : complete ? total : null
  return { kind: 'ended', usage, whole: ends.every(({ whole }) => whole) }
}
