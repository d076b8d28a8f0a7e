// Real Chromium for the browser tests: pages with recorded console output and requests, the
// accessibility check, and screenshots for docs/. Contains nothing about specific pages.
import { accessSync, constants } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import axe from 'axe-core'
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core'
import { expect } from 'vitest'
import { recordOutput } from './canary.ts'

const names = ['chromium', 'chromium-browser', 'google-chrome-stable', 'google-chrome']

const flags = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  // CI machines have a small /dev/shm.
  '--disable-dev-shm-usage',
]

export interface LaunchOptions {
  /**
   * Maps an address such as `localhost:8787` to a port of this machine, so that pages can use the
   * address from the README while their Worker listens elsewhere.
   */
  readonly ports?: Readonly<Record<string, number>>
}

/** Launches the Chromium named by CHROMIUM, or else found in PATH, with a new profile. */
export async function launchBrowser({ ports = {} }: LaunchOptions = {}): Promise<Browser> {
  const rules = Object.entries(ports).map(([from, to]) => `MAP ${from} 127.0.0.1:${to}`)
  const args = rules.length === 0 ? [] : [`--host-resolver-rules=${rules.join(', ')}`]
  return await chromium.launch({ executablePath: chromiumPath(), args: [...flags, ...args] })
}

function chromiumPath(): string {
  const given = process.env['CHROMIUM']
  if (given !== undefined && given !== '') return given
  const folders = (process.env['PATH'] ?? '').split(delimiter)
  const found = names.flatMap((name) => folders.map((folder) => join(folder, name))).find(runs)
  if (found !== undefined) return found
  throw new Error(`no Chromium found: install ${names[0]}, or set CHROMIUM to its path`)
}

function runs(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

export interface WatchOptions {
  readonly colorScheme?: 'light' | 'dark'
  /** Of the viewport, in CSS pixels. Default 1200 × 800. */
  readonly width?: number
  readonly height?: number
  /** Such as `clipboard-read`, `clipboard-write`. */
  readonly permissions?: readonly string[]
}

/** A request made by the page. Preflights are not included. */
export interface PageRequest {
  readonly method: string
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: string | null
}

/** Runs axe-core, once it is in the page: violations (WCAG 2.2 AA and best practices) with their targets. */
export const ACCESSIBILITY_FAULTS = `axe
  .run(document, { resultTypes: ['violations'] })
  .then(({ violations }) => violations.flatMap(({ id, help, nodes }) =>
    nodes.map(({ target }) => id + ' (' + help + ') at ' + target.join(' '))))`

/** A page in its own context, with its console errors and all its requests. */
export class WatchedPage {
  readonly page: Page
  readonly requests: PageRequest[] = []
  readonly #context: BrowserContext
  #consoleErrors: string[] = []

  private constructor(context: BrowserContext, page: Page) {
    this.#context = context
    this.page = page
    page.on('console', (message) => {
      recordOutput(message.text())
      if (['error', 'warning', 'assert'].includes(message.type())) {
        this.#consoleErrors.push(`${message.type()}: ${message.text()}`)
      }
    })
    page.on('pageerror', (error) => this.#consoleErrors.push(`uncaught: ${error.message}`))
    page.on('request', (request) => {
      const headers = request.headers()
      const body = request.postData()
      this.requests.push({ method: request.method(), url: request.url(), headers, body })
    })
  }

  static async open(browser: Browser, options: WatchOptions = {}): Promise<WatchedPage> {
    const { colorScheme = 'light', width = 1200, height = 800, permissions = [] } = options
    const context = await browser.newContext({
      colorScheme,
      viewport: { width, height },
      permissions: [...permissions],
      // Keep screenshots the same on every machine.
      locale: 'en-GB',
      timezoneId: 'UTC',
      reducedMotion: 'reduce',
    })
    return new WatchedPage(context, await context.newPage())
  }

  /** Takes the console errors, warnings and uncaught exceptions since the last call. */
  takeConsoleErrors(): string[] {
    return this.#consoleErrors.splice(0)
  }

  /** Expects no errors or warnings, and no requests to other origins than these. */
  expectQuiet(...origins: readonly string[]): void {
    expect(this.takeConsoleErrors()).toEqual([])
    expect(this.foreignRequests(...origins)).toEqual([])
  }

  /** URLs requested from other origins than these. */
  foreignRequests(...origins: readonly string[]): string[] {
    return this.requests
      .map(({ url }) => url)
      .filter((url) => !/^(data|blob):/.test(url) && !origins.includes(new URL(url).origin))
  }

  async accessibilityFaults(): Promise<string[]> {
    // Evaluated by the driver, because the page's Content-Security-Policy blocks injected scripts.
    await this.page.evaluate(axe.source)
    return await this.page.evaluate<string[]>(ACCESSIBILITY_FAULTS)
  }

  /** By how many pixels the page is wider than the window; 0 when it fits. */
  async overflow(): Promise<number> {
    return await this.page.evaluate<number>(
      'document.documentElement.scrollWidth - document.documentElement.clientWidth',
    )
  }

  /** The visible text. It is also searched for the canary. */
  async text(): Promise<string> {
    const text = await this.page.locator('body').innerText()
    recordOutput(text)
    return text
  }

  /**
   * Takes a screenshot of the window, or of the whole page if `full`. It is saved as
   * docs/<name>.png only with PICTURES=1, so that an ordinary test run leaves the tree unchanged.
   */
  async picture(name: string, { full = false } = {}): Promise<void> {
    const bytes = await this.page.screenshot({ fullPage: full, animations: 'disabled' })
    if (!process.env['PICTURES']) return
    await mkdir('docs', { recursive: true })
    await writeFile(join('docs', `${name}.png`), bytes)
  }

  async close(): Promise<void> {
    await this.#context.close()
  }
}
