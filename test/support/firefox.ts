// Firefox over WebDriver BiDi, as far as a smoke test needs it. The BiDi of playwright-core sends
// commands that Firefox ESR does not have yet. https://w3c.github.io/webdriver-bidi/
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { createInterface } from 'node:readline'

/** The Firefox of this machine: one path, or no path. Chromium is required, Firefox is not. */
export const firefoxes: readonly string[] = ['firefox-esr', 'firefox']
  .flatMap((name) =>
    (process.env['PATH'] ?? '').split(delimiter).map((folder) => join(folder, name)),
  )
  .filter((path) => existsSync(path))
  .slice(0, 1)

type Params = Readonly<Record<string, unknown>>

export class Firefox {
  /** Errors of the console, policies included, and uncaught exceptions. */
  readonly errors: string[] = []
  readonly #process: ChildProcess
  readonly #profile: string
  readonly #socket: WebSocket
  readonly #pending = new Map<number, (message: Record<string, never>) => void>()
  #context = ''

  private constructor(process: ChildProcess, profile: string, socket: WebSocket) {
    this.#process = process
    this.#profile = profile
    this.#socket = socket
    socket.addEventListener('message', ({ data }) => {
      const message = JSON.parse(String(data))
      this.#pending.get(message.id)?.(message)
      const { level, text } = message.params ?? {}
      if (message.method === 'log.entryAdded' && level === 'error') this.errors.push(text)
    })
  }

  static async launch(path: string): Promise<Firefox> {
    const profile = mkdtempSync(join(tmpdir(), 'firefox-'))
    const args = ['--headless', '--remote-debugging-port=0', '--profile', profile]
    const process = spawn(path, args, { stdio: ['ignore', 'ignore', 'pipe'] })
    let address = ''
    for await (const line of createInterface({ input: process.stderr! })) {
      address = /WebDriver BiDi listening on (\S+)/.exec(line)?.[1] ?? ''
      if (address !== '') break
    }
    process.stderr?.resume()
    const socket = new WebSocket(`${address}/session`)
    await once(socket, 'open')
    const firefox = new Firefox(process, profile, socket)
    await firefox.#send('session.new', { capabilities: {} })
    await firefox.#send('session.subscribe', { events: ['log.entryAdded'] })
    const { contexts } = await firefox.#send('browsingContext.getTree', {})
    firefox.#context = contexts[0].context
    return firefox
  }

  async goto(url: string): Promise<void> {
    await this.#send('browsingContext.navigate', { context: this.#context, url, wait: 'complete' })
  }

  /** The value of an expression, as a string. */
  async text(expression: string): Promise<string> {
    const { result } = await this.#send('script.evaluate', {
      expression: `String(${expression})`,
      target: { context: this.#context },
      awaitPromise: true,
    })
    return result?.value ?? ''
  }

  /** Presses keys, one after the other. */
  async press(...keys: readonly string[]): Promise<void> {
    const actions = keys.flatMap((value) => [
      { type: 'keyDown', value },
      { type: 'keyUp', value },
    ])
    await this.#act(actions)
  }

  /** Presses a key while Control is pressed. */
  async control(value: string): Promise<void> {
    const [down, up] = ['keyDown', 'keyUp']
    const held = { value: '\uE009' }
    await this.#act([
      { type: down, ...held },
      { type: down, value },
      { type: up, value },
      { type: up, ...held },
    ])
  }

  async close(): Promise<void> {
    const ended = once(this.#process, 'exit')
    this.#socket.close()
    this.#process.kill()
    await ended
    rmSync(this.#profile, { recursive: true, force: true, maxRetries: 5 })
  }

  async #act(actions: readonly Params[]): Promise<void> {
    const source = { type: 'key', id: 'keyboard', actions }
    await this.#send('input.performActions', { context: this.#context, actions: [source] })
  }

  // biome-ignore lint/suspicious/noExplicitAny: each command has a result of its own.
  async #send(method: string, params: Params): Promise<any> {
    const id = this.#pending.size + 1
    const answered = new Promise<Record<string, never>>((resolve) => this.#pending.set(id, resolve))
    this.#socket.send(JSON.stringify({ id, method, params }))
    const { type, result, error, message } = await answered
    if (type === 'error') throw new Error(`${method}: ${error} ${message}`)
    return result
  }
}
