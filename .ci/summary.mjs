// Sums up one run of vitest for `.ci/run`. Arguments: the report, and the exit status of the run.
// First line: "passed failed". After it: what failed, also if only on the first try.
import { readFileSync } from 'node:fs'

const [path, exit] = process.argv.slice(2)
const notes = []
let passed = 0
let failed = 0

const note = (what, name, why) =>
  notes.push(`${what}: ${name}\n  ${why.split('\n').slice(0, 3).join('\n  ')}`)

try {
  const report = JSON.parse(readFileSync(path, 'utf8'))
  passed = report.numPassedTests
  failed = report.numFailedTests
  for (const { name, status, message, assertionResults } of report.testResults) {
    const bad = assertionResults.filter(({ failureMessages }) => failureMessages.length > 0)
    for (const { status, fullName, failureMessages } of bad)
      note(status === 'passed' ? 'second try' : status, `${name}: ${fullName}`, failureMessages[0])
    if (status === 'failed' && bad.length === 0) note('failed', name, message)
  }
} catch (error) {
  note('no report', path, String(error))
}

// A run that broke outside its tests (a hook, an unhandled rejection) is a failure, too.
if (exit !== '0' && failed === 0) {
  failed = 1
  notes.push(`failed outside its tests: ${path}`)
}
console.log([`${passed} ${failed}`, ...notes].join('\n'))
