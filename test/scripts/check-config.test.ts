// `npm run check:config`: which CONFIG fails the check, and what is printed.
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
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
  } finally {
    await rm(folder, { recursive: true })
  }
}

const key = 'AKIAIOSFODNN7EXAMPLE'

test.concurrent.each<[string, (toml: string) => string, number, RegExp]>([
  ['the shipped one', (toml) => toml, 0, /^CONFIG /],
  [
    'one of more than 5 KB, with advice on what to move',
    (toml) => `${toml}\n[vars.CONFIG.prompts.long]\ntext = "${'x'.repeat(5200)}"\n`,
    1,
    /expected at most 5120 bytes, got \d+; move prompts to src\/config\/prompts\.ts/,
  ],
  [
    'one with a warning',
    (toml) => toml.replace('free_prompts = true', ''),
    0,
    /^warning: locked prompts disable free prompts/m,
  ],
  [
    'a key instead of the name of its secret',
    (toml) => toml.replace('preset = "demo"', `preset = "openai"\nkey = "${key}"`),
    1,
    /^upstreams\[0\]\.key: .*not the key itself/m,
  ],
  [
    'a wrangler.toml that is not TOML, in one line with the place',
    (toml) => `${toml}\n[vars.CONFIG.prompts.summary]\n`,
    1,
    /^wrangler\.toml:\d+:1: .*redefine.*: \[vars\.CONFIG\.prompts\.summary\]\s*$/,
  ],
  [
    'the names of the secrets it needs, because they are not checked',
    (toml) => toml.replace('preset = "demo"', 'preset = "openai"\nkey = "MY_KEY"'),
    0,
    /^Not checked here: the secret MY_KEY; GET \/health reports it if missing$/m,
  ],
  [
    'the path of each error',
    (toml) => toml.replace('upstream = "demo"', 'upstream = "dmeo"'),
    1,
    /models\[0\]\.upstream: Cannot find upstream "dmeo": known are demo/,
  ],
])('check:config reports %s', async (_, edit, code, message) => {
  const { output, ...exit } = await check(edit)
  expect(exit.code).toBe(code)
  expect(output).toMatch(message)
  expect(output).not.toContain(key.slice(0, 5))
})
