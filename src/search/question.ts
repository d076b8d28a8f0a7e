// The form of a question in which its spellings are one: for the cache key, and for the memory of
// searches.

/** What ends a sentence. No other sign: "C#" is not "C". */
const AT_END = /[\s.,;:!?…。．，、；：！？؟،؛]+$/u
const SPACES = /[\s\p{Cc}]+/gu

/** The question without differences of case, width, spaces and final punctuation (NFKC). */
export function normaliseQuestion(question: string): string {
  const folded = question.normalize('NFKC').toLowerCase()
  return folded
    .replace(SPACES, ' ')
    .replace(/^[ ¿¡]+/, '')
    .replace(AT_END, '')
}
