// Decodes the text of a file or a sitemap. Some editors and exports add a byte order mark or use UTF-16.
import { markedEncoding, xmlEncoding } from '../../src/page/charset.ts'

/**
 * Decodes by the byte order mark or the XML declaration, else as UTF-8. Removes the mark.
 *
 * @throws Error if the bytes are not valid in that encoding
 */
export function decodeText(bytes: Uint8Array): string {
  const encoding = markedEncoding(bytes) ?? xmlEncoding(bytes) ?? 'utf-8'
  try {
    return new TextDecoder(encoding, { fatal: true, ignoreBOM: false }).decode(bytes)
  } catch {
    throw new Error(`invalid ${encoding.toUpperCase()}`)
  }
}
