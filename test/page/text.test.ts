// The readable text of HTML. test/worker/pages.test.ts covers pages fetched over HTTP, and
// charset.test.ts their encodings.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parseSelectors } from '../../src/html/selector.ts'
import { collapseSpace, readableText } from '../../src/page/text.ts'
import { truncate } from '../../src/truncate.ts'
import { cpuMs } from '../support/cpu.ts'
import { parse } from '../support/html.ts'

const read = (html: string, selector = 'main, article, body') =>
  readableText(parse(html), parseSelectors(selector) ?? [])

describe('readableText() leaves out hidden content:', () => {
  test.each([
    ['hidden', '<div hidden>a<p>b</div>c', 'c'],
    [
      'hidden with any value',
      'a<b hidden=false>b</b><b HIDDEN="hidden">c</b><b hidden=until-found>d</b>e',
      'ae',
    ],
    [
      'aria-hidden',
      'a<b aria-hidden=true>b</b><b aria-hidden=TRUE>c</b><b aria-hidden=false>d</b>',
      'ad',
    ],
    [
      'display: none and visibility: hidden',
      'a<b style="color:red; display : none !important">b</b><b style=visibility:hidden>c</b>d',
      'ad',
    ],
    [
      'but not content with another style',
      'a<b style="x-display:none">b</b><b style="display:nonesuch;visibility:visible">c',
      'abc',
    ],
    ['a dialog that is not open', 'a<dialog>b</dialog><dialog open>c</dialog>', 'a c'],
    ['a popover', 'a<div popover>b</div>c', 'a c'],
    [
      'selected elements inside hidden ones',
      '<nav><main>a</main></nav><main hidden>b</main><div hidden><article>c</article></div><article>d',
      'd',
    ],
    [
      'but not a whole page that is hidden until a script shows it',
      '<html hidden><body style="display:none">a',
      'a',
    ],
    [
      'but not closed details or inert content',
      '<details><summary>a</summary>b</details><p inert>c',
      'a b c',
    ],
    ['an item without its end tag', '<ul><li>a<li hidden>b<li>c</ul>d', 'a c d'],
    [
      'elements without content',
      '<p>a<img hidden src=x>b<br hidden>c<input hidden>d</p><p>e',
      'a b cd e',
    ],
  ])('%s', (_, html, text) => {
    expect(read(html)).toBe(text)
  })
})

describe('readableText() leaves out content that is not text or not the page’s own:', () => {
  test.each([
    [
      'scripts, styles and controls',
      'a<script>b</script><style>c</style><button>d</button><select><option>e</select><textarea>f</textarea><input value=g>h',
      'a h',
    ],
    ['navigation', 'a<nav>b<p>c</nav>d', 'a d'],
    [
      'media',
      'a<svg><text>b</text></svg><iframe>c</iframe><object>d</object><canvas>e</canvas><audio>f</audio><video>g</video>h',
      'a h',
    ],
    ['titles', '<title>a</title>b<svg><title>c</title></svg>d', 'b d'],
    [
      'fallback content',
      'a<noscript><p>b</noscript><noembed>c</noembed><noframes>d</noframes>e',
      'ae',
    ],
    ['templates', 'a<template><p>b</template>c', 'ac'],
  ])('%s', (_, html, text) => {
    expect(read(html)).toBe(text)
  })

  test('but reads the text of elements beyond the depth limit', () => {
    const html = `${'<div>'.repeat(5000)}a<p>b${'</div>'.repeat(5000)}c`
    expect(read(html)).toBe('a b c')
  })
})

