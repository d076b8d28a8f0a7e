// Verifies a Turnstile challenge through Cloudflare's siteverify: it must have been solved on one
// of the expected hosts and for the expected action. Visitors get "failed" or "unavailable"; the
// exact reason is only in the owner's log.
// https://developers.cloudflare.com/turnstile/get-started/server-side-validation/
import * as v from 'valibot'
import { deadline, type Wait } from '../deadline.ts'
import { GatewayError, messages } from '../errors.ts'
import { readBytes } from '../http/body.ts'
import { parseJson } from '../json.ts'

export interface TurnstileDeps {
  /** TURNSTILE_SECRET */
  readonly secret: string
  readonly fetch: (request: Request) => Promise<Response>
  readonly now: () => number
  /** Rejects when the signal is aborted. */
  readonly wait: Wait
  readonly newUuid: () => string
}

export interface Challenge {
  /** The token that the widget handed to the page. */
  readonly token: string
  /** The visitor's IP address, if known. */
  readonly address: string | null
  /** The hosts it may have been solved on, in lower case; "*" for any. */
  readonly hostnames: ReadonlySet<string>
  /** Whether Cloudflare's dummy secrets are accepted: in local development only. */
  readonly testSecretAllowed: boolean
}

/** The error for each reason why a challenge was not accepted. The reason itself is only logged. */
const refusals = {
  bad_length: 'challenge_failed',
  not_solved: 'challenge_failed',
  spent_or_expired: 'challenge_failed',
  other_host: 'challenge_failed',
  other_action: 'challenge_failed',
  dummy_token: 'challenge_failed',
  test_secret: 'misconfigured',
  secret_refused: 'challenge_unavailable',
  unreachable: 'challenge_unavailable',
  timeout: 'challenge_unavailable',
  server_error: 'challenge_unavailable',
  bad_answer: 'challenge_unavailable',
  internal_error: 'challenge_unavailable',
} as const
export type ChallengeRefusal = keyof typeof refusals

/** The widget's `data-action`. A challenge solved for another action is refused. */
const CHALLENGE_ACTION = 'visitor'
const SITEVERIFY_URL = 'https://challenges.cloudflare.com/turnstile/v0/siteverify'

const MAX_TOKEN_CHARS = 2048
/** For both tries and the pause between them. */
const TOTAL_MS = 3000
const FIRST_TRY_MS = 1400
const PAUSE_MS = 100
const MAX_ANSWER_BYTES = 16_384
const RETRY_AFTER_S = 10

/** The parts of siteverify's answer that are used. */
const answerSchema = v.object({
  success: v.boolean(),
  hostname: v.nullish(v.string(), ''),
  action: v.nullish(v.string(), ''),
  'error-codes': v.nullish(v.array(v.string()), []),
  metadata: v.nullish(v.object({ result_with_testing_key: v.nullish(v.boolean(), false) }), {}),
})

type Answer = v.InferOutput<typeof answerSchema>

/** Whether a secret is one of Cloudflare's dummies (1x… passes, 2x… fails, 3x… is spent). */
export function isTestSecret(secret: string): boolean {
  return /^\s*\dx0{16,}[A-Z]{2}\s*$/i.test(secret)
}

/**
 * Returns if the challenge was solved for this action and on one of the hosts. This spends it.
 *
 * @param refused called with the exact reason, which the visitor does not see
 * @throws GatewayError `challenge_failed`, `challenge_unavailable` (after one retry, within 3 s),
 *   `misconfigured` with a dummy secret outside of local development
 */
export async function verifyChallenge(
  challenge: Challenge,
  deps: TurnstileDeps,
  refused: (reason: ChallengeRefusal) => void = () => {},
): Promise<void> {
  const reason = await refusalOf(challenge, deps)
  if (reason === null) return
  refused(reason)
  const code = refusals[reason]
  const retryAfterSeconds = code === 'challenge_unavailable' ? RETRY_AFTER_S : null
  throw new GatewayError(code, messages[code], { retryAfterSeconds })
}

/** Null: it was solved. */
async function refusalOf(
  challenge: Challenge,
  deps: TurnstileDeps,
): Promise<ChallengeRefusal | null> {
  const { token, hostnames, testSecretAllowed } = challenge
  const isTest = isTestSecret(deps.secret)
  if (isTest && !testSecretAllowed) return 'test_secret'
  if (token.length === 0 || token.length > MAX_TOKEN_CHARS) return 'bad_length'
  const answer = await ask(challenge, deps)
  if (typeof answer === 'string') return answer
  const errors = answer['error-codes']
  if (!answer.success) {
    if (errors.some((code) => code.endsWith('-input-secret'))) return 'secret_refused'
    return errors.includes('timeout-or-duplicate') ? 'spent_or_expired' : 'not_solved'
  }
  // With a dummy secret the answer is made up: the host is example.com, and there is no action.
  if (isTest) return null
  if (answer.metadata.result_with_testing_key) return 'dummy_token'
  const host = answer.hostname.toLowerCase()
  if (!hostnames.has('*') && (host === '' || !hostnames.has(host))) return 'other_host'
  // Without data-action the answer's action is missing or empty.
  return answer.action === '' || answer.action === CHALLENGE_ACTION ? null : 'other_action'
}

/** Asks once, and once more if siteverify failed rather than the visitor. */
async function ask(
  { token, address }: Challenge,
  deps: TurnstileDeps,
): Promise<Answer | ChallengeRefusal> {
  const { now, wait, newUuid } = deps
  const endsAt = now() + TOTAL_MS
  const body = JSON.stringify({
    secret: deps.secret.trim(),
    response: token,
    ...(address === null || address === '' ? {} : { remoteip: address }),
    // The same key both times: otherwise the first try would spend the token.
    idempotency_key: newUuid(),
  })
  // The body is part of the limit, even if `fetch` ignores the signal.
  const attempt = async (ms: number) =>
    await deadline(
      ms,
      (over) => call(body, deps, over),
      () => 'timeout' as const,
      wait,
    )
  const first = await attempt(FIRST_TRY_MS)
  if (typeof first !== 'string') return first
  await wait(PAUSE_MS, new AbortController().signal)
  return await attempt(Math.max(1, endsAt - now()))
}

async function call(
  body: string,
  { fetch }: TurnstileDeps,
  signal: AbortSignal,
): Promise<Answer | ChallengeRefusal> {
  const headers = { 'content-type': 'application/json' }
  const init = { method: 'POST', headers, body, redirect: 'manual', signal } as const
  let bytes: Uint8Array | null
  try {
    const response = await fetch(new Request(SITEVERIFY_URL, init))
    if (response.status >= 500) {
      response.body?.cancel().catch(() => {})
      return 'server_error'
    }
    bytes = response.body && (await readBytes(response.body.getReader(), MAX_ANSWER_BYTES))
  } catch {
    return 'unreachable'
  }
  const answer = parseJson(new TextDecoder().decode(bytes ?? undefined))
  const { success, output } = v.safeParse(answerSchema, answer)
  if (!success) return 'bad_answer'
  return !output.success && output['error-codes'].includes('internal-error')
    ? 'internal_error'
    : output
}
