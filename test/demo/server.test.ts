// The demo upstream as a service, through its HTTP interface.

import fc from 'fast-check'
import * as v from 'valibot'
import { expect, test, vi } from 'vitest'
import { completionSchema, type Logprobs } from '../../src/completion/completion.ts'
import { tokenize } from '../../src/demo/model.ts'
import { createDemo } from '../../src/demo/server.ts'
import { parseStream, type Stream } from '../support/answers.ts'
import { demoText } from '../support/demo-text.ts'

function start(
  wait = async (_ms: number, _signal: AbortSignal): Promise<void> => {},
  readText = async () => demoText,
) {
  const waits: number[] = []
  const demo = createDemo({
    readText,
    wait: (ms, signal) => {
      waits.push(ms)
      return wait(ms, signal)
    },
    now: () => 1_700_000_000_999,
    random: Math.random,
  })
  const post = (fields: object, signal: AbortSignal | null = null) =>
    demo(
      new Request('https://demo.invalid/v1/completions', {
        method: 'POST',
        body: JSON.stringify({ model: 'demo', prompt: 'Say this is a test', ...fields }),
        signal,
      }),
    )
  const whole = async (fields: object) => {
    const response = await post(fields)
    expect(response.status).toBe(200)
    return v.parse(completionSchema, await response.json())
  }
  const stream = async (fields: object) => {
    const response = await post({ ...fields, stream: true })
    expect(response.headers.get('content-type')).toContain('text/event-stream')
    const { chunks, done } = parseStream(await response.text())
    expect(done).toBe(true)
    return chunks
  }
  return { post, whole, stream, waits }
}

function joinChunks(chunks: Stream['chunks'], index: number) {
  const parts = chunks.flatMap(({ choices }) => choices).filter((each) => each.index === index)
  const list = (key: keyof Logprobs) =>
    parts.flatMap(({ logprobs }): readonly unknown[] => (logprobs as Logprobs | null)?.[key] ?? [])
  return {
    index,
    text: parts.map(({ text }) => text).join(''),
    logprobs: parts.every((part) => part.logprobs === null)
      ? null
      : {
          tokens: list('tokens'),
          token_logprobs: list('token_logprobs'),
          top_logprobs: list('top_logprobs'),
          text_offset: list('text_offset'),
        },
    finish_reason: parts.at(-1)?.finish_reason,
  }
}

test('createDemo() answers with a completion', async () => {
  const { whole, waits } = start()
  const { created, model, choices, usage: used } = await whole({ temperature: 0 })
  expect([created, model]).toEqual([1_700_000_000, 'demo'])
  expect(choices).toHaveLength(1)
  expect(choices[0]).toMatchObject({ index: 0, logprobs: null, finish_reason: 'length' })
  expect(tokenize(choices[0]?.text ?? '')).toHaveLength(16)
  expect(used).toEqual({ prompt_tokens: 5, completion_tokens: 16, total_tokens: 21 })
  expect(waits).toEqual([])
})

test('createDemo() streams the same answer that it would return whole', async () => {
  const { whole, stream } = start()
  const fields = fc.record({
    prompt: fc.oneof(fc.string({ unit: 'binary' }), fc.constant(['Alice was', 'The Mouse ', ''])),
    seed: fc.integer(),
    n: fc.integer({ min: 1, max: 3 }),
    max_tokens: fc.nat({ max: 40 }),
    echo: fc.boolean(),
    logprobs: fc.option(fc.nat({ max: 5 }), { nil: undefined }),
    stop: fc.subarray([' the', 'e', ', a', '."']),
    temperature: fc.constantFrom(0, 0.7, 1),
  })
  await fc.assert(
    fc.asyncProperty(fields, async (body) => {
      const answer = await whole(body)
      const chunks = await stream({ ...body, stream_options: { include_usage: true } })
      expect(answer.choices.map(({ index }) => joinChunks(chunks, index))).toEqual(answer.choices)
      expect(chunks.at(-1)).toMatchObject({ choices: [], usage: answer.usage })
      expect(chunks.slice(0, -1).every((chunk) => chunk.usage === null)).toBe(true)
    }),
    { numRuns: 40 },
  )
})

