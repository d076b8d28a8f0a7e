// Reads the outline of HTML: its title, headings and blocks, with the ids to which links scroll.
import { isBlock } from '../html/names.ts'
import { attributeOf, type Element } from '../html/node.ts'
import type { Selector } from '../html/selector.ts'
import { readPage, type TextSink } from '../page/text.ts'
import { fragmentOf, isContentsEntry, isPermalink } from './links.ts'
import type { Block, Outline } from './passages.ts'
import { codeText, languageTag, shownText } from './shown.ts'
import { Survey } from './survey.ts'

/** The outline of the first selector that matches any text. */
export function outlineOf(document: Element, alternatives: readonly Selector[]): Outline {
  const survey = new Survey(document)
  const blocks = blocksOf(document, alternatives, survey)
  const first = blocks.find((block) => block.kind === 'heading' && block.level === 1)
  return {
    title: survey.title(first?.kind === 'heading' ? first.text : null),
    language: languageTag(attributeOf(document, 'lang') ?? ''),
    blocks,
  }
}

function blocksOf(document: Element, alternatives: readonly Selector[], survey: Survey): Block[] {
  for (const alternative of alternatives) {
    const sink = new OutlineSink(survey)
    readPage(document, alternative, sink)
    const blocks = sink.end()
    if (blocks.length > 0) return blocks
  }
  return []
}

/** Terms of lists are below all headings. */
const TERM_LEVEL = 7
/** The classes of line numbers in code. */
const LINE_NUMBER = /(?:^|[\s_-])(?:gutter|linenos?|line-?numbers?|ln)(?:$|[\s_-])/i

/** Other blocks have only signs, such as arrows. */
const HAS_WORD = /[\p{L}\p{N}\p{Extended_Pictographic}]/u

/** Links and buttons of page templates. */
const NOT_TEXT =
  /^(?:copy|copied!?|copy code|edit this page(?: on \w+)?|skip to (?:main )?content)$/i

/** A heading that is being read. */
interface OpenHeading {
  readonly element: Element
  readonly level: number
  /** Its own id or one inside it. */
  id: string | null
  /** The id of what it is the first text of. */
  readonly wrapper: string | null
  /** The fragment of the link to it. */
  link: string | null
}

class OutlineSink implements TextSink {
  readonly #survey: Survey
  readonly #blocks: Block[] = []
  #text = ''
  /** Whether it is more than white space. */
  #hasText = false
  #isLineStart = true
  #hasHeading = false
  /** The start of the next block: the mark of an item. */
  #mark = ''
  /** The <pre> that is being read. */
  #code: Element | null = null
  #heading: OpenHeading | null = null
  /** The number of open rows of tables. */
  #rows = 0
  /** Whether a cell has started after the last text. */
  #isNewCell = false
  /** For each open <dl>, whether it has terms with ids. */
  readonly #lists: boolean[] = []
  /** The last id since the last text. */
  #id: string | null = null

  constructor(survey: Survey) {
    this.#survey = survey
  }

