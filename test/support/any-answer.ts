// Any complete answer, with the tokens that it consists of.
import fc from 'fast-check'
import { finishReasons, type Logprobs } from '../../src/completion/completion.ts'
import type { FoldedAnswer } from '../../src/completion/delta.ts'

interface Token {
  readonly text: string
  readonly logprob: number | null
  readonly top: Readonly<Record<string, number>> | null
}

const text = fc.string({ unit: 'binary', maxLength: 6 })
// JSON cannot represent -0.
const logprob = fc.double({ min: -100, max: 0, noNaN: true }).map((value) => value || 0)
const name = fc.string({ maxLength: 4 }).filter((key) => key !== '__proto__')
const top = fc.dictionary(name, logprob, { maxKeys: 3, noNullPrototype: true })
const choice = fc.record({
  tokens: fc.array(fc.record({ text, logprob: fc.option(logprob), top: fc.option(top) }), {
    maxLength: 6,
  }),
  scores: fc.constantFrom('none', 'tokens', 'top'),
  reason: fc.constantFrom(...finishReasons),
})
const count = fc.nat({ max: 1e9 })

export const textOf = (tokens: readonly Token[]) => tokens.map((token) => token.text).join('')

/** Log probabilities of some tokens, the first of which starts at `offset`. */
export function logprobsOf(tokens: readonly Token[], offset: number, withTop: boolean): Logprobs {
  return {
    tokens: tokens.map((token) => token.text),
    token_logprobs: tokens.map((token) => token.logprob),
    top_logprobs: withTop ? tokens.map((token) => token.top) : null,
    text_offset: tokens.map((_, i) => offset + textOf(tokens.slice(0, i)).length),
  }
}

export const anyAnswer = fc
  .record({
    choices: fc.array(choice, { minLength: 1, maxLength: 4 }),
    created: count,
    fingerprint: fc.option(text, { nil: undefined }),
    usage: fc.record({ prompt_tokens: count, completion_tokens: count, total_tokens: count }),
    estimated: fc.boolean(),
  })
  .map(({ choices, created, fingerprint, usage, estimated }) => {
    const folded: FoldedAnswer = {
      estimated,
      completion: {
        id: 'cmpl-ABCDEFGHIJKLMNOPQRSTUVWX',
        object: 'text_completion',
        created,
        model: 'demo',
        ...(fingerprint === undefined ? {} : { system_fingerprint: fingerprint }),
        choices: choices.map(({ tokens, scores, reason }, index) => ({
          text: textOf(tokens),
          index,
          logprobs: scores === 'none' ? null : logprobsOf(tokens, 0, scores === 'top'),
          finish_reason: reason,
        })),
        usage,
      },
    }
    return { folded, choices }
  })
