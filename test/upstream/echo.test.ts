// Adding the prompt before its completion.
import { expect, test } from 'vitest'
import { Echo } from '../../src/upstream/echo.ts'

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
