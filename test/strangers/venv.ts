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

const UV = 'uv==0.13.9'

type Step =
  /** `alone`: without what they depend on. */
  | { readonly packages: readonly string[]; readonly alone?: boolean }
  /** Run by the Python of the environment. */
  | { readonly script: string }

/**
 * Installs the packages, and returns the folder of their commands.
 * @throws when the package index cannot be reached, or takes too long
 */
export function installed(...packages: readonly [string, ...string[]]): Promise<string> {
  return environment(packages.join('+'), [{ packages }])
}

/**
 * Makes an environment in these steps, and returns the folder of its commands.
 * @param name of what is installed, with the versions: another name is another environment
 */
export async function environment(name: string, steps: readonly Step[]): Promise<string> {
  const folder = `${CACHE}/${fileNameOf(name)}`
  if (existsSync(`${folder}/installed`)) return `${folder}/bin`
  await rm(folder, { recursive: true, force: true })
  try {
    const uv = await installer()
    const python = `${folder}/bin/python`
    await run('python3', ['-m', 'venv', '--without-pip', folder])
    for (const step of steps) {
      if ('script' in step) {
        await run(python, [step.script])
        continue
      }
      const flags = step.alone === true ? ['--no-deps'] : []
      const args = ['pip', 'install', '--quiet', '--python', python, ...flags, ...step.packages]
      await run(uv, args, {
        timeout: INSTALL_MS,
        // Beside the environments, which share its files.
        env: { ...process.env, UV_CACHE_DIR: `${CACHE}/uv-files`, UV_HTTP_TIMEOUT: '180' },
      })
    }
    await writeFile(`${folder}/installed`, '')
  } catch (error) {
    throw new Error(`Cannot install ${name}: needs python3 with venv, and PyPI`, { cause: error })
  }
  return `${folder}/bin`
}

/** uv takes a fraction of pip's time, of which compiling what is never imported is the most. */
async function installer(): Promise<string> {
  const folder = `${CACHE}/${fileNameOf(UV)}`
  if (existsSync(`${folder}/installed`)) return `${folder}/bin/uv`
  await rm(folder, { recursive: true, force: true })
  await run('python3', ['-m', 'venv', folder])
  await run(`${folder}/bin/pip`, ['install', '--quiet', UV], { timeout: INSTALL_MS })
  await writeFile(`${folder}/installed`, '')
  return `${folder}/bin/uv`
}

/** File systems allow 255 bytes. */
function fileNameOf(name: string): string {
  const file = name.replaceAll(/[^\w.+-]/g, '_')
  if (file.length < 200) return file
  const digest = createHash('sha256').update(name).digest('hex').slice(0, 16)
  return `${file.slice(0, 40)}-${digest}`
}
