// The platform as the shells hand it to the parts: clock, chance, timers, bindings, secrets.
// Read once per isolate: the Worker and all objects in it share one configuration and one core.
import { env, waitUntil } from 'cloudflare:workers'
import type { KvNamespace } from '../cache/kv.ts'
import { type Config, type ConfigResult, parseConfig } from '../config.ts'
import { type Core, createCore } from '../core.ts'
import type { Event } from '../events.ts'
import { prompts } from '../prompts.ts'

export type Environment =
  | { readonly config: Config; readonly core: Core }
  | { readonly config: null; readonly result: Extract<ConfigResult, { config: null }> }

/** Bindings, variables and secrets: unknown until they are parsed. */
const bindings = env as unknown as Readonly<Record<string, unknown>>

let read: Environment | null = null

export function environment(): Environment {
  read ??= readEnvironment()
  return read
}

/** A binding that parseConfig has seen to be there. */
export function binding<T>(name: string): T {
  return bindings[name] as T
}

function readEnvironment(): Environment {
  const result = parseConfig({
    config: bindings['CONFIG'],
    prompts,
    secret,
    bound: (name) => typeof bindings[name] === 'object' && bindings[name] !== null,
  })
  if (result.config === null) {
    report({ event: 'misconfigured', faults: result.faults })
    return { config: null, result }
  }
  const { config } = result
  const firstKey = [...config.upstreams.values()].find(({ key }) => key !== null)?.key
  const core = createCore(config, {
    kv: binding<KvNamespace>('CACHE'),
    fetch: (request) => fetch(request),
    now,
    random: Math.random,
    randomBytes,
    wait,
    waitUntil,
    report,
    secret: secret('TOKEN_SECRET') ?? firstKey ?? null,
    operatorToken: secret('OPERATOR_TOKEN') ?? null,
  })
  return { config, core }
}

function secret(name: string): string | undefined {
  const value = bindings[name]
  return typeof value === 'string' ? value : undefined
}

export const now = () => Date.now()
export const randomBytes = (bytes: Uint8Array) => crypto.getRandomValues(bytes)
export const report = (event: Event) => console.log(JSON.stringify(event))
export { waitUntil }

function wait(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason)
    const leave = () => {
      clearTimeout(timer)
      reject(signal.reason)
    }
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', leave)
      resolve()
    }, ms)
    signal.addEventListener('abort', leave, { once: true })
  })
}
