// The presets of known upstreams: base URL, wire, authentication and unsupported features. CONFIG
// can override every value.
import type { Feature, Wire, WireOptions } from './adapter.ts'

export const authStyles = [
  'bearer',
  'api-key',
  'x-api-key',
  'cf-aig-authorization',
  'none',
] as const
/** How the key is sent: as `Authorization: Bearer …`, in a header of this name, or not at all. */
export type AuthStyle = (typeof authStyles)[number]

export interface Preset {
  /** Null: the owner must set it. */
  readonly baseUrl: string | null
  readonly wire: Wire
  readonly auth: AuthStyle
  readonly maxTokensField: WireOptions['maxTokensField']
  readonly streamUsage: boolean
  readonly path: string | null
  /**
   * Whether several choices of a prompt are requested in one call with `n`, which pays for the
   * prompt only once. False: one call for each. Null: true for the completions wire, false for
   * chat.
   */
  readonly nativeN: boolean | null
  /** In addition to the limits of the wire. */
  readonly unsupported: readonly Feature[]
  readonly rename: Readonly<Record<string, string>>
}

/** What a wire does not support with any upstream. Prompt arrays and `n` become several calls. */
export const wireLimits: Readonly<Record<Wire, readonly Feature[]>> = {
  chat: ['token_prompts', 'prompt_array', 'best_of', 'echo', 'suffix'],
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
    // Error 400 "each stop sequence must contain non-whitespace".
    'blank_stop',
    'temperature_above_1',
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
  nativeN: null,
  unsupported: [],
  rename: {},
}

/** Reasoning models refuse `max_tokens`; other models accept both names. */
const openai: Preset = {
  ...compatible,
  baseUrl: 'https://api.openai.com/v1',
  maxTokensField: 'max_completion_tokens',
  nativeN: true,
}

/**
 * Error 422 "Extra inputs are not permitted" for all unknown fields, including `stream_options`.
 * Some models do not support `n`.
 */
const mistral: Preset = {
  ...compatible,
  baseUrl: 'https://api.mistral.ai/v1',
  streamUsage: false,
  nativeN: false,
  unsupported: ['logprobs', 'logit_bias'],
  rename: { seed: 'random_seed' },
}

export const presets: Readonly<Record<string, Preset>> = {
  /** Any OpenAI-compatible server. The owner sets base_url. */
  compatible,
  openai,
  /**
   * The v1 API: https://{resource}.openai.azure.com/openai/v1. The model is a deployment's name.
   */
  azure: { ...openai, baseUrl: null, auth: 'api-key' },
  openrouter: { ...compatible, baseUrl: 'https://openrouter.ai/api/v1', nativeN: false },
  /** Error 400 for logprobs, logit_bias and an `n` above 1: console.groq.com/docs/openai */
  groq: {
    ...compatible,
    baseUrl: 'https://api.groq.com/openai/v1',
    maxTokensField: 'max_completion_tokens',
    nativeN: false,
    unsupported: ['logprobs', 'logit_bias'],
  },
  /** Its `logprobs` is a number, unlike the boolean of the chat wire. */
  together: {
    ...compatible,
    baseUrl: 'https://api.together.xyz/v1',
    nativeN: true,
    unsupported: ['logprobs'],
  },
  fireworks: { ...compatible, baseUrl: 'https://api.fireworks.ai/inference/v1', nativeN: true },
  /** Ignores unknown fields. A request must not succeed if its bias or seed has no effect. */
  deepseek: {
    ...compatible,
    baseUrl: 'https://api.deepseek.com',
    nativeN: false,
    unsupported: ['logit_bias', 'seed'],
  },
  'deepseek-fim': {
    ...compatible,
    baseUrl: 'https://api.deepseek.com/beta',
    wire: 'completions',
    nativeN: false,
    unsupported: ['token_prompts', 'prompt_array', 'best_of', 'logit_bias', 'seed'],
  },
  mistral,
  /** Requests are those of the completions wire; answers have the chat shape. */
  'mistral-fim': {
    ...mistral,
    wire: 'completions',
    path: '/fim/completions',
    unsupported: [
      'token_prompts',
      'prompt_array',
      'best_of',
      'echo',
      'logprobs',
      'logit_bias',
      'presence_penalty',
      'frequency_penalty',
    ],
  },
  /** Its reasoning models also refuse penalties and `stop`, but other models accept them. */
  xai: {
    ...compatible,
    baseUrl: 'https://api.x.ai/v1',
    nativeN: true,
    unsupported: ['logit_bias'],
  },
  /** Error 400 "Unknown name … Cannot find field" for each of these. */
  gemini: {
    ...compatible,
    baseUrl: 'https://generativelanguage.googleapis.com/v1beta/openai',
    nativeN: false,
    unsupported: ['logprobs', 'logit_bias', 'seed', 'presence_penalty', 'frequency_penalty'],
  },
  anthropic: {
    ...compatible,
    baseUrl: 'https://api.anthropic.com/v1',
    wire: 'anthropic',
    auth: 'x-api-key',
    streamUsage: false,
    nativeN: false,
  },
  /**
   * https://gateway.ai.cloudflare.com/v1/{account}/{gateway}/compat, with models such as
   * "openai/gpt-…". The key is the provider's; if the gateway stores the provider keys, set
   * auth = "cf-aig-authorization".
   */
  'ai-gateway': { ...compatible, nativeN: false },
  /** The AI binding of wrangler.toml, without a URL or a key. */
  'workers-ai': {
    ...compatible,
    wire: 'workers-ai',
    auth: 'none',
    streamUsage: false,
    nativeN: false,
  },
  /** Its prompt is a single string, and it ignores unknown fields. */
  ollama: {
    ...compatible,
    baseUrl: 'http://localhost:11434/v1',
    wire: 'completions',
    auth: 'none',
    nativeN: false,
    unsupported: ['token_prompts', 'prompt_array', 'best_of', 'echo', 'logprobs', 'logit_bias'],
  },
  /**
   * With several prompts it counts only the tokens of the first, so each prompt has its own call.
   */
  llamacpp: {
    ...compatible,
    baseUrl: 'http://localhost:8080/v1',
    wire: 'completions',
    auth: 'none',
    nativeN: true,
    unsupported: ['prompt_array', 'best_of', 'echo', 'suffix'],
  },
  /** Accepts `suffix` and `best_of` but ignores them. */
  vllm: {
    ...compatible,
    baseUrl: 'http://localhost:8000/v1',
    wire: 'completions',
    auth: 'none',
    nativeN: true,
    unsupported: ['best_of', 'suffix'],
  },
  /**
   * `transformers serve`. Ignores unknown fields, and only appends `suffix` to the text. Its last
   * chunk always has the usage, and no terminator follows it.
   */
  transformers: {
    ...compatible,
    baseUrl: 'http://localhost:8000/v1',
    wire: 'completions',
    auth: 'none',
    streamUsage: false,
    nativeN: false,
    unsupported: [
      'token_prompts',
      'prompt_array',
      'best_of',
      'echo',
      'logprobs',
      'suffix',
      'logit_bias',
      'seed',
      'presence_penalty',
    ],
  },
  /** Its /completions gives several choices the index 0, and ignores `echo` and `logprobs`. */
  litellm: { ...compatible, baseUrl: 'http://localhost:4000/v1', nativeN: false },
  /**
   * Aggregators (one-api, new-api, EZLINK). What they support depends on the servers behind them.
   */
  'one-api': { ...compatible, nativeN: false },
  demo: {
    ...compatible,
    baseUrl: 'https://demo.invalid/v1',
    wire: 'demo',
    auth: 'none',
    nativeN: true,
  },
}
