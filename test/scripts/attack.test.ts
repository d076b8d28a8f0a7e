// `npm run attack`, run as a command against the Worker in workerd.
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { CANARY } from '../support/canary.ts'
import { OPERATOR_TOKEN, ORIGIN } from '../support/client.ts'
import { startCommand } from '../support/command.ts'
import { SiteServer } from '../support/site-server.ts'
import { completionsStream, latch, UpstreamServer } from '../support/upstream-server.ts'
import { startWorkers, type Workers } from '../support/workerd.ts'

let upstream: UpstreamServer
let workers: Workers
let folder: string
let site: SiteServer

const BUDGET = 100_000

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'edge-attack-'))
  upstream = await UpstreamServer.start()
  site = await SiteServer.start()
  const model = {
    id: 'm',
    upstream: 'u',
    upstream_model: 'm',
    price: { input: 0.1, output: 0.4 },
  }
  workers = await startWorkers({
    secrets: { UPSTREAM_API_KEY: CANARY, OPERATOR_TOKEN },
    config: {
      origins: [ORIGIN],
      free_prompts: true,
      models: [model],
      upstreams: [{ name: 'u', base_url: upstream.url('u'), key: 'UPSTREAM_API_KEY' }],
      budget: { tokens_per_day: BUDGET },
    },
  })
  const settings = `[vars.CONFIG]
free_prompts = true
models = [{ id = "m", upstream = "u", upstream_model = "m", price = { input = 0.1, output = 0.4 } }]
upstreams = [{ name = "u", preset = "demo" }]
`
  await writeFile(join(folder, 'wrangler.toml'), `name = "x"\n${settings}`)
})

afterAll(async () => {
  await workers?.dispose()
  await upstream?.stop()
  site?.stop()
  await rm(folder, { recursive: true })
})

beforeEach(() => {
  calls().length = 0
  upstream.lane('u').answers(completionsStream(['fine']))
})

const calls = () => upstream.lane('u').calls

const start = (args: readonly string[], token?: string) =>
  startCommand('scripts/attack.ts', args, { folder, ...(token === undefined ? {} : { token }) })

const run = (args: readonly string[], token?: string) => start(args, token).exit

const worker = () => ['--url', String(workers.url)]

test('--dry-run lists the requests and what they could cost, and sends none of them', async () => {
  const { code, out, err } = await run([...worker(), '--dry-run', '--seed', '3'])
  expect([code, err]).toEqual([0, ''])
  expect(out).toMatch(/^seed 3\n/)
  expect(out).toMatch(/\nrefused origins +\d+ requests\n/)
  expect(out).toMatch(
    /\nWorst case for one day: 100,000 tokens = \$0\.04\.\nThese 300 requests ask for at most about [\d,]+ tokens, not counting retries and fallbacks\. The budget allows 100,000 tokens = \$0\.04 more today\.\nNothing was sent\.\n$/,
  )
  expect(calls()).toEqual([])
  const routes = new Set(workers.log.all('request').map(({ route }) => route))
  expect([...routes].sort()).toEqual(['health', 'models', 'openapi', 'prompts', 'usage'])
})

test('does not begin without --yes if nobody can be asked, and names the amount', async () => {
  const { code, err } = await run(worker())
  expect(code).toBe(2)
  expect(err).toBe('Cannot attack without --yes: it may spend 100,000 tokens = $0.04\n')
  expect(calls()).toEqual([])
})

test('attacks only a Worker that accepts the token', async () => {
  const wrong = await run([...worker(), '--yes'], 'another-token')
  expect([wrong.code, wrong.out]).toEqual([2, ''])
  expect(wrong.err).toMatch(/^Cannot attack: OPERATOR_TOKEN does not match/)
  const none = await run([...worker(), '--yes'], '')
  expect([none.code, none.err]).toEqual([2, expect.stringContaining('without OPERATOR_TOKEN')])
  const other = await run(['--url', site.origin, '--yes'])
  expect([other.code, other.err]).toEqual([2, expect.stringContaining('Cannot attack: http')])
  expect(calls()).toEqual([])
})

test('--help prints the usage without a token', async () => {
  const { code, out, err } = await run(['--help'], '')
  expect([code, err]).toEqual([0, ''])
  expect(out).toMatch(/^Usage[\s\S]*--requests /)
})

test('ends with what the worst day and the attack cost, and what was refused', async () => {
  const { code, out, err } = await run([...worker(), '--yes', '--requests', '80', '--seed', '5'])
  expect([code, err]).toEqual([0, ''])
  expect(out).toMatch(
    /\nWorst case for one day: 100,000 tokens = \$0\.04\.\nThis attack spent [\d,]+ tokens = \$0\.00\d+\.\nIt refused \d+ of 80 requests: \d+ \w+, .+\.\nEvery promise held\.\n$/,
  )
  expect(calls().length).toBeGreaterThan(0)
})

test('Ctrl-C ends it with the summary', async () => {
  const held = latch()
  upstream.lane('u').answers(completionsStream(['a', 'b'], { pace: () => held.opened }))
  const { child, exit } = start([...worker(), '--yes', '--requests', '5000', '--seconds', '600'])
  await upstream.lane('u').call()
  child.kill('SIGINT')
  const { code, out, err } = await exit
  held.open()
  expect(code).toBe(130)
  expect(err).toContain('Press Ctrl-C again to quit now.')
  expect(out).toMatch(
    /\nThis attack spent .+\nIt refused \d+ of \d+ requests.*\nEvery promise held\.\n$/,
  )
})

test('ends when its time is over, with what was sent until then', async () => {
  const { code, out } = await run([...worker(), '--yes', '--requests', '9000', '--seconds', '1'])
  expect(code).toBe(0)
  const [, sent = ''] = /It refused [\d,]+ of ([\d,]+) requests/.exec(out) ?? []
  expect(Number(sent.replace(',', ''))).toBeGreaterThan(0)
  expect(Number(sent.replace(',', ''))).toBeLessThan(9000)
})
