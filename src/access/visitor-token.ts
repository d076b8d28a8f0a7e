// Visitor tokens: short-lived signed JWTs (HS256, RFC 7519) bound to the origin they were minted
// for. They contain a visitor id and nothing else. They are not stored, so they cannot be revoked,
// only expire.
import * as v from 'valibot'
import { GatewayError, messages } from '../errors.ts'
import { hex, hmacKey } from '../hash.ts'
import { parseJson } from '../json.ts'

export interface VisitorTokenDeps extends TokenSecrets {
  /** How long a token is valid. A token that claims a longer validity is refused. */
  readonly tokenSeconds: number
}

export interface TokenSecrets {
  /** TOKEN_SECRET, or null. */
  readonly secret: string | null
  /** TOKEN_SECRET_PREVIOUS, or null. It only verifies tokens; new ones are never signed with it. */
  readonly previousSecret: string | null
  /**
   * The secret to use without TOKEN_SECRET. It must be the same in all isolates, and reject within
   * bounded time if it is unavailable. Called until it has resolved once.
   */
  readonly fallbackSecret: () => Promise<string>
  readonly randomBytes: (bytes: Uint8Array) => void
}

/** Where and when a token is minted or used. */
export interface TokenUse {
  /** The Origin header, "" if there is no such header. */
  readonly origin: string
  /** Whole unix seconds. */
  readonly nowS: number
}

/** Why a token was refused, for the log. The error for the visitor is always the same. */
export type TokenRefusal =
  | 'too_long'
  | 'malformed'
  | 'bad_signature'
  | 'bad_claims'
  | 'expired'
  | 'from_the_future'
  | 'too_far_ahead'
  | 'other_origin'

const MAX_TOKEN_CHARS = 1024
const AUDIENCE = 'edge-completions visitor'
const INFO = 'edge-completions visitor token'
const RETRY_AFTER_S = 10
const SUBJECT_BYTES = 8

/** The only accepted header, so that nobody can choose another algorithm (RFC 8725, 3.1). */
const HEADER = encode(utf8('{"alg":"HS256","typ":"JWT"}'))

const claimsSchema = v.strictObject({
  sub: v.pipe(v.string(), v.regex(/^t:[0-9a-f]{16}$/)),
  aud: v.literal(AUDIENCE),
  origin: v.string(),
  iat: v.pipe(v.number(), v.safeInteger()),
  exp: v.pipe(v.number(), v.safeInteger()),
})

export class VisitorTokens {
  readonly #deps: VisitorTokenDeps
  // Keys, not promises of keys: in workerd a request cannot wait for another request's I/O.
  #key: CryptoKey | null = null
  #previousKey: CryptoKey | null = null

  constructor(deps: VisitorTokenDeps) {
    this.#deps = deps
  }

