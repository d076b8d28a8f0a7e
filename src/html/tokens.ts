// HTML tokenizer (HTML, 13.2.5): passes the tags and text of a document to a sink, in order. It
// visits each character a constant number of times, so it runs in linear time on any input.
// Comments and anything else that browsers drop are not reported.
import { decodeReferences } from './references.ts'

/** Name, value, name, value, …: names in lower case, values with their references not decoded. */
export type Attributes = readonly string[]

/** Element content that is not markup and extends to the end tag. */
export type RawText =
  /** Text with character references. */
  | 'references'
  | 'text'
  | 'script'
  /** Extends to the end of the document (`<plaintext>`). */
  | 'rest'

export interface Sink {
  /** Whether the current node is SVG or MathML, the only place for CDATA sections. */
  readonly isForeign: boolean
  doctype(): void
  /** @returns the kind of raw text that the element contains; null for markup */
  startTag(name: string, attributes: Attributes, isSelfClosing: boolean): RawText | null
  endTag(name: string): void
  text(text: string): void
  /** The content of the element that has just started. Its end tag is not reported. */
  rawText(text: string): void
}

interface Tag {
  readonly name: string
  readonly attributes: Attributes
  readonly isSelfClosing: boolean
}

/** Calls the sink for each tag and piece of text in the document. */
export function tokenize(source: string, sink: Sink): void {
  new Tokenizer(source, sink).run()
}

const CDATA = '<![CDATA['
/** The start of a tag, with its slash, or of anything that browsers treat as a comment. */
const MARKUP = /<(?:(\/?)[a-z]|[!?]|\/.)/gis
const TAG_NAME = /[^\t\n\f\r />]+/y
const SPACE = String.raw`[\t\n\f\r ]*`
/** A quoted value may extend to the end of the document. */
const VALUE = String.raw`"([^"]*)(?:"|$)|'([^']*)(?:'|$)|([^\t\n\f\r >]*)`
/** The ">" of a tag, or an attribute; its name may begin with "=". */
const ATTRIBUTE = new RegExp(
  String.raw`([\t\n\f\r /]*)(?:>|([^\t\n\f\r />][^\t\n\f\r />=]*)(?:${SPACE}=${SPACE}(?:${VALUE}))?)`,
  'y',
)

const SCRIPT_TAG = /<!--|-->|<\/?script(?=[\t\n\f\r />])/gi
const endTags = new Map<string, RegExp>()

function endTagOf(name: string): RegExp {
  const cached = endTags.get(name)
  if (cached !== undefined) return cached
  const pattern = new RegExp(`</${name}(?=[\\t\\n\\f\\r />])`, 'gi')
  endTags.set(name, pattern)
  return pattern
}

class Tokenizer {
  readonly #source: string
  readonly #sink: Sink
  /** Everything before this index has been reported. */
  #at = 0

  constructor(source: string, sink: Sink) {
    this.#source = source
    this.#sink = sink
  }

  run(): void {
    for (let found = this.#match(MARKUP); found !== null; found = this.#match(MARKUP)) {
      const { index, 1: slash } = found
      this.#textUntil(index)
      if (slash === undefined) this.#declaration(index)
      else if (slash === '') this.#startTag(index + 1)
      else {
        const tag = this.#tag(index + 2)
        if (tag !== null) this.#sink.endTag(tag.name)
      }
    }
    this.#textUntil(this.#source.length)
  }

  #match(pattern: RegExp): RegExpExecArray | null {
    pattern.lastIndex = this.#at
    return pattern.exec(this.#source)
  }

  /** Matches a sticky pattern and continues after it. */
  #take(pattern: RegExp): RegExpExecArray | null {
    const found = this.#match(pattern)
    if (found !== null) this.#at = pattern.lastIndex
    return found
  }

  #textUntil(end: number): void {
    if (end > this.#at) this.#sink.text(decodeReferences(this.#source.slice(this.#at, end)))
    this.#at = end
  }

  /**
   * Reads a comment, a doctype, a CDATA section, or anything else that browsers treat as a comment.
   */
  #declaration(open: number): void {
    const source = this.#source
    if (source.startsWith('<!--', open)) {
      // "<!-->" and "<!--->" are complete comments.
      const [short] = /^-?>/.exec(source.slice(open + 4, open + 6)) ?? []
      this.#at = short === undefined ? this.#endOf(/--!?>/g, open + 4) : open + 4 + short.length
    } else if (this.#sink.isForeign && source.startsWith(CDATA, open)) {
      this.#at = this.#endOf(/\]\]>/g, open)
      const text = source.slice(open + CDATA.length, this.#at).replace(/\]\]>$/, '')
      if (text !== '') this.#sink.text(text)
    } else {
      this.#at = this.#endOf(/>/g, open + 2)
      if (/^<!doctype/i.test(source.slice(open, open + 9))) this.#sink.doctype()
    }
  }

  /** The index after the first match; without one, the end of the document. */
  #endOf(pattern: RegExp, from: number): number {
    pattern.lastIndex = from
    return pattern.test(this.#source) ? pattern.lastIndex : this.#source.length
  }

  #startTag(from: number): void {
    const tag = this.#tag(from)
    if (tag === null) return
    const raw = this.#sink.startTag(tag.name, tag.attributes, tag.isSelfClosing)
    if (raw === null) return
    const start = this.#at
    const end = this.#rawEnd(tag.name, raw)
    if (end > start) {
      const text = this.#source.slice(start, end)
      this.#sink.rawText(raw === 'references' ? decodeReferences(text) : text)
    }
    this.#at = end
    if (end < this.#source.length) this.#tag(end + 2)
  }

  /** The index of the end tag; without one, the end of the document. */
  #rawEnd(name: string, raw: RawText): number {
    const source = this.#source
    if (raw === 'rest') return source.length
    const tags = raw === 'script' ? SCRIPT_TAG : endTagOf(name)
    tags.lastIndex = this.#at
    // After "<!--" and "<script", the next "</script" does not end it (HTML, 13.2.5.17 to
    // 13.2.5.31).
    let depth = 0
    for (let found = tags.exec(source); found !== null; found = tags.exec(source)) {
      const [tag] = found
      if (tag === '<!--') {
        depth ||= 1
        // "<!-->": its dashes also belong to "-->".
        tags.lastIndex -= 2
      } else if (tag === '-->') depth = 0
      else if (tag[1] !== '/') depth &&= 2
      else if (depth === 2) depth = 1
      else return found.index
    }
    return source.length
  }

  /** Reads a tag from its name through its ">"; null if the document ends before that. */
  #tag(from: number): Tag | null {
    this.#at = from
    const [name = ''] = this.#take(TAG_NAME) ?? []
    const attributes: string[] = []
    for (let next = this.#take(ATTRIBUTE); next !== null; next = this.#take(ATTRIBUTE)) {
      const [, before = '', key, double, single, bare = ''] = next
      if (key === undefined) {
        return { name: name.toLowerCase(), attributes, isSelfClosing: before.endsWith('/') }
      }
      attributes.push(key.toLowerCase(), double ?? single ?? bare)
    }
    this.#at = this.#source.length
    return null
  }
}