test('createDemo() counts exactly the tokens it read and sampled', async () => {
  const { whole } = start()
  const prompts = fc.array(fc.string({ unit: 'binary' }), { minLength: 1, maxLength: 3 })
  await fc.assert(
    fc.asyncProperty(prompts, fc.boolean(), async (prompt, echo) => {
      const { choices, usage: used } = await whole({
        prompt,
        echo,
        n: 2,
        logprobs: 0,
        max_tokens: 9,
      })
      const read = prompt.reduce((sum, text) => sum + tokenize(text).length, 0)
      const listed = choices.reduce((sum, each) => sum + (each.logprobs?.tokens.length ?? 0), 0)
      const sampled = listed - (echo ? 2 * read : 0)
      expect(used).toEqual({
        prompt_tokens: read,
        completion_tokens: sampled,
        total_tokens: read + sampled,
      })
    }),
    { numRuns: 25 },
  )
})

test('createDemo() counts tokens removed by a stop sequence', async () => {
  const { whole } = start()
  const [free] = (await whole({ seed: 4, logprobs: 0 })).choices
  const stop = free?.logprobs?.tokens.slice(3, 6).join('')
  const { choices, usage: used } = await whole({ seed: 4, stop, logprobs: 0 })
  expect(choices[0]?.finish_reason).toBe('stop')
  expect(choices[0]?.logprobs?.tokens).toHaveLength(3)
  expect(used?.completion_tokens).toBe(6)
})

test('createDemo() numbers choices by prompt, then by n', async () => {
  const { whole } = start()
  const prompt = ['Alice was', 'The Mouse']
  const { choices } = await whole({ prompt, n: 2, seed: 7, echo: true })
  expect(choices.map(({ index }) => index)).toEqual([0, 1, 2, 3])
  expect(choices.map(({ text }) => text.slice(0, 9))).toEqual([
    prompt[0],
    prompt[0],
    prompt[1],
    prompt[1],
  ])
  expect(new Set(choices.map(({ text }) => text)).size).toBe(4)
  const alone = await whole({ prompt: prompt[1], n: 2, seed: 7, echo: true })
  expect(alone.choices.map(({ text }) => text)).toEqual(choices.slice(2).map(({ text }) => text))
})

test('createDemo() answers best_of with the candidate of the highest mean logprob', async () => {
  const { whole } = start()
  for (let seed = 0; seed < 8; seed += 1) {
    const body = { seed, max_tokens: 30, logprobs: 0 }
    const all = await whole({ ...body, n: 6 })
    const ranked = all.choices
      .map((each) => {
        const found = each.logprobs?.token_logprobs ?? []
        const total = found.reduce<number>((sum, logprob) => sum + (logprob ?? 0), 0)
        return { text: each.text, mean: total / found.length }
      })
      .sort((a, b) => b.mean - a.mean)
    const best = await whole({ ...body, n: 2, best_of: 6 })
    expect(best.choices.map(({ text }) => text)).toEqual(ranked.slice(0, 2).map(({ text }) => text))
    expect(best.usage).toEqual(all.usage)
  }
})

test('createDemo() ranks a candidate emptied by a stop sequence by its sampled tokens', async () => {
  const { whole } = start()
  const one = (await whole({ seed: 1, max_tokens: 1, n: 4, logprobs: 0 })).choices
  const worst = one.toSorted(
    (a, b) => (a.logprobs?.token_logprobs[0] ?? 0) - (b.logprobs?.token_logprobs[0] ?? 0),
  )[0]
  const stop = worst?.text
  const best = await whole({ seed: 1, max_tokens: 1, best_of: 4, stop })
  expect(best.choices[0]?.text).not.toBe('')
})

