// `npm run check` must refuse a bundle that has grown, and say by how much.
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtemp, readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'

const script = resolve('scripts/check-size.ts')

/** What the gate says of a bundle of these bytes. */
async function gate(bytes: Uint8Array): Promise<{ code: number; said: string }> {
  const path = join(await mkdtemp(join(tmpdir(), 'check-size-')), 'worker.js')
  await writeFile(path, bytes)
  try {
    const { stdout } = await promisify(execFile)(process.execPath, [script, path])
    return { code: 0, said: stdout }
  } catch (error) {
    const { code, stderr } = error as { code: number; stderr: string }
    return { code, said: stderr }
  }
}

test('what is within the limit once gzipped passes, however long it is', async () => {
  const { code, said } = await gate(new Uint8Array(4_000_000))
  expect(code).toBe(0)
  expect(said).toMatch(/has 3\.\d KiB gzipped; the limit is \d+/)
})

test('a bundle above the limit fails, and the message has both figures and what to do', async () => {
  const { code, said } = await gate(randomBytes(200 * 1024))
  expect(code).toBe(1)
  expect(said).toMatch(
    /Cannot deploy the bundle: .* has 200\.\d KiB gzipped; the limit is \d+; take/,
  )
})

test('it is a part of check, of what CI runs, and of the same build that is deployed', async () => {
  const { scripts } = JSON.parse(await readFile('package.json', 'utf8'))
  expect(scripts['check']).toContain('npm run check:size')
  expect(scripts['check:size']).toBe(
    'wrangler deploy --dry-run --outdir dist && node scripts/check-size.ts',
  )
  expect(await readFile('.ci/run', 'utf8')).toMatch(/for check in [a-z ]*\bsize\b[a-z ]*; do/)
})
