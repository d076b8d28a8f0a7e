// Converts formulas to text, from MathML and from the output of KaTeX and MathJax. A power becomes
// "x^2" and a fraction "1/2": without the signs they would read as other numbers. A page often
// contains two or three versions of a formula; only one is read.
import { attributeOf, type Element } from '../html/node.ts'

/** The classes of the elements that KaTeX, MathJax 2 to 4 and MediaWiki wrap around a formula. */
const CONTAINER = /(?:^|\s)(?:katex|MathJax(?:_\w+)?|mjx-chtml|mwe-math-element)(?:\s|$)/
/** The script types of TeX and AsciiMath sources for MathJax 2. */
const SOURCE = /^\s*math\/(?:tex|asciimath)\b/i
const LETTERS = /[\u{1d400}-\u{1d7ff}]/gu

/** Whether an element contains one formula, in one or several versions. */
export function isFormula(element: Element): boolean {
  if (element.namespace !== 'html') return element.name === 'math' && element.namespace === 'math'
  return element.name === 'mjx-container' || CONTAINER.test(attributeOf(element, 'class') ?? '')
}

/** TeX or AsciiMath in a <script>; null for any other element. */
export function formulaSource(element: Element): string | null {
  if (element.name !== 'script' || !SOURCE.test(attributeOf(element, 'type') ?? '')) return null
  return element.children.join('').replaceAll(/%\s*(?:<!\[CDATA\[|\]\]>)/g, '')
}

/** A formula's MathML as text; null if it has none. */
export function mathmlText(formula: Element): string | null {
  const math = mathmlIn(formula)
  return math === null ? null : tidy(textOf(math))
}

/** The text of a rendered formula without MathML: its glyphs, or else its label. */
export function drawnText(formula: Element): string {
  return tidy(textOf(formula)) || (attributeOf(formula, 'aria-label') ?? '')
}

function mathmlIn(element: Element): Element | null {
  if (element.namespace === 'math') return element
  for (const child of element.children) {
    const found = typeof child === 'string' ? null : mathmlIn(child)
    if (found !== null) return found
  }
  return null
}

function tidy(text: string): string {
  return text
    .replaceAll(LETTERS, (letter) => letter.normalize('NFKC'))
    .replaceAll(/ {2,}/g, ' ')
    .trim()
}

function textOf(element: Element): string {
  const parts = element.children.map((child) =>
    typeof child === 'string' ? characters(child) : textOf(child),
  )
  // Ignore white space between MathML elements, and the lines that MathJax draws.
  const [base = '', second = '', third = ''] = parts.filter(
    (part, i) =>
      part !== '' || (element.namespace === 'math' && typeof element.children[i] !== 'string'),
  )
  const shown = parts.filter((part) => part !== '')
  switch (roleOf(element)) {
    case 'annotation':
    case 'annotation-xml':
    case 'mphantom':
      return ''
    case 'mspace':
      return ' '
    case 'mi':
    case 'mo':
    case 'ms':
    case 'mtext': {
      const text = parts.join('')
      return /^\p{L}{2}/u.test(text) ? ` ${text} ` : text
    }
    case 'msup':
    case 'mover':
      return base + raised('^', second)
    case 'msub':
    case 'munder':
      return base + raised('_', second)
    case 'msubsup':
    case 'munderover':
      return base + raised('_', second) + raised('^', third)
    case 'mfrac':
      return second === '' ? base : `${grouped(base)}/${grouped(second)}`
    case 'msqrt':
      return `√${grouped(parts.join(''))}`
    case 'mroot':
      return `√[${second}]${grouped(base)}`
    case 'mfenced':
      return (
        (attributeOf(element, 'open') ?? '(') +
        shown.join(',') +
        (attributeOf(element, 'close') ?? ')')
      )
    case 'mtable':
      return shown.join('; ')
    case 'mtr':
    case 'mlabeledtr':
      return shown.join(' ')
    default:
      return glyphOf(element) + parts.join('')
  }
}

/** The name of the MathML element that this is, or that MathJax rendered it from. */
function roleOf(element: Element): string {
  if (element.namespace === 'math') return element.name
  return attributeOf(element, 'data-mml-node') ?? element.name.replace(/^mjx-/, '')
}

/** The character of a MathJax glyph, which holds a code point. */
function glyphOf(element: Element): string {
  if (element.namespace === 'math' || element.attributes.length === 0) return ''
  const drawn = element.name === 'mjx-c' ? attributeOf(element, 'class') : null
  const [, hex] = /\bmjx-c([\dA-F]{2,6})\b/.exec(drawn ?? '') ?? []
  const code = Number.parseInt(attributeOf(element, 'data-c') ?? hex ?? '', 16)
  return code > 0x1f && code <= 0x10ffff ? characters(String.fromCodePoint(code)) : ''
}

/**
 * Drops the invisible operators U+2061 to U+2064; function application becomes a space ("sin x").
 */
function characters(text: string): string {
  return text
    .replaceAll(/^[\t\n\f\r ]+|[\t\n\f\r ]+$/g, '')
    .replaceAll('\u2061', ' ')
    .replaceAll(/[\u2062-\u2064]/g, '')
}

function raised(sign: '^' | '_', text: string): string {
  if (text.trim() === '') return ''
  return /^[′″‴'°]+$/.test(text) ? text : sign + grouped(text)
}

/** Adds parentheses unless the text is one number or one character. */
function grouped(text: string): string {
  const bare = text.trim()
  return /^(?:[\d.,]+|.)$/su.test(bare) ? bare : `(${bare})`
}
