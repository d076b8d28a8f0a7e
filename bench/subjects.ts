// The Workers that are measured: ours as it is deployed, and the floors, each in a workerd of its own
// with nothing in front of it.
import { readdirSync, readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { Log, LogLevel, Miniflare, type MiniflareOptions } from 'miniflare'
import {
  experimental_readRawConfig,
  unstable_getDurableObjectClassNameToUseSQLiteMap,
} from 'wrangler'

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

const { rawConfig: raw } = experimental_readRawConfig({ config: 'wrangler.toml' })
const date = raw.compatibility_date ?? ''
const flags = raw.compatibility_flags ?? []

/** Our bundle, with this CONFIG. */
export async function ours(config: unknown, isolates = 1): Promise<Subject> {
  const names = Array.from({ length: isolates }, (_, i) => `ours-${i}`)
  const owner = names[0] ?? ''
  const env: Env = { CONFIG: { type: 'json', value: config as never } }
  env['OPERATOR_TOKEN'] = { type: 'text', value: 'the operator of the benchmark' }
  for (const { binding } of raw.kv_namespaces ?? []) env[binding] = { type: 'kv', id: binding }
  for (const { name, class_name } of raw.durable_objects?.bindings ?? []) {
    env[name] = { type: 'durable-object', worker: owner, exportName: class_name }
  }
  for (const { name, namespace_id, simple } of raw.ratelimits ?? []) {
    env[name] = { type: 'rate-limit', namespace: namespace_id, simple }
  }
  const exports: Exports = {}
  for (const [name] of unstable_getDurableObjectClassNameToUseSQLiteMap(
    raw.migrations,
    raw.exports,
  )) {
    exports[name] = { type: 'durable-object', storage: 'sqlite' }
  }
  return await start(
    names.map((name) => ({
      name,
      compatibilityDate: date,
      compatibilityFlags: flags,
      manifest: manifestOf('dist/worker.js'),
      env,
      exports: name === owner ? exports : {},
    })),
  )
}

/** One of bench/floors/. */
export async function floor(
  name: string,
  variables: Readonly<Record<string, string>> = {},
): Promise<Subject> {
  const env: Env = { CACHE: { type: 'kv', id: 'CACHE' } }
  for (const [variable, value] of Object.entries(variables)) env[variable] = { type: 'text', value }
  const exports: Exports = {}
  if (name === 'miss') {
    for (const [binding, exportName] of [
      ['FLIGHTS', 'Flight'],
      ['LEDGER', 'Ledger'],
    ] as const) {
      env[binding] = { type: 'durable-object', worker: name, exportName }
      exports[exportName] = { type: 'durable-object', storage: 'sqlite' }
    }
  }
  const manifest = manifestOf(`bench/floors/${name}.js`)
  return await start([
    { name, compatibilityDate: date, compatibilityFlags: flags, manifest, env, exports },
  ])
}

function manifestOf(path: string): NonNullable<WorkerConfig['manifest']> {
  return {
    mainModule: 'main.js',
    modulesRoot: resolve('.'),
    modules: { 'main.js': { type: 'esm', contents: readFileSync(path, 'utf8') } },
  }
}

async function start(configs: readonly WorkerConfig[]): Promise<Subject> {
  const before = new Set(workerds())
  const miniflare = new Miniflare({
    log: new Log(LogLevel.NONE),
    // The log's lines are written by workerd and thrown away here.
    handleStructuredLogs: () => {},
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
