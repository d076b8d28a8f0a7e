// Markdown, MDX and llms-full.txt. read.test.ts covers whole pages.
import { describe, expect, test } from 'vitest'
import { inlineText } from '../../src/search/inline.ts'
import { markdownPages } from '../../src/search/markdown-pages.ts'
import { Slugger } from '../../src/search/slug.ts'
import { references } from '../support/html.ts'

const pagesOf = (text: string, path = '/a.md') =>
  markdownPages(text, new URL(path, 'https://site.test'), references)

/** Blocks in short: `2#id Heading`, text as it is, code between backticks. */
const blocks = (text: string) =>
  pagesOf(text).flatMap(({ outline }) =>
    outline.blocks.map((block) => {
      if (block.kind === 'heading') return `${block.level}#${block.id} ${block.text}`
      return block.kind === 'code'
        ? `\`${block.text}\``
        : block.kind === 'text'
          ? block.text
          : 'end'
    }),
  )

describe('markdownPages() reads', () => {
  test.each([
    ['paragraphs', 'a\nb\n\nc', ['a b', 'c']],
    ['plain text', 'One.\r\nTwo.\r\n\r\n\r\nThree.', ['One. Two.', 'Three.']],
    ['ATX headings', '# A\n## B ##\n###C\n####### d', ['1#a A', '2#b B', '###C ####### d']],
    ['signs that belong to a heading', '# C#\n## #', ['1#c C#']],
    ['setext headings', 'A\n=\n\nB\nb\n---\nc', ['1#a A', '2#b-b B b', 'c']],
    ['headings in HTML', '<h1 align="center" id=x>A <b>b</b></h1>\n\nc', ['1#x A b', 'c']],
    [
      'ids of headings',
      '# A {#x}\n## B {#y .z}\n## C {.z}\n## <a id="w"></a>D\n## E {/* #v */}',
      ['1#x A', '2#y B', '2#c C', '2#w D', '2#v E'],
    ],
    [
      'fenced code',
      '```js title="x"\n# a\n\n  b\n```\n~~~\n```\n~~~\nc',
      ['`# a\n\n  b`', '`\u0060\u0060\u0060`', 'c'],
    ],
    ['code in items', '- a\n  ```\n  b\n    c\n  ```\n- d', ['- a', '`b\n  c`', '- d']],
    ['code in quotations', '> ```\n> # a\n> ```\n> b\n\n> ```\n> c\nd', ['`# a`', 'b', '`c`', 'd']],
    ['code that does not end', '```\n# a\n', ['`# a`']],
    ['indented code', 'a\n\n    b\n\n      c\n\nd', ['a', '`b\n\n  c`', 'd']],
    [
      'no code in what is indented below an item',
      '- a\n\n    b\n\nc\n\n    d',
      ['- a', 'b', 'c', '`d`'],
    ],
    ['items', '* a\n  a\n+ b\n1. c\n2) [x] d\n   - e', ['- a a', '- b', '1. c', '2) d', '- e']],
    [
      'rows',
      '| a | `b` |\n|---|:-:|\n| c \\| d | |\n\ne | f\n--|--\ng | h\n\ni',
      ['a | b', 'c | d', 'e | f', 'g | h', 'i'],
    ],
    ['quotations', '> a\n> > b\n\n> [!NOTE]\n> c', ['a b', 'c']],
    [
      'notices',
      ':::tip[A b]\nc\n:::\n\n!!! note "D"\n    e\n\n=== "F"\n\n    g',
      ['A b', 'c', 'D', 'e', 'F', 'g'],
    ],
    [
      'no rules, definitions, comments and scripts',
      'a\n\n---\n[x]: /y "z"\n<!-- b\n\nc --> d\n<script setup>\ne\n\nf\n</script>\n{/* g\n*/}',
      ['a', 'd'],
    ],
    [
      'no imports and exports',
      "import A from './a'\nexport const b = {\n  c: 1,\n}\n\nimport is a word.\n\nA\nexport default x",
      ['import is a word.', 'A export default x'],
    ],
    ['components', '<Tabs>\n<Step title="A">\n\n    b\n\n</Step>\n</Tabs>', ['A', 'b']],
    [
      'no table of contents',
      '- [A](#a)\n  - [B](#b)\n\n[Section titled “A”](#a)\n\n- [C](/c#c)',
      ['- C'],
    ],
  ])('%s', (_, text, expected) => {
    expect(blocks(text)).toEqual(expected)
  })

  test.each([
    ['the first heading of level 1', '# A\n\n## B', 'A'],
    ['front matter', '---\ntitle: "A: b"\nlang: de\n---\n\n## B', 'A: b'],
    ['front matter in TOML', "+++\ntitle = 'A'\n+++\n# B\n# C", 'A'],
    ['the heading rather than front matter', '---\ntitle: A\n---\n# B\n', 'B'],
    ['nothing', 'a\n\n---\ntitle: A\n---\n', ''],
  ])('%s as the title', (_, text, title) => {
    expect(pagesOf(text)[0]?.outline.title).toBe(title)
  })

  test('the language of front matter', () => {
    expect(pagesOf('---\nlang: de\n---\na')[0]?.outline.language).toBe('de')
    expect(pagesOf('---\nlang: no tag\n---\na')[0]?.outline.language).toBeNull()
  })
})

