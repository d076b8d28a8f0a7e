// The operator's endpoints in process: input, responses, and errors when the Durable Objects behind
// them are unavailable.
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { operatorCheck } from '../../src/access/operator.ts'
import { Purges } from '../../src/cache/purge.ts'
import { PurgeRegister } from '../../src/cache/purge-register.ts'
import type { Code } from '../../src/errors.ts'
import { type AdminDeps, pause, purge, usage } from '../../src/routes/admin.ts'
import { Visit } from '../../src/routes/request-log.ts'
import { hourFigures, noCounts } from '../../src/usage.ts'
import { MemoryKv, memoryStorage } from '../support/app.ts'
import { failureOf } from '../support/failure.ts'

const TOKEN = 'the-operator-token-0123456789abcdef'
const NOW_S = 1_780_000_000
const HOUR = 1_779_998_400

const budget = {
  tokens_per_day: 200_000,
  spent: 1200,
  reserved: 300,
  usd_per_day: 1,
  usd_spent: 0.01,
  paused_until: null,
}

const failure = (request_id: string) => ({
  at: NOW_S,
  request_id,
  upstream: 'openai',
  model: 'default',
  code: 'upstream_rejected' as const,
  hint: 'check the key',
})

function adminWith(more: Partial<AdminDeps> = {}) {
  const clock = { ms: NOW_S * 1000 }
  const kv = new MemoryKv(clock)
  const background: Promise<unknown>[] = []
  const paused: (number | null)[] = []
  const asked: number[] = []
  const admin: AdminDeps = {
    body: { maxBytes: 1000, deadlineMs: 1000 },
    isOperator: operatorCheck(TOKEN),
    purges: new Purges({
      kv,
      intervalMs: 1000,
      register: new PurgeRegister({ storage: memoryStorage(), kv, now: () => clock.ms }),
      now: () => clock.ms,
      report: () => {},
      waitUntil: (work) => void background.push(work),
    }),
    requestNames: async () => ['request:c1:0'],
    prompts: new Map([
      ['haiku', {}],
      ['joke', { model: 'default' }],
      ['note', { model: 'small' }],
    ]),
    models: new Map([
      ['default', { price: { input: 1, output: 4 } }],
      ['small', { price: null }],
    ]),
    origins: ['https://example.com'],
    now: () => clock.ms,
    pause: async (until) => void paused.push(until),
    figures: async () => budget,
    usage: async (fromHour) => {
      asked.push(fromHour)
      return {
        hours: new Map([[HOUR, { ...noCounts(), requests: 10 }]]),
        days: [{ day: 20_601, tokens: 1200, usd: 0.01, requests: 10, hits: 6 }],
        failures: [failure('req_1'), failure('req_2')],
        refused: new Map([['https://x.example', { count: 3, last: NOW_S }]]),
      }
    },
    ...more,
  }
  return { admin, kv, paused, asked }
}

function visit(path: string, body?: unknown, token = TOKEN): Visit {
  const request = new Request(`https://edge.test${path}`, {
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    ...(body === undefined
      ? {}
      : { method: 'POST', body: typeof body === 'string' ? body : JSON.stringify(body) }),
  })
  return new Visit(request, 'req_1', {
    now: () => NOW_S * 1000 + 7,
    report: () => {},
    waitUntil: () => {},
    count: () => {},
  })
}

test('usage() returns the budget, hours, days, failures, refused origins and prices', async () => {
  const { admin, asked } = adminWith()
  const response = await usage(visit('/admin/usage'), admin)
  expect(JSON.parse(String(response.body))).toEqual({
    now: NOW_S,
    budget,
    days: [{ day: '2026-05-28', tokens: 1200, usd: 0.01, requests: 10, hits: 6 }],
    hours: [hourFigures(HOUR, { ...noCounts(), requests: 10 })],
    failures: [failure('req_2'), failure('req_1')],
    refused_origins: [{ origin: 'https://x.example', count: 3, last: NOW_S }],
    prices: {
      models: { default: { input: 1, output: 4 }, small: null },
      prompts: { joke: { input: 1, output: 4 }, note: null },
    },
  })
  expect(asked).toEqual([HOUR - 23 * 3600])
})

