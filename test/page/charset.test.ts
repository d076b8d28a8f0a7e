// Encoding detection as in browsers: all ways to declare an encoding, and what must not count as
// one.
import { describe, expect, test } from 'vitest'
import { parseSelectors } from '../../src/html/selector.ts'
import {
  decodeHtml,
  decodeText,
  parseContentType,
  ReplacementError,
} from '../../src/page/charset.ts'
import { readableText } from '../../src/page/text.ts'
import { cpuMs } from '../support/cpu.ts'
import { references } from '../support/html.ts'

const utf8 = (text: string) => new TextEncoder().encode(text)
const latin1 = (text: string) => Uint8Array.from(Buffer.from(text, 'latin1'))
const html = (charset: string | null) => ({ type: 'text/html', charset })
const read = (bytes: Uint8Array, charset: string | null = null) =>
  readableText(decodeHtml(bytes, html(charset), references), parseSelectors('body') ?? [])

test.each([
  ['text/html', 'text/html', null],
  ['Text/HTML; Charset=UTF-8', 'text/html', 'UTF-8'],
  ['text/html;charset="utf-8"', 'text/html', 'utf-8'],
  ['text/html; charset="a\\"; charset=b"', 'text/html', 'a\\"; charset=b'],
  ["text/html; charset='utf-8'", 'text/html', "'utf-8'"],
  ['text/html; charset = utf-8 ; x=y', 'text/html', 'utf-8'],
  ['text/html; x="; charset=gbk"; charset=utf-8', 'text/html', 'utf-8'],
  ['text/html; xcharset=gbk; charset', 'text/html', null],
  ['text/html; charset=; charset=utf-8', 'text/html', 'utf-8'],
  // A repeated parameter: the first one wins.
  ['text/html; charset=utf-8; charset=gbk', 'text/html', 'utf-8'],
  ['text/html; charset=utf-8; charset=utf-8', 'text/html', 'utf-8'],
  // A repeated header: the last one wins, and the charset of another type is dropped.
  ['text/html; charset=utf-8, text/html; charset=utf-8', 'text/html', 'utf-8'],
  ['text/plain; charset=gbk, text/html', 'text/html', null],
  ['text/html; charset=gbk, text/html', 'text/html', 'gbk'],
  ['text/html; charset=gbk, text/html; charset=utf-8', 'text/html', 'utf-8'],
  ['text/html; charset=utf-8, */*, , x', 'text/html', 'utf-8'],
  ['text/html; x="a, text/plain"; charset=utf-8', 'text/html', 'utf-8'],
  ['', '', null],
  ['html', '', null],
])('parseContentType() reads %j', (header, type, charset) => {
  expect(parseContentType(header)).toEqual({ type, charset })
})

test('parseContentType() handles long malformed headers in linear time', () => {
  const ms = cpuMs(() => {
    for (const piece of [';', '"', ',', '; charset', 'text/html,', '\\"', ' ']) {
      parseContentType(`text/html; ${piece.repeat(20_000)}`)
    }
  })
  expect(ms).toBeLessThan(1000)
})

const japanese = Uint8Array.of(0x93, 0xfa, 0x96, 0x7b)
const followed = (html: string, bytes: Uint8Array) => Uint8Array.from([...utf8(html), ...bytes])
const utf16 = (text: string) => Uint8Array.from(Buffer.from(text, 'utf16le'))
const swapped = (bytes: Uint8Array) => Uint8Array.from(Buffer.from(bytes).swap16())
const xml = (encoding: string) => `<?xml version="1.0" encoding=${encoding}?><p>`

