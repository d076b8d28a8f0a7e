// Cuts a page's blocks into passages: at headings, then between blocks, sentences and words.
import { truncate } from '../truncate.ts'
import type { Passage } from './passage.ts'

/** What stands between two boundaries of a page. */
export type Block = Heading | Content | HeadingEnd

interface Heading {
  readonly kind: 'heading'
  /** 1 to 6; more for the terms of a list. */
  readonly level: number
  readonly text: string
  /** The id to which a link scrolls; null: that of the heading above. */
  readonly id: string | null
}

interface Content {
  /** Code keeps its line breaks; a text is one line. */
  readonly kind: 'text' | 'code'
  readonly text: string
}

/** What follows is not below the last headings of this level or deeper ones. */
interface HeadingEnd {
  readonly kind: 'end'
  readonly level: number
}

export interface Outline {
  /** "" if the page has no title. */
  readonly title: string
  /** A BCP 47 tag; null: unknown. */
  readonly language: string | null
  readonly blocks: readonly Block[]
}

/** The limit of a passage's text, in UTF-16 units. */
const MAX_CHARS = 900
/** The limits of what each passage repeats. */
const MAX_TITLE_CHARS = 200
const MAX_HEADING_CHARS = 150
const MAX_HEADINGS = 6
const MAX_ID_CHARS = 300

/** @param page the page's address */
export function* passagesOf(outline: Outline, page: URL): Generator<Passage> {
  const title = truncate(outline.title, MAX_TITLE_CHARS)
  const titleHeading = outline.blocks.find(
    (block) => block.kind === 'heading' && block.level === 1 && block.text === outline.title,
  )
  for (const { path, contents } of sectionsOf(outline.blocks, titleHeading)) {
    const id = path.findLast((heading) => isUsable(heading.id))?.id ?? null
    const place = {
      url: linkTo(page, id),
      title,
      heading: pathText(path.filter((heading) => heading !== titleHeading)),
    }
    for (const text of piecesOf(contents)) yield { ...place, text }
  }
}

interface Section {
  /** The headings above, outermost first. */
  readonly path: readonly Heading[]
  readonly contents: readonly Content[]
}

/**
 * What stands below each heading up to the next one. A heading with nothing below is its own text.
 * What stands above the title belongs to the text below it.
 */
function* sectionsOf(blocks: readonly Block[], title: Block | undefined): Generator<Section> {
  let path: readonly Heading[] = []
  let contents: Content[] = []
  let isBare = false
  const end: HeadingEnd = { kind: 'end', level: 0 }
  for (const block of [...blocks, end]) {
    if (block.kind !== 'heading' && block.kind !== 'end') {
      contents.push(block)
      isBare = false
      continue
    }
    const last = path.at(-1)
    if (isBare && last !== undefined && last.level >= block.level) {
      contents.push({ kind: 'text', text: last.text })
    }
    if (block !== title || path.length > 0) {
      if (contents.length > 0) yield { path, contents }
      contents = []
    }
    path = path.filter(({ level }) => level < block.level)
    isBare = block.kind === 'heading'
    if (block.kind === 'heading') path = [...path, block]
  }
}

function pathText(path: readonly Heading[]): string {
  return path
    .slice(-MAX_HEADINGS)
    .map(({ text }) => truncate(text, MAX_HEADING_CHARS))
    .join(' › ')
}

const isUsable = (id: string | null) => id !== null && id.length <= MAX_ID_CHARS

/**
 * The page's address with a fragment that finds the element with this id. A browser looks for the
 * fragment as it is and then decoded (HTML, 7.4.6.4), so that "%" has to be encoded.
 */
function linkTo(page: URL, id: string | null): string {
  const url = new URL(page)
  url.hash = id === null ? '' : id.replaceAll(/[%\s]/g, encodeURIComponent)
  return url.href
}

/** The texts of passages with these contents: as few as possible, in order. */
function piecesOf(contents: readonly Content[]): string[] {
  const pieces: string[][] = []
  let piece: string[] = []
  let length = 0
  for (const part of contents.flatMap(cut)) {
    if (length + part.length > MAX_CHARS && piece.length > 0) {
      pieces.push(piece)
      piece = introductionTo(part, piece)
      length = piece.length > 0 ? (piece[0] ?? '').length + 1 : 0
    }
    piece.push(part)
    length += part.length + 1
  }
  return [...pieces, piece].filter(({ length }) => length > 0).map((parts) => parts.join('\n'))
}

/** Moves a last line such as "For example:" to the part that follows it. */
function introductionTo(part: string, piece: string[]): string[] {
  const last = piece.at(-1) ?? ''
  const isMoved = /[:：]$/.test(last) && piece.length > 1 && last.length + part.length < MAX_CHARS
  return isMoved ? piece.splice(-1) : []
}

/** Where a text may be cut, best first. */
const SENTENCE = /[.!?…؟۔।][\p{Pe}\p{Pf}"']*\s|[。！？｡][\p{Pe}\p{Pf}]*/gu
const WORD = /[\s\u3001\uff0c]/g
const PARAGRAPH = /\n[^\S\n]*\n/g
const LINE = /\n/g
const ENDS = { text: [SENTENCE, WORD], code: [PARAGRAPH, LINE, WORD] } as const
/** A worse place is better than a shorter piece. */
const MIN_CHARS = 300

function cut({ kind, text }: Content): string[] {
  const parts: string[] = []
  let from = 0
  while (text.length - from > MAX_CHARS) {
    const window = text.slice(from, from + MAX_CHARS)
    const length = lengthIn(window, ENDS[kind])
    parts.push(window.slice(0, length))
    from += length
  }
  parts.push(text.slice(from))
  return parts
    .map((part) => (kind === 'code' ? part.replace(/^(?:[^\S\n]*\n)+/, '').trimEnd() : part.trim()))
    .filter((part) => part !== '')
}

function lengthIn(window: string, ends: readonly RegExp[]): number {
  for (const end of ends) {
    let length = 0
    for (const { index, 0: found } of window.matchAll(end)) length = index + found.length
    if (length > MIN_CHARS) return length
  }
  return /[\ud800-\udbff]$/.test(window) ? window.length - 1 : window.length
}
