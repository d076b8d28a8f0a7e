// `npm start`: `wrangler dev`, with what its users ask for: where to go next, what is missing, and a
// restart after each change of wrangler.toml or .dev.vars. Arguments are passed on to wrangler.
import { type ChildProcess, spawn } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { savedSince, watchFiles } from './start/watch.ts'
import { welcome } from './start/welcome.ts'

const WRANGLER = 'node_modules/wrangler/bin/wrangler.js'
const DEFAULT_PORT = 8787
const PARENT_MS = 500
/** How often an incomplete wrangler.toml is read. */
const POLL_MS = 200
const MAX_PORT = 65_535
const FILES = ['wrangler.toml', '.dev.vars']

const args = process.argv.slice(2)
/** The port that the Worker runs on, so that it keeps it when it is restarted; 0: any. */
let port = takePort(args)
let child = start()
let isRestarting = false

watchFiles('.', FILES, restart)

let isStopping = false
function stop(): void {
  isStopping = true
  // A terminal sends Ctrl-C to wrangler, too, for which a second signal changes nothing.
  child.kill()
}
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, stop)
// Between npm and this script is a shell, which ends with npm and passes no signal on.
if (process.env['npm_lifecycle_event'] === 'start') {
  const parent = process.ppid
  setInterval(() => process.ppid !== parent && stop(), PARENT_MS).unref()
}

/** Removes `--port 9000`, `--port=9000` or `-p 9000`. Ends the process if it is no port. */
function takePort(list: string[]): number | null {
  const at = list.findIndex((arg) => /^(--port|-p)(=|$)/.test(arg))
  if (at === -1) return null
  const [flag = '', next] = list.splice(at, list[at]?.includes('=') ? 1 : 2)
  const value = flag.split('=')[1] ?? next
  const number = /^\d+$/.test(value ?? '') ? Number(value) : Number.NaN
  if (number <= MAX_PORT) return number
  console.error(
    `Cannot use the port ${value ?? ''}: expected a number up to ${MAX_PORT}, as in npm start -- --port 9000`,
  )
  process.exit(1)
}

function start(): ChildProcess {
  const startedAt = Date.now()
  const own = port === null ? [] : ['--port', String(port)]
  const next = spawn(
    process.execPath,
    // Its list of keys would be drawn over the lines of this script.
    [WRANGLER, 'dev', '--show-interactive-dev-session=false', ...own, ...args],
    {
      stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
      env: {
        // Otherwise it looks up where this machine is, and prints a stack trace without a network.
        CLOUDFLARE_CF_FETCH_ENABLED: 'false',
        // Its own watcher misses some changes, and ends it if wrangler.toml is empty during a save.
        WRANGLER_CI_DISABLE_CONFIG_WATCHING: 'true',
        ...process.env,
      },
    },
  )
  // Loading the check takes a second, in which wrangler starts.
  const checked = check()
  next.on('message', (message) => {
    const ready = JSON.parse(String(message)) as { event?: string; ip: string; port: number }
    if (ready.event === 'DEV_SERVER_READY') void greet(ready, checked)
  })
  next.on('exit', (code) => void startAgain(code ?? 1, startedAt))
  return next
}

/** After wrangler has ended, for a restart or because it has read a file during a save. */
async function startAgain(code: number, startedAt: number): Promise<void> {
  if (!isRestarting && !isStopping && savedSince(startedAt, '.', FILES)) {
    console.log('\nA file was saved while wrangler was reading it: restarting.')
    isRestarting = true
  }
  while (isRestarting && !isStopping && !(await isComplete())) await sleep(POLL_MS)
  if (!isRestarting || isStopping) process.exit(code)
  isRestarting = false
  child = start()
}

function isComplete(): Promise<boolean> {
  return readComplete().then(
    () => true,
    () => false,
  )
}

/** @throws Error if wrangler could not start with wrangler.toml, as in the middle of a save */
async function readComplete() {
  const { readWranglerToml } = await import('./config/check.ts')
  const toml = readWranglerToml('wrangler.toml')
  if (toml.main === undefined) throw new Error('wrangler.toml has no "main": it is incomplete.')
  return toml
}

async function greet(ready: { ip: string; port: number }, checked: ReturnType<typeof check>) {
  const devVars = await readFile('.dev.vars', 'utf8').catch(() => null)
  const scheme = args.join(' ').match(/--local-protocol[= ]https/) ? 'https' : 'http'
  const url = `${scheme}://${ready.ip}:${ready.port}`
  const { config, devPort } = await checked
  console.log(welcome({ url, port: port ?? devPort, devVars, config }))
  port = ready.port
}

/** Prints the faults of CONFIG. */
async function check() {
  const { checkConfig } = await import('./config/check.ts')
  try {
    const { vars, dev } = await readComplete()
    const { config, faults } = checkConfig(vars?.['CONFIG'])
    for (const { path, message } of faults) console.error(`${path}: ${message}`)
    return { config, isComplete: true, devPort: dev?.port ?? DEFAULT_PORT }
  } catch (error) {
    console.error(error instanceof Error ? error.message : error)
    return { config: null, isComplete: false, devPort: DEFAULT_PORT }
  }
}

async function restart(name: string): Promise<void> {
  // Wrangler would not start, but the one that runs goes on.
  if (name === 'wrangler.toml' && !(await check()).isComplete) return
  if (isRestarting || isStopping) return
  console.log(`\n${name} has changed: restarting.`)
  isRestarting = true
  child.kill()
}
