// Reads Markdown and MDX line by line into blocks. Text without any markup becomes paragraphs.
import type { References } from '../html/references.ts'
import { readFrontMatter } from './front-matter.ts'
import { inlineText } from './inline.ts'
import type { Block } from './passages.ts'
import { codeText, shownText } from './shown.ts'

/** A page's own description: where a page starts in a text that may hold several. */
interface PageStart {
  readonly kind: 'page'
  readonly fields: ReadonlyMap<string, string>
}

export type MarkdownBlock = Block | PageStart

/**
 * @param isCollection whether descriptions of pages may also stand further down
 * @returns the blocks; headings have the ids that they name themselves
 */
export function markdownBlocks(
  text: string,
  references: References,
  isCollection: boolean,
): MarkdownBlock[] {
  return new LineReader(text.split(/\r\n?|\n/), references, isCollection).read()
}

interface Fence {
  readonly sign: string
  readonly length: number
  readonly indent: number
  /** Whether it is in a quotation. */
  readonly isQuoted: boolean
}

const FENCE = /^(\s*)(?:(?:[-*+]|\d{1,9}[.)])\s+)?(`{3,}(?=[^`]*$)|~{3,})/
const HTML_HEADING = /^\s*<h([1-6])(\s[^<>]*)?>(.*)<\/h\1>\s*$/i
const UNDERLINE = /^ {0,3}(=+|-+)\s*$/
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,100}\s*$/
const ITEM = /^\s*([-*+]|\d{1,9}[.)])\s+(?:\[[ xX]\]\s)?/
/** All there is in a line: an entry of a table of contents, or a link to the heading above. */
const FRAGMENT_LINK = /^\s*\[[^\]]*\]\(#[^)]*\)\s*$/
const DEFINITION = /^ {0,3}\[(?!\^)[^\]]{1,200}\]:\s/
/** An import or export of MDX, which lasts up to the next blank line. */
const MODULE =
  /^(?:import\s+(?:[\w*{][^'"]{0,500}\sfrom\s+)?['"]|import\s*\{|export\s+(?:const|let|var|default|function|async|class)\b|export\s*[{*])/
/** What starts content that is not shown, and what ends it. */
const UNSHOWN = /^\s*(?:<(!--)|\{(\/\*)|<(script|style|svg)[\s>])/i
/** The first line of a notice: of Docusaurus, VitePress and others, of MkDocs, of GitHub. */
const NOTICE =
  /^\s*(?::{3,}\s*[\w-]*(?:\{[^}]*\})?|(?:!!!|\?{3}\+?)\s+[\w -]*|={3}[!+]?(?=\s+")|\[!\w+\][-+]?)/
/** The blocks up to a page's heading, one of them a description, above the line with its address. */
const MAX_SOURCE_DISTANCE = 4
const QUOTE = /^(?: {0,3}> ?)+/

class LineReader {
  readonly #lines: readonly string[]
  readonly #references: References
  readonly #isCollection: boolean
  readonly #blocks: MarkdownBlock[] = []
  #paragraph: string[] = []
  /** The start of the paragraph's text: the mark of an item. */
  #mark = ''
  #code: string[] = []
  #fence: Fence | null = null
  /** What ends the content that is not shown; "" on a blank line. */
  #end: string | null = null
  #isTable = false
  /** Whether indented lines are part of an item or a notice, and not code. */
  #isIndented = false
  #isAfterBlank = true

  constructor(lines: readonly string[], references: References, isCollection: boolean) {
    this.#lines = lines
    this.#references = references
    this.#isCollection = isCollection
  }

  read(): MarkdownBlock[] {
    for (let at = 0; at < this.#lines.length; at += 1) {
      const lineCount = this.#frontMatter(at)
      if (lineCount > 0) at += lineCount - 1
      else this.#line(this.#lines[at] ?? '')
    }
    this.#endCode()
    this.#endParagraph()
    return this.#blocks
  }

  /** Reads the description of a page. @returns the number of its lines; 0 if none starts here */
  #frontMatter(at: number): number {
    const isPossible = at === 0 || (this.#isCollection && this.#isAfterBlank)
    if (!isPossible || this.#fence !== null || this.#end !== null) return 0
    const found = readFrontMatter(this.#lines, at)
    if (found === null) return 0
    this.#endParagraph()
    this.#blocks.push({ kind: 'page', fields: found.fields })
    return found.lineCount
  }

  #line(whole: string): void {
    const line = whole.replace(QUOTE, '')
    const isQuoted = line.length < whole.length
    if (this.#fence?.isQuoted && !isQuoted) this.#endFence()
    if (this.#fence !== null) this.#inFence(this.#fence, this.#fence.isQuoted ? line : whole)
    else if (this.#end !== null) this.#inUnshown(this.#end, line)
    else {
      const isBlank = !/\S/.test(line)
      if (isBlank) this.#blank()
      else this.#start(line, isQuoted)
      this.#isAfterBlank = isBlank
    }
  }

  #blank(): void {
    this.#endParagraph()
    this.#isTable = false
    if (this.#code.length > 0) this.#code.push('')
  }

  /** A line that may start a block of any kind. */
  #start(line: string, isQuoted: boolean): void {
    const isIndented = /^(?: {4}|\t)/.test(line)
    const isCode = this.#code.length > 0 || this.#isAfterBlank
    if (isIndented && isCode && !this.#isIndented) {
      this.#code.push(line.replace(/^(?: {4}|\t)/, ''))
      return
    }
    this.#endCode()
    if (this.#isAfterBlank && /^\S/.test(line)) this.#isIndented = false
    if (/^\s*<\/?[a-z]/i.test(line)) this.#isIndented = true
    if (this.#startFence(line, isQuoted) || this.#startUnshown(line)) return
    if (!this.#heading(line) && !this.#row(line)) this.#text(line)
  }

  #startFence(line: string, isQuoted: boolean): boolean {
    const [, indent = '', run = ''] = FENCE.exec(line) ?? []
    if (run === '') return false
    this.#endParagraph()
    this.#fence = { sign: run.charAt(0), length: run.length, indent: indent.length, isQuoted }
    return true
  }

  #inFence({ sign, length, indent }: Fence, line: string): void {
    const bare = line.trim()
    if (bare.length >= length && bare === sign.repeat(bare.length)) this.#endFence()
    else this.#code.push(line.slice(Math.min(indent, line.length - line.trimStart().length)))
  }

  #endFence(): void {
    this.#fence = null
    this.#endCode()
  }

  #startUnshown(line: string): boolean {
    if (this.#paragraph.length === 0) {
      if (DEFINITION.test(line)) return true
      if (MODULE.test(line)) {
        this.#end = ''
        return true
      }
    }
    const [found, comment, expression, name] = UNSHOWN.exec(line) ?? []
    if (found === undefined) return false
    this.#endParagraph()
    this.#end = comment ? '-->' : expression ? '*/}' : `</${name}>`.toLowerCase()
    this.#inUnshown(this.#end, line)
    return true
  }

  #inUnshown(end: string, line: string): void {
    const at = end === '' ? -1 : line.toLowerCase().indexOf(end)
    if (end === '' ? /\S/.test(line) : at === -1) return
    this.#end = null
    const rest = end === '' ? '' : line.slice(at + end.length)
    if (/\S/.test(rest)) this.#text(rest)
  }

  #heading(line: string): boolean {
    const [start, signs] = /^ {0,3}(#{1,6})(?=\s|$)/.exec(line) ?? []
    if (start !== undefined && signs !== undefined) {
      this.#endParagraph()
      this.#addHeading(signs.length, withoutClosing(line.slice(start.length)), '')
      return true
    }
    const [, level, attributes = '', content = ''] = HTML_HEADING.exec(line) ?? []
    if (level !== undefined) {
      this.#endParagraph()
      this.#addHeading(Number(level), content, attributes)
      return true
    }
    const [, underline] = UNDERLINE.exec(line) ?? []
    if (underline !== undefined && this.#paragraph.length > 0 && this.#mark === '') {
      const text = this.#paragraph.join(' ')
      this.#paragraph = []
      this.#addHeading(underline.startsWith('=') ? 1 : 2, text, '')
      return true
    }
    if (!RULE.test(line)) return false
    this.#endParagraph()
    return true
  }

  #addHeading(level: number, source: string, attributes: string): void {
    const [own, id] = ownId(source, attributes)
    const text = shownText(inlineText(own, this.#references))
    if (text !== '') this.#blocks.push({ kind: 'heading', level, text, id })
  }

  #row(line: string): boolean {
    const isDelimiter = /^[\s|:-]+$/.test(line) && line.includes('-') && line.includes('|')
    if (isDelimiter) {
      const header = this.#paragraph.pop()
      this.#endParagraph()
      if (header !== undefined) this.#addRow(header)
      this.#isTable ||= header !== undefined
    } else if (this.#isTable) this.#addRow(line)
    return isDelimiter || this.#isTable
  }

  #addRow(line: string): void {
    const text = line
      .split(/(?<!\\)\|/)
      .map((cell) => shownText(inlineText(cell.trim(), this.#references)))
      .filter((cell) => cell !== '')
      .join(' | ')
    if (text !== '') this.#blocks.push({ kind: 'text', text })
  }

  #text(line: string): void {
    const [notice] = NOTICE.exec(line) ?? []
    const [item, mark = ''] = ITEM.exec(line) ?? []
    if (notice !== undefined) {
      this.#endParagraph()
      this.#isIndented = true
      const title = line.slice(notice.length).trim()
      this.#paragraph.push(/^(?:\[(.*)\]|"(.*)")$/.exec(title)?.slice(1).join('') ?? title)
      this.#endParagraph()
    } else if (item !== undefined) {
      this.#endParagraph()
      this.#isIndented = true
      const text = line.slice(item.length)
      if (FRAGMENT_LINK.test(text)) return
      this.#mark = /\d/.test(mark) ? `${mark} ` : '- '
      this.#paragraph.push(text)
    } else if (!this.#source(line) && !FRAGMENT_LINK.test(line)) this.#paragraph.push(line.trim())
  }

  /** Reads a page's address in a line shortly below its heading. */
  #source(line: string): boolean {
    if (!this.#isCollection || this.#paragraph.length > 0) return false
    const [, field, address] = /^(source|url)\s*:\s*(\S+)\s*$/i.exec(line) ?? []
    if (field === undefined || address === undefined) return false
    const name = field.toLowerCase()
    const recent = this.#blocks.slice(-MAX_SOURCE_DISTANCE)
    const distance = recent.toReversed().findIndex(({ kind }) => kind === 'heading')
    const at = this.#blocks.length - 1 - distance
    const heading = this.#blocks[at]
    if (distance === -1 || heading?.kind !== 'heading' || heading.level > 1) return false
    const known = this.#blocks[at + 1]
    if (known?.kind !== 'page') {
      this.#blocks.splice(at + 1, 0, { kind: 'page', fields: new Map([[name, address]]) })
      return true
    }
    // The first address counts, and another one may only be in the next line.
    if (this.#isAfterBlank || known.fields.has(name)) return false
    this.#blocks[at + 1] = { kind: 'page', fields: new Map([...known.fields, [name, address]]) }
    return true
  }

  #endParagraph(): void {
    if (this.#paragraph.length === 0) return
    const text = shownText(inlineText(this.#paragraph.join(' '), this.#references))
    if (text !== '') this.#blocks.push({ kind: 'text', text: this.#mark + text })
    this.#paragraph = []
    this.#mark = ''
  }

  #endCode(): void {
    if (this.#code.length === 0) return
    const text = codeText(this.#code.join('\n'))
    if (text !== '') this.#blocks.push({ kind: 'code', text })
    this.#code = []
  }
}

/** A heading's text without the signs that may end its line. */
function withoutClosing(line: string): string {
  const text = line.trim()
  let end = text.length
  while (text[end - 1] === '#') end -= 1
  return end === 0 || /\s/.test(text[end - 1] ?? '') ? text.slice(0, end).trimEnd() : text
}

/** A heading's text and the id that it names: `{#id}`, in HTML, or in a link in it. */
function ownId(source: string, attributes: string): [string, string | null] {
  const at = source.lastIndexOf('{')
  const end = at === -1 ? '' : source.slice(at).trimEnd()
  const [list, name] = /^\{(?:\/\*|:)?\s*(?:#([^\s{}]+)|\.[\w-])[^{}]*\}$/.exec(end) ?? []
  const text = list === undefined ? source : source.slice(0, at)
  const [, id] = /\sid=["']?([^"'\s<>]+)/.exec(attributes) ?? []
  const [, link] = /<a\s(?:[^<>]*\s)?(?:id|name)=["']?([^"'\s<>]+)/.exec(source) ?? []
  return [text, name ?? id ?? link ?? null]
}
