// Visitor tokens: short-lived signed JWTs (HS256, RFC 7519) bound to the origin they were minted for.
// They name a visitor and nothing else; nothing is kept of them, so one ends only by running out.
import { base64url, errors, jwtVerify, SignJWT } from 'jose'
import * as v from 'valibot'
import { hex } from '../completion/fingerprint.ts'
import { GatewayError } from '../errors.ts'

export interface VisitorTokenOptions {
  /** How long a token is good for; one that claims to be good for longer is refused. */
  readonly tokenSeconds: number
}

export interface VisitorTokenContext {
  /** TOKEN_SECRET, or null. */
  readonly secret: string | null
  /** TOKEN_SECRET_PREVIOUS, or null: its tokens are good while it is set, none are made with it. */
  readonly previousSecret: string | null
  /**
   * The secret where there is no TOKEN_SECRET: the same in all isolates, or it rejects, in bounded
   * time. Asked until it has answered once.
   */
  readonly fallbackSecret: () => Promise<string>
  readonly randomBytes: (bytes: Uint8Array) => void
}

export interface VisitorToken {
  readonly token: string
  /** Unix seconds; from this second on the token is refused. */
  readonly expires_at: number
  readonly subject: string
}

/** Where and when a token is made or shown. */
export interface TokenUse {
  /** The Origin header, "" where there is none. */
  readonly origin: string
  /** Whole unix seconds. */
  readonly nowS: number
}

/** Why a token was refused, for the log: what a stranger hears is the same for all. */
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
const ALGORITHM = 'HS256'
const AUDIENCE = 'edge-completions visitor'
const INFO = 'edge-completions visitor token'
const RETRY_AFTER_S = 10
const SUBJECT_BYTES = 8

const header = { alg: ALGORITHM, typ: 'JWT' }
/** The only header there is: nobody may choose another algorithm, or add to it. */
const encodedHeader = base64url.encode(JSON.stringify(header))

const claimsSchema = v.strictObject({
  sub: v.pipe(v.string(), v.regex(/^t:[0-9a-f]{16}$/)),
  aud: v.literal(AUDIENCE),
  origin: v.string(),
  iat: v.pipe(v.number(), v.safeInteger()),
  exp: v.pipe(v.number(), v.safeInteger()),
})

export class VisitorTokens {
  readonly #options: VisitorTokenOptions
  readonly #context: VisitorTokenContext
  // Keys, not promises of keys: a request may not wait for another request's I/O on this platform.
  #key: CryptoKey | null = null
  #previousKey: CryptoKey | null = null

  constructor(options: VisitorTokenOptions, context: VisitorTokenContext) {
    this.#options = options
    this.#context = context
  }

