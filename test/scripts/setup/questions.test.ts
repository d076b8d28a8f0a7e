// What a person is asked by `npm run setup`, with each kind of provider: at most four questions, and
// whether to write what is shown.
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { providers } from '../../../scripts/setup/providers.ts'
import { presets } from '../../../src/upstream/presets.ts'
import { CANARY } from '../../support/canary.ts'
import { SetupFolder, SITE } from '../../support/setup-session.ts'
import {
  chatStream,
  json,
  refusal,
  type Script,
  UpstreamServer,
} from '../../support/upstream-server.ts'

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

const QUESTION = {
  site: expect.stringMatching(/^The address of your site/),
  provider: expect.stringMatching(/^Provider \(number, name or address\)/),
  key: expect.stringMatching(/^Key for /),
  offer: expect.stringMatching(/^One or more, with commas/),
  write: 'Write this? [Y/n]: ',
}
const all = [QUESTION.site, QUESTION.provider, QUESTION.key, QUESTION.offer, QUESTION.write]
const keyless = all.filter((question) => question !== QUESTION.key)

const asked = ({ questions }: Awaited<ReturnType<SetupFolder['run']>>) =>
  questions.map(({ question }) => question)
const models = (...ids: string[]) => json({ data: ids.map((id) => ({ id, object: 'model' })) })
const reset: Script = (_, line) => line.reset()
/** A server that has its API in one folder. */
const onlyBelow =
  (folder: string): Script =>
  (call, line) =>
    (call.path.startsWith(folder) ? models('tiny') : refusal(404))(call, line)

test.each(Object.entries(presets).filter(([name]) => providers[name]?.model !== undefined))(
  'four questions at most lead to settings with %s',
  async (preset, { auth }) => {
    const hasKey = auth !== 'none'
    const typed = [SITE, preset, ...(hasKey ? [CANARY] : []), '', 'y']
    const result = await folder.run(['--no-check'], { typed })
    expect([result.code, asked(result)]).toEqual([0, hasKey ? all : keyless])
  },
)

test.each(Object.entries(presets).filter(([name]) => providers[name]?.model === undefined))(
  'four questions at most lead to the first model that the server of %s lists',
  async (preset, { auth }) => {
    const base = upstream.url(preset)
    upstream.lane(preset).answers(models('tiny', 'large'))
    const hasKey = auth !== 'none'
    const typed = [SITE, `${preset} ${base}`, ...(hasKey ? [CANARY] : []), '', 'y']
    // Azure lists models, but takes the names of deployments.
    const isNamed = preset === 'azure'
    const flags = ['--no-check', ...(isNamed ? ['--model', 'mine'] : [])]
    const result = await folder.run(flags, { typed })
    expect([result.code, asked(result)]).toEqual([0, hasKey ? all : keyless])
    expect(await folder.config()).toMatchObject({
      models: [{ upstream: preset, upstream_model: isNamed ? 'mine' : 'tiny' }],
      upstreams: [{ preset, base_url: base }],
    })
    if (isNamed) expect(upstream.lane(preset).calls).toEqual([])
    else expect((await upstream.lane(preset).call()).path).toBe(`/${preset}/models`)
  },
)

