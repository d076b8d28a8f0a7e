// The Worker that is judged: the demo model behind it, and limits that one address does not reach.
import { ORIGIN } from '../support/client.ts'
import type { WorkersOptions } from '../support/workerd.ts'

export const demo = {
  config: {
    origins: [ORIGIN],
    free_prompts: true,
    models: [{ id: 'default', upstream: 'demo', upstream_model: 'demo' }],
    upstreams: [{ name: 'demo', preset: 'demo' }],
    prompts: {
      haiku: { text: 'Write about {{topic}}.', variables: { topic: { max_chars: 80 } } },
    },
    budget: { tokens_per_day: 1e9, tokens_per_visitor_per_day: 1e9, streams_per_visitor: 1000 },
  },
} satisfies WorkersOptions
