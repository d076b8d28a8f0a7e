// HTML tokenizer (HTML, 13.2.5): passes the tags and text of a document to a sink, in order. It
// visits each character a constant number of times, so it runs in linear time on any input.
// Comments and anything else that browsers drop are not reported.
import { decodeReferences, type References } from './references.ts'

/**
 * Name, value, name, value, …: each name once and in lower case, values with their references
 * decoded.
 */
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

/**
 * The limits of a tag. A formatting element may be reopened thousands of times, and its attributes
 * are read each time.
 */
const MAX_ATTRIBUTES = 256
const MAX_VALUE_CHARS = 4096

const CDATA = '<![CDATA['
const LETTER = /[a-z]/i
const NAME = /[^\t\n\f\r />]*/y
const GAP = /[\t\n\f\r /]*/y
/** The first character of an attribute's name may be "=". */
const KEY = /[^\t\n\f\r />][^\t\n\f\r />=]*/y
const EQUALS = /(?:[\t\n\f\r ]*=[\t\n\f\r ]*)?/y
const BARE_VALUE = /[^\t\n\f\r >]*/y

const SCRIPT_TAG = /<!--|-->|<\/?script(?=[\t\n\f\r />])/gi

export class Tokenizer {
  readonly #source: string
  readonly #references: References
  readonly #sink: Sink
  /** Everything before this index has been reported. */
  #at = 0

  constructor(source: string, references: References, sink: Sink) {
    this.#source = source
    this.#references = references
    this.#sink = sink
  }

  /** Calls the sink for each tag and piece of text in the document. */
  run(): void {
    const source = this.#source
    let open = source.indexOf('<')
    while (open !== -1) {
      const isEnd = source[open + 1] === '/'
      const from = isEnd ? open + 2 : open + 1
      const first = source[from] ?? ''
      if (LETTER.test(first)) {
        this.#textUntil(open)
        const tag = this.#tag(from)
        if (tag !== null && isEnd) this.#sink.endTag(tag.name)
        else if (tag !== null) this.#startTag(tag)
      } else if (first === '!' || first === '?' || (isEnd && first !== '')) {
        this.#textUntil(open)
        this.#declaration(open)
      }
      open = source.indexOf('<', Math.max(from, this.#at))
    }
    this.#textUntil(source.length)
  }

  #textUntil(end: number): void {
    if (end > this.#at) this.#sink.text(this.#decoded(this.#source.slice(this.#at, end)))
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

  #startTag({ name, attributes, isSelfClosing }: Tag): void {
    const raw = this.#sink.startTag(name, attributes, isSelfClosing)
    if (raw === null) return
    const start = this.#at
    const end = this.#rawEnd(name, raw)
    if (end > start) {
      const text = this.#source.slice(start, end)
      this.#sink.rawText(raw === 'references' ? this.#decoded(text) : text)
    }
    this.#at = end
    if (end < this.#source.length) this.#tag(end + 2)
  }

  /** The index of the end tag; without one, the end of the document. */
  #rawEnd(name: string, raw: RawText): number {
    const source = this.#source
    if (raw === 'rest') return source.length
    const tags = raw === 'script' ? SCRIPT_TAG : new RegExp(`</${name}(?=[\\t\\n\\f\\r />])`, 'gi')
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
    const source = this.#source
    let at = this.#endOf(NAME, from)
    const name = source.slice(from, at).toLowerCase()
    const attributes = new Map<string, string>()
    while (at < source.length) {
      const next = this.#endOf(GAP, at)
      if (source[next] === '>') {
        this.#at = next + 1
        return {
          name,
          attributes: [...attributes].flat(),
          isSelfClosing: next > at && source[next - 1] === '/',
        }
      }
      at = this.#attribute(next, attributes)
    }
    this.#at = source.length
    return null
  }

  /** Reads an attribute, and returns the index after it. */
  #attribute(from: number, attributes: Map<string, string>): number {
    const source = this.#source
    const end = this.#endOf(KEY, from)
    const name = source.slice(from, end).toLowerCase()
    const start = this.#endOf(EQUALS, end)
    const quote = source[start]
    if (start > end && (quote === '"' || quote === "'")) {
      const close = source.indexOf(quote, start + 1)
      this.#add(attributes, name, source.slice(start + 1, close))
      return close === -1 ? source.length : close + 1
    }
    const after = start > end ? this.#endOf(BARE_VALUE, start) : end
    this.#add(attributes, name, source.slice(start, after))
    return after
  }

  /** Of attributes with the same name, the first counts. */
  #add(attributes: Map<string, string>, name: string, value: string): void {
    if (attributes.size >= MAX_ATTRIBUTES || attributes.has(name)) return
    attributes.set(name, this.#decoded(value.slice(0, MAX_VALUE_CHARS), true))
  }

  #decoded(text: string, isAttribute = false): string {
    return decodeReferences(text, this.#references, isAttribute)
  }
}
