// The form of a question in which its spellings are one: for the cache key, and for the memory of
// searches.
import { nfkc } from './words.ts'

/** What ends a sentence. No other sign: "C#" is not "C". */
const SIGNS = String.raw`[\s.,;:!?…。．，、；：！？؟،؛۔।॥]`
/** A run is only tried from its start, so that many signs take linear time. */
const AT_END = new RegExp(`(?<!${SIGNS})${SIGNS}+$`, 'u')
const SPACES = /[\s\p{Cc}]+/gu

/** The question without differences of case, width, spaces and final punctuation (NFKC). */
export function normaliseQuestion(question: string): string {
  // Twice: some capital letters have composed forms in lower case only.
  const folded = nfkc(nfkc(question).toLowerCase())
  return folded
    .replace(SPACES, ' ')
    .replace(/^[ ¿¡]+/, '')
    .replace(AT_END, '')
}
