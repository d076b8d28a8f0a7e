// Cuts a text into the words of the index. Pages and questions are cut by the same rules, so that
// they meet; what is left consists of letters, digits and marks only.

/** A word, or the characters of a script without spaces between words, up to the next other one. */
export interface Run {
  readonly text: string
  /** The characters of such a script, each with its marks; null for a word. */
  readonly characters: readonly string[] | null
}

/**
 * Scripts without spaces between words. Hangul has spaces, but its particles are written together
 * with the words before them.
 */
const UNSPACED = ['Han', 'Hira', 'Kana', 'Bopo', 'Hang', 'Thai', 'Laoo', 'Khmr', 'Mymr', 'Tibt']
const scripts = UNSPACED.map((script) => `\\p{scx=${script}}`).join('')
const RUN = new RegExp(
  `([[\\p{L}\\p{N}\\p{M}]&&[${scripts}]]+)|[[\\p{L}\\p{N}\\p{M}]--[${scripts}]]+`,
  'gv',
)
const CHARACTER = /[\p{L}\p{N}]\p{M}*/gu

/** More marks in a row than any language has. The last two signs become marks. */
const MANY_MARKS = /([\p{M}\uff9e\uff9f]{30})[\p{M}\uff9e\uff9f]+/gu

/** The text without differences of width (NFKC). To order a great many marks would take quadratic time. */
export function nfkc(text: string): string {
  return text.replace(MANY_MARKS, '$1').normalize('NFKC')
}

/** The runs of a text, without differences of case and width. */
export function runsOf(text: string): Run[] {
  const folded = nfkc(text).toLowerCase().replaceAll('ß', 'ss')
  return [...folded.matchAll(RUN)].map(([run, unspaced]) => ({
    text: run,
    characters: unspaced === undefined ? null : (run.match(CHARACTER) ?? []),
  }))
}

/** Each two neighbours: `東京都` is `東京` and `京都`. */
export function pairsOf(characters: readonly string[]): string[] {
  return characters.slice(1).map((character, i) => `${characters[i]}${character}`)
}

/**
 * The words of a text as the index stores them, separated by spaces. Each single character is one of
 * them: to look for words that begin with it takes FTS5 seconds on a large site.
 */
export function indexedText(text: string): string {
  return runsOf(text)
    .flatMap(({ text, characters }) =>
      characters === null ? [text] : [...pairsOf(characters), ...characters],
    )
    .join(' ')
}
