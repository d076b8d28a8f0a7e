// `npm run setup` from the first question to the snippet: with the real checks, and with real calls to
// an upstream on this machine.
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { SetupError } from '../../../scripts/setup/arguments.ts'
import { type SetupDeps, setUp } from '../../../scripts/setup/setup.ts'
import { hints } from '../../../src/upstream/hints.ts'
import { CANARY, recordOutput } from '../../support/canary.ts'
import { configIn } from '../../support/documents.ts'
import { chatStream, refusal, UpstreamServer } from '../../support/upstream-server.ts'

const TOKEN = 'a-random-token-of-32-characters-'
const SITE = 'https://blog.example.com/'

let folder: string
let upstream: UpstreamServer
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'setup-'))
  upstream = await UpstreamServer.start()
})
beforeEach(async () => {
  await cp('wrangler.toml', join(folder, 'wrangler.toml'))
  await rm(join(folder, '.dev.vars'), { force: true })
})
afterAll(async () => {
  await upstream.stop()
  await rm(folder, { recursive: true })
})

const read = (name: string) => readFile(join(folder, name), 'utf8')
// biome-ignore lint/suspicious/noExplicitAny: a test names the settings it looks at
const config = async (): Promise<any> => configIn(await read('wrangler.toml'))

/** The owner's site is made up; the upstream is real. */
const fetchSite: SetupDeps['fetch'] = async (request) => {
  if (!request.url.startsWith(SITE)) return await fetch(request)
  const isHome = request.url === SITE
  const html = '<meta name="generator" content="Hugo 0.160.0"><h1>Blog</h1>'
  return new Response(isHome ? html : '', { status: isHome ? 200 : 404 })
}

interface Session {
  /** What is typed, in order; without any, there is no terminal. */
  readonly typed?: readonly string[]
  /** What is piped. */
  readonly piped?: string
}

async function run(args: readonly string[], { typed, piped = '' }: Session = {}) {
  const rest = [...(typed ?? [])]
  const questions: { question: string; hidden: boolean }[] = []
  let output = ''
  const code = await setUp(args, {
    terminal: {
      isInteractive: typed !== undefined,
      print: (text) => {
        output += `${text}\n`
      },
      ask: async (question, { hidden = false } = {}) => {
        questions.push({ question, hidden })
        const line = rest.shift()
        if (line === undefined) throw new SetupError(`one question too many: ${question}`)
        return line
      },
      readInput: async () => piped,
    },
    fetch: fetchSite,
    folder,
    wrangler: async () => ({ code: 1, output: '' }),
    pause: async () => {},
    newToken: () => TOKEN,
  })
  expect(rest, 'answers that were not asked for').toEqual([])
  // The key must not be printed.
  recordOutput(output)
  return { code, output, questions }
}

const flags = (...more: string[]) => ['--site', SITE, '--offer', 'summaries,ask', '--yes', ...more]

