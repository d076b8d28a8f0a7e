// Gateways that others wrote: each serves models of an OpenAI-compatible server to clients with its key.
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { builtInGo } from './go.ts'
import { litellm } from './packages.ts'
import { OtherServer } from './server.ts'
import { installed, run } from './venv.ts'

export interface OtherGateway {
  /** As in CONFIG. */
  readonly baseUrl: string
  readonly key: string
  stop(): Promise<void>
}

/** What stands behind a gateway. */
export interface ModelServer {
  /** Up to and including /v1. */
  readonly baseUrl: string
  readonly key: string
  readonly models: readonly string[]
}

/** LiteLLM's proxy as its users start it, with a master key and without a database. */
export async function startLitellm(servers: readonly ModelServer[]): Promise<OtherGateway> {
  const bin = await installed(...litellm)
  const folder = await mkdtemp(join(tmpdir(), 'litellm-'))
  const master = `sk-${crypto.randomUUID()}`
  const config = {
    model_list: servers.flatMap(({ baseUrl, key, models }) =>
      models.map((model) => ({
        model_name: model,
        litellm_params: { model: `openai/${model}`, api_base: baseUrl, api_key: key },
      })),
    ),
    // It would wait for as long as Retry-After says, and ask again.
    router_settings: { num_retries: 0 },
    general_settings: { master_key: master },
  }
  // JSON is YAML, too.
  await writeFile(`${folder}/config.yaml`, JSON.stringify(config))
  const server = await OtherServer.start({
    command: `${bin}/litellm`,
    args: (port) => [
      ...['--config', `${folder}/config.yaml`, '--host', '127.0.0.1', '--port', String(port)],
      '--telemetry=False',
    ],
    readyAt: '/health/liveliness',
    // Otherwise it loads its list of prices from the internet.
    env: { LITELLM_LOCAL_MODEL_COST_MAP: 'True' },
    startMs: 120_000,
  })
  return {
    baseUrl: `${server.origin}/v1`,
    key: master,
    async stop() {
      await server.kill()
      await rm(folder, { recursive: true })
    },
  }
}

/** Of one-api. */
interface ApiAnswer {
  readonly success: boolean
  readonly message: string
  readonly data?: { readonly key: string }
}

/** one-api with an empty database: the channel and the token are created by its API. */
export async function startOneApi(servers: readonly ModelServer[]): Promise<OtherGateway> {
  const [command, bin] = await Promise.all([
    builtInGo('github.com/songquanpeng/one-api', 'v0.6.10'),
    installed(...litellm),
  ])
  const folder = await mkdtemp(join(tmpdir(), 'one-api-'))
  const root = crypto.randomUUID().replaceAll('-', '')
  const server = await OtherServer.start({
    command,
    args: (port) => ['--port', String(port), '--log-dir', folder],
    readyAt: '/api/status',
    cwd: folder,
    env: {
      INITIAL_ROOT_ACCESS_TOKEN: root,
      // Otherwise it loads the encodings from the internet. LiteLLM brings them under the same names.
      TIKTOKEN_CACHE_DIR: await encodingsOf(bin),
    },
  })
  const create = async (path: string, body: object) => {
    const response = await fetch(server.origin + path, {
      method: 'POST',
      headers: { authorization: root, 'content-type': 'application/json' },
      body: JSON.stringify(body),
    })
    const { success, message, data } = (await response.json()) as ApiAnswer
    if (!success) throw new Error(`one-api: ${message}`)
    return data
  }
  const OPENAI = 1
  for (const { baseUrl, key, models } of servers) {
    // It appends /v1 itself.
    const base_url = baseUrl.replace(/\/v1$/, '')
    await create('/api/channel/', {
      type: OPENAI,
      name: 'c',
      base_url,
      key,
      models: models.join(','),
    })
  }
  const token = await create('/api/token/', { name: 't', expired_time: -1, unlimited_quota: true })
  return {
    baseUrl: `${server.origin}/v1`,
    key: `sk-${token?.key}`,
    async stop() {
      await server.kill()
      await rm(folder, { recursive: true })
    },
  }
}

/** The folder of tiktoken's encodings that LiteLLM brings. */
async function encodingsOf(bin: string): Promise<string> {
  const find =
    'from importlib.util import find_spec; print(find_spec("litellm").submodule_search_locations[0])'
  const { stdout } = await run(`${bin}/python`, ['-c', find])
  return `${stdout.trim()}/litellm_core_utils/tokenizers`
}
