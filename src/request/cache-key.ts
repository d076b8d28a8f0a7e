// The cache key: `c<version>:` and the SHA-256 of the canonical effective request. Cache keys are
// stable: test/fixtures/keys.json holds golden vectors, and changing what is hashed requires a new
// FORMAT. The key of a prompt's last answer is also made here; it ignores the owner's settings.
import { sha256 } from '../hash.ts'
import { mapped } from '../json.ts'
import type { Conversation } from './conversation.ts'
import type { EffectiveRequest } from './effective.ts'

const FORMAT = 1

export interface KeyOptions {
  /** `cache.version`: changing it starts with an empty cache. */
  readonly version: number
  /** Each upstream's wire and address, on which the answer depends as well as on its name. */
  readonly addresses: ReadonlyMap<string, string>
}

/**
 * The canonical text of a request: JSON with sorted keys and no white space. Two requests have the
 * same text if and only if all fields that can change the answer are equal, since JSON is
 * unambiguous for well-formed text.
 *
 * @param scope the visitor, if answers are cached per visitor; null if they are shared
 *
 * @internal exported for its tests
 */
export function canonicalText(
  request: EffectiveRequest,
  scope: string | null,
  addresses: KeyOptions['addresses'],
): string {
  const { route, response_format: format, ...fields } = request
  return JSON.stringify(
    sorted({
      ...fields,
      format: FORMAT,
      // As text: models write the fields of an answer in the order of the schema.
      ...(format === undefined ? {} : { response_format: JSON.stringify(format) }),
      route: route.map(({ upstream, upstream_model }) => [
        upstream,
        addresses.get(upstream) ?? '',
        upstream_model,
      ]),
      ...(scope === null ? {} : { scope }),
    }),
  )
}

/** The cache key of a request, `c1:` and 64 hex digits. */
export async function cacheKey(
  request: EffectiveRequest,
  scope: string | null,
  { version, addresses }: KeyOptions,
): Promise<string> {
  return `c${version}:${await sha256(canonicalText(request, scope, addresses))}`
}

/** A visitor's request for a locked prompt, without the owner's settings. */
export interface PromptRequest {
  readonly promptId: string
  /** The values; of a page, its canonical address (page/rules.ts). */
  readonly variables: Readonly<Record<string, unknown>>
  /** The visitor's fields that have an effect (`overriddenFields` in effective.ts). */
  readonly fields: Readonly<Record<string, unknown>>
  /** Of a chat. */
  readonly messages?: Conversation
}

/**
 * The key of the last answer to a prompt with these variables, `l1:` and 64 hex digits. It does not
 * change with the prompt's text, its model, their parameters or the pages' content.
 */
export async function lastAnswerKey(request: PromptRequest, version: number): Promise<string> {
  return `l${version}:${await sha256(JSON.stringify(sorted(request)))}`
}

/** Sorts keys at any depth. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted)
  if (typeof value !== 'object' || value === null) return value
  return mapped(
    Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)),
    sorted,
  )
}
