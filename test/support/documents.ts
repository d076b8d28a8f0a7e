// The pages people read, as data: README.md, docs/ and the others, their code blocks, links and anchors.
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, normalize } from 'node:path'
import { experimental_readRawConfig } from 'wrangler'

export interface CodeBlock {
  /** The page and line it begins on, for messages. */
  readonly at: string
  readonly page: string
  /** `sh`, `toml`, …; "" without one. */
  readonly language: string
  readonly text: string
}

/** Paths of all Markdown pages that users read, README.md first. */
export const pages: readonly string[] = [
  'README.md',
  'SECURITY.md',
  'CONTRIBUTING.md',
  'CHANGELOG.md',
  ...readdirSync('docs', { recursive: true })
    .map(String)
    .filter((name) => name.endsWith('.md'))
    .map((name) => join('docs', name)),
]

export const textOf = (page: string): string => readFileSync(page, 'utf8')

export function codeBlocks(page: string): CodeBlock[] {
  const blocks: CodeBlock[] = []
  const fence = /^```(\w*)\n([\s\S]*?)^```$/gm
  const text = textOf(page)
  for (const { index, 1: language = '', 2: body = '' } of text.matchAll(fence)) {
    const line = text.slice(0, index).split('\n').length
    blocks.push({ at: `${page}:${line}`, page, language, text: body })
  }
  return blocks
}

export const allBlocks = (language: string): CodeBlock[] =>
  pages.flatMap(codeBlocks).filter((block) => block.language === language)

/** Links to files of this repository: the file each leads to, and the anchor behind `#`. */
export function localLinks(page: string): { readonly file: string; readonly anchor: string }[] {
  const prose = textOf(page).replaceAll(/^```[\s\S]*?^```$/gm, '')
  return [...prose.matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, target = '']) => target)
    .filter((target) => !/^[a-z]+:/.test(target))
    .map((target) => {
      const [path = '', anchor = ''] = target.split('#')
      return { file: path === '' ? page : normalize(join(dirname(page), path)), anchor }
    })
}

/** The anchors of a page's headings, as GitHub makes them. */
export function anchorsOf(page: string): Set<string> {
  const headings = [...textOf(page).matchAll(/^#+ (.+)$/gm)].map(([, title = '']) => title)
  return new Set(
    headings.map((title) =>
      title
        .toLowerCase()
        .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
        .replaceAll(' ', '-'),
    ),
  )
}

/** A block that replaces everything from `[vars.CONFIG]` on; the others are added to it. */
const isWhole = ({ text }: CodeBlock): boolean => text.startsWith('[vars.CONFIG]\n')

/** A block that defines a locked prompt. */
export const isPrompt = ({ text }: CodeBlock): boolean => text.startsWith('[vars.CONFIG.prompts.')

/** The shipped wrangler.toml with blocks pasted as the pages ask for: a whole one, and what is added. */
export function pasted(shipped: string, blocks: readonly CodeBlock[]): string {
  const whole = blocks.find(isWhole) ?? allBlocks('toml').find(isWhole)
  const added = blocks.filter((block) => !isWhole(block))
  const before = shipped.slice(0, shipped.indexOf('[vars.CONFIG]'))
  return [before + whole?.text, ...added.map(({ text }) => text)].join('\n')
}

/** The variable CONFIG of a wrangler.toml, as wrangler reads it. */
export function configIn(toml: string): unknown {
  const folder = mkdtempSync(join(tmpdir(), 'config-'))
  const path = join(folder, 'wrangler.toml')
  writeFileSync(path, toml)
  try {
    return experimental_readRawConfig({ config: path }).rawConfig.vars?.['CONFIG']
  } finally {
    rmSync(folder, { recursive: true })
  }
}
