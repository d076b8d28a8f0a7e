// Trees of malformed documents. test/browser/html.test.ts compares more of them with Chromium's.
import { describe, expect, test } from 'vitest'
import { attributeOf, type Element } from '../../src/html/node.ts'
import { cpuMs } from '../support/cpu.ts'
import { parse } from '../support/html.ts'

/** The body's content as an outline: `p(text b(text))`, with attributes as `p[hidden]`. */
function bodyOf(html: string, isXml = false): string {
  const [, body] = parse(html, isXml).children
  return typeof body === 'object' ? inside(body) : 'no body'
}

function inside({ children, shadow }: Element): string {
  const parts = [
    ...(shadow === null ? [] : [`#shadow(${inside(shadow)})`]),
    ...children.map(outline),
  ]
  return parts.filter((part) => part !== '').join(' ')
}

function outline(node: Element | string): string {
  if (typeof node === 'string') return node.trim()
  const names = node.attributes.filter((_, i) => i % 2 === 0).map((name) => `[${name}]`)
  const content = inside(node)
  return node.name + names.join('') + (content === '' ? '' : `(${content})`)
}

const trees: readonly [string, string][] = [
  // Omitted end tags (HTML, 13.1.2.4).
  ['<p hidden>a<p>b', 'p[hidden](a) p(b)'],
  ['<p hidden>a<div>b</div>', 'p[hidden](a) div(b)'],
  ['<p hidden>a<h2>b</h2>c', 'p[hidden](a) h2(b) c'],
  ['<ul><li hidden>a<li>b</ul>c', 'ul(li[hidden](a) li(b)) c'],
  ['<li hidden><span>a<li>b', 'li[hidden](span(a)) li(b)'],
  ['<li hidden>a<ul><li>b<li>c</ul><li>d', 'li[hidden](a ul(li(b) li(c))) li(d)'],
  ['<dl><dt>a<dd hidden>b<dt>c</dl>d', 'dl(dt(a) dd[hidden](b) dt(c)) d'],
  [
    '<select><optgroup hidden><option>a<optgroup><option>b</select>c',
    'select(optgroup[hidden](option(a)) optgroup(option(b))) c',
  ],
  ['<ruby>a<rt hidden>b<rp>c</ruby>d', 'ruby(a rt[hidden](b) rp(c)) d'],
  [
    '<table><tr hidden><td>a<td>b<tr><td>c</table>',
    'table(tbody(tr[hidden](td(a) td(b)) tr(td(c))))',
  ],
  [
    '<table><tr><td hidden>a<th>b<tbody><tr><td>c</table>d',
    'table(tbody(tr(td[hidden](a) th(b))) tbody(tr(td(c)))) d',
  ],
  [
    '<table><caption hidden>a<thead hidden><tr><th>b<tfoot><tr><td>c</table>',
    'table(caption[hidden](a) thead[hidden](tr(th(b))) tfoot(tr(td(c))))',
  ],
  [
    '<table><colgroup hidden><col><tr><td>a</table>',
    'table(colgroup[hidden](col) tbody(tr(td(a))))',
  ],
  ['<p><b></p><table><input type=hidden>a', 'p(b) b(a) table(input[type])'],
  ['<table><input name=type type=hidden>', 'table(input[name][type])'],
  ['<p hidden>a</body></html>b', 'p[hidden](a b)'],
  // End tags without a matching start tag.
  ['a</p>b</br>c</i>d</div>e', 'a p b br c d e'],
  ['<div hidden>a</span></section></div>b', 'div[hidden](a) b'],
  ['<h1>a</h2>b', 'h1(a) b'],
  ['<div><p hidden>a</div>b', 'div(p[hidden](a)) b'],
  ['<form>a<form hidden>b</form>c</form>d', 'form(a b) c d'],
  ['<button>a<button>b', 'button(a) button(b)'],
  ['<a>a<a>b', 'a(a) a(b)'],
  // Misnested formatting.
  ['<b hidden>a<p>b</b>c', 'b[hidden](a) p(b[hidden](b) c)'],
  ['<p><b hidden>a</p><p>b', 'p(b[hidden](a)) p(b[hidden](b))'],
  ['<i>a<b>b</i>c</b>d', 'i(a b(b)) b(c) d'],
  ['<table><b>a<tr><td>b</table>c', 'b(a) table(tbody(tr(td(b)))) b(c)'],
  // Content that is not allowed in a table is moved before it.
  ['<table hidden><tr><td>a</td></tr>b<p>c</table>d', 'b p(c) table[hidden](tbody(tr(td(a)))) d'],
  [
    '<table><tr><td>a<table><td>b</table>c</table>d',
    'table(tbody(tr(td(a table(tbody(tr(td(b)))) c)))) d',
  ],
  ['<table><input type=hidden><input><form>a</table>', 'input a table(input[type] form)'],
  ['<table><constructor>a</table>', 'constructor(a) table'],
  // Content that is not markup.
  ['.<script>a<!--<script></script>b--></script>c', '. script(a<!--<script></script>b-->) c'],
  ['.<script>a<!--</script>b', '. script(a<!--) b'],
  ['.<style><p>a</style>b<style>c', '. style(<p>a) b style(c)'],
  ['<textarea><p>&amp;</textarea >a', 'textarea(<p>&) a'],
  ['<xmp><p>&amp;</xmp>a', 'xmp(<p>&amp;) a'],
  [
    '<iframe><p>a</iframe><noembed><p>b</noembed><noframes><p>c</noframes>d',
    'iframe(<p>a) noembed(<p>b) noframes(<p>c) d',
  ],
  ['a<noscript><p>b</noscript>c', 'a noscript(<p>b) c'],
  ['a<plaintext><p>b</plaintext>c', 'a plaintext(<p>b</plaintext>c)'],
  ['a<!-->b<!--->c<!-- --!>d<!x>e<?y>f</ z>g</>h<![CDATA[i]]>j<!-- k', 'a b c d e f g h j'],
  // Tags.
  ['<P CLASS=x>a</P\n>b', 'p[class](a) b'],
  [`<p title="a>b" lang='c'>d`, 'p[title][lang](d)'],
  ['<p a/b =c d=e/f>g<br/>h', 'p[a][b][d](g br h)'],
  ['1 < 2 <3 a<', '1 < 2 <3 a<'],
  ['a<p class="b>c', 'a'],
  ['a<b', 'a'],
  ['wo\0rd', 'word'],
  // SVG and MathML.
  ['<svg><title><b>a</b></title><desc>b</svg>c', 'svg(title(b(a)) desc(b)) c'],
  ['<svg><path/><p>a', 'svg(path) p(a)'],
  ['<svg><style><a/>b</style></svg>c', 'svg(style(a b)) c'],
  ['<svg><![CDATA[<p>]]></svg>a', 'svg(<p>) a'],
  [
    '<math><mi>a<b>b</b></mi><annotation-xml encoding=text/html><p>c</p></annotation-xml></math>d',
    'math(mi(a b(b)) annotation-xml[encoding](p(c))) d',
  ],
  [
    '<select><option><svg><title>a</title></svg>b<noscript><p>c</noscript><p>d</select>e',
    'select(option(svg(title(a)) b noscript(<p>c) p(d))) e',
  ],
  // Templates and shadow trees.
  ['<template><tr><td>a</template>b', 'b'],
  ['a<template><tr><td>b</template>c', 'a template(tr(td(b))) c'],
  ['<div><template shadowrootmode=open><p>a<slot></template>b</div>', 'div(#shadow(p(a slot)) b)'],
  [
    '<x-y><template shadowrootmode=CLOSED>a</template><template shadowrootmode=open>b',
    'x-y(#shadow(a) template[shadowrootmode](b))',
  ],
  [
    '<ul><template shadowrootmode=open>a</template></ul><p><template shadowrootmode=no>b',
    'ul(template[shadowrootmode](a)) p(template[shadowrootmode](b))',
  ],
  // The start of a document.
  ['', ''],
  [' \n', ''],
  ['<!doctype html><html><head><title>a</title></head><body>b', 'b'],
  [
    '<?xml version="1.0"?><!-- x --><!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "x"><p>a<br/>b',
    'p(a br b)',
  ],
  ['<p a <b>c</p></i></p><p', 'p[a][<b](c) p'],
  ['<title>a</title><meta charset=utf-8><link><p>b', 'p(b)'],
  ['<head></p></head><!-- -->a', 'a'],
  ['<!doctype html><p>a<table><td>b', 'p(a) table(tbody(tr(td(b))))'],
  ['<p>a<table><td>b', 'p(a table(tbody(tr(td(b)))))'],
]

