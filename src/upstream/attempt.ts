// One attempt at one upstream: all calls that the request needs there, as one sequence of deltas. The budget of each call is reserved before it and settled after it. Retries and fallbacks
// are in failover.ts.
import type { Lease } from '../budget/ledger.ts'
import type { Usage } from '../completion/completion.ts'
import type { Delta, TextDelta } from '../completion/delta.ts'
import type { Wait } from '../deadline.ts'
import type { Report } from '../events.ts'
import type { EffectiveRequest, Target } from '../request/effective.ts'
import { call } from './call.ts'
import { type PlannedCall, plan } from './calls.ts'
import type { Connection } from './connection.ts'
import { Echo } from './echo.ts'
import { type Extent, extentOf } from './extent.ts'
import { upstreamFailure } from './failure.ts'
import { gapStages } from './gap.ts'
import type { Hint } from './hints.ts'
import { type CallEnd, Normaliser, sumOf } from './normalise.ts'
import { runAll } from './run-all.ts'
import { StopCut } from './stop.ts'
import { type Stage, Trimmer } from './trimmer.ts'

export interface RouteContext {
  readonly requestId: string
  readonly connections: ReadonlyMap<string, Connection>
  /** The visitor requested a stream. */
  readonly stream: boolean
  readonly signal: AbortSignal
  readonly now: () => number
  /** 0 … 1, for jitter. */
  readonly random: () => number
  readonly wait: Wait
  readonly report: Report
  /** The most concurrent calls for one request. */
  readonly callsAtOnce: number
  /**
   * `stop`: a call cancelled by `signal` costs what it has written. Default: all that was reserved.
   * A call cancelled because another one of the request failed always costs what it has written.
   */
  readonly abandon?: 'finish' | 'stop'
  /** Called before every upstream call; throws if the call is not allowed. */
  readonly reserve: (extent: Extent, target: Target) => Promise<Omit<Lease, 'mayStore'>>
}

/** The upstream that answers. */
export interface Answered {
  readonly model: string
  readonly fingerprint: string | null
  readonly upstream: string
  /** The upstream's own name of the model. */
  readonly upstreamModel: string
  /** The upstream's id of the answer, if it looks like an id. */
  readonly upstreamId: string | null
  /** The upstream is not the first one that could answer. */
  readonly fallback: boolean
}

/** How an answer ended. */
export interface Ended {
  readonly usage: Usage | null
  readonly whole: boolean
}

/** @internal exported for its tests */
export type AnswerDelta = Extract<Delta, { kind: 'text' | 'finish' }>

/** Takes an answer as it arrives. */
export interface AnswerSink {
  /** Called once, before the first deltas. */
  readonly begin: (by: Answered) => void
  readonly push: (deltas: readonly AnswerDelta[]) => void
}

/** One attempt at one upstream. */
export interface Attempt {
  readonly request: EffectiveRequest
  readonly target: Target
  readonly connection: Connection
  /** In ms since the epoch. */
  readonly deadlineAt: number
  /** The upstream is not the first one that could answer. */
  readonly fallback: boolean
}

/**
 * Makes the calls of an attempt. Those that begin together are sent when each of them has its budget. If
 * one call fails, the others are cancelled.
 *
 * @throws GatewayError of the first call that failed, or the reason of the context's signal
 */
export async function attempt(
  params: Attempt,
  context: RouteContext,
  sink: AnswerSink,
): Promise<Ended> {
  const { request, target, connection } = params
  const calls = plan(request, {
    model: target.upstream_model,
    stream: connection.stream === 'always' || context.stream,
    unsupported: connection.unsupported,
  })
  const stopped = new AbortController()
  const signal =
    calls.length === 1 ? context.signal : AbortSignal.any([context.signal, stopped.signal])
  let begun = false
  const reserved = Promise.withResolvers<void>()
  let unreserved = Math.min(context.callsAtOnce, calls.length)
  const reserve: RouteContext['reserve'] = async (extent, target) => {
    const lease = await context.reserve(extent, target)
    unreserved -= 1
    if (unreserved === 0) reserved.resolve()
    await reserved.promise
    return lease
  }
  const works = calls.map((planned) => () => {
    const push: PushCallDeltas = (deltas, meta) => {
      if (!begun) sink.begin(answeredBy(params, meta))
      begun = true
      sink.push(placedAt(planned.firstIndex, deltas))
    }
    return makeCall(planned, params, { ...context, reserve }, signal, push)
  })
  const ends = await runAll(works, context.callsAtOnce, () => {
    stopped.abort()
    reserved.resolve()
  })
  const doubt = ends.find((end) => end.doubt !== null)?.doubt ?? null
  if (doubt !== null) {
    context.report({
      event: 'answer_not_stored',
      request_id: context.requestId,
      upstream: connection.name,
      reason: doubt,
      hint: doubt satisfies Hint,
    })
  }
  const usages = ends.map((end) => end.usage).filter((usage) => usage !== null)
  return { usage: usages.length === ends.length ? sumOf(usages) : null, whole: doubt === null }
}

