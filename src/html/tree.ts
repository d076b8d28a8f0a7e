// Builds the tree that browsers build from any text (HTML, 13.2.6), including omitted tags,
// misnested formatting, misplaced text in tables, SVG and MathML, templates and declarative shadow
// trees. As in a browser with scripting enabled, <noscript> contains no elements.
//
// Differences from a browser's tree: there are no comments and no framesets, SVG names are in lower
// case, and nesting depth and repeated formatting are limited so that any document takes linear
// time.
import {
  BUTTON_SCOPE,
  foreignRulesOf,
  ITEM_SCOPE,
  type Kind,
  type Mode,
  type Rules,
  rulesOf,
  SCOPE,
  TABLE_SCOPE,
} from './names.ts'
import { decodeAttribute } from './references.ts'
import { type Attributes, type RawText, type Sink, tokenize } from './tokens.ts'

export interface Element {
  /** In lower case. */
  readonly name: string
  readonly namespace: Namespace
  readonly attributes: Attributes
  readonly parent: Element | null
  readonly children: readonly (Element | string)[]
  /** The declarative shadow tree, which is rendered in place of the children (HTML, 4.12.3). */
  readonly shadow: Element | null
}

type Namespace = 'html' | 'svg' | 'math'

/**
 * @param isXml whether the document was served as XHTML, in which "<p/>" is a complete element
 * @returns the <html> element, which always has a <head> and a <body>
 */
export function parseHtml(source: string, isXml = false): Element {
  const builder = new TreeBuilder(isXml)
  tokenize(source, builder)
  return builder.end()
}

/** The value of an attribute; null if the element does not have it. */
export function attributeOf({ attributes }: Element, name: string): string | null {
  for (let i = 0; i < attributes.length; i += 2) {
    if (attributes[i] === name) return decodeAttribute(attributes[i + 1] ?? '')
  }
  return null
}

/** The limit of open elements, the same as Chromium's. Deeper ones become children of the last. */
const MAX_DEPTH = 512
/** The limit of elements such as an unclosed <b>, which are reopened in each following block. */
const MAX_FORMATTING = 64
/** The limit of such reopened elements per document. */
const MAX_REOPENED = 10_000

const FONT = /^(?:color|face|size)$/
/** Elements that have no content. */
const EMPTY: ReadonlySet<Kind> = new Set<Kind>(['void', 'metadata', 'input', 'rule'])

interface Place {
  readonly parent: Node
  /** Null appends the node. */
  readonly before: Node | null
}

/** An element whose tree is being built. */
class Node implements Element {
  readonly name: string
  readonly namespace: Namespace
  readonly rules: Rules
  attributes: Attributes
  parent: Node | null = null
  children: (Node | string)[] = []
  shadow: Node | null = null
  isOpen = false

  constructor({ name, rules, attributes }: Tag, namespace: Namespace = 'html') {
    this.name = name
    this.namespace = namespace
    this.attributes = attributes
    this.rules =
      namespace === 'html'
        ? rules
        : foreignRulesOf(name, namespace, () => attributeOf(this, 'encoding') ?? '')
  }

  /** Creates the same element without its children. */
  copy(): Node {
    return new Node(this, this.namespace)
  }

  is(name: string): boolean {
    return this.name === name && this.namespace === 'html'
  }
}

interface Tag {
  readonly name: string
  readonly rules: Rules
  readonly attributes: Attributes
}

function tagOf(name: string, attributes: Attributes = []): Tag {
  const rules = rulesOf(name)
  return { name: rules.name || name, rules, attributes }
}

class TreeBuilder implements Sink {
  readonly #isXml: boolean
  #mode: Mode = 'head'
  /** The insertion mode of each open <template>. */
  readonly #templateModes: Mode[] = []
  readonly #html = new Node(tagOf('html'))
  readonly #body = new Node(tagOf('body'))
  /** The open elements, from <html> to the current one. */
  readonly #stack: Node[] = []
  /** Formatting elements to reopen in the next block; null is a marker (HTML, 13.2.4.3). */
  readonly #formatting: (Node | null)[] = []
  #reopened = 0
  /** The number of open elements beyond the depth limit. */
  #tooDeep = 0
  /** Whether new nodes are inserted before the table ("foster parenting"). */
  #isFostering = false
  #form: Node | null = null
  #isQuirky = true
  /** The element that was added last. */
  #latest = this.#html

