// `npm run setup -- --deploy`, with a `wrangler` that records what it is given.
import { chmod, cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { checkConfig } from '../../../scripts/config/check.ts'
import { wranglerIn } from '../../../scripts/setup/command.ts'
import { needsBaseUrl, needsKey, needsModel, providers } from '../../../scripts/setup/providers.ts'
import { settingsOf } from '../../../scripts/setup/settings.ts'
import { setUp } from '../../../scripts/setup/setup.ts'
import { withSettings } from '../../../scripts/setup/wrangler-toml.ts'
import { parseConfig } from '../../../src/config/config.ts'
import { CANARY, recordOutput } from '../../support/canary.ts'
import { configIn, textOf } from '../../support/documents.ts'

const TOKEN = 'a-random-token-of-32-characters-'
const WORKER = 'https://edge-completions.me.workers.dev'

/** Ends as FAKE_WRANGLER says. */
const fake = `#!${process.execPath}
const { appendFileSync, readFileSync, writeFileSync } = require('node:fs')
const args = process.argv.slice(2)
const { codes = {}, targets = [] } = JSON.parse(process.env.FAKE_WRANGLER)
const input = args[0] === 'secret' ? readFileSync(0, 'utf8') : ''
appendFileSync('wrangler.log', JSON.stringify({ args, input }) + '\\n')
const report = process.env.WRANGLER_OUTPUT_FILE_PATH
if (report) {
  const lines = [{ type: 'wrangler-session' }, { type: 'deploy', targets }]
  writeFileSync(report, lines.map((line) => JSON.stringify(line) + '\\n').join(''))
}
process.exit(codes[args[0]] ?? 0)
`

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'deploy-'))
  await writeFile(join(folder, 'wrangler'), fake)
  await chmod(join(folder, 'wrangler'), 0o755)
})
beforeEach(async () => {
  await cp('wrangler.toml', join(folder, 'wrangler.toml'))
  for (const name of ['.dev.vars', 'wrangler.log']) await rm(join(folder, name), { force: true })
})
afterAll(() => rm(folder, { recursive: true }))

interface World {
  readonly codes?: Readonly<Record<string, number>>
  readonly targets?: readonly string[]
  /** The Worker's answers, by path; the last one is repeated. */
  readonly answers?: Readonly<Record<string, readonly Response[]>>
  readonly isInteractive?: boolean
}

const healthy = { '/health': [Response.json({ status: 'ok', warnings: ['Turnstile is off'] })] }
const completion = Response.json({ choices: [], usage: { total_tokens: 31 } })

async function run(args: readonly string[], world: World = {}) {
  const { codes = {}, targets = [WORKER], isInteractive = false } = world
  const answers = new Map(
    Object.entries(world.answers ?? { ...healthy, '/v1/completions': [completion] }).map(
      ([path, list]) => [path, [...list]],
    ),
  )
  let output = ''
  const requests: Request[] = []
  const pauses: number[] = []
  const code = await setUp(
    [
      '--site',
      'https://example.com',
      '--offer',
      'ask,free',
      '--yes',
      '--no-check',
      '--deploy',
      ...args,
    ],
    {
      terminal: {
        isInteractive,
        print: (text) => {
          output += `${text}\n`
        },
        ask: async () => CANARY,
        readInput: async () => CANARY,
      },
      fetch: async (request) => {
        if (!request.url.startsWith(WORKER)) return new Response('', { status: 404 })
        requests.push(request)
        const list = answers.get(new URL(request.url).pathname) ?? []
        const answer = list.length > 1 ? list.shift() : list[0]
        if (answer === undefined) throw new TypeError('fetch failed')
        return answer.clone()
      },
      wrangler: wranglerIn(folder, {
        ...process.env,
        PATH: `${folder}${delimiter}${process.env['PATH']}`,
        FAKE_WRANGLER: JSON.stringify({ codes, targets }),
      }),
      pause: async (ms) => pauses.push(ms),
      folder,
      newToken: () => TOKEN,
    },
  )
  recordOutput(output)
  const log = await readFile(join(folder, 'wrangler.log'), 'utf8').catch(() => '')
  const calls: { args: string[]; input: string }[] = log
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line))
  return { code, output, calls, requests, pauses }
}

const openai = ['--preset', 'openai', '--key-stdin']
const commands = ({ calls }: Awaited<ReturnType<typeof run>>) =>
  calls.map(({ args }) => args.join(' '))