describe('an address as the provider', () => {
  test('is that of your own server, whose model answers', async () => {
    const base = upstream.url('own')
    const ids = ['text-embedding-3', 'whisper-1', 'tiny', 'b', 'c', 'd', 'e', 'f', 'g']
    const list = models(...ids)
    upstream.lane('own').answers(list, list, chatStream(['Hello']))
    const result = await folder.run([], {
      typed: [SITE, base, CANARY, 'summaries', 'y'],
    })
    expect([result.code, asked(result)]).toEqual([0, all])
    expect(asked(result)[2]).toContain('Key for your own OpenAI-compatible server')
    expect(result.output).toContain(
      'Model: tiny, the first that the server lists (also: b, c, d, e, f and 1 more).\nFor another one, add --model NAME, or change upstream_model in wrangler.toml.\n',
    )
    expect(result.output).toContain('compatible, tiny answers, 12 tokens spent.')
    expect(result.output).toContain('in dollars once its price is set in wrangler.toml.')
    expect(await folder.config()).toMatchObject({
      models: [{ upstream: 'compatible', upstream_model: 'tiny' }],
      upstreams: [{ preset: 'compatible', base_url: base, key: 'UPSTREAM_API_KEY' }],
    })
    const [probe, look, call] = upstream.lane('own').calls
    expect(probe).toMatchObject({ method: 'GET', path: '/own/models' })
    expect(probe?.headers['authorization']).toBeUndefined()
    expect(look).toMatchObject({ method: 'GET', headers: { authorization: `Bearer ${CANARY}` } })
    expect(call?.body['model']).toBe('tiny')
  })

  test('is asked for until it is one', async () => {
    upstream.lane('again').answers(models('tiny'))
    const { code, output, questions } = await folder.run(['--no-check'], {
      typed: [SITE, 'compatible', 'llm.example.com/v1', upstream.url('again'), CANARY, '', 'n'],
    })
    expect([code, questions.length]).toEqual([0, 7])
    expect(output).toContain(
      'Cannot use "compatible" without an address: write it after the name, as in compatible https://llm.example.com/v1',
    )
    expect(output).toContain('expected an address such as https://llm.example.com/v1')
  })

  test('gets /v1 if that is where the server answers', async () => {
    upstream.lane('short').answers(onlyBelow('/short/v1/'))
    const base = upstream.url('short')
    const { code, output, questions } = await folder.run(['--no-check'], {
      typed: [SITE, `${base}/`, CANARY, '', 'y'],
    })
    expect([code, questions.length]).toEqual([0, 5])
    expect(output).toContain(
      `${base}/models answered 404, but ${base}/v1 answers, so that address is used.\n`,
    )
    expect(await folder.config()).toMatchObject({ upstreams: [{ base_url: `${base}/v1` }] })
    // The same address again: its key is offered.
    const again = await folder.run(['--no-check'], { typed: [SITE, base, '', ''] })
    expect([again.code, again.questions[2]?.question]).toEqual([
      0,
      expect.stringContaining('[Enter: the UPSTREAM_API_KEY of .dev.vars]'),
    ])
  })

  test('is asked for again, before the key, if no server answers there', async () => {
    upstream.lane('dead').answers(reset)
    upstream.lane('page').answers(refusal(404))
    upstream.lane('alive').answers(models('tiny'))
    const [dead, page, alive] = [upstream.url('dead'), upstream.url('page'), upstream.url('alive')]
    const result = await folder.run(['--no-check'], {
      typed: [SITE, dead, `${page}/v1/`, `${alive}/chat/completions`, alive, CANARY, '', 'y'],
    })
    const address = expect.stringMatching(/^The address of its API/)
    const [site, provider, ...others] = all
    expect([result.code, asked(result)]).toEqual([
      0,
      [site, provider, address, address, address, ...others],
    ])
    for (const fault of [
      `Cannot use this address: ${dead}/models does not answer, and ${dead}/v1/models does not answer. Change it`,
      `Cannot use this address: ${page}/v1/models answered 404. Change it`,
      'upstreams[0].base_url: Cannot use "base_url": leave out',
    ]) {
      expect(result.output).toContain(fault)
    }
    expect(await folder.config()).toMatchObject({ upstreams: [{ base_url: alive }] })
  })

  test('stays answered when the key has to be typed again', async () => {
    const base = upstream.url('locked')
    upstream.lane('locked').answers((call, line) => {
      const isRight = call.headers['authorization'] === `Bearer ${CANARY}`
      return (isRight ? models('tiny') : refusal(401))(call, line)
    })
    const result = await folder.run(['--no-check'], {
      typed: [SITE, base, 'wrong-key', CANARY, '', 'y'],
    })
    const [site, provider, key, ...others] = all
    expect([result.code, asked(result)]).toEqual([0, [site, provider, key, key, ...others]])
    expect(result.output).toContain(`Cannot use this key: ${base}/models answered 401.`)
    expect(await folder.read('.dev.vars')).toContain(CANARY)
  })

  test('is asked for if only the preset is a flag', async () => {
    upstream.lane('flag').answers(models('tiny'))
    const args = ['--preset', 'one-api', '--no-check']
    const result = await folder.run(args, {
      typed: [SITE, upstream.url('flag'), CANARY, '', 'y'],
    })
    const address = expect.stringMatching(/^The address of its API/)
    expect(asked(result)).toEqual([
      QUESTION.site,
      address,
      QUESTION.key,
      QUESTION.offer,
      QUESTION.write,
    ])
  })
})

