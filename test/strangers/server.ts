// A server of others, as a process of its own: it listens on a free port of 127.0.0.1, and it ends with
// the tests, also if they fail or are interrupted.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { freePort } from '../support/free-port.ts'

export interface ServerCommand {
  readonly command: string
  readonly args: (port: number) => readonly string[]
  /** It is ready once a GET of this path is answered with 2xx. */
  readonly readyAt: string
  /** In addition to those of this process. */
  readonly env?: Readonly<Record<string, string>>
  readonly cwd?: string
  /** Until it is ready. Default one minute. */
  readonly startMs?: number
}

const POLL_MS = 50
/** How much of its output an error shows. */
const SHOWN = 4000

export class OtherServer {
  readonly #child: ChildProcess
  readonly #killGroup = () => this.#signal('SIGKILL')
  readonly origin: string
  #output = ''

  private constructor({ command, args, env, cwd }: ServerCommand, port: number) {
    this.origin = `http://127.0.0.1:${port}`
    // A group of its own, because some servers start processes, too.
    this.#child = spawn(command, args(port), {
      cwd,
      env: { ...process.env, ...env },
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream?.on('data', (data) => {
        this.#output += String(data)
      })
    }
    this.#child.on('error', (error) => {
      this.#output += String(error)
    })
    process.once('exit', this.#killGroup)
  }

  /** @throws with what it printed, when it ends or is not ready in time */
  static async start(server: ServerCommand): Promise<OtherServer> {
    const { readyAt, startMs = 60_000 } = server
    const started = new OtherServer(server, await freePort())
    const deadline = Date.now() + startMs
    while (!(await started.#answers(readyAt))) {
      if (!started.#isRunning || Date.now() > deadline) {
        await started.kill()
        throw new Error(`${server.command} is not ready: ${started.output.slice(-SHOWN)}`)
      }
      await delay(POLL_MS)
    }
    return started
  }

  /** What it has printed. */
  get output(): string {
    return this.#output
  }

  get #isRunning(): boolean {
    const { pid, exitCode, signalCode } = this.#child
    return pid !== undefined && exitCode === null && signalCode === null
  }

  /** Ends it and all its processes without a chance to finish anything, and waits for the end. */
  async kill(): Promise<void> {
    process.off('exit', this.#killGroup)
    const ended = this.#isRunning ? once(this.#child, 'exit') : null
    this.#signal('SIGKILL')
    await ended
  }

  async #answers(path: string): Promise<boolean> {
    const signal = AbortSignal.timeout(2000)
    return fetch(this.origin + path, { signal }).then(
      async (response) => {
        await response.body?.cancel()
        return response.ok
      },
      () => false,
    )
  }

  #signal(signal: NodeJS.Signals): void {
    const { pid } = this.#child
    if (pid === undefined) return
    try {
      process.kill(-pid, signal)
    } catch {
      // The group has ended.
    }
  }
}
