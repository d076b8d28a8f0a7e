// Chooses the model of a provider that has no default here: the first for text that the server lists.
// Its list also shows whether the address and the key are right.
import { parseConfig } from '../../src/config/config.ts'
import { connect } from '../../src/upstream/connection.ts'
import { hasList, namesOf, readList } from '../../src/upstream/model-list.ts'
import type { Fetch } from '../operator/gateway.ts'
import { isPrintable, printable } from '../operator/printable.ts'
import { shellCommand } from '../operator/shell.ts'
import { type ProviderChoice, SetupError } from './arguments.ts'
import { refusedSettings } from './files.ts'
import { helpAtFixedAddress } from './providers.ts'
import { KEY_NAME } from './settings.ts'
import type { Terminal } from './terminal.ts'

interface Server extends ProviderChoice {
  /** Null: none is sent. */
  readonly key: string | null
}

export interface LookUpDeps {
  readonly terminal: Terminal
  readonly fetch: Fetch
}

export class RefusedKey extends SetupError {}

/** Lists do not say uniformly what a model is for, but its name or its type does. */
const NOT_TEXT =
  /embed|\bbge\b|\bgte\b|\be5\b|rerank|whisper|transcri|tts|speech|audio|voice|image|imagine|video|diffusion|flux|dall-e|sora|moderation|guard|ocr|\*/i
const SHOWN = 5

/**
 * The address at which a server answers: as given, or with "/v1".
 *
 * @throws SetupError saying what is wrong with the address
 */
export async function findAddress(
  preset: string,
  address: string,
  { terminal, fetch }: LookUpDeps,
): Promise<string> {
  const fault = await faultAt(preset, address, fetch)
  if (fault === null) return address
  const longer = `${address.replace(/\/+$/, '')}/v1`
  const isLong = /\/v1\/*$/.test(address)
  const other = isLong ? fault : await faultAt(preset, longer, fetch)
  if (other === null) {
    terminal.print(`${fault}, but ${longer} answers, so that address is used.`)
    return longer
  }
  throw new SetupError(
    `Cannot use this address: ${isLong ? fault : `${fault}, and ${other}`}. Change it (--base-url); only a server without a list of models needs --model NAME instead.`,
  )
}

/** @returns null: there is a server, which may want a key */
async function faultAt(preset: string, baseUrl: string, fetch: Fetch): Promise<string | null> {
  const list = await readModels({ preset, baseUrl, key: null }, fetch)
  if (list === null) return null
  if (list.answer === null) return `${list.url} does not answer`
  return list.answer.status === 404 ? `${list.url} answered 404` : null
}

/** @throws RefusedKey, or SetupError saying how to name a model */
export async function findModel(server: Server, { terminal, fetch }: LookUpDeps): Promise<string> {
  const { preset, baseUrl } = server
  const address = baseUrl === null ? [] : ['--base-url', baseUrl]
  const flags = ['--preset', preset, ...address, '--model', 'NAME']
  const command = shellCommand('npm', 'run', 'setup', '--', ...flags)
  const list = await modelsOf(server, fetch)
  if (typeof list === 'string') {
    throw new SetupError(`Cannot choose a model: ${list}. Name one: ${command}`)
  }
  const [model = '', ...others] = list
  const more = others.length > SHOWN ? ` and ${others.length - SHOWN} more` : ''
  const also = others.length === 0 ? '' : ` (also: ${others.slice(0, SHOWN).join(', ')}${more})`
  terminal.print(
    printable(`Model: ${model}, the first that the server lists${also}.`) +
      '\nFor another one, add --model NAME, or change upstream_model in wrangler.toml.',
  )
  return model
}

/**
 * @returns the models for text, at least one; or what is wrong with the list
 * @throws RefusedKey, or SetupError if the preset's own address does not answer
 */
async function modelsOf(server: Server, fetch: Fetch): Promise<string[] | string> {
  const list = await readModels(server, fetch)
  if (list === null) return `${server.preset} has no list of the names that it takes`
  const { url, answer } = list
  if (answer === null) {
    const help = server.baseUrl === null ? helpAtFixedAddress(server.preset) : null
    if (help !== null) throw new SetupError(help)
    return `${url} does not answer`
  }
  const { status, entries } = answer
  if (status === 401 || status === 403) {
    throw new RefusedKey(
      server.key === null
        ? `Cannot use ${server.preset}, which sends no key: ${url} answered ${status}. Use --preset compatible for this address.`
        : `Cannot use this key: ${url} answered ${status}. Give another one (--key-stdin).`,
    )
  }
  if (status !== 200) return `${url} answered ${status}`
  if (entries.length === 0) return `${url} lists no model`
  const isText = (entry: (typeof entries)[number]) =>
    !NOT_TEXT.test(`${namesOf(entry)[0]} ${entry['type'] ?? ''}`)
  const names = entries
    .filter(isText)
    .flatMap((entry) => namesOf(entry).slice(0, 1))
    .filter(isPrintable)
  return names.length > 0 ? names : `${url} lists no model for text`
}

/** @returns the answer of the server; null: it has no list of models */
async function readModels({ preset, baseUrl, key }: Server, fetch: Fetch) {
  const upstream = {
    name: preset,
    preset,
    ...(baseUrl === null ? {} : { base_url: baseUrl }),
    ...(key === null ? { auth: 'none' } : { key: KEY_NAME }),
  }
  const model = { id: 'default', upstream: preset, upstream_model: 'unknown' }
  const { config, faults } = parseConfig({
    config: { models: [model], upstreams: [upstream] },
    prompts: {},
    secret: () => key ?? undefined,
    bound: () => true,
  })
  if (config === null) throw refusedSettings(faults)
  const options = config.upstreams.get(preset)
  if (options === undefined) throw new TypeError('the settings have no upstream')
  const { headers, send, baseUrl: root } = connect(options, { http: fetch, demo: fetch })
  const { wire } = options
  if (!hasList(wire, root)) return null
  const answer = await readList({ baseUrl: root, headers, wire, send })
  return { url: `${root}/models`, answer }
}
