// Counts what the index of a site finds and what it refuses.
import { canonicalAddressOf } from '../../src/page/rules.ts'
import { LEAST_COVERAGE } from '../../src/routes/passage-variables.ts'
import { queryOf } from '../../src/search/query.ts'
import type { Found, SiteIndex } from '../../src/search/site-index.ts'
import type { Answered, QuestionSet } from './sites.ts'

/** What happened to each question of a set. */
export interface Measured {
  readonly answered: readonly Placed[]
  readonly unanswered: readonly Asked[]
}

interface Asked {
  readonly question: string
  /** Whether a prompt answers it with `404 no_passages`. */
  readonly refused: boolean
}

interface Placed extends Asked {
  /** The place of the first passage of a right page, from 1; Infinity without one. */
  readonly passage: number
  /** The place of the first right page among the pages found. */
  readonly page: number
}

export interface Figures {
  /** The share of questions with a right page among the first 1, 5 and 20 passages. */
  readonly recall: readonly [number, number, number]
  /** The share of questions with a right page among the first five pages. */
  readonly pages: number
  /** Of the questions that the site answers. */
  readonly refused: number
  /** Of the questions about related subjects that the site does not answer. */
  readonly related: number
  /** Of the questions about anything else. */
  readonly unrelated: number
}

/** The most that /v1/search returns. */
const LIMIT = 20
/** In each set of a site, the first questions without an answer are about related subjects. */
const RELATED = 10

export function measure(index: SiteIndex, origin: string, set: QuestionSet): Measured {
  const { answered, unanswered } = set
  const find = (question: string) => index.find(queryOf(question), LIMIT, [origin]).found!
  return {
    answered: answered.map((asked) => place(asked, find(asked.question), origin)),
    unanswered: unanswered.map((question) => ask(question, find(question))),
  }
}

function ask(question: string, { passages, coverage }: Found): Asked {
  return { question, refused: passages.length === 0 || coverage < LEAST_COVERAGE }
}

function place({ question, pages }: Answered, found: Found, origin: string): Placed {
  const right = new Set(pages.map((path) => canonicalAddressOf(new URL(path, origin))))
  const names = found.passages.map(({ url }) => canonicalAddressOf(new URL(url)))
  const placeIn = (list: readonly string[]) =>
    list.findIndex((name) => right.has(name)) + 1 || Number.POSITIVE_INFINITY
  return { ...ask(question, found), passage: placeIn(names), page: placeIn([...new Set(names)]) }
}

/** The figures of several sites together. */
export function figuresOf(measured: readonly Measured[]): Figures {
  const on = measured.flatMap(({ answered }) => answered)
  const share = (of: readonly Placed[]) => of.length / on.length
  const within = (count: number) => share(on.filter(({ passage }) => passage <= count))
  const answeredOf = (asked: readonly Asked[]) => asked.filter(({ refused }) => !refused).length
  return {
    recall: [within(1), within(5), within(20)],
    pages: share(on.filter(({ page }) => page <= 5)),
    refused: on.length - answeredOf(on),
    related: answeredOf(measured.flatMap(({ unanswered }) => unanswered.slice(0, RELATED))),
    unrelated: answeredOf(measured.flatMap(({ unanswered }) => unanswered.slice(RELATED))),
  }
}
