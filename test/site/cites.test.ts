// The passages that a Link header names.
import { expect, test } from 'vitest'
import { citesIn } from '../../src/site/cites.js'

const PAGE = 'https://site.example/a'

test.each<[string, string | null, [string, string][]]>([
  ['no header', null, []],
  ['an empty header', '', []],
  [
    'several, in their order',
    `<${PAGE}#1>; rel="cite"; title*=UTF-8''One, <${PAGE}#2>; rel="cite"; title*=UTF-8''Two%20words`,
    [
      [`${PAGE}#1`, 'One'],
      [`${PAGE}#2`, 'Two words'],
    ],
  ],
  [
    'letters of every script',
    `<${PAGE}>; rel="cite"; title*=UTF-8''%E6%B5%B7%20%E2%80%BA%20caf%C3%A9`,
    [[PAGE, '海 › café']],
  ],
  ['a language', `<${PAGE}>; rel=cite; title*=utf-8'de'Wellen`, [[PAGE, 'Wellen']]],
  ['no spaces, other cases', `<${PAGE}>;REL=CITE;TITLE*=UTF-8''x`, [[PAGE, 'x']]],
  ['white space', ` <${PAGE}> ;\t rel = "cite" ; title* = UTF-8''x `, [[PAGE, 'x']]],
  ['a list of relations', `<${PAGE}>; rel="next cite"; title="x"`, [[PAGE, 'x']]],
  [
    'other relations',
    `</style.css>; rel=preload; as=style, <${PAGE}>; rel="cite", <${PAGE}>; rel="citex"`,
    [[PAGE, PAGE]],
  ],
  [
    'commas and brackets in addresses and titles',
    `<${PAGE}?a=1,2;b>; rel="cite"; title="x, <y>; \\"z\\"", <${PAGE}>; rel="cite"`,
    [
      [`${PAGE}?a=1,2;b`, 'x, <y>; "z"'],
      [PAGE, PAGE],
    ],
  ],
  ['only the first relation', `<${PAGE}>; rel="next"; rel="cite"`, []],
  [
    'a title that cannot be read',
    `<${PAGE}>; rel="cite"; title*=UTF-8''%E6%B5; title="x"`,
    [[PAGE, 'x']],
  ],
  ['another charset', `<${PAGE}>; rel="cite"; title*=ISO-8859-1''x`, [[PAGE, PAGE]]],
  [
    'an address of another kind keeps its number',
    `<javascript:alert(1)>; rel="cite"; title="x", <//>; rel="cite"; title="y", <${PAGE}>; rel="cite"`,
    [
      ['', 'x'],
      ['', 'y'],
      [PAGE, PAGE],
    ],
  ],
  ['what is no header', `rel="cite", <${PAGE}; ;;,"`, []],
])('%s', (_, header, cites) => {
  expect(citesIn(header)).toEqual(cites.map(([url, title]) => ({ url, title })))
})

test('a long header of any kind takes no time', () => {
  const start = performance.now()
  for (const piece of ['<', '<a>;', '<a>; rel', '<a>; rel="', '<a>; a=b ', ' ', ';', '"\\'])
    citesIn(piece.repeat(200_000 / piece.length))
  // With quadratic time this would take minutes.
  expect(performance.now() - start).toBeLessThan(10_000)
})
