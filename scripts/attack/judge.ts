// What must hold of every response, and of the day's budget, no matter what is sent.
import { codes } from '../../src/errors.ts'
import { statusOf } from '../../src/http/problem.ts'
import { codeIn } from '../operator/gateway.ts'
import type { Figures } from './figures.ts'
import type { Received } from './send.ts'
import type { Expectation, Shot } from './shot.ts'

/**
 * What is wrong with a response, for the owner.
 *
 * @param secrets texts that no response may have
 */
export function faultsOf(shot: Shot, received: Received, secrets: readonly string[]): string[] {
  // Without a response there is nothing to judge.
  if (received.status === 0) return []
  return [
    expectationFault(shot.expects, received),
    serverFault(received),
    readableFault(shot, received),
    refreshFault(shot, received),
    secretFault(received, secrets),
  ].filter((fault) => fault !== null)
}

function expectationFault(expects: Expectation, { status, text, how }: Received): string | null {
  const code = codeIn(text)
  const got = `got ${code === null ? status : `${status} ${code}`}`
  switch (expects) {
    case 'any':
      return null
    case 'origin refused': {
      // A HEAD or a connection that was cut off has no code.
      const isRefused = status === 403 && (code === 'origin_not_allowed' || how !== 'whole')
      return isRefused ? null : `another site's origin: expected 403 origin_not_allowed, ${got}`
    }
    case 'token refused':
      return status === 401 ? null : `without the operator's token: expected 401, ${got}`
    case 'refused':
      return status >= 400 ? null : `expected an error, ${got}`
    default:
      return expects satisfies never
  }
}

const known: ReadonlySet<string> = new Set(codes)

/** A 5xx is documented if it has a code that belongs to it; 500 is always a fault. */
function serverFault({ status, text, how }: Received): string | null {
  if (status < 500 || how !== 'whole') return null
  const code = codes.find((each) => each === codeIn(text))
  if (code !== undefined && known.has(code) && status !== 500 && statusOf(code) === status)
    return null
  return `undocumented ${status}${code === undefined ? '' : ` ${code}`}`
}

/** A page of another site may read one error only: that its origin is refused. */
function readableFault(
  { headers: sent, expects, method }: Shot,
  { headers, status, text }: Received,
) {
  const readable = headers.get('access-control-allow-origin')
  if (headers.has('access-control-allow-credentials')) return 'allows credentials'
  if (readable === null || method === 'OPTIONS') return null
  const isFault = status >= 400 && codeIn(text) === 'origin_not_allowed'
  if (readable !== sent['origin']) return `readable by ${readable}`
  return expects === 'origin refused' && !isFault ? 'readable by another site' : null
}

/** Only the operator may force a new answer, and a GET never causes one. */
function refreshFault({ method }: Shot, { headers, status }: Received): string | null {
  const cache = headers.get('cache-status') ?? ''
  if (/fwd=request/.test(cache)) return 'a visitor forced a new answer'
  const isNew = status === 200 && /fwd=miss/.test(cache)
  return method === 'GET' && isNew ? 'a GET caused a new answer' : null
}

/** The forms of keys that are known well enough not to be found in prose or in our ids. */
const KEY =
  /(?<![\w-])(?:sk-[\w-]{16,}|AKIA[A-Z0-9]{16}|AIza[\w-]{30,}|(?:gsk|hf|ghp|xai|r8)[_-]\w{20,})|Bearer [\w.-]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY/

function secretFault({ headers, text }: Received, secrets: readonly string[]): string | null {
  const all = `${[...headers].map((header) => header.join(': ')).join('\n')}\n${text}`
  if (secrets.some((secret) => all.includes(secret)))
    return 'a secret of the owner is in the response'
  return KEY.test(all) ? 'something like a key is in the response' : null
}

/** The tokens that were generated for a response, by its own usage; 0 for a shared or cached one. */
export function generatedTokens({ status, headers, text, how }: Received): number {
  const cache = headers.get('cache-status') ?? ''
  if (status !== 200 || how !== 'whole') return 0
  if (!/fwd=(?:miss|bypass)/.test(cache) || /collapsed/.test(cache)) return 0
  return Number([...text.matchAll(/"total_tokens":\s*(\d+)/g)].at(-1)?.[1] ?? 0)
}

export interface Day {
  readonly before: Figures
  /** While the attack ran, and after it. */
  readonly samples: readonly Figures[]
  /** The sum of `generatedTokens`. */
  readonly generated: number
}

/** What is wrong with the day's budget. */
export function budgetFaults({ before, samples, generated }: Day): string[] {
  const after = samples.at(-1)
  if (after === undefined) return ['GET /admin/usage did not answer after the attack']
  const sameDay = dayOf(before) === dayOf(after)
  const faults = samples.flatMap((each) => overBudget(before, each))
  const counted = after.spent + after.reserved - before.spent
  if (sameDay && after.spent < before.spent) faults.push('the tokens spent have decreased')
  if (sameDay && counted < generated) {
    faults.push(`answers report ${generated} tokens, and the budget counted ${counted}`)
  }
  return [...new Set(faults)]
}

const dayOf = ({ now }: Figures) => Math.floor(now / 86_400)

/** An owner may have lowered the budget below what was spent. Reports above a reservation count. */
function overBudget(before: Figures, now: Figures): string[] {
  const { spent, reserved, above, tokensPerDay, usdPerDay, usdSpent } = now
  const used = spent + reserved
  const faults: string[] = []
  if (used - above > Math.max(tokensPerDay, before.spent + before.reserved)) {
    faults.push(`spent and reserved ${used} tokens of a budget of ${tokensPerDay}`)
  }
  const usdLimit = Math.max(usdPerDay, before.usdSpent) + 1e-9
  if (usdPerDay > 0 && above === 0 && usdSpent > usdLimit) {
    faults.push(`spent $${usdSpent} of a budget of $${usdPerDay}`)
  }
  return faults
}
