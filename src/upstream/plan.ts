// Which upstream calls one request becomes: one, or several where the upstream takes one prompt or
// one choice at a time. Also says what an upstream cannot do. Calls nobody.
import type { EffectiveRequest } from '../completion/effective.ts'
import type { CallRequest, Feature, Prompt } from './upstream.ts'

/** One call, and where its choices stand in the answer: choice i is `firstIndex + i`. */
export interface PlannedCall {
  readonly request: CallRequest
  readonly firstIndex: number
  /** How many choices it is asked for. */
  readonly choices: number
  /** Put before the text of choice i, where the upstream cannot echo. */
  readonly echoes: readonly string[]
}

/** The features this request needs; each is a reason for `unsupported_by_upstream`. */
export function missingFeature(
  request: EffectiveRequest,
  unsupported: ReadonlySet<Feature>,
): { readonly feature: Feature; readonly param: string } | null {
  const tokens = request.prompts.some((prompt) => typeof prompt !== 'string')
  const needs: [Feature, string, boolean][] = [
    ['token_prompts', 'prompt', tokens],
    ['best_of', 'best_of', request.best_of !== undefined],
    ['suffix', 'suffix', request.suffix !== undefined],
    ['logprobs', 'logprobs', request.logprobs !== undefined],
    // The echo of a text is emulated; the prompt's own log probabilities cannot be.
    ['echo', 'echo', request.echo === true && (tokens || request.logprobs !== undefined)],
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
        echoes: echoesOf(request, unsupported, group, choices),
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
  const { route: _route, prompt_id, model: _alias, echo, seed, ...fields } = request
  return {
    ...fields,
    model,
    prompts,
    n,
    locked: prompt_id !== null,
    stream: stream && request.best_of === undefined,
    ...(echo === undefined || unsupported.has('echo') ? {} : { echo }),
    // The same seed in every call would bring the same choice n times.
    ...(seed === undefined || unsupported.has('seed') ? {} : { seed: seed + round }),
  }
}

function echoesOf(
  { echo }: EffectiveRequest,
  unsupported: ReadonlySet<Feature>,
  prompts: readonly Prompt[],
  choices: number,
): string[] {
  if (echo !== true || !unsupported.has('echo')) return []
  return prompts.flatMap((prompt) =>
    Array.from({ length: choices }, () => (typeof prompt === 'string' ? prompt : '')),
  )
}
