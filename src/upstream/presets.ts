// The upstreams known by name, as data: where they live, which wire they speak, how they want the
// key, and what they cannot do. Every line may be overridden in CONFIG. Knows no keys and no models.
import type { Feature, Wire, WireOptions } from './adapter.ts'

export const authStyles = [
  'bearer',
  'api-key',
  'x-api-key',
  'cf-aig-authorization',
  'none',
] as const
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
  /**
   * Several choices of a prompt are asked in one call, with `n`, which pays for the prompt once; false:
   * in one call each. Null: as the wire is usually served, yes on `completions` and no on `chat`.
   */
  readonly nativeN: boolean | null
  /** Beyond what the wire as such cannot do. */
  readonly unsupported: readonly Feature[]
  readonly rename: Readonly<Record<string, string>>
}

/** What a wire as such cannot do, whoever speaks it. Prompt arrays and `n` become several calls. */
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
    // 400 "each stop sequence must contain non-whitespace".
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

/** Reasoning models refuse `max_tokens`, and the others take either. */
const openai: Preset = {
  ...compatible,
  baseUrl: 'https://api.openai.com/v1',
  maxTokensField: 'max_completion_tokens',
  nativeN: true,
}

/**
 * 422 "Extra inputs are not permitted" for anything it does not know, `stream_options` included. `n`
 * depends on the model.
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
  /** Any OpenAI-compatible server: base_url is the owner's. */
  compatible,
  openai,
  /** The v1 API: https://{resource}.openai.azure.com/openai/v1, the deployment is the model. */
  azure: { ...openai, baseUrl: null, auth: 'api-key' },
  openrouter: { ...compatible, baseUrl: 'https://openrouter.ai/api/v1', nativeN: false },
  /** console.groq.com/docs/openai: 400 for both, and for an `n` above 1. */
  groq: {
    ...compatible,
    baseUrl: 'https://api.groq.com/openai/v1',
    maxTokensField: 'max_completion_tokens',
    nativeN: false,
    unsupported: ['logprobs', 'logit_bias'],
  },
  /** Its `logprobs` is a number where the chat wire has a boolean. */
  together: {
    ...compatible,
    baseUrl: 'https://api.together.xyz/v1',
    nativeN: true,
    unsupported: ['logprobs'],
  },
  fireworks: { ...compatible, baseUrl: 'https://api.fireworks.ai/inference/v1', nativeN: true },
  /** Ignores what it does not know; a bias without effect would be a lie. */
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
  /** Asks as the legacy wire does and answers in the chat shape. */
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
  /** Its reasoning models refuse penalties and `stop` besides; that is a matter of the model. */
  xai: {
    ...compatible,
    baseUrl: 'https://api.x.ai/v1',
    nativeN: true,
    unsupported: ['logit_bias'],
  },
  /** 400 "Unknown name … Cannot find field" for each of these. */
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
   * https://gateway.ai.cloudflare.com/v1/{account}/{gateway}/compat, models as "openai/gpt-…". The
   * key is the provider's; a gateway that keeps the keys wants auth = "cf-aig-authorization".
   */
  'ai-gateway': { ...compatible, nativeN: false },
  /** The binding AI of wrangler.toml: no address and no key. */
  'workers-ai': {
    ...compatible,
    wire: 'workers-ai',
    auth: 'none',
    streamUsage: false,
    nativeN: false,
  },
  /** Its prompt is one string, and fields it does not know have no effect. */
  ollama: {
    ...compatible,
    baseUrl: 'http://localhost:11434/v1',
    wire: 'completions',
    auth: 'none',
    nativeN: false,
    unsupported: ['token_prompts', 'prompt_array', 'best_of', 'echo', 'logprobs', 'logit_bias'],
  },
  /** Counts the tokens of the first of several prompts only, so each gets a call. */
  llamacpp: {
    ...compatible,
    baseUrl: 'http://localhost:8080/v1',
    wire: 'completions',
    auth: 'none',
    nativeN: true,
    unsupported: ['prompt_array', 'best_of', 'echo', 'suffix'],
  },
  /** Takes `suffix` and `best_of` without a word, and does nothing with them. */
  vllm: {
    ...compatible,
    baseUrl: 'http://localhost:8000/v1',
    wire: 'completions',
    auth: 'none',
    nativeN: true,
    unsupported: ['best_of', 'suffix'],
  },
  /**
   * `transformers serve`. Takes fields it does not know without a word and ignores them; `suffix` it
   * writes behind the text. Usage is in its last chunk anyway, which no terminator follows.
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
  /** Its completions path puts several choices under index 0 and ignores `echo` and `logprobs`. */
  litellm: { ...compatible, baseUrl: 'http://localhost:4000/v1', nativeN: false },
  /** Aggregators (one-api, new-api, EZLINK): what they cannot do depends on what is behind them. */
  'one-api': { ...compatible, nativeN: false },
  demo: {
    ...compatible,
    baseUrl: 'https://demo.invalid/v1',
    wire: 'demo',
    auth: 'none',
    nativeN: true,
  },
}
