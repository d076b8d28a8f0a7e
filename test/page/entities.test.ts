import { expect, test } from 'vitest'
import { decodeReferences } from '../../src/page/entities.ts'

test.each([
  ['a &amp; b &lt;c&gt; &quot;d&quot; &apos;e&apos;', 'a & b <c> "d" \'e\''],
  ['&nbsp;&yuml;&szlig;&eacute;&ETH;&eth;', '\u00a0ÿßéÐð'],
  ['&ldquo;x&rdquo; &mdash; &hellip; &euro;', '“x” — … €'],
  ['&#65;&#x41;&#X1F388;&#65', 'AA🎈A'],
  ['&#146;&#x85;', '’…'],
  ['&#0;&#xD800;&#x110000;&#99999999;', '\ufffd'.repeat(4)],
  ['&amp;lt; &amp;amp;', '&lt; &amp;'],
  ['&nosuch; &constructor; & &; &# &#x; AT&T', '&nosuch; &constructor; & &; &# &#x; AT&T'],
])('decodeReferences(%j)', (text, decoded) => {
  expect(decodeReferences(text)).toBe(decoded)
})

test('decodeReferences() of long nonsense is quick', () => {
  const startedAt = performance.now()
  decodeReferences('&'.repeat(500_000) + '&a'.repeat(250_000) + '&#'.repeat(250_000))
  expect(performance.now() - startedAt).toBeLessThan(1000)
})
