// What a call of an upstream needs: a connection, a request, the context of its route, the work of a
// flight. Each is ordinary; a test overrides what it is about. Also starts calls and routes.
import type { RawDelta } from '../../src/completion/delta.ts'
import type { Event } from '../../src/events.ts'
import type { Work } from '../../src/flight/generate.ts'
import type { EffectiveRequest, Target } from '../../src/request/effective.ts'
import type { CallRequest, Feature } from '../../src/upstream/adapter.ts'
import type { AnswerDelta, Answered, Ended, RouteContext } from '../../src/upstream/attempt.ts'
import { type CallContext, call, type Send } from '../../src/upstream/call.ts'
import { type Connection, type ConnectOptions, connect } from '../../src/upstream/connection.ts'
import type { Extent } from '../../src/upstream/extent.ts'
import { answer, capableTargets } from '../../src/upstream/failover.ts'
import { wireLimits } from '../../src/upstream/presets.ts'
import { START } from './app.ts'
import { CANARY, recordOutput } from './canary.ts'
import { Reading } from './reading.ts'

/**
 * A connection to an upstream, by default of the `completions` wire, that is answered by `send`; null:
 * there is no AI binding.
 */
export function connectionTo(
  name: string,
  send: Send | null,
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
  const http = send ?? fetch
  const ai = send === null ? {} : { ai: send }
  return connect({ ...ordinary, ...options }, { http, demo: http, ...ai })
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
    cites: null,
    requestedAt: START,
    lifetime: { freshSeconds: 100, staleSeconds: 0 },
    abandon: 'finish',
    forced: false,
    requestId: 'req_1',
    visitor: 'h:ada',
    origin: null,
    ...overrides,
  }
}

export function callRequest(fields: Partial<CallRequest> = {}): CallRequest {
  return {
    model: 'model-1',
    prompts: ['Once'],
    system: null,
    locked: false,
    stream: true,
    max_tokens: 16,
    n: 1,
    parameters: {},
    ...fields,
  }
}

export interface CallSetting extends Partial<ConnectOptions> {
  readonly request?: Partial<CallRequest>
  readonly signal?: AbortSignal
  readonly onAccepted?: () => void
  readonly progress?: CallContext['progress']
}

/** Starts one call with short time limits. */
export function startCall(send: Send, setting: CallSetting = {}): Reading<RawDelta> {
  const { request, signal, onAccepted, progress, ...options } = setting
  const limits = { firstByteMs: 300, idleMs: 200, deadlineMs: 1000, maxOutputBytes: 4096 }
  const owner = { auth: 'bearer', key: CANARY } as const
  const connection = connectionTo('upstream', send, { ...limits, ...owner, ...options })
  const context = {
    ...connection,
    now: Date.now,
    deadlineAt: Date.now() + connection.deadlineMs,
    progress: progress ?? (() => 'running' as const),
    ...(onAccepted === undefined ? {} : { onAccepted }),
  }
  const wire = connection.upstream.toWire(callRequest(request), connection)
  return new Reading<RawDelta>(
    (push, signal) => call(wire, { ...context, push, signal }),
    signal ?? new AbortController().signal,
  )
}

/** Answers the n-th call of a route, counted from 0. */
export type Answering = (call: number, request: Request) => Response | Promise<Response>

export interface UpstreamSetting extends Partial<Omit<ConnectOptions, 'unsupported'>> {
  readonly answers: Answering
  readonly unsupported?: readonly Feature[]
}

interface LeaseLog {
  readonly extent: Extent
  readonly target: Target
  accepted: number
  settled: { usage: unknown; chars: number }[]
}

/** What a route delivers: the upstream that answers, its deltas, and how the answer ended. */
export type RouteDelta =
  | ({ readonly kind: 'answered' } & Answered)
  | AnswerDelta
  | ({ readonly kind: 'ended' } & Ended)

/** A route through these upstreams, in order, with a settable clock, and all that it does. */
export function startRoute(
  settings: Readonly<Record<string, Answering | UpstreamSetting>>,
  overrides: Partial<RouteContext> = {},
) {
  const clock = { ms: START }
  const events: Event[] = []
  const leases: LeaseLog[] = []
  const waits: number[] = []
  const calls: { upstream: string; body: Record<string, unknown>; signal: AbortSignal }[] = []
  const controller = new AbortController()
  const connections = Object.entries(settings).map(([name, setting]) => {
    const given = typeof setting === 'function' ? { answers: setting } : setting
    const { answers, wire = 'completions', ...options } = given
    const { unsupported = wire === 'chat' ? ['n'] : [] } = given
    const send = async (request: Request) => {
      const body = (await request.clone().json()) as Record<string, unknown>
      calls.push({ upstream: name, body, signal: request.signal })
      return await answers(calls.length - 1, request)
    }
    return connectionTo(name, send, {
      auth: 'bearer',
      key: CANARY,
      deadlineMs: 120_000,
      retries: 1,
      ...options,
      wire,
      unsupported: new Set([...wireLimits[wire], ...unsupported] as Feature[]),
    })
  })
  const context = routeContext(connections, {
    stream: false,
    signal: controller.signal,
    now: () => clock.ms,
    wait: async (ms, signal) => {
      signal.throwIfAborted()
      waits.push(ms)
      clock.ms += ms
    },
    report: (event) => {
      recordOutput(JSON.stringify(event))
      events.push(event)
    },
    reserve: async (extent, target) => {
      const log: LeaseLog = { extent, target, accepted: 0, settled: [] }
      leases.push(log)
      return {
        accepted: () => {
          log.accepted += 1
        },
        settle: (end) => {
          log.settled.push({ ...end })
        },
      }
    },
    ...overrides,
  })
  const trace = { attempts: 0, upstream: null as string | null }
  const route = Object.keys(settings).map(targetOf)
  const request = (fields: Partial<EffectiveRequest> = {}) => effectiveRequest({ route, ...fields })
  const targets = (fields: Partial<EffectiveRequest> = {}) =>
    capableTargets(request(fields), context.connections)
  const ask = (fields: Partial<EffectiveRequest> = {}, signal = context.signal) => {
    const asked = { ...request(fields), route: targets(fields) }
    return new Reading<RouteDelta>(async (push, signal) => {
      const begun: RouteDelta[] = []
      const { usage, whole } = await answer(asked, { ...context, signal }, trace, {
        begin: (by) => begun.push({ kind: 'answered', ...by }),
        push: (deltas) => push([...begun.splice(0), ...deltas]),
      })
      push([{ kind: 'ended', usage, whole }])
    }, signal)
  }
  const run = (fields: Partial<EffectiveRequest> = {}, signal = context.signal) =>
    ask(fields, signal).rest()
  const asked = () => calls.map(({ upstream }) => upstream).join(' ')
  return { ask, run, targets, asked, controller, clock, events, leases, waits, calls, trace }
}

/** An upstream with a model of its own. */
export const targetOf = (upstream: string): Target => ({
  upstream,
  upstream_model: `${upstream}-1`,
})
