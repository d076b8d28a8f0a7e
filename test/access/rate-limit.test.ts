// The rate limit fails open: the budget is the hard limit.
import { expect, test } from 'vitest'
import { isWithin, type VisitorLimit } from '../../src/access/rate-limit.ts'

test.each<[string, VisitorLimit, boolean]>([
  ['allows', async () => true, true],
  ['refuses', async () => false, false],
  ['answers with nothing', async () => undefined as unknown as boolean, true],
  ['throws', () => Promise.reject(new Error('broken')), true],
])('isWithin() of a limit that %s', async (_, limit, within) => {
  expect(await isWithin(limit, 'v')).toBe(within)
  // The operator has no limit.
  expect(await isWithin(limit, null)).toBe(true)
})
