// Firefox over WebDriver BiDi, as far as our tests need it. The BiDi of playwright-core sends
// commands that Firefox ESR does not have yet. https://w3c.github.io/webdriver-bidi/
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { createInterface } from 'node:readline'
import { Engine, type Params, type Scheme } from './engine.ts'

/** The Firefox of this machine: one path, or no path. Chromium is required, Firefox is not. */
export const firefoxes: readonly string[] = ['firefox-esr', 'firefox']
  .flatMap((name) =>
    (process.env['PATH'] ?? '').split(delimiter).map((folder) => join(folder, name)),
  )
  .filter((path) => existsSync(path))
  .slice(0, 1)

export class Firefox extends Engine {
  readonly #process: ChildProcess
  readonly #profile: string
  readonly #socket: WebSocket
  readonly #pending = new Map<number, (message: Record<string, never>) => void>()
  #context = ''

  private constructor(process: ChildProcess, profile: string, socket: WebSocket) {
    super()
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

  static async launch(path: string, scheme: Scheme = 'light'): Promise<Firefox> {
    const profile = mkdtempSync(join(tmpdir(), 'firefox-'))
    const value = scheme === 'dark' ? 0 : 1
    const preference = `user_pref("layout.css.prefers-color-scheme.content-override", ${value});`
    writeFileSync(join(profile, 'user.js'), preference)
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

  async resize(width: number, height: number): Promise<void> {
    const viewport = { width, height }
    await this.#send('browsingContext.setViewport', { context: this.#context, viewport })
  }

  async run(body: string): Promise<string> {
    const { result, exceptionDetails } = await this.#send('script.callFunction', {
      functionDeclaration: `async () => { ${body}\n}`,
      target: { context: this.#context },
      awaitPromise: true,
    })
    if (exceptionDetails !== undefined) throw new Error(exceptionDetails.text)
    return result.value ?? ''
  }

  /** Keys reach a button of a headless Firefox, keypress included, and do not press it. */
  protected override async pressFocused(): Promise<void> {
    await this.text('document.activeElement.click()')
  }

  async close(): Promise<void> {
    const ended = once(this.#process, 'exit')
    this.#socket.close()
    this.#process.kill()
    await ended
    rmSync(this.#profile, { recursive: true, force: true, maxRetries: 5 })
  }

  protected async act(actions: readonly Params[]): Promise<void> {
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
