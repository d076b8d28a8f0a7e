// From a question to what is sent to the full-text index. The engine is only given quoted words of
// letters, digits and marks, so that none of its syntax can be reached.
// https://www.sqlite.org/fts5.html#full_text_query_syntax
import { stopWords } from './stop-words.ts'
import { pairsOf, runsOf } from './words.ts'

/** Plain data, since it is sent to the object. */
export interface Query {
  /** FTS5 expressions, of which each passage found matches at least one. */
  readonly terms: readonly string[]
  /** What the question is about: found if one of these terms occurs in the index. */
  readonly content: readonly Content[]
}

interface Content {
  readonly weight: number
  /** Positions in `terms`. */
  readonly terms: readonly number[]
}

/** Enough for every question; a long text must not cost more. */
const MAX_TERMS = 40
/** A word of a script without spaces has about two characters. */
const CHARACTER_WEIGHT = 0.5
/** Hiragana is mostly grammar. */
const GRAMMAR = /^[\p{scx=Hira}\p{M}]+$/u

interface Part {
  readonly text: string
  readonly terms: readonly string[]
  readonly weight: number
  /** `grammar` is searched for, but a question is not about it; `stop` is not searched for. */
  readonly kind: 'content' | 'grammar' | 'stop'
}

/** The query for a question. It has no terms if the question has neither letters nor digits. */
export function queryOf(question: string): Query {
  const parts = runsOf(question).flatMap(({ text, characters }) =>
    characters === null ? [wordPart(text)] : characterParts(characters),
  )
  const isTelling = parts.some(({ kind }) => kind === 'content')
  // If nothing else is left, stop words are what the question is about.
  const kept = isTelling ? parts.filter(({ kind }) => kind !== 'stop') : parts
  const content = isTelling ? parts.filter(({ kind }) => kind === 'content') : parts
  // The end of a conversation is what it is about.
  const terms = [...new Set(kept.flatMap((part) => part.terms))].slice(-MAX_TERMS)
  return { terms, content: contentOf(content, terms) }
}

function contentOf(parts: readonly Part[], terms: readonly string[]): Content[] {
  const distinct = new Map(parts.map((part) => [`${part.text} ${part.terms}`, part]))
  return [...distinct.values()]
    .map((part) => ({
      weight: part.weight,
      terms: part.terms.map((term) => terms.indexOf(term)).filter((i) => i !== -1),
    }))
    .filter((part) => part.terms.length > 0)
}

function wordPart(word: string): Part {
  const kind = stopWords.has(word) ? 'stop' : 'content'
  return { text: word, terms: [quoted(word)], weight: 1, kind }
}

function characterParts(characters: readonly string[]): Part[] {
  const [first = ''] = characters
  const isGrammar = (character: string) => GRAMMAR.test(character)
  if (characters.length === 1) {
    const kind = isGrammar(first) ? 'stop' : 'content'
    return [{ text: first, terms: [quoted(first)], weight: CHARACTER_WEIGHT, kind }]
  }
  const pairs = pairsOf(characters).map(quoted)
  return characters.map((character, i) => ({
    text: character,
    terms: pairs.slice(Math.max(0, i - 1), i + 1),
    weight: CHARACTER_WEIGHT,
    kind: isGrammar(character) ? 'grammar' : 'content',
  }))
}

const quoted = (word: string) => `"${word}"`

/**
 * The share of what a question is about that occurs in the index, 0 … 1.
 *
 * @param occurring for each term, whether it does
 */
export function coverageOf({ content }: Query, occurring: readonly boolean[]): number {
  const sum = (parts: readonly Content[]) => parts.reduce((all, { weight }) => all + weight, 0)
  const covered = content.filter(({ terms }) => terms.some((term) => occurring[term]))
  return content.length === 0 ? 0 : sum(covered) / sum(content)
}
