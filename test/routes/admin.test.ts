// The operator's endpoints in process: input, responses, and errors when the Durable Objects behind
// them are unavailable.
import { afterEach, expect, test, vi } from 'vitest'
import { operatorCheck } from '../../src/access/operator.ts'
import { Purges } from '../../src/cache/purge.ts'
import { PurgeRegister } from '../../src/cache/purge-register.ts'
import { type AdminDeps, pause, purge, usage } from '../../src/routes/admin.ts'
import { Visit } from '../../src/routes/request-log.ts'
import { noCounts } from '../../src/usage.ts'
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
    prompts: new Map([['haiku', {}]]),
    models: new Map([['default', {}]]),
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

test('usage() returns the budget, hours, days, failures and refused origins', async () => {
  const { admin, asked } = adminWith()
  const response = await usage(visit('/admin/usage'), admin)
  expect(JSON.parse(String(response.body))).toEqual({
    now: NOW_S,
    budget,
    days: [{ day: '2026-05-28', tokens: 1200, usd: 0.01, requests: 10, hits: 6 }],
    hours: [
      {
        hour: HOUR,
        requests: 10,
        hits: { memory: 0, kv: 0, stale: 0 },
        collapsed: 0,
        misses: 0,
        kv_failures: 0,
        errors: {},
        tokens_in: 0,
        tokens_out: 0,
        tokens_saved: 0,
        usd: 0,
        usd_saved: 0,
        upstream_ms: { p50: 0, p95: 0 },
        prompts: {},
        models: {},
        origins: {},
      },
    ],
    failures: [failure('req_2'), failure('req_1')],
    refused_origins: [{ origin: 'https://x.example', count: 3, last: NOW_S }],
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

test('purge() reports an error if the purge could not be stored', async () => {
  const register = {
    add: async () => {
      throw new Error('inside words')
    },
  }
  const context = { register, now: () => 0, report: () => {}, waitUntil: () => {} }
  const kv = new MemoryKv({ ms: 0 })
  const { admin } = adminWith({ purges: new Purges({ kv, intervalMs: 1000, ...context }) })
  const error = await failureOf(purge(visit('/admin/purge', { all: true }), admin))
  expect(error).toMatchObject({ code: 'internal', retryAfterSeconds: 10 })
  expect(error.message).toContain('Send it again')
  expect(error.message).not.toContain('inside words')
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

test('an unavailable ledger is reported without its error message', async () => {
  const down = async () => {
    throw new Error('words from inside')
  }
  const { admin } = adminWith({ pause: down, figures: down })
  for (const work of [
    () => usage(visit('/admin/usage'), admin),
    () => pause(visit('/admin/pause', { until: null }), admin),
  ]) {
    const error = await failureOf(work())
    expect(error).toMatchObject({ code: 'ledger_unavailable', retryAfterSeconds: 10 })
    expect(error.message).not.toContain('words from inside')
  }
})

afterEach(() => {
  vi.useRealTimers()
})

const hangs = () => new Promise<never>(() => {})

test('an object that does not answer is reported after 10 s', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] })
  const context = { now: () => 0, report: () => {}, waitUntil: () => {} }
  const purges = new Purges({
    kv: new MemoryKv({ ms: 0 }),
    intervalMs: 1000,
    register: { add: hangs },
    ...context,
  })
  const { admin } = adminWith({ pause: hangs, figures: hangs, purges })
  const noUsage = adminWith({ usage: hangs }).admin
  for (const [work, code] of [
    [() => usage(visit('/admin/usage'), admin), 'ledger_unavailable'],
    [() => usage(visit('/admin/usage'), noUsage), 'internal'],
    [() => pause(visit('/admin/pause', { until: null }), admin), 'ledger_unavailable'],
    [() => purge(visit('/admin/purge', { all: true }), admin), 'internal'],
  ] as const) {
    const startedAt = Date.now()
    let error: object | null = null
    failureOf(work()).then((failure) => {
      error = failure
    })
    // The body is read and the token checked before the object is called, without fake timers.
    while (error === null) {
      await vi.advanceTimersByTimeAsync(100)
      await new Promise((resolve) => setImmediate(resolve))
    }
    expect(error).toMatchObject({ code, retryAfterSeconds: 10 })
    expect(Date.now() - startedAt).toBeGreaterThanOrEqual(10_000)
  }
})

test('unavailable usage figures are reported as such', async () => {
  const down = async () => {
    throw new Error('words from inside')
  }
  const { admin } = adminWith({ usage: down })
  expect(await failureOf(usage(visit('/admin/usage'), admin))).toMatchObject({
    code: 'internal',
    message: 'The usage figures are unavailable. Try again shortly.',
    retryAfterSeconds: 10,
  })
})
