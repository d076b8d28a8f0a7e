// Builds the tree that browsers build from any text (HTML, 13.2.6), including omitted tags,
// misnested formatting, misplaced text in tables, SVG and MathML, templates and declarative shadow
// trees. As in a browser with scripting enabled, <noscript> contains no elements.
//
// Differences from a browser's tree: there are no comments and no framesets, SVG names are in lower
// case, and nesting depth and repeated formatting are limited so that any document takes linear
// time.
import { FormattingList } from './formatting.ts'
import {
  BUTTON_SCOPE,
  ENDS_FOREIGN,
  INNER_MODES,
  ITEM_BOUNDS,
  ITEM_SCOPE,
  isEmpty,
  kindOf,
  MATH_TEXTS,
  METADATA,
  type Mode,
  OUTER_MODES,
  RAW_TEXTS,
  reopensFormatting,
  SCOPE,
  SHADOW_HOSTS,
  SPECIAL,
  SVG_HTML,
  TABLE_CONTENT,
  TABLE_INSIDES,
  TABLE_SCOPE,
} from './names.ts'
import { attributeOf, type Element, type Namespace, Node } from './node.ts'
import { OpenElements } from './open-elements.ts'
import type { References } from './references.ts'
import { type Attributes, type RawText, type Sink, Tokenizer } from './tokens.ts'

/**
 * @param isXml whether the document was served as XHTML, in which "<p/>" is a complete element
 * @returns the <html> element, which always has a <head> and a <body>
 */
export function parseHtml(source: string, references: References, isXml = false): Element {
  const builder = new TreeBuilder(isXml)
  new Tokenizer(source, references, builder).run()
  return builder.end()
}

/** The limit of open elements, the same as Chromium's. Deeper ones become children of the last. */
const MAX_DEPTH = 512
/** The limit of reopened formatting elements per document. */
const MAX_REOPENED = 10_000

const isBlank = (text: string) => !/[^\t\n\f\r ]/.test(text)
const isHiddenInput = (node: Node) =>
  node.key === 'input' && /^hidden$/i.test(attributeOf(node, 'type') ?? '')

class TreeBuilder implements Sink {
  readonly #isXml: boolean
  readonly #html = new Node('html')
  readonly #body = new Node('body')
  readonly #open = new OpenElements()
  readonly #formatting = new FormattingList()
  #reopened = 0
  /** The number of open elements beyond the depth limit. */
  #tooDeep = 0
  #form: Node | null = null
  #isQuirky = true
  /** The element that was added last. */
  #latest = this.#html

  constructor(isXml: boolean) {
    this.#isXml = isXml
    this.#open.push(this.#html)
    this.#insert(new Node('head'))
  }

