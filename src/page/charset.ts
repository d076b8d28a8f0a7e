// In which encoding a page is, as browsers find out (Encoding; Fetch, "extract a MIME type"; HTML,
// 13.2.3): its byte order mark, `Content-Type`, what the page itself declares, and without any of
// these what its bytes can be. A label that browsers do not know does not count.
import { attributeOf, type Element, parseHtml } from '../html/tree.ts'

/** The meaning of a response's `Content-Type`. */
export interface ContentType {
  /** Such as "text/html"; "" if there is none. */
  readonly type: string
  /** As it is spelled there. */
  readonly charset: string | null
}

/** Several values count one after another, the last one most (Fetch, 2.2.2). */
export function parseContentType(header: string): ContentType {
  let type = ''
  let charset: string | null = null
  for (const [value] of header.matchAll(/(?:"(?:[^"\\]|\\.)*"?|[^",])+/g)) {
    const [, essence = '', rest = ''] = /^\s*([^\s;/]+\/[^\s;/]+)\s*(;.*)?$/s.exec(value) ?? []
    if (essence === '' || essence === '*/*') continue
    if (essence.toLowerCase() !== type) charset = null
    type = essence.toLowerCase()
    charset = charsetIn(rest) ?? charset
  }
  return { type, charset }
}

/** The first one given. */
function charsetIn(parameters: string): string | null {
  const each = /;\s*([^;=]*)(?:=(?:"((?:[^"\\]|\\.)*)"?|([^;]*)))?/g
  for (const [, name = '', quoted, bare = ''] of parameters.matchAll(each)) {
    if (name.trim().toLowerCase() !== 'charset') continue
    if (quoted !== undefined || bare.trim() !== '') return quoted ?? bare.trim()
  }
  return null
}

/** The page declares an encoding in which browsers read nothing, since it is not safe. */
export class ReplacementError extends Error {
  override readonly name = 'ReplacementError'
}

/**
 * The text of a page that is not HTML.
 *
 * @param charset of `Content-Type`
 * @throws ReplacementError
 */
export function decodeText(bytes: Uint8Array, charset: string | null): string {
  return decode(bytes, knownEncoding(bytes, charset) ?? likelyEncoding(bytes))
}

/**
 * The document of a page of HTML. A declaration counts wherever it stands, as long as the encoding
 * is a guess: the page is then read again (HTML, 13.2.3.4).
 *
 * @throws ReplacementError
 */
export function decodeHtml(bytes: Uint8Array, { type, charset }: ContentType): Element {
  const read = (encoding: string) =>
    parseHtml(decode(bytes, encoding), type === 'application/xhtml+xml')
  const known = knownEncoding(bytes, charset)
  if (known !== null) return read(known)
  const guess = xmlEncoding(bytes) ?? likelyEncoding(bytes)
  const document = read(guess)
  const declared = declaredEncoding(document) ?? guess
  return declared === guess ? document : read(declared)
}

/** Labels of encodings in which markup can be hidden from filters (Encoding, 4.2). */
const REPLACED: ReadonlySet<string> = new Set([
  'csiso2022kr',
  'hz-gb-2312',
  'iso-2022-cn',
  'iso-2022-cn-ext',
  'iso-2022-kr',
  'replacement',
])

/** The name of the encoding that a label means; null if there is none. */
function encodingOf(label: string): string | null {
  const trimmed = label.trim().toLowerCase()
  if (REPLACED.has(trimmed)) return 'replacement'
  try {
    return new TextDecoder(trimmed).encoding
  } catch {
    return null
  }
}

function decode(bytes: Uint8Array, encoding: string): string {
  if (encoding === 'replacement') throw new ReplacementError()
  return new TextDecoder(encoding).decode(bytes)
}

/** What is beyond doubt. */
function knownEncoding(bytes: Uint8Array, charset: string | null): string | null {
  return markedEncoding(bytes) ?? (charset === null ? null : encodingOf(charset))
}

/** As the byte order mark says; null: there is none. */
export function markedEncoding([a, b, c]: Uint8Array): string | null {
  if (a === 0xef && b === 0xbb && c === 0xbf) return 'utf-8'
  if (a === 0xfe && b === 0xff) return 'utf-16be'
  return a === 0xff && b === 0xfe ? 'utf-16le' : null
}

/** As the XML declaration names it (HTML, 13.2.3.2); null: there is none, or no encoding is known by it. */
export function xmlEncoding(bytes: Uint8Array): string | null {
  const start = new TextDecoder('windows-1252').decode(bytes.subarray(0, 1024))
  if (start.startsWith('<\0?\0x\0')) return 'utf-16le'
  if (start.startsWith('\0<\0?\0x')) return 'utf-16be'
  const declaration = /^<\?xml[^>]*?\sencoding[\0- ]*=[\0- ]*(?:"([^">]*)"|'([^'>]*)')/.exec(start)
  return readableEncoding(declaration?.[1] ?? declaration?.[2] ?? '')
}

/** UTF-8 if the bytes can be that, else what is most common in the West. */
function likelyEncoding(bytes: Uint8Array): string {
  try {
    new TextDecoder('utf-8', { fatal: true, ignoreBOM: false }).decode(bytes)
    return 'utf-8'
  } catch {
    return 'windows-1252'
  }
}

/** As the first <meta> declares it whose label is known. */
function declaredEncoding(element: Element): string | null {
  const own = element.name === 'meta' ? metaEncoding(element) : null
  if (own !== null) return own
  for (const child of [element.shadow, ...element.children]) {
    const found = child === null || typeof child === 'string' ? null : declaredEncoding(child)
    if (found !== null) return found
  }
  return null
}

function metaEncoding(meta: Element): string | null {
  const charset = readableEncoding(attributeOf(meta, 'charset') ?? '')
  if (charset !== null) return charset
  if (!/^content-type$/i.test(attributeOf(meta, 'http-equiv') ?? '')) return null
  const label = /charset\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s;"'][^\s;]*))/i.exec(
    attributeOf(meta, 'content') ?? '',
  )
  return readableEncoding(label?.[1] ?? label?.[2] ?? label?.[3] ?? '')
}

/** The declaration could be read, so the page is not in UTF-16. */
function readableEncoding(label: string): string | null {
  const encoding = encodingOf(label)
  if (encoding === 'utf-16le' || encoding === 'utf-16be') return 'utf-8'
  return encoding === 'x-user-defined' ? 'windows-1252' : encoding
}
