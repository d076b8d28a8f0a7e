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
  type Mode,
  type Rules,
  rulesOf,
  SCOPE,
  TABLE_SCOPE,
} from './names.ts'
import type { References } from './references.ts'
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
export function parseHtml(source: string, references: References, isXml = false): Element {
  const builder = new TreeBuilder(isXml)
  tokenize(source, references, builder)
  return builder.end()
}

/** The value of an attribute; null if the element does not have it. */
export function attributeOf(
  { attributes }: Pick<Element, 'attributes'>,
  name: string,
): string | null {
  for (let i = 0; i < attributes.length; i += 2) {
    if (attributes[i] === name) return attributes[i + 1] ?? ''
  }
  return null
}

/** The limit of open elements, the same as Chromium's. Deeper ones become children of the last. */
const MAX_DEPTH = 512
/** The limit of elements such as an unclosed <b>, which are reopened in each following block. */
const MAX_FORMATTING = 64
/** The limit of such reopened elements per document. */
const MAX_REOPENED = 10_000

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

  constructor({ name, rules, attributes }: Omit<Tag, 'isSelfClosing'>, namespace: Namespace) {
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
  readonly isSelfClosing: boolean
}

function tagOf(name: string, attributes: Attributes = [], isSelfClosing = false): Tag {
  const rules = rulesOf(name)
  return { name: rules.name || name, rules, attributes, isSelfClosing }
}

type Test = (node: Node) => boolean

const isNamed =
  (name: string): Test =>
  (node) =>
    node.is(name)
const isBoundary =
  (scope: number): Test =>
  ({ rules }) =>
    (rules.scopes & scope) !== 0

class TreeBuilder implements Sink {
  readonly #isXml: boolean
  #mode: Mode = 'head'
  /** The insertion mode of each open <template>. */
  readonly #templateModes: Mode[] = []
  readonly #html = new Node(tagOf('html'), 'html')
  readonly #body = new Node(tagOf('body'), 'html')
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
    const tag = tagOf(name, attributes, isSelfClosing)
    if (this.#stack.length >= MAX_DEPTH) return this.#startTooDeep(tag)
    if (this.isForeign && !this.#takesHtml(name)) return this.#startForeign(tag)
    const raw = this.#start(tag)
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
      this.#add(text)
      return
    }
    const shown = text.includes('\0') ? text.replaceAll('\0', '') : text
    if (shown === '') return
    const isBlank = this.#mode !== 'body' && !/[^\t\n\f\r ]/.test(shown)
    if (this.#mode === 'head') {
      if (isBlank) return
      this.#leaveHead()
    } else if (isBlank && (this.#mode === 'columns' || this.#current.rules.isTableInside)) {
      this.#add(shown)
      return
    } else if (this.#mode === 'columns' && !this.#endContent('columns')) return
    this.#isFostering = this.#isInTable
    this.#reopenFormatting()
    this.#add(shown)
    this.#isFostering = false
  }

  rawText(text: string): void {
    this.#latest.children.push(text)
  }

  // Modes

  #start(tag: Tag): RawText | null {
    const { name, rules } = tag
    switch (this.#mode) {
      case 'head':
        if (name === 'head') return null
        if (!rules.isMetadata && name !== 'html') this.#leaveHead()
        return this.#startInBody(tag)
      case 'body':
        return this.#startInBody(tag)
      case 'template':
        if (rules.isMetadata) return this.#startInBody(tag)
        this.#mode = rules.outerMode ?? 'body'
        this.#templateModes.splice(-1, 1, this.#mode)
        return this.#start(tag)
      default:
        return this.#startInTable(tag)
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
    this.#open(this.#body)
  }

  /** Sets the mode according to the open elements (HTML, 13.2.4.1). */
  #resetMode(): void {
    const node = this.#stack.findLast(({ rules }) => rules.innerMode ?? rules.kind === 'template')
    this.#mode = node?.rules.innerMode ?? this.#templateModes.at(-1) ?? 'body'
  }

  // The body (HTML, 13.2.6.4.7)

  #startInBody(tag: Tag): RawText | null {
    const { name, rules, attributes } = tag
    switch (rules.kind) {
      case 'block':
      case 'paragraph':
      case 'rawBlock':
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
        break
      case 'link':
      case 'nobr':
      case 'formatting':
        return this.#startFormatting(tag)
      case 'table':
        if (!this.#isQuirky) this.#closeParagraph()
        this.#mode = 'table'
        break
      case 'input':
        this.#close('select')
        break
      case 'rule':
        this.#closeParagraph()
        if (this.#hasInScope('select')) this.#closeOptional()
        break
      case 'select':
        if (this.#close('select')) return null
        break
      case 'option':
        if (this.#hasInScope('select')) this.#closeOptional(name === 'option' ? 'optgroup' : '')
        else if (this.#current.is('option')) this.#pop()
        break
      case 'ruby':
        if (this.#hasInScope('ruby')) this.#closeOptional(/^r[tp]$/.test(name) ? 'rtc' : '')
        break
      case 'tablePart':
        return null
      case 'root': {
        const root = name === 'html' ? this.#html : this.#body
        // The first start tag's attributes win.
        if (root.attributes.length === 0) root.attributes = attributes
        return null
      }
      case 'template':
        return this.#startTemplate(tag)
      case 'embedded':
      case 'foreign':
      case 'metadata':
      case 'other':
      case 'raw':
      case 'void':
        break
      default:
        rules.kind satisfies never
    }
    if (rules.reopensFormatting) this.#reopenFormatting()
    if (rules.kind === 'foreign') this.#insertForeign(tag, name as Namespace)
    else this.#insert(name === 'image' ? tagOf('img', attributes) : tag)
    if (rules.kind === 'embedded') this.#formatting.push(null)
    return rules.raw
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
        this.#closeLast((node) => node.rules.kind === 'heading', isBoundary(SCOPE))
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
        if (name === 'br') this.#startInBody(tagOf(name))
        break
      default:
        this.#endOther(name)
    }
  }

  #endOther(name: string): void {
    this.#closeLast(isNamed(name), ({ rules }) => rules.isSpecial)
  }

  /** @returns false if no element with this name is in scope */
  #close(name: string, scope = SCOPE): boolean {
    return this.#closeLast(isNamed(name), isBoundary(scope))
  }

  #closeParagraph(): void {
    this.#close('p', BUTTON_SCOPE)
  }

  /** An item ends when the next item of its list starts. */
  #closeItem(name: string): void {
    this.#closeLast(
      (node) => node.rules.kind === 'item' && (name === 'li') === (node.name === 'li'),
      (node) => node.rules.isSpecial && !['address', 'div', 'p'].includes(node.name),
    )
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

  #startTemplate(tag: Tag): null {
    const node = new Node(tag, 'html')
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
    return null
  }