test('shows and runs whoami, deploy and the secrets, and tries the Worker', async () => {
  const result = await run(openai)
  const { code, output, calls, requests } = result
  expect(code).toBe(0)
  expect(commands(result)).toEqual(['whoami --json', 'deploy', 'secret bulk'])
  for (const command of commands(result)) expect(output).toContain(`$ npx wrangler ${command}`)
  // Both in one command, and none of them in its arguments.
  expect(JSON.parse(calls[2]?.input ?? '')).toEqual({
    UPSTREAM_API_KEY: CANARY,
    OPERATOR_TOKEN: TOKEN,
  })
  expect(output).not.toContain(TOKEN)
  expect(requests.map(({ method, url }) => `${method} ${url}`)).toEqual([
    `GET ${WORKER}/health`,
    `POST ${WORKER}/v1/completions`,
  ])
  for (const { headers } of requests) expect(headers.get('authorization')).toBe(`Bearer ${TOKEN}`)
  expect(output).toContain('warning: Turnstile is off')
  expect(output).toContain('The Worker answers: 31 tokens spent.')
  expect(output).toContain(`src="${WORKER}/elements.js"></script>\n<edge-ask prompt="ask">`)
  expect(output).toContain(`Dashboard: ${WORKER}/admin`)
})

test('sends every secret of .dev.vars by its name, and none without a value or of wrangler itself', async () => {
  const others = {
    TOKEN_SECRET: `token-${CANARY}`,
    TOKEN_SECRET_PREVIOUS: `previous-${CANARY}`,
    TURNSTILE_SECRET: `turnstile-${CANARY}`,
    ALERT_URL: `https://alerts.example.com/${CANARY}`,
    SECOND_KEY: `second-${CANARY}`,
  }
  const ofWrangler = { CLOUDFLARE_API_TOKEN: 'cf', WRANGLER_LOG: 'debug', CF_API_TOKEN: 'cf' }
  const lines = Object.entries({ ...others, ...ofWrangler, EMPTY: '', CONFIG: '{}' })
  await writeFile(
    join(folder, '.dev.vars'),
    lines.map(([name, value]) => `${name}="${value}"\n`).join(''),
  )
  const { code, output, calls } = await run(openai)
  expect(code).toBe(0)
  expect(JSON.parse(calls[2]?.input ?? '')).toEqual({
    ...others,
    UPSTREAM_API_KEY: CANARY,
    OPERATOR_TOKEN: TOKEN,
  })
  const [, names = ''] = /secret bulk {3}# with (.*) on its standard input/.exec(output) ?? []
  const sent = [...Object.keys(others), 'UPSTREAM_API_KEY', 'OPERATOR_TOKEN']
  expect(names.split(', ').sort()).toEqual(sent.sort())
})

test('asks the model nothing before there is a page to ask about', async () => {
  const { code, output, requests } = await run([...openai, '--offer', 'summaries,ask'])
  expect([code, requests.map(({ url }) => url)]).toEqual([0, [`${WORKER}/health`]])
  expect(output).toContain(
    'The Worker is ready. Its model was not tried, since that takes one of your pages',
  )
  expect(output).toContain(
    `\nnpm run index -- --sitemap https://example.com/sitemap.xml --url ${WORKER}\n`,
  )
})

test('the Worker may have a domain of its own', async () => {
  const targets = [
    'example.com/ai/*',
    'edge-completions.me.workers.dev',
    'ai.example.com (custom domain)',
  ]
  const { output } = await run(openai, { targets, answers: {} })
  expect(output).toContain('GET https://ai.example.com/health')
})

describe.each(Object.keys(providers))('between deploy and secrets, with %s', (preset) => {
  test('the Worker spends nothing, or at most its budget', () => {
    const site = {
      url: new URL('https://example.com'),
      origins: ['https://example.com'],
      generator: 'html',
      sitemap: null,
      otherSitemap: null,
      folder: '/',
      paths: ['/*'],
      problem: null,
    } as const
    const model = needsModel(preset) ? 'm' : null
    const baseUrl = needsBaseUrl(preset) ? 'https://llm.example.com/v1' : null
    const answers = { site, preset, model, baseUrl, offer: ['ask', 'free'] } as const
    const settings = configIn(withSettings(textOf('wrangler.toml'), settingsOf(answers)))
    expect(checkConfig(settings).faults).toEqual([])
    const { config } = parseConfig({
      config: settings,
      prompts: {},
      secret: () => undefined,
      bound: () => true,
    })
    // With a fault, such as a missing key, it answers 503.
    if (config === null) expect(needsKey(preset)).toBe(true)
    else expect(config.budget.tokens_per_day).toBe(200_000)
  })
})

test('waits for a new address, and for the secrets', async () => {
  const { code, pauses, requests } = await run(openai, {
    answers: {
      '/health': [
        new Response('error code: 1042', { status: 404 }),
        Response.json({ status: 'misconfigured', faults: [{ path: 'key', message: 'none' }] }),
        Response.json({ status: 'ok' }),
        ...healthy['/health'],
      ],
      '/v1/completions': [completion],
    },
  })
  expect([code, pauses.length, requests.length]).toEqual([0, 3, 5])
})

