// Shows what setup would change in a file.
import { diff } from 'node:util'
import { masked } from '../../src/validation.ts'

/** Unchanged lines that are shown around a change. */
const CONTEXT = 2

/** The changed lines of a file with "+" and "-"; "" without a change. Keys are masked. */
export function changesOf(before: string, after: string): string {
  const lines = (text: string) => (text === '' ? [] : text.replace(/\n$/, '').split('\n'))
  // `diff` marks what is only in its first text with 1, and what is only in its second with -1.
  const all = diff(lines(before), lines(after)).map(([sign, line]) => ({ sign, line }))
  const isNear = (at: number) =>
    all.slice(Math.max(0, at - CONTEXT), at + CONTEXT + 1).some(({ sign }) => sign !== 0)
  const shown: string[] = []
  for (const [at, { sign, line }] of all.entries()) {
    if (isNear(at)) shown.push(`${sign === 1 ? '-' : sign === -1 ? '+' : ' '} ${withoutKeys(line)}`)
    else if (shown.length > 0 && shown.at(-1) !== '  …') shown.push('  …')
  }
  if (shown.at(-1) === '  …') shown.pop()
  return shown.join('\n')
}

/** An owner may have pasted a key into wrangler.toml. */
function withoutKeys(line: string): string {
  return line.replaceAll(/[^\s"'=,]{12,}/g, masked)
}
