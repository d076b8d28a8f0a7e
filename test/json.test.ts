// JSON for responses: the same value, on one line for every client.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { toJson } from '../src/json.ts'

test('toJson() equals JSON.stringify if there is nothing to escape', () => {
  const value = { text: 'é🎈 "a"\n\u0000\u007f', n: [1, null, true] }
  expect(toJson(value)).toBe(JSON.stringify(value))
})

test('toJson() escapes the line separators that JSON.stringify does not', () => {
  expect(toJson('a\u2028b\u2029c\u0085d')).toBe('"a\\u2028b\\u2029c\\u0085d"')
  expect(toJson({ '\u2028': '\u0085\u0085' })).toBe('{"\\u2028":"\\u0085\\u0085"}')
})

test('toJson() writes every value on one line without changing it', () => {
  const separators = fc.constantFrom('\u0085', '\u2028', '\u2029', '\r', '\n', '\v', '\f', '\u001c')
  const text = fc.string({ unit: fc.oneof(separators, fc.string({ maxLength: 2 })) })
  fc.assert(
    fc.property(fc.dictionary(text, fc.oneof(text, fc.array(text), fc.jsonValue())), (value) => {
      const json = toJson(value)
      // The separators of Python's str.splitlines.
      expect(json).not.toMatch(/[\n\v\f\r\u001c-\u001e\u0085\u2028\u2029]/)
      expect(JSON.parse(json)).toEqual(JSON.parse(JSON.stringify(value)))
    }),
  )
})
