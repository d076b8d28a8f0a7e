// What the index is asked for a question, and how much of the question it has.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { coverageOf, queryOf } from '../../src/search/query.ts'

describe('queryOf()', () => {
  test.each([
    ['How do I configure the cache?', ['"configure"', '"cache"']],
    ['CACHE, cache; Cache', ['"cache"']],
    // Nothing else is left.
    ['How do you do?', ['"how"', '"do"', '"you"']],
    ['"cache" OR title:x NEAR(a b, 2) -c ^d e* {f g}: h', null],
    ["'; DROP TABLE words; --", ['"drop"', '"table"', '"words"']],
    ['\u0000?!', []],
    ['🚀', []],
    ['東京都の天気', ['"東京"', '"京都"', '"都の"', '"の天"', '"天気"']],
    ['猫', ['"猫"']],
    ['KVを', ['"kv"']],
  ])('%j', (question, terms) => {
    const query = queryOf(question)
    if (terms !== null) expect(query.terms).toEqual(terms)
    for (const term of query.terms) expect(term).toMatch(/^"[\p{L}\p{N}\p{M}]+"$/u)
  })

  test('gives the engine quoted words only, in any question', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (question) => {
        const { terms, content } = queryOf(question)
        for (const term of terms) expect(term).toMatch(/^"[\p{L}\p{N}\p{M}]+"$/u)
        for (const part of content) for (const i of part.terms) expect(terms[i]).toBeDefined()
      }),
    )
  })

  test('asks for 40 words at most: the last ones', () => {
    const words = Array.from({ length: 100 }, (_, i) => `word${i}`)
    const { terms, content } = queryOf(words.join(' '))
    expect(terms).toHaveLength(40)
    expect(terms.at(-1)).toBe('"word99"')
    expect(content).toHaveLength(40)
  })
})

describe('coverageOf()', () => {
  const coverage = (question: string, ...occurring: string[]) => {
    const query = queryOf(question)
    const found = query.terms.map((term) => occurring.includes(term.replaceAll('"', '')))
    return coverageOf(query, found)
  }

  test.each([
    ['How do I bake bread?', [], 0],
    ['How do I bake bread?', ['bread'], 1 / 2],
    ['bread bread bread cake', ['bread'], 1 / 2],
    // A stop word is not counted.
    ['the bread', ['bread'], 1],
    ['to be', ['to'], 1 / 2],
    ['🚀', [], 0],
    // 東, 京, 天 and 気 count half a word each, hiragana nothing.
    ['東京の天気', ['東京'], 1 / 2],
    ['東京の天気', ['京の', 'の天'], 1 / 2],
    ['Worker 東京', ['worker'], 1 / 2],
    ['Worker 東京', ['worker', '東京'], 1],
    ['です', ['です'], 1],
  ])('of %j with %j', (question, occurring, share) => {
    expect(coverage(question, ...occurring)).toBe(share)
  })
})
