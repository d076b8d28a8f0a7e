// The upstreams known by name, as data: where they live, which wire they speak, how they want the
// key, and what they cannot do. Every line may be overridden in CONFIG.
import type { Feature, Wire, WireOptions } from './upstream.ts'

export const authStyles = ['bearer', 'api-key', 'x-api-key', 'none'] as const
/** How the key travels: `Authorization: Bearer …`, a header of its own, or there is none. */
export type AuthStyle = (typeof authStyles)[number]

export interface Preset {
  /** Null: the owner must say it. */
  readonly baseUrl: string | null
  readonly wire: Wire
  readonly auth: AuthStyle
  readonly maxTokensField: WireOptions['maxTokensField']
  readonly streamUsage: boolean
  readonly path: string | null
  readonly unsupported: readonly Feature[]
}

/** What a wire as such cannot do, whoever speaks it. `n` and prompt arrays become several calls. */
export const wireLimits: Readonly<Record<Wire, readonly Feature[]>> = {
  chat: ['token_prompts', 'prompt_array', 'n', 'best_of', 'echo', 'suffix'],
  completions: [],
  anthropic: [
    'token_prompts',
    'prompt_array',
    'n',
    'best_of',
    'echo',
    'logprobs',
    'suffix',
    'logit_bias',
    'seed',
    'presence_penalty',
    'frequency_penalty',
  ],
  'workers-ai': [
    'token_prompts',
    'prompt_array',
    'n',
    'best_of',
    'echo',
    'logprobs',
    'suffix',
    'logit_bias',
    'stop',
  ],
  demo: ['token_prompts', 'suffix', 'logit_bias'],
}

const compatible: Preset = {
  baseUrl: null,
  wire: 'chat',
  auth: 'bearer',
  maxTokensField: 'max_tokens',
  streamUsage: true,
  path: null,
  unsupported: [],
}

export const presets: Readonly<Record<string, Preset>> = {
  /** Any OpenAI-compatible server: base_url is the owner's. */
  compatible,
  openai: {
    ...compatible,
    baseUrl: 'https://api.openai.com/v1',
    maxTokensField: 'max_completion_tokens',
  },
  demo: { ...compatible, baseUrl: 'https://demo.invalid/v1', wire: 'demo', auth: 'none' },
}
