// The tests of `npm run check:quick`: those that import a file changed since main, committed or
// not. Tests that run the built Worker in workerd, or commands, take seconds each, and the fixtures
// of upstreams half a minute; of them, only those that have changed themselves run.
import { execFileSync, spawnSync } from 'node:child_process'
import { globSync } from 'node:fs'

const fixtures = 'test/upstream/fixtures.test.ts'

const slow = globSync([
  fixtures,
  'test/worker/*.test.ts',
  'test/bench/*.test.ts',
  'test/scripts/{warm,index,start,check-config,check-size}.test.ts',
  'test/docs-commands.test.ts',
])

function git(...args: string[]): string[] {
  const out = execFileSync('git', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  return out.split('\n').filter((line) => line !== '')
}

/** The commit at which this branch left main; the last commit if there is no main. */
function base(): string {
  try {
    return git('merge-base', 'HEAD', 'main')[0] ?? 'HEAD'
  } catch {
    return 'HEAD'
  }
}

const changed = [
  ...git('diff', '--name-only', '--diff-filter=d', base()),
  ...git('ls-files', '--others', '--exclude-standard'),
]
  .map((path) => (path.startsWith('test/fixtures/upstream') ? fixtures : path))
  .filter((path) => /^(src|test|scripts|bench)\/.*\.(ts|js)$/.test(path))

if (changed.length === 0) {
  console.log('No source or test has changed since main.')
} else {
  const excluded = slow.filter((path) => !changed.includes(path))
  const { status } = spawnSync(
    'vitest',
    [
      ...['related', '--run', '--passWithNoTests'],
      ...excluded.flatMap((path) => ['--exclude', path]),
      ...changed,
    ],
    { stdio: 'inherit' },
  )
  process.exitCode = status ?? 1
}
