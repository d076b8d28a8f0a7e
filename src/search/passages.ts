// Cuts a page's blocks into passages.
import type { Passage } from './passage.ts'

/** A heading, or what stands between two block boundaries. */
export type Block = Heading | Content

interface Heading {
  readonly kind: 'heading'
  /** 1 to 6. */
  readonly level: number
  readonly text: string
  /** The id to which a link scrolls; null: that of the heading above. */
  readonly id: string | null
}

interface Content {
  readonly kind: 'text' | 'code'
  readonly text: string
}

export interface Outline {
  readonly title: string
  readonly language: string | null
  readonly blocks: readonly Block[]
}

/** The length of a passage, in UTF-16 units. */
const MAX_CHARS = 900

export function passagesOf({ title, blocks }: Outline, page: URL): Passage[] {
  const passages: Passage[] = []
  const path: Heading[] = []
  let url = page.href
  let texts: string[] = []
  const end = () => {
    const heading = path.map(({ text }) => text).join(' › ')
    for (const text of pieces(texts)) passages.push({ url, title, heading, text })
    texts = []
  }
  for (const block of blocks) {
    if (block.kind !== 'heading') {
      texts.push(block.text)
      continue
    }
    end()
    while ((path.at(-1)?.level ?? 0) >= block.level) path.pop()
    if (block.text !== title || block.level > 1) path.push(block)
    if (block.id !== null) url = linkTo(page, block.id)
  }
  end()
  return passages
}

/** The page's address with a fragment that finds the element with this id. */
function linkTo(page: URL, id: string): string {
  const url = new URL(page)
  url.hash = id.replaceAll(/[%\s]/g, encodeURIComponent)
  return url.href
}

function pieces(texts: readonly string[]): string[] {
  const joined: string[] = []
  for (const text of texts.flatMap(cut)) {
    const last = joined.at(-1)
    if (last !== undefined && last.length + 1 + text.length <= MAX_CHARS) {
      joined[joined.length - 1] = `${last}\n${text}`
    } else joined.push(text)
  }
  return joined
}

function cut(text: string): string[] {
  const cuts: string[] = []
  let rest = text
  while (rest.length > MAX_CHARS) {
    const space = rest.lastIndexOf(' ', MAX_CHARS)
    const at = space > MAX_CHARS / 2 ? space : MAX_CHARS
    cuts.push(rest.slice(0, at).trimEnd())
    rest = rest.slice(at).trimStart()
  }
  return [...cuts, rest]
}
