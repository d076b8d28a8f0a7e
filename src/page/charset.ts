// Detects a page's encoding as browsers do (Encoding; Fetch, "extract a MIME type"; HTML, 13.2.3):
// from the byte order mark, `Content-Type`, the page's own declaration, or else from the bytes.
// Labels that browsers do not know are ignored.

import { attributeOf, type Element } from '../html/node.ts'
import type { References } from '../html/references.ts'
import { parseHtml } from '../html/tree.ts'

/** A parsed `Content-Type` header. */
export interface ContentType {
  /** Such as "text/html"; "" if missing. */
  readonly type: string
  /** The label as written. */
  readonly charset: string | null
}

/** Parses the header. Of several values, the last one wins (Fetch, 2.2.2). */
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

/** The first `charset` parameter. */
function charsetIn(parameters: string): string | null {
  const each = /;\s*([^;=]*)(?:=(?:"((?:[^"\\]|\\.)*)"?|([^;]*)))?/g
  for (const [, name = '', quoted, bare = ''] of parameters.matchAll(each)) {
    if (name.trim().toLowerCase() !== 'charset') continue
    if (quoted !== undefined || bare.trim() !== '') return quoted ?? bare.trim()
  }
  return null
}

/** The page declares an encoding that browsers refuse to decode since it is not safe. */
export class ReplacementError extends Error {
  override readonly name = 'ReplacementError'
}

/**
 * The text of a page that is not HTML.
 *
 * @param charset the label in `Content-Type`
 * @throws ReplacementError
 */
export function decodeText(bytes: Uint8Array, charset: string | null): string {
  return decode(bytes, certainEncoding(bytes, charset) ?? likelyEncoding(bytes))
}

/**
 * Parses an HTML page. While its encoding is a guess, a declaration anywhere in the page overrides
 * it and the page is parsed again (HTML, 13.2.3.4).
 *
 * @throws ReplacementError
 */
export function decodeHtml(
  bytes: Uint8Array,
  { type, charset }: ContentType,
  references: References,
): Element {
  const read = (encoding: string) =>
    parseHtml(decode(bytes, encoding), references, type === 'application/xhtml+xml')
  const certain = certainEncoding(bytes, charset)
  if (certain !== null) return read(certain)
  const guess = xmlEncoding(bytes) ?? likelyEncoding(bytes)
  const document = read(guess)
  const declared = declaredEncoding(document) ?? guess
  return declared === guess ? document : read(declared)
}

/** Labels of encodings that can hide markup from filters (Encoding, 4.2). */
const REPLACED: ReadonlySet<string> = new Set([
  'csiso2022kr',
  'hz-gb-2312',
  'iso-2022-cn',
  'iso-2022-cn-ext',
  'iso-2022-kr',
  'replacement',
])

/** The encoding for a label; null if the label is unknown. */
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

/** The encoding that nothing in the page can override. */
function certainEncoding(bytes: Uint8Array, charset: string | null): string | null {
  return markedEncoding(bytes) ?? (charset === null ? null : encodingOf(charset))
}

/** The encoding of the byte order mark; null without one. */
export function markedEncoding([a, b, c]: Uint8Array): string | null {
  if (a === 0xef && b === 0xbb && c === 0xbf) return 'utf-8'
  if (a === 0xfe && b === 0xff) return 'utf-16be'
  return a === 0xff && b === 0xfe ? 'utf-16le' : null
}

/** The encoding in the XML declaration (HTML, 13.2.3.2); null if it is missing or unknown. */
export function xmlEncoding(bytes: Uint8Array): string | null {
  const start = new TextDecoder('windows-1252').decode(bytes.subarray(0, 1024))
  if (start.startsWith('<\0?\0x\0')) return 'utf-16le'
  if (start.startsWith('\0<\0?\0x')) return 'utf-16be'
  const declaration = /^<\?xml[^>]*?\sencoding[\0- ]*=[\0- ]*(?:"([^">]*)"|'([^'>]*)')/.exec(start)
  return readableEncoding(declaration?.[1] ?? declaration?.[2] ?? '')
}

/** UTF-8 if the bytes are valid UTF-8, else the most common legacy encoding. */
function likelyEncoding(bytes: Uint8Array): string {
  try {
    new TextDecoder('utf-8', { fatal: true, ignoreBOM: false }).decode(bytes)
    return 'utf-8'
  } catch {
    return 'windows-1252'
  }
}

/** The encoding of the first <meta> with a known label. */
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

/**
 * Replaces UTF-16, which a page with a readable ASCII declaration cannot be in (HTML, 13.2.3.2).
 */
function readableEncoding(label: string): string | null {
  const encoding = encodingOf(label)
  if (encoding === 'utf-16le' || encoding === 'utf-16be') return 'utf-8'
  return encoding === 'x-user-defined' ? 'windows-1252' : encoding
}