  end(): Element {
    if (!this.#body.isOpen) this.#leaveHead()
    return this.#html
  }

  get isForeign(): boolean {
    return this.#open.current.namespace !== 'html'
  }

  doctype(): void {
    if (this.#mode === 'head') this.#isQuirky = false
  }

  startTag(name: string, attributes: Attributes, isSelfClosing: boolean): RawText | null {
    const staysForeign = this.isForeign && !this.#takesHtml(name)
    const node = new Node(name === 'image' && !staysForeign ? 'img' : name, attributes)
    node.isSelfClosing = isSelfClosing
    if (this.#open.nodes.length >= MAX_DEPTH) this.#startTooDeep(node)
    else if (staysForeign) this.#startForeign(node)
    else this.#start(node)
    const isComplete = this.#isXml && isSelfClosing
    if (isComplete && this.#open.current === node) this.#end(name)
    return isComplete || this.#latest !== node ? null : (RAW_TEXTS.get(name) ?? null)
  }

  endTag(name: string): void {
    if (this.#tooDeep > 0) this.#tooDeep -= 1
    else if (!this.isForeign || !this.#endForeign(name)) this.#end(name)
  }

  text(text: string): void {
    if (this.isForeign && !this.#takesHtml('')) {
      this.#add(text)
      return
    }
    const shown = text.replaceAll('\0', '')
    if (shown === '') return
    if (this.#mode === 'head') {
      if (isBlank(shown)) return
      this.#leaveHead()
    } else if (this.#mode === 'columns' || TABLE_INSIDES.has(this.#open.current.key)) {
      if (isBlank(shown)) {
        this.#add(shown)
        return
      }
      if (this.#mode === 'columns' && !this.#endContent('columns')) return
    }
    this.#reopenFormatting()
    this.#add(shown)
  }

  rawText(text: string): void {
    this.#latest.children.push(text)
  }

  // Modes

  get #mode(): Mode {
    return this.#open.current.mode
  }

  #start(node: Node): void {
    const { current } = this.#open
    const isMetadata = METADATA.has(node.name)
    if (current.mode === 'head') {
      if (node.name === 'head') return
      if (!isMetadata && node.name !== 'html') this.#leaveHead()
    } else if (current.mode === 'template' && !isMetadata) {
      // The first content decides what a template is part of.
      current.mode = OUTER_MODES.get(node.name) ?? 'body'
    }
    if (['head', 'body', 'template'].includes(this.#mode)) this.#startInBody(node)
    else this.#startInTable(node)
  }

  #end(name: string): void {
    switch (this.#mode) {
      case 'head':
        // Other end tags are ignored in the head.
        if (name === 'br' || kindOf(name) === 'root') this.#leaveHead()
        if (name === 'br' || name === 'template') this.#endInBody(name)
        break
      case 'template':
        if (name === 'template') this.#endTemplate()
        break
      case 'body':
        this.#endInBody(name)
        break
      default:
        this.#endInTable(name)
    }
  }

  #leaveHead(): void {
    this.#open.popAt(1)
    this.#insert(this.#body)
  }

  // The body (HTML, 13.2.6.4.7)

  #startInBody(node: Node): void {
    const { name } = node
    const open = this.#open
    const kind = kindOf(name)
    switch (kind) {
      case 'block':
      case 'paragraph':
      case 'rawBlock':
        this.#closeParagraph()
        break
      case 'heading':
        this.#closeParagraph()
        if (kindOf(open.current.key) === 'heading') open.pop()
        break
      case 'form':
        if (this.#form !== null && !this.#isInTemplate) return
        this.#closeParagraph()
        if (!this.#isInTemplate) this.#form = node
        break
      case 'item':
        open.closeLast(
          ({ key }) => kindOf(key) === 'item' && (name === 'li') === (key === 'li'),
          ITEM_BOUNDS,
        )
        this.#closeParagraph()
        break
      case 'button':
        open.close('button')
        break
      case 'link':
      case 'nobr':
      case 'formatting':
        this.#startFormatting(node)
        return
      case 'table':
        if (!this.#isQuirky) this.#closeParagraph()
        break
      case 'input':
        open.close('select')
        break
      case 'rule':
        this.#closeParagraph()
        if (open.has('select')) open.closeOptional()
        break
      case 'select':
        if (open.close('select')) return
        break
      case 'option':
        if (open.has('select')) open.closeOptional(name === 'option' ? 'optgroup' : '')
        else if (open.current.key === 'option') open.pop()
        break
      case 'ruby':
        if (open.has('ruby')) open.closeOptional(/^r[tp]$/.test(name) ? 'rtc' : '')
        break
      case 'tablePart':
        return
      case 'root': {
        const root = name === 'html' ? this.#html : this.#body
        // The first start tag's attributes win.
        if (root.attributes.length === 0) root.attributes = node.attributes
        return
      }
      case 'template':
        this.#startTemplate(node)
        return
    }
    if (reopensFormatting(name)) this.#reopenFormatting()
    if (kind === 'foreign') this.#insertForeign(node, name as Namespace)
    else this.#insert(node)
    if (kind === 'embedded') this.#formatting.mark()
  }

  #endInBody(name: string): void {
    const open = this.#open
    switch (kindOf(name)) {
      case 'block':
      case 'button':
      case 'select':
        open.close(name)
        break
      case 'form':
        this.#endForm()
        break
      case 'paragraph':
        if (!open.has('p', BUTTON_SCOPE)) this.#insert(new Node('p'))
        this.#closeParagraph()
        break
      case 'item':
        open.close(name, name === 'li' ? ITEM_SCOPE : SCOPE)
        break
      case 'heading':
        open.closeLast(({ key }) => kindOf(key) === 'heading', SCOPE)
        break
      case 'link':
      case 'nobr':
      case 'formatting':
        this.#endFormatting(name)
        break
      case 'embedded':
        if (open.close(name)) this.#formatting.clear()
        break
      case 'root':
        break
      case 'template':
        this.#endTemplate()
        break
      case 'void':
        // "</br>" is treated as "<br>".
        if (name === 'br') this.#startInBody(new Node(name))
        break
      default:
        open.close(name, SPECIAL)
    }
  }

  #closeParagraph(): void {
    this.#open.close('p', BUTTON_SCOPE)
  }

  get #isInTemplate(): boolean {
    return this.#open.nodes.some(({ key }) => key === 'template')
  }

  #endForm(): void {
    if (this.#isInTemplate) {
      this.#open.close('form')
      return
    }
    const form = this.#form
    this.#form = null
    if (!form?.isOpen || !this.#open.isInScope(form)) return
    this.#open.closeOptional()
    this.#open.remove(form)
  }

  #startTemplate(node: Node): void {
    const { parent } = this.#place(node)
    const isShadow = /^(?:open|closed)$/i.test(attributeOf(node, 'shadowrootmode') ?? '')
    const isHost = SHADOW_HOSTS.has(parent.key) || parent.name.includes('-')
    if (isShadow && isHost && parent.shadow === null) {
      node.parent = parent
      parent.shadow = node
    } else this.#append(node)
    this.#open.push(node)
    this.#formatting.mark()
  }

  #endTemplate(): void {
    const at = this.#open.nodes.findLastIndex(({ key }) => key === 'template')
    if (at === -1) return
    this.#open.popAt(at)
    this.#formatting.clear()
  }

  // Formatting

  #startFormatting(node: Node): void {
    const link = node.name === 'a' ? this.#formatting.last('a') : undefined
    if (link !== undefined) {
      this.#endFormatting('a')
      // #endFormatting leaves a link that is not in scope.
      this.#formatting.remove(link)
      if (link.isOpen) this.#open.remove(link)
    }
    this.#reopenFormatting()
    if (node.name === 'nobr' && this.#open.has('nobr')) {
      this.#endFormatting('nobr')
      this.#reopenFormatting()
    }
    this.#insert(node)
    this.#formatting.add(node)
  }

  #reopenFormatting(): void {
    const list = this.#formatting.nodes
    let first = list.length
    while (first > 0 && list[first - 1]?.isOpen === false) first -= 1
    for (let i = first; i < list.length; i += 1) {
      if (++this.#reopened > MAX_REOPENED || this.#open.nodes.length >= MAX_DEPTH) {
        list.length = i
        return
      }
      const copy = list[i]!.copy()
      this.#insert(copy)
      list[i] = copy
    }
  }