test.each([
  ['1', 0],
  ['24', 23],
  ['2160', 2159],
])('usage() of %s hours starts %i hours before the current one', async (hours, ago) => {
  const { admin, asked } = adminWith()
  await usage(visit(`/admin/usage?hours=${hours}`), admin)
  expect(asked).toEqual([HOUR - ago * 3600])
})

test.each(['0', '-1', '2161', '1.5', '1e2', '99999', 'x', '', '%2024'])(
  'usage() rejects "%s" hours',
  async (hours) => {
    const { admin, asked } = adminWith()
    const error = await failureOf(usage(visit(`/admin/usage?hours=${hours}`), admin))
    expect(error).toMatchObject({ code: 'invalid_value', param: 'hours' })
    expect(asked).toEqual([])
  },
)

test.each<[unknown, number | null, number | null]>([
  [{ until: NOW_S + 60 }, NOW_S + 60, NOW_S + 60],
  [{ until: null }, null, null],
  [{ until: NOW_S - 60 }, NOW_S - 60, null],
  [{ until: NOW_S }, NOW_S, null],
  [{ until: 0 }, 0, null],
])('pause() accepts %j', async (body, until, answer) => {
  const { admin, paused } = adminWith()
  const response = await pause(visit('/admin/pause', body), admin)
  expect(JSON.parse(String(response.body))).toEqual({ paused_until: answer })
  expect(paused).toEqual([until])
})

test.each<[unknown]>([
  [{}],
  [{ until: '2026-01-01' }],
  [{ until: -1 }],
  [{ until: 1.5 }],
  [{ until: 1e300 }],
  [{ until: true }],
  [{ until: null, more: 1 }],
  [[]],
  ['null'],
])('pause() rejects %j without pausing', async (body) => {
  const { admin, paused } = adminWith()
  expect((await failureOf(pause(visit('/admin/pause', body), admin))).code).toBe('invalid_value')
  expect(paused).toEqual([])
})

const PAGE = 'page:632d0563e4ea5435172bf5a2affb3349'

test.each<[object, string, string | null]>([
  [{ all: true }, 'all', null],
  [{ request: { prompt: 'p' } }, 'request', 'request:c1:0'],
  [{ prompt_id: 'haiku' }, 'prompt', 'prompt:haiku'],
  [{ model: 'default' }, 'model', 'model:default'],
  [{ page: 'https://example.com/posts/x' }, 'page', PAGE],
  [{ page: 'https://example.com/posts/x/?a=b#c' }, 'page', PAGE],
  [{ page: 'https://example.com/posts/x/index.html' }, 'page', PAGE],
])('purge() accepts %j', async (body, word, name) => {
  const { admin, kv } = adminWith()
  const response = await purge(visit('/admin/purge', body), admin)
  expect(JSON.parse(String(response.body))).toEqual({ purged: word })
  const at = NOW_S * 1000 + 7
  expect(JSON.parse(kv.values.get('purge')?.value ?? '')).toEqual(
    name === null ? { all: at, names: {} } : { all: 0, names: { [name]: at } },
  )
})

test.each<[object, string, string]>([
  [{ prompt_id: 'hiaku' }, 'prompt_id', 'Cannot find the prompt "hiaku": this endpoint has haiku'],
  [{ prompt_id: 'toString' }, 'prompt_id', 'Cannot find the prompt "toString"'],
  [{ model: 'gone' }, 'model', 'Cannot find the model "gone": this endpoint has default'],
])('purge() of %j is an error that lists the known names', async (body, param, message) => {
  const { admin, kv } = adminWith()
  const error = await failureOf(purge(visit('/admin/purge', body), admin))
  expect(error).toMatchObject({ code: 'not_found', param })
  expect(error.message).toContain(message)
  expect(kv.values.size).toBe(0)
})

