// Pre-warming: what is asked, in what order and how often, against the Worker in process; and the
// script itself, run as an owner would, against the Worker in workerd.
import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  bar,
  line,
  type Outcome,
  parseArguments,
  parseRequests,
  summary,
  type WarmRequest,
  warm,
} from '../../scripts/warm.ts'
import { answered, EDGE, OPERATOR_TOKEN, TestApp, type TestAppOptions } from '../support/app.ts'
import { CANARY } from '../support/canary.ts'
import { ORIGIN } from '../support/client.ts'
import { completionsStream, refusal, UpstreamServer } from '../support/upstream-server.ts'
import { startWorkers, type Workers } from '../support/workerd.ts'

function start(options: TestAppOptions = {}) {
  const app = new TestApp(options)
  const asked: (string | null)[] = []
  const waits: number[] = []
  const state = { now: 0, most: 0 }
  const run = async (requests: readonly WarmRequest[], concurrency = 4, token = OPERATOR_TOKEN) => {
    const outcomes = await warm(
      requests,
      { url: EDGE, token, concurrency },
      {
        fetch: async (request) => {
          asked.push(request.headers.get('cache-control'))
          state.now += 1
          state.most = Math.max(state.most, state.now)
          const response = await app.fetch(request)
          const text = await response.text()
          state.now -= 1
          return new Response(text, { status: response.status, headers: response.headers })
        },
        wait: async (ms) => void waits.push(ms),
      },
    )
    await app.settled()
    return outcomes
  }
  return { app, asked, waits, state, run }
}

const prompts = (n: number) => Array.from({ length: n }, (_, i) => ({ prompt: `p${i}` }))
const kinds = (outcomes: readonly Outcome[]) =>
  outcomes.map((outcome) => (outcome.kind === 'failed' ? outcome.reason : outcome.kind))

test('what is not there is asked for and stored; visitors then find it', async () => {
  const { app, run } = start()
  expect(kinds(await run([{ prompt: 'a' }, { prompt: 'b', stream: true }]))).toEqual([
    'stored',
    'stored',
  ])
  expect(app.calls).toHaveLength(2)
  const reply = await app.post({ prompt: 'b', stream: true })
  expect(reply.headers.get('cache-status')).toContain('hit')
})

test('what is there is skipped, without an upstream call: so a run is taken up again', async () => {
  const { app, run } = start()
  await run(prompts(5))
  expect(kinds(await run(prompts(8)))).toEqual([
    ...Array(5).fill('present'),
    ...Array(3).fill('stored'),
  ])
  expect(app.calls).toHaveLength(8)
})

test('what is stale is replaced', async () => {
  let answers = 0
  const { app, run } = start({
    config: { cache: { ttl_seconds: 100 } },
    upstream: () => answered(`answer ${++answers}`),
  })
  await run([{ prompt: 'a' }])
  app.clock.ms += 200_000
  expect(kinds(await run([{ prompt: 'a' }]))).toEqual(['stored'])
  const { text } = await app.post({ prompt: 'a' })
  expect(text).toContain('answer 2')
})

test('never more at once than it is told', async () => {
  const { state, run } = start()
  await run(prompts(30), 3)
  expect(state.most).toBe(3)
})

test('a failure is said with its code, and the others go on', async () => {
  const { run, waits } = start({
    upstream: async (request) =>
      (await request.text()).includes('bad') ? new Response('', { status: 400 }) : answered(),
  })
  const outcomes = await run([{ prompt: 'a' }, { prompt: 'bad' }, { prompt: '' }, { prompt: 'b' }])
  expect(kinds(outcomes)).toEqual([
    'stored',
    '400 upstream_refused_request',
    '400 invalid_value',
    'stored',
  ])
  expect(waits).toEqual([])
})

