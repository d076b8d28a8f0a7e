// The pages in a text of Markdown: one, or all those of a site in `llms-full.txt`, where each has a
// heading of level 1 and often its address, in front matter or in a line below the heading.
import type { References } from '../html/references.ts'
import { MAX_ADDRESS_CHARS } from '../page/rules.ts'
import { isCollection } from './collection.ts'
import { type MarkdownBlock, markdownBlocks } from './markdown.ts'
import type { Block, Outline } from './passages.ts'
import { languageTag } from './shown.ts'
import { Slugger } from './slug.ts'

export interface MarkdownPage {
  readonly url: URL
  readonly outline: Outline
}

/** @param address the text's own address, which is that of pages that name none of its origin */
export function markdownPages(text: string, address: URL, references: References): MarkdownPage[] {
  const hasMany = isCollection(address)
  const blocks = markdownBlocks(text, references, hasMany)
  const groups = hasMany ? groupsOf(blocks) : [blocks]
  return groups.map((group) => pageOf(group, address, hasMany))
}

/** The blocks of each page. Without any address, each heading of level 1 starts a page. */
function groupsOf(blocks: readonly MarkdownBlock[]): MarkdownBlock[][] {
  const hasStarts = blocks.some(({ kind }) => kind === 'page')
  const groups: MarkdownBlock[][] = [[]]
  for (const [i, block] of blocks.entries()) {
    const group = groups.at(-1)
    const isTitle = block.kind === 'heading' && block.level === 1
    const startsPage = isTitle
      ? !hasStarts || (blocks[i + 1]?.kind === 'page' && group?.at(-1)?.kind !== 'page')
      : block.kind === 'page' && !isTitleOnly(group)
    if (group === undefined || (startsPage && group.length > 0)) groups.push([block])
    else group.push(block)
  }
  return groups
}

/** Whether a page has only its title so far, to which the next address belongs. */
function isTitleOnly(group: readonly MarkdownBlock[] | undefined): boolean {
  const last = group?.at(-1)
  return last?.kind === 'heading' && last.level === 1
}

function pageOf(group: readonly MarkdownBlock[], address: URL, isOneOfMany: boolean): MarkdownPage {
  const fields = new Map(group.flatMap((block) => (block.kind === 'page' ? [...block.fields] : [])))
  const blocks = group.filter((block) => block.kind !== 'page')
  const url = isOneOfMany ? sourceIn(fields, address) : address
  return {
    url: url ?? address,
    outline: {
      title: titleOf(blocks, fields.get('title') ?? ''),
      language: languageTag(fields.get('lang') ?? fields.get('language') ?? ''),
      // Nothing in a collection can be scrolled to.
      blocks: url === null ? blocks.map(withoutId) : withSlugs(blocks),
    },
  }
}

/** The only heading of level 1, or else the title in front matter. */
function titleOf(blocks: readonly Block[], title: string): string {
  const titles = blocks.flatMap((block) =>
    block.kind === 'heading' && block.level === 1 ? [block.text] : [],
  )
  return titles.length > 1 && title !== '' ? title : (titles[0] ?? title)
}

/** The address that a page names; null if it names none of this origin. */
function sourceIn(fields: ReadonlyMap<string, string>, address: URL): URL | null {
  for (const name of ['url', 'html', 'source_url', 'source', 'canonical_url']) {
    const value = fields.get(name) ?? ''
    const isAddress = value.length <= MAX_ADDRESS_CHARS && /^(?:https?:\/\/|\/)/.test(value)
    const url = isAddress ? URL.parse(value, address.href) : null
    // Each passage of the page repeats its address.
    if (url?.origin === address.origin && url.href.length <= MAX_ADDRESS_CHARS) return url
  }
  return null
}

const withoutId = (block: Block): Block =>
  block.kind === 'heading' ? { ...block, id: null } : block

function withSlugs(blocks: readonly Block[]): Block[] {
  const slugger = new Slugger()
  return blocks.map((block) =>
    block.kind === 'heading' ? { ...block, id: block.id ?? slugger.slug(block.text) } : block,
  )
}