describe('readableText() separates words at', () => {
  const blocks =
    'address article aside blockquote center dd details dir div dl dt fieldset figcaption figure ' +
    'footer form h1 h6 header hgroup legend li listing main menu ol optgroup option p pre search ' +
    'section summary ul nav button select textarea object video'
  test.each(blocks.split(' '))('%s', (name) => {
    expect(read(`<body>a<${name}>x</${name}>b`, 'body')).toMatch(/^a (x )?b$/)
    expect(read(`<body>a<${name} hidden>x</${name}>b`, 'body')).toBe('a b')
  })

  test.each([
    ['line breaks', 'a<br>b</br>c<br/>d', 'a b c d'],
    ['rules and images', 'a<hr>b<img alt=x>c', 'a b c'],
    ['tables', '<table><caption>a<tr><th>b<td>c<tbody><tr><td>d</table>e', 'a b c d e'],
    ['an open dialog', 'a<dialog open>b</dialog>c', 'a b c'],
    ['pre', 'a<pre>b\n  c</pre>d', 'a b c d'],
  ])('%s', (_, html, text) => {
    expect(read(html)).toBe(text)
  })

  test.each([
    ['formatting', 'auto<b>mat</b><i>ic</i> <a href=x>w</a>o<span>r</span>d'],
    ['wbr', 'auto<wbr>matic wo<wbr>rd'],
    [
      'comments, scripts and templates',
      'auto<!-- x -->ma<script>x</script>tic wo<template>x</template>rd',
    ],
    ['unknown elements', 'auto<x-y>matic</x-y> wo<q1>rd'],
    ['hidden formatting', 'auto<b hidden>x</b>matic wo<i style="display:none">x</i>rd'],
  ])('block boundaries but not at %s', (_, html) => {
    expect(read(html)).toBe('automatic word')
  })

  test('block boundaries but not at sub and sup', () => {
    expect(read('H<sub>2</sub>O and x<sup>2</sup>')).toBe('H2O and x2')
  })
})

const mathml =
  '<math><semantics><mrow><msup><mi>x</mi><mn>2</mn></msup></mrow><annotation encoding="application/x-tex">x^2</annotation></semantics></math>'

