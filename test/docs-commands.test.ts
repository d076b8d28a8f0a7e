// Every command of README.md and docs/, run in a shell as a reader would: in a copy of the repository,
// against `npm start`, first as shipped, then with the configuration of docs/settings.md pasted into wrangler.toml.
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { CANARY, recordOutput } from './support/canary.ts'
import { allBlocks, codeBlocks, isPrompt, pasted } from './support/documents.ts'
import { type ExampleSite, startExampleSite } from './support/example-site.ts'
import { freePort } from './support/free-port.ts'
import { chatStream, UpstreamServer } from './support/upstream-server.ts'

const TOKEN = 'an-operator-token-of-32-characters'

/** Commands that need an account, the network, or this run itself, each with what holds it instead. */
const notRunHere: ReadonlyMap<string, string> = new Map([
  ['npm ci', '.ci/run begins with it'],
  ['npm start', 'started below, on another port'],
  ['npm run setup', 'asks questions; test/scripts/setup answers them'],
  ['npm run setup -- --deploy', 'needs an account; test/scripts/setup has a wrangler that records'],
  ['npx wrangler login', 'needs an account'],
  ['npm run deploy', 'needs an account; every test run builds with --dry-run'],
  ['npx wrangler secret put UPSTREAM_API_KEY', 'needs an account'],
  ['npx wrangler secret put OPERATOR_TOKEN', 'needs an account'],
  ['git clone https://github.com/Portkey-AI/gateway && cd gateway', 'needs the network'],
  [
    'npm install --ignore-scripts && npx wrangler deploy --dry-run --minify --outdir dist src/index.ts',
    'needs the network',
  ],
])

let clone: string
let upstream: UpstreamServer
let site: ExampleSite
let worker: { readonly process: ChildProcess; readonly port: number } | null = null

beforeAll(async () => {
  clone = await mkdtemp(join(tmpdir(), 'clone-'))
  const names = ['src', 'scripts', 'package.json', 'tsconfig.json', 'wrangler.toml']
  for (const name of [...names, 'test/support/random.ts']) {
    await cp(name, join(clone, name), { recursive: true })
  }
  await symlink(resolve('node_modules'), join(clone, 'node_modules'))
  await writeFile(
    join(clone, '.dev.vars'),
    `UPSTREAM_API_KEY="${CANARY}"\nOPERATOR_TOKEN="${TOKEN}"\n`,
  )
  upstream = await UpstreamServer.start()
  upstream.lane('model').answers(chatStream(['Waves fold ', 'into foam.']))
  site = await startExampleSite()
})

afterEach(stopWorker)

afterAll(async () => {
  site?.stop()
  await upstream?.stop()
  await rm(clone, { recursive: true, force: true })
})

/** `npm start`, on a free port, until it says that it is ready. */
async function startWorker(): Promise<void> {
  const port = await freePort()
  const child = spawn('npm', ['start', '--', '--port', String(port)], {
    cwd: clone,
    detached: true,
    env: { ...process.env, CLOUDFLARE_CF_FETCH_ENABLED: 'false', WRANGLER_SEND_METRICS: 'false' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  worker = { process: child, port }
  let output = ''
  await new Promise<void>((ready, fail) => {
    const read = (data: unknown) => {
      output += String(data)
      if (/Ready on/.test(output)) ready()
    }
    child.stdout.on('data', read)
    child.stderr.on('data', read)
    child.on('exit', () => fail(new Error(`npm start ended: ${output}`)))
  })
}

async function stopWorker(): Promise<void> {
  const child = worker?.process
  worker = null
  if (child?.pid === undefined || child.exitCode !== null) return
  const ended = once(child, 'exit')
  // npm, wrangler and workerd are one process group.
  process.kill(-child.pid, 'SIGTERM')
  await ended
}

/** Runs lines of a page in bash; a command that fails, an HTTP error included, fails the test. */
async function run(lines: readonly string[]): Promise<string> {
  const endpoint = `http://localhost:${worker?.port}`
  const script = lines
    .join('\n')
    .replaceAll('https://edge-completions.YOU.workers.dev', endpoint)
    .replaceAll('http://localhost:8787', endpoint)
    .replaceAll('localhost:8787', `localhost:${worker?.port}`)
    .replaceAll('https://example.com', site.origin)
  const curl = 'curl() { command curl --silent --show-error --fail-with-body "$@"; }'
  const { stdout, stderr } = await promisify(execFile)('bash', ['-ec', `${curl}\n${script}`], {
    cwd: clone,
    env: { ...process.env, OPERATOR_TOKEN: TOKEN },
  })
  recordOutput(stdout, stderr)
  return stdout
}

const shellBlocks = allBlocks('sh').map(({ at, page, text }) => ({
  at,
  page,
  lines: text.split('\n').filter((line) => line.trim() !== ''),
}))

const runnable = (lines: readonly string[]) => lines.filter((line) => !notRunHere.has(line))

test('every command that is not run here stands in a page', () => {
  const lines = new Set(shellBlocks.flatMap((block) => block.lines))
  expect([...notRunHere.keys()].filter((line) => !lines.has(line))).toEqual([])
})

describe('as shipped', () => {
  test('the first curl of README.md returns the object that follows it, and then a hit', async () => {
    await startWorker()
    const [curl = ''] = shellBlocks
      .flatMap(({ lines }) => lines)
      .filter((line) => line.startsWith('curl'))
    const [shown] = codeBlocks('README.md').filter(({ language }) => language === 'json')
    const answer = JSON.parse(await run([curl]))
    expect(Object.keys(answer)).toEqual(Object.keys(JSON.parse(shown?.text ?? '')))
    expect(answer.choices[0].text).not.toBe('')
    const again = await run([`${curl} -i`])
    expect(again).toContain(`"id":"${answer.id}"`)
    expect(again).toMatch(/^cache-status: edge-completions; hit/im)
    const chat = shellBlocks
      .flatMap(({ lines }) => lines)
      .find((line) => line.startsWith('curl') && line.includes('/v1/chat/completions'))
    const said = JSON.parse(await run([chat ?? '']))
    expect(said.object).toBe('chat.completion')
    expect(said.choices[0].message.content).toBe(answer.choices[0].text)
    expect(said.id).toBe(`chat${answer.id}`)
  })
})

describe('with the configuration of docs/settings.md', () => {
  test('every command of README.md and docs/ succeeds', async () => {
    await paste()
    await startWorker()
    for (const { at, page, lines } of shellBlocks) {
      const list = codeBlocks(page).find(
        ({ language, text }) => language === 'json' && text.startsWith('['),
      )
      if (list !== undefined) await writeFile(join(clone, 'prompts.json'), list.text)
      const own = runnable(lines)
      if (own.length === 0) continue
      await run(own).catch((error: { stdout?: string; message: string }) => {
        throw new Error(`${at}: ${error.message}\n${error.stdout}`)
      })
    }
    expect(upstream.lane('model').calls.length).toBeGreaterThan(0)
  })
})

/** What docs/settings.md and docs/recipes.md say to paste, with the upstream of this test. */
async function paste(): Promise<void> {
  const path = join(clone, 'wrangler.toml')
  const toml = pasted(await readFile(path, 'utf8'), allBlocks('toml').filter(isPrompt))
  const preset = /^preset = "openai".*$/m
  await writeFile(
    path,
    toml
      .replace('https://example.com', site.origin)
      .replace(preset, (line) => `${line}\nbase_url = "${upstream.url('model')}"`),
  )
}
