// What the whole service reserves for an upstream call, and at whose price it is settled.
import { describe, expect, test } from 'vitest'
import { gapRequest } from '../src/upstream/gap.ts'
import { compatible, jsonAnswer, TestApp, upstreamBody } from './support/app.ts'
import { ORIGIN } from './support/client.ts'

const other = { ...compatible, name: 'other', base_url: 'https://other.test/v1' }

describe('a call reserves for every text that it carries', () => {
  const fim = { name: 'main', preset: 'deepseek-fim', key: 'UPSTREAM_API_KEY' }
  /** 8 bytes and 64 for the prompt, and max_tokens. */
  const plain = 8 + 64 + 16

  test('the suffix', async () => {
    const app = new TestApp({ config: { upstreams: [fim] } })
    const suffix = '€'.repeat(4000)
    await app.post({ prompt: 'Once €', suffix, max_tokens: 16 })
    expect(app.ledger.reserved[0]?.tokens).toBe(plain + 12_000)
  })

  test('the suffix and its instruction, if the upstream is a chat model', async () => {
    const app = new TestApp({ config: { upstreams: [{ ...compatible, wire: 'chat' }] } })
    const prefix = 'Once €'
    const suffix = '€'.repeat(4000)
    await app.post({ prompt: prefix, suffix, max_tokens: 16 })
    const { system, prompts } = gapRequest({ prefix, suffix }, null)
    const bytes = Buffer.byteLength(system) + Buffer.byteLength(prompts.join(''))
    expect(bytes).toBeGreaterThan(8 + 12_000)
    expect(app.ledger.reserved[0]?.tokens).toBe(bytes + 64 + 16)
  })

  test('the owner’s suffix and stop', async () => {
    const defaults = { suffix: 'x'.repeat(1000), stop: ['yyyy', 'zz'], max_tokens: 16 }
    const app = new TestApp({ config: { upstreams: [fim], defaults } })
    await app.post({ prompt: 'Once €' })
    expect(app.ledger.reserved[0]?.tokens).toBe(plain + 1006)
  })

  test('the owner’s parameters, with what they let the upstream write', async () => {
    const parameters = { schema: 'x'.repeat(1000), num_predict: 4000 }
    const models = [{ id: 'default', upstream: 'main', upstream_model: 'm', parameters }]
    const app = new TestApp({ config: { models } })
    await app.post({ prompt: 'Once €', max_tokens: 16 })
    expect(app.ledger.reserved[0]?.tokens).toBe(8 + 64 + 1000 + 4000)
  })
})

test('an answer of several calls reserves one KV write, as it is stored once', async () => {
  const choice = { index: 0, message: { content: 'Hello' }, finish_reason: 'stop' }
  const app = new TestApp({
    config: { upstreams: [{ ...compatible, wire: 'chat' }], cache: { kv_writes_per_day: 10 } },
    upstream: () => Response.json({ ...upstreamBody(), choices: [choice] }),
  })
  expect((await app.post({ prompt: ['a', 'b', 'c'] })).status).toBe(200)
  expect(app.ledger.reserved.map(({ stores }) => stores)).toEqual([true, false, false])
  expect(app.kv.puts).toHaveLength(1)
})

describe('a fallback with a price of its own', () => {
  const price = { input: 1, output: 2 }
  const dear = { input: 100, output: 200 }
  const upstreams = [{ ...compatible, retries: 0 }, other]
  const usdOf = ({ input, output }: typeof price, tokensIn: number, tokensOut: number) =>
    (input * tokensIn + output * tokensOut) / 1e6

  function open(fallback: object, isDown = false) {
    const fallbacks = [{ upstream: 'other', upstream_model: 'm', ...fallback }]
    const models = [{ id: 'default', upstream: 'main', upstream_model: 'm', price, fallbacks }]
    return new TestApp({
      config: { models, upstreams },
      upstream: ({ url }) =>
        isDown && url.startsWith(compatible.base_url)
          ? new Response('', { status: 500 })
          : jsonAnswer('Hello'),
    })
  }

  test('is reserved for when it is the dearest, and not paid for when it is not called', async () => {
    const app = open({ price: dear })
    await app.post({ prompt: 'Once', max_tokens: 16 })
    expect(app.ledger.reserved.map(({ usd }) => usd)).toEqual([usdOf(dear, 4 + 64, 16)])
    expect(app.ledger.settled.map(({ cost }) => cost.usd)).toEqual([usdOf(price, 3, 4)])
  })

  test('is paid for when it answers', async () => {
    const app = open({ price: dear }, true)
    await app.post({ prompt: 'Once', max_tokens: 16 })
    expect(app.ledger.reserved.map(({ usd }) => usd)).toEqual([
      usdOf(dear, 4 + 64, 16),
      usdOf(dear, 4 + 64, 16),
    ])
    expect(app.ledger.settled.map(({ cost }) => cost.usd)).toEqual([0, usdOf(dear, 3, 4)])
    const [generated] = app.events.filter(({ event }) => event === 'generated')
    expect(generated).toMatchObject({ upstream: 'other', upstream_model: 'm' })
  })

  test('is counted in the figures with its own charge, besides that of an attempt that failed', async () => {
    const fallbacks = [{ upstream: 'other', upstream_model: 'm', price: dear }]
    const models = [{ id: 'default', upstream: 'main', upstream_model: 'm', price, fallbacks }]
    const prompts = { once: { text: 'Once', max_tokens: 16 } }
    const app = new TestApp({
      config: { models, upstreams, prompts },
      // What answers 200 may cost money, although its answer cannot be read.
      upstream: ({ url }) =>
        url.startsWith(compatible.base_url) ? new Response('{}') : jsonAnswer('Hello'),
    })
    expect((await app.post({ prompt: { id: 'once' } })).status).toBe(200)
    const names = { model: 'default', prompt_id: 'once', origin: ORIGIN }
    expect(app.charges).toEqual([
      { ...names, tokens_in: 4 + 64, tokens_out: 16, usd: usdOf(dear, 4 + 64, 16) },
      { ...names, tokens_in: 3, tokens_out: 4, usd: usdOf(dear, 3, 4) },
    ])
    expect(app.ledger.settled.map(({ cost }) => cost)).toEqual(
      app.charges.map(({ tokens_in, tokens_out, usd }) => ({
        tokens: tokens_in + tokens_out,
        usd,
      })),
    )
  })

  test('leaves the reservation at the model’s price when it is cheaper', async () => {
    const app = open({ price: { input: 0.1, output: 0.2 } })
    await app.post({ prompt: 'Once', max_tokens: 16 })
    expect(app.ledger.reserved[0]?.usd).toBe(usdOf(price, 4 + 64, 16))
  })

  test('has the model’s price when it has none of its own', async () => {
    const app = open({}, true)
    await app.post({ prompt: 'Once', max_tokens: 16 })
    expect(app.ledger.settled[1]?.cost.usd).toBe(usdOf(price, 3, 4))
  })

  test('does not change the cache key', async () => {
    const [one, two] = [open({}), open({ price: dear })]
    await one.post({ prompt: 'Once' })
    await two.post({ prompt: 'Once' })
    expect(one.kv.puts).toEqual(two.kv.puts)
    expect(one.kv.puts).toHaveLength(1)
  })
})
