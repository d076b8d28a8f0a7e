// Shows a model's text: a safe subset of Markdown, built from nodes and never parsed as HTML. What is
// not of the subset is shown as it was written.

/** @typedef {{ kind: 'p' | 'strong' | 'ul' | 'ol' | 'pre', start: number, lines: string[] }} Block */

/**
 * Code, emphasis, a link, an address. Lengths are bounded, so that no text takes long. Addresses are
 * ASCII: no character in them can look like another or change their direction.
 */
const inline =
  /(`{1,3})(.{1,400}?)\1|(?<!\w)(\*\*|__|[*_])(?=\S)(.{1,400}?)(?<=\S)\3(?!\w)|!?\[([^[\]]{1,300})\]\(([^\s()]{1,2000})\)|https?:\/\/[!-~]{0,2000}[\w/#=&%+-]/gs

/** The source of each block that is shown. @type {WeakMap<Node, string>} */
const sources = new WeakMap()

/**
 * Shows a text in an element. Blocks that have not changed stay in place, so a text that arrives in
 * pieces does not flicker, and screen readers do not repeat it.
 *
 * @param {HTMLElement} target
 * @param {string} text
 * @param {boolean} [isWhole] whether no more will follow
 */
export function showText(target, text, isWhole = true) {
  const blocks = blocksOf(isWhole ? text : closed(text))
  for (const [i, block] of blocks.entries()) {
    const source = JSON.stringify(block)
    const old = target.childNodes[i]
    if (old && sources.get(old) === source) continue
    const node = nodeOf(block)
    // Characters that change the direction have no effect outside.
    node.dir = 'auto'
    sources.set(node, source)
    if (old) old.replaceWith(node)
    else target.append(node)
  }
  while (target.childNodes.length > blocks.length) target.lastChild?.remove()
}

/** Closes the strong text or the code at the end of an unfinished text. @param {string} text */
function closed(text) {
  const start = text.lastIndexOf('\n') + 1
  let line = text.slice(start).replace(/(?<!`)[*`]{1,2}$/, '')
  for (const mark of ['`', '**']) if (line.split(mark).length % 2 === 0) line += mark
  return text.slice(0, start) + line
}

/** @param {string} text */
function blocksOf(text) {
  /** @type {Block[]} */
  const blocks = []
  /** Whether the next line may continue the last block. */
  let isOpen = false
  let fence = ''
  for (const line of text.split(/\r?\n/)) {
    const mark = /^\s*(```+|~~~+)/.exec(line)?.[1] ?? ''
    const [, , number, item] = /^\s*([-*+]|(\d{1,9})[.)])\s+(.*)/.exec(line) ?? []
    const heading = /^#{1,6}\s+(.*)/.exec(line)?.[1]
    const last = blocks.at(-1)
    const list = number ? 'ol' : 'ul'
    /** @param {Block['kind']} kind @param {string[]} lines @param {number} [start] */
    const begin = (kind, lines, start = 1) => {
      blocks.push({ kind, start, lines })
      isOpen = kind === 'p' || kind === list
    }
    if (fence) {
      if (mark.startsWith(fence)) fence = ''
      else last?.lines.push(line)
    } else if (mark) {
      fence = mark
      begin('pre', [])
    } else if (!line.trim()) isOpen = false
    else if (heading) begin('strong', [heading])
    else if (item && isOpen && last?.kind === list) last.lines.push(item)
    else if (item) begin(list, [item], Number(number ?? 1))
    else if (isOpen && last) last.lines.push(`${last.lines.pop()}\n${line}`)
    else begin('p', [line])
  }
  return blocks
}

/** @param {Block} block */
function nodeOf({ kind, start, lines }) {
  if (kind === 'p') return node('p', inlineNodes(lines.join()))
  if (kind === 'pre') return node('pre', [node('code', [lines.join('\n')])])
  if (kind === 'strong') return node('p', [node('strong', inlineNodes(lines.join()))])
  const items = lines.map((line) => node('li', inlineNodes(line)))
  const list = node(kind, items)
  if (start !== 1) list.setAttribute('start', String(start))
  return list
}

/** @param {string} name @param {(Node | string)[]} children */
function node(name, children) {
  const element = document.createElement(name)
  element.append(...children)
  return element
}

/** @param {string} text @returns {(Node | string)[]} */
function inlineNodes(text) {
  /** @type {(Node | string)[]} */
  const nodes = []
  let end = 0
  for (const {
    index,
    0: all,
    2: code,
    3: mark,
    4: inner = '',
    5: label,
    6: address,
  } of text.matchAll(inline)) {
    nodes.push(text.slice(end, index))
    if (code) nodes.push(node('code', [code]))
    else if (mark) nodes.push(node(mark[1] ? 'strong' : 'em', inlineNodes(inner)))
    else nodes.push(...link(address ?? all, label))
    end = index + all.length
  }
  return [...nodes, text.slice(end)]
}

/**
 * A link whose text is its address. Only links to the page's own site have another text.
 *
 * @param {string} address
 * @param {string} [label]
 * @returns {(Node | string)[]}
 */
function link(address, label) {
  const url = URL.parse?.(address, document.baseURI)
  const isLink = url && /^https?:$/.test(url.protocol) && url.username === ''
  if (!isLink) return [label ? `${label} (${address})` : address]
  const isOwn = url.origin === location.origin
  const text = label ? (isOwn ? label : url.href) : address
  const element = /** @type {HTMLAnchorElement} */ (node('a', [text]))
  element.href = url.href
  element.rel = 'nofollow noopener'
  element.target = '_blank'
  return label && !isOwn ? [`${label} (`, element, ')'] : [element]
}