test.each(trees)('parseHtml() builds the tree of %j', (html, body) => {
  expect(bodyOf(html)).toBe(body)
})

test.each([
  [
    '<p hidden="">a<b/><i />b</p><div hidden=""/><script src="x"/>c<title/>d',
    'p[hidden](a b i b) div[hidden] script[src] c title d',
  ],
  ['<b>a<b/>c</b><template/><ul><li/><li>d</li></ul><br/>e', 'b(a b c) template ul(li li(d)) br e'],
  [
    '<table><tr><td/><td>a</td></tr></table><svg><g/></svg>b',
    'table(tbody(tr(td td(a)))) svg(g) b',
  ],
])('parseHtml() builds the XHTML tree of %j', (html, body) => {
  expect(bodyOf(html, true)).toBe(body)
})

test('parseHtml() reads the first attribute of a name, and up to 256 of a tag', () => {
  const repeated = 'A=1 a=2 '.repeat(300)
  const many = Array.from({ length: 300 }, (_, i) => `x${i}`).join(' ')
  const [, body] = parse(`<p ${repeated} b><p ${many}>`).children
  const [first, second] = (body as Element).children as Element[]
  expect(first?.attributes).toEqual(['a', '1', 'b', ''])
  expect(second?.attributes).toHaveLength(2 * 256)
  expect(second?.attributes.at(-2)).toBe('x255')
})

