// Generates the answer to a miss: calls the upstreams, adds id and usage, and stores the complete
// answer. Pushes normalised deltas as they arrive. All dependencies are passed in.
import { createEntry, type Entry, isFresh, isWorthStoring, type Source } from '../cache/entry.ts'
import type { Cite } from '../completion/cites.ts'
import { estimateTokens, type Usage } from '../completion/completion.ts'
import { type Delta, Fold, type FoldedAnswer, replay } from '../completion/delta.ts'
import type { PageVersion } from '../page/store.ts'
import { isTokens, textOf } from '../request/conversation.ts'
import type { EffectiveRequest } from '../request/effective.ts'
import type { Answered, RouteContext } from '../upstream/attempt.ts'
import { answer, type Trace } from '../upstream/failover.ts'

/** Whether a call is finished and stored after its last reader has left, or cancelled. */
export type Abandon = 'finish' | 'stop'

/** A completion to generate. */
export interface Work {
  readonly request: EffectiveRequest
  /** The cache key of the request that is sent upstream. */
  readonly key: string
  /** The key the answer is stored under: its cache key, or that of the prompt's last answer. */
  readonly storedUnder: string
  /** For a last answer, what it is generated from besides `key`; null: an ordinary answer. */
  readonly source: { readonly recipe: string; readonly pages: readonly PageVersion[] } | null
  /** The names the answer can be purged by (cache/names.ts). */
  readonly names: readonly string[]
  /** The passages of the owner's site that it is made from; null: its prompt has none. */
  readonly cites: readonly Cite[] | null
  /** When it was requested, in unix ms: before any page was read for it. */
  readonly requestedAt: number
  /** How long the answer may be stored; null: it is not stored. */
  readonly lifetime: { readonly freshSeconds: number; readonly staleSeconds: number } | null
  /** Whether the call is finished after its last reader has left. A refresh is always finished. */
  readonly abandon: Abandon
  /** The operator's `no-cache`: generate a new answer even if one is stored. */
  readonly forced: boolean
  /** The id of the leader's request. */
  readonly requestId: string
  /** The visitor whose limits apply; null: the operator, who has none. */
  readonly visitor: string | null
  /** The origin of the page; null: not a page's request. */
  readonly origin: string | null
}

export interface GenerateContext {
  readonly route: RouteContext
  readonly newId: () => string
  /**
   * Reads KV once more before money is spent: another isolate may have stored the answer, and KV is
   * eventually consistent. Null if no newer value can be expected.
   */
  readonly recheckKv: ((work: Work) => Promise<Entry | null>) | null
  /** Stores a complete answer; returns false if it is not written to KV. */
  readonly store: (entry: Entry) => boolean
  /** Stores a copy of an answer that is stored under another key. */
  readonly storeCopy: (entry: Entry) => void
}

/** The outcome of a generation; filled in while it runs. */
export interface Outcome extends Trace {
  /** The complete answer. */
  folded: FoldedAnswer | null
  /** The entry of a complete answer that may be stored. */
  entry: Entry | null
  /** The entry was found in KV, and no upstream was called. */
  found: boolean
  stored: boolean
  usage: Usage | null
}

export function newOutcome(): Outcome {
  const nothing = { upstream: null, folded: null, entry: null, usage: null }
  return { ...nothing, attempts: 0, found: false, stored: false }
}

/**
 * Pushes deltas as they arrive. The head comes first and the usage last.
 *
 * @throws GatewayError before or after the first text
 */