  /** Ends formatting, misnested or not: the "adoption agency algorithm" (HTML, 13.2.6.4.7). */
  #endFormatting(name: string): void {
    const { current, nodes } = this.#open
    if (current.key === name && !this.#formatting.nodes.includes(current)) {
      this.#open.pop()
      return
    }
    for (let round = 0; round < 8; round += 1) {
      const node = this.#formatting.last(name)
      if (node === undefined) {
        if (round === 0) this.#open.close(name, SPECIAL)
        return
      }
      if (node.isOpen && !this.#open.isInScope(node)) return
      const at = nodes.lastIndexOf(node)
      const block = nodes.findIndex(({ key }, i) => i > at && SPECIAL.has(key))
      if (!node.isOpen || block === -1 || ++this.#reopened > MAX_REOPENED) {
        this.#formatting.remove(node)
        if (node.isOpen) this.#open.popAt(at)
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
    const stack = this.#open.nodes
    const list = this.#formatting.nodes
    const [outer, node, block] = [stack[at - 1]!, stack[at]!, stack[blockAt]!]
    let last = block
    /** The element after which the new one comes in the list; null if it replaces the old one. */
    let before: Node | null = null
    for (const [i, between] of stack
      .slice(at + 1, blockAt)
      .reverse()
      .entries()) {
      if (i >= 3) this.#formatting.remove(between)
      const index = list.indexOf(between)
      if (index === -1) {
        this.#open.remove(between)
        continue
      }
      const copy = between.copy()
      list[index] = copy
      this.#open.insert(copy, stack.indexOf(between))
      this.#open.remove(between)
      before ??= copy
      this.#move(last, copy)
      last = copy
    }
    this.#move(last, outer)
    const copy = node.copy()
    copy.children = block.children
    for (const child of copy.children) if (typeof child !== 'string') child.parent = copy
    block.children = [copy]
    copy.parent = block
    if (before !== null) list.splice(list.indexOf(before) + 1, 0, copy)
    else list.splice(list.indexOf(node), 0, copy)
    this.#formatting.remove(node)
    this.#open.remove(node)
    this.#open.insert(copy, stack.lastIndexOf(block) + 1)
  }

  // Tables (HTML, 13.2.6.4.9 to 13.2.6.4.15)

  #startInTable(node: Node): void {
    const { name } = node
    const outer = OUTER_MODES.get(name)
    const isInside = ['table', 'rows', 'row'].includes(this.#mode)
    if (outer !== undefined) {
      if (this.#enter(outer)) this.#startPart(node)
    } else if (this.#mode === 'columns' && name !== 'template') {
      if (this.#endContent('columns')) this.#start(node)
    } else if (isInside && name === 'table') {
      if (this.#endPart((each) => each.key === name)) this.#start(node)
    } else if (isInside && name === 'form') {
      if (this.#form !== null || this.#isInTemplate) return
      this.#append(node)
      this.#form = node
    } else if (isInside && isHiddenInput(node)) this.#append(node)
    else this.#startInBody(node)
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
    if (this.#mode === 'table' && mode === 'columns') this.#startPart(new Node('colgroup'))
    if (this.#mode === 'table' && !isOutside) this.#startPart(new Node('tbody'))
    if (this.#mode === 'rows' && mode === 'row') this.#startPart(new Node('tr'))
    return true
  }

  #startPart(node: Node): void {
    while (!INNER_MODES.has(this.#open.current.key)) this.#open.pop()
    this.#insert(node)
    if (this.#mode === 'cell' || this.#mode === 'caption') this.#formatting.mark()
  }

  /** Ends the last part whose content has this mode; returns false if nothing matches. */
  #endContent(mode: Mode): boolean {
    return this.#endPart(({ key }) => INNER_MODES.get(key) === mode)
  }

  /** Ends the last part of this table that matches; returns false if nothing matches. */
  #endPart(matches: (node: Node) => boolean): boolean {
    const mode = this.#mode
    if (!this.#open.closeLast(matches, TABLE_SCOPE)) return false
    if (mode === 'cell' || mode === 'caption') this.#formatting.clear()
    return true
  }

  #endInTable(name: string): void {
    const kind = kindOf(name)
    if (kind === 'tablePart' || kind === 'table') {
      this.#endPart(({ key }) => key === name)
    } else if (this.#mode === 'columns' && kind !== 'template') {
      if (this.#endContent('columns')) this.#end(name)
    } else this.#endInBody(name)
  }

  // SVG and MathML (HTML, 13.2.6.5)

  /**
   * Whether the current SVG or MathML node may contain HTML.
   *
   * @param name the name of the start tag; "" for text
   */
  #takesHtml(name: string): boolean {
    const node = this.#open.current
    if (MATH_TEXTS.has(node.key)) return name !== 'mglyph' && name !== 'malignmark'
    if (node.key !== 'math annotation-xml') return SVG_HTML.has(node.key)
    const encoding = attributeOf(node, 'encoding') ?? ''
    return name === 'svg' || /^(?:text\/html|application\/xhtml\+xml)$/i.test(encoding)
  }

  #startForeign(node: Node): void {
    const isOldFont =
      node.name === 'font' &&
      ['color', 'face', 'size'].some((name) => attributeOf(node, name) !== null)
    if (ENDS_FOREIGN.has(node.name) || isOldFont) {
      this.#leaveForeign()
      this.#start(node)
    } else this.#insertForeign(node, this.#open.current.namespace)
  }

  #leaveForeign(): void {
    while (this.isForeign && !this.#takesHtml('')) this.#open.pop()
  }

  #insertForeign({ name, attributes, isSelfClosing }: Node, namespace: Namespace): void {
    const node = new Node(name, attributes, namespace)
    this.#append(node)
    if (!isSelfClosing) this.#open.push(node)
  }

  /** @returns false if the end tag belongs to an HTML element */
  #endForeign(name: string): boolean {
    const { nodes } = this.#open
    if (name === 'br' || name === 'p') {
      this.#leaveForeign()
      return false
    }
    for (let at = nodes.length - 1; nodes[at]?.namespace !== 'html'; at -= 1) {
      if (nodes[at]?.name !== name) continue
      this.#open.popAt(at)
      return true
    }
    return false
  }

  // The tree

  /** The appropriate place for inserting a node (HTML, 13.2.6.1); before null appends it. */
  #place(node: Node | string, parent = this.#open.current): { parent: Node; before: Node | null } {
    const isContent =
      typeof node === 'string' ? isBlank(node) : TABLE_CONTENT.has(node.key) || isHiddenInput(node)
    if (isContent || !TABLE_INSIDES.has(parent.key)) return { parent, before: null }
    // Anything else is moved before the table ("foster parenting").
    const { nodes } = this.#open
    const at = nodes.findLastIndex(({ key }) => key === 'table' || key === 'template')
    const table = nodes[at] ?? this.#html
    if (table.key !== 'table') return { parent: table, before: null }
    if (table.parent !== null) return { parent: table.parent, before: table }
    return { parent: nodes[at - 1] ?? this.#html, before: null }
  }

  #add(node: Node | string, to = this.#open.current): void {
    const { parent, before } = this.#place(node, to)
    if (before === null) parent.children.push(node)
    else parent.children.splice(parent.children.lastIndexOf(before), 0, node)
    if (typeof node !== 'string') node.parent = parent
  }

  #append(node: Node): void {
    this.#add(node)
    this.#latest = node
  }

  #move(node: Node, to: Node): void {
    const siblings = node.parent?.children ?? []
    const at = siblings.lastIndexOf(node)
    if (at !== -1) siblings.splice(at, 1)
    this.#add(node, to)
  }

  #insert(node: Node): void {
    this.#append(node)
    if (!isEmpty(node.key)) this.#open.push(node)
  }

  #startTooDeep(node: Node): void {
    this.#append(node)
    if (!isEmpty(node.key)) this.#tooDeep += 1
  }
}
