// How setup changes wrangler.toml and .dev.vars.
import { execFileSync } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { readVars } from '../../../scripts/config/check.ts'
import { SetupError } from '../../../scripts/setup/arguments.ts'
import { maskedSecrets, secretsIn, withSecrets } from '../../../scripts/setup/dev-vars.ts'
import { changesOf } from '../../../scripts/setup/diff.ts'
import {
  checkSecrets,
  planSecrets,
  planSettings,
  readDevVars,
  readSettings,
  write,
} from '../../../scripts/setup/files.ts'
import { withSettings } from '../../../scripts/setup/wrangler-toml.ts'
import { textOf } from '../../support/documents.ts'

const KEY = 'sk-proj-9fK2mXw83bQzR5tY7uP1'
const SETTINGS = `[vars.CONFIG]
origins = ["https://example.com"]

[[vars.CONFIG.models]]
id = "default"
upstream = "demo"
upstream_model = "demo"

[[vars.CONFIG.upstreams]]
name = "demo"
preset = "demo"
`
const shipped = textOf('wrangler.toml')
/** As files were before they had markers. */
const unmarked = shipped
  .split('\n')
  .filter((line) => !line.startsWith('# ----'))
  .join('\n')

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'setup-files-'))
})
beforeEach(async () => {
  for (const name of await readdir(folder)) await rm(join(folder, name), { recursive: true })
  await writeFile(join(folder, 'wrangler.toml'), shipped)
})
afterAll(() => rm(folder, { recursive: true }))

const read = (name: string) => readFile(join(folder, name), 'utf8')