  #endTemplate(): void {
    if (this.#templateModes.pop() === undefined) return
    this.#popAt(this.#stack.findLastIndex(isNamed('template')))
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

  /** The formatting elements after the last marker. */
  #formattingHere(): Node[] {
    return this.#formatting.slice(this.#formatting.lastIndexOf(null) + 1) as Node[]
  }

  #openFormatting(name: string): Node | undefined {
    return this.#formattingHere().findLast((node) => node.name === name)
  }

  /** Allows three identical elements: a fourth one replaces the first (HTML, 13.2.4.3). */
  #storeInMemory(node: Node): void {
    const { name, attributes } = node
    const same = this.#formattingHere().filter(
      (other) =>
        other.name === name &&
        other.attributes.length === attributes.length &&
        other.attributes.every((each, i) => each === attributes[i]),
    )
    if (same.length >= 3) this.#forget(same[0]!)
    if (this.#formatting.length >= MAX_FORMATTING) this.#formatting.shift()
    this.#formatting.push(node)
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
      const copy = node.copy()
      this.#open(copy)
      list[i] = copy
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

  #startInTable(tag: Tag): RawText | null {
    const { name, rules } = tag
    if (rules.outerMode !== null) {
      if (this.#enter(rules.outerMode)) this.#startPart(tag)
      return null
    }
    if (this.#mode === 'columns') {
      if (name === 'template') return this.#startInBody(tag)
      return this.#endContent('columns') ? this.#start(tag) : null
    }
    if (!this.#isInTable) return this.#startInBody(tag)
    if (name === 'table') return this.#endPart(isNamed(name)) ? this.#start(tag) : null
    if (name === 'form') {
      if (this.#form !== null || this.#templateModes.length > 0) return null
      this.#append(new Node(tag, 'html'))
      this.#form = this.#latest
      return null
    }
    const isHidden = name === 'input' && /^hidden$/i.test(attributeOf(tag, 'type') ?? '')
    this.#isFostering = !isHidden && !['script', 'style', 'template'].includes(name)
    const raw = this.#startInBody(tag)
    this.#isFostering = false
    return raw
  }

  /**
   * Closes and opens parts of the table until a part can start that requires this mode.
   *
   * @returns false if such a part cannot start here
   */
  #enter(mode: Mode): boolean {
    const isOutside = mode === 'table' || mode === 'columns'
    for (const inner of ['cell', 'caption', 'columns', 'row', 'rows'] as const) {
      const stays = inner === mode || (inner === 'rows' && !isOutside)
      if (this.#mode === inner && !stays && !this.#endContent(inner)) return false
    }
    if (this.#mode === 'table' && mode === 'columns') this.#startPart(tagOf('colgroup'))
    if (this.#mode === 'table' && !isOutside) this.#startPart(tagOf('tbody'))
    if (this.#mode === 'rows' && mode === 'row') this.#startPart(tagOf('tr'))
    return true
  }

  /** Ends the last part whose content has this mode; returns false if nothing matches. */
  #endContent(mode: Mode): boolean {
    return this.#endPart(({ rules }) => rules.innerMode === mode)
  }

  #startPart(tag: Tag): void {
    while (
      this.#isInTable &&
      this.#current.rules.innerMode !== this.#mode &&
      (this.#current.rules.scopes & TABLE_SCOPE) === 0
    ) {
      this.#pop()
    }
    this.#insert(tag)
    this.#mode = tag.rules.innerMode ?? this.#mode
    if (this.#mode === 'cell' || this.#mode === 'caption') this.#formatting.push(null)
  }

  /** Ends the last part of this table that matches; returns false if nothing matches. */
  #endPart(matches: Test): boolean {
    if (!this.#closeLast(matches, isBoundary(TABLE_SCOPE))) return false
    if (this.#mode === 'cell' || this.#mode === 'caption') this.#clearFormatting()
    this.#resetMode()
    return true
  }

  #endInTable(tag: Tag): void {
    const { name, rules } = tag
    if (rules.kind === 'tablePart' || rules.kind === 'table') {
      this.#endPart(isNamed(name))
    } else if (this.#mode === 'columns' && rules.kind !== 'template') {
      if (this.#endContent('columns')) this.#end(tag)
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

  #startForeign(tag: Tag): RawText | null {
    const isOldFont =
      tag.name === 'font' &&
      ['color', 'face', 'size'].some((name) => attributeOf(tag, name) !== null)
    if (!tag.rules.endsForeign && !isOldFont) {
      this.#insertForeign(tag, this.#current.namespace)
      return null
    }
    this.#leaveForeign()
    return this.#start(tag)
  }

  #leaveForeign(): void {
    while (this.isForeign && !this.#takesHtml('')) this.#pop()
  }

  #insertForeign(tag: Tag, namespace: Namespace): void {
    const node = new Node(tag, namespace)
    if (tag.isSelfClosing) this.#append(node)
    else this.#open(node)
  }

  /** @returns false if the end tag belongs to an HTML element */
  #endForeign(name: string): boolean {
    if (name === 'br' || name === 'p') {
      this.#leaveForeign()
      return false
    }
    return this.#closeLast(
      (node) => node.namespace !== 'html' && node.name === name,
      (node) => node.namespace === 'html',
    )
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

  #add(node: Node | string, { parent, before } = this.#place()): void {
    if (before === null) parent.children.push(node)
    else parent.children.splice(parent.children.lastIndexOf(before), 0, node)
    if (typeof node !== 'string') node.parent = parent
  }

  #append(node: Node): void {
    this.#add(node)
    this.#latest = node
  }

  #move(node: Node, place: Place): void {
    const siblings = node.parent?.children ?? []
    const at = siblings.lastIndexOf(node)
    if (at !== -1) siblings.splice(at, 1)
    this.#add(node, place)
  }

  #open(node: Node): void {
    this.#append(node)
    this.#push(node)
  }

  #insert(tag: Tag): void {
    const node = new Node(tag, 'html')
    if (tag.rules.isEmpty) this.#append(node)
    else this.#open(node)
  }

  #startTooDeep(tag: Tag): RawText | null {
    this.#append(new Node(tag, 'html'))
    if (!tag.rules.isEmpty) this.#tooDeep += 1
    return tag.rules.raw
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

  /** The index of the last open element that matches; -1 if a boundary follows it. */
  #lastOpen(matches: Test, isBoundary: Test): number {
    for (let at = this.#stack.length - 1; at >= 0; at -= 1) {
      const node = this.#stack[at]!
      if (matches(node)) return at
      if (isBoundary(node)) break
    }
    return -1
  }

  /** Closes that element and those open in it; returns false if nothing matches. */
  #closeLast(matches: Test, isBoundary: Test): boolean {
    const at = this.#lastOpen(matches, isBoundary)
    if (at !== -1) this.#popAt(at)
    return at !== -1
  }

  #hasInScope(name: string, scope = SCOPE): boolean {
    return this.#lastOpen(isNamed(name), isBoundary(scope)) !== -1
  }

  #isInScope(node: Node): boolean {
    return this.#lastOpen((each) => each === node, isBoundary(SCOPE)) !== -1
  }

  /** Generates implied end tags (HTML, 13.2.6.3). */
  #closeOptional(except = ''): void {
    while (this.#current.rules.isEndOptional && this.#current.name !== except) this.#pop()
  }
}
