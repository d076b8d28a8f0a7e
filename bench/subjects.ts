// The Workers that are measured: ours as it is deployed, and the floors, each in a workerd of its own
// with nothing in front of it.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { Log, LogLevel, Miniflare, type MiniflareOptions } from 'miniflare'
import {
  experimental_readRawConfig,
  unstable_getDurableObjectClassNameToUseSQLiteMap,
} from 'wrangler'
import { watched } from '../test/support/watched.ts'

type WorkerConfig = MiniflareOptions['workers'][number]['config']
type Env = NonNullable<WorkerConfig['env']>
type Exports = NonNullable<WorkerConfig['exports']>

export interface Subject {
  /** Of each isolate. */
  readonly urls: readonly URL[]
  readonly url: URL
  /** CPU time its workerd has used, in ms. */
  cpuMs(): number
  /** Resident memory, in bytes. */
  memoryBytes(): number
  readonly miniflare: Miniflare
  stop(): Promise<void>
}

// The simulator keeps KV and the objects' SQLite below TMPDIR, and asks for it at each start. On a
// real disk a new object costs milliseconds of the simulator's own, on a memory disk it does not.
const MEMORY_DISK = '/dev/shm'
if (existsSync(MEMORY_DISK)) {
  const folder = mkdtempSync(join(MEMORY_DISK, 'edge-completions-'))
  process.env['TMPDIR'] = folder
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
}

export interface SubjectOptions {
  /** How many isolates of the same Worker. Default 1. */
  readonly isolates?: number
  /** Opens the inspector, for `bench/heap.ts`. */
  readonly inspected?: boolean
  /**
   * Gets each line of the log, which is thrown away otherwise. Rejections that nobody handles are
   * in it, too: by itself workerd does not tell of them.
   */
  readonly onLog?: (line: string) => void
}

const { rawConfig: raw } = experimental_readRawConfig({ config: 'wrangler.toml' })
const date = raw.compatibility_date ?? ''
const flags = raw.compatibility_flags ?? []

/** What wrangler.toml binds; the objects are of the Worker of this name. */
function bindings(owner: string): { env: Env; exports: Exports } {
  const env: Env = {}
  for (const { binding } of raw.kv_namespaces ?? []) env[binding] = { type: 'kv', id: binding }
  for (const { name, class_name } of raw.durable_objects?.bindings ?? []) {
    env[name] = { type: 'durable-object', worker: owner, exportName: class_name }
  }
  for (const { name, namespace_id, simple } of raw.ratelimits ?? []) {
    env[name] = { type: 'rate-limit', namespace: namespace_id, simple }
  }
  const exports: Exports = {}
  const classes = unstable_getDurableObjectClassNameToUseSQLiteMap(raw.migrations, raw.exports)
  for (const [name] of classes) exports[name] = { type: 'durable-object', storage: 'sqlite' }
  return { env, exports }
}

/** A CONFIG with this upstream and no limit that a load would reach. */
export function configFor(upstreamUrl: string, more: object = {}) {
  return {
    models: [{ id: 'default', upstream: 'bench', upstream_model: 'm' }],
    upstreams: [{ name: 'bench', base_url: upstreamUrl, max_output_bytes: 16_777_216 }],
    limits: { body_bytes: 65_536, prompt_chars: 60_000, max_tokens: 100_000 },
    budget: {
      tokens_per_day: 9_000_000_000_000,
      tokens_per_visitor_per_day: 9_000_000_000,
      streams_per_visitor: 10_000,
    },
    ...more,
  }
}

export const OPERATOR_TOKEN = 'operator-token-of-the-benchmark-Zq8'

/** Our bundle, with this CONFIG. */
export async function ours(config: unknown, options: SubjectOptions = {}): Promise<Subject> {
  const { isolates = 1, onLog } = options
  const names = Array.from({ length: isolates }, (_, i) => `ours-${i}`)
  const owner = names[0] ?? ''
  const { env, exports } = bindings(owner)
  env['CONFIG'] = { type: 'json', value: config as never }
  env['OPERATOR_TOKEN'] = { type: 'text', value: OPERATOR_TOKEN }
  return await start(
    names.map((name) => ({
      name,
      compatibilityDate: date,
      compatibilityFlags: flags,
      manifest: manifestOf(
        'dist/worker.js',
        onLog === undefined ? undefined : watched('worker.js'),
      ),
      env,
      exports: name === owner ? exports : {},
    })),
    options,
  )
}

