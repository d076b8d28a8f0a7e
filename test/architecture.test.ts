// The layers of the source: imports point down, modules of one layer do not import each other, and
// only worker.ts and objects/ use the platform. Reads import statements, runs nothing.

import { readdirSync, readFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { expect, test } from 'vitest'

/** From the lowest layer up. A name is a folder or a file of src/. */
const layers: readonly (readonly string[])[] = [
  [
    'deadline.ts',
    'errors.ts',
    'events.ts',
    'validation.ts',
    'frequent.ts',
    'hash.ts',
    'json.ts',
    'lru.ts',
    'truncate.ts',
  ],
  ['completion', 'http', 'html'],
  ['request'],
  ['cache', 'page', 'upstream', 'access', 'budget', 'usage.ts'],
  ['demo', 'flight', 'search'],
  ['routes'],
  ['config', 'app.ts'],
  ['compose.ts'],
  // The only ones that know the platform.
  ['objects'],
  ['worker.ts'],
  // Runs in browsers; a test of its own keeps it apart.
  ['site'],
]

/** Imports within a layer, each with its reason. Add none without one. */
const exceptions: Readonly<Record<string, string>> = {
  'http/reply.ts → completion/encode.ts': 'type only: the headers depend on the shape',
  'upstream/attempt.ts → budget/ledger.ts': 'type only: every call holds a lease of the budget',
  'events.ts → errors.ts': 'type only: an event names a code of the closed list',
  'events.ts → validation.ts': 'type only: the event "misconfigured" carries the faults',
}

const files = readdirSync('src', { recursive: true, encoding: 'utf8' })
  // A .d.ts has the types of a file that runs in browsers.
  .filter((file) => file.endsWith('.ts') && !file.endsWith('.d.ts'))
  .toSorted()

const sources = new Map(files.map((file) => [file, readFileSync(join('src', file), 'utf8')]))

/** The code without comments and the contents of strings, so that only identifiers remain. */
function bare(source: string): string {
  return source.replaceAll(
    /\/\*[\s\S]*?\*\/|\/\/[^\n]*|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"/g,
    (found) => (found.startsWith('/') ? ' ' : "''"),
  )
}

interface Import {
  readonly name: string
  /** `import type` does not exist at runtime. */
  readonly typeOnly: boolean
}

const STATEMENT = /^(?:import|export)\s+(?:(type\s)?[\w*{][^'";]*?\bfrom\s+)?'([^']+)'/gm
const CALL = /\bimport\(\s*'([^']+)'\s*\)/g

/** The modules that a file imports or re-exports. */
function importsOf(source: string): Import[] {
  return [
    ...[...source.matchAll(STATEMENT)].map(([, type, name = '']) => ({
      name,
      typeOnly: type !== undefined,
    })),
    ...[...source.matchAll(CALL)].map(([, name = '']) => ({ name, typeOnly: false })),
  ]
}

/** The files of src/ that a file imports, by their path in src/. */
function importedFiles(file: string, { types = true } = {}): string[] {
  return importsOf(sources.get(file) ?? '')
    .filter(({ name, typeOnly }) => name.startsWith('.') && (types || !typeOnly))
    .map(({ name }) => join(dirname(file), name))
}

/** The folder of a file, or the file itself at the top level. */
const moduleOf = (file: string) => (file.includes('/') ? file.slice(0, file.indexOf('/')) : file)

const layerOf = (file: string) => layers.findIndex((rooms) => rooms.includes(moduleOf(file)))

test('importsOf() reads every kind of import', () => {
  const source = [
    "import 'a'",
    "import b from 'b'",
    "import type { C } from 'c'",
    "import {\n  d,\n  type D,\n} from 'd'",
    "export { e } from 'e'",
    "export * from 'f'",
    "import * as g from 'g'",
    "const h = await import('h')",
  ].join('\n')
  const found = importsOf(source)
  expect(found.map(({ name }) => name).join('')).toBe('abcdefgh')
  expect(found.filter(({ typeOnly }) => typeOnly).map(({ name }) => name)).toEqual(['c'])
  expect(importsOf("const text = 'import'\n\nexport const b = 'c'\n// from 'd'\n")).toEqual([])
})

test('bare() removes comments and the contents of strings', () => {
  expect(bare('a // any\n/* any\nany */ b \'any\' c "any" d `x`')).toBe("a  \n  b '' c '' d `x`")
})

test('every file belongs to a layer', () => {
  expect(files.length).toBeGreaterThan(30)
  expect(files.filter((file) => layerOf(file) === -1)).toEqual([])
})

test('every relative import is a file of src', () => {
  const missing = files.flatMap((file) =>
    importedFiles(file)
      .filter((to) => !sources.has(to))
      .map((to) => `${file} → ${to}`),
  )
  expect(missing).toEqual([])
})

const crossings = files.flatMap((file) =>
  importedFiles(file)
    .filter((to) => moduleOf(to) !== moduleOf(file) && layerOf(to) >= layerOf(file))
    .map((to) => `${file} → ${to}`),
)

test('imports point down, and modules of one layer do not import each other', () => {
  expect(crossings.filter((crossing) => !Object.hasOwn(exceptions, crossing))).toEqual([])
})

test('every exception is still needed and imports types only', () => {
  expect(Object.keys(exceptions).filter((crossing) => !crossings.includes(crossing))).toEqual([])
  for (const crossing of Object.keys(exceptions)) {
    const [from = '', to = ''] = crossing.split(' → ')
    const statement = new RegExp(`^import type [^;']*'[^']*${basename(to)}'`, 'm')
    expect(sources.get(from), crossing).toMatch(statement)
  }
})

test('there are no import cycles', () => {
  const done = new Set<string>()
  const cycles: string[] = []
  const visit = (file: string, path: readonly string[]) => {
    if (path.includes(file)) cycles.push([...path.slice(path.indexOf(file)), file].join(' → '))
    if (done.has(file) || path.includes(file)) return
    for (const to of importedFiles(file, { types: false })) visit(to, [...path, file])
    done.add(file)
  }
  for (const file of files) visit(file, [])
  expect(cycles).toEqual([])
})

test('only worker.ts and objects/ use platform APIs', () => {
  const platform = new Set(['worker.ts', 'objects'])
  const others = files.filter((file) => !platform.has(moduleOf(file)))
  const naming = others.filter((file) => {
    const source = sources.get(file) ?? ''
    return (
      importsOf(source).some(({ name }) => /^(cloudflare|node):/.test(name)) ||
      /\benv\b/.test(bare(source))
    )
  })
  expect(naming).toEqual([])
})

test('only the top layers import config.ts; other modules are passed their options', () => {
  const importing = files.filter((file) => importedFiles(file).includes('config/config.ts'))
  expect(importing.filter((file) => layerOf(file) < layerOf('config/config.ts'))).toEqual([])
})

test('the pages and the Worker share no module', () => {
  const pages = readdirSync('src/site').filter((file) => file.endsWith('.js'))
  expect(pages.length).toBeGreaterThan(5)
  const elsewhere = pages.flatMap((file) =>
    importsOf(readFileSync(join('src/site', file), 'utf8'))
      .filter(({ name }) => !/^\.\/[\w-]+\.js$/.test(name))
      .map(({ name }) => `${file} → ${name}`),
  )
  expect(elsewhere).toEqual([])
  const theirs = files.filter((file) => importedFiles(file).some((to) => moduleOf(to) === 'site'))
  expect(theirs).toEqual([])
})

/** APIs that a pure module does not use: clock, randomness, network, timers. */
const impure =
  /\bfetch\(|\bDate\b|\bperformance\b|\bMath\.random\b|\bgetRandomValues\b|\brandomUUID\b|\bset(?:Timeout|Interval)\b|\bscheduler\b|\bcaches\b|\bconsole\b|\bprocess\b/

/** deadline.ts is the one helper that limits waiting, so it may use a timer. */
const allowed: Readonly<Record<string, RegExp>> = { 'deadline.ts': /\bsetTimeout\b/g }

test('the two lowest layers are pure', () => {
  const touching = files
    .filter((file) => layerOf(file) <= 1)
    .filter((file) => {
      const source = bare(sources.get(file) ?? '')
      const pardoned = allowed[file]
      return impure.test(pardoned === undefined ? source : source.replaceAll(pardoned, ''))
    })
  expect(touching).toEqual([])
})

test('no file has an unspecific name', () => {
  const vague = /(^|[/-])(utils?|helpers?|common|types?|constants?|misc|shared|lib)(\.ts|[/-])/
  expect(files.filter((file) => vague.test(file))).toEqual([])
})

test('no code uses any', () => {
  const any = /(?:[:<,|&=(]|\bas|\bextends)\s*any\b(?!\s*[=:(])|\bany\[\]/
  expect(any.test('let x: any')).toBe(true)
  expect(any.test('x as any')).toBe(true)
  expect(any.test('const anything = [any]')).toBe(false)
  expect(files.filter((file) => any.test(bare(sources.get(file) ?? '')))).toEqual([])
})

test('every file begins with a comment', () => {
  expect(files.filter((file) => !/^\/\/ [A-Z`]/.test(sources.get(file) ?? ''))).toEqual([])
})
