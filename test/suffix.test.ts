// `suffix` on every wire, through the whole service: sent as it is where the wire has it, and
// emulated on wires of chat.
import { describe, expect, test } from 'vitest'
import { gapRequest } from '../src/upstream/gap.ts'
import { completionOf, problemOf, streamOf } from './support/answers.ts'
import { compatible, jsonAnswer, streamAnswer, TestApp } from './support/app.ts'
import { event } from './support/upstream-server.ts'

const gap = { prefix: 'function add(a, b) {\n  return ', suffix: '\n}\nexport { add }\n' }
const body = { prompt: gap.prefix, suffix: gap.suffix, max_tokens: 16 }
/** What models make of the gap, in pieces, and its text. */
const pieces = [
  '```js\nfunction add',
  '(a, b) {\n  re',
  'turn a +',
  ' b\n',
  '}\nexport',
  ' { add }\n```',
]
const TEXT = 'a + b'

const usage = { prompt_tokens: 30, completion_tokens: 9, total_tokens: 39 }
const done = 'data: [DONE]\n\n'
const chatChunk = (delta: object, finish_reason: string | null = null) =>
  event({ id: 'c', model: 'm', choices: [{ index: 0, delta, finish_reason }] })

/** An upstream of each wire of chat, what it answers, and where the system message is in its body. */
const wires = [
  {
    wire: 'chat',
    whole: (text: string) =>
      Response.json({
        choices: [
          { index: 0, message: { role: 'assistant', content: text }, finish_reason: 'stop' },
        ],
        usage,
      }),
    stream: (texts: readonly string[]) => [
      ...texts.map((content) => chatChunk({ content })),
      chatChunk({}, 'stop'),
      done,
    ],
  },
  {
    wire: 'anthropic',
    whole: (text: string) =>
      Response.json({
        type: 'message',
        content: [{ type: 'text', text }],
        stop_reason: 'end_turn',
        usage: { input_tokens: 30, output_tokens: 9 },
      }),
    stream: (texts: readonly string[]) => [
      event({ type: 'message_start', message: { usage: { input_tokens: 30, output_tokens: 1 } } }),
      ...texts.map((text) =>
        event({ type: 'content_block_delta', delta: { type: 'text_delta', text } }),
      ),
      event({
        type: 'message_delta',
        delta: { stop_reason: 'end_turn' },
        usage: { output_tokens: 9 },
      }),
      event({ type: 'message_stop' }),
    ],
  },
  {
    wire: 'workers-ai',
    whole: (text: string) => Response.json({ response: text, usage }),
    stream: (texts: readonly string[]) => [...texts.map((response) => event({ response })), done],
  },
] as const

const upstreamOf = (wire: string) => {
  if (wire === 'workers-ai') return { name: 'main', preset: wire }
  return { ...compatible, wire, auth: 'bearer' }
}

