// The cache key: `c<version>:` and the SHA-256 of the canonical effective request. A published
// contract: test/fixtures/keys.json holds golden vectors, and whoever changes what is hashed here
// raises FORMAT. And the key of a prompt's last answer, which knows nothing of the owner's settings.
import type { EffectiveRequest } from './effective.ts'

const FORMAT = 1

export interface KeyOptions {
  /** `cache.version`: a new one starts with an empty cache. */
  readonly version: number
  /** What the answer depends on besides the names: each upstream's wire and address. */
  readonly addresses: ReadonlyMap<string, string>
}

/**
 * The canonical text of a request: JSON with sorted keys and no white space. Two requests have the
 * same text exactly when every field that can change the answer is equal. JSON is unambiguous for
 * well-formed text, so this is injective.
 *
 * @param scope the visitor whose own answers these are, or null where answers are shared
 */
export function canonical(
  request: EffectiveRequest,
  scope: string | null,
  addresses: KeyOptions['addresses'],
): string {
  const { route, ...fields } = request
  return JSON.stringify(
    sorted({
      ...fields,
      format: FORMAT,
      route: route.map(({ upstream, upstream_model }) => [
        upstream,
        addresses.get(upstream) ?? '',
        upstream_model,
      ]),
      ...(scope === null ? {} : { scope }),
    }),
  )
}

/** The cache key of a request, `c1:` and 64 hex digits: always the same length, whatever is asked. */
export async function cacheKey(
  request: EffectiveRequest,
  scope: string | null,
  { version, addresses }: KeyOptions,
): Promise<string> {
  return `c${version}:${await sha256(canonical(request, scope, addresses))}`
}

/** A locked prompt as a visitor asks for it: nothing of what the owner made of it. */
export interface PromptRequest {
  readonly promptId: string
  /** Of a page its address, in the spelling that all its addresses have in common. */
  readonly variables: Readonly<Record<string, unknown>>
  /** Those of the visitor's fields that change something (`chosenFields` of effective.ts). */
  readonly fields: Readonly<Record<string, unknown>>
}

/**
 * The key of the last answer to a prompt with these variables, `l1:` and 64 hex digits. It stays the
 * same when the prompt's words, its model, their parameters or the pages change.
 */
export async function lastKey(request: PromptRequest, version: number): Promise<string> {
  return `l${version}:${await sha256(JSON.stringify(sorted(request)))}`
}

/** Only the owner's parameters are nested, so depth is the owner's, never a visitor's. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, inner]) => [key, sorted(inner)]),
  )
}

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'))

/** The SHA-256 of a text's UTF-8 bytes, as 64 hex digits. */
export async function sha256(text: string): Promise<string> {
  return hex(new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text))))
}

/** Lower-case hex digits, two a byte. */
export function hex(bytes: Uint8Array): string {
  let digits = ''
  for (const byte of bytes) digits += HEX[byte]
  return digits
}
