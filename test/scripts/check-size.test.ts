// `npm run check:size` fails if the bundle is larger than the limit.
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, inject, test } from 'vitest'
import { bundleOf } from '../../scripts/bundle-size.ts'

const script = resolve('scripts/check-size.ts')

let folder: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'check-size-'))
})

afterAll(() => rm(folder, { recursive: true }))

/** The result of the check for a bundle with these bytes. */
async function check(bytes: Uint8Array): Promise<{ code: number; output: string }> {
  const path = join(folder, 'one.js')
  await writeFile(path, bytes)
  try {
    const { stdout } = await promisify(execFile)(process.execPath, [script, path])
    return { code: 0, output: stdout }
  } catch (error) {
    const { code, stderr } = error as { code: number; stderr: string }
    return { code, output: stderr }
  }
}

test('a bundle passes if its gzipped size is within the limit', async () => {
  const { code, output } = await check(new Uint8Array(4_000_000))
  expect(code).toBe(0)
  expect(output).toMatch(/has 3\.\d KiB gzipped; the limit is \d+/)
})

test('a larger bundle fails, and the message has its size, the limit and what to do', async () => {
  const { code, output } = await check(randomBytes(200 * 1024))
  expect(code).toBe(1)
  expect(output).toMatch(
    /Cannot deploy the bundle: .* has 200\.\d KiB gzipped; the limit is [\d.]+\. Make/,
  )
})

test('what the main module imports counts, and what it loads later is named', async () => {
  const main = join(folder, 'worker.js')
  await writeFile(main, 'export{a as default}from"./gateway.js";')
  await writeFile(
    join(folder, 'gateway.js'),
    `import"./worker.js";import(\`./pages.js\`)//${text(10)}`,
  )
  await writeFile(join(folder, 'pages.js'), `import{b}from"./gateway.js"//${text(200)}`)
  const { stdout } = await promisify(execFile)(process.execPath, [script, main])
  expect(stdout).toMatch(/worker\.js has 1[01]\.\d KiB gzipped/)
  expect(stdout).toMatch(/pages\.js, loaded later: 20\d\.\d KiB/)
})

/** Text of this size when it is gzipped. */
const text = (kib: number) => randomBytes(kib * 1024).toString('base64')

test('wrangler.toml uploads every module of the bundle, and pages.js is loaded later', () => {
  const { start, later } = bundleOf(inject('bundle'))
  expect(later.map((path) => basename(path))).toEqual(['pages.js'])
  const modules = [...start.slice(1), ...later].map((path) => basename(path))
  expect(inject('wranglerConfig').rules).toContainEqual({ type: 'ESModule', globs: modules })
})

test('npm run check and CI include the check, which builds with the options of a deploy', async () => {
  const { scripts } = JSON.parse(await readFile('package.json', 'utf8'))
  expect(scripts['check']).toContain('npm run check:size')
  expect(scripts['check:size']).toBe(
    'wrangler deploy --dry-run --outdir dist && node scripts/check-size.ts',
  )
  expect(await readFile('.ci/run', 'utf8')).toMatch(/for check in [a-z ]*\bsize\b[a-z ]*; do/)
})
