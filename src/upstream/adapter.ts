// What an upstream is to the rest: four pure translations, and the values they speak in.
// Nothing here fetches; call.ts does.
import type { RawDelta } from '../completion/delta.ts'
import type { GatewayError } from '../errors.ts'
import type { Sampling } from '../request/effective.ts'
import type { SseMessage } from './sse.ts'

export type Prompt = string | readonly number[]

/** One upstream call: what is left of the effective request for one attempt. */
export interface CallRequest extends Sampling {
  /** The upstream's own model name. */
  readonly model: string
  /** One, or several where the wire takes arrays. */
  readonly prompts: readonly Prompt[]
  readonly system: string | null
  readonly locked: boolean
  readonly stream: boolean
  /** The owner's own upstream parameters, sent as they are. */
  readonly parameters: Readonly<Record<string, unknown>>
}

/** A request in the upstream's words. */
export interface WireCall {
  /** Appended to the base URL, with its slash. */
  readonly path: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body: Readonly<Record<string, unknown>>
}

/** What the wire is told about the one upstream it speaks to. */
export interface WireOptions {
  readonly maxTokensField: 'max_tokens' | 'max_completion_tokens'
  /** The upstream knows `stream_options.include_usage`. */
  readonly streamUsage: boolean
  /** Where completions live, if not where the wire has them. */
  readonly path: string | null
  /** Sampling fields this upstream has under another name, by their usual one. */
  readonly rename?: Readonly<Record<string, string>>
}

/** An adapter. `fromBody` and `fromMessage` throw a GatewayError where the upstream says it failed. */
export interface Upstream {
  toWire(request: CallRequest, options: WireOptions): WireCall
  fromBody(body: unknown): readonly RawDelta[]
  fromMessage(message: SseMessage): readonly RawDelta[]
  fromFailure(status: number, body: unknown): GatewayError
}

export const wires = ['chat', 'completions', 'anthropic', 'workers-ai', 'demo'] as const
export type Wire = (typeof wires)[number]

/** What a wire or an upstream may be unable to do; a request that needs it is refused by us. */
export const features = [
  'token_prompts',
  'prompt_array',
  'n',
  'best_of',
  'echo',
  'logprobs',
  'suffix',
  'logit_bias',
  'seed',
  'stop',
  'blank_stop',
  'temperature',
  'temperature_above_1',
  'top_p',
  'presence_penalty',
  'frequency_penalty',
] as const
export type Feature = (typeof features)[number]
