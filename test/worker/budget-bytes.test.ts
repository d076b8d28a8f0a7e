// The day's budget against an upstream that bills every byte it is sent and writes, as if each were a
// token. It adds up all strings of the body, under any field name, so that a field that is
// added later cannot be forgotten by the reservation.
import { expect, test } from 'vitest'
import { presets } from '../../src/upstream/presets.ts'
import { ORIGIN } from '../support/client.ts'
import { pick, type Random, seeded } from '../support/random.ts'
import type { RiggedWorkers } from '../support/rig.ts'
import { event, type Script, type UpstreamCall } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'

const DAY_MS = 86_400_000
const SEEDS = 10
const BUDGET = 8000
const REQUESTS = 30
const AT_ONCE = 6

/** How the upstream reports what it bills. */
type Reporting = 'truly' | 'not at all' | 'too much'

const suite = workerSuite()

/** Those with an address. The binding has none; what it is sent is measured in extent.test.ts. */
const names = Object.keys(presets).filter((name) => name !== 'workers-ai' && name !== 'demo')

/** Text of all strings in a value; each number of a list is a token. */
function billedBytes(value: unknown): number {
  if (typeof value === 'string') return Buffer.byteLength(value)
  if (typeof value !== 'object' || value === null) return 0
  const items: unknown[] = Object.values(value)
  const tokens = Array.isArray(value) ? items.filter((item) => typeof item === 'number').length : 0
  return items.reduce<number>((sum, item) => sum + billedBytes(item), tokens)
}

function promptsIn({ prompt }: UpstreamCall['body']): number {
  return Array.isArray(prompt) && typeof prompt[0] !== 'number' ? prompt.length : 1
}

interface Bill {
  total: number
  /** Fields of all bodies. */
  readonly fields: Set<string>
}

/** Answers on each wire, or fails, or breaks off; bills as soon as it says 2xx. */
function billingUpstream(bill: Bill, reporting: Reporting, random: Random): Script {
  return async ({ body, path }, line) => {
    for (const field of Object.keys(body)) bill.fields.add(field)
    if (random() < 0.15) {
      line.head(503)
      line.end()
      return
    }
    const numberOf = (field: string) => (typeof body[field] === 'number' ? body[field] : 0)
    const prompts = promptsIn(body)
    const { prompt, ...others } = body
    const read = billedBytes(prompt) + prompts * billedBytes(others)
    const most = Math.max(
      numberOf('max_tokens'),
      numberOf('max_completion_tokens'),
      numberOf('num_predict'),
    )
    const choices = prompts * Math.max(1, numberOf('n'))
    const drafts = prompts * Math.max(1, numberOf('n'), numberOf('best_of'))
    const text = 'x'.repeat(Math.max(1, Math.floor(most * (random() < 0.5 ? 1 : random()))))
    const written = drafts * text.length
    bill.total += read + written
    const factor = reporting === 'too much' ? 1 + random() : 1
    const [input, output] = [Math.ceil(read * factor), Math.ceil(written * factor)]
    const usage =
      reporting === 'not at all'
        ? {}
        : {
            usage: {
              prompt_tokens: input,
              completion_tokens: output,
              total_tokens: input + output,
            },
          }
    const isCut = random() < 0.15
    line.head(200, { 'content-type': 'text/event-stream' })
    if (path.endsWith('/messages')) {
      const input_tokens = reporting === 'not at all' ? {} : { usage: { input_tokens: input } }
      const output_tokens = reporting === 'not at all' ? {} : { usage: { output_tokens: output } }
      line.write(event({ type: 'message_start', message: input_tokens }))
      line.write(event({ type: 'content_block_delta', delta: { type: 'text_delta', text } }))
      if (!isCut) {
        const delta = { stop_reason: 'end_turn' }
        line.write(event({ type: 'message_delta', delta, ...output_tokens }))
        line.write(event({ type: 'message_stop' }))
      }
    } else {
      for (let index = 0; index < choices; index++) {
        const said = path.includes('chat') ? { delta: { content: text } } : { text }
        line.write(event({ choices: [{ index, ...said, finish_reason: null }] }))
      }
      if (!isCut) {
        for (let index = 0; index < choices; index++) {
          const said = path.includes('chat') ? { delta: {} } : { text: '' }
          line.write(event({ choices: [{ index, ...said, finish_reason: 'stop' }] }))
        }
        line.write(event({ choices: [], ...usage }))
        line.write(event('[DONE]'))
      }
    }
    line.end()
  }
}

async function open(): Promise<RiggedWorkers> {
  const { upstream } = suite
  const upstreams = names.map((preset) => ({
    name: preset,
    preset,
    base_url: upstream.url(preset),
    ...(presets[preset]?.auth === 'none' ? {} : { key: 'UPSTREAM_API_KEY' }),
  }))
  const legacy = { ...upstreams[0], name: 'legacy', wire: 'completions' }
  const targets = [...upstreams, legacy].map(({ name = '' }) => name)
  return await suite.startRigged({
    config: {
      origins: [ORIGIN],
      free_prompts: true,
      models: targets.map((id, i) => ({
        id,
        upstream: id,
        upstream_model: 'm',
        system: 'Answer in the words of “Alice”.',
        ...(i % 3 === 0 ? { parameters: { guide: '€'.repeat(90), num_predict: 70 } } : {}),
        ...(i % 4 === 0 ? { parameters: { response_format: { schema: 'y'.repeat(200) } } } : {}),
        fallbacks: [{ upstream: targets[(i + 5) % targets.length] ?? '', upstream_model: 'm' }],
      })),
      upstreams: [...upstreams, legacy],
      prompts: {
        locked: { text: 'Tell me about {{topic}}', variables: { topic: { max_chars: 800 } } },
      },
      limits: { n: 4, max_tokens: 200, prompts: 4 },
      budget: {
        tokens_per_day: BUDGET,
        tokens_per_visitor_per_day: 1e9,
        streams_per_visitor: 1000,
      },
    },
  })
}

