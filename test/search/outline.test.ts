// Headings, ids and blocks of HTML. read.test.ts covers whole pages.
import { describe, expect, test } from 'vitest'
import { parseSelectors } from '../../src/html/selector.ts'
import { outlineOf } from '../../src/search/outline.ts'
import { parse } from '../support/html.ts'

const outline = (html: string, selector = 'main, article, body') =>
  outlineOf(parse(html), parseSelectors(selector) ?? [])

/** Blocks in short: `2#id Heading`, text as it is, code between backticks. */
const blocks = (html: string) =>
  outline(html).blocks.map((block) => {
    if (block.kind === 'heading') {
      return `${block.level}${block.id === null ? '' : `#${block.id}`} ${block.text}`
    }
    if (block.kind === 'end') return `end ${block.level}`
    return block.kind === 'code' ? `\`${block.text}\`` : block.text
  })

describe('outlineOf() finds the id of a heading:', () => {
  test.each([
    ['its own', '<h1>T</h1>t<h2 id=a>A</h2>', '2#a A'],
    ['of its wrapper', '<h1>T</h1>t<section id=a><h2>A</h2></section>', '2#a A'],
    ['not of a wrapper with text before it', '<h1>T</h1><div id=a>t<h2>A</h2></div>', '2 A'],
    ['of an element in it', '<h1>T</h1><h2><a id=a></a>A</h2>', '2#a A'],
    ['of an anchor’s name', '<h1>T</h1><h2><a name=a>A</a></h2>', '2#a A'],
    ['of an element above it', '<h1>T</h1>t<a id=a></a><h2>A</h2>', '2#a A'],
    ['of its permalink', '<p id=a>t</p><h2>A <a href=#a>¶</a></h2>', '2#a A'],
    ['of an encoded permalink', '<p id="é b">t</p><h2>A <a href=#%C3%A9%20b>¶</a></h2>', '2#é b A'],
    ['not of a permalink that leads nowhere', '<h1>T</h1><h2>A <a href=#a>¶</a></h2>', '2 A'],
    ['not one that an element above it has', '<p id=a>t</p><h2 id=a>A</h2>', '2 A'],
    ['not one that a hidden element above it has', '<p hidden id=a>t</p><h2 id=a>A</h2>', '2 A'],
    ['not one of a hidden element', '<h1>T</h1><p hidden id=a>t</p><h2>A</h2>', '2 A'],
    ['not one in a shadow tree', '<h1>T</h1><x-y><template shadowrootmode=open><h2 id=a>A', '2 A'],
    ['not an empty one', '<h1>T</h1><h2 id="">A</h2>', '2 A'],
  ])('%s', (_, html, heading) => {
    expect(blocks(html).at(-1)).toBe(heading)
  })

  test('not the wrapper of the title, which is the page', () => {
    expect(blocks('<main id=app><h1>T</h1>')).toEqual(['1 T'])
  })
})

describe('outlineOf() reads headings without their permalinks:', () => {
  test.each([
    ['a sign', '<h2>A<a class=headerlink href=#a title="Permalink">¶</a></h2>'],
    ['a number sign', '<h2><a href=#a>#</a> A</h2>'],
    [
      'invisible characters',
      '<h2>A<a class=hash-link href=#a aria-label="Direct link to A">\u200b</a></h2>',
    ],
    ['an image', '<h2><a href=#a><svg><path></svg></a>A</h2>'],
    ['a label', '<h2>A <a href=#a><span class=sr-only>Section titled “A”</span></a></h2>'],
    ['a label after the heading', '<h2>A</h2><a href=#a>Section titled “A”</a>'],
    ['a button', '<h2>A <button>Copy</button></h2>'],
    ['but with their own text in a link', '<h2><a href=#a>A</a></h2>'],
  ])('%s', (_, html) => {
    expect(blocks(html)).toEqual(['2 A'])
  })
})

