// What others wrote, on a terminal.
import { expect, test } from 'vitest'
import { isPrintable, printable, visible } from '../../../scripts/operator/printable.ts'

const HOSTILE = 'a\u001b]0;title\u0007\u009b32m\u007f\u202eb\u2066c\rd\u061ce'

test('visible() shows control characters and those of writing direction as escapes', () => {
  expect(visible(HOSTILE)).toBe(
    'a\\u001b]0;title\\u0007\\u009b32m\\u007f\\u202eb\\u2066c\\u000dd\\u061ce',
  )
})

test('visible() leaves lines, tabs and every script as they are', () => {
  for (const text of ['a\n\tb\r\nc\n', 'Grüße, שלום, 你好 👩‍💻']) expect(visible(text)).toBe(text)
})

test('printable() is one line without such characters', () => {
  expect(printable(HOSTILE)).toBe('a ]0;title 32m b c d e')
  expect(printable('a\nb')).toBe('a b')
  expect([HOSTILE, 'a\nb', 'a b', 'שלום'].map(isPrintable)).toEqual([false, false, true, true])
})
