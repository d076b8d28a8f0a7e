// Chooses the model of a provider that has no default here: the first for text that the server lists.
import { parseConfig } from '../../src/config/config.ts'
import { connect } from '../../src/upstream/connection.ts'
import { hasList, namesOf, readList } from '../../src/upstream/model-list.ts'
import type { Fetch } from '../operator/gateway.ts'
import { isPrintable, printable } from '../operator/printable.ts'
import { shellCommand } from '../operator/shell.ts'
import { type ProviderChoice, SetupError } from './arguments.ts'
import { refusedSettings } from './files.ts'
import { needsKey } from './providers.ts'
import { KEY_NAME } from './settings.ts'
import type { Terminal } from './terminal.ts'

interface Server extends ProviderChoice {
  /** Null: it needs none. */
  readonly key: string | null
}

/** Lists do not say uniformly what a model is for, but its name or its type does. */
const NOT_TEXT =
  /embed|\bbge\b|\bgte\b|\be5\b|rerank|whisper|transcri|tts|speech|audio|voice|image|imagine|video|diffusion|flux|dall-e|sora|moderation|guard|ocr|\*/i
const SHOWN = 5

/** @throws SetupError saying how to name a model */
export async function findModel(
  server: Server,
  { terminal, fetch }: { readonly terminal: Terminal; readonly fetch: Fetch },
): Promise<string> {
  const { preset, baseUrl, key } = server
  const address = baseUrl === null ? [] : ['--base-url', baseUrl]
  const flags = ['--preset', preset, ...address, '--model', 'NAME']
  const command = shellCommand('npm', 'run', 'setup', '--', ...flags)
  const list = await listOf({ preset, baseUrl, key }, fetch)
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

/** @returns the models for text, at least one; or what is wrong with the list */
async function listOf({ preset, baseUrl, key }: Server, fetch: Fetch): Promise<string[] | string> {
  const upstream = {
    name: preset,
    preset,
    ...(baseUrl === null ? {} : { base_url: baseUrl }),
    ...(needsKey(preset) ? { key: KEY_NAME } : {}),
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
  if (!hasList(wire, root)) return `${preset} has no list of the names that it takes`
  const answer = await readList({ baseUrl: root, headers, wire, send })
  if (answer === null) return `${root}/models does not answer`
  const { status, entries } = answer
  if (status === 401 || status === 403) {
    return `${root}/models answered ${status}, so look at the key first`
  }
  if (status !== 200) return `${root}/models answered ${status}`
  if (entries.length === 0) return `${root}/models lists no model`
  const isText = (entry: (typeof entries)[number]) =>
    !NOT_TEXT.test(`${namesOf(entry)[0]} ${entry['type'] ?? ''}`)
  const names = entries
    .filter(isText)
    .flatMap((entry) => namesOf(entry).slice(0, 1))
    .filter(isPrintable)
  return names.length > 0 ? names : `${root}/models lists no model for text`
}
