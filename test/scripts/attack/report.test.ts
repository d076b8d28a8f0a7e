// The last lines of an attack.
import { expect, test } from 'vitest'
import type { Figures } from '../../../scripts/attack/figures.ts'
import { dearestToken, risk, summary, worstDay } from '../../../scripts/attack/report.ts'
import type { Result } from '../../../scripts/attack/run.ts'
import { checkConfig } from '../../../scripts/config/check.ts'

const figures: Figures = {
  now: 1,
  tokensPerDay: 200_000,
  spent: 0,
  reserved: 0,
  above: 0,
  usdPerDay: 0,
  usdSpent: 0,
}
const result: Result = {
  before: figures,
  after: { ...figures, spent: 12_340, usdSpent: 0.00494 },
  counts: new Map([
    ['searches', { answered: 0, refused: 612, ended: 0 }],
    ['disconnects', { answered: 200, refused: 200, ended: 8 }],
  ]),
  refusals: new Map([
    ['not_found', 412],
    ['rate_limited', 400],
  ]),
  faults: [],
}

test('says what the worst day and the attack cost, what was refused and why', () => {
  expect(summary(result, 4e-7)).toBe(
    [
      'searches                    0 answered, 612 refused',
      'disconnects                 200 answered, 200 refused, 8 without a response',
      'Worst case for one day: 200,000 tokens = $0.08.',
      'This attack spent 12,340 tokens = $0.0049.',
      'It refused 812 of 1,020 requests: 412 not_found, 400 rate_limited.',
      'Every promise held.',
    ].join('\n'),
  )
})

test('lists every broken promise with its place, on one line without control characters', () => {
  const fault = { what: 'readable by \x1b[31mred', times: 3, where: 'searches, req_1' }
  expect(summary({ ...result, after: null, faults: [fault] }, null)).toMatch(
    /Worst case for one day: 200,000 tokens\.\nIt refused .*\nBROKEN {2}3 × readable by {2}?\[31mred \(searches, req_1\)\n1 promise was broken\.$/,
  )
})

test('the worst day is bounded by the limit in USD, and what is left by what was spent', () => {
  const limited = { ...figures, usdPerDay: 0.05, usdSpent: 0.02, spent: 150_000, reserved: 10_000 }
  expect(worstDay(limited, 1e-3)).toBe('Worst case for one day: 200,000 tokens = $0.05.')
  expect(worstDay(limited, null)).toBe('Worst case for one day: 200,000 tokens = $0.05.')
  expect(risk(limited, 1e-3)).toBe('40,000 tokens = $0.03')
  expect(risk(limited, 1e-7)).toBe('40,000 tokens = $0.004')
  expect(risk(figures, 1e-5)).toBe('200,000 tokens = $2.00')
})

test('the price is that of the dearest token, if the settings are those of the Worker', () => {
  const { config } = checkConfig({
    free_prompts: true,
    models: [
      {
        id: 'm',
        upstream: 'u',
        upstream_model: 'a',
        price: { input: 1, output: 4 },
        fallbacks: [{ upstream: 'u', upstream_model: 'b', price: { input: 9, output: 2 } }],
      },
      { id: 'n', upstream: 'u', upstream_model: 'c', price: { input: 3, output: 3 } },
    ],
    upstreams: [{ name: 'u', preset: 'demo' }],
  })
  expect(dearestToken(config, { models: ['n', 'm'] })).toBe(9e-6)
  expect(dearestToken(config, { models: ['m'] })).toBeNull()
  expect(dearestToken(null, { models: ['m'] })).toBeNull()
})
