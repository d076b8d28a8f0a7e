// The bytes of a file or a sitemap as text. Editors and exports put a byte order mark before it, or write
// UTF-16. Guesses nothing.
import { markedEncoding, xmlEncoding } from '../../src/page/charset.ts'

/**
 * In the encoding of the byte order mark or the XML declaration, else UTF-8. The mark is not a part of
 * the text.
 *
 * @throws Error that names the encoding in which these bytes are no text
 */
export function decodeText(bytes: Uint8Array): string {
  const encoding = markedEncoding(bytes) ?? xmlEncoding(bytes) ?? 'utf-8'
  try {
    return new TextDecoder(encoding, { fatal: true, ignoreBOM: false }).decode(bytes)
  } catch {
    throw new Error(`it is no ${encoding.toUpperCase()}`)
  }
}