describe('ends with what to do', () => {
  test('without a login, if nobody can log in', async () => {
    const result = await run(openai, { codes: { whoami: 1 } })
    expect([result.code, commands(result)]).toEqual([1, ['whoami --json']])
    expect(result.output).toContain('Run npx wrangler login, or set CLOUDFLARE_API_TOKEN')
  })

  test('if the login fails', async () => {
    const result = await run(openai, { codes: { whoami: 1, login: 1 }, isInteractive: true })
    expect([result.code, commands(result)]).toEqual([1, ['whoami --json', 'login']])
    expect(result.output).toContain('the login failed')
  })

  test('if the deploy fails, and sets no secrets', async () => {
    const result = await run(openai, { codes: { deploy: 1 } })
    expect([result.code, commands(result).at(-1)]).toEqual([1, 'deploy'])
  })

  test('if the Worker has no address, and sets no secrets', async () => {
    const result = await run(openai, { targets: ['example.com/*'] })
    expect([result.code, commands(result).at(-1)]).toEqual([1, 'deploy'])
    expect(result.output).toContain('wrangler reported no address')
  })

  test('if the secrets cannot be set', async () => {
    const { code, output, requests } = await run(openai, { codes: { secret: 1 } })
    expect([code, requests]).toEqual([1, []])
    expect(output).toContain(
      'Cannot set the secrets. The Worker is deployed without them: it answers 503',
    )
  })

  test('if the Worker reports a problem', async () => {
    const faults = [{ path: 'upstreams[0].key', message: 'Cannot find the secret' }]
    const { code, output } = await run(openai, {
      answers: { '/health': [Response.json({ faults }, { status: 503 })] },
    })
    expect(code).toBe(1)
    expect(output).toContain('/health reports a problem:\nupstreams[0].key: Cannot find the secret')
  })

  const other = { request_id: 'other', hint: 'Not of this request.' }
  test.each([
    ['with the hint of the log', { request_id: 'own', hint: 'Check the key.' }, 'Check the key.'],
    ['without a hint', { request_id: 'own', hint: null }, 'See /admin for the reason.'],
    ['without a failure in the log', other, 'See /admin for the reason.'],
  ])('if the model does not answer, %s', async (_, failure, advice) => {
    const error = { code: 'upstream_rejected', message: 'The model refused the request.' }
    const headers = { 'x-request-id': 'own' }
    const { code, output } = await run(openai, {
      answers: {
        ...healthy,
        '/v1/completions': [Response.json({ error }, { status: 502, headers })],
        '/admin/usage': [Response.json({ failures: [other, failure] })],
      },
    })
    expect(code).toBe(1)
    expect(output).toContain(`502 upstream_rejected: The model refused the request.\n${advice}\n`)
  })

  test('waits for the hint, as the figures of an isolate are gathered for seconds', async () => {
    const failures = [{ request_id: 'own', hint: 'Check the key.' }, other]
    const error = Response.json({}, { status: 502, headers: { 'x-request-id': 'own' } })
    const { output, pauses } = await run(openai, {
      answers: {
        ...healthy,
        '/v1/completions': [error],
        '/admin/usage': [Response.json({ failures: [other] }), Response.json({ failures })],
      },
    })
    expect(output).toContain('\nCheck the key.\n')
    expect(pauses).toHaveLength(1)
  })

  test.each([
    'http://0.0.0.0:9/v1',
    'http://192.168.7.7/v1',
    'http://10.1.2.3/v1',
    'http://172.31.0.1/v1',
    'http://169.254.1.1/v1',
    'http://100.64.0.1/v1',
    'http://0x7f.1/v1',
    'http://[::ffff:127.0.0.1]:9/v1',
    'http://[fd00::1]/v1',
    'http://[fe80::1]/v1',
    'http://[::]/v1',
    'http://localhost.:9/v1',
    'http://nas.local/v1',
    'http://ollama:11434/v1',
  ])('if only this network reaches %s, before anything is deployed', async (url) => {
    const server = ['--preset', 'compatible', '--model', 'm', '--key-stdin', '--base-url', url]
    const { code, output, calls } = await run(server)
    expect([code, calls]).toEqual([1, []])
    expect(output).toContain('Cannot deploy: Cloudflare cannot reach')
  })

  test('if the model is on this machine, before anything is deployed', async () => {
    const { code, output, calls } = await run(['--preset', 'ollama'])
    expect([code, calls]).toEqual([1, []])
    expect(output).toContain('Cannot deploy: Cloudflare cannot reach http://localhost:11434/v1.')
  })
})
