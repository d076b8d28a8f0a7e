// `POST /v1/visitors`: a solved challenge in, a visitor token out. Where Turnstile is not set up
// there is no such path. Spends nothing and keeps nothing.
import type { ChallengeRefusal, Turnstile } from '../access/turnstile.ts'
import type { VisitorTokens } from '../access/visitor-token.ts'
import { GatewayError } from '../errors.ts'
import { type BodyOptions, readJson } from '../http/body.ts'
import { isLoopback } from '../http/cors.ts'
import { jsonReply, type Reply } from '../http/reply.ts'
import type { Visit } from './visit.ts'

export interface NewVisitorsOptions {
  /** To receive the body. */
  readonly bodyMs: number
  /** As in CONFIG: a challenge counts if it was solved on one of their hosts, or on our own. */
  readonly origins: readonly string[]
}

export interface NewVisitorsContext {
  readonly turnstile: Turnstile
  readonly tokens: VisitorTokens
  readonly now: () => number
  /** Why a challenge did not count, for the log. */
  readonly refused: (requestId: string, reason: ChallengeRefusal) => void
}

/** A token of 2048 characters fits in any spelling of JSON. */
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
      throw new GatewayError('not_found', 'Cannot find this path: no visitor token is needed here')
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
    const minted = await tokens.mint({ origin: visit.noted.origin ?? '', nowS })
    visit.noted.visitor = minted.subject
    return jsonReply({ token: minted.token, expires_at: minted.expires_at })
  }

  /** On a loopback host pages of every port and name of this machine are allowed, so theirs, too. */
  #hostnamesFor({ url, noted }: Visit): ReadonlySet<string> {
    const hostnames = new Set([...this.#hostnames, url.hostname])
    const page = noted.origin !== null && URL.canParse(noted.origin) ? new URL(noted.origin) : null
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
    throw new GatewayError('unknown_field', 'Cannot use the body: expected nothing but "token"', {
      param: unknown.slice(0, PARAM_CHARS).toWellFormed(),
    })
  }
  if (token === null) {
    throw new GatewayError('missing_field', 'Cannot find "token": expected a Turnstile token', {
      param: 'token',
    })
  }
  if (typeof token === 'string') return token
  throw new GatewayError('invalid_value', 'Cannot use "token": expected a string', {
    param: 'token',
  })
}
