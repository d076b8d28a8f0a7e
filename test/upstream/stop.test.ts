// `stop` at upstreams that send the stop sequence, too: what is cut off their answers.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { StopCut } from '../../src/upstream/stop.ts'
import { completionOf, problemOf, streamOf } from '../support/answers.ts'
import { chunk, compatible, DONE, openStream, streamAnswer, TestApp } from '../support/app.ts'

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

describe('an upstream without the field', () => {
  test('is not sent stop, and its answer is cut', async () => {
    const app = new TestApp({
      config: { upstreams: [{ ...compatible, unsupported: ['stop'] }] },
      upstream: () => Response.json({ choices: [{ text: 'a\nuser: b', finish_reason: 'stop' }] }),
    })
    const [first] = completionOf(await app.post({ prompt: 'p', stop: ['\nuser:', ' \n'] })).choices
    expect(first).toMatchObject({ text: 'a', finish_reason: 'stop' })
    expect(await app.calls[0]?.json()).not.toHaveProperty('stop')
  })

  test('is sent all but the sequences that it refuses', async () => {
    const app = new TestApp({
      config: { upstreams: [{ ...compatible, unsupported: ['blank_stop'] }] },
      upstream: () => Response.json({ choices: [{ text: 'a\n\nb', finish_reason: 'stop' }] }),
    })
    const [first] = completionOf(await app.post({ prompt: 'p', stop: ['\n\n', 'END'] })).choices
    expect(first).toMatchObject({ text: 'a' })
    expect(await app.calls[0]?.json()).toMatchObject({ stop: ['END'] })
  })

  test.each([{ logprobs: 0 }, { logprobs: 0, echo: true }])(
    'refuses stop together with %j, which cannot be cut exactly',
    async (more) => {
      const app = new TestApp({
        config: { upstreams: [{ ...compatible, unsupported: ['stop'] }] },
      })
      const reply = await app.post({ prompt: 'p', stop: 'END', ...more })
      expect(problemOf(reply)).toMatchObject({ code: 'unsupported_by_upstream', param: 'stop' })
    },
  )
})

describe('an answer that has ended at its stop sequence', () => {
  const event = (object: unknown) => `data: ${JSON.stringify(object)}\n\n`
  const start = event({ response: 'One\nuser: Two' })
  const long = Array.from({ length: 100 }, () => event({ response: 'x'.repeat(50) }))
  const lost = () => {
    const stream = openStream()
    stream.push(start)
    setTimeout(() => stream.fail(new Error('lost')), 10)
    return stream.response()
  }
  const open = (upstream: () => Response) =>
    new TestApp({
      config: {
        upstreams: [{ name: 'ai', preset: 'workers-ai', max_output_bytes: 2000 }],
        models: [{ id: 'default', upstream: 'ai', upstream_model: '@cf/x' }],
      },
      upstream,
    })
  const body = { prompt: 'p', stop: ['\nuser:'] }

  test.each<[string, () => Response]>([
    ['a lost connection', lost],
    ['an error event', () => streamAnswer(start, event({ error: 'x' }))],
    ['an error as its reason', () => streamAnswer(start, event({ finish_reason: 'error' }), DONE)],
    ['too many bytes', () => streamAnswer(start, ...long, DONE)],
  ])('is whole, and stored, before %s', async (_, upstream) => {
    const app = open(upstream)
    const stream = streamOf(await app.post({ ...body, stream: true }))
    expect([stream.text(), stream.finish(), stream.done]).toEqual(['One', 'stop', true])
    const reply = await app.post(body)
    expect(reply.headers['cache-status']).toContain('hit')
    expect(completionOf(reply).choices).toMatchObject([{ text: 'One', finish_reason: 'stop' }])
  })

  test('is not stored if a content filter follows', async () => {
    const filtered = event({ response: '', finish_reason: 'content_filter' })
    const app = open(() => streamAnswer(start, filtered, DONE))
    expect(completionOf(await app.post(body)).choices[0]?.finish_reason).toBe('content_filter')
    expect((await app.post(body)).headers['cache-status']).not.toContain('hit')
  })

  test('is read for a moment only, for its usage', async () => {
    const app = open(() => {
      const stream = openStream()
      stream.push(start)
      setTimeout(() => {
        app.clock.ms += 2001
      }, 10)
      return stream.response()
    })
    const stream = streamOf(await app.post({ ...body, stream: true }))
    expect([stream.text(), stream.finish()]).toEqual(['One', 'stop'])
  })

  test.each(['```python\nreturn x\n```', 'def f(x):\n    return x\n'])(
    'is the text of the gap, if it is one: %j',
    async (response) => {
      const app = open(() => Response.json({ response }))
      const request = { prompt: 'def f(x):\n    ', suffix: '\n\nprint(f(1))', stop: ['\n'] }
      expect(completionOf(await app.post(request)).choices).toMatchObject([{ text: 'return x' }])
    },
  )
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

  test('ends with "stop" if the upstream ignored it until max_tokens', async () => {
    const more = { finish_reason: 'length' }
    const whole = open(() => Response.json({ choices: [choice('a over b', more)] }))
    expect(completionOf(await whole.post(body)).choices).toMatchObject([
      { text: 'a', finish_reason: 'stop' },
    ])
    const app = open(() => streamAnswer(chunk('a ov'), chunk('er b', 'length'), 'data: [DONE]\n\n'))
    const stream = streamOf(await app.post({ ...body, stream: true }))
    expect([stream.text(), stream.finish()]).toEqual(['a', 'stop'])
  })

  test('keeps another reason: it was cut by max_tokens, or filtered', async () => {
    const app = open(() =>
      Response.json({ choices: [choice('a ov', { finish_reason: 'length' })] }),
    )
    expect(completionOf(await app.post(body)).choices[0]).toMatchObject({
      text: 'a ov',
      finish_reason: 'length',
    })
    const filtered = open(() =>
      Response.json({ choices: [choice('a over', { finish_reason: 'content_filter' })] }),
    )
    expect(completionOf(await filtered.post(body)).choices[0]?.finish_reason).toBe('content_filter')
  })

  test('has it together with log probabilities, which cannot be cut exactly', async () => {
    const logprobs = { tokens: ['a', ' over'], token_logprobs: [-1, -2], top_logprobs: null }
    const app = open(() => Response.json({ choices: [choice('a over', { logprobs })] }))
    const [first] = completionOf(await app.post({ ...body, logprobs: 0 })).choices
    expect(first).toMatchObject({ text: 'a over', logprobs: { tokens: ['a', ' over'] } })
  })
})
