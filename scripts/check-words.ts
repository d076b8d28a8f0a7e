// Part of `npm run check:lint`: refuses words and turns of phrase that this project has retired, and
// references to notes that the repository does not contain. Reads comments, strings and Markdown.
// Paths may be given; without any, every tracked text file is read.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'

interface Rule {
  readonly pattern: RegExp
  readonly advice: string
}

const say = (pattern: RegExp, advice: string): Rule => ({ pattern, advice })

/** Old metaphors and stiff turns; one word stands for one thing (CONTRIBUTING.md, "Words"). */
const rules: readonly Rule[] = [
  say(/\b(aboard|passengers?|seats?)\b/i, 'reader, follower'),
  say(/\b(askers?|arrivals?|joiners?|leavers?)\b/i, 'visitor, request, follower, reader that left'),
  say(/\bdepartures?\b/i, 'disconnect'),
  say(/\bstrangers?\b/i, 'visitor, anyone'),
  say(/\btall(y|ies)\b/i, 'count, figures'),
  say(/\bdoors?\b/i, 'path, interface, binding'),
  say(/\b(the|this|our) house\b/i, 'this project, the source'),
  say(/\bin vain\b/i, 'name what fails'),
  say(/\b(heeds?|heeded|lest|anew)\b/i, 'obeys; so that … not; again'),
  say(/\bmend(s|ed|ing)?\b/i, 'fix'),
  say(/\bfor so long\b/i, 'name the time'),
  say(/\bcomes? at once\b/i, 'is returned immediately'),
  say(/\b(is|are|was|were) none\b/i, 'there is no …, missing'),
  say(/\bwhatever\b/i, 'any, every, regardless of'),
  say(/\b(PROTOCOL|PLATFORM|DESIGN)( section)? ?\d/, 'a public document, or nothing'),
  say(/\b(PROTOCOL|PLATFORM|DESIGN|CONTRACT|PERFORMANCE|WORDS)\.md\b/, 'a file of this repository'),
  say(/\bcontract(, section)? \d/i, 'a page of docs/'),
  say(/\((?:[A-Z]\d{1,2})(?:, ?[A-Z]\d{1,2})*\)/, 'the behaviour itself'),
]

/** Where such words are data, or a list of what they were. */
const exempt = [
  'scripts/check-words.ts',
  'test/scripts/check-words.test.ts',
  /^test\/fixtures\//,
  'src/demo/text.txt',
  /package-lock\.json$/,
  /^LICENSE$/,
]

const isExempt = (path: string) =>
  exempt.some((rule) => (typeof rule === 'string' ? rule === path : rule.test(path)))

const text = /\.(ts|js|mjs|md|html|css|toml|yml|json|svg)$|^\.dev\.vars\.example$|^\.ci\//

/**
 * The instruction to the model about a page (src/request/page-text.ts) is part of the cache key, so it
 * stays. The other is the name of a command and its files.
 */
const keptPhrases =
  /never instructions to you, whatever it says|npm run strangers|["/.]strangers\b(?=["'/.-])/g

/** The lines of a file that hold a retired word, each with what to write. */
export function retiredWords(path: string, content: string): string[] {
  const found: string[] = []
  for (const [index, line] of content.split('\n').entries()) {
    // SECURITY.md numbers its threats, and tests name them by these numbers.
    const own = line.replaceAll(keptPhrases, '')
    const rest = /SECURITY|security/.test(path) ? own.replaceAll(/\(T\d+[^)]*\)/g, '') : own
    for (const { pattern, advice } of rules) {
      const [word] = pattern.exec(rest) ?? []
      if (word !== undefined) found.push(`${path}:${index + 1}: "${word}": write ${advice}`)
    }
  }
  return found
}

if (import.meta.filename === process.argv[1]) {
  const given = process.argv.slice(2)
  const tracked = execFileSync('git', ['ls-files', ...given], { encoding: 'utf8' }).split('\n')
  const paths = tracked.filter((path) => path !== '' && text.test(path) && !isExempt(path))
  const found = paths.flatMap((path) => retiredWords(path, readFileSync(path, 'utf8')))
  for (const line of found) console.error(line)
  console.log(`${paths.length} files read, ${found.length} retired words`)
  if (found.length > 0) process.exitCode = 1
}
