// The one story of a miss: the upstreams are asked, the answer gets its head, its usage and its
// place in the cache. Yields clean deltas as they come. Everything it needs is handed to it.
import { createEntry, type Entry, isWhole } from './cache/entry.ts'
import { estimateTokens, type Usage } from './completion/completion.ts'
import { type Delta, Fold } from './completion/delta.ts'
import type { EffectiveRequest } from './completion/effective.ts'
import { type Answered, answer, type RouteContext, type Trace } from './upstream/route.ts'

/** A miss to be answered. */
export interface Work {
  readonly request: EffectiveRequest
  readonly key: string
  /** How long the answer may be kept; null: it is not kept. */
  readonly keep: { readonly freshSeconds: number; readonly staleSeconds: number } | null
}

export interface GenerateContext {
  readonly route: RouteContext
  readonly newId: () => string
  /** Takes a whole answer; false when it will not be kept. */
  readonly store: (entry: Entry) => boolean
}

/** What became of a miss; filled in while it runs. */
export interface Outcome extends Trace {
  stored: boolean
  usage: Usage | null
}

/** Another upstream's answer is a stopgap. */
const FALLBACK_FRESH_S = 300

/**
 * Batches of deltas: what arrived together stays together. Head first, usage last.
 *
 * @throws GatewayError before the first text or finish, or after it; the caller knows which.
 */
export async function* generate(
  work: Work,
  context: GenerateContext,
  outcome: Outcome,
): AsyncGenerator<readonly Delta[]> {
  const { request } = work
  const startedAtS = Math.floor(context.route.now() / 1000)
  const fold = new Fold()
  let written = ''
  let answered: Answered | null = null
  for await (const batch of answer(request, context.route, outcome)) {
    const deltas: Delta[] = []
    for (const delta of batch) {
      switch (delta.kind) {
        case 'answered':
          answered = delta
          deltas.push(headOf(delta, context.newId(), startedAtS))
          break
        case 'text':
          written += delta.text
          deltas.push(delta)
          break
        case 'finish':
          deltas.push(delta)
          break
        case 'ended': {
          outcome.usage = delta.usage ?? estimate(request, written)
          deltas.push({ kind: 'usage', usage: outcome.usage, estimated: delta.usage === null })
          for (const last of deltas) fold.add(last)
          const fallback = answered?.fallback ?? false
          outcome.stored = delta.whole && keep(work, fold, fallback, startedAtS, context)
          yield deltas
          return
        }
        default:
          delta satisfies never
      }
    }
    for (const delta of deltas) fold.add(delta)
    yield deltas
  }
}

function headOf({ model, fingerprint }: Answered, id: string, created: number): Delta {
  const head = { id, created, model }
  return {
    kind: 'head',
    head: fingerprint === null ? head : { ...head, system_fingerprint: fingerprint },
  }
}

function keep(
  { request, key, keep }: Work,
  fold: Fold,
  fallback: boolean,
  startedAtS: number,
  { store }: GenerateContext,
): boolean {
  const folded = fold.folded()
  if (keep === null || folded === null || !isWhole(folded.completion)) return false
  const owner = { key, model: request.model, promptId: request.prompt_id }
  const freshSeconds = fallback ? Math.min(FALLBACK_FRESH_S, keep.freshSeconds) : keep.freshSeconds
  return store(
    createEntry(folded, owner, { nowS: startedAtS, freshSeconds, staleSeconds: keep.staleSeconds }),
  )
}

/** Where the upstream counted nothing. Token prompts are counted already. */
function estimate({ prompts, system }: EffectiveRequest, written: string): Usage {
  let prompt_tokens = estimateTokens(system ?? '')
  for (const prompt of prompts) {
    prompt_tokens += typeof prompt === 'string' ? estimateTokens(prompt) : prompt.length
  }
  const completion_tokens = estimateTokens(written)
  return { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
}
