// `POST /v1/visitors` exchanges a solved Turnstile challenge for a visitor token. The path does not
// exist if Turnstile is off. Spends nothing and stores nothing.
import type { ChallengeRefusal, Turnstile } from '../access/turnstile.ts'
import type { VisitorTokens } from '../access/visitor-token.ts'
import { GatewayError, messages } from '../errors.ts'
import { type BodyOptions, readJson } from '../http/body.ts'
import { isLoopback } from '../http/cors.ts'
import { jsonReply, type Reply } from '../http/reply.ts'
import type { Visit } from './request-log.ts'

export interface NewVisitorsOptions {
  /** The time to receive the body. */
  readonly bodyMs: number
  /** As in CONFIG. A challenge must have been solved on one of their hosts or on this Worker's. */
  readonly origins: readonly string[]
}

export interface NewVisitorsContext {
  readonly turnstile: Turnstile
  readonly tokens: VisitorTokens
  readonly now: () => number
  /** Logs why a challenge was refused. */
  readonly refused: (requestId: string, reason: ChallengeRefusal) => void
}

/** A token of 2048 characters fits in any JSON encoding, even with every character escaped. */
const BODY_BYTES = 16_384
const PARAM_CHARS = 128

export class NewVisitors {
  readonly #body: BodyOptions
  readonly #hostnames: readonly string[]
  readonly #context: NewVisitorsContext | null

  /** @param context null: Turnstile is off */
  constructor({ bodyMs, origins }: NewVisitorsOptions, context: NewVisitorsContext | null) {
    this.#body = { maxBytes: BODY_BYTES, deadlineMs: bodyMs }
    this.#hostnames = origins.map((origin) => (origin === '*' ? '*' : new URL(origin).hostname))
    this.#context = context
  }

  /** `POST /v1/visitors`. @throws GatewayError */
  async post(visit: Visit): Promise<Reply> {
    if (this.#context === null) {
      throw new GatewayError('not_found', messages.visitor_tokens_unused)
    }
    const { turnstile, tokens, now, refused } = this.#context
    const token = tokenIn(await readJson(visit.request, this.#body))
    await turnstile.verify(
      {
        token,
        address: visit.request.headers.get('cf-connecting-ip'),
        hostnames: this.#hostnamesFor(visit),
        testSecretAllowed: isLoopback(visit.url.hostname),
      },
      (reason) => refused(visit.id, reason),
    )
    const nowS = Math.floor(now() / 1000)
    const minted = await tokens.mint({ origin: visit.logFields.origin ?? '', nowS })
    visit.logFields.visitor = minted.subject
    return jsonReply({ token: minted.token, expires_at: minted.expires_at })
  }

  /**
   * On a loopback host, pages of any loopback name and port are allowed, and so are their hosts.
   */
  #hostnamesFor({ url, logFields }: Visit): ReadonlySet<string> {
    const hostnames = new Set([...this.#hostnames, url.hostname])
    const page =
      logFields.origin !== null && URL.canParse(logFields.origin) ? new URL(logFields.origin) : null
    if (page !== null && isLoopback(url.hostname) && isLoopback(page.hostname)) {
      hostnames.add(page.hostname)
    }
    return hostnames
  }
}

function tokenIn(body: unknown): string {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw new GatewayError('invalid_value', 'Cannot use the body: expected {"token":"…"}')
  }
  const { token = null, ...rest } = body as Readonly<Record<string, unknown>>
  const [unknown] = Object.keys(rest)
  if (unknown !== undefined) {
    throw new GatewayError('unknown_field', 'Cannot use the body: expected only "token"', {
      param: unknown.slice(0, PARAM_CHARS).toWellFormed(),
    })
  }
  if (token === null) {
    throw new GatewayError('missing_field', 'Cannot find "token": a Turnstile token is required', {
      param: 'token',
    })
  }
  if (typeof token === 'string') return token
  throw new GatewayError('invalid_value', 'Cannot use "token": expected a string', {
    param: 'token',
  })
}
