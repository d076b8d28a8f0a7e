// Answers a question about numbered passages with the sentence that has most of its words, and the number
// of that passage: an extract, which is all that the demo model can do honestly.

/** What a passage begins with (src/request/passages-text.ts): its number, its title and headings. */
const BEGINNING = /^(\[\d+\]) (.*)\n/

/** Words are compared by these first characters, so that "charging" finds "charge". */
const STEM_CHARS = 5

interface Sentence {
  readonly text: string
  /** Of its passage, such as "[1]". */
  readonly number: string
  readonly words: ReadonlySet<string>
  /** Those of the title and the headings above. */
  readonly above: ReadonlySet<string>
  /** Ends as a sentence does; a cell of a table does not. */
  readonly isWhole: boolean
  /** Of its passage, from 0: the search has put the best one first. */
  readonly place: number
}

/** The answer to a question; "" if the text has no numbered passages. */
export function extractFor(question: string, passages: string): string {
  const sentences = passages.split(/\n\n(?=\[\d+\] )/).flatMap(sentencesOf)
  // A rare word says more about a sentence than a frequent one.
  const weights = [...wordsOf(question)].map((word) => {
    const count = sentences.filter(({ words, above }) => words.has(word) || above.has(word)).length
    return [word, Math.log(1 + sentences.length / (1 + count)) ** 2] as const
  })
  const weightOf = ({ words, above, isWhole, place }: Sentence) => {
    const share = (word: string) => (words.has(word) ? 1 : above.has(word) ? 0.6 : 0)
    const matching = weights.reduce((sum, [word, weight]) => sum + share(word) * weight, 0)
    return ((isWhole ? 1 : 0.8) * matching) / (1 + place / 3)
  }
  const [best] = sentences.toSorted((a, b) => weightOf(b) - weightOf(a))
  if (best === undefined) return ''
  const next = sentences[sentences.indexOf(best) + 1]
  const isContinued = best.isWhole && next?.isWhole && next.number === best.number
  return `${best.text} ${isContinued ? `${next.text} ` : ''}${best.number}`
}

function sentencesOf(passage: string, place: number): Sentence[] {
  const [begin = '', number, title = ''] = BEGINNING.exec(passage) ?? []
  if (number === undefined) return []
  const above = wordsOf(title)
  return sentencesIn(passage.slice(begin.length)).map((sentence) => ({
    text: sentence.trim(),
    number,
    words: wordsOf(sentence),
    above,
    isWhole: /[.!?。！？]\s*$/.test(sentence),
    place,
  }))
}

/** The sentences of a text. None goes on in the next line. */
export const sentencesIn = (text: string): string[] =>
  text.split('\n').flatMap((line) => Array.from(segmenter.segment(line), ({ segment }) => segment))

const segmenter = new Intl.Segmenter('en', { granularity: 'sentence' })

/** Each Chinese character counts as a word. */
const wordsOf = (text: string): Set<string> =>
  new Set(
    text
      .toLowerCase()
      .match(/\p{Script=Han}|[\p{L}\p{M}\p{N}]{4,}/gu)
      ?.map((word) => word.replace(/s$/, '').slice(0, STEM_CHARS)),
  )
