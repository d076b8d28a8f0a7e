// The readable text of a page: what a reader would read, as one line. HTML is taken apart by the
// platform's rewriter, which is handed in: it takes the tags away and leaves marks, as being called
// for each piece of text costs five times more.
import { decodeReferences } from './entities.ts'

interface Element {
  readonly tagName: string
  getAttribute(name: string): string | null
  before(text: string): unknown
  after(text: string): unknown
  remove(): unknown
  removeAndKeepContent(): unknown
}

/** What is used of Workers' HTMLRewriter. */
export interface Rewriter {
  on(selector: string, handlers: { element(element: Element): void }): Rewriter
  onDocument(handlers: { comments(comment: { remove(): unknown }): void }): Rewriter
  transform(response: Response): Response
}

export type NewRewriter = () => Rewriter

const words = (text: string): ReadonlySet<string> => new Set(text.split(' '))

/** No text for readers, or not the page's own. */
const SKIPPED = words(
  'title script style noscript template nav svg math iframe object canvas audio video noembed ' +
    'noframes select button textarea datalist dialog',
)

/** Words on both sides of these are two words. */
const SEPARATING = words(
  'address article aside blockquote br caption dd details div dl dt fieldset figcaption figure ' +
    'footer form h1 h2 h3 h4 h5 h6 header hr img legend li main ol p pre section summary table td ' +
    'th tr ul',
)

function isSkipped(element: Element): boolean {
  return (
    SKIPPED.has(element.tagName) ||
    element.getAttribute('hidden') !== null ||
    element.getAttribute('aria-hidden') === 'true'
  )
}

/** The alternatives of a selector list, in their order. A comma in brackets or quotes is none. */
export function alternativesOf(selector: string): string[] {
  return (selector.match(/(?:"[^"]*"|'[^']*'|\[[^\]]*\]|\([^)]*\)|[^,])+/g) ?? [])
    .map((alternative) => alternative.trim())
    .filter((alternative) => alternative !== '')
}

/** Whether the rewriter can look for it: it knows most of CSS, but not `:hover`, `+` or `::text`. */
export function isSelector(selector: string, newRewriter: NewRewriter): boolean {
  const alternatives = alternativesOf(selector)
  try {
    for (const alternative of alternatives) newRewriter().on(alternative, { element() {} })
  } catch {
    return false
  }
  return alternatives.length > 0
}

/** Around an alternative's place comes its number: characters that no text may have (Unicode, 23.7). */
const OPEN = '\ufdd0'
const CLOSE = '\ufdd1'
const END = '\ufdd2'
const MARKS = /[\ufdd0-\ufdd2]/g
const MARK = /([\ufdd0\ufdd1]\d+)\ufdd2/
/** What the rewriter leaves as it is: end tags without a beginning, the doctype, what never ended. */
const LEFTOVERS = /<(?:\/[a-z]|!doctype)[^>]*>/gi
const UNENDED = /<[a-z/!?].*/is

/**
 * The readable text of the first of the selector's alternatives that has any; "" where none has.
 * `body` is all of the document, since its tags may be left out.
 */
export async function textOfHtml(
  html: string,
  selector: string,
  newRewriter: NewRewriter,
): Promise<string> {
  const alternatives = alternativesOf(selector)
  let rewriter = newRewriter().onDocument({ comments: (comment) => comment.remove() })
  for (const [i, alternative] of alternatives.entries()) {
    if (alternative === 'body') continue
    rewriter = rewriter.on(alternative, {
      element(element) {
        element.before(OPEN + i + END)
        element.after(CLOSE + i + END)
      },
    })
  }
  rewriter = rewriter.on('*', { element: strip })
  const source = html.replaceAll(MARKS, '')
  const stripped = await rewriter.transform(new Response(source)).text()
  const texts = textsOf(stripped, alternatives)
  return texts.map((text) => fold(decodeReferences(text))).find((text) => text !== '') ?? ''
}

function strip(element: Element): void {
  if (SEPARATING.has(element.tagName)) {
    element.before(' ')
    element.after(' ')
  }
  if (isSkipped(element)) element.remove()
  else element.removeAndKeepContent()
}

/** What stands in each alternative's places. */
function textsOf(stripped: string, alternatives: readonly string[]): string[] {
  const places = alternatives.map((name) => ({ depth: name === 'body' ? 1 : 0, text: '' }))
  for (const piece of stripped.split(MARK)) {
    const [first] = piece
    if (first === OPEN || first === CLOSE) {
      const place = places[Number(piece.slice(1))]
      if (place === undefined) continue
      place.depth += first === OPEN ? 1 : -1
      place.text += ' '
    } else {
      const text = withoutLeftovers(piece)
      for (const place of places) if (place.depth > 0) place.text += text
    }
  }
  return places.map(({ text }) => text)
}

/** Each half in its own way, as one look for both takes the square of the time. */
function withoutLeftovers(text: string): string {
  const ended = text.lastIndexOf('>') + 1
  return text.slice(0, ended).replaceAll(LEFTOVERS, '') + text.slice(ended).replace(UNENDED, '')
}

/** White space and control characters folded into one space each. */
export function fold(text: string): string {
  return text.replace(/[\s\p{Cc}]+/gu, ' ').trim()
}

/** At most so many UTF-16 units, and no character torn. */
export function cut(text: string, maxChars: number): string {
  if (text.length <= maxChars) return text
  const last = text.charCodeAt(maxChars - 1)
  const torn = last >= 0xd800 && last < 0xdc00
  return text.slice(0, torn ? maxChars - 1 : maxChars).trimEnd()
}
