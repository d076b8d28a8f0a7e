// Plans the upstream calls of a request: one, or several if the upstream accepts only one prompt or
// one choice per call. Also checks which features of a request an upstream does not support.

import { isConversation, isTokens, type Prompt } from '../request/conversation.ts'
import type { EffectiveRequest } from '../request/effective.ts'
import type { CallRequest, Feature } from './adapter.ts'
import { type Gap, gapRequest } from './gap.ts'

/** One call. Its choice i is choice `firstIndex + i` of the answer. */
export interface PlannedCall {
  readonly request: CallRequest
  readonly firstIndex: number
  /** The number of choices it requests. */
  readonly choices: number
  /** `echo`: the texts to add before the text of each choice. */
  readonly echoes: readonly string[]
  /** `echo`: the texts that the upstream must put before the text of each choice. */
  readonly echoed: readonly string[]
  /** `suffix`: the gap that the answers fill, if the upstream is a chat model. */
  readonly gap: Gap | null
  /** `stop`: where the texts are cut off, in case the upstream does not. */
  readonly stops: readonly string[]
}

/** The first feature that the request needs and the upstream does not support; null if none. */
export function missingFeature(
  request: EffectiveRequest,
  unsupported: ReadonlySet<Feature>,
): { readonly feature: Feature; readonly param: string; readonly name: string } | null {
  const { prompts, stop = [], temperature = 0, response_format: { type } = {} } = request
  const has = (field: keyof EffectiveRequest) => request[field] !== undefined
  const gap = 'log probabilities together with "suffix"'
  const echo = 'log probabilities of an echoed prompt, or the echo of a token prompt'
  const uncut = 'together with log probabilities or the echo of a token prompt'
  const stops = mayCut(request) ? [] : stop
  /** Whether each feature is needed, the field that needs it, and its name for visitors. */
  const needs: [Feature, boolean, string, string][] = [
    ['token_prompts', prompts.some(isTokens), 'prompt', 'token prompts'],
    ['best_of', isBestSought(request), 'best_of', 'choosing the best of several answers'],
    ['suffix', has('suffix'), 'suffix', 'a text that follows the answer'],
    ['logprobs', has('logprobs'), 'logprobs', 'log probabilities'],
    ['native_suffix', has('suffix') && has('logprobs'), 'logprobs', gap],
    ['echo', isEchoSent(request), 'echo', echo],
    ['logit_bias', has('logit_bias'), 'logit_bias', 'a bias for tokens'],
    ['stop', stops.length > 0, 'stop', `stop sequences ${uncut}`],
    ['blank_stop', stops.some(isBlank), 'stop', `stop sequences of white space ${uncut}`],
    ['temperature', has('temperature'), 'temperature', 'a temperature'],
    ['temperature_above_1', temperature > 1, 'temperature', 'a temperature above 1'],
    ['top_p', has('top_p'), 'top_p', 'nucleus sampling'],
    ['presence_penalty', has('presence_penalty'), 'presence_penalty', 'a presence penalty'],
    ['frequency_penalty', has('frequency_penalty'), 'frequency_penalty', 'a frequency penalty'],
    ['chat', prompts.some(isConversation), 'messages', 'chats'],
    ['json_object', type === 'json_object', 'response_format', 'JSON mode'],
    ['json_schema', type === 'json_schema', 'response_format', 'JSON schemas'],
  ]
  for (const [feature, needed, param, name] of needs) {
    if (needed && unsupported.has(feature)) return { feature, param, name }
  }
  return null
}

/**
 * Whether the upstream has to echo the prompt. The echo of a text is added by `Echo`, which is
 * exact and works with every upstream; only the upstream has the text of a token prompt, and the
 * log probabilities of a prompt.
 */
function isEchoSent({ echo, logprobs, prompts }: EffectiveRequest): boolean {
  return echo === true && (logprobs !== undefined || prompts.some(isTokens))
}

/** With `best_of` = `n`, every answer is returned, so nothing is chosen. */
const isBestSought = ({ best_of = 1, n }: EffectiveRequest) => best_of > n

/**
 * Whether a text may be cut off at its stop sequence here. Log probabilities cannot be cut exactly, and
 * an echoed prompt may contain the sequence.
 */
const mayCut = (request: EffectiveRequest) => request.logprobs === undefined && !isEchoSent(request)

const isBlank = (stop: string) => stop.trim() === ''

/** The calls of one attempt, in the order of their choices: `index = prompt_index * n + j`. */
export function plan(
  request: EffectiveRequest,
  { model, stream, unsupported }: PlanTarget,
): PlannedCall[] {
  const {
    route: _route,
    prompt_id,
    model: _alias,
    echo,
    seed,
    prompts,
    n,
    best_of,
    stop = [],
    ...fields
  } = request
  const echoIsSent = isEchoSent(request)
  const seeksBest = isBestSought(request)
  const stops = mayCut(request) ? stop : []
  const isSent = (each: string) =>
    !unsupported.has('stop') && !(unsupported.has('blank_stop') && isBlank(each))
  const sentStops = stop.filter(isSent)
  const shared = {
    ...fields,
    ...(sentStops.length > 0 ? { stop: sentStops } : {}),
    model,
    locked: prompt_id !== null,
    stream: stream && !seeksBest,
    ...(seeksBest ? { best_of } : {}),
    ...(echoIsSent ? { echo: true } : {}),
  }
  const hasN = n === 1 || !unsupported.has('n')
  const together = prompts.length === 1 || (hasN && !unsupported.has('prompt_array'))
  const promptGroups = together ? [prompts] : prompts.map((prompt) => [prompt])
  const rounds = hasN ? [n] : Array.from({ length: n }, () => 1)
  const calls: PlannedCall[] = []
  let firstIndex = 0
  for (const group of promptGroups) {
    for (const [round, n] of rounds.entries()) {
      // The same seed in every call would return the same choice n times.
      const seeded = seed === undefined || unsupported.has('seed') ? {} : { seed: seed + round }
      const texts = echo === true ? textsOfChoices(group, n) : []
      const choices = n * group.length
      const gap = unsupported.has('native_suffix') ? gapIn(group, request.suffix) : null
      const input = gap === null ? { prompts: group } : gapRequest(gap, request.system)
      calls.push({
        request: { ...shared, ...input, n, ...seeded },
        firstIndex,
        choices,
        echoes: echoIsSent ? [] : texts,
        echoed: echoIsSent ? texts : [],
        gap,
        stops,
      })
      firstIndex += choices
    }
  }
  return calls
}

/** The gap of a call with one prompt: wires that need the instruction have no arrays of prompts. */
function gapIn([prefix]: readonly Prompt[], suffix?: string | null): Gap | null {
  return typeof prefix === 'string' && suffix ? { prefix, suffix } : null
}

interface PlanTarget {
  readonly model: string
  readonly stream: boolean
  readonly unsupported: ReadonlySet<Feature>
}

/** The prompt of each choice; "" for a token prompt, whose text is not known. */
function textsOfChoices(prompts: readonly Prompt[], n: number): string[] {
  return prompts.flatMap((prompt) =>
    Array.from({ length: n }, () => (typeof prompt === 'string' ? prompt : '')),
  )
}
