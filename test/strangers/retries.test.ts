// What clients of others do when the Worker fails or refuses: a healthy one and mutants of it.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ORIGIN } from '../support/client.ts'
import { chatStream, endless, refusal, type Script } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import { langchain } from './packages.ts'
import { JudgedProxy, type Mutation, type Mutations } from './proxy.ts'
import { installed, run } from './venv.ts'

const without =
  (name: string): Mutation =>
  ({ headers }) => {
    const { [name]: _, ...others } = headers
    return { headers: others }
  }

const mutations: Mutations = new Map<string, Mutation | null>([
  ['none', null],
  ['retry-after-missing', without('retry-after')],
  ['should-retry-missing', without('x-should-retry')],
  ['request-id-missing', without('x-request-id')],
  ['failures-as-200', ({ status }) => (status < 500 ? {} : { status: 200 })],
])

const suite = workerSuite()
let proxy: JudgedProxy

/** Fails so many times for each request, and then answers. */
function failing(times: number, failure: Script): Script {
  const seen = new Map<string, number>()
  return (call, line) => {
    const before = seen.get(call.text) ?? 0
    seen.set(call.text, before + 1)
    return (before < times ? failure : chatStream(['All is ', 'well.']))(call, line)
  }
}

const scripts: Readonly<Record<string, Script>> = {
  failing: failing(2, refusal(503)),
  busy: failing(1, refusal(429, undefined, { 'retry-after': '2' })),
  rejecting: refusal(401),
  endless: endless('chat'),
}

beforeAll(async () => {
  const names = Object.keys(scripts)
  for (const [name, script] of Object.entries(scripts)) suite.upstream.lane(name).answers(script)
  const workers = await suite.share({
    config: {
      origins: [ORIGIN],
      free_prompts: true,
      models: [
        { id: 'default', upstream: 'demo', upstream_model: 'demo' },
        ...names.map((id) => ({ id, upstream: id, upstream_model: 'm', abandon: 'stop' })),
      ],
      upstreams: [
        { name: 'demo', preset: 'demo' },
        ...names.map((name) => ({
          name,
          base_url: suite.upstream.url(name),
          key: 'UPSTREAM_API_KEY',
          // So that it is the client whose retries help.
          retries: 0,
        })),
      ],
      budget: { tokens_per_day: 1e9, tokens_per_visitor_per_day: 1500, streams_per_visitor: 1 },
      limits: { max_tokens: 2000 },
    },
  })
  proxy = await JudgedProxy.start(workers.url, mutations)
})

afterAll(() => proxy?.stop())

test(`${langchain.join(', ')}: retries, waits, errors that are not retried; mutants are found`, async () => {
  const bin = await installed(...langchain)
  const paths = [...mutations.keys()]
  const args = ['test/strangers/with_retries.py', proxy.origin, paths.join(',')]
  const { stdout, stderr } = await run(`${bin}/python`, args, { timeout: 300_000 })
  const found: Record<string, string | null> = JSON.parse(stdout.trim().split('\n').at(-1) ?? '')
  console.log(found)
  expect(found['none'], stderr).toBe(null)
  expect(paths.filter((path) => found[path] === null)).toEqual(['none'])
})