export async function generate(
  work: Work,
  context: GenerateContext,
  outcome: Outcome,
  push: (deltas: readonly Delta[]) => void,
): Promise<void> {
  const { request } = work
  const entry = work.forced ? null : await context.recheckKv?.(work)
  if (entry && isFresh(entry, context.route.now())) {
    const own = entryFor(work, entry)
    if (own.key !== entry.key) context.storeCopy(own)
    Object.assign(outcome, { folded: entry, entry: own, found: true, stored: true })
    push(replay(entry))
    return
  }
  const { now } = context.route
  const startedAt = now()
  const startedAtS = Math.floor(startedAt / 1000)
  let firstMs = 0
  const fold = new Fold()
  let answered: Answered | null = null
  /** Pushed with the first text, which would have to wait otherwise (flight.ts, `GATHER_MS`). */
  const head: Delta[] = []
  const { usage, whole } = await answer(request, context.route, outcome, {
    begin: (by) => {
      answered = by
      firstMs = now() - startedAt
      head.push(headOf(by, context.newId(), startedAtS))
    },
    push: (deltas) => {
      const all = [...head.splice(0), ...deltas]
      for (const delta of all) fold.add(delta)
      push(all)
    },
  })
  outcome.usage = usage ?? estimate(request, fold.text)
  fold.add({ kind: 'usage', usage: outcome.usage, estimated: usage === null })
  outcome.folded = fold.folded()
  const isFallback = (answered as Answered | null)?.fallback ?? false
  outcome.entry = whole ? entryOf(work, outcome.folded, isFallback, startedAtS) : null
  outcome.stored = outcome.entry !== null && context.store(outcome.entry)
  reportGenerated(work, context, outcome, answered, firstMs, now() - startedAt)
  push([{ kind: 'usage', usage: outcome.usage, estimated: usage === null }])
}

/**
 * Another request's entry as this work's own: the upstream was sent exactly what it would be sent
 * now. It keeps its own `requested_at`, so that a purge since then still applies to it.
 */
export function entryFor(work: Work, entry: Entry): Entry {
  const { key, storedUnder, source, names, requestedAt } = work
  if (source === null) return entry
  return {
    ...entry,
    key: storedUnder,
    names: [...names],
    confirmed_at: requestedAt,
    source: sourceOf(key, source),
  }
}

function reportGenerated(
  { requestId, request, origin }: Work,
  { route }: GenerateContext,
  { usage, stored }: Outcome,
  answered: Answered | null,
  firstMs: number,
  ms: number,
): void {
  route.report({
    event: 'generated',
    request_id: requestId,
    upstream: answered?.upstream ?? '',
    model: request.model,
    upstream_model: answered?.upstreamModel ?? '',
    upstream_id: answered?.upstreamId ?? null,
    prompt_id: request.prompt_id,
    origin,
    first_ms: firstMs,
    ms,
    tokens_in: usage?.prompt_tokens ?? 0,
    tokens_out: usage?.completion_tokens ?? 0,
    stored,
  })
}

function headOf({ model, fingerprint }: Answered, id: string, created: number): Delta {
  const head = { id, created, model }
  return {
    kind: 'head',
    head: fingerprint === null ? head : { ...head, system_fingerprint: fingerprint },
  }
}

function entryOf(
  { key, storedUnder, source, names, cites, requestedAt, lifetime }: Work,
  folded: FoldedAnswer | null,
  isFallback: boolean,
  nowS: number,
): Entry | null {
  if (lifetime === null || folded === null || !isWorthStoring(folded.completion)) return null
  const times = { ...lifetime, requestedAt, nowS, isFallback }
  const from = source === null ? null : sourceOf(key, source)
  const owner = { key: storedUnder, names, source: from, cites }
  return createEntry(folded, owner, times)
}

function sourceOf(key: string, { recipe, pages }: NonNullable<Work['source']>): Source {
  return { key, recipe, pages: [...pages] }
}

/** The usage if the upstream reports none. Token prompts have a known length. */
function estimate(request: EffectiveRequest, written: string): Usage {
  const around = estimateTokens(request.system ?? '') + estimateTokens(request.suffix ?? '')
  let prompt_tokens = around
  for (const prompt of request.prompts) {
    const isList = typeof prompt !== 'string' && isTokens(prompt)
    prompt_tokens += isList ? prompt.length : estimateTokens(textOf(prompt))
  }
  // An echo repeats the prompt and is not generated.
  const echoed = request.echo === true ? request.n * (prompt_tokens - around) : 0
  const completion_tokens = Math.max(0, estimateTokens(written) - echoed)
  return { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
}
