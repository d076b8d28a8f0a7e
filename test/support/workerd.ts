// The built Worker in real workerd, with the dates, flags, KV, Durable Objects and rate limits of
// wrangler.toml. Several isolates can share them. Every log line is searched for the canary key.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { basename, dirname, resolve } from 'node:path'
import { Log, LogLevel, Miniflare, type MiniflareOptions } from 'miniflare'
import { inject } from 'vitest'
import { bundleOf } from '../../scripts/bundle-size.ts'
import { CANARY, leakIn, recordOutput } from './canary.ts'
import { Client, overSocket } from './client.ts'
import type { Gateway } from './gateway.ts'
import { withRejectionLog } from './rejection-log.ts'
import { WorkerLog } from './worker-log.ts'

export type JsonValue =
  | string
  | number
  | boolean
  | null
  | readonly JsonValue[]
  | { readonly [key: string]: JsonValue }

type WorkerConfig = MiniflareOptions['workers'][number]['config']
type Bindings = NonNullable<WorkerConfig['env']>

export interface WorkersOptions {
  /** The variable CONFIG. Absent: as in wrangler.toml. */
  readonly config?: JsonValue
  /** Absent: UPSTREAM_API_KEY, set to the canary. */
  readonly secrets?: Readonly<Record<string, string>>
  /** How many isolates of the same Worker. Default 1. */
  readonly isolates?: number
  /** A folder to persist storage in. Absent: storage is in memory. */
  readonly persistIn?: string
  /** Also serve the pages. Cloudflare's asset router then runs in front of the Worker. */
  readonly site?: boolean
  /** Bindings of wrangler.toml to leave out. */
  readonly without?: readonly string[]
  /**
   * A main module that wraps the Worker's own, which it imports as './worker.js'. Used to break
   * the platform.
   */
  readonly main?: string
}

export interface Workers extends Gateway {
  /** One per isolate. */
  readonly urls: readonly [URL, ...URL[]]
  /** The first one. */
  readonly url: URL
  /** A client for the n-th isolate, by default the first. */
  client(isolate?: number): Client
  /** Resident memory of the workerd process, in bytes. */
  residentBytes(): number
  /** Triggers the cron of the first isolate, and waits for it. */
  cron(): Promise<void>
  /** Writes to CACHE directly. */
  kvPut(key: string, value: string): Promise<void>
  /** Stops it. @throws when the canary key is in its log or in KV */
  dispose(): Promise<void>
}

/** Start it in `beforeAll`, dispose it in `afterAll`. */
export async function startWorkers(options: WorkersOptions = {}): Promise<Workers> {
  const { isolates = 1, persistIn } = options
  const log = new WorkerLog()
  const manifest = await modulesOf(inject('bundle'), options.main)
  const others = new Set(workerdPids())
  const names = Array.from({ length: isolates }, (_, i) => `isolate-${i}`)
  const dev = {
    // Connect to the Worker directly: no proxy that adds, hides or retries anything.
    unsafeDirectSockets: [{ host: '127.0.0.1', port: 0 }],
    stripCfConnectingIp: false,
  }
  const miniflare = new Miniflare({
    log: new Log(LogLevel.NONE),
    handleStructuredLogs: ({ message }) => log.add(message),
    cf: false,
    telemetry: { enabled: false },
    enableDevRegistry: false,
    ...(persistIn === undefined ? {} : { resourcePersistencePath: persistIn }),
    workers: [
      ...names.map((name) => ({
        config: workerConfig(name, names[0] ?? name, manifest, options),
        dev,
      })),
      ...(options.site ? [] : [{ config: filesConfig() }]),
    ],
  })
  const urls = await Promise.all(names.map((name) => miniflare.unsafeGetDirectURL(name)))
  const [url = new URL('http://none.invalid'), ...further] = urls
  const pid = workerdPids().find((other) => !others.has(other))
  const kvEntries = async () => {
    if (options.without?.includes('CACHE')) return new Map<string, string>()
    const kv = await miniflare.getKVNamespace('CACHE', names[0])
    const { keys } = await kv.list()
    const entries = new Map<string, string>()
    for (const { name } of keys) {
      const value = await kv.get(name, 'text')
      if (value !== null) entries.set(name, value)
    }
    recordOutput(...entries.keys(), ...entries.values())
    return entries
  }
  return {
    urls: [url, ...further],
    url,
    log,
    client: (isolate = 0) => new Client(overSocket(urls[isolate] ?? url)),
    kvEntries,
    residentBytes() {
      const status = readFileSync(`/proc/${pid}/status`, 'utf8')
      return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) * 1024
    },
    async cron() {
      const worker = await miniflare.getWorker(names[0])
      const { outcome } = await worker.scheduled()
      if (outcome !== 'ok') throw new Error(`the cron ended with ${outcome}`)
    },
    async kvPut(key, value) {
      const kv = await miniflare.getKVNamespace('CACHE', names[0])
      await kv.put(key, value)
    },
    async dispose() {
      const stored = [...(await kvEntries()).values()]
      await miniflare.dispose()
      // Log lines after the last test, and values that are still stored.
      const lines = [...log.takeRuntimeLines(), ...log.events.map((event) => JSON.stringify(event))]
      if ([...stored, ...lines].some((text) => leakIn(text) !== null)) {
        throw new Error('the canary key is in the log or in KV')
      }
    },
  }
}

