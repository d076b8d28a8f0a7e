// The shell: env → configuration → dependencies → app. The only file that names the platform.
import { waitUntil } from 'cloudflare:workers'
import { Visitors } from './access/visitor.ts'
import { App, type Service } from './app.ts'
import { type KvNamespace, KvTier } from './cache/kv.ts'
import { randomLetters } from './completion/completion.ts'
import { requestParser } from './completion/request.ts'
import { type Config, parseConfig } from './config.ts'
import type { Event } from './events.ts'
import { prompts } from './prompts.ts'
import { Completions } from './routes/completions.ts'
import { connect } from './upstream/connect.ts'
import { createDemo } from './upstream/demo.ts'

/** The bindings and variables of wrangler.toml, and the secrets: unknown until they are parsed. */
export type Env = Readonly<Record<string, unknown>>

const KEEP_ALIVE_MS = 15_000
const KV_REST_MS = 10_000

let current: { readonly env: Env; readonly app: App } | null = null

export default {
  async fetch(request: Request, env: Env): Promise<Response> {
    if (current?.env !== env) current = { env, app: createApp(env) }
    return await current.app.fetch(request)
  },
}

function createApp(env: Env): App {
  const result = parseConfig({
    config: env['CONFIG'],
    prompts,
    secret: (name) => secretOf(env, name),
    bound: (name) => typeof env[name] === 'object' && env[name] !== null,
  })
  const context = { now, report, waitUntil, randomBytes }
  if (result.faults !== null) {
    report({ event: 'misconfigured', faults: result.faults })
    const { origins, faults } = result
    return new App({ origins, originRequired: false, warnings: [] }, context, { faults })
  }
  const { config } = result
  const { origins, originRequired } = config
  return new App({ origins, originRequired, warnings: [] }, context, createService(config, env))
}

function createService(config: Config, env: Env): Service {
  const { limits, cache, models, upstreams, prompts, defaults, freePrompts } = config
  const demo = createDemo({ wait, now, random: Math.random })
  const transports = { http: (request: Request) => fetch(request), demo }
  const kv = new KvTier(
    env['CACHE'] as KvNamespace,
    { waitMs: cache.kv_wait_ms, entryBytes: cache.entry_bytes, restMs: KV_REST_MS },
    { now, report, waitUntil },
  )
  const completions = new Completions(
    {
      body: { maxBytes: limits.body_bytes, deadlineMs: limits.body_ms },
      effective: {
        models,
        prompts,
        freePrompts,
        defaults,
        variableChars: limits.prompt_chars,
      },
      key: {
        version: cache.version,
        addresses: new Map(
          [...upstreams].map(([name, { wire, baseUrl }]) => [name, `${wire} ${baseUrl}`]),
        ),
      },
      cache: {
        ttlSeconds: cache.ttl_seconds,
        staleSeconds: Math.max(cache.stale_while_revalidate_seconds, cache.stale_if_error_seconds),
        browserSeconds: cache.browser_seconds,
        freePrompts: cache.free_prompts,
      },
      prompts,
      keepAliveMs: KEEP_ALIVE_MS,
    },
    {
      parse: requestParser(limits),
      kv,
      visitors: new Visitors(visitorSecret(config, env)),
      connections: new Map(
        [...upstreams].map(([name, upstream]) => [name, connect(upstream, transports)]),
      ),
      now,
      random: Math.random,
      wait,
      newId: () => `cmpl-${randomLetters(28, randomBytes)}`,
      report,
    },
  )
  return { faults: null, completions, offer: { models, prompts } }
}

/** Absent a TOKEN_SECRET the first upstream key does: visitors' hashes need only be unguessable. */
function visitorSecret({ upstreams }: Config, env: Env): string {
  const first = [...upstreams.values()].find(({ key }) => key !== null)?.key
  return secretOf(env, 'TOKEN_SECRET') ?? first ?? randomLetters(43, randomBytes)
}

function secretOf(env: Env, name: string): string | undefined {
  const secret = env[name]
  return typeof secret === 'string' ? secret : undefined
}

const now = () => Date.now()
const randomBytes = (bytes: Uint8Array) => crypto.getRandomValues(bytes)
const report = (event: Event) => console.log(JSON.stringify(event))

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
