// The presets of known upstreams: base URL, wire, authentication and unsupported features. CONFIG
// can override every value.
import { mapped } from '../json.ts'
import type { Feature, Wire, WireOptions } from './adapter.ts'

const headers = ['api-key', 'x-api-key', 'cf-aig-authorization'] as const
export const authStyles = ['bearer', ...headers, 'none'] as const
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
  /** The path of chats on the completions wire; "": none that is known. */
  readonly chatPath: string
  /** Whether it has the role `developer`; it is sent as `system` to others. */
  readonly developer: boolean
  /**
   * Whether one call requests several choices with `n`, which pays for the prompt only once; else
   * one call for each. Null: true for the completions wire, false for chat.
   */
  readonly nativeN: boolean | null
  /** In addition to the limits of the wire. */
  readonly unsupported: readonly Feature[]
  readonly rename: Readonly<Record<string, string>>
}

/** What few servers except OpenAI's support. */
const rare = ['token_prompts', 'prompt_array', 'best_of', 'echo', 'logprobs', 'logit_bias'] as const
const penalties = ['presence_penalty', 'frequency_penalty'] as const

/**
 * What a wire does not support with any upstream. Prompt arrays and `n` become several calls, and a
 * `suffix` becomes an instruction (gap.ts).
 */
export const wireLimits: Readonly<Record<Wire, readonly Feature[]>> = {
  chat: ['token_prompts', 'prompt_array', 'best_of', 'echo', 'native_suffix'],
  completions: [],
  // `blank_stop`: error 400 "each stop sequence must contain non-whitespace".
  anthropic: [
    ...rare,
    'n',
    'native_suffix',
    'seed',
    'blank_stop',
    'temperature_above_1',
    'json_object',
    'json_schema',
    ...penalties,
  ],
  'workers-ai': [...rare, 'n', 'native_suffix', 'stop'],
  demo: ['token_prompts', 'suffix', 'logit_bias', 'json_object', 'json_schema'],
}

/** Of presets that say nothing else. */
const defaults: Preset = {
  baseUrl: null,
  wire: 'chat',
  auth: 'bearer',
  maxTokensField: 'max_tokens',
  streamUsage: true,
  path: null,
  chatPath: '',
  developer: false,
  nativeN: false,
  unsupported: [],
  rename: {},
}

/** Reasoning models refuse `max_tokens`; other models accept both names. */
const openai: Partial<Preset> = {
  baseUrl: 'https://api.openai.com/v1',
  maxTokensField: 'max_completion_tokens',
  developer: true,
  nativeN: true,
}

/**
 * Error 422 "Extra inputs are not permitted" for all unknown fields, including `stream_options`.
 * Some models do not support `n`.
 */
const mistral: Partial<Preset> = {
  baseUrl: 'https://api.mistral.ai/v1',
  streamUsage: false,
  unsupported: ['logprobs', 'logit_bias'],
  rename: { seed: 'random_seed' },
}

const CHAT_PATH = '/chat/completions'

/** A server on the owner's own machine, most of which have no key. */
const local = (port: number): Partial<Preset> => ({
  baseUrl: `http://localhost:${port}/v1`,
  wire: 'completions',
  chatPath: CHAT_PATH,
  auth: 'none',
})

