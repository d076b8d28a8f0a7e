// Which requests an attack makes.
import { expect, test } from 'vitest'
import { attacks } from '../../../scripts/attack/attacks.ts'
import { planOf } from '../../../scripts/attack/plan.ts'
import type { Target } from '../../../scripts/attack/target.ts'

const target: Target = {
  url: new URL('https://edge.example'),
  origin: 'https://edge.example',
  isLocal: false,
  limits: { max_tokens: 100, n: 2, prompt_chars: 50, messages: 4, chat_chars: 300 },
  freePrompts: true,
  turnstile: false,
  models: ['m'],
  chats: [],
  prompts: [{ id: 'haiku', variables: { topic: { max_chars: 40 } } }],
  visitorToken: null,
}
const options = { requests: 300, seed: 7, anyOrigin: false }
const shotsOf = (more: Partial<typeof options> = {}, of: Partial<Target> = {}) =>
  planOf({ ...target, ...of }, { ...options, ...more }).flatMap(({ shots }) => shots)

test('a seed always chooses the same requests, and another seed others', () => {
  expect(planOf(target, options)).toEqual(planOf(target, options))
  expect(planOf(target, options)).not.toEqual(planOf(target, { ...options, seed: 8 }))
})

test('a plan has exactly as many requests as it may, of every attack', () => {
  for (const requests of [1, 13, 300]) expect(shotsOf({ requests })).toHaveLength(requests)
  const names = new Set(planOf(target, options).map(({ name }) => name))
  expect([...names].sort()).toEqual(Object.keys(attacks).sort())
})

test('requests stay within the limits, except those that must be refused', () => {
  const bodies = shotsOf()
    .filter(({ expects, path, body }) => expects === 'any' && path.startsWith('/v1/c') && body)
    .map(({ body }) => JSON.parse(body ?? ''))
  expect(bodies.some(({ max_tokens }) => max_tokens === 100)).toBe(true)
  expect(bodies.some(({ n }) => n === 2)).toBe(true)
  expect(bodies.some(({ prompt }) => prompt?.length === 50)).toBe(true)
  for (const { prompt, messages, max_tokens = 1, n = 1 } of bodies) {
    if (typeof prompt === 'string') expect(prompt.length).toBeLessThanOrEqual(50)
    expect(messages?.length ?? 1).toBeLessThanOrEqual(4)
    expect([max_tokens <= 100, n <= 2]).toEqual([true, true])
  }
})

test('where only locked prompts are allowed, those are asked for', () => {
  const bodies = shotsOf({}, { freePrompts: false })
    .filter(({ tokens, path }) => tokens > 0 && path === '/v1/completions')
    .map(({ body }) => JSON.parse(body ?? '').prompt.id)
  expect(bodies.length).toBeGreaterThan(10)
  expect(new Set(bodies)).toEqual(new Set(['haiku']))
})

test('only a local Worker is sent addresses of visitors, and no request has an operator token', () => {
  const addresses = (isLocal: boolean) =>
    new Set(shotsOf({}, { isLocal }).map(({ headers }) => headers['cf-connecting-ip']))
  expect(addresses(false)).toEqual(new Set([undefined]))
  expect(addresses(true).size).toBeGreaterThan(8)
})

test('nothing on an operator path would change anything if it were accepted', () => {
  const bodies = shotsOf({ requests: 3000 })
    .filter(({ path, method }) => path.startsWith('/admin') && method !== 'GET')
    .map(({ body, path }) => [body, path.includes('?')])
  expect(bodies.length).toBeGreaterThan(10)
  for (const [body, hasQuery] of bodies) {
    expect(['{}', null]).toContain(body)
    expect(hasQuery).toBe(false)
  }
})

test('--any-origin expects no refusal of an origin', () => {
  const expected = (anyOrigin: boolean) =>
    new Set(shotsOf({ anyOrigin }).map((shot) => shot.expects))
  expect(expected(false)).toContain('origin refused')
  expect(expected(true)).not.toContain('origin refused')
})
