// promptfoo, from npm: an evaluation of both kinds of its OpenAI providers.
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CACHE, INSTALL_MS, run } from './venv.ts'

export const PROMPTFOO = '0.123.1'
/** The one optional dependency that it does not start without. */
const platform = `${process.platform}-${process.arch}${process.platform === 'linux' ? '-gnu' : ''}`
const packages = [`promptfoo@${PROMPTFOO}`, `@libsql/${platform}@0.5.29`] as const

const offline = {
  PROMPTFOO_DISABLE_TELEMETRY: '1',
  PROMPTFOO_DISABLE_UPDATE: '1',
  PROMPTFOO_DISABLE_REMOTE_GENERATION: '1',
  // What failed is in its report.
  PROMPTFOO_FAILED_TEST_EXIT_CODE: '0',
}

/** With its optional dependencies it has 2 GB, without them 0.3 GB. */
async function installed(): Promise<string> {
  const folder = `${CACHE}/promptfoo__${PROMPTFOO}`
  if (existsSync(`${folder}/installed`)) return folder
  await rm(folder, { recursive: true, force: true })
  await mkdir(folder, { recursive: true })
  const flags = ['--omit=optional', '--ignore-scripts', '--no-audit', '--no-fund', '--no-save']
  await run('npm', ['install', '--prefix', folder, ...flags, ...packages], { timeout: INSTALL_MS })
  await writeFile(`${folder}/installed`, '')
  return folder
}

export interface Expected {
  readonly prompt: string
  readonly fields: Readonly<Record<string, number>>
  readonly text: string
  readonly tokens: number
}

interface Report {
  readonly results: {
    readonly results: readonly {
      readonly provider: { readonly label: string }
      readonly success: boolean
      readonly error?: string | null
      readonly response?: { readonly tokenUsage?: { readonly completion?: number } }
    }[]
  }
}

/** For each base URL: null, or what was found. */
export async function judgeWithPromptfoo(
  baseUrls: readonly string[],
  { prompt, fields, text, tokens }: Expected,
): Promise<(string | null)[]> {
  const program = `${await installed()}/node_modules/promptfoo/dist/src/entrypoint.js`
  const folder = await mkdtemp(join(tmpdir(), 'promptfoo-'))
  const config = {
    prompts: [prompt],
    providers: baseUrls.flatMap((apiBaseUrl) =>
      ['completion', 'chat'].map((kind) => ({
        id: `openai:${kind}:default`,
        label: apiBaseUrl,
        config: { apiBaseUrl, apiKey: 'none', ...fields },
      })),
    ),
    tests: [{ assert: [{ type: 'equals', value: text }] }],
  }
  try {
    await writeFile(join(folder, 'config.json'), JSON.stringify(config))
    const args = ['eval', '--config', 'config.json', '--output', 'report.json']
    await run(process.execPath, [program, ...args, '--no-cache', '--no-write', '--no-table'], {
      cwd: folder,
      env: { ...process.env, ...offline, PROMPTFOO_CONFIG_DIR: join(folder, 'home') },
      timeout: 120_000,
    })
    const { results }: Report = JSON.parse(await readFile(join(folder, 'report.json'), 'utf8'))
    const found = (url: string) => {
      const ofUrl = results.results.filter(({ provider }) => provider.label === url)
      if (ofUrl.length !== 2) return `${ofUrl.length} results`
      const failed = ofUrl.find(({ success }) => !success)
      if (failed !== undefined) return failed.error ?? 'failed'
      const counts = ofUrl.map(({ response }) => response?.tokenUsage?.completion)
      return counts.every((count) => count === tokens) ? null : `tokens: ${counts}`
    }
    return baseUrls.map(found)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}
