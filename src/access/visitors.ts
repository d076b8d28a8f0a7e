// Identifies the visitor of a request: by the visitor token if Turnstile is on, and otherwise by a
// keyed hash of the network address, with a new key each UTC day. The address itself is not stored,
// and cannot be found from the hash without the key. Origins and budgets are checked elsewhere.
import { GatewayError, messages } from '../errors.ts'
import { hex, hmacKey } from '../hash.ts'
import { bearerOf } from './operator.ts'
import type { TokenRefusal, VisitorTokens } from './visitor-token.ts'

export interface VisitorsDeps {
  /** Returns a text with enough entropy for a key; called once a day. */
  readonly secret: () => Promise<string>
  /** Null: Turnstile is off, and no token is needed. */
  readonly tokens: VisitorTokens | null
  readonly now: () => number
}

export interface IncomingRequest {
  readonly headers: Headers
  /** The allowed Origin of the request, or null if it has no such header. */
  readonly origin: string | null
  readonly isOperator: boolean
  /** The request may call an upstream (`POST`). Only these need a token. */
  readonly maySpend: boolean
  /** Called with the reason if a token was refused. */
  readonly refused: (reason: TokenRefusal) => void
}

/** How many addresses have their hash in memory, so that a cache hit needs no cryptography. */
const MAX_KNOWN = 1000
/** The network of all visitors whose address is missing or invalid. */
const SHARED = 'shared'

export class Visitors {
  readonly #deps: VisitorsDeps
  #day = -1
  /** Not a promise: in workerd a request cannot wait for another request's I/O. */
  #key: CryptoKey | null = null
  readonly #known = new Map<string | null, string>()

  constructor(deps: VisitorsDeps) {
    this.#deps = deps
  }

  /**
   * The visitor's id: the token's subject (`t:…`) or the hash of the address (`h:…`).
   *
   * @throws GatewayError `visitor_token_required`, `visitor_token_invalid`; `ledger_unavailable`
   *   if tokens cannot be checked
   */
  async visitorOf({
    headers,
    origin,
    isOperator,
    maySpend,
    refused,
  }: IncomingRequest): Promise<string> {
    const { tokens, now } = this.#deps
    const address = () => this.idOf(addressOf(headers), now())
    if (tokens === null || isOperator) return await address()
    const token = tokenOf(headers)
    const use = { origin: origin ?? '', nowS: Math.floor(now() / 1000) }
    if (!maySpend) {
      // Cached answers need no token, but a visitor's own answers are found by its subject.
      const known = token === null ? null : await tokens.verify(token, use).catch(() => null)
      return known?.subject ?? (await address())
    }
    if (token === null) {
      throw new GatewayError('visitor_token_required', messages.visitor_token_required)
    }
    return (await tokens.verify(token, use, refused)).subject
  }

  /** `h:` and 16 hex digits, the same for an IPv4 address or an IPv6 /64 all day. */
  async idOf(address: string | null, nowMs: number): Promise<string> {
    const day = Math.floor(nowMs / 86_400_000)
    if (day !== this.#day) {
      this.#day = day
      this.#known.clear()
      this.#key = null
    }
    const known = this.#known.get(address)
    if (known !== undefined) return known
    const use = `edge-completions visitor ${day}`
    const key = this.#key ?? (await hmacKey(await this.#deps.secret(), use, ['sign']))
    if (day === this.#day) this.#key = key
    const mac = await crypto.subtle.sign('HMAC', key, new TextEncoder().encode(networkOf(address)))
    const id = `h:${hex(new Uint8Array(mac, 0, 8))}`
    if (this.#known.size >= MAX_KNOWN) this.#known.clear()
    // The day may have changed during the await.
    if (day === this.#day) this.#known.set(address, id)
    return id
  }
}

/** The visitor's network address, as Cloudflare reports it; null if it is not known. */
export function addressOf(headers: Headers): string | null {
  return headers.get('cf-connecting-ip')
}

/** The token from `X-Visitor-Token`, or the bearer token, since SDKs can only set that. */
function tokenOf(headers: Headers): string | null {
  return headers.get('x-visitor-token') || bearerOf(headers)
}

/**
 * A whole IPv4 address, or the /64 of an IPv6 address; "shared" for anything else.
 *
 * @internal exported for its tests
 */
export function networkOf(address: string | null): string {
  if (address === null || !/^[0-9a-f:.]{2,45}$/i.test(address)) return SHARED
  const isV6 = address.includes(':')
  const url = isV6 ? `http://[${address}]/` : `http://${address}/`
  if (!URL.canParse(url)) return SHARED
  const { hostname } = new URL(url)
  // The URL parser also reads other spellings of IPv4 addresses, and names.
  if (!isV6) return hostname === address && /^[\d.]*\d$/.test(address) ? address : SHARED
  // It gives every IPv6 address one form (RFC 5952), a mapped IPv4 address in two groups.
  const text = hostname.slice(1, -1)
  const [head = '', tail] = text.split('::')
  const groups = head === '' ? [] : head.split(':')
  if (tail !== undefined) {
    const end = tail === '' ? [] : tail.split(':')
    while (groups.length + end.length < 8) groups.push('0')
    groups.push(...end)
  }
  const mapped = groups.slice(0, 6).join(':') === '0:0:0:0:0:ffff'
  return mapped ? v4Of(groups.slice(6)) : `${groups.slice(0, 4).join(':')}::/64`
}

/** `cb00:7107` is 203.0.113.7. */
function v4Of(groups: readonly string[]): string {
  return groups
    .map((group) => Number.parseInt(group, 16))
    .flatMap((bits) => [bits >> 8, bits & 255])
    .join('.')
}