const known: Readonly<Record<string, Partial<Preset>>> = {
  /** Any OpenAI-compatible server. The owner sets base_url. */
  compatible: { nativeN: null },
  openai,
  /** https://{resource}.openai.azure.com/openai/v1. The model is a deployment's name. */
  azure: { ...openai, baseUrl: null, auth: 'api-key' },
  openrouter: { baseUrl: 'https://openrouter.ai/api/v1' },
  /** Error 400 for logprobs, logit_bias and an `n` above 1: console.groq.com/docs/openai */
  groq: {
    baseUrl: 'https://api.groq.com/openai/v1',
    maxTokensField: 'max_completion_tokens',
    unsupported: ['logprobs', 'logit_bias'],
  },
  /** Its `logprobs` is a number, unlike the boolean of the chat wire. */
  together: { baseUrl: 'https://api.together.xyz/v1', nativeN: true, unsupported: ['logprobs'] },
  fireworks: { baseUrl: 'https://api.fireworks.ai/inference/v1', nativeN: true },
  /** Ignores unknown fields. A request must not succeed if its bias or seed has no effect. */
  deepseek: {
    baseUrl: 'https://api.deepseek.com',
    unsupported: ['logit_bias', 'seed', 'json_schema'],
  },
  'deepseek-fim': {
    baseUrl: 'https://api.deepseek.com/beta',
    wire: 'completions',
    chatPath: CHAT_PATH,
    unsupported: ['token_prompts', 'prompt_array', 'best_of', 'logit_bias', 'seed', 'json_schema'],
  },
  mistral,
  /** Requests are those of the completions wire; answers have the chat shape. */
  'mistral-fim': {
    ...mistral,
    wire: 'completions',
    path: '/fim/completions',
    chatPath: CHAT_PATH,
    unsupported: [...rare, ...penalties],
  },
  /** Its reasoning models also refuse penalties and `stop`, but other models accept them. */
  xai: { baseUrl: 'https://api.x.ai/v1', nativeN: true, unsupported: ['logit_bias'] },
  /** Error 400 "Unknown name … Cannot find field" for each of these. */
  gemini: {
    baseUrl: 'https://generativelanguage.googleapis.com/v1beta/openai',
    unsupported: ['logprobs', 'logit_bias', 'seed', ...penalties],
  },
  anthropic: {
    baseUrl: 'https://api.anthropic.com/v1',
    wire: 'anthropic',
    auth: 'x-api-key',
    streamUsage: false,
  },
  /**
   * https://gateway.ai.cloudflare.com/v1/{account}/{gateway}/compat, with models such as
   * "openai/gpt-…". The key is the provider's; if the gateway stores the provider keys, set
   * auth = "cf-aig-authorization".
   */
  'ai-gateway': {},
  /** The AI binding of wrangler.toml, without a URL or a key. */
  'workers-ai': { wire: 'workers-ai', auth: 'none', streamUsage: false },
  /** Its prompt is a single string, and it ignores unknown fields. */
  ollama: { ...local(11434), unsupported: rare },
  /**
   * With several prompts it counts only the tokens of the first, and an `n` above its number of slots is
   * error 400: each has its own call. Ignores JSON mode, but not JSON schemas.
   */
  llamacpp: {
    ...local(8080),
    unsupported: ['prompt_array', 'best_of', 'echo', 'suffix', 'json_object'],
  },
  /** Accepts `suffix` and `best_of` but ignores them. */
  vllm: { ...local(8000), nativeN: true, unsupported: ['best_of', 'suffix'] },
  /**
   * `transformers serve`. Ignores unknown fields, only appends `suffix` to the text, and sends the stop
   * sequence. Its last chunk always has the usage, and no terminator follows it.
   */
  transformers: {
    ...local(8000),
    streamUsage: false,
    unsupported: [...rare, 'suffix', 'presence_penalty', 'json_object', 'json_schema'],
  },
  /** Its /completions gives several choices the index 0, and ignores `echo` and `logprobs`. */
  litellm: { baseUrl: 'http://localhost:4000/v1' },
  /** Aggregators (new-api, EZLINK). What they support depends on the servers behind them. */
  'one-api': {},
  demo: {
    baseUrl: 'https://demo.invalid/v1',
    wire: 'demo',
    chatPath: CHAT_PATH,
    auth: 'none',
    nativeN: true,
  },
}

export const presets: Readonly<Record<string, Preset>> = mapped(
  Object.entries(known),
  (preset) => ({ ...defaults, ...preset }),
)
