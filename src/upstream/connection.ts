// Turns an upstream's settings into a connection: its adapter, its transport and its headers.
import type { Feature, TokensField, Upstream, Wire } from './adapter.ts'
import { anthropic } from './anthropic.ts'
import { Breakers } from './breaker.ts'
import type { CallOptions, Send } from './call.ts'
import { chat } from './chat.ts'
import { completions } from './completions.ts'
import { upstreamFailure } from './failure.ts'
import type { AuthStyle } from './presets.ts'
import { bindingUrl, workersAi } from './workers-ai.ts'

export interface ConnectOptions extends Omit<CallOptions, 'headers'> {
  readonly name: string
  readonly wire: Wire
  readonly auth: AuthStyle
  /** The secret itself; null if the upstream needs no key. */
  readonly key: string | null
  readonly unsupported: ReadonlySet<Feature>
  /** `visitor`: it streams only if the visitor requested a stream. */
  readonly stream: 'always' | 'visitor'
  readonly deadlineMs: number
  readonly retries: number
}

/** An upstream that is ready for calls. */
export interface Connection extends CallOptions, Omit<ConnectOptions, 'wire' | 'auth' | 'key'> {
  readonly upstream: Upstream
  readonly send: Send
  readonly breakers: Breakers
  /**
   * Each model's name for `max_tokens`, if it differs from the upstream's setting. It is learned
   * from a refusal, once the other name has worked.
   */
  readonly tokensFields: Map<string, TokensField>
}

/** How calls are sent. The demo model uses the completions wire, so only its transport differs. */
export interface Transports {
  readonly http: Send
  readonly demo: Send
  /** The AI binding; missing if the Worker does not have it. */
  readonly ai?: Send
}

export function connect(given: ConnectOptions, transports: Transports): Connection {
  const { wire, auth, key, ...options } = given
  const { http, demo, ai = noBinding } = transports
  return {
    ...options,
    baseUrl: wire === 'workers-ai' ? bindingUrl : options.baseUrl,
    headers: authHeaders(auth, key),
    upstream: adapters[wire],
    send: wire === 'workers-ai' ? ai : wire === 'demo' ? demo : http,
    breakers: new Breakers(),
    tokensFields: new Map(),
  }
}

const adapters: Readonly<Record<Wire, Upstream>> = {
  chat,
  completions,
  demo: completions,
  anthropic,
  'workers-ai': workersAi,
}

/** config.ts checks for the binding. Without it only this upstream is unavailable. */
const noBinding: Send = async () => {
  throw upstreamFailure('unavailable', { code: 'no_binding' })
}

function authHeaders(auth: AuthStyle, key: string | null): Record<string, string> {
  if (key === null || auth === 'none') return {}
  if (auth === 'bearer') return { authorization: `Bearer ${key}` }
  return { [auth]: auth === 'cf-aig-authorization' ? `Bearer ${key}` : key }
}
