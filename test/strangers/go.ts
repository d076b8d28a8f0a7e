// Programs in Go, from its module proxy. A program stays in node_modules/.cache, so that only the
// first run builds it; what it is built of does not.
import { existsSync } from 'node:fs'
import { copyFile, mkdtemp, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CACHE, INSTALL_MS, run } from './venv.ts'

/**
 * Builds the program of a module, and returns its path.
 * @throws when the module proxy cannot be reached, or it takes too long
 */
export async function builtInGo(module: string, version: string): Promise<string> {
  const program = `${CACHE}/${module.replaceAll(/[^\w.+-]/g, '_')}@${version}`
  if (existsSync(program)) return program
  const folder = await mkdtemp(join(tmpdir(), 'built-in-go-'))
  // Its dependencies have 1 GB. No optimisation halves the time.
  const env = {
    ...process.env,
    GOMODCACHE: `${folder}/modules`,
    GOCACHE: `${folder}/cache`,
    GOFLAGS: '-mod=mod -modcacherw',
    CGO_CFLAGS: '-O0',
  }
  const go = (...args: string[]) => run('go', args, { cwd: folder, env, timeout: INSTALL_MS })
  try {
    // `go install` would ask for the list of versions, too, which not every proxy has.
    await writeFile(`${folder}/go.mod`, `module build\n\nrequire ${module} ${version}\n`)
    const { stdout } = await go('mod', 'download', '-json', module)
    await copyFile(`${JSON.parse(stdout).Dir}/go.sum`, `${folder}/go.sum`)
    await go('build', '-gcflags=all=-N -l', '-ldflags=-s -w', '-o', `${folder}/program`, module)
    await copyFile(`${folder}/program`, `${program}.new`)
    await rename(`${program}.new`, program)
  } catch (error) {
    throw new Error(`Cannot build ${module} ${version}: needs go, gcc, and the module proxy`, {
      cause: error,
    })
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
  return program
}
