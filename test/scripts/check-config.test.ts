// `npm run check` must refuse a CONFIG that a Worker variable cannot hold.
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'

const script = resolve('scripts/check-config.ts')

async function check(edit: (toml: string) => string): Promise<{ code: number; said: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'check-config-'))
  await writeFile(join(folder, 'wrangler.toml'), edit(await readFile('wrangler.toml', 'utf8')))
  try {
    const { stdout } = await promisify(execFile)(process.execPath, [script], { cwd: folder })
    return { code: 0, said: stdout }
  } catch (error) {
    const { code, stderr } = error as { code: number; stderr: string }
    return { code, said: stderr }
  }
}

test('the shipped CONFIG is good', async () => {
  expect(await check((toml) => toml)).toMatchObject({ code: 0 })
})

test('a CONFIG above 5 KB fails the check, and the message says what to do', async () => {
  const { code, said } = await check(
    (toml) => `${toml}\n[vars.CONFIG.prompts.long]\ntext = "${'x'.repeat(5200)}"\n`,
  )
  expect(code).toBe(1)
  expect(said).toMatch(/a Worker variable holds 5120; move prompts to src\/prompts\.ts/)
})

test('what works but may surprise is printed, and is no failure', async () => {
  const { code, said } = await check((toml) => toml.replace('free_prompts = true', ''))
  expect(code).toBe(0)
  expect(said).toMatch(/^warning: locked prompts disable free prompts/m)
})

test('a key in the place of its name fails the check without being shown', async () => {
  const key = 'AKIAIOSFODNN7EXAMPLE'
  const { code, said } = await check((toml) =>
    toml.replace('preset = "demo"', `preset = "openai"\nkey = "${key}"`),
  )
  expect(code).toBe(1)
  expect(said).toMatch(/^upstreams\[0\]\.key: .*not the key itself/m)
  expect(said).not.toContain(key.slice(0, 5))
})

test('a faulty CONFIG fails the check, each fault by its path', async () => {
  const { code, said } = await check((toml) =>
    toml.replace('upstream = "demo"', 'upstream = "dmeo"'),
  )
  expect(code).toBe(1)
  expect(said).toContain('models[0].upstream: Cannot find upstream "dmeo": known are demo')
})