describe('readableText() reads a formula once:', () => {
  test.each([
    ['MathML', `Let ${mathml} be.`],
    [
      'MathML with white space',
      'Let <math>\n <msup>\n <mi> x </mi>\n <mn>2</mn>\n </msup>\n</math> be.',
    ],
    [
      'KaTeX',
      `Let <span class=katex><span class=katex-mathml>${mathml}</span><span class=katex-html aria-hidden=true><b>x</b><i>2</i></span></span> be.`,
    ],
    [
      'KaTeX without aria-hidden',
      `Let <span class="katex"><span class="katex-mathml">${mathml}</span><span class="katex-html">x2</span></span> be.`,
    ],
    [
      'MathJax 3',
      `Let <mjx-container class=MathJax jax=CHTML><mjx-math aria-hidden=true><mjx-mi><mjx-c class=mjx-c1D465></mjx-c></mjx-mi></mjx-math><mjx-assistive-mml unselectable=on display=inline>${mathml}</mjx-assistive-mml></mjx-container> be.`,
    ],
    [
      'MathJax 3 without MathML',
      'Let <mjx-container class=MathJax jax=CHTML><mjx-math class=MJX-TEX><mjx-msup><mjx-mi class=mjx-i><mjx-c class="mjx-c1D465 TEX-I"></mjx-c></mjx-mi><mjx-script><mjx-mn><mjx-c class=mjx-c32></mjx-c></mjx-mn></mjx-script></mjx-msup></mjx-math></mjx-container> be.',
    ],
    [
      'MathJax 3 as SVG',
      'Let <mjx-container class=MathJax jax=SVG><svg><defs><path id=a /></defs><g data-mml-node=math><g data-mml-node=msup><g data-mml-node=mi><use data-c=1D465 /></g><g data-mml-node=mn><use data-c=32 /></g></g></g></svg></mjx-container> be.',
    ],
    [
      'MathJax 2',
      `Let <span class=MathJax_Preview></span><span class=MathJax role=presentation><nobr aria-hidden=true>x2</nobr><span class=MJX_Assistive_MathML>${mathml}</span></span><script type=math/tex id=MathJax-Element-1>x^2</script> be.`,
    ],
    ['MathJax 2 that has not run', 'Let <script type="math/tex">x^2</script> be.'],
    [
      'MathJax 2 with a preview',
      'Let <span class=MathJax_Preview>x^2</span><script type=math/tex>x^2</script> be.',
    ],
    [
      'TeX in CDATA',
      'Let <script type="math/tex; mode=display">% <![CDATA[\nx^2 %]]></script> be.',
    ],
    [
      'MediaWiki',
      `Let <span class=mwe-math-element><span class="mwe-math-mathml-inline mwe-math-mathml-a11y" style="display: none;">${mathml}</span><img class=mwe-math-fallback-image-inline aria-hidden=true alt="x^2"></span> be.`,
    ],
    ['a label', 'Let <mjx-container aria-label="x^2"><mjx-math></mjx-math></mjx-container> be.'],
  ])('%s', (_, html) => {
    expect(read(`<article><p>${html}</article>`)).toBe('Let x^2 be.')
  })

  test.each([
    ['<mi>x</mi><mo>=</mo><mn>2</mn>', 'x=2'],
    [
      '<msub><mi>a</mi><mi>i</mi></msub><mo>&#x2062;</mo><msubsup><mi>b</mi><mn>1</mn><mi>n</mi></msubsup>',
      'a_ib_1^n',
    ],
    ['<msup><mi>e</mi><mrow><mo>-</mo><mi>x</mi></mrow></msup>', 'e^(-x)'],
    ['<msup><mi>x</mi><mo>′</mo></msup><msup><mi>y</mi><mn>10</mn></msup>', 'x′y^10'],
    ['<mfrac><mn>1</mn><mn>2</mn></mfrac>', '1/2'],
    [
      '<mfrac><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><mrow><mn>2</mn><mi>c</mi></mrow></mfrac>',
      '(a+b)/(2c)',
    ],
    [
      '<msqrt><mn>2</mn></msqrt><mroot><mrow><mi>x</mi><mi>y</mi></mrow><mn>3</mn></mroot>',
      '√2√[3](xy)',
    ],
    [
      '<munderover><mo>∑</mo><mrow><mi>i</mi><mo>=</mo><mn>1</mn></mrow><mi>n</mi></munderover><mi>i</mi>',
      '∑_(i=1)^ni',
    ],
    [
      '<mn>2</mn><mi>sin</mi><mo>&#x2061;</mo><mi>x</mi><mtext> if </mtext><mi>α</mi>',
      '2 sin x if α',
    ],
    ['<mfenced open="["><mi>a</mi><mi>b</mi></mfenced>', '[a,b)'],
    [
      '<mtable><mtr><mtd><mi>a</mi></mtd><mtd><mi>b</mi></mtd></mtr><mtr><mtd><mi>c</mi></mtd></mtr></mtable>',
      'a b; c',
    ],
    [
      '<mi>𝑥</mi><mphantom><mi>y</mi></mphantom><mspace></mspace><mi mathvariant=normal>z</mi>',
      'x z',
    ],
    [
      '<semantics><mi>x</mi><annotation-xml encoding="MathML-Content"><ci>x</ci></annotation-xml></semantics>',
      'x',
    ],
    ['<mtext>a <b>b</b></mtext>', 'ab'],
  ])('<math>%s', (content, text) => {
    expect(read(`<p><math>${content}</math>`)).toBe(text)
  })

  test('separated from the surrounding words if it is shown on its own line', () => {
    const katex = `<span class=katex><span class=katex-mathml>${mathml}</span></span>`
    expect(read(`a<span class="katex-display">${katex}</span>b`)).toBe('a x^2 b')
    expect(read('a<math display=block><mi>x</mi></math>b')).toBe('a x b')
    expect(read(`a<mjx-container class=MathJax display=true>${mathml}</mjx-container>b`)).toBe(
      'a x^2 b',
    )
  })

  test('but not a hidden one, and two equal formulas twice', () => {
    expect(read(`a<math hidden><mi>x</mi></math>b${mathml}${mathml}`)).toBe('abx^2x^2')
    const unread = '<script type=math/tex>x</script><script type="text/x-mathjax-config">c</script>'
    expect(read(`.${unread}<script type=math/tex>y</script>`)).toBe('.xy')
  })
})