const text = (random: Random, most: number) =>
  Array.from({ length: 1 + Math.floor(random() * most) }, () =>
    pick(['a', ' ', '\n', '"', '€', '😀', 'ß'], random),
  ).join('')

/** A chat with every field by chance, on any wire. */
function randomChat(random: Random, serial: number): Record<string, unknown> {
  const own = () => `${serial} ${text(random, 200)}`
  const maybe = (chance: number, fields: () => object) => (random() < chance ? fields() : {})
  const roles = Array.from({ length: Math.floor(random() * 4) }, () =>
    pick(['user', 'assistant', 'system'], random),
  )
  const schema = { type: 'json_schema', json_schema: { name: 'x', schema: { title: own() } } }
  return {
    model: pick(['vllm', 'anthropic', ...names], random),
    messages: [...roles, 'user'].map((role) => ({
      role,
      content: random() < 0.5 ? own() : [own(), own()].map((text) => ({ type: 'text', text })),
      ...maybe(0.3, () => ({ name: text(random, 10).trim() || 'Ann' })),
    })),
    max_completion_tokens: 1 + Math.floor(random() * 120),
    ...maybe(0.2, () => ({ response_format: schema })),
    ...maybe(0.2, () => ({ stop: [`${text(random, 20)}!`] })),
    ...maybe(0.3, () => ({ n: 1 + Math.floor(random() * 4) })),
    ...maybe(0.4, () => ({ stream: true })),
  }
}

/** A request with every field by chance. What its upstream cannot do is refused and costs nothing. */
function randomRequest(random: Random, serial: number): Record<string, unknown> {
  const maybe = (chance: number, fields: () => object) => (random() < chance ? fields() : {})
  const tokens = () => Array.from({ length: 1 + Math.floor(random() * 60) }, () => 50_000 + serial)
  const own = () => `${serial} ${text(random, 500)}`
  const model = pick(['legacy', 'vllm', 'deepseek-fim', ...names], random)
  if (random() < 0.1) {
    return { model: undefined, prompt: { id: 'locked', variables: { topic: own() } } }
  }
  return {
    model,
    prompt: pick([own, own, () => [own(), own()], tokens, () => [tokens(), tokens()]], random)(),
    max_tokens: 1 + Math.floor(random() * 120),
    ...maybe(0.4, () => ({ suffix: text(random, 1500) })),
    ...maybe(0.4, () => ({ stop: ['\u0000never', `${text(random, 20)}!`] })),
    ...maybe(0.2, () => ({ echo: true })),
    ...maybe(0.4, () => ({ n: 1 + Math.floor(random() * 4) })),
    ...maybe(0.1, () => ({ best_of: 4 })),
    ...maybe(0.2, () => ({ logit_bias: { 50256: -100 } })),
    ...maybe(0.4, () => ({ stream: true })),
  }
}

test.each<Reporting>(['truly', 'not at all', 'too much'])(
  'the real cost of a day stays within its budget when usage is reported: %s',
  async (reporting) => {
    const workers = await open()
    const fields = new Set<string>()
    const now = Date.now()
    let refusals = 0
    let conversations = 0
    const countTurns = ({ messages }: UpstreamCall['body']) => {
      if (Array.isArray(messages) && messages.length > 2) conversations += 1
    }
    for (let seed = 1; seed <= SEEDS; seed++) {
      // A new day, some seconds old: the run does not last until its end.
      await workers.rig.set({ clockMs: DAY_MS - (now % DAY_MS) + seed * DAY_MS + 5000 })
      const random = seeded(seed)
      const bill: Bill = { total: 0, fields }
      const script = billingUpstream(bill, reporting, seeded(seed + 1000))
      const lanes = [...names, 'legacy'].map((name) => suite.upstream.lane(name).answers(script))
      const requests = Array.from({ length: REQUESTS }, (_, i) => ({
        ...(random() < 0.4
          ? { path: '/v1/chat/completions', body: randomChat(random, seed * 1000 + i) }
          : { path: '/v1/completions', body: randomRequest(random, seed * 1000 + i) }),
        leaves: random() < 0.15,
      }))
      const visitor = async () => {
        for (let next = requests.shift(); next !== undefined; next = requests.shift()) {
          const { path, body, leaves } = next
          const incoming = await workers.client().open({ method: 'POST', path, body })
          if (leaves) incoming.leave()
          else await incoming.rest()
          if (incoming.status === 429) refusals += 1
        }
      }
      await Promise.all(Array.from({ length: AT_ONCE }, visitor))
      await expect
        .poll(async () => (await workers.rig.figures()).budget.reserved, { timeout: 30_000 })
        .toBe(0)
      expect(bill.total, `seed ${seed}`).toBeGreaterThan(0)
      expect(bill.total, `seed ${seed}`).toBeLessThanOrEqual(BUDGET)
      for (const { calls } of lanes) for (const { body } of calls.splice(0)) countTurns(body)
    }
    // Otherwise the budget was never what stopped a call, and nothing was shown.
    expect(refusals).toBeGreaterThan(SEEDS)
    expect(conversations).toBeGreaterThan(SEEDS)
    for (const field of ['suffix', 'stop', 'n', 'guide', 'response_format', 'system', 'messages']) {
      expect([...fields]).toContain(field)
    }
  },
  180_000,
)
