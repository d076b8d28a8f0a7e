// The most tokens that a call can read and write, measured on the body that is sent.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { CallRequest, Upstream } from '../../src/upstream/adapter.ts'
import { anthropic } from '../../src/upstream/anthropic.ts'
import { chat } from '../../src/upstream/chat.ts'
import { completions } from '../../src/upstream/completions.ts'
import { extentOf } from '../../src/upstream/extent.ts'
import { workersAi } from '../../src/upstream/workers-ai.ts'
import { callRequest } from '../support/upstreams.ts'

const request = callRequest({ prompts: ['Once €'], max_tokens: 100 })
const options = { maxTokensField: 'max_tokens', streamUsage: true, path: null } as const

function extent(upstream: Upstream, fields: Partial<CallRequest> = {}) {
  const call = { ...request, ...fields }
  return extentOf(upstream.toWire(call, options), call)
}

function stringBytes(value: unknown): number {
  if (typeof value === 'string') return Buffer.byteLength(value)
  if (typeof value !== 'object' || value === null) return 0
  return Object.values(value).reduce<number>((sum, item) => sum + stringBytes(item), 0)
}

const wires = { chat, completions, anthropic, 'workers-ai': workersAi }

describe.each(Object.entries(wires))('extentOf() on the %s wire', (_, upstream) => {
  test('is the bytes of the prompt and 64, and max_tokens', () => {
    expect(extent(upstream)).toEqual({ input: 8 + 64, output: 100 })
  })

  test("counts the owner's parameters at any depth, including the names in a schema", () => {
    const hidden = { guided: 'x'.repeat(1000), tools: [{ function: { ['y'.repeat(1000)]: 1 } }] }
    expect(extent(upstream, { parameters: hidden }).input).toBeGreaterThan(2072)
    const number = { enum: { values: [123_456_789] } }
    expect(extent(upstream, { parameters: number }).input).toBeGreaterThan(72 + 9)
  })

  test.each([
    { num_predict: 5000 },
    { max_output_tokens: 5000 },
    { options: { num_predict: 5000 } },
    { reasoning: { max_tokens: 5000 } },
    { thinking: { type: 'enabled', budget_tokens: 5000 } },
    { candidate_count: 50 },
    { extra_body: { num_return_sequences: 50 } },
    { num_predict: '5000' },
    { providers: [{ max_tokens: 5000 }] },
  ])("counts the limit in the owner's parameters %j", (parameters) => {
    expect(extent(upstream, { parameters }).output).toBe(5000)
  })

  test("takes no limit from the names in a visitor's schema", () => {
    const schema = { default: { max_tokens: 5000, n: 50 } }
    const response_format = { type: 'json_schema', json_schema: { schema } }
    const { input, output } = extent(upstream, { response_format })
    expect(output).toBe(100)
    expect(input > 72).toBe(upstream !== anthropic)
  })

  test('is at least the bytes of all strings in the body, for any fields', () => {
    const parameters = fc.dictionary(fc.string(), fc.jsonValue())
    const text = fc.string({ unit: 'binary', minLength: 1 })
    const fields = fc.record(
      { parameters, prompts: fc.tuple(text), system: text, suffix: text, stop: fc.array(text) },
      { requiredKeys: ['parameters'] },
    )
    fc.assert(
      fc.property(fields, (given) => {
        const call = { ...request, ...given }
        const wire = upstream.toWire(call, options)
        expect(stringBytes(wire.body)).toBeLessThanOrEqual(extentOf(wire, call).input)
      }),
    )
  })

  test('uses the larger of two limits, and at least one answer', () => {
    expect(extent(upstream, { parameters: { num_predict: -1, n: 0.5 } }).output).toBe(100)
  })
})

test.each([
  ['chat', chat],
  ['anthropic', anthropic],
  ['workers-ai', workersAi],
] as const)('extentOf() counts the system on the %s wire', (_, upstream) => {
  expect(extent(upstream, { system: 'Be brief.' }).input).toBe(8 + 9 + 64)
})

describe('extentOf() on the completions wire', () => {
  test('counts the system text of a locked prompt with its separator, and only if it is sent', () => {
    expect(extent(completions, { system: 'Be brief.', locked: true }).input).toBe(8 + 11 + 64)
    expect(extent(completions, { system: 'Be brief.' }).input).toBe(8 + 64)
  })

  test('counts every prompt, and the other fields once for each prompt', () => {
    const fields = { prompts: ['a', 'bc', 'def'], suffix: '€€', stop: ['stop'] }
    expect(extent(completions, fields)).toEqual({ input: 6 + 3 * (64 + 6 + 4), output: 300 })
  })

  test('counts token prompts by their tokens', () => {
    const tokens = { prompts: [[123_456, 1], [7]] }
    expect(extent(completions, tokens)).toEqual({ input: 3 + 2 * 64, output: 200 })
  })

  test('counts max_tokens for the larger of n and best_of', () => {
    expect(extent(completions, { n: 3 }).output).toBe(300)
    expect(extent(completions, { n: 2, best_of: 4 }).output).toBe(400)
  })

  test('ignores fields that are not part of the input', () => {
    expect(
      extent(completions, { logit_bias: { 50256: -100 }, seed: 123_456, logprobs: 5 }),
    ).toEqual({ input: 8 + 64, output: 100 })
  })
})
