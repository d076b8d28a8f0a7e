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

/** Calls the sink for each tag and piece of text in the document. */
export function tokenize(source: string, sink: Sink): void {
  new Tokenizer(source, sink).run()
}

const NONE: string[] = []
const CDATA = '<![CDATA['
const SLASH = 0x2f
const EQUALS = 0x3d
const GREATER = 0x3e

const SCRIPT_TAG = /<!--|-->|<\/?script(?=[\t\n\f\r />])/gi
const endTags = new Map<string, RegExp>()

function endTagOf(name: string): RegExp {
  const cached = endTags.get(name)
  if (cached !== undefined) return cached
  const pattern = new RegExp(`</${name}(?=[\\t\\n\\f\\r />])`, 'gi')
  endTags.set(name, pattern)
  return pattern
}

function isLetter(code: number): boolean {
  const lower = code | 0x20
  return lower >= 0x61 && lower <= 0x7a
}

function isSpace(code: number): boolean {
  return code === 0x20 || (code >= 0x09 && code <= 0x0d && code !== 0x0b)
}

/** Also true at the end of the document, where `charCodeAt` returns NaN. */
function endsName(code: number): boolean {
  return isSpace(code) || code === SLASH || code === GREATER || Number.isNaN(code)
}

class Tokenizer {
  readonly #source: string
  readonly #sink: Sink
  /** Everything before this index has been reported. */
  #at = 0
  /** The attributes of the tag that was read last. */
  #attributes: string[] = NONE
  #isSelfClosing = false

  constructor(source: string, sink: Sink) {
    this.#source = source
    this.#sink = sink
  }

  run(): void {
    const source = this.#source
    let open = source.indexOf('<')
    while (open !== -1) {
      const first = source.charCodeAt(open + 1)
      let next = open + 1
      if (isLetter(first)) {
        this.#textUntil(open)
        this.#startTag(open + 1)
        next = this.#at
      } else if (first === SLASH && isLetter(source.charCodeAt(open + 2))) {
        this.#textUntil(open)
        const name = this.#tag(open + 2)
        if (name !== null) this.#sink.endTag(name)
        next = this.#at
      } else if (/^<(?:[!?]|\/.)/s.test(source.slice(open, open + 3))) {
        this.#textUntil(open)
        this.#declaration(open)
        next = this.#at
      }
      open = source.indexOf('<', next)
    }
    this.#textUntil(source.length)
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
    const name = this.#tag(from)
    if (name === null) return
    const raw = this.#sink.startTag(name, this.#attributes, this.#isSelfClosing)
    if (raw === null) return
    const start = this.#at
    const end = this.#rawEnd(name, raw)
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

  /**
   * Reads a tag from its name through its ">".
   *
   * @returns its name; null if it is not closed, in which case the rest of the document is dropped
   */
  #tag(from: number): string | null {
    const source = this.#source
    this.#attributes = NONE
    let at = from
    while (!endsName(source.charCodeAt(at))) at += 1
    const name = source.slice(from, at).toLowerCase()
    while (at !== -1) {
      let code = source.charCodeAt(at)
      let slash = -1
      for (; isSpace(code) || code === SLASH; code = source.charCodeAt(++at)) {
        if (code === SLASH) slash = at
      }
      if (code === GREATER) {
        this.#isSelfClosing = slash !== -1 && slash === at - 1
        this.#at = at + 1
        return name
      }
      if (Number.isNaN(code)) break
      if (this.#attributes === NONE) this.#attributes = []
      at = this.#attribute(at)
    }
    this.#at = source.length
    return null
  }

  /** @returns the index after the attribute; -1 if the document ends within it */
  #attribute(from: number): number {
    const source = this.#source
    // A leading "=" is part of the name.
    let at = from + 1
    for (let code = source.charCodeAt(at); !endsName(code) && code !== EQUALS; ) {
      code = source.charCodeAt(++at)
    }
    const name = source.slice(from, at).toLowerCase()
    let next = at
    while (isSpace(source.charCodeAt(next))) next += 1
    if (source.charCodeAt(next) !== EQUALS) {
      this.#attributes.push(name, '')
      return at
    }
    next += 1
    while (isSpace(source.charCodeAt(next))) next += 1
    const quote = source[next]
    if (quote === '"' || quote === "'") {
      const end = source.indexOf(quote, next + 1)
      if (end === -1) return -1
      this.#attributes.push(name, source.slice(next + 1, end))
      return end + 1
    }
    let end = next
    for (let code = source.charCodeAt(end); !isSpace(code) && code !== GREATER; ) {
      if (Number.isNaN(code)) return -1
      code = source.charCodeAt(++end)
    }
    this.#attributes.push(name, source.slice(next, end))
    return end
  }
}
