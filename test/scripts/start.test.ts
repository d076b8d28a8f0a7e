// `npm start`, as a user starts it: what it prints can be used, a saved file takes effect, and Ctrl-C
// leaves nothing behind.
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cp, mkdtemp, open, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { checkConfig } from '../../scripts/config/check.ts'
import { welcome } from '../../scripts/start/welcome.ts'
import { freePort } from '../support/free-port.ts'

const TOKEN = 'an-operator-token-of-32-characters'
const READY = /Try it +curl.*\n/

test.each([['abc'], ['90000'], ['-1'], ['']])('npm start says that %j is no port', async (port) => {
  const failed = promisify(execFile)(process.execPath, ['scripts/start.ts', '--port', port])
  await expect(failed).rejects.toMatchObject({
    code: 1,
    stderr: `Cannot use the port ${port}: expected a number up to 65535, as in npm start -- --port 9000\n`,
  })
})

describe('npm start', () => {
  let folder: string
  let child: ChildProcess | null = null
  let output = ''

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'start-'))
    for (const name of ['src', 'scripts', 'package.json', 'tsconfig.json', 'wrangler.toml']) {
      await cp(name, join(folder, name), { recursive: true })
    }
    await symlink(resolve('node_modules'), join(folder, 'node_modules'))
  })

  afterAll(async () => {
    if (isAlive(child?.pid)) process.kill(-child!.pid!, 'SIGKILL')
    await rm(folder, { recursive: true })
  })

  /** What is printed from now on, as soon as it matches. */
  async function printed(pattern: RegExp): Promise<string> {
    await vi.waitFor(() => expect(output).toMatch(pattern), { timeout: 50_000, interval: 50 })
    const text = output
    output = ''
    return text
  }

  function start(port: number): ChildProcess {
    const started = spawn('npm', ['start', '--', '--port', String(port)], {
      cwd: folder,
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    for (const stream of [started.stdout, started.stderr]) {
      stream?.on('data', (data) => {
        output += String(data)
      })
    }
    return started
  }

  /** As editors save that write another file and rename it. */
  async function save(name: string, text: string): Promise<void> {
    await writeFile(join(folder, `${name}~`), text)
    await rename(join(folder, `${name}~`), join(folder, name))
  }

  test('prints what can be used, restarts after a save, and ends with Ctrl-C', async () => {
    const port = await freePort()
    const url = `http://localhost:${port}`
    child = start(port)
    const first = await printed(READY)
    expect(first).toContain(`Playground  ${url}\n`)
    expect(first).toContain(`Dashboard   ${url}/admin (no .dev.vars: "npm run setup" writes it`)
    expect(first).not.toMatch(/^ +at /m)
    expect(first).not.toContain('Request.cf')
    const [, curl = ''] = /Try it +(curl.*)/.exec(first) ?? []
    const { stdout } = await promisify(execFile)('bash', ['-c', `${curl} --silent`])
    expect(JSON.parse(stdout)).toMatchObject({ object: 'text_completion', model: 'demo' })

    await save('.dev.vars', `OPERATOR_TOKEN=${TOKEN}\n`)
    const second = await printed(READY)
    expect(second).toContain('.dev.vars has changed: restarting.')
    expect(second).toContain(
      `Dashboard   ${url}/admin (sign in with the OPERATOR_TOKEN of .dev.vars)`,
    )
    const health = await fetch(`${url}/health`, { headers: { authorization: `Bearer ${TOKEN}` } })
    expect(await health.json()).toHaveProperty('warnings')

    const toml = await readFile(join(folder, 'wrangler.toml'), 'utf8')
    await save('wrangler.toml', toml.replace('[vars.CONFIG]', '[vars.CONFIG'))
    await printed(/wrangler\.toml:\d+:\d+: /)
    await save('wrangler.toml', toml.replace('free_prompts = true', 'free_prompts = false'))
    const third = await printed(READY)
    expect(third).toContain('wrangler.toml has changed: restarting.')
    const refused = await fetch(`${url}/v1/completions`, { method: 'POST', body: '{"prompt":"x"}' })
    expect(await refused.text()).toContain('free_prompts_disabled')

    const ended = once(child, 'exit')
    // As a terminal does: to all processes of the group.
    process.kill(-child.pid!, 'SIGINT')
    await ended
    await expect.poll(() => isAlive(child?.pid), { timeout: 50_000 }).toBe(false)
    await expect(fetch(url)).rejects.toThrow()
  }, 240_000)

  describe('goes on after a save in place, during which wrangler.toml is empty', () => {
    let url: string
    let toml: string
    let saves = 0
    const path = () => join(folder, 'wrangler.toml')

    beforeEach(async () => {
      if (isAlive(child?.pid)) return
      toml = await readFile('wrangler.toml', 'utf8')
      await writeFile(path(), toml)
      const port = await freePort()
      url = `http://localhost:${port}`
      child = start(port)
      await printed(READY)
    }, 60_000)

    /** As `cp`, `>` and Python do. Meanwhile the file is empty. */
    async function saveInPlace(text: string, meanwhile: () => Promise<unknown>): Promise<void> {
      const file = await open(path(), 'w')
      await meanwhile()
      await file.writeFile(text)
      await file.close()
    }

    const changed = () => `${toml}# ${++saves}\n`
    /** A save that takes long may restart twice. */
    async function isUp(): Promise<void> {
      const isOk = () =>
        fetch(`${url}/health`).then(
          ({ ok }) => ok,
          () => false,
        )
      await expect.poll(isOk, { timeout: 50_000 }).toBe(true)
    }

    test.each([0, 20, 150, 400])(
      'for %i ms',
      async (ms) => {
        await saveInPlace(changed(), () => sleep(ms))
        await printed(READY)
        await isUp()
      },
      60_000,
    )

    test('until it is noticed', async () => {
      await saveInPlace(changed(), () => printed(/no "main"|Missing entry-point/))
      await printed(READY)
      await isUp()
    }, 60_000)

    test('while wrangler starts, with the same content', async () => {
      const same = changed()
      await saveInPlace(same, async () => {})
      await printed(/wrangler 4/)
      await saveInPlace(same, () => printed(/Missing entry-point|Try it/))
      await printed(READY)
      await isUp()
    }, 60_000)

    test('if it is broken, and then fixed', async () => {
      const broken = toml.replace('[vars.CONFIG]', '[vars.CONFIG')
      await saveInPlace(broken, () => sleep(20))
      await printed(/wrangler\.toml:\d+:\d+: /)
      await isUp()
      await saveInPlace(changed(), () => sleep(20))
      await printed(READY)
      await isUp()
    }, 60_000)

    test('until Ctrl-C', async () => {
      process.kill(-child!.pid!, 'SIGINT')
      await expect.poll(() => isAlive(child?.pid), { timeout: 50_000 }).toBe(false)
    }, 60_000)
  })

  test('keeps the port that it got for port 0 when it restarts', async () => {
    child = start(0)
    const urlIn = (lines: string) => /Playground {2}(\S+)/.exec(lines)?.[1]
    const first = await printed(READY)
    expect(first).not.toContain('was taken')
    await save('.dev.vars', `OPERATOR_TOKEN=${TOKEN}2\n`)
    const second = await printed(READY)
    expect(second).toContain('.dev.vars has changed: restarting.')
    expect(second).not.toContain('was taken')
    expect(urlIn(second)).toBe(urlIn(first))
    process.kill(-child.pid!, 'SIGINT')
    await expect.poll(() => isAlive(child?.pid), { timeout: 50_000 }).toBe(false)
  }, 120_000)

  test('ends with npm, if only npm is stopped', async () => {
    child = start(await freePort())
    await printed(/wrangler 4/)
    child.kill()
    await expect.poll(() => isAlive(child?.pid), { timeout: 50_000 }).toBe(false)
  })

  test('ends as wrangler does if it cannot start', async () => {
    const start = promisify(execFile)(process.execPath, ['scripts/start.ts', '--no-such-flag'], {
      cwd: folder,
    })
    await expect(start).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringContaining('Unknown arguments'),
    })
  })
})

