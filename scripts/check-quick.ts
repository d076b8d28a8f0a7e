// The tests of `npm run check:quick`: those that import a file changed since main, committed or
// not. Tests in test/worker run the built Worker in workerd and take seconds each; of them, only
// those that have changed themselves run.
import { execFileSync, spawnSync } from 'node:child_process'

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
].filter((path) => /^(src|test|scripts|bench)\/.*\.(ts|js)$/.test(path))
const own = changed.flatMap((path) => /^test\/worker\/(.*)\.test\.ts$/.exec(path)?.[1] ?? [])

if (changed.length === 0) {
  console.log('No source or test has changed since main.')
} else {
  const unchanged = own.length === 0 ? '*' : `!(${own.join('|')})`
  const { status } = spawnSync(
    'vitest',
    [
      'related',
      '--run',
      '--passWithNoTests',
      '--exclude',
      `test/worker/${unchanged}.test.ts`,
    ].concat(changed),
    { stdio: 'inherit' },
  )
  process.exitCode = status ?? 1
}