/** workerd processes started by this process. Linux only. */
function workerdPids(): number[] {
  if (!existsSync('/proc/self/stat')) return []
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
        const [, name = '', parent] = /^\d+ \((.*)\) \S (\d+)/s.exec(stat) ?? []
        return name.startsWith('workerd') && Number(parent) === process.pid
      } catch {
        // The process has just ended.
        return false
      }
    })
}

type Manifest = NonNullable<WorkerConfig['manifest']>

/** The bundle with its source maps, and the test's main module if there is one. */
async function modulesOf(bundle: string, main: string | undefined): Promise<Manifest> {
  const name = basename(bundle)
  const modules: Manifest['modules'] = {}
  const { start, later } = bundleOf(bundle)
  for (const path of [...start, ...later]) {
    modules[basename(path)] = { type: 'esm', contents: await readFile(path, 'utf8') }
    const map = await readFile(`${path}.map`, 'utf8')
    modules[`${basename(path)}.map`] = { type: 'sourcemap', contents: map }
  }
  if (main !== undefined) modules['main.js'] = { type: 'esm', contents: main }
  modules['watched.js'] = {
    type: 'esm',
    contents: withRejectionLog(main === undefined ? name : 'main.js'),
  }
  return {
    mainModule: 'watched.js',
    modulesRoot: resolve(dirname(bundle)),
    modules,
  }
}

/** The Worker's settings from wrangler.toml, with the options applied. */
function workerConfig(
  name: string,
  owner: string,
  manifest: Manifest,
  { config, secrets = { UPSTREAM_API_KEY: CANARY }, without = [], site }: WorkersOptions,
): WorkerConfig {
  const raw = inject('wranglerConfig')
  const env: Bindings = {}
  for (const [variable, value] of Object.entries(raw.vars ?? {})) {
    env[variable] = { type: 'json', value: value as never }
  }
  if (config !== undefined) env['CONFIG'] = { type: 'json', value: config as never }
  for (const [secret, value] of Object.entries(secrets)) env[secret] = { type: 'text', value }
  for (const { binding } of raw.kv_namespaces ?? []) env[binding] = { type: 'kv', id: binding }
  for (const { name: binding, class_name } of raw.durable_objects?.bindings ?? []) {
    env[binding] = { type: 'durable-object', worker: owner, exportName: class_name }
  }
  for (const { name: binding, namespace_id, simple } of raw.ratelimits ?? []) {
    env[binding] = { type: 'rate-limit', namespace: namespace_id, simple }
  }
  const { directory = '', run_worker_first: runWorkerFirst = false, binding } = raw.assets ?? {}
  if (binding !== undefined) {
    env[binding] = site ? { type: 'assets' } : { type: 'worker', worker: FILES }
  }
  for (const binding of without) delete env[binding]
  const exports: NonNullable<WorkerConfig['exports']> = {}
  for (const [className, sqlite] of name === owner ? inject('objectClasses') : []) {
    exports[className] = { type: 'durable-object', storage: sqlite ? 'sqlite' : 'legacy-kv' }
  }
  const { compatibility_date: compatibilityDate = '', compatibility_flags: flags = [] } = raw
  return {
    name,
    compatibilityDate,
    compatibilityFlags: flags,
    manifest,
    env,
    exports,
    ...(site
      ? { assets: { directory: resolve(directory), hasUserWorker: true, runWorkerFirst } }
      : {}),
  }
}

const FILES = 'files'

/**
 * A Worker that has the static files and nothing else. With files of its own our Worker would have
 * Cloudflare's router in front of it.
 */
function filesConfig(): WorkerConfig {
  const raw = inject('wranglerConfig')
  const { compatibility_date: compatibilityDate = '', assets } = raw
  return {
    name: FILES,
    compatibilityDate,
    // Never called, but miniflare wants one.
    manifest: {
      mainModule: 'none.js',
      modulesRoot: resolve('.'),
      modules: { 'none.js': { type: 'esm', contents: 'export default {}' } },
    },
    assets: { directory: resolve(assets?.directory ?? ''), hasUserWorker: false },
  }
}