describe.each(wires)('on the wire $wire', ({ wire, whole, stream }) => {
  const open = (config: object, answers: () => Response) =>
    new TestApp({ config: { upstreams: [upstreamOf(wire)], ...config }, upstream: answers })

  async function sentBy(app: TestApp) {
    const sent = (await app.calls[0]?.json()) as Record<string, unknown>
    const messages = sent['messages'] as readonly { role: string; content: string }[]
    const [first] = messages
    const system = sent['system'] ?? (first?.role === 'system' ? first.content : null)
    return {
      sent,
      system,
      prompts: messages.filter((m) => m.role === 'user').map((m) => m.content),
    }
  }

  test('a miss is the text of the gap as JSON, and the hit is the same', async () => {
    const app = open({}, () => whole(pieces.join('')))
    const miss = await app.post(body)
    expect(completionOf(miss).choices[0]).toMatchObject({ text: TEXT, finish_reason: 'stop' })
    const { sent, system, prompts } = await sentBy(app)
    expect({ system, prompts }).toEqual(gapRequest(gap, null))
    expect(sent).not.toHaveProperty('suffix')
    const hit = await app.post(body)
    expect(hit.headers['cache-status']).toContain('; hit;')
    expect(hit.text).toBe(miss.text)
    expect(app.calls).toHaveLength(1)
  })

  test('a miss is the text of the gap as a stream, and so is the hit', async () => {
    const app = open({}, () => streamAnswer(...stream(pieces)))
    for (const status of ['fwd=miss', '; hit;']) {
      const reply = await app.post({ ...body, stream: true })
      expect(reply.headers['cache-status']).toContain(status)
      expect([streamOf(reply).text(), streamOf(reply).finish()]).toEqual([TEXT, 'stop'])
    }
    expect(app.calls).toHaveLength(1)
  })

  test('the instruction follows the owner’s system message', async () => {
    const models = [{ id: 'default', upstream: 'main', upstream_model: 'm', system: 'Write JS.' }]
    const app = open({ models }, () => whole(TEXT))
    await app.post(body)
    expect(await sentBy(app)).toMatchObject(gapRequest(gap, 'Write JS.'))
  })

  test('every choice is trimmed, and an echo is the prompt and the text of the gap', async () => {
    const app = open({ limits: { n: 2 } }, () => whole(pieces.join('')))
    const { choices } = completionOf(await app.post({ ...body, n: 2, echo: true }))
    expect(choices.map(({ text }) => text)).toEqual([gap.prefix + TEXT, gap.prefix + TEXT])
  })

  test('an answer that only repeats is empty, and not stored', async () => {
    const app = open({}, () => whole(gap.prefix))
    expect(completionOf(await app.post(body)).choices[0]).toMatchObject({ text: '' })
    expect(app.kv.puts).toEqual([])
  })

  test('an answer that breaks off is an error, though its first text is held back', async () => {
    const events = stream(['function'])
    const end = events.findIndex((data) => data.includes('function')) + 1
    const app = open({}, () => streamAnswer(...events.slice(0, end)))
    expect(problemOf(await app.post({ ...body, stream: true })).code).toBe('upstream_truncated')
  })

  test('unsupported = ["suffix"] refuses it, before any call', async () => {
    const upstreams = [{ ...upstreamOf(wire), unsupported: ['suffix'] }]
    const app = open({ upstreams }, () => whole(TEXT))
    const problem = problemOf(await app.post(body))
    expect(problem).toMatchObject({ code: 'unsupported_by_upstream', param: 'suffix' })
    expect(app.calls).toEqual([])
  })

  test('log probabilities are refused with it', async () => {
    const app = open({}, () => whole(TEXT))
    const problem = problemOf(await app.post({ ...body, logprobs: 0 }))
    expect(problem).toMatchObject({ code: 'unsupported_by_upstream', param: 'logprobs' })
    expect(app.calls).toEqual([])
  })
})

test('on the completions wire the upstream gets it as it is, and the answer is not changed', async () => {
  const app = new TestApp({ upstream: () => jsonAnswer(pieces.join('')) })
  expect(completionOf(await app.post(body)).choices[0]?.text).toBe(pieces.join(''))
  expect(await app.calls[0]?.json()).toMatchObject({ prompt: gap.prefix, suffix: gap.suffix })
})

test('an estimated usage counts it, and an echo does not count as generated', async () => {
  const answer = { choices: [{ index: 0, text: 'abcd', finish_reason: 'stop' }] }
  const app = new TestApp({ upstream: () => Response.json(answer) })
  const { usage } = completionOf(
    await app.post({ prompt: 'x'.repeat(8), suffix: 'y'.repeat(40), echo: true }),
  )
  expect(usage).toEqual({ prompt_tokens: 12, completion_tokens: 1, total_tokens: 13 })
})

test('a fallback of another wire is asked in its own way', async () => {
  const upstreams = [compatible, { ...compatible, name: 'chat', wire: 'chat' }]
  const fallbacks = [{ upstream: 'chat', upstream_model: 'm' }]
  const models = [{ id: 'default', upstream: 'main', upstream_model: 'm', fallbacks }]
  const app = new TestApp({
    config: { models, upstreams },
    upstream: ({ url }) =>
      url.endsWith('/chat/completions')
        ? wires[0].whole(pieces.join(''))
        : new Response('', { status: 401 }),
  })
  expect(completionOf(await app.post(body)).choices[0]?.text).toBe(TEXT)
})

test('a locked prompt takes it if the owner allows it, and is the text before the gap', async () => {
  const fill = { text: 'const {{name}} = ', variables: { name: { max_chars: 9 } } }
  const prompts = { fill: { ...fill, visitor_may_set: ['suffix'] }, locked: fill }
  const app = new TestApp({
    config: { upstreams: [upstreamOf('chat')], prompts },
    upstream: () => wires[0].whole('const x = 1'),
  })
  const post = (id: string) =>
    app.post({ prompt: { id, variables: { name: 'x' } }, suffix: '\nf(x)' })
  expect(completionOf(await post('fill')).choices[0]?.text).toBe('1')
  expect(problemOf(await post('locked')).code).toBe('locked_by_owner')
})

test('no setting names the wire’s own limit', async () => {
  const upstreams = [{ ...compatible, unsupported: ['native_suffix'] }]
  const app = new TestApp({ config: { upstreams } })
  expect(problemOf(await app.post(body)).code).toBe('misconfigured')
})