  /**
   * A token for a new visitor.
   *
   * @throws GatewayError `origin_not_allowed` if the origin is too long to be a page's,
   *   `ledger_unavailable` if there is no key
   */
  async mint({ origin, nowS }: TokenUse): Promise<VisitorToken> {
    const expires_at = nowS + this.#options.tokenSeconds
    const subject = this.#newSubject()
    const token = await new SignJWT({ origin })
      .setProtectedHeader(header)
      .setSubject(subject)
      .setAudience(AUDIENCE)
      .setIssuedAt(nowS)
      .setExpirationTime(expires_at)
      .sign(await this.#currentKey())
    // With origins = ["*"] the header may hold anything.
    if (token.length > MAX_TOKEN_CHARS) {
      throw new GatewayError(
        'origin_not_allowed',
        'Cannot be called from this origin: it is too long',
      )
    }
    return { token, expires_at, subject }
  }

  /**
   * The visitor a token names.
   *
   * @param refused hears the exact reason, which the visitor does not
   * @throws GatewayError `visitor_token_invalid`, always the same; `ledger_unavailable` if there is
   *   no key to check with
   */
  async verify(
    token: string,
    use: TokenUse,
    refused: (reason: TokenRefusal) => void = () => {},
  ): Promise<{ readonly subject: string }> {
    const result = await this.#read(token, use)
    if (typeof result === 'object') return result
    refused(result)
    throw new GatewayError(
      'visitor_token_invalid',
      'Cannot use this visitor token: get a new one from POST /v1/visitors',
    )
  }

  async #read(
    token: string,
    { origin, nowS }: TokenUse,
  ): Promise<TokenRefusal | { readonly subject: string }> {
    if (token.length > MAX_TOKEN_CHARS) return 'too_long'
    if (!isCanonical(token)) return 'malformed'
    const payload = await this.#payload(token, nowS)
    if (typeof payload === 'string') return payload
    const { success, output } = v.safeParse(claimsSchema, payload)
    if (!success) return 'bad_claims'
    if (output.iat > nowS) return 'from_the_future'
    if (output.exp > nowS + this.#options.tokenSeconds) return 'too_far_ahead'
    return output.origin === origin ? { subject: output.sub } : 'other_origin'
  }

  /** What was signed with the current or else the previous key, and has not expired. */
  async #payload(token: string, nowS: number): Promise<TokenRefusal | object> {
    const reason = await open(token, await this.#currentKey(), nowS)
    if (reason !== 'bad_signature') return reason
    const previous = await this.#oldKey()
    return previous === null ? reason : await open(token, previous, nowS)
  }

  async #currentKey(): Promise<CryptoKey> {
    if (this.#key !== null) return this.#key
    const { secret } = this.#context
    const key = await deriveKey(isSet(secret) ? secret : await this.#fallback(), ['sign', 'verify'])
    this.#key ??= key
    return this.#key
  }

  async #oldKey(): Promise<CryptoKey | null> {
    const { previousSecret } = this.#context
    if (!isSet(previousSecret)) return null
    this.#previousKey ??= await deriveKey(previousSecret, ['verify'])
    return this.#previousKey
  }

  async #fallback(): Promise<string> {
    const secret = await this.#context.fallbackSecret().catch(() => null)
    // An empty secret would be a key that everybody has.
    if (isSet(secret)) return secret
    throw new GatewayError(
      'ledger_unavailable',
      'Cannot check visitor tokens now: try again in a moment',
      { retryAfterSeconds: RETRY_AFTER_S },
    )
  }

  #newSubject(): string {
    const bytes = new Uint8Array(SUBJECT_BYTES)
    this.#context.randomBytes(bytes)
    return `t:${hex(bytes)}`
  }
}

function isSet(secret: string | null): secret is string {
  return secret !== null && secret.trim() !== ''
}

/**
 * Whether a token is three parts of base64url, each the only spelling of its bytes, under our own
 * header. Others are refused although they decode: one token must not have several names.
 */
function isCanonical(token: string): boolean {
  const parts = token.split('.')
  return parts.length === 3 && parts[0] === encodedHeader && parts.every(isCanonicalPart)
}

function isCanonicalPart(part: string): boolean {
  if (!/^[A-Za-z0-9_-]+$/.test(part)) return false
  try {
    return base64url.encode(base64url.decode(part)) === part
  } catch {
    return false
  }
}

/** jose compares the signature in constant time (crypto.subtle.verify) before it reads a claim. */
async function open(token: string, key: CryptoKey, nowS: number): Promise<TokenRefusal | object> {
  try {
    const { payload } = await jwtVerify(token, key, {
      algorithms: [ALGORITHM],
      currentDate: new Date(nowS * 1000),
    })
    return payload
  } catch (error) {
    if (error instanceof errors.JWSSignatureVerificationFailed) return 'bad_signature'
    if (error instanceof errors.JWTExpired) return 'expired'
    return 'bad_claims'
  }
}

/** HKDF (RFC 5869), so that no other use of the secret shares a key with this one. */
async function deriveKey(secret: string, usages: readonly KeyUsage[]): Promise<CryptoKey> {
  const bytes = new TextEncoder()
  const material = await crypto.subtle.importKey('raw', bytes.encode(secret), 'HKDF', false, [
    'deriveKey',
  ])
  return await crypto.subtle.deriveKey(
    { name: 'HKDF', hash: 'SHA-256', salt: new Uint8Array(), info: bytes.encode(INFO) },
    material,
    { name: 'HMAC', hash: 'SHA-256', length: 256 },
    false,
    [...usages],
  )
}

type KeyUsage = 'sign' | 'verify'
