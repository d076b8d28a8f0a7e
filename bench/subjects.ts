// The Workers that are measured: ours, the floors and other gateways, each in its own workerd that is
// reached directly, without miniflare's proxy.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { extname, join, resolve } from 'node:path'
import { setTimeout as passed } from 'node:timers/promises'
import { Log, LogLevel, Miniflare, type MiniflareOptions } from 'miniflare'
import {
  experimental_readRawConfig,
  unstable_getDurableObjectClassNameToUseSQLiteMap,
} from 'wrangler'
import { withRejectionLog } from '../test/support/rejection-log.ts'

type WorkerConfig = MiniflareOptions['workers'][number]['config']
type Env = NonNullable<WorkerConfig['env']>
type Exports = NonNullable<WorkerConfig['exports']>
type Manifest = NonNullable<WorkerConfig['manifest']>

/** A completion request, independent of how a subject expects it. */
export interface Question {
  readonly prompt: string
  readonly stream?: boolean
  /** Send it as a chat with one message. */
  readonly chat?: boolean
  /** A field that is not part of the cache key. */
  readonly user?: string
}

export interface Sent {
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

export interface Subject {
  /** The address of each isolate. */
  readonly urls: readonly URL[]
  readonly url: URL
  sent(question: Question): Sent
  /** The CPU time used by its workerd so far. */
  cpuMs(): number
  /** Waits until it uses no more CPU. */
  quiet(): Promise<void>
  /** Resident memory, in bytes. */
  memoryBytes(): number
  readonly miniflare: Miniflare
  stop(): Promise<void>
}

// The simulator stores KV and the objects' SQLite files under TMPDIR. On a disk, each new object would
// cost it milliseconds of CPU, so use a RAM disk.
const MEMORY_DISK = '/dev/shm'
if (existsSync(MEMORY_DISK)) {
  const folder = mkdtempSync(join(MEMORY_DISK, 'edge-completions-'))
  process.env['TMPDIR'] = folder
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
}

export interface SubjectOptions {
  /** The number of isolates. Default 1. */
  readonly isolates?: number
  /** Opens the inspector, for `bench/heap.ts`. */
  readonly inspected?: boolean
  /** A main module that wraps the Worker's own, which it can import as './worker.js'. */
  readonly main?: string
  /** Receives each line of the log, including unhandled rejections, which workerd does not log itself. */
  readonly onLog?: (line: string) => void
}

const rawConfig = (folder: string) =>
  experimental_readRawConfig({ config: join(folder, 'wrangler.toml') }).rawConfig

/** The bindings in a wrangler.toml. `owner` is the Worker that has the Durable Objects. */
function bindings(owner: string, raw = rawConfig('.')): { env: Env; exports: Exports } {
  const env: Env = {}
  for (const { binding } of raw.kv_namespaces ?? []) env[binding] = { type: 'kv', id: binding }
  for (const { name, class_name } of raw.durable_objects?.bindings ?? []) {
    env[name] = { type: 'durable-object', worker: owner, exportName: class_name }
  }
  for (const { name, namespace_id, simple } of raw.ratelimits ?? []) {
    env[name] = { type: 'rate-limit', namespace: namespace_id, simple }
  }
  // It must be there; nothing here is read from it.
  env[raw.assets?.binding ?? 'ASSETS'] = { type: 'worker', worker: owner }
  const exports: Exports = {}
  const classes = unstable_getDurableObjectClassNameToUseSQLiteMap(raw.migrations, raw.exports)
  for (const [name] of classes) exports[name] = { type: 'durable-object', storage: 'sqlite' }
  return { env, exports }
}

/** A CONFIG with this upstream, and with limits that no benchmark reaches. */
export function configFor(upstreamUrl: string, more: object = {}) {
  return {
    models: [{ id: 'default', upstream: 'bench', upstream_model: 'm' }],
    upstreams: [
      {
        name: 'bench',
        base_url: upstreamUrl,
        max_output_bytes: 16_777_216,
        first_byte_ms: 600_000,
        idle_ms: 600_000,
        deadline_ms: 600_000,
      },
    ],
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

const json = { 'content-type': 'application/json' }

const asPrompt = ({ chat, ...fields }: Question): Sent => ({
  path: '/v1/completions',
  headers: json,
  body: JSON.stringify(fields),
})

const CHAT_PATH = '/v1/chat/completions'

const asChat = ({ prompt, stream, user }: Question): Sent => ({
  path: CHAT_PATH,
  headers: json,
  body: JSON.stringify({ model: 'm', messages: [{ role: 'user', content: prompt }], stream, user }),
})

/** Whether the bundle in dist/ accepts chat requests. */
export const answersChats = () => readFileSync('dist/gateway.js', 'utf8').includes(CHAT_PATH)

/** Our bundle with this CONFIG. @param folder of a built checkout */
export async function ours(
  config: unknown,
  options: SubjectOptions = {},
  folder = '.',
): Promise<Subject> {
  const { isolates = 1, onLog } = options
  const names = Array.from({ length: isolates }, (_, i) => `ours-${i}`)
  const owner = names[0] ?? ''
  const raw = rawConfig(folder)
  const { env, exports } = bindings(owner, raw)
  env['CONFIG'] = { type: 'json', value: config as never }
  env['OPERATOR_TOKEN'] = { type: 'text', value: OPERATOR_TOKEN }
  const main = options.main ?? (onLog === undefined ? undefined : withRejectionLog('worker.js'))
  const workers = names.map((name) => ({
    name,
    compatibilityDate: raw.compatibility_date ?? '',
    compatibilityFlags: raw.compatibility_flags ?? [],
    manifest: manifestOf(join(folder, 'dist'), 'worker.js', main),
    env,
    exports: name === owner ? exports : {},
  }))
  return await start(workers, asPrompt, options)
}

/**
 * A Worker of bench/floors/ with these variables. It gets bindings for the objects it defines. The empty
 * one defines all of ours, because the simulator starts extra Workers for them, and that cost must cancel
 * out.
 */
export async function floor(name: string, variables: Env = {}): Promise<Subject> {
  const folder = 'bench/floors'
  const source = readFileSync(join(folder, `${name}.js`), 'utf8')
  const raw = rawConfig('.')
  const all = bindings(name, raw)
  const has = (className: string) => source.includes(`class ${className} `)
  const env = Object.entries(all.env).filter(
    ([, binding]) => binding.type !== 'durable-object' || has(String(binding.exportName)),
  )
  const worker = {
    name,
    compatibilityDate: raw.compatibility_date ?? '',
    compatibilityFlags: raw.compatibility_flags ?? [],
    manifest: manifestOf(folder, `${name}.js`),
    env: { ...Object.fromEntries(env), ...variables },
    exports: Object.fromEntries(Object.entries(all.exports).filter(([name]) => has(name))),
  }
  return await start([worker], asPrompt)
}

/** `peer.json` next to a peer's bundle. All fields are optional. */
interface PeerFile {
  readonly name?: string
  /** Default: the only `.js` file there. */
  readonly main?: string
  readonly compatibility_date?: string
  readonly compatibility_flags?: readonly string[]
  /** `{upstream}` in a value is replaced by the upstream's address, including `/v1`. */
  readonly vars?: Readonly<Record<string, string>>
  readonly headers?: Readonly<Record<string, string>>
}

/** Defaults that suit Workers configured by UPSTREAM_URL, and Portkey's gateway. */
const PEER_VARS = { UPSTREAM_URL: '{upstream}' }
const PEER_HEADERS = {
  authorization: 'Bearer bench',
  'x-portkey-provider': 'openai',
  'x-portkey-custom-host': '{upstream}',
}

/** Another gateway, given by `--peer DIR`. */
export interface Peer {
  readonly name: string
  /** The path of its main module. */
  readonly main: string
  start(upstreamUrl: string): Promise<Subject>
}

/**
 * Reads a folder written by `wrangler deploy --dry-run --outdir`, with a Worker that answers
 * POST /v1/chat/completions. @throws if the folder has no such Worker
 */
export function peerIn(folder: string): Peer {
  const path = join(folder, 'peer.json')
  const file: PeerFile = existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : {}
  const scripts = readdirSync(folder).filter((name) => ESM.includes(extname(name)))
  const main = file.main ?? scripts[0]
  if (main === undefined || (file.main === undefined && scripts.length > 1)) {
    throw new Error(
      `Cannot use --peer "${folder}": expected one .js file, or peer.json with "main", got ${scripts.length} files`,
    )
  }
  const { name = folder, compatibility_flags: flags = ['nodejs_compat'] } = file
  return {
    name,
    main: join(folder, main),
    async start(upstreamUrl) {
      const filled = (fields: Readonly<Record<string, string>>): [string, string][] =>
        Object.entries(fields).map(([key, value]) => [
          key,
          value.replaceAll('{upstream}', upstreamUrl),
        ])
      const headers = Object.fromEntries(filled({ ...PEER_HEADERS, ...file.headers }))
      const worker = {
        name: 'peer',
        compatibilityDate: file.compatibility_date ?? rawConfig('.').compatibility_date ?? '',
        compatibilityFlags: [...flags],
        manifest: manifestOf(folder, main),
        env: Object.fromEntries(
          filled({ ...PEER_VARS, ...file.vars }).map(([key, value]) => [
            key,
            { type: 'text' as const, value },
          ]),
        ),
      }
      return await start([worker], (question) => {
        const sent = asChat(question)
        return { ...sent, headers: { ...sent.headers, ...headers } }
      })
    },
  }
}

const ESM = ['.js', '.mjs']
const MODULE_TYPES = { '.wasm': 'wasm', '.txt': 'text', '.html': 'text', '.bin': 'data' } as const

/**
 * The manifest with all modules of a folder. @param main its main module
 * @param before a main module that wraps it and imports it by name
 */
function manifestOf(folder: string, main: string, before?: string): Manifest {
  const modules: Manifest['modules'] = {}
  for (const name of readdirSync(folder)) {
    const path = join(folder, name)
    const extension = extname(name)
    if (ESM.includes(extension)) {
      modules[name] = { type: 'esm', contents: readFileSync(path, 'utf8') }
    } else if (extension in MODULE_TYPES) {
      const type = MODULE_TYPES[extension as keyof typeof MODULE_TYPES]
      const contents = readFileSync(path)
      modules[name] = {
        type,
        contents: type === 'text' ? String(contents) : new Uint8Array(contents),
      }
    }
  }
  if (before !== undefined) modules['main.js'] = { type: 'esm', contents: before }
  return {
    mainModule: before === undefined ? main : 'main.js',
    modulesRoot: resolve(folder),
    modules,
  }
}

async function start(
  configs: readonly WorkerConfig[],
  sent: Subject['sent'],
  { inspected = false, onLog = () => {} }: SubjectOptions = {},
): Promise<Subject> {
  const before = new Set(workerds())
  const miniflare = new Miniflare({
    log: new Log(LogLevel.NONE),
    handleStructuredLogs: ({ message }) => {
      if (FATAL.test(message)) console.error(message.slice(0, 300))
      onLog(message)
    },
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
    sent,
    miniflare,
    cpuMs: () => cpuMsOf(pid),
    quiet: () => quiet(pid),
    memoryBytes: () => memoryOf(pid),
    stop: () => miniflare.dispose(),
  }
}

/** Messages after which workerd crashes or refuses all requests. */
const FATAL = /V8 fatal error|Too many open files/

const QUIET_MS = 20
const NOISE_MS = 0.5
const MAX_WAIT_MS = 5000

/** Waits for work after the answer (a KV write, a settlement), which is part of the cost. */
async function quiet(pid: number): Promise<void> {
  const until = Date.now() + MAX_WAIT_MS
  for (let last = -1, now = cpuMsOf(pid); now - last > NOISE_MS && Date.now() < until; ) {
    await passed(QUIET_MS)
    last = now
    now = cpuMsOf(pid)
  }
}

/** The workerd processes that are children of this process. */
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

/** The CPU time of all live threads. The first field of schedstat is the time on a core in ns. */
function cpuMsOf(pid: number): number {
  let ns = 0
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    try {
      ns += Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'utf8').split(' ')[0])
    } catch {
      // The thread has ended since readdir.
    }
  }
  return ns / 1e6
}

function memoryOf(pid: number): number {
  const pages = readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')[1]
  return Number(pages) * 4096
}