describe('outlineOf() reads the blocks:', () => {
  test.each([
    ['paragraphs', '<p>a<b>b</b> c<p>d<div>e</div>f', ['ab c', 'd', 'e', 'f']],
    ['items', '<ul><li>a<li><p>b<p>c<ul><li>d</ul></ul>e', ['- a', '- b', 'c', '- d', 'e']],
    [
      'rows',
      '<table><thead><tr><th>a<th>b<tbody><tr><td><p>c</p><p>d</p><td></td><td><ul><li>e</table>',
      ['a | b', 'c d | e'],
    ],
    ['code', '<p>a</p><pre>\n\n  b\n\n\tc  \n</pre>d', ['a', '`  b\n\n\tc`', 'd']],
    ['lines of code', '<pre><div>a</div><div>b</div>c<br>d</pre>', ['`a\nb\nc\nd`']],
    [
      'code without the numbers of its lines',
      '<table><tr><td><pre>1\n2</pre><td><pre>a\nb</pre></table><pre><i class="lineno">1 </i>c</pre>',
      ['`a\nb`', '`c`'],
    ],
    [
      'code without the name of its language',
      '<div><span class=lang>ts</span><pre>a</pre></div>',
      ['`a`'],
    ],
    ['a formula once', 'a <math><msup><mi>x</mi><mn>2</mn></msup></math> b', ['a x^2 b']],
    ['no signs alone', '<p>a</p><p>→</p><p>🎈</p>', ['a', '🎈']],
    ['no links of templates', '<p>a<div><a href=/e>Edit this page</a></div>', ['a']],
    ['no table of contents', '<ul><li><a href=#b>B</a><ul><li><a href=#c>C</a></ul></ul>a', ['a']],
    ['no navigation', '<div role=navigation>a</div><nav>b</nav>c', ['c']],
    [
      'roles of headings',
      '<div role=heading aria-level=3>a</div><p role=heading>b',
      ['3 a', '2 b'],
    ],
    [
      'terms with ids as headings',
      '<dl><dt id=a>A<dd>b<dl><dt id=c>C<dd>d</dl>e<dt>f</dl>g',
      ['7#a A', 'b', '8#c C', 'd', 'end 8', 'e', 'f', 'end 7', 'g'],
    ],
    [
      'words with places for breaks',
      '<p>some\u00adthing long\u200bName<wbr>Here',
      ['something longNameHere'],
    ],
    [
      'a shadow tree',
      '<x-y><template shadowrootmode=open><h2>A</h2><slot></slot></template>b</x-y>',
      ['2 A', 'b'],
    ],
  ])('%s', (_, html, expected) => {
    expect(blocks(html)).toEqual(expected)
  })
})

describe('outlineOf() finds the title:', () => {
  test.each([
    ['the first heading', '<title>X | Site</title><h1>A</h1><h1>B</h1>', 'A'],
    ['the <title>', '<title> A\nb </title><h2>B</h2>', 'A b'],
    ['og:title', '<meta property=og:title content=A><title>A | Site</title>', 'A'],
    [
      'without the site’s name',
      '<meta property=og:site_name content=Site><title>A – Site</title>',
      'A',
    ],
    [
      'with a name that is part of it',
      '<meta property=og:site_name content=Site><title>My Site</title>',
      'My Site',
    ],
    ['not the site’s name in a heading', '<title>A | Site</title><h1>Site</h1><h2>B</h2>', 'A'],
    ['the site’s name on its first page', '<title>Site</title><h1>Site</h1>', 'Site'],
    ['not of a picture', '<svg><title>B</title></svg><title>A</title>', 'A'],
    ['nothing', '<p>a', ''],
  ])('%s', (_, html, title) => {
    expect(outline(html).title).toBe(title)
  })
})

test('outlineOf() finds the language', () => {
  expect(outline('<html lang=pt-BR>a').language).toBe('pt-BR')
  expect(outline('<html lang="not a tag">a').language).toBeNull()
  expect(outline('a').language).toBeNull()
})

test('outlineOf() reads the first selector that has text', () => {
  expect(outline('<main></main><article>a</article>b').blocks).toEqual([
    { kind: 'text', text: 'a' },
  ])
})