describe('decodeHtml() uses the encoding', () => {
  test.each([
    ['of Content-Type', utf8('<meta charset=gbk><p>é'), 'utf-8', 'é'],
    ['of Content-Type as browsers know it', latin1('<p>\x93é\x94'), 'ISO-8859-1', '“é”'],
    ['of its byte order mark, not of Content-Type', utf8('\ufeff<p>é'), 'iso-8859-1', 'é'],
    ['of a mark of UTF-16', utf16('\ufeff<meta charset=utf-8><p>é日'), null, 'é日'],
    ['of a mark of UTF-16, big-endian', swapped(utf16('\ufeff<p>é日')), 'utf-8', 'é日'],
    ['of Content-Type, UTF-16 without a mark', utf16('<p>é日'), 'utf-16', 'é日'],
    ['x-user-defined', latin1('<p>a\x80\xff'), 'x-user-defined', 'a\uf780\uf7ff'],
    ['of <meta charset>', followed('<meta charset=Shift_JIS><p>', japanese), null, '日本'],
    [
      'of <meta http-equiv>',
      followed('<META content="text/html; charset=x-sjis" http-equiv=Content-Type><p>', japanese),
      null,
      '日本',
    ],
    [
      'of <meta http-equiv> in quotes',
      latin1(`<meta http-equiv="content-type" content="charset charset = 'latin1'"><p>é`),
      null,
      'é',
    ],
    [
      'of a <meta> far into the page',
      latin1(`<style>/*${'a'.repeat(2000)}*/</style><meta charset=windows-1252><p>é`),
      null,
      'é',
    ],
    ['of <meta> in the body', latin1('<p>é<p><meta charset=windows-1251>\xe9'), null, 'й й'],
    [
      'of the first <meta> with a known label',
      latin1('<meta charset=utf8mb4><meta charset="iso-8859-5"><meta charset=gbk><p>\xe9'),
      null,
      'щ',
    ],
    ['of the XML declaration', latin1(`${xml('"ISO-8859-5"')}\xe9`), null, 'щ'],
    ['of the XML declaration in single quotes', latin1(`${xml("'windows-1251'")}\xe9`), null, 'й'],
    [
      'of <meta>, not of the XML declaration',
      utf8(`${xml('"gbk"')}<meta charset=utf-8>é`),
      null,
      'é',
    ],
    ['UTF-8, as it is no other', utf8('<p>é日🎈'), null, 'é日🎈'],
    ['of the West, as it is not UTF-8', latin1('<p>caf\xe9 \x80'), null, 'café €'],
    ['big5', followed('<p>', Uint8Array.of(0xa4, 0xa4)), 'Big5', '中'],
  ])('%s', (_, bytes, charset, text) => {
    expect(read(bytes, charset)).toBe(text)
  })

  test.each(['utf8mb4', "'utf-8'", 'klingon', '', 'utf-7', 'none', 'iso-8859-99', 'utf 8'])(
    'that the page declares if Content-Type has the unknown label %j',
    (charset) => {
      expect(read(utf8('<meta charset=utf-8><p>é'), charset)).toBe('é')
      expect(read(latin1('<meta charset=iso-8859-5><p>\xe9'), charset)).toBe('щ')
      expect(read(utf8('<p>é'), charset)).toBe('é')
    },
  )

  test.each([
    '<meta name=x data-charset=gbk>',
    '<meta property="og:x" value="charset=gbk">',
    '<meta name=description content="charset=gbk">',
    '<meta http-equiv=refresh content="0; charset=gbk">',
    '<meta content="text/html; charset=gbk">',
    `<meta http-equiv=content-type content="text/html; charset='gbk">`,
    '<meta http-equiv=content-type content="text/html; charset">',
    '<meta charset="utf-8 gbk">',
    '<!-- <meta charset=gbk> -->',
    '<script>"<meta charset=gbk>"</script>',
    '<link charset=gbk><script charset=gbk></script>',
    '<metadata charset=gbk>',
    '<svg><path charset=gbk /></svg>',
    '<meta charset=utf-16le>',
    '<meta charset=utf-16>',
    '<?xml version="1.0"?>',
    '<?xml version="1.0" encoding="klingon"?>',
    '<?xml version="1.0" encoding="utf-16"?>',
    '<!doctype html><?xml version="1.0" encoding="gbk"?>',
    '<?xml version="1.0" x="encoding=gbk"?>',
  ])('UTF-8 despite %s', (html) => {
    expect(read(utf8(`${html}<p>é日`))).toBe('é日')
  })

  test('and the rules of XHTML if the page is served as such', () => {
    const page = utf8('a<div hidden="hidden"/><script src="x"/>b')
    const document = decodeHtml(page, parseContentType('application/xhtml+xml'), references)
    expect(readableText(document, parseSelectors('body') ?? [])).toBe('a b')
    expect(read(page)).toBe('a')
  })

  test('UTF-16 if its XML declaration is written in it', () => {
    expect(read(utf16(`${xml('"x"')}é`))).toBe('é')
    expect(read(swapped(utf16(`${xml('"x"')}é`)))).toBe('é')
  })
})

test.each(['iso-2022-kr', 'HZ-GB-2312', 'iso-2022-cn-ext', 'replacement'])(
  'decodeHtml() and decodeText() refuse %s, as browsers do',
  (label) => {
    expect(() => decodeHtml(utf8('<p>a'), html(label), references)).toThrow(ReplacementError)
    expect(() => decodeHtml(utf8(`<meta charset=${label}><p>a`), html(null), references)).toThrow(
      ReplacementError,
    )
    expect(() => decodeText(utf8('a'), label)).toThrow(ReplacementError)
  },
)

test.each([
  [utf8('é'), null, 'é'],
  [latin1('é'), null, 'é'],
  [latin1('é'), 'ISO-8859-1', 'é'],
  [utf8('\ufeffé'), 'iso-8859-1', 'é'],
  [utf16('\ufeffé'), null, 'é'],
  [utf8('é'), 'klingon', 'é'],
  [utf8('<meta charset=gbk>é'), null, '<meta charset=gbk>é'],
])('decodeText() decodes %j with the label %j', (bytes, charset, text) => {
  expect(decodeText(bytes, charset)).toBe(text)
})
