// The questions of a page: how they are read from an answer, and which prompts can write them.
import { expect, test } from 'vitest'
import { parseQuestions, questionsPrompt } from '../../../scripts/index/questions.ts'

const questions = (text: string, isCut = false) => parseQuestions({ text, isCut })

test.each([
  ['lines', 'How do I start?\nWhat does it cost?\n', ['How do I start?', 'What does it cost?']],
  ['numbers', '1. One?\n2) Two?\n 10: Ten?', ['One?', 'Two?', 'Ten?']],
  ['bullets', '- One?\n* Two?\n• Three?\n  – Four?', ['One?', 'Two?', 'Three?', 'Four?']],
  ['bullets with numbers', '- 1. One?\r\n- 2. Two?', ['One?', 'Two?']],
  ['headings', '# Questions\n\nHere are they:\n**Basics:**\nOne?\n## More\nTwo?', ['One?', 'Two?']],
  ['emphasis and quotes', '**One?**\n"Two?"\n„Drei?“', ['One?', 'Two?', 'Drei?']],
  ['the same twice', 'One?\n1. One?', ['One?']],
  ['control characters', 'One\u001b[31m?\u0000', ['One [31m?']],
  ['half a character', 'One\ud800?', ['One\ufffd?']],
  [
    'questions that begin with digits',
    '404 errors: why?\n3.5 or 4?',
    ['404 errors: why?', '3.5 or 4?'],
  ],
  ['no questions', '\n \n', []],
])('parseQuestions() reads %s', (_, text, expected) => {
  expect(questions(text)).toEqual(expected)
})

test('parseQuestions() leaves out the last line of a cut answer', () => {
  expect(questions('One?\nTwo?\nThr', true)).toEqual(['One?', 'Two?'])
  expect(questions('One?\nTwo?\n', true)).toEqual(['One?', 'Two?'])
  expect(questions('One', true)).toEqual([])
})

test('parseQuestions() takes at most 12 questions of at most 200 characters', () => {
  const many = Array.from({ length: 20 }, (_, i) => `Question ${i}?`)
  expect(questions(many.join('\n'))).toEqual(many.slice(0, 12))
  const [long, longest] = [`${'x'.repeat(200)}?`, `${'x'.repeat(199)}?`]
  expect(questions(`${long}\n${longest}`)).toEqual([longest])
})

test('questionsPrompt() takes a prompt whose only variable is a page', () => {
  const page = { from: 'url', paths: ['/*'], max_chars: 900 }
  const list = (variables: object) => ({ data: [{ id: 'ask', variables }] })
  expect(questionsPrompt(list({ page }), 'ask')).toMatchObject({ id: 'ask', variable: 'page' })
  expect(() => questionsPrompt(list({ page }), 'other')).toThrow(
    'Cannot find the prompt "other": the Worker has ask',
  )
  expect(() => questionsPrompt(list({ topic: {} }), 'ask')).toThrow('no variable { from = "url" }')
  expect(() => questionsPrompt(list({ page, language: {} }), 'ask')).toThrow(
    'Cannot use the prompt "ask" for questions: it has the variable "language"',
  )
})
