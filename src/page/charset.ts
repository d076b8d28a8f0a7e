// In which encoding a page is, as browsers find out (Encoding; HTML, 13.2.3), and its text. Fetches
// nothing and knows no element but <meta>.

/** As far as HTML looks for its own encoding (HTML, 13.2.3.2). */
const PRESCAN_BYTES = 1024

/**
 * A page's text: by its byte order mark, its header, or what the HTML says of itself; else UTF-8.
 *
 * @param charset as `Content-Type` names it
 * @returns null where nobody knows that encoding
 */
export function decodePage(
  bytes: Uint8Array,
  charset: string | null,
  isHtml: boolean,
): string | null {
  const label = markedEncoding(bytes) ?? charset ?? (isHtml ? ownEncoding(bytes) : null) ?? 'utf-8'
  return decoderOf(label)?.decode(bytes) ?? null
}

function decoderOf(label: string): TextDecoder | null {
  try {
    return new TextDecoder(label)
  } catch {
    return null
  }
}

function markedEncoding([a, b, c]: Uint8Array): string | null {
  if (a === 0xef && b === 0xbb && c === 0xbf) return 'utf-8'
  if (a === 0xfe && b === 0xff) return 'utf-16be'
  return a === 0xff && b === 0xfe ? 'utf-16le' : null
}

function ownEncoding(bytes: Uint8Array): string | null {
  const start = new TextDecoder('windows-1252').decode(bytes.subarray(0, PRESCAN_BYTES))
  for (const [tag] of start.replaceAll(/<!--.*?-->/gs, '').matchAll(/<meta\s[^>]*/gi)) {
    // A description of the page may speak of encodings, too.
    const said = /http-equiv/i.test(tag)
      ? tag
      : tag.replace(/\scontent\s*=\s*("[^"]*"?|'[^']*'?)/i, ' ')
    const [, label = ''] = /charset\s*=\s*["']?\s*([\w:.-]+)/i.exec(said) ?? []
    // It was read as ASCII, so UTF-16 it is not; what nobody knows says nothing.
    if (!/^utf-?16/i.test(label) && decoderOf(label) !== null) return label
  }
  return null
}