  text(text: string): void {
    if (/\S/.test(text)) {
      if (this.#isNewCell && this.#hasText) this.#text += ' | '
      this.#isNewCell = false
      this.#hasText = true
      this.#id = null
    }
    this.#isLineStart = text.endsWith('\n')
    this.#text += text
  }

  separate(): void {
    if (this.#code === null) this.#text += ' '
  }

  enter(element: Element): boolean {
    if (this.#code !== null) return this.#enterInCode(element)
    if (this.#heading !== null) return this.#enterInHeading(this.#heading, element)
    if (this.#isLeftOut(element)) return false
    const { name } = element
    const id = element.attributes.length === 0 ? null : this.#survey.idOf(element)
    const level = this.#levelOf(element, id)
    if (level > 0) {
      this.#endBlock()
      this.#heading = { element, level, id, wrapper: this.#id, link: null }
      return true
    }
    if (this.#isBoundary(name)) this.#endBlock()
    this.#id = id ?? this.#id
    if (name === 'td' || name === 'th') this.#isNewCell = true
    else if (name === 'pre') this.#code = element
    else if (name === 'tr') this.#rows += 1
    else if (name === 'dl') this.#lists.push(false)
    else if (name === 'li' && this.#rows === 0) this.#mark = '- '
    return true
  }

  leave(element: Element): void {
    const { name } = element
    if (this.#code !== null) {
      if (element === this.#code) this.#endCode()
      else if (isLine(element)) this.#endLine()
    } else if (this.#heading !== null) {
      if (element === this.#heading.element) this.#endHeading(this.#heading)
    } else {
      if (this.#isBoundary(name)) this.#endBlock()
      if (name === 'li') this.#mark = ''
      else if (name === 'tr') this.#rows -= 1
      else if (name === 'dl' && this.#lists.pop()) {
        this.#blocks.push({ kind: 'end', level: TERM_LEVEL + this.#lists.length })
      }
    }
  }

  end(): Block[] {
    this.#endBlock()
    return this.#blocks
  }

  /** The level of a heading; 0 for any other element. */
  #levelOf(element: Element, id: string | null): number {
    const { name } = element
    if (/^h[1-6]$/.test(name)) return Number(name[1])
    if (name === 'dt' && id !== null && this.#lists.length > 0) {
      this.#lists[this.#lists.length - 1] = true
      return TERM_LEVEL + this.#lists.length - 1
    }
    if (attributeOf(element, 'role') !== 'heading') return 0
    const level = Number(attributeOf(element, 'aria-level') ?? 2)
    return level >= 1 && level <= 6 ? Math.floor(level) : 2
  }

  /** A row of a table is one line, unless it has code or a table in it. */
  #isBoundary(name: string): boolean {
    if (this.#rows > 0) return name === 'tr' || name === 'pre' || name === 'table'
    return name !== 'br' && isBlock(name)
  }

  #isLeftOut(element: Element): boolean {
    // The name of the language of code, in VitePress.
    if (element.name === 'span') return attributeOf(element, 'class') === 'lang'
    if (element.name !== 'a') return attributeOf(element, 'role') === 'navigation'
    const fragment = fragmentOf(element)
    if (fragment === null) return false
    const isAfterHeading = this.#blocks.at(-1)?.kind === 'heading' && !this.#hasText
    return (isAfterHeading && isPermalink(element)) || isContentsEntry(element)
  }

  #enterInHeading(heading: OpenHeading, element: Element): boolean {
    const fragment = element.name === 'a' ? fragmentOf(element) : null
    if (fragment !== null) heading.link ??= fragment
    heading.id ??= this.#survey.idOf(element)
    return fragment === null || !isPermalink(element)
  }

  #enterInCode(element: Element): boolean {
    if (element.name === 'br') this.text('\n')
    else if (isLine(element)) this.#endLine()
    return !LINE_NUMBER.test(attributeOf(element, 'class') ?? '')
  }

  #endLine(): void {
    if (!this.#isLineStart) this.text('\n')
  }

  #endCode(): void {
    const text = codeText(this.#text)
    this.#code = null
    // Numbers alone are those of the lines of the code beside them.
    this.#add(/[^\d\s]/.test(text) ? { kind: 'code', text } : null)
  }

  #endHeading({ level, id, wrapper, link }: OpenHeading): void {
    const text = shownText(this.#text)
    this.#heading = null
    if (text === '') {
      this.#add(null)
      return
    }
    const target = link !== null && this.#survey.has(link) ? link : null
    // The wrapper of the first heading is the page.
    const outer = this.#hasHeading ? wrapper : null
    this.#hasHeading = true
    this.#add({ kind: 'heading', level, text, id: id ?? outer ?? target })
  }

  #endBlock(): void {
    const text = shownText(this.#text)
    this.#isNewCell = false
    const isShown = HAS_WORD.test(text) && !NOT_TEXT.test(text)
    this.#add(isShown ? { kind: 'text', text: this.#mark + text } : null)
  }

  #add(block: Block | null): void {
    this.#text = ''
    this.#hasText = false
    this.#isLineStart = true
    if (block === null) return
    this.#blocks.push(block)
    this.#mark = ''
  }
}

/** Whether an element in code is a line of its own. */
const isLine = ({ name }: Element) => name !== 'br' && isBlock(name)
