// Passages of the owner's site as a text in a prompt: numbered, so that the model can cite them.
import { truncate } from '../truncate.ts'

interface Passage {
  readonly title: string
  readonly heading: string
  readonly text: string
}

/** The page's title and the headings above the passage. */
export function placeOf({ title, heading }: Omit<Passage, 'text'>): string {
  return [title, heading].filter((part) => part !== '').join(' › ')
}

/**
 * As many of the passages as fit, whole, in their order; the first one is cut if it is too long.
 *
 * @param maxChars in UTF-16 units, numbers and titles included
 */
export function numberedPassages<P extends Passage>(
  passages: readonly P[],
  maxChars: number,
): { readonly text: string; readonly used: readonly P[] } {
  const parts: string[] = []
  let left = maxChars
  for (const [i, passage] of passages.entries()) {
    const part = `[${i + 1}] ${placeOf(passage)}\n${passage.text}`
    if (i > 0 && part.length + SEPARATOR.length > left) break
    parts.push(truncate(part, maxChars))
    left -= part.length + SEPARATOR.length
  }
  return { text: parts.join(SEPARATOR), used: passages.slice(0, parts.length) }
}

const SEPARATOR = '\n\n'
