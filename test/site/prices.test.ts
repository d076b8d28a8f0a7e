// What an answer costs at a model's price, as the playground shows it.
import { afterEach, expect, test, vi } from 'vitest'
import { costOf, loadPrices, TOKEN } from '../../src/site/prices.js'

const usage = { prompt_tokens: 5, completion_tokens: 7 }

afterEach(() => {
  vi.unstubAllGlobals()
})

test('loadPrices() finds prices by own names only', async () => {
  const price = { input: 1, output: 2 }
  const prices = `{"models":{"__proto__":${JSON.stringify(price)}},"prompts":{}}`
  vi.stubGlobal('sessionStorage', { getItem: (name: string) => (name === TOKEN ? 'token' : null) })
  vi.stubGlobal('fetch', async () => new Response(`{"prices":${prices}}`))
  const found = await loadPrices()
  expect(found?.models.get('__proto__')).toEqual(price)
  expect(found?.prompts.get('constructor')).toBeUndefined()
})

test('costOf() has two significant digits, however small the cost is', () => {
  expect(costOf({ input: 10, output: 23 }, usage)).toBe('$0.00021')
  expect(costOf({ input: 0.1, output: 0 }, usage)).toBe('$0.0000005')
  expect(costOf({ input: 200_000, output: 35_000 }, usage)).toBe('$1.2')
})

test('costOf() is empty without a price, without usage, and for a model that costs nothing', () => {
  for (const price of [undefined, null, { input: 0, output: 0 }]) {
    expect(costOf(price, usage)).toBe('')
  }
  for (const none of [null, undefined]) expect(costOf({ input: 1, output: 1 }, none)).toBe('')
})