test('what may mend is tried again, after as long as the gateway says, within bounds', async () => {
  const { run, waits } = start({
    config: {
      upstreams: [
        {
          name: 'main',
          preset: 'compatible',
          wire: 'completions',
          base_url: 'https://upstream.test/v1',
          key: 'UPSTREAM_API_KEY',
          retries: 0,
        },
      ],
    },
    upstream: (_, call) =>
      call < 3
        ? new Response('', {
            status: 429,
            headers: { 'retry-after': ['7', '100', 'x'][call] ?? '' },
          })
        : answered(),
  })
  expect(kinds(await run([{ prompt: 'a' }]))).toEqual(['stored'])
  expect(waits).toHaveLength(3)
  expect(waits.slice(0, 2)).toEqual([7000, 60_000])
})

test('it is not tried for ever, and not at all when the day’s budget is gone', async () => {
  const { run, waits, app } = start({ upstream: () => new Response('', { status: 500 }) })
  expect(kinds(await run([{ prompt: 'a' }]))).toEqual(['502 upstream_unavailable'])
  expect(waits).toHaveLength(3)
  waits.length = 0
  app.ledger.refusal = {
    granted: false,
    code: 'budget_exhausted',
    policy: 'day',
    retryAfterSeconds: 60,
    quota: 1,
    remaining: 0,
  }
  expect(kinds(await run([{ prompt: 'b' }]))).toEqual(['429 budget_exhausted'])
  expect(waits).toEqual([])
})

test('an answer that is not kept is a failure: visitors will not find it', async () => {
  const { run } = start({ config: { cache: { ttl_seconds: 0 } } })
  expect(kinds(await run([{ prompt: 'a' }]))[0]).toMatch(/^answered, but not stored/)
})

test('another server’s answers are no success', async () => {
  const outcomes = await warm(
    [{ prompt: 'a' }, { prompt: 'b' }, { prompt: 'c' }],
    { url: EDGE, token: 't', concurrency: 1 },
    {
      fetch: async (request) => {
        const { prompt } = (await request.json()) as { prompt: string }
        if (prompt === 'a') return new Response('<html>', { status: 404 })
        if (prompt === 'b') return new Response(null, { status: 302 })
        throw new TypeError('fetch failed')
      },
      wait: async () => {},
    },
  )
  expect(kinds(outcomes)).toEqual([
    '404 not an answer of this gateway',
    '302 not an answer of this gateway',
    'no connection',
  ])
})

test('parseRequests() takes bodies and strings, and says which item is neither', () => {
  expect(parseRequests('["a", {"prompt": {"id": "haiku"}}]')).toEqual([
    { prompt: 'a' },
    { prompt: { id: 'haiku' } },
  ])
  expect(() => parseRequests('["a", 1]')).toThrow('Cannot use item 1')
  expect(() => parseRequests('[["a"]]')).toThrow('Cannot use item 0')
  expect(() => parseRequests('{}')).toThrow('expected a JSON array')
  expect(() => parseRequests('[')).toThrow('no JSON')
})

test('parseArguments() takes them in any order, and says what is wrong', () => {
  const expected = { file: 'p.json', url: 'https://w.example', concurrency: 4 }
  expect(parseArguments(['p.json', '--url', 'https://w.example'])).toEqual(expected)
  expect(parseArguments(['--url=https://w.example', 'p.json', '--concurrency', '9'])).toEqual({
    ...expected,
    concurrency: 9,
  })
  for (const bad of [
    [],
    ['p.json'],
    ['--url', 'https://w.example'],
    ['p.json', '--url', 'w.example'],
    ['p.json', '--url', 'file:///x'],
    ['p.json', '--url'],
    ['p.json', 'q.json', '--url', 'https://w.example'],
    ['p.json', '--url', 'https://w.example', '--concurrency', '0'],
    ['p.json', '--url', 'https://w.example', '--concurrency', 'x'],
    ['p.json', '--url', 'https://w.example', '--what'],
  ]) {
    expect(() => parseArguments(bad), bad.join(' ')).toThrow(/Usage|Cannot/)
  }
})