/** Whether any process of the group runs. */
function isAlive(group: number | undefined): boolean {
  try {
    return group !== undefined && process.kill(-group, 0)
  } catch {
    return false
  }
}

describe('the lines', () => {
  const base = {
    models: [{ id: 'default', upstream: 'demo', upstream_model: 'demo' }],
    upstreams: [{ name: 'demo', preset: 'demo' }],
    origins: ['https://example.com'],
  }
  const page = { from: 'url', paths: ['/*'] }
  const summary = { text: '{{page}}', variables: { page }, spend: 'operator' }
  const linesFor = (config: object, devVars: string | null = '') =>
    welcome({
      url: 'http://localhost:8787',
      port: 8787,
      devVars,
      config: checkConfig({ ...base, ...config }).config,
    })

  test.each<[string, object, RegExp]>([
    ['a prompt', {}, /\/v1\/completions .*-d '\{"prompt":"Say this is a test"\}'$/m],
    [
      'the first prompt that visitors may use',
      { prompts: { summary, hi: { text: 'Say hi.' } } },
      /\/v1\/completions .*-d '\{"prompt":\{"id":"hi"\}\}'$/m,
    ],
    [
      'a message',
      { prompts: { summary, helper: { chat: true } } },
      /\/v1\/chat\/completions .*"model":"helper","messages":/,
    ],
    [
      'the list of prompts',
      { prompts: { summary } },
      /curl http:\/\/localhost:8787\/v1\/prompts$/m,
    ],
    ['the faults', { models: [] }, /curl http:\/\/localhost:8787\/health$/m],
  ])('let the owner try %s', (_, config, expected) => {
    expect(linesFor(config)).toMatch(expected)
  })

  test('say that there is no token', () => {
    expect(linesFor({}, 'UPSTREAM_API_KEY=x\n')).toContain('(add OPERATOR_TOKEN=… to .dev.vars)')
  })

  test('say that another port is used', () => {
    const lines = welcome({ url: 'http://localhost:8788', port: 8787, devVars: '', config: null })
    expect(lines).toContain('Port 8787 was taken, so this is another one.\n')
    expect(linesFor({})).not.toContain('was taken')
    const any = welcome({ url: 'http://localhost:8788', port: 0, devVars: '', config: null })
    expect(any).not.toContain('was taken')
  })
})