test('parseHtml() gives <html> and <body> the attributes of their first tags', () => {
  const html = parse('<p>a<html lang=en><body class=b id=c><body class=d>')
  const [, body] = html.children
  expect(attributeOf(html, 'lang')).toBe('en')
  expect([attributeOf(body as Element, 'class'), attributeOf(body as Element, 'id')]).toEqual([
    'b',
    'c',
  ])
})

test('attributeOf() decodes the value and ignores a repeated attribute', () => {
  const [, body] = parse(
    '<p title="a&amp;b&lt" TITLE=c href="?a=1&copy=2&copy&#65;" hidden>',
  ).children
  const [p] = (body as Element).children
  const valueFor = (name: string) => attributeOf(p as Element, name)
  expect(['title', 'href', 'hidden', 'none'].map(valueFor)).toEqual([
    'a&b<',
    '?a=1&copy=2©A',
    '',
    null,
  ])
})

describe('parseHtml() takes linear time for', () => {
  const long = (piece: string) => piece.repeat(300_000 / piece.length)
  test.each(
    [
      ...['<', '<a', '<a ', '<a b="', '<!--', '<![CDATA[', '</a>', '</p>', '<title>'],
      ...['&', '&a', '&#', '\0', '<body a>', '<script><!--<script>'],
      ...['<b>', '<b x><p>', '<font a>x<p>', '<b><div></b>', '<i><b></i>', '<a>', '<nobr>x'],
      ...['<applet>', '<div>', '<p>x', '<li>', '<x><li>', '<dd><div>', '<p><button>', '<h1>'],
      ...['<form>', '<ruby><rt>', '<select><option>', '<template>'],
      ...['<table>', '<table>x', '<table><b>', '<table><tr><td>', '<i><table>'],
      ...['<svg>', '<svg><p>', '<math><mi>'],
      `<b>${'<i><div>'.repeat(60)}</i></b>`,
    ].map((piece) => [piece]),
  )('repeated %s', (piece) => {
    expect(cpuMs(() => parse(long(piece)))).toBeLessThan(2500)
  })

  test('distinct formatting elements that are reopened in each block', () => {
    const opened = Array.from({ length: 15_000 }, (_, i) => `<b x${i}>`).join('')
    expect(cpuMs(() => parse(`<p><b>${opened}${long('<p>x')}`))).toBeLessThan(2500)
  })
})

test('parseHtml() keeps the order of text nested beyond the depth limit', () => {
  const html = `${'<div>'.repeat(3000)}1<p hidden>2</p>3${'</div>'.repeat(3000)}4`
  expect(bodyOf(html).replaceAll(/\D/g, '')).toBe('1234')
  expect(bodyOf(html)).toMatch(/\) 4$/)
})
