// Runs wrangler. Each command is shown before it runs; secrets go to its standard input, since every
// user of a machine can read the arguments of a process.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'

interface CommandOptions {
  /** Written to its standard input. Without it, wrangler can ask the user. */
  readonly input?: string
  readonly env?: Readonly<Record<string, string>>
  /** Its output is returned instead of shown. */
  readonly isQuiet?: boolean
}

interface CommandEnd {
  readonly code: number
  readonly output: string
}

export type RunWrangler = (args: readonly string[], options?: CommandOptions) => Promise<CommandEnd>

/** Npm puts node_modules/.bin on the path. */
export const wranglerIn =
  (folder: string, environment: NodeJS.ProcessEnv): RunWrangler =>
  async (args, { input, env = {}, isQuiet = false } = {}) => {
    const child = spawn('wrangler', args, {
      cwd: folder,
      stdio: [input === undefined ? 'inherit' : 'pipe', isQuiet ? 'pipe' : 'inherit', 'inherit'],
      env: { ...environment, ...env },
      // On Windows it is a script, which only a shell can run.
      shell: process.platform === 'win32',
    })
    // It may end before it has read everything.
    child.stdin?.on('error', () => {})
    child.stdin?.end(input)
    const output = child.stdout === null ? Promise.resolve('') : text(child.stdout)
    const [code] = await once(child, 'close')
    return { code: code ?? 1, output: await output }
  }
