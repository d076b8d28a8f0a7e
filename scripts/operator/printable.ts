// Text that comes from a site, a server or a model, made safe for a terminal. Control characters would
// move its cursor or set its title, and those of writing direction would show one text as another.

const MAX_CHARS = 300

/** The text as one line without such characters. */
export function printable(text: string): string {
  const line = text.replaceAll(/[\p{Cc}\p{Bidi_Control}]+/gu, ' ')
  return line.length > MAX_CHARS ? `${line.slice(0, MAX_CHARS - 1)}…` : line
}

export const isPrintable = (text: string): boolean => !/[\p{Cc}\p{Bidi_Control}]/u.test(text)

/** The text with its lines, and with such characters as escapes, for example \u001b. */
export function visible(text: string): string {
  return text.replaceAll(/(?!\r?\n|\t)[\p{Cc}\p{Bidi_Control}]/gu, unicodeEscape)
}

/** A character of 16 bits as JSON and TOML write it. */
export const unicodeEscape = (character: string): string =>
  `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`