describe('four questions', () => {
  test('lead to settings, secrets and the snippet', async () => {
    upstream.lane('four').answers(chatStream(['Hello', ' there']))
    const { code, output, questions } = await run(['--base-url', upstream.url('four')], {
      typed: ['blog.example.com', 'openai', CANARY, '', 'y'],
    })
    expect(code).toBe(0)
    // The fifth is whether to write what was shown.
    expect(questions.map(({ hidden }) => hidden)).toEqual([false, false, true, false, false])
    expect(await config()).toMatchObject({
      origins: ['https://blog.example.com'],
      models: [{ upstream: 'openai', upstream_model: 'gpt-6-luna' }],
      upstreams: [{ preset: 'openai', key: 'UPSTREAM_API_KEY' }],
      prompts: {
        summary: { spend: 'operator' },
        ask: { variables: { passages: { from: 'site' } } },
      },
    })
    expect(await read('.dev.vars')).toBe(`UPSTREAM_API_KEY=${CANARY}\nOPERATOR_TOKEN=${TOKEN}\n`)
    expect(output).not.toContain(TOKEN)
    expect(output).toContain('Generator: Hugo. Sitemap: not found.')
    expect(output).toContain('which is at most $0.10 with gpt-6-luna.')
    expect(output).toContain(
      'Checked with one real call: openai, gpt-6-luna answers, 12 tokens spent.',
    )
    expect(output).toContain('layouts/_default/single.html')
    expect(output).toContain(
      'src="http://localhost:8787/elements.js"></script>\n<edge-summary prompt="summary">',
    )
    const sitemap = `${SITE}sitemap.xml`
    const url = 'http://localhost:8787'
    expect(output).toContain(
      `\nnpm run index -- --sitemap ${sitemap} --url ${url}\nnpm run warm -- --sitemap ${sitemap} --prompt summary --url ${url}\n`,
    )
    const { headers, body } = await upstream.lane('four').call()
    expect(headers['authorization']).toBe(`Bearer ${CANARY}`)
    expect(body).toMatchObject({
      model: 'gpt-6-luna',
      reasoning_effort: 'none',
      max_completion_tokens: 32,
    })
  })

  test('are asked again after an answer that cannot be used', async () => {
    const { code, output } = await run(['--no-check'], {
      typed: [
        'nowhere',
        SITE,
        '99',
        'opnai',
        '2',
        '',
        `${CANARY}\u00e9`,
        CANARY,
        'all',
        'free',
        'perhaps',
        'n',
      ],
    })
    expect(code).toBe(0)
    for (const message of [
      'Cannot use this as the address of a site',
      'Cannot use the provider "99"',
      'Did you mean "openai"?',
      'Cannot use an empty key',
      'expected printable ASCII',
      'Cannot offer "all"',
      'Expected "y" or "n"',
      'Nothing is written.',
    ]) {
      expect(output).toContain(message)
    }
    expect(await read('wrangler.toml')).toBe(await readFile('wrangler.toml', 'utf8'))
    await expect(read('.dev.vars')).rejects.toThrow('ENOENT')
  })

  test('are two more for a server of your own: its address and its model', async () => {
    upstream.lane('own').answers(chatStream(['Hello']))
    const address = upstream.url('own')
    const { code, output, questions } = await run([], {
      typed: [SITE, 'compatible', 'llm', address, '', 'tiny', CANARY, 'summaries', 'y'],
    })
    expect(code).toBe(0)
    const [address1, address2, model1, model2, key] = questions
      .slice(2)
      .map((each) => each.question)
    expect(address1).toContain('The address of its API')
    expect(model1).toContain('The name of the model')
    expect([address2, model2]).toEqual([address1, model1])
    expect(key).toContain('Key for your own OpenAI-compatible server')
    expect(output).toContain('expected an address such as https://llm.example.com/v1')
    expect(output).toContain('Cannot use an empty name of a model')
    expect(output).toContain('in dollars once its price is set in wrangler.toml.')
    expect(await config()).toMatchObject({
      models: [{ upstream: 'compatible', upstream_model: 'tiny' }],
      upstreams: [{ preset: 'compatible', base_url: address }],
    })
    // `npm run warm` reads the token from .dev.vars itself.
    expect(output).not.toContain('OPERATOR_TOKEN= ')
    expect(output).toContain('\nnpm run warm -- --sitemap')
  })

  test('are as many as there are no flags for', async () => {
    const { questions } = await run(flags('--preset', 'demo', '--no-check'), { typed: [] })
    expect(questions).toEqual([])
  })

  test('take the key that is already there', async () => {
    await writeFile(join(folder, '.dev.vars'), `# mine\nUPSTREAM_API_KEY="${CANARY}"\n`)
    const { questions } = await run(flags('--preset', 'openai', '--no-check'), { typed: [''] })
    expect(questions[0]?.question).toContain('[Enter: the UPSTREAM_API_KEY of .dev.vars]')
    expect(await read('.dev.vars')).toBe(
      `# mine\nUPSTREAM_API_KEY="${CANARY}"\nOPERATOR_TOKEN=${TOKEN}\n`,
    )
  })
})

