// Locked prompts: variables are only ever data.

import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  parseVariables,
  placeholdersIn,
  render,
  type Variables,
} from '../../src/request/template.ts'
import { refusalOf } from '../support/failure.ts'

const values = (entries: Record<string, string>) => new Map(Object.entries(entries))
const haiku: Variables = {
  topic: { max_chars: 10 },
  language: { values: ['English', 'Deutsch'] },
}

const parsed = (given: Record<string, unknown>, variables: Variables, maxChars: number) =>
  parseVariables(given, variables, maxChars, 'prompt.variables')

test('placeholdersIn() finds each placeholder once, with or without spaces', () => {
  expect([
    ...placeholdersIn('{{a}} {{ b }}{{\ta\n}} {{_no}} {{1}} {{}} {a} {{a b}} {{ c1_x}}'),
  ]).toEqual(['a', 'b', 'c1_x'])
  expect(placeholdersIn('none').size).toBe(0)
  expect(placeholdersIn(`{{${'a'.repeat(65)}}}`).size).toBe(0)
})

test('render() fills every placeholder, including repeated ones', () => {
  const text = 'About {{topic}} in {{ language }}: {{topic}}!'
  expect(render(text, values({ topic: 'sea', language: 'English' }))).toBe(
    'About sea in English: sea!',
  )
})

test.each<[why: string, template: string, filled: Record<string, string>, text: string]>([
  ['a variable', '<{{a}}|{{b}}>', { a: '{{b}}', b: 'x {{a}}' }, '<{{b}}|x {{a}}>'],
  ['two adjacent variables', '{{a}}{{b}}', { a: '{{', b: 'a}}' }, '{{a}}'],
  ['a replacement pattern', '[{{a}}]', { a: "$& $1 $$ $` $' $<a>" }, "[$& $1 $$ $` $' $<a>]"],
  ['the prototype', '[{{constructor}}{{toString}}]', {}, '[]'],
])('render() fills nothing from %s', (_, template, filled, text) => {
  expect(render(template, values(filled))).toBe(text)
})

test('render() leaves the literal parts unchanged for any values', () => {
  const literal = fc.string({ unit: fc.constantFrom('x', ' ', '\n', '$&', '}', '"', 'é', '😀') })
  const value = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.constantFrom('{{a}}', '{{ b }}', '{{', '}}', '$1', '', '{{constructor}}'),
  )
  fc.assert(
    fc.property(
      fc.array(fc.tuple(literal, fc.constantFrom('a', 'b', 'c')), { maxLength: 6 }),
      literal,
      fc.record({ a: value, b: value, c: value }),
      (parts, last, filled) => {
        const template = parts.map(([text, name]) => `${text}{{${name}}}`).join('') + last
        const expected = parts.map(([text, name]) => text + filled[name]).join('') + last
        expect(render(template, values(filled))).toBe(expected)
      },
    ),
  )
})

test("parseVariables() returns the values in the owner's order", () => {
  const found = parsed({ language: 'Deutsch', topic: 'sea' }, haiku, 100)
  expect([...found]).toEqual([
    ['topic', 'sea'],
    ['language', 'Deutsch'],
  ])
})

test('parseVariables() accepts an empty text and one of exactly the maximum length', () => {
  for (const topic of ['', '0123456789']) {
    expect(parsed({ topic, language: 'English' }, haiku, 100).get('topic')).toBe(topic)
  }
})

test.each([
  [{ topic: 'sea' }, 'missing_field', 'language', 'Cannot find the variable "language": '],
  [{ topic: null, language: 'English' }, 'missing_field', 'topic', 'Cannot find the variable '],
  [{ topic: 'a', language: 'English', x: '' }, 'invalid_value', 'x', 'no such variable, it has'],
  [
    { topic: '0123456789x', language: 'English' },
    'invalid_value',
    'topic',
    'Cannot use "prompt.variables.topic": expected at most 10 characters, got 11',
  ],
  [{ topic: 5, language: 'English' }, 'invalid_value', 'topic', 'expected a string, got 5'],
  [{ topic: ['a'], language: 'English' }, 'invalid_value', 'topic', 'a string, got an array'],
  [{ topic: {}, language: 'English' }, 'invalid_value', 'topic', 'a string, got an object'],
  [{ topic: '\ud800', language: 'English' }, 'invalid_value', 'topic', 'well-formed Unicode'],
  [{ topic: 'a', language: 'english' }, 'invalid_value', 'language', 'one of English, Deutsch'],
  [{ topic: 'a', language: '' }, 'invalid_value', 'language', 'one of English, Deutsch, got ""'],
  [
    { topic: 'a', language: 'English', constructor: 'x' },
    'invalid_value',
    'constructor',
    'no such',
  ],
])('parseVariables() rejects %j', (given, code, name, state) => {
  const refused = refusalOf(() => parsed(given as Record<string, unknown>, haiku, 100))
  expect(refused).toMatchObject({ code, param: `prompt.variables.${name}` })
  expect(refused.message).toContain(state)
})

test('parseVariables() rejects a variable called __proto__', () => {
  const given: Record<string, unknown> = JSON.parse('{"__proto__":"x"}')
  expect(refusalOf(() => parsed(given, {}, 100))).toMatchObject({
    code: 'invalid_value',
    param: 'prompt.variables.__proto__',
  })
})

test('parseVariables() limits the total length of the variables', () => {
  const variables: Variables = { a: { max_chars: 10 }, b: { max_chars: 10 } }
  const given = { a: '12345', b: '678901' }
  expect(parsed(given, variables, 11).size).toBe(2)
  expect(refusalOf(() => parsed(given, variables, 10))).toEqual({
    code: 'invalid_value',
    param: 'prompt.variables',
    message: 'Cannot use "prompt.variables": expected at most 10 characters in total, got 11',
  })
})

test('parseVariables() shortens long names and values in its message', () => {
  const long = 'n'.repeat(1e5)
  const name = refusalOf(() => parsed({ [long]: 'x' }, {}, 100))
  expect(name.param).toBe(`prompt.variables.${'n'.repeat(64)}`)
  expect(name.message.length).toBeLessThan(200)
  const word = refusalOf(() => parsed({ language: long, topic: '' }, haiku, 100))
  expect(word.message.length).toBeLessThan(200)
})

test('parseVariables() accepts a prompt without variables', () => {
  expect(parsed({}, {}, 0).size).toBe(0)
  expect(refusalOf(() => parsed({ a: '' }, {}, 10)).message).toContain('it has none')
})
