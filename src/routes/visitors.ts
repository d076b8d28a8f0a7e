// `POST /v1/visitors` exchanges a solved Turnstile challenge for a visitor token. The path does not
// exist if Turnstile is off. Spends nothing and stores nothing.
import { type TurnstileDeps, verifyChallenge } from '../access/turnstile.ts'
import type { VisitorTokens } from '../access/visitor-token.ts'
import { addressOf } from '../access/visitors.ts'
import { GatewayError, invalidValue, messages } from '../errors.ts'
import type { Report } from '../events.ts'
import { readJson } from '../http/body.ts'
import { isLoopback } from '../http/cors.ts'
import { jsonReply, type Reply } from '../http/reply.ts'
import { isRecord } from '../json.ts'
import { masked, preview } from '../validation.ts'
import type { Visit } from './request-log.ts'

export interface NewVisitorDeps {
  readonly turnstile: TurnstileDeps
  /** Null: Turnstile is off. */
  readonly tokens: VisitorTokens | null
  /** The time to receive the body. */
  readonly bodyMs: number
  /** As in CONFIG. A challenge must have been solved on one of their hosts or on this Worker's. */
  readonly origins: readonly string[]
  readonly now: () => number
  readonly report: Report
}

/** A token of 2048 characters fits in any JSON encoding, even with every character escaped. */
const BODY_BYTES = 16_384
const PARAM_CHARS = 128

/** `POST /v1/visitors`. @throws GatewayError */
export async function newVisitor(visit: Visit, deps: NewVisitorDeps): Promise<Reply> {
  const { tokens, turnstile, bodyMs, origins, now, report } = deps
  const { request, url, id, logFields } = visit
  if (tokens === null) throw new GatewayError('not_found', messages.visitor_tokens_unused)
  const body = await readJson(request, { maxBytes: BODY_BYTES, deadlineMs: bodyMs })
  await verifyChallenge(
    {
      token: tokenIn(body),
      address: addressOf(request.headers),
      hostnames: hostnamesFor(visit, origins),
      testSecretAllowed: isLoopback(url.hostname),
    },
    turnstile,
    (reason) => report({ event: 'visitor_refused', request_id: id, reason }),
  )
  const nowS = Math.floor(now() / 1000)
  const minted = await tokens.mint({ origin: logFields.origin ?? '', nowS })
  logFields.visitor = minted.subject
  return jsonReply({ token: minted.token, expires_at: minted.expires_at })
}

/** On a loopback host, pages of any loopback name and port are allowed, and so are their hosts. */
function hostnamesFor({ url, logFields }: Visit, origins: readonly string[]): ReadonlySet<string> {
  const { origin } = logFields
  const allowed = origins.map((each) => (each === '*' ? '*' : new URL(each).hostname))
  const hostnames = new Set([...allowed, url.hostname])
  const page = origin !== null && URL.canParse(origin) ? new URL(origin).hostname : null
  if (page !== null && isLoopback(url.hostname) && isLoopback(page)) hostnames.add(page)
  return hostnames
}

function tokenIn(body: unknown): string {
  if (!isRecord(body)) {
    throw new GatewayError(
      'invalid_value',
      `Cannot use the body: expected {"token":"…"}, got ${preview(body)}`,
    )
  }
  const { token = null, ...rest } = body
  const [unknown] = Object.keys(rest)
  if (unknown !== undefined) {
    const param = unknown.slice(0, PARAM_CHARS).toWellFormed()
    throw new GatewayError(
      'unknown_field',
      `Cannot use "${masked(param)}": expected only "token"`,
      { param },
    )
  }
  if (token === null) {
    const message = 'Cannot find "token": a Turnstile token is required'
    throw new GatewayError('missing_field', message, { param: 'token' })
  }
  if (typeof token === 'string') return token
  throw invalidValue('token', `expected a string, got ${preview(token)}`)
}