test('createDemo() starts text_offset at the end of the prompt, or at 0 with echo', async () => {
  const { whole } = start()
  const prompt = 'Say 🙂 this'
  for (const echo of [false, true]) {
    const [choice] = (await whole({ prompt, echo, logprobs: 2 })).choices
    const { tokens = [], text_offset: offsets = [] } = choice?.logprobs ?? {}
    const text = echo ? choice?.text : prompt + choice?.text
    expect(offsets[0]).toBe(echo ? 0 : prompt.length)
    expect(tokens.every((token, i) => text?.startsWith(token, offsets[i]))).toBe(true)
    expect(tokens.join('')).toBe(choice?.text)
  }
})

test('a chat lists as many likely tokens as it asks for', async () => {
  const { whole } = start()
  const messages = ['a', 'b', 'c'].map((content) => ({ role: 'user', content }))
  for (const top_logprobs of [0, 4]) {
    const sent = { messages, prompt: undefined, logprobs: true, top_logprobs, seed: 1 }
    const [choice] = (await whole(sent)).choices
    const counts = (choice?.logprobs?.top_logprobs ?? []).map(
      (top) => Object.keys(top ?? {}).length,
    )
    // The chosen token is listed, too.
    expect(counts.length).toBeGreaterThan(0)
    for (const count of counts) expect([top_logprobs, top_logprobs + 1]).toContain(count)
  }
})

test('createDemo() scores an echoed prompt, with null for its first token', async () => {
  const { whole } = start()
  const { choices } = await whole({ echo: true, logprobs: 1, max_tokens: 0 })
  expect(choices[0]).toMatchObject({ text: 'Say this is a test', finish_reason: 'length' })
  const { token_logprobs: found = [], top_logprobs: top = [] } = choices[0]?.logprobs ?? {}
  expect([found[0], top?.[0]]).toEqual([null, null])
  expect(found.slice(1).every((each) => each !== null && each < 0)).toBe(true)
  expect(top?.slice(1).every((each) => each !== null)).toBe(true)
})

test('createDemo() ends a stream with text for "length" and without text for "stop"', async () => {
  const { stream } = start()
  const cut = await stream({ max_tokens: 3, seed: 1 })
  expect(cut).toHaveLength(3)
  expect(cut.at(-1)?.choices[0]).toMatchObject({ finish_reason: 'length' })
  expect(cut.at(-1)?.choices[0]?.text).not.toBe('')
  expect(cut.some((chunk) => 'usage' in chunk)).toBe(false)
  const ended = await stream({ max_tokens: 2000, seed: 1 })
  expect(ended.at(-1)?.choices[0]).toMatchObject({ text: '', finish_reason: 'stop' })
})

test('createDemo() paces a stream, with all choices in step', async () => {
  const { stream, waits } = start()
  await stream({ max_tokens: 5, temperature: 0, n: 3 })
  expect(waits).toEqual([12.5, 12.5, 12.5, 12.5, 12.5])
})

// A wait that tests resolve by hand. It rejects on abort, like the real one.
function heldWaits() {
  const resolvers: (() => void)[] = []
  const wait = (_ms: number, signal: AbortSignal) =>
    new Promise<void>((resolve, reject) => {
      resolvers.push(resolve)
      signal.addEventListener('abort', () => reject(signal.reason))
    })
  const release = () => {
    for (const resolve of resolvers.splice(0)) resolve()
  }
  return { wait, release }
}

const settle = () => new Promise((resolve) => setTimeout(resolve, 5))

