// `stop` at upstreams that send the stop sequence, too: what is cut off their answers.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { StopCut } from '../../src/upstream/stop.ts'
import { completionOf, streamOf } from '../support/answers.ts'
import { chunk, compatible, streamAnswer, TestApp } from '../support/app.ts'

function trickle(stops: readonly string[], pieces: readonly string[]): string[] {
  const cut = new StopCut(stops)
  return [...pieces.map((piece) => cut.add(piece)), cut.end()]
}

describe('StopCut', () => {
  test.each([
    ['a stop sequence', ['END'], 'one END two', 'one '],
    ['one at the beginning', ['END'], 'END', ''],
    ['the first of two', ['x', 'b'], 'a b x', 'a '],
    ['the one that is complete first', ['abcd', 'b'], 'abcd', 'a'],
    ['the longer one of two that end together', ['ab', 'b'], 'ab', ''],
    ['none', ['END'], 'one EN', 'one EN'],
  ])('cuts a text before %s', (_, stops, text, expected) => {
    expect(trickle(stops, [text]).join('')).toBe(expected)
  })

  test('holds back only what may be the beginning of a stop sequence', () => {
    const pieces = ['a\n', 'b', 'c\n', '\n', 'd']
    expect(trickle(['\n\n'], pieces)).toEqual(['a', '\nb', 'c', '', '', ''])
  })

  test('cuts in the same place however the text is split', () => {
    const part = fc.string({ unit: fc.constantFrom('a', 'b'), minLength: 1, maxLength: 4 })
    const stops = fc.array(part, { minLength: 1, maxLength: 3 })
    fc.assert(
      fc.property(stops, fc.array(part), (stops, pieces) => {
        const text = pieces.join('')
        const cut = trickle(stops, pieces).join('')
        expect(trickle(stops, [text]).join('')).toBe(cut)
        expect(text.startsWith(cut)).toBe(true)
        expect(stops.some((stop) => cut.includes(stop))).toBe(false)
        if (!stops.some((stop) => text.includes(stop))) expect(cut).toBe(text)
      }),
    )
  })
})

describe('a request with stop', () => {
  const open = (answer: () => Response) =>
    new TestApp({ config: { upstreams: [compatible] }, upstream: answer })
  const choice = (text: string, more = {}) => ({ index: 0, text, finish_reason: 'stop', ...more })
  const body = { prompt: 'The sea, over', stop: [' over'] }

  test('is answered without the stop sequence that the upstream sends, as JSON', async () => {
    const app = open(() => Response.json({ choices: [choice('a wave over')] }))
    for (const status of ['fwd=miss', '; hit;']) {
      const reply = await app.post({ ...body, echo: true })
      expect(reply.headers['cache-status']).toContain(status)
      const [first] = completionOf(reply).choices
      expect(first).toMatchObject({ text: 'The sea, overa wave', finish_reason: 'stop' })
    }
  })

  test('is answered without it as a stream', async () => {
    const texts = ['a', ' wave', ' o', 'verh', ' more']
    const app = open(() =>
      streamAnswer(...texts.map((text) => chunk(text)), chunk('', 'stop'), 'data: [DONE]\n\n'),
    )
    const stream = streamOf(await app.post({ ...body, stream: true }))
    expect([stream.text(), stream.finish(), stream.done]).toEqual(['a wave', 'stop', true])
  })

  test('has it together with log probabilities, which cannot be cut exactly', async () => {
    const logprobs = { tokens: ['a', ' over'], token_logprobs: [-1, -2], top_logprobs: null }
    const app = open(() => Response.json({ choices: [choice('a over', { logprobs })] }))
    const [first] = completionOf(await app.post({ ...body, logprobs: 0 })).choices
    expect(first).toMatchObject({ text: 'a over', logprobs: { tokens: ['a', ' over'] } })
  })
})
