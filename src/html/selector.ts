// CSS selectors: names, classes, ids, attributes, `:not()`, `:nth-child()` and its relatives, and
// the descendant and child combinators. This is the set that Workers' HTMLRewriter supports;
// selectors that need a browser (`:hover`, `::before`) are rejected.
import { attributeOf, type Element } from './node.ts'

export type Selector = (element: Element) => boolean

/**
 * Parses a selector list. Empty items are ignored.
 *
 * @returns the selectors in order; null if the text is not a valid selector list
 */
export function parseSelectors(text: string): Selector[] | null {
  const source = new Source(text)
  const selectors = readList(source)
  return selectors.length > 0 && source.isAtEnd ? selectors : null
}

const ESCAPE = String.raw`\\(?:[\da-fA-F]{1,6}\s?|[^\n\da-fA-F])`
const LETTER = String.raw`(?:[\w\u0080-\uffff-]|${ESCAPE})`
const IDENT = String.raw`(?:-{0,2}(?:[a-zA-Z_\u0080-\uffff]|${ESCAPE})${LETTER}*)`
const STRING = String.raw`"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'`
const SPACE = /\s*/y
const COMMA = /\s*,\s*/y
const COMBINATOR = /(?:\s*>\s*|\s+)(?=[^\s,)>])/y
const NAME = new RegExp(String.raw`\*|${IDENT}`, 'y')
const CLASS_OR_ID = new RegExp(String.raw`\.(${IDENT})|#(${LETTER}+)`, 'y')
const ATTRIBUTE = new RegExp(
  String.raw`\[\s*(${IDENT})\s*(?:([~|^$*]?=)\s*(${STRING}|${IDENT})\s*([isIS])?\s*)?\]`,
  'y',
)
const NOT = /:not\(\s*/iy
const END = /\s*\)/y
const POSITION =
  /:(?:first-(child|of-type)(?![\w(-])|nth-(child|of-type)\(\s*(odd|even|[+-]?\d*n(?:\s*[+-]\s*\d+)?|[+-]?\d+)\s*\))/iy

class Source {
  readonly #text: string
  #at = 0

  constructor(text: string) {
    this.#text = text
  }

  get isAtEnd(): boolean {
    return this.#at === this.#text.length
  }

  /** Makes every later `take` return null, so that the whole list is invalid. */
  fail(): void {
    this.#at = -1
  }

  /** Consumes the pattern at the current position; null if it does not match there. */
  take(pattern: RegExp): RegExpExecArray | null {
    if (this.#at === -1) return null
    pattern.lastIndex = this.#at
    const found = pattern.exec(this.#text)
    if (found !== null) this.#at = pattern.lastIndex
    return found
  }
}

function readList(source: Source): Selector[] {
  const selectors: Selector[] = []
  source.take(SPACE)
  do {
    const selector = readSelector(source)
    if (selector !== null) selectors.push(selector)
  } while (source.take(COMMA) !== null)
  source.take(SPACE)
  return selectors
}

/** Compound selectors with the combinators between them; null if no selector starts here. */
function readSelector(source: Source): Selector | null {
  let selector: Selector | null = null
  let combinator: RegExpExecArray | null = null
  do {
    const compound = readCompound(source)
    if (compound === null) return null
    selector =
      selector === null ? compound : combine(selector, combinator?.[0].includes('>'), compound)
    combinator = source.take(COMBINATOR)
  } while (combinator !== null)
  return selector
}

function combine(outer: Selector, isChild: boolean | undefined, inner: Selector): Selector {
  return (element) => {
    if (!inner(element)) return false
    let { parent } = element
    while (!isChild && parent !== null && !outer(parent)) parent = parent.parent
    return parent !== null && outer(parent)
  }
}

function readCompound(source: Source): Selector | null {
  const tests: Selector[] = []
  const name = unescaped(source.take(NAME)?.[0] ?? '').toLowerCase()
  if (name !== '') tests.push((element) => name === '*' || element.name === name)
  for (let test = readTest(source); test !== null; test = readTest(source)) tests.push(test)
  return tests.length === 0 ? null : (element) => tests.every((test) => test(element))
}

function readTest(source: Source): Selector | null {
  const simple = source.take(CLASS_OR_ID)
  if (simple !== null) {
    const [, className, id] = simple
    return className === undefined
      ? byAttribute('id', '=', unescaped(id ?? ''), false)
      : byAttribute('class', '~=', unescaped(className), false)
  }
  const attribute = source.take(ATTRIBUTE)
  if (attribute !== null) {
    const [, name = '', operator = '', value = '', flag = ''] = attribute
    const bare = unescaped(/^["']/.test(value) ? value.slice(1, -1) : value)
    return byAttribute(unescaped(name).toLowerCase(), operator, bare, flag.toLowerCase() === 'i')
  }
  const position = source.take(POSITION)
  if (position !== null) {
    const [, first, nth, formula = '1'] = position
    return byPosition((first ?? nth ?? '').toLowerCase() === 'child', formula.toLowerCase())
  }
  if (source.take(NOT) === null) return null
  const selectors = readList(source)
  if (selectors.length === 0 || source.take(END) === null) {
    source.fail()
    return null
  }
  return (element) => !selectors.some((selector) => selector(element))
}

function unescaped(text: string): string {
  return text.replace(/\\(?:([\da-f]{1,6})\s?|(.))/gi, (_, hex?: string, character = '') =>
    hex === undefined ? character : String.fromCodePoint(Number.parseInt(hex, 16) % 0x110000),
  )
}

function byAttribute(
  name: string,
  operator: string,
  expected: string,
  ignoresCase: boolean,
): Selector {
  const fold = (text: string) => (ignoresCase ? text.toLowerCase() : text)
  const isMatch = COMPARISONS[operator] ?? (() => true)
  const folded = fold(expected)
  return (element) => {
    const value = attributeOf(element, name)
    return value !== null && isMatch(fold(value), folded)
  }
}

/** By operator. Without one, the attribute may have any value. */
const COMPARISONS: Readonly<Record<string, (value: string, expected: string) => boolean>> = {
  '=': (value, expected) => value === expected,
  '~=': (value, expected) =>
    value.includes(expected) && value.split(/[\t\n\f\r ]+/).includes(expected),
  '|=': (value, expected) => value === expected || value.startsWith(`${expected}-`),
  '^=': (value, expected) => expected !== '' && value.startsWith(expected),
  '$=': (value, expected) => expected !== '' && value.endsWith(expected),
  '*=': (value, expected) => expected !== '' && value.includes(expected),
}

function byPosition(isAmongAll: boolean, formula: string): Selector {
  const [step, offset] = stepsOf(formula)
  // Count each parent's children once only: counting per child would be quadratic.
  const cache = new WeakMap<Element, ReadonlyMap<Element, number>>()
  return (element) => {
    const { parent } = element
    if (parent === null) return false
    let positions = cache.get(parent)
    if (positions === undefined) {
      positions = positionsIn(parent, isAmongAll)
      cache.set(parent, positions)
    }
    const from = (positions.get(element) ?? 0) - offset
    return step === 0 ? from === 0 : from % step === 0 && from / step >= 0
  }
}

/** Reads `An+B` as A and B. */
function stepsOf(formula: string): [number, number] {
  if (formula === 'odd') return [2, 1]
  if (formula === 'even') return [2, 0]
  const [, step, offset = '0'] = /^(?:([+-]?\d*)n)?\s*([+-]?\s*\d+)?$/.exec(formula) ?? []
  const whole = Number(offset.replaceAll(/\s/g, ''))
  if (step === undefined) return [0, whole]
  return [/\d/.test(step) ? Number(step) : Number(`${step}1`), whole]
}

/** The positions of the children, from 1, among all siblings or those with the same name. */
function positionsIn(parent: Element, isAmongAll: boolean): ReadonlyMap<Element, number> {
  const counts = new Map<string, number>()
  const positions = new Map<Element, number>()
  for (const child of parent.children) {
    if (typeof child === 'string') continue
    const group = isAmongAll ? '' : child.name
    const position = (counts.get(group) ?? 0) + 1
    counts.set(group, position)
    positions.set(child, position)
  }
  return positions
}
