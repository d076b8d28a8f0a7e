// The tree construction rules for each element name, from the lists in HTML, 13.2.4 and 13.2.6.
import type { RawText } from './tokens.ts'

/** The insertion mode (HTML, 13.2.4.1): the part of the document that is being built. */
export type Mode =
  | 'head'
  | 'body'
  | 'template'
  | 'table'
  | 'caption'
  | 'columns'
  | 'rows'
  | 'row'
  | 'cell'

/** Groups of element names that the "in body" rules treat alike. */
const KINDS = {
  block:
    'address article aside blockquote center details dialog dir div dl fieldset figcaption figure ' +
    'footer header hgroup listing main menu nav ol pre search section summary ul',
  paragraph: 'p',
  heading: 'h1 h2 h3 h4 h5 h6',
  form: 'form',
  item: 'li dd dt',
  button: 'button',
  link: 'a',
  formatting: 'b big code em font i s small strike strong tt u',
  nobr: 'nobr',
  embedded: 'applet marquee object',
  table: 'table',
  void: 'area br embed img image keygen wbr',
  metadata: 'base basefont bgsound link meta param source track',
  input: 'input',
  rule: 'hr',
  raw: 'iframe noembed noframes noscript script style textarea title',
  rawBlock: 'xmp plaintext',
  select: 'select',
  option: 'option optgroup',
  ruby: 'rb rp rt rtc',
  foreign: 'math svg',
  tablePart: 'caption col colgroup frame frameset head tbody td tfoot th thead tr',
  root: 'html body',
  template: 'template',
  other: 'audio canvas legend ruby span sub sup var video',
}
type Kind = keyof typeof KINDS

/** The scopes that limit a search for an open element (HTML, 13.2.4.2): bits of `Rules.scopes`. */
export const SCOPE = 1
export const ITEM_SCOPE = 2
export const BUTTON_SCOPE = 4
export const TABLE_SCOPE = 8

export interface Rules {
  /** One shared string per name, which makes comparisons fast; "" for names not listed here. */
  readonly name: string
  readonly kind: Kind
  /** The scopes that this element is a boundary of. */
  readonly scopes: number
  /** End tags of other elements and formatting have no effect across this element. */
  readonly isSpecial: boolean
  /** Rendered as a block (HTML, 15.3) or a box, so it separates the words before and after it. */
  readonly isBlock: boolean
  /** The end tag may be omitted; it is then implied (HTML, 13.2.6.3). */
  readonly isEndOptional: boolean
  /** Allowed in the <head>. */
  readonly isMetadata: boolean
  /** Contains no elements. */
  readonly isEmpty: boolean
  /** Formatting that a block has interrupted goes on in it. */
  readonly reopensFormatting: boolean
  /** Text and most elements are not allowed directly inside: they are moved before the table. */
  readonly isTableInside: boolean
  /** May have a declarative shadow tree (DOM, 4.9). */
  readonly isShadowHost: boolean
  /** The start tag ends SVG and MathML (HTML, 13.2.6.5). */
  readonly endsForeign: boolean
  /** The mode in which this part of a table may start. */
  readonly outerMode: Mode | null
  /** The mode for the content. */
  readonly innerMode: Mode | null
  /** The kind of raw text it contains; null for markup. */
  readonly raw: RawText | null
  /**
   * The HTML that this SVG or MathML element may contain: text and most elements, anything, or only
   * an <svg>; null if it may contain no HTML.
   */
  readonly html: 'text' | 'any' | 'svg' | null
}

/** The set of the names in a text. */
export const words = (names: string): ReadonlySet<string> => new Set(names.split(' '))

