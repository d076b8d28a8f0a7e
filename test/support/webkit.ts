// WebKitGTK over WebDriver: Debian's packages webkit2gtk-driver and xvfb, with the MiniBrowser that
// comes with the former. https://www.w3.org/TR/webdriver2/
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as wait } from 'node:timers/promises'
import { Engine, type Params, type Scheme } from './engine.ts'

const driver = '/usr/bin/WebKitWebDriver'
const screen = '/usr/bin/Xvfb'

/** The MiniBrowser of this machine: one path, or no path. */
export const webKits: readonly string[] = ['x86_64', 'aarch64']
  .map((machine) => `/usr/lib/${machine}-linux-gnu/webkit2gtk-4.1/MiniBrowser`)
  .filter((path) => [path, driver, screen].every((each) => existsSync(each)))

// The buttons of the toolbar would make the window wider than a phone.
const NARROW = '* { min-width: 0; padding: 0; margin: 0; border-width: 0; font-size: 1px }'

/** It has no log of errors: `errors` stays empty. In automation it does not print the console either. */
export class WebKit extends Engine {
  readonly #processes: readonly ChildProcess[]
  readonly #home: string
  readonly #driver: string
  #session = ''

  private constructor(processes: readonly ChildProcess[], home: string, port: number) {
    super()
    this.#processes = processes
    this.#home = home
    this.#driver = `http://127.0.0.1:${port}`
  }

  static async launch(path: string, scheme: Scheme = 'light'): Promise<WebKit> {
    const home = mkdtempSync(join(tmpdir(), 'webkit-'))
    mkdirSync(join(home, 'gtk-3.0'))
    writeFileSync(join(home, 'gtk-3.0', 'gtk.css'), NARROW)
    // It writes the number of the first free display.
    const args = ['-displayfd', '1', '-screen', '0', '1400x1100x24', '-nolisten', 'tcp']
    const display = spawn(screen, args, { stdio: ['ignore', 'pipe', 'ignore'] })
    const [number] = await once(createInterface({ input: display.stdout! }), 'line')
    const port = await freePort()
    const env = {
      ...process.env,
      DISPLAY: `:${number}`,
      GDK_BACKEND: 'x11',
      // "C" is no language tag, and uPlot formats numbers in the language of the browser.
      LANG: 'en_GB.UTF-8',
      LANGUAGE: 'en_GB',
      GTK_THEME: scheme === 'dark' ? 'Adwaita:dark' : 'Adwaita',
      NO_AT_BRIDGE: '1',
      XDG_CACHE_HOME: home,
      XDG_CONFIG_HOME: home,
      XDG_DATA_HOME: home,
    }
    const webDriver = spawn(driver, [`--port=${port}`], { env, stdio: 'ignore' })
    const webKit = new WebKit([webDriver, display], home, port)
    const options = { binary: path, args: ['--automation'] }
    const capabilities = { alwaysMatch: { 'webkitgtk:browserOptions': options } }
    while (!(await isOpen(port))) await wait(50)
    const { sessionId } = await webKit.#send('', { capabilities })
    webKit.#session = `/${sessionId}`
    return webKit
  }

  async goto(url: string): Promise<void> {
    await this.#send('/url', { url })
  }

  async resize(width: number, height: number): Promise<void> {
    await this.#send('/window/rect', { width, height })
  }

  async run(body: string): Promise<string> {
    const script = `const [done] = arguments
      ;(async () => { ${body}\n})().then((text) => done({ text }), (error) => done({ error: String(error) }))`
    const { text, error } = await this.#send('/execute/async', { script, args: [] })
    if (error !== undefined) throw new Error(error)
    return text ?? ''
  }

  async close(): Promise<void> {
    await this.#send('', undefined, 'DELETE')
    for (const process of this.#processes) {
      const ended = once(process, 'exit')
      process.kill()
      await ended
    }
    rmSync(this.#home, { recursive: true, force: true, maxRetries: 5 })
  }

  protected async act(actions: readonly Params[]): Promise<void> {
    await this.#send('/actions', { actions: [{ type: 'key', id: 'keyboard', actions }] })
  }

  // biome-ignore lint/suspicious/noExplicitAny: each command has a result of its own.
  async #send(command: string, params?: Params, method = 'POST'): Promise<any> {
    const body = params === undefined ? null : JSON.stringify(params)
    const response = await fetch(`${this.#driver}/session${this.#session}${command}`, {
      method,
      body,
    })
    const { value } = (await response.json()) as { value: { error: string; message: string } }
    if (!response.ok) throw new Error(`${command}: ${value.error} ${value.message}`)
    return value
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}

const isOpen = (port: number) =>
  fetch(`http://127.0.0.1:${port}/status`).then(
    ({ ok }) => ok,
    () => false,
  )
