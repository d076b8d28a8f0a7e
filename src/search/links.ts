// Links to places on the page itself, which repeat its headings.
import { attributeOf, type Element } from '../html/node.ts'

/** The id that a link on the same page leads to; null for any other link. */
export function fragmentOf(link: Element): string | null {
  const [, fragment] = /^#(.+)/s.exec(attributeOf(link, 'href') ?? '') ?? []
  return fragment === undefined ? null : decoded(fragment)
}

/** A part of an address without percent-encoding, if it is well-formed. */
export function decoded(part: string): string {
  try {
    return decodeURIComponent(part)
  } catch {
    return part
  }
}

const LABEL =
  /^(?:section titled|(?:direct |perma|copy )?link (?:to|for)|permalink|permanent link|anchor|copy link|copy)\b/i

/** Whether a link to a heading has a sign or a label of its own instead of the heading's text. */
export function isPermalink(link: Element): boolean {
  const text = textOf(link)
  return !/[\p{L}\p{N}]/u.test(text) || LABEL.test(text.trim())
}

/** The limit of what is in an item besides the link: white space and a list of deeper entries. */
const MAX_ENTRY_NODES = 8

/** Whether a link is all there is in an item of a list, as in a table of contents. */
export function isContentsEntry(link: Element): boolean {
  const { parent } = link
  if (parent?.name !== 'li' || parent.children.length > MAX_ENTRY_NODES) return false
  return parent.children.every((child) => {
    if (typeof child === 'string') return !/\S/.test(child)
    return child === link || child.name === 'ul' || child.name === 'ol'
  })
}

/** Enough of an element's text to know what it is. */
function textOf(element: Element, maxChars = 200): string {
  let text = ''
  for (const child of element.children) {
    if (text.length >= maxChars) break
    text += typeof child === 'string' ? child : textOf(child, maxChars - text.length)
  }
  return text
}
