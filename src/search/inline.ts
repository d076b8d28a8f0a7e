// The text of Markdown within a block: links, emphasis, tags and escapes are reduced to what they
// show. One pass with bounded patterns, so that any text takes linear time.
import { isBlock } from '../html/names.ts'
import { decodeReferences, type References } from '../html/references.ts'

const ESCAPE = String.raw`\\([!-/:-@[-\`{-~])`
/** A run of one to three backticks, and the next run of the same length. */
const CODE = String.raw`(?<!\`)(\`{1,3})(?!\`)([^]{1,1000}?)(?<!\`)\2(?!\`)`
const NOTE = String.raw`\[\^[^\]\s]{1,50}\]:?`
const OPENING = String.raw`!?\[`
/** The end of a link's text with its address, or its reference. */
const CLOSING = String.raw`\](?:\((?:[^()\n]|\([^()\n]{0,200}\)){0,2000}\)|\[[^[\]\n]{0,200}\])?`
const ADDRESS = String.raw`<((?:https?:|mailto:)[^\s<>]{1,2000})>`
const COMMENT = `<!--(?:(?!<!--|-->)[^]){0,2000}-->`
const TAG = String.raw`<\/?([A-Za-z][\w.-]{0,50})((?:\s[^<>]{0,2000})?)\/?>`
const EMPHASIS = String.raw`(?:\*{1,3}|_{1,3}|~~)`
const TOKEN = new RegExp(
  [ESCAPE, CODE, NOTE, `(${OPENING})`, `(${CLOSING})`, ADDRESS, COMMENT, TAG, `(${EMPHASIS})`].join(
    '|',
  ),
  'g',
)

/** The characters that every token, and every reference, begins with. */
const SPECIAL = /[\\`[\]!<*_~&]/

/** The text that a piece of Markdown shows. */
export function inlineText(source: string, references: References): string {
  return new Inline(source, references).read()
}

class Inline {
  readonly #source: string
  readonly #references: References
  readonly #out: string[] = []
  /** The places in the output of brackets that may begin a link. */
  readonly #brackets: number[] = []
  /** The places of emphasis that is open, by its sign. */
  readonly #emphasis = new Map<string, number>()

  constructor(source: string, references: References) {
    this.#source = source
    this.#references = references
  }

  read(): string {
    if (!SPECIAL.test(this.#source)) return this.#source
    let from = 0
    for (const token of this.#source.matchAll(TOKEN)) {
      this.#plain(this.#source.slice(from, token.index))
      this.#token(token)
      from = token.index + token[0].length
    }
    this.#plain(this.#source.slice(from))
    return this.#out.join('')
  }

  #plain(text: string): void {
    if (text !== '') this.#out.push(decodeReferences(text, this.#references))
  }

  #token(token: RegExpExecArray): void {
    const [, escaped, , code, opening, closing, address, tag, attributes, emphasis] = token
    if (emphasis !== undefined) this.#mark(emphasis, token.index)
    else if (opening !== undefined) this.#brackets.push(this.#out.push(opening) - 1)
    else if (closing !== undefined) this.#close(closing)
    else if (tag !== undefined) this.#out.push(shownOfTag(tag, attributes ?? ''))
    else this.#out.push(escaped ?? code ?? address ?? '')
  }

  /** Removes the brackets and the address of a link or an image. */
  #close(closing: string): void {
    const at = this.#brackets.pop()
    if (at === undefined || closing === ']') this.#out.push(closing)
    else this.#out[at] = ''
  }

  /** Removes a pair of signs. A sign alone stays. */
  #mark(sign: string, at: number): void {
    const before = this.#source[at - 1] ?? ' '
    const after = this.#source[at + sign.length] ?? ' '
    const isWord = sign[0] === '_' ? /[\p{L}\p{N}]/u : /(?!)/
    const opened = this.#emphasis.get(sign)
    if (opened !== undefined && /\S/.test(before) && !isWord.test(after)) {
      this.#out[opened] = ''
      this.#emphasis.delete(sign)
      return
    }
    const place = this.#out.push(sign) - 1
    if (/\S/.test(after) && !isWord.test(before)) this.#emphasis.set(sign, place)
  }
}

/** Components show their title. Blocks separate words. */
function shownOfTag(name: string, attributes: string): string {
  const isComponent = /^[A-Z]/.test(name)
  const [, quoted, single] = isComponent
    ? (/\s(?:title|label)=(?:"([^"]*)"|'([^']*)')/.exec(attributes) ?? [])
    : []
  const title = quoted ?? single ?? ''
  if (title !== '') return ` ${title} `
  return isComponent || isBlock(name.toLowerCase()) ? ' ' : ''
}
