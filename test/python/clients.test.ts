// The openai package for Python, synchronous and asynchronous, against the bundle in workerd. It is
// installed into a folder of its own, which needs python3 with venv, and the package index.
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { messages } from '../../src/errors.ts'
import { recordOutput } from '../support/canary.ts'
import { newAddress } from '../support/client.ts'
import { codeBlocks } from '../support/documents.ts'
import { Lanes } from '../support/lanes.ts'
import { chatStream, completionsStream, endless, refusal } from '../support/upstream-server.ts'
import { workerSuite } from '../support/worker-suite.ts'
import type { JsonValue, Workers } from '../support/workerd.ts'

const PACKAGE = 'openai==3.57.0'
const run = promisify(execFile)

const suite = workerSuite()
const lanes = new Lanes(
  suite,
  { chat: { retries: 0 }, legacy: { retries: 0, wire: 'completions', chat_path: '/chat' } },
  40,
)
let workers: Workers
let folder: string
let python: string
let driver: ChildProcess
let results: AsyncIterator<string>

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'python-'))
  python = join(folder, 'bin', 'python')
  const config = lanes.config()
  const models = [
    { id: 'default', upstream: 'chat-39', upstream_model: 'm' },
    ...(config['models'] as JsonValue[]),
  ]
  ;[workers] = await Promise.all([suite.share({ config: { ...config, models } }), install()])
  driver = spawn(python, ['test/python/clients.py'], { stdio: ['pipe', 'pipe', 'inherit'] })
  results = createInterface({ input: driver.stdout! })[Symbol.asyncIterator]()
})

afterAll(async () => {
  driver?.kill()
  await rm(folder, { recursive: true, force: true })
})

async function install(): Promise<void> {
  const pip = ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', PACKAGE]
  try {
    await run('python3', ['-m', 'venv', folder])
    await run(python, pip)
  } catch (error) {
    throw new Error(
      `Cannot install ${PACKAGE}: this test needs python3 with venv, and the network`,
      {
        cause: error,
      },
    )
  }
}

interface Request {
  readonly api: 'completions' | 'chat'
  readonly asynchronous: boolean
  readonly model: string
  readonly stream: boolean
  /** Close the stream after the first text. */
  readonly leave?: boolean
  readonly fields?: Readonly<Record<string, unknown>>
  readonly headers?: Readonly<Record<string, string>>
}

interface Result {
  readonly texts: readonly string[]
  readonly error: {
    readonly kind: string
    readonly status: number | null
    readonly code: string | null
    readonly message: string
  } | null
}

/** Sends a request with the package, and reads all of the answer. */
async function ask({ headers = {}, ...request }: Request): Promise<Result> {
  const all = { 'cf-connecting-ip': newAddress(), ...headers }
  const base_url = new URL('/v1', workers.url).href
  const line = { prompt: 'Hi', leave: false, fields: {}, ...request, base_url, headers: all }
  driver.stdin!.write(`${JSON.stringify(line)}\n`)
  const { value } = await results.next()
  recordOutput(value)
  return JSON.parse(value)
}

const text = 'Grüße, 🌍!\n\ndata: [DONE]'
const pieces = [text.slice(0, 5), text.slice(5)]

describe.each([
  ['completions', false],
  ['completions', true],
  ['chat', false],
  ['chat', true],
] as const)('%s, asynchronous: %s', (api, asynchronous) => {
  const of = { api, asynchronous }
  const streamOf = api === 'chat' ? chatStream : completionsStream

  test.each(['chat', 'legacy'] as const)(
    'reads answers of the wire %s, stored ones too',
    async (kind) => {
      const { model, lane } = lanes.take(kind)
      lane.answers((kind === 'chat' ? chatStream : streamOf)(pieces))
      for (const stream of [true, false, true]) {
        const { texts, error } = await ask({ ...of, model, stream })
        expect(error).toBe(null)
        expect(texts.join('')).toBe(text)
      }
      expect(lane.calls).toHaveLength(1)
    },
  )

  test.each([false, true])(
    'raises its own errors with our message, streaming: %s',
    async (stream) => {
      const { model, lane } = lanes.take('chat')
      lane.answers(refusal(500))
      const refused = await ask({ ...of, model, stream, fields: { temperature: 3 } })
      expect(refused.error).toEqual({
        kind: 'BadRequestError',
        status: 400,
        code: 'invalid_value',
        message: expect.stringContaining('Cannot use "temperature": expected'),
      })
      expect((await ask({ ...of, model, stream })).error).toEqual({
        kind: 'InternalServerError',
        status: 502,
        code: 'upstream_unavailable',
        message: expect.stringContaining(messages.upstream_unavailable),
      })
      expect(lane.calls).toHaveLength(1)
    },
  )

  test('raises an error in the middle of a stream, after the text', async () => {
    const { model, lane } = lanes.take('legacy')
    lane.answers(streamOf(['one ', 'two'], { finish: null, usage: null, done: false }))
    const { texts, error } = await ask({ ...of, model, stream: true })
    expect(texts.join('')).toBe('one two')
    expect(error).toEqual({
      kind: 'APIError',
      status: null,
      code: 'upstream_truncated',
      message: messages.upstream_truncated,
    })
  })

  test('ends the upstream call when the stream is closed', async () => {
    const { model, lane } = lanes.take('legacy')
    lane.answers(endless(api))
    const headers = { 'cache-control': 'no-store' }
    const { texts, error } = await ask({ ...of, model, stream: true, leave: true, headers })
    expect([texts.join(''), error]).toEqual(['word', null])
    const call = await lane.call()
    await call.closed
    expect(call.left).toBe(true)
  })
})

test('the recipe prints both answers', async () => {
  const lane = suite.upstream.lane('chat-39').answers(chatStream(['Waves ', 'fold.']))
  const [block] = codeBlocks('docs/recipes.md').filter(({ language }) => language === 'python')
  const script = block?.text.replaceAll(
    'https://edge-completions.YOU.workers.dev',
    workers.url.origin,
  )
  const { stdout } = await run(python, ['-c', script ?? ''])
  expect(stdout).toBe('Waves fold.Waves fold.\n')
  expect(lane.calls).toHaveLength(2)
})