describe('readableText() reads a declarative shadow tree as it is shown:', () => {
  test.each([
    ['open', '<h1>a</h1><x-y><template shadowrootmode=open><p>b</template></x-y>c', 'a b c'],
    ['closed', '<x-y><template shadowrootmode=closed><p>a</template></x-y>b', 'a b'],
    [
      'instead of the children',
      '<x-y>a<template shadowrootmode=open><p>b</template>c</x-y>d',
      'b d',
    ],
    [
      'with its slots',
      '<x-y><template shadowrootmode=open>(<slot name=t>none</slot>) <slot></slot> <slot name=u>b</slot></template>c<b slot=t>d</b>e<i slot=v>f</i></x-y>',
      '(d) ce b',
    ],
    [
      'with the nodes in the first of two equal slots',
      '<x-y><template shadowrootmode=open><slot></slot>,<slot>a</slot></template>b</x-y>',
      'b,a',
    ],
    [
      'inside another shadow tree',
      '<x-y><template shadowrootmode=open><x-z><template shadowrootmode=open>[<slot></slot>]</template><slot></slot></x-z></template>a</x-y>',
      '[a]',
    ],
    ['a slot outside a shadow tree', 'a<slot>b</slot>', 'ab'],
  ])('%s', (_, html, text) => {
    expect(read(html)).toBe(text)
  })

  test('for the elements that the selector matches', () => {
    expect(read('<x-y><template shadowrootmode=open>a<main>b</main></template></x-y>c')).toBe('b')
  })
})

describe('readableText() with the selector', () => {
  test.each([
    ['main, article, body', '<body>a<main>b</main>c', 'b'],
    ['main, article, body', '<body>a<article>b</article>c<article>d</article>', 'b d'],
    ['main, article, body', '<main> <nav>a</nav></main><article>b', 'b'],
    ['main, article, body', '<title>a</title>b<p>c', 'b c'],
    ['article', '<article>a<article>b</article>c</article><article>d</article>', 'a b c d'],
    ['p, main', '<main>a<p>b</p>c<p>d</main>', 'b d'],
    ['main, article, body', 'a<MAIN>b<SCRIPT>c</SCRIPT>d</MAIN>', 'bd'],
    ['.x', '<p class=x>a<b>b</b><p class="y x">c', 'ab c'],
    ['i', '<p>a<i>b</i>c<i>d</i>', 'b d'],
    ['main', '<p>a', ''],
    ['p', '<svg><p>a', 'a'],
  ])('%j in %j', (selector, html, text) => {
    expect(read(html, selector)).toBe(text)
  })
})

test.each(
  [
    ...['<p>x', '<p hidden>', '<article>', '<dialog open>', '<slot>x', '<select><option>x'],
    ...['<span class=katex>', '<p><span class=katex>', '<math><mi>x', '<math><mfrac>'],
    ...['<script type=math/tex>x</script>', '<i><span class=MathJax_Preview>x</span>'],
    '<x-y><template shadowrootmode=open><slot></slot></template>',
    '<x-y><template shadowrootmode=open><div><div><slot></slot></div></div></template>',
  ].map((piece) => [piece]),
)('readableText() of repeated %s takes linear time', (piece) => {
  const html = piece.repeat(300_000 / piece.length)
  expect(cpuMs(() => read(html))).toBeLessThan(2500)
})

test('collapseSpace() leaves one space between words and trims the text', () => {
  expect(collapseSpace('\ufeff a\r\n\tb \u00a0\u2003\u0000\u001b c ')).toBe('a b c')
})

test('truncate() does not split a surrogate pair', () => {
  expect(truncate('ab🎈', 4)).toBe('ab🎈')
  expect(truncate('ab🎈', 3)).toBe('ab')
  expect(truncate('ab c', 3)).toBe('ab')
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), fc.integer({ min: 1, max: 20 }), (text, max) => {
      const short = truncate(text, max)
      expect(short.isWellFormed()).toBe(text.isWellFormed())
      expect(text.startsWith(short)).toBe(true)
      expect(short.length).toBeLessThanOrEqual(max)
    }),
  )
})
