// Texts of a page as they are indexed.
import { collapseSpace } from '../page/text.ts'

/** Soft hyphens and other places for line breaks, which would divide words for the index. */
const BREAKS = /[\u00ad\u200b\u2060\ufeff]/g

/** A text as one line. */
export function shownText(text: string): string {
  return collapseSpace(text.replace(BREAKS, ''))
}

/** Code with its line breaks and indentation, without blank lines around it. */
export function codeText(text: string): string {
  return text
    .replace(/\r\n?/g, '\n')
    .replace(/[^\P{Cc}\n\t]/gu, '')
    .replace(BREAKS, '')
    .replace(/^(?:[^\S\n]*\n)+/, '')
    .trimEnd()
}

/** A language as a page names it; null if it is not a BCP 47 tag. */
export function languageTag(name: string): string | null {
  return /^[a-z]{2,8}(?:-[a-z\d]{1,8}){0,4}$/i.test(name) ? name : null
}
