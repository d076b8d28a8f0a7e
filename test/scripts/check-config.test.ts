// `npm run check:config`: which CONFIG fails the check, and what is printed.
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'

// Each test loads wrangler in a process of its own.
const script = resolve('scripts/check-config.ts')

async function check(edit: (toml: string) => string): Promise<{ code: number; output: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'check-config-'))
  await writeFile(join(folder, 'wrangler.toml'), edit(await readFile('wrangler.toml', 'utf8')))
  try {
    const { stdout } = await promisify(execFile)(process.execPath, [script], { cwd: folder })
    return { code: 0, output: stdout }
  } catch (error) {
    const { code, stderr } = error as { code: number; stderr: string }
    return { code, output: stderr }
  }
}

test.concurrent('the shipped CONFIG passes', async () => {
  expect(await check((toml) => toml)).toMatchObject({ code: 0 })
})

test.concurrent('a CONFIG of more than 5 KB fails, with advice on what to move', async () => {
  const { code, output } = await check(
    (toml) => `${toml}\n[vars.CONFIG.prompts.long]\ntext = "${'x'.repeat(5200)}"\n`,
  )
  expect(code).toBe(1)
  expect(output).toMatch(
    /expected at most 5120 bytes, got 5\d+; move prompts to src\/config\/prompts\.ts/,
  )
})

test.concurrent('warnings are printed and do not fail the check', async () => {
  const { code, output } = await check((toml) => toml.replace('free_prompts = true', ''))
  expect(code).toBe(0)
  expect(output).toMatch(/^warning: locked prompts disable free prompts/m)
})

test.concurrent('a key instead of the name of its secret fails without being printed', async () => {
  const key = 'AKIAIOSFODNN7EXAMPLE'
  const { code, output } = await check((toml) =>
    toml.replace('preset = "demo"', `preset = "openai"\nkey = "${key}"`),
  )
  expect(code).toBe(1)
  expect(output).toMatch(/^upstreams\[0\]\.key: .*not the key itself/m)
  expect(output).not.toContain(key.slice(0, 5))
})

test.concurrent('a wrangler.toml that is not TOML fails in one line, with the place', async () => {
  const { code, output } = await check((toml) => `${toml}\n[vars.CONFIG.prompts.summary]\n`)
  expect(code).toBe(1)
  expect(output).toMatch(
    /^wrangler\.toml:\d+:1: .*redefine.*: \[vars\.CONFIG\.prompts\.summary\]$/m,
  )
  expect(output.trim().split('\n')).toHaveLength(1)
})

test.concurrent('the names of the secrets that CONFIG needs are printed, because they are not checked', async () => {
  const { code, output } = await check((toml) =>
    toml.replace('preset = "demo"', 'preset = "openai"\nkey = "MY_KEY"'),
  )
  expect(code).toBe(0)
  expect(output).toMatch(
    /^Not checked here: the secret MY_KEY; GET \/health reports it if missing$/m,
  )
})

test.concurrent('an invalid CONFIG fails, with the path of each error', async () => {
  const { code, output } = await check((toml) =>
    toml.replace('upstream = "demo"', 'upstream = "dmeo"'),
  )
  expect(code).toBe(1)
  expect(output).toContain('models[0].upstream: Cannot find upstream "dmeo": expected one of demo')
})
