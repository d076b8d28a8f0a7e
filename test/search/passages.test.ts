// Where blocks are cut.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Block, passagesOf } from '../../src/search/passages.ts'

const PAGE = new URL('https://site.test/a')
const cut = (blocks: readonly Block[], title = '') => [
  ...passagesOf({ title, language: null, blocks }, PAGE),
]
const text = (value: string): Block => ({ kind: 'text', text: value })
const code = (value: string): Block => ({ kind: 'code', text: value })
const heading = (level: number, value: string, id: string | null = null): Block => ({
  kind: 'heading',
  level,
  text: value,
  id,
})
const textsOf = (blocks: readonly Block[]) => cut(blocks).map((passage) => passage.text)

test('passagesOf() gives each passage the headings above it and the nearest id', () => {
  const passages = cut(
    [
      text('before'),
      heading(1, 'Title'),
      text('a'),
      heading(2, 'B', 'b'),
      text('b'),
      heading(4, 'C'),
      text('c'),
      heading(3, 'D', 'd'),
      text('d'),
      heading(2, 'E'),
      text('e'),
    ],
    'Title',
  )
  expect(passages.map(({ url, heading: path, text: own }) => [url, path, own])).toEqual([
    ['https://site.test/a', '', 'before\na'],
    ['https://site.test/a#b', 'B', 'b'],
    ['https://site.test/a#b', 'B › C', 'c'],
    ['https://site.test/a#d', 'B › D', 'd'],
    ['https://site.test/a', 'E', 'e'],
  ])
  expect(passages.every(({ title }) => title === 'Title')).toBe(true)
})

test('passagesOf() ends what is below a term', () => {
  const passages = cut([
    heading(2, 'A'),
    heading(7, 'f()', 'f'),
    text('b'),
    { kind: 'end', level: 7 },
    text('c'),
  ])
  expect(passages.map(({ url, heading: path }) => [url, path])).toEqual([
    ['https://site.test/a#f', 'A › f()'],
    ['https://site.test/a', 'A'],
  ])
})

test('passagesOf() keeps headings that have no text below them', () => {
  const passages = cut([
    heading(2, 'A'),
    heading(3, 'B'),
    heading(3, 'C'),
    text('c'),
    heading(2, 'D'),
  ])
  expect(passages.map(({ heading: path, text: own }) => [path, own])).toEqual([
    ['A › B', 'B'],
    ['A › C', 'c'],
    ['D', 'D'],
  ])
})

test.each([
  ['a b', '#a%20b'],
  ['50%', '#50%25'],
  ['a%20b', '#a%2520b'],
  ['é"<>`', '#%C3%A9%22%3C%3E%60'],
  ['a\tb\n', '#a%09b%0A'],
  ['مرحبا', '#%D9%85%D8%B1%D8%AD%D8%A8%D8%A7'],
])('passagesOf() writes the id %j as a fragment that finds it', (id, fragment) => {
  const [passage] = cut([heading(2, 'A', id), text('b')])
  const { hash } = new URL(passage?.url ?? '')
  expect(hash).toBe(fragment)
  expect(decodeURIComponent(hash.slice(1))).toBe(id)
})

const word = 'word '
const sentence = `${word.repeat(20).trim()}. `

describe('passagesOf() cuts', () => {
  test('between blocks, with small neighbours together', () => {
    const [a, b, c] = ['a', 'b', 'c'].map((letter) => letter.repeat(400)) as [
      string,
      string,
      string,
    ]
    expect(textsOf([text(a), text(b), text(c)])).toEqual([`${a}\n${b}`, c])
  })

  test('between sentences', () => {
    const texts = textsOf([text(sentence.repeat(20))])
    expect(texts.length).toBe(3)
    for (const own of texts) expect(own).toMatch(/^word .*word\.$/s)
  })

  test('between words', () => {
    const texts = textsOf([text(word.repeat(400))])
    expect(texts.length).toBe(3)
    for (const own of texts) expect(own).toMatch(/^word.*word$/s)
  })

  test('after the punctuation of scripts without spaces', () => {
    const texts = textsOf([text('これは文です。'.repeat(300))])
    for (const own of texts) expect(own).toMatch(/^これ.*。$/s)
  })

  test('never inside a character', () => {
    for (const own of textsOf([text(`a${'🎈'.repeat(2000)}`)]))
      expect(own.isWellFormed()).toBe(true)
  })

  test('no code that fits', () => {
    const [before, own] = [sentence.repeat(5).trim(), 'line\n'.repeat(100).trim()]
    expect(textsOf([text(before), code(own), text('after')])).toEqual([before, `${own}\nafter`])
  })

  test('longer code between its paragraphs, else its lines', () => {
    const paragraph = 'if (a) {\n  b()\n}\n'.repeat(25).trim()
    const two = `${paragraph}

${paragraph}`
    expect(
      textsOf([
        code(`${two}

${paragraph}`),
      ]),
    ).toEqual([two, paragraph])
    for (const own of textsOf([code('  line;\n'.repeat(500))]))
      expect(own).toMatch(/^ {2}line.*;$/s)
  })

  test('before a line that introduces what follows', () => {
    const before = sentence.repeat(5).trim()
    const own = 'x'.repeat(800)
    expect(textsOf([text(before), text('For example:'), code(own)])).toEqual([
      before,
      `For example:\n${own}`,
    ])
  })

  test('any blocks into passages of at most 900 characters, without losing a word', () => {
    const block = fc.oneof(
      fc.record({ kind: fc.constantFrom('text' as const, 'code' as const), text: texts() }),
      fc.record({
        kind: fc.constant('heading' as const),
        level: fc.integer({ min: 1, max: 8 }),
        text: fc.string({ minLength: 1, unit: 'grapheme' }),
        id: fc.option(fc.string()),
      }),
      fc.record({ kind: fc.constant('end' as const), level: fc.constantFrom(7, 8) }),
    )
    fc.assert(
      fc.property(fc.array(block, { maxLength: 8 }), (blocks) => {
        const passages = cut(blocks)
        for (const passage of passages) {
          expect(passage.text.length).toBeLessThanOrEqual(900)
          expect(passage.text.trim()).not.toBe('')
          expect(passage.text.isWellFormed()).toBe(true)
          expect(URL.canParse(passage.url)).toBe(true)
        }
        const letters = (value: string) => value.replaceAll(/\s/g, '')
        const all = letters(passages.map((passage) => passage.text).join(''))
        const given = blocks.flatMap((each) =>
          each.kind === 'text' || each.kind === 'code' ? [letters(each.text)] : [],
        )
        let at = 0
        for (const each of given) {
          at = all.indexOf(each, at)
          expect(at).not.toBe(-1)
          at += each.length
        }
      }),
    )
  })
})

/** Long texts of a few kinds of pieces. */
function texts() {
  return fc
    .array(fc.constantFrom('word ', 'a. ', '字', '。', '🎈', '\n', '\n\n', '  ', 'x'.repeat(300)), {
      minLength: 1,
      maxLength: 40,
    })
    .map((pieces) => pieces.join('').repeat(3))
}

test('passagesOf() limits what every passage repeats', () => {
  const long = 'x'.repeat(100_000)
  const [passage] = cut(
    [heading(1, long, long), heading(2, long, 'b'), heading(3, long, long), text('a')],
    long,
  )
  expect(passage?.url).toBe('https://site.test/a#b')
  expect(passage?.title.length).toBe(200)
  expect(passage?.heading.length).toBeLessThan(1000)
})
