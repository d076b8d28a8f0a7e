// The key in .dev.vars is for the provider that wrangler.toml has. No other may get it.
import { isRecord } from '../../src/json.ts'
import { presets } from '../../src/upstream/presets.ts'
import type { ProviderChoice } from './arguments.ts'
import { KEY_NAME } from './settings.ts'

export type StoredKey =
  | { readonly kind: 'none' | 'of-another' }
  | { readonly kind: 'fits'; readonly key: string }

export type StoredKeyOf = (choice: ProviderChoice) => StoredKey

export const OTHERS_KEY = `The ${KEY_NAME} of .dev.vars is not used: wrangler.toml does not have it for this provider and address.`

/** @param settings those of the present wrangler.toml */
export function storedKeyIn(
  secrets: Readonly<Record<string, string>>,
  settings: unknown,
): StoredKeyOf {
  const key = secrets[KEY_NAME] ?? ''
  const given = isRecord(settings) ? settings['upstreams'] : null
  const upstreams: readonly unknown[] = Array.isArray(given) ? given : []
  return ({ preset, baseUrl }) => {
    if (key === '') return { kind: 'none' }
    const isSame = upstreams.some((upstream) => {
      if (!isRecord(upstream) || upstream['key'] !== KEY_NAME) return false
      const { preset: name = 'compatible', base_url: address } = upstream
      return name === preset && addressOf(preset, address) === addressOf(preset, baseUrl)
    })
    return isSame ? { kind: 'fits', key } : { kind: 'of-another' }
  }
}

/** Without "/v1", which setup adds if it is missing. */
function addressOf(preset: string, baseUrl: unknown): string {
  return String(baseUrl ?? presets[preset]?.baseUrl).replace(/(\/v1)?\/*$/, '')
}
