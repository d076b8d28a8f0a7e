// A starter's site on this machine: copied, installed, with the snippet pasted, built, and served as
// static hosts do.
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { cp, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, extname, join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { offers } from '../../scripts/setup/arguments.ts'
import { snippetFor } from '../../scripts/setup/snippets.ts'
import type { Starter } from './starters.ts'

const FIXTURES = 'test/fixtures/starters'
/** The address in the files of the sites. */
const ADDRESS = 'http://localhost:4000'

const run = promisify(execFile)

/**
 * Packages stay between runs. Not in this folder: bundlers treat what is in node_modules otherwise,
 * and a site would find the packages of this project.
 */
const cache = join(tmpdir(), `edge-starters-${hash(resolve('.')).slice(0, 8)}`)

function hash(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}

/** @returns the folder of the built site */
export async function buildSite(
  starter: Starter,
  origin: string,
  endpoint: string,
): Promise<string> {
  const folder = join(cache, starter.generator)
  await copySite(starter, folder, origin)
  await install(folder)
  if (starter.copy !== undefined) await run('sh', ['-ec', starter.copy], { cwd: folder })
  await paste(starter, folder, endpoint)
  if (starter.build !== undefined) {
    const [command, ...args] = starter.build
    // Vitest's NODE_ENV would make it a site for development.
    const env = { ...process.env, NODE_ENV: 'production', CI: 'true', ...quiet }
    await run(command, args, { cwd: folder, env })
  }
  return join(folder, starter.out)
}

/** No build reports to its maker. */
const quiet = { ASTRO_TELEMETRY_DISABLED: '1', DO_NOT_TRACK: '1' }

async function copySite(
  { generator, post, heading }: Starter,
  folder: string,
  origin: string,
): Promise<void> {
  await mkdir(folder, { recursive: true })
  for (const name of await readdir(folder)) {
    const isKept = name === 'node_modules' || name === 'installed'
    if (!isKept) await rm(join(folder, name), { recursive: true })
  }
  await cp(join(FIXTURES, generator), folder, { recursive: true })
  for (const file of await readdir(join(FIXTURES, generator), { recursive: true })) {
    const path = join(folder, file)
    if ((await stat(path)).isFile()) {
      await change(path, (text) => text.replaceAll(ADDRESS, origin))
    }
  }
  if (post === undefined) return
  for (const file of await readdir(join(FIXTURES, 'posts'))) {
    const text = await readFile(join(FIXTURES, 'posts', file), 'utf8')
    const [, title, date = ''] = /^title: (.*)\ndate: (.*)$/m.exec(text) ?? []
    const whole = heading ? text.replace('\n---\n', `\n---\n\n# ${title}\n`) : text
    await create(join(folder, post(file.replace('.md', ''), date)), whole)
  }
}

async function create(path: string, text: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  await writeFile(path, text)
}

async function change(path: string, edit: (text: string) => string): Promise<void> {
  await writeFile(path, edit(await readFile(path, 'utf8')))
}

/** Installs the packages of a site, unless they are there already. */
async function install(folder: string): Promise<void> {
  const wanted = await readFile(join(folder, 'package.json'), 'utf8').catch(() => null)
  const mark = join(folder, 'installed')
  if (wanted === null || wanted === (await readFile(mark, 'utf8').catch(() => ''))) return
  const args = ['install', '--no-audit', '--no-fund', '--no-package-lock', '--omit=dev']
  await run('npm', args, { cwd: folder })
  await writeFile(mark, wanted)
}

/** Pastes the snippet of setup, each step at the place that it names. */
async function paste({ generator, places }: Starter, folder: string, endpoint: string) {
  const steps = snippetFor({ generator, offer: offers, endpoint })
  if (steps.length !== places.length) throw new Error(`${generator}: ${steps.length} steps`)
  for (const [i, { place, code }] of steps.entries()) {
    const where = places[i]
    if (!where) {
      const [name = ''] = /\S+\.jsx?/.exec(place) ?? []
      await create(join(folder, name), code)
      continue
    }
    for (const file of where.files) {
      await change(join(folder, file), (text) => {
        const { above = '', below = '' } = where
        const at = text.indexOf(above + below)
        if (at === -1) throw new Error(`${generator}: ${file} has no ${above + below}`)
        const line = text.slice(0, at + below.length)
        return `${line}${indent(code, above)}${text.slice(line.length)}`
      })
    }
  }
}

/** As deep as the text below: Markdown and templates may not be indented otherwise. */
const indent = (code: string, above: string) => {
  const [space = ''] = /^ */.exec(above) ?? []
  return code.replace(/^(?=.)/gm, space)
}

const types: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.json': 'application/json',
  '.xml': 'application/xml',
  '.svg': 'image/svg+xml',
  '.woff2': 'font/woff2',
  '.txt': 'text/plain',
}

/** A static host with one site at a time. */
export class StaticHost {
  root = ''
  readonly #server: Server

  private constructor() {
    this.#server = createServer(async (request, response) => {
      // Browsers look for it beside a site without one, and log that it is not there.
      if (request.url === '/favicon.ico') return void response.writeHead(204).end()
      // URL parsing resolves "..", so that the path stays in the folder.
      const { pathname } = new URL(request.url ?? '', 'http://localhost')
      const path = join(this.root, decodeURIComponent(pathname))
      const file = (await isFile(path)) ? path : join(path, 'index.html')
      if (!(await isFile(file))) {
        response.writeHead(404).end('Not found')
        return
      }
      const type = types[extname(file)] ?? 'application/octet-stream'
      response.writeHead(200, { 'content-type': type }).end(await readFile(file))
    })
  }

  static async open(): Promise<StaticHost> {
    const host = new StaticHost()
    host.#server.listen(0, '127.0.0.1')
    await once(host.#server, 'listening')
    return host
  }

  get origin(): string {
    return `http://localhost:${(this.#server.address() as AddressInfo).port}`
  }

  close(): void {
    this.#server.closeAllConnections()
    this.#server.close()
  }
}

const isFile = (path: string) =>
  stat(path).then(
    (found) => found.isFile(),
    () => false,
  )
