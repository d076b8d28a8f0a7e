// Which responses and figures break a promise.
import { describe, expect, test } from 'vitest'
import type { Figures } from '../../../scripts/attack/figures.ts'
import { budgetFaults, faultsOf, generatedTokens } from '../../../scripts/attack/judge.ts'
import type { Received } from '../../../scripts/attack/send.ts'
import type { Shot } from '../../../scripts/attack/shot.ts'

const PAGE = 'https://site.example'

function judge(
  shot: Partial<Shot>,
  { headers = {}, ...rest }: Partial<Omit<Received, 'headers'>> & { headers?: HeadersInit } = {},
): string[] {
  const sent: Shot = {
    method: 'POST',
    path: '/v1/completions',
    headers: { origin: PAGE },
    body: null,
    expects: 'any',
    tokens: 0,
    leaves: null,
    resumes: false,
    ...shot,
  }
  const received = { how: 'whole', status: 200, text: '{}', ...rest } as const
  return faultsOf(sent, { ...received, headers: new Headers(headers) }, ['the-owners-secret'])
}

const error = (code: string) => JSON.stringify({ error: { code, message: 'x' } })
const readable = (origin: string) => ({ 'access-control-allow-origin': origin })

describe('a response', () => {
  test.each<[string, Parameters<typeof judge>]>([
    ['an answer', [{}, { headers: readable(PAGE) }]],
    [
      'a refused origin',
      [
        { expects: 'origin refused', headers: { origin: 'https://a.example' } },
        { status: 403, text: error('origin_not_allowed'), headers: readable('https://a.example') },
      ],
    ],
    [
      'a wrong token',
      [{ expects: 'token refused' }, { status: 401, text: error('operator_token_invalid') }],
    ],
    ['a documented 502', [{}, { status: 502, text: error('upstream_unavailable') }]],
    ['a 429 of something in front of the Worker', [{}, { status: 429, text: '<html>' }]],
    ['no response', [{ expects: 'refused' }, { status: 0, how: 'broken' }]],
    [
      'words that resemble keys',
      [
        {},
        { text: 'a task-list-of-many-words, cmpl-9aZ3kQ8vB2nM5xC7dF1gH4jK, disk-0123456789abcdef' },
      ],
    ],
  ])('is fine: %s', (_, sent) => {
    expect(judge(...sent)).toEqual([])
  })

  test.each<[string, string, Parameters<typeof judge>]>([
    [
      'an answer for another site',
      'expected 403 origin_not_allowed, got 200',
      [{ expects: 'origin refused' }],
    ],
    [
      'a body that was read first',
      'got 400 invalid_json',
      [{ expects: 'origin refused' }, { status: 400, text: error('invalid_json') }],
    ],
    ['an operator path', 'expected 401, got 200', [{ expects: 'token refused' }]],
    ['an accepted request', 'expected an error, got 200', [{ expects: 'refused' }]],
    ['500', 'undocumented 500 internal', [{}, { status: 500, text: error('internal') }]],
    ['502 of a proxy', 'undocumented 502', [{}, { status: 502, text: '<html>' }]],
    [
      'a code with the status of another',
      'undocumented 503 upstream_timeout',
      [{}, { status: 503, text: error('upstream_timeout') }],
    ],
    ['CORS for all', 'readable by *', [{}, { headers: readable('*') }]],
    [
      'CORS for another site',
      'readable by another site',
      [
        { expects: 'origin refused', headers: { origin: 'https://a.example' } },
        { status: 403, text: error('rate_limited'), headers: readable('https://a.example') },
      ],
    ],
    [
      'CORS with credentials',
      'allows credentials',
      [{}, { headers: { 'access-control-allow-credentials': 'true' } }],
    ],
    [
      'a forced refresh',
      'forced a new answer',
      [{}, { headers: { 'cache-status': 'edge-completions; fwd=request' } }],
    ],
    [
      'a GET that spends',
      'a GET caused',
      [{ method: 'GET' }, { headers: { 'cache-status': 'edge-completions; fwd=miss' } }],
    ],
    ['a secret in the text', 'a secret of the owner', [{}, { text: 'x the-owners-secret x' }]],
    [
      'a secret in a header',
      'a secret of the owner',
      [{}, { headers: { 'x-upstream': 'the-owners-secret' } }],
    ],
    ['a key', 'something like a key', [{}, { text: '{"text":"sk-proj-0123456789abcdefghij"}' }]],
  ])('is a fault: %s', (_, fault, sent) => {
    expect(judge(...sent)).toContainEqual(expect.stringContaining(fault))
  })
})

test('only the leader of a call counts what was generated', () => {
  const tokens = (cacheStatus: string, text: string) =>
    generatedTokens({
      how: 'whole',
      status: 200,
      headers: new Headers({ 'cache-status': `edge-completions; ${cacheStatus}` }),
      text,
    })
  const json = '{"usage":{"prompt_tokens":5,"total_tokens":12}}'
  expect(tokens('fwd=miss; stored', json)).toBe(12)
  expect(tokens('fwd=bypass', 'data: {"usage":null}\n\ndata: {"usage":{"total_tokens":7}}')).toBe(7)
  expect(tokens('fwd=miss; collapsed', json)).toBe(0)
  expect(tokens('hit; ttl=5; detail=kv', json)).toBe(0)
  expect(tokens('fwd=miss', 'no usage')).toBe(0)
})

describe('the day', () => {
  const figures: Figures = {
    now: 86_400 * 20_000,
    tokensPerDay: 1000,
    spent: 100,
    reserved: 0,
    above: 0,
    usdPerDay: 1,
    usdSpent: 0.1,
  }
  const judged = (more: Partial<Figures>, generated = 0) =>
    budgetFaults({ before: figures, samples: [{ ...figures, ...more }], generated })

  test('is fine up to the budget, and above it by what upstreams report above reservations', () => {
    expect(judged({ spent: 700, reserved: 300 }, 600)).toEqual([])
    expect(judged({ spent: 1200, above: 200, usdSpent: 2 }, 1100)).toEqual([])
    // Another day began.
    expect(judged({ now: figures.now + 86_400, spent: 0, usdSpent: 0 }, 500)).toEqual([])
  })

  test('is fine if the owner has lowered the budget below what was spent', () => {
    const lowered = { ...figures, tokensPerDay: 50, usdPerDay: 0.01 }
    expect(budgetFaults({ before: lowered, samples: [lowered], generated: 0 })).toEqual([])
  })

  test.each([
    [
      'more tokens than the budget',
      { spent: 900, reserved: 101 },
      0,
      '1001 tokens of a budget of 1000',
    ],
    ['more money than the budget', { usdSpent: 1.01 }, 0, 'spent $1.01 of a budget of $1'],
    ['less than before', { spent: 99 }, 0, 'the tokens spent have decreased'],
    ['less than was generated', { spent: 150 }, 51, 'report 51 tokens, and the budget counted 50'],
  ])('is a fault: %s', (_, more, generated, fault) => {
    expect(judged(more, generated)).toContainEqual(expect.stringContaining(fault))
  })

  test('is a fault during the attack, or if it cannot be read afterwards', () => {
    const samples = [{ ...figures, spent: 1001 }, figures]
    expect(budgetFaults({ before: figures, samples, generated: 0 })).toHaveLength(1)
    expect(budgetFaults({ before: figures, samples: [], generated: 0 })).toHaveLength(1)
  })
})
