import { expect, test } from 'vitest'
import { decodeReferences } from '../../src/html/references.ts'
import { cpuMs } from '../support/cpu.ts'
import { references } from '../support/html.ts'

test.each([
  ['a &amp; b &lt;c&gt; &quot;d&quot; &apos;e&apos;', 'a & b <c> "d" \'e\''],
  ['&nbsp;&yuml;&szlig;&eacute;&ETH;&eth;&shy;', '\u00a0ÿßéÐð\u00ad'],
  ['&ldquo;x&rdquo; &mdash; &hellip; &euro; &hearts; &rarr;', '“x” — … € ♥ →'],
  ['&lpar;&num;&rpar; &check; &ccaron;&Lstrok; &yacy; &NewLine;', '(#) ✓ čŁ я \n'],
  ['&#65;&#x41;&#X1F388;&#65', 'AA🎈A'],
  ['&#0000000000065;&#x000000000041;', 'AA'],
  ['&#146;&#x85;', '’…'],
  ['&#0;&#xD800;&#x110000;&#99999999;', '\ufffd'.repeat(4)],
  [`&#${'9'.repeat(400)};`, '\ufffd'],
  ['&amp;lt; &amp;amp;', '&lt; &amp;'],
  ['&nosuch; &constructor; & &; &# &#x; AT&T', '&nosuch; &constructor; & &; &# &#x; AT&T'],
  // Without a semicolon, the longest legacy name is decoded even if more letters follow.
  ['&copy 2026 A &amp B', '© 2026 A & B'],
  ['&COPY2026 &ampx &AMPx &lt1 &frac12x &sup2x', '©2026 &x &x <1 ½x ²x'],
  ['&notit; &notin; &notin &not;in &nbspx', '¬it; ∉ ¬in ¬in \u00a0x'],
  ['&times; &timesbar; &centerdot; &centx &ordmx &ordx', '× ⨱ · ¢x ºx &ordx'],
  ['&hearts &mdash &alpha &NotEqual &Copy', '&hearts &mdash &alpha &NotEqual &Copy'],
])('decodeReferences() decodes %j', (text, decoded) => {
  expect(decodeReferences(text, references)).toBe(decoded)
})

test.each([
  ['?a=1&copy=2&lt3&amp;b&reg', '?a=1&copy=2&lt3&b®'],
  ['&copy &copyx &copy; &#65&#66=', '© &copyx © AB='],
])('decodeReferences() decodes %j in an attribute', (value, decoded) => {
  expect(decodeReferences(value, references, true)).toBe(decoded)
})

test('decodeReferences() handles long malformed input in linear time', () => {
  const ms = cpuMs(() => {
    for (const piece of ['&', '&a', '&#', '&#9', '&copyx', '&notin']) {
      decodeReferences(piece.repeat(500_000 / piece.length), references)
    }
    decodeReferences(
      `&#${'9'.repeat(500_000)};&#x${'f'.repeat(500_000)};&${'a'.repeat(500_000)};`,
      references,
    )
  })
  expect(ms).toBeLessThan(2000)
})
