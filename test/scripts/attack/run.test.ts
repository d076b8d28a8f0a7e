// The attack against the Worker in workerd, with small budgets and an upstream that fails: nothing is
// broken, and a Worker that breaks a promise is noticed.
import { describe, expect, test } from 'vitest'
import { planOf } from '../../../scripts/attack/plan.ts'
import { attack, type Result } from '../../../scripts/attack/run.ts'
import { targetOf } from '../../../scripts/attack/target.ts'
import { wait } from '../../../scripts/operator/command.ts'
import { Gateway } from '../../../scripts/operator/gateway.ts'
import { CANARY } from '../../support/canary.ts'
import { OPERATOR_TOKEN, ORIGIN } from '../../support/client.ts'
import { pick, seeded } from '../../support/random.ts'
import { passingSiteverify } from '../../support/siteverify.ts'
import { chatStream, refusal, type Script } from '../../support/upstream-server.ts'
import { workerSuite } from '../../support/worker-suite.ts'
import type { Workers, WorkersOptions } from '../../support/workerd.ts'

const suite = workerSuite()

const REQUESTS = 60
const USD_PER_TOKEN = 1 / 1000

interface Bill {
  tokens: number
  usd: number
}

/** A Worker with this budget and a dearer fallback, and what its upstreams have billed. */
async function open(seed: number, tokensPerDay: number, options: WorkersOptions = {}) {
  const turnstile = options.secrets?.['TURNSTILE_SECRET'] !== undefined
  const serial = suite.next()
  const bill: Bill = { tokens: 0, usd: 0 }
  const place = (name: string, usdPerToken: number) => {
    const lane = `attack-${serial}-${name}`
    suite.upstream.lane(lane).answers(upstream(seed, usdPerToken, bill))
    const limits = { idle_ms: 300, first_byte_ms: 300, deadline_ms: 2000 }
    const base_url = suite.upstream.url(lane)
    return { name, base_url, key: 'UPSTREAM_API_KEY', wire: 'chat', ...limits }
  }
  const config = {
    origins: [ORIGIN],
    free_prompts: true,
    models: [
      {
        id: 'm',
        upstream: 'u',
        upstream_model: 'm',
        price: priceOf(USD_PER_TOKEN),
        fallbacks: [{ upstream: 'v', upstream_model: 'w', price: priceOf(2 * USD_PER_TOKEN) }],
      },
    ],
    upstreams: [place('u', USD_PER_TOKEN), place('v', 2 * USD_PER_TOKEN)],
    defaults: { max_tokens: 20 },
    limits: { max_tokens: 40, n: 2, prompt_chars: 300, messages: 5, chat_chars: 500 },
    prompts: {
      haiku: { text: 'About {{topic}}', variables: { topic: { max_chars: 60 } } },
      page: { text: '{{page}}', variables: { page: { from: 'url' } } },
      helper: { chat: true, system: 'Be kind.' },
    },
    ...(turnstile ? { access: { turnstile_sitekey: '0x4AAAAAAADnPIDROrmt1Wwj' } } : {}),
    budget: { tokens_per_day: tokensPerDay, usd_per_day: usdPerDay(seed, tokensPerDay) },
  }
  return { workers: await suite.start({ ...options, config }), bill }
}

const priceOf = (usdPerToken: number) => ({ input: usdPerToken * 1e6, output: usdPerToken * 1e6 })

/** Half of the seeds reach the limit in USD first. */
const usdPerDay = (seed: number, tokensPerDay: number) =>
  seed % 2 === 0 ? 0 : tokensPerDay * USD_PER_TOKEN

/** Mostly answers. Its bill is what was generated, no matter what it reports. */
function upstream(seed: number, usdPerToken: number, bill: Bill): Script {
  const random = seeded(seed)
  const usage = { prompt_tokens: 60, completion_tokens: 10, total_tokens: 70 }
  const answers = (script: Script, tokens: number) => [script, tokens] as const
  return async (call, line) => {
    const [script, tokens] = pick(
      [
        answers(chatStream(['Fine ', 'weather ', 'today.'], { usage }), 70),
        answers(chatStream(['Fine ', 'weather.'], { usage }), 70),
        answers(chatStream(['No usage.'], { usage: null }), 70),
        answers(chatStream(['Cut '], { usage: null, finish: null, done: false }), 70),
        answers(refusal(500), 0),
        answers(refusal(429), 0),
        answers((_, { reset }) => reset(), 0),
        answers(() => {}, 0),
      ],
      random,
    )
    bill.tokens += tokens
    bill.usd += tokens * usdPerToken
    await script(call, line)
  }
}

async function run(
  { url }: Workers,
  seed: number,
  { visitorToken = null as string | null, requests = REQUESTS } = {},
): Promise<Result> {
  const gateway = new Gateway({ url: url.href, token: OPERATOR_TOKEN, verb: 'attack' }, fetch)
  const target = await targetOf(url, gateway, visitorToken)
  const plan = planOf(target, { requests, seed, anyOrigin: false })
  const options = { url, seconds: 30, secrets: [CANARY, OPERATOR_TOKEN] }
  return await attack(plan, options, { gateway, signal: new AbortController().signal, wait })
}

const sum = (numbers: Iterable<number>) => [...numbers].reduce((all, each) => all + each, 0)

