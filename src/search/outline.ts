// Reads the outline of HTML: its title, headings and blocks, with the ids that links can scroll to.
import { isBlock } from '../html/names.ts'
import { attributeOf, type Element } from '../html/node.ts'
import type { Selector } from '../html/selector.ts'
import { collapseSpace, readPage, type TextSink } from '../page/text.ts'
import type { Block, Outline } from './passages.ts'

/** The outline of the first selector that matches any text. */
export function outlineOf(document: Element, alternatives: readonly Selector[]): Outline {
  let blocks: Block[] = []
  for (const alternative of alternatives) {
    const outline = new OutlineSink()
    readPage(document, alternative, outline)
    blocks = outline.end()
    if (blocks.length > 0) break
  }
  const first = blocks.find((block) => block.kind === 'heading' && block.level === 1)
  return {
    title: first?.text ?? titleIn(document),
    language: attributeOf(document, 'lang') || null,
    blocks,
  }
}

class OutlineSink implements TextSink {
  readonly #blocks: Block[] = []
  #text = ''
  #pre: Element | null = null
  #heading: { element: Element; id: string | null } | null = null
  /** The last id since the last block. */
  #id: string | null = null

  text(text: string): void {
    this.#text += text
  }

  separate(): void {
    if (this.#pre === null) this.#text += ' '
  }

  enter(element: Element): boolean {
    const { name } = element
    const id = attributeOf(element, 'id') || null
    if (this.#pre !== null) {
      if (name === 'br') this.#text += '\n'
      return true
    }
    if (this.#heading !== null) {
      if (isPermalink(element)) {
        this.#heading.id ??= fragmentOf(element)
        return false
      }
      this.#heading.id ??= id
      return true
    }
    if (/^h[1-6]$/.test(name)) {
      this.#endBlock()
      this.#heading = { element, id: id ?? this.#id }
    } else if (name === 'pre') {
      this.#endBlock()
      this.#pre = element
    } else if (isBlock(name) && name !== 'br') this.#endBlock()
    this.#id = id ?? this.#id
    return true
  }

  leave(element: Element): void {
    if (element === this.#pre) {
      const text = this.#text.replace(/^(?:\s*\n)+/, '').trimEnd()
      this.#add(text === '' ? null : { kind: 'code', text })
      this.#pre = null
    } else if (element === this.#heading?.element) {
      const text = collapseSpace(this.#text)
      const { id } = this.#heading
      this.#heading = null
      this.#add(text === '' ? null : { kind: 'heading', level: Number(element.name[1]), text, id })
    } else if (this.#pre === null && this.#heading === null && isBlock(element.name)) {
      this.#endBlock()
    }
  }

  end(): Block[] {
    this.#endBlock()
    return this.#blocks
  }

  #endBlock(): void {
    const text = collapseSpace(this.#text)
    this.#add(text === '' ? null : { kind: 'text', text })
  }

  #add(block: Block | null): void {
    this.#text = ''
    if (block === null) return
    this.#blocks.push(block)
    this.#id = null
  }
}

/** Whether a link in a heading shows a sign instead of a word. */
function isPermalink(element: Element): boolean {
  if (element.name !== 'a' || fragmentOf(element) === null) return false
  return element.children.every(
    (child) => typeof child === 'string' && !/[\p{L}\p{N}]/u.test(child),
  )
}

function fragmentOf(element: Element): string | null {
  return /^#(.+)/.exec(attributeOf(element, 'href') ?? '')?.[1] ?? null
}

function titleIn(element: Element): string {
  for (const child of element.children) {
    if (typeof child === 'string') continue
    if (child.name === 'title') return collapseSpace(child.children.join(''))
    const found = child.namespace === 'html' ? titleIn(child) : ''
    if (found !== '') return found
  }
  return ''
}