/** One of bench/floors/. */
export async function floor(
  name: string,
  variables: Readonly<Record<string, string>> = {},
  options: SubjectOptions = {},
): Promise<Subject> {
  const { env, exports } = floorBindings(name)
  for (const [variable, value] of Object.entries(variables)) env[variable] = { type: 'text', value }
  const path = (floor: string) => `bench/floors/${floor}.js`
  const manifest =
    name === 'miss-duties'
      ? manifestOf(path('miss'), readFileSync(path(name), 'utf8'), 'miss.js')
      : manifestOf(path(name))
  return await start(
    [{ name, compatibilityDate: date, compatibilityFlags: flags, manifest, env, exports }],
    options,
  )
}

/**
 * What a floor needs and no more. The empty Worker has all of ours: the simulator starts Workers of
 * its own for them, and what those cost is neither's.
 */
function floorBindings(name: string): { env: Env; exports: Exports } {
  if (name === 'empty') return bindings(name)
  const env: Env = { CACHE: { type: 'kv', id: 'CACHE' } }
  const exports: Exports = {}
  const { SPEND_LIMIT: limit } = bindings(name).env
  if (name === 'miss-duties' && limit !== undefined) env['SPEND_LIMIT'] = limit
  for (const [binding, exportName] of name.startsWith('miss') ? Object.entries(MISS_OBJECTS) : []) {
    env[binding] = { type: 'durable-object', worker: name, exportName }
    exports[exportName] = { type: 'durable-object', storage: 'sqlite' }
  }
  return { env, exports }
}

const MISS_OBJECTS = { FLIGHTS: 'Flight', LEDGER: 'Ledger' }

/** @param main a module that stands before it and finds it as './worker.js' */
/** @param main a module before it, which finds it by this name */
function manifestOf(
  path: string,
  main?: string,
  name = 'worker.js',
): NonNullable<WorkerConfig['manifest']> {
  const worker = { type: 'esm', contents: readFileSync(path, 'utf8') } as const
  return {
    mainModule: main === undefined ? name : 'main.js',
    modulesRoot: resolve('.'),
    modules: {
      [name]: worker,
      ...(main === undefined ? {} : { 'main.js': { type: 'esm', contents: main } }),
    },
  }
}

async function start(
  configs: readonly WorkerConfig[],
  { inspected = false, onLog = () => {} }: SubjectOptions,
): Promise<Subject> {
  const before = new Set(workerds())
  const miniflare = new Miniflare({
    log: new Log(LogLevel.NONE),
    handleStructuredLogs: ({ message }) => onLog(message),
    ...(inspected ? { inspectorPort: 0 } : {}),
    cf: false,
    telemetry: { enabled: false },
    enableDevRegistry: false,
    workers: configs.map((config) => ({
      config,
      dev: {
        unsafeDirectSockets: [{ host: '127.0.0.1', port: 0 }],
        stripCfConnectingIp: false,
      },
    })),
  })
  const urls = await Promise.all(configs.map(({ name }) => miniflare.unsafeGetDirectURL(name)))
  const pid = workerds().find((other) => !before.has(other))
  const [url] = urls
  if (pid === undefined || url === undefined) throw new Error('workerd did not start')
  return {
    urls,
    url,
    miniflare,
    cpuMs: () => cpuMsOf(pid),
    memoryBytes: () => memoryOf(pid),
    stop: () => miniflare.dispose(),
  }
}

/** Children of this process that are workerd. */
function workerds(): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
        const [, comm = '', rest = ''] = /^\d+ \((.*)\) (.*)$/s.exec(stat) ?? []
        return comm.startsWith('workerd') && Number(rest.split(' ')[1]) === process.pid
      } catch {
        return false
      }
    })
}

/** Of all threads, ended ones apart: the first field of schedstat is time on a core, in ns. */
function cpuMsOf(pid: number): number {
  let ns = 0
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    try {
      ns += Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'utf8').split(' ')[0])
    } catch {
      // The thread has just ended.
    }
  }
  return ns / 1e6
}

function memoryOf(pid: number): number {
  const pages = readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')[1]
  return Number(pages) * 4096
}
