// README.md and docs/ agree with the code: the table of settings, every block of configuration,
// every link, and every npm script they name.
import { existsSync, readdirSync } from 'node:fs'
import { extname } from 'node:path'
import type * as v from 'valibot'
import { describe, expect, test } from 'vitest'
import { parseConfig } from '../src/config/config.ts'
import { configSchema } from '../src/config/schema.ts'
import { warningsOf } from '../src/config/warnings.ts'
import { compatible, TestApp } from './support/app.ts'
import { ORIGIN } from './support/client.ts'
import {
  allBlocks,
  anchorsOf,
  configIn,
  localLinks,
  pages,
  pasted,
  textOf,
} from './support/documents.ts'
import { memorySite } from './support/site.ts'

interface Setting {
  readonly path: string
  /** As JSON; null if there is no default. */
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

const rows = rowsOf(textOf('docs/settings.md'))

describe('docs/settings.md', () => {
  test('is compared with every kind of setting that the schema has', () => {
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

  test('lists every setting once, and no other', () => {
    const paths = rows.map(([path = '']) => path)
    const expected = [...expectedSettings().keys()].map((path) => `\`${path}\``)
    expect(paths.toSorted()).toEqual(expected.toSorted())
  })

  test('states the defaults that are in force', () => {
    const stated = new Map(rows.map(([path = '', fallback = '']) => [path, fallback]))
    for (const [path, defaults] of expectedSettings()) {
      for (const fallback of defaults) {
        expect(stated.get(`\`${path}\``), path).toContain(`\`${fallback}\``)
      }
    }
  })

  test('explains every setting', () => {
    expect(rows.length).toBeGreaterThan(0)
    for (const row of rows) {
      expect(row, row[0]).toHaveLength(3)
      expect(row[2]?.length, row[0]).toBeGreaterThan(5)
    }
  })
})

describe('a block of configuration', () => {
  test.each(allBlocks('toml').map((block) => [block.at, block] as const))(
    'works when it is pasted: %s',
    (_, block) => {
      const config = configIn(pasted(textOf('wrangler.toml'), [block]))
      const parsed = parseConfig({
        config,
        prompts: {},
        secret: () => 'a-secret',
        bound: () => true,
      })
      expect(parsed.faults ?? []).toEqual([])
      // Otherwise pasting it would switch off the README's own curl.
      expect(parsed.config?.freePrompts).toBe(true)
      expect(parsed.config === null ? [] : warningsOf(parsed.config)).not.toContainEqual(
        expect.stringContaining('free prompts off'),
      )
    },
  )
})

test('docs/costs.md has what each turn of a conversation costs and reserves', async () => {
  // Four bytes a token.
  const [system, question, answer] = [100, 50, 200].map((tokens) => 'abcd'.repeat(tokens))
  const app = new TestApp({
    config: {
      upstreams: [{ ...compatible, wire: 'chat' }],
      models: [{ id: 'm', upstream: 'main', upstream_model: 'm', chat_system: system }],
    },
  })
  const turns = [...textOf('docs/costs.md').matchAll(/^\| (\d+) \|(.*)\|$/gm)]
  expect(turns.length).toBeGreaterThan(3)
  let [sum, turn] = [0, 0]
  for (const [, number, cells = ''] of turns) {
    const [tokensIn, tokensOut, soFar, reserved] = cells
      .split('|')
      .map((cell) => Number(cell.replaceAll(/[ ,]/g, '')))
    for (; turn < Number(number); turn++) sum += 100 + 50 + turn * (50 + 200) + 200
    expect([tokensIn, tokensOut, soFar]).toEqual([150 + (turn - 1) * 250, 200, sum])
    const earlier = Array.from({ length: turn - 1 }, () => [
      { role: 'user', content: question },
      { role: 'assistant', content: answer },
    ])
    const messages = [...earlier.flat(), { role: 'user', content: question }]
    await app.ask('/v1/chat/completions', { method: 'POST', body: JSON.stringify({ messages }) })
    expect(app.ledger.reserved.at(-1)?.tokens).toBe(reserved)
  }
})

test('docs/ask.md has what six full passages reserve, and how many questions a day that allows', async () => {
  const letters = { Latin: 'a', Cyrillic: 'ж', Chinese: '猫' }
  const rows = [
    ...textOf('docs/ask.md').matchAll(/^\| (\w+) \| ([\d,]+) \| ([\d,]+) \| (\d+) \|$/gm),
  ]
  expect(rows.map(([, script]) => script)).toEqual(Object.keys(letters))
  for (const [, script = '', ...cells] of rows) {
    const [reserved, used = 0, questions] = cells.map((cell) => Number(cell.replace(',', '')))
    const letter = letters[script as keyof typeof letters]
    const passages = Array.from({ length: 6 }, (_, i) => ({
      url: `${ORIGIN}/page-${i}`,
      title: letter.repeat(20),
      heading: letter.repeat(20),
      text: letter.repeat(900),
      score: 1,
    }))
    const find = async () => ({ version: 1, found: { passages, coverage: 1 } })
    const site = { from: 'site', about: 'question', count: 6, max_chars: 6000 }
    const app = new TestApp({
      config: {
        upstreams: [{ ...compatible, wire: 'chat' }],
        prompts: {
          ask: {
            system:
              'Answer from the numbered passages only and cite them like [1]. If they do not answer the question, say so.',
            text: '{{passages}}\n\nQuestion: {{question}}',
            variables: { question: { max_chars: 300 }, passages: site },
          },
        },
      },
      index: { ...memorySite(), find },
    })
    await app.post({ prompt: { id: 'ask', variables: { question: letter.repeat(60) } } })
    const tokens = app.ledger.reserved[0]?.tokens ?? 0
    expect(Math.round(tokens / 100) * 100, script).toBe(reserved)
    const share = Number(expectedSettings().get('budget.tokens_per_visitor_per_day')?.[0])
    expect(1 + Math.floor((share - tokens) / used), script).toBe(questions)
  }
})

test('docs/elements.md names every attribute, part and custom property of the elements', () => {
  const folder = 'src/site/elements'
  const files = readdirSync(folder, { recursive: true }).map(String)
  const source = files.filter(extname).map((name) => textOf(`${folder}/${name}`))
  const named = (pattern: RegExp) =>
    source.flatMap((text) =>
      [...text.matchAll(pattern)].flatMap(([, name = '']) => name.split(' ')),
    )
  const attributes = named(/\b(?:read|json|hasAttribute)\('([\w-]+)'/g)
  const parts = named(/\bmake\('\w+', ['`]([\w -]+?)[ '`]/g)
  const properties = named(/(--edge-[\w-]+)/g)
  expect(attributes).toContain('greeting')
  expect(parts).toContain('suggestion')
  expect(properties).toContain('--edge-height')
  const page = textOf('docs/elements.md')
  for (const name of [...attributes, ...parts, ...properties])
    expect(page, name).toContain(`\`${name}\``)
})

test('every json block is JSON', () => {
  for (const { at, text } of allBlocks('json')) expect(() => JSON.parse(text), at).not.toThrow()
})

test('the module for pages that are rendered on a server loads client.js only when it is called', async () => {
  const text = allBlocks('js').find((block) => block.text.includes('webpackIgnore'))?.text ?? ''
  const module = text.slice(0, text.indexOf('// In an effect'))
  const { ask } = await import(`data:text/javascript,${encodeURIComponent(module)}`)
  // Node refuses to import from the network.
  await expect(ask('x').next()).rejects.toThrow("Received protocol 'https:'")
})

test('every block is of a language whose blocks are tested', () => {
  const tested = new Set(['sh', 'toml', 'json', 'js', 'jsx', 'python', 'html', 'text', ''])
  for (const page of pages) {
    for (const [, language = ''] of textOf(page).matchAll(/^```(\w+)$/gm)) {
      expect(tested, `${page}: ${language}`).toContain(language)
    }
  }
})

test.each(pages)('%s: every link leads somewhere', (page) => {
  for (const { file, anchor } of localLinks(page)) {
    expect(existsSync(file), file).toBe(true)
    if (anchor !== '') expect([...anchorsOf(file)], file).toContain(anchor)
  }
})

test('every npm script that a page names exists', () => {
  const { scripts } = JSON.parse(textOf('package.json'))
  for (const page of pages.filter((name) => name !== 'CHANGELOG.md')) {
    for (const [, script = ''] of textOf(page).matchAll(/\bnpm run ([\w:]+)/g)) {
      expect(Object.keys(scripts), page).toContain(script)
    }
  }
})

test('README.md stays short: 230 lines', () => {
  expect(textOf('README.md').trimEnd().split('\n').length).toBeLessThanOrEqual(230)
})

/** The rows of CONTRIBUTING.md's "Which file to open": a file, and what is to be found in it. */
const map = [
  .../<!-- map -->([\s\S]*)<!-- \/map -->/
    .exec(textOf('CONTRIBUTING.md'))![1]!
    .matchAll(/^\| (?!to change)([^|]+) \| `([^`]+)` \| `([^`]+)` \|$/gm),
].map(([, change = '', file = '', symbol = '']) => [change, file, symbol] as const)

test('CONTRIBUTING.md names a file for at least 20 changes', () => {
  expect(new Set(map.map(([change]) => change)).size).toBeGreaterThanOrEqual(20)
})

test.each(map)('the map: %s is in %s', (_, file, symbol) => {
  expect(existsSync(file), file).toBe(true)
  const definition = new RegExp(
    `(?:function\\*?|const|class|interface|type) ${symbol}\\b|^  (?:async )?${symbol}\\(`,
    'm',
  )
  expect(textOf(file)).toMatch(definition)
})

test('the files that CONTRIBUTING.md names exist', () => {
  const named = [...textOf('CONTRIBUTING.md').matchAll(/`((?:src|test|scripts|docs)\/[\w./-]+)`/g)]
  for (const [, path = ''] of named) expect(existsSync(path), path).toBe(true)
})

test('CONTRIBUTING.md names every dependency, and no other', () => {
  const { dependencies, devDependencies } = JSON.parse(textOf('package.json'))
  const page = textOf('CONTRIBUTING.md')
  const table = page.slice(page.indexOf('## Dependencies'))
  const named = [...table.matchAll(/`([@\w/*.-]+)`/g)].map(([, name = '']) => name)
  const missing = Object.keys({ ...dependencies, ...devDependencies }).filter(
    (name) =>
      !name.startsWith('@types/') &&
      name !== '@cloudflare/workers-types' &&
      !named.some(
        (known) => known === name || (known.endsWith('*') && name.startsWith(known.slice(0, -1))),
      ),
  )
  expect(missing).toEqual([])
})
