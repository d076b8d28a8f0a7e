// Selectors of CSS for the elements of a document: names, classes, ids, attributes, `:not()`, places
// among siblings, descendants and children. That is what Workers' HTMLRewriter has; what depends on a
// browser (`:hover`, `::before`) is not a selector here.
import { attributeOf, type Element } from './tree.ts'

export type Selector = (element: Element) => boolean

/**
 * The alternatives of a list, in order; empty ones are left out.
 *
 * @returns null if it is no list of selectors
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
const PLACE =
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

  /** Nothing can be read any more. */
  fail(): void {
    this.#at = -1
  }

  /** What matches here, which is then passed. */
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

/** Compounds and what joins them; null: there is none. */
function readSelector(source: Source): Selector | null {
  let selector: Selector | null = null
  let combinator: RegExpExecArray | null = null
  do {
    const compound = readCompound(source)
    if (compound === null) return null
    selector =
      selector === null ? compound : joined(selector, combinator?.[0].includes('>'), compound)
    combinator = source.take(COMBINATOR)
  } while (combinator !== null)
  return selector
}

function joined(outer: Selector, isChild: boolean | undefined, inner: Selector): Selector {
  return (element) => {
    if (!inner(element)) return false
    let parent = element.parent
    if (isChild) return parent !== null && outer(parent)
    while (parent !== null && !outer(parent)) parent = parent.parent
    return parent !== null
  }
}

function readCompound(source: Source): Selector | null {
  const tests: Selector[] = []
  const [name] = source.take(NAME) ?? []
  if (name !== undefined) tests.push(byName(unescaped(name).toLowerCase()))
  for (let test = readTest(source); test !== null; test = readTest(source)) tests.push(test)
  if (tests.length === 0) return null
  return (element) => tests.every((test) => test(element))
}

function byName(name: string): Selector {
  return name === '*' ? () => true : (element) => element.name === name
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
  const place = source.take(PLACE)
  if (place !== null) {
    const [, first, nth, formula = '1'] = place
    return byPlace((first ?? nth ?? '').toLowerCase() === 'child', formula.toLowerCase())
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
  wanted: string,
  ignoresCase: boolean,
): Selector {
  const folded = (text: string) => (ignoresCase ? text.toLowerCase() : text)
  const value = folded(wanted)
  const test = comparison(operator, value)
  return (element) => {
    const given = attributeOf(element, name)
    return given !== null && test(folded(given))
  }
}

function comparison(operator: string, value: string): (given: string) => boolean {
  switch (operator) {
    case '=':
      return (given) => given === value
    case '~=':
      return (given) => given.includes(value) && given.split(/[\t\n\f\r ]+/).includes(value)
    case '|=':
      return (given) => given === value || given.startsWith(`${value}-`)
    case '^=':
      return (given) => value !== '' && given.startsWith(value)
    case '$=':
      return (given) => value !== '' && given.endsWith(value)
    case '*=':
      return (given) => value !== '' && given.includes(value)
    default:
      return () => true
  }
}

function byPlace(isAmongAll: boolean, formula: string): Selector {
  const [step, offset] = stepsOf(formula)
  // Each parent's children are counted once.
  const places = new WeakMap<Element, ReadonlyMap<Element, number>>()
  return (element) => {
    const { parent } = element
    if (parent === null) return false
    let known = places.get(parent)
    if (known === undefined) {
      known = placesIn(parent, isAmongAll)
      places.set(parent, known)
    }
    const from = (known.get(element) ?? 0) - offset
    return step === 0 ? from === 0 : from % step === 0 && from / step >= 0
  }
}

/** `An+B` as A and B. */
function stepsOf(formula: string): [number, number] {
  if (formula === 'odd') return [2, 1]
  if (formula === 'even') return [2, 0]
  const [, step, offset = '0'] = /^(?:([+-]?\d*)n)?\s*([+-]?\s*\d+)?$/.exec(formula) ?? []
  const whole = Number(offset.replaceAll(/\s/g, ''))
  if (step === undefined) return [0, whole]
  return [/\d/.test(step) ? Number(step) : Number(`${step}1`), whole]
}

/** From 1, among all siblings or those of the same name. */
function placesIn(parent: Element, isAmongAll: boolean): ReadonlyMap<Element, number> {
  const counts = new Map<string, number>()
  const places = new Map<Element, number>()
  for (const child of parent.children) {
    if (typeof child === 'string') continue
    const group = isAmongAll ? '' : child.name
    const place = (counts.get(group) ?? 0) + 1
    counts.set(group, place)
    places.set(child, place)
  }
  return places
}
