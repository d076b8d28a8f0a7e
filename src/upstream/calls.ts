// Plans the upstream calls of a request: one, or several if the upstream accepts only one prompt or
// one choice per call. Also checks which features of a request an upstream does not support.
import type { EffectiveRequest } from '../request/effective.ts'
import type { CallRequest, Feature, Prompt } from './adapter.ts'

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
}

/** The first feature that the request needs and the upstream does not support; null if none. */
export function missingFeature(
  request: EffectiveRequest,
  unsupported: ReadonlySet<Feature>,
): { readonly feature: Feature; readonly param: string } | null {
  const needs: [Feature, string, boolean][] = [
    ['token_prompts', 'prompt', request.prompts.some(isTokens)],
    ['best_of', 'best_of', request.best_of !== undefined],
    ['suffix', 'suffix', request.suffix !== undefined],
    ['logprobs', 'logprobs', request.logprobs !== undefined],
    ['echo', 'echo', isEchoSent(request)],
    ['logit_bias', 'logit_bias', request.logit_bias !== undefined],
    ['stop', 'stop', request.stop !== undefined],
    ['blank_stop', 'stop', request.stop?.some((stop) => stop.trim() === '') === true],
    ['temperature', 'temperature', request.temperature !== undefined],
    ['temperature_above_1', 'temperature', (request.temperature ?? 0) > 1],
    ['top_p', 'top_p', request.top_p !== undefined],
    ['presence_penalty', 'presence_penalty', request.presence_penalty !== undefined],
    ['frequency_penalty', 'frequency_penalty', request.frequency_penalty !== undefined],
  ]
  for (const [feature, param, needed] of needs) {
    if (needed && unsupported.has(feature)) return { feature, param }
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

const isTokens = (prompt: Prompt) => typeof prompt !== 'string'

/** The calls of one attempt, in the order of their choices: `index = prompt_index * n + j`. */
export function plan(
  request: EffectiveRequest,
  target: {
    readonly model: string
    readonly stream: boolean
    readonly unsupported: ReadonlySet<Feature>
  },
): PlannedCall[] {
  const { unsupported } = target
  const { prompts, n } = request
  const together =
    prompts.length === 1 || (!unsupported.has('prompt_array') && (n === 1 || !unsupported.has('n')))
  const promptGroups = together ? [prompts] : prompts.map((prompt) => [prompt])
  const rounds = n === 1 || !unsupported.has('n') ? [n] : Array.from({ length: n }, () => 1)
  const calls: PlannedCall[] = []
  let firstIndex = 0
  for (const group of promptGroups) {
    for (const [round, choices] of rounds.entries()) {
      calls.push({
        request: callRequest(request, target, group, choices, round),
        firstIndex,
        choices: choices * group.length,
        ...echoesOf(request, group, choices),
      })
      firstIndex += choices * group.length
    }
  }
  return calls
}

function callRequest(
  request: EffectiveRequest,
  {
    model,
    stream,
    unsupported,
  }: { model: string; stream: boolean; unsupported: ReadonlySet<Feature> },
  prompts: readonly Prompt[],
  n: number,
  round: number,
): CallRequest {
  const { route: _route, prompt_id, model: _alias, echo: _echo, seed, ...fields } = request
  return {
    ...fields,
    model,
    prompts,
    n,
    locked: prompt_id !== null,
    stream: stream && request.best_of === undefined,
    ...(isEchoSent(request) ? { echo: true } : {}),
    // The same seed in every call would return the same choice n times.
    ...(seed === undefined || unsupported.has('seed') ? {} : { seed: seed + round }),
  }
}

function echoesOf(
  request: EffectiveRequest,
  prompts: readonly Prompt[],
  choices: number,
): Pick<PlannedCall, 'echoes' | 'echoed'> {
  if (request.echo !== true) return { echoes: [], echoed: [] }
  const texts = prompts.flatMap((prompt) =>
    Array.from({ length: choices }, () => (typeof prompt === 'string' ? prompt : '')),
  )
  return isEchoSent(request) ? { echoes: [], echoed: texts } : { echoes: texts, echoed: [] }
}
