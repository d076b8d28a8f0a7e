// Turns an upstream's settings into a connection: its adapter, the way to send, its headers.
import { Breaker } from './breaker.ts'
import type { Send } from './call.ts'
import { chat } from './chat.ts'
import { completions } from './completions.ts'
import type { AuthStyle } from './presets.ts'
import type { Connection } from './route.ts'
import type { Feature, Upstream, Wire, WireOptions } from './upstream.ts'

export interface ConnectOptions extends WireOptions {
  readonly name: string
  readonly wire: Wire
  readonly baseUrl: string
  readonly auth: AuthStyle
  readonly key: string | null
  readonly unsupported: ReadonlySet<Feature>
  readonly stream: 'always' | 'visitor'
  readonly firstByteMs: number
  readonly idleMs: number
  readonly deadlineMs: number
  readonly retries: number
  readonly maxOutputBytes: number
}

/** The ways out. The demo model speaks the legacy wire, so only its sending differs. */
export interface Transports {
  readonly http: Send
  readonly demo: Send
}

const BREAKER = { failures: 10, openMs: 15_000 }

export function connect(options: ConnectOptions, transports: Transports): Connection {
  const { name, wire, unsupported, stream, deadlineMs, retries } = options
  return {
    name,
    upstream: adapters[wire],
    send: wire === 'demo' ? transports.demo : transports.http,
    options: { ...options, headers: authHeaders(options) },
    unsupported,
    alwaysStream: stream === 'always',
    deadlineMs,
    retries,
    breaker: new Breaker(BREAKER),
  }
}

const adapters: Readonly<Record<Wire, Upstream>> = {
  chat,
  completions,
  demo: completions,
  anthropic: completions,
  'workers-ai': completions,
}

function authHeaders({ auth, key }: ConnectOptions): Record<string, string> {
  if (key === null || auth === 'none') return {}
  return auth === 'bearer' ? { authorization: `Bearer ${key}` } : { [auth]: key }
}
