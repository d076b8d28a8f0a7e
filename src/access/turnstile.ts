// Asks Cloudflare's siteverify whether a Turnstile challenge was solved, here and for this. Mints
// nothing; a stranger hears "failed" or "unavailable", the owner's log the reason.
// https://developers.cloudflare.com/turnstile/get-started/server-side-validation/
import * as v from 'valibot'
import { GatewayError } from '../errors.ts'
import { readBytes } from '../http/bytes.ts'

export interface TurnstileContext {
  readonly fetch: (request: Request) => Promise<Response>
  readonly now: () => number
  /** Rejects when the signal is aborted. */
  readonly wait: (ms: number, signal: AbortSignal) => Promise<void>
  readonly newUuid: () => string
}

export interface Challenge {
  /** What the widget gave the page. */
  readonly token: string
  /** The visitor's address, if it is known. */
  readonly address: string | null
  /** Where it may have been solved, in lower case; "*" for anywhere. */
  readonly hostnames: ReadonlySet<string>
  /** This is local development: Cloudflare's dummy secrets may be used. */
  readonly testSecretAllowed: boolean
}

/** Why a challenge did not count, for the log. */
export type ChallengeRefusal =
  | 'bad_length'
  | 'not_solved'
  | 'spent_or_expired'
  | 'other_host'
  | 'other_action'
  | 'dummy_token'
  | 'test_secret'
  | 'secret_refused'
  | 'unreachable'
  | 'timeout'
  | 'server_error'
  | 'bad_answer'
  | 'internal_error'

/** The widget's `data-action`: a challenge solved for something else does not count here. */
export const CHALLENGE_ACTION = 'visitor'
export const SITEVERIFY_URL = 'https://challenges.cloudflare.com/turnstile/v0/siteverify'

const MAX_TOKEN_CHARS = 2048
/** Both tries and the pause between them. */
const TOTAL_MS = 3000
const FIRST_TRY_MS = 1400
const PAUSE_MS = 100
const MAX_ANSWER_BYTES = 16_384
const RETRY_AFTER_S = 10

/** siteverify's answer; what else it holds is of no use here. */
const answerSchema = v.object({
  success: v.boolean(),
  hostname: v.nullish(v.string(), ''),
  action: v.nullish(v.string(), ''),
  'error-codes': v.nullish(v.array(v.string()), []),
  metadata: v.nullish(v.object({ result_with_testing_key: v.nullish(v.boolean(), false) }), {}),
})

type Answer = v.InferOutput<typeof answerSchema>

/** Worth a second try, and if that fails, too, no fault of the visitor's. */
type Outage = Extract<
  ChallengeRefusal,
  'unreachable' | 'timeout' | 'server_error' | 'bad_answer' | 'internal_error'
>

/** One of Cloudflare's dummy secrets (1x… passes, 2x… fails, 3x… is spent), which anybody can use. */
export function isTestSecret(secret: string): boolean {
  return /^\s*\dx0{16,}[A-Z]{2}\s*$/i.test(secret)
}

export class Turnstile {
  readonly #secret: string
  readonly #context: TurnstileContext

  constructor(secret: string, context: TurnstileContext) {
    this.#secret = secret.trim()
    this.#context = context
  }

