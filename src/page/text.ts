// Reads what a page shows, in one walk over its tree. Hidden elements are left out.
import { isBlock, words } from '../html/names.ts'
import { attributeOf, type Element } from '../html/node.ts'
import type { Selector } from '../html/selector.ts'
import { drawnText, formulaSource, isFormula, mathmlText } from './formula.ts'

/** Elements whose content is not shown, or is not the page's own text. */
const SKIPPED = words(
  'audio button canvas datalist embed iframe nav noembed noframes noscript object script select ' +
    'style svg template textarea title video',
)

const HIDING_STYLE =
  /(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse))\s*(?:!|;|$)/i
/** The limit of nested elements, including slots. */
const MAX_DEPTH = 1000

/** Receives what a page shows, in order. */
export interface TextSink {
  text(text: string): void
  /** The end of a word: the start or the end of a block. */
  separate(): void
  /** A selected element, or one inside it. @returns whether to read it */
  enter?(element: Element): boolean
  /** The end of an element that was entered. */
  leave?(element: Element): void
}

/** The text of the first selector that matches any, as one line; "" if none does. */
export function readableText(document: Element, alternatives: readonly Selector[]): string {
  for (const alternative of alternatives) {
    const texts: string[] = []
    readPage(document, alternative, {
      text: (text) => texts.push(text),
      separate: () => texts.push(' '),
    })
    const text = collapseSpace(texts.join(''))
    if (text !== '') return text
  }
  return ''
}

/** Reads all elements that the selector matches, without duplicates. */
export function readPage(document: Element, selector: Selector, sink: TextSink): void {
  new Reader(selector, sink).element(document, false)
}

class Reader {
  readonly #selector: Selector
  readonly #sink: TextSink
  #depth = 0
  #isInFormula = false
  /** The number of texts so far that are not blank. */
  #shown = 0
  /** The children of each host whose shadow tree is being read, by slot name. */
  readonly #slotted: Map<string, (Element | string)[]>[] = []

  constructor(selector: Selector, sink: TextSink) {
    this.#selector = selector
    this.#sink = sink
  }

  /** @param isInside whether the selector matches an ancestor */
  element(element: Element, isInside: boolean): void {
    const isSelected = !isInside && this.#selector(element)
    const isSeparating = isInside && isBlock(element.name)
    if (isSeparating) this.#sink.separate()
    if (this.#depth < MAX_DEPTH && !SKIPPED.has(element.name) && !isHidden(element)) {
      this.#depth += 1
      if (isSelected) this.#sink.separate()
      if (!isInside && !isSelected) this.#content(element, false)
      else if (this.#sink.enter?.(element) ?? true) {
        this.#content(element, true)
        this.#sink.leave?.(element)
      }
      if (isSelected) this.#sink.separate()
      this.#depth -= 1
    }
    if (isSeparating) this.#sink.separate()
  }

  #content(element: Element, isInside: boolean): void {
    if (isInside && !this.#isInFormula && isFormula(element)) {
      this.#formula(element)
    } else if (element.shadow !== null) {
      this.#slotted.push(bySlot(element.children))
      this.#nodes(element.shadow.children, isInside)
      this.#slotted.pop()
    } else if (element.name === 'slot') this.#slot(element, isInside)
    else this.#nodes(element.children, isInside)
  }

  #nodes(nodes: readonly (Element | string)[], isInside: boolean): void {
    let before: Element | null = null
    let from = 0
    for (const node of nodes) {
      if (typeof node === 'string') {
        if (isInside) this.#text(node)
        continue
      }
      const source = isInside ? formulaSource(node) : null
      if (source === null) {
        before = node
        from = this.#shown
        this.element(node, isInside)
      } else if (before === null || !isFormula(before) || from === this.#shown) {
        // Otherwise it is the source of the formula before it, which has been read.
        this.#text(source)
      }
    }
  }

  #formula(formula: Element): void {
    const isOwnLine = isDisplayed(formula)
    if (isOwnLine) this.#sink.separate()
    const from = this.#shown
    const mathml = mathmlText(formula)
    if (mathml === null) {
      this.#isInFormula = true
      this.#nodes(formula.children, true)
      this.#isInFormula = false
    }
    if (from === this.#shown) this.#text(mathml || drawnText(formula))
    if (isOwnLine) this.#sink.separate()
  }

  #text(text: string): void {
    if (/\S/.test(text)) this.#shown += 1
    this.#sink.text(text)
  }

  /** Reads the nodes assigned to the slot, or else the slot's own content (HTML, 4.12.4). */
  #slot(slot: Element, isInside: boolean): void {
    const slotted = this.#slotted.pop()
    const name = attributeOf(slot, 'name') ?? ''
    const assigned = slotted?.get(name)
    // Of two slots with the same name, only the first gets the nodes.
    slotted?.delete(name)
    if (assigned !== undefined) this.#nodes(assigned, isInside)
    if (slotted !== undefined) this.#slotted.push(slotted)
    if (assigned === undefined) this.#nodes(slot.children, isInside)
  }
}

function bySlot(children: readonly (Element | string)[]): Map<string, (Element | string)[]> {
  const nodes = new Map<string, (Element | string)[]>()
  for (const child of children) {
    const name = typeof child === 'string' ? '' : (attributeOf(child, 'slot') ?? '')
    const others = nodes.get(name)
    if (others === undefined) nodes.set(name, [child])
    else others.push(child)
  }
  return nodes
}

/** Whether an element is hidden in browsers or from screen readers. */
function isHidden(element: Element): boolean {
  const { name, attributes } = element
  if (name === 'dialog' && attributeOf(element, 'open') === null) return true
  // Pages often hide <html> or <body> until a script shows them.
  if (attributes.length === 0 || name === 'html' || name === 'body') return false
  return (
    attributeOf(element, 'hidden') !== null ||
    attributeOf(element, 'popover') !== null ||
    /^true$/i.test(attributeOf(element, 'aria-hidden') ?? '') ||
    HIDING_STYLE.test(attributeOf(element, 'style') ?? '')
  )
}

/** Whether a formula is shown on its own line. */
function isDisplayed(formula: Element): boolean {
  const { parent } = formula
  return (
    /^(?:block|true)$/.test(attributeOf(formula, 'display') ?? '') ||
    (parent !== null && /\bkatex-display\b/.test(attributeOf(parent, 'class') ?? ''))
  )
}

/** Any white space except a single space between words, the most common case. */
const GAP = /(?:[^\S ]|\p{Cc}| (?=[\s\p{Cc}]))[\s\p{Cc}]*/gu

/** Replaces each run of white space and control characters with one space. */
export function collapseSpace(text: string): string {
  return text.replace(GAP, ' ').trim()
}
