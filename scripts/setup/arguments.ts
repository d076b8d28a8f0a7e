// The command line of `npm run setup`, and the rules that its answers follow whether they are typed
// or given as flags.
import { parseArgs } from 'node:util'
import { presets } from '../../src/upstream/presets.ts'
import { providers } from './providers.ts'
import { didYouMean } from './suggest.ts'

/** What setup cannot go on with. Its message is meant for the user. */
export class SetupError extends Error {}

export const offers = ['summaries', 'ask', 'free'] as const
export type Offer = (typeof offers)[number]

export interface Arguments {
  readonly help: boolean
  readonly site: URL | null
  readonly preset: string | null
  readonly model: string | null
  readonly baseUrl: string | null
  readonly offer: readonly Offer[] | null
  /** The key comes from standard input. */
  readonly keyStdin: boolean
  /** Write without asking. */
  readonly yes: boolean
  /** Make one real call with the key. */
  readonly check: boolean
  readonly deploy: boolean
}

export const USAGE = `npm run setup                 asks four questions, and writes wrangler.toml and .dev.vars
npm run setup -- --deploy     and goes on through login, deploy, secrets and one live check

Each question is also a flag, for scripts:
  --site URL         the address of your site
  --preset NAME      the provider: ${Object.keys(providers).join(', ')}, …
  --key-stdin        read the provider's key from standard input
  --offer LIST       what visitors get: ${offers.join(', ')} (with commas)
  --model NAME       another model than the provider's default, or than the first that the server lists
  --base-url URL     the address of your own server, such as https://llm.example.com/v1; without --preset,
                     it implies --preset compatible
  --yes              write without asking
  --no-check         do not try the key with a real call
  --deploy           put it on Cloudflare, too
  --help             this text

  npm run setup -- --site https://example.com --preset openai --key-stdin --offer summaries,ask --yes < key.txt`

const options = {
  site: { type: 'string' },
  preset: { type: 'string' },
  model: { type: 'string' },
  'base-url': { type: 'string' },
  offer: { type: 'string' },
  'key-stdin': { type: 'boolean' },
  yes: { type: 'boolean' },
  'no-check': { type: 'boolean' },
  deploy: { type: 'boolean' },
  help: { type: 'boolean' },
} as const

/** @throws SetupError */
export function parseArguments(args: readonly string[]): Arguments {
  const { values, tokens } = parseArgs({
    args: [...args],
    options,
    strict: false,
    allowPositionals: true,
    tokens: true,
  })
  for (const token of tokens) {
    if (token.kind === 'positional') {
      throw new SetupError(
        `Cannot use ${JSON.stringify(token.value)}: write flags after "--", as in npm run setup -- --site https://example.com`,
      )
    }
    if (token.kind !== 'option') continue
    const flags = Object.keys(options).map((name) => `--${name}`)
    const known = options[token.name as keyof typeof options]
    if (known === undefined) {
      throw new SetupError(
        `Cannot use ${token.rawName}: it is not a flag of setup.${didYouMean(token.rawName, flags)} --help lists the flags.`,
      )
    }
    const hasValue = token.value !== undefined && token.value !== ''
    if (known.type === 'string' && (!hasValue || (!token.inlineValue && isFlag(token.value)))) {
      throw new SetupError(`Cannot use ${token.rawName}: its value is missing`)
    }
    if (known.type === 'boolean' && token.value !== undefined) {
      throw new SetupError(`Cannot use ${token.rawName}=…: it takes no value`)
    }
  }
  const given = values as { readonly [name in keyof typeof options]?: string | boolean }
  const text = (name: keyof typeof options) => (given[name] as string | undefined) ?? null
  const [site, preset, offer] = [text('site'), text('preset'), text('offer')]
  const baseUrl = text('base-url')
  return {
    help: given.help === true,
    site: site === null ? null : parseSite(site),
    preset: preset === null ? (baseUrl === null ? null : 'compatible') : parsePreset(preset),
    model: text('model'),
    baseUrl: baseUrl === null ? null : parseBaseUrl(baseUrl),
    offer: offer === null ? null : parseOffers(offer),
    keyStdin: given['key-stdin'] === true,
    yes: given.yes === true,
    check: given['no-check'] !== true,
    deploy: given.deploy === true,
  }
}

const isFlag = (value: string | undefined) => value?.startsWith('--') ?? false

/** The address of a site; https is added if there is no scheme. @throws SetupError */
export function parseSite(text: string): URL {
  const trimmed = text.trim()
  const local = /^(localhost|127\.0\.0\.1)(?=[:/]|$)/.test(trimmed)
  const scheme = /^[a-z][a-z0-9+.-]*:\/\//i.test(trimmed) ? '' : local ? 'http://' : 'https://'
  const url = trimmed !== '' && URL.canParse(scheme + trimmed) ? new URL(scheme + trimmed) : null
  const isSite =
    url !== null &&
    /^https?:$/.test(url.protocol) &&
    url.username === '' &&
    (url.hostname.includes('.') || url.hostname === 'localhost')
  if (isSite) return url
  throw new SetupError(
    'Cannot use this as the address of a site: expected an address such as https://example.com',
  )
}

/** @throws SetupError */
function parsePreset(text: string): string {
  const name = text.trim()
  if (Object.hasOwn(presets, name)) return name
  const near = didYouMean(name, Object.keys(presets))
  throw new SetupError(
    `Cannot use the provider ${JSON.stringify(name.slice(0, 20))}.${near} Known: ${Object.keys(providers).join(', ')}; docs/upstreams.md lists all presets.`,
  )
}

/** @throws SetupError */
export function parseBaseUrl(text: string): string {
  const url = text.trim()
  if (/^https?:\/\/./.test(url) && URL.canParse(url)) return url
  throw new SetupError(
    'Cannot use this as the address of an API: expected an address such as https://llm.example.com/v1',
  )
}

export interface ProviderChoice {
  readonly preset: string
  /** Null: the preset's. */
  readonly baseUrl: string | null
}

/** The name of a provider, the address of the owner's own server, or both. @throws SetupError */
export function parseProvider(text: string): ProviderChoice {
  const [first = '', ...rest] = text.trim().split(/\s+/)
  if (/[.:/]/.test(first)) return { preset: 'compatible', baseUrl: parseBaseUrl(text) }
  const preset = parsePreset(first)
  return { preset, baseUrl: rest.length === 0 ? null : parseBaseUrl(rest.join(' ')) }
}

/** @throws SetupError */
export function parseOffers(text: string): Offer[] {
  const words = text.split(/[\s,]+/).filter((word) => word !== '')
  const unknown = words.find((word) => !offers.includes(word as Offer))
  if (words.length > 0 && unknown === undefined) {
    return offers.filter((offer) => words.includes(offer))
  }
  const near = unknown === undefined ? '' : didYouMean(unknown, offers)
  const what = unknown === undefined ? 'nothing' : JSON.stringify(unknown.slice(0, 20))
  throw new SetupError(
    `Cannot offer ${what}: expected one or more of ${offers.join(', ')}, with commas.${near}`,
  )
}