describe('an attack of 60 requests', () => {
  const seen = new Set<string>()
  const seeds = Array.from({ length: 20 }, (_, i) => i + 1)
  test.each(seeds)('spends at most the budget: seed %i', async (seed) => {
    const tokensPerDay = 1500
    const { workers, bill } = await open(seed, tokensPerDay)
    const { before, after, faults, counts, refusals } = await run(workers, seed)
    expect(faults).toEqual([])
    expect(before.spent).toBe(0)
    expect(after?.spent).toBeGreaterThan(0)
    expect(bill.tokens).toBeLessThanOrEqual(Number(after?.spent))
    expect(after?.spent).toBeLessThanOrEqual(tokensPerDay)
    // Floating-point sums may differ in the last digits.
    expect(bill.usd).toBeLessThanOrEqual(Number(after?.usdSpent) + 1e-9)
    const usdLimit = usdPerDay(seed, tokensPerDay) || Number.POSITIVE_INFINITY
    expect(after?.usdSpent).toBeLessThanOrEqual(usdLimit)
    const sent = [...counts.values()].map(
      ({ answered, refused, ended }) => answered + refused + ended,
    )
    expect(sum(sent)).toBe(REQUESTS)
    for (const code of refusals.keys()) seen.add(code)
    await suite.stop()
  })

  test('is refused in every way by one of these seeds', () => {
    expect([...seen]).toEqual(
      expect.arrayContaining([
        'origin_not_allowed',
        'operator_token_invalid',
        'budget_exhausted',
        'upstream_timeout',
        'locked_by_owner',
        'page_not_allowed',
      ]),
    )
  })
})

test('with Turnstile, replays a token of the page and tries forged ones', async () => {
  const main = passingSiteverify('site.example')
  const secrets = { UPSTREAM_API_KEY: CANARY, OPERATOR_TOKEN, TURNSTILE_SECRET: 'a-widget-secret' }
  const { workers } = await open(2, 1e6, { main, secrets })
  const challenge = { method: 'POST', path: '/v1/visitors', body: { token: 'solved' } }
  const minted = await workers.client().send(challenge)
  const { token } = JSON.parse(minted.text)
  const without = await run(workers, 2, { requests: 100 })
  expect(without.faults).toEqual([])
  expect(without.after?.spent).toBe(0)
  expect(without.refusals.get('visitor_token_required')).toBeGreaterThan(0)
  const replayed = await run(workers, 2, { requests: 100, visitorToken: token })
  expect(replayed.faults).toEqual([])
  expect(replayed.after?.spent).toBeGreaterThan(0)
  expect(replayed.refusals.get('visitor_token_invalid')).toBeGreaterThan(0)
})

/** A main module that changes the Worker's requests or responses. */
const changed = (statements: string, objects = '') => `
  import { DurableObject } from 'cloudflare:workers'
  import worker, { LedgerObject as Ledger } from './worker.js'
  export * from './worker.js'
  ${objects}
  export default {
    async fetch(request, env, ctx) {
      ${statements}
    }
  }
`
const throughOrigins = changed(`
  const headers = new Headers(request.headers)
  headers.delete('origin')
  return worker.fetch(new Request(request, { headers }), env, ctx)
`)
const readableByAll = changed(`
  const response = await worker.fetch(request, env, ctx)
  const headers = new Headers(response.headers)
  headers.set('access-control-allow-origin', '*')
  return new Response(response.body, { status: response.status, headers })
`)
const openOperator = changed(`
  const headers = new Headers(request.headers)
  headers.set('authorization', 'Bearer ${OPERATOR_TOKEN}')
  return worker.fetch(new Request(request, { headers }), env, ctx)
`)
const leakyErrors = changed(`
  const response = await worker.fetch(request, env, ctx)
  if (response.status < 400) return response
  return new Response('at fetch (Bearer ' + env.UPSTREAM_API_KEY.replaceAll('-', '.') + ')', { status: 500 })
`)
const unlimited = (body: string) => `
  export class LedgerObject extends Ledger {
    ${body}
  }
`
const everyCallGranted = changed(
  'return worker.fetch(request, env, ctx)',
  unlimited(`
    figures() {
      const figures = super.figures()
      return { ...figures, tokens_per_day: 100 }
    }`),
)
const nothingCounted = changed(
  'return worker.fetch(request, env, ctx)',
  unlimited('reserve() { return { granted: true, mayStore: true } }'),
)

test.each([
  ['lets every origin through', throughOrigins, "another site's origin: expected 403"],
  ['lets every page read its answers', readableByAll, 'readable by *'],
  ['does not check the operator token', openOperator, "without the operator's token: expected 401"],
  ['shows its failures', leakyErrors, 'undocumented 500'],
  ['shows a key', leakyErrors, 'something like a key is in the response'],
  ['spends more than the budget', everyCallGranted, 'tokens of a budget of 100'],
  ['does not count what it spends', nothingCounted, 'and the budget counted 0'],
])('notices a Worker that %s', async (_, main, fault) => {
  const { workers } = await open(2, 1e6, { main })
  const { faults } = await run(workers, 2)
  expect(faults.map(({ what }) => what)).toContainEqual(expect.stringContaining(fault))
})