const ORDINARY = words('formatting foreign link nobr option other ruby')
const INLINE = words('foreign formatting input link metadata nobr other raw ruby template void')
const EMPTY = words('input metadata raw rawBlock rule void')
const REOPENING = words('button embedded foreign input option other rawBlock select void')
const BOXES = words('audio br canvas embed iframe img legend svg textarea video')
const BOUNDS = words('applet caption html marquee object select table td template th')
const TABLE_BOUNDS = words('html table template')
const END_OPTIONAL = words('dd dt li optgroup option p rb rp rt rtc')
const METADATA = words(
  'base basefont bgsound link meta noframes noscript script style template title',
)
const TABLE_INSIDES = words('table tbody tfoot thead tr')
const SHADOW_HOSTS = words(
  'article aside blockquote body div footer h1 h2 h3 h4 h5 h6 header main nav p section span',
)
const BREAKOUT = words(
  'b big blockquote body br center code dd div dl dt em embed h1 h2 h3 h4 h5 h6 head hr i img li ' +
    'listing menu meta nobr ol p pre ruby s small span strong strike sub sup table tt u ul var',
)

const byWord = <Value extends string>(lists: Readonly<Record<Value, string>>) =>
  new Map(
    Object.entries<string>(lists).flatMap(([value, names]) =>
      names.split(' ').map((name) => [name, value as Value] as const),
    ),
  )

const OUTER_MODES = byWord({
  table: 'caption colgroup tbody tfoot thead',
  columns: 'col',
  rows: 'tr',
  row: 'td th',
})
const INNER_MODES = byWord({
  ...{ head: 'head', body: 'body', table: 'table', caption: 'caption', columns: 'colgroup' },
  ...{ rows: 'tbody tfoot thead', row: 'tr', cell: 'td th' },
})
const RAW_TEXTS = byWord({
  references: 'textarea title',
  script: 'script',
  rest: 'plaintext',
  text: 'iframe noembed noframes noscript style xmp',
})

function listedRules(name: string, kind: Kind): Rules {
  return {
    name,
    kind,
    scopes:
      (BOUNDS.has(name) ? SCOPE | ITEM_SCOPE | BUTTON_SCOPE : 0) |
      (name === 'ol' || name === 'ul' ? ITEM_SCOPE : 0) |
      (name === 'button' ? BUTTON_SCOPE : 0) |
      (TABLE_BOUNDS.has(name) ? TABLE_SCOPE : 0),
    isSpecial: !ORDINARY.has(kind) && name !== 'dialog',
    isBlock: !INLINE.has(kind) || BOXES.has(name),
    isEndOptional: END_OPTIONAL.has(name),
    isMetadata: METADATA.has(name),
    isEmpty: EMPTY.has(kind) || name === 'col',
    reopensFormatting: REOPENING.has(kind),
    isTableInside: TABLE_INSIDES.has(name),
    isShadowHost: SHADOW_HOSTS.has(name),
    endsForeign: BREAKOUT.has(name),
    outerMode: OUTER_MODES.get(name) ?? null,
    innerMode: INNER_MODES.get(name) ?? null,
    raw: RAW_TEXTS.get(name) ?? null,
    html: null,
  }
}

const LISTED: ReadonlyMap<string, Rules> = new Map(
  [...byWord(KINDS)].map(([name, kind]) => [name, listedRules(name, kind)]),
)
const UNLISTED = listedRules('', 'other')

/** The rules for an HTML element. */
export function rulesOf(name: string): Rules {
  return LISTED.get(name) ?? UNLISTED
}

const mixed = (html: Rules['html']): Rules => {
  return { ...UNLISTED, html, isSpecial: true, scopes: SCOPE | ITEM_SCOPE | BUTTON_SCOPE }
}
const TEXT = mixed('text')
const ANY = mixed('any')
const SVG = mixed('svg')
const MATH_TEXT = words('mi mo mn ms mtext')
const SVG_HTML = words('foreignobject desc title')

/**
 * The rules for an SVG or MathML element.
 *
 * @param encoding returns the value of the `encoding` attribute
 */
export function foreignRulesOf(
  name: string,
  namespace: 'svg' | 'math',
  encoding: () => string,
): Rules {
  if (namespace === 'svg') return SVG_HTML.has(name) ? ANY : UNLISTED
  if (name !== 'annotation-xml') return MATH_TEXT.has(name) ? TEXT : UNLISTED
  return /^(?:text\/html|application\/xhtml\+xml)$/i.test(encoding()) ? ANY : SVG
}
