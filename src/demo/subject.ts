// Makes an answer be about something: the page in the prompt, of which it returns the main sentences, the
// passages, of which it returns what answers the question, or the hero of a story, who takes Alice's place.
import { extractFor, sentencesIn } from './extract.ts'
import { type Context, type Model, tokenize } from './model.ts'

/** What sampling needs of a model. `C` is its state after a text. */
export interface Source<C> {
  readonly end: number
  readonly floor: number
  readonly read: (tokens: readonly string[]) => C
  readonly advance: (context: C, token: string) => C
  readonly token: (id: number) => string
  readonly spell: (context: C, id: number) => string
  readonly distribution: (context: C) => Float64Array
}

/** A text between the marks of a page variable (src/request/page-text.ts). */
const MARKED = /<(page-\w{24})>\n(.*?)\n<\/\1>/s

/** Three sentences are a summary. */
const SENTENCES = 3

/**
 * The model, or a source made for the page, the passages or the hero in a text.
 *
 * @param said the last message of a chat's user; without a page of its own, passages may stand before it
 */
export function sourceFor(
  model: Model,
  text: string,
  said: string | undefined,
  maxTokens: number,
): Source<Context> | Source<number> {
  const subject = said ?? text
  const [marked = '', , page = ''] = MARKED.exec(subject) ?? []
  const passages = marked === '' ? MARKED.exec(text)?.[2] : page
  // Behind the passages; before them stands what the owner says.
  const question = subject.slice(subject.indexOf(marked) + marked.length).replace('Question:', '')
  const answer = extractFor(question, passages ?? '')
  if (answer !== '') return recital(tokenize(answer))
  const summary = summaryOf(page, maxTokens)
  if (summary.length > 0) return recital(summary)
  const hero = heroIn(subject)
  return hero === undefined ? model : storyOf(model, hero)
}

/**
 * The tokens of the sentences that hold most of the page's frequent words, in their order. The title is
 * joined to the first sentence, which is therefore left out of longer texts.
 */
function summaryOf(page: string, maxTokens: number): string[] {
  // Of five letters or more: most shorter ones are "the" and "with".
  const wordsOf = (text: string) => text.toLowerCase().match(/\p{L}{5,}/gu) ?? []
  const counts = new Map<string, number>()
  for (const word of wordsOf(page)) counts.set(word, (counts.get(word) ?? 0) + 1)
  const sentences = sentencesIn(page).map((sentence, place) => ({
    place,
    tokens: tokenize(sentence),
    // A word that occurs once says nothing about the page.
    weight: [...new Set(wordsOf(sentence))].reduce((sum, word) => sum + counts.get(word)! - 1, 0),
  }))
  const ranked = sentences.slice(sentences.length > SENTENCES ? 1 : 0)
  ranked.sort((a, b) => b.weight - a.weight)
  let room = maxTokens
  const fitting = ranked.filter(({ tokens }, i) => {
    // The best one is cut if it is too long alone.
    const fits = i === 0 || tokens.length <= room
    if (fits) room -= tokens.length
    return fits
  })
  const chosen = fitting.slice(0, SENTENCES).sort((a, b) => a.place - b.place)
  return tokenize(chosen.map(({ tokens }) => tokens.join('').trim()).join(' '))
}

/** Recites one text: each token is certain. Its state is a place in the text. */
function recital(tokens: readonly string[]): Source<number> {
  return {
    end: tokens.length,
    floor: 0,
    read: () => 0,
    advance: (place) => place + 1,
    token: (id) => tokens[id] ?? '',
    spell: (_, id) => tokens[id] ?? '',
    distribution: (place) => new Float64Array(tokens.length + 1).fill(1, place, place + 1),
  }
}

function heroIn(text: string): string | undefined {
  const opening =
    /\bonce upon a time,? +(?:there (?:was|lived) )?([^\s,.].{0,39}?)(?:[,.]| (?:went|was|who|had|lived|met)\b)/i
  return opening.exec(text)?.[1]?.trim().replace(/^an? /i, 'the ')
}

/** The model with the hero for "Alice" and "she". */
function storyOf(model: Model, hero: string): Source<Context> {
  return {
    ...model,
    spell(context, id) {
      const inside = /word|pause|dash/.test(context.kind)
      // "the cat" begins a sentence as "The cat".
      const name = inside ? hero : hero[0]!.toUpperCase() + hero.slice(1)
      return model.spell(context, id).replace(/^( ?)(Alice\b|she$)/i, (_, space) => space + name)
    },
  }
}