  /**
   * Mints a token for a new visitor. It is refused from the second `expires_at` on.
   *
   * @throws GatewayError `origin_not_allowed` if the origin is too long for a token,
   *   `ledger_unavailable` if there is no key
   */
  async mint({ origin, nowS }: TokenUse) {
    const { tokenSeconds, randomBytes } = this.#deps
    const expires_at = nowS + tokenSeconds
    const id = new Uint8Array(SUBJECT_BYTES)
    randomBytes(id)
    const subject = `t:${hex(id)}`
    const claims = { origin, sub: subject, aud: AUDIENCE, iat: nowS, exp: expires_at }
    const signed = `${HEADER}.${encode(utf8(JSON.stringify(claims)))}`
    const signature = await crypto.subtle.sign('HMAC', await this.#currentKey(), utf8(signed))
    const token = `${signed}.${encode(new Uint8Array(signature))}`
    // With origins = ["*"] the header may contain anything.
    if (token.length > MAX_TOKEN_CHARS) {
      throw new GatewayError('origin_not_allowed', 'Cannot use the header "Origin": it is too long')
    }
    return { token, expires_at, subject }
  }

  /**
   * Verifies a token and returns its subject, the visitor's id.
   *
   * @param refused called with the exact reason, which the visitor does not see
   * @throws GatewayError `visitor_token_invalid`, with the same message for all reasons;
   *   `ledger_unavailable` if there is no key to verify with
   */
  async verify(token: string, use: TokenUse, refused: (reason: TokenRefusal) => void = () => {}) {
    const result = await this.#read(token, use)
    if (typeof result === 'object') return result
    refused(result)
    throw new GatewayError('visitor_token_invalid', messages.visitor_token_invalid)
  }

  async #read(
    token: string,
    { origin, nowS }: TokenUse,
  ): Promise<TokenRefusal | { readonly subject: string }> {
    if (token.length > MAX_TOKEN_CHARS) return 'too_long'
    const [head, payload = '', last = '', ...more] = token.split('.')
    const claims = decode(payload)
    const signature = decode(last)
    const isToken = head === HEADER && more.length === 0
    if (!isToken || claims === null || signature === null) return 'malformed'
    if (!(await this.#isSigned(`${head}.${payload}`, signature))) return 'bad_signature'
    const json = parseJson(new TextDecoder().decode(claims))
    const { success, output } = v.safeParse(claimsSchema, json)
    if (!success) return 'bad_claims'
    if (output.exp <= nowS) return 'expired'
    if (output.iat > nowS) return 'from_the_future'
    if (output.exp > nowS + this.#deps.tokenSeconds) return 'too_far_ahead'
    return output.origin === origin ? { subject: output.sub } : 'other_origin'
  }

  /** Whether the current or the previous key signed this. Compares in constant time. */
  async #isSigned(signed: string, signature: Uint8Array): Promise<boolean> {
    const verifies = async (key: CryptoKey) =>
      await crypto.subtle.verify('HMAC', key, signature, utf8(signed))
    if (await verifies(await this.#currentKey())) return true
    const previous = await this.#oldKey()
    return previous !== null && (await verifies(previous))
  }

  async #currentKey(): Promise<CryptoKey> {
    if (this.#key !== null) return this.#key
    const { secret } = this.#deps
    const known = isSet(secret) ? secret : await this.#fallback()
    this.#key = await hmacKey(known, INFO, ['sign', 'verify'])
    return this.#key
  }

  async #oldKey(): Promise<CryptoKey | null> {
    const { previousSecret } = this.#deps
    if (!isSet(previousSecret)) return null
    this.#previousKey ??= await hmacKey(previousSecret, INFO, ['verify'])
    return this.#previousKey
  }

  async #fallback(): Promise<string> {
    const secret = await this.#deps.fallbackSecret().catch(() => null)
    // Anybody could sign tokens with an empty secret.
    if (isSet(secret)) return secret
    throw new GatewayError('ledger_unavailable', messages.visitor_tokens_unavailable, {
      retryAfterSeconds: RETRY_AFTER_S,
    })
  }
}

function isSet(secret: string | null): secret is string {
  return secret !== null && secret.trim() !== ''
}

function utf8(text: string): Uint8Array {
  return new TextEncoder().encode(text)
}

/** Base64url without padding (RFC 4648, section 5). */
function encode(bytes: Uint8Array): string {
  let text = ''
  for (const byte of bytes) text += String.fromCharCode(byte)
  return btoa(text).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '')
}

/**
 * The bytes of a part, or null unless it is spelled exactly as `encode` does. Other spellings of
 * the same bytes are refused, so that each token has one form only.
 */
function decode(part: string): Uint8Array | null {
  if (!/^[A-Za-z0-9_-]+$/.test(part)) return null
  try {
    const text = atob(part.replaceAll('-', '+').replaceAll('_', '/'))
    const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0))
    return encode(bytes) === part ? bytes : null
  } catch {
    return null
  }
}
