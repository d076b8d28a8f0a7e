// The measurement of the search: it uses the Worker's index, counts places and refusals, and its
// variants change what they name.
import { expect, test } from 'vitest'
import { figuresOf, measure } from '../../bench/ask/measure.ts'
import { type CutPage, resized } from '../../bench/ask/pages.ts'
import { indexOf } from '../../bench/ask/sqlite.ts'
import { queryOf } from '../../src/search/query.ts'

const ORIGIN = 'https://example.com'

function pageOf(path: string, title: string, ...texts: readonly string[]): CutPage {
  const url = new URL(path, ORIGIN)
  const passages = texts.map((text) => ({ url: url.href, title, heading: '', text }))
  return { url, title, language: 'en', validators: { etag: null, last_modified: null }, passages }
}

const pages = [
  pageOf('/bees', 'Bees', 'A hive has one queen. Bees collect nectar.'),
  pageOf('/ants', 'Ants', 'An ant carries leaves, and a queen lays eggs.'),
]

test('counts the place of a right page, and refusals by kind', () => {
  const measured = measure(indexOf(pages), ORIGIN, {
    answered: [
      { question: 'Who collects nectar?', pages: ['bees'] },
      { question: 'Which queen lays eggs?', pages: ['bees'] },
      { question: 'Where does a spider live?', pages: ['ants'] },
    ],
    unanswered: [...Array.from({ length: 10 }, () => 'Do queens drink tea?'), 'A queen of leaves'],
  })
  expect(measured.answered.map(({ passage, page, refused }) => [passage, page, refused])).toEqual([
    [1, 1, false],
    [2, 2, false],
    [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY, true],
  ])
  const share = expect.closeTo(2 / 3)
  expect(figuresOf([measured])).toEqual({
    recall: [expect.closeTo(1 / 3), share, share],
    pages: share,
    refused: 1,
    related: 0,
    unrelated: 1,
  })
})

test('finds a page by the questions that are indexed with it', () => {
  const found = (questionsOf = {}) =>
    indexOf(pages, {}, questionsOf).find(queryOf('honey'), 20, [ORIGIN]).found?.passages.length
  expect(found()).toBe(0)
  expect(found({ bees: ['Where does honey come from?'] })).toBe(1)
})

test('a variant replaces the tokenizer and the weights of the index', () => {
  const best = (question: string, variant = {}) =>
    indexOf(pages, variant).find(queryOf(question), 1, [ORIGIN]).found?.passages[0]?.title
  expect(best('eaves')).toBeUndefined()
  expect(best('eaves', { tokenizer: 'trigram' })).toBe('Ants')
  const inTitle = pageOf('/queen', 'Queen', 'Chess is a game for two, and each of them has one.')
  const score = (weights: readonly number[]) =>
    indexOf([...pages, inTitle, pageOf('/cats', 'Cats', 'Cats sleep.')], { weights }).find(
      queryOf('chess'),
      1,
      [ORIGIN],
    ).found?.passages[0]?.score
  expect(score([1, 1, 1, 9, 1])).toBeGreaterThan(score([1, 1, 1, 1, 1]) ?? 0)
})

test('passages of another size have the same words', () => {
  const words = 'one two three four five six seven eight nine ten'
  const page = pageOf('/count', 'Counting', `${words}\n${words}`, words)
  for (const maxChars of [20, 60, 900]) {
    const { passages } = resized(page, maxChars)
    expect(passages.every(({ text }) => text.length <= maxChars)).toBe(true)
    expect(passages.flatMap(({ text }) => text.trim().split(/\s+/)).join(' ')).toBe(
      `${words} ${words} ${words}`,
    )
  }
  expect(resized(page, 900).passages).toHaveLength(1)
})