  /**
   * Returns if the challenge was solved, for this action and on one of the hosts. It is spent then.
   *
   * @param refused hears the exact reason, which the visitor does not
   * @throws GatewayError `challenge_failed`, `challenge_unavailable` (after one more try, within 3 s),
   *   `misconfigured` with a test secret where there is no test
   */
  async verify(
    challenge: Challenge,
    refused: (reason: ChallengeRefusal) => void = () => {},
  ): Promise<void> {
    const refuse = (reason: ChallengeRefusal): GatewayError => {
      refused(reason)
      return errorOf(reason)
    }
    const { token, testSecretAllowed } = challenge
    if (isTestSecret(this.#secret) && !testSecretAllowed) throw refuse('test_secret')
    if (token.length === 0 || token.length > MAX_TOKEN_CHARS) throw refuse('bad_length')
    const answer = await this.#ask(challenge)
    const reason = typeof answer === 'string' ? answer : this.#judge(answer, challenge)
    if (reason !== null) throw refuse(reason)
  }

  #judge(answer: Answer, { hostnames }: Challenge): ChallengeRefusal | null {
    const said = answer['error-codes']
    if (!answer.success) {
      if (said.some((code) => code.endsWith('-input-secret'))) return 'secret_refused'
      return said.includes('timeout-or-duplicate') ? 'spent_or_expired' : 'not_solved'
    }
    // Under a dummy secret the answer is made up: it names example.com, and no action.
    if (isTestSecret(this.#secret)) return null
    if (answer.metadata.result_with_testing_key) return 'dummy_token'
    const host = answer.hostname.toLowerCase()
    if (!hostnames.has('*') && (host === '' || !hostnames.has(host))) return 'other_host'
    // A widget without data-action leaves it out or empty.
    return answer.action === '' || answer.action === CHALLENGE_ACTION ? null : 'other_action'
  }

  async #ask(challenge: Challenge): Promise<Answer | Outage> {
    const { now, wait, newUuid } = this.#context
    const endsAt = now() + TOTAL_MS
    // The same key both times, or the second try would find the token spent by the first.
    const body = this.#body(challenge, newUuid())
    const first = await this.#try(body, FIRST_TRY_MS)
    if (typeof first !== 'string') return first
    await wait(PAUSE_MS, new AbortController().signal)
    return await this.#try(body, Math.max(1, endsAt - now()))
  }

  #body({ token, address }: Challenge, idempotencyKey: string): string {
    return JSON.stringify({
      secret: this.#secret,
      response: token,
      ...(address === null || address === '' ? {} : { remoteip: address }),
      idempotency_key: idempotencyKey,
    })
  }

  /** One call, its body included, in so much time whatever `fetch` makes of the signal. */
  async #try(body: string, patienceMs: number): Promise<Answer | Outage> {
    const answered = new AbortController()
    const late = new AbortController()
    const timeout = this.#context.wait(patienceMs, answered.signal).then(
      () => 'timeout' as const,
      () => 'timeout' as const,
    )
    try {
      return await Promise.race([this.#call(body, late.signal), timeout])
    } finally {
      answered.abort()
      late.abort()
    }
  }

  async #call(body: string, signal: AbortSignal): Promise<Answer | Outage> {
    let text: string | null
    try {
      const request = new Request(SITEVERIFY_URL, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body,
        redirect: 'manual',
        signal,
      })
      const response = await this.#context.fetch(request)
      if (response.status >= 500) {
        response.body?.cancel().catch(() => {})
        return 'server_error'
      }
      text = await readText(response)
    } catch {
      return 'unreachable'
    }
    const { success, output } = v.safeParse(answerSchema, parse(text))
    if (!success) return 'bad_answer'
    return !output.success && output['error-codes'].includes('internal-error')
      ? 'internal_error'
      : output
  }
}

/** The body, or null if it is longer than any answer of siteverify. */
async function readText({ body }: Response): Promise<string | null> {
  if (body === null) return null
  const bytes = await readBytes(body.getReader(), MAX_ANSWER_BYTES)
  return bytes === null ? null : new TextDecoder().decode(bytes)
}

function parse(text: string | null): unknown {
  try {
    return text === null ? null : JSON.parse(text)
  } catch {
    return null
  }
}

function errorOf(reason: ChallengeRefusal): GatewayError {
  switch (reason) {
    case 'bad_length':
    case 'not_solved':
    case 'spent_or_expired':
    case 'other_host':
    case 'other_action':
    case 'dummy_token':
      return new GatewayError(
        'challenge_failed',
        'Cannot accept this challenge: solve a new one and send its token at once',
      )
    case 'test_secret':
      return new GatewayError(
        'misconfigured',
        'This endpoint is misconfigured. The owner can see what to fix at GET /health.',
      )
    case 'secret_refused':
    case 'unreachable':
    case 'timeout':
    case 'server_error':
    case 'bad_answer':
    case 'internal_error':
      return new GatewayError(
        'challenge_unavailable',
        'Cannot check the challenge now: try again in a moment with a new one',
        { retryAfterSeconds: RETRY_AFTER_S },
      )
  }
  return reason satisfies never
}