describe('without a terminal', () => {
  test.each([
    [[], '--site, --preset, --key-stdin, --offer, --yes'],
    [['--site', SITE, '--preset', 'demo'], '--offer, --yes'],
    [flags('--preset', 'azure', '--key-stdin'), '--base-url, --model'],
    [['--site', SITE, '--preset', 'openai', '--offer', 'ask', '--yes'], '--key-stdin'],
  ])('%j lacks %s', async (args, missing) => {
    const { code, output } = await run(args)
    expect([code, output]).toEqual([
      2,
      `Cannot ask questions without a terminal. Missing: ${missing}. --help shows an example.\n`,
    ])
  })

  test('the key is read from standard input', async () => {
    const { code } = await run(flags('--preset', 'openai', '--key-stdin', '--no-check'), {
      piped: `${CANARY}\n`,
    })
    expect(code).toBe(0)
    expect(await read('.dev.vars')).toContain(`UPSTREAM_API_KEY=${CANARY}\n`)
  })

  test('the same answers again change nothing', async () => {
    const args = flags('--preset', 'demo')
    await run(args)
    const before = [await read('wrangler.toml'), await read('.dev.vars')]
    const { code, output } = await run(args)
    expect(code).toBe(0)
    expect(output).toContain('wrangler.toml and .dev.vars already have these settings.')
    expect([await read('wrangler.toml'), await read('.dev.vars')]).toEqual(before)
  })

  test('--help lists every flag', async () => {
    const { code, output } = await run(['--help'])
    expect(code).toBe(0)
    for (const flag of ['--site', '--preset', '--key-stdin', '--offer', '--yes', '--no-check']) {
      expect(output).toContain(`  ${flag} `)
    }
  })
})

test('a weak operator token is replaced', async () => {
  await writeFile(join(folder, '.dev.vars'), 'OPERATOR_TOKEN=short\n')
  await run(flags('--preset', 'demo', '--no-check'))
  expect(await read('.dev.vars')).toBe(`OPERATOR_TOKEN=${TOKEN}\n`)
})

test('the demo model is checked without a network', async () => {
  const { code, output } = await run(flags('--preset', 'demo'))
  expect(code).toBe(0)
  expect(output).toMatch(/demo, demo answers, \d+ tokens spent/)
})

test('Workers AI is not checked on this machine, and gets its binding', async () => {
  const { code, output } = await run(flags('--preset', 'workers-ai'))
  expect(code).toBe(0)
  expect(output).toContain('Not checked: workers-ai answers only a deployed Worker.')
  expect(await read('wrangler.toml')).toContain('[ai]\nbinding = "AI"')
})

describe('a check that fails', () => {
  const failing = (lane: string) =>
    run(flags('--preset', 'openai', '--key-stdin', '--base-url', upstream.url(lane)), {
      piped: CANARY,
    })

  test.each([
    [401, { message: 'Incorrect API key provided', code: 'invalid_api_key' }, hints.key],
    [404, { message: 'The model does not exist', code: 'model_not_found' }, hints.model],
    [429, { message: 'You exceeded your current quota', code: 'insufficient_quota' }, hints.quota],
  ])('with %i prints the hint that the log would have', async (status, error, hint) => {
    upstream.lane(`s${status}`).answers(refusal(status, { error: { ...error, key: CANARY } }))
    const { code, output } = await failing(`s${status}`)
    expect(code).toBe(1)
    expect(output).toContain(`openai, gpt-6-luna does not answer (status ${status}).\n${hint}\n`)
    // Fixing the cause is quicker than to answer all questions again.
    expect(await read('.dev.vars')).toContain(CANARY)
  })

  test('without a connection says what to look at', async () => {
    const { code, output } = await run(
      flags('--preset', 'ollama', '--base-url', 'http://127.0.0.1:1/v1'),
    )
    expect([code, output.includes(hints.not_sent)]).toEqual([1, true])
  })
})

test('settings that the Worker would refuse are not written', async () => {
  const args = flags('--preset', 'openai', '--base-url', 'https://x.example/v1?a', '--key-stdin')
  const { code, output } = await run(args, { piped: CANARY })
  expect(code).toBe(2)
  expect(output).toContain('upstreams[0].base_url: Cannot use "base_url"')
  await expect(read('.dev.vars')).rejects.toThrow('ENOENT')
})