describe('inlineText() reduces', () => {
  test.each([
    ['**a** _b_ *c* ~~d~~ __e__ ***f***', 'a b c d e f'],
    ['a_b_c 2 * 3 * 4 _ a ** b', 'a_b_c 2 * 3 * 4 _ a ** b'],
    ['中文**强调**中文', '中文强调中文'],
    ['`a_b_ *c*` ``d ` e`` ```` f', 'a_b_ *c* d ` e ```` f'],
    ['[a *b*](https://x/y_(z) "t") [c][d] [e]', 'a b c [e]'],
    ['[![a](/b.png)](/c) ![d](e)', 'a d'],
    ['[`a[b]`](/c) [a [b] c](/d)', 'a[b] a [b] c'],
    ['<https://x/y> <a@b.test> <b>c</b><br>d<Card title="E" />f', 'https://x/y <a@b.test> c d E f'],
    ['a<!-- b -->c \\*d\\* &amp; &lt;b&gt; e[^1]', 'ac *d* & <b> e'],
    ['a < b > c', 'a < b > c'],
  ])('%j', (source, text) => {
    expect(inlineText(source, references).replaceAll(/ +/g, ' ').trim()).toBe(text)
  })
})

test('Slugger numbers ids as GitHub does', () => {
  const slugger = new Slugger()
  const slugs = [
    'Foo',
    'foo',
    'Foo 1',
    'foo',
    'Foo-1',
    'C++ & Co.',
    'a.b()',
    '  x',
    'Ünïcode ß',
    '日本語 見出し',
    '🎈 a',
    'snake_case',
    'हिन्दी',
    '½ ²',
  ]
  expect(slugs.map((text) => slugger.slug(text))).toEqual([
    'foo',
    'foo-1',
    'foo-1-1',
    'foo-2',
    'foo-1-2',
    'c--co',
    'ab',
    '--x',
    'ünïcode-ß',
    '日本語-見出し',
    '-a',
    'snake_case',
    'हिन्दी',
    '-',
  ])
})

describe('markdownPages() divides llms-full.txt', () => {
  const divided = (text: string) =>
    pagesOf(text, '/llms-full.txt').map(({ url, outline }) => [
      url.href.replace('https://site.test', ''),
      outline.title,
      outline.blocks.flatMap((block) =>
        block.kind === 'text' || block.kind === 'code'
          ? [block.text]
          : block.kind === 'heading'
            ? [`#${block.id}`]
            : [],
      ),
    ])

  test.each([
    [
      'by lines below headings',
      '# A\nSource: https://site.test/a_b_\n\na\n# c\n\n# B\n\n> b\n\nURL: /b\nSource: https://raw.test/b.md\nd',
      [
        ['/a_b_', 'A', ['#a', 'a', '#c']],
        ['/b', 'B', ['#b', 'b', 'd']],
      ],
    ],
    [
      'by front matter',
      '---\ntitle: A\nurl: /a.md\n---\n\n# A\n\na\n\n------\ntitle: "B"\nsource_url:\n  html: https://site.test/b\n------\n\nb',
      [
        ['/a.md', 'A', ['#a', 'a']],
        ['/b', 'B', ['b']],
      ],
    ],
    [
      'by headings alone, which cannot be linked to',
      '# A\n\na\n\n## B\n\nb\n\n# C\n\nc',
      [
        ['/llms-full.txt', 'A', ['#null', 'a', '#null', 'b']],
        ['/llms-full.txt', 'C', ['#null', 'c']],
      ],
    ],
    [
      'not by addresses of other origins',
      '# A\nSource: https://other.test/a\n\na',
      [['/llms-full.txt', 'A', ['#null', 'a']]],
    ],
    [
      'not by addresses of more than 2048 characters',
      `---\nurl: /${'a'.repeat(2048)}\n---\n# A\n\na`,
      [['/llms-full.txt', 'A', ['#null', 'a']]],
    ],
    [
      'not by addresses that become as long by their encoding',
      `---\nurl: /${'漢'.repeat(300)}\n---\n# A\n\na`,
      [['/llms-full.txt', 'A', ['#null', 'a']]],
    ],
    [
      'by addresses that do not',
      `---\nurl: /${'a'.repeat(2000)}\n---\n# A\n\na`,
      [[`/${'a'.repeat(2000)}`, 'A', ['#a', 'a']]],
    ],
    [
      'not by forged addresses',
      '# A\nSource: /a\n\na\n\nSource: /x\n\n```\n# B\nSource: /y\n```\n\n## C\nSource: /z',
      [['/a', 'A', ['#a', 'a', 'Source: /x', '# B\nSource: /y', '#c', 'Source: /z']]],
    ],
  ])('%s', (_, text, expected) => {
    expect(divided(text)).toEqual(expected)
  })

  test('and no other text', () => {
    expect(pagesOf('# A\nSource: /b\n\na\n\n# C\n\nc').map(({ url }) => url.pathname)).toEqual([
      '/a.md',
    ])
  })
})
