// What a call of an upstream needs: a connection, a request, the context of its route, the work of a
// flight. Each is ordinary; a test overrides what it is about.
import type { Work } from '../../src/flight/generate.ts'
import type { EffectiveRequest } from '../../src/request/effective.ts'
import type { RouteContext } from '../../src/upstream/attempt.ts'
import type { Send } from '../../src/upstream/call.ts'
import { type Connection, type ConnectOptions, connect } from '../../src/upstream/connection.ts'
import { START } from './app.ts'

/** A connection to an upstream, by default of the `completions` wire, that is answered by `send`. */
export function connectionTo(
  name: string,
  send: Send,
  options: Partial<ConnectOptions> = {},
): Connection {
  const ordinary: ConnectOptions = {
    name,
    wire: 'completions',
    baseUrl: `https://${name}.test/v1`,
    auth: 'none',
    key: null,
    unsupported: new Set(),
    stream: 'always',
    firstByteMs: 30_000,
    idleMs: 30_000,
    deadlineMs: 60_000,
    retries: 0,
    maxOutputBytes: 1_048_576,
    maxTokensField: 'max_tokens',
    streamUsage: true,
    path: null,
  }
  return connect({ ...ordinary, ...options }, { http: send, demo: send, ai: send })
}

/** A route through these connections: nothing is refused, no wait takes time. */
export function routeContext(
  connections: readonly Connection[],
  overrides: Partial<RouteContext> = {},
): RouteContext {
  return {
    requestId: 'req_1',
    connections: new Map(connections.map((connection) => [connection.name, connection])),
    stream: true,
    signal: new AbortController().signal,
    now: Date.now,
    random: () => 0.5,
    wait: async () => {},
    report: () => {},
    callsAtOnce: 6,
    reserve: async () => ({ accepted() {}, settle() {} }),
    ...overrides,
  }
}

export function effectiveRequest(fields: Partial<EffectiveRequest> = {}): EffectiveRequest {
  return {
    model: 'default',
    prompt_id: null,
    prompts: ['Once'],
    system: null,
    route: [{ upstream: 'main', upstream_model: 'model-1' }],
    parameters: {},
    max_tokens: 16,
    n: 1,
    ...fields,
  }
}

/** A typical miss. */
export function workOf(overrides: Partial<Work> = {}): Work {
  return {
    request: effectiveRequest(),
    key: `c1:${'0a'.repeat(32)}`,
    storedUnder: `c1:${'0a'.repeat(32)}`,
    source: null,
    names: ['model:default'],
    requestedAt: START,
    lifetime: { freshSeconds: 100, staleSeconds: 0 },
    abandon: 'finish',
    forced: false,
    requestId: 'req_1',
    visitor: 'h:ada',
    ...overrides,
  }
}
