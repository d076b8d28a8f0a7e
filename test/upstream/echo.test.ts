// Adding an echo here, and checking the echo that an upstream was asked for.
import { expect, test } from 'vitest'
import { Echo, EchoCheck } from '../../src/upstream/echo.ts'

const text = (received: string, index = 0) =>
  ({ kind: 'text', index, text: received, logprobs: null }) as const

test('Echo adds each prompt once, before the first text of its choice', () => {
  const echo = new Echo(['One', 'Two'])
  expect([text('b', 1), text('a'), text('c')].map((delta) => echo.add(delta).text)).toEqual([
    'Twob',
    'Onea',
    'c',
  ])
  expect(echo.rest()).toEqual([])
})

test('Echo adds the prompt at the end for choices without text', () => {
  const echo = new Echo(['One', 'Two'])
  echo.add(text('a'))
  expect(echo.rest()).toEqual([text('Two', 1)])
  expect(echo.rest()).toEqual([])
})

test('Echo adds nothing if no echo was requested', () => {
  expect(new Echo([]).add(text('a'))).toEqual(text('a'))
})

test.each<[string, string[], readonly (readonly [string, number])[], boolean]>([
  ['at once', ['One'], [['One more', 0]], true],
  [
    'in pieces',
    ['One'],
    [
      ['O', 0],
      ['ne', 0],
      ['!', 0],
    ],
    true,
  ],
  [
    'for each choice',
    ['One', 'Two'],
    [
      ['Two!', 1],
      ['One', 0],
    ],
    true,
  ],
  ['for only one of the choices', ['One', 'Two'], [['One', 0]], false],
  [
    'not at all',
    ['One'],
    [
      ['Two', 0],
      ['One', 0],
    ],
    false,
  ],
  ['only half', ['One'], [['On', 0]], false],
  ['of a prompt that is not known as text', [''], [['a', 0]], true],
  ['that was not requested', [], [['a', 0]], true],
])('EchoCheck recognises an echo that comes %s', (_, prompts, received, hasCome) => {
  const check = new EchoCheck(prompts)
  for (const [piece, index] of received) check.see(text(piece, index))
  expect(check.hasCome).toBe(hasCome)
})