test('createDemo() stops generating when its stream is cancelled', async () => {
  const { wait, release } = heldWaits()
  let last: AbortSignal | undefined
  const { post, waits } = start((ms, signal) => {
    last = signal
    return wait(ms, signal)
  })
  const reader = (await post({ stream: true, max_tokens: 500, temperature: 0 })).body?.getReader()
  const first = reader?.read()
  await settle()
  release()
  expect((await first)?.done).toBe(false)
  await settle()
  const before = waits.length
  expect(last?.aborted).toBe(false)
  await reader?.cancel()
  expect(last?.aborted).toBe(true)
  for (let i = 0; i < 3; i += 1) {
    release()
    await settle()
  }
  expect(before).toBeGreaterThan(1)
  expect(waits.length).toBe(before)
})

test('createDemo() stops generating when the request is aborted, during a wait or between waits', async () => {
  for (const patient of [true, false]) {
    const held = heldWaits()
    const { post, waits } = start(patient ? held.wait : undefined)
    const abort = new AbortController()
    const response = await post({ stream: true, max_tokens: 500, temperature: 0 }, abort.signal)
    await settle()
    const before = waits.length
    abort.abort(new Error('Gone'))
    await expect(response.text()).rejects.toThrow('Gone')
    held.release()
    await settle()
    expect(before).toBeGreaterThan(0)
    expect(waits.length).toBe(before)
  }
})

test('createDemo() generates at most one token ahead of a slow reader', async () => {
  const { post, waits } = start()
  const reader = (await post({ stream: true, max_tokens: 500, temperature: 0 })).body?.getReader()
  for (let i = 0; i < 4; i += 1) await reader?.read()
  await settle()
  expect(waits.length).toBeLessThanOrEqual(5)
  await reader?.cancel()
})

test('createDemo() rejects requests that would take too much CPU time', async () => {
  const { post } = start()
  const most = { prompt: ['a', 'b'], n: 8, max_tokens: 4096 }
  for (const more of [{ n: 9 }, { best_of: 9 }, { max_tokens: 4097 }, { prompt: ['', '', ''] }]) {
    const response = await post({ ...most, ...more })
    const { error } = JSON.parse(await response.text())
    expect([response.status, error.param]).toEqual([400, 'max_tokens'])
    expect(error.message).toMatch(/^Cannot use "max_tokens": expected at most 65536 .*, got \d+$/)
  }
  const response = await post({ ...most, stream: true })
  expect(response.status).toBe(200)
  await response.body?.cancel()
})

test('createDemo() reads its text on the first good request, and again only after a failure', async () => {
  const readText = vi
    .fn(async () => demoText)
    .mockRejectedValueOnce(new Error('words of the platform'))
  const { post, whole } = start(undefined, readText)
  expect((await post({ n: 128, max_tokens: 4096 })).status).toBe(400)
  expect(readText).not.toHaveBeenCalled()
  await expect(post({})).rejects.toMatchObject({
    code: 'upstream_unavailable',
    cause: { code: 'no_demo_text', hint: expect.stringMatching(/^no_demo_text /) },
  })
  await whole({})
  await whole({})
  expect(readText).toHaveBeenCalledTimes(2)
})

// On Workers a request may not wait for what another one reads.
test('createDemo() does not let a request wait for the text that another one reads', async () => {
  const stuck = Promise.withResolvers<string>()
  const readText = vi.fn(async () => demoText).mockReturnValueOnce(stuck.promise)
  const { whole } = start(undefined, readText)
  const first = whole({ seed: 1 })
  const { choices } = await whole({ seed: 1 })
  stuck.resolve(demoText)
  expect((await first).choices).toEqual(choices)
})

test('createDemo() continues the messages of a chat as one text', async () => {
  const { whole } = start()
  const messages = ['Once', 'upon', 'a time'].map((content) => ({ role: 'user', content }))
  const fields = { seed: 1, max_tokens: 9 }
  const prompted = await whole({ prompt: 'Once\n\nupon\n\na time', ...fields })
  expect((await whole({ prompt: undefined, messages, ...fields })).choices).toEqual(
    prompted.choices,
  )
})