function answeredBy({ target, connection, fallback }: Attempt, meta: Normaliser['meta']): Answered {
  return {
    model: meta.model ?? target.upstream_model,
    fingerprint: meta.fingerprint ?? null,
    upstream: connection.name,
    upstreamModel: target.upstream_model,
    upstreamId: meta.id !== undefined && /^[\w-]{1,128}$/.test(meta.id) ? meta.id : null,
    fallback,
  }
}

type PushCallDeltas = (deltas: readonly AnswerDelta[], meta: Normaliser['meta']) => void

/** Pushes the normalised deltas of one call. Reserves its budget before, and settles it after. */
async function makeCall(
  planned: PlannedCall,
  { request, target, connection, deadlineAt }: Attempt,
  { now, reserve, abandon, signal: left }: RouteContext,
  signal: AbortSignal,
  push: PushCallDeltas,
): Promise<CallEnd> {
  const wire = connection.upstream.toWire(planned.request, connection)
  const lease = await reserve(extentOf(wire, planned.request), target)
  const normaliser = new Normaliser({
    choices: planned.choices,
    perPrompt: planned.request.n,
    logprobs: request.logprobs !== undefined,
    echoed: planned.echoed,
    usageRequested: 'stream_options' in wire.body,
    maxTokens: planned.request.max_tokens,
  })
  const echo = new Echo(planned.echoes)
  const trimmer = new Trimmer(() => stagesOf(planned), planned.choices)
  const finished = (texts: readonly TextDelta[]) => texts.map((delta) => echo.add(delta))
  let usage: Usage | null = null
  const startedAt = now()
  try {
    signal.throwIfAborted()
    await call(wire, {
      ...connection,
      now,
      signal,
      deadlineAt,
      onAccepted: () => lease.accepted(),
      progress: () => normaliser.progress,
      push: (deltas) => {
        const texts: TextDelta[] = []
        try {
          for (const delta of deltas) normaliser.add(delta, texts)
        } finally {
          // The texts before a failure count, too.
          const kept = trimmer.add(texts)
          for (const { index } of texts) if (trimmer.isOver(index)) normaliser.stopped(index)
          if (kept.length > 0) push(finished(kept), normaliser.meta)
        }
      },
    })
    const end = normaliser.end()
    usage = end.usage
    if (end.missing !== null) {
      const hint: Hint = planned.request.n > 1 ? 'native_n' : 'prompt_array'
      throw upstreamFailure('bad_response', { code: 'missing_choice', hint })
    }
    const texts = finished([...trimmer.add(end.texts), ...trimmer.rest()])
    push([...texts, ...echo.rest(), ...end.finishes], normaliser.meta)
    return end
  } finally {
    const isStopped = signal.aborted && (abandon === 'stop' || !left.aborted)
    const ms = now() - startedAt
    const unwritten = isStopped ? unwrittenTokens(planned, normaliser.bytes, ms) : undefined
    // The echo of a prompt is not written by the model.
    const chars = Math.max(0, normaliser.text.length - planned.echoed.join('').length)
    lease.settle({ usage, chars, unwritten })
  }
}

/** What cuts text off each choice. A stop sequence in what an answer repeats of a gap does not count. */
function stagesOf({ gap, stops }: PlannedCall): readonly Stage[] {
  const gaps = gap === null ? [] : gapStages(gap)
  return stops.length > 0 ? [...gaps, new StopCut(stops)] : gaps
}

/** An upper estimate: most upstreams write a choice more slowly. */
const TOKENS_PER_MS = 0.25

/**
 * How many of its reserved output tokens a cancelled call cannot have written. What it has written
 * is estimated in two ways, and the larger number counts: by the bytes that arrived, since a token
 * is at least one byte, and by the time since its start, which covers reasoning that is not sent
 * and text in transit.
 */
function unwrittenTokens({ request }: PlannedCall, bytes: number, ms: number): number {
  const completions = request.prompts.length * Math.max(request.n, request.best_of ?? 1)
  const written = Math.max(bytes, Math.ceil(ms * TOKENS_PER_MS) * completions)
  return Math.max(0, request.max_tokens * completions - written)
}

function placedAt(firstIndex: number, deltas: readonly AnswerDelta[]): readonly AnswerDelta[] {
  if (firstIndex === 0) return deltas
  return deltas.map((delta) => ({ ...delta, index: delta.index + firstIndex }))
}
