// The README's table of settings is the schema's: no setting untold, none invented, no default wrong.

import { existsSync, readFileSync } from 'node:fs'
import type * as v from 'valibot'
import { expect, test } from 'vitest'
import { configSchema } from '../src/settings.ts'

interface Setting {
  readonly path: string
  /** As JSON; null where there is none. */
  readonly fallback: string | null
}

/** A valibot schema, as far as settings are made of it. */
interface Node {
  readonly type: string
  readonly entries?: Readonly<Record<string, Node>>
  readonly item?: Node
  readonly value?: Node
  readonly options?: readonly (Node | string)[]
  readonly wrapped?: Node
  readonly default?: unknown
}

/** Every setting below a schema, with a path such as `models[].fallbacks[].upstream`. */
function settingsIn(node: Node, path: string, fallback: unknown = undefined): Setting[] {
  const leaf = { path, fallback: fallback === undefined ? null : JSON.stringify(fallback) }
  switch (node.type) {
    case 'optional':
      return node.wrapped === undefined ? [] : settingsIn(node.wrapped, path, node.default)
    case 'strict_object':
      return Object.entries(node.entries ?? {}).flatMap(([key, entry]) =>
        settingsIn(entry, path === '' ? key : `${path}.${key}`),
      )
    case 'array':
      return isTable(node.item) ? settingsIn(node.item, `${path}[]`) : [leaf]
    case 'record':
      return isTable(node.value) ? settingsIn(node.value, `${path}.*`) : [leaf]
    case 'union':
      return (node.options ?? []).flatMap((option) =>
        typeof option === 'string' ? [] : settingsIn(option, path),
      )
    default:
      return [leaf]
  }
}

function isTable(node: Node | undefined): node is Node {
  return node !== undefined && ['strict_object', 'record', 'union'].includes(node.type)
}

/** Settings by path; a path that stands in several shapes of a table keeps each default. */
function expectedSettings(): Map<string, string[]> {
  const settings = new Map<string, string[]>()
  for (const { path, fallback } of settingsIn(configSchema as v.GenericSchema as Node, '')) {
    const defaults = settings.get(path) ?? []
    settings.set(path, fallback === null ? defaults : [...defaults, fallback])
  }
  return settings
}

/** The rows `| \`path\` | default | meaning |` between the two marks. */
function rowsOf(readme: string): string[][] {
  const table = /<!-- settings -->([\s\S]*)<!-- \/settings -->/.exec(readme)?.[1] ?? ''
  return table
    .split('\n')
    .filter((line) => line.startsWith('| `'))
    .map((line) =>
      line
        .split(/(?<!\\)\|/)
        .slice(1, -1)
        .map((cell) => cell.trim()),
    )
}

const readme = existsSync('README.md') ? readFileSync('README.md', 'utf8') : ''
const rows = rowsOf(readme)

test('configSchema is read whole: every kind of path is found', () => {
  expect([...expectedSettings().keys()]).toEqual(
    expect.arrayContaining([
      'origins',
      'models[].id',
      'models[].parameters',
      'models[].fallbacks[].upstream',
      'models[].price.input',
      'upstreams[].idle_ms',
      'prompts.*.text',
      'prompts.*.variables.*.max_chars',
      'prompts.*.variables.*.paths',
      'defaults.max_tokens',
      'cache.ttl_seconds',
    ]),
  )
  expect(expectedSettings().get('cache.ttl_seconds')).toEqual(['2592000'])
  expect(expectedSettings().get('upstreams[].stream')).toEqual(['"always"'])
  expect(expectedSettings().get('models[].id')).toEqual([])
})

test('README.md has every setting once, and no other', () => {
  const paths = rows.map(([path = '']) => path)
  expect(paths.toSorted()).toEqual([...expectedSettings().keys()].map((p) => `\`${p}\``).toSorted())
})

test('README.md has the defaults that are in force', () => {
  const stated = new Map(rows.map(([path = '', fallback = '']) => [path, fallback]))
  for (const [path, defaults] of expectedSettings()) {
    for (const fallback of defaults) {
      expect(stated.get(`\`${path}\``), path).toContain(`\`${fallback}\``)
    }
  }
})

test('README.md says of every setting what it means', () => {
  expect(rows.length).toBeGreaterThan(0)
  for (const row of rows) {
    expect(row, row[0]).toHaveLength(3)
    expect(row[2]?.length, row[0]).toBeGreaterThan(5)
  }
})
