// The small parts of a page's text; HTML itself is taken apart in test/worker/pages.test.ts, where
// the rewriter is.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { alternativesOf, cut, fold, type Rewriter, textOfHtml } from '../../src/page/text.ts'

test.each([
  ['main, article, body', ['main', 'article', 'body']],
  ['main', ['main']],
  ['[data-a="x,y"], p:not(.a, .b) > i', ['[data-a="x,y"]', 'p:not(.a, .b) > i']],
  ["[data-a='x, y'],b", ["[data-a='x, y']", 'b']],
  [' , a,, b ,', ['a', 'b']],
  ['[a="], b', ['[a="]', 'b']],
  ['', []],
])('alternativesOf(%j)', (selector, alternatives) => {
  expect(alternativesOf(selector)).toEqual(alternatives)
})

test('alternativesOf() of long nonsense is quick', () => {
  const startedAt = performance.now()
  for (const piece of ['"', "'", '[', '(', '("', ',', '[)']) alternativesOf(piece.repeat(256))
  expect(performance.now() - startedAt).toBeLessThan(500)
})

test.each(['<a', '</a', '<', '</', '<!', '\ufdd0', '&', '&#'])(
  'textOfHtml() of 100 KB of %j that the rewriter left as it is, is quick',
  async (piece) => {
    const none: Rewriter = { on: () => none, onDocument: () => none, transform: (all) => all }
    const html = `text${piece.repeat(100_000 / piece.length)}>`
    const startedAt = performance.now()
    expect(await textOfHtml(html, 'body', () => none)).toMatch(/^text/)
    expect(performance.now() - startedAt).toBeLessThan(1000)
  },
)

test('fold() leaves one space between words, and none around them', () => {
  expect(fold('\ufeff a\r\n\tb \u00a0\u2003\u0000\u001b c ')).toBe('a b c')
})

test('cut() tears no character', () => {
  expect(cut('ab🎈', 4)).toBe('ab🎈')
  expect(cut('ab🎈', 3)).toBe('ab')
  expect(cut('ab c', 3)).toBe('ab')
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), fc.integer({ min: 1, max: 20 }), (text, max) => {
      const short = cut(text, max)
      expect(short.isWellFormed()).toBe(text.isWellFormed())
      expect(text.startsWith(short)).toBe(true)
      expect(short.length).toBeLessThanOrEqual(max)
    }),
  )
})
