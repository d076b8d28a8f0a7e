// Python programs, each in an environment of its own: their dependencies differ. An environment
// stays in node_modules/.cache, so that only the first run installs it.
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { rm, writeFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { promisify } from 'node:util'

export const run = promisify(execFile)

export const CACHE = resolve('node_modules/.cache/strangers')
/** The largest has 0.8 GB. */
export const INSTALL_MS = 400_000

/**
 * Installs the packages, and returns the folder of their commands.
 * @throws when the package index cannot be reached, or takes too long
 */
export async function installed(...packages: readonly [string, ...string[]]): Promise<string> {
  const folder = `${CACHE}/${packages.join('+').replaceAll(/[^\w.+-]/g, '_')}`
  if (existsSync(`${folder}/installed`)) return `${folder}/bin`
  await rm(folder, { recursive: true, force: true })
  const pip = ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', ...packages]
  try {
    await run('python3', ['-m', 'venv', folder])
    await run(`${folder}/bin/python`, pip, { timeout: INSTALL_MS })
    await writeFile(`${folder}/installed`, '')
  } catch (error) {
    throw new Error(`Cannot install ${packages.join(', ')}: needs python3 with venv, and PyPI`, {
      cause: error,
    })
  }
  return `${folder}/bin`
}
