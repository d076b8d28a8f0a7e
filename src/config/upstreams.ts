// The upstreams of CONFIG, with their presets filled in and their keys looked up.
import type { Feature, Wire } from '../upstream/adapter.ts'
import type { ConnectOptions } from '../upstream/connection.ts'
import { type AuthStyle, type Preset, presets, wireLimits } from '../upstream/presets.ts'
import { masked } from '../validation.ts'
import type { Faults } from './faults.ts'
import type { Settings } from './schema.ts'

type UpstreamSetting = Settings['upstreams'][number]
/** Looks up a secret by its name. */
export type FindSecret = (name: string) => string | undefined

export function upstreamsOf(
  settings: readonly UpstreamSetting[],
  secret: FindSecret,
  faults: Faults,
): Map<string, ConnectOptions> {
  const upstreams = new Map<string, ConnectOptions>()
  for (const [i, setting] of settings.entries()) {
    const { name } = setting
    const own = faults.within(`upstreams[${i}]`)
    if (upstreams.has(name) && name !== '') {
      own.add('name', `Cannot use "${masked(name)}": another upstream has this name`)
    }
    upstreams.set(name, upstreamOf(setting, secret, own))
  }
  return upstreams
}

function upstreamOf(setting: UpstreamSetting, secret: FindSecret, faults: Faults): ConnectOptions {
  const preset = presets[setting.preset ?? 'compatible'] ?? presets['compatible']
  if (preset === undefined) throw new TypeError('no preset for compatible servers')
  const wire = setting.wire ?? preset.wire
  const keyless = wire === 'demo' || (setting.preset === undefined && !setting.key)
  const auth = setting.auth ?? (keyless ? 'none' : preset.auth)
  // The demo model is built in, with or without its preset.
  const builtIn = wire === 'demo' ? presets['demo'] : null
  const chatPath = setting.chat_path ?? (builtIn ?? preset).chatPath
  return {
    name: setting.name,
    wire,
    baseUrl: baseUrlOf(setting.base_url ?? (builtIn ?? preset).baseUrl, wire, faults),
    auth,
    key: keyOf(setting.key, auth, secret, faults),
    path: setting.path ?? preset.path,
    chatPath,
    developer: preset.developer,
    maxTokensField: setting.max_tokens_field ?? preset.maxTokensField,
    streamUsage: setting.stream_usage ?? preset.streamUsage,
    rename: preset.rename,
    unsupported: unsupportedBy(setting, preset, wire, chatPath, faults),
    stream: setting.stream,
    firstByteMs: setting.first_byte_ms,
    idleMs: setting.idle_ms,
    deadlineMs: setting.deadline_ms,
    retries: setting.retries,
    maxOutputBytes: setting.max_output_bytes,
  }
}

/** The features an upstream does not support; `native_n = false` adds "n" to them. */
function unsupportedBy(
  { unsupported, native_n }: UpstreamSetting,
  preset: Preset,
  wire: Wire,
  chatPath: string,
  faults: Faults,
): ReadonlySet<Feature> {
  const limits = wireLimits[wire]
  if (native_n && limits.includes('n')) {
    faults.add('native_n', `Cannot use "native_n": the wire "${wire}" returns one choice per call`)
  }
  const features = new Set([...limits, ...(unsupported ?? preset.unsupported)])
  if (wire === 'completions' && chatPath === '') features.add('chat')
  return (native_n ?? preset.nativeN ?? wire !== 'chat') ? features : features.add('n')
}

function baseUrlOf(given: string | null, wire: Wire, faults: Faults): string {
  if (wire === 'workers-ai') return ''
  const message = faultOfUrl(given)
  const isUnsure = given === null && faults.hasRejected('preset', 'wire')
  if (message !== null && !isUnsure) faults.add('base_url', message)
  return given?.replace(/\/+$/, '') ?? ''
}

function faultOfUrl(given: string | null): string | null {
  if (given === null) {
    return 'Cannot find "base_url": set the URL of the upstream, or choose a preset that has one'
  }
  const url = URL.canParse(given) && given.trim() === given ? new URL(given) : null
  if (url === null || !/^https?:$/.test(url.protocol) || url.search !== '' || url.hash !== '') {
    return 'Cannot use "base_url": expected an http(s) URL without "?" and "#", such as "https://llm.example.net/v1"'
  }
  if (url.username !== '' || url.password !== '') {
    return 'Cannot use "base_url": a key belongs in a secret, not in the URL'
  }
  const paths = /(\/chat\/completions|(?<=\/v1)\/(?:completions|messages))\/*$/
  const [, added] = paths.exec(given) ?? []
  if (added === undefined) return null
  return `Cannot use "base_url": leave out "${added}", which is added to it`
}

/** Messages never show the value of `key`, because the owner may have pasted the key itself. */
function keyOf(
  secretName: string | undefined,
  auth: AuthStyle,
  secret: FindSecret,
  faults: Faults,
): string | null {
  if (secretName === undefined) {
    if (auth !== 'none' && !faults.hasRejected('preset', 'wire', 'auth')) {
      faults.add(
        'key',
        'Cannot find "key": name the secret that holds the upstream\'s key, or set auth = "none"',
      )
    }
    return null
  }
  const key = secret(secretName)?.trim()
  if (!key) {
    faults.add(
      'key',
      'Cannot find the secret that "key" names: run "npx wrangler secret put" with that name, or add it to .dev.vars',
    )
  } else if (!/^[\x21-\x7e]+$/.test(key)) {
    faults.add(
      'key',
      'Cannot use the secret that "key" names: expected printable ASCII without spaces',
    )
  }
  return key ?? null
}
