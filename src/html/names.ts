// How the tree treats each element, from the lists in HTML, 13.2.4 and 13.2.6. A name stands for the
// HTML element. The key of an SVG or MathML element is its namespace and its name: "svg title".
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
}
type Kind = keyof typeof KINDS | 'other'

/** The set of the names in a text. */
export const words = (names: string): ReadonlySet<string> => new Set(names.split(' '))

const byWord = <Value extends string>(lists: Readonly<Partial<Record<Value, string>>>) =>
  new Map(
    Object.entries<string>(lists as Record<Value, string>).flatMap(([value, names]) =>
      names.split(' ').map((name) => [name, value as Value] as const),
    ),
  )

const kinds = byWord<Kind>(KINDS)

export function kindOf(key: string): Kind {
  return kinds.get(key) ?? 'other'
}

/** The mode in which this part of a table may start. */
export const OUTER_MODES = byWord<Mode>({
  table: 'caption colgroup tbody tfoot thead',
  columns: 'col',
  rows: 'tr',
  row: 'td th',
})
/** The mode for the content; other elements inherit it. */
export const INNER_MODES = byWord<Mode>({
  ...{ head: 'head', body: 'body', template: 'template', table: 'table', caption: 'caption' },
  ...{ columns: 'colgroup', rows: 'tbody tfoot thead', row: 'tr', cell: 'td th' },
})
export const RAW_TEXTS = byWord<RawText>({
  references: 'textarea title',
  script: 'script',
  rest: 'plaintext',
  text: 'iframe noembed noframes noscript style xmp',
})

/** MathML elements that may contain text and most HTML elements. */
export const MATH_TEXTS = new Set(['math mi', 'math mo', 'math mn', 'math ms', 'math mtext'])
/** SVG elements that may contain any HTML. */
export const SVG_HTML = new Set(['svg foreignobject', 'svg desc', 'svg title'])
const MIXED = [...MATH_TEXTS, ...SVG_HTML, 'math annotation-xml']

/** The scopes that limit a search for an open element (HTML, 13.2.4.2). */
const BOUNDS = [
  ...words('applet caption html marquee object select table td template th'),
  ...MIXED,
]
export const SCOPE: ReadonlySet<string> = new Set(BOUNDS)
export const ITEM_SCOPE: ReadonlySet<string> = new Set([...BOUNDS, 'ol', 'ul'])
export const BUTTON_SCOPE: ReadonlySet<string> = new Set([...BOUNDS, 'button'])
export const TABLE_SCOPE = words('html table template')

const ORDINARY = words('formatting foreign link nobr option ruby')
/** End tags of other elements and formatting have no effect across these elements. */
export const SPECIAL: ReadonlySet<string> = new Set([
  ...[...kinds]
    .filter(([name, kind]) => !ORDINARY.has(kind) && name !== 'dialog')
    .map(([name]) => name),
  ...MIXED,
])
/** The next item of a list ends the last one, except across these elements. */
export const ITEM_BOUNDS: ReadonlySet<string> = new Set(
  [...SPECIAL].filter((name) => !['address', 'div', 'p'].includes(name)),
)
/** The end tag may be omitted; it is then implied (HTML, 13.2.6.3). */
export const END_OPTIONAL = words('dd dt li optgroup option p rb rp rt rtc')
/** Allowed in the <head>. */
export const METADATA = words(
  'base basefont bgsound link meta noframes noscript script style template title',
)
/** Text and most elements are not allowed directly inside: they are moved before the table. */
export const TABLE_INSIDES = words('table tbody tfoot thead tr')
/** These are allowed there. */
export const TABLE_CONTENT = words(
  'caption col colgroup form script style tbody td template tfoot th thead tr',
)
/** May have a declarative shadow tree (DOM, 4.9). */
export const SHADOW_HOSTS = words(
  'article aside blockquote body div footer h1 h2 h3 h4 h5 h6 header main nav p section span',
)
/** The start tag ends SVG and MathML (HTML, 13.2.6.5). */
export const ENDS_FOREIGN = words(
  'b big blockquote body br center code dd div dl dt em embed h1 h2 h3 h4 h5 h6 head hr i img li ' +
    'listing menu meta nobr ol p pre ruby s small span strong strike sub sup table tt u ul var',
)

const EMPTY = words('input metadata raw rawBlock rule void')
/** Whether an HTML element contains no elements. */
export const isEmpty = (name: string): boolean => EMPTY.has(kindOf(name)) || name === 'col'

const REOPENING = words('button embedded foreign input option other rawBlock select void')
/** Whether formatting that a block has interrupted goes on in this element. */
export const reopensFormatting = (name: string): boolean => REOPENING.has(kindOf(name))

const INLINE = words('foreign formatting input link metadata nobr other raw ruby template void')
const BOXES = words('audio br canvas embed iframe img legend svg textarea video')
/** Whether it is rendered as a block (HTML, 15.3) or a box, so that it separates words. */
export const isBlock = (name: string): boolean => !INLINE.has(kindOf(name)) || BOXES.has(name)
