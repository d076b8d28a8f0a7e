// One go at one upstream: the calls a request becomes there, as one sequence of deltas, each with its
// money reserved before and settled after. Does not retry and knows no other upstream: route.ts does.
import type { Usage } from '../completion/completion.ts'
import type { Delta, RawDelta } from '../completion/delta.ts'
import type { GatewayError } from '../errors.ts'
import type { NotStoredReason, Report } from '../events.ts'
import type { EffectiveRequest, Target } from '../request/effective.ts'
import type { Feature, Upstream } from './adapter.ts'
import type { Breakers } from './breaker.ts'
import { type CallOptions, call, type Send } from './call.ts'
import { type PlannedCall, plan } from './calls.ts'
import { Echo, EchoCheck } from './echo.ts'
import { type Extent, extentOf } from './extent.ts'
import { upstreamFailure } from './failure.ts'
import { hintOfMissingChoice, hintsByDoubt } from './hints.ts'
import { merge } from './merge.ts'
import { Normaliser } from './normalise.ts'

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
  readonly breakers: Breakers
}

/** A call that may cost money, from before it is made to its settling. */
export interface Lease {
  /** The upstream answered 2xx. */
  accepted(): void
  /**
   * Called once, whatever happened. `chars` were seen; usage null where none arrived. `unwritten` of the
   * tokens that it might have written it has not written, as it was cancelled; left out: unknown.
   */
  settle(end: {
    readonly usage: Usage | null
    readonly chars: number
    readonly unwritten?: number | undefined
  }): void
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
  /** Calls at once for one request. */
  readonly callsAtOnce: number
  /** `stop`: a call that `signal` cancels costs what was seen of it. Left out: all that was reserved. */
  readonly abandon?: 'finish' | 'stop'
  /** Called for every upstream call before it is made; throws when it may not be. */
  readonly reserve: (extent: Extent, target: Target) => Promise<Lease>
}

/** Who answers; said once, before the first text. */
export interface Answered {
  readonly kind: 'answered'
  readonly model: string
  readonly fingerprint: string | null
  readonly upstream: string
  /** The upstream's own name of the model that was asked. */
  readonly upstreamModel: string
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

/** One go at one upstream. */
export interface Attempt {
  readonly request: EffectiveRequest
  readonly target: Target
  readonly connection: Connection
  /** In ms since the epoch. */
  readonly deadlineAt: number
  /** The upstream is not the first that could do it. */
  readonly fallback: boolean
}

/** All calls of one attempt as one sequence. Ends the others when one fails. */
export async function* attempt(
  asked: Attempt,
  context: RouteContext,
  progress: { begun: boolean },
): AsyncGenerator<readonly RouteDelta[]> {
  const { request, target, connection, fallback } = asked
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
      upstreamModel: target.upstream_model,
      upstreamId: meta.id !== undefined && /^[\w-]{1,128}$/.test(meta.id) ? meta.id : null,
      fallback,
    }
  }
  try {
    const starts = calls.map(
      (planned) => () => callDeltas(planned, asked, context, controller.signal),
    )
    for await (const [sequence, item] of merge(starts, context.callsAtOnce, () =>
      controller.abort(),
    )) {
      const answered = progress.begun ? [] : [begin(item.meta)]
      if (item.end !== null) ends.push(item.end)
      yield [...answered, ...placed(item.deltas, calls[sequence]?.firstIndex ?? 0)]
    }
    const doubt = ends.find((end) => end.doubt !== null)?.doubt ?? null
    if (doubt !== null) {
      context.report({
        event: 'answer_not_stored',
        request_id: context.requestId,
        upstream: connection.name,
        reason: doubt,
        hint: hintsByDoubt[doubt],
      })
    }
    yield [endOf(ends)]
  } finally {
    context.signal.removeEventListener('abort', leave)
  }
}

interface CallEnd {
  readonly usage: Usage | null
  readonly doubt: NotStoredReason | null
}

interface CallItem {
  readonly meta: Normaliser['meta']
  readonly deltas: readonly Extract<Delta, { kind: 'text' | 'finish' }>[]
  readonly end: CallEnd | null
}

/** One call's clean deltas, its money reserved before and settled after. */
async function* callDeltas(
  planned: PlannedCall,
  { request, target, connection, deadlineAt }: Attempt,
  { now, reserve, abandon, signal: left }: RouteContext,
  signal: AbortSignal,
): AsyncGenerator<CallItem> {
  const { upstream, send, options } = connection
  const wire = upstream.toWire(planned.request, options)
  const lease = await reserve(extentOf(wire, planned.request), target)
  const normaliser = new Normaliser({
    choices: planned.choices,
    perPrompt: planned.request.n,
    logprobs: request.logprobs !== undefined,
  })
  const echo = new Echo(planned.echoes)
  const check = new EchoCheck(planned.echoed)
  let usage: Usage | null = null
  let chars = 0
  /** Of all that was seen, the text included. */
  let bytes = 0
  const startedAt = now()
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
      progress: () => normaliser.progress,
    }
    const said = (delta: TextDelta) => {
      chars += delta.text.length
      if (abandon === 'stop') bytes += new TextEncoder().encode(delta.text).length
      check.see(delta)
      return echo.add(delta)
    }
    for await (const batch of call(wire, context)) {
      for (const raw of batch) if (raw.kind === 'hidden') bytes += raw.bytes
      const { texts, failure } = normalised(batch, normaliser)
      const deltas = texts.map(said)
      if (deltas.length > 0) yield { meta: normaliser.meta, deltas, end: null }
      if (failure !== null) throw failure
    }
    const { texts, finishes, missing, ...end } = normaliser.end()
    usage = end.usage
    if (missing !== null) throw missingChoice(planned)
    const deltas = [...texts.map(said), ...echo.rest(), ...finishes]
    const doubt = end.doubt ?? (check.hasCome ? null : 'no_echo')
    yield { meta: normaliser.meta, deltas, end: { usage, doubt } }
  } finally {
    const isStopped = abandon === 'stop' && left.aborted
    const unwritten = isStopped ? unwrittenTokens(planned, bytes, now() - startedAt) : undefined
    lease.settle({ usage, chars, unwritten })
  }
}

/** Faster than most upstreams write one choice. */
const TOKENS_PER_MS = 0.25

/**
 * What a cancelled call has not written of the tokens it reserved. It has written what was seen, and a
 * token is never less than a byte; and what was not seen, such as reasoning that is not sent and what was
 * on its way, in the time since it began.
 */
function unwrittenTokens({ request }: PlannedCall, bytes: number, ms: number): number {
  const completions = request.prompts.length * Math.max(request.n, request.best_of ?? 1)
  const written = Math.max(bytes, Math.ceil(ms * TOKENS_PER_MS) * completions)
  return Math.max(0, request.max_tokens * completions - written)
}

type TextDelta = Extract<Delta, { kind: 'text' }>

/** A batch made clean: its text, and what went wrong after that. */
function normalised(batch: readonly RawDelta[], normaliser: Normaliser) {
  const texts: TextDelta[] = []
  try {
    for (const raw of batch) normaliser.add(raw, texts)
    return { texts, failure: null }
  } catch (failure) {
    return { texts, failure }
  }
}

/** Fewer choices than one call asked for: the upstream does not take several in one call. */
function missingChoice({ request }: PlannedCall): GatewayError {
  const hint = hintOfMissingChoice(request.n > 1 ? 'n' : 'prompt_array')
  return upstreamFailure('bad_response', { code: 'missing_choice', hint })
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
  return { kind: 'ended', usage, whole: ends.every(({ doubt }) => doubt === null) }
}