describe('with flags', () => {
  const flags = (lane: string, ...more: string[]) => [
    ...['--site', SITE, '--preset', 'compatible', '--base-url', upstream.url(lane)],
    ...['--key-stdin', '--offer', 'ask', '--yes', '--no-check', ...more],
  ]

  test('the model of an own server is looked up, too', async () => {
    upstream.lane('piped').answers(models('tiny'))
    const { code } = await folder.run(flags('piped'), { piped: CANARY })
    expect(code).toBe(0)
    expect(await folder.config()).toMatchObject({ models: [{ upstream_model: 'tiny' }] })
  })

  test('a model that is named is not looked up', async () => {
    const { code } = await folder.run(flags('named', '--model', 'mine'), { piped: CANARY })
    expect([code, upstream.lane('named').calls]).toEqual([0, []])
    expect(await folder.config()).toMatchObject({ models: [{ upstream_model: 'mine' }] })
  })

  test.each([
    ['empty', models(), '/models lists no model'],
    ['unfit', models('bge-m3', 'whisper-large', 'openai/*'), '/models lists no model for text'],
    ['down', refusal(500), '/models answered 500'],
  ])('a list that is %s ends with how to name a model', async (lane, script, reason) => {
    upstream.lane(lane).answers(script)
    const { code, output } = await folder.run(flags(lane), { piped: CANARY })
    const base = upstream.url(lane)
    expect([code, output.trim().split('\n').at(-1)]).toEqual([
      2,
      `Cannot choose a model: ${base}${reason}. Name one: npm run setup -- --preset compatible --base-url ${base} --model NAME`,
    ])
    await expect(folder.read('.dev.vars')).rejects.toThrow('ENOENT')
  })

  test.each([
    ['none', refusal(404), 'answered 404'],
    ['cut', reset, 'does not answer'],
  ])('an address with %s names --base-url', async (lane, script, fault) => {
    upstream.lane(lane).answers(script)
    const { code, output } = await folder.run(flags(lane), { piped: CANARY })
    const base = upstream.url(lane)
    expect([code, output.trim().split('\n').at(-1)]).toEqual([
      2,
      `Cannot use this address: ${base}/models ${fault}, and ${base}/v1/models ${fault}. Change it (--base-url); only a server without a list of models needs --model NAME instead.`,
    ])
  })

  test.each([
    ['compatible', 401, 'this key: URL answered 401. Give another one (--key-stdin).'],
    [
      'vllm',
      403,
      'vllm, which sends no key: URL answered 403. Use --preset compatible for this address.',
    ],
  ])('a key that is refused is what is named, with %s and %i', async (preset, status, message) => {
    const lane = `status-${status}`
    upstream.lane(lane).answers(refusal(status))
    const { code, output } = await folder.run(flags(lane, '--preset', preset), { piped: CANARY })
    const error = `Cannot use ${message.replace('URL', `${upstream.url(lane)}/models`)}`
    expect([code, output.trim().split('\n').at(-1)]).toEqual([2, error])
    await expect(folder.read('.dev.vars')).rejects.toThrow('ENOENT')
  })

  test('an address without a preset is that of an own server', async () => {
    upstream.lane('alone').answers(models('tiny'))
    const { code } = await folder.run(flags('alone').toSpliced(2, 2), { piped: CANARY })
    expect(code).toBe(0)
    expect(await folder.config()).toMatchObject({ upstreams: [{ preset: 'compatible' }] })
  })

  test('an address that the Worker would refuse is not asked for its models', async () => {
    const args = flags('refused').with(5, `${upstream.url('refused')}/chat/completions`)
    const { code, output } = await folder.run(args, { piped: CANARY })
    expect([code, upstream.lane('refused').calls]).toEqual([2, []])
    expect(output).toContain('upstreams[0].base_url: Cannot use "base_url": leave out')
  })

  test('a model of Azure has to be named', async () => {
    const { code, output } = await folder.run(['--no-check'], {
      typed: [SITE, 'azure https://me.openai.azure.com/openai/v1', CANARY],
    })
    expect(code).toBe(2)
    expect(output).toContain('Cannot choose a model: azure has no list of the names that it takes.')
  })
})
