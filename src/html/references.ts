// Decodes HTML character references (HTML, 13.2.5.72 to 13.2.5.80), once: `&amp;lt;` becomes
// "&lt;". An unknown name is left as it is.

/** Characters by name. Names that HTML also decodes without their semicolon are listed twice. */
export type References = ReadonlyMap<string, string>

/**
 * Reads references.txt, the names of the standard: `name;=hex`, or `=hex,hex` for two characters.
 *
 * @internal exported for tests
 */
export function readReferences(text: string): References {
  return new Map(
    text
      .trim()
      .split(/\s+/)
      .map((each) => {
        const [name = '', codes = ''] = each.split('=')
        const points = codes.split(',').map((code) => Number.parseInt(code, 16))
        return [name, String.fromCodePoint(...points)]
      }),
  )
}

/** Reads references.txt for the first page that needs it, and again if that fails. */
export function referencesOnce(read: () => Promise<string>): () => Promise<References> {
  let known: References | null = null
  return async () => {
    known ??= readReferences(await read())
    return known
  }
}

const MAX_NAME_CHARS = 32
const REFERENCE = /&(?:#(\d+);?|#[xX]([\da-fA-F]+);?|([A-Za-z][A-Za-z\d]*;?))/g

/**
 * Decodes the references in text.
 *
 * @param isAttribute whether it is an attribute's value, where "&copy=" and "&copyright" stay
 */
export function decodeReferences(
  source: string,
  references: References,
  isAttribute = false,
): string {
  if (!source.includes('&')) return source
  const decoded = (whole: string, decimal?: string, hex?: string, name = '', at = 0): string => {
    if (decimal !== undefined) return characterOf(Number(decimal))
    if (hex !== undefined) return characterOf(Number.parseInt(hex, 16))
    // The longest name counts, even if more letters follow.
    for (let length = Math.min(name.length, MAX_NAME_CHARS); length > 1; length -= 1) {
      const characters = references.get(name.slice(0, length))
      if (characters === undefined) continue
      const next = name[length - 1] === ';' ? '' : (source[at + 1 + length] ?? '')
      return isAttribute && /[=\da-z]/i.test(next) ? whole : characters + name.slice(length)
    }
    return whole
  }
  return source.replace(REFERENCE, decoded)
}

/** 0x80 to 0x9F are read as windows-1252 (HTML, 13.2.5.80). */
function characterOf(code: number): string {
  if (code >= 0x80 && code < 0xa0) {
    return new TextDecoder('windows-1252').decode(Uint8Array.of(code))
  }
  const isCharacter = code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code < 0xe000)
  return isCharacter ? String.fromCodePoint(code) : '\ufffd'
}
