// The providers that `npm run setup` offers: a small, inexpensive model of each, with its list price
// of November 2026 where the provider publishes one for it. Setup writes both into wrangler.toml,
// where the owner can change them.
import { presets } from '../../src/upstream/presets.ts'

export interface Provider {
  readonly title: string
  /** Without it, setup takes one that the server lists. */
  readonly model?: string
  /** Most of these models would spend a short answer's tokens on reasoning. */
  readonly parameters?: Readonly<Record<string, unknown>>
  /** USD per million tokens. */
  readonly price?: { readonly input: number; readonly output: number }
  /** Where the owner gets a key. */
  readonly keys?: string
}

/** By the name of their preset. */
export const providers: Readonly<Record<string, Provider>> = {
  demo: { title: 'the built-in demo: no account, no key, nonsense as text', model: 'demo' },
  openai: {
    title: 'OpenAI',
    model: 'gpt-6-luna',
    parameters: { reasoning_effort: 'none' },
    price: { input: 0.1, output: 0.5 },
    keys: 'https://platform.openai.com/api-keys',
  },
  anthropic: {
    title: 'Anthropic',
    model: 'claude-haiku-5-5',
    parameters: { thinking: { type: 'disabled' } },
    price: { input: 0.1, output: 0.5 },
    keys: 'https://platform.claude.com/settings/keys',
  },
  gemini: {
    title: 'Google Gemini',
    model: 'gemini-3.5-flash-lite',
    price: { input: 0.3, output: 2.5 },
    keys: 'https://aistudio.google.com/apikey',
  },
  mistral: {
    title: 'Mistral',
    model: 'mistral-small-latest',
    keys: 'https://console.mistral.ai/api-keys',
  },
  groq: {
    title: 'Groq',
    model: 'openai/gpt-oss-120b',
    parameters: { reasoning_effort: 'low' },
    price: { input: 0.15, output: 0.6 },
    keys: 'https://console.groq.com/keys',
  },
  deepseek: {
    title: 'DeepSeek',
    model: 'deepseek-flash',
    parameters: { thinking: { type: 'disabled' } },
    // Outside of peak hours it is half of this.
    price: { input: 0.3, output: 1.2 },
    keys: 'https://platform.deepseek.com/api_keys',
  },
  openrouter: {
    title: 'OpenRouter',
    model: 'openai/gpt-6-luna',
    parameters: { reasoning: { effort: 'none' } },
    price: { input: 0.1, output: 0.5 },
    keys: 'https://openrouter.ai/settings/keys',
  },
  'workers-ai': {
    title: 'Cloudflare Workers AI: no key, billed with the Worker',
    model: '@cf/meta/llama-3.1-8b-instruct-fp8-fast',
    price: { input: 0.045, output: 0.384 },
  },
  ollama: { title: 'Ollama on this machine', model: 'llama3.2' },
  compatible: { title: 'your own OpenAI-compatible server' },
}

export const needsKey = (preset: string) => presets[preset]?.auth !== 'none'
export const needsModel = (preset: string) => providers[preset]?.model === undefined
export const needsBaseUrl = (preset: string) =>
  presets[preset]?.baseUrl === null && presets[preset].wire !== 'workers-ai'
/** What helps if a provider does not answer at the address of its preset; null: it has none. */
export function helpAtFixedAddress(preset: string): string | null {
  const address = presets[preset]?.baseUrl ?? null
  if (address === null) return null
  return new URL(address).hostname === 'localhost'
    ? `Nothing answers at ${address}. Is the server running there? --base-url URL names another address.`
    : `Nothing answers at ${address}. Is this machine online?`
}

/** Azure lists models, but not the deployments whose names it takes. */
export const listsModels = (preset: string) => preset !== 'azure'
