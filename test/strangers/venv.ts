// Python programs, each in an environment of its own: their dependencies differ. An environment
// stays in node_modules/.cache, so that only the first run installs it.
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { rm, writeFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { promisify } from 'node:util'

export const run = promisify(execFile)

export const CACHE = resolve('node_modules/.cache/strangers')
/** The largest has 1.4 GB. */
export const INSTALL_MS = 400_000

/**
 * Installs the packages, and returns the folder of their commands.
 * @throws when the package index cannot be reached, or takes too long
 */
export function installed(...packages: readonly [string, ...string[]]): Promise<string> {
  return environment(packages.join('+'), [pip(...packages)])
}

/** What Python is run with to install these. */
export const pip = (...packages: readonly string[]) => [
  '-m',
  'pip',
  'install',
  '--quiet',
  '--disable-pip-version-check',
  ...packages,
]

/**
 * Makes an environment by running its Python with each of these, and returns the folder of its commands.
 * @param name of what is installed, with the versions: another name is another environment
 */
export async function environment(
  name: string,
  steps: readonly (readonly string[])[],
): Promise<string> {
  const folder = `${CACHE}/${fileNameOf(name)}`
  if (existsSync(`${folder}/installed`)) return `${folder}/bin`
  await rm(folder, { recursive: true, force: true })
  try {
    await run('python3', ['-m', 'venv', folder])
    for (const step of steps) await run(`${folder}/bin/python`, step, { timeout: INSTALL_MS })
    await writeFile(`${folder}/installed`, '')
  } catch (error) {
    throw new Error(`Cannot install ${name}: needs python3 with venv, and PyPI`, { cause: error })
  }
  return `${folder}/bin`
}

/** File systems allow 255 bytes. */
function fileNameOf(name: string): string {
  const file = name.replaceAll(/[^\w.+-]/g, '_')
  if (file.length < 200) return file
  const digest = createHash('sha256').update(name).digest('hex').slice(0, 16)
  return `${file.slice(0, 40)}-${digest}`
}
