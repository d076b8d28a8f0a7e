// The interface of an upstream adapter: four pure translations between requests, deltas and the
// wire. Calls are made by call.ts.
import type { RawDelta } from '../completion/delta.ts'
import type { GatewayError } from '../errors.ts'
import type { Table } from '../json.ts'
import type { Prompt } from '../request/conversation.ts'
import type { Sampling } from '../request/effective.ts'
import type { SseMessage } from './sse.ts'

/** The request of one upstream call, a part of the effective request. */
export interface CallRequest extends Sampling {
  /** The upstream's own model name. */
  readonly model: string
  /** Several only if the wire supports arrays of prompts. */
  readonly prompts: readonly Prompt[]
  readonly system: string | null
  readonly locked: boolean
  readonly stream: boolean
  /** The owner's own upstream parameters, sent as they are. */
  readonly parameters: Table
}

/** A request in the format of the wire. */
export interface WireCall {
  /** Appended to the base URL; begins with a slash. */
  readonly path: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body: Table
}

export type TokensField = 'max_tokens' | 'max_completion_tokens'

/** What differs between upstreams of the same wire. */
export interface WireOptions {
  readonly maxTokensField: TokensField
  /** The upstream supports `stream_options.include_usage`. */
  readonly streamUsage: boolean
  /** The path of completions; null: the wire's default. */
  readonly path: string | null
  /** The path of chats on the completions wire; absent or "": none. */
  readonly chatPath?: string
  /** Whether the upstream has the role `developer`. */
  readonly developer?: boolean
  /** The upstream's own names of sampling fields, by their usual names. */
  readonly rename?: Readonly<Record<string, string>>
}

/**
 * An adapter. `fromBody` and `fromMessage` throw a GatewayError if the upstream reports a failure.
 */
export interface Upstream {
  toWire(request: CallRequest, options: WireOptions): WireCall
  fromBody(body: unknown): readonly RawDelta[]
  fromMessage(message: SseMessage): readonly RawDelta[]
  fromFailure(status: number, body: unknown): GatewayError
}

export const wires = ['chat', 'completions', 'anthropic', 'workers-ai', 'demo'] as const
export type Wire = (typeof wires)[number]

/** Features that a wire or an upstream may not support. A request that needs one is refused. */
export const features = [
  'token_prompts',
  'prompt_array',
  'n',
  'best_of',
  'echo',
  'logprobs',
  'suffix',
  'native_suffix',
  'logit_bias',
  'seed',
  'stop',
  'blank_stop',
  'temperature',
  'temperature_above_1',
  'top_p',
  'presence_penalty',
  'frequency_penalty',
  'chat',
  'json_object',
  'json_schema',
] as const
export type Feature = (typeof features)[number]