describe('wrangler.toml', () => {
  test('changes between the two markers only', () => {
    const after = withSettings(shipped, SETTINGS)
    const start = shipped.indexOf('# ---- Your settings begin')
    expect(after.slice(0, start)).toBe(shipped.slice(0, start))
    expect(after).toMatch(
      /settings begin here[^\n]+\n\[vars\.CONFIG\]\norigins = \["https:\/\/example\.com"\]/,
    )
    expect(after).toMatch(/preset = "demo"\n# ---- Your settings end here\. ----\n$/)
    expect(after).not.toContain('story')
    expect(withSettings(after, SETTINGS)).toBe(after)
  })

  test.each([
    ['at its end', unmarked],
    [
      'before other tables',
      unmarked.replace(/\[vars\.CONFIG\][\s\S]*/, (all) => `${all}\n[limits]\ncpu_ms = 100\n`),
    ],
  ])('without markers gets them, and its old settings %s go', async (_, file) => {
    await writeFile(join(folder, 'wrangler.toml'), file)
    const { config, change } = await planSettings(folder, SETTINGS)
    expect(config).toEqual({
      origins: ['https://example.com'],
      models: [{ id: 'default', upstream: 'demo', upstream_model: 'demo' }],
      upstreams: [{ name: 'demo', preset: 'demo' }],
    })
    expect(change.after).toContain('# ---- Your settings end here. ----')
    expect(change.after.includes('[limits]')).toBe(file.includes('[limits]'))
  })

  test('keeps a copy of what the owner had, each time under another name', async () => {
    for (const [settings, copy] of [
      [SETTINGS, 'wrangler.toml.bak'],
      [`${SETTINGS}# by hand\n`, 'wrangler.toml.bak2'],
    ] as const) {
      const before = await read('wrangler.toml')
      const { change } = await planSettings(folder, settings)
      expect(await write(folder, change)).toBe(copy)
      expect(await read(copy)).toBe(before)
      expect(await read('wrangler.toml')).toBe(change.after)
    }
    expect((await readdir(folder)).sort()).toEqual([
      'wrangler.toml',
      'wrangler.toml.bak',
      'wrangler.toml.bak2',
    ])
  })

  test('is not copied a second time if a copy already has the same content', async () => {
    const other = SETTINGS.replace('example.com', 'example.org')
    const copies = []
    for (const settings of [SETTINGS, other, SETTINGS, other]) {
      copies.push(await write(folder, (await planSettings(folder, settings)).change))
    }
    expect(copies).toEqual([
      ...['wrangler.toml.bak', 'wrangler.toml.bak2'],
      ...['wrangler.toml.bak3', 'wrangler.toml.bak2'],
    ])
    expect(await read('wrangler.toml.bak')).toBe(shipped)
    expect(await read('wrangler.toml.bak2')).toBe(withSettings(shipped, SETTINGS))
  })

  test.each([
    [
      'is not TOML',
      (file: string) => file.replace('name = ', 'name '),
      /^wrangler\.toml:\d+:\d+: /,
    ],
    [
      'has only one marker',
      (file: string) => file.replace(/# ---- Your settings end.*/, ''),
      'between these two lines',
    ],
    [
      'has CONFIG in another form',
      () => `name = "x"\n[vars]\nCONFIG = "{}"\n`,
      /wrangler\.toml|more than/,
    ],
    [
      'has other tables among the settings',
      (file: string) => file.replace('[vars.CONFIG]', '[limits]\ncpu_ms = 100\n[vars.CONFIG]'),
      'more than its [vars.CONFIG] would change',
    ],
  ])('stays as it is if it %s', async (_, edit, message) => {
    await writeFile(join(folder, 'wrangler.toml'), edit(shipped))
    await expect(planSettings(folder, SETTINGS)).rejects.toThrow(message)
    expect(await read('wrangler.toml')).toBe(edit(shipped))
    expect(await readdir(folder)).toEqual(['wrangler.toml'])
  })

  test('is not given settings that the Worker would refuse', async () => {
    const wrong = SETTINGS.replace('upstream = "demo"', 'upstream = "dmeo"')
    await expect(planSettings(folder, wrong)).rejects.toThrow(
      'models[0].upstream: Cannot find upstream "dmeo"',
    )
  })

  test('an upgrade of the project merges without a conflict', async () => {
    const git = (...args: string[]) =>
      execFileSync('git', ['-C', folder, ...args], { stdio: 'pipe' })
    const commit = async (file: string) => {
      await writeFile(join(folder, 'wrangler.toml'), file)
      git('commit', '-qam', 'change')
    }
    git('init', '-qb', 'main')
    git('config', 'user.email', 'a@example.com')
    git('config', 'user.name', 'A')
    git('add', '.')
    git('commit', '-qm', 'shipped')
    git('branch', 'upstream')
    const own = withSettings(shipped, SETTINGS)
    await commit(own)
    git('checkout', '-q', 'upstream')
    // A newer version changes what is around the settings, and the shipped settings themselves.
    const newer = (file: string) =>
      file
        .replace(/compatibility_date = .*/, 'compatibility_date = "2027-01-01"')
        .replace('invocation_logs = false', 'invocation_logs = false\nhead_sampling_rate = 1')
    await commit(newer(shipped))
    git('checkout', '-q', 'main')
    git('merge', '-q', '--no-edit', 'upstream')
    expect(await read('wrangler.toml')).toBe(newer(own))
    // As docs/operations.md says, for the case that the shipped settings have changed as well.
    git('checkout', '-q', 'upstream')
    await commit(newer(shipped).replace('max_tokens = 80', 'max_tokens = 90'))
    git('checkout', '-q', 'main')
    git('merge', '-q', '--no-edit', '-X', 'ours', 'upstream')
    expect(await read('wrangler.toml')).toBe(newer(own))
  })
})

describe('.dev.vars', () => {
  const before = `# mine\nOTHER="x # y"\n\nexport UPSTREAM_API_KEY = old\nALERT_URL=""\n`

  test('keeps its other lines, and a key its place', () => {
    const after = withSecrets(before, { UPSTREAM_API_KEY: KEY, OPERATOR_TOKEN: 'new-token' })
    expect(after).toBe(
      `# mine\nOTHER="x # y"\n\nUPSTREAM_API_KEY=${KEY}\nALERT_URL=""\nOPERATOR_TOKEN=new-token\n`,
    )
    expect(withSecrets(after, { UPSTREAM_API_KEY: KEY })).toBe(after)
  })

  test('has one line for a key, even if it had two', () => {
    expect(withSecrets('A=1\nB=2\nA=3\n', { A: 'x' })).toBe('A=x\nB=2\n')
  })

  test.each([
    ...['a#b', 'a"b', "a'b", '"quoted"', `a"'b`, 'plain', 'a=b=', 'a"b\'c`d', '`x`', '$HOME'],
    ...['x\\nOPERATOR_TOKEN=weak', '#x\\rY=1', 'a\\', 'a\\"#', "'q'", 'end"', '\\n', '"a\'b`"'],
  ])('holds the secret %j so that wrangler reads it as it is', async (value) => {
    const file = withSecrets('', { A: value })
    expect(secretsIn(file)).toEqual({ A: value })
    await checkSecrets(folder, file, { A: value })
  })

  test.each(['#"\'`', '\\n"\'`#'])('refuses the secret %j, which cannot be quoted', (value) => {
    expect(() => withSecrets('', { A: value })).toThrow('Cannot write A into .dev.vars')
  })

  test('is not written if a secret would be read as something else', async () => {
    await expect(checkSecrets(folder, 'A=a#b\n', { A: 'a#b' })).rejects.toThrow(
      'Cannot write A into .dev.vars: it would be read as something else.',
    )
    expect(await readdir(folder)).toEqual(['wrangler.toml'])
  })

  const lines = 'PEM="-----BEGIN\nA=inner\nsecretline\n-----END" # mine\n'

  test('keeps what is inside of a value of several lines', () => {
    const file = `# note\n${lines}\nA=old\nA='x\ny'\nB=1`
    const after = withSecrets(file, { A: 'new', C: 'c' })
    expect(after).toBe(`# note\n${lines}\nA=new\nB=1\nC=c\n`)
    const PEM = '-----BEGIN\nA=inner\nsecretline\n-----END'
    expect(secretsIn(after)).toEqual({ PEM, A: 'new', B: '1', C: 'c' })
  })

  test.each([
    'A=1\r\nB="a\r\nb"\r\n',
    '\n\n  export A = 1 # note\n#B=2\nC: 3\n',
    "A='open\nB=2\n",
    'A=\nB=\n\n"x"\nno entry\n-A=4\n.B=5',
    'A="a\\nb\\r"\nB=\'a\\nb\'\nC=`a\\n`\nD="x" y\nE=\'a\' # b\n',
  ])('is read as wrangler reads it: %j', async (file) => {
    await writeFile(join(folder, '.dev.vars'), file)
    expect(secretsIn(file)).toEqual(readVars(join(folder, 'wrangler.toml')))
  })

  test('is shown without its secrets', () => {
    const masked = maskedSecrets(`# note\nKEY="${KEY}"\nEMPTY=""\nexport B='12345'\n`)
    expect(masked).toBe('# note\nKEY=… (28 characters)\nEMPTY=""\nexport B=… (5 characters)\n')
    expect(maskedSecrets(`# note\n${lines}of no entry\n\nB=1`)).toBe(
      '# note\nPEM=… (38 characters)\n… (11 characters)\n\nB=… (1 characters)',
    )
    const { diff } = planSecrets(`KEY=${KEY}\n`, `KEY=${KEY.toUpperCase()}\n`)
    expect(diff).toContain('another of the same length')
  })

  test('can be read by its owner only, and leaves no copy', async () => {
    await writeFile(join(folder, '.dev.vars'), 'A=1\n', { mode: 0o644 })
    expect(await write(folder, planSecrets('A=1\n', 'A=2\n'))).toBeNull()
    expect((await stat(join(folder, '.dev.vars'))).mode & 0o777).toBe(0o600)
    expect((await readdir(folder)).sort()).toEqual(['.dev.vars', 'wrangler.toml'])
  })
})

test.each([
  ['wrangler.toml', readSettings],
  ['.dev.vars', readDevVars],
])('%s is not taken for missing if it cannot be read', async (name, readIt) => {
  await rm(join(folder, name), { force: true })
  await mkdir(join(folder, name))
  const path = join(folder, name)
  await expect(readIt(folder)).rejects.toThrow(
    new SetupError(
      `Cannot read ${path}: EISDIR. Nothing is written: make it a file that you can read, and run this again.`,
    ),
  )
})

test.each(['wrangler.toml', '.dev.vars'])(
  'writing %s leaves other files of the owner as they are',
  async (name) => {
    const other = `${name}.new`
    await writeFile(join(folder, other), 'mine', { mode: 0o644 })
    await write(folder, { name, before: '', after: 'A=1\n', diff: '' })
    expect([await read(name), await read(other)]).toEqual(['A=1\n', 'mine'])
    const mode = name === '.dev.vars' ? 0o600 : 0o644
    expect((await stat(join(folder, name))).mode & 0o777).toBe(mode)
  },
)

test('a diff shows changed lines with a few around them, and masks keys', () => {
  const lines = Array.from({ length: 20 }, (_, i) => `line = ${i}`)
  const before = lines.with(9, `key = "${KEY}"`).join('\n')
  const after = lines.with(15, 'new = 1').join('\n')
  expect(changesOf(before, after).split('\n')).toEqual([
    '  line = 7',
    '  line = 8',
    '- key = "sk-… (28 characters)"',
    '+ line = 9',
    '  line = 10',
    '  line = 11',
    '  …',
    '  line = 13',
    '  line = 14',
    '- line = 15',
    '+ new = 1',
    '  line = 16',
    '  line = 17',
  ])
  expect(changesOf(before, before)).toBe('')
})