test.each(['/posts/x', 'https://elsewhere.example/posts/x', 'file:///posts/x', 'https://'])(
  'purge() rejects the page %s, which no answer can be made from',
  async (page) => {
    const { admin, kv } = adminWith()
    const error = await failureOf(purge(visit('/admin/purge', { page }), admin))
    expect(error).toMatchObject({ code: 'invalid_value', param: 'page' })
    expect(kv.values.size).toBe(0)
  },
)

test.each<[unknown]>([
  [{}],
  [{ all: false }],
  [{ all: true, model: 'default' }],
  [{ prompt_id: '' }],
  [{ prompt_id: 'x'.repeat(65) }],
  [{ model: 7 }],
  [{ request: 'p' }],
  [{ page: '' }],
  [{ page: 7 }],
  [{ page: 'https://example.com/', all: true }],
  [[]],
])('purge() rejects %j and purges nothing', async (body) => {
  const { admin, kv } = adminWith()
  expect((await failureOf(purge(visit('/admin/purge', body), admin))).code).toBe('invalid_value')
  expect(kv.values.size).toBe(0)
})

test('requests without the operator’s token are rejected without reading their bodies', async () => {
  const { admin, kv, paused, asked } = adminWith()
  for (const token of ['', 'x', TOKEN.slice(1), `${TOKEN}x`]) {
    for (const work of [
      () => usage(visit('/admin/usage', undefined, token), admin),
      () => pause(visit('/admin/pause', '{no json', token), admin),
      () => purge(visit('/admin/purge', '{no json', token), admin),
    ]) {
      expect((await failureOf(work())).code).toBe('operator_token_invalid')
    }
  }
  expect([kv.values.size, paused, asked]).toEqual([0, [], []])
})

const throws = async () => {
  throw new Error('words from inside')
}
const hangs = () => new Promise<never>(() => {})
const purgesWith = (add: () => Promise<never>) =>
  new Purges({
    kv: new MemoryKv({ ms: 0 }),
    intervalMs: 1000,
    register: { add },
    now: () => 0,
    report: () => {},
    waitUntil: () => {},
  })

describe.each([
  ['that fails', throws],
  ['that does not answer for 10 s', hangs],
])('an object %s', (_, answer) => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] })
  })
  afterEach(() => {
    vi.useRealTimers()
  })

  test.each<[string, Code, RegExp, Partial<AdminDeps>, (admin: AdminDeps) => Promise<unknown>]>([
    [
      'the ledger, for usage()',
      'ledger_unavailable',
      /^The budget service is unavailable\. Try again shortly\.$/,
      { figures: answer },
      (admin) => usage(visit('/admin/usage'), admin),
    ],
    [
      'the ledger, for pause()',
      'ledger_unavailable',
      /^The budget service is unavailable\. Try again shortly\.$/,
      { pause: answer },
      (admin) => pause(visit('/admin/pause', { until: null }), admin),
    ],
    [
      'the usage figures',
      'internal',
      /^The usage figures are unavailable\. Try again shortly\.$/,
      { usage: answer },
      (admin) => usage(visit('/admin/usage'), admin),
    ],
    [
      'the purges',
      'internal',
      /^The purge could not be stored, .* Send it again\.$/,
      { purges: purgesWith(answer) },
      (admin) => purge(visit('/admin/purge', { all: true }), admin),
    ],
  ])('is reported without its message: %s', async (_, code, message, deps, work) => {
    const { admin } = adminWith(deps)
    const startedAt = Date.now()
    const failing = failureOf(work(admin))
    let failed = false
    failing.then(() => {
      failed = true
    })
    // The body is read and the token checked before the object is called, without fake timers.
    while (!failed) {
      await vi.advanceTimersByTimeAsync(100)
      await new Promise((resolve) => setImmediate(resolve))
    }
    const error = await failing
    expect(error).toMatchObject({ code, retryAfterSeconds: 10 })
    expect(error.message).toMatch(message)
    if (answer === hangs) expect(Date.now() - startedAt).toBeGreaterThanOrEqual(10_000)
  })
})
