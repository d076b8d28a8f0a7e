// The floors of the house: imports point down, neighbours do not import each other, and only the
// shell knows the platform. Reads the import statements, runs nothing.

import { readdirSync, readFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { expect, test } from 'vitest'

/** From the ground up. A name is a folder of src/ or a file in it. */
const floors: readonly (readonly string[])[] = [
  ['errors.ts', 'events.ts', 'faults.ts', 'frequent.ts', 'json.ts', 'recent.ts', 'salvage.ts'],
  ['completion', 'sse', 'http', 'html'],
  ['cache', 'page', 'upstream', 'access', 'usage.ts'],
  ['generate.ts', 'answer.ts'],
  // One miss from its first joiner to its last: generate's deltas in answer's shapes.
  ['miss.ts'],
  // One key's misses, one after another.
  ['key-flights.ts'],
  ['routes'],
  // What may be written, under what becomes of it.
  ['settings.ts'],
  ['app.ts', 'config.ts', 'prompts.ts'],
  ['warnings.ts'],
  // What the Worker and its Durable Objects are both built from.
  ['core.ts'],
  ['service.ts'],
  ['objects'],
  ['worker.ts'],
  // Runs in browsers; a test of its own keeps it apart.
  ['site'],
]

/** Imports between neighbours, each with its reason. Nothing else may be added without one. */
const exceptions: Readonly<Record<string, string>> = {
  'events.ts → errors.ts': 'type only: an event names a code of the closed list',
  'events.ts → faults.ts': 'type only: the event "misconfigured" carries the faults',
  'sse/serialize.ts → completion/completion.ts': 'type only: a chunk has the shape of a completion',
  'sse/serialize.ts → completion/delta.ts': 'type only: a chunk is written from a delta',
}

const files = readdirSync('src', { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .toSorted()

const sources = new Map(files.map((file) => [file, readFileSync(join('src', file), 'utf8')]))

/** The code without comments and without what stands in strings, so that words are names. */
function bare(source: string): string {
  return source.replaceAll(
    /\/\*[\s\S]*?\*\/|\/\/[^\n]*|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"/g,
    (found) => (found.startsWith('/') ? ' ' : "''"),
  )
}

interface Import {
  readonly name: string
  /** `import type` is gone when the code runs. */
  readonly typeOnly: boolean
}

const STATEMENT = /^(?:import|export)\s+(?:(type\s)?[\w*{][^'";]*?\bfrom\s+)?'([^']+)'/gm
const CALL = /\bimport\(\s*'([^']+)'\s*\)/g

/** What a file imports or exports from. */
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
function neighboursOf(file: string, { types = true } = {}): string[] {
  return importsOf(sources.get(file) ?? '')
    .filter(({ name, typeOnly }) => name.startsWith('.') && (types || !typeOnly))
    .map(({ name }) => join(dirname(file), name))
}

/** The folder, or the file itself where it stands in none. */
const roomOf = (file: string) => (file.includes('/') ? file.slice(0, file.indexOf('/')) : file)

const floorOf = (file: string) => floors.findIndex((rooms) => rooms.includes(roomOf(file)))

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

test('bare() leaves code and takes words', () => {
  expect(bare('a // any\n/* any\nany */ b \'any\' c "any" d `x`')).toBe("a  \n  b '' c '' d `x`")
})

test('every file has its floor', () => {
  expect(files.length).toBeGreaterThan(30)
  expect(files.filter((file) => floorOf(file) === -1)).toEqual([])
})

test('every import of ours is a file of src', () => {
  const missing = files.flatMap((file) =>
    neighboursOf(file)
      .filter((to) => !sources.has(to))
      .map((to) => `${file} → ${to}`),
  )
  expect(missing).toEqual([])
})

const crossings = files.flatMap((file) =>
  neighboursOf(file)
    .filter((to) => roomOf(to) !== roomOf(file) && floorOf(to) >= floorOf(file))
    .map((to) => `${file} → ${to}`),
)

test('imports point down, and neighbours on one floor do not import each other', () => {
  expect(crossings.filter((crossing) => !Object.hasOwn(exceptions, crossing))).toEqual([])
})

test('every exception is needed still, and imports types only', () => {
  expect(Object.keys(exceptions).filter((crossing) => !crossings.includes(crossing))).toEqual([])
  for (const crossing of Object.keys(exceptions)) {
    const [from = '', to = ''] = crossing.split(' → ')
    const statement = new RegExp(`^import type [^;']*'[^']*${basename(to)}'`, 'm')
    expect(sources.get(from), crossing).toMatch(statement)
  }
})

test('no file imports itself by a detour', () => {
  const done = new Set<string>()
  const cycles: string[] = []
  const visit = (file: string, way: readonly string[]) => {
    if (way.includes(file)) cycles.push([...way.slice(way.indexOf(file)), file].join(' → '))
    if (done.has(file) || way.includes(file)) return
    for (const to of neighboursOf(file, { types: false })) visit(to, [...way, file])
    done.add(file)
  }
  for (const file of files) visit(file, [])
  expect(cycles).toEqual([])
})

test('only worker.ts and objects/ know the platform', () => {
  const shell = new Set(['worker.ts', 'objects'])
  const others = files.filter((file) => !shell.has(roomOf(file)))
  const naming = others.filter((file) => {
    const source = sources.get(file) ?? ''
    return (
      importsOf(source).some(({ name }) => /^(cloudflare|node):/.test(name)) ||
      /\benv\b/.test(bare(source))
    )
  })
  expect(naming).toEqual([])
})

test('modules are given their options: only the top floors import config.ts', () => {
  const importing = files.filter((file) => neighboursOf(file).includes('config.ts'))
  expect(importing.filter((file) => floorOf(file) < floorOf('config.ts'))).toEqual([])
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
  const theirs = files.filter((file) => neighboursOf(file).some((to) => roomOf(to) === 'site'))
  expect(theirs).toEqual([])
})

/** What a pure module does not touch: the clock, chance, the network, timers. */
const impure =
  /\bfetch\(|\bDate\b|\bperformance\b|\bMath\.random\b|\bgetRandomValues\b|\brandomUUID\b|\bset(?:Timeout|Interval)\b|\bscheduler\b|\bcaches\b|\bconsole\b|\bprocess\b/

/** http/body.ts bounds the time a body takes, so it has a timer and nothing else. */
const allowed: Readonly<Record<string, RegExp>> = { 'http/body.ts': /\bsetTimeout\b/g }

test('the two lowest floors are pure', () => {
  const touching = files
    .filter((file) => floorOf(file) <= 1)
    .filter((file) => {
      const source = bare(sources.get(file) ?? '')
      const pardoned = allowed[file]
      return impure.test(pardoned === undefined ? source : source.replaceAll(pardoned, ''))
    })
  expect(touching).toEqual([])
})

test('no file is named for nothing in particular', () => {
  const vague = /(^|[/-])(utils?|helpers?|common|types?|constants?|misc|shared|lib)(\.ts|[/-])/
  expect(files.filter((file) => vague.test(file))).toEqual([])
})

test('there is no any', () => {
  const any = /(?:[:<,|&=(]|\bas|\bextends)\s*any\b(?!\s*[=:(])|\bany\[\]/
  expect(any.test('let x: any')).toBe(true)
  expect(any.test('x as any')).toBe(true)
  expect(any.test('const anything = [any]')).toBe(false)
  expect(files.filter((file) => any.test(bare(sources.get(file) ?? '')))).toEqual([])
})

test('every file begins by saying what it is', () => {
  expect(files.filter((file) => !/^\/\/ [A-Z`]/.test(sources.get(file) ?? ''))).toEqual([])
})
