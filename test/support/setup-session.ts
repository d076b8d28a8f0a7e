// `npm run setup` in a folder of its own: a made-up site, answers that are typed, and real calls to an
// upstream on this machine.
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { expect } from 'vitest'
import { SetupError } from '../../scripts/setup/arguments.ts'
import { type SetupDeps, setUp } from '../../scripts/setup/setup.ts'
import { terminalOn } from '../../scripts/setup/terminal.ts'
import { recordOutput } from './canary.ts'
import { configIn } from './documents.ts'

export const TOKEN = 'a-random-token-of-32-characters-'
export const SITE = 'https://blog.example.com/'

interface Input {
  /** What is typed, in order; without any, there is no terminal. */
  readonly typed?: readonly string[]
  /** What is piped. */
  readonly piped?: string
  /** Files of the site by path, besides its first page. */
  readonly files?: Readonly<Record<string, string>>
  /** Nothing but the site can be reached. */
  readonly isOffline?: boolean
}

export class SetupFolder {
  readonly #folder: string

  private constructor(folder: string) {
    this.#folder = folder
  }

  static async create(): Promise<SetupFolder> {
    return new SetupFolder(await mkdtemp(join(tmpdir(), 'setup-')))
  }

  /** As in a fresh clone. */
  async reset(): Promise<void> {
    await cp('wrangler.toml', join(this.#folder, 'wrangler.toml'))
    await rm(join(this.#folder, '.dev.vars'), { force: true })
  }

  async remove(): Promise<void> {
    await rm(this.#folder, { recursive: true })
  }

  async read(name: string): Promise<string> {
    return await readFile(join(this.#folder, name), 'utf8')
  }

  async write(name: string, text: string): Promise<void> {
    await writeFile(join(this.#folder, name), text)
  }

  // biome-ignore lint/suspicious/noExplicitAny: a test names the settings it looks at
  async config(): Promise<any> {
    return configIn(await this.read('wrangler.toml'))
  }

  async run(
    args: readonly string[],
    { typed, piped = '', files = {}, isOffline = false }: Input = {},
  ) {
    const rest = [...(typed ?? [])]
    const questions: { question: string; hidden: boolean }[] = []
    const screen = new PassThrough()
    const { print } = terminalOn({ input: new PassThrough(), output: screen })
    const code = await setUp(args, {
      terminal: {
        isInteractive: typed !== undefined,
        print,
        ask: async (question, { hidden = false } = {}) => {
          questions.push({ question, hidden })
          const line = rest.shift()
          if (line === undefined) throw new SetupError(`one question too many: ${question}`)
          return line
        },
        readInput: async () => piped,
      },
      fetch: siteOf(files, isOffline ? offline : fetch),
      folder: this.#folder,
      wrangler: async () => ({ code: 1, output: '' }),
      pause: async () => {},
      newToken: () => TOKEN,
    })
    const output = String(screen.read() ?? '')
    expect(rest, 'answers that were not asked for').toEqual([])
    // The key must not be printed.
    recordOutput(output)
    return { code, output, questions }
  }
}

/** As without a network. */
const offline: SetupDeps['fetch'] = async () => {
  throw new TypeError('fetch failed')
}

/** The owner's site is made up; everything else is real. */
function siteOf(
  files: Readonly<Record<string, string>>,
  others: SetupDeps['fetch'],
): SetupDeps['fetch'] {
  const html = '<meta name="generator" content="Hugo 0.160.0"><h1>Blog</h1>'
  const all = new Map(Object.entries({ '': html, ...files }))
  return async (request) => {
    if (!request.url.startsWith(SITE)) return await others(request)
    const body = all.get(request.url.slice(SITE.length))
    return new Response(body ?? '', { status: body === undefined ? 404 : 200 })
  }
}
