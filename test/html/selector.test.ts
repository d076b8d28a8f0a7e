import { describe, expect, test } from 'vitest'
import { attributeOf, type Element } from '../../src/html/node.ts'
import { parseSelectors } from '../../src/html/selector.ts'
import { cpuMs } from '../support/cpu.ts'
import { parse } from '../support/html.ts'

const document = parse(`
  <main id="top" class="Post wide"><p id="p1" class="a b">x<i id="i1">x</i></p>
    <p id="p2" lang="en-GB" data-x='a,b "c"'></p><h2 id="h1"></h2><p id="p3"></p></main>
  <div id="d1" class="md:flex"><div id="d2"><p id="p4" class="a"></p></div></div>
  <x-y id="xy" title="Hello There"></x-y>`)

/** The ids of the elements that the n-th selector of the list matches. */
function matched(text: string, n = 0): string {
  const selector = parseSelectors(text)?.[n]
  const ids: string[] = []
  const visit = (element: Element) => {
    const id = attributeOf(element, 'id')
    if (id !== null && selector?.(element)) ids.push(id)
    for (const child of element.children) if (typeof child !== 'string') visit(child)
  }
  visit(document)
  return ids.join(' ')
}

test.each([
  ['main', 'top'],
  ['MAIN', 'top'],
  ['x-y', 'xy'],
  ['p', 'p1 p2 p3 p4'],
  ['#p2', 'p2'],
  ['.a', 'p1 p4'],
  ['.a.b', 'p1'],
  ['p.wide', ''],
  ['.post', ''],
  ['main.Post#top', 'top'],
  ['.md\\:flex', 'd1'],
  ['#\\70 2', 'p2'],
  ['main p', 'p1 p2 p3'],
  ['main > p', 'p1 p2 p3'],
  ['body>div  p', 'p4'],
  ['body > p', ''],
  ['div div > p.a', 'p4'],
  ['main > i', ''],
  ['html p > i', 'i1'],
  ['div > *', 'd2 p4'],
  ['[title]', 'xy'],
  ['[TITLE="Hello There"]', 'xy'],
  ['[title="hello there"]', ''],
  ['[title="hello there" i]', 'xy'],
  ["[title='Hello There' s]", 'xy'],
  ['[title~=There]', 'xy'],
  ['[title~=The]', ''],
  ['[lang|=en]', 'p2'],
  ['[ title ^= Hello ]', 'xy'],
  ['[title$="ere"]', 'xy'],
  ['[title*="lo T"]', 'xy'],
  ['[title*=""]', ''],
  ['[data-x="a,b \\"c\\""]', 'p2'],
  ['p:not(.a)', 'p2 p3'],
  ['p:not(.a, #p2)', 'p3'],
  ['p:NOT( [lang] ):not(.a)', 'p3'],
  [':not(*)', ''],
  ['main > :first-child', 'p1'],
  ['main > p:nth-child(2)', 'p2'],
  ['main > p:nth-child(3)', ''],
  ['main > :nth-child(odd)', 'p1 h1'],
  ['main > :nth-child(even)', 'p2 p3'],
  ['main > :nth-child(2n + 1)', 'p1 h1'],
  ['main > :nth-child(n+3)', 'h1 p3'],
  ['main > :nth-child(-n+2)', 'p1 p2'],
  ['p:first-of-type', 'p1 p4'],
  ['main > p:nth-of-type(3)', 'p3'],
  ['main > :nth-of-type(-2n+3)', 'p1 h1 p3'],
])('parseSelectors() supports %j', (text, ids) => {
  expect(matched(text)).toBe(ids)
})

describe('parseSelectors() of a list', () => {
  test('returns the selectors in order', () => {
    const list = 'h2, [data-x="a,b \\"c\\""], p:not(.a, #p2) , #xy'
    expect([0, 1, 2, 3].map((n) => matched(list, n))).toEqual(['h1', 'p2', 'p3', 'xy'])
    expect(parseSelectors(list)).toHaveLength(4)
  })

  test('ignores empty items', () => {
    expect(parseSelectors(' , p,, i ,')).toHaveLength(2)
    expect(matched(' , p,, i ,', 1)).toBe('i1')
  })
})

test.each([
  ...['', ' ', ',', 'a + b', 'a ~ b', 'a >', '> a', 'a > > b', 'a || b', 'main, a:hover'],
  ...['a:hover', 'p::before', 'p:last-child', ':is(p)', 'p:not(', 'p:not()', 'p:nth-child(x)'],
  ...['p:nth-child', 'p:first-child(1)', '[a', '[a=]', '[a="]', '[a=b c]', '[1]'],
  ...['.', '.1', '#', 'svg|a', '@media', 'a{}'],
])('parseSelectors() rejects %j', (text) => {
  expect(parseSelectors(text)).toBeNull()
})

test('long malformed selectors and positions among many siblings take linear time', () => {
  const ms = cpuMs(() => {
    for (const piece of ['"', "'", '[', '(', '("', ',', '[)', ':not(', 'a ', 'a>', '\\', ' ']) {
      parseSelectors(piece.repeat(256 / piece.length))
    }
    const [selector] = parseSelectors('p:nth-of-type(3n)') ?? []
    const [, body] = parse('<p>'.repeat(100_000)).children
    const paragraphs = (body as Element).children as readonly Element[]
    expect(paragraphs.filter((each) => selector?.(each))).toHaveLength(33_333)
  })
  expect(ms).toBeLessThan(2000)
})
