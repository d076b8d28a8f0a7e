// `npm run setup` from the first question to the snippet: with the real checks, and with real calls to
// an upstream on this machine.
import { execFileSync } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { parseArguments as indexArguments } from '../../../scripts/index/arguments.ts'
import { parseArguments as warmArguments } from '../../../scripts/warm/arguments.ts'
import { parseList } from '../../../scripts/warm/list.ts'
import { hints } from '../../../src/upstream/hints.ts'
import { CANARY } from '../../support/canary.ts'
import { SetupFolder, SITE, TOKEN } from '../../support/setup-session.ts'
import { chatStream, json, refusal, UpstreamServer } from '../../support/upstream-server.ts'

let folder: SetupFolder
let upstream: UpstreamServer
beforeAll(async () => {
  folder = await SetupFolder.create()
  upstream = await UpstreamServer.start()
})
beforeEach(() => folder.reset())
afterAll(async () => {
  await upstream.stop()
  await folder.remove()
})

const flags = (...more: string[]) => ['--site', SITE, '--offer', 'summaries,ask', '--yes', ...more]

describe('four questions', () => {
  test('lead to settings, secrets and the snippet', async () => {
    upstream.lane('four').answers(chatStream(['Hello', ' there']))
    const { code, output, questions } = await folder.run([], {
      typed: ['blog.example.com', `openai ${upstream.url('four')}`, CANARY, '', 'y'],
    })
    expect(code).toBe(0)
    // The fifth is whether to write what was shown.
    expect(questions.map(({ hidden }) => hidden)).toEqual([false, false, true, false, false])
    expect(await folder.config()).toMatchObject({
      origins: ['https://blog.example.com'],
      models: [{ upstream: 'openai', upstream_model: 'gpt-6-luna' }],
      upstreams: [{ preset: 'openai', key: 'UPSTREAM_API_KEY' }],
      prompts: {
        summary: { spend: 'operator' },
        ask: { variables: { passages: { from: 'site' } } },
      },
    })
    expect(await folder.read('.dev.vars')).toBe(
      `UPSTREAM_API_KEY=${CANARY}\nOPERATOR_TOKEN=${TOKEN}\n`,
    )
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
    const { headers, body } = await upstream.lane('four').call()
    expect(headers['authorization']).toBe(`Bearer ${CANARY}`)
    expect(body).toMatchObject({
      model: 'gpt-6-luna',
      reasoning_effort: 'none',
      max_completion_tokens: 32,
    })
  })

  test('are asked again after an answer that cannot be used', async () => {
    const { code, output } = await folder.run(['--no-check'], {
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
    expect(await folder.read('wrangler.toml')).toBe(await readFile('wrangler.toml', 'utf8'))
    await expect(folder.read('.dev.vars')).rejects.toThrow('ENOENT')
  })

  test('are as many as there are no flags for', async () => {
    const { questions } = await folder.run(flags('--preset', 'demo', '--no-check'), { typed: [] })
    expect(questions).toEqual([])
  })

  test('take the key that is already there for this provider and address', async () => {
    const args = flags('--preset', 'openai', '--no-check')
    await folder.run(args, { typed: [CANARY] })
    await folder.write('.dev.vars', `# mine\nUPSTREAM_API_KEY="${CANARY}"\n`)
    const { questions } = await folder.run(args, { typed: [''] })
    expect(questions[0]?.question).toContain('[Enter: the UPSTREAM_API_KEY of .dev.vars]')
    expect(await folder.read('.dev.vars')).toBe(
      `# mine\nUPSTREAM_API_KEY="${CANARY}"\nOPERATOR_TOKEN=${TOKEN}\n`,
    )
  })
})

describe('a printed command', () => {
  /** The arguments that a shell would give to npm. */
  const argumentsOf = (output: string, name: string) => {
    const [command = ''] = new RegExp(`^npm run ${name} .*$`, 'm').exec(output) ?? []
    const script = `npm() { printf '%s\\n' "$@"; }; ${command}`
    return execFileSync('sh', ['-c', script], { encoding: 'utf8' }).trimEnd().split('\n')
  }

  test.each(['s.xml;echo$IFS/etc;id&x=$(id)', '?sitemap=index&lang=en', "it's.xml"])(
    'has the sitemap %s as a single word',
    async (path) => {
      const urlset = `<urlset><url><loc>${SITE}posts/a</loc></url></urlset>`
      const files = { 'robots.txt': `Sitemap: ${SITE}${path}\n`, [path]: urlset }
      const { output } = await folder.run(flags('--preset', 'demo'), { files })
      const sitemap = ['--sitemap', SITE + path]
      const url = ['--url', 'http://localhost:8787']
      expect(argumentsOf(output, 'index')).toEqual(['run', 'index', '--', ...sitemap, ...url])
      expect(argumentsOf(output, 'warm')).toEqual([
        ...['run', 'warm', '--', ...sitemap, '--prompt', 'summary', ...url],
      ])
    },
  )

  test('names pages of a site without a sitemap, as these commands take them', async () => {
    const { output } = await folder.run(flags('--preset', 'demo'))
    expect(output).not.toContain('--sitemap')
    const [index, warm] = ['index', 'warm'].map((name) => argumentsOf(output, name).slice(3))
    expect(indexArguments(index ?? [])).toMatchObject({ sitemap: null, pages: [new URL(SITE)] })
    expect(warmArguments(warm ?? [])?.source).toEqual({ kind: 'list', file: 'pages.json' })
    const [list = ''] = /^\[\{"prompt".*$/m.exec(output) ?? []
    expect(parseList(Buffer.from(list)).map(({ request }) => request)).toEqual([
      { prompt: { id: 'summary', variables: { page: SITE } } },
    ])
    expect(output).toContain('\nWith a sitemap, you would not have to name pages')
  })

  test('is left out if no pages are read', async () => {
    const { output } = await folder.run([...flags('--preset', 'demo'), '--offer', 'free'])
    expect(output.split('---- Next ----')[1]).toBe(
      "\n\nnpm start                      # the Worker, on this machine\nnpm run setup -- --deploy      # puts it on Cloudflare\n\nThen replace http://localhost:8787 with your Worker's address in the code that you have pasted.\n",
    )
  })

  test('has the usual sitemap of a site that could not be read', async () => {
    const { output } = await folder.run([...flags('--preset', 'demo'), '--site', `${SITE}none/`])
    const sitemap = ['--sitemap', `${SITE}sitemap.xml`]
    const url = ['--url', 'http://localhost:8787']
    expect(argumentsOf(output, 'index')).toEqual(['run', 'index', '--', ...sitemap, ...url])
  })

  test('has the address of a server as a single word', async () => {
    const { output } = await folder.run(
      flags('--preset', 'compatible', '--key-stdin', '--base-url', upstream.url("it's")),
      { piped: CANARY },
    )
    const address = ['--base-url', upstream.url("it's")]
    expect(argumentsOf(output.replace(/^.*Name one: /m, ''), 'setup')).toEqual([
      ...['run', 'setup', '--', '--preset', 'compatible', ...address, '--model', 'NAME'],
    ])
  })
})

describe('a key that is stored for another provider or address', () => {
  const server = (lane: string) => ['--preset', 'compatible', '--base-url', upstream.url(lane)]
  const stored = `UPSTREAM_API_KEY=${CANARY}\nOPERATOR_TOKEN=${TOKEN}\n`
  beforeEach(async () => {
    const args = flags(...server('first'), '--model', 'm', '--key-stdin', '--no-check')
    expect((await folder.run(args, { piped: CANARY })).code).toBe(0)
  })

  test.each([
    ['another provider', () => ['--preset', 'openai']],
    [
      'another provider at the same address',
      () => ['--preset', 'openai', ...server('first').slice(2)],
    ],
    ['another address', () => server('second')],
  ])('is neither offered nor sent to %s', async (_, choice) => {
    const args = flags(...choice(), '--model', 'm', '--no-check')
    const asked = await folder.run(args, { typed: ['', 'another-key'] })
    expect(asked.questions[0]?.question).not.toContain('[Enter')
    expect(asked.output).toContain('Cannot use an empty key')
    expect(await folder.read('.dev.vars')).toBe(stored.replace(CANARY, 'another-key'))
  })

  test.each([
    ['another provider', () => ['--preset', 'openai'], 'openai'],
    ['another address', () => server('second'), 'compatible'],
  ])('is not used for %s without a terminal', async (_, choice, name) => {
    const { code, output } = await folder.run(flags(...choice(), '--model', 'm'))
    expect([code, output]).toEqual([
      2,
      `Cannot ask questions without a terminal. Missing: --key-stdin. The UPSTREAM_API_KEY of .dev.vars is not used: wrangler.toml does not have it for this provider and address. Give the key for ${name} on standard input: --key-stdin < key.txt. --help shows an example.\n`,
    ])
    expect(upstream.lane('second').calls).toEqual([])
    expect(await folder.read('.dev.vars')).toBe(stored)
  })

  test('is used again for the same, without a terminal', async () => {
    const { code } = await folder.run(flags(...server('first'), '--model', 'm2', '--no-check'))
    expect(code).toBe(0)
    expect(await folder.read('.dev.vars')).toBe(stored)
    expect(await folder.config()).toMatchObject({ models: [{ upstream_model: 'm2' }] })
  })
})

describe('without a terminal', () => {
  test.each([
    [[], '--site, --preset, --key-stdin, --offer, --yes'],
    [['--site', SITE, '--preset', 'demo'], '--offer, --yes'],
    [flags('--preset', 'azure', '--key-stdin'), '--base-url, --model'],
    [flags('--preset', 'compatible', '--key-stdin'), '--base-url'],
    [['--site', SITE, '--preset', 'openai', '--offer', 'ask', '--yes'], '--key-stdin'],
  ])('%j lacks %s', async (args, missing) => {
    const { code, output } = await folder.run(args)
    expect([code, output]).toEqual([
      2,
      `Cannot ask questions without a terminal. Missing: ${missing}. --help shows an example.\n`,
    ])
  })

  test('the key is read from standard input', async () => {
    const { code } = await folder.run(flags('--preset', 'openai', '--key-stdin', '--no-check'), {
      piped: `${CANARY}\n`,
    })
    expect(code).toBe(0)
    expect(await folder.read('.dev.vars')).toContain(`UPSTREAM_API_KEY=${CANARY}\n`)
  })

  test('the same answers again change nothing', async () => {
    const args = flags('--preset', 'demo')
    await folder.run(args)
    const before = [await folder.read('wrangler.toml'), await folder.read('.dev.vars')]
    const { code, output } = await folder.run(args)
    expect(code).toBe(0)
    expect(output).toContain('wrangler.toml and .dev.vars already have these settings.')
    expect([await folder.read('wrangler.toml'), await folder.read('.dev.vars')]).toEqual(before)
  })

  test('--help lists every flag', async () => {
    const { code, output } = await folder.run(['--help'])
    expect(code).toBe(0)
    for (const flag of ['--site', '--preset', '--key-stdin', '--offer', '--yes', '--no-check']) {
      expect(output).toContain(`  ${flag} `)
    }
  })
})

test('a weak operator token is replaced', async () => {
  await folder.write('.dev.vars', 'OPERATOR_TOKEN=short\n')
  await folder.run(flags('--preset', 'demo', '--no-check'))
  expect(await folder.read('.dev.vars')).toBe(`OPERATOR_TOKEN=${TOKEN}\n`)
})

test('the demo model is checked without a network', async () => {
  const { code, output } = await folder.run(flags('--preset', 'demo'))
  expect(code).toBe(0)
  expect(output).toMatch(/demo, demo answers, \d+ tokens spent/)
})

test('Workers AI is not checked on this machine, and gets its binding', async () => {
  const { code, output } = await folder.run(flags('--preset', 'workers-ai'))
  expect(code).toBe(0)
  expect(output).toContain('Not checked: workers-ai answers only a deployed Worker.')
  expect(await folder.read('wrangler.toml')).toContain('[ai]\nbinding = "AI"')
})

describe('a check that fails', () => {
  const failing = (lane: string) =>
    folder.run(flags('--preset', 'openai', '--key-stdin', '--base-url', upstream.url(lane)), {
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
    expect(output).toContain(
      'Nothing is written. Fix that and run this again, or add --no-check to write all the same.\n',
    )
    expect(await folder.read('wrangler.toml')).toBe(await readFile('wrangler.toml', 'utf8'))
    await expect(folder.read('.dev.vars')).rejects.toThrow('ENOENT')
  })

  describe('leaves what worked as it was', () => {
    const args = (lane: string, ...more: string[]) => [
      ...['--site', SITE, '--offer', 'summaries', '--preset', 'compatible', '--model', 'tiny'],
      ...['--base-url', upstream.url(lane), ...more],
    ]
    const files = async () => [await folder.read('wrangler.toml'), await folder.read('.dev.vars')]
    beforeEach(async () => {
      const good = args('good', '--key-stdin', '--yes', '--no-check')
      expect((await folder.run(good, { piped: 'good-key' })).code).toBe(0)
    })

    test('without a terminal', async () => {
      const before = await files()
      upstream.lane('bad').answers(refusal(401))
      const bad = args('bad', '--key-stdin', '--yes')
      const { code, output } = await folder.run(bad, { piped: CANARY })
      expect([code, await files()]).toEqual([1, before])
      expect(output).not.toContain('Written')
      const anyway = await folder.run([...bad, '--no-check'], { piped: CANARY })
      expect([anyway.code, await folder.read('.dev.vars')]).toEqual([
        0,
        expect.stringContaining(CANARY),
      ])
    })

    test.each([
      ['', false],
      ['n', false],
      ['y', true],
    ])('after the answer %j to whether to write all the same: %s', async (answer, isWritten) => {
      const before = await files()
      upstream.lane('bad').answers(refusal(401))
      const { code, questions } = await folder.run(args('bad'), { typed: [CANARY, 'y', answer] })
      expect(questions.at(-1)?.question).toBe('Write it all the same? [y/N]: ')
      expect(code).toBe(isWritten ? 0 : 1)
      if (isWritten) expect(await folder.read('.dev.vars')).toContain(CANARY)
      else expect(await files()).toEqual(before)
    })

    test('and asks nothing if nothing would change', async () => {
      upstream.lane('good').answers(refusal(500))
      const { code, output } = await folder.run(args('good'), { typed: [''] })
      expect([code, output.includes(hints[500])]).toEqual([1, true])
    })
  })

  test('without a connection says what to look at', async () => {
    const { code, output } = await folder.run(
      flags('--preset', 'ollama', '--base-url', 'http://127.0.0.1:1/v1'),
    )
    expect([code, output.includes(hints.not_sent)]).toEqual([1, true])
  })

  test.each([
    ['openai', 1, 'https://api.openai.com/v1. Is this machine online?'],
    // Its models are looked up first.
    ['xai', 2, 'https://api.x.ai/v1. Is this machine online?'],
    ['ollama', 1, 'http://localhost:11434/v1. Is the server running there? --base-url URL names'],
  ])('without a network names the address of %s', async (preset, exit, help) => {
    const args = flags('--preset', preset, '--key-stdin')
    const { code, output } = await folder.run(args, { piped: CANARY, isOffline: true })
    expect([code, output]).toEqual([exit, expect.stringContaining(`\nNothing answers at ${help}`)])
    expect(output).not.toContain('Check base_url')
  })
})

test('what a terminal would obey is shown, and not written', async () => {
  const name = 'evil\u001b]0;title\u0007\u009b32m\u202e'
  const hostile = json({ data: [{ id: name }, { id: 'line\nbreak' }, { id: 'honest' }] })
  upstream.lane('escapes').answers(hostile, hostile, chatStream(['Hello']))
  const server = ['--preset', 'compatible', '--base-url', upstream.url('escapes'), '--key-stdin']
  const listed = await folder.run(flags(...server), { piped: CANARY })
  expect(listed.output).toContain('compatible, honest answers, 12 tokens spent.')
  const named = await folder.run(flags(...server, '--model', name), { piped: CANARY })
  expect(named.output).toContain('compatible, evil\\u001b]0;title\\u0007\\u009b32m\\u202e answers')
  const file = await folder.read('wrangler.toml')
  for (const text of [listed.output, named.output, file]) {
    expect(text).not.toMatch(/(?!\n|\t)[\p{Cc}\p{Bidi_Control}]/u)
  }
  expect(await folder.config()).toMatchObject({ models: [{ upstream_model: name }] })
})

test('settings that the Worker would refuse are not written', async () => {
  const args = flags('--preset', 'openai', '--base-url', 'https://x.example/v1?a', '--key-stdin')
  const { code, output } = await folder.run(args, { piped: CANARY })
  expect(code).toBe(2)
  expect(output).toContain('upstreams[0].base_url: Cannot use "base_url"')
  await expect(folder.read('.dev.vars')).rejects.toThrow('ENOENT')
})
