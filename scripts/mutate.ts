// How well the tests hold the sources: changes one small thing in src, runs the tests in process that
// import the file, and reports whether any of them failed. `npm run mutate -- --help`.
import { spawn } from 'node:child_process'
import {
  cpSync,
  globSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { parseAst } from 'vitest/node'
import { seeded, shuffled } from '../test/support/random.ts'

const { values: options } = parseArgs({
  options: {
    count: { type: 'string', default: '150' },
    seed: { type: 'string', default: '1' },
    only: { type: 'string' },
    list: { type: 'boolean', default: false },
    out: { type: 'string', default: 'dist/mutants.json' },
    help: { type: 'boolean', default: false },
  },
})
const HELP = `npm run mutate -- [options]
  --count 150            how many mutants to choose from src
  --seed 1               the same seed chooses the same mutants of the same sources
  --only 1..20           runs a part of them
  --list                 prints them, and runs nothing
  --out dist/mutants.json  the results as JSON
Needs dist/ from an earlier run of the tests.`

/** A test that needs longer than this hangs because of the mutant. */
const TIMEOUT_MS = 180_000

interface Mutant {
  readonly number: number
  readonly file: string
  readonly line: number
  readonly before: string
  readonly after: string
  readonly start: number
  readonly end: number
}

interface Result extends Omit<Mutant, 'start' | 'end'> {
  /** `survived`: all tests passed. `untested`: no test imports the file. */
  readonly result: 'killed' | 'timeout' | 'survived' | 'untested'
  /** The first test that failed. */
  readonly by: string | null
  readonly seconds: number
}

interface Node {
  readonly type: string
  readonly start: number
  readonly end: number
  readonly [key: string]: unknown
}

const swapped: Readonly<Record<string, string>> = {
  '<': '<=',
  '<=': '<',
  '>': '>=',
  '>=': '>',
  '===': '!==',
  '!==': '===',
  '+': '-',
  '-': '+',
  '*': '/',
  '&&': '||',
  '||': '&&',
}

/** Replacements of a node by another text. */
function* replacements(node: Node, source: string): Generator<string> {
  const textOf = ({ start, end }: Node) => source.slice(start, end)
  const part = (key: string) => textOf(node[key] as Node)
  switch (node.type) {
    case 'BinaryExpression':
    case 'LogicalExpression': {
      const operator = String(node['operator'])
      const other = swapped[operator]
      if (other === undefined) return
      const [left, right] = [node['left'] as Node, node['right'] as Node]
      const between = source.slice(left.end, right.start).replace(operator, other)
      yield `(${source.slice(node.start, left.end)}${between}${source.slice(right.start, node.end)})`
      return
    }
    case 'UnaryExpression':
      if (node['operator'] === '!') yield `!${textOf(node)}`
      return
    case 'Literal':
      if (typeof node['value'] === 'number') {
        yield String(node['value'] + 1)
        yield String(node['value'] - 1)
      } else if (typeof node['value'] === 'boolean') yield String(!node['value'])
      return
    case 'AwaitExpression':
      yield textOf(node).slice('await'.length)
      return
    case 'ConditionalExpression':
      yield `(${part('test')} ? ${part('alternate')} : ${part('consequent')})`
      return
    case 'ExpressionStatement':
      yield ';'
      return
    case 'IfStatement':
      yield textOf(node).replace(part('test'), () => 'true')
      yield textOf(node).replace(part('test'), () => 'false')
      return
    case 'ReturnStatement':
      if (node['argument'] !== null) yield 'return'
  }
}

/** A text that is no TypeScript would be found by the compiler rather than a test. */
function isCode(source: string): boolean {
  try {
    parseAst(source, { lang: 'ts' })
    return true
  } catch {
    return false
  }
}

/** The source with the mutant in it. */
const mutated = (source: string, { start, end, after }: Pick<Mutant, 'start' | 'end' | 'after'>) =>
  source.slice(0, start) + after + source.slice(end)

function* nodesIn(value: unknown): Generator<Node> {
  if (Array.isArray(value)) for (const item of value) yield* nodesIn(item)
  if (typeof value !== 'object' || value === null || !('type' in value)) return
  const node = value as Node
  // Types do not run, except that an assertion holds an expression.
  if (node.type.startsWith('TS')) return yield* nodesIn(node['expression'])
  yield node
  for (const child of Object.values(node)) yield* nodesIn(child)
}

function mutantsOf(file: string): Omit<Mutant, 'number'>[] {
  const source = readFileSync(file, 'utf8')
  return [...nodesIn(parseAst(source, { lang: 'ts' }))].flatMap((node) =>
    [...replacements(node, source)].map((after) => ({
      file,
      line: source.slice(0, node.start).split('\n').length,
      before: source.slice(node.start, node.end),
      after,
      start: node.start,
      end: node.end,
    })),
  )
}

function chosen(): Mutant[] {
  const files = globSync('src/**/*.ts').filter((file) => !file.startsWith('src/site/'))
  const all = shuffled(files.sort().flatMap(mutantsOf), seeded(Number(options.seed)))
  const mutants: Mutant[] = []
  for (const mutant of all) {
    if (mutants.length === Number(options.count)) break
    if (!isCode(mutated(readFileSync(mutant.file, 'utf8'), mutant))) continue
    mutants.push({ number: mutants.length + 1, ...mutant })
  }
  return mutants
}

/** A copy of the tree whose tests run in process only. */
function copyTree(): string {
  const folder = mkdtempSync(join(tmpdir(), 'mutants-'))
  const left = new Set(['node_modules', '.git', '.wrangler'])
  for (const name of globSync('{*,.*}').filter((each) => !left.has(each))) {
    cpSync(name, join(folder, name), { recursive: true })
  }
  symlinkSync(resolve('node_modules'), join(folder, 'node_modules'))
  const needsBuild = globSync('test/**/*.test.ts').filter((file) =>
    /workerd\.ts|rig\.ts|rigged-suite\.ts|execFile|spawn|inject\(/.test(readFileSync(file, 'utf8')),
  )
  const test = {
    include: ['test/**/*.test.ts'],
    exclude: ['test/browser/**', 'test/worker/**', ...needsBuild],
    setupFiles: ['test/support/canary.ts'],
    isolate: false,
    testTimeout: 20_000,
  }
  writeFileSync(
    join(folder, 'vitest.config.ts'),
    `export default { test: ${JSON.stringify(test)} }\n`,
  )
  return folder
}

interface Run {
  readonly status: 'passed' | 'failed' | 'timeout' | 'no tests'
  readonly by: string | null
}

/** Runs the tests that import these files. */
async function testsOf(folder: string, files: readonly string[]): Promise<Run> {
  const report = join(folder, 'report.json')
  rmSync(report, { force: true })
  const child = spawn(
    resolve('node_modules/.bin/vitest'),
    ['related', ...files, '--run', '--bail=1', '--reporter=json', `--outputFile=${report}`],
    // A group of its own, so that a timeout also ends the processes of the tests.
    { cwd: folder, stdio: 'ignore', detached: true },
  )
  const { promise, resolve: end } = Promise.withResolvers<number | null>()
  child.on('exit', end)
  const timer = setTimeout(() => process.kill(-(child.pid ?? 0), 'SIGKILL'), TIMEOUT_MS)
  const code = await promise
  clearTimeout(timer)
  if (code === null) return { status: 'timeout', by: null }
  const { numTotalTests, testResults } = JSON.parse(readFileSync(report, 'utf8'))
  const failed = testResults.flatMap(
    (file: {
      name: string
      message: string
      assertionResults: { status: string; fullName: string }[]
    }) => [
      ...file.assertionResults
        .filter(({ status }) => status === 'failed')
        .map(({ fullName }) => fullName),
      ...(file.assertionResults.length === 0
        ? [`${file.name}: ${file.message.slice(0, 100)}`]
        : []),
    ],
  )
  if (code !== 0) return { status: 'failed', by: failed[0] ?? 'an error outside of the tests' }
  return { status: numTotalTests === 0 ? 'no tests' : 'passed', by: null }
}

const resultOf = {
  passed: 'survived',
  failed: 'killed',
  timeout: 'timeout',
  'no tests': 'untested',
} as const

async function main(): Promise<void> {
  const [first = 1, last = Number.POSITIVE_INFINITY] = options.only?.split('..').map(Number) ?? []
  const mutants = chosen().filter(({ number }) => number >= first && number <= last)
  const short = (text: string) => text.replace(/\s+/g, ' ').slice(0, 60)
  const nameOf = ({ number, file, line, before, after }: Mutant) =>
    `${number} ${file}:${line} ${short(before)} → ${short(after)}`
  if (options.list) return console.log(mutants.map(nameOf).join('\n'))
  const folder = copyTree()
  const results: Result[] = []
  try {
    const baseline = await testsOf(folder, [...new Set(mutants.map(({ file }) => file))])
    if (baseline.status !== 'passed') {
      throw new Error(`The tests fail without a mutant: ${baseline.by ?? baseline.status}`)
    }
    for (const mutant of mutants) {
      const { start: _, end: __, ...described } = mutant
      const path = join(folder, mutant.file)
      const source = readFileSync(path, 'utf8')
      const startedAt = Date.now()
      writeFileSync(path, mutated(source, mutant))
      const { status, by } = await testsOf(folder, [mutant.file])
      writeFileSync(path, source)
      const seconds = Math.round((Date.now() - startedAt) / 1000)
      const result = resultOf[status]
      results.push({ ...described, result, by, seconds })
      console.log(`${result.padEnd(8)} ${String(seconds).padStart(3)} s  ${nameOf(mutant)}`)
      writeFileSync(options.out, JSON.stringify(results, null, 2))
    }
  } finally {
    rmSync(folder, { recursive: true })
  }
  const killed = results.filter(({ result }) => result === 'killed' || result === 'timeout').length
  console.log(`${killed} of ${results.length} killed`)
}

if (options.help) console.log(HELP)
else await main()