  constructor(isXml: boolean) {
    this.#isXml = isXml
    this.#push(this.#html)
    this.#insert(tagOf('head'))
  }

  end(): Element {
    while (this.#templateModes.length > 0) this.#endTemplate()
    this.#leaveHead()
    return this.#html
  }

  get isForeign(): boolean {
    return this.#current.namespace !== 'html'
  }

  doctype(): void {
    if (this.#mode === 'head') this.#isQuirky = false
  }

  startTag(name: string, attributes: Attributes, isSelfClosing: boolean): RawText | null {
    const tag = tagOf(name, attributes)
    if (this.#stack.length >= MAX_DEPTH) return this.#startTooDeep(tag)
    if (this.isForeign && !this.#takesHtml(name)) return this.#startForeign(tag, isSelfClosing)
    const raw = this.#start(tag, isSelfClosing)
    if (!this.#isXml || !isSelfClosing) return raw
    if (this.#current === this.#latest) this.#end(tag)
    return null
  }

  endTag(name: string): void {
    if (this.#tooDeep > 0) this.#tooDeep -= 1
    else if (!this.isForeign || !this.#endForeign(name)) this.#end(tagOf(name))
  }

  text(text: string): void {
    if (this.isForeign && !this.#takesHtml('')) {
      this.#insertText(text)
      return
    }
    const shown = text.includes('\0') ? text.replaceAll('\0', '') : text
    if (shown === '') return
    const isBlank = this.#mode !== 'body' && !/[^\t\n\f\r ]/.test(shown)
    if (this.#mode === 'head') {
      if (isBlank) return
      this.#leaveHead()
    } else if (isBlank && (this.#mode === 'columns' || this.#current.rules.isTableInside)) {
      this.#insertText(shown)
      return
    } else if (this.#mode === 'columns' && !this.#leaveColumns()) return
    this.#isFostering = this.#isInTable
    this.#reopenFormatting()
    this.#insertText(shown)
    this.#isFostering = false
  }

  rawText(text: string): void {
    this.#latest.children.push(text)
  }

  // Modes

  #start(tag: Tag, isSelfClosing = false): RawText | null {
    const { name, rules } = tag
    switch (this.#mode) {
      case 'head':
        if (name === 'head') return null
        if (!rules.isMetadata && name !== 'html') this.#leaveHead()
        return this.#startInBody(tag, isSelfClosing)
      case 'body':
        return this.#startInBody(tag, isSelfClosing)
      case 'template':
        if (rules.isMetadata) return this.#startInBody(tag, isSelfClosing)
        this.#mode = rules.outerMode ?? 'body'
        this.#templateModes.splice(-1, 1, this.#mode)
        return this.#start(tag, isSelfClosing)
      default:
        return this.#startInTable(tag, isSelfClosing)
    }
  }

  #end(tag: Tag): void {
    const { name, rules } = tag
    switch (this.#mode) {
      case 'head':
        // Other end tags are ignored in the head.
        if (name === 'br' || rules.kind === 'root') this.#leaveHead()
        if (name === 'br' || rules.kind === 'template') this.#endInBody(tag)
        break
      case 'body':
        this.#endInBody(tag)
        break
      case 'template':
        if (rules.kind === 'template') this.#endTemplate()
        break
      default:
        this.#endInTable(tag)
    }
  }

  #leaveHead(): void {
    if (this.#mode !== 'head') return
    this.#mode = 'body'
    this.#pop()
    this.#append(this.#body)
    this.#push(this.#body)
  }

  /** Sets the mode according to the open elements (HTML, 13.2.4.1). */
  #resetMode(): void {
    const node = this.#stack.findLast(({ rules }) => rules.innerMode ?? rules.kind === 'template')
    this.#mode = node?.rules.innerMode ?? this.#templateModes.at(-1) ?? 'body'
  }

  // The body (HTML, 13.2.6.4.7)

  #startInBody(tag: Tag, isSelfClosing: boolean): RawText | null {
    const { name, rules, attributes } = tag
    switch (rules.kind) {
      case 'block':
      case 'paragraph':
        this.#closeParagraph()
        break
      case 'heading':
        this.#closeParagraph()
        if (this.#current.rules.kind === 'heading') this.#pop()
        break
      case 'form':
        return this.#startForm(tag)
      case 'item':
        this.#closeItem(name)
        this.#closeParagraph()
        break
      case 'button':
        this.#close('button')
        this.#reopenFormatting()
        break
      case 'link':
      case 'nobr':
      case 'formatting':
        return this.#startFormatting(tag)
      case 'embedded':
        this.#reopenFormatting()
        this.#insert(tag)
        this.#formatting.push(null)
        return null
      case 'table':
        if (!this.#isQuirky) this.#closeParagraph()
        this.#insert(tag)
        this.#mode = 'table'
        return null
      case 'input':
        this.#close('select')
        this.#reopenFormatting()
        this.#insertEmpty(tag)
        return null
      case 'void':
        this.#reopenFormatting()
        this.#insertEmpty(name === 'image' ? tagOf('img', attributes) : tag)
        return null
      case 'metadata':
        this.#insertEmpty(tag)
        return null
      case 'rule':
        this.#closeParagraph()
        if (this.#hasInScope('select')) this.#closeOptional()
        this.#insertEmpty(tag)
        return null
      case 'rawBlock':
        this.#closeParagraph()
        this.#reopenFormatting()
        return this.#insertRaw(tag)
      case 'raw':
        return this.#insertRaw(tag)
      case 'select':
        if (this.#close('select')) return null
        this.#reopenFormatting()
        break
      case 'option':
        if (this.#hasInScope('select')) this.#closeOptional(name === 'option' ? 'optgroup' : '')
        else if (this.#current.is('option')) this.#pop()
        this.#reopenFormatting()
        break
      case 'ruby':
        if (this.#hasInScope('ruby')) this.#closeOptional(/^r[tp]$/.test(name) ? 'rtc' : '')
        break
      case 'foreign':
        this.#reopenFormatting()
        this.#insertForeign(tag, name as Namespace, isSelfClosing)
        return null
      case 'tablePart':
        return null
      case 'root': {
        const root = name === 'html' ? this.#html : this.#body
        // The first start tag's attributes win.
        if (root.attributes.length === 0) root.attributes = attributes
        return null
      }
      case 'template':
        this.#startTemplate(tag)
        return null
      case 'other':
        this.#reopenFormatting()
        break
      default:
        rules.kind satisfies never
    }
    this.#insert(tag)
    return null
  }

  #endInBody({ name, rules }: Tag): void {
    switch (rules.kind) {
      case 'block':
      case 'button':
      case 'select':
        this.#close(name)
        break
      case 'form':
        this.#endForm()
        break
      case 'paragraph':
        if (!this.#hasInScope('p', BUTTON_SCOPE)) this.#insert(tagOf('p'))
        this.#closeParagraph()
        break
      case 'item':
        this.#close(name, name === 'li' ? ITEM_SCOPE : SCOPE)
        break
      case 'heading':
        this.#closeHeading()
        break
      case 'link':
      case 'nobr':
      case 'formatting':
        this.#endFormatting(name)
        break
      case 'embedded':
        if (this.#close(name)) this.#clearFormatting()
        break
      case 'root':
        break
      case 'template':
        this.#endTemplate()
        break
      case 'void':
        // "</br>" is treated as "<br>".
        if (name === 'br') this.#startInBody(tagOf(name), false)
        break
      default:
        this.#endOther(name)
    }
  }

  #endOther(name: string): void {
    const at = this.#stack.findLastIndex((node) => node.is(name) || node.rules.isSpecial)
    if (this.#stack[at]?.is(name)) this.#popAt(at)
  }

  /** Closes an element and those open in it. Returns false if it is not in scope. */
  #close(name: string, scope = SCOPE): boolean {
    if (!this.#hasInScope(name, scope)) return false
    this.#popTo(name)
    return true
  }

  #closeParagraph(): void {
    this.#close('p', BUTTON_SCOPE)
  }

  #closeHeading(): void {
    const at = this.#stack.findLastIndex(
      ({ rules }) => rules.kind === 'heading' || (rules.scopes & SCOPE) !== 0,
    )
    if (this.#stack[at]?.rules.kind === 'heading') this.#popAt(at)
  }

  /** An item ends when the next item of its list starts. */
  #closeItem(name: string): void {
    const isBefore = (node: Node) =>
      node.rules.kind === 'item' && (name === 'li') === (node.name === 'li')
    const isBetween = (node: Node) => node.is('address') || node.is('div') || node.is('p')
    const at = this.#stack.findLastIndex(
      (node) => isBefore(node) || (node.rules.isSpecial && !isBetween(node)),
    )
    const node = this.#stack[at]
    if (node !== undefined && isBefore(node)) this.#popAt(at)
  }

  #startForm(tag: Tag): null {
    const isInTemplate = this.#templateModes.length > 0
    if (this.#form !== null && !isInTemplate) return null
    this.#closeParagraph()
    this.#insert(tag)
    if (!isInTemplate) this.#form = this.#current
    return null
  }

  #endForm(): void {
    if (this.#templateModes.length > 0) {
      this.#close('form')
      return
    }
    const form = this.#form
    this.#form = null
    if (!form?.isOpen || !this.#isInScope(form)) return
    this.#closeOptional()
    // Elements open inside the form stay open.
    this.#removeOpen(this.#stack.lastIndexOf(form))
  }

  #startTemplate(tag: Tag): void {
    const node = new Node(tag)
    const { parent } = this.#place()
    const isShadow = /^(?:open|closed)$/i.test(attributeOf(node, 'shadowrootmode') ?? '')
    const isHost = parent.rules.isShadowHost || parent.name.includes('-')
    if (isShadow && isHost && parent.shadow === null) {
      node.parent = parent
      parent.shadow = node
    } else this.#append(node)
    this.#push(node)
    this.#formatting.push(null)
    this.#mode = 'template'
    this.#templateModes.push('template')
  }

  #endTemplate(): void {
    if (this.#templateModes.pop() === undefined) return
    this.#popTo('template')
    this.#clearFormatting()
    this.#resetMode()
  }

  // Formatting

  #startFormatting(tag: Tag): null {
    const { kind } = tag.rules
    if (kind === 'link') {
      const link = this.#openFormatting('a')
      if (link !== undefined) {
        this.#endFormatting('a')
        // #endFormatting leaves a link that is not in scope.
        this.#forget(link)
        if (link.isOpen) this.#removeOpen(this.#stack.lastIndexOf(link))
      }
    }
    this.#reopenFormatting()
    if (kind === 'nobr' && this.#hasInScope('nobr')) {
      this.#endFormatting('nobr')
      this.#reopenFormatting()
    }
    this.#insert(tag)
    this.#storeInMemory(this.#current)
    return null
  }

  /** The last formatting element with this name after the last marker. */
  #openFormatting(name: string): Node | undefined {
    for (let i = this.#formatting.length - 1; i >= 0; i -= 1) {
      const node = this.#formatting[i]
      if (!node) return undefined
      if (node.name === name) return node
    }
    return undefined
  }

  /** Allows three identical elements: a fourth one replaces the first (HTML, 13.2.4.3). */
  #storeInMemory(node: Node): void {
    const list = this.#formatting
    const same: Node[] = []
    for (let i = list.length - 1; i >= 0; i -= 1) {
      const other = list[i]
      if (!other) break
      if (other.name === node.name && hasSameAttributes(other, node)) same.push(other)
    }
    if (same.length >= 3) this.#forget(same.at(-1)!)
    if (list.length >= MAX_FORMATTING) list.shift()
    list.push(node)
  }

  #forget(node: Node): void {
    const i = this.#formatting.lastIndexOf(node)
    if (i !== -1) this.#formatting.splice(i, 1)
  }

  /** Clears the list up to the last marker. */
  #clearFormatting(): void {
    while (this.#formatting.length > 0 && this.#formatting.pop() !== null);
  }

  #reopenFormatting(): void {
    const list = this.#formatting
    let first = list.length
    while (first > 0 && list[first - 1]?.isOpen === false) first -= 1
    for (let i = first; i < list.length; i += 1) {
      const node = list[i]!
      if (++this.#reopened > MAX_REOPENED || this.#stack.length >= MAX_DEPTH) {
        list.length = i
        return
      }
      this.#insert(node)
      list[i] = this.#current
    }
  }

  /** Ends formatting, misnested or not: the "adoption agency algorithm" (HTML, 13.2.6.4.7). */
  #endFormatting(name: string): void {
    if (this.#current.is(name) && !this.#formatting.includes(this.#current)) {
      this.#pop()
      return
    }
    for (let round = 0; round < 8; round += 1) {
      const node = this.#openFormatting(name)
      if (node === undefined) {
        if (round === 0) this.#endOther(name)
        return
      }
      if (node.isOpen && !this.#isInScope(node)) return
      const at = this.#stack.lastIndexOf(node)
      const block = this.#stack.findIndex(({ rules }, i) => i > at && rules.isSpecial)
      if (!node.isOpen || block === -1 || ++this.#reopened > MAX_REOPENED) {
        this.#forget(node)
        if (node.isOpen) this.#popAt(at)
        return
      }
      this.#adopt(at, block)
    }
  }

  /**
   * Moves a block out of the formatting element that ends inside it, and formats its content
   * instead.
   *
   * @param at the index of the formatting element in the stack
   * @param blockAt the index of the block
   */
  #adopt(at: number, blockAt: number): void {
    const stack = this.#stack
    const list = this.#formatting
    const node = stack[at]!
    const block = stack[blockAt]!
    const outer = stack[at - 1]!
    let bookmark = list.indexOf(node)
    let last = block
    for (let i = blockAt - 1, inner = 1; i > at; i -= 1, inner += 1) {
      const between = stack[i]!
      let index = list.indexOf(between)
      if (inner > 3 && index !== -1) {
        list.splice(index, 1)
        if (index < bookmark) bookmark -= 1
        index = -1
      }
      if (index === -1) {
        this.#removeOpen(i)
        continue
      }
      const copy = between.copy()
      list[index] = copy
      stack[i] = copy
      copy.isOpen = true
      between.isOpen = false
      if (last === block) bookmark = index + 1
      this.#move(last, { parent: copy, before: null })
      last = copy
    }
    this.#move(last, this.#place(outer))
    const copy = node.copy()
    copy.children = block.children
    for (const child of copy.children) if (typeof child !== 'string') child.parent = copy
    block.children = [copy]
    copy.parent = block
    const index = list.indexOf(node)
    list.splice(index, 1)
    list.splice(index < bookmark ? bookmark - 1 : bookmark, 0, copy)
    this.#removeOpen(at)
    stack.splice(stack.lastIndexOf(block) + 1, 0, copy)
    copy.isOpen = true
  }

  // Tables (HTML, 13.2.6.4.9 to 13.2.6.4.15)

  /** Whether a table is open without an open cell or caption. */
  get #isInTable(): boolean {
    return this.#mode === 'table' || this.#mode === 'rows' || this.#mode === 'row'
  }

  #startInTable(tag: Tag, isSelfClosing: boolean): RawText | null {
    const { name, rules, attributes } = tag
    if (rules.outerMode !== null) {
      if (this.#enter(rules.outerMode)) this.#startPart(tag)
      return null
    }
    if (this.#mode === 'columns') {
      if (name === 'template') return this.#startInBody(tag, isSelfClosing)
      return this.#leaveColumns() ? this.#start(tag, isSelfClosing) : null
    }
    if (!this.#isInTable) return this.#startInBody(tag, isSelfClosing)
    if (name === 'table') {
      if (!this.#hasInScope('table', TABLE_SCOPE)) return null
      this.#endPart('table')
      return this.#start(tag)
    }
    if (name === 'form') {
      if (this.#form !== null || this.#templateModes.length > 0) return null
      this.#insertEmpty(tag)
      this.#form = this.#latest
      return null
    }
    const staysInside = name === 'script' || name === 'style' || name === 'template'
    this.#isFostering = !staysInside && !(name === 'input' && isHiddenInput(attributes))
    const raw = this.#startInBody(tag, isSelfClosing)
    this.#isFostering = false
    return raw
  }

  /**
   * Closes and opens parts of the table until a part can start that requires this mode.
   *
   * @returns false if such a part cannot start here
   */
  #enter(mode: Mode): boolean {
    if (this.#mode === 'cell' && !this.#endNearest('cell')) return false
    if (this.#mode === 'caption' && !this.#endNearest('caption')) return false
    if (this.#mode === 'columns' && mode !== 'columns' && !this.#leaveColumns()) return false
    if (this.#mode === 'row' && mode !== 'row' && !this.#endNearest('row')) return false
    const isOutside = mode === 'table' || mode === 'columns'
    if (this.#mode === 'rows' && isOutside && !this.#endNearest('rows')) return false
    if (this.#mode === 'table' && mode === 'columns') this.#startPart(tagOf('colgroup'))
    if (this.#mode === 'table' && !isOutside) this.#startPart(tagOf('tbody'))
    if (this.#mode === 'rows' && mode === 'row') this.#startPart(tagOf('tr'))
    return true
  }

  /** Closes the last part whose content has this mode. */
  #endNearest(mode: Mode): boolean {
    const part = this.#stack.findLast(
      ({ rules }) => rules.innerMode === mode || (rules.scopes & TABLE_SCOPE) !== 0,
    )
    if (part?.rules.innerMode !== mode) return false
    this.#endPart(part.name)
    return true
  }

  #startPart(tag: Tag): void {
    while (
      this.#isInTable &&
      this.#current.rules.innerMode !== this.#mode &&
      (this.#current.rules.scopes & TABLE_SCOPE) === 0
    ) {
      this.#pop()
    }
    if (tag.name === 'col') this.#insertEmpty(tag)
    else this.#insert(tag)
    this.#mode = tag.rules.innerMode ?? this.#mode
    if (this.#mode === 'cell' || this.#mode === 'caption') this.#formatting.push(null)
  }

  #endPart(name: string): void {
    const hasMarker = this.#mode === 'cell' || this.#mode === 'caption'
    this.#popTo(name)
    if (hasMarker) this.#clearFormatting()
    this.#resetMode()
  }

  /** @returns false if no column group is open */
  #leaveColumns(): boolean {
    if (!this.#current.is('colgroup')) return false
    this.#endPart('colgroup')
    return true
  }

  #endInTable(tag: Tag): void {
    const { name, rules } = tag
    if (rules.kind === 'tablePart' || rules.kind === 'table') {
      if (this.#hasInScope(name, TABLE_SCOPE)) this.#endPart(name)
    } else if (this.#mode === 'columns' && rules.kind !== 'template') {
      if (this.#leaveColumns()) this.#end(tag)
    } else {
      this.#isFostering = this.#isInTable
      this.#endInBody(tag)
      this.#isFostering = false
    }
  }

  // SVG and MathML (HTML, 13.2.6.5)

  /**
   * Whether the current SVG or MathML node may contain HTML.
   *
   * @param name the name of the start tag; "" for text
   */
  #takesHtml(name: string): boolean {
    const { html } = this.#current.rules
    if (html === 'text') return name !== 'mglyph' && name !== 'malignmark'
    return html === 'any' || (html === 'svg' && name === 'svg')
  }

  #startForeign(tag: Tag, isSelfClosing: boolean): RawText | null {
    const isOldFont =
      tag.name === 'font' && tag.attributes.some((each, i) => i % 2 === 0 && FONT.test(each))
    if (!tag.rules.endsForeign && !isOldFont) {
      this.#insertForeign(tag, this.#current.namespace, isSelfClosing)
      return null
    }
    this.#leaveForeign()
    return this.#start(tag)
  }

  #leaveForeign(): void {
    while (this.isForeign && !this.#takesHtml('')) this.#pop()
  }

  #insertForeign(tag: Tag, namespace: Namespace, isSelfClosing: boolean): void {
    const node = new Node(tag, namespace)
    this.#append(node)
    if (!isSelfClosing) this.#push(node)
  }

  /** @returns false if the end tag belongs to an HTML element */
  #endForeign(name: string): boolean {
    if (name === 'br' || name === 'p') {
      this.#leaveForeign()
      return false
    }
    for (let i = this.#stack.length - 1; i > 0; i -= 1) {
      const node = this.#stack[i]!
      if (node.namespace === 'html') return false
      if (node.name === name) {
        this.#popAt(i)
        return true
      }
    }
    return true
  }

  // The tree

  /** The appropriate place for inserting a node (HTML, 13.2.6.1). */
  #place(parent = this.#current): Place {
    if (!this.#isFostering || !parent.rules.isTableInside) return { parent, before: null }
    const at = this.#stack.findLastIndex((each) => each.is('table') || each.is('template'))
    const table = this.#stack[at]
    if (table === undefined) return { parent: this.#html, before: null }
    if (table.is('template')) return { parent: table, before: null }
    if (table.parent !== null) return { parent: table.parent, before: table }
    return { parent: this.#stack[at - 1] ?? this.#html, before: null }
  }

  #add(node: Node | string, { parent, before }: Place): void {
    if (before === null) parent.children.push(node)
    else parent.children.splice(parent.children.lastIndexOf(before), 0, node)
    if (typeof node !== 'string') node.parent = parent
  }

  #insertText(text: string): void {
    this.#add(text, this.#place())
  }

  #append(node: Node): void {
    this.#add(node, this.#place())
    this.#latest = node
  }

  #move(node: Node, place: Place): void {
    const siblings = node.parent?.children ?? []
    const at = siblings.lastIndexOf(node)
    if (at !== -1) siblings.splice(at, 1)
    this.#add(node, place)
  }

  #insert(tag: Tag): void {
    this.#insertForeign(tag, 'html', false)
  }

  #insertEmpty(tag: Tag): void {
    this.#insertForeign(tag, 'html', true)
  }

  #insertRaw(tag: Tag): RawText | null {
    this.#insertEmpty(tag)
    return tag.rules.raw
  }

  #startTooDeep(tag: Tag): RawText | null {
    this.#insertEmpty(tag)
    const { kind, raw } = tag.rules
    if (raw === null && !EMPTY.has(kind)) this.#tooDeep += 1
    return raw
  }

  // The stack

  get #current(): Node {
    return this.#stack.at(-1) ?? this.#html
  }