test('the table, the lines and the bar say what became of each', () => {
  const requests = [{ prompt: 'a' }, { prompt: 'x'.repeat(200) }, { prompt: { id: 'haiku' } }]
  const outcomes: Outcome[] = [
    { kind: 'stored' },
    { kind: 'failed', reason: '502 upstream_unavailable' },
    { kind: 'present' },
  ]
  const table = summary(requests, outcomes)
  expect(table).toMatch(/^stored\s+1\nalready there\s+1\nfailed\s+1\n {2}#1 failed: 502 upstream/)
  expect(line(2, requests[2] ?? {}, { kind: 'present' })).toBe('#2 already there {"id":"haiku"}')
  expect(line(1, requests[1] ?? {}, { kind: 'stored' }).length).toBeLessThan(100)
  expect(bar(0, 4, 0, 8)).toBe('░░░░░░░░ 0/4')
  expect(bar(2, 4, 1, 8)).toBe('████░░░░ 2/4, 1 failed')
  expect(bar(4, 4, 0, 8)).toBe('████████ 4/4')
  expect(bar(0, 0, 0, 8)).toBe('████████ 0/0')
})

describe('the script', () => {
  let upstream: UpstreamServer
  let workers: Workers
  let folder: string

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'edge-warm-'))
    upstream = await UpstreamServer.start()
    workers = await startWorkers({
      secrets: { UPSTREAM_API_KEY: CANARY, OPERATOR_TOKEN },
      config: {
        origins: [ORIGIN],
        origin_required: true,
        models: [{ id: 'm', upstream: 'u', upstream_model: 'm' }],
        upstreams: [
          {
            name: 'u',
            base_url: upstream.url('u'),
            key: 'UPSTREAM_API_KEY',
            wire: 'completions',
            retries: 0,
          },
        ],
      },
    })
  })

  afterAll(async () => {
    await workers.dispose()
    await upstream.stop()
    await rm(folder, { recursive: true })
  })

  async function script(list: unknown, token = OPERATOR_TOKEN, more: string[] = []) {
    const file = join(folder, 'prompts.json')
    await writeFile(file, JSON.stringify(list))
    const given = ['scripts/warm.ts', file, '--url', String(workers.url), ...more]
    return await new Promise<{ code: number; out: string; err: string }>((resolve) => {
      const env = { ...process.env, OPERATOR_TOKEN: token }
      execFile(process.execPath, given, { env }, (error, out, err) => {
        resolve({ code: error === null ? 0 : Number(error.code), out, err })
      })
    })
  }

  test('warms, skips, fails and says so, by its exit code too', async () => {
    upstream.lane('u').answers(async (call, speaking) => {
      const bad = call.text.includes('bad')
      await (bad ? refusal(400) : completionsStream(['fine']))(call, speaking)
    })
    const first = await script(['one', { prompt: 'two', max_tokens: 5 }])
    expect([first.code, first.err]).toEqual([0, ''])
    expect(first.out).toMatch(/#[01] stored "(one|two)"/)
    expect(first.out).toMatch(/stored\s+2\nalready there\s+0\nfailed\s+0/)
    // Plain lines where no terminal is.
    expect(first.out).not.toMatch(/[█\r]/)
    await expect.poll(async () => (await workers.kvEntries()).size).toBe(2)
    const second = await script(['one', { prompt: 'two', max_tokens: 5 }, 'bad', 'three'])
    expect(second.code).toBe(1)
    expect(second.out).toMatch(/stored\s+1\nalready there\s+2\nfailed\s+1/)
    expect(second.out).toContain('#2 failed: 400 upstream_refused_request "bad"')
    expect(upstream.lane('u').calls).toHaveLength(4)
    expect(first.out + second.out).not.toContain(OPERATOR_TOKEN)
  })

  test('without a token, with a wrong one, or with no list: an error and no upstream call', async () => {
    const before = upstream.lane('u').calls.length
    const none = await script(['x'], '')
    expect([none.code, none.err]).toEqual([2, expect.stringContaining('OPERATOR_TOKEN')])
    const wrong = await script(['x'], 'wrong')
    expect(wrong.code).toBe(1)
    expect(wrong.out).toContain('403 origin_not_allowed')
    const list = await script({ prompt: 'x' })
    expect([list.code, list.err]).toEqual([2, expect.stringContaining('expected a JSON array')])
    expect(upstream.lane('u').calls).toHaveLength(before)
  })
})
