// Identifies the visitor of a request: by the visitor token if Turnstile is on, by the network
// address if it is off. Origins and budgets are checked elsewhere.
import { GatewayError, messages } from '../errors.ts'
import { bearerOf } from './operator.ts'
import type { Visitors } from './visitor.ts'
import type { TokenRefusal, VisitorTokens } from './visitor-token.ts'

export interface VisitorIdentifierContext {
  readonly visitors: Visitors
  /** Null: Turnstile is off, and no token is needed. */
  readonly tokens: VisitorTokens | null
  readonly now: () => number
}

export interface VisitorRequest {
  readonly headers: Headers
  /** The allowed Origin of the request, or null if it has no such header. */
  readonly origin: string | null
  readonly isOperator: boolean
  /** The request may call an upstream (`POST`). Only these need a token. */
  readonly maySpend: boolean
  /** Called with the reason if a token was refused. */
  readonly refused: (reason: TokenRefusal) => void
}

export class VisitorIdentifier {
  readonly #context: VisitorIdentifierContext

  constructor(context: VisitorIdentifierContext) {
    this.#context = context
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
  }: VisitorRequest): Promise<string> {
    const { visitors, tokens, now } = this.#context
    const address = () => visitors.idOf(headers.get('cf-connecting-ip'), now())
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
}

/** The token from `X-Visitor-Token`, or the bearer token, since SDKs can only set that. */
function tokenOf(headers: Headers): string | null {
  const given = headers.get('x-visitor-token')
  return given === null || given === '' ? bearerOf(headers) : given
}
