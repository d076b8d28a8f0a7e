// Who is asking, and whether they may: the visitor token where Turnstile is on, the network address
// where it is off. Judges no origin and counts no money.
import { GatewayError } from '../errors.ts'
import { bearerOf } from './operator.ts'
import type { Visitors } from './visitor.ts'
import type { TokenRefusal, VisitorTokens } from './visitor-token.ts'

export interface VisitorGateContext {
  readonly visitors: Visitors
  /** Null: Turnstile is off, nobody needs a token. */
  readonly tokens: VisitorTokens | null
  readonly now: () => number
}

export interface Arrival {
  readonly headers: Headers
  /** The allowed Origin of the request, or null where it has none. */
  readonly origin: string | null
  readonly isOperator: boolean
  /** It may spend (`POST`): only that needs a token. */
  readonly maySpend: boolean
  /** Hears why a token was refused. */
  readonly refused: (reason: TokenRefusal) => void
}

export class VisitorGate {
  readonly #context: VisitorGateContext

  constructor(context: VisitorGateContext) {
    this.#context = context
  }

  /**
   * The visitor's id: the token's subject (`t:…`), else the hash of the address (`h:…`).
   *
   * @throws GatewayError `visitor_token_required`, `visitor_token_invalid`; `ledger_unavailable`
   *   where tokens cannot be checked
   */
  async visitorOf({ headers, origin, isOperator, maySpend, refused }: Arrival): Promise<string> {
    const { visitors, tokens, now } = this.#context
    const address = () => visitors.idOf(headers.get('cf-connecting-ip'), now())
    if (tokens === null || isOperator) return await address()
    const token = tokenOf(headers)
    const use = { origin: origin ?? '', nowS: Math.floor(now() / 1000) }
    if (!maySpend) {
      // What the cache gives needs no token, but a good one says whose own answers to look among.
      const known = token === null ? null : await tokens.verify(token, use).catch(() => null)
      return known?.subject ?? (await address())
    }
    if (token === null) {
      throw new GatewayError(
        'visitor_token_required',
        'Cannot ask without a visitor token: get one from POST /v1/visitors and send it as X-Visitor-Token',
      )
    }
    return (await tokens.verify(token, use, refused)).subject
  }
}

/** The header made for it, else whatever stands as the bearer; SDKs can set only that. */
function tokenOf(headers: Headers): string | null {
  const given = headers.get('x-visitor-token')
  return given === null || given === '' ? bearerOf(headers) : given
}