  #push(node: Node): void {
    this.#stack.push(node)
    node.isOpen = true
  }

  #pop(): void {
    const node = this.#stack.pop()
    if (node !== undefined) node.isOpen = false
  }

  #removeOpen(at: number): void {
    for (const node of this.#stack.splice(at, 1)) node.isOpen = false
  }

  /** Closes the element at this index and those open in it. */
  #popAt(at: number): void {
    while (this.#stack.length > at) this.#pop()
  }

  /** Closes the last element with this name and those open in it. */
  #popTo(name: string): void {
    const at = this.#stack.findLastIndex((node) => node.is(name))
    if (at > 0) this.#popAt(at)
  }

  #hasInScope(name: string, scope = SCOPE): boolean {
    for (let i = this.#stack.length - 1; i >= 0; i -= 1) {
      const node = this.#stack[i]!
      if (node.is(name)) return true
      if ((node.rules.scopes & scope) !== 0) return false
    }
    return false
  }

  #isInScope(node: Node): boolean {
    for (let i = this.#stack.length - 1; i >= 0; i -= 1) {
      const each = this.#stack[i]!
      if (each === node) return true
      if ((each.rules.scopes & SCOPE) !== 0) return false
    }
    return false
  }

  /** Generates implied end tags (HTML, 13.2.6.3). */
  #closeOptional(except = ''): void {
    while (this.#current.rules.isEndOptional && this.#current.name !== except) this.#pop()
  }
}

function hasSameAttributes({ attributes: a }: Node, { attributes: b }: Node): boolean {
  return a.length === b.length && a.every((each, i) => each === b[i])
}

function isHiddenInput(attributes: Attributes): boolean {
  const at = attributes.indexOf('type')
  return at % 2 === 0 && /^hidden$/i.test(attributes[at + 1] ?? '')
}
