// A request that the configuration allows to anybody, for trying a Worker.
import type { Config } from '../../src/config/config.ts'

export interface Sample {
  readonly path: string
  readonly body: Readonly<Record<string, unknown>>
}

/** Null: there are only prompts about pages, or ones with variables. */
export function sampleRequest({ freePrompts, prompts }: Config): Sample | null {
  const path = '/v1/completions'
  if (freePrompts) return { path, body: { prompt: 'Say this is a test' } }
  for (const [id, { chat, variables, spend }] of prompts) {
    if (spend === 'operator' || Object.keys(variables).length > 0) continue
    if (!chat) return { path, body: { prompt: { id } } }
    const messages = [{ role: 'user', content: 'Hello' }]
    return { path: '/v1/chat/completions', body: { model: id, messages } }
  }
  return null
}
